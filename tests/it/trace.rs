//! Every server of this binary logs at TRACE, with the subscriber that ships, into one file. The
//! test command searches it, and what the tests print, for anything shaped like a key or a token
//! (`tools/no-secrets`).

use std::{fs::File, path::PathBuf, sync::Once};

use ibyok::{
    config::{LogConfig, LogFormat},
    telemetry,
};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Logs from here on, once for the whole process.
pub fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("it.trace");
        let file = File::create(path).unwrap();
        let config = LogConfig { format: LogFormat::Text, level: "trace".to_owned() };
        telemetry::subscriber(&config, file).unwrap().init();
    });
}
