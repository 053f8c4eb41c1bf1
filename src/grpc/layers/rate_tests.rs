use std::sync::Mutex;

use super::*;
use crate::{
    domain::clock::{Deadline, SystemClock, Timestamp},
    grpc::testing::{claims, connection, later},
};

/// Stands still until it is moved.
#[derive(Debug)]
struct Hand(Instant, Mutex<Duration>);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }
    fn instant(&self) -> Instant {
        self.0 + *self.1.lock().unwrap()
    }
    fn deadline(&self, span: Duration) -> Deadline {
        SystemClock.deadline(span)
    }
}

impl Hand {
    fn advance(&self, span: Duration) {
        *self.1.lock().unwrap() += span;
    }
}

fn rates(token: u32, org: u32, certificate: u32, address: u32) -> (Rates, Arc<Hand>) {
    let hand = Arc::new(Hand(SystemClock.instant(), Mutex::default()));
    let limits = FrontLimits {
        token_rate: Rate::new(token),
        org_rate: Rate::new(org),
        certificate_rate: Rate::new(certificate),
        address_rate: Rate::new(address),
        ..FrontLimits::default()
    };
    (Rates::new(&limits, Arc::<Hand>::clone(&hand)), hand)
}

fn token(org: &str, number: usize) -> Claims {
    let mut claims = claims(&[]);
    claims.org = crate::domain::ids::OrgId::parse("org", org).unwrap();
    claims.token_id = crate::domain::ids::TokenId::parse("jti", &format!("{number:032x}")).unwrap();
    claims
}

/// How many of `calls` are let in, and the last wait.
fn let_in(calls: impl Iterator<Item = Result<(), TooMany>>) -> (usize, Duration) {
    let mut wait = Duration::ZERO;
    let passed = calls.filter(|call| call.as_ref().map_err(|refused| wait = refused.wait).is_ok()).count();
    (passed, wait)
}

#[test]
fn a_burst_passes_then_the_rate_holds_and_others_are_untouched() {
    let (rates, hand) = rates(10, 1_000, 1, 1);
    let (a, b) = (token("acme", 1), token("acme", 2));
    let (passed, wait) = let_in((0..30).map(|_| rates.token(&a)));
    assert_eq!((passed, wait), (20, Duration::from_millis(100)));
    rates.token(&b).unwrap();
    for _ in 0..50 {
        let wait = rates.token(&a).unwrap_err().wait;
        hand.advance(wait - Duration::from_nanos(1));
        assert!(rates.token(&a).is_err(), "no sooner than was said");
        hand.advance(Duration::from_nanos(1));
        rates.token(&a).unwrap();
    }
}

#[test]
fn new_tokens_are_no_way_around_the_organizations_rate_and_a_million_of_them_take_no_memory() {
    let (rates, hand) = rates(5, 1_000, 1, 1);
    let held = token("rival", 0);
    let (passed, _) = let_in((0..20).map(|_| rates.token(&held)));
    assert_eq!(passed, 10);
    let mut claims = token("acme", 0);
    let calls = (0..1_000_000).map(|n| {
        claims.token_id = crate::domain::ids::TokenId::parse("jti", &format!("{n:032x}")).unwrap();
        rates.token(&claims)
    });
    let (passed, wait) = let_in(calls);
    assert_eq!(passed, 2_000);
    assert!(rates.tokens.callers.len() <= CALLERS_MAX && rates.orgs.callers.len() <= CALLERS_MAX);
    hand.advance(wait);
    rates.token(&token("acme", 2_000_000)).unwrap();
    rates.token(&token("rival", 1)).unwrap();
}

#[test]
fn what_the_organization_refuses_does_not_count_for_the_token() {
    let (rates, hand) = rates(1, 2, 1, 1);
    let (one, other) = (token("acme", 1), token("acme", 2));
    let (passed, _) = let_in((0..2).map(|_| rates.token(&other)));
    assert_eq!(passed, 2);
    rates.token(&one).unwrap();
    rates.token(&token("acme", 3)).unwrap();
    // The organization's burst is spent: whatever one token asks for now is refused by it.
    let (passed, _) = let_in((0..100).map(|_| rates.token(&one)));
    assert_eq!(passed, 0);
    let wait = rates.token(&one).unwrap_err().wait;
    hand.advance(wait);
    rates.token(&one).unwrap();
}

#[test]
fn new_certificates_are_no_way_around_the_rate_of_an_address() {
    let (rates, hand) = rates(1, 1, 5, 20);
    let peer = |n: usize, address: IpAddr| {
        let mut peer = connection(later()).peer;
        let mut certificate = (*peer.certificate).clone();
        certificate.sha256[..8].copy_from_slice(&n.to_be_bytes());
        (peer.certificate, peer.address) = (Arc::new(certificate), address);
        peer
    };
    let v4: IpAddr = "192.0.2.1".parse().unwrap();
    let (passed, wait) = let_in((0..100).map(|_| rates.stranger(&peer(0, v4))));
    assert_eq!((passed, wait), (10, Duration::from_millis(200)));
    let (passed, _) = let_in((1..1_000).map(|n| rates.stranger(&peer(n, v4))));
    assert_eq!(passed, 30, "of the address");
    let mapped = "::ffff:192.0.2.1".parse().unwrap();
    let wait = rates.stranger(&peer(5_000, mapped)).unwrap_err().wait;
    rates.stranger(&peer(5_000, "192.0.2.2".parse().unwrap())).unwrap();
    hand.advance(wait);
    rates.stranger(&peer(5_001, v4)).unwrap();
    // All of a network's 2^64 addresses are one caller's.
    let host = |n: usize| format!("2001:db8::{n:x}").parse().unwrap();
    let (passed, _) = let_in((0..100).map(|n| rates.stranger(&peer(6_000 + n, host(n)))));
    assert_eq!(passed, 40);
    rates.stranger(&peer(7_000, "2001:db8:0:1::1".parse().unwrap())).unwrap();
}

#[test]
fn what_does_the_work_of_many_is_let_in_and_the_next_wait() {
    let (rates, hand) = rates(10, 1_000, 1, 1);
    let claims = token("acme", 1);
    rates.token(&claims).unwrap();
    rates.charge(&claims, 39);
    let wait = rates.token(&claims).unwrap_err().wait;
    assert_eq!(wait, Duration::from_millis(2_100));
    hand.advance(wait);
    rates.token(&claims).unwrap();
}

#[test]
fn one_token_that_does_the_work_of_many_keeps_its_organization_out_no_longer_than_a_burst() {
    let (rates, hand) = rates(100, 100, 1, 1);
    let (greedy, other) = (token("acme", 1), token("acme", 2));
    // Those that are let in at once are charged after the last of them came in.
    let (passed, _) = let_in((0..300).map(|_| rates.token(&greedy)));
    (0..passed).for_each(|_| rates.charge(&greedy, 39));
    let wait = rates.token(&other).unwrap_err().wait;
    assert_eq!(wait, BURST + Duration::from_millis(10));
    hand.advance(wait);
    rates.token(&other).unwrap();
    // The token itself pays for everything.
    let more = rates.token(&greedy).unwrap_err().wait;
    assert_eq!(wait + more, Duration::from_millis(200 * 390 + 10));
}

#[test]
fn where_the_rate_is_low_one_after_the_other_each_counts_in_full() {
    let (rates, hand) = rates(1_000, 10, 1, 1);
    let (one, mut spent) = (token("acme", 1), Duration::ZERO);
    for _ in 0..10 {
        while let Err(refused) = rates.token(&one) {
            spent += refused.wait;
            hand.advance(refused.wait);
        }
        rates.charge(&one, 39);
    }
    assert_eq!(spent, Duration::from_millis(9 * 4_000 - 1_900));
}

#[test]
fn of_many_refusals_one_a_second_is_recorded() {
    let (rates, hand) = rates(1, 1_000, 1, 1);
    let claims = token("acme", 1);
    let refusals = |count: usize| (0..count).filter_map(|_| rates.token(&claims).err()).collect::<Vec<_>>();
    let first = refusals(100);
    assert_eq!((first.len(), first.iter().filter(|refused| !refused.is_repeated).count()), (98, 1));
    assert_eq!(first[0].failure().reason, Reason::RateLimited);
    hand.advance(Duration::from_millis(500));
    assert!(refusals(100).iter().all(|refused| refused.is_repeated));
    hand.advance(Duration::from_millis(501));
    assert_eq!(refusals(100).iter().filter(|refused| !refused.is_repeated).count(), 1);
}

#[test]
fn callers_at_once_get_what_the_rate_gives_and_no_more() {
    let (rates, _) = rates(500, 800, 1, 1);
    let passed: usize = std::thread::scope(|scope| {
        let one = |n: usize| {
            let rates = &rates;
            scope.spawn(move || let_in((0..2_000).map(|_| rates.token(&token("acme", n % 2)))).0)
        };
        let threads: Vec<_> = (0..8).map(one).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(passed, 1_600);
}
