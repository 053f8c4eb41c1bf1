//! A vault of one test's own, and runs of `ibyok` against it.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

/// Provider keys that go in; all but their first and last characters must never come out, except by
/// `keys get`.
pub(crate) const CANARY: &str = "sk-proj-CaNaRyT3BlbkFJa7f1d09e5b2c4838a6e0CaNaRyQ1w2E3r4";
pub(crate) const NEW_CANARY: &str = "sk-proj-CaNaRyT3BlbkFJ5c8e2b7d9f104a3e6bCaNaRyZ9y8X7v6";
const CANARY_CORES: [&str; 3] = ["FJa7f1d09e5b2c4838a6e0C", "FJ5c8e2b7d9f104a3e6bC", "T3BlbkFJ0f9e8d7c"];

/// One of many keys, of a shape that is OpenAI's for sure.
pub(crate) fn canary(n: usize) -> String {
    format!("sk-proj-CaNaRy{n:014}T3BlbkFJ0f9e8d7c6b5a49382716")
}

/// `ibyok-server dev` in a directory of its own.
pub(crate) struct Vault {
    directory: Arc<TempDir>,
    server: Child,
    environment: Vec<(String, String)>,
}

impl Vault {
    /// Serving once this returns: env.sh is written last.
    pub(crate) fn start() -> Self {
        Self::serve(tempfile::tempdir().unwrap())
    }

    /// The same vault again, after its server was killed and `change` was made to its files.
    pub(crate) fn restarted(mut self, change: impl FnOnce(&Self)) -> Self {
        self.end();
        change(&self);
        fs::remove_file(self.path("env.sh")).unwrap();
        Self::serve(Arc::clone(&self.directory))
    }

    fn serve(directory: impl Into<Arc<TempDir>>) -> Self {
        let directory = directory.into();
        let dev = directory.path().join("dev");
        let log = directory.path().join("server.log");
        let program = Path::new(env!("CARGO_BIN_EXE_ibyok")).with_file_name("ibyok-server");
        assert!(program.exists(), "build the server first: cargo build -p ibyok, or run cargo test --workspace");
        let mut server = Command::new(program)
            .args(["dev", "--listen", "127.0.0.1:0", "--dir"])
            .arg(&dev)
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .stderr(File::options().append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let script = dev.join("env.sh");
        while !script.exists() {
            if let Some(status) = server.try_wait().unwrap() {
                panic!("the server ended with {status}:\n{}", fs::read_to_string(&log).unwrap());
            }
            thread::sleep(Duration::from_millis(20));
        }
        let environment = fs::read_to_string(script).unwrap().lines().filter_map(export).collect();
        Self { directory, server, environment }
    }

    /// Writes a file beside the vault's own; where it is.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// `host:port`
    pub(crate) fn address(&self) -> &str {
        &self.environment.iter().find(|(name, _)| name == "IBYOK_ADDR").unwrap().1
    }

    /// A file beside the vault's own.
    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join("dev").join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, "")
    }

    pub(crate) fn run_as_admin(&self, arguments: &[&str]) -> Ran {
        let token = self.path("admin-token");
        self.run(&[arguments, &["--token-file", &token]].concat())
    }

    /// With `input` on standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        let mut child = self.command(arguments).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Whoever refuses its arguments does not read.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        self.ended(arguments, child)
    }

    fn ended(&self, arguments: &[&str], child: Child) -> Ran {
        let output = child.wait_with_output().unwrap();
        let ran = Ran {
            command: arguments.join(" "),
            code: output.status.code().unwrap_or(-1),
            signal: output.status.signal(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        ran.holds_no_secret(arguments);
        ran
    }

    /// A run that goes on; it ends with the value.
    pub(crate) fn follow(&self, arguments: &[&str]) -> Follower {
        let mut child = self.command(arguments).stdin(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Follower { child, lines }
    }

    /// Once it wrote a line it gets `signal`.
    pub(crate) fn signalled(&self, arguments: &[&str], signal: Signal) -> Ran {
        let mut child = self.command(arguments).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = Vec::new();
        let stdout = child.stdout.as_mut().unwrap();
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "it ended before it wrote a line");
            line.push(byte[0]);
        }
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        self.ended(arguments, child)
    }

    fn end(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ibyok"));
        command.args(arguments).env_clear().envs(self.environment.iter().cloned()).stdout(Stdio::piped());
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.end();
    }
}

/// `export NAME=value`, quoted or not.
fn export(line: &str) -> Option<(String, String)> {
    let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
    Some((name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
}

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Ran {
    command: String,
    code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "{self:?}");
        self
    }
    #[track_caller]
    pub(crate) fn warns(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "{self:?}");
        self
    }
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn holds_no_secret(&self, arguments: &[&str]) {
        let is_get = arguments.starts_with(&["keys", "get"]);
        let is_token = arguments.starts_with(&["tokens", "issue"]);
        let all = |is_shown| if is_shown { self.stderr.clone() } else { format!("{}{}", self.stdout, self.stderr) };
        for core in CANARY_CORES {
            assert!(!all(is_get).contains(core), "`{}` shows a provider key", self.command);
        }
        assert!(!all(is_token).contains("eyJ"), "`{}` shows a token", self.command);
    }
}

/// A run that goes on.
pub(crate) struct Follower {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Follower {
    /// The next line that it writes.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
