//! The words of the vault: identifiers, secrets, records, time. Pure: no I/O, no other room.

use std::{future::Future, pin::Pin};

pub mod aead;
pub mod audit;
pub mod binding;
pub mod clock;
pub mod error;
pub mod framing;
pub mod hkdf;
pub mod ids;
pub mod key;
pub mod mac;
pub mod pattern;
pub mod principal;
pub mod provider;
mod rfc3339;
pub mod scope;
pub mod secret;
pub mod token;

/// What a port's call gives back.
pub type PortFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
