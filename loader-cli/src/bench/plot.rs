//! The comparison as bars.

use std::path::Path;

use svg::Document;
use svg::node::element::{Group, Rectangle};

use super::result::{Comparison, Measured, Row};
use super::state::State;
use super::way::Way;
use crate::drawing::{AMBER, BLUE, FAINT, GREEN, GRID, INK, WIDTH, line, page, text, tick};
use crate::failure::Failure;
use crate::units;

/// Draws the comparison into an SVG file.
pub(crate) fn draw(comparison: &Comparison, path: &Path) -> Result<(), Failure> {
    let picture = Picture::new(comparison).draw();
    svg::save(path, &picture).map_err(Failure::file(path, "draw"))
}

/// Names stand left of it, bars right.
const LEFT: f64 = 250.0;
/// The longest bar ends here; its figures stand beyond.
const RIGHT: f64 = 800.0;
const TOP: f64 = 118.0;
/// A way with its bars, and the space below it.
const ROW: f64 = 72.0;
const BAR: f64 = 17.0;
const BAR_GAP: f64 = 2.0;
const FOOT: f64 = 46.0;

/// Where everything goes.
struct Picture<'c> {
    comparison: &'c Comparison,
    rows: Vec<&'c Row>,
    /// In bytes per second.
    longest: f64,
}

impl<'c> Picture<'c> {
    fn new(comparison: &'c Comparison) -> Self {
        // The ceiling is a line across all bars.
        let rows: Vec<&Row> = comparison
            .rows
            .iter()
            .filter(|row| row.way != Way::Ceiling)
            .collect();
        let longest = rows
            .iter()
            .flat_map(|row| State::ALL.map(|state| row.figures(state)))
            .filter_map(|figures| figures.measured())
            .map(|measured| measured.max)
            .chain(comparison.ceiling)
            .fold(1.0, f64::max);
        Self {
            comparison,
            rows,
            longest,
        }
    }

    fn draw(&self) -> Document {
        let height = self.bottom() + FOOT;
        let mut document = page(height, &self.heading(), self.conditions())
            .add(legend())
            .add(self.grid())
            .add(self.ceiling());
        for (index, row) in self.rows.iter().enumerate() {
            document = document.add(self.row(index, row));
        }
        document
    }

    fn heading(&self) -> String {
        let path = Path::new(&self.comparison.path);
        let name = path.file_name().unwrap_or(path.as_os_str());
        format!(
            "Loading {} ({}) into memory",
            name.to_string_lossy(),
            units::bytes(self.comparison.bytes)
        )
    }

    fn conditions(&self) -> String {
        format!(
            "GB/s, medians of {} (whiskers: slowest and fastest); {}",
            units::count(self.comparison.rounds as usize, "round"),
            self.comparison.machine,
        )
    }

    /// Where a rate ends.
    fn x(&self, rate: f64) -> f64 {
        LEFT + rate / self.longest * (RIGHT - LEFT)
    }

    fn bottom(&self) -> f64 {
        let rows = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        TOP + f64::from(rows) * ROW
    }

    fn grid(&self) -> Group {
        let mut grid = Group::new();
        let step = tick(self.longest);
        let mut rate = 0.0;
        while rate <= self.longest {
            let x = self.x(rate);
            let label = text(x, self.bottom() + 20.0, gigabytes(rate), 12, FAINT);
            grid = grid
                .add(line(x, TOP - 8.0, x, self.bottom(), GRID))
                .add(label.set("text-anchor", "middle"));
            rate += step;
        }
        grid
    }

    fn row(&self, index: usize, row: &Row) -> Group {
        let top = TOP + f64::from(u32::try_from(index).unwrap_or(u32::MAX)) * ROW;
        let name = text(
            LEFT - 14.0,
            top + 1.5 * BAR + BAR_GAP + 5.0,
            row.way.title(),
            14,
            INK,
        )
        .set("text-anchor", "end");
        let name = if row.way == Way::Auto {
            name.set("font-weight", 700)
        } else {
            name
        };
        let mut group = Group::new().add(name);
        let tops = std::iter::successors(Some(top), |top| Some(top + BAR + BAR_GAP));
        for (state, top) in State::ALL.into_iter().zip(tops) {
            group = match row.figures(state).measured() {
                Some(measured) => group.add(self.bar(state, top, measured)),
                None => group.add(text(
                    LEFT + 6.0,
                    top + 13.5,
                    format!("{state}: not possible here"),
                    12,
                    FAINT,
                )),
            };
        }
        group
    }

    fn bar(&self, state: State, top: f64, measured: &Measured) -> Group {
        let Measured {
            median, min, max, ..
        } = *measured;
        let middle = top + BAR / 2.0;
        let bar = Rectangle::new()
            .set("x", LEFT)
            .set("y", top)
            .set("width", (self.x(median) - LEFT).max(1.0))
            .set("height", BAR)
            .set("rx", 2)
            .set("fill", colour(state));
        let figure = text(
            self.x(max) + 8.0,
            top + 13.5,
            units::gigabytes(median),
            13,
            INK,
        )
        .set("font-weight", 600);
        let mut group = Group::new().add(bar).add(figure);
        for end in [min, max] {
            let x = self.x(end);
            group = group.add(line(x, middle - 4.0, x, middle + 4.0, INK));
        }
        group.add(line(self.x(min), middle, self.x(max), middle, INK))
    }

    fn ceiling(&self) -> Group {
        let Some(ceiling) = self.comparison.ceiling else {
            return Group::new();
        };
        let x = self.x(ceiling);
        let label = format!("ceiling of the device: {}", units::gigabytes(ceiling));
        // Beside the line, on the side that has the room.
        let (at, anchor) = if x > WIDTH / 2.0 {
            (x - 6.0, "end")
        } else {
            (x + 6.0, "start")
        };
        Group::new()
            .add(
                line(x, TOP - 22.0, x, self.bottom(), INK)
                    .set("stroke-width", 1.5)
                    .set("stroke-dasharray", "6 4"),
            )
            .add(text(at, TOP - 14.0, label, 12, INK).set("text-anchor", anchor))
    }
}

fn legend() -> Group {
    let mut legend = Group::new();
    for (x, state) in [24.0, 190.0, 420.0].into_iter().zip(State::ALL) {
        let swatch = Rectangle::new()
            .set("x", x)
            .set("y", 70)
            .set("width", 12)
            .set("height", 12)
            .set("rx", 2)
            .set("fill", colour(state));
        legend = legend
            .add(swatch)
            .add(text(x + 18.0, 81.0, state.meaning(), 12, INK));
    }
    legend
}

fn colour(state: State) -> &'static str {
    match state {
        State::Cold => BLUE,
        State::Half => GREEN,
        State::Warm => AMBER,
    }
}

/// A round rate, without zeros that say nothing.
fn gigabytes(rate: f64) -> String {
    format!("{}", (rate / 1e6).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_round() {
        assert_eq!(gigabytes(2e9), "2");
        assert_eq!(gigabytes(0.5e9), "0.5");
    }
}
