//! A device of our own, where the caller has none.

use std::ffi::CStr;

use ash::{Entry, ext, khr, vk};
use loader_core::Result;

use crate::failure::no_device;
use crate::shared_device::SharedDevice;

/// An instance and a device that are destroyed when dropped, and the library they came from.
pub(crate) struct OwnDevice {
    device: ash::Device,
    _instance: OwnInstance,
}

struct OwnInstance {
    instance: ash::Instance,
    version: u32,
    _library: Entry,
}

impl Drop for OwnDevice {
    fn drop(&mut self) {
        // SAFETY: everything made of the device is gone: it held on to this. Nothing is pending,
        // since whoever submits waits before it goes.
        unsafe { self.device.destroy_device(None) };
    }
}

impl Drop for OwnInstance {
    fn drop(&mut self) {
        // SAFETY: the device, the only thing made of it, was destroyed before.
        unsafe { self.instance.destroy_instance(None) };
    }
}

/// A family of queues that can copy, and how well it suits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Family(u32);

/// The best device of this machine that can be uploaded to: a card before what shares the host's
/// memory, and a program last.
///
/// # Errors
/// [`Error::Unsupported`](loader_core::Error::Unsupported) where there is no Vulkan library or no
/// device.
pub(crate) fn open() -> Result<(SharedDevice, OwnDevice)> {
    let instance = OwnInstance::new()?;
    let vulkan = &instance.instance;
    // SAFETY: the instance is alive.
    let found = unsafe { vulkan.enumerate_physical_devices() }
        .map_err(|result| no_device(format!("devices cannot be listed: {result:?}")))?;
    let best = found
        .into_iter()
        .filter_map(|device| Candidate::examine(vulkan, device))
        .min_by_key(Candidate::rank)
        .ok_or_else(|| no_device("no driver offers a device of Vulkan 1.1".to_owned()))?;
    best.open(instance)
}

impl OwnInstance {
    fn new() -> Result<Self> {
        // SAFETY: initialisers of the system's Vulkan loader do nothing that a program must
        // prepare for.
        let library = unsafe { Entry::load() }
            .map_err(|error| no_device(format!("there is no Vulkan library: {error}")))?;
        // SAFETY: the function takes nothing but a place for its answer.
        let version = unsafe { library.try_enumerate_instance_version() }
            .ok()
            .flatten()
            .unwrap_or(vk::API_VERSION_1_0);
        if version < vk::API_VERSION_1_1 {
            return Err(no_device("the Vulkan library is older than 1.1".to_owned()));
        }
        // Not what this code has not seen yet.
        let version = version.min(vk::API_VERSION_1_3);
        let application = vk::ApplicationInfo::default()
            .engine_name(c"weightloader")
            .api_version(version);
        let mut info = vk::InstanceCreateInfo::default().application_info(&application);
        // Drivers that map Vulkan to something else (MoltenVK) show up only to those who ask.
        let portability = [khr::portability_enumeration::NAME.as_ptr()];
        // SAFETY: no layer is named, and the answer is memory of its own.
        let offered = unsafe { library.enumerate_instance_extension_properties(None) };
        if has(
            &offered.unwrap_or_default(),
            khr::portability_enumeration::NAME,
        ) {
            info = info
                .flags(vk::InstanceCreateFlags::ENUMERATE_PORTABILITY_KHR)
                .enabled_extension_names(&portability);
        }
        // SAFETY: the structures are valid and outlive the call.
        let instance = unsafe { library.create_instance(&info, None) }
            .map_err(|result| no_device(format!("Vulkan does not start: {result:?}")))?;
        Ok(Self {
            instance,
            version,
            _library: library,
        })
    }
}

/// A physical device that could be used.
struct Candidate {
    physical_device: vk::PhysicalDevice,
    kind: vk::PhysicalDeviceType,
    version: u32,
    family: Family,
    extensions: Vec<vk::ExtensionProperties>,
}

impl Candidate {
    fn examine(instance: &ash::Instance, physical_device: vk::PhysicalDevice) -> Option<Self> {
        // SAFETY: the physical device belongs to the instance.
        let properties = unsafe { instance.get_physical_device_properties(physical_device) };
        // SAFETY: as above.
        let families =
            unsafe { instance.get_physical_device_queue_family_properties(physical_device) };
        // SAFETY: as above.
        let extensions = unsafe { instance.enumerate_device_extension_properties(physical_device) };
        if properties.api_version < vk::API_VERSION_1_1 {
            return None;
        }
        Some(Self {
            physical_device,
            kind: properties.device_type,
            version: properties.api_version,
            family: copying_family(&families)?,
            extensions: extensions.unwrap_or_default(),
        })
    }

    fn rank(&self) -> u32 {
        match self.kind {
            vk::PhysicalDeviceType::DISCRETE_GPU => 0,
            vk::PhysicalDeviceType::INTEGRATED_GPU => 1,
            vk::PhysicalDeviceType::VIRTUAL_GPU => 2,
            vk::PhysicalDeviceType::CPU => 3,
            _ => 4,
        }
    }

    fn open(self, instance: OwnInstance) -> Result<(SharedDevice, OwnDevice)> {
        let vulkan = &instance.instance;
        let version = self.version.min(instance.version);
        let timeline = version >= vk::API_VERSION_1_2 && self.offers_timelines(vulkan);
        let external_memory_host = has(&self.extensions, ext::external_memory_host::NAME);

        let mut names = Vec::new();
        if external_memory_host {
            names.push(ext::external_memory_host::NAME.as_ptr());
        }
        // A device that has it must be told that this is known.
        if has(&self.extensions, khr::portability_subset::NAME) {
            names.push(khr::portability_subset::NAME.as_ptr());
        }
        let Family(family) = self.family;
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(&[1.0])];
        let mut features = vk::PhysicalDeviceTimelineSemaphoreFeatures::default();
        features = features.timeline_semaphore(true);
        let mut info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names);
        if timeline {
            info = info.push_next(&mut features);
        }
        // SAFETY: the structures are valid, outlive the call and name what the device offers.
        let device = unsafe { vulkan.create_device(self.physical_device, &info, None) }
            .map_err(|result| no_device(format!("the device cannot be opened: {result:?}")))?;
        // SAFETY: one queue of this family was asked for.
        let queue = unsafe { device.get_device_queue(family, 0) };
        // SAFETY: all of these were made of one another just now; the device is destroyed only
        // with the `OwnDevice`, which whoever uses it holds; nobody else knows the queue.
        let mut shared = unsafe {
            SharedDevice::new(
                vulkan.clone(),
                self.physical_device,
                device.clone(),
                queue,
                family,
            )
        };
        shared.external_memory_host = external_memory_host;
        shared.timeline_semaphores = timeline;
        let own = OwnDevice {
            device,
            _instance: instance,
        };
        Ok((shared, own))
    }

    fn offers_timelines(&self, instance: &ash::Instance) -> bool {
        let mut timeline = vk::PhysicalDeviceTimelineSemaphoreFeatures::default();
        let mut features = vk::PhysicalDeviceFeatures2::default().push_next(&mut timeline);
        // SAFETY: the physical device belongs to the instance and, being of Vulkan 1.2, knows the
        // structure chained.
        unsafe { instance.get_physical_device_features2(self.physical_device, &mut features) };
        timeline.timeline_semaphore == vk::TRUE
    }
}

fn has(offered: &[vk::ExtensionProperties], name: &CStr) -> bool {
    offered
        .iter()
        .any(|extension| extension.extension_name_as_c_str() == Ok(name))
}

/// The family that copies with the least in its way: one for nothing but copies, else one that can
/// do less than others. Families that compute or draw can copy without saying so.
fn copying_family(families: &[vk::QueueFamilyProperties]) -> Option<Family> {
    use vk::QueueFlags as Flags;
    let copying = Flags::TRANSFER | Flags::COMPUTE | Flags::GRAPHICS;
    let found = families.iter().zip(0_u32..);
    found
        .filter(|(family, _)| family.queue_count > 0 && family.queue_flags.intersects(copying))
        .min_by_key(|(family, index)| {
            let flags = family.queue_flags;
            let more = flags.contains(Flags::GRAPHICS);
            // Families for video copy too, in coarser units.
            let video = Flags::VIDEO_DECODE_KHR.as_raw() | Flags::VIDEO_ENCODE_KHR.as_raw();
            let video = flags.as_raw() & video != 0;
            (more, flags.contains(Flags::COMPUTE), video, *index)
        })
        .map(|(_, index)| Family(index))
}

#[cfg(test)]
mod tests {
    use ash::vk::QueueFlags as Flags;

    use super::*;

    fn family(flags: Flags) -> vk::QueueFamilyProperties {
        vk::QueueFamilyProperties::default()
            .queue_flags(flags)
            .queue_count(1)
    }

    #[test]
    fn the_family_that_does_least_but_copies() {
        let all = Flags::GRAPHICS | Flags::COMPUTE | Flags::TRANSFER;
        let video = Flags::TRANSFER | Flags::VIDEO_DECODE_KHR;
        let cases = [
            (vec![all], Some(0)),
            (vec![all, Flags::COMPUTE], Some(1)),
            (vec![all, Flags::COMPUTE, Flags::TRANSFER], Some(2)),
            (vec![all, video, Flags::TRANSFER], Some(2)),
            (vec![all, video], Some(1)),
            (vec![Flags::SPARSE_BINDING], None),
            (vec![], None),
        ];
        for (flags, expected) in cases {
            let families: Vec<_> = flags.iter().map(|flags| family(*flags)).collect();
            assert_eq!(copying_family(&families), expected.map(Family), "{flags:?}");
        }
    }
}
