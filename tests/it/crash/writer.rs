//! One of those who write at the same time. Nobody else touches its keys and tokens, so that what
//! must be there after a crash is known exactly: what was acknowledged, and perhaps the one
//! mutation that was under way.

use std::{collections::BTreeSet, mem::take};

use ibyok::grpc::pb::{self, AuditOutcome, VersionStage};
use tokio::sync::mpsc::UnboundedSender;
use tonic::{Code, Status};

use super::model::{Deed, Done, KeyFacts, Model, Mutation, key_name};
use crate::{
    dice::Dice,
    harness::{Caller, reason},
};

pub struct Writer {
    name: String,
    dice: Dice,
    names: usize,
    pub model: Model,
    /// What was asked for and not answered.
    in_flight: Option<Mutation>,
    /// With what the vault ended the work.
    pub ended_with: Option<Status>,
    /// Keys that were not checked since they were touched.
    touched_keys: BTreeSet<String>,
    touched_tokens: BTreeSet<String>,
    /// Event ids of acknowledged retrievals, and what was retrieved; not checked yet.
    receipts: Vec<(String, String)>,
    pub acknowledged: usize,
    /// Of the mutations that a crash left without an answer: how many had not happened, and how
    /// many had.
    pub lost: usize,
    pub kept: usize,
}

/// A key as the vault shows it; the default is that of an absent one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    is_there: bool,
    /// From the first version.
    stages: Vec<VersionStage>,
    /// None: refused, for the key is disabled.
    value: Option<String>,
}

impl Writer {
    pub fn new(name: &str, dice: Dice) -> Self {
        Self {
            name: name.to_owned(),
            dice,
            names: 0,
            model: Model::default(),
            in_flight: None,
            ended_with: None,
            touched_keys: BTreeSet::new(),
            touched_tokens: BTreeSet::new(),
            receipts: Vec::new(),
            acknowledged: 0,
            lost: 0,
            kept: 0,
        }
    }

    /// Writes and reads until the vault is gone, and tells of each answer.
    pub async fn work(&mut self, caller: &Caller, answered: UnboundedSender<()>) {
        while self.step(caller).await {
            // Nobody may listen any more.
            let _ = answered.send(());
        }
    }

    /// Writes or reads once; false when the vault did not answer.
    pub async fn step(&mut self, caller: &Caller) -> bool {
        let wanted = if self.dice.below(3) == 0 { self.pick_key(|facts| !facts.is_disabled) } else { None };
        let is_answered = match wanted {
            Some(key) => self.read(caller, &key).await,
            None => self.write(caller).await,
        };
        self.acknowledged += usize::from(is_answered);
        is_answered
    }

    async fn write(&mut self, caller: &Caller) -> bool {
        let mutation = Mutation { request_id: format!("request-{}", self.unique()), deed: self.next_deed() };
        self.in_flight = Some(mutation.clone());
        match mutation.send(caller).await {
            Ok(done) => {
                self.take_in(&mutation, &done);
                self.in_flight = None;
                true
            }
            Err(status) if is_no_answer(&status) => {
                self.ended_with = Some(status);
                false
            }
            Err(refusal) => panic!("{}: {mutation:?}: {refusal:?}", self.name),
        }
    }

    async fn read(&mut self, caller: &Caller, key: &str) -> bool {
        match self.retrieve(caller, key).await {
            Ok(value) => {
                assert_eq!(value, self.model.keys[key].value());
                true
            }
            Err(status) if is_no_answer(&status) => {
                self.ended_with = Some(status);
                false
            }
            Err(refusal) => panic!("{}: retrieving {key}: {refusal:?}", self.name),
        }
    }

    async fn retrieve(&mut self, caller: &Caller, key: &str) -> Result<String, Status> {
        let request = pb::RetrieveKeyRequest { name: key.to_owned(), ..Default::default() };
        let answer = caller.keys().retrieve_key(request).await?.into_inner();
        let receipt = answer.receipt.unwrap();
        self.receipts.push((format!("{}.{}", receipt.chain, receipt.sequence), answer.key_version));
        Ok(answer.secret.unwrap().text.clone())
    }

    fn next_deed(&mut self) -> Deed {
        match self.dice.below(10) {
            0 => self.create(),
            1 => match self.pick_key(|facts| facts.values.len() > 3) {
                Some(key) => Deed::Destroy { key },
                None => self.create(),
            },
            2 => {
                let Some(key) = self.pick_key(|_| true) else { return self.create() };
                if self.model.keys[&key].is_disabled { Deed::Enable { key } } else { Deed::Disable { key } }
            }
            3 => Deed::Issue { subject: format!("subject-{}", self.unique()) },
            4 => {
                let live: Vec<_> = self.model.tokens.iter().filter(|(_, facts)| !facts.is_revoked).collect();
                if live.is_empty() {
                    return Deed::Issue { subject: format!("subject-{}", self.unique()) };
                }
                let (id, _) = live[self.dice.below(live.len())];
                Deed::Revoke { token: id.clone() }
            }
            5 => match self.pick_key(|facts| facts.previous.is_some()) {
                Some(key) => Deed::RollBack { key },
                None => self.rotate(),
            },
            6 => match self.pick_key(|facts| facts.values.len() > facts.destroyed.len() + 1) {
                Some(key) => {
                    let facts = &self.model.keys[&key];
                    let there = |version: &usize| *version != facts.current && !facts.destroyed.contains(version);
                    let versions: Vec<_> = (1..=facts.values.len()).filter(there).collect();
                    let version = versions[self.dice.below(versions.len())];
                    Deed::DestroyVersion { key, version }
                }
                None => self.rotate(),
            },
            _ => self.rotate(),
        }
    }

    fn rotate(&mut self) -> Deed {
        let Some(key) = self.pick_key(|_| true) else { return self.create() };
        match self.model.keys[&key].pending() {
            Some(version) => Deed::Promote { key, version },
            None => Deed::AddVersion { key, secret: self.secret() },
        }
    }

    fn create(&mut self) -> Deed {
        Deed::Create { key: format!("key-{}", self.unique()), secret: self.secret() }
    }

    fn secret(&mut self) -> String {
        format!("sk-proj-{}", self.unique())
    }

    fn unique(&mut self) -> String {
        self.names += 1;
        format!("{}-{:06}", self.name, self.names)
    }

    /// Any of its keys that is there and `fits`.
    fn pick_key(&mut self, fits: impl Fn(&KeyFacts) -> bool) -> Option<String> {
        let keys = self.model.keys.iter().filter(|(_, facts)| !facts.is_destroyed && fits(facts));
        let keys: Vec<_> = keys.map(|(key, _)| key).collect();
        if keys.is_empty() { None } else { Some(keys[self.dice.below(keys.len())].clone()) }
    }

    /// Wants that it was the connection that ended its work, and no answer of a server that lives on.
    pub fn assert_cut_off(&mut self) {
        let status = self.ended_with.take().expect("nothing ended the work");
        let is_transport = std::error::Error::source(&status).is_some();
        assert!(is_transport && reason(&status).is_empty(), "{}: {status:?}", self.name);
    }

    /// After a crash: the mutation that was under way happened wholly or not at all, and asked for
    /// again, twice, it has happened once. What was acknowledged is there.
    pub async fn check(&mut self, caller: &Caller) {
        if let Some(mutation) = self.in_flight.take() {
            if let Some(key) = mutation.key() {
                let before = self.model.keys.get(key).cloned().unwrap_or_default();
                let mut after = before.clone();
                after.apply(&mutation.deed);
                let seen = self.look(caller, key).await;
                match seen {
                    seen if seen == Seen::expected(&before) => self.lost += 1,
                    seen if seen == Seen::expected(&after) => self.kept += 1,
                    seen => panic!("{mutation:?} was done in part: {seen:?}"),
                }
            }
            self.finish(caller, &mutation).await;
        }
        for key in take(&mut self.touched_keys) {
            self.check_key(caller, &key).await;
        }
        for (event, resource) in take(&mut self.receipts) {
            check_event(caller, event, &resource).await;
        }
        self.check_tokens(caller).await;
    }

    /// As [`Self::check`], of everything that there ever was.
    pub async fn check_all(&mut self, caller: &Caller) {
        self.touched_keys = self.model.keys.keys().cloned().collect();
        self.touched_tokens = self.model.tokens.keys().cloned().collect();
        self.check(caller).await;
    }

    async fn finish(&mut self, caller: &Caller, mutation: &Mutation) {
        let first = mutation.send(caller).await.unwrap_or_else(|status| panic!("{mutation:?}: {status:?}"));
        let second = mutation.send(caller).await.unwrap_or_else(|status| panic!("{mutation:?}: {status:?}"));
        match (&first, &second) {
            (Done::Version(first), Done::Version(second)) => assert_eq!(first, second),
            (Done::Token { id: first, text }, Done::Token { id: second, text: again }) => {
                assert_eq!((first, text), (second, again));
            }
            _ => {}
        }
        self.take_in(mutation, &first);
    }

    /// Remembers what was acknowledged.
    fn take_in(&mut self, mutation: &Mutation, done: &Done) {
        self.model.apply(mutation, done);
        self.touched_keys.extend(mutation.key().map(str::to_owned));
        match (&mutation.deed, done) {
            (_, Done::Token { id, .. }) | (Deed::Revoke { token: id }, _) => self.touched_tokens.insert(id.clone()),
            _ => false,
        };
    }

    async fn check_key(&mut self, caller: &Caller, key: &str) {
        let expected = Seen::expected(self.model.keys.get(key).unwrap_or(&KeyFacts::default()));
        assert_eq!(self.look(caller, key).await, expected, "{key}");
    }

    async fn look(&mut self, caller: &Caller, key: &str) -> Seen {
        let request = pb::ListKeyVersionsRequest { parent: key.to_owned(), page_size: 1_000, ..Default::default() };
        let versions = match caller.keys().list_key_versions(request).await {
            Ok(answer) => answer.into_inner().versions,
            Err(status) if reason(&status) == "KEY_NOT_FOUND" => return Seen::default(),
            Err(status) => panic!("{key}: {status:?}"),
        };
        let newest_first = versions.iter().map(|version| version.stage());
        let stages = newest_first.rev().collect();
        let value = match self.retrieve(caller, key).await {
            Ok(value) => Some(value),
            Err(status) if reason(&status) == "KEY_DISABLED" => None,
            Err(status) => panic!("{key}: {status:?}"),
        };
        Seen { is_there: true, stages, value }
    }

    /// Tokens that are revoked stay so; the others are good.
    async fn check_tokens(&mut self, caller: &Caller) {
        let keys = |facts: &super::model::TokenFacts| caller.with_token(facts.text.clone()).keys();
        for facts in take(&mut self.touched_tokens).iter().map(|id| &self.model.tokens[id]) {
            let used = keys(facts).list_keys(pb::ListKeysRequest { page_size: 1, ..Default::default() }).await;
            match used {
                Ok(_) => assert!(!facts.is_revoked, "a revoked token was accepted"),
                Err(status) => assert_eq!((reason(&status).as_str(), facts.is_revoked), ("TOKEN_REVOKED", true)),
            }
        }
    }

    /// Whether issuing happened once: each subject has one token.
    pub async fn check_subjects(&self, caller: &Caller) {
        for (id, facts) in &self.model.tokens {
            let subject = facts.subject.clone();
            let request = pb::ListTokensRequest { subject, show_inactive: true, page_size: 100, ..Default::default() };
            let listed = caller.tokens().list_tokens(request).await.unwrap().into_inner().tokens;
            let names: Vec<_> = listed.iter().map(|token| token.name.rsplit('/').next().unwrap()).collect();
            assert_eq!(names, [id]);
        }
    }
}

impl Seen {
    fn expected(facts: &KeyFacts) -> Self {
        if facts.is_destroyed || facts.values.is_empty() {
            return Self::default();
        }
        let value = (!facts.is_disabled).then(|| facts.value().to_owned());
        Self { is_there: true, stages: facts.stages(), value }
    }
}

/// Whether nobody can tell from `status` if the call was carried out.
fn is_no_answer(status: &Status) -> bool {
    let is_vague = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
    is_vague || reason(status).is_empty()
}

/// The record of a retrieval is where its receipt says.
async fn check_event(caller: &Caller, id: String, version: &str) {
    let which = Some(pb::get_audit_event_request::Which::Id(id.clone()));
    let answer = caller.audit().get_audit_event(pb::GetAuditEventRequest { which, ..Default::default() }).await;
    let event = answer.unwrap_or_else(|status| panic!("{version} was released without a record: {status:?}"));
    let event = event.into_inner().event.unwrap();
    assert_eq!((event.id.as_str(), event.action.as_str()), (id.as_str(), "key.retrieve"));
    assert_eq!(event.outcome(), AuditOutcome::Allowed);
    let (key, number) = version.split_once("/versions/").unwrap();
    assert!(event.resource == key || event.resource == version, "{} for {version}", event.resource);
    assert_eq!(event.details.get("version").map(String::as_str), Some(number));
    assert!(key.starts_with(&key_name("key-")));
}
