//! Watching the namespace: pages of changes, waited for if need be, or one stream of server-sent events.
//!
//! A watcher waits on the namespace without polling, and counts against [`EVENT_WATCHERS_MAX`] of its core, so that
//! watchers never take the place of other requests. A stream takes the next page only when the one before it was sent.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::{StreamExt, stream};
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Response, StatusCode};
use meta::Change;
use node::{EventInfo, EventPage, EventQuery, EventsError, Since};
use proto::api::{self, EventKind};
use proto::limits::{EVENT_WAIT_SECONDS_MAX, EVENT_WATCHERS_MAX, EVENTS_PAGE_MAX};
use proto::path::FsPath;
use proto::port::Disk;

use super::body::ResponseBody;
use super::date::rfc3339;
use super::error::ApiError;
use super::headers::single;
use super::query::Query;
use super::{Answer, App, json};

/// Events of a page when the caller names no limit.
const PAGE_DEFAULT: usize = 100;
/// A stream without events says so often that it is alive, and where it has got to.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a client waits before it opens a broken stream again.
const RETRY: &str = "retry: 1000\n\n";

/// Watchers of one core.
#[derive(Clone, Default)]
pub(crate) struct Watchers(Rc<Cell<usize>>);

/// One watcher; counted until it is dropped.
struct Watching(Watchers);

impl Watchers {
    fn watch(&self) -> Result<Watching, ApiError> {
        if self.0.get() >= EVENT_WATCHERS_MAX {
            return Err(ApiError::busy());
        }
        self.0.set(self.0.get() + 1);
        Ok(Watching(self.clone()))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() - 1);
    }
}

impl<D: Disk> App<D> {
    /// `GET /api/v1/events`: one page, or a stream for who accepts one.
    pub(crate) async fn events(&self, mut query: Query, head: &Parts) -> Answer {
        let since = since(query.text("since")?.as_deref(), &head.headers)?;
        let bad_prefix = |error| ApiError::bad_path(format!("'prefix': {error}"));
        let below = query.text("prefix")?.map(|path| FsPath::parse(&path).map_err(bad_prefix)).transpose()?;
        let below = below.unwrap_or_default();
        if accepts_stream(&head.headers) {
            query.finish()?;
            let asked = EventQuery { since, below, limit: EVENTS_PAGE_MAX, wait: Duration::ZERO };
            return self.event_stream(asked).await;
        }
        let limit = query.number("limit", EVENTS_PAGE_MAX)?.unwrap_or(PAGE_DEFAULT);
        let wait = wait(query.text("wait")?.as_deref())?;
        query.finish()?;
        let _watching = if wait.is_zero() { None } else { Some(self.0.watchers.watch()?) };
        let page = self.next_events(EventQuery { since, below, limit, wait }).await?;
        let events = page.events.iter().map(event).collect();
        Ok(json(StatusCode::OK, &api::EventPage { events, cursor: page.cursor.to_string() }))
    }

    /// Waits for events, but not for longer than the server runs.
    async fn next_events(&self, query: EventQuery) -> Result<EventPage, ApiError> {
        let events = Box::pin(self.0.node.events(query));
        match select(events, self.drain().draining()).await {
            Either::Left((page, _)) => page.map_err(ApiError::from),
            Either::Right(_) => Err(ApiError::closing()),
        }
    }

    /// Server-sent events until the client or the server leaves, or the client falls too far behind.
    async fn event_stream(&self, mut query: EventQuery) -> Answer {
        let watching = self.0.watchers.watch()?;
        // What is wrong with the cursor is a plain answer.
        let first = self.next_events(query.clone()).await?;
        query.wait = HEARTBEAT;
        query.since = Since::Cursor(first.cursor);
        let start = Bytes::from(RETRY.to_owned() + &frames(&first));
        let next = |(app, mut query, watching): (App<D>, EventQuery, Watching)| async move {
            let page = app.next_events(query.clone()).await.ok()?;
            query.since = Since::Cursor(page.cursor);
            Some((Ok(Bytes::from(frames(&page))), (app, query, watching)))
        };
        let rest = stream::unfold((self.clone(), query, watching), next);
        let mut response = Response::new(ResponseBody::open(stream::iter([Ok(start)]).chain(rest).boxed_local()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

/// Where a watcher goes on. What the client saw last wins: a browser that opens its stream again sends the same target.
fn since(parameter: Option<&str>, headers: &HeaderMap) -> Result<Since, ApiError> {
    let seen = single(headers, "last-event-id")?.map(|value| str::from_utf8(value).unwrap_or("?"));
    match seen.filter(|seen| !seen.is_empty()).or(parameter) {
        None | Some("now") => Ok(Since::Now),
        Some("oldest") => Ok(Since::Oldest),
        Some(text) => match text.parse() {
            Ok(cursor) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Since::Cursor(cursor)),
            _ => Err(ApiError::bad_query("'since' is a cursor of an earlier answer, 'now' or 'oldest'")),
        },
    }
}

fn wait(parameter: Option<&str>) -> Result<Duration, ApiError> {
    let bad = || ApiError::bad_query(format!("the parameter 'wait' is a number from 0 to {EVENT_WAIT_SECONDS_MAX}"));
    let Some(text) = parameter else { return Ok(Duration::ZERO) };
    let seconds = text.parse().ok().filter(|seconds| *seconds <= EVENT_WAIT_SECONDS_MAX as u64);
    seconds.map(Duration::from_secs).ok_or_else(bad)
}

/// Whether the client takes server-sent events.
fn accepts_stream(headers: &HeaderMap) -> bool {
    let ranges =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    ranges.into_iter().any(|range| {
        let essence = range.split_once(';').map_or(range, |(essence, _)| essence);
        essence.trim().eq_ignore_ascii_case("text/event-stream")
    })
}

/// The JSON shape of an event.
fn event(info: &EventInfo) -> api::Event {
    let (kind, from, restored) = match &info.event.change {
        Change::Created => (EventKind::Create, None, None),
        Change::Committed => (EventKind::Commit, None, None),
        Change::Renamed { from } => (EventKind::Rename, Some(from.clone()), None),
        Change::Deleted => (EventKind::Delete, None, None),
        Change::Attributes => (EventKind::Attributes, None, None),
        Change::Restored { version } => (EventKind::Restore, None, Some(version.0)),
    };
    api::Event {
        cursor: info.cursor.to_string(),
        event: kind,
        id: info.id.to_string(),
        kind: info.event.kind,
        path: info.event.path.clone(),
        from,
        version: info.event.version.0,
        restored_version: restored,
        at: rfc3339(info.event.at_ns),
    }
}

/// A page as server-sent events. An empty one tells the cursor alone, which clients keep but do not report.
fn frames(page: &EventPage) -> String {
    let frame = |info: &EventInfo| {
        let event = event(info);
        let name = serde_json::to_value(event.event).expect("invariant: our own shapes are JSON");
        let data = serde_json::to_string(&event).expect("invariant: our own shapes are JSON");
        format!("id: {}\nevent: {}\ndata: {data}\n\n", info.cursor, name.as_str().unwrap_or_default())
    };
    let mut text: String = page.events.iter().map(frame).collect();
    if page.events.last().is_none_or(|last| last.cursor < page.cursor) {
        text.push_str(&format!("id: {}\n\n", page.cursor));
    }
    text
}

impl From<EventsError> for ApiError {
    fn from(error: EventsError) -> ApiError {
        match error {
            EventsError::Gone { oldest, .. } => ApiError::cursor_gone(error, oldest),
            EventsError::Busy => ApiError::busy(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderName;
    use meta::Event;
    use proto::api::Kind;
    use proto::{ClusterId, FileId, InodeId, VersionNumber};

    fn map(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn a_stream_that_is_opened_again_goes_on_where_it_broke() {
        let none = HeaderMap::new();
        assert_eq!(since(None, &none).unwrap(), Since::Now);
        assert_eq!(since(Some("oldest"), &none).unwrap(), Since::Oldest);
        assert_eq!(since(Some("5"), &none).unwrap(), Since::Cursor(5));
        assert_eq!(since(Some("5"), &map("last-event-id", "9")).unwrap(), Since::Cursor(9));
        for text in ["", "x", "-1", "+1", "18446744073709551616"] {
            assert_eq!(since(Some(text), &none).unwrap_err().code, "bad_query", "{text}");
        }
        assert!(since(None, &map("last-event-id", "x")).is_err());
        assert_eq!(wait(Some("0")).unwrap(), Duration::ZERO);
        assert!(wait(Some("61")).is_err() && wait(Some("")).is_err());
    }

    #[test]
    fn only_who_asks_for_a_stream_gets_one() {
        assert!(accepts_stream(&map("accept", "text/html, Text/Event-Stream;q=0.9")));
        assert!(!accepts_stream(&map("accept", "*/*")) && !accepts_stream(&HeaderMap::new()));
    }

    #[test]
    fn watchers_are_bounded() {
        let watchers = Watchers::default();
        let all: Vec<_> = (0..EVENT_WATCHERS_MAX).map(|_| watchers.watch().ok().unwrap()).collect();
        assert_eq!(watchers.watch().err().unwrap().code, "busy");
        drop(all);
        assert!(watchers.watch().is_ok());
    }

    #[test]
    fn frames_carry_cursor_name_and_data() {
        let event = Event {
            change: Change::Renamed { from: "/a\n".to_owned() },
            inode: InodeId(7),
            kind: Kind::File,
            version: VersionNumber(2),
            at_ns: 1,
            path: "/b".to_owned(),
        };
        let info = EventInfo { cursor: 5, id: FileId::new(ClusterId([1; 16]), InodeId(7)), event };
        let text = frames(&EventPage { events: vec![info], cursor: 5 });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["id: 5", "event: rename"]);
        let data: api::Event = serde_json::from_str(lines[2].strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!((data.cursor.as_str(), data.from.as_deref(), data.path.as_str()), ("5", Some("/a\n"), "/b"));
        assert_eq!(lines[3..], [""]);
        assert_eq!(frames(&EventPage { events: Vec::new(), cursor: 9 }), "id: 9\n\n");
    }
}
