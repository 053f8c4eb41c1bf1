//! `ibyok-server`, the program: what it answers, what it makes, and what it keeps from others.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use ibyok::domain::clock::SystemEntropy;
use ibyok::kms::local::LocalKeyWrapper;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::{ADMIN, Home};

fn server() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ibyok-server"));
    command.env_clear();
    command
}

/// `dev` on a free port, and what it said until it was ready.
struct Dev {
    child: Child,
    said: Vec<String>,
}

impl Dev {
    fn start(dir: &Path) -> Self {
        Self::start_as(dir, &mut server())
    }
    fn start_as(dir: &Path, command: &mut Command) -> Self {
        let command = command.args(["dev", "--listen", "127.0.0.1:0", "--dir"]).arg(dir);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            said.push(line.unwrap());
            if said.last().unwrap().contains("env.sh") {
                break;
            }
        }
        Self { child, said }
    }
    fn stop(mut self) -> Vec<String> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "{:?}", self.said);
        self.said
    }
}

#[test]
fn dev_makes_everything_proves_it_and_keeps_it() {
    let home = TempDir::new().unwrap();
    let dir = home.path().join("my vault");
    let said = Dev::start(&dir).stop();
    assert!(said[0].starts_with("stored     orgs/dev/keys/sample"), "{said:?}");
    assert!(said[1].starts_with("retrieved  orgs/dev/keys/sample/versions/1"), "{said:?}");
    assert!(said[2].starts_with("recorded   key.retrieve as event "), "{said:?}");
    assert!(said.iter().any(|line| line.contains(" grpcurl -cacert '")), "{said:?}");

    let kept = ["ca.pem", "server.pem", "server.key", "client.pem", "client.key", "master.keys"];
    let read = || kept.map(|name| fs::read(dir.join(name)).unwrap());
    let before = read();
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.file_name());
    }
    let env = fs::read_to_string(dir.join("env.sh")).unwrap();
    for name in ["IBYOK_ADDR", "IBYOK_TOKEN_FILE", "IBYOK_CACERT", "IBYOK_CLIENT_CERT", "IBYOK_CLIENT_KEY"] {
        assert!(env.contains(&format!("export {name}=")), "{name}");
    }
    let tokens = ["token", "admin-token"].map(|name| fs::read(dir.join(name)).unwrap());

    let again = Dev::start(&dir).stop();
    assert!(again[0].ends_with("(by an earlier start)"), "{again:?}");
    assert_eq!(read(), before);
    for (name, token) in ["token", "admin-token"].into_iter().zip(tokens) {
        assert_ne!(fs::read(dir.join(name)).unwrap(), token, "{name} is made at each start");
    }
}

#[test]
fn no_level_logs_a_secret() {
    let home = TempDir::new().unwrap();
    let (dir, log) = (home.path().join("dev"), home.path().join("log"));
    let level = "trace,h2=trace,hyper=trace,tonic=trace,tower=trace,rustls=trace";
    for format in ["text", "json"] {
        let mut command = server();
        command.env("IBYOK_SERVER_LOG_LEVEL", level).env("IBYOK_SERVER_LOG_FORMAT", format);
        command.stderr(fs::File::create(&log).unwrap());
        let dev = Dev::start_as(&dir, &mut command);
        let env = fs::read_to_string(dir.join("env.sh")).unwrap();
        let address = env.lines().find_map(|line| line.strip_prefix("export IBYOK_ADDR=")).unwrap();
        std::net::TcpStream::connect(address).unwrap().write_all(b"garbage, so that something is logged").unwrap();
        while !fs::read_to_string(&log).unwrap().contains("a handshake failed") {
            std::thread::yield_now();
        }
        dev.stop();
        let logged = fs::read_to_string(&log).unwrap();
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        let master_key = read("master.keys").lines().find(|line| line.len() == 64).unwrap().to_owned();
        let sample = "sk-ibyok-sample-0123456789abcdef";
        let encoded =
            [data_encoding::HEXLOWER.encode(sample.as_bytes()), data_encoding::BASE64.encode(sample.as_bytes())];
        let private = read("client.key").lines().nth(1).unwrap().to_owned();
        for secret in
            [sample, &encoded[0], &encoded[1][..40], &read("token"), &read("admin-token"), &master_key, &private]
        {
            assert!(!logged.contains(secret), "a secret is logged");
        }
        assert!(!logged.contains("Bearer ey"));
    }
}

#[test]
fn the_process_leaves_no_core() {
    let home = TempDir::new().unwrap();
    let dev = Dev::start(home.path());
    let proc = PathBuf::from(format!("/proc/{}", dev.child.id()));
    let limits = fs::read_to_string(proc.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    dev.stop();
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}
fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn settings_are_checked_a_line_for_each_problem() {
    let home = Home::sqlite();
    let file = home.path().join("server.toml");
    let good = "tls = { cert = 'server.pem', key = 'server.key', client_ca = 'ca.pem' }\n\
                store = { path = 'vault.db' }\nkms = { key_file = 'master.keys' }\n";
    fs::write(&file, good).unwrap();
    let check = || {
        let mut command = server();
        command.args(["check", "--config"]).arg(&file);
        command
    };
    let ok = run(&mut check());
    assert_eq!((ok.status.code(), ok.stdout.as_slice()), (Some(0), b"OK\n".as_slice()), "{}", stderr(&ok));
    assert!(!home.path().join("vault.db").exists(), "a check opens no store");

    let wrong = run(check().env("IBYOK_SERVER_LISTEN", "somewhere").env("IBYOK_SERVER_LISTENN", "x"));
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("IBYOK_SERVER_LISTEN: must be an address"), "{}", stderr(&wrong));
    assert!(stderr(&wrong).contains("IBYOK_SERVER_LISTENN: no such setting"), "{}", stderr(&wrong));

    fs::write(home.path().join("server.key"), "no key").unwrap();
    fs::set_permissions(home.path().join("master.keys"), fs::Permissions::from_mode(0o644)).unwrap();
    let wrong = run(check().env("IBYOK_SERVER_LOG_LEVEL", "ibyok=loud"));
    assert_eq!(wrong.status.code(), Some(2));
    for setting in ["tls.key: ", "kms.key_file: ", "log.level: "] {
        assert!(stderr(&wrong).contains(setting), "{setting} {}", stderr(&wrong));
    }
}

#[test]
fn serve_asks_for_init_and_init_happens_once() {
    let home = Home::sqlite();
    let file = home.path().join("server.toml");
    fs::write(
        &file,
        "listen = '127.0.0.1:0'\ntls = { cert = 'server.pem', key = 'server.key', client_ca = 'ca.pem' }\n\
         store = { path = 'vault.db' }\nkms = { key_file = 'other.keys' }\n",
    )
    .unwrap();
    LocalKeyWrapper::create_file(&home.path().join("other.keys"), &SystemEntropy).unwrap();
    let serve = run(server().args(["serve", "--config"]).arg(&file));
    assert_eq!(serve.status.code(), Some(1));
    assert!(stderr(&serve).contains("ibyok-server init --org"), "{}", stderr(&serve));

    let init = |org: &str, identity: &str| {
        run(server().args(["init", "--org", org, "--admin-identity", identity, "--config"]).arg(&file))
    };
    assert_eq!(init("No Org", ADMIN).status.code(), Some(2));
    assert_eq!(init("acme", "not an identity").status.code(), Some(2));
    assert_eq!(init("system", ADMIN).status.code(), Some(1));
    let made = init("acme", ADMIN);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let again = init("acme", ADMIN);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("holds a vault already"), "{}", stderr(&again));
}
