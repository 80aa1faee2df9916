//! What calls look like on the wire: one header, and a body for requests and answers. Byte table in docs/FORMATS.md
//! §calls.
//!
//! A frame is one message of the port. Nothing of it is believed before its checksums matched, except that another
//! version wrote it.

use bytes::Bytes;
use proto::checksum::checksum;
use proto::disk::FormatError;
use proto::limits::{RPC_SLOTS, WIRE_MESSAGE_BYTES_MAX};
use proto::port::Incarnation;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes of every header.
pub(super) const HEADER_BYTES: usize = 64;
/// Bytes of the longest request or answer.
pub const RPC_BODY_BYTES_MAX: usize = WIRE_MESSAGE_BYTES_MAX - HEADER_BYTES;

const WHAT: &str = "call frame";
const MAGIC: [u8; 4] = *b"DFSC";
const VERSION: u16 = 1;

#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 4],
    version: U16,
    kind: u8,
    /// Of a refusal; otherwise zero.
    reason: u8,
    slot: U16,
    reserved_a: [u8; 2],
    body_bytes: U32,
    sequence: U64,
    to_incarnation: U64,
    reserved: [u8; 16],
    body_checksum: U64,
    header_checksum: U64,
}

/// Which call: a slot of the caller carries one call at a time, and its calls have rising numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallNumber {
    /// Below [`RPC_SLOTS`].
    pub(super) slot: u16,
    /// Counted from 1.
    pub(super) sequence: u64,
}

/// Why a server does not answer. In none of these cases was anything executed because of the refused frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Refusal {
    /// The frame was not for this start of the server, or for none: this is who it is.
    NotMe = 1,
    /// It executes as much as it may, or is closing.
    Busy = 2,
    /// It executed this very call before, and no longer has the answer.
    Forgotten = 3,
}

/// One message between two ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// The start of the receiver that it is for; `None` only for a hello.
    pub(super) to: Option<Incarnation>,
    pub(super) call: CallNumber,
    pub(super) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Asks who is there.
    Hello,
    Request(Bytes),
    Answer(Bytes),
    Refused(Refusal),
}

impl Frame {
    /// Lays the frame out as one message.
    ///
    /// # Panics
    /// If the body is longer than [`RPC_BODY_BYTES_MAX`].
    pub(super) fn encode(&self) -> Bytes {
        let (kind, reason, body): (u8, u8, &[u8]) = match &self.content {
            Content::Hello => (1, 0, &[]),
            Content::Request(body) => (2, 0, body),
            Content::Answer(body) => (3, 0, body),
            Content::Refused(refusal) => (4, *refusal as u8, &[]),
        };
        assert!(body.len() <= RPC_BODY_BYTES_MAX, "invariant: the length of a body was checked");
        assert_eq!(self.to.is_none(), kind == 1, "invariant: only a hello is for nobody in particular");
        let mut header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            kind,
            reason,
            slot: self.call.slot.into(),
            body_bytes: (body.len() as u32).into(),
            sequence: self.call.sequence.into(),
            to_incarnation: self.to.map_or(0, |to| to.0).into(),
            body_checksum: checksum(body).into(),
            ..Header::new_zeroed()
        };
        header.header_checksum = checksum(&header.as_bytes()[..HEADER_BYTES - 8]).into();
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        message.extend_from_slice(header.as_bytes());
        message.extend_from_slice(body);
        Bytes::from(message)
    }

    /// Reads a whole message.
    ///
    /// Errors: [`FormatError`] for everything that `encode` does not make.
    pub(super) fn decode(message: &Bytes) -> Result<Frame, FormatError> {
        let field = |field| FormatError::Field { what: WHAT, field };
        let Ok((header, body)) = Header::read_from_prefix(message) else {
            return Err(FormatError::TooShort { what: WHAT, have: message.len(), need: HEADER_BYTES });
        };
        if header.magic != MAGIC {
            return Err(FormatError::BadMagic { what: WHAT });
        }
        if checksum(&message[..HEADER_BYTES - 8]) != header.header_checksum.get() {
            return Err(FormatError::Checksum { what: WHAT });
        }
        if header.version.get() != VERSION {
            let wrote = u32::from(header.version.get());
            return Err(FormatError::UnknownVersion { what: WHAT, wrote, understood: VERSION.into() });
        }
        if header.reserved != [0; 16] || header.reserved_a != [0; 2] {
            return Err(field("reserved"));
        }
        if header.body_bytes.get() as usize != body.len() || body.len() > RPC_BODY_BYTES_MAX {
            return Err(field("body_bytes"));
        }
        if checksum(body) != header.body_checksum.get() {
            return Err(FormatError::Checksum { what: WHAT });
        }
        let call = CallNumber { slot: header.slot.get(), sequence: header.sequence.get() };
        if usize::from(call.slot) >= RPC_SLOTS {
            return Err(field("slot"));
        }
        if call.sequence == 0 {
            return Err(field("sequence"));
        }
        let body = message.slice(HEADER_BYTES..);
        let content = match (header.kind, header.reason) {
            (1, 0) if body.is_empty() => Content::Hello,
            (2, 0) => Content::Request(body),
            (3, 0) => Content::Answer(body),
            (4, 1) if body.is_empty() => Content::Refused(Refusal::NotMe),
            (4, 2) if body.is_empty() => Content::Refused(Refusal::Busy),
            (4, 3) if body.is_empty() => Content::Refused(Refusal::Forgotten),
            _ => return Err(field("kind")),
        };
        let to = (header.to_incarnation.get() > 0).then(|| Incarnation(header.to_incarnation.get()));
        if to.is_none() != (content == Content::Hello) {
            return Err(field("to_incarnation"));
        }
        Ok(Frame { to, call, content })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        let call = CallNumber { slot: 0x11, sequence: 0x2222_2222_2222_2222 };
        let to = Some(Incarnation(0x3333_3333_3333_3333));
        let body = Bytes::from_static(b"a body");
        vec![
            Frame { to: None, call, content: Content::Hello },
            Frame { to, call, content: Content::Request(body.clone()) },
            Frame { to, call, content: Content::Answer(body) },
            Frame { to, call, content: Content::Refused(Refusal::NotMe) },
            Frame { to, call, content: Content::Refused(Refusal::Busy) },
            Frame { to, call, content: Content::Refused(Refusal::Forgotten) },
        ]
    }

    fn hex(bytes: &[u8]) -> Vec<String> {
        bytes.chunks(16).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect()
    }

    #[test]
    fn layout_is_frozen() {
        let dump: Vec<String> = frames().iter().flat_map(|frame| hex(&frame.encode())).collect();
        let golden = include_str!("../../golden/call_frames.hex");
        assert_eq!(dump, golden.lines().collect::<Vec<_>>(), "the layout changed:\n{}", dump.join("\n"));
    }

    #[test]
    fn frames_survive_the_wire() {
        for frame in frames() {
            assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }
        let content = Content::Answer(Bytes::from(vec![7; RPC_BODY_BYTES_MAX]));
        let longest = Frame { content, ..frames().swap_remove(1) };
        assert_eq!(longest.encode().len(), WIRE_MESSAGE_BYTES_MAX);
        assert_eq!(Frame::decode(&longest.encode()), Ok(longest));
    }

    #[test]
    fn every_truncation_extension_and_bit_flip_is_refused() {
        for frame in frames() {
            let message = frame.encode();
            for len in 0..message.len() {
                assert!(Frame::decode(&message.slice(..len)).is_err(), "{frame:?} cut to {len} bytes");
            }
            let longer: Vec<u8> = message.iter().copied().chain([0]).collect();
            assert!(Frame::decode(&longer.into()).is_err(), "{frame:?} with a byte more");
            for bit in 0..message.len() * 8 {
                let mut damaged = message.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(Frame::decode(&damaged.into()).is_err(), "{frame:?} with bit {bit} flipped");
            }
        }
    }

    /// Changes a field and makes the checksum right again.
    fn forged(change: impl FnOnce(&mut Header)) -> Result<Frame, FormatError> {
        let message = frames()[1].encode();
        let (mut header, body) = Header::read_from_prefix(&message).unwrap();
        change(&mut header);
        header.header_checksum = checksum(&header.as_bytes()[..HEADER_BYTES - 8]).into();
        Frame::decode(&[header.as_bytes(), body].concat().into())
    }

    #[test]
    fn what_this_version_never_writes_is_refused_by_name() {
        let field = |field| Err(FormatError::Field { what: WHAT, field });
        assert_eq!(forged(|_| {}), Ok(frames().swap_remove(1)));
        assert_eq!(
            forged(|header| header.version = 2.into()),
            Err(FormatError::UnknownVersion { what: WHAT, wrote: 2, understood: 1 })
        );
        assert_eq!(forged(|header| header.kind = 5), field("kind"));
        assert_eq!(forged(|header| header.kind = 1), field("kind"), "a hello has no body");
        assert_eq!(forged(|header| header.reason = 1), field("kind"));
        assert_eq!(forged(|header| header.slot = (RPC_SLOTS as u16).into()), field("slot"));
        assert_eq!(forged(|header| header.sequence = 0.into()), field("sequence"));
        assert_eq!(forged(|header| header.body_bytes = u32::MAX.into()), field("body_bytes"));
        assert_eq!(forged(|header| header.to_incarnation = 0.into()), field("to_incarnation"));
        assert_eq!(forged(|header| header.reserved[15] = 1), field("reserved"));
        assert_eq!(forged(|header| header.reserved_a[1] = 1), field("reserved"));
    }
}
