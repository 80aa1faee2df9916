//! One segment: header, footer, every row and every block, and every chunk named again from its bytes.
//!
//! Memory: one piece (2 MiB as rows are written) and the tables of one segment, for each segment under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chunk::{DomainKey, OpenedBlock};
use proto::disk::{BlockEntry, RowTable, TableBlock};
use proto::port::{Disk, KeyProvider};
use proto::{ClusterId, DomainId, Location, SegmentId};
use shard::examine::{Column, ColumnError, Depth, Expected, Extent, Piece};
use shard::recovery::{ListedSegment, ListedState};
use shard::row::RowPlace;
use shard::segment::piece_name;

use super::chunks::{ChunkBytes, SegmentChunks, Standing};
use super::devices::Device;
use super::problem::{Problem, ProblemKind, Totals};

/// Where rows begin in a segment file.
const FIRST_ROW_OFFSET: u64 = proto::limits::SECTOR_BYTES as u64;

/// Checks segments, one at a time; several of these may work side by side.
pub struct SegmentChecker<D> {
    pub(super) devices: Vec<Device<D>>,
    pub(super) cluster: ClusterId,
    pub(super) keys: Arc<dyn KeyProvider>,
    pub(super) domains: BTreeMap<DomainId, DomainKey>,
    pub(super) depth: Depth,
}

/// What the check of a segment found.
pub struct SegmentFindings {
    segment: SegmentId,
    pub(super) problems: Vec<Problem>,
    pub(super) chunks: SegmentChunks,
    pub(super) totals: Totals,
    pub(super) unknown_domains: BTreeSet<DomainId>,
}

impl SegmentFindings {
    /// The segment.
    #[must_use]
    pub fn segment(&self) -> SegmentId {
        self.segment
    }
}

/// Where a block lies in its segment: column and offset.
type Spot = (u8, u32);

/// A row, as pieces and footer tell of it.
#[derive(Default)]
struct Row {
    /// Where its pieces are, by any whole header or the footer.
    place: Option<RowPlace>,
    /// What is wrong with those that were met.
    faults: Vec<(u8, u64, String)>,
    intact: usize,
    found: usize,
    table: Option<RowTable>,
    /// The table as the footer has it: then a start believes the row unseen.
    in_footer: Option<RowTable>,
}

/// What is gathered while the files of a segment are read.
struct Survey {
    rows: BTreeMap<u64, Row>,
    /// Blocks that opened and whose chunks have the right ids.
    good: BTreeMap<Spot, BlockEntry>,
    /// Why others did not.
    bad: BTreeMap<Spot, String>,
    /// What lies between pieces: column, from, to, whether it is all zeros.
    gaps: Vec<(u8, u64, u64, bool)>,
    /// Where the last piece of each column ends.
    ends: BTreeMap<u8, u64>,
}

impl<D: Disk> SegmentChecker<D> {
    /// Checks a segment; `read` is told of the bytes that were read.
    pub async fn check(&self, listed: &ListedSegment, read: &dyn Fn(u64)) -> SegmentFindings {
        let mut findings = SegmentFindings {
            segment: listed.id,
            problems: Vec::new(),
            chunks: SegmentChunks::default(),
            totals: Totals::default(),
            unknown_domains: BTreeSet::new(),
        };
        let mut columns = Vec::new();
        for (number, device) in listed.members.iter().enumerate() {
            let number = number as u8;
            let Some(device) = self.devices.iter().find(|known| known.superblock.device == *device) else {
                let detail = format!("column {number} lies on device {device}, which is not here");
                findings.add(Problem::new(ProblemKind::SegmentUnreadable, detail));
                continue;
            };
            match self.open(listed, number, device).await {
                Ok(column) => columns.push((number, device.directory, column)),
                Err(error) => {
                    let name = piece_name(listed.id, usize::from(number));
                    let problem = Problem::new(ProblemKind::SegmentUnreadable, error.to_string());
                    findings.add(problem.in_file(device.directory, name).at(0));
                }
            }
        }
        let mut survey = Survey {
            rows: BTreeMap::new(),
            good: BTreeMap::new(),
            bad: BTreeMap::new(),
            gaps: Vec::new(),
            ends: BTreeMap::new(),
        };
        let mut looking = Looking { checker: self, listed, findings: &mut findings, survey: &mut survey };
        for (number, directory, column) in &columns {
            looking.read_footer(*number, *directory, column).await;
        }
        for (number, directory, column) in &mut columns {
            let walked = looking.walk(*number, column, read).await;
            if let Err(error) = walked {
                looking.device_failed(*number, *directory, &error);
            }
        }
        looking.judge(&columns).await;
        findings.chunks.finish();
        findings
    }

    async fn open(&self, listed: &ListedSegment, column: u8, device: &Device<D>) -> Result<Column<D>, ColumnError> {
        let expected = Expected { segment: listed.id, column, cluster: self.cluster, device: device.superblock.device };
        let opened = Column::open(&device.disk, expected, &*self.keys).await?;
        if opened.geometry() == listed.geometry { Ok(opened) } else { Err(ColumnError::Foreign { field: "geometry" }) }
    }

    /// Decompresses a block and names each of its chunks again. Returns what does not fit.
    fn verify(&self, block: &OpenedBlock<'_>, unknown: &mut BTreeSet<DomainId>) -> Result<(), String> {
        let entry = &block.entry;
        let plain = chunk::decompress(entry.codec, block.payload, entry.plain_bytes());
        let plain = plain.map_err(|error| error.to_string())?;
        let Some(key) = self.domains.get(&entry.domain) else {
            unknown.insert(entry.domain);
            return Ok(());
        };
        let mut rest = &plain[..];
        for chunk in &entry.chunks {
            let (bytes, behind) = rest.split_at(chunk.plain_bytes as usize);
            if key.chunk_id(bytes) != chunk.id {
                return Err(format!("the bytes of chunk {} have another id", chunk.id));
            }
            rest = behind;
        }
        Ok(())
    }
}

impl SegmentFindings {
    fn add(&mut self, problem: Problem) {
        self.problems.push(Problem { segment: Some(self.segment), ..problem });
    }
}

/// The check of one segment.
struct Looking<'a, D> {
    checker: &'a SegmentChecker<D>,
    listed: &'a ListedSegment,
    findings: &'a mut SegmentFindings,
    survey: &'a mut Survey,
}

/// The columns that could be opened: number, directory, file.
type Columns<D> = [(u8, usize, Column<D>)];

impl<D: Disk> Looking<'_, D> {
    /// Where the log says that the footer of `column` is.
    fn footer_offset(&self, column: u8) -> Option<u64> {
        match &self.listed.state {
            ListedState::Open => None,
            ListedState::Sealed(offsets) => offsets.get(usize::from(column)).copied(),
        }
    }

    fn name(&self, column: u8) -> String {
        piece_name(self.listed.id, usize::from(column))
    }

    fn device_failed(&mut self, column: u8, directory: usize, error: &std::io::Error) {
        let problem = Problem::new(ProblemKind::DeviceFailed, error.to_string());
        self.findings.add(problem.in_file(directory, self.name(column)));
    }

    /// Reads the footer, if the log lists one, and notes its rows.
    async fn read_footer(&mut self, number: u8, directory: usize, column: &Column<D>) {
        let Some(offset) = self.footer_offset(number) else { return };
        match column.footer(offset).await {
            Err(error) => self.device_failed(number, directory, &error),
            Ok(Err(fault)) => {
                let problem = Problem::new(ProblemKind::FooterDamaged, fault);
                self.findings.add(problem.in_file(directory, self.name(number)).at(offset));
            }
            Ok(Ok(footer)) => {
                for (place, table) in footer.rows {
                    let row = self.survey.rows.entry(place.row.0).or_default();
                    row.place = Some(place);
                    row.in_footer = Some(table);
                }
            }
        }
    }

    /// Reads one column's file from the first row to its end.
    async fn walk(&mut self, number: u8, column: &mut Column<D>, read: &dyn Fn(u64)) -> std::io::Result<()> {
        let mut offset = FIRST_ROW_OFFSET;
        let mut told = 0;
        while let Some(extent) = column.next(offset, self.checker.depth).await? {
            let end = match extent {
                Extent::Piece(piece) => self.piece(number, column, piece),
                Extent::Footer { end, .. } => end,
                Extent::Gap { end, used, .. } => {
                    self.survey.gaps.push((number, offset, end, used));
                    end
                }
            };
            offset = end;
            read(end.min(column.bytes) - told);
            told = end.min(column.bytes);
        }
        self.findings.totals.bytes_read += column.bytes;
        Ok(())
    }

    /// Takes in a piece; returns where it ends.
    fn piece(&mut self, number: u8, column: &Column<D>, mut piece: Box<Piece>) -> u64 {
        let row = self.survey.rows.entry(piece.header.row.get()).or_default();
        row.found += 1;
        row.intact += usize::from(piece.is_intact());
        row.place.get_or_insert_with(|| RowPlace::of(&piece.header));
        row.table = row.table.take().or(piece.table.take());
        if let Some(fault) = piece.head_fault {
            row.faults.push((number, piece.offset, fault.to_owned()));
        }
        if !piece.payload_faults.is_empty() {
            let faults = format!("the payload does not match its checksums: {:?}", piece.payload_faults);
            row.faults.push((number, piece.offset, faults));
        }
        self.survey.ends.insert(number, piece.end);
        if self.checker.depth == Depth::Payloads {
            let (checker, survey) = (self.checker, &mut *self.survey);
            let unknown = &mut self.findings.unknown_domains;
            column.each_block(&mut piece, |offset, block| {
                let verified = block.map_err(|error| error.to_string()).and_then(|block| {
                    checker.verify(&block, unknown)?;
                    Ok(block.entry)
                });
                match verified {
                    Ok(entry) => drop(survey.good.insert((number, offset), entry)),
                    Err(fault) => drop(survey.bad.insert((number, offset), fault)),
                }
            });
        }
        piece.end
    }

    /// Says what the survey means.
    async fn judge(&mut self, columns: &Columns<D>) {
        let rows = std::mem::take(&mut self.survey.rows);
        // Without a footer, what comes last may have been cut short by a crash.
        let sealed = matches!(&self.listed.state, ListedState::Sealed(offsets) if !offsets.is_empty());
        let has_footer = rows.values().any(|row| row.in_footer.is_some());
        let last = rows.keys().next_back().copied();
        for (number, row) in rows {
            self.findings.totals.rows += 1;
            let may_be_torn = !sealed && Some(number) == last;
            self.judge_row(number, row, has_footer, may_be_torn, columns).await;
        }
        // What no table names was sealed by this node all the same, and is read by whoever knows where it lies.
        for ((column, offset), entry) in std::mem::take(&mut self.survey.good) {
            let block = TableBlock { column, offset, block_bytes: 0, entry };
            self.take_chunks(&block, Standing::HintOnly);
        }
        self.judge_gaps(sealed, columns);
    }

    async fn judge_row(&mut self, number: u64, row: Row, has_footer: bool, may_be_torn: bool, columns: &Columns<D>) {
        let wanted = row.place.as_ref().map_or(0, |place| place.pieces.len());
        let is_whole = row.found == wanted && row.intact == wanted && row.table.is_some();
        let kind = if may_be_torn { ProblemKind::RowUnfinished } else { ProblemKind::RowDamaged };
        for (column, offset, fault) in &row.faults {
            self.row_problem(kind, number, *column, *offset, fault.clone(), columns);
        }
        if row.found < wanted {
            for piece in row.place.iter().flat_map(|place| &place.pieces) {
                let offset = u64::from(piece.offset_sectors) << 12;
                // A footer knows of rows whose pieces' headers are gone.
                if self.survey.gaps.iter().any(|gap| gap.0 == piece.column && (gap.1..gap.2).contains(&offset)) {
                    let detail = "the header of the piece is damaged".to_owned();
                    self.row_problem(kind, number, piece.column, offset, detail, columns);
                }
            }
        }
        if has_footer && row.in_footer.is_none() && is_whole {
            let (column, offset) = row.place.as_ref().map_or((0, 0), first_piece);
            let detail = "the footer does not list it".to_owned();
            self.row_problem(ProblemKind::RowUnlisted, number, column, offset, detail, columns);
        }
        if let (Some(in_footer), Some(table)) = (&row.in_footer, &row.table)
            && in_footer != table
        {
            let (column, offset) = row.place.as_ref().map_or((0, 0), first_piece);
            let detail = "its table and the footer's differ".to_owned();
            self.row_problem(ProblemKind::RowDamaged, number, column, offset, detail, columns);
        }
        let Some(table) = row.in_footer.clone().or(row.table) else { return };
        // What a crash cut short is looked into, however much else is read: whoever takes it for whole looks there for
        // chunks that lie elsewhere too.
        let looks = self.checker.depth == Depth::Payloads || may_be_torn;
        let mut good = Vec::with_capacity(table.blocks.len());
        for block in &table.blocks {
            good.push(!looks || self.is_good(number, block, columns).await);
        }
        let is_whole = is_whole && (self.checker.depth == Depth::Payloads || good.iter().all(|good| *good));
        let is_indexed = row.in_footer.is_some() || (is_whole && !has_footer);
        let standing = if is_indexed { Standing::Indexed } else { Standing::HintOnly };
        for (block, is_good) in table.blocks.iter().zip(good) {
            if is_good {
                self.take_chunks(block, standing);
            } else {
                let spot = (block.column, block.offset);
                let fault = self.survey.bad.remove(&spot);
                let fault = fault.unwrap_or_else(|| "it is not where its row's table says".to_owned());
                let chunks: Vec<String> = block.entry.chunks.iter().map(|chunk| chunk.id.to_string()).collect();
                let detail = format!("{fault} (chunk {})", chunks.join(", "));
                let kind = if may_be_torn { ProblemKind::RowUnfinished } else { ProblemKind::BlockDamaged };
                self.row_problem(kind, number, block.column, block.offset.into(), detail, columns);
            }
        }
    }

    /// Whether the block that a table names is there: as the walk met it, or, where a piece's header is damaged and
    /// the walk could not, by looking at its place.
    async fn is_good(&mut self, row: u64, block: &TableBlock, columns: &Columns<D>) -> bool {
        let spot = (block.column, block.offset);
        if let Some(entry) = self.survey.good.remove(&spot) {
            return entry == block.entry;
        }
        let column = columns.iter().find(|(number, ..)| *number == block.column);
        let Some((number, directory, column)) = column else { return false };
        if self.survey.bad.contains_key(&spot) {
            return false;
        }
        let (checker, unknown) = (self.checker, &mut self.findings.unknown_domains);
        let looked = column.with_block(block.offset, |opened| {
            let opened = opened.map_err(|error| error.to_string())?;
            checker.verify(&opened, unknown)?;
            Ok(opened.header.row == row && opened.entry == block.entry)
        });
        match looked.await {
            Ok(Ok(same)) => same,
            Ok(Err(fault)) => {
                self.survey.bad.insert(spot, fault);
                false
            }
            Err(error) => {
                self.device_failed(*number, *directory, &error);
                false
            }
        }
    }

    fn take_chunks(&mut self, block: &TableBlock, standing: Standing) {
        // Pages of the index are not in the index.
        let is_page = block.entry.domain == DomainId::CHECKPOINTS;
        let standing = if is_page { Standing::HintOnly } else { standing };
        self.findings.totals.blocks += 1;
        for (ordinal, chunk) in block.entry.chunks.iter().enumerate() {
            let (segment, ordinal) = (self.listed.id, ordinal as u16);
            let location = Location { segment, column: block.column, offset: block.offset, sectors: 0, ordinal };
            self.findings.totals.chunks += 1;
            self.findings.totals.plain_bytes += u64::from(chunk.plain_bytes);
            let stored_bytes = block.entry.stored_bytes(usize::from(ordinal));
            let is_shared = block.entry.chunks.len() > 1;
            let bytes = ChunkBytes { plain_bytes: chunk.plain_bytes, stored_bytes, is_shared };
            self.findings.chunks.add(&chunk.id, bytes, location, standing);
        }
    }

    /// Reports what lies between rows and is explained by none.
    fn judge_gaps(&mut self, sealed: bool, columns: &Columns<D>) {
        let reported: BTreeSet<u64> = self.findings.problems.iter().filter_map(|problem| problem.offset).collect();
        for (number, offset, end, used) in std::mem::take(&mut self.survey.gaps) {
            let is_tail = self.survey.ends.get(&number).is_none_or(|last| *last <= offset);
            // A damaged footer is told of by itself, and explains nothing before it.
            let end = self.footer_offset(number).map_or(end, |footer| end.min(footer));
            let is_explained = reported.range(offset..end.max(offset)).next().is_some();
            if end <= offset || is_explained || (is_tail && !used) {
                continue;
            }
            let kind = if is_tail && !sealed { ProblemKind::RowUnfinished } else { ProblemKind::RowDamaged };
            let detail = format!("bytes {offset} to {} are no row", end - 1);
            let directory = columns.iter().find(|(column, ..)| *column == number).map_or(0, |column| column.1);
            self.findings.add(Problem::new(kind, detail).in_file(directory, self.name(number)).at(offset));
        }
    }

    fn row_problem(
        &mut self,
        kind: ProblemKind,
        row: u64,
        column: u8,
        offset: u64,
        detail: String,
        columns: &Columns<D>,
    ) {
        let directory = columns.iter().find(|(number, ..)| *number == column).map_or(0, |column| column.1);
        let problem = Problem::new(kind, detail).in_file(directory, self.name(column)).at(offset);
        self.findings.add(Problem { row: Some(row), ..problem });
    }
}

/// Column and byte offset of a row's first piece.
fn first_piece(place: &RowPlace) -> (u8, u64) {
    place.pieces.first().map_or((0, 0), |piece| (piece.column, u64::from(piece.offset_sectors) << 12))
}
