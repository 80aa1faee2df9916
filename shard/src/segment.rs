//! Segments: the one being appended to, and what is known of each for reading.
//!
//! Opening order, so that a crash anywhere is harmless: files with headers are durable → the metadata log lists the
//! segment → rows are appended. A file that no log lists therefore holds no row.
//!
//! The header is read back before anything relies on it: without it no row of the segment can be read, and a disk may
//! report a write that went elsewhere.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use ec::Code;
use futures_util::future::{join_all, try_join_all};
use proto::checksum::checksum;
use proto::disk::{
    CIPHER_AES_256_GCM, FixedHeader, FooterHeader, GEOMETRY_CODE_CAUCHY, NonceKind, RowTable, SEAL_TAG_BYTES,
    SegmentHeader, nonce,
};
use proto::limits::SECTOR_BYTES;
use proto::planted::{self, Bug};
use proto::port::{AlignedBuf, Cipher, Disk, DiskFile, KeyProvider, runtime};
use proto::{ClusterId, DeviceId, Generation, Geometry, RowNumber, SegmentId, SegmentTag};
use zerocopy::IntoBytes;

use crate::error::{LogError, SegmentError, StoreError};
use crate::open::METADATA_RESERVE_BYTES;
use crate::owner::Volume;
use crate::recovery::sums;
use crate::row::{CompressedBlock, RowPlace, RowTarget, SealedRow, piece_bytes, seal_row};
use crate::rows::Rows;

/// A device of this node.
#[derive(Clone, Debug)]
pub struct Member<D> {
    /// Its id.
    pub device: DeviceId,
    /// The device.
    pub disk: D,
}

/// What the metadata log must know of a segment before rows are appended to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentOpened {
    /// The segment.
    pub segment: SegmentId,
    /// The device of each column.
    pub members: Vec<DeviceId>,
    /// Its geometry.
    pub geometry: Geometry,
    /// How often what it will hold was moved.
    pub generation: Generation,
}

/// Where openings and seals of segments are made durable (the metadata log).
#[expect(async_fn_in_trait, reason = "code above the ports is single-threaded on purpose")]
pub trait SegmentLog: 'static {
    /// Records an opened segment durably.
    async fn opened(&self, opened: SegmentOpened) -> Result<(), LogError>;
    /// Hears that a segment was sealed, or given up, and all its chunks have entered the index.
    async fn settled(&self);
    /// Records a sealed segment durably, with the offset of each column's footer (none if it has no footer).
    async fn sealed(&self, segment: SegmentId, footer_offsets: Vec<u64>) -> Result<(), LogError>;
    /// Bytes that new segments leave free on each device, so that metadata and removals still work when it is full.
    async fn reserve_bytes(&self) -> u64 {
        METADATA_RESERVE_BYTES
    }
}

/// What reading a segment takes: immutable, so that the cores of a node share it.
pub struct Segment {
    /// The segment.
    pub id: SegmentId,
    /// Its tag.
    pub tag: SegmentTag,
    /// Its geometry.
    pub geometry: Geometry,
    /// How often what it holds was moved: blocks of several chunks lie only where that is not 0.
    pub generation: Generation,
    /// The device of each column.
    pub members: Vec<DeviceId>,
    /// The cipher under the segment's key.
    pub cipher: Arc<dyn Cipher>,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({})", self.id)
    }
}

/// A segment at its home: the core that appends to it, or was dealt it at the start.
#[derive(Debug)]
pub struct HomeSegment {
    /// What readers need.
    pub segment: Arc<Segment>,
    /// Its durable rows; `None` until somebody needs those of a segment that a checkpoint of the index covered.
    pub rows: RefCell<Option<Rows>>,
    /// Offset of each column's footer; none if it has no footer, or none that verified when it was read.
    pub footers: RefCell<Vec<u64>>,
    /// Whether its footers were read since the start, and verified.
    pub footers_verified: Cell<bool>,
    /// Bytes of its files on all devices.
    pub file_bytes: Cell<u64>,
    /// Those of them that were written to parity columns.
    pub parity_bytes: Cell<u64>,
    /// Those of them that are reserved for rows to come.
    pub reserved_bytes: Cell<u64>,
    /// It is listed as sealed, and the owners have all its chunks: a checkpoint of the index may cover it. Any other
    /// segment is read in whole by the next start.
    pub settled: Cell<bool>,
    /// All that it holds, dead or alive; `None` until compaction has looked.
    pub content: Cell<Option<Volume>>,
}

impl HomeSegment {
    /// Whether its rows were read from a footer, or written by this process. If not, those that do not verify were left
    /// out, or nobody has looked yet.
    pub fn has_footer(&self) -> bool {
        !self.footers.borrow().is_empty() && (self.footers_verified.get() || self.rows.borrow().is_some())
    }
}

/// Name of one column's file on its device.
#[must_use]
pub fn piece_name(segment: SegmentId, column: usize) -> String {
    format!("{SEGMENT_DIR}/{segment}.{column:02}")
}

/// The directory of the segment files.
pub const SEGMENT_DIR: &str = "segments";

/// How new segments are made.
pub struct SegmentSpec<'a> {
    /// The segment.
    pub id: SegmentId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The geometry.
    pub geometry: Geometry,
    /// How often what it will hold was moved.
    pub generation: Generation,
    /// Bytes reserved for each piece.
    pub piece_bytes: u64,
    /// The ring keys.
    pub keys: &'a dyn KeyProvider,
}

/// A segment that takes appends.
pub struct OpenSegment<D: Disk> {
    /// The segment at its home, which is this core.
    pub home: Rc<HomeSegment>,
    /// Lends memory for rows.
    disk: D,
    files: Vec<D::File>,
    cursors: Vec<u64>,
    piece_bytes: u64,
    next_row: u64,
    /// Durable rows.
    rows: u32,
    footer_body: Vec<u8>,
    footer_blocks: u32,
}

impl<D: Disk> OpenSegment<D> {
    /// Creates the segment's files on `members`, one per column, and lists it in `log`.
    ///
    /// Errors: [`SegmentError`]; files already made are removed as far as the device allows.
    pub async fn create(
        spec: SegmentSpec<'_>,
        members: &[Member<D>],
        log: &impl SegmentLog,
    ) -> Result<OpenSegment<D>, SegmentError> {
        assert_eq!(members.len(), spec.geometry.columns(), "invariant: a member for each column");
        let tag = SegmentTag(runtime::random());
        let key: [u8; 32] = runtime::random();
        let devices: Vec<DeviceId> = members.iter().map(|member| member.device).collect();
        let create = |column: usize| {
            let (spec, member) = (&spec, &members[column]);
            async move {
                let file = create_piece(spec, member, column, tag, &key).await;
                file.map_err(|source| segment_error(source, member.device, spec.piece_bytes))
            }
        };
        let files = match try_join_all((0..members.len()).map(create)).await {
            Ok(files) => files,
            Err(error) => {
                remove_pieces(spec.id, members).await;
                return Err(error);
            }
        };
        let opened = SegmentOpened {
            segment: spec.id,
            members: devices.clone(),
            geometry: spec.geometry,
            generation: spec.generation,
        };
        match log.opened(opened).await {
            Ok(()) => {}
            Err(LogError::NoSpace) => {
                remove_pieces(spec.id, members).await;
                return Err(SegmentError::LogFull);
            }
            Err(LogError::Failed(what)) => {
                // The listing may have become durable all the same, and a listed segment must have its files: they
                // stay, but give back what was reserved. Unlisted, they are removed by the next recovery.
                for file in &files {
                    let _ = file.set_len(SECTOR_BYTES as u64).await;
                }
                return Err(SegmentError::Log(what));
            }
        }
        let columns = members.len();
        let segment = Segment {
            id: spec.id,
            tag,
            geometry: spec.geometry,
            generation: spec.generation,
            members: devices,
            cipher: spec.keys.cipher(&key),
        };
        let home = HomeSegment {
            segment: Arc::new(segment),
            rows: RefCell::new(Some(Rows::default())),
            footers_verified: Cell::new(false),
            footers: RefCell::default(),
            file_bytes: Cell::default(),
            parity_bytes: Cell::default(),
            reserved_bytes: Cell::default(),
            settled: Cell::new(false),
            content: Cell::new(None),
        };
        let open = OpenSegment {
            home: Rc::new(home),
            disk: members[0].disk.clone(),
            files,
            cursors: vec![SECTOR_BYTES as u64; columns],
            piece_bytes: spec.piece_bytes,
            next_row: 1,
            rows: 0,
            footer_body: Vec::new(),
            footer_blocks: 0,
        };
        open.count_files(vec![spec.piece_bytes; columns]);
        Ok(open)
    }

    /// Counts the files, which are so long, and what of them is written.
    fn count_files(&self, file_bytes: impl IntoIterator<Item = u64>) {
        let (home, geometry) = (&self.home, self.home.segment.geometry);
        let (written, parity) = sums(geometry, self.cursors.iter().copied());
        let (all, _) = sums(geometry, file_bytes);
        home.file_bytes.set(all);
        home.parity_bytes.set(parity);
        home.reserved_bytes.set(all - written);
    }

    /// Whether a row of `blocks`, and the footer after it, still fit, however the blocks fall to columns.
    #[must_use]
    pub fn fits(&self, blocks: &[CompressedBlock]) -> bool {
        let payload: usize = blocks.iter().map(CompressedBlock::column_bytes).sum();
        let table = 4 + blocks.iter().map(|block| RowTable::block_bytes(block.entry.chunks.len())).sum::<usize>();
        let row = piece_bytes(payload, table + SEAL_TAG_BYTES);
        let row_in_footer = 16 + 12 * self.home.segment.geometry.columns() + table;
        let footer = footer_file_bytes(self.footer_body.len() + row_in_footer);
        let cursor = self.cursors.iter().max().expect("invariant: a segment has a column");
        cursor + (row + footer) as u64 <= self.piece_bytes
    }

    /// Seals one row and makes all its pieces durable. The row's number is consumed whatever happens.
    ///
    /// Errors: [`StoreError::Device`]; the segment must then take no more appends, so it is taken by value and
    /// returned only when all went well.
    pub async fn append(
        mut self,
        code: &Code,
        blocks: &[CompressedBlock],
    ) -> Result<(OpenSegment<D>, SealedRow), StoreError> {
        assert!(self.fits(blocks), "invariant: the writer asks before it appends");
        let row = RowNumber(self.next_row);
        self.next_row += u64::from(!planted::is(Bug::ReusedRowNumber));
        let segment = self.home.segment.clone();
        let target = RowTarget {
            segment: segment.id,
            tag: segment.tag,
            geometry: segment.geometry,
            devices: &segment.members,
            cursors: &self.cursors,
            row,
            buffer: &|bytes| self.disk.buffer(bytes),
        };
        let mut sealed = seal_row(&target, code, &*segment.cipher, blocks);
        let write = |piece: &mut crate::row::Piece| {
            let file = self.files[usize::from(piece.column)].clone();
            let device = segment.members[usize::from(piece.column)];
            let bytes = std::mem::replace(&mut piece.bytes, AlignedBuf::zeroed(0));
            let (offset, segment) = (piece.offset, segment.id);
            async move {
                let (result, bytes) = if planted::is(Bug::UnsyncedPiece) {
                    file.write_at(bytes, offset).await
                } else {
                    file.write_durable_at(bytes, offset).await
                };
                let result = if planted::is(Bug::IgnoredWriteError) { Ok(()) } else { result };
                let end = offset + bytes.len() as u64;
                result.map(|()| end).map_err(|source| StoreError::Device { device, segment, source: Arc::new(source) })
            }
        };
        // All of them, so that nothing is in flight when the segment is given up.
        let ends: Result<Vec<u64>, StoreError> =
            join_all(sealed.pieces.iter_mut().map(write)).await.into_iter().collect();
        let ends = match ends {
            Ok(ends) => ends,
            Err(error) => {
                self.release().await;
                return Err(error);
            }
        };
        for (piece, end) in sealed.pieces.iter().zip(ends) {
            self.cursors[usize::from(piece.column)] = end;
        }
        self.count_files(vec![self.piece_bytes; self.cursors.len()]);
        encode_footer_row(&mut self.footer_body, &sealed.place, &sealed.table);
        self.footer_blocks += sealed.table.blocks.len() as u32;
        self.home
            .rows
            .borrow_mut()
            .as_mut()
            .expect("invariant: an open segment has its rows")
            .push(sealed.place.clone());
        self.rows += 1;
        Ok((self, sealed))
    }

    /// Gives back what is reserved after the last durable row of a segment that takes no more appends, as far as the
    /// devices allow; recovery does the same.
    pub(crate) async fn release(&self) {
        let mut file_bytes = Vec::with_capacity(self.files.len());
        for (file, cursor) in self.files.iter().zip(&self.cursors) {
            let released = file.set_len(*cursor).await.is_ok();
            file_bytes.push(if released { *cursor } else { self.piece_bytes });
        }
        self.count_files(file_bytes);
    }

    /// Writes the footer to every column, gives back what was reserved after it, and lists the segment as sealed.
    ///
    /// A failure leaves the segment as a crash would: recovery scans it. Nothing is lost, so nothing is returned.
    pub async fn seal(mut self, log: &impl SegmentLog) {
        let segment = &self.home.segment;
        let mut body = std::mem::take(&mut self.footer_body);
        let row = self.next_row;
        let tag = segment.cipher.seal(&nonce(NonceKind::Footer, row, 0), &segment.tag.0, &mut body);
        body.extend_from_slice(&tag);
        let footers = self.cursors.clone();
        for (column, file) in self.files.iter().enumerate() {
            let mut header = FooterHeader {
                segment: segment.id.0.into(),
                tag: segment.tag,
                device: segment.members[column],
                nonce_row: row.into(),
                rows: self.rows.into(),
                blocks: self.footer_blocks.into(),
                body_bytes: (body.len() as u64).into(),
                body_checksum: checksum(&body).into(),
                ..FooterHeader::blank()
            };
            header.finish();
            let mut bytes = AlignedBuf::copy_of(&[header.as_bytes(), &body].concat());
            bytes.pad_to_sector();
            let end = self.cursors[column] + bytes.len() as u64;
            if file.write_durable_at(bytes, self.cursors[column]).await.0.is_err()
                || file.set_len(end).await.is_err()
                || file.sync().await.is_err()
            {
                return;
            }
            self.cursors[column] = end;
        }
        self.count_files(self.cursors.iter().copied());
        if log.sealed(segment.id, footers.clone()).await.is_ok() {
            *self.home.footers.borrow_mut() = footers;
            self.home.settled.set(true);
        }
    }
}

/// Bytes of a footer on disk.
fn footer_file_bytes(body_bytes: usize) -> usize {
    (proto::disk::HEADER_BYTES + body_bytes + SEAL_TAG_BYTES).next_multiple_of(SECTOR_BYTES)
}

/// Appends one row to a footer body; the layout stands at [`FooterHeader`].
pub(crate) fn encode_footer_row(body: &mut Vec<u8>, place: &RowPlace, table: &RowTable) {
    body.extend_from_slice(&place.row.0.to_le_bytes());
    body.extend_from_slice(&(place.pieces.len() as u32).to_le_bytes());
    for piece in &place.pieces {
        body.extend_from_slice(&u32::from(piece.column).to_le_bytes());
        body.extend_from_slice(&piece.offset_sectors.to_le_bytes());
        body.extend_from_slice(&piece.payload_bytes.to_le_bytes());
    }
    let table = table.encode();
    body.extend_from_slice(&(table.len() as u32).to_le_bytes());
    body.extend_from_slice(&table);
}

/// Removes the files of a segment that was not listed and holds no row, as far as the devices allow: what is left is
/// removed by the next recovery.
async fn remove_pieces<D: Disk>(segment: SegmentId, members: &[Member<D>]) {
    for (column, member) in members.iter().enumerate() {
        let _ = member.disk.remove(&piece_name(segment, column)).await;
    }
}

/// Removes the files of a freed segment on its `members` and makes that durable. Files that are gone already are no error.
///
/// Errors: the first device's; the other devices were tried all the same.
pub async fn remove_files<D: Disk>(
    segment: SegmentId,
    members: &[Member<D>],
) -> Result<(), (DeviceId, std::io::Error)> {
    let mut failed = Ok(());
    for (column, member) in members.iter().enumerate() {
        let removed = match member.disk.remove(&piece_name(segment, column)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => member.disk.sync_dir(SEGMENT_DIR).await,
        };
        if let Err(error) = removed {
            failed = failed.and(Err((member.device, error)));
        }
    }
    failed
}

/// Creates one column's file with its header, durably.
async fn create_piece<D: Disk>(
    spec: &SegmentSpec<'_>,
    member: &Member<D>,
    column: usize,
    tag: SegmentTag,
    key: &[u8; 32],
) -> std::io::Result<D::File> {
    let file = member.disk.create(&piece_name(spec.id, column), spec.piece_bytes).await?;
    let mut header = SegmentHeader {
        segment: spec.id.0.into(),
        tag,
        cluster: spec.cluster,
        device: member.device,
        column: column as u8,
        k: spec.geometry.k() as u8,
        m: spec.geometry.m() as u8,
        geometry_code: GEOMETRY_CODE_CAUCHY.into(),
        cipher: CIPHER_AES_256_GCM.into(),
        created_unix_ns: runtime::unix_ns().into(),
        piece_bytes: spec.piece_bytes.into(),
        ..SegmentHeader::blank()
    };
    let wrapped = spec.keys.wrap(key, runtime::random(), &header.wrap_context());
    header.ring_key = wrapped.ring_key.into();
    header.wrap_nonce = wrapped.nonce;
    header.wrapped_key = wrapped.wrapped;
    header.finish();
    let mut sector = AlignedBuf::copy_of(header.as_bytes());
    sector.pad_to_sector();
    file.write_durable_at(sector, 0).await.0?;
    let (read, back) = file.read_at(member.disk.buffer(SECTOR_BYTES), 0).await;
    if read? != SECTOR_BYTES || !back.starts_with(header.as_bytes()) {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "the header was not written where it should be",
        ));
    }
    if !planted::is(Bug::UnsyncedSegmentName) {
        member.disk.sync_dir(SEGMENT_DIR).await?;
    }
    // The directory itself may be new.
    member.disk.sync_dir("").await?;
    Ok(file)
}

fn segment_error(source: std::io::Error, device: DeviceId, need_bytes: u64) -> SegmentError {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => SegmentError::NoSpace { need_bytes },
        _ => SegmentError::Device { device, source: Arc::new(source) },
    }
}
