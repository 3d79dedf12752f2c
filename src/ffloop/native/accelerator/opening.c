/* How a descriptor becomes a connection without TLS, for a server that has accepted it (server.c), and for whoever has connected it:
 * protocol, stream and transport in one call. And how a client connects to the one address that there is, which is what `await Connecting(...)`
 * waits for; whoever has several to try does that in connections.py.
 */
#include "accelerator.h"

#ifdef HAVE_BARE_SOCKETS

#include <unistd.h>

PyObject *connection_open(State *state, EventLoop *loop, int *fd, int nodelay, PyObject *factory, const Names *names, PyObject *server,
                          PyObject *context, PyObject **protocol) {
  PyObject *stream = NULL, *transport = NULL;

  *protocol = PyObject_CallNoArgs(factory);
  if (*protocol == NULL)
    return NULL;
  context = context != NULL ? Py_NewRef(context) : PyContext_CopyCurrent();
  if (loop->queue == NULL)
    PyErr_SetString(PyExc_RuntimeError, "something has taken the loop's queue away");
  else if (context != NULL)
    stream = tcp_new(state, loop->queue, *fd, nodelay);
  if (stream != NULL) {
    *fd = -1;
    transport = connection_new(state, (PyObject *) loop, stream, *protocol, names, server, context);
    Py_DECREF(stream);
  }
  Py_XDECREF(context);
  return transport;
}

/* (list with a connected descriptor, own name, peer's name, protocol factory) -> transport, and nothing that would still have to be made: a
 * connection that nobody is told of would stay open. The list is emptied as soon as the descriptor is the loop's, whatever is raised after
 * that. */
PyObject *loop_adopt(EventLoop *self, PyObject *const *args, Py_ssize_t nargs) {
  PyObject *owned = nargs == 4 ? args[0] : NULL, *context = NULL, *protocol = NULL, *transport;
  Names names = {NULL, NULL, 0, 0};
  long number;
  int fd;

  if (owned == NULL || !PyList_CheckExact(owned) || PyList_GET_SIZE(owned) != 1)
    return PyErr_Format(PyExc_TypeError, "_adopt() takes a list of one descriptor, two names and a factory");
  number = PyLong_AsLong(PyList_GET_ITEM(owned, 0));
  if (number == -1 && PyErr_Occurred())
    return NULL;
#if PY_VERSION_HEX >= 0x030f0000
  context = PyContext_CopyCurrent(); /* what the factory sets there does not reach it: CONTEXT_FIRST in connections.py */
  if (context == NULL)
    return NULL;
#endif
  fd = (int) number;
  names.own = args[1];
  names.peer = args[2];
  /* The names of Unix sockets are no tuples. */
  transport = connection_open(self->state, self, &fd, PyTuple_Check(names.own), args[3], &names, Py_None, context, &protocol);
  if (fd == -1)
    PyList_SetSlice(owned, 0, PyList_GET_SIZE(owned), NULL); /* all of it, which cannot fail */
  Py_XDECREF(context);
  Py_XDECREF(protocol);
  return transport;
}

/* What a client waits for: an iterator, as an awaitable has one. Its steps are those of `_connect_bare` in connections.py. */
typedef struct {
  PyObject_HEAD
  EventLoop *loop;
  PyObject *info, *factory; /* what getaddrinfo() says of the address, and what makes the protocol */
  PyObject *owned;          /* a list with the descriptor, as long as no transport has it */
  PyObject *names;          /* (own, peer's) */
  PyObject *naming;         /* the coroutine that waits for them, where connecting takes time */
  PyObject *transport, *protocol;
  enum { NEW, NAMING, FIRST_TURN, SECOND_TURN, MADE, TOLD, BUSY, OVER } step; /* BUSY: inside of one, which can run any code */
} Connecting;

/* Ends it before its time: what is there by now is closed. What exception is set stays. */
static void give_up(Connecting *self) {
  PyObject *exception = PyErr_Occurred() ? take_exception() : NULL;

  self->step = OVER;
  if (self->owned != NULL && PyList_GET_SIZE(self->owned) > 0) {
    close((int) PyLong_AsLong(PyList_GET_ITEM(self->owned, 0)));
    PyList_SetSlice(self->owned, 0, PyList_GET_SIZE(self->owned), NULL); /* all of it, which cannot fail */
  }
  if (self->transport != NULL && tell(PyObject_CallMethodNoArgs(self->transport, self->loop->state->str_close)) < 0)
    PyErr_WriteUnraisable(self->transport);
  if (exception != NULL)
    restore_exception(exception);
}

/* Ends the coroutine that waits for the names, if one does: it watches the descriptor, which is to be open until then. */
static int end_naming(Connecting *self) {
  if (self->step != NAMING)
    return 0;
  self->step = BUSY;
  return tell(PyObject_CallMethodNoArgs(self->naming, self->loop->state->str_close));
}

/* Ends it for the exception that is set. A coroutine raises no StopIteration: whoever awaits it would take that for its result. */
static PyObject *fail(Connecting *self) {
  if (PyErr_ExceptionMatches(PyExc_StopIteration)) {
    PyObject *stop = take_exception(), *error;

    PyErr_SetString(PyExc_RuntimeError, "coroutine raised StopIteration");
    error = take_exception();
    PyException_SetContext(error, Py_NewRef(stop));
    PyException_SetCause(error, stop);
    restore_exception(error);
  }
  give_up(self);
  return NULL;
}

/* Whether it can go on: not inside of a step, nor when it is over, as little as a coroutine. 0 with an exception. */
static int may_go_on(const Connecting *self) {
  if (self->step == BUSY)
    PyErr_SetString(PyExc_ValueError, "Connecting already executing");
  else if (self->step == OVER)
    PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited Connecting");
  return self->step != BUSY && self->step != OVER;
}

/* Makes the connection's transport, which says so to the protocol in the next turn. */
static int adopt(Connecting *self) {
  PyObject *args[] = {self->owned, PyTuple_GET_ITEM(self->names, 0), PyTuple_GET_ITEM(self->names, 1), self->factory};

  self->transport = loop_adopt(self->loop, args, 4);
  if (self->transport == NULL)
    return -1;
  self->protocol = Py_XNewRef(part_of(self->transport)->protocol);
  if (self->protocol == NULL) {
    PyErr_SetString(PyExc_AttributeError, "something has taken the protocol away");
    return -1;
  }
  self->step = MADE;
  return 0;
}

/* Goes on when the names are known: both None when nobody has answered yet. */
static int begin_waiting(Connecting *self) {
  PyObject *family = PyTuple_GET_ITEM(self->info, 0);

  if (PyTuple_GET_ITEM(self->names, 1) == Py_None) {
    self->naming = PyObject_CallMethod((PyObject *) self->loop, "_until_named", "OO", PyList_GET_ITEM(self->owned, 0), self->info);
    self->step = NAMING;
    return self->naming != NULL ? 0 : -1;
  }
  if (PyLong_AsLong(family) == AF_UNIX)
    return adopt(self);
  /* Who connects comes back no sooner than from asyncio, where on this machine a peer has answered by now, but connect() does not say so: two
   * turns later, after a poll, in which a server in this loop has accepted the connection. */
  if (self->loop->queue != NULL)
    self->loop->queue->may_skip = 0;
  self->step = FIRST_TURN;
  return 0;
}

/* One step: what the task is to wait for, a new reference, None for the next turn; NULL with an exception, or at the end, when the step
 * is OVER and `result` has what there is. */
static PyObject *take_step(Connecting *self, PyObject **result) {
  int step = self->step;

  self->step = BUSY;
  switch (step) {
  case NEW:
    self->names = socket_connect(self->owned, self->info);
    if (self->names == NULL || begin_waiting(self) < 0)
      return NULL;
    if (self->step == NAMING)
      return take_step(self, result);
    Py_RETURN_NONE;
  case NAMING: {
    PyObject *value = NULL;
    PySendResult sent = PyIter_Send(self->naming, Py_None, &value);

    if (sent == PYGEN_NEXT)
      self->step = NAMING;
    if (sent != PYGEN_RETURN)
      return value;
    if (!PyTuple_Check(value) || PyTuple_GET_SIZE(value) != 2) {
      Py_DECREF(value);
      return PyErr_Format(PyExc_TypeError, "_until_named() returns two names");
    }
    Py_SETREF(self->names, value);
    if (adopt(self) < 0)
      return NULL;
    Py_RETURN_NONE;
  }
  case FIRST_TURN:
    self->step = SECOND_TURN;
    Py_RETURN_NONE;
  case SECOND_TURN:
    if (adopt(self) < 0)
      return NULL;
    Py_RETURN_NONE;
  case MADE: /* connection_made() is called in this turn, */
    self->step = TOLD;
    Py_RETURN_NONE;
  default: /* TOLD: and was called in the last one */
    *result = PyTuple_Pack(2, self->transport, self->protocol);
    if (*result != NULL)
      self->step = OVER;
    return NULL;
  }
}

static PyObject *next(PyObject *object) {
  Connecting *self = (Connecting *) object;
  PyObject *result = NULL, *awaited, *stop;

  if (!may_go_on(self))
    return NULL;
  awaited = take_step(self, &result);
  if (awaited != NULL)
    return awaited;
  stop = result != NULL ? PyObject_CallOneArg(PyExc_StopIteration, result) : NULL; /* a tuple would be taken for its arguments */
  Py_XDECREF(result);
  if (stop == NULL)
    return fail(self);
  PyErr_SetObject(PyExc_StopIteration, stop);
  Py_DECREF(stop);
  return NULL;
}

/* A task sends nothing. */
static PyObject *send_nothing(PyObject *self, PyObject *unused) {
  (void) unused;
  return next(self);
}

/* (type, value, traceback), or just the exception: raises it where this waits. */
static PyObject *throw(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
  Connecting *self = (Connecting *) object;

  if (nargs < 1 || nargs > 3)
    return PyErr_Format(PyExc_TypeError, "throw() takes an exception");
  if (!may_go_on(self))
    return NULL;
  if (self->step == NAMING) {
    PyObject *method = PyObject_GetAttrString(self->naming, "throw"), *awaited;

    self->step = BUSY;
    awaited = method != NULL ? PyObject_Vectorcall(method, args, (size_t) nargs, NULL) : NULL;
    Py_XDECREF(method);
    if (awaited != NULL) {
      self->step = NAMING; /* it waits for something else first */
      return awaited;
    }
  } else if (PyExceptionInstance_Check(args[0])) {
    PyErr_SetObject((PyObject *) Py_TYPE(args[0]), args[0]);
  } else if (PyExceptionClass_Check(args[0])) {
    PyErr_SetObject(args[0], nargs > 1 && args[1] != Py_None ? args[1] : NULL);
  } else {
    return PyErr_Format(PyExc_TypeError, "exceptions must be classes or instances deriving from BaseException");
  }
  return fail(self);
}

static PyObject *close_connecting(PyObject *object, PyObject *unused) {
  Connecting *self = (Connecting *) object;
  int status;

  (void) unused;
  if (self->step == OVER)
    Py_RETURN_NONE;
  if (!may_go_on(self))
    return NULL;
  status = end_naming(self);
  give_up(self);
  if (status < 0)
    return NULL;
  Py_RETURN_NONE;
}

static void finalize(PyObject *object) {
  Connecting *self = (Connecting *) object;
  PyObject *exception;

  if (self->step == OVER)
    return;
  exception = PyErr_Occurred() ? take_exception() : NULL;
  if (end_naming(self) < 0)
    PyErr_WriteUnraisable(object);
  give_up(self);
  if (exception != NULL)
    restore_exception(exception);
}

static int traverse(PyObject *object, visitproc visit, void *arg) {
  Connecting *self = (Connecting *) object;

  Py_VISIT(Py_TYPE(object));
  Py_VISIT(self->loop);
  Py_VISIT(self->info);
  Py_VISIT(self->factory);
  Py_VISIT(self->owned);
  Py_VISIT(self->names);
  Py_VISIT(self->naming);
  Py_VISIT(self->transport);
  Py_VISIT(self->protocol);
  return 0;
}

static int clear(PyObject *object) {
  Connecting *self = (Connecting *) object;

  Py_CLEAR(self->loop);
  Py_CLEAR(self->info);
  Py_CLEAR(self->factory);
  Py_CLEAR(self->owned);
  Py_CLEAR(self->names);
  Py_CLEAR(self->naming);
  Py_CLEAR(self->transport);
  Py_CLEAR(self->protocol);
  return 0;
}

static void dealloc(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);

  if (PyObject_CallFinalizerFromDealloc(object) < 0)
    return;
  PyObject_GC_UnTrack(object);
  clear(object);
  type->tp_free(object);
  Py_DECREF(type);
}

/* Connecting(loop, info, protocol_factory) */
static PyObject *new_connecting(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  State *state = PyType_GetModuleState(type);
  PyObject *loop, *info, *factory;
  Connecting *self;

  if (state == NULL || !PyArg_ParseTuple(args, "O!O!O:Connecting", state->loop_type, &loop, &PyTuple_Type, &info, &factory))
    return NULL;
  if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0)
    return PyErr_Format(PyExc_TypeError, "Connecting() takes no keywords");
  self = (Connecting *) type->tp_alloc(type, 0);
  if (self == NULL)
    return NULL;
  self->loop = (EventLoop *) Py_NewRef(loop);
  self->info = Py_NewRef(info);
  self->factory = Py_NewRef(factory);
  self->owned = PyList_New(0);
  if (self->owned == NULL)
    Py_CLEAR(self);
  return (PyObject *) self;
}

static PyMethodDef methods[] = {
  {"send", send_nothing, METH_O, NULL},
  {"throw", (PyCFunction) (void (*)(void)) throw, METH_FASTCALL, NULL},
  {"close", close_connecting, METH_NOARGS, NULL},
  {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
  {Py_tp_doc, "Connecting(loop, info, protocol_factory, /)\n--\n\nConnect to one address; await it for the transport and the protocol."},
  {Py_tp_new, new_connecting},
  {Py_tp_methods, methods},
  {Py_am_await, PyObject_SelfIter},
  {Py_tp_iter, PyObject_SelfIter},
  {Py_tp_iternext, next},
  {Py_tp_traverse, traverse},
  {Py_tp_clear, clear},
  {Py_tp_finalize, finalize},
  {Py_tp_dealloc, dealloc},
  {0, NULL},
};

static PyType_Spec spec = {"ffloop._speed.Connecting", sizeof(Connecting), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};

int connecting_add_type(PyObject *module) {
  PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);
  int status = type != NULL ? PyModule_AddType(module, (PyTypeObject *) type) : -1;

  Py_XDECREF(type); /* nobody asks for it but Python */
  return status;
}

#else

int connecting_add_type(PyObject *module) {
  (void) module;
  return 0;
}

#endif
