//! Audit.

use ibyok::grpc::pb::{self, get_audit_event_request::Which};
use tonic::Code;

use super::{canary, case, no_parents, no_times, refusal, refuse_all};
use crate::{harness::Vault, wire};

const LIST: &str = "/ibyok.v1.Audit/ListAuditEvents";
const STREAM: &str = "/ibyok.v1.Audit/StreamAuditEvents";
const GET: &str = "/ibyok.v1.Audit/GetAuditEvent";

#[tokio::test]
async fn filters_and_places_are_refused_by_field() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let mut filters = Vec::new();
    for time in no_times() {
        filters.push((pb::AuditFilter { start_time: time, ..Default::default() }, "filter.start_time"));
        filters.push((pb::AuditFilter { end_time: time, ..Default::default() }, "filter.end_time"));
    }
    for action in ["", "key.steal", "KEY.CREATE"].map(str::to_owned).into_iter().chain([canary("")]) {
        filters.push((pb::AuditFilter { actions: vec![action], ..Default::default() }, "filter.actions"));
    }
    for outcome in [0, 4, -1, i32::MAX] {
        filters.push((pb::AuditFilter { outcomes: vec![1, outcome], ..Default::default() }, "filter.outcomes"));
    }
    for client_cidr in [canary(""), "10.0.0.0/33".into(), "10.0.0".into(), " ".into()] {
        filters.push((pb::AuditFilter { client_cidr, ..Default::default() }, "filter.client_cidr"));
    }
    let mut cases = Vec::new();
    for (filter, field) in filters {
        let filter = Some(filter);
        cases.push(case(LIST, pb::ListAuditEventsRequest { filter: filter.clone(), ..Default::default() }, field));
        cases.push(case(STREAM, pb::StreamAuditEventsRequest { filter, ..Default::default() }, field));
    }
    for page_size in [-1, 1_001, i32::MIN, i32::MAX] {
        cases.push(case(LIST, pb::ListAuditEventsRequest { page_size, ..Default::default() }, "page_size"));
    }
    for parent in no_parents() {
        cases.push(case(LIST, pb::ListAuditEventsRequest { parent: parent.clone(), ..Default::default() }, "parent"));
        cases.push(case(
            STREAM,
            pb::StreamAuditEventsRequest { parent: parent.clone(), ..Default::default() },
            "parent",
        ));
        let which = Some(Which::Id("chain.1".into()));
        cases.push(case(GET, pb::GetAuditEventRequest { which, parent, ..Default::default() }, "parent"));
    }
    cases.push(case(GET, pb::GetAuditEventRequest::default(), "id"));
    let which = Some(Which::Sequence(-1));
    cases.push(case(GET, pb::GetAuditEventRequest { which, chain: canary(""), ..Default::default() }, "sequence"));
    refuse_all(&admin, cases).await;
    vault.stop().await;
}

/// An event id that nothing stands for is absent, whatever it looks like.
#[tokio::test]
async fn an_event_id_that_is_none_is_absent() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let ids = ["", ".", "a.b", "a.-1", "a.99999999999999999999999", "..1", "1"].map(str::to_owned);
    for id in ids.into_iter().chain([canary(".1"), canary("")]) {
        let request = pb::GetAuditEventRequest { which: Some(Which::Id(id)), ..Default::default() };
        let body = prost::Message::encode_to_vec(&request);
        let status = wire::call(&admin.channel, GET, admin.token.as_deref(), body, 1).await.unwrap_err();
        assert_eq!(refusal(&status), (Code::NotFound, "EVENT_NOT_FOUND".to_owned(), vec![]));
        assert!(!super::holds_canary(&status));
    }
    vault.stop().await;
}
