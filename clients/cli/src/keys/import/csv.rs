//! Keys from CSV (RFC 4180) with a header. What stands in the header is never repeated in an error:
//! of a file without one it would be the first key.

use csv::{ByteRecord, ErrorKind, ReaderBuilder};

use super::{
    Problem,
    record::{FIELDS, Record},
};

pub(super) fn records(bytes: &[u8]) -> Result<Vec<Record>, Vec<Problem>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut lines = Lines { bytes, counted: 0, line: 1 };
    let mut reader = ReaderBuilder::new().from_reader(bytes);
    let header = reader.byte_headers().map_err(|error| vec![problem(&error, &mut lines)])?;
    let fields = fields(header).map_err(|problem| vec![problem])?;
    let (mut records, mut problems) = (Vec::new(), Vec::new());
    let mut row = ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut row) {
            Ok(false) => break,
            Ok(true) => match record(&fields, &row, &mut lines) {
                Ok(record) => records.push(record),
                Err(problem) => problems.push(problem),
            },
            Err(error) => problems.push(problem(&error, &mut lines)),
        }
    }
    if problems.is_empty() { Ok(records) } else { Err(problems) }
}

/// Which field each column is.
fn fields(header: &ByteRecord) -> Result<Vec<&'static str>, Problem> {
    let mut fields = Vec::new();
    for (n, name) in header.iter().enumerate() {
        let known = FIELDS.iter().copied().find(|field| name.trim_ascii().eq_ignore_ascii_case(field.as_bytes()));
        let column = format!("column {}", n + 1);
        let Some(field) = known else {
            return Err(Problem::new(1, Some(&column), format!("the header has none of {}", FIELDS.join(", "))));
        };
        if fields.contains(&field) {
            return Err(Problem::new(1, Some(&column), format!("the header has {field} twice")));
        }
        fields.push(field);
    }
    match ["name", "secret"].iter().find(|field| !fields.contains(field)) {
        Some(field) => Err(Problem::new(1, None, format!("the header has no {field}"))),
        None => Ok(fields),
    }
}

/// Which line a position is in. The reader's own count is one short after a CR LF.
struct Lines<'b> {
    bytes: &'b [u8],
    counted: usize,
    line: u64,
}

impl Lines<'_> {
    /// Of positions that do not go back.
    fn at(&mut self, position: Option<&csv::Position>) -> u64 {
        let byte = position.and_then(|position| usize::try_from(position.byte()).ok()).unwrap_or_default();
        let rest = self.bytes.get(byte..).unwrap_or_default();
        let ends = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let passed = self.bytes.get(self.counted..byte + ends).unwrap_or_default();
        self.line += passed.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.counted = self.counted.max(byte + ends);
        self.line
    }
}

fn record(fields: &[&'static str], row: &ByteRecord, lines: &mut Lines<'_>) -> Result<Record, Problem> {
    let line = lines.at(row.position());
    let mut record = Record { line, ..Default::default() };
    for (field, cell) in fields.iter().zip(row) {
        let text = str::from_utf8(cell).map_err(|_| Problem::new(line, Some(field), "is not UTF-8 text"))?;
        record.set(field, text)?;
    }
    Ok(record)
}

fn problem(error: &csv::Error, lines: &mut Lines<'_>) -> Problem {
    let line = lines.at(error.position());
    match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            Problem::new(line, None, format!("has {len} columns, the header {expected_len}"))
        }
        _ => Problem::new(line, None, "is no row of CSV"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<Problem> {
        records(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn rows_are_keys_with_their_lines() {
        let text = "\u{feff}Name, secret ,labels,description\r\n\
                    one,canary-1,team=a,\"with, comma and \"\"quotes\"\"\"\r\n\
                    two,\"canary\n-2\",,\r\n\r\n\
                    three,,,no value\r\n";
        let records = records(text.as_bytes()).unwrap();
        let lines: Vec<_> = records.iter().map(|record| record.line).collect();
        assert_eq!(lines, [2, 3, 6]);
        assert_eq!(records[0].description, "with, comma and \"quotes\"");
        assert_eq!(records[0].labels["team"], "a");
        assert_eq!(records[1].secret.as_ref().unwrap().expose_secret(), "canary\n-2");
        assert!(records[2].secret.is_none());
    }

    #[test]
    fn a_file_without_a_header_is_refused_and_its_first_key_not_shown() {
        let problem = problems("openai-prod,canary-secret\n");
        assert_eq!((problem[0].line, problem[0].field.as_deref()), (1, Some("column 1")));
        assert!(!format!("{problem:?}").contains("canary") && !format!("{problem:?}").contains("openai-prod"));
        assert_eq!(problems("")[0].problem, "the header has no name");
        assert_eq!(problems("name,provider\n")[0].problem, "the header has no secret");
        assert_eq!(problems("name,secret,NAME\n")[0].problem, "the header has name twice");
    }

    #[test]
    fn every_wrong_row_is_named_by_line_and_field_and_no_value_is_shown() {
        let text = "name,secret,kind\none,canary,live\ntwo,canary\n,canary,live\nfour,canary,canary\n";
        let problems = problems(text);
        let places: Vec<_> = problems.iter().map(|problem| (problem.line, problem.field.as_deref())).collect();
        assert_eq!(places, [(3, None), (4, Some("name")), (5, Some("kind"))]);
        assert!(!format!("{problems:?}").contains("canary"));
        let problems = records(b"name,secret\none,\xff\n").unwrap_err();
        assert_eq!((problems[0].line, problems[0].field.as_deref()), (2, Some("secret")));
    }
}
