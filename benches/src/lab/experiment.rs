//! What is varied, one thing at a time.

use std::fmt;

use clap::ValueEnum;

use super::memory::Faults;
use super::trial::{Ask, Reads, RingKind, Runs, Trial};

/// What is varied.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Experiment {
    /// Cold, direct: bytes of one read, with as many bytes in flight
    Chunk,
    /// Cold, direct: bytes in flight
    Depth,
    /// Cold, direct: 4 KiB and huge pages, and who faults them in
    Faults,
    /// Cold, direct: how the ring is set up, how many there are, and who submits
    Ring,
    /// Cold, through the page cache: threads
    Threads,
    /// Cold, through the page cache, 8 threads: how far each reads on, and how a run begins
    Runs,
    /// Warm: threads, chunks, and who faults the destination in
    Warm,
    /// Warm: just reading, asking for residency first, or trying without waiting first
    Ask,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum State {
    Cold,
    Warm,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// What the library does, before anything is varied.
const DIRECT: Trial = Trial {
    reads: direct(32, 1, RingKind::DeferTaskrun, false),
    chunk: 2 * MIB,
    huge_pages: true,
    faults: Faults::Ahead(1),
};

const BUFFERED: Trial = Trial {
    reads: buffered(2, Ask::Nothing),
    chunk: 2 * MIB,
    huge_pages: true,
    faults: Faults::AtFirstWrite,
};

const fn direct(depth: usize, rings: usize, ring: RingKind, kernel_workers: bool) -> Reads {
    Reads::Direct {
        depth,
        rings,
        ring,
        kernel_workers,
    }
}

const fn buffered(threads: usize, ask: Ask) -> Reads {
    let runs = Runs::NONE;
    Reads::Buffered { threads, ask, runs }
}

impl Experiment {
    pub(crate) const ALL: [Self; 8] = [
        Self::Chunk,
        Self::Depth,
        Self::Faults,
        Self::Ring,
        Self::Threads,
        Self::Runs,
        Self::Warm,
        Self::Ask,
    ];

    pub(crate) fn state(self) -> State {
        match self {
            Self::Warm | Self::Ask => State::Warm,
            _ => State::Cold,
        }
    }

    pub(crate) fn trials(self) -> Vec<(String, Trial)> {
        match self {
            Self::Chunk => [
                128 * KIB,
                256 * KIB,
                512 * KIB,
                MIB,
                2 * MIB,
                4 * MIB,
                8 * MIB,
            ]
            .map(|chunk| {
                let reads = direct(64 * MIB / chunk, 1, RingKind::DeferTaskrun, false);
                let name = format!("{} KiB x {}", chunk / KIB, 64 * MIB / chunk);
                (
                    name,
                    Trial {
                        reads,
                        chunk,
                        ..DIRECT
                    },
                )
            })
            .into(),
            Self::Depth => [2, 4, 8, 16, 32, 64, 128]
                .map(|depth| {
                    let reads = direct(depth, 1, RingKind::DeferTaskrun, false);
                    (format!("2 MiB x {depth}"), Trial { reads, ..DIRECT })
                })
                .into(),
            Self::Faults => [
                (
                    "4 KiB pages, by the submission",
                    false,
                    Faults::AtFirstWrite,
                ),
                ("4 KiB pages, one thread ahead", false, Faults::Ahead(1)),
                ("huge pages, by the submission", true, Faults::AtFirstWrite),
                (
                    "huge pages, by the submitter, before each read",
                    true,
                    Faults::BeforeEachRead,
                ),
                ("huge pages, one thread ahead", true, Faults::Ahead(1)),
                ("huge pages, two threads ahead", true, Faults::Ahead(2)),
                (
                    "huge pages, two threads, all before",
                    true,
                    Faults::Beforehand(2),
                ),
                (
                    "huge pages, 64 MiB used again and again",
                    true,
                    Faults::Reused,
                ),
            ]
            .map(|(name, huge_pages, faults)| {
                (
                    name.to_owned(),
                    Trial {
                        huge_pages,
                        faults,
                        ..DIRECT
                    },
                )
            })
            .into(),
            Self::Ring => [
                ("one plain ring", direct(32, 1, RingKind::Plain, false)),
                (
                    "cooperative task run",
                    direct(32, 1, RingKind::CooperativeTaskrun, false),
                ),
                (
                    "single issuer",
                    direct(32, 1, RingKind::SingleIssuer, false),
                ),
                (
                    "single issuer, deferred task run",
                    direct(32, 1, RingKind::DeferTaskrun, false),
                ),
                (
                    "the same, IOSQE_ASYNC",
                    direct(32, 1, RingKind::DeferTaskrun, true),
                ),
                (
                    "two rings on two threads",
                    direct(32, 2, RingKind::DeferTaskrun, false),
                ),
                (
                    "four rings on four threads",
                    direct(32, 4, RingKind::DeferTaskrun, false),
                ),
            ]
            .map(|(name, reads)| (name.to_owned(), Trial { reads, ..DIRECT }))
            .into(),
            Self::Threads => [1, 2, 4, 8, 16]
                .map(|threads| {
                    let reads = buffered(threads, Ask::Nothing);
                    (format!("{threads} threads"), Trial { reads, ..BUFFERED })
                })
                .into(),
            Self::Runs => [
                (2, usize::MAX, "2 MiB"),
                (8, usize::MAX, "8 MiB"),
                (32, usize::MAX, "32 MiB"),
                (64, usize::MAX, "64 MiB"),
                (8, 128 * KIB, "8 MiB in reads of 128 KiB"),
                (32, 128 * KIB, "32 MiB, begun in reads of 128 KiB"),
                (64, 128 * KIB, "64 MiB, begun in reads of 128 KiB"),
                (256, 128 * KIB, "256 MiB, begun in reads of 128 KiB"),
            ]
            .map(|(mebibytes, first_reads, name)| {
                let reads = Reads::Buffered {
                    threads: 8,
                    ask: Ask::Nothing,
                    runs: Runs {
                        chunks: mebibytes / 2,
                        first_reads,
                    },
                };
                (name.to_owned(), Trial { reads, ..BUFFERED })
            })
            .into(),
            Self::Warm => [
                (1, 2 * MIB, Faults::AtFirstWrite, "by the copy"),
                (2, 2 * MIB, Faults::AtFirstWrite, "by the copy"),
                (4, 2 * MIB, Faults::AtFirstWrite, "by the copy"),
                (2, 2 * MIB, Faults::BeforeEachRead, "before each read"),
                (2, 2 * MIB, Faults::Beforehand(2), "all before"),
                (2, 2 * MIB, Faults::Reused, "once, used again and again"),
                (2, 256 * KIB, Faults::AtFirstWrite, "by the copy"),
                (2, 8 * MIB, Faults::BeforeEachRead, "before each read"),
            ]
            .map(|(threads, chunk, faults, when)| {
                let reads = buffered(threads, Ask::Nothing);
                let name = format!("{threads} threads, {} KiB, faults {when}", chunk / KIB);
                (
                    name,
                    Trial {
                        reads,
                        chunk,
                        faults,
                        ..BUFFERED
                    },
                )
            })
            .into(),
            Self::Ask => [
                ("just reading", Ask::Nothing),
                ("residency of all first", Ask::Residency),
                ("residency of each chunk first", Ask::ResidencyOfEach),
                ("RWF_NOWAIT first", Ask::Nowait),
            ]
            .map(|(name, ask)| {
                let reads = buffered(2, ask);
                (name.to_owned(), Trial { reads, ..BUFFERED })
            })
            .into(),
        }
    }
}

impl fmt::Display for Experiment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        let (name, help) = value
            .as_ref()
            .map_or(("", None), |value| (value.get_name(), value.get_help()));
        match help {
            Some(help) => write!(formatter, "{name}: {help}"),
            None => formatter.write_str(name),
        }
    }
}
