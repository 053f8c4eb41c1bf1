//! Keys from `.env` files. The ready-made parsers put variables of this process's own environment in
//! the place of `$NAME`, and repeat a line that they can't read in their errors; neither may happen to
//! a key, so that the little grammar is read here: NAME=VALUE, `export`, comments, single quotes (as it
//! is), double quotes (with \n, \r, \t, \", \\ and \$), quoted values over several lines.

use ibyok_client::ProviderKey;

use super::{Problem, record::Record};

pub(super) fn records(bytes: &[u8]) -> Result<Vec<Record>, Vec<Problem>> {
    let text = str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u64;
        vec![Problem::new(line, None, "is not UTF-8 text")]
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut records, mut problems) = (Vec::new(), Vec::new());
    let mut lines = Lines { rest: text, line: 0 };
    while let Some(first) = lines.next() {
        match assignment(first, &mut lines) {
            Ok(Some(record)) => records.push(record),
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(records) } else { Err(problems) }
}

struct Lines<'t> {
    rest: &'t str,
    /// Number of the line that was taken last.
    line: u64,
}

impl<'t> Lines<'t> {
    fn next(&mut self) -> Option<&'t str> {
        if self.rest.is_empty() {
            return None;
        }
        self.line += 1;
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        Some(line.strip_suffix('\r').unwrap_or(line))
    }
}

/// None for an empty line and a comment.
fn assignment(first: &str, lines: &mut Lines<'_>) -> Result<Option<Record>, Problem> {
    let line = lines.line;
    let text = first.trim_start();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let exported = text.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t']));
    let split = exported.unwrap_or(text).split_once('=');
    let Some((name, value)) = split.map(|(name, value)| (name.trim(), value)).filter(|(name, _)| is_name(name)) else {
        return Err(Problem::new(line, None, "is not NAME=VALUE"));
    };
    let secret = value_of(value.trim_start(), lines).map_err(|problem| Problem::new(line, Some(name), problem))?;
    Ok(Some(Record {
        line,
        id: key_id(name),
        variable: name.to_owned(),
        secret: (!secret.is_empty()).then(|| ProviderKey::new(secret)),
        ..Default::default()
    }))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// `OPENAI_API_KEY`: `openai-api-key`
fn key_id(name: &str) -> String {
    name.trim_matches(['_', '-', '.']).to_ascii_lowercase().replace('_', "-")
}

fn value_of(text: &str, lines: &mut Lines<'_>) -> Result<String, &'static str> {
    match text.chars().next() {
        Some(quote @ ('"' | '\'')) => quoted(quote, text.get(1..).unwrap_or_default(), lines),
        // Quotes for some readers, part of the value for others: half of them would get another key.
        Some('`') => Err("begins with a backtick: quote it with ' or \""),
        _ => {
            let comment = text.char_indices().find(|(at, c)| {
                let before = text.get(..*at).unwrap_or_default();
                *c == '#' && (before.is_empty() || before.ends_with([' ', '\t']))
            });
            let end = comment.map_or(text.len(), |(at, _)| at);
            Ok(text.get(..end).unwrap_or_default().trim_end().to_owned())
        }
    }
}

/// Up to the closing quote, perhaps on a later line; after it only a comment.
fn quoted(quote: char, first: &str, lines: &mut Lines<'_>) -> Result<String, &'static str> {
    let mut value = String::new();
    let mut line = first;
    loop {
        let mut characters = line.chars();
        while let Some(c) = characters.next() {
            match c {
                '\\' if quote == '"' => match characters.next() {
                    Some('n') => value.push('\n'),
                    Some('r') => value.push('\r'),
                    Some('t') => value.push('\t'),
                    Some(escaped @ ('"' | '\\' | '$' | '\'')) => value.push(escaped),
                    Some(other) => value.extend(['\\', other]),
                    None => value.push('\\'),
                },
                c if c == quote => {
                    let after = characters.as_str().trim_start();
                    let is_end = after.is_empty() || after.starts_with('#');
                    return if is_end { Ok(value) } else { Err("has something behind its closing quote") };
                }
                c => value.push(c),
            }
        }
        value.push('\n');
        line = lines.next().ok_or("has a quote that is not closed")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_read() {
        let text = "# comment\r\n\r\n\
                    OPENAI_API_KEY=canary-1\r\n\
                    export  ANTHROPIC_API_KEY = \"can\\\"ary $HOME \\$2\" # why\n\
                    SINGLE='can\\nary # \"3\"'\n\
                    PLAIN=canary#4 # comment\n\
                    EMPTY=\n\
                    EQUALS=a=b==\n\
                    LONG=\"one\ntwo\"\n\
                    _ODD.NAME-=x";
        let records = records(text.as_bytes()).unwrap();
        let read: Vec<_> = records
            .iter()
            .map(|record| {
                let secret = record.secret.as_ref().map_or("", ProviderKey::expose_secret);
                (record.line, record.id.as_str(), secret)
            })
            .collect();
        assert_eq!(
            read,
            [
                (3, "openai-api-key", "canary-1"),
                (4, "anthropic-api-key", "can\"ary $HOME $2"),
                (5, "single", "can\\nary # \"3\""),
                (6, "plain", "canary#4"),
                (7, "empty", ""),
                (8, "equals", "a=b=="),
                (9, "long", "one\ntwo"),
                (11, "odd.name", "x"),
            ]
        );
        assert_eq!(records[0].variable, "OPENAI_API_KEY");
    }

    #[test]
    fn what_can_not_be_read_is_named_by_line_and_name_and_never_shown() {
        let text = "canary without equals\n1CANARY=x\nA=\"canary\" canary\nB=ok\nC='canary\nnever closed\n";
        let problems = records(text.as_bytes()).unwrap_err();
        let places: Vec<_> = problems.iter().map(|problem| (problem.line, problem.field.as_deref())).collect();
        assert_eq!(places, [(1, None), (2, None), (3, Some("A")), (5, Some("C"))]);
        assert!(!format!("{problems:?}").to_lowercase().contains("canary"));
        let problems = records(b"A=`canary`\nB=c`d\nC='`e'\n").unwrap_err();
        assert_eq!((problems.len(), problems[0].line, problems[0].field.as_deref()), (1, 1, Some("A")));
        assert!(!format!("{problems:?}").contains("canary"));
        assert_eq!(records(b"A=1\nB=\xff\n").unwrap_err()[0].line, 2);
    }
}
