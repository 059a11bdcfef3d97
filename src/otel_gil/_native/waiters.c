/* How many threads wait for the GIL, and which.
 *
 * How many: CPython waits in the GIL's condition variables, and glibc counts in each those that do. Which: CPython 3.15
 * notes in a thread that it has asked; before, the kernel tells of a thread that it waits in a futex of that condition
 * variable. That takes three system calls a thread, so not each look asks for it: a budget bounds what it costs.
 *
 * One that waits wakes every 5 ms, to ask, and may get no core for some milliseconds while others compute. Then it is
 * counted still, and in no futex, but ready to run. So those that are counted and not found are taken from those that are
 * ready, and were seen to wait a moment ago; where there is none, nobody is told.
 */
#define _GNU_SOURCE 1
#include "recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#if defined(__GLIBC__)
#include <gnu/libc-version.h>
#include <sys/syscall.h>
#endif

#define BUDGET 0.002      /* of a core may go into looking who waits */
#define FIRST_COST 30e-6  /* seconds, until it is known */
#define LEAST 0.01        /* share of the looks that find somebody waiting */
#define FORGETTING 1.0    /* seconds */
#define OUTDATED 0.2      /* seconds without anybody that waits */
#define RECENT 1.0        /* seconds in which a thread that was seen to wait may do so again */
#define UNLIKELY_MANY (1 << 20)
#define CONDITION_SIZE 48

enum { ASKED = 16, SCANNED = 256, TASKS = 64 };

enum doing { ELSEWHERE, READY /* to run, or runs */, WAITS, ENDED };

static int count_offset = -1; /* of the count in a condition variable, whose lowest 3 bits are something else */
static bool count_proven, task_proven;
static double cost, rate, looked; /* seconds that a look at them takes, times a second that there are any, the last */
static double shares;             /* those of the looks since the last that asked */
static int turn;

static bool notes_requests(void) { return layout.thread_requests != NONE; }

void waiters_begin(void) {
    count_proven = task_proven = false;
    cost = FIRST_COST;
    rate = shares = 0;
    looked = monotonic();
#if defined(__GLIBC__)
    int major = 0, minor = 0;
    if (sscanf(gnu_get_libc_version(), "%d.%d", &major, &minor) == 2 && major == 2 && minor >= 25) {
        count_offset = minor >= 41 ? 28 : 36;
    }
#endif
}

static uint32_t count_in(uintptr_t condition) {
    return __atomic_load_n((uint32_t *)(condition + (uintptr_t)count_offset), __ATOMIC_RELAXED) >> 3;
}

#if defined(__linux__) && defined(SYS_futex)

static bool has_ended(uint64_t native) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%llu", (unsigned long long)native);
    return access(path, F_OK) != 0 && errno == ENOENT;
}

/* The address of the futex that a thread waits in; 0 where it does not. */
static uintptr_t futex_of(uint64_t native, enum doing *doing) {
    char path[64], text[128];
    snprintf(path, sizeof path, "/proc/self/task/%llu/syscall", (unsigned long long)native);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    *doing = file < 0 && errno == ENOENT ? ENDED : ELSEWHERE;
    if (file < 0) {
        return 0;
    }
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    if (size <= 0) {
        return 0; /* it has gone */
    }
    text[size] = 0;
    if (strncmp(text, "running", 7) == 0) {
        *doing = READY;
    }
    long number;
    unsigned long long address;
    return sscanf(text, "%ld %llx", &number, &address) == 2 && number == SYS_futex ? (uintptr_t)address : 0;
}

#else

static bool has_ended(uint64_t native) {
    (void)native;
    return false;
}

static uintptr_t futex_of(uint64_t native, enum doing *doing) {
    (void)native;
    *doing = ELSEWHERE;
    return 0;
}

#endif

static bool is_in(uintptr_t futex, uintptr_t condition) {
    return futex >= condition && futex < condition + CONDITION_SIZE;
}

static enum doing doing_of(uint64_t native) {
    enum doing doing;
    uintptr_t futex = futex_of(native, &doing);
    return is_in(futex, layout.gil_condition) || is_in(futex, layout.gil_switch_condition) ? WAITS : doing;
}

void waiters_prove(const void *condition, uint64_t native, bool waits) {
    if (!waits) {
        if (count_in((uintptr_t)condition)) {
            __atomic_store_n(&count_proven, false, __ATOMIC_RELAXED);
        }
        return;
    }
    enum doing doing;
    __atomic_store_n(&count_proven, count_offset >= 0 && count_in((uintptr_t)condition) == 1, __ATOMIC_RELAXED);
    __atomic_store_n(&task_proven, is_in(futex_of(native, &doing), (uintptr_t)condition), __ATOMIC_RELAXED);
}

bool waiters_proven(void) {
    return __atomic_load_n(&count_proven, __ATOMIC_RELAXED) && __atomic_load_n(&task_proven, __ATOMIC_RELAXED);
}

bool waiters_known(void) { return notes_requests() || __atomic_load_n(&task_proven, __ATOMIC_RELAXED); }

/* The threads that have asked, by going through all of them: where the C library does not count. */
static int count_requests(void) {
    uintptr_t state;
    int count = 0;
    if (!threads_first(&state)) {
        return -1;
    }
    for (int i = 0; state && i < SCANNED; i++) {
        struct thread thread;
        if (!thread_read(state, &thread)) {
            return -1;
        }
        count += thread.requests;
        if (!threads_next(&state)) {
            return -1;
        }
    }
    return count;
}

int waiters_count(void) {
    int count = -1;
    if (__atomic_load_n(&count_proven, __ATOMIC_RELAXED)) {
        uint32_t counted = count_in(layout.gil_condition) + count_in(layout.gil_switch_condition);
        count = counted < UNLIKELY_MANY ? (int)counted : -1;
    } else if (notes_requests()) {
        count = count_requests();
    }
    return count > 0 && probe_is_asking() ? count - 1 : count;
}

static enum doing doing_now(const struct known *known) {
    struct thread thread;
    if (!notes_requests()) {
        return known->native ? doing_of(known->native) : ELSEWHERE;
    }
    if (thread_read(known->state, &thread) && thread_is(known, &thread) && thread.requests) {
        return WAITS;
    }
    return known->native && has_ended(known->native) ? ENDED : ELSEWHERE;
}

static void tell(struct seen *seen, int slot) {
    const struct known *known = thread_known(slot);
    struct running running;
    uint16_t function = UNKNOWN;
    if (settings.functions && running_read(known->state, &running) &&
        thread_is(known, &running.thread) && running.frame.code) {
        function = function_slot(&running.code);
    }
    seen->waiter[seen->waiters].name = known->name;
    seen->waiter[seen->waiters].function = function;
    seen->waiter[seen->waiters].pending = known->named ? 0 : (uint32_t)slot + 1;
    seen->waiters++;
}

/* Make threads known that never were seen to hold the GIL; whether there are any that were not asked. */
static bool scan(void) {
    uintptr_t state;
    bool more = threads_first(&state), found = false;
    for (int i = 0; more && state && i < TASKS; i++) {
        struct thread thread;
        if (thread_read(state, &thread) && !probe_is(thread.ident)) {
            found |= thread_known(thread_slot(&thread))->fresh;
        }
        more = threads_next(&state);
    }
    return found;
}

static double processor_time(void) {
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

/* Those that are ready to run, and have waited lately. */
struct ready {
    int slots[ASKED], count;
    bool all; /* threads that are known have been asked */
};

/* By turns, so that each is asked as often as any other. */
static void ask(struct seen *seen, uintptr_t holder, struct ready *ready) {
    int asked = 0, i = 0;
    bool answered = true;
    ready->count = 0;
    for (; i < THREADS && asked < ASKED && seen->waiters < seen->waiting; i++) {
        int slot = turn;
        turn = (turn + 1) % THREADS;
        struct known *known = thread_known(slot);
        if (!known || (seen->locked && known->state == holder) || probe_is(known->ident)) {
            continue;
        }
        enum doing doing = doing_now(known);
        if (doing == ENDED) {
            thread_forget(slot);
            continue;
        }
        asked++;
        known->fresh = false;
        answered = answered && (known->native || notes_requests());
        if (doing == WAITS) {
            known->waited = seen->now;
            tell(seen, slot);
        } else if (doing == READY && known->state != holder && known->waited && seen->now < known->waited + RECENT) {
            ready->slots[ready->count++] = slot;
        }
    }
    ready->all = i == THREADS && answered;
}

static void tell_ready(struct seen *seen, struct ready *ready) {
    while (ready->count && seen->waiters < seen->waiting) {
        int *chosen = &ready->slots[(int)(random_share() * ready->count)];
        tell(seen, *chosen);
        *chosen = ready->slots[--ready->count];
    }
}

/* The share of the looks that ask who waits: what they find stands for the others, which would have found the like, as
 * the moments of all of them are random. But where nobody has waited for a while, who did then says nothing of now. */
static double share_of_looks(double now) {
    double passed = now - looked;
    rate = (rate * FORGETTING + 1) / (FORGETTING + passed);
    looked = now;
    if (passed > OUTDATED) {
        return 1;
    }
    double share = BUDGET / (rate * cost);
    return share > 1 ? 1 : share < LEAST ? LEAST : share;
}

void waiters_look(struct seen *seen, uintptr_t holder) {
    struct ready ready;
    seen->waiters = -1;
    if (seen->waiting <= 0 || !waiters_known()) {
        return;
    }
    double share = share_of_looks(seen->now);
    shares += share;
    if (shares < 1) {
        return;
    }
    shares -= 1;
    double began = processor_time();
    seen->waiters = 0;
    seen->stands_for = 1 / share;
    ask(seen, holder, &ready);
    bool explained = ready.all && ready.count >= seen->waiting - seen->waiters;
    if (!explained && (!seen->waiters || ready.all) && (scan() || !seen->waiters)) {
        seen->waiters = 0;
        ask(seen, holder, &ready);
    }
    if (ready.all) {
        tell_ready(seen, &ready);
    }
    cost += (processor_time() - began - cost) / 8;
}
