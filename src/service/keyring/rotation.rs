//! Signing keys, rotated with overlap and withdrawn at once; each with its audit record.

use std::time::Duration;

use super::{
    Keyring, SIGNING_KEY_AGE_MAX,
    rows::{self, Kind, Row, State},
};
use crate::{
    domain::{
        audit::{Action as Audited, AuditDraft},
        clock::{Deadline, Timestamp},
        error::{Failure, Reason},
        ids::OrgId,
    },
    repository::{
        audit::{AuditLog, Commit},
        records::Expected,
    },
    store::Action,
};

/// How long after a rotation another replica may still sign with the key before: its refresh, and
/// some more.
const REFRESH_SLACK: Duration = Duration::from_secs(600);

impl Keyring {
    /// Whether the primary signing key is old enough to be rotated.
    #[must_use]
    pub fn is_rotation_due(&self, now: Timestamp) -> bool {
        now.since(self.system.load().signing_since) >= SIGNING_KEY_AGE_MAX
    }

    /// What is to be done every minute: [`Self::refresh`], and a rotation when it is due. Answers
    /// the new kid if this replica made one.
    ///
    /// # Errors
    /// As [`Self::rotate_signing_key`], without WRITE_CONFLICT.
    pub async fn maintain(
        &self,
        audit: &AuditLog,
        longest_token_life: Duration,
        deadline: Deadline,
    ) -> Result<Option<String>, Failure> {
        self.refresh(deadline).await?;
        if !self.is_rotation_due(self.clock.now()) {
            return Ok(None);
        }
        match self.rotate_signing_key(audit, longest_token_life, deadline).await {
            Ok(kid) => Ok(Some(kid)),
            Err(failure) if failure.reason == Reason::WriteConflict => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Makes a new primary signing key and gives its kid. The one before verifies for as long as a
    /// token that it signed may live.
    ///
    /// # Errors
    /// WRITE_CONFLICT when another replica was faster; as [`Self::refresh`] and
    /// [`AuditLog::commit`].
    pub async fn rotate_signing_key(
        &self,
        audit: &AuditLog,
        longest_token_life: Duration,
        deadline: Deadline,
    ) -> Result<String, Failure> {
        let mut turn = self.turn(deadline).await?;
        let rows = self.reload(&mut turn, deadline).await?;
        let (fresh, put) = self.new_primary(deadline).await?;
        let mut actions = vec![put];
        for row in rows.iter().filter(|row| row.kind == Kind::Signing && row.state == State::Primary) {
            actions.push(self.retire(row, longest_token_life));
        }
        self.commit(audit, actions, Audited::SigningKeyRotate, &fresh, deadline).await?;
        self.reload(&mut turn, deadline).await?;
        Ok(fresh)
    }

    /// Withdraws the signing key `kid`: what it signed no longer verifies. If it is the primary,
    /// a new one takes its place in the same transaction. Answers whether there was such a key.
    ///
    /// # Errors
    /// As [`Self::rotate_signing_key`].
    pub async fn withdraw_signing_key(&self, audit: &AuditLog, kid: &str, deadline: Deadline) -> Result<bool, Failure> {
        let mut turn = self.turn(deadline).await?;
        let rows = self.reload(&mut turn, deadline).await?;
        let is_it = |row: &&Row| row.kind == Kind::Signing && row.kid == kid && row.state != State::Withdrawn;
        let Some(row) = rows.iter().find(is_it) else { return Ok(false) };
        let withdrawn = Row { state: State::Withdrawn, withdraw_time: None, sealed: None, ..row.clone() };
        let mut actions = vec![self.records.put(withdrawn.to_item(), Expected::Revision(row.revision))];
        if rows::primary(&rows)?.kid == kid {
            actions.push(self.new_primary(deadline).await?.1);
        }
        self.commit(audit, actions, Audited::SigningKeyWithdraw, kid, deadline).await?;
        self.reload(&mut turn, deadline).await?;
        Ok(true)
    }

    async fn new_primary(&self, deadline: Deadline) -> Result<(String, Action), Failure> {
        let fresh = rows::new_key(&*self.entropy)?;
        let row = Row::seal(&self.sealer, Kind::Signing, &fresh, self.clock.now(), deadline).await?;
        Ok((fresh.kid, self.records.put(row.to_item(), Expected::Absent)))
    }
    fn retire(&self, row: &Row, longest_token_life: Duration) -> Action {
        let withdraw_time = self.clock.now().plus(longest_token_life).plus(REFRESH_SLACK);
        let retired = Row { state: State::Verifying, withdraw_time: Some(withdraw_time), ..row.clone() };
        self.records.put(retired.to_item(), Expected::Revision(row.revision))
    }
    async fn commit(
        &self,
        audit: &AuditLog,
        actions: Vec<Action>,
        action: Audited,
        kid: &str,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let resource = format!("{}/signing_keys/{kid}", OrgId::system().full_name());
        let draft = AuditDraft { resource, ..AuditDraft::of_server(OrgId::system(), self.clock.now(), action) };
        match audit.commit(actions, draft, deadline).await? {
            Commit::Done(_) => Ok(()),
            Commit::Conflict { .. } => Err(Reason::WriteConflict.into()),
        }
    }
}
