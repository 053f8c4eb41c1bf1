//! The vault's own keys: sealed in the store under the KMS, opened at start, kept in memory, wiped
//! at exit. Record-MAC, signing and page-token keys of the whole vault (`SYS`), and one fingerprint
//! key for each organization (`O#org`/`FPKEY`).

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use super::sealing::Sealer;
use crate::{
    domain::{
        clock::{Clock, Deadline, Entropy, Timestamp},
        error::{Failure, Reason},
        hkdf::Derivation,
        ids::{OrgId, Uid},
        mac::{MacKey, MacRing},
        secret::{KmsKeyId, SecretKey},
    },
    envelope::{Purpose, SealContext, SealedValue},
    repository::{
        fields::{self, Fields as _},
        records::{Expected, Records, Verified},
    },
    store::{Action, ItemKey, ItemStore, NewItem},
};
use rows::{Kind, Row, State};

mod rewrap;
mod rotation;
mod rows;
#[cfg(test)]
mod tests;

/// How old the primary signing key gets before it is rotated.
pub const SIGNING_KEY_AGE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// At most one reload for unknown kids in this time, so that made-up ones cost the store nothing.
const UNKNOWN_KID_PAUSE: Duration = Duration::from_secs(1);

/// Keys derived from an organization's fingerprint key, by HKDF with a label each.
#[derive(Debug)]
pub struct OrgKeys {
    /// Fingerprints of provider keys.
    pub fingerprint: MacKey,
    /// Names and contents of idempotent requests.
    pub idempotency: MacKey,
}

/// One Ed25519 signing key of tokens.
#[derive(Debug)]
pub struct SigningKey {
    /// Its id: the JWT header's `kid`.
    pub kid: String,
    /// The 32-byte seed (RFC 8032).
    pub seed: SecretKey,
    /// The public key.
    pub public: [u8; 32],
    /// Whether new tokens are signed with it; others only verify.
    pub is_primary: bool,
}

/// Signing keys of one moment: newest first; withdrawn ones are not in it.
pub type SigningKeys = Vec<Arc<SigningKey>>;

/// One key of page tokens.
#[derive(Debug)]
pub struct PageKey {
    /// Its id, which stands in the token.
    pub kid: String,
    /// The key.
    pub key: SecretKey,
}

/// The vault's own keys.
#[derive(Debug)]
pub struct Keyring {
    records: Records,
    ring: Arc<MacRing>,
    sealer: Sealer,
    entropy: Arc<dyn Entropy>,
    clock: Arc<dyn Clock>,
    system: ArcSwap<SystemKeys>,
    /// When the rows were last read again; whoever reads or changes them holds it.
    turn: tokio::sync::Mutex<Instant>,
    orgs: RwLock<BTreeMap<OrgId, Arc<OrgKeys>>>,
}

/// What changes while the server runs.
#[derive(Debug)]
struct SystemKeys {
    signing: Arc<SigningKeys>,
    /// When the primary was made.
    signing_since: Timestamp,
    pages: Arc<Vec<PageKey>>,
}

impl Keyring {
    /// The keys of a new vault, and what the transaction that makes it must write: it is refused
    /// by a store that has a vault already.
    ///
    /// # Errors
    /// KMS_UNAVAILABLE, KMS_KEY_DISABLED, KMS_KEY_REFUSED.
    pub async fn create(
        store: Arc<dyn ItemStore>,
        sealer: Sealer,
        entropy: Arc<dyn Entropy>,
        clock: Arc<dyn Clock>,
        deadline: Deadline,
    ) -> Result<(Self, Vec<Action>), Failure> {
        let now = clock.now();
        let record = rows::new_key(&*entropy)?;
        let signing = rows::new_key(&*entropy)?;
        let page = rows::new_key(&*entropy)?;
        let ring = Arc::new(MacRing::new((record.kid.clone(), MacKey::new(&record.key)), []));
        let records = Records::new(store, Arc::clone(&ring));

        let mut actions = vec![records.put(rows::init_marker(now), Expected::Absent)];
        for (kind, key) in [(Kind::RecordMac, &record), (Kind::Signing, &signing), (Kind::Page, &page)] {
            let row = Row::seal(&sealer, kind, key, now, deadline).await?;
            actions.push(records.put(row.to_item(), Expected::Absent));
        }
        let system = SystemKeys {
            signing: Arc::new(vec![Arc::new(signing_key(signing.kid, signing.key, true)?)]),
            signing_since: now,
            pages: Arc::new(vec![PageKey { kid: page.kid, key: page.key }]),
        };
        Ok((Self::new(records, ring, sealer, entropy, clock, system), actions))
    }

    /// The keys of the vault in `store`; None when there is none yet.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, KMS_UNAVAILABLE, KMS_KEY_DISABLED, KMS_KEY_REFUSED, RECORD_REJECTED,
    /// SEALED_VALUE_REJECTED.
    pub async fn load(
        store: Arc<dyn ItemStore>,
        sealer: Sealer,
        entropy: Arc<dyn Entropy>,
        clock: Arc<dyn Clock>,
        deadline: Deadline,
    ) -> Result<Option<Self>, Failure> {
        let items = rows::read(&store, deadline).await?;
        if !items.iter().any(|item| item.key == rows::init_key()) {
            return Ok(None);
        }
        let ring = Arc::new(rows::open_record_keys(&sealer, &items, deadline).await?);
        let records = Records::new(store, Arc::clone(&ring));
        let rows = rows::verify(&records, items)?;
        let system = open_system(&sealer, &rows, None, clock.now(), deadline).await?;
        Ok(Some(Self::new(records, ring, sealer, entropy, clock, system)))
    }

    /// The ring that signs and verifies records.
    #[must_use]
    pub fn records(&self) -> Arc<MacRing> {
        Arc::clone(&self.ring)
    }
    /// The signing keys as they are now.
    #[must_use]
    pub fn signing(&self) -> Arc<SigningKeys> {
        Arc::clone(&self.system.load().signing)
    }
    /// The signing key of that id; an unknown one is looked for in the store, where another
    /// replica may have put it, though at most once a second.
    ///
    /// # Errors
    /// As [`Self::refresh`].
    pub async fn signing_key(&self, kid: &str, deadline: Deadline) -> Result<Option<Arc<SigningKey>>, Failure> {
        let known = || self.signing().iter().find(|key| key.kid == kid).map(Arc::clone);
        if let Some(key) = known() {
            return Ok(Some(key));
        }
        let mut turn = self.turn(deadline).await?;
        if known().is_none() && self.clock.instant().saturating_duration_since(*turn) >= UNKNOWN_KID_PAUSE {
            self.reload(&mut turn, deadline).await?;
        }
        Ok(known())
    }
    /// Page-token keys, newest first.
    #[must_use]
    pub fn pages(&self) -> Arc<Vec<PageKey>> {
        Arc::clone(&self.system.load().pages)
    }
    /// Reads the rows again: what other replicas rotated or withdrew, and what time withdrew.
    /// Called every minute.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, KMS_UNAVAILABLE, KMS_KEY_DISABLED, KMS_KEY_REFUSED, RECORD_REJECTED,
    /// SEALED_VALUE_REJECTED: the keys stay as they were.
    pub async fn refresh(&self, deadline: Deadline) -> Result<(), Failure> {
        let mut turn = self.turn(deadline).await?;
        self.reload(&mut turn, deadline).await.map(|_| ())
    }

    /// The organization's derived keys; opened once, then from memory.
    ///
    /// # Errors
    /// ORG_NOT_FOUND, KMS_UNAVAILABLE, STORE_UNAVAILABLE, SEALED_VALUE_REJECTED, RECORD_REJECTED.
    pub async fn org_keys(&self, org: &OrgId, deadline: Deadline) -> Result<Arc<OrgKeys>, Failure> {
        let known = self.orgs.read().unwrap_or_else(PoisonError::into_inner).get(org).map(Arc::clone);
        if let Some(keys) = known {
            return Ok(keys);
        }
        let row = self.records.get_verified(org_key_item(org), deadline).await?;
        let row = row.ok_or_else(|| Failure::new(Reason::OrgNotFound))?;
        let keys = Arc::new(self.open_org_keys(org, &row, deadline).await?);
        self.orgs.write().unwrap_or_else(PoisonError::into_inner).insert(org.clone(), Arc::clone(&keys));
        Ok(keys)
    }
    /// The put of a new organization's fingerprint key, for the transaction that makes it.
    ///
    /// # Errors
    /// KMS_UNAVAILABLE, KMS_KEY_DISABLED, KMS_KEY_REFUSED.
    pub async fn new_org_keys(
        &self,
        org: &OrgId,
        org_uid: &Uid,
        kms_key: Option<&KmsKeyId>,
        deadline: Deadline,
    ) -> Result<Action, Failure> {
        let fresh = rows::new_key(&*self.entropy)?;
        let kid = Uid::stored(&fresh.kid);
        let context = org_key_context(org, org_uid, &kid);
        let sealed = self.sealer.seal(kms_key, &context, fresh.key.expose_secret(), deadline).await?;
        let attributes = fields::Builder::new()
            .text("kid", fresh.kid)
            .text("org_uid", org_uid.as_str())
            .time("created", self.clock.now())
            .build();
        let item = NewItem { sealed: Some(sealed.to_bytes()), ..NewItem::new(org_key_item(org), attributes) };
        Ok(self.records.put(item, Expected::Absent))
    }

    fn new(
        records: Records,
        ring: Arc<MacRing>,
        sealer: Sealer,
        entropy: Arc<dyn Entropy>,
        clock: Arc<dyn Clock>,
        system: SystemKeys,
    ) -> Self {
        let turn = tokio::sync::Mutex::new(clock.instant());
        let system = ArcSwap::from_pointee(system);
        Self { records, ring, sealer, entropy, clock, system, turn, orgs: RwLock::default() }
    }
    async fn turn(&self, deadline: Deadline) -> Result<tokio::sync::MutexGuard<'_, Instant>, Failure> {
        let until = tokio::time::Instant::from_std(deadline.instant());
        tokio::time::timeout_at(until, self.turn.lock()).await.map_err(|elapsed| {
            Failure::new(Reason::StoreUnavailable).retry_after(Duration::from_secs(1)).caused_by(elapsed)
        })
    }
    async fn reload(&self, turn: &mut Instant, deadline: Deadline) -> Result<Vec<Row>, Failure> {
        *turn = self.clock.instant();
        let items = rows::read(self.records.store(), deadline).await?;
        let rows = rows::verify(&self.records, items)?;
        let known = self.system.load_full();
        let system = open_system(&self.sealer, &rows, Some(&known), self.clock.now(), deadline).await?;
        self.system.store(Arc::new(system));
        Ok(rows)
    }
    async fn open_org_keys(&self, org: &OrgId, row: &Verified, deadline: Deadline) -> Result<OrgKeys, Failure> {
        let (org_uid, kid) = (Uid::stored(row.text("org_uid")?), Uid::stored(row.text("kid")?));
        let sealed = SealedValue::from_bytes(row.sealed()?)?;
        let opened = self.sealer.open(&sealed, &org_key_context(org, &org_uid, &kid), deadline).await?;
        let derivation = Derivation::new(b"ibyok organization keys 1", opened.expose_secret());
        let derive = |label| derivation.key(label).map(|key| MacKey::new(&key)).map_err(internal);
        Ok(OrgKeys { fingerprint: derive(b"fingerprint")?, idempotency: derive(b"idempotency")? })
    }
}

fn org_key_item(org: &OrgId) -> ItemKey {
    ItemKey::new(format!("O#{org}"), ORG_KEY_SORT)
}

const ORG_KEY_SORT: &str = "FPKEY";

fn org_key_context<'a>(org: &'a OrgId, org_uid: &'a Uid, kid: &'a Uid) -> SealContext<'a> {
    SealContext {
        purpose: Purpose::Service,
        org_uid,
        resource_uid: kid,
        version: 1,
        org,
        resource: ORG_KEY_SORT,
        provider: "",
    }
}

/// Opens what `known` doesn't hold yet of the signing and page keys in `rows`.
async fn open_system(
    sealer: &Sealer,
    rows: &[Row],
    known: Option<&SystemKeys>,
    now: Timestamp,
    deadline: Deadline,
) -> Result<SystemKeys, Failure> {
    let primary = rows::primary(rows)?;
    let mut signing = Vec::new();
    for row in rows.iter().filter(|row| row.kind == Kind::Signing && row.is_good(now)) {
        let is_primary = row.kid == primary.kid;
        let known = known.and_then(|known| known.signing.iter().find(|key| key.kid == row.kid));
        signing.push(match known {
            Some(key) if key.is_primary == is_primary => Arc::clone(key),
            Some(key) => Arc::new(signing_key(row.kid.clone(), copy(&key.seed), is_primary)?),
            None => Arc::new(signing_key(row.kid.clone(), row.open(sealer, deadline).await?, is_primary)?),
        });
    }
    let mut pages = Vec::new();
    for row in rows.iter().filter(|row| row.kind == Kind::Page && row.state != State::Withdrawn) {
        let known = known.and_then(|known| known.pages.iter().find(|key| key.kid == row.kid));
        let key = match known {
            Some(known) => copy(&known.key),
            None => row.open(sealer, deadline).await?,
        };
        pages.push(PageKey { kid: row.kid.clone(), key });
    }
    Ok(SystemKeys { signing: Arc::new(signing), signing_since: primary.created, pages: Arc::new(pages) })
}

fn copy(key: &SecretKey) -> SecretKey {
    let mut copy = SecretKey::new([0; 32]);
    copy.expose_secret_mut().copy_from_slice(key.expose_secret());
    copy
}

fn signing_key(kid: String, seed: SecretKey, is_primary: bool) -> Result<SigningKey, Failure> {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose_secret()).map_err(internal)?;
    let public = pair.public_key().as_ref().try_into().map_err(internal)?;
    Ok(SigningKey { kid, seed, public, is_primary })
}

fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new(Reason::Internal).caused_by(error)
}
