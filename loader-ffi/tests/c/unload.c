/* What a host of plugins does: loads the library, lets a prefetch run on by itself, and closes the
   library under it. Takes the path of the shared library, which it is not linked with. Writes its
   file into the current directory. */
#define _GNU_SOURCE

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <weightloader.h>

#define SIZE ((size_t)4 << 20)

static void require(bool met, const char *what) {
    if (!met) {
        fprintf(stderr, "%s\n", what);
        exit(1);
    }
}

/* Writes a file that is not cached. */
static void write_cold_file(const char *name) {
    char *bytes = calloc(1, SIZE);
    const int file = open(name, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    require(bytes != NULL && write(file, bytes, SIZE) == (ssize_t)SIZE, "cannot write a file");
    require(fsync(file) == 0, "cannot write a file down");
    require(posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0, "cannot evict a file");
    close(file);
    free(bytes);
}

/* Through a pointer to the pointer: C itself does not turn addresses of objects into functions. */
static void look_up(void *library, const char *name, void **function) {
    *function = dlsym(library, name);
    require(*function != NULL, name);
}

/* On a thread of its own: a library stays anyway while a thread lives that has variables of it. */
static void *use_and_close(void *path) {
    weightloader_status (*open_file)(const char *, uint64_t, uint64_t, const weightloader_options *,
                                     weightloader_file **);
    weightloader_status (*prefetch)(const weightloader_file *, uint64_t, uint64_t,
                                    weightloader_job **);
    weightloader_status (*detach)(weightloader_job *);
    weightloader_status (*close_file)(weightloader_file *);
    void *library = dlopen(path, RTLD_NOW);
    require(library != NULL, "cannot load the library");
    look_up(library, "weightloader_open", (void **)&open_file);
    look_up(library, "weightloader_prefetch", (void **)&prefetch);
    look_up(library, "weightloader_job_detach", (void **)&detach);
    look_up(library, "weightloader_close", (void **)&close_file);

    weightloader_file *file = NULL;
    weightloader_job *job = NULL;
    weightloader_options options;
    WEIGHTLOADER_INIT(&options);
    options.bytes_per_second = 4 * SIZE;
    require(open_file("unloaded", 0, WEIGHTLOADER_TO_END, &options, &file) == 0, "open");
    require(prefetch(file, 0, WEIGHTLOADER_TO_END, &job) == 0, "prefetch");
    require(detach(job) == 0, "detach");
    require(close_file(file) == 0, "close");
    return library;
}

int main(int count, char **arguments) {
    require(count == 2, "usage: unload LIBRARY");
    void *library = dlopen(arguments[1], RTLD_NOW);
    require(library != NULL && dlclose(library) == 0, "cannot load and close the library");
    require(dlopen(arguments[1], RTLD_NOW | RTLD_NOLOAD) == library, "the library went away");

    write_cold_file("unloaded");
    pthread_t thread;
    require(pthread_create(&thread, NULL, use_and_close, arguments[1]) == 0, "no thread");
    require(pthread_join(thread, &library) == 0, "no end of a thread");
    require(dlclose(library) == 0, "cannot close the library");
    /* The prefetch takes a quarter of a second. */
    usleep(600000);
    puts("the library stays under what runs in it");
    return 0;
}
