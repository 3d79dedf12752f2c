/* What puts callbacks into the loop, and makes what awaits them: call_soon() and its kin, create_future(), create_task().
 *
 * The functions here do what BaseEventLoop's do, in the same order, and leave to those whatever is rare: debug mode with its checks, a
 * closed loop, unusual arguments, and every loop of which a tool has replaced a part. So what stands here is the one common case.
 */
#include "accelerator.h"

/* Whether the loop is open and in no debug mode, `parts` of it (PLAIN_*) are its own, there are as many arguments as are needed, and no
 * keyword but a real context. */
static inline int is_common(EventLoop *self, int parts, PyObject *const *args, Py_ssize_t nargs, Py_ssize_t needed,
                            PyObject *kwnames, PyObject **context) {
  int own = loop_plain(self);

  *context = NULL;
  if (own < 0)
    PyErr_Clear(); /* who is asked instead finds the same */
  if (own < 0 || (own & parts) != parts)
    return 0;
  if (LOAD(self->closed) != Py_False || LOAD(self->debug) != Py_False || nargs < needed || self->ready == NULL)
    return 0;
  if (kwnames == NULL || PyTuple_GET_SIZE(kwnames) == 0)
    return 1;
  if (PyTuple_GET_SIZE(kwnames) != 1)
    return 0;
  if (PyTuple_GET_ITEM(kwnames, 0) != self->state->str_context &&
      PyUnicode_Compare(PyTuple_GET_ITEM(kwnames, 0), self->state->str_context) != 0)
    return 0;
  if (args[nargs] == Py_None)
    return 1;
  *context = args[nargs];
  return PyContext_CheckExact(*context);
}

static PyObject *add_ready(EventLoop *self, int kind, PyObject *const *args, Py_ssize_t nargs, PyObject *context) {
  PyObject *handle = handle_new(self->state, kind, (PyObject *) self, args[0], args + 1, nargs - 1, context);

  /* Making it can begin a collection of garbage, in which anything runs. */
  if (handle != NULL && self->ready != NULL && ready_append(self->ready, handle) < 0)
    Py_CLEAR(handle);
  return handle;
}

PyObject *loop_call_soon(EventLoop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
  PyObject *context;

  if (!is_common(self, PLAIN_SOON, args, nargs, 1, kwnames, &context))
    return loop_call_base(self->state->str_call_soon, self, args, nargs, kwnames);
  return add_ready(self, HANDLE, args, nargs, context);
}

/* From 3.14 on cancelling such a handle waits until it has run: it is of a class of its own. */
static PyObject *add_ready_threadsafe(EventLoop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *context) {
  PyObject *arguments, *handle = NULL;
  Py_ssize_t i;

  if (self->state->threadsafe_handle == NULL)
    return add_ready(self, HANDLE, args, nargs, context);
  if (is_threadsafe_known(self->state))
    return add_ready(self, THREADSAFE, args, nargs, context);
  arguments = PyTuple_New(nargs - 1);
  if (arguments == NULL)
    return NULL;
  for (i = 1; i < nargs; i++)
    PyTuple_SET_ITEM(arguments, i - 1, Py_NewRef(args[i]));
  handle = PyObject_CallFunctionObjArgs((PyObject *) self->state->threadsafe_handle, args[0], arguments, (PyObject *) self,
                                        context != NULL ? context : Py_None, NULL);
  Py_DECREF(arguments);
  /* Python has run: the loop may have been closed meanwhile. */
  if (handle != NULL && self->ready != NULL && ready_append(self->ready, handle) < 0)
    Py_CLEAR(handle);
  return handle;
}

/* Ends the queue's wait. Without the GIL: the thread that waits would wake up to wait for that. */
static void wake(Queue *queue) {
  ffloop_loop *loop = LOAD(queue->loop);

  if (loop == NULL)
    return;
  Py_INCREF(queue); /* the C loop lives as long */
  Py_BEGIN_ALLOW_THREADS
  queue->state->api->wake(loop);
  Py_END_ALLOW_THREADS
  Py_DECREF(queue);
}

PyObject *loop_call_soon_threadsafe(EventLoop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
  PyObject *context, *handle;

  if (!is_common(self, PLAIN_SOON | PLAIN_WAKE, args, nargs, 1, kwnames, &context) || self->queue == NULL)
    return loop_call_base(self->state->str_call_soon_threadsafe, self, args, nargs, kwnames);
  handle = add_ready_threadsafe(self, args, nargs, context);
  /* Between two waits nobody needs to be woken: the queue is looked at before the next one, after `waiting` was set. */
  FENCE();
  if (handle != NULL && self->queue != NULL && (!LOAD(self->running) || LOAD(self->queue->waiting)))
    wake(self->queue);
  return handle;
}

/* Timeouts ask for it, several times for each request. */
PyObject *loop_get_time(EventLoop *self, PyObject *unused) {
#ifdef __linux__
  int own = loop_plain(self);

  if (own < 0)
    PyErr_Clear();
  if (own > 0 && own & PLAIN_TIME && loop_has_real_clock(self->state))
    return PyFloat_FromDouble((double) monotonic_ns() / 1e9);
#endif
  (void) unused;
  return loop_call_base(self->state->str_time, self, NULL, 0, NULL);
}

/* Tasks that start at once ask it, and whoever looks for a loop. */
PyObject *loop_is_running(EventLoop *self, PyObject *unused) {
  int own = loop_plain(self);
  PyObject *thread = LOAD(self->thread_id);

  (void) unused;
  if (own < 0)
    PyErr_Clear();
  if (own < 0 || !(own & PLAIN_RUNNING) || thread == NULL)
    return loop_call_base(self->state->str_is_running, self, NULL, 0, NULL);
  return PyBool_FromLong(thread != Py_None);
}

/* Futures and tasks ask it when they are made. */
PyObject *loop_get_debug(EventLoop *self, PyObject *unused) {
  (void) unused;
  return Py_NewRef(self->debug != NULL ? self->debug : Py_False);
}

/* The seconds that `number` stands for. 0 for what is neither a float nor an int that is one exactly: that BaseEventLoop gets. */
static int get_seconds(PyObject *number, double *seconds) {
  static const double LARGEST = 9007199254740992.0; /* 2^53 */

  if (PyFloat_CheckExact(number)) {
    *seconds = PyFloat_AS_DOUBLE(number);
    return 1;
  }
  if (!PyLong_CheckExact(number))
    return 0;
  *seconds = PyLong_AsDouble(number);
  if (*seconds == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    return 0;
  }
  return *seconds <= LARGEST && *seconds >= -LARGEST;
}

/* Takes the reference to `when`, which is in so many seconds of the loop's clock. */
static PyObject *add_timer(EventLoop *self, PyObject *when, double seconds, PyObject *const *args, Py_ssize_t nargs, PyObject *context) {
  State *state = self->state;
  PyObject *timer = handle_new(state, TIMER, (PyObject *) self, args[0], args + 1, nargs - 1, context);

  if (timer == NULL || loop_count_timers(self) < 0) {
    Py_XDECREF(timer);
    Py_DECREF(when);
    return NULL;
  }
  SLOT(timer, layout.when) = when;
  due_of(timer)->number = Py_NewRef(when);
  due_of(timer)->when = seconds;
  if (timers_push(state, self->scheduled, timer) < 0) {
    Py_DECREF(timer);
    return NULL;
  }
  replace(&SLOT(timer, layout.scheduled), Py_NewRef(Py_True));
  return timer;
}

PyObject *loop_call_at(EventLoop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
  PyObject *context;
  double when;

  if (!is_common(self, PLAIN_BASE_AT, args, nargs, 2, kwnames, &context) || !get_seconds(args[0], &when) || self->scheduled == NULL ||
      !PyList_CheckExact(self->scheduled))
    return loop_call_base(self->state->str_call_at, self, args, nargs, kwnames);
  return add_timer(self, Py_NewRef(args[0]), when, args + 1, nargs - 1, context);
}

PyObject *loop_call_later(EventLoop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
  PyObject *context, *when;
  double delay, now;

  if (!is_common(self, PLAIN_CALL_AT | PLAIN_BASE_AT | PLAIN_TIME, args, nargs, 2, kwnames, &context) ||
      !get_seconds(args[0], &delay) || self->scheduled == NULL || !PyList_CheckExact(self->scheduled))
    return loop_call_base(self->state->str_call_later, self, args, nargs, kwnames);
  if (loop_time(self, 1, &now) < 0)
    return NULL;
  when = PyFloat_FromDouble(now + delay);
  return when != NULL ? add_timer(self, when, now + delay, args + 1, nargs - 1, context) : NULL;
}

/* What awaits: asyncio's own classes, made as its functions make them. */

/* Whether the loop is open and in no debug mode, in which a future writes down who has made it. */
static inline int may_make(EventLoop *self) {
  int own = loop_plain(self);

  if (own < 0)
    PyErr_Clear();
  return own > 0 && own & PLAIN_MAKE && self->closed == Py_False && self->debug == Py_False;
}

/* Whether a class of asyncio's is the one in C: somebody may have put another one under its name. */
static int is_in_c(PyObject *dict, PyObject *name, PyObject *known) {
  PyObject *found = PyDict_GetItemWithError(dict, name);

  if (found == NULL)
    PyErr_Clear(); /* who is asked instead complains */
  return found != NULL && found == known;
}

PyObject *loop_create_future(EventLoop *self, PyObject *unused) {
  State *state = self->state;
  PyObject *loop = (PyObject *) self;

  (void) unused;
  if (!may_make(self) || !is_in_c(state->futures_dict, state->str_future, state->future_class))
    return loop_call_base(state->str_create_future, self, NULL, 0, NULL);
  return PyObject_Vectorcall(state->future_class, &loop, 0, state->only_loop);
}

static int is_name(PyObject *name, PyObject *wanted) {
  return name == wanted || PyUnicode_Compare(name, wanted) == 0;
}

/* Which keywords create_task() passes on to the task; whatever it does with others BaseEventLoop's does. */
static int is_for_task(const State *state, PyObject *name) {
#if PY_VERSION_HEX >= 0x030e0000
  if (is_name(name, state->str_eager_start))
    return 1;
#endif
  return is_name(name, state->str_name_of) || is_name(name, state->str_context);
}

PyObject *loop_create_task(EventLoop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
  State *state = self->state;
  Py_ssize_t count = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0, i;
  PyObject *stack[5], *names, *task;

  if (!may_make(self) || self->task_factory != Py_None || nargs != 1 || count > 3 ||
      !is_in_c(state->tasks_dict, state->str_task, state->task_class))
    return loop_call_base(state->str_create_task, self, args, nargs, kwnames);
  for (i = 0; i < count; i++) {
    if (!is_for_task(state, PyTuple_GET_ITEM(kwnames, i)))
      return loop_call_base(state->str_create_task, self, args, nargs, kwnames);
  }
  stack[0] = args[0];
  stack[1] = (PyObject *) self;
  names = count > 0 ? PyTuple_New(count + 1) : Py_NewRef(state->only_loop);
  if (names == NULL)
    return NULL;
  if (count > 0)
    PyTuple_SET_ITEM(names, 0, Py_NewRef(state->str_loop));
  for (i = 0; i < count; i++) {
    stack[2 + i] = args[1 + i];
    PyTuple_SET_ITEM(names, i + 1, Py_NewRef(PyTuple_GET_ITEM(kwnames, i)));
  }
  task = PyObject_Vectorcall(state->task_class, stack, 1, names);
  Py_DECREF(names);
  return task;
}
