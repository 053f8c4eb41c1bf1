//! Who may import whom, and where the outside crates may appear: the map of docs/ARCHITECTURE.md,
//! held by reading the source. Test modules are not read: they may use what they need.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The rooms, and which others each may import besides itself. A file outside of them fails.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("authz", &["domain"]),
    ("aws", &[]),
    ("envelope", &["domain"]),
    ("kms", &["aws", "domain"]),
    ("store", &["aws", "domain"]),
    ("repository", &["domain", "store"]),
    ("service", &["domain", "authz", "envelope", "kms", "repository", "store"]),
    ("grpc", &["domain", "authz", "repository", "service"]),
    ("config", &["domain"]),
    ("telemetry", &["domain", "config"]),
    ("pki", &["domain"]),
    ("process", &["domain"]),
];

/// The composition root: it wires everything, so it may import everything, tonic too.
const ROOT: &[&str] = &["server", "main", "lib"];

/// The adapters: only the composition root knows them, and they themselves.
const ADAPTERS: &[&str] = &["kms::aws", "kms::local", "store::dynamodb", "store::sqlite"];

/// What the adapters on AWS share is theirs alone, not their rooms'.
const OF_AWS: &[&str] = &["kms::aws", "store::dynamodb"];

/// An outside crate, or a family of them with a `*`, and the only places that may name it.
const CRATES: &[(&str, &[&str])] = &[
    ("tonic*", &["grpc", "server"]),
    ("prost_types", &["grpc", "server"]),
    ("hyper*", &["grpc", "server", "store::dynamodb"]),
    ("rusqlite", &["store::sqlite"]),
    ("aws_sdk_kms", &["kms::aws"]),
    ("aws_sdk_dynamodb", &["store::dynamodb"]),
    ("aws_config", &["aws", "kms::aws", "store::dynamodb", "server"]),
    ("aws_credential_types", &["aws", "kms::aws"]),
];

/// Calls that read the time or randomness by themselves, and the only module that may.
const GLOBALS: &[&[&str]] =
    &[&["SystemTime", "now"], &["Instant", "now"], &["rand", "fill"], &["rand", "SystemRandom"]];
const GLOBALS_HOME: &str = "domain::clock";

/// Modules that are compiled for tests alone, by the names that they have everywhere; so are those whose
/// names end in `_tests`.
const TEST_MODULES: &[&str] = &["tests", "testing", "fixtures"];

/// No file is longer; most should be much shorter.
const LONGEST_FILE_LINES: usize = 520;

#[test]
fn every_room_imports_only_what_it_may() {
    let sources = sources("src");
    assert!(sources.len() > 20, "the source was not found");
    let problems: Vec<_> = sources.iter().flat_map(|(path, text)| judge(path, text)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn test_modules_are_compiled_for_tests_alone() {
    for (path, text) in sources("src") {
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate() {
            let name = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            let name = name.strip_prefix("mod ").and_then(|rest| rest.split([';', ' ']).next()).unwrap_or_default();
            let mut above = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
            let is_marked = above.any(|line| line.starts_with("#[cfg(test"));
            assert!(!is_for_tests(name) || is_marked, "{path}: `{line}` lacks #[cfg(test)]");
        }
    }
}

#[test]
fn no_file_is_too_long() {
    let sources = ["src", "tests", "clients"].into_iter().flat_map(sources);
    let long: Vec<_> = sources
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST_FILE_LINES)
        .collect();
    assert!(long.is_empty(), "longer than {LONGEST_FILE_LINES} lines: {long:?}");
}

#[test]
fn no_file_keeps_a_reminder() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!()")];
    let sources = ["src", "tests", "clients"].into_iter().flat_map(sources);
    let marked: Vec<_> =
        sources.filter(|(_, text)| marks.iter().any(|mark| text.contains(mark))).map(|(path, _)| path).collect();
    assert!(marked.is_empty(), "do it or leave it: {marked:?}");
}

#[test]
fn every_integration_test_file_is_run() {
    let main = fs::read_to_string(root().join("tests/it/main.rs")).unwrap();
    for (path, _) in sources("tests/it") {
        let inner = path.strip_prefix("tests/it/").unwrap();
        let module = inner.split('/').next().unwrap().trim_end_matches(".rs");
        let line = format!("mod {module};");
        assert!(module == "main" || main.lines().any(|it| it.trim() == line), "tests/it/main.rs lacks `{line}`");
    }
}

#[test]
fn a_violation_of_each_rule_is_found() {
    for (path, text, expected) in [
        ("src/domain/key.rs", "use crate::store::Item;", "domain may not import store"),
        (
            "src/authz/mod.rs",
            "use crate::{domain::ids::OrgId, repository::{audit::AuditLog}};",
            "authz may not import repository",
        ),
        ("src/authz/a/b.rs", "use super::super::super::service::call::Call;", "authz may not import service"),
        ("src/service/keys.rs", "fn f(_: crate::grpc::pb::Key) {}", "service may not import grpc"),
        (
            "src/service/mod.rs",
            "use crate::{\n  domain,\n  store::{Item, sqlite::Sqlite},\n};",
            "knows the adapter store::sqlite",
        ),
        ("src/repository/keys.rs", "pub use crate::store::sqlite;", "knows the adapter store::sqlite"),
        ("src/service/keys.rs", "fn f() -> tonic::Status { g() }", "service::keys may not name tonic"),
        ("src/service/keys.rs", "use tonic_types::pb;", "service::keys may not name tonic_types"),
        ("src/store/mod.rs", "use rusqlite::Connection;", "store may not name rusqlite"),
        ("src/kms/local.rs", "use aws_sdk_kms as sdk;", "kms::local may not name aws_sdk_kms"),
        ("src/kms/local.rs", "use crate::aws::Settings;", "kms::local may not import aws"),
        ("src/service/keys.rs", "use crate::aws::Settings;", "service may not import aws"),
        ("src/aws.rs", "use crate::store::Item;", "aws may not import store"),
        ("src/aws.rs", "use aws_sdk_dynamodb::Client;", "aws may not name aws_sdk_dynamodb"),
        ("src/service/keys.rs", "fn f() { let now = std::time::SystemTime::now(); }", "reads SystemTime::now"),
        ("src/service/keys.rs", "fn f() { aws_lc_rs::rand::fill(&mut b); }", "reads rand::fill"),
        ("src/service/keys.rs", "fn f() -> prost_types::Timestamp { g() }", "service::keys may not name prost_types"),
        ("src/service/keys.rs", "#[cfg(test)]\nmod tests;\nuse crate::grpc::pb;", "service may not import grpc"),
        ("src/attic/mod.rs", "", "no room of the map"),
    ] {
        let problems = judge(path, text);
        assert!(problems.iter().any(|it| it.contains(expected)), "{path}: {text}: {problems:?}");
    }
}

#[test]
fn what_is_allowed_or_only_mentioned_is_let_be() {
    for (path, text) in [
        ("src/domain/clock.rs", "fn f() { SystemTime::now(); }"),
        ("src/server.rs", "use crate::{kms::local::Local, store::sqlite::Sqlite}; use tonic::transport::Server;"),
        (
            "src/store/sqlite/writer.rs",
            "use super::super::Item; use rusqlite::Connection; use crate::store::sqlite::Row;",
        ),
        (
            "src/store/dynamodb/mod.rs",
            "use crate::aws::Settings; use aws_sdk_dynamodb::Client; use aws_config::SdkConfig;",
        ),
        ("src/service/keys.rs", "// crate::grpc and tonic::Status are the wire's\n/* use rusqlite; */"),
        (
            "src/service/keys.rs",
            "/// See [`crate::grpc`].\nfn f() -> &'static str { \"use crate::grpc; \\\" tonic::\" }",
        ),
        ("src/service/keys.rs", "fn f<'a>(_: &'a str) { let c = '\"'; let r = r#\"crate::grpc\"#; }"),
        ("src/service/keys.rs", "use super::call::Call;\n#[cfg(test)]\nmod tests { use crate::store::sqlite; }"),
        ("src/service/keys/tests.rs", "use crate::store::sqlite;"),
        ("src/service/rate_tests.rs", "use crate::store::sqlite;"),
    ] {
        assert_eq!(judge(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

fn is_for_tests(module: &str) -> bool {
    TEST_MODULES.contains(&module) || module.ends_with("_tests")
}

/// What is wrong with the file `path` of this `text`.
fn judge(path: &str, text: &str) -> Vec<String> {
    let module = module_of(path);
    let Some(room) = module.first().cloned() else { return Vec::new() };
    if module.len() > 1 && module.iter().any(|name| is_for_tests(name)) {
        return Vec::new();
    }
    let here = module.join("::");
    let is_root = ROOT.contains(&room.as_str());
    let allowed = ROOMS.iter().find(|(name, _)| *name == room).map(|(_, allowed)| *allowed);
    if !is_root && allowed.is_none() {
        return vec![format!("{path}: {room} is no room of the map; give it a row")];
    }

    let tokens = tokens(&without_tests(text));
    let mut problems = BTreeSet::new();
    for import in imports(&tokens, &module) {
        let to = &import[0];
        let is_room = ROOMS.iter().any(|(name, _)| name == to) || ROOT.contains(&to.as_str());
        if is_room && *to != room && !is_root && !allowed.is_some_and(|rooms| rooms.contains(&to.as_str())) {
            problems.insert(format!("{path}: {room} may not import {to}"));
        }
        if to == "aws" && room != "aws" && !is_root && !OF_AWS.iter().any(|adapter| is_within(&here, adapter)) {
            problems.insert(format!("{path}: {here} may not import aws"));
        }
        for adapter in ADAPTERS.iter().filter(|adapter| is_within(&import.join("::"), adapter)) {
            let is_its_own = is_within(&here, adapter) || adapter.starts_with(&format!("{here}::"));
            if !is_root && !is_its_own {
                problems.insert(format!("{path}: {here} knows the adapter {adapter}"));
            }
        }
    }
    for (name, homes) in CRATES {
        for used in tokens.windows(2).filter(|pair| is_crate(pair, name)).map(|pair| &pair[0]) {
            if !homes.iter().any(|home| is_within(&here, home)) {
                problems.insert(format!("{path}: {here} may not name {used}"));
            }
        }
    }
    for global in GLOBALS {
        let is_read = tokens.windows(3).any(|at| at[0] == global[0] && at[1] == "::" && at[2] == global[1]);
        if is_read && here != GLOBALS_HOME {
            problems.insert(format!("{path}: reads {}; it comes in through {GLOBALS_HOME}", global.join("::")));
        }
    }
    problems.into_iter().collect()
}

/// Whether this identifier and what follows it name a crate of this pattern.
fn is_crate(pair: &[String], pattern: &str) -> bool {
    let matches = match pattern.strip_suffix('*') {
        Some(stem) => pair[0] == stem || pair[0].starts_with(&format!("{stem}_")),
        None => pair[0] == pattern,
    };
    matches && matches!(pair[1].as_str(), "::" | ";" | "as")
}

fn is_within(module: &str, home: &str) -> bool {
    module == home || module.strip_prefix(home).is_some_and(|rest| rest.starts_with("::"))
}

/// `src/store/sqlite/mod.rs` is [store, sqlite].
fn module_of(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<_> = inner.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// Every path that begins with `crate` or `super`, from the crate's root on, groups opened.
fn imports(tokens: &[String], module: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let is_inner = at > 0 && tokens[at - 1] == "::";
        let mut rest = &tokens[at..];
        let mut base = Vec::new();
        match token.as_str() {
            "crate" if !is_inner => rest = &rest[1..],
            "super" if !is_inner => {
                base = module.to_vec();
                while let [first, after @ ..] = rest {
                    match first.as_str() {
                        "super" => drop(base.pop()),
                        "::" if after.first().is_some_and(|next| next == "super") => {}
                        _ => break,
                    }
                    rest = after;
                }
            }
            _ => continue,
        }
        if let ["::", ..] = rest.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            tree(&mut &rest[1..], &base, &mut found);
        }
    }
    found.retain(|path| !path.is_empty());
    found
}

/// Reads one use tree from `rest`: a path, or a group of trees.
fn tree(rest: &mut &[String], base: &[String], found: &mut Vec<Vec<String>>) {
    let mut path = base.to_vec();
    while let [first, after @ ..] = *rest {
        *rest = after;
        match first.as_str() {
            "{" => {
                while !matches!(rest.first().map(String::as_str), None | Some("}")) {
                    tree(rest, &path, found);
                    if rest.first().is_some_and(|next| next == ",") {
                        *rest = &rest[1..];
                    }
                }
                *rest = rest.get(1..).unwrap_or_default();
                return;
            }
            name => path.push(name.to_owned()),
        }
        match rest.first().map(String::as_str) {
            Some("::") => *rest = &rest[1..],
            Some("as") => {
                *rest = rest.get(2..).unwrap_or_default();
                break;
            }
            _ => break,
        }
    }
    found.push(path);
}

/// The source up to its inline test module, which stands last. A mere declaration of one stands with the
/// others.
fn without_tests(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].to_owned()
}

/// Identifiers, `::` and single signs; comments and literals left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut found, mut at) = (Vec::new(), 0);
    let starts = |at: usize, with: &str| chars[at..].iter().copied().take(with.len()).eq(with.chars());
    while at < chars.len() {
        let c = chars[at];
        if starts(at, "//") {
            at += chars[at..].iter().position(|c| *c == '\n').unwrap_or(chars.len() - at);
        } else if starts(at, "/*") {
            at = (at..chars.len()).find(|end| starts(*end, "*/")).map_or(chars.len(), |end| end + 2);
        } else if c == 'r' && (starts(at, "r\"") || starts(at, "r#\"")) {
            let close = if starts(at, "r\"") { "\"" } else { "\"#" };
            at += 1 + close.len();
            at = (at..chars.len()).find(|end| starts(*end, close)).map_or(chars.len(), |end| end + close.len());
        } else if c == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == '\'' {
            // A character literal closes within a few signs; a lifetime does not close.
            let is_escape = starts(at, "'\\");
            let end = if is_escape {
                (at + 3..chars.len()).find(|end| chars[*end] == '\'')
            } else {
                Some(at + 2).filter(|end| chars.get(*end) == Some(&'\''))
            };
            at = end.map_or(at + 1, |end| end + 1);
        } else if is_word(c) {
            let end = chars[at..].iter().position(|c| !is_word(*c)).map_or(chars.len(), |length| at + length);
            found.push(chars[at..end].iter().collect());
            at = end;
        } else if starts(at, "::") {
            found.push("::".to_owned());
            at += 2;
        } else {
            if !c.is_whitespace() {
                found.push(c.to_string());
            }
            at += 1;
        }
    }
    found
}

/// Every Rust file below `folder`, by its path from the root of the repository.
fn sources(folder: &str) -> Vec<(String, String)> {
    let (root, mut found, mut open) = (root(), Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
