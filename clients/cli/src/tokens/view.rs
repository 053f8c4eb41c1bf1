//! Tokens as JSON and as text: what is known of them, never the JWT.

use ibyok_client::pb;
use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::{
    output::{Table, fields},
    session::short,
    time,
};

pub(super) fn token_json(token: &pb::Token) -> Value {
    json!({
        "name": token.name,
        "subject": token.subject,
        "description": token.description,
        "grants": token.grants.iter().map(grant_json).collect::<Vec<_>>(),
        "create_time": time::json(&token.create_time),
        "expire_time": time::json(&token.expire_time),
        "max_expire_time": time::json(&token.max_expire_time),
        "last_used_time": time::json(&token.last_used_time),
        "revoke_time": time::json(&token.revoke_time),
        "certificate_sha256": token.certificate_sha256,
        "client_identity": token.client_identity,
        "issued_by": token.issued_by,
        "mode": mode(token),
        "uses": token.uses,
        "uses_max": token.uses_max,
        "parent_token": token.parent_token,
    })
}

/// One grant.
pub(crate) fn grant_json(grant: &pb::Grant) -> Value {
    json!({
        "scopes": grant.scopes,
        "resources": grant.resources,
        "labels": grant.labels,
        "environments": grant.environments,
        "client_cidrs": grant.client_cidrs,
    })
}

fn mode(token: &pb::Token) -> &'static str {
    match token.mode() {
        pb::TokenMode::Mock => "mock",
        pb::TokenMode::Live => "live",
        pb::TokenMode::Unspecified => "unspecified",
    }
}

fn state(token: &pb::Token, now: &Timestamp) -> &'static str {
    let is_past = |time: &Timestamp| (time.seconds, time.nanos) <= (now.seconds, now.nanos);
    match token {
        pb::Token { revoke_time: Some(_), .. } => "revoked",
        pb::Token { expire_time: Some(time), .. } if is_past(time) => "expired",
        pb::Token { uses, uses_max, .. } if *uses_max > 0 && uses >= uses_max => "used up",
        _ if token.mode() == pb::TokenMode::Mock => "mock",
        _ => "active",
    }
}

pub(super) fn table(tokens: &[pb::Token], now: &Timestamp) -> Table {
    let mut table = Table::new(["ID", "SUBJECT", "STATE", "EXPIRES", "LAST USED", "SCOPES"]);
    for token in tokens {
        table.row(vec![
            short(&token.name).to_owned(),
            token.subject.clone(),
            state(token, now).to_owned(),
            time::distance(&token.expire_time, now),
            time::distance(&token.last_used_time, now),
            scopes(token),
        ]);
    }
    table
}

fn scopes(token: &pb::Token) -> String {
    let mut all: Vec<_> = token.grants.iter().flat_map(|grant| &grant.scopes).map(String::as_str).collect();
    all.sort_unstable();
    all.dedup();
    all.join(" ")
}

/// One token for people.
pub(super) fn lines(token: &pb::Token, certificate: &str, now: &Timestamp) -> Vec<String> {
    let bound = match (token.client_identity.as_str(), token.certificate_sha256.as_str()) {
        ("", "") => String::new(),
        ("", sha256) => format!("certificate {sha256}"),
        (identity, _) => identity.to_owned(),
    };
    let mut lines = fields(&[
        ("token", token.name.clone()),
        ("subject", token.subject.clone()),
        ("state", state(token, now).to_owned()),
        ("certificate", certificate.to_owned()),
        ("bound to", bound),
        ("description", token.description.clone()),
        ("issued by", token.issued_by.clone()),
        ("created", time::both(&token.create_time, now)),
        ("expires", time::both(&token.expire_time, now)),
        ("renewable until", time::both(&token.max_expire_time, now)),
        ("uses", if token.uses_max > 0 { format!("{} of {}", token.uses, token.uses_max) } else { String::new() }),
    ]);
    lines.extend(token.grants.iter().flat_map(grant_lines));
    lines
}

/// One grant for people, after an empty line.
pub(crate) fn grant_lines(grant: &pb::Grant) -> Vec<String> {
    let labels: Vec<_> = grant.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut lines = vec![String::new()];
    lines.extend(fields(&[
        ("grant", grant.scopes.join(" ")),
        ("on", grant.resources.join(" ")),
        ("labels", labels.join(" ")),
        ("environments", grant.environments.join(" ")),
        ("from", grant.client_cidrs.join(" ")),
    ]));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp { seconds: 10_000, nanos: 0 };

    fn token() -> pb::Token {
        pb::Token {
            name: "orgs/dev/tokens/0af1".into(),
            subject: "billing".into(),
            mode: pb::TokenMode::Live.into(),
            expire_time: Some(Timestamp { seconds: 13_600, nanos: 0 }),
            grants: vec![pb::Grant {
                scopes: vec!["keys:read".into(), "keys:list".into()],
                resources: vec!["orgs/dev/**".into()],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn people_see_state_expiry_and_scopes() {
        let expired = pb::Token { expire_time: Some(NOW), ..token() };
        let revoked = pb::Token { revoke_time: Some(NOW), ..expired.clone() };
        let used_up = pb::Token { uses: 3, uses_max: 3, ..token() };
        let states = [&token(), &expired, &revoked, &used_up].map(|token| state(token, &NOW));
        assert_eq!(states, ["active", "expired", "revoked", "used up"]);
        assert_eq!(
            table(&[token()], &NOW).lines()[1],
            "0af1  billing  active  in 60 min             keys:list keys:read"
        );
        let text = lines(&token(), "spiffe://dev/client", &NOW).join("\n");
        assert!(text.contains("certificate: spiffe://dev/client\n"), "{text}");
        assert!(text.ends_with("\n\ngrant: keys:read keys:list\non:    orgs/dev/**"), "{text}");
    }

    #[test]
    fn json_names_are_stable() {
        let json = token_json(&token());
        assert_eq!(json["expire_time"], "1970-01-01T03:46:40Z");
        assert_eq!(json["mode"], "live");
        assert_eq!(json["grants"][0]["scopes"][0], "keys:read");
        assert!(json.get("access_token").is_none());
    }
}
