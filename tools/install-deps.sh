#!/usr/bin/env bash
# Installs what building and testing DFS needs and this machine lacks. Says what it does; installs nothing twice.
set -euo pipefail

have() { command -v "$1" >/dev/null 2>&1; }

packages=()
have cc || packages+=(gcc libc6-dev)
have make || packages+=(make)
have curl || packages+=(curl)
# The fault file system of the tests is mounted by these, and faketime makes clocks jump.
have fusermount3 || packages+=(fuse3)
have faketime || packages+=(faketime)
if ((${#packages[@]})); then
    echo "installing ${packages[*]}"
    if ! have apt-get; then
        echo "error: no apt-get here; install the equivalents of: ${packages[*]}" >&2
        exit 1
    fi
    sudo=""
    if ((EUID != 0)); then
        have sudo || { echo "error: installing packages needs root or sudo" >&2; exit 1; }
        sudo=sudo
    fi
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${packages[@]}"
fi

if ! have cargo; then
    echo "error: Rust is missing; install it from https://rustup.rs (1.95 or newer), then run this again" >&2
    exit 1
fi
for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
done
have cargo-nextest || cargo install --locked cargo-nextest
echo "all dependencies are installed"
