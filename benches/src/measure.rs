//! The run: windows of the floor and of the vault in turn, so that both see the same machine, and
//! the median of each.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    Engines, Failed, Plan,
    emulators::{ENVIRONMENT, Emulators, Place},
    load::{Caller, Target, Window, Work, drive},
    plot,
    process::{Server, Used},
    proxy::Proxies,
    report::{BARE, Report, Row, say},
    vault::Vault,
};

/// A server, how it is reached, and what its rows are called.
struct Subject {
    name: &'static str,
    server: Server,
    target: Target,
    work: Work,
}

/// What is measured, and with what.
struct Bench {
    plan: Plan,
    /// The program that runs.
    own: PathBuf,
    /// The server's.
    program: PathBuf,
    vault: Vault,
    emulators: Option<Emulators>,
}

/// Measures what `plan` says and prints it.
pub(crate) async fn run(plan: Plan) -> Result<(), Failed> {
    let own = env::current_exe()?;
    let program = plan.server.clone().unwrap_or_else(|| own.with_file_name("ibyok-server"));
    let kept = tempfile::tempdir()?;
    let dir = plan.dir.clone().unwrap_or_else(|| kept.path().join("vault"));
    let emulators = match plan.engines {
        Engines::Embedded => None,
        Engines::Aws if plan.dir.is_some() => return Err("--dir: what the emulators store ends with them".into()),
        Engines::Aws => Some(Emulators::start(kept.path()).await?),
    };
    let place = emulators.as_ref().map(|emulators| emulators.place.clone());
    let vault = Vault::prepare(&program, &dir, place).await?;
    let path = plan.report.clone();
    let report = Bench { plan, own, program, vault, emulators }.report().await?;
    say(&report.markdown());
    if let Some(path) = &path {
        report.write(path)?;
        plot::draw(&report, &path.with_extension("svg"))?;
    }
    Ok(())
}

impl Bench {
    async fn report(&self) -> Result<Report, Failed> {
        let mut report = Report { keys: self.plan.keys, engines: self.plan.engines, ..Report::default() };
        let at = port()?;
        let server = self.started(at, &mut report).await?;
        self.vault.fill(&self.vault.target(at)?, self.plan.keys).await?;
        // Started anew: what storing left in memory is none of retrieving's.
        server.stop().await?;
        if let Some(place) = &self.vault.place {
            self.count(place, &mut report).await?;
        }
        let server = self.vault.serve(&self.program, at).await?;
        let mut subjects = vec![self.floor().await?];
        if let Some(place) = &self.vault.place {
            for (name, make) in BARE {
                subjects.push(self.bare(place, name, make).await?);
            }
        }
        let target = self.vault.target(at)?;
        subjects.push(Subject { name: "vault", server, target, work: self.retrievals() });
        self.measure(&mut subjects, &mut report).await?;
        if let (true, Some(subject)) = (self.plan.rotations, subjects.pop()) {
            let mut subject = [Subject { name: "rotations", work: Work::Rotate, ..subject }];
            self.measure(&mut subject, &mut report).await?;
            let [subject] = subject;
            subject.server.stop().await?;
        } else {
            for subject in subjects.drain(1..) {
                subject.server.stop().await?;
            }
        }
        drop(subjects);
        if self.plan.null_audit {
            self.null_audit(&mut report).await?;
        }
        Ok(report)
    }

    /// The vault's server, started for the second time: the file exists and the page cache is warm.
    async fn started(&self, at: u16, report: &mut Report) -> Result<Server, Failed> {
        let server = self.vault.serve(&self.program, at).await?;
        self.vault.exchange(&self.vault.target(at)?).await?;
        server.stop().await?;
        let server = self.vault.serve(&self.program, at).await?;
        report.ready_ms = server.ready.as_secs_f64() * 1_000.0;
        tokio::time::sleep(Duration::from_secs(1)).await;
        report.idle_mb = megabytes(server.used()?.resident);
        say(&format!("storing {} keys", self.plan.keys));
        Ok(server)
    }

    fn retrievals(&self) -> Work {
        Work::Retrieve(self.plan.keys)
    }

    async fn floor(&self) -> Result<Subject, Failed> {
        self.beside("floor", &self.own, &["floor"], &[]).await
    }

    /// What makes the requests of a retrieval, or those of one kind, and nothing else.
    async fn bare(&self, place: &Place, name: &'static str, make: &str) -> Result<Subject, Failed> {
        let requests = self.requests();
        let requests = requests.to_str().ok_or("--dir: no text")?;
        let Place { dynamodb, kms, .. } = place;
        let arguments = ["--dynamodb", dynamodb, "--kms", kms, "--requests", requests, "--make", make];
        self.beside(name, &self.own.with_file_name("ibyok-bench-requests"), &arguments, &ENVIRONMENT).await
    }

    /// A server of this package that listens as the vault does.
    async fn beside(
        &self,
        name: &'static str,
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Subject, Failed> {
        let at = port()?;
        let target = self.vault.target(at)?;
        let (listen, dir) = (format!("127.0.0.1:{at}"), self.vault.dir.to_str().ok_or("--dir: no text")?);
        let arguments = [arguments, &["--listen", &listen, "--dir", dir]].concat();
        let server = Server::start(program, &arguments, environment, &target).await?;
        Ok(Subject { name, server, target, work: self.retrievals() })
    }

    /// Where a request of each kind is kept.
    fn requests(&self) -> PathBuf {
        self.vault.dir.join("requests.json")
    }

    /// How many requests a retrieval makes, in windows of their own, and what they look like.
    async fn count(&self, place: &Place, report: &mut Report) -> Result<(), Failed> {
        let proxies = Proxies::default();
        let (dynamodb, kms) = (proxies.before(&place.dynamodb).await?, proxies.before(&place.kms).await?);
        let place = Place { dynamodb, kms, key: place.key.clone() };
        let vault = Vault { dir: self.vault.dir.clone(), place: Some(place) };
        let at = port()?;
        let server = vault.serve(&self.program, at).await?;
        let target = vault.target(at)?;
        // One caller's records are batches of one: that is the sample.
        drive(&mut connect(&target, 1).await?, self.retrievals(), WARMING).await?;
        report.record_bytes = proxies.record_bytes();
        fs::write(self.requests(), serde_json::to_vec(&proxies.samples())?)?;
        for &callers in &self.plan.callers {
            let mut connected = connect(&target, callers).await?;
            drive(&mut connected, self.retrievals(), WARMING).await?;
            proxies.take(callers, 0);
            let window = drive(&mut connected, self.retrievals(), self.span()).await?;
            report.counted.push(proxies.take(callers, window.latencies.len()));
        }
        server.stop().await
    }

    /// The vault without audit log, beside a floor of its own.
    async fn null_audit(&self, report: &mut Report) -> Result<(), Failed> {
        let at = port()?;
        let server = self.vault.serve(&self.own.with_file_name("ibyok-bench-null-audit"), at).await?;
        let target = self.vault.target(at)?;
        let vault = Subject { name: "null audit", server, target, work: self.retrievals() };
        let mut apart = Report::default();
        self.measure(&mut [self.floor().await?, vault], &mut apart).await?;
        for row in apart.rows {
            let server = if row.server == "floor" { "floor (null audit)".into() } else { row.server };
            report.rows.push(Row { server, ..row });
        }
        Ok(())
    }

    fn span(&self) -> Duration {
        Duration::from_secs(self.plan.seconds)
    }

    /// What the emulators have used until now, if there are any.
    fn emulators_used(&self) -> Result<Option<Used>, Failed> {
        self.emulators.as_ref().map(Emulators::used).transpose()
    }

    /// Windows of all subjects in turn, for each number of callers.
    async fn measure(&self, subjects: &mut [Subject], report: &mut Report) -> Result<(), Failed> {
        for &callers in &self.plan.callers {
            let mut connected = Vec::new();
            for subject in &*subjects {
                connected.push(connect(&subject.target, callers).await?);
            }
            let mut windows: Vec<Vec<Row>> = subjects.iter().map(|_| Vec::new()).collect();
            for round in 0..=self.plan.rounds {
                for ((subject, callers), rows) in subjects.iter().zip(&mut connected).zip(&mut windows) {
                    // The first round only warms up.
                    let row = self.window(subject, callers, if round == 0 { WARMING } else { self.span() }).await?;
                    rows.extend((round > 0).then_some(row));
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

    async fn window(&self, subject: &Subject, callers: &mut [Caller], span: Duration) -> Result<Row, Failed> {
        let used = || Ok::<_, Failed>((subject.server.used()?, self.emulators_used()?));
        let before = used()?;
        let window = drive(callers, subject.work, span).await?;
        let after = used()?;
        let cpu = |before: Used, after: Used| after.cpu.saturating_sub(before.cpu);
        let emulators = before.1.zip(after.1).map(|(before, after)| cpu(before, after));
        let cpu = cpu(before.0, after.0);
        Ok(row(subject.name, callers.len(), window, (cpu, emulators), after.0.resident))
    }
}

/// How long callers only warm up.
const WARMING: Duration = Duration::from_millis(500);

async fn connect(target: &Target, callers: usize) -> Result<Vec<Caller>, Failed> {
    let mut connected = Vec::with_capacity(callers);
    for number in 0..callers {
        connected.push(target.connect().await?.among(callers, number));
    }
    Ok(connected)
}

fn row(
    server: &str,
    callers: usize,
    window: Window,
    (cpu, emulators): (Duration, Option<Duration>),
    resident: u64,
) -> Row {
    let Window { span, mut latencies } = window;
    latencies.sort_unstable();
    let count = latencies.len();
    let at = |share: f64| {
        let index = ((count as f64 * share) as usize).min(count.saturating_sub(1));
        latencies.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1_000.0)
    };
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / count.max(1) as f64;
    Row {
        server: server.to_owned(),
        callers,
        rate: count as f64 / span.as_secs_f64(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        cpu_us: each(cpu),
        emulators_us: emulators.map(each),
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
