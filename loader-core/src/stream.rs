//! Streaming: pieces of files in order, as they land, in bounded memory of ours.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::feeder::{Events, FedChunks, Feed, Feeder};
use crate::new_thread::no_thread;
use crate::run::Ending;
use crate::transfer::{Event, locked};
use crate::turns::Turns;
use crate::{
    CancelToken, Copier, Error, HostBuffer, Layout, LoadOptions, Operation, OwnerProcess, Platform,
    Report, Result, WeightFile, new_thread,
};

/// One piece of a stream: a tensor's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct StreamItem {
    /// Which of the stream's files it is in.
    pub file: usize,
    /// Its bytes, from the start of the file on disk.
    pub range: Range<u64>,
}

/// Bytes that have landed, in memory that they share with their neighbours and keep alive.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"weights")?;
/// # use loader_core::{LoadOptions, Platform, Stream, StreamItem, WeightFile};
/// # let (platform, options) = (Platform::portable(), LoadOptions::default());
/// # let files = vec![WeightFile::open(&path)?];
/// let items = vec![StreamItem { file: 0, range: 0..7 }];
/// let mut stream = Stream::start(&platform, &options, files, items)?;
/// let (_, bytes) = stream.next().expect("there is one")?;
/// drop(stream);
/// let shared = bytes.clone(); // Nothing is copied.
/// assert_eq!((&bytes[..], shared.as_ptr()), (&b"weights"[..], bytes.as_ptr()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct StreamedBytes {
    slot: Arc<Slot>,
    range: Range<usize>,
}

/// Small items are read together, up to so many bytes.
const GROUP_BYTES: u64 = 8 << 20;

/// The first items that are read together, up to so many bytes: the consumer is waiting.
const FIRST_GROUP_BYTES: u64 = 1 << 20;

/// Bytes read ahead of the consumer, unless a memory limit or the memory that is left says less.
const AHEAD_BYTES: u64 = 128 << 20;

/// Pieces of files in the [order](crate::StreamOrder) that the options choose, read ahead in the
/// background.
///
/// What is read ahead and not yet taken is bounded by the least of
/// [`memory_limit`](LoadOptions::memory_limit), 128 MiB and a quarter of the memory that was available
/// at first; a longer item is read ahead alone. What was taken belongs to the taker, and its memory
/// is used again once dropped. Dropping the stream stops it without waiting; in a forked
/// child it gives an error.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("weights.bin");
/// # std::fs::write(&path, b"biasweights")?;
/// use loader_core::{LoadOptions, Platform, Stream, StreamItem, WeightFile};
/// let (platform, options) = (Platform::portable(), LoadOptions::default());
/// let files = vec![WeightFile::open(&path)?];
/// let items = vec![StreamItem { file: 0, range: 4..11 }, StreamItem { file: 0, range: 0..4 }];
/// let mut stream = Stream::start(&platform, &options, files, items)?;
/// let mut taken = Vec::new();
/// for item in stream.by_ref() {
///     let (index, bytes) = item?;
///     taken.push((index, bytes.to_vec()));
/// }
/// assert_eq!(taken, [(0, b"weights".to_vec()), (1, b"bias".to_vec())]);
/// assert!(stream.report().is_some()); // Everything was taken.
/// # Ok(())
/// # }
/// ```
pub struct Stream {
    ready: Receiver<Result<ReadyGroup>>,
    current: VecDeque<(usize, StreamedBytes)>,
    shared: Arc<Shared>,
    owner: OwnerProcess,
    /// Items not yet given.
    left: usize,
    over: bool,
}

struct ReadyGroup {
    /// What this group's bytes count against the read-ahead.
    bytes: u64,
    items: Vec<(usize, StreamedBytes)>,
}

/// What the consumer and the background thread share.
struct Shared {
    cancel: CancelToken,
    /// Bytes read ahead and not yet taken.
    ahead: AtomicU64,
    wake: Sender<Event>,
    report: Mutex<Option<Report>>,
}

/// Memory that a group lands in; goes back to the pool when the last of its bytes are dropped.
struct Slot {
    buffer: Option<HostBuffer>,
    home: Sender<HostBuffer>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // The pool may be gone with its stream; then the memory goes back to the system.
            let _ = self.home.send(buffer);
        }
    }
}

impl Slot {
    fn bytes(&self) -> &[u8] {
        self.buffer.as_deref().unwrap_or_default()
    }
}

impl Deref for StreamedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.slot.bytes()[self.range.clone()]
    }
}

impl fmt::Debug for StreamedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamedBytes({} bytes)", self.range.len())
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ahead = self.shared.ahead.load(Ordering::Acquire);
        f.debug_struct("Stream")
            .field("ahead", &ahead)
            .finish_non_exhaustive()
    }
}

impl Stream {
    /// Starts to read `items` of `files` in the background; gives each with its index in `items`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] where an item reaches outside its file; [`Error::InvalidOption`];
    /// [`Error::Unsupported`] where no thread can be started.
    pub fn start(
        platform: &Platform,
        options: &LoadOptions,
        files: Vec<WeightFile>,
        items: Vec<StreamItem>,
    ) -> Result<Self> {
        options.check()?;
        check_items(&files, &items)?;
        let left = items.len();
        let (ready_sender, ready) = unbounded();
        let events = unbounded();
        let shared = Arc::new(Shared {
            cancel: CancelToken::new(),
            ahead: AtomicU64::new(0),
            wake: events.0.clone(),
            report: Mutex::new(None),
        });
        let worker = Background {
            platform: platform.clone(),
            options: options.clone(),
            files,
            items,
            ready: ready_sender,
            shared: Arc::clone(&shared),
        };
        let span = tracing::debug_span!("stream", items = left);
        new_thread("weightloader-stream")
            .and_then(|thread| thread.spawn(move || span.in_scope(|| worker.run(events))))
            .map_err(no_thread)?;
        Ok(Self {
            ready,
            current: VecDeque::new(),
            shared,
            owner: OwnerProcess::current(),
            left,
            over: false,
        })
    }

    /// What happened, once the stream has given everything.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        if !self.owner.is_current() {
            return None;
        }
        locked(&self.shared.report).clone()
    }
}

impl Iterator for Stream {
    type Item = Result<(usize, StreamedBytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.current.pop_front() {
                self.left -= 1;
                return Some(Ok(item));
            }
            if self.over {
                return None;
            }
            if let Err(forked) = self.owner.check() {
                self.over = true;
                return Some(Err(forked));
            }
            match self.ready.recv() {
                Ok(Ok(group)) => {
                    self.shared.ahead.fetch_sub(group.bytes, Ordering::AcqRel);
                    let _ = self.shared.wake.send(Event::Room);
                    self.current = group.items.into();
                }
                Ok(Err(error)) => {
                    self.over = true;
                    return Some(Err(error));
                }
                // The background thread has gone, and with a panic if it left anything out.
                Err(_) => {
                    self.over = true;
                    if self.left > 0 {
                        let mechanism = crate::Mechanism::new("stream");
                        return Some(Err(Error::Abandoned { mechanism }));
                    }
                }
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Channels may be locked for ever in a forked child, where nobody listens either.
        if self.owner.is_current() {
            self.shared.cancel.cancel();
            let _ = self.shared.wake.send(Event::Room);
        } else {
            // Nor may the receiver's destructor run there.
            std::mem::forget(std::mem::replace(
                &mut self.ready,
                crossbeam::channel::never(),
            ));
        }
    }
}

/// Checks that every item lies in one of `files`.
pub(crate) fn check_items(files: &[WeightFile], items: &[StreamItem]) -> Result<()> {
    for item in items {
        let Some(file) = files.get(item.file) else {
            let (value, expected) = (item.file.to_string(), "the index of a file");
            return Err(Error::InvalidOption {
                option: "stream item",
                value,
                expected,
            });
        };
        if item.range.start > item.range.end || item.range.end > file.disk_len() {
            return Err(Error::OutOfBounds {
                path: file.path().to_path_buf(),
                offset: item.range.start,
                len: item.range.end.saturating_sub(item.range.start),
                file_len: file.disk_len(),
            });
        }
    }
    Ok(())
}

/// The thread behind a stream: owns all that reads refer to.
struct Background {
    platform: Platform,
    options: LoadOptions,
    files: Vec<WeightFile>,
    items: Vec<StreamItem>,
    ready: Sender<Result<ReadyGroup>>,
    shared: Arc<Shared>,
}

impl Background {
    fn run(self, events: Events) {
        let copier = Copier::new(&self.platform, &self.options);
        let wanted = wanted(&self.files, &self.items);
        // Where memory is short, some must be left for whoever takes the items.
        let spare = self.platform.system.available_memory();
        let limit = [self.options.memory_limit, spare.map(|spare| spare / 4)]
            .into_iter()
            .flatten()
            .fold(AHEAD_BYTES, u64::min);
        let (home, returned) = unbounded();
        let mut feeder = StreamFeeder {
            background: &self,
            copier,
            next: 0,
            limit,
            home,
            returned,
            pool: Vec::new(),
            turns: Turns::new(self.options.stream_order),
            landed_any: false,
        };
        let operation = Operation::new().cancel(&self.shared.cancel);
        // SAFETY: every group's memory is held by the group itself until its last piece has
        // landed, and by `landing` until then too; nobody else gets at it before.
        let outcome = unsafe { copier.feed(&wanted, events, &mut feeder, operation) };
        match outcome.and_then(Ending::complete) {
            Ok(report) => *locked(&self.shared.report) = Some(report),
            Err(error) => {
                // Nobody may be listening any more.
                let _ = self.ready.send(Err(error));
            }
        }
    }
}

/// Which bytes of each file a stream of `items` wants.
pub(crate) fn wanted(
    files: &[WeightFile],
    items: &[StreamItem],
) -> Vec<(WeightFile, Vec<Range<u64>>)> {
    let files = files.iter().cloned();
    let mut wanted: Vec<_> = files.map(|file| (file, Vec::new())).collect();
    for item in items {
        wanted[item.file].1.push(item.range.clone());
    }
    wanted
}

/// Feeds the copier with groups of items as the consumer makes room.
struct StreamFeeder<'b> {
    background: &'b Background,
    copier: Copier<'b>,
    /// The first item that is not in a group yet.
    next: usize,
    /// Bytes to read ahead at most.
    limit: u64,
    home: Sender<HostBuffer>,
    returned: Receiver<HostBuffer>,
    pool: Vec<HostBuffer>,
    /// Groups on their way to the consumer.
    turns: Turns<ReadyGroup>,
    /// Whether a group has landed. The first one has the device for itself, since reads that are in
    /// flight together share what it gives.
    landed_any: bool,
}

impl Feeder for StreamFeeder<'_> {
    fn next(&mut self) -> Result<Feed> {
        loop {
            let items = &self.background.items;
            if self.next == items.len() {
                return Ok(Feed::End);
            }
            let is_first = self.next == 0;
            if !is_first && !self.landed_any {
                return Ok(Feed::Later);
            }
            let usual = if is_first {
                FIRST_GROUP_BYTES
            } else {
                GROUP_BYTES
            };
            let end = group_end(items, self.next, self.limit.min(usual));
            let ranges: Vec<_> = items[self.next..end]
                .iter()
                .map(|item| item.range.clone())
                .collect();
            let file = items[self.next].file;
            let within = 0..self.background.files[file].disk_len();
            let layout = Layout::new(&sorted(&ranges), within, self.background.options.placement)?;
            let bytes = layout.len() as u64;
            let ahead = self.background.shared.ahead.load(Ordering::Acquire);
            if ahead > 0 && ahead.saturating_add(bytes) > self.limit {
                return Ok(Feed::Later);
            }
            if let Some(fed) = self.group(file, end, &ranges, &layout)? {
                return Ok(Feed::Chunks(fed));
            }
        }
    }

    fn landed(&mut self, group: usize) -> Result<()> {
        self.landed_any = true;
        self.turns.land(group);
        while let Some(ready) = self.turns.next() {
            if self.background.ready.send(Ok(ready)).is_err() {
                return Err(Error::Cancelled);
            }
        }
        Ok(())
    }
}

impl StreamFeeder<'_> {
    /// Makes the group of the items up to `end`; `None` where they have no bytes to be read.
    fn group(
        &mut self,
        file: usize,
        end: usize,
        ranges: &[Range<u64>],
        layout: &Layout,
    ) -> Result<Option<FedChunks>> {
        let buffer = self.take_buffer(layout.len())?;
        let start = buffer.start();
        let slot = Arc::new(Slot {
            buffer: Some(buffer),
            home: self.home.clone(),
        });
        let locate = |range: &Range<u64>| {
            let at = layout.locate(range).unwrap_or(0);
            at..at + usize::try_from(range.end - range.start).unwrap_or(0)
        };
        let bytes = |range| StreamedBytes {
            slot: Arc::clone(&slot),
            range: locate(range),
        };
        let items = (self.next..end).zip(ranges.iter().map(bytes)).collect();
        let plan = self.copier.plan(layout.extents(), layout.len())?;
        self.next = end;
        let ready = ReadyGroup {
            bytes: layout.len() as u64,
            items,
        };
        self.background
            .shared
            .ahead
            .fetch_add(ready.bytes, Ordering::AcqRel);
        let group = self.turns.begin(ready);
        if plan.chunks().is_empty() {
            self.landed(group)?;
            return Ok(None);
        }
        let chunks = plan.chunks().to_vec();
        Ok(Some(FedChunks {
            file,
            chunks,
            start,
            direct: true,
            group,
            memory: Some(slot),
        }))
    }

    /// Gives back what the limit leaves no room for beside what is read ahead.
    fn shrink_pool(&mut self) {
        let ahead = self.background.shared.ahead.load(Ordering::Acquire);
        let mut room = self.limit.saturating_sub(ahead);
        self.pool.retain(|buffer| {
            let kept = buffer.len() as u64 <= room;
            room -= if kept { buffer.len() as u64 } else { 0 };
            kept
        });
    }

    /// A buffer of at least `len` bytes: one that came back, or a fresh one.
    fn take_buffer(&mut self, len: usize) -> Result<HostBuffer> {
        self.pool.extend(self.returned.try_iter());
        self.shrink_pool();
        let fits = |buffer: &HostBuffer| {
            buffer.len() >= len && buffer.len() <= len.max(1).saturating_mul(2)
        };
        if let Some(index) = self.pool.iter().position(fits) {
            return Ok(self.pool.swap_remove(index));
        }
        let usual = usize::try_from(GROUP_BYTES).unwrap_or(len);
        let len = if len > usual / 2 && len < usual {
            usual
        } else {
            len
        };
        HostBuffer::zeroed(&*self.background.platform.memory, len)
    }
}

/// Where the group that begins at item `start` ends: items of one file, in order and near each
/// other, up to `most` bytes; always at least one.
fn group_end(items: &[StreamItem], start: usize, most: u64) -> usize {
    let first = &items[start];
    let mut end = start + 1;
    while let Some(item) = items.get(end) {
        let previous = &items[end - 1];
        let follows = item.file == first.file && item.range.start >= previous.range.end;
        let near = item.range.end.saturating_sub(first.range.start) <= most;
        if !(follows && near) {
            break;
        }
        end += 1;
    }
    end
}

fn sorted(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.start);
    sorted
}
