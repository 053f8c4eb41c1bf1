//! Questions to whoever sits at the terminal. Where nobody does, nothing waits for an answer.

use std::io::{self, BufRead as _, IsTerminal as _};

use crate::{args::Yes, failure::Failure, output::Output};

/// Whether somebody can be asked.
pub(crate) fn is_attended() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks before something that can't be undone, or not for long; nobody there: --yes is needed.
pub(crate) fn confirm(question: &str, yes: &Yes, out: &mut Output) -> Result<(), Failure> {
    if yes.yes {
        return Ok(());
    }
    let stopped = || Failure::usage("nothing was done: it was not confirmed", "answer y, or add --yes");
    if !io::stdin().is_terminal() {
        return Err(stopped());
    }
    if agrees(question, out)? { Ok(()) } else { Err(stopped()) }
}

/// `y` or `yes`.
pub(crate) fn agrees(question: &str, out: &mut Output) -> Result<bool, Failure> {
    let answer = answer(&format!("{question} [y/N]"), out)?;
    Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// One line, without white space around it; empty at the end of input.
pub(crate) fn answer(question: &str, out: &mut Output) -> Result<String, Failure> {
    out.ask(question)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}
