//! What a listing shows of a secret.

use crate::domain::secret::ProviderKey;

const FIRST: usize = 5;
const LAST: usize = 4;
/// Shorter values show nothing at all.
const SHOWN_FROM: usize = 8;

/// First and last characters: `sk-pr...xK2m`. Short values show less, none more than a third;
/// surrounding whitespace doesn't count.
#[must_use]
pub fn preview(secret: &ProviderKey) -> String {
    let text = secret.expose_secret().trim();
    let length = text.chars().count();
    let shown = if length < SHOWN_FROM { 0 } else { (length / 3).min(FIRST + LAST) };
    let last = shown.saturating_mul(LAST) / (FIRST + LAST);
    let first = shown.saturating_sub(last);
    let head: String = text.chars().take(first).collect();
    let tail: String = text.chars().skip(length.saturating_sub(last)).collect();
    format!("{head}...{tail}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> String {
        preview(&ProviderKey::parse("secret", text.to_owned()).unwrap())
    }

    #[test]
    fn a_long_value_shows_nine_characters_and_a_short_one_less() {
        assert_eq!(of("sk-proj-0123456789abcdefghijxK2m"), "sk-pr...xK2m");
        assert_eq!(of("  sk-proj-0123456789abcdefghijxK2m\n"), "sk-pr...xK2m");
        assert_eq!(of("abcdefghijkl"), "abc...l");
        assert_eq!(of("abcdefg"), "...");
        assert_eq!(of("x"), "...");
    }

    proptest! {
        #[test]
        fn never_more_than_a_third_is_shown(text in "\\PC{1,80}") {
            prop_assume!(!text.trim().is_empty());
            let shown = of(&text).chars().count() - 3;
            prop_assert!(shown * 3 <= text.trim().chars().count());
        }
    }
}
