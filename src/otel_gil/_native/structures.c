/* CPython's structures, by version.
 *
 * From 3.13 on `_PyRuntime` begins with a table of offsets, made for debuggers, whose own form is fixed within a minor
 * version: one that is not known here is refused. Before, the headers that this was compiled with say where things are.
 */
#if defined(__linux__) || defined(__APPLE__)
#define Py_BUILD_CORE 1
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stddef.h>
#include <string.h>

#if PY_VERSION_HEX < 0x030D0000
#include "internal/pycore_interp.h"
#include "internal/pycore_runtime.h"
#if PY_VERSION_HEX >= 0x030B0000
#include "internal/pycore_frame.h"
#else
#include <frameobject.h>
#endif
#endif

#include "layout.h"

struct layout layout;

#define END_OF(offset, type) ((uint32_t)((offset) + sizeof(type)))

static uint32_t largest(const uint32_t *offsets, int count) {
    uint32_t end = 0;
    for (int i = 0; i < count; i++) {
        if (offsets[i] != NONE && offsets[i] > end) {
            end = offsets[i];
        }
    }
    return end;
}

static void find_sizes(void) {
    const uint32_t thread[] = {layout.thread_next,   layout.thread_interpreter, layout.thread_ident,
                               layout.thread_native, layout.thread_frame,       layout.thread_requests,
                               layout.thread_id};
    const uint32_t frame[] = {layout.frame_code, layout.frame_previous, layout.frame_instruction, layout.frame_owner};
    const uint32_t code[] = {layout.code_filename, layout.code_qualname, layout.code_linetable, layout.code_first_line};
    layout.thread_size = END_OF(largest(thread, 7), uint64_t);
    layout.frame_size = END_OF(largest(frame, 4), uint64_t);
    layout.code_size = END_OF(largest(code, 4), uint64_t);
}

static const char *check_sizes(void) {
    find_sizes();
    layout.thread_context = offsetof(PyThreadState, context);
    bool fit = layout.thread_size <= THREAD_SIZE && layout.frame_size <= FRAME_SIZE && layout.code_size <= CODE_SIZE;
    return fit ? NULL : "the interpreter's structures are larger than they should be";
}

#if PY_VERSION_HEX >= 0x030D0000

/* The table, as far as it is used: words, in groups that each begin with the size of a structure. */
struct table {
    char cookie[8];
    uint64_t version, free_threaded;
    struct {
        uint64_t size, finalizing, interpreters_head;
    } runtime;
    struct {
        uint64_t size, id, next, threads_head;
#if PY_VERSION_HEX >= 0x030E0000
        uint64_t threads_main;
#endif
        uint64_t gc, imports_modules, sysdict, builtins, ceval_gil, gil, gil_enabled, gil_locked, gil_holder;
#if PY_VERSION_HEX >= 0x030E0000
        uint64_t code_object_generation, tlbc_generation;
#endif
    } interpreter;
    struct {
        uint64_t size, prev, next, interp, current_frame;
#if PY_VERSION_HEX >= 0x030F0000
        uint64_t base_frame, last_profiled_frame, last_profiled_frame_seq;
#endif
        uint64_t thread_id, native_thread_id, datastack_chunk, status;
#if PY_VERSION_HEX >= 0x030F0000
        uint64_t holds_gil, gil_requested, current_exception, exc_state, err_stackitem_exc_value;
#endif
    } thread;
    struct {
        uint64_t size, previous, executable, instr_ptr, localsplus, owner;
#if PY_VERSION_HEX >= 0x030E0000
        uint64_t stackpointer, tlbc_index;
#endif
    } frame;
    struct {
        uint64_t size, filename, name, qualname, linetable, firstlineno, argcount, localsplusnames, localspluskinds,
            co_code_adaptive;
#if PY_VERSION_HEX >= 0x030E0000
        uint64_t co_tlbc;
#endif
    } code;
    struct {
        uint64_t size, ob_type;
    } object;
    struct {
        uint64_t size, tp_name, tp_repr, tp_flags;
#if PY_VERSION_HEX >= 0x030F0000
        uint64_t tp_basicsize, tp_dictoffset;
#endif
    } type;
#if PY_VERSION_HEX >= 0x030F0000
    struct {
        uint64_t size, ht_cached_keys;
    } heap_type;
#endif
    struct {
        uint64_t size, ob_item, ob_size;
    } tuple, list;
#if PY_VERSION_HEX >= 0x030E0000
    struct {
        uint64_t size, used, table, mask;
    } set;
#endif
    struct {
        uint64_t size, ma_keys, ma_values;
    } dict;
    struct {
        uint64_t size, ob_fval;
    } float_object;
    struct {
        uint64_t size, lv_tag, ob_digit;
    } long_object;
    struct {
        uint64_t size, ob_size, ob_sval;
    } bytes;
    struct {
        uint64_t size, state, length, asciiobject_size;
    } unicode;
};

extern char _PyRuntime[] __attribute__((weak));

const char *layout_find(void) {
    struct table table;
    if (PY_VERSION_HEX >= 0x03100000) {
        return "it was built for a CPython whose structures are not known yet";
    }
    if (!_PyRuntime) {
        return "the interpreter does not show its structures";
    }
    memcpy(&table, _PyRuntime, sizeof table);
    if (memcmp(table.cookie, "xdebugpy", sizeof table.cookie) != 0) {
        return "the interpreter has no table of its structures";
    }
    if (table.version != Py_Version || table.version >> 16 != PY_VERSION_HEX >> 16) {
        return "the interpreter's table of structures is of another version";
    }
    if (table.free_threaded) {
        return "the interpreter is a free-threaded one";
    }
    if (table.runtime.size > 1 << 22 || table.thread.size > 1 << 14 || table.code.size > 1 << 10 ||
        table.interpreter.gil_locked != table.interpreter.gil_holder + sizeof(void *)) {
        return "the interpreter's table of structures makes no sense";
    }
    uintptr_t interpreter = (uintptr_t)PyInterpreterState_Main();
    uintptr_t gil = interpreter + table.interpreter.gil;
    if (*(uintptr_t *)(interpreter + table.interpreter.ceval_gil) != gil) {
        return "the GIL is not where it should be";
    }
    uintptr_t holder = interpreter + table.interpreter.gil_holder;
    layout = (struct layout){
        .gil = gil,
        .gil_holder = holder,
        .gil_locked = holder + sizeof(void *),
        .gil_switches = holder + 2 * sizeof(void *),
        .gil_condition = holder + 3 * sizeof(void *),
        .gil_switch_condition = holder + 3 * sizeof(void *) + sizeof(pthread_cond_t) + sizeof(pthread_mutex_t),
        .interpreter = interpreter,
        .code_type = (uintptr_t)&PyCode_Type,
        .interpreter_threads = (uint32_t)table.interpreter.threads_head,
        .interpreter_gil = (uint32_t)table.interpreter.ceval_gil,
        .thread_next = (uint32_t)table.thread.next,
        .thread_interpreter = (uint32_t)table.thread.interp,
        .thread_ident = (uint32_t)table.thread.thread_id,
        .thread_native = (uint32_t)table.thread.native_thread_id,
        .thread_frame = (uint32_t)table.thread.current_frame,
#if PY_VERSION_HEX >= 0x030F0000
        .thread_requests = (uint32_t)table.thread.gil_requested,
#else
        .thread_requests = NONE,
#endif
        .thread_id = NONE,
        .cframe_frame = NONE,
        .frame_code = (uint32_t)table.frame.executable,
        .frame_previous = (uint32_t)table.frame.previous,
        .frame_instruction = (uint32_t)table.frame.instr_ptr,
        .frame_owner = (uint32_t)table.frame.owner,
        .owner_is_interpreter = 3,
        .code_filename = (uint32_t)table.code.filename,
        .code_qualname = (uint32_t)table.code.qualname,
        .code_linetable = (uint32_t)table.code.linetable,
        .code_first_line = (uint32_t)table.code.firstlineno,
        .code_instructions = (uint32_t)table.code.co_code_adaptive,
        .object_type = (uint32_t)table.object.ob_type,
        .text_length = (uint32_t)table.unicode.length,
        .text_state = (uint32_t)table.unicode.state,
        .text_ascii_size = (uint32_t)table.unicode.asciiobject_size,
        .text_compact_size = (uint32_t)table.unicode.asciiobject_size + 2 * (uint32_t)sizeof(void *),
        .bytes_length = (uint32_t)table.bytes.ob_size,
        .bytes_data = (uint32_t)table.bytes.ob_sval,
    };
    return check_sizes();
}

#else

const char *layout_find(void) {
    unsigned long minor = 0;
    if (sscanf(Py_GetVersion(), "3.%lu.", &minor) != 1 || minor != (PY_VERSION_HEX >> 16 & 0xFF)) {
        return "it was built for another version of CPython";
    }
#if PY_VERSION_HEX >= 0x030C0000
    PyInterpreterState *interpreter = PyInterpreterState_Main();
    struct _gil_runtime_state *gil = interpreter->ceval.gil;
    layout.interpreter_gil = offsetof(PyInterpreterState, ceval) + offsetof(struct _ceval_state, gil);
#else
    PyInterpreterState *interpreter = PyInterpreterState_Main();
    struct _gil_runtime_state *gil = &_PyRuntime.ceval.gil;
#endif
    layout.gil = (uintptr_t)gil;
    layout.gil_holder = (uintptr_t)&gil->last_holder;
    layout.gil_locked = (uintptr_t)&gil->locked;
    layout.gil_switches = (uintptr_t)&gil->switch_number;
    layout.gil_condition = (uintptr_t)&gil->cond;
    layout.gil_switch_condition = (uintptr_t)&gil->switch_cond;
    layout.interpreter = (uintptr_t)interpreter;
    layout.main_thread = (uintptr_t)&_PyRuntime.main_thread;
    layout.code_type = (uintptr_t)&PyCode_Type;
#if PY_VERSION_HEX >= 0x030B0000
    layout.interpreter_threads = offsetof(PyInterpreterState, threads.head);
    layout.thread_native = offsetof(PyThreadState, native_thread_id);
    layout.thread_frame = offsetof(PyThreadState, cframe);
    layout.cframe_frame = offsetof(_PyCFrame, current_frame);
    layout.frame_code = offsetof(struct _PyInterpreterFrame, f_code);
    layout.frame_previous = offsetof(struct _PyInterpreterFrame, previous);
    layout.frame_instruction = offsetof(struct _PyInterpreterFrame, prev_instr);
    layout.frame_owner = offsetof(struct _PyInterpreterFrame, owner);
    layout.code_qualname = offsetof(PyCodeObject, co_qualname);
    layout.code_instructions = offsetof(PyCodeObject, co_code_adaptive);
#else
    layout.interpreter_threads = offsetof(PyInterpreterState, tstate_head);
    layout.thread_native = NONE;
    layout.thread_frame = offsetof(PyThreadState, frame);
    layout.cframe_frame = NONE;
    layout.frame_code = offsetof(PyFrameObject, f_code);
    layout.frame_previous = offsetof(PyFrameObject, f_back);
    layout.frame_instruction = offsetof(PyFrameObject, f_lasti);
    layout.frame_owner = NONE;
    layout.code_qualname = offsetof(PyCodeObject, co_name);
    layout.code_instructions = 0;
#endif
    layout.owner_is_interpreter = 3;
    layout.thread_next = offsetof(PyThreadState, next);
    layout.thread_interpreter = offsetof(PyThreadState, interp);
    layout.thread_ident = offsetof(PyThreadState, thread_id);
    layout.thread_id = offsetof(PyThreadState, id);
    layout.thread_requests = NONE;
    layout.code_filename = offsetof(PyCodeObject, co_filename);
    layout.code_linetable = offsetof(PyCodeObject, co_linetable);
    layout.code_first_line = offsetof(PyCodeObject, co_firstlineno);
    layout.object_type = offsetof(PyObject, ob_type);
    layout.text_length = offsetof(PyASCIIObject, length);
    layout.text_state = offsetof(PyASCIIObject, state);
    layout.text_ascii_size = sizeof(PyASCIIObject);
    layout.text_compact_size = sizeof(PyCompactUnicodeObject);
    layout.bytes_length = offsetof(PyVarObject, ob_size);
    layout.bytes_data = offsetof(PyBytesObject, ob_sval);
    return check_sizes();
}

#endif
