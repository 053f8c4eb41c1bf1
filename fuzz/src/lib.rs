//! What the fuzz targets share: a source of chance, and for the target `request` a vault in this
//! process, the scripts that it runs, and how they are changed.

pub mod dice;
pub mod edits;
pub mod house;
pub mod mutate;
pub mod schema;
pub mod script;
pub mod values;

/// Well-formed requests of every method: the ones that the integration tests walk with.
#[path = "../../tests/it/wire.rs"]
pub mod wire;
