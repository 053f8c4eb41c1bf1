//! How long a token lives.

use std::time::Duration;

use super::TokenSettings;
use crate::{
    authz::attenuation::too_wide,
    domain::{clock::Timestamp, error::Failure},
};

/// How far renewal reaches where nobody says.
const RENEWABLE_DEFAULT: Duration = Duration::from_secs(86_400);

/// Until when a new token lives, without and with renewals; whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) expires: Timestamp,
    pub(super) max_expires: Timestamp,
}

/// How far renewal shall reach.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reach {
    /// So long from now; None: a day, or the token's own life if that is longer.
    Asked(Option<Duration>),
    /// As far as it may.
    Latest,
}

impl Life {
    /// The life of a token made `now` that must end by `latest`. What was asked for is refused
    /// where it goes further; what was not asked for is cut to it.
    pub(super) fn new(
        settings: &TokenSettings,
        now: Timestamp,
        ttl: Option<Duration>,
        reach: Reach,
        latest: Timestamp,
    ) -> Result<Self, Failure> {
        let latest = latest.min(now.plus(settings.ttl_longest));
        let expires = match ttl {
            Some(ttl) => asked("ttl", settings, now, ttl, latest)?,
            None => now.plus(settings.ttl_default).min(latest),
        };
        let max_expires = match reach {
            Reach::Asked(Some(max_ttl)) => asked("max_ttl", settings, now, max_ttl, latest)?,
            Reach::Asked(None) => now.plus(RENEWABLE_DEFAULT).min(latest).max(expires),
            Reach::Latest => latest,
        };
        if max_expires < expires {
            return Err(Failure::invalid("max_ttl", "no shorter than the ttl"));
        }
        let life = Self { expires: whole(expires), max_expires: whole(max_expires) };
        if life.expires <= now { Err(too_wide("ttl")) } else { Ok(life) }
    }
}

/// The new expiry of a token that expires at `current` and may live until `latest`: `ttl` from now,
/// or as long as `before`, the presented copy's life, where nobody says; cut to what it may have,
/// and never earlier than it was.
pub(super) fn renewed(
    settings: &TokenSettings,
    now: Timestamp,
    ttl: Option<Duration>,
    before: Duration,
    current: Timestamp,
    latest: Timestamp,
) -> Result<Timestamp, Failure> {
    let ttl = match ttl {
        Some(ttl) => checked("ttl", settings, ttl)?,
        None => before.min(settings.ttl_longest),
    };
    Ok(whole(now.plus(ttl).min(latest)).max(current))
}

fn asked(
    field: &'static str,
    settings: &TokenSettings,
    now: Timestamp,
    span: Duration,
    latest: Timestamp,
) -> Result<Timestamp, Failure> {
    let end = now.plus(checked(field, settings, span)?);
    if end > latest { Err(too_wide(field)) } else { Ok(end) }
}

/// Refuses a span that no token may live.
pub(in crate::service) fn checked(
    field: &'static str,
    settings: &TokenSettings,
    span: Duration,
) -> Result<Duration, Failure> {
    let longest = settings.ttl_longest;
    if (Duration::from_secs(1)..=longest).contains(&span) {
        Ok(span)
    } else {
        Err(Failure::invalid(field, format!("1 to {} seconds", longest.as_secs())))
    }
}

fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_seconds(time.seconds())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::error::Reason;

    const DAY: u64 = 86_400;

    fn settings() -> TokenSettings {
        TokenSettings {
            issuer: String::new(),
            audience: String::new(),
            ttl_default: Duration::from_secs(3_600),
            ttl_longest: Duration::from_secs(30 * DAY),
        }
    }
    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }
    fn span(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }
    fn life(ttl: Option<Duration>, reach: Reach, latest: i64) -> Result<(i64, i64), Reason> {
        let life = Life::new(&settings(), at(0), ttl, reach, at(latest));
        life.map(|life| (life.expires.seconds(), life.max_expires.seconds())).map_err(|failure| failure.reason)
    }

    #[test]
    fn what_is_asked_is_given_or_refused_and_the_rest_is_cut() {
        const FAR: i64 = 1_000 * 86_400;
        for (ttl, reach, latest, expected) in [
            (None, Reach::Asked(None), FAR, Ok((3_600, 86_400))),
            (None, Reach::Latest, FAR, Ok((3_600, 30 * 86_400))),
            (None, Reach::Asked(None), 600, Ok((600, 600))),
            (None, Reach::Latest, 600, Ok((600, 600))),
            (span(2 * DAY), Reach::Asked(None), FAR, Ok((2 * 86_400, 2 * 86_400))),
            (span(60), Reach::Asked(span(60)), FAR, Ok((60, 60))),
            (span(60), Reach::Asked(span(59)), FAR, Err(Reason::InvalidField)),
            (span(0), Reach::Latest, FAR, Err(Reason::InvalidField)),
            (span(31 * DAY), Reach::Latest, FAR, Err(Reason::InvalidField)),
            (None, Reach::Asked(span(31 * DAY)), FAR, Err(Reason::InvalidField)),
            (span(30 * DAY), Reach::Latest, FAR, Ok((30 * 86_400, 30 * 86_400))),
            (span(600), Reach::Latest, 600, Ok((600, 600))),
            (span(60), Reach::Asked(span(600)), 600, Ok((60, 600))),
            (span(601), Reach::Latest, 600, Err(Reason::GrantTooWide)),
            (span(60), Reach::Asked(span(601)), 600, Err(Reason::GrantTooWide)),
            (None, Reach::Latest, 0, Err(Reason::GrantTooWide)),
        ] {
            assert_eq!(life(ttl, reach, latest), expected, "{ttl:?} {reach:?} {latest}");
        }
    }

    #[test]
    fn renewal_moves_the_expiry_on_within_its_limit() {
        let renewed = |ttl, current, latest| {
            let before = Duration::from_secs(7_200);
            renewed(&settings(), at(1_000), ttl, before, at(current), at(latest)).map(Timestamp::seconds).ok()
        };
        assert_eq!(renewed(None, 1_100, 90_000), Some(8_200));
        assert_eq!(renewed(span(60), 1_100, 90_000), Some(1_100));
        assert_eq!(renewed(None, 1_100, 2_000), Some(2_000));
        assert_eq!(renewed(None, 2_000, 2_000), Some(2_000));
        assert_eq!(renewed(span(0), 1_100, 90_000), None);
        assert_eq!(renewed(span(31 * DAY), 1_100, 90_000), None);
    }
}
