//! Tokens, grants and identity bindings.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use super::{duration, key::opt_duration, own_name, own_parent, page_size, parse_timestamp, timestamp};
use crate::{
    domain::{
        binding::Binding,
        error::{Failure, InvalidInput, Reason},
        ids::{BindingId, Name, OrgId, Subject},
        key::input::check_text,
        principal::{ClientIdentity, IdentityPattern},
        token::{AccessToken, Confirmation, Grant, GrantText, TokenMode},
    },
    grpc::pb,
    service::{
        bindings::CreateBinding,
        call::Call,
        tokens::{self, Exchange, Issue, Issued, ListTokens, Revoke, TokenView},
    },
};

/// The most bytes of a token's description.
const DESCRIPTION_MAX: usize = 256;

pub(in crate::grpc) fn issue(call: &Call, request: pb::IssueTokenRequest) -> Result<Issue, Failure> {
    let org = own_parent(call, &request.parent)?;
    check_text("description", &request.description, DESCRIPTION_MAX)?;
    Ok(Issue {
        subject: Subject::parse("subject", &request.subject)?,
        grants: some_grants("grants", request.grants, &org)?,
        ttl: opt_duration("ttl", request.ttl)?,
        max_ttl: opt_duration("max_ttl", request.max_ttl)?,
        confirmation: confirmation(&request.certificate_sha256, &request.client_identity)?,
        description: request.description,
        mode: mode("mode", request.mode)?,
        uses_max: match u64::try_from(request.uses_max) {
            Ok(0) => None,
            Ok(uses_max) => Some(uses_max),
            Err(_) => return Err(Failure::invalid("uses_max", "0 for no limit, or a positive count")),
        },
        request_id: request.request_id,
    })
}

pub(in crate::grpc) fn exchange(mut request: pb::ExchangeTokenRequest) -> Result<Exchange, Failure> {
    use pb::exchange_token_request::Subject as Shown;
    let org = org_named("parent", &request.parent)?;
    let named = |text: &str| !text.is_empty();
    Ok(Exchange {
        subject: match request.subject.take() {
            Some(Shown::ClientCertificate(true)) => tokens::Subject::Certificate,
            Some(Shown::Jwt(mut jwt)) => tokens::Subject::Token(AccessToken::new(std::mem::take(&mut jwt.text))),
            Some(Shown::ClientCertificate(false)) | None => {
                return Err(Failure::invalid("client_certificate", "true, or a jwt"));
            }
        },
        binding: Some(request.binding.as_str())
            .filter(|text| named(text))
            .map(|text| binding_id(text, &org))
            .transpose()?,
        grants: Some(grants("grants", request.grants, &org)?).filter(|grants| !grants.is_empty()),
        ttl: opt_duration("ttl", request.ttl)?,
        request_id: request.request_id,
        org,
    })
}

/// A binding of `org`; one of another is a mistake, as the organization is named beside it.
fn binding_id(text: &str, org: &OrgId) -> Result<BindingId, InvalidInput> {
    let name = Name::<BindingId>::parse("binding", text, org)?;
    if name.org == *org { Ok(name.id) } else { Err(InvalidInput::new("binding", "a binding of the parent")) }
}

/// `orgs/{org}` or the bare id, of whichever organization.
pub(in crate::grpc) fn org_named(field: &'static str, text: &str) -> Result<OrgId, InvalidInput> {
    OrgId::parse(field, text.strip_prefix("orgs/").unwrap_or(text))
        .map_err(|_| InvalidInput::new(field, "orgs/{org}, or the organization's id"))
}

pub(in crate::grpc) fn revoke(call: &Call, request: pb::RevokeTokensRequest) -> Result<Revoke, Failure> {
    use pb::revoke_tokens_request::Which;
    own_parent(call, &request.parent)?;
    Ok(match request.which {
        Some(Which::Name(name)) => Revoke::Name(own_name(call, "name", &name, Reason::TokenNotFound)?),
        Some(Which::Subject(subject)) => Revoke::Subject(Subject::parse("subject", &subject)?),
        Some(Which::IssuedBefore(time)) => Revoke::IssuedBefore(parse_timestamp("issued_before", time)?),
        None => return Err(Failure::invalid("name", "a name, a subject or a time (issued_before)")),
    })
}

pub(in crate::grpc) fn list_tokens(call: &Call, request: pb::ListTokensRequest) -> Result<ListTokens, Failure> {
    own_parent(call, &request.parent)?;
    let subject = Some(request.subject.as_str()).filter(|text| !text.is_empty());
    let since = request.not_used_since.map(|time| parse_timestamp("not_used_since", time));
    Ok(ListTokens {
        page_size: page_size(request.page_size)?,
        page_token: request.page_token,
        subject: subject.map(|text| Subject::parse("subject", text)).transpose()?,
        show_inactive: request.show_inactive,
        not_used_since: since.transpose()?,
    })
}

pub(in crate::grpc) fn create_binding(
    call: &Call,
    request: pb::CreateIdentityBindingRequest,
) -> Result<CreateBinding, Failure> {
    use pb::identity_binding::Identity;
    let org = own_parent(call, &request.parent)?;
    let binding = request.binding.ok_or_else(|| InvalidInput::new("binding", "a binding"))?;
    Ok(CreateBinding {
        name: own_name(call, "binding.name", &binding.name, Reason::OrgNotFound)?,
        identity: match binding.identity {
            Some(Identity::Certificate(text)) => IdentityPattern::parse("binding.certificate", &text)?,
            Some(Identity::Oidc(_)) => return Err(Reason::NotImplemented.into()),
            None => return Err(Failure::invalid("binding.certificate", IdentityPattern::RULE)),
        },
        grants: some_grants("binding.grants", binding.grants, &org)?,
        mode: mode("binding.mode", binding.mode)?,
        ttl_max: opt_duration("binding.ttl_max", binding.ttl_max)?,
        request_id: request.request_id,
    })
}

fn some_grants(field: &'static str, grants_in: Vec<pb::Grant>, org: &OrgId) -> Result<Vec<Grant>, InvalidInput> {
    if grants_in.is_empty() {
        return Err(InvalidInput::new(field, "at least one grant"));
    }
    grants(field, grants_in, org)
}

fn grants(field: &'static str, grants: Vec<pb::Grant>, org: &OrgId) -> Result<Vec<Grant>, InvalidInput> {
    let text = |grant: pb::Grant| GrantText {
        scopes: grant.scopes,
        resources: grant.resources,
        labels: grant.labels,
        environments: grant.environments,
        client_cidrs: grant.client_cidrs,
    };
    Grant::parse_all(field, &grants.into_iter().map(text).collect::<Vec<_>>(), org)
}

fn confirmation(certificate: &str, identity: &str) -> Result<Option<Confirmation>, InvalidInput> {
    match (certificate, identity) {
        ("", "") => Ok(None),
        (hex, "") => {
            let sha256 = HEXLOWER_PERMISSIVE.decode(hex.replace(':', "").as_bytes());
            let sha256 = sha256.ok().and_then(|bytes| bytes.try_into().ok());
            let rule = "the certificate's SHA-256 as 64 hex digits";
            sha256.map(Confirmation::Certificate).map(Some).ok_or_else(|| InvalidInput::new("certificate_sha256", rule))
        }
        ("", text) => {
            let identity = ClientIdentity::parse("client_identity", text)?;
            Ok(Some(Confirmation::Identity(identity.as_str().to_owned())))
        }
        _ => Err(InvalidInput::new("client_identity", "empty beside certificate_sha256: a token has one binding")),
    }
}

fn mode(field: &'static str, mode: i32) -> Result<Option<TokenMode>, InvalidInput> {
    match pb::TokenMode::try_from(mode) {
        Ok(pb::TokenMode::Unspecified) => Ok(None),
        Ok(pb::TokenMode::Live) => Ok(Some(TokenMode::Live)),
        Ok(pb::TokenMode::Mock) => Ok(Some(TokenMode::Mock)),
        Err(_) => Err(InvalidInput::new(field, "TOKEN_MODE_LIVE or TOKEN_MODE_MOCK")),
    }
}

/// A token and its metadata as they go out.
pub(in crate::grpc) fn issued(issued: Issued) -> (Option<pb::SecretValue>, Option<pb::Token>) {
    let text = issued.access_token.expose_secret().to_owned();
    (Some(pb::SecretValue { text }), Some(token(issued.token)))
}

pub(in crate::grpc) fn token(view: TokenView) -> pb::Token {
    let (revoked, uses, last_used) = (view.revoked(), view.uses, view.last_used);
    let record = view.record;
    let (certificate_sha256, client_identity) = match record.confirmation {
        Confirmation::Certificate(sha256) => (HEXLOWER.encode(&sha256), String::new()),
        Confirmation::Identity(identity) => (String::new(), identity),
    };
    let named = |id| Name { org: record.org.clone(), id }.to_string();
    let count = |count| i64::try_from(count).unwrap_or(i64::MAX);
    pb::Token {
        name: named(record.id),
        subject: record.subject.to_string(),
        description: record.description,
        grants: record.grants.into_vec().into_iter().map(grant).collect(),
        create_time: Some(timestamp(record.created)),
        expire_time: Some(timestamp(record.expires)),
        max_expire_time: Some(timestamp(record.max_expires)),
        last_used_time: last_used.map(timestamp),
        revoke_time: revoked.map(timestamp),
        certificate_sha256,
        issued_by: record.issued_by,
        mode: mode_out(record.mode).into(),
        uses_max: record.uses_max.map_or(0, count),
        uses: count(uses),
        client_identity,
        parent_token: record.parent.map(named).unwrap_or_default(),
    }
}

pub(in crate::grpc) fn binding(org: &OrgId, binding: Binding) -> pb::IdentityBinding {
    pb::IdentityBinding {
        name: Name { org: org.clone(), id: binding.id }.to_string(),
        grants: binding.grants.into_iter().map(grant).collect(),
        mode: mode_out(binding.mode).into(),
        ttl_max: Some(duration(binding.ttl_max)),
        identity: Some(pb::identity_binding::Identity::Certificate(binding.identity.as_str().to_owned())),
    }
}

fn grant(grant: Grant) -> pb::Grant {
    pb::Grant {
        scopes: grant.scopes.iter().map(ToString::to_string).collect(),
        resources: grant.resources.iter().map(ToString::to_string).collect(),
        labels: grant.labels,
        environments: grant.environments.iter().map(ToString::to_string).collect(),
        client_cidrs: grant.client_cidrs.iter().map(ToString::to_string).collect(),
    }
}

fn mode_out(mode: TokenMode) -> pb::TokenMode {
    match mode {
        TokenMode::Live => pb::TokenMode::Live,
        TokenMode::Mock => pb::TokenMode::Mock,
    }
}

#[cfg(test)]
mod tests;
