//! Logs: structured, never a secret, whatever level is asked for.

use std::io;

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::filter_fn,
    fmt::{MakeWriter, format::FmtSpan},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::config::{LogConfig, LogFormat};

/// Crates that carry requests: below INFO they print frames, headers (the token among them) and
/// messages. No filter opens them further, for a filter is set in haste, when something is wrong; nor
/// does LOG_SENSITIVE_BODIES, at which the SDK of AWS prints the data keys that the KMS answers.
const CARRIERS: [&str; 11] = [
    "axum",
    "h2",
    "hyper",
    "hyper_rustls",
    "hyper_util",
    "rustls",
    "tokio_rustls",
    "tokio_util",
    "tonic",
    "tower",
    "want",
];
/// The crates of that SDK.
const AWS: &str = "aws_";

/// The filter is none that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log.level: a level such as info, or a filter such as info,ibyok=debug")]
pub struct BadFilter;

/// Checks a filter before it is used.
///
/// # Errors
/// When it can't be read.
pub fn check_filter(text: &str) -> Result<(), BadFilter> {
    EnvFilter::try_new(text).map(drop).map_err(|_| BadFilter)
}

/// Logs to standard error from here on. Does nothing when logs already go somewhere.
///
/// # Errors
/// When the filter can't be read.
pub fn start(config: &LogConfig) -> Result<(), BadFilter> {
    // Someone else's subscriber stays: a test's, an embedding program's.
    let _ = subscriber(config, io::stderr)?.try_init();
    Ok(())
}

/// A subscriber that writes to `writer`.
///
/// # Errors
/// When the filter can't be read.
pub fn subscriber<W>(config: &LogConfig, writer: W) -> Result<impl Subscriber + for<'a> LookupSpan<'a>, BadFilter>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&config.level).map_err(|_| BadFilter)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_span_events(FmtSpan::NONE);
    // A line that can't be written is lost, and that is all: to say so on standard error, which is
    // most likely what can't be written, would be a panic of whoever logs.
    let lines = lines.log_internal_errors(false);
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    Ok(tracing_subscriber::registry().with(lines.with_filter(filter)).with(filter_fn(may_pass)))
}

fn may_pass(event: &Metadata<'_>) -> bool {
    let root = event.target().split("::").next().unwrap_or_default();
    *event.level() <= Level::INFO || !(CARRIERS.contains(&root) || root.starts_with(AWS))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let config = LogConfig { format, level: level.into() };
        let subscriber = subscriber(&config, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!(target: "h2::codec::framed_write", "authorization: Bearer canary");
            tracing::debug!(target: "hyper::proto", "body canary");
            tracing::trace!(target: "tonic", "canary");
            tracing::trace!(target: "aws_smithy_runtime::client::orchestrator", "x-amz-security-token: canary");
            tracing::debug!(target: "aws_config", "canary");
            tracing::info!(target: "h2", "connection closed");
            tracing::trace!(target: "ibyok::grpc", "ours");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn no_filter_opens_the_crates_that_carry_requests() {
        for format in [LogFormat::Text, LogFormat::Json] {
            for level in [
                "trace",
                "trace,h2=trace,hyper=trace,tonic=trace,aws_smithy_runtime=trace",
                "h2::codec=trace,ibyok=trace,h2=trace",
            ] {
                let text = logged(format, level);
                assert!(text.contains("ours") && text.contains("connection closed"), "{level}: {text}");
                assert!(!text.contains("canary"), "{level}: {text}");
            }
        }
        assert!(!logged(LogFormat::Text, "info").contains("ours"));
    }

    #[test]
    fn json_lines_are_json() {
        for line in logged(LogFormat::Json, "trace").lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(value["level"].is_string() && value["message"].is_string());
        }
    }
}
