//! What became of each key of an import, and of all.

use ibyok_client::pb;
use serde_json::{Value, json};

use super::record::Record;
use crate::{
    failure::{Exit, Failure},
    output::{Output, Table},
    session::short,
};

/// The answers so far.
pub(super) struct Report {
    dry_run: bool,
    rows: Vec<Row>,
}

struct Row {
    line: u64,
    /// Key id, or a variable that holds no key.
    name: String,
    result: Outcome,
    key: Option<pb::Key>,
    warnings: Vec<pb::Warning>,
    /// Why it was refused: what happened, with what to do.
    failure: Option<(String, Failure)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Stored,
    WouldStore,
    Skipped,
    NotAKey,
    Refused,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::WouldStore => "would_store",
            Self::Skipped => "skipped",
            Self::NotAKey => "not_a_key",
            Self::Refused => "refused",
        }
    }
}

impl Report {
    pub(super) fn new(dry_run: bool) -> Self {
        Self { dry_run, rows: Vec::new() }
    }

    /// A variable of a `.env` file that is left out.
    pub(super) fn not_a_key(&mut self, record: &Record) {
        let name = record.variable.clone();
        let row = Row { line: record.line, name, result: Outcome::NotAKey, key: None, warnings: vec![], failure: None };
        self.rows.push(row);
    }

    pub(super) fn answered(&mut self, record: &Record, answer: pb::ImportKeysResponse) {
        let status = answer.status.unwrap_or_default();
        let result = match (status.code, status.reason.as_str()) {
            (0, "KEY_EXISTS") => Outcome::Skipped,
            (0, _) if self.dry_run => Outcome::WouldStore,
            (0, _) => Outcome::Stored,
            _ => Outcome::Refused,
        };
        let failure = (result == Outcome::Refused).then(|| {
            let reason = status.reason.clone();
            let failure = Failure::from(status);
            let failure = match reason.as_str() {
                "REQUEST_ID_REUSED" => failure.next(
                    "this id was imported within the last 24 hours with other content: change it by `ibyok keys rotate`, \
                     or import it anew with --import-id TEXT",
                ),
                "KEY_EXISTS" => failure.next("choose another name, or leave it alone with --skip-existing"),
                "PROVIDER_AMBIGUOUS" => failure.next("name its provider in the file, or --provider PROVIDER for all"),
                _ => failure,
            };
            (reason, failure)
        });
        let name = record.id.clone();
        let row = Row { line: record.line, name, result, key: answer.key, warnings: answer.warnings, failure };
        self.rows.push(row);
    }

    pub(super) fn show(&self, out: &mut Output) -> Result<(), Failure> {
        let counts = self.counts();
        if out.is_document() {
            let summary: Value =
                counts.iter().map(|(outcome, count)| (outcome.as_str().to_owned(), json!(count))).collect();
            let results: Vec<_> = self.rows.iter().map(Row::json).collect();
            return out.document(&json!({ "results": results, "summary": summary, "dry_run": self.dry_run }));
        }
        if !self.rows.is_empty() {
            let mut table = Table::new(["LINE", "NAME", "RESULT", "PROVIDER", "PREVIEW", "NOTE"]);
            self.rows.iter().for_each(|row| table.row(row.cells()));
            out.table(&table)?;
        }
        for row in &self.rows {
            if let Some((_, failure)) = &row.failure {
                out.failure(&failure.clone().about(&format!("line {}, {}", row.line, row.name)));
            }
            for warning in &row.warnings {
                out.note(&format!("warning: line {}, {}: {} ({})", row.line, row.name, warning.message, warning.code));
            }
        }
        let said = counts.iter().filter(|(_, count)| *count > 0);
        let said: Vec<_> =
            said.map(|(outcome, count)| format!("{count} {}", outcome.as_str().replace('_', " "))).collect();
        out.note(&said.join(", "));
        Ok(())
    }

    /// A failure where a key was refused.
    pub(super) fn conclude(&self) -> Result<(), Failure> {
        let (refused, all) = (self.count(Outcome::Refused), self.rows.len() - self.count(Outcome::NotAKey));
        if refused == 0 {
            return Ok(());
        }
        let not_done = if self.dry_run { "would be refused" } else { "were refused" };
        Err(Failure::new(
            Exit::Partly,
            format!("{refused} of {all} keys {not_done}"),
            "mend what is said above and run it again: what is stored is not stored twice",
        ))
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.rows.iter().filter(|row| row.result == outcome).count()
    }

    fn counts(&self) -> [(Outcome, usize); 5] {
        [Outcome::Stored, Outcome::WouldStore, Outcome::Skipped, Outcome::NotAKey, Outcome::Refused]
            .map(|outcome| (outcome, self.count(outcome)))
    }
}

impl Row {
    fn json(&self) -> Value {
        json!({
            "line": self.line,
            "name": self.key.as_ref().map_or(&self.name, |key| &key.name),
            "result": self.result.as_str(),
            "provider": self.key.as_ref().map(|key| &key.provider),
            "preview": self.key.as_ref().map(|key| &key.preview),
            "reason": self.failure.as_ref().map(|(reason, _)| reason),
            "error": self.failure.as_ref().and_then(|(_, failure)| failure.happened()),
            "warnings": super::super::view::warnings_json(&self.warnings),
        })
    }

    fn cells(&self) -> Vec<String> {
        let key = self.key.clone().unwrap_or_default();
        let note = match self.result {
            Outcome::Skipped => "is there already".to_owned(),
            Outcome::NotAKey => "no provider's key".to_owned(),
            Outcome::Refused => self.failure.as_ref().map(|(reason, _)| reason.clone()).unwrap_or_default(),
            Outcome::Stored | Outcome::WouldStore => {
                self.warnings.iter().map(|warning| warning.code.as_str()).collect::<Vec<_>>().join(" ")
            }
        };
        vec![
            self.line.to_string(),
            short(&self.name).to_owned(),
            self.result.as_str().replace('_', " "),
            key.provider,
            key.preview,
            note,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, testing::output};

    fn report() -> Report {
        let mut report = Report::new(false);
        let record = |line, id: &str| Record { line, id: id.into(), variable: id.to_uppercase(), ..Default::default() };
        let stored = pb::Key { name: "orgs/dev/keys/a".into(), provider: "openai".into(), ..Default::default() };
        report.answered(&record(2, "a"), pb::ImportKeysResponse { key: Some(stored.clone()), ..Default::default() });
        let status = |code, reason: &str| {
            Some(pb::ItemStatus { code, reason: reason.into(), message: "no".into(), ..Default::default() })
        };
        let skipped =
            pb::ImportKeysResponse { status: status(0, "KEY_EXISTS"), key: Some(stored), ..Default::default() };
        report.answered(&record(3, "b"), skipped);
        let refused = pb::ImportKeysResponse { status: status(6, "REQUEST_ID_REUSED"), ..Default::default() };
        report.answered(&record(4, "c"), refused);
        report.not_a_key(&record(5, "d"));
        report
    }

    #[test]
    fn each_key_has_its_result_and_all_have_a_summary() {
        let (mut out, stdout, stderr) = output(Format::Table, false);
        report().show(&mut out).unwrap();
        let lines: Vec<_> = stdout.text().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert!(lines[2].starts_with("3     b     skipped"), "{lines:?}");
        let text = stderr.text();
        assert!(text.contains("error: line 4, c: no (REQUEST_ID_REUSED)") && text.contains("--import-id"), "{text}");
        assert!(text.ends_with("1 stored, 1 skipped, 1 not a key, 1 refused\n"), "{text}");
        let failure = report().conclude().unwrap_err();
        assert_eq!((failure.exit as u8, failure.to_string().contains("1 of 3 keys")), (9, true));
    }

    #[test]
    fn json_has_all_of_it() {
        let (mut out, stdout, stderr) = output(Format::Json, false);
        report().show(&mut out).unwrap();
        let json: Value = serde_json::from_str(&stdout.text()).unwrap();
        assert_eq!((json["results"].as_array().unwrap().len(), &json["summary"]["refused"]), (4, &json!(1)));
        assert_eq!(json["results"][2]["reason"], "REQUEST_ID_REUSED");
        assert_eq!(json["results"][3]["name"], "D");
        assert_eq!(stderr.text(), "");
    }
}
