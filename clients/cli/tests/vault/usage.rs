//! `ibyok usage` against a real vault.

use std::{thread, time::Duration};

use crate::harness::{CANARY, Vault};

#[test]
fn retrievals_are_counted_and_drawn() {
    let vault = Vault::start();
    vault.run_with(&["keys", "add", "openai-prod", "--provider", "openai", "--label", "team=search"], CANARY).exits(0);
    for _ in 0..3 {
        vault.run(&["keys", "get", "openai-prod"]).exits(0);
    }
    vault.run(&["keys", "disable", "openai-prod"]).exits(0);
    vault.run(&["keys", "get", "openai-prod"]).exits(6);

    let of_the_key = |arguments: &[&str]| {
        let json = vault.run(&[&["usage", "-o", "json"], arguments].concat()).exits(0).json();
        let rows = json["rows"].as_array().unwrap().clone();
        rows.into_iter().find(|row| row["dimensions"]["key"] == "orgs/dev/keys/openai-prod")
    };
    // Counts follow retrievals by seconds.
    let row = loop {
        match of_the_key(&["--by", "key", "--since", "1h"]) {
            Some(row) if row["retrievals"] == 3 && row["denials"] == 1 => break row,
            _ => thread::sleep(Duration::from_millis(100)),
        }
    };
    assert!(row["start_time"].as_str().unwrap().ends_with(":00:00Z"), "an hour's bucket");
    vault.run(&["usage", "--by", "key,provider"]).exits(0).says("openai-prod").says("OVER TIME").says("█");
    vault.run(&["usage", "--since", "2h"]).exits(0).says("RETRIEVALS").says("█");
    vault.run(&["usage", "--by", "label", "--label", "team"]).exits(0).says("search");
    vault.run(&["usage", "--by", "label"]).exits(2).warns("--label");
    vault.run(&["usage", "--label", "team"]).exits(2).warns("--by label");
    vault.run(&["usage", "--since", "10d", "--until", "9d"]).exits(0).warns("nothing was retrieved");
    vault.run(&["usage", "--bucket", "minute"]).exits(2);

    let token = vault.path("reader");
    vault.run(&["tokens", "issue", "--subject", "r", "--scope", "keys:read", "--out", &token]).exits(0);
    vault.run(&["usage", "--token-file", &token]).exits(4).warns("usage:read");
}
