//! The rows of the partition `SYS`: the marker of an initialized store, and the vault's own keys,
//! each sealed for its place and with a MAC.
//!
//! `RECMAC#kid` is opened before its MAC can be looked at: the seal alone vouches for it until
//! then. Every row, these too, is verified under the ring that they make.

use std::sync::Arc;

use crate::{
    domain::{
        clock::{Deadline, Entropy, Timestamp},
        error::{Failure, Reason},
        ids::{OrgId, Uid},
        mac::{MacKey, MacRing},
        secret::SecretKey,
    },
    envelope::{Purpose, SealContext, SealedValue},
    repository::{
        fields::{self, Fields as _},
        records::{Records, Verified},
    },
    service::sealing::Sealer,
    store::{Item, ItemKey, ItemStore, NewItem, Order, Query, SortRange},
};

const PARTITION: &str = "SYS";
const INIT: &str = "INIT";

/// What a key of the vault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    RecordMac,
    Signing,
    Page,
}

impl Kind {
    const ALL: [Self; 3] = [Self::RecordMac, Self::Signing, Self::Page];

    fn sort(self, kid: &str) -> String {
        format!("{}{kid}", self.prefix())
    }
    fn prefix(self) -> &'static str {
        match self {
            Self::RecordMac => "RECMAC#",
            Self::Signing => "SIGN#",
            Self::Page => "PAGE#",
        }
    }
    /// Kind and kid of a row; None for the marker and for what a later version keeps here.
    fn of(sort: &str) -> Option<(Self, &str)> {
        Self::ALL.into_iter().find_map(|kind| Some((kind, sort.strip_prefix(kind.prefix())?)))
    }
}

/// Where a key stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Signs or seals, and verifies or opens.
    Primary,
    /// Only verifies or opens, until its withdraw time.
    Verifying,
    /// Nothing any more; its sealed value is gone.
    Withdrawn,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Verifying => "verifying",
            Self::Withdrawn => "withdrawn",
        }
    }
    fn from_text(text: &str) -> Option<Self> {
        [Self::Primary, Self::Verifying, Self::Withdrawn].into_iter().find(|state| state.as_str() == text)
    }
}

/// A key that no row holds yet.
pub(super) struct FreshKey {
    pub(super) kid: String,
    pub(super) key: SecretKey,
}

pub(super) fn new_key(entropy: &dyn Entropy) -> Result<FreshKey, Failure> {
    let kid = Uid::random(entropy).map_err(super::internal)?.to_string();
    Ok(FreshKey { kid, key: SecretKey::random(entropy).map_err(super::internal)? })
}

/// One key's row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) kind: Kind,
    pub(super) kid: String,
    pub(super) state: State,
    pub(super) created: Timestamp,
    /// When a verifying key stops to verify.
    pub(super) withdraw_time: Option<Timestamp>,
    /// None once withdrawn.
    pub(super) sealed: Option<Vec<u8>>,
    /// 0 before it is written.
    pub(super) revision: u64,
}

impl Row {
    /// A primary of that kind.
    pub(super) async fn seal(
        sealer: &Sealer,
        kind: Kind,
        fresh: &FreshKey,
        created: Timestamp,
        deadline: Deadline,
    ) -> Result<Self, Failure> {
        let place = Place::new(kind, &fresh.kid);
        let sealed = sealer.seal(None, &place.context(), fresh.key.expose_secret(), deadline).await?.to_bytes();
        let (kid, state) = (fresh.kid.clone(), State::Primary);
        Ok(Self { kind, kid, state, created, withdraw_time: None, sealed: Some(sealed), revision: 0 })
    }
    pub(super) async fn open(&self, sealer: &Sealer, deadline: Deadline) -> Result<SecretKey, Failure> {
        let sealed = self.sealed.as_deref().ok_or_else(|| fields::rejected("sealed"))?;
        open(sealer, self.kind, &self.kid, sealed, deadline).await
    }
    /// Whether it verifies or opens at `now`.
    pub(super) fn is_good(&self, now: Timestamp) -> bool {
        match self.state {
            State::Primary => true,
            State::Verifying => self.withdraw_time.is_some_and(|time| now < time),
            State::Withdrawn => false,
        }
    }
    pub(super) fn to_item(&self) -> NewItem {
        let attributes = fields::Builder::new()
            .text("state", self.state.as_str())
            .time("created", self.created)
            .opt_time("withdraw_time", self.withdraw_time)
            .build();
        let key = ItemKey::new(PARTITION, self.kind.sort(&self.kid));
        NewItem { sealed: self.sealed.clone(), ..NewItem::new(key, attributes) }
    }
    fn decode(kind: Kind, kid: &str, verified: &Verified) -> Result<Self, Failure> {
        Ok(Self {
            kind,
            kid: kid.to_owned(),
            state: State::from_text(verified.text("state")?).ok_or_else(|| fields::rejected("state"))?,
            created: verified.time("created")?,
            withdraw_time: verified.opt_time("withdraw_time")?,
            sealed: verified.item().sealed.clone(),
            revision: verified.revision(),
        })
    }
}

pub(super) fn init_key() -> ItemKey {
    ItemKey::new(PARTITION, INIT)
}

pub(super) fn init_marker(now: Timestamp) -> NewItem {
    NewItem::new(init_key(), fields::Builder::new().int("format", 1).time("created", now).build())
}

/// Every row, not looked at yet.
pub(super) async fn read(store: &Arc<dyn ItemStore>, deadline: Deadline) -> Result<Vec<Item>, Failure> {
    let mut items = Vec::new();
    let mut after = None;
    loop {
        let (partition, range, order) = (PARTITION.to_owned(), SortRange::All, Order::Ascending);
        let page = store.query(Query { partition, range, order, limit: 100, after }, deadline).await?;
        items.extend(page.items);
        after = page.next;
        if after.is_none() {
            return Ok(items);
        }
    }
}

/// The ring of the record keys in `items`: the newest signs.
pub(super) async fn open_record_keys(sealer: &Sealer, items: &[Item], deadline: Deadline) -> Result<MacRing, Failure> {
    let mut keys = Vec::new();
    for item in items {
        let Some((Kind::RecordMac, kid)) = Kind::of(&item.key.sort) else { continue };
        let sealed = item.sealed.as_deref().ok_or_else(|| fields::rejected("sealed"))?;
        let key = open(sealer, Kind::RecordMac, kid, sealed, deadline).await?;
        keys.push((item.attributes.time("created")?, kid.to_owned(), MacKey::new(&key)));
    }
    keys.sort_by_key(|(created, ..)| *created);
    let (_, kid, key) = keys.pop().ok_or_else(|| missing("there is no record-MAC key"))?;
    Ok(MacRing::new((kid, key), keys.into_iter().map(|(_, kid, key)| (kid, key))))
}

/// The rows of keys, newest first, once every MAC held.
pub(super) fn verify(records: &Records, items: Vec<Item>) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for item in items {
        let verified = records.verify(item)?;
        if let Some((kind, kid)) = Kind::of(&verified.item().key.sort) {
            rows.push(Row::decode(kind, kid, &verified)?);
        }
    }
    rows.sort_by(|one, other| other.created.cmp(&one.created).then_with(|| other.kid.cmp(&one.kid)));
    Ok(rows)
}

/// The signing key that signs: of several, the newest, since a row put back by hand is an old one.
pub(super) fn primary(rows: &[Row]) -> Result<&Row, Failure> {
    let found = rows.iter().find(|row| row.kind == Kind::Signing && row.state == State::Primary);
    found.ok_or_else(|| missing("there is no primary signing key"))
}

/// Where a key is sealed for: a row's value moved to another row, or kind of row, does not open.
pub(super) struct Place {
    org: OrgId,
    org_uid: Uid,
    kid: Uid,
    sort: String,
}

impl Place {
    fn new(kind: Kind, kid: &str) -> Self {
        let org = OrgId::system();
        Self { org_uid: Uid::stored(org.as_str()), org, kid: Uid::stored(kid), sort: kind.sort(kid) }
    }
    /// That of the row of this sort key; None for one that holds no key.
    pub(super) fn of(sort: &str) -> Option<Self> {
        Kind::of(sort).map(|(kind, kid)| Self::new(kind, kid))
    }
    pub(super) fn context(&self) -> SealContext<'_> {
        SealContext {
            purpose: Purpose::Service,
            org_uid: &self.org_uid,
            resource_uid: &self.kid,
            version: 1,
            org: &self.org,
            resource: &self.sort,
            provider: "",
        }
    }
}

async fn open(sealer: &Sealer, kind: Kind, kid: &str, sealed: &[u8], deadline: Deadline) -> Result<SecretKey, Failure> {
    let sealed = SealedValue::from_bytes(sealed)?;
    let opened = sealer.open(&sealed, &Place::new(kind, kid).context(), deadline).await?;
    SecretKey::from_slice(opened.expose_secret()).ok_or_else(|| Failure::new(Reason::SealedValueRejected))
}

fn missing(why: &'static str) -> Failure {
    Failure::new(Reason::RecordRejected).caused_by(why)
}
