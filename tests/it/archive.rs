//! The audit log's archive on a real vault: what callers see of it, a server that is killed while it
//! moves, the command that checks the files.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use ibyok::{
    grpc::pb,
    repository::audit::archive::{ArchiveState, Directory, Entry},
    server::ServerError,
};

use crate::{
    harness::{Caller, Home, Vault, reason, within},
    tamper::stock::{Opened, soon},
};

mod past;

use past::{DAYS, SETTINGS, check, filled, home, until_archived};

/// Everything that a listing brings, newest first.
async fn listed(caller: &Caller) -> Vec<pb::AuditEvent> {
    let request = pb::ListAuditEventsRequest { page_size: 7, ..Default::default() };
    caller.audit_events(request).await
}

/// Everything that a stream brings, to the present end, or how it ends; and its tokens.
async fn streamed(caller: &Caller, resume_token: &str) -> (Vec<(pb::AuditEvent, String)>, Option<tonic::Status>) {
    let request = pb::StreamAuditEventsRequest { resume_token: resume_token.to_owned(), ..Default::default() };
    let mut stream = caller.audit().stream_audit_events(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => match message.item {
                Some(pb::stream_audit_events_response::Item::Event(event)) => {
                    events.push((event, message.resume_token));
                }
                other => panic!("{other:?}"),
            },
            Ok(None) => return (events, None),
            Err(status) => return (events, Some(status)),
        }
    }
}

/// The verdict on the log.
async fn verdict(vault: &Vault) -> pb::VerifyAuditLogResponse {
    let operator = vault.operator().await;
    let request = pb::VerifyAuditLogRequest::default();
    let mut progress = operator.audit().verify_audit_log(request).await.unwrap().into_inner();
    let mut last = None;
    while let Some(message) = progress.message().await.unwrap() {
        last = Some(message);
    }
    last.unwrap()
}

/// What the status says of the archive.
async fn archive_check(operator: &Caller) -> pb::get_server_status_response::Check {
    let status = operator.admin().get_server_status(pb::GetServerStatusRequest {}).await.unwrap().into_inner();
    status.checks.into_iter().find(|check| check.name == "archive").unwrap()
}

/// Waits until a verification says that so many records have left, and all that is below is gone.
async fn until_left(vault: &Vault, records: i64) -> pb::VerifyAuditLogResponse {
    within("records that leave the log", async {
        loop {
            let verdict = verdict(vault).await;
            assert!(verdict.complete && verdict.intact, "{verdict:?}");
            if verdict.archived >= records {
                return verdict;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_see_what_is_left_and_are_told_what_is_not() {
    const EACH: usize = 12;
    let (home, receipts) = home(EACH).await;
    let vault = home.serve("").await;
    let admin = vault.admin().await;
    let (all, ended) = streamed(&admin, "").await;
    assert!(ended.is_none());
    let is_old = |event: &pb::AuditEvent| event.resource.contains("-days-ago-") && !event.resource.contains("of-0-");
    assert_eq!(all.iter().filter(|(event, _)| is_old(event)).count(), DAYS * EACH);
    assert_eq!(verdict(&vault).await.first_position, 1);

    let vault = vault.stop().await.serve(SETTINGS).await;
    let admin = vault.admin().await;
    // The record of the vault's own making is as old.
    let verdict = until_left(&vault, i64::try_from(DAYS * EACH).unwrap()).await;
    assert!(verdict.first_position > i64::try_from(DAYS).unwrap());
    assert_eq!(verdict.checked, verdict.total);

    // What is left is listed once, in the same order as before, and streamed so.
    let left: Vec<String> = listed(&admin).await.into_iter().map(|event| event.id).rev().collect();
    let expected: Vec<&String> = all.iter().filter(|(event, _)| !is_old(event)).map(|(event, _)| &event.id).collect();
    let before: Vec<&String> = left.iter().filter(|id| expected.contains(id)).collect();
    assert_eq!(before, expected.iter().copied().filter(|id| left.contains(id)).collect::<Vec<_>>());
    for (event, _) in &all {
        let is_recent = event.resource.contains("of-0-days-ago");
        assert!(!is_recent || left.contains(&event.id), "{}", event.resource);
        assert!(!is_old(event) || !left.contains(&event.id), "{}", event.resource);
    }
    let (again, ended) = streamed(&admin, "").await;
    assert!(ended.is_none());
    let again: Vec<_> = again.into_iter().map(|(event, _)| event.id).collect();
    assert!(left.iter().all(|id| again.contains(id)));
    assert!(!all.iter().any(|(event, _)| is_old(event) && again.contains(&event.id)));

    // A single one, and one that never was: the same bytes.
    let get = async |id: &str| {
        let which = Some(pb::get_audit_event_request::Which::Id(id.to_owned()));
        admin.audit().get_audit_event(pb::GetAuditEventRequest { which, ..Default::default() }).await
    };
    let (_, old) = &receipts[0];
    let gone = get(&old.event_id()).await.unwrap_err();
    let never = get("0123456789abcdef-s000001.4096").await.unwrap_err();
    assert_eq!((gone.code(), reason(&gone)), (tonic::Code::NotFound, "EVENT_NOT_FOUND".to_owned()));
    assert_eq!((gone.message(), gone.details()), (never.message(), never.details()));
    let (_, recent) = receipts.last().unwrap();
    get(&recent.event_id()).await.unwrap();

    // A reader who was away is told that he missed something; one who was not goes on.
    let (_, token) = all.iter().find(|(event, _)| is_old(event)).unwrap();
    let (none, ended) = streamed(&admin, token).await;
    assert!(none.is_empty());
    assert_eq!(reason(&ended.unwrap()), "EVENTS_ARCHIVED");
    let (_, token) = all.iter().find(|(event, _)| event.resource.contains("of-0-days-ago")).unwrap();
    let (rest, ended) = streamed(&admin, token).await;
    assert!(ended.is_none() && rest.len() >= EACH - 1);

    // The removal is on record.
    let operator = vault.operator().await;
    let told: Vec<_> = listed(&operator).await.into_iter().filter(|event| event.action == "audit.archive").collect();
    assert_eq!(told.len(), DAYS);
    assert!(archive_check(&operator).await.ok);

    let home = vault.stop().await;
    let (archived, report) = check(&home, &receipts).await;
    assert_eq!((archived, report.files, report.notes.len()), (DAYS * EACH, DAYS, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_vanishes_is_told_and_stops_nothing_else() {
    let (home, receipts) = home(3).await;
    let (here, aside) = (home.path().join("archive"), home.path().join("aside"));
    let vault = home.serve(SETTINGS).await;
    fs::rename(&here, &aside).unwrap();
    let operator = vault.operator().await;
    let told = within("a status that tells of the archive", async {
        loop {
            let told = archive_check(&operator).await;
            if !told.ok {
                break told;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(told.detail.contains("the directory does not exist"), "{}", told.detail);
    assert!(told.hint.contains("audit.archive_dir"));
    // The vault goes on.
    vault.admin().await;
    fs::rename(&aside, &here).unwrap();
    until_left(&vault, i64::try_from(DAYS * 3).unwrap()).await;
    within("an archive that is well again", async {
        while !archive_check(&operator).await.ok {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let home = vault.stop().await;
    check(&home, &receipts).await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_one_clear_line_at_the_start() {
    let home = Home::make();
    home.init().await.unwrap();
    let start = async |home: &Home| {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        ibyok::server::run(home.config(SETTINGS), socket, std::future::pending(), home.sources()).await.unwrap_err()
    };
    let refused = start(&home).await;
    assert!(matches!(refused, ServerError::Setting { setting: "audit.archive_dir", .. }));
    assert_eq!(refused.to_string(), "audit.archive_dir: the directory does not exist");
    fs::write(home.path().join("archive"), "").unwrap();
    assert_eq!(start(&home).await.to_string(), "audit.archive_dir: it is not a directory");
}

/// A server as a process of its own.
struct Served(Child);

impl Served {
    fn start(home: &Home) -> Self {
        let log = fs::File::create(home.path().join("server.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ibyok-server"))
            .args(["serve", "--config"])
            .arg(home.path().join("server.toml"))
            .envs(home.place().environment())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
    fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn settings(home: &Home) {
    let text = format!(
        "listen = '127.0.0.1:0'
        tls = {{ cert = 'server.pem', key = 'server.key', client_ca = 'ca.pem' }}
        {}
        kms = {{ key_file = 'master.keys' }}
        {SETTINGS}",
        home.place().setting()
    );
    fs::write(home.path().join("server.toml"), text).unwrap();
}

/// What is in the directory: names and lengths.
fn seen(directory: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(directory).unwrap().filter_map(Result::ok);
    let mut seen: Vec<_> = entries
        .filter_map(|entry| Some((entry.file_name().to_string_lossy().into_owned(), entry.metadata().ok()?.len())))
        .collect();
    seen.sort();
    seen
}

async fn state(home: &Home) -> ArchiveState {
    let opened = Opened::of(home).await;
    let state = ArchiveState::load(&opened.records, soon()).await.unwrap();
    opened.close().await;
    state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_while_it_archives_loses_and_doubles_nothing() {
    const EACH: usize = 150;
    // On a table each server waits until the one before is taken for dead.
    let (home, receipts) = filled(Home::sqlite(), EACH).await;
    settings(&home);
    let directory = home.path().join("archive");
    let (mut kills, mut last) = (0, 0);
    while last < DAYS * EACH {
        let before = seen(&directory);
        let mut served = Served::start(&home);
        // Killed a little after something begins to move, later from time to time.
        loop {
            assert!(served.is_running(), "{}", fs::read_to_string(home.path().join("server.log")).unwrap());
            if seen(&directory) != before {
                break;
            }
            let is_deleting = kills % 3 == 2;
            tokio::time::sleep(Duration::from_millis(if is_deleting { 3 } else { 1 })).await;
        }
        tokio::time::sleep(Duration::from_millis([0, 4, 9, 17, 30, 60][kills % 6])).await;
        drop(served);
        kills += 1;
        let (archived, _) = check(&home, &receipts).await;
        assert!(archived >= last);
        last = archived;
    }
    assert!(kills >= 2, "it was never interrupted");
    // The last deletion is completed by whoever comes next.
    let vault = home.serve(SETTINGS).await;
    until_left(&vault, i64::try_from(last).unwrap()).await;
    let mut home = vault.stop().await;
    loop {
        let now = state(&home).await;
        if now.deleted == now.floor {
            break;
        }
        let vault = home.serve(SETTINGS).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        home = vault.stop().await;
    }
    let (archived, report) = check(&home, &receipts).await;
    assert_eq!((archived, report.files), (DAYS * EACH, DAYS));
    assert_eq!(seen(&directory).len(), DAYS, "nothing unfinished is left");
}

fn verify_archive(home: &Home, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ibyok-server"))
        .args(["audit", "verify-archive", "--dir"])
        .arg(home.path().join("archive"))
        .args(more)
        .envs(home.place().environment())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_verifies_the_files_alone_and_against_the_vault() {
    let (home, _) = home(4).await;
    settings(&home);
    let out = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    let empty = verify_archive(&home, &[]);
    assert_eq!((empty.status.code(), out(&empty)), (Some(0), "there is no archive file\n".to_owned()));

    let vault = home.serve(SETTINGS).await;
    until_archived(&vault.home(), DAYS).await;
    until_left(&vault, i64::try_from(DAYS * 4).unwrap()).await;
    let config = vault.dir.path().join("server.toml");
    let config = ["--config", config.to_str().unwrap()];
    let home = vault.stop().await;

    for more in [&[][..], &config[..]] {
        let fine = verify_archive(&home, more);
        assert_eq!(fine.status.code(), Some(0), "{fine:?}");
        assert!(out(&fine).starts_with(&format!("{DAYS} files, positions 1 to ")), "{fine:?}");
    }
    let (entries, _) = Directory::new(home.path().join("archive")).entries().unwrap();
    let path = |entry: &Entry| home.path().join("archive").join(entry.name());
    let content = fs::read(path(&entries[1])).unwrap();
    let mut changed = content.clone();
    changed[200] ^= 1;
    fs::write(path(&entries[1]), changed).unwrap();
    let bad = verify_archive(&home, &[]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(out(&bad).contains(&format!("problem: {}: ", entries[1].name())), "{bad:?}");
    assert_eq!(bad.stderr, b"ibyok-server: the archive does not verify\n");
    fs::write(path(&entries[1]), content).unwrap();

    // The last one: only the vault knows that it was there.
    fs::remove_file(path(entries.last().unwrap())).unwrap();
    assert_eq!(verify_archive(&home, &[]).status.code(), Some(0));
    let missing = verify_archive(&home, &config);
    assert_eq!(missing.status.code(), Some(1));
    assert!(out(&missing).contains("the vault says that it is there, and it is missing"));

    fs::remove_dir_all(home.path().join("archive")).unwrap();
    let nowhere = verify_archive(&home, &[]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(String::from_utf8(nowhere.stderr).unwrap().starts_with("ibyok-server: --dir: "));
}
