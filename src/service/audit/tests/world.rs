//! What the tests read: a log of its own, its tokens and its readers.

use std::net::{IpAddr, Ipv4Addr};

use super::super::*;
use crate::{
    authz::{claims::Claims, methods},
    domain::{
        audit::{Action, AuditDraft, Receipt},
        clock::{ShiftedClock, SystemEntropy},
        ids::{Subject, TokenId, Uid},
        principal::{ClientCertificate, Peer},
        token::{Confirmation, Grant, GrantText, SubjectRecord, TokenMode, TokenRecord},
    },
    kms::fake::FakeKms,
    repository::{audit::AuditSettings, records::Expected, tokens},
    service::{keyring::Keyring, mutation::Mutations, page_token::PageTokens, sealing::Sealer, session::Sessions},
    store::{self, ItemStore, WriteId, Written, fake::MemoryStore},
};

pub(super) fn org(id: &str) -> OrgId {
    OrgId::parse("org", id).unwrap()
}

pub(super) struct World {
    pub(super) store: MemoryStore,
    pub(super) clock: Arc<ShiftedClock>,
    pub(super) parts: Parts,
    pub(super) reader: AuditReader,
}

impl World {
    pub(super) async fn new() -> Self {
        let clock = Arc::new(ShiftedClock::default());
        let entropy = Arc::new(SystemEntropy);
        let store = MemoryStore::new(Arc::<ShiftedClock>::clone(&clock));
        let items: Arc<dyn ItemStore> = Arc::new(store.clone());
        let sealer = Sealer::new(Arc::new(FakeKms::new()), Arc::<SystemEntropy>::clone(&entropy));
        let deadline = clock.deadline(Duration::from_secs(60));
        let keys = Keyring::create(
            Arc::clone(&items),
            sealer.clone(),
            Arc::<SystemEntropy>::clone(&entropy),
            Arc::<ShiftedClock>::clone(&clock),
            deadline,
        );
        let (keyring, mut actions) = keys.await.unwrap();
        let keyring = Arc::new(keyring);
        let records = Records::new(items, keyring.records());
        for id in ["acme", "globex", "system"] {
            actions.extend(tokens::new_epoch(&records, &org(id)));
            actions.push(keyring.new_org_keys(&org(id), &Uid::stored("uid"), None, deadline).await.unwrap());
        }
        let settings = AuditSettings::default();
        let audit = AuditLog::open(records.clone(), clock.clone(), entropy.clone(), settings).unwrap();
        let parts = Parts {
            sessions: Sessions::new(records.clone(), clock.clone()),
            mutations: Mutations::new(records.clone(), keyring.clone(), audit.clone(), clock.clone()),
            pages: Arc::new(PageTokens::new(keyring.clone(), entropy.clone())),
            clock: clock.clone(),
            entropy,
            records,
            keyring,
            sealer,
            audit,
        };
        let reader = AuditReader::new(parts.clone());
        let world = Self { store, clock, parts, reader };
        world.write(actions).await;
        world
    }
    pub(super) fn deadline(&self) -> crate::domain::clock::Deadline {
        self.clock.deadline(Duration::from_secs(60))
    }
    pub(super) async fn write(&self, actions: Vec<store::Action>) {
        let id = WriteId(crate::domain::clock::random(&SystemEntropy).unwrap());
        let written = self.parts.records.store().write(id, actions, self.deadline()).await.unwrap();
        assert_eq!(written, Written::Committed);
    }
    /// A call of `method` with a token of one hour over `resources`.
    pub(super) async fn call(&self, id: &str, method: &str, resources: &[&str]) -> Call {
        let scopes = if id == "system" { vec!["audit:read", "admin"] } else { vec!["audit:read"] };
        let text = GrantText {
            scopes: scopes.into_iter().map(str::to_owned).collect(),
            resources: resources.iter().map(|text| (*text).to_owned()).collect(),
            ..GrantText::default()
        };
        let now = self.clock.now();
        let token = TokenRecord {
            org: org(id),
            id: TokenId::random(&SystemEntropy).unwrap(),
            subject: Subject::parse("subject", "auditor").unwrap(),
            description: String::new(),
            grants: Grant::parse_all("grants", &[text], &org(id)).unwrap().into(),
            mode: TokenMode::Live,
            confirmation: Confirmation::Certificate([7; 32]),
            created: now,
            expires: now.plus(Duration::from_secs(3_600)),
            max_expires: now.plus(Duration::from_secs(3_600)),
            issued_by: "admin".into(),
            signing_keys: vec!["k1".into()],
            org_generation: 1,
            subject_generation: 1,
            parent: None,
            uses_max: None,
            revoked: None,
            revision: 0,
        };
        let records = &self.parts.records;
        let mut actions = tokens::put(records, &token, Expected::Absent).to_vec();
        let subject_key = tokens::subject_key(&token.org, &token.subject);
        if records.get(&[subject_key], self.deadline()).await.unwrap() == [None] {
            let subject = SubjectRecord { generation: 1, revoked: None, revision: 0 };
            actions.push(tokens::put_subject(records, &token.org, &token.subject, &subject, Expected::Absent));
        }
        self.write(actions).await;
        let claims = Claims {
            scopes: token.grants.iter().flat_map(|grant| grant.scopes.clone()).collect(),
            grants_sha256: *token.grants.sha256(),
            org: token.org,
            subject: token.subject,
            token_id: token.id,
            parent: None,
            mode: token.mode,
            confirmation: token.confirmation,
            not_before: now,
            is_use_limited: false,
            issued: now,
            expires: token.expires,
            signing_key: "k1".into(),
        };
        let certificate = ClientCertificate {
            identities: vec![],
            sha256: [7; 32],
            not_after: now.plus(Duration::from_secs(1 << 20)),
        };
        Call {
            method: methods::find(method).unwrap(),
            claims: Some(claims.into()),
            peer: Peer { certificate: Arc::new(certificate), address: IpAddr::V4(Ipv4Addr::LOCALHOST) },
            user_agent: String::new(),
            trace_id: String::new(),
            time: now,
            deadline: self.deadline(),
            content: [0; 32],
        }
    }
    pub(super) async fn revoke(&self, call: &Call) {
        let claims = call.claims().unwrap();
        let key = tokens::item_key(&claims.org, &claims.token_id);
        let item = self.parts.records.get_verified(key, self.deadline()).await.unwrap().unwrap();
        let mut token = tokens::decode(&item).unwrap();
        token.revoked = Some(self.clock.now());
        self.write(tokens::put(&self.parts.records, &token, Expected::Revision(item.revision())).to_vec()).await;
    }
    pub(super) fn draft(&self, id: &str, resource: &str) -> AuditDraft {
        AuditDraft {
            resource: format!("orgs/{id}/{resource}"),
            subject: "svc".into(),
            client_identity: "svc.example".into(),
            client_address: "10.1.2.3".into(),
            ..AuditDraft::of_server(org(id), self.clock.now(), Action::KeyRetrieve)
        }
    }
    pub(super) async fn append(&self, draft: AuditDraft) -> Receipt {
        self.parts.audit.append(draft, self.deadline()).await.unwrap()
    }
    pub(super) async fn list(&self, call: &Call, query: EventQuery, page_size: usize) -> Vec<Event> {
        self.list_between(call, query, page_size, async || {}).await
    }
    /// All pages; `between` runs between each two.
    pub(super) async fn list_between(
        &self,
        call: &Call,
        mut query: EventQuery,
        page_size: usize,
        between: impl AsyncFn(),
    ) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let page = self.reader.list(call, &query, page_size).await.unwrap();
            assert!(page.events.len() <= page_size);
            events.extend(page.events);
            assert!(events.len() < 10_000, "pages come again");
            if page.next_page_token.is_empty() {
                return events;
            }
            query.token = page.next_page_token;
            between().await;
        }
    }
}
