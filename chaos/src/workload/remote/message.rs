//! What remote clients ask and are told, as bytes.
//!
//! Numbers are little-endian; texts and bytes have their length (u32) in front; what may be missing has a byte that
//! says whether it is there. A message that does not decode to its last byte is a violation: the wire under it keeps
//! messages whole.

use bytes::Bytes;
use meta::{Condition, Session};
use node::Removal;
use proto::{InodeId, VersionNumber};

use crate::oracle::model::{Action, Answer, AttributeChange, ContentId, Refusal};

/// What a client asks for.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The client.
    pub(super) client: usize,
    /// Its request: one that is asked again keeps its number.
    pub(super) number: u64,
    pub(super) work: Work,
}

#[derive(Clone, Debug)]
pub(super) enum Work {
    /// Changes something; a put brings its bytes.
    Change {
        action: Action,
        session: Option<Session>,
        bytes: Bytes,
    },
    Stat {
        path: String,
    },
    List {
        path: String,
    },
    Read {
        path: String,
        version: Option<u64>,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Response {
    /// The change was answered.
    Answered(Answer),
    /// The change did not happen.
    TurnedDown,
    /// The node takes no more changes.
    Stops,
    /// What was read; empty for what is only looked at.
    Seen(Bytes),
}

impl Request {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Out::default();
        out.u64(self.client as u64);
        out.u64(self.number);
        match &self.work {
            Work::Change { action, session, bytes } => {
                out.u8(0);
                out.action(action);
                out.option(session.as_ref(), Out::session);
                out.bytes(bytes);
            }
            Work::Stat { path } => {
                out.u8(1);
                out.text(path);
            }
            Work::List { path } => {
                out.u8(2);
                out.text(path);
            }
            Work::Read { path, version } => {
                out.u8(3);
                out.text(path);
                out.option(version.as_ref(), |out, version| out.u64(*version));
            }
        }
        out.0.into()
    }

    pub(super) fn decode(message: &Bytes) -> Option<Request> {
        let mut input = In(message);
        let (client, number) = (input.u64()? as usize, input.u64()?);
        let work = match input.u8()? {
            0 => {
                let (action, session) = (input.action()?, input.option(In::session)?);
                Work::Change { action, session, bytes: Bytes::copy_from_slice(input.bytes()?) }
            }
            1 => Work::Stat { path: input.text()? },
            2 => Work::List { path: input.text()? },
            3 => Work::Read { path: input.text()?, version: input.option(In::u64)? },
            _ => return None,
        };
        input.0.is_empty().then_some(Request { client, number, work })
    }
}

impl Response {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Out::default();
        match self {
            Response::Answered(answer) => {
                out.u8(0);
                out.answer(answer);
            }
            Response::TurnedDown => out.u8(1),
            Response::Stops => out.u8(2),
            Response::Seen(bytes) => {
                out.u8(3);
                out.bytes(bytes);
            }
        }
        out.0.into()
    }

    pub(super) fn decode(message: &Bytes) -> Option<Response> {
        let mut input = In(message);
        let response = match input.u8()? {
            0 => Response::Answered(input.answer()?),
            1 => Response::TurnedDown,
            2 => Response::Stops,
            3 => Response::Seen(Bytes::copy_from_slice(input.bytes()?)),
            _ => return None,
        };
        input.0.is_empty().then_some(response)
    }
}

/// Refusals that carry nothing, by their number on the wire.
const REFUSALS: [Refusal; 10] = [
    Refusal::NotFound,
    Refusal::NotADirectory,
    Refusal::IsADirectory,
    Refusal::AlreadyExists,
    Refusal::NotEmpty,
    Refusal::IntoItself,
    Refusal::NotASymlink,
    Refusal::NotAFile,
    Refusal::NoSuchVersion,
    Refusal::VersionExpired,
];

#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).expect("invariant: a message is far shorter");
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Out, &T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn attributes(&mut self, change: &AttributeChange) {
        self.option(change.mode.as_ref(), |out, mode| out.u64(u64::from(*mode)));
        self.option(change.mtime_ns.as_ref(), |out, mtime_ns| out.u64(*mtime_ns));
        self.option(change.symlink_target.as_ref(), |out, target| out.text(target));
        self.option(change.user_metadata.as_ref(), |out, pairs| {
            out.u64(pairs.len() as u64);
            for (name, value) in pairs {
                out.text(name);
                out.text(value);
            }
        });
    }

    fn condition(&mut self, condition: Condition) {
        match condition {
            Condition::Any => self.u8(0),
            Condition::Absent => self.u8(1),
            Condition::Exists => self.u8(2),
            Condition::Match { inode, version } => {
                self.u8(3);
                self.u64(inode.0);
                self.u64(version.0);
            }
        }
    }

    fn session(&mut self, session: &Session) {
        match session {
            Session::Numbered { client, sequence, acked_below } => {
                self.u8(0);
                [client, sequence, acked_below].into_iter().for_each(|value| self.u64(*value));
            }
            Session::Keyed { key, fingerprint } => {
                self.u8(1);
                self.0.extend_from_slice(key);
                self.0.extend_from_slice(fingerprint);
            }
        }
    }

    fn action(&mut self, action: &Action) {
        match action {
            Action::Put { path, content, bytes, attributes, condition } => {
                self.u8(0);
                self.text(path);
                self.u64(content.0 as u64);
                self.u64(*bytes);
                self.attributes(attributes);
                self.condition(*condition);
            }
            Action::Restore { path, version, condition } => {
                self.u8(1);
                self.text(path);
                self.u64(*version);
                self.condition(*condition);
            }
            Action::MakeDirectory { path, attributes } => {
                self.u8(2);
                self.text(path);
                self.attributes(attributes);
            }
            Action::MakeSymlink { path, target, attributes } => {
                self.u8(3);
                self.text(path);
                self.text(target);
                self.attributes(attributes);
            }
            Action::Rename { from, to, replace } => {
                self.u8(4);
                self.text(from);
                self.text(to);
                self.u8(u8::from(*replace));
            }
            Action::Remove { path, how } => {
                self.u8(5);
                self.text(path);
                self.u8(u8::from(*how == Removal::Recursive));
            }
            Action::SetAttributes { path, change } => {
                self.u8(6);
                self.text(path);
                self.attributes(change);
            }
        }
    }

    fn answer(&mut self, answer: &Answer) {
        match answer {
            Answer::Committed { version, created } => {
                self.u8(0);
                self.u64(*version);
                self.u8(u8::from(*created));
            }
            Answer::Made => self.u8(1),
            Answer::Renamed => self.u8(2),
            Answer::Removed => self.u8(3),
            Answer::Changed => self.u8(4),
            Answer::Refused(Refusal::ConditionFailed(current)) => {
                self.u8(5);
                self.option(current.as_ref(), |out, current| out.u64(*current));
            }
            Answer::Refused(refusal) => {
                let number = REFUSALS.iter().position(|one| one == refusal).expect("invariant: all are listed");
                self.u8(6);
                self.u8(number as u8);
            }
        }
    }
}

struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = u32::from_le_bytes(self.array()?);
        self.take(len as usize)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Some(None) }
    }

    fn attributes(&mut self) -> Option<AttributeChange> {
        Some(AttributeChange {
            mode: self.option(|input| u32::try_from(input.u64()?).ok())?,
            mtime_ns: self.option(In::u64)?,
            symlink_target: self.option(In::text)?,
            user_metadata: self.option(|input| {
                let pairs = input.u64()?;
                (0..pairs).map(|_| Some((input.text()?, input.text()?))).collect()
            })?,
        })
    }

    fn condition(&mut self) -> Option<Condition> {
        Some(match self.u8()? {
            0 => Condition::Any,
            1 => Condition::Absent,
            2 => Condition::Exists,
            3 => Condition::Match { inode: InodeId(self.u64()?), version: VersionNumber(self.u64()?) },
            _ => return None,
        })
    }

    fn session(&mut self) -> Option<Session> {
        Some(match self.u8()? {
            0 => Session::Numbered { client: self.u64()?, sequence: self.u64()?, acked_below: self.u64()? },
            1 => Session::Keyed { key: self.array()?, fingerprint: self.array()? },
            _ => return None,
        })
    }

    fn action(&mut self) -> Option<Action> {
        let (kind, path) = (self.u8()?, self.text()?);
        Some(match kind {
            0 => Action::Put {
                path,
                content: ContentId(self.u64()? as usize),
                bytes: self.u64()?,
                attributes: self.attributes()?,
                condition: self.condition()?,
            },
            1 => Action::Restore { path, version: self.u64()?, condition: self.condition()? },
            2 => Action::MakeDirectory { path, attributes: self.attributes()? },
            3 => Action::MakeSymlink { path, target: self.text()?, attributes: self.attributes()? },
            4 => Action::Rename { from: path, to: self.text()?, replace: self.flag()? },
            5 => Action::Remove { path, how: if self.flag()? { Removal::Recursive } else { Removal::Single } },
            6 => Action::SetAttributes { path, change: self.attributes()? },
            _ => return None,
        })
    }

    fn answer(&mut self) -> Option<Answer> {
        Some(match self.u8()? {
            0 => Answer::Committed { version: self.u64()?, created: self.flag()? },
            1 => Answer::Made,
            2 => Answer::Renamed,
            3 => Answer::Removed,
            4 => Answer::Changed,
            5 => Answer::Refused(Refusal::ConditionFailed(self.option(In::u64)?)),
            6 => Answer::Refused(*REFUSALS.get(usize::from(self.u8()?))?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        let attributes = AttributeChange {
            mode: Some(0o644),
            mtime_ns: Some(u64::MAX),
            symlink_target: Some("../a".into()),
            user_metadata: Some(vec![("name".into(), "ü".into()), (String::new(), String::new())]),
        };
        let (path, condition) =
            (String::from("/s/a"), Condition::Match { inode: InodeId(3), version: VersionNumber(4) });
        let actions = [
            Action::Put {
                path: path.clone(),
                content: ContentId(7),
                bytes: 3,
                attributes: attributes.clone(),
                condition,
            },
            Action::Restore { path: path.clone(), version: 5, condition: Condition::Exists },
            Action::MakeDirectory { path: path.clone(), attributes: AttributeChange::default() },
            Action::MakeSymlink { path: path.clone(), target: "x".into(), attributes: attributes.clone() },
            Action::Rename { from: path.clone(), to: "/s/b".into(), replace: true },
            Action::Remove { path: path.clone(), how: Removal::Recursive },
            Action::SetAttributes { path: path.clone(), change: attributes },
        ];
        let session = Some(Session::Keyed { key: [1; 16], fingerprint: [2; 16] });
        let bytes = Bytes::from_static(b"abc");
        let change = |action| Work::Change { action, session, bytes: bytes.clone() };
        let numbered = Some(Session::Numbered { client: 1, sequence: 2, acked_below: 3 });
        let mut works: Vec<Work> = actions.clone().into_iter().map(change).collect();
        works.push(Work::Change { action: actions[1].clone(), session: numbered, bytes: Bytes::new() });
        works.push(Work::Stat { path: path.clone() });
        works.push(Work::List { path: path.clone() });
        works.push(Work::Read { path, version: Some(9) });
        works.into_iter().map(|work| Request { client: 5, number: 6, work }).collect()
    }

    fn responses() -> Vec<Response> {
        let mut answers = vec![
            Answer::Committed { version: 3, created: true },
            Answer::Made,
            Answer::Renamed,
            Answer::Removed,
            Answer::Changed,
            Answer::Refused(Refusal::ConditionFailed(None)),
            Answer::Refused(Refusal::ConditionFailed(Some(7))),
        ];
        answers.extend(REFUSALS.map(Answer::Refused));
        let mut responses: Vec<Response> = answers.into_iter().map(Response::Answered).collect();
        responses.extend([Response::TurnedDown, Response::Stops, Response::Seen(Bytes::from_static(b"abc"))]);
        responses
    }

    #[test]
    fn requests_survive_the_wire_and_no_part_of_one_is_taken_for_one() {
        for request in requests() {
            let message = request.encode();
            let decoded = Request::decode(&message).expect("it decodes");
            assert_eq!(format!("{decoded:?}"), format!("{request:?}"));
            assert!((0..message.len()).all(|len| Request::decode(&message.slice(..len)).is_none()), "{request:?}");
        }
    }

    #[test]
    fn responses_survive_the_wire_and_no_part_of_one_is_taken_for_one() {
        for response in responses() {
            let message = response.encode();
            assert_eq!(Response::decode(&message), Some(response));
            assert!((0..message.len()).all(|len| Response::decode(&message.slice(..len)).is_none()));
        }
    }
}
