//! How weights were read, for the results of `load` and `upload`.

use std::collections::BTreeMap;

use serde::Serialize;
use weightloader::core::Usage;
use weightloader::{Refusal, Report};

use crate::units;

/// How weights were read, and what that took.
#[derive(Debug, Serialize)]
pub(super) struct How {
    strategy: String,
    chunks: BTreeMap<&'static str, u64>,
    fallbacks: Vec<PassedOver>,
    /// In the page cache when reading began, where that was asked and told.
    resident_bytes: Option<u64>,
    /// Locked in memory, where that was asked for.
    locked_bytes: Option<u64>,
    major_faults: Option<u64>,
    minor_faults: Option<u64>,
    peak_memory: Option<u64>,
    /// What `resident_bytes` is a share of.
    #[serde(skip)]
    bytes_read: u64,
}

/// A mechanism that was not used, and why.
#[derive(Debug, Serialize)]
pub(super) struct PassedOver {
    mechanism: &'static str,
    pub(super) reason: String,
}

impl From<&Refusal> for PassedOver {
    fn from(refusal: &Refusal) -> Self {
        Self {
            mechanism: refusal.mechanism.name(),
            reason: refusal.reason.clone(),
        }
    }
}

impl How {
    /// What the library reports, and what the process used from `before` to `after`: the library
    /// does not ask where so little is read that asking would take longer.
    pub(super) fn new(report: &Report, before: &Usage, after: &Usage) -> Self {
        let since = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        let chunks = report.chunks.iter();
        Self {
            strategy: report.strategy.to_string(),
            chunks: chunks
                .map(|(mechanism, count)| (mechanism.name(), *count))
                .collect(),
            fallbacks: report.fallbacks.iter().map(PassedOver::from).collect(),
            resident_bytes: report.resident_bytes,
            locked_bytes: report.locked_bytes,
            major_faults: since(after.major_faults, before.major_faults),
            minor_faults: since(after.minor_faults, before.minor_faults),
            peak_memory: after.peak_memory,
            bytes_read: report.bytes,
        }
    }

    /// The same by a strategy that is not the library's.
    pub(super) fn by(mut self, strategy: &str) -> Self {
        self.strategy = strategy.to_owned();
        self
    }

    /// Lines for people.
    pub(super) fn describe(&self) -> Vec<String> {
        let chunks = self.chunks.iter();
        let chunks: Vec<String> = chunks
            .map(|(mechanism, count)| format!("{count} {mechanism}"))
            .collect();
        let mut how = format!("  {}: chunks read: {}", self.strategy, chunks.join(", "));
        if let Some(resident) = self.resident_bytes {
            let share = units::percent(units::share(resident, self.bytes_read));
            how.push_str(&format!("; {share} was cached"));
        }
        let mut lines = vec![how];
        for PassedOver { mechanism, reason } in &self.fallbacks {
            lines.push(format!("  without {mechanism}: {reason}"));
        }
        if let Some(locked) = self.locked_bytes {
            lines.push(format!("  locked in memory: {}", units::bytes(locked)));
        }
        if let (Some(major), Some(minor)) = (self.major_faults, self.minor_faults) {
            lines.push(format!("  page faults: {major} with I/O, {minor} without"));
        }
        if let Some(peak) = self.peak_memory {
            lines.push(format!("  peak memory: {}", units::bytes(peak)));
        }
        lines
    }
}
