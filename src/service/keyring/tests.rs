use super::*;
use crate::{
    domain::clock::SystemEntropy,
    kms::fake::{FakeKms, Fault},
    service::testing::{self, TestClock, find, in_time, write},
    store::{Condition, Item, Written, fake::MemoryStore},
};

/// One vault's store and KMS, from which any number of replicas load.
struct Vault {
    store: MemoryStore,
    kms: FakeKms,
    clock: Arc<TestClock>,
}

impl Vault {
    fn empty() -> Self {
        Self { store: testing::store(), kms: FakeKms::new(), clock: TestClock::new() }
    }
    async fn new() -> (Self, Keyring) {
        let vault = Self::empty();
        let (keyring, actions) = vault.create().await.unwrap();
        assert_eq!(write(&vault.store, actions).await, Written::Committed);
        (vault, keyring)
    }
    fn sealer(&self) -> Sealer {
        Sealer::new(Arc::new(self.kms.clone()), Arc::new(SystemEntropy))
    }
    async fn create(&self) -> Result<(Keyring, Vec<Action>), Failure> {
        let (store, clock) = (Arc::new(self.store.clone()), Arc::<TestClock>::clone(&self.clock));
        Keyring::create(store, self.sealer(), Arc::new(SystemEntropy), clock, in_time()).await
    }
    async fn load(&self) -> Result<Option<Keyring>, Failure> {
        let (store, clock) = (Arc::new(self.store.clone()), Arc::<TestClock>::clone(&self.clock));
        Keyring::load(store, self.sealer(), Arc::new(SystemEntropy), clock, in_time()).await
    }
    async fn load_refused(&self) -> Reason {
        self.load().await.unwrap_err().reason
    }
    /// Puts a signing key there, as another replica does.
    async fn add_signing_key(&self, keyring: &Keyring, state: State, withdraw_time: Option<Timestamp>) -> String {
        let fresh = rows::new_key(&SystemEntropy).unwrap();
        let row = Row::seal(&self.sealer(), Kind::Signing, &fresh, self.clock.now(), in_time()).await.unwrap();
        let row = Row { state, withdraw_time, ..row };
        write(&self.store, vec![keyring.records.put(row.to_item(), Expected::Absent)]).await;
        fresh.kid
    }
}

fn org(id: &str) -> OrgId {
    OrgId::parse("org", id).unwrap()
}

fn as_new(item: Item) -> NewItem {
    NewItem { key: item.key, expires: item.expires, sealed: item.sealed, mac: item.mac, attributes: item.attributes }
}

fn kids(keyring: &Keyring) -> Vec<(String, bool)> {
    keyring.signing().iter().map(|key| (key.kid.clone(), key.is_primary)).collect()
}

#[tokio::test]
async fn what_was_made_is_found_at_the_next_start() {
    let (vault, made) = Vault::new().await;
    let found = vault.load().await.unwrap().unwrap();
    assert_eq!(kids(&found), kids(&made));
    let (made_key, found_key) = (&made.signing()[0], &found.signing()[0]);
    assert_eq!(found_key.seed.expose_secret(), made_key.seed.expose_secret());
    assert_eq!(found_key.public, made_key.public);
    assert_eq!(found.pages()[0].key.expose_secret(), made.pages()[0].key.expose_secret());
    let tag = |keyring: &Keyring| keyring.records().primary().map(|(kid, key)| (kid.to_owned(), key.tag([&b"x"[..]])));
    assert_eq!(tag(&found), tag(&made));
}

#[tokio::test]
async fn an_empty_store_has_no_keys_and_an_initialized_one_takes_no_second_vault() {
    let vault = Vault::empty();
    assert!(vault.load().await.unwrap().is_none());
    let (_, first) = vault.create().await.unwrap();
    let (_, second) = vault.create().await.unwrap();
    assert_eq!(write(&vault.store, first).await, Written::Committed);
    assert!(matches!(write(&vault.store, second).await, Written::Conflict { index: 0, current: Some(_) }));
}

#[tokio::test]
async fn nothing_of_a_key_is_in_the_store_or_in_debug_texts() {
    let (vault, keyring) = Vault::new().await;
    let shown = format!("{keyring:?}");
    for key in [&keyring.signing()[0].seed, &keyring.pages()[0].key] {
        assert!(!shown.contains(&format!("{:?}", key.expose_secret())));
        for item in vault.store.dump() {
            assert!(item.mac.is_some());
            let bytes =
                [item.sealed.clone().unwrap_or_default(), format!("{:?}", item.attributes).into_bytes()].concat();
            assert!(!bytes.windows(32).any(|part| part == key.expose_secret()));
        }
    }
}

#[tokio::test]
async fn the_public_key_verifies_what_the_seed_signs() {
    use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
    let (_, keyring) = Vault::new().await;
    let key = &keyring.signing()[0];
    let signature = Ed25519KeyPair::from_seed_unchecked(key.seed.expose_secret()).unwrap().sign(b"message");
    UnparsedPublicKey::new(&ED25519, key.public).verify(b"message", signature.as_ref()).unwrap();
}

#[tokio::test]
async fn every_changed_row_is_refused() {
    for sort in ["INIT", "RECMAC#", "SIGN#", "PAGE#"] {
        let (vault, _) = Vault::new().await;
        let good = find(&vault.store, sort);
        let mut later = good.clone();
        later.attributes.insert("created".to_owned(), crate::store::Value::Int(i64::MAX));
        for bad in [Item { revision: 2, ..good.clone() }, Item { mac: None, ..good.clone() }, later] {
            vault.store.tamper(bad);
            assert_eq!(vault.load_refused().await, Reason::RecordRejected, "{sort}");
        }
        vault.store.tamper(good);
        vault.load().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_store_without_its_record_or_signing_key_is_refused() {
    for sort in ["RECMAC#", "SIGN#"] {
        let (vault, _) = Vault::new().await;
        write(&vault.store, vec![Action::Delete(find(&vault.store, sort).key, Condition::Any)]).await;
        assert_eq!(vault.load_refused().await, Reason::RecordRejected, "{sort}");
    }
}

#[tokio::test]
async fn a_value_moved_to_another_row_does_not_open_even_with_a_good_mac() {
    for (from, to) in [("SIGN#", "PAGE#"), ("PAGE#", "SIGN#"), ("PAGE#", "RECMAC#")] {
        let (vault, keyring) = Vault::new().await;
        let target = find(&vault.store, to);
        let moved = NewItem { sealed: find(&vault.store, from).sealed, ..as_new(target) };
        write(&vault.store, vec![keyring.records.put(moved, Expected::Revision(1))]).await;
        assert_eq!(vault.load_refused().await, Reason::SealedValueRejected, "{from} to {to}");
    }
}

#[tokio::test]
async fn a_kms_that_fails_is_said_so() {
    let (vault, _) = Vault::new().await;
    vault.kms.fail(Some(Fault::Unavailable));
    assert_eq!(vault.load_refused().await, Reason::KmsUnavailable);
    assert_eq!(vault.create().await.unwrap_err().reason, Reason::KmsUnavailable);
    vault.kms.fail(None);
    vault.kms.disable(&KmsKeyId(FakeKms::PRIMARY.to_owned()));
    assert_eq!(vault.load_refused().await, Reason::KmsKeyDisabled);
}

#[tokio::test]
async fn another_replicas_key_is_found_by_refresh_and_only_it_is_opened() {
    let (vault, first) = Vault::new().await;
    let second = vault.load().await.unwrap().unwrap();
    vault.clock.advance(Duration::from_secs(1));
    let kid = vault.add_signing_key(&first, State::Primary, None).await;
    let before = vault.kms.calls().unwrap;
    second.refresh(in_time()).await.unwrap();
    assert_eq!(vault.kms.calls().unwrap, before + 1);
    let old = first.signing()[0].kid.clone();
    assert_eq!(kids(&second), [(kid, true), (old, false)]);
}

#[tokio::test]
async fn an_unknown_kid_is_looked_for_at_most_once_a_second() {
    let (vault, keyring) = Vault::new().await;
    vault.clock.advance(UNKNOWN_KID_PAUSE);
    assert!(keyring.signing_key("made-up", in_time()).await.unwrap().is_none());
    let queries = || vault.store.faults().reads();
    let before = queries();
    let kid = vault.add_signing_key(&keyring, State::Primary, None).await;
    assert!(keyring.signing_key(&kid, in_time()).await.unwrap().is_none());
    assert_eq!(queries(), before, "within the second");
    vault.clock.advance(UNKNOWN_KID_PAUSE);
    assert_eq!(keyring.signing_key(&kid, in_time()).await.unwrap().unwrap().kid, kid);
    let after = queries();
    assert!(after > before);
    assert!(keyring.signing_key(&kid, in_time()).await.unwrap().is_some());
    assert_eq!(queries(), after, "known by now");
}

#[tokio::test]
async fn a_verifying_key_verifies_until_its_time_and_a_withdrawn_one_not_at_all() {
    let (vault, keyring) = Vault::new().await;
    let primary = keyring.signing()[0].kid.clone();
    let until = vault.clock.now().plus(Duration::from_secs(60));
    let verifying = vault.add_signing_key(&keyring, State::Verifying, Some(until)).await;
    vault.add_signing_key(&keyring, State::Withdrawn, None).await;
    vault.add_signing_key(&keyring, State::Verifying, None).await;
    let found = async || {
        keyring.refresh(in_time()).await.unwrap();
        let mut found: Vec<_> = kids(&keyring);
        found.sort_by_key(|(_, is_primary)| !is_primary);
        found
    };
    assert_eq!(found().await, [(primary.clone(), true), (verifying, false)]);
    vault.clock.advance(Duration::from_secs(60));
    assert_eq!(found().await, [(primary, true)]);
}

#[tokio::test]
async fn keys_stay_as_they_were_when_a_refresh_fails() {
    let (vault, keyring) = Vault::new().await;
    let row = find(&vault.store, "SIGN#");
    vault.store.tamper(Item { mac: None, ..row });
    assert_eq!(keyring.refresh(in_time()).await.unwrap_err().reason, Reason::RecordRejected);
    assert_eq!(kids(&keyring).len(), 1);
}

#[tokio::test]
async fn rotation_is_due_after_thirty_days() {
    let (vault, keyring) = Vault::new().await;
    let made = vault.clock.now();
    assert!(!keyring.is_rotation_due(made));
    assert!(!keyring.is_rotation_due(made.plus(SIGNING_KEY_AGE_MAX - Duration::from_micros(1))));
    assert!(keyring.is_rotation_due(made.plus(SIGNING_KEY_AGE_MAX)));
}

#[tokio::test]
async fn an_organizations_keys_are_opened_once_and_its_own() {
    let (vault, keyring) = Vault::new().await;
    let (acme, other) = (org("acme"), org("other"));
    assert_eq!(keyring.org_keys(&acme, in_time()).await.unwrap_err().reason, Reason::OrgNotFound);
    for org in [&acme, &other] {
        let put = keyring.new_org_keys(org, &Uid::stored("uid"), None, in_time()).await.unwrap();
        assert_eq!(write(&vault.store, vec![put]).await, Written::Committed);
    }
    let again = keyring.new_org_keys(&acme, &Uid::stored("uid"), None, in_time()).await.unwrap();
    assert!(matches!(write(&vault.store, vec![again]).await, Written::Conflict { .. }));

    let before = vault.kms.calls().unwrap;
    let tag = |keys: &OrgKeys| (keys.fingerprint.tag([&b"x"[..]]), keys.idempotency.tag([&b"x"[..]]));
    let first = tag(&keyring.org_keys(&acme, in_time()).await.unwrap());
    assert_eq!(tag(&keyring.org_keys(&acme, in_time()).await.unwrap()), first);
    assert_eq!(vault.kms.calls().unwrap, before + 1);
    assert_ne!(first.0, first.1);
    let elsewhere = tag(&keyring.org_keys(&other, in_time()).await.unwrap());
    assert!(elsewhere.0 != first.0 && elsewhere.1 != first.1);
    let restarted = vault.load().await.unwrap().unwrap();
    assert_eq!(tag(&restarted.org_keys(&acme, in_time()).await.unwrap()), first);
}

#[tokio::test]
async fn an_organizations_key_under_its_own_kms_key_names_it() {
    let (_, keyring) = Vault::new().await;
    let kms_key = KmsKeyId(FakeKms::OTHER.to_owned());
    let put = keyring.new_org_keys(&org("acme"), &Uid::stored("uid"), Some(&kms_key), in_time()).await.unwrap();
    let Action::Put(item, _) = put else { panic!("a put") };
    assert_eq!(SealedValue::from_bytes(item.sealed.as_deref().unwrap()).unwrap().wrapped.kms_key_id, kms_key);
}

#[tokio::test]
async fn an_organizations_key_moved_to_another_is_refused() {
    let (vault, keyring) = Vault::new().await;
    let put = keyring.new_org_keys(&org("acme"), &Uid::stored("uid"), None, in_time()).await.unwrap();
    write(&vault.store, vec![put]).await;
    let item = find(&vault.store, "FPKEY");
    let key = org_key_item(&org("other"));
    vault.store.tamper(Item { key: key.clone(), ..item.clone() });
    assert_eq!(keyring.org_keys(&org("other"), in_time()).await.unwrap_err().reason, Reason::RecordRejected);

    let moved = NewItem { key, ..as_new(item) };
    write(&vault.store, vec![keyring.records.put(moved, Expected::Revision(1))]).await;
    let item = vault.store.dump().into_iter().find(|item| item.key.partition == "O#other").unwrap();
    assert_eq!(item.revision, 2);
    assert_eq!(keyring.org_keys(&org("other"), in_time()).await.unwrap_err().reason, Reason::SealedValueRejected);
}

mod rotated {
    use super::*;
    use crate::repository::audit::{AuditLog, AuditSettings};

    const LIFE: Duration = Duration::from_secs(90 * 86_400);

    fn log_on(vault: &Vault, keyring: &Keyring) -> AuditLog {
        let records = Records::new(Arc::new(vault.store.clone()), keyring.records());
        let clock = Arc::new(crate::domain::clock::SystemClock);
        AuditLog::open(records, clock, Arc::new(SystemEntropy), AuditSettings::default()).unwrap()
    }
    fn audited(vault: &Vault) -> usize {
        vault.store.dump().iter().filter(|item| item.key.sort.starts_with("B#")).count()
    }

    #[tokio::test]
    async fn rotation_leads_with_a_new_key_and_lets_the_old_one_verify() {
        let (vault, keyring) = Vault::new().await;
        let audit = log_on(&vault, &keyring);
        let other = vault.load().await.unwrap().unwrap();
        let old = keyring.signing()[0].kid.clone();
        vault.clock.advance(SIGNING_KEY_AGE_MAX);
        let new = keyring.rotate_signing_key(&audit, LIFE, in_time()).await.unwrap();
        let expected = [(new.clone(), true), (old.clone(), false)];
        assert_eq!(kids(&keyring), expected);
        assert!(!keyring.is_rotation_due(vault.clock.now()));
        assert_eq!(audited(&vault), 1);

        other.refresh(in_time()).await.unwrap();
        assert_eq!(kids(&other), expected);
        assert_eq!(kids(&vault.load().await.unwrap().unwrap()), expected);

        vault.clock.advance(LIFE);
        keyring.refresh(in_time()).await.unwrap();
        assert_eq!(kids(&keyring), expected, "a token of the last moment still verifies");
        vault.clock.advance(Duration::from_secs(3_600));
        keyring.refresh(in_time()).await.unwrap();
        assert_eq!(kids(&keyring), [(new, true)]);
    }

    #[tokio::test]
    async fn of_two_replicas_that_rotate_at_once_one_does() {
        let (vault, one) = Vault::new().await;
        let other = vault.load().await.unwrap().unwrap();
        let (log_of_one, log_of_other) = (log_on(&vault, &one), log_on(&vault, &other));
        let (first, second) = tokio::join!(
            one.rotate_signing_key(&log_of_one, LIFE, in_time()),
            other.rotate_signing_key(&log_of_other, LIFE, in_time()),
        );
        let outcomes = [first.map_err(|failure| failure.reason), second.map_err(|failure| failure.reason)];
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        assert!(outcomes.contains(&Err(Reason::WriteConflict)), "{outcomes:?}");
        assert_eq!(audited(&vault), 1);
        one.refresh(in_time()).await.unwrap();
        assert_eq!(one.signing().iter().filter(|key| key.is_primary).count(), 1);
    }

    #[tokio::test]
    async fn maintenance_rotates_when_it_is_due_and_only_once() {
        let (vault, one) = Vault::new().await;
        let other = vault.load().await.unwrap().unwrap();
        let audit = log_on(&vault, &one);
        assert_eq!(one.maintain(&audit, LIFE, in_time()).await.unwrap(), None);
        vault.clock.advance(SIGNING_KEY_AGE_MAX);
        let new = one.maintain(&audit, LIFE, in_time()).await.unwrap();
        assert_eq!(other.maintain(&log_on(&vault, &other), LIFE, in_time()).await.unwrap(), None);
        assert_eq!(new.as_deref(), Some(kids(&other)[0].0.as_str()));
        assert_eq!(audited(&vault), 1);
    }

    #[tokio::test]
    async fn withdrawing_the_primary_makes_another_and_wipes_the_old_seed() {
        let (vault, keyring) = Vault::new().await;
        let audit = log_on(&vault, &keyring);
        let old = keyring.signing()[0].kid.clone();
        assert!(keyring.withdraw_signing_key(&audit, &old, in_time()).await.unwrap());
        let now = kids(&keyring);
        assert_eq!(now.len(), 1);
        assert!(now[0].1 && now[0].0 != old);
        assert!(keyring.signing_key(&old, in_time()).await.unwrap().is_none());
        assert_eq!(find(&vault.store, &format!("SIGN#{old}")).sealed, None);
        assert_eq!(kids(&vault.load().await.unwrap().unwrap()), now);

        assert!(!keyring.withdraw_signing_key(&audit, &old, in_time()).await.unwrap(), "already");
        assert!(!keyring.withdraw_signing_key(&audit, "nobody", in_time()).await.unwrap());
        assert_eq!(audited(&vault), 1);
    }

    #[tokio::test]
    async fn withdrawing_an_old_key_leaves_the_primary() {
        let (vault, keyring) = Vault::new().await;
        let audit = log_on(&vault, &keyring);
        let old = keyring.signing()[0].kid.clone();
        vault.clock.advance(Duration::from_secs(1));
        let new = keyring.rotate_signing_key(&audit, LIFE, in_time()).await.unwrap();
        assert!(keyring.withdraw_signing_key(&audit, &old, in_time()).await.unwrap());
        assert_eq!(kids(&keyring), [(new, true)]);
        assert_eq!(audited(&vault), 2);
    }
}
