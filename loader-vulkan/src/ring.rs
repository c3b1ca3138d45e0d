//! Staging slots: one buffer of the host's, cut into slots, that a queue copies from.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ash::vk;
use loader_core::{HostBuffer, HostMemory, Result, Slot};

use crate::device_buffer::DeviceBuffer;
use crate::failure::{failed, upload_error};
use crate::gpu::Gpu;
use crate::memory_type::Purpose;
use crate::slice::Mapped;

/// How many slots, and how long each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingSize {
    pub(crate) slots: usize,
    pub(crate) slot_bytes: usize,
}

/// Copies from a slot to one buffer.
#[derive(Debug)]
pub(crate) struct Copies {
    pub(crate) buffer: vk::Buffer,
    /// Source offsets count from the start of the slot.
    pub(crate) regions: Vec<vk::BufferCopy>,
}

/// How often slots were lent, by whichever ring: each time under a number that never comes again, by
/// which a slot of another ring, or of an upload that is over, is told apart.
static LENDINGS: AtomicUsize = AtomicUsize::new(0);

/// A ring of staging slots. The device has done with all of it when it is dropped.
#[derive(Debug)]
pub(crate) struct Ring {
    gpu: Arc<Gpu>,
    size: RingSize,
    memory: DeviceBuffer,
    start: Mapped,
    pool: vk::CommandPool,
    /// One for each slot, and one for what is submitted at the end.
    commands: Vec<vk::CommandBuffer>,
    /// Its value is how many submissions are done.
    timeline: vk::Semaphore,
    /// Counted the moment the queue has them, since a panic may follow.
    submitted: u64,
    free: Vec<usize>,
    /// Slots that are being filled, by the numbers they were lent under.
    lent: BTreeMap<usize, usize>,
    /// Slots being copied from, and the value of the timeline that each is free at: in order.
    copying: VecDeque<(usize, u64)>,
}

impl Ring {
    /// A ring in memory of the host's that the device imports where it can, so that direct I/O
    /// surely reaches it, else in memory of the driver's.
    pub(crate) fn new(gpu: &Arc<Gpu>, size: RingSize, host: &dyn HostMemory) -> Result<Self> {
        let bytes = size
            .slots
            .checked_mul(size.slot_bytes)
            .filter(|bytes| *bytes as u64 <= gpu.max_buffer_len)
            .ok_or_else(|| upload_error(format!("a ring of {size:?} is too large")))?;
        let memory = ring_memory(gpu, bytes, host)?;
        let start = memory
            .mapped()
            .ok_or_else(|| upload_error("a ring needs slots".to_owned()))?;
        let mut ring = Self {
            gpu: Arc::clone(gpu),
            size,
            memory,
            start,
            pool: vk::CommandPool::null(),
            commands: Vec::new(),
            timeline: vk::Semaphore::null(),
            submitted: 0,
            free: (0..size.slots).rev().collect(),
            lent: BTreeMap::new(),
            copying: VecDeque::new(),
        };
        ring.make_commands()?;
        Ok(ring)
    }

    pub(crate) fn size(&self) -> RingSize {
        self.size
    }

    /// The timeline, and its value once all that was submitted is done.
    pub(crate) fn timeline(&self) -> (vk::Semaphore, u64) {
        (self.timeline, self.submitted)
    }

    /// A slot that the device has done with; with `wait` it waits for one, where it has any.
    pub(crate) fn acquire(&mut self, wait: bool) -> Result<Option<Slot>> {
        if self.free.is_empty() {
            self.reap(wait)?;
        }
        let Some(index) = self.free.pop() else {
            return Ok(None);
        };
        let lending = LENDINGS.fetch_add(1, Ordering::Relaxed);
        self.lent.insert(lending, index);
        // SAFETY: the slot lies within the ring's memory.
        let start = unsafe { self.start.start.add(index * self.size.slot_bytes) };
        // SAFETY: the memory is mapped as long as the ring lives, and the slot is nobody else's
        // until it is submitted: it is neither free nor being copied from.
        let slot = unsafe { Slot::new(lending, start, self.size.slot_bytes, self.start.direct) };
        Ok(Some(slot))
    }

    /// Copies from the slot lent under a number, which is free again once that is done. Where it is
    /// not submitted it stays lent.
    ///
    /// # Safety
    /// The buffers are of this device, hold the regions, and live until the copies are done.
    pub(crate) unsafe fn submit(&mut self, lending: usize, copies: &[Copies]) -> Result<()> {
        let Some(&index) = self.lent.get(&lending) else {
            let message = "a slot was submitted that is not lent out by this uploader";
            return Err(upload_error(message.to_owned()));
        };
        let commands = self.commands[index];
        self.begin(commands)?;
        let base = (index * self.size.slot_bytes) as u64;
        for copy in copies {
            let mut regions = copy.regions.clone();
            for region in &mut regions {
                region.src_offset += base;
            }
            // SAFETY: the commands are being recorded; the regions lie within both buffers by the
            // caller's promise and the slot's length.
            unsafe {
                self.gpu.device.cmd_copy_buffer(
                    commands,
                    self.memory.handle(),
                    copy.buffer,
                    &regions,
                );
            }
        }
        // SAFETY: recording began above; what it refers to lives by the caller's promise.
        unsafe { self.end_and_submit(commands, Some(lending)) }
    }

    /// Gives buffers to the queue family that their barriers name, after all copies.
    ///
    /// # Safety
    /// The barriers' buffers are of this device, owned by this ring's family, and live until that
    /// is done. Called once between two waits for the whole ring.
    pub(crate) unsafe fn release(
        &mut self,
        barriers: &[vk::BufferMemoryBarrier<'_>],
    ) -> Result<()> {
        let commands = self.commands[self.size.slots];
        self.begin(commands)?;
        // SAFETY: the commands are being recorded; the barriers are valid by the caller's promise.
        unsafe {
            self.gpu.device.cmd_pipeline_barrier(
                commands,
                vk::PipelineStageFlags::TRANSFER,
                vk::PipelineStageFlags::BOTTOM_OF_PIPE,
                vk::DependencyFlags::empty(),
                &[],
                barriers,
                &[],
            );
        }
        // SAFETY: as in `submit`.
        unsafe { self.end_and_submit(commands, None) }
    }

    /// Waits until the device has done with everything. Slots that are lent out stay so.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let outcome = self.wait_for(self.submitted);
        if let Err(result) = outcome {
            self.outlast(result);
        }
        let copied = self.copying.drain(..).map(|(index, _)| index);
        self.free.extend(copied);
        outcome.map_err(failed("wait for copies"))
    }

    /// Takes back slots that are lent out: whoever has them does nothing with them any more.
    pub(crate) fn take_back(&mut self) {
        self.free
            .extend(std::mem::take(&mut self.lent).into_values());
    }

    /// Stays until the device has done with everything, though waiting failed: what it copies from
    /// and to may not go before. A device that is lost has done with everything.
    fn outlast(&self, mut result: vk::Result) {
        while result != vk::Result::ERROR_DEVICE_LOST {
            match self.done() {
                Ok(done) if done >= self.submitted => return,
                Ok(_) => {}
                Err(error) => result = error,
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes back slots that were copied from, the first of them also by waiting.
    fn reap(&mut self, wait: bool) -> Result<()> {
        let Some((_, first)) = self.copying.front() else {
            return Ok(());
        };
        if wait {
            self.wait_for(*first).map_err(failed("wait for a copy"))?;
        }
        let done = self
            .done()
            .map_err(failed("ask how far copies have come"))?;
        let still = self.copying.partition_point(|(_, value)| *value <= done);
        self.free
            .extend(self.copying.drain(..still).map(|(index, _)| index));
        Ok(())
    }

    /// How many submissions are done.
    fn done(&self) -> Result<u64, vk::Result> {
        // SAFETY: the semaphore is a timeline of this device.
        unsafe { self.gpu.device.get_semaphore_counter_value(self.timeline) }
    }

    fn wait_for(&self, value: u64) -> Result<(), vk::Result> {
        if value == 0 {
            return Ok(());
        }
        let (semaphores, values) = ([self.timeline], [value]);
        let info = vk::SemaphoreWaitInfo::default()
            .semaphores(&semaphores)
            .values(&values);
        // SAFETY: the semaphore is a timeline of this device.
        unsafe { self.gpu.device.wait_semaphores(&info, u64::MAX) }
    }

    fn make_commands(&mut self) -> Result<()> {
        let device = &self.gpu.device;
        let info = vk::CommandPoolCreateInfo::default()
            .queue_family_index(self.gpu.queue_family)
            .flags(
                vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER
                    | vk::CommandPoolCreateFlags::TRANSIENT,
            );
        // SAFETY: the structure is valid, and the family is one that the device has queues of.
        self.pool = unsafe { device.create_command_pool(&info, None) }
            .map_err(failed("make a command pool"))?;
        let count = u32::try_from(self.size.slots + 1)
            .map_err(|_| upload_error(format!("a ring of {:?} is too large", self.size)))?;
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(count);
        // SAFETY: the pool was made just now, and nobody else knows it.
        self.commands = unsafe { device.allocate_command_buffers(&info) }
            .map_err(failed("make command buffers"))?;
        let mut kind = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(0);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: the structures are valid, and timelines are enabled.
        self.timeline = unsafe { device.create_semaphore(&info, None) }
            .map_err(failed("make a timeline semaphore"))?;
        Ok(())
    }

    fn begin(&self, commands: vk::CommandBuffer) -> Result<()> {
        let info = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // SAFETY: the commands are of a pool that allows to record them again, which nobody else
        // uses, and are done: their slot was free.
        unsafe { self.gpu.device.begin_command_buffer(commands, &info) }
            .map_err(failed("record a copy"))
    }

    /// Submits what was recorded, which copies from a slot where the number is given that this is
    /// lent under.
    ///
    /// # Safety
    /// The commands are being recorded, and what they refer to lives until they are done.
    unsafe fn end_and_submit(
        &mut self,
        commands: vk::CommandBuffer,
        lending: Option<usize>,
    ) -> Result<()> {
        // SAFETY: the commands are being recorded.
        unsafe { self.gpu.device.end_command_buffer(commands) }.map_err(failed("record a copy"))?;
        let done_at = self.submitted + 1;
        let pending = || {
            self.submitted = done_at;
            let slot = lending.and_then(|lending| self.lent.remove(&lending));
            self.copying.extend(slot.map(|index| (index, done_at)));
        };
        // SAFETY: the commands were recorded just now and live as long as the ring, which waits
        // before it goes; values only grow, and signals of one queue come in order.
        unsafe { self.gpu.submit(commands, self.timeline, done_at, pending) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.gpu.owner.is_current() {
            return;
        }
        if let Err(error) = self.wait() {
            tracing::debug!(%error, "copies are given up");
        }
        // Mesa's software driver uses a timeline for a moment longer than those who wait for it
        // (`vk_queue_submit_cleanup`, src/vulkan/runtime/vk_queue.c). Not where something panics:
        // whoever unwinds may be holding the lock.
        if self.gpu.is_program() && self.submitted > 0 && !thread::panicking() {
            self.gpu.wait_until_idle();
        }
        let device = &self.gpu.device;
        // SAFETY: nothing is pending: all was waited for, or the device is lost. Both are ours, or
        // null where making the ring failed.
        unsafe { device.destroy_semaphore(self.timeline, None) };
        // SAFETY: as above; the command buffers go with their pool.
        unsafe { device.destroy_command_pool(self.pool, None) };
    }
}

fn ring_memory(gpu: &Arc<Gpu>, bytes: usize, host: &dyn HostMemory) -> Result<DeviceBuffer> {
    let usage = vk::BufferUsageFlags::TRANSFER_SRC;
    if gpu.host_import.is_some() {
        let imported = HostBuffer::zeroed(host, bytes).and_then(|memory| {
            // A copy made by a fork would divert what the device and the kernel write.
            memory.exclude_from_fork(true);
            DeviceBuffer::import(gpu, memory, usage)
        });
        match imported {
            Ok(memory) => return Ok(memory),
            Err(error) => tracing::debug!(%error, "slots lie in memory of the driver"),
        }
    }
    DeviceBuffer::allocate(gpu, bytes, usage, Purpose::Staging)
}
