//! What AWS says, and what the port and the status make of it.

use serde_json::json;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::{script::described, *};

fn refusing(code: &'static str) -> Script {
    Script::new(move |_| Reply::Error(code))
}

fn word(error: &KmsError) -> &'static str {
    match error {
        KmsError::Unavailable(_) => "unavailable",
        KmsError::Throttled { .. } => "throttled",
        KmsError::KeyDisabled(_) => "disabled",
        KmsError::KeyRefused(_) => "refused",
        KmsError::KeyUnsuited(_) => "unsuited",
        KmsError::Rejected => "rejected",
    }
}

const MEANINGS: &[(&str, &str)] = &[
    ("DisabledException", "disabled"),
    ("KMSInvalidStateException", "disabled"),
    ("NotFoundException", "refused"),
    ("InvalidArnException", "refused"),
    ("AccessDeniedException", "refused"),
    ("InvalidKeyUsageException", "unsuited"),
    ("InvalidGrantTokenException", "refused"),
    ("UnsupportedOperationException", "unsuited"),
    ("ValidationException", "refused"),
    ("IncorrectKeyException", "rejected"),
    ("InvalidCiphertextException", "rejected"),
    ("ThrottlingException", "throttled"),
    ("LimitExceededException", "throttled"),
    ("KeyUnavailableException", "unavailable"),
    ("DependencyTimeoutException", "unavailable"),
    ("KMSInternalException", "unavailable"),
    ("ExpiredTokenException", "unavailable"),
    ("UnrecognizedClientException", "unavailable"),
    ("InvalidSignatureException", "unavailable"),
];

#[tokio::test(start_paused = true)]
async fn every_refusal_means_something_for_every_call() {
    for (code, meaning) in MEANINGS {
        let script = refusing(code);
        let unwrapped = unwrap(&adapter(&script), KEY).await.unwrap_err();
        let generated = adapter(&script).generate_data_key(None, &context(), in_time()).await.unwrap_err();
        let to = KmsKeyId(OTHER.to_owned());
        let rewrapped = adapter(&script).rewrap(&wrapped(KEY), &context(), &to, in_time()).await.unwrap_err();
        assert_eq!([&unwrapped, &generated, &rewrapped].map(word), [*meaning; 3], "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_learns_what_was_said_and_by_whom() {
    let said = json!({ "__type": "AccessDeniedException", "message": "User: arn:aws:sts::1:assumed-role/a/b is not" });
    let script = Script::new(move |_| Reply::With(400, said.clone()));
    let KmsError::KeyRefused(cause) = unwrap(&adapter(&script), KEY).await.unwrap_err() else { panic!() };
    let expected = "Decrypt in eu-west-1: AccessDeniedException: User: arn:aws:sts::1:assumed-role/a/b is not";
    assert_eq!(cause.to_string(), expected);
}

#[tokio::test(start_paused = true)]
async fn the_log_is_told_once_a_minute_why_a_key_cannot_be_used() {
    let log = Log::default();
    let _kept = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).set_default();
    let said = json!({ "__type": "DisabledException", "message": "key 1234 is disabled" });
    let script = Script::new(move |call| match call.operation.as_str() {
        "Decrypt" => Reply::With(400, said.clone()),
        _ => Reply::Error("AccessDeniedException"),
    });
    let kms = adapter(&script);
    let tries = async || {
        for _ in 0..10 {
            unwrap(&kms, KEY).await.unwrap_err();
            kms.generate_data_key(Some(&KmsKeyId(KEY.to_owned())), &context(), in_time()).await.unwrap_err();
        }
        log.take()
    };
    let told = tries().await;
    assert_eq!(told.lines().count(), 2, "{told}");
    for line in [
        "Decrypt in eu-west-1: DisabledException: key 1234 is disabled",
        "GenerateDataKey in eu-west-1: AccessDeniedException",
    ] {
        assert!(told.contains(line) && told.contains(KEY) && told.contains("WARN"), "{told}");
    }
    assert_eq!(tries().await, "");
    tokio::time::advance(TOLD_FOR).await;
    assert_eq!(tries().await.lines().count(), 2);
}

#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_of_another_kind_is_named_as_aws_names_it() {
    let kind = "arn:aws:kms:1:key/2 key usage is SIGN_VERIFY which is not valid for GenerateDataKey.";
    let said = json!({ "__type": "InvalidKeyUsageException", "message": kind });
    let script = Script::new(move |_| Reply::With(400, said.clone()));
    let refused = adapter(&script).generate_data_key(None, &context(), in_time()).await.unwrap_err();
    let failure = crate::domain::error::Failure::from(KmsError::KeyUnsuited(kind.to_owned()));
    assert!(matches!(refused, KmsError::KeyUnsuited(said) if said == kind));
    assert_eq!(failure.metadata, [("kms_key", kind.to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_none_is_no_key() {
    for body in [
        json!({}),
        json!({ "KeyId": KEY, "Plaintext": "AAAA", "CiphertextBlob": "AAAA" }),
        json!({ "KeyId": "alias/vault", "Plaintext": data_encoding::BASE64.encode(&[1; 32]), "CiphertextBlob": "AAAA" }),
        json!({ "KeyId": KEY, "Plaintext": data_encoding::BASE64.encode(&[1; 32]), "CiphertextBlob": "" }),
    ] {
        let script = Script::new(move |_| Reply::With(200, body.clone()));
        let generated = adapter(&script).generate_data_key(None, &context(), in_time()).await;
        assert!(matches!(generated, Err(KmsError::Unavailable(_))));
    }
    let short = json!({ "KeyId": KEY, "Plaintext": data_encoding::BASE64.encode(&[1; 31]) });
    let script = Script::new(move |_| Reply::With(200, short.clone()));
    assert!(matches!(unwrap(&adapter(&script), KEY).await, Err(KmsError::Unavailable(_))));
}

async fn said(answer: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Result<String, String> {
    adapter(&Script::new(answer)).status(in_time()).await
}

#[tokio::test(start_paused = true)]
async fn the_status_is_a_sentence_about_the_primary() {
    let good = said(|_| Reply::With(200, described("Enabled", "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"))).await;
    assert_eq!(good.unwrap(), format!("AWS KMS key {KEY}, enabled"));
    for (state, spec, usage, problem) in [
        ("Disabled", "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "is disabled: enable it"),
        ("PendingDeletion", "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "is pending deletion: cancel"),
        ("PendingImport", "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "waits for its key material"),
        ("Unavailable", "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "is unavailable"),
        ("Creating", "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "is in the state Creating"),
        ("Enabled", "RSA_2048", "ENCRYPT_DECRYPT", "is a key RSA_2048 for ENCRYPT_DECRYPT; needed is"),
        ("Enabled", "HMAC_256", "GENERATE_VERIFY_MAC", "is a key HMAC_256 for GENERATE_VERIFY_MAC"),
    ] {
        let bad = said(move |_| Reply::With(200, described(state, spec, usage))).await.unwrap_err();
        assert!(bad.starts_with(&format!("kms.key_id: {KEY} {problem}")), "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_keeps_the_primary_from_being_described_is_one_line() {
    for (code, line) in [
        ("NotFoundException", "kms.key_id: there is no KMS key alias/vault in eu-west-1; is it in another region?"),
        ("ValidationException", "kms.key_id: AWS KMS takes no call with alias/vault: DescribeKey in eu-west-1: Valid"),
        ("AccessDeniedException", "kms.key_id: the server's AWS identity may not use alias/vault: allow it kms:Desc"),
        ("ThrottlingException", "kms.region: AWS KMS gives no answer: DescribeKey in eu-west-1: ThrottlingException"),
        ("KMSInternalException", "kms.region: AWS KMS gives no answer: DescribeKey in eu-west-1: KMSInternal"),
    ] {
        let bad = said(move |_| Reply::Error(code)).await.unwrap_err();
        assert!(bad.starts_with(line) && !bad.contains('\n'), "{bad}");
    }
    let denied = said(|_| {
        let text = "User: arn:aws:sts::1:assumed-role/a/b is not authorized: no VPC endpoint policy allows it";
        Reply::With(400, json!({ "__type": "AccessDeniedException", "message": text }))
    });
    let denied = denied.await.unwrap_err();
    let whole = "AccessDeniedException: User: arn:aws:sts::1:assumed-role/a/b is not authorized: no VPC endpoint";
    assert!(denied.contains(whole) && !denied.contains("ReEncrypt"), "{denied}");
    let cut = said(|_| Reply::Cut).await.unwrap_err();
    assert_eq!(cut, "kms.region: AWS KMS gives no answer: DescribeKey in eu-west-1: no connection: connection reset");
    let silent = said(|_| Reply::Never).await.unwrap_err();
    assert_eq!(silent, "kms.region: AWS KMS gives no answer: DescribeKey in eu-west-1: no answer in time");
}

#[tokio::test(start_paused = true)]
async fn who_is_no_kms_is_not_taken_for_one_without_the_key() {
    for (answer, said) in [
        ((|| Reply::With(407, json!({}))) as fn() -> Reply, "HTTP status 407"),
        (|| Reply::Error("UnknownOperationException"), "UnknownOperationException"),
    ] {
        let script = Script::new(move |_| answer());
        let sdk = script.sdk().into_builder().endpoint_url("https://kms.example").build();
        let keys = Keys { primary: KmsKeyId(KEY.to_owned()), recovery: BTreeMap::new() };
        let kms = AwsKeyWrapper::new(&sdk, keys, Arc::new(TokioClock)).unwrap();
        let problem = kms.status(in_time()).await.unwrap_err();
        assert_eq!(script.calls()[0].host, "kms.example");
        let line =
            "kms.endpoint: what answers there takes no such call; is it AWS KMS? It says: DescribeKey in eu-west";
        assert!(problem.starts_with(line) && problem.contains(said), "{problem}");
    }
}
