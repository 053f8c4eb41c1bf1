//! A provider key's record: its state, its versions and their stages, computed from time at use.
//! Knows no store and no ciphertext.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use super::{
    clock::Timestamp,
    error::{InvalidInput, Reason},
    ids::{Environment, KeyName, ProviderId, Uid, VersionSelector},
};

pub mod input;
mod lifecycle;
pub mod preview;

/// Labels of a resource: at most 32, keys of 1 to 63 bytes, values of at most 255.
pub type Labels = BTreeMap<String, String>;

/// The most versions of a key that are PENDING, VERIFIED, CURRENT or PREVIOUS at once.
pub const LIVE_VERSIONS_MAX: usize = 8;

macro_rules! texts {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $text:literal $about:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $(#[doc = $about] $variant,)* }

        impl $name {
            /// Every one there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// As it is stored.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
            /// The one stored as `text`.
            #[must_use]
            pub fn from_text(text: &str) -> Option<Self> { match text { $($text => Some(Self::$variant),)* _ => None } }
        }
    };
}

texts! {
    /// Whether a key can be retrieved.
    KeyState {
        Active "ACTIVE" "It can.";
        Disabled "DISABLED" "Not until it is enabled again.";
        Deleted "DELETED" "Not any more; it can be undeleted until its purge time.";
    }
}

texts! {
    /// What a key is; never changes.
    KeyKind {
        Live "LIVE" "An ordinary key.";
        ProviderAdmin "PROVIDER_ADMIN" "Administers the provider's account: retrieved by name with keys:read-admin only.";
        Tripwire "TRIPWIRE" "A decoy whose retrieval raises an alert.";
    }
}

texts! {
    /// Where a version stands in its life.
    Stage {
        Pending "PENDING" "Stored, not tried yet.";
        Verified "VERIFIED" "Somebody tried it.";
        Current "CURRENT" "The one that is answered.";
        Previous "PREVIOUS" "The one before, in its grace period.";
        Retired "RETIRED" "Answered no more; its ciphertext is still there.";
        Destroyed "DESTROYED" "Its ciphertext is gone.";
    }
}

/// How a provider wants to be shown its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthScheme {
    /// `authorization`, `x-api-key`; empty where no key is shown.
    pub header: String,
    /// `Bearer ` or empty.
    pub prefix: String,
    /// Headers to send beside it, such as `anthropic-version`.
    pub extra_headers: BTreeMap<String, String>,
}

/// When a key is to be rotated, and how long the old value lives on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RotationPolicy {
    /// How often.
    pub period: Option<Duration>,
    /// When next.
    pub next: Option<Timestamp>,
    /// The grace period where a promotion names none.
    pub grace: Option<Duration>,
}

/// One version of a key's value, without the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// From 1; numbers only grow.
    pub number: u32,
    /// The stage as it was written; [`Self::stage_at`] is what counts.
    pub stage: Stage,
    /// First and last characters.
    pub preview: String,
    /// The keyed fingerprint, in hex; empty once destroyed.
    pub fingerprint: String,
    /// When it was added.
    pub created: Timestamp,
    /// When it was verified.
    pub verified: Option<Timestamp>,
    /// When it last became CURRENT.
    pub promoted: Option<Timestamp>,
    /// When its grace ends or ended.
    pub retires: Option<Timestamp>,
    /// When its ciphertext was destroyed.
    pub destroyed: Option<Timestamp>,
    /// The KMS key that wraps its data key.
    pub kms_key: String,
    /// Where it is good.
    pub base_url: String,
    /// How it is shown there.
    pub auth_scheme: AuthScheme,
}

impl Version {
    /// Its stage at `now`: PREVIOUS whose grace has ended is RETIRED.
    #[must_use]
    pub fn stage_at(&self, now: Timestamp) -> Stage {
        match self.stage {
            Stage::Previous if self.retires.is_none_or(|end| end <= now) => Stage::Retired,
            stage => stage,
        }
    }
    /// Whether it counts towards [`LIVE_VERSIONS_MAX`] at `now`.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        !matches!(self.stage_at(now), Stage::Retired | Stage::Destroyed)
    }
}

/// A provider key's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// `orgs/{org}/keys/{key}`
    pub name: KeyName,
    /// Its opaque id; a name that is used again gets another.
    pub uid: Uid,
    /// The organization's opaque id.
    pub org_uid: Uid,
    /// Whose key it is; never changes.
    pub provider: ProviderId,
    /// What it is; never changes.
    pub kind: KeyKind,
    /// Where it is for; never changes.
    pub environment: Option<Environment>,
    /// Whether it can be retrieved.
    pub state: KeyState,
    /// The base URL of a key without a current version; otherwise that version's.
    pub base_url: String,
    /// The scheme of a key without a current version; otherwise that version's.
    pub auth_scheme: AuthScheme,
    /// For people.
    pub description: String,
    /// Labels.
    pub labels: Labels,
    /// The models that it is for; they go before the provider's patterns.
    pub models: Vec<String>,
    /// When it is to be rotated.
    pub rotation: RotationPolicy,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last changed.
    pub updated: Timestamp,
    /// When it is good no more.
    pub expires: Option<Timestamp>,
    /// When it was deleted.
    pub deleted: Option<Timestamp>,
    /// When a deleted key is purged.
    pub purges: Option<Timestamp>,
    /// The live versions in order of their numbers; possibly one whose grace has ended since.
    pub versions: Vec<Version>,
    /// The number of its first version: lower ones were of destroyed keys of this name, and no
    /// number of a name is ever given twice.
    pub first_version: u32,
    /// The highest number that was ever given under this name.
    pub last_version: u32,
    /// The item's revision; 0 before it is written.
    pub revision: u64,
}

impl KeyRecord {
    /// `uid.revision`
    #[must_use]
    pub fn etag(&self) -> String {
        format!("{}.{}", self.uid, self.revision)
    }
    /// Its full name.
    #[must_use]
    pub fn full_name(&self) -> String {
        self.name.full_name()
    }
    /// The full name of its version `number`.
    #[must_use]
    pub fn version_name(&self, number: u32) -> String {
        [&self.full_name(), "/versions/", &number.to_string()].concat()
    }
    /// The CURRENT version.
    #[must_use]
    pub fn current(&self) -> Option<&Version> {
        self.versions.iter().find(|version| version.stage == Stage::Current)
    }
    /// The listed version of that number.
    #[must_use]
    pub fn version(&self, number: u32) -> Option<&Version> {
        self.versions.iter().find(|version| version.number == number)
    }
    /// Whether its purge is due: it is as good as absent.
    #[must_use]
    pub fn is_purged(&self, now: Timestamp) -> bool {
        self.state == KeyState::Deleted && self.purges.is_some_and(|time| time <= now)
    }
    /// Whether anybody may be handed a value of it at `now`.
    ///
    /// # Errors
    /// KEY_DISABLED, KEY_DELETED, KEY_EXPIRED.
    pub fn check_retrievable(&self, now: Timestamp) -> Result<(), Reason> {
        match self.state {
            KeyState::Disabled => Err(Reason::KeyDisabled),
            KeyState::Deleted => Err(Reason::KeyDeleted),
            KeyState::Active if self.expires.is_some_and(|end| end <= now) => Err(Reason::KeyExpired),
            KeyState::Active => Ok(()),
        }
    }
    /// The number that `selector` means at `now`. A number that is not listed is answered as it
    /// is, if it was ever given: its own record knows its stage.
    ///
    /// # Errors
    /// KEY_HAS_NO_SECRET, NO_CURRENT_VERSION, VERSION_NOT_FOUND.
    pub fn select(&self, selector: VersionSelector, now: Timestamp) -> Result<u32, Reason> {
        if self.last_version < self.first_version {
            return Err(Reason::KeyHasNoSecret);
        }
        let newest = |stages: &[Stage]| {
            let mut found = self.versions.iter().rev().filter(|version| stages.contains(&version.stage_at(now)));
            found.next().map(|version| version.number)
        };
        match selector {
            VersionSelector::Current => newest(&[Stage::Current]).ok_or(Reason::NoCurrentVersion),
            VersionSelector::Previous => newest(&[Stage::Previous]).ok_or(Reason::VersionNotFound),
            VersionSelector::Pending => newest(&[Stage::Pending, Stage::Verified]).ok_or(Reason::VersionNotFound),
            VersionSelector::Number(number) if (self.first_version..=self.last_version).contains(&number) => Ok(number),
            VersionSelector::Number(_) => Err(Reason::VersionNotFound),
        }
    }
    /// What counts of `stored`, a version's own record: the listed one if there is one, since the
    /// two may have been read on either side of a change; else it is RETIRED or DESTROYED.
    #[must_use]
    pub fn reconcile(&self, stored: Version, now: Timestamp) -> Version {
        match self.version(stored.number) {
            Some(listed) => Version { stage: listed.stage_at(now), ..listed.clone() },
            None if stored.stage == Stage::Destroyed => stored,
            None => Version { stage: Stage::Retired, ..stored },
        }
    }
}

/// Refuses an etag that is not this record's; an empty one asks for nothing.
///
/// # Errors
/// ETAG_MISMATCH.
pub fn check_etag(record: &KeyRecord, etag: &str) -> Result<(), Reason> {
    if etag.is_empty() || etag == record.etag() { Ok(()) } else { Err(Reason::EtagMismatch) }
}

/// Refuses labels that no resource bears: too many, too long, or of other signs. What a grant demands
/// keeps the same rule.
///
/// # Errors
/// Names `field`.
pub fn check_labels(field: impl Into<Cow<'static, str>>, labels: &Labels) -> Result<(), InvalidInput> {
    let is_key = |key: &str| {
        (1..=63).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
    };
    let is_value = |value: &str| value.len() <= 255 && !value.chars().any(char::is_control);
    if labels.len() > 32 {
        return Err(InvalidInput::new(field, "at most 32 labels"));
    }
    if labels.iter().all(|(key, value)| is_key(key) && is_value(value)) {
        return Ok(());
    }
    Err(InvalidInput::new(field, "keys of 1 to 63 letters, digits, '.', '_', '-', '/'; values of at most 255 bytes"))
}
