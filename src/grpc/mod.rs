//! The wire: tonic services, conversion, the status map, the layers. Generated types and
//! `tonic::Status` never leave this room.

pub mod admin;
pub mod audit;
mod convert;
pub mod entry;
pub mod gate;
pub mod health;
mod import;
pub mod key_groups;
pub mod key_vault;
pub mod layers;
pub mod listener;
pub mod reflection;
pub mod routes;
mod share;
pub mod sizes;
pub mod status;
mod target;
#[cfg(test)]
mod testing;
mod to_its_end;
pub mod tokens;

/// The generated messages and services of `ibyok.v1`.
#[expect(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated; the protos carry the documentation"
)]
pub mod pb {
    tonic::include_proto!("ibyok.v1");

    impl std::fmt::Debug for SecretValue {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("SecretValue(redacted)")
        }
    }

    impl Drop for SecretValue {
        fn drop(&mut self) {
            zeroize::Zeroize::zeroize(&mut self.text);
        }
    }
}

/// The largest message that is taken, in bytes.
pub const MESSAGE_MAX: usize = 64 << 10;
/// The largest message of an import.
pub const IMPORT_MESSAGE_MAX: usize = 1 << 20;

/// The serialized descriptor set of the contract, comments included: reflection serves it, tests
/// walk it.
pub const DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("ibyok.v1");
