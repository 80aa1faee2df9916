//! Changes without bytes: attributes, names, removal.

use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use node::namespace::AttributeChange;
use node::{Condition, Removal, Target};
use proto::path::FsPath;
use proto::port::Disk;

use super::body::ResponseBody;
use super::error::ApiError;
use super::headers::attribute_change;
use super::idempotency::Once;
use super::object::entry;
use super::query::Query;
use super::read::name_of;
use super::versions::version;
use super::{Answer, App, condition, json};

impl<D: Disk> App<D> {
    /// Judges the conditions of a change of an object that must exist.
    ///
    /// # Errors
    /// 400 `bad_header`; 412 `precondition_failed` if the condition does not hold.
    pub(crate) async fn condition(&self, target: &Target, head: &Parts, once: &Once) -> Result<Condition, ApiError> {
        if !condition::are_given(&head.headers) {
            return Ok(Condition::Any);
        }
        let current = self.0.node.stat(target.clone()).await.ok();
        condition::of_change(&head.headers, current.as_ref(), once)
    }

    /// `PATCH`: sets the attributes that are there; user metadata as a whole.
    pub(crate) async fn patch(&self, path: &FsPath, query: Query, head: &Parts) -> Answer {
        query.finish()?;
        let (change, once) = (attribute_change(&head.headers)?, self.once(head)?);
        if change == AttributeChange::default() {
            return Err(ApiError::bad_header(
                "x-dfs-mode",
                "give it, x-dfs-mtime-ns, content-type or some x-meta-NAME to change",
            ));
        }
        let target = Target::Path(path.clone());
        let condition = self.condition(&target, head, &once).await?;
        let changed = self.0.node.set_attributes_if(target, change, condition, once.session()).await;
        Ok(json(StatusCode::OK, &entry(&changed.map_err(|error| ApiError::from(error).about(path))?)))
    }

    /// `POST` of a path: moves an object, or brings a version back.
    pub(crate) async fn post(&self, path: &FsPath, mut query: Query, head: &Parts) -> Answer {
        match version(&mut query, "restore")? {
            Some(version) => self.restore(path, version, query, head).await,
            None => self.rename(path, query, head).await,
        }
    }

    /// `POST …?rename_to=PATH`: moves an object.
    async fn rename(&self, path: &FsPath, mut query: Query, head: &Parts) -> Answer {
        condition::none(&head.headers)?;
        let to = query.text("rename_to")?;
        let missing = || ApiError::bad_query("a POST of a path needs 'rename_to' or 'restore'; to upload use PUT");
        let to = to.ok_or_else(missing)?;
        let to = FsPath::parse(&to).map_err(|error| ApiError::bad_path(format!("'rename_to': {error}")))?;
        let replace = query.flag("replace")?;
        query.finish()?;
        let once = self.once(head)?;
        let renamed = self.0.node.rename(path.clone(), to.clone(), replace, once.session()).await;
        let about = |error| ApiError::from(error).about(format_args!("{path} to {to}"));
        Ok(json(StatusCode::OK, &entry(&renamed.map_err(about)?)))
    }

    /// `DELETE` of any object, or of the retention of a directory, by path or id.
    pub(crate) async fn delete(&self, target: &Target, mut query: Query, head: &Parts) -> Answer {
        if query.flag("retention")? {
            return self.delete_retention(target, query, head).await;
        }
        let how = if query.flag("recursive")? { Removal::Recursive } else { Removal::Single };
        query.finish()?;
        let once = self.once(head)?;
        let condition = self.condition(target, head, &once).await?;
        let removed = self.0.node.remove_if(target.clone(), how, condition, once.session()).await;
        removed.map_err(|error| ApiError::from(error).about(name_of(target)))?;
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }
}
