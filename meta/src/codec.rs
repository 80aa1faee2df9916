//! How values are encoded: a version byte, then rkyv (little-endian, 32-bit pointers, unaligned), validated on access.
//!
//! The encoding is deterministic, so that equal states have equal bytes. The `…Def` types teach rkyv about types of
//! `proto`, which knows nothing of this encoding.

use proto::api::Kind;
use proto::disk::FormatError;
use proto::{DeviceId, DomainId, InodeId, SegmentId, VersionNumber};
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator, to_bytes_in};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::{Archive, Deserialize, Portable, Serialize};

/// A value that is kept in the state or in the log.
pub(crate) trait Stored: Archive<Archived: Portable> {
    /// Name in messages.
    const WHAT: &'static str;
    /// Version that this software writes and reads.
    const VERSION: u8 = 1;
}

/// Encodes `value`: its version, then its bytes.
pub(crate) fn encode<T>(value: &T) -> Vec<u8>
where
    T: Stored + for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Error>>,
{
    to_bytes_in(value, vec![T::VERSION]).expect("invariant: encoding into memory cannot fail")
}

/// Validates `bytes` and returns the value in place.
///
/// Errors: [`FormatError`] if another version wrote it, or the bytes are no such value.
pub(crate) fn access<T>(bytes: &[u8]) -> Result<&T::Archived, FormatError>
where
    T: Stored<Archived: for<'a> CheckBytes<HighValidator<'a, Error>>>,
{
    let what = T::WHAT;
    let (&wrote, body) = bytes.split_first().ok_or(FormatError::TooShort { what, have: 0, need: 1 })?;
    if wrote != T::VERSION {
        return Err(FormatError::UnknownVersion { what, wrote: wrote.into(), understood: T::VERSION.into() });
    }
    rkyv::access::<T::Archived, Error>(body).map_err(|_| FormatError::Field { what, field: "encoding" })
}

/// Validates `bytes` and copies the value out.
///
/// Errors: as [`access`].
pub(crate) fn decode<T>(bytes: &[u8]) -> Result<T, FormatError>
where
    T: Stored<Archived: for<'a> CheckBytes<HighValidator<'a, Error>> + Deserialize<T, HighDeserializer<Error>>>,
{
    rkyv::deserialize::<T, Error>(access::<T>(bytes)?)
        .map_err(|_| FormatError::Field { what: T::WHAT, field: "encoding" })
}

/// Defines how a newtype of `proto` is archived: as what it wraps.
macro_rules! archived_as {
    ($def:ident, $id:ident, $inner:ty) => {
        #[doc = concat!("The archived form of [`", stringify!($id), "`].")]
        #[derive(Archive, Serialize, Deserialize)]
        #[rkyv(remote = $id)]
        #[rkyv(derive(Clone, Copy))]
        pub struct $def(pub $inner);

        impl From<$def> for $id {
            fn from(def: $def) -> $id {
                $id(def.0)
            }
        }
    };
}

archived_as!(DeviceIdDef, DeviceId, [u8; 16]);
archived_as!(DomainIdDef, DomainId, u64);
archived_as!(InodeIdDef, InodeId, u64);
archived_as!(SegmentIdDef, SegmentId, u64);
archived_as!(VersionNumberDef, VersionNumber, u64);

/// The archived form of [`Kind`].
#[derive(Archive, Serialize, Deserialize)]
#[rkyv(remote = Kind)]
#[rkyv(derive(Clone, Copy))]
pub enum KindDef {
    /// Bytes.
    File,
    /// Names.
    Directory,
    /// A target that clients resolve.
    Symlink,
}

impl From<KindDef> for Kind {
    fn from(def: KindDef) -> Kind {
        match def {
            KindDef::File => Kind::File,
            KindDef::Directory => Kind::Directory,
            KindDef::Symlink => Kind::Symlink,
        }
    }
}
