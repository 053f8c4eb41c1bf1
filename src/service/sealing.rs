//! KMS and envelope together: a fresh data key for each value sealed, one unwrap for each opened.

use std::{sync::Arc, time::Duration};

use crate::{
    domain::{
        clock::{Deadline, Entropy},
        error::{Failure, Reason},
        secret::{KmsKeyId, SecretBytes},
    },
    envelope::{self, EnvelopeError, SealContext, SealedValue},
    kms::{KeyWrapper, KmsError},
};

/// Seals and opens values.
#[derive(Clone, Debug)]
pub struct Sealer {
    kms: Arc<dyn KeyWrapper>,
    entropy: Arc<dyn Entropy>,
}

impl Sealer {
    /// On that KMS.
    #[must_use]
    pub fn new(kms: Arc<dyn KeyWrapper>, entropy: Arc<dyn Entropy>) -> Self {
        Self { kms, entropy }
    }
    /// The KMS below.
    #[must_use]
    pub fn kms(&self) -> &Arc<dyn KeyWrapper> {
        &self.kms
    }
    /// Seals `plaintext` under a fresh data key of `kms_key` (None: the primary).
    ///
    /// # Errors
    /// KMS_UNAVAILABLE, KMS_KEY_DISABLED, KMS_KEY_REFUSED.
    pub async fn seal(
        &self,
        kms_key: Option<&KmsKeyId>,
        context: &SealContext<'_>,
        plaintext: &[u8],
        deadline: Deadline,
    ) -> Result<SealedValue, Failure> {
        let (data_key, wrapped) = self.kms.generate_data_key(kms_key, &context.kms_context(), deadline).await?;
        let blob = envelope::seal(&*self.entropy, &data_key, context, plaintext)
            .map_err(|error| Failure::new(Reason::Internal).caused_by(error))?;
        Ok(SealedValue { wrapped, blob })
    }
    /// Opens `sealed`.
    ///
    /// # Errors
    /// KMS_UNAVAILABLE, KMS_KEY_DISABLED, KMS_KEY_REFUSED, SEALED_VALUE_REJECTED.
    pub async fn open(
        &self,
        sealed: &SealedValue,
        context: &SealContext<'_>,
        deadline: Deadline,
    ) -> Result<SecretBytes, Failure> {
        let data_key = self.kms.unwrap(&sealed.wrapped, &context.kms_context(), deadline).await?;
        Ok(envelope::open(&data_key, context, &sealed.blob)?)
    }
}

impl From<KmsError> for Failure {
    fn from(error: KmsError) -> Self {
        let failure = match &error {
            KmsError::Unavailable(_) => Self::new(Reason::KmsUnavailable).retry_after(Duration::from_secs(1)),
            KmsError::Throttled { retry_after } => Self::new(Reason::KmsUnavailable).retry_after(*retry_after),
            KmsError::KeyDisabled => Self::new(Reason::KmsKeyDisabled),
            KmsError::KeyRefused(_) => Self::new(Reason::KmsKeyRefused),
            KmsError::Rejected => Self::new(Reason::SealedValueRejected),
        };
        failure.caused_by(error)
    }
}

impl From<EnvelopeError> for Failure {
    fn from(error: EnvelopeError) -> Self {
        Self::new(Reason::SealedValueRejected).caused_by(error)
    }
}
