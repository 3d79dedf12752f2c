/* The completion queue in C, in front of `uv.Loop`: the poll, the dispatch of its records, the flush.
 *
 * The GIL is released while libuv may wait, and kept when it only looks: without anything to wait for that takes less time than
 * handing the GIL over.
 */
#include "accelerator.h"

#include <math.h>

static const double LONGEST = 1e8; /* seconds of a single poll, as in uv/loop.py */

/* Lets everything in `dirty` hand what it has queued to the kernel. That can run callbacks, which may write to others. */
int queue_flush(Queue *queue) {
  PyObject *dirty;

  while ((dirty = ready_pop_left(queue->dirty)) != NULL) {
    int status;

    if (is_a(dirty, queue->state->stream_type)) {
      status = stream_flush(queue->state, dirty);
    } else if (is_a(dirty, queue->state->datagram_type)) {
      status = datagram_flush(queue->state, dirty);
    } else {
      PyObject *done = PyObject_CallMethodNoArgs(dirty, queue->state->str_flush);

      status = done != NULL ? 0 : -1;
      Py_XDECREF(done);
    }
    Py_DECREF(dirty);
    if (status < 0)
      return -1;
  }
  return 0;
}

/* Flushes, runs libuv once, and returns how many records there are to dispatch: -1 when those of an earlier poll are not dispatched
 * yet, -2 with an exception. timeout_ns: as for ffloop_run. */
int queue_poll(Queue *queue, int64_t timeout_ns) {
  const ffloop_api *api = queue->state->api;
  int found;

  if (queue->dirty->length > 0 && queue_flush(queue) < 0)
    return -2;
  if (queue->active)
    return -1;
  if (queue->loop == NULL) {
    PyErr_SetString(PyExc_ValueError, "the loop is closed");
    return -2;
  }
  queue->may_skip = MOST_SKIPPED;
  if (timeout_ns != 0 && queue->before_wait != NULL && queue->before_wait != Py_None) {
    PyObject *before_wait = Py_NewRef(queue->before_wait), *done = PyObject_CallNoArgs(before_wait);
    int is_true = done != NULL ? PyObject_IsTrue(done) : -1;

    Py_DECREF(before_wait);
    Py_XDECREF(done);
    if (is_true < 0)
      return -2;
    if (is_true)
      timeout_ns = 0;
    /* Whatever else has happened there, in a signal's handler, say. */
    if (queue->loop == NULL || queue->active)
      return queue_poll(queue, 0);
    if (queue->dirty->length > 0 && queue_flush(queue) < 0)
      return -2;
  }
  if (timeout_ns != 0) {
    Py_ssize_t left;

    /* A write that failed has scheduled what tells of it; and another thread may have come in between, which wakes nobody who is
     * not waiting: from here on it does. */
    STORE(queue->waiting, 1);
    FENCE();
    left = PyObject_Length(queue->backlog);
    if (left != 0)
      STORE(queue->waiting, 0);
    if (left < 0)
      return -2;
    if (left > 0)
      timeout_ns = 0;
  }
  if (timeout_ns == 0) {
    found = api->run(queue->loop, 0);
  } else {
    Py_BEGIN_ALLOW_THREADS
    found = api->run(queue->loop, timeout_ns);
    Py_END_ALLOW_THREADS
    STORE(queue->waiting, 0);
  }
  queue->next = 0;
  queue->count = found > 0 ? found : 0;
  if (found < 0) {
    PyErr_SetString(PyExc_MemoryError, "out of memory for a record of the completion queue");
    /* What was stored before that is handed out. */
    queue->count = api->count(queue->loop);
  }
  if (queue->count > 0) {
    queue->records = api->records(queue->loop);
    queue->active = 1;
    queue->serial++;
    Py_CLEAR(queue->batch);
  }
  return found < 0 ? -2 : found;
}

/* Who gets a record, a new reference; NULL without an exception when nobody does, and what it carries was released. */
static PyObject *find_receiver(Queue *queue, const ffloop_record *record, int kind) {
  PyObject *found = kind == FFLOOP_READ ? tcp_receiver(queue->state, queue, record->key >> FFLOOP_KIND_BITS) : NULL, *key, *payload;

  if (found != NULL || PyErr_Occurred())
    return found;
  key = PyLong_FromLongLong(record->key);
  if (key == NULL)
    return NULL;
  found = dict_get(queue->callbacks, key);
  if (found == NULL && !PyErr_Occurred() && (payload = PyLong_FromLongLong(record->payload)) != NULL) {
    PyObject *args[3] = {(PyObject *) queue, key, payload};

    tell(PyObject_VectorcallMethod(queue->state->str_drop, args, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL));
    Py_DECREF(payload);
  }
  Py_DECREF(key);
  return found;
}

/* What hand_out() returns with the MemoryError of a record that nobody has got. */
enum { KEPT = -2 };

static int kept(void) {
  return PyErr_ExceptionMatches(PyExc_MemoryError) ? KEPT : -1;
}

/* Hands a record to whom it is for. */
static int hand_out(Queue *queue, const ffloop_record *record, PyObject **receiver) {
  PyObject *callback, *done = NULL;
  int kind = (int) (record->key & ((1 << FFLOOP_KIND_BITS) - 1)), status;

  if (record->key == FFLOOP_ASYNC)
    return 0; /* a wake-up: it has done what it was for */
  callback = find_receiver(queue, record, kind);
  if (callback == NULL)
    return PyErr_Occurred() ? kept() : 0;
  if (kind == FFLOOP_READ && is_a(callback, queue->state->stream_type)) {
    status = stream_receive(queue->state, callback, record->status, record->payload);
  } else if (kind == FFLOOP_DATAGRAM && is_a(callback, queue->state->datagram_type)) {
    status = datagram_receive(queue->state, callback, record->status, record->payload);
  } else {
    PyObject *args[2] = {PyLong_FromLongLong(record->status), PyLong_FromLongLong(record->payload)};

    if (args[0] != NULL && args[1] != NULL) {
      done = PyObject_Vectorcall(callback, args, 2, NULL);
      status = done != NULL ? 0 : -1;
    } else {
      status = kept();
    }
    Py_XDECREF(args[0]);
    Py_XDECREF(args[1]);
    Py_XDECREF(done);
  }
  if (status == -1 && !is_let_through())
    Py_XSETREF(queue->last, Py_NewRef(callback)); /* for on_error() to name */
  if (receiver != NULL)
    Py_XSETREF(*receiver, callback);
  else
    Py_DECREF(callback);
  return status;
}

/* Hands the records of the last poll out in order, `most` of them (-1: all), and flushes what their callbacks have written. A callback that
 * polls and dispatches itself deals with the rest first; what is there afterwards belongs to another batch, and is not touched. */
int queue_dispatch(Queue *queue, Py_ssize_t most) {
  uint64_t serial = queue->serial;
  Py_ssize_t handed = 0;
  PyObject *receiver = NULL;
  int status = 0;

  if (!queue->active)
    return 0;
  while (status != KEPT && handed != most && queue->serial == serial && queue->next < queue->count) {
    ffloop_record record = queue->records[queue->next++];

    handed++;
    status = hand_out(queue, &record, most < 0 ? NULL : &receiver);
    if (status == 0)
      continue;
    if (status == KEPT && queue->serial == serial)
      queue->next--; /* it comes again in the next turn, and the rest after it: bytes must not be lost in the midst of others */
    if (is_let_through() || queue->on_error == NULL || queue->on_error == Py_None) {
      /* The next poll does not wait for a rest that there is not. */
      if (queue->serial == serial && queue->next >= queue->count && is_let_through())
        queue->active = 0;
      Py_XDECREF(receiver);
      return -1;
    } else {
      PyObject *exception = take_exception(), *on_error = Py_NewRef(queue->on_error);
      PyObject *done = exception != NULL ? PyObject_CallOneArg(on_error, exception) : NULL;

      Py_DECREF(on_error);
      Py_XDECREF(exception);
      Py_XDECREF(done);
      if (done == NULL) {
        Py_XDECREF(receiver);
        return -1;
      }
    }
  }
  if (most < 0 || handed == 0) {
    if (queue->serial == serial && status != KEPT)
      queue->active = 0;
  } else {
    Py_XSETREF(queue->last, receiver != NULL ? receiver : Py_NewRef(Py_None));
    receiver = NULL;
  }
  Py_XDECREF(receiver);
  /* The answers are whole by now; the peers can work on them while this side goes on. */
  return queue->dirty->length > 0 ? queue_flush(queue) : 0;
}

/* Takes the loop over: its address, as Python knows it; None when it was closed. What it lies in stays Python's. */
static PyObject *open_loop(Queue *queue, PyObject *address) {
  const ffloop_api *api = queue->state->api;
  void *pointer = address != Py_None ? PyLong_AsVoidPtr(address) : NULL;

  if (PyErr_Occurred())
    return NULL;
  Py_CLEAR(queue->handles);
  Py_CLEAR(queue->new_token);
  if (pointer != NULL) {
    PyObject *handles = PyObject_GetAttrString((PyObject *) queue, "handles");

    queue->new_token = PyObject_GetAttrString((PyObject *) queue, "new_token");
    if (handles != NULL && !PyDict_Check(handles)) {
      PyErr_SetString(PyExc_TypeError, "a loop's handles are a dict");
      Py_CLEAR(handles);
    }
    queue->handles = handles;
    if (handles == NULL || queue->new_token == NULL)
      return NULL;
  }
  STORE(queue->loop, pointer);
  queue->active = queue->next = queue->count = 0;
  queue->records = NULL;
  queue->region = pointer != NULL ? api->region(pointer) : NULL;
  Py_RETURN_NONE;
}

static PyObject *poll_from_python(Queue *queue, PyObject *args, PyObject *kwargs) {
  static char *names[] = {"timeout", NULL};
  PyObject *timeout;
  int64_t nanoseconds = -1;
  int found;

  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:poll", names, &timeout))
    return NULL;
  if (timeout != Py_None) {
    double seconds = PyFloat_AsDouble(timeout);

    if (seconds == -1.0 && PyErr_Occurred())
      return NULL;
    nanoseconds = seconds > 0 ? (int64_t) ceil((seconds < LONGEST ? seconds : LONGEST) * 1e9) : 0;
  }
  found = queue_poll(queue, nanoseconds);
  if (found == -2)
    return NULL;
  /* Ctrl-C: what has come is kept, and handed out when the loop runs again. */
  if (PyErr_CheckSignals() < 0)
    return NULL;
  return PyLong_FromLong(found);
}

static PyObject *dispatch_from_python(Queue *queue, PyObject *const *args, Py_ssize_t nargs) {
  Py_ssize_t most = -1;

  if (nargs > 1) {
    PyErr_SetString(PyExc_TypeError, "dispatch() takes one argument at most");
    return NULL;
  }
  if (nargs == 1 && args[0] != Py_None) {
    most = PyLong_AsSsize_t(args[0]);
    if (most < 0)
      return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "a number of records is not negative");
  }
  if (queue_dispatch(queue, most) < 0)
    return NULL;
  Py_RETURN_NONE;
}

static PyObject *flush_from_python(Queue *queue, PyObject *unused) {
  (void) unused;
  if (queue_flush(queue) < 0)
    return NULL;
  Py_RETURN_NONE;
}

/* Drops what was not handed out, as the loop is being closed. */
static PyObject *drop_batch(Queue *queue, PyObject *unused) {
  (void) unused;
  while (queue->active && queue->next < queue->count) {
    ffloop_record record = queue->records[queue->next++];
    PyObject *done = PyObject_CallMethod((PyObject *) queue, "_drop", "LL", (long long) record.key, (long long) record.payload);

    if (done == NULL)
      return NULL;
    Py_DECREF(done);
  }
  queue->active = 0;
  Py_RETURN_NONE;
}

static PyObject *get_dispatching(Queue *queue, void *unused) {
  (void) unused;
  return PyBool_FromLong(queue->active);
}

PyObject *queue_batch(Queue *queue) {
  if (queue->batch == NULL)
    queue->batch = PyObject_CallNoArgs((PyObject *) &PyBaseObject_Type);
  return queue->batch;
}

/* An object for as long as the batch is being handed out, another for each batch. */
static PyObject *get_batch(Queue *queue, void *unused) {
  (void) unused;
  if (!queue->active)
    Py_RETURN_NONE;
  return Py_XNewRef(queue_batch(queue));
}

static PyObject *new_queue(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  PyObject *module = PyType_GetModuleByDef(type, &speed_module);
  Queue *queue;

  (void) args;
  (void) kwargs;
  if (module == NULL)
    return NULL;
  queue = (Queue *) type->tp_alloc(type, 0);
  if (queue == NULL)
    return NULL;
  queue->module = Py_NewRef(module);
  queue->state = PyModule_GetState(module);
  queue->dirty = (Ready *) ready_new(queue->state);
  queue->callbacks = PyDict_New();
  queue->backlog = PyTuple_New(0);
  if (queue->dirty == NULL || queue->callbacks == NULL || queue->backlog == NULL)
    Py_CLEAR(queue);
  return (PyObject *) queue;
}

static int traverse(Queue *queue, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(queue));
  Py_VISIT(queue->module);
  Py_VISIT(queue->dirty);
  Py_VISIT(queue->callbacks);
  Py_VISIT(queue->backlog);
  Py_VISIT(queue->last);
  Py_VISIT(queue->on_error);
  Py_VISIT(queue->before_wait);
  Py_VISIT(queue->handles);
  Py_VISIT(queue->new_token);
  return 0;
}

/* The three that every function relies on stay, empty. */
static int clear(Queue *queue) {
  if (queue->callbacks != NULL)
    PyDict_Clear(queue->callbacks);
  if (queue->dirty != NULL)
    Py_TYPE(queue->dirty)->tp_clear((PyObject *) queue->dirty);
  Py_CLEAR(queue->last);
  Py_CLEAR(queue->on_error);
  Py_CLEAR(queue->before_wait);
  Py_CLEAR(queue->handles);
  Py_CLEAR(queue->new_token);
  if (queue->backlog != NULL)
    Py_XSETREF(queue->backlog, PyTuple_New(0));
  return 0;
}

static void dealloc(Queue *queue) {
  PyTypeObject *type = Py_TYPE(queue);

  PyObject_GC_UnTrack(queue);
  Py_CLEAR(queue->dirty);
  Py_CLEAR(queue->callbacks);
  Py_CLEAR(queue->backlog);
  Py_CLEAR(queue->last);
  Py_CLEAR(queue->on_error);
  Py_CLEAR(queue->before_wait);
  Py_CLEAR(queue->batch);
  Py_CLEAR(queue->handles);
  Py_CLEAR(queue->new_token);
  Py_CLEAR(queue->module);
  type->tp_free(queue);
  Py_DECREF(type);
}

static PyMethodDef methods[] = {
  {"poll", (PyCFunction) (void (*)(void)) poll_from_python, METH_VARARGS | METH_KEYWORDS, "Flush, run libuv once, and return how many records there are to dispatch."},
  {"dispatch", (PyCFunction) (void (*)(void)) dispatch_from_python, METH_FASTCALL, "Hand the records of the last poll out."},
  {"flush", (PyCFunction) flush_from_python, METH_NOARGS, "Let everything in `dirty` hand what it has queued to the kernel."},
  {"_open", (PyCFunction) open_loop, METH_O, NULL},
  {"_drop_batch", (PyCFunction) drop_batch, METH_NOARGS, NULL},
  {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
  {"dirty", T_OBJECT_EX, offsetof(Queue, dirty), READONLY, NULL},
  {"callbacks", T_OBJECT_EX, offsetof(Queue, callbacks), READONLY, NULL},
  {"backlog", T_OBJECT_EX, offsetof(Queue, backlog), 0, NULL},
  {"last", T_OBJECT, offsetof(Queue, last), 0, NULL},
  {"on_error", T_OBJECT, offsetof(Queue, on_error), 0, NULL},
  {"before_wait", T_OBJECT, offsetof(Queue, before_wait), 0, NULL},
  {"may_skip", T_INT, offsetof(Queue, may_skip), 0, NULL},
  {"found", T_INT, offsetof(Queue, count), READONLY, NULL},
  {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef properties[] = {
  {"dispatching", (getter) get_dispatching, NULL, NULL, NULL},
  {"_batch", (getter) get_batch, NULL, NULL, NULL},
  {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
  {Py_tp_doc, "The completion queue of a `uv.Loop`."},
  {Py_tp_new, new_queue},
  {Py_tp_methods, methods},
  {Py_tp_members, members},
  {Py_tp_getset, properties},
  {Py_tp_traverse, traverse},
  {Py_tp_clear, clear},
  {Py_tp_dealloc, dealloc},
  {0, NULL},
};

PyType_Spec queue_spec = {
  "ffloop._speed.Queue", sizeof(Queue), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots,
};
