/* What the main interpreter is doing: its GIL, who has it, and what that thread runs.
 *
 * Nothing here stops what it looks at, so any of it can change meanwhile. What is read is checked as far as it can be,
 * and not taken where it makes no sense.
 */
#include "recorder.h"

#include <string.h>

#include "Python.h"

#define CODE_UNIT 2
#define LONGEST_TEXT (1 << 16)

enum { SKIPPED = 100, PLACE_BITS = 6 };

static uint64_t word(const unsigned char *bytes, uint32_t offset) {
    uint64_t value;
    memcpy(&value, bytes + offset, sizeof value);
    return value;
}

struct gil gil_now(void) {
    struct gil gil;
    gil.locked = __atomic_load_n((int *)layout.gil_locked, __ATOMIC_RELAXED) == 1;
    gil.holder = __atomic_load_n((uintptr_t *)layout.gil_holder, __ATOMIC_RELAXED);
    gil.switches = __atomic_load_n((unsigned long *)layout.gil_switches, __ATOMIC_RELAXED);
    return gil;
}

/* A thread that has forked has another native identifier in the child, which CPython notes only if its hooks are called. */
static struct {
    uint64_t ident, native;
} renumbered;

void thread_renumber(uint64_t ident, uint64_t native) {
    renumbered.ident = ident;
    renumbered.native = native;
}

static bool thread_parse(uintptr_t state, const unsigned char *bytes, struct thread *thread) {
    uintptr_t interpreter = word(bytes, layout.thread_interpreter), gil = 0;
    if (interpreter != layout.interpreter && layout.interpreter_gil) {
        if (!memory_word(interpreter + layout.interpreter_gil, &gil) || gil != layout.gil) {
            return false; /* not a thread of an interpreter that shares the GIL */
        }
    }
    thread->state = state;
    thread->ident = word(bytes, layout.thread_ident);
    thread->native = layout.thread_native == NONE ? 0 : word(bytes, layout.thread_native);
    if (thread->native && thread->ident == renumbered.ident) {
        thread->native = renumbered.native;
    }
    thread->id = layout.thread_id == NONE ? 0 : word(bytes, layout.thread_id);
    thread->frame = word(bytes, layout.thread_frame);
    thread->requests = layout.thread_requests != NONE && (uint32_t)word(bytes, layout.thread_requests) != 0;
    return true;
}

bool thread_read(uintptr_t state, struct thread *thread) {
    unsigned char bytes[THREAD_SIZE];
    if (!memory_read(state, bytes, layout.thread_size) || !thread_parse(state, bytes, thread)) {
        return false;
    }
    return layout.cframe_frame == NONE || !thread->frame ||
           memory_word(thread->frame + layout.cframe_frame, &thread->frame);
}

bool threads_first(uintptr_t *state) {
    return memory_word(layout.interpreter + layout.interpreter_threads, state);
}

bool threads_next(uintptr_t *state) { return memory_word(*state + layout.thread_next, state); }

/* False where it is one of the interpreter's own. */
static bool frame_parse(const unsigned char *bytes, struct frame *frame) {
    /* CPython 3.14 keeps flags in the lowest bits of what a frame refers to. */
    frame->code = word(bytes, layout.frame_code) & ~(uintptr_t)7;
    frame->previous = word(bytes, layout.frame_previous);
    frame->instruction = word(bytes, layout.frame_instruction);
#if PY_VERSION_HEX < 0x030B0000
    frame->instruction = (uint32_t)frame->instruction * CODE_UNIT;
#endif
    return layout.frame_owner == NONE || bytes[layout.frame_owner] < layout.owner_is_interpreter;
}

static const unsigned char *window_find(struct window *window, uintptr_t address) {
    size_t size = layout.frame_size;
    /* By differences: the end of an address that makes no sense may be beyond the last, and so a low one. */
    if (window->size < size || address - window->start > window->size - size) {
        /* Callers are at lower addresses, most likely in the same piece of memory. */
        window->start = address + size - sizeof window->bytes;
        window->size = sizeof window->bytes;
        if (address < sizeof window->bytes || !memory_read(window->start, window->bytes, window->size)) {
            window->start = address;
            window->size = memory_read(address, window->bytes, size) ? size : 0;
        }
    }
    return window->size ? window->bytes + (address - window->start) : NULL;
}

bool frame_read(struct window *window, uintptr_t address, struct frame *frame) {
    for (int i = 0; i < SKIPPED; i++) {
        if (!address) {
            *frame = (struct frame){0};
            return true;
        }
        const unsigned char *bytes = window_find(window, address);
        if (!bytes) {
            return false;
        }
        if (frame_parse(bytes, frame)) {
            return true;
        }
        address = frame->previous;
    }
    return false;
}

static bool code_parse(uintptr_t address, const unsigned char *bytes, struct code *code) {
    int32_t first_line;
    memcpy(&first_line, bytes + layout.code_first_line, sizeof first_line);
    *code = (struct code){
        .address = address,
        .filename = word(bytes, layout.code_filename),
        .qualname = word(bytes, layout.code_qualname),
        .linetable = word(bytes, layout.code_linetable),
        .first_line = first_line,
    };
    return word(bytes, layout.object_type) == layout.code_type;
}

bool code_read(uintptr_t address, struct code *code) {
    unsigned char bytes[CODE_SIZE];
    return memory_read(address, bytes, layout.code_size) && code_parse(address, bytes, code);
}

/* Where a thread was when it was seen last, which is where it is, most likely. */
struct place {
    uintptr_t state, outer, frame, code;
};

static struct place *place_of(uintptr_t state) {
    static struct place places[1 << PLACE_BITS];
    struct place *place = &places[((uint64_t)state * 0x9E3779B97F4A7C15U) >> (64 - PLACE_BITS)];
    if (place->state != state) {
        *place = (struct place){.state = state};
    }
    return place;
}

/* In one call where the thread runs what it did. */
bool running_read(uintptr_t state, struct running *running) {
    unsigned char thread[THREAD_SIZE], cframe[sizeof(uintptr_t)], frame[FRAME_SIZE], code[CODE_SIZE];
    struct place *last = place_of(state);
    bool indirect = layout.cframe_frame != NONE;
    struct piece pieces[4] = {
        {state, thread, layout.thread_size},
        {last->frame, frame, layout.frame_size},
        {last->code, code, layout.code_size},
        {last->outer + layout.cframe_frame, cframe, sizeof cframe},
    };
    bool guessed = last->code && memory_read_all(pieces, indirect ? 4 : 3);
    if ((!guessed && !memory_read(state, thread, layout.thread_size)) ||
        !thread_parse(state, thread, &running->thread)) {
        return false;
    }
    uintptr_t outer = running->thread.frame;
    if (indirect && guessed && outer == last->outer) {
        running->thread.frame = (uintptr_t)word(cframe, 0);
    } else if (indirect && outer && !memory_word(outer + layout.cframe_frame, &running->thread.frame)) {
        return false;
    }
    if (guessed && running->thread.frame == last->frame && frame_parse(frame, &running->frame) &&
        running->frame.code == last->code && code_parse(last->code, code, &running->code)) {
        return true;
    }
    last->code = 0;
    running->frame = (struct frame){0};
    if (!running->thread.frame) {
        return true;
    }
    /* Not the window that is used for whole stacks: to read it all would be dear. */
    uintptr_t address = running->thread.frame;
    for (int i = 0; i < SKIPPED && address; i++) {
        if (!memory_read(address, frame, layout.frame_size)) {
            return false;
        }
        if (frame_parse(frame, &running->frame)) {
            if (!code_read(running->frame.code, &running->code)) {
                return false;
            }
            /* The guess is for frames that are innermost themselves. */
            if (address == running->thread.frame) {
                *last = (struct place){state, outer, address, running->frame.code};
            }
            return true;
        }
        address = running->frame.previous;
    }
    running->frame = (struct frame){0};
    return !address;
}

static size_t encode(uint32_t character, char *to) {
    if (character < 0x80) {
        to[0] = (char)character;
        return 1;
    }
    if (character < 0x800) {
        to[0] = (char)(0xC0 | character >> 6);
        to[1] = (char)(0x80 | (character & 0x3F));
        return 2;
    }
    if ((character >= 0xD800 && character < 0xE000) || character > 0x10FFFF) {
        to[0] = '?';
        return 1;
    }
    if (character < 0x10000) {
        to[0] = (char)(0xE0 | character >> 12);
        to[1] = (char)(0x80 | (character >> 6 & 0x3F));
        to[2] = (char)(0x80 | (character & 0x3F));
        return 3;
    }
    to[0] = (char)(0xF0 | character >> 18);
    to[1] = (char)(0x80 | (character >> 12 & 0x3F));
    to[2] = (char)(0x80 | (character >> 6 & 0x3F));
    to[3] = (char)(0x80 | (character & 0x3F));
    return 4;
}

int text_read(uintptr_t address, char *to, size_t size) {
    unsigned char head[128], characters[4 * 256];
    if (layout.text_ascii_size > sizeof head || !memory_read(address, head, layout.text_ascii_size)) {
        return -1;
    }
    int64_t length = (int64_t)word(head, layout.text_length);
    uint32_t state = (uint32_t)word(head, layout.text_state);
    uint32_t kind = state >> 2 & 7, compact = state >> 5 & 1, ascii = state >> 6 & 1;
    if (length < 0 || length > LONGEST_TEXT || !compact || (kind != 1 && kind != 2 && kind != 4)) {
        return -1;
    }
    int64_t most = (int64_t)size < 256 ? (int64_t)size : 256;
    int64_t kept = length < most ? length : most;
    uintptr_t start = address + (ascii ? layout.text_ascii_size : layout.text_compact_size);
    if (kept && !memory_read(start + (uintptr_t)((length - kept) * kind), characters, (size_t)kept * kind)) {
        return -1;
    }
    char encoded[4 * 256];
    size_t end = 0;
    for (int64_t i = 0; i < kept; i++) {
        uint32_t character = characters[i];
        if (kind == 2) {
            character = (uint32_t)(characters[2 * i] | characters[2 * i + 1] << 8);
        } else if (kind == 4) {
            memcpy(&character, characters + 4 * i, sizeof character);
        }
        end += encode(character ? character : '?', encoded + end);
    }
    size_t begin = end > size ? end - size : 0;
    while (begin < end && (encoded[begin] & 0xC0) == 0x80) {
        begin++; /* not in the middle of a character */
    }
    memcpy(to, encoded + begin, end - begin);
    return (int)(end - begin);
}

/* A table is a sequence of entries, each for some code units. */

#if PY_VERSION_HEX >= 0x030B0000

/* As CPython's Objects/locations.md says: bit 7 is set in the first byte of an entry only; bits 3 to 6 of that are its
 * kind, bits 0 to 2 the number of its code units less one. */
int line_find(const unsigned char *table, size_t size, int first_line, intptr_t offset) {
    enum { ONE_LINE = 10, NO_COLUMN = 13, LONG = 14, NO_LOCATION = 15 };
    int64_t line = first_line;
    intptr_t end = 0;
    size_t at = 0;
    while (offset >= 0 && at < size) {
        unsigned entry = table[at++], kind = entry >> 3 & 15;
        if (!(entry & 0x80)) {
            return 0;
        }
        if (kind == NO_COLUMN || kind == LONG) {
            uint64_t value = 0;
            bool more = true;
            for (int i = 0; more; i++) {
                if (i == 6 || at == size || table[at] & 0x80) {
                    return 0;
                }
                value |= (uint64_t)(table[at] & 0x3F) << 6 * i;
                more = table[at++] & 0x40;
            }
            line += value & 1 ? -(int64_t)(value >> 1) : (int64_t)(value >> 1);
        } else if (kind >= ONE_LINE && kind < NO_COLUMN) {
            line += kind - ONE_LINE;
        }
        end += CODE_UNIT * ((entry & 7) + 1);
        if (offset < end) {
            return kind == NO_LOCATION || line < 0 || line > INT32_MAX ? 0 : (int)line;
        }
        while (at < size && !(table[at] & 0x80)) {
            at++;
        }
    }
    return 0;
}

#else

/* Pairs: bytes of code, and the difference of the line from that before; -128 where there is none. */
int line_find(const unsigned char *table, size_t size, int first_line, intptr_t offset) {
    int64_t line = first_line;
    intptr_t end = 0;
    for (size_t at = 0; offset >= 0 && at + 1 < size; at += 2) {
        int difference = (signed char)table[at + 1];
        if (difference != -128) {
            line += difference;
        }
        end += table[at];
        if (offset < end) {
            return difference == -128 || line < 0 || line > INT32_MAX ? 0 : (int)line;
        }
    }
    return 0;
}

#endif

int line_read(const struct code *code, uintptr_t instruction) {
    static unsigned char table[1 << 15]; /* a longer one is that of generated code: its line is not known */
    uintptr_t size;
    if (!memory_word(code->linetable + layout.bytes_length, &size) || size > sizeof table ||
        !memory_read(code->linetable + layout.bytes_data, table, size)) {
        return 0;
    }
    if (layout.code_instructions) {
        instruction -= code->address + layout.code_instructions;
    }
    return line_find(table, size, code->first_line, (intptr_t)instruction);
}
