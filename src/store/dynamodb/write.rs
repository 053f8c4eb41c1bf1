//! Writes, and what makes each happen once, however often it is tried.
//!
//! - **A put under Absent or Revision(n)** is a PutItem. Its condition holds at most once: a try that
//!   lands late finds the item changed. The item keeps the write's id as `wid`, and a failed
//!   condition answers the item: with our id it is we who changed it.
//! - **Everything else** is a TransactWriteItems, also when it is one action: a put under Any or
//!   Present, or a delete, whose condition may hold again would, landing late, undo what others wrote
//!   since. DynamoDB knows the transaction again by its ClientRequestToken, which is the write's id, for
//!   ten minutes, twice as long as it takes a request to come at all (its signature ends).
//! - **A put under Any or Present** replaces all parts of the item that are ours by an UpdateItem, and
//!   counts its revision there, so that it reads nothing and races with nobody.
//! - **A single check** is a read.
//!
//! Once a try has been lost (no answer, or one that says nothing), a failed condition proves nothing,
//! for that try may have been overwritten or be on its way: then the outcome is Unknown, unless the id
//! or the token says more. A PutItem that was lost could come to life again only if its item were
//! deleted, or deleted and made anew to the same revision, within those minutes.

use aws_sdk_dynamodb::{
    operation::{put_item::PutItemError, transact_write_items::TransactWriteItemsError},
    types::{
        CancellationReason, ConditionCheck, Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
    },
};

use super::{
    DynamoStore,
    item::{EXPIRES, MAC, Raw, SEALED, is_of, number, raw, raw_item, raw_key, raw_parts, read_item, read_revision},
    tries::{Miss, Tries, Trouble},
};
use crate::{
    domain::clock::Deadline,
    store::{Action, Condition, ItemKey, NewItem, StoreError, WriteId, Written},
};

/// An action and its place in the write.
type Placed<'a> = (usize, &'a Action);

/// How a try ended that DynamoDB decided.
enum Decided {
    Committed,
    /// The condition of the action at that place failed; the item as it is.
    Failed(usize, Option<Raw>),
}

impl DynamoStore {
    pub(super) async fn write_all(
        &self,
        id: WriteId,
        actions: &[Action],
        deadline: Deadline,
    ) -> Result<Written, StoreError> {
        // What demands nothing is none of DynamoDB's checks.
        let is_needed = |(_, action): &Placed<'_>| !matches!(action, Action::Check(_, Condition::Any));
        let needed: Vec<Placed<'_>> = actions.iter().enumerate().filter(is_needed).collect();
        match needed.as_slice() {
            [] => self.tries(deadline).check().map(|()| Written::Committed),
            [(index, Action::Check(key, condition))] => self.check(*index, key, *condition, deadline).await,
            needed => self.until_decided(id, needed, deadline).await,
        }
    }

    /// Tries until DynamoDB decides, or the deadline.
    async fn until_decided(
        &self,
        id: WriteId,
        actions: &[Placed<'_>],
        deadline: Deadline,
    ) -> Result<Written, StoreError> {
        let mut tries = self.tries(deadline);
        let mut is_in_doubt = false;
        loop {
            let trouble = match self.once(&tries, id, actions).await {
                Ok(Decided::Committed) => return Ok(Written::Committed),
                Ok(Decided::Failed(_, Some(raw))) if is_of(id, &raw) => return Ok(Written::Committed),
                Ok(Decided::Failed(..)) if is_in_doubt => return Ok(Written::Unknown),
                Ok(Decided::Failed(index, raw)) => {
                    return Ok(Written::Conflict { index, current: raw.map(read_item).transpose()? });
                }
                Err(trouble) => trouble,
            };
            is_in_doubt |= matches!(trouble, Trouble::Lost(_));
            if let Err(error) = tries.again(trouble).await {
                return if is_in_doubt { Ok(Written::Unknown) } else { Err(error) };
            }
        }
    }

    async fn check(
        &self,
        index: usize,
        key: &ItemKey,
        condition: Condition,
        deadline: Deadline,
    ) -> Result<Written, StoreError> {
        let raw = self.batch_get_raw(std::slice::from_ref(key), deadline).await?.pop().flatten();
        // An item whose revision can't be read is there, and of no revision.
        if condition.holds(raw.as_ref().map(|raw| read_revision(raw).unwrap_or(u64::MAX))) {
            return Ok(Written::Committed);
        }
        Ok(Written::Conflict { index, current: raw.map(read_item).transpose()? })
    }

    async fn once(&self, tries: &Tries<'_>, id: WriteId, actions: &[Placed<'_>]) -> Result<Decided, Trouble> {
        if let [(index, Action::Put(item, condition))] = actions
            && let Some(before) = revision_before(*condition)
        {
            return self.put_once(tries, (id, *index), item, before).await;
        }
        self.transact_once(tries, id, actions).await
    }

    async fn put_once(
        &self,
        tries: &Tries<'_>,
        (id, index): (WriteId, usize),
        item: &NewItem,
        before: u64,
    ) -> Result<Decided, Trouble> {
        let call = self
            .client
            .put_item()
            .table_name(&self.table.name)
            .set_item(Some(raw_item(id, item, before.saturating_add(1))))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let call = match before {
            0 => call.condition_expression(ABSENT),
            n => call.condition_expression(REVISION).expression_attribute_values(":n", number(n)),
        };
        match tries.once(|sent| call.customize().interceptor(sent).send()).await {
            Ok(_) => Ok(Decided::Committed),
            Err(Miss::Said(PutItemError::ConditionalCheckFailedException(failed), _)) => {
                Ok(Decided::Failed(index, failed.item.filter(|raw| !raw.is_empty())))
            }
            Err(miss) => Err(miss.into()),
        }
    }

    async fn transact_once(&self, tries: &Tries<'_>, id: WriteId, actions: &[Placed<'_>]) -> Result<Decided, Trouble> {
        let parts: Result<Vec<_>, _> = actions.iter().map(|(_, action)| self.part(id, action)).collect();
        let parts = parts.map_err(|error| Trouble::NotSent(error.into()))?;
        let call = self
            .client
            .transact_write_items()
            .set_transact_items(Some(parts))
            .client_request_token(data_encoding::HEXLOWER.encode(&id.0));
        match tries.once(|sent| call.customize().interceptor(sent).send()).await {
            Ok(_) => Ok(Decided::Committed),
            Err(Miss::Said(TransactWriteItemsError::TransactionCanceledException(canceled), _)) => {
                judge(actions, canceled.cancellation_reasons.unwrap_or_default())
            }
            Err(miss) => Err(miss.into()),
        }
    }

    /// `action` as a part of a transaction.
    fn part(&self, id: WriteId, action: &Action) -> Result<TransactWriteItem, aws_sdk_dynamodb::error::BuildError> {
        let (table, part) = (&self.table.name, TransactWriteItem::builder());
        let old = ReturnValuesOnConditionCheckFailure::AllOld;
        let (Action::Put(_, condition) | Action::Delete(_, condition) | Action::Check(_, condition)) = *action;
        let (demand, values) = demand(condition);
        Ok(match action {
            Action::Put(item, condition) => match revision_before(*condition) {
                Some(before) => {
                    let put = Put::builder().table_name(table).set_condition_expression(demand);
                    let put = put.set_expression_attribute_values(values).return_values_on_condition_check_failure(old);
                    part.put(put.set_item(Some(raw_item(id, item, before.saturating_add(1)))).build()?)
                }
                None => {
                    let update = Update::builder().table_name(table).set_key(Some(raw_key(&item.key)));
                    let update = update.set_condition_expression(demand).return_values_on_condition_check_failure(old);
                    let (expression, mut parts) = replacing(id, item);
                    parts.extend(values.into_iter().flatten());
                    part.update(
                        update.update_expression(expression).set_expression_attribute_values(Some(parts)).build()?,
                    )
                }
            },
            Action::Delete(key, _) => {
                let delete = Delete::builder().table_name(table).set_key(Some(raw_key(key)));
                let delete = delete.set_condition_expression(demand).set_expression_attribute_values(values);
                part.delete(delete.return_values_on_condition_check_failure(old).build()?)
            }
            Action::Check(key, _) => {
                let check = ConditionCheck::builder().table_name(table).set_key(Some(raw_key(key)));
                let check = check.set_condition_expression(demand).set_expression_attribute_values(values);
                part.condition_check(check.return_values_on_condition_check_failure(old).build()?)
            }
        }
        .build())
    }
}

const ABSENT: &str = "attribute_not_exists(pk)";
const PRESENT: &str = "attribute_exists(pk)";
const REVISION: &str = "rev = :n";

/// The one revision that the item must have before a put, 0 for none, where there is one.
fn revision_before(condition: Condition) -> Option<u64> {
    match condition {
        Condition::Absent => Some(0),
        // No item has revision 0, and as an update that must fail it does.
        Condition::Revision(n) => Some(n).filter(|n| *n > 0),
        Condition::Any | Condition::Present => None,
    }
}

/// The condition as DynamoDB's.
fn demand(condition: Condition) -> (Option<String>, Option<Raw>) {
    match condition {
        Condition::Any => (None, None),
        Condition::Absent => (Some(ABSENT.to_owned()), None),
        Condition::Present => (Some(PRESENT.to_owned()), None),
        Condition::Revision(n) => (Some(REVISION.to_owned()), Some(raw([(":n".to_owned(), number(n))]))),
    }
}

/// What makes the item, whatever it was, `item` at its next revision.
fn replacing(id: WriteId, item: &NewItem) -> (String, Raw) {
    let mut values = raw([(":zero".to_owned(), number(0)), (":one".to_owned(), number(1))]);
    let mut expression = "SET rev = if_not_exists(rev, :zero) + :one".to_owned();
    for (name, value) in raw_parts(id, item) {
        expression.push_str(&format!(", {name} = :{name}"));
        values.insert(format!(":{name}"), value);
    }
    let gone: Vec<_> =
        [EXPIRES, SEALED, MAC].into_iter().filter(|name| !values.contains_key(&format!(":{name}"))).collect();
    if !gone.is_empty() {
        expression.push_str(&format!(" REMOVE {}", gone.join(", ")));
    }
    (expression, values)
}

/// What the reasons say, one for each action: a condition that failed goes before everything else,
/// for it failed whatever hindered the others.
fn judge(actions: &[Placed<'_>], reasons: Vec<CancellationReason>) -> Result<Decided, Trouble> {
    let mut trouble = None;
    for ((index, _), reason) in actions.iter().zip(reasons) {
        match reason.code.as_deref().unwrap_or("None") {
            "None" => {}
            "ConditionalCheckFailed" => return Ok(Decided::Failed(*index, reason.item.filter(|raw| !raw.is_empty()))),
            "TransactionConflict" | "ThrottlingError" | "ProvisionedThroughputExceeded" => {
                trouble.get_or_insert(Trouble::Throttled);
            }
            // All else being checked before, it is the item as it stands that takes no update.
            "ValidationError" => {
                let error = "DynamoDB can't update the item as it stands";
                trouble = Some(Trouble::Refused(StoreError::Corrupt(error.into())));
            }
            code => {
                let error = format!("DynamoDB cancels the transaction: {code}");
                trouble = Some(Trouble::Refused(StoreError::Unavailable(error.into())));
            }
        }
    }
    Err(trouble.unwrap_or_else(|| Trouble::Lost("DynamoDB cancels the transaction and gives no reason".into())))
}
