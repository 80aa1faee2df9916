//! The path of an upload, and the other things that a `PUT` makes.
//!
//! Until the body was read to its end, nothing is visible: a client that breaks off leaves nothing behind.

use hyper::header::{CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderValue, LOCATION};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use meta::MetaError;
use node::{FileInfo, PutOptions, Target};
use proto::api::{Kind, header};
use proto::limits::SYMLINK_BYTES_MAX;
use proto::path::FsPath;
use proto::port::Disk;

use super::body::{RequestBody, ResponseBody, next_bytes, read_short};
use super::condition;
use super::error::ApiError;
use super::headers::{attributes, attributes_without_type, single};
use super::object::entry;
use super::query::Query;
use super::text;
use super::{Answer, App, json};

/// Whether a call made the name or found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Created,
    NewVersion,
}

impl<D: Disk> App<D> {
    /// `POST /api/v1/files`: the path is in a header.
    pub(crate) async fn post_file(&self, head: &Parts, body: &mut RequestBody) -> Answer {
        let raw = single(&head.headers, header::FILE_PATH)?;
        let missing = || ApiError::bad_header(header::FILE_PATH, "it is missing; it holds the path, percent-encoded");
        let path = text::path(raw.ok_or_else(missing)?)?;
        let (info, _) = self.upload(path, head, body).await?;
        Ok(created(StatusCode::CREATED, &info))
    }

    /// `PUT /api/v1/fs/PATH`: a file, or what `type` says; or the retention of a directory.
    pub(crate) async fn put(&self, path: FsPath, mut query: Query, head: &Parts, body: &mut RequestBody) -> Answer {
        if query.flag("retention")? {
            return self.put_retention(path, query, head, body).await;
        }
        let kind = query.text("type")?;
        query.finish()?;
        match kind.as_deref() {
            None | Some("file") => {
                let (info, outcome) = self.upload(path, head, body).await?;
                let status = if outcome == Outcome::Created { StatusCode::CREATED } else { StatusCode::OK };
                Ok(created(status, &info))
            }
            Some("directory") => self.make_directory(&path, head, body).await,
            Some("symlink") => self.make_symlink(&path, head, body).await,
            Some(_) => Err(ApiError::bad_query("the parameter 'type' is file, directory or symlink")),
        }
    }

    /// Streams the body into a new file or version.
    async fn upload(
        &self,
        path: FsPath,
        head: &Parts,
        body: &mut RequestBody,
    ) -> Result<(FileInfo, Outcome), ApiError> {
        let about = path.to_string();
        self.stream_in(path, head, body).await.map_err(|error| error.about(about))
    }

    async fn stream_in(
        &self,
        path: FsPath,
        head: &Parts,
        body: &mut RequestBody,
    ) -> Result<(FileInfo, Outcome), ApiError> {
        if head.headers.contains_key(CONTENT_ENCODING) {
            return Err(ApiError::unsupported_encoding());
        }
        if head.headers.contains_key(CONTENT_RANGE) {
            let message = "a file is written in whole; an upload cannot be resumed in the middle";
            return Err(ApiError::bad_header("content-range", message));
        }
        let mut once = self.once(head)?;
        let current = self.0.node.stat(Target::Path(path.clone())).await;
        if !once.may_be_repeated() {
            check_name(&current)?;
        }
        let current = current.ok();
        let condition = condition::of_put(&head.headers, current.as_ref(), &once)?;
        let options = PutOptions { attributes: attributes(&head.headers)?, condition, session: None };
        let mut writer = self.0.node.create(path, options)?;
        while let Some(bytes) = next_bytes(body).await? {
            self.0.peer.metrics.received(bytes.len());
            once.saw(&bytes);
            writer.write(&bytes).await?;
        }
        if let Some(session) = once.session() {
            writer.set_session(session);
        }
        let committed = writer.finish().await?;
        let outcome = if committed.created { Outcome::Created } else { Outcome::NewVersion };
        Ok((committed.info, outcome))
    }

    async fn make_directory(&self, path: &FsPath, head: &Parts, body: &mut RequestBody) -> Answer {
        condition::none(&head.headers)?;
        let (attributes, once) = (attributes_without_type(&head.headers)?, self.once(head)?);
        read_short(body, 0, "a directory").await?;
        let made = self.0.node.make_directory(path.clone(), attributes, once.session()).await;
        Ok(created(StatusCode::CREATED, &made.map_err(|error| ApiError::from(error).about(path))?))
    }

    async fn make_symlink(&self, path: &FsPath, head: &Parts, body: &mut RequestBody) -> Answer {
        condition::none(&head.headers)?;
        let (attributes, mut once) = (attributes_without_type(&head.headers)?, self.once(head)?);
        let target = read_short(body, SYMLINK_BYTES_MAX, "the target of a symlink").await?;
        once.saw(&target);
        let target = String::from_utf8(target).ok().filter(|target| !target.is_empty() && !target.contains('\0'));
        let bad = || ApiError::bad_body("the body is where the symlink points: UTF-8 without NUL, not empty");
        let target = target.ok_or_else(bad)?;
        let made = self.0.node.make_symlink(path.clone(), target, attributes, once.session()).await;
        Ok(created(StatusCode::CREATED, &made.map_err(|error| ApiError::from(error).about(path))?))
    }
}

/// Refuses a name that no file can take now; the commit would, but only when the whole body has been sent.
fn check_name(current: &Result<FileInfo, MetaError>) -> Result<(), MetaError> {
    match current.as_ref().map(FileInfo::kind) {
        Ok(Kind::File) | Err(MetaError::NotFound) => Ok(()),
        Ok(Kind::Directory) => Err(MetaError::IsADirectory),
        Ok(Kind::Symlink) => Err(MetaError::AlreadyExists),
        Err(error) => Err(error.clone()),
    }
}

/// The answer to a call that made or changed an object.
fn created(status: StatusCode, info: &FileInfo) -> Response<ResponseBody> {
    let mut response = json(status, &entry(info));
    let ascii = |text: String| HeaderValue::from_str(&text).expect("invariant: ids and tags are ASCII");
    if info.kind() == Kind::File {
        response.headers_mut().insert(ETAG, ascii(info.etag()));
    }
    if status == StatusCode::CREATED {
        response.headers_mut().insert(LOCATION, ascii(format!("/api/v1/files/{}", info.id)));
    }
    response
}
