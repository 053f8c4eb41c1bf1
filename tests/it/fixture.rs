//! A vault in this process: real parts on a store in memory or in a file, a clock that tests move,
//! a KMS that counts and fails on command.

pub(crate) mod keys;

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use ibyok::{
    authz::{claims::Claims, methods},
    domain::{
        clock::{Clock, Deadline, Entropy, ShiftedClock, SystemEntropy, Timestamp},
        ids::{OrgId, Subject, TokenId, Uid},
        principal::{ClientCertificate, Peer},
        scope::Scope,
        secret::KmsKeyId,
        token::{Confirmation, Grant, GrantText, SubjectRecord, TokenMode, TokenRecord},
    },
    kms::fake::FakeKms,
    repository::{
        audit::{AuditLog, AuditRecord, AuditSettings, batch::Batch},
        orgs::{self, OrgRecord},
        records::{Expected, Records},
        tokens,
    },
    service::{
        Parts, call::Call, keyring::Keyring, mutation::Mutations, page_token::PageTokens, sealing::Sealer,
        session::Sessions,
    },
    store::{Action, Item, ItemStore, WriteId, Written, fake::MemoryStore, sqlite::SqliteStore},
};

/// What the tests' parts are made of.
pub(crate) struct Fixture {
    pub(crate) parts: Parts,
    pub(crate) clock: Arc<ShiftedClock>,
    pub(crate) kms: FakeKms,
    memory: Option<MemoryStore>,
}

impl Fixture {
    /// On a store in memory.
    pub(crate) async fn new() -> Self {
        let clock = Arc::new(ShiftedClock::default());
        let store = MemoryStore::new(clock.clone());
        Self { memory: Some(store.clone()), ..Self::on(Arc::new(store), clock).await }
    }
    /// On a database file.
    pub(crate) async fn sqlite(path: &Path) -> Self {
        let clock = Arc::new(ShiftedClock::default());
        let store = SqliteStore::open_or_make(path, clock.clone()).unwrap();
        Self::on(Arc::new(store), clock).await
    }

    /// On that store, by that clock.
    pub(crate) async fn on(store: Arc<dyn ItemStore>, shifted: Arc<ShiftedClock>) -> Self {
        let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (shifted.clone(), Arc::new(SystemEntropy));
        let kms = FakeKms::new();
        let sealer = Sealer::new(Arc::new(kms.clone()), entropy.clone());
        let deadline = clock.deadline(Duration::from_secs(60));
        let (keyring, actions) =
            Keyring::create(store.clone(), sealer.clone(), entropy.clone(), clock.clone(), deadline).await.unwrap();
        let id = WriteId(ibyok::domain::clock::random(&*entropy).unwrap());
        assert_eq!(store.write(id, actions, deadline).await.unwrap(), Written::Committed);
        let keyring = Arc::new(keyring);
        let records = Records::new(store, keyring.records());
        let audit = AuditLog::open(records.clone(), clock.clone(), entropy.clone(), AuditSettings::default()).unwrap();
        let parts = Parts {
            sessions: Sessions::new(records.clone(), clock.clone()),
            mutations: Mutations::new(records.clone(), keyring.clone(), audit.clone(), clock.clone()),
            pages: Arc::new(PageTokens::new(keyring.clone(), entropy.clone())),
            clock,
            entropy,
            records,
            keyring,
            sealer,
            audit,
        };
        Self { parts, clock: shifted, kms, memory: None }
    }

    /// The store in memory.
    pub(crate) fn memory(&self) -> &MemoryStore {
        self.memory.as_ref().unwrap()
    }
    pub(crate) fn deadline(&self) -> Deadline {
        self.parts.clock.deadline(Duration::from_secs(60))
    }
    pub(crate) async fn write(&self, actions: Vec<Action>) {
        let id = WriteId(ibyok::domain::clock::random(&*self.parts.entropy).unwrap());
        let written = self.parts.records.store().write(id, actions, self.deadline()).await.unwrap();
        assert_eq!(written, Written::Committed);
    }

    /// Makes an organization.
    pub(crate) async fn org(&self, id: &str, is_mock: bool, kms_key: Option<&str>) -> OrgId {
        let org = OrgRecord {
            id: OrgId::parse("org", id).unwrap(),
            uid: Uid::random(&*self.parts.entropy).unwrap(),
            display_name: id.to_owned(),
            kms_key: kms_key.map(|key| KmsKeyId(key.to_owned())),
            is_mock,
            created: self.parts.clock.now(),
            revision: 0,
        };
        let kms_key = org.kms_key.as_ref();
        let keys = self.parts.keyring.new_org_keys(&org.id, &org.uid, kms_key, self.deadline()).await.unwrap();
        let mut actions = vec![orgs::put(&self.parts.records, &org, Expected::Absent), orgs::put_row(&org), keys];
        actions.extend(tokens::new_epoch(&self.parts.records, &org.id));
        self.write(actions).await;
        org.id
    }

    /// A token with every ordinary scope on the whole organization.
    pub(crate) async fn admin(&self, org: &OrgId) -> Caller {
        self.token(org, vec![all_scopes()], TokenMode::Live, None).await
    }

    /// A token with these grants.
    pub(crate) async fn token(
        &self,
        org: &OrgId,
        grants: Vec<GrantText>,
        mode: TokenMode,
        uses_max: Option<u64>,
    ) -> Caller {
        let now = Timestamp::from_seconds(self.parts.clock.now().seconds());
        let id = TokenId::random(&*self.parts.entropy).unwrap();
        let token = TokenRecord {
            org: org.clone(),
            subject: Subject::parse("subject", &format!("svc-{id}")).unwrap(),
            id,
            description: String::new(),
            grants: Grant::parse_all("grants", &grants, org).unwrap().into(),
            mode,
            confirmation: Confirmation::Identity("svc.test".to_owned()),
            created: now,
            expires: now.plus(Duration::from_secs(400 * 86_400)),
            max_expires: now.plus(Duration::from_secs(400 * 86_400)),
            issued_by: "test".to_owned(),
            signing_keys: vec!["kid".to_owned()],
            org_generation: 1,
            subject_generation: 1,
            parent: None,
            uses_max,
            revoked: None,
            revision: 0,
        };
        let records = &self.parts.records;
        let subject = SubjectRecord { generation: 1, revoked: None, revision: 0 };
        let mut actions = tokens::put(records, &token, Expected::Absent).to_vec();
        actions.push(tokens::put_subject(records, org, &token.subject, &subject, Expected::Absent));
        actions.extend(tokens::new_uses(records, &token));
        self.write(actions).await;
        Caller { claims: claims(&token), clock: self.parts.clock.clone() }
    }

    /// Every record of the audit log, in no order that counts. Of the store in memory.
    pub(crate) fn audit(&self) -> Vec<AuditRecord> {
        let batches = self.memory().dump().into_iter().filter(|item| item.key.sort.starts_with("B#"));
        let records = batches.filter_map(Batch::read).flat_map(|batch| batch.records);
        records.map(|bytes| AuditRecord::read(&bytes).unwrap()).collect()
    }
    /// The records of one action.
    pub(crate) fn recorded(&self, action: &str) -> Vec<AuditRecord> {
        self.audit().into_iter().filter(|record| record.action == action).collect()
    }
    /// The items of one partition. Of the store in memory.
    pub(crate) fn partition(&self, partition: &str) -> Vec<Item> {
        self.memory().dump().into_iter().filter(|item| item.key.partition == partition).collect()
    }
}

/// Every scope of an ordinary organization.
pub(crate) fn all_scopes() -> GrantText {
    GrantText { scopes: Scope::ordinary().map(|scope| scope.to_string()).collect(), ..GrantText::default() }
}

/// These scopes.
pub(crate) fn scopes(scopes: &[&str]) -> GrantText {
    GrantText { scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(), ..GrantText::default() }
}

fn claims(token: &TokenRecord) -> Claims {
    let mut scopes: Vec<_> = token.grants.iter().flat_map(|grant| grant.scopes.iter().copied()).collect();
    scopes.sort();
    scopes.dedup();
    Claims {
        org: token.org.clone(),
        subject: token.subject.clone(),
        token_id: token.id.clone(),
        parent: None,
        mode: token.mode,
        scopes,
        grants_sha256: *token.grants.sha256(),
        confirmation: token.confirmation.clone(),
        issued: token.created,
        not_before: token.created,
        expires: token.expires,
        is_use_limited: token.uses_max.is_some(),
        signing_key: "kid".to_owned(),
    }
}

/// Who holds a token.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) claims: Claims,
    clock: Arc<dyn Clock>,
}

impl Caller {
    /// A call of `KeyVault/{method}`.
    pub(crate) fn call(&self, method: &str) -> Call {
        self.call_with(method, 0)
    }
    /// A call of `KeyVault/{method}` whose message has that content.
    pub(crate) fn call_with(&self, method: &str, content: u8) -> Call {
        let certificate = ClientCertificate {
            identities: vec!["svc.test".to_owned()],
            sha256: [1; 32],
            not_after: Timestamp::from_seconds(1 << 40),
        };
        Call {
            method: methods::find(&format!("/ibyok.v1.KeyVault/{method}")).unwrap(),
            claims: Some(self.claims.clone().into()),
            peer: Peer { certificate: Arc::new(certificate), address: IpAddr::from([127, 0, 0, 1]) },
            user_agent: "test".to_owned(),
            trace_id: String::new(),
            time: self.clock.now(),
            deadline: self.clock.deadline(Duration::from_secs(60)),
            content: [content; 32],
        }
    }
}
