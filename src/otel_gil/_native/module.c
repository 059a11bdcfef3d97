/* What Python sees: the module otel_gil._recorder. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

#include "recorder.h"

#define STOP 1.0

static PyObject *stalled_context; /* of the holder of a stall, */
static uint64_t stalled_number;   /* which is this one */

/* Never waits for the GIL with the lock, which a thread that forks waits for with the GIL. */
static void take_lock(void) {
    while (!loop_try_lock()) {
        bool probes = probe_is(PyThread_get_thread_ident());
        PyThreadState *thread = PyEval_SaveThread();
        loop_lock();
        loop_unlock();
        if (probes) { /* it counts in nothing here either */
            probe_asks((uintptr_t)thread);
        }
        PyEval_RestoreThread(thread);
        if (probes) {
            probe_has_it();
        }
    }
}

PyDoc_STRVAR(find_doc, "find()\n--\n\nWhy this interpreter can't be recorded; None where it may.");

static PyObject *find(PyObject *module, PyObject *nothing) {
    (void)module;
    (void)nothing;
    const char *reason = loop_running() ? NULL : layout_find();
    if (!reason && !loop_running() && !memory_begin()) {
        reason = "this process is not allowed to read its own memory (process_vm_readv, /proc/self/mem)";
    }
    return reason ? PyUnicode_FromString(reason) : Py_NewRef(Py_None);
}

static bool is_called(uintptr_t code_address, const char *wanted) {
    struct code code;
    char name[256];
    int length = code_read(code_address, &code) ? text_read(code.qualname, name, sizeof name - 1) : -1;
    name[length < 0 ? 0 : length] = 0;
    return !strcmp(name, wanted);
}

PyDoc_STRVAR(prove_doc,
             "prove(function, caller, native_id)\n--\n\n"
             "Why the calling thread was not seen to hold the GIL in this function, called by that one; None where it was.");

static PyObject *prove(PyObject *module, PyObject *arguments) {
    const char *function, *caller;
    unsigned long long native;
    struct running running;
    struct window window = {.size = 0};
    struct frame outer;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "ssK", &function, &caller, &native)) {
        return NULL;
    }
    if (!layout.gil || loop_running()) {
        PyErr_SetString(PyExc_RuntimeError, "find() comes first, and start() after it");
        return NULL;
    }
    struct gil gil = gil_now();
    if (!gil.locked || gil.holder != (uintptr_t)PyThreadState_Get()) {
        return PyUnicode_FromString("a thread that runs was not seen to hold the GIL");
    }
    if (!running_read(gil.holder, &running)) {
        return PyUnicode_FromString("what a thread runs can't be read");
    }
    if (running.thread.ident != PyThread_get_thread_ident()) {
        return PyUnicode_FromString("a thread that runs was not recognised");
    }
    if (running.thread.native && running.thread.native != native) { /* a child of a process without CPython's hooks */
        thread_renumber(running.thread.ident, native);
    }
    if (!running.frame.code || !is_called(running.frame.code, function) ||
        !frame_read(&window, running.frame.previous, &outer) || !outer.code || !is_called(outer.code, caller)) {
        return PyUnicode_FromString("the functions that a thread runs were not seen");
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(start_doc,
             "start(interval, window, threshold, holders, functions, stderr, command, paths, folders, totals)\n--\n\n"
             "Start the recorder, with totals to go on from: blocked, free, contended, waited, switches, stalls.");

static PyObject *start(PyObject *module, PyObject *arguments) {
    const char *command, *paths, *folders[8];
    PyObject *folder_list;
    int holders, functions, to_stderr, count;
    double interval, window, threshold, blocked, free_time, contended, waited;
    unsigned long long switches, stalls;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "dddpppssO!(ddddKK)", &interval, &window, &threshold, &holders, &functions,
                          &to_stderr, &command, &paths, &PyList_Type, &folder_list, &blocked, &free_time, &contended,
                          &waited, &switches, &stalls)) {
        return NULL;
    }
    if (!layout.gil || loop_running()) {
        PyErr_SetString(PyExc_RuntimeError, layout.gil ? "the recorder runs already" : "find() comes first");
        return NULL;
    }
    for (count = 0; count < 8 && count < PyList_GET_SIZE(folder_list); count++) {
        folders[count] = PyBytes_AsString(PyList_GET_ITEM(folder_list, count));
        if (!folders[count]) {
            return NULL;
        }
    }
    settings = (struct settings){interval, window, threshold, holders, functions, to_stderr};
    threads_begin();
    sums_begin(monotonic(), window);
    sums.blocked = sums.history[0].blocked = blocked;
    sums.free = sums.history[0].free = free_time;
    sums.contended = contended;
    sums.waited = waited;
    sums.switches = switches;
    sums.stalls = stalls;
    record.head.python = PY_VERSION_HEX;
    record_begin(command, paths, folders, count);
    stalled_number = 0;
    symbols_begin();
    waiters_begin();
    stall_begin(threshold, to_stderr);
    if (!loop_start()) {
        PyErr_SetString(PyExc_RuntimeError, "a thread can't be started");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    loop_prove_waiters();
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc, "stop()\n--\n\nStop the recorder; whether it has ended.");

static PyObject *stop(PyObject *module, PyObject *nothing) {
    bool ended;
    (void)module;
    (void)nothing;
    Py_BEGIN_ALLOW_THREADS
    ended = loop_stop(STOP);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(ended);
}

static void stop_at_exit(void) { loop_stop(STOP); }

PyDoc_STRVAR(running_doc, "running()\n--\n\nWhether the recorder runs.");

static PyObject *running(PyObject *module, PyObject *nothing) {
    (void)module;
    (void)nothing;
    return PyBool_FromLong(loop_running());
}

PyDoc_STRVAR(state_doc, "state()\n--\n\nThe state of the record, as it is now.");

static PyObject *state(PyObject *module, PyObject *nothing) {
    (void)module;
    (void)nothing;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, STATE_SIZE);
    if (!bytes) {
        return NULL;
    }
    take_lock();
    if (loop_running()) {
        loop_refresh();
    }
    size_t size = sums_write(PyBytes_AS_STRING(bytes));
    loop_unlock();
    _PyBytes_Resize(&bytes, (Py_ssize_t)size);
    return bytes;
}

PyDoc_STRVAR(read_doc, "read(offset, size)\n--\n\nA part of the record that is not its state.");

static PyObject *read_record(PyObject *module, PyObject *arguments) {
    Py_ssize_t offset, size;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "nn", &offset, &size)) {
        return NULL;
    }
    if (offset < 0 || size < 0 || offset > RECORD_SIZE || size > RECORD_SIZE - offset) {
        PyErr_SetString(PyExc_ValueError, "that is not in the record");
        return NULL;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (!bytes) {
        return NULL;
    }
    take_lock();
    memcpy(PyBytes_AS_STRING(bytes), record.bytes + offset, (size_t)size);
    loop_unlock();
    return bytes;
}

PyDoc_STRVAR(unnamed_doc, "unnamed()\n--\n\nThe threads whose names are provisional: slot, identifier and native one.");

static PyObject *unnamed(PyObject *module, PyObject *nothing) {
    struct known found[THREADS];
    int slots[THREADS], count = 0;
    (void)module;
    (void)nothing;
    take_lock();
    for (int slot = 0; slot < THREADS; slot++) {
        const struct known *known = thread_known(slot);
        if (known && !known->named) {
            found[count] = *known;
            slots[count++] = slot;
        }
    }
    loop_unlock();
    PyObject *list = PyList_New(count);
    for (int i = 0; list && i < count; i++) {
        PyObject *one = Py_BuildValue("iKK", slots[i], (unsigned long long)found[i].ident,
                                      (unsigned long long)found[i].native);
        if (!one) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, one);
    }
    return list;
}

PyDoc_STRVAR(name_doc,
             "name(slot, identifier, native_id, name)\n--\n\n"
             "Name a thread for good: an empty name leaves it the provisional one.");

static PyObject *name(PyObject *module, PyObject *arguments) {
    int slot;
    unsigned long long ident, native;
    const char *text;
    Py_ssize_t length;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "iKKs#", &slot, &ident, &native, &text, &length)) {
        return NULL;
    }
    take_lock();
    struct known *known = thread_known(slot);
    if (known && known->ident == ident && !known->named) {
        if (!known->native) {
            known->native = native;
        }
        if (length) {
            thread_name(slot, name_slot(text, (size_t)length));
        } else {
            thread_leave_name(slot);
        }
    }
    loop_unlock();
    Py_RETURN_NONE;
}

/* A copy of the context in which a thread stalled, if that still is as it was; NULL, and no exception, where it is not. */
static PyObject *context_of(const struct stalled *stalled) {
    PyThreadState *thread = PyInterpreterState_ThreadHead(PyInterpreterState_Main());
    for (; thread; thread = PyThreadState_Next(thread)) {
        if ((uintptr_t)thread == stalled->holder && thread->context && (uintptr_t)thread->context == stalled->context &&
            !memcmp((char *)thread->context + CONTEXT_AT, stalled->values, sizeof stalled->values)) {
            PyObject *copy = PyContext_Copy(thread->context);
            PyErr_Clear();
            return copy;
        }
    }
    return NULL;
}

PyDoc_STRVAR(begin_probe_doc, "begin_probe(identifier)\n--\n\nThis thread, which has just been started, is the probe.");

static PyObject *begin_probe(PyObject *module, PyObject *argument) {
    unsigned long long ident = PyLong_AsUnsignedLongLong(argument);
    (void)module;
    if (PyErr_Occurred()) {
        return NULL;
    }
    probe_begins(ident);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(probe_doc,
             "probe(due)\n--\n\n"
             "Sleep up to a moment of the monotonic clock, and ask for the GIL; the seconds that a request at that moment\n"
             "had to wait. None where the recorder wanted to be called earlier, and it has got the GIL before that moment.");

static PyObject *probe(PyObject *module, PyObject *argument) {
    double due = PyFloat_AsDouble(argument);
    struct stalled stalled;
    (void)module;
    if (due == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (!layout.gil) {
        PyErr_SetString(PyExc_RuntimeError, "the recorder was not started");
        return NULL;
    }
    PyThreadState *thread = PyEval_SaveThread();
    probe_sleep(due);
    double asked = monotonic();
    probe_asks((uintptr_t)thread);
    PyEval_RestoreThread(thread);
    double taken = monotonic();
    probe_has_it();
    uint64_t number = stall_latest(&stalled);
    if (number && number != stalled_number) {
        Py_XSETREF(stalled_context, context_of(&stalled));
        stalled_number = number;
    }
    double begin = asked > due ? asked : due;
    if (taken < begin) {
        Py_RETURN_NONE;
    }
    return PyFloat_FromDouble(taken - begin);
}

PyDoc_STRVAR(take_stall_doc,
             "take_stall()\n--\n\n"
             "A stall that is over: seconds, end in nanoseconds since 1970, native identifier, identifier, name,\n"
             "calls (function and line, the innermost first), context or None. None where there is none.");

static PyObject *take_stall(PyObject *module, PyObject *nothing) {
    struct stall stall;
    (void)module;
    (void)nothing;
    if (!layout.gil) {
        Py_RETURN_NONE;
    }
    take_lock();
    struct gil gil = gil_now();
    stall_settle(monotonic(), &gil); /* at the end of a process there may be no look any more */
    bool found = stall_take(&stall);
    loop_unlock();
    if (!found) {
        Py_RETURN_NONE;
    }
    PyObject *calls = PyList_New((Py_ssize_t)stall.calls);
    for (uint32_t i = 0; calls && i < stall.calls; i++) {
        PyObject *call = Py_BuildValue("HHi", stall.stack[i].function, stall.stack[i].generation, stall.stack[i].line);
        if (!call) {
            Py_CLEAR(calls);
            break;
        }
        PyList_SET_ITEM(calls, (Py_ssize_t)i, call);
    }
    if (!calls) {
        return NULL;
    }
    PyObject *context = stalled_context && stalled_number == stall.number ? stalled_context : Py_None;
    PyObject *result =
        Py_BuildValue("dLKK(HH)NO", stall.seconds, (long long)stall.ended, (unsigned long long)stall.native,
                      (unsigned long long)stall.ident, stall.name, stall.name_generation, calls, context);
    Py_CLEAR(stalled_context);
    return result;
}

PyDoc_STRVAR(path_doc, "path()\n--\n\nThe file of the record; empty where it has none.");

static PyObject *path(PyObject *module, PyObject *nothing) {
    (void)module;
    (void)nothing;
    char text[1024];
    take_lock();
    snprintf(text, sizeof text, "%s", record_path());
    loop_unlock();
    return PyUnicode_DecodeFSDefault(text);
}

PyDoc_STRVAR(line_doc, "line(table, first_line, offset)\n--\n\nThe line of an instruction; 0 where it is not known.");

static PyObject *line(PyObject *module, PyObject *arguments) {
    const char *table;
    Py_ssize_t size, offset;
    int first_line;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y#in", &table, &size, &first_line, &offset)) {
        return NULL;
    }
    return PyLong_FromLong(line_find((const unsigned char *)table, (size_t)size, first_line, offset));
}

PyDoc_STRVAR(look_doc,
             "look(looks, window)\n--\n\n"
             "The state after some looks, for tests: now, pace, locked, waiting, name, function, pending, until, and a\n"
             "list of waiters (name, function, pending) or None. Not while the recorder runs.");

static PyObject *look(PyObject *module, PyObject *arguments) {
    PyObject *looks, *waiters;
    double window, until;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!d", &PyList_Type, &looks, &window)) {
        return NULL;
    }
    if (loop_running()) {
        PyErr_SetString(PyExc_RuntimeError, "the recorder runs");
        return NULL;
    }
    sums_begin(0, window);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(looks); i++) {
        struct seen seen = {.waiters = -1, .stands_for = 1};
        int locked;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(looks, i), "ddpiHHIdO", &seen.now, &seen.pace, &locked, &seen.waiting,
                              &seen.name, &seen.function, &seen.pending, &until, &waiters)) {
            return NULL;
        }
        seen.locked = locked;
        seen.name %= NAMES;
        seen.function %= FUNCTIONS;
        if (PyList_Check(waiters)) {
            seen.waiters = 0;
            for (Py_ssize_t j = 0; j < PyList_GET_SIZE(waiters) && j < 16; j++) {
                if (!PyArg_ParseTuple(PyList_GET_ITEM(waiters, j), "HHI", &seen.waiter[j].name,
                                      &seen.waiter[j].function, &seen.waiter[j].pending)) {
                    return NULL;
                }
                seen.waiter[seen.waiters].name %= NAMES;
                seen.waiter[seen.waiters++].function %= FUNCTIONS;
            }
        }
        sums_look(&seen);
        sums_until(until);
    }
    static char bytes[STATE_SIZE];
    size_t size = sums_write(bytes);
    return PyBytes_FromStringAndSize(bytes, (Py_ssize_t)size);
}

static PyMethodDef methods[] = {
    {"find", find, METH_NOARGS, find_doc},
    {"prove", prove, METH_VARARGS, prove_doc},
    {"start", start, METH_VARARGS, start_doc},
    {"stop", stop, METH_NOARGS, stop_doc},
    {"running", running, METH_NOARGS, running_doc},
    {"state", state, METH_NOARGS, state_doc},
    {"read", read_record, METH_VARARGS, read_doc},
    {"unnamed", unnamed, METH_NOARGS, unnamed_doc},
    {"name", name, METH_VARARGS, name_doc},
    {"begin_probe", begin_probe, METH_O, begin_probe_doc},
    {"probe", probe, METH_O, probe_doc},
    {"take_stall", take_stall, METH_NOARGS, take_stall_doc},
    {"path", path, METH_NOARGS, path_doc},
    {"line", line, METH_VARARGS, line_doc},
    {"look", look, METH_VARARGS, look_doc},
    {0},
};

static int begin(PyObject *module) {
    static bool registered;
    (void)module;
    registered = registered || Py_AtExit(stop_at_exit) == 0;
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)begin},
#ifdef Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "otel_gil._recorder",
    .m_doc = "The recorder: a native thread that looks at the GIL, and never takes it.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__recorder(void) { return PyModuleDef_Init(&definition); }
