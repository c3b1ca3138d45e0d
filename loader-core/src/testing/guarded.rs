//! Memory that tells who wrote where.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::Destination;

/// What surrounds the destination: a read that goes astray changes it.
const CANARY: u8 = 0xA5;

/// Canaries on each side, in bytes: more than the largest block that direct I/O asks for.
const MARGIN: usize = 3 * PAGE;
const PAGE: usize = 4096;

/// Memory that certain bytes are to land in, between canaries.
///
/// Before anything lands, each byte of it is the complement of what is to land there: a byte is
/// always either untouched, right, or wrong, and the three can be told apart.
#[derive(Debug)]
pub struct Guarded {
    memory: Vec<u8>,
    start: usize,
    expected: Vec<u8>,
    untouched: Vec<u8>,
}

impl Guarded {
    /// Memory for `expected`, its first byte at an address `shift` bytes beyond a multiple of 4096.
    #[must_use]
    pub fn new(expected: &[u8], shift: usize) -> Self {
        let untouched = complement(expected);
        let mut memory = vec![CANARY; expected.len() + 2 * MARGIN + PAGE];
        let start = memory.as_ptr().align_offset(PAGE) + MARGIN - PAGE + shift % PAGE;
        memory[start..start + expected.len()].copy_from_slice(&untouched);
        Self {
            memory,
            start,
            expected: expected.to_vec(),
            untouched,
        }
    }

    /// The memory as a destination.
    pub fn destination(&mut self) -> Destination<'_> {
        let end = self.start + self.expected.len();
        Destination::from(&mut self.memory[self.start..end])
    }

    /// The memory as a destination of uninitialised bytes.
    pub fn uninitialised(&mut self) -> Destination<'_> {
        let memory = &mut self.memory[self.start..self.start + self.expected.len()];
        let start = memory.as_mut_ptr().cast::<MaybeUninit<u8>>();
        // SAFETY: the same bytes, exclusively borrowed for as long; whatever lands in them has
        // been read from a file, so they stay initialised.
        let memory = unsafe { std::slice::from_raw_parts_mut(start, memory.len()) };
        Destination::from(memory)
    }

    /// The memory as a destination that refuses direct I/O.
    pub fn not_for_direct(&mut self) -> Destination<'_> {
        let memory = &mut self.memory[self.start..self.start + self.expected.len()];
        let (start, len) = (NonNull::from(&mut *memory).cast(), memory.len());
        // SAFETY: the memory is borrowed exclusively for as long as the destination lives.
        unsafe { Destination::from_raw(start, len, false) }
    }

    /// The bytes as they are now.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.expected.len()]
    }

    /// A copy of all memory, canaries included: to see later whether anybody wrote meanwhile.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        self.memory.clone()
    }

    /// Whether nobody wrote since `snapshot` was taken.
    #[must_use]
    pub fn is_unchanged_since(&self, snapshot: &[u8]) -> bool {
        self.memory == snapshot
    }

    /// Checks that everything landed, and nothing beside it.
    ///
    /// # Panics
    /// Where that is not so.
    pub fn check_complete(&self, what: &str) {
        self.check_canaries(what);
        if let Some(at) = first_difference(self.bytes(), &self.expected) {
            let state = if self.bytes()[at] == self.untouched[at] {
                "was not written"
            } else {
                "is wrong"
            };
            panic!("{what}: byte {at} of {} {state}", self.expected.len());
        }
    }

    /// Checks that whatever landed is right or zero, and nothing landed beside it; tells how many
    /// bytes are right.
    ///
    /// # Panics
    /// Where that is not so.
    pub fn check_partial(&self, what: &str) -> usize {
        self.check_canaries(what);
        let mut landed = 0;
        for start in (0..self.expected.len()).step_by(PAGE) {
            let page = start..self.expected.len().min(start + PAGE);
            let found = &self.bytes()[page.clone()];
            let (expected, untouched) = (&self.expected[page.clone()], &self.untouched[page]);
            // Whole pages are compared at once, since a test of this kind looks at many.
            if found == expected {
                landed += found.len();
            } else if found != untouched {
                for (at, byte) in found.iter().enumerate() {
                    if *byte == expected[at] {
                        landed += 1;
                    } else if *byte != untouched[at] && *byte != 0 {
                        // Zeros are what direct I/O leaves of a block beyond a file's new end.
                        let (at, len) = (start + at, self.expected.len());
                        panic!("{what}: byte {at} of {len} is wrong");
                    }
                }
            }
        }
        landed
    }

    fn check_canaries(&self, what: &str) {
        let (before, rest) = self.memory.split_at(self.start);
        let after = &rest[self.expected.len()..];
        let canaries = vec![CANARY; before.len().max(after.len())];
        if before != &canaries[..before.len()] {
            let last = before.iter().rposition(|byte| *byte != CANARY);
            let distance = before.len() - last.unwrap_or(0);
            panic!("{what}: the byte {distance} before the destination was written");
        }
        if let Some(at) = first_difference(after, &canaries[..after.len()]) {
            panic!("{what}: the byte {at} after the destination was written");
        }
    }
}

fn complement(bytes: &[u8]) -> Vec<u8> {
    let mut complement = Vec::with_capacity(bytes.len());
    let mut words = bytes.chunks_exact(8);
    // Eight bytes at a time, since these run without optimisation.
    for word in &mut words {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        complement.extend_from_slice(&(!u64::from_ne_bytes(eight)).to_ne_bytes());
    }
    complement.extend(words.remainder().iter().map(|byte| !byte));
    complement
}

fn first_difference(found: &[u8], expected: &[u8]) -> Option<usize> {
    if found == expected {
        return None;
    }
    found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrote(range: std::ops::Range<usize>, value: u8) -> Guarded {
        let mut guarded = Guarded::new(&[7; 100], 5);
        let start = guarded.start;
        assert_eq!(guarded.bytes().as_ptr().addr() % PAGE, 5);
        guarded.memory[start - 1 + range.start..start - 1 + range.end].fill(value);
        guarded
    }

    #[test]
    fn what_is_complete_passes() {
        wrote(1..101, 7).check_complete("complete");
        assert_eq!(wrote(1..51, 7).check_partial("half"), 50);
        assert_eq!(wrote(1..1, 7).check_partial("nothing"), 0);
    }

    #[test]
    #[should_panic = "byte 99 of 100 was not written"]
    fn a_missing_byte_is_seen() {
        wrote(1..100, 7).check_complete("test");
    }

    #[test]
    #[should_panic = "byte 10 of 100 is wrong"]
    fn a_wrong_byte_is_seen() {
        let _ = wrote(11..12, 9).check_partial("test");
    }

    #[test]
    #[should_panic = "the byte 1 before the destination"]
    fn a_byte_before_is_seen() {
        wrote(0..101, 7).check_complete("test");
    }

    #[test]
    #[should_panic = "the byte 0 after the destination"]
    fn a_byte_after_is_seen() {
        let _ = wrote(1..102, 7).check_partial("test");
    }
}
