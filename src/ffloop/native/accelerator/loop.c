/* The turn, and the type that stands in front of `asyncio.BaseEventLoop`.
 *
 * The turn does what BaseEventLoop's does, in the same order, and leaves to that whatever is rare: debug mode with its checks, and every loop
 * of which a tool has replaced a part. So what stands here is the one common case.
 */
#include "accelerator.h"

/* While callbacks are ready, so many ns may pass without a look at the sockets, or MOST_SKIPPED turns. */
enum { LONGEST_SKIPPED = 25000 };

/* So many turns follow each other before run_forever() gets its turn: callbacks that are C throughout run no bytecode, and only between
 * bytecodes does Python let other threads run. */
enum { MOST_TURNS = 1000 };

enum { MANY_TIMERS = 100 }; /* as in asyncio: cancelled timers are swept out when more than half of so many are */

static const double LONGEST_WAIT = 24 * 3600; /* seconds, as in asyncio */

/* The turn */

static int is_cancelled(EventLoop *self, PyObject *timer) {
  PyObject *value;
  int cancelled;

  if (Py_TYPE(timer) == self->state->timer_type || Py_TYPE(timer) == self->state->asyncio_timer)
    return SLOT(timer, layout.cancelled) == Py_True;
  value = PyObject_GetAttr(timer, self->state->str_cancelled);
  cancelled = value != NULL ? PyObject_IsTrue(value) : -1;
  Py_XDECREF(value);
  return cancelled;
}

/* Marks a timer as one that is not in the heap. */
static int mark_unscheduled(EventLoop *self, PyObject *timer) {
  if (Py_TYPE(timer) == self->state->timer_type || Py_TYPE(timer) == self->state->asyncio_timer) {
    replace(&SLOT(timer, layout.scheduled), Py_NewRef(Py_False));
    return 0;
  }
  return PyObject_SetAttrString(timer, "_scheduled", Py_False);
}

/* Removes the cancelled timers at the head; all of them, when most are. The caller holds the heap: timers of somebody else's class, and
 * what is freed with one of ours, can run any code. */
static int sweep(EventLoop *self, PyObject *heap, double unused) {
  Py_ssize_t count = PyList_GET_SIZE(heap), i;
  int cancelled;

  (void) unused;
  if (count > MANY_TIMERS && self->timer_cancelled_count > count / 2.0) {
    PyObject *kept = PyList_New(0);

    if (kept == NULL)
      return -1;
    for (i = 0; i < PyList_GET_SIZE(heap); i++) {
      PyObject *timer = Py_NewRef(PyList_GET_ITEM(heap, i));
      int status;

      cancelled = is_cancelled(self, timer);
      status = cancelled < 0 ? -1 : cancelled ? mark_unscheduled(self, timer) : PyList_Append(kept, timer);
      Py_DECREF(timer);
      if (status < 0) {
        Py_DECREF(kept);
        return -1;
      }
    }
    if (timers_heapify(self->state, kept) < 0) {
      Py_DECREF(kept);
      return -1;
    }
    self->timer_cancelled_count = 0;
    replace(&self->scheduled, kept);
    return 0;
  }
  while (self->scheduled == heap && PyList_GET_SIZE(heap) > 0) {
    PyObject *timer;

    cancelled = is_cancelled(self, PyList_GET_ITEM(heap, 0));
    if (cancelled <= 0 || PyList_GET_SIZE(heap) == 0)
      return cancelled < 0 ? -1 : 0;
    self->timer_cancelled_count--;
    timer = timers_pop(self->state, heap);
    if (timer == NULL)
      return -1;
    i = mark_unscheduled(self, timer);
    Py_DECREF(timer);
    if (i < 0)
      return -1;
  }
  return 0;
}

/* Queues the timers that are due before `end`. The caller holds the heap. */
static int queue_due(EventLoop *self, PyObject *heap, double end) {
  double when;

  if (timers_move_many(self->state, heap, end, self->ready) < 0)
    return -1;
  while (self->scheduled == heap && PyList_GET_SIZE(heap) > 0) {
    PyObject *timer;
    int status;

    if (timers_when(self->state, PyList_GET_ITEM(heap, 0), &when) < 0)
      return -1;
    if (when >= end || PyList_GET_SIZE(heap) == 0)
      return 0;
    if (ready_reserve(self->ready, 1) < 0) { /* before it leaves the heap: it is in neither otherwise */
      PyErr_NoMemory();
      return -1;
    }
    timer = timers_pop(self->state, heap);
    if (timer == NULL)
      return -1;
    status = mark_unscheduled(self, timer);
    if (status == 0)
      status = ready_append(self->ready, timer);
    Py_DECREF(timer);
    if (status < 0)
      return -1;
  }
  return 0;
}

/* Does something with the timers, if there are any, and holds their list meanwhile. */
static inline int with_timers(EventLoop *self, int (*work)(EventLoop *, PyObject *, double), double argument) {
  Py_ssize_t count = loop_count_timers(self);
  PyObject *heap;
  int status;

  if (count <= 0)
    return (int) count;
  heap = Py_NewRef(self->scheduled);
  status = work(self, heap, argument);
  Py_DECREF(heap);
  return status;
}

/* Whether the poll is our own queue's, and nobody stands in between. */
static int has_own_poll(EventLoop *self, int own) {
  return self->selector == self->own_selector && SLOT(self->selector, self->at_select) == self->own_select && own & PLAIN_EVENTS;
}

/* Whether this turn can do without a poll: there is enough to do, nothing to send, and the last poll is not long ago. Sets
 * *now to the time in ns when it can: the loop's, if there are timers. */
static int may_skip(EventLoop *self, int own, Py_ssize_t timers, int64_t *now) {
#ifdef __linux__
  Queue *queue = self->queue;

  if (LOAD(self->ready->length) == 0 || queue->dirty->length > 0 || queue->active || queue->may_skip <= 0 ||
      self->stopping != Py_False || !has_own_poll(self, own))
    return 0;
  if (timers > 0 && !(own & PLAIN_TIME && loop_has_real_clock(self->state)))
    return 0;
  *now = monotonic_ns();
  if (queue->may_skip == MOST_SKIPPED)
    queue->skipped_at = *now;
  else if (*now - queue->skipped_at > LONGEST_SKIPPED)
    return 0;
  queue->may_skip--;
  return 1;
#else
  (void) self;
  (void) own;
  (void) timers;
  (void) now;
  return 0;
#endif
}

/* Polls as BaseEventLoop does, through what somebody has put between the loop and its queue. What that waits for is its own business, so
 * other threads wake it whatever it does. timeout: in seconds, negative for ever. */
static int poll_in_python(EventLoop *self, double timeout) {
  PyObject *seconds, *found = NULL, *done = NULL;
  char running = self->running;

  STORE(self->running, 0);
  FENCE();
  if (self->ready != NULL && LOAD(self->ready->length) > 0)
    timeout = 0; /* who came before that has woken nobody */
  seconds = timeout < 0 ? Py_NewRef(Py_None) : timeout == 0 ? PyLong_FromLong(0) : PyFloat_FromDouble(timeout);
  if (self->selector == NULL) /* it was deleted */
    PyErr_SetString(PyExc_AttributeError, "_selector");
  else if (seconds != NULL)
    found = PyObject_CallMethodOneArg(self->selector, self->state->str_select, seconds);
  if (found != NULL)
    done = PyObject_CallMethodOneArg((PyObject *) self, self->state->str_process_events, found);
  STORE(self->running, running);
  Py_XDECREF(seconds);
  Py_XDECREF(found);
  Py_XDECREF(done);
  return done != NULL ? 0 : -1;
}

static int poll(EventLoop *self, int own) {
  int64_t timeout = -1;
  double seconds = -1;
  int found;
  Py_ssize_t timers = loop_count_timers(self);

  if (timers < 0)
    return -1;
  if (LOAD(self->ready->length) > 0 || self->stopping != Py_False) {
    timeout = 0;
  } else if (timers > 0) {
    double when, now;

    if (timers_when(self->state, PyList_GET_ITEM(self->scheduled, 0), &when) < 0 ||
        loop_time(self, own & PLAIN_TIME, &now) < 0)
      return -1;
    when -= now;
    /* Rounded up: a timer never fires early. Not a number: at once, as `min(max(0, ...))` has it. */
    seconds = !(when > 0) ? 0 : when < LONGEST_WAIT ? when : LONGEST_WAIT;
    timeout = seconds > 0 ? (int64_t) (seconds * 1e9) + 1 : 0;
  }
  if (!has_own_poll(self, own))
    return poll_in_python(self, timeout == 0 ? 0 : seconds);
  found = queue_poll(self->queue, timeout);
  if (found == -1) {
    /* The rest of an older batch, which something has interrupted: it goes first. */
    PyObject *ready = Py_NewRef(self->ready);
    int there = PySequence_Contains(ready, self->batch);

    Py_DECREF(ready);
    if (there < 0 || (!there && ready_append_left(self->ready, self->batch) < 0))
      return -1;
  } else if (self->queue->active && ready_append(self->ready, self->batch) < 0) {
    return -1;
  }
  return found == -2 ? -1 : PyErr_CheckSignals();
}

/* One turn, of a loop that is in no debug mode and has all its own parts. */
static int turn(EventLoop *self, int own) {
  int64_t moment;
  double now = 0;
  Py_ssize_t count;
  int status = 0;

  if (with_timers(self, sweep, 0) < 0 || (count = loop_count_timers(self)) < 0)
    return -1;
  if (may_skip(self, own, count, &moment))
    now = (double) moment / 1e9;
  else if (poll(self, own) < 0 || (count = loop_count_timers(self)) < 0 ||
           (count > 0 && loop_time(self, own & PLAIN_TIME, &now) < 0))
    return -1;
  if (with_timers(self, queue_due, now + self->clock_resolution) < 0)
    return -1;
  STORE(self->running, 1);
  for (count = LOAD(self->ready->length); count > 0 && status == 0; count--) {
    PyObject *handle = ready_pop_left(self->ready);

    if (handle == NULL)
      break; /* something has run the loop from a callback */
    handles_prefetch(self->state, self->ready);
    status = handle == self->batch ? queue_dispatch(self->queue, -1) : handle_run(self->state, handle);
    Py_DECREF(handle);
  }
  return status;
}

/* Whether `turn` does what BaseEventLoop._run_once would. -1 with an exception; else what is `plain`, and 0 if it does not. */
static int has_own_turn(EventLoop *self) {
  int own;

  if (self->debug != Py_False || self->queue == NULL || self->selector == NULL || self->selector == Py_None ||
      self->scheduled == NULL || !PyList_CheckExact(self->scheduled) || self->ready == NULL || self->queue->loop == NULL)
    return 0;
  own = loop_plain(self);
  return own < 0 ? -1 : own & PLAIN_TURN ? own : 0;
}

static PyObject *run_once(EventLoop *self, PyObject *unused) {
  char many = self->many, running = self->running;
  int own = has_own_turn(self), status = 0, turns = 0;

  (void) unused;
  if (self->queue != NULL)
    self->queue->may_skip = 0; /* a run begins with a poll, however short it is */
  self->many = 0; /* who calls this from a callback gets one turn */
  if (own == 0) {
    PyObject *done;

    STORE(self->running, 0);
    FENCE(); /* who sees that it is running still has put in before what that looks at now */
    done = loop_call_base(self->state->str_run_once, self, NULL, 0, NULL);
    status = done != NULL ? 0 : -1;
    Py_XDECREF(done);
  } else {
    while (own > 0 && status == 0) {
      status = turn(self, own);
      if (!many || self->stopping != Py_False || ++turns == MOST_TURNS)
        break;
      own = has_own_turn(self);
    }
    if (own < 0)
      status = -1;
  }
  self->many = many;
  STORE(self->running, running);
  if (status < 0)
    return NULL;
  Py_RETURN_NONE;
}

/* Gives the loop what its turn works on: (queue, selector, entry of the batch, the class's _process_events and _write_to_self). */
static PyObject *accelerate(EventLoop *self, PyObject *args) {
  PyObject *queue, *selector, *batch, *process_events, *write_to_self, *select;

  if (!PyArg_ParseTuple(args, "O!OOOO", self->state->queue_type, &queue, &selector, &batch, &process_events, &write_to_self))
    return NULL;
  self->at_select = slot_offset(Py_TYPE(selector), "select");
  if (self->at_select < 0)
    return NULL;
  select = PyObject_GetAttrString(selector, "select");
  if (select == NULL)
    return NULL;
  Py_XSETREF(self->own_select, select);
  Py_XSETREF(self->own_selector, Py_NewRef(selector));
  Py_XSETREF(self->batch, Py_NewRef(batch));
  Py_XSETREF(self->process_events, Py_NewRef(process_events));
  Py_XSETREF(self->write_to_self, Py_NewRef(write_to_self));
  Py_XSETREF(self->queue, (Queue *) Py_NewRef(queue));
  self->tagged = 0;
  Py_RETURN_NONE;
}

static PyObject *get_ready(EventLoop *self, void *unused) {
  (void) unused;
  if (self->ready == NULL)
    return PyErr_Format(PyExc_AttributeError, "_ready");
  return Py_NewRef(self->ready);
}

/* Takes any sequence of handles; one that is no queue of ours is copied. */
static int set_ready(EventLoop *self, PyObject *value, void *unused) {
  PyObject *made;

  (void) unused;
  if (value == NULL) {
    PyErr_SetString(PyExc_TypeError, "a loop cannot be without _ready");
    return -1;
  }
  made = Py_TYPE(value) == self->state->ready_type ? Py_NewRef(value)
                                                    : PyObject_CallOneArg((PyObject *) self->state->ready_type, value);
  if (made == NULL)
    return -1;
  Py_XSETREF(self->ready, (Ready *) made);
  if (self->queue != NULL)
    Py_XSETREF(self->queue->backlog, Py_NewRef(made));
  return 0;
}

static PyObject *new_loop(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  PyObject *module = PyType_GetModuleByDef(type, &speed_module);
  EventLoop *self;

  (void) args;
  (void) kwargs;
  if (module == NULL)
    return NULL;
  self = (EventLoop *) type->tp_alloc(type, 0);
  if (self != NULL) {
    self->module = Py_NewRef(module);
    self->state = PyModule_GetState(module);
    self->clock_resolution = 1e-9;
  }
  return (PyObject *) self;
}

static int traverse(EventLoop *self, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(self->module);
  Py_VISIT(self->ready);
  Py_VISIT(self->scheduled);
  Py_VISIT(self->stopping);
  Py_VISIT(self->closed);
  Py_VISIT(self->debug);
  Py_VISIT(self->thread_id);
  Py_VISIT(self->task_factory);
  Py_VISIT(self->selector);
  Py_VISIT(self->queue);
  Py_VISIT(self->own_selector);
  Py_VISIT(self->own_select);
  Py_VISIT(self->batch);
  Py_VISIT(self->process_events);
  Py_VISIT(self->write_to_self);
  return 0;
}

/* Every use checks for NULL what is cleared here. */
static int clear(EventLoop *self) {
  Py_CLEAR(self->queue);
  Py_CLEAR(self->ready);
  Py_CLEAR(self->scheduled);
  Py_CLEAR(self->task_factory);
  Py_CLEAR(self->selector);
  Py_CLEAR(self->own_selector);
  Py_CLEAR(self->own_select);
  Py_CLEAR(self->batch);
  Py_CLEAR(self->process_events);
  Py_CLEAR(self->write_to_self);
  return 0;
}

static void dealloc(EventLoop *self) {
  PyTypeObject *type = Py_TYPE(self);

  PyObject_GC_UnTrack(self);
  clear(self);
  Py_CLEAR(self->stopping);
  Py_CLEAR(self->closed);
  Py_CLEAR(self->debug);
  Py_CLEAR(self->thread_id);
  Py_CLEAR(self->module);
  type->tp_free(self);
  Py_DECREF(type);
}

#define FUNCTION(f) ((PyCFunction) (void (*)(void)) (f))

/* As BaseEventLoop has them. */
#if PY_VERSION_HEX >= 0x030e0000
#define TASK_KEYWORDS "**kwargs"
#else
#define TASK_KEYWORDS "*, name=None, context=None"
#endif

static PyMethodDef methods[] = {
  {"call_soon", FUNCTION(loop_call_soon), METH_FASTCALL | METH_KEYWORDS,
   "call_soon($self, callback, /, *args, context=None)\n--\n\nCall `callback(*args)` in the next turn of the loop."},
  {"call_soon_threadsafe", FUNCTION(loop_call_soon_threadsafe), METH_FASTCALL | METH_KEYWORDS,
   "call_soon_threadsafe($self, callback, /, *args, context=None)\n--\n\nLike call_soon(), from any thread."},
  {"call_later", FUNCTION(loop_call_later), METH_FASTCALL | METH_KEYWORDS,
   "call_later($self, delay, callback, /, *args, context=None)\n--\n\nCall `callback(*args)` in `delay` seconds."},
  {"call_at", FUNCTION(loop_call_at), METH_FASTCALL | METH_KEYWORDS,
   "call_at($self, when, callback, /, *args, context=None)\n--\n\nCall `callback(*args)` when time() has reached `when`."},
  {"create_future", FUNCTION(loop_create_future), METH_NOARGS, "create_future($self, /)\n--\n\nReturn a future that belongs to the loop."},
  {"create_task", FUNCTION(loop_create_task), METH_FASTCALL | METH_KEYWORDS,
   "create_task($self, coro, " TASK_KEYWORDS ")\n--\n\nRun a coroutine as a task; return the task."},
  {"time", FUNCTION(loop_get_time), METH_NOARGS, "time($self, /)\n--\n\nReturn the time in seconds, of a clock that is never set back."},
  {"is_running", FUNCTION(loop_is_running), METH_NOARGS, "is_running($self, /)\n--\n\nReturn whether the loop runs."},
  {"get_debug", FUNCTION(loop_get_debug), METH_NOARGS, "get_debug($self, /)\n--\n\nReturn whether the debug mode is on."},
  {"_run_once", FUNCTION(run_once), METH_NOARGS, "Run one turn of the loop; many, when run_forever() is the caller."},
  {"_accelerate", FUNCTION(accelerate), METH_VARARGS, NULL},
#ifdef HAVE_BARE_SOCKETS
  {"_adopt", FUNCTION(loop_adopt), METH_FASTCALL, NULL},
#endif
  {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
  {"_scheduled", T_OBJECT_EX, offsetof(EventLoop, scheduled), 0, NULL},
  {"_stopping", T_OBJECT_EX, offsetof(EventLoop, stopping), 0, NULL},
  {"_closed", T_OBJECT_EX, offsetof(EventLoop, closed), 0, NULL},
  {"_debug", T_OBJECT_EX, offsetof(EventLoop, debug), 0, NULL},
  {"_thread_id", T_OBJECT_EX, offsetof(EventLoop, thread_id), 0, NULL},
  {"_selector", T_OBJECT_EX, offsetof(EventLoop, selector), 0, NULL},
  {"_task_factory", T_OBJECT_EX, offsetof(EventLoop, task_factory), 0, NULL},
  {"_timer_cancelled_count", T_PYSSIZET, offsetof(EventLoop, timer_cancelled_count), 0, NULL},
  {"_clock_resolution", T_DOUBLE, offsetof(EventLoop, clock_resolution), 0, NULL},
  {"_many", T_BOOL, offsetof(EventLoop, many), 0, NULL},
  {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef properties[] = {
  {"_overridden", (getter) loop_is_overridden, NULL, NULL, NULL},
  {"_ready", (getter) get_ready, (setter) set_ready, NULL, NULL},
  {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
  {Py_tp_doc, "What of an event loop runs per callback."},
  {Py_tp_new, new_loop},
  {Py_tp_setattro, loop_set_attribute},
  {Py_tp_methods, methods},
  {Py_tp_members, members},
  {Py_tp_getset, properties},
  {Py_tp_traverse, traverse},
  {Py_tp_clear, clear},
  {Py_tp_dealloc, dealloc},
  {0, NULL},
};

PyType_Spec loop_spec = {
  "ffloop._speed.EventLoop", sizeof(EventLoop), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots,
};
