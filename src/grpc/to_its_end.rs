//! Work that is run to its end, whether or not whoever began it still waits.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::runtime::Handle;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// Work that runs where it is awaited. Dropped before its end it goes on in a task of its own. A task
/// from the beginning would do as well, but every call would pay for its making and two more wake-ups.
/// Whoever holds it must poll it or drop it: left alone, it keeps what it has.
pub(super) struct ToItsEnd<F: Future<Output: Send> + Send + 'static> {
    work: Option<Pin<Box<F>>>,
    /// Whoever waits for the tracker's tasks waits for this, too.
    counted: TaskTrackerToken,
}

impl<F: Future<Output: Send> + Send + 'static> ToItsEnd<F> {
    /// `work`, counted among `tasks`.
    pub(super) fn new(work: F, tasks: &TaskTracker) -> Self {
        Self { work: Some(Box::pin(work)), counted: tasks.token() }
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for ToItsEnd<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let ended = work.as_mut().poll(cx);
        if ended.is_ready() {
            self.work = None;
        }
        ended
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for ToItsEnd<F> {
    fn drop(&mut self) {
        // What panicked is not begun again.
        if std::thread::panicking() {
            return;
        }
        // Without a runtime the process is at its end.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            let counted = self.counted.clone();
            runtime.spawn(async move {
                work.await;
                drop(counted);
            });
        }
    }
}
