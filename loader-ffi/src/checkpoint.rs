//! Checkpoints: which tensors there are, and where they lie.

use std::ffi::{CString, c_char};

use weightloader::{Checkpoint, TensorInfo};

use crate::boundary::{give, guarded, invalid, null, output};
use crate::failure::{Failure, Result, Status, c_string};
use crate::file::{FileHandle, OpenFile, path_from};
use crate::options::{Chosen, Options};
use crate::registry::{self, handle};
use crate::sized::{self, Growing};

handle!(
    /// The tensor index of a file or of a folder of shards.
    CheckpointHandle,
    Index,
    "weightloader_checkpoint"
);

/// A checkpoint, with its strings for C.
#[derive(Debug)]
pub(crate) struct Index {
    checkpoint: Checkpoint,
    chosen: Chosen,
    format: CString,
    tensors: Vec<Strings>,
}

/// What a tensor's strings are in C.
#[derive(Debug)]
struct Strings {
    /// With a zero byte at its end.
    name: Box<[u8]>,
    dtype: CString,
}

/// What is known of a checkpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CheckpointInfo {
    /// sizeof(weightloader_checkpoint_info).
    pub struct_size: usize,
    /// How many tensors it has.
    pub tensors: usize,
    /// How many files it has.
    pub files: usize,
    /// Bytes of all tensors together.
    pub bytes: u64,
    /// "safetensors", "GGUF" or "raw". Valid until the checkpoint is closed.
    pub format: *const c_char,
}

// SAFETY: pointers and numbers, the first of which is the length.
unsafe impl Growing for CheckpointInfo {
    const NAME: &'static str = "weightloader_checkpoint_info";
}

/// A tensor: its name, what its elements are, and where its bytes lie. Pointers are valid until the
/// checkpoint is closed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// sizeof(weightloader_tensor).
    pub struct_size: usize,
    /// Its place in the index.
    pub index: usize,
    /// Its name, UTF-8, with a zero byte at its end (and before, where somebody named it so).
    pub name: *const c_char,
    /// Bytes of its name, without the zero byte at its end.
    pub name_length: usize,
    /// What its elements are: "F32", "BF16", "Q4_K" and so on.
    pub dtype: *const c_char,
    /// Elements of one block; 1 where elements are not grouped.
    pub block_elements: u64,
    /// Bytes of one block.
    pub block_bytes: u64,
    /// Its dimensions in elements, as its format orders them: safetensors begins with the outermost
    /// one, GGUF with the innermost.
    pub shape: *const u64,
    /// How many dimensions it has.
    pub rank: usize,
    /// Which of the checkpoint's files holds it.
    pub file: usize,
    /// Where in that file its bytes begin.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u64,
}

// SAFETY: pointers and numbers, the first of which is the length.
unsafe impl Growing for Tensor {
    const NAME: &'static str = "weightloader_tensor";
}

impl Index {
    fn new(checkpoint: Checkpoint, chosen: Chosen) -> Self {
        let strings = |tensor: &TensorInfo| Strings {
            name: [tensor.name().as_bytes(), &[0]].concat().into(),
            dtype: c_string(tensor.dtype().name().as_bytes()),
        };
        Self {
            tensors: checkpoint.tensors().iter().map(strings).collect(),
            format: c_string(checkpoint.format().to_string().as_bytes()),
            checkpoint,
            chosen,
        }
    }

    fn tensor(&self, index: usize) -> Result<Tensor> {
        let found = self
            .checkpoint
            .tensors()
            .get(index)
            .zip(self.tensors.get(index));
        let Some((info, strings)) = found else {
            let count = self.tensors.len();
            return Err(invalid(format!(
                "index {index} where there are {count} tensors"
            )));
        };
        let (block_elements, block_bytes) = info.dtype().block();
        Ok(Tensor {
            struct_size: 0,
            index,
            name: strings.name.as_ptr().cast(),
            name_length: info.name().len(),
            dtype: strings.dtype.as_ptr(),
            block_elements,
            block_bytes,
            shape: info.shape().as_ptr(),
            rank: info.shape().len(),
            file: info.file(),
            offset: info.range().start,
            length: info.bytes(),
        })
    }
}

/// Reads the headers of a checkpoint: a file of safetensors, GGUF or raw bytes, a folder of shards,
/// or its index file. `options`, which may be null, are those of its files. Close it by
/// weightloader_checkpoint_close().
///
/// Threads: any, at any time.
///
/// # Safety
/// `path` ends with a zero byte, `options` is null or has its `struct_size` set, `checkpoint` is
/// valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_checkpoint_open(
    path: *const c_char,
    options: *const Options,
    checkpoint: *mut *mut CheckpointHandle,
) -> Status {
    guarded(|| {
        output(checkpoint, "checkpoint")?;
        // SAFETY: the caller's promise.
        let path = unsafe { path_from(path) }?;
        // SAFETY: the caller's promise.
        let chosen = unsafe { Chosen::read(options) }?;
        let loader = chosen.loader()?;
        let handle = registry::issue(Index::new(loader.open(path)?, chosen))?;
        // SAFETY: the caller's promise.
        unsafe { give(checkpoint, handle, "checkpoint") }
    })
}

/// As weightloader_checkpoint_open(), for one open file or blob and no other.
///
/// Threads: any, at any time, several on the same handle too.
///
/// # Safety
/// `checkpoint` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_checkpoint_from_file(
    file: *const FileHandle,
    checkpoint: *mut *mut CheckpointHandle,
) -> Status {
    guarded(|| {
        output(checkpoint, "checkpoint")?;
        let opened = registry::find(file)?;
        let index = Checkpoint::from_file(opened.file.clone())?;
        let handle = registry::issue(Index::new(index, opened.chosen))?;
        // SAFETY: the caller's promise.
        unsafe { give(checkpoint, handle, "checkpoint") }
    })
}

/// Closes a checkpoint. Files that it gave live on.
///
/// Threads: any; calls of others that use the handle already go on undisturbed.
#[unsafe(no_mangle)]
pub extern "C" fn weightloader_checkpoint_close(checkpoint: *mut CheckpointHandle) -> Status {
    guarded(|| registry::close(checkpoint.cast_const()).map(drop))
}

/// Tells how many tensors and files there are.
///
/// Threads: any, at any time, several on the same handle too.
///
/// # Safety
/// `info` points to a `weightloader_checkpoint_info` whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_get_checkpoint_info(
    checkpoint: *const CheckpointHandle,
    info: *mut CheckpointInfo,
) -> Status {
    guarded(|| {
        let index = registry::find(checkpoint)?;
        let answer = CheckpointInfo {
            struct_size: 0,
            tensors: index.tensors.len(),
            files: index.checkpoint.files().len(),
            bytes: index.checkpoint.bytes(),
            format: index.format.as_ptr(),
        };
        // SAFETY: the caller's promise.
        unsafe { sized::write(info, &answer) }
    })
}

/// Opens one of the checkpoint's files, to read from: cheap, for it is open already. Close it by
/// weightloader_close().
///
/// Threads: any, at any time, several on the same handle too.
///
/// # Safety
/// `file` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_checkpoint_file(
    checkpoint: *const CheckpointHandle,
    index: usize,
    file: *mut *mut FileHandle,
) -> Status {
    guarded(|| {
        output(file, "file")?;
        let found = registry::find(checkpoint)?;
        let files = found.checkpoint.files();
        let count = files.len();
        let opened = files
            .get(index)
            .ok_or_else(|| invalid(format!("index {index} where there are {count} files")))?;
        let handle = registry::issue(OpenFile::new(found.chosen, opened.clone())?)?;
        // SAFETY: the caller's promise.
        unsafe { give(file, handle, "file") }
    })
}

/// Tells of one tensor, by its place: by file, then by offset.
///
/// Threads: any, at any time, several on the same handle too.
///
/// # Safety
/// `tensor` points to a `weightloader_tensor` whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_checkpoint_tensor(
    checkpoint: *const CheckpointHandle,
    index: usize,
    tensor: *mut Tensor,
) -> Status {
    guarded(|| {
        let answer = registry::find(checkpoint)?.tensor(index)?;
        // SAFETY: the caller's promise.
        unsafe { sized::write(tensor, &answer) }
    })
}

/// Tells of one tensor, by its name of `name_length` bytes, which may be found without a zero byte
/// at its end. WEIGHTLOADER_STATUS_NO_SUCH_TENSOR where there is none.
///
/// Threads: any, at any time, several on the same handle too.
///
/// # Safety
/// `name` has `name_length` bytes, `tensor` points to a `weightloader_tensor` whose `struct_size`
/// is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_checkpoint_find(
    checkpoint: *const CheckpointHandle,
    name: *const c_char,
    name_length: usize,
    tensor: *mut Tensor,
) -> Status {
    guarded(|| {
        let index = registry::find(checkpoint)?;
        if name.is_null() {
            return Err(null("name"));
        }
        // SAFETY: the caller's promise.
        let name = unsafe { crate::boundary::elements(name.cast::<u8>(), name_length, "name") }?;
        let missing = || {
            let name = String::from_utf8_lossy(&name);
            Failure::new(Status::NoSuchTensor, format!("no tensor is named {name:?}"))
        };
        let text = std::str::from_utf8(&name).map_err(|_| missing())?;
        let found = std::ptr::from_ref(index.checkpoint.tensor(text)?);
        // The entry is one of the index's, so the distance is its place.
        let first = index.checkpoint.tensors().as_ptr();
        let place = (found.addr() - first.addr()) / size_of::<TensorInfo>();
        let answer = index.tensor(place)?;
        // SAFETY: the caller's promise.
        unsafe { sized::write(tensor, &answer) }
    })
}
