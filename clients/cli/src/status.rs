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
    let mut table = Table::new(["CHECK", "OK", "DETAIL", "HINT"]);
    for check in &status.checks {
        let ok = if check.ok { "yes" } else { "NO" };
        table.row(vec![check.name.clone(), ok.into(), check.detail.clone(), check.hint.clone()]);
    }
    out.table(&table)
}

fn check_json(check: &Check) -> Value {
    json!({ "name": check.name, "ok": check.ok, "detail": check.detail, "hint": check.hint })
}

#[cfg(test)]
mod tests {
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
             CHECK  OK   DETAIL     HINT\n\
             store  yes  sqlite\n\
             kms    NO   no answer  check the key file\n"
        );
        let (mut out, stdout, _) = output(Format::Json, false);
        show(&status, &mut out).unwrap();
        assert!(stdout.text().starts_with(r#"{"checks":[{"detail":"sqlite","hint":"","name":"store","ok":true}"#));
    }
}
