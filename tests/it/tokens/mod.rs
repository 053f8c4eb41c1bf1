//! Tokens, bindings and organizations through their use cases, on a whole vault in memory.

mod exchange;
mod harness;
mod issue;
mod orgs;
mod revoke;
mod session;
mod wire;
