/* Handles and timer handles: subclasses of asyncio's own, made and run without a line of Python.
 *
 * They have no fields but the slots of asyncio's classes, read at the offsets that those have. So what looks at a handle from
 * Python, asyncio's own methods included, sees a handle like any other; and one that asyncio has made runs here as well.
 *
 * Most programs set no context variable. What a callback then has to run in is a copy of an empty context, and which one cannot be told: so
 * the copy is made when the callback runs, or when somebody asks for it. Until then its slot holds None.
 */
#include "accelerator.h"

/* NULL when the interpreter ends, and has cleared the type already. The types have no subclasses. */
static State *state_of(PyObject *handle) {
  PyObject *module = ((PyHeapTypeObject *) Py_TYPE(handle))->ht_module;

  return module != NULL ? PyModule_GetState(module) : NULL;
}

/* By the size, which is known even when the module has let go of its types. */
static int kind_of(PyTypeObject *type) {
  return type->tp_basicsize == layout.handle_size ? HANDLE : type->tp_basicsize == layout.timer_size ? TIMER : THREADSAFE;
}

static PyTypeObject *type_of(const State *state, int kind) {
  return kind == HANDLE ? state->handle_type : kind == TIMER ? state->timer_type : state->threadsafe_type;
}

/* Whether a copy of the current context would be empty. */
static int is_context_empty(void) {
  PyObject *current = PyThreadState_Get()->context;

  return current == NULL || context_length(current) == 0;
}

/* Puts the context that was put off into its slot. -1 with an exception. */
static int make_context(State *state, PyObject *handle) {
  PyObject *context = context_take(state);

  if (context == NULL)
    return -1;
  replace(&SLOT(handle, layout.context), context);
  return 0;
}

/* Takes the context of a handle that has run in it, and is about to die, for the next one: if it is blank again. The caller's reference goes
 * with it. Only here, and not when a handle is freed: what a collection of garbage frees, it may be going to clear. */
static void keep_context(State *state, PyObject *handle, PyObject *context) {
  if (!FREE_THREADED && state->spare_context == NULL && Py_REFCNT(handle) == 1 && SLOT(handle, layout.context) == context && context_is_blank(context, 2)) {
    SLOT(handle, layout.context) = Py_NewRef(Py_None);
    state->spare_context = context;
  }
  Py_DECREF(context);
}

/* Fills the slots that every handle has, which are empty, but for those of `fill_usual`. Takes the references to the arguments and to the context. */
static inline void fill(PyObject *handle, PyObject *loop, PyObject *callback, PyObject *arguments, PyObject *context) {
  SLOT(handle, layout.callback) = Py_NewRef(callback);
  SLOT(handle, layout.args) = arguments;
  SLOT(handle, layout.context) = context;
  SLOT(handle, layout.loop) = Py_NewRef(loop);
}

/* Puts a value into a slot that has it already, most often. */
static inline void reset(PyObject **slot, PyObject *value) {
  if (*slot != value)
    replace(slot, Py_NewRef(value));
}

/* What hardly any handle has different: a dead one that waits for its next use keeps it. */
static inline void fill_usual(PyObject *handle) {
  reset(&SLOT(handle, layout.cancelled), Py_False);
  reset(&SLOT(handle, layout.repr), Py_None);
  reset(&SLOT(handle, layout.source_traceback), Py_None);
}

static void clear_usual(PyObject *handle) {
  Py_CLEAR(SLOT(handle, layout.cancelled));
  Py_CLEAR(SLOT(handle, layout.repr));
  Py_CLEAR(SLOT(handle, layout.source_traceback));
}

/* A handle for `callback(*args)` with `count` arguments, of which it keeps references. `context` NULL is a copy of the current one. The
 * caller of a timer sets `_when`. Nothing of it is visible to others before it is whole. */
PyObject *handle_new(State *state, int kind, PyObject *loop, PyObject *callback, PyObject *const *args, Py_ssize_t count,
                     PyObject *context) {
  PyTypeObject *type = type_of(state, kind);
  PyObject *handle, *arguments;
  Py_ssize_t i;

  if (context != NULL)
    Py_INCREF(context);
  else if (is_context_empty() && !(FREE_THREADED && kind == THREADSAFE)) /* two threads could be the first to ask for it */
    context = Py_NewRef(Py_None);
  else
    context = PyContext_CopyCurrent();
  if (context == NULL)
    return NULL;
  arguments = PyTuple_New(count); /* of none: the one that there is */
  if (arguments == NULL) {
    Py_DECREF(context);
    return NULL;
  }
  for (i = 0; i < count; i++)
    PyTuple_SET_ITEM(arguments, i, Py_NewRef(args[i]));
  handle = state->free_handles[kind];
  if (handle != NULL) {
    state->free_handles[kind] = SLOT(handle, layout.callback);
    state->free_count[kind]--;
    PyObject_Init(handle, type);
  } else {
    handle = PyObject_GC_New(PyObject, type);
    if (handle == NULL) {
      Py_DECREF(context);
      Py_DECREF(arguments);
      return NULL;
    }
    memset((char *) handle + sizeof(PyObject), 0, (size_t) type->tp_basicsize - sizeof(PyObject));
    fill_usual(handle);
  }
  fill(handle, loop, callback, arguments, context);
  if (kind == TIMER)
    SLOT(handle, layout.scheduled) = Py_NewRef(Py_False);
  PyObject_GC_Track(handle);
  return handle;
}

/* Empties the slots of a handle but for the usual ones. */
static void drop(PyObject *handle, int kind) {
  Py_CLEAR(SLOT(handle, layout.callback));
  Py_CLEAR(SLOT(handle, layout.args));
  Py_CLEAR(SLOT(handle, layout.context));
  Py_CLEAR(SLOT(handle, layout.loop));
  if (kind == TIMER) {
    Py_CLEAR(SLOT(handle, layout.when));
    Py_CLEAR(SLOT(handle, layout.scheduled));
    Py_CLEAR(due_of(handle)->number);
  }
  if (kind == THREADSAFE)
    Py_CLEAR(SLOT(handle, layout.lock));
}

static int clear(PyObject *handle) {
  drop(handle, kind_of(Py_TYPE(handle)));
  clear_usual(handle);
  return 0;
}

/* What can be part of a cycle. The other slots hold flags, texts and numbers: in a large heap of timers to look at each number, wherever it
 * lies, would be most of a collection. */
static int traverse(PyObject *handle, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(handle));
  Py_VISIT(SLOT(handle, layout.callback));
  Py_VISIT(SLOT(handle, layout.args));
  Py_VISIT(SLOT(handle, layout.context));
  Py_VISIT(SLOT(handle, layout.loop));
  Py_VISIT(SLOT(handle, layout.source_traceback));
  return 0;
}

static void destroy(PyObject *handle) {
  PyTypeObject *type = Py_TYPE(handle);
  State *state = state_of(handle);
  int kind = kind_of(type);

  if (SLOT(handle, type->tp_weaklistoffset) != NULL)
    PyObject_ClearWeakRefs(handle);
  drop(handle, kind);
  if (kind == THREADSAFE)
    guard_end(handle);
  if (state != NULL && state->free_count[kind] < (kind == TIMER ? FREE_TIMERS : FREE_HANDLES)) {
    fill_usual(handle);
    SLOT(handle, layout.callback) = state->free_handles[kind];
    state->free_handles[kind] = handle;
    state->free_count[kind]++;
  } else {
    clear_usual(handle);
    PyObject_GC_Del(handle);
  }
  Py_DECREF(type);
}

static void dealloc(PyObject *handle) {
  PyObject *callback = SLOT(handle, layout.callback);

  PyObject_GC_UnTrack(handle);
  if (callback == NULL || Py_TYPE(callback)->tp_dealloc != dealloc) {
    destroy(handle);
    return;
  }
  /* Somebody has scheduled a handle, by mistake. A chain of them is no reason for a recursion; whatever else a callback can be
   * sees to that itself. */
  Py_TRASHCAN_BEGIN(handle, dealloc)
  destroy(handle);
  Py_TRASHCAN_END
}

/* Frees what waits for its next use. */
void handles_clear_free(State *state) {
  int kind;

  for (kind = 0; kind < KINDS_OF_HANDLES; kind++) {
    while (state->free_handles[kind] != NULL) {
      PyObject *handle = state->free_handles[kind];

      state->free_handles[kind] = SLOT(handle, layout.callback);
      clear_usual(handle);
      PyObject_GC_Del(handle);
    }
    state->free_count[kind] = 0;
  }
  Py_CLEAR(state->spare_context);
}

/* What asyncio's `cancel` does, of a handle of a loop that is not in debug mode: that one keeps what the handle looked like. */
static PyObject *cancel(PyObject *handle, PyObject *unused) {
  State *state = state_of(handle);
  PyObject *loop = SLOT(handle, layout.loop);
  int plain = loop != NULL && state != NULL && is_loop(state, loop) && ((EventLoop *) loop)->debug == Py_False;
  PyObject *callback, *args, *cancelled;

  (void) unused;
  if (LOAD(SLOT(handle, layout.cancelled)) == Py_True)
    Py_RETURN_NONE;
  if (Py_TYPE(handle) == state->timer_type) {
    if (plain) {
      if (SLOT(handle, layout.scheduled) == Py_True)
        ((EventLoop *) loop)->timer_cancelled_count++;
    } else if (loop != NULL) {
      PyObject *done = PyObject_CallMethodOneArg(loop, state->str_timer_handle_cancelled, handle);

      if (done == NULL)
        return NULL;
      Py_DECREF(done);
    }
  }
  if (!plain)
    return PyObject_CallOneArg(state->handle_cancel, handle);
  /* Another thread may be about to call it: what it has got by then is its own. */
  Py_BEGIN_CRITICAL_SECTION(handle);
  cancelled = SLOT(handle, layout.cancelled);
  STORE(SLOT(handle, layout.cancelled), Py_NewRef(Py_True));
  callback = SLOT(handle, layout.callback);
  args = SLOT(handle, layout.args);
  SLOT(handle, layout.callback) = Py_NewRef(Py_None);
  SLOT(handle, layout.args) = Py_NewRef(Py_None);
  Py_END_CRITICAL_SECTION();
  Py_XDECREF(cancelled);
  Py_XDECREF(callback);
  Py_XDECREF(args);
  Py_RETURN_NONE;
}

/* Tells the loop's exception handler what a callback has raised: the exception that is set. As asyncio does, it describes the handle as it
 * is by now: one that was cancelled meanwhile has no callback. */
static int report(State *state, PyObject *handle) {
  PyObject *exception = take_exception();
  PyObject *loop = Py_XNewRef(SLOT(handle, layout.loop)), *traceback = Py_XNewRef(SLOT(handle, layout.source_traceback));
  PyObject *callback = Py_XNewRef(SLOT(handle, layout.callback)), *args = Py_XNewRef(SLOT(handle, layout.args));
  PyObject *source = NULL, *message = NULL, *context = NULL, *done = NULL;

  if (loop != NULL && callback != NULL && args != NULL)
    source = PyObject_CallFunctionObjArgs(state->format_source, callback, args, NULL);
  else
    PyErr_SetString(PyExc_AttributeError, "the handle has lost an attribute");
  if (source != NULL)
    message = PyUnicode_FromFormat("Exception in callback %U", source);
  if (message != NULL)
    context = Py_BuildValue("{sOsOsO}", "message", message, "exception", exception, "handle", handle);
  if (context != NULL && traceback != NULL && PyObject_IsTrue(traceback) &&
      PyDict_SetItemString(context, "source_traceback", traceback) < 0)
    Py_CLEAR(context);
  if (context != NULL)
    done = PyObject_CallMethodOneArg(loop, state->str_call_exception_handler, context);
  Py_XDECREF(source);
  Py_XDECREF(message);
  Py_XDECREF(context);
  Py_XDECREF(exception);
  Py_XDECREF(loop);
  Py_XDECREF(traceback);
  Py_XDECREF(callback);
  Py_XDECREF(args);
  Py_XDECREF(done);
  return done == NULL ? -1 : 0;
}

/* Runs a handle that is none of those whose slots are known. */
static int run_foreign(State *state, PyObject *handle) {
  PyObject *result = PyObject_GetAttr(handle, state->str_cancelled);
  int cancelled = result != NULL ? PyObject_IsTrue(result) : -1;

  Py_XDECREF(result);
  if (cancelled != 0)
    return cancelled < 0 ? -1 : 0;
  result = PyObject_CallMethodNoArgs(handle, state->str_run);
  Py_XDECREF(result);
  return result == NULL ? -1 : 0;
}

/* Has a handle run next that could not, for want of memory for its context: it was accepted, and asyncio would have found out before that. In
 * the ring is room for it, it was just taken from there. What exception is set stays. */
static void put_back(const State *state, PyObject *handle) {
  PyObject *loop = SLOT(handle, layout.loop);

  if (loop != NULL && is_loop(state, loop) && ((EventLoop *) loop)->ready != NULL)
    ready_append_left(((EventLoop *) loop)->ready, handle);
}

/* Calls what a handle is for. */
static int call(State *state, PyObject *handle) {
  PyObject *callback, *args, *context, *result;
  int status = 0, put_off, left = 0;

  /* References of its own: the callback may cancel its handle, which lets go of all three; and so may another thread. */
  Py_BEGIN_CRITICAL_SECTION(handle);
  put_off = SLOT(handle, layout.context) == Py_None;
  if (put_off)
    status = make_context(state, handle);
  callback = Py_XNewRef(SLOT(handle, layout.callback));
  args = Py_XNewRef(SLOT(handle, layout.args));
  context = Py_XNewRef(SLOT(handle, layout.context));
  Py_END_CRITICAL_SECTION();
  if (status < 0) {
    put_back(state, handle);
    status = report(state, handle);
  } else if (callback == NULL || args == NULL || context == NULL || !PyTuple_CheckExact(args) || !PyContext_CheckExact(context)) {
    status = run_foreign(state, handle);
  } else if (PyContext_Enter(context) < 0) {
    status = report(state, handle);
  } else {
    result = PyObject_Vectorcall(callback, &PyTuple_GET_ITEM(args, 0), (size_t) PyTuple_GET_SIZE(args), NULL);
    /* Leaving the context fails when the callback has entered another one for good. */
    left = PyContext_Exit(context) == 0;
    if (!left || result == NULL)
      status = is_let_through() ? -1 : report(state, handle);
    Py_XDECREF(result);
  }
  Py_XDECREF(callback);
  Py_XDECREF(args);
  if (put_off && left && status == 0)
    keep_context(state, handle, context);
  else
    Py_XDECREF(context);
  return status;
}

/* The same with the handle's guard: who cancels it in another thread meanwhile waits for the end. */
static int call_guarded(State *state, PyObject *handle) {
  int status;

  if (guard_enter(handle) < 0)
    return -1;
  status = SLOT(handle, layout.cancelled) == Py_True ? 0 : call(state, handle);
  guard_leave(handle);
  return status;
}

/* Runs a handle unless it was cancelled. -1 only for what is let through, or when the exception handler itself has failed. The caller
 * holds a reference. */
int handle_run(State *state, PyObject *handle) {
  PyTypeObject *type = Py_TYPE(handle);

  if (type == state->handle_type || type == state->timer_type || type == state->asyncio_handle || type == state->asyncio_timer)
    return LOAD(SLOT(handle, layout.cancelled)) == Py_True ? 0 : call(state, handle);
  if (type == state->threadsafe_type)
    return LOAD(SLOT(handle, layout.cancelled)) == Py_True ? 0 : call_guarded(state, handle);
  return run_foreign(state, handle);
}

/* Of a long queue of handles, those that were made long ago are not in the cache any more: what running one will touch is asked for a few
 * handles before. */
void handles_prefetch(State *state, const Ready *ready) {
  enum { NEAR = 3, FAR = 7 };
  const char *far;
  PyObject *near;

  if (FREE_THREADED || ready->length <= FAR) /* another thread may be moving the ring */
    return;
  far = (const char *) ready_peek(ready, FAR);
  near = ready_peek(ready, NEAR);
  PREFETCH(far);
  PREFETCH(far + 64);
  if (Py_TYPE(near) == state->handle_type || Py_TYPE(near) == state->timer_type || Py_TYPE(near) == state->threadsafe_type)
    PREFETCH(SLOT(near, layout.context));
  if (Py_TYPE(near) == state->timer_type)
    PREFETCH(SLOT(near, layout.when));
}

/* The methods of a handle for other threads: what asyncio's do, under its guard. */

static PyObject *cancel_guarded(PyObject *handle, PyObject *unused) {
  PyObject *done;

  if (guard_enter(handle) < 0)
    return NULL;
  done = cancel(handle, unused);
  guard_leave(handle);
  return done;
}

static PyObject *is_cancelled_guarded(PyObject *handle, PyObject *unused) {
  PyObject *cancelled;

  (void) unused;
  if (guard_enter(handle) < 0)
    return NULL;
  cancelled = Py_XNewRef(SLOT(handle, layout.cancelled));
  if (cancelled == NULL)
    PyErr_SetString(PyExc_AttributeError, "_cancelled");
  guard_leave(handle);
  return cancelled;
}

static PyObject *run_guarded(PyObject *handle, PyObject *unused) {
  State *state = state_of(handle);
  PyObject *run, *done = NULL;

  (void) unused;
  if (state == NULL) {
    PyErr_SetString(PyExc_RuntimeError, "the interpreter has ended");
    return NULL;
  }
  if (guard_enter(handle) < 0)
    return NULL;
  if (SLOT(handle, layout.cancelled) == Py_True) {
    done = Py_NewRef(Py_None);
  } else {
    run = PyObject_GetAttr((PyObject *) state->asyncio_handle, state->str_run);
    if (run != NULL)
      done = PyObject_CallOneArg(run, handle);
    Py_XDECREF(run);
  }
  guard_leave(handle);
  return done;
}

/* The slot `_context`. */
static PyObject *get_context(PyObject *handle, void *unused) {
  State *state = state_of(handle);
  PyObject *context = NULL;
  int status = 0;

  (void) unused;
  Py_BEGIN_CRITICAL_SECTION(handle);
  if (SLOT(handle, layout.context) == Py_None && state != NULL)
    status = make_context(state, handle);
  if (status == 0)
    context = Py_XNewRef(SLOT(handle, layout.context));
  Py_END_CRITICAL_SECTION();
  if (context == NULL && status == 0)
    PyErr_SetString(PyExc_AttributeError, "_context");
  return context;
}

static int set_context(PyObject *handle, PyObject *value, void *unused) {
  (void) unused;
  Py_BEGIN_CRITICAL_SECTION(handle);
  Py_XSETREF(SLOT(handle, layout.context), Py_XNewRef(value));
  Py_END_CRITICAL_SECTION();
  return 0;
}

static PyGetSetDef properties[] = {
  {"_context", get_context, set_context, NULL, NULL},
  {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
  {"cancel", cancel, METH_NOARGS, "Cancel the callback."},
  {NULL, NULL, 0, NULL},
};

static PyMethodDef guarded_methods[] = {
  {"cancel", cancel_guarded, METH_NOARGS, "Cancel the callback; while it runs in another thread, wait for its end."},
  {"cancelled", is_cancelled_guarded, METH_NOARGS, "Return whether it was cancelled."},
  {"_run", run_guarded, METH_NOARGS, "Run the callback, unless it was cancelled."},
  {NULL, NULL, 0, NULL},
};

/* Makes a subclass of `base` that has the same fields, and `more` bytes behind them. */
static PyTypeObject *add_type(PyObject *module, const char *name, PyTypeObject *base, size_t more, PyMethodDef *with) {
  PyType_Slot slots[] = {
    {Py_tp_methods, with},    {Py_tp_getset, properties}, {Py_tp_traverse, traverse},
    {Py_tp_clear, clear}, {Py_tp_dealloc, dealloc},   {0, NULL},
  };
  PyType_Spec spec = {name, (int) base->tp_basicsize + (int) more, 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
  PyObject *bases = PyTuple_Pack(1, base), *type;

  if (bases == NULL)
    return NULL;
  type = PyType_FromModuleAndSpec(module, &spec, bases);
  Py_DECREF(bases);
  if (type != NULL && PyModule_AddType(module, (PyTypeObject *) type) < 0)
    Py_CLEAR(type);
  return (PyTypeObject *) type;
}

int handles_add_types(PyObject *module, State *state) {
  layout.due = state->asyncio_timer->tp_basicsize;
  layout.handle_size = state->asyncio_handle->tp_basicsize;
  layout.timer_size = layout.due + (Py_ssize_t) sizeof(Due);
  state->handle_type = add_type(module, "ffloop._speed.Handle", state->asyncio_handle, 0, methods);
  state->timer_type = add_type(module, "ffloop._speed.TimerHandle", state->asyncio_timer, sizeof(Due), methods);
  if (state->handle_type == NULL || state->timer_type == NULL)
    return -1;
  if (state->threadsafe_handle == NULL)
    return 0;
  layout.guard = state->threadsafe_handle->tp_basicsize;
  state->threadsafe_type =
    add_type(module, "ffloop._speed._ThreadSafeHandle", state->threadsafe_handle, sizeof(Guard), guarded_methods);
  if (state->threadsafe_type == NULL)
    return -1;
  if (state->threadsafe_type->tp_basicsize != layout.timer_size)
    return 0;
  PyErr_SetString(PyExc_ImportError, "a handle for other threads has the size of a timer");
  return -1;
}
