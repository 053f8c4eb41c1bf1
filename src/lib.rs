//! IBYOK, "I Bring Your Own Keys": a dumb vault for LLM-provider API keys.
//!
//! The rooms, from the inside out; `docs/ARCHITECTURE.md` has the map and a test holds who may
//! import whom:
//!
//! - [`domain`]: the words of the vault, pure, no I/O.
//! - [`authz`], [`envelope`]: decisions and cryptography on domain types.
//! - [`kms`], [`store`]: the two ports and their adapters; [`aws`]: what those on AWS share.
//! - [`repository`]: records on the store port, written once for every adapter.
//! - [`service`]: the use cases.
//! - [`grpc`]: the wire; the only place that knows tonic and the generated types.
//! - [`config`], [`telemetry`], [`process`], [`pki`]: settings, logs, the process's hardening,
//!   development certificates.
//! - [`server`]: the composition root.

pub mod authz;
pub mod aws;
pub mod config;
pub mod domain;
pub mod envelope;
pub mod grpc;
pub mod kms;
pub mod pki;
pub mod process;
pub mod repository;
pub mod server;
pub mod service;
pub mod store;
pub mod telemetry;
