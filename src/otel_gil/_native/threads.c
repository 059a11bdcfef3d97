/* The threads seen lately, and what they are called.
 *
 * Only Python knows the name of a thread, and can be asked while the thread lives and the GIL is to be had. Until then
 * it is called after the outermost function that it runs, as `threading` calls threads itself.
 */
#include "recorder.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { DEEPEST = 400 };

static struct known threads[THREADS];
static uint64_t looks;

void threads_begin(void) { memset(threads, 0, sizeof threads); }

void threads_new_process(uint64_t ident) {
    for (int i = 0; i < THREADS; i++) {
        if (threads[i].ident != ident) {
            thread_forget(i);
        }
        threads[i].native = 0; /* it has another one now */
    }
}

static const char *function_name(const struct code *code, char *file, size_t file_size, char *name, size_t size) {
    int length = text_read(code->filename, file, file_size - 1);
    file[length < 0 ? 0 : length] = 0;
    length = text_read(code->qualname, name, size - 1);
    name[length < 0 ? 0 : length] = 0;
    const char *last = strrchr(name, '.');
    return last ? last + 1 : name;
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), its = strlen(end);
    return length >= its && !strcmp(text + length - its, end);
}

/* The name of a thread by the outermost function that is not `threading`'s. False where it does not run one yet: then
 * it is one of those, or empty where it runs no Python. */
static bool provisional_name(uintptr_t innermost, char *to, size_t size) {
    static struct window window;
    uintptr_t outer[5] = {0}; /* codes, the outermost first: _bootstrap, _bootstrap_inner, run, the target, … */
    struct frame frame = {.code = 1, .previous = innermost};
    window.size = 0;
    to[0] = 0;
    for (int i = 0; frame.code; i++) {
        if (i == DEEPEST || !frame_read(&window, frame.previous, &frame)) {
            return false;
        }
        if (frame.code) {
            memmove(outer + 1, outer, sizeof outer - sizeof *outer);
            outer[0] = frame.code;
        }
    }
    for (int i = 0; i < 5 && outer[i]; i++) {
        char file[256], name[256];
        struct code code;
        if (!code_read(outer[i], &code)) {
            return false;
        }
        const char *function = function_name(&code, file, sizeof file, name, sizeof name);
        if (ends_with(file, "concurrent/futures/thread.py") && !strcmp(function, "_worker")) {
            snprintf(to, size, "ThreadPoolExecutor");
            return true;
        }
        snprintf(to, size, "Thread (%.200s)", function);
        if (!ends_with(file, "/threading.py")) {
            return true;
        }
    }
    return false;
}

static bool is_main(const struct thread *thread) {
    if (layout.main_thread) {
        return thread->ident == *(const unsigned long *)layout.main_thread;
    }
    return thread->native == (uint64_t)getpid(); /* on Linux */
}

static void guess_name(struct known *known, const struct thread *thread) {
    char name[NAME_SIZE] = "MainThread";
    known->guessed = is_main(thread);
    if (!known->guessed) {
        known->guessed = provisional_name(thread->frame, name, sizeof name);
    }
    known->name = name[0] ? name_slot(name, strlen(name)) : UNKNOWN;
}

bool thread_is(const struct known *known, const struct thread *thread) {
    return known->state == thread->state && known->ident == thread->ident && known->id == thread->id &&
           (!thread->native || !known->native || known->native == thread->native);
}

static bool is_known(struct known *known, const struct thread *thread) {
    if (!thread_is(known, thread)) {
        return false;
    }
    known->seen = looks;
    known->native = thread->native ? thread->native : known->native;
    return true;
}

int thread_slot(const struct thread *thread) {
    static int latest;
    int oldest = 0;
    looks++;
    if (is_known(&threads[latest], thread)) {
        return latest;
    }
    for (int i = 0; i < THREADS; i++) {
        struct known *known = &threads[i];
        if (is_known(known, thread)) {
            latest = i;
            return i;
        }
        if (known->seen < threads[oldest].seen) {
            oldest = i;
        }
    }
    thread_forget(oldest);
    threads[oldest] = (struct known){
        .state = thread->state,
        .ident = thread->ident,
        .native = thread->native,
        .id = thread->id,
        .fresh = true,
        .seen = looks,
    };
    guess_name(&threads[oldest], thread);
    return oldest;
}

struct known *thread_known(int slot) {
    return slot >= 0 && slot < THREADS && threads[slot].state ? &threads[slot] : NULL;
}

void thread_name(int slot, uint16_t name) {
    threads[slot].name = name;
    threads[slot].named = true;
    sums_named((uint32_t)slot + 1, name);
}

void thread_leave_name(int slot) {
    struct known *known = &threads[slot];
    struct thread thread;
    if (!known->guessed && thread_read(known->state, &thread) && thread_is(known, &thread)) {
        guess_name(known, &thread);
        if (!known->guessed) {
            return; /* it has just begun */
        }
    }
    thread_name(slot, known->name);
}

void thread_forget(int slot) {
    if (threads[slot].state && !threads[slot].named) {
        sums_named((uint32_t)slot + 1, threads[slot].name);
    }
    threads[slot] = (struct known){0};
}

bool threads_use_name(uint16_t name) {
    for (int i = 0; i < THREADS; i++) {
        if (threads[i].state && threads[i].name == name) {
            return true;
        }
    }
    return false;
}
