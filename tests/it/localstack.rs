//! The KMS of AWS as LocalStack has it, one process for the whole test binary, on ::1; it ends when
//! this process does, however that ends.
//!
//! It holds to encryption contexts, key ids and key states; not to policies, grants and quotas.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use aws_sdk_kms::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::{KeySpec, KeyUsageType},
};
use ibyok::domain::secret::KmsKeyId;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::OnceCell,
};

/// The region of every test's primary.
pub const REGION: &str = "eu-west-1";
/// Another one.
pub const AWAY: &str = "us-east-1";

/// Where it listens, as `http://[::1]:PORT`.
pub async fn endpoint() -> &'static str {
    static RUNNING: OnceCell<Running> = OnceCell::const_new();
    &RUNNING.get_or_init(Running::start).await.endpoint
}

/// The same, once its STS, which starts when it is first called and takes its time, answers.
pub async fn sts() -> &'static str {
    let endpoint = endpoint().await;
    let mut stream = TcpStream::connect(endpoint.trim_start_matches("http://")).await.unwrap();
    let form = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleSessionName=it&WebIdentityToken=it\
                &RoleArn=arn%3Aaws%3Aiam%3A%3A000000000000%3Arole%2Fit";
    let head = format!(
        "POST / HTTP/1.1\r\nhost: sts\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n",
        form.len()
    );
    stream.write_all([&head, form].concat().as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    endpoint
}

struct Running {
    endpoint: String,
    /// Its standard input is open as long as this process lives.
    _process: Child,
}

impl Running {
    async fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let ensured = Command::new(root.join("tools/ensure")).arg("localstack").output().unwrap();
        let said = String::from_utf8_lossy(&ensured.stderr);
        assert!(ensured.status.success(), "LocalStack is not there, and these tests need it: {said}");
        let python = PathBuf::from(String::from_utf8(ensured.stdout).unwrap().trim());

        let port = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap().port();
        // What outlives this process stays among what is built.
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let home = tempfile::tempdir_in(scratch).unwrap().keep();
        let log = scratch.join("localstack.log");
        let output = File::create(&log).unwrap();
        let mut process = Command::new(python)
            .arg(root.join("tools/localstack/run.py"))
            .arg(port.to_string())
            .arg(&home)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        while TcpStream::connect(format!("[::1]:{port}")).await.is_err() {
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "LocalStack ended: {}", fs::read_to_string(&log).unwrap());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Self { endpoint: format!("http://[::1]:{port}"), _process: process }
    }
}

/// The administrator of its keys. Each test has its own: a connection is of the runtime that made it.
pub struct Keys {
    client: Client,
}

impl Keys {
    pub async fn of(region: &'static str) -> Self {
        let config = aws_sdk_kms::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .endpoint_url(endpoint().await)
            .build();
        Self { client: Client::from_conf(config) }
    }
    /// A new key that wraps data keys, by its ARN.
    pub async fn make(&self) -> KmsKeyId {
        let made = self.client.create_key().send().await.unwrap();
        KmsKeyId(made.key_metadata.unwrap().arn.unwrap())
    }
    /// A new key of another kind.
    pub async fn make_other(&self, spec: KeySpec, usage: KeyUsageType) -> KmsKeyId {
        let made = self.client.create_key().key_spec(spec).key_usage(usage).send().await.unwrap();
        KmsKeyId(made.key_metadata.unwrap().arn.unwrap())
    }
    /// A new key that can have replicas.
    pub async fn make_multi_region(&self) -> KmsKeyId {
        let made = self.client.create_key().multi_region(true).send().await.unwrap();
        KmsKeyId(made.key_metadata.unwrap().arn.unwrap())
    }
    /// Its replica in that region.
    pub async fn replicate(&self, key: &KmsKeyId, region: &str) -> KmsKeyId {
        let made = self.client.replicate_key().key_id(&key.0).replica_region(region).send().await.unwrap();
        KmsKeyId(made.replica_key_metadata.unwrap().arn.unwrap())
    }
    /// Lets `alias/NAME` name that key.
    pub async fn alias(&self, name: &str, key: &KmsKeyId) -> KmsKeyId {
        let alias = format!("alias/{name}");
        self.client.create_alias().alias_name(&alias).target_key_id(&key.0).send().await.unwrap();
        KmsKeyId(alias)
    }
    pub async fn disable(&self, key: &KmsKeyId) {
        self.client.disable_key().key_id(&key.0).send().await.unwrap();
    }
    pub async fn enable(&self, key: &KmsKeyId) {
        self.client.enable_key().key_id(&key.0).send().await.unwrap();
    }
    pub async fn schedule_deletion(&self, key: &KmsKeyId) {
        self.client.schedule_key_deletion().key_id(&key.0).pending_window_in_days(7).send().await.unwrap();
    }
    /// Changes the key material that wraps from here on; what older material wrapped still opens.
    pub async fn rotate(&self, key: &KmsKeyId) {
        self.client.rotate_key_on_demand().key_id(&key.0).send().await.unwrap();
    }
}

/// Those of everybody in these tests; region and endpoint are settings.
pub fn keys() -> ibyok::aws::Keys {
    ibyok::aws::Keys::new("test", "test")
}

/// The same for a process. DynamoDB Local takes any keys, too, and keeps the tables of each apart.
pub const ENVIRONMENT: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
