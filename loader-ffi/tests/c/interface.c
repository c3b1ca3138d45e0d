/* Everything that weightloader.h offers, and everything that can be done wrong with it. Writes its
   files into the current directory. With the argument "without-forks" it leaves forks out: what a
   child leaves behind is no leak, but looks like one to Valgrind. */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define MEBIBYTE ((size_t)1 << 20)
#define SIZE (5 * MEBIBYTE + 4321)
#define SEED 7

static weightloader_file *open_file(const char *path) {
    weightloader_file *file = NULL;
    EXPECT(OK, weightloader_open(path, 0, WEIGHTLOADER_TO_END, NULL, &file));
    CHECK(file != NULL);
    return file;
}

/* Memory that tools know to be initialised, also where the kernel writes to it behind their back. */
static void *memory(size_t size) {
    void *bytes = NULL;
    CHECK(posix_memalign(&bytes, 4096, size) == 0);
    memset(bytes, 0xee, size);
    return bytes;
}

static void test_versions_and_names(void) {
    char expected[32];
    snprintf(expected, sizeof expected, "%d.%d.%d", WEIGHTLOADER_VERSION_MAJOR,
             WEIGHTLOADER_VERSION_MINOR, WEIGHTLOADER_VERSION_PATCH);
    CHECK(strcmp(weightloader_version(), expected) == 0);
    for (int status = 0; status <= WEIGHTLOADER_STATUS_INTERNAL; status++)
        CHECK(strcmp(weightloader_status_name(status), "unknown") != 0);
    CHECK(strcmp(weightloader_status_name(-1), "unknown") == 0);
    CHECK(strcmp(weightloader_status_name(1000), "unknown") == 0);
}

static void test_opening(void) {
    weightloader_file *file = NULL;
    weightloader_error error;
    WEIGHTLOADER_INIT(&error);

    EXPECT(NULL_POINTER, weightloader_open(NULL, 0, WEIGHTLOADER_TO_END, NULL, &file));
    EXPECT(NULL_POINTER, weightloader_open("weights", 0, WEIGHTLOADER_TO_END, NULL, NULL));
    EXPECT(IO, weightloader_open("no such file", 0, WEIGHTLOADER_TO_END, NULL, &file));
    EXPECT(OK, weightloader_last_error(&error));
    CHECK(error.status == WEIGHTLOADER_STATUS_IO && error.system_code == ENOENT);
    CHECK(strcmp(error.path, "no such file") == 0 && error.offset == WEIGHTLOADER_UNKNOWN);
    CHECK(strstr(error.message, "no such file") != NULL);
    EXPECT(NOT_REGULAR, weightloader_open(".", 0, WEIGHTLOADER_TO_END, NULL, &file));
    EXPECT(OUT_OF_BOUNDS, weightloader_open("weights", SIZE, 1, NULL, &file));
    EXPECT(OUT_OF_BOUNDS, weightloader_open("weights", UINT64_MAX - 1, 2, NULL, &file));
    EXPECT(OUT_OF_BOUNDS, weightloader_open("weights", SIZE + 1, WEIGHTLOADER_TO_END, NULL, &file));
    CHECK(file == NULL);

    EXPECT(OK, weightloader_open("weights", 1000, 5000, NULL, &file));
    weightloader_file_info info;
    WEIGHTLOADER_INIT(&info);
    EXPECT(OK, weightloader_get_file_info(file, &info));
    CHECK(info.size == 5000 && info.base == 1000 && info.disk_size == SIZE);
    CHECK(info.offset_alignment >= 1 && info.memory_alignment >= 1);
    CHECK(info.direct_io == (info.direct_reason == NULL));
    unsigned char bytes[100] = {0};
    EXPECT(OK, weightloader_read(file, 4900, bytes, 100, NULL, NULL));
    check_bytes(bytes, 100, 5900, SEED);
    EXPECT(OUT_OF_BOUNDS, weightloader_read(file, 4901, bytes, 100, NULL, NULL));
    EXPECT(OK, weightloader_last_error(&error));
    CHECK(strcmp(error.path, "weights") == 0 && error.offset == 5901);
    EXPECT(OK, weightloader_close(file));
}

static void test_descriptors(void) {
    weightloader_file *file = NULL;
    weightloader_error error;
    WEIGHTLOADER_INIT(&error);
    EXPECT(IO, weightloader_open_descriptor(-1, NULL, 0, WEIGHTLOADER_TO_END, NULL, &file));
    EXPECT(OK, weightloader_last_error(&error));
    CHECK(error.system_code == EBADF && strcmp(error.path, "descriptor -1") == 0);
    int ends[2];
    CHECK(pipe(ends) == 0);
    EXPECT(NOT_REGULAR,
           weightloader_open_descriptor(ends[0], "a pipe", 0, WEIGHTLOADER_TO_END, NULL, &file));
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);

    int descriptor = open("weights", O_RDONLY);
    CHECK(descriptor >= 0 && lseek(descriptor, 77, SEEK_SET) == 77);
    EXPECT(OK, weightloader_open_descriptor(descriptor, "mine", 100, 200, NULL, &file));
    unsigned char bytes[200] = {0};
    EXPECT(OK, weightloader_read(file, 0, bytes, 200, NULL, NULL));
    check_bytes(bytes, 200, 100, SEED);
    CHECK(lseek(descriptor, 0, SEEK_CUR) == 77);
    CHECK(close(descriptor) == 0);
    EXPECT(OK, weightloader_read(file, 10, bytes, 190, NULL, NULL));
    check_bytes(bytes, 190, 110, SEED);
    EXPECT(OUT_OF_BOUNDS, weightloader_read(file, 200, bytes, 1, NULL, NULL));
    CHECK(strstr(weightloader_error_message(), "mine") != NULL);
    EXPECT(OK, weightloader_close(file));
}

/* Opened for something else than plain reads. */
static void test_unfit_descriptors(void) {
    weightloader_file *file = NULL;
    int descriptor = open("weights", O_WRONLY);
    CHECK(descriptor >= 0);
    EXPECT(IO, weightloader_open_descriptor(descriptor, "mine", 0, WEIGHTLOADER_TO_END, NULL,
                                            &file));
    CHECK(file == NULL && strstr(weightloader_error_message(), "mine") != NULL);
    CHECK(strstr(weightloader_error_message(), "open for reading") != NULL);
    CHECK(close(descriptor) == 0);

#ifdef O_DIRECT
    descriptor = open("weights", O_RDONLY | O_DIRECT);
    if (descriptor < 0) return; /* Not on every filesystem. */
    EXPECT(OK, weightloader_open_descriptor(descriptor, NULL, 0, WEIGHTLOADER_TO_END, NULL, &file));
    CHECK((fcntl(descriptor, F_GETFL) & O_DIRECT) != 0);
    CHECK(close(descriptor) == 0);
    unsigned char few[8] = {0};
    EXPECT(OK, weightloader_read(file, 3, few, sizeof few, NULL, NULL));
    check_bytes(few, sizeof few, 3, SEED);
    unsigned char *all = memory(SIZE);
    EXPECT(OK, weightloader_read(file, 0, all, SIZE, NULL, NULL));
    check_bytes(all, SIZE, 0, SEED);
    free(all);
    /* What is said of direct reads is what is said where the path was given. */
    weightloader_file *usual = open_file("weights");
    weightloader_file_info info, usual_info;
    WEIGHTLOADER_INIT(&info);
    WEIGHTLOADER_INIT(&usual_info);
    EXPECT(OK, weightloader_get_file_info(file, &info));
    EXPECT(OK, weightloader_get_file_info(usual, &usual_info));
    CHECK(info.direct_io == usual_info.direct_io);
    CHECK(info.offset_alignment == usual_info.offset_alignment);
    EXPECT(OK, weightloader_close(usual));
    EXPECT(OK, weightloader_close(file));
#endif
}

static void test_options(void) {
    weightloader_options options;
    weightloader_file *file = NULL;
    WEIGHTLOADER_INIT(&options);
    options.struct_size = 0;
    EXPECT(INVALID_ARGUMENT, weightloader_open("weights", 0, 1, &options, &file));
    options.struct_size = sizeof options - 1;
    EXPECT(INVALID_ARGUMENT, weightloader_open("weights", 0, 1, &options, &file));
    options.struct_size = SIZE_MAX;
    EXPECT(INVALID_ARGUMENT, weightloader_open("weights", 0, 1, &options, &file));
    WEIGHTLOADER_INIT(&options);
    options.strategy = 9;
    EXPECT(INVALID_ARGUMENT, weightloader_open("weights", 0, 1, &options, &file));
    WEIGHTLOADER_INIT(&options);
    options.cache = 9;
    EXPECT(INVALID_ARGUMENT, weightloader_open("weights", 0, 1, &options, &file));
    WEIGHTLOADER_INIT(&options);
    options.threads = 5000;
    EXPECT(INVALID_ARGUMENT, weightloader_open("weights", 0, 1, &options, &file));
    CHECK(strstr(weightloader_error_message(), "threads") != NULL);

    /* A program of a later version: its structure is longer. */
    struct {
        weightloader_options known;
        uint64_t later;
    } longer;
    WEIGHTLOADER_INIT(&longer.known);
    longer.known.struct_size = sizeof longer;
    longer.later = 0;
    EXPECT(OK, weightloader_open("weights", 0, 1, &longer.known, &file));
    EXPECT(OK, weightloader_close(file));
    longer.later = 1;
    EXPECT(UNSUPPORTED, weightloader_open("weights", 0, 1, &longer.known, &file));

    WEIGHTLOADER_INIT(&options);
    options.strategy = WEIGHTLOADER_STRATEGY_BUFFERED;
    options.cache = WEIGHTLOADER_CACHE_KEEP;
    options.threads = 3;
    options.queue_depth = 4;
    options.chunk_bytes = 65536;
    options.memory_limit = 1 << 20;
    EXPECT(OK, weightloader_open("weights", 0, WEIGHTLOADER_TO_END, &options, &file));
    weightloader_file_info info;
    WEIGHTLOADER_INIT(&info);
    EXPECT(OK, weightloader_get_file_info(file, &info));
    CHECK(!info.direct_io && info.direct_reason != NULL);
    weightloader_report *report = NULL;
    unsigned char *bytes = memory(SIZE);
    EXPECT(OK, weightloader_read(file, 0, bytes, SIZE, NULL, &report));
    check_bytes(bytes, SIZE, 0, SEED);

    weightloader_report_info told;
    WEIGHTLOADER_INIT(&told);
    EXPECT(OK, weightloader_get_report_info(report, &told));
    CHECK(told.bytes == SIZE && told.nanoseconds > 0 && told.mechanisms == 1);
    const char *mechanism = NULL, *reason = NULL;
    uint64_t chunks = 0;
    EXPECT(OK, weightloader_report_mechanism(report, 0, &mechanism, &chunks));
    CHECK(strcmp(mechanism, "buffered") == 0 && chunks == (SIZE + 65535) / 65536);
    EXPECT(INVALID_ARGUMENT, weightloader_report_mechanism(report, 1, &mechanism, &chunks));
    /* Either all outputs are given or none. */
    mechanism = NULL;
    chunks = 77;
    EXPECT(NULL_POINTER, weightloader_report_mechanism(report, 0, NULL, &chunks));
    EXPECT(NULL_POINTER, weightloader_report_mechanism(report, 0, &mechanism, NULL));
    CHECK(mechanism == NULL && chunks == 77);
    EXPECT(NULL_POINTER, weightloader_report_fallback(report, 0, NULL, &reason));
    EXPECT(NULL_POINTER, weightloader_report_fallback(report, 0, &mechanism, NULL));
    CHECK(mechanism == NULL && reason == NULL);
    EXPECT(INVALID_ARGUMENT,
           weightloader_report_fallback(report, told.fallbacks, &mechanism, &reason));
    EXPECT(OK, weightloader_report_free(report));
    EXPECT(BAD_HANDLE, weightloader_report_free(report));
    EXPECT(BAD_HANDLE, weightloader_get_report_info(report, &told));
    free(bytes);
    EXPECT(OK, weightloader_close(file));
}

struct seen {
    float last;
    int calls;
    int allowed;
};

static bool watch(float fraction, void *context) {
    struct seen *seen = context;
    CHECK(fraction >= seen->last && fraction <= 1.0f);
    seen->last = fraction;
    return ++seen->calls <= seen->allowed;
}

static void test_reading(void) {
    weightloader_file *file = open_file("weights");
    unsigned char *bytes = memory(SIZE);
    weightloader_operation operation;
    WEIGHTLOADER_INIT(&operation);

    unsigned random = 1;
    for (int round = 0; round < 40; round++) {
        random = random * 1103515245u + 12345u;
        const size_t offset = random % SIZE, size = (random >> 8) % (SIZE - offset + 1);
        operation.memory_flags = (random >> 20) % 4;
        EXPECT(OK, weightloader_read(file, offset, bytes, size, &operation, NULL));
        check_bytes(bytes, size, offset, SEED);
    }
    operation.memory_flags = 64;
    EXPECT(INVALID_ARGUMENT, weightloader_read(file, 0, bytes, 1, &operation, NULL));
    EXPECT(OK, weightloader_read(file, SIZE, NULL, 0, NULL, NULL));
    EXPECT(NULL_POINTER, weightloader_read(file, 0, NULL, 1, NULL, NULL));
    EXPECT(INVALID_ARGUMENT, weightloader_read(file, 0, bytes, SIZE_MAX, NULL, NULL));
    EXPECT(OUT_OF_BOUNDS, weightloader_read(file, 1, bytes, SIZE, NULL, NULL));
    EXPECT(INVALID_ARGUMENT, weightloader_read(file, UINT64_MAX - 5, bytes, 10, NULL, NULL));

    struct seen seen = {0.0f, 0, 1 << 20};
    WEIGHTLOADER_INIT(&operation);
    operation.progress = watch;
    operation.progress_context = &seen;
    EXPECT(OK, weightloader_read(file, 0, bytes, SIZE, &operation, NULL));
    CHECK(seen.calls > 0 && seen.last == 1.0f);
    const struct seen stops_at_once = {0.0f, 0, 0};
    seen = stops_at_once;
    EXPECT(CANCELLED, weightloader_read(file, 0, bytes, SIZE, &operation, NULL));
    CHECK(seen.calls == 1);

    weightloader_token *token = NULL;
    EXPECT(NULL_POINTER, weightloader_token_new(NULL));
    EXPECT(OK, weightloader_token_new(&token));
    WEIGHTLOADER_INIT(&operation);
    operation.token = token;
    EXPECT(OK, weightloader_read(file, 0, bytes, SIZE, &operation, NULL));
    EXPECT(OK, weightloader_token_cancel(token));
    EXPECT(CANCELLED, weightloader_read(file, 0, bytes, SIZE, &operation, NULL));
    EXPECT(OK, weightloader_token_free(token));
    EXPECT(BAD_HANDLE, weightloader_token_cancel(token));
    EXPECT(BAD_HANDLE, weightloader_read(file, 0, bytes, SIZE, &operation, NULL));

    WEIGHTLOADER_INIT(&operation);
    operation.bytes_per_second = (uint64_t)1 << 34;
    EXPECT(OK, weightloader_read(file, 0, bytes, SIZE, &operation, NULL));
    check_bytes(bytes, SIZE, 0, SEED);
    free(bytes);
    EXPECT(OK, weightloader_close(file));
}

static void test_copying(void) {
    enum { COUNT = 200, PIECE = 30000 };
    weightloader_file *files[2] = {open_file("weights"), open_file("more weights")};
    const unsigned seeds[2] = {SEED, SEED + 1};
    weightloader_copy_item items[COUNT];
    unsigned char *bytes = memory((size_t)COUNT * PIECE);
    unsigned random = 3;
    for (int index = 0; index < COUNT; index++) {
        random = random * 1103515245u + 12345u;
        items[index].file = files[index % 2];
        items[index].offset = (random >> 4) % (MEBIBYTE - PIECE);
        items[index].size = (random >> 9) % PIECE;
        items[index].destination = bytes + (size_t)((index * 67) % COUNT) * PIECE;
    }
    struct seen seen = {0.0f, 0, 1 << 20};
    weightloader_operation operation;
    WEIGHTLOADER_INIT(&operation);
    operation.progress = watch;
    operation.progress_context = &seen;
    weightloader_report *report = NULL;
    EXPECT(OK, weightloader_copy(items, COUNT, &operation, &report));
    CHECK(seen.last == 1.0f);
    uint64_t total = 0;
    for (int index = 0; index < COUNT; index++) {
        total += items[index].size;
        check_bytes(items[index].destination, items[index].size, items[index].offset,
                    seeds[index % 2]);
    }
    weightloader_report_info told;
    WEIGHTLOADER_INIT(&told);
    EXPECT(OK, weightloader_get_report_info(report, &told));
    CHECK(told.bytes == total);
    EXPECT(OK, weightloader_report_free(report));

    EXPECT(OK, weightloader_copy(NULL, 0, NULL, NULL));
    EXPECT(NULL_POINTER, weightloader_copy(NULL, 1, NULL, NULL));
    EXPECT(INVALID_ARGUMENT, weightloader_copy(items, SIZE_MAX / 2, NULL, NULL));
    items[5].size = items[6].size = 100;
    items[6].destination = (unsigned char *)items[5].destination + 99;
    EXPECT(DESTINATION, weightloader_copy(items, COUNT, NULL, NULL));
    items[6].destination = NULL;
    EXPECT(NULL_POINTER, weightloader_copy(items, COUNT, NULL, NULL));
    items[6].size = 0;
    items[6].file = NULL;
    EXPECT(BAD_HANDLE, weightloader_copy(items, COUNT, NULL, NULL));
    free(bytes);
    EXPECT(OK, weightloader_close(files[0]));
    EXPECT(OK, weightloader_close(files[1]));
}

static void finish(weightloader_job *job, uint64_t bytes) {
    weightloader_outcome outcome;
    WEIGHTLOADER_INIT(&outcome);
    EXPECT(OK, weightloader_job_wait(job, NULL, &outcome));
    CHECK(outcome.brought + outcome.skipped + outcome.cancelled + outcome.failed == bytes);
}

static void test_memory(void) {
    weightloader_file *file = open_file("weights");
    weightloader_memory mapped, loaded;
    WEIGHTLOADER_INIT(&mapped);
    WEIGHTLOADER_INIT(&loaded);
    EXPECT(OUT_OF_BOUNDS, weightloader_map(file, SIZE, 1, &mapped));
    EXPECT(NULL_POINTER, weightloader_map(file, 0, 1, NULL));
    EXPECT(OK, weightloader_map(file, 5000, MEBIBYTE, &mapped));
    CHECK(mapped.size == MEBIBYTE && (uintptr_t)mapped.data % 4096 == 5000 % 4096);
    check_bytes(mapped.data, mapped.size, 5000, SEED);

    weightloader_report *report = NULL;
    EXPECT(OUT_OF_BOUNDS, weightloader_load(file, 0, SIZE + 1, NULL, &loaded, &report));
    EXPECT(NULL_POINTER, weightloader_load(file, 0, SIZE, NULL, NULL, &report));
    EXPECT(INVALID_ARGUMENT,
           weightloader_load(file, 0, SIZE, NULL, &loaded,
                             (weightloader_report **)(uintptr_t)((uintptr_t)&report + 1)));
    CHECK(report == NULL && loaded.data == NULL && loaded.release == NULL);
    EXPECT(OK, weightloader_load(file, 5000, WEIGHTLOADER_TO_END, NULL, &loaded, &report));
    CHECK(loaded.size == SIZE - 5000 && (uintptr_t)loaded.data % 4096 == 5000 % 4096);
    check_bytes(loaded.data, loaded.size, 5000, SEED);
    memset(loaded.data, 1, loaded.size);
    EXPECT(OK, weightloader_report_free(report));

    weightloader_job *job = NULL;
    EXPECT(OK, weightloader_prefetch_address((char *)mapped.data + 100, 10000, &job));
    finish(job, 10000);
    EXPECT(UNSUPPORTED, weightloader_prefetch_address(loaded.data, 100, &job));
    EXPECT(INVALID_ARGUMENT, weightloader_prefetch_address(mapped.data, SIZE_MAX, &job));
    EXPECT(NULL_POINTER, weightloader_prefetch_address(mapped.data, 100, NULL));

    int descriptor = open("weights", O_RDONLY);
    void *foreign = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, descriptor, 0);
    CHECK(descriptor >= 0 && foreign != MAP_FAILED && close(descriptor) == 0);
    EXPECT(OK, weightloader_prefetch_address((char *)foreign + 8192, 100000, &job));
    finish(job, 100000);
    CHECK(munmap(foreign, SIZE) == 0);

    weightloader_memory empty;
    WEIGHTLOADER_INIT(&empty);
    EXPECT(OK, weightloader_map(file, SIZE, 0, &empty));
    CHECK(empty.data == NULL && empty.size == 0);
    empty.release(empty.context, empty.data, empty.size);
    EXPECT(OK, weightloader_load(file, SIZE, 0, NULL, &empty, NULL));
    CHECK(empty.data == NULL && empty.size == 0);
    empty.release(empty.context, empty.data, empty.size);

    EXPECT(OK, weightloader_close(file));
    check_bytes(mapped.data, mapped.size, 5000, SEED);
    mapped.release(mapped.context, mapped.data, mapped.size);
    loaded.release(loaded.context, loaded.data, loaded.size);
    /* Once more, and with what was never given: nothing happens. */
    loaded.release(loaded.context, loaded.data, loaded.size);
    weightloader_release(NULL, NULL, 0);
    weightloader_release(&loaded, NULL, 0);
}

static void test_prefetching(void) {
    weightloader_file *file = open_file("weights");
    weightloader_job *job = NULL;
    bool done = false;
    uint64_t settled = 0, total = 0;
    EXPECT(OUT_OF_BOUNDS, weightloader_prefetch(file, 0, SIZE + 1, &job));
    EXPECT(NULL_POINTER, weightloader_prefetch(file, 0, 1, NULL));
    EXPECT(OK, weightloader_prefetch(file, 100, WEIGHTLOADER_TO_END, &job));
    EXPECT(NULL_POINTER, weightloader_job_done(job, NULL));
    EXPECT(NULL_POINTER, weightloader_job_progress(job, NULL, &total));
    EXPECT(NULL_POINTER, weightloader_job_progress(job, &settled, NULL));
    CHECK(settled == 0 && total == 0);
    while (!done) {
        EXPECT(OK, weightloader_job_done(job, &done));
        EXPECT(OK, weightloader_job_progress(job, &settled, &total));
        CHECK(settled <= total && total == SIZE - 100);
        usleep(1000);
    }
    finish(job, SIZE - 100);
    EXPECT(BAD_HANDLE, weightloader_job_done(job, &done));
    EXPECT(BAD_HANDLE, weightloader_job_wait(job, NULL, NULL));

    struct seen seen = {0.0f, 0, 0};
    weightloader_operation operation;
    WEIGHTLOADER_INIT(&operation);
    operation.progress = watch;
    operation.progress_context = &seen;
    EXPECT(OK, weightloader_prefetch(file, 0, SIZE, &job));
    EXPECT(CANCELLED, weightloader_job_wait(job, &operation, NULL));
    EXPECT(BAD_HANDLE, weightloader_job_cancel(job));

    EXPECT(OK, weightloader_prefetch(file, 0, SIZE, &job));
    EXPECT(OK, weightloader_job_cancel(job));
    EXPECT(BAD_HANDLE, weightloader_job_cancel(job));
    EXPECT(OK, weightloader_prefetch(file, 0, SIZE, &job));
    EXPECT(OK, weightloader_close(file));
    EXPECT(OK, weightloader_job_detach(job));
    EXPECT(BAD_HANDLE, weightloader_job_detach(job));
}

static void test_prefetching_nothing(void) {
    weightloader_file *file = open_file("weights");
    for (int how = 0; how < 3; how++) {
        weightloader_job *job = NULL;
        bool done = false;
        uint64_t settled = 77, total = 77;
        if (how == 0)
            EXPECT(OK, weightloader_prefetch(file, SIZE, 0, &job));
        else
            EXPECT(OK, weightloader_prefetch_address(how == 1 ? NULL : &job, 0, &job));
        EXPECT(OK, weightloader_job_progress(job, &settled, &total));
        CHECK(settled == 0 && total == 0);
        while (!done)
            EXPECT(OK, weightloader_job_done(job, &done));
        finish(job, 0);
    }
    EXPECT(NULL_POINTER, weightloader_prefetch_address(NULL, 0, NULL));
    EXPECT(OK, weightloader_close(file));
}

static void test_streaming(void) {
    enum { SLOTS = 4, SLOT = 256 * 1024 };
    weightloader_file *files[2] = {open_file("weights"), open_file("more weights")};
    const weightloader_range ranges[] = {
        {files[0], 10, 3 * MEBIBYTE},
        {files[0], 4000, 0},
        {files[1], 0, WEIGHTLOADER_TO_END},
        {files[0], 77, 5},
    };
    const unsigned seeds[] = {SEED, SEED, SEED + 1, SEED};
    const uint64_t sizes[] = {3 * MEBIBYTE, 0, MEBIBYTE, 5};
    enum { RANGES = 4 };
    weightloader_slot slots[SLOTS];
    for (int slot = 0; slot < SLOTS; slot++) {
        slots[slot].memory = memory(SLOT);
        slots[slot].size = SLOT;
    }
    weightloader_stream *stream = NULL;
    weightloader_part part;
    WEIGHTLOADER_INIT(&part);

    weightloader_stream_options options;
    WEIGHTLOADER_INIT(&options);
    for (uint32_t as_landed = 0; as_landed < 2; as_landed++) {
        for (int held = 0; held < SLOTS; held++) {
            options.as_landed = as_landed;
            options.memory_flags =
                held == 2 ? WEIGHTLOADER_MEMORY_FLAG_NO_DIRECT : WEIGHTLOADER_MEMORY_FLAG_NONE;
            EXPECT(OK,
                   weightloader_stream_open(ranges, RANGES, slots, SLOTS, &options, &stream));
            weightloader_report *report = NULL;
            EXPECT(INVALID_ARGUMENT, weightloader_stream_report(stream, &report));
            uint64_t given[RANGES] = {0};
            weightloader_part kept[SLOTS];
            int holding = 0;
            weightloader_status status;
            while ((status = weightloader_stream_next(stream, &part)) == WEIGHTLOADER_STATUS_OK) {
                CHECK(part.slot < SLOTS && part.range < RANGES);
                CHECK((char *)part.data >= (char *)slots[part.slot].memory);
                CHECK((char *)part.data + part.size <= (char *)slots[part.slot].memory + SLOT);
                CHECK(as_landed || part.offset == given[part.range]);
                given[part.range] += part.size;
                check_bytes(part.data, part.size, ranges[part.range].offset + part.offset,
                            seeds[part.range]);
                kept[holding++] = part;
                /* Late, and the newest but one first. */
                while (holding > held) {
                    const int out = holding > 1 ? holding - 2 : 0;
                    const weightloader_part old = kept[out];
                    kept[out] = kept[--holding];
                    check_bytes(old.data, old.size, ranges[old.range].offset + old.offset,
                                seeds[old.range]);
                    EXPECT(OK, weightloader_stream_release(stream, old.slot));
                    EXPECT(INVALID_ARGUMENT, weightloader_stream_release(stream, old.slot));
                }
            }
            EXPECT(END, status);
            EXPECT(END, weightloader_stream_next(stream, &part));
            for (int range = 0; range < RANGES; range++)
                CHECK(given[range] == sizes[range]);
            EXPECT(OK, weightloader_stream_report(stream, &report));
            weightloader_report_info told;
            WEIGHTLOADER_INIT(&told);
            EXPECT(OK, weightloader_get_report_info(report, &told));
            CHECK(told.bytes == 4 * MEBIBYTE + 5);
            EXPECT(OK, weightloader_report_free(report));
            EXPECT(OK, weightloader_stream_close(stream));
            EXPECT(BAD_HANDLE, weightloader_stream_close(stream));
        }
    }

    /* Closed at any moment, with slots held: nothing is written to them afterwards. */
    for (int taken = 0; taken <= SLOTS; taken++) {
        EXPECT(OK, weightloader_stream_open(ranges, RANGES, slots, SLOTS, NULL, &stream));
        for (int index = 0; index < taken; index++)
            EXPECT(OK, weightloader_stream_next(stream, &part));
        EXPECT(OK, weightloader_stream_close(stream));
        for (int slot = 0; slot < SLOTS; slot++)
            memset(slots[slot].memory, 0xcc, SLOT);
        usleep(2000);
        for (int slot = 0; slot < SLOTS; slot++)
            for (size_t at = 0; at < SLOT; at++)
                CHECK(((unsigned char *)slots[slot].memory)[at] == 0xcc);
    }

    EXPECT(OK, weightloader_stream_open(ranges, RANGES, slots, SLOTS, NULL, &stream));
    EXPECT(OK, weightloader_stream_next(stream, &part));
    EXPECT(OK, weightloader_stream_cancel(stream));
    EXPECT(CANCELLED, weightloader_stream_next(stream, &part));
    weightloader_report *until_then = NULL;
    weightloader_report_info landed;
    WEIGHTLOADER_INIT(&landed);
    EXPECT(OK, weightloader_stream_report(stream, &until_then));
    EXPECT(OK, weightloader_get_report_info(until_then, &landed));
    CHECK(landed.bytes >= part.size && landed.bytes < 4 * MEBIBYTE && landed.mechanisms > 0);
    EXPECT(OK, weightloader_report_free(until_then));
    EXPECT(OK, weightloader_stream_close(stream));

    /* Nothing to read: the end comes at once. */
    weightloader_range nothing[2] = {{files[0], 5, 0}, {files[1], 0, 0}};
    for (size_t count = 0; count <= 2; count += 2) {
        weightloader_report *report = NULL;
        EXPECT(OK, weightloader_stream_open(count > 0 ? nothing : NULL, count, slots, SLOTS, NULL,
                                            &stream));
        EXPECT(END, weightloader_stream_next(stream, &part));
        EXPECT(OK, weightloader_stream_report(stream, &report));
        EXPECT(OK, weightloader_get_report_info(report, &landed));
        CHECK(landed.bytes == 0);
        EXPECT(OK, weightloader_report_free(report));
        EXPECT(OK, weightloader_stream_close(stream));
    }

    EXPECT(INVALID_ARGUMENT, weightloader_stream_open(ranges, RANGES, NULL, 0, NULL, &stream));
    EXPECT(NULL_POINTER, weightloader_stream_open(ranges, RANGES, slots, SLOTS, NULL, NULL));
    EXPECT(NULL_POINTER, weightloader_stream_open(NULL, 1, slots, SLOTS, NULL, &stream));
    weightloader_slot bad[2] = {slots[0], slots[0]};
    EXPECT(INVALID_ARGUMENT, weightloader_stream_open(ranges, RANGES, bad, 2, NULL, &stream));
    bad[1].memory = NULL;
    EXPECT(NULL_POINTER, weightloader_stream_open(ranges, RANGES, bad, 2, NULL, &stream));
    bad[0].size = 4095;
    EXPECT(INVALID_ARGUMENT, weightloader_stream_open(ranges, RANGES, bad, 1, NULL, &stream));
    weightloader_range outside = {files[0], SIZE, 1};
    EXPECT(OUT_OF_BOUNDS, weightloader_stream_open(&outside, 1, slots, SLOTS, NULL, &stream));
    options.as_landed = 7;
    EXPECT(INVALID_ARGUMENT,
           weightloader_stream_open(ranges, RANGES, slots, SLOTS, &options, &stream));

    for (int slot = 0; slot < SLOTS; slot++)
        free(slots[slot].memory);
    EXPECT(OK, weightloader_close(files[0]));
    EXPECT(OK, weightloader_close(files[1]));
}

static void test_checkpoints(void) {
    static const char header[] =
        "{\"bias\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[24,40]},"
        "\"kernel\":{\"dtype\":\"BF16\",\"shape\":[3,4],\"data_offsets\":[0,24]},"
        "\"x\\u0000y\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[40,41]}}";
    const uint64_t length = sizeof header - 1;
    FILE *file = fopen("model.safetensors", "wb");
    CHECK(file != NULL);
    for (int byte = 0; byte < 8; byte++)
        CHECK(fputc((int)(length >> (8 * byte) & 255), file) != EOF);
    CHECK(fwrite(header, 1, length, file) == length);
    for (int at = 0; at < 41; at++)
        CHECK(fputc(at, file) != EOF);
    CHECK(fclose(file) == 0);

    weightloader_checkpoint *checkpoint = NULL;
    EXPECT(NULL_POINTER, weightloader_checkpoint_open(NULL, NULL, &checkpoint));
    EXPECT(IO, weightloader_checkpoint_open("nothing", NULL, &checkpoint));
    EXPECT(OK, weightloader_checkpoint_open("model.safetensors", NULL, &checkpoint));
    weightloader_checkpoint_info info;
    WEIGHTLOADER_INIT(&info);
    EXPECT(OK, weightloader_get_checkpoint_info(checkpoint, &info));
    CHECK(info.tensors == 3 && info.files == 1 && info.bytes == 41);
    CHECK(strcmp(info.format, "safetensors") == 0);

    weightloader_tensor tensor;
    WEIGHTLOADER_INIT(&tensor);
    EXPECT(OK, weightloader_checkpoint_tensor(checkpoint, 0, &tensor));
    CHECK(strcmp(tensor.name, "kernel") == 0 && strcmp(tensor.dtype, "BF16") == 0);
    CHECK(tensor.rank == 2 && tensor.shape[0] == 3 && tensor.shape[1] == 4);
    CHECK(tensor.block_elements == 1 && tensor.block_bytes == 2);
    EXPECT(INVALID_ARGUMENT, weightloader_checkpoint_tensor(checkpoint, 3, &tensor));
    EXPECT(OK, weightloader_checkpoint_find(checkpoint, "x\0y", 3, &tensor));
    CHECK(tensor.index == 2 && tensor.rank == 0 && tensor.name_length == 3);
    EXPECT(NO_SUCH_TENSOR, weightloader_checkpoint_find(checkpoint, "bia", 3, &tensor));
    EXPECT(NO_SUCH_TENSOR, weightloader_checkpoint_find(checkpoint, "\xff", 1, &tensor));
    EXPECT(NULL_POINTER, weightloader_checkpoint_find(checkpoint, NULL, 1, &tensor));
    EXPECT(OK, weightloader_checkpoint_find(checkpoint, "biases", 4, &tensor));
    CHECK(tensor.index == 1 && tensor.length == 16 && tensor.file == 0);

    weightloader_file *shard = NULL;
    EXPECT(INVALID_ARGUMENT, weightloader_checkpoint_file(checkpoint, 1, &shard));
    EXPECT(OK, weightloader_checkpoint_file(checkpoint, 0, &shard));
    unsigned char bytes[16] = {0};
    EXPECT(OK, weightloader_read(shard, tensor.offset, bytes, 16, NULL, NULL));
    for (int at = 0; at < 16; at++)
        CHECK(bytes[at] == 24 + at);
    EXPECT(OK, weightloader_checkpoint_close(checkpoint));
    EXPECT(BAD_HANDLE, weightloader_get_checkpoint_info(checkpoint, &info));

    EXPECT(OK, weightloader_checkpoint_from_file(shard, &checkpoint));
    EXPECT(OK, weightloader_close(shard));
    EXPECT(OK, weightloader_get_checkpoint_info(checkpoint, &info));
    CHECK(info.tensors == 3);
    EXPECT(OK, weightloader_checkpoint_close(checkpoint));

    CHECK(truncate("model.safetensors", 60) == 0);
    weightloader_error error;
    WEIGHTLOADER_INIT(&error);
    EXPECT(FORMAT, weightloader_checkpoint_open("model.safetensors", NULL, &checkpoint));
    EXPECT(OK, weightloader_last_error(&error));
    CHECK(strcmp(error.path, "model.safetensors") == 0);
}

static void test_truncation(void) {
    write_file("shrinking", 3 * MEBIBYTE, 0);
    weightloader_file *file = open_file("shrinking");
    unsigned char *bytes = memory(3 * MEBIBYTE);
    CHECK(truncate("shrinking", 2 * MEBIBYTE) == 0);
    EXPECT(UNEXPECTED_EOF, weightloader_read(file, 0, bytes, 3 * MEBIBYTE, NULL, NULL));
    weightloader_error error;
    WEIGHTLOADER_INIT(&error);
    EXPECT(OK, weightloader_last_error(&error));
    CHECK(strcmp(error.path, "shrinking") == 0 && error.offset >= 2 * MEBIBYTE);
    free(bytes);
    EXPECT(OK, weightloader_close(file));
}

static void test_bad_handles(void) {
    weightloader_file *file = open_file("weights");
    weightloader_file_info info;
    WEIGHTLOADER_INIT(&info);
    bool done = false;
    EXPECT(NULL_POINTER, weightloader_get_file_info(file, NULL));
    EXPECT(NULL_POINTER, weightloader_last_error(NULL));
    EXPECT(BAD_HANDLE, weightloader_get_file_info(NULL, &info));
    EXPECT(BAD_HANDLE, weightloader_close(NULL));
    /* An address, another type, and something that was never given. */
    EXPECT(BAD_HANDLE, weightloader_get_file_info((const weightloader_file *)(void *)&info, &info));
    EXPECT(BAD_HANDLE, weightloader_job_done((const weightloader_job *)(const void *)file, &done));
    EXPECT(BAD_HANDLE, weightloader_close((weightloader_file *)(uintptr_t)0xfffffff1));
    EXPECT(BAD_HANDLE, weightloader_job_cancel(NULL));
    EXPECT(BAD_HANDLE, weightloader_job_detach(NULL));
    EXPECT(BAD_HANDLE, weightloader_job_wait(NULL, NULL, NULL));
    EXPECT(BAD_HANDLE, weightloader_stream_close(NULL));
    EXPECT(BAD_HANDLE, weightloader_stream_cancel(NULL));
    EXPECT(BAD_HANDLE, weightloader_stream_release(NULL, 0));
    EXPECT(BAD_HANDLE, weightloader_checkpoint_close(NULL));
    EXPECT(BAD_HANDLE, weightloader_report_free(NULL));
    EXPECT(BAD_HANDLE, weightloader_token_cancel(NULL));
    EXPECT(BAD_HANDLE, weightloader_token_free(NULL));
    EXPECT(OK, weightloader_close(file));
    EXPECT(BAD_HANDLE, weightloader_close(file));
    EXPECT(BAD_HANDLE, weightloader_read(file, 0, &info, 1, NULL, NULL));
    /* Nothing of that disturbs others. */
    file = open_file("weights");
    EXPECT(OK, weightloader_close(file));
}

struct shared {
    weightloader_file *file;
    weightloader_stream *stream;
    atomic_uint_fast64_t streamed;
    int number;
};

static void *read_and_err(void *argument) {
    struct shared *shared = argument;
    unsigned char *bytes = memory(MEBIBYTE);
    char name[32];
    snprintf(name, sizeof name, "missing %d", shared->number);
    for (int round = 0; round < 20; round++) {
        weightloader_file *own = NULL;
        EXPECT(IO, weightloader_open(name, 0, WEIGHTLOADER_TO_END, NULL, &own));
        const size_t offset = (size_t)(round * 100003 + shared->number * 7919) % (4 * MEBIBYTE);
        EXPECT(OK, weightloader_read(shared->file, offset, bytes, MEBIBYTE, NULL, NULL));
        check_bytes(bytes, MEBIBYTE, offset, SEED);
        CHECK(strstr(weightloader_error_message(), name) != NULL);
        own = open_file("weights");
        EXPECT(OK, weightloader_read(own, 1, bytes, 1000, NULL, NULL));
        EXPECT(OK, weightloader_close(own));
    }
    free(bytes);
    return NULL;
}

static void *take_and_release(void *argument) {
    struct shared *shared = argument;
    weightloader_part part;
    WEIGHTLOADER_INIT(&part);
    weightloader_status status;
    while ((status = weightloader_stream_next(shared->stream, &part)) == WEIGHTLOADER_STATUS_OK) {
        check_bytes(part.data, part.size, part.offset, SEED);
        atomic_fetch_add(&shared->streamed, part.size);
        EXPECT(OK, weightloader_stream_release(shared->stream, part.slot));
    }
    EXPECT(END, status);
    return NULL;
}

static void *wait_for_part(void *argument) {
    struct shared *shared = argument;
    weightloader_part part;
    WEIGHTLOADER_INIT(&part);
    /* Either it was waiting, or it came when the stream was gone already. */
    const weightloader_status status = weightloader_stream_next(shared->stream, &part);
    CHECK(status == WEIGHTLOADER_STATUS_CANCELLED || status == WEIGHTLOADER_STATUS_BAD_HANDLE);
    return NULL;
}

static void test_threads(void) {
    enum { THREADS = 6, SLOTS = 3, SLOT = 128 * 1024 };
    struct shared shared[THREADS];
    pthread_t threads[THREADS];
    weightloader_file *file = open_file("weights");
    for (int index = 0; index < THREADS; index++) {
        shared[index].file = file;
        shared[index].number = index;
        CHECK(pthread_create(&threads[index], NULL, read_and_err, &shared[index]) == 0);
    }
    for (int index = 0; index < THREADS; index++)
        CHECK(pthread_join(threads[index], NULL) == 0);

    weightloader_slot slots[SLOTS];
    for (int slot = 0; slot < SLOTS; slot++) {
        slots[slot].memory = memory(SLOT);
        slots[slot].size = SLOT;
    }
    const weightloader_range range = {file, 0, WEIGHTLOADER_TO_END};
    struct shared one;
    one.file = file;
    one.number = 0;
    atomic_init(&one.streamed, 0);
    EXPECT(OK, weightloader_stream_open(&range, 1, slots, SLOTS, NULL, &one.stream));
    for (int index = 0; index < THREADS; index++)
        CHECK(pthread_create(&threads[index], NULL, take_and_release, &one) == 0);
    for (int index = 0; index < THREADS; index++)
        CHECK(pthread_join(threads[index], NULL) == 0);
    CHECK(atomic_load(&one.streamed) == SIZE);
    EXPECT(OK, weightloader_stream_close(one.stream));

    /* Closed under a thread that waits for a slot which nobody will release. */
    EXPECT(OK, weightloader_stream_open(&range, 1, slots, SLOTS, NULL, &one.stream));
    weightloader_part part;
    WEIGHTLOADER_INIT(&part);
    for (int slot = 0; slot < SLOTS; slot++)
        EXPECT(OK, weightloader_stream_next(one.stream, &part));
    CHECK(pthread_create(&threads[0], NULL, wait_for_part, &one) == 0);
    usleep(20000);
    EXPECT(OK, weightloader_stream_close(one.stream));
    CHECK(pthread_join(threads[0], NULL) == 0);

    for (int slot = 0; slot < SLOTS; slot++)
        free(slots[slot].memory);
    EXPECT(OK, weightloader_close(file));
}

/* What a child may do with jobs and a stream of its parent. */
static void check_child(weightloader_job *const jobs[3], weightloader_stream *stream) {
    alarm(60); /* Children do not inherit that of their parent. */
    bool done = false;
    uint64_t settled = 77, total = 77;
    weightloader_part part;
    weightloader_report *report = NULL;
    WEIGHTLOADER_INIT(&part);
    for (int index = 0; index < 3; index++) {
        EXPECT(FORKED, weightloader_job_done(jobs[index], &done));
        EXPECT(FORKED, weightloader_job_progress(jobs[index], &settled, &total));
    }
    EXPECT(FORKED, weightloader_job_wait(jobs[0], NULL, NULL));
    EXPECT(FORKED, weightloader_job_cancel(jobs[1]));
    EXPECT(FORKED, weightloader_job_detach(jobs[2]));
    EXPECT(FORKED, weightloader_stream_next(stream, &part));
    EXPECT(FORKED, weightloader_stream_release(stream, 0));
    EXPECT(FORKED, weightloader_stream_cancel(stream));
    EXPECT(FORKED, weightloader_stream_report(stream, &report));
    CHECK(!done && settled == 77 && total == 77 && report == NULL && part.data == NULL);
}

static void wait_for_child(pid_t child) {
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

struct watched {
    weightloader_job *job;
    atomic_bool enough;
};

static void *look_all_the_time(void *argument) {
    struct watched *watched = argument;
    uint64_t settled = 0, total = 0;
    while (!atomic_load(&watched->enough))
        EXPECT(OK, weightloader_job_progress(watched->job, &settled, &total));
    return NULL;
}

/* Forks while other threads are inside the library, and hold whatever locks it has. */
static void test_forks_in_the_midst(weightloader_job *const jobs[3], weightloader_stream *stream) {
    enum { THREADS = 3, CHILDREN = 30 };
    struct watched watched;
    watched.job = jobs[0];
    atomic_init(&watched.enough, false);
    pthread_t threads[THREADS];
    for (int index = 0; index < THREADS; index++)
        CHECK(pthread_create(&threads[index], NULL, look_all_the_time, &watched) == 0);
    for (int round = 0; round < CHILDREN; round++) {
        fflush(NULL);
        const pid_t child = fork();
        if (child == 0) {
            check_child(jobs, stream);
            _exit(0);
        }
        wait_for_child(child);
    }
    atomic_store(&watched.enough, true);
    for (int index = 0; index < THREADS; index++)
        CHECK(pthread_join(threads[index], NULL) == 0);
}

static void test_forks(void) {
    weightloader_file *file = open_file("weights");
    weightloader_job *jobs[3] = {NULL, NULL, NULL};
    weightloader_stream *stream = NULL;
    weightloader_slot slot = {memory(MEBIBYTE), MEBIBYTE};
    const weightloader_range range = {file, 0, WEIGHTLOADER_TO_END};
    for (int index = 0; index < 3; index++)
        EXPECT(OK, weightloader_prefetch(file, 0, SIZE, &jobs[index]));
    EXPECT(OK, weightloader_stream_open(&range, 1, &slot, 1, NULL, &stream));
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        check_child(jobs, stream);
        EXPECT(BAD_HANDLE, weightloader_job_cancel(jobs[0]));
        EXPECT(OK, weightloader_stream_close(stream));
        unsigned char bytes[100] = {0};
        EXPECT(OK, weightloader_read(file, 5, bytes, 100, NULL, NULL));
        check_bytes(bytes, 100, 5, SEED);
        _exit(0);
    }
    wait_for_child(child);
    test_forks_in_the_midst(jobs, stream);
    EXPECT(OK, weightloader_stream_close(stream));
    for (int index = 0; index < 3; index++)
        finish(jobs[index], SIZE);
    free(slot.memory);
    EXPECT(OK, weightloader_close(file));
}

int main(int count, char **arguments) {
    CHECK(strcmp(weightloader_error_message(), "") == 0);
    alarm(300); /* Whatever hangs, hangs no longer than this. */
    write_file("weights", SIZE, SEED);
    write_file("more weights", MEBIBYTE, SEED + 1);
    test_versions_and_names();
    test_opening();
    test_descriptors();
    test_unfit_descriptors();
    test_options();
    test_reading();
    test_copying();
    test_memory();
    test_prefetching();
    test_prefetching_nothing();
    test_streaming();
    test_checkpoints();
    test_truncation();
    test_bad_handles();
    test_threads();
    if (count < 2 || strcmp(arguments[1], "without-forks") != 0)
        test_forks();
    puts("the interface does what its header says");
    return 0;
}
