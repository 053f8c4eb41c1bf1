//! A whole vault on stores in memory, and callers with certificates; what the wire does is done by
//! hand here: a token is verified, and its claims put into the call.

use std::{
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use aws_lc_rs::digest;
use ibyok::{
    authz::{claims::Claims, methods, verifier::TokenVerifier},
    domain::{
        clock::{Clock, Entropy, ShiftedClock, SystemEntropy, Timestamp},
        error::{Failure, Reason},
        ids::{BindingName, OrgId, Subject as Named, TokenName},
        principal::{ClientCertificate, ClientIdentity, IdentityPattern, Peer},
        token::{AccessToken, Grant, GrantText},
    },
    kms::fake::FakeKms,
    repository::{
        audit::{AuditLog, AuditSettings},
        records::Records,
    },
    service::{
        Parts,
        bindings::{BindingService, CreateBinding},
        call::Call,
        init::{self, Initialize},
        keyring::Keyring,
        mutation::Mutations,
        orgs::OrgService,
        page_token::PageTokens,
        sealing::Sealer,
        session::{Access, Session, Sessions},
        status::StatusService,
        tokens::{Exchange, Issue, Issued, ListTokens, Subject, TokenService, TokenSettings},
    },
    store::{ItemKey, ItemStore, fake::MemoryStore},
};

pub(super) const ADMIN: &str = "spiffe://test/admin";
const DAY: u64 = 86_400;

pub(super) struct Vault {
    pub(super) clock: Arc<ShiftedClock>,
    pub(super) store: MemoryStore,
    pub(super) kms: FakeKms,
    pub(super) parts: Parts,
    pub(super) tokens: TokenService,
    pub(super) bindings: BindingService,
    pub(super) orgs: OrgService,
    pub(super) status: StatusService,
    pub(super) certificate_not_after: Arc<AtomicI64>,
    verifier: TokenVerifier,
}

/// Somebody with a client certificate and, mostly, a token.
#[derive(Clone)]
pub(super) struct Who {
    pub(super) peer: Peer,
    pub(super) claims: Option<Arc<Claims>>,
    pub(super) jwt: String,
}

pub(super) fn org(text: &str) -> OrgId {
    OrgId::parse("org", text).unwrap()
}
pub(super) fn subject(text: &str) -> Named {
    Named::parse("subject", text).unwrap()
}
pub(super) fn identity(text: &str) -> ClientIdentity {
    ClientIdentity::parse("identity", text).unwrap()
}
pub(super) fn span(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
pub(super) fn reason<T: std::fmt::Debug>(outcome: Result<T, Failure>) -> Reason {
    outcome.unwrap_err().reason
}
/// All that a client sees of a refusal.
pub(super) fn seen<T: std::fmt::Debug>(outcome: Result<T, Failure>) -> String {
    let failure = outcome.unwrap_err();
    format!("{:?} {failure} {:?} {:?} {:?}", failure.reason, failure.fields, failure.metadata, failure.retry_after)
}

pub(super) fn grants_in(of: &str, scopes: &[&str], resources: &[&str]) -> Vec<Grant> {
    let text = GrantText {
        scopes: scopes.iter().map(ToString::to_string).collect(),
        resources: resources.iter().map(ToString::to_string).collect(),
        ..GrantText::default()
    };
    Grant::parse_all("grants", &[text], &org(of)).unwrap()
}
pub(super) fn grants(scopes: &[&str]) -> Vec<Grant> {
    grants_in("acme", scopes, &[])
}

pub(super) fn peer(clock: &dyn Clock, identities: &[&str]) -> Peer {
    let identities: Vec<_> = identities.iter().map(ToString::to_string).collect();
    let sha256 = digest::digest(&digest::SHA256, identities.join(" ").as_bytes()).as_ref().try_into().unwrap();
    let not_after = clock.now().plus(span(365 * DAY));
    let certificate = Arc::new(ClientCertificate { identities, sha256, not_after });
    Peer { certificate, address: [10, 0, 0, 1].into() }
}

pub(super) fn settings() -> TokenSettings {
    TokenSettings {
        issuer: "ibyok".into(),
        audience: "vault".into(),
        ttl_default: span(3_600),
        ttl_longest: span(90 * DAY),
    }
}

impl Vault {
    /// With organization `acme`, which [`ADMIN`] administers.
    pub(super) async fn new() -> Self {
        Self::with(false).await
    }
    pub(super) async fn with(is_mock: bool) -> Self {
        let clock = Arc::new(ShiftedClock::default());
        let (store, kms) = (MemoryStore::new(Arc::<ShiftedClock>::clone(&clock)), FakeKms::new());
        initialize(&clock, &store, &kms, is_mock).await.unwrap();
        Self::start(clock, store, kms).await
    }
    async fn start(clock: Arc<ShiftedClock>, store: MemoryStore, kms: FakeKms) -> Self {
        let time: Arc<dyn Clock> = Arc::<ShiftedClock>::clone(&clock);
        let (port, sealer, entropy) = adapters(&store, &kms);
        let keyring = Keyring::load(port, sealer, entropy, Arc::clone(&time), time.deadline(span(60))).await;
        let parts = parts(keyring.unwrap().unwrap(), &time, &store, &kms);
        let certificate_not_after = Arc::new(AtomicI64::new(clock.now().plus(span(30 * DAY)).seconds()));
        Self {
            tokens: TokenService::new(parts.clone(), settings()),
            bindings: BindingService::new(parts.clone(), settings()),
            orgs: OrgService::new(parts.clone(), settings().ttl_longest),
            status: StatusService::new(parts.clone(), Arc::clone(&certificate_not_after)),
            verifier: TokenVerifier::new("ibyok", "vault", 64),
            certificate_not_after,
            clock,
            store,
            kms,
            parts,
        }
    }
    /// Another replica on the same database.
    pub(super) async fn replica(&self) -> Self {
        Self::start(Arc::clone(&self.clock), self.store.replica(), self.kms.clone()).await
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }
    pub(super) fn nobody(&self, identities: &[&str]) -> Who {
        Who { peer: peer(&*self.clock, identities), claims: None, jwt: String::new() }
    }
    /// `who` with this token, if it is good with his certificate now.
    pub(super) fn present(&self, who: &Who, jwt: &AccessToken) -> Result<Who, Failure> {
        let jwt = jwt.expose_secret().to_owned();
        let keys = self.parts.keyring.signing();
        let claims = self.verifier.verify(&jwt, &*keys, &who.peer.certificate, self.now())?;
        Ok(Who { peer: who.peer.clone(), claims: Some(claims), jwt })
    }
    /// A call of `method` by `who`; `content` stands for the request's bytes.
    pub(super) fn call(&self, who: &Who, method: &str, content: &str) -> Call {
        let method = methods::METHODS.iter().find(|row| row.path.ends_with(&format!("/{method}"))).unwrap();
        Call {
            method,
            claims: who.claims.clone(),
            peer: who.peer.clone(),
            user_agent: "test".into(),
            trace_id: String::new(),
            time: self.now(),
            deadline: self.clock.deadline(span(60)),
            content: digest::digest(&digest::SHA256, content.as_bytes()).as_ref().try_into().unwrap(),
        }
    }
    pub(super) async fn exchange_as(&self, who: &Who, into: &str) -> Result<Issued, Failure> {
        let exchange = Exchange {
            subject: Subject::Certificate,
            org: org(into),
            binding: None,
            grants: None,
            ttl: None,
            request_id: String::new(),
        };
        self.tokens.exchange(&self.call(who, "ExchangeToken", into), &exchange).await
    }
    /// The holder of this certificate, after he exchanged it for a token of that organization.
    pub(super) async fn enter(&self, who: &str, into: &str) -> Who {
        let who = self.nobody(&[who]);
        let issued = self.exchange_as(&who, into).await.unwrap();
        self.present(&who, &issued.access_token).unwrap()
    }
    pub(super) async fn admin(&self) -> Who {
        self.enter(ADMIN, "acme").await
    }
    pub(super) async fn issue(&self, who: &Who, request: &Issue) -> Result<Issued, Failure> {
        let content = format!("{request:?}");
        self.tokens.issue(&self.call(who, "IssueToken", &content), request).await
    }
    /// A token of that subject, bound to the issuer's identity.
    pub(super) async fn token(&self, issuer: &Who, named: &str, grants: Vec<Grant>) -> Who {
        let issued = self.issue(issuer, &request(named, grants)).await.unwrap();
        self.present(issuer, &issued.access_token).unwrap()
    }
    pub(super) async fn open(&self, who: &Who, method: &str, access: Access) -> Result<Session, Failure> {
        self.parts.sessions.open(&self.call(who, method, ""), access, &[] as &[ItemKey]).await
    }
    /// Whether the token is admitted to anything at all.
    pub(super) async fn stands(&self, who: &Who) -> Result<(), Failure> {
        self.open(who, "IntrospectToken", Access::Identity).await.map(drop)
    }
    pub(super) async fn bind(&self, who: &Who, id: &str, pattern: &str, grants: Vec<Grant>) -> Result<(), Failure> {
        let request = binding(who, id, pattern, grants);
        self.bindings.create(&self.call(who, "CreateIdentityBinding", id), &request).await.map(drop)
    }
}

type Adapters = (Arc<dyn ItemStore>, Sealer, Arc<dyn Entropy>);

fn adapters(store: &MemoryStore, kms: &FakeKms) -> Adapters {
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    (Arc::new(store.clone()), Sealer::new(Arc::new(kms.clone()), Arc::clone(&entropy)), entropy)
}

fn parts(keyring: Keyring, clock: &Arc<dyn Clock>, store: &MemoryStore, kms: &FakeKms) -> Parts {
    let (port, sealer, entropy) = adapters(store, kms);
    let (keyring, clock) = (Arc::new(keyring), Arc::clone(clock));
    let records = Records::new(port, keyring.records());
    let settings = AuditSettings::default();
    let audit = AuditLog::open(records.clone(), Arc::clone(&clock), Arc::clone(&entropy), settings).unwrap();
    Parts {
        sessions: Sessions::new(records.clone(), Arc::clone(&clock)),
        mutations: Mutations::new(records.clone(), Arc::clone(&keyring), audit.clone(), Arc::clone(&clock)),
        pages: Arc::new(PageTokens::new(Arc::clone(&keyring), Arc::clone(&entropy))),
        clock,
        entropy,
        records,
        keyring,
        sealer,
        audit,
    }
}

pub(super) async fn initialize(
    clock: &Arc<ShiftedClock>,
    store: &MemoryStore,
    kms: &FakeKms,
    is_mock: bool,
) -> Result<(), Failure> {
    let clock: Arc<dyn Clock> = Arc::<ShiftedClock>::clone(clock);
    let deadline = clock.deadline(span(60));
    let (port, sealer, entropy) = adapters(store, kms);
    let (keyring, keys) = Keyring::create(port, sealer, entropy, Arc::clone(&clock), deadline).await?;
    let admin_identity = IdentityPattern::parse("admin", ADMIN).unwrap();
    let request = Initialize { org: org("acme"), is_mock, admin_identity, ttl_longest: span(90 * DAY) };
    init::initialize(&parts(keyring, &clock, store, kms), keys, &request, deadline).await
}

pub(super) fn request(named: &str, grants: Vec<Grant>) -> Issue {
    Issue {
        subject: subject(named),
        grants,
        ttl: None,
        max_ttl: None,
        confirmation: None,
        description: String::new(),
        mode: None,
        uses_max: None,
        request_id: String::new(),
    }
}
pub(super) fn binding(who: &Who, id: &str, pattern: &str, grants: Vec<Grant>) -> CreateBinding {
    let own = &who.claims.as_ref().unwrap().org;
    CreateBinding {
        name: BindingName::parse("name", id, own).unwrap(),
        identity: IdentityPattern::parse("certificate", pattern).unwrap(),
        grants,
        mode: None,
        ttl_max: None,
        request_id: String::new(),
    }
}
pub(super) fn everything() -> ListTokens {
    ListTokens {
        page_size: 1_000,
        page_token: String::new(),
        subject: None,
        show_inactive: false,
        not_used_since: None,
    }
}
pub(super) fn name(who: &Who) -> TokenName {
    let claims = who.claims.as_ref().unwrap();
    TokenName { org: claims.org.clone(), id: claims.token_id.clone() }
}
