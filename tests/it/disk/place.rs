//! A small disk: a tmpfs in a mount namespace of its own, which is there for root and for any user
//! who may make user namespaces, and goes with the process that holds it.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
};

use crate::process::Runner;

pub struct SmallDisk {
    /// Where it is, seen from within its namespace; from without there is an empty directory.
    pub path: PathBuf,
    holder: Child,
    /// The holder lives as long as this is open, however the tests end.
    _life: ChildStdin,
    enter: Vec<String>,
}

impl SmallDisk {
    /// At `path`, a directory that exists, with room for so many KiB; none where nothing may be
    /// mounted. Which it is stands in the output of the tests.
    pub fn make(path: &Path, kib: usize) -> Option<Self> {
        let disk = [Some("--user"), None].into_iter().find_map(|user| Self::mount(path, kib, user));
        let variant = match disk {
            Some(_) => "a small disk was mounted for it",
            None => {
                "NO DISK COULD BE MOUNTED for it; a limit of its files' sizes refuses the server's writes instead. \
                 To mount one, allow user namespaces (kernel.unprivileged_userns_clone, user.max_user_namespaces; \
                 in a container --security-opt seccomp=unconfined), or run the tests with CAP_SYS_ADMIN"
            }
        };
        let thread = std::thread::current();
        // Past what the runner of the tests keeps back of those that pass.
        let line = format!("{}: {variant}\n", thread.name().unwrap_or_default());
        io::stderr().write_all(line.as_bytes()).unwrap();
        disk
    }

    fn mount(path: &Path, kib: usize, user: Option<&str>) -> Option<Self> {
        let script = format!("mount -t tmpfs -o size={kib}k tmpfs '{}' && echo mounted && exec cat", path.display());
        let mut holder = Command::new("unshare")
            .args(user.into_iter().chain(user.map(|_| "--map-root-user")))
            .args(["--mount", "sh", "-c", &script])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take()?).read_line(&mut said).ok()?;
        let life = holder.stdin.take()?;
        if said.trim() != "mounted" {
            drop(life);
            let _ = holder.wait();
            return None;
        }
        let mut enter = vec!["nsenter".to_owned(), format!("--target={}", holder.id()), "--mount".to_owned()];
        enter.extend(user.map(str::to_owned));
        enter.extend(user.map(|_| "--preserve-credentials".to_owned()));
        Some(Self { path: path.to_owned(), holder, _life: life, enter })
    }

    /// What runs a server that sees the disk.
    pub fn runner(&self) -> Runner {
        Runner { words: self.enter.clone(), ..Runner::default() }
    }

    /// The same, and logs to it, too.
    pub fn logging_runner(&self) -> Runner {
        // From without it is seen as the holder sees it.
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        let log = root.join(self.path.strip_prefix("/").unwrap()).join("server.log");
        Runner { log: Some(log), ..self.runner() }
    }

    fn run(&self, script: &str) -> Output {
        let mut command = Command::new(&self.enter[0]);
        command.args(&self.enter[1..]).args(["sh", "-c", script]).current_dir("/");
        // What it says is compared.
        command.env("LC_ALL", "C").env("DISK", &self.path).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that sees the disk as `$DISK`, and wants that it succeeds.
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Takes every byte that is left.
    pub fn fill(&self) {
        let output = self.run("cat /dev/zero >>\"$DISK\"/filler");
        assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
    }

    /// Gives it back.
    pub fn free(&self) {
        self.sh("rm \"$DISK\"/filler");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
