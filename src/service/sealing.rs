//! KMS and envelope together: a fresh data key for each value sealed, one unwrap for each opened.

use std::{sync::Arc, time::Duration};

use crate::{
    domain::{
        clock::{Deadline, Entropy},
        error::{Failure, Reason},
        ids::{OrgId, Uid},
        secret::{KmsKeyId, SecretBytes, wipe_stack},
    },
    envelope::{self, EnvelopeError, Purpose, SealContext, SealedValue},
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
            .map_err(|error| Failure::new(Reason::Internal).caused_by(error));
        drop(data_key);
        wipe_stack();
        Ok(SealedValue { wrapped, blob: blob? })
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
        let opened = envelope::open(&data_key, context, &sealed.blob);
        drop(data_key);
        // A key that was handed from call to call left copies on the way.
        wipe_stack();
        Ok(opened?)
    }
    /// The same value with its data key under `to_key`: what it seals is not opened.
    ///
    /// # Errors
    /// KMS_UNAVAILABLE, KMS_KEY_DISABLED, KMS_KEY_REFUSED, SEALED_VALUE_REJECTED.
    pub async fn rewrap(
        &self,
        sealed: SealedValue,
        context: &SealContext<'_>,
        to_key: &KmsKeyId,
        deadline: Deadline,
    ) -> Result<SealedValue, Failure> {
        let wrapped = self.kms.rewrap(&sealed.wrapped, &context.kms_context(), to_key, deadline).await?;
        Ok(SealedValue { wrapped, ..sealed })
    }
    /// The id by which wrapped data keys name `kms_key` (None: the primary), of which an alias may have
    /// been given. It is used once to find it out: a key that can't be used is refused here.
    ///
    /// # Errors
    /// KMS_UNAVAILABLE, KMS_KEY_DISABLED, KMS_KEY_REFUSED.
    pub async fn resolve(
        &self,
        kms_key: Option<&KmsKeyId>,
        org: &OrgId,
        org_uid: &Uid,
        deadline: Deadline,
    ) -> Result<KmsKeyId, Failure> {
        let probe = Uid::random(&*self.entropy).map_err(|cause| Failure::new(Reason::Internal).caused_by(cause))?;
        let context = SealContext {
            purpose: Purpose::Service,
            org_uid,
            resource_uid: &probe,
            version: 1,
            org,
            resource: "probe",
            provider: "",
        };
        let (_, wrapped) = self.kms.generate_data_key(kms_key, &context.kms_context(), deadline).await?;
        Ok(wrapped.kms_key_id)
    }
}

impl From<KmsError> for Failure {
    fn from(error: KmsError) -> Self {
        let failure = match &error {
            KmsError::Unavailable(_) => Self::new(Reason::KmsUnavailable).retry_after(Duration::from_secs(1)),
            KmsError::Throttled { retry_after } => Self::new(Reason::KmsUnavailable).retry_after(*retry_after),
            KmsError::KeyDisabled(_) => Self::new(Reason::KmsKeyDisabled),
            KmsError::KeyRefused(_) => Self::new(Reason::KmsKeyRefused),
            KmsError::KeyUnsuited(kind) => Self::new(Reason::KmsKeyRefused).with("kms_key", kind.clone()),
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
