//! One call's tries: how long each may take, what a failed one means, and how long to wait before the
//! next. The SDK itself never tries twice.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_sdk_dynamodb::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, http::HttpResponse, interceptors::BeforeTransmitInterceptorContextRef,
    },
    error::{BoxError, ProvideErrorMetadata, SdkError},
};
use hyper_util::client::legacy::Error as Connection;
use tokio::time::{sleep, timeout};

use crate::{
    aws::{self, ATTEMPT_TIMEOUT, OPERATION_TIMEOUT},
    domain::clock::{Clock, Deadline, Entropy, random},
    store::StoreError,
};

/// The shortest pause before another try; each is about twice the one before.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest one.
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// Another try needs so much time: one that can't be answered would only raise a doubt.
const PATIENCE_MIN: Duration = Duration::from_millis(20);

/// What a failed try means.
#[derive(Debug)]
pub(super) enum Trouble {
    /// DynamoDB asks for fewer calls, or somebody else's transaction has the item: nothing happened.
    Throttled,
    /// It never came to DynamoDB: nothing happened.
    NotSent(BoxError),
    /// No answer, or one that does not tell: it may have happened, or happen yet.
    Lost(BoxError),
    /// It is refused, and would be again: nothing happened.
    Refused(StoreError),
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Throttled => Self::Throttled,
            Trouble::NotSent(cause) | Trouble::Lost(cause) => Self::Unavailable(cause),
            Trouble::Refused(error) => error,
        }
    }
}

/// A try that brought no result.
#[derive(Debug)]
pub(super) enum Miss<E> {
    /// DynamoDB answered this error, with that HTTP status.
    Said(E, u16),
    /// It answered nothing that can be read.
    Silent(Trouble),
}

impl<E: ProvideErrorMetadata> From<Miss<E>> for Trouble {
    fn from(miss: Miss<E>) -> Self {
        match miss {
            Miss::Said(error, status) => Self::of(&error, status),
            Miss::Silent(trouble) => trouble,
        }
    }
}

impl Trouble {
    /// What DynamoDB's error means to the port, where the call itself makes nothing else of it.
    fn of(error: &impl ProvideErrorMetadata, status: u16) -> Self {
        match error.code().unwrap_or_default() {
            "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "ReplicatedWriteConflictException"
            | "ThrottlingException"
            | "TransactionConflictException" => Self::Throttled,
            // An earlier try of this very write is being decided.
            "TransactionInProgressException" => Self::Lost("the transaction is being decided".into()),
            "IdempotentParameterMismatchException" => Self::Refused(StoreError::Contract("a WriteId names one write")),
            code if aws::is_of_credentials(code) => Self::refused(NoCredentials(Answer::of(error).to_string())),
            // Without a name it is no error of DynamoDB's, but of somebody between, or no error at all.
            "" => Self::Lost(Box::new(Answer::of(error))),
            _ if status >= 500 => Self::Lost(Box::new(Answer::of(error))),
            _ => Self::refused(Answer::of(error)),
        }
    }

    /// Whether there was nobody to send it to; who had no time for it has not learned that.
    pub(super) fn is_unreached(&self) -> bool {
        matches!(self, Self::NotSent(cause) if cause.is::<Silence>())
    }

    fn refused(cause: impl Error + Send + Sync + 'static) -> Self {
        Self::Refused(StoreError::Unavailable(Box::new(cause)))
    }
}

/// There are no credentials, or AWS does not take them: why, in one line.
#[derive(Debug, thiserror::Error)]
#[error("there are no good AWS credentials: {0}")]
pub(super) struct NoCredentials(String);

impl NoCredentials {
    /// That this kept a call from being sent. What brings credentials tries again by itself.
    fn behind(error: &(dyn Error + 'static)) -> Option<Self> {
        aws::credentials_problem(error).map(Self)
    }
}

/// An error that DynamoDB answered, for the log and for whoever starts the server.
#[derive(Debug)]
pub(super) struct Answer {
    code: String,
    /// Kept only where it speaks of rights and places, and never of items.
    message: Option<String>,
}

impl Answer {
    pub(super) fn of(error: &impl ProvideErrorMetadata) -> Self {
        let whole = Self::of_table(error);
        let is_of_items = whole.code == "ValidationException" || whole.code == "SerializationException";
        Self { message: whole.message.filter(|_| !is_of_items), ..whole }
    }
    /// The answer to a call in which no items are.
    pub(super) fn of_table(error: &impl ProvideErrorMetadata) -> Self {
        let code = error.code().unwrap_or("what can't be read").to_owned();
        Self { message: error.message().map(one_line), code }
    }
    pub(super) fn code(&self) -> &str {
        &self.code
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Some(message) => write!(f, "AWS answers {}: {message}", self.code),
            None => write!(f, "AWS answers {}", self.code),
        }
    }
}
impl Error for Answer {}

/// The tries of one call.
#[derive(Debug)]
pub(super) struct Tries<'a> {
    clock: &'a dyn Clock,
    entropy: &'a dyn Entropy,
    deadline: Deadline,
    failed: u32,
    /// The longest that the next try may take.
    longest: Duration,
}

impl<'a> Tries<'a> {
    pub(super) fn new(clock: &'a dyn Clock, entropy: &'a dyn Entropy, deadline: Deadline) -> Self {
        Self { clock, entropy, deadline, failed: 0, longest: ATTEMPT_TIMEOUT }
    }

    /// Those of a call that may be the first: credentials that are fetched for it may take longer than a
    /// try, and are told about only when they have had their time.
    pub(super) fn patient(self) -> Self {
        Self { longest: OPERATION_TIMEOUT.saturating_add(ATTEMPT_TIMEOUT), ..self }
    }

    /// How long the next try may take; zero: there is no time for one.
    fn patience(&self) -> Duration {
        self.clock.left(self.deadline).min(self.longest)
    }

    /// Whether there is time for anything.
    ///
    /// # Errors
    /// When the deadline has passed.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.patience().is_zero() { Err(StoreError::Unavailable(too_late())) } else { Ok(()) }
    }

    /// Tries it once: `call` is given what notes whether it was sent.
    pub(super) async fn once<O, E, F>(&self, call: impl FnOnce(Sent) -> F) -> Result<O, Miss<E>>
    where
        E: Error + Send + Sync + 'static,
        F: Future<Output = Result<O, SdkError<E, HttpResponse>>>,
    {
        let patience = self.patience();
        if patience.is_zero() {
            return Err(Miss::Silent(Trouble::NotSent(too_late())));
        }
        let sent = Sent::default();
        match timeout(patience, call(sent.clone())).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(SdkError::ServiceError(said))) => {
                let status = said.raw().status().as_u16();
                Err(Miss::Said(said.into_err(), status))
            }
            Ok(Err(error)) => {
                if let Some(problem) = (!sent.is_sent()).then(|| NoCredentials::behind(&error)).flatten() {
                    return Err(Miss::Silent(Trouble::refused(problem)));
                }
                let never = !sent.is_sent() || is_unconnected(&error);
                let cause = Box::new(Silence(error.into_source().unwrap_or_else(|_| "no answer".into())));
                Err(Miss::Silent(if never { Trouble::NotSent(cause) } else { Trouble::Lost(cause) }))
            }
            Err(_) if sent.is_sent() => Err(Miss::Silent(Trouble::Lost(too_late()))),
            Err(_) => Err(Miss::Silent(Trouble::NotSent(too_late()))),
        }
    }

    /// Waits for the next try, if there may be one.
    ///
    /// # Errors
    /// `trouble` as the port's error, where trying again is of no use or there is no time for it.
    pub(super) async fn again(&mut self, trouble: Trouble) -> Result<(), StoreError> {
        if matches!(trouble, Trouble::Refused(_)) {
            return Err(trouble.into());
        }
        self.failed = self.failed.saturating_add(1);
        let pause = self.pause();
        if self.clock.left(self.deadline) < pause.saturating_add(PATIENCE_MIN) {
            return Err(trouble.into());
        }
        sleep(pause).await;
        // A try gets longer with each that failed: what is slow today would else never be answered.
        let longer = ATTEMPT_TIMEOUT.saturating_mul(doubled(self.failed)).min(OPERATION_TIMEOUT);
        self.longest = self.longest.max(longer);
        if self.patience().is_zero() { Err(trouble.into()) } else { Ok(()) }
    }

    /// Half of it fixed, half of it by chance, so that those who met once don't meet again.
    fn pause(&self) -> Duration {
        let longest = PAUSE.saturating_mul(doubled(self.failed)).min(PAUSE_MAX);
        let [chance] = random::<1>(self.entropy).unwrap_or([u8::MAX]);
        let half = longest / 2;
        half.saturating_add(half.saturating_mul(chance.into()) / u32::from(u8::MAX))
    }
}

fn doubled(times: u32) -> u32 {
    1_u32 << times.min(16)
}

/// Notes when a request is handed to the connection: what failed before never left this process.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent(Arc<AtomicBool>);

impl Sent {
    fn is_sent(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Intercept for Sent {
    fn name(&self) -> &'static str {
        "Sent"
    }
    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.store(true, Ordering::SeqCst);
        Ok(())
    }
}

/// Whether there was no connection to send the request on.
fn is_unconnected<E>(error: &SdkError<E, HttpResponse>) -> bool {
    let SdkError::DispatchFailure(failure) = error else { return false };
    // The only timeout that connections have here is that of being made.
    failure.is_timeout()
        || failure.as_connector_error().is_some_and(|error| {
            let mut connections = causes(error).filter_map(|cause| cause.downcast_ref::<Connection>());
            connections.any(Connection::is_connect)
        })
}

/// What is behind `error`, from the outside in.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// No answer; the causes in one line, for some of them say only where they were.
#[derive(Debug)]
struct Silence(BoxError);

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = one_line(&self.0.to_string());
        write!(f, "AWS does not answer: {last}")?;
        for cause in causes(&*self.0) {
            let text = one_line(&cause.to_string());
            if text != last {
                write!(f, ": {text}")?;
            }
            last = text;
        }
        Ok(())
    }
}
impl Error for Silence {}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn too_late() -> BoxError {
    "DynamoDB did not answer in time".into()
}
