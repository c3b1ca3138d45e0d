// Our DataLoader against ExecuTorch's own two, over random segments and in a program with external
// weights: test FOLDER_OF_THE_PROGRAM, in a directory where it may write.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <executorch/extension/data_loader/file_data_loader.h>
#include <executorch/extension/data_loader/mmap_data_loader.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/platform/runtime.h>

#include "weightloader_data_loader.h"

using executorch::extension::FileDataLoader;
using executorch::extension::from_blob;
using executorch::extension::MmapDataLoader;
using executorch::extension::Module;
using executorch::extension::WeightloaderDataLoader;
using executorch::runtime::DataLoader;
using executorch::runtime::Error;
using executorch::runtime::FreeableBuffer;
using executorch::runtime::Result;

#define CHECK(condition)                                                    \
  do {                                                                      \
    if (!(condition)) {                                                     \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);  \
      std::exit(1);                                                         \
    }                                                                       \
  } while (0)

namespace {

const DataLoader::SegmentInfo segment(DataLoader::SegmentInfo::Type::Constant);

using Memory = WeightloaderDataLoader::Memory;

WeightloaderDataLoader open(const std::string& path, Memory memory = Memory::Read) {
  Result<WeightloaderDataLoader> loader = WeightloaderDataLoader::from(path.c_str(), memory);
  CHECK(loader.ok());
  return std::move(loader.get());
}

template <typename T>
std::vector<T> read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  CHECK(file.good());
  std::vector<T> values(static_cast<size_t>(file.tellg()) / sizeof(T));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
  CHECK(file.good());
  return values;
}

/// Random bytes, in a file that is not a whole number of pages.
std::vector<unsigned char> write_blob(const std::string& path) {
  std::mt19937_64 random(1);
  std::vector<unsigned char> bytes(20 * 1024 * 1024 + 123);
  for (unsigned char& byte : bytes) {
    byte = static_cast<unsigned char>(random());
  }
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  CHECK(file.good());
  return bytes;
}

void check_segment(
    const DataLoader& loader,
    const std::vector<unsigned char>& bytes,
    size_t offset,
    size_t size) {
  Result<FreeableBuffer> buffer = loader.load(offset, size, segment);
  CHECK(buffer.ok() && buffer->size() == size);
  CHECK(size == 0 || std::memcmp(buffer->data(), bytes.data() + offset, size) == 0);
  std::vector<unsigned char> into(size + 2, 0xee);
  CHECK(loader.load_into(offset, size, segment, into.data() + 1) == Error::Ok);
  CHECK(into.front() == 0xee && into.back() == 0xee);
  CHECK(std::equal(into.begin() + 1, into.end() - 1, bytes.begin() + static_cast<long>(offset)));
}

void random_segments_are_those_of_the_other_loaders() {
  const std::string path = "blob";
  const std::vector<unsigned char> bytes = write_blob(path);
  const WeightloaderDataLoader read = open(path);
  const WeightloaderDataLoader mapped = open(path, Memory::Map);
  Result<FileDataLoader> file = FileDataLoader::from(path.c_str());
  Result<MmapDataLoader> mmap =
      MmapDataLoader::from(path.c_str(), MmapDataLoader::MlockConfig::NoMlock);
  CHECK(file.ok() && mmap.ok());
  const std::vector<const DataLoader*> loaders = {&read, &mapped, &file.get(), &mmap.get()};
  for (const DataLoader* loader : loaders) {
    Result<size_t> size = loader->size();
    CHECK(size.ok() && size.get() == bytes.size());
  }

  std::mt19937_64 random(2);
  for (int round = 0; round < 60; round++) {
    const size_t offset = random() % bytes.size();
    const size_t most = round % 3 == 0 ? bytes.size() : 100'000;
    const size_t size = 1 + random() % std::min(most, bytes.size() - offset);
    for (const DataLoader* loader : loaders) {
      check_segment(*loader, bytes, offset, size);
    }
  }
  check_segment(read, bytes, 0, bytes.size());
  check_segment(read, bytes, bytes.size(), 0);
  check_segment(mapped, bytes, 5, 0);

  // Several backends initialise at once.
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 6; seed++) {
    threads.emplace_back([&, seed] {
      std::mt19937_64 own(seed);
      for (int round = 0; round < 10; round++) {
        const size_t offset = own() % bytes.size();
        read.prefetch(offset, bytes.size() - offset);
        check_segment(read, bytes, offset, own() % (bytes.size() - offset));
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

void what_cannot_be_loaded_is_an_error() {
  CHECK(WeightloaderDataLoader::from("no such file").error() == Error::AccessFailed);
  const WeightloaderDataLoader loader = open("blob");
  const size_t size = loader.size().get();
  unsigned char byte = 0;
  CHECK(loader.load(size, 1, segment).error() == Error::InvalidArgument);
  CHECK(loader.load(SIZE_MAX, 2, segment).error() == Error::InvalidArgument);
  CHECK(loader.load_into(size, 1, segment, &byte) == Error::InvalidArgument);
  CHECK(loader.load_into(0, 1, segment, nullptr) == Error::InvalidArgument);
  loader.prefetch(size, 1);
}

/// A segment outlives its loader.
void segments_are_freed_by_their_buffers() {
  const std::vector<unsigned char> bytes = read_all<unsigned char>("blob");
  for (const Memory memory : {Memory::Read, Memory::Map}) {
    FreeableBuffer kept;
    {
      const WeightloaderDataLoader loader = open("blob", memory);
      Result<FreeableBuffer> buffer = loader.load(100, 1'000'000, segment);
      CHECK(buffer.ok());
      CHECK(reinterpret_cast<uintptr_t>(buffer->data()) % 4096 == 100);
      FreeableBuffer moved(std::move(buffer.get()));
      CHECK(std::memcmp(moved.data(), bytes.data() + 100, moved.size()) == 0);
      moved.Free();
      CHECK(moved.data() == nullptr);
    }
  }
}

std::vector<float> run(Module& module, std::vector<float> input) {
  auto tensor = from_blob(input.data(), {1, static_cast<int>(input.size())});
  const auto outputs = module.forward(tensor);
  CHECK(outputs.ok() && outputs->size() == 1);
  const auto output = outputs->at(0).toTensor();
  const float* values = output.const_data_ptr<float>();
  return {values, values + output.numel()};
}

void a_program_with_external_weights_gives_its_output(const std::string& folder) {
  const std::string program = folder + "/linear.pte", weights = folder + "/linear.ptd";
  const std::vector<float> input = read_all<float>(folder + "/linear.input.f32");
  const std::vector<float> expected = read_all<float>(folder + "/linear.expected.f32");
  Module own(program, {weights});
  const std::vector<float> reference = run(own, input);
  for (const Memory memory : {Memory::Read, Memory::Map}) {
    Module module(
        std::make_unique<WeightloaderDataLoader>(open(program, memory)),
        nullptr,
        nullptr,
        nullptr,
        std::make_unique<WeightloaderDataLoader>(open(weights, memory)));
    const std::vector<float> output = run(module, input);
    CHECK(output.size() == expected.size());
    float furthest = 0;
    for (size_t index = 0; index < output.size(); index++) {
      furthest = std::max(furthest, std::fabs(output[index] - expected[index]));
    }
    CHECK(furthest < 1e-5f);
    CHECK(output == reference);
  }
}

} // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: %s FOLDER_OF_THE_PROGRAM\n", arguments[0]);
    return 2;
  }
  executorch::runtime::runtime_init();
  random_segments_are_those_of_the_other_loaders();
  what_cannot_be_loaded_is_an_error();
  segments_are_freed_by_their_buffers();
  a_program_with_external_weights_gives_its_output(arguments[1]);
  std::puts("ExecuTorch loads its weights through weightloader");
}
