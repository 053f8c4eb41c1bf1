# Short names for what is done often; `just` lists them. Everything works without just, too.

default:
    @just --list --unsorted

# A development vault on 127.0.0.1:7443, state in .ibyok-dev
dev *ARGS:
    cargo run --release -- dev {{ARGS}}

# The whole test command, or some parts: just test format clippy
test *PARTS:
    ./test {{PARTS}}

# Kill the server 2,000 times under its writers, instead of the 200 of the test command
crash-long CYCLES="2000":
    CRASH_CYCLES={{CYCLES}} cargo test --release -p ibyok --test it --locked -- --nocapture crash::

# Fuzz each target, or those named, for so many seconds: just fuzz-long 3600 request token
fuzz-long SECONDS="3600" *TARGETS:
    tools/fuzz long {{SECONDS}} {{TARGETS}}

# Change the code that decides, a thing at a time, and see that a test notices; one file: -f src/authz/jwt.rs
mutants *ARGS:
    CRASH_CYCLES=5 "$(tools/ensure cargo-mutants)" mutants --package ibyok {{ARGS}}

# Measure retrievals beside a bare echo, rotations, memory, time to ready; on a quiet machine
bench *ARGS:
    cargo build --profile dist --locked -p ibyok -p ibyok-bench --bins
    target/dist/ibyok-bench run --rotations --null-audit {{ARGS}}

# The same with a million stored keys, which are kept in DIR for the next time: 5 GB
bench-million DIR="target/bench-million":
    just bench --keys 1000000 --dir {{DIR}}

# The same on DynamoDB Local and LocalStack's KMS, beside their own requests; they need Java 17, Maven and Python 3.13
bench-aws *ARGS:
    just bench --engines aws {{ARGS}}

# What terraform says of deploy/terraform; it and its AWS provider must be on the machine
terraform:
    tools/module installed

# Format the code and the protos
fmt:
    cargo fmt --all
    cargo fmt --manifest-path fuzz/Cargo.toml
    "$(tools/ensure buf)" format --write

# Make the protos of now the ones that nothing may break
accept-contract:
    tools/contract accept

# Known vulnerabilities of the dependencies; needs the network
advisories:
    "$(tools/ensure cargo-deny)" check advisories

# The documentation of the code
docs:
    cargo doc --workspace --lib --no-deps --open
