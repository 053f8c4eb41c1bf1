//! `ibyok keys rotate`: a new value without downtime, as a walk of five steps: add, verify, promote,
//! wait, retire. Whoever breaks off and runs it again goes on where the key stands. On a terminal it
//! asks before each step; elsewhere it goes exactly as far as its flags say, and waits for no answer.

mod stand;
mod wait;

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args};
use ibyok_client::{
    Error, ProviderKey,
    pb::{self, VersionStage},
};
use serde_json::json;

use self::{stand::Stand, wait::Wait};
use super::{
    rotate::{promoted, said_of_promoted, verified},
    view,
    write::{destroy_version, warn},
};
use crate::{
    failure::{Exit, Failure},
    output::Output,
    prompt::{agrees, answer, is_attended},
    secret_input,
    session::{Session, short},
    time::parse_duration,
};

const HELP: &str = "\
Steps: add the new value beside the current one; record how it was tried; make it current, while the old one \
stays retrievable as `previous`; wait until nobody holds the old one; destroy it. Run the same command again \
after a cut, or later without a value: the key's own state tells where to go on. While a rotation is under \
way, another value is taken with --new only. If the new value fails once it \
is current: `ibyok keys rollback NAME`.

On a terminal each step is asked for. In a pipe the flags are the answers: --verify-evidence or \
--allow-unverified (or --yes for a version that is verified) to promote, --retire to wait and destroy; with \
--retire a rotation that is under way reads no standard input. The old value is destroyed only where it is \
known that nobody holds it, some seconds after the promotion, and never once somebody went back to it.

Examples:
  ibyok keys rotate openai-prod
  ibyok keys rotate openai-prod --from-file new.txt --verify-evidence 'GET /v1/models 200' --grace 24h
  ibyok keys rotate openai-prod --retire --wait 1h
  ibyok run --keys openai-prod/versions/pending -- ./smoke-test   # to try a staged value";

#[derive(Debug, Args)]
#[command(after_help = HELP, group = ArgGroup::new("try").args(["verify_evidence", "allow_unverified"]))]
pub(crate) struct Rotate {
    /// Key id, or orgs/{org}/keys/{key}
    name: String,
    /// Read the new value from this file
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Read the new value from standard input, even with --retire
    #[arg(long, conflicts_with = "from_file")]
    from_stdin: bool,
    /// New base URL of the provider, which belongs to the new value
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    base_url: String,
    /// Begin a new rotation with this value, though one is under way
    #[arg(long)]
    new: bool,
    /// How the new value was tried, e.g. "GET /v1/models 200": kept with the version
    #[arg(long, value_name = "TEXT")]
    verify_evidence: Option<String>,
    /// Make it current though nobody tried it
    #[arg(long, conflicts_with = "no_promote")]
    allow_unverified: bool,
    /// Stage it only; running it again makes it current
    #[arg(long)]
    no_promote: bool,
    /// Make it current without asking
    #[arg(short, long, conflicts_with = "no_promote")]
    yes: bool,
    /// How long the old value stays retrievable as `previous` [default: the key's policy]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "no_promote")]
    grace: Option<Duration>,
    /// Destroy the old value for good once nobody holds it, without asking
    #[arg(long, conflicts_with = "no_promote")]
    retire: bool,
    /// How long to wait for that [default: in a pipe not at all, on a terminal as long as you do]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "no_promote")]
    wait: Option<Duration>,
    /// With --retire: even if somebody still holds it
    #[arg(long, requires = "retire", conflicts_with = "wait")]
    retire_held: bool,
}

pub(super) async fn rotate(args: Rotate, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let walk = Walk { key_name: session.names.key(&args.name), is_attended: is_attended(), args, session };
    walk.run(out).await
}

struct Walk<'s> {
    /// As the calls want it.
    key_name: String,
    is_attended: bool,
    args: Rotate,
    session: &'s Session,
}

impl Walk<'_> {
    async fn run(&self, out: &mut Output) -> Result<(), Failure> {
        let key = self.key().await?;
        let stand = if self.args.new { Stand::Idle } else { Stand::of(&key) };
        let stand = match self.new_value(&stand)? {
            Some(secret) => self.add(&key, &stand, secret, out).await?,
            None => stand,
        };
        let stand = match stand {
            Stand::Staged { number, is_verified } => {
                let Some(is_verified) = self.verify(number, is_verified, out).await? else { return Ok(()) };
                match self.promote(number, is_verified, out).await? {
                    Some(stand) => stand,
                    None => return Ok(()),
                }
            }
            other => other,
        };
        match stand {
            Stand::Promoted { old } => self.retire(old, out).await,
            _ => self.show_key(&self.key().await?, None, out),
        }
    }

    async fn key(&self) -> Result<pb::Key, Failure> {
        let request = pb::GetKeyRequest { name: self.key_name.clone() };
        let key = self.session.client.key_vault().get_key(request).await?.into_inner().key;
        key.ok_or_else(|| Failure::contract("the key"))
    }

    /// None: the walk goes on with what is there.
    fn new_value(&self, stand: &Stand) -> Result<Option<ProviderKey>, Failure> {
        let is_needed = *stand == Stand::Idle;
        // Before anything is stored or asked: what can't be done to its end is not begun.
        if !self.is_attended && matches!(stand, Stand::Idle | Stand::Staged { is_verified: false, .. }) {
            self.may_promote(false)?;
        }
        match &self.args.from_file {
            Some(file) => secret_input::provider_key(Some(file)).map(Some),
            None if is_needed || self.args.from_stdin => secret_input::provider_key(None).map(Some),
            // Where names are piped to a loop of these, the next name is no value.
            None if self.args.retire => Ok(None),
            None => secret_input::piped_provider_key(),
        }
    }

    /// Whether the flags say what is to become of a staged version, where nobody can be asked.
    fn may_promote(&self, is_verified: bool) -> Result<(), Failure> {
        let Rotate { verify_evidence, allow_unverified, no_promote, yes, .. } = &self.args;
        if *no_promote || *allow_unverified || verify_evidence.is_some() || (is_verified && *yes) {
            return Ok(());
        }
        let flags = if is_verified {
            "add --yes"
        } else {
            "add --verify-evidence TEXT, or --allow-unverified, or --no-promote to stage it only"
        };
        Err(Failure::usage("nobody is here to be asked whether the new value is to become current", flags))
    }

    /// Step 1. Sent again under its request id, a value is answered with the version that it became.
    /// While a rotation is under way nothing else is taken: a value that is not known any more could
    /// be the same one, and would be stored twice.
    async fn add(&self, key: &pb::Key, stand: &Stand, secret: ProviderKey, out: &mut Output) -> Result<Stand, Failure> {
        let added = match stand {
            Stand::Idle => {
                out.note("1/5 add: the new value is stored beside the current one, which stays as it is");
                // Empty: the client makes one up.
                let request_id = if self.args.new { String::new() } else { stand::request_id(key) };
                self.add_version(&secret, request_id, String::new()).await.map_err(|failure| {
                    match failure.reason() {
                    Some("REQUEST_ID_REUSED") => failure.next(
                        "another value was added in this rotation: `ibyok keys versions NAME`; --new begins another",
                    ),
                    _ => failure,
                }
                })?
            }
            Stand::Staged { .. } | Stand::Promoted { .. } => self.added_before(key, stand, &secret).await?,
        };
        warn(&added.warnings, out);
        let version = added.version.ok_or_else(|| Failure::contract("the version"))?;
        let number = stand::number(&version);
        match version.stage() {
            VersionStage::Pending => Ok(Stand::Staged { number, is_verified: false }),
            VersionStage::Verified if version.promote_time.is_none() => Ok(Stand::Staged { number, is_verified: true }),
            VersionStage::Current => Ok(Stand::of(&self.key().await?)),
            stage => Err(Failure::new(
                Exit::Precondition,
                format!("that value was version {number} of this rotation, and is {} now", view::stage_word(stage)),
                format!("to begin another rotation with it: `ibyok keys rotate {} --new`", self.args.name),
            )),
        }
    }

    /// What the value became that was added in the rotation that is under way.
    async fn added_before(
        &self,
        key: &pb::Key,
        stand: &Stand,
        secret: &ProviderKey,
    ) -> Result<pb::AddKeyVersionResponse, Failure> {
        for request_id in stand::request_ids(key) {
            // With an etag that is no key's, only what is remembered is anything but a mismatch.
            let asked = self.add_version(secret, request_id.clone(), "none".to_owned()).await;
            match asked.map_err(|failure| (failure.reason().map(str::to_owned), failure)) {
                Err((Some(reason), _)) if reason == "REQUEST_ID_REUSED" => {}
                Err((Some(reason), _)) if reason == "ETAG_MISMATCH" => continue,
                Err((_, failure)) => return Err(failure),
                Ok(answer) => return Ok(answer),
            }
            match self.add_version(secret, request_id, String::new()).await {
                Err(failure) if failure.reason() == Some("REQUEST_ID_REUSED") => {}
                answer => return answer,
            }
        }
        Err(match stand {
            Stand::Staged { number, .. } => self.other_value_is_staged(*number),
            _ => self.other_value_is_current(),
        })
    }

    async fn add_version(
        &self,
        secret: &ProviderKey,
        request_id: String,
        etag: String,
    ) -> Result<pb::AddKeyVersionResponse, Failure> {
        let request = pb::AddKeyVersionRequest {
            name: self.key_name.clone(),
            secret: Some(pb::SecretValue { text: secret.expose_secret().to_owned() }),
            base_url: self.args.base_url.clone(),
            request_id,
            etag,
            ..Default::default()
        };
        let answer = self.session.client.key_vault().add_key_version(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| Error::from(status).into())
    }

    fn other_value_is_staged(&self, number: u32) -> Failure {
        let name = &self.args.name;
        Failure::new(
            Exit::Precondition,
            format!("version {number} of {name} is staged already, with another value, or one of over 24 hours ago"),
            format!(
                "go on with that one: `ibyok keys rotate {name}` without a value; or add this one too: --new (and \
                 `ibyok keys destroy {name} --version {number} --confirm {name}` drops the other)"
            ),
        )
    }

    fn other_value_is_current(&self) -> Failure {
        let name = &self.args.name;
        Failure::new(
            Exit::Precondition,
            format!(
                "a rotation of {name} is under way, its old value in its grace period; that this value is the one of \
                 that rotation is not known (after 24 hours it is not)"
            ),
            format!(
                "go on with that one: `ibyok keys rotate {name}` without a value; or begin another with this value: --new"
            ),
        )
    }

    /// Step 2. None: it ends here for now; else whether the version is verified.
    async fn verify(&self, number: u32, is_verified: bool, out: &mut Output) -> Result<Option<bool>, Failure> {
        if is_verified || self.args.allow_unverified {
            return Ok(Some(is_verified));
        }
        let name = &self.args.name;
        let evidence = match &self.args.verify_evidence {
            Some(evidence) => evidence.clone(),
            None if self.args.no_promote => String::new(),
            None if !self.is_attended => return self.may_promote(false).map(|()| None),
            None => {
                out.note(&format!(
                    "2/5 verify: try version {number} before anyone depends on it, in another terminal:\n  ibyok run --keys \
                     {name}/versions/{number} -- COMMAND"
                ));
                answer("How was it tried, and how did it go? It is kept in the audit log. Empty to stop here:", out)?
            }
        };
        if evidence.is_empty() {
            self.show_staged(number, out).await?;
            return Ok(None);
        }
        let version = verified(format!("{}/versions/{number}", self.key_name), evidence, self.session).await;
        let version = version.map_err(|failure| self.staged_note(number, failure, out))?;
        out.note(&format!("2/5 verify: version {} is verified", short(&version.name)));
        Ok(Some(true))
    }

    /// Step 3. None: it ends here for now.
    async fn promote(&self, number: u32, is_verified: bool, out: &mut Output) -> Result<Option<Stand>, Failure> {
        let Rotate { name, no_promote, allow_unverified, verify_evidence, yes, grace, .. } = &self.args;
        if *no_promote {
            self.show_staged(number, out).await?;
            return Ok(None);
        }
        out.note(&format!(
            "3/5 promote: version {number} becomes what everyone gets; the old value stays retrievable as `previous` for \
             its grace period, and `ibyok keys rollback {name}` goes back until then"
        ));
        let is_said = *yes || *allow_unverified || verify_evidence.is_some();
        if !is_said {
            if !self.is_attended {
                self.may_promote(is_verified)?;
            } else if !agrees(&format!("Make version {number} of {name} current?"), out)? {
                self.show_staged(number, out).await?;
                return Ok(None);
            }
        }
        let version = format!("{}/versions/{number}", self.key_name);
        let promoted = promoted(version, *grace, *allow_unverified, self.session).await;
        let key = promoted.map_err(|failure| self.staged_note(number, failure, out))?;
        Ok(Some(Stand::of(&key)))
    }

    /// Steps 4 and 5.
    async fn retire(&self, old: u32, out: &mut Output) -> Result<(), Failure> {
        let Rotate { name, retire, retire_held, wait, .. } = &self.args;
        let key = self.key().await?;
        if !retire && !self.is_attended {
            return self.show_key(&key, None, out);
        }
        if !retire {
            out.note(&said_of_promoted(&key));
            let question = format!("Wait until nobody holds version {old}, and destroy it then?");
            if !agrees(&question, out)? {
                out.note(&format!("it can wait: `ibyok keys rotate {name}` goes on from here"));
                return self.show_key(&key, None, out);
            }
        }
        if !retire_held {
            out.note(&format!(
                "4/5 wait: until everyone who was handed version {old} retrieved the key again; Ctrl-C loses nothing"
            ));
            let patience = if self.is_attended { *wait } else { wait.or(Some(Duration::ZERO)) };
            let promoted = stand::find(&key, VersionStage::Current).and_then(|current| current.promote_time);
            Wait { key: name, old, promoted, patience }.until_nobody_holds(self.session, out).await?;
        }
        out.note(&format!("5/5 retire: version {old} is destroyed; there is no way back from this"));
        if !retire && !agrees(&format!("Destroy version {old} of {name} for good?"), out)? {
            return self.show_key(&key, None, out);
        }
        self.destroy(old, &key, out).await
    }

    /// The old version, if the key is still as it was when that became the old one: a colleague may
    /// have gone back to it meanwhile.
    async fn destroy(&self, old: u32, before: &pb::Key, out: &mut Output) -> Result<(), Failure> {
        let now = self.key().await?;
        if !stand::is_old_still(old, before, &now) {
            return Err(self.changed_meanwhile(old));
        }
        let full = self.session.full_key_name(&self.args.name).await?;
        let destroyed = destroy_version(&format!("{full}/versions/{old}"), &now.etag, self.session).await;
        let (destroyed, ..) = destroyed.map_err(|failure| match failure.reason() {
            Some("ETAG_MISMATCH") => self.changed_meanwhile(old),
            _ => failure,
        })?;
        self.show_key(&self.key().await?, Some(short(&destroyed)), out)
    }

    fn changed_meanwhile(&self, old: u32) -> Failure {
        let name = &self.args.name;
        Failure::new(
            Exit::Precondition,
            format!("{name} was changed meanwhile: version {old} was not destroyed"),
            format!("`ibyok keys versions {name}` shows how it is; then `ibyok keys rotate {name}` goes on from there"),
        )
    }

    /// The end: the key as it is, and the version that was destroyed.
    fn show_key(&self, key: &pb::Key, destroyed: Option<&str>, out: &mut Output) -> Result<(), Failure> {
        out.show(&json!({ "key": view::key_json(key), "destroyed_version": destroyed }), || {
            let mut lines = vec![said_of_promoted(key)];
            lines.extend(destroyed.map(|number| format!("version {number} is destroyed; the rotation is complete")));
            lines
        })
    }

    async fn show_staged(&self, number: u32, out: &mut Output) -> Result<(), Failure> {
        let key = self.key().await?;
        let version = key.versions.iter().find(|version| stand::number(version) == number);
        out.show(&json!({ "version": version.map(view::version_json) }), || {
            let name = &self.args.name;
            vec![format!("staged version {number} of {name}; `ibyok keys rotate {name}` goes on from here")]
        })
    }

    /// A failure after the value was stored says that it is.
    fn staged_note(&self, number: u32, failure: Failure, out: &mut Output) -> Failure {
        let name = &self.args.name;
        let note = format!("note: version {number} is staged; when this is settled: `ibyok keys rotate {name}`");
        out.note(&note);
        failure
    }
}
