#!/usr/bin/env bash
# Builds the image for real, without a daemon and without a registry, and runs what is in it against a real Redis:
# `just image-test`. It is not part of the continuous integration: it wants root, Debian and some minutes.
#
#   docker/tests/image.sh [BINARY]
#
# BINARY is a hats-worker that was built on this Debian; without it, it is built. The base of the image is made by
# debootstrap (packages of Debian, about 220 MB) and given as build argument RUNTIME. On Debian as root the script installs
# buildah, debootstrap and redis-server if they are missing. All else is in a temporary folder, which it removes.
# HATS_IMAGE_BASE=DIR: the base is there, or is made there and kept for the next time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

step() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

step "what the test needs"
packages=()
for package in buildah debootstrap redis-server; do command -v "$package" >/dev/null || packages+=("$package"); done
if ((${#packages[@]} > 0)); then
  if [[ ! -e /etc/debian_version || $EUID -ne 0 ]]; then
    fail "these are missing: ${packages[*]}; as root on Debian they are installed"
  fi
  echo "installing ${packages[*]}"
  apt-get -q update
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "${packages[@]}"
fi
[[ $EUID -eq 0 ]] || fail "it has to be root: to make a base and to change into the image's root file system"

work=$(mktemp -d)
children=()
end() {
  local status=$?
  for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
  if ((status != 0)); then tail -n 40 "$work"/*.log 2>/dev/null || true; fi
  if mountpoint -q "$work/root/proc" 2>/dev/null; then umount -l "$work/root/proc" || return; fi
  rm -rf --one-file-system "$work"
}
trap end EXIT

step "the binary"
binary=${1:-}
if [[ -z $binary ]]; then
  cargo build --locked --release -p hats-worker
  binary=${CARGO_TARGET_DIR:-target}/release/hats-worker
fi
# What of the tree is committed or could be, and the binary: nobody's working copy is touched.
mkdir "$work/context"
git ls-files -z --cached --others --exclude-standard | tar --null -T - -c | tar -x -C "$work/context"
mkdir -p "$work/context/docker/prebuilt"
strip --strip-debug -o "$work/context/docker/prebuilt/hats-worker" "$binary"

step "the base, made by debootstrap"
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
base=${HATS_IMAGE_BASE:-$work/base}
if [[ ! -d $base ]]; then
  debootstrap --variant=minbase --include=ca-certificates,libgcc-s1 "$release" "$base" >"$work/debootstrap.log" 2>&1
fi
buildah() { command buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"; }
container=$(buildah from scratch)
tar -C "$base" --exclude=./var/cache/apt --exclude=./var/lib/apt/lists --exclude=./usr/share/doc \
  --exclude=./usr/share/locale --exclude=./dev -cf "$work/base.tar" .
buildah add -q "$container" "$work/base.tar" / >/dev/null
buildah commit -q "$container" localhost/hats-base >/dev/null

step "the image"
buildah build -q --isolation chroot --format docker --build-arg RUNTIME=localhost/hats-base \
  --build-arg BINARY=prebuilt -f docker/Dockerfile -t localhost/hats-worker "$work/context" >"$work/build.log" 2>&1
inspect() { buildah inspect --type image --format "$1" localhost/hats-worker; }
expect() { [[ $1 == *"$2"* ]] || fail "the image says $1, expected $2"; }
expect "$(inspect '{{.Docker.Config.User}}')" 65532:65532
expect "$(inspect '{{.Docker.Config.WorkingDir}}')" /hats
expect "$(inspect '{{.Docker.Config.StopSignal}}')" SIGTERM
expect "$(inspect '{{.Docker.Config.Entrypoint}}')" /usr/local/bin/hats-worker
expect "$(inspect '{{.Docker.Config.Env}}')" HATS_EMBEDDED_REDIS=never
expect "$(inspect '{{.Docker.Config.Healthcheck.Test}}')" --health-check
expect "$(inspect '{{.Docker.Config.ExposedPorts}}')" 8787/tcp
expect "$(inspect '{{.Docker.Config.ExposedPorts}}')" 9999/tcp

step "what is in it"
container=$(buildah from localhost/hats-worker)
mounted=$(buildah mount "$container")
mkdir "$work/root"
cp -a "$mounted/." "$work/root/"
# What a container engine puts into every container.
mkdir -p "$work/root/proc" "$work/root/dev"
mount -t proc proc "$work/root/proc"
rm -rf "$work"/root/dev/{null,urandom}
mknod -m 666 "$work/root/dev/null" c 1 3
mknod -m 666 "$work/root/dev/urandom" c 1 9
[[ -f $work/root/hats/examples/hello.js ]] || fail "examples are missing"
for left_out in crates target Cargo.toml .git; do
  [[ ! -e $work/root/hats/$left_out ]] || fail "$left_out is in the image"
done
du -sh --one-file-system "$work/root/usr/local/bin/hats-worker" "$work/root" | sed "s|$work/root|/|"

# As the image says: its user, its environment, its folder.
free_port() { perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport'; }
health=$(free_port)
in_image=(env -i HATS_EMBEDDED_REDIS=never HATS_HEALTH_PORT="$health" HATS_HOST_PORT=0 HATS_BIND=127.0.0.1
  "$(command -v chroot)" --userspec=65532:65532 "$work/root" /usr/bin/env -C /hats)
worker=("${in_image[@]}" /usr/local/bin/hats-worker)
wait_for() {
  local what=$1
  shift
  for _ in $(seq 600); do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  fail "$what: it did not happen within a minute"
}

step "a forgotten address is an error"
status=0
"${worker[@]}" 2>"$work/no-address.log" || status=$?
[[ $status -eq 2 ]] || fail "exit code $status, expected 2"
cat "$work/no-address.log"

step "no worker: the health check says 1"
status=0
"${worker[@]}" --health-check 2>"$work/no-worker.log" || status=$?
[[ $status -eq 1 ]] || fail "exit code $status, expected 1"
cat "$work/no-worker.log"

step "a worker against a real redis-server"
redis=$(free_port)
redis-server --bind 127.0.0.1 --port "$redis" --dir "$work" --save '' --maxmemory-policy noeviction >"$work/redis.log" &
children+=($!)
wait_for "redis-server starts" redis-cli -p "$redis" ping
"${worker[@]}" --redis-address "127.0.0.1:$redis" --scripts examples/hello.js --worker-name image >"$work/worker.log" 2>&1 &
worker_pid=$!
children+=("$worker_pid")
wait_for "the worker is alive" "${worker[@]}" --health-check
wait_for "the worker is ready" "${worker[@]}" --health-check=readyz
"${worker[@]}" --health-check
"${worker[@]}" --health-check=readyz
field() { redis-cli -p "$redis" HGET "default:Threads:examples/hello.js" "$1"; }
running() { [[ $(field State) == running ]]; }
wait_for "examples/hello.js runs" running
wait_for "examples/hello.js speaks" grep -q 'examples/hello.js' "$work/worker.log"
grep 'examples/hello.js' "$work/worker.log" | tail -n 3
# The process in the root file system, its user among the rest, which is root to nobody.
grep -q '^Uid:[[:space:]]*65532' "/proc/$worker_pid/status" || fail "it does not run as 65532"

step "SIGTERM drains"
kill -TERM "$worker_pid"
status=0
wait "$worker_pid" || status=$?
[[ $status -eq 0 ]] || fail "exit code $status, expected 0"
[[ $(field State) == stopped ]] || fail "the thread is $(field State), expected stopped"
tail -n 2 "$work/worker.log"

step "passed"
