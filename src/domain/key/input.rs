//! What a caller may set on a key, checked once at the edge.

use std::time::Duration;

use super::{AuthScheme, RotationPolicy};
use crate::domain::error::InvalidInput;

/// The longest time that an old value lives on after a rotation.
pub const GRACE_MAX: Duration = Duration::from_secs(30 * DAY_SECONDS);
/// The grace period where neither the promotion nor the key names one.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(DAY_SECONDS);
/// The shortest time in which a deleted key can be undeleted.
pub const RECOVERY_MIN: Duration = Duration::from_secs(3_600);
/// The longest.
pub const RECOVERY_MAX: Duration = Duration::from_secs(90 * DAY_SECONDS);
/// The one where the deletion names none.
pub const RECOVERY_DEFAULT: Duration = Duration::from_secs(30 * DAY_SECONDS);

const DAY_SECONDS: u64 = 86_400;
/// Ten years: longer spans are slips.
const SPAN_MAX: Duration = Duration::from_secs(3_653 * DAY_SECONDS);

/// Refuses text of more than `bytes` bytes, or with control characters other than line breaks.
///
/// # Errors
/// Names `field`.
pub fn check_text(field: &'static str, text: &str, bytes: usize) -> Result<(), InvalidInput> {
    let is_plain = !text.chars().any(|c| c.is_control() && c != '\n');
    if text.len() <= bytes && is_plain {
        return Ok(());
    }
    Err(InvalidInput::new(field, format!("at most {bytes} bytes without control characters")))
}

/// Refuses a span shorter than `min` or longer than `max`.
///
/// # Errors
/// Names `field`.
pub fn check_span(field: &'static str, span: Duration, min: Duration, max: Duration) -> Result<(), InvalidInput> {
    if (min..=max).contains(&span) {
        return Ok(());
    }
    Err(InvalidInput::new(field, format!("{} to {} seconds", min.as_secs(), max.as_secs())))
}

/// Refuses a time to live shorter than a minute or longer than ten years.
///
/// # Errors
/// Names `field`.
pub fn check_ttl(field: &'static str, ttl: Duration) -> Result<(), InvalidInput> {
    check_span(field, ttl, Duration::from_secs(60), SPAN_MAX)
}

/// Refuses more than 32 models, or one that is not 1 to 100 printable characters without spaces.
///
/// # Errors
/// Names `field`.
pub fn check_models(field: &'static str, models: &[String]) -> Result<(), InvalidInput> {
    let is_model = |model: &String| (1..=100).contains(&model.len()) && model.bytes().all(|b| b.is_ascii_graphic());
    let mut distinct: Vec<_> = models.iter().collect();
    distinct.sort();
    distinct.dedup();
    if models.len() <= 32 && distinct.len() == models.len() && models.iter().all(is_model) {
        return Ok(());
    }
    Err(InvalidInput::new(field, "at most 32 different models of 1 to 100 printable ASCII characters without spaces"))
}

/// Refuses a policy whose period is shorter than an hour, or whose grace is longer than
/// [`GRACE_MAX`].
///
/// # Errors
/// Names the part of `field`.
pub fn check_rotation(field: &'static str, policy: &RotationPolicy) -> Result<(), InvalidInput> {
    let of = |part: &str, refused: InvalidInput| InvalidInput::new(format!("{field}.{part}"), refused.problem);
    if let Some(period) = policy.period {
        check_span(field, period, Duration::from_secs(3_600), SPAN_MAX).map_err(|refused| of("period", refused))?;
    }
    let Some(grace) = policy.grace else { return Ok(()) };
    check_span(field, grace, Duration::ZERO, GRACE_MAX).map_err(|refused| of("grace", refused))
}

/// Refuses a scheme that is not one header name, a short prefix and at most 4 more headers
/// (RFC 9110, tokens and visible characters).
///
/// # Errors
/// Names `field`.
pub fn check_auth_scheme(field: &'static str, scheme: &AuthScheme) -> Result<(), InvalidInput> {
    let is_name = |name: &str| {
        (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let is_value = |value: &str, max| value.len() <= max && value.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    let extra = &scheme.extra_headers;
    let holds = (scheme.header.is_empty() || is_name(&scheme.header))
        && is_value(&scheme.prefix, 32)
        && extra.len() <= 4
        && extra.iter().all(|(name, value)| is_name(name) && is_value(value, 256));
    if holds {
        return Ok(());
    }
    Err(InvalidInput::new(
        field,
        "a header name, a prefix of at most 32 and at most 4 extra headers of 64/256 characters",
    ))
}

/// Refuses a base URL that is not https (or http to this machine or one of `plain_hosts`) with a
/// host and without user, query or fragment.
///
/// # Errors
/// Names `field`.
pub fn check_base_url(field: &'static str, text: &str, plain_hosts: &[String]) -> Result<(), InvalidInput> {
    let bad = || InvalidInput::new(field, "https://host/path of at most 256 bytes, without user, query or fragment");
    if text.len() > 256 || text.contains(['#', '?', '@', '\\']) || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad());
    }
    let uri: http::Uri = text.parse().map_err(|_| bad())?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if is_loopback(host) || plain_hosts.iter().any(|plain| plain == host) => Ok(()),
        Some("http") => Err(InvalidInput::new(field, "https, unless the host is this machine or configured")),
        _ => Err(bad()),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_https_unless_it_is_this_machine_or_configured() {
        let plain = ["ollama.internal".to_owned()];
        for good in [
            "https://api.openai.com/v1",
            "https://x.openai.azure.com",
            "http://localhost:11434",
            "http://127.0.0.1:8080/v1",
            "http://[::1]:1",
            "http://ollama.internal:11434",
        ] {
            assert_eq!(check_base_url("base_url", good, &plain), Ok(()), "{good}");
        }
        let long = format!("https://a/{}", "b".repeat(256));
        for bad in [
            "",
            "api.openai.com",
            "http://api.openai.com",
            "http://localhost.evil.com",
            "http://127.0.0.1@evil.com",
            "ftp://localhost",
            "https://",
            "https://a?b=c",
            "https://a#b",
            "https://a b",
            "/v1",
            long.as_str(),
        ] {
            assert_eq!(check_base_url("base_url", bad, &plain).unwrap_err().field, "base_url", "{bad}");
        }
    }

    #[test]
    fn models_are_few_short_and_different() {
        assert!(check_models("models", &["gpt-4o".to_owned(), "gpt-4*".to_owned()]).is_ok());
        for bad in [vec!["a".to_owned(); 2], vec![String::new()], vec!["a b".to_owned()]] {
            assert!(check_models("models", &bad).is_err());
        }
    }

    #[test]
    fn a_header_cannot_break_out() {
        let scheme = |header: &str, prefix: &str| AuthScheme {
            header: header.to_owned(),
            prefix: prefix.to_owned(),
            ..AuthScheme::default()
        };
        assert!(check_auth_scheme("auth_scheme", &scheme("authorization", "Bearer ")).is_ok());
        for (header, prefix) in [("a: b", ""), ("a\r\nb", ""), ("a", "x\r\n")] {
            assert!(check_auth_scheme("auth_scheme", &scheme(header, prefix)).is_err());
        }
    }
}
