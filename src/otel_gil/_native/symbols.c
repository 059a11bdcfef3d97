/* Names of threads and functions, in the record. A slot that no row and no stall refers to is used again. */
#include "recorder.h"

#include <stdio.h>
#include <string.h>

enum { CACHED = 512, COMPARED = 112 };

/* The texts of code that was dropped may have had the same addresses: they are compared, as far as one call can read. */
static struct cached {
    struct code code;
    uint16_t slot, generation;
    bool compared;
    unsigned char file[COMPARED], name[COMPARED];
} cache[CACHED];

static uint64_t looks, wanted_at[FUNCTIONS]; /* at which a function was asked for last: no row has it yet */
static unsigned names_used, functions_used, names_hand, functions_hand;
static uint32_t crc_table[256];

uint32_t checksum(const void *bytes, size_t size) {
    uint32_t crc = 0xFFFFFFFF;
    for (const unsigned char *at = bytes; size; size--) {
        crc = crc_table[(crc ^ *at++) & 0xFF] ^ crc >> 8;
    }
    return ~crc;
}

static struct name *names(void) { return record.symbols.names; }

static struct function *functions(void) { return record.symbols.functions; }

static void publish(void *slot, size_t size) {
    struct symbol *symbol = slot;
    symbol->checksum = checksum((char *)slot + sizeof symbol->checksum, size - sizeof symbol->checksum);
    record_symbol((size_t)((unsigned char *)slot - record.bytes), size);
}

void symbols_begin(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc & 1 ? crc >> 1 ^ 0xEDB88320 : crc >> 1;
        }
        crc_table[i] = crc;
    }
    if (names_used) {
        return;
    }
    static const char unknown[] = "_unknown";
    names_used = functions_used = 1;
    memcpy(names()->text, unknown, sizeof unknown);
    names()->symbol.length = sizeof unknown - 1;
    memcpy(functions()->name, unknown, sizeof unknown);
    functions()->name_length = sizeof unknown - 1;
    publish(names(), sizeof *names());
    publish(functions(), sizeof *functions());
}

static bool name_is_used(unsigned slot) {
    return sums_uses_name((uint16_t)slot) || stall_uses_name((uint16_t)slot) || threads_use_name((uint16_t)slot);
}

static bool function_is_used(unsigned slot) {
    return wanted_at[slot] == looks || sums_uses_function((uint16_t)slot) || stall_uses_function((uint16_t)slot);
}

/* A slot for a new symbol: one that was never used, else the next that is not in use; 0 where there is none. */
static unsigned free_slot(unsigned *used, unsigned *hand, unsigned most, bool (*is_used)(unsigned)) {
    if (*used < most) {
        return (*used)++;
    }
    for (unsigned i = 1; i < most; i++) {
        *hand = *hand % (most - 1) + 1;
        if (!is_used(*hand)) {
            return *hand;
        }
    }
    return UNKNOWN;
}

uint16_t name_slot(const char *text, size_t length) {
    size_t room = sizeof names()->text - 1;
    length = length < room ? length : room;
    while (length && length == room && (text[length] & 0xC0) == 0x80) {
        length--; /* not in the middle of a character */
    }
    for (unsigned i = 0; i < names_used; i++) {
        if (names()[i].symbol.length == length && !memcmp(names()[i].text, text, length)) {
            return (uint16_t)i;
        }
    }
    unsigned slot = free_slot(&names_used, &names_hand, NAMES, name_is_used);
    if (slot == UNKNOWN) {
        return UNKNOWN;
    }
    struct name *name = &names()[slot];
    name->symbol.generation++;
    name->symbol.length = (uint16_t)length;
    memset(name->text, 0, sizeof name->text);
    memcpy(name->text, text, length);
    publish(name, sizeof *name);
    return (uint16_t)slot;
}

static bool read_texts(const struct code *code, unsigned char *file, unsigned char *name) {
    /* Without what counts references. */
    const struct piece pieces[] = {{code->filename + 16, file, COMPARED}, {code->qualname + 16, name, COMPARED}};
    return memory_read_all(pieces, 2);
}

static bool is_cached(const struct cached *cached, const struct code *code) {
    return cached->code.address == code->address && cached->code.filename == code->filename &&
           cached->code.qualname == code->qualname && cached->code.linetable == code->linetable &&
           cached->code.first_line == code->first_line && cached->slot &&
           functions()[cached->slot].symbol.generation == cached->generation;
}

static unsigned find_function(const struct function *wanted) {
    for (unsigned i = 1; i < functions_used; i++) {
        const struct function *function = &functions()[i];
        if (function->first_line == wanted->first_line && function->symbol.length == wanted->symbol.length &&
            function->name_length == wanted->name_length &&
            !memcmp(function->name, wanted->name, sizeof function->name) &&
            !memcmp(function->file, wanted->file, sizeof function->file)) {
            return i;
        }
    }
    return UNKNOWN;
}

void symbols_look(void) { looks++; }

static uint16_t find_slot(const struct code *code) {
    struct cached *cached = &cache[(code->address >> 4 ^ code->address >> 13) % CACHED];
    struct cached now = {.code = *code};
    now.compared = read_texts(code, now.file, now.name);
    if (now.compared && is_cached(cached, code) && cached->compared &&
        !memcmp(cached->file, now.file, sizeof now.file) && !memcmp(cached->name, now.name, sizeof now.name)) {
        return cached->slot;
    }
    struct function wanted = {.first_line = code->first_line};
    int file = text_read(code->filename, wanted.file, sizeof wanted.file - 1);
    int name = text_read(code->qualname, wanted.name, sizeof wanted.name - 1);
    if (file < 0 || name < 0) {
        return UNKNOWN;
    }
    wanted.symbol.length = (uint16_t)file;
    wanted.name_length = (uint32_t)name;
    unsigned slot = find_function(&wanted);
    if (slot == UNKNOWN) {
        slot = free_slot(&functions_used, &functions_hand, FUNCTIONS, function_is_used);
        if (slot == UNKNOWN) {
            return UNKNOWN;
        }
        wanted.symbol.generation = (uint16_t)(functions()[slot].symbol.generation + 1);
        functions()[slot] = wanted;
        publish(&functions()[slot], sizeof wanted);
    }
    now.slot = (uint16_t)slot;
    now.generation = functions()[slot].symbol.generation;
    *cached = now;
    return (uint16_t)slot;
}

uint16_t function_slot(const struct code *code) {
    uint16_t slot = find_slot(code);
    wanted_at[slot] = looks;
    return slot;
}

uint16_t name_generation(uint16_t slot) { return names()[slot].symbol.generation; }

uint16_t function_generation(uint16_t slot) { return functions()[slot].symbol.generation; }
