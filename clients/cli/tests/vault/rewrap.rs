//! `ibyok rewrap`: a vault leaves its master key.

use std::fs;

use crate::{
    harness::{CANARY, Vault, canary},
    proxy::Proxy,
};

const COUNT: usize = 400;
/// About a handshake and a few reports.
const CUT_AFTER: usize = 3_300;
/// A few reports more, of which each says where to go on.
const ENOUGH: usize = 4_200;
const NEW_KEY: &str = "7f1d09e5b2c4838a6e07f1d09e5b2c4838a6e07f1d09e5b2c4838a6e01234567";

/// Rewraps with these arguments, and answers how many data keys there were to do.
fn left(vault: &Vault, arguments: &[&str]) -> u64 {
    let json = vault.run(&[&["rewrap", "-o", "json"], arguments].concat()).exits(0).json();
    assert_eq!((&json["done"], &json["total"], &json["failed"]), (&json["total"], &json["done"], &0.into()));
    json["rewrapped"].as_u64().unwrap()
}

#[test]
fn a_vault_leaves_its_master_key_over_a_cut() {
    let vault = Vault::start();
    let lines: String = (0..COUNT).map(|n| format!("key-{n},{}\n", canary(n))).collect();
    let file = vault.file("keys.csv", &format!("name,secret\n{lines}"));
    vault.run(&["keys", "import", &file]).exits(0);
    vault.run_with(&["keys", "add", "own", "--provider", "openai"], CANARY).exits(0);
    let keys = vault.run(&["keys", "list", "-o", "json"]).exits(0).json()["keys"].as_array().unwrap().len();

    let master = vault.path("master.keys");
    let old = fs::read_to_string(&master).unwrap();
    let vault = vault.restarted(|_| fs::write(&master, format!("{NEW_KEY}\n{old}")).unwrap());
    let all = left(&vault, &["--dry-run"]);
    assert_eq!(all, keys as u64 + 1, "one version of each, and the organization's own key");
    vault.run(&["rewrap", "--org", "system"]).exits(5).warns("orgs");
    vault.run_as_admin(&["rewrap", "--org", "system"]).exits(0).warns("4 data keys rewrapped");
    vault.run(&["rewrap", "--kms-key", "local:0000000000000000"]).exits(6).warns("KMS");

    // Who forgets the old key loses none by it, and is told what is missing.
    let vault = vault.restarted(|_| fs::write(&master, NEW_KEY).unwrap());
    let first = format!("{all} x, first orgs/");
    vault.run(&["rewrap"]).exits(9).warns(&first).warns("KMS_KEY_REFUSED").warns("kms:ReEncryptFrom");
    let json = vault.run(&["rewrap", "-o", "json"]).exits(9).warns("could not be changed").json();
    assert_eq!((&json["failed"], &json["rewrapped"], &json["complete"]), (&all.into(), &0.into(), &true.into()));
    assert_eq!(json["failures"].as_array().unwrap().len() as u64, all);
    let vault = vault.restarted(|_| fs::write(&master, format!("{NEW_KEY}\n{old}")).unwrap());

    let dying = Proxy::dying(1, ENOUGH, vault.address());
    let json = vault.run(&["rewrap", "-o", "json", "--addr", &dying.address]).exits(7).json();
    let (done, total) = (json["done"].as_u64().unwrap(), json["total"].as_u64().unwrap());
    assert!(json["complete"] == false && done > 0 && done < total, "what it knows it says: {json}");

    let proxy = Proxy::cutting(1, CUT_AFTER, vault.address());
    let done = left(&vault, &["--addr", &proxy.address]);
    assert!(done > 0 && done <= all, "{done} of {all}: what was done when nothing was reported yet is passed over");
    assert!(proxy.connections() >= 2, "it was cut");
    assert_eq!(left(&vault, &["--dry-run"]), 0);

    let vault = vault.restarted(|_| fs::write(&master, NEW_KEY).unwrap());
    assert_eq!(vault.run(&["keys", "get", "own"]).exits(0).stdout, CANARY);
    assert_eq!(vault.run(&["keys", "get", &format!("key-{}", COUNT - 1)]).exits(0).stdout, canary(COUNT - 1));
}
