//! Names without data: small files made, looked at, listed, renamed and removed.
//!
//! Each connection works in its own directory, so that a failure is the server's and never a neighbour's doing, and
//! keeps a number of live files, so that a directory neither empties nor grows without bound.

use std::collections::VecDeque;
use std::io;

use crate::data::{Content, Random, Source};
use crate::http::{Answer, Request};
use crate::load::drive::Script;
use crate::server::{encode_path, fs_target};

/// Kinds of operations, as a [`Script`] numbers them.
pub(crate) const KINDS: [&str; 5] = ["create", "stat", "list", "rename", "delete"];
const CREATE: usize = 0;
const STAT: usize = 1;
const LIST: usize = 2;
const RENAME: usize = 3;
const DELETE: usize = 4;

/// Shares of the kinds, in percent: as many files are removed as are made.
pub(crate) const SHARES: [u64; 5] = [20, 45, 5, 10, 20];
/// Live files of a connection before anything else is done with them.
const LIVE_MIN: usize = 32;
/// Entries that a listing asks for.
const LIST_ENTRIES: u64 = 100;

/// The script of one connection.
pub(crate) struct Names {
    directory: String,
    content: Content,
    random: Random,
    /// Numbers of the files that are there.
    live: VecDeque<u64>,
    /// Number of the next file.
    fresh: u64,
    kind: usize,
    target: String,
}

impl Names {
    /// Works below `root` with files of `source`, as connection `connection`.
    pub(crate) fn new(root: &str, source: Source, connection: u64) -> Names {
        Names {
            directory: format!("{root}/{connection}"),
            content: Content::new(source, connection),
            random: Random::new(!connection),
            live: VecDeque::new(),
            fresh: 0,
            kind: CREATE,
            target: String::new(),
        }
    }

    fn path(&self, number: u64) -> String {
        format!("{}/f{number}", self.directory)
    }

    fn draw_kind(&mut self) -> usize {
        if self.live.len() < LIVE_MIN {
            return CREATE;
        }
        let mut rest = self.random.below(SHARES.iter().sum());
        for (kind, share) in SHARES.iter().enumerate() {
            if rest < *share {
                return kind;
            }
            rest -= share;
        }
        unreachable!("invariant: the shares cover what is drawn")
    }
}

impl Script for Names {
    fn plan(&mut self, _number: u64) -> usize {
        self.kind = self.draw_kind();
        if self.kind == STAT {
            // Any file, not only the oldest.
            let place = self.random.below(self.live.len() as u64) as usize;
            self.live.swap(0, place);
        }
        let oldest = self.live.front().map(|number| self.path(*number)).unwrap_or_default();
        self.target = match self.kind {
            CREATE => fs_target(&self.path(self.fresh)),
            STAT => format!("{}?stat", fs_target(&oldest)),
            LIST => format!("{}?limit={LIST_ENTRIES}", fs_target(&self.directory)),
            RENAME => format!("{}?rename_to={}", fs_target(&oldest), encode_path(&self.path(self.fresh))),
            _ => fs_target(&oldest),
        };
        self.kind
    }

    fn request(&mut self) -> io::Result<Request<'_>> {
        let method = match self.kind {
            CREATE => "PUT",
            RENAME => "POST",
            DELETE => "DELETE",
            _ => "GET",
        };
        if self.kind != CREATE {
            return Ok(Request { method, target: &self.target, body: None });
        }
        self.content.open(self.fresh)?;
        Ok(Request { method, target: &self.target, body: Some(&mut self.content) })
    }

    fn succeeded(&mut self, answer: &Answer) -> Result<u64, String> {
        if matches!(self.kind, RENAME | DELETE) {
            self.live.pop_front();
        }
        if matches!(self.kind, CREATE | RENAME) {
            self.live.push_back(self.fresh);
            self.fresh += 1;
        }
        Ok(answer.body_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Kind;

    #[test]
    fn every_kind_is_done_and_only_to_files_that_are_there() {
        let source = Source::Made { kind: Kind::Random, bytes: 10 };
        let mut script = Names::new("/meta", source, 7);
        let answer = Answer { status: 200, body_bytes: 0, retry_after: None, code: None };
        let mut there = std::collections::BTreeSet::new();
        let mut done = [0_u64; KINDS.len()];
        for index in 0..20_000 {
            let kind = script.plan(index);
            done[kind] += 1;
            let request = script.request().unwrap();
            let target = request.target.strip_prefix("/api/v1/fs").unwrap();
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            match kind {
                CREATE => assert!(request.method == "PUT" && there.insert(path.to_owned())),
                STAT => assert!(there.contains(path)),
                LIST => assert_eq!(path, "/meta/7"),
                RENAME => {
                    assert!(there.remove(path));
                    assert!(there.insert(query.strip_prefix("rename_to=").unwrap().to_owned()));
                }
                _ => assert!(request.method == "DELETE" && there.remove(path)),
            }
            script.succeeded(&answer).unwrap();
            assert_eq!(there.len(), script.live.len());
        }
        assert!(done.iter().all(|count| *count > 500), "{done:?}");
        assert!(there.len() < 1_000, "the directory grew to {}", there.len());
    }
}
