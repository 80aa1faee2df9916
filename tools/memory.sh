#!/usr/bin/env bash
# Most memory that a dfsd takes while 8 clients upload incompressible files at the same time, and then read them back.
#
#   tools/memory.sh DFSD [MIB...]     sizes of one file, one run on a fresh directory for each; default: 256 1024 4096
#
# Fails if a run takes more than 512 MiB. A run needs 8 times its size of free space in $TMPDIR; one that finds less
# uploads data that repeats every 256 MiB, of which the server stores each part once, and says so.
set -euo pipefail

dfsd=${1:?usage: tools/memory.sh DFSD [MIB...]}
shift
sizes=("${@:-}")
[ -n "${sizes[0]}" ] || sizes=(256 1024 4096)
clients=8
rss_mib_max=512

work=$(mktemp -d)
server=
cleanup() {
    [ -z "$server" ] || kill -9 "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

# Writes $3 MiB that do not compress, of which every $2 MiB are the same; $1 tells clients apart.
incompressible() {
    for ((written = 0; written < $3; written += $2)); do
        head -c "$2M" /dev/zero | openssl enc -aes-128-ctr -K "$(printf '%032x' "$1")" -iv "$(printf '%032x' 0)"
    done
}

status=0
printf '%8s  %10s  %12s  %12s\n' 'file MiB' 'upload s' 'upload MiB' 'download MiB'
for mib in "${sizes[@]}"; do
    free_mib=$(df --output=avail -m "$work" | tail -1)
    part_mib=$mib
    if ((free_mib < clients * mib + 8192)); then
        part_mib=$((mib < 256 ? mib : 256))
        echo "$mib: the data repeats every $part_mib MiB, because only $free_mib MiB of space are free"
    fi
    data=$work/data
    "$dfsd" serve --data "$data" --listen 127.0.0.1:0 >"$work/ready" 2>"$work/log" &
    server=$!
    until grep -q ready "$work/ready"; do
        kill -0 "$server" || { cat "$work/log"; exit 1; }
        sleep 0.1
    done
    url=$(sed 's/.*\(http:[^ ]*\) .*/\1/' "$work/ready")/api/v1/fs
    auth="Authorization: Bearer $(cat "$data/root-token")"
    peak_mib() { awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/$server/status"; }

    begin=$(date +%s.%N)
    uploads=()
    for ((client = 0; client < clients; client++)); do
        incompressible "$client" "$part_mib" "$mib" | curl -sSf -H "$auth" -T - -o "$work/answer-$client" "$url/f$client" &
        uploads+=($!)
    done
    for upload in "${uploads[@]}"; do wait "$upload"; done
    seconds=$(echo "$(date +%s.%N) $begin" | awk '{ printf "%.1f", $1 - $2 }')
    uploading=$(peak_mib)

    downloads=()
    for ((client = 0; client < clients; client++)); do
        (($(curl -sSf -H "$auth" "$url/f$client" | wc -c) == mib << 20)) &
        downloads+=($!)
    done
    for download in "${downloads[@]}"; do wait "$download"; done
    downloading=$(peak_mib)

    printf '%8d  %10s  %12d  %12d\n' "$mib" "$seconds" "$uploading" "$downloading"
    ((downloading <= rss_mib_max)) || status=1
    kill "$server"
    wait "$server" || true
    server=
    rm -rf "$data"
done
[ "$status" = 0 ] || echo "more than $rss_mib_max MiB"
exit "$status"
