#!/usr/bin/env bash
# The tests of interpreters that are reset, under AddressSanitizer: Rust's code and the engine's own sources. What the
# arenas have not handed out is poisoned, so the engine may not touch that either. Builds into a folder of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address --cfg hats_asan"
# Frames of a fiber are on a stack that the sanitizer has not made.
export ASAN_OPTIONS=detect_stack_use_after_return=0
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/asan"
# Named, so that scripts of builds, which run here, are not instrumented.
host=$(rustc -vV | sed -n 's/^host: //p')

cargo test -p hats-arena --lib --target "$host"
cargo test -p hats-script --lib --target "$host" warm
