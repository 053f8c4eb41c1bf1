//! What keeps a server, and the commands about its table, from DynamoDB: one line, which names the setting
//! to look at.

use std::{fs, process::Command};

use tokio::net::{TcpListener, TcpSocket};

use super::{
    local,
    proxy::{Fate, Proxy},
};
use crate::{
    harness::{Home, Place},
    localstack,
};

/// What looks at the table when it starts.
const COMMANDS: [&[&str]; 3] = [&["serve"], &["table", "check"], &["check"]];

/// A server's directory and its settings of the store, as they stand in the file.
struct Trial {
    home: Home,
    store: String,
}

impl Trial {
    fn new(store: String) -> Self {
        Self { home: Home::at(Place::table("unused")), store }
    }

    fn of(table: &str, endpoint: &str) -> Self {
        let region = local::REGION;
        Self::new(format!("kind = 'dynamodb', table = '{table}', region = '{region}', endpoint = '{endpoint}'"))
    }

    /// What each of the commands says; none of them comes further.
    async fn lines(&self, environment: &[(&'static str, &str)]) -> Vec<String> {
        let config = self.home.path().join("server.toml");
        let tls = "tls = { cert = 'server.pem', key = 'server.key', client_ca = 'ca.pem' }";
        let rest = format!("{}\n{tls}\nlisten = '127.0.0.1:0'\n", self.home.kms());
        fs::write(&config, format!("store = {{ {} }}\n{rest}", self.store)).unwrap();
        let mut lines = Vec::new();
        for words in COMMANDS {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ibyok-server"));
            command.args(words).arg("--config").arg(&config);
            // Nothing of the machine's own settings of AWS.
            command.env_clear().env("HOME", self.home.path()).env("AWS_EC2_METADATA_DISABLED", "true");
            command.envs(environment.iter().copied());
            let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            let said = String::from_utf8(done.stderr).unwrap();
            assert!(!done.status.success() && done.stdout.is_empty(), "{words:?}: {said}");
            assert_eq!(said.lines().count(), 1, "{words:?}: {said}");
            let line = said.strip_prefix("ibyok-server: ").unwrap_or_else(|| panic!("{words:?}: {said}"));
            lines.push(line.trim_end().to_owned());
        }
        lines
    }

    /// Wants that each of them begins so, and says that somewhere.
    async fn says(&self, environment: &[(&'static str, &str)], begins: &str, has: &str) {
        for line in self.lines(environment).await {
            assert!(line.starts_with(begins) && line.contains(has), "{line}");
        }
    }
}

/// An endpoint where nobody listens, and nobody will while the socket lives.
fn nobody() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = format!("http://{}", socket.local_addr().unwrap());
    (socket, endpoint)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_it_says_so_and_where_it_looked() {
    let (_, table) = local::table().await;
    let proxy = Proxy::start().await;
    let trial = Trial::of(&table, &proxy.endpoint());
    trial.says(&[], "store.kind: there are no good AWS credentials: ", "nvironment").await;
    assert!(proxy.came().is_empty());
}

/// As where a container may not ask its machine.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_do_not_come_are_none() {
    let (_, table) = local::table().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metadata = format!("http://{}", silent.local_addr().unwrap());
    let environment = [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*metadata)];
    let trial = Trial::of(&table, &local::endpoint());
    trial.says(&environment, "store.kind: there are no good AWS credentials: ", "timed out").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_aws_refuses_is_asked_once_and_told_in_its_words() {
    let (_, table) = local::table().await;
    let proxy = Proxy::start().await;
    let trial = Trial::of(&table, &proxy.endpoint());
    let of_credentials = "store.kind: there are no good AWS credentials: ".to_owned();
    let of_table = format!("store.table: table {table} in eu-central-1: ");
    for (name, begins) in [
        ("ExpiredTokenException", &of_credentials),
        ("UnrecognizedClientException", &of_credentials),
        ("InvalidSignatureException", &of_credentials),
        ("AccessDeniedException", &of_table),
        ("ValidationException", &of_table),
    ] {
        proxy.next("DescribeTable", vec![Fate::error(400, name); COMMANDS.len()]);
        let line = format!("AWS answers {name}: the proxy says so");
        trial.says(localstack::ENVIRONMENT, begins, &line).await;
        assert_eq!(proxy.operations(), [const { "DescribeTable" }; COMMANDS.len()], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_region_it_asks_for_one() {
    let trial = Trial::new(format!("kind = 'dynamodb', table = 'ibyok', endpoint = '{}'", local::endpoint()));
    let line = "store.region: needed: neither it, nor AWS_REGION, nor a profile names a region";
    assert_eq!(trial.lines(localstack::ENVIRONMENT).await, [line; COMMANDS.len()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_answers_the_place_is_to_be_looked_at() {
    let (_socket, endpoint) = nobody();
    let said = "table ibyok in eu-central-1: AWS does not answer: ";
    let trial = Trial::of("ibyok", &endpoint);
    trial.says(localstack::ENVIRONMENT, &format!("store.endpoint: {said}"), "refused").await;

    let trial = Trial::new("kind = 'dynamodb', table = 'ibyok', region = 'eu-central-1'".to_owned());
    let environment = [localstack::ENVIRONMENT, &[("AWS_ENDPOINT_URL", &*endpoint)]].concat();
    trial.says(&environment, &format!("store.region: {said}"), "refused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_another_region_there_is_no_such_table() {
    let (_, table) = local::table().await;
    let endpoint = local::endpoint();
    let trial =
        Trial::new(format!("kind = 'dynamodb', table = '{table}', region = 'eu-west-3', endpoint = '{endpoint}'"));
    let begins = format!("store.table: there is no table {table} in eu-west-3: ");
    trial.says(localstack::ENVIRONMENT, &begins, "store.region").await;
}
