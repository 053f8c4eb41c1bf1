//! Identifiers and resource names, parsed once at the edge. A full name is
//! `orgs/{org}/keys/{key}`; wherever the organization is clear, the short form is taken too.

use std::fmt;

use super::{
    clock::{Entropy, EntropyError, random},
    error::InvalidInput,
};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:path, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// What the text must look like, for people.
            pub const RULE: &str = $rule;
            /// Parses `text`, which came in `field`.
            ///
            /// # Errors
            /// When it breaks [`Self::RULE`]; the error names the field, not the text.
            pub fn parse(field: &'static str, text: &str) -> Result<Self, InvalidInput> {
                if $check(text) { Ok(Self(text.to_owned())) } else { Err(InvalidInput::new(field, $rule)) }
            }
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
    };
}

text_id!(
    /// An organization: the isolation boundary.
    OrgId, is_label, "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
);
text_id!(
    /// A provider key's record within its organization.
    KeyId, is_slug, "1 to 63 of a-z, 0-9, '.', '_' and -, beginning and ending with a letter or digit"
);
text_id!(
    /// An identity binding within its organization.
    BindingId, is_slug, "1 to 63 of a-z, 0-9, '.', '_' and -, beginning and ending with a letter or digit"
);
text_id!(
    /// A key group within its organization.
    GroupId, is_slug, "1 to 63 of a-z, 0-9, '.', '_' and -, beginning and ending with a letter or digit"
);
text_id!(
    /// A provider of the table: openai, anthropic, azure-openai, custom.
    ProviderId, is_label, "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
);
text_id!(
    /// production, staging, development, or a name of one's own.
    Environment, is_slug, "1 to 63 of a-z, 0-9, '.', '_' and -, beginning and ending with a letter or digit"
);
text_id!(
    /// Whom a token speaks for: a service's name, a SPIFFE id.
    Subject, is_subject, "1 to 256 printable ASCII characters without spaces"
);
text_id!(
    /// A token's id, the JWT's `jti`: 32 hex digits.
    TokenId, is_token_id, "32 hex digits"
);
text_id!(
    /// Names one mutation, so that a retry of it happens once.
    RequestId, is_request_id, "1 to 128 printable ASCII characters without spaces; a UUID serves well"
);

impl OrgId {
    /// The organization that `init` makes; only its tokens carry admin and backup scopes.
    pub const SYSTEM: &str = "system";
    /// The organization `system`.
    #[must_use]
    pub fn system() -> Self {
        Self(Self::SYSTEM.to_owned())
    }
    /// Whether this is the organization `system`.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.0 == Self::SYSTEM
    }
    /// `orgs/{org}`.
    #[must_use]
    pub fn full_name(&self) -> String {
        ["orgs/", &self.0].concat()
    }
    /// Parses a parent: `orgs/{org}`, the bare id, or empty for `own`.
    ///
    /// # Errors
    /// When it is none of the three.
    pub fn parse_parent(field: &'static str, text: &str, own: &Self) -> Result<Self, InvalidInput> {
        if text.is_empty() {
            return Ok(own.clone());
        }
        Self::parse(field, text.strip_prefix("orgs/").unwrap_or(text))
            .map_err(|_| InvalidInput::new(field, "orgs/{org}, or empty for your own organization"))
    }
}

impl TokenId {
    /// A new random id.
    ///
    /// # Errors
    /// When the random source gives nothing.
    pub fn random(entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        Ok(Self(data_encoding::HEXLOWER.encode(&random::<16>(entropy)?)))
    }
}

/// An opaque id that is never used again: 26 characters of lower-case base32.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(String);

impl Uid {
    /// A new random one (128 bits).
    ///
    /// # Errors
    /// When the random source gives nothing.
    pub fn random(entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        let text = data_encoding::BASE32_NOPAD.encode(&random::<16>(entropy)?);
        Ok(Self(text.to_ascii_lowercase()))
    }
    /// One that was stored or is a fixed word (`system`).
    #[must_use]
    pub fn stored(text: &str) -> Self {
        Self(text.to_owned())
    }
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A resource directly below an organization: its full name is `orgs/{org}/{collection}/{id}`.
pub trait Resource: Sized {
    /// `keys`, `tokens`, `bindings`, `groups`.
    const COLLECTION: &'static str;
    /// How its full name is written, for people.
    const SHAPE: &'static str;
    /// Parses the last part.
    ///
    /// # Errors
    /// When it breaks the id's rule.
    fn parse_id(field: &'static str, text: &str) -> Result<Self, InvalidInput>;
    /// The last part.
    fn id(&self) -> &str;
}

macro_rules! resource {
    ($name:ident, $collection:literal, $shape:literal) => {
        impl Resource for $name {
            const COLLECTION: &'static str = $collection;
            const SHAPE: &'static str = $shape;
            fn parse_id(field: &'static str, text: &str) -> Result<Self, InvalidInput> {
                Self::parse(field, text)
            }
            fn id(&self) -> &str {
                &self.0
            }
        }
    };
}
resource!(KeyId, "keys", "orgs/{org}/keys/{key}, or the key's id");
resource!(TokenId, "tokens", "orgs/{org}/tokens/{token}, or the token's id");
resource!(BindingId, "bindings", "orgs/{org}/bindings/{binding}, or the binding's id");
resource!(GroupId, "groups", "orgs/{org}/groups/{group}, or the group's id");

/// A resource and its organization: `orgs/acme/keys/openai-prod`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name<R> {
    /// The organization.
    pub org: OrgId,
    /// The id within it.
    pub id: R,
}

/// `orgs/{org}/keys/{key}`
pub type KeyName = Name<KeyId>;
/// `orgs/{org}/tokens/{token}`
pub type TokenName = Name<TokenId>;
/// `orgs/{org}/bindings/{binding}`
pub type BindingName = Name<BindingId>;
/// `orgs/{org}/groups/{group}`
pub type GroupName = Name<GroupId>;

impl<R: Resource> Name<R> {
    /// Parses the full name, or the bare id as one of `own`. Whether the organization is the
    /// caller's is not asked here.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(field: &'static str, text: &str, own: &OrgId) -> Result<Self, InvalidInput> {
        let bad = || InvalidInput::new(field, R::SHAPE);
        let mut parts = text.split('/');
        let parts: [_; 5] = std::array::from_fn(|_| parts.next());
        match parts {
            [Some(id), None, ..] => Ok(Self { org: own.clone(), id: R::parse_id(field, id)? }),
            [Some("orgs"), Some(org), Some(collection), Some(id), None] if collection == R::COLLECTION => Ok(Self {
                org: OrgId::parse(field, org).map_err(|_| bad())?,
                id: R::parse_id(field, id).map_err(|_| bad())?,
            }),
            _ => Err(bad()),
        }
    }

    /// The full name. What `to_string` gives, made in one piece: it stands in every record.
    #[must_use]
    pub fn full_name(&self) -> String {
        self.parts().concat()
    }

    fn parts(&self) -> [&str; 6] {
        ["orgs/", self.org.as_str(), "/", R::COLLECTION, "/", self.id.id()]
    }
}

impl<R: Resource> fmt::Display for Name<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().into_iter().try_for_each(|part| f.write_str(part))
    }
}

/// Which version of a key is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionSelector {
    /// The CURRENT one; also when no version is named.
    Current,
    /// The PREVIOUS one, during its grace period.
    Previous,
    /// The newest PENDING or VERIFIED one.
    Pending,
    /// That number, from 1.
    Number(u32),
}

/// A key, and which of its versions: `orgs/acme/keys/openai-prod/versions/7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionName {
    /// The key.
    pub key: KeyName,
    /// The version.
    pub version: VersionSelector,
}

impl VersionName {
    const SHAPE: &str = "orgs/{org}/keys/{key}, with /versions/{number|current|previous|pending} or without";

    /// Parses `orgs/{org}/keys/{key}`, `{key}`, or either with `/versions/{selector}`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(field: &'static str, text: &str, own: &OrgId) -> Result<Self, InvalidInput> {
        let bad = || InvalidInput::new(field, Self::SHAPE);
        let (key, version) = match text.split_once("/versions/") {
            None => (text, VersionSelector::Current),
            Some((key, "current")) => (key, VersionSelector::Current),
            Some((key, "previous")) => (key, VersionSelector::Previous),
            Some((key, "pending")) => (key, VersionSelector::Pending),
            Some((key, number)) => {
                let plain = !number.starts_with('0') && number.bytes().all(|b| b.is_ascii_digit());
                let number = number.parse::<u32>().ok().filter(|_| plain).ok_or_else(bad)?;
                (key, VersionSelector::Number(number))
            }
        };
        Ok(Self { key: KeyName::parse(field, key, own).map_err(|_| bad())?, version })
    }
}

impl fmt::Display for VersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            VersionSelector::Current => write!(f, "{}/versions/current", self.key),
            VersionSelector::Previous => write!(f, "{}/versions/previous", self.key),
            VersionSelector::Pending => write!(f, "{}/versions/pending", self.key),
            VersionSelector::Number(number) => write!(f, "{}/versions/{number}", self.key),
        }
    }
}

fn is_bounded(text: &str, inner: impl Fn(u8) -> bool) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(|b| edge(*b))
        && bytes.last().is_some_and(|b| edge(*b))
        && bytes.iter().all(|b| edge(*b) || inner(*b))
}
fn is_label(text: &str) -> bool {
    is_bounded(text, |b| b == b'-')
}
fn is_slug(text: &str) -> bool {
    is_bounded(text, |b| matches!(b, b'-' | b'_' | b'.'))
}
fn is_subject(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}
fn is_request_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}
fn is_token_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> OrgId {
        OrgId::parse("parent", "acme").unwrap()
    }

    #[test]
    fn names_are_read_short_and_full_and_written_full() {
        for text in ["openai-prod", "orgs/acme/keys/openai-prod"] {
            assert_eq!(KeyName::parse("name", text, &own()).unwrap().to_string(), "orgs/acme/keys/openai-prod");
        }
        let version = VersionName::parse("name", "openai-prod/versions/7", &own()).unwrap();
        assert_eq!(version.to_string(), "orgs/acme/keys/openai-prod/versions/7");
        assert_eq!(VersionName::parse("name", "k", &own()).unwrap().version, VersionSelector::Current);
    }

    #[test]
    fn what_is_no_name_is_refused_by_field() {
        let long = "a".repeat(64);
        for text in [
            "",
            "-a",
            "a-",
            "A",
            "a b",
            "orgs/acme",
            "orgs/acme/keys/",
            "orgs//keys/a",
            "orgs/acme/tokens/a",
            "a/b",
            "orgs/acme/keys/a/versions/1",
            long.as_str(),
        ] {
            assert_eq!(KeyName::parse("name", text, &own()).unwrap_err().field, "name", "{text}");
        }
        for text in [
            "k/versions/",
            "k/versions/0",
            "k/versions/01",
            "k/versions/+1",
            "k/versions/4294967296",
            "k/versions/newest",
        ] {
            assert!(VersionName::parse("name", text, &own()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_empty_parent_is_the_callers_own() {
        assert_eq!(OrgId::parse_parent("parent", "", &own()).unwrap(), own());
        assert_eq!(OrgId::parse_parent("parent", "orgs/other", &own()).unwrap().as_str(), "other");
        assert!(OrgId::parse_parent("parent", "orgs/", &own()).is_err());
    }
}
