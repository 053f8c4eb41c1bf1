//! The only place that writes: standard output for what was asked, standard error for all else. What
//! came from elsewhere is shown without control characters, so that no value drives a terminal.

use std::io::{self, IsTerminal as _, Write};

use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    failure::Failure,
    terminal::{Color, Paint, terminal_width},
    yaml,
};

/// How answers are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people; not stable.
    Table,
    /// For programs: snake_case, RFC 3339 times, stable.
    Json,
    /// The same as JSON, in block style.
    Yaml,
}

/// Where a command writes.
pub(crate) struct Output {
    format: Format,
    stdout: Box<dyn Write>,
    stderr: Box<dyn Write>,
    stdout_is_terminal: bool,
    /// Columns of the terminal that standard output is.
    width: Option<usize>,
    stdout_paint: Paint,
    stderr_paint: Paint,
}

/// A cell is not cut below this.
const CELL_WIDTH_MIN: usize = 8;

type Written = Result<(), Failure>;

impl Output {
    pub(crate) fn standard(format: Format, color: Color) -> Self {
        let (stdout_is_terminal, stderr_is_terminal) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self {
            format,
            stdout: Box::new(io::stdout().lock()),
            stderr: Box::new(io::stderr().lock()),
            stdout_is_terminal,
            width: if stdout_is_terminal { terminal_width() } else { None },
            stdout_paint: color.paint(stdout_is_terminal),
            stderr_paint: color.paint(stderr_is_terminal),
        }
    }
    /// Whether the answer is a document for programs, JSON or YAML.
    pub(crate) fn is_document(&self) -> bool {
        self.format != Format::Table
    }
    pub(crate) fn is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }
    /// Columns of the terminal, where there is one.
    pub(crate) fn width(&self) -> Option<usize> {
        self.width
    }
    /// One line for people.
    pub(crate) fn line(&mut self, text: &str) -> Written {
        writeln!(self.stdout, "{}", printable(text))?;
        Ok(())
    }
    /// One document: JSON on one line for programs, or indented on a terminal; or YAML.
    pub(crate) fn document(&mut self, value: &Value) -> Written {
        let text = Zeroizing::new(match self.format {
            Format::Yaml => yaml::text(value),
            _ if self.stdout_is_terminal => format!("{value:#}\n"),
            _ => format!("{value}\n"),
        });
        self.stdout.write_all(text.as_bytes())?;
        Ok(())
    }
    /// One document of many: a line of JSON, or a document of a YAML stream.
    pub(crate) fn document_of_many(&mut self, value: &Value) -> Written {
        match self.format {
            Format::Yaml => write!(self.stdout, "---\n{}", yaml::text(value))?,
            _ => writeln!(self.stdout, "{value}")?,
        }
        self.stdout.flush()?;
        Ok(())
    }
    /// The value as a document, or as lines for people.
    pub(crate) fn show(&mut self, value: &Value, lines: impl FnOnce() -> Vec<String>) -> Written {
        if self.is_document() {
            return self.document(value);
        }
        lines().iter().try_for_each(|line| self.line(line))
    }
    /// A listing; that it is empty is said on standard error.
    pub(crate) fn list(&mut self, name: &str, values: Vec<Value>, table: Table, none: &str) -> Written {
        if self.is_document() {
            return self.document(&serde_json::json!({ name: values }));
        }
        if table.rows.is_empty() {
            self.note(none);
            return Ok(());
        }
        self.table(&table)
    }
    /// Aligned columns, made to fit the terminal.
    pub(crate) fn table(&mut self, table: &Table) -> Written {
        let lines = table.lines_within(self.width);
        let mut lines = lines.iter();
        if let Some(header) = lines.next() {
            writeln!(self.stdout, "{}", self.stdout_paint.bold(header))?;
        }
        lines.try_for_each(|line| self.line(line))
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
    /// What is no text for people, as it is.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Written {
        self.stdout.write_all(bytes)?;
        Ok(())
    }
    /// Beside the answer: on standard error. Whoever no longer reads that stops nothing.
    pub(crate) fn note(&mut self, text: &str) {
        let _ = writeln!(self.stderr, "{}", self.stderr_paint.label(&printable(text)));
    }
    /// Everything that was written is out: before another program takes this one's place.
    pub(crate) fn flush(&mut self) {
        let _ = self.stdout.flush();
        let _ = self.stderr.flush();
    }
    /// Asks on standard error, without an end of line. What nobody was asked, nobody agreed to: that
    /// is a failure, whoever reads.
    pub(crate) fn ask(&mut self, text: &str) -> Written {
        let asked = write!(self.stderr, "{} ", printable(text)).and_then(|()| self.stderr.flush());
        asked.map_err(|error| Failure::unwritten(&error))
    }
    /// Why the command failed. Nothing can be done if even this can't be written.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        for line in failure.to_string().lines() {
            self.note(line);
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
        Self::with_header(header.map(str::to_owned).to_vec())
    }
    pub(crate) fn with_header(header: Vec<String>) -> Self {
        Self { rows: Vec::new(), header }
    }
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines_within(None)
    }
    /// At most `room` wide where that is possible: columns that are empty throughout go first, then
    /// the widest cells are cut, down to a width at which they still say something.
    pub(crate) fn lines_within(&self, room: Option<usize>) -> Vec<String> {
        let all = || std::iter::once(&self.header).chain(&self.rows);
        let mut widths = vec![0; self.header.len()];
        for row in all() {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if let Some(room) = room {
            self.shrink(&mut widths, room);
        }
        all()
            .map(|row| {
                let shown = row.iter().zip(&widths).filter(|(_, width)| **width > 0);
                let cells: Vec<_> = shown.map(|(cell, width)| format!("{:width$}", cut(cell, *width))).collect();
                cells.join("  ").trim_end().to_owned()
            })
            .collect()
    }

    fn shrink(&self, widths: &mut [usize], room: usize) {
        let total = |widths: &[usize]| {
            let shown = widths.iter().filter(|width| **width > 0).count();
            widths.iter().sum::<usize>() + 2 * shown.saturating_sub(1)
        };
        for (column, width) in widths.iter_mut().enumerate() {
            if self.rows.iter().all(|row| row.get(column).is_none_or(String::is_empty)) && !self.rows.is_empty() {
                *width = 0;
            }
        }
        while total(widths) > room {
            let Some(widest) = widths.iter_mut().max().filter(|width| **width > CELL_WIDTH_MIN) else { return };
            *widest -= 1;
        }
    }
}

/// `cell` in at most `width` characters, with a sign that more was there.
fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
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
        let output = Output {
            format,
            stdout: Box::new(stdout.clone()),
            stderr: Box::new(stderr.clone()),
            stdout_is_terminal,
            width: None,
            stdout_paint: Paint::default(),
            stderr_paint: Paint::default(),
        };
        (output, stdout, stderr)
    }

    impl Output {
        /// As if the terminal were so wide.
        pub(crate) fn limit(&mut self, width: usize) {
            self.width = Some(width);
        }
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
    fn a_narrow_terminal_loses_empty_columns_and_the_ends_of_long_cells() {
        let mut table = Table::new(["NAME", "EMPTY", "DESCRIPTION"]);
        table.row(vec!["openai-prod".into(), "".into(), "the key of the search team's night job".into()]);
        assert_eq!(
            table.lines_within(Some(30)),
            ["NAME         DESCRIPTION", "openai-prod  the key of the s…"],
            "30 columns"
        );
        assert_eq!(
            table.lines_within(Some(200)),
            ["NAME         DESCRIPTION", "openai-prod  the key of the search team's night job"]
        );
        let narrowest = table.lines_within(Some(3));
        assert_eq!(narrowest[1], "openai-…  the key…", "a cell still says something");
    }

    #[test]
    fn color_is_for_headers_and_labels_and_only_where_it_is_wanted() {
        let (mut out, stdout, stderr) = output(Format::Table, true);
        out.stdout_paint = Color::Always.paint(false);
        out.stderr_paint = Color::Always.paint(false);
        out.list("rows", vec![], table(), "none").unwrap();
        out.note("warning: \u{1b}[31mred");
        assert!(stdout.text().starts_with("\u{1b}[1mNAME         STATE     NOTE\u{1b}[0m\nopenai-prod  active\n"));
        assert_eq!(stderr.text(), "\u{1b}[33mwarning:\u{1b}[0m \u{fffd}[31mred\n");
    }

    #[test]
    fn yaml_is_what_json_is() {
        let (mut out, stdout, _) = output(Format::Yaml, false);
        out.list("keys", vec![json!({"name": "a"})], Table::new(["NAME"]), "no keys").unwrap();
        out.document_of_many(&json!({"id": "1"})).unwrap();
        assert_eq!(stdout.text(), "keys:\n  - name: a\n---\nid: \"1\"\n");
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
    fn nobody_reading_the_answer_is_no_failure_and_a_question_to_nobody_is_one() {
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
        out.stderr = Box::new(Closed);
        out.note("goes on");
        assert_eq!(out.ask("sure?").unwrap_err().exit, crate::failure::Exit::Internal);
    }
}
