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
    target,
};
use crate::{
    authz::methods::Kind,
    domain::{
        clock::Clock,
        error::{Failure, Reason},
        ids::OrgId,
    },
    service::call::Call,
};

/// Runs handlers.
#[derive(Clone, Debug)]
pub struct Gate {
    recorder: Arc<dyn Recorder>,
    clock: Arc<dyn Clock>,
    tasks: TaskTracker,
}

impl Gate {
    /// A gate that records refusals in `recorder` and runs handlers among `tasks`, which the
    /// server waits for when it drains.
    #[must_use]
    pub fn new(recorder: Arc<dyn Recorder>, clock: Arc<dyn Clock>, tasks: TaskTracker) -> Self {
        Self { recorder, clock, tasks }
    }

    /// Runs a unary handler in a task of the server's own (a cancelled call leaves nothing half
    /// done), records its refusal, and maps its failure.
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
        self.run(&entry, message, run).await.map(tonic::Response::new)
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
        let items = self.run(&entry, message, run).await?;
        let running = Running { gate: self.clone(), items: Box::pin(items), until: expiry(&entry), entry };
        let mapped = futures_util::stream::unfold(Some(running), |running| async move {
            let mut running = running?;
            match running.next().await? {
                Ok(item) => Some((Ok(item), Some(running))),
                Err(failure) => Some((Err(running.gate.refuse(&running.entry, String::new(), &failure)), None)),
            }
        });
        Ok(tonic::Response::new(Box::pin(mapped)))
    }

    /// Runs `run` to its end, whoever still waits for it, and answers by the call's deadline.
    async fn run<M, T, F, R>(&self, entry: &Arc<Entry>, message: M, run: F) -> Result<T, tonic::Status>
    where
        M: prost::Message + 'static,
        T: Send + 'static,
        F: FnOnce(Call, M) -> R + Send + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let (gate, of_task) = (self.clone(), Arc::clone(entry));
        let task = self.tasks.spawn(async move {
            let call = of_task.call(&*gate.clock, content_of(&of_task, &message));
            let own = call.org().cloned().unwrap_or_else(|_| OrgId::system());
            let resource = target::of(&message, &own);
            let handler = AssertUnwindSafe(async move { run(call, message).await });
            // A panic's text may hold anything: it is not answered, and the hook does not print it.
            let outcome = handler.catch_unwind().await.unwrap_or_else(|_| Err(Reason::Internal.into()));
            outcome.map_err(|failure| gate.refuse(&of_task, resource, &failure))
        });
        match tokio::time::timeout(entry.patience(), task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(status_for(Reason::Internal)),
            Err(_) => Err(status_for(Reason::DeadlineExceeded)),
        }
    }

    fn refuse(&self, entry: &Entry, resource: String, failure: &Failure) -> tonic::Status {
        record(&*self.recorder, &*self.clock, entry, resource, failure);
        status_of(failure)
    }
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
fn expiry(entry: &Entry) -> Pin<Box<tokio::time::Sleep>> {
    const NEVER: Duration = Duration::from_secs(30 * 86_400);
    Box::pin(tokio::time::sleep(entry.timeout.unwrap_or(NEVER)))
}

/// What the layers let through. A request that came around them is refused.
fn admitted<M>(request: tonic::Request<M>) -> Result<(Arc<Entry>, M), tonic::Status> {
    let (_, mut extensions, message) = request.into_parts();
    let entry = extensions.remove::<Arc<Entry>>().ok_or_else(|| status_for(Reason::Internal))?;
    Ok((entry, message))
}

/// SHA-256 of the message's canonical bytes. Only mutations are compared with a replay.
fn content_of(entry: &Entry, message: &impl prost::Message) -> [u8; 32] {
    if entry.method.kind != Kind::Mutation {
        return [0; 32];
    }
    let bytes = Zeroizing::new(message.encode_to_vec());
    let hash = digest::digest(&digest::SHA256, &bytes);
    hash.as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
