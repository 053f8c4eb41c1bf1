//! The vault that is measured: made by `ibyok-server dev`, served by `ibyok-server serve` with
//! limits that no caller of a benchmark meets, and filled through its front door.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ibyok_client::pb;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::{
    Failed,
    load::{Target, key_id, made_up},
    process::Server,
    report::say,
};

/// How many keys are stored at a time.
const WRITERS: usize = 64;

/// A vault on disk.
#[derive(Debug)]
pub(crate) struct Vault {
    /// Its files.
    pub(crate) dir: PathBuf,
}

impl Vault {
    /// Makes the vault in `dir`, or takes the one that is there, and writes its settings.
    pub(crate) async fn prepare(program: &Path, dir: &Path) -> Result<Self, Failed> {
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
        let settings = "tls = { cert = \"server.pem\", key = \"server.key\", client_ca = \"ca.pem\" }\n\
             store = { path = \"vault.db\" }\nkms = { key_file = \"master.keys\" }\nlog = { level = \"warn\" }\n\
             [limits]\ntoken_rate = 1000000\norg_rate = 1000000\ncertificate_rate = 1000000\n";
        fs::write(dir.join("bench.toml"), settings)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// How its server on `port` is reached.
    pub(crate) fn target(&self, port: u16) -> Result<Target, Failed> {
        Target::new(&self.dir, port, &fs::read_to_string(self.dir.join("token"))?)
    }

    /// Has `program` serve it on `port`.
    pub(crate) async fn serve(&self, program: &Path, port: u16) -> Result<Server, Failed> {
        let settings = self.dir.join("bench.toml");
        let text = fs::read_to_string(&settings)?;
        let rest: Vec<_> = text.lines().filter(|line| !line.starts_with("listen = ")).collect();
        fs::write(&settings, format!("listen = \"127.0.0.1:{port}\"\n{}\n", rest.join("\n")))?;
        let settings = settings.to_str().ok_or("--dir: no text")?;
        Server::start(program, &["serve", "--config", settings], &self.target(port)?).await
    }

    /// Stores what is missing of `keys` keys.
    pub(crate) async fn fill(&self, target: &Target, keys: usize) -> Result<(), Failed> {
        let mark = self.dir.join("stored");
        let stored: usize = fs::read_to_string(&mark).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let next = Arc::new(AtomicUsize::new(stored));
        let mut tasks = Vec::new();
        for _ in 0..WRITERS {
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
