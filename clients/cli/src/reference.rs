//! docs/CLI.md: what `--help` says of every command, held equal by a test. After a change write it anew:
//! `IBYOK_WRITE_REFERENCE=1 cargo test -p ibyok-cli reference`

use std::{env, fmt::Write as _, fs, path::PathBuf};

use clap::{Arg, Command, CommandFactory as _};

use crate::args::Arguments;

const HEAD: &str = "\
<!-- Made from the command line's own description: do not edit. How: clients/cli/src/reference.rs -->

# The command line

`ibyok` is the command line of the vault; [its own page](../clients/cli/README.md) says how secrets, output,
exit codes and long walks work. This page is every command with its options, as `--help` has them.
";

fn reference() -> String {
    let mut root = Arguments::command();
    root.build();
    let mut text = HEAD.to_owned();
    writeln!(text, "\n## Commands\n").unwrap();
    tree(&root, 0, &mut text);
    writeln!(text, "\n## Options of every command\n").unwrap();
    root.get_arguments().filter(|argument| argument.is_global_set()).for_each(|argument| option(argument, &mut text));
    writeln!(text, "\n## {}\n", root.get_name()).unwrap();
    help_after(&root, &mut text);
    pages(&root, &mut text);
    text
}

fn named(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|inner| inner.get_name() != "help")
}

fn path(command: &Command) -> &str {
    command.get_bin_name().unwrap_or(command.get_name())
}

fn tree(command: &Command, depth: usize, text: &mut String) {
    for inner in named(command) {
        let anchor = path(inner).replace(' ', "-");
        let about = inner.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(text, "{}- [`{}`](#{anchor}): {about}", "  ".repeat(depth), inner.get_name()).unwrap();
        tree(inner, depth + 1, text);
    }
}

fn pages(command: &Command, text: &mut String) {
    for inner in named(command) {
        if named(inner).next().is_none() {
            page(inner, text);
        } else {
            writeln!(text, "\n## {}\n\n{}.", path(inner), inner.get_about().unwrap()).unwrap();
        }
        pages(inner, text);
    }
}

fn page(command: &Command, text: &mut String) {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    writeln!(text, "\n### {}\n\n{about}.\n", path(command)).unwrap();
    let mut own = command.clone();
    let usage = own.render_usage().to_string();
    writeln!(text, "```text\n{}\n```\n", usage.strip_prefix("Usage: ").unwrap_or(&usage)).unwrap();
    let aliases: Vec<_> = command.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    if !aliases.is_empty() {
        writeln!(text, "Also: {}.\n", aliases.join(", ")).unwrap();
    }
    let own = |argument: &&Arg| !argument.is_global_set() && argument.get_id() != "help";
    command.get_arguments().filter(own).for_each(|argument| option(argument, text));
    help_after(command, text);
}

fn option(argument: &Arg, text: &mut String) {
    let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let values: Vec<_> = argument
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| value.get_name().to_owned())
        .collect();
    if argument.get_action().takes_values() && !values.is_empty() {
        write!(help, ": {}", values.join(", ")).unwrap();
    }
    let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !defaults.is_empty() && !argument.is_hide_default_value_set() && argument.get_action().takes_values() {
        write!(help, " [default: {}]", defaults.join(", ")).unwrap();
    }
    if let Some(variable) = argument.get_env() {
        write!(help, " [env: {}]", variable.to_string_lossy()).unwrap();
    }
    writeln!(text, "- `{argument}`: {help}").unwrap();
}

fn help_after(command: &Command, text: &mut String) {
    if let Some(after) = command.get_after_help() {
        writeln!(text, "\n```text\n{after}\n```").unwrap();
    }
}

#[test]
fn the_reference_is_what_the_command_line_says_of_itself() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/CLI.md");
    let text = reference();
    if env::var_os("IBYOK_WRITE_REFERENCE").is_some() {
        fs::write(&page, &text).unwrap();
    }
    let written = fs::read_to_string(&page).unwrap_or_default();
    assert!(written == text, "docs/CLI.md is not what it was made from: see clients/cli/src/reference.rs");
}
