//! The token format: a JWS in compact form (RFC 7515), `at+jwt` (RFC 9068), Ed25519 only
//! (RFC 8037). Read strictly: an unknown or repeated member of header or claims is refused, and so
//! are `crit`, embedded keys and every other algorithm.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, crypto};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::claims::Claims;
use crate::domain::{
    clock::Timestamp,
    error::{Failure, Reason},
    ids::{OrgId, Subject, TokenId},
    scope::Scope,
    secret::{SecretKey, wipe_stack},
    token::{AccessToken, Confirmation, TokenMode},
};

/// The most bytes of a token.
pub const JWT_MAX: usize = 4_096;
/// The header's `typ`.
const TYPE: &str = "at+jwt";

/// Where tokens come from and what they are for: `iss` and `aud`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realm {
    /// `iss`
    pub issuer: String,
    /// `aud`
    pub audience: String,
}

/// Signs `claims` with the Ed25519 key of `seed`, whose id is `claims.signing_key`. The same claims
/// and key always give the same bytes (RFC 8032 is deterministic).
///
/// # Errors
/// INVALID_FIELD when the token would be longer than [`JWT_MAX`]; INTERNAL when the key can't sign.
pub fn sign(realm: &Realm, claims: &Claims, seed: &SecretKey) -> Result<AccessToken, Failure> {
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some(TYPE.to_owned());
    header.kid = Some(claims.signing_key.clone());
    let key = Zeroizing::new([PKCS8_PREFIX, seed.expose_secret()].concat());
    let text = jsonwebtoken::encode(&header, &Payload::new(realm, claims), &EncodingKey::from_ed_der(&key));
    wipe_stack();
    let text = text.map_err(|cause| Failure::new(Reason::Internal).caused_by(cause))?;
    if text.len() > JWT_MAX {
        return Err(Failure::invalid("client_identity", "short enough for the token to stay within 4096 bytes"));
    }
    Ok(AccessToken::new(text))
}

/// An Ed25519 private key in PKCS #8 version 1 (RFC 8410, section 7), up to its 32 bytes.
const PKCS8_PREFIX: &[u8] =
    &[0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Whether `text` is a JWS of some other issuer: three parts, and a header that names an algorithm
/// but not our type. Nothing in it is believed.
#[must_use]
pub fn is_foreign(text: &str) -> bool {
    let mut parts = text.split('.');
    let header = parts.next().and_then(|header| BASE64URL_NOPAD.decode(header.as_bytes()).ok());
    let header = header.and_then(|header| serde_json::from_slice::<serde_json::Value>(&header).ok());
    let text_of = |name| header.as_ref().and_then(|header| header.get(name)?.as_str());
    parts.count() == 2 && text_of("alg").is_some() && text_of("typ") != Some(TYPE)
}

/// A token taken apart; nothing in it is believed yet.
pub(super) struct Unverified<'a> {
    kid: String,
    message: &'a str,
    signature: &'a str,
    payload: &'a str,
}

impl<'a> Unverified<'a> {
    /// Takes `text`, of at most [`JWT_MAX`] bytes, apart; None when it is no token of this format.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (message, signature) = text.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let header: JoseHeader = serde_json::from_slice(&BASE64URL_NOPAD.decode(header.as_bytes()).ok()?).ok()?;
        let is_ours = header.typ == TYPE && header.alg == "EdDSA";
        is_ours.then_some(Self { kid: header.kid, message, signature, payload })
    }
    /// The header's `kid`.
    pub(super) fn kid(&self) -> &str {
        &self.kid
    }
    /// The claims, if `public` signed them for `realm`.
    pub(super) fn verify(self, public: &[u8; 32], realm: &Realm) -> Option<Claims> {
        if !is_signed(public, self.message.as_bytes(), self.signature) {
            return None;
        }
        let payload: Payload = serde_json::from_slice(&BASE64URL_NOPAD.decode(self.payload.as_bytes()).ok()?).ok()?;
        payload.into_claims(realm, self.kid)
    }
}

/// Whether the base64url `signature` over `message` is of the Ed25519 key `public`.
fn is_signed(public: &[u8; 32], message: &[u8], signature: &str) -> bool {
    // Decoded here first: only canonical base64url without padding passes.
    let is_signed = BASE64URL_NOPAD.decode(signature.as_bytes()).is_ok_and(|bytes| bytes.len() == 64)
        && crypto::verify(signature, message, &DecodingKey::from_ed_der(public), Algorithm::EdDSA).unwrap_or(false);
    wipe_stack();
    is_signed
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JoseHeader {
    typ: String,
    alg: String,
    kid: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    iss: String,
    aud: String,
    org: String,
    sub: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: String,
    mode: String,
    scp: Vec<String>,
    cnf: Cnf,
    gnt: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    par: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lim: Option<bool>,
}

/// `cnf` (RFC 7800): `x5t#S256` is RFC 8705's; `client_identity` is a private member, a SPIFFE id
/// or DNS name that the client certificate must bear.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum Cnf {
    #[serde(rename = "x5t#S256")]
    Certificate(String),
    #[serde(rename = "client_identity")]
    Identity(String),
}

impl Payload {
    fn new(realm: &Realm, claims: &Claims) -> Self {
        Self {
            iss: realm.issuer.clone(),
            aud: realm.audience.clone(),
            org: claims.org.to_string(),
            sub: claims.subject.to_string(),
            iat: claims.issued.seconds(),
            nbf: claims.not_before.seconds(),
            exp: claims.expires.seconds(),
            jti: claims.token_id.to_string(),
            mode: claims.mode.as_str().to_owned(),
            scp: claims.scopes.iter().map(ToString::to_string).collect(),
            cnf: match &claims.confirmation {
                Confirmation::Certificate(sha256) => Cnf::Certificate(BASE64URL_NOPAD.encode(sha256)),
                Confirmation::Identity(identity) => Cnf::Identity(identity.clone()),
            },
            gnt: BASE64URL_NOPAD.encode(&claims.grants_sha256),
            par: claims.parent.as_ref().map(ToString::to_string),
            lim: claims.is_use_limited.then_some(true),
        }
    }

    fn into_claims(self, realm: &Realm, signing_key: String) -> Option<Claims> {
        if self.iss != realm.issuer || self.aud != realm.audience {
            return None;
        }
        let hash = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok();
        // A time that no timestamp holds would be cut short, and another than the one signed.
        let time = |seconds| Some(Timestamp::from_seconds(seconds)).filter(|time| time.seconds() == seconds);
        Some(Claims {
            org: OrgId::parse("org", &self.org).ok()?,
            subject: Subject::parse("sub", &self.sub).ok()?,
            token_id: TokenId::parse("jti", &self.jti).ok()?,
            parent: self.par.map(|id| TokenId::parse("par", &id)).transpose().ok()?,
            mode: TokenMode::from_text(&self.mode)?,
            scopes: self.scp.iter().map(|text| Scope::from_text(text)).collect::<Option<_>>()?,
            grants_sha256: hash(&self.gnt)?,
            confirmation: match self.cnf {
                Cnf::Certificate(sha256) => Confirmation::Certificate(hash(&sha256)?),
                Cnf::Identity(identity) => Confirmation::Identity(identity),
            },
            issued: time(self.iat)?,
            not_before: time(self.nbf)?,
            expires: time(self.exp)?,
            is_use_limited: self.lim.unwrap_or(false),
            signing_key,
        })
    }
}

#[cfg(test)]
mod tests;
