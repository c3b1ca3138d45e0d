//! How much memory lies free in blocks that a huge page fits into.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::param::page_size;

/// Reads /proc/buddyinfo again and again.
pub(crate) struct FreeBlocks {
    statistics: File,
    /// The order of a huge page: it has `1 << order` pages.
    order: u32,
}

impl FreeBlocks {
    /// Blocks of at least `bytes` bytes; `None` where the kernel does not tell.
    pub(crate) fn of_at_least(bytes: u64) -> Option<Self> {
        let statistics = File::open("/proc/buddyinfo").ok()?;
        let pages = bytes.div_ceil(page_size() as u64).next_power_of_two();
        let order = pages.ilog2();
        Some(Self { statistics, order })
    }

    /// Bytes in such blocks now.
    pub(crate) fn bytes(&self) -> u64 {
        let mut text = [0; 4096];
        let read = self.statistics.read_at(&mut text, 0).unwrap_or(0);
        let pages = free_pages(&String::from_utf8_lossy(&text[..read]), self.order);
        pages.saturating_mul(page_size() as u64)
    }
}

/// The pages in free blocks of `order` and above, by the text of /proc/buddyinfo: a line for each
/// zone, with the number of free blocks of each order (proc_buddyinfo(5)).
fn free_pages(text: &str, order: u32) -> u64 {
    let of_zone = |line: &str| {
        let (_, zone) = line.split_once("zone")?;
        let blocks = zone.split_whitespace().skip(1).map(str::parse::<u64>);
        let pages = (0..).zip(blocks).filter(|(block, _)| *block >= order);
        Some(pages.fold(0_u64, |sum, (block, count)| {
            let pages = count
                .unwrap_or(0)
                .saturating_mul(1_u64.checked_shl(block).unwrap_or(0));
            sum.saturating_add(pages)
        }))
    };
    text.lines()
        .filter_map(of_zone)
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_all_zones_and_larger_orders_count() {
        let text = "Node 0, zone      DMA      1      1      0      0      1\n\
                    Node 0, zone   Normal   3321   2513      0      5      6\n\
                    Node 1, zone   Normal      0      0      2      x     1\n\
                    nonsense\n";
        assert_eq!(free_pages(text, 4), 16 + 6 * 16 + 16);
        assert_eq!(free_pages(text, 2), 16 + 5 * 8 + 6 * 16 + 2 * 4 + 16);
        assert_eq!(free_pages(text, 9), 0);
    }

    #[test]
    fn this_kernel_tells_or_not() {
        match FreeBlocks::of_at_least(page_size() as u64) {
            Some(blocks) => assert!(blocks.bytes() > 0),
            None => println!("skipped: there is no /proc/buddyinfo"),
        }
    }
}
