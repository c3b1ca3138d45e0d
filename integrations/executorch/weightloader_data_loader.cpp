#include "weightloader_data_loader.h"

#include <cstdint>

#include <executorch/runtime/platform/log.h>

using executorch::runtime::Error;
using executorch::runtime::FreeableBuffer;
using executorch::runtime::Result;

namespace executorch {
namespace extension {

namespace {

/// Logs why a call failed, and gives ExecuTorch's code for it.
Error failed(weightloader_status status, const char* what) {
  ET_LOG(Error, "%s: %s", what, weightloader_error_message());
  switch (status) {
    case WEIGHTLOADER_STATUS_OUT_OF_BOUNDS:
    case WEIGHTLOADER_STATUS_INVALID_ARGUMENT:
    case WEIGHTLOADER_STATUS_NULL_POINTER:
      return Error::InvalidArgument;
    case WEIGHTLOADER_STATUS_OUT_OF_MEMORY:
      return Error::MemoryAllocationFailed;
    case WEIGHTLOADER_STATUS_UNSUPPORTED:
      return Error::NotSupported;
    case WEIGHTLOADER_STATUS_BAD_HANDLE:
      return Error::InvalidState;
    default:
      return Error::AccessFailed;
  }
}

} // namespace

Result<WeightloaderDataLoader> WeightloaderDataLoader::from(
    const char* file_name,
    Memory memory,
    const weightloader_options* options) {
  weightloader_file* file = nullptr;
  weightloader_status status =
      weightloader_open(file_name, 0, WEIGHTLOADER_TO_END, options, &file);
  if (status != WEIGHTLOADER_STATUS_OK) {
    return failed(status, "cannot open");
  }
  weightloader_file_info info;
  WEIGHTLOADER_INIT(&info);
  status = weightloader_get_file_info(file, &info);
  if (status == WEIGHTLOADER_STATUS_OK && info.size <= SIZE_MAX) {
    return WeightloaderDataLoader(file, static_cast<size_t>(info.size), memory);
  }
  weightloader_close(file);
  return failed(status, "cannot tell the size");
}

WeightloaderDataLoader::~WeightloaderDataLoader() {
  // Null in one that was moved from.
  if (file_ != nullptr) {
    weightloader_close(file_);
  }
}

Result<FreeableBuffer> WeightloaderDataLoader::load(
    size_t offset,
    size_t size,
    ET_UNUSED const SegmentInfo& segment_info) const {
  weightloader_memory memory;
  WEIGHTLOADER_INIT(&memory);
  const weightloader_status status = memory_ == Memory::Map
      ? weightloader_map(file_, offset, size, &memory)
      : weightloader_load(file_, offset, size, nullptr, &memory, nullptr);
  if (status != WEIGHTLOADER_STATUS_OK) {
    return failed(status, "cannot load a segment");
  }
  return FreeableBuffer(memory.data, memory.size, memory.release, memory.context);
}

Error WeightloaderDataLoader::load_into(
    size_t offset,
    size_t size,
    ET_UNUSED const SegmentInfo& segment_info,
    void* buffer) const {
  weightloader_operation operation;
  WEIGHTLOADER_INIT(&operation);
  // Large buffers mostly come straight from the system, and then may still lie on huge pages.
  operation.memory_flags = WEIGHTLOADER_MEMORY_FLAG_FRESH;
  const weightloader_status status =
      weightloader_read(file_, offset, buffer, size, &operation, nullptr);
  return status == WEIGHTLOADER_STATUS_OK ? Error::Ok : failed(status, "cannot load a segment");
}

Result<size_t> WeightloaderDataLoader::size() const {
  return size_;
}

void WeightloaderDataLoader::prefetch(size_t offset, size_t size) const {
  weightloader_job* job = nullptr;
  if (weightloader_prefetch(file_, offset, size, &job) == WEIGHTLOADER_STATUS_OK) {
    weightloader_job_detach(job);
  } else {
    ET_LOG(Info, "no prefetch: %s", weightloader_error_message());
  }
}

} // namespace extension
} // namespace executorch
