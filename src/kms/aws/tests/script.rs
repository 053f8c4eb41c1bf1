//! A KMS made of a closure: what each request is answered.

use std::fmt;

use aws_config::{BehaviorVersion, Region as RegionName};
use aws_sdk_kms::config::{
    Credentials, SharedCredentialsProvider,
    http::{HttpRequest, HttpResponse},
};
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
    result::ConnectorError,
};
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::*;

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// Without the name of the service before it.
    pub(super) operation: String,
    /// That it is signed for.
    pub(super) region: String,
    pub(super) host: String,
    pub(super) body: Value,
}

/// What it is answered.
pub(super) enum Reply {
    /// This, at once.
    With(u16, Value),
    /// This error, as KMS writes it.
    Error(&'static str),
    /// What a KMS in order answers.
    Well,
    /// That, after a while.
    After(Duration, Box<Reply>),
    /// Nothing, ever.
    Never,
    /// The connection is refused, or ends before an answer.
    Cut,
}

type Answers = dyn Fn(&Call) -> Reply + Send + Sync;

#[derive(Clone)]
pub(super) struct Script {
    answers: Arc<Answers>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

/// The data key of every answer.
pub(super) const DATA_KEY: [u8; 32] = [0x42; 32];

impl Script {
    pub(super) fn new(answers: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        Self { answers: Arc::new(answers), calls: Arc::default() }
    }
    /// The `n`th call and what it is answered; the first is 1.
    pub(super) fn counted(answers: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let count = Mutex::new(0);
        Self::new(move |_| {
            let mut count = count.lock().unwrap();
            *count += 1;
            answers(*count)
        })
    }
    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
    pub(super) fn sdk(&self) -> SdkConfig {
        self.sdk_as(SharedCredentialsProvider::new(Credentials::for_tests()))
    }
    pub(super) fn sdk_as(&self, identity: SharedCredentialsProvider) -> SdkConfig {
        let connector = SharedHttpConnector::new(self.clone());
        let timeouts = aws_config::timeout::TimeoutConfig::builder()
            .connect_timeout(crate::aws::CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(RegionName::new(HOME))
            .credentials_provider(identity)
            .timeout_config(timeouts)
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .build()
    }
}

impl HttpConnector for Script {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let header = |name: &str| request.headers().get(name).unwrap_or_default().to_owned();
        let scope: Vec<_> = header("authorization").split('/').map(str::to_owned).collect();
        let call = Call {
            operation: header("x-amz-target").trim_start_matches("TrentService.").to_owned(),
            region: scope.get(2).cloned().unwrap_or_default(),
            host: request.uri().split('/').nth(2).unwrap_or_default().to_owned(),
            body: serde_json::from_slice(request.body().bytes().unwrap()).unwrap(),
        };
        let reply = (self.answers)(&call);
        self.calls.lock().unwrap().push(call.clone());
        HttpConnectorFuture::new(Box::pin(answer(call, reply)))
    }
}

async fn answer(call: Call, reply: Reply) -> Result<HttpResponse, ConnectorError> {
    let mut reply = reply;
    while let Reply::After(span, then) = reply {
        tokio::time::sleep(span).await;
        reply = *then;
    }
    let (status, body) = match reply {
        Reply::With(status, body) => (status, body),
        Reply::Error(code) => (if code.starts_with("KMSInternal") { 500 } else { 400 }, json!({ "__type": code })),
        Reply::Well => (200, well(&call)),
        Reply::Cut => return Err(ConnectorError::io("connection reset".into())),
        Reply::Never | Reply::After(..) => std::future::pending().await,
    };
    Ok(HttpResponse::new(status.try_into().unwrap(), body.to_string().into_bytes().into()))
}

/// What a KMS answers whose keys all wrap the same data key.
fn well(call: &Call) -> Value {
    let name = |field: &str| {
        let id = call.body[field].as_str().unwrap();
        if id.starts_with("arn:") && id.contains(":key/") { id.to_owned() } else { KEY.to_owned() }
    };
    match call.operation.as_str() {
        "GenerateDataKey" => json!({
            "KeyId": name("KeyId"), "Plaintext": BASE64.encode(&DATA_KEY), "CiphertextBlob": BASE64.encode(&[7; 100]),
        }),
        "Decrypt" => json!({ "KeyId": name("KeyId"), "Plaintext": BASE64.encode(&DATA_KEY) }),
        "ReEncrypt" => json!({ "KeyId": name("DestinationKeyId"), "CiphertextBlob": BASE64.encode(&[8; 100]) }),
        "DescribeKey" => described("Enabled", "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"),
        other => panic!("{other} is never called"),
    }
}

pub(super) fn described(state: &str, spec: &str, usage: &str) -> Value {
    json!({ "KeyMetadata": { "KeyId": "1234", "Arn": KEY, "KeyState": state, "KeySpec": spec, "KeyUsage": usage } })
}
