// The header from C++17: handles that close themselves, callbacks that are lambdas, threads. Writes
// its files into the current directory.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "check.h"

namespace {

constexpr std::size_t mebibyte = std::size_t{1} << 20;
constexpr std::size_t file_size = 9 * mebibyte + 123;
constexpr unsigned seed = 3;

template <auto Close>
struct Closes {
    template <typename Handle>
    void operator()(Handle *handle) const {
        EXPECT(OK, Close(handle));
    }
};
using File = std::unique_ptr<weightloader_file, Closes<weightloader_close>>;
using Stream = std::unique_ptr<weightloader_stream, Closes<weightloader_stream_close>>;
using Token = std::unique_ptr<weightloader_token, Closes<weightloader_token_free>>;

File open_file() {
    weightloader_file *file = nullptr;
    EXPECT(OK, weightloader_open("cpp weights", 0, WEIGHTLOADER_TO_END, nullptr, &file));
    return File(file);
}

struct Aligned {
    explicit Aligned(std::size_t size) : bytes(size + 4096) {
        void *start = bytes.data();
        std::size_t space = bytes.size();
        data = std::align(4096, size, start, space);
    }
    std::vector<unsigned char> bytes;
    void *data;
};

// Reads that another thread cancels in the midst of them, by a token and by closing the file.
void cancel_from_another_thread() {
    for (int round = 0; round < 20; round++) {
        const File file = open_file();
        weightloader_token *token = nullptr;
        EXPECT(OK, weightloader_token_new(&token));
        const Token owner(token);
        weightloader_operation operation;
        WEIGHTLOADER_INIT(&operation);
        operation.token = token;
        Aligned memory(file_size);
        std::thread canceller([&] {
            std::this_thread::sleep_for(std::chrono::microseconds(100 * round));
            EXPECT(OK, weightloader_token_cancel(token));
        });
        const weightloader_status status =
            weightloader_read(file.get(), 0, memory.data, file_size, &operation, nullptr);
        CHECK(status == WEIGHTLOADER_STATUS_OK || status == WEIGHTLOADER_STATUS_CANCELLED);
        if (status == WEIGHTLOADER_STATUS_OK) check_bytes(memory.data, file_size, 0, seed);
        canceller.join();
    }
}

void close_under_a_reader() {
    Aligned memory(file_size);
    for (int round = 0; round < 20; round++) {
        weightloader_file *file = open_file().release();
        std::thread closer([&] { EXPECT(OK, weightloader_close(file)); });
        const weightloader_status status =
            weightloader_read(file, 0, memory.data, file_size, nullptr, nullptr);
        CHECK(status == WEIGHTLOADER_STATUS_OK || status == WEIGHTLOADER_STATUS_BAD_HANDLE);
        if (status == WEIGHTLOADER_STATUS_OK) check_bytes(memory.data, file_size, 0, seed);
        closer.join();
    }
}

// A device that is done with slots late, on a thread of its own.
class Device {
  public:
    explicit Device(weightloader_stream *stream) : stream_(stream), worker_([this] { work(); }) {}

    ~Device() {
        submit({});
        worker_.join();
    }

    void submit(const weightloader_part &part) {
        const std::lock_guard<std::mutex> lock(mutex_);
        parts_.push_back(part);
        changed_.notify_one();
    }

    std::size_t copied() const { return copied_; }

  private:
    void work() {
        for (;;) {
            std::unique_lock<std::mutex> lock(mutex_);
            changed_.wait(lock, [this] { return !parts_.empty(); });
            const weightloader_part part = parts_.front();
            parts_.pop_front();
            lock.unlock();
            if (part.data == nullptr) return;
            std::this_thread::sleep_for(std::chrono::microseconds(200));
            check_bytes(part.data, part.size, part.offset, seed);
            copied_ += part.size;
            EXPECT(OK, weightloader_stream_release(stream_, part.slot));
        }
    }

    weightloader_stream *stream_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<weightloader_part> parts_;
    std::atomic<std::size_t> copied_{0};
    std::thread worker_;
};

void stream_to_a_device() {
    const File file = open_file();
    std::vector<Aligned> memory;
    std::vector<weightloader_slot> slots;
    for (int slot = 0; slot < 4; slot++) memory.emplace_back(512 * 1024);
    for (Aligned &block : memory) slots.push_back({block.data, 512 * 1024});
    const weightloader_range range = {file.get(), 0, WEIGHTLOADER_TO_END};
    weightloader_stream *opened = nullptr;
    EXPECT(OK, weightloader_stream_open(&range, 1, slots.data(), slots.size(), nullptr, &opened));
    const Stream stream(opened);
    std::size_t copied = 0;
    {
        Device device(stream.get());
        weightloader_part part;
        WEIGHTLOADER_INIT(&part);
        while (weightloader_stream_next(stream.get(), &part) == WEIGHTLOADER_STATUS_OK)
            device.submit(part);
        while ((copied = device.copied()) < file_size) std::this_thread::yield();
    }
    CHECK(copied == file_size);
}

void watch_with_a_lambda() {
    const File file = open_file();
    std::vector<float> seen;
    weightloader_operation operation;
    WEIGHTLOADER_INIT(&operation);
    operation.progress = [](float fraction, void *context) {
        static_cast<std::vector<float> *>(context)->push_back(fraction);
        return true;
    };
    operation.progress_context = &seen;
    weightloader_memory memory;
    WEIGHTLOADER_INIT(&memory);
    EXPECT(OK, weightloader_load(file.get(), 0, WEIGHTLOADER_TO_END, &operation, &memory, nullptr));
    check_bytes(memory.data, memory.size, 0, seed);
    memory.release(memory.context, memory.data, memory.size);
    CHECK(!seen.empty() && seen.back() == 1.0f);
}

// A variable of a thread's own. Made before the library keeps anything for the thread, it is
// destroyed afterwards.
struct Farewell {
    ~Farewell() {
        EXPECT(OK, weightloader_close(file));
        EXPECT(BAD_HANDLE, weightloader_close(file));
        CHECK(std::strcmp(weightloader_error_message(), "") == 0);
        weightloader_error error;
        WEIGHTLOADER_INIT(&error);
        EXPECT(OK, weightloader_last_error(&error));
        CHECK(error.status == WEIGHTLOADER_STATUS_OK && std::strcmp(error.message, "") == 0);
        *said = true;
    }
    weightloader_file *file = nullptr;
    bool *said = nullptr;
};

void fail_while_the_thread_ends() {
    bool said = false;
    std::thread ending([&said] {
        thread_local Farewell farewell;
        farewell.said = &said;
        EXPECT(BAD_HANDLE, weightloader_close(nullptr));
        CHECK(std::strcmp(weightloader_error_message(), "") != 0);
        farewell.file = open_file().release();
    });
    ending.join();
    CHECK(said);
}

}  // namespace

int main() {
    write_file("cpp weights", file_size, seed);
    watch_with_a_lambda();
    stream_to_a_device();
    cancel_from_another_thread();
    close_under_a_reader();
    fail_while_the_thread_ends();
    std::puts("C++ is served as well");
}
