//! `ibyok rewrap`: data keys under another KMS key, in one stream that goes on where it was cut.

use clap::Args;
use ibyok_client::pb;
use serde_json::{Value, json};
use tonic::Status;

use crate::{
    failure::{Exit, Failure},
    output::Output,
    session::Session,
    streams::{Patience, progress_bar},
};

const HELP: &str = "\
To leave a KMS key: name the new one (of an organization: `ibyok orgs update ORG --kms-key ID`; of the server: \
its setting), keep the old one readable, rewrap each organization and, with a token of it, `system`, and look \
with --dry-run that nothing is left. Then the old one can go. Values are not decrypted, and keys can be \
retrieved and rotated meanwhile. What is under the new key already is passed over: after a cut run the same \
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
    last: pb::RewrapKeysResponse,
    failures: Vec<(String, Failure)>,
}

pub(crate) async fn run(args: Rewrap, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let mut request = pb::RewrapKeysRequest {
        parent: session.names.parent(),
        kms_key_id: args.kms_key,
        dry_run: args.dry_run,
        ..Default::default()
    };
    let (bar, mut patience, mut report) = (progress_bar(0), Patience::default(), Report::default());
    loop {
        let before = report.last.done;
        let Err(broken) = stream(&request, session, &mut report, |report| {
            bar.set_length(u64::try_from(report.total).unwrap_or_default());
            bar.set_position(u64::try_from(report.done).unwrap_or_default());
        })
        .await
        else {
            break;
        };
        let has_moved = report.last.done > before;
        if !patience.again(&broken, has_moved).await {
            bar.finish_and_clear();
            return Err(broken_off(broken, &report.last));
        }
        request.resume_token.clone_from(&report.last.resume_token);
        if request.resume_token.is_empty() {
            report = Report::default();
        }
    }
    bar.finish_and_clear();
    report.show(args.dry_run, out)?;
    report.conclude()
}

/// One stream, to its end.
async fn stream(
    request: &pb::RewrapKeysRequest,
    session: &Session,
    report: &mut Report,
    tell: impl Fn(&pb::RewrapKeysResponse),
) -> Result<(), Status> {
    let mut reports = session.client.key_vault().rewrap_keys(request.clone()).await?.into_inner();
    while let Some(mut last) = reports.message().await? {
        for mut status in std::mem::take(&mut last.failures) {
            let name = status.metadata.remove("name").unwrap_or_default();
            report.failures.push((name, Failure::from(status)));
        }
        tell(&last);
        report.last = last;
    }
    Ok(())
}

fn broken_off(status: Status, last: &pb::RewrapKeysResponse) -> Failure {
    let failure = Failure::from(status);
    if last.done == 0 {
        return failure;
    }
    let failure = failure.about(&format!("it broke off after {} of {} keys", last.done, last.total));
    failure.and_then_do("run the same command again: what is done is passed over")
}

impl Report {
    fn show(&self, dry_run: bool, out: &mut Output) -> Result<(), Failure> {
        let pb::RewrapKeysResponse { done, total, failed, rewrapped, .. } = self.last;
        if out.is_document() {
            let failures: Vec<_> = self.failures.iter().map(failure_json).collect();
            return out.document(&json!({
                "done": done, "total": total, "failed": failed, "rewrapped": rewrapped,
                "failures": failures, "dry_run": dry_run,
            }));
        }
        for (name, failure) in &self.failures {
            out.failure(&failure.clone().about(name));
        }
        let what = if dry_run { "would be rewrapped" } else { "rewrapped" };
        out.note(&format!("{done} keys looked at, {rewrapped} data keys {what}"));
        Ok(())
    }

    fn conclude(&self) -> Result<(), Failure> {
        let failed = self.last.failed;
        if failed == 0 {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Partly,
            format!("{failed} could not be changed"),
            "mend what is said above and run it again; until then the old KMS key is needed",
        ))
    }
}

fn failure_json((name, failure): &(String, Failure)) -> Value {
    json!({ "name": name, "reason": failure.reason(), "error": failure.happened() })
}
