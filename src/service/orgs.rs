//! Organizations. Only tokens of the organization `system` can carry the scope; their grants are
//! asked by the names `orgs/system/orgs/{org}`.

use std::time::Duration;

use super::{
    Parts,
    call::Call,
    mutation::{Mutated, Remembered},
    page_token::PageScope,
    session::Access,
    tokens::ROUNDS,
};
use crate::{
    domain::{
        binding::Binding,
        clock::Deadline,
        error::{Failure, Reason},
        ids::{BindingId, OrgId, Uid},
        key::{Labels, input::check_text},
        pattern::ResourcePattern,
        principal::{ClientIdentity, IdentityPattern},
        scope::Scope,
        secret::KmsKeyId,
        token::{Grant, TokenMode},
    },
    repository::{
        bindings,
        orgs::{self, OrgRecord},
        records::{Expected, Records},
        tokens,
    },
    store::Action,
};

/// The most bytes of a display name.
const DISPLAY_NAME_MAX: usize = 256;
/// The binding that makes the first administrator of an organization.
const ADMIN_BINDING: &str = "admin";

/// What CreateOrg asks for.
#[derive(Clone, Debug)]
pub struct CreateOrg {
    /// Its id.
    pub id: OrgId,
    /// For people.
    pub display_name: String,
    /// Its own KMS key; None: the server's.
    pub kms_key: Option<KmsKeyId>,
    /// Whether every one of its tokens shall be a mock token.
    pub is_mock: bool,
    /// Whose client certificate gets every scope of it.
    pub admin_identity: ClientIdentity,
    /// Makes it happen once.
    pub request_id: String,
}

/// What UpdateOrg asks for; None: as it is.
#[derive(Clone, Debug)]
pub struct UpdateOrg {
    /// Which.
    pub id: OrgId,
    /// For people.
    pub display_name: Option<String>,
    /// Its own KMS key; Some(None): the server's.
    pub kms_key: Option<Option<KmsKeyId>>,
    /// Makes it happen once.
    pub request_id: String,
}

/// A page of organizations.
#[derive(Debug)]
pub struct OrgPage {
    /// In order of their ids.
    pub orgs: Vec<OrgRecord>,
    /// Empty at the end.
    pub next_page_token: String,
}

/// The use cases of organizations.
#[derive(Clone, Debug)]
pub struct OrgService {
    parts: Parts,
    ttl_longest: Duration,
}

impl OrgService {
    /// On those parts. `ttl_longest` is the longest life of the tokens of an organization's first
    /// administrator.
    #[must_use]
    pub fn new(parts: Parts, ttl_longest: Duration) -> Self {
        Self { parts, ttl_longest }
    }

    /// A new organization, with its keys, epoch and first administrator, in one transaction.
    ///
    /// # Errors
    /// ORG_EXISTS, INVALID_FIELD, KMS_UNAVAILABLE, KMS_KEY_DISABLED, KMS_KEY_REFUSED; the reasons
    /// of sessions and mutations.
    pub async fn create(&self, call: &Call, request: &CreateOrg) -> Result<OrgRecord, Failure> {
        check_text("org.display_name", &request.display_name, DISPLAY_NAME_MAX)?;
        let idempotency = self.parts.mutations.idempotency(call, call.org()?, &request.request_id).await?;
        let mut needs = vec![orgs::item_key(&request.id)];
        needs.extend(idempotency.as_ref().map(|idempotency| idempotency.key.clone()));
        let session = self.parts.sessions.open(call, access(request.id.as_str()), &needs).await?;
        let mut items = session.items.into_iter();
        let existing = items.next().flatten();
        if self.parts.mutations.prior(idempotency.as_ref(), items.next().flatten())?.is_some() {
            return self.read(&request.id, call.deadline).await;
        }
        if existing.is_some() {
            self.parts.mutations.refused(call, idempotency.as_ref(), Reason::OrgExists.into()).await?;
            return self.read(&request.id, call.deadline).await;
        }

        let org = OrgRecord {
            id: request.id.clone(),
            uid: uid(&self.parts)?,
            display_name: request.display_name.clone(),
            kms_key: request.kms_key.clone(),
            is_mock: request.is_mock,
            created: call.time,
            revision: 1,
        };
        let scopes = Scope::ordinary().collect();
        let identity = IdentityPattern::parse("admin_identity", request.admin_identity.as_str())?;
        let binding = admin_binding(&org, identity, scopes, self.ttl_longest)?;
        let keyring = &self.parts.keyring;
        let keys = keyring.new_org_keys(&org.id, &org.uid, org.kms_key.as_ref(), call.deadline).await?;
        let actions = founding(&self.parts.records, &org, &binding, keys);
        let (remembered, draft) = self.said(call, &org)?;
        match self.parts.mutations.commit(call, idempotency.as_ref(), remembered, actions, draft).await? {
            Mutated::Done(_) => Ok(org),
            Mutated::Replayed(_) => self.read(&request.id, call.deadline).await,
            Mutated::Conflict { .. } => Err(Reason::OrgExists.into()),
        }
    }

    /// Changes the display name or the KMS key. What is sealed stays under the old KMS key until
    /// it is rewrapped.
    ///
    /// # Errors
    /// ORG_NOT_FOUND, INVALID_FIELD, KMS_UNAVAILABLE, KMS_KEY_DISABLED, KMS_KEY_REFUSED; the
    /// reasons of sessions and mutations.
    pub async fn update(&self, call: &Call, request: &UpdateOrg) -> Result<OrgRecord, Failure> {
        if let Some(name) = &request.display_name {
            check_text("org.display_name", name, DISPLAY_NAME_MAX)?;
        }
        let idempotency = self.parts.mutations.idempotency(call, call.org()?, &request.request_id).await?;
        let mut needs = vec![orgs::item_key(&request.id)];
        needs.extend(idempotency.as_ref().map(|idempotency| idempotency.key.clone()));
        for _ in 0..ROUNDS {
            let session = self.parts.sessions.open(call, access(request.id.as_str()), &needs).await?;
            let mut items = session.items.into_iter();
            let item = items.next().flatten();
            if self.parts.mutations.prior(idempotency.as_ref(), items.next().flatten())?.is_some() {
                return self.read(&request.id, call.deadline).await;
            }
            let org = orgs::decode(&self.parts.records.verify(item.ok_or(Reason::OrgNotFound)?)?)?;
            let expected = Expected::Revision(org.revision);
            let changed = OrgRecord {
                display_name: request.display_name.clone().unwrap_or(org.display_name),
                kms_key: request.kms_key.clone().unwrap_or(org.kms_key),
                revision: expected.next_revision(),
                ..org
            };
            if request.kms_key.is_some() {
                // One that can't be used is refused now, and not when the next key is stored.
                let kms_key = changed.kms_key.as_ref();
                self.parts.sealer.resolve(kms_key, &changed.id, &changed.uid, call.deadline).await?;
            }
            let put = orgs::put(&self.parts.records, &changed, expected);
            let (remembered, draft) = self.said(call, &changed)?;
            match self.parts.mutations.commit(call, idempotency.as_ref(), remembered, vec![put], draft).await? {
                Mutated::Done(_) => return Ok(changed),
                Mutated::Replayed(_) => return self.read(&request.id, call.deadline).await,
                Mutated::Conflict { .. } => {}
            }
        }
        Err(Reason::WriteConflict.into())
    }

    /// A page of all organizations.
    ///
    /// # Errors
    /// INVALID_PAGE_TOKEN; the reasons of sessions.
    pub async fn list(&self, call: &Call, page_size: usize, page_token: &str) -> Result<OrgPage, Failure> {
        let session = self.parts.sessions.open(call, Access::Collection(Scope::Admin), &[]).await?;
        let permit = &session.permit;
        let scope = PageScope { org: permit.org(), subject: permit.subject(), method: call.method.path, filter: b"" };
        let after = super::place(&self.parts, &scope, page_token)?;
        let (mut orgs, next) = orgs::page(&self.parts.records, after, page_size, call.deadline).await?;
        orgs.retain(|org| permit.covers(&resource(org.id.as_str()), None, &Labels::new()));
        Ok(OrgPage { orgs, next_page_token: super::page_token(&self.parts, &scope, next)? })
    }

    async fn read(&self, org: &OrgId, deadline: Deadline) -> Result<OrgRecord, Failure> {
        orgs::find(&self.parts.records, org, deadline).await?.ok_or_else(|| Reason::OrgNotFound.into())
    }

    fn said(&self, call: &Call, org: &OrgRecord) -> Result<(Remembered, crate::domain::audit::AuditDraft), Failure> {
        let name = org.id.full_name();
        let mut draft = call.draft(call.org()?.clone(), name.clone());
        draft.revision = org.revision;
        Ok((Remembered { resource: name, revision: org.revision, ..Remembered::default() }, draft))
    }
}

fn uid(parts: &Parts) -> Result<Uid, Failure> {
    Uid::random(&*parts.entropy).map_err(|cause| Failure::new(Reason::Internal).caused_by(cause))
}

fn resource(org: &str) -> String {
    format!("orgs/{}/orgs/{org}", OrgId::SYSTEM)
}

fn access(org: &str) -> Access {
    Access::Plain(Scope::Admin, resource(org))
}

/// The one exception to attenuation: whoever makes an organization names its first administrator,
/// who gets these scopes on all of it.
pub(super) fn admin_binding(
    org: &OrgRecord,
    identity: IdentityPattern,
    scopes: Vec<Scope>,
    ttl_max: Duration,
) -> Result<Binding, Failure> {
    Ok(Binding {
        id: BindingId::parse("id", ADMIN_BINDING)?,
        identity,
        grants: vec![Grant {
            scopes,
            resources: vec![ResourcePattern::all(&org.id)],
            labels: Labels::new(),
            environments: Vec::new(),
            client_cidrs: Vec::new(),
        }],
        mode: if org.is_mock { TokenMode::Mock } else { TokenMode::Live },
        ttl_max,
        revision: 1,
    })
}

/// All that a new organization consists of, each on the condition that it is not there yet.
/// `keys` is the put of its own keys.
pub(super) fn founding(records: &Records, org: &OrgRecord, binding: &Binding, keys: Action) -> Vec<Action> {
    let mut actions = vec![orgs::put(records, org, Expected::Absent), orgs::put_row(org), keys];
    actions.push(bindings::put_new(records, &org.id, binding));
    actions.extend(tokens::new_epoch(records, &org.id));
    actions
}
