//! Whether the primary key can wrap data keys, in one sentence for whoever set it.

use std::fmt;

use aws_sdk_kms::types::{KeyMetadata, KeySpec, KeyState, KeyUsageType};

use super::{
    refusal::{Kind, Refusal},
    region::Region,
};

/// What is wrong with the primary, and which setting to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The setting.
    pub setting: &'static str,
    /// What is wrong, in a sentence without secrets.
    pub problem: String,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.problem)
    }
}
impl std::error::Error for Unfit {}

impl Unfit {
    pub(super) fn new(setting: &'static str, problem: impl Into<String>) -> Self {
        Self { setting, problem: problem.into() }
    }
}

/// What DescribeKey said about `key` in `region`.
pub(super) fn judge(answer: Result<KeyMetadata, Refusal>, key: &str, region: &Region) -> Result<String, Unfit> {
    let described = answer.map_err(|refusal| unanswered(&refusal, key, region))?;
    let arn = described.arn.as_deref().unwrap_or(key);
    let unfit = |problem: String| Err(Unfit::new("kms.key_id", problem));
    let (spec, usage) = (described.key_spec.as_ref(), described.key_usage.as_ref());
    if spec != Some(&KeySpec::SymmetricDefault) || usage != Some(&KeyUsageType::EncryptDecrypt) {
        let (spec, usage) = (spec.map_or("unknown", KeySpec::as_str), usage.map_or("unknown", KeyUsageType::as_str));
        return unfit(format!(
            "{arn} is a key {spec} for {usage}; needed is one SYMMETRIC_DEFAULT for ENCRYPT_DECRYPT"
        ));
    }
    match described.key_state.as_ref() {
        Some(KeyState::Enabled | KeyState::Updating) => Ok(format!("AWS KMS key {arn}, enabled")),
        Some(KeyState::Disabled) => unfit(format!("{arn} is disabled: enable it")),
        Some(KeyState::PendingDeletion | KeyState::PendingReplicaDeletion) => {
            unfit(format!("{arn} is pending deletion: cancel its deletion and enable it"))
        }
        Some(KeyState::PendingImport) => unfit(format!("{arn} waits for its key material: import it")),
        Some(KeyState::Unavailable) => unfit(format!("{arn} is unavailable: connect its key store")),
        state => unfit(format!("{arn} is in the state {}", state.map_or("unknown", KeyState::as_str))),
    }
}

fn unanswered(refusal: &Refusal, key: &str, region: &Region) -> Unfit {
    let (name, said) = (&region.name, refusal.said());
    let of_place = if region.has_endpoint { "kms.endpoint" } else { "kms.region" };
    match refusal.kind {
        Kind::NoSuchKey => {
            Unfit::new("kms.key_id", format!("there is no KMS key {key} in {name}; is it in another region?"))
        }
        Kind::Denied => Unfit::new(
            "kms.key_id",
            format!(
                "the server's AWS identity may not use {key}: allow it kms:DescribeKey, kms:GenerateDataKey and \
                 kms:Decrypt, in the key's policy and in its endpoint's. AWS says: {said}"
            ),
        ),
        Kind::Credentials => Unfit::new("kms.kind", format!("there are no good AWS credentials: {}", refusal.text())),
        Kind::Strange | Kind::Unsuited if region.has_endpoint => {
            Unfit::new(of_place, format!("what answers there takes no such call; is it AWS KMS? It says: {said}"))
        }
        Kind::Strange | Kind::Unsuited => Unfit::new("kms.key_id", format!("AWS KMS takes no call with {key}: {said}")),
        Kind::Throttled | Kind::Down | Kind::Disabled | Kind::Rejected => {
            Unfit::new(of_place, format!("AWS KMS gives no answer: {said}"))
        }
    }
}
