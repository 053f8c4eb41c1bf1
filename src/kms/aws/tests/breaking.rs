//! Keys that don't answer are refused at once, and nobody else's.

use super::*;

/// A KMS on which some keys don't answer, until it is told otherwise.
fn down(keys: &'static [&'static str]) -> (Script, Arc<Mutex<bool>>) {
    let is_down = Arc::new(Mutex::new(true));
    let state = Arc::clone(&is_down);
    let script = Script::new(move |call| {
        let is_meant = keys.contains(&call.body["KeyId"].as_str().unwrap());
        if is_meant && *state.lock().unwrap() { Reply::Never } else { Reply::Well }
    });
    (script, is_down)
}

#[tokio::test(start_paused = true)]
async fn after_five_silent_calls_the_key_is_refused_at_once_until_one_is_answered() {
    let (script, is_down) = down(&[KEY]);
    let kms = adapter(&script);
    for _ in 0..5 {
        assert!(matches!(unwrap(&kms, KEY).await, Err(KmsError::Unavailable(_))));
    }
    let calls = script.calls().len();
    for _ in 0..50 {
        let (refused, took) = timed(unwrap(&kms, KEY)).await;
        assert!(matches!(refused, Err(KmsError::Unavailable(_))) && took.is_zero());
    }
    assert_eq!(script.calls().len(), calls, "nobody was called");

    // One looks whether it is back, while others are refused.
    tokio::time::advance(breaker::PAUSE).await;
    let mut probe = Box::pin(unwrap(&kms, KEY));
    assert!(is_under_way(&mut probe).await);
    let (refused, took) = timed(unwrap(&kms, KEY)).await;
    assert!(refused.is_err() && took.is_zero());
    probe.await.unwrap_err();
    *is_down.lock().unwrap() = false;
    unwrap(&kms, KEY).await.unwrap_err();
    tokio::time::advance(breaker::PAUSE).await;
    unwrap(&kms, KEY).await.unwrap();
    unwrap(&kms, KEY).await.unwrap();
}

/// Lets it go as far as it goes without waiting.
async fn is_under_way(call: &mut (impl Future + Unpin)) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *call).poll(cx).is_pending())).await
}

async fn open(kms: &AwsKeyWrapper, key: &str) {
    let calls = (0..5).map(|_| unwrap(kms, key));
    assert!(futures_util::future::join_all(calls).await.iter().all(Result::is_err));
    let (refused, took) = timed(unwrap(kms, key)).await;
    assert!(matches!(refused, Err(KmsError::Unavailable(_))) && took.is_zero());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_does_not_answer_refuses_no_other() {
    let (script, _) = down(&[KEY, AWAY]);
    let kms = adapter(&script);
    open(&kms, KEY).await;
    unwrap(&kms, OTHER).await.unwrap();
    open(&kms, AWAY).await;
    unwrap(&kms, OTHER).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_refused_with_an_answer_breaks_nothing() {
    for code in ["DisabledException", "AccessDeniedException", "NotFoundException", "InvalidCiphertextException"] {
        let script = Script::new(move |_| Reply::Error(code));
        let kms = adapter(&script);
        for _ in 0..20 {
            unwrap(&kms, KEY).await.unwrap_err();
        }
        assert_eq!(script.calls().len(), 20, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_in_a_hurry_breaks_nothing_for_those_who_wait() {
    let script = Script::new(|_| Reply::After(Duration::from_millis(300), Box::new(Reply::Well)));
    let kms = adapter(&script);
    for _ in 0..20 {
        let hurried = kms.unwrap(&wrapped(KEY), &context(), within(Duration::from_millis(100))).await;
        assert!(matches!(hurried, Err(KmsError::Unavailable(_))));
    }
    unwrap(&kms, KEY).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_is_no_failure_and_holds_no_place() {
    let (script, is_down) = down(&[KEY]);
    let kms = adapter(&script);
    open(&kms, KEY).await;
    tokio::time::advance(breaker::PAUSE).await;
    let mut probe = Box::pin(unwrap(&kms, KEY));
    assert!(is_under_way(&mut probe).await);
    drop(probe);
    *is_down.lock().unwrap() = false;
    unwrap(&kms, KEY).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_status_looks_for_itself() {
    let (script, _) = down(&[KEY]);
    let kms = adapter_of(&script, KEY, &[]);
    open(&kms, KEY).await;
    let before = script.calls().len();
    assert!(kms.status(in_time()).await.is_err());
    assert_eq!(script.calls().len(), before + 1);
}

/// A source in a key store that is gone must not refuse the calls of the healthy key that all is to go to.
#[tokio::test(start_paused = true)]
async fn leaving_a_key_that_does_not_answer_breaks_nothing_for_the_key_to_go_to() {
    let script = Script::new(|call| if call.body["SourceKeyId"] == KEY { Reply::Cut } else { Reply::Well });
    let kms = adapter(&script);
    let to = KmsKeyId(OTHER.to_owned());
    for _ in 0..8 {
        let refused = kms.rewrap(&wrapped(KEY), &context(), &to, in_time()).await;
        assert!(matches!(refused, Err(KmsError::Unavailable(_))));
    }
    let (refused, took) = timed(kms.rewrap(&wrapped(KEY), &context(), &to, in_time())).await;
    assert!(refused.is_err() && took.is_zero(), "this way is refused at once");
    unwrap(&kms, OTHER).await.unwrap();
    kms.generate_data_key(Some(&to), &context(), in_time()).await.unwrap();
    kms.rewrap(&wrapped(OTHER), &context(), &to, in_time()).await.unwrap();
}
