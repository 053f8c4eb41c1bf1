//! Why a call is refused: one flat list of reasons, each with its class. The wire codes are
//! `grpc`'s business; the texts here never hold an input's value or an inner error.

use std::{borrow::Cow, error::Error as StdError, fmt, time::Duration};

/// What kind of refusal a [`Reason`] is; one gRPC code each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Bad input: the caller must change the request.
    InvalidArgument,
    /// No valid token, or not with this certificate.
    Unauthenticated,
    /// Authenticated, but not granted.
    PermissionDenied,
    /// Absent, another organization's, or outside the grant: the same bytes for all three.
    NotFound,
    /// The resource is in the wrong state.
    FailedPrecondition,
    /// Lost an optimistic race: read again and retry.
    Aborted,
    /// The name is taken, or a request id was used for something else.
    AlreadyExists,
    /// A limit was reached.
    ResourceExhausted,
    /// A part that the call needs does not answer now.
    Unavailable,
    /// A stored value or record does not verify.
    DataLoss,
    /// The caller's or the server's deadline passed.
    DeadlineExceeded,
    /// Named in the contract, not built yet.
    Unimplemented,
    /// A defect of the server.
    Internal,
}

macro_rules! reasons {
    ($($variant:ident $text:literal $class:ident $message:literal;)*) => {
        /// The `reason` of `google.rpc.ErrorInfo`, domain `ibyok`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $(#[doc = $message] $variant,)* }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// The stable UPPER_SNAKE_CASE name that clients match on.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
            /// Its class.
            #[must_use]
            pub const fn class(self) -> Class { match self { $(Self::$variant => Class::$class,)* } }
            /// The sentence that a person reads.
            #[must_use]
            pub const fn message(self) -> &'static str { match self { $(Self::$variant => $message,)* } }
        }
    };
}

reasons! {
    InvalidField "INVALID_FIELD" InvalidArgument "a field of the request is not valid";
    MessageTooLarge "MESSAGE_TOO_LARGE" ResourceExhausted "the message is larger than this call takes";
    ProviderAmbiguous "PROVIDER_AMBIGUOUS" InvalidArgument "the key's shape fits several providers or none: name the provider";
    InvalidPageToken "INVALID_PAGE_TOKEN" InvalidArgument "the page or resume token is not one of this call";
    TokenMissing "TOKEN_MISSING" Unauthenticated "this call needs a token: send it as authorization: Bearer";
    TokenMalformed "TOKEN_MALFORMED" Unauthenticated "the token is not one of this vault's";
    TokenExpired "TOKEN_EXPIRED" Unauthenticated "the token has expired: renew it or exchange again";
    TokenNotYetValid "TOKEN_NOT_YET_VALID" Unauthenticated "the token is not valid yet";
    TokenRevoked "TOKEN_REVOKED" Unauthenticated "the token has been revoked";
    TokenCertificateMismatch "TOKEN_CERTIFICATE_MISMATCH" Unauthenticated "the token is bound to another client certificate";
    TokenUsedUp "TOKEN_USED_UP" Unauthenticated "the token has been used as often as it may be";
    CertificateExpired "CERTIFICATE_EXPIRED" Unauthenticated "the client certificate has expired: renew it and connect again";
    CertificateRevoked "CERTIFICATE_REVOKED" Unauthenticated "the client certificate has been revoked";
    ExchangeRefused "EXCHANGE_REFUSED" Unauthenticated "no binding of that organization matches this identity";
    ScopeMissing "SCOPE_MISSING" PermissionDenied "the token does not hold the scope that this call needs";
    ResourceNotGranted "RESOURCE_NOT_GRANTED" PermissionDenied "no grant of the token covers this resource";
    NetworkNotGranted "NETWORK_NOT_GRANTED" PermissionDenied "no grant of the token is good from this network";
    GrantTooWide "GRANT_TOO_WIDE" PermissionDenied "nobody grants wider than they hold";
    MockTokenMutation "MOCK_TOKEN_MUTATION" PermissionDenied "a mock token changes nothing outside a mock organization";
    AdminKeyNeedsScope "ADMIN_KEY_NEEDS_SCOPE" PermissionDenied "a provider administration key needs keys:read-admin and is retrieved by name";
    MethodUnknown "METHOD_UNKNOWN" PermissionDenied "no such method stands in the authorization table";
    KeyNotFound "KEY_NOT_FOUND" NotFound "no such key";
    VersionNotFound "VERSION_NOT_FOUND" NotFound "no such version of the key";
    TokenNotFound "TOKEN_NOT_FOUND" NotFound "no such token";
    BindingNotFound "BINDING_NOT_FOUND" NotFound "no such identity binding";
    GroupNotFound "GROUP_NOT_FOUND" NotFound "no such key group";
    OrgNotFound "ORG_NOT_FOUND" NotFound "no such organization";
    EventNotFound "EVENT_NOT_FOUND" NotFound "no such audit event";
    EventsArchived "EVENTS_ARCHIVED" FailedPrecondition "events after this token have left for the archive: read them there, and begin again without a token";
    KeyDisabled "KEY_DISABLED" FailedPrecondition "the key is disabled: enable it first";
    KeyDeleted "KEY_DELETED" FailedPrecondition "the key is deleted: undelete it within its recovery window";
    KeyNotDeleted "KEY_NOT_DELETED" FailedPrecondition "the key is not deleted";
    KeyHasNoSecret "KEY_HAS_NO_SECRET" FailedPrecondition "this entry keeps no secret";
    KeyExpired "KEY_EXPIRED" FailedPrecondition "the key's own expiry has passed";
    NoCurrentVersion "NO_CURRENT_VERSION" FailedPrecondition "the key has no current version";
    VersionNotVerified "VERSION_NOT_VERIFIED" FailedPrecondition "verify the version before promoting it, or allow an unverified one";
    VersionNotPending "VERSION_NOT_PENDING" FailedPrecondition "only a pending version can be verified";
    VersionNotPrevious "VERSION_NOT_PREVIOUS" FailedPrecondition "there is no previous version to go back to";
    VersionWrongStage "VERSION_WRONG_STAGE" FailedPrecondition "the version's stage does not allow this";
    VersionRetired "VERSION_RETIRED" FailedPrecondition "the version's grace period is over";
    VersionDestroyed "VERSION_DESTROYED" FailedPrecondition "the version has been destroyed";
    TooManyVersions "TOO_MANY_VERSIONS" FailedPrecondition "a key has at most 8 live versions: destroy or retire one first";
    KmsKeyDisabled "KMS_KEY_DISABLED" FailedPrecondition "the KMS key is disabled or pending deletion";
    KmsKeyRefused "KMS_KEY_REFUSED" FailedPrecondition "there is no such KMS key, or this server may not use it";
    AlreadyInitialized "ALREADY_INITIALIZED" FailedPrecondition "the store has a vault already: it is initialized once";
    OrgIsSystem "ORG_IS_SYSTEM" FailedPrecondition "the organization system takes no provider keys";
    EtagMismatch "ETAG_MISMATCH" Aborted "the resource has changed since: read it again and retry";
    WriteConflict "WRITE_CONFLICT" Aborted "another writer was faster: retry";
    SigningKeyWithdrawn "SIGNING_KEY_WITHDRAWN" Aborted "the signing key of the first answer was withdrawn: use a new request_id";
    KeyExists "KEY_EXISTS" AlreadyExists "a key with this id exists";
    OrgExists "ORG_EXISTS" AlreadyExists "an organization with this id exists";
    BindingExists "BINDING_EXISTS" AlreadyExists "a binding with this id exists";
    RequestIdReused "REQUEST_ID_REUSED" AlreadyExists "this request_id was used for a different request";
    RateLimited "RATE_LIMITED" ResourceExhausted "too many calls: slow down";
    Overloaded "OVERLOADED" Unavailable "the server is at its limit: retry";
    KmsUnavailable "KMS_UNAVAILABLE" Unavailable "the key management service does not answer";
    StoreUnavailable "STORE_UNAVAILABLE" Unavailable "the database does not answer";
    AuditUnavailable "AUDIT_UNAVAILABLE" Unavailable "the audit log can't be written, so nothing is released";
    Draining "DRAINING" Unavailable "the server is shutting down: connect again";
    SealedValueRejected "SEALED_VALUE_REJECTED" DataLoss "the stored value does not open";
    RecordRejected "RECORD_REJECTED" DataLoss "a stored record does not verify";
    DeadlineExceeded "DEADLINE_EXCEEDED" DeadlineExceeded "the deadline passed";
    NotImplemented "NOT_IMPLEMENTED" Unimplemented "this version of the server does not answer this call yet";
    Internal "INTERNAL" Internal "an internal error";
}

/// Bad input: which field, and what is wrong with it, in words that never repeat its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidInput {
    /// The field's path as in the proto: `key.labels`, `grants[1].scopes[0]`.
    pub field: Cow<'static, str>,
    /// What the field must be.
    pub problem: Cow<'static, str>,
}

impl InvalidInput {
    /// Names `field` and says what is wrong with it.
    pub fn new(field: impl Into<Cow<'static, str>>, problem: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

impl fmt::Display for InvalidInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}
impl StdError for InvalidInput {}

/// A refused call, as the service layer answers it. Display is the reason's message alone; the
/// source is for the log.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// With [`Class::InvalidArgument`]: the fields.
    pub fields: Vec<InvalidInput>,
    /// More for `ErrorInfo.metadata`, never an input's value: the scope that is needed, candidates.
    pub metadata: Vec<(&'static str, String)>,
    /// When a retry helps.
    pub retry_after: Option<Duration>,
    is_recorded: bool,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    /// A refusal for `reason`.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        Self { reason, fields: Vec::new(), metadata: Vec::new(), retry_after: None, is_recorded: false, source: None }
    }
    /// Bad input in `field`.
    pub fn invalid(field: impl Into<Cow<'static, str>>, problem: impl Into<Cow<'static, str>>) -> Self {
        InvalidInput::new(field, problem).into()
    }
    /// Adds a metadata entry.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.metadata.push((name, value.into()));
        self
    }
    /// Says when to retry.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
    /// Says that the audit log has its record already; whoever answers it makes no second one.
    #[must_use]
    pub fn recorded(mut self) -> Self {
        self.is_recorded = true;
        self
    }
    /// Whether the audit log has its record already.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.is_recorded
    }
    /// What is behind it, from the outside in and in one line, without what says the same again.
    #[must_use]
    pub fn causes(&self) -> String {
        let mut texts: Vec<String> = Vec::new();
        let mut next = StdError::source(self);
        while let Some(cause) = next {
            let text = cause.to_string().replace(char::is_control, " ");
            if texts.last().is_none_or(|before| !before.ends_with(&text)) {
                texts.push(text);
            }
            next = cause.source();
        }
        texts.join(": ")
    }
    /// Keeps what caused it, for the log.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

impl From<InvalidInput> for Failure {
    fn from(input: InvalidInput) -> Self {
        Self { fields: vec![input], ..Self::new(Reason::InvalidField) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.message())
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
