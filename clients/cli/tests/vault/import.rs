//! `ibyok keys import` against a real vault: the formats, refusals, cuts.

use serde_json::Value;

use crate::{
    harness::{CANARY, Ran, Vault, canary},
    proxy::Proxy,
};

/// Bytes of answers: the handshake, and those of some keys.
const CUT_AFTER: usize = 20_000;

fn csv(count: usize) -> String {
    let rows: Vec<_> = (0..count).map(|n| format!("key-{n},{},openai,\"team=a;n={n}\"\n", canary(n))).collect();
    format!("name,secret,provider,labels\n{}", rows.concat())
}

/// Name of the key, and how it went.
fn results(ran: &Ran) -> Vec<(String, String)> {
    let json = ran.json();
    let rows = json["results"].as_array().unwrap().iter();
    rows.map(|row| (text(&row["name"]), text(&row["result"]))).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn listed(vault: &Vault) -> usize {
    vault.run(&["keys", "list", "-o", "json"]).exits(0).json()["keys"].as_array().unwrap().len()
}

#[test]
fn csv_is_checked_stored_and_skipped() {
    let vault = Vault::start();
    let before = listed(&vault);
    let file = vault.file("keys.csv", &csv(3));
    let checked = vault.run(&["keys", "import", &file, "--dry-run"]).exits(0);
    checked.says("would store").warns("3 would store");
    assert_eq!(listed(&vault), before, "a dry run stores nothing");

    let stored = vault.run(&["keys", "import", &file, "-o", "json"]).exits(0);
    assert_eq!(results(&stored)[0], ("orgs/dev/keys/key-0".to_owned(), "stored".to_owned()));
    assert_eq!((listed(&vault), &stored.json()["summary"]["stored"]), (before + 3, &3.into()));
    assert_eq!(vault.run(&["keys", "get", "key-2"]).exits(0).stdout, canary(2));
    let shown = vault.run(&["keys", "show", "key-1", "-o", "json"]).exits(0).json();
    assert_eq!((&shown["key"]["labels"]["n"], &shown["key"]["provider"]), (&"1".into(), &"openai".into()));

    // Another import of the same names: they are taken.
    let taken = vault.run(&["keys", "import", &file, "--import-id", "another"]).exits(9);
    taken.warns("3 of 3 keys were refused").warns("line 2, key-0").warns("--skip-existing");
    // Nobody reads the answer: that they were refused is said by the exit code.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let unread = vault.command(&["keys", "import", &file, "--import-id", "another"]).stdout(writer).output().unwrap();
    assert_eq!(unread.status.code(), Some(9), "{unread:?}");
    let skipped = vault.run(&["keys", "import", &file, "--import-id", "another", "--skip-existing"]).exits(0);
    skipped.says("skipped").warns("3 skipped");
}

#[test]
fn json_lines_come_from_standard_input() {
    let vault = Vault::start();
    let lines = format!(
        "{{\"name\":\"one\",\"secret\":\"{}\",\"labels\":{{\"team\":\"a\"}}}}\n\n\
         {{\"name\":\"odd\",\"secret\":\"canary-of-no-provider-1\"}}\n\
         {{\"name\":\"local\",\"secret\":null,\"provider\":\"ollama\"}}\n",
        canary(1)
    );
    vault.run_with(&["keys", "import", "-"], &lines).exits(2).warns("--format");
    let ran = vault.run_with(&["keys", "import", "-", "--format", "jsonl", "-o", "json"], &lines).exits(9);
    let went: Vec<_> = results(&ran).into_iter().map(|(_, result)| result).collect();
    assert_eq!(went, ["stored", "refused", "stored"]);
    assert_eq!(ran.json()["results"][0]["provider"], "openai", "its shape tells");
    ran.warns("1 of 3 keys were refused");
    vault.run(&["keys", "show", "odd"]).exits(5);
    // Mended, and run again: what was stored is not stored twice.
    let mended = lines.replace("\"odd\",", "\"odd\",\"provider\":\"mistral\",");
    let ran = vault.run_with(&["keys", "import", "-", "--format", "jsonl", "-o", "json"], &mended).exits(0);
    assert_eq!(ran.json()["summary"]["stored"], 3);
    // A name that stands for something else now is refused, not taken for what was stored.
    let args = ["keys", "import", "-", "--format", "jsonl", "--environment", "staging"];
    vault.run_with(&args, &mended).exits(9).warns("3 of 3 keys were refused").warns("KEY_EXISTS");
    vault.run_with(&[&args[..], &["--skip-existing"]].concat(), &mended).exits(0).warns("3 skipped");
    let other = mended.replace(&canary(1), &canary(2));
    let args = ["keys", "import", "-", "--format", "jsonl", "--skip-existing"];
    vault.run_with(&args, &other).exits(9).warns("REQUEST_ID_REUSED").warns("--import-id").warns("1 of 3");
}

#[test]
fn of_an_env_file_only_keys_are_taken() {
    let vault = Vault::start();
    let before = listed(&vault);
    let text = format!(
        "# of the app\nexport OPENAI_API_KEY=\"{}\"\nMISTRAL_API_KEY='0123456789abcdef0123456789abcdef'\n\
         DATABASE_URL=postgres://u:canary-of-db-1@h/d\nDEBUG=true\nOLLAMA_HOST=http://localhost:11434\nSPARE_KEY={}\n\
         AWS_SECRET_ACCESS_KEY={}\n",
        canary(1),
        canary(2),
        canary(3)
    );
    let file = vault.file(".env", &text);
    let ran = vault.run(&["keys", "import", &file, "--prefix", "prod-", "--environment", "production"]).exits(0);
    let ran = ran.says("prod-openai-api-key").says("prod-spare-key").says("DATABASE_URL").says("not a key");
    let ran = ran.says("AWS_SECRET_ACCESS_KEY").warns("1 not looked at").warns("--detect-all");
    assert!(!ran.stdout.contains("canary-of") && !ran.stdout.contains("postgres"), "a value is shown");
    assert_eq!(listed(&vault), before + 3);
    let shown = vault.run(&["keys", "show", "prod-mistral-api-key", "-o", "json"]).exits(0).json();
    assert_eq!((&shown["key"]["provider"], &shown["key"]["environment"]), (&"mistral".into(), &"production".into()));
    assert_eq!(vault.run(&["keys", "get", "prod-openai-api-key"]).exits(0).stdout, canary(1));

    let all = ["keys", "import", &file, "--prefix", "all-", "--detect-all", "--dry-run"];
    vault.run(&all).exits(0).says("all-aws-secret-access-key");

    let nothing = vault.file("none.env", "A=1\nB=two words\n");
    vault.run(&["keys", "import", &nothing]).exits(2).says("not a key").warns("there is no key");
}

#[test]
fn a_file_that_can_not_be_read_sends_nothing_and_shows_nothing() {
    let vault = Vault::start();
    let before = listed(&vault);
    let file =
        vault.file("bad.csv", &format!("name,secret,kind\na,{CANARY},live\nb,{CANARY},{CANARY}\n,{CANARY},live\n"));
    let ran = vault.run(&["keys", "import", &file]).exits(2);
    ran.warns("line 3, kind").warns("line 4, name").warns("nothing was sent: the file has 2 problems");
    let headless = vault.file("headless.csv", &format!("a,{CANARY}\n"));
    vault.run(&["keys", "import", &headless]).exits(2).warns("line 1, column 1");
    let twice = vault.file("twice.csv", &format!("name,secret\na,{CANARY}\na,{CANARY}\n"));
    vault.run(&["keys", "import", &twice]).exits(2).warns("line 3, name: is the same as that of line 2");
    vault.run(&["keys", "import", "/no/such.csv"]).exits(2).warns("can't read /no/such.csv");
    assert_eq!(listed(&vault), before);
}

#[test]
fn without_the_scope_nothing_is_stored() {
    let vault = Vault::start();
    let token = vault.path("reader");
    vault.run(&["tokens", "issue", "--subject", "r", "--scope", "keys:read", "--out", &token]).exits(0);
    let file = vault.file("keys.csv", &csv(2));
    vault.run(&["keys", "import", &file, "--token-file", &token]).exits(4).warns("keys:write");
}

#[test]
fn an_import_goes_on_over_a_cut_and_doubles_nothing() {
    const COUNT: usize = 300;
    let vault = Vault::start();
    let before = listed(&vault);
    let file = vault.file("keys.csv", &csv(COUNT));
    let proxy = Proxy::cutting(2, CUT_AFTER, vault.address());
    let ran = vault.run(&["keys", "import", &file, "--addr", &proxy.address, "-o", "json"]).exits(0);
    assert!(proxy.connections() >= 3, "it was cut twice");
    assert_eq!(ran.json()["summary"]["stored"], COUNT);
    assert_eq!(listed(&vault), before + COUNT);
    created_once(&vault, COUNT);
}

#[test]
fn an_import_that_broke_off_goes_on_when_it_is_run_again() {
    const COUNT: usize = 300;
    let vault = Vault::start();
    let before = listed(&vault);
    let file = vault.file("keys.csv", &csv(COUNT));
    let proxy = Proxy::dying(1, CUT_AFTER, vault.address());
    let first = vault.run(&["keys", "import", &file, "--addr", &proxy.address, "-o", "json"]).exits(7);
    let first = first.warns("the import broke off after").warns("run the same command again");
    let answered = first.json()["results"].as_array().unwrap().len();
    let stored = listed(&vault) - before;
    assert!(answered > 0 && answered <= stored && stored < COUNT, "{answered} answered, {stored} stored");

    let again = vault.run(&["keys", "import", &file, "-o", "json"]).exits(0);
    assert_eq!(again.json()["summary"]["stored"], COUNT, "those of the first run, too, by their request ids");
    assert_eq!(listed(&vault), before + COUNT);
    created_once(&vault, COUNT);
}

/// Each key was made once, and has one version.
fn created_once(vault: &Vault, count: usize) {
    let filter = ["--action", "key.import", "--outcome", "allowed", "--resource", "orgs/dev/keys/key-"];
    let args = [&["audit", "list", "--limit", "1000", "-o", "json"], &filter[..]].concat();
    assert_eq!(vault.run(&args).exits(0).json()["events"].as_array().unwrap().len(), count);
    let json = vault.run(&["keys", "list", "--prefix", "key-", "-o", "json"]).exits(0).json();
    assert!(json["keys"].as_array().unwrap().iter().all(|key| key["versions"].as_array().unwrap().len() == 1));
}
