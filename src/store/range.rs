//! A query's sort keys as one half-open interval. In bytewise order the next key after `s` is `s`
//! with a NUL at its end, which turns every exclusive start and inclusive end into one.

use super::{Order, Query, SortRange};

/// Sort keys from `from` on, and before `until` if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) from: String,
    pub(super) until: Option<String>,
}

impl Interval {
    /// What `query` covers from its exclusive start on.
    pub(super) fn of(query: &Query) -> Self {
        let (mut from, mut until) = match &query.range {
            SortRange::All => (String::new(), None),
            SortRange::Prefix(prefix) => (prefix.clone(), after_prefix(prefix)),
            SortRange::Between(first, last) => (first.clone(), Some(successor(last))),
        };
        match (&query.after, query.order) {
            (None, _) => {}
            (Some(after), Order::Ascending) => from = from.max(successor(after)),
            (Some(after), Order::Descending) => {
                until = Some(until.map_or_else(|| after.clone(), |end| end.min(after.clone())));
            }
        }
        Self { from, until }
    }

    /// Whether nothing can be in it.
    pub(super) fn is_empty(&self) -> bool {
        self.until.as_ref().is_some_and(|until| *until <= self.from)
    }
}

fn successor(key: &str) -> String {
    let mut next = String::with_capacity(key.len().saturating_add(1));
    next.push_str(key);
    next.push('\0');
    next
}

/// The least text above everything that begins with `prefix`; UTF-8 keeps the order of characters.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(interval: &Interval, key: &str) -> bool {
        key >= interval.from.as_str() && interval.until.as_deref().is_none_or(|until| key < until)
    }

    fn query(range: SortRange, order: Order, after: Option<String>) -> Query {
        Query { partition: "p".into(), range, order, limit: 1, after }
    }

    #[test]
    fn a_prefix_ends_after_its_last_possible_key() {
        for (prefix, end) in [
            ("a", Some("b")),
            ("a\u{7f}", Some("a\u{80}")),
            ("\u{d7ff}", Some("\u{e000}")),
            ("a\u{10ffff}", Some("b")),
            ("\u{10ffff}\u{10ffff}", None),
            ("", None),
        ] {
            assert_eq!(after_prefix(prefix).as_deref(), end, "{prefix:?}");
        }
    }

    proptest! {
        #[test]
        fn an_interval_covers_what_the_query_names(
            key in "[\0ab\u{7f}\u{d7ff}\u{10ffff}]{1,4}",
            first in "[\0ab\u{7f}\u{d7ff}\u{10ffff}]{0,3}",
            last in "[\0ab\u{7f}\u{d7ff}\u{10ffff}]{0,3}",
            after in proptest::option::of("[\0ab\u{7f}\u{d7ff}\u{10ffff}]{1,3}"),
        ) {
            for order in [Order::Ascending, Order::Descending] {
                let beyond = after.as_ref().is_none_or(|after| match order {
                    Order::Ascending => key > *after,
                    Order::Descending => key < *after,
                });
                let prefix = Interval::of(&query(SortRange::Prefix(first.clone()), order, after.clone()));
                prop_assert_eq!(covers(&prefix, &key), beyond && key.starts_with(&first));
                let between = SortRange::Between(first.clone(), last.clone());
                let between = Interval::of(&query(between, order, after.clone()));
                prop_assert_eq!(covers(&between, &key), beyond && first <= key && key <= last);
                let all = Interval::of(&query(SortRange::All, order, after.clone()));
                prop_assert_eq!(covers(&all, &key), beyond);
            }
        }
    }
}
