//! Scopes: a verb on a kind of resource, as tokens carry them.

use std::{borrow::Cow, fmt};

use super::error::InvalidInput;

macro_rules! scopes {
    ($($variant:ident $text:literal $doc:literal;)*) => {
        /// What a grant lets its holder do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Scope { $(#[doc = $doc] $variant,)* }

        impl Scope {
            /// Every scope there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// The text: `keys:read`.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
            /// The scope of that text.
            #[must_use]
            pub fn from_text(text: &str) -> Option<Self> { match text { $($text => Some(Self::$variant),)* _ => None } }
        }
    };
}

scopes! {
    KeysRead "keys:read" "Retrieve provider keys.";
    KeysReadAdmin "keys:read-admin" "Retrieve provider administration keys, by name.";
    KeysList "keys:list" "See metadata and previews.";
    KeysWrite "keys:write" "Create and change entries.";
    KeysRotate "keys:rotate" "Add, verify, promote and roll back versions.";
    KeysDelete "keys:delete" "Delete and undelete within the recovery window.";
    KeysDestroy "keys:destroy" "Destroy for good.";
    KeysRewrap "keys:rewrap" "Re-encrypt data keys under another KMS key.";
    KeysLookup "keys:lookup" "Ask whether a leaked string is a stored key.";
    KeysReport "keys:report" "Report what a provider answered.";
    UsageRead "usage:read" "Read counts and consumers.";
    GroupsWrite "groups:write" "Create and change key groups.";
    GroupsList "groups:list" "See key groups.";
    TokensIssue "tokens:issue" "Issue tokens, never wider than one's own.";
    TokensRevoke "tokens:revoke" "Revoke tokens.";
    TokensList "tokens:list" "See tokens' metadata.";
    BindingsWrite "bindings:write" "Create and delete identity bindings.";
    BindingsList "bindings:list" "See identity bindings.";
    AuditRead "audit:read" "Read the audit log.";
    Admin "admin" "Operate the whole vault; organization system only.";
    BackupExport "backup:export" "Export a sealed backup; organization system only.";
    BackupRestore "backup:restore" "Restore a backup; organization system only.";
}

impl Scope {
    /// Whether only tokens of the organization `system` can carry it.
    #[must_use]
    pub const fn is_system_only(self) -> bool {
        matches!(self, Self::Admin | Self::BackupExport | Self::BackupRestore)
    }
    /// Every scope that an ordinary organization's token can carry.
    pub fn ordinary() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|scope| !scope.is_system_only())
    }
    /// Parses `text`, which came in `field`.
    ///
    /// # Errors
    /// When there is no such scope.
    pub fn parse(field: impl Into<Cow<'static, str>>, text: &str) -> Result<Self, InvalidInput> {
        Self::from_text(text).ok_or_else(|| InvalidInput::new(field, "a scope such as keys:read; see docs/SCOPES.md"))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
