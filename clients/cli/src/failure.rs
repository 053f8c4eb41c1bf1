//! How a command fails: one line of what happened, one of what to do next, and a stable exit code.

use std::{collections::HashMap, fmt, io, process::ExitCode, time::Duration};

use ibyok_client::{CallError, Code, Error, pb, reason};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What scripts may rely on. The texts of `--help` and README.md list the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    Internal = 1,
    Usage = 2,
    NotAuthenticated = 3,
    PermissionDenied = 4,
    NotFound = 5,
    Precondition = 6,
    Unavailable = 7,
    DataLoss = 8,
    /// Of many things asked for, some were done and some were not.
    Partly = 9,
    /// As shells have it: the command of `run` is there and can't be run.
    NotExecutable = 126,
    /// As shells have it: there is no such command.
    CommandNotFound = 127,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<Code> for Exit {
    fn from(code: Code) -> Self {
        match code {
            Code::Ok => Self::Ok,
            Code::InvalidArgument | Code::OutOfRange => Self::Usage,
            Code::Unauthenticated => Self::NotAuthenticated,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::NotFound => Self::NotFound,
            Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => Self::Precondition,
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => Self::Unavailable,
            Code::DataLoss => Self::DataLoss,
            Code::Internal | Code::Unknown | Code::Unimplemented | Code::Cancelled => Self::Internal,
        }
    }
}

/// Why a command ends without success.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// None: nothing is said, as when nobody reads the output any more.
    happened: Option<String>,
    next: Option<String>,
    /// ErrorInfo.reason of a call.
    reason: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, happened: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, happened: Some(happened.into()), next: Some(next.into()), reason: None }
    }
    /// The command line asks for something that can't be.
    pub(crate) fn usage(happened: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Usage, happened, next)
    }
    /// The output says it all already.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self { exit, happened: None, next: None, reason: None }
    }
    /// A file of the user's.
    pub(crate) fn file(what: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::usage(format!("can't {what} {} ({})", path.display(), error.kind()), "check the path and its permissions")
    }
    /// Says which of several things it is about.
    pub(crate) fn about(mut self, name: &str) -> Self {
        self.happened = self.happened.map(|happened| format!("{name}: {happened}"));
        self
    }
    /// In place of what is usually to be done next.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
    /// After what is to be done next.
    pub(crate) fn and_then_do(mut self, next: &str) -> Self {
        self.next = Some(self.next.map_or_else(|| next.to_owned(), |first| format!("{first}; then {next}")));
        self
    }
    /// As the vault called it.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
    /// What happened, without what to do.
    pub(crate) fn happened(&self) -> Option<&str> {
        self.happened.as_deref()
    }
    /// What had to be written is not.
    pub(crate) fn unwritten(error: &io::Error) -> Self {
        Self::new(Exit::Internal, format!("can't write the output ({})", error.kind()), "check where the output goes")
    }
    /// The answer lacks what the contract promises.
    pub(crate) fn contract(what: &'static str) -> Self {
        Error::Contract(what).into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(happened) = &self.happened {
            write!(f, "error: {happened}")?;
        }
        if let Some(next) = &self.next {
            write!(f, "\nnext:  {next}")?;
        }
        Ok(())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Config(error) => Self::usage(
                format!("{} {}", error.variable(), error.problem()),
                format!("{} (each variable has a flag: see --help)", error.advice()),
            ),
            Error::Call(error) => (&*error).into(),
            other => Self {
                exit: Exit::Internal,
                happened: Some(other.to_string()),
                next: Some("use an `ibyok` of the server's version".into()),
                reason: None,
            },
        }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Error::from(status).into()
    }
}

/// One of many, as its own call would have failed.
impl From<pb::ItemStatus> for Failure {
    fn from(item: pb::ItemStatus) -> Self {
        let mut details = ErrorDetails::new();
        if !item.reason.is_empty() {
            details.set_error_info(item.reason, "ibyok", item.metadata.into_iter().collect::<HashMap<_, _>>());
        }
        for violation in item.field_violations {
            details.add_bad_request_violation(violation.field, violation.description);
        }
        details.set_retry_info(item.retry_delay.and_then(|delay| Duration::try_from(delay).ok()));
        tonic::Status::with_error_details(Code::from(item.code), item.message, details).into()
    }
}

impl From<&CallError> for Failure {
    fn from(error: &CallError) -> Self {
        let mut happened = match error.message() {
            "" => error.code().description().to_owned(),
            message => message.to_owned(),
        };
        for violation in error.field_violations() {
            happened.push_str(&format!("; {}: {}", violation.field, violation.description));
        }
        for (name, value) in error.metadata() {
            happened.push_str(&format!("; {name}: {value}"));
        }
        if let Some(reason) = error.reason() {
            happened.push_str(&format!(" ({reason})"));
        }
        Self {
            exit: error.code().into(),
            happened: Some(happened),
            next: next_step(error),
            reason: error.reason().map(str::to_owned),
        }
    }
}

/// Of writing the answer, when all is done: that nobody reads it any more is no failure then.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silent(Exit::Ok);
        }
        Self::unwritten(&error)
    }
}

/// What to do next: a command of this program where there is one.
fn next_step(error: &CallError) -> Option<String> {
    let by_reason = match error.reason() {
        Some("TOKEN_EXPIRED" | "TOKEN_REVOKED" | "TOKEN_USED_UP") => {
            "get a new token: `ibyok tokens exchange --org ORG --out FILE`, or ask an issuer; a dev vault writes one at \
             each start"
        }
        Some("TOKEN_MISSING" | "TOKEN_MALFORMED" | reason::TOKEN_FILE_UNUSABLE) => {
            "point --token-file or IBYOK_TOKEN_FILE at a file that holds a token of this vault"
        }
        Some("TOKEN_CERTIFICATE_MISMATCH") => {
            "use the client certificate that the token was issued for (--cert, --key); `ibyok tokens whoami` shows yours"
        }
        Some("CERTIFICATE_EXPIRED" | "CERTIFICATE_REVOKED") => {
            "use a client certificate that is valid: --cert and --key"
        }
        Some("SCOPE_MISSING") => return Some(missing_scope(error)),
        Some("RESOURCE_NOT_GRANTED" | "NETWORK_NOT_GRANTED") => {
            "`ibyok tokens whoami` shows what your token covers; ask for one that covers this"
        }
        Some("GRANT_TOO_WIDE") => "ask for less: `ibyok tokens whoami` shows what you hold yourself",
        Some("KEY_NOT_FOUND") => "`ibyok keys list` shows the keys that your token may see",
        Some("VERSION_NOT_FOUND" | "VERSION_RETIRED" | "VERSION_DESTROYED" | "NO_CURRENT_VERSION") => {
            "`ibyok keys show NAME` shows the versions"
        }
        Some("TOKEN_NOT_FOUND") => "`ibyok tokens list --all` shows the tokens",
        Some("BINDING_NOT_FOUND") => "`ibyok bindings list` shows the bindings",
        Some("BINDING_EXISTS") => "choose another id, or delete that binding first: `ibyok bindings delete ID`",
        Some("ORG_NOT_FOUND") => "`ibyok orgs list` shows the organizations (scope admin)",
        Some("ORG_EXISTS") => "choose another id, or change that one: `ibyok orgs update ORG`",
        Some("VERSION_NOT_PREVIOUS") => {
            "there is nothing to go back to: `ibyok keys versions NAME` shows what there is"
        }
        Some("VERSION_NOT_PENDING" | "VERSION_WRONG_STAGE") => {
            "`ibyok keys versions NAME` shows where each version stands"
        }
        Some("KEY_NOT_DELETED") => "it is not deleted: nothing is to be done",
        Some("TOO_MANY_VERSIONS") => {
            "destroy a version that nobody uses: `ibyok keys versions NAME`, `ibyok keys destroy NAME --version N`"
        }
        Some("KEY_EXISTS") => "choose another name, or give it a new value: `ibyok keys rotate NAME`",
        Some("KEY_DISABLED") => "`ibyok keys enable NAME`",
        Some("KEY_DELETED") => "`ibyok keys undelete NAME`, until its purge time",
        Some("VERSION_NOT_VERIFIED") => {
            "`ibyok keys verify NAME VERSION --evidence TEXT`, or promote it with --allow-unverified"
        }
        Some("PROVIDER_AMBIGUOUS") => "name it: --provider PROVIDER",
        Some("NOT_IMPLEMENTED") => "use a newer server",
        Some(reason::SERVER_UNREACHABLE) => "check that the vault runs and that --addr or IBYOK_ADDR is its address",
        Some(reason::TLS_REFUSED) => {
            "check --cacert, --cert and --key (a dev vault: `source .ibyok-dev/env.sh`), and that none has expired"
        }
        Some(reason::DEADLINE_EXCEEDED) => "try again, or give it longer: --timeout 30s",
        _ => return general_step(error),
    };
    Some(by_reason.to_owned())
}

fn missing_scope(error: &CallError) -> String {
    let scope = ["scope", "scopes"].iter().find_map(|name| error.metadata().get(*name));
    match scope.map(String::as_str) {
        Some(scope) if scope == "admin" || scope.starts_with("backup:") => format!(
            "use a token of the organization `system` with the scope {scope} (a dev vault: --token-file \
             .ibyok-dev/admin-token)"
        ),
        Some(scope) => format!("ask for a token with the scope {scope}; `ibyok tokens whoami` shows yours"),
        None => "`ibyok tokens whoami` shows your token's scopes; ask for one with more".to_owned(),
    }
}

fn general_step(error: &CallError) -> Option<String> {
    if let Some(wait) = error.retry_after() {
        return Some(format!("try again in {} s", wait.as_secs().max(1)));
    }
    error.advice().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn failure(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Failure {
        let metadata: HashMap<_, _> =
            metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let details = ErrorDetails::with_error_info(reason, "ibyok", metadata);
        Status::with_error_details(code, "it was refused", details).into()
    }

    #[test]
    fn every_code_has_its_exit_code() {
        let exit = |code| Failure::from(Status::new(code, "")).exit as u8;
        for (code, number) in [
            (Code::InvalidArgument, 2),
            (Code::Unauthenticated, 3),
            (Code::PermissionDenied, 4),
            (Code::NotFound, 5),
            (Code::FailedPrecondition, 6),
            (Code::Aborted, 6),
            (Code::AlreadyExists, 6),
            (Code::Unavailable, 7),
            (Code::DeadlineExceeded, 7),
            (Code::ResourceExhausted, 7),
            (Code::DataLoss, 8),
            (Code::Internal, 1),
            (Code::Unimplemented, 1),
        ] {
            assert_eq!(exit(code), number, "{code:?}");
        }
    }

    #[test]
    fn one_line_says_what_happened_and_one_what_to_do() {
        let text = failure(Code::NotFound, "KEY_NOT_FOUND", &[]).to_string();
        assert_eq!(
            text,
            "error: it was refused (KEY_NOT_FOUND)\nnext:  `ibyok keys list` shows the keys that your token may see"
        );
        for (reason, words) in [
            ("TOKEN_EXPIRED", "ibyok tokens exchange"),
            ("KEY_DISABLED", "ibyok keys enable"),
            ("KEY_EXISTS", "ibyok keys rotate"),
            (reason::SERVER_UNREACHABLE, "--addr"),
            (reason::TLS_REFUSED, "--cacert"),
        ] {
            let text = failure(Code::Internal, reason, &[]).to_string();
            assert_eq!(text.lines().count(), 2, "{text}");
            assert!(text.lines().nth(1).unwrap().contains(words), "{text}");
        }
    }

    #[test]
    fn a_missing_scope_is_named() {
        let text = failure(Code::PermissionDenied, "SCOPE_MISSING", &[("scope", "keys:write")]).to_string();
        assert!(text.contains("ask for a token with the scope keys:write"), "{text}");
        let text = failure(Code::PermissionDenied, "SCOPE_MISSING", &[("scope", "admin")]).to_string();
        assert!(text.contains("--token-file .ibyok-dev/admin-token"), "{text}");
    }

    #[test]
    fn the_servers_own_pause_is_repeated() {
        let mut details = ErrorDetails::with_error_info("RATE_LIMITED", "ibyok", HashMap::new());
        details.set_retry_info(Some(Duration::from_secs(7)));
        let failure = Failure::from(Status::with_error_details(Code::ResourceExhausted, "too many", details));
        assert!(failure.to_string().ends_with("next:  try again in 7 s"));
    }

    #[test]
    fn one_of_many_fails_as_its_own_call_would() {
        let item = pb::ItemStatus {
            code: 3,
            reason: "INVALID_FIELD".into(),
            message: "it was refused".into(),
            field_violations: vec![pb::item_status::FieldViolation {
                field: "key_id".into(),
                description: "1 to 63 characters".into(),
            }],
            ..Default::default()
        };
        let failure = Failure::from(item).about("third");
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(
            failure.to_string(),
            "error: third: it was refused; key_id: 1 to 63 characters (INVALID_FIELD)\nnext:  change the request"
        );
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.to_string()), (Exit::Ok, String::new()));
    }
}
