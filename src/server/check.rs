//! `ibyok-server check`: every problem of the settings and of what they name, before a start finds
//! the first.

use std::sync::Arc;

use super::{Sources, adapters, tls_files};
use crate::{config::Config, grpc::listener::tls::TlsSource, telemetry};

/// One line for each problem; none: the server would start, if its store is there.
pub async fn problems(config: &Config) -> Vec<String> {
    let sources = Sources::default();
    let tls = TlsSource::load(tls_files(config), Arc::clone(&sources.clock)).err();
    let log = telemetry::check_filter(&config.log.level).err();
    let mut lines: Vec<String> = tls.iter().map(ToString::to_string).collect();
    lines.extend(log.iter().map(ToString::to_string));
    lines.extend(adapters::problems(config, &sources).await.iter().map(ToString::to_string));
    lines
}
