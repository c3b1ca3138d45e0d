//! A device that somebody else owns.

use std::ffi::CStr;
use std::fmt;

use ash::{ext, vk};

/// Runs what it is given while nobody else uses the queue.
pub(crate) type QueueLock = Box<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// A device of the caller's, and what was enabled on it: what an uploader works on.
///
/// `ash` makes its tables from handles of any other binding: `ash::Instance::load` and
/// `ash::Device::load`.
pub struct SharedDevice {
    pub(crate) instance: ash::Instance,
    pub(crate) physical_device: vk::PhysicalDevice,
    pub(crate) device: ash::Device,
    pub(crate) queue: vk::Queue,
    pub(crate) queue_family: u32,
    pub(crate) queue_lock: Option<QueueLock>,
    pub(crate) external_memory_host: bool,
    pub(crate) timeline_semaphores: bool,
}

impl SharedDevice {
    /// A device and the queue that copies are submitted to, which must be able to transfer. Nothing
    /// is assumed to be enabled beyond Vulkan 1.1.
    ///
    /// # Safety
    /// The handles belong together: `device` was made of `physical_device` of `instance`, with
    /// Vulkan 1.1 or later, and `queue` is one of its queues, of that family. They outlive every
    /// uploader that works on them and every [`DeviceBuffer`](crate::DeviceBuffer) that came of it.
    /// Nobody else uses the queue while a method of an uploader runs, unless
    /// [`queue_lock`](Self::queue_lock) keeps them apart.
    #[must_use]
    pub unsafe fn new(
        instance: ash::Instance,
        physical_device: vk::PhysicalDevice,
        device: ash::Device,
        queue: vk::Queue,
        queue_family: u32,
    ) -> Self {
        Self {
            instance,
            physical_device,
            device,
            queue,
            queue_family,
            queue_lock: None,
            external_memory_host: false,
            timeline_semaphores: false,
        }
    }

    /// Tells which extensions were enabled when the device was made. Used is
    /// `VK_EXT_external_memory_host`, to import host memory.
    ///
    /// # Safety
    /// They were enabled.
    #[must_use]
    pub unsafe fn enabled_extensions(mut self, names: &[&CStr]) -> Self {
        self.external_memory_host = names.contains(&ext::external_memory_host::NAME);
        self
    }

    /// Tells that the feature `timelineSemaphore` was enabled when the device was made, which
    /// staging needs.
    ///
    /// # Safety
    /// It was enabled, and instance and device are of Vulkan 1.2 or later.
    #[must_use]
    pub unsafe fn enabled_timeline_semaphores(mut self) -> Self {
        self.timeline_semaphores = true;
        self
    }

    /// Calls `lock` around every submission: it runs what it is given, once, while nobody else uses
    /// the queue. Vulkan leaves it to the program to keep users of a queue apart.
    ///
    /// Running it again does nothing; not running it fails the upload. Where `lock` panics, the
    /// upload waits for whatever was submitted before it unwinds. Where the device is a program (the
    /// type `CPU`), it is also called when an uploader that has staged goes, which waits until the
    /// queue is at rest: Mesa's uses semaphores for a moment after they were waited for.
    ///
    /// ```
    /// # use std::sync::{Arc, Mutex};
    /// # fn share(device: loader_vulkan::SharedDevice) -> loader_vulkan::SharedDevice {
    /// let of_the_runtime = Arc::new(Mutex::new(()));
    /// device.queue_lock(move |submit| {
    ///     let _held = of_the_runtime.lock();
    ///     submit();
    /// })
    /// # }
    /// ```
    #[must_use]
    pub fn queue_lock(mut self, lock: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static) -> Self {
        self.queue_lock = Some(Box::new(lock));
        self
    }
}

impl fmt::Debug for SharedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedDevice")
            .field("device", &self.device.handle())
            .field("queue", &self.queue)
            .field("queue_family", &self.queue_family)
            .field("external_memory_host", &self.external_memory_host)
            .field("timeline_semaphores", &self.timeline_semaphores)
            .finish_non_exhaustive()
    }
}
