//! `ibyok-bench`: drives a vault from outside and, in the same run, the floor: a bare tonic echo
//! behind the same kind of listener. What a call costs the server is read from /proc.
//!
//! It knows nothing of the vault but its command line, its settings and its contract; the vault
//! without an audit log is a program of its own, `ibyok-bench-null-audit`, and so is what makes the
//! requests of a retrieval to AWS and nothing else, `ibyok-bench-requests`.

#![expect(clippy::disallowed_methods, reason = "it measures time as it passes outside of the vault")]

mod emulators;
mod floor;
mod load;
mod measure;
mod plot;
mod process;
mod proxy;
mod report;
mod vault;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

/// Why a measurement ended early; each is a sentence.
type Failed = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(name = "ibyok-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Retrievals beside the floor, rotations, memory, time to ready
    Run(Plan),
    /// Draw the plot of a report that `run` wrote
    Plot {
        /// The report
        #[arg(long)]
        report: PathBuf,
        /// The picture, SVG
        #[arg(long)]
        out: PathBuf,
    },
    /// (used by run) The floor's server
    #[command(hide = true)]
    Floor(floor::Floor),
}

/// A store and a KMS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Engines {
    /// SQLite and the local KMS
    #[default]
    Embedded,
    /// DynamoDB and AWS KMS, as DynamoDB Local and LocalStack have them: tools/ensure installs both
    Aws,
}

/// What is measured.
#[derive(Args, Clone, Debug)]
struct Plan {
    /// What the vault runs on
    #[arg(long, value_enum, default_value_t)]
    engines: Engines,
    /// The server; built in the same profile as this program
    #[arg(long)]
    server: Option<PathBuf>,
    /// How many keys are stored
    #[arg(long, default_value_t = 1_000)]
    keys: usize,
    /// Callers at a time, each on a connection of its own
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    callers: Vec<usize>,
    /// How long each window is, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Windows of each kind, taken in turn; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measure a vault without audit log, too, to show what it costs
    #[arg(long)]
    null_audit: bool,
    /// Measure rotations, too
    #[arg(long)]
    rotations: bool,
    /// Keep the vault here, and use what an earlier run stored; embedded engines only
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where the figures go, JSON
    #[arg(long)]
    report: Option<PathBuf>,
}

/// What the floor does before it answers.
#[derive(Clone, Copy)]
struct Nothing;

impl floor::Work for Nothing {
    async fn once(&self) -> Result<(), tonic::Status> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(plan) => measure::run(plan).await,
        Command::Plot { report, out } => report::read(&report).and_then(|report| plot::draw(&report, &out)),
        Command::Floor(floor) => floor.serve(Nothing).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            report::say(&format!("error: {failed}"));
            ExitCode::FAILURE
        }
    }
}
