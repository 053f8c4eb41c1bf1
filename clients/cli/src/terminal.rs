//! What a terminal can do: whether it is to have colors, and how wide it is.

use std::env;

/// `--color`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb
    Auto,
    /// Everywhere
    Always,
    /// Nowhere
    Never,
}

impl Color {
    /// How a stream is painted. An argument goes before the environment (<https://no-color.org>).
    pub(crate) fn paint(self, is_terminal: bool) -> Paint {
        let is_unwanted = || {
            env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
                || env::var_os("TERM").is_some_and(|value| value == "dumb")
        };
        Paint(match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => is_terminal && !is_unwanted(),
        })
    }
}

/// Paints text, or leaves it alone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Paint(bool);

impl Paint {
    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }
    /// `error:`, `next:` and the like at the beginning of a line.
    pub(crate) fn label(self, line: &str) -> String {
        const LABELS: [(&str, &str); 4] = [("error:", "1;31"), ("next:", "1"), ("warning:", "33"), ("note:", "36")];
        let label = LABELS.iter().find_map(|(label, code)| Some((label, code, line.strip_prefix(label)?)));
        match label {
            Some((label, code, rest)) => format!("{}{rest}", self.with(code, label)),
            None => line.to_owned(),
        }
    }
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Columns of the terminal that standard output is.
pub(crate) fn terminal_width() -> Option<usize> {
    #[cfg(unix)]
    {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
        Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
    }
    #[cfg(not(unix))]
    {
        env::var("COLUMNS").ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn color_is_for_terminals_unless_asked_otherwise() {
        assert_eq!(Color::Auto.paint(false).bold("a"), "a");
        assert_eq!(Color::Never.paint(true).bold("a"), "a");
        assert_eq!(Color::Always.paint(false).bold("a"), "\u{1b}[1ma\u{1b}[0m");
    }

    #[test]
    fn only_the_label_of_a_line_is_painted() {
        let paint = Paint(true);
        assert_eq!(paint.label("error: no error: here"), "\u{1b}[1;31merror:\u{1b}[0m no error: here");
        assert_eq!(paint.label("an error: none"), "an error: none");
        assert_eq!(Paint(false).label("error: x"), "error: x");
    }
}
