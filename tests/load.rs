//! Whole checkpoints into host memory.

#![cfg(feature = "safetensors")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod checkpoints;

use std::sync::Arc;

use checkpoints::Written;
use loader_core::Platform;
use loader_core::testing::{Fault, FaultyReader, Residency, TestSystem, Watchdog, platform};
use proptest::prelude::*;
use weightloader::{
    CancelToken, Error, Loader, Mechanism, Model, Operation, Placement, Strategy as Reading,
};

fn check(model: &Model, written: &Written) {
    assert_eq!(model.tensors().count(), written.tensors.len());
    for (name, bytes) in &written.tensors {
        let tensor = model.tensor(name).unwrap();
        assert!(tensor.bytes() == bytes, "{name}");
        assert_eq!(tensor.shape(), [bytes.len() as u64], "{name}");
        let (buffer, range) = model.place(name).unwrap();
        assert_eq!(range.len(), bytes.len(), "{name}");
        assert_eq!(buffer, tensor.info().file(), "{name}");
    }
}

fn lens() -> impl Strategy<Value = Vec<usize>> {
    let len = prop_oneof![
        1 => Just(0_usize),
        4 => 1_usize..300,
        3 => 1_usize..20_000,
        2 => 100_000_usize..900_000,
    ];
    prop::collection::vec(len, 0..12)
}

fn platforms() -> Vec<Platform> {
    let faulty = |mechanism, seed| {
        FaultyReader::new(mechanism, seed)
            .sometimes(0.1, Fault::Short(3000))
            .sometimes(0.1, Fault::Error(std::io::ErrorKind::Interrupted))
            .holding(3)
    };
    vec![
        weightloader::platform().clone(),
        Platform::portable(),
        Platform {
            direct: Ok(Arc::new(faulty(Mechanism::DIRECT, 1))),
            buffered: Arc::new(faulty(Mechanism::BUFFERED, 2)),
            ..platform(Residency::Alternating(96 << 10))
        },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_tensor_has_its_bytes(
        shards in prop::collection::vec(lens(), 1..4),
        which in 0_usize..3,
        power in prop::option::of(0_u32..13),
        chunk_bytes in 4096_u64..300_000,
    ) {
        let _watchdog = Watchdog::over("loading a checkpoint");
        // A shard without tensors is not in the index.
        let shards: Vec<_> = shards.into_iter().filter(|lens| !lens.is_empty()).collect();
        prop_assume!(!shards.is_empty());
        let written = match shards.as_slice() {
            [only] => Written::single(only),
            several => Written::sharded(several),
        };
        let placement = power.map_or(Placement::File, |power| Placement::Aligned(1 << power));
        let loader = Loader::builder()
            .platform(platforms().swap_remove(which))
            .placement(placement)
            .chunk_bytes(chunk_bytes)
            .build()
            .unwrap();
        let checkpoint = loader.open(&written.path).unwrap();
        let mut told = Vec::new();
        let operation = Operation::new().on_progress(|progress| told.push(progress));
        let model = loader.load(&checkpoint, operation).unwrap();
        check(&model, &written);
        prop_assert!(model.report().bytes >= written.bytes());
        let last = told.last().unwrap();
        prop_assert_eq!(last.bytes, last.total);
        if let Placement::Aligned(alignment) = placement {
            for (name, bytes) in &written.tensors {
                let (_, range) = model.place(name).unwrap();
                prop_assert!(bytes.is_empty() || range.start % alignment == 0, "{}", name);
                if alignment <= 4096 {
                    let address = model.tensor(name).unwrap().bytes().as_ptr().addr();
                    prop_assert!(bytes.is_empty() || address % alignment == 0, "{}", name);
                }
            }
        }
        // Handed over whole, the buffers hold the tensors where they were said to be.
        let places: Vec<_> = written.tensors.iter().map(|(name, _)| model.place(name).unwrap()).collect();
        let buffers = model.into_buffers();
        for ((_, bytes), (buffer, range)) in written.tensors.iter().zip(places) {
            prop_assert!(buffers[buffer][range] == bytes[..]);
        }
    }
}

#[test]
fn a_released_tensor_leaves_its_neighbours_alone() {
    let written = Written::single(&[100_001, 500_001, 7, 200_000]);
    let mut model = weightloader::load(&written.path).unwrap();
    let (released, _) = written.tensors[1].clone();
    model.release(&released).unwrap();
    for (name, bytes) in &written.tensors {
        if *name != released {
            assert!(model.tensor(name).unwrap().bytes() == bytes, "{name}");
        }
    }
    let released = model.release("no such tensor");
    assert!(matches!(released, Err(Error::NoSuchTensor { .. })));
}

#[test]
fn a_selection_loads_what_it_names() {
    let written = Written::single(&[2_000_000, 1000, 3_000_000, 5000, 1_000_000]);
    let direct = Arc::new(FaultyReader::new(Mechanism::DIRECT, 0));
    let buffered = Arc::new(FaultyReader::new(Mechanism::BUFFERED, 0));
    let platform = Platform {
        direct: Ok(direct.clone()),
        buffered: buffered.clone(),
        ..platform(Residency::None)
    };
    let loader = Loader::builder().platform(platform).build().unwrap();
    let all = loader.open(&written.path).unwrap();
    let chosen = all.select(|tensor| tensor.bytes() < 10_000);
    let model = loader.load(&chosen, Operation::new()).unwrap();
    let names: Vec<_> = model.tensors().map(|tensor| tensor.name()).collect();
    assert_eq!(names, ["shard0.tensor1", "shard0.tensor3"]);
    assert!(model.tensor(names[0]).unwrap().bytes() == written.tensors[1].1);
    assert!(model.tensor(names[1]).unwrap().bytes() == written.tensors[3].1);
    let reads = [direct.reads(), buffered.reads()].concat();
    let read: u64 = reads.iter().map(|range| range.end - range.start).sum();
    assert!(read < 30_000, "{read} bytes were read for 6000");
    let missing = model.tensor("shard0.tensor0");
    assert!(
        matches!(missing, Err(Error::NoSuchTensor { .. })),
        "{missing:?}"
    );
}

#[test]
fn a_model_that_cannot_fit_is_an_error_before_anything_is_read() {
    // Large enough that it pays to ask what memory there is.
    let written = Written::single(&[20_000_000]);
    for (available, fits) in [(0, false), (19_999_999, false), (21_000_000, true)] {
        let direct = Arc::new(FaultyReader::new(Mechanism::DIRECT, 0));
        let system = TestSystem::new(Residency::None).with_available_memory(available);
        let platform = Platform {
            direct: Ok(direct.clone()),
            system: Arc::new(system),
            ..platform(Residency::None)
        };
        let loader = Loader::builder().platform(platform).build().unwrap();
        let checkpoint = loader.open(&written.path).unwrap();
        match loader.load(&checkpoint, Operation::new()) {
            Ok(_) => assert!(fits),
            Err(Error::OutOfMemory {
                needed,
                available: told,
                ..
            }) => {
                assert!(!fits && needed >= 20_000_000, "{needed}");
                assert_eq!(told, available);
                assert_eq!(direct.reads(), []);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_cancelled_load_and_a_failed_one_give_no_model() {
    let written = Written::single(&[3_000_000]);
    let token = CancelToken::new();
    token.cancel();
    let loader = Loader::new().unwrap();
    let checkpoint = loader.open(&written.path).unwrap();
    let outcome = loader.load(&checkpoint, Operation::new().cancel(&token));
    assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");

    let faulty = FaultyReader::new(Mechanism::BUFFERED, 0).always_at(1 << 20, Fault::OsError(5));
    let platform = Platform {
        buffered: Arc::new(faulty),
        ..platform(Residency::All)
    };
    let builder = Loader::builder().platform(platform);
    let loader = builder.strategy(Reading::Buffered).build().unwrap();
    match loader.load(&checkpoint, Operation::new()) {
        Err(Error::Read { path, .. }) => assert_eq!(path, written.path),
        other => panic!("expected a failed read, got {other:?}"),
    }
}
