//! What the canaries go through: every call that carries a secret, in order and out of order.

use super::*;

/// The secrets that were used, by name.
#[derive(Default)]
pub struct Drive {
    /// Provider keys and tokens: they came over the wire, and stay nowhere.
    pub travelled: Vec<(String, Vec<u8>)>,
    /// The vault's own: in memory by design, and nowhere else.
    pub kept: Vec<(String, Vec<u8>)>,
}

impl Drive {
    /// A new provider key of OpenAI's shape.
    fn key(&mut self, name: &str) -> String {
        let noise = |len: usize| BASE64URL_NOPAD.encode(&random::<64>(&SystemEntropy).unwrap())[..len].to_owned();
        let text = format!("sk-proj-{}T3BlbkFJ{}", noise(74), noise(74));
        self.travelled.push((name.to_owned(), text.clone().into_bytes()));
        text
    }
    /// A JWT: what is secret of it is the signature. It is looked for as text and as the bytes that
    /// the text says.
    fn token(&mut self, name: &str, text: &str) {
        let signature = text.rsplit('.').next().unwrap();
        self.travelled.push((format!("token of {name}"), signature.as_bytes().to_vec()));
        let bytes = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
        self.travelled.push((format!("signature of {name}"), bytes));
        // Header and payload are no secret by themselves; together with the signature they are the
        // token, and nobody needs to keep them either.
        let payload = text.split('.').nth(1).unwrap();
        self.travelled.push((format!("payload of {name}"), payload.as_bytes().to_vec()));
    }
}

/// Makes every call; all connections are closed afterwards.
pub async fn drive(server: &Server) -> Drive {
    let mut drive = Drive::default();
    keep_own_keys(&mut drive, server);
    let admin = server.exchange(ADMIN, ORG).await;
    drive.token("the administrator", admin.token.as_ref().unwrap());
    known_org(&mut drive, server).await;
    lives(&mut drive, &admin).await;
    bulk(&mut drive, &admin).await;
    tokens(&mut drive, server, &admin).await;
    refusals(&mut drive, server, &admin).await;
    raw(&mut drive, server, &admin).await;
    drive
}

/// Master key and the server's private key, as they stand in their files and as bytes.
fn keep_own_keys(drive: &mut Drive, server: &Server) {
    let file = |name: &str| fs::read_to_string(server.path().join(name)).unwrap();
    let master = file("master.keys").lines().find(|line| !line.starts_with('#')).unwrap().to_owned();
    drive.kept.push(("master key".to_owned(), HEXLOWER.decode(master.as_bytes()).unwrap()));
    let pem = file("server.key");
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    drive.kept.push(("private key".to_owned(), data_encoding::BASE64.decode(body.as_bytes()).unwrap()));
}

/// An organization with a name that is in the server's memory from then on.
async fn known_org(drive: &mut Drive, server: &Server) {
    let operator = server.exchange(ADMIN, "system").await;
    drive.token("the operator", operator.token.as_ref().unwrap());
    let request =
        pb::CreateOrgRequest { org_id: KNOWN.to_owned(), admin_identity: ADMIN.to_owned(), ..Default::default() };
    operator.admin().create_org(request).await.unwrap();
    let admin = server.exchange(ADMIN, KNOWN).await;
    drive.token("the known one's administrator", admin.token.as_ref().unwrap());
    create(drive, &admin, "known").await;
}

async fn create(drive: &mut Drive, caller: &Caller, id: &str) -> String {
    let text = drive.key(&format!("key {id}"));
    caller.keys().create_key(new_key(id, &text)).await.unwrap();
    text
}

fn new_key(id: &str, text: &str) -> pb::CreateKeyRequest {
    pb::CreateKeyRequest {
        key_id: id.to_owned(),
        secret: secret(text),
        provider: "openai".to_owned(),
        request_id: format!("create-{id}"),
        ..Default::default()
    }
}

fn secret(text: &str) -> Option<pb::SecretValue> {
    Some(pb::SecretValue { text: text.to_owned() })
}

async fn retrieve(caller: &Caller, name: &str) -> Result<pb::RetrieveKeyResponse, tonic::Status> {
    let request = pb::RetrieveKeyRequest { name: name.to_owned(), ..Default::default() };
    caller.keys().retrieve_key(request).await.map(tonic::Response::into_inner)
}

/// Keys are stored, retrieved often, replayed, rotated, destroyed.
async fn lives(drive: &mut Drive, admin: &Caller) {
    let one = create(drive, admin, "one").await;
    admin.keys().create_key(new_key("one", &one)).await.unwrap();
    let calls = (0..200).map(|_| {
        let admin = admin.clone();
        tokio::spawn(async move { retrieve(&admin, "one").await.unwrap().secret.unwrap().text.clone() })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), one);
    }
    let two = drive.key("rotated");
    let add = pb::AddKeyVersionRequest { name: "one".to_owned(), secret: secret(&two), ..Default::default() };
    admin.keys().add_key_version(add).await.unwrap();
    let promote = pb::PromoteKeyVersionRequest { name: "one".to_owned(), allow_unverified: true, ..Default::default() };
    admin.keys().promote_key_version(promote).await.unwrap();
    assert_eq!(retrieve(admin, "one").await.unwrap().secret.unwrap().text, two);
    let previous = format!("orgs/{ORG}/keys/one/versions/previous");
    assert_eq!(retrieve(admin, &previous).await.unwrap().secret.unwrap().text, one);

    // The longest that there may be: it fills many frames.
    let long: String = drive.key("long").repeat(120)[..16_384].to_owned();
    admin.keys().create_key(new_key("long", &long)).await.unwrap();
    assert_eq!(retrieve(admin, "long").await.unwrap().secret.unwrap().text, long);

    create(drive, admin, "gone").await;
    retrieve(admin, "gone").await.unwrap();
    let name = format!("orgs/{ORG}/keys/gone");
    let destroy = pb::DestroyKeyRequest { name: name.clone(), confirm: name, ..Default::default() };
    admin.keys().destroy_key(destroy).await.unwrap();

    let only_checked = drive.key("only checked");
    let check = pb::CreateKeyRequest { validate_only: true, ..new_key("checked", &only_checked) };
    admin.keys().create_key(check).await.unwrap();
    let detected = drive.key("detected");
    let subject = pb::detect_provider_request::Subject::Secret(pb::SecretValue { text: detected });
    admin.keys().detect_provider(pb::DetectProviderRequest { subject: Some(subject) }).await.unwrap();
}

/// Keys come and go by the dozen; some are refused.
async fn bulk(drive: &mut Drive, admin: &Caller) {
    let import = |key| pb::ImportKeysRequest { key: Some(key), skip_existing: false };
    let mut keys: Vec<_> =
        (0..40).map(|n| new_key(&format!("many-{n}"), &drive.key(&format!("imported {n}")))).collect();
    let refused = drive.key("in a refused item");
    let count = keys.len();
    keys.push(pb::CreateKeyRequest { key_id: refused.clone(), ..new_key("bad", &refused) });
    keys.push(pb::CreateKeyRequest { provider: refused.clone(), ..new_key("bad", &refused) });
    keys.push(pb::CreateKeyRequest { description: refused.repeat(20), ..new_key("bad", &refused) });
    keys.push(new_key("many-0", &refused));
    keys.push(pb::CreateKeyRequest {
        validate_only: true,
        ..new_key("unstored", &drive.key("only checked by import"))
    });
    for _ in 0..2 {
        let sent: Vec<_> = keys.iter().cloned().map(import).collect();
        let mut answers = admin.keys().import_keys(tokio_stream::iter(sent)).await.unwrap().into_inner();
        let mut answered = 0;
        while let Some(answer) = answers.message().await.unwrap() {
            assert_says_nothing_of(&answer, &refused);
            answered += 1;
        }
        assert_eq!(answered, keys.len());
    }
    // One that is cut while its items run.
    let sent: Vec<_> = (0..40).map(|n| import(new_key(&format!("cut-{n}"), &drive.key(&format!("cut {n}"))))).collect();
    let mut answers = admin.keys().import_keys(tokio_stream::iter(sent)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    drop(answers);

    let names: Vec<_> = (0..count).map(|n| format!("many-{n}")).collect();
    let request = pb::BatchRetrieveKeysRequest { names, purpose: String::new() };
    for _ in 0..3 {
        let results = admin.keys().batch_retrieve_keys(request.clone()).await.unwrap().into_inner().results;
        assert!(results.iter().zip(&keys).all(|(result, key)| result.key.as_ref().unwrap().secret == key.secret));
    }
    let request = pb::BatchRetrieveKeysRequest { names: vec![refused.clone(); 3], purpose: String::new() };
    assert_says_nothing_of(&admin.keys().batch_retrieve_keys(request).await.unwrap().into_inner(), &refused);
    let names = vec!["many-0".to_owned()];
    let request = pb::BatchRetrieveKeysRequest { names, purpose: refused.repeat(9) };
    assert_answer_is_clean(&admin.keys().batch_retrieve_keys(request).await.unwrap_err(), &refused, 0);
}

/// Tokens are issued, replayed, exchanged, renewed, looked at, revoked.
async fn tokens(drive: &mut Drive, server: &Server, admin: &Caller) {
    let grant = pb::Grant { scopes: vec!["keys:read".to_owned()], ..Default::default() };
    let issue = pb::IssueTokenRequest {
        subject: "worker".to_owned(),
        grants: vec![grant],
        client_identity: "spiffe://ibyok.test/worker".to_owned(),
        request_id: "issue".to_owned(),
        max_ttl: Some(prost_types::Duration { seconds: 86_400, nanos: 0 }),
        ..Default::default()
    };
    let mut texts = Vec::new();
    for _ in 0..2 {
        let answer = admin.tokens().issue_token(issue.clone()).await.unwrap().into_inner();
        texts.push(answer.access_token.unwrap().text.clone());
    }
    assert_eq!(texts[0], texts[1], "a replay answers the same");
    drive.token("a worker", &texts[0]);
    let worker = server.stranger("spiffe://ibyok.test/worker").with_token(&*texts[0]);
    retrieve(&worker, "one").await.unwrap();
    let renewed = worker.tokens().renew_token(pb::RenewTokenRequest::default()).await.unwrap().into_inner();
    drive.token("a renewed worker", &renewed.access_token.as_ref().unwrap().text);
    let request = pb::IntrospectTokenRequest { access_token: secret(&texts[0]) };
    assert!(admin.tokens().introspect_token(request).await.unwrap().into_inner().active);

    // With another's certificate it is good for nothing, and is recorded.
    let thief = server.stranger("spiffe://ibyok.test/thief").with_token(&*texts[0]);
    let refusal = retrieve(&thief, "one").await.unwrap_err();
    assert_eq!(reason(&refusal), "TOKEN_CERTIFICATE_MISMATCH");
    let which = pb::revoke_tokens_request::Which::Subject("worker".to_owned());
    let revoke = pb::RevokeTokensRequest { which: Some(which), ..Default::default() };
    admin.tokens().revoke_tokens(revoke).await.unwrap();
    assert_eq!(reason(&retrieve(&worker, "one").await.unwrap_err()), "TOKEN_REVOKED");
}

/// A secret where none belongs: pasted into another field, or into a call that is refused.
async fn refusals(drive: &mut Drive, server: &Server, admin: &Caller) {
    let mut keys = admin.keys();
    let text = drive.key("in a refused call");
    let base = || new_key("refused", &text);
    let creates = [
        pb::CreateKeyRequest { key_id: text.clone(), ..base() },
        pb::CreateKeyRequest { key_id: "one".to_owned(), request_id: String::new(), ..base() },
        pb::CreateKeyRequest { request_id: "create-one".to_owned(), ..base() },
        pb::CreateKeyRequest { request_id: format!("{text} "), ..base() },
        pb::CreateKeyRequest { provider: text.clone(), ..base() },
        pb::CreateKeyRequest { base_url: text.clone(), ..base() },
        pb::CreateKeyRequest { base_url: format!("http://{text}.example"), ..base() },
        pb::CreateKeyRequest { parent: format!("orgs/{text}"), ..base() },
        pb::CreateKeyRequest { environment: text.clone(), ..base() },
        pb::CreateKeyRequest { labels: [(text.clone(), "x".repeat(999))].into(), ..base() },
        pb::CreateKeyRequest { models: vec![text.repeat(9)], ..base() },
        pb::CreateKeyRequest { description: text.repeat(20), ..base() },
        pb::CreateKeyRequest { secret: secret(&text.repeat(200)), ..base() },
        pb::CreateKeyRequest { secret: secret(&format!("{text}\n{text}")), ..base() },
        pb::CreateKeyRequest { secret: secret(&format!("not-of-a-shape {text}")), provider: String::new(), ..base() },
        pb::CreateKeyRequest {
            auth_scheme: Some(pb::AuthScheme { header: text.clone(), ..Default::default() }),
            ..base()
        },
    ];
    for (number, create) in creates.into_iter().enumerate() {
        let refusal = keys.create_key(create).await.unwrap_err();
        assert_answer_is_clean(&refusal, &text, number);
    }
    let names = [text.clone(), format!("orgs/{text}/keys/one"), format!("orgs/{ORG}/keys/{text}/versions/{text}")];
    for name in names {
        let requests = [
            pb::RetrieveKeyRequest { name: name.clone(), ..Default::default() },
            pb::RetrieveKeyRequest { name: "one".to_owned(), purpose: text.repeat(9), ..Default::default() },
            pb::RetrieveKeyRequest { name: "one".to_owned(), if_version_not: text.clone(), ..Default::default() },
        ];
        for (number, request) in requests.into_iter().enumerate() {
            assert_answer_is_clean(&keys.retrieve_key(request).await.unwrap_err(), &text, number);
        }
        let confirm = pb::DestroyKeyRequest { name: "one".to_owned(), confirm: name, ..Default::default() };
        assert_answer_is_clean(&keys.destroy_key(confirm).await.unwrap_err(), &text, 0);
    }
    let page = pb::ListKeysRequest { page_token: text.clone(), ..Default::default() };
    assert_answer_is_clean(&keys.list_keys(page).await.unwrap_err(), &text, 0);
    let mask = pb::UpdateKeyRequest {
        key: Some(pb::Key { name: "one".to_owned(), etag: text.clone(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec![text.clone()] }),
        ..Default::default()
    };
    assert_answer_is_clean(&keys.update_key(mask).await.unwrap_err(), &text, 0);
    let disable = pb::DisableKeyRequest { name: "one".to_owned(), etag: text.clone(), ..Default::default() };
    assert_answer_is_clean(&keys.disable_key(disable).await.unwrap_err(), &text, 0);

    // Tokens that are none.
    for token in [text.clone(), format!("{text}.{text}.{text}")] {
        let refusal = retrieve(&admin.with_token(token.clone()), "one").await.unwrap_err();
        assert_eq!(refusal.code(), Code::Unauthenticated);
        assert_answer_is_clean(&refusal, &text, 0);
        let introspect = pb::IntrospectTokenRequest { access_token: secret(&token) };
        let answer = admin.tokens().introspect_token(introspect).await.unwrap().into_inner();
        assert!(!answer.active);
    }
    let exchange = pb::ExchangeTokenRequest {
        subject: Some(pb::exchange_token_request::Subject::Jwt(pb::SecretValue { text: text.clone() })),
        parent: format!("orgs/{ORG}"),
        ..Default::default()
    };
    let refusal = server.stranger(ADMIN).tokens().exchange_token(exchange).await.unwrap_err();
    assert_answer_is_clean(&refusal, &text, 0);
    not_granted(drive, server, admin).await;
}

/// A caller who may not, and sends a secret with it.
async fn not_granted(drive: &mut Drive, server: &Server, admin: &Caller) {
    let grant = pb::Grant { scopes: vec!["keys:list".to_owned()], ..Default::default() };
    let issue = pb::IssueTokenRequest {
        subject: "lister".to_owned(),
        grants: vec![grant],
        client_identity: "spiffe://ibyok.test/lister".to_owned(),
        ..Default::default()
    };
    let answer = admin.tokens().issue_token(issue).await.unwrap().into_inner();
    let token = answer.access_token.unwrap().text.clone();
    drive.token("a lister", &token);
    let lister = server.stranger("spiffe://ibyok.test/lister").with_token(token);
    let text = drive.key("without the scope");
    let refusal = lister.keys().create_key(new_key("scopeless", &text)).await.unwrap_err();
    assert_eq!(reason(&refusal), "SCOPE_MISSING");
    let nobody = Caller::new(lister.channel.clone(), None);
    let refusal = nobody.keys().create_key(new_key("tokenless", &text)).await.unwrap_err();
    assert_eq!(reason(&refusal), "TOKEN_MISSING");
}

/// What no generated client sends: secrets in headers, in paths, in messages that are none.
async fn raw(drive: &mut Drive, server: &Server, admin: &Caller) {
    let text = drive.key("in a header");
    let header: AsciiMetadataValue = text.parse().unwrap();
    for name in ["x-api-key", "traceparent", "grpc-encoding", "x-request-id", "cookie", "grpc-timeout"] {
        let mut request = tonic::Request::new(pb::GetKeyRequest { name: "one".to_owned() });
        request.metadata_mut().insert(name, header.clone());
        let bearer: AsciiMetadataValue = format!("Bearer {}", admin.token.as_ref().unwrap()).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let mut client = pb::key_vault_client::KeyVaultClient::new(admin.channel.clone());
        // Some of these are refused; none may be kept.
        if let Err(refusal) = client.get_key(request).await {
            assert_answer_is_clean(&refusal, &text, 0);
        }
    }
    for scheme in ["Basic", "bearer", "Token", ""] {
        let mut request = tonic::Request::new(pb::GetKeyRequest { name: "one".to_owned() });
        let value: MetadataValue<_> = format!("{scheme} {text}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let mut client = pb::key_vault_client::KeyVaultClient::new(admin.channel.clone());
        assert_answer_is_clean(&client.get_key(request).await.unwrap_err(), &text, 0);
    }
    let text = drive.key("in a path");
    let paths = [format!("/{text}/{text}"), format!("/ibyok.v1.KeyVault/{text}"), format!("/?{text}")];
    for path in paths {
        for token in [None, admin.token.as_ref()] {
            let refusal = send(&admin.channel, &path, token, b"").await.unwrap_err();
            assert_answer_is_clean(&refusal, &text, 0);
        }
    }
    let text = drive.key("in garbage");
    for path in ["/ibyok.v1.KeyVault/CreateKey", "/ibyok.v1.Tokens/ExchangeToken", "/ibyok.v1.KeyVault/ListKeys"] {
        for token in [None, admin.token.as_ref()] {
            // An unknown field of text; a known one that is cut short; no message at all.
            let unknown = [&[0xfa, 0x3f, u8::try_from(text.len() & 0x7f).unwrap() | 0x80, 1][..], text.as_bytes()];
            for body in [unknown.concat(), [&[0x1a, 0x7f][..], text.as_bytes()].concat(), text.clone().into_bytes()] {
                // An unknown field is no error.
                if let Err(refusal) = send(&admin.channel, path, token, &body).await {
                    assert_answer_is_clean(&refusal, &text, 0);
                }
            }
        }
    }
    // Never a word of HTTP/2.
    let text = drive.key("before TLS");
    let mut socket = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut socket, text.as_bytes()).await.unwrap();
}

/// Sends those bytes as the message of a unary call.
async fn send(
    channel: &tonic::transport::Channel,
    path: &str,
    token: Option<&String>,
    body: &[u8],
) -> Result<(), tonic::Status> {
    use http_body_util::{BodyExt as _, Full};
    use tower::ServiceExt as _;
    let mut frame = vec![0];
    frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    frame.extend(body);
    let body = tonic::body::Body::new(Full::new(bytes::Bytes::from(frame)));
    let mut request = http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = channel.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    if let Some(status) = tonic::Status::from_header_map(answer.headers()) {
        return if status.code() == Code::Ok { Ok(()) } else { Err(status) };
    }
    let collected = answer.into_body().collect().await.unwrap();
    match tonic::Status::from_header_map(collected.trailers().unwrap()) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(()),
    }
}

/// Nor does an answer that refuses but some of it.
fn assert_says_nothing_of(answer: &(impl prost::Message + std::fmt::Debug), text: &str) {
    let needles = Needles::of(&[("sent".to_owned(), text.as_bytes().to_vec())]);
    assert!(needles.found_in(&answer.encode_to_vec()).next().is_none(), "{answer:?}");
}

/// An answer never repeats what was sent.
fn assert_answer_is_clean(status: &tonic::Status, text: &str, number: usize) {
    let needles = Needles::of(&[("sent".to_owned(), text.as_bytes().to_vec())]);
    let said = format!("{status:?}");
    let mut found = needles.found_in(said.as_bytes());
    assert!(found.next().is_none(), "number {number}: {said}");
    assert!(needles.found_in(status.details()).next().is_none(), "number {number}: {said}");
}
