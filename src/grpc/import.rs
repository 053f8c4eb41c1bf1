//! The stream of ImportKeys: items are taken while there is room for them, stored a few at a time,
//! each by a call of its own, and answered in order. Knows of a key only what two items may have in
//! common.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{FuturesOrdered, unfold},
};
use prost::Message as _;
use tokio::time::{Sleep, sleep};
use tonic::{Request, Response, Status, Streaming};

use super::{
    IMPORT_MESSAGE_MAX,
    convert::{bulk::imported, key::create_key},
    entry::{CALL_MAX, Entry},
    gate::{Gate, MappedStream, admitted, content_of, expiry},
    pb,
    status::{failure_of, status_of},
    target,
};
use crate::{
    domain::{
        clock::Deadline,
        error::{Class, Failure, Reason},
    },
    service::{
        call::Call,
        vault::{Imported, Vault},
    },
};

/// The most items of one stream that are stored at a time: half of the lanes that mutations have.
const ITEMS_MAX: usize = 8;
/// From so many bytes of them on, no more are taken until one is answered.
const BYTES_MAX: usize = IMPORT_MESSAGE_MAX;

/// How long a client that was refused may go on sending.
const DRY: Duration = Duration::from_secs(1);

/// Answers an import.
pub(super) async fn answer(
    gate: &Gate,
    vault: &Vault,
    request: Request<Streaming<pb::ImportKeysRequest>>,
) -> Result<Response<MappedStream<pb::ImportKeysResponse>>, Status> {
    let (entry, messages) = admitted(request)?;
    let (opener, of_call) = (vault.clone(), Arc::clone(&entry));
    let open = move |gate: &Gate| {
        let call = of_call.call(gate.clock(), [0; 32]);
        async move {
            let ends = opener.open_import(&call).await?;
            Ok((call, ends))
        }
    };
    let opened = gate.to_its_end(gate.settled(&entry, None, open)).await;
    let (call, ends) = opened.map_err(|failure| status_of(&failure))?;
    let watcher = vault.clone();
    let import = Import {
        gate: gate.clone(),
        vault: vault.clone(),
        messages,
        deadline: entry.timeout.map(|timeout| gate.clock().deadline(timeout)),
        until: expiry(&entry),
        session: Box::pin(async move { watcher.import_ends(call, ends).await }),
        entry,
        hashes: RandomState::new(),
        waiting: None,
        pause: None,
        running: FuturesOrdered::new(),
        traces: VecDeque::new(),
        is_complete: false,
        failure: None,
        answered: 0,
    };
    let answers = unfold(Some(import), |import| async move {
        let mut import = import?;
        let next = AssertUnwindSafe(import.next()).catch_unwind().await;
        match next.unwrap_or_else(|_| Some(Err(Reason::Internal.into())))? {
            Ok(answer) => Some((Ok(answer), Some(import))),
            Err(failure) => {
                import.gate.note(&import.entry, String::new(), &failure);
                tokio::spawn(let_run_dry(import.messages));
                Some((Err(status_of(&failure)), None))
            }
        }
    });
    Ok(Response::new(Box::pin(answers)))
}

/// Passes over what the client still sends: a stream that is dropped while it is sent to is reset,
/// and the reset may reach the client before the reason does.
async fn let_run_dry(mut messages: Streaming<pb::ImportKeysRequest>) {
    let dry = async { while let Some(Ok(_)) = messages.next().await {} };
    // Whoever sends on for longer has had time to read why.
    let _ = tokio::time::timeout(DRY, dry).await;
}

/// An import that is being answered.
struct Import {
    gate: Gate,
    vault: Vault,
    entry: Arc<Entry>,
    messages: Streaming<pb::ImportKeysRequest>,
    /// By when the caller wants the whole of it.
    deadline: Option<Deadline>,
    until: Pin<Box<Sleep>>,
    /// Why its token is good no more, once it is not.
    session: BoxFuture<'static, Failure>,
    hashes: RandomState,
    /// An item that is not begun: another that it could meet runs, or its rate is used up.
    waiting: Option<(pb::ImportKeysRequest, Trace)>,
    pause: Option<Pin<Box<Sleep>>>,
    /// The items that run, and their traces, in order.
    running: FuturesOrdered<BoxFuture<'static, Result<Imported, Failure>>>,
    traces: VecDeque<Trace>,
    /// Whether its last message was taken.
    is_complete: bool,
    /// Why it ends before that; what runs is answered first.
    failure: Option<Failure>,
    answered: i64,
}

/// What tells whether two items must not run at the same time, and how much one holds.
#[derive(Clone, Copy, Debug)]
struct Trace {
    key_id: Option<u64>,
    request_id: Option<u64>,
    secret: Option<u64>,
    bytes: usize,
}

impl Trace {
    fn of(message: &pb::ImportKeysRequest, hashes: &RandomState) -> Self {
        let hash = |text: &str| (!text.is_empty()).then(|| hashes.hash_one(text));
        let key = message.key.as_ref();
        Self {
            key_id: key.and_then(|key| hash(&key.key_id)),
            request_id: key.and_then(|key| hash(&key.request_id)),
            secret: key.and_then(|key| hash(&key.secret.as_ref()?.text)),
            bytes: message.encoded_len(),
        }
    }
    /// Whether one could change what the other is answered: the first of a name is stored, the
    /// second of a value is warned of.
    fn meets(&self, other: &Self) -> bool {
        let is_same = |one: Option<u64>, other: Option<u64>| one.is_some() && one == other;
        is_same(self.key_id, other.key_id)
            || is_same(self.request_id, other.request_id)
            || is_same(self.secret, other.secret)
    }
}

impl Import {
    /// The next answer, or why there is none; None at the end.
    async fn next(&mut self) -> Option<Result<pb::ImportKeysResponse, Failure>> {
        loop {
            self.begin();
            if self.running.is_empty() && self.waiting.is_none() {
                if let Some(failure) = self.failure.take() {
                    return Some(Err(failure));
                }
                if self.is_complete {
                    return None;
                }
            }
            let is_open = self.failure.is_none();
            let has_room = self.traces.len() < ITEMS_MAX && self.bytes() < BYTES_MAX;
            tokio::select! {
                biased;
                () = &mut self.until => return Some(Err(Reason::DeadlineExceeded.into())),
                Some(outcome) = self.running.next(), if !self.running.is_empty() => return Some(self.end(outcome)),
                () = self.entry.connection.ending.cancelled(), if is_open => self.fail(Reason::Draining.into()),
                failure = &mut self.session, if is_open => self.fail(failure),
                () = rest(&mut self.pause), if self.pause.is_some() => self.pause = None,
                message = self.messages.next(), if is_open && has_room && !self.is_complete && self.waiting.is_none() => {
                    self.take(message);
                }
            }
        }
    }

    fn take(&mut self, message: Option<Result<pb::ImportKeysRequest, Status>>) {
        match message {
            Some(Ok(message)) => {
                let trace = Trace::of(&message, &self.hashes);
                self.waiting = Some((message, trace));
            }
            Some(Err(refusal)) => self.fail(failure_of(&refusal)),
            None => self.is_complete = true,
        }
    }

    /// Takes nothing more; what waits has not begun and is not stored.
    fn fail(&mut self, failure: Failure) {
        (self.waiting, self.pause) = (None, None);
        self.failure = Some(failure);
    }

    fn bytes(&self) -> usize {
        self.traces.iter().map(|trace| trace.bytes).sum()
    }

    /// Begins the item that waits, if nothing holds it up.
    fn begin(&mut self) {
        let is_held = |trace: &Trace| self.traces.iter().any(|running| running.meets(trace));
        if self.pause.is_some() || self.waiting.as_ref().is_none_or(|(_, trace)| is_held(trace)) {
            return;
        }
        let admitted = self.entry.pace.as_ref().map_or(Ok(()), |pace| pace.take(&self.entry));
        match admitted {
            Ok(()) => {}
            Err(failure) if failure.reason == Reason::RateLimited => {
                let wait = failure.retry_after.unwrap_or(Duration::from_millis(100));
                self.pause = Some(Box::pin(sleep(wait)));
                return;
            }
            Err(failure) => return self.fail(failure),
        }
        if let Some((message, trace)) = self.waiting.take() {
            self.traces.push_back(trace);
            let item = item(self.gate.clone(), self.vault.clone(), Arc::clone(&self.entry), self.deadline, message);
            self.running.push_back(Box::pin(item));
        }
    }

    /// The answer of the first item that runs; a refusal of the caller himself is the stream's.
    fn end(&mut self, outcome: Result<Imported, Failure>) -> Result<pb::ImportKeysResponse, Failure> {
        self.traces.pop_front();
        if let Err(failure) = &outcome
            && failure.reason.class() == Class::Unauthenticated
        {
            return outcome.map(|_| pb::ImportKeysResponse::default());
        }
        if let Ok(Imported::Skipped(found)) = &outcome {
            self.gate.note(&self.entry, found.record.full_name(), &Reason::KeyExists.into());
        }
        let index = self.answered;
        self.answered += 1;
        Ok(imported(index, outcome))
    }
}

async fn rest(pause: &mut Option<Pin<Box<Sleep>>>) {
    if let Some(pause) = pause {
        pause.await;
    }
}

/// Stores one item to its end, whether or not its stream still waits for it.
async fn item(
    gate: Gate,
    vault: Vault,
    entry: Arc<Entry>,
    deadline: Option<Deadline>,
    message: pb::ImportKeysRequest,
) -> Result<Imported, Failure> {
    let of_item = Arc::clone(&entry);
    let target = message.key.as_ref().and_then(|key| target::of(key));
    let begin = move |gate: &Gate| {
        let pb::ImportKeysRequest { key, skip_existing } = message;
        // What is stored does not depend on skip_existing: it may differ when the item comes again.
        let content = key.as_ref().map_or([0; 32], |key| content_of(&of_item, key));
        let call = of_item.call(gate.clock(), content);
        let deadline = deadline.map_or(call.deadline, |deadline| deadline.earlier(call.deadline));
        let call = Call { time: gate.clock().now(), deadline, ..call };
        async move {
            let key = key.ok_or_else(|| Failure::invalid("key", "required"))?;
            vault.import_key(&call, create_key(&call, key)?, skip_existing).await
        }
    };
    let stored = tokio::time::timeout(CALL_MAX, gate.apart(gate.settled(&entry, target, begin))).await;
    stored.unwrap_or_else(|_| Err(Reason::DeadlineExceeded.into()))
}
