//! The server: installed by `tools/ensure`, started by the first who asks, gone with this process
//! however it ends, for it ends with its standard input. Each test has a table of its own.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aws_config::{SdkConfig, timeout::TimeoutConfig};
use aws_sdk_dynamodb::Client;
use ibyok::{
    aws::{Settings, sdk_config},
    domain::clock::{Clock, SystemClock, SystemEntropy},
    store::dynamodb::{DynamoStore, TableSettings},
};

use crate::localstack;

pub(crate) const REGION: &str = "eu-central-1";

struct Server {
    port: u16,
    /// Its standard input, which ends it, ends with this process.
    _child: Child,
}

/// Where it listens.
pub(crate) fn port() -> u16 {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(start).port
}

pub(crate) fn endpoint() -> String {
    format!("http://127.0.0.1:{}", port())
}

/// A name that no other test's table has.
pub(crate) fn name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("it-{}", COUNT.fetch_add(1, Ordering::SeqCst))
}

async fn sdk(endpoint: String) -> SdkConfig {
    let settings = Settings { region: Some(REGION.to_owned()), endpoint: Some(endpoint), ..Settings::default() };
    localstack::keys().of(sdk_config(&settings).await)
}

/// What somebody has who does with the tables what he likes, and has time.
pub(crate) async fn client() -> Client {
    let sdk = sdk(endpoint()).await.into_builder().timeout_config(TimeoutConfig::disabled()).build();
    Client::new(&sdk)
}

/// The table `name`, seen through `endpoint`; made or not.
pub(crate) async fn store(name: &str, endpoint: String) -> DynamoStore {
    store_by(name, endpoint, Arc::new(SystemClock)).await
}

/// The same, by that clock.
pub(crate) async fn store_by(name: &str, endpoint: String, clock: Arc<dyn Clock>) -> DynamoStore {
    store_of(TableSettings { name: name.to_owned(), kms_key: None }, endpoint, clock).await
}

/// Any table, made or not.
pub(crate) async fn store_of(table: TableSettings, endpoint: String, clock: Arc<dyn Clock>) -> DynamoStore {
    DynamoStore::new(&sdk(endpoint).await, table, clock, Arc::new(SystemEntropy))
}

/// A new table, and its name.
pub(crate) async fn table() -> (DynamoStore, String) {
    let name = name();
    (make(&name).await, name)
}

/// The table `name`; what is there stays.
pub(crate) async fn make(name: &str) -> DynamoStore {
    let store = store(name, endpoint()).await;
    store.create(SystemClock.deadline(Duration::from_secs(600))).await.unwrap();
    store
}

fn start() -> Server {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ensured = Command::new(root.join("tools/ensure")).arg("dynamodb-local").output().unwrap();
    let complaint = String::from_utf8_lossy(&ensured.stderr);
    assert!(ensured.status.success(), "DynamoDB Local could not be installed: {complaint}");
    let home = PathBuf::from(String::from_utf8(ensured.stdout).unwrap().trim());
    let scratch = env!("CARGO_TARGET_TMPDIR");
    let log = Path::new(scratch).join("dynamodb-local.log");
    let mut child = Command::new("java")
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx1g", "-Djava.library.path=lib"])
        // It leaves a library there each time.
        .arg(format!("-Djava.io.tmpdir={scratch}"))
        .args(["-cp", "classes:lib/*", "Local"])
        .current_dir(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .expect("java, 17 or newer, runs DynamoDB Local");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let port = lines.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix("port ")?.parse().ok());
    let port = port.unwrap_or_else(|| panic!("DynamoDB Local did not start: see {}", log.display()));
    // What it prints later would else fill its pipe.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    Server { port, _child: child }
}
