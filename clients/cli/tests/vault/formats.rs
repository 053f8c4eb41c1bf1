//! What the command line says of itself, and the formats of its answers.

use std::process::Command;

use crate::harness::{CANARY, Vault};

/// Without a vault: these need none.
fn ibyok(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ibyok")).args(arguments).env_clear().output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn completions_and_manual_pages_need_no_vault() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, _) = ibyok(&["completions", shell]);
        assert_eq!(code, 0);
        assert!(script.contains("ibyok") && script.contains("rotation-due"), "{shell}");
    }
    assert_eq!(ibyok(&["completions", "tcsh"]).0, 2);

    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man/man1");
    assert_eq!(ibyok(&["man", "--dir", pages.to_str().unwrap()]).0, 0);
    let page = std::fs::read_to_string(pages.join("ibyok-keys-import.1")).unwrap();
    assert!(page.starts_with(".ie") || page.contains(".TH ibyok-keys-import 1"), "{page}");
    assert!(std::fs::read_to_string(pages.join("ibyok.1")).unwrap().contains("ibyok\\-keys"));
    let (code, _, stderr) = ibyok(&["man", "--dir", "/dev/null/x"]);
    assert!(code == 2 && stderr.contains("/dev/null/x"), "{stderr}");
}

/// A command that is taken away, or renamed, breaks somebody's script.
#[test]
fn every_command_is_where_it_was() {
    const COMMANDS: &str = "\
        keys add|keys import|keys list|keys show|keys versions|keys get|keys consumers|keys rotate|keys verify|\
        keys promote|keys rollback|keys roll-back|keys disable|keys enable|keys delete|keys undelete|keys destroy|run|\
        tokens issue|tokens exchange|tokens renew|tokens list|tokens show|tokens revoke|tokens whoami|\
        bindings create|bindings list|bindings delete|providers detect|providers list|usage|\
        audit list|audit tail|audit verify|orgs create|orgs list|orgs show|orgs update|status|completions|man";
    for command in COMMANDS.split('|') {
        let arguments: Vec<_> = command.split(' ').chain(["--help"]).collect();
        let (code, help, _) = ibyok(&arguments);
        assert!(code == 0 && help.contains("Usage: ibyok"), "{command}");
    }
}

#[test]
fn yaml_says_what_json_says() {
    let vault = Vault::start();
    vault.run_with(&["keys", "add", "openai-prod", "--provider", "openai", "--label", "yes=no"], CANARY).exits(0);
    let yaml = vault.run(&["keys", "show", "openai-prod", "-o", "yaml"]).exits(0).stdout;
    let yaml = yaml_rust2::YamlLoader::load_from_str(&yaml).unwrap();
    let json = vault.run(&["keys", "show", "openai-prod", "-o", "json"]).exits(0).json();
    assert_eq!(yaml[0]["key"]["uid"].as_str(), json["key"]["uid"].as_str());
    assert_eq!(yaml[0]["key"]["labels"]["yes"].as_str(), Some("no"));
    assert_eq!(yaml[0]["key"]["create_time"].as_str(), json["key"]["create_time"].as_str());
    let tail = vault.run(&["audit", "tail", "-n", "2", "-o", "yaml"]).exits(0).stdout;
    assert_eq!(yaml_rust2::YamlLoader::load_from_str(&tail).unwrap().len(), 2, "a stream of documents");
    let got = vault.run(&["keys", "get", "openai-prod", "-o", "yaml"]).exits(0).stdout;
    assert_eq!(yaml_rust2::YamlLoader::load_from_str(&got).unwrap()[0]["secret"].as_str(), Some(CANARY));
}

#[test]
fn colors_are_only_where_they_are_asked_for() {
    let vault = Vault::start();
    let escape = '\u{1b}';
    let plain = vault.run(&["keys", "list"]).exits(0);
    assert!(!plain.stdout.contains(escape), "a pipe is no terminal");
    assert!(vault.run(&["keys", "list", "--color", "always"]).exits(0).stdout.contains(escape));
    assert!(!vault.run(&["keys", "list", "-o", "json", "--color", "always"]).exits(0).stdout.contains(escape));
    assert!(vault.run(&["keys", "show", "none", "--color", "always"]).exits(5).stderr.contains(escape));
}
