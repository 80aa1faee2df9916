//! Which earlier versions stay: the retention of a directory, read, set and cleared.

use hyper::StatusCode;
use hyper::http::request::Parts;
use node::{Retention, RetentionInfo, Target};
use proto::api;
use proto::path::FsPath;
use proto::port::Disk;

use super::body::{RequestBody, read_short};
use super::error::ApiError;
use super::idempotency::Once;
use super::query::Query;
use super::read::name_of;
use super::{Answer, App, json};

/// Bytes of the JSON of a retention.
const RETENTION_BYTES_MAX: usize = 4096;
const SECOND_NS: u64 = 1_000_000_000;

impl<D: Disk> App<D> {
    /// `GET …?retention` of any object.
    pub(crate) async fn retention(&self, target: &Target, query: Query) -> Answer {
        query.finish()?;
        let info = self.0.node.retention(target.clone()).await;
        Ok(json(StatusCode::OK, &shown(info.map_err(|error| ApiError::from(error).about(name_of(target)))?)))
    }

    /// `PUT …?retention` of a directory.
    pub(crate) async fn put_retention(
        &self,
        path: FsPath,
        query: Query,
        head: &Parts,
        body: &mut RequestBody,
    ) -> Answer {
        query.finish()?;
        let mut once = self.once(head)?;
        let text = read_short(body, RETENTION_BYTES_MAX, "a retention").await?;
        once.saw(&text);
        let retention = parse(&text)?;
        self.set_retention(&Target::Path(path), Some(retention), head, &once).await
    }

    /// `DELETE …?retention` of a directory.
    pub(crate) async fn delete_retention(&self, target: &Target, query: Query, head: &Parts) -> Answer {
        query.finish()?;
        let once = self.once(head)?;
        self.set_retention(target, None, head, &once).await
    }

    async fn set_retention(&self, target: &Target, retention: Option<Retention>, head: &Parts, once: &Once) -> Answer {
        let condition = self.condition(target, head, once).await?;
        let set = self.0.node.set_retention(target.clone(), retention, condition, once.session()).await;
        Ok(json(StatusCode::OK, &shown(set.map_err(|error| ApiError::from(error).about(name_of(target)))?)))
    }
}

/// The JSON shape of what is known of an object's retention.
pub(crate) fn shown(info: RetentionInfo) -> api::RetentionInfo {
    let RetentionInfo { path, own, in_force, from } = info;
    api::RetentionInfo { path, own: own.map(rules), in_force: rules(in_force), from }
}

/// The JSON shape of a retention.
fn rules(retention: Retention) -> api::Retention {
    api::Retention {
        keep: retention.keep,
        keep_for_seconds: retention.keep_for_ns.map(|ns| ns / SECOND_NS),
        keep_everything: retention == Retention::EVERYTHING,
    }
}

/// Reads the JSON of a retention.
///
/// # Errors
/// 400 `bad_body` if it is none, or says nothing, or two things that exclude each other.
fn parse(text: &[u8]) -> Result<Retention, ApiError> {
    let bad = |message: String| {
        let examples = r#"{"keep":10}, {"keep_for_seconds":2592000}, both, or {"keep_everything":true}"#;
        ApiError::bad_body(format!("{message}; a retention is {examples}"))
    };
    // A list would be read as the rules without their names.
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err(bad("the body is no JSON object".to_owned()));
    }
    let given: api::Retention = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
    match (given.keep, given.keep_for_seconds, given.keep_everything) {
        (None, None, true) => Ok(Retention::EVERYTHING),
        (_, _, true) => Err(bad("'keep_everything' leaves no room for other rules".to_owned())),
        (None, None, false) => Err(bad("no rule is given".to_owned())),
        (Some(0), _, _) => Err(bad("'keep' counts the current version, so it is at least 1".to_owned())),
        (_, Some(0), _) => Err(bad("'keep_for_seconds' is at least 1".to_owned())),
        (keep, seconds, false) => {
            let in_ns = |seconds: u64| {
                let most = u64::MAX / SECOND_NS;
                let too_long = || bad(format!("'keep_for_seconds' is at most {most}"));
                seconds.checked_mul(SECOND_NS).ok_or_else(too_long)
            };
            Ok(Retention { keep, keep_for_ns: seconds.map(in_ns).transpose()? })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_read_as_it_is_shown() {
        for (text, retention) in [
            (r#"{"keep":1}"#, Retention { keep: Some(1), keep_for_ns: None }),
            (r#"{"keep_for_seconds":5}"#, Retention { keep: None, keep_for_ns: Some(5_000_000_000) }),
            (
                r#"{"keep":4294967295,"keep_for_seconds":18446744073}"#,
                Retention { keep: Some(u32::MAX), keep_for_ns: Some(18_446_744_073_000_000_000) },
            ),
            (r#"{"keep_everything":true}"#, Retention::EVERYTHING),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(retention), "{text}");
            assert_eq!(serde_json::to_string(&rules(retention)).unwrap(), text);
        }
    }

    #[test]
    fn what_says_nothing_or_too_much_is_refused() {
        for (text, part) in [
            ("", "no JSON object"),
            ("[5]", "no JSON object"),
            ("{", "EOF"),
            ("{}", "no rule"),
            (r#"{"keep_everything":false}"#, "no rule"),
            (r#"{"keep":0}"#, "at least 1"),
            (r#"{"keep":-1}"#, "-1"),
            (r#"{"keep":4294967296}"#, "4294967296"),
            (r#"{"keep":1.5}"#, "1.5"),
            (r#"{"keep":2,"keep_for_seconds":0}"#, "at least 1"),
            (r#"{"keep_for_seconds":18446744074}"#, "at most 18446744073"),
            (r#"{"keep":2,"keep_everything":true}"#, "no room"),
            (r#"{"keep":2,"keep":3}"#, "duplicate"),
            (r#"{"keep":2,"keepfor":3}"#, "unknown field"),
            (r#"{"keep":2}{}"#, "trailing"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!((error.status.as_u16(), error.code), (400, "bad_body"), "{text}");
            assert!(error.message.contains(part) && error.message.contains("a retention is"), "{}", error.message);
        }
    }
}
