//! A vault in this process, with everything but TLS and sockets: calls go in as HTTP requests where
//! a connection's calls do. What each call must answer, whatever it says, is checked here.
//!
//! Its database is copied from a template, so that every script that changed something is followed
//! by a vault that knows nothing of it; time stands at the same distance, and randomness is the same.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::Path,
    sync::{Arc, Once},
    time::{Duration, Instant},
};

use bytes::{Buf as _, Bytes};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use ibyok::{
    authz::methods::Kind,
    config::Config,
    domain::{
        clock::{ShiftedClock, SystemEntropy, Timestamp},
        error::Reason,
        ids::OrgId,
        principal::{ClientCertificate, IdentityPattern, Peer},
    },
    grpc::{entry::Connection, layers::Front, pb::VerifyAuditLogResponse},
    kms::local::LocalKeyWrapper,
    pki::{Authority, Validity},
    server::{Opened, Sources, init, init::Init},
};
use prost_reflect::{DynamicMessage, prost::Message as _};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    dice::Dice,
    schema::{self, Rpc},
    script::{self, Call, Caller, Step},
    values::{ACME_CANARY, INPUT_CANARY, SECRET_CANARY, TOKEN_SHAPE},
};

/// Who administrates the vault and the organization `acme`.
const ADMIN: &str = "spiffe://fuzz.test/admin";
/// Who administrates the organization `beta`, and has never heard of `acme`.
const NEIGHBOUR: &str = "spiffe://neighbour.test/admin";
/// How many messages of a stream are read.
const ANSWERS_MAX: usize = 6;
/// How long a stream is waited for that has nothing to say now.
const IDLE: Duration = Duration::from_millis(4);
/// The longest text that a script asks for by its length.
const LONG_MAX: usize = 100_000;
/// How long one is waited for that must come to its end.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest that the clock is moved on by one step, and by all.
const WAIT_MAX: u64 = 400 * 86_400;
/// What takes longer than this may say that it took too long.
const SLOW: Duration = Duration::from_secs(1);

/// A vault, and the template of the next.
#[derive(Debug)]
pub struct House {
    runtime: Runtime,
    template: Template,
    life: Option<Life>,
}

/// A closed vault with what every script finds.
#[derive(Debug)]
struct Template {
    home: TempDir,
    tokens: BTreeMap<Caller, String>,
}

#[derive(Debug)]
struct Life {
    home: TempDir,
    opened: Opened,
    clock: Arc<ShiftedClock>,
}

/// The answer of one call.
#[derive(Debug)]
struct Answer {
    status: Status,
    messages: Vec<Bytes>,
    took: Duration,
}

impl House {
    /// Makes the template.
    pub fn build() -> Self {
        watch_the_log();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let template = runtime.block_on(Template::make());
        Self { runtime, template, life: None }
    }

    /// Runs `steps` and checks every answer.
    pub fn run(&mut self, steps: &[Step]) {
        let life = match self.life.take() {
            Some(life) => life,
            None => self.runtime.block_on(Life::start(&self.template)),
        };
        let changed = self.runtime.block_on(async {
            let mut run =
                Run { life: &life, tokens: &self.template.tokens, heard: BTreeMap::new(), has_changed: false };
            for step in steps {
                run.step(step).await;
            }
            run.has_changed
        });
        if changed {
            self.runtime.block_on(life.end(&self.template.tokens));
        } else {
            self.life = Some(life);
        }
    }
}

/// Where the databases are: in memory where there is such a place.
fn home() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap()
}

impl Template {
    async fn make() -> Self {
        let home = home();
        let authority = Authority::new("fuzz").unwrap();
        let server = authority.server(Validity::days(365)).unwrap();
        fs::write(home.path().join("ca.pem"), authority.certificate()).unwrap();
        fs::write(home.path().join("server.pem"), &server.certificate).unwrap();
        fs::write(home.path().join("server.key"), server.key.as_bytes()).unwrap();
        LocalKeyWrapper::create_file(&home.path().join("master.keys"), &SystemEntropy).unwrap();
        let template = Self { home, tokens: BTreeMap::new() };

        let clock = Arc::new(ShiftedClock::default());
        let (config, sources) = (template.config(template.home.path()), sources(&clock));
        let admin = IdentityPattern::parse("identity", ADMIN).unwrap();
        let init = Init { org: OrgId::parse("org", "acme").unwrap(), admin };
        init::init(&config, &init, &sources).await.unwrap();
        let opened = Opened::new(&config, &sources).await.unwrap();
        let tokens = furnish(&opened.front()).await;
        opened.close().await;
        Self { tokens, ..template }
    }

    fn config(&self, home: &Path) -> Config {
        let text = format!(
            "tls = {{ cert = 'server.pem', key = 'server.key', client_ca = 'ca.pem' }}\n\
             store = {{ path = '{}' }}\nkms = {{ key_file = 'master.keys' }}\n\
             limits = {{ token_rate = 1000000, org_rate = 1000000, certificate_rate = 1000000 }}\n\
             tokens = {{ ttl_default = '90d' }}\n",
            home.join("vault.db").display()
        );
        Config::parse(&text, self.home.path().to_owned(), Vec::new()).unwrap()
    }
}

fn sources(clock: &Arc<ShiftedClock>) -> Sources {
    Sources { clock: Arc::<ShiftedClock>::clone(clock), entropy: Arc::new(Dice::new(7)), ..Sources::default() }
}

/// What every script finds: two organizations, a key with two versions in each, and its callers.
const FURNITURE: &str = r#"
operator Admin/CreateOrg {org_id:"beta" admin_identity:"spiffe://neighbour.test/admin"}
admin KeyVault/CreateKey {parent:"orgs/acme" key_id:"stock" provider:"openai" description:"only-acme-knows" environment:"production" labels:[{key:"team" value:"only-acme-knows"}] models:["gpt-5"] secret:{text:"fuzz-secret-canary-of-acme-1"}}
admin KeyVault/AddKeyVersion {name:"orgs/acme/keys/stock" secret:{text:"fuzz-secret-canary-of-acme-2"}}
admin Tokens/CreateIdentityBinding {parent:"orgs/acme" binding:{name:"stock" certificate:"svc.fuzz.test" grants:{scopes:"keys:read"}}}
neighbour KeyVault/CreateKey {parent:"orgs/beta" key_id:"stock" provider:"anthropic" secret:{text:"fuzz-secret-canary-of-beta-1"}}
"#;
const READER: &str = r#"admin Tokens/IssueToken {subject:"reader" grants:{scopes:"keys:read" scopes:"keys:list" scopes:"audit:read" labels:[{key:"team" value:"only-acme-knows"}] environments:"production"}}"#;
const MOCK: &str = r#"admin Tokens/IssueToken {subject:"mock" mode:TOKEN_MODE_MOCK grants:{scopes:"keys:read" scopes:"keys:list" scopes:"keys:write" scopes:"keys:rotate" scopes:"keys:delete" scopes:"audit:read"}}"#;

/// Fills a new vault; answers its callers' tokens.
async fn furnish(front: &Front) -> BTreeMap<Caller, String> {
    let mut tokens = BTreeMap::new();
    let exchange = |who, org| format!("{who} Tokens/ExchangeToken {{client_certificate:true parent:\"orgs/{org}\"}}");
    let enter = [(Caller::Operator, exchange("nobody", "system")), (Caller::Admin, exchange("nobody", "acme"))];
    let later = [
        (Caller::Neighbour, exchange("neighbour", "beta")),
        (Caller::Reader, READER.to_owned()),
        (Caller::Mock, MOCK.to_owned()),
    ];
    for (caller, line) in enter {
        let token = only_call(front, &tokens, &line).await;
        tokens.insert(caller, token);
    }
    let mut furniture = FURNITURE.trim().lines();
    only_call(front, &tokens, furniture.next().unwrap()).await;
    for (caller, line) in later {
        let token = only_call(front, &tokens, &line).await;
        tokens.insert(caller, token);
    }
    for line in furniture {
        only_call(front, &tokens, line).await;
    }
    tokens
}

/// Makes the call of `line`, which must succeed; answers the token that it gives.
async fn only_call(front: &Front, tokens: &BTreeMap<Caller, String>, line: &str) -> String {
    let steps = script::parse(line);
    let [Step::Call(made)] = steps.as_slice() else { panic!("no call: {line}") };
    let answer = call(front, tokens.get(&made.caller), made, IDLE).await;
    assert_eq!(answer.status.code(), Code::Ok, "{line}: {:?}", answer.status);
    let mut token = String::new();
    let mut message = DynamicMessage::decode(made.rpc.answer.clone(), answer.messages[0].clone()).unwrap();
    schema::texts(&mut message, &mut |_, is_secret, text| {
        if is_secret {
            token.clone_from(text);
        }
    });
    token
}

impl Life {
    async fn start(template: &Template) -> Self {
        let home = home();
        fs::copy(template.home.path().join("vault.db"), home.path().join("vault.db")).unwrap();
        let clock = Arc::new(ShiftedClock::default());
        let opened = Opened::new(&template.config(home.path()), &sources(&clock)).await.unwrap();
        Self { home, opened, clock }
    }

    /// Closes it, when its audit log has been found whole.
    async fn end(self, tokens: &BTreeMap<Caller, String>) {
        let verify = script::parse("operator Audit/VerifyAuditLog {}");
        let [Step::Call(verify)] = verify.as_slice() else { panic!("no call") };
        let answer = call(&self.opened.front(), tokens.get(&Caller::Operator), verify, PATIENCE).await;
        match answer.status.code() {
            Code::Ok => {
                let verdict = VerifyAuditLogResponse::decode(answer.messages.last().unwrap().clone()).unwrap();
                assert!(verdict.complete && verdict.intact, "the audit log does not hold: {verdict:?}");
            }
            // The script took the operator's token from him.
            Code::Unauthenticated => {}
            _ => panic!("the audit log can't be verified: {:?}", answer.status),
        }
        self.opened.close().await;
        drop(self.home);
    }
}

/// A script while it runs.
struct Run<'a> {
    life: &'a Life,
    tokens: &'a BTreeMap<Caller, String>,
    /// The last text of each field in the answers.
    heard: BTreeMap<String, String>,
    has_changed: bool,
}

impl Run<'_> {
    async fn step(&mut self, step: &Step) {
        match step {
            Step::Wait(seconds) => {
                self.life.clock.advance(Duration::from_secs(*seconds.min(&WAIT_MAX)));
                self.has_changed = true;
            }
            Step::Call(call) => self.call(call).await,
        }
    }

    async fn call(&mut self, made: &Call) {
        let Some(made) = self.prepared(made) else { return };
        let front = self.life.opened.front();
        let answer = call(&front, self.tokens.get(&made.caller), &made, IDLE).await;
        check(&made, &answer);
        let is_ok = answer.status.code() == Code::Ok;
        self.has_changed |= is_ok && made.rpc.method.kind != Kind::Read;
        if made.caller == Caller::Neighbour && !is_ok {
            self.compare_with_absent(&made, &answer).await;
        }
        for message in &answer.messages {
            self.hear(made.rpc, message.clone());
        }
    }

    /// The call with what it quotes from earlier answers; None where it would blur what the checks
    /// look for.
    fn prepared(&self, made: &Call) -> Option<Call> {
        let mut made = made.clone();
        for bytes in &mut made.messages {
            // What does not decode here does not decode there.
            let Ok(mut message) = DynamicMessage::decode(made.rpc.request.clone(), bytes.as_slice()) else { continue };
            let (mut has_quoted, mut is_blurred) = (false, false);
            schema::texts(&mut message, &mut |_, is_secret, text| {
                if let Some(quoted) = text.strip_prefix("{{").and_then(|text| text.strip_suffix("}}")) {
                    *text = self.quoted(quoted, is_secret);
                    has_quoted = true;
                }
                is_blurred |= !is_secret && (text.contains(SECRET_CANARY) || text.contains(TOKEN_SHAPE));
                is_blurred |= text.contains(ACME_CANARY) && made.caller == Caller::Neighbour;
            });
            if is_blurred {
                return None;
            }
            if has_quoted {
                *bytes = message.encode_to_vec();
            }
        }
        Some(made)
    }

    /// What stands between double braces: a length, or a field of an answer.
    fn quoted(&self, quoted: &str, is_secret: bool) -> String {
        let canary = if is_secret { SECRET_CANARY } else { INPUT_CANARY };
        match quoted.strip_prefix("long ").map(str::parse::<usize>) {
            Some(length) => {
                let more = length.unwrap_or(0).min(LONG_MAX).saturating_sub(canary.len());
                format!("{canary}{}", "x".repeat(more))
            }
            None => self.heard.get(quoted).cloned().unwrap_or_default(),
        }
    }

    /// Another organization's resource and an absent one answer the same.
    async fn compare_with_absent(&self, made: &Call, answer: &Answer) {
        let (acme, absent) = (&b"orgs/acme"[..], &b"orgs/emca"[..]);
        let mut other = made.clone();
        let mut is_other = false;
        for bytes in &mut other.messages {
            for at in 0..bytes.len().saturating_sub(acme.len() - 1) {
                if bytes[at..].starts_with(acme) {
                    bytes[at..at + acme.len()].copy_from_slice(absent);
                    is_other = true;
                }
            }
        }
        if is_other {
            let expected = call(&self.life.opened.front(), self.tokens.get(&other.caller), &other, IDLE).await;
            let bytes = |answer: &Answer| {
                (answer.status.code(), answer.status.message().to_owned(), answer.status.details().to_vec())
            };
            assert_eq!(bytes(answer), bytes(&expected), "{}: an organization shows that it is there", made.rpc.name());
        }
    }

    fn hear(&mut self, rpc: &Rpc, bytes: Bytes) {
        let mut message = DynamicMessage::decode(rpc.answer.clone(), bytes).expect("an answer is of its type");
        assert!(!schema::has_unknown(&message), "an answer holds what its type does not: {}", rpc.name());
        schema::texts(&mut message, &mut |name, _, text| {
            if !text.is_empty() {
                self.heard.insert(name.to_owned(), text.clone());
            }
        });
    }
}

/// Makes one call on a new connection; a stream ends when it said nothing for `idle`.
async fn call(front: &Front, token: Option<&String>, made: &Call, idle: Duration) -> Answer {
    let (identity, sha256) = if made.caller == Caller::Neighbour { (NEIGHBOUR, [2; 32]) } else { (ADMIN, [1; 32]) };
    let certificate = ClientCertificate {
        identities: vec![identity.to_owned()],
        sha256,
        not_after: Timestamp::from_seconds(1 << 40),
    };
    let peer = Peer { certificate: Arc::new(certificate), address: IpAddr::from([127, 0, 0, 1]) };
    let mut body = Vec::new();
    for message in &made.messages {
        body.push(0);
        body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend_from_slice(message);
    }
    let mut request = Request::post(made.rpc.method.path).header("content-type", "application/grpc");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Full::new(Bytes::from(body))).unwrap();

    let (connection, began) = (Connection::new(peer), Instant::now());
    let ending = connection.ending.clone();
    let (head, mut body) = front.clone().answer(request, connection).await.into_parts();
    assert_eq!(head.status, http::StatusCode::OK);
    let mut status = Status::from_header_map(&head.headers);
    let (mut data, mut count) = (Vec::new(), 0);
    loop {
        let frame = if made.rpc.is_server_stream {
            match tokio::time::timeout(idle, body.frame()).await {
                Ok(frame) => frame,
                // It has no more to say now.
                Err(_) => break,
            }
        } else {
            body.frame().await
        };
        let Some(frame) = frame else { break };
        match frame.expect("the body of an answer does not break off").into_data() {
            Ok(bytes) => data.extend_from_slice(&bytes),
            Err(trailers) => status = trailers.into_trailers().ok().as_ref().and_then(Status::from_header_map),
        }
        count += 1;
        if count == ANSWERS_MAX && idle == IDLE {
            break;
        }
    }
    ending.cancel();
    let status = status.unwrap_or_else(|| {
        assert!(made.rpc.is_server_stream, "an answer without a status: {}", made.rpc.name());
        Status::ok("")
    });
    Answer { status, messages: messages(data.into()), took: began.elapsed() }
}

fn messages(mut data: Bytes) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while !data.is_empty() {
        assert_eq!(data.get_u8(), 0, "no message is compressed");
        let length = usize::try_from(data.get_u32()).unwrap();
        messages.push(data.split_to(length));
    }
    messages
}

/// What holds of every answer.
fn check(made: &Call, answer: &Answer) {
    let name = made.rpc.name();
    let status = &answer.status;
    let holds =
        |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text.as_bytes()));
    if status.code() != Code::Ok {
        check_refusal(made, answer);
        for canary in [INPUT_CANARY, SECRET_CANARY, TOKEN_SHAPE] {
            let is_held = holds(status.message().as_bytes(), canary) || holds(status.details(), canary);
            assert!(!is_held, "{name}: a refusal repeats what was sent: {status:?}");
        }
    }
    for message in &answer.messages {
        let may_hold = made.rpc.releases_secrets() && made.caller != Caller::Mock;
        assert!(may_hold || !holds(message, SECRET_CANARY), "{name}: a provider key in an answer");
        let is_foreign = made.caller == Caller::Neighbour && holds(message, ACME_CANARY);
        assert!(!is_foreign, "{name}: what only another organization knows");
    }
}

fn check_refusal(made: &Call, answer: &Answer) {
    let (name, status) = (made.rpc.name(), &answer.status);
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{name}: no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "ibyok", "{name}");
    let reason = Reason::ALL.iter().find(|reason| reason.as_str() == info.reason);
    assert!(reason.is_some(), "{name}: an unknown reason: {status:?}");
    match status.code() {
        Code::Internal | Code::Unknown | Code::DataLoss => panic!("{name}: a defect: {status:?}"),
        Code::Unavailable | Code::DeadlineExceeded => {
            assert!(answer.took > SLOW, "{name}: nothing is down and nothing was slow: {status:?}");
        }
        Code::InvalidArgument => {
            let names_a_field = details.bad_request().is_some_and(|bad| !bad.field_violations.is_empty());
            let is_ambiguous = reason == Some(&Reason::ProviderAmbiguous);
            assert!(names_a_field || is_ambiguous, "{name}: no field is named: {status:?}");
        }
        _ => {}
    }
}

/// Everything that is logged, at every level, is searched for secrets.
fn watch_the_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(|| Search).init();
    });
}

struct Search;

impl io::Write for Search {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let is_clean = [SECRET_CANARY, INPUT_CANARY, TOKEN_SHAPE].iter().all(|canary| !text.contains(canary));
        assert!(is_clean, "the log holds a secret or an input: {text}");
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
