//! The run: windows of the floor and of the vault in turn, so that both see the same machine, and
//! the median of each.

use std::{env, path::Path, time::Duration};

use crate::{
    Failed, Plan,
    load::{Caller, Target, Window, Work, drive},
    plot,
    process::Server,
    report::{Report, Row, say},
    vault::Vault,
};

/// A server, how it is reached, and what its rows are called.
struct Subject {
    name: &'static str,
    server: Server,
    target: Target,
    work: Work,
}

/// Measures what `plan` says and prints it.
pub(crate) async fn run(plan: Plan) -> Result<(), Failed> {
    let own = env::current_exe()?;
    let program = plan.server.clone().unwrap_or_else(|| own.with_file_name("ibyok-server"));
    let kept = tempfile::tempdir()?;
    let dir = plan.dir.clone().unwrap_or_else(|| kept.path().join("vault"));
    let vault = Vault::prepare(&program, &dir).await?;
    let mut report = Report { keys: plan.keys, ..Report::default() };

    let server = vault.serve(&program, port()?).await?;
    server.stop().await?;
    // The second start: the file exists and the page cache is warm.
    let at = port()?;
    let server = vault.serve(&program, at).await?;
    report.ready_ms = server.ready.as_secs_f64() * 1_000.0;
    tokio::time::sleep(Duration::from_secs(1)).await;
    report.idle_mb = megabytes(server.used()?.resident);
    let target = vault.target(at)?;
    say(&format!("storing {} keys", plan.keys));
    vault.fill(&target, plan.keys).await?;
    // Started anew: what storing left in memory is none of retrieving's.
    server.stop().await?;
    let server = vault.serve(&program, at).await?;

    let work = Work::Retrieve(plan.keys);
    let floor = floor(&own, &dir, &vault, work).await?;
    let mut subjects = vec![floor, Subject { name: "vault", server, target, work }];
    measure(&plan, &mut subjects, &mut report).await?;
    if let (true, Some(subject)) = (plan.rotations, subjects.pop()) {
        let mut subject = [Subject { name: "rotations", work: Work::Rotate, ..subject }];
        measure(&plan, &mut subject, &mut report).await?;
        let [subject] = subject;
        subject.server.stop().await?;
    } else {
        for subject in subjects.drain(1..) {
            subject.server.stop().await?;
        }
    }
    if plan.null_audit {
        drop(subjects);
        let at = port()?;
        let server = vault.serve(&own.with_file_name("ibyok-bench-null-audit"), at).await?;
        let floor = self::floor(&own, &dir, &vault, work).await?;
        // Beside a floor of its own, which is not reported twice.
        let mut subjects = [floor, Subject { name: "null audit", server, target: vault.target(at)?, work }];
        let mut apart = Report::default();
        measure(&plan, &mut subjects, &mut apart).await?;
        for row in apart.rows {
            report.rows.push(Row {
                server: if row.server == "floor" { "floor (null audit)".into() } else { row.server },
                ..row
            });
        }
    }
    say(&report.markdown());
    if let Some(path) = &plan.report {
        report.write(path)?;
        plot::draw(&report, &path.with_extension("svg"))?;
    }
    Ok(())
}

async fn floor(own: &Path, dir: &Path, vault: &Vault, work: Work) -> Result<Subject, Failed> {
    let at = port()?;
    let target = vault.target(at)?;
    let (listen, dir) = (format!("127.0.0.1:{at}"), dir.to_str().ok_or("--dir: no text")?);
    let server = Server::start(own, &["floor", "--listen", &listen, "--dir", dir], &target).await?;
    Ok(Subject { name: "floor", server, target, work })
}

/// Windows of all subjects in turn, for each number of callers.
async fn measure(plan: &Plan, subjects: &mut [Subject], report: &mut Report) -> Result<(), Failed> {
    for &callers in &plan.callers {
        let mut connected = Vec::new();
        for subject in &*subjects {
            connected.push(connect(&subject.target, callers).await?);
        }
        let mut windows: Vec<Vec<Row>> = subjects.iter().map(|_| Vec::new()).collect();
        for round in 0..=plan.rounds {
            for ((subject, callers), rows) in subjects.iter().zip(&mut connected).zip(&mut windows) {
                // The first round only warms up.
                let span = if round == 0 { Duration::from_millis(500) } else { Duration::from_secs(plan.seconds) };
                let before = subject.server.used()?;
                let window = drive(callers, subject.work, span).await?;
                let after = subject.server.used()?;
                if round > 0 {
                    rows.push(row(
                        subject.name,
                        callers.len(),
                        window,
                        after.cpu.saturating_sub(before.cpu),
                        after.resident,
                    ));
                }
            }
        }
        for mut rows in windows {
            rows.sort_by(|one, other| one.cpu_us.total_cmp(&other.cpu_us));
            let median = rows.len() / 2;
            report.rows.extend(rows.into_iter().nth(median));
        }
    }
    Ok(())
}

async fn connect(target: &Target, callers: usize) -> Result<Vec<Caller>, Failed> {
    let mut connected = Vec::with_capacity(callers);
    for number in 0..callers {
        connected.push(target.connect().await?.among(callers, number));
    }
    Ok(connected)
}

fn row(server: &str, callers: usize, window: Window, cpu: Duration, resident: u64) -> Row {
    let Window { span, mut latencies } = window;
    latencies.sort_unstable();
    let count = latencies.len();
    let at = |share: f64| {
        let index = ((count as f64 * share) as usize).min(count.saturating_sub(1));
        latencies.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1_000.0)
    };
    Row {
        server: server.to_owned(),
        callers,
        rate: count as f64 / span.as_secs_f64(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        cpu_us: cpu.as_secs_f64() * 1e6 / count.max(1) as f64,
        resident_mb: megabytes(resident),
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// A port that is free now.
fn port() -> Result<u16, Failed> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
