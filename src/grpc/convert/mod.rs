//! Between generated messages and the words of the vault: times, spans, page sizes, names. Nothing
//! here decides anything.

use std::time::Duration;

use crate::{
    domain::{
        clock::Timestamp,
        error::{Failure, InvalidInput, Reason},
        ids::{Name, OrgId, Resource, VersionName},
    },
    service::call::Call,
};

pub(super) mod audit;
pub(super) mod bulk;
pub(super) mod key;
pub(super) mod org;
pub(super) mod token;
pub(super) mod usage;

/// The page size where none is named.
const PAGE_SIZE_DEFAULT: usize = 50;
/// The largest page.
const PAGE_SIZE_MAX: usize = 1_000;
const MICROS: i64 = 1_000_000;

/// A time as it goes out.
pub(super) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.micros().rem_euclid(MICROS).saturating_mul(1_000)).unwrap_or_default();
    prost_types::Timestamp { seconds: time.seconds(), nanos }
}

/// A time as it came in; finer than a microsecond is cut.
pub(super) fn parse_timestamp(field: &'static str, time: prost_types::Timestamp) -> Result<Timestamp, InvalidInput> {
    // 9999-12-31, the last day of google.protobuf.Timestamp.
    let is_valid =
        (-62_135_596_800..=253_402_300_799).contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos);
    if !is_valid {
        return Err(InvalidInput::new(field, "a time from 0001-01-01 to 9999-12-31"));
    }
    let micros = time.seconds.saturating_mul(MICROS).saturating_add(i64::from(time.nanos) / 1_000);
    Ok(Timestamp::from_micros(micros))
}

/// A span as it goes out.
pub(super) fn duration(span: Duration) -> prost_types::Duration {
    let nanos = i32::try_from(span.subsec_nanos()).unwrap_or_default();
    prost_types::Duration { seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX), nanos }
}

/// A span as it came in, not negative.
pub(super) fn parse_duration(field: &'static str, span: prost_types::Duration) -> Result<Duration, InvalidInput> {
    let bad = || InvalidInput::new(field, "a span of time that is not negative");
    let (seconds, nanos) = (u64::try_from(span.seconds), u32::try_from(span.nanos));
    match (seconds, nanos) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(bad()),
    }
}

/// How many a page holds: 50 where the caller names none.
pub(super) fn page_size(asked: i32) -> Result<usize, InvalidInput> {
    match usize::try_from(asked) {
        Ok(0) => Ok(PAGE_SIZE_DEFAULT),
        Ok(size) if size <= PAGE_SIZE_MAX => Ok(size),
        _ => Err(InvalidInput::new("page_size", "1 to 1000, or 0 for 50")),
    }
}

/// The caller's own organization, as `text` names it; another answers as absent before anything
/// else is looked at.
pub(super) fn own_parent(call: &Call, text: &str) -> Result<OrgId, Failure> {
    let org = OrgId::parse_parent("parent", text, call.org()?)?;
    call.own(&org, Reason::OrgNotFound)?;
    Ok(org)
}

/// A resource of the caller's own organization; another's answers as absent before anything else is
/// looked at.
pub(super) fn own_name<R: Resource>(
    call: &Call,
    field: &'static str,
    text: &str,
    absent: Reason,
) -> Result<Name<R>, Failure> {
    let name = Name::parse(field, text, call.org()?)?;
    call.own(&name.org, absent)?;
    Ok(name)
}

/// A key's version of the caller's own organization.
pub(super) fn own_version(call: &Call, text: &str) -> Result<VersionName, Failure> {
    let name = VersionName::parse("name", text, call.org()?)?;
    call.own(&name.key.org, Reason::KeyNotFound)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_spans_go_out_as_they_came_in() {
        for micros in [0, 1, -1, 1_700_000_000_123_456] {
            let time = Timestamp::from_micros(micros);
            assert_eq!(parse_timestamp("t", timestamp(time)).unwrap(), time);
        }
        let span = Duration::new(5, 7);
        assert_eq!(parse_duration("d", duration(span)).unwrap(), span);
    }

    #[test]
    fn what_is_no_time_span_or_page_size_is_refused_by_field() {
        let time = |seconds, nanos| parse_timestamp("t", prost_types::Timestamp { seconds, nanos });
        assert!(time(i64::MAX, 0).is_err() && time(0, -1).is_err() && time(0, 1_000_000_000).is_err());
        let span = |seconds, nanos| parse_duration("d", prost_types::Duration { seconds, nanos });
        assert!(span(-1, 0).is_err() && span(0, -1).is_err());
        assert_eq!(page_size(0), Ok(50));
        assert_eq!(page_size(1_000), Ok(1_000));
        assert!(page_size(-1).is_err());
        assert_eq!(page_size(1_001).unwrap_err().field, "page_size");
    }
}
