//! Where the server finds its credentials, as a process with an environment of its own.

use std::{
    fs,
    process::Command,
    sync::{Arc, Mutex},
};

use ibyok::domain::secret::KmsKeyId;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{
    harness::{Home, KMS_SETTINGS, Place},
    localstack::{self, Keys, REGION},
    process::{Runner, Site},
};

/// Nothing of this machine's own is looked at.
const WITHOUT_CREDENTIALS: &[(&str, &str)] = &[
    ("AWS_EC2_METADATA_DISABLED", "true"),
    ("AWS_CONFIG_FILE", "/dev/null"),
    ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
];
const WITH_CREDENTIALS: &[(&str, &str)] =
    &[("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_EC2_METADATA_DISABLED", "true")];
const NO_CREDENTIALS: &str = "kms.kind: there are no good AWS credentials: ";

/// As everywhere here, but in a file: a table would want credentials, too.
fn home(key: &KmsKeyId, endpoint: &str) -> Home {
    super::home(key, endpoint).moved(Place::File("vault.db"))
}

/// What `ibyok-server check` says of a vault whose primary is a good key, with these variables.
async fn check(environment: &[(&str, &str)]) -> String {
    let key = Keys::of(REGION).await.make().await;
    check_of(home(&key, localstack::endpoint().await), environment).await
}

async fn check_of(home: Home, environment: &[(&str, &str)]) -> String {
    let site = Site::of(home, Runner::default());
    let mut command = Command::new(env!("CARGO_BIN_EXE_ibyok-server"));
    command.args(["check", "--config", "server.toml"]).current_dir(site.home.path());
    command.envs(WITHOUT_CREDENTIALS.iter().chain(environment).copied());
    // The parts that it calls are on this runtime.
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    assert_eq!(output.status.success(), said == "OK\n", "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_finds_its_credentials_in_its_environment_or_says_that_there_are_none() {
    assert_eq!(check(WITH_CREDENTIALS).await, "OK\n");
    let said = check(&[]).await;
    let line = format!("{NO_CREDENTIALS}Environment: environment variable not set; Profile: ");
    assert!(said.contains(&line) && said.contains("; EcsContainer: ECS provider not configured"), "{said}");
    assert!(said.contains("; Ec2InstanceMetadata: "), "to its end: {said}");

    let key = Keys::of(REGION).await.make().await;
    for (environment, line) in [(WITH_CREDENTIALS, None), (WITHOUT_CREDENTIALS, Some(line))] {
        let home = home(&key, localstack::endpoint().await);
        home.init().await.unwrap();
        let site = Arc::new(Site::of(home, Runner { environment, ..Runner::default() }));
        match line {
            None => assert!(site.serve().await.terminate().await.success()),
            Some(line) => {
                let (status, log) = site.fails().await;
                assert!(status.code() == Some(1) && log.contains(&line), "{log}");
            }
        }
    }
}

/// An agent such as EKS Pod Identity's: it answers who brings that token; the tokens that were brought.
async fn agent(token: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/v1/credentials", listener.local_addr().unwrap());
    let brought = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&brought);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let one = token_of(stream, token).await;
            noted.lock().unwrap().extend(one);
        }
    });
    (address, brought)
}

/// Answers one request: credentials, if it brings `token`. What it brought.
async fn token_of(mut stream: TcpStream, token: &str) -> Option<String> {
    let mut lines = BufReader::new(&mut stream).lines();
    let (mut brought, mut line) = (None, lines.next_line().await.ok()??);
    assert_eq!(line, "GET /v1/credentials HTTP/1.1");
    while !line.is_empty() {
        brought = line.strip_prefix("authorization: ").map(str::to_owned).or(brought);
        line = lines.next_line().await.ok()??;
    }
    let (status, body) = if brought.as_deref() == Some(token) {
        let keys = r#""AccessKeyId": "test", "SecretAccessKey": "test", "Token": "session""#;
        (200, format!(r#"{{ {keys}, "Expiration": "2100-01-01T00:00:00Z" }}"#))
    } else {
        (401, "{}".to_owned())
    };
    let head = format!(
        "HTTP/1.1 {status} .\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all([head, body].concat().as_bytes()).await.ok()?;
    brought
}

#[tokio::test(flavor = "multi_thread")]
async fn eks_pod_identity_is_asked_with_the_token_of_its_file() {
    let (agent, brought) = agent("pod-token").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let environment = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.path().to_str().unwrap()),
    ];
    fs::write(file.path(), "pod-token").unwrap();
    assert_eq!(check(&environment).await, "OK\n");
    assert_eq!(std::mem::take(&mut *brought.lock().unwrap()), ["pod-token"], "once for all calls");
    fs::write(file.path(), "another").unwrap();
    let said = check(&environment).await;
    assert!(said.contains(NO_CREDENTIALS) && said.contains("StatusCode(401)"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_identity_takes_its_role_by_sts_and_one_that_is_silent_is_told() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "web-identity-token").unwrap();
    // It takes connections, and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    let check_with = async |sts: &str| {
        let token = file.path().to_str().unwrap();
        let role = ("AWS_ROLE_ARN", "arn:aws:iam::000000000000:role/vault");
        let token = ("AWS_WEB_IDENTITY_TOKEN_FILE", token);
        check(&[role, token, ("AWS_REGION", REGION), ("AWS_ENDPOINT_URL_STS", sts)]).await
    };
    assert_eq!(check_with(localstack::sts().await).await, "OK\n");
    let said = check_with(&silent).await;
    let line = format!("{NO_CREDENTIALS}credentials provider timed out after 2 seconds\n");
    assert!(said.contains(&line), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_may_name_a_program_that_gives_credentials() {
    let (config, keys) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    fs::write(keys.path(), r#"{ "Version": 1, "AccessKeyId": "test", "SecretAccessKey": "test" }"#).unwrap();
    let profile = format!("[profile vault]\ncredential_process = cat {}\n", keys.path().display());
    fs::write(config.path(), profile).unwrap();
    let environment = [("AWS_CONFIG_FILE", config.path().to_str().unwrap()), ("AWS_PROFILE", "vault")];
    assert_eq!(check(&environment).await, "OK\n");
    fs::write(keys.path(), "{}").unwrap();
    let said = check(&environment).await;
    assert!(said.contains(NO_CREDENTIALS) && said.contains("external process"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_of_awss_own_variable_is_called_where_no_setting_names_one() {
    let key = Keys::of(REGION).await.make().await;
    let home = Home::sqlite();
    let settings = format!("kms = {{ kind = 'aws', key_id = '{}' }}", key.0);
    fs::write(home.path().join(KMS_SETTINGS), settings).unwrap();
    let endpoint = localstack::endpoint().await;
    let environment = [WITH_CREDENTIALS, &[("AWS_ENDPOINT_URL_KMS", endpoint)]].concat();
    assert_eq!(check_of(home, &environment).await, "OK\n");
}
