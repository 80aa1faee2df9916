//! The body of an upload.

use std::io::{self, Read, Seek, SeekFrom};

use crate::ClientError;

/// A reader that can start over.
trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

enum Source<'a> {
    Rewindable(&'a mut dyn ReadSeek),
    Stream(&'a mut dyn Read),
}

/// Bytes to upload, and how many there are.
///
/// Invariant: a source of known length delivers exactly that many bytes or fails, so that a file that shrinks while it
/// is read can never be committed short.
pub struct Upload<'a> {
    source: Source<'a>,
    size: Option<u64>,
    sent: u64,
    fault: Option<ClientError>,
}

impl<'a> Upload<'a> {
    /// The first `size` bytes of `reader`, from its start. A lost connection sends them again.
    pub fn rewindable<R: Read + Seek>(reader: &'a mut R, size: u64) -> Upload<'a> {
        Upload { source: Source::Rewindable(reader), size: Some(size), sent: 0, fault: None }
    }

    /// `reader` to its end, or to `size` if that is known. Sent once: a connection lost after the first byte is an
    /// error.
    pub fn stream<R: Read>(reader: &'a mut R, size: Option<u64>) -> Upload<'a> {
        Upload { source: Source::Stream(reader), size, sent: 0, fault: None }
    }

    /// The announced length.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// What the caller's reader did wrong, if it did.
    pub(crate) fn take_fault(&mut self) -> Option<ClientError> {
        self.fault.take()
    }

    /// Makes the next read start over; `false` if that is impossible.
    pub(crate) fn rewind(&mut self) -> Result<bool, ClientError> {
        if self.sent == 0 {
            return Ok(true);
        }
        match &mut self.source {
            Source::Stream(_) => Ok(false),
            Source::Rewindable(reader) => {
                reader.seek(SeekFrom::Start(0)).map_err(ClientError::Source)?;
                self.sent = 0;
                Ok(true)
            }
        }
    }
}

impl Read for Upload<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size.map_or(u64::MAX, |size| size - self.sent);
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let read = loop {
            let result = match &mut self.source {
                Source::Rewindable(reader) => reader.read(&mut buffer[..wanted]),
                Source::Stream(reader) => reader.read(&mut buffer[..wanted]),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        match (read, self.size) {
            (Ok(0), Some(promised)) => {
                self.fault = Some(ClientError::SourceShort { promised, seen: self.sent });
                Err(io::Error::other("the source of the upload ended early"))
            }
            (Ok(read), _) => {
                assert!(read <= wanted, "a reader reported more bytes than it was given room for");
                self.sent += read as u64;
                Ok(read)
            }
            (Err(error), _) => {
                self.fault = Some(ClientError::Source(error));
                Err(io::Error::other("the source of the upload failed"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_grown_source_is_cut_at_its_promise() {
        let mut source = Cursor::new(b"0123456789".to_vec());
        let mut seen = Vec::new();
        Upload::rewindable(&mut source, 4).read_to_end(&mut seen).unwrap();
        assert_eq!(seen, b"0123");
    }

    #[test]
    fn a_shrunk_source_is_a_fault() {
        let mut source = Cursor::new(b"01".to_vec());
        let mut upload = Upload::rewindable(&mut source, 4);
        assert!(upload.read_to_end(&mut Vec::new()).is_err());
        assert!(matches!(upload.take_fault(), Some(ClientError::SourceShort { promised: 4, seen: 2 })));
    }

    #[test]
    fn only_untouched_streams_can_start_over() {
        let mut source = io::repeat(0);
        let mut upload = Upload::stream(&mut source, None);
        assert!(upload.rewind().unwrap());
        upload.read_exact(&mut [0; 3]).unwrap();
        assert!(!upload.rewind().unwrap());

        let mut source = Cursor::new(b"abc".to_vec());
        let mut upload = Upload::rewindable(&mut source, 3);
        upload.read_exact(&mut [0; 3]).unwrap();
        assert!(upload.rewind().unwrap());
        let mut again = String::new();
        upload.read_to_string(&mut again).unwrap();
        assert_eq!(again, "abc");
    }
}
