//! Uploads weights into Metal buffers.
//!
//! [`MetalUploader`] goes one of three ways, and the report of the upload says which: host memory
//! that was filled becomes buffers without a copy, buffers of shared storage are filled in place,
//! or a ring of staging slots is copied from by blits into buffers of private storage. It works on
//! the caller's device, queue and buffers, or on ones of its own. [`Imported`] makes buffers of
//! memory that is filled already: of a loaded model, or of a mapping.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use loader_core::{Copier, Layout, LoadOptions, Operation, Placement, WeightFile};
//! use loader_macos::metal::MetalUploader;
//!
//! let mut uploader = MetalUploader::new()?;
//! let file = WeightFile::open("weights.bin")?;
//! let layout = Layout::new(&[0..10_000], 0..10_000, Placement::File)?;
//! let (platform, options) = (loader_macos::platform(), LoadOptions::default());
//! let copier = Copier::new(&platform, &options);
//! let (files, layouts) = ([file], [layout]);
//! loader_core::upload(&platform, &copier, &files, &layouts, &mut uploader, Operation::new())?;
//! let weights = &uploader.buffers()[0];
//! println!("{} bytes from {} on in {:?}", weights.len, weights.offset, weights.buffer);
//! # Ok(())
//! # }
//! ```
//!
//! The crate `weightloader` has it as `weightloader::metal` with its feature `metal`.
//!
//! # Limits
//! - A command buffer is committed only when what it copies has been read: one that waited for a
//!   file would be taken for a hang of the device and killed.
//! - Weights of a file that exceed the device's longest buffer go into several.
//! - Residency sets need macOS 15 or iOS 18; where there are none the report says so.
//! - Type-checked, linted and linked, and not yet run on a Mac.

mod blits;
mod buffers;
mod builder;
mod device;
mod failure;
mod import;
mod residency;
mod uploader;

pub use crate::device_limits::Way;
pub use buffers::BufferSlice;
pub use builder::MetalUploaderBuilder;
pub use device::{Buffer, CommandQueue, Device, ResidencySet};
pub use import::Imported;
pub use objc2_metal;
pub use uploader::MetalUploader;
