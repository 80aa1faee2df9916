//! The versions of a file: listed, and brought back.

use hyper::StatusCode;
use hyper::header::{ETAG, HeaderValue};
use hyper::http::request::Parts;
use node::{Target, VersionInfo};
use proto::VersionNumber;
use proto::api::{VersionEntry, VersionList};
use proto::limits::{LIST_PAGE_ENTRIES_DEFAULT, LIST_PAGE_ENTRIES_MAX};
use proto::path::FsPath;
use proto::port::{Disk, runtime};

use super::date::rfc3339;
use super::error::ApiError;
use super::object::entry;
use super::query::Query;
use super::read::name_of;
use super::{Answer, App, json};

/// Takes the number of a version.
pub(crate) fn version(query: &mut Query, name: &str) -> Result<Option<VersionNumber>, ApiError> {
    Ok(query.number(name, usize::MAX)?.map(|number| VersionNumber(number as u64)))
}

impl<D: Disk> App<D> {
    /// `GET …?versions`: one page of them, newest first.
    pub(crate) async fn versions(&self, target: &Target, mut query: Query) -> Answer {
        let limit = query.number("limit", LIST_PAGE_ENTRIES_MAX)?.unwrap_or(LIST_PAGE_ENTRIES_DEFAULT);
        let after = version(&mut query, "after")?;
        query.finish()?;
        let page = self.0.node.versions(target.clone(), after, limit).await;
        let page = page.map_err(|error| ApiError::from(error).about(name_of(target)))?;
        let now_ns = runtime::unix_ns();
        let shown = |version: &VersionInfo| VersionEntry {
            entry: entry(&version.info),
            expires_at: version.lets_go_at_ns.filter(|at| *at > 0).map(rfc3339),
            expired: version.lets_go_at_ns.is_some_and(|at| at <= now_ns),
        };
        let versions = page.versions.iter().map(shown).collect();
        let next_after = page.next_after.map(|version| version.0);
        Ok(json(StatusCode::OK, &VersionList { path: page.path, versions, next_after }))
    }

    /// `POST …?restore=VERSION`: makes an earlier version the next one.
    pub(crate) async fn restore(&self, path: &FsPath, of: VersionNumber, query: Query, head: &Parts) -> Answer {
        query.finish()?;
        let once = self.once(head)?;
        let condition = self.condition(&Target::Path(path.clone()), head, &once).await?;
        let restored = self.0.node.restore(path.clone(), of, condition, once.session()).await;
        let info = restored.map_err(|error| ApiError::from(error).about(path))?;
        let mut response = json(StatusCode::OK, &entry(&info));
        let etag = HeaderValue::from_str(&info.etag()).expect("invariant: tags are ASCII");
        response.headers_mut().insert(ETAG, etag);
        Ok(response)
    }
}
