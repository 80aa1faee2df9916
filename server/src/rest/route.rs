//! From the path of a request to what it is about.

use proto::FileId;
use proto::path::FsPath;

use super::error::ApiError;
use super::text;

/// Which call a path belongs to; its arguments are not looked at yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Health,
    Ready,
    Metrics,
    Stats,
    Gc,
    GcRun,
    Events,
    /// All files.
    Files,
    /// One file, by id.
    File(&'a str),
    /// One object, by its raw path.
    Path(&'a str),
    Unknown(&'a str),
}

/// What an authorised request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Stats,
    Gc,
    GcRun,
    Events,
    Files,
    File(FileId),
    Path(FsPath),
}

impl<'a> Route<'a> {
    /// Finds the route of a raw path.
    pub(crate) fn of(path: &'a str) -> Route<'a> {
        match path {
            "/healthz" => return Route::Health,
            "/readyz" => return Route::Ready,
            "/metrics" => return Route::Metrics,
            "/api/v1/stats" => return Route::Stats,
            "/api/v1/gc" => return Route::Gc,
            "/api/v1/gc/run" => return Route::GcRun,
            "/api/v1/events" => return Route::Events,
            "/api/v1/files" => return Route::Files,
            "/api/v1/fs" => return Route::Path("/"),
            _ => {}
        }
        if let Some(id) = path.strip_prefix("/api/v1/files/") {
            return Route::File(id);
        }
        match path.strip_prefix("/api/v1/fs") {
            Some(raw) if raw.starts_with('/') => Route::Path(raw),
            _ => Route::Unknown(path),
        }
    }

    /// Its name in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Route::Health => "healthz",
            Route::Ready => "readyz",
            Route::Metrics => "metrics",
            Route::Stats => "stats",
            Route::Gc => "gc",
            Route::GcRun => "gc_run",
            Route::Events => "events",
            Route::Files => "files",
            Route::File(_) => "file",
            Route::Path(_) => "fs",
            Route::Unknown(_) => "other",
        }
    }

    /// Reads the arguments in the path.
    ///
    /// # Errors
    /// 400 `bad_id`, 400 `bad_path`, 404 for calls that do not exist.
    pub(crate) fn resource(self) -> Result<Resource, ApiError> {
        match self {
            Route::Stats => Ok(Resource::Stats),
            Route::Gc => Ok(Resource::Gc),
            Route::GcRun => Ok(Resource::GcRun),
            Route::Events => Ok(Resource::Events),
            Route::Files => Ok(Resource::Files),
            Route::File(id) => FileId::parse(id).map(Resource::File).ok_or_else(ApiError::bad_id),
            // What stands between us and the client may have read it as part of a name, and have checked another path.
            Route::Path(raw) if has_encoded_slash(raw) => {
                Err(ApiError::bad_path("a name cannot hold a '/'; send the slashes between names as they are"))
            }
            Route::Path(raw) => text::path(raw.as_bytes()).map(Resource::Path),
            Route::Unknown(path) => Err(ApiError::no_such_call(path)),
            Route::Health | Route::Ready | Route::Metrics => {
                unreachable!("invariant: these are answered before anything is authorised")
            }
        }
    }
}

fn has_encoded_slash(raw: &str) -> bool {
    raw.as_bytes().windows(3).any(|three| three.eq_ignore_ascii_case(b"%2f"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Resource {
        Resource::Path(FsPath::parse(text).unwrap())
    }

    #[test]
    fn paths_lead_to_their_calls() {
        let resource = |raw: &str| Route::of(raw).resource();
        assert_eq!(resource("/api/v1/fs"), Ok(path("/")));
        assert_eq!(resource("/api/v1/fs/"), Ok(path("/")));
        assert_eq!(resource("/api/v1/fs/a%20b/c"), Ok(path("/a b/c")));
        assert_eq!(resource("/api/v1/fs//a/"), Ok(path("/a")));
        assert_eq!(resource("/api/v1/files"), Ok(Resource::Files));
        assert_eq!(resource("/api/v1/stats"), Ok(Resource::Stats));
        assert_eq!(resource("/api/v1/gc"), Ok(Resource::Gc));
        assert_eq!(resource("/api/v1/gc/run"), Ok(Resource::GcRun));
        assert_eq!(resource("/api/v1/events"), Ok(Resource::Events));
        let id = "11223344-5566-8303-9de2-04c8ccd0d4d8";
        let file = Resource::File(FileId::parse(id).unwrap());
        assert_eq!(resource(&format!("/api/v1/files/{id}")), Ok(file));
        assert_eq!((Route::of("/healthz"), Route::of("/metrics").label()), (Route::Health, "metrics"));
    }

    #[test]
    fn other_paths_are_refused() {
        for (raw, status, code) in [
            ("/", 404, "not_found"),
            ("/api/v1/fsx", 404, "not_found"),
            ("/api/v2/fs/a", 404, "not_found"),
            ("/healthz/", 404, "not_found"),
            ("/api/v1/gc/", 404, "not_found"),
            ("/api/v1/files/", 400, "bad_id"),
            ("/api/v1/files/x", 400, "bad_id"),
            ("/api/v1/files/11223344-5566-4303-9de2-04c8ccd0d4d8", 400, "bad_id"),
            ("/api/v1/fs/a/%2e%2e", 400, "bad_path"),
            ("/api/v1/fs/a%2fb", 400, "bad_path"),
            ("/api/v1/fs/a%2Fb", 400, "bad_path"),
        ] {
            let error = Route::of(raw).resource().unwrap_err();
            assert_eq!((error.status.as_u16(), error.code), (status, code), "{raw}");
        }
    }
}
