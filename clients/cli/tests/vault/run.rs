//! `ibyok run` with real keys: what the command gets, and that it ends as it would without ibyok.

use std::{os::unix::fs::PermissionsExt as _, process::Command};

use rustix::process::Signal;

use crate::harness::{CANARY, NEW_CANARY, Vault};

/// Prints the names of its variables, and the digests of those that are given to it.
const DIGESTS: &str = r#"env | sed 's/=.*//' | sort | tr '\n' ' '; for name in "$@"; do
  eval "printf %s \"\$$name\"" | sha256sum | cut -c1-64; done"#;

fn sha256(text: &str) -> String {
    let script = format!("printf %s '{text}' | sha256sum | cut -c1-64");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn vault() -> Vault {
    let vault = Vault::start();
    vault.run_with(&["keys", "add", "openai-prod", "--provider", "openai"], CANARY).exits(0);
    vault.run_with(&["keys", "add", "anthropic-prod", "--provider", "anthropic"], NEW_CANARY).exits(0);
    vault
}

#[test]
fn the_command_gets_its_keys_and_not_the_way_to_the_vault() {
    let vault = vault();
    let ran = vault.run(&[
        "run",
        "--keys",
        "openai-prod,anthropic-prod",
        "--purpose",
        "a job",
        "--",
        "sh",
        "-c",
        DIGESTS,
        "sh",
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
    ]);
    let ran = ran.exits(0).says("OPENAI_API_KEY ").says("ANTHROPIC_API_KEY ").says("OPENAI_BASE_URL ");
    let ran = ran.says(&sha256(CANARY)).says(&sha256(NEW_CANARY));
    assert!(!ran.stdout.contains("IBYOK_"), "{}", ran.stdout);
    assert_eq!(ran.stderr, "");
    let events = vault.run(&["audit", "list", "--action", "key.retrieve", "-o", "json"]).exits(0).json();
    let of_the_job = events["events"].as_array().unwrap().iter().filter(|event| event["purpose"] == "a job");
    assert_eq!(of_the_job.count(), 2, "a record for each key");

    let args = ["run", "--keys", "openai-prod", "--keep-vault-access", "--no-base-urls", "--", "sh", "-c", DIGESTS];
    let ran = vault.run(&args).exits(0).says("IBYOK_TOKEN_FILE").says("OPENAI_API_KEY");
    assert!(!ran.stdout.contains("BASE_URL"));
}

#[test]
fn the_variable_can_be_chosen_and_two_keys_for_one_are_an_error() {
    let vault = vault();
    vault.run_with(&["keys", "add", "openai-batch", "--provider", "openai"], NEW_CANARY).exits(0);
    let touched = vault.path("touched");
    let touch = ["--", "touch", &touched];
    let both = [&["run", "--keys", "openai-prod,openai-batch"][..], &touch].concat();
    vault.run(&both).exits(2).warns("OPENAI_API_KEY").warns("--keys openai-prod,NAME=openai-batch");
    let twice = [&["run", "--keys", "A=openai-prod,A=openai-batch"][..], &touch].concat();
    vault.run(&twice).exits(2).warns("A can't hold two things");
    assert!(!std::path::Path::new(&touched).exists(), "nothing was run");

    let keys = "openai-prod,BATCH_KEY=openai-batch/versions/1";
    let ran = vault.run(&[
        "run",
        "--keys",
        keys,
        "--base-url",
        "BATCH_URL=openai-batch/versions/1",
        "--",
        "sh",
        "-c",
        DIGESTS,
        "sh",
        "BATCH_KEY",
        "BATCH_URL",
    ]);
    ran.exits(0).says(&sha256(NEW_CANARY)).says(&sha256("https://api.openai.com/v1")).says("OPENAI_API_KEY");

    vault
        .run_with(&["keys", "add", "gate", "--provider", "custom", "--base-url", "https://gate.example"], CANARY)
        .exits(0);
    vault.run(&["run", "--keys", "gate", "--", "true"]).exits(2).warns("--keys VARIABLE=gate");
    vault.run(&["keys", "add", "llama", "--provider", "ollama", "--no-key"]).exits(0);
    let ran = vault.run(&["run", "--keys", "llama", "--", "sh", "-c", "printf %s \"$OLLAMA_HOST\""]).exits(0);
    assert_eq!(ran.stdout, "http://localhost:11434", "an entry without a key is an address");
}

#[test]
fn nothing_is_run_unless_every_key_came() {
    let vault = vault();
    let touched = vault.path("touched");
    let ran = vault.run(&["run", "--keys", "openai-prod,missing,gone", "--", "touch", &touched]).exits(5);
    ran.warns("missing: ").warns("gone: ").warns("ibyok keys list");
    vault.run(&["keys", "disable", "openai-prod"]).exits(0);
    vault.run(&["run", "--keys", "openai-prod", "--", "touch", &touched]).exits(6).warns("ibyok keys enable");
    let token = vault.path("lister");
    vault.run(&["tokens", "issue", "--subject", "l", "--scope", "keys:list", "--out", &token]).exits(0);
    let refused = ["run", "--keys", "anthropic-prod", "--token-file", &token, "--", "touch", &touched];
    vault.run(&refused).exits(4).warns("keys:read");
    vault.run(&["run", "--keys", "anthropic-prod"]).exits(2);
    vault.run(&["run", "--", "true"]).exits(2);
    assert!(!std::path::Path::new(&touched).exists());
}

#[test]
fn it_ends_as_the_command_does() {
    let vault = vault();
    let run = |command: &[&str]| vault.run(&[&["run", "--keys", "openai-prod", "--"][..], command].concat());
    run(&["sh", "-c", "exit 42"]).exits(42);
    run(&["no-such-command-here"]).exits(127).warns("there is no such command");
    let plain = vault.file("plain", "echo\n");
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
    run(&[&plain]).exits(126).warns("can't be run");
    run(&["cat"]).exits(0);
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]).signal, Some(9));
    let passed = vault.run_with(&["run", "--keys", "openai-prod", "--", "cat"], "standard input\n").exits(0);
    assert_eq!(passed.stdout, "standard input\n");
}

#[test]
fn signals_are_the_commands() {
    let vault = vault();
    for (signal, name) in [
        (Signal::INT, "INT"),
        (Signal::TERM, "TERM"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
    ] {
        let trap = format!("trap 'exit 33' {name}; echo ready; while :; do sleep 0.02; done");
        let run = ["run", "--keys", "openai-prod", "--", "sh", "-c"];
        vault.signalled(&[&run[..], &[&trap]].concat(), signal).exits(33);
        let ran = vault.signalled(&[&run[..], &["echo ready; exec sleep 600"]].concat(), signal);
        assert_eq!(ran.signal, Some(signal.as_raw()), "{name}: a shell makes 128+n of it");
    }
}
