//! What is made from the command line's own description: completion scripts and manual pages.

use std::{fs, path::PathBuf};

use clap::{Args, CommandFactory as _, ValueHint};
use clap_complete::Shell;

use crate::{args::Arguments, failure::Failure, output::Output};

const COMPLETIONS_HELP: &str = "\
Examples:
  ibyok completions bash > /etc/bash_completion.d/ibyok
  ibyok completions zsh > \"${fpath[1]}/_ibyok\"
  ibyok completions fish > ~/.config/fish/completions/ibyok.fish";

#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS_HELP)]
pub(crate) struct Completions {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn completions(args: &Completions, out: &mut Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "ibyok", &mut script);
    out.bytes(&script)
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ibyok man --dir /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// Directory to write ibyok.1 and a page for each command to; it is made if it is not there
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    dir: PathBuf,
}

pub(crate) fn man(args: &Man, out: &mut Output) -> Result<(), Failure> {
    let written =
        fs::create_dir_all(&args.dir).and_then(|()| clap_mangen::generate_to(Arguments::command(), &args.dir));
    written.map_err(|error| Failure::file("write to", &args.dir, &error))?;
    let first = args.dir.join("ibyok.1");
    out.show(&serde_json::json!({ "first_page": first.display().to_string() }), || {
        vec![format!("wrote the pages; `man {}` shows the first", first.display())]
    })
}
