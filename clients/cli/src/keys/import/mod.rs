//! `ibyok keys import`: many keys from a file or from standard input, in one stream.
//!
//! Everything is read and checked before anything is sent. Each key has a request id that is made of
//! --import-id, the organization, its id and its other fields: whoever runs the same command again
//! after a cut goes on where it broke off, and nothing is stored twice. No secret, and no digest of
//! one, is in that id: that the value is the same one, the vault sees for itself.

mod csv;
mod dotenv;
mod json_lines;
mod record;
mod report;
mod send;
mod shape;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use zeroize::Zeroizing;

use self::{record::Record, report::Report};
use crate::{args::parse_pair, failure::Failure, output::Output, session::Session};

const HELP: &str = "\
Formats, by the file's extension or --format:
  csv    a header with name and secret, and any of provider, environment, description, labels (a=b;c=d),
         models (a;b), base_url, kind, rotate_every, ttl
  jsonl  an object on each line with the same names; labels is an object, models a list
  env    NAME=VALUE with quotes, comments and export. OPENAI_API_KEY becomes openai-api-key; what is no \
provider key is skipped, and said so

The provider is told from the variable's name or the key's shape where none is given. Of a .env file the vault \
sees only values under names that a provider's SDK reads, or that end in KEY or TOKEN and are not those of other \
secrets (AWS_SECRET_ACCESS_KEY, JWT_SIGNING_KEY); --detect-all shows it the others, too. Nothing is sent unless \
the whole file can be read. Run the same command again after a cut: what is stored is not stored twice. Exits \
9 when some keys were refused.

Examples:
  ibyok keys import keys.csv --dry-run
  ibyok keys import .env --prefix prod- --environment production
  some-program | ibyok keys import - --format jsonl --skip-existing";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Import {
    /// The file; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What the file holds [default: by its extension]
    #[arg(long, value_name = "FORMAT", value_enum)]
    format: Option<FileFormat>,
    /// Put this before each key id
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Provider of the keys that name none
    #[arg(long, value_name = "PROVIDER", default_value = "", hide_default_value = true)]
    provider: String,
    /// Environment of the keys that name none
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    environment: String,
    /// Label for all keys; repeatable
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
    /// Of a .env file: show the vault the values of all variables, to tell which are provider keys
    #[arg(long)]
    detect_all: bool,
    /// Only check; store nothing
    #[arg(long)]
    dry_run: bool,
    /// Leave keys alone whose id is there already
    #[arg(long)]
    skip_existing: bool,
    /// Names this import: another one imports ids anew that were imported within the last 24 hours
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    import_id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FileFormat {
    Csv,
    Jsonl,
    Env,
}

/// Something in the file that can't be: where, and what, but never a value.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    line: u64,
    /// Column, field or variable, where one is to blame.
    field: Option<String>,
    problem: String,
}

impl Problem {
    fn new(line: u64, field: Option<&str>, problem: impl Into<String>) -> Self {
        Self { line, field: field.map(str::to_owned), problem: problem.into() }
    }
}

pub(super) async fn import(args: Import, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let format = args.format.or_else(|| by_extension(&args.file)).ok_or_else(|| {
        Failure::usage("the format of the file is not known by its name", "name it: --format csv, jsonl or env")
    })?;
    let bytes = read(&args.file)?;
    let records = match format {
        FileFormat::Csv => csv::records(&bytes),
        FileFormat::Jsonl => json_lines::records(&bytes),
        FileFormat::Env => dotenv::records(&bytes),
    };
    drop(bytes);
    let records = records.and_then(|records| prepared(records, &args)).map_err(|problems| unreadable(problems, out))?;
    let mut report = Report::new(args.dry_run);
    let records = match format {
        FileFormat::Env => {
            let (keys, passed_over) = shape::keys_only(records, args.detect_all, session, &mut report).await?;
            if passed_over > 0 {
                out.note(&format!("{passed_over} not looked at, as their names are not those of keys: --detect-all"));
            }
            keys
        }
        _ => records,
    };
    if records.is_empty() {
        let _ = report.show(out);
        return Err(Failure::usage("there is no key in the file", "see `ibyok keys import --help` for the formats"));
    }
    let options = send::Options {
        dry_run: args.dry_run,
        skip_existing: args.skip_existing,
        import_id: args.import_id,
        parent: session.names.parent(),
    };
    let sent = send::send(records, options, session, &mut report).await;
    let shown = report.show(out);
    // How it went comes first: that nobody reads of it makes no success of it.
    sent?;
    report.conclude()?;
    shown
}

fn by_extension(path: &Path) -> Option<FileFormat> {
    let name = path.file_name()?.to_str()?;
    match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default() {
        "csv" => Some(FileFormat::Csv),
        "jsonl" | "ndjson" => Some(FileFormat::Jsonl),
        "env" => Some(FileFormat::Env),
        _ if name == ".env" || name.starts_with(".env.") => Some(FileFormat::Env),
        _ => None,
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(Vec::new());
    let failed = |error: io::Error| Failure::file("read", path, &error);
    if path.as_os_str() == "-" {
        io::stdin().lock().read_to_end(&mut bytes).map_err(failed)?;
    } else {
        File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(failed)?;
    }
    Ok(bytes)
}

/// What the arguments say for all keys; and no id twice.
fn prepared(records: Vec<Record>, args: &Import) -> Result<Vec<Record>, Vec<Problem>> {
    let mut seen = std::collections::BTreeMap::new();
    let mut problems = Vec::new();
    let mut prepared = Vec::new();
    for mut record in records {
        record.id.insert_str(0, &args.prefix);
        for (own, given) in [(&mut record.provider, &args.provider), (&mut record.environment, &args.environment)] {
            if own.is_empty() {
                own.clone_from(given);
            }
        }
        for (name, value) in &args.labels {
            record.labels.entry(name.clone()).or_insert_with(|| value.clone());
        }
        if let Some(line) = seen.insert(record.id.clone(), record.line) {
            problems.push(Problem::new(record.line, Some("name"), format!("is the same as that of line {line}")));
        }
        prepared.push(record);
    }
    if problems.is_empty() { Ok(prepared) } else { Err(problems) }
}

/// The first few problems, one a line.
fn unreadable(problems: Vec<Problem>, out: &mut Output) -> Failure {
    const SHOWN: usize = 20;
    for Problem { line, field, problem } in problems.iter().take(SHOWN) {
        let field = field.as_ref().map(|field| format!(", {field}")).unwrap_or_default();
        out.note(&format!("line {line}{field}: {problem}"));
    }
    let count = problems.len();
    let lines = if count == 1 { "1 problem" } else { &format!("{count} problems") };
    Failure::usage(format!("nothing was sent: the file has {lines}"), "mend what is said above and run it again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_the_format() {
        for (name, format) in [
            ("keys.csv", Some(FileFormat::Csv)),
            ("a/keys.jsonl", Some(FileFormat::Jsonl)),
            ("keys.ndjson", Some(FileFormat::Jsonl)),
            (".env", Some(FileFormat::Env)),
            ("prod.env", Some(FileFormat::Env)),
            (".env.production", Some(FileFormat::Env)),
            ("-", None),
            ("keys.txt", None),
        ] {
            assert_eq!(by_extension(Path::new(name)), format, "{name}");
        }
    }
}
