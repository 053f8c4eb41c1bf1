//! Tokens: their mode, their grants, what they are bound to, and the record that decides each call.

use std::{borrow::Cow, fmt};

use aws_lc_rs::digest;
use ipnet::IpNet;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    clock::Timestamp,
    error::InvalidInput,
    framing,
    ids::{Environment, OrgId, Subject, TokenId},
    key::{Labels, check_labels},
    pattern::ResourcePattern,
    scope::Scope,
};

/// The most grants of one token or binding.
pub const GRANTS_MAX: usize = 16;
/// The most resources, environments or networks of one grant.
pub const RESOURCES_MAX: usize = 64;

/// Whether a token reads live keys or made-up ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenMode {
    /// Reads what is stored.
    Live,
    /// Every retrieval answers a made-up key; never a live one.
    Mock,
}

impl TokenMode {
    /// The text in claims and records: `LIVE` or `MOCK`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Mock => "MOCK",
        }
    }
    /// The mode of that text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        [Self::Live, Self::Mock].into_iter().find(|mode| mode.as_str() == text)
    }
}

/// Scopes plus constraints. One grant must satisfy a call alone; grants never combine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What it lets its holder do.
    pub scopes: Vec<Scope>,
    /// Full resource names, or globs of them: `orgs/acme/keys/openai-*`, `orgs/acme/**`.
    /// An empty list refuses.
    pub resources: Vec<ResourcePattern>,
    /// Labels that the resource must bear; empty: any.
    pub labels: Labels,
    /// Environments that the resource must be of; empty: any.
    pub environments: Vec<Environment>,
    /// Networks that it is good from; empty: any.
    pub client_cidrs: Vec<IpNet>,
}

/// A grant as it came in, before it is parsed.
#[derive(Clone, Debug, Default)]
pub struct GrantText {
    /// `keys:read`
    pub scopes: Vec<String>,
    /// Empty: `orgs/{org}/**`.
    pub resources: Vec<String>,
    /// As in [`Grant::labels`].
    pub labels: Labels,
    /// As in [`Grant::environments`].
    pub environments: Vec<String>,
    /// As in [`Grant::client_cidrs`]; a bare address is a network of one.
    pub client_cidrs: Vec<String>,
}

impl Grant {
    /// Parses the grants of `org` that came in `field`; the error names the very element.
    ///
    /// # Errors
    /// When there are too many, or one of their parts is not valid in this organization.
    pub fn parse_all(field: &str, grants: &[GrantText], org: &OrgId) -> Result<Vec<Self>, InvalidInput> {
        at_most(field, grants.len(), GRANTS_MAX)?;
        grants.iter().enumerate().map(|(n, grant)| Self::parse(&format!("{field}[{n}]"), grant, org)).collect()
    }

    fn parse(field: &str, text: &GrantText, org: &OrgId) -> Result<Self, InvalidInput> {
        let resources = if text.resources.is_empty() {
            vec![ResourcePattern::all(org)]
        } else {
            each(field, "resources", &text.resources, |at, text| ResourcePattern::parse(at, text, org))?
        };
        let mut scopes = each(field, "scopes", &text.scopes, |at, text| {
            let scope = Scope::parse(at.clone(), text)?;
            if scope.is_system_only() && !org.is_system() {
                return Err(InvalidInput::new(at, "a scope of an ordinary organization, not of system"));
            }
            Ok(scope)
        })?;
        if scopes.is_empty() {
            return Err(InvalidInput::new(format!("{field}.scopes"), "at least one scope"));
        }
        scopes.sort_unstable();
        scopes.dedup();
        check_labels(format!("{field}.labels"), &text.labels)?;
        Ok(Self {
            scopes,
            resources,
            labels: text.labels.clone(),
            environments: each(field, "environments", &text.environments, |at, text| {
                Environment::parse("environments", text).map_err(|refused| InvalidInput::new(at, refused.problem))
            })?,
            client_cidrs: each(field, "client_cidrs", &text.client_cidrs, |at, text| {
                parse_network(text).ok_or_else(|| InvalidInput::new(at, "a network such as 10.0.0.0/8"))
            })?,
        })
    }
}

fn each<T>(
    field: &str,
    part: &str,
    texts: &[String],
    parse: impl Fn(Cow<'static, str>, &str) -> Result<T, InvalidInput>,
) -> Result<Vec<T>, InvalidInput> {
    at_most(&format!("{field}.{part}"), texts.len(), RESOURCES_MAX)?;
    texts.iter().enumerate().map(|(n, text)| parse(format!("{field}.{part}[{n}]").into(), text)).collect()
}

fn at_most(field: &str, count: usize, most: usize) -> Result<(), InvalidInput> {
    if count > most { Err(InvalidInput::new(field.to_owned(), format!("at most {most}"))) } else { Ok(()) }
}

fn parse_network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))?;
    Some(network.trunc())
}

/// What a token may do. Its hash is made once: each call compares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    grants: Vec<Grant>,
    sha256: [u8; 32],
}

impl Grants {
    /// SHA-256 of their canonical bytes: each list prefixed by its count, each text by its length. It
    /// ties a token's claims to the grants of its record.
    #[must_use]
    pub const fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }
    /// The grants by themselves.
    #[must_use]
    pub fn into_vec(self) -> Vec<Grant> {
        self.grants
    }
}

impl From<Vec<Grant>> for Grants {
    fn from(grants: Vec<Grant>) -> Self {
        let sha256 = sha256_of(&grants);
        Self { grants, sha256 }
    }
}

impl std::ops::Deref for Grants {
    type Target = [Grant];
    fn deref(&self) -> &[Grant] {
        &self.grants
    }
}

fn sha256_of(grants: &[Grant]) -> [u8; 32] {
    let mut bytes = Vec::new();
    let bytes = &mut bytes;
    list(bytes, grants, |bytes, grant| {
        list(bytes, &grant.scopes, |bytes, scope| framing::push(bytes, scope.as_str().as_bytes()));
        list(bytes, &grant.resources, |bytes, resource| framing::push(bytes, resource.as_str().as_bytes()));
        list(bytes, &grant.labels, |bytes, (name, value)| {
            framing::push(bytes, name.as_bytes());
            framing::push(bytes, value.as_bytes());
        });
        list(bytes, &grant.environments, |bytes, environment| framing::push(bytes, environment.as_str().as_bytes()));
        list(bytes, &grant.client_cidrs, |bytes, network| framing::push(bytes, network.to_string().as_bytes()));
    });
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().unwrap_or_default()
}

fn list<T, I: IntoIterator<Item = T, IntoIter: ExactSizeIterator>>(
    bytes: &mut Vec<u8>,
    items: I,
    push: impl Fn(&mut Vec<u8>, T),
) {
    let items = items.into_iter();
    bytes.extend_from_slice(&(items.len() as u64).to_be_bytes());
    items.for_each(|item| push(bytes, item));
}

/// What a token is bound to: whoever presents it must show this.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Confirmation {
    /// The client certificate of this SHA-256 (RFC 8705).
    Certificate([u8; 32]),
    /// Any client certificate that bears this SPIFFE id or DNS name: it outlives renewal.
    Identity(String),
}

/// A token's record: what is decided from on each call, never from its claims alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its organization.
    pub org: OrgId,
    /// Its id, the `jti`.
    pub id: TokenId,
    /// Whom it speaks for.
    pub subject: Subject,
    /// For people; at most 256 bytes.
    pub description: String,
    /// What it may do.
    pub grants: Grants,
    /// LIVE or MOCK.
    pub mode: TokenMode,
    /// What it is bound to.
    pub confirmation: Confirmation,
    /// When it was first issued; renewal does not change it.
    pub created: Timestamp,
    /// Its expiry now, in whole seconds.
    pub expires: Timestamp,
    /// How far renewal may move the expiry, in whole seconds.
    pub max_expires: Timestamp,
    /// Who issued it: a subject, or the binding that was exchanged by.
    pub issued_by: String,
    /// The signing keys that signed it, the newest last.
    pub signing_keys: Vec<String>,
    /// The organization's generation when it was issued.
    pub org_generation: u64,
    /// The subject's generation when it was issued.
    pub subject_generation: u64,
    /// The token that it was exchanged from.
    pub parent: Option<TokenId>,
    /// How many releases it is good for; None: any number.
    pub uses_max: Option<u64>,
    /// When it was revoked by name.
    pub revoked: Option<Timestamp>,
    /// The item's revision.
    pub revision: u64,
}

/// A subject's record: raising its generation revokes every token issued before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectRecord {
    /// The generation that tokens are issued under now.
    pub generation: u64,
    /// When the generation was last raised.
    pub revoked: Option<Timestamp>,
    /// The item's revision.
    pub revision: u64,
}

/// An organization's epoch: it revokes all of its tokens, or all created before a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// The generation that tokens are issued under now.
    pub generation: u64,
    /// Tokens created before it are revoked.
    pub issued_before: Timestamp,
    /// When either was last moved.
    pub revoked: Option<Timestamp>,
    /// The item's revision.
    pub revision: u64,
}

/// A signed token, as its holder sends it: a secret.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct AccessToken(String);

impl AccessToken {
    /// Takes `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }
    /// The token itself.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acme() -> OrgId {
        OrgId::parse("org", "acme").unwrap()
    }
    fn text() -> GrantText {
        GrantText { scopes: vec!["keys:read".into()], ..GrantText::default() }
    }
    fn parse(grant: GrantText) -> Result<Grant, InvalidInput> {
        Grant::parse_all("grants", &[text(), grant], &acme()).map(|mut grants| grants.pop().unwrap())
    }

    #[test]
    fn omitted_resources_mean_the_whole_organization() {
        assert_eq!(parse(text()).unwrap().resources, [ResourcePattern::all(&acme())]);
    }

    #[test]
    fn a_refusal_names_the_element() {
        let many = |count: usize| (0..count).map(|n| format!("orgs/acme/keys/k{n}")).collect::<Vec<_>>();
        for (grant, field) in [
            (GrantText::default(), "grants[1].scopes"),
            (GrantText { scopes: vec!["keys:read".into(), "keys:fly".into()], ..text() }, "grants[1].scopes[1]"),
            (GrantText { scopes: vec!["admin".into()], ..text() }, "grants[1].scopes[0]"),
            (GrantText { resources: vec!["orgs/other/**".into()], ..text() }, "grants[1].resources[0]"),
            (GrantText { resources: many(65), ..text() }, "grants[1].resources"),
            (GrantText { environments: vec!["Prod".into()], ..text() }, "grants[1].environments[0]"),
            (GrantText { client_cidrs: vec!["10.0.0.0/33".into()], ..text() }, "grants[1].client_cidrs[0]"),
            (GrantText { labels: [("a".repeat(64), String::new())].into(), ..text() }, "grants[1].labels"),
            (GrantText { labels: [("a".into(), "b".repeat(256))].into(), ..text() }, "grants[1].labels"),
            (GrantText { labels: [("two words".into(), String::new())].into(), ..text() }, "grants[1].labels"),
        ] {
            assert_eq!(parse(grant).unwrap_err().field, field);
        }
        let many = vec![text(); GRANTS_MAX + 1];
        assert_eq!(Grant::parse_all("grants", &many, &acme()).unwrap_err().field, "grants");
        assert!(
            Grant::parse_all("grants", &[GrantText { scopes: vec!["admin".into()], ..text() }], &OrgId::system())
                .is_ok()
        );
    }

    #[test]
    fn the_most_of_everything_is_taken() {
        let resources = (0..RESOURCES_MAX).map(|n| format!("orgs/acme/keys/k{n}")).collect();
        let labels = (0..32).map(|n| (format!("{n:063}"), "b".repeat(255))).collect();
        let grant = parse(GrantText { resources, labels, ..text() }).unwrap();
        assert_eq!((grant.resources.len(), grant.labels.len()), (RESOURCES_MAX, 32));
        let one_more = (0..33).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(parse(GrantText { labels: one_more, ..text() }).unwrap_err().field, "grants[1].labels");
        assert_eq!(Grant::parse_all("grants", &vec![text(); GRANTS_MAX], &acme()).unwrap().len(), GRANTS_MAX);
    }

    #[test]
    fn a_mode_is_read_back_from_what_claims_and_records_say() {
        for (mode, text) in [(TokenMode::Live, "LIVE"), (TokenMode::Mock, "MOCK")] {
            assert_eq!((mode.as_str(), TokenMode::from_text(text)), (text, Some(mode)));
        }
        assert_eq!(TokenMode::from_text("live").or(TokenMode::from_text("")), None);
    }

    #[test]
    fn networks_are_stored_without_host_bits_and_an_address_is_a_network() {
        let grant = GrantText { client_cidrs: vec!["10.1.2.3/8".into(), "::1".into()], ..text() };
        let networks: Vec<_> = parse(grant).unwrap().client_cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.0/8", "::1/128"]);
    }

    #[test]
    fn any_difference_in_the_grants_changes_their_hash() {
        let base = parse(GrantText {
            resources: vec!["orgs/acme/keys/a".into(), "orgs/acme/keys/b".into()],
            labels: [("a".into(), "b".into())].into(),
            environments: vec!["x".into()],
            client_cidrs: vec!["10.0.0.0/8".into()],
            ..text()
        })
        .unwrap();
        let mut hashes = std::collections::BTreeSet::from([sha256_of(&[]), sha256_of(std::slice::from_ref(&base))]);
        let mut changed = vec![vec![base.clone(), base.clone()]];
        changed.push(vec![Grant { scopes: vec![Scope::KeysList], ..base.clone() }]);
        changed.push(vec![Grant { resources: base.resources[..1].to_vec(), ..base.clone() }]);
        changed.push(vec![Grant { labels: [("ab".into(), String::new())].into(), ..base.clone() }]);
        changed.push(vec![Grant { environments: vec![], ..base.clone() }]);
        changed.push(vec![Grant { client_cidrs: vec![], ..base }]);
        for grants in &changed {
            assert!(hashes.insert(sha256_of(grants)));
        }
    }
}
