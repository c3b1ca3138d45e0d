//! The device, and what it tells of itself.

use loader_core::{Error, Mechanism, Result};
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::{
    MTLBuffer, MTLCommandQueue, MTLCreateSystemDefaultDevice, MTLDevice, MTLResidencySet,
};

use crate::device_limits::Limits;

/// A Metal device.
pub type Device = Retained<ProtocolObject<dyn MTLDevice>>;
/// A queue of a device.
pub type CommandQueue = Retained<ProtocolObject<dyn MTLCommandQueue>>;
/// A buffer of a device.
pub type Buffer = Retained<ProtocolObject<dyn MTLBuffer>>;
/// A set of buffers that stay resident together.
pub type ResidencySet = Retained<ProtocolObject<dyn MTLResidencySet>>;

// `MTLCreateSystemDefaultDevice` finds no device on macOS unless the program links this, which one
// without windows does not do by itself (Apple's documentation of that function).
#[link(name = "CoreGraphics", kind = "framework")]
unsafe extern "C" {}

/// The system's default device.
pub(crate) fn default_device() -> Result<Device> {
    MTLCreateSystemDefaultDevice().ok_or_else(|| Error::Unsupported {
        mechanism: Mechanism::new("metal"),
        reason: "this machine has no Metal device".to_owned(),
    })
}

/// Asks what the device tells of itself.
pub(crate) fn limits(device: &ProtocolObject<dyn MTLDevice>) -> Limits {
    Limits {
        unified: device.hasUnifiedMemory(),
        max_buffer_bytes: device.maxBufferLength(),
        working_set_bytes: device.recommendedMaxWorkingSetSize(),
        allocated_bytes: device.currentAllocatedSize() as u64,
        page_bytes: rustix::param::page_size(),
    }
}
