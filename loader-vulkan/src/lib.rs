//! Uploads weights into the buffers of a Vulkan device.
//!
//! [`VulkanUploader`] goes one of three ways, whichever the device serves best, and the report of
//! the upload says which: host memory that was filled becomes the device's without a copy
//! (`VK_EXT_external_memory_host`), memory of the device that the host can see is filled in place,
//! or a ring of staging slots is copied from on a queue of the device while others are read into.
//! It works on the caller's device, queue and buffers, or on ones of its own.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("weights.bin");
//! # std::fs::write(&path, [7; 10_000])?;
//! use loader_core::{Copier, Layout, LoadOptions, Operation, Placement, Platform, WeightFile};
//! use loader_vulkan::VulkanUploader;
//!
//! let mut uploader = match VulkanUploader::new() {
//!     Ok(uploader) => uploader,
//!     Err(error) => {
//!         println!("skipped: {error}");
//!         return Ok(());
//!     }
//! };
//! let file = WeightFile::open(&path)?;
//! let layout = Layout::new(&[0..10_000], 0..10_000, Placement::File)?;
//! let (platform, options) = (Platform::portable(), LoadOptions::default());
//! let copier = Copier::new(&platform, &options);
//! let (files, layouts) = ([file], [layout]);
//! loader_core::upload(&platform, &copier, &files, &layouts, &mut uploader, Operation::new())?;
//! let weights = uploader.buffers()[0];
//! println!("{:?}: {} bytes from {} on", weights.buffer, weights.len, weights.offset);
//! # Ok(())
//! # }
//! ```
//!
//! The crate `weightloader` has it as `weightloader::vulkan` with its feature `vulkan`.
//!
//! # Limits
//! - Vulkan 1.1 or later; staging needs 1.2, for timeline semaphores.
//! - Only coherent memory is written by the host.
//! - Weights of a file that exceed the device's longest buffer go into several.

mod builder;
mod device_buffer;
mod failure;
mod gpu;
mod memory_type;
mod own_device;
mod ring;
mod shared_device;
mod slice;
mod uploader;
mod way;

pub use ash;
pub use builder::VulkanUploaderBuilder;
pub use device_buffer::DeviceBuffer;
pub use shared_device::SharedDevice;
pub use slice::BufferSlice;
pub use uploader::{Handles, Ready, VulkanUploader};
pub use way::Way;
