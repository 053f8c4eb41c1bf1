//! Counts as text: a bar for each bucket, or for each group a line of eight heights over time.

use std::{collections::BTreeMap, time::Duration};

use ibyok_client::pb::get_usage_response::Row;

use crate::{output::Table, session::short};

const BAR_WIDTH: usize = 30;
/// What the columns beside the drawing need on a terminal.
const BESIDE: usize = 50;
const DRAWING_WIDTH_MIN: usize = 8;
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// A row for each bucket.
pub(super) fn by_bucket(rows: &[Row], width: Option<usize>) -> Table {
    let room = width.map_or(BAR_WIDTH, |width| width.saturating_sub(BESIDE).clamp(DRAWING_WIDTH_MIN, BAR_WIDTH));
    let most = rows.iter().map(|row| row.retrievals).max().unwrap_or_default();
    let mut table = Table::new(["FROM", "RETRIEVALS", "REFUSED", "FAILED", ""]);
    for row in rows {
        table.row(vec![
            row.start_time.map(|time| time.to_string()).unwrap_or_default(),
            row.retrievals.to_string(),
            row.denials.to_string(),
            row.failures.to_string(),
            bar(row.retrievals, most, room),
        ]);
    }
    table
}

/// The time that a line of bars spans.
pub(super) struct Buckets {
    first: i64,
    seconds: i64,
    count: usize,
    /// How many buckets one character stands for.
    merged: usize,
}

impl Buckets {
    /// From `start` to `end`, in seconds since 1970; buckets begin at whole hours and days of UTC.
    pub(super) fn new(start: i64, end: i64, bucket: Duration, width: Option<usize>) -> Self {
        let seconds = i64::try_from(bucket.as_secs()).unwrap_or(i64::MAX).max(1);
        let first = start.div_euclid(seconds);
        let last = end.saturating_sub(1).div_euclid(seconds).max(first);
        let count = usize::try_from(last - first + 1).unwrap_or(1);
        let room = width.map_or(2 * BAR_WIDTH, |width| width.saturating_sub(BESIDE).max(DRAWING_WIDTH_MIN));
        Self { first, seconds, count, merged: count.div_ceil(room).max(1) }
    }

    fn columns(&self) -> usize {
        self.count.div_ceil(self.merged)
    }

    fn column(&self, row: &Row) -> usize {
        let bucket = row.start_time.map_or(0, |time| time.seconds).div_euclid(self.seconds) - self.first;
        usize::try_from(bucket).unwrap_or_default() / self.merged
    }
}

/// A row for each combination of values, most retrieved first.
pub(super) fn by_group(names: &[&str], rows: &[Row], buckets: &Buckets) -> Table {
    let mut groups: BTreeMap<Vec<&str>, Group> = BTreeMap::new();
    for row in rows {
        let values = names.iter().map(|name| row.dimensions.get(*name).map_or("", String::as_str)).collect();
        let group = groups.entry(values).or_insert_with(|| Group::new(buckets.columns()));
        group.retrievals += row.retrievals;
        group.denials += row.denials;
        if let Some(column) = group.columns.get_mut(buckets.column(row)) {
            *column += row.retrievals;
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.retrievals));
    let header = names.iter().map(|name| name.to_uppercase());
    let mut table =
        Table::with_header(header.chain(["RETRIEVALS", "REFUSED", "OVER TIME"].map(str::to_owned)).collect());
    for (values, group) in groups {
        let mut cells: Vec<_> = values.into_iter().map(|value| shown(value).to_owned()).collect();
        cells.extend([group.retrievals.to_string(), group.denials.to_string(), heights(&group.columns)]);
        table.row(cells);
    }
    table
}

struct Group {
    retrievals: i64,
    denials: i64,
    columns: Vec<i64>,
}

impl Group {
    fn new(columns: usize) -> Self {
        Self { retrievals: 0, denials: 0, columns: vec![0; columns] }
    }
}

/// Full names are long, and all begin alike.
fn shown(value: &str) -> &str {
    match value {
        "" => "(none)",
        name if name.starts_with("orgs/") => short(name),
        other => other,
    }
}

fn bar(count: i64, most: i64, width: usize) -> String {
    let (count, most) = (u64::try_from(count).unwrap_or_default(), u64::try_from(most).unwrap_or_default().max(1));
    let eighths = usize::try_from(u128::from(count) * (8 * width as u128) / u128::from(most)).unwrap_or_default();
    // What is there is seen, however little it is.
    let eighths = if count > 0 { eighths.max(1) } else { 0 };
    let rest = (eighths % 8).checked_sub(1).and_then(|rest| EIGHTHS.get(rest));
    "█".repeat(eighths / 8).chars().chain(rest.copied()).collect()
}

fn heights(counts: &[i64]) -> String {
    let most = counts.iter().copied().max().unwrap_or_default().max(1);
    let height = |count: i64| match count {
        ..=0 => ' ',
        _ => usize::try_from(i128::from(count) * 8 / i128::from(most))
            .ok()
            .and_then(|height| HEIGHTS.get(height.saturating_sub(1)))
            .copied()
            .unwrap_or('█'),
    };
    counts.iter().map(|count| height(*count)).collect()
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn row(hour: i64, key: &str, retrievals: i64) -> Row {
        Row {
            start_time: Some(Timestamp { seconds: hour * 3_600, nanos: 0 }),
            dimensions: [("key".to_owned(), format!("orgs/dev/keys/{key}"))].into(),
            retrievals,
            ..Default::default()
        }
    }

    #[test]
    fn the_longest_bar_fills_the_room_and_the_least_is_seen() {
        let rows = [row(0, "a", 800), row(1, "a", 100), row(2, "a", 1), row(3, "a", 0)];
        let lines = by_bucket(&rows, Some(58)).lines();
        assert_eq!(lines[1], "1970-01-01T00:00:00Z  800         0        0       ████████");
        assert!(lines[2].ends_with("0       █"), "{}", lines[2]);
        assert!(lines[3].ends_with("0       ▏"), "{}", lines[3]);
        assert!(lines[4].ends_with("  0           0        0"), "{}", lines[4]);
    }

    #[test]
    fn a_group_is_a_line_over_time_with_its_gaps() {
        let buckets = Buckets::new(0, 4 * 3_600, HOUR, None);
        let rows = [row(0, "b", 1), row(0, "a", 8), row(1, "a", 4), row(3, "a", 8)];
        let lines = by_group(&["key"], &rows, &buckets).lines();
        assert_eq!(lines[1], "a    20          0        █▄ █");
        assert_eq!(lines[2], "b    1           0        █");
    }

    #[test]
    fn many_buckets_share_a_character() {
        let buckets = Buckets::new(1_800, 24 * 3_600, HOUR, Some(BESIDE + 12));
        assert_eq!((buckets.columns(), buckets.column(&row(23, "a", 1))), (12, 11));
        assert_eq!(Buckets::new(0, 0, HOUR, Some(0)).columns(), 1);
    }
}
