//! Advice that goes with a stored key and never refuses it.

use super::{Confidence, Providers};
use crate::domain::{ids::ProviderId, secret::ProviderKey};

macro_rules! warnings {
    ($($variant:ident $code:literal $message:literal;)*) => {
        /// What a caller should know about the key that he stored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Warning { $(#[doc = $message] $variant,)* }

        impl Warning {
            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $(Self::$variant => $code,)* } }
            /// The sentence that a person reads.
            #[must_use]
            pub const fn message(self) -> &'static str { match self { $(Self::$variant => $message,)* } }
            /// The one of that code.
            #[must_use]
            pub fn from_code(code: &str) -> Option<Self> { match code { $($code => Some(Self::$variant),)* _ => None } }
        }
    };
}

warnings! {
    ProviderMismatch "PROVIDER_MISMATCH" "the key looks like another provider's: check the provider";
    AdministrationKey "ADMINISTRATION_KEY" "this key administers the provider's account: store an ordinary key for calling models";
    RefreshToken "REFRESH_TOKEN" "this is an OAuth refresh token: it is not good for calling models";
    LooksLikePlaceholder "LOOKS_LIKE_PLACEHOLDER" "the key looks like a placeholder from an example";
    SurroundingWhitespace "SURROUNDING_WHITESPACE" "the key begins or ends with whitespace: it is stored as given";
    DuplicateSecret "DUPLICATE_SECRET" "the same secret is stored elsewhere in this organization";
}

const PLACEHOLDERS: [&str; 14] = [
    "your-",
    "your_",
    "yourkey",
    "xxxx",
    "....",
    "****",
    "<",
    "example",
    "placeholder",
    "changeme",
    "change-me",
    "replace",
    "insert",
    "dummy",
];

impl Providers {
    /// What the shape of `secret` says against its being a key of `provider`.
    #[must_use]
    pub fn warnings(&self, secret: &ProviderKey, provider: &ProviderId) -> Vec<Warning> {
        let text = secret.expose_secret();
        let trimmed = text.trim();
        let mut warnings = Vec::new();
        let belongs = |id: &ProviderId| id == provider || id.as_str() == "custom" || provider.as_str() == "custom";
        let candidates = self.detect_secret(secret);
        if candidates.iter().any(|found| found.confidence > Confidence::Low)
            && !candidates.iter().any(|found| belongs(&found.provider))
        {
            warnings.push(Warning::ProviderMismatch);
        }
        warnings.extend(self.certain(trimmed).or_else(|| self.hinted(trimmed)).and_then(|pattern| pattern.warning));
        if is_placeholder(trimmed) {
            warnings.push(Warning::LooksLikePlaceholder);
        }
        if trimmed.len() != text.len() {
            warnings.push(Warning::SurroundingWhitespace);
        }
        warnings
    }
}

fn is_placeholder(text: &str) -> bool {
    let lower = zeroize::Zeroizing::new(text.to_ascii_lowercase());
    let mut characters = lower.chars();
    let first = characters.next();
    lower.len() < 8
        || text.contains("MOCK")
        || characters.all(|character| Some(character) == first)
        || PLACEHOLDERS.iter().any(|word| lower.contains(word))
}
