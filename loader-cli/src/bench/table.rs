//! The comparison as a table.

use comfy_table::{CellAlignment, Table, presets};

use super::result::{Comparison, Figures};
use super::state::State;
use super::way::Way;
use crate::units;

/// A table, why some of it is empty, and what it says in a sentence.
pub(crate) fn describe(comparison: &Comparison) -> String {
    let mut lines = vec![
        format!(
            "{}: {}, {}\n{}\nGB/s, medians of {}; shares of the ceiling are of the fastest turns",
            comparison.path,
            units::count(comparison.tensors, "tensor"),
            units::bytes(comparison.bytes),
            comparison.machine,
            units::count(comparison.rounds as usize, "round"),
        ),
        String::new(),
        table(comparison).trim_fmt(),
    ];
    let reasons = reasons(comparison);
    if !reasons.is_empty() {
        lines.push(String::new());
        lines.extend(reasons);
    }
    if let Some(sentence) = summary(comparison) {
        lines.push(String::new());
        lines.push(sentence);
    }
    lines.join("\n")
}

fn table(comparison: &Comparison) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "",
        "cold",
        "from – to",
        "of ceiling",
        "half cached",
        "from – to",
        "warm",
        "from – to",
    ]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for row in &comparison.rows {
        let mut cells = vec![row.way.title().to_owned()];
        for state in State::ALL {
            let [rate, spread, share] = figures(row.figures(state));
            cells.extend([rate, spread]);
            // What is cached does not come from the device.
            if state == State::Cold {
                cells.push(share);
            }
        }
        table.add_row(cells);
    }
    table
}

fn figures(figures: &Figures) -> [String; 3] {
    let Some(measured) = figures.measured() else {
        return ["–".to_owned(), String::new(), String::new()];
    };
    [
        units::gigabytes(measured.median),
        format!(
            "{} – {}",
            units::gigabytes(measured.min),
            units::gigabytes(measured.max)
        ),
        measured
            .share_of_ceiling
            .map_or_else(String::new, units::percent),
    ]
}

/// Why figures are missing, each reason once for all ways that it keeps out.
fn reasons(comparison: &Comparison) -> Vec<String> {
    let mut reasons: Vec<(State, &str, Vec<&str>)> = Vec::new();
    for state in State::ALL {
        for row in comparison.rows.iter().filter(|row| row.way.has_turn(state)) {
            let Figures::Missing { unavailable } = row.figures(state) else {
                continue;
            };
            let known = reasons
                .iter_mut()
                .find(|(at, reason, _)| *at == state && *reason == unavailable);
            match known {
                Some((_, _, ways)) => ways.push(row.way.title()),
                None => reasons.push((state, unavailable, vec![row.way.title()])),
            }
        }
    }
    reasons
        .into_iter()
        .map(|(state, reason, ways)| {
            format!("no {state} figures for {}: {reason}", ways.join(", "))
        })
        .collect()
}

/// How much faster the default is than the way of many runtimes.
fn summary(comparison: &Comparison) -> Option<String> {
    let times = |state: State| {
        let auto = comparison.measured(Way::Auto, state)?;
        let faults = comparison.measured(Way::PageFaults, state)?;
        (faults.median > 0.0)
            .then(|| format!("{:.1} × as fast {state}", auto.median / faults.median))
    };
    let times: Vec<String> = State::ALL.into_iter().filter_map(times).collect();
    (!times.is_empty()).then(|| format!("Compared with page faults, auto is {}.", times.join(", ")))
}
