//! Segments and rows.

use std::collections::BTreeMap;

use meta::{OfflineMeta, SegmentRecord, SegmentState};
use proto::SegmentId;
use proto::disk::TableBlock;
use proto::limits::SECTOR_BYTES;
use proto::port::{Disk, DiskFile};
use shard::examine::{Column, Depth, Expected, Extent, Piece};
use shard::segment::{SEGMENT_DIR, piece_name};

use super::value::{DAMAGE, Value};
use super::{InspectError, Source};
use crate::fsck::{self, meta_options};

/// Where rows begin in a segment file.
const FIRST_ROW_OFFSET: u64 = SECTOR_BYTES as u64;

type Fields = Vec<(&'static str, Value)>;

impl<D: Disk> Source<D> {
    /// All segments of the metadata, and files of others.
    pub(super) async fn segments(&self) -> Result<Value, InspectError> {
        let (records, note) = self.records().await;
        let mut files = self.files().await?;
        let mut segments = Vec::new();
        for (segment, record) in &records {
            let mut fields = vec![("segment", Value::text(segment))];
            fields.extend(record_fields(record));
            fields.push(("files", Value::List(files.remove(segment).unwrap_or_default())));
            segments.push(Value::Fields(fields));
        }
        for (segment, files) in files {
            let state = ("state", Value::text("not listed"));
            segments.push(Value::Fields(vec![("segment", Value::text(segment)), state, ("files", Value::List(files))]));
        }
        let mut fields: Fields = note.into_iter().collect();
        fields.push(("segments", Value::List(segments)));
        Ok(Value::Fields(fields))
    }

    /// One segment, file by file.
    pub(super) async fn segment(&self, segment: SegmentId) -> Result<Value, InspectError> {
        let (records, note) = self.records().await;
        let mut fields: Fields = vec![("segment", Value::text(segment))];
        fields.extend(note);
        let record = records.get(&segment);
        fields.extend(record.map(record_fields).unwrap_or(vec![("state", Value::text("not listed"))]));
        let mut columns = Vec::new();
        for (directory, expected) in self.columns_of(segment).await? {
            let disk = &self.devices.iter().find(|known| known.directory == directory).expect("it was listed").disk;
            let mut column = vec![
                ("directory", directory.into()),
                ("file", Value::Text(piece_name(segment, usize::from(expected.column)))),
            ];
            match Column::open(disk, expected, &*self.keys).await {
                Err(error) => column.push((DAMAGE, Value::text(error))),
                Ok(opened) => {
                    let footer_offset = record.and_then(|record| match &record.state {
                        SegmentState::Sealed { footer_offsets } => {
                            footer_offsets.get(usize::from(expected.column)).copied()
                        }
                        SegmentState::Open | SegmentState::Freed => None,
                    });
                    column.extend(column_fields(opened, footer_offset).await?);
                }
            }
            columns.push(Value::Fields(column));
        }
        if columns.is_empty() {
            return Err(InspectError::NotFound(format!("segment {segment}")));
        }
        fields.push(("columns", Value::List(columns)));
        Ok(Value::Fields(fields))
    }

    /// One row, piece by piece and block by block.
    pub(super) async fn row(&self, segment: SegmentId, row: u64) -> Result<Value, InspectError> {
        let mut pieces = Vec::new();
        let mut blocks = None;
        for (directory, expected) in self.columns_of(segment).await? {
            let disk = &self.devices.iter().find(|known| known.directory == directory).expect("it was listed").disk;
            let Ok(mut column) = Column::open(disk, expected, &*self.keys).await else { continue };
            let mut offset = FIRST_ROW_OFFSET;
            while let Some(extent) = column.next(offset, Depth::Payloads).await? {
                offset = match extent {
                    Extent::Piece(mut piece) => {
                        if piece.header.row.get() == row {
                            let opened = block_values(&column, &mut piece);
                            if let Some(table) = &piece.table {
                                let table = table.blocks.iter().enumerate();
                                blocks = Some(table.map(|(number, block)| table_value(number, block)).collect());
                            }
                            let mut fields = piece_fields(&piece);
                            fields.push(("blocks_found", Value::List(opened)));
                            pieces.push(Value::Fields(fields));
                        }
                        piece.end
                    }
                    Extent::Footer { end, .. } | Extent::Gap { end, .. } => end,
                };
            }
        }
        if pieces.is_empty() {
            return Err(InspectError::NotFound(format!("row {row} of segment {segment}")));
        }
        let table = match blocks {
            Some(blocks) => ("table", Value::List(blocks)),
            None => (DAMAGE, Value::text("no piece has a table that opens")),
        };
        Ok(Value::Fields(vec![
            ("segment", Value::text(segment)),
            ("row", row.into()),
            ("pieces", Value::List(pieces)),
            table,
        ]))
    }

    /// What the metadata says of segments, as far as it can be read; and what stands in the way, if anything does.
    async fn records(&self) -> (BTreeMap<SegmentId, SegmentRecord>, Option<(&'static str, Value)>) {
        let note = |text: String| Some((DAMAGE, Value::Text(format!("metadata: {text}"))));
        let Some(options) = meta_options(&self.devices, &self.keys) else {
            return (BTreeMap::new(), note(InspectError::NoMetadata.to_string()));
        };
        let mut meta = match OfflineMeta::open(options).await {
            Ok(meta) => meta,
            Err(error) => return (BTreeMap::new(), note(error.to_string())),
        };
        let note = fsck::replay(&mut meta).await.err().and_then(|error| note(error.to_string()));
        let records = meta.view().segments().into_iter().map(|record| (record.segment, record));
        (records.collect(), note)
    }

    /// The files of each segment, with their lengths.
    async fn files(&self) -> Result<BTreeMap<SegmentId, Vec<Value>>, InspectError> {
        let mut files: BTreeMap<SegmentId, Vec<Value>> = BTreeMap::new();
        for device in &self.devices {
            for name in device.disk.list(SEGMENT_DIR).await? {
                let Some((segment, _)) = parse_name(&name) else { continue };
                let name = format!("{SEGMENT_DIR}/{name}");
                let bytes = device.disk.open(&name).await?.len().await?;
                files.entry(segment).or_default().push(Value::Fields(vec![
                    ("directory", device.directory.into()),
                    ("file", Value::Text(name)),
                    ("bytes", bytes.into()),
                ]));
            }
        }
        Ok(files)
    }

    /// The columns of `segment` that are here: directory, and what the file should say of itself.
    async fn columns_of(&self, segment: SegmentId) -> Result<Vec<(usize, Expected)>, InspectError> {
        let mut columns = Vec::new();
        for device in &self.devices {
            for name in device.disk.list(SEGMENT_DIR).await? {
                if let Some((found, column)) = parse_name(&name).filter(|(found, _)| *found == segment) {
                    let (cluster, device_id) = (device.superblock.cluster, device.superblock.device);
                    let expected = Expected { segment: found, column, cluster, device: device_id };
                    columns.push((device.directory, expected));
                }
            }
        }
        columns.sort_unstable_by_key(|(_, expected)| expected.column);
        Ok(columns)
    }
}

/// Segment and column of a file's name; `None` if it is none of ours.
fn parse_name(name: &str) -> Option<(SegmentId, u8)> {
    let (segment, column) = name.split_once('.')?;
    let (segment, column) = (SegmentId(u64::from_str_radix(segment, 16).ok()?), column.parse().ok()?);
    (piece_name(segment, usize::from(column)) == format!("{SEGMENT_DIR}/{name}")).then_some((segment, column))
}

fn record_fields(record: &SegmentRecord) -> Fields {
    let state = match &record.state {
        SegmentState::Open => "open".to_owned(),
        SegmentState::Sealed { footer_offsets } if footer_offsets.is_empty() => "sealed without footer".to_owned(),
        SegmentState::Sealed { footer_offsets } => format!("sealed, footers at {footer_offsets:?}"),
        SegmentState::Freed => "freed".to_owned(),
    };
    vec![
        ("state", Value::Text(state)),
        ("geometry", Value::Text(format!("{}+{}", record.k, record.m))),
        ("stream", record.stream.into()),
        ("opened_unix_ns", record.opened_ns.into()),
        ("generation", u32::from(record.generation).into()),
    ]
}

/// The header, the footer and every extent of a file.
async fn column_fields<D: Disk>(mut column: Column<D>, footer_offset: Option<u64>) -> Result<Fields, InspectError> {
    let header = &column.header;
    let mut fields = vec![
        ("bytes", column.bytes.into()),
        ("tag", Value::text(header.tag)),
        ("device", Value::text(header.device)),
        ("column", Value::from(u32::from(header.column))),
        ("placement_group", header.placement_group.get().into()),
        ("ring_key", header.ring_key.get().into()),
        ("piece_bytes", header.piece_bytes.get().into()),
        ("created_unix_ns", header.created_unix_ns.get().into()),
    ];
    if let Some(offset) = footer_offset {
        let mut footer = vec![("offset", offset.into())];
        match column.footer(offset).await? {
            Err(fault) => footer.push((DAMAGE, Value::Text(fault))),
            Ok(read) => footer.extend([
                ("rows", Value::from(read.header.rows.get())),
                ("blocks", read.header.blocks.get().into()),
                ("nonce_row", read.header.nonce_row.get().into()),
                ("body_bytes", read.header.body_bytes.get().into()),
            ]),
        }
        fields.push(("footer", Value::Fields(footer)));
    }
    let mut extents = Vec::new();
    let mut offset = FIRST_ROW_OFFSET;
    while let Some(extent) = column.next(offset, Depth::Payloads).await? {
        let (end, shown) = match extent {
            Extent::Piece(piece) => (piece.end, piece_fields(&piece)),
            Extent::Footer { end, .. } => (end, extent_fields("footer", offset, end)),
            Extent::Gap { end, used: true, .. } => (end, extent_fields("no row", offset, end)),
            Extent::Gap { end, used: false, .. } => (end, extent_fields("zeros", offset, end)),
        };
        extents.push(Value::Fields(shown));
        offset = end;
    }
    fields.push(("contents", Value::List(extents)));
    Ok(fields)
}

fn extent_fields(what: &str, offset: u64, end: u64) -> Fields {
    vec![("what", Value::text(what)), ("offset", offset.into()), ("bytes", (end - offset).into())]
}

fn piece_fields(piece: &Piece) -> Fields {
    let header = &piece.header;
    let mut fields = extent_fields("piece", piece.offset, piece.end);
    fields.extend([
        ("row", Value::from(header.row.get())),
        ("column", Value::from(u32::from(header.column))),
        ("blocks", header.blocks.get().into()),
        ("payload_bytes", header.payload_bytes().into()),
        ("carries_table", Value::Flag(header.carries_table())),
        ("row_digest", Value::Text(format!("{:032x}", header.row_digest.get()))),
    ]);
    let payload = (!piece.payload_faults.is_empty()).then(|| format!("payload: {:?}", piece.payload_faults));
    let faults: Vec<String> = piece.head_fault.map(str::to_owned).into_iter().chain(payload).collect();
    if !faults.is_empty() {
        fields.push((DAMAGE, Value::Text(faults.join("; "))));
    }
    fields
}

/// Every block of a piece, as it opens.
fn block_values<D: Disk>(column: &Column<D>, piece: &mut Piece) -> Vec<Value> {
    let mut values = Vec::new();
    column.each_block(piece, |offset, opened| {
        let mut fields = vec![("offset", offset.into())];
        match opened {
            Err(error) => fields.push((DAMAGE, Value::text(error))),
            Ok(block) => fields.extend([
                ("block", block.header.block.into()),
                ("bytes", block.header.block_bytes().into()),
                ("opens", Value::Flag(true)),
            ]),
        }
        values.push(Value::Fields(fields));
    });
    values
}

fn table_value(number: usize, block: &TableBlock) -> Value {
    let chunks = block
        .entry
        .chunks
        .iter()
        .map(|chunk| Value::Fields(vec![("id", Value::text(chunk.id)), ("plain_bytes", chunk.plain_bytes.into())]));
    Value::Fields(vec![
        ("block", number.into()),
        ("column", Value::from(u32::from(block.column))),
        ("offset", block.offset.into()),
        ("bytes", block.block_bytes.into()),
        ("codec", Value::Text(format!("{:?}", block.entry.codec).to_lowercase())),
        ("domain", block.entry.domain.0.into()),
        ("payload_bytes", block.entry.payload_bytes.into()),
        ("chunks", Value::List(chunks.collect())),
    ])
}
