/* What the tests in C and C++ share: checks that say where they failed, and files of known bytes. */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <weightloader.h>

#define CHECK(condition)                                                                        \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition,     \
                    weightloader_error_message());                                              \
            exit(1);                                                                            \
        }                                                                                       \
    } while (0)

/* Checks what a call returns, by the end of the code's name. */
#define EXPECT(code, call)                                                                      \
    do {                                                                                        \
        const int got = (int)(call);                                                            \
        if (got != (int)WEIGHTLOADER_STATUS_##code) {                                           \
            fprintf(stderr, "%s:%d: %s gave \"%s\" (last error: %s)\n", __FILE__, __LINE__,     \
                    #call, weightloader_status_name(got), weightloader_error_message());        \
            exit(1);                                                                            \
        }                                                                                       \
    } while (0)

/* The byte at a place of a test file. */
static inline unsigned char byte_at(uint64_t place, unsigned seed) {
    return (unsigned char)((place * 2654435761u + (place >> 12) + seed) >> 7);
}

static inline void check_bytes(const void *found, size_t size, uint64_t place, unsigned seed) {
    const unsigned char *bytes = (const unsigned char *)found;
    for (size_t at = 0; at < size; at++) {
        if (bytes[at] != byte_at(place + at, seed)) {
            fprintf(stderr, "byte %zu of %zu is wrong (file offset %llu)\n", at, size,
                    (unsigned long long)(place + at));
            exit(1);
        }
    }
}

/* Writes a file of `size` bytes into the current directory. */
static inline void write_file(const char *name, size_t size, unsigned seed) {
    unsigned char *bytes = (unsigned char *)malloc(size > 0 ? size : 1);
    FILE *file = fopen(name, "wb");
    CHECK(bytes != NULL && file != NULL);
    for (size_t at = 0; at < size; at++)
        bytes[at] = byte_at(at, seed);
    CHECK(fwrite(bytes, 1, size, file) == size);
    CHECK(fclose(file) == 0);
    free(bytes);
}

#endif
