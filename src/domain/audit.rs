//! What the audit log says of a call: a closed list of actions and an allow-listed schema.

use std::collections::BTreeMap;

use super::{clock::Timestamp, error::Reason, ids::OrgId};

macro_rules! actions {
    ($($variant:ident $text:literal;)*) => {
        /// What was done or tried.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Action { $(#[doc = $text] $variant,)* }
        impl Action {
            /// Every action there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// The text that stands in the record.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
        }
    };
}

actions! {
    KeyCreate "key.create"; KeyUpdate "key.update"; KeyRetrieve "key.retrieve";
    KeyRetrieveFailed "key.retrieve.failed"; KeyRetrieveMock "key.retrieve.mock"; KeyCheck "key.check";
    KeyAcquire "key.acquire"; KeyReport "key.report"; KeyLookup "key.lookup"; KeyImport "key.import";
    KeyGet "key.get"; KeyList "key.list"; KeyWatch "key.watch"; KeyRewrap "key.rewrap";
    KeyDisable "key.disable"; KeyEnable "key.enable"; KeyDelete "key.delete"; KeyUndelete "key.undelete";
    KeyDestroy "key.destroy"; KeyPurge "key.purge"; KeyConsumers "key.consumers";
    VersionAdd "key.version.add"; VersionVerify "key.version.verify"; VersionPromote "key.version.promote";
    VersionRollBack "key.version.rollback"; VersionDestroy "key.version.destroy"; VersionList "key.version.list";
    ProviderDetect "provider.detect"; ProviderList "provider.list"; UsageRead "usage.read";
    GroupCreate "group.create"; GroupGet "group.get"; GroupList "group.list"; GroupUpdate "group.update";
    GroupDelete "group.delete";
    TokenIssue "token.issue"; TokenExchange "token.exchange"; TokenRenew "token.renew"; TokenRevoke "token.revoke";
    TokenGet "token.get"; TokenList "token.list"; TokenIntrospect "token.introspect"; JwksGet "jwks.get";
    BindingCreate "binding.create"; BindingList "binding.list"; BindingDelete "binding.delete";
    SigningKeyRotate "signing_key.rotate"; SigningKeyWithdraw "signing_key.withdraw";
    AuditList "audit.list"; AuditGet "audit.get"; AuditStream "audit.stream"; AuditVerify "audit.verify";
    AuditProof "audit.proof"; AuditArchive "audit.archive";
    OrgCreate "org.create"; OrgUpdate "org.update"; OrgList "org.list"; OrgShred "org.shred";
    ServerStatus "server.status"; ServerInit "server.init";
    BackupExport "backup.export"; BackupRestore "backup.restore";
    DenialsOverflow "audit.denials.overflow"; MethodUnknown "method.unknown";
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Authorised; what was asked may have left.
    Allowed,
    /// Refused.
    Denied,
    /// Authorised, but it did not work.
    Failed,
}

/// One record before it is salted and serialized. No field may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditDraft {
    /// The organization whose log it stands in.
    pub org: OrgId,
    /// When the call came in.
    pub time: Timestamp,
    /// What was done or tried.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, when denied or failed.
    pub reason: Option<Reason>,
    /// The full resource name, or empty.
    pub resource: String,
    /// The token's subject, or empty.
    pub subject: String,
    /// The token's id, or empty.
    pub token_id: String,
    /// [`ClientCertificate::primary_identity`](super::principal::ClientCertificate::primary_identity).
    pub client_identity: String,
    /// The address that the server sees.
    pub client_address: String,
    /// At most 256 bytes.
    pub user_agent: String,
    /// At most 256 bytes.
    pub purpose: String,
    /// W3C trace id, 32 hex digits, or empty.
    pub trace_id: String,
    /// What else is told, by names of ours: of a key `provider`, `uid`, `environment`, `version`; of a
    /// retrieval that failed the `event` that allowed it; of a revocation `revoked_subject`,
    /// `issued_before_micros`; of refusals without a record of their own their `count`; of an archived part
    /// `first_position`, `last_position`, `records`, `file_digest`. A
    /// grant that is limited to environments shows only records that name one, so those of a key do.
    pub details: BTreeMap<&'static str, String>,
    /// Revision of the resource after a mutation; 0 otherwise.
    pub revision: u64,
}

impl AuditDraft {
    /// What the server did by itself: ALLOWED, and nobody called.
    #[must_use]
    pub fn of_server(org: OrgId, time: Timestamp, action: Action) -> Self {
        Self {
            org,
            time,
            action,
            outcome: Outcome::Allowed,
            reason: None,
            resource: String::new(),
            subject: String::new(),
            token_id: String::new(),
            client_identity: String::new(),
            client_address: String::new(),
            user_agent: String::new(),
            purpose: String::new(),
            trace_id: String::new(),
            details: BTreeMap::new(),
            revision: 0,
        }
    }
}

/// Where the record of a call stands: its event id is `{chain}.{sequence}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The chain, one for each writer.
    pub chain: String,
    /// batch x 4096 + index within the batch.
    pub sequence: u64,
    /// SHA-256(0x00 || record), RFC 6962.
    pub leaf_hash: [u8; 32],
}

impl Receipt {
    /// `{chain}.{sequence}`
    #[must_use]
    pub fn event_id(&self) -> String {
        format!("{}.{}", self.chain, self.sequence)
    }
}
