//! What the library logs.

use tracing_subscriber::filter::LevelFilter;

use crate::failure::Failure;

const VARIABLE: &str = "WEIGHTLOADER_LOG";

/// Writes to standard error what is logged up to the level that `WEIGHTLOADER_LOG` names; nothing
/// where it is not set.
pub(crate) fn start() -> Result<(), Failure> {
    let Some(level) = std::env::var_os(VARIABLE) else {
        return Ok(());
    };
    let level = level.to_string_lossy();
    let level: LevelFilter = level.parse().map_err(|_| {
        Failure::Message(format!(
            "{VARIABLE}: {level:?} given, expected off, error, warn, info, debug or trace"
        ))
    })?;
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    Ok(())
}
