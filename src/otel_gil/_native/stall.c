/* Holds that are too long.
 *
 * That the GIL is held does not say that it would not be given: a thread that runs Python code gives it to whoever asks,
 * and nobody may have asked. So a hold is a stall if the GIL did not change hands for longer than the threshold while
 * somebody waited. Where nobody does, the probe is asked to, half the threshold into a
 * hold, and must have waited for a quarter of it.
 */
#define _GNU_SOURCE 1
#include "recorder.h"

#include <poll.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { KEPT = 8 };

static double threshold;
static bool to_stderr;
static uintptr_t holder;
static uint64_t switches;
static bool held;
static double since, waited_since, seen_at; /* moments; the second 0 while nobody was seen to wait */
static struct stall current;                /* its number 0 where none is in progress */
static struct stall kept[KEPT];             /* that are over, the oldest first */
static int kept_count;
static struct {
    struct stalled stalled;
    uint64_t number;
} latest; /* in progress, or over */

void stall_begin(double seconds, bool writes) {
    threshold = seconds;
    to_stderr = writes;
    stall_new_process();
}

void stall_new_process(void) {
    held = false;
    current = (struct stall){0};
    kept_count = 0;
    __atomic_store_n(&latest.number, 0, __ATOMIC_SEQ_CST);
    sums.stall_since = 0;
}

static void catch_stack(struct stall *stall) {
    static struct window window;
    struct running running;
    if (!settings.holders || !running_read(holder, &running)) {
        return;
    }
    window.size = 0;
    struct frame frame = {.previous = running.thread.frame};
    while (stall->calls < FRAMES && frame_read(&window, frame.previous, &frame) && frame.code) {
        struct code code;
        struct call *call = &stall->stack[stall->calls];
        if (!code_read(frame.code, &code)) {
            return;
        }
        stall->calls++; /* first, so that its symbol is in use */
        call->function = function_slot(&code);
        call->generation = function_generation(call->function);
        call->line = line_read(&code, frame.instruction);
    }
}

static char text[1 << 15];
static size_t unwritten;

void stall_write(void) {
    const char *at = text;
    /* A pipe that nobody reads is not waited for: so much it takes at once if it takes anything. */
    struct pollfd poll_stderr = {.fd = STDERR_FILENO, .events = POLLOUT};
    while (unwritten && poll(&poll_stderr, 1, 0) == 1 && poll_stderr.revents & POLLOUT) {
        ssize_t written = write(STDERR_FILENO, at, unwritten < _POSIX_PIPE_BUF ? unwritten : _POSIX_PIPE_BUF);
        if (written <= 0) {
            break;
        }
        at += written;
        unwritten -= (size_t)written;
    }
    unwritten = 0;
}

static void describe(const struct stall *stall) {
    size_t end = 0;
    int more = snprintf(text, sizeof text, "otel-gil: the GIL has been held for %.1f s by %s (thread %llu), and is still held\n",
                        stall->seconds, record.symbols.names[stall->name].text, (unsigned long long)stall->native);
    for (uint32_t i = stall->calls; more > 0 && (end += (size_t)more) < sizeof text && i--;) {
        const struct function *function = &record.symbols.functions[stall->stack[i].function];
        more = snprintf(text + end, sizeof text - end, "  File \"%s\", line %d, in %s\n", function->file,
                        stall->stack[i].line, function->name);
    }
    unwritten = end < sizeof text ? end : sizeof text - 1;
}

/* The context in which the holder runs, and what is in it. */
static void note_context(void) {
    struct stalled stalled = {.holder = holder};
    if (memory_word(holder + layout.thread_context, &stalled.context) && stalled.context) {
        memory_read(stalled.context + CONTEXT_AT, stalled.values, sizeof stalled.values);
    }
    __atomic_store_n(&latest.number, 0, __ATOMIC_SEQ_CST);
    latest.stalled = stalled;
    __atomic_store_n(&latest.number, sums.stalls, __ATOMIC_SEQ_CST);
}

static void begin_stall(double now, int slot) {
    struct known *known = thread_known(slot);
    sums.stalls++;
    current = (struct stall){.since = since, .seconds = now - since, .number = sums.stalls};
    note_context();
    if (known) {
        if (!known->named) { /* so that it is the same wherever it is told, and not that of its beginning */
            thread_leave_name(slot);
            thread_name(slot, known->name);
        }
        current.native = known->native;
        current.ident = known->ident;
        current.name = known->name;
        current.name_generation = name_generation(known->name);
    }
    catch_stack(&current);
    sums.stall_since = since;
    sums.stall_thread = current.native;
    sums.stall_name = current.name;
    sums.stall_generation = current.name_generation;
    sums.calls = current.calls;
    memcpy(sums.stack, current.stack, sizeof sums.stack);
    if (to_stderr) {
        describe(&current);
    }
}

static void end_stall(double now) {
    struct timespec time;
    double after = (now - seen_at) / 2; /* it ended between the two looks */
    clock_gettime(CLOCK_REALTIME, &time);
    current.seconds = seen_at + after - current.since;
    current.ended = (int64_t)time.tv_sec * 1000000000 + time.tv_nsec - (int64_t)(after * 1e9);
    if (kept_count == KEPT) {
        kept_count--;
        memmove(kept, kept + 1, (size_t)kept_count * sizeof *kept);
    }
    kept[kept_count++] = current;
    current = (struct stall){0};
    sums.stall_since = 0;
    sums.calls = 0;
}

static bool goes_on(const struct gil *gil) {
    return gil->locked && held && gil->holder == holder && gil->switches == switches;
}

bool stall_settle(double now, const struct gil *gil) {
    if (!current.number || goes_on(gil)) {
        return false;
    }
    end_stall(now);
    return true;
}

bool stall_follow(double now, const struct gil *gil, int slot, int waiting) {
    if (!goes_on(gil)) {
        bool over = stall_settle(now, gil);
        held = gil->locked;
        holder = gil->holder;
        switches = gil->switches;
        since = now;
        waited_since = 0;
        return over;
    }
    seen_at = now;
    if (!waited_since && (waiting > 0 || probe_is_asking())) {
        waited_since = now;
    }
    if (!current.number && waited_since && now - since > threshold && now - waited_since > threshold / 4) {
        begin_stall(now, slot);
    }
    return !waited_since && now - since > threshold / 2;
}

bool stall_take(struct stall *stall) {
    if (!kept_count) {
        return false;
    }
    *stall = kept[0];
    kept_count--;
    memmove(kept, kept + 1, (size_t)kept_count * sizeof *kept);
    return true;
}

uint64_t stall_latest(struct stalled *stalled) {
    uint64_t number = __atomic_load_n(&latest.number, __ATOMIC_SEQ_CST);
    *stalled = latest.stalled;
    return __atomic_load_n(&latest.number, __ATOMIC_SEQ_CST) == number ? number : 0;
}

static bool uses(const struct stall *stall, uint16_t name, bool is_name) {
    if (is_name) {
        return stall->name == name;
    }
    for (uint32_t i = 0; i < stall->calls; i++) {
        if (stall->stack[i].function == name) {
            return true;
        }
    }
    return false;
}

static bool any_uses(uint16_t name, bool is_name) {
    for (int i = 0; i < kept_count; i++) {
        if (uses(&kept[i], name, is_name)) {
            return true;
        }
    }
    return uses(&current, name, is_name);
}

bool stall_uses_name(uint16_t name) { return any_uses(name, true); }

bool stall_uses_function(uint16_t function) { return any_uses(function, false); }
