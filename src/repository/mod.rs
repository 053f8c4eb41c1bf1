//! The records of the vault on the store port, written once for every adapter. The first argument
//! of every function that reads or writes an organization's records is that organization.

pub mod audit;
pub mod bindings;
pub mod consumers;
pub mod fields;
mod grants;
pub mod keys;
pub mod last_used;
pub mod lease;
pub mod orgs;
pub mod projection;
pub mod records;
pub mod replicas;
pub mod tokens;
pub mod usage;
