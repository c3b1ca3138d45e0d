//! A device as a runtime would own it, watched by the validation layers where these are installed,
//! and what tests do with it.

#![allow(dead_code, reason = "each test uses part of it")]

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ash::{ext, khr, vk};
use loader_vulkan::{BufferSlice, SharedDevice};

const VALIDATION: &CStr = c"VK_LAYER_KHRONOS_validation";

/// A device with one queue.
pub(crate) struct Machine {
    entry: ash::Entry,
    pub(crate) instance: ash::Instance,
    pub(crate) physical_device: vk::PhysicalDevice,
    pub(crate) device: ash::Device,
    pub(crate) queue: vk::Queue,
    pub(crate) family: u32,
    pub(crate) imports: bool,
    memory: vk::PhysicalDeviceMemoryProperties,
    pool: vk::CommandPool,
    watch: Option<Watch>,
    /// Taken around every submission.
    pub(crate) in_use: Arc<Mutex<()>>,
    pub(crate) submissions: Arc<AtomicUsize>,
}

/// What the validation layers complain of.
struct Watch {
    functions: ext::debug_utils::Instance,
    messenger: vk::DebugUtilsMessengerEXT,
    complaints: Box<Mutex<Vec<String>>>,
}

unsafe extern "system" fn complain(
    _severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    _kind: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    complaints: *mut c_void,
) -> vk::Bool32 {
    // SAFETY: the pointer is that of `Watch::complaints`, which outlives the messenger.
    let complaints = unsafe { &*complaints.cast::<Mutex<Vec<String>>>() };
    // SAFETY: the layer hands over a valid structure.
    let data = unsafe { &*data };
    // SAFETY: its strings are terminated.
    if let Some(message) = unsafe { data.message_as_c_str() } {
        let message = message.to_string_lossy().into_owned();
        complaints.lock().unwrap().push(message);
    }
    vk::FALSE
}

impl Machine {
    /// A device, or nothing where there is none: the test then says so and passes.
    pub(crate) fn open() -> Option<Self> {
        match Self::try_open() {
            Ok(machine) => Some(machine),
            Err(reason) => {
                println!("skipped: {reason}");
                None
            }
        }
    }

    fn try_open() -> Result<Self, String> {
        // SAFETY: the system's Vulkan loader needs nothing prepared.
        let entry = unsafe { ash::Entry::load() }
            .map_err(|error| format!("there is no Vulkan library: {error}"))?;
        // SAFETY: the answer is memory of its own.
        let layers = unsafe { entry.enumerate_instance_layer_properties() }.unwrap();
        let validates = layers
            .iter()
            .any(|layer| layer.layer_name_as_c_str() == Ok(VALIDATION));
        if !validates {
            println!("skipped: the Vulkan validation layers are not installed");
        }

        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let layers: Vec<_> = validates
            .then_some(VALIDATION.as_ptr())
            .into_iter()
            .collect();
        let mut extensions = Vec::new();
        if validates {
            extensions.push(ext::debug_utils::NAME.as_ptr());
            extensions.push(ext::validation_features::NAME.as_ptr());
        }
        let synchronization = [vk::ValidationFeatureEnableEXT::SYNCHRONIZATION_VALIDATION];
        let mut features =
            vk::ValidationFeaturesEXT::default().enabled_validation_features(&synchronization);
        let mut info = vk::InstanceCreateInfo::default()
            .application_info(&application)
            .enabled_layer_names(&layers)
            .enabled_extension_names(&extensions);
        if validates {
            info = info.push_next(&mut features);
        }
        // SAFETY: the structures are valid and outlive the call.
        let instance = unsafe { entry.create_instance(&info, None) }
            .map_err(|result| format!("Vulkan does not start: {result:?}"))?;
        let watch = validates.then(|| Watch::new(&entry, &instance));

        // SAFETY: the instance is alive.
        let devices = unsafe { instance.enumerate_physical_devices() }.unwrap_or_default();
        let Some(&physical_device) = devices.first() else {
            return Err("no Vulkan driver offers a device".to_owned());
        };
        // SAFETY: the physical device belongs to the instance.
        let offered =
            unsafe { instance.enumerate_device_extension_properties(physical_device) }.unwrap();
        let has = |name| {
            let mut offered = offered.iter();
            offered.any(|extension| extension.extension_name_as_c_str() == Ok(name))
        };
        let imports = has(ext::external_memory_host::NAME);
        let wanted = [
            ext::external_memory_host::NAME,
            khr::portability_subset::NAME,
        ];
        let extensions: Vec<_> = wanted
            .into_iter()
            .filter(|name| has(name))
            .map(CStr::as_ptr)
            .collect();
        let family = 0;
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(&[1.0])];
        let mut timeline =
            vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .push_next(&mut timeline);
        // SAFETY: the structures are valid and outlive the call.
        let device = unsafe { instance.create_device(physical_device, &info, None) }
            .map_err(|result| format!("the Vulkan device cannot be opened: {result:?}"))?;
        // SAFETY: one queue of the family was asked for.
        let queue = unsafe { device.get_device_queue(family, 0) };
        // SAFETY: the physical device belongs to the instance.
        let memory = unsafe { instance.get_physical_device_memory_properties(physical_device) };
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(family);
        // SAFETY: the structure is valid.
        let pool = unsafe { device.create_command_pool(&info, None) }.unwrap();
        Ok(Self {
            entry,
            instance,
            physical_device,
            device,
            queue,
            family,
            imports,
            memory,
            pool,
            watch,
            in_use: Arc::default(),
            submissions: Arc::default(),
        })
    }

    /// The device as a runtime shares it: with everything enabled, and its queue locked.
    pub(crate) fn share(&self) -> SharedDevice {
        self.share_as(self.instance.clone(), self.device.clone())
    }

    /// The same, some of whose functions, and of its instance's, are others.
    ///
    /// # Safety
    /// Each replacement has the signature of the function that it is named after.
    pub(crate) unsafe fn share_with(
        &self,
        replacements: &[(&CStr, *const c_void)],
    ) -> SharedDevice {
        let replacement = |wanted: &CStr| {
            let mut replacements = replacements.iter();
            replacements.find(|(name, _)| *name == wanted)
        };
        let load = |wanted: &CStr| match replacement(wanted) {
            Some((_, replacement)) => *replacement,
            None => address(self.device_function(wanted)),
        };
        // SAFETY: each pointer is that of the function asked for, or behaves like it.
        let device = unsafe { ash::Device::load_with(load, self.device.handle()) };
        let load = |wanted: &CStr| match replacement(wanted) {
            Some((_, replacement)) => *replacement,
            None => address(self.instance_function(wanted)),
        };
        // SAFETY: as above.
        let instance = unsafe { ash::Instance::load_with(load, self.instance.handle()) };
        self.share_as(instance, device)
    }

    /// The driver's own function of the device.
    pub(crate) fn device_function(&self, name: &CStr) -> vk::PFN_vkVoidFunction {
        let functions = self.instance.fp_v1_0();
        // SAFETY: the device is alive and the name terminated.
        unsafe { (functions.get_device_proc_addr)(self.device.handle(), name.as_ptr()) }
    }

    fn instance_function(&self, name: &CStr) -> vk::PFN_vkVoidFunction {
        let handle = self.instance.handle();
        // SAFETY: the instance is alive and the name terminated.
        unsafe { self.entry.get_instance_proc_addr(handle, name.as_ptr()) }
    }

    /// Whether the device is a program rather than a GPU.
    #[allow(dead_code, reason = "one of the tests that share this asks")]
    pub(crate) fn is_program(&self) -> bool {
        let (instance, device) = (&self.instance, self.physical_device);
        // SAFETY: the physical device belongs to the instance.
        let properties = unsafe { instance.get_physical_device_properties(device) };
        properties.device_type == vk::PhysicalDeviceType::CPU
    }

    /// What the driver tells of its families of queues.
    pub(crate) fn families(&self) -> Vec<vk::QueueFamilyProperties> {
        let (instance, device) = (&self.instance, self.physical_device);
        // SAFETY: the physical device belongs to the instance.
        unsafe { instance.get_physical_device_queue_family_properties(device) }
    }

    fn share_as(&self, instance: ash::Instance, device: ash::Device) -> SharedDevice {
        let physical_device = self.physical_device;
        // SAFETY: the handles belong together and outlive the test's uploaders.
        let shared = unsafe {
            SharedDevice::new(instance, physical_device, device, self.queue, self.family)
        };
        let names: Vec<&CStr> = self
            .imports
            .then_some(ext::external_memory_host::NAME)
            .into_iter()
            .collect();
        // SAFETY: that is what the device was made with.
        let shared = unsafe { shared.enabled_extensions(&names) };
        // SAFETY: as above.
        let shared = unsafe { shared.enabled_timeline_semaphores() };
        let (in_use, submissions) = (Arc::clone(&self.in_use), Arc::clone(&self.submissions));
        shared.queue_lock(move |submit| {
            let _held = in_use.lock().unwrap();
            submissions.fetch_add(1, Ordering::Relaxed);
            submit();
        })
    }

    /// A buffer as a runtime would make it.
    pub(crate) fn buffer(&self, len: u64) -> Owned<'_> {
        let usage = vk::BufferUsageFlags::TRANSFER_DST | vk::BufferUsageFlags::TRANSFER_SRC;
        let info = vk::BufferCreateInfo::default().size(len).usage(usage);
        // SAFETY: the structure is valid.
        let buffer = unsafe { self.device.create_buffer(&info, None) }.unwrap();
        // SAFETY: the buffer is new.
        let needs = unsafe { self.device.get_buffer_memory_requirements(buffer) };
        let visible =
            vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
        let suits = |index: &u32| {
            let flags = self.memory.memory_types[*index as usize].property_flags;
            needs.memory_type_bits & (1 << index) != 0 && flags.contains(visible)
        };
        let index = (0..self.memory.memory_type_count).find(suits).unwrap();
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(needs.size)
            .memory_type_index(index);
        // SAFETY: the structure is valid.
        let memory = unsafe { self.device.allocate_memory(&info, None) }.unwrap();
        // SAFETY: both are new and suit each other.
        unsafe { self.device.bind_buffer_memory(buffer, memory, 0) }.unwrap();
        // SAFETY: the memory is host-visible and not mapped yet.
        let start = unsafe {
            self.device
                .map_memory(memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty())
        };
        let start = NonNull::new(start.unwrap().cast()).unwrap();
        Owned {
            machine: self,
            buffer,
            memory,
            start,
            len,
        }
    }

    /// What a buffer holds, read by the device; `after` is a timeline semaphore to wait for.
    pub(crate) fn read(&self, slice: &BufferSlice, after: Option<(vk::Semaphore, u64)>) -> Vec<u8> {
        if slice.len == 0 {
            return Vec::new();
        }
        let host = self.buffer(slice.len);
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .command_buffer_count(1);
        // SAFETY: the pool is this thread's alone.
        let commands = unsafe { self.device.allocate_command_buffers(&info) }.unwrap();
        let info = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // SAFETY: the commands are new.
        unsafe { self.device.begin_command_buffer(commands[0], &info) }.unwrap();
        let region = vk::BufferCopy::default()
            .src_offset(slice.offset)
            .size(slice.len);
        // SAFETY: the commands are being recorded; both buffers hold the region.
        unsafe {
            self.device
                .cmd_copy_buffer(commands[0], slice.buffer, host.buffer, &[region]);
        }
        let visible = [vk::MemoryBarrier::default()
            .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
            .dst_access_mask(vk::AccessFlags::HOST_READ)];
        // SAFETY: the commands are being recorded.
        unsafe {
            self.device.cmd_pipeline_barrier(
                commands[0],
                vk::PipelineStageFlags::TRANSFER,
                vk::PipelineStageFlags::HOST,
                vk::DependencyFlags::empty(),
                &visible,
                &[],
                &[],
            );
        }
        // SAFETY: the commands are being recorded.
        unsafe { self.device.end_command_buffer(commands[0]) }.unwrap();
        let (semaphores, values): (Vec<_>, Vec<_>) = after.into_iter().unzip();
        let stages = vec![vk::PipelineStageFlags::TRANSFER; semaphores.len()];
        let mut timeline =
            vk::TimelineSemaphoreSubmitInfo::default().wait_semaphore_values(&values);
        let info = vk::SubmitInfo::default()
            .command_buffers(&commands)
            .wait_semaphores(&semaphores)
            .wait_dst_stage_mask(&stages)
            .push_next(&mut timeline);
        // SAFETY: the structure is valid.
        let fence = unsafe {
            self.device
                .create_fence(&vk::FenceCreateInfo::default(), None)
        };
        let fence = fence.unwrap();
        {
            let _held = self.in_use.lock().unwrap();
            // SAFETY: the commands are recorded, and everything lives until the fence.
            unsafe { self.device.queue_submit(self.queue, &[info], fence) }.unwrap();
        }
        // SAFETY: the fence was submitted.
        unsafe { self.device.wait_for_fences(&[fence], true, u64::MAX) }.unwrap();
        // SAFETY: nothing waits for it any more.
        unsafe { self.device.destroy_fence(fence, None) };
        // SAFETY: the commands are done.
        unsafe { self.device.free_command_buffers(self.pool, &commands) };
        host.bytes().to_vec()
    }

    /// Work on the queue that nothing submitted later gets past until the gate is opened.
    pub(crate) fn gate(&self) -> Gate {
        // SAFETY: the structure is valid.
        let event = unsafe {
            self.device
                .create_event(&vk::EventCreateInfo::default(), None)
        };
        let event = event.unwrap();
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(self.family);
        // SAFETY: the structure is valid.
        let pool = unsafe { self.device.create_command_pool(&info, None) }.unwrap();
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(pool)
            .command_buffer_count(1);
        // SAFETY: the pool is new.
        let commands = unsafe { self.device.allocate_command_buffers(&info) }.unwrap();
        let info = vk::CommandBufferBeginInfo::default();
        // SAFETY: the commands are new.
        unsafe { self.device.begin_command_buffer(commands[0], &info) }.unwrap();
        // SAFETY: the commands are being recorded; the event lives as long as they do.
        unsafe {
            self.device.cmd_wait_events(
                commands[0],
                &[event],
                vk::PipelineStageFlags::HOST,
                vk::PipelineStageFlags::TRANSFER,
                &[],
                &[],
                &[],
            );
        }
        // SAFETY: the commands are being recorded.
        unsafe { self.device.end_command_buffer(commands[0]) }.unwrap();
        let info = vk::SubmitInfo::default().command_buffers(&commands);
        let _held = self.in_use.lock().unwrap();
        // SAFETY: the commands are recorded, and the gate waits for the queue before it goes.
        unsafe {
            self.device
                .queue_submit(self.queue, &[info], vk::Fence::null())
        }
        .unwrap();
        Gate {
            device: self.device.clone(),
            queue: self.queue,
            event,
            pool,
            opened: AtomicBool::new(false),
        }
    }

    /// Whether the validation layers watch.
    pub(crate) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// What the validation layers have complained of since this was asked last.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let complaints = self.watch.as_ref().map(|watch| &watch.complaints);
        complaints.map_or(Vec::new(), |complaints| {
            std::mem::take(&mut *complaints.lock().unwrap())
        })
    }

    /// Checks that everything so far was valid use of Vulkan.
    pub(crate) fn assert_clean(&self) {
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
    }
}

/// A function's address; null where there is none.
fn address(function: vk::PFN_vkVoidFunction) -> *const c_void {
    function.map_or(std::ptr::null(), |function| function as *const c_void)
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: everything made of the device is gone, as the validation layers would tell.
        unsafe { self.device.destroy_command_pool(self.pool, None) };
        // SAFETY: as above.
        unsafe { self.device.destroy_device(None) };
        if !std::thread::panicking() {
            self.assert_clean();
        }
        if let Some(Watch {
            functions,
            messenger,
            complaints,
        }) = self.watch.take()
        {
            // SAFETY: the messenger is this instance's.
            unsafe { functions.destroy_debug_utils_messenger(messenger, None) };
            drop(complaints);
        }
        // SAFETY: nothing made of it is left.
        unsafe { self.instance.destroy_instance(None) };
    }
}

impl Watch {
    fn new(entry: &ash::Entry, instance: &ash::Instance) -> Self {
        use vk::DebugUtilsMessageSeverityFlagsEXT as Severity;
        use vk::DebugUtilsMessageTypeFlagsEXT as Type;
        let functions = ext::debug_utils::Instance::new(entry, instance);
        let complaints: Box<Mutex<Vec<String>>> = Box::default();
        let address = std::ptr::from_ref(&*complaints).cast_mut().cast();
        let info = vk::DebugUtilsMessengerCreateInfoEXT::default()
            .message_severity(Severity::WARNING | Severity::ERROR)
            .message_type(Type::VALIDATION | Type::PERFORMANCE)
            .pfn_user_callback(Some(complain))
            .user_data(address);
        // SAFETY: the callback's data outlives the messenger.
        let messenger = unsafe { functions.create_debug_utils_messenger(&info, None) }.unwrap();
        Self {
            functions,
            messenger,
            complaints,
        }
    }
}

/// Keeps a queue from going on until it is opened, or dropped.
pub(crate) struct Gate {
    device: ash::Device,
    queue: vk::Queue,
    event: vk::Event,
    pool: vk::CommandPool,
    opened: AtomicBool,
}

impl Gate {
    /// Lets the queue go on.
    pub(crate) fn open(&self) {
        if self.opened.swap(true, Ordering::SeqCst) {
            return;
        }
        // SAFETY: the event is of this device, and nobody else sets it.
        unsafe { self.device.set_event(self.event) }.unwrap();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.opened.load(Ordering::SeqCst)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
        // SAFETY: the test uses the queue on this thread alone by now.
        unsafe { self.device.queue_wait_idle(self.queue) }.unwrap();
        // SAFETY: nothing waits for it any more.
        unsafe { self.device.destroy_event(self.event, None) };
        // SAFETY: as above.
        unsafe { self.device.destroy_command_pool(self.pool, None) };
    }
}

/// A buffer of the runtime's, mapped.
pub(crate) struct Owned<'m> {
    machine: &'m Machine,
    pub(crate) buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    pub(crate) start: NonNull<u8>,
    pub(crate) len: u64,
}

impl Owned<'_> {
    /// What it holds, as the host sees it.
    pub(crate) fn bytes(&self) -> &[u8] {
        let len = usize::try_from(self.len).unwrap();
        // SAFETY: the memory is mapped and of this length; nothing writes to it meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), len) }
    }

    /// Fills it.
    pub(crate) fn fill(&self, byte: u8) {
        let len = usize::try_from(self.len).unwrap();
        // SAFETY: the memory is mapped and of this length; nothing reads it meanwhile.
        unsafe { self.start.write_bytes(byte, len) };
    }
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        let device = &self.machine.device;
        // SAFETY: nothing uses it any more.
        unsafe { device.destroy_buffer(self.buffer, None) };
        // SAFETY: as above.
        unsafe { device.free_memory(self.memory, None) };
    }
}
