//! Resource patterns of grants: a full name in which `*` stands for any run of characters within
//! one segment, and `**` as the last segment for all the rest.

use std::{borrow::Cow, fmt};

use super::{error::InvalidInput, ids::OrgId};

/// A name or a glob of names within one organization: `orgs/acme/keys/openai-*`, `orgs/acme/**`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourcePattern(String);

impl ResourcePattern {
    /// The most bytes of a pattern.
    pub const BYTES_MAX: usize = 512;
    /// What the text must look like, for people.
    pub const RULE: &str = "a name or glob that begins with orgs/{your org}/: segments of a-z, 0-9, '.', '_', - and *, and ** only at the end";

    /// Parses `text`, which came in `field`, as a pattern of `org`.
    ///
    /// # Errors
    /// When it breaks [`Self::RULE`] or is of another organization.
    pub fn parse(field: impl Into<Cow<'static, str>>, text: &str, org: &OrgId) -> Result<Self, InvalidInput> {
        if Self::is_valid(text, org) { Ok(Self(text.to_owned())) } else { Err(InvalidInput::new(field, Self::RULE)) }
    }
    /// Everything of `org`: `orgs/{org}/**`.
    #[must_use]
    pub fn all(org: &OrgId) -> Self {
        Self(format!("orgs/{org}/**"))
    }
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Whether it matches the resource of this full name. A name that itself ends with `/*` asks
    /// for a whole collection: only a pattern that matches all of it matches that.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        covers(&self.0, name)
    }
    /// Whether every name that `other` matches is matched by this one; in doubt, no.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        // A wildcard of the other is, to this one, a character that only a wildcard matches.
        covers(&self.0, &other.0)
    }

    fn is_valid(text: &str, org: &OrgId) -> bool {
        let prefix = format!("orgs/{org}/");
        let Some(rest) = text.strip_prefix(&prefix).filter(|_| text.len() <= Self::BYTES_MAX) else {
            return false;
        };
        rest == "**" || rest.strip_suffix("/**").unwrap_or(rest).split('/').all(is_segment)
    }
}

impl fmt::Display for ResourcePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_segment(segment: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'*');
    !segment.is_empty() && !segment.contains("**") && segment.bytes().all(plain)
}

fn covers(pattern: &str, name: &str) -> bool {
    let mut pieces = name.split('/');
    for segment in pattern.split('/') {
        match pieces.next() {
            None | Some("") => return false,
            Some(_) if segment == "**" => return true,
            Some("**") => return false,
            Some(piece) if !segment_covers(segment.as_bytes(), piece.as_bytes()) => return false,
            Some(_) => {}
        }
    }
    pieces.next().is_none()
}

fn segment_covers(mut pattern: &[u8], mut text: &[u8]) -> bool {
    // Where the last star stands and how much of the text it has not yet taken.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, text) {
            ([b'*', rest @ ..], _) => {
                star = Some((rest, text));
                pattern = rest;
            }
            ([want, pattern_rest @ ..], [have, text_rest @ ..]) if want == have => {
                pattern = pattern_rest;
                text = text_rest;
            }
            ([], []) => return true,
            _ => match star {
                Some((after, [_, left @ ..])) => {
                    star = Some((after, left));
                    pattern = after;
                    text = left;
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn acme() -> OrgId {
        OrgId::parse("org", "acme").unwrap()
    }
    fn pattern(text: &str) -> ResourcePattern {
        ResourcePattern::parse("p", text, &acme()).unwrap()
    }

    #[test]
    fn a_star_stays_within_its_segment_and_two_take_the_rest() {
        for (text, name, expected) in [
            ("orgs/acme/keys/openai-*", "orgs/acme/keys/openai-prod", true),
            ("orgs/acme/keys/openai-*", "orgs/acme/keys/openai-", true),
            ("orgs/acme/keys/openai-*", "orgs/acme/keys/openai-prod/versions/1", false),
            ("orgs/acme/keys/*", "orgs/acme/tokens/a", false),
            ("orgs/acme/keys/*prod*eu", "orgs/acme/keys/a-prod-prod-eu", true),
            ("orgs/acme/keys/*prod*eu", "orgs/acme/keys/a-prod-eu-1", false),
            ("orgs/acme/*/a", "orgs/acme/keys/a", true),
            ("orgs/acme/**", "orgs/acme/keys/a", true),
            ("orgs/acme/keys/**", "orgs/acme/keys/a/versions/2", true),
            ("orgs/acme/**", "orgs/acme", false),
            ("orgs/acme/**", "orgs/acme/", false),
            ("orgs/acme/**", "orgs/acmee/keys/a", false),
            ("orgs/acme/keys/a", "orgs/acme/keys/a", true),
            ("orgs/acme/keys/a", "orgs/acme/keys/ab", false),
        ] {
            assert_eq!(pattern(text).matches(name), expected, "{text} {name}");
            assert_eq!(pattern(text).to_string(), text);
        }
    }

    #[test]
    fn a_whole_collection_is_matched_only_by_a_pattern_of_all_of_it() {
        for (text, expected) in [
            ("orgs/acme/**", true),
            ("orgs/acme/tokens/*", true),
            ("orgs/acme/*/*", true),
            ("orgs/acme/tokens/**", true),
            ("orgs/acme/tokens/a*", false),
            ("orgs/acme/keys/*", false),
        ] {
            assert_eq!(pattern(text).matches("orgs/acme/tokens/*"), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_pattern_of_the_organization_is_refused() {
        let long = format!("orgs/acme/keys/{}", "a".repeat(ResourcePattern::BYTES_MAX));
        for text in [
            "",
            "*",
            "**",
            "orgs/*/keys/a",
            "orgs/other/keys/a",
            "orgs/acme",
            "orgs/acme/",
            "orgs/acme/keys/",
            "orgs/acme//a",
            "orgs/acme/**/a",
            "orgs/acme/keys/a**",
            "orgs/acme/keys/***",
            "orgs/acme/keys/A",
            "orgs/acme/keys/a b",
            "orgs/acme/keys/\u{e9}",
            "orgs/acme/**/**",
            "orgs/acme2/**",
            long.as_str(),
        ] {
            let refused = ResourcePattern::parse("grants[0].resources[1]", text, &acme()).unwrap_err();
            assert_eq!(refused.field, "grants[0].resources[1]", "{text}");
        }
    }

    #[test]
    fn containment_of_the_obvious_cases() {
        for (outer, inner, expected) in [
            ("orgs/acme/**", "orgs/acme/**", true),
            ("orgs/acme/**", "orgs/acme/keys/a*", true),
            ("orgs/acme/keys/*", "orgs/acme/keys/a*b", true),
            ("orgs/acme/keys/a*", "orgs/acme/keys/a*b", true),
            ("orgs/acme/keys/a*b", "orgs/acme/keys/a*", false),
            ("orgs/acme/keys/*", "orgs/acme/keys/**", false),
            ("orgs/acme/keys/**", "orgs/acme/**", false),
            ("orgs/acme/*/**", "orgs/acme/**", false),
            ("orgs/acme/*/**", "orgs/acme/keys/**", true),
            ("orgs/acme/keys/a", "orgs/acme/keys/*", false),
        ] {
            assert_eq!(pattern(outer).contains(&pattern(inner)), expected, "{outer} {inner}");
        }
    }

    // Short segments of two letters and stars, so that patterns and names often meet.
    fn segments(last: bool) -> impl Strategy<Value = String> {
        let segment = "[ab*]{1,4}".prop_map(|text| text.replace("**", "*").replace("**", "*"));
        let end = if last { prop_oneof![Just("/**"), Just("")].boxed() } else { Just("").boxed() };
        (proptest::collection::vec(segment, 1..4), end).prop_map(|(parts, end)| parts.join("/") + end)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn a_contained_pattern_matches_nothing_that_its_container_does_not(
            outer in segments(true),
            inner in segments(true),
            names in proptest::collection::vec("[ab]{1,4}(/[ab]{1,4}){0,3}", 1..32),
        ) {
            let outer = pattern(&format!("orgs/acme/{outer}"));
            let inner = pattern(&format!("orgs/acme/{inner}"));
            for name in names {
                let name = format!("orgs/acme/{name}");
                if outer.contains(&inner) && inner.matches(&name) {
                    prop_assert!(outer.matches(&name), "{outer} contains {inner} but not {name}");
                }
            }
        }

        #[test]
        fn every_filling_of_a_contained_pattern_is_matched(
            outer in segments(true),
            inner in segments(true),
            fill in proptest::collection::vec("[ab]{0,3}", 12),
        ) {
            let outer = pattern(&format!("orgs/acme/{outer}"));
            let inner = pattern(&format!("orgs/acme/{inner}"));
            let mut name = inner.as_str().replace("**", "a/b");
            for text in fill {
                name = name.replacen('*', &text, 1);
            }
            prop_assume!(!name.contains('*') && inner.matches(&name));
            prop_assert!(!outer.contains(&inner) || outer.matches(&name), "{outer} {inner} {name}");
        }

        #[test]
        fn matching_agrees_with_a_regular_expression(text in segments(true), name in "[ab]{1,4}(/[ab]{1,4}){0,3}") {
            let expression = text.replace("/**", "/.+").replace('*', "[^/]*");
            let expected = regex::Regex::new(&format!("^{expression}$")).unwrap().is_match(&name);
            let text = pattern(&format!("orgs/acme/{text}"));
            prop_assert_eq!(text.matches(&format!("orgs/acme/{name}")), expected);
        }

        #[test]
        fn every_pattern_contains_itself(text in segments(true)) {
            let text = pattern(&format!("orgs/acme/{text}"));
            prop_assert!(text.contains(&text));
        }
    }
}
