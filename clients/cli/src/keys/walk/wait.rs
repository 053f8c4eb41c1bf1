//! Whether somebody still holds the old value: who was handed which version last, and how far that is
//! known.

use std::time::Duration;

use ibyok_client::pb::list_key_consumers_response::Consumer;
use prost_types::Timestamp;

use crate::{
    failure::{Exit, Failure},
    keys::{
        read::{self, Known},
        view,
    },
    output::Output,
    session::{Session, short},
    time,
};

const PAUSE: Duration = Duration::from_secs(2);
/// What was asked for before the promotion may be handed out so long after it.
const UNDER_WAY: Duration = Duration::from_secs(5);
/// Who was handed what follows by seconds: so long it is waited for, whatever the patience.
const LAG_MAX: Duration = Duration::from_secs(60);

/// What is waited for.
pub(super) struct Wait<'w> {
    pub(super) key: &'w str,
    /// The old version.
    pub(super) old: u32,
    /// When the new one became current.
    pub(super) promoted: Option<Timestamp>,
    /// None: as long as it takes.
    pub(super) patience: Option<Duration>,
}

/// What is known of the holders.
#[derive(Clone, Debug, PartialEq)]
enum Held {
    By(Vec<Consumer>),
    /// By nobody who is known, and not all are.
    Unknown,
    /// The same, and waiting makes no difference.
    Untold,
    ByNobody,
}

impl Wait<'_> {
    /// Returns once nobody holds the old version; fails when the patience ends before.
    pub(super) async fn until_nobody_holds(&self, session: &Session, out: &mut Output) -> Result<(), Failure> {
        let (key, old) = (self.key, self.old);
        let mut waited = Duration::ZERO;
        let mut said = None;
        loop {
            let held = self.held(read::all_consumers(key, session).await?);
            let patience = match &held {
                Held::ByNobody => {
                    out.note(&format!("nobody holds version {old} any more"));
                    return Ok(());
                }
                Held::Untold => return Err(self.failure(&held)),
                Held::Unknown => Some(self.patience.map_or(LAG_MAX, |patience| patience.max(LAG_MAX))),
                Held::By(_) => self.patience,
            };
            let who = held.who();
            if said.as_ref() != Some(&who) {
                self.say(&held, out);
                said = Some(who);
            }
            if patience.is_some_and(|patience| waited >= patience) {
                return Err(self.failure(&held));
            }
            let pause = patience.map_or(PAUSE, |patience| PAUSE.min(patience - waited));
            tokio::time::sleep(pause).await;
            waited += pause;
        }
    }

    fn held(&self, Known { consumers, as_of, is_truncated }: Known) -> Held {
        let old = self.old.to_string();
        let holders: Vec<_> = consumers.into_iter().filter(|consumer| short(&consumer.key_version) == old).collect();
        let settled = self.promoted.map(|promoted| time::after(&promoted, UNDER_WAY));
        let is_known = as_of.zip(settled).is_some_and(|(as_of, settled)| is_after(&as_of, &settled));
        match (holders.is_empty(), is_truncated) {
            (false, _) => Held::By(holders),
            (true, true) => Held::Untold,
            (true, false) if !is_known => Held::Unknown,
            (true, false) => Held::ByNobody,
        }
    }

    fn say(&self, held: &Held, out: &mut Output) {
        let old = self.old;
        match held {
            Held::By(holders) => {
                out.note(&format!("still with version {old}, until they retrieve the key again:"));
                let lines = view::consumers(holders, &time::now()).lines();
                lines.iter().for_each(|line| out.note(&format!("  {line}")));
            }
            _ => out.note(&format!("until it is known who was handed version {old} up to the promotion: some seconds")),
        }
    }

    fn failure(&self, held: &Held) -> Failure {
        let Self { key, old, .. } = self;
        let nevertheless = "or retire it nevertheless: --retire-held";
        let (happened, next) = match held {
            Held::By(holders) => {
                let count = holders.len();
                let (noun, verb) = if count == 1 { ("consumer", "holds") } else { ("consumers", "hold") };
                (
                    format!("{count} {noun} still {verb} version {old} of {key}; it was not retired"),
                    format!(
                        "make them retrieve it anew and run `ibyok keys rotate {key} --retire` again (--wait SPAN to \
                         wait longer), {nevertheless}"
                    ),
                )
            }
            Held::Untold => (
                format!(
                    "{key} had more consumers than the vault keeps, and some may hold version {old}; it was not retired"
                ),
                format!("make sure in another way that nobody uses it, {nevertheless}"),
            ),
            Held::Unknown | Held::ByNobody => (
                format!("the vault does not know yet who was handed version {old} of {key}; it was not retired"),
                format!("run `ibyok keys rotate {key} --retire` again in a minute, {nevertheless}"),
            ),
        };
        Failure::new(Exit::Precondition, happened, next)
    }
}

impl Held {
    fn who(&self) -> Vec<(String, String)> {
        match self {
            Self::By(holders) => {
                holders.iter().map(|holder| (holder.subject.clone(), holder.token_id.clone())).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn is_after(a: &Timestamp, b: &Timestamp) -> bool {
    (a.seconds, a.nanos) > (b.seconds, b.nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(old: u32) -> Wait<'static> {
        Wait { key: "a", old, promoted: Some(at(100)), patience: None }
    }
    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }
    fn consumer(subject: &str, version: &str) -> Consumer {
        Consumer {
            subject: subject.into(),
            key_version: format!("orgs/dev/keys/a/versions/{version}"),
            ..Default::default()
        }
    }

    #[test]
    fn who_was_handed_another_version_does_not_hold_the_old_one() {
        let all = vec![consumer("new", "2"), consumer("old", "1"), consumer("older", "11")];
        let held = wait(1).held(Known { consumers: all, as_of: Some(at(200)), is_truncated: false });
        assert_eq!(held, Held::By(vec![consumer("old", "1")]));
    }

    #[test]
    fn that_nobody_is_known_is_enough_only_once_everybody_is() {
        let held = |as_of: Option<i64>, is_truncated| {
            wait(1).held(Known { consumers: vec![consumer("new", "2")], as_of: as_of.map(at), is_truncated })
        };
        for as_of in [None, Some(99), Some(101), Some(105)] {
            assert_eq!(held(as_of, false), Held::Unknown, "{as_of:?}");
        }
        assert_eq!(held(Some(106), false), Held::ByNobody);
        assert_eq!(held(Some(106), true), Held::Untold);
        let unknown = Wait { promoted: None, ..wait(1) };
        assert_eq!(unknown.held(Known { consumers: vec![], as_of: Some(at(200)), is_truncated: false }), Held::Unknown);
    }

    #[test]
    fn the_failure_says_both_ways_out() {
        let text = wait(1).failure(&Held::By(vec![consumer("b", "1"), consumer("c", "1")])).to_string();
        assert!(text.contains("2 consumers still hold version 1 of a") && text.contains("--retire-held"), "{text}");
        for held in [Held::Unknown, Held::Untold] {
            let text = wait(1).failure(&held).to_string();
            assert!(text.contains("it was not retired") && text.contains("--retire-held"), "{text}");
        }
    }
}
