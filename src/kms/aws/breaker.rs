//! A breaker for one KMS key: after several calls in a row that got no answer it refuses at once,
//! and lets one at a time through to see whether answers come again. Knows no KMS, and no clock: it
//! is told the time.
//!
//! There is one for each key, so that nobody's key, in a key store of his own that does not answer,
//! refuses the calls of others.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// So many in a row without an answer open it.
const FAILURES: u32 = 5;
/// They are a row if they fail within that time: five calls of one caller, each as long as it may be.
const WINDOW: Duration = Duration::from_secs(20);
/// How long it then refuses before it lets one through.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// Shared by the calls of one key.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug)]
enum State {
    /// Calls pass. `failures` in a row got no answer, the first at `since`.
    Closed { failures: u32, since: Option<Instant> },
    /// From `until` on one call at a time passes.
    Open { until: Instant, is_probed: bool },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0, since: None }
    }
}

/// A call that was let through. Given up without a word, it says nothing about the KMS.
#[derive(Debug)]
pub(super) struct Pass {
    breaker: Arc<Breaker>,
    is_probe: bool,
}

impl Breaker {
    /// Lets a call through; None: not now.
    pub(super) fn admit(self: &Arc<Self>, now: Instant) -> Option<Pass> {
        let mut state = self.state();
        let is_probe = match &mut *state {
            State::Closed { .. } => false,
            State::Open { until, is_probed } if now >= *until && !*is_probed => {
                *is_probed = true;
                true
            }
            State::Open { .. } => return None,
        };
        Some(Pass { breaker: Arc::clone(self), is_probe })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// There was an answer, good or bad.
    pub(super) fn answered(self) {
        *self.breaker.state() = State::default();
    }
    /// There was none.
    pub(super) fn failed(self, now: Instant) {
        let mut state = self.breaker.state();
        let opens = match &mut *state {
            State::Closed { failures, since } => {
                if since.is_none_or(|since| now.saturating_duration_since(since) > WINDOW) {
                    (*failures, *since) = (0, Some(now));
                }
                *failures += 1;
                *failures >= FAILURES
            }
            // What began before it opened says nothing new.
            State::Open { .. } => self.is_probe,
        };
        if opens {
            *state = State::Open { until: now + PAUSE, is_probed: false };
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.is_probe
            && let State::Open { is_probed, .. } = &mut *self.breaker.state()
        {
            *is_probed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::{Clock as _, SystemClock};

    const MOMENT: Duration = Duration::from_millis(1);

    struct Trial {
        breaker: Arc<Breaker>,
        now: Instant,
    }

    impl Trial {
        fn new() -> Self {
            Self { breaker: Arc::default(), now: SystemClock.instant() }
        }
        fn later(&mut self, span: Duration) -> &mut Self {
            self.now += span;
            self
        }
        fn admit(&self) -> Option<Pass> {
            self.breaker.admit(self.now)
        }
        fn fails(&self, times: u32) {
            for _ in 0..times {
                self.admit().unwrap().failed(self.now);
            }
        }
        fn open() -> Self {
            let trial = Self::new();
            trial.fails(FAILURES);
            assert!(trial.admit().is_none());
            trial
        }
    }

    #[test]
    fn it_opens_after_so_many_failures_in_a_row() {
        let trial = Trial::new();
        trial.fails(FAILURES - 1);
        trial.admit().unwrap().answered();
        trial.fails(FAILURES - 1);
        assert!(trial.admit().is_some());
        trial.fails(1);
        assert!(trial.admit().is_none());
    }

    #[test]
    fn failures_far_apart_are_no_row() {
        let mut trial = Trial::new();
        for _ in 0..3 {
            trial.fails(FAILURES - 1);
            trial.later(WINDOW + MOMENT);
        }
        trial.fails(FAILURES - 1);
        trial.later(WINDOW).fails(1);
        assert!(trial.admit().is_none(), "within the window they are one");
    }

    #[test]
    fn after_the_pause_one_call_at_a_time_passes() {
        let mut trial = Trial::open();
        trial.later(PAUSE - MOMENT);
        assert!(trial.admit().is_none());
        trial.later(MOMENT);
        let probe = trial.admit().unwrap();
        assert!(trial.admit().is_none(), "one at a time");
        probe.failed(trial.now);
        assert!(trial.admit().is_none(), "it pauses again");
        let probe = trial.later(PAUSE).admit().unwrap();
        probe.answered();
        assert!(trial.admit().is_some() && trial.admit().is_some());
        trial.fails(FAILURES - 1);
        assert!(trial.admit().is_some(), "it counts from the beginning");
    }

    #[test]
    fn a_probe_that_is_given_up_makes_room_for_the_next() {
        let mut trial = Trial::open();
        drop(trial.later(PAUSE).admit().unwrap());
        let probe = trial.admit().unwrap();
        assert!(trial.admit().is_none());
        probe.answered();
        assert!(trial.admit().is_some());
    }

    #[test]
    fn what_began_before_it_opened_prolongs_nothing_and_its_answer_closes_it() {
        let mut trial = Trial::new();
        let late: Vec<_> = (0..2).map(|_| trial.admit().unwrap()).collect();
        trial.fails(FAILURES);
        trial.later(PAUSE);
        let probe = trial.admit().unwrap();
        let mut late = late.into_iter();
        late.next().unwrap().failed(trial.now);
        assert!(trial.admit().is_none(), "the probe is still under way");
        late.next().unwrap().answered();
        assert!(trial.admit().is_some());
        probe.failed(trial.now);
        assert!(trial.admit().is_some(), "one failure after an answer is no row");
    }
}
