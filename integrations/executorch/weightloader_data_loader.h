#pragma once

#include <cstddef>

#include <executorch/runtime/core/data_loader.h>
#include <executorch/runtime/core/error.h>
#include <executorch/runtime/core/freeable_buffer.h>
#include <executorch/runtime/core/result.h>

#include <weightloader.h>

namespace executorch {
namespace extension {

/**
 * A DataLoader that reads segments with weightloader: what is cached from the page cache with
 * several threads, the rest past it with a deep queue of direct reads.
 *
 * Pointers that load() gives lie within a page as their offset does within the file, as those of
 * MmapDataLoader do. All methods may be called from several threads at once. It throws no
 * exceptions.
 */
class WeightloaderDataLoader final : public executorch::runtime::DataLoader {
 public:
  /// What load() gives.
  enum class Memory {
    /// Memory of its own that segments are read into: fastest to have at hand.
    Read,
    /// A mapping, which shares its pages with other processes: for segments of which little is
    /// touched. See prefetch().
    Map,
  };

  /**
   * @param[in] file_name Path to the file to load from, which stays open until the loader is
   *     destroyed.
   * @param[in] memory What load() gives.
   * @param[in] options How bytes are read; null for the best for most.
   *
   * @retval Error::AccessFailed The file could not be opened.
   * @retval Error::InvalidArgument The options make no sense.
   */
  static executorch::runtime::Result<WeightloaderDataLoader> from(
      const char* file_name,
      Memory memory = Memory::Read,
      const weightloader_options* options = nullptr);

  // Movable to be compatible with Result.
  WeightloaderDataLoader(WeightloaderDataLoader&& rhs) noexcept
      : file_(rhs.file_), size_(rhs.size_), memory_(rhs.memory_) {
    rhs.file_ = nullptr;
  }

  ~WeightloaderDataLoader() override;

  ET_NODISCARD executorch::runtime::Result<executorch::runtime::FreeableBuffer> load(
      size_t offset,
      size_t size,
      const SegmentInfo& segment_info) const override;

  ET_NODISCARD executorch::runtime::Error load_into(
      size_t offset,
      size_t size,
      const SegmentInfo& segment_info,
      void* buffer) const override;

  ET_NODISCARD executorch::runtime::Result<size_t> size() const override;

  /**
   * Brings bytes into the page cache in the background and returns at once: while a backend
   * compiles kernels or opens a library, before it asks for its segment. Segments that are asked
   * for meanwhile are not read twice. A hint: nothing depends on it.
   */
  void prefetch(size_t offset, size_t size) const;

 private:
  WeightloaderDataLoader(weightloader_file* file, size_t size, Memory memory)
      : file_(file), size_(size), memory_(memory) {}

  // Not safely copyable.
  WeightloaderDataLoader(const WeightloaderDataLoader&) = delete;
  WeightloaderDataLoader& operator=(const WeightloaderDataLoader&) = delete;
  WeightloaderDataLoader& operator=(WeightloaderDataLoader&&) = delete;

  weightloader_file* file_; // Owned by the instance.
  const size_t size_;
  const Memory memory_;
};

} // namespace extension
} // namespace executorch
