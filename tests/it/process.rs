//! The server as a process of its own, which can be killed, and whose memory and log can be read.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::harness::{self, ADMIN, Caller, Home, client_certificate, within};
use ibyok::pki::{Issued, Validity};

/// What its files are called.
const NAME: &str = "server";

/// A vault's directory, and the address and settings with which processes serve it.
pub struct Site {
    pub home: Home,
    pub address: SocketAddr,
    /// What its files are called.
    name: String,
    certificate: Issued,
    runner: Runner,
}

/// How a server is started.
#[derive(Default)]
pub struct Runner {
    /// A program and its arguments, to which the server's own are added; nothing is the server itself.
    pub words: Vec<String>,
    /// The file that it logs to, where that is not one in the vault's directory.
    pub log: Option<PathBuf>,
    /// TOML that goes behind the settings.
    pub settings: &'static str,
    /// Variables that are set for it.
    pub environment: &'static [(&'static str, &'static str)],
}

impl Site {
    /// A new vault, whose organization and administrator are the harness's.
    pub async fn make() -> Self {
        let home = Home::make();
        home.init().await.unwrap();
        Self::of(home, Runner::default())
    }

    /// That of a vault that was made already.
    pub fn of(home: Home, runner: Runner) -> Self {
        Self::one_of(home, NAME, runner)
    }

    /// The same for one of several servers, each with its `name`.
    pub fn one_of(home: Home, name: &str, runner: Runner) -> Self {
        let certificate = client_certificate(&home.authority, ADMIN, Validity::days(1));
        let address = free_address();
        let settings = format!(
            "
            tls = {{ cert = 'server.pem', key = 'server.key', client_ca = 'ca.pem' }}
            {}
            {}
            limits = {{ token_rate = 100000, org_rate = 100000, certificate_rate = 100000, address_rate = 100000 }}
            {}",
            home.place().setting(),
            home.kms(),
            runner.settings
        );
        let site = Self { home, address, name: name.to_owned(), certificate, runner };
        fs::write(site.config_path(), format!("listen = '{address}'\n{settings}")).unwrap();
        site
    }

    /// A process that serves it, once it does.
    pub async fn serve(self: &Arc<Self>) -> Process {
        loop {
            let mut process = Process { child: self.spawn(), site: Arc::clone(self) };
            match process.until_it_serves().await {
                Ok(()) => return process,
                // Between two processes anybody can have the port for a while.
                Err(_) if self.log().contains("in use") => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(status) => panic!("the server did not start: {status}\n{}", self.log()),
            }
        }
    }

    /// One that does not start: how it ended, and what it said.
    pub async fn fails(self: &Arc<Self>) -> (ExitStatus, String) {
        let mut process = Process { child: self.spawn(), site: Arc::clone(self) };
        (process.ended().await, self.log())
    }

    fn spawn(&self) -> Child {
        let log = File::create(self.log_path()).unwrap();
        let server = env!("CARGO_BIN_EXE_ibyok-server").to_owned();
        let mut words = self.runner.words.iter().chain([&server]);
        Command::new(words.next().unwrap())
            .args(words)
            .args(["serve", "--config"])
            .arg(self.config_path())
            .envs(self.home.place().environment())
            .envs(self.runner.environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// A new connection of the administrator, with that token.
    pub fn caller(&self, token: Option<String>) -> Caller {
        Caller::new(self.channel(), token)
    }

    fn channel(&self) -> Channel {
        harness::channel(&self.home.authority, self.address, &self.certificate)
    }

    fn config_path(&self) -> PathBuf {
        self.home.path().join(format!("{}.toml", self.name))
    }

    fn log_path(&self) -> PathBuf {
        self.runner.log.clone().unwrap_or_else(|| self.home.path().join(format!("{}.log", self.name)))
    }

    /// What the last process logged, for a failing test.
    pub fn log(&self) -> String {
        let mut text = String::from("the server's log:\n");
        let log = self.whole_log();
        let lines: Vec<_> = log.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(50)) {
            writeln!(text, "  {line}").unwrap();
        }
        text
    }

    /// All that the last process logged.
    pub fn whole_log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap()
    }
}

/// A running server; killed when dropped.
pub struct Process {
    child: Child,
    site: Arc<Site>,
}

impl Process {
    /// SIGKILL: the process has no say.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "the server ended before it was killed: {status}\n{}", self.site.log());
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether it runs still.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGTERM: the process ends when it is done.
    pub async fn terminate(mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        self.ended().await
    }

    async fn ended(&mut self) -> ExitStatus {
        within("the end of the server", async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// The exit status of one that ends before.
    pub async fn until_it_serves(&mut self) -> Result<(), ExitStatus> {
        within("a server that serves", async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return Err(status);
                }
                let mut health = HealthClient::new(self.site.channel());
                let answer = health.check(HealthCheckRequest::default()).await;
                if answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has most likely ended, and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of this machine that nobody listens on now, nor soon: Linux gives out ports from 32768 on by
/// itself (`ip_local_port_range`), to clients and to listeners that ask for any, so this is one of those
/// below, and another one for each process of tests.
fn free_address() -> SocketAddr {
    const PORTS: std::ops::Range<u16> = 12_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = std::process::id().wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(n % u32::from(PORTS.end - PORTS.start)).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
