//! A server as a process: started, asked for its health until it serves, looked at in /proc, ended.

use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::process::{Child, Command};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{Failed, load::Target};

/// A server that runs; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pid: u32,
    /// From the start of the process to its first answer that it serves.
    pub(crate) ready: Duration,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// On the CPU, in and out of the kernel.
    pub(crate) cpu: Duration,
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
}

impl Server {
    /// Starts `program` and waits until it serves.
    pub(crate) async fn start(
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
        target: &Target,
    ) -> Result<Self, Failed> {
        let began = Instant::now();
        let mut command = Command::new(program);
        command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
        let child = command.spawn()?;
        let pid = child.id().ok_or("the server ended at once")?;
        let mut server = Self { child, pid, ready: Duration::ZERO };
        while !serves(target).await {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("{} ended with {status}", program.display()).into());
            }
            if began.elapsed() > Duration::from_secs(60) {
                return Err(format!("{} does not serve", program.display()).into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.ready = began.elapsed();
        Ok(server)
    }

    /// What it has used until now.
    pub(crate) fn used(&self) -> Result<Used, Failed> {
        used(self.pid)
    }

    /// Waits until what it does at a start is done: until it is all but idle.
    pub(crate) async fn settle(&self) -> Result<(), Failed> {
        const LOOK: Duration = Duration::from_millis(500);
        const IDLE: Duration = Duration::from_millis(50);
        loop {
            let before = self.used()?.cpu;
            tokio::time::sleep(LOOK).await;
            if self.used()?.cpu.saturating_sub(before) < IDLE {
                return Ok(());
            }
        }
    }

    /// Asks it to end, and waits.
    pub(crate) async fn stop(mut self) -> Result<(), Failed> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid)?).ok_or("no such process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait().await?;
        Ok(())
    }
}

/// What a process has used until now: `man 5 proc`.
pub(crate) fn used(pid: u32) -> Result<Used, Failed> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold blanks: the fields are counted from behind it.
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/PID/stat has another form")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
    let kilobytes: u64 = resident.ok_or("/proc/PID/status has no VmRSS")?.parse()?;
    let cpu = Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
    Ok(Used { cpu, resident: kilobytes * 1024 })
}

async fn serves(target: &Target) -> bool {
    let Ok(caller) = target.connect().await else { return false };
    let answer = HealthClient::new(caller.channel).check(HealthCheckRequest::default()).await;
    answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
}
