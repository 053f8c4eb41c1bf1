//! The real server as a child process: everything that it prints is kept, and its memory is read.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use ibyok::pki::Validity;
use rustix::process::geteuid;

use super::needles::Needles;
use crate::{
    harness::{Caller, Home, channel, client_certificate},
    process::{Process, Runner, Site},
};

/// Whatever a filter is called elsewhere, it opens nothing here.
const ENVIRONMENT: &[(&str, &str)] = &[("RUST_LOG", "trace"), ("RUST_BACKTRACE", "full")];

/// A vault that a child process serves, with every log line that there is.
pub struct Server {
    pub site: Arc<Site>,
    process: Process,
}

impl Server {
    /// A new vault, served by a process whose memory this one can read.
    pub async fn start_readable() -> Self {
        Self::start(readable()).await
    }

    /// The same, by a process that has no capability.
    pub async fn start_plain() -> Self {
        Self::start(without_capabilities()).await
    }

    /// The vault in `home`, served by a process whose memory this one can read, with these variables.
    pub async fn serve_readable(home: Home, environment: &'static [(&'static str, &'static str)]) -> Self {
        Self::serve(home, readable(), environment).await
    }

    async fn start(words: &[&str]) -> Self {
        let home = Home::make();
        home.init().await.unwrap();
        Self::serve(home, words, ENVIRONMENT).await
    }

    async fn serve(home: Home, words: &[&str], environment: &'static [(&'static str, &'static str)]) -> Self {
        let runner = Runner {
            words: words.iter().map(|&word| word.to_owned()).collect(),
            settings: "log = { level = 'trace' }",
            environment,
            ..Runner::default()
        };
        let site = Arc::new(Site::of(home, runner));
        Self { process: site.serve().await, site }
    }

    /// Where everything of the vault is.
    pub fn path(&self) -> &Path {
        self.site.home.path()
    }

    pub fn address(&self) -> SocketAddr {
        self.site.address
    }

    /// Whoever has a certificate with that identity, and no token.
    pub fn stranger(&self, identity: &str) -> Caller {
        let authority = &self.site.home.authority;
        let certificate = client_certificate(authority, identity, Validity::days(1));
        Caller::new(channel(authority, self.site.address, &certificate), None)
    }

    /// The same, with a token of `org` by exchange.
    pub async fn exchange(&self, identity: &str, org: &str) -> Caller {
        self.stranger(identity).exchange(org).await
    }

    /// The most memory that it ever had, in KiB.
    pub fn peak_kib(&self) -> usize {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.process.pid().as_raw_nonzero())
    }

    /// Whether it has a caller's connection open, as the system knows.
    pub fn has_connections(&self) -> bool {
        let sockets: Vec<_> = fs::read_dir(self.proc("fd"))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        // /proc/PID/net/tcp has every socket of the machine: the second column is its own address, state
        // 0A is a listener's, the tenth column the inode.
        let own = format!(":{:04X}", self.site.address.port());
        let table = fs::read_to_string(self.proc("net/tcp")).unwrap();
        let lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines
            .filter(|line| line[1].ends_with(&own) && line[3] != "0A")
            .any(|line| sockets.iter().any(|inode| inode == line[9]))
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
            let mut command = command(without_capabilities(), "head");
            command.args(["-c", "0", path]).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().unwrap().success()
        };
        let mut other = command(without_capabilities(), "sleep").arg("600").spawn().unwrap();
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

    /// Ends it as SIGTERM does, and gives what it printed.
    pub async fn terminate(self) -> (Arc<Site>, Vec<u8>) {
        let status = self.process.terminate().await;
        assert!(status.success(), "{status}\n{}", self.site.log());
        let log = self.site.whole_log().into_bytes();
        (self.site, log)
    }
}

/// What starts a process of this user; root's has none of his capabilities.
fn without_capabilities() -> &'static [&'static str] {
    if geteuid().is_root() {
        &["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]
    } else {
        &[]
    }
}

/// What starts a process whose memory this one can read though it is not dumpable. That takes
/// CAP_SYS_PTRACE in its user namespace: root has it in any, and anybody has it in one that he makes.
fn readable() -> &'static [&'static str] {
    if geteuid().is_root() { &[] } else { &["unshare", "--user", "--map-root-user", "--"] }
}

fn command(words: &[&str], program: &str) -> Command {
    let mut words = words.iter().copied().chain([program]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
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
