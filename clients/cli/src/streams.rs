//! What long calls have in common: they may be cut and opened again, and they say how far they are.

use std::time::Duration;

use ibyok_client::{Code, Error};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tonic::Status;

use crate::output::Output;

/// How often in a row a stream is opened without anything being answered.
const ATTEMPTS_MAX: u32 = 5;
const PAUSE_MIN: Duration = Duration::from_millis(300);

/// Whether and when a stream that was cut is opened again.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    in_vain: u32,
}

impl Patience {
    /// Waits until the stream may be opened again, which `has_moved` since it was opened last; answers
    /// false when it is not worth it.
    pub(crate) async fn again(&mut self, broken: &Status, has_moved: bool) -> bool {
        let Some(pause) = self.pause(broken, has_moved) else { return false };
        tokio::time::sleep(pause).await;
        true
    }

    fn pause(&mut self, broken: &Status, has_moved: bool) -> Option<Duration> {
        self.in_vain = if has_moved { 0 } else { self.in_vain + 1 };
        let is_worth_it = self.in_vain < ATTEMPTS_MAX && is_passing(broken);
        is_worth_it.then(|| PAUSE_MIN * 2_u32.pow(self.in_vain))
    }
}

/// What the server did not refuse, or refuses for now.
fn is_passing(status: &Status) -> bool {
    let has_reason = || Error::Call(Box::new(status.into())).reason().is_some();
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted => true,
        Code::Unknown | Code::Internal | Code::Cancelled => !has_reason(),
        _ => false,
    }
}

/// How far a long call is: a bar where standard error is a terminal, and else a line of it now and then.
pub(crate) struct Progress {
    bar: ProgressBar,
    /// The next line is due at so many keys.
    due: u64,
}

/// Keys between two lines.
const LINE_EVERY: u64 = 1_000;

impl Default for Progress {
    fn default() -> Self {
        Self { bar: progress_bar(0), due: LINE_EVERY }
    }
}

impl Progress {
    pub(crate) fn is_at(&mut self, done: u64, total: u64, out: &mut Output) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        if self.bar.is_hidden() && done >= self.due && done < total {
            self.due = done - done % LINE_EVERY + LINE_EVERY;
            out.note(&format!("{done} of {total} keys"));
        }
    }
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// Keys that are done of so many; drawn on standard error, where that is a terminal.
pub(crate) fn progress_bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{bar:30} {pos} of {len} keys, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, testing::output};

    #[test]
    fn off_a_terminal_a_line_says_now_and_then_how_far_it_is() {
        let (mut out, stdout, stderr) = output(Format::Json, false);
        let mut progress = Progress { bar: ProgressBar::hidden(), due: LINE_EVERY };
        for done in (16..=2_512).step_by(16).chain([2_512]) {
            progress.is_at(done, 2_512, &mut out);
        }
        assert_eq!(stderr.text(), "1008 of 2512 keys\n2000 of 2512 keys\n");
        assert_eq!(stdout.text(), "");
    }

    #[test]
    fn a_cut_is_worth_a_few_tries_and_a_refusal_none() {
        let cut = Status::unavailable("");
        let mut patience = Patience::default();
        for _ in 0..20 {
            assert_eq!(patience.pause(&cut, true), Some(PAUSE_MIN), "as long as it moves");
        }
        let pauses: Vec<_> = std::iter::from_fn(|| patience.pause(&cut, false)).collect();
        assert_eq!(pauses, [2, 4, 8, 16].map(|times| PAUSE_MIN * times));
        assert_eq!(patience.pause(&cut, true), Some(PAUSE_MIN));
        assert_eq!(Patience::default().pause(&Status::permission_denied(""), true), None);
        assert!(Patience::default().pause(&Status::unknown("a reset"), true).is_some());
    }
}
