# Short names for what is done often; `just` lists them. Everything works without just, too.

default:
    @just --list --unsorted

# A development vault on 127.0.0.1:7443, state in .ibyok-dev
dev *ARGS:
    cargo run --release -- dev {{ARGS}}

# The whole test command, or some parts: just test format clippy
test *PARTS:
    ./test {{PARTS}}

# Format the code and the protos
fmt:
    cargo fmt --all
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
