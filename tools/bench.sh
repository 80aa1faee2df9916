#!/usr/bin/env bash
# Runs the measurements and writes them, with machine, date and commit, into docs/bench/.
#
#   tools/bench.sh target/release/dfs-bench
#
# CORPUS=DIR       also stores and restores that tree (docs/bench/corpus.md), compacts it (docs/bench/compaction.md), and
#                  tells what warm blocks would save of it (docs/bench/similar.md), and how to choose its codecs
#                  (docs/bench/codec.md); the files are the versions of one backup, by name
# HELD_OUT="DIR.."  files of other kinds, on which what was learnt from the corpus is judged, and the other way round
# FILL_CHUNKS=N    also makes and opens a directory of N chunks (docs/bench/fill.md)
# PAGES="NAME .."  only these pages [default: all for which there is input]
# BENCH_DIR=DIR    a directory on the disk to measure; up to 10 GB, and 1.6 KB per chunk, are needed
#                  [default: a temporary one]
# SERVER_CORES=N   cores of the servers that are started [default: 1]
set -euo pipefail
cd "$(dirname "$0")/.."
bench=$(realpath "$1")
cores=${SERVER_CORES:-1}
scratch=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/dfs-bench.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
mkdir -p docs/bench
# Asked before the pages of this run change the tree.
commit=$(git describe --always --dirty)

# What every page begins with: a title, and where and when its numbers were made.
page() {
    echo "# $1"
    echo
    echo "Made by \`make bench\`. Compare ratios, not absolute numbers of two machines."
    echo
    echo "- machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores," \
        "$(sed -n 's/^MemTotal: *//p' /proc/meminfo), Linux $(uname -r)"
    echo "- disk: $(df --output=source,fstype "$scratch" | tail -n 1 | tr -s ' ')"
    echo "- date: $(date -u +%Y-%m-%d), load before: $(cut -d ' ' -f 1 /proc/loadavg)"
    echo "- commit: $commit"
}

# A heading, the command, and what it prints; paths of this run are left out.
run() {
    echo
    echo "## $1"
    echo
    shift
    echo '```'
    echo "dfs-bench $*" | sed "s|$scratch|SCRATCH|g; s|${CORPUS:-/nowhere}|CORPUS|g; s|${HELD_OUT:-/nowhere}|HELD_OUT|g"
    echo
    "$bench" "$@"
    echo '```'
}

# Writes what the rest of its arguments print to a page, in whole or not at all.
write() {
    local out=docs/bench/$1.md
    shift
    "$@" | tee "$scratch/page"
    cp "$scratch/page" "$out"
    echo "written to $out" >&2
}

pipeline() {
    page "In-memory write pipeline"
    for data in random text; do
        run "$data" pipeline --data "$data"
    done
}

device() {
    local engines=raw,monoio
    if [ -x "$(dirname "$bench")/dfs-bench-glommio" ]; then engines=$engines,glommio; fi
    page "The disk, through several engines"
    run "$engines" device --path "$scratch" --engine "$engines"
}

# A load on a server that holds nothing yet, for what is removed is given back to the disk only later.
on_fresh_server() {
    run "$@" --serve "$scratch/load" --server-cores "$cores" --duration 5s --warmup 1s
    rm -rf "$scratch/load"
}

load() {
    page "Load on one server, client on the same machine"
    on_fresh_server "put, 64 KiB, closed loop" put --size 64KiB --concurrency 32
    on_fresh_server "put, 16 MiB, closed loop" put --size 16MiB --concurrency 4
    on_fresh_server "put, 16 MiB of text, closed loop" put --data text --size 16MiB --concurrency 4
    on_fresh_server "get, 64 KiB, closed loop" get --size 64KiB --concurrency 32
    on_fresh_server "get, 16 MiB, closed loop" get --size 16MiB --files 32 --concurrency 4
    on_fresh_server "mixed, 64 KiB, open loop" mixed --size 64KiB --rate 300 --concurrency 32
    on_fresh_server "meta, closed loop" meta --concurrency 64
    on_fresh_server "meta, open loop" meta --rate 1000 --concurrency 64
}

corpus() {
    page "A corpus in and out"
    # Read once, so that the disk it comes from is not what is measured.
    find "$CORPUS" -type f -exec cat {} + > /dev/null
    run "first and again" corpus "$CORPUS" --again --serve "$scratch/corpus" --server-cores "$cores"
}

compaction() {
    page "Compaction: what it saves, what it costs, what it holds up"
    find "$CORPUS" -type f -exec cat {} + > /dev/null
    run "nightly backups, collected; then every second one removed" \
        corpus "$CORPUS" --collect --half --serve "$scratch/compaction" --server-cores "$cores"
    rm -rf "$scratch/compaction" "$scratch/compaction.rest"
    run "versions stored one after another" fragmentation "$CORPUS" --serve "$scratch/versions" --server-cores "$cores"
    rm -rf "$scratch/versions"
    beside_compaction
}

# The same open loop on an idle server, while 1.3 GB of text are compacted with the default budget, and after that. Server
# and client have a core each.
beside_compaction() {
    local url=http://127.0.0.1:7499 data=$scratch/beside server loop
    loop=(mixed --size 64KiB --files 200 --rate 200 --duration 6s --url "$url" --token-file "$data/root-token")
    taskset -c 0 "$(dirname "$bench")/dfsd" serve --data "$data" --listen "${url#http://}" --cores 1 --gc-interval 0 \
        > "$scratch/beside.log" 2>&1 &
    server=$!
    until grep -q ready "$scratch/beside.log"; do kill -0 "$server" && sleep 0.1; done
    "$bench" put --data text --size 8MiB --count 160 --concurrency 4 --keep --prefix /fill \
        --url "$url" --token-file "$data/root-token" > /dev/null
    run "idle" "${loop[@]}"
    run "idle, again" "${loop[@]}"
    curl -sf -H "authorization: Bearer $(cat "$data/root-token")" -X POST "$url/api/v1/gc/run" > /dev/null
    run "while 1.3 GB are compacted" "${loop[@]}"
    run "while they are compacted, again" "${loop[@]}"
    # Else the two before measured nothing.
    curl -sf -H "authorization: Bearer $(cat "$data/root-token")" "$url/api/v1/gc" | grep -q '"phase":"compact"'
    kill "$server"
    wait "$server" || true
    rm -rf "$data"
}

similar() {
    page "Similar chunks in warm blocks, in memory"
    run "cores" similar "$CORPUS"
    run "blocks" similar "$CORPUS" --cores 2 --block 128KiB,256KiB,512KiB,1MiB
    run "levels" similar "$CORPUS" --cores 2 --level 1,3,6
}

codec() {
    page "Rules that choose a block's codec, in memory"
    # Several directories in one variable.
    # shellcheck disable=SC2086
    for stage in ingest compaction; do
        run "$stage" codec "$CORPUS" --stage "$stage" ${HELD_OUT:+--held-out $HELD_OUT}
    done
}

fill() {
    page "Very many chunks"
    run "fill" fill --data "$scratch/fill" --chunks "$FILL_CHUNKS"
    run "open after a clean end" fill --data "$scratch/fill" --reopen
    run "a few more, then an end as by kill -9" fill --data "$scratch/fill" --chunks $((FILL_CHUNKS + FILL_CHUNKS / 50)) --no-close
    run "open after that" fill --data "$scratch/fill" --reopen
}

for page in ${PAGES:-pipeline device load ${CORPUS:+corpus compaction similar codec} ${FILL_CHUNKS:+fill}}; do
    write "$page" "$page"
done
