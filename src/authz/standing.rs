//! Whether a token still stands, from its records: what admission decides by, and what listings
//! and introspection answer.

use crate::domain::{
    clock::Timestamp,
    token::{Epoch, SubjectRecord, TokenRecord},
};

/// How a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Neither revoked nor expired.
    Active,
    /// It or its parent was revoked, by name, by subject, or with its organization's tokens; when,
    /// where that is known.
    Revoked(Option<Timestamp>),
    /// Its own or its parent's expiry has passed.
    Expired,
}

/// How `token` stands at `now`. A parent or subject whose record is missing revokes.
#[must_use]
pub fn standing(
    token: &TokenRecord,
    parent: Option<&TokenRecord>,
    subject: Option<&SubjectRecord>,
    epoch: &Epoch,
    now: Timestamp,
) -> Standing {
    let own = alone(token, subject, epoch, now);
    let Some(parent_id) = &token.parent else { return own };
    match parent.filter(|parent| parent.id == *parent_id && parent.org == token.org && parent.parent.is_none()) {
        _ if own != Standing::Active => own,
        None => Standing::Revoked(None),
        // A child speaks for its parent's subject, so the subject's record serves both.
        Some(parent) if parent.subject != token.subject => Standing::Revoked(None),
        Some(parent) => alone(parent, subject, epoch, now),
    }
}

fn alone(token: &TokenRecord, subject: Option<&SubjectRecord>, epoch: &Epoch, now: Timestamp) -> Standing {
    let Some(subject) = subject else { return Standing::Revoked(None) };
    if token.revoked.is_some() {
        Standing::Revoked(token.revoked)
    } else if token.subject_generation != subject.generation {
        Standing::Revoked(subject.revoked)
    } else if token.org_generation != epoch.generation || token.created < epoch.issued_before {
        Standing::Revoked(epoch.revoked)
    } else if now >= token.expires {
        Standing::Expired
    } else {
        Standing::Active
    }
}
