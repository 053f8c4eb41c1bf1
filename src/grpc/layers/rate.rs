//! How often one token, one organization or one certificate may call, for each replica. The
//! generic cell rate algorithm (ITU-T I.371): one number for each caller, no timer.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::sync::Cache;

use super::FrontLimits;
use crate::{
    authz::claims::Claims,
    domain::{
        error::{Failure, Reason},
        principal::ClientCertificate,
    },
};

/// Callers that are remembered; who was forgotten begins afresh.
const CALLERS_MAX: usize = 16_384;
/// A burst is what the rate gives in this time.
const BURST: Duration = Duration::from_secs(2);

/// Calls a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(NonZeroU32);

impl Rate {
    /// `calls` a second; none is taken as one.
    #[must_use]
    pub const fn new(calls: u32) -> Self {
        match NonZeroU32::new(calls) {
            Some(calls) => Self(calls),
            None => Self(NonZeroU32::MIN),
        }
    }
    fn interval_nanos(self) -> u64 {
        1_000_000_000 / u64::from(self.0.get())
    }
}

#[derive(Debug)]
pub(super) struct Rates {
    tokens: Bucket<[u8; 32]>,
    orgs: Bucket<String>,
    certificates: Bucket<[u8; 32]>,
}

impl Rates {
    pub(super) fn new(limits: &FrontLimits) -> Self {
        Self {
            tokens: Bucket::new(limits.token_rate),
            orgs: Bucket::new(limits.org_rate),
            certificates: Bucket::new(limits.certificate_rate),
        }
    }
    /// Takes a call with a token, `since_start` after the server's start.
    pub(super) fn token(&self, claims: &Claims, since_start: Duration) -> Result<(), Failure> {
        let mut id = [0; 32];
        for (to, from) in id.iter_mut().zip(claims.token_id.as_str().bytes()) {
            *to = from;
        }
        self.tokens.take(&id, since_start)?;
        self.orgs.take(claims.org.as_str(), since_start)
    }
    /// Takes a call that needs no token.
    pub(super) fn certificate(&self, of: &ClientCertificate, since_start: Duration) -> Result<(), Failure> {
        self.certificates.take(&of.sha256, since_start)
    }
}

/// The theoretical arrival time of each caller's next call, in nanoseconds since the start.
#[derive(Debug)]
struct Bucket<K> {
    rate: Rate,
    arrivals: Cache<K, Arc<AtomicU64>>,
}

impl<K: std::hash::Hash + Eq + Clone> Bucket<K> {
    fn new(rate: Rate) -> Self {
        Self { rate, arrivals: Cache::new(CALLERS_MAX) }
    }

    fn take<Q>(&self, caller: &Q, since_start: Duration) -> Result<(), Failure>
    where
        Q: std::hash::Hash + quick_cache::Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let (now, burst, interval) = (nanos(since_start), nanos(BURST), self.rate.interval_nanos());
        let arrival = match self.arrivals.get(caller) {
            Some(arrival) => arrival,
            None => {
                let arrival = Arc::new(AtomicU64::new(now));
                self.arrivals.insert(caller.to_owned(), Arc::clone(&arrival));
                arrival
            }
        };
        let next = |at: u64| {
            let at = at.max(now).saturating_add(interval);
            (at <= now.saturating_add(burst).max(now.saturating_add(interval))).then_some(at)
        };
        match arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Ok(()),
            Err(at) => {
                let wait = at.saturating_add(interval).saturating_sub(now.saturating_add(burst));
                Err(Failure::new(Reason::RateLimited).retry_after(Duration::from_nanos(wait)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds_and_others_are_untouched() {
        let bucket: Bucket<String> = Bucket::new(Rate::new(10));
        let start = Duration::from_secs(100);
        for _ in 0..20 {
            bucket.take("a", start).unwrap();
        }
        let refused = bucket.take("a", start).unwrap_err();
        assert_eq!(refused.reason, Reason::RateLimited);
        assert_eq!(refused.retry_after, Some(Duration::from_millis(100)));
        bucket.take("b", start).unwrap();
        let later = start + Duration::from_millis(100);
        bucket.take("a", later).unwrap();
        assert!(bucket.take("a", later).is_err());
    }
}
