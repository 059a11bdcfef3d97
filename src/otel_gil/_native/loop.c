/* The recorder's thread: sleeps for a random time, looks, and tells what the looks amount to. */
#define _GNU_SOURCE 1
#include "recorder.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#define LATEST 1e9 /* a moment that does not come */

enum { ATTEMPTS = 3, PARKED = 2000, STACK = 1 << 18 };

#define UNPUBLISHED 0.01 /* seconds from a fork to the child's file: most children execute another program at once */

struct settings settings;

/* Held while the recorder looks, so that nothing is half done when Python reads, or a thread forks. */
static pthread_mutex_t looking = PTHREAD_MUTEX_INITIALIZER;

/* Of what the two threads sleep in, and say when they have ended. */
static pthread_mutex_t sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t recorder_wakes, probe_wakes, has_ended;

/* Of what the probe notes of itself, beside the GIL; held for a moment only, and nothing is waited for with it. */
static pthread_mutex_t probing = PTHREAD_MUTEX_INITIALIZER;

static bool stopped, ended = true, probe_wanted, probe_parked, handlers_installed, recorder_sleeps;
static int forking; /* threads that do */
static double begun;
static uint64_t native_id, random_state;

static bool asking;
static uintptr_t probe_thread, before_probe;
static uint64_t probe_ident;
static uint64_t switches_seen, switches_of_probe, switches_at_probe;

double monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Waits until it is woken or a moment has come; false where the moment has. Spurious ends are the caller's to see. */
static bool wait_until(pthread_cond_t *condition, double due) {
    struct timespec at;
    due = due < LATEST ? due : LATEST; /* also where it is no number */
#if defined(__APPLE__)
    double left = due - monotonic();
    left = left > 0 ? left : 0;
    at = (struct timespec){(time_t)left, (long)((left - (double)(time_t)left) * 1e9)};
    return pthread_cond_timedwait_relative_np(condition, &sleeping, &at) == 0;
#else
    at = (struct timespec){(time_t)due, (long)((due - (double)(time_t)due) * 1e9)};
    return pthread_cond_timedwait(condition, &sleeping, &at) == 0;
#endif
}

static void make_conditions(void) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
#if !defined(__APPLE__)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    pthread_cond_init(&recorder_wakes, &attributes);
    pthread_cond_init(&probe_wakes, &attributes);
    pthread_cond_init(&has_ended, &attributes);
    pthread_condattr_destroy(&attributes);
}

double random_share(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return ((double)(random_state >> 12) + 0.5) / 4503599627370496.0;
}

/* Of mean 1: exponential, or the mean of several such times. Then looks keep further apart than those of a Poisson
 * process, and what they see varies less: half as much for what changes slowly, as much for what changes fast. With more
 * than 4, it would vary more for some rhythms. */
static double next_unit(double pace) {
    int summed = pace > 1 ? 1 : SUMMED;
    double product = 1;
    for (int i = 0; i < summed; i++) {
        product *= random_share();
    }
    return -log(product) / summed;
}

/* Whether the GIL has gone from the probe to the thread that had it before. */
static bool has_come_back(const struct gil *gil) {
    return switches_at_probe && gil->switches == switches_at_probe + 1 && gil->holder == before_probe;
}

/* Switches since the last time, without those that there are because of the probe. */
static void count_switches(const struct gil *gil) {
    uint64_t more = gil->switches - switches_seen;
    if (gil->switches < switches_seen) {
        more = gil->switches; /* CPython has made the GIL anew, as after a fork */
    }
    switches_seen = gil->switches;
    pthread_mutex_lock(&probing);
    if (has_come_back(gil)) {
        switches_of_probe++;
    }
    if (gil->switches != switches_at_probe) {
        switches_at_probe = 0;
    }
    uint64_t own = switches_of_probe < more ? switches_of_probe : more;
    switches_of_probe -= own;
    pthread_mutex_unlock(&probing);
    sums.switches += more - own;
}

static void refresh(struct gil *gil) {
    *gil = gil_now();
    count_switches(gil);
    if (gil->locked && gil->holder == __atomic_load_n(&probe_thread, __ATOMIC_RELAXED)) {
        gil->locked = false;
    }
}

static int find_holder(struct seen *seen, uintptr_t holder) {
    struct running running;
    for (int i = 0; i < ATTEMPTS; i++) {
        if (!running_read(holder, &running)) {
            sums.failed++;
            continue; /* it has changed while it was read */
        }
        int slot = thread_slot(&running.thread);
        const struct known *known = thread_known(slot);
        seen->name = known->name;
        seen->pending = known->named ? 0 : (uint32_t)slot + 1;
        if (settings.functions && running.frame.code) {
            seen->function = function_slot(&running.code);
        }
        return slot;
    }
    return -1;
}

static void look(double now, double pace) {
    struct gil gil;
    struct seen seen = {.now = now, .pace = pace, .waiters = -1};
    int slot = -1;
    symbols_look();
    refresh(&gil);
    seen.locked = gil.locked;
    seen.waiting = waiters_count();
    if (gil.locked && settings.holders) {
        slot = find_holder(&seen, gil.holder);
    }
    if (settings.holders) {
        waiters_look(&seen, gil.holder);
    }
    sums_look(&seen);
    sums.known = (settings.holders ? KNOWS_HOLDERS : 0) | (seen.waiting >= 0 ? KNOWS_WAITING : 0) |
                 (settings.holders && seen.waiting >= 0 && waiters_known() ? KNOWS_WAITERS : 0);
    if (stall_follow(now, &gil, slot, seen.waiting) || seen.pending) {
        probe_wake();
    }
}

static uint64_t own_native_id(void) {
#if defined(__linux__)
    return (uint64_t)syscall(SYS_gettid);
#else
    return 0;
#endif
}

static void begin_thread(void) {
    native_id = own_native_id();
#if defined(__linux__)
    /* So that it runs when it wakes, on a core where another thread computes (Linux 6.12). */
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t slice, deadline, period;
    } attributes = {.size = sizeof attributes};
    prctl(PR_SET_NAME, "otel-gil");
    if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) == 0 && attributes.policy == 0) {
        attributes.slice = 100000;
        syscall(SYS_sched_setattr, 0, &attributes, 0);
    }
#endif
}

static void *run(void *nothing) {
    (void)nothing;
    begin_thread();
    double pace = 1, due = monotonic() + settings.interval * next_unit(pace);
    for (bool opened = false;;) {
        pthread_mutex_lock(&sleeping);
        while (!stopped && monotonic() < due) {
            recorder_sleeps = true;
            wait_until(&recorder_wakes, due);
            recorder_sleeps = false;
        }
        bool stops = stopped;
        pthread_mutex_unlock(&sleeping);
        pthread_mutex_lock(&looking);
        double now = monotonic();
        if (!opened && now >= begun + UNPUBLISHED) {
            record_open();
            opened = true;
        }
        if (!stops) {
            look(now, pace);
        }
        pace = sums_pace();
        due = now + pace * settings.interval * next_unit(pace);
        sums_until(due);
        record_check(now);
        record_publish(now, stops);
        if (stops) {
            record_remove();
        }
        pthread_mutex_unlock(&looking);
        stall_write();
        if (stops) {
            break;
        }
    }
    pthread_mutex_lock(&sleeping);
    __atomic_store_n(&ended, true, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&has_ended);
    pthread_mutex_unlock(&sleeping);
    return NULL;
}

/* A thread that gets no signals: those of the application are for its own threads. */
static bool start_thread(void) {
    static const int faults[] = {SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
    sigset_t all, before;
    pthread_t thread;
    pthread_attr_t attributes;
    random_state = ((uint64_t)(monotonic() * 1e9) ^ (uint64_t)getpid() << 32) | 1;
    begun = monotonic();
    pthread_mutex_lock(&sleeping);
    stopped = false;
    __atomic_store_n(&ended, false, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&sleeping);
    sigfillset(&all);
    /* Those of its own faults stay: blocked, they end the process whatever handler there is. */
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        sigdelset(&all, faults[i]);
    }
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool failed = pthread_create(&thread, &attributes, run, NULL) != 0;
    if (failed) {
        __atomic_store_n(&ended, true, __ATOMIC_RELAXED);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return !failed;
}

/* Whether the probe has the GIL, or may have it at once. */
static bool probe_runs(void) {
    struct gil gil = gil_now();
    struct thread holder;
    if (!__atomic_load_n(&probe_ident, __ATOMIC_RELAXED) || __atomic_load_n(&probe_parked, __ATOMIC_RELAXED)) {
        return false;
    }
    return !gil.locked || (thread_read(gil.holder, &holder) && probe_is(holder.ident));
}

/* Where a thread forks that has not got the GIL, and nobody calls Python's hooks, as in uWSGI, a GIL that the probe has
 * would be taken for ever in the child. */
static void park_probe(void) {
    pthread_mutex_lock(&sleeping);
    forking++;
    pthread_mutex_unlock(&sleeping);
    for (int i = 0; i < PARKED && probe_runs(); i++) {
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
}

static void before_fork(void) {
    park_probe();
    pthread_mutex_lock(&looking);
}

static void after_fork_in_parent(void) {
    pthread_mutex_unlock(&looking);
    pthread_mutex_lock(&sleeping);
    forking--;
    pthread_cond_broadcast(&probe_wakes);
    pthread_mutex_unlock(&sleeping);
}

/* Also where nobody calls Python's hooks: the recorder goes on in the child, with the totals that there are. */
static void after_fork_in_child(void) {
    static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
    looking = sleeping = probing = fresh;
    if (handlers_installed) {
        make_conditions(); /* a thread of the parent's may have been in them */
    }
    if (ended) {
        return;
    }
    probe_wanted = probe_parked = asking = false;
    forking = 0;
    probe_thread = 0;
    probe_ident = 0;
    switches_of_probe = switches_at_probe = 0;
    memory_begin();
    threads_new_process((uint64_t)pthread_self());
    thread_renumber((uint64_t)pthread_self(), own_native_id());
    sums_new_process(monotonic());
    stall_new_process();
    record_new_process();
    if (stopped) {
        ended = true;
    } else {
        start_thread();
    }
}

bool loop_start(void) {
    if (!handlers_installed) {
        handlers_installed = true;
        make_conditions();
        pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    }
    switches_seen = gil_now().switches;
    /* That of a probe before may be the address of any thread now. */
    pthread_mutex_lock(&probing);
    __atomic_store_n(&asking, false, __ATOMIC_RELAXED);
    __atomic_store_n(&probe_thread, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&probe_ident, 0, __ATOMIC_RELAXED);
    switches_of_probe = switches_at_probe = 0;
    pthread_mutex_unlock(&probing);
    return start_thread();
}

bool loop_stop(double seconds) {
    double due = monotonic() + seconds;
    pthread_mutex_lock(&sleeping);
    stopped = true;
    if (handlers_installed) {
        pthread_cond_signal(&recorder_wakes);
        pthread_cond_signal(&probe_wakes);
    }
    while (!ended && monotonic() < due) {
        wait_until(&has_ended, due);
    }
    bool has = ended;
    pthread_mutex_unlock(&sleeping);
    return has;
}

bool loop_running(void) { return !__atomic_load_n(&ended, __ATOMIC_RELAXED); }

bool loop_try_lock(void) { return pthread_mutex_trylock(&looking) == 0; }

void loop_lock(void) { pthread_mutex_lock(&looking); }

void loop_unlock(void) { pthread_mutex_unlock(&looking); }

void loop_refresh(void) {
    struct gil gil;
    refresh(&gil);
    int waiting = waiters_count();
    sums.waiting = waiting > 0 ? (uint32_t)waiting : 0;
}

/* Our own condition variable, in which only the recorder sleeps, shows where such a thing has its count. */
void loop_prove_waiters(void) {
    for (int i = 0; i < 100; i++) {
        pthread_mutex_lock(&sleeping);
        bool sleeps = recorder_sleeps;
        if (sleeps) {
            waiters_prove(&recorder_wakes, native_id, true);
            waiters_prove(&has_ended, native_id, false);
        }
        pthread_mutex_unlock(&sleeping);
        if (sleeps && waiters_proven()) {
            return; /* else it was about to sleep, or to wake */
        }
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
}

void probe_begins(uint64_t ident) {
    __atomic_store_n(&probe_ident, ident, __ATOMIC_RELAXED);
    __atomic_store_n(&asking, true, __ATOMIC_RELAXED); /* as any new thread */
}

bool probe_is(uint64_t ident) { return ident == __atomic_load_n(&probe_ident, __ATOMIC_RELAXED); }

void probe_sleep(double due) {
    pthread_mutex_lock(&sleeping);
    __atomic_store_n(&probe_parked, true, __ATOMIC_RELAXED);
    while (forking || (!stopped && !probe_wanted && monotonic() < due)) {
        wait_until(&probe_wakes, forking ? LATEST : due);
    }
    __atomic_store_n(&probe_parked, false, __ATOMIC_RELAXED);
    probe_wanted = false;
    pthread_mutex_unlock(&sleeping);
}

void probe_wake(void) {
    pthread_mutex_lock(&sleeping);
    probe_wanted = true;
    pthread_cond_signal(&probe_wakes);
    pthread_mutex_unlock(&sleeping);
}

void probe_asks(uintptr_t state) {
    struct gil gil = gil_now();
    pthread_mutex_lock(&probing);
    if (has_come_back(&gil)) {
        switches_of_probe++; /* and no look has seen it */
    }
    __atomic_store_n(&probe_thread, state, __ATOMIC_RELAXED);
    if (gil.holder != state) {
        before_probe = gil.holder;
    }
    switches_at_probe = gil.switches;
    pthread_mutex_unlock(&probing);
    __atomic_store_n(&asking, true, __ATOMIC_RELAXED);
}

void probe_has_it(void) {
    __atomic_store_n(&asking, false, __ATOMIC_RELAXED);
    struct gil gil = gil_now();
    pthread_mutex_lock(&probing);
    if (gil.switches != switches_at_probe) {
        switches_of_probe++;
    }
    switches_at_probe = gil.switches;
    pthread_mutex_unlock(&probing);
}

bool probe_is_asking(void) { return __atomic_load_n(&asking, __ATOMIC_RELAXED); }
