// Times one segment through each DataLoader, cold and warm, in interleaved rounds:
//   bench FILE [MEBIBYTES [ROUNDS [NAME]]]
// with NAME only those whose names have it in them. FILE is written first where it is not there.
// Cold: its pages are dropped from the page cache.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <executorch/extension/data_loader/file_data_loader.h>
#include <executorch/extension/data_loader/mmap_data_loader.h>
#include <executorch/runtime/platform/runtime.h>

#include "weightloader_data_loader.h"

using executorch::extension::FileDataLoader;
using executorch::extension::MmapDataLoader;
using executorch::extension::WeightloaderDataLoader;
using executorch::runtime::DataLoader;
using executorch::runtime::Error;
using executorch::runtime::FreeableBuffer;
using executorch::runtime::Result;
using Mlock = MmapDataLoader::MlockConfig;

namespace {

const DataLoader::SegmentInfo segment(DataLoader::SegmentInfo::Type::Backend);

void check(bool condition, const char* what) {
  if (!condition) {
    std::perror(what);
    std::exit(1);
  }
}

void write_file(const char* path, size_t size) {
  struct stat status;
  if (stat(path, &status) == 0 && static_cast<size_t>(status.st_size) == size) {
    return;
  }
  const int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  check(file >= 0, path);
  std::mt19937_64 random(1);
  std::vector<uint64_t> block(1 << 17);
  for (size_t written = 0; written < size;) {
    for (uint64_t& word : block) {
      word = random();
    }
    const size_t length = std::min(size - written, block.size() * sizeof(uint64_t));
    check(write(file, block.data(), length) == static_cast<ssize_t>(length), "write");
    written += length;
  }
  check(fsync(file) == 0 && close(file) == 0, "fsync");
}

void evict(const char* path) {
  const int file = open(path, O_RDONLY);
  check(file >= 0 && posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0, "evict");
  close(file);
}

void warm(const char* path) {
  std::vector<char> block(1 << 20);
  const int file = open(path, O_RDONLY);
  check(file >= 0, path);
  while (read(file, block.data(), block.size()) > 0) {
  }
  close(file);
}

void* take_memory(size_t size) {
  void* memory =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check(memory != MAP_FAILED, "mmap");
  return memory;
}

/// A destination fresh from the system, as malloc gives it.
void load_into_fresh(const DataLoader& loader, size_t size) {
  void* memory = take_memory(size);
  check(loader.load_into(0, size, segment, memory) == Error::Ok, "load_into");
  munmap(memory, size);
}

void* arena = nullptr;

/// A destination that was there before: an arena, a buffer of the device.
void load_into_arena(const DataLoader& loader, size_t size) {
  check(loader.load_into(0, size, segment, arena) == Error::Ok, "load_into");
}

/// What a segment costs until each of its pages was looked at.
void load_and_touch(const DataLoader& loader, size_t size) {
  Result<FreeableBuffer> buffer = loader.load(0, size, segment);
  check(buffer.ok(), "load");
  const volatile unsigned char* bytes = static_cast<const unsigned char*>(buffer->data());
  unsigned sum = 0;
  for (size_t at = 0; at < size; at += 4096) {
    sum += bytes[at];
  }
  check(sum > 0, "the segment is empty");
}

struct Way {
  std::string name;
  std::function<void(const char*, size_t)> run;
  std::vector<double> cold, warm;
};

template <typename Loader>
Loader opened(Result<Loader> loader) {
  check(loader.ok(), "open");
  return std::move(loader.get());
}

double seconds(const Way& way, const char* path, size_t size) {
  const auto start = std::chrono::steady_clock::now();
  way.run(path, size);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string rates(std::vector<double> times, size_t size) {
  std::sort(times.begin(), times.end());
  const double gigabytes = static_cast<double>(size) / 1e9;
  char text[64];
  std::snprintf(
      text,
      sizeof text,
      "%.2f (%.2f)",
      gigabytes / times.front(),
      gigabytes / times[times.size() / 2]);
  return text;
}

} // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    std::fprintf(stderr, "usage: %s FILE [MEBIBYTES [ROUNDS]]\n", arguments[0]);
    return 2;
  }
  executorch::runtime::runtime_init();
  const char* path = arguments[1];
  const size_t size = (count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1024) << 20;
  const int rounds = count > 3 ? std::max(1, std::atoi(arguments[3])) : 5;
  write_file(path, size);

  const std::string chosen = count > 4 ? arguments[4] : "";
  arena = take_memory(size);
  std::memset(arena, 1, size);

  using Ours = WeightloaderDataLoader;
  std::vector<Way> ways = {
      {"`load_into` an arena, weightloader",
       [](const char* p, size_t n) { load_into_arena(opened(Ours::from(p)), n); },
       {},
       {}},
      {"`load_into` an arena, FileDataLoader",
       [](const char* p, size_t n) { load_into_arena(opened(FileDataLoader::from(p)), n); },
       {},
       {}},
      {"`load_into` an arena, MmapDataLoader",
       [](const char* p, size_t n) {
         load_into_arena(opened(MmapDataLoader::from(p, Mlock::NoMlock)), n);
       },
       {},
       {}},
      {"`load_into` fresh memory, weightloader",
       [](const char* p, size_t n) { load_into_fresh(opened(Ours::from(p)), n); },
       {},
       {}},
      {"`load_into` fresh memory, FileDataLoader",
       [](const char* p, size_t n) { load_into_fresh(opened(FileDataLoader::from(p)), n); },
       {},
       {}},
      {"`load_into` fresh memory, MmapDataLoader",
       [](const char* p, size_t n) {
         load_into_fresh(opened(MmapDataLoader::from(p, Mlock::NoMlock)), n);
       },
       {},
       {}},
      {"`load`, weightloader",
       [](const char* p, size_t n) { load_and_touch(opened(Ours::from(p)), n); },
       {},
       {}},
      {"`load`, weightloader, mapped after `prefetch`",
       [](const char* p, size_t n) {
         const Ours loader = opened(Ours::from(p, Ours::Memory::Map));
         loader.prefetch(0, n);
         load_and_touch(loader, n);
       },
       {},
       {}},
      {"`load`, FileDataLoader",
       [](const char* p, size_t n) { load_and_touch(opened(FileDataLoader::from(p)), n); },
       {},
       {}},
      {"`load`, MmapDataLoader, no mlock",
       [](const char* p, size_t n) {
         load_and_touch(opened(MmapDataLoader::from(p, Mlock::NoMlock)), n);
       },
       {},
       {}},
      {"`load`, MmapDataLoader, mlock",
       [](const char* p, size_t n) {
         load_and_touch(opened(MmapDataLoader::from(p, Mlock::UseMlockIgnoreErrors)), n);
       },
       {},
       {}},
      {"`load`, MmapDataLoader, madvise",
       [](const char* p, size_t n) {
         load_and_touch(opened(MmapDataLoader::from(p, Mlock::UseMadvise)), n);
       },
       {},
       {}},
  };
  const auto unwanted = [&](const Way& way) {
    return way.name.find(chosen) == std::string::npos;
  };
  ways.erase(std::remove_if(ways.begin(), ways.end(), unwanted), ways.end());
  for (int round = 0; round < rounds; round++) {
    for (size_t turn = 0; turn < ways.size(); turn++) {
      Way& way = ways[(turn + static_cast<size_t>(round)) % ways.size()];
      evict(path);
      way.cold.push_back(seconds(way, path, size));
      warm(path);
      way.warm.push_back(seconds(way, path, size));
    }
  }
  std::printf("| %zu MiB, GB/s, best (median) of %d | cold | warm |\n|---|---|---|\n", size >> 20, rounds);
  for (const Way& way : ways) {
    std::printf(
        "| %s | %s | %s |\n",
        way.name.c_str(),
        rates(way.cold, size).c_str(),
        rates(way.warm, size).c_str());
  }
  return 0;
}
