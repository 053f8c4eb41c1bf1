//! `ibyok run`: a command with keys in its environment.
//!
//! The command takes the place of this process (exec) rather than running below it: signals, job
//! control, the terminal and the exit code are then the command's own, exactly, and nothing of the
//! vault's is left in memory beside it. The keys are in the environment of the command only: never in
//! this process's own, never on disk, never printed. The `IBYOK_*` variables stay behind, so that the
//! command gets its keys and not the way to all others.

mod environment;
mod fetch;

use std::{env, ffi::OsString, io, process::Command};

use clap::Args;

use self::environment::{Environment, Wanted};
use crate::{
    args::parse_pair,
    failure::{Exit, Failure},
    output::Output,
    providers,
    session::Session,
};

/// BatchRetrieveKeys takes no more.
const KEYS_MAX: usize = 40;
const OF_THE_VAULT: &str = "IBYOK_";
const HELP: &str = "\
Each key goes to the variable that its provider's SDKs read (`ibyok providers list`), and the address it is \
good for to the provider's variable for that, where it has one (OPENAI_BASE_URL). The command takes the \
place of ibyok: signals and the exit code are its own; 127: there is no such command, 126: it can't be run. \
Nothing is run unless every key was retrieved. IBYOK_* variables are not passed on.

Examples:
  ibyok run --keys openai-prod,anthropic-prod -- python app.py
  ibyok run --keys OPENAI_API_KEY=openai-batch -- ./job.sh
  ibyok run --keys openai-prod/versions/pending -- ./smoke-test   # try a new value before `keys promote`
  ibyok run --keys GATEWAY_KEY=gateway --base-url GATEWAY_URL=gateway -- ./app";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Run {
    /// Keys to fetch: KEY, or VARIABLE=KEY to choose the variable; repeatable, or separated by commas
    #[arg(long, value_name = "KEY", value_delimiter = ',', required = true, value_parser = environment::parse_wanted)]
    keys: Vec<Wanted>,
    /// Put the base URL of one of the keys into this variable, too; repeatable
    #[arg(long = "base-url", value_name = "VARIABLE=KEY", value_parser = parse_pair)]
    base_urls: Vec<(String, String)>,
    /// Set no base URL variables but those of --base-url
    #[arg(long)]
    no_base_urls: bool,
    /// What for: kept in the audit log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    purpose: String,
    /// Pass the IBYOK_* variables on: the command may call the vault itself
    #[arg(long)]
    keep_vault_access: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) async fn run(args: Run, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let (program, arguments) =
        args.command.split_first().ok_or_else(|| Failure::usage("there is no command", "name it after --"))?;
    if args.keys.len() > KEYS_MAX {
        return Err(Failure::usage(format!("more than {KEYS_MAX} keys"), "a command hardly needs so many"));
    }
    environment::check(&args.keys, &args.base_urls)?;
    let providers = providers::all(session).await?;
    let fetched = fetch::fetch(&args.keys, &args.purpose, session, out).await?;
    if fetched.iter().any(|key| key.is_mock) {
        out.note("note: the token is a mock token, the values are made up");
    }
    let environment = Environment::new(&args.keys, &fetched, &providers, &args.base_urls, !args.no_base_urls)?;
    drop(fetched);
    let mut command = Command::new(program);
    command.args(arguments);
    if !args.keep_vault_access {
        let inherited = env::vars_os().map(|(name, _)| name);
        inherited.filter(is_of_the_vault).for_each(|name| {
            command.env_remove(name);
        });
    }
    environment.give_to(&mut command);
    out.flush();
    Err(become_command(command))
}

fn is_of_the_vault(name: &OsString) -> bool {
    name.as_encoded_bytes().starts_with(OF_THE_VAULT.as_bytes())
}

/// Returns only when the command could not be begun.
#[cfg(unix)]
fn become_command(mut command: Command) -> Failure {
    not_begun(&std::os::unix::process::CommandExt::exec(&mut command))
}

/// Where processes can't be replaced the command runs below this one.
#[cfg(not(unix))]
fn become_command(mut command: Command) -> Failure {
    match command.status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(error) => not_begun(&error),
    }
}

fn not_begun(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::new(Exit::CommandNotFound, "there is no such command", "check its name and PATH")
        }
        kind => Failure::new(
            Exit::NotExecutable,
            format!("the command can't be run ({kind})"),
            "check that it is a program, and its permissions",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_begun_ends_as_in_a_shell() {
        assert_eq!(not_begun(&io::ErrorKind::NotFound.into()).exit as u8, 127);
        assert_eq!(not_begun(&io::ErrorKind::PermissionDenied.into()).exit as u8, 126);
    }

    #[test]
    fn the_vaults_own_variables_are_known_by_their_beginning() {
        assert!(is_of_the_vault(&"IBYOK_TOKEN_FILE".into()));
        assert!(!is_of_the_vault(&"MY_IBYOK_X".into()));
    }
}
