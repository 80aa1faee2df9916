#!/usr/bin/env bash
# Runs fuzz targets under libFuzzer, guided by coverage, on stable Rust: fuzz-long.sh MINUTES [TARGET…]
#
# The minutes are divided among the targets, all of them if none is named. What is found on the way to more coverage stays
# in TARGET_DIR/fuzz/corpus, so that the next run goes on from there; inputs that fail are TARGET_DIR/fuzz/TARGET-*.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${1:?how many minutes?}
shift
directory=$(realpath -m "${CARGO_TARGET_DIR:-target}/fuzz")
host=$(rustc -vV | sed -n 's/^host: //p')

# What `cargo fuzz run -s none` passes too: each edge counts how often it was taken, and comparisons tell their operands.
coverage="-Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    coverage+=" -Cllvm-args=-sanitizer-coverage-$option"
done
# A target of its own keeps the flags from build scripts.
RUSTFLAGS="$coverage" cargo build --release --target "$host" --manifest-path fuzz/libfuzzer/Cargo.toml \
    --target-dir "$directory/build"
program=$directory/build/$host/release/dfs-libfuzzer

targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(cargo run --quiet -p fuzz -- --list)
seconds=$((minutes * 60 / ${#targets[@]}))
failed=()
for target in "${targets[@]}"; do
    corpus=$directory/corpus/$target
    mkdir -p "$corpus"
    log=$directory/$target.log
    echo "$target: $seconds seconds, log in $log"
    DFS_FUZZ_TARGET=$target DFS_FUZZ_CORPUS=$corpus "$program" "$corpus" -artifact_prefix="$directory/$target-" \
        -max_total_time="$seconds" -timeout=30 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1 || failed+=("$target")
    grep -aE "^Done |^stat::number_of_executed_units|SUMMARY|panicked at" "$log" | sed 's/^/    /' || true
done
if ((${#failed[@]})); then
    echo "failed: ${failed[*]}; the logs name the input, and its way back is" >&2
    echo "    cargo run -p fuzz -- --replay INPUT TARGET" >&2
    exit 1
fi
