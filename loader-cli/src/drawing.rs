//! What pictures share: the page with its heading, colours, words, lines, and the steps of an axis.

use svg::Document;
use svg::node::element::{Line, Rectangle, Text, Title};

pub(crate) const WIDTH: f64 = 960.0;

pub(crate) const INK: &str = "#1f2937";
pub(crate) const FAINT: &str = "#6b7280";
pub(crate) const GRID: &str = "#e5e7eb";
pub(crate) const BLUE: &str = "#2563eb";
pub(crate) const AMBER: &str = "#f59e0b";
pub(crate) const GREEN: &str = "#059669";
const FONT: &str = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif";

/// A page of that height under a heading, with a line of small print.
pub(crate) fn page(height: f64, heading: &str, small_print: impl Into<String>) -> Document {
    Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("font-family", FONT)
        .set("role", "img")
        .add(Title::new(heading))
        .add(
            Rectangle::new()
                .set("width", WIDTH)
                .set("height", height)
                .set("rx", 8)
                .set("fill", "white"),
        )
        .add(text(24.0, 34.0, heading, 18, INK).set("font-weight", 600))
        .add(text(24.0, 56.0, small_print, 13, FAINT))
}

pub(crate) fn text(x: f64, y: f64, content: impl Into<String>, size: u32, colour: &str) -> Text {
    Text::new(content)
        .set("x", x)
        .set("y", y)
        .set("font-size", size)
        .set("fill", colour)
}

pub(crate) fn line(x1: f64, y1: f64, x2: f64, y2: f64, colour: &str) -> Line {
    Line::new()
        .set("x1", x1)
        .set("y1", y1)
        .set("x2", x2)
        .set("y2", y2)
        .set("stroke", colour)
}

/// A round number that divides `longest` into four to ten steps.
pub(crate) fn tick(longest: f64) -> f64 {
    let magnitude = 10_f64.powf(longest.log10().floor());
    let fits = |step: &f64| longest / step >= 4.0;
    [magnitude, magnitude / 2.0, magnitude / 5.0]
        .into_iter()
        .find(fits)
        .unwrap_or(magnitude / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for longest in [1.0, 1.3e9, 3.2e9, 9.9e9, 14.2e9, 45e9] {
            let steps = longest / tick(longest);
            assert!((4.0..=10.0).contains(&steps), "{steps} for {longest}");
        }
    }
}
