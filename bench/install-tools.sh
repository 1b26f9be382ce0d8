#!/usr/bin/env bash
# Installs the load generators that are missing: wrk (a package of the system) and oha (cargo). `--quick`: wrk alone.
set -euo pipefail

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

install_wrk() {
    if command -v apt-get >/dev/null; then
        as_root apt-get update -qq
        DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends wrk
    elif command -v brew >/dev/null; then
        brew install wrk
    else
        echo "wrk is missing: install the package wrk of your system" >&2
        exit 1
    fi
}

command -v wrk >/dev/null || install_wrk
[ "${1:-}" = --quick ] && exit 0

if ! command -v oha >/dev/null && ! [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/oha" ]; then
    if ! command -v cargo >/dev/null; then
        echo "oha is missing, and cargo, which builds it: install Rust, or the package oha of your system" >&2
        exit 1
    fi
    cargo install oha --locked
fi
