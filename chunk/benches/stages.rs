//! Throughput of each stage between stream and row, per core.
//!
//! `cargo bench -p chunk --features portable` also measures the portable cipher.

use std::hint::black_box;

use chunk::similar::features;
use chunk::{ChunkerId, DomainKey, InputEnd, chunker, compress, compress_block, decompress, is_incompressible};
use criterion::{Criterion, Throughput};
use proto::disk::Codec;
use proto::port::Cipher;

const CHUNK_BYTES: usize = 64 << 10;
const STREAM_BYTES: usize = 8 << 20;

/// Source text, repeated with a running number so that it compresses about as well as source code does.
fn text(len: usize) -> Vec<u8> {
    let sources = [include_str!("../src/ring.rs"), include_str!("../src/block.rs"), include_str!("../src/cut.rs")];
    let lines = sources.iter().flat_map(|source| source.lines());
    let mut text = String::with_capacity(len + 256);
    for (number, line) in lines.cycle().enumerate() {
        if text.len() >= len {
            break;
        }
        text.push_str(&format!("{:x} {line}\n", number * 0x9e37_79b9));
    }
    text.truncate(len);
    text.into_bytes()
}

/// Incompressible bytes: a keystream.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    chunk::cipher(&[1; 32]).seal(&[0; 12], &[], &mut bytes);
    bytes
}

fn ciphers() -> Vec<(&'static str, Box<dyn Cipher>)> {
    vec![
        #[cfg(feature = "aws-lc")]
        ("aws-lc", Box::new(chunk::seal::AwsLcCipher::new(&[2; 32]))),
        #[cfg(feature = "portable")]
        ("portable", Box::new(chunk::seal::PortableCipher::new(&[2; 32]))),
    ]
}

fn stages(criterion: &mut Criterion) {
    let stream = noise(STREAM_BYTES);
    let (random, text) = (&stream[..CHUNK_BYTES], text(CHUNK_BYTES));

    let mut group = criterion.benchmark_group("cut");
    group.throughput(Throughput::Bytes(STREAM_BYTES as u64));
    let chunker = chunker(ChunkerId::FASTCDC_64_KIB).expect("chunker 1 exists");
    group.bench_function("fastcdc", |bencher| {
        bencher.iter(|| {
            let mut rest = &stream[..];
            while let Some(length) = chunker.cut(black_box(rest), InputEnd::Last) {
                rest = &rest[length..];
            }
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(CHUNK_BYTES as u64));
    let key = DomainKey::new([3; 32]);
    group.bench_function("id", |bencher| bencher.iter(|| key.chunk_id(black_box(random))));
    group.bench_function("memcpy", |bencher| bencher.iter(|| black_box(random).to_vec()));
    group.bench_function("features", |bencher| bencher.iter(|| features(black_box(random))));
    group.bench_function("probe", |bencher| bencher.iter(|| is_incompressible(black_box(random))));
    for (name, plain) in [("text", &text[..]), ("random", random)] {
        group.bench_function(format!("lz4/{name}"), |bencher| {
            bencher.iter(|| lz4_flex::block::compress(black_box(plain)));
        });
        group.bench_function(format!("compress/{name}"), |bencher| {
            bencher.iter(|| compress(black_box(plain)).1.len());
        });
    }
    let payload = lz4_flex::block::compress(&text);
    group.bench_function("decompress/text", |bencher| {
        bencher.iter(|| decompress(Codec::Lz4, black_box(&payload), CHUNK_BYTES));
    });
    let (codec, warm) = compress_block(&[&text]);
    group.bench_function("zstd/text", |bencher| bencher.iter(|| compress_block(&[black_box(&text)])));
    group.bench_function("unzstd/text", |bencher| {
        bencher.iter(|| decompress(codec, black_box(&warm), CHUNK_BYTES));
    });
    for (name, cipher) in ciphers() {
        let mut bytes = random.to_vec();
        group.bench_function(format!("seal/{name}"), |bencher| {
            bencher.iter(|| cipher.seal(&[4; 12], b"", black_box(&mut bytes)));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    stages(&mut criterion);
    criterion.final_summary();
}
