//! A first start that is cut off: whatever was made by then, the next start goes on from it.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{dice::Dice, harness::within};

const DIRECTORIES: usize = 6;
/// Starts that are cut off in each.
const STARTS: usize = 5;

#[tokio::test]
async fn a_first_start_that_is_killed_is_made_good_by_the_next() {
    let mut dice = Dice::new();
    for _ in 0..DIRECTORIES {
        let home = TempDir::new().unwrap();
        for _ in 0..STARTS {
            let mut child = start(home.path());
            let moment = u64::try_from(dice.below(250)).unwrap();
            tokio::time::sleep(Duration::from_millis(moment)).await;
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let mut child = start(home.path());
        // It is written last, after the vault has stored and retrieved a key through the front door.
        within("a vault that was made", async {
            while !home.path().join("dev/env.sh").exists() {
                let ended = child.try_wait().unwrap();
                assert!(ended.is_none(), "{ended:?}\n{}", log(home.path()));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success(), "{}", log(home.path()));
    }
}

fn start(home: &Path) -> Child {
    // Of an earlier start; this one would remove it, but not before it is looked for.
    let _ = std::fs::remove_file(home.join("dev/env.sh"));
    let log = File::create(home.join("log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_ibyok-server"))
        .args(["dev", "--listen", "127.0.0.1:0", "--dir"])
        .arg(home.join("dev"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn log(home: &Path) -> String {
    std::fs::read_to_string(home.join("log")).unwrap_or_default()
}
