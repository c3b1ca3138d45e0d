//! `weightloader residency`: what the page cache holds.

use console::Term;
use serde::Serialize;
use weightloader::{Loader, WeightFile};

use crate::arguments::Files;
use crate::failure::Failure;
use crate::output::Output;
use crate::{cache, units};

#[derive(Debug, Serialize)]
struct Residency {
    path: String,
    bytes: u64,
    /// `null` where the system does not tell.
    resident_bytes: Option<u64>,
    /// From 0 to 1; `null` where the system does not tell.
    share: Option<f64>,
    files: Vec<FileResidency>,
}

#[derive(Debug, Serialize)]
struct FileResidency {
    path: String,
    bytes: u64,
    resident_bytes: Option<u64>,
    share: Option<f64>,
    /// Whether these are estimates, because the system does not tell.
    estimated: bool,
    /// The file in equal pieces: the resident share of each.
    map: Vec<Option<f64>>,
}

/// What the system works in; finer pieces tell nothing.
const PAGE: u64 = 4096;

pub(crate) fn run(arguments: &Files, output: &Output) -> Result<(), Failure> {
    let loader = Loader::new()?;
    let files = cache::files(&arguments.path)?;
    // The ends of the bar take two columns.
    let width = u64::from(Term::stderr().size().1).clamp(20, 200) - 2;
    let files = files
        .iter()
        .map(|file| survey(&loader, file, width))
        .collect::<Result<Vec<_>, Failure>>()?;
    let bytes = files.iter().map(|file| file.bytes).sum();
    let resident_bytes = files.iter().map(|file| file.resident_bytes).sum();
    let residency = Residency {
        path: arguments.path.display().to_string(),
        bytes,
        resident_bytes,
        share: resident_bytes.map(|resident| units::share(resident, bytes)),
        files,
    };
    output.result(&residency, describe)
}

fn survey(loader: &Loader, file: &WeightFile, pieces: u64) -> Result<FileResidency, Failure> {
    let bytes = file.len();
    let piece = bytes.div_ceil(pieces).next_multiple_of(PAGE).max(PAGE);
    let map = loader.residency(file, .., piece)?;
    let resident_bytes = map.resident_bytes();
    let starts = (0..bytes.div_ceil(piece)).map(|index| index * piece);
    Ok(FileResidency {
        path: file.path().display().to_string(),
        bytes,
        resident_bytes,
        share: resident_bytes.map(|resident| units::share(resident, bytes)),
        estimated: map.is_estimate(),
        map: starts
            .map(|start| map.share(file.base() + start..file.base() + bytes.min(start + piece)))
            .collect(),
    })
}

fn describe(residency: &Residency) -> String {
    let mut lines = Vec::new();
    for file in &residency.files {
        lines.push(match file.resident_bytes.zip(file.share) {
            Some((resident, share)) => format!(
                "{}: {} of {} cached ({}){}",
                file.path,
                units::bytes(resident),
                units::bytes(file.bytes),
                units::percent(share),
                if file.estimated {
                    ", an estimate: the system does not tell, so a few reads were timed"
                } else {
                    ""
                },
            ),
            None => format!(
                "{}: the system does not tell how much of its {} is cached",
                file.path,
                units::bytes(file.bytes)
            ),
        });
        let bar: String = file.map.iter().map(|share| block(*share)).collect();
        lines.push(format!("[{bar}]"));
    }
    if let (Some(resident), [_, _, ..]) = (residency.resident_bytes, &residency.files[..]) {
        lines.push(format!(
            "together: {} of {} cached ({})",
            units::bytes(resident),
            units::bytes(residency.bytes),
            units::percent(units::share(resident, residency.bytes)),
        ));
    }
    lines.join("\n")
}

/// A piece of the bar: the higher, the more is resident.
fn block(share: Option<f64>) -> char {
    const EIGHTHS: [(f64, char); 8] = [
        (1.0, '█'),
        (0.875, '▇'),
        (0.75, '▆'),
        (0.625, '▅'),
        (0.5, '▄'),
        (0.375, '▃'),
        (0.25, '▂'),
        // A little is more than nothing.
        (f64::MIN_POSITIVE, '▁'),
    ];
    match share {
        None => '?',
        Some(share) => EIGHTHS
            .iter()
            .find(|(least, _)| share >= *least)
            .map_or('·', |(_, block)| *block),
    }
}

#[cfg(test)]
mod tests {
    use super::block;

    #[test]
    fn blocks_grow_with_the_share() {
        let shares = [
            None,
            Some(0.0),
            Some(0.01),
            Some(0.5),
            Some(0.99),
            Some(1.0),
        ];
        let bar: String = shares.into_iter().map(block).collect();
        assert_eq!(bar, "?·▁▄▇█");
    }
}
