//! Page and resume tokens: AEAD-sealed places in a listing, bound to organization, subject, method
//! and filter. Anything else is INVALID_PAGE_TOKEN.
//!
//! A token is base64url (RFC 4648, section 5, without padding) of:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format: 1 |
//! | 1, k | length of the page key's id, the id |
//! | 16 | salt, random |
//! | 12 | nonce, random |
//! | n | ciphertext, as long as the place |
//! | 16 | tag |
//!
//! which is 46 + k bytes more than the place: with our ids (k = 26) 72, before base64url adds a
//! third. HKDF-SHA-256 (RFC 5869) of the page key and the salt gives the key of AES-256-GCM (NIST
//! SP 800-38D), so that no count of tokens wears the page key out. The associated data is a list,
//! each part prefixed by its length as 8 bytes, big-endian: everything before the nonce, then
//! organization, subject, method, filter.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;

use super::keyring::{Keyring, PageKey};
use crate::domain::{
    aead,
    clock::{Entropy, random},
    error::{Failure, InvalidInput, Reason},
    framing,
    hkdf::Derivation,
    ids::{OrgId, Subject},
    secret::SecretKey,
};

#[cfg(test)]
mod tests;

/// What a page token is good for.
#[derive(Clone, Debug)]
pub struct PageScope<'a> {
    /// The organization listed.
    pub org: &'a OrgId,
    /// Who lists.
    pub subject: &'a Subject,
    /// The method's full path.
    pub method: &'static str,
    /// Canonical bytes of parent and filter: the next page must ask the same.
    pub filter: &'a [u8],
}

impl PageScope<'_> {
    fn associated_data(&self, header: &[u8]) -> Vec<u8> {
        let (org, subject) = (self.org.as_str().as_bytes(), self.subject.as_str().as_bytes());
        framing::length_prefixed([header, org, subject, self.method.as_bytes(), self.filter])
    }
}

/// Seals and opens page tokens under the vault's page key.
#[derive(Debug)]
pub struct PageTokens {
    keyring: Arc<Keyring>,
    entropy: Arc<dyn Entropy>,
}

impl PageTokens {
    /// Under the page keys of `keyring`: the newest seals, all open.
    #[must_use]
    pub fn new(keyring: Arc<Keyring>, entropy: Arc<dyn Entropy>) -> Self {
        Self { keyring, entropy }
    }
    /// A token for `place`, base64url.
    ///
    /// # Errors
    /// When the random source gives nothing.
    pub fn seal(&self, scope: &PageScope<'_>, place: &[u8]) -> Result<String, Failure> {
        let pages = self.keyring.pages();
        let newest = pages.first().ok_or_else(|| Failure::new(Reason::Internal).caused_by("there is no page key"))?;
        seal(newest, &*self.entropy, scope, place)
    }
    /// The place in `token`.
    ///
    /// # Errors
    /// INVALID_PAGE_TOKEN, naming `field`.
    pub fn open(&self, scope: &PageScope<'_>, field: &'static str, token: &str) -> Result<Vec<u8>, Failure> {
        open(&self.keyring.pages(), scope, token).ok_or_else(|| {
            let mut failure = Failure::new(Reason::InvalidPageToken);
            failure.fields.push(InvalidInput::new(field, "a token that this call gave out for the same request"));
            failure
        })
    }
}

const FORMAT: u8 = 1;
const SALT_LEN: usize = 16;
const LABEL: &[u8] = b"ibyok page token 1";

fn seal(page: &PageKey, entropy: &dyn Entropy, scope: &PageScope<'_>, place: &[u8]) -> Result<String, Failure> {
    let salt = random::<SALT_LEN>(entropy).map_err(internal)?;
    let nonce = random::<{ aead::NONCE_LEN }>(entropy).map_err(internal)?;
    let kid_len = u8::try_from(page.kid.len()).map_err(internal)?;

    let mut token = [&[FORMAT, kid_len], page.kid.as_bytes(), &salt].concat();
    let aad = scope.associated_data(&token);
    token.extend_from_slice(&nonce);
    let key = derive(page, &salt).map_err(internal)?;
    aead::seal_onto(&mut token, &key, nonce, &aad, place).map_err(internal)?;
    Ok(BASE64URL_NOPAD.encode(&token))
}

fn open(pages: &[PageKey], scope: &PageScope<'_>, token: &str) -> Option<Vec<u8>> {
    let token = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
    let (kid_len, rest) = token.strip_prefix(&[FORMAT])?.split_first()?;
    let (kid, rest) = rest.split_at_checked(usize::from(*kid_len))?;
    let (salt, rest) = rest.split_first_chunk::<SALT_LEN>()?;
    let header = token.get(..token.len().checked_sub(rest.len())?)?;
    let (nonce, sealed) = rest.split_first_chunk::<{ aead::NONCE_LEN }>()?;

    let page = pages.iter().find(|page| page.kid.as_bytes() == kid)?;
    let opened = aead::open(&derive(page, salt).ok()?, *nonce, &scope.associated_data(header), sealed).ok()?;
    Some(opened.expose_secret().to_vec())
}

fn derive(page: &PageKey, salt: &[u8; SALT_LEN]) -> Result<SecretKey, crate::domain::hkdf::HkdfError> {
    Derivation::new(salt, page.key.expose_secret()).key(LABEL)
}

fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new(Reason::Internal).caused_by(error)
}
