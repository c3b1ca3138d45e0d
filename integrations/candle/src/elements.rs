//! Memory that bytes are read into and that then becomes a tensor's, without a copy.

use std::ptr::NonNull;

use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, Device, Error, Result, Shape, Storage, Tensor, WithDType};
use float8::F8E4M3;
use half::{bf16, f16};
use weightloader::{Destination, Dtype, TensorInfo};

/// What candle keeps the elements of a tensor in.
///
/// # Safety
/// Any bytes of its size are a value of it.
unsafe trait Plain: Send + 'static {}

macro_rules! plain {
    ($($element:ty)*) => {
        $(
            // SAFETY: an integer or a floating point number, which any bits are one of.
            unsafe impl Plain for $element {}
        )*
    };
}

plain!(u8 u16 u32 i16 i32 i64 f16 bf16 f32 f64 F8E4M3);

/// Memory of one tensor: filled first, its tensor then.
pub(crate) trait Elements: Send {
    /// The memory, to be filled whole.
    fn destination(&mut self) -> Destination<'_>;

    /// The tensor of that shape.
    ///
    /// # Safety
    /// All of [`destination`](Self::destination) has been filled.
    unsafe fn into_tensor(self: Box<Self>, shape: Shape) -> Result<Tensor>;
}

/// Memory for a tensor, of the type that candle's own loader gives it.
pub(crate) fn elements(info: &TensorInfo) -> Result<Box<dyn Elements>> {
    match info.dtype() {
        Dtype::U8 => reserve::<u8>(info, owned),
        // candle has no such type and widens it.
        Dtype::U16 => reserve::<u16>(info, |values, shape| {
            owned(values.into_iter().map(u32::from).collect(), shape)
        }),
        Dtype::U32 => reserve::<u32>(info, owned),
        Dtype::I16 => reserve::<i16>(info, owned),
        Dtype::I32 => reserve::<i32>(info, owned),
        Dtype::I64 => reserve::<i64>(info, owned),
        Dtype::F16 => reserve::<f16>(info, owned),
        Dtype::BF16 => reserve::<bf16>(info, owned),
        Dtype::F32 => reserve::<f32>(info, owned),
        Dtype::F64 => reserve::<f64>(info, owned),
        Dtype::F8_E4M3 => reserve::<F8E4M3>(info, owned),
        // Types that candle carries along as bytes.
        Dtype::F4 => reserve(info, |bytes, shape| carried(CpuStorage::F4(bytes), shape)),
        Dtype::F6_E2M3 => reserve(info, |bytes, shape| {
            carried(CpuStorage::F6E2M3(bytes), shape)
        }),
        Dtype::F6_E3M2 => reserve(info, |bytes, shape| {
            carried(CpuStorage::F6E3M2(bytes), shape)
        }),
        Dtype::F8_E8M0 => reserve(info, |bytes, shape| {
            carried(CpuStorage::F8E8M0(bytes), shape)
        }),
        other => Err(unknown(info.name(), other)),
    }
}

/// That candle has no type for a tensor, as an error.
pub(crate) fn unknown(name: &str, dtype: Dtype) -> Error {
    Error::msg(format!("{name}: candle has no type for {dtype}"))
}

/// Memory of one tensor, and what becomes of it.
struct Reserved<T> {
    /// Empty, with room for `count`.
    values: Vec<T>,
    count: usize,
    finish: fn(Vec<T>, Shape) -> Result<Tensor>,
}

fn reserve<T: Plain>(
    info: &TensorInfo,
    finish: fn(Vec<T>, Shape) -> Result<Tensor>,
) -> Result<Box<dyn Elements>> {
    let bytes = usize::try_from(info.bytes()).map_err(Error::wrap)?;
    // The index has checked that the bytes are as many as the elements need.
    let count = bytes / size_of::<T>();
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|error| {
        Error::msg(format!(
            "{}: no memory for {bytes} bytes: {error}",
            info.name()
        ))
    })?;
    Ok(Box::new(Reserved {
        values,
        count,
        finish,
    }))
}

impl<T: Plain> Elements for Reserved<T> {
    fn destination(&mut self) -> Destination<'_> {
        let room = &mut self.values.spare_capacity_mut()[..self.count];
        let start = NonNull::from(&mut *room).cast();
        // SAFETY: the memory is borrowed exclusively for as long as the destination lives, and
        // room for values of which any bytes are one may be filled with bytes.
        let destination = unsafe { Destination::from_raw(start, size_of_val(room), true) };
        destination.fresh()
    }

    unsafe fn into_tensor(mut self: Box<Self>, shape: Shape) -> Result<Tensor> {
        // SAFETY: so many values have room, and the caller has filled it.
        unsafe { self.values.set_len(self.count) };
        (self.finish)(self.values, shape)
    }
}

fn owned<T: WithDType>(values: Vec<T>, shape: Shape) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}

fn carried(storage: CpuStorage, shape: Shape) -> Result<Tensor> {
    let storage = Storage::Cpu(storage);
    Ok(Tensor::from_storage(
        storage,
        shape,
        BackpropOp::none(),
        false,
    ))
}
