//! A thin client of the IBYOK vault: fetch a provider key just in time, over mutual TLS.
//!
//! ```no_run
//! # async fn example() -> Result<(), ibyok_client::Error> {
//! use ibyok_client::{Client, Config};
//!
//! let vault = Client::connect(Config::from_env()?).await?;
//! let key = vault.key("openai-prod").await?;
//! let header = format!("Bearer {}", key.expose_secret());
//! # let _ = header;
//! # Ok(())
//! # }
//! ```
//!
//! [`Config::from_env`] reads `IBYOK_ADDR`, `IBYOK_TOKEN_FILE`, `IBYOK_CACERT`,
//! `IBYOK_CLIENT_CERT`, `IBYOK_CLIENT_KEY` and, optionally, `IBYOK_SERVER_NAME`: what
//! `source .ibyok-dev/env.sh` sets.
//!
//! Every call, by [`Client::key`] or by one of the raw clients ([`Client::key_vault`] and its
//! neighbours), goes through one [`Transport`], which adds the token (read again when its file
//! changes), gives each unary call a deadline of 5 seconds, fills in a random `request_id` where a
//! mutation has none, and retries as the shipped [service config](ServiceConfig::shipped) says.
//!
//! This crate knows nothing of the server's code: the protos are all they share.

mod bulk;
mod client;
mod config;
mod error;
mod secret;
mod service_config;
mod transport;

pub use bulk::{Import, Imported, ImportedKey};
pub use client::{AuditReceipt, AuthScheme, Client, RetrievedKey};
pub use config::{Config, ConfigBuilder, ConfigError};
pub use error::{CallError, Error, FieldViolation, reason};
pub use secret::{AccessToken, ProviderKey};
pub use service_config::{MethodConfig, RetryPolicy, ServiceConfig, ServiceConfigError};
pub use tonic::Code;
pub use transport::Transport;

/// The generated messages and raw clients of `ibyok.v1`.
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
