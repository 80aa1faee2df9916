//! Watching the namespace: every change, in the order in which the changes were made.
//!
//! A watcher holds nothing between its calls but a cursor, so it can go on after a restart of either side. Changes that
//! nobody came for are forgotten after a while; who comes too late is told, and looks at the tree again.

use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use meta::{Change, Event, EventSpan};
use proto::FileId;
use proto::limits::{EVENTS_PAGE_MAX, EVENTS_SCANNED_MAX};
use proto::path::FsPath;
use proto::port::{Disk, runtime};

use crate::Node;
use crate::namespace::Namespace;

/// Where a watcher goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// At the oldest change that is retained.
    Oldest,
    /// With the next change that is made.
    Now,
    /// After this cursor.
    Cursor(u64),
}

/// Which changes a watcher asks for.
#[derive(Clone, Debug)]
pub struct EventQuery {
    /// Where it goes on.
    pub since: Since,
    /// Only changes of this object and of what is below it; of a rename either path counts.
    pub below: FsPath,
    /// Changes to return at most; 1 to [`EVENTS_PAGE_MAX`].
    pub limit: usize,
    /// How long to wait if there is none yet.
    pub wait: Duration,
}

/// Changes in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPage {
    /// The changes.
    pub events: Vec<EventInfo>,
    /// Where to go on. It moves also past changes that were not asked for.
    pub cursor: u64,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventInfo {
    /// Its place in the order of all changes, counted from 1 without gaps.
    pub cursor: u64,
    /// Public id of the object.
    pub id: FileId,
    /// The metadata's record of it.
    pub event: Event,
}

/// No changes were returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventsError {
    /// Look at the tree, and go on at a cursor of now or at the oldest.
    #[error("changes after cursor {cursor} are not known (any more): they are kept from cursor {oldest} on")]
    Gone {
        /// As given.
        cursor: u64,
        /// The oldest cursor that can still be used.
        oldest: u64,
    },
    /// Come back later.
    #[error("as many requests wait for changes as may")]
    Busy,
}

/// What a look at the namespace finds.
struct Look {
    page: EventPage,
    /// Ends when there is more, if nothing was found.
    more: Option<oneshot::Receiver<()>>,
}

impl<D: Disk> Node<D> {
    /// Returns the changes that come next, as soon as there is one; none if none came within the wait.
    ///
    /// The wait is on this core: the namespace is asked for moments only, and wakes who waits when it has changed.
    ///
    /// Errors: [`EventsError`].
    pub async fn events(&self, mut query: EventQuery) -> Result<EventPage, EventsError> {
        let mut timeout = None;
        loop {
            let asked = query.clone();
            let Look { page, more } = self.ask_names(move |names| names.look(&asked)).await?;
            if !page.events.is_empty() || query.wait.is_zero() {
                return Ok(page);
            }
            query.since = Since::Cursor(page.cursor);
            // Without it, only part of what is there was looked at.
            let Some(more) = more else { continue };
            let timeout = timeout.get_or_insert_with(|| runtime::sleep(query.wait));
            if let Either::Right(_) = select(more, timeout).await {
                return Ok(page);
            }
        }
    }
}

impl<D: Disk> Namespace<D> {
    /// Looks at what is there now; if there is nothing, and the query waits, the look and the start of the wait are one
    /// step, so that no change is missed.
    ///
    /// Errors: [`EventsError`].
    fn look(&self, query: &EventQuery) -> Result<Look, EventsError> {
        let (page, newest) = self.page(query)?;
        let waits = page.events.is_empty() && page.cursor == newest && !query.wait.is_zero();
        let more = waits.then(|| self.meta.watch().map_err(|_| EventsError::Busy)).transpose()?;
        Ok(Look { page, more })
    }

    /// The next page, and the newest cursor.
    fn page(&self, query: &EventQuery) -> Result<(EventPage, u64), EventsError> {
        let limit = query.limit.clamp(1, EVENTS_PAGE_MAX);
        let is_whole = query.below.names().is_empty();
        let EventSpan { oldest, newest } = self.meta.view(|view| view.event_span());
        let cursor = match query.since {
            Since::Oldest => oldest,
            Since::Now => newest,
            Since::Cursor(cursor) => cursor,
        };
        if !(oldest..=newest).contains(&cursor) {
            return Err(EventsError::Gone { cursor, oldest });
        }
        let scanned = self.meta.view(|view| view.events(cursor, if is_whole { limit } else { EVENTS_SCANNED_MAX }));
        let mut page = EventPage { events: Vec::new(), cursor };
        let below = query.below.to_string();
        for (cursor, event) in scanned {
            if page.events.len() == limit {
                break;
            }
            page.cursor = cursor;
            if is_whole || concerns(&event, &below) {
                let id = FileId::new(self.cluster, event.inode);
                page.events.push(EventInfo { cursor, id, event });
            }
        }
        Ok((page, newest))
    }
}

/// Whether a change is one of the object at `path` or of something below it.
fn concerns(event: &Event, path: &str) -> bool {
    let is_below = |other: &str| other.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let from = match &event.change {
        Change::Renamed { from } => Some(from),
        _ => None,
    };
    is_below(&event.path) || from.is_some_and(|from| is_below(from))
}
