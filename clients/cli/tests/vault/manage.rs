//! Organizations, bindings, tokens, providers and what is to be cleaned up, against a real vault.

use crate::harness::{CANARY, NEW_CANARY, Vault, canary};

#[test]
fn an_organization_from_create_to_update() {
    let vault = Vault::start();
    vault.run(&["orgs", "list"]).exits(4).warns("admin-token");
    let create = ["orgs", "create", "acme", "--admin-identity", "spiffe://acme/ops", "--display-name", "ACME"];
    vault.run_as_admin(&create).exits(0).says("made orgs/acme").says("ibyok tokens exchange --org acme");
    vault.run_as_admin(&create).exits(6).warns("choose another id");
    vault.run_as_admin(&["orgs", "create", "Not An Id", "--admin-identity", "a"]).exits(2).warns("org_id");
    vault.run_as_admin(&["orgs", "list"]).exits(0).says("acme").says("system");
    let listed = vault.run_as_admin(&["orgs", "list", "-o", "json", "--limit", "1"]).exits(0).json();
    assert_eq!(listed["orgs"].as_array().unwrap().len(), 1);
    vault.run_as_admin(&["orgs", "update", "acme"]).exits(2);
    vault.run_as_admin(&["orgs", "update", "acme", "--display-name", "ACME Inc."]).exits(0);
    vault.run_as_admin(&["orgs", "update", "none", "--display-name", "x"]).exits(5).warns("ibyok orgs list");
    vault.run_as_admin(&["orgs", "show", "acme"]).exits(0).says("ACME Inc.");
    vault.run_as_admin(&["orgs", "show", "none"]).exits(5).warns("ibyok orgs list");
}

#[test]
fn a_binding_lets_a_certificate_in_until_it_is_deleted() {
    let vault = Vault::start();
    let me = vault.run(&["tokens", "whoami", "-o", "json"]).exits(0).json()["client_identity"].clone();
    let create = ["bindings", "create", "narrow", "--certificate", me.as_str().unwrap(), "--scope", "keys:list"];
    let made = vault.run(&[&create[..], &["--ttl-max", "10m", "-o", "json"]].concat()).exits(0).json();
    assert_eq!(made["binding"]["name"], "orgs/dev/bindings/narrow");
    assert_eq!(made["binding"]["ttl_max_seconds"], 600);
    vault.run(&create).exits(6).warns("ibyok bindings delete");
    vault.run(&["bindings", "list"]).exits(0).says("narrow").says("keys:list");
    let nameless = ["bindings", "create", "--certificate", "spiffe://dev/ci", "--scope", "keys:list"];
    vault.run(&nameless).exits(2).warns("<ID>");

    let file = vault.path("narrow-token");
    let exchange = ["tokens", "exchange", "--org", "dev", "--binding", "narrow", "--out", &file];
    vault.run(&exchange).exits(0);
    let narrow = |arguments: &[&str]| vault.run(&[arguments, &["--token-file", &file]].concat());
    narrow(&["keys", "list"]).exits(0);
    narrow(&["bindings", "list"]).exits(4).warns("bindings:list");
    narrow(&create).exits(4).warns("bindings:write");

    vault.run(&["bindings", "delete", "narrow"]).exits(2).warns("--yes");
    vault.run(&["bindings", "delete", "narrow", "--yes"]).exits(0).says("tokens revoke");
    vault.run(&["bindings", "delete", "narrow", "--yes"]).exits(5).warns("ibyok bindings list");
    vault.run(&exchange).exits(3);
    narrow(&["keys", "list"]).exits(0);
}

#[test]
fn in_a_mock_organization_nobody_need_say_mock() {
    let vault = Vault::start();
    let me = vault.run(&["tokens", "whoami", "-o", "json"]).exits(0).json()["client_identity"].clone();
    let me = me.as_str().unwrap();
    vault.run_as_admin(&["orgs", "create", "play", "--admin-identity", me, "--mock"]).exits(0);
    let file = vault.path("play-token");
    vault.run(&["tokens", "exchange", "--org", "play", "--out", &file]).exits(0);
    let play = |arguments: &[&str]| vault.run(&[arguments, &["-o", "json", "--token-file", &file]].concat());
    let out = vault.path("play-child");
    let issued = play(&["tokens", "issue", "--subject", "ci", "--scope", "keys:read", "--out", &out]).exits(0).json();
    assert_eq!(issued["token"]["mode"], "mock");
    let create = ["bindings", "create", "ci", "--certificate", "spiffe://play/ci", "--scope", "keys:read"];
    assert_eq!(play(&create).exits(0).json()["binding"]["mode"], "mock");
}

#[test]
fn a_token_is_shown_renewed_and_found_when_it_is_not_used() {
    let vault = Vault::start();
    let file = vault.path("short");
    let issue = ["tokens", "issue", "--subject", "idle", "--scope", "keys:list", "--ttl", "10m", "--out", &file];
    let name = vault.run(&[&issue[..], &["-o", "json"]].concat()).exits(0).json()["token"]["name"].clone();
    let name = name.as_str().unwrap();
    vault.run(&["tokens", "show", name]).exits(0).says("subject:").says("idle").says("grant:");
    let id = name.rsplit('/').next().unwrap();
    let json = vault.run(&["tokens", "show", id, "-o", "json"]).exits(0).json();
    assert_eq!(json["token"]["subject"], "idle");
    vault.run(&["tokens", "show", &"0".repeat(32)]).exits(5).warns("ibyok tokens list");

    vault.run(&["tokens", "list", "--unused-for", "0s"]).exits(0).says("idle");
    vault.run(&["tokens", "list", "--unused-for", "1d", "--not-used-since", "1d"]).exits(2);
    let renewed = vault.path("renewed");
    vault.run(&["tokens", "renew", "--ttl", "20m", "--out", &renewed, "--token-file", &file]).exits(0).says(name);
    let later = vault.run(&["tokens", "show", id, "-o", "json"]).exits(0).json();
    assert!(later["token"]["expire_time"].as_str() > json["token"]["expire_time"].as_str());
    vault.run(&["tokens", "renew", "-o", "yaml"]).exits(2).warns("--out");
}

#[test]
fn the_provider_of_a_key_is_told_by_its_shape() {
    let vault = Vault::start();
    vault.run_with(&["providers", "detect"], &canary(1)).exits(0).says("openai").says("certain");
    let json = vault.run_with(&["providers", "detect", "-o", "json"], &canary(1)).exits(0).json();
    assert_eq!(json["candidates"][0]["provider"], "openai");
    let many = vault.run_with(&["providers", "detect", "-o", "json"], "0123456789abcdef0123456789abcdef").exits(0);
    assert!(many.json()["candidates"].as_array().unwrap().len() > 1, "an ambiguous shape has several");
    vault.run_with(&["providers", "detect"], "!").exits(5).warns("no provider is known");
    vault.run(&["providers", "detect", "--model", "claude-sonnet-4"]).exits(0).says("anthropic");
    vault.run(&["providers", "detect", "sk-as-an-argument"]).exits(2);
    vault.run(&["providers", "list"]).exits(0).says("OPENAI_API_KEY").says("x-api-key");
}

#[test]
fn what_is_to_be_cleaned_up_is_found() {
    let vault = Vault::start();
    let add = ["keys", "add", "due", "--provider", "openai", "--rotate-every", "25h30m"];
    vault.run_with(&add, CANARY).exits(0);
    vault.run_with(&["keys", "add", "undated", "--provider", "openai"], NEW_CANARY).exits(0);
    let names = |arguments: &[&str]| {
        let arguments = [&["keys", "list", "--provider", "openai", "-o", "json"], arguments].concat();
        let json = vault.run(&arguments).exits(0).json();
        let names = json["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned());
        names
            .map(|name| name.rsplit('/').next().unwrap().to_owned())
            .filter(|name| name != "sample")
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&["--rotation-due"]), [""; 0], "none is overdue");
    assert_eq!(names(&["--rotation-due", "2d"]), ["due"]);
    assert_eq!(names(&["--unused-for", "90d"]), ["due", "undated"], "never used is unused");
    vault.run(&["keys", "list", "--rotation-due", "2d"]).exits(0).says("ROTATION DUE").says("  in 25 h\n");
    vault.run(&["keys", "list", "--unused-for", "never"]).exits(2).warns("a duration is");

    vault.run(&["keys", "delete", "due", "--yes"]).exits(0);
    vault.run(&["keys", "undelete", "undated"]).exits(6);
    vault.run(&["keys", "undelete", "due"]).exits(0).says("disabled");
}
