//! One setting's value, from the file or from the environment.

use std::time::Duration;

use toml::Value;

pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).filter(|text| !text.is_empty())
}

/// A table of DynamoDB.
pub(super) fn table(value: &Value) -> Option<String> {
    let is_part = |it: u8| it.is_ascii_alphanumeric() || b"_-.".contains(&it);
    text(value).filter(|name| (3..=255).contains(&name.len()) && name.bytes().all(is_part))
}

/// A region of AWS.
pub(super) fn region(value: &Value) -> Option<String> {
    let is_part = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
    text(value).filter(|name| name.len() <= 64 && name.bytes().all(is_part))
}

/// True or false; the environment writes it as text.
pub(super) fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Boolean(flag) => Some(*flag),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// A whole number; the environment writes it as text.
pub(super) fn number(value: &Value) -> Option<u32> {
    match value {
        Value::Integer(number) => u32::try_from(*number).ok(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// A list of texts; the environment writes it with commas.
pub(super) fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        Value::String(text) => {
            Some(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
        }
        _ => None,
    }
}

/// Seconds, or text such as `1h30m`, `25s`, `90d`.
pub(super) fn duration(value: &Value) -> Option<Duration> {
    match value {
        Value::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
        Value::String(text) => duration_text(text),
        _ => None,
    }
}

fn duration_text(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (mut rest, mut total, mut last) = (text, Duration::ZERO, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits)?;
        let unit_len = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at_checked(unit_len)?;
        let unit = match unit {
            "d" => 86_400_000,
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        // Larger units come first, each once: 30m1h is more likely a slip than a wish.
        if unit >= last {
            return None;
        }
        last = unit;
        total = total.checked_add(Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(unit)?))?;
        rest = after;
    }
    (last != u64::MAX).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_units() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("1h30m", 5_400), ("90d", 7_776_000), ("1m1s", 61)] {
            assert_eq!(duration(&Value::String(text.into())), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration(&Value::Integer(5)), Some(Duration::from_secs(5)));
        assert_eq!(duration(&Value::String("250ms".into())), Some(Duration::from_millis(250)));
        for bad in ["", "s", "1x", "1h ", "30m1h", "1h1h", "-1s", "99999999999999999999d"] {
            assert_eq!(duration(&Value::String(bad.into())), None, "{bad}");
        }
        assert_eq!(duration(&Value::Integer(-1)), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_duration_or_none_and_the_parts_add_up(text: String, d in 0..9_u64, h in 0..99_u64, s in 0..99_u64) {
            let _ = duration(&Value::String(text));
            let span = duration(&Value::String(format!("{d}d{h}h{s}s")));
            proptest::prop_assert_eq!(span, Some(Duration::from_secs(d * 86_400 + h * 3_600 + s)));
        }
    }
}
