//! The same through the door: real refusals, names in full, fields that are refused by name.

use std::collections::BTreeMap;

use ibyok::grpc::pb::{self, UsageDimension};
use tonic::Code;

use crate::{
    harness::{Caller, Vault, reason, within},
    tamper::stock::{Raw, create, openai, retrieve, until_used},
};

async fn rows(caller: &Caller, request: &pb::GetUsageRequest) -> Vec<pb::get_usage_response::Row> {
    caller.keys().get_usage(request.clone()).await.unwrap().into_inner().rows
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_and_consumers_through_the_door() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    create(&admin, "openai", &openai("one")).await;
    retrieve(&admin, "openai").await.unwrap();
    let disable = pb::DisableKeyRequest { name: "openai".into(), ..Default::default() };
    admin.keys().disable_key(disable).await.unwrap();
    retrieve(&admin, "openai").await.unwrap_err();
    until_used(&admin, "openai").await;

    let outcome = pb::GetUsageRequest {
        group_by: vec![UsageDimension::Key.into(), UsageDimension::Outcome.into(), UsageDimension::Provider.into()],
        bucket: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
        ..Default::default()
    };
    // The record of a refusal is not awaited.
    let rows = within("the usage of a refusal", async {
        loop {
            let rows = rows(&admin, &outcome).await;
            if rows.len() == 2 {
                break rows;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    for (row, (outcome, retrievals, denials)) in rows.iter().zip([("allowed", 1, 0), ("denied", 0, 1)]) {
        let expected = [("key", "orgs/acme/keys/openai"), ("outcome", outcome), ("provider", "openai")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(BTreeMap::from_iter(row.dimensions.clone()), BTreeMap::from(expected));
        assert_eq!((row.retrievals, row.denials), (retrievals, denials));
        assert_eq!(row.start_time.unwrap().seconds % 3_600, 0);
        assert_eq!((row.input_tokens, row.output_tokens, row.failures, row.checks), (0, 0, 0, 0));
    }

    let request = pb::ListKeyConsumersRequest { name: "openai".into(), ..Default::default() };
    let answer = admin.keys().list_key_consumers(request).await.unwrap().into_inner();
    assert_eq!((answer.next_page_token.as_str(), answer.truncated), ("", false));
    assert!(answer.as_of_time.is_some());
    let [consumer] = answer.consumers.as_slice() else { panic!("{answer:?}") };
    assert_eq!(consumer.key_version, "orgs/acme/keys/openai/versions/1");
    assert!(consumer.holds_current && consumer.last_retrieved_time.is_some());
    assert_eq!(consumer.client_identity, crate::harness::ADMIN);
    assert_eq!(consumer.token_id.len(), 32);
    let home = vault.stop().await;

    // What was folded before a restart is there after it, and once.
    let vault = home.serve("").await;
    assert_eq!(total(&vault.admin().await, &outcome).await, 2);
    let home = vault.stop().await;

    // And what was lost is made anew.
    let raw = Raw::of(&home).await;
    for row in raw.rows().await.iter().filter(|row| row.partition.contains("#U#")) {
        raw.delete(&row.partition, &row.sort).await;
    }
    drop(raw);
    ibyok::server::rebuild::rebuild(&home.config(""), &home.sources()).await.unwrap();
    let vault = home.serve("").await;
    assert_eq!(total(&vault.admin().await, &outcome).await, 2);
    vault.stop().await;
}

async fn total(caller: &Caller, request: &pb::GetUsageRequest) -> i64 {
    rows(caller, request).await.iter().map(|row| row.retrievals + row.denials).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_questions_are_refused_by_field() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let of = |group_by: &[i32]| pb::GetUsageRequest { group_by: group_by.to_vec(), ..Default::default() };
    let span = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let cases = [
        (of(&[0]), "group_by"),
        (of(&[99]), "group_by"),
        (of(&[-1]), "group_by"),
        (of(&[1, 2, 1]), "group_by"),
        (of(&[7]), "label_key"),
        (pb::GetUsageRequest { bucket: span(60, 0), ..of(&[]) }, "bucket"),
        (pb::GetUsageRequest { bucket: span(3_600, 1), ..of(&[]) }, "bucket"),
        (pb::GetUsageRequest { bucket: span(-3_600, 0), ..of(&[]) }, "bucket"),
        (pb::GetUsageRequest { page_size: 1_001, ..of(&[]) }, "page_size"),
        (
            pb::GetUsageRequest { start_time: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }), ..of(&[]) },
            "start_time",
        ),
        (
            pb::GetUsageRequest { end_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }), ..of(&[]) },
            "end_time",
        ),
    ];
    for (request, field) in cases {
        use tonic_types::StatusExt as _;
        let refused = admin.keys().get_usage(request.clone()).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::InvalidArgument, "INVALID_FIELD"),
            "{request:?}"
        );
        let details = refused.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, field, "{request:?}");
    }
    let foreign = pb::GetUsageRequest { parent: "orgs/globex".into(), ..Default::default() };
    assert_eq!(reason(&admin.keys().get_usage(foreign).await.unwrap_err()), "ORG_NOT_FOUND");
    vault.stop().await;
}
