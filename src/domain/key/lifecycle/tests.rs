//! Each event on each stage: what it makes of a key, and what it refuses.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::domain::{
    ids::{KeyName, OrgId, ProviderId, Uid, VersionSelector},
    key::{AuthScheme, KeyKind, RotationPolicy},
};

pub(crate) fn record() -> KeyRecord {
    KeyRecord {
        name: KeyName::parse("name", "k", &OrgId::parse("org", "acme").unwrap()).unwrap(),
        uid: Uid::stored("u"),
        org_uid: Uid::stored("o"),
        provider: ProviderId::parse("provider", "openai").unwrap(),
        kind: KeyKind::Live,
        environment: None,
        state: KeyState::Active,
        base_url: String::new(),
        auth_scheme: AuthScheme::default(),
        description: String::new(),
        labels: BTreeMap::new(),
        models: Vec::new(),
        rotation: RotationPolicy::default(),
        created: Timestamp::default(),
        updated: Timestamp::default(),
        expires: None,
        deleted: None,
        purges: None,
        versions: Vec::new(),
        first_version: 1,
        last_version: 0,
        revision: 1,
    }
}

pub(crate) fn version() -> Version {
    Version {
        number: 0,
        stage: Stage::Pending,
        preview: "...".to_owned(),
        fingerprint: "f".to_owned(),
        created: Timestamp::default(),
        verified: None,
        promoted: None,
        retires: None,
        destroyed: None,
        kms_key: "local".to_owned(),
        base_url: String::new(),
        auth_scheme: AuthScheme::default(),
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

fn at(hours: i64) -> Timestamp {
    Timestamp::from_seconds(hours * 3_600)
}

fn rotated() -> KeyRecord {
    let mut key = record();
    for _ in 0..2 {
        key.add_version(version(), at(0)).unwrap();
    }
    key.promote_version(1, HOUR, true, at(1)).unwrap();
    key.promote_version(2, HOUR * 2, true, at(1)).unwrap();
    key
}

#[test]
fn the_previous_version_lives_for_its_grace_and_is_then_retired() {
    let key = rotated();
    assert_eq!(key.current().unwrap().number, 2);
    assert_eq!(key.select(VersionSelector::Previous, at(2)), Ok(1));
    assert_eq!(key.version(1).unwrap().stage_at(at(2)), Stage::Previous);
    assert_eq!(key.version(1).unwrap().stage_at(at(3)), Stage::Retired);
    assert_eq!(key.select(VersionSelector::Previous, at(3)), Err(Reason::VersionNotFound));
}

#[test]
fn rolling_back_works_within_the_grace_only() {
    let mut key = rotated();
    assert_eq!(key.clone().roll_back(at(3)), Err(Reason::VersionNotPrevious));
    key.roll_back(at(2)).unwrap();
    assert_eq!(key.current().unwrap().number, 1);
    assert_eq!(key.version(2).unwrap().stage, Stage::Pending);
    assert_eq!(key.roll_back(at(2)), Err(Reason::VersionNotPrevious));
}

#[test]
fn an_unverified_version_is_promoted_only_if_allowed() {
    let mut key = record();
    key.add_version(version(), at(0)).unwrap();
    assert_eq!(key.promote_version(1, HOUR, false, at(0)), Err(Reason::VersionNotVerified));
    key.verify_version(1, at(0)).unwrap();
    assert_eq!(key.verify_version(1, at(0)), Err(Reason::VersionNotPending));
    assert_eq!(key.promote_version(1, HOUR, false, at(0)).unwrap().len(), 1);
    assert_eq!(key.promote_version(1, HOUR, true, at(0)), Err(Reason::VersionWrongStage));
}

#[test]
fn a_rotation_that_was_due_once_is_done_by_promoting() {
    let due = |period, next| {
        let mut key = record();
        key.add_version(version(), at(0)).unwrap();
        key.rotation = RotationPolicy { period, next: Some(at(next)), grace: None };
        key.promote_version(1, HOUR, true, at(5)).unwrap();
        key.rotation.next
    };
    assert_eq!(due(None, 4), None);
    assert_eq!(due(None, 5), None);
    assert_eq!(due(None, 6), Some(at(6)), "it is still to come");
    assert_eq!(due(Some(HOUR), 4), Some(at(6)));
}

#[test]
fn a_ninth_live_version_is_refused_until_one_goes() {
    let mut key = record();
    for _ in 0..LIVE_VERSIONS_MAX {
        key.add_version(version(), at(0)).unwrap();
    }
    assert_eq!(key.add_version(version(), at(0)), Err(Reason::TooManyVersions));
    key.destroy_version(key.version(3).unwrap().clone(), at(0)).unwrap();
    assert_eq!(key.add_version(version(), at(0)).unwrap()[0].number, 9);
}

#[test]
fn a_deleted_key_changes_only_by_undeleting_and_comes_back_disabled() {
    let mut key = rotated();
    key.delete(HOUR, at(2)).unwrap();
    assert_eq!(key.delete(HOUR, at(2)), Err(Reason::KeyDeleted));
    assert_eq!(key.enable(at(2)), Err(Reason::KeyDeleted));
    assert_eq!(key.roll_back(at(2)), Err(Reason::KeyDeleted));
    assert_eq!(key.check_retrievable(at(2)), Err(Reason::KeyDeleted));
    assert!(!key.is_purged(at(2)));
    assert!(key.is_purged(at(3)));
    key.undelete(at(2)).unwrap();
    assert_eq!(key.state, KeyState::Disabled);
    assert_eq!(key.check_retrievable(at(2)), Err(Reason::KeyDisabled));
    assert_eq!(key.undelete(at(2)), Err(Reason::KeyNotDeleted));
}

#[derive(Clone, Debug)]
enum Step {
    Add,
    Verify(u32),
    Promote(u32, u64, bool),
    RollBack,
    Destroy(u32),
    Disable,
    Enable,
    Delete,
    Undelete,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..14u32;
    prop_oneof![
        4 => Just(Step::Add),
        3 => number.clone().prop_map(Step::Verify),
        4 => (number.clone(), 0..4u64, any::<bool>()).prop_map(|(n, h, a)| Step::Promote(n, h, a)),
        2 => Just(Step::RollBack),
        2 => number.prop_map(Step::Destroy),
        1 => Just(Step::Disable),
        1 => Just(Step::Enable),
        1 => Just(Step::Delete),
        1 => Just(Step::Undelete),
        2 => (0..5u64).prop_map(Step::Wait),
    ]
}

fn run(
    key: &mut KeyRecord,
    step: &Step,
    rows: &BTreeMap<u32, Version>,
    now: Timestamp,
) -> Result<Vec<Version>, Reason> {
    match step {
        Step::Add => key.add_version(version(), now),
        Step::Verify(number) => key.verify_version(*number, now),
        Step::Promote(number, hours, allow) => {
            key.promote_version(*number, Duration::from_secs(hours * 3_600), *allow, now)
        }
        Step::RollBack => key.roll_back(now),
        Step::Destroy(number) => match rows.get(number) {
            Some(row) => key.destroy_version(row.clone(), now),
            None => Err(Reason::VersionNotFound),
        },
        Step::Disable => key.disable(now).map(|()| vec![]),
        Step::Enable => key.enable(now).map(|()| vec![]),
        Step::Delete => key.delete(HOUR, now).map(|()| vec![]),
        Step::Undelete => key.undelete(now).map(|()| vec![]),
        Step::Wait(_) => Ok(vec![]),
    }
}

proptest! {
    /// Whatever happens in whatever order, with the versions' own records kept as a store would.
    #[test]
    fn the_invariants_hold(steps in prop::collection::vec(step(), 0..60)) {
        let (mut key, mut now) = (record(), Timestamp::default());
        let mut rows = BTreeMap::<u32, Version>::new();
        let mut gone = BTreeSet::new();
        for step in steps {
            if let Step::Wait(hours) = step {
                now = now.plus(Duration::from_secs(hours * 3_600));
            }
            let before = key.clone();
            match run(&mut key, &step, &rows, now) {
                Ok(changed) => rows.extend(changed.into_iter().map(|version| (version.number, version))),
                Err(_) => prop_assert_eq!(&before, &key, "a refused step changes nothing"),
            }
            prop_assert!(key.last_version >= before.last_version);
            prop_assert_eq!(rows.len(), key.last_version as usize);
            let stages = |stage| rows.values().filter(|row| row.stage_at(now) == stage).count();
            prop_assert!(stages(Stage::Current) <= 1);
            prop_assert!(stages(Stage::Previous) <= 1);
            prop_assert!(key.versions.iter().filter(|version| version.is_live(now)).count() <= LIVE_VERSIONS_MAX);
            prop_assert!(key.versions.windows(2).all(|pair| pair[0].number < pair[1].number));
            for row in rows.values() {
                // The record and the versions' own records never tell different stories.
                prop_assert_eq!(key.reconcile(row.clone(), now).stage, row.stage_at(now));
                if row.stage == Stage::Destroyed {
                    gone.insert(row.number);
                }
            }
            for number in &gone {
                prop_assert_eq!(rows[number].stage, Stage::Destroyed);
                prop_assert!(key.version(*number).is_none());
            }
        }
    }
}
