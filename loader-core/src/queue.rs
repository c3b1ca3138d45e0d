//! The queue that readers pull from.

mod task;
mod task_run;

use std::any::Any;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::prefault::Memory;
use crate::transfer::{Transfer, locked};
use crate::{Refusal, WeightFile};

pub use task::Task;
pub use task_run::TaskRun;

/// Reads that the system interrupted or put off are repeated this often before that is an error.
const MOST_RETRIES: u32 = 1000;

/// Chunks to be read, of any number of files, in order.
///
/// Several workers may pull from one queue. What a read leaves over goes back to its front; what a
/// reader refuses goes to the queue of the buffered reader, where the caller allows it.
#[derive(Debug)]
pub struct Queue<'a> {
    transfer: &'a Transfer,
    files: &'a [WeightFile],
    pieces: Mutex<VecDeque<Piece>>,
    refuge: Option<&'a Queue<'a>>,
    /// How many readers serve it, or are about to.
    readers: AtomicUsize,
    /// Whether its readers gave up, so that everything goes to the refuge.
    surrendered: AtomicBool,
    depth: usize,
    /// How much memory for reads that cannot go in place one worker may take.
    slab_bytes: usize,
    /// Whether a task was taken.
    begun: AtomicBool,
    /// Whether its readers may have to wait for the device.
    may_wait: AtomicBool,
}

/// Part of a file on its way to memory.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) file: usize,
    pub(crate) offset: u64,
    pub(crate) start: NonNull<u8>,
    pub(crate) len: usize,
    pub(crate) direct: bool,
    pub(crate) group: Option<Arc<Group>>,
    pub(crate) retries: u32,
}

// SAFETY: a piece is the only way to its bytes until it has landed (`Queue::push` demands it), so
// it may be handed from thread to thread.
unsafe impl Send for Piece {}

/// Pieces that are announced together once all have landed, and the memory that they land in where
/// it is ours: the last piece under way keeps it.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: usize,
    pub(crate) pieces: AtomicUsize,
    #[expect(
        dead_code,
        reason = "held so that the memory outlives the reads into it"
    )]
    pub(crate) memory: Option<Arc<dyn Any + Send + Sync>>,
}

impl<'a> Queue<'a> {
    pub(crate) fn new(
        transfer: &'a Transfer,
        files: &'a [WeightFile],
        depth: usize,
        slab_bytes: usize,
        refuge: Option<&'a Queue<'a>>,
    ) -> Self {
        Self {
            transfer,
            files,
            pieces: Mutex::default(),
            refuge,
            readers: AtomicUsize::new(0),
            surrendered: AtomicBool::new(false),
            depth,
            slab_bytes,
            begun: AtomicBool::new(false),
            may_wait: AtomicBool::new(true),
        }
    }

    /// With what [`may_wait`](Self::may_wait) tells.
    pub(crate) fn that_may_wait(self, may_wait: bool) -> Self {
        let may_wait = AtomicBool::new(may_wait);
        Self { may_wait, ..self }
    }

    /// Appends a piece.
    ///
    /// # Safety
    /// The piece's memory stays valid for writes, and nobody else touches it, until the piece has
    /// landed or every reader of this queue has returned.
    pub(crate) unsafe fn push(&self, piece: Piece) {
        self.transfer.expect_piece();
        let mut pieces = locked(&self.pieces);
        // Asked under the lock, since nobody comes for what is pushed behind a surrender.
        let refuge = self
            .refuge
            .filter(|_| self.surrendered.load(Ordering::Acquire));
        match refuge {
            None => pieces.push_back(piece),
            Some(refuge) => {
                drop(pieces);
                refuge.take_in([piece]);
            }
        }
    }

    /// Wakes readers that wait for a task.
    pub(crate) fn wake(&self) {
        self.transfer.wake();
    }

    /// Takes the next task, waiting for one where none is left but more may come. `None` means
    /// that no more will come: the reader reaps what it has in flight and returns.
    ///
    /// A reader with tasks in flight asks [`try_next`](Self::try_next) instead, since the task
    /// waited for may be what is left over of one of its own.
    #[must_use]
    pub fn next(&self) -> Option<Task<'_>> {
        self.wait_for(|| self.take())
    }

    /// Takes the next task as [`next`](Self::next) does, together with those behind it that go on
    /// where it ends, up to `most_bytes` in all: for readers whose system reads ahead of reads that
    /// follow one another. They are fewer where readers share what is left, and one where the
    /// operation has a pace.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("weights.bin");
    /// # std::fs::write(&path, vec![7; 3 << 20])?;
    /// use std::sync::Arc;
    /// use loader_core::{
    ///     Copier, Extent, Job, LoadOptions, Mechanism, Operation, Platform, Queue, Reader, Refusal,
    ///     Support, WeightFile,
    /// };
    ///
    /// /// Reads long runs through the page cache.
    /// #[derive(Debug)]
    /// struct RunReader;
    ///
    /// impl Reader for RunReader {
    ///     fn mechanism(&self) -> Mechanism {
    ///         Mechanism::BUFFERED
    ///     }
    ///     fn support(&self, _: &WeightFile) -> Result<Support, Refusal> {
    ///         Ok(Support::any())
    ///     }
    ///     fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
    ///         while let Some(run) = queue.next_run(64 << 20) {
    ///             for task in run {
    ///                 let at_most = task.len();
    ///                 task.read(Mechanism::BUFFERED, at_most);
    ///             }
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let platform = Platform { buffered: Arc::new(RunReader), ..Platform::portable() };
    /// let options = LoadOptions::default();
    /// let copier = Copier::new(&platform, &options);
    /// let mut memory = vec![0; 3 << 20];
    /// let plan = copier.plan(&[Extent { offset: 0, len: 3 << 20, destination: 0 }], memory.len())?;
    /// let file = WeightFile::open(&path)?;
    /// let job = Job { file, plan, destination: memory.as_mut_slice().into() };
    /// copier.run(vec![job], Operation::new())?;
    /// assert!(memory.iter().all(|byte| *byte == 7));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn next_run(&self, most_bytes: usize) -> Option<TaskRun<'_>> {
        self.wait_for(|| self.take_run(most_bytes))
    }

    /// What `take` gives, waiting while it gives nothing but more may come.
    fn wait_for<T>(&self, take: impl Fn() -> Result<Option<T>, Duration>) -> Option<T> {
        loop {
            let early = match take() {
                Ok(Some(taken)) => return Some(taken),
                Ok(None) => None,
                Err(early) => Some(early),
            };
            if self.transfer.is_over() {
                return None;
            }
            let more = || self.transfer.is_over() || !locked(&self.pieces).is_empty();
            match early {
                None => self.transfer.wait_unless(more, None),
                Some(_) => self.transfer.wait_unless(|| self.transfer.is_over(), early),
            }
        }
    }

    /// Takes the next task if there is one right now, and its pace allows it.
    #[must_use]
    pub fn try_next(&self) -> Option<Task<'_>> {
        self.take().ok().flatten()
    }

    /// Takes the next task, or tells how much too early that is.
    fn take(&self) -> Result<Option<Task<'_>>, Duration> {
        let taken = self.take_pieces(0)?;
        Ok(taken.map(|(piece, _)| Task::begin(self, piece)))
    }

    /// Takes the next task and those that follow it, or tells how much too early that is.
    fn take_run(&self, most_bytes: usize) -> Result<Option<TaskRun<'_>>, Duration> {
        let taken = self.take_pieces(most_bytes)?;
        Ok(taken.map(|(first, mut pieces)| {
            pieces.push_front(first);
            let queue = self;
            TaskRun { queue, pieces }
        }))
    }

    /// Takes the next piece, and those that follow it within `most_bytes` in all.
    fn take_pieces(&self, most_bytes: usize) -> Result<Option<(Piece, VecDeque<Piece>)>, Duration> {
        if self.transfer.is_stopped() {
            return Ok(None);
        }
        let mut pieces = locked(&self.pieces);
        if let (Some(pace), Some(piece)) = (&self.transfer.pace, pieces.front()) {
            pace.admit(piece.len as u64)?;
        }
        let Some(first) = pieces.pop_front() else {
            return Ok(None);
        };
        let following = match self.transfer.pace {
            Some(_) => 0,
            None => following(&first, &pieces, self.share(pieces.len()), most_bytes),
        };
        let rest = pieces.drain(..following).collect();
        drop(pieces);
        if !self.begun.swap(true, Ordering::AcqRel) {
            self.transfer.wake();
        }
        Ok(Some((first, rest)))
    }

    /// How many of so many pieces one reader may take at once, so that all are done at about the
    /// same time.
    fn share(&self, pieces: usize) -> usize {
        pieces / self.readers.load(Ordering::Acquire).max(1)
    }

    /// Waits until a reader has taken the first task or given up, or the transfer is over.
    pub(crate) fn wait_for_first_task(&self) {
        let begun = || self.has_begun() || self.transfer.is_over();
        while !begun() {
            self.transfer.wait_unless(begun, None);
        }
    }

    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire) || self.surrendered.load(Ordering::Acquire)
    }

    /// The files that tasks read from.
    #[must_use]
    pub fn files(&self) -> &[WeightFile] {
        self.files
    }

    /// How many reads one worker may have in flight at once.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Whether its reads may have to wait for the device, rather than that all they ask for is known
    /// to be in the page cache.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.may_wait.load(Ordering::Acquire)
    }

    pub(crate) fn slab_bytes(&self) -> usize {
        self.slab_bytes
    }

    /// Whether readers shall take no more tasks.
    pub(crate) fn is_stopped(&self) -> bool {
        self.transfer.is_stopped()
    }

    /// Where the tasks that wait will land.
    pub(crate) fn waiting_memory(&self) -> Vec<Memory> {
        let memory = |piece: &Piece| Memory {
            start: piece.start,
            len: piece.len,
        };
        locked(&self.pieces).iter().map(memory).collect()
    }

    /// How many tasks wait to be taken.
    pub(crate) fn waiting(&self) -> usize {
        locked(&self.pieces).len()
    }

    /// Counts readers that will serve it.
    pub(crate) fn expect_readers(&self, readers: usize) {
        self.readers.fetch_add(readers, Ordering::AcqRel);
    }

    /// Tells that one of its readers cannot serve it. Others go on; where there are none, everything
    /// goes to the refuge, and where there is none either, the operation fails.
    pub(crate) fn give_up(&self, refusal: Refusal) {
        let others = self.readers.fetch_sub(1, Ordering::AcqRel) > 1;
        if others {
            self.transfer.refused(&refusal);
        } else if !self.surrender(&refusal) {
            self.transfer.fail(refusal.into());
        }
    }

    /// Moves everything that waits here to the refuge; `false` where there is none.
    fn surrender(&self, refusal: &Refusal) -> bool {
        let Some(refuge) = self.refuge else {
            return false;
        };
        // Waking locks what those who wait for a piece hold while they look for one.
        let pieces = {
            let mut pieces = locked(&self.pieces);
            self.surrendered.store(true, Ordering::Release);
            std::mem::take(&mut *pieces)
        };
        refuge.take_in(pieces);
        self.transfer.refused(refusal);
        self.transfer.wake();
        true
    }

    /// Takes what another queue's readers refuse, which nobody says is in the page cache.
    fn take_in(&self, pieces: impl IntoIterator<Item = Piece>) {
        self.may_wait.store(true, Ordering::Release);
        locked(&self.pieces).extend(pieces);
    }

    fn put_back(&self, piece: Piece) {
        locked(&self.pieces).push_front(piece);
        self.transfer.wake();
    }
}

/// How many of the pieces that wait go on where `first` ends, each where the one before does: `most`
/// at most, and no more than `most_bytes` with it.
fn following(first: &Piece, waiting: &VecDeque<Piece>, most: usize, most_bytes: usize) -> usize {
    let (mut end, mut bytes) = (first.offset.checked_add(first.len as u64), first.len);
    let follows = move |next: &&Piece| {
        let goes_on = next.file == first.file && end == Some(next.offset);
        end = next.offset.checked_add(next.len as u64);
        bytes = bytes.saturating_add(next.len);
        goes_on && bytes <= most_bytes
    };
    waiting.iter().take(most).take_while(follows).count()
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use std::thread;

    use crossbeam::channel::unbounded;
    use proptest::prelude::*;

    use super::*;
    use crate::Mechanism;
    use crate::testing::Watchdog;
    use crate::transfer::Tally;

    /// Where pieces of these files and lengths lie, each behind the one before, but for gaps.
    fn pieces() -> impl Strategy<Value = Vec<(usize, u64, usize)>> {
        let piece = (
            1..5_usize,
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.1),
        );
        prop::collection::vec(piece, 0..60).prop_map(|pieces| {
            let (mut file, mut offset) = (0, 0);
            let place = |(len, gap, next_file): (usize, bool, bool)| {
                if next_file {
                    (file, offset) = (file + 1, 0);
                }
                offset += u64::from(gap);
                let begin = offset;
                offset += len as u64;
                (file, begin, len)
            };
            pieces.into_iter().map(place).collect()
        })
    }

    fn piece(file: usize, offset: u64, len: usize) -> Piece {
        Piece {
            file,
            offset,
            start: NonNull::dangling(),
            len,
            direct: false,
            group: None,
            retries: 0,
        }
    }

    #[test]
    fn who_takes_in_what_others_refuse_may_have_to_wait() {
        let (events, _told) = unbounded();
        let transfer = Transfer::new(None, 0, events, Tally::default(), None);
        let refusal = Refusal::new(Mechanism::DIRECT, "tired".to_owned());
        let refuge = || Queue::new(&transfer, &[], 1, 0, None).that_may_wait(false);
        let (pushed_before, pushed_after) = (refuge(), refuge());
        for (refuge, before) in [(&pushed_before, true), (&pushed_after, false)] {
            let queue = Queue::new(&transfer, &[], 1, 0, Some(refuge));
            // SAFETY: nobody reads it.
            let push = || unsafe { queue.push(piece(0, 0, 1)) };
            if before {
                push();
            }
            queue.surrender(&refusal);
            if !before {
                push();
            }
            assert_eq!((queue.waiting(), refuge.waiting()), (0, 1));
            assert!(refuge.may_wait());
        }
    }

    fn place(piece: &Piece) -> (usize, u64, usize) {
        (piece.file, piece.offset, piece.len)
    }

    proptest! {
        #[test]
        fn runs_go_on_where_they_are_and_lose_nothing(
            places in pieces(),
            most_bytes in 0..20_usize,
            readers in 1..4_usize,
            dropped in prop::collection::vec(any::<bool>(), 60),
        ) {
            let (events, _told) = unbounded();
            let transfer = Transfer::new(None, 0, events, Tally::default(), None);
            let queue = Queue::new(&transfer, &[], 1, 0, None);
            queue.expect_readers(readers);
            for &(file, offset, len) in &places {
                // SAFETY: nobody reads it.
                unsafe { queue.push(piece(file, offset, len)) };
            }
            let (mut taken, mut dropped) = (Vec::new(), dropped.into_iter());
            while let Some(mut run) = queue.take_run(most_bytes).expect("there is no pace") {
                let waiting = queue.waiting();
                let places: Vec<_> = run.pieces.iter().map(place).collect();
                for two in places.windows(2) {
                    let (file, offset, len) = two[0];
                    prop_assert_eq!((file, offset + len as u64), (two[1].0, two[1].1));
                }
                prop_assert!(places.len() == 1 || run.bytes() <= most_bytes as u64);
                let behind = places.len() - 1;
                prop_assert!(behind * readers <= waiting + behind);
                // Whether the rest of it is left, once its first task was taken.
                if dropped.next().unwrap_or_default() {
                    taken.extend(run.pieces.pop_front().as_ref().map(place));
                } else {
                    taken.extend(run.pieces.drain(..).map(|piece| place(&piece)));
                }
            }
            prop_assert_eq!(taken, places);
        }
    }

    #[test]
    fn surrender_waits_for_nobody_who_waits_for_work() {
        let _watchdog = Watchdog::over("a surrender");
        let (events, _told) = unbounded();
        let transfer = Transfer::new(None, 0, events, Tally::default(), None);
        let refuge = Queue::new(&transfer, &[], 1, 0, None);
        let queue = Queue::new(&transfer, &[], 1, 0, Some(&refuge));
        let refusal = Refusal::new(Mechanism::DIRECT, "tired".to_owned());
        thread::scope(|scope| {
            let waiter = scope.spawn(|| while queue.next().is_some() {});
            for _ in 0..20_000 {
                queue.surrender(&refusal);
            }
            transfer.stop();
            waiter.join()
        })
        .expect("waits in peace");
    }
}
