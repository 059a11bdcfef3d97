/* Where CPython keeps what: addresses, and offsets in its structures. See structures.c. */
#ifndef OTEL_GIL_LAYOUT_H
#define OTEL_GIL_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

struct layout {
    /* Addresses of what stays where it is as long as the interpreter lives. */
    uintptr_t gil_holder, gil_locked, gil_switches, gil_condition;
    uintptr_t gil_switch_condition; /* in which a thread that gave the GIL waits until another one has it */
    uintptr_t interpreter, code_type;
    uintptr_t main_thread; /* the identifier of the main thread; 0 where that is not told */
    uint32_t interpreter_threads, interpreter_gil; /* the latter 0 where all interpreters share one */
    uintptr_t gil;

    uint32_t thread_next, thread_interpreter, thread_ident, thread_native, thread_frame, thread_requests, thread_size;
    uint32_t thread_id, thread_context;
    uint32_t cframe_frame; /* the thread's frame is that of its cframe, at this offset; NONE where it is its own */

    uint32_t frame_code, frame_previous, frame_instruction, frame_owner, frame_size;
    unsigned char owner_is_interpreter; /* `owner` of a frame that runs no code of the user's is this or more */

    uint32_t code_filename, code_qualname, code_linetable, code_first_line, code_instructions, code_size;
    uint32_t object_type;
    uint32_t text_length, text_state, text_ascii_size, text_compact_size;
    uint32_t bytes_length, bytes_data;
};

#define NONE UINT32_MAX

enum { THREAD_SIZE = 1024, FRAME_SIZE = 256, CODE_SIZE = 512 }; /* of what is read of each, at the most */

extern struct layout layout;

/* Finds all of it; NULL, or why it can't. With the GIL. */
const char *layout_find(void);

#endif
