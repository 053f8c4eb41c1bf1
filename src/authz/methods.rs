//! The authorization table: every method of the contract, who may call it, and what its record is
//! called. A method that is not in it is refused; a test walks the descriptor set against it.

use crate::domain::{audit::Action, scope::Scope};

/// What a method asks for before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// A client certificate alone; an authorization header is ignored.
    Certificate,
    /// Any valid token.
    Token,
    /// A token with at least one of these scopes.
    AnyScope(&'static [Scope]),
}

/// What a method does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answers once and changes nothing but the audit log.
    Read,
    /// Changes something; its request_id makes it happen once.
    Mutation,
    /// Takes a stream of changes; the request_id of each makes it happen once.
    Import,
    /// Answers a stream.
    Stream,
}

impl Kind {
    /// Whether it changes something.
    #[must_use]
    pub const fn is_mutation(self) -> bool {
        matches!(self, Self::Mutation | Self::Import)
    }
}

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Method {
    /// `/ibyok.v1.KeyVault/RetrieveKey`
    pub path: &'static str,
    /// Who may call it.
    pub requirement: Requirement,
    /// What it does.
    pub kind: Kind,
    /// What its audit record is called.
    pub action: Action,
    /// Whether this version answers it; otherwise UNIMPLEMENTED, after authorization.
    pub is_built: bool,
}

/// The row of `path`, or None: refused.
#[must_use]
pub fn find(path: &str) -> Option<&'static Method> {
    // Sixty short strings that differ early: a scan is as quick as a hash.
    METHODS.iter().find(|method| method.path == path)
}

const fn row(path: &'static str, requirement: Requirement, kind: Kind, action: Action, is_built: bool) -> Method {
    Method { path, requirement, kind, action, is_built }
}

use Kind::{Import, Mutation, Read, Stream};
use Requirement::{AnyScope, Certificate, Token};

/// The table.
pub static METHODS: &[Method] = &[
    row("/ibyok.v1.KeyVault/CreateKey", AnyScope(&[Scope::KeysWrite]), Mutation, Action::KeyCreate, true),
    row("/ibyok.v1.KeyVault/ImportKeys", AnyScope(&[Scope::KeysWrite]), Import, Action::KeyImport, true),
    row("/ibyok.v1.KeyVault/GetKey", AnyScope(&[Scope::KeysList]), Read, Action::KeyGet, true),
    row("/ibyok.v1.KeyVault/ListKeys", AnyScope(&[Scope::KeysList]), Read, Action::KeyList, true),
    row("/ibyok.v1.KeyVault/UpdateKey", AnyScope(&[Scope::KeysWrite]), Mutation, Action::KeyUpdate, true),
    row(
        "/ibyok.v1.KeyVault/RetrieveKey",
        AnyScope(&[Scope::KeysRead, Scope::KeysReadAdmin]),
        Read,
        Action::KeyRetrieve,
        true,
    ),
    row("/ibyok.v1.KeyVault/BatchRetrieveKeys", AnyScope(&[Scope::KeysRead]), Read, Action::KeyRetrieve, true),
    row("/ibyok.v1.KeyVault/WatchKeys", AnyScope(&[Scope::KeysList]), Stream, Action::KeyWatch, false),
    row("/ibyok.v1.KeyVault/AddKeyVersion", AnyScope(&[Scope::KeysRotate]), Mutation, Action::VersionAdd, true),
    row("/ibyok.v1.KeyVault/VerifyKeyVersion", AnyScope(&[Scope::KeysRotate]), Mutation, Action::VersionVerify, true),
    row("/ibyok.v1.KeyVault/PromoteKeyVersion", AnyScope(&[Scope::KeysRotate]), Mutation, Action::VersionPromote, true),
    row(
        "/ibyok.v1.KeyVault/RollBackKeyVersion",
        AnyScope(&[Scope::KeysRotate]),
        Mutation,
        Action::VersionRollBack,
        true,
    ),
    row(
        "/ibyok.v1.KeyVault/DestroyKeyVersion",
        AnyScope(&[Scope::KeysDestroy]),
        Mutation,
        Action::VersionDestroy,
        true,
    ),
    row("/ibyok.v1.KeyVault/ListKeyVersions", AnyScope(&[Scope::KeysList]), Read, Action::VersionList, true),
    row("/ibyok.v1.KeyVault/DisableKey", AnyScope(&[Scope::KeysWrite]), Mutation, Action::KeyDisable, true),
    row("/ibyok.v1.KeyVault/EnableKey", AnyScope(&[Scope::KeysWrite]), Mutation, Action::KeyEnable, true),
    row("/ibyok.v1.KeyVault/DeleteKey", AnyScope(&[Scope::KeysDelete]), Mutation, Action::KeyDelete, true),
    row("/ibyok.v1.KeyVault/UndeleteKey", AnyScope(&[Scope::KeysDelete]), Mutation, Action::KeyUndelete, true),
    row("/ibyok.v1.KeyVault/DestroyKey", AnyScope(&[Scope::KeysDestroy]), Mutation, Action::KeyDestroy, true),
    row("/ibyok.v1.KeyVault/RewrapKeys", AnyScope(&[Scope::KeysRewrap, Scope::Admin]), Stream, Action::KeyRewrap, true),
    row("/ibyok.v1.KeyVault/ListKeyConsumers", AnyScope(&[Scope::UsageRead]), Read, Action::KeyConsumers, true),
    row("/ibyok.v1.KeyVault/LookupKeys", AnyScope(&[Scope::KeysLookup]), Read, Action::KeyLookup, false),
    row("/ibyok.v1.KeyVault/DetectProvider", Token, Read, Action::ProviderDetect, true),
    row("/ibyok.v1.KeyVault/ListProviders", Token, Read, Action::ProviderList, true),
    row("/ibyok.v1.KeyVault/GetUsage", AnyScope(&[Scope::UsageRead]), Read, Action::UsageRead, true),
    row("/ibyok.v1.KeyGroups/AcquireKey", AnyScope(&[Scope::KeysRead]), Read, Action::KeyAcquire, false),
    row("/ibyok.v1.KeyGroups/ReportKeyOutcome", AnyScope(&[Scope::KeysReport]), Mutation, Action::KeyReport, false),
    row("/ibyok.v1.KeyGroups/CreateKeyGroup", AnyScope(&[Scope::GroupsWrite]), Mutation, Action::GroupCreate, false),
    row("/ibyok.v1.KeyGroups/GetKeyGroup", AnyScope(&[Scope::GroupsList]), Read, Action::GroupGet, false),
    row("/ibyok.v1.KeyGroups/ListKeyGroups", AnyScope(&[Scope::GroupsList]), Read, Action::GroupList, false),
    row("/ibyok.v1.KeyGroups/UpdateKeyGroup", AnyScope(&[Scope::GroupsWrite]), Mutation, Action::GroupUpdate, false),
    row("/ibyok.v1.KeyGroups/DeleteKeyGroup", AnyScope(&[Scope::GroupsWrite]), Mutation, Action::GroupDelete, false),
    row("/ibyok.v1.Tokens/IssueToken", AnyScope(&[Scope::TokensIssue]), Mutation, Action::TokenIssue, true),
    row("/ibyok.v1.Tokens/ExchangeToken", Certificate, Mutation, Action::TokenExchange, true),
    row("/ibyok.v1.Tokens/RenewToken", Token, Mutation, Action::TokenRenew, true),
    row("/ibyok.v1.Tokens/RevokeTokens", AnyScope(&[Scope::TokensRevoke]), Mutation, Action::TokenRevoke, true),
    row("/ibyok.v1.Tokens/GetToken", AnyScope(&[Scope::TokensList]), Read, Action::TokenGet, true),
    row("/ibyok.v1.Tokens/ListTokens", AnyScope(&[Scope::TokensList]), Read, Action::TokenList, true),
    row("/ibyok.v1.Tokens/IntrospectToken", Token, Read, Action::TokenIntrospect, true),
    row(
        "/ibyok.v1.Tokens/CreateIdentityBinding",
        AnyScope(&[Scope::BindingsWrite]),
        Mutation,
        Action::BindingCreate,
        true,
    ),
    row("/ibyok.v1.Tokens/ListIdentityBindings", AnyScope(&[Scope::BindingsList]), Read, Action::BindingList, true),
    row(
        "/ibyok.v1.Tokens/DeleteIdentityBinding",
        AnyScope(&[Scope::BindingsWrite]),
        Mutation,
        Action::BindingDelete,
        true,
    ),
    row("/ibyok.v1.Tokens/GetJwks", Certificate, Read, Action::JwksGet, true),
    row("/ibyok.v1.Audit/ListAuditEvents", AnyScope(&[Scope::AuditRead]), Read, Action::AuditList, true),
    row("/ibyok.v1.Audit/GetAuditEvent", AnyScope(&[Scope::AuditRead]), Read, Action::AuditGet, true),
    row("/ibyok.v1.Audit/StreamAuditEvents", AnyScope(&[Scope::AuditRead]), Stream, Action::AuditStream, true),
    row("/ibyok.v1.Audit/GetCheckpoint", AnyScope(&[Scope::AuditRead]), Read, Action::AuditProof, false),
    row("/ibyok.v1.Audit/GetInclusionProof", AnyScope(&[Scope::AuditRead]), Read, Action::AuditProof, false),
    row("/ibyok.v1.Audit/GetConsistencyProof", AnyScope(&[Scope::AuditRead]), Read, Action::AuditProof, false),
    row("/ibyok.v1.Audit/VerifyAuditLog", AnyScope(&[Scope::Admin]), Stream, Action::AuditVerify, true),
    row("/ibyok.v1.Admin/GetServerStatus", AnyScope(&[Scope::Admin]), Read, Action::ServerStatus, true),
    row("/ibyok.v1.Admin/CreateOrg", AnyScope(&[Scope::Admin]), Mutation, Action::OrgCreate, true),
    row("/ibyok.v1.Admin/UpdateOrg", AnyScope(&[Scope::Admin]), Mutation, Action::OrgUpdate, true),
    row("/ibyok.v1.Admin/ListOrgs", AnyScope(&[Scope::Admin]), Read, Action::OrgList, true),
    row("/ibyok.v1.Admin/ShredOrg", AnyScope(&[Scope::Admin]), Mutation, Action::OrgShred, false),
    row("/ibyok.v1.Admin/ExportBackup", AnyScope(&[Scope::BackupExport]), Stream, Action::BackupExport, false),
    row("/ibyok.v1.Admin/RestoreBackup", AnyScope(&[Scope::BackupRestore]), Import, Action::BackupRestore, false),
];
