//! `ibyok status`: what the vault says of itself.

use ibyok_client::pb::{self, get_server_status_response::Check};
use serde_json::{Value, json};

use crate::{
    failure::{Exit, Failure},
    output::{Output, Table},
    session::Session,
};

pub(crate) async fn run(session: &Session, out: &mut Output) -> Result<(), Failure> {
    let status = session.client.admin().get_server_status(pb::GetServerStatusRequest {}).await?.into_inner();
    show(&status, out)?;
    match status.checks.iter().filter(|check| !check.ok).count() {
        0 => Ok(()),
        failed => Err(Failure::new(
            Exit::Unavailable,
            format!("{failed} of {} checks failed", status.checks.len()),
            "do what the hints say",
        )),
    }
}

fn show(status: &pb::GetServerStatusResponse, out: &mut Output) -> Result<(), Failure> {
    if out.is_document() {
        let checks: Vec<_> = status.checks.iter().map(check_json).collect();
        return out.document(&json!({ "version": status.version, "checks": checks }));
    }
    out.line(&format!("ibyok-server {}", status.version))?;
    let mut table = Table::new(["CHECK", "OK", "DETAIL"]);
    for check in &status.checks {
        let (ok, detail) = if check.ok { ("yes", check.detail.as_str()) } else { ("NO", "see below") };
        table.row(vec![check.name.clone(), ok.into(), detail.to_owned()]);
    }
    out.table(&table)?;
    // Whole, whatever the terminal's width: what is wrong often stands at the end.
    for check in status.checks.iter().filter(|check| !check.ok) {
        out.line(&format!("{}: {}", check.name, check.detail))?;
        out.line(&format!("next: {}", check.hint))?;
    }
    Ok(())
}

fn check_json(check: &Check) -> Value {
    json!({ "name": check.name, "ok": check.ok, "detail": check.detail, "hint": check.hint })
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::output::{Format, testing::output};

    #[test]
    fn checks_are_shown_with_their_hints() {
        let status = pb::GetServerStatusResponse {
            version: "0.1.0".into(),
            checks: vec![
                Check { name: "store".into(), ok: true, detail: "sqlite".into(), hint: String::new() },
                Check { name: "kms".into(), ok: false, detail: "no answer".into(), hint: "check the key file".into() },
            ],
        };
        let (mut out, stdout, _) = output(Format::Table, true);
        show(&status, &mut out).unwrap();
        assert_eq!(
            stdout.text(),
            "ibyok-server 0.1.0\n\
             CHECK  OK   DETAIL\n\
             store  yes  sqlite\n\
             kms    NO   see below\n\
             kms: no answer\n\
             next: check the key file\n"
        );
        let (mut out, stdout, _) = output(Format::Json, false);
        show(&status, &mut out).unwrap();
        assert!(stdout.text().starts_with(r#"{"checks":[{"detail":"sqlite","hint":"","name":"store","ok":true}"#));
    }

    #[test]
    fn a_narrow_terminal_cuts_nothing_of_what_failed() {
        let detail =
            format!("kms.key_id: arn:aws:kms:eu-west-1:111122223333:key/{} is disabled: enable it", "1".repeat(36));
        let check = |ok| Check { name: "kms".into(), ok, detail: detail.clone(), hint: "look at the KMS".into() };
        let (mut out, stdout, _) = output(Format::Table, true);
        out.limit(40);
        show(&pb::GetServerStatusResponse { version: "1".into(), checks: vec![check(true), check(false)] }, &mut out)
            .unwrap();
        let lines = stdout.text();
        let lines: Vec<_> = lines.lines().collect();
        assert!(lines[2].ends_with('…'), "{lines:?}");
        assert_eq!(lines[4..], [format!("kms: {detail}").as_str(), "next: look at the KMS"]);
    }

    #[test]
    fn a_store_in_trouble_is_told_although_nothing_else_can_be() {
        let metadata: std::collections::HashMap<_, _> =
            [("store".to_owned(), "AWS answers ExpiredTokenException".to_owned())].into();
        let details = tonic_types::ErrorDetails::with_error_info("STORE_UNAVAILABLE", "ibyok", metadata);
        let refused = tonic::Status::with_error_details(ibyok_client::Code::Unavailable, "no database", details);
        let told = Failure::from(refused).to_string();
        let line = "error: no database; store: AWS answers ExpiredTokenException (STORE_UNAVAILABLE)";
        assert!(told.starts_with(line), "{told}");
    }
}
