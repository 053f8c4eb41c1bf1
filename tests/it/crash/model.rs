//! What one writer did to the vault, as far as the vault acknowledged it: what must be there,
//! whatever happened to the process since.

use std::collections::{BTreeMap, BTreeSet};

use ibyok::grpc::pb::{self, VersionStage};
use tonic::Status;

use crate::harness::{Caller, ORG};

/// A mutation, and the id by which it happens once.
#[derive(Clone, Debug)]
pub struct Mutation {
    pub request_id: String,
    pub deed: Deed,
}

/// What is done.
#[derive(Clone, Debug)]
pub enum Deed {
    Create { key: String, secret: String },
    AddVersion { key: String, secret: String },
    Promote { key: String, version: usize },
    RollBack { key: String },
    DestroyVersion { key: String, version: usize },
    Disable { key: String },
    Enable { key: String },
    Destroy { key: String },
    Issue { subject: String },
    Revoke { token: String },
}

/// What the vault acknowledged.
#[derive(Debug)]
pub enum Done {
    Plain,
    Version(String),
    Token { id: String, text: String },
}

/// A key, as its writer left it.
#[derive(Clone, Debug, Default)]
pub struct KeyFacts {
    /// The value of each version, from the first.
    pub values: Vec<String>,
    /// The number of CURRENT.
    pub current: usize,
    /// That of PREVIOUS, if there is one: no grace ends while this runs.
    pub previous: Option<usize>,
    pub retired: BTreeSet<usize>,
    pub destroyed: BTreeSet<usize>,
    pub is_disabled: bool,
    pub is_destroyed: bool,
    /// How often each action was done; as many records of it there must be.
    pub records: BTreeMap<&'static str, usize>,
}

/// A token, as its writer left it.
#[derive(Clone, Debug)]
pub struct TokenFacts {
    pub text: String,
    pub subject: String,
    pub is_revoked: bool,
}

/// Everything that one writer did.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub keys: BTreeMap<String, KeyFacts>,
    pub tokens: BTreeMap<String, TokenFacts>,
}

pub fn key_name(key: &str) -> String {
    format!("orgs/{ORG}/keys/{key}")
}

impl Mutation {
    /// Asks the vault for it.
    pub async fn send(&self, caller: &Caller) -> Result<Done, Status> {
        let request_id = self.request_id.clone();
        match self.deed.clone() {
            Deed::Create { key, secret } => {
                let secret = Some(pb::SecretValue { text: secret });
                let provider = "openai".to_owned();
                let request = pb::CreateKeyRequest { key_id: key, secret, provider, request_id, ..Default::default() };
                caller.keys().create_key(request).await.map(|_| Done::Plain)
            }
            Deed::AddVersion { key, secret } => {
                let secret = Some(pb::SecretValue { text: secret });
                let request = pb::AddKeyVersionRequest { name: key, secret, request_id, ..Default::default() };
                let answer = caller.keys().add_key_version(request).await?.into_inner();
                Ok(Done::Version(answer.version.unwrap().name.clone()))
            }
            Deed::Promote { key, version } => {
                let name = format!("{}/versions/{version}", key_name(&key));
                let request =
                    pb::PromoteKeyVersionRequest { name, allow_unverified: true, request_id, ..Default::default() };
                caller.keys().promote_key_version(request).await.map(|_| Done::Plain)
            }
            Deed::RollBack { key } => {
                let request = pb::RollBackKeyVersionRequest { name: key, request_id, ..Default::default() };
                caller.keys().roll_back_key_version(request).await.map(|_| Done::Plain)
            }
            Deed::DestroyVersion { key, version } => {
                let name = format!("{}/versions/{version}", key_name(&key));
                let request =
                    pb::DestroyKeyVersionRequest { confirm: name.clone(), name, request_id, ..Default::default() };
                caller.keys().destroy_key_version(request).await.map(|_| Done::Plain)
            }
            Deed::Disable { key } => {
                let request = pb::DisableKeyRequest { name: key, request_id, ..Default::default() };
                caller.keys().disable_key(request).await.map(|_| Done::Plain)
            }
            Deed::Enable { key } => {
                let request = pb::EnableKeyRequest { name: key, request_id, ..Default::default() };
                caller.keys().enable_key(request).await.map(|_| Done::Plain)
            }
            Deed::Destroy { key } => {
                let request =
                    pb::DestroyKeyRequest { name: key.clone(), confirm: key, request_id, ..Default::default() };
                caller.keys().destroy_key(request).await.map(|_| Done::Plain)
            }
            Deed::Issue { subject } => {
                let grants = vec![pb::Grant { scopes: vec!["keys:list".into()], ..Default::default() }];
                let request = pb::IssueTokenRequest { subject, grants, request_id, ..Default::default() };
                let answer = caller.tokens().issue_token(request).await?.into_inner();
                let id = answer.token.unwrap().name.rsplit('/').next().unwrap().to_owned();
                Ok(Done::Token { id, text: answer.access_token.unwrap().text.clone() })
            }
            Deed::Revoke { token } => {
                let which = Some(pb::revoke_tokens_request::Which::Name(token));
                let request = pb::RevokeTokensRequest { which, request_id, ..Default::default() };
                let answer = caller.tokens().revoke_tokens(request).await?.into_inner();
                assert_eq!(answer.revoked, 1);
                Ok(Done::Plain)
            }
        }
    }

    /// The key that it changes.
    pub fn key(&self) -> Option<&str> {
        match &self.deed {
            Deed::Create { key, .. }
            | Deed::AddVersion { key, .. }
            | Deed::Promote { key, .. }
            | Deed::RollBack { key }
            | Deed::DestroyVersion { key, .. }
            | Deed::Disable { key }
            | Deed::Enable { key }
            | Deed::Destroy { key } => Some(key),
            Deed::Issue { .. } | Deed::Revoke { .. } => None,
        }
    }
}

impl Model {
    /// Takes in that `mutation` happened.
    pub fn apply(&mut self, mutation: &Mutation, done: &Done) {
        match (&mutation.deed, done) {
            (Deed::Issue { subject }, Done::Token { id, text }) => {
                let facts = TokenFacts { text: text.clone(), subject: subject.clone(), is_revoked: false };
                assert!(self.tokens.insert(id.clone(), facts).is_none(), "a token's id came twice");
            }
            (Deed::Revoke { token }, _) => self.tokens.get_mut(token).unwrap().is_revoked = true,
            _ => {
                let facts = self.keys.entry(mutation.key().unwrap().to_owned()).or_default();
                facts.apply(&mutation.deed);
                if let (Deed::AddVersion { key, .. }, Done::Version(name)) = (&mutation.deed, done) {
                    assert_eq!(*name, format!("{}/versions/{}", key_name(key), facts.values.len()));
                }
            }
        }
    }
}

impl KeyFacts {
    pub fn apply(&mut self, deed: &Deed) {
        let action = match deed {
            Deed::Create { secret, .. } => {
                self.values.push(secret.clone());
                self.current = 1;
                "key.create"
            }
            Deed::AddVersion { secret, .. } => {
                self.values.push(secret.clone());
                "key.version.add"
            }
            Deed::Promote { version, .. } => {
                self.retired.extend(self.previous.replace(self.current));
                self.current = *version;
                "key.version.promote"
            }
            Deed::RollBack { .. } => {
                self.current = self.previous.take().unwrap();
                "key.version.rollback"
            }
            Deed::DestroyVersion { version, .. } => {
                self.previous = self.previous.filter(|previous| previous != version);
                self.retired.remove(version);
                self.destroyed.insert(*version);
                "key.version.destroy"
            }
            Deed::Disable { .. } => {
                self.is_disabled = true;
                "key.disable"
            }
            Deed::Enable { .. } => {
                self.is_disabled = false;
                "key.enable"
            }
            Deed::Destroy { .. } => {
                self.is_destroyed = true;
                "key.destroy"
            }
            Deed::Issue { .. } | Deed::Revoke { .. } => return,
        };
        *self.records.entry(action).or_default() += 1;
    }

    /// The stage of each version, from the first.
    pub fn stages(&self) -> Vec<VersionStage> {
        let stage = |number| match number {
            number if number == self.current => VersionStage::Current,
            number if self.destroyed.contains(&number) => VersionStage::Destroyed,
            number if self.retired.contains(&number) => VersionStage::Retired,
            number if Some(number) == self.previous => VersionStage::Previous,
            _ => VersionStage::Pending,
        };
        (1..=self.values.len()).map(stage).collect()
    }

    /// The newest version that can be promoted.
    pub fn pending(&self) -> Option<usize> {
        let stages = self.stages();
        (1..=stages.len()).rfind(|number| stages[number - 1] == VersionStage::Pending)
    }

    /// The value that is retrieved.
    pub fn value(&self) -> &str {
        &self.values[self.current - 1]
    }
}
