/* What the files of the recorder share.
 *
 * The recorder is a native thread that looks at the GIL of the main interpreter at random moments. It never takes the
 * GIL, never calls the Python API, and allocates nothing. Data goes one way: structures.c says where things are,
 * interpreter.c and waiters.c look, sums.c adds up, stall.c follows long holds, symbols.c keeps names, record.c
 * publishes, loop.c brings them together, and module.c is what Python sees.
 */
#ifndef OTEL_GIL_RECORDER_H
#define OTEL_GIL_RECORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

#if !(defined(__linux__) || defined(__APPLE__)) || UINTPTR_MAX != UINT64_MAX
#error "the recorder is for 64-bit Linux and macOS"
#endif

enum {
    ROWS = 192,       /* holders, and as many waiters, that are told apart */
    THREADS = 128,    /* threads that are remembered */
    NAMES = 256,      /* names of threads, and */
    FUNCTIONS = 512,  /* functions that are kept */
    FRAMES = 64,      /* of a stack, the innermost ones */
    POINTS = 48,      /* of the past of blocked and free time */
    PASTS = 40,       /* points in a window */
    UNKNOWN = 0,      /* the name, and the function, of what is not known */
};

/* The record, as a file and in memory: a head, two states in turn, names, functions. otel_gil/_records/record.py
 * describes it; a change of anything here is a new version. */
enum {
    RECORD_VERSION = 1,
    HEAD_SIZE = 8192,
    STATE_SIZE = 16384,
    STATES_AT = HEAD_SIZE,
    NAMES_AT = STATES_AT + 2 * STATE_SIZE,
    NAME_SIZE = 256,
    FUNCTIONS_AT = NAMES_AT + NAMES * NAME_SIZE,
    FUNCTION_SIZE = 512,
    RECORD_SIZE = FUNCTIONS_AT + FUNCTIONS * FUNCTION_SIZE,
    COMMAND_SIZE = 256,
    PATHS_SIZE = 7168,
};

struct head {
    char magic[8];
    uint32_t version, size;
    uint64_t pid, parent;
    double started;          /* seconds since 1970 */
    double interval, window; /* seconds */
    uint32_t python, reserved;
    char command[COMMAND_SIZE]; /* UTF-8, as all text, ended by a zero */
    char paths[PATHS_SIZE];     /* sys.path, one a line */
};

struct symbol { /* begins a name and a function */
    uint32_t checksum; /* of the rest */
    uint16_t generation, length;
};

struct name {
    struct symbol symbol;
    char text[NAME_SIZE - sizeof(struct symbol)];
};

struct function {
    struct symbol symbol; /* its length is that of the file's name */
    int32_t first_line;
    uint32_t name_length;
    char file[240], name[256];
};

struct row {
    uint32_t id; /* never used twice */
    uint16_t name, function, name_generation, function_generation;
    uint32_t pending;       /* not 0 while the thread's name is provisional: its slot + 1 */
    double seconds, weight; /* up to `now`, and a second since then */
};

struct call {
    uint16_t function, generation;
    int32_t line; /* 0 where it is not known */
};

enum { KNOWS_HOLDERS = 1, KNOWS_WAITING = 2, KNOWS_WAITERS = 4 };

struct state {
    uint32_t checksum; /* of the rest, up to `length` */
    uint32_t length;
    uint64_t sequence;
    double now, until; /* moments of the monotonic clock: totals are up to the first, weights hold up to the second */
    double blocked, free, contended, waited;
    double blocked_weight, contended_weight, waited_weight;
    uint64_t switches, stalls, looks, failed;
    uint32_t waiting, known;
    uint32_t held_rows, wait_rows, points, calls;
    double stall_since; /* the moment at which the hold in progress was seen first; 0 where none is a stall */
    uint64_t stall_thread;
    uint16_t stall_name, stall_generation;
    uint32_t reserved;
    struct {
        double blocked, free;
    } history[POINTS];
    struct call stack[FRAMES]; /* the innermost first */
    /* struct row held[held_rows], waited[wait_rows] */
};

_Static_assert(sizeof(struct head) <= HEAD_SIZE, "the head has no room");
_Static_assert(sizeof(struct state) + 2 * ROWS * sizeof(struct row) <= STATE_SIZE, "the state has no room");
_Static_assert(sizeof(struct name) == NAME_SIZE && sizeof(struct function) == FUNCTION_SIZE, "symbols are packed");
_Static_assert(sizeof(struct row) == 32 && sizeof(struct state) == 1448, "the record has no holes");

/* memory.c: the memory of this process, read so that a wrong address is an error and not a crash. */
struct piece {
    uintptr_t from;
    void *to;
    size_t size;
};
bool memory_begin(void); /* in a new process; false where reads are forbidden */
bool memory_read(uintptr_t from, void *to, size_t size);
bool memory_read_all(const struct piece *pieces, int count); /* 8 at most */
bool memory_word(uintptr_t from, uintptr_t *to);

/* interpreter.c: what the main interpreter is doing. */
struct gil {
    bool locked;
    uintptr_t holder; /* the last one where it is not locked */
    uint64_t switches;
};
struct thread {
    uintptr_t state;
    uint64_t ident, native; /* the latter 0 where CPython does not note it */
    uint64_t id;            /* the interpreter's number for it; 0 where that is not known */
    uintptr_t frame;        /* 0 where it runs no Python */
    bool requests;          /* it waits for the GIL; always false where CPython does not note it */
};
struct frame {
    uintptr_t code, instruction, previous;
};
struct code { /* what tells a code object from another one that had its address before */
    uintptr_t address, filename, qualname, linetable;
    int32_t first_line;
};
struct window { /* memory around a frame, in which its callers are, most likely */
    uintptr_t start;
    size_t size;
    unsigned char bytes[4096];
};
struct gil gil_now(void);
struct running { /* a thread, and what it runs */
    struct thread thread;
    struct frame frame; /* its code 0 where that is no Python */
    struct code code;
};
bool thread_read(uintptr_t state, struct thread *thread);
void thread_renumber(uint64_t ident, uint64_t native);
bool running_read(uintptr_t state, struct running *running);
bool threads_first(uintptr_t *state);
bool threads_next(uintptr_t *state);
/* The frame at an address, or the nearest caller's that runs Python; an address of 0 in the end. */
bool frame_read(struct window *window, uintptr_t address, struct frame *frame);
bool code_read(uintptr_t address, struct code *code);
/* The end of a text, as UTF-8; its length, or -1. */
int text_read(uintptr_t address, char *to, size_t size);
int line_read(const struct code *code, uintptr_t instruction);
int line_find(const unsigned char *table, size_t size, int first_line, intptr_t offset); /* 0: not known */

/* symbols.c: names of threads and functions, in the record. */
void symbols_begin(void);
void symbols_look(void); /* begins one: what is asked for in it stays */
uint16_t name_slot(const char *text, size_t length);
uint16_t function_slot(const struct code *code);
uint16_t name_generation(uint16_t slot);
uint16_t function_generation(uint16_t slot);
uint32_t checksum(const void *bytes, size_t size);

/* threads.c: the threads seen lately, and what they are called. */
struct known {
    uintptr_t state;
    uint64_t ident, native, id;
    uint16_t name;
    bool guessed;  /* by its outermost frames, as far as that can be */
    bool named;    /* for good */
    bool fresh;    /* nobody has asked yet whether it waits */
    uint64_t seen; /* the look at which it was */
    double waited; /* the moment at which it was last seen to wait */
};
void threads_begin(void);
void threads_new_process(uint64_t ident); /* only this thread goes on in it */
int thread_slot(const struct thread *thread); /* never fails: the one not seen for longest gives way */
struct known *thread_known(int slot);         /* NULL where there is none */
bool thread_is(const struct known *known, const struct thread *thread); /* no other one at its address */
void thread_name(int slot, uint16_t name);
void thread_leave_name(int slot); /* the provisional one is for good, but for that of a thread that has just begun */
void thread_forget(int slot);
bool threads_use_name(uint16_t name);

/* sums.c: what looks amount to. */
enum { SUMMED = 4 }; /* exponential times of which a sleep of the usual pace is the mean; at the slower one it is one */
struct seen {
    double now;
    double pace;       /* means that its sleep was drawn from */
    bool locked;
    int waiting; /* -1 where it is not known */
    uint16_t name, function;
    uint32_t pending;
    int waiters;       /* how many are told below; -1 where nobody looked */
    double stands_for; /* looks that found somebody waiting */
    struct {
        uint16_t name, function;
        uint32_t pending;
    } waiter[16];
};
void sums_begin(double now, double window);
void sums_new_process(double now);
void sums_look(const struct seen *seen);
double sums_pace(void);
void sums_until(double due); /* the next look is to be then */
void sums_named(uint32_t pending, uint16_t name); /* what was provisional is this thread's now */
bool sums_uses_name(uint16_t name);
bool sums_uses_function(uint16_t function);
size_t sums_write(void *to); /* the state, without a checksum; its length */
extern struct state sums;    /* its rows are apart */

/* waiters.c: how many threads wait for the GIL, and which. */
void waiters_begin(void);
/* By our own condition variable, in which only that thread sleeps, or nobody does. */
void waiters_prove(const void *condition, uint64_t native, bool waits);
bool waiters_proven(void);
int waiters_count(void); /* -1 where it can't be known */
bool waiters_known(void);
void waiters_look(struct seen *seen, uintptr_t holder); /* the last one where the GIL is free */

/* stall.c: holds that are too long. */
struct stall {
    double since, seconds;
    int64_t ended; /* nanoseconds since 1970 */
    uint64_t number, native, ident;
    uint16_t name, name_generation;
    uint32_t calls;
    struct call stack[FRAMES];
};
void stall_begin(double threshold, bool to_stderr);
void stall_new_process(void);
/* True where the probe is to ask for the GIL, so that somebody waits, or to fetch a stall that is over. */
bool stall_follow(double now, const struct gil *gil, int slot, int waiting);
bool stall_settle(double now, const struct gil *gil); /* whether one has just ended */
void stall_write(void); /* to standard error, what is to be written; not under the lock */
bool stall_take(struct stall *stall);
bool stall_uses_name(uint16_t name);
bool stall_uses_function(uint16_t function);
enum { CONTEXT_AT = 16 }; /* in a context of Python's, from which on it is of what is in it */
struct stalled { /* what tells that a thread still runs in the context in which it stalled */
    uintptr_t holder, context, values[2];
};
uint64_t stall_latest(struct stalled *stalled); /* its number, in progress or over; 0 where there was none */

/* record.c: the record, in memory and as a file. */
union record {
    unsigned char bytes[RECORD_SIZE];
    struct head head;
    struct {
        unsigned char before[NAMES_AT];
        struct name names[NAMES];
        struct function functions[FUNCTIONS];
    } symbols;
};
extern union record record;
void record_begin(const char *command, const char *paths, const char *const *folders, int count);
void record_new_process(void);
void record_open(void); /* makes the file, in the first folder that is fit for it; none is no error */
void record_symbol(size_t offset, size_t size);
void record_publish(double now, bool at_once); /* else not more often than others need it */
void record_check(double now); /* that the file is still ours, once a second */
void record_remove(void);
const char *record_path(void); /* empty where there is no file */

/* loop.c: the thread. */
struct settings {
    double interval, window, threshold;
    bool holders, functions, to_stderr;
};
extern struct settings settings;
double monotonic(void);
double random_share(void); /* in (0, 1) */
bool loop_start(void);
bool loop_stop(double seconds); /* false where it has not ended in so many */
bool loop_running(void);
bool loop_try_lock(void); /* what sums, symbols and threads hold stays as it is under the lock */
void loop_lock(void);
void loop_unlock(void);
void loop_refresh(void);       /* what is of the moment, under the lock */
void loop_prove_waiters(void); /* after the start */

/* The probe, a thread of Python's: it sleeps up to a moment or until it is wanted, asks for the GIL, and has it. */
void probe_begins(uint64_t ident);
void probe_sleep(double due);
void probe_asks(uintptr_t state);
void probe_has_it(void);
void probe_wake(void);
bool probe_is_asking(void);
bool probe_is(uint64_t ident);

#endif
