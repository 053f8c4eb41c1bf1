//! `ibyok rewrap`: data keys under another KMS key, in one stream that goes on where it was cut.

use clap::Args;
use ibyok_client::pb;
use serde_json::{Value, json};
use tonic::Status;

use crate::{
    failure::{Exit, Failure},
    output::Output,
    session::Session,
    streams::{Patience, Progress},
};

const HELP: &str = "\
To leave a KMS key: name the new one (of an organization: `ibyok orgs update ORG --kms-key ID`; of the server: \
its setting), keep the old one readable, rewrap each organization and, with a token of it, `system`, and look \
with --dry-run that nothing is left. Then the vault needs the old one no more, but its backups do: keep it, \
disabled, until none is left from before the rewrap (keys.backup_retention of the server), point-in-time recovery \
included. Values are not decrypted, and keys can be retrieved and rotated meanwhile. What is under the new key already is passed over: after a cut run the same \
command again. Exits 9 when some keys could not be changed.

Examples:
  ibyok rewrap --dry-run
  ibyok rewrap --org acme --kms-key alias/ibyok-acme";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Rewrap {
    /// The KMS key to go to [default: the organization's own, or else the server's]
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    kms_key: String,
    /// Only look and count
    #[arg(long)]
    dry_run: bool,
}

/// What was said so far.
#[derive(Default)]
struct Report {
    /// None: nothing yet.
    last: Option<pb::RewrapKeysResponse>,
    failures: Vec<(String, Failure)>,
}

pub(crate) async fn run(args: Rewrap, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let mut request = pb::RewrapKeysRequest {
        parent: session.names.parent(),
        kms_key_id: args.kms_key,
        dry_run: args.dry_run,
        ..Default::default()
    };
    let (mut progress, mut patience, mut report) = (Progress::default(), Patience::default(), Report::default());
    let broken = loop {
        let before = report.done();
        let ended = stream(&request, session, &mut report, |report| {
            let count = |count| u64::try_from(count).unwrap_or_default();
            progress.is_at(count(report.done), count(report.total), out);
        });
        let Err(broken) = ended.await else { break None };
        let has_moved = report.done() > before;
        if !patience.again(&broken, has_moved).await {
            break Some(broken);
        }
        request.resume_token = report.last.as_ref().map(|last| last.resume_token.clone()).unwrap_or_default();
        if request.resume_token.is_empty() {
            report = Report::default();
        }
    };
    progress.end();
    report.show(args.dry_run, broken.is_none(), out)?;
    match broken {
        Some(broken) => Err(report.broken_off(broken)),
        None => report.conclude(),
    }
}

/// One stream, to its end.
async fn stream(
    request: &pb::RewrapKeysRequest,
    session: &Session,
    report: &mut Report,
    mut tell: impl FnMut(&pb::RewrapKeysResponse),
) -> Result<(), Status> {
    let mut reports = session.client.key_vault().rewrap_keys(request.clone()).await?.into_inner();
    while let Some(mut last) = reports.message().await? {
        for mut status in std::mem::take(&mut last.failures) {
            let name = status.metadata.remove("name").unwrap_or_default();
            report.failures.push((name, Failure::from(status)));
        }
        tell(&last);
        report.last = Some(last);
    }
    Ok(())
}

impl Report {
    fn done(&self) -> i64 {
        self.last.as_ref().map_or(0, |last| last.done)
    }

    /// All that is known; nothing where the vault said nothing.
    fn show(&self, dry_run: bool, is_complete: bool, out: &mut Output) -> Result<(), Failure> {
        let Some(pb::RewrapKeysResponse { done, total, failed, rewrapped, .. }) = &self.last else { return Ok(()) };
        if out.is_document() {
            let failures: Vec<_> = self.failures.iter().map(failure_json).collect();
            return out.document(&json!({
                "done": done, "total": total, "failed": failed, "rewrapped": rewrapped,
                "failures": failures, "dry_run": dry_run, "complete": is_complete,
            }));
        }
        for failure in self.by_reason() {
            out.failure(&failure);
        }
        let what = if dry_run { "would be rewrapped" } else { "rewrapped" };
        out.note(&format!("{done} keys looked at, {rewrapped} data keys {what}"));
        Ok(())
    }

    /// One for each reason, in the order in which they came, with its count and the first key of it.
    fn by_reason(&self) -> Vec<Failure> {
        let mut reasons: Vec<(usize, &(String, Failure))> = Vec::new();
        for failure in &self.failures {
            match reasons.iter_mut().find(|(_, (_, first))| first.reason() == failure.1.reason()) {
                Some((count, _)) => *count += 1,
                None => reasons.push((1, failure)),
            }
        }
        let told = reasons.into_iter().map(|(count, (name, failure))| {
            let failure = match failure.reason() {
                Some("KMS_KEY_REFUSED") => failure.clone().next(BOTH_KEYS),
                _ => failure.clone(),
            };
            match count {
                1 => failure.about(name),
                _ => failure.about(&format!("{count} x, first {name}")),
            }
        });
        told.collect()
    }

    fn conclude(&self) -> Result<(), Failure> {
        let failed = self.last.as_ref().map_or(0, |last| last.failed);
        if failed == 0 {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Partly,
            format!("{failed} could not be changed"),
            "mend what is said above (-o json names each) and run it again; until then the old KMS key is needed",
        ))
    }

    fn broken_off(&self, status: Status) -> Failure {
        let failure = Failure::from(status);
        let Some(last) = self.last.as_ref().filter(|last| last.done > 0) else { return failure };
        let failure = failure.about(&format!("it broke off after {} of {} keys", last.done, last.total));
        failure.and_then_do("run the same command again: what is done is passed over")
    }
}

/// What a server lacks that may make values and can't move them.
const BOTH_KEYS: &str = "let this server use the old KMS key and the new one: kms:ReEncryptFrom and \
    kms:ReEncryptTo on both at AWS, both in the file of the local KMS; its log names what was refused";

fn failure_json((name, failure): &(String, Failure)) -> Value {
    json!({ "name": name, "reason": failure.reason(), "error": failure.happened() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, testing::output};

    fn report() -> Report {
        let failed = |name: &str, reason: &str| {
            let item =
                pb::ItemStatus { code: 9, reason: reason.into(), message: "it failed".into(), ..Default::default() };
            (format!("orgs/acme/keys/{name}"), Failure::from(item))
        };
        let last = pb::RewrapKeysResponse { done: 32, total: 40, failed: 4, rewrapped: 30, ..Default::default() };
        let failures = vec![
            failed("a", "KMS_KEY_REFUSED"),
            failed("b", "RECORD_REJECTED"),
            failed("c", "KMS_KEY_REFUSED"),
            failed("d", "KMS_KEY_REFUSED"),
        ];
        Report { last: Some(last), failures }
    }

    #[test]
    fn what_failed_for_one_reason_is_said_once_with_what_to_do() {
        let (mut out, stdout, stderr) = output(Format::Table, false);
        report().show(false, true, &mut out).unwrap();
        let said = stderr.text();
        let lines: Vec<_> = said.lines().filter(|line| !line.starts_with("next:")).collect();
        assert_eq!(
            lines,
            [
                "error: 3 x, first orgs/acme/keys/a: it failed (KMS_KEY_REFUSED)",
                "error: orgs/acme/keys/b: it failed (RECORD_REJECTED)",
                "32 keys looked at, 30 data keys rewrapped",
            ]
        );
        assert!(said.contains("kms:ReEncryptFrom and kms:ReEncryptTo on both"), "{said}");
        assert_eq!(stdout.text(), "");
        assert_eq!(report().conclude().unwrap_err().exit, Exit::Partly);
    }

    #[test]
    fn what_is_known_is_said_when_it_breaks_off() {
        let (mut out, stdout, _) = output(Format::Json, false);
        report().show(false, false, &mut out).unwrap();
        let document: Value = serde_json::from_str(&stdout.text()).unwrap();
        assert_eq!(
            (&document["complete"], &document["done"], &document["total"]),
            (&false.into(), &32.into(), &40.into())
        );
        assert_eq!(document["failures"].as_array().unwrap().len(), 4, "each by itself, for programs");
        let failure = report().broken_off(Status::unavailable("gone"));
        assert!(failure.to_string().contains("it broke off after 32 of 40 keys: gone"), "{failure}");

        let (mut out, stdout, stderr) = output(Format::Json, false);
        Report::default().show(false, false, &mut out).unwrap();
        assert_eq!((stdout.text(), stderr.text()), (String::new(), String::new()), "of nothing there is no document");
    }
}
