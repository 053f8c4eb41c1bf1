//! DynamoDB Local and LocalStack's KMS: installed by `tools/ensure`, on free ports of this machine,
//! gone with this process however it ends, for each ends with its standard input. What they store
//! is in memory.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use aws_sdk_kms::{
    Client, Config,
    config::{BehaviorVersion, Credentials, Region},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    Failed,
    process::{Used, used},
    report::say,
};

const REGION: &str = "eu-central-1";
/// Both id and secret: the emulators take any.
const ANYBODY: &str = "test";
/// What a server finds instead of this machine's own settings of AWS.
pub(crate) const ENVIRONMENT: [(&str, &str); 6] = [
    ("AWS_REGION", REGION),
    ("AWS_ACCESS_KEY_ID", ANYBODY),
    ("AWS_SECRET_ACCESS_KEY", ANYBODY),
    ("AWS_EC2_METADATA_DISABLED", "true"),
    ("AWS_CONFIG_FILE", "/dev/null"),
    ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
];
/// The longest that one may take to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where a table and a KMS key are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// DynamoDB's endpoint.
    pub(crate) dynamodb: String,
    /// The KMS's endpoint.
    pub(crate) kms: String,
    /// The KMS key, by its ARN.
    pub(crate) key: String,
}

impl Place {
    /// A server's settings of it.
    pub(crate) fn settings(&self) -> String {
        let Self { dynamodb, kms, key } = self;
        format!(
            "store = {{ kind = \"dynamodb\", table = \"bench\", endpoint = \"{dynamodb}\" }}\n\
             kms = {{ kind = \"aws\", key_id = \"{key}\", endpoint = \"{kms}\" }}\n"
        )
    }
}

/// Both, running; killed when dropped.
#[derive(Debug)]
pub(crate) struct Emulators {
    dynamodb: Child,
    kms: Child,
    /// Where they listen.
    pub(crate) place: Place,
}

impl Emulators {
    /// Starts both, with their logs in `dir`, and makes a key.
    pub(crate) async fn start(dir: &Path) -> Result<Self, Failed> {
        say("starting DynamoDB Local and LocalStack");
        let (dynamodb, port) = dynamodb(dir).await?;
        let dynamodb_at = format!("http://127.0.0.1:{port}");
        let (kms, kms_at) = localstack(dir).await?;
        let key = key(&kms_at).await?;
        Ok(Self { dynamodb, kms, place: Place { dynamodb: dynamodb_at, kms: kms_at, key } })
    }

    /// What both have used until now.
    pub(crate) fn used(&self) -> Result<Used, Failed> {
        let mut sum = Used::default();
        for child in [&self.dynamodb, &self.kms] {
            let one = used(child.id().ok_or("an emulator ended")?)?;
            sum = Used { cpu: sum.cpu + one.cpu, resident: sum.resident + one.resident };
        }
        Ok(sum)
    }
}

/// DynamoDB Local and its port, as it prints it.
async fn dynamodb(dir: &Path) -> Result<(Child, u16), Failed> {
    let home = ensure("dynamodb-local").await?;
    let log = dir.join("dynamodb-local.log");
    let mut child = Command::new("java")
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx1g", "-Djava.library.path=lib"])
        .args(["-cp", "classes:lib/*", "Local"])
        .current_dir(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(&log)?)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("java, 17 or newer, runs DynamoDB Local: {error}"))?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let printed = async {
        while let Some(line) = lines.next_line().await? {
            if let Some(port) = line.strip_prefix("port ") {
                return Ok(port.parse::<u16>()?);
            }
        }
        Err::<_, Failed>("it ended".into())
    };
    let printed = tokio::time::timeout(PATIENCE, printed).await.unwrap_or_else(|_| Err("it does not start".into()));
    let port = printed.map_err(|error| failure("DynamoDB Local", &error, &log))?;
    // What it prints later would else fill its pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, port))
}

/// LocalStack and its endpoint.
async fn localstack(dir: &Path) -> Result<(Child, String), Failed> {
    let python = ensure("localstack").await?;
    let port = TcpListener::bind("[::1]:0")?.local_addr()?.port();
    let log = dir.join("localstack.log");
    let output = File::create(&log)?;
    let mut child = Command::new(python)
        .arg(root().join("tools/localstack/run.py"))
        .arg(port.to_string())
        .arg(dir.join("localstack"))
        .stdin(Stdio::piped())
        .stdout(output.try_clone()?)
        .stderr(output)
        .kill_on_drop(true)
        .spawn()?;
    let began = Instant::now();
    while TcpStream::connect(format!("[::1]:{port}")).await.is_err() {
        if child.try_wait()?.is_some() || began.elapsed() > PATIENCE {
            return Err(failure("LocalStack", &"it does not start".into(), &log));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok((child, format!("http://[::1]:{port}")))
}

/// A new key there; the KMS itself is loaded with this first call.
async fn key(endpoint: &str) -> Result<String, Failed> {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(ANYBODY, ANYBODY, None, None, "bench"))
        .endpoint_url(endpoint)
        .build();
    let made = Client::from_conf(config).create_key().send().await;
    let made = made.map_err(|error| format!("LocalStack makes no key: {error:?}"))?;
    Ok(made.key_metadata.and_then(|key| key.arn).ok_or("LocalStack's key has no ARN")?)
}

fn failure(name: &str, error: &Failed, log: &Path) -> Failed {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    format!("{name}: {error}\n{}", said.trim_end()).into()
}

/// Where `tools/ensure` has put it.
async fn ensure(tool: &str) -> Result<PathBuf, Failed> {
    let ensured = Command::new(root().join("tools/ensure")).arg(tool).stdin(Stdio::null()).output().await?;
    if !ensured.status.success() {
        return Err(format!("{tool} is not there: {}", String::from_utf8_lossy(&ensured.stderr).trim_end()).into());
    }
    Ok(PathBuf::from(String::from_utf8(ensured.stdout)?.trim()))
}

/// The folder of the sources.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
