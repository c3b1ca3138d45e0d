//! The timeline as a picture: phases, faults, reads in flight, and the rate that they add up to.

use std::path::Path;
use std::time::Duration;

use svg::Document;
use svg::node::element::{Group, Polygon, Rectangle, Title};

use super::{Interval, Timeline};
use crate::drawing::{AMBER, BLUE, FAINT, GREEN, GRID, INK, line, page, text, tick};
use crate::failure::Failure;
use crate::units;

/// Draws `timeline` into an SVG file under a heading.
pub(crate) fn draw(timeline: &Timeline, heading: &str, path: &Path) -> Result<(), Failure> {
    let picture = Picture { timeline, heading }.draw();
    svg::save(path, &picture).map_err(Failure::file(path, "draw"))
}

/// Names stand left of it, times right.
const LEFT: f64 = 130.0;
const RIGHT: f64 = 930.0;
const PHASES: f64 = 92.0;
const FAULTS: f64 = 142.0;
const LANE: f64 = 16.0;
const READS: f64 = 240.0;
const RATE: f64 = 110.0;
const GAP: f64 = 28.0;
const FOOT: f64 = 48.0;

/// How finely the rate is told.
const BINS: u32 = 60;

struct Picture<'t> {
    timeline: &'t Timeline,
    heading: &'t str,
}

impl Picture<'_> {
    fn draw(&self) -> Document {
        let reads = FAULTS + GAP + LANE * lanes(self.timeline);
        let rate = reads + READS + GAP;
        let bottom = rate + RATE;
        let height = bottom + FOOT;
        let mut document = page(height, self.heading, self.summary()).add(self.axis(bottom));
        for (top, name) in [
            (PHASES + 13.0, "phases"),
            (FAULTS + 12.0, "faults ahead"),
            (reads + 14.0, "reads in flight"),
            (rate + 14.0, "bytes landed"),
        ] {
            document = document.add(text(24.0, top, name, 13, INK));
        }
        document
            .add(self.phases())
            .add(self.faults())
            .add(self.reads(reads))
            .add(self.rate(rate))
    }

    fn summary(&self) -> String {
        let phases = self.timeline.phases();
        let mut parts: Vec<String> = phases
            .iter()
            .map(|(name, phase)| format!("{name} {}", units::time(span(phase))))
            .collect();
        if !self.timeline.faulting().is_zero() {
            parts.push(format!(
                "faults ahead {}",
                units::time(self.timeline.faulting())
            ));
        }
        parts.join("; ")
    }

    /// Where a moment stands.
    fn x(&self, at: Duration) -> f64 {
        let whole = self.timeline.loaded.as_secs_f64().max(1e-9);
        LEFT + at.as_secs_f64() / whole * (RIGHT - LEFT)
    }

    fn bar(&self, interval: &Interval, top: f64, height: f64, colour: &str) -> Rectangle {
        let (begin, end) = (self.x(interval.begin), self.x(interval.end));
        Rectangle::new()
            .set("x", begin)
            .set("y", top)
            .set("width", (end - begin).max(0.3))
            .set("height", height)
            .set("fill", colour)
    }

    fn axis(&self, bottom: f64) -> Group {
        let whole = self.timeline.loaded.as_secs_f64().max(1e-9);
        let step = tick(whole);
        let mut axis = Group::new();
        let mut at = 0.0;
        while at <= whole {
            let x = self.x(Duration::from_secs_f64(at));
            let label = text(x, bottom + 20.0, milliseconds(at), 12, FAINT);
            axis = axis
                .add(line(x, PHASES - 8.0, x, bottom, GRID))
                .add(label.set("text-anchor", "middle"));
            at += step;
        }
        axis
    }

    fn phases(&self) -> Group {
        let shades = [FAINT, AMBER, BLUE, FAINT];
        let phases = self.timeline.phases();
        phases
            .iter()
            .zip(shades)
            .fold(Group::new(), |group, ((name, phase), shade)| {
                let title = format!("{name}: {}", units::time(span(phase)));
                group.add(self.bar(phase, PHASES, 18.0, shade).add(Title::new(title)))
            })
    }

    fn faults(&self) -> Group {
        let mut group = Group::new();
        for (lane, faults) in (0_u32..).zip(&self.timeline.faults) {
            let top = FAULTS + LANE * f64::from(lane);
            for fault in faults {
                group = group.add(self.bar(fault, top, LANE - 4.0, AMBER));
            }
        }
        if self.timeline.faults.is_empty() {
            group = group.add(text(
                LEFT + 4.0,
                FAULTS + 12.0,
                "none: whoever writes first faults in",
                12,
                FAINT,
            ));
        }
        group
    }

    /// One line each, from its submission to its completion, in the order of submission.
    fn reads(&self, top: f64) -> Group {
        let count = u32::try_from(self.timeline.reads.len()).unwrap_or(u32::MAX);
        let height = READS / f64::from(count.max(1));
        let mut group = Group::new();
        for (index, read) in (0_u32..).zip(&self.timeline.reads) {
            let y = top + height * f64::from(index);
            group = group.add(self.bar(&read.interval, y, height.clamp(0.3, 6.0), BLUE));
        }
        group
    }

    fn rate(&self, top: f64) -> Group {
        let rates = self.timeline.rates(BINS);
        let most = rates.iter().copied().fold(1.0, f64::max);
        let bottom = top + RATE;
        let width = (RIGHT - LEFT) / f64::from(BINS);
        let mut points = vec![format!("{LEFT:.1},{bottom:.1}")];
        for (bin, rate) in (0_u32..).zip(&rates) {
            let (x, y) = (LEFT + width * f64::from(bin), bottom - rate / most * RATE);
            points.push(format!("{x:.1},{y:.1}"));
            points.push(format!("{:.1},{y:.1}", x + width));
        }
        points.push(format!("{RIGHT:.1},{bottom:.1}"));
        let area = Polygon::new()
            .set("points", points.join(" "))
            .set("fill", GREEN)
            .set("fill-opacity", 0.55);
        let peak = format!("peak {} GB/s", units::gigabytes(most));
        Group::new()
            .add(area)
            .add(text(24.0, top + 30.0, peak, 12, FAINT))
    }
}

impl Timeline {
    /// Bytes a second that landed in each of so many equal parts of the time.
    #[expect(clippy::cast_precision_loss, reason = "a rate is a rough figure")]
    fn rates(&self, bins: u32) -> Vec<f64> {
        let bin = self.loaded.as_secs_f64().max(1e-9) / f64::from(bins);
        (0..bins)
            .map(|index| {
                let (from, to) = (bin * f64::from(index), bin * f64::from(index + 1));
                let inside = |end: f64| end >= from && (end < to || index + 1 == bins);
                let landed = self
                    .reads
                    .iter()
                    .filter(|read| inside(read.interval.end.as_secs_f64()));
                landed.map(|read| read.len).sum::<u64>() as f64 / bin
            })
            .collect()
    }
}

fn lanes(timeline: &Timeline) -> f64 {
    f64::from(u32::try_from(timeline.faults.len()).unwrap_or(1).max(1))
}

fn span(interval: &Interval) -> Duration {
    interval.end.saturating_sub(interval.begin)
}

fn milliseconds(seconds: f64) -> String {
    format!("{} ms", (seconds * 1e4).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::Read;

    #[test]
    fn rates_add_up_to_the_bytes() {
        let read = |begin, end| Read {
            interval: Interval {
                begin: Duration::from_millis(begin),
                end: Duration::from_millis(end),
            },
            len: 1000,
        };
        let timeline = Timeline {
            opened: Duration::from_millis(1),
            loaded: Duration::from_millis(60),
            reads: vec![read(1, 10), read(2, 30), read(2, 60)],
            faults: Vec::new(),
        };
        let landed: f64 = timeline.rates(BINS).iter().map(|rate| rate * 0.001).sum();
        assert!((landed - 3000.0).abs() < 1e-6, "{landed}");
    }
}
