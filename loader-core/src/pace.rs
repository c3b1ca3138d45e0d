//! So many bytes a second and no more, so that others get their share of the device.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::transfer::locked;

/// How fast bytes may be asked for.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: u64,
    /// When the next bytes may be asked for.
    next: Mutex<Instant>,
}

/// The shortest piece that a pace cuts: shorter reads waste the device's time.
const SHORTEST_PIECE: u64 = 256 << 10;

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            next: Mutex::new(Instant::now()),
        }
    }

    /// The longest piece that may be asked for at once: a tenth of a second's.
    pub(crate) fn piece_bytes(&self) -> u64 {
        (self.bytes_per_second / 10).max(SHORTEST_PIECE)
    }

    /// Lets `bytes` be asked for now, or tells how long to wait before asking again.
    pub(crate) fn admit(&self, bytes: u64) -> Result<(), Duration> {
        self.admit_at(bytes, Instant::now())
    }

    fn admit_at(&self, bytes: u64, now: Instant) -> Result<(), Duration> {
        let mut next = locked(&self.next);
        let early = next.saturating_duration_since(now);
        if !early.is_zero() {
            return Err(early);
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let taken = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Time that passed unused is not made up for: that would be a burst.
        *next = now.checked_add(taken).unwrap_or(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_second_has_more_than_its_bytes(
            rate in 1_u64..10_000_000_000,
            asked in prop::collection::vec((1_u64..100 << 20, 0_u64..2_000), 1..50),
        ) {
            let pace = Pace::new(rate);
            let start = Instant::now();
            let (mut now, mut admitted) = (start, 0_u64);
            let mut last = 0;
            for (bytes, idle) in asked {
                now += Duration::from_millis(idle);
                if let Err(wait) = pace.admit_at(bytes, now) {
                    prop_assert!(!wait.is_zero());
                    now += wait;
                    prop_assert_eq!(pace.admit_at(bytes, now), Ok(()));
                }
                admitted += bytes;
                last = bytes;
            }
            let elapsed = (now - start).as_nanos();
            let allowed = elapsed * u128::from(rate) / 1_000_000_000 + u128::from(last);
            // Each admission may round down by a nanosecond's bytes.
            prop_assert!(u128::from(admitted) <= allowed + 51 * (u128::from(rate) / 1_000_000_000 + 1));
        }
    }
}
