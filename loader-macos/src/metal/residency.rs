//! Buffers that stay resident, so that a first use need not wait for them to be wired.

use loader_core::{Mechanism, Refusal};
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_metal::{MTLDevice, MTLResidencySet, MTLResidencySetDescriptor};

use super::buffers::BufferSlice;
use super::device::ResidencySet;

const MECHANISM: Mechanism = Mechanism::new("metal-residency");

/// Makes an empty set, where the system has them.
pub(crate) fn new_set(device: &ProtocolObject<dyn MTLDevice>) -> Result<ResidencySet, Refusal> {
    if !device.respondsToSelector(sel!(newResidencySetWithDescriptor:error:)) {
        let reason = "residency sets need macOS 15 or iOS 18";
        return Err(Refusal::new(MECHANISM, reason));
    }
    let descriptor = MTLResidencySetDescriptor::new();
    device
        .newResidencySetWithDescriptor_error(&descriptor)
        .map_err(|error| Refusal::new(MECHANISM, error.localizedDescription().to_string()))
}

/// Adds buffers to a set and asks for them to be made resident.
pub(crate) fn add(set: &ProtocolObject<dyn MTLResidencySet>, slices: &[BufferSlice]) {
    for slice in slices {
        set.addAllocation(ProtocolObject::from_ref(&*slice.buffer));
    }
    set.commit();
    set.requestResidency();
}

/// Takes buffers out of a set again.
pub(crate) fn remove(set: &ProtocolObject<dyn MTLResidencySet>, slices: &[BufferSlice]) {
    for slice in slices {
        set.removeAllocation(ProtocolObject::from_ref(&*slice.buffer));
    }
    set.commit();
}
