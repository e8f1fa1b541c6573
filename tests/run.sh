#!/usr/bin/env bash
# Checks the whole tree: format, lints, documentation, licences, and every test. Continuous integration calls this and
# nothing else. Servers that tests need are started by the tests, on free ports and in temporary folders.
#
# On Debian as root it installs what is missing; elsewhere it says what to install and stops.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

skipped=()
step() { printf '\n== %s\n' "$*"; }
skip() { skipped+=("$1"); printf 'skipped: %s\n' "$1"; }

# Each line: what must be there, and the Debian package that has it.
needs() {
  cat <<'END'
command:cc gcc
command:redis-server redis-server
command:redis-cli redis-tools
command:faketime faketime
command:node nodejs
command:npm npm
command:tar tar
library:libfaketime.so.1 libfaketime
command:mariadbd mariadb-server
command:mariadb mariadb-client
command:promtool prometheus
postgres:initdb postgresql
postgres:psql postgresql
END
}

present() {
  case $1 in
    # Debian keeps the programs of the server out of the way.
    postgres:*) compgen -G "/usr/lib/postgresql/*/bin/${1#postgres:}" >/dev/null || command -v "${1#postgres:}" >/dev/null ;;
    command:*) command -v "${1#command:}" >/dev/null ;;
    library:*) compgen -G "/usr/lib/*/faketime/${1#library:}" >/dev/null ||
      compgen -G "/usr/lib*/faketime/${1#library:}" >/dev/null ||
      compgen -G "/usr/local/lib/faketime/${1#library:}" >/dev/null ;;
  esac
}

missing() { needs | while read -r thing package; do present "$thing" || echo "$package"; done; }

step "what the tests need"
mapfile -t packages < <(missing)
if ((${#packages[@]} > 0)) && [[ -e /etc/debian_version && $EUID -eq 0 ]]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q -o Acquire::Retries=3 update
  # Run level 1 keeps the packages from starting servers of their own.
  RUNLEVEL=1 apt-get -q -y -o Acquire::Retries=3 install --no-install-recommends "${packages[@]}"
  mapfile -t packages < <(missing)
fi
if ((${#packages[@]} > 0)); then
  echo "these are missing (names of Debian's packages): ${packages[*]}" >&2
  if [[ -e /etc/debian_version ]]; then echo "try: sudo apt-get install ${packages[*]}" >&2; fi
  exit 1
fi
if ! command -v cargo >/dev/null; then
  echo "cargo is missing: install Rust 1.95 or newer, see https://rustup.rs" >&2
  exit 1
fi
cargo --version
redis-server --version

step "format"
if cargo fmt --version >/dev/null 2>&1; then
  cargo fmt --all --check
else
  skip "format (no rustfmt: rustup component add rustfmt)"
fi

step "lints"
if cargo clippy --version >/dev/null 2>&1; then
  cargo clippy --locked --workspace --all-targets -- -D warnings
else
  skip "lints (no clippy: rustup component add clippy)"
fi

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --workspace

step "licences, bans and sources of the dependencies"
if cargo deny --version >/dev/null 2>&1; then
  cargo deny --locked check bans licenses sources
else
  skip "licences, bans and sources (no cargo-deny: cargo install --locked cargo-deny)"
fi

step "tests"
# The whole-system tests start the worker as a process of its own, so its binary has to be there.
cargo build --locked -p hats-worker
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --locked --workspace --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?

step "in all"
if ((${#skipped[@]} > 0)); then printf 'skipped: %s\n' "${skipped[@]}"; fi
awk '/^test result: / { passed += $4; failed += $6; ignored += $8 }
  END { printf "tests: %d passed, %d failed, %d skipped\n", passed, failed, ignored }' "$log"
exit "$status"
