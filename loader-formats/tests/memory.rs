//! What headers can make their reader allocate, counted.

#![cfg(all(feature = "safetensors", feature = "gguf"))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use loader_core::WeightFile;
use loader_formats::Checkpoint;
use support::Gguf;

/// The system's allocator, keeping count.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

impl Counting {
    fn add(bytes: usize) {
        let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PEAK.fetch_max(now, Ordering::Relaxed);
    }

    fn remove(bytes: usize) {
        NOW.fetch_sub(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Self::remove(layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`, and `alloc` took it from there.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there while bytes are copied from the one to the other.
        Self::add(size);
        // SAFETY: the caller keeps the contract of `realloc`, and `alloc` took it from there.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        Self::remove(layout.size());
        moved
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMIT: usize = 32 << 20;

/// A file of these bytes, and then zeros, sparse, up to so many.
fn sparse(start: &[u8], len: usize) -> WeightFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(start).unwrap();
    file.as_file().set_len(len.max(start.len()) as u64).unwrap();
    WeightFile::from_file(File::open(file.path()).unwrap(), "file").unwrap()
}

/// The most that opening a file had allocated at a time, and whether it opened.
fn peak_of_opening(file: WeightFile) -> (usize, loader_core::Result<Checkpoint>) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let opened = Checkpoint::from_file(file);
    (PEAK.load(Ordering::Relaxed) - before, opened)
}

/// A header repeated from pieces to the default limit.
fn full(start: &str, end: &str, mut piece: impl FnMut(usize) -> String) -> String {
    let mut header = String::with_capacity(LIMIT);
    header.push_str(start);
    for number in 0.. {
        let next = piece(number);
        if header.len() + next.len() + end.len() > LIMIT {
            break;
        }
        header.push_str(&next);
    }
    header.push_str(end);
    header
}

/// One test, since allocations of tests that run beside it would be counted too.
#[test]
fn memory_is_bounded_by_bytes_that_are_there() {
    lies_cost_nothing();
    full_headers_cost_a_few_times_their_length();
}

fn lies_cost_nothing() {
    const HUGE: u64 = 1 << 60;
    let length = |length: usize| (length as u64).to_le_bytes();
    let counts = |keys, tensors| Gguf {
        key_count: keys,
        tensor_count: tensors,
        ..Gguf::new()
    };
    let string = |len: u64| Gguf::new().key(b"k", 8, &len.to_le_bytes());
    let array = |kind, len| Gguf::new().key(b"k", 9, &support::array(kind, len, &[]));
    let cases = [
        ("a header of nothing", [&length(LIMIT)[..], b"{"].concat()),
        (
            "a header longer than the limit",
            [&length(1 << 40)[..], b"{"].concat(),
        ),
        (
            "deep nesting",
            [
                &length(LIMIT)[..],
                b"{\"a\":{\"x\":",
                &b"[".repeat(LIMIT - 20),
            ]
            .concat(),
        ),
        ("many keys", counts(Some(HUGE), None).header()),
        ("many tensors", counts(None, Some(HUGE)).header()),
        ("a long string", string(HUGE).header()),
        ("a long array", array(4, HUGE).header()),
        (
            "as long an array of strings as there might be room for",
            array(8, 4 << 20).header(),
        ),
    ];
    for (name, start) in cases {
        let file = sparse(&start, 1 << 41);
        let (peak, opened) = peak_of_opening(file);
        assert!(opened.is_err() || name.contains("strings"), "{name}");
        assert!(peak < 1 << 20, "{name}: {peak} bytes");
    }
}

fn full_headers_cost_a_few_times_their_length() {
    let tensor = |number: usize| {
        let comma = if number == 0 { "" } else { "," };
        format!(r#"{comma}"{number:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#)
    };
    let many_tensors = full("{", "}", tensor);
    let metadata = full(r#"{"__metadata__":{"":"""#, "}}", |number| {
        format!(r#","{number:x}":"""#)
    });
    let long_metadata = full(r#"{"__metadata__":{"":""#, r#""}}"#, |_| {
        "x".repeat(1 << 16)
    });
    let skipped = full(r#"{"a":{"x":[1"#, "]}}", |_| ",[{}]".repeat(1 << 10));
    let long_name = full("{\"", "\":1}", |_| "\\n".repeat(1 << 15));
    let safetensors = [many_tensors, metadata, long_metadata, long_name, skipped];

    let mut gguf = Gguf::new();
    while gguf.tensors.len() < 1_150_000 {
        let mut name = String::new();
        write!(name, "{:x}", gguf.tensors.len()).unwrap();
        gguf = gguf.tensor(name.as_bytes(), &[], 24, 0);
    }
    let long_string = Gguf::new().key(b"k", 8, &support::text(&vec![b'x'; LIMIT - 100]));

    // Tensors of zeros: nothing is wrong with any one of them.
    let zeros = Gguf {
        tensor_count: Some((LIMIT as u64 - 24) / 24),
        ..Gguf::new()
    };
    let (peak, opened) = peak_of_opening(sparse(&zeros.header(), 1 << 41));
    assert!(opened.is_err() && peak <= 6 * LIMIT, "zeros: {peak} bytes");

    let safetensors = safetensors
        .iter()
        .map(|header| support::safetensors(header, 0));
    let gguf = [gguf, long_string].map(|gguf| gguf.with_data(1));
    for bytes in safetensors.chain(gguf) {
        let name = String::from_utf8_lossy(&bytes[..40]).into_owned();
        let file = sparse(&bytes, 0);
        let len = bytes.len();
        drop(bytes);
        let (peak, opened) = peak_of_opening(file);
        println!(
            "{name:?}: {peak} bytes for {len}, {:?}",
            opened.as_ref().map(|c| c.tensors().len())
        );
        assert!(peak <= 6 * LIMIT, "{name:?}: {peak} bytes for {len}");
    }
}
