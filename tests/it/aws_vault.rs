//! A whole vault on the KMS of AWS: what it calls, what its callers are told, and what it leaves in
//! its log.

use std::{collections::BTreeMap, fs};

use aws_sdk_kms::types::{KeySpec, KeyUsageType};
use data_encoding::BASE64;
use ibyok::{domain::secret::KmsKeyId, grpc::pb, server::ServerError};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt as _;

use crate::{
    aws_proxy::{Fate, Proxy},
    canary::{needles::Needles, process::Server, settled},
    harness::{ADMIN, Caller, Home, KMS_SETTINGS, ORG, Vault, reason, within},
    localstack::{self, Keys, REGION},
};

mod credentials;
mod status;

const SECRET: &str = "sk-proj-aws-canary-0123456789abcdef0123456789abcdef";

/// The home of a vault whose primary is that key.
pub fn home(key: &KmsKeyId, endpoint: &str) -> Home {
    let home = Home::make();
    let settings =
        format!("kms = {{ kind = 'aws', key_id = '{}', region = '{REGION}', endpoint = '{endpoint}' }}", key.0);
    fs::write(home.path().join(KMS_SETTINGS), settings).unwrap();
    home
}

/// A vault on a new key, with a proxy before the KMS, and the key of a service, to be retrieved.
struct Setting {
    keys: Keys,
    primary: KmsKeyId,
    proxy: Proxy,
    vault: Vault,
    admin: Caller,
}

impl Setting {
    async fn make() -> Self {
        let keys = Keys::of(REGION).await;
        let primary = keys.make().await;
        let proxy = Proxy::before(localstack::endpoint().await).await;
        let home = home(&primary, &proxy.endpoint);
        home.init().await.unwrap();
        let vault = home.serve("").await;
        let admin = vault.admin().await;
        create(&admin, "openai-prod").await.unwrap();
        Self { keys, primary, proxy, vault, admin }
    }
    async fn retrieve(&self) -> Result<String, Status> {
        retrieve(&self.admin, "openai-prod").await
    }
    /// What `ibyok status` says of the KMS.
    async fn status(&self) -> (bool, String) {
        let operator = self.vault.operator().await;
        let status = operator.admin().get_server_status(pb::GetServerStatusRequest {}).await.unwrap().into_inner();
        let kms = status.checks.into_iter().find(|check| check.name == "kms").unwrap();
        (kms.ok, kms.detail)
    }
    /// Waits until health says that of the service (empty: of the server).
    async fn until_health_says(&self, service: &str, expected: ServingStatus) {
        let mut health = HealthClient::new(self.vault.channel(&self.vault.certificate("health.test")));
        let request = HealthCheckRequest { service: service.to_owned() };
        let mut changes = health.watch(request).await.unwrap().into_inner();
        within(&format!("{expected:?} of {service:?}"), async {
            while changes.message().await.unwrap().unwrap().status() != expected {}
        })
        .await;
    }
}

async fn create(caller: &Caller, id: &str) -> Result<pb::Key, Status> {
    let secret = Some(pb::SecretValue { text: SECRET.to_owned() });
    let request =
        pb::CreateKeyRequest { key_id: id.to_owned(), provider: "openai".to_owned(), secret, ..Default::default() };
    Ok(caller.keys().create_key(request).await?.into_inner().key.unwrap())
}

async fn retrieve(caller: &Caller, id: &str) -> Result<String, Status> {
    let request = pb::RetrieveKeyRequest { name: id.to_owned(), ..Default::default() };
    Ok(caller.keys().retrieve_key(request).await?.into_inner().secret.unwrap().text.clone())
}

/// Without the looks of health, which come when they come.
pub fn but_descriptions(mut calls: BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    calls.remove("DescribeKey");
    calls
}

fn once(name: &str, times: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([(name.to_owned(), times)])
}

#[tokio::test(flavor = "multi_thread")]
async fn one_retrieval_is_one_decrypt_and_one_creation_one_data_key() {
    let setting = Setting::make().await;
    // The first call of an organization's key may open its own keys; they stay in memory.
    setting.retrieve().await.unwrap();
    setting.proxy.take_calls();
    assert_eq!(setting.retrieve().await.unwrap(), SECRET);
    assert_eq!(but_descriptions(setting.proxy.take_calls()), once("Decrypt", 1));

    let together = (0..24).map(|_| setting.retrieve());
    for value in futures_util::future::join_all(together).await {
        assert_eq!(value.unwrap(), SECRET);
    }
    assert_eq!(but_descriptions(setting.proxy.take_calls()), once("Decrypt", 24));

    let made = create(&setting.admin, "another").await.unwrap();
    assert_eq!(made.versions[0].kms_key_id, setting.primary.0, "a version names the ARN that wrapped it");
    assert_eq!(but_descriptions(setting.proxy.take_calls()), once("GenerateDataKey", 1));
    setting.vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_key_is_said_everywhere_and_an_enabled_one_works_without_a_restart() {
    const RELEASING: &str = "ibyok.v1.KeyVault";
    let setting = Setting::make().await;
    assert_eq!(setting.status().await, (true, format!("AWS KMS key {}, enabled", setting.primary.0)));
    setting.until_health_says(RELEASING, ServingStatus::Serving).await;

    setting.keys.disable(&setting.primary).await;
    for _ in 0..8 {
        let refused = setting.retrieve().await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "KMS_KEY_DISABLED"));
    }
    let refused = create(&setting.admin, "another").await.unwrap_err();
    assert_eq!(reason(&refused), "KMS_KEY_DISABLED");
    let line = format!("kms.key_id: {} is disabled: enable it", setting.primary.0);
    assert_eq!(setting.status().await, (false, line));
    setting.until_health_says(RELEASING, ServingStatus::NotServing).await;
    setting.until_health_says("", ServingStatus::Serving).await;
    setting.until_health_says("ibyok.v1.Audit", ServingStatus::Serving).await;

    setting.keys.enable(&setting.primary).await;
    assert_eq!(setting.retrieve().await.unwrap(), SECRET);
    assert!(setting.status().await.0);
    setting.until_health_says(RELEASING, ServingStatus::Serving).await;
    let failed = pb::ListAuditEventsRequest::default();
    let actions: Vec<_> = setting.admin.audit_events(failed).await.into_iter().map(|event| event.action).collect();
    assert_eq!(actions.iter().filter(|action| *action == "key.retrieve.failed").count(), 8, "{actions:?}");
    setting.vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organizations_own_key_is_its_own_matter() {
    let setting = Setting::make().await;
    let (own, next) = (setting.keys.make().await, setting.keys.make().await);
    let alias = setting.keys.alias(&format!("own-{}", own.0.rsplit('/').next().unwrap()), &own).await;
    let operator = setting.vault.operator().await;
    let org = |key: &KmsKeyId| {
        Some(pb::Org { name: "orgs/globex".to_owned(), kms_key_id: key.0.clone(), ..Default::default() })
    };
    let request = pb::CreateOrgRequest {
        org_id: "globex".to_owned(),
        org: org(&alias),
        admin_identity: ADMIN.to_owned(),
        ..Default::default()
    };
    let made = operator.admin().create_org(request).await.unwrap().into_inner();
    assert_eq!(made.org.unwrap().kms_key_id, alias.0, "an organization keeps the name that it was given");
    let globex = setting.vault.exchange(ADMIN, "globex").await;
    let key = create(&globex, "theirs").await.unwrap();
    assert_eq!(key.versions[0].kms_key_id, own.0);

    let update = |key: &KmsKeyId| pb::UpdateOrgRequest {
        org: org(key),
        update_mask: Some(prost_types::FieldMask { paths: vec!["kms_key_id".to_owned()] }),
        ..Default::default()
    };
    let nobody = KmsKeyId("alias/nobody".to_owned());
    let refused = operator.admin().update_org(update(&nobody)).await.unwrap_err();
    assert_eq!(reason(&refused), "KMS_KEY_REFUSED", "a key is tried before it is taken");
    // LocalStack takes keys of any kind here.
    setting.proxy.set(Fate::AnswerTo("GenerateDataKey", 400, "InvalidKeyUsageException"));
    let refused = operator.admin().update_org(update(&next)).await.unwrap_err();
    let kind = refused.get_error_details().error_info().unwrap().metadata["kms_key"].clone();
    assert_eq!((reason(&refused).as_str(), kind.as_str()), ("KMS_KEY_REFUSED", "InvalidKeyUsageException"));
    setting.proxy.set(Fate::Pass);
    operator.admin().update_org(update(&next)).await.unwrap();
    assert_eq!(create(&globex, "new").await.unwrap().versions[0].kms_key_id, next.0);
    assert_eq!(retrieve(&globex, "theirs").await.unwrap(), SECRET);

    setting.keys.disable(&own).await;
    let refused = retrieve(&globex, "theirs").await.unwrap_err();
    assert_eq!(reason(&refused), "KMS_KEY_DISABLED");
    assert_eq!(retrieve(&globex, "new").await.unwrap(), SECRET);
    assert_eq!(setting.retrieve().await.unwrap(), SECRET);
    assert!(setting.status().await.0);
    setting.vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kms_that_throttles_or_is_gone_is_unavailable_with_a_time_to_retry() {
    let setting = Setting::make().await;
    for fate in [Fate::Answer(400, "ThrottlingException"), Fate::Answer(500, "KMSInternalException"), Fate::Cut] {
        setting.proxy.set(fate.clone());
        let refused = setting.retrieve().await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "KMS_UNAVAILABLE"), "{fate:?}");
        let retry = refused.get_error_details().retry_info().unwrap().retry_delay;
        assert!(retry.is_some_and(|delay| !delay.is_zero()), "{fate:?}: {retry:?}");
    }
    for (code, expected) in [("AccessDeniedException", "KMS_KEY_REFUSED"), ("ExpiredTokenException", "KMS_UNAVAILABLE")]
    {
        setting.proxy.set(Fate::Answer(400, code));
        assert_eq!(reason(&setting.retrieve().await.unwrap_err()), expected, "{code}");
    }
    assert!(!setting.status().await.0);
    setting.proxy.set(Fate::Pass);
    assert_eq!(setting.retrieve().await.unwrap(), SECRET);
    setting.vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_cannot_be_used_is_refused_at_the_start_with_one_line() {
    let keys = Keys::of(REGION).await;
    let (good, asymmetric) = (keys.make().await, keys.make_other(KeySpec::Rsa2048, KeyUsageType::EncryptDecrypt).await);
    let endpoint = localstack::endpoint().await;
    for (key, line) in [
        (asymmetric.0.as_str(), "is a key RSA_2048 for ENCRYPT_DECRYPT; needed is one SYMMETRIC_DEFAULT"),
        ("alias/nobody", "kms.key_id: there is no KMS key alias/nobody in eu-west-1; is it in another region?"),
    ] {
        let home = home(&KmsKeyId(key.to_owned()), endpoint);
        let refused = home.init().await.unwrap_err();
        assert!(matches!(refused, ServerError::Setting { setting: "kms.key_id", .. }), "{refused}");
        assert!(refused.to_string().contains(line) && !refused.to_string().contains('\n'), "{refused}");
        assert!(!home.path().join("vault.db").exists(), "nothing was made");
    }

    let home = home(&good, endpoint);
    home.init().await.unwrap();
    keys.disable(&good).await;
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused =
        ibyok::server::run(home.config(""), socket, std::future::pending(), home.sources()).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("kms.key_id: {} is disabled: enable it", good.0));
}

/// The data keys that a KMS answered, by the order in which it did.
fn data_keys(proxy: &Proxy) -> Vec<(String, Vec<u8>)> {
    let answers = proxy.replies().into_iter().enumerate().filter_map(|(n, body)| {
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
        Some((format!("data key {n}"), BASE64.decode(answer["Plaintext"].as_str()?.as_bytes()).unwrap()))
    });
    answers.collect()
}

/// Nobody would set the last one; the SDK of AWS then prints the bodies that it calls sensitive.
const TELL_ALL: &[(&str, &str)] = &[
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test-secret-access-key-canary"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
    ("RUST_LOG", "trace"),
    ("LOG_SENSITIVE_BODIES", "true"),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_data_key_is_logged_at_any_level_or_kept() {
    let keys = Keys::of(REGION).await;
    let primary = keys.make().await;
    let proxy = Proxy::before(localstack::endpoint().await).await;
    let home = home(&primary, &proxy.endpoint);
    home.init().await.unwrap();
    let server = Server::serve_readable(home, TELL_ALL).await;
    let admin = server.exchange(ADMIN, ORG).await;
    create(&admin, "openai-prod").await.unwrap();
    assert_eq!(retrieve(&admin, "openai-prod").await.unwrap(), SECRET);

    let data_keys = data_keys(&proxy);
    assert!(data_keys.len() > 6, "those of the vault, of the organization and of the value");
    let control = Needles::of(&[("control".to_owned(), primary.0.clone().into())]);
    assert!(!server.memory(&control).is_empty(), "a search of the memory finds what is there");
    let needles = Needles::of(&data_keys);
    let kept = settled(|| server.memory(&needles)).await;

    let (site, log) = server.terminate().await;
    let own = [("provider key".to_owned(), SECRET.into()), ("AWS secret".to_owned(), TELL_ALL[1].1.into())];
    let needles = Needles::of(&[data_keys, own.to_vec()].concat());
    let text = String::from_utf8_lossy(&log);
    assert!(text.contains("serving"), "{text}");
    let found: Vec<_> = needles.found_in(&log).collect();
    assert!(found.is_empty(), "in the log: {found:#?}");
    assert!(kept.is_empty(), "{} in the server's memory: {kept:#?}", kept.len());
    for path in fs::read_dir(site.home.path()).unwrap().map(|entry| entry.unwrap().path()) {
        let found = path.is_file() && needles.found_in(&fs::read(&path).unwrap()).next().is_some();
        assert!(!found, "in {}", path.display());
    }
}
