//! The server as a process of its own, which can be killed.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::harness::{ADMIN, Caller, Home, client_certificate};
use ibyok::pki::{Issued, Validity};

const CONFIG: &str = "server.toml";
const LOG: &str = "server.log";

/// A vault's directory, and the address and settings with which processes serve it.
pub struct Site {
    pub home: Home,
    address: SocketAddr,
    certificate: Issued,
}

impl Site {
    /// A new vault, whose organization and administrator are the harness's.
    pub async fn make() -> Self {
        let home = Home::make();
        home.init().await.unwrap();
        let certificate = client_certificate(&home.authority, ADMIN, Validity::days(1));
        let address = free_address();
        let settings = "
            tls = { cert = 'server.pem', key = 'server.key', client_ca = 'ca.pem' }
            store = { path = 'vault.db' }
            kms = { key_file = 'master.keys' }
            limits = { token_rate = 100000, org_rate = 100000, certificate_rate = 100000 }";
        fs::write(home.path().join(CONFIG), format!("listen = '{address}'\n{settings}")).unwrap();
        Self { home, address, certificate }
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

    fn spawn(&self) -> Child {
        let log = File::create(self.home.path().join(LOG)).unwrap();
        Command::new(env!("CARGO_BIN_EXE_ibyok-server"))
            .args(["serve", "--config"])
            .arg(self.home.path().join(CONFIG))
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
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.home.authority.certificate()))
            .identity(Identity::from_pem(&self.certificate.certificate, self.certificate.key.as_str()))
            .domain_name("localhost");
        Endpoint::from_shared(format!("https://{}", self.address)).unwrap().tls_config(tls).unwrap().connect_lazy()
    }

    /// What the last process logged, for a failing test.
    fn log(&self) -> String {
        let mut text = String::from("the server's log:\n");
        let log = fs::read_to_string(self.home.path().join(LOG)).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(50)) {
            writeln!(text, "  {line}").unwrap();
        }
        text
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

    /// SIGTERM: the process ends when it is done.
    pub async fn terminate(mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        let mut child = std::mem::replace(&mut self.child, Command::new("true").spawn().unwrap());
        tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap()
    }

    /// The exit status of one that ends before.
    async fn until_it_serves(&mut self) -> Result<(), ExitStatus> {
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
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has most likely ended, and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of this machine that nobody listens on now.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
