//! The integration tests: one binary, real parts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking"
)]

mod architecture;
mod archive;
mod audit_record;
mod audit_sqlite;
mod authorization;
mod aws_kms;
mod aws_proxy;
mod aws_vault;
mod bad_input;
mod bulk;
mod canary;
mod contract;
mod crash;
mod dice;
mod disk;
mod documents;
mod dynamodb;
mod edge_dev;
mod edge_server;
mod edge_tls;
mod envelope;
mod fairness;
mod fields;
mod fixture;
mod harness;
mod hostile;
mod isolation;
mod keys;
mod keys_janitor;
mod keys_list;
mod keys_retrieve;
mod keys_rotate;
mod keys_wire;
mod kms_conformance;
mod lifecycle;
mod localstack;
mod pair;
mod process;
mod rates;
mod records;
mod replicas;
mod rewrap;
mod store_conformance;
mod tamper;
mod tokens;
mod trace;
mod usage;
mod wire;
