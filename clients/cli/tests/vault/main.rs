//! The command line against a real vault: `ibyok-server dev` as a child, `ibyok` as people run it.
//! Every output of every run is searched for the secrets that went in.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod formats;
mod harness;
mod import;
mod manage;
mod proxy;
mod rewrap;
mod rotate;
mod run;
mod terminal;
mod usage;

use serde_json::Value;

use self::harness::{CANARY, NEW_CANARY, Vault};

#[test]
fn a_key_from_add_to_destroy() {
    let vault = Vault::start();
    let added = vault.run_with(&["keys", "add", "openai-prod", "--provider", "openai", "--label", "team=a"], CANARY);
    added.exits(0).says("stored orgs/dev/keys/openai-prod (openai, ");
    vault.run_with(&["keys", "add", "openai-prod", "--provider", "openai"], CANARY).exits(6).warns("ibyok keys rotate");
    vault.run_with(&["keys", "add", "empty"], "\n").exits(2).warns("there is no key");

    vault.run(&["keys", "list"]).exits(0).says("openai-prod");
    let listed = vault.run(&["keys", "list", "--label", "team=a", "-o", "json"]).exits(0).json();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1);
    assert_eq!(listed["keys"][0]["name"], "orgs/dev/keys/openai-prod");
    assert_eq!(listed["keys"][0]["state"], "active");
    let none = vault.run(&["keys", "list", "--label", "team=none"]).exits(0).warns("no keys");
    assert_eq!(none.stdout, "");
    vault.run(&["keys", "show", "openai-prod"]).exits(0).says("provider:").says("current");
    vault.run(&["keys", "show", "nothing"]).exits(5).warns("ibyok keys list");

    let got = vault.run(&["keys", "get", "openai-prod", "--purpose", "a test"]).exits(0);
    assert_eq!(got.stdout, CANARY, "exactly the value, and no end of line");
    let got = vault.run(&["keys", "get", "orgs/dev/keys/openai-prod", "-o", "json"]).exits(0).json();
    assert_eq!((&got["secret"], &got["provider"]), (&CANARY.into(), &"openai".into()));
    assert_eq!(got["key_version"], "orgs/dev/keys/openai-prod/versions/1");

    vault.run(&["keys", "disable", "openai-prod", "--reason", "leaked"]).exits(0);
    vault.run(&["keys", "get", "openai-prod"]).exits(6).warns("ibyok keys enable");
    vault.run(&["keys", "enable", "openai-prod"]).exits(0);
    vault.run(&["keys", "get", "openai-prod"]).exits(0);

    vault.run(&["keys", "delete", "openai-prod"]).exits(2).warns("--yes");
    vault.run(&["keys", "delete", "openai-prod", "--yes"]).exits(0).says("ibyok keys undelete openai-prod");
    vault.run(&["keys", "get", "openai-prod"]).exits(6).warns("ibyok keys undelete");
    vault.run(&["keys", "undelete", "openai-prod"]).exits(0);
    vault.run(&["keys", "destroy", "openai-prod", "--confirm", "other"]).exits(2).warns("nothing was destroyed");
    vault.run(&["keys", "destroy", "openai-prod", "--confirm", "openai-prod"]).exits(0).says("destroyed");
    vault.run(&["keys", "get", "openai-prod"]).exits(5);
}

#[test]
fn a_token_is_narrow_and_revoked_at_once() {
    let vault = Vault::start();
    vault.run_with(&["keys", "add", "openai-prod", "--provider", "openai"], CANARY).exits(0);
    let file = vault.path("narrow-token");
    let issue = ["tokens", "issue", "--subject", "billing", "--scope", "keys:list", "--ttl", "10m", "--out", &file];
    let token = vault.run(&[&issue[..], &["-o", "json"]].concat()).exits(0).json();
    assert_eq!(token["token"]["subject"], "billing");
    assert_eq!(token["token"]["grants"][0]["scopes"], serde_json::json!(["keys:list"]));

    let narrow = |arguments: &[&str]| vault.run(&[arguments, &["--token-file", &file]].concat());
    narrow(&["tokens", "whoami"]).exits(0).says("billing").says("keys:list");
    narrow(&["keys", "list"]).exits(0).says("openai-prod");
    narrow(&["keys", "get", "openai-prod"]).exits(4).warns("ask for a token with the scope keys:read");
    narrow(&["status"]).exits(4).warns("admin-token");

    vault.run(&["tokens", "list", "--subject", "billing"]).exits(0).says("active");
    vault.run(&["tokens", "revoke", "--subject", "billing"]).exits(0).says("revoked 1 token");
    narrow(&["keys", "list"]).exits(3).warns("ibyok tokens exchange");

    let printed = vault.run(&["tokens", "issue", "--subject", "ci", "--scope", "keys:list"]).exits(0);
    assert!(printed.stdout.starts_with("eyJ") && !printed.stdout.ends_with('\n'), "the token alone");
    vault.run(&["tokens", "issue", "--subject", "ci", "--scope", "keys:list", "-o", "json"]).exits(2);
    vault.run(&["tokens", "exchange", "--org", "dev", "--out", &vault.path("exchanged")]).exits(0);
    vault.run(&["keys", "list", "--token-file", &vault.path("exchanged")]).exits(0);
}

#[test]
fn the_audit_log_tells_and_verifies() {
    let vault = Vault::start();
    vault.run_with(&["keys", "add", "openai-prod", "--provider", "openai"], CANARY).exits(0);
    vault.run(&["keys", "get", "openai-prod", "--purpose", "night job"]).exits(0);
    vault
        .run(&["audit", "list", "--action", "key.retrieve"])
        .exits(0)
        .says("night job")
        .says("orgs/dev/keys/openai-prod");
    let events = vault.run(&["audit", "list", "--limit", "3", "-o", "json"]).exits(0).json();
    assert_eq!(events["events"].as_array().unwrap().len(), 3);

    let tail = vault.run(&["audit", "tail", "-n", "2", "-o", "json"]).exits(0);
    let times: Vec<_> = tail.stdout.lines().map(|line| time(&serde_json::from_str(line).unwrap())).collect();
    assert_eq!(times.len(), 2);
    assert!(times[0] <= times[1], "oldest first");

    vault.run(&["audit", "verify"]).exits(4);
    vault.run_as_admin(&["audit", "verify"]).exits(0).says("intact: ");
    let status = vault.run_as_admin(&["status", "-o", "json"]).exits(0).json();
    assert!(!status["checks"].as_array().unwrap().is_empty());
}

#[test]
fn a_follower_sees_what_is_added() {
    let vault = Vault::start();
    vault.run_with(&["keys", "add", "first", "--provider", "openai"], CANARY).exits(0);
    let mut follower = vault.follow(&["audit", "tail", "-f", "-n", "1", "--action", "key.create", "-o", "json"]);
    let mut resource = || serde_json::from_str::<Value>(&follower.line()).unwrap()["resource"].clone();
    assert_eq!(resource(), "orgs/dev/keys/first");
    vault.run_with(&["keys", "add", "second", "--provider", "openai"], NEW_CANARY).exits(0);
    assert_eq!(resource(), "orgs/dev/keys/second");
}

#[test]
fn without_a_vault_the_next_step_is_told() {
    let vault = Vault::start();
    vault.run(&["keys", "list", "--addr", "127.0.0.1:1"]).exits(7).warns("127.0.0.1:1").warns("--addr");
    vault.run(&["keys", "list", "--cacert", &vault.path("client.pem")]).exits(3).warns("--cacert");
    vault.run(&["keys", "list", "--token-file", "/no/such/token"]).exits(3).warns("--token-file");
    vault.run(&["keys", "list", "--key", "/no/such/key"]).exits(2).warns("IBYOK_CLIENT_KEY");
    vault.run(&["keys", "add"]).exits(2);
}

fn time(event: &Value) -> String {
    event["time"].as_str().unwrap().to_owned()
}
