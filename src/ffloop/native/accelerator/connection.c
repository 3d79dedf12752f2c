/* The stream transport, once per connection: its fields, the first read, the end of what is read, and the end of all. What is rare, or says
 * something in debug mode, is left to transports.py, whose methods of the same names these stand in for.
 */
#include "accelerator.h"

#ifndef _WIN32

enum { FLUSH_AT = 32 * 1024 }; /* bytes, as in stream_sending.py */

/* The method that the Python class has under that name. */
static PyObject *get_pure(PyObject *self, PyObject *name) {
  PyObject *super = PyObject_CallFunctionObjArgs((PyObject *) &PySuper_Type, part_of(self)->state->stream_type, self, NULL);
  PyObject *method = super != NULL ? PyObject_GetAttr(super, name) : NULL;

  Py_XDECREF(super);
  return method;
}

static PyObject *call_pure(PyObject *self, PyObject *name) {
  PyObject *method = get_pure(self, name);
  PyObject *result = method != NULL ? PyObject_CallNoArgs(method) : NULL;

  Py_XDECREF(method);
  return result;
}

/* Has the transport's method `name` called soon: without arguments, or with these two. */
static int call_soon(State *state, PyObject *self, PyObject *name, PyObject *first, PyObject *second) {
  PyObject *arguments[] = {Py_XNewRef(SLOT(self, layout.transport_loop)), PyObject_GetAttr(self, name), first, second};
  int status = -1;

  if (arguments[0] == NULL && !PyErr_Occurred())
    PyErr_SetString(PyExc_RuntimeError, "the transport's loop is gone");
  if (arguments[0] != NULL && arguments[1] != NULL)
    status = tell(PyObject_VectorcallMethod(state->str_call_soon, arguments, first != NULL ? 4 : 2, NULL));
  Py_XDECREF(arguments[0]);
  Py_XDECREF(arguments[1]);
  return status;
}

/* The context */

int connection_enter(State *state, PyObject *self, PyObject **context, int *was_blank) {
  Part *part = part_of(self);

  *was_blank = part->context == NULL;
  if (*was_blank && (part->context = context_take(state)) == NULL)
    return -1;
  if (PyContext_Enter(part->context) < 0)
    return -1;
  *context = Py_NewRef(part->context);
  return 0;
}

int connection_leave(State *state, PyObject *self, PyObject *context, int was_blank) {
  Part *part = part_of(self);
  int status = PyContext_Exit(context);

  if (was_blank && part->context == context && context_is_blank(context, 2)) {
    part->context = NULL;
    context_give(state, context);
  }
  Py_DECREF(context);
  return status;
}

/* What Python sees of it is a context, whose identity is the connection's from then on. */
static PyObject *get_own_context(PyObject *self, void *unused) {
  Part *part = part_of(self);

  (void) unused;
  if (part->context == NULL)
    part->context = context_take(part->state);
  return Py_XNewRef(part->context);
}

static int set_own_context(PyObject *self, PyObject *context, void *unused) {
  (void) unused;
  if (context == NULL || !PyContext_CheckExact(context)) {
    PyErr_SetString(PyExc_TypeError, "a context is wanted");
    return -1;
  }
  Py_XSETREF(part_of(self)->context, Py_NewRef(context));
  return 0;
}

/* The same, None while nothing is to be received. */
static PyObject *get_context(PyObject *self, void *unused) {
  if (!part_of(self)->reading)
    Py_RETURN_NONE;
  return get_own_context(self, unused);
}

static int set_context(PyObject *self, PyObject *context, void *unused) {
  part_of(self)->reading = context != Py_None;
  return context == Py_None ? 0 : set_own_context(self, context, unused);
}

/* The beginning */

/* The facts: two of them, that most connections have, or a dictionary. */
static int take_facts(State *state, Part *part, PyObject *extra) {
  PyObject *sockname = NULL, *peername = NULL;

  part->peer_port = 0;
  if (PyDict_CheckExact(extra) && PyDict_GET_SIZE(extra) == 2) {
    sockname = PyDict_GetItemWithError(extra, state->str_sockname);
    if (sockname != NULL)
      peername = PyDict_GetItemWithError(extra, state->str_peername);
    if (peername == NULL && PyErr_Occurred())
      return -1;
  }
  if (peername != NULL) {
    Py_XSETREF(part->sockname, Py_NewRef(sockname));
    Py_XSETREF(part->peername, Py_NewRef(peername));
    Py_XSETREF(part->facts, Py_NewRef(Py_None));
    return 0;
  }
  Py_XSETREF(part->sockname, Py_NewRef(Py_None));
  Py_XSETREF(part->peername, Py_NewRef(Py_None));
  if (extra == Py_None) {
    PyObject *empty = PyDict_New();

    if (empty == NULL)
      return -1;
    Py_XSETREF(part->facts, empty);
  } else {
    Py_XSETREF(part->facts, Py_NewRef(extra));
  }
  return 0;
}

/* Has the loop know a transport by its descriptor. They share the number. */
static int introduce(State *state, PyObject *self, PyObject *loop, PyObject *stream) {
  PyObject *transports = PyObject_GetAttr(loop, state->str_transports);
  PyObject *fd = transports != NULL ? PyObject_GetAttr(stream, state->str_fd) : NULL;
  int status = fd != NULL ? transports_introduce(state, transports, fd, self) : -1;

  Py_XDECREF(transports);
  Py_XDECREF(fd);
  return status;
}

/* Undoes what begin() has scheduled, for the exception that is set: whoever gets that has no connection. */
static void take_back(PyObject *self, PyObject *handle) {
  PyObject *exception = take_exception();

  part_of(self)->closing = 1; /* so that it does not read, if that was scheduled as well */
  if (tell(PyObject_CallMethod(handle, "cancel", NULL)) < 0)
    PyErr_WriteUnraisable(handle);
  restore_exception(exception);
}

/* What the constructor has left to do when it has the facts and the context. Each step can raise, and what was begun by then has the same
 * end as in PureStreamTransport.__init__. */
static int begin(State *state, PyObject *self, PyObject *loop, PyObject *stream, PyObject *protocol, PyObject *server, PyObject *waiter) {
  Part *part = part_of(self);
  PyObject *made, *handle = NULL;
  int buffered, status;

  Py_XSETREF(part->first, Py_NewRef(state->empty_bytes));
  Py_XSETREF(part->rest, Py_NewRef(state->empty_bytes));
  Py_XSETREF(part->more, Py_NewRef(Py_None));
  Py_XSETREF(part->refusal, Py_NewRef(Py_None));
  part->reading = 0;
  Py_XSETREF(part->server, Py_NewRef(Py_None));
  Py_XSETREF(part->socket, Py_NewRef(Py_None));
  Py_XSETREF(part->held, Py_NewRef(Py_None));
  Py_XSETREF(part->empty_waiter, Py_NewRef(Py_None));
  Py_XSETREF(part->stream, Py_NewRef(stream));
  Py_XSETREF(SLOT(self, layout.transport_loop), Py_NewRef(loop));
  Py_XSETREF(SLOT(self, layout.transport_paused), Py_NewRef(Py_False));
  Py_XSETREF(SLOT(self, layout.transport_high), Py_NewRef(state->high_water));
  Py_XSETREF(SLOT(self, layout.transport_low), Py_NewRef(state->low_water));
  part->flush_at = FLUSH_AT;
  part->ended = 0;
  if (introduce(state, self, loop, stream) < 0) /* before anything is scheduled, which would have to be undone */
    return -1;
  if (server != Py_None) {
    if (server_attach(state, server) < 0)
      return -1;
    Py_XSETREF(part->server, Py_NewRef(server));
  }
  Py_XSETREF(part->protocol, Py_NewRef(protocol));
  part->protocol_connected = 1;
  buffered = PyObject_IsInstance(protocol, state->buffered_protocol);
  if (buffered < 0)
    return -1;
  part->buffered = (char) buffered;
  made = PyObject_GetAttr(protocol, state->str_connection_made);
  if (made != NULL) {
    PyObject *arguments[] = {loop, made, self, part->context};

    handle = PyObject_VectorcallMethod(state->str_call_soon, arguments, 3, state->only_context);
    Py_DECREF(made);
  }
  if (handle == NULL)
    return -1;
  /* Only once connection_made() has returned may data_received() be called. */
  status = call_soon(state, self, state->str_start_reading, NULL, NULL);
  /* And only then may the creator go on. */
  if (status == 0 && waiter != Py_None)
    status = tell(PyObject_CallMethod(self, "_wake_soon", "(O)", waiter));
  if (status < 0)
    take_back(self, handle);
  Py_DECREF(handle);
  return status;
}

int connection_init(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *names[] = {"loop", "stream", "protocol", "waiter", "extra", "server", "context", NULL};
  PyObject *loop, *stream, *protocol, *waiter = Py_None, *extra = Py_None, *server = Py_None, *context = Py_None;
  Part *part = part_of(self);
  State *state = part->state;

  /* Without keywords, as the loop calls it, in a third of the time. */
  if (kwargs == NULL ? !PyArg_UnpackTuple(args, "StreamTransport", 3, 7, &loop, &stream, &protocol, &waiter, &extra, &server, &context)
                     : !PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|OOOO:StreamTransport", names, &loop, &stream, &protocol, &waiter,
                                                    &extra, &server, &context))
    return -1;
  context = context == Py_None ? PyContext_CopyCurrent() : Py_NewRef(context);
  if (context == NULL)
    return -1;
  Py_XSETREF(part->context, context);
  return take_facts(state, part, extra) < 0 ? -1 : begin(state, self, loop, stream, protocol, server, waiter);
}

PyObject *connection_new(State *state, PyObject *loop, PyObject *stream, PyObject *protocol, const Names *names, PyObject *server,
                         PyObject *context) {
  PyTypeObject *type;
  PyObject *self;
  Part *part;

  type = (PyTypeObject *) LOAD(state->transport_class);
  if (type == NULL) {
    type = (PyTypeObject *) import_from("ffloop.transports", "StreamTransport");
    STORE(state->transport_class, (PyObject *) type); /* of two threads that come here at once one leaves a reference behind */
  }
  self = type != NULL ? type->tp_new(type, NULL, NULL) : NULL;
  if (self == NULL) {
    PyObject *exception = take_exception();

    if (tcp_close(state, stream) < 0)
      PyErr_WriteUnraisable(stream);
    restore_exception(exception);
    return NULL;
  }
  part = part_of(self);
  part->context = Py_NewRef(context);
  part->facts = Py_NewRef(Py_None);
  part->sockname = Py_NewRef(names->own);
  part->peername = Py_XNewRef(names->peer);
  part->peer_host = names->host;
  part->peer_port = names->peer == NULL ? names->port : 0;
  if (begin(state, self, loop, stream, protocol, server, Py_None) < 0)
    Py_CLEAR(self);
  return self;
}

/* The facts */

static PyObject *get_peername(PyObject *self, void *unused) {
  Part *part = part_of(self);

  (void) unused;
#ifdef HAVE_BARE_SOCKETS
  if (part->peername == NULL && part->peer_port != 0) {
    PyObject *name = server_name_peer(part->state, part->server, part->peer_host, part->peer_port);

    if (name == NULL)
      return NULL;
    Py_XSETREF(part->peername, name);
    part->peer_port = 0;
  }
#endif
  return part->peername != NULL ? Py_NewRef(part->peername) : PyErr_Format(PyExc_AttributeError, "something has taken the name away");
}

static int set_peername(PyObject *self, PyObject *name, void *unused) {
  (void) unused;
  part_of(self)->peer_port = 0;
  Py_XSETREF(part_of(self)->peername, Py_XNewRef(name));
  return 0;
}

PyGetSetDef connection_properties[] = {
  {"_own_context", get_own_context, set_own_context, NULL, NULL},
  {"_context", get_context, set_context, NULL, NULL},
  {"_peername", get_peername, set_peername, NULL, NULL},
  {NULL, NULL, NULL, NULL, NULL},
};

/* (name, default=None): a fact, in the usual case that there are two and nobody wants the socket. */
static PyObject *get_extra_info(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
  const Part *part = part_of(self);
  State *state = part->state;
  PyObject *method, *result;

  if (part->facts == Py_None && part->sockname != NULL && (part->peername != NULL || part->peer_port != 0) && kwnames == NULL &&
      (nargs == 1 || nargs == 2) && PyUnicode_CheckExact(args[0]) && PyUnicode_CompareWithASCIIString(args[0], "socket") != 0) {
    if (PyUnicode_Compare(args[0], state->str_peername) == 0)
      return get_peername(self, NULL);
    if (PyUnicode_Compare(args[0], state->str_sockname) == 0)
      return Py_NewRef(part->sockname);
    return Py_NewRef(nargs == 2 ? args[1] : Py_None);
  }
  method = get_pure(self, state->str_get_extra_info);
  result = method != NULL ? PyObject_Vectorcall(method, args, (size_t) nargs, kwnames) : NULL;
  Py_XDECREF(method);
  return result;
}

/* Has libuv tell of what arrives in the way that suits the protocol. */
int connection_receive(State *state, PyObject *self) {
  Part *part = part_of(self);
  int status = -1;

  if (!is_held(part) && is_tcp(state, part->stream) && tcp_handle(part->stream) != NULL) {
    status = tcp_read_start(state, part->stream, part->buffered, self);
    if (status == 0)
      part->way = part->buffered ? FILL : DELIVER;
  }
  if (status > 0)
    return -1;
  /* What has failed does so there as well, and is told. */
  return status == 0 ? 0 : tell(call_pure(self, state->str_receive));
}

static PyObject *receive_from_python(PyObject *self, PyObject *unused) {
  (void) unused;
  if (connection_receive(part_of(self)->state, self) < 0)
    return NULL;
  Py_RETURN_NONE;
}

static PyObject *start_reading(PyObject *self, PyObject *unused) {
  Part *part = part_of(self);

  (void) unused;
  if (is_held(part))
    return call_pure(self, part->state->str_start_reading);
  if (part->closing || part->paused || part->reading)
    Py_RETURN_NONE;
  part->reading = 1;
  if (part->context != NULL && context_is_blank(part->context, 1)) {
    context_give(part->state, part->context);
    part->context = NULL;
  }
  if (connection_receive(part->state, self) < 0)
    return NULL;
  Py_RETURN_NONE;
}

/* What programs do for every message that they have taken, whether it was paused or not. */
static PyObject *resume_reading(PyObject *self, PyObject *unused) {
  Part *part = part_of(self);

  (void) unused;
  if (part->closing || !part->paused)
    Py_RETURN_NONE;
  return call_pure(self, part->state->str_resume_reading);
}

/* The end */

static PyObject *is_closing(PyObject *self, PyObject *unused) {
  (void) unused;
  return PyBool_FromLong(LOAD(part_of(self)->closing));
}

/* Runs a call in the connection's context, or in a copy when the protocol runs the loop from inside of that one. */
static PyObject *call_inside(PyObject *self, PyObject *callback, PyObject *const *args, Py_ssize_t nargs) {
  State *state = part_of(self)->state;
  PyObject *context, *result;
  int was_blank;

  if (connection_enter(state, self, &context, &was_blank) < 0) {
    PyErr_Clear();
    was_blank = 0;
    context = part_of(self)->context != NULL ? PyContext_Copy(part_of(self)->context) : PyContext_New();
    if (context == NULL || PyContext_Enter(context) < 0) {
      Py_XDECREF(context);
      return NULL;
    }
  }
  result = PyObject_Vectorcall(callback, args, (size_t) nargs, NULL);
  if (connection_leave(state, self, context, was_blank) < 0)
    Py_CLEAR(result);
  return result;
}

static PyObject *enter(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
  PyObject *result;

  if (nargs < 1)
    return PyErr_Format(PyExc_TypeError, "_enter() wants a callback");
  result = call_inside(self, args[0], args + 1, nargs - 1);
  if (result == NULL)
    return NULL;
  Py_DECREF(result);
  Py_RETURN_NONE;
}

/* `ended`: nothing can come any more. */
static int stop_reading(State *state, PyObject *self, int ended) {
  Part *part = part_of(self);

  /* What is still to come is kept, for whoever only pauses. */
  if ((!part->closing && !ended) || !is_tcp(state, part->stream))
    return tell(call_pure(self, state->str_stop_reading));
  if (!part->reading)
    return 0;
  part->reading = 0;
  tcp_read_stop(state, part->stream);
  return 0;
}

static PyObject *stop_reading_from_python(PyObject *self, PyObject *unused) {
  (void) unused;
  if (stop_reading(part_of(self)->state, self, 0) < 0)
    return NULL;
  Py_RETURN_NONE;
}

/* Whether the loop runs, and in another thread than the caller's: see core.py. 0 without an exception where that cannot be told. */
static int is_elsewhere(State *state, PyObject *self) {
  PyObject *loop = SLOT(self, layout.transport_loop);
  PyObject *thread = loop != NULL ? PyObject_GetAttr(loop, state->str_thread_id) : NULL;
  int elsewhere = thread != NULL && PyLong_CheckExact(thread) && PyLong_AsUnsignedLong(thread) != PyThread_get_thread_ident();

  if (thread == NULL)
    PyErr_Clear();
  Py_XDECREF(thread);
  return elsewhere;
}

/* Sends what is queued, then closes. */
static int close_connection(State *state, PyObject *self) {
  Part *part = part_of(self);
  PyObject *lost;
  int status;

  if (LOAD(part->closing))
    return 0;
  if (is_elsewhere(state, self))
    return tell(call_pure(self, state->str_close));
  STORE(part->closing, 1); /* is_closing() may be asked in any thread */
  if (stream_flush(state, self) < 0)
    return -1;
  if (!part->writing && !part->conn_lost) {
    part->conn_lost++;
    lost = PyObject_GetAttr(self, state->str_call_connection_lost);
    status = lost != NULL ? call_soon(state, self, state->str_enter, lost, Py_None) : -1;
    Py_XDECREF(lost);
    if (status < 0) {
      part->conn_lost--;
      STORE(part->closing, 0); /* whoever is told of this can close it again */
      return -1;
    }
  }
  if (stop_reading(state, self, 0) < 0)
    return -1;
  if (is_held(part))
    PyList_SetSlice(part->held, 0, PyList_GET_SIZE(part->held), NULL); /* all of it, which cannot fail */
  return 0;
}

static PyObject *close_from_python(PyObject *self, PyObject *unused) {
  (void) unused;
  if (close_connection(part_of(self)->state, self) < 0)
    return NULL;
  Py_RETURN_NONE;
}

/* Tells the protocol that nothing more is to be read, and does what it wants then. */
int connection_read_end(State *state, PyObject *self) {
  Part *part = part_of(self);
  EventLoop *loop = loop_of(state, self);
  PyObject *protocol, *result;
  int keep_open;

  /* A write in flight may have met the reason for it. */
  if (loop == NULL || loop->debug != Py_False || part->protocol == NULL || part->writing)
    return tell(PyObject_CallMethod(self, "_on_read_end", "i", (int) state->eof));
  protocol = Py_NewRef(part->protocol);
  result = PyObject_CallMethodNoArgs(protocol, state->str_eof_received);
  Py_DECREF(protocol);
  if (result == NULL) {
    if (is_let_through()) {
      PyObject *exception = take_exception();

      /* Nobody has dealt with it: let it come again in the next run. */
      if (part->reading && connection_receive(state, self) < 0)
        PyErr_WriteUnraisable(self);
      restore_exception(exception);
      return -1;
    }
    return stream_fatal(self, "Fatal error: protocol.eof_received() call failed.");
  }
  keep_open = PyObject_IsTrue(result);
  Py_DECREF(result);
  if (keep_open < 0)
    return stream_fatal(self, "Fatal error: protocol.eof_received() call failed.");
  /* Kept open, the protocol may go on writing; there is nothing left to read, for the next protocol neither. */
  return keep_open ? stop_reading(state, self, 1) : close_connection(state, self);
}

/* Keeps the exception of a step, if it is the first: the next step is taken all the same. */
static void note(PyObject *self, int status, PyObject **failure) {
  if (status < 0 && *failure == NULL)
    *failure = take_exception();
  else if (status < 0)
    PyErr_WriteUnraisable(self);
}

static PyObject *call_connection_lost(PyObject *self, PyObject *exc) {
  Part *part = part_of(self);
  State *state = part->state;
  PyObject *server, *failure = NULL;

  if (part->protocol_connected && part->protocol != NULL) {
    PyObject *protocol = Py_NewRef(part->protocol);

    note(self, tell(PyObject_CallMethodOneArg(protocol, state->str_connection_lost, exc)), &failure);
    Py_DECREF(protocol);
  }
  if (part->empty_waiter != NULL && part->empty_waiter != Py_None)
    note(self, tell(PyObject_CallMethod(self, "_fail_empty_waiter", NULL)), &failure);
  if (is_tcp(state, part->stream)) {
    PyObject *stream = Py_NewRef(part->stream);

    part->writing = 0;
    note(self, tcp_close(state, stream), &failure);
    Py_DECREF(stream);
  } else {
    note(self, tell(PyObject_CallMethod(self, "_close_stream", NULL)), &failure);
  }
  part->ended = 1;
  Py_XSETREF(part->protocol, Py_NewRef(Py_None));
  server = part->server;
  part->server = Py_NewRef(Py_None);
  if (server != NULL && server != Py_None)
    note(self, server_detach(state, server), &failure);
  Py_XDECREF(server);
  if (failure != NULL) {
    restore_exception(failure);
    return NULL;
  }
  Py_RETURN_NONE;
}

/* What goes without an end is Python's to complain of; all others, whose end has come, go without a word. */
void connection_finalize(PyObject *self) {
  PyObject *exception, *method;

  if (part_of(self)->ended)
    return;
  exception = PyErr_Occurred() ? take_exception() : NULL;
  method = get_pure(self, part_of(self)->state->str_del);
  if (method == NULL || tell(PyObject_CallNoArgs(method)) < 0) {
    PyObject *function = method != NULL && PyMethod_Check(method) ? PyMethod_GET_FUNCTION(method) : Py_None;

    /* In the interpreter's words. */
#if PY_VERSION_HEX >= 0x030e0000
    PyErr_FormatUnraisable("Exception ignored while calling deallocator %R", function);
#else
    PyErr_WriteUnraisable(function);
#endif
  }
  Py_XDECREF(method);
  if (exception != NULL)
    restore_exception(exception);
}

#define FUNCTION(f) ((PyCFunction) (void (*)(void)) (f))

PyMethodDef connection_methods[CONNECTION_METHODS] = {
  {"_receive", receive_from_python, METH_NOARGS, NULL},
  {"_start_reading", start_reading, METH_NOARGS, NULL},
  {"_stop_reading", stop_reading_from_python, METH_NOARGS, NULL},
  {"_enter", FUNCTION(enter), METH_FASTCALL, NULL},
  {"_call_connection_lost", call_connection_lost, METH_O, NULL},
  {"get_extra_info", FUNCTION(get_extra_info), METH_FASTCALL | METH_KEYWORDS,
   "get_extra_info($self, name, default=None)\n--\n\nReturn a fact about the connection, or `default`."},
  {"is_closing", is_closing, METH_NOARGS, "is_closing($self, /)\n--\n\nReturn whether it is closed, or about to be."},
  {"resume_reading", resume_reading, METH_NOARGS, "resume_reading($self, /)\n--\n\nDeliver again, what was kept first."},
  {"close", close_from_python, METH_NOARGS, "close($self, /)\n--\n\nSend what is queued, then close."},
};

#endif
