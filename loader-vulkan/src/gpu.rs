//! A device in use: its handles, and what it is able to do.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ash::{ext, vk};
use loader_core::{OwnerProcess, Result};

use crate::failure::{failed, upload_error};
use crate::own_device::OwnDevice;
use crate::shared_device::{QueueLock, SharedDevice};

/// A device in use. What uses its handles holds on to this.
pub(crate) struct Gpu {
    pub(crate) instance: ash::Instance,
    pub(crate) physical_device: vk::PhysicalDevice,
    pub(crate) device: ash::Device,
    pub(crate) queue: vk::Queue,
    pub(crate) queue_family: u32,
    queue_lock: Option<QueueLock>,
    pub(crate) name: String,
    pub(crate) kind: vk::PhysicalDeviceType,
    pub(crate) memory: vk::PhysicalDeviceMemoryProperties,
    /// The most bytes that one buffer may have.
    pub(crate) max_buffer_len: u64,
    pub(crate) host_import: Option<HostImport>,
    pub(crate) timeline_semaphores: bool,
    /// The process that opened it. Nothing may be asked of the driver in a forked child, which has
    /// neither the driver's threads nor what these would wake.
    pub(crate) owner: OwnerProcess,
    /// Destroyed after everything that uses it, where it is ours.
    own: Option<OwnDevice>,
}

/// How host memory becomes the device's.
pub(crate) struct HostImport {
    pub(crate) functions: ext::external_memory_host::Device,
    /// Addresses and lengths must be multiples of so many bytes.
    pub(crate) alignment: usize,
}

/// Longest buffers are rounded down to this, so that what a driver rounds up still fits.
const MAX_BUFFER_GRANULE: u64 = 64 << 10;

impl Gpu {
    pub(crate) fn new(shared: SharedDevice, own: Option<OwnDevice>) -> Self {
        let SharedDevice {
            instance,
            physical_device,
            device,
            queue,
            queue_family,
            queue_lock,
            external_memory_host,
            timeline_semaphores,
        } = shared;

        let mut lengths = vk::PhysicalDeviceMaintenance3Properties::default();
        let mut import = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut lengths);
        if external_memory_host {
            properties = properties.push_next(&mut import);
        }
        // SAFETY: the physical device belongs to the instance; the structures chained are those of
        // Vulkan 1.1 and of an extension that the device has.
        unsafe { instance.get_physical_device_properties2(physical_device, &mut properties) };
        let properties = properties.properties;
        // SAFETY: the physical device belongs to the instance.
        let memory = unsafe { instance.get_physical_device_memory_properties(physical_device) };
        let host_import = external_memory_host.then(|| HostImport {
            functions: ext::external_memory_host::Device::new(&instance, &device),
            // Drivers need 4096 bytes; the specification allows no more than 65536.
            alignment: usize::try_from(import.min_imported_host_pointer_alignment)
                .unwrap_or(usize::MAX)
                .max(1),
        });
        let name = properties.device_name_as_c_str().map_or_else(
            |_| String::new(),
            |name| name.to_string_lossy().into_owned(),
        );
        let longest = lengths.max_memory_allocation_size;
        let longest = longest.min(longest_buffer(
            &instance,
            physical_device,
            properties.api_version,
        ));
        Self {
            instance,
            physical_device,
            device,
            queue,
            queue_family,
            queue_lock,
            name,
            kind: properties.device_type,
            memory,
            max_buffer_len: longest - longest % MAX_BUFFER_GRANULE,
            host_import,
            timeline_semaphores,
            owner: OwnerProcess::current(),
            own,
        }
    }

    /// How many families of queues the device has.
    pub(crate) fn queue_families(&self) -> u32 {
        let (instance, device) = (&self.instance, self.physical_device);
        // SAFETY: the physical device belongs to the instance.
        let found = unsafe { instance.get_physical_device_queue_family_properties(device) };
        u32::try_from(found.len()).unwrap_or(u32::MAX)
    }

    /// Whether the device works in the host's memory.
    pub(crate) fn shares_host_memory(&self) -> bool {
        matches!(
            self.kind,
            vk::PhysicalDeviceType::INTEGRATED_GPU | vk::PhysicalDeviceType::CPU
        )
    }

    /// Whether the device is a program, whose memory is ordinary memory of this process. Direct I/O
    /// reaches that; memory of other drivers is often mapped such that the kernel refuses it
    /// (`EFAULT`).
    pub(crate) fn is_program(&self) -> bool {
        self.kind == vk::PhysicalDeviceType::CPU
    }

    /// Waits until the queue has done everything that was submitted to it, by whomever. A lock of the
    /// caller's that panics, or does not call back, leaves it at that.
    pub(crate) fn wait_until_idle(&self) {
        // SAFETY: the queue is of this device, and nobody else uses it meanwhile.
        let wait = || unsafe { self.device.queue_wait_idle(self.queue) };
        let waited = catch_unwind(AssertUnwindSafe(|| self.with_queue(wait)));
        if !matches!(waited, Ok(Some(Ok(())))) {
            tracing::debug!("the queue may still be at work");
        }
    }

    /// Runs `work` while nobody else uses the queue, by the promise that a shared device comes with.
    /// `None` where the caller's lock does not call back.
    fn with_queue<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let (mut work, mut outcome) = (Some(work), None);
        // The lock may call this again.
        let mut once = || {
            if let Some(work) = work.take() {
                outcome = Some(work());
            }
        };
        match &self.queue_lock {
            Some(lock) => lock(&mut once),
            None => once(),
        }
        outcome
    }

    /// Submits recorded commands, after which `semaphore` gets the value `signalled`. Calls `pending`
    /// as soon as they are the device's, which they stay even where the caller's queue lock panics
    /// afterwards.
    ///
    /// # Safety
    /// The command buffer is recorded and not pending, and what it refers to lives until it is
    /// done; the semaphore is a timeline whose value is below `signalled` by then.
    pub(crate) unsafe fn submit(
        &self,
        commands: vk::CommandBuffer,
        semaphore: vk::Semaphore,
        signalled: u64,
        pending: impl FnOnce(),
    ) -> Result<()> {
        let (commands, semaphores, values) = ([commands], [semaphore], [signalled]);
        let mut timeline =
            vk::TimelineSemaphoreSubmitInfo::default().signal_semaphore_values(&values);
        let info = vk::SubmitInfo::default()
            .command_buffers(&commands)
            .signal_semaphores(&semaphores)
            .push_next(&mut timeline);
        let outcome = self.with_queue(|| {
            // SAFETY: the caller's promises, of which this is the only use; nobody else uses the
            // queue meanwhile.
            let result = unsafe {
                self.device
                    .queue_submit(self.queue, &[info], vk::Fence::null())
            };
            if result.is_ok() {
                pending();
            }
            result
        });
        match outcome {
            Some(outcome) => outcome.map_err(failed("submit a copy")),
            None => Err(upload_error(
                "the callback around submissions did not submit".to_owned(),
            )),
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if !self.owner.is_current() {
            std::mem::forget(self.own.take());
        }
    }
}

/// The longest buffer as Vulkan 1.3 tells it; earlier versions do not.
fn longest_buffer(instance: &ash::Instance, device: vk::PhysicalDevice, version: u32) -> u64 {
    if version < vk::API_VERSION_1_3 {
        return u64::MAX;
    }
    let mut lengths = vk::PhysicalDeviceMaintenance4Properties::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut lengths);
    // SAFETY: the physical device belongs to the instance and knows the structure chained.
    unsafe { instance.get_physical_device_properties2(device, &mut properties) };
    lengths.max_buffer_size
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("queue_family", &self.queue_family)
            .finish_non_exhaustive()
    }
}
