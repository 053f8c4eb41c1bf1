//! Leases: who alone may do the work of a role. The term's row changes only on takeover, and every
//! write under a lease Checks its revision, so that a holder who was overtaken writes nothing more.
//! Whether a lease may be taken over, [`replicas`](super::replicas) knows.

use super::{
    fields::Builder,
    records::{Expected, Records, Verified},
};
use crate::{
    domain::{
        clock::{Deadline, Entropy},
        error::{Failure, Reason},
    },
    store::{Action, Condition, ItemKey, NewItem},
};

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Orders the audit log and keeps what is projected from it.
    Sequencer,
    /// Purges what is due.
    Janitor,
    /// Moves what is old of the audit log into the archive.
    Archivist,
}

impl Role {
    /// Where its term stands.
    pub(super) fn term(self) -> ItemKey {
        let role = match self {
            Self::Sequencer => "sequencer",
            Self::Janitor => "janitor",
            Self::Archivist => "archivist",
        };
        ItemKey::new("LEASE", format!("{role}#TERM"))
    }
}

/// Tells the log why the work under a lease failed. `again`: so did the attempt before. That the lease
/// was lost to another server is no trouble, unless that repeats itself.
pub fn tell_failure(failure: &Failure, again: bool, what: &'static str) {
    if failure.reason == Reason::WriteConflict && !again {
        tracing::info!("{what}: another server does it now");
    } else {
        tracing::warn!(error = failure as &dyn std::error::Error, "{what}");
    }
}

/// One term of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    key: ItemKey,
    revision: u64,
}

impl Lease {
    /// Begins the term of `role` that follows `last`, which was read before, for `holder`.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE; WRITE_CONFLICT when somebody else was faster.
    pub(super) async fn follow(
        records: &Records,
        entropy: &dyn Entropy,
        role: Role,
        holder: &str,
        last: Option<&Verified>,
        deadline: Deadline,
    ) -> Result<Self, Failure> {
        let key = role.term();
        let expected = last.map_or(Expected::Absent, |row| Expected::Revision(row.revision()));
        let row = NewItem::new(key.clone(), Builder::new().text("holder", holder).build());
        // Where it is not known whether that happened, the next attempt begins a term of its own.
        records.commit(entropy, vec![records.put(row, expected)], deadline).await?;
        Ok(Self { key, revision: expected.next_revision() })
    }

    /// Demands that this term is still the last: part of every write under the lease.
    #[must_use]
    pub fn check(&self) -> Action {
        Action::Check(self.key.clone(), Condition::Revision(self.revision))
    }
}
