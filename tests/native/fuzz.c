/* The recorder's parts, given an interpreter that makes no sense.
 *
 * usage: fuzz SEED ROUNDS FOLDER [PART...]
 *
 * In an arena there is what CPython would have: an interpreter, threads, frames, code objects, texts, tables of lines.
 * It is valid, or damaged, or another thread damages it while it is looked at; `look` of loop.c looks at it, and what
 * it amounts to is checked. With the same seed the same happens, but for the part `changed`, which has a thread.
 *
 * Built with REAL_MEMORY it is read by memory.c, from pages some of which can't be read; without, by what is here.
 */
#include "loop.c" /* for what is static in it: nothing of it is replaced, and its thread is not started */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#undef _GNU_SOURCE /* which old versions of it define again */
#include "Python.h" /* for its version only */

enum {
    ARENA = 1 << 21,
    PAGE = 4096,
    STATES = 160,
    CODES = 700,
    DEPTH = 24,
    LOOKS = 250,
    ALARM = 60, /* seconds that a round may take; most take some milliseconds */
};

#define EPSILON 1e-6

struct layout layout;

static uint64_t seed, generator;
static const char *part = "";
static int round_now;

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "fuzz: %s:%d: %s is not so: ", __FILE__, __LINE__, #condition);                            \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fprintf(stderr, " (seed %llu, part %s, round %d)\n", (unsigned long long)seed, part, round_now);           \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* splitmix64 */
static uint64_t mixed(uint64_t *state) {
    uint64_t value = *state += 0x9E3779B97F4A7C15;
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9;
    value = (value ^ value >> 27) * 0x94D049BB133111EB;
    return value ^ value >> 31;
}

static uint64_t any(void) { return mixed(&generator); }

static uint32_t below(uint32_t end) { return (uint32_t)(any() % end); }

static bool one_in(uint32_t many) { return below(many) == 0; }

static double share(void) { return (double)(any() >> 11) / 9007199254740992.0; }

static void too_long(int number) {
    static const char text[] = "fuzz: it does not end\n";
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    (void)number;
    abort();
}

/* What a look has cost is not the same twice, and decides when waiters are asked for again: here it is. */
int clock_gettime(clockid_t clock, struct timespec *time) {
    static long used;
    if (clock == CLOCK_THREAD_CPUTIME_ID) {
        used = (used + 17000) % 900000000;
        *time = (struct timespec){.tv_nsec = used};
        return 0;
    }
    return (int)syscall(SYS_clock_gettime, clock, time);
}

/* The arena: words, as they are read and written by two threads. */

static uint64_t *arena;
static size_t arena_used;

static uintptr_t arena_start(void) { return (uintptr_t)arena; }

static void put(uintptr_t at, uint64_t value) { /* of any alignment */
    for (unsigned i = 0; i < 8; i++) {
        __atomic_store_n((unsigned char *)at + i, (unsigned char)(value >> 8 * i), __ATOMIC_RELAXED);
    }
}

static void put_bytes(uintptr_t at, const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) {
        __atomic_store_n((unsigned char *)at + i, ((const unsigned char *)bytes)[i], __ATOMIC_RELAXED);
    }
}

static uintptr_t make(size_t size) {
    size_t start = arena_used;
    arena_used += (size + 15) / 16 * 16;
    CHECK(arena_used <= ARENA, "the arena is too small");
    memset((unsigned char *)arena + start, 0, arena_used - start);
    return arena_start() + start;
}

#if !defined(REAL_MEMORY)

static bool answers_anything; /* an address outside of the arena has random bytes */

bool memory_begin(void) { return true; }

bool memory_read_all(const struct piece *pieces, int count) {
    for (int i = 0; i < count; i++) {
        if (!pieces[i].from || pieces[i].from >= ((uintptr_t)1 << 56) - pieces[i].size) {
            return false;
        }
    }
    for (int i = 0; i < count; i++) {
        uintptr_t from = pieces[i].from;
        unsigned char *to = pieces[i].to;
        if (from >= arena_start() && from + pieces[i].size <= arena_start() + ARENA) {
            for (size_t at = 0; at < pieces[i].size; at++) {
                to[at] = __atomic_load_n((unsigned char *)from + at, __ATOMIC_RELAXED);
            }
        } else if (answers_anything) {
            uint64_t state = from;
            for (size_t at = 0; at < pieces[i].size; at++) {
                to[at] = (unsigned char)mixed(&state);
            }
        } else {
            memset(to, 0xA5, pieces[i].size); /* a read that fails may have changed something */
            return false;
        }
    }
    return true;
}

bool memory_read(uintptr_t from, void *to, size_t size) {
    return memory_read_all(&(struct piece){from, to, size}, 1);
}

bool memory_word(uintptr_t from, uintptr_t *to) { return memory_read(from, to, sizeof *to); }

#endif

/* The GIL is read as it is, at addresses that are known. */
static struct {
    uintptr_t holder;
    int locked;
    unsigned long switches;
    uint32_t condition[16];
} gil;

static void make_layout(void) {
    bool indirect = one_in(2);
    layout = (struct layout){
        .gil_holder = (uintptr_t)&gil.holder,
        .gil_locked = (uintptr_t)&gil.locked,
        .gil_switches = (uintptr_t)&gil.switches,
        .gil_condition = (uintptr_t)gil.condition,
        .interpreter_threads = 24,
        .interpreter_gil = one_in(2) ? 0 : 40,
        .gil = (uintptr_t)&gil,
        .thread_next = 8,
        .thread_interpreter = 16,
        .thread_ident = 152,
        .thread_native = one_in(3) ? NONE : 160,
        .thread_frame = 72,
        .thread_requests = one_in(2) ? NONE : 200,
        .thread_size = 208,
        .cframe_frame = indirect ? 8 : NONE,
        .frame_code = 32,
        .frame_previous = 48,
        .frame_instruction = 56,
        .frame_owner = PY_VERSION_HEX < 0x030B0000 ? NONE : 70,
        .frame_size = 78,
        .owner_is_interpreter = 3,
        .code_filename = 112,
        .code_qualname = 128,
        .code_linetable = 136,
        .code_first_line = 68,
        .code_instructions = PY_VERSION_HEX < 0x030B0000 ? 0 : 192,
        .code_size = 144,
        .object_type = 8,
        .text_length = 16,
        .text_state = 32,
        .text_ascii_size = 40,
        .text_compact_size = 56,
        .bytes_length = 16,
        .bytes_data = 32,
    };
}

/* An interpreter. */

static uintptr_t interpreter, states[STATES], codes[CODES], innermost[STATES];
static char code_names[CODES][16], code_files[CODES][16];
static int running_code[STATES]; /* of the innermost frame; -1 where there is none, or it is not known */
static int state_count, code_count;

static uintptr_t make_text(const char *text, unsigned kind) {
    size_t length = strlen(text);
    bool ascii = kind == 0;
    unsigned width = ascii ? 1 : kind;
    size_t head = ascii ? layout.text_ascii_size : layout.text_compact_size;
    uintptr_t at = make(head + (length + 1) * width);
    put(at + layout.text_length, length);
    put(at + layout.text_state, width << 2 | 1 << 5 | (unsigned)ascii << 6);
    for (size_t i = 0; i < length; i++) {
        put_bytes(at + head + i * width, &(uint32_t){(unsigned char)text[i]}, width);
    }
    return at;
}

static uintptr_t make_table(void) {
    unsigned char bytes[64];
    uint32_t size = below(sizeof bytes + 1);
    for (uint32_t i = 0; i < size; i++) {
        bytes[i] = (unsigned char)(one_in(3) ? any() : any() & 0x7F);
        if (i % 2 == 0 && !one_in(20)) {
            bytes[i] |= 0x80;
        }
    }
    uintptr_t at = make(layout.bytes_data + sizeof bytes);
    put(at + layout.bytes_length, size);
    put_bytes(at + layout.bytes_data, bytes, size);
    return at;
}

/* Another code object where one was dropped: all is at the same addresses, and it has another name. */
static void replace_code(int number) {
    uintptr_t text, state;
    memory_word(codes[number] + layout.code_qualname, &text);
    memory_word(text + layout.text_state, &state);
    bool ascii = state >> 6 & 1;
    code_names[number][0] = (char)('A' + below(26));
    put_bytes(text + (ascii ? layout.text_ascii_size : layout.text_compact_size),
              &(uint32_t){(unsigned char)code_names[number][0]}, ascii ? 1 : state >> 2 & 7);
}

static const unsigned kinds[] = {0, 1, 2, 4};

static uintptr_t make_code(int number) {
    uintptr_t at = make(layout.code_size + 256);
    snprintf(code_names[number], sizeof code_names[number], "C.f%d", number);
    snprintf(code_files[number], sizeof code_files[number], "/f%d.py", number % 7);
    put(at + layout.object_type, layout.code_type);
    put(at + layout.code_filename, make_text(code_files[number], kinds[below(4)]));
    put(at + layout.code_qualname, make_text(code_names[number], kinds[below(4)]));
    put(at + layout.code_linetable, make_table());
    put_bytes(at + layout.code_first_line, &(int32_t){1 + number}, 4);
    return at;
}

static uintptr_t make_frames(int state) {
    uintptr_t previous = 0;
    running_code[state] = -1;
    for (uint32_t left = below(DEPTH + 1); left; left--) {
        uintptr_t at = make(layout.frame_size);
        bool internal = layout.frame_owner != NONE && one_in(6);
        int code = (int)below((uint32_t)code_count);
        put(at + layout.frame_code, codes[code]);
        put(at + layout.frame_previous, previous);
        put(at + layout.frame_instruction, layout.code_instructions ? codes[code] + layout.code_instructions + below(64)
                                                                    : below(64));
        if (layout.frame_owner != NONE) {
            put_bytes(at + layout.frame_owner, &(unsigned char){internal ? 3 : 0}, 1);
        }
        running_code[state] = internal ? running_code[state] : code;
        previous = at;
    }
    return previous;
}

static void fill_arena(void) {
    arena_used = 0;
    layout.code_type = make(64);
    layout.interpreter = interpreter = make(128);
    put(interpreter + 40, layout.gil);
    code_count = (int)(one_in(4) ? CODES : 1 + below(40));
    state_count = (int)(one_in(4) ? STATES : 1 + below(12));
    for (int i = 0; i < code_count; i++) {
        codes[i] = make_code(i);
    }
    for (int i = 0; i < state_count; i++) {
        states[i] = make(layout.thread_size);
        uintptr_t frame = make_frames(i);
        innermost[i] = frame;
        if (layout.cframe_frame != NONE) {
            uintptr_t cframe = make(24);
            put(cframe + layout.cframe_frame, frame);
            frame = cframe;
        }
        put(states[i] + layout.thread_interpreter, interpreter);
        put(states[i] + layout.thread_ident, 1000 + (uint64_t)i);
        if (layout.thread_native != NONE) {
            put(states[i] + layout.thread_native, 1u << 30 | (unsigned)i); /* that no thread has */
        }
        if (layout.thread_requests != NONE) {
            put_bytes(states[i] + layout.thread_requests, &(int32_t){one_in(3)}, 4);
        }
        put(states[i] + layout.thread_frame, frame);
        put(states[i] + layout.thread_next, i ? states[i - 1] : 0);
    }
    put(interpreter + layout.interpreter_threads, states[state_count - 1]);
}

static void make_interpreter(void) {
    make_layout();
    fill_arena();
}

/* Damage. */

static uint64_t word_of_damage(uint64_t *random) {
    uint64_t value = mixed(random);
    switch (mixed(random) % 12) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX - value % 128;
    case 2:
        return value % 256;
    case 3:
        return (uint64_t)INT64_MAX + value % 3;
    case 4:
        return ((uint64_t)1 << 56) - value % 8192;
    case 5:
        return value;
    case 6:
        return arena_start() + ARENA - value % PAGE;
    case 7:
        return states[value % (unsigned)state_count];
    case 8:
        return codes[value % (unsigned)code_count];
    case 9:
        return innermost[value % (unsigned)state_count] + value / 64 % 3;
    case 10:
        return UINT32_MAX - value % 3;
    default:
        return arena_start() + value % ARENA;
    }
}

static void damage(uint64_t *random, uint32_t many) {
    while (many--) {
        size_t at = mixed(random) % (arena_used / 8);
        switch (mixed(random) % 4) {
        case 0: { /* a word as another one is: lists that go round in circles */
            size_t other = mixed(random) % (arena_used / 8);
            put((uintptr_t)(arena + at), __atomic_load_n(arena + other, __ATOMIC_RELAXED));
            break;
        }
        case 1: { /* freed, and used by something else */
            size_t end = at + mixed(random) % 32;
            uint64_t value = word_of_damage(random);
            for (; at < end && at < arena_used / 8; at++) {
                put((uintptr_t)(arena + at), value);
            }
            break;
        }
        default:
            put((uintptr_t)(arena + at), word_of_damage(random));
        }
    }
}

/* What most depends on: where a frame, a code object, a text or a thread refers to something else. */
static void damage_reference(uint64_t *random) {
    uintptr_t at;
    switch (mixed(random) % 4) {
    case 0:
    case 1: {
        const uint32_t offsets[] = {layout.frame_code, layout.frame_previous, layout.frame_instruction};
        at = innermost[mixed(random) % (unsigned)state_count];
        at = at ? at - mixed(random) % 4 * 80 + offsets[mixed(random) % 3] : 0; /* it, or what it was called by */
        break;
    }
    case 2: {
        const uint32_t offsets[] = {layout.code_filename, layout.code_qualname, layout.code_linetable,
                                    layout.code_first_line, layout.object_type};
        at = codes[mixed(random) % (unsigned)code_count] + offsets[mixed(random) % 5];
        break;
    }
    default: {
        const uint32_t offsets[] = {layout.thread_next, layout.thread_interpreter, layout.thread_frame,
                                    layout.thread_ident};
        at = states[mixed(random) % (unsigned)state_count] + offsets[mixed(random) % 4];
    }
    }
    if (at >= arena_start() && at + 8 <= arena_start() + arena_used) {
        put(at, word_of_damage(random));
    }
}

static bool changing;

static void *change(void *nothing) {
    uint64_t random = seed ^ 0xC0FFEE;
    while (__atomic_load_n(&changing, __ATOMIC_RELAXED)) {
        damage(&random, 1);
        damage_reference(&random);
    }
    return nothing;
}

/* What must be so, whatever was looked at. */

static double elapsed; /* seconds for which there were weights */

static size_t character_size(const unsigned char *at) {
    return *at < 0x80 ? 1 : (*at & 0xE0) == 0xC0 ? 2 : (*at & 0xF0) == 0xE0 ? 3 : (*at & 0xF8) == 0xF0 ? 4 : 0;
}

static void check_text(const char *text, size_t length, size_t room) {
    CHECK(length < room && !text[length], "a text of %zu bytes", length);
    for (size_t at = 0; at < length;) {
        size_t size = character_size((const unsigned char *)text + at);
        CHECK(size && at + size <= length && text[at], "a text that is no UTF-8");
        for (size_t i = 1; i < size; i++) {
            CHECK((text[at + i] & 0xC0) == 0x80, "a text that is no UTF-8");
        }
        at += size;
    }
}

static void check_symbols(void) {
    for (int i = 0; i < NAMES; i++) {
        const struct name *name = &record.symbols.names[i];
        check_text(name->text, name->symbol.length, sizeof name->text);
        uint32_t wanted = checksum((const char *)name + 4, sizeof *name - 4);
        CHECK(!name->symbol.checksum || name->symbol.checksum == wanted, "name %d", i);
    }
    for (int i = 0; i < FUNCTIONS; i++) {
        const struct function *function = &record.symbols.functions[i];
        check_text(function->file, function->symbol.length, sizeof function->file);
        check_text(function->name, function->name_length, sizeof function->name);
        uint32_t wanted = checksum((const char *)function + 4, sizeof *function - 4);
        CHECK(!function->symbol.checksum || function->symbol.checksum == wanted, "function %d", i);
    }
}

static void check_number(double number) { CHECK(isfinite(number) && number >= 0, "%g", number); }

static void check_rows(const struct row *rows, uint32_t count, double most_seconds, double most_weight) {
    double seconds = 0, weight = 0;
    for (uint32_t i = 0; i < count; i++) {
        check_number(rows[i].seconds);
        check_number(rows[i].weight);
        seconds += rows[i].seconds;
        weight += rows[i].weight;
        CHECK(rows[i].name < NAMES && rows[i].function < FUNCTIONS, "%u, %u", rows[i].name, rows[i].function);
        CHECK(rows[i].pending <= THREADS, "%u", rows[i].pending);
        CHECK(rows[i].name_generation == name_generation(rows[i].name), "a row whose name has gone");
        CHECK(rows[i].function_generation == function_generation(rows[i].function), "a row whose function has gone");
        for (uint32_t other = 0; other < i; other++) {
            CHECK(rows[i].id != rows[other].id, "%u", rows[i].id);
            CHECK(rows[i].function != rows[other].function || rows[i].pending != rows[other].pending ||
                      (!rows[i].pending && rows[i].name != rows[other].name),
                  "two rows of one thread and function");
        }
    }
    CHECK(seconds <= most_seconds + EPSILON * (1 + most_seconds), "%g of %g", seconds, most_seconds);
    CHECK(weight <= most_weight + EPSILON * (1 + most_weight), "%g of %g", weight, most_weight);
}

static void check_calls(const struct call *calls, uint32_t count) {
    CHECK(count <= FRAMES, "%u", count);
    for (uint32_t i = 0; i < count; i++) {
        CHECK(calls[i].function < FUNCTIONS && calls[i].line >= 0, "%u", calls[i].function);
        CHECK(calls[i].generation == function_generation(calls[i].function), "a call of a function that has gone");
    }
}

/* The state, in a buffer of its size and no more. */
static void check_state(void) {
    struct state *state = malloc(STATE_SIZE);
    size_t size = sums_write(state);
    CHECK(size <= STATE_SIZE && size == state->length, "%zu", size);
    CHECK(state->held_rows <= ROWS && state->wait_rows <= ROWS, "%u, %u", state->held_rows, state->wait_rows);
    CHECK(state->points >= 1 && state->points <= POINTS, "%u", state->points);
    CHECK(size == sizeof *state + (state->held_rows + state->wait_rows) * sizeof(struct row), "%zu", size);
    const double numbers[] = {state->blocked,        state->free,             state->contended,    state->waited,
                              state->blocked_weight, state->contended_weight, state->waited_weight};
    for (int i = 0; i < 7; i++) {
        check_number(numbers[i]);
    }
    CHECK(state->blocked_weight <= 1 + EPSILON, "%g", state->blocked_weight);
    CHECK(state->contended_weight <= state->blocked_weight + EPSILON, "%g", state->contended_weight);
    CHECK(state->contended <= state->blocked + EPSILON, "%g of %g", state->contended, state->blocked);
    CHECK(fabs(state->blocked + state->free - elapsed) < EPSILON * (1 + elapsed), "%g of %g",
          state->blocked + state->free, elapsed);
    for (uint32_t i = 1; i < state->points; i++) {
        CHECK(state->history[i].blocked >= state->history[i - 1].blocked, "the past goes back");
        CHECK(state->history[i].free >= state->history[i - 1].free, "the past goes back");
    }
    const struct row *rows = (const struct row *)(const void *)(state + 1);
    check_rows(rows, state->held_rows, state->blocked, state->blocked_weight);
    check_rows(rows + state->held_rows, state->wait_rows, state->waited, state->waited_weight);
    CHECK(state->stall_name < NAMES, "%u", state->stall_name);
    check_calls(state->stack, state->calls);
    free(state);
}

/* A valid interpreter is seen as it is. */
static void check_truth(int holder) {
    static char bytes[STATE_SIZE];
    sums_write(bytes);
    const struct row *rows = (const struct row *)(const void *)(bytes + sizeof(struct state));
    const char *name = running_code[holder] < 0 ? "_unknown" : code_names[running_code[holder]];
    const char *file = running_code[holder] < 0 ? "" : code_files[running_code[holder]];
    bool found = false;
    for (uint32_t i = 0; i < sums.held_rows; i++) {
        const struct function *function = &record.symbols.functions[rows[i].function];
        found = found || (rows[i].weight > 0 && !strcmp(function->name, name) && !strcmp(function->file, file));
    }
    CHECK(found, "%s of %s is not among those that hold the GIL", name, file);
}

/* Parts. */

static double now = 1000;

static void begin(void) {
    settings = (struct settings){.interval = 0.01, .window = 0.5 + share() * 20, .threshold = one_in(2) ? 0.02 : 1,
                                 .holders = !one_in(8), .functions = !one_in(8)};
    memset(&gil, 0, sizeof gil);
    now += 2 + share(); /* a clock that never goes back, as that of record_check */
    elapsed = 0;
    probe_thread = 0;
    asking = false;
    switches_seen = switches_at_probe = switches_of_probe = 0;
    threads_begin();
    sums_begin(now, settings.window);
    symbols_begin();
    waiters_begin();
    stall_begin(settings.threshold, false);
}

static void name_somebody(void) {
    char text[320];
    int slot = (int)below(THREADS);
    const struct known *known = thread_known(slot);
    if (!known || known->named) {
        return;
    }
    size_t length = below(sizeof text - 1);
    for (size_t i = 0; i < length; i++) { /* UTF-8, as it is from Python */
        text[i] = (char)(i % 3 == 0 && i + 3 <= length ? 0xE2 : i % 3 == 1 && i + 2 <= length ? 0x82 : 0xAC);
        text[i] = length % 3 ? (char)('a' + any() % 26) : text[i];
    }
    text[length] = 0;
    char *exact = malloc(length + 1);
    memcpy(exact, text, length + 1);
    if (one_in(3)) {
        thread_leave_name(slot);
    } else {
        thread_name(slot, name_slot(exact, length));
    }
    free(exact);
}

static int turn_of_gil(bool damaged) {
    static int holder;
    __atomic_store_n(&gil.locked, one_in(50) ? -1 : !one_in(3), __ATOMIC_RELAXED);
    if (one_in(2)) {
        holder = (int)below((uint32_t)state_count);
        __atomic_fetch_add(&gil.switches, 1 + below(3), __ATOMIC_RELAXED);
    }
    if (one_in(100)) {
        __atomic_store_n(&gil.switches, any(), __ATOMIC_RELAXED);
    }
    holder %= state_count;
    bool nowhere = damaged && one_in(20);
    __atomic_store_n(&gil.holder, nowhere ? (uintptr_t)word_of_damage(&generator) : states[holder], __ATOMIC_RELAXED);
    for (int i = 0; i < 16; i++) {
        uint32_t count = one_in(30) ? (uint32_t)any() : below(8) << 3;
        __atomic_store_n(&gil.condition[i], count, __ATOMIC_RELAXED);
    }
    return nowhere ? -1 : holder;
}

static void probe(void) {
    if (one_in(20)) {
        probe_asks(one_in(3) ? states[below((uint32_t)state_count)] : arena_start() + 64);
    } else if (one_in(10)) {
        probe_has_it();
    }
}

static void fork_it(void) {
    struct stall stall;
    threads_new_process(1000 + below(8));
    sums_new_process(now);
    stall_new_process();
    CHECK(!stall_take(&stall), "a stall of the parent");
}

static void look_once(bool damaged, bool still) {
    int holder = turn_of_gil(damaged);
    double pace = sums_pace(), before = now;
    probe();
    now += pace * settings.interval * -log(1 - share()) + (one_in(200) ? 3 : 0);
    if (sums.looks) {
        elapsed += fmax(fmin(now, sums.until) - before, 0);
    }
    look(now, pace);
    sums_until(now + pace * settings.interval);
    bool is_held = holder >= 0 && gil.locked == 1 && gil.holder != probe_thread;
    if (still && is_held && settings.holders && settings.functions) {
        check_truth(holder);
    }
    check_state();
    if (one_in(10)) {
        loop_refresh();
    }
    if (one_in(3)) {
        name_somebody();
    }
    if (one_in(20)) {
        struct stall stall;
        if (stall_take(&stall)) {
            CHECK(stall.name < NAMES && isfinite(stall.seconds) && stall.seconds >= 0, "%g", stall.seconds);
            check_calls(stall.stack, stall.calls);
        }
    }
    if (one_in(300)) {
        fork_it();
    }
}

static void part_valid(void) {
    make_interpreter();
    begin();
    for (int i = 0; i < LOOKS; i++) {
        if (one_in(4)) {
            replace_code((int)below((uint32_t)code_count));
        }
        look_once(false, true);
    }
}

static void part_damaged(void) {
    make_interpreter();
    begin();
    for (int i = 0; i < LOOKS; i++) {
        if (i % 40 == 0) {
            fill_arena(); /* so that not all of it is nonsense */
        }
        damage(&generator, below(3));
        for (uint32_t left = below(4); left; left--) {
            damage_reference(&generator);
        }
        look_once(true, false);
    }
}

static void part_random(void) {
    make_interpreter();
    begin();
    for (size_t i = 0; i < arena_used / 8; i++) {
        put((uintptr_t)(arena + i), one_in(2) ? any() : word_of_damage(&generator));
    }
#if !defined(REAL_MEMORY)
    answers_anything = one_in(2);
#endif
    for (int i = 0; i < LOOKS; i++) {
        look_once(true, false);
    }
#if !defined(REAL_MEMORY)
    answers_anything = false;
#endif
}

static void part_changed(void) {
    pthread_t changer;
    make_interpreter();
    begin();
    __atomic_store_n(&changing, true, __ATOMIC_RELAXED);
    CHECK(pthread_create(&changer, NULL, change, NULL) == 0, "a thread");
    for (int i = 0; i < LOOKS; i++) {
        look_once(true, false);
    }
    __atomic_store_n(&changing, false, __ATOMIC_RELAXED);
    pthread_join(changer, NULL);
}

#if defined(REAL_MEMORY)

static void part_unreadable(void) {
    make_interpreter();
    begin();
    for (int i = 0; i < LOOKS; i++) {
        char *page = (char *)arena + below(ARENA / PAGE) * PAGE;
        CHECK(mprotect(page, PAGE, PROT_NONE) == 0, "mprotect");
        look_once(false, false);
        CHECK(mprotect(page, PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
    }
}

#endif

/* Tables of lines, and texts, of any bytes, in buffers of their size and no more. */
static void part_units(void) {
    make_interpreter();
    begin();
    for (int i = 0; i < 2000; i++) {
        size_t size = below(80);
        unsigned char *table = malloc(size ? size : 1);
        for (size_t at = 0; at < size; at++) {
            table[at] = (unsigned char)(any() | (one_in(2) ? 0x80 : 0) | (one_in(4) ? 0x70 : 0));
        }
        int32_t first_line = one_in(4) ? (int32_t)any() : (int32_t)below(5000);
        intptr_t offset = one_in(4) ? (intptr_t)word_of_damage(&generator) : (intptr_t)below(300);
        int line = line_find(table, size, first_line, offset);
        CHECK(line >= 0, "%d", line);
        free(table);
    }
    for (int i = 0; i < 500; i++) {
        unsigned kind = kinds[below(4)];
        size_t length = one_in(3) ? below(1 << 10) : below(300), width = kind ? kind : 1, room = 1 + below(300);
        size_t mark = arena_used, head = kind ? layout.text_compact_size : layout.text_ascii_size;
        uintptr_t text = make(head + length * width);
        put(text + layout.text_length, one_in(20) ? any() : length);
        put(text + layout.text_state, one_in(20) ? any() : width << 2 | 1 << 5 | (unsigned)!kind << 6);
        for (size_t at = 0; at < length * width; at++) {
            uint64_t byte = at % width > 1 ? any() % 2 : any() & (kind ? 0xFF : 0x7F);
            put_bytes(text + head + at, &(unsigned char){(unsigned char)byte}, 1);
        }
        char *to = malloc(room + 1);
        int kept = text_read(text, to, room);
        CHECK(kept >= -1 && kept <= (int)room, "%d", kept);
        if (kept >= 0) {
            to[kept] = 0;
            check_text(to, (size_t)kept, room + 1);
        }
        free(to);
        arena_used = mark;
    }
}

/* The record, as a file that is closed, cut off, removed, and has no room. */

static int record_descriptor(void) {
    struct stat status, wanted;
    if (!record_path()[0] || stat(record_path(), &wanted)) {
        return -1;
    }
    for (int i = 3; i < 700; i++) {
        if (!fstat(i, &status) && status.st_ino == wanted.st_ino && status.st_dev == wanted.st_dev) {
            return i;
        }
    }
    return -1;
}

static void check_file(void) {
    static unsigned char bytes[RECORD_SIZE];
    int file = open(record_path(), O_RDONLY | O_CLOEXEC);
    CHECK(file >= 0 && read(file, bytes, sizeof bytes) == (ssize_t)sizeof bytes, "the record can't be read");
    close(file); /* its lock is lost: nobody needs it here */
    CHECK(!memcmp(bytes, record.bytes, sizeof(struct head)), "the head in the file is another one");
    for (size_t at = NAMES_AT; at < RECORD_SIZE; at += NAME_SIZE) {
        CHECK(!memcmp(bytes + at, record.bytes + at, NAME_SIZE), "the file lacks symbols, at %zu", at);
    }
    const struct state *newest = NULL;
    for (int i = 0; i < 2; i++) {
        const struct state *state = (const struct state *)(const void *)(bytes + STATES_AT + i * STATE_SIZE);
        if (state->length >= sizeof *state && state->length <= STATE_SIZE &&
            state->checksum == checksum((const char *)state + 4, state->length - 4) &&
            (!newest || newest->sequence < state->sequence)) {
            newest = state;
        }
    }
    CHECK(newest && newest->looks == sums.looks, "the state in the file is not the newest");
}

/* The application's own file, which must not change: with the number that the record had. */
static int victim = -1;

static void check_victim(void) {
    struct stat status;
    CHECK(victim < 0 || (!fstat(victim, &status) && status.st_size == 0), "the record is in the application's file");
}

static void limit_files(rlim_t size) {
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0, "getrlimit");
    limit.rlim_cur = size < limit.rlim_max ? size : limit.rlim_max;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0, "setrlimit");
}

static void harm_record(const char *folder, int way) {
    int descriptor = record_descriptor();
    char path[600];
    switch (way) {
    case 0:
        CHECK(descriptor < 0 || close(descriptor) == 0, "close");
        break;
    case 1:
        if (descriptor >= 0 && victim < 0) {
            snprintf(path, sizeof path, "%s/victim", folder);
            int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
            CHECK(file >= 0 && dup2(file, descriptor) == descriptor, "dup2");
            close(file);
            victim = descriptor;
        }
        break;
    case 2:
        CHECK(!record_path()[0] || truncate(record_path(), (off_t)below(RECORD_SIZE)) == 0, "truncate");
        break;
    case 3:
        unlink(record_path());
        break;
    default: /* no room */
        limit_files(below(RECORD_SIZE));
    }
}

static void part_record(const char *folder) {
    const char *folders[] = {"/nowhere/at/all", folder};
    make_interpreter();
    begin();
    record_begin("command", "paths", folders, 2);
    record_open();
    CHECK(record_path()[0], "no record in %s", folder);
    int way = (int)below(6);
    bool harmed = false;
    for (int i = 0; i < LOOKS; i++) {
        if (one_in(60) && way < 5) {
            harm_record(folder, way);
            harmed = true;
        }
        look_once(false, true);
        record_check(now);
        record_publish(monotonic(), true);
        check_victim();
    }
    limit_files(RLIM_INFINITY);
    if (victim >= 0) {
        close(victim);
        victim = -1;
    }
    for (int i = 0; i < 2; i++) { /* what was wrong is put right within a second or two */
        now += 1.5;
        elapsed += fmax(fmin(now, sums.until) - sums.now, 0);
        look(now, sums_pace());
        record_check(now);
        record_publish(monotonic(), true);
    }
    if (!harmed || (way != 2 && way != 3)) {
        check_file();
    }
    record_remove();
    CHECK(!record_path()[0] && record_descriptor() < 0, "the record is still there");
    record_begin("command", "paths", NULL, 0);
}

static const struct {
    const char *name;
    void (*run)(void);
} parts[] = {
    {"valid", part_valid},
    {"damaged", part_damaged},
    {"random", part_random},
    {"changed", part_changed},
    {"units", part_units},
#if defined(REAL_MEMORY)
    {"unreadable", part_unreadable},
#endif
    {"record", NULL},
};

static bool wanted(int count, char **names, const char *name) {
    for (int i = 0; i < count; i++) {
        if (!strcmp(names[i], name)) {
            return true;
        }
    }
    return count == 0;
}

int main(int count, char **arguments) {
    if (count < 4) {
        fprintf(stderr, "usage: fuzz SEED ROUNDS FOLDER [PART...]\n");
        return 2;
    }
    seed = strtoull(arguments[1], NULL, 10);
    int rounds = atoi(arguments[2]);
    signal(SIGALRM, too_long);
    signal(SIGXFSZ, SIG_IGN);
    /* The same addresses each time, if they are free: caches go by them. */
    arena = mmap((void *)0x7E0000000000, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(arena != MAP_FAILED && memory_begin(), "memory");
    make_conditions();
    for (round_now = 0; round_now < rounds; round_now++) {
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            if (!wanted(count - 4, arguments + 4, parts[i].name)) {
                continue;
            }
            part = parts[i].name;
            generator = seed + (uint64_t)round_now * 1000003 + i;
            alarm(ALARM);
            if (parts[i].run) {
                parts[i].run();
            } else {
                part_record(arguments[3]);
            }
            check_symbols();
        }
    }
    alarm(0);
    printf("%d rounds\n", rounds);
    return 0;
}
