//! Weights in Metal buffers, read back and compared.
#![cfg(all(target_vendor = "apple", feature = "metal"))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use loader_core::testing::{Watchdog, bytes};
use loader_core::{
    CancelToken, Copier, Error, HostBuffer, Landing, Layout, LoadOptions, Operation, Placement,
    Report, Result, Uploader, WeightFile,
};
use loader_macos::metal::objc2_metal::{
    MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandEncoder, MTLCommandQueue,
    MTLDevice, MTLResourceOptions,
};
use loader_macos::metal::{BufferSlice, Imported, MetalUploader, Way};

/// Lengths that are no multiples of a word, of a block, of a page, of a slot.
const LENS: [usize; 6] = [0, 1, 4097, 100_003, 1 << 20, (5 << 20) + 7];

const WAYS: [Way; 4] = [Way::Auto, Way::Import, Way::InPlace, Way::Staged];

/// Files of random bytes.
struct Files {
    _folder: tempfile::TempDir,
    files: Vec<WeightFile>,
    contents: Vec<Vec<u8>>,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let contents: Vec<Vec<u8>> = (1_u64..)
            .zip(LENS)
            .map(|(seed, len)| bytes(len, seed))
            .collect();
        let write = |(index, contents): (usize, &Vec<u8>)| {
            let path = folder.path().join(format!("weights{index}"));
            std::fs::write(&path, contents).unwrap();
            WeightFile::open(path).unwrap()
        };
        let files = contents.iter().enumerate().map(write).collect();
        Self {
            _folder: folder,
            files,
            contents,
        }
    }

    fn upload(&self, uploader: &mut MetalUploader, operation: Operation<'_>) -> Result<Report> {
        let lay_out = |file: &WeightFile| {
            let whole = 0..file.len();
            let ranges: Vec<_> = std::iter::once(whole.clone()).collect();
            Layout::new(&ranges, whole, Placement::File)
        };
        let layouts: Vec<Layout> = self.files.iter().map(lay_out).collect::<Result<_>>()?;
        let platform = loader_macos::platform();
        let options = LoadOptions::default();
        let copier = Copier::new(&platform, &options);
        loader_core::upload(
            &platform,
            &copier,
            &self.files,
            &layouts,
            uploader,
            operation,
        )
    }

    fn check(&self, uploader: &MetalUploader) {
        assert_eq!(uploader.buffers().len(), self.contents.len());
        for (slice, contents) in uploader.buffers().iter().zip(&self.contents) {
            assert!(slice.len >= contents.len());
            assert!(read_back(slice, contents.len()) == *contents);
        }
    }
}

/// An uploader by one of the ways, or nothing where there is no device.
fn uploader(way: Way) -> Option<MetalUploader> {
    match MetalUploader::builder()
        .way(way)
        .ring(3, 64 << 10)
        .keep_resident()
        .build()
    {
        Ok(uploader) => Some(uploader),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// What lies at the front of a slice, whatever its storage: by a blit to where it can be seen.
fn read_back(slice: &BufferSlice, len: usize) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    let device = loader_macos::metal::objc2_metal::MTLCreateSystemDefaultDevice().unwrap();
    let queue = device.newCommandQueue().unwrap();
    let words = len.next_multiple_of(4);
    let options = MTLResourceOptions::StorageModeShared;
    let seen = device.newBufferWithLength_options(words, options).unwrap();
    let commands = queue.commandBuffer().unwrap();
    let blit = commands.blitCommandEncoder().unwrap();
    // SAFETY: both buffers hold that many bytes from there on, and the device alone uses them.
    unsafe {
        blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
            &slice.buffer,
            slice.offset,
            &seen,
            0,
            words,
        );
    }
    blit.endEncoding();
    commands.commit();
    commands.waitUntilCompleted();
    // SAFETY: the buffer holds as many bytes, which the device wrote and has done with.
    unsafe { std::slice::from_raw_parts(seen.contents().cast::<u8>().as_ptr(), len) }.to_vec()
}

#[test]
fn every_byte_arrives_by_each_way_also_the_second_time() {
    let _watchdog = Watchdog::over("uploads to Metal");
    let files = Files::new();
    for way in WAYS {
        let Some(mut uploader) = uploader(way) else {
            return;
        };
        for _ in 0..2 {
            let report = files.upload(&mut uploader, Operation::new()).unwrap();
            files.check(&uploader);
            let landing = report.landing.unwrap();
            match way {
                Way::Import => assert_eq!(landing, Landing::Import),
                Way::InPlace => assert_eq!(landing, Landing::InPlace),
                Way::Staged => assert!(matches!(landing, Landing::Staged { .. })),
                _ => {}
            }
        }
    }
}

#[test]
fn bytes_go_where_the_caller_wants_them() {
    let _watchdog = Watchdog::over("uploads to buffers of the caller's");
    let files = Files::new();
    let Some(device) = uploader(Way::Auto).map(|uploader| uploader.device().clone()) else {
        return;
    };
    for options in [
        MTLResourceOptions::StorageModeShared,
        MTLResourceOptions::StorageModePrivate,
    ] {
        let queue = device.newCommandQueue().unwrap();
        let allocator = device.clone();
        let give = move |lens: &[usize]| {
            // All in one buffer, some way into it.
            let places = lens.iter().scan(1024, |end, len| {
                let start = *end;
                *end = (start + len).next_multiple_of(256);
                Some((start, *len))
            });
            let places: Vec<_> = places.collect();
            let whole = lens.iter().map(|len| len + 256).sum::<usize>() + 1024;
            let buffer = allocator
                .newBufferWithLength_options(whole, options)
                .ok_or("no room")?;
            let slice = |(start, len)| BufferSlice::new(buffer.clone(), start, len);
            Ok(places.into_iter().map(slice).collect())
        };
        // SAFETY: nobody else knows the buffer, and its parts do not overlap.
        let builder = unsafe { MetalUploader::builder().queue(queue).buffers(give) };
        let mut uploader = builder.build_on(device.clone()).unwrap();
        files.upload(&mut uploader, Operation::new()).unwrap();
        files.check(&uploader);
        assert!(uploader.buffers()[0].offset >= 1024);
    }
}

#[test]
fn buffers_that_do_not_serve_are_an_error() {
    let _watchdog = Watchdog::over("uploads to unfit buffers");
    let files = Files::new();
    let Some(device) = uploader(Way::Auto).map(|uploader| uploader.device().clone()) else {
        return;
    };
    for shorter_by in [None, Some(1)] {
        let allocator = device.clone();
        let give = move |lens: &[usize]| {
            let options = MTLResourceOptions::StorageModeShared;
            let slice = |len: &usize| {
                let buffer = allocator.newBufferWithLength_options(len + 4, options);
                let len = len.saturating_sub(shorter_by.unwrap_or(0));
                Ok(BufferSlice::new(buffer.ok_or("no room")?, 0, len))
            };
            let count = lens.len() - usize::from(shorter_by.is_none());
            lens.iter().take(count).map(slice).collect()
        };
        // SAFETY: nobody else knows the buffers.
        let builder = unsafe { MetalUploader::builder().buffers(give) };
        let mut uploader = builder.build_on(device.clone()).unwrap();
        let outcome = files.upload(&mut uploader, Operation::new());
        assert!(matches!(outcome, Err(Error::Upload { .. })), "{outcome:?}");
        assert!(uploader.buffers().is_empty());
    }
}

#[test]
fn a_cancelled_upload_leaves_an_uploader_that_works() {
    let _watchdog = Watchdog::over("cancelled uploads");
    let files = Files::new();
    for way in WAYS {
        let Some(mut uploader) = uploader(way) else {
            return;
        };
        let token = CancelToken::new();
        let operation = Operation::new()
            .on_progress(|_| token.cancel())
            .cancel(&token);
        match files.upload(&mut uploader, operation) {
            Err(Error::Cancelled) => assert!(uploader.buffers().is_empty()),
            outcome => drop(outcome.unwrap()),
        }
        files.upload(&mut uploader, Operation::new()).unwrap();
        files.check(&uploader);
    }
}

#[test]
fn memory_is_imported_and_outlives_everybody_but_its_buffers() {
    let _watchdog = Watchdog::over("imports");
    let Some(uploader) = uploader(Way::Import) else {
        return;
    };
    let memory = loader_macos::platform().memory;
    let contents = bytes(300_001, 7);
    let mut buffer = HostBuffer::zeroed(&*memory, contents.len()).unwrap();
    buffer.copy_from_slice(&contents);
    let imported = Imported::new(uploader.device(), buffer, 1000).unwrap();
    assert_eq!((imported.len(), imported.is_empty()), (300_001, false));
    let slice = imported.slice(&(12_344..200_000)).unwrap();
    assert!(imported.slice(&(0..300_002)).is_none());
    drop(imported);
    assert!(read_back(&slice, 187_656) == contents[12_344..200_000]);
    let nothing = HostBuffer::zeroed(&*memory, 0).unwrap();
    assert!(
        Imported::new(uploader.device(), nothing, 0)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn mappings_are_imported_where_they_begin_at_a_page() {
    let _watchdog = Watchdog::over("imports of mappings");
    let Some(uploader) = uploader(Way::Import) else {
        return;
    };
    let files = Files::new();
    let (file, contents) = (&files.files[5], &files.contents[5]);
    // SAFETY: nobody changes the file.
    let mapping = unsafe { memmap2::Mmap::map(file.file()) }.unwrap();
    // SAFETY: the mapping is of a file that nobody changes, to the end of its last page.
    let imported = unsafe { Imported::from_mapping(uploader.device(), mapping, contents.len()) };
    let slice = imported.unwrap().slice(&(0..contents.len())).unwrap();
    assert!(read_back(&slice, contents.len()) == *contents);

    // Memory that does not.
    let memory = bytes(100_000, 1);
    struct Inner(Vec<u8>);
    impl std::ops::Deref for Inner {
        type Target = [u8];
        fn deref(&self) -> &[u8] {
            &self.0[1..]
        }
    }
    // SAFETY: it is refused, since it does not begin at a page; and never changed.
    let refused = unsafe { Imported::from_mapping(uploader.device(), Inner(memory), 1) };
    assert!(matches!(refused, Err(Error::Upload { .. })), "{refused:?}");
}

#[test]
fn rings_that_make_no_sense_are_refused() {
    for (slots, slot_bytes) in [(0, 1 << 20), (65, 1 << 20), (3, 8191)] {
        let refused = MetalUploader::builder().ring(slots, slot_bytes).build();
        if let Err(Error::Unsupported { reason, .. }) = &refused {
            println!("skipped: {reason}");
            return;
        }
        assert!(matches!(refused, Err(Error::InvalidOption { .. })));
    }
}

#[test]
fn its_name_is_told() {
    if let Some(uploader) = uploader(Way::Auto) {
        assert_eq!(uploader.name(), "metal");
        assert!(uploader.max_buffer_len() >= 256 << 20);
    }
}
