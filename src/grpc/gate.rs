//! The one way from a tonic request to a use case and back: no handler can forget the deadline,
//! the record of a refusal, or the status map.

use std::{future::Future, panic::AssertUnwindSafe, pin::Pin, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use super::{
    entry::{Entry, Recorder, record},
    status::{status_for, status_of},
    target::{self, Target},
    to_its_end::ToItsEnd,
};
use crate::{
    domain::{
        clock::Clock,
        error::{Failure, Reason},
        ids::OrgId,
    },
    service::call::Call,
};

/// Runs handlers.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    recorder: Arc<dyn Recorder>,
    clock: Arc<dyn Clock>,
    tasks: TaskTracker,
}

impl Gate {
    /// A gate that records refusals in `recorder` and runs handlers among `tasks`, which the
    /// server waits for when it drains.
    #[must_use]
    pub fn new(recorder: Arc<dyn Recorder>, clock: Arc<dyn Clock>, tasks: TaskTracker) -> Self {
        Self(Arc::new(Inner { recorder, clock, tasks }))
    }

    /// Runs a unary handler to its end (a cancelled call leaves nothing half done), records its
    /// refusal, and maps its failure. How long the caller waits for it the layers bound.
    ///
    /// # Errors
    /// The status of the handler's failure, with its details.
    pub async fn unary<M, T, F, R>(
        &self,
        request: tonic::Request<M>,
        run: F,
    ) -> Result<tonic::Response<T>, tonic::Status>
    where
        M: prost::Message + 'static,
        T: Send + 'static,
        F: FnOnce(Call, M) -> R + Send + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let (entry, message) = admitted(request)?;
        answered(self.run(&entry, message, run).await)
    }

    /// Runs a unary handler that answers for many, and records the refusals that it names beside its
    /// answer.
    ///
    /// # Errors
    /// As [`Self::unary`].
    pub async fn batch<M, T, F, R>(
        &self,
        request: tonic::Request<M>,
        run: F,
    ) -> Result<tonic::Response<T>, tonic::Status>
    where
        M: prost::Message + 'static,
        T: Send + 'static,
        F: FnOnce(Call, M) -> R + Send + 'static,
        R: Future<Output = Result<(T, Vec<Refused>), Failure>> + Send + 'static,
    {
        let (entry, message) = admitted(request)?;
        let (gate, of_task) = (self.clone(), Arc::clone(&entry));
        let run = |call, message| async move {
            let (answer, refused) = run(call, message).await?;
            for Refused { resource, failure } in refused {
                gate.note(&of_task, resource, &failure);
            }
            Ok(answer)
        };
        answered(self.run(&entry, message, run).await)
    }

    /// Runs a handler that answers a stream; the stream's own failure is mapped, too.
    ///
    /// # Errors
    /// The status of the handler's failure, with its details.
    pub async fn stream<M, T, S, F, R>(
        &self,
        request: tonic::Request<M>,
        run: F,
    ) -> Result<tonic::Response<MappedStream<T>>, tonic::Status>
    where
        M: prost::Message + 'static,
        T: Send + 'static,
        S: Stream<Item = Result<T, Failure>> + Send + 'static,
        F: FnOnce(Call, M) -> R + Send + 'static,
        R: Future<Output = Result<S, Failure>> + Send + 'static,
    {
        let (entry, message) = admitted(request)?;
        let items = self.run(&entry, message, run).await.map_err(|failure| status_of(&failure))?;
        let running = Running { gate: self.clone(), items: Box::pin(items), until: expiry(&entry), entry };
        let mapped = futures_util::stream::unfold(Some(running), |running| async move {
            let mut running = running?;
            match running.next().await? {
                Ok(item) => Some((Ok(item), Some(running))),
                Err(failure) => {
                    running.gate.note(&running.entry, String::new(), &failure);
                    Some((Err(status_of(&failure)), None))
                }
            }
        });
        Ok(tonic::Response::new(Box::pin(mapped)))
    }

    async fn run<M, T, F, R>(&self, entry: &Arc<Entry>, message: M, run: F) -> Result<T, Failure>
    where
        M: prost::Message + 'static,
        T: Send + 'static,
        F: FnOnce(Call, M) -> R + Send + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        entry.charge(target::more_calls(&message));
        let of_call = Arc::clone(entry);
        let target = target::of(&message);
        let begin = move |gate: &Self| {
            let call = of_call.call(gate.clock(), content_of(&of_call, &message));
            run(call, message)
        };
        self.to_its_end(self.settled(entry, target, begin)).await
    }

    /// `work` to its end, whether or not anybody waits for it until then.
    pub(super) fn to_its_end<F: Future<Output: Send> + Send + 'static>(&self, work: F) -> ToItsEnd<F> {
        ToItsEnd::new(work, &self.0.tasks)
    }

    /// [`Self::to_its_end`] in a task from the beginning: for what is begun where nobody may poll it for
    /// a while, because the client does not take the answers.
    pub(super) async fn apart<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        self.0.tasks.spawn(work).await.unwrap_or_else(|_| Err(Reason::Internal.into()))
    }

    /// What `begin` begins, with its failure recorded as one of `target`.
    pub(super) fn settled<T, B, R>(
        &self,
        entry: &Arc<Entry>,
        target: Option<Target>,
        begin: B,
    ) -> impl Future<Output = Result<T, Failure>> + Send + use<T, B, R>
    where
        T: Send + 'static,
        B: FnOnce(&Self) -> R + Send + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let (gate, entry) = (self.clone(), Arc::clone(entry));
        async move {
            // A panic's text may hold anything: it is not answered, and the hook does not print it.
            let outcome = AssertUnwindSafe(async { begin(&gate).await }).catch_unwind().await;
            let outcome = outcome.unwrap_or_else(|_| Err(Reason::Internal.into()));
            outcome.map_err(|failure| {
                let own = entry.claims.as_ref().map_or_else(OrgId::system, |claims| claims.org.clone());
                let resource = target.and_then(|target| target.name(&own)).unwrap_or_default();
                gate.note(&entry, resource, &failure);
                failure.recorded()
            })
        }
    }

    /// Records that `entry` was refused.
    pub(super) fn note(&self, entry: &Entry, resource: String, failure: &Failure) {
        record(&*self.0.recorder, &*self.0.clock, entry, resource, failure);
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }
}

/// The answer of a handler, or the status of its failure.
fn answered<T>(outcome: Result<T, Failure>) -> Result<tonic::Response<T>, tonic::Status> {
    outcome.map(tonic::Response::new).map_err(|failure| status_of(&failure))
}

/// One of many that was refused, and what it was about.
#[derive(Debug)]
pub struct Refused {
    /// Its full name; empty where it has none that may be kept.
    pub resource: String,
    /// Why.
    pub failure: Failure,
}

/// A handler's stream with its failures mapped.
pub type MappedStream<T> = Pin<Box<dyn Stream<Item = Result<T, tonic::Status>> + Send>>;

/// A stream that is being answered.
struct Running<S> {
    gate: Gate,
    items: Pin<Box<S>>,
    until: Pin<Box<tokio::time::Sleep>>,
    entry: Arc<Entry>,
}

impl<T, S: Stream<Item = Result<T, Failure>>> Running<S> {
    /// The next item; a failure when the connection is to end or the caller's deadline passed.
    async fn next(&mut self) -> Option<Result<T, Failure>> {
        tokio::select! {
            biased;
            () = self.entry.connection.ending.cancelled() => Some(Err(Reason::Draining.into())),
            () = &mut self.until => Some(Err(Reason::DeadlineExceeded.into())),
            item = AssertUnwindSafe(self.items.next()).catch_unwind() => {
                item.unwrap_or_else(|_| Some(Err(Reason::Internal.into())))
            }
        }
    }
}

/// When a stream ends at the latest: the caller's own deadline, or in effect never.
pub(super) fn expiry(entry: &Entry) -> Pin<Box<tokio::time::Sleep>> {
    const NEVER: Duration = Duration::from_secs(30 * 86_400);
    Box::pin(tokio::time::sleep(entry.timeout.unwrap_or(NEVER)))
}

/// What the layers let through. A request that came around them is refused.
pub(super) fn admitted<M>(request: tonic::Request<M>) -> Result<(Arc<Entry>, M), tonic::Status> {
    let (_, mut extensions, message) = request.into_parts();
    let entry = extensions.remove::<Arc<Entry>>().ok_or_else(|| status_for(Reason::Internal))?;
    Ok((entry, message))
}

/// SHA-256 of the message's canonical bytes. Only mutations are compared with a replay.
pub(super) fn content_of(entry: &Entry, message: &impl prost::Message) -> [u8; 32] {
    if !entry.method.kind.is_mutation() {
        return [0; 32];
    }
    let bytes = Zeroizing::new(message.encode_to_vec());
    let hash = digest::digest(&digest::SHA256, &bytes);
    hash.as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
