//! What happens on a terminal, with a pseudo-terminal in its place: questions, colors, widths.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    process::{Child, Stdio},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::harness::{CANARY, NEW_CANARY, Vault};

/// A run of `ibyok` with somebody before it.
struct Terminal {
    ours: File,
    child: Child,
    /// What was shown so far.
    shown: String,
}

impl Terminal {
    fn run(vault: &Vault, arguments: &[&str], columns: u16, environment: &[(&str, &str)]) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        tcsetwinsize(&ours, Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let path = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        let open = || Stdio::from(OpenOptions::new().read(true).write(true).open(&path).unwrap());
        let mut command = vault.command(arguments);
        command.stdin(open()).stdout(open()).stderr(open()).env("TERM", "xterm").envs(environment.iter().copied());
        let child = command.spawn().unwrap();
        Self { ours: File::from(ours), child, shown: String::new() }
    }

    /// Waits until `question` is shown, and types `answer`.
    fn answers(mut self, question: &str, answer: &str) -> Self {
        while !self.shown.contains(question) {
            let is_other = ["[y/N] ", "here: "].iter().any(|end| self.shown.ends_with(end));
            assert!(!is_other && self.read(), "it did not ask {question:?}:\n{}", self.shown);
        }
        // What was asked before is not asked again.
        self.shown.clear();
        self.ours.write_all(format!("{answer}\n").as_bytes()).unwrap();
        self
    }

    /// Everything that was shown since the last answer.
    fn ends(mut self, code: i32) -> String {
        while self.read() {}
        assert_eq!(self.child.wait().unwrap().code(), Some(code), "{}", self.shown);
        for secret in [CANARY, NEW_CANARY] {
            assert!(!self.shown.contains(&secret[12..40]), "a key is shown");
        }
        std::mem::take(&mut self.shown)
    }

    /// False at the end: the other side is closed.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.ours.read(&mut buffer) {
            Ok(length @ 1..) => {
                self.shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
                true
            }
            _ => false,
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_terminal_has_colors_and_a_width() {
    let vault = Vault::start();
    vault
        .run_with(&["keys", "add", "openai-prod", "--provider", "openai", "--description", &"long ".repeat(30)], CANARY)
        .exits(0);
    let wide = Terminal::run(&vault, &["keys", "list"], 300, &[]).ends(0);
    assert!(wide.contains("\u{1b}[1mPROVIDER") && wide.contains(&"long ".repeat(29)), "{wide}");
    let narrow = Terminal::run(&vault, &["keys", "list"], 60, &[("NO_COLOR", "1")]).ends(0);
    assert!(!narrow.contains('\u{1b}') && narrow.contains('…'), "{narrow}");
    assert!(narrow.lines().all(|line| line.trim_end().chars().count() <= 60), "{narrow}");
    let never = Terminal::run(&vault, &["keys", "list", "--color", "never"], 80, &[]).ends(0);
    assert!(!never.contains('\u{1b}'), "{never}");
    let refused = Terminal::run(&vault, &["keys", "get", "openai-prod"], 80, &[]).ends(2);
    assert!(refused.contains("--reveal"), "{refused}");
}

#[test]
fn on_a_terminal_each_step_of_a_rotation_is_asked_for() {
    let vault = Vault::start();
    vault.run_with(&["keys", "add", "night", "--provider", "openai"], CANARY).exits(0);
    let file = vault.file("new-key", NEW_CANARY);
    let begin = ["keys", "rotate", "night", "--from-file", &file];

    let stopped = Terminal::run(&vault, &begin, 200, &[]).answers("Empty to stop here:", "").ends(0);
    assert!(stopped.contains("staged version 2 of night"), "{stopped}");
    let stopped = Terminal::run(&vault, &begin, 200, &[])
        .answers("Empty to stop here:", "GET /v1/models 200")
        .answers("Make version 2 of night current? [y/N]", "n")
        .ends(0);
    assert!(stopped.contains("goes on from here"), "{stopped}");
    // Verified now; without a value it goes on.
    let stopped = Terminal::run(&vault, &["keys", "rotate", "night"], 200, &[])
        .answers("Make version 2 of night current? [y/N]", "y")
        .answers("Wait until nobody holds version 1, and destroy it then? [y/N]", "n")
        .ends(0);
    assert!(stopped.contains("version 2 of orgs/dev/keys/night is current"), "{stopped}");
    let done = Terminal::run(&vault, &["keys", "rotate", "night"], 200, &[])
        .answers("Wait until nobody holds version 1, and destroy it then? [y/N]", "y")
        .answers("Destroy version 1 of night for good? [y/N]", "y")
        .ends(0);
    assert!(done.contains("nobody holds") || done.contains("the rotation is complete"), "{done}");
    vault.run(&["keys", "versions", "night"]).exits(0).says("destroyed");
}

#[test]
fn what_can_not_be_undone_is_asked_for() {
    let vault = Vault::start();
    vault.run_with(&["keys", "add", "gone", "--provider", "openai"], CANARY).exits(0);
    let kept = Terminal::run(&vault, &["keys", "delete", "gone"], 80, &[]).answers("[y/N]", "no").ends(2);
    assert!(kept.contains("nothing was done"), "{kept}");
    Terminal::run(&vault, &["keys", "delete", "gone"], 80, &[]).answers("[y/N]", "yes").ends(0);
    vault.run(&["keys", "get", "gone"]).exits(6);
}
