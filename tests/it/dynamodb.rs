//! DynamoDB Local, a real one for the whole test binary; a proxy that fails in front of it as a network
//! does; and a whole vault on it.

mod away;
mod described;
pub(crate) mod local;
pub(crate) mod proxy;
mod start;
mod table;
pub(crate) mod vault;
