//! Where a rotation stands, from the key's own state: nothing else is kept, so that the walk goes on
//! from any machine.

use ibyok_client::pb::{self, VersionStage};

use crate::{request_id, session::short};

/// How far it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// No rotation is under way.
    Idle,
    /// A new version is there and was never current.
    Staged { number: u32, is_verified: bool },
    /// The new version is current, the old one in its grace period.
    Promoted { old: u32 },
}

impl Stand {
    pub(super) fn of(key: &pb::Key) -> Self {
        let current = find(key, VersionStage::Current).map_or(0, number);
        let staged = key.versions.iter().filter(|version| {
            let is_staged = matches!(version.stage(), VersionStage::Pending | VersionStage::Verified);
            // One that was current before was rolled back, for a reason.
            is_staged && version.promote_time.is_none() && number(version) > current
        });
        if let Some(newest) = staged.max_by_key(|version| number(version)) {
            return Self::Staged { number: number(newest), is_verified: newest.stage() == VersionStage::Verified };
        }
        match find(key, VersionStage::Previous) {
            Some(old) => Self::Promoted { old: number(old) },
            None => Self::Idle,
        }
    }
}

pub(super) fn find(key: &pb::Key, stage: VersionStage) -> Option<&pb::KeyVersion> {
    key.versions.iter().find(|version| version.stage() == stage)
}

pub(super) fn number(version: &pb::KeyVersion) -> u32 {
    short(&version.name).parse().unwrap_or_default()
}

/// Whether `old`, an old version of the key as it was `before`, is that still: nothing else became
/// current since, and least of all `old` again.
pub(super) fn is_old_still(old: u32, before: &pb::Key, now: &pb::Key) -> bool {
    let promotion =
        |key: &pb::Key| find(key, VersionStage::Current).map(|current| (number(current), current.promote_time));
    let stage = now.versions.iter().find(|version| number(version) == old).map(pb::KeyVersion::stage);
    before.uid == now.uid
        && promotion(before) == promotion(now)
        // One whose grace is over is not listed.
        && matches!(stage, None | Some(VersionStage::Previous | VersionStage::Retired))
}

/// The request id under which a rotation that begins now adds its value.
pub(super) fn request_id(key: &pb::Key) -> String {
    request_ids(key).pop().unwrap_or_default()
}

/// The request ids under which the new value may have been added already, the likeliest first. A
/// rotation is known by the version that it replaces, and by when that became current: the same value
/// sent again under such an id is answered with the version that it became, another one is refused.
pub(super) fn request_ids(key: &pb::Key) -> Vec<String> {
    let replaced = [VersionStage::Previous, VersionStage::Current].into_iter().filter_map(|stage| find(key, stage));
    let mut ids: Vec<_> = replaced
        .map(|version| {
            let since = version.promote_time.map(|time| time.to_string()).unwrap_or_default();
            request_id::derived("rotate", &[&key.uid, &number(version).to_string(), &since])
        })
        .collect();
    if ids.is_empty() {
        ids.push(request_id::derived("rotate", &[&key.uid, "first"]));
    }
    ids
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    fn key(versions: &[(u32, VersionStage, Option<i64>)]) -> pb::Key {
        let version = |(number, stage, promoted): &(u32, VersionStage, Option<i64>)| pb::KeyVersion {
            name: format!("orgs/dev/keys/a/versions/{number}"),
            stage: (*stage).into(),
            promote_time: promoted.map(|seconds| Timestamp { seconds, nanos: 0 }),
            ..Default::default()
        };
        pb::Key { uid: "u".into(), versions: versions.iter().map(version).collect(), ..Default::default() }
    }

    #[test]
    fn the_keys_state_tells_the_step() {
        use VersionStage::{Current, Pending, Previous, Verified};
        for (versions, stand) in [
            (&[][..], Stand::Idle),
            (&[(1, Current, Some(1))], Stand::Idle),
            (&[(2, Pending, None), (1, Current, Some(1))], Stand::Staged { number: 2, is_verified: false }),
            (&[(1, Pending, None)], Stand::Staged { number: 1, is_verified: false }),
            (
                &[(3, Verified, None), (2, Pending, None), (1, Current, Some(1))],
                Stand::Staged { number: 3, is_verified: true },
            ),
            (&[(2, Current, Some(2)), (1, Previous, Some(1))], Stand::Promoted { old: 1 }),
            // Rolled back: that version is not gone on with.
            (&[(2, Verified, Some(2)), (1, Current, Some(3))], Stand::Idle),
            // Staged before the current one, and passed over.
            (&[(3, Current, Some(3)), (2, Pending, None)], Stand::Idle),
        ] {
            assert_eq!(Stand::of(&key(versions)), stand, "{versions:?}");
        }
    }

    #[test]
    fn a_version_that_somebody_went_back_to_is_not_old_any_more() {
        use VersionStage::{Current, Pending, Previous, Retired, Verified};
        let before = key(&[(2, Current, Some(2)), (1, Previous, Some(1))]);
        for (now, is_old) in [
            (&[(2, Current, Some(2)), (1, Previous, Some(1))][..], true),
            (&[(3, Pending, None), (2, Current, Some(2)), (1, Retired, Some(1))], true),
            (&[(2, Current, Some(2))], true),
            (&[(2, Verified, Some(2)), (1, Current, Some(3))], false),
            // Back and forth: who holds it now was not looked at.
            (&[(2, Current, Some(4)), (1, Previous, Some(3))], false),
            (&[(3, Current, Some(3)), (2, Previous, Some(2))], false),
        ] {
            assert_eq!(is_old_still(1, &before, &key(now)), is_old, "{now:?}");
        }
        let namesake = pb::Key { uid: "another".into(), ..before.clone() };
        assert!(!is_old_still(1, &before, &namesake));
    }

    #[test]
    fn a_rotation_is_known_by_what_it_replaces() {
        use VersionStage::{Current, Pending, Previous, Verified};
        let before = request_ids(&key(&[(1, Current, Some(1))]));
        let staged = request_ids(&key(&[(2, Pending, None), (1, Current, Some(1))]));
        let promoted = request_ids(&key(&[(2, Current, Some(2)), (1, Previous, Some(1))]));
        assert_eq!((before.len(), promoted.len()), (1, 2));
        assert_eq!((&before, before.first()), (&staged, promoted.first()), "run again, it is the same rotation");
        let back = request_ids(&key(&[(2, Verified, Some(2)), (1, Current, Some(3))]));
        assert_ne!(back, before, "after a rollback it is another one");
    }
}
