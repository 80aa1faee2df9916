//! The in-memory stages of a write on one core, each alone, and the real chain.

use std::hint::black_box;
use std::time::Instant;

use chunk::{Chunker, ChunkerId, DomainKey, InputEnd, chunker};
use ec::Code;
use proto::disk::{BlockEntry, ChunkEntry};
use proto::limits::ROW_PAYLOAD_BYTES_TARGET;
use proto::port::{AlignedBuf, Cipher};
use proto::{ChunkId, DeviceId, DomainId, Geometry, RowNumber, SegmentId, SegmentTag};
use shard::row::{CompressedBlock, RowTarget, seal_row};

use crate::data::{Kind, generate};
use crate::report::{Row, print_table};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kind of input.
    #[arg(long, value_enum, default_value = "random")]
    data: Kind,
    /// MiB of input per round.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    mib: u32,
    /// Rounds; the median is reported.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// One stage over the whole input.
type Stage = fn(&Bench);

/// What every stage needs.
struct Bench {
    input: Vec<u8>,
    chunker: Box<dyn Chunker>,
    key: DomainKey,
    cipher: std::sync::Arc<dyn Cipher>,
    code: Code,
    /// Lengths of the chunks of `input`.
    chunks: Vec<usize>,
    blocks: Vec<CompressedBlock>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let bench = Bench::new(generate(options.data, (options.mib as usize) << 20));
    let stages: [(&str, Stage); 5] = [
        ("cut (FastCDC)", Bench::cut),
        ("id (keyed BLAKE3)", Bench::id),
        ("compress (probe, LZ4)", Bench::compress),
        ("row (layout, seal, checksum)", Bench::row),
        ("chain (all of the above)", Bench::chain),
    ];
    let mut seconds = vec![Vec::new(); stages.len()];
    for _ in 0..options.rounds {
        // Stages take turns, so that a slow moment of the machine hits all of them.
        for ((_, stage), seconds) in stages.iter().zip(&mut seconds) {
            seconds.push(time(|| stage(&bench)));
        }
    }
    let rows: Vec<Row> =
        stages.iter().zip(seconds).map(|((name, _), seconds)| Row::new(name, bench.input.len(), seconds)).collect();
    let (chain, parts) = rows.split_last().expect("five stages");
    let possible = 1.0 / parts.iter().map(|row| 1.0 / row.gb_per_s).sum::<f64>();
    let efficiency = chain.gb_per_s / possible;
    if options.json {
        let report = serde_json::json!({
            "data": format!("{:?}", options.data).to_lowercase(),
            "bytes": bench.input.len(),
            "rounds": options.rounds,
            "stages": rows,
            "possible_gb_per_s": possible,
            "chain_efficiency": efficiency,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_table(&rows);
        println!("chain / (1/Σ(1/stage)) = {efficiency:.2}");
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn time(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

impl Bench {
    fn new(input: Vec<u8>) -> Bench {
        let mut bench = Bench {
            input,
            chunker: chunker(ChunkerId(1)).expect("invariant: the default chunker exists"),
            key: DomainKey::new([7; 32]),
            cipher: chunk::cipher(&[9; 32]),
            code: Code::new(1, 0).expect("invariant: 1+0 is a geometry"),
            chunks: Vec::new(),
            blocks: Vec::new(),
        };
        let mut rest = &bench.input[..];
        while let Some(bytes) = bench.chunker.cut(rest, InputEnd::Last) {
            bench.chunks.push(bytes);
            rest = &rest[bytes..];
            if rest.is_empty() {
                break;
            }
        }
        bench.blocks = bench.chunks().map(|plain| compress(ChunkId([1; 32]), plain)).collect();
        bench
    }

    fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.input[..];
        self.chunks.iter().map(move |bytes| {
            let (chunk, after) = rest.split_at(*bytes);
            rest = after;
            chunk
        })
    }

    fn cut(&self) {
        let mut rest = &self.input[..];
        while !rest.is_empty()
            && let Some(bytes) = self.chunker.cut(rest, InputEnd::Last)
        {
            rest = &rest[black_box(bytes)..];
        }
    }

    fn id(&self) {
        for chunk in self.chunks() {
            black_box(self.key.chunk_id(chunk));
        }
    }

    fn compress(&self) {
        for chunk in self.chunks() {
            black_box(compress(ChunkId([1; 32]), chunk));
        }
    }

    fn row(&self) {
        let mut rest = &self.blocks[..];
        let mut row = 1;
        while !rest.is_empty() {
            let bytes = |count: usize| rest[..count].iter().map(CompressedBlock::column_bytes).sum::<usize>();
            let count = (1..rest.len()).find(|count| bytes(*count) >= ROW_PAYLOAD_BYTES_TARGET).unwrap_or(rest.len());
            self.seal(row, &rest[..count]);
            rest = &rest[count..];
            row += 1;
        }
    }

    fn chain(&self) {
        let mut rest = &self.input[..];
        let mut blocks = Vec::new();
        let mut row_bytes = 0;
        let mut row = 1;
        while !rest.is_empty()
            && let Some(bytes) = self.chunker.cut(rest, InputEnd::Last)
        {
            let (plain, after) = rest.split_at(bytes);
            rest = after;
            let block = compress(self.key.chunk_id(plain), plain);
            row_bytes += block.column_bytes();
            blocks.push(block);
            if row_bytes >= ROW_PAYLOAD_BYTES_TARGET || rest.is_empty() {
                self.seal(row, &blocks);
                row += 1;
                row_bytes = 0;
                blocks.clear();
            }
        }
    }

    fn seal(&self, row: u64, blocks: &[CompressedBlock]) {
        let target = RowTarget {
            segment: SegmentId(1),
            tag: SegmentTag([2; 16]),
            geometry: Geometry::SINGLE,
            devices: &[DeviceId([3; 16])],
            cursors: &[4096],
            row: RowNumber(row),
            buffer: &AlignedBuf::zeroed,
        };
        black_box(seal_row(&target, &self.code, &*self.cipher, blocks));
    }
}

fn compress(id: ChunkId, plain: &[u8]) -> CompressedBlock {
    let (codec, payload) = chunk::compress(plain);
    let entry = BlockEntry {
        codec,
        domain: DomainId(0),
        payload_bytes: payload.len() as u32,
        chunks: vec![ChunkEntry { id, plain_bytes: plain.len() as u32 }],
    };
    CompressedBlock { entry, payload: payload.into_owned() }
}
