//! What an operator may override from outside, without touching the runtime that embeds us.

use std::env;
use std::str::FromStr;

use loader_core::{Error, LoadOptions, Result};

/// Puts the values of these variables, where they are set, in place of the options:
/// `WEIGHTLOADER_STRATEGY`, `WEIGHTLOADER_CACHE`, `WEIGHTLOADER_THREADS`,
/// `WEIGHTLOADER_QUEUE_DEPTH`, `WEIGHTLOADER_CHUNK`, `WEIGHTLOADER_MEMORY_LIMIT` (bytes) and
/// `WEIGHTLOADER_PACE` (bytes a second).
pub(crate) fn override_options(options: &mut LoadOptions) -> Result<()> {
    if let Some(strategy) = parsed("WEIGHTLOADER_STRATEGY", "auto, direct or buffered")? {
        options.strategy = strategy;
    }
    if let Some(cache) = parsed("WEIGHTLOADER_CACHE", "auto, keep or bypass")? {
        options.cache = cache;
    }
    if let Some(threads) = parsed("WEIGHTLOADER_THREADS", "a number of threads")? {
        options.threads = Some(threads);
    }
    if let Some(depth) = parsed("WEIGHTLOADER_QUEUE_DEPTH", "a number of reads")? {
        options.queue_depth = Some(depth);
    }
    if let Some(bytes) = parsed("WEIGHTLOADER_CHUNK", "a number of bytes")? {
        options.chunk_bytes = Some(bytes);
    }
    if let Some(bytes) = parsed("WEIGHTLOADER_MEMORY_LIMIT", "a number of bytes")? {
        options.memory_limit = Some(bytes);
    }
    if let Some(pace) = parsed("WEIGHTLOADER_PACE", "a number of bytes a second")? {
        options.pace = Some(pace);
    }
    Ok(())
}

fn parsed<T: FromStr>(option: &'static str, expected: &'static str) -> Result<Option<T>> {
    let Some(value) = env::var_os(option) else {
        return Ok(None);
    };
    match value.to_str().map(str::parse) {
        Some(Ok(parsed)) => Ok(Some(parsed)),
        _ => {
            let value = value.to_string_lossy().into_owned();
            Err(Error::InvalidOption {
                option,
                value,
                expected,
            })
        }
    }
}
