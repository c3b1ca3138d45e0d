//! Files with random bytes, what is wanted of them, and whether it arrived.

#![allow(dead_code, reason = "each test uses part of it")]

use std::path::PathBuf;

use loader_core::{
    Copier, Layout, LoadOptions, Operation, Placement, Platform, Report, Result, Uploader,
    WeightFile,
};

/// Files, and the ranges of each that are wanted.
pub(crate) struct Weights {
    _folder: tempfile::TempDir,
    contents: Vec<Vec<u8>>,
    files: Vec<WeightFile>,
    layouts: Vec<Layout>,
}

impl Weights {
    /// Files of wanted ranges, each given by the gap before it and its length.
    pub(crate) fn new(files: &[Vec<(usize, usize)>], placement: Placement) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut this = Self {
            _folder: folder,
            contents: Vec::new(),
            files: Vec::new(),
            layouts: Vec::new(),
        };
        for (index, ranges) in files.iter().enumerate() {
            let path = this._folder.path().join(format!("{index}.bin"));
            this.add(path, ranges, placement);
        }
        this
    }

    fn add(&mut self, path: PathBuf, ranges: &[(usize, usize)], placement: Placement) {
        let mut wanted = Vec::new();
        let mut end = 0;
        for (gap, len) in ranges {
            let start = end + gap;
            end = start + len;
            wanted.push(start as u64..end as u64);
        }
        let mut state = self.files.len() as u64;
        let mut byte = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()[7]
        };
        let contents: Vec<u8> = (0..end + 100).map(|_| byte()).collect();
        std::fs::write(&path, &contents).unwrap();
        let len = contents.len() as u64;
        self.layouts
            .push(Layout::new(&wanted, 0..len, placement).unwrap());
        self.contents.push(contents);
        self.files.push(WeightFile::open(path).unwrap());
    }

    /// The length of each buffer.
    pub(crate) fn lens(&self) -> Vec<usize> {
        self.layouts.iter().map(Layout::len).collect()
    }

    /// What is read.
    pub(crate) fn bytes(&self) -> u64 {
        self.layouts.iter().map(Layout::bytes).sum()
    }

    pub(crate) fn upload(
        &self,
        uploader: &mut dyn Uploader,
        operation: Operation<'_>,
    ) -> Result<Report> {
        let options = LoadOptions::default();
        self.upload_with(&Platform::portable(), &options, uploader, operation)
    }

    pub(crate) fn upload_with(
        &self,
        platform: &Platform,
        options: &LoadOptions,
        uploader: &mut dyn Uploader,
        operation: Operation<'_>,
    ) -> Result<Report> {
        let copier = Copier::new(platform, options);
        let (files, layouts) = (&self.files, &self.layouts);
        loader_core::upload(platform, &copier, files, layouts, uploader, operation)
    }

    /// Checks that each buffer holds what was wanted of its file, where it was laid out.
    pub(crate) fn check(&self, buffers: &[Vec<u8>]) {
        assert_eq!(buffers.len(), self.files.len());
        for ((layout, contents), found) in self.layouts.iter().zip(&self.contents).zip(buffers) {
            for extent in layout.extents() {
                let len = usize::try_from(extent.len).unwrap();
                let offset = usize::try_from(extent.offset).unwrap();
                let expected = &contents[offset..offset + len];
                let found = &found[extent.destination..extent.destination + len];
                assert!(found == expected, "{extent:?}");
            }
        }
    }
}
