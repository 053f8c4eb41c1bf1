//! Compiles the protos: client code into `OUT_DIR/ibyok.v1.rs`, and into `OUT_DIR/methods.rs` what
//! the transport must know of each method. `protox` parses; no protoc is needed.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

/// Messages whose generated `Debug` would print a secret.
const SECRET_MESSAGES: [&str; 1] = ["ibyok.v1.SecretValue"];
const PROTO_DIR: &str = "../../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO_DIR}");
    let files = ["admin", "audit", "key_groups", "key_vault", "tokens"]
        .map(|name| format!("{PROTO_DIR}/ibyok/v1/{name}.proto"));
    let mut compiler = protox::Compiler::new([PROTO_DIR])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(&files)?;
    let descriptors = compiler.file_descriptor_set();

    let mut table = String::from("&[\n");
    for file in descriptors.file.iter().filter(|file| file.package() == "ibyok.v1") {
        for service in &file.service {
            for method in &service.method {
                let input = method.input_type().rsplit('.').next().unwrap_or_default();
                let request_id = descriptors
                    .file
                    .iter()
                    .filter(|file| file.package() == "ibyok.v1")
                    .flat_map(|file| &file.message_type)
                    .filter(|message| message.name() == input)
                    .flat_map(|message| &message.field)
                    .find(|field| field.name() == "request_id")
                    .map(|field| field.number().unsigned_abs());
                writeln!(
                    table,
                    "Method {{ path: \"/ibyok.v1.{}/{}\", request_id_field: {request_id:?}, streams_request: {}, \
                     streams_response: {} }},",
                    service.name(),
                    method.name(),
                    method.client_streaming(),
                    method.server_streaming(),
                )?;
            }
        }
    }
    table.push(']');
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("methods.rs"), table)?;

    tonic_prost_build::configure()
        .build_server(false)
        .skip_debug(SECRET_MESSAGES)
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
