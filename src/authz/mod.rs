//! Who may do what: the method table, tokens and their verification, and the decision from a
//! token's claims and records.

pub mod attenuation;
pub mod claims;
pub mod exchange;
pub mod jwt;
pub mod methods;
pub mod permit;
pub mod standing;
pub mod verifier;

#[cfg(test)]
mod fixtures;
