//! The contract walked against the code: each RPC of the descriptor set has a row of the
//! authorization table, and a comment that names what the row demands and the errors it answers.
//! That each row is also enforced is `authorization.rs`' business; it iterates over the same table,
//! so an RPC without an authorization test can't exist while these hold.

use std::collections::{BTreeMap, BTreeSet};

use ibyok::{
    authz::methods::{Kind, METHODS, Method, Requirement},
    domain::error::Reason,
    grpc::DESCRIPTOR_SET,
};
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet};

/// One RPC as the descriptor set has it.
#[derive(Clone)]
struct Rpc {
    path: String,
    comment: String,
    input: DescriptorProto,
    takes_stream: bool,
    answers_stream: bool,
}

#[test]
fn every_rpc_has_its_row_and_every_row_its_rpc() {
    let rpcs: Vec<_> = rpcs().into_iter().map(|rpc| rpc.path).collect();
    let rows: Vec<_> = METHODS.iter().map(|method| method.path.to_owned()).collect();
    assert!(rpcs.len() > 50, "the services were not found");
    assert_eq!(difference(&rpcs, &rows), Vec::<&String>::new(), "RPCs without a row");
    assert_eq!(difference(&rows, &rpcs), Vec::<&String>::new(), "rows without an RPC");
    assert_eq!(rows.len(), rows.iter().collect::<BTreeSet<_>>().len(), "a row stands twice");
}

#[test]
fn every_rpc_says_who_may_call_it_and_what_it_refuses() {
    let problems: Vec<_> = rows().iter().flat_map(|(method, rpc)| judge_comment(method, rpc)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Reasons that no call answers, but a command of the server.
const OF_COMMANDS: &[Reason] = &[Reason::AlreadyInitialized];

#[test]
fn every_reason_is_named_by_a_call_or_belongs_to_all() {
    let named: BTreeSet<_> = rpcs().iter().flat_map(|rpc| errors(&rpc.comment).unwrap_or_default()).collect();
    let common: BTreeSet<_> = service_reasons();
    let unnamed: Vec<_> = Reason::ALL
        .iter()
        .filter(|reason| !OF_COMMANDS.contains(reason))
        .map(|reason| reason.as_str())
        .filter(|it| !named.contains(*it) && !common.contains(*it))
        .collect();
    assert!(unnamed.is_empty(), "no comment names {unnamed:?}");
}

#[test]
fn every_mutation_takes_a_request_id() {
    let messages = messages();
    for (method, rpc) in rows() {
        assert!(!method.kind.is_mutation() || takes_request_id(&rpc, &messages), "{} has no request_id", rpc.path);
    }
}

#[test]
fn streams_are_streams() {
    for (method, rpc) in rows() {
        assert_eq!(rpc.takes_stream, method.kind == Kind::Import, "{}: what it takes", rpc.path);
        if method.kind != Kind::Import {
            assert_eq!(rpc.answers_stream, method.kind == Kind::Stream, "{}: what it answers", rpc.path);
        }
    }
}

#[test]
fn only_its_own_message_holds_a_secret() {
    // What stands in a SecretValue is hidden from Debug and wiped; nothing else may be named so.
    for (name, message) in messages().iter().filter(|(name, _)| *name != ".ibyok.v1.SecretValue") {
        for field in &message.field {
            let (field, kind) = (field.name(), field.type_name());
            let is_secret =
                matches!(field, "secret" | "access_token" | "jwt" | "password" | "private_key" | "candidates");
            let is_hidden = kind == ".ibyok.v1.SecretValue" || kind == ".ibyok.v1.DetectProviderResponse.Candidate";
            assert!(!is_secret || is_hidden, "{name}.{field} is not a SecretValue");
        }
    }
}

#[test]
fn a_fault_of_each_kind_is_found() {
    let good = "Does a thing. Scope keys:list.\nErrors: KEY_NOT_FOUND.";
    let method = METHODS.iter().find(|it| it.path == "/ibyok.v1.KeyVault/GetKey").unwrap();
    let rpc = |comment: &str| Rpc {
        path: method.path.to_owned(),
        comment: comment.to_owned(),
        input: DescriptorProto::default(),
        takes_stream: false,
        answers_stream: false,
    };
    assert_eq!(judge_comment(method, &rpc(good)), Vec::<String>::new());
    for (comment, expected) in [
        ("", "no comment"),
        ("Does a thing.\nErrors: KEY_NOT_FOUND.", "Scope keys:list."),
        ("Does a thing. Scope keys:list-all.\nErrors: KEY_NOT_FOUND.", "Scope keys:list."),
        ("Does a thing. Scope keys:read. Scope keys:list.\nErrors: KEY_NOT_FOUND.", "another requirement"),
        ("Does a thing. Any valid token. Scope keys:list.\nErrors: KEY_NOT_FOUND.", "another requirement"),
        ("Scope keys:list.\nErrors: KEY_NOT_FOUND.", "does not say what it does"),
        ("Does a thing. Scope keys:list.", "no list of errors"),
        ("Does a thing. Scope keys:list.\nErrors: .", "no list of errors"),
        ("Does a thing. Scope keys:list.\nErrors: KEY_LOST.", "no reason KEY_LOST"),
        ("Does a thing. Scope keys:list.\nErrors: KEY_NOT_FOUND, NOT_IMPLEMENTED.", "NOT_IMPLEMENTED"),
    ] {
        let problems = judge_comment(method, &rpc(comment));
        assert!(problems.iter().any(|it| it.contains(expected)), "{comment}: {problems:?}");
    }
    let bare = Rpc { input: DescriptorProto::default(), ..rpc(good) };
    assert!(!takes_request_id(&bare, &messages()));
}

/// What is wrong with the comment of `rpc`, whose row is `method`.
fn judge_comment(method: &Method, rpc: &Rpc) -> Vec<String> {
    let comment = rpc.comment.replace('\n', " ");
    let mut problems = Vec::new();
    let mut problem = |text: String| problems.push(format!("{}: {text}", rpc.path));
    if rpc.comment.trim().is_empty() {
        problem("no comment".to_owned());
    }
    let demand = demand(method.requirement);
    if !comment.contains(&demand) {
        problem(format!("the comment does not say `{demand}`"));
    }
    let rest = comment.replacen(&demand, "", 1);
    if ["Scope ", "Any valid token.", "No token needed."].iter().any(|other| rest.contains(other)) {
        problem("the comment names another requirement, too".to_owned());
    }
    if rpc.comment.starts_with("Scope") || rpc.comment.starts_with("Errors") {
        problem("the comment does not say what it does".to_owned());
    }
    match errors(&rpc.comment) {
        None => problem("no list of errors: a last line `Errors: A, B.`".to_owned()),
        Some(named) => {
            for unknown in named.iter().filter(|it| Reason::ALL.iter().all(|reason| reason.as_str() != **it)) {
                problem(format!("there is no reason {unknown}"));
            }
            let says_unbuilt = named.contains(&Reason::NotImplemented.as_str().to_owned());
            // A call that is built but for a part says of that part "in this version".
            let is_partly_built = method.is_built && comment.contains("this version");
            if says_unbuilt == method.is_built && !is_partly_built {
                problem("NOT_IMPLEMENTED stands in the comment of what is not built, and only there".to_owned());
            }
        }
    }
    problems
}

/// The sentence that a comment must have.
fn demand(requirement: Requirement) -> String {
    match requirement {
        Requirement::Certificate => "No token needed.".to_owned(),
        Requirement::Token => "Any valid token.".to_owned(),
        Requirement::AnyScope(scopes) => {
            let scopes: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
            format!("Scope {}.", scopes.join(" or "))
        }
    }
}

/// The reasons of the comment's last paragraph, `Errors: A, B.`, or `Errors: none of its own.`
fn errors(comment: &str) -> Option<Vec<String>> {
    let (_, list) = comment.split_once("\nErrors: ")?;
    let list = list.trim().strip_suffix('.')?.replace('\n', " ");
    match list.as_str() {
        "" => None,
        "none of its own" => Some(Vec::new()),
        list => Some(list.split(',').map(|reason| reason.trim().to_owned()).collect()),
    }
}

/// Whether the request holds a request_id, or, where it is a stream, the message that it carries.
fn takes_request_id(rpc: &Rpc, messages: &BTreeMap<String, DescriptorProto>) -> bool {
    let has = |message: &DescriptorProto| message.field.iter().any(|field| field.name() == "request_id");
    let inner = || rpc.input.field.iter().filter_map(|field| messages.get(field.type_name()));
    has(&rpc.input) || rpc.takes_stream && inner().any(has)
}

/// Reasons that the services' own comments name for each of their calls.
fn service_reasons() -> BTreeSet<&'static str> {
    let comments: String = files().iter().flat_map(|file| comments(file, 2)).map(|(_, text)| text).collect();
    let words: BTreeSet<_> = comments.split(|c: char| !c.is_ascii_uppercase() && c != '_').collect();
    Reason::ALL.iter().map(|reason| reason.as_str()).filter(|reason| words.contains(reason)).collect()
}

fn difference<'a>(left: &'a [String], right: &[String]) -> Vec<&'a String> {
    left.iter().filter(|item| !right.contains(item)).collect()
}

/// Each row with its RPC; rows without one are the first test's business.
fn rows() -> Vec<(&'static Method, Rpc)> {
    let rpcs: BTreeMap<_, _> = rpcs().into_iter().map(|rpc| (rpc.path.clone(), rpc)).collect();
    METHODS.iter().filter_map(|method| Some((method, rpcs.get(method.path)?.clone()))).collect()
}

fn rpcs() -> Vec<Rpc> {
    let (messages, mut found) = (messages(), Vec::new());
    for file in files() {
        let comments: BTreeMap<_, _> = comments(&file, 4).collect();
        for (service_at, service) in file.service.iter().enumerate() {
            for (method_at, method) in service.method.iter().enumerate() {
                let at = [6, i32::try_from(service_at).unwrap(), 2, i32::try_from(method_at).unwrap()];
                found.push(Rpc {
                    path: format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                    comment: comments.get(at.as_slice()).cloned().unwrap_or_default(),
                    input: messages[method.input_type()].clone(),
                    takes_stream: method.client_streaming(),
                    answers_stream: method.server_streaming(),
                });
            }
        }
    }
    found
}

/// The leading comments of what lies `depth` numbers deep below the file's services.
fn comments(file: &prost_types::FileDescriptorProto, depth: usize) -> impl Iterator<Item = (Vec<i32>, String)> + use<> {
    let places = file.source_code_info.clone().unwrap_or_default().location;
    places.into_iter().filter(move |place| place.path.len() == depth && place.path[0] == 6).map(|place| {
        let lines: Vec<_> = place.leading_comments().lines().map(str::trim).collect();
        let comment = lines.join("\n").trim().to_owned();
        (place.path, comment)
    })
}

fn messages() -> BTreeMap<String, DescriptorProto> {
    let mut open: Vec<_> = files()
        .into_iter()
        .flat_map(|file| {
            let package = format!(".{}", file.package());
            file.message_type.into_iter().map(move |message| (package.clone(), message))
        })
        .collect();
    let mut found = BTreeMap::new();
    while let Some((outer, message)) = open.pop() {
        let name = format!("{outer}.{}", message.name());
        open.extend(message.nested_type.iter().map(|inner| (name.clone(), inner.clone())));
        found.insert(name, message);
    }
    found
}

/// The files of our own package.
fn files() -> Vec<prost_types::FileDescriptorProto> {
    let set = FileDescriptorSet::decode(DESCRIPTOR_SET).unwrap();
    set.file.into_iter().filter(|file| file.package() == "ibyok.v1").collect()
}
