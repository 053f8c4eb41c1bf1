//! Takes settings one by one from the environment or the file, and remembers what was wrong; what
//! nobody asked for is unknown.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use toml::{Table, Value};

use super::{ConfigError, Environment, Problem, value};
use crate::domain::secret::SecretBytes;

const PREFIX: &str = "IBYOK_SERVER_";
/// A variable of the clients that only looks like one of ours.
const FOREIGN: &str = "IBYOK_SERVER_NAME";
const MASTER_KEY: &str = "IBYOK_MASTER_KEY";

pub(super) struct Reader {
    table: Table,
    base: PathBuf,
    environment: BTreeMap<String, String>,
    asked: BTreeSet<&'static str>,
    problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn new(text: &str, base: PathBuf, environment: Environment) -> Result<Self, ConfigError> {
        let table = text.parse::<Table>().map_err(|error| {
            // The place alone: the parser's own message quotes the line, which may hold anything.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            ConfigError { problems: vec![Problem { setting: format!("line {line}"), must: "TOML".into() }] }
        })?;
        Ok(Self {
            table,
            base,
            environment: environment.into_iter().collect(),
            asked: BTreeSet::new(),
            problems: vec![],
        })
    }

    pub(super) fn text(&mut self, setting: &'static str, default: &str) -> Option<String> {
        self.take(setting, "text", value::text, || Some(default.to_owned()))
    }
    /// What need not be given.
    pub(super) fn opt<T>(
        &mut self,
        setting: &'static str,
        must: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        self.take(setting, must, parse, || None)
    }
    /// True or false; false, if it is not given.
    pub(super) fn flag(&mut self, setting: &'static str) -> Option<bool> {
        self.take(setting, "true or false", value::flag, || Some(false))
    }
    /// Adds that `settings` must not be given, for each that is.
    pub(super) fn refuse_set(&mut self, settings: &[&'static str], why: &str) {
        for setting in settings {
            if self.is_set(setting) {
                self.refuse::<()>(setting, why);
            }
        }
    }
    /// Whether it is given, right or wrong.
    fn is_set(&self, setting: &str) -> bool {
        self.environment.contains_key(&variable(setting)) || find(&self.table, setting).is_some()
    }
    /// Adds that it is needed, if it is not given; what is given and wrong is a problem already.
    pub(super) fn need(&mut self, setting: &'static str, what: &str) {
        if !self.is_set(setting) {
            self.refuse::<()>(setting, format!("needed: {what}"));
        }
    }
    pub(super) fn texts(&mut self, setting: &'static str) -> Vec<String> {
        self.take(setting, "a list of texts", value::texts, || Some(Vec::new())).unwrap_or_default()
    }
    pub(super) fn address(&mut self, setting: &'static str, default: SocketAddr) -> Option<SocketAddr> {
        let parse = |value: &Value| value.as_str()?.parse().ok();
        self.take(setting, "an address and port such as 127.0.0.1:7443", parse, || Some(default))
    }
    pub(super) fn number(&mut self, setting: &'static str, default: u32, range: RangeInclusive<u32>) -> Option<u32> {
        let must = format!("a number from {} to {}", range.start(), range.end());
        let parse = |value: &Value| value::number(value).filter(|number| range.contains(number));
        self.take(setting, &must, parse, || Some(default))
    }
    pub(super) fn duration(
        &mut self,
        setting: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let (least, most) = (range.start().as_secs(), range.end().as_secs());
        let must = format!("seconds, or a time such as 1h30m; from {least}s to {most}s");
        let parse = |value: &Value| value::duration(value).filter(|span| range.contains(span));
        self.take(setting, &must, parse, || Some(default))
    }
    /// A duration that need not be given; None: it does not fit.
    #[expect(clippy::option_option, reason = "not given is a choice, and what does not fit is a problem")]
    pub(super) fn opt_duration(
        &mut self,
        setting: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Option<Duration>> {
        let (least, most) = (range.start().as_secs(), range.end().as_secs());
        let must = format!("seconds, or a time such as 90d; from {least}s to {most}s");
        let parse = |value: &Value| value::duration(value).filter(|span| range.contains(span)).map(Some);
        self.take(setting, &must, parse, || Some(None))
    }
    pub(super) fn one_of<T: Copy>(
        &mut self,
        setting: &'static str,
        default: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let find = |text: &str| choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        self.take(setting, &names.join(" or "), |value| value.as_str().and_then(find), || find(default))
    }
    /// A path; one that stands in the file is relative to the file.
    pub(super) fn path(&mut self, setting: &'static str) -> Option<PathBuf> {
        let base = if self.environment.contains_key(&variable(setting)) { PathBuf::new() } else { self.base.clone() };
        self.take(setting, "a path", value::text, || None).map(|text| base.join(text))
    }
    pub(super) fn needed_path(&mut self, setting: &'static str) -> Option<PathBuf> {
        self.need(setting, "a path");
        self.path(setting)
    }
    /// The master key that the environment holds.
    pub(super) fn master_key(&self) -> Option<SecretBytes> {
        self.environment.get(MASTER_KEY).map(|text| SecretBytes::new(text.clone().into_bytes()))
    }
    /// Adds a problem.
    pub(super) fn refuse<T>(&mut self, setting: &'static str, must: impl Into<String>) -> Option<T> {
        let setting = self.written(setting);
        self.problems.push(Problem { setting, must: must.into() });
        None
    }

    /// All problems, the settings that nobody asked for among them.
    pub(super) fn problems(mut self) -> Vec<Problem> {
        let known: BTreeSet<_> = self.asked.iter().map(|setting| variable(setting)).collect();
        let strangers = self
            .environment
            .keys()
            .filter(|name| name.starts_with(PREFIX) && name.as_str() != FOREIGN && !known.contains(*name));
        let mut unknown: Vec<String> = strangers.cloned().collect();
        leaves(&self.table, "", &mut |setting| {
            if !self.asked.contains(setting) {
                unknown.push(setting.to_owned());
            }
        });
        self.problems.extend(unknown.into_iter().map(|setting| Problem { setting, must: "no such setting".into() }));
        self.problems
    }

    fn take<T>(
        &mut self,
        setting: &'static str,
        must: &str,
        parse: impl Fn(&Value) -> Option<T>,
        default: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        self.asked.insert(setting);
        let value = match self.environment.get(&variable(setting)) {
            Some(text) => Some(Value::String(text.clone())),
            None => find(&self.table, setting).cloned(),
        };
        let Some(value) = value else { return default() };
        match parse(&value) {
            Some(parsed) => Some(parsed),
            None => self.refuse(setting, format!("must be {must}")),
        }
    }

    /// The setting as it is written where it stands.
    fn written(&self, setting: &str) -> String {
        let variable = variable(setting);
        if self.environment.contains_key(&variable) { variable } else { setting.to_owned() }
    }
}

/// The environment variable of `setting`.
fn variable(setting: &str) -> String {
    format!("{PREFIX}{}", setting.replace('.', "_").to_ascii_uppercase())
}

fn find<'a>(table: &'a Table, setting: &str) -> Option<&'a Value> {
    match setting.split_once('.') {
        Some((section, rest)) => find(table.get(section)?.as_table()?, rest),
        None => table.get(setting),
    }
}

fn leaves(table: &Table, section: &str, found: &mut dyn FnMut(&str)) {
    for (name, value) in table {
        let path = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        match value {
            Value::Table(inner) => leaves(inner, &path, found),
            _ => found(&path),
        }
    }
}
