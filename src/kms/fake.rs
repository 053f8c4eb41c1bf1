//! A KMS in memory for tests: it keeps every data key it gave out, and fails on demand as the real
//! one does.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{KeyWrapper, KmsError};
use crate::domain::{
    PortFuture,
    clock::{Deadline, EntropyError, SystemEntropy, random},
    secret::{DataKey, EncryptionContext, KmsKeyId, SecretKey, WrappedDataKey},
};

/// How every call fails from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not answer.
    Unavailable,
    /// It asks for fewer calls.
    Throttled,
}

/// How often each call was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// `generate_data_key`.
    pub generate: usize,
    /// `unwrap`.
    pub unwrap: usize,
    /// `rewrap`.
    pub rewrap: usize,
}

/// The fake. Clones share their state.
#[derive(Clone, Debug)]
pub struct FakeKms {
    state: Arc<Mutex<State>>,
    is_held: Arc<watch::Sender<bool>>,
}

#[derive(Debug, Default)]
struct State {
    /// By ciphertext.
    given: BTreeMap<Vec<u8>, Given>,
    disabled: Vec<KmsKeyId>,
    fault: Option<Fault>,
    calls: Calls,
}

#[derive(Debug)]
struct Given {
    data_key: SecretKey,
    kms_key_id: KmsKeyId,
    context: EncryptionContext,
}

impl Default for FakeKms {
    fn default() -> Self {
        Self { state: Arc::default(), is_held: Arc::new(watch::Sender::new(false)) }
    }
}

impl FakeKms {
    /// The id of its primary key.
    pub const PRIMARY: &str = "fake:primary";
    /// The id of its other key.
    pub const OTHER: &str = "fake:other";

    /// A new one, with the keys [`Self::PRIMARY`] and [`Self::OTHER`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Lets every call fail so; None: no more.
    pub fn fail(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }
    /// Disables a key.
    pub fn disable(&self, key: &KmsKeyId) {
        self.state().disabled.push(key.clone());
    }
    /// Enables a key again.
    pub fn enable(&self, key: &KmsKeyId) {
        self.state().disabled.retain(|disabled| disabled != key);
    }
    /// Lets calls hang until [`Self::release`] or their deadline.
    pub fn hold(&self) {
        self.is_held.send_replace(true);
    }
    /// Lets held calls go on.
    pub fn release(&self) {
        self.is_held.send_replace(false);
    }
    /// How often it was called, held and failed calls included.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.state().calls
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    async fn begin(&self, count: impl FnOnce(&mut Calls), deadline: Deadline) -> Result<(), KmsError> {
        count(&mut self.state().calls);
        let mut is_held = self.is_held.subscribe();
        let released = is_held.wait_for(|is_held| !is_held);
        match tokio::time::timeout_at(Instant::from_std(deadline.instant()), released).await {
            Ok(_) => {}
            Err(elapsed) => return Err(KmsError::Unavailable(elapsed.into())),
        }
        match self.state().fault {
            None => Ok(()),
            Some(Fault::Unavailable) => Err(KmsError::Unavailable("the fake is told to be".into())),
            Some(Fault::Throttled) => Err(KmsError::Throttled { retry_after: Duration::from_millis(250) }),
        }
    }
}

impl State {
    fn usable(&self, key: &KmsKeyId) -> Result<(), KmsError> {
        if ![FakeKms::PRIMARY, FakeKms::OTHER].contains(&key.0.as_str()) {
            return Err(KmsError::KeyRefused("no such key".into()));
        }
        if self.disabled.contains(key) { Err(KmsError::KeyDisabled("it was told to be".into())) } else { Ok(()) }
    }
    fn give(
        &mut self,
        data_key: &SecretKey,
        key: &KmsKeyId,
        context: &EncryptionContext,
    ) -> Result<WrappedDataKey, KmsError> {
        self.usable(key)?;
        let ciphertext = random::<16>(&SystemEntropy).map_err(no_entropy)?.to_vec();
        let data_key = SecretKey::new(*data_key.expose_secret());
        let given = Given { data_key, kms_key_id: key.clone(), context: context.clone() };
        self.given.insert(ciphertext.clone(), given);
        Ok(WrappedDataKey { kms_key_id: key.clone(), ciphertext })
    }
    fn find(&self, wrapped: &WrappedDataKey, context: &EncryptionContext) -> Result<SecretKey, KmsError> {
        self.usable(&wrapped.kms_key_id)?;
        let given = self.given.get(&wrapped.ciphertext);
        given
            .filter(|given| given.kms_key_id == wrapped.kms_key_id && given.context == *context)
            .map(|given| SecretKey::new(*given.data_key.expose_secret()))
            .ok_or(KmsError::Rejected)
    }
}

impl KeyWrapper for FakeKms {
    fn generate_data_key<'a>(
        &'a self,
        kms_key: Option<&'a KmsKeyId>,
        context: &'a EncryptionContext,
        deadline: Deadline,
    ) -> PortFuture<'a, Result<(DataKey, WrappedDataKey), KmsError>> {
        Box::pin(async move {
            self.begin(|calls| calls.generate += 1, deadline).await?;
            let data_key = SecretKey::random(&SystemEntropy).map_err(no_entropy)?;
            let key = kms_key.cloned().unwrap_or_else(|| KmsKeyId(Self::PRIMARY.to_owned()));
            let wrapped = self.state().give(&data_key, &key, context)?;
            Ok((data_key, wrapped))
        })
    }
    fn unwrap<'a>(
        &'a self,
        wrapped: &'a WrappedDataKey,
        context: &'a EncryptionContext,
        deadline: Deadline,
    ) -> PortFuture<'a, Result<DataKey, KmsError>> {
        Box::pin(async move {
            self.begin(|calls| calls.unwrap += 1, deadline).await?;
            self.state().find(wrapped, context)
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
            self.begin(|calls| calls.rewrap += 1, deadline).await?;
            let mut state = self.state();
            let data_key = state.find(wrapped, context)?;
            state.give(&data_key, to_key, context)
        })
    }
    fn status(&self, deadline: Deadline) -> PortFuture<'_, Result<String, String>> {
        Box::pin(async move {
            self.begin(|_| (), deadline).await.map_err(|error| error.to_string())?;
            Ok("fake, in memory".to_owned())
        })
    }
}

fn no_entropy(error: EntropyError) -> KmsError {
    KmsError::Unavailable(error.into())
}
