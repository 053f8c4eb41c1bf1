//! Usage and consumers.

use super::{key::opt_timestamp, own_name, page_size, timestamp};
use crate::{
    domain::error::{Failure, InvalidInput, Reason},
    grpc::pb::{self, get_usage_response::Row, list_key_consumers_response},
    service::{
        call::Call,
        usage::{Consumer, ConsumerPage, Dimension, GetUsage, ListConsumers, UsagePage, UsageRow},
    },
};

pub(in crate::grpc) fn get_usage(call: &Call, request: pb::GetUsageRequest) -> Result<GetUsage, Failure> {
    super::own_parent(call, &request.parent)?;
    let group_by = request.group_by.iter().map(|dimension| parse_dimension(*dimension));
    Ok(GetUsage {
        start: opt_timestamp("start_time", request.start_time)?,
        end: opt_timestamp("end_time", request.end_time)?,
        bucket: super::key::opt_duration("bucket", request.bucket)?,
        group_by: group_by.collect::<Result<_, _>>()?,
        label_key: request.label_key,
        page_size: page_size(request.page_size)?,
        page_token: request.page_token,
    })
}

fn parse_dimension(number: i32) -> Result<Dimension, InvalidInput> {
    use pb::UsageDimension as Wire;
    match Wire::try_from(number) {
        Ok(Wire::Key) => Ok(Dimension::Key),
        Ok(Wire::Provider) => Ok(Dimension::Provider),
        Ok(Wire::Token) => Ok(Dimension::Token),
        Ok(Wire::Client) => Ok(Dimension::Client),
        Ok(Wire::Outcome) => Ok(Dimension::Outcome),
        Ok(Wire::Environment) => Ok(Dimension::Environment),
        Ok(Wire::Label) => Ok(Dimension::Label),
        Ok(Wire::Unspecified) | Err(_) => {
            Err(InvalidInput::new("group_by", "KEY, PROVIDER, TOKEN, CLIENT, OUTCOME, ENVIRONMENT or LABEL"))
        }
    }
}

pub(in crate::grpc) fn usage(group_by: &[Dimension], page: UsagePage) -> pb::GetUsageResponse {
    let names = || group_by.iter().map(|dimension| dimension.as_str().to_owned());
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let row = |UsageRow { start, values, counts }: UsageRow| Row {
        start_time: Some(timestamp(start)),
        dimensions: names().zip(values).collect(),
        retrievals: count(counts.retrievals),
        denials: count(counts.denials),
        failures: count(counts.failures),
        checks: count(counts.checks),
        input_tokens: 0,
        output_tokens: 0,
    };
    pb::GetUsageResponse { rows: page.rows.into_iter().map(row).collect(), next_page_token: page.next_page_token }
}

pub(in crate::grpc) fn list_consumers(
    call: &Call,
    request: pb::ListKeyConsumersRequest,
) -> Result<ListConsumers, Failure> {
    let name = own_name(call, "name", &request.name, Reason::KeyNotFound)?;
    Ok(ListConsumers { name, page_size: page_size(request.page_size)?, page_token: request.page_token })
}

pub(in crate::grpc) fn consumers(page: ConsumerPage) -> pb::ListKeyConsumersResponse {
    let consumer =
        |Consumer { holder, version, time, holds_current }: Consumer| list_key_consumers_response::Consumer {
            subject: holder.subject,
            token_id: holder.token,
            client_identity: holder.client,
            key_version: version,
            last_retrieved_time: Some(timestamp(time)),
            holds_current,
        };
    pb::ListKeyConsumersResponse {
        consumers: page.consumers.into_iter().map(consumer).collect(),
        next_page_token: page.next_page_token,
        as_of_time: page.as_of.map(timestamp),
        truncated: page.is_truncated,
    }
}
