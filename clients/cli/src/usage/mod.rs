//! `ibyok usage`: how often keys were retrieved, as a table with bars, or a line of bars for each
//! group.

mod draw;

use std::time::Duration;

use clap::{Args, ValueEnum};
use ibyok_client::pb;
use serde_json::{Value, json};

use crate::{
    failure::Failure,
    output::Output,
    pages::pages,
    session::Session,
    time::{self, When, parse_when},
};

const PAGE_SIZE: i32 = 1_000;
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const HELP: &str = "\
Counts follow retrievals by seconds. Without --by there is a row for each bucket; with it one for each group, \
with a line of bars over time.
Examples:
  ibyok usage --since 24h
  ibyok usage --by key --since 30d
  ibyok usage --by label --label team -o json";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Usage {
    /// Count by these; repeatable, or separated by commas
    #[arg(long, value_name = "DIMENSION", value_enum, value_delimiter = ',')]
    by: Vec<Dimension>,
    /// With --by label: which label
    #[arg(long, value_name = "NAME", required_if_eq("by", "label"))]
    label: Option<String>,
    /// From when: RFC 3339, or how long ago
    #[arg(long, value_name = "WHEN", value_parser = parse_when, default_value = "7d")]
    since: When,
    /// Until when: RFC 3339, or how long ago [default: now]
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    until: Option<When>,
    /// How long a bucket is [default: hour for up to two days, else day]
    #[arg(long, value_name = "SIZE", value_enum)]
    bucket: Option<Bucket>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dimension {
    Key,
    Provider,
    Token,
    Client,
    Outcome,
    Environment,
    Label,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bucket {
    Hour,
    Day,
}

pub(crate) async fn run(args: Usage, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let now = time::now();
    let (start, end) = (args.since.before(&now), args.until.map_or(now, |until| until.before(&now)));
    let span = Duration::from_secs(u64::try_from(end.seconds.saturating_sub(start.seconds)).unwrap_or_default());
    let bucket = match args.bucket {
        Some(Bucket::Hour) => HOUR,
        Some(Bucket::Day) => DAY,
        None if span <= DAY * 2 => HOUR,
        None => DAY,
    };
    if args.label.is_some() && !args.by.contains(&Dimension::Label) {
        return Err(Failure::usage("--label says which label to count by", "add --by label"));
    }
    let request = pb::GetUsageRequest {
        parent: session.names.parent(),
        start_time: Some(start),
        end_time: Some(end),
        group_by: args.by.iter().map(|dimension| wire(*dimension).into()).collect(),
        bucket: Some(time::wire(bucket)),
        page_size: PAGE_SIZE,
        label_key: args.label.unwrap_or_default(),
        ..Default::default()
    };
    let rows = pages(None, async |page_token| {
        let request = pb::GetUsageRequest { page_token, ..request.clone() };
        let page = session.client.key_vault().get_usage(request).await?.into_inner();
        Ok((page.rows, page.next_page_token))
    });
    let rows = rows.await?;
    let names: Vec<_> = args.by.iter().map(|dimension| name(*dimension)).collect();
    let table = if names.is_empty() {
        draw::by_bucket(&rows, out.width())
    } else {
        let buckets = draw::Buckets::new(start.seconds, end.seconds, bucket, out.width());
        draw::by_group(&names, &rows, &buckets)
    };
    out.list("rows", rows.iter().map(row_json).collect(), table, "nothing was retrieved in that time")
}

fn wire(dimension: Dimension) -> pb::UsageDimension {
    match dimension {
        Dimension::Key => pb::UsageDimension::Key,
        Dimension::Provider => pb::UsageDimension::Provider,
        Dimension::Token => pb::UsageDimension::Token,
        Dimension::Client => pb::UsageDimension::Client,
        Dimension::Outcome => pb::UsageDimension::Outcome,
        Dimension::Environment => pb::UsageDimension::Environment,
        Dimension::Label => pb::UsageDimension::Label,
    }
}

/// As the rows' dimensions are called.
fn name(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Key => "key",
        Dimension::Provider => "provider",
        Dimension::Token => "token",
        Dimension::Client => "client",
        Dimension::Outcome => "outcome",
        Dimension::Environment => "environment",
        Dimension::Label => "label",
    }
}

fn row_json(row: &pb::get_usage_response::Row) -> Value {
    json!({
        "start_time": time::json(&row.start_time),
        "dimensions": row.dimensions,
        "retrievals": row.retrievals,
        "denials": row.denials,
        "failures": row.failures,
        "checks": row.checks,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_are_stable() {
        let row = pb::get_usage_response::Row {
            dimensions: [("key".to_owned(), "orgs/dev/keys/a".to_owned())].into(),
            retrievals: 3,
            denials: 1,
            ..Default::default()
        };
        assert_eq!(
            row_json(&row).to_string(),
            r#"{"checks":0,"denials":1,"dimensions":{"key":"orgs/dev/keys/a"},"failures":0,"input_tokens":0,"output_tokens":0,"retrievals":3,"start_time":null}"#
        );
    }

    #[test]
    fn every_dimension_of_the_contract_can_be_asked_for() {
        let all: Vec<_> = Dimension::value_variants().iter().map(|dimension| wire(*dimension) as i32).collect();
        assert_eq!(all, (1..=7).collect::<Vec<_>>());
    }
}
