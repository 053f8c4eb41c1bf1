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
pub(crate) mod tests;
