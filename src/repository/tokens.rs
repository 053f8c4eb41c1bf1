//! Tokens, subjects and epochs: the records that each call is admitted on, the tokens' listing, and
//! the count of uses.

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;

use super::{
    fields::{Builder, Fields as _, rejected},
    grants,
    records::{Expected, Records, Verified},
};
use crate::{
    domain::{
        clock::{Deadline, Timestamp},
        error::{Failure, Reason},
        ids::{OrgId, Subject, TokenId},
        token::{Confirmation, Epoch, SubjectRecord, TokenMode, TokenRecord},
    },
    store::{Action, Condition, Item, ItemKey, NewItem, Order, Query, SortRange},
};

#[cfg(test)]
mod tests;

/// How long the records of a token stay after its last possible expiry, for listings.
const KEPT_AFTER: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);
/// The copies of an organization's epoch.
const EPOCH_COPIES: &str = "0123456789abcdef";

fn sha256_hex(text: &str) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}
fn partition(org: &OrgId, hash: &str) -> String {
    ["O#", org.as_str(), "#T#", hash].concat()
}
/// The copy of the epoch that a token of this hash looks at.
fn epoch_copy(org: &OrgId, hash: &str) -> ItemKey {
    ItemKey::new(["O#", org.as_str(), "#E#", hash.get(..1).unwrap_or_default()].concat(), "EPOCH")
}
fn listing(org: &OrgId) -> String {
    format!("O#{org}#TOKENS")
}

/// Where the record of `token` lives.
#[must_use]
pub fn item_key(org: &OrgId, token: &TokenId) -> ItemKey {
    ItemKey::new(partition(org, &sha256_hex(token.as_str())), "META")
}
/// Where the uses of `token` are counted, where it has uses_max.
#[must_use]
pub fn uses_key(org: &OrgId, token: &TokenId) -> ItemKey {
    ItemKey::new(partition(org, &sha256_hex(token.as_str())), "USES")
}
/// Where the record of `subject` lives.
#[must_use]
pub fn subject_key(org: &OrgId, subject: &Subject) -> ItemKey {
    ItemKey::new(["O#", org.as_str(), "#S#", &sha256_hex(subject.as_str())].concat(), "SUBJ")
}
/// Where the copy of `org`'s epoch lives that `token` looks at: chosen by the token's hash, so
/// that one partition does not carry every call of the organization.
#[must_use]
pub fn epoch_key(org: &OrgId, token: &TokenId) -> ItemKey {
    epoch_copy(org, &sha256_hex(token.as_str()))
}
/// [`item_key`] and [`epoch_key`] at once: every call needs both.
#[must_use]
pub fn item_and_epoch_keys(org: &OrgId, token: &TokenId) -> [ItemKey; 2] {
    let hash = sha256_hex(token.as_str());
    [ItemKey::new(partition(org, &hash), "META"), epoch_copy(org, &hash)]
}
/// Where all copies of `org`'s epoch live.
#[must_use]
pub fn epoch_keys(org: &OrgId) -> Vec<ItemKey> {
    EPOCH_COPIES.chars().map(|copy| ItemKey::new(format!("O#{org}#E#{copy}"), "EPOCH")).collect()
}

/// The token in `item`.
///
/// # Errors
/// RECORD_REJECTED when it is not one of ours.
pub fn decode(item: &Verified) -> Result<TokenRecord, Failure> {
    let org = parsed("org", OrgId::parse("org", item.text("org")?))?;
    let parent = item.opt_text("parent")?.map(|id| parsed("parent", TokenId::parse("parent", id)));
    Ok(TokenRecord {
        id: parsed("id", TokenId::parse("id", item.text("id")?))?,
        subject: parsed("subject", Subject::parse("subject", item.text("subject")?))?,
        description: item.text("description")?.to_owned(),
        grants: grants::decode(&item.maps("grants")?, &org)?.into(),
        mode: TokenMode::from_text(item.text("mode")?).ok_or_else(|| rejected("mode"))?,
        confirmation: match item.opt_bytes("certificate")? {
            Some(_) => Confirmation::Certificate(item.array("certificate")?),
            None => Confirmation::Identity(item.text("identity")?.to_owned()),
        },
        created: item.time("created")?,
        expires: item.time("expires")?,
        max_expires: item.time("max_expires")?,
        issued_by: item.text("issued_by")?.to_owned(),
        signing_keys: item.texts("signing_keys")?,
        org_generation: item.number("org_generation")?,
        subject_generation: item.number("subject_generation")?,
        parent: parent.transpose()?,
        uses_max: item.opt_number("uses_max")?,
        revoked: item.opt_time("revoked")?,
        revision: item.revision(),
        org,
    })
}

fn parsed<T, E>(name: &'static str, parsed: Result<T, E>) -> Result<T, Failure> {
    parsed.map_err(|_| rejected(name))
}

/// The puts of a token's record and its listing row.
#[must_use]
pub fn put(records: &Records, token: &TokenRecord, expected: Expected) -> [Action; 2] {
    let (certificate, identity) = match &token.confirmation {
        Confirmation::Certificate(sha256) => (Some(*sha256), None),
        Confirmation::Identity(identity) => (None, Some(identity.as_str())),
    };
    let fields = Builder::new()
        .text("org", token.org.as_str())
        .text("id", token.id.as_str())
        .text("subject", token.subject.as_str())
        .text("description", token.description.as_str())
        .maps("grants", grants::encode(&token.grants))
        .text("mode", token.mode.as_str())
        .opt_bytes("certificate", certificate)
        .opt_text("identity", identity)
        .time("created", token.created)
        .time("expires", token.expires)
        .time("max_expires", token.max_expires)
        .text("issued_by", token.issued_by.as_str())
        .texts("signing_keys", token.signing_keys.iter().map(String::as_str))
        .count("org_generation", token.org_generation)
        .count("subject_generation", token.subject_generation)
        .opt_text("parent", token.parent.as_ref().map(TokenId::as_str));
    let fields = match token.uses_max {
        Some(uses_max) => fields.count("uses_max", uses_max),
        None => fields,
    };
    let item = NewItem::new(item_key(&token.org, &token.id), fields.opt_time("revoked", token.revoked).build());
    [records.put(NewItem { expires: Some(swept(token)), ..item }, expected), put_row(token)]
}

fn swept(token: &TokenRecord) -> Timestamp {
    Timestamp::from_seconds(token.max_expires.plus(KEPT_AFTER).seconds())
}

fn put_row(token: &TokenRecord) -> Action {
    let fields = Builder::new()
        .text("subject", token.subject.as_str())
        .time("created", token.created)
        .time("expires", token.expires)
        .count("org_generation", token.org_generation)
        .count("subject_generation", token.subject_generation)
        .opt_time("revoked", token.revoked);
    let item = NewItem::new(ItemKey::new(listing(&token.org), token.id.as_str()), fields.build());
    Action::Put(NewItem { expires: Some(swept(token)), ..item }, Condition::Any)
}

/// A listing row: enough to filter and to count by. It carries no MAC, so nothing is decided by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// The token.
    pub id: TokenId,
    /// As in its record.
    pub subject: String,
    /// As in its record.
    pub created: Timestamp,
    /// As in its record.
    pub expires: Timestamp,
    /// As in its record.
    pub org_generation: u64,
    /// As in its record.
    pub subject_generation: u64,
    /// As in its record.
    pub revoked: Option<Timestamp>,
}

fn decode_row(row: &Item) -> Result<TokenRow, Failure> {
    let fields = &row.attributes;
    Ok(TokenRow {
        id: parsed("id", TokenId::parse("id", &row.key.sort))?,
        subject: fields.text("subject")?.to_owned(),
        created: fields.time("created")?,
        expires: fields.time("expires")?,
        org_generation: fields.number("org_generation")?,
        subject_generation: fields.number("subject_generation")?,
        revoked: fields.opt_time("revoked")?,
    })
}

/// At most `limit` rows of `org`'s tokens after that one, and where to go on. A row that can't be
/// read is left out.
///
/// # Errors
/// STORE_UNAVAILABLE.
pub async fn rows(
    records: &Records,
    org: &OrgId,
    after: Option<String>,
    limit: usize,
    deadline: Deadline,
) -> Result<(Vec<TokenRow>, Option<String>), Failure> {
    let query = Query { partition: listing(org), range: SortRange::All, order: Order::Ascending, limit, after };
    let page = records.query(query, deadline).await?;
    Ok((page.items.iter().filter_map(|row| decode_row(row).ok()).collect(), page.next))
}

/// The subject in `item`.
///
/// # Errors
/// RECORD_REJECTED when it is not one of ours.
pub fn decode_subject(item: &Verified) -> Result<SubjectRecord, Failure> {
    Ok(SubjectRecord {
        generation: item.number("generation")?,
        revoked: item.opt_time("revoked")?,
        revision: item.revision(),
    })
}

/// The put of a subject's record.
#[must_use]
pub fn put_subject(
    records: &Records,
    org: &OrgId,
    subject: &Subject,
    record: &SubjectRecord,
    expected: Expected,
) -> Action {
    let fields = Builder::new()
        .text("subject", subject.as_str())
        .count("generation", record.generation)
        .opt_time("revoked", record.revoked);
    records.put(NewItem::new(subject_key(org, subject), fields.build()), expected)
}

/// The epoch in `item`.
///
/// # Errors
/// RECORD_REJECTED when it is not one of ours.
pub fn decode_epoch(item: &Verified) -> Result<Epoch, Failure> {
    Ok(Epoch {
        generation: item.number("generation")?,
        issued_before: item.time("issued_before")?,
        revoked: item.opt_time("revoked")?,
        revision: item.revision(),
    })
}

/// The put of one copy of an epoch.
#[must_use]
pub fn put_epoch(records: &Records, key: ItemKey, epoch: &Epoch, expected: Expected) -> Action {
    let fields = Builder::new()
        .count("generation", epoch.generation)
        .time("issued_before", epoch.issued_before)
        .opt_time("revoked", epoch.revoked);
    records.put(NewItem::new(key, fields.build()), expected)
}

/// The puts of all copies of a new organization's epoch.
#[must_use]
pub fn new_epoch(records: &Records, org: &OrgId) -> Vec<Action> {
    let first = Epoch { generation: 1, issued_before: Timestamp::default(), revoked: None, revision: 0 };
    epoch_keys(org).into_iter().map(|key| put_epoch(records, key, &first, Expected::Absent)).collect()
}

/// How often a token with uses_max has been used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uses {
    key: ItemKey,
    expires: Option<Timestamp>,
    /// How often.
    pub count: u64,
    /// How often it may be.
    pub max: u64,
    /// The item's revision.
    pub revision: u64,
}

impl Uses {
    /// As they are once the put of [`spend`] is committed.
    #[must_use]
    pub fn spent(self) -> Self {
        Self { count: self.count.saturating_add(1), revision: self.revision.saturating_add(1), ..self }
    }
}

/// The uses of `token` in the item at [`uses_key`]; None where it has no uses_max.
///
/// # Errors
/// RECORD_REJECTED when it should be there and is not, or is not one of ours.
pub fn decode_uses(token: &TokenRecord, item: Option<&Verified>) -> Result<Option<Uses>, Failure> {
    let Some(max) = token.uses_max else { return Ok(None) };
    let item = item.ok_or_else(|| rejected("count"))?;
    let Item { key, expires, revision, .. } = item.item();
    Ok(Some(Uses { key: key.clone(), expires: *expires, count: item.number("count")?, max, revision: *revision }))
}

/// The put of a new token's count of uses.
#[must_use]
pub fn new_uses(records: &Records, token: &TokenRecord) -> Option<Action> {
    token.uses_max?;
    let item = NewItem::new(uses_key(&token.org, &token.id), Builder::new().count("count", 0).build());
    Some(records.put(NewItem { expires: Some(swept(token)), ..item }, Expected::Absent))
}

/// The put that counts one more use: it goes into the transaction of the release's own record. On
/// its conflict, read again ([`read_uses`]) and retry.
///
/// # Errors
/// TOKEN_USED_UP.
pub fn spend(records: &Records, uses: &Uses) -> Result<Action, Failure> {
    if uses.count >= uses.max {
        return Err(Reason::TokenUsedUp.into());
    }
    let item = NewItem::new(uses.key.clone(), Builder::new().count("count", uses.count + 1).build());
    Ok(records.put(NewItem { expires: uses.expires, ..item }, Expected::Revision(uses.revision)))
}

/// The uses of `token` as they are now; None where it has no uses_max.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn read_uses(
    records: &Records,
    org: &OrgId,
    token: &TokenRecord,
    deadline: Deadline,
) -> Result<Option<Uses>, Failure> {
    if token.uses_max.is_none() {
        return Ok(None);
    }
    let item = records.get_verified(uses_key(org, &token.id), deadline).await?;
    decode_uses(token, item.as_ref())
}
