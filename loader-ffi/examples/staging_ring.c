/* A loader in the shape that GPU runtimes have: weights stream through four staging buffers, of
 * which the device reads at its own pace. The library fills whatever buffer is free; the program
 * hands filled ones to the device and gives them back when the device has done with them, late and
 * in the device's order rather than in its own.
 *
 *     cc staging_ring.c $(pkg-config --cflags --libs weightloader) -o staging_ring
 *     ./staging_ring model.safetensors [MEGABYTES]
 *
 * With MEGABYTES, loading is cancelled once so much has been copied, as when a user closes the
 * window meanwhile.
 *
 * In a real loader the buffers are pinned (cudaHostAlloc, a mapped Vulkan buffer) and the device
 * copies asynchronously; an event tells that it has done with a buffer. Here a "device" of plain
 * memory copies a buffer two submissions after it was handed over.
 */
#define _POSIX_C_SOURCE 200112L /* posix_memalign */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <weightloader.h>

enum { BUFFERS = 4 };

/* 4 MiB keep devices and disks busy; larger ones gain little. At multiples of 4096, bytes that are
 * not cached come straight from the disk into them. */
static const size_t BUFFER_SIZE = (size_t)4 << 20;

/* What the device still reads from: buffers handed over and not given back. */
struct submission {
    weightloader_part part;
    char *target;
};

struct device {
    char **tensors; /* The memory of each tensor, on the device. */
    struct submission pending[BUFFERS];
    int pending_count;
};

static int fail(const char *what) {
    /* The message names the file, the offset and the system's reason. It is this thread's own. */
    fprintf(stderr, "%s: %s\n", what, weightloader_error_message());
    return 1;
}

/* Asks the device to copy a buffer to its tensor. Returns at once. */
static void submit(struct device *device, const weightloader_part *part) {
    struct submission *submission = &device->pending[device->pending_count++];
    submission->part = *part;
    submission->target = device->tensors[part->range] + part->offset;
}

/* Waits until the device has done with one of its buffers, and gives that one back. The order is
 * the device's: here the newest of three comes before the older two. */
static int retire_one(struct device *device, weightloader_stream *stream) {
    const int which = device->pending_count > 2 ? 2 : 0;
    const struct submission done = device->pending[which];
    memcpy(done.target, done.part.data, done.part.size);
    device->pending[which] = device->pending[--device->pending_count];
    return weightloader_stream_release(stream, done.part.slot) == WEIGHTLOADER_STATUS_OK;
}

int main(int count, char **arguments) {
    if (count < 2) {
        fprintf(stderr, "usage: %s MODEL [MEGABYTES]\n", arguments[0]);
        return 2;
    }
    const unsigned long long stop_after =
        count > 2 ? strtoull(arguments[2], NULL, 10) * 1000000 : UINT64_MAX;

    /* The index: which tensors there are, and which bytes of which file they are. */
    weightloader_checkpoint *checkpoint = NULL;
    if (weightloader_checkpoint_open(arguments[1], NULL, &checkpoint) != WEIGHTLOADER_STATUS_OK)
        return fail("cannot open the model");
    weightloader_checkpoint_info info;
    WEIGHTLOADER_INIT(&info);
    weightloader_get_checkpoint_info(checkpoint, &info);

    weightloader_file **files = calloc(info.files, sizeof *files);
    weightloader_range *ranges = calloc(info.tensors, sizeof *ranges);
    struct device device = {calloc(info.tensors, sizeof(char *)), {{{0}, NULL}}, 0};
    if (files == NULL || ranges == NULL || device.tensors == NULL) abort();
    for (size_t index = 0; index < info.files; index++)
        if (weightloader_checkpoint_file(checkpoint, index, &files[index]) !=
            WEIGHTLOADER_STATUS_OK)
            return fail("cannot open a shard");
    for (size_t index = 0; index < info.tensors; index++) {
        weightloader_tensor tensor;
        WEIGHTLOADER_INIT(&tensor);
        if (weightloader_checkpoint_tensor(checkpoint, index, &tensor) != WEIGHTLOADER_STATUS_OK)
            return fail("cannot look a tensor up");
        ranges[index].file = files[tensor.file];
        ranges[index].offset = tensor.offset;
        ranges[index].length = tensor.length;
        device.tensors[index] = malloc(tensor.length + 1);
        if (device.tensors[index] == NULL) abort();
    }

    /* The ring. From here on the buffers are the stream's, except for those that it has given and
     * that were not released; after weightloader_stream_close() they are ours again. */
    weightloader_slot buffers[BUFFERS];
    for (int index = 0; index < BUFFERS; index++) {
        if (posix_memalign(&buffers[index].memory, 4096, BUFFER_SIZE) != 0) abort();
        buffers[index].size = BUFFER_SIZE;
    }
    weightloader_stream *stream = NULL;
    if (weightloader_stream_open(ranges, info.tensors, buffers, BUFFERS, NULL, &stream) !=
        WEIGHTLOADER_STATUS_OK)
        return fail("cannot start");

    unsigned long long copied = 0;
    weightloader_status status;
    weightloader_part part;
    WEIGHTLOADER_INIT(&part);
    for (;;) {
        /* With no buffer left to fill there is nothing to wait for, so at least one is kept free:
         * the device may hold three of the four. */
        while (device.pending_count == BUFFERS - 1)
            if (!retire_one(&device, stream)) return fail("cannot give a buffer back");
        status = weightloader_stream_next(stream, &part);
        if (status != WEIGHTLOADER_STATUS_OK) break;
        submit(&device, &part);
        copied += part.size;
        /* From any thread, at any time; next() then says so. */
        if (copied >= stop_after) weightloader_stream_cancel(stream);
    }
    /* The device still reads from what it has. */
    while (device.pending_count > 0)
        if (!retire_one(&device, stream)) return fail("cannot give a buffer back");

    int failed = 0;
    if (status == WEIGHTLOADER_STATUS_END) {
        weightloader_report *report = NULL;
        weightloader_report_info told;
        WEIGHTLOADER_INIT(&told);
        if (weightloader_stream_report(stream, &report) != WEIGHTLOADER_STATUS_OK ||
            weightloader_get_report_info(report, &told) != WEIGHTLOADER_STATUS_OK)
            return fail("no report");
        printf("%llu bytes of %zu tensors in %.3f s\n", (unsigned long long)told.bytes,
               info.tensors, (double)told.nanoseconds / 1e9);
        weightloader_report_free(report);
    } else if (status == WEIGHTLOADER_STATUS_CANCELLED) {
        printf("cancelled after %llu bytes\n", copied);
    } else {
        failed = fail("loading failed");
    }

    /* Waits until nothing is written to the buffers any more: only now may they be freed. */
    weightloader_stream_close(stream);
    for (int index = 0; index < BUFFERS; index++)
        free(buffers[index].memory);
    for (size_t index = 0; index < info.tensors; index++)
        free(device.tensors[index]);
    for (size_t index = 0; index < info.files; index++)
        weightloader_close(files[index]);
    free(device.tensors);
    free(ranges);
    free(files);
    weightloader_checkpoint_close(checkpoint);
    return failed;
}
