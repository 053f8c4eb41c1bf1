//! A disk that is full, or takes no writes, under a server that runs: calls fail with their reason
//! and say when to come again, health turns, nothing that was acknowledged is lost, and when the disk
//! is back all is well, without a restart. The disk is a real one, and so are the refused writes.

mod place;

use std::{sync::Arc, time::Duration};

use ibyok::grpc::pb;
use rustix::process::{Resource, Rlimit, prlimit};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt as _;

use self::place::SmallDisk;
use crate::{
    crash::{Callers, Working, check, check_records, every_chain_is_sealed, verify, writer::Writer},
    dice::Dice,
    harness::{Caller, Home, Place, reason, within},
    process::{Process, Runner, Site},
};

const WRITERS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_survived_without_a_restart() {
    let (home, disk) = on_small_disk().await;
    let Some(disk) = disk else { return takes_no_writes(home, 4).await };
    // The log is on the same disk: what can't be logged must not end anything.
    let site = Arc::new(Site::of(home, disk.logging_runner()));
    let mut vault = Trial::start(&site).await;
    for round in 0..4 {
        vault.work_until(|_| disk.fill()).await;
        vault.is_refused(|_| disk.fill()).await;
        if round == 1 {
            // Long enough for every task of the server to meet the disk as it is.
            tokio::time::sleep(Duration::from_secs(3)).await;
            vault.is_refused(|_| disk.fill()).await;
        }
        disk.free();
        vault.is_well().await;
    }
    vault.end().await;
    disk.sh("cp \"$DISK\"/vault.db \"$DISK\"/../vault.db");
    assert!(every_chain_is_sealed(&site.home.clone().moved(Place::File("vault.db"))).await);
    let log = site.whole_log();
    assert!(!log.contains("a defect"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_no_writes_is_survived_without_a_restart() {
    let home = Home::sqlite();
    home.init().await.unwrap();
    takes_no_writes(home, 6).await;
}

/// The limit of a process's file sizes makes the system refuse its writes, wherever the file is and
/// whoever the user: all of them, as where a disk has become read-only, or those that make a file
/// larger, as where it is full.
async fn takes_no_writes(home: Home, rounds: usize) {
    let site = Arc::new(Site::of(home, Runner::default()));
    let mut vault = Trial::start(&site).await;
    for round in 0..rounds {
        let largest = || std::fs::metadata(site.home.path().join("vault.db-wal")).unwrap().len();
        let limit = |process: &Process| limit_files(process, Some(if round % 2 == 0 { 0 } else { largest() }));
        vault.work_until(limit).await;
        vault.is_refused(limit).await;
        limit_files(&vault.process, None);
        vault.is_well().await;
    }
    vault.end().await;
    assert!(every_chain_is_sealed(&site.home).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_says_what_keeps_it_from_starting_on_a_read_only_disk() {
    let (home, disk) = on_small_disk().await;
    let site = if let Some(disk) = &disk {
        let site = Arc::new(Site::of(home, disk.runner()));
        disk.sh("mount -o remount,ro \"$DISK\"");
        is_refused_a_start(&site, "Read-only file system").await;
        disk.sh("mount -o remount,rw \"$DISK\"");
        site
    } else {
        // Of what it says the limit takes nothing: that goes through a pipe.
        let script = "(ulimit -f 0 && exec \"$@\" 2>&1) | cat";
        let words = ["bash", "-o", "pipefail", "-c", script, "bash"].map(str::to_owned).to_vec();
        let limited = Arc::new(Site::of(home.clone(), Runner { words, ..Runner::default() }));
        is_refused_a_start(&limited, "disk I/O error").await;
        Arc::new(Site::of(home, Runner::default()))
    };
    let mut vault = Trial::start(&site).await;
    vault.is_well().await;
    vault.end().await;
}

/// Wants that a server does not start, and says what of its store it was told by the system.
async fn is_refused_a_start(site: &Arc<Site>, why: &str) {
    let (status, log) = site.fails().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("store.path") && log.contains(why), "{log}");
}

/// A vault whose database is on a small disk, in the directory `disk` of its home; where there can be
/// no such disk, in its home.
async fn on_small_disk() -> (Home, Option<SmallDisk>) {
    let home = Home::sqlite();
    home.init().await.unwrap();
    let path = home.path().join("disk");
    std::fs::create_dir(&path).unwrap();
    let disk = SmallDisk::make(&path, 32 << 10);
    if let Some(disk) = disk {
        disk.sh("cp \"$DISK\"/../vault.db \"$DISK\"");
        return (home.moved(Place::File("disk/vault.db")), Some(disk));
    }
    (home, None)
}

fn limit_files(process: &Process, bytes: Option<u64>) {
    prlimit(Some(process.pid()), Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

/// A vault in a process of its own, and those who work with it.
struct Trial {
    process: Process,
    callers: Callers,
    writers: Vec<Writer>,
    names: usize,
}

impl Trial {
    async fn start(site: &Arc<Site>) -> Self {
        let mut dice = Dice::new();
        let process = site.serve().await;
        let callers = Callers::enter(site).await;
        let writers = (0..WRITERS).map(|n| Writer::new(&format!("w{n}"), dice.split())).collect();
        let vault = Self { process, callers, writers, names: 0 };
        create(&vault.callers.admin, "good").await.unwrap();
        vault
    }

    /// Lets them work while the disk breaks, until each has been refused.
    async fn work_until(&mut self, break_it: impl Fn(&Process)) {
        let mut working = Working::begin(std::mem::take(&mut self.writers), &self.callers);
        working.until(20).await;
        break_it(&self.process);
        self.writers = working.end().await;
        for writer in &mut self.writers {
            is_of_the_disk(&writer.ended_with.take().unwrap());
        }
    }

    /// Wants that what needs the disk is refused for its reason, and health says so. What the disk
    /// still had room for is done, and the disk breaks again.
    async fn is_refused(&mut self, break_it: impl Fn(&Process)) {
        within("calls that are refused", self.refuses(&break_it)).await;
        within("health that turns", self.says_so(&break_it)).await;
        assert!(self.process.is_running());
    }

    async fn refuses(&mut self, break_it: impl Fn(&Process)) {
        let admin = self.callers.admin.clone();
        let mut refused = 0;
        while refused < 10 {
            break_it(&self.process);
            self.names += 1;
            let key = format!("late-{}", self.names);
            let issued = pb::IssueTokenRequest {
                subject: key.clone(),
                grants: vec![pb::Grant { scopes: vec!["keys:list".into()], ..Default::default() }],
                ..Default::default()
            };
            let get = pb::GetKeyRequest { name: "good".into() };
            for outcome in
                [retrieve(&admin).await, create(&admin, &key).await, admin.tokens().issue_token(issued).await.map(drop)]
            {
                refused += usize::from(outcome.inspect_err(is_of_the_disk).is_err());
            }
            // What only reads is answered, or refused in the same way.
            let read = admin.keys().get_key(get).await.map(|answer| answer.into_inner().key.unwrap());
            let _ = read.map(|key| assert_eq!(key.name, "orgs/acme/keys/good")).inspect_err(is_of_the_disk);
        }
    }

    async fn says_so(&self, break_it: impl Fn(&Process)) {
        loop {
            let _ = retrieve(&self.callers.admin).await.inspect_err(is_of_the_disk);
            if health(&self.callers.admin).await == ServingStatus::NotServing {
                return;
            }
            break_it(&self.process);
        }
    }

    /// Wants that everything works, that what was acknowledged is there and what was not happened
    /// wholly or not at all, and that the log holds.
    async fn is_well(&mut self) {
        within("health that turns back", async {
            while health(&self.callers.admin).await != ServingStatus::Serving {
                assert!(self.process.is_running());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        retrieve(&self.callers.admin).await.unwrap();
        self.writers = check(std::mem::take(&mut self.writers), &self.callers, true).await;
        verify(&self.callers.operator).await;
    }

    /// Ends the server, which is the one that was started.
    async fn end(self) {
        check_records(&self.writers, &self.callers.admin).await;
        let acknowledged: usize = self.writers.iter().map(|writer| writer.acknowledged).sum();
        println!("{acknowledged} calls were acknowledged");
        let status = self.process.terminate().await;
        assert!(status.success(), "{status}");
    }
}

fn is_of_the_disk(status: &Status) {
    let reason = reason(status);
    assert!(["AUDIT_UNAVAILABLE", "STORE_UNAVAILABLE"].contains(&reason.as_str()), "{status:?}");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_error_details().retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
}

async fn retrieve(caller: &Caller) -> Result<(), Status> {
    let request = pb::RetrieveKeyRequest { name: "good".into(), ..Default::default() };
    caller.keys().retrieve_key(request).await.map(drop)
}

async fn create(caller: &Caller, key: &str) -> Result<(), Status> {
    let secret = Some(pb::SecretValue { text: format!("sk-proj-{key}-0123456789") });
    let request = pb::CreateKeyRequest { key_id: key.into(), provider: "openai".into(), secret, ..Default::default() };
    caller.keys().create_key(request).await.map(drop)
}

async fn health(caller: &Caller) -> ServingStatus {
    let mut health = HealthClient::new(caller.channel.clone());
    health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status()
}
