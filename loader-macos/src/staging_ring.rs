//! Which staging slot is whose: the loader's, the device's, or free.

use std::sync::mpsc::{self, Receiver, Sender};

/// Tells that the device has done with a slot; may be sent from any thread.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) slot: usize,
    /// Why the device failed, where it did.
    pub(crate) failure: Option<String>,
}

/// The slots of a staging ring.
///
/// The device tells that it has done with a slot by a [`Completion`], in any order; so every slot
/// that is handed over must come back by one, also where the device failed.
#[derive(Debug)]
pub(crate) struct Ring {
    free: Vec<usize>,
    /// Whether each slot is the loader's.
    lent: Vec<bool>,
    in_flight: usize,
    sender: Sender<Completion>,
    completions: Receiver<Completion>,
    /// The first failure.
    failure: Option<String>,
}

impl Ring {
    /// A ring of free slots.
    pub(crate) fn new(slots: usize) -> Self {
        let (sender, completions) = mpsc::channel();
        Self {
            // The first one is lent first.
            free: (0..slots).rev().collect(),
            lent: vec![false; slots],
            in_flight: 0,
            sender,
            completions,
            failure: None,
        }
    }

    /// What completions are told by.
    pub(crate) fn completions(&self) -> Sender<Completion> {
        self.sender.clone()
    }

    /// Lends a free slot; with `wait`, and while the device has any, waits until one is free.
    ///
    /// # Errors
    /// The first failure of the device.
    pub(crate) fn lend(&mut self, wait: bool) -> Result<Option<usize>, String> {
        self.settle_those_told();
        while wait && self.free.is_empty() && self.in_flight > 0 {
            self.settle_next();
        }
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let slot = self.free.pop();
        if let Some(slot) = slot {
            self.lent[slot] = true;
        }
        Ok(slot)
    }

    /// Notes that a lent slot is handed over to the device.
    ///
    /// # Errors
    /// Where it was not lent.
    pub(crate) fn hand_over(&mut self, slot: usize) -> Result<(), String> {
        match self.lent.get_mut(slot) {
            Some(lent) if *lent => {
                *lent = false;
                self.in_flight += 1;
                Ok(())
            }
            _ => Err(format!("slot {slot} was not lent")),
        }
    }

    /// Waits until the device has done with every slot, and takes back those that are lent.
    ///
    /// # Errors
    /// The first failure of the device.
    pub(crate) fn drain(&mut self) -> Result<(), String> {
        while self.in_flight > 0 {
            self.settle_next();
        }
        for (slot, lent) in self.lent.iter_mut().enumerate() {
            if std::mem::take(lent) {
                self.free.push(slot);
            }
        }
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn settle_those_told(&mut self) {
        while let Ok(completion) = self.completions.try_recv() {
            self.settle(completion);
        }
    }

    fn settle_next(&mut self) {
        // The ring has a sender of its own, so the channel is never closed.
        if let Ok(completion) = self.completions.recv() {
            self.settle(completion);
        }
    }

    fn settle(&mut self, completion: Completion) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.free.push(completion.slot);
        if let Some(failure) = completion.failure {
            self.failure.get_or_insert(failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::thread;
    use std::time::Duration;

    /// A device that completes what it was handed in some order, some of it at once.
    struct Device {
        completions: Sender<Completion>,
        held: Vec<usize>,
    }

    impl Device {
        fn complete(&mut self, at: usize, failure: Option<&str>) {
            if self.held.is_empty() {
                return;
            }
            let slot = self.held.swap_remove(at % self.held.len());
            let failure = failure.map(str::to_owned);
            self.completions.send(Completion { slot, failure }).unwrap();
        }
    }

    proptest! {
        #[test]
        fn a_slot_has_one_owner_at_a_time(
            slots in 0_usize..6,
            steps in prop::collection::vec((0_u8..4, any::<usize>()), 0..200),
        ) {
            let mut ring = Ring::new(slots);
            let mut device = Device { completions: ring.completions(), held: Vec::new() };
            let mut lent: BTreeSet<usize> = BTreeSet::new();
            for (step, dice) in steps {
                match step {
                    0 => {
                        if let Some(slot) = ring.lend(false).unwrap() {
                            prop_assert!(slot < slots && !device.held.contains(&slot));
                            prop_assert!(lent.insert(slot));
                        } else {
                            prop_assert_eq!(lent.len() + device.held.len(), slots);
                        }
                    }
                    1 => {
                        let slot = dice % slots.max(1);
                        let given = ring.hand_over(slot);
                        prop_assert_eq!(given.is_ok(), lent.remove(&slot));
                        if given.is_ok() {
                            device.held.push(slot);
                        }
                    }
                    2 => device.complete(dice, None),
                    _ => {
                        // Waits only where somebody will come.
                        if device.held.is_empty() || lent.len() + device.held.len() < slots {
                            ring.lend(true).unwrap().into_iter().for_each(|slot| {
                                assert!(lent.insert(slot));
                            });
                        }
                    }
                }
            }
            while !device.held.is_empty() {
                device.complete(0, None);
            }
            ring.drain().unwrap();
            let again: BTreeSet<_> = (0..slots).map(|_| ring.lend(true).unwrap().unwrap()).collect();
            prop_assert_eq!(again.len(), slots);
            prop_assert_eq!(ring.lend(true).unwrap(), None);
        }

        #[test]
        fn a_failure_is_told_once_everything_has_come_back(
            slots in 1_usize..5,
            failing in 0_usize..5,
        ) {
            let mut ring = Ring::new(slots);
            let mut device = Device { completions: ring.completions(), held: Vec::new() };
            while let Some(slot) = ring.lend(false).unwrap() {
                ring.hand_over(slot).unwrap();
                device.held.push(slot);
            }
            for count in 0..slots {
                device.complete(0, (count == failing % slots).then_some("the device is lost"));
            }
            prop_assert_eq!(ring.drain(), Err("the device is lost".to_owned()));
            prop_assert!(ring.lend(true).is_err());
        }
    }

    #[test]
    fn whoever_waits_is_woken_from_another_thread() {
        let mut ring = Ring::new(2);
        for _ in 0..2 {
            let slot = ring.lend(false).unwrap().unwrap();
            ring.hand_over(slot).unwrap();
        }
        let completions = ring.completions();
        let device = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            for slot in [1, 0] {
                let failure = None;
                completions.send(Completion { slot, failure }).unwrap();
            }
        });
        assert_eq!(ring.lend(true).unwrap(), Some(1));
        assert_eq!(ring.lend(true).unwrap(), Some(0));
        assert_eq!(ring.lend(true).unwrap(), None);
        ring.drain().unwrap();
        device.join().unwrap();
    }
}
