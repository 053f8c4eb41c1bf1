//! Compiles the protos: server code, and clients for `dev` and the tests, into
//! `OUT_DIR/ibyok.v1.rs`, and the descriptor set that reflection serves and the tests walk. `protox`
//! parses; no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

/// Messages whose generated `Debug` would print a secret.
const SECRET_MESSAGES: [&str; 1] = ["ibyok.v1.SecretValue"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files =
        ["admin", "audit", "key_groups", "key_vault", "tokens"].map(|name| format!("proto/ibyok/v1/{name}.proto"));
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(&files)?;
    let descriptors = compiler.file_descriptor_set();

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("ibyok.v1.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        .build_client(true)
        .skip_debug(SECRET_MESSAGES)
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
