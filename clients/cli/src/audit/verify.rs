//! Whether the log is whole: the server recomputes it, and a checkpoint that was kept elsewhere
//! proves that it is still the same log.

use std::{fs, path::PathBuf};

use clap::Args;
use ibyok_client::pb;
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    output::Output,
    session::Session,
};

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// File with a signed checkpoint that was kept elsewhere; the log must extend it
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
}

pub(super) async fn verify(args: Verify, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let trusted_signed_note = match &args.checkpoint {
        Some(path) => fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?,
        None => String::new(),
    };
    let request = pb::VerifyAuditLogRequest { trusted_signed_note };
    let mut stream = session.client.audit().verify_audit_log(request).await?.into_inner();
    let mut last = None;
    while let Some(progress) = stream.message().await? {
        last = Some(progress);
    }
    conclude(last, out)
}

fn conclude(last: Option<pb::VerifyAuditLogResponse>, out: &mut Output) -> Result<(), Failure> {
    let Some(verdict) = last.filter(|last| last.complete) else {
        return Err(Failure::new(Exit::Unavailable, "the server ended before it had a verdict", "run it again"));
    };
    let bad = (!verdict.intact).then(|| {
        json!({ "chain": verdict.first_bad_chain, "sequence": verdict.first_bad_sequence, "problem": verdict.problem })
    });
    let json = json!({
        "intact": verdict.intact, "checked": verdict.checked, "total": verdict.total,
        "archived": verdict.archived, "first_bad": bad,
    });
    out.show(&json, || {
        let mut scope = format!("{} of {} records checked", verdict.checked, verdict.total);
        if verdict.archived > 0 {
            scope.push_str(&format!("; {} before them are in the archive", verdict.archived));
        }
        if verdict.intact {
            return vec![format!("intact: {scope}")];
        }
        vec![format!(
            "BROKEN at sequence {} of chain {}: {}; {scope}",
            verdict.first_bad_sequence, verdict.first_bad_chain, verdict.problem
        )]
    })?;
    if verdict.intact {
        return Ok(());
    }
    Err(Failure::new(
        Exit::DataLoss,
        "the audit log was changed or damaged",
        "keep the database as it is, and compare it with a backup and with checkpoints kept elsewhere",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, testing::output};

    fn verdict(intact: bool) -> pb::VerifyAuditLogResponse {
        pb::VerifyAuditLogResponse {
            checked: 9,
            total: 12,
            complete: true,
            intact,
            first_bad_sequence: 7,
            problem: "hash differs".into(),
            first_bad_chain: "c1".into(),
            first_position: 1,
            archived: 0,
        }
    }

    #[test]
    fn the_verdict_is_printed_and_decides_the_exit_code() {
        let (mut out, stdout, _) = output(Format::Table, false);
        conclude(Some(verdict(true)), &mut out).unwrap();
        conclude(Some(pb::VerifyAuditLogResponse { first_position: 41, archived: 40, ..verdict(true) }), &mut out)
            .unwrap();
        let failure = conclude(Some(verdict(false)), &mut out).unwrap_err();
        assert_eq!(failure.exit, Exit::DataLoss);
        assert_eq!(
            stdout.text(),
            "intact: 9 of 12 records checked\n\
             intact: 9 of 12 records checked; 40 before them are in the archive\nBROKEN at sequence 7 of chain c1: hash differs; 9 of 12 records checked\n"
        );
    }

    #[test]
    fn without_a_verdict_nothing_is_verified() {
        let (mut out, stdout, _) = output(Format::Table, false);
        let progress = pb::VerifyAuditLogResponse { complete: false, ..verdict(true) };
        for last in [None, Some(progress)] {
            assert_eq!(conclude(last, &mut out).unwrap_err().exit, Exit::Unavailable);
        }
        assert_eq!(stdout.text(), "");
    }
}
