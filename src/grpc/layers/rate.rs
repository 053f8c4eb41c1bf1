//! How often one token, one organization, one certificate or one address may call, for each replica.
//! The generic cell rate algorithm (ITU-T I.371): one number for each caller, no timer, no lock
//! while it is counted.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quick_cache::sync::Cache;

use super::FrontLimits;
use crate::{
    authz::claims::Claims,
    domain::{
        clock::Clock,
        error::{Failure, Reason},
        principal::Peer,
    },
};

/// Callers of a kind that are remembered: bounds the memory. Who was forgotten begins afresh, and
/// gains nothing by it: who has many tokens meets his organization's rate, who has many
/// certificates that of his address; and who calls all the time is forgotten last.
const CALLERS_MAX: usize = 16_384;
/// A burst is what the rate gives in this time.
const BURST: Duration = Duration::from_secs(2);
/// Of the refusals of one caller one in this time has a record of its own; the others are counted.
const NOTED_EVERY: Duration = Duration::from_secs(1);

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

/// A call that came too early.
#[derive(Debug)]
pub(super) struct TooMany {
    wait: Duration,
    /// Whether a refusal of the same caller was recorded a moment ago.
    pub(super) is_repeated: bool,
}

impl TooMany {
    /// RATE_LIMITED: who comes after that time, and was the only one to be told so, is let in.
    pub(super) fn failure(&self) -> Failure {
        Failure::new(Reason::RateLimited).retry_after(self.wait)
    }
}

#[derive(Debug)]
pub(in crate::grpc) struct Rates {
    clock: Arc<dyn Clock>,
    start: Instant,
    tokens: Bucket<[u8; 32]>,
    orgs: Bucket<String>,
    certificates: Bucket<[u8; 32]>,
    addresses: Bucket<[u8; 16]>,
}

impl Rates {
    pub(super) fn new(limits: &FrontLimits, clock: Arc<dyn Clock>) -> Self {
        Self {
            start: clock.instant(),
            clock,
            tokens: Bucket::new(limits.token_rate),
            orgs: Bucket::new(limits.org_rate),
            certificates: Bucket::new(limits.certificate_rate),
            addresses: Bucket::new(limits.address_rate),
        }
    }
    /// Takes a call with a token.
    pub(super) fn token(&self, claims: &Claims) -> Result<(), TooMany> {
        let now = self.now();
        let token = self.tokens.take(&token_of(claims), now)?;
        // What the organization refuses does not count for the token, or the wait would be too short.
        self.orgs.take(claims.org.as_str(), now).map(drop).inspect_err(|_| self.tokens.give_back(&token))
    }
    /// Takes a call without a verified token.
    pub(super) fn stranger(&self, peer: &Peer) -> Result<(), TooMany> {
        let now = self.now();
        let certificate = self.certificates.take(&peer.certificate.sha256, now)?;
        let address = self.addresses.take(&network_of(peer.address), now);
        address.map(drop).inspect_err(|_| self.certificates.give_back(&certificate))
    }
    /// Counts `calls` more for a call that was let in: one that does the work of several. They are
    /// never refused; the calls after them wait longer. The token pays for all that it did; of what
    /// many did at once its organization pays a burst, so that no one token keeps the others out.
    pub(in crate::grpc) fn charge(&self, claims: &Claims, calls: u32) {
        let now = self.now();
        self.tokens.charge(&token_of(claims), now, calls, Duration::MAX);
        self.orgs.charge(claims.org.as_str(), now, calls, BURST);
    }

    fn now(&self) -> Duration {
        self.clock.instant().saturating_duration_since(self.start)
    }
}

fn token_of(claims: &Claims) -> [u8; 32] {
    let mut id = [0; 32];
    for (to, from) in id.iter_mut().zip(claims.token_id.as_str().bytes()) {
        *to = from;
    }
    id
}

/// What one caller can call from: his IPv4 address; of IPv6 the first 64 bits, for every host has
/// the rest to himself (RFC 4291, 2.5.4).
pub(in crate::grpc) fn network_of(address: IpAddr) -> [u8; 16] {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => (u128::from(address) & !u128::from(u64::MAX)).to_be_bytes(),
    }
}

/// What is known of a caller.
#[derive(Debug, Default)]
struct Caller {
    /// The theoretical arrival time of his next call, in nanoseconds since the start.
    arrival: AtomicU64,
    /// When a refusal of his is recorded again.
    noted: AtomicU64,
}

#[derive(Debug)]
struct Bucket<K> {
    rate: Rate,
    callers: Cache<K, Arc<Caller>>,
}

impl<K: std::hash::Hash + Eq + Clone> Bucket<K> {
    fn new(rate: Rate) -> Self {
        Self { rate, callers: Cache::new(CALLERS_MAX) }
    }

    fn caller<Q>(&self, caller: &Q) -> Arc<Caller>
    where
        Q: std::hash::Hash + quick_cache::Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let new = || Ok::<_, std::convert::Infallible>(Arc::default());
        match self.callers.get_or_insert_with(caller, new) {
            Ok(known) => known,
            Err(never) => match never {},
        }
    }

    /// Takes a call; its caller, to whom it may be given back.
    fn take<Q>(&self, caller: &Q, now: Duration) -> Result<Arc<Caller>, TooMany>
    where
        Q: std::hash::Hash + quick_cache::Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let caller = self.caller(caller);
        let (now, burst, interval) = (nanos(now), nanos(BURST), self.rate.interval_nanos());
        let latest = now.saturating_add(burst.max(interval));
        let next = |at: u64| {
            let at = at.max(now).saturating_add(interval);
            (at <= latest).then_some(at)
        };
        match caller.arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Ok(caller),
            Err(at) => {
                let wait = Duration::from_nanos(at.saturating_add(interval).saturating_sub(latest));
                let again = |noted: u64| (noted <= now).then_some(now.saturating_add(nanos(NOTED_EVERY)));
                let is_noted = caller.noted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, again).is_ok();
                Err(TooMany { wait, is_repeated: !is_noted })
            }
        }
    }

    fn give_back(&self, caller: &Caller) {
        caller.arrival.fetch_sub(self.rate.interval_nanos(), Ordering::Relaxed);
    }

    /// Counts `calls` more. No debt grows by it beyond `debt_max`, or what these calls alone are worth:
    /// who calls one after the other pays for each in full.
    fn charge<Q>(&self, caller: &Q, now: Duration, calls: u32, debt_max: Duration)
    where
        Q: std::hash::Hash + quick_cache::Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let (now, interval) = (nanos(now), self.rate.interval_nanos());
        let more = interval.saturating_mul(u64::from(calls));
        let latest = now.saturating_add(nanos(BURST).max(interval)).saturating_add(nanos(debt_max).max(more));
        let later = |at: u64| Some(at.max(now).saturating_add(more).min(latest).max(at));
        let _ = self.caller(caller).arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "rate_tests.rs"]
mod tests;
