# What bare `just` prints
[private]
help:
    @just --list --unsorted

# A worker by the example configuration, with a Redis of its own; more flags may follow
run *args:
    cargo run -p hats-worker -- --config examples/worker1.config {{args}}

# Everything that continuous integration checks
test *args:
    tests/run.sh {{args}}

# Format the tree
fmt:
    cargo fmt --all

# Lints, warnings as errors
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# The API documentation, warnings as errors
doc *args:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace {{args}}

# Licences, bans and sources of the dependencies (needs cargo-deny)
deny:
    cargo deny check bans licenses sources

# The figures of the product beside Redis' own, medians of several runs
bench *args:
    cargo build --release -p hats-worker
    cargo bench -p hats-tests --bench figures {{args}}

# The long forms of the tests that wait for faults
soak *args:
    HATS_PREEMPTIONS=1000000 cargo test --release -p hats-arena --lib preempted_at_random_instructions -- --nocapture
    cargo build -p hats-worker
    HATS_SOAK=1 cargo test -p hats-tests --test it {{args}} -- --nocapture

# Ten minutes of random JavaScript that is preempted and killed at random moments; after a crash the file has the program
fuzz seconds="600":
    HATS_FUZZ_SECONDS={{seconds}} HATS_FUZZ_FIRST=$(date +%s)000000 HATS_FUZZ_PROGRAM={{justfile_directory()}}/target/fuzz-program.js \
        cargo test --release -p hats-arena --lib random_programs -- --nocapture

# Longer runs of the property tests
properties *args:
    PROPTEST_CASES=20000 cargo test --workspace --lib {{args}}

# The tests of interpreters that are reset, under AddressSanitizer
sanitize:
    tests/sanitize.sh

# Traces as a collector gets them: a build with the feature otlp, and its tests
otlp-test *args:
    cargo test -p hats-worker --features otlp --test otlp {{args}}

# The image, built for real and run against a real Redis (root on Debian; installs buildah, debootstrap, redis-server)
image-test *args:
    docker/tests/image.sh {{args}}

# The manifests against the schemas of Kubernetes, Compose, Helm and Prometheus (fetches packages of Python)
manifests:
    docker/tests/manifests.sh
