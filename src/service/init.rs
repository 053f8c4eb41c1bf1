//! The first start of a vault: its own keys, the organization `system`, the first organization, and
//! the bindings by which their administrator's certificate exchanges itself for tokens. There is
//! no first password.

use std::time::Duration;

use super::{
    Parts,
    orgs::{admin_binding, founding},
};
use crate::{
    domain::{
        audit::{Action as Audited, AuditDraft},
        clock::Deadline,
        error::{Failure, Reason},
        ids::{OrgId, Uid},
        principal::IdentityPattern,
        scope::Scope,
    },
    repository::{audit::Commit, orgs::OrgRecord},
    store::Action,
};

/// What a new vault is made with.
#[derive(Clone, Debug)]
pub struct Initialize {
    /// The first organization.
    pub org: OrgId,
    /// Whether every one of its tokens shall be a mock token.
    pub is_mock: bool,
    /// Whose client certificate administers both organizations.
    pub admin_identity: IdentityPattern,
    /// The longest life of his tokens.
    pub ttl_longest: Duration,
}

/// Makes a vault in a store that has none, in one transaction with the record of it in the log of
/// `system`: either all of it is there afterwards, or nothing. `parts` stand on the keyring of
/// [`Keyring::create`](super::keyring::Keyring::create), and `keys` are what that one must write.
///
/// # Errors
/// ALREADY_INITIALIZED, INVALID_FIELD when the first organization is `system`; KMS_UNAVAILABLE,
/// KMS_KEY_DISABLED, STORE_UNAVAILABLE, AUDIT_UNAVAILABLE: then it can be tried again with a new
/// keyring.
pub async fn initialize(
    parts: &Parts,
    keys: Vec<Action>,
    request: &Initialize,
    deadline: Deadline,
) -> Result<(), Failure> {
    if request.org.is_system() {
        return Err(Failure::invalid("org", "another id than system, which is made anyway"));
    }
    let system = new_org(parts, OrgId::system(), Uid::stored(OrgId::SYSTEM), false);
    let uid = Uid::random(&*parts.entropy).map_err(|cause| Failure::new(Reason::Internal).caused_by(cause))?;
    let first = new_org(parts, request.org.clone(), uid, request.is_mock);
    let mut actions = keys;
    for (org, scopes) in [(&system, system_scopes()), (&first, Scope::ordinary().collect())] {
        let binding = admin_binding(org, request.admin_identity.clone(), scopes, request.ttl_longest)?;
        let keys = parts.keyring.new_org_keys(&org.id, &org.uid, None, deadline).await?;
        actions.extend(founding(&parts.records, org, &binding, keys));
    }
    match parts.audit.commit(actions, draft(parts), deadline).await? {
        Commit::Done(_) => Ok(()),
        Commit::Conflict { .. } => Err(Reason::AlreadyInitialized.into()),
    }
}

fn new_org(parts: &Parts, id: OrgId, uid: Uid, is_mock: bool) -> OrgRecord {
    let created = parts.clock.now();
    OrgRecord { id, uid, display_name: String::new(), kms_key: None, is_mock, created, revision: 1 }
}

fn draft(parts: &Parts) -> AuditDraft {
    AuditDraft {
        resource: OrgId::system().full_name(),
        revision: 1,
        ..AuditDraft::of_server(OrgId::system(), parts.clock.now(), Audited::ServerInit)
    }
}

/// What an administrator of the vault may do in `system`: no scope of provider keys, it has none.
fn system_scopes() -> Vec<Scope> {
    let own = [
        Scope::TokensIssue,
        Scope::TokensRevoke,
        Scope::TokensList,
        Scope::BindingsWrite,
        Scope::BindingsList,
        Scope::AuditRead,
        Scope::UsageRead,
    ];
    own.into_iter().chain(Scope::ALL.iter().copied().filter(|scope| scope.is_system_only())).collect()
}
