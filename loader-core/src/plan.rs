//! Pure arithmetic: byte ranges of a file become chunks with destinations.

use std::ops::Range;

use crate::{Error, Result};

/// Bytes of a file and where they shall land.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct Extent {
    /// Where the bytes begin, from the start of the file on disk.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Where they land, in bytes from the start of the destination.
    pub destination: usize,
}

/// A piece of work for a reader: bytes of one file and where they land.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chunk {
    /// Where the bytes begin, from the start of the file on disk.
    pub offset: u64,
    /// How many bytes; never zero.
    pub len: usize,
    /// Where they land, in bytes from the start of the destination.
    pub destination: usize,
}

impl Chunk {
    /// Where the bytes end, from the start of the file on disk.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.len as u64
    }
}

/// What is to be read from one file: chunks in the order of the file.
///
/// ```
/// use loader_core::{Extent, Plan};
/// let extents = [
///     Extent { offset: 0, len: 3000, destination: 0 },
///     Extent { offset: 3000, len: 5000, destination: 3000 },
/// ];
/// let plan = Plan::new(&extents, 8000, 4096)?;
/// // The two extents follow one another in the file and in memory: they are read as one,
/// // cut where the file's offset is a multiple of the chunk length.
/// assert_eq!(plan.chunks().iter().map(|chunk| chunk.len).collect::<Vec<_>>(), [4096, 3904]);
/// # Ok::<(), loader_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    chunks: Vec<Chunk>,
    bytes: u64,
}

impl Plan {
    /// Plans to land `extents` in a destination of `destination_len` bytes, in chunks of at most
    /// `chunk_bytes` that begin at multiples of `chunk_bytes` wherever an extent allows it.
    ///
    /// Extents may be empty and may overlap in the file. `chunk_bytes` of zero counts as one.
    ///
    /// # Errors
    /// [`Error::Destination`] where an extent lands outside the destination,
    /// [`Error::OverlappingDestinations`] where two land on the same bytes.
    pub fn new(extents: &[Extent], destination_len: usize, chunk_bytes: u64) -> Result<Self> {
        Self::cut_by(extents, destination_len, chunk_bytes, |extent| {
            extent.offset
        })
    }

    /// As [`new`](Self::new) for a destination that nobody has touched yet, whose first byte has
    /// this address: chunks begin at multiples of `chunk_bytes` in memory. As long as those are
    /// multiples of a huge page, no two threads fault the same one in.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_fresh(
        extents: &[Extent],
        address: usize,
        destination_len: usize,
        chunk_bytes: u64,
    ) -> Result<Self> {
        let place = |extent: Extent| (address.wrapping_add(extent.destination)) as u64;
        Self::cut_by(extents, destination_len, chunk_bytes, place)
    }

    /// Cuts where what `place` tells of an extent's first byte comes to a multiple of `chunk_bytes`.
    fn cut_by(
        extents: &[Extent],
        destination_len: usize,
        chunk_bytes: u64,
        place: impl Fn(Extent) -> u64,
    ) -> Result<Self> {
        check_destinations(extents, destination_len)?;
        let mut extents: Vec<Extent> = extents.iter().copied().filter(|e| e.len > 0).collect();
        extents.sort_by_key(|extent| (extent.offset, extent.destination));
        let mut plan = Self::default();
        for extent in coalesce(extents) {
            plan.cut(extent, place(extent), chunk_bytes.max(1));
        }
        // Where extents overlap, the chunks of one lie among those of another.
        plan.chunks.sort_by_key(|chunk| chunk.offset);
        Ok(plan)
    }

    /// The chunks, in the order of their offsets.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// How many bytes all chunks have together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Which bytes are read, in bytes from the start of the file on disk: ranges in order that
    /// neither touch nor overlap.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range<u64>> {
        join(self.chunks.iter().map(|chunk| chunk.offset..chunk.end()))
    }

    fn cut(&mut self, extent: Extent, place: u64, chunk_bytes: u64) {
        let end = extent.offset + extent.len;
        let mut offset = extent.offset;
        let mut destination = extent.destination;
        let mut longest = chunk_bytes - place % chunk_bytes;
        while offset < end {
            // At most the extent's length, which fits the destination and so a `usize`.
            let len = usize::try_from(longest.min(end - offset)).unwrap_or(usize::MAX);
            self.chunks.push(Chunk {
                offset,
                len,
                destination,
            });
            offset += len as u64;
            destination += len;
            longest = chunk_bytes;
        }
        self.bytes += extent.len;
    }
}

/// Joins ranges, sorted by their start, that touch or overlap.
pub(crate) fn join(sorted: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// Joins extents that follow one another both in the file and in the destination.
fn coalesce(extents: Vec<Extent>) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::with_capacity(extents.len().min(1024));
    for extent in extents {
        match joined.last_mut() {
            Some(last)
                if last.offset + last.len == extent.offset
                    && (last.destination as u64).checked_add(last.len)
                        == Some(extent.destination as u64) =>
            {
                last.len += extent.len;
            }
            _ => joined.push(extent),
        }
    }
    joined
}

fn check_destinations(extents: &[Extent], destination_len: usize) -> Result<()> {
    let actual = destination_len as u64;
    let mut spans = Vec::with_capacity(extents.len());
    for extent in extents.iter().filter(|extent| extent.len > 0) {
        let start = extent.destination as u64;
        let end = start.checked_add(extent.len).filter(|end| *end <= actual);
        let Some(end) = end else {
            let expected = start.saturating_add(extent.len);
            return Err(Error::Destination { expected, actual });
        };
        if extent.offset.checked_add(extent.len).is_none() {
            return Err(Error::Destination {
                expected: u64::MAX,
                actual,
            });
        }
        spans.push((start, end));
    }
    spans.sort_unstable();
    match spans.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        Some(pair) => Err(Error::OverlappingDestinations {
            first: pair[0].0,
            second: pair[1].0,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_cover_every_extent_once(
            spans in prop::collection::vec((0_u64..5000, 0_u64..3000, 0_usize..500), 0..20),
            chunk_bytes in 1_u64..4096,
            fresh_at in prop::option::of(any::<usize>()),
        ) {
            let mut destination = 0;
            let extents: Vec<Extent> = spans
                .into_iter()
                .map(|(offset, len, gap)| {
                    let extent = Extent { offset, len, destination: destination + gap };
                    destination += gap + usize::try_from(len).unwrap();
                    extent
                })
                .collect();
            let plan = match fresh_at {
                None => Plan::new(&extents, destination, chunk_bytes),
                Some(address) => Plan::for_fresh(&extents, address, destination, chunk_bytes),
            };
            let plan = plan.unwrap();
            prop_assert!(plan.chunks().is_sorted_by_key(|chunk| chunk.offset));

            let mut expected = vec![None; destination];
            for extent in &extents {
                for byte in 0..extent.len {
                    let at = extent.destination + usize::try_from(byte).unwrap();
                    expected[at] = Some(extent.offset + byte);
                }
            }
            let mut planned = vec![None; destination];
            for chunk in plan.chunks() {
                prop_assert!(chunk.len > 0 && chunk.len as u64 <= chunk_bytes);
                let first = match fresh_at {
                    None => chunk.offset,
                    Some(address) => address.wrapping_add(chunk.destination) as u64,
                };
                prop_assert!(first % chunk_bytes + chunk.len as u64 <= chunk_bytes);
                for byte in 0..chunk.len {
                    let place = &mut planned[chunk.destination + byte];
                    prop_assert!(place.is_none(), "a byte lands twice");
                    *place = Some(chunk.offset + byte as u64);
                }
            }
            prop_assert_eq!(planned, expected);
            prop_assert_eq!(plan.bytes(), extents.iter().map(|e| e.len).sum::<u64>());
        }
    }

    #[test]
    fn neighbours_are_read_as_one() {
        let extents = [
            Extent {
                offset: 10,
                len: 10,
                destination: 0,
            },
            Extent {
                offset: 20,
                len: 0,
                destination: 3,
            },
            Extent {
                offset: 20,
                len: 10,
                destination: 10,
            },
        ];
        let plan = Plan::new(&extents, 20, 1 << 20).unwrap();
        assert_eq!(
            plan.chunks(),
            [Chunk {
                offset: 10,
                len: 20,
                destination: 0
            }]
        );
    }

    #[test]
    fn ranges_join_what_touches() {
        let extent = |offset, len, destination| Extent {
            offset,
            len,
            destination,
        };
        let extents = [
            extent(0, 100, 0),
            extent(10, 20, 100),
            extent(100, 5, 120),
            extent(200, 1, 125),
        ];
        let plan = Plan::new(&extents, 126, 16).unwrap();
        assert_eq!(plan.ranges(), [0..105, 200..201]);
        assert_eq!(Plan::default().ranges(), []);
    }

    #[test]
    fn bad_destinations_are_refused() {
        let outside = [Extent {
            offset: 0,
            len: 9,
            destination: 2,
        }];
        assert!(matches!(
            Plan::new(&outside, 10, 4),
            Err(Error::Destination {
                expected: 11,
                actual: 10
            })
        ));
        let overlapping = [
            Extent {
                offset: 0,
                len: 5,
                destination: 0,
            },
            Extent {
                offset: 100,
                len: 5,
                destination: 4,
            },
        ];
        assert!(matches!(
            Plan::new(&overlapping, 10, 4),
            Err(Error::OverlappingDestinations {
                first: 0,
                second: 4
            })
        ));
        let endless = [Extent {
            offset: u64::MAX,
            len: 5,
            destination: 0,
        }];
        assert!(Plan::new(&endless, 10, 4).is_err());
    }
}
