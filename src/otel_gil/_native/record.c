/* The record, in memory and as a file that other processes of the same user can read.
 *
 * It is written by calls that can fail, not into mapped memory: a file that somebody truncates, or a file system that
 * is full, must not end this process by SIGBUS. Its lock tells that the process lives.
 */
#define _GNU_SOURCE 1
#include "recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/syscall.h>
#else
#include <dirent.h>
#endif

enum { FOLDERS = 4, PATH_SIZE = 512, SWEPT = 1024 };

/* Seconds between two states in the file, at least; who reads it adds what has passed since. More where all looks agree,
 * as that is right for so long. */
#define PUBLISH 0.05
#define PUBLISH_STEADY 0.25
#define CHECK 1.0  /* seconds between two looks whether the file is still ours, */
#define SWEEP 30.0 /* and whether processes that are gone have left theirs, */
#define YOUNG 5    /* that were not written for so long: one that is may not have its lock yet, or again */

union record record;

static char folders[FOLDERS][PATH_SIZE];
static int folder_count, folder_used;
static char path[PATH_SIZE + 64];
static int file = -1;
static dev_t device;
static ino_t inode;
static double checked, swept, published, stall_since;
static uint64_t stalls;
static uint64_t sequence;
static bool incomplete; /* the file lacks symbols, which could not be written */

static double started(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void write_head(void) {
    struct head *head = &record.head;
    memcpy(head->magic, "otel-gil", sizeof head->magic);
    head->version = RECORD_VERSION;
    head->size = RECORD_SIZE;
    head->pid = (uint64_t)getpid();
    head->parent = (uint64_t)getppid();
    head->started = started();
    head->interval = settings.interval;
    head->window = settings.window;
}

void record_begin(const char *command, const char *paths, const char *const *its_folders, int count) {
    snprintf(record.head.command, sizeof record.head.command, "%s", command);
    snprintf(record.head.paths, sizeof record.head.paths, "%s", paths);
    folder_count = 0;
    for (int i = 0; i < count && folder_count < FOLDERS; i++) {
        if (strlen(its_folders[i]) < PATH_SIZE - 32) {
            snprintf(folders[folder_count++], PATH_SIZE, "%s", its_folders[i]);
        }
    }
    write_head();
}

static bool is_ours(int descriptor) {
    struct stat status;
    return descriptor >= 0 && !fstat(descriptor, &status) && status.st_dev == device && status.st_ino == inode;
}

/* Whether the file still stands where others find it. */
static bool stands(void) {
    struct stat status;
    return !lstat(path, &status) && status.st_dev == device && status.st_ino == inode;
}

void record_new_process(void) {
    if (is_ours(file)) {
        close(file); /* the parent's; its lock is not inherited */
    }
    file = -1;
    path[0] = 0;
    write_head();
}

/* The folder of this user's records, opened; -1 where it can't be trusted: a link, or others own it, or can write. */
static int open_folder(const char *parent, char *to, size_t size) {
    struct stat status;
    snprintf(to, size, "%s/otel-gil-%lu", parent, (unsigned long)geteuid());
    mkdir(to, 0700);
    int folder = open(to, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder >= 0 && (fstat(folder, &status) || status.st_uid != geteuid() || status.st_mode & 077)) {
        close(folder);
        return -1;
    }
    return folder;
}

static bool lock(int descriptor) {
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(descriptor, F_SETLK, &whole) == 0;
}

/* A number above those that an application gets for what it opens after it has closed all there is. */
static int move_up(int descriptor) {
    int high = fcntl(descriptor, F_DUPFD_CLOEXEC, 512);
    if (high < 0) {
        return descriptor;
    }
    close(descriptor);
    return high;
}

static bool is_locked(int descriptor) {
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(descriptor, F_GETLK, &whole) || whole.l_type != F_UNLCK;
}

/* Removes a file, unless it is our own, whose lock would be lost, or its process lives. */
static void sweep_file(int folder, const char *name) {
    struct stat status;
    const char *own = strrchr(path, '/');
    if (name[0] == '.' || (own && !strcmp(own + 1, name))) {
        return;
    }
    int descriptor = openat(folder, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (descriptor < 0) {
        return;
    }
    if (!fstat(descriptor, &status) && status.st_mtime < time(NULL) - YOUNG && !is_locked(descriptor)) {
        unlinkat(folder, name, 0);
    }
    close(descriptor);
}

#if defined(__linux__)

/* Not by opendir, which allocates. */
static void sweep_folder(int folder) {
    static _Alignas(8) char entries[8192];
    long size;
    int count = 0;
    while ((size = syscall(SYS_getdents64, folder, entries, sizeof entries)) > 0 && count < SWEPT) {
        for (long at = 0; at < size; count++) {
            unsigned short length;
            memcpy(&length, entries + at + 16, sizeof length);
            sweep_file(folder, entries + at + 19);
            at += length;
        }
    }
}

#else

static void sweep_folder(int folder) {
    DIR *entries = fdopendir(dup(folder));
    struct dirent *entry;
    for (int count = 0; entries && count < SWEPT && (entry = readdir(entries)); count++) {
        sweep_file(folder, entry->d_name);
    }
    if (entries) {
        closedir(entries);
    }
}

#endif

static void sweep(const char *parent) {
    char folder_path[PATH_SIZE];
    int folder = open_folder(parent, folder_path, sizeof folder_path);
    if (folder >= 0) {
        sweep_folder(folder);
        close(folder);
    }
}

static bool open_in(const char *parent) {
    struct stat status;
    struct timespec now;
    char folder_path[PATH_SIZE], name[64];
    int folder = open_folder(parent, folder_path, sizeof folder_path);
    if (folder < 0) {
        return false;
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(name, sizeof name, "%ld-%llx", (long)getpid(),
             (unsigned long long)now.tv_sec * 1000000000ULL + (unsigned long long)now.tv_nsec);
    int descriptor = openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (descriptor >= 0) {
        descriptor = move_up(descriptor);
        if (!lock(descriptor) || fstat(descriptor, &status) || ftruncate(descriptor, RECORD_SIZE)) {
            unlinkat(folder, name, 0);
            close(descriptor);
            descriptor = -1;
        }
    }
    close(folder);
    if (descriptor < 0) {
        return false;
    }
    device = status.st_dev;
    inode = status.st_ino;
    file = descriptor;
    snprintf(path, sizeof path, "%s/%s", folder_path, name);
    return true;
}

static bool write_at(size_t offset, const void *from, size_t size) {
    /* The application may have closed it, and have the number for a file of its own. */
    if (!is_ours(file)) {
        return false;
    }
    if (pwrite(file, from, size, (off_t)offset) == (ssize_t)size) {
        return true;
    }
    sums.failed++; /* the file system is full; the next one may not be */
    return false;
}

/* The head and all symbols; the file stays sparse. */
static void write_whole(void) {
    static const unsigned char nothing[NAME_SIZE];
    incomplete = !write_at(0, &record.head, sizeof record.head);
    for (size_t at = NAMES_AT; at < RECORD_SIZE && !incomplete; at += NAME_SIZE) {
        if (memcmp(record.bytes + at, nothing, sizeof nothing)) {
            incomplete = !write_at(at, record.bytes + at, sizeof nothing);
        }
    }
}

void record_open(void) {
    for (int i = 0; file < 0 && i < folder_count; i++) {
        if (open_in(folders[i])) {
            folder_used = i;
            swept = 0;
            write_whole();
        }
    }
}

void record_symbol(size_t offset, size_t size) {
    if (path[0] && !write_at(offset, record.bytes + offset, size)) {
        incomplete = true;
    }
}

void record_publish(double now, bool at_once) {
    bool changed = stalls != sums.stalls || stall_since != sums.stall_since;
    if (file < 0 || !(at_once || changed || now >= published + (sums_pace() > 1 ? PUBLISH_STEADY : PUBLISH))) {
        return;
    }
    published = now;
    stalls = sums.stalls;
    stall_since = sums.stall_since;
    static unsigned char bytes[STATE_SIZE];
    struct state *state = (struct state *)(void *)bytes;
    sums.sequence = ++sequence;
    size_t size = sums_write(bytes);
    state->until += PUBLISH_STEADY;
    state->checksum = checksum(bytes + sizeof state->checksum, size - sizeof state->checksum);
    write_at(STATES_AT + (sequence & 1) * STATE_SIZE, bytes, size);
}

void record_check(double now) {
    if (!path[0] || now < checked + CHECK) {
        return;
    }
    checked = now;
    if (now > swept + SWEEP) {
        swept = now;
        sweep(folders[folder_used]);
    }
    if (!stands()) { /* somebody has removed it: a new one */
        record_remove();
        record_open();
        return;
    }
    if (is_ours(file)) {
        if (incomplete) {
            write_whole();
        }
        return;
    }
    /* The application has closed all files, as daemons do, and perhaps has the number for one of its own. */
    file = -1;
    int descriptor = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0) {
        return;
    }
    if (!is_ours(descriptor) || !lock(descriptor)) {
        close(descriptor);
        return;
    }
    file = move_up(descriptor);
    lock(file); /* to move it has closed a number of it, and with that all locks */
    write_whole();
}

void record_remove(void) {
    if (path[0] && stands()) {
        unlink(path);
    }
    if (is_ours(file)) {
        close(file);
    }
    file = -1;
    path[0] = 0;
}

const char *record_path(void) { return path; }
