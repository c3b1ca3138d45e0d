//! What the library logs, and tells of its reads.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::failure::Failure;
use crate::timeline::Recorder;

const VARIABLE: &str = "WEIGHTLOADER_LOG";

/// Writes to standard error what is logged up to the level that `WEIGHTLOADER_LOG` names, nothing
/// where it is not set, and lets `recorder` listen.
pub(crate) fn start(recorder: Option<Recorder>) -> Result<(), Failure> {
    let level = level()?;
    if level == LevelFilter::OFF && recorder.is_none() {
        return Ok(());
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_filter(level);
    tracing_subscriber::registry()
        .with(recorder)
        .with(lines)
        .init();
    Ok(())
}

fn level() -> Result<LevelFilter, Failure> {
    let Some(level) = std::env::var_os(VARIABLE) else {
        return Ok(LevelFilter::OFF);
    };
    let level = level.to_string_lossy();
    level.parse().map_err(|_| {
        Failure::Message(format!(
            "{VARIABLE}: {level:?} given, expected off, error, warn, info, debug or trace"
        ))
    })
}
