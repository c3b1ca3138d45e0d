//! Figures as people read them.

use std::time::Duration;

use bytesize::ByteSize;

/// `1.9 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// Bytes per second; zero where no time passed.
#[expect(
    clippy::cast_precision_loss,
    reason = "a rate is read to three figures"
)]
pub(crate) fn rate(bytes: u64, time: Duration) -> f64 {
    match time.as_secs_f64() {
        seconds if seconds > 0.0 => bytes as f64 / seconds,
        _ => 0.0,
    }
}

/// `3.21`, of bytes per second.
pub(crate) fn gigabytes(rate: f64) -> String {
    let gigabytes = rate / 1e9;
    if gigabytes >= 9.995 {
        format!("{gigabytes:.1}")
    } else {
        format!("{gigabytes:.2}")
    }
}

/// `42 ms`, `1.25 s`.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 0.001 {
        format!("{:.0} µs", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}

/// `37 %`, of a share from 0 to 1.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A share from 0 to 1; one of nothing is whole.
#[expect(clippy::cast_precision_loss, reason = "a share is read to two figures")]
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        1.0
    } else {
        part as f64 / whole as f64
    }
}

/// `1 tensor`, `2 tensors`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(gigabytes(3_214_000_000.0), "3.21");
        assert_eq!(gigabytes(11_520_000_000.0), "11.5");
        assert_eq!(time(Duration::from_millis(1250)), "1.25 s");
        assert_eq!(time(Duration::from_micros(42_400)), "42 ms");
        assert_eq!(percent(0.374), "37 %");
        assert_eq!(count(1, "tensor"), "1 tensor");
        assert!((rate(10, Duration::from_secs(2)) - 5.0).abs() < 1e-9);
        assert!(rate(10, Duration::ZERO).abs() < 1e-9);
    }
}
