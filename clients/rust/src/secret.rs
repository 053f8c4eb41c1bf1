//! Secrets in memory: no Display, no Serialize, no Clone, a redacted Debug, wiped on drop, and
//! one way in: `expose_secret()`.

use std::{fmt, mem};

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::pb::SecretValue;

/// An LLM provider's API key in plain text.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct ProviderKey(String);

/// A token of the vault: a JWT.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct AccessToken(String);

macro_rules! secret {
    ($($name:ident),*) => {$(
        impl $name {
            /// Takes `text`, which is wiped when this is dropped.
            #[must_use]
            pub fn new(text: String) -> Self {
                Self(text)
            }
            /// The secret itself.
            #[must_use]
            pub fn expose_secret(&self) -> &str {
                &self.0
            }
        }

        impl From<SecretValue> for $name {
            fn from(mut value: SecretValue) -> Self {
                Self(mem::take(&mut value.text))
            }
        }

        impl From<$name> for SecretValue {
            fn from(mut secret: $name) -> Self {
                Self { text: mem::take(&mut secret.0) }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    )*};
}
secret!(ProviderKey, AccessToken);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    const CANARY: &str = "sk-canary-5d1f";

    #[test]
    fn debug_never_shows_a_secret() {
        let response = pb::RetrieveKeyResponse {
            secret: Some(SecretValue { text: CANARY.into() }),
            key_version: "orgs/dev/keys/a/versions/1".into(),
            ..Default::default()
        };
        let shown = format!(
            "{response:?} {:#?} {:?} {:?}",
            response,
            ProviderKey::new(CANARY.into()),
            AccessToken::new(CANARY.into())
        );
        assert!(!shown.contains(CANARY));
        assert!(shown.contains("versions/1"));
    }

    #[test]
    fn a_secret_survives_the_way_out_and_back() {
        let value = SecretValue::from(ProviderKey::new(CANARY.into()));
        assert_eq!(ProviderKey::from(value).expose_secret(), CANARY);
    }
}
