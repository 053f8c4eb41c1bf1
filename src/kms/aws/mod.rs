//! The KMS of AWS: GenerateDataKey, Decrypt, ReEncrypt and DescribeKey with the encryption context,
//! always with the key's id. Knows no store and no value; of a record only its wrapped data key.
//!
//! # Keys and regions
//! A wrapped data key names its KMS key by the ARN that the KMS answered, whatever the key was
//! called when it was asked for: id, alias or ARN. An ARN is called in its own region: that of the
//! settings, or one of the recovery regions listed there; no other is ever called. Of a multi-Region
//! key (`mrk-`) the replica in the region of the settings is tried first. That there is none is
//! remembered for a while, so that each unwrapping stays one Decrypt.
//!
//! # Time
//! Every call answers by its deadline, and within 2.5 s; within that an attempt that brought nothing is
//! tried again twice at most, while the budget of `region` lasts. A key that does not answer is
//! refused at once, by a `breaker` of its own; so is the way from one key to another that does not.
//! What only waited for credentials breaks nothing.
//!
//! # What is left of a data key in memory
//! The SDK's copy is overwritten here, and the stack on which it was decoded. The answer's bytes, from
//! TLS to JSON, lie in buffers of the connection and of the SDK, which the server's allocator overwrites
//! when they are freed: those of the call at its end, those of a connection when it is closed or the
//! next answer comes.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use aws_config::SdkConfig;
use quick_cache::sync::Cache;

use self::{
    arn::KeyArn,
    breaker::Breaker,
    refusal::{Kind, Refusal},
    region::Region,
    sent::Sent,
};
use super::{KeyWrapper, KmsError};
use crate::{
    aws::{ATTEMPT_TIMEOUT, OPERATION_TIMEOUT},
    domain::{
        PortFuture,
        clock::{Clock, Deadline},
        secret::{DataKey, EncryptionContext, KmsKeyId, WrappedDataKey},
    },
};

mod arn;
mod breaker;
mod condition;
mod refusal;
mod region;
mod sent;
#[cfg(test)]
mod tests;

pub use condition::Unfit;

/// What a KMS that throttles is spared.
const THROTTLED_PAUSE: Duration = Duration::from_secs(1);
/// How long it is remembered that a multi-Region key has no replica here.
const REPLICA_MEMORY: Duration = Duration::from_secs(300);
/// How long it is not logged again that a key can't be used.
const TOLD_FOR: Duration = Duration::from_secs(60);
/// The keys whose breakers, replicas and refusals are remembered.
const KEYS_REMEMBERED: usize = 4_096;
/// The longest ciphertext that Decrypt takes.
const CIPHERTEXT_MAX: usize = 6_144;

/// Which keys, and where; region and endpoint of the primary are in the configuration of the SDK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The primary: a key's id, its ARN, or an alias.
    pub primary: KmsKeyId,
    /// Other regions whose keys may be called, by name, each with its endpoint; None: that of AWS.
    pub recovery: BTreeMap<String, Option<String>>,
}

/// The KMS of AWS.
#[derive(Debug)]
pub struct AwsKeyWrapper {
    primary: KmsKeyId,
    home: Region,
    recovery: BTreeMap<String, Recovery>,
    sdk: SdkConfig,
    breakers: Cache<(String, String), Arc<Breaker>>,
    /// By ARN, since when: multi-Region keys that have no replica at home.
    replica_less: Cache<String, Instant>,
    /// By key and matter, since when: what the log was told.
    told: Cache<(String, String), Instant>,
    clock: Arc<dyn Clock>,
}

/// A region that is called when a key of it turns up.
#[derive(Debug)]
struct Recovery {
    endpoint: Option<String>,
    region: OnceLock<Region>,
}

/// Where a key is called, and by which name.
struct Route<'a> {
    region: &'a Region,
    key: Cow<'a, str>,
    /// Whether another one follows, if the key is not here.
    is_trial: bool,
}

impl AwsKeyWrapper {
    /// Calls nobody yet.
    ///
    /// # Errors
    /// When no region is known, or the primary's is one to recover from, too.
    pub fn new(sdk: &SdkConfig, keys: Keys, clock: Arc<dyn Clock>) -> Result<Self, Unfit> {
        let region = sdk.region().map(ToString::to_string).ok_or_else(|| {
            Unfit::new(
                "kms.region",
                "needed: neither it, nor the key's ARN, nor AWS_REGION, nor a profile names a region",
            )
        })?;
        if keys.recovery.contains_key(&region) {
            let problem = format!("must be other regions than that of the primary, {region}");
            return Err(Unfit::new("kms.recovery_regions", problem));
        }
        let recovery = keys.recovery.into_iter();
        Ok(Self {
            home: Region::home(sdk, &region),
            primary: keys.primary,
            recovery: recovery.map(|(name, endpoint)| (name, Recovery { endpoint, region: OnceLock::new() })).collect(),
            sdk: sdk.clone(),
            breakers: Cache::new(KEYS_REMEMBERED),
            replica_less: Cache::new(KEYS_REMEMBERED),
            told: Cache::new(KEYS_REMEMBERED),
            clock,
        })
    }

    /// Looks at the primary: a sentence about it, when it can wrap data keys.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn check(&self, deadline: Deadline) -> Result<String, Unfit> {
        let sent = Sent::default();
        let describe = self.home.describe(&self.primary.0, sent.clone());
        let answer = tokio::time::timeout_at(deadline.instant().into(), describe).await;
        let late = |_| Err(Refusal::new(Kind::Down, "DescribeKey", &self.home.name, "no answer in time"));
        let answer = answer.unwrap_or_else(late).map_err(|refusal| refusal.knowing(&sent));
        condition::judge(answer, &self.primary.0, &self.home)
    }

    /// Where `key` can be called, in the order in which to try.
    fn routes<'a>(&'a self, key: &'a str) -> Result<Vec<Route<'a>>, KmsError> {
        let named = |region, is_trial| Route { region, key: Cow::Borrowed(key), is_trial };
        let Some(arn) = KeyArn::parse(key) else { return Ok(vec![named(&self.home, false)]) };
        if arn.region == self.home.name {
            return Ok(vec![named(&self.home, false)]);
        }
        let own = self.recovery(arn.region).map(|region| named(region, false));
        let mut routes = Vec::with_capacity(2);
        if arn.is_multi_region() && !(own.is_some() && self.is_known_replica_less(key)) {
            let key = Cow::Owned(arn.replica(&self.home.name));
            routes.push(Route { region: &self.home, key, is_trial: own.is_some() });
        }
        routes.extend(own);
        if routes.is_empty() { Err(not_listed(arn.region)) } else { Ok(routes) }
    }
    fn recovery(&self, name: &str) -> Option<&Region> {
        let recovery = self.recovery.get(name)?;
        Some(recovery.region.get_or_init(|| Region::away(&self.sdk, name, recovery.endpoint.as_deref())))
    }
    fn is_known_replica_less(&self, key: &str) -> bool {
        let since = self.replica_less.get(key);
        since.is_some_and(|since| self.clock.instant().saturating_duration_since(since) < REPLICA_MEMORY)
    }

    /// Calls `key` along these routes; `from` is the other key, where the call is about two.
    async fn call<'a, T>(
        &'a self,
        (from, key): (Option<&'a str>, &'a str),
        routes: Vec<Route<'a>>,
        deadline: Deadline,
        call: impl Fn(&'a Region, String, Sent) -> PortFuture<'a, Result<T, Refusal>> + Send,
    ) -> Result<T, KmsError> {
        let deadline = self.clock.deadline(OPERATION_TIMEOUT).earlier(deadline);
        let mut last = None;
        for Route { region, key: name, is_trial } in routes {
            let sent = Sent::default();
            let calling = call(region, name.to_string(), sent.clone());
            // Which of two keys it is that does not answer, nobody knows.
            let way = from.map_or_else(|| name.to_string(), |from| format!("{from}>{name}"));
            let refusal = match self.guarded((region, &way), deadline, (calling, sent)).await {
                Ok(answer) => return Ok(answer),
                Err(refusal) => refusal,
            };
            // A policy that names no replica denies what is not there.
            let is_absent = matches!(refusal.kind, Kind::NoSuchKey | Kind::Denied);
            // Nor which of two is absent.
            if is_trial && is_absent && from.is_none() {
                self.replica_less.insert(key.to_owned(), self.clock.instant());
            }
            let goes_on = is_trial && (is_absent || refusal.kind == Kind::Down);
            last = Some(refusal);
            if !goes_on {
                break;
            }
        }
        let refusal = last.ok_or(KmsError::Rejected)?;
        self.tell(key, &refusal);
        Err(refusal.into())
    }

    /// One call, by the deadline, if the breaker of its key, or of its `way`, lets it through.
    async fn guarded<'a, T>(
        &self,
        (region, way): (&Region, &str),
        deadline: Deadline,
        (call, sent): (PortFuture<'a, Result<T, Refusal>>, Sent),
    ) -> Result<T, Refusal> {
        let refused = |text| Refusal::new(Kind::Down, "no call", &region.name, text);
        let left = self.clock.left(deadline);
        if left.is_zero() {
            return Err(refused("the deadline has passed"));
        }
        let Some(pass) = self.breaker(region, way).admit(self.clock.instant()) else {
            return Err(refused("the last calls with this key brought no answer"));
        };
        // Who had less time than an attempt takes has learned nothing about the KMS.
        let (answer, has_learned) = match tokio::time::timeout_at(deadline.instant().into(), call).await {
            Ok(answer) => (answer, true),
            Err(_) => (Err(refused("no answer before the deadline")), left >= ATTEMPT_TIMEOUT),
        };
        let answer = answer.map_err(|refusal| refusal.knowing(&sent));
        match &answer {
            Err(refusal) if refusal.kind == Kind::Down && has_learned => pass.failed(self.clock.instant()),
            Err(_) if !has_learned || !sent.is_sent() => drop(pass),
            _ => pass.answered(),
        }
        answer
    }

    /// Logs why a key can't be used, but not for every call that meets it.
    fn tell(&self, key: &str, refusal: &Refusal) {
        let Some(matter) = refusal.matter() else { return };
        let (about, now) = ((key.to_owned(), matter), self.clock.instant());
        let since = self.told.get(&about);
        if since.is_none_or(|since| now.saturating_duration_since(since) >= TOLD_FOR) {
            self.told.insert(about, now);
            tracing::warn!(kms_key = key, cause = refusal.said(), "a KMS key can't be used");
        }
    }
    fn breaker(&self, region: &Region, way: &str) -> Arc<Breaker> {
        let name = (region.name.clone(), way.to_owned());
        let made: Result<_, std::convert::Infallible> = self.breakers.get_or_insert_with(&name, || Ok(Arc::default()));
        made.unwrap_or_default()
    }
}

impl KeyWrapper for AwsKeyWrapper {
    fn generate_data_key<'a>(
        &'a self,
        kms_key: Option<&'a KmsKeyId>,
        context: &'a EncryptionContext,
        deadline: Deadline,
    ) -> PortFuture<'a, Result<(DataKey, WrappedDataKey), KmsError>> {
        let key = &kms_key.unwrap_or(&self.primary).0;
        Box::pin(async move {
            let generate = move |region: &'a Region, key: String, sent| -> PortFuture<'a, _> {
                Box::pin(async move { region.generate(&key, context, sent).await })
            };
            self.call((None, key), self.routes(key)?, deadline, generate).await
        })
    }
    fn unwrap<'a>(
        &'a self,
        wrapped: &'a WrappedDataKey,
        context: &'a EncryptionContext,
        deadline: Deadline,
    ) -> PortFuture<'a, Result<DataKey, KmsError>> {
        Box::pin(async move {
            let WrappedDataKey { kms_key_id: KmsKeyId(key), ciphertext } = wrapped;
            is_wrapped(wrapped)?;
            let decrypt = move |region: &'a Region, key: String, sent| -> PortFuture<'a, _> {
                Box::pin(async move { region.decrypt(&key, ciphertext, context, sent).await })
            };
            self.call((None, key), self.routes(key)?, deadline, decrypt).await
        })
    }
    fn rewrap<'a>(
        &'a self,
        wrapped: &'a WrappedDataKey,
        context: &'a EncryptionContext,
        to_key: &'a KmsKeyId,
        deadline: Deadline,
    ) -> PortFuture<'a, Result<WrappedDataKey, KmsError>> {
        Box::pin(async move {
            let from = is_wrapped(wrapped)?;
            let is_in = |region: &Region| from.region == region.name || from.is_multi_region();
            // One region has both keys: ReEncrypt crosses none.
            let mut routes = self.routes(&to_key.0)?;
            routes.retain(|route| is_in(route.region));
            if routes.is_empty() {
                return Err(KmsError::KeyRefused("the keys are in two regions, and ReEncrypt crosses none".into()));
            }
            let re_encrypt = move |region: &'a Region, to: String, sent| -> PortFuture<'a, _> {
                let from = from.replica(&region.name);
                Box::pin(async move { region.re_encrypt((&from, &wrapped.ciphertext), &to, context, sent).await })
            };
            self.call((Some(&wrapped.kms_key_id.0), &to_key.0), routes, deadline, re_encrypt).await
        })
    }
    fn status(&self, deadline: Deadline) -> PortFuture<'_, Result<String, String>> {
        Box::pin(async move { self.check(deadline).await.map_err(|unfit| unfit.to_string()) })
    }
}

/// The ARN of the key that wrapped it, when it can be of this KMS at all.
fn is_wrapped(wrapped: &WrappedDataKey) -> Result<KeyArn<'_>, KmsError> {
    let arn = KeyArn::parse(&wrapped.kms_key_id.0).filter(KeyArn::is_of_key);
    let arn = arn.ok_or_else(|| KmsError::KeyRefused("the wrapped data key names no key of AWS KMS".into()))?;
    // AWS refuses these lengths as it refuses a key's id that is none.
    if !(1..=CIPHERTEXT_MAX).contains(&wrapped.ciphertext.len()) {
        return Err(KmsError::Rejected);
    }
    Ok(arn)
}

fn not_listed(region: &str) -> KmsError {
    let said = format!("the key is in {region}, which is neither kms.region nor one of kms.recovery_regions");
    KmsError::KeyRefused(said.into())
}
