//! The real server as a child process: everything that it prints is kept, and its memory is read.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    process::{Child, Command, Stdio},
    time::Duration,
};

use ibyok::{
    grpc::pb::{self, tokens_client::TokensClient},
    pki::{Issued, Validity},
};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::needles::Needles;
use crate::harness::{Caller, Home, client_certificate, within};

const BINARY: &str = env!("CARGO_BIN_EXE_ibyok-server");
const LOG: &str = "server.log";

/// A vault that a child process serves; killed when dropped.
pub struct Server {
    pub home: Home,
    pub address: SocketAddr,
    child: Child,
}

impl Server {
    /// A new vault, served with every log line that there is, by a process whose memory this one
    /// can read.
    pub async fn start_readable() -> Self {
        Self::start(readable(BINARY)).await
    }

    /// The same, by a process that has no capability.
    pub async fn start_plain() -> Self {
        Self::start(without_capabilities(BINARY)).await
    }

    async fn start(mut command: Command) -> Self {
        let home = Home::make();
        home.init().await.unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let settings = "
            tls = { cert = 'server.pem', key = 'server.key', client_ca = 'ca.pem' }
            store = { path = 'vault.db' }
            kms = { key_file = 'master.keys' }
            log = { level = 'trace' }";
        let config = home.path().join("server.toml");
        fs::write(&config, format!("listen = '{address}'\n{settings}")).unwrap();
        let log = File::create(home.path().join(LOG)).unwrap();
        let child = command
            .args(["serve", "--config"])
            .arg(config)
            // Whatever a filter is called elsewhere, it opens nothing here.
            .env("RUST_LOG", "trace")
            .env("RUST_BACKTRACE", "full")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self { home, address, child };
        server.until_it_serves().await;
        server
    }

    async fn until_it_serves(&mut self) {
        let certificate = client_certificate(&self.home.authority, "spiffe://ibyok.test/probe", Validity::days(1));
        within("a server that serves", async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    panic!("the server did not start: {status}\n{}", String::from_utf8_lossy(&self.log()));
                }
                let mut health = HealthClient::new(self.channel(&certificate));
                let answer = health.check(HealthCheckRequest::default()).await;
                if answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    pub fn channel(&self, certificate: &Issued) -> Channel {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.home.authority.certificate()))
            .identity(Identity::from_pem(&certificate.certificate, certificate.key.as_str()))
            .domain_name("localhost");
        Endpoint::from_shared(format!("https://{}", self.address)).unwrap().tls_config(tls).unwrap().connect_lazy()
    }

    /// Whoever has a certificate with that identity, and no token.
    pub fn stranger(&self, identity: &str) -> Caller {
        let certificate = client_certificate(&self.home.authority, identity, Validity::days(1));
        Caller::new(self.channel(&certificate), None)
    }

    /// The same, with a token of `org` by exchange.
    pub async fn exchange(&self, identity: &str, org: &str) -> Caller {
        let stranger = self.stranger(identity);
        let request = pb::ExchangeTokenRequest {
            subject: Some(pb::exchange_token_request::Subject::ClientCertificate(true)),
            parent: format!("orgs/{org}"),
            ..Default::default()
        };
        let mut tokens = TokensClient::new(stranger.channel.clone());
        let answer = tokens.exchange_token(request).await.unwrap().into_inner();
        stranger.with_token(answer.access_token.unwrap().text.clone())
    }

    /// What it printed so far.
    pub fn log(&self) -> Vec<u8> {
        fs::read(self.home.path().join(LOG)).unwrap()
    }

    /// The most memory that it ever had, in KiB.
    pub fn peak_kib(&self) -> usize {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.child.id())
    }

    /// Whether it has a connection open, as the system knows.
    pub fn has_connections(&self) -> bool {
        let sockets: Vec<_> = fs::read_dir(self.proc("fd"))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        // /proc/PID/net/tcp has every socket of the machine: state 0A is a listener's, the tenth
        // column the inode.
        let table = fs::read_to_string(self.proc("net/tcp")).unwrap();
        let lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.filter(|line| line[3] != "0A").any(|line| sockets.iter().any(|inode| inode == line[9]))
    }

    /// What of `needles` lies in its memory: each with the place where it lies.
    pub fn memory(&self, needles: &Needles) -> Vec<String> {
        let memory = File::open(self.proc("mem")).unwrap_or_else(|error| unreadable(&error));
        let maps = BufReader::new(File::open(self.proc("maps")).unwrap_or_else(|error| unreadable(&error)));
        let (mut found, mut read) = (Vec::new(), 0);
        for line in maps.lines().map(Result::unwrap) {
            let Some(region) = Region::parse(&line) else { continue };
            region.scan(&memory, needles.longest(), |at, bytes| {
                read += bytes.len();
                let finds = needles.found_in(bytes);
                found.extend(finds.map(|(name, offset)| format!("{name} at {:x} of {line}", at + offset as u64)));
            });
        }
        assert!(read > 1 << 20, "only {read} bytes of the server's memory could be read");
        found
    }

    /// No core file, files for the owner alone, and nobody of the same user may look into it.
    pub fn assert_hardened(&self) {
        let limits = fs::read_to_string(self.proc("limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let core: Vec<_> = core.split_whitespace().collect();
        assert_eq!(core[4..6], ["0", "0"], "{limits}");
        let status = fs::read_to_string(self.proc("status")).unwrap();
        assert!(status.contains("Umask:\t0077"), "{status}");
        if !geteuid().is_root() {
            // What a user may not look at is root's.
            let owners = [self.proc("mem"), "/proc/self/mem".to_owned()].map(|path| fs::metadata(path).unwrap().uid());
            assert_eq!(owners, [0, geteuid().as_raw()], "the server's memory is its user's");
            return;
        }
        // Of root's processes everything is root's: try it, with no privilege more than the server has.
        let is_open = |path: &str| {
            let mut command = without_capabilities("head");
            command.args(["-c", "0", path]).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().unwrap().success()
        };
        let mut other = without_capabilities("sleep").arg("600").spawn().unwrap();
        while !fs::read_to_string(format!("/proc/{}/comm", other.id())).unwrap().starts_with("sleep") {
            std::thread::yield_now();
        }
        let is_other_open = is_open(&format!("/proc/{}/mem", other.id()));
        other.kill().unwrap();
        other.wait().unwrap();
        let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
        assert!(is_other_open || yama.trim() > "0", "an ordinary process is open to its own user, or Yama forbids it");
        assert!(!is_open(&self.proc("mem")), "the server's memory is open to its own user");
    }

    /// Ends it as SIGTERM does, and gives what is left.
    pub async fn terminate(mut self) -> (Home, Vec<u8>) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = within("the end of the server", async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    break status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        let log = self.log();
        assert!(status.success(), "{status}\n{}", String::from_utf8_lossy(&log));
        let parts =
            Home { dir: self.home.dir.clone(), authority: self.home.authority.clone(), clock: self.home.clock.clone() };
        (parts, log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has most likely ended, and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process of this user; root's has none of his capabilities.
fn without_capabilities(program: &str) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--", program]);
    command
}

/// A process whose memory this one can read though it is not dumpable. That takes CAP_SYS_PTRACE in
/// its user namespace: root has it in any, and anybody has it in one that he makes.
fn readable(program: &str) -> Command {
    if geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--", program]);
    command
}

fn unreadable(error: &io::Error) -> ! {
    panic!("the server's memory can't be read ({error}): run this test as root, or where `unshare --user` is allowed")
}

/// A part of a process's memory.
struct Region {
    start: u64,
    end: u64,
}

impl Region {
    /// A line of /proc/PID/maps; None for what can't be read or never changes.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (range, access) = (words.next()?, words.next()?);
        let is_kernels = line.ends_with("[vvar]") || line.ends_with("[vvar_vclock]") || line.ends_with("[vsyscall]");
        if !access.starts_with("rw") || is_kernels {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        Some(Self { start: u64::from_str_radix(start, 16).unwrap(), end: u64::from_str_radix(end, 16).unwrap() })
    }

    /// Hands out its bytes in pieces that overlap by `overlap`.
    fn scan(&self, memory: &File, overlap: usize, mut take: impl FnMut(u64, &[u8])) {
        const PIECE: usize = 1 << 20;
        let mut buffer = vec![0; PIECE + overlap];
        let mut at = self.start;
        while at < self.end {
            let len = usize::try_from(self.end - at).unwrap().min(buffer.len());
            // A page may have gone since the map was read.
            if let Ok(read) = memory.read_at(&mut buffer[..len], at) {
                take(at, &buffer[..read]);
            }
            at += PIECE as u64;
        }
    }
}
