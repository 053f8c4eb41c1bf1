//! Times and durations: RFC 3339 for programs, distances for people, `90d` from people.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use serde_json::Value;

const UNITS: [(&str, u64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// The one place that reads the clock.
#[expect(clippy::disallowed_methods, reason = "distances to now are for people's eyes; no rule depends on them")]
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

/// RFC 3339, or null.
pub(crate) fn json(time: &Option<Timestamp>) -> Value {
    time.as_ref().map_or(Value::Null, |time| Value::String(time.to_string()))
}

/// Seconds, or null.
pub(crate) fn json_seconds(duration: &Option<prost_types::Duration>) -> Value {
    duration.as_ref().map_or(Value::Null, |duration| duration.seconds.into())
}

/// `3 min ago`, `in 29 days`; or nothing.
pub(crate) fn distance(time: &Option<Timestamp>, now: &Timestamp) -> String {
    let Some(time) = time else { return String::new() };
    let seconds = time.seconds.saturating_sub(now.seconds);
    let text = amount(seconds.unsigned_abs());
    match seconds {
        -1..=1 => "now".to_owned(),
        ..-1 => format!("{text} ago"),
        _ => format!("in {text}"),
    }
}

/// Both forms, for a single resource; or nothing.
pub(crate) fn both(time: &Option<Timestamp>, now: &Timestamp) -> String {
    time.as_ref().map_or_else(String::new, |at| format!("{at} ({})", distance(time, now)))
}

/// `60 min`; or nothing.
pub(crate) fn span(duration: &Option<prost_types::Duration>) -> String {
    duration.map_or_else(String::new, |duration| amount(u64::try_from(duration.seconds).unwrap_or_default()))
}

fn amount(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `90d`, `24h`, `1h30m`: whole numbers of w, d, h, m, s.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a duration is numbers with w, d, h, m or s, as in 90d or 1h30m".to_owned();
    let mut rest = text;
    let mut seconds = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at_checked(digits).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let (unit, size) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit)).ok_or_else(wrong)?;
        seconds = number.checked_mul(*size).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
        rest = tail.strip_prefix(unit).ok_or_else(wrong)?;
    }
    if text.is_empty() || i64::try_from(seconds).is_err() {
        return Err(wrong());
    }
    Ok(Duration::from_secs(seconds))
}

/// As the wire has it.
pub(crate) fn wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// So long before `now`.
pub(crate) fn before(now: &Timestamp, span: Duration) -> Timestamp {
    Timestamp { seconds: now.seconds.saturating_sub(wire(span).seconds), nanos: now.nanos }
}

/// So long after `now`.
pub(crate) fn after(now: &Timestamp, span: Duration) -> Timestamp {
    Timestamp { seconds: now.seconds.saturating_add(wire(span).seconds), nanos: now.nanos }
}

/// A point in time: RFC 3339, or how long ago.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum When {
    At(Timestamp),
    Ago(Duration),
}

impl When {
    pub(crate) fn before(&self, now: &Timestamp) -> Timestamp {
        match self {
            Self::At(time) => *time,
            Self::Ago(duration) => before(now, *duration),
        }
    }
}

/// `2030-01-31T12:00:00Z`, or a duration: so long ago.
pub(crate) fn parse_when(text: &str) -> Result<When, String> {
    if let Ok(duration) = parse_duration(text) {
        return Ok(When::Ago(duration));
    }
    text.parse()
        .map(When::At)
        .map_err(|_| "a time is RFC 3339, as in 2030-01-31T12:00:00Z, or how long ago, as in 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    #[test]
    fn programs_get_rfc_3339() {
        let time = Timestamp { seconds: 1_893_456_000, nanos: 250_000_000 };
        assert_eq!(json(&Some(time)), "2030-01-01T00:00:00.250Z");
        assert_eq!(json(&Some(at(1_709_210_096))), "2024-02-29T12:34:56Z");
        assert_eq!(json(&None), Value::Null);
    }

    #[test]
    fn people_get_distances() {
        let now = at(1_000_000);
        for (seconds, text) in
            [(0, "now"), (-45, "45 s ago"), (-150, "2 min ago"), (7_300, "in 2 h"), (30 * 86_400, "in 30 days")]
        {
            assert_eq!(distance(&Some(at(1_000_000 + seconds)), &now), text);
        }
        assert_eq!(distance(&None, &now), "");
        assert_eq!(both(&Some(at(0)), &at(60)), "1970-01-01T00:00:00Z (60 s ago)");
    }

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [("90d", 7_776_000), ("1h30m", 5_400), ("45s", 45), ("2w", 1_209_600), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "90", "d", "1.5h", "-1h", "1h ", "1µs", "99999999999999999999d", "9999999999999999w"] {
            parse_duration(wrong).unwrap_err();
        }
    }

    #[test]
    fn a_point_in_time_is_a_date_or_a_distance() {
        let now = at(10_000);
        assert_eq!(parse_when("1h").unwrap().before(&now), at(6_400));
        assert_eq!(parse_when("1970-01-01T00:00:10Z").unwrap().before(&now), at(10));
        for wrong in ["yesterday", "2030-13-01T00:00:00Z", ""] {
            parse_when(wrong).unwrap_err();
        }
    }
}
