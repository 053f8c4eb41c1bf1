//! The key-management port: data keys are generated and wrapped here, values never come near it.

use std::{fmt, time::Duration};

use crate::domain::{
    PortFuture,
    clock::Deadline,
    secret::{DataKey, EncryptionContext, KmsKeyId, WrappedDataKey},
};

pub mod aws;
pub mod fake;
pub mod local;

/// Why the KMS gave no key.
#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    /// It does not answer, or the deadline passed.
    #[error("the KMS is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It asks for fewer calls.
    #[error("the KMS throttles")]
    Throttled {
        /// When to retry.
        retry_after: Duration,
    },
    /// The key is disabled or pending deletion.
    #[error("the KMS key is disabled")]
    KeyDisabled(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no such key, or this server may not use it.
    #[error("the KMS refuses the key")]
    KeyRefused(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The key is of a kind that wraps no data keys: of which, in the KMS's words, which hold no secret.
    #[error("the KMS key is of another kind: {0}")]
    KeyUnsuited(String),
    /// The wrapped key is not of this KMS key and context: one answer whatever was wrong.
    #[error("the wrapped data key is rejected")]
    Rejected,
}

/// The KMS.
///
/// - `generate_data_key` gives a fresh data key, plain and wrapped, under `kms_key` (None: the
///   primary), bound to `context`.
/// - `unwrap` opens it again with exactly that context, and [`KmsError::Rejected`] otherwise.
/// - `rewrap` gives the same data key wrapped under `to_key`, the plain one never leaving the KMS.
/// - Every call answers by its deadline.
pub trait KeyWrapper: Send + Sync + fmt::Debug {
    /// A fresh data key.
    fn generate_data_key<'a>(
        &'a self,
        kms_key: Option<&'a KmsKeyId>,
        context: &'a EncryptionContext,
        deadline: Deadline,
    ) -> PortFuture<'a, Result<(DataKey, WrappedDataKey), KmsError>>;
    /// The data key of `wrapped`.
    fn unwrap<'a>(
        &'a self,
        wrapped: &'a WrappedDataKey,
        context: &'a EncryptionContext,
        deadline: Deadline,
    ) -> PortFuture<'a, Result<DataKey, KmsError>>;
    /// `wrapped` under another KMS key.
    fn rewrap<'a>(
        &'a self,
        wrapped: &'a WrappedDataKey,
        context: &'a EncryptionContext,
        to_key: &'a KmsKeyId,
        deadline: Deadline,
    ) -> PortFuture<'a, Result<WrappedDataKey, KmsError>>;
    /// Whether its primary key can be used, or what is wrong: in a sentence for people, without secrets.
    fn status(&self, deadline: Deadline) -> PortFuture<'_, Result<String, String>>;
}
