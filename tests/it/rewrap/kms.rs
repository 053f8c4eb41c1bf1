//! A KMS that is slow, or says nothing of one key.

use std::{
    fs::{self, File},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::StreamExt as _;
use ibyok::{
    config::{LogConfig, LogFormat},
    domain::{
        PortFuture,
        clock::Deadline,
        error::Reason,
        provider::Providers,
        secret::{DataKey, EncryptionContext, KmsKeyId, WrappedDataKey},
    },
    kms::{KeyWrapper, KmsError, fake::FakeKms},
    service::{
        Parts,
        sealing::Sealer,
        vault::{Vault, VaultSettings},
    },
    store::Value,
    telemetry,
};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::{canary, ended, request, run, with_keys};
use crate::{
    fixture::keys::{Setting, add},
    harness::within,
};

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_a_key_are_re_encrypted_side_by_side_a_few_at_a_time() {
    let Setting { fixture, vault, admin, .. } = with_keys(1).await;
    for number in 1..6 {
        add(&vault, &admin, "k0", &canary(number)).await.unwrap();
    }
    let reports = vault.rewrap(admin.call("RewrapKeys"), request(&admin, FakeKms::OTHER)).await.unwrap();
    let mut reports = Box::pin(reports);
    reports.next().await.unwrap().unwrap();
    let before = fixture.kms.calls().rewrap;
    fixture.kms.hold();
    let rest = tokio::spawn(reports.map(Result::unwrap).collect::<Vec<_>>());
    let four = async {
        while fixture.kms.calls().rewrap < before + 4 {
            tokio::task::yield_now().await;
        }
    };
    within("four calls at a time", four).await;
    assert_eq!(fixture.kms.calls().rewrap, before + 4, "and no fifth");
    fixture.kms.release();
    assert_eq!(ended(&rest.await.unwrap()).0, (1, 0, 7), "six versions, and the organization's own key");
    fixture.parts.audit.close().await;
    let recorded = fixture.recorded("key.rewrap");
    assert_eq!(recorded.iter().filter(|record| record.resource == "orgs/acme/keys/k0").count(), 2);
}

/// Says nothing when it is to re-encrypt what is of one key, so many times.
#[derive(Debug)]
struct Silent {
    kms: FakeKms,
    of_key: String,
    times: AtomicUsize,
}

impl KeyWrapper for Silent {
    fn generate_data_key<'a>(
        &'a self,
        kms_key: Option<&'a KmsKeyId>,
        context: &'a EncryptionContext,
        deadline: Deadline,
    ) -> PortFuture<'a, Result<(DataKey, WrappedDataKey), KmsError>> {
        self.kms.generate_data_key(kms_key, context, deadline)
    }
    fn unwrap<'a>(
        &'a self,
        wrapped: &'a WrappedDataKey,
        context: &'a EncryptionContext,
        deadline: Deadline,
    ) -> PortFuture<'a, Result<DataKey, KmsError>> {
        self.kms.unwrap(wrapped, context, deadline)
    }
    fn rewrap<'a>(
        &'a self,
        wrapped: &'a WrappedDataKey,
        context: &'a EncryptionContext,
        to_key: &'a KmsKeyId,
        deadline: Deadline,
    ) -> PortFuture<'a, Result<WrappedDataKey, KmsError>> {
        let is_left = |times: usize| times.checked_sub(1);
        let is_silent = context.0.values().any(|value| *value == self.of_key)
            && self.times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_left).is_ok();
        match is_silent {
            true => Box::pin(async { Err(KmsError::Unavailable("it says nothing".into())) }),
            false => self.kms.rewrap(wrapped, context, to_key, deadline),
        }
    }
    fn status(&self, deadline: Deadline) -> PortFuture<'_, Result<String, String>> {
        self.kms.status(deadline)
    }
}

#[tokio::test]
async fn a_kms_that_says_nothing_of_one_key_is_asked_again_and_holds_up_no_other() {
    for (times, counted, failed) in
        [(1, (3, 0, 4), vec![]), (usize::MAX, (3, 1, 3), vec![("orgs/acme/keys/k1", Reason::KmsUnavailable)])]
    {
        let Setting { fixture, vault, admin, .. } = with_keys(3).await;
        let record = fixture.partition("O#acme#K#k1").into_iter().find(|item| item.key.sort == "META").unwrap();
        let Value::Text(of_key) = record.attributes["uid"].clone() else { panic!("{record:?}") };
        let silent = Silent { kms: fixture.kms.clone(), of_key, times: AtomicUsize::new(times) };
        let sealer = Sealer::new(Arc::new(silent), fixture.parts.entropy.clone());
        let parts = Parts { sealer, ..fixture.parts.clone() };
        let rewrapping = Vault::new(parts, Arc::new(Providers::load(None).unwrap()), VaultSettings::default());
        let reports = run(&rewrapping, &admin, FakeKms::OTHER).await.unwrap();
        assert_eq!(ended(&reports), (counted, failed));
        let last = run(&vault, &admin, FakeKms::OTHER).await.unwrap();
        assert_eq!(ended(&last).0, (3, 0, 4 - counted.2), "later it says something");
    }
}

#[tokio::test]
async fn what_fails_for_one_reason_is_logged_once_with_its_cause() {
    let Setting { fixture, vault, admin, .. } = with_keys(3).await;
    fixture.kms.disable(&KmsKeyId(FakeKms::PRIMARY.to_owned()));
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let config = LogConfig { format: LogFormat::Text, level: "warn".to_owned() };
    let guard = telemetry::subscriber(&config, File::create(&log).unwrap()).unwrap().set_default();
    let reports = run(&vault, &admin, FakeKms::OTHER).await.unwrap();
    drop(guard);
    assert_eq!(ended(&reports).0, (3, 4, 0), "the organization's own key, too");
    let text = fs::read_to_string(log).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("was not rewrapped")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    for part in ["WARN", r#"key="orgs/acme""#, r#"reason="KMS_KEY_DISABLED""#, "the KMS key is disabled"] {
        assert!(lines[0].contains(part), "{text}");
    }
}
