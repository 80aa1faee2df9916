//! Manifests: which chunks make up a file, and the stored pages of long ones.
//!
//! ```text
//!   0  magic "DFSMANIF"   8  version u32   12  entries u32   16  rkyv: the list of entries
//! ```
//!
//! A page is stored like a chunk, whose id proves its bytes; what is checked here is that those bytes are a page.

use proto::disk::FormatError;
use proto::limits::MANIFEST_PAGE_ENTRIES_MAX;
use rkyv::rancor::Error;
use rkyv::{Archive, Deserialize, Serialize};

/// One entry of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Depth 0: the chunk. Deeper: the stored page, named like a chunk.
    pub id: [u8; 32],
    /// Plain bytes of the file that this entry covers; never 0.
    pub bytes: u64,
    /// Where it was when the manifest was written: a packed [`proto::Location`], a hint only.
    pub location: u128,
}

const WHAT: &str = "manifest page";
const MAGIC: [u8; 8] = *b"DFSMANIF";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 16;
/// Bytes of one archived entry: id, bytes, location.
const ENTRY_BYTES: usize = 32 + 8 + 16;
/// Bytes of the archived list itself: a relative pointer and a length.
const LIST_BYTES: usize = 8;

/// Encodes a page of 1 to [`MANIFEST_PAGE_ENTRIES_MAX`] entries.
///
/// # Panics
/// If there are none or more, or one covers no bytes.
#[must_use]
pub fn encode_page(entries: &[ManifestEntry]) -> Vec<u8> {
    assert!((1..=MANIFEST_PAGE_ENTRIES_MAX).contains(&entries.len()), "invariant: a page has 1 to 1,024 entries");
    assert!(entries.iter().all(|entry| entry.bytes > 0), "invariant: a manifest entry covers bytes");
    let mut page = Vec::with_capacity(HEAD_BYTES + entries.len() * ENTRY_BYTES + LIST_BYTES);
    page.extend_from_slice(&MAGIC);
    page.extend_from_slice(&VERSION.to_le_bytes());
    page.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    rkyv::api::high::to_bytes_in::<_, Error>(&entries.to_vec(), page)
        .expect("invariant: encoding into memory cannot fail")
}

/// Decodes and checks a page.
///
/// # Errors
/// [`FormatError`] if the bytes are no page of this version, or an entry covers no bytes.
pub fn decode_page(page: &[u8]) -> Result<Vec<ManifestEntry>, FormatError> {
    let Some((head, body)) = page.split_at_checked(HEAD_BYTES) else {
        return Err(FormatError::TooShort { what: WHAT, have: page.len(), need: HEAD_BYTES });
    };
    if head[..8] != MAGIC {
        return Err(FormatError::BadMagic { what: WHAT });
    }
    let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    if word(8) != VERSION {
        return Err(FormatError::UnknownVersion { what: WHAT, wrote: word(8), understood: VERSION });
    }
    let count = word(12) as usize;
    require((1..=MANIFEST_PAGE_ENTRIES_MAX).contains(&count), "entries")?;
    require(body.len() == count * ENTRY_BYTES + LIST_BYTES, "length")?;
    let entries: Vec<ManifestEntry> =
        rkyv::from_bytes::<_, Error>(body).map_err(|_| FormatError::Field { what: WHAT, field: "encoding" })?;
    require(entries.len() == count, "entries")?;
    require(entries.iter().all(|entry| entry.bytes > 0), "bytes")?;
    Ok(entries)
}

fn require(ok: bool, field: &'static str) -> Result<(), FormatError> {
    if ok { Ok(()) } else { Err(FormatError::Field { what: WHAT, field }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(seed: u8) -> ManifestEntry {
        ManifestEntry { id: [seed; 32], bytes: u64::from(seed) + 1, location: u128::from(seed) << 100 | 0x1122 }
    }

    #[test]
    fn page_layout_is_frozen() {
        let page = encode_page(&[entry(1), entry(2)]);
        crate::testing::golden("manifest page", &page, include_str!("../golden/manifest_page.hex"));
    }

    #[test]
    fn a_full_page_fits_one_chunk() {
        let page = encode_page(&vec![entry(7); MANIFEST_PAGE_ENTRIES_MAX]);
        assert!(page.len() <= proto::limits::CHUNK_BYTES_MAX);
        assert_eq!(decode_page(&page).unwrap().len(), MANIFEST_PAGE_ENTRIES_MAX);
    }

    #[test]
    fn damaged_pages_are_refused() {
        let page = encode_page(&[entry(1), entry(2)]);
        for len in 0..page.len() {
            assert!(decode_page(&page[..len]).is_err(), "truncation to {len} bytes");
        }
        for bit in (0..HEAD_BYTES * 8).chain((page.len() - LIST_BYTES) * 8..page.len() * 8) {
            let mut damaged = page.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_page(&damaged).is_err(), "flip of bit {bit}");
        }
        let mut empty_entry = page;
        empty_entry[HEAD_BYTES + 32..HEAD_BYTES + 40].fill(0);
        assert_eq!(decode_page(&empty_entry), Err(FormatError::Field { what: WHAT, field: "bytes" }));
    }

    proptest! {
        #[test]
        fn pages_survive_encoding(entries in prop::collection::vec((any::<[u8; 32]>(), 1u64.., any::<u128>()), 1..40)) {
            let entries: Vec<_> = entries.into_iter().map(|(id, bytes, location)| ManifestEntry { id, bytes, location }).collect();
            prop_assert_eq!(decode_page(&encode_page(&entries)), Ok(entries));
        }

        #[test]
        fn decoding_never_panics(page in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_page(&page);
        }
    }
}
