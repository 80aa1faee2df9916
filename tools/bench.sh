#!/usr/bin/env bash
# Runs the measurements and writes them, with machine, date and commit, into docs/bench/.
set -euo pipefail
cd "$(dirname "$0")/.."
bench=$1
out=docs/bench/pipeline.md
mkdir -p docs/bench
{
    echo "# In-memory write pipeline, one core"
    echo
    echo "Made by \`make bench\`. Medians of interleaved rounds; compare ratios, not absolute numbers of two machines."
    echo
    echo "- machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores, Linux $(uname -r)"
    echo "- date: $(date -u +%Y-%m-%d)"
    echo "- commit: $(git describe --always --dirty)"
    for data in random text; do
        echo
        echo "## $data"
        echo
        echo '```'
        "$bench" pipeline --data "$data"
        echo '```'
    done
} | tee "$out.tmp"
mv "$out.tmp" "$out"
echo "written to $out"
