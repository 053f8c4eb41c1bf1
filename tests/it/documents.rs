//! The pages that people read, held against the code: scopes, errors, links.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use ibyok::{
    authz::methods::{METHODS, Requirement},
    domain::{error::Reason, scope::Scope},
};

#[test]
fn the_page_of_scopes_is_the_authorization_table() {
    let rows = rows("docs/SCOPES.md");
    let mut expected: BTreeMap<String, String> =
        Scope::ALL.iter().map(|scope| (scope.as_str().to_owned(), calls(|it| is_by(it, *scope)))).collect();
    expected.insert("any valid token".to_owned(), calls(|it| *it == Requirement::Token));
    expected.insert("no token".to_owned(), calls(|it| *it == Requirement::Certificate));
    for (name, calls) in &expected {
        let cell = rows.iter().find(|row| row[0].trim_matches('`') == name).map(|row| row[2].clone());
        assert_eq!(cell.as_ref(), Some(calls), "the row of {name}");
    }
    assert_eq!(rows.len(), expected.len(), "a row too many");
}

#[test]
fn the_page_of_errors_has_every_reason_with_its_code() {
    let rows = rows("docs/ERRORS.md");
    for reason in Reason::ALL {
        let name = format!("`{}`", reason.as_str());
        let row = rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("no row for {name}"));
        assert_eq!(row[1], code(&format!("{:?}", reason.class())), "the code of {name}");
        assert!(row[2].len() > 20, "what to do about {name}?");
    }
    assert_eq!(rows.len(), Reason::ALL.len(), "a row too many");
}

#[test]
fn the_page_of_settings_has_every_setting() {
    // `from.number("limits.calls", 1_024, ..)`: what the configuration names.
    let source: String = ["mod", "aws"]
        .map(|name| fs::read_to_string(root().join(format!("src/config/{name}.rs"))).unwrap())
        .map(before_tests)
        .concat();
    let is_word = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_lowercase() || it == b'_');
    let is_setting = |name: &str| {
        name == "listen" || name.split_once('.').is_some_and(|(section, name)| is_word(section) && is_word(name))
    };
    let asked: BTreeSet<_> = source.split('"').filter(|it| is_setting(it)).collect();
    assert!(asked.len() > 20, "the settings were not found: {asked:?}");
    let rows = rows("docs/CONFIGURATION.md");
    let named: BTreeSet<_> = rows.iter().map(|row| row[0].trim_matches('`')).filter(|it| is_setting(it)).collect();
    assert_eq!(named, asked);
}

fn before_tests(source: String) -> String {
    source.split("#[cfg(test)]").next().unwrap().to_owned()
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    assert!(pages.len() >= 8, "the pages were not found");
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let is_outside = link.contains("://") || link.starts_with('#') || link.starts_with("mailto:");
            let target = page.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(is_outside || target.exists(), "{}: {link} leads nowhere", page.display());
        }
    }
}

#[test]
fn the_readme_has_the_two_commands() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for command in ["cargo run --release -- dev", "./test"] {
        assert!(readme.lines().any(|line| line.trim() == command), "the README lacks `{command}`");
    }
}

/// The calls whose requirement satisfies `wanted`, in the order of the table.
fn calls(wanted: impl Fn(&Requirement) -> bool) -> String {
    let name = |path: &str| format!("`{}`", path.trim_start_matches("/ibyok.v1.").replace('/', "."));
    let found: Vec<_> = METHODS.iter().filter(|it| wanted(&it.requirement)).map(|it| name(it.path)).collect();
    found.join(", ")
}

fn is_by(requirement: &Requirement, scope: Scope) -> bool {
    matches!(requirement, Requirement::AnyScope(scopes) if scopes.contains(&scope))
}

/// `InvalidArgument` is INVALID_ARGUMENT.
fn code(class: &str) -> String {
    let mut name = String::new();
    for (at, c) in class.chars().enumerate() {
        if c.is_uppercase() && at > 0 {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

/// The cells of a page's table rows, without heads and rules.
fn rows(page: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let is_rule = |line: &&str| line.starts_with("|-") || line.starts_with("| -");
    let is_row =
        |at: usize| lines[at].starts_with('|') && !is_rule(&lines[at]) && !lines.get(at + 1).is_some_and(is_rule);
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    (0..lines.len()).filter(|at| is_row(*at)).map(|at| cells(lines[at])).collect()
}

/// Every Markdown page at the root and below docs.
fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "docs/adr"].map(|folder| root().join(folder));
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|it| it == "md")).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
