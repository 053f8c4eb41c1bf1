//! Settings: a file, and behind a line `---` one variable of the environment a line. What is wrong
//! is named and never repeated; what is good means the same wherever it is written.
#![no_main]

use std::path::PathBuf;

use ibyok::config::{Config, ConfigError};
use libfuzzer_sys::fuzz_target;
use toml::{Table, Value};

/// Stands for a value that must not be seen.
const CANARY: &str = "cAnArY";

type Environment = Vec<(String, String)>;

fn parse(file: &str, environment: &Environment) -> Result<Config, ConfigError> {
    Config::parse(file, PathBuf::new(), environment.clone())
}

fuzz_target!(|text: &str| {
    let (file, rest) = text.split_once("\n---\n").unwrap_or((text, ""));
    let environment: Environment =
        rest.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect();
    match parse(file, &environment) {
        Err(error) => refused(file, &environment, &error),
        Ok(config) => accepted(file, &environment, &config),
    }
});

fn refused(file: &str, environment: &Environment, error: &ConfigError) {
    assert!(!error.problems.is_empty());
    let mut names: Vec<String> = environment.iter().map(|(name, _)| name.clone()).collect();
    match file.parse::<Table>() {
        Ok(table) => leaves(&table, "", &mut |setting, _| names.push(setting.to_owned())),
        Err(_) => {
            let line = error.problems[0].setting.strip_prefix("line ").map(|line| line.parse::<usize>().unwrap());
            let lines = file.split('\n').count();
            assert!(line.is_some_and(|line| (1..=lines).contains(&line)), "{line:?} of {lines}");
        }
    }
    for problem in &error.problems {
        assert!(!problem.must.contains(CANARY), "a value is repeated: {problem}");
        // Who writes a secret where a name belongs sees it again, and nobody else.
        let is_name = names.contains(&problem.setting);
        assert!(is_name || !problem.setting.contains(CANARY), "a value is repeated: {problem}");
    }
}

fn accepted(file: &str, environment: &Environment, config: &Config) {
    let shown = format!("{config:?}");
    if let Some((_, key)) = environment.iter().rev().find(|(name, _)| name == "IBYOK_MASTER_KEY") {
        let is_elsewhere =
            file.contains(key) || environment.iter().filter(|(_, value)| value.contains(key)).count() > 1;
        assert!(key.len() < 8 || is_elsewhere || !shown.contains(key), "the master key is shown: {shown}");
    }
    // Written anew, it means the same.
    let table: Table = file.parse().unwrap();
    let again = parse(&toml::to_string(&table).unwrap(), environment).unwrap();
    assert_eq!(format!("{again:?}"), shown);
    // And so it does in the environment, as far as that can say it.
    let mut moved = environment.clone();
    leaves(&table, "", &mut |setting, value| {
        let variable = format!("IBYOK_SERVER_{}", setting.replace('.', "_").to_ascii_uppercase());
        if let Some(value) = as_variable(value).filter(|_| !environment.iter().any(|(name, _)| *name == variable)) {
            moved.push((variable, value));
        }
    });
    let again = parse(file, &moved).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(format!("{again:?}"), shown);
}

fn as_variable(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Array(values) => {
            let texts: Option<Vec<&str>> = values.iter().map(Value::as_str).collect();
            let texts = texts?;
            let is_plain = |text: &&str| !text.is_empty() && text.trim() == *text && !text.contains(',');
            texts.iter().all(is_plain).then(|| texts.join(","))
        }
        _ => None,
    }
}

fn leaves(table: &Table, section: &str, found: &mut dyn FnMut(&str, &Value)) {
    for (name, value) in table {
        let path = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        match value {
            Value::Table(inner) => leaves(inner, &path, found),
            _ => found(&path, value),
        }
    }
}
