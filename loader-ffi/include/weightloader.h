/**
 * @file weightloader.h
 * Moves machine-learning weights from a file into the memory that will use them, as fast as the
 * device under the file can give them.
 *
 * Results: every function that can fail returns a weightloader_status. Where that is neither
 * WEIGHTLOADER_STATUS_OK nor WEIGHTLOADER_STATUS_END, weightloader_error_message() says what
 * happened, with the file and the offset; outputs are then as they were.
 *
 * Handles are names, not addresses: they are looked up in a table, so one that is null, was closed,
 * is of another type or was never given is an error (WEIGHTLOADER_STATUS_BAD_HANDLE) and nothing
 * worse. They are closed once, by the function that says so; a call that uses one on another thread
 * meanwhile goes on undisturbed.
 *
 * Structures with a first member struct_size grow in later versions. Make them with
 * WEIGHTLOADER_INIT: that sets struct_size to their sizeof, and zero means the default for every
 * other member.
 *
 * Thread safety: every function may be called from any thread at any time, on the same handles too,
 * unless it says otherwise. No function may be called from a signal handler. Callbacks are called
 * on the thread that called the function which they were given to, and must neither throw nor
 * longjmp out. In a forked child, jobs and streams of the parent give WEIGHTLOADER_STATUS_FORKED;
 * functions that end a job free the child's handle all the same, and streams can be closed.
 *
 * Lengths are in bytes. Offsets count from the base that a file was opened with; those in errors
 * count from the start of the file on disk.
 */

#ifndef WEIGHTLOADER_H
#define WEIGHTLOADER_H

/* Written by cbindgen from loader-ffi/src: edit that, and run
   WEIGHTLOADER_WRITE_HEADER=1 cargo test -p loader-ffi --test header */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WEIGHTLOADER_VERSION_MAJOR 0
#define WEIGHTLOADER_VERSION_MINOR 1
#define WEIGHTLOADER_VERSION_PATCH 0

/** As a length: up to the end of the file. */
#define WEIGHTLOADER_TO_END UINT64_MAX

/** In outputs: nobody knows, or it does not apply. */
#define WEIGHTLOADER_UNKNOWN UINT64_MAX

/** Makes a structure that chooses nothing: WEIGHTLOADER_INIT(&options). */
#define WEIGHTLOADER_INIT(structure) \
    ((void)memset((structure), 0, sizeof *(structure)), \
     (void)((structure)->struct_size = sizeof *(structure)))

/** An open file of weights, or a blob inside a larger file. */
typedef struct weightloader_file weightloader_file;
/** Cancels operations from any thread. */
typedef struct weightloader_token weightloader_token;
/** A prefetch in the background. */
typedef struct weightloader_job weightloader_job;
/** Ranges of files on their way through slots of the caller's. */
typedef struct weightloader_stream weightloader_stream;
/** The tensor index of a file or of a folder of shards. */
typedef struct weightloader_checkpoint weightloader_checkpoint;
/** What happened during an operation. */
typedef struct weightloader_report weightloader_report;


/**
 * What a function has to say. Later versions may have more codes.
 */
typedef enum weightloader_status {
    /**
     * It was done.
     */
    WEIGHTLOADER_STATUS_OK = 0,
    /**
     * Not an error: a stream has given everything.
     */
    WEIGHTLOADER_STATUS_END = 1,
    /**
     * A pointer is null that must not be.
     */
    WEIGHTLOADER_STATUS_NULL_POINTER = 2,
    /**
     * A handle was closed, is of another type or was never given.
     */
    WEIGHTLOADER_STATUS_BAD_HANDLE = 3,
    /**
     * An argument, an option or an environment variable makes no sense.
     */
    WEIGHTLOADER_STATUS_INVALID_ARGUMENT = 4,
    /**
     * The system, the filesystem or this build cannot do it.
     */
    WEIGHTLOADER_STATUS_UNSUPPORTED = 5,
    /**
     * A file cannot be opened or examined.
     */
    WEIGHTLOADER_STATUS_IO = 6,
    /**
     * The path names a directory, a device or another thing that is no regular file.
     */
    WEIGHTLOADER_STATUS_NOT_REGULAR = 7,
    /**
     * A read failed.
     */
    WEIGHTLOADER_STATUS_READ = 8,
    /**
     * The file is shorter than it was when it was opened.
     */
    WEIGHTLOADER_STATUS_UNEXPECTED_EOF = 9,
    /**
     * A range reaches outside its file.
     */
    WEIGHTLOADER_STATUS_OUT_OF_BOUNDS = 10,
    /**
     * A header does not hold what its format says.
     */
    WEIGHTLOADER_STATUS_FORMAT = 11,
    /**
     * The checkpoint has no tensor of that name.
     */
    WEIGHTLOADER_STATUS_NO_SUCH_TENSOR = 12,
    /**
     * Memory is too small for what shall land in it, or two pieces would land on the same bytes.
     */
    WEIGHTLOADER_STATUS_DESTINATION = 13,
    /**
     * The memory is not there, or a limit forbids to take it.
     */
    WEIGHTLOADER_STATUS_OUT_OF_MEMORY = 14,
    /**
     * It was cancelled.
     */
    WEIGHTLOADER_STATUS_CANCELLED = 15,
    /**
     * The handle belongs to the parent process.
     */
    WEIGHTLOADER_STATUS_FORKED = 16,
    /**
     * A fault of the library itself.
     */
    WEIGHTLOADER_STATUS_INTERNAL = 17,
} weightloader_status;

/**
 * How bytes are read.
 */
typedef enum weightloader_strategy {
    /**
     * What is cached through the page cache, the rest past it, each where it is fastest.
     */
    WEIGHTLOADER_STRATEGY_AUTO = 0,
    /**
     * All past the page cache; an error where the file does not allow it.
     */
    WEIGHTLOADER_STRATEGY_DIRECT = 1,
    /**
     * All through the page cache.
     */
    WEIGHTLOADER_STRATEGY_BUFFERED = 2,
} weightloader_strategy;

/**
 * What becomes of the page cache.
 */
typedef enum weightloader_cache {
    /**
     * Whatever is fastest now; where direct reads serve, the cache stays as it was.
     */
    WEIGHTLOADER_CACHE_AUTO = 0,
    /**
     * The bytes read end up cached, so that the next start is warm. Refused where all reads are to
     * go past the cache.
     */
    WEIGHTLOADER_CACHE_KEEP = 1,
    /**
     * What was not cached before is not cached afterwards.
     */
    WEIGHTLOADER_CACHE_BYPASS = 2,
} weightloader_cache;

/**
 * What memory is like that bytes land in; or'ed together.
 */
typedef enum weightloader_memory_flag {
    /**
     * Ordinary memory.
     */
    WEIGHTLOADER_MEMORY_FLAG_NONE = 0,
    /**
     * Direct I/O must not write to it: write-combined or driver memory for which the system
     * answers EFAULT. Bytes are then copied there, front to back; memory is never read back.
     */
    WEIGHTLOADER_MEMORY_FLAG_NO_DIRECT = 1,
    /**
     * Nobody has touched it since it came from the system, so that huge pages may still be asked
     * for. A hint, and no promise.
     */
    WEIGHTLOADER_MEMORY_FLAG_FRESH = 2,
} weightloader_memory_flag;

/**
 * What went wrong last on this thread.
 */
typedef struct weightloader_error {
    /**
     * sizeof(weightloader_error).
     */
    size_t struct_size;
    /**
     * The code that was returned.
     */
    enum weightloader_status status;
    /**
     * The system's number for it (errno, GetLastError), or 0.
     */
    int32_t system_code;
    /**
     * What happened, as a line for people; never null.
     */
    const char *message;
    /**
     * The file, or null where it is about none.
     */
    const char *path;
    /**
     * Where in the file, from its start on disk; WEIGHTLOADER_UNKNOWN where that does not apply.
     */
    uint64_t offset;
} weightloader_error;

/**
 * How a file is read; zero everywhere is the best for most. The environment may overrule it:
 * `WEIGHTLOADER_STRATEGY`, `WEIGHTLOADER_CACHE`, `WEIGHTLOADER_THREADS`, and so on.
 */
typedef struct weightloader_options {
    /**
     * sizeof(weightloader_options).
     */
    size_t struct_size;
    /**
     * A weightloader_strategy.
     */
    uint32_t strategy;
    /**
     * A weightloader_cache.
     */
    uint32_t cache;
    /**
     * Threads that copy from the page cache, 1 to 1024, independent of how many compute; 0 for as
     * many as suit the machine.
     */
    uint32_t threads;
    /**
     * Direct reads in flight, 1 to 4096; 0 for the default.
     */
    uint32_t queue_depth;
    /**
     * Bytes of one read at most, 4096 to 2^30; 0 for the default.
     */
    uint64_t chunk_bytes;
    /**
     * Bytes in flight and read ahead at most, besides the destination: never less than one chunk,
     * and 1 MiB a worker where reads are unaligned; 0 for what suits the machine.
     */
    uint64_t memory_limit;
    /**
     * Bytes a second at most, read or prefetched, for each operation, so that others who use the
     * device are not disturbed; 0 for no limit.
     */
    uint64_t bytes_per_second;
} weightloader_options;

/**
 * What is known of a file.
 */
typedef struct weightloader_file_info {
    /**
     * sizeof(weightloader_file_info).
     */
    size_t struct_size;
    /**
     * Length from the base on.
     */
    uint64_t size;
    /**
     * Where it begins in the file on disk.
     */
    uint64_t base;
    /**
     * Length of the whole file on disk.
     */
    uint64_t disk_size;
    /**
     * Whether bytes that are not cached will really be read past the page cache, but for reads of
     * 1 MiB and less, for which it does not pay.
     */
    bool direct_io;
    /**
     * Direct reads need no copy where offsets (from the start of the file on disk) are multiples
     * of so many bytes; 1 where there are none.
     */
    uint64_t offset_alignment;
    /**
     * As offset_alignment, for addresses in memory.
     */
    uint64_t memory_alignment;
    /**
     * Why there are no direct reads, as a clause for people; null where there are. Valid until the
     * file is closed.
     */
    const char *direct_reason;
} weightloader_file_info;

/**
 * Told how much is in place, from 0 to 1, on the thread that called the operation; false cancels
 * it.
 */
typedef bool (*weightloader_progress)(float fraction, void *context);

/**
 * What belongs to one operation; zero everywhere is an operation that reports nothing and cannot
 * be cancelled.
 */
typedef struct weightloader_operation {
    /**
     * sizeof(weightloader_operation).
     */
    size_t struct_size;
    /**
     * Called as bytes land, or null.
     */
    weightloader_progress progress;
    /**
     * Given to progress.
     */
    void *progress_context;
    /**
     * Cancels the operation from other threads, or null.
     */
    const weightloader_token *token;
    /**
     * Bytes a second at most; 0 for what the file was opened with.
     */
    uint64_t bytes_per_second;
    /**
     * weightloader_memory_flag of the memory that bytes land in.
     */
    uint32_t memory_flags;
} weightloader_operation;

/**
 * Part of a file, and where it shall land. This structure does not grow.
 */
typedef struct weightloader_copy_item {
    /**
     * The file.
     */
    const weightloader_file *file;
    /**
     * Where in it the bytes begin.
     */
    uint64_t offset;
    /**
     * How many bytes.
     */
    size_t size;
    /**
     * Where they land; may be null where there are none.
     */
    void *destination;
} weightloader_copy_item;

/**
 * Gives memory back. It may be called once, from any thread.
 */
typedef void (*weightloader_release_callback)(void *context, void *data, size_t size);

/**
 * Memory that is the caller's until it calls release(context, data, size).
 */
typedef struct weightloader_memory {
    /**
     * sizeof(weightloader_memory).
     */
    size_t struct_size;
    /**
     * Its first byte; null where it has none.
     */
    void *data;
    /**
     * How many bytes it has.
     */
    size_t size;
    /**
     * Gives it back: weightloader_release().
     */
    weightloader_release_callback release;
    /**
     * For release.
     */
    void *context;
} weightloader_memory;

/**
 * What a prefetch did, in bytes.
 */
typedef struct weightloader_outcome {
    /**
     * sizeof(weightloader_outcome).
     */
    size_t struct_size;
    /**
     * In the page cache or on their way.
     */
    uint64_t brought;
    /**
     * Not asked for, because memory would not hold them.
     */
    uint64_t skipped;
    /**
     * Left to reads that came first, or cancelled.
     */
    uint64_t cancelled;
    /**
     * For which the hint failed.
     */
    uint64_t failed;
} weightloader_outcome;

/**
 * Part of a file. This structure does not grow.
 */
typedef struct weightloader_range {
    /**
     * The file.
     */
    const weightloader_file *file;
    /**
     * Where in it the bytes begin.
     */
    uint64_t offset;
    /**
     * How many bytes; WEIGHTLOADER_TO_END: all that follow.
     */
    uint64_t length;
} weightloader_range;

/**
 * Memory of the caller's that is filled again and again: a pinned buffer, say. This structure does
 * not grow.
 */
typedef struct weightloader_slot {
    /**
     * Its first byte; at a multiple of 4096, direct reads need no copy.
     */
    void *memory;
    /**
     * How many bytes it has, 4096 or more; 4 MiB and more for speed.
     */
    size_t size;
} weightloader_slot;

/**
 * How a stream runs; zero everywhere is the best for most.
 */
typedef struct weightloader_stream_options {
    /**
     * sizeof(weightloader_stream_options).
     */
    size_t struct_size;
    /**
     * Bytes a second at most; 0 for what the file of the first range was opened with.
     */
    uint64_t bytes_per_second;
    /**
     * weightloader_memory_flag of the slots.
     */
    uint32_t memory_flags;
    /**
     * 1 to give parts as they land, 0 to give them in the order of the ranges.
     */
    uint32_t as_landed;
} weightloader_stream_options;

/**
 * What a slot holds.
 */
typedef struct weightloader_part {
    /**
     * sizeof(weightloader_part).
     */
    size_t struct_size;
    /**
     * Which slot: to be given to weightloader_stream_release().
     */
    size_t slot;
    /**
     * The bytes, in that slot.
     */
    void *data;
    /**
     * How many.
     */
    size_t size;
    /**
     * Which range they are of.
     */
    size_t range;
    /**
     * Where in the range they begin.
     */
    uint64_t offset;
} weightloader_part;

/**
 * What is known of a checkpoint.
 */
typedef struct weightloader_checkpoint_info {
    /**
     * sizeof(weightloader_checkpoint_info).
     */
    size_t struct_size;
    /**
     * How many tensors it has.
     */
    size_t tensors;
    /**
     * How many files it has.
     */
    size_t files;
    /**
     * Bytes of all tensors together.
     */
    uint64_t bytes;
    /**
     * "safetensors", "GGUF" or "raw". Valid until the checkpoint is closed.
     */
    const char *format;
} weightloader_checkpoint_info;

/**
 * A tensor: its name, what its elements are, and where its bytes lie. Pointers are valid until the
 * checkpoint is closed.
 */
typedef struct weightloader_tensor {
    /**
     * sizeof(weightloader_tensor).
     */
    size_t struct_size;
    /**
     * Its place in the index.
     */
    size_t index;
    /**
     * Its name, UTF-8, with a zero byte at its end (and before, where somebody named it so).
     */
    const char *name;
    /**
     * Bytes of its name, without the zero byte at its end.
     */
    size_t name_length;
    /**
     * What its elements are: "F32", "BF16", "Q4_K" and so on.
     */
    const char *dtype;
    /**
     * Elements of one block; 1 where elements are not grouped.
     */
    uint64_t block_elements;
    /**
     * Bytes of one block.
     */
    uint64_t block_bytes;
    /**
     * Its dimensions in elements, as its format orders them: safetensors begins with the outermost
     * one, GGUF with the innermost.
     */
    const uint64_t *shape;
    /**
     * How many dimensions it has.
     */
    size_t rank;
    /**
     * Which of the checkpoint's files holds it.
     */
    size_t file;
    /**
     * Where in that file its bytes begin.
     */
    uint64_t offset;
    /**
     * How many bytes it has.
     */
    uint64_t length;
} weightloader_tensor;

/**
 * What happened during an operation, in numbers. WEIGHTLOADER_UNKNOWN stands for what the system
 * does not tell, or was not asked: of small operations little is.
 */
typedef struct weightloader_report_info {
    /**
     * sizeof(weightloader_report_info).
     */
    size_t struct_size;
    /**
     * Bytes that are in place.
     */
    uint64_t bytes;
    /**
     * From the start of the operation to the last byte in place.
     */
    uint64_t nanoseconds;
    /**
     * Bytes that were in the page cache when it began.
     */
    uint64_t resident_bytes;
    /**
     * Page faults of the process without I/O meanwhile.
     */
    uint64_t minor_faults;
    /**
     * Page faults of the process with I/O meanwhile.
     */
    uint64_t major_faults;
    /**
     * The most memory that the process has had so far, in bytes.
     */
    uint64_t peak_memory;
    /**
     * How many mechanisms weightloader_report_mechanism() can tell of.
     */
    size_t mechanisms;
    /**
     * How many fallbacks weightloader_report_fallback() can tell of.
     */
    size_t fallbacks;
} weightloader_report_info;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What went wrong last on this thread, as a line for people: the file, the offset, what was
 * expected and what the system said. Empty where nothing has, and where the thread ends and its
 * messages are gone already.
 *
 * The string belongs to the thread and stays as it is until another call fails on it.
 *
 * Threads: any; tells of calls on the calling one.
 */
const char *weightloader_error_message(void);

/**
 * What went wrong last on this thread, in parts. Its strings belong to the thread and stay as they
 * are until another call fails on it.
 *
 * Threads: any; tells of calls on the calling one.
 *
 * # Safety
 * `error` points to a `weightloader_error` whose `struct_size` is set.
 */
enum weightloader_status weightloader_last_error(struct weightloader_error *error);

/**
 * The name of a code, such as "out of bounds"; "unknown" where it is none.
 *
 * Threads: any, at any time.
 */
const char *weightloader_status_name(int32_t status);

/**
 * The version of the library, as "0.1.0". Compare with `WEIGHTLOADER_VERSION_MAJOR` and so on,
 * which are those of the header.
 *
 * Threads: any, at any time.
 */
const char *weightloader_version(void);

/**
 * Opens the file at `path` for reading; of it, `length` bytes from `base` on
 * (WEIGHTLOADER_TO_END: all that follow). Paths are UTF-8 on Windows. `options` may be null.
 * Close the file by weightloader_close().
 *
 * Threads: any, at any time.
 *
 * # Safety
 * `path` ends with a zero byte, `options` is null or has its `struct_size` set, `file` is valid
 * for writes.
 */
enum weightloader_status weightloader_open(const char *path,
                                           uint64_t base,
                                           uint64_t length,
                                           const struct weightloader_options *options,
                                           weightloader_file **file);

/**
 * As weightloader_open(), for a file that the caller has open already. The descriptor stays the
 * caller's: a duplicate is kept. Its position is neither used nor changed. It must be open for
 * reading; where it is open with O_DIRECT, the file is opened anew without, since direct reads are
 * arranged beside it where they serve.
 *
 * On Windows `descriptor` is a HANDLE, with or without FILE_FLAG_OVERLAPPED. `name` is what errors
 * call the file; null for its number.
 *
 * Threads: any, but nobody may close the descriptor before this returns.
 *
 * # Safety
 * As weightloader_open().
 */
enum weightloader_status weightloader_open_descriptor(ptrdiff_t descriptor,
                                                      const char *name,
                                                      uint64_t base,
                                                      uint64_t length,
                                                      const struct weightloader_options *options,
                                                      weightloader_file **file);

/**
 * Closes a file. Jobs, streams, mappings and checkpoints made from it live on.
 *
 * Threads: any; calls of others that use the handle already go on undisturbed.
 */
enum weightloader_status weightloader_close(weightloader_file *file);

/**
 * Tells the size of a file, and whether direct I/O is really on for it.
 *
 * Threads: any, at any time, several on the same handle too.
 *
 * # Safety
 * `info` points to a `weightloader_file_info` whose `struct_size` is set.
 */
enum weightloader_status weightloader_get_file_info(const weightloader_file *file,
                                                    struct weightloader_file_info *info);

/**
 * Makes a token that is not cancelled. Give it to any number of operations; free it by
 * weightloader_token_free().
 *
 * Threads: any, at any time.
 *
 * # Safety
 * `token` is null or valid for writes.
 */
enum weightloader_status weightloader_token_new(weightloader_token **token);

/**
 * Asks every operation that has this token to stop with WEIGHTLOADER_STATUS_CANCELLED, and returns
 * at once. Later operations with this token stop too.
 *
 * Threads: any, at any time, several on the same handle too.
 */
enum weightloader_status weightloader_token_cancel(const weightloader_token *token);

/**
 * Frees a token. Operations that have it go on, and can no longer be cancelled by it.
 *
 * Threads: any; calls of others that use the handle already go on undisturbed.
 */
enum weightloader_status weightloader_token_free(weightloader_token *token);

/**
 * Reads `size` bytes at `offset` into `destination`, and returns when they are there. Nothing
 * writes there any more when this returns, whatever it returns; after an error the memory holds
 * part of the bytes. It is written only, never read.
 *
 * `operation` may be null. Where `report` is not, it is given a report that the caller frees by
 * weightloader_report_free().
 *
 * Threads: any, several on the same file too; the calling one waits, and progress is told on it.
 *
 * # Safety
 * `operation` is null or has its `struct_size` set, `destination` is valid for writes of `size`
 * bytes and touched by nobody else meanwhile, `report` is null or valid for writes.
 */
enum weightloader_status weightloader_read(const weightloader_file *file,
                                           uint64_t offset,
                                           void *destination,
                                           size_t size,
                                           const struct weightloader_operation *operation,
                                           weightloader_report **report);

/**
 * Reads many ranges of any number of files at once, each to a place of its own, and returns when
 * all are there: bytes are read in the order of the files, with as many reads in flight as if it
 * were one. Destinations must not overlap. Everything else is as for weightloader_read().
 *
 * What the file of the first item was opened with goes for all.
 *
 * Threads: any, several on the same file too; the calling one waits, and progress is told on it.
 *
 * # Safety
 * As weightloader_read(), for each of the `count` items at `items`.
 */
enum weightloader_status weightloader_copy(const struct weightloader_copy_item *items,
                                           size_t count,
                                           const struct weightloader_operation *operation,
                                           weightloader_report **report);

/**
 * Maps `length` bytes at `offset` (WEIGHTLOADER_TO_END: all that follow) into memory, without
 * reading anything yet. The memory is read-only; it lives until it is released, also when the file
 * is closed. Its first byte lies within a page as it does within the file on disk.
 *
 * Bytes are read as they are touched, a page fault at a time: weightloader_prefetch() brings them
 * in ahead; weightloader_read() and weightloader_load() are faster.
 *
 * Threads: any, at any time, several on the same handle too.
 *
 * # Safety
 * `memory` points to a `weightloader_memory` whose `struct_size` is set. Nobody may change or
 * truncate the file while it is mapped: touching bytes beyond a new end, or bytes that the device
 * fails to deliver, kills the process (SIGBUS).
 */
enum weightloader_status weightloader_map(const weightloader_file *file,
                                          uint64_t offset,
                                          uint64_t length,
                                          struct weightloader_memory *memory);

/**
 * Reads `length` bytes at `offset` (WEIGHTLOADER_TO_END: all that follow) into memory of the
 * library's: on huge pages where the system offers them, and so that direct reads go straight into
 * it. Its first byte lies within a block of 4096 bytes as it does within the file on disk. The
 * caller may write to it.
 *
 * `operation` and `report` may be null; see weightloader_read().
 *
 * Threads: any, several on the same file too; the calling one waits, and progress is told on it.
 *
 * # Safety
 * `operation` is null or has its `struct_size` set, `memory` has its `struct_size` set, `report`
 * is null or valid for writes.
 */
enum weightloader_status weightloader_load(const weightloader_file *file,
                                           uint64_t offset,
                                           uint64_t length,
                                           const struct weightloader_operation *operation,
                                           struct weightloader_memory *memory,
                                           weightloader_report **report);

/**
 * Gives memory of weightloader_map() or weightloader_load() back; the release member of
 * weightloader_memory. Where `context` is none of theirs, or was given back already, nothing
 * happens, and weightloader_error_message() says so.
 *
 * Threads: any, once for each memory.
 */
void weightloader_release(void *context, void *data, size_t size);

/**
 * Brings `length` bytes at `offset` (WEIGHTLOADER_TO_END: all that follow) into the page cache in
 * the background, and returns at once whatever the size. Later reads of them take over what has
 * not begun by then. The job outlives the file.
 *
 * A job is ended by exactly one of weightloader_job_wait(), weightloader_job_cancel() and
 * weightloader_job_detach(), which also frees its handle.
 *
 * Threads: any, at any time, several on the same handle too.
 *
 * # Safety
 * `job` is valid for writes.
 */
enum weightloader_status weightloader_prefetch(const weightloader_file *file,
                                               uint64_t offset,
                                               uint64_t length,
                                               weightloader_job **job);

/**
 * As weightloader_prefetch(), for what lies behind `length` bytes of mapped memory at `address`:
 * of a mapping made by weightloader_map(), or on Linux of any mapping of one file, whoever made
 * it. The memory itself is never touched, and need not stay mapped. Anything else is
 * WEIGHTLOADER_STATUS_UNSUPPORTED, but no bytes are no work, wherever they are.
 *
 * Threads: any, at any time.
 *
 * # Safety
 * `job` is valid for writes.
 */
enum weightloader_status weightloader_prefetch_address(const void *address,
                                                       size_t length,
                                                       weightloader_job **job);

/**
 * Tells whether nothing is left to do.
 *
 * Threads: any, at any time, several on the same handle too.
 *
 * # Safety
 * `done` is valid for writes.
 */
enum weightloader_status weightloader_job_done(const weightloader_job *job, bool *done);

/**
 * Tells how many bytes need no more work, and how many there are in all.
 *
 * Threads: any, at any time, several on the same handle too.
 *
 * # Safety
 * `settled` and `total` are valid for writes.
 */
enum weightloader_status weightloader_job_progress(const weightloader_job *job,
                                                   uint64_t *settled,
                                                   uint64_t *total);

/**
 * Waits until all is in the page cache or on its way, and frees the job. Of `operation`, which may
 * be null, progress and token are used; where these cancel the wait, the rest of the job is
 * cancelled too, and it is freed all the same. `outcome` may be null.
 *
 * Threads: any, but one alone can end a job: for others its handle is closed.
 *
 * # Safety
 * `operation` and `outcome` are null or have their `struct_size` set.
 */
enum weightloader_status weightloader_job_wait(weightloader_job *job,
                                               const struct weightloader_operation *operation,
                                               struct weightloader_outcome *outcome);

/**
 * Cancels what has not started, without waiting for what has, and frees the job.
 *
 * Threads: any, but one alone can end a job: for others its handle is closed.
 */
enum weightloader_status weightloader_job_cancel(weightloader_job *job);

/**
 * Lets the job run on by itself, and frees its handle.
 *
 * Threads: any, but one alone can end a job: for others its handle is closed.
 */
enum weightloader_status weightloader_job_detach(weightloader_job *job);

/**
 * Starts to read `ranges` through `slots` in the background. Ranges that are longer than a slot
 * come in parts; empty ones do not come at all, and where there are none the stream is at its end.
 * Close it by weightloader_stream_close().
 *
 * What the file of the first range was opened with goes for all; `options` may be null.
 *
 * Threads: any, at any time.
 *
 * # Safety
 * `ranges` and `slots` have as many elements as their counts say, `options` is null or has its
 * `struct_size` set, `stream` is valid for writes. The memory of the slots is valid for writes
 * until weightloader_stream_close() has returned, and nobody else touches it, except from when
 * weightloader_stream_next() has given a slot until weightloader_stream_release() is called for it.
 */
enum weightloader_status weightloader_stream_open(const struct weightloader_range *ranges,
                                                  size_t range_count,
                                                  const struct weightloader_slot *slots,
                                                  size_t slot_count,
                                                  const struct weightloader_stream_options *options,
                                                  weightloader_stream **stream);

/**
 * Gives the next part; its slot is the caller's until weightloader_stream_release(). Waits until
 * there is one, and for a slot to be released where the caller has all, so one thread that holds
 * all slots must release one before it asks. WEIGHTLOADER_STATUS_END once everything was given.
 *
 * Threads: any, several at once; each part goes to one of them.
 *
 * # Safety
 * `part` points to a `weightloader_part` whose `struct_size` is set.
 */
enum weightloader_status weightloader_stream_next(const weightloader_stream *stream,
                                                  struct weightloader_part *part);

/**
 * Gives a slot back, to be filled again, in any order.
 *
 * Threads: any, one that a device calls back on included.
 */
enum weightloader_status weightloader_stream_release(const weightloader_stream *stream,
                                                     size_t slot);

/**
 * Stops a stream without waiting; whoever waits in weightloader_stream_next() is told
 * WEIGHTLOADER_STATUS_CANCELLED. It must be closed all the same.
 *
 * Threads: any, at any time, several on the same handle too.
 */
enum weightloader_status weightloader_stream_cancel(const weightloader_stream *stream);

/**
 * Tells how a stream went, once weightloader_stream_next() has said that this is the end. Of one
 * that failed or was cancelled, it tells of what had landed by then, and waits until nothing is
 * written to its slots any more. Free the report by weightloader_report_free().
 *
 * Threads: any, at any time, several on the same handle too.
 *
 * # Safety
 * `report` is valid for writes.
 */
enum weightloader_status weightloader_stream_report(const weightloader_stream *stream,
                                                    weightloader_report **report);

/**
 * Stops a stream, waits until nothing is written to its slots any more, and frees it. Afterwards
 * all slots are the caller's. A forked child may close what it has of a stream of its parent, which
 * goes on undisturbed.
 *
 * Threads: any; those that wait in weightloader_stream_next() are told
 * WEIGHTLOADER_STATUS_CANCELLED first.
 */
enum weightloader_status weightloader_stream_close(weightloader_stream *stream);

/**
 * Reads the headers of a checkpoint: a file of safetensors, GGUF or raw bytes, a folder of shards,
 * or its index file. `options`, which may be null, are those of its files. Close it by
 * weightloader_checkpoint_close().
 *
 * Threads: any, at any time.
 *
 * # Safety
 * `path` ends with a zero byte, `options` is null or has its `struct_size` set, `checkpoint` is
 * valid for writes.
 */
enum weightloader_status weightloader_checkpoint_open(const char *path,
                                                      const struct weightloader_options *options,
                                                      weightloader_checkpoint **checkpoint);

/**
 * As weightloader_checkpoint_open(), for one open file or blob and no other.
 *
 * Threads: any, at any time, several on the same handle too.
 *
 * # Safety
 * `checkpoint` is valid for writes.
 */
enum weightloader_status weightloader_checkpoint_from_file(const weightloader_file *file,
                                                           weightloader_checkpoint **checkpoint);

/**
 * Closes a checkpoint. Files that it gave live on.
 *
 * Threads: any; calls of others that use the handle already go on undisturbed.
 */
enum weightloader_status weightloader_checkpoint_close(weightloader_checkpoint *checkpoint);

/**
 * Tells how many tensors and files there are.
 *
 * Threads: any, at any time, several on the same handle too.
 *
 * # Safety
 * `info` points to a `weightloader_checkpoint_info` whose `struct_size` is set.
 */
enum weightloader_status weightloader_get_checkpoint_info(const weightloader_checkpoint *checkpoint,
                                                          struct weightloader_checkpoint_info *info);

/**
 * Opens one of the checkpoint's files, to read from: cheap, for it is open already. Close it by
 * weightloader_close().
 *
 * Threads: any, at any time, several on the same handle too.
 *
 * # Safety
 * `file` is valid for writes.
 */
enum weightloader_status weightloader_checkpoint_file(const weightloader_checkpoint *checkpoint,
                                                      size_t index,
                                                      weightloader_file **file);

/**
 * Tells of one tensor, by its place: by file, then by offset.
 *
 * Threads: any, at any time, several on the same handle too.
 *
 * # Safety
 * `tensor` points to a `weightloader_tensor` whose `struct_size` is set.
 */
enum weightloader_status weightloader_checkpoint_tensor(const weightloader_checkpoint *checkpoint,
                                                        size_t index,
                                                        struct weightloader_tensor *tensor);

/**
 * Tells of one tensor, by its name of `name_length` bytes, which may be found without a zero byte
 * at its end. WEIGHTLOADER_STATUS_NO_SUCH_TENSOR where there is none.
 *
 * Threads: any, at any time, several on the same handle too.
 *
 * # Safety
 * `name` has `name_length` bytes, `tensor` points to a `weightloader_tensor` whose `struct_size`
 * is set.
 */
enum weightloader_status weightloader_checkpoint_find(const weightloader_checkpoint *checkpoint,
                                                      const char *name,
                                                      size_t name_length,
                                                      struct weightloader_tensor *tensor);

/**
 * Tells a report's numbers.
 *
 * Threads: any, at any time, several on the same handle too.
 *
 * # Safety
 * `info` points to a `weightloader_report_info` whose `struct_size` is set.
 */
enum weightloader_status weightloader_get_report_info(const weightloader_report *report,
                                                      struct weightloader_report_info *info);

/**
 * Tells how many chunks one mechanism brought: "buffered", "direct", "direct-bounced" and so on.
 * The string is valid until the report is freed.
 *
 * Threads: any, at any time, several on the same handle too.
 *
 * # Safety
 * `mechanism` and `chunks` are valid for writes.
 */
enum weightloader_status weightloader_report_mechanism(const weightloader_report *report,
                                                       size_t index,
                                                       const char **mechanism,
                                                       uint64_t *chunks);

/**
 * Tells what was passed over, and why. The strings are valid until the report is freed.
 *
 * Threads: any, at any time, several on the same handle too.
 *
 * # Safety
 * `mechanism` and `reason` are valid for writes.
 */
enum weightloader_status weightloader_report_fallback(const weightloader_report *report,
                                                      size_t index,
                                                      const char **mechanism,
                                                      const char **reason);

/**
 * Frees a report.
 *
 * Threads: any; calls of others that use the handle already go on undisturbed.
 */
enum weightloader_status weightloader_report_free(weightloader_report *report);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* WEIGHTLOADER_H */
