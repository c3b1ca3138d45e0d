//! Streaming through memory of the caller's: parts of files in order, in slots that are given back.

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::feeder::{Events, FedChunks, Feed, Feeder};
use crate::new_thread::no_thread;
use crate::run::Ending;
use crate::stream::{check_items, wanted};
use crate::transfer::{Event, locked};
use crate::turns::Turns;
use crate::{
    CancelToken, Copier, Error, Extent, LoadOptions, Mechanism, Operation, OwnerProcess, Platform,
    Report, Result, StreamItem, WeightFile, new_thread,
};

/// A part keeps its place within a block of so many bytes between file and slot, so that direct
/// reads can go straight into slots that begin at multiples of it.
const BLOCK: usize = 4096;

/// Memory of the caller's that a [`SlotStream`] fills again and again.
#[derive(Debug)]
pub struct StreamSlot {
    start: NonNull<u8>,
    len: usize,
    direct: bool,
}

// SAFETY: a slot is the right to write to plain bytes, whose owner has lent them out for the life
// of a stream (`SlotStream::start`); any thread may use it.
unsafe impl Send for StreamSlot {}

impl StreamSlot {
    /// A slot of `len` bytes; `direct` tells whether the system may move bytes into it by direct
    /// I/O, which needs no copy where `start` is a multiple of 4096.
    #[must_use]
    pub fn new(start: NonNull<u8>, len: usize, direct: bool) -> Self {
        Self { start, len, direct }
    }
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilledSlot {
    /// Which of the stream's slots.
    pub slot: usize,
    /// Where in the slot the bytes begin.
    pub slot_offset: usize,
    /// How many bytes.
    pub len: usize,
    /// Which of the stream's items they are of.
    pub item: usize,
    /// Where in the item they begin, in bytes.
    pub item_offset: u64,
}

/// Items of files, in the [order](crate::StreamOrder) that the options choose, through slots of the
/// caller's: for those who copy on to a device from a few pinned buffers.
///
/// Items longer than a slot come in parts; those without bytes do not come at all. A slot is the
/// caller's from [`next`](Self::next) until [`release`](Self::release), in whatever order; the
/// others are filled meanwhile, as long as the caller leaves any. All methods take `&self` and may
/// be called from several threads.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("weights.bin");
/// # std::fs::write(&path, vec![7; 20_000])?;
/// use std::ptr::NonNull;
/// use loader_core::{LoadOptions, Platform, SlotStream, StreamItem, StreamSlot, WeightFile};
/// let (platform, options) = (Platform::portable(), LoadOptions::default());
/// let files = vec![WeightFile::open(&path)?];
/// let items = vec![StreamItem { file: 0, range: 0..20_000 }];
/// let mut staging = vec![0; 16_384];
/// let start = NonNull::from(staging.as_mut_slice()).cast::<u8>();
/// let slots = (0..2).map(|slot| {
///     // SAFETY: both halves lie within the memory.
///     let half = unsafe { start.add(slot * 8192) };
///     StreamSlot::new(half, 8192, true)
/// });
/// // SAFETY: the memory outlives the stream, and is read only between `next` and `release`.
/// let stream = unsafe { SlotStream::start(&platform, &options, files, items, slots.collect()) }?;
/// let mut copied = 0;
/// while let Some(filled) = stream.next()? {
///     copied += filled.len; // Here a device would copy from the slot.
///     stream.release(filled.slot)?;
/// }
/// assert_eq!(copied, 20_000);
/// # drop(stream);
/// # Ok(())
/// # }
/// ```
///
/// Dropping the stream stops it and waits until nothing is written to its slots any more. In a
/// forked child its methods give an error.
pub struct SlotStream {
    ready: Receiver<Result<FilledSlot>>,
    shared: Arc<Shared>,
    background: Mutex<Option<JoinHandle<()>>>,
    owner: OwnerProcess,
}

/// What the callers and the background thread share.
struct Shared {
    cancel: CancelToken,
    slots: Mutex<Vec<Holder>>,
    wake: Sender<Event>,
    /// Whether every part was sent.
    complete: AtomicBool,
    /// Whether an error was given that stopped it.
    failed: AtomicBool,
    report: Mutex<Option<Report>>,
}

/// Who has a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Nobody,
    /// The stream: bytes are on their way into it, or wait in it for the caller.
    Stream,
    Caller,
}

impl fmt::Debug for SlotStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotStream")
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl SlotStream {
    /// Starts to read `items` of `files` into `slots` in the background. Slots may differ in length;
    /// each needs 4096 bytes at least.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] where an item reaches outside its file; [`Error::InvalidOption`] for
    /// options that make no sense, for slots that are too short, that overlap, or that are none;
    /// [`Error::Unsupported`] where no thread can be started.
    ///
    /// # Safety
    /// The memory of each slot is valid for writes until the stream has been dropped, and until
    /// then nobody else touches it, except from when [`next`](Self::next) has given it until
    /// [`release`](Self::release) is called for it.
    pub unsafe fn start(
        platform: &Platform,
        options: &LoadOptions,
        files: Vec<WeightFile>,
        items: Vec<StreamItem>,
        slots: Vec<StreamSlot>,
    ) -> Result<Self> {
        options.check()?;
        check_items(&files, &items)?;
        check_slots(&slots)?;
        let (ready_sender, ready) = unbounded();
        let events = unbounded();
        let shared = Arc::new(Shared {
            cancel: CancelToken::new(),
            slots: Mutex::new(vec![Holder::Nobody; slots.len()]),
            wake: events.0.clone(),
            complete: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            report: Mutex::new(None),
        });
        let worker = Background {
            platform: platform.clone(),
            options: options.clone(),
            files,
            items,
            slots,
            ready: ready_sender,
            shared: Arc::clone(&shared),
        };
        let (items, slots) = (worker.items.len(), worker.slots.len());
        let span = tracing::debug_span!("stream", items, slots);
        let background = new_thread("weightloader-slots")
            .and_then(|thread| thread.spawn(move || span.in_scope(|| worker.run(events))))
            .map_err(no_thread)?;
        Ok(Self {
            ready,
            shared,
            background: Mutex::new(Some(background)),
            owner: OwnerProcess::current(),
        })
    }

    /// The next part, which is the caller's until it is released; waits for it, and for a slot to
    /// be released where the caller has all. `None` once everything was given.
    ///
    /// # Errors
    /// The first error of any read, with its file and offset; from then on, and once the stream was
    /// stopped, [`Error::Cancelled`]. [`Error::Forked`].
    pub fn next(&self) -> Result<Option<FilledSlot>> {
        self.owner.check()?;
        let Shared {
            cancel,
            slots,
            complete,
            failed,
            ..
        } = &*self.shared;
        match self.ready.recv() {
            Ok(_) if cancel.is_cancelled() => Err(Error::Cancelled),
            Ok(Ok(filled)) => {
                locked(slots)[filled.slot] = Holder::Caller;
                Ok(Some(filled))
            }
            Ok(Err(error)) => Err(error),
            Err(_) if cancel.is_cancelled() || failed.load(Ordering::Acquire) => {
                Err(Error::Cancelled)
            }
            Err(_) if complete.load(Ordering::Acquire) => Ok(None),
            // The background thread has gone with a panic.
            Err(_) => Err(Error::Abandoned {
                mechanism: Mechanism::new("stream"),
            }),
        }
    }

    /// Gives a slot back to be filled again.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where the caller does not have it, [`Error::Forked`].
    pub fn release(&self, slot: usize) -> Result<()> {
        self.owner.check()?;
        match locked(&self.shared.slots).get_mut(slot) {
            Some(holder) if *holder == Holder::Caller => *holder = Holder::Nobody,
            _ => {
                return Err(Error::InvalidOption {
                    option: "slot",
                    value: slot.to_string(),
                    expected: "a slot that the stream gave and that was not released since",
                });
            }
        }
        let _ = self.shared.wake.send(Event::Room);
        Ok(())
    }

    /// Stops the stream without waiting. What was given stays the caller's until it is released or
    /// the stream is dropped.
    pub fn cancel(&self) {
        self.shared.cancel.cancel();
        if self.owner.is_current() {
            let _ = self.shared.wake.send(Event::Room);
        }
    }

    /// Stops the stream, and waits until nothing is written to its slots any more: what dropping it
    /// does, for those who share it.
    pub fn stop(&self) {
        self.cancel();
        if self.owner.is_current() {
            self.wait_for_background();
        }
    }

    fn wait_for_background(&self) {
        // Whoever comes second waits for the lock, and so for the thread too.
        if let Some(background) = locked(&self.background).take() {
            // A panic in it is told by `next`.
            let _ = background.join();
        }
    }

    /// What happened, once the stream has given everything. Of one that failed or was stopped, what
    /// happened until then: waits until nothing is written to its slots any more.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        if !self.owner.is_current() {
            return None;
        }
        let Shared { cancel, failed, .. } = &*self.shared;
        if cancel.is_cancelled() || failed.load(Ordering::Acquire) {
            self.wait_for_background();
        }
        locked(&self.shared.report).clone()
    }
}

impl Drop for SlotStream {
    fn drop(&mut self) {
        self.stop();
        if !self.owner.is_current() {
            // Channels may be locked for ever in a forked child, and the thread is not there.
            let ready = std::mem::replace(&mut self.ready, crossbeam::channel::never());
            std::mem::forget(ready);
            std::mem::forget(std::mem::take(&mut self.background));
        }
    }
}

fn check_slots(slots: &[StreamSlot]) -> Result<()> {
    let invalid = |value: String, expected| {
        Err(Error::InvalidOption {
            option: "slots",
            value,
            expected,
        })
    };
    if slots.is_empty() {
        return invalid("none".to_owned(), "at least one");
    }
    if let Some(short) = slots.iter().find(|slot| slot.len < BLOCK) {
        return invalid(format!("{} bytes", short.len), "at least 4096 bytes each");
    }
    let mut spans: Vec<_> = slots
        .iter()
        .map(|slot| (slot.start.addr().get(), slot.len))
        .collect();
    spans.sort_unstable();
    match spans
        .windows(2)
        .find(|pair| pair[1].0 - pair[0].0 < pair[0].1)
    {
        Some(pair) => invalid(
            format!("{:#x} and {:#x}", pair[0].0, pair[1].0),
            "slots apart",
        ),
        None => Ok(()),
    }
}

/// The thread behind a stream.
struct Background {
    platform: Platform,
    options: LoadOptions,
    files: Vec<WeightFile>,
    items: Vec<StreamItem>,
    slots: Vec<StreamSlot>,
    ready: Sender<Result<FilledSlot>>,
    shared: Arc<Shared>,
}

impl Background {
    fn run(self, events: Events) {
        let copier = Copier::new(&self.platform, &self.options);
        let wanted = wanted(&self.files, &self.items);
        let mut feeder = SlotFeeder {
            background: &self,
            copier,
            item: 0,
            item_offset: 0,
            turns: Turns::new(self.options.stream_order),
        };
        let operation = Operation::new().cancel(&self.shared.cancel);
        // SAFETY: the memory of each slot is valid for as long as the stream lives (the promise of
        // `SlotStream::start`), whose end waits for this thread; a slot is used for one part at a
        // time, and by the caller only between landing and release.
        let outcome = unsafe { copier.feed(&wanted, events, &mut feeder, operation) };
        let Ending { report, error } = outcome.unwrap_or_else(Ending::at_once);
        *locked(&self.shared.report) = Some(report);
        match error {
            None => self.shared.complete.store(true, Ordering::Release),
            Some(error) => {
                // Before the error goes to whoever comes first, so that others know why there is no
                // more. Nobody may be listening any more.
                self.shared.failed.store(true, Ordering::Release);
                let _ = self.ready.send(Err(error));
            }
        }
    }
}

/// Feeds the copier with parts that fit a slot, as slots come free.
struct SlotFeeder<'b> {
    background: &'b Background,
    copier: Copier<'b>,
    /// The item that the next part is of, and where in it the part begins.
    item: usize,
    item_offset: u64,
    /// Parts on their way to the caller.
    turns: Turns<FilledSlot>,
}

impl Feeder for SlotFeeder<'_> {
    fn next(&mut self) -> Result<Feed> {
        let items = &self.background.items;
        while items
            .get(self.item)
            .is_some_and(|item| item.range.is_empty())
        {
            self.item += 1;
        }
        let Some(item) = items.get(self.item) else {
            return Ok(Feed::End);
        };
        let Some(slot) = self.take_slot() else {
            return Ok(Feed::Later);
        };
        let StreamSlot { start, len, direct } = self.background.slots[slot];
        let offset = item.range.start + self.item_offset;
        // Less than a block, and the slot has at least one.
        let slot_offset = usize::try_from(offset % BLOCK as u64).unwrap_or(0);
        // Ends where a block does, so that the next part needs no bounce at its head.
        let room = len - len % BLOCK - slot_offset;
        let left = item.range.end - offset;
        let len = usize::try_from(left).map_or(room, |left| left.min(room));
        let filled = FilledSlot {
            slot,
            slot_offset,
            len,
            item: self.item,
            item_offset: self.item_offset,
        };
        let extent = Extent {
            offset,
            len: len as u64,
            destination: slot_offset,
        };
        let plan = self.copier.plan(&[extent], slot_offset + len)?;
        let file = item.file;
        if len as u64 == left {
            self.item += 1;
            self.item_offset = 0;
        } else {
            self.item_offset += len as u64;
        }
        let group = self.turns.begin(filled);
        Ok(Feed::Chunks(FedChunks {
            file,
            chunks: plan.chunks().to_vec(),
            start,
            direct,
            group,
            memory: None,
        }))
    }

    fn landed(&mut self, group: usize) -> Result<()> {
        self.turns.land(group);
        while let Some(filled) = self.turns.next() {
            if self.background.ready.send(Ok(filled)).is_err() {
                return Err(Error::Cancelled);
            }
        }
        Ok(())
    }
}

impl SlotFeeder<'_> {
    fn take_slot(&self) -> Option<usize> {
        let mut slots = locked(&self.background.shared.slots);
        let free = slots.iter().position(|holder| *holder == Holder::Nobody)?;
        slots[free] = Holder::Stream;
        Some(free)
    }
}
