//! The in-memory stages of a write: each alone, the real chain, and the chain on several cores at once.

use std::hint::black_box;
use std::sync::Barrier;

use anyhow::Context;
use chunk::{Chunker, ChunkerId, DomainKey, InputEnd, chunker};
use ec::Code;
use proto::disk::{BlockEntry, ChunkEntry};
use proto::limits::ROW_PAYLOAD_BYTES_TARGET;
use proto::port::{AlignedBuf, Cipher};
use proto::{ChunkId, DeviceId, DomainId, Geometry, RowNumber, SegmentId, SegmentTag};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use shard::row::{CompressedBlock, RowTarget, seal_row};

use crate::clock::{now, time};
use crate::data::{Kind, generate};
use crate::report::{Printed, Table, median, print};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Kind of input.
    #[arg(long, value_enum, default_value = "random")]
    data: Kind,
    /// MiB of input per round and core.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    mib: u32,
    /// Rounds; the median is reported.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Cores that run the chain at the same time, to be compared with one; 1 leaves that out.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    cores: u16,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// One stage over the whole input.
type Stage = fn(&Bench);

const STAGES: [(&str, Stage); 5] = [
    ("cut (FastCDC)", Bench::cut),
    ("id (keyed BLAKE3)", Bench::id),
    ("compress (probe, LZ4)", Bench::compress),
    ("row (layout, seal, checksum)", Bench::row),
    ("chain (all of the above)", Bench::chain),
];

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    data: &'static str,
    bytes: usize,
    rounds: u32,
    stages: Vec<StageReport>,
    /// 1/Σ(1/stage).
    possible_gb_per_s: f64,
    /// The chain relative to that.
    chain_efficiency: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cores: Option<CoresReport>,
}

#[derive(Debug, Serialize)]
struct StageReport {
    stage: &'static str,
    gb_per_s: f64,
    /// Of one busy core, so the inverse.
    ns_per_byte: f64,
}

/// The chain on several cores at once: each has its own input, keys and memory, and shares nothing.
#[derive(Debug, Serialize)]
struct CoresReport {
    cpus: Vec<usize>,
    /// Each core while the others rest.
    alone_gb_per_s: Vec<f64>,
    /// All cores together.
    together_gb_per_s: f64,
    /// Together relative to the mean of alone; each round for itself, then the median.
    speedup: f64,
}

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
    let bytes = (options.mib as usize) << 20;
    let (stages, efficiency, possible) = stages(options, bytes);
    let cores = (options.cores > 1).then(|| on_cores(options, bytes)).transpose()?;
    let report = Report {
        data: options.data.name(),
        bytes,
        rounds: options.rounds,
        stages,
        possible_gb_per_s: possible,
        chain_efficiency: efficiency,
        cores,
    };
    print(&report, options.json)
}

/// Each stage and the chain on this thread; also the chain relative to what its stages allow, and that.
fn stages(options: &Options, bytes: usize) -> (Vec<StageReport>, f64, f64) {
    let bench = Bench::new(generate(options.data, 1, bytes));
    let mut seconds = vec![Vec::new(); STAGES.len()];
    for _ in 0..options.rounds {
        // Stages take turns, so that a slow moment of the machine hits all of them.
        for ((_, stage), seconds) in STAGES.iter().zip(&mut seconds) {
            seconds.push(time(|| stage(&bench)).0);
        }
    }
    let report = |((stage, _), seconds): (&(&'static str, Stage), Vec<f64>)| {
        let seconds = median(seconds);
        StageReport { stage, gb_per_s: bytes as f64 / seconds / 1e9, ns_per_byte: seconds / bytes as f64 * 1e9 }
    };
    let stages: Vec<StageReport> = STAGES.iter().zip(seconds).map(report).collect();
    let (chain, parts) = stages.split_last().expect("invariant: there are stages");
    let possible = 1.0 / parts.iter().map(|part| 1.0 / part.gb_per_s).sum::<f64>();
    let efficiency = chain.gb_per_s / possible;
    (stages, efficiency, possible)
}

/// The chain on several cores: in each round every core alone in turn, then all together.
fn on_cores(options: &Options, bytes: usize) -> anyhow::Result<CoresReport> {
    let mut cpus = net::cpus().context("cannot ask which CPUs are there")?;
    let count = usize::from(options.cores);
    anyhow::ensure!(cpus.len() >= count, "--cores {count}, but this process may use {} CPUs only", cpus.len());
    cpus.truncate(count);
    let barrier = Barrier::new(count);
    // For each core, for each round, the seconds of its turn alone and of all together.
    let seconds: Vec<Vec<(f64, f64)>> = std::thread::scope(|scope| {
        let core = |(place, &cpu): (usize, &usize)| {
            let barrier = &barrier;
            scope.spawn(move || rounds_of_core(place, cpu, options, bytes, barrier))
        };
        let cores: Vec<_> = cpus.iter().enumerate().map(core).collect();
        let joined = cores.into_iter().map(|core| core.join().expect("invariant: the chain does not panic"));
        joined.collect::<anyhow::Result<_>>()
    })?;
    let gb_per_s = |seconds: f64| bytes as f64 / seconds / 1e9;
    let alone = seconds.iter().map(|rounds| gb_per_s(median(rounds.iter().map(|round| round.0).collect())));
    let together: Vec<f64> = (0..options.rounds as usize)
        .map(|round| {
            let slowest = seconds.iter().map(|rounds| rounds[round].1).fold(0.0, f64::max);
            count as f64 * gb_per_s(slowest)
        })
        .collect();
    let speedups = together.iter().enumerate().map(|(round, together)| {
        let alone: f64 = seconds.iter().map(|rounds| gb_per_s(rounds[round].0)).sum();
        together / (alone / count as f64)
    });
    Ok(CoresReport {
        alone_gb_per_s: alone.collect(),
        speedup: median(speedups.collect()),
        together_gb_per_s: median(together),
        cpus,
    })
}

/// One core's part: returns, for each round, the seconds of its turn alone and of all together.
fn rounds_of_core(
    place: usize,
    cpu: usize,
    options: &Options,
    bytes: usize,
    barrier: &Barrier,
) -> anyhow::Result<Vec<(f64, f64)>> {
    let mut set = CpuSet::new();
    set.set(cpu);
    let pinned = sched_setaffinity(None, &set).with_context(|| format!("cannot run on CPU {cpu}"));
    // Made on its core, so that its memory is near it.
    let bench = Bench::new(generate(options.data, 1 + place as u64, bytes));
    bench.chain();
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        let mut alone = 0.0;
        for turn in 0..usize::from(options.cores) {
            barrier.wait();
            if turn == place {
                alone = time(|| bench.chain()).0;
            }
        }
        barrier.wait();
        let start = now();
        bench.chain();
        rounds.push((alone, start.elapsed().as_secs_f64()));
    }
    // Only now: a core that left early would leave the others at the barrier.
    pinned.map(|()| rounds)
}

impl Printed for Report {
    fn words(&self) -> String {
        let mut table = Table::new(&["stage", "GB/s", "ns/byte"]);
        for StageReport { stage, gb_per_s, ns_per_byte } in &self.stages {
            table.row([(*stage).to_owned(), format!("{gb_per_s:.2}"), format!("{ns_per_byte:.3}")]);
        }
        let mut words = format!("{table}chain / (1/Σ(1/stage)) = {:.2}\n", self.chain_efficiency);
        if let Some(cores) = &self.cores {
            words += &format!("\nchain on CPUs {:?}, GB/s: alone", cores.cpus);
            for gb_per_s in &cores.alone_gb_per_s {
                words += &format!(" {gb_per_s:.2}");
            }
            let count = cores.cpus.len();
            words += &format!(", together {:.2}\n", cores.together_gb_per_s);
            words += &format!("{count} cores / 1 core = {:.2}\n", cores.speedup);
        }
        words
    }
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
