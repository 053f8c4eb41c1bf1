//! `ibyok keys rotate` as a walk, and its steps one by one, against a real vault.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use crate::harness::{CANARY, NEW_CANARY, Vault, canary};

fn vault() -> Vault {
    let vault = Vault::start();
    vault.run_with(&["keys", "add", "openai-night", "--provider", "openai"], CANARY).exits(0);
    vault
}

/// The token of one who was handed the key.
fn handed_to_batch_job(vault: &Vault) -> String {
    let reader = vault.path("reader");
    vault.run(&["tokens", "issue", "--subject", "batch-job", "--scope", "keys:read", "--out", &reader]).exits(0);
    vault.run(&["keys", "get", "openai-night", "--token-file", &reader]).exits(0);
    reader
}

fn versions(vault: &Vault) -> Vec<(String, String)> {
    let json = vault.run(&["keys", "versions", "openai-night", "-o", "json"]).exits(0).json();
    let of = |version: &serde_json::Value, field: &str| version[field].as_str().unwrap().to_owned();
    let versions = json["versions"].as_array().unwrap().iter();
    versions.map(|version| (of(version, "name").rsplit('/').next().unwrap().to_owned(), of(version, "stage"))).collect()
}

fn is(versions: &[(String, String)], expected: &[(&str, &str)]) -> bool {
    versions.iter().map(|(number, stage)| (number.as_str(), stage.as_str())).eq(expected.iter().copied())
}

const EVIDENCE: [&str; 5] = ["keys", "rotate", "openai-night", "--verify-evidence", "GET /v1/models 200"];

#[test]
fn a_rotation_without_downtime() {
    let vault = vault();
    vault.run_with(&["keys", "rotate", "openai-night"], NEW_CANARY).exits(2).warns("--verify-evidence");
    assert!(is(&versions(&vault), &[("1", "current")]), "what can't be done to its end is not begun");
    vault
        .run_with(&[&EVIDENCE[..], &["--grace", "1h"]].concat(), NEW_CANARY)
        .exits(0)
        .says("version 2 of orgs/dev/keys/openai-night is current; the old value retires in");
    assert_eq!(vault.run(&["keys", "get", "openai-night"]).exits(0).stdout, NEW_CANARY);
    assert_eq!(vault.run(&["keys", "get", "openai-night", "--version", "previous"]).exits(0).stdout, CANARY);
    vault.run(&["keys", "rollback", "openai-night"]).exits(0);
    assert_eq!(vault.run(&["keys", "get", "openai-night"]).exits(0).stdout, CANARY);
    vault.run(&["keys", "roll-back", "openai-night"]).exits(6).warns("nothing to go back to");

    let third = canary(3);
    vault.run_with(&["keys", "rotate", "openai-night", "--no-promote"], &third).exits(0).says("staged version 3");
    vault.run(&["keys", "promote", "openai-night", "3"]).exits(6).warns("ibyok keys verify");
    vault.run(&["keys", "verify", "openai-night", "--evidence", "tried"]).exits(0).says("version 3");
    vault.run(&["keys", "verify", "openai-night", "1", "--evidence", "tried"]).exits(6);
    vault.run(&["keys", "promote", "openai-night"]).exits(0).says("version 3 of");
    assert_eq!(vault.run(&["keys", "get", "openai-night"]).exits(0).stdout, third);
    vault.run(&["keys", "get", "openai-night", "--version", "77"]).exits(5).warns("ibyok keys show");
    vault.run(&["keys", "versions", "nothing"]).exits(5).warns("ibyok keys list");
}

#[test]
fn the_walk_goes_on_at_each_step() {
    let vault = vault();
    vault.run(&["keys", "rotate", "openai-night", "--allow-unverified"]).exits(2).warns("there is no key");

    // Cut after step 1, twice: the same value is one version.
    for _ in 0..2 {
        vault
            .run_with(&["keys", "rotate", "openai-night", "--no-promote"], NEW_CANARY)
            .exits(0)
            .says("staged version 2");
    }
    assert!(is(&versions(&vault), &[("2", "pending"), ("1", "current")]));
    // Another value is not taken for this one.
    let other = vault.run_with(&EVIDENCE, &canary(4)).exits(6);
    other.warns("version 2 of openai-night is staged already, with another value").warns("--new");
    assert!(is(&versions(&vault), &[("2", "pending"), ("1", "current")]));

    // Cut after step 2: without a value it goes on with what is staged.
    let verify = ["keys", "rotate", "openai-night", "--no-promote", "--verify-evidence", "GET 200"];
    vault.run(&verify).exits(0).says("staged version 2");
    assert!(is(&versions(&vault), &[("2", "verified"), ("1", "current")]));
    vault.run(&["keys", "rotate", "openai-night"]).exits(2).warns("--yes");

    // Step 3, and again the same command with the same value: nothing new is staged.
    vault.run(&["keys", "rotate", "openai-night", "--yes"]).exits(0).says("version 2 of").says("is current");
    for _ in 0..2 {
        vault.run_with(&EVIDENCE, NEW_CANARY).exits(0).says("version 2 of orgs/dev/keys/openai-night is current");
    }
    assert!(is(&versions(&vault), &[("2", "current"), ("1", "previous")]));

    // Step 5, whoever holds the old value.
    let retire = ["keys", "rotate", "openai-night", "--retire", "--retire-held"];
    vault.run(&retire).exits(0).says("version 1 is destroyed; the rotation is complete");
    assert!(is(&versions(&vault), &[("2", "current"), ("1", "destroyed")]));
    assert_eq!(vault.run(&["keys", "get", "openai-night"]).exits(0).stdout, NEW_CANARY);

    // The next one begins anew.
    vault.run_with(&EVIDENCE, &canary(4)).exits(0).says("version 3 of");
}

#[test]
fn a_new_rotation_can_be_begun_over_one_that_is_under_way() {
    let vault = vault();
    vault.run_with(&["keys", "rotate", "openai-night", "--no-promote"], NEW_CANARY).exits(0);
    let new = ["keys", "rotate", "openai-night", "--new", "--allow-unverified", "-o", "json"];
    let key = vault.run_with(&new, &canary(3)).exits(0).json();
    assert_eq!(key["key"]["versions"][0]["name"], "orgs/dev/keys/openai-night/versions/3");
    assert!(is(&versions(&vault), &[("3", "current"), ("2", "pending"), ("1", "previous")]));
    // While the old value is in its grace, another one is another rotation, and has to be called so.
    let other = vault.run_with(&EVIDENCE, &canary(4)).exits(6);
    other.warns("a rotation of openai-night is under way").warns("--new");
    // Of a value whose request is not known any more it can't be told that it is the same.
    vault.run_with(&EVIDENCE, &canary(3)).exits(6).warns("--new");
    assert!(is(&versions(&vault), &[("3", "current"), ("2", "pending"), ("1", "previous")]));
    vault.run_with(&[&EVIDENCE[..], &["--new"]].concat(), &canary(4)).exits(0).says("version 4 of");
    // A version that was passed over is destroyed by its number.
    let destroy = ["keys", "destroy", "openai-night", "--version", "2", "--confirm"];
    vault.run(&[&destroy[..], &["other"]].concat()).exits(2).warns("--version 2 --confirm openai-night");
    vault.run(&[&destroy[..], &["openai-night"]].concat()).exits(0).says("versions/2");
}

#[test]
fn the_old_value_is_not_destroyed_while_somebody_holds_it() {
    let vault = vault();
    let reader = handed_to_batch_job(&vault);
    let get = ["keys", "get", "openai-night", "--token-file", &reader];
    vault.run_with(&EVIDENCE, NEW_CANARY).exits(0);
    let retire = ["keys", "rotate", "openai-night", "--retire"];
    vault.run(&retire).exits(6).warns("batch-job").warns("still holds version 1").warns("--retire-held");
    assert!(is(&versions(&vault), &[("2", "current"), ("1", "previous")]));
    vault.run(&["keys", "consumers", "openai-night"]).exits(0).says("batch-job").says("NO");

    vault.run(&get).exits(0);
    vault.run(&[&retire[..], &["--wait", "5m"]].concat()).exits(0).says("version 1 is destroyed");
    assert!(is(&versions(&vault), &[("2", "current"), ("1", "destroyed")]));
    let json = vault.run(&["keys", "consumers", "openai-night", "-o", "json"]).exits(0).json();
    assert_eq!(json["consumers"][0]["holds_current"], true);
    vault.run(&["keys", "consumers", "openai-night", "--token-file", &reader]).exits(4).warns("usage:read");
}

#[test]
fn a_version_that_somebody_went_back_to_is_not_destroyed() {
    let vault = vault();
    let reader = handed_to_batch_job(&vault);
    let get = ["keys", "get", "openai-night", "--token-file", &reader];
    vault.run_with(&EVIDENCE, NEW_CANARY).exits(0);
    consumers_know(&vault, "batch-job", "1");

    let retire = ["keys", "rotate", "openai-night", "--retire", "--wait", "5m"];
    let mut walk = vault.command(&retire).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(walk.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains("still with version 1")), "it waits");
    vault.run(&["keys", "rollback", "openai-night"]).exits(0);
    vault.run(&[&get[..], &["--version", "2"]].concat()).exits(0);
    let said: Vec<_> = said.collect();
    assert_eq!(walk.wait().unwrap().code(), Some(6), "{said:?}");
    assert!(said.iter().any(|line| line.contains("changed meanwhile: version 1 was not destroyed")), "{said:?}");
    assert_eq!(vault.run(&["keys", "get", "openai-night"]).exits(0).stdout, CANARY);
}

#[test]
fn retiring_takes_no_piped_name_for_a_value() {
    let vault = vault();
    vault.run_with(&EVIDENCE, NEW_CANARY).exits(0);
    let retire = ["keys", "rotate", "openai-night", "--retire", "--retire-held", "--allow-unverified"];
    let asked = [&retire[..], &["--from-stdin"]].concat();
    vault.run_with(&asked, "the-next-key\n").exits(6).warns("under way");
    assert!(is(&versions(&vault), &[("2", "current"), ("1", "previous")]));
    vault.run_with(&retire, "the-next-key\n").exits(0).says("version 1 is destroyed");
    assert!(is(&versions(&vault), &[("2", "current"), ("1", "destroyed")]));
}

#[test]
fn a_walk_goes_on_though_nobody_reads_its_notes() {
    let vault = vault();
    let file = vault.file("new-key", NEW_CANARY);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = vault.command(&[&EVIDENCE[..], &["--from-file", &file]].concat());
    let ended = command.stdin(Stdio::null()).stderr(writer).output().unwrap();
    assert!(String::from_utf8_lossy(&ended.stdout).contains("version 2 of"), "{ended:?}");
    assert!(ended.status.success() && is(&versions(&vault), &[("2", "current"), ("1", "previous")]));
}

/// Who holds what follows retrievals by seconds.
fn consumers_know(vault: &Vault, subject: &str, version: &str) {
    loop {
        let json = vault.run(&["keys", "consumers", "openai-night", "-o", "json"]).exits(0).json();
        let holds = |consumer: &serde_json::Value| {
            consumer["subject"] == subject && consumer["key_version"].as_str().unwrap().ends_with(version)
        };
        if json["consumers"].as_array().unwrap().iter().any(holds) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
