//! Files written and read whole.

use std::io;

use crate::data::{Content, Random, Source};
use crate::http::{Answer, Request};
use crate::load::drive::Script;
use crate::server::fs_target;

/// Kinds of operations, as a [`Script`] numbers them.
pub(crate) const KINDS: [&str; 2] = ["put", "get"];
const PUT: usize = 0;
const GET: usize = 1;

/// Files of one directory on the server, so that none has millions of entries.
const DIRECTORY_FILES: u64 = 1_000;

/// What share of the operations reads, and what there is to read.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    /// Directory on the server under which files are made.
    pub(crate) root: String,
    pub(crate) source: Source,
    /// 0 to 100.
    pub(crate) read_percent: u8,
    /// Files that are there to be read, numbered from 0; 0 of them and nothing is read.
    pub(crate) readable: u64,
}

/// Where files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Area {
    /// Where the prepared files are, that will be read.
    Readable,
    /// Elsewhere, so that nothing that is read is overwritten.
    Other,
}

impl Area {
    fn target(self, root: &str, number: u64) -> String {
        let area = match self {
            Area::Readable => "r",
            Area::Other => "w",
        };
        fs_target(&format!("{root}/{area}/{}/{number}", number / DIRECTORY_FILES))
    }
}

/// Writes new files, reads prepared ones.
pub(crate) struct Objects {
    mix: Mix,
    writes_to: Area,
    content: Content,
    random: Random,
    kind: usize,
    number: u64,
    target: String,
}

impl Objects {
    /// The script of connection `connection`.
    pub(crate) fn new(mix: Mix, writes_to: Area, connection: u64) -> Objects {
        let content = Content::new(mix.source.clone(), writes_to as u64);
        let random = Random::new(!connection);
        Objects { mix, writes_to, content, random, kind: PUT, number: 0, target: String::new() }
    }
}

impl Script for Objects {
    fn plan(&mut self, number: u64) -> usize {
        let reads = self.mix.readable > 0 && self.random.below(100) < u64::from(self.mix.read_percent);
        let area;
        (self.kind, self.number, area) = if reads {
            (GET, self.random.below(self.mix.readable), Area::Readable)
        } else {
            (PUT, number, self.writes_to)
        };
        self.target = area.target(&self.mix.root, self.number);
        self.kind
    }

    fn request(&mut self) -> io::Result<Request<'_>> {
        if self.kind == GET {
            return Ok(Request { method: "GET", target: &self.target, body: None });
        }
        self.content.open(self.number)?;
        Ok(Request { method: "PUT", target: &self.target, body: Some(&mut self.content) })
    }

    fn succeeded(&mut self, answer: &Answer) -> Result<u64, String> {
        let bytes = self.mix.source.bytes(self.number);
        if self.kind == GET && answer.body_bytes != bytes {
            return Err(format!("a file of {bytes} bytes came back with {}", answer.body_bytes));
        }
        Ok(bytes)
    }
}
