//! On the KMS of AWS: an organization leaves its key.

use std::collections::BTreeMap;

use ibyok::{domain::secret::KmsKeyId, grpc::pb};

use super::{canary, counts, read, rewrap, rotate, store};
use crate::{
    aws_proxy::Proxy,
    aws_vault::{but_descriptions, home},
    harness::ADMIN,
    localstack::{self, Keys, REGION},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_leaves_its_key_and_nothing_is_opened() {
    let keys = Keys::of(REGION).await;
    let (primary, old, new) = (keys.make().await, keys.make().await, keys.make().await);
    let proxy = Proxy::before(localstack::endpoint().await).await;
    let home = home(&primary, &proxy.endpoint);
    home.init().await.unwrap();
    let vault = home.serve("").await;
    let operator = vault.operator().await;
    let org = |key: &KmsKeyId| {
        Some(pb::Org { name: "orgs/globex".to_owned(), kms_key_id: key.0.clone(), ..Default::default() })
    };
    let request = pb::CreateOrgRequest {
        org_id: "globex".to_owned(),
        org: org(&old),
        admin_identity: ADMIN.to_owned(),
        ..Default::default()
    };
    operator.admin().create_org(request).await.unwrap();
    let globex = vault.exchange(ADMIN, "globex").await;
    for number in 0..5 {
        store(&globex, &format!("k{number}"), &canary(number)).await;
    }
    rotate(&globex, "k0", &canary(100)).await;

    let to = |dry_run| pb::RewrapKeysRequest { kms_key_id: new.0.clone(), dry_run, ..Default::default() };
    let calls = |counts: [(&str, usize); 2]| -> BTreeMap<String, usize> {
        counts.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count)).collect()
    };
    proxy.take_calls();
    // Five keys with six versions, and the organization's own key.
    assert_eq!(counts(&rewrap(&globex, to(true)).await), (5, 0, 7));
    assert_eq!(but_descriptions(proxy.take_calls()), calls([("GenerateDataKey", 1), ("ReEncrypt", 0)]));
    assert_eq!(counts(&rewrap(&globex, to(false)).await), (5, 0, 7));
    assert_eq!(but_descriptions(proxy.take_calls()), calls([("GenerateDataKey", 1), ("ReEncrypt", 7)]));
    assert_eq!(counts(&rewrap(&globex, to(true)).await), (5, 0, 0));

    let update = pb::UpdateOrgRequest {
        org: org(&new),
        update_mask: Some(prost_types::FieldMask { paths: vec!["kms_key_id".to_owned()] }),
        ..Default::default()
    };
    operator.admin().update_org(update).await.unwrap();
    keys.disable(&old).await;
    // The organization's own key is opened anew by a server that starts.
    let vault = vault.stop().await.serve("").await;
    let globex = vault.exchange(ADMIN, "globex").await;
    for (name, number) in [("k0", 100), ("k0/versions/previous", 0), ("k1", 1), ("k2", 2), ("k3", 3), ("k4", 4)] {
        assert_eq!(read(&globex, name).await, canary(number));
    }
    let request = pb::CreateKeyRequest {
        key_id: "again".into(),
        secret: Some(pb::SecretValue { text: canary(3) }),
        request_id: "once".into(),
        ..Default::default()
    };
    let made = globex.keys().create_key(request).await.unwrap().into_inner();
    assert_eq!(made.warnings.len(), 1, "fingerprints are the same: {:?}", made.warnings);
    assert_eq!(made.key.unwrap().versions[0].kms_key_id, new.0);
    vault.stop().await;
}
