//! The other end of a connection, as its TLS certificate shows it.

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc};

use super::{clock::Timestamp, error::InvalidInput};

/// What one client certificate says; made once for each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The SPIFFE ids (URI SANs `spiffe://..`) and DNS SANs, in the certificate's order.
    pub identities: Vec<String>,
    /// SHA-256 of the certificate's DER (RFC 8705).
    pub sha256: [u8; 32],
    /// The end of its validity; checked on each call.
    pub not_after: Timestamp,
}

impl ClientCertificate {
    /// The SHA-256 as `x5t#S256` writes it: base64url without padding.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        data_encoding::BASE64URL_NOPAD.encode(&self.sha256)
    }
    /// The identity that stands for this certificate in the audit log: the first SPIFFE id, else
    /// the first DNS name.
    #[must_use]
    pub fn primary_identity(&self) -> Option<&str> {
        let spiffe = self.identities.iter().find(|identity| identity.starts_with("spiffe://"));
        spiffe.or(self.identities.first()).map(String::as_str)
    }
    /// Whether its validity is over: at its last moment it is.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.not_after
    }
    /// Whether it bears `identity`; DNS names are compared without regard to case (RFC 4343).
    #[must_use]
    pub fn bears(&self, identity: &str) -> bool {
        self.identities.iter().any(|own| is_same_identity(own, identity))
    }
}

fn is_same_identity(one: &str, other: &str) -> bool {
    one == other || (!one.starts_with(SPIFFE) && one.eq_ignore_ascii_case(other))
}

const SPIFFE: &str = "spiffe://";

/// One SPIFFE id or DNS name, as a token is bound to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity(String);

impl ClientIdentity {
    /// The most bytes: an identity becomes the subject of the tokens that it exchanges.
    pub const BYTES_MAX: usize = 256;
    /// What the text must look like, for people.
    pub const RULE: &str = "a SPIFFE id (spiffe://trust.domain/path) or a lower-case DNS name, at most 256 bytes";

    /// Parses `text`, which came in `field`.
    ///
    /// # Errors
    /// When it breaks [`Self::RULE`].
    pub fn parse(field: impl Into<Cow<'static, str>>, text: &str) -> Result<Self, InvalidInput> {
        if is_identity(text) { Ok(Self(text.to_owned())) } else { Err(InvalidInput::new(field, Self::RULE)) }
    }
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A SPIFFE id or DNS name, or a SPIFFE id whose trailing `*` stands for the rest of one path
/// segment. The trust domain and DNS names are always exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityPattern(String);

impl IdentityPattern {
    /// What the text must look like, for people.
    pub const RULE: &str =
        "a SPIFFE id or a lower-case DNS name, at most 256 bytes; a SPIFFE id may end with * within its path";

    /// Parses `text`, which came in `field`.
    ///
    /// # Errors
    /// When it breaks [`Self::RULE`].
    pub fn parse(field: impl Into<Cow<'static, str>>, text: &str) -> Result<Self, InvalidInput> {
        // Any one character makes the pattern an identity if it is one.
        let is_pattern = text.strip_suffix('*').is_some_and(|prefix| {
            prefix.strip_prefix(SPIFFE).is_some_and(|rest| rest.contains('/')) && is_identity(&format!("{prefix}x"))
        });
        if is_pattern || is_identity(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidInput::new(field, Self::RULE))
        }
    }
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Whether `identity` is one of those it stands for.
    #[must_use]
    pub fn matches(&self, identity: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => {
                is_identity(identity)
                    && identity.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
            }
            None => is_same_identity(&self.0, identity),
        }
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_identity(text: &str) -> bool {
    if text.len() > ClientIdentity::BYTES_MAX {
        return false;
    }
    match text.strip_prefix(SPIFFE) {
        // The SPIFFE-ID standard, sections 2.1 and 2.2.
        Some(rest) => {
            let mut parts = rest.split('/');
            let is_char = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            let is_domain =
                |domain: &str| !domain.is_empty() && domain.bytes().all(|b| is_char(b) && !b.is_ascii_uppercase());
            let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(is_char);
            parts.next().is_some_and(is_domain) && parts.all(is_part)
        }
        None => {
            let is_char = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
            text.split('.').all(|label| (1..=63).contains(&label.len()) && label.bytes().all(is_char))
        }
    }
}

/// The peer of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its certificate, which a trusted authority signed.
    pub certificate: Arc<ClientCertificate>,
    /// The address that the server sees.
    pub address: IpAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_the_rest_of_one_path_segment() {
        for (pattern, identity, expected) in [
            ("spiffe://acme.org/ns/prod/*", "spiffe://acme.org/ns/prod/billing", true),
            ("spiffe://acme.org/ns/prod/bill*", "spiffe://acme.org/ns/prod/billing", true),
            ("spiffe://acme.org/ns/prod/*", "spiffe://acme.org/ns/prod/", false),
            ("spiffe://acme.org/ns/prod/*", "spiffe://acme.org/ns/prod/a/b", false),
            ("spiffe://acme.org/ns/prod/*", "spiffe://acme.org/ns/prodx", false),
            ("spiffe://acme.org/*", "spiffe://acme.org.evil/x", false),
            ("spiffe://acme.org/a", "spiffe://acme.org/A", false),
            ("billing.acme.org", "BILLING.acme.org", true),
            ("billing.acme.org", "x.billing.acme.org", false),
        ] {
            let pattern = IdentityPattern::parse("binding.certificate", pattern).unwrap();
            assert_eq!(pattern.matches(identity), expected, "{pattern} {identity}");
        }
    }

    #[test]
    fn a_certificate_is_named_by_its_hash_and_by_its_first_spiffe_id_or_dns_name() {
        let of = |identities: &[&str]| ClientCertificate {
            identities: identities.iter().map(ToString::to_string).collect(),
            sha256: [7; 32],
            not_after: Timestamp::default(),
        };
        assert_eq!(of(&[]).thumbprint(), "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc");
        assert_eq!(of(&["a.org", "spiffe://a/b", "spiffe://a/c"]).primary_identity(), Some("spiffe://a/b"));
        assert_eq!(of(&["a.org", "b.org"]).primary_identity(), Some("a.org"));
        assert_eq!(of(&[]).primary_identity(), None);
    }

    #[test]
    fn an_identity_has_every_character_of_its_kind_and_256_bytes() {
        let longest = format!("spiffe://acme.org/{}", "a".repeat(ClientIdentity::BYTES_MAX - 18));
        for text in ["spiffe://acme-1.org_2/A.b-C_9", "spiffe://acme.org", "1a.b-c_d.org", longest.as_str()] {
            assert_eq!(ClientIdentity::parse("f", text).unwrap().as_str(), text);
            assert_eq!(IdentityPattern::parse("f", text).unwrap().to_string(), text);
        }
        assert_eq!(IdentityPattern::parse("f", "spiffe://acme.org/a*").unwrap().as_str(), "spiffe://acme.org/a*");
    }

    #[test]
    fn a_certificate_is_over_at_its_last_moment() {
        let not_after = Timestamp::from_seconds(2_000);
        let certificate = ClientCertificate { identities: Vec::new(), sha256: [0; 32], not_after };
        assert!(!certificate.is_expired(Timestamp::from_micros(not_after.micros() - 1)));
        assert!(certificate.is_expired(not_after));
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        let long = format!("spiffe://acme.org/{}", "a".repeat(ClientIdentity::BYTES_MAX - 17));
        for text in [
            "",
            "*",
            "spiffe://",
            "spiffe://*",
            "spiffe://acme*",
            "spiffe://acme.org/*/x",
            "spiffe://acme.org/a**",
            "spiffe://acme.org//a",
            "spiffe://acme.org/../a",
            "spiffe://Acme.org/a",
            "spiffe://acme.org/a b",
            "*.acme.org",
            "acme*",
            "Acme.org",
            "acme..org",
            "https://acme.org/a",
            long.as_str(),
        ] {
            assert_eq!(IdentityPattern::parse("f", text).unwrap_err().field, "f", "{text}");
            assert!(ClientIdentity::parse("f", text).is_err(), "{text}");
        }
        assert!(ClientIdentity::parse("f", "spiffe://acme.org/a*").is_err());
    }
}
