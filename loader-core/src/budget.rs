//! One budget of workers and bytes in flight for the process, which concurrent operations share.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A resource that operations lease parts of.
#[derive(Debug)]
pub(crate) struct Pool {
    leased: AtomicUsize,
}

/// Threads that copy.
pub(crate) static WORKERS: Pool = Pool {
    leased: AtomicUsize::new(0),
};

/// Bytes of direct reads in flight.
pub(crate) static IN_FLIGHT: Pool = Pool {
    leased: AtomicUsize::new(0),
};

/// Bytes of direct reads in flight in the process at most: several times what keeps the fastest
/// devices busy, and little beside any model.
pub(crate) const MOST_IN_FLIGHT: usize = 1 << 30;

/// Threads that copy in the process at most.
pub(crate) fn most_workers() -> usize {
    (2 * processors()).max(16)
}

/// Processors that this process may run on, at least one, as they were when this was first asked:
/// the system takes longer to tell than a small read takes (on Linux it reads cgroup files).
#[must_use]
pub fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

/// A part of a pool, given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: &'static Pool,
    amount: usize,
}

impl Pool {
    /// Leases `wanted`, or what is left below `most`, but never less than `least`, so that every
    /// operation moves on.
    pub(crate) fn lease(&'static self, wanted: usize, least: usize, most: usize) -> Lease {
        let grant = |leased: usize| most.saturating_sub(leased).min(wanted).max(least);
        let before = self
            .leased
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |leased| {
                Some(leased + grant(leased))
            })
            .unwrap_or_else(|leased| leased);
        Lease {
            pool: self,
            amount: grant(before),
        }
    }
}

impl Lease {
    pub(crate) fn amount(&self) -> usize {
        self.amount
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.leased.fetch_sub(self.amount, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_share_and_return() {
        static POOL: Pool = Pool {
            leased: AtomicUsize::new(0),
        };
        let first = POOL.lease(6, 1, 8);
        let second = POOL.lease(6, 1, 8);
        let third = POOL.lease(6, 1, 8);
        assert_eq!((first.amount(), second.amount(), third.amount()), (6, 2, 1));
        drop((first, third));
        assert_eq!(POOL.lease(6, 1, 8).amount(), 6);
    }
}
