//! The command line's outermost words; each group of commands has its own in its own module.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::{
    audit::AuditCommand,
    bindings::BindingsCommand,
    generate::{Completions, Man},
    keys::KeysCommand,
    orgs::OrgsCommand,
    output::Format,
    providers::ProvidersCommand,
    rewrap::Rewrap,
    run::Run,
    terminal::Color,
    time::parse_duration,
    tokens::TokensCommand,
    usage::Usage,
};

const EXIT_CODES: &str = "\
Examples:
  ibyok keys add openai-prod --environment production < key.txt
  ibyok keys get openai-prod | some-program
  ibyok run --keys openai-prod,anthropic-prod -- python app.py
  ibyok keys rotate openai-prod
  ibyok keys import .env --dry-run

Exit codes:
  0  done
  1  internal or other error
  2  wrong usage, or a field that is not valid
  3  not authenticated: token or certificate
  4  permission denied
  5  not found
  6  wrong state, or a conflict
  7  unavailable, a deadline, or a limit; for status: a check failed
  8  data loss: something does not verify
  9  some of many were done, some were not (keys import, rewrap)
  `ibyok run` ends as its command does; 126 and 127 when that can't be run or is not there.

A key or a token is never an argument: it is read from standard input, from --from-file, or asked for \
without echo. With a dev vault, `source .ibyok-dev/env.sh` sets all connection variables.";

/// The command line of the IBYOK vault
#[derive(Debug, Parser)]
#[command(name = "ibyok", version, after_help = EXIT_CODES, disable_help_subcommand = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Global {
    /// Address of the vault
    #[arg(long, global = true, env = "IBYOK_ADDR", hide_env_values = true, value_name = "HOST:PORT")]
    pub(crate) addr: Option<OsString>,
    /// File that holds the token
    #[arg(long, global = true, env = "IBYOK_TOKEN_FILE", hide_env_values = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Authority that signed the vault's certificate, PEM
    #[arg(long, global = true, env = "IBYOK_CACERT", hide_env_values = true, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// Client certificate, PEM
    #[arg(long, global = true, env = "IBYOK_CLIENT_CERT", hide_env_values = true, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// Private key of the client certificate, PEM
    #[arg(long, global = true, env = "IBYOK_CLIENT_KEY", hide_env_values = true, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Name in the vault's certificate, where it is not the host of the address
    #[arg(long, global = true, env = "IBYOK_SERVER_NAME", hide_env_values = true, value_name = "NAME")]
    pub(crate) server_name: Option<OsString>,
    /// How long a call may take, retries included [default: 5s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Organization to work in [default: the token's]
    #[arg(long, global = true, value_name = "ORG")]
    pub(crate) org: Option<String>,
    /// How answers are shown
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    /// When to use colors
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Provider keys: store, list, retrieve, rotate, withdraw
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Run a command with keys in its environment
    Run(Run),
    /// Tokens: issue, list, revoke, exchange, renew
    Tokens {
        #[command(subcommand)]
        command: TokensCommand,
    },
    /// Identity bindings: who may exchange a certificate for a token
    Bindings {
        #[command(subcommand)]
        command: BindingsCommand,
    },
    /// Providers: the table, and which one a key's shape belongs to
    Providers {
        #[command(subcommand)]
        command: ProvidersCommand,
    },
    /// How often keys were retrieved, by whom, when
    Usage(Usage),
    /// The audit log: read, follow, verify
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Organizations (need the scope admin)
    Orgs {
        #[command(subcommand)]
        command: OrgsCommand,
    },
    /// Move stored keys to another KMS key, without opening them
    Rewrap(Rewrap),
    /// The vault's own checks (needs the scope admin)
    Status,
    /// Print a completion script for a shell
    Completions(Completions),
    /// Write the manual pages
    Man(Man),
}

impl Command {
    /// Whether it works at all without a token.
    pub(crate) fn needs_token(&self) -> bool {
        !matches!(self, Self::Tokens { command: TokensCommand::Exchange(_) })
    }
}

/// `KEY=VALUE`
pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

/// Confirmation of what can't be undone, or not for long.
#[derive(Debug, Args)]
pub(crate) struct Yes {
    /// Do not ask
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub(crate) yes: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn no_argument_takes_a_secret() {
        fn walk(command: &clap::Command, path: &str) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                for word in ["secret", "value", "password", "jwt", "access_token"] {
                    assert!(!name.contains(word), "{path} --{name}");
                }
            }
            for inner in command.get_subcommands() {
                walk(inner, &format!("{path} {}", inner.get_name()));
            }
        }
        walk(&Arguments::command(), "ibyok");
    }

    #[test]
    fn help_lists_the_exit_codes() {
        let help = Arguments::command().render_help().to_string();
        for number in 0..=9 {
            assert!(help.contains(&format!("\n  {number}  ")), "{number} in {help}");
        }
    }

    #[test]
    fn pairs_have_a_name() {
        assert_eq!(parse_pair("team=a=b"), Ok(("team".into(), "a=b".into())));
        parse_pair("team").unwrap_err();
        parse_pair("=x").unwrap_err();
    }
}
