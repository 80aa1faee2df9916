//! Logs and snapshots.

use std::collections::BTreeMap;

use meta::{Command, Content, LogBatch, LogEnd, ManifestEntry, MetaFile, Pair, SnapshotFramePairs, SoloOptions};
use proto::ChunkId;
use proto::disk::{SnapshotHeader, WalHeader};
use proto::port::Disk;

use super::value::{DAMAGE, Value};
use super::{InspectError, Pairs, Source};
use crate::fsck::meta_options;
use crate::manifest::location_of;

type Fields = Vec<(&'static str, Value)>;

impl<D: Disk> Source<D> {
    /// Every log in brief, or one with each command.
    pub(super) async fn logs(&self, file: Option<&str>) -> Result<Value, InspectError> {
        let options = self.meta_options()?;
        let mut logs = Vec::new();
        for found in self.meta_files(&options).await? {
            if let MetaFile::Log { name, sequence } = found
                && is_asked_for(&name, file)
            {
                logs.push(log_value(&options, name, sequence, file.is_some()).await);
            }
        }
        found("logs", logs, file)
    }

    /// Every snapshot, or one.
    pub(super) async fn snapshots(&self, file: Option<&str>, pairs: Pairs) -> Result<Value, InspectError> {
        let options = self.meta_options()?;
        let mut snapshots = Vec::new();
        for found in self.meta_files(&options).await? {
            if let MetaFile::Snapshot { name, last_lsn } = found
                && is_asked_for(&name, file)
            {
                snapshots.push(snapshot_value(&options, name, last_lsn, pairs).await);
            }
        }
        found("snapshots", snapshots, file)
    }

    fn meta_options(&self) -> Result<SoloOptions<D>, InspectError> {
        meta_options(&self.devices, &self.keys).ok_or(InspectError::NoMetadata)
    }

    async fn meta_files(&self, options: &SoloOptions<D>) -> Result<Vec<MetaFile>, InspectError> {
        MetaFile::list(options).await.map_err(|error| InspectError::Device(error.to_string()))
    }
}

/// Whether `file`, a name with or without its directory, is `name`; everything is asked for when no file is named.
fn is_asked_for(name: &str, file: Option<&str>) -> bool {
    file.is_none_or(|file| name == file || name.strip_prefix("meta/") == Some(file))
}

fn found(what: &'static str, values: Vec<Value>, file: Option<&str>) -> Result<Value, InspectError> {
    match file {
        Some(file) if values.is_empty() => Err(InspectError::NotFound(file.to_owned())),
        _ => Ok(Value::Fields(vec![(what, Value::List(values))])),
    }
}

async fn log_value<D: Disk>(options: &SoloOptions<D>, name: String, sequence: u64, with_commands: bool) -> Value {
    let mut batches = Vec::new();
    let (mut batch_count, mut command_count, mut last_lsn) = (0u64, 0u64, None);
    let read = LogBatch::read_all(options, sequence, |batch| {
        batch_count += 1;
        command_count += batch.commands.len() as u64;
        last_lsn = Some(batch.first_lsn.0 + batch.commands.len() as u64 - 1);
        if with_commands {
            batches.push(batch_value(&batch));
        }
    });
    let read = read.await;
    let mut fields: Fields = vec![("file", Value::Text(name))];
    match read {
        Err(error) => fields.push((DAMAGE, Value::text(error))),
        Ok((header, end)) => {
            fields.extend(header.as_ref().map(log_header_fields).unwrap_or_default());
            fields.push((
                "end",
                Value::Text(match end {
                    LogEnd::NoHeader => "no header: the file was never finished".to_owned(),
                    LogEnd::Zeros { offset } => format!("zeros from {offset} on"),
                    LogEnd::Torn { offset } => format!("part of a write at {offset}, followed by no batch"),
                }),
            ));
        }
    }
    fields.extend([("batches", Value::Number(batch_count)), ("commands", Value::Number(command_count))]);
    fields.extend(last_lsn.map(|last_lsn| ("last_lsn", Value::Number(last_lsn))));
    if with_commands {
        fields.push(("contents", Value::List(batches)));
    }
    Value::Fields(fields)
}

fn log_header_fields(header: &WalHeader) -> Fields {
    vec![
        ("sequence", header.sequence.get().into()),
        ("stream", header.stream.get().into()),
        ("first_lsn", header.first_lsn.get().into()),
        ("device", Value::text(header.device)),
        ("tag", Value::text(header.tag)),
        ("ring_key", header.ring_key.get().into()),
        ("created_unix_ns", header.created_unix_ns.get().into()),
    ]
}

fn batch_value(batch: &LogBatch) -> Value {
    let commands = batch.commands.iter().zip(batch.first_lsn.0..).map(|(command, lsn)| {
        Value::Fields(vec![("lsn", lsn.into()), ("command", Value::Text(command_text(command)))])
    });
    Value::Fields(vec![
        ("offset", batch.offset.into()),
        ("bytes", batch.bytes.into()),
        ("first_lsn", batch.first_lsn.0.into()),
        ("commands", Value::List(commands.collect())),
    ])
}

/// A command without the content of files and without wrapped keys.
fn command_text(command: &Command) -> String {
    match command {
        Command::CommitFile { at, content, attributes, condition, session, now_ns, pin_epoch } => format!(
            "CommitFile {{ at: {at:?}, content: {}, attributes: {attributes:?}, condition: {condition:?}, \
             session: {session:?}, now_ns: {now_ns}, pin_epoch: {pin_epoch} }}",
            content_text(content)
        ),
        Command::CreateDomain { domain, chunker, ring_key, .. } => {
            format!("CreateDomain {{ domain: {domain}, chunker: {chunker}, ring_key: {ring_key} }}")
        }
        other => format!("{other:?}"),
    }
}

fn content_text(content: &Content) -> String {
    match content {
        Content::Inline(bytes) => format!("Inline({} bytes)", bytes.len()),
        Content::Chunks { size, domain, depth, entries } => {
            format!("Chunks {{ size: {size}, domain: {domain}, depth: {depth}, entries: {} }}", entries.len())
        }
    }
}

async fn snapshot_value<D: Disk>(options: &SoloOptions<D>, name: String, last_lsn: u64, shown: Pairs) -> Value {
    let mut fields: Fields = vec![("file", Value::Text(name))];
    let mut kinds: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut frames, mut pairs) = (Vec::new(), Vec::new());
    let header = |header: &SnapshotHeader| fields.extend(snapshot_header_fields(header));
    let read = SnapshotFramePairs::read_all(options, last_lsn, header, |frame| {
        frames.push(Value::Fields(vec![("offset", frame.offset.into()), ("pairs", frame.pairs.len().into())]));
        for pair in &frame.pairs {
            *kinds.entry(pair_kind(pair)).or_default() += 1;
            if shown == Pairs::Shown {
                pairs.push(pair_value(pair));
            }
        }
    });
    let read = read.await;
    if let Err(error) = read {
        fields.push((DAMAGE, Value::text(error)));
    }
    fields.push(("frames_read", Value::List(frames)));
    fields.push(("kinds", Value::Fields(kinds.into_iter().map(|(kind, count)| (kind, count.into())).collect())));
    if shown == Pairs::Shown {
        fields.push(("contents", Value::List(pairs)));
    }
    Value::Fields(fields)
}

fn snapshot_header_fields(header: &SnapshotHeader) -> Fields {
    vec![
        ("last_lsn", header.last_lsn.get().into()),
        ("wal_sequence", header.wal_sequence.get().into()),
        ("frames", header.frames.get().into()),
        ("pairs", header.pairs.get().into()),
        ("tag", Value::text(header.tag)),
        ("ring_key", header.ring_key.get().into()),
        ("created_unix_ns", header.created_unix_ns.get().into()),
    ]
}

fn pair_kind(pair: &Pair) -> &'static str {
    match pair {
        Pair::Name { .. } => "name",
        Pair::Directory { .. } => "directory",
        Pair::Inode { .. } => "inode",
        Pair::Version { .. } => "version",
        Pair::Segment { .. } => "segment",
        Pair::Domain { .. } => "domain",
        Pair::Counters(_) => "counters",
        Pair::SlotCounter { .. } => "slot_counter",
        Pair::Other { .. } => "other",
    }
}

fn pair_value(pair: &Pair) -> Value {
    let mut fields: Fields = vec![("kind", Value::text(pair_kind(pair)))];
    match pair {
        Pair::Name { directory, name, inode, kind } => fields.extend([
            ("directory", Value::text(directory)),
            ("name", Value::text(name)),
            ("inode", Value::text(inode)),
            ("value", Value::Text(format!("{kind:?}"))),
        ]),
        Pair::Directory { directory, entries, retention } => {
            fields.extend([("directory", Value::text(directory)), ("entries", Value::from(*entries))]);
            fields.extend(retention.map(|retention| ("retention", Value::Text(format!("{retention:?}")))));
        }
        Pair::Inode { key, record } => {
            fields.extend([("inode", Value::text(key)), ("value", Value::Text(format!("{record:?}")))]);
        }
        Pair::Version { inode, version, content } => {
            fields.extend([
                ("inode", Value::text(inode)),
                ("version", version.0.into()),
                ("value", Value::Text(content_text(content))),
            ]);
            if let Content::Chunks { entries, .. } = content {
                fields.push(("entries", Value::List(entries.iter().map(entry_value).collect())));
            }
        }
        Pair::Segment { key, record } => {
            fields.extend([("segment", Value::text(key)), ("value", Value::Text(format!("{record:?}")))]);
        }
        Pair::Domain { key, record } => fields.extend([
            ("domain", key.0.into()),
            ("chunker", record.chunker.into()),
            ("ring_key", record.ring_key.into()),
        ]),
        Pair::Counters(counters) => fields.push(("value", Value::Text(format!("{counters:?}")))),
        Pair::SlotCounter { slot, next } => {
            fields.extend([("slot", u32::from(*slot).into()), ("next", Value::from(*next))]);
        }
        Pair::Other { kind } => fields.push(("value", Value::text(kind))),
    }
    Value::Fields(fields)
}

fn entry_value(entry: &ManifestEntry) -> Value {
    let hint = location_of(entry);
    Value::Fields(vec![
        ("id", Value::text(ChunkId(entry.id))),
        ("bytes", entry.bytes.into()),
        ("segment", Value::text(hint.segment)),
        ("column", Value::from(u32::from(hint.column))),
        ("offset", hint.offset.into()),
        ("ordinal", Value::from(u32::from(hint.ordinal))),
    ])
}
