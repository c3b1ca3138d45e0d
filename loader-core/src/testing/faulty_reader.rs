//! A reader that misbehaves as a test tells it to.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::transfer::locked;
use crate::{Mechanism, Queue, Reader, Refusal, Support, Task, WeightFile};

/// What befalls a read.
#[derive(Clone)]
#[non_exhaustive]
pub enum Fault {
    /// It brings so many bytes at most (at least one).
    Short(usize),
    /// It fails with an error of this kind.
    Error(io::ErrorKind),
    /// It fails with this error of the operating system.
    OsError(i32),
    /// The reader cannot serve it, though another may.
    Refuse,
    /// It takes this long.
    Delay(Duration),
    /// Something happens just before it.
    Call(Arc<dyn Fn() + Send + Sync>),
    /// The reader forgets it.
    Drop,
    /// The reader panics while it holds it.
    Panic,
}

impl Fault {
    /// Something that happens just before a read.
    pub fn call(event: impl Fn() + Send + Sync + 'static) -> Self {
        Self::Call(Arc::new(event))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(bytes) => write!(f, "Short({bytes})"),
            Self::Error(kind) => write!(f, "Error({kind})"),
            Self::OsError(code) => write!(f, "OsError({code})"),
            Self::Refuse => f.write_str("Refuse"),
            Self::Delay(time) => write!(f, "Delay({time:?})"),
            Self::Call(_) => f.write_str("Call"),
            Self::Drop => f.write_str("Drop"),
            Self::Panic => f.write_str("Panic"),
        }
    }
}

/// Positional reads to which faults happen by rules that a test sets.
///
/// The first rule that applies to a read decides; a read to which none applies succeeds.
///
/// ```
/// use loader_core::Mechanism;
/// use loader_core::testing::{Fault, FaultyReader};
/// use std::io::ErrorKind;
/// let reader = FaultyReader::new(Mechanism::DIRECT, 7)
///     .once_at(4096, Fault::OsError(5))
///     .sometimes(0.1, Fault::Error(ErrorKind::Interrupted))
///     .always(Fault::Short(1000));
/// # drop(reader);
/// ```
#[derive(Debug)]
pub struct FaultyReader {
    mechanism: Mechanism,
    support: Result<Support, Refusal>,
    workers: usize,
    /// Tasks taken before the first of them is served.
    held: usize,
    refusal: Option<Refusal>,
    leaves_after: Option<(usize, Leave)>,
    state: Mutex<State>,
    running: AtomicUsize,
    most_running: AtomicUsize,
}

#[derive(Debug)]
struct State {
    rules: Vec<Rule>,
    dice: fastrand::Rng,
    reads: Vec<Range<u64>>,
}

#[derive(Debug)]
struct Rule {
    when: When,
    fault: Fault,
}

#[derive(Debug)]
enum When {
    /// Once, for the first read that holds the byte at this offset.
    Once(Option<u64>),
    /// For every read that holds the byte at this offset.
    At(u64),
    /// With this probability.
    Chance(f64),
}

/// How a reader leaves its work undone.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Return,
    Panic,
}

impl FaultyReader {
    /// A reader without faults, named `mechanism`; `seed` decides where faults happen that are left
    /// to chance.
    #[must_use]
    pub fn new(mechanism: Mechanism, seed: u64) -> Self {
        Self {
            mechanism,
            support: Ok(Support::any()),
            workers: 1,
            held: 1,
            refusal: None,
            leaves_after: None,
            state: Mutex::new(State {
                rules: Vec::new(),
                dice: fastrand::Rng::with_seed(seed),
                reads: Vec::new(),
            }),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
        }
    }

    /// The fault happens once, to the first read that holds the byte at `offset` of the file on
    /// disk.
    #[must_use]
    pub fn once_at(self, offset: u64, fault: Fault) -> Self {
        self.rule(When::Once(Some(offset)), fault)
    }

    /// The fault happens to every read that holds the byte at `offset` of the file on disk.
    #[must_use]
    pub fn always_at(self, offset: u64, fault: Fault) -> Self {
        self.rule(When::At(offset), fault)
    }

    /// The fault happens with this probability.
    #[must_use]
    pub fn sometimes(self, probability: f64, fault: Fault) -> Self {
        self.rule(When::Chance(probability), fault)
    }

    /// The fault happens to every read.
    #[must_use]
    pub fn always(self, fault: Fault) -> Self {
        self.sometimes(1.0, fault)
    }

    /// Says that it demands these alignments; it does not mind others.
    #[must_use]
    pub fn with_alignment(mut self, offset: u64, memory: usize) -> Self {
        self.support = Ok(Support::aligned(offset, memory));
        self
    }

    /// Says that it works but should rather not be used.
    #[must_use]
    pub fn discouraged(mut self, reason: &str) -> Self {
        let mut support = Support::any();
        support.discouraged = Some(reason.to_owned());
        self.support = Ok(support);
        self
    }

    /// Says that it cannot read any file.
    #[must_use]
    pub fn unsupported(mut self, reason: &str) -> Self {
        self.support = Err(Refusal::new(self.mechanism, reason));
        self
    }

    /// Wants to run on so many workers.
    #[must_use]
    pub fn on_workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Takes up to so many tasks before it serves the first of them, and serves them in random
    /// order.
    #[must_use]
    pub fn holding(mut self, tasks: usize) -> Self {
        self.held = tasks.max(1);
        self
    }

    /// Says that it supports files, but refuses to run.
    #[must_use]
    pub fn refusing_to_run(mut self, reason: &str) -> Self {
        self.refusal = Some(Refusal::new(self.mechanism, reason));
        self
    }

    /// Returns after so many tasks although there are more.
    #[must_use]
    pub fn returning_after(mut self, tasks: usize) -> Self {
        self.leaves_after = Some((tasks, Leave::Return));
        self
    }

    /// Panics after so many tasks, holding none.
    #[must_use]
    pub fn panicking_after(mut self, tasks: usize) -> Self {
        self.leaves_after = Some((tasks, Leave::Panic));
        self
    }

    /// Which bytes it was asked for, in bytes from the start of the file on disk, one range a read.
    #[must_use]
    pub fn reads(&self) -> Vec<Range<u64>> {
        locked(&self.state).reads.clone()
    }

    /// On how many workers at most it ran at once, of all operations together.
    #[must_use]
    pub fn most_running(&self) -> usize {
        self.most_running.load(Ordering::Acquire)
    }

    fn rule(self, when: When, fault: Fault) -> Self {
        locked(&self.state).rules.push(Rule { when, fault });
        self
    }

    fn serve(&self, task: Task<'_>) {
        match self.next_fault(&task) {
            None => self.read(task, usize::MAX),
            Some(Fault::Short(bytes)) => self.read(task, bytes.max(1)),
            Some(Fault::Error(kind)) => task.fail(kind.into()),
            Some(Fault::OsError(code)) => task.fail(io::Error::from_raw_os_error(code)),
            Some(Fault::Refuse) => task.refuse(self.mechanism, io::ErrorKind::InvalidInput.into()),
            Some(Fault::Delay(time)) => {
                thread::sleep(time);
                self.read(task, usize::MAX);
            }
            Some(Fault::Call(event)) => {
                event();
                self.read(task, usize::MAX);
            }
            Some(Fault::Drop) => drop(task),
            Some(Fault::Panic) => panic!("the reader panics, as the test wants it"),
        }
    }

    fn next_fault(&self, task: &Task<'_>) -> Option<Fault> {
        let span = task.offset()..task.offset() + task.len() as u64;
        let mut state = locked(&self.state);
        let State { rules, dice, .. } = &mut *state;
        rules.iter_mut().find_map(|rule| {
            let applies = match &mut rule.when {
                When::Once(offset) => offset.take_if(|offset| span.contains(offset)).is_some(),
                When::At(offset) => span.contains(offset),
                When::Chance(probability) => dice.f64() < *probability,
            };
            applies.then(|| rule.fault.clone())
        })
    }

    fn read(&self, task: Task<'_>, at_most: usize) {
        let len = task.len().min(at_most) as u64;
        let read = task.offset()..task.offset() + len;
        locked(&self.state).reads.push(read);
        task.read(self.mechanism, at_most);
    }

    /// Takes tasks, waiting for the first only.
    fn take<'q>(&self, queue: &'q Queue<'_>) -> Vec<Task<'q>> {
        let mut tasks: Vec<_> = queue.next().into_iter().collect();
        while !tasks.is_empty() && tasks.len() < self.held {
            match queue.try_next() {
                Some(task) => tasks.push(task),
                None => break,
            }
        }
        locked(&self.state).dice.shuffle(&mut tasks);
        tasks
    }
}

impl Reader for FaultyReader {
    fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    fn support(&self, _file: &WeightFile) -> Result<Support, Refusal> {
        self.support.clone()
    }

    fn workers(&self) -> usize {
        self.workers
    }

    fn run(&self, queue: &Queue<'_>) -> Result<(), Refusal> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let running = self.running.fetch_add(1, Ordering::AcqRel) + 1;
        self.most_running.fetch_max(running, Ordering::AcqRel);
        let _leave = Leaves(&self.running);
        let mut served = 0;
        loop {
            match self.leaves_after {
                Some((tasks, Leave::Return)) if served >= tasks => return Ok(()),
                Some((tasks, Leave::Panic)) if served >= tasks => {
                    panic!("the reader panics between tasks, as the test wants it")
                }
                _ => {}
            }
            let tasks = self.take(queue);
            if tasks.is_empty() {
                return Ok(());
            }
            served += tasks.len();
            for task in tasks {
                self.serve(task);
            }
        }
    }
}

struct Leaves<'a>(&'a AtomicUsize);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
