//! The only place that writes: standard output for what was asked, standard error for all else. What
//! came from elsewhere is shown without control characters, so that no value drives a terminal.

use std::io::{self, IsTerminal as _, Write};

use serde_json::Value;
use zeroize::Zeroizing;

use crate::failure::Failure;

/// How answers are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people; not stable.
    Table,
    /// For programs: snake_case, RFC 3339 times, stable.
    Json,
}

/// Where a command writes.
pub(crate) struct Output {
    format: Format,
    stdout: Box<dyn Write>,
    stderr: Box<dyn Write>,
    stdout_is_terminal: bool,
}

type Written = Result<(), Failure>;

impl Output {
    pub(crate) fn standard(format: Format) -> Self {
        Self {
            format,
            stdout: Box::new(io::stdout().lock()),
            stderr: Box::new(io::stderr().lock()),
            stdout_is_terminal: io::stdout().is_terminal(),
        }
    }
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }
    pub(crate) fn is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }
    /// One line for people.
    pub(crate) fn line(&mut self, text: &str) -> Written {
        writeln!(self.stdout, "{}", printable(text))?;
        Ok(())
    }
    /// One document on one line for programs, or indented on a terminal.
    pub(crate) fn json(&mut self, value: &Value) -> Written {
        let text = if self.stdout_is_terminal { format!("{value:#}") } else { value.to_string() };
        writeln!(self.stdout, "{}", *Zeroizing::new(text))?;
        Ok(())
    }
    /// One document of many, always on one line.
    pub(crate) fn json_line(&mut self, value: &Value) -> Written {
        writeln!(self.stdout, "{value}")?;
        Ok(())
    }
    /// The value as JSON, or as lines for people.
    pub(crate) fn show(&mut self, value: &Value, lines: impl FnOnce() -> Vec<String>) -> Written {
        if self.is_json() {
            return self.json(value);
        }
        lines().iter().try_for_each(|line| self.line(line))
    }
    /// A listing; that it is empty is said on standard error.
    pub(crate) fn list(&mut self, name: &str, values: Vec<Value>, table: Table, none: &str) -> Written {
        if self.is_json() {
            return self.json(&serde_json::json!({ name: values }));
        }
        if table.rows.is_empty() {
            return self.note(none);
        }
        table.lines().iter().try_for_each(|line| self.line(line))
    }
    /// A secret as it is; with an end of line only for a reader's eyes.
    pub(crate) fn secret(&mut self, secret: &str) -> Written {
        self.stdout.write_all(secret.as_bytes())?;
        if self.stdout_is_terminal {
            self.stdout.write_all(b"\n")?;
        }
        self.stdout.flush()?;
        Ok(())
    }
    /// Beside the answer: on standard error.
    pub(crate) fn note(&mut self, text: &str) -> Written {
        writeln!(self.stderr, "{}", printable(text))?;
        Ok(())
    }
    /// Asks on standard error, without an end of line.
    pub(crate) fn ask(&mut self, text: &str) -> Written {
        write!(self.stderr, "{} ", printable(text))?;
        self.stderr.flush()?;
        Ok(())
    }
    /// Why the command failed. Nothing can be done if even this can't be written.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        for line in failure.to_string().lines() {
            let _ = self.note(line);
        }
    }
}

/// Aligned columns without borders.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    header: Vec<String>,
}

impl Table {
    pub(crate) fn new<const N: usize>(header: [&str; N]) -> Self {
        Self { rows: Vec::new(), header: header.map(str::to_owned).to_vec() }
    }
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut widths = vec![0; self.header.len()];
        let all = || std::iter::once(&self.header).chain(&self.rows);
        for row in all() {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        all()
            .map(|row| {
                let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
                cells.join("  ").trim_end().to_owned()
            })
            .collect()
    }
}

/// `name: value` lines, aligned; an empty value is left out.
pub(crate) fn fields(fields: &[(&str, String)]) -> Vec<String> {
    let there = || fields.iter().filter(|(_, value)| !value.is_empty());
    let width = there().map(|(name, _)| name.len() + 1).max().unwrap_or_default();
    there().map(|(name, value)| format!("{:width$} {value}", format!("{name}:"))).collect()
}

fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
pub(crate) mod testing {
    use std::{cell::RefCell, rc::Rc};

    use super::*;

    /// What was written.
    #[derive(Clone, Default)]
    pub(crate) struct Written(Rc<RefCell<Vec<u8>>>);

    impl Written {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output, and what it wrote to standard output and standard error.
    pub(crate) fn output(format: Format, stdout_is_terminal: bool) -> (Output, Written, Written) {
        let (stdout, stderr) = (Written::default(), Written::default());
        let output =
            Output { format, stdout: Box::new(stdout.clone()), stderr: Box::new(stderr.clone()), stdout_is_terminal };
        (output, stdout, stderr)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{testing::output, *};

    fn table() -> Table {
        let mut table = Table::new(["NAME", "STATE", "NOTE"]);
        table.row(vec!["openai-prod".into(), "active".into(), "".into()]);
        table.row(vec!["é".into(), "disabled".into(), "two\nlines\u{1b}[31m".into()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_control_characters_shown_as_such() {
        assert_eq!(
            table().lines(),
            [
                "NAME         STATE     NOTE",
                "openai-prod  active",
                "é            disabled  two\u{fffd}lines\u{fffd}[31m",
            ]
        );
    }

    #[test]
    fn an_empty_listing_says_so_beside_the_answer() {
        let (mut out, stdout, stderr) = output(Format::Table, true);
        out.list("keys", vec![], Table::new(["NAME"]), "no keys").unwrap();
        assert_eq!((stdout.text().as_str(), stderr.text().as_str()), ("", "no keys\n"));

        let (mut out, stdout, stderr) = output(Format::Json, false);
        out.list("keys", vec![], Table::new(["NAME"]), "no keys").unwrap();
        assert_eq!((stdout.text().as_str(), stderr.text().as_str()), ("{\"keys\":[]}\n", ""));
    }

    #[test]
    fn json_is_one_line_for_programs_and_sorted() {
        let (mut out, stdout, _) = output(Format::Json, false);
        out.show(&json!({"b": 1, "a": null}), || unreachable!("not for people")).unwrap();
        assert_eq!(stdout.text(), "{\"a\":null,\"b\":1}\n");
    }

    #[test]
    fn a_secret_is_written_exactly_but_for_eyes() {
        for (is_terminal, written) in [(false, "sk-1"), (true, "sk-1\n")] {
            let (mut out, stdout, _) = output(Format::Table, is_terminal);
            out.secret("sk-1").unwrap();
            assert_eq!(stdout.text(), written);
        }
    }

    #[test]
    fn fields_are_aligned_and_empty_ones_left_out() {
        assert_eq!(
            fields(&[("name", "a".into()), ("description", String::new()), ("state", "active".into())]),
            ["name:  a", "state: active"]
        );
    }

    #[test]
    fn nobody_reading_is_no_failure() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut out, _, _) = output(Format::Table, false);
        out.stdout = Box::new(Closed);
        assert_eq!(out.line("text").unwrap_err().exit, crate::failure::Exit::Ok);
    }
}
