//! What can happen to a key and its versions: pure steps from one record to the next. Each
//! answers the versions whose own records must be written with it.

use std::time::Duration;

use super::{KeyRecord, KeyState, LIVE_VERSIONS_MAX, Stage, Version};
use crate::domain::{clock::Timestamp, error::Reason};

impl KeyRecord {
    /// Stages `version` as PENDING under the next number.
    ///
    /// # Errors
    /// KEY_DELETED, TOO_MANY_VERSIONS.
    pub fn add_version(&mut self, version: Version, now: Timestamp) -> Result<Vec<Version>, Reason> {
        self.check_not_deleted()?;
        let live = self.versions.iter().filter(|version| version.is_live(now)).count();
        let number = self.next_number().filter(|_| live < LIVE_VERSIONS_MAX).ok_or(Reason::TooManyVersions)?;
        self.forget_retired(now);
        let version = Version { number, stage: Stage::Pending, ..version };
        self.last_version = number;
        self.versions.push(version.clone());
        self.updated = now;
        Ok(vec![version])
    }
    /// The number of the version that is added next; None when there are no more numbers.
    #[must_use]
    pub fn next_number(&self) -> Option<u32> {
        self.last_version.checked_add(1).filter(|number| *number <= 99_999_999)
    }
    /// PENDING to VERIFIED.
    ///
    /// # Errors
    /// KEY_DELETED, VERSION_NOT_PENDING.
    pub fn verify_version(&mut self, number: u32, now: Timestamp) -> Result<Vec<Version>, Reason> {
        self.check_not_deleted()?;
        let pending = self.versions.iter_mut().find(|version| version.number == number);
        let version = pending.filter(|version| version.stage == Stage::Pending).ok_or(Reason::VersionNotPending)?;
        version.stage = Stage::Verified;
        version.verified = Some(now);
        let changed = version.clone();
        self.updated = now;
        Ok(vec![changed])
    }
    /// VERIFIED (or, if allowed, PENDING) to CURRENT. The old CURRENT becomes PREVIOUS for
    /// `grace`, and then what was PREVIOUS is RETIRED.
    ///
    /// # Errors
    /// KEY_DELETED, VERSION_NOT_VERIFIED, VERSION_WRONG_STAGE.
    pub fn promote_version(
        &mut self,
        number: u32,
        grace: Duration,
        allow_unverified: bool,
        now: Timestamp,
    ) -> Result<Vec<Version>, Reason> {
        self.check_not_deleted()?;
        match self.version(number).map(|version| version.stage) {
            Some(Stage::Verified) => {}
            Some(Stage::Pending) if allow_unverified => {}
            Some(Stage::Pending) => return Err(Reason::VersionNotVerified),
            _ => return Err(Reason::VersionWrongStage),
        }
        self.forget_retired(now);
        let replaces = self.current().is_some();
        let mut changed = Vec::new();
        for version in &mut self.versions {
            match version.stage {
                _ if version.number == number => {
                    version.stage = Stage::Current;
                    version.promoted = Some(now);
                    version.retires = None;
                }
                Stage::Previous if replaces => {
                    version.stage = Stage::Retired;
                    version.retires = Some(now);
                }
                Stage::Current => {
                    version.stage = if grace.is_zero() { Stage::Retired } else { Stage::Previous };
                    version.retires = Some(now.plus(grace));
                }
                _ => continue,
            }
            changed.push(version.clone());
        }
        self.forget_retired(now);
        self.follow_current();
        // Without a period, a time that is past was that of this rotation.
        let ahead = self.rotation.next.filter(|next| *next > now);
        self.rotation.next = self.rotation.period.map(|period| now.plus(period)).or(ahead);
        self.updated = now;
        Ok(changed)
    }
    /// PREVIOUS back to CURRENT; what was CURRENT goes back to where it came from and can be
    /// promoted again.
    ///
    /// # Errors
    /// KEY_DELETED, VERSION_NOT_PREVIOUS.
    pub fn roll_back(&mut self, now: Timestamp) -> Result<Vec<Version>, Reason> {
        self.check_not_deleted()?;
        if !self.versions.iter().any(|version| version.stage_at(now) == Stage::Previous) {
            return Err(Reason::VersionNotPrevious);
        }
        let mut changed = Vec::new();
        for version in &mut self.versions {
            match version.stage {
                Stage::Previous => {
                    version.stage = Stage::Current;
                    version.promoted = Some(now);
                }
                Stage::Current if version.verified.is_some() => version.stage = Stage::Verified,
                Stage::Current => version.stage = Stage::Pending,
                _ => continue,
            }
            version.retires = None;
            changed.push(version.clone());
        }
        self.follow_current();
        self.updated = now;
        Ok(changed)
    }
    /// Any stage to DESTROYED. `stored` is the version's own record.
    ///
    /// # Errors
    /// VERSION_DESTROYED.
    pub fn destroy_version(&mut self, stored: Version, now: Timestamp) -> Result<Vec<Version>, Reason> {
        let version = self.reconcile(stored, now);
        if version.stage == Stage::Destroyed {
            return Err(Reason::VersionDestroyed);
        }
        self.versions.retain(|listed| listed.number != version.number);
        self.updated = now;
        let (stage, fingerprint) = (Stage::Destroyed, String::new());
        Ok(vec![Version { stage, fingerprint, destroyed: Some(now), ..version }])
    }
    /// To DISABLED; once more is no error.
    ///
    /// # Errors
    /// KEY_DELETED.
    pub fn disable(&mut self, now: Timestamp) -> Result<(), Reason> {
        self.enter(KeyState::Disabled, now)
    }
    /// To ACTIVE; once more is no error.
    ///
    /// # Errors
    /// KEY_DELETED.
    pub fn enable(&mut self, now: Timestamp) -> Result<(), Reason> {
        self.enter(KeyState::Active, now)
    }
    /// To DELETED, to be purged `window` from now.
    ///
    /// # Errors
    /// KEY_DELETED.
    pub fn delete(&mut self, window: Duration, now: Timestamp) -> Result<(), Reason> {
        self.enter(KeyState::Deleted, now)?;
        self.deleted = Some(now);
        self.purges = Some(now.plus(window));
        Ok(())
    }
    /// Back as DISABLED.
    ///
    /// # Errors
    /// KEY_NOT_DELETED.
    pub fn undelete(&mut self, now: Timestamp) -> Result<(), Reason> {
        if self.state != KeyState::Deleted {
            return Err(Reason::KeyNotDeleted);
        }
        self.state = KeyState::Disabled;
        self.deleted = None;
        self.purges = None;
        self.updated = now;
        Ok(())
    }

    fn enter(&mut self, state: KeyState, now: Timestamp) -> Result<(), Reason> {
        self.check_not_deleted()?;
        self.state = state;
        self.updated = now;
        Ok(())
    }
    fn check_not_deleted(&self) -> Result<(), Reason> {
        if self.state == KeyState::Deleted { Err(Reason::KeyDeleted) } else { Ok(()) }
    }
    fn forget_retired(&mut self, now: Timestamp) {
        self.versions.retain(|version| version.is_live(now));
    }
    fn follow_current(&mut self) {
        if let Some(current) = self.current().cloned() {
            self.base_url = current.base_url;
            self.auth_scheme = current.auth_scheme;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
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
}
