//! Nobody grants or binds wider than they hold: scopes, resources, labels, environments, networks,
//! mode and life.

use std::time::Duration;

use super::{exchange::ExchangePermit, permit::Permit};
use crate::domain::{
    clock::Timestamp,
    error::{Failure, Reason},
    token::{Grant, TokenMode, TokenRecord},
};

/// What somebody holds and may hand on.
#[derive(Clone, Copy, Debug)]
pub struct Holding<'a> {
    grants: &'a [Grant],
    mode: TokenMode,
    expires: Timestamp,
    life: Duration,
    is_use_limited: bool,
}

impl<'a> Holding<'a> {
    /// What the holder of an admitted token may hand on: nothing that outlives what renewal could
    /// still give the token itself.
    #[must_use]
    pub fn of_permit(permit: &'a Permit) -> Self {
        let token = permit.token();
        Self {
            grants: &token.grants,
            mode: token.mode,
            expires: permit.renewable_until(),
            life: token.max_expires.since(token.created),
            is_use_limited: token.uses_max.is_some(),
        }
    }
    /// What an exchange may give.
    #[must_use]
    pub fn of_exchange(permit: &'a ExchangePermit) -> Self {
        Self {
            grants: permit.grants(),
            mode: permit.mode(),
            expires: permit.expires(),
            life: Duration::ZERO,
            is_use_limited: false,
        }
    }
    /// The latest that anything handed on may end.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.expires
    }
    /// The longest life that a binding may give.
    #[must_use]
    pub fn life(&self) -> Duration {
        self.life
    }
    /// The mode for `asked`: MOCK begets MOCK, and where none is asked for it is the holder's.
    ///
    /// # Errors
    /// GRANT_TOO_WIDE when LIVE is asked of a holder of MOCK.
    pub fn mode(&self, asked: Option<TokenMode>) -> Result<TokenMode, Failure> {
        match (self.mode, asked.unwrap_or(self.mode)) {
            (TokenMode::Mock, TokenMode::Live) => Err(too_wide("mode")),
            (_, mode) => Ok(mode),
        }
    }
    /// Lets `asked` through if each of them lies within one of the grants held.
    ///
    /// # Errors
    /// GRANT_TOO_WIDE, with the place of the first that does not.
    pub fn permits(&self, field: &str, asked: &[Grant]) -> Result<(), Failure> {
        if self.is_use_limited {
            // Each token handed on would be one more use.
            return Err(too_wide("uses_max"));
        }
        match asked.iter().position(|child| !self.grants.iter().any(|held| is_within(child, held))) {
            Some(n) => Err(too_wide(&format!("{field}[{n}]"))),
            None => Ok(()),
        }
    }
    /// Lets a token through that was made before, if its holder could be given it now: no wider,
    /// in that mode, and ending no later.
    ///
    /// # Errors
    /// GRANT_TOO_WIDE.
    pub fn gives(&self, token: &TokenRecord) -> Result<(), Failure> {
        self.permits("grants", &token.grants)?;
        self.mode(Some(token.mode))?;
        if token.max_expires > self.expires { Err(too_wide("max_ttl")) } else { Ok(()) }
    }
}

/// GRANT_TOO_WIDE, naming the field.
#[must_use]
pub fn too_wide(field: &str) -> Failure {
    Failure::new(Reason::GrantTooWide).with("field", field)
}

/// Whether whatever `child` lets its holder do, `held` does as well; in doubt, no.
#[must_use]
pub fn is_within(child: &Grant, held: &Grant) -> bool {
    child.scopes.iter().all(|scope| held.scopes.contains(scope))
        && child.resources.iter().all(|inner| held.resources.iter().any(|outer| outer.contains(inner)))
        && held.labels.iter().all(|(name, value)| child.labels.get(name) == Some(value))
        && is_subset(&child.environments, &held.environments, PartialEq::eq)
        && is_subset(&child.client_cidrs, &held.client_cidrs, |inner, outer| outer.contains(inner))
}

/// Whether each of `inner` lies in one of `outer`, where an empty list means any.
pub(super) fn is_subset<T>(inner: &[T], outer: &[T], lies_in: impl Fn(&T, &T) -> bool) -> bool {
    outer.is_empty() || (!inner.is_empty() && inner.iter().all(|one| outer.iter().any(|other| lies_in(one, other))))
}

#[cfg(test)]
mod tests;
