//! Admission of an exchange: a certificate identity by an organization's bindings, or a wider token
//! by itself. Only [`admit_exchange`] makes an [`ExchangePermit`].

use super::permit::{Evidence, present};
use crate::domain::{
    binding::Binding,
    clock::Timestamp,
    error::{Failure, Reason},
    ids::{BindingId, OrgId, Subject, TokenId},
    principal::Peer,
    token::{Confirmation, Epoch, Grant, TokenMode},
};

/// Who wants to enter an organization.
#[derive(Clone, Copy, Debug)]
pub enum Assertion<'a> {
    /// The client certificate of the connection.
    Certificate {
        /// Whose.
        peer: &'a Peer,
        /// The organization's bindings, or those of them that can matter.
        bindings: &'a [Binding],
        /// Which of them is meant, where several match.
        choice: Option<&'a BindingId>,
        /// When.
        now: Timestamp,
    },
    /// A token of this vault, for a narrower one.
    Token(Evidence<'a>),
}

/// An exchange was admitted: for this subject, at most these grants, at most so long.
#[derive(Clone, Debug)]
pub struct ExchangePermit {
    org: OrgId,
    subject: Subject,
    grants: Vec<Grant>,
    mode: TokenMode,
    confirmation: Confirmation,
    expires: Timestamp,
    issued_by: String,
    parent: Option<TokenId>,
    binding: Option<(BindingId, u64)>,
}

/// Admits an exchange into `org`. `epoch` is the organization's; None: there is no such
/// organization, and the refusal is that of no binding.
///
/// # Errors
/// EXCHANGE_REFUSED; INVALID_FIELD for `binding` where several match and none is chosen; for a
/// token, as admission.
pub fn admit_exchange(org: &OrgId, epoch: Option<&Epoch>, assertion: Assertion<'_>) -> Result<ExchangePermit, Failure> {
    match assertion {
        Assertion::Certificate { peer, bindings, choice, now } => {
            if peer.certificate.is_expired(now) {
                return Err(Reason::CertificateExpired.into());
            }
            epoch.ok_or(Reason::ExchangeRefused)?;
            by_binding(org, peer, bindings, choice, now)
        }
        Assertion::Token(evidence) => {
            if evidence.claims.org != *org {
                return Err(Reason::ExchangeRefused.into());
            }
            by_token(org, evidence)
        }
    }
}

fn by_binding(
    org: &OrgId,
    peer: &Peer,
    bindings: &[Binding],
    choice: Option<&BindingId>,
    now: Timestamp,
) -> Result<ExchangePermit, Failure> {
    let identities = &peer.certificate.identities;
    let mut matching = bindings
        .iter()
        .filter(|binding| choice.is_none_or(|id| *id == binding.id))
        .filter_map(|binding| Some((binding, identities.iter().find(|own| binding.identity.matches(own))?)));
    let (binding, identity) = matching.next().ok_or(Reason::ExchangeRefused)?;
    if matching.next().is_some() {
        return Err(Failure::invalid("binding", "the name of a binding: several match this certificate"));
    }
    Ok(ExchangePermit {
        org: org.clone(),
        subject: Subject::parse("certificate", identity).map_err(|_| Reason::ExchangeRefused)?,
        grants: binding.grants.clone(),
        mode: binding.mode,
        confirmation: Confirmation::Identity(identity.clone()),
        expires: now.plus(binding.ttl_max),
        issued_by: format!("orgs/{org}/bindings/{}", binding.id),
        parent: None,
        binding: Some((binding.id.clone(), binding.revision)),
    })
}

fn by_token(org: &OrgId, evidence: Evidence<'_>) -> Result<ExchangePermit, Failure> {
    let (token, ends) = present(evidence)?;
    // One level, and a counted token can't be multiplied.
    if token.parent.is_some() || token.uses_max.is_some() {
        return Err(Reason::GrantTooWide.into());
    }
    Ok(ExchangePermit {
        org: org.clone(),
        subject: token.subject.clone(),
        grants: token.grants.to_vec(),
        mode: token.mode,
        confirmation: token.confirmation.clone(),
        expires: ends,
        issued_by: token.subject.to_string(),
        parent: Some(token.id.clone()),
        binding: None,
    })
}

impl ExchangePermit {
    /// The organization entered.
    #[must_use]
    pub fn org(&self) -> &OrgId {
        &self.org
    }
    /// The identity that matched, or the subject of the token.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }
    /// What may be had, at most.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }
    /// LIVE or MOCK.
    #[must_use]
    pub fn mode(&self) -> TokenMode {
        self.mode
    }
    /// What the new token is bound to: the identity that matched, which outlives the certificate's
    /// renewal; for a token, what that one is bound to.
    #[must_use]
    pub fn confirmation(&self) -> &Confirmation {
        &self.confirmation
    }
    /// The latest end of the new token, renewals included.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.expires
    }
    /// What the new token's record names as its issuer: the binding, or the subject of the token.
    #[must_use]
    pub fn issued_by(&self) -> &str {
        &self.issued_by
    }
    /// The token that is exchanged.
    #[must_use]
    pub fn parent(&self) -> Option<&TokenId> {
        self.parent.as_ref()
    }
    /// The binding that is exchanged by, and the revision that it must still have when the token
    /// is written.
    #[must_use]
    pub fn binding(&self) -> Option<(&BindingId, u64)> {
        self.binding.as_ref().map(|(id, revision)| (id, *revision))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        authz::fixtures::{Case, IDENTITY, acme, grant, peer, seconds},
        domain::principal::IdentityPattern,
    };

    fn binding(id: &str, identity: &str) -> Binding {
        Binding {
            id: BindingId::parse("id", id).unwrap(),
            identity: IdentityPattern::parse("certificate", identity).unwrap(),
            grants: vec![grant()],
            mode: TokenMode::Live,
            ttl_max: Duration::from_secs(600),
            revision: 1,
        }
    }
    fn exchange(bindings: &[Binding], choice: Option<&str>, epoch: bool) -> Result<ExchangePermit, Failure> {
        let choice = choice.map(|id| BindingId::parse("binding", id).unwrap());
        let (peer, case) = (peer(), Case::with(vec![]));
        let now = seconds(2000);
        let assertion = Assertion::Certificate { peer: &peer, bindings, choice: choice.as_ref(), now };
        admit_exchange(&acme(), epoch.then_some(&case.epoch), assertion)
    }

    #[test]
    fn the_identity_that_matched_is_the_subject() {
        let permit = exchange(&[binding("x", "other.org"), binding("b", "spiffe://acme.org/*")], None, true).unwrap();
        assert_eq!(permit.subject().as_str(), IDENTITY);
        assert_eq!(permit.issued_by(), "orgs/acme/bindings/b");
        assert_eq!((permit.expires(), permit.parent()), (seconds(2600), None));
        let permit = exchange(&[binding("b", "billing.acme.org")], None, true).unwrap();
        assert_eq!(permit.subject().as_str(), "billing.acme.org");
    }

    #[test]
    fn no_organization_and_no_binding_are_refused_alike() {
        let refusals = [
            exchange(&[], None, true),
            exchange(&[], None, false),
            exchange(&[binding("b", IDENTITY)], None, false),
            exchange(&[binding("b", "other.org")], None, true),
            exchange(&[binding("b", IDENTITY)], Some("c"), true),
        ];
        for refused in refusals {
            let refused = refused.unwrap_err();
            assert_eq!(refused.reason, Reason::ExchangeRefused);
            assert!(refused.metadata.is_empty() && refused.fields.is_empty());
        }
    }

    #[test]
    fn of_several_bindings_one_is_named() {
        let two = [binding("a", IDENTITY), binding("b", "billing.acme.org")];
        assert_eq!(exchange(&two, None, true).unwrap_err().fields[0].field, "binding");
        assert_eq!(exchange(&two, Some("b"), true).unwrap().issued_by(), "orgs/acme/bindings/b");
    }

    #[test]
    fn an_expired_certificate_enters_nowhere() {
        let (peer, bindings) = (peer(), [binding("b", IDENTITY)]);
        let now = peer.certificate.not_after;
        let assertion = Assertion::Certificate { peer: &peer, bindings: &bindings, choice: None, now };
        let refused = admit_exchange(&acme(), Some(&Case::with(vec![]).epoch), assertion).unwrap_err();
        assert_eq!(refused.reason, Reason::CertificateExpired);
    }

    #[test]
    fn a_token_is_exchanged_once_within_its_organization_and_life() {
        let exchange =
            |case: &Case, org: &OrgId| admit_exchange(org, Some(&case.epoch), Assertion::Token(case.evidence()));
        let mut case = Case::with(vec![grant()]);
        let permit = exchange(&case, &acme()).unwrap();
        assert_eq!((permit.expires(), permit.parent()), (seconds(4600), Some(&case.claims.token_id)));
        assert_eq!(exchange(&case, &OrgId::system()).unwrap_err().reason, Reason::ExchangeRefused);
        assert_eq!(exchange(&Case::child(), &acme()).unwrap_err().reason, Reason::GrantTooWide);
        case.record().revoked = Some(seconds(1500));
        assert_eq!(exchange(&case, &acme()).unwrap_err().reason, Reason::TokenRevoked);
    }
}
