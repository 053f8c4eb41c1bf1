//! Organizations, and the state of the server.

use super::{timestamp, token::org_named};
use crate::{
    domain::{
        error::{Failure, InvalidInput},
        ids::OrgId,
        principal::ClientIdentity,
        secret::KmsKeyId,
    },
    grpc::pb::{self, get_server_status_response::Check},
    repository::orgs::OrgRecord,
    service::{
        orgs::{CreateOrg, UpdateOrg},
        status::Status,
    },
};

const PATHS: &str = "display_name or kms_key_id, at least one";
/// The longest id of a KMS key: an ARN with its alias is shorter.
const KMS_KEY_ID_MAX: usize = 2_048;

pub(in crate::grpc) fn create_org(request: pb::CreateOrgRequest) -> Result<CreateOrg, Failure> {
    let org = request.org.unwrap_or_default();
    Ok(CreateOrg {
        id: OrgId::parse("org_id", &request.org_id)?,
        display_name: org.display_name,
        kms_key: kms_key("org.kms_key_id", org.kms_key_id)?,
        is_mock: org.mock,
        admin_identity: ClientIdentity::parse("admin_identity", &request.admin_identity)?,
        request_id: request.request_id,
    })
}

pub(in crate::grpc) fn update_org(request: pb::UpdateOrgRequest) -> Result<UpdateOrg, Failure> {
    let org = request.org.ok_or_else(|| InvalidInput::new("org", "an organization"))?;
    let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
    let names = |path: &str| paths.iter().any(|named| named == path);
    if paths.is_empty() || !paths.iter().all(|path| ["display_name", "kms_key_id"].contains(&path.as_str())) {
        return Err(Failure::invalid("update_mask", PATHS));
    }
    Ok(UpdateOrg {
        id: org_named("org.name", &org.name)?,
        display_name: names("display_name").then_some(org.display_name),
        kms_key: if names("kms_key_id") { Some(kms_key("org.kms_key_id", org.kms_key_id)?) } else { None },
        request_id: request.request_id,
    })
}

/// A KMS key's id, which came in `field`; None where it is empty.
pub(in crate::grpc) fn kms_key(field: &'static str, text: String) -> Result<Option<KmsKeyId>, InvalidInput> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > KMS_KEY_ID_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(InvalidInput::new(field, "a KMS key's id: printable ASCII without spaces"));
    }
    Ok(Some(KmsKeyId(text)))
}

pub(in crate::grpc) fn org(org: OrgRecord) -> pb::Org {
    pb::Org {
        name: org.id.full_name(),
        display_name: org.display_name,
        kms_key_id: org.kms_key.map(|key| key.0).unwrap_or_default(),
        mock: org.is_mock,
        create_time: Some(timestamp(org.created)),
    }
}

pub(in crate::grpc) fn status(status: Status) -> pb::GetServerStatusResponse {
    let checks = status.checks.into_iter().map(|check| Check {
        name: check.name.to_owned(),
        ok: check.is_ok,
        detail: check.detail,
        hint: check.hint.to_owned(),
    });
    pb::GetServerStatusResponse { version: status.version.to_owned(), checks: checks.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(name: &str, paths: &[&str]) -> Result<UpdateOrg, Failure> {
        let org = pb::Org { name: name.into(), display_name: "d".into(), ..pb::Org::default() };
        let paths = paths.iter().map(ToString::to_string).collect();
        let update_mask = Some(prost_types::FieldMask { paths });
        update_org(pb::UpdateOrgRequest { org: Some(org), update_mask, request_id: String::new() })
    }

    #[test]
    fn an_update_takes_what_its_mask_names_and_refuses_the_rest() {
        let named = update("orgs/acme", &["display_name"]).unwrap();
        assert_eq!((named.display_name.as_deref(), named.kms_key), (Some("d"), None));
        let keyed = update("acme", &["kms_key_id"]).unwrap();
        assert_eq!((keyed.display_name, keyed.kms_key), (None, Some(None)), "an empty key id is the server's key");
        for (name, paths, field) in [
            ("acme", vec![], "update_mask"),
            ("acme", vec!["*"], "update_mask"),
            ("acme", vec!["display_name", "mock"], "update_mask"),
            ("", vec!["display_name"], "org.name"),
            ("orgs/acme/keys/a", vec!["display_name"], "org.name"),
        ] {
            assert_eq!(update(name, &paths).unwrap_err().fields[0].field, field);
        }
    }

    #[test]
    fn a_refused_organization_names_its_field() {
        let good = || pb::CreateOrgRequest {
            org_id: "acme".into(),
            admin_identity: "spiffe://test/admin".into(),
            ..pb::CreateOrgRequest::default()
        };
        assert!(create_org(good()).unwrap().kms_key.is_none());
        let spaced = pb::Org { kms_key_id: "a b".into(), ..pb::Org::default() };
        for (request, field) in [
            (pb::CreateOrgRequest { org_id: "orgs/acme".into(), ..good() }, "org_id"),
            (pb::CreateOrgRequest { org_id: String::new(), ..good() }, "org_id"),
            (pb::CreateOrgRequest { admin_identity: String::new(), ..good() }, "admin_identity"),
            (pb::CreateOrgRequest { admin_identity: "spiffe://test/*".into(), ..good() }, "admin_identity"),
            (pb::CreateOrgRequest { org: Some(spaced), ..good() }, "org.kms_key_id"),
        ] {
            assert_eq!(create_org(request).unwrap_err().fields[0].field, field);
        }
    }
}
