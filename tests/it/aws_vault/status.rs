//! What `ibyok status` says when the database or the primary KMS key can't be used.

use ibyok::grpc::pb;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::Setting;
use crate::{
    aws_proxy::Fate,
    dynamodb::{
        local,
        proxy::{Fate as StoreFate, Proxy as StoreProxy},
    },
    harness::{Home, Place, reason},
};

/// The key's state is no proof that this server may use it.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_gives_no_data_key_does_not_work() {
    let setting = Setting::make().await;
    setting.proxy.take_calls();
    assert!(setting.status().await.0);
    assert!(!setting.proxy.take_calls().contains_key("Decrypt"), "each Decrypt is a retrieval");
    setting.proxy.set(Fate::AnswerTo("GenerateDataKey", 400, "AccessDeniedException"));
    let line = format!(
        "AWS KMS key {}, enabled, but it gives no data key: the KMS refuses the key: GenerateDataKey in eu-west-1: \
         AccessDeniedException",
        setting.primary.0
    );
    assert_eq!(setting.status().await, (false, line));
    setting.vault.stop().await;
}

/// No session can be looked at, so that is all that anybody is told; but not which way out is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_the_server_is_told_with_what_aws_says() {
    let (_, table) = local::table().await;
    let proxy = StoreProxy::start().await;
    let home = Home::at(Place::Table { name: table, endpoint: proxy.endpoint() });
    home.init().await.unwrap();
    let vault = home.serve("").await;
    let (operator, admin) = (vault.operator().await, vault.admin().await);
    let status = || async { operator.admin().get_server_status(pb::GetServerStatusRequest {}).await };
    assert!(status().await.is_ok());

    let expired = || StoreFate::error(400, "ExpiredTokenException");
    proxy.next("BatchGetItem", std::iter::repeat_with(expired).take(200));
    let refused = status().await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
    let details = refused.get_error_details();
    let said = &details.error_info().unwrap().metadata["store"];
    let credentials = "there are no good AWS credentials: AWS answers ExpiredTokenException: the proxy says so";
    assert_eq!(*said, format!("the store is unavailable: {credentials}"));
    // Whose token does not carry the scope learns nothing of it.
    let refused = admin.admin().get_server_status(pb::GetServerStatusRequest {}).await.unwrap_err();
    assert_eq!(reason(&refused), "SCOPE_MISSING");
    let refused = admin.keys().list_keys(pb::ListKeysRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "STORE_UNAVAILABLE");
    assert!(refused.get_error_details().error_info().unwrap().metadata.is_empty());
    proxy.forget();
    assert!(status().await.is_ok());
    vault.stop().await;
}
