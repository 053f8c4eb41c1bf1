//! The vault that is measured: served by `ibyok-server serve` with limits that no caller of a benchmark
//! meets, and filled through its front door. The embedded one is made by `ibyok-server dev`; one on AWS
//! takes the certificates of such a vault, and is made by `table create` and `init`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ibyok_client::pb::{self, exchange_token_request::Subject, tokens_client::TokensClient};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::{
    Failed,
    emulators::{ENVIRONMENT, Place},
    load::{Target, key_id, made_up},
    process::Server,
    report::say,
};

/// How many keys are stored at a time.
const WRITERS: usize = 64;
/// The same on emulators, which are slower than a call may be if many come at once.
const WRITERS_TO_EMULATORS: usize = 8;

/// What every server of a benchmark is told.
const SETTINGS: &str = "tls = { cert = \"server.pem\", key = \"server.key\", client_ca = \"ca.pem\" }\n\
     log = { level = \"warn\" }\n\
     limits = { token_rate = 1000000, org_rate = 1000000, certificate_rate = 1000000 }\n";
/// The engines of the embedded vault.
const EMBEDDED: &str = "store = { path = \"vault.db\" }\nkms = { key_file = \"master.keys\" }\n";

/// A vault.
#[derive(Debug)]
pub(crate) struct Vault {
    /// Its files.
    pub(crate) dir: PathBuf,
    /// Where its table and KMS key are; None: in the files.
    pub(crate) place: Option<Place>,
}

impl Vault {
    /// Makes the vault in `dir`, or takes the one that is there; or makes one in `place`, which is new.
    pub(crate) async fn prepare(program: &Path, dir: &Path, place: Option<Place>) -> Result<Self, Failed> {
        dev(program, dir).await?;
        let vault = Self { dir: dir.to_owned(), place };
        if vault.place.is_some() {
            let settings = vault.write_settings(0)?;
            run(program, &["table", "create", "--config", &settings]).await?;
            let admin = ["--org", "dev", "--admin-identity", "spiffe://ibyok.dev/dev"];
            run(program, &[&["init", "--config", settings.as_str()], admin.as_slice()].concat()).await?;
        }
        Ok(vault)
    }

    /// Replaces the token of `dev` by one of this vault, if it is another one.
    pub(crate) async fn exchange(&self, target: &Target) -> Result<(), Failed> {
        if self.place.is_none() {
            return Ok(());
        }
        let request = pb::ExchangeTokenRequest {
            subject: Some(Subject::ClientCertificate(true)),
            parent: "orgs/dev".to_owned(),
            ttl: Some(prost_types::Duration { seconds: 12 * 3_600, nanos: 0 }),
            ..Default::default()
        };
        let answer = TokensClient::new(target.connect().await?.channel).exchange_token(request).await?;
        let token = answer.into_inner().access_token.ok_or("ExchangeToken answered no token")?;
        Ok(fs::write(self.dir.join("token"), &token.text)?)
    }

    /// How its server on `port` is reached.
    pub(crate) fn target(&self, port: u16) -> Result<Target, Failed> {
        Target::new(&self.dir, port, &fs::read_to_string(self.dir.join("token"))?)
    }

    /// Has `program` serve it on `port`.
    pub(crate) async fn serve(&self, program: &Path, port: u16) -> Result<Server, Failed> {
        let settings = self.write_settings(port)?;
        let arguments = ["serve", "--config", &settings];
        let server = Server::start(program, &arguments, self.environment(), &self.target(port)?).await?;
        // A new vault's janitor goes through the days before it, which takes seconds where each look is a request.
        if self.place.is_some() {
            server.settle().await?;
        }
        Ok(server)
    }

    /// What its servers find in their environment, beside what is there.
    fn environment(&self) -> &[(&str, &str)] {
        if self.place.is_some() { &ENVIRONMENT } else { &[] }
    }

    fn write_settings(&self, port: u16) -> Result<String, Failed> {
        let path = self.dir.join("bench.toml");
        let engines = self.place.as_ref().map_or_else(|| EMBEDDED.to_owned(), Place::settings);
        fs::write(&path, format!("listen = \"127.0.0.1:{port}\"\n{engines}{SETTINGS}"))?;
        Ok(path.to_str().ok_or("--dir: no text")?.to_owned())
    }

    /// Stores what is missing of `keys` keys.
    pub(crate) async fn fill(&self, target: &Target, keys: usize) -> Result<(), Failed> {
        let mark = self.dir.join("stored");
        let stored: usize = fs::read_to_string(&mark).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let next = Arc::new(AtomicUsize::new(stored));
        let mut tasks = Vec::new();
        let writers = if self.place.is_some() { WRITERS_TO_EMULATORS } else { WRITERS };
        for _ in 0..writers {
            let (mut caller, next) = (target.connect().await?, Arc::clone(&next));
            tasks.push(tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= keys {
                        return Ok::<_, Failed>(());
                    }
                    let request = pb::CreateKeyRequest {
                        key_id: key_id(number),
                        secret: Some(pb::SecretValue { text: made_up(number as u64) }),
                        provider: "openai".to_owned(),
                        ..Default::default()
                    };
                    let request = caller.with_token(request);
                    match caller.vault.create_key(request).await {
                        Err(status) if status.code() != tonic::Code::AlreadyExists => return Err(status.into()),
                        _ => {}
                    }
                    if number % 50_000 == 0 && number > 0 {
                        say(&format!("  {number} keys stored"));
                    }
                }
            }));
        }
        for task in tasks {
            task.await??;
        }
        Ok(fs::write(mark, keys.max(stored).to_string())?)
    }
}

/// Has `ibyok-server dev` make what is missing in `dir`.
async fn dev(program: &Path, dir: &Path) -> Result<(), Failed> {
    let dir_text = dir.to_str().ok_or("--dir: no text")?;
    let mut child = Command::new(program)
        .args(["dev", "--dir", dir_text, "--listen", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let out = child.stdout.take().ok_or("no output")?;
    let mut lines = BufReader::new(out).lines();
    while let Some(line) = lines.next_line().await? {
        if line.starts_with("The vault serves") {
            break;
        }
    }
    let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
    rustix::process::kill_process(pid.ok_or("ibyok-server dev ended")?, rustix::process::Signal::TERM)?;
    child.wait().await?;
    Ok(())
}

/// Runs a command of `program` on AWS to its end; what it says is told if it fails.
async fn run(program: &Path, arguments: &[&str]) -> Result<(), Failed> {
    let mut command = Command::new(program);
    let ended = command.args(arguments).envs(ENVIRONMENT).stdin(Stdio::null()).output().await?;
    if ended.status.success() {
        return Ok(());
    }
    let said = [ended.stdout, ended.stderr].concat();
    Err(format!("{} {}: {}", program.display(), arguments.join(" "), String::from_utf8_lossy(&said).trim_end()).into())
}
