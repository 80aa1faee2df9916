//! The path of a download, and listings.

use futures_util::{StreamExt, stream};
use hyper::header::{CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, RANGE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Response, StatusCode};
use node::{FileInfo, FileReadError, FileReader, Target};
use proto::VersionNumber;
use proto::api::{FragmentInfo, Kind, Listing};
use proto::limits::{LIST_PAGE_ENTRIES_DEFAULT, LIST_PAGE_ENTRIES_MAX};
use proto::port::Disk;

use super::body::{BodyError, FileStream, ResponseBody};
use super::condition::{ReadCondition, of_read, range_holds};
use super::error::ApiError;
use super::object::{cursor, describe, entry, name_of_cursor};
use super::query::Query;
use super::range::{Selection, select};
use super::versions::version;
use super::{Answer, App, json};

/// Bytes that are read and verified before the head of an answer is sent: short answers fail plainly or not at all.
const CHECKED_FIRST_BYTES: usize = 256 << 10;
/// What a symlink's target is made of.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// How a target is called in messages.
pub(crate) fn name_of(target: &Target) -> String {
    match target {
        Target::Path(path) => path.to_string(),
        Target::Id(id) => id.to_string(),
    }
}

impl<D: Disk> App<D> {
    /// `GET` and `HEAD` of any object, by path or id.
    pub(crate) async fn get(&self, target: &Target, mut query: Query, head: &Parts) -> Answer {
        let stat = query.flag("stat")?;
        if query.flag("versions")? {
            return self.versions(target, query).await;
        }
        if query.flag("retention")? {
            return self.retention(target, query).await;
        }
        let is_about_fragments = query.flag("fragments")?;
        let asked = version(&mut query, "version")?;
        if is_about_fragments {
            query.finish()?;
            return self.fragments(target, asked).await;
        }
        let info = match asked {
            Some(version) => self.0.node.stat_version(target.clone(), version).await,
            None => self.0.node.stat(target.clone()).await,
        };
        let info = info.map_err(|error| ApiError::from(error).about(name_of(target)))?;
        let response = match info.kind() {
            _ if stat => {
                query.finish()?;
                json(StatusCode::OK, &entry(&info))
            }
            Kind::Directory => described(self.list(target, query).await?, &info),
            Kind::Symlink => {
                query.finish()?;
                let to = info.inode.symlink_target().unwrap_or_default().to_owned();
                let mut response = described(Response::new(ResponseBody::whole(to)), &info);
                response.headers_mut().insert(CONTENT_TYPE, OCTETS);
                response
            }
            Kind::File => {
                query.finish()?;
                self.download(&info, asked, head).await?
            }
        };
        Ok(response)
    }

    /// `GET …?fragments`: how scattered a version lies.
    async fn fragments(&self, target: &Target, asked: Option<VersionNumber>) -> Answer {
        let opened = match asked {
            Some(version) => self.0.node.open_version(target.clone(), version).await,
            None => self.0.node.open_file(target.clone()).await,
        };
        let reader = opened.map_err(|error| ApiError::from(error).about(name_of(target)))?;
        let (path, version, size) = (reader.info().path.clone(), reader.info().version().0, reader.info().size());
        let counted = reader.fragments().await.map_err(|error| self.refuse_read(error))?;
        let node::Fragments { chunks, fragments } = counted;
        Ok(json(StatusCode::OK, &FragmentInfo { path, version, size, chunks, fragments }))
    }

    /// One page of a directory.
    async fn list(&self, target: &Target, mut query: Query) -> Answer {
        let limit = query.number("limit", LIST_PAGE_ENTRIES_MAX)?.unwrap_or(LIST_PAGE_ENTRIES_DEFAULT);
        let bad_cursor = || ApiError::bad_query("'cursor' is not a 'next_cursor' of a listing");
        let after = query.text("cursor")?.map(|cursor| name_of_cursor(&cursor).ok_or_else(bad_cursor)).transpose()?;
        query.finish()?;
        let page = self.0.node.list(target.clone(), after, limit).await;
        let page = page.map_err(|error| ApiError::from(error).about(name_of(target)))?;
        let next_cursor = page.next_after.as_deref().map(cursor);
        let entries = page.entries.iter().map(entry).collect();
        Ok(json(StatusCode::OK, &Listing { path: page.path, entries, next_cursor }))
    }

    /// The bytes of the file that `info` describes, at the version that was asked for or the one that is current when
    /// it is opened, or a range of them.
    async fn download(&self, info: &FileInfo, asked: Option<VersionNumber>, head: &Parts) -> Answer {
        // By id: these bytes, or none. And not by the version that was current when somebody looked: a retention may
        // have let it go since, and nobody asked for it.
        let opened = match asked {
            Some(version) => self.0.node.open_version(Target::Id(info.id), version).await,
            None => self.0.node.open_file(Target::Id(info.id)).await,
        };
        let mut reader = opened.map_err(|error| ApiError::from(error).about(&info.path))?;
        let (etag, size) = (reader.info().etag(), reader.info().size());
        if of_read(&head.headers, reader.info())? == ReadCondition::NotModified {
            let mut response = Response::new(ResponseBody::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().insert(ETAG, HeaderValue::from_str(&etag).expect("invariant: tags are ASCII"));
            return Ok(response);
        }
        // Only a GET has ranges, and one header of them.
        let mut asked = head.headers.get_all(RANGE).iter();
        let asked = asked.next().filter(|_| asked.next().is_none());
        let asked = asked.filter(|_| head.method == Method::GET && range_holds(&head.headers, &etag));
        let (status, range) = match select(asked.map(HeaderValue::as_bytes), size) {
            Selection::Whole => (StatusCode::OK, 0..size),
            Selection::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Selection::Unsatisfiable => return Err(ApiError::unsatisfiable(size).about(&reader.info().path)),
        };
        let mut headers = HeaderMap::new();
        describe(reader.info(), &mut headers);
        if status == StatusCode::PARTIAL_CONTENT {
            let part = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            headers.insert(CONTENT_RANGE, HeaderValue::from_str(&part).expect("invariant: numbers are ASCII"));
        }
        let bytes = range.end - range.start;
        let body = if head.method == Method::HEAD {
            // Nothing polls it: its length is all that is wanted.
            ResponseBody::file(stream::pending().boxed_local(), bytes)
        } else {
            reader.restrict(range);
            ResponseBody::file(self.stream(reader).await?, bytes)
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// Reads the first bytes, so that damage there is still a plain answer; the rest follows as it is sent.
    async fn stream(&self, mut reader: FileReader<D>) -> Result<FileStream, ApiError> {
        let (mut first, mut first_bytes) = (Vec::new(), 0);
        while first_bytes < CHECKED_FIRST_BYTES {
            match reader.next().await {
                None => break,
                Some(Err(error)) => return Err(self.refuse_read(error)),
                Some(Ok(bytes)) => {
                    first_bytes += bytes.len();
                    first.push(Ok(bytes));
                }
            }
        }
        let app = self.clone();
        let rest = stream::unfold(Some(reader), move |reader| {
            let app = app.clone();
            async move {
                let mut reader = reader?;
                Some(match reader.next().await? {
                    Ok(bytes) => (Ok(bytes), Some(reader)),
                    Err(error) => (Err(BodyError(app.refuse_read(error).message)), None),
                })
            }
        });
        Ok(stream::iter(first).chain(rest).boxed_local())
    }

    /// Translates a failed read, and tells the operator if bytes are damaged.
    fn refuse_read(&self, error: FileReadError) -> ApiError {
        if matches!(error, FileReadError::Damaged { .. }) {
            self.0.peer.metrics.damaged_read();
            crate::report!("error: {error}");
        }
        ApiError::from(error)
    }
}

/// Adds what describes the object.
fn described(mut response: Response<ResponseBody>, info: &FileInfo) -> Response<ResponseBody> {
    describe(info, response.headers_mut());
    response
}
