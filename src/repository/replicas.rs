//! The servers of one vault on a shared store. Each beats in a row of its own, `A#HEADS` /
//! `REPLICA#boot`, so that the others see that it lives; who was not seen to beat for [`SILENCE`], by
//! one's own monotonic clock, is dead, and others take over what it held: its leases, and the chains
//! that it left open. Being wrong about that costs the one who is taken for dead a new term or a new
//! chain, and nothing else: every write under a lease checks its term, and a sealed chain takes no
//! batch.
//!
//! Who could not beat itself for a while knows nothing of the others: the store was away, for them most
//! likely, too. Their silence counts from when one's own beats get through again.
//!
//! Who ends orderly withdraws the row, and who has none is gone. So that nobody is taken for gone who
//! only just began, each beats before it takes a lease or opens a chain, and whoever judges looks after
//! he has read what he judges about.
//!
//! A store that one process has alone needs none of it: whoever else there was is gone.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    fields::{Builder, Fields as _},
    lease::{Lease, Role},
    records::Records,
};
use crate::{
    domain::{
        clock::{Clock, Deadline, Entropy, Timestamp},
        error::{Failure, Reason},
    },
    store::{Action, Condition, ItemKey, NewItem, Order, Query, SortRange},
};

/// How often each beats.
pub const BEAT_EVERY: Duration = Duration::from_secs(3);
/// Who was not seen to beat for so long is dead.
pub const SILENCE: Duration = Duration::from_secs(10);
/// Whose own beats did not get through for so long takes nobody for dead.
const GAP: Duration = Duration::from_secs(7);
/// When the row of one who never came back is swept.
const KEPT: Duration = Duration::from_secs(86_400);

const PARTITION: &str = "A#HEADS";
const PREFIX: &str = "REPLICA#";

/// This server among the others.
pub struct Replicas {
    records: Records,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    boot: String,
    seen: Mutex<Seen>,
}

/// What was seen of the others.
#[derive(Default)]
struct Seen {
    /// Of each boot that has a row: its revision, and since when it is seen with that one.
    beats: BTreeMap<String, (u64, Instant)>,
    /// Until when a role is left to who was found to hold it.
    left: BTreeMap<Role, Instant>,
    own: Option<Own>,
}

/// What became of this server's own beats.
#[derive(Clone, Copy)]
struct Own {
    /// Since when they have got through, without a gap.
    since: Instant,
    /// When the last did.
    last: Instant,
}

impl Own {
    fn is_steady(self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) <= GAP
    }
}

impl Replicas {
    /// The server that was started as `boot`.
    #[must_use]
    pub fn new(records: Records, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>, boot: String) -> Self {
        Self { records, clock, entropy, boot, seen: Mutex::default() }
    }

    /// Whether this server has the store alone.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.records.store().is_exclusive()
    }

    /// Says that this server lives. Due before it serves, and then every [`BEAT_EVERY`].
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn beat(&self, deadline: Deadline) -> Result<(), Failure> {
        if self.is_alone() {
            return Ok(());
        }
        let now = self.clock.now();
        let expires = Timestamp::from_seconds(now.plus(KEPT).seconds());
        let row = NewItem::new(key(&self.boot), Builder::new().time("time", now).build());
        let row = NewItem { expires: Some(expires), ..row };
        self.records.commit(&*self.entropy, vec![Action::Put(row, Condition::Any)], deadline).await?;
        let now = self.clock.instant();
        let mut seen = self.seen();
        let since = seen.own.filter(|own| own.is_steady(now)).map_or(now, |own| own.since);
        seen.own = Some(Own { since, last: now });
        Ok(())
    }

    /// Says that this server has ended, and holds nothing any more.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE: the others find out by themselves.
    pub async fn withdraw(&self, deadline: Deadline) -> Result<(), Failure> {
        if self.is_alone() {
            return Ok(());
        }
        let delete = Action::Delete(key(&self.boot), Condition::Any);
        self.records.commit(&*self.entropy, vec![delete], deadline).await
    }

    /// Looks who beats. What [`Self::is_alive`] says is of the last look.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn look(&self, deadline: Deadline) -> Result<(), Failure> {
        if self.is_alone() {
            return Ok(());
        }
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let query = Query {
                partition: PARTITION.to_owned(),
                range: SortRange::Prefix(PREFIX.to_owned()),
                order: Order::Ascending,
                limit: 1_000,
                after,
            };
            let page = self.records.query(query, deadline).await?;
            let boot = |sort: &str| sort.strip_prefix(PREFIX).map(str::to_owned);
            found.extend(page.items.iter().filter_map(|item| Some((boot(&item.key.sort)?, item.revision))));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let now = self.clock.instant();
        let mut seen = self.seen();
        let before = std::mem::take(&mut seen.beats);
        let since = |boot: &str, revision| match before.get(boot) {
            Some((known, since)) if *known == revision => *since,
            _ => now,
        };
        seen.beats =
            found.into_iter().map(|(boot, revision)| (boot.clone(), (revision, since(&boot, revision)))).collect();
        Ok(())
    }

    /// Whether that boot was seen to live when this server looked last.
    #[must_use]
    pub fn is_alive(&self, boot: &str) -> bool {
        if boot == self.boot {
            return true;
        }
        let (now, seen) = (self.clock.instant(), self.seen());
        let Some((_, since)) = seen.beats.get(boot) else { return false };
        let Some(own) = seen.own.filter(|own| own.is_steady(now)) else { return true };
        now.saturating_duration_since(own.since.max(*since)) <= SILENCE
    }

    /// Takes the rows of those away who are dead and not among `needed`: nothing of theirs is left.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn forget_dead(&self, needed: &[&str], deadline: Deadline) -> Result<(), Failure> {
        let known: Vec<_> = self.seen().beats.iter().map(|(boot, (revision, _))| (boot.clone(), *revision)).collect();
        for (boot, revision) in known {
            if self.is_alive(&boot) || needed.contains(&boot.as_str()) {
                continue;
            }
            // Whoever beats after all keeps the row.
            let delete = Action::Delete(key(&boot), Condition::Revision(revision));
            match self.records.commit(&*self.entropy, vec![delete], deadline).await {
                Err(failure) if failure.reason == Reason::WriteConflict => {}
                ended => ended?,
            }
        }
        Ok(())
    }

    /// A new term of `role` for this server; None while another that lives holds it, which is asked
    /// again only after [`BEAT_EVERY`].
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, RECORD_REJECTED; WRITE_CONFLICT when another was faster.
    pub async fn take(&self, role: Role, deadline: Deadline) -> Result<Option<Lease>, Failure> {
        let now = self.clock.instant();
        if self.seen().left.get(&role).is_some_and(|until| now < *until) {
            return Ok(None);
        }
        let term = self.records.get_verified(role.term(), deadline).await?;
        if !self.is_alone() {
            let holder = term.as_ref().map(|term| term.text("holder")).transpose()?;
            if let Some(holder) = holder.filter(|holder| *holder != self.boot) {
                self.look(deadline).await?;
                if self.is_alive(holder) {
                    let until = now.checked_add(BEAT_EVERY).unwrap_or(now);
                    self.seen().left.insert(role, until);
                    return Ok(None);
                }
            }
        }
        let (records, entropy) = (&self.records, &*self.entropy);
        Lease::follow(records, entropy, role, &self.boot, term.as_ref(), deadline).await.map(Some)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicas").field("boot", &self.boot).finish_non_exhaustive()
    }
}

fn key(boot: &str) -> ItemKey {
    ItemKey::new(PARTITION, format!("{PREFIX}{boot}"))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::domain::clock::SystemClock;

    /// One server's clock: its monotonic time goes only when it is told to.
    #[derive(Debug)]
    pub(crate) struct Hand(Instant, Mutex<Duration>);

    impl Hand {
        pub(crate) fn new() -> Arc<Self> {
            Arc::new(Self(SystemClock.instant(), Mutex::default()))
        }
        pub(crate) fn advance(&self, span: Duration) {
            *self.1.lock().unwrap() += span;
        }
    }

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            SystemClock.now()
        }
        fn instant(&self) -> Instant {
            self.0 + *self.1.lock().unwrap()
        }
    }
}

#[cfg(test)]
#[path = "replicas_tests.rs"]
mod tests;
