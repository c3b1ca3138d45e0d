//! The order in which a stream gives what has landed.

use std::collections::BTreeMap;

use crate::StreamOrder;

/// Groups of pieces on their way to whoever takes them from a stream.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    order: StreamOrder,
    /// Being read.
    landing: BTreeMap<usize, T>,
    /// Landed before an earlier one.
    landed: BTreeMap<usize, T>,
    /// How many have begun.
    begun: usize,
    /// How many have been given.
    given: usize,
}

impl<T> Turns<T> {
    pub(crate) fn new(order: StreamOrder) -> Self {
        Self {
            order,
            landing: BTreeMap::new(),
            landed: BTreeMap::new(),
            begun: 0,
            given: 0,
        }
    }

    /// Notes that the next group is being read, and gives its number.
    pub(crate) fn begin(&mut self, group: T) -> usize {
        let number = self.begun;
        self.begun += 1;
        self.landing.insert(number, group);
        number
    }

    /// Notes that a group has landed.
    pub(crate) fn land(&mut self, number: usize) {
        if let Some(group) = self.landing.remove(&number) {
            self.landed.insert(number, group);
        }
    }

    /// The next group whose turn it is.
    pub(crate) fn next(&mut self) -> Option<T> {
        let next = self.landed.first_entry()?;
        if self.order == StreamOrder::Asked && *next.key() != self.given {
            return None;
        }
        self.given += 1;
        Some(next.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_in_turn_or_as_they_land() {
        for (order, expected) in [
            (
                StreamOrder::Asked,
                vec![vec![], vec![], vec!['a', 'b', 'c']],
            ),
            (StreamOrder::Landed, vec![vec!['c'], vec!['b'], vec!['a']]),
        ] {
            let mut turns = Turns::new(order);
            let numbers: Vec<_> = ['a', 'b', 'c'].map(|group| turns.begin(group)).into();
            let given: Vec<Vec<char>> = numbers
                .into_iter()
                .rev()
                .map(|number| {
                    turns.land(number);
                    std::iter::from_fn(|| turns.next()).collect()
                })
                .collect();
            assert_eq!(given, expected, "{order:?}");
        }
    }
}
