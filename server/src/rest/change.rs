//! Changes without bytes: attributes, names, removal.

use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use node::namespace::AttributeChange;
use node::{Removal, Target};
use proto::path::FsPath;
use proto::port::Disk;

use super::body::ResponseBody;
use super::error::ApiError;
use super::headers::{attribute_change, session};
use super::object::entry;
use super::query::Query;
use super::read::name_of;
use super::{Answer, App, condition, json};

impl<D: Disk> App<D> {
    /// `PATCH`: sets the attributes that are there; user metadata as a whole.
    pub(crate) async fn patch(&self, path: &FsPath, query: Query, head: &Parts) -> Answer {
        query.finish()?;
        condition::none(&head.headers)?;
        let (change, session) = (attribute_change(&head.headers)?, session(&head.headers)?);
        if change == AttributeChange::default() {
            return Err(ApiError::bad_header("x-dfs-mode", "give it, x-dfs-mtime-ns or some x-meta-NAME to change"));
        }
        let changed = self.0.node.set_attributes(Target::Path(path.clone()), change, session).await;
        Ok(json(StatusCode::OK, &entry(&changed.map_err(|error| ApiError::from(error).about(path))?)))
    }

    /// `POST …?rename_to=PATH`: moves an object.
    pub(crate) async fn rename(&self, path: &FsPath, mut query: Query, head: &Parts) -> Answer {
        condition::none(&head.headers)?;
        let to = query.text("rename_to")?;
        let missing = || ApiError::bad_query("a POST of a path needs 'rename_to'; to upload use PUT");
        let to = to.ok_or_else(missing)?;
        let to = FsPath::parse(&to).map_err(|error| ApiError::bad_path(format!("'rename_to': {error}")))?;
        let replace = query.flag("replace")?;
        query.finish()?;
        let renamed = self.0.node.rename(path.clone(), to.clone(), replace, session(&head.headers)?).await;
        let about = |error| ApiError::from(error).about(format_args!("{path} to {to}"));
        Ok(json(StatusCode::OK, &entry(&renamed.map_err(about)?)))
    }

    /// `DELETE` of any object, by path or id.
    pub(crate) async fn delete(&self, target: &Target, mut query: Query, head: &Parts) -> Answer {
        condition::none(&head.headers)?;
        let how = if query.flag("recursive")? { Removal::Recursive } else { Removal::Single };
        query.finish()?;
        let removed = self.0.node.remove(target.clone(), how, session(&head.headers)?).await;
        removed.map_err(|error| ApiError::from(error).about(name_of(target)))?;
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }
}
