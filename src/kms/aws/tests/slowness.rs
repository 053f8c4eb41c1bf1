//! A KMS that is slow, silent, throttles or loses replies: within the deadline, whatever it does.

use super::*;

const LIMIT: Duration = OPERATION_TIMEOUT;

/// Every way to be slow.
fn slow_kms() -> Vec<(&'static str, Script)> {
    let after = |seconds, reply: fn() -> Reply| {
        Script::new(move |_| Reply::After(Duration::from_millis(seconds), Box::new(reply())))
    };
    vec![
        ("silent", Script::new(|_| Reply::Never)),
        ("an hour", after(3_600_000, || Reply::Well)),
        ("just too slow", after(1_001, || Reply::Well)),
        ("slow errors", after(900, || Reply::Error("KMSInternalException"))),
        ("slow throttling", after(900, || Reply::Error("ThrottlingException"))),
        ("slow cuts", after(900, || Reply::Cut)),
    ]
}

#[tokio::test(start_paused = true)]
async fn no_call_takes_longer_than_its_deadline_or_the_limit() {
    for deadline in [0, 1, 50, 700, 1_500, 2_400, 2_500, 60_000].map(Duration::from_millis) {
        let longest = deadline.min(LIMIT);
        for (what, script) in slow_kms() {
            let kms = adapter(&script);
            let (_, took) = timed(kms.unwrap(&wrapped(KEY), &context(), within(deadline))).await;
            assert!(took <= longest + Duration::from_millis(2), "unwrap, {what}: {took:?} of {longest:?}");
            let (_, took) = timed(kms.generate_data_key(None, &context(), within(deadline))).await;
            assert!(took <= longest + Duration::from_millis(2), "generate, {what}: {took:?} of {longest:?}");
            let (_, took) = timed(kms.unwrap(&wrapped(AWAY_MULTI), &context(), within(deadline))).await;
            assert!(took <= longest + Duration::from_millis(2), "two regions, {what}: {took:?} of {longest:?}");
            let to = KmsKeyId(OTHER.to_owned());
            let (_, took) = timed(kms.rewrap(&wrapped(KEY), &context(), &to, within(deadline))).await;
            assert!(took <= longest + Duration::from_millis(2), "rewrap, {what}: {took:?} of {longest:?}");
            let (_, took) = timed(kms.status(within(deadline))).await;
            assert!(took <= longest + Duration::from_millis(2), "status, {what}: {took:?} of {longest:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_is_no_call() {
    let script = Script::new(|_| Reply::Well);
    let refused = adapter(&script).unwrap(&wrapped(KEY), &context(), within(Duration::ZERO)).await;
    assert!(matches!(refused, Err(KmsError::Unavailable(_))));
    assert!(script.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_tried_again_within_the_call() {
    for reply in [
        (|| Reply::Cut) as fn() -> Reply,
        || Reply::Never,
        || Reply::Error("ThrottlingException"),
        || Reply::Error("KMSInternalException"),
    ] {
        let script = Script::counted(move |n| if n == 1 { reply() } else { Reply::Well });
        unwrap(&adapter(&script), KEY).await.unwrap();
        assert_eq!(script.calls().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn what_stays_is_tried_three_times_at_most() {
    for (code, is_expected) in [
        ("ThrottlingException", (|error| matches!(error, KmsError::Throttled { .. })) as fn(KmsError) -> bool),
        ("KMSInternalException", |error| matches!(error, KmsError::Unavailable(_))),
    ] {
        let script = Script::new(move |_| Reply::Error(code));
        let (refused, took) = timed(unwrap(&adapter(&script), KEY)).await;
        assert!(is_expected(refused.unwrap_err()) && took < Duration::from_secs(1), "{code}: {took:?}");
        assert_eq!(script.calls().len(), 3, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_decided_is_not_tried_again() {
    for code in [
        "DisabledException",
        "KMSInvalidStateException",
        "NotFoundException",
        "AccessDeniedException",
        "InvalidCiphertextException",
        "IncorrectKeyException",
        "InvalidKeyUsageException",
        "ValidationException",
        "ExpiredTokenException",
    ] {
        let script = Script::new(move |_| Reply::Error(code));
        unwrap(&adapter(&script), KEY).await.unwrap_err();
        assert_eq!(script.calls().len(), 1, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kms_that_throttles_on_and_on_is_soon_called_once_a_call() {
    let script = Script::new(|_| Reply::Error("ThrottlingException"));
    let kms = adapter(&script);
    for _ in 0..200 {
        unwrap(&kms, KEY).await.unwrap_err();
    }
    let before = script.calls().len();
    for _ in 0..20 {
        assert!(matches!(unwrap(&kms, KEY).await, Err(KmsError::Throttled { .. })), "it is no breaker's matter");
    }
    assert_eq!(script.calls().len() - before, 20, "of {before} the budget paid the repetitions");
}
