/* A TCP handle in C, `uv.Tcp`: opened, watched and closed without CFFI's crossings, of which a connection has one for each. What it does
 * beside that is the Python class's, which asks for the pointer (`_c`) and gets one that CFFI knows.
 */
#include "accelerator.h"

#ifndef _WIN32

/* The part of the object behind the slots of the Python class. */
typedef struct {
  uv_handle_t *handle;  /* NULL when it is closed */
  PyObject *receiver;   /* who gets what is read, or NULL: an entry among the queue's callbacks would be 80 bytes for each connection */
} Own;

static inline Own *own_of(PyObject *tcp) {
  return (Own *) ((char *) tcp + layout.tcp_offset);
}

int is_tcp(const State *state, PyObject *stream) {
  return stream != NULL && Py_TYPE(stream) == state->tcp_type;
}

uv_handle_t *tcp_handle(PyObject *tcp) {
  return own_of(tcp)->handle;
}

/* The completion queue that it belongs to, NULL when somebody has taken that away. */
static Queue *queue_of(State *state, PyObject *tcp) {
  PyObject *loop = SLOT(tcp, layout.tcp_loop);

  return loop != NULL && PyObject_TypeCheck(loop, state->queue_type) ? (Queue *) loop : NULL;
}

/* The key of its records of one kind, a new reference. */
static PyObject *key_of(PyObject *tcp, int kind) {
  PyObject *token = SLOT(tcp, layout.tcp_token);
  long long number = token != NULL ? PyLong_AsLongLong(token) : -1;

  if (number == -1)
    return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "the Tcp was not opened");
  return PyLong_FromLongLong((long long) ((unsigned long long) number << FFLOOP_KIND_BITS) | kind);
}

/* Removes what a dictionary may have under a key. Takes the reference to the key, NULL for the exception that making it has set. */
static int discard(PyObject *dict, PyObject *key) {
  int there = key != NULL ? PyDict_Contains(dict, key) : -1;

  if (there > 0)
    there = PyDict_DelItem(dict, key);
  Py_XDECREF(key);
  return there < 0 ? -1 : 0;
}

/* Has `receiver` get what arrives, or learn of it where it is to stay in the kernel; what is there already, in the next turn. Returns 0, libuv's
 * error, or 1 with an exception. */
int tcp_read_start(State *state, PyObject *tcp, int only_watch, PyObject *receiver) {
  Queue *queue = queue_of(state, tcp);
  int status;

  if (own_of(tcp)->handle == NULL) {
    PyErr_SetString(PyExc_ValueError, "the Tcp is closed");
    return 1;
  }
  status = state->api->read_start(own_of(tcp)->handle, only_watch);
  if (status < 0)
    return status;
  if (queue != NULL)
    queue->may_skip = 0;
  Py_XSETREF(own_of(tcp)->receiver, Py_NewRef(receiver));
  return 0;
}

/* Reads no more, and drops what has come already. */
void tcp_read_stop(State *state, PyObject *tcp) {
  if (own_of(tcp)->handle == NULL)
    return;
  state->api->read_stop(own_of(tcp)->handle);
  Py_CLEAR(own_of(tcp)->receiver);
}

PyObject *tcp_receiver(State *state, Queue *queue, int64_t token) {
  PyObject *number = PyLong_FromLongLong(token), *tcp, *receiver;

  if (number == NULL)
    return NULL;
  tcp = queue->handles != NULL ? dict_get(queue->handles, number) : NULL;
  Py_DECREF(number);
  receiver = is_tcp(state, tcp) ? Py_XNewRef(own_of(tcp)->receiver) : NULL;
  Py_XDECREF(tcp);
  return receiver;
}

/* Closes the handle, once. The caller holds a reference. */
int tcp_close(State *state, PyObject *tcp) {
  uv_handle_t *handle = own_of(tcp)->handle;
  Queue *queue = queue_of(state, tcp);
  PyObject *on_close, *failure = NULL;
  int status = 0;

  if (handle == NULL)
    return 0;
  on_close = Py_XNewRef(SLOT(tcp, layout.tcp_on_close));
  own_of(tcp)->handle = NULL;
  Py_CLEAR(SLOT(tcp, layout.tcp_c));
  if (queue != NULL) {
    PyObject *token = SLOT(tcp, layout.tcp_token);

    if ((queue->handles != NULL && discard(queue->handles, Py_XNewRef(token)) < 0) || discard(queue->callbacks, key_of(tcp, FFLOOP_WRITE)) < 0)
      failure = take_exception(); /* for want of memory: the descriptor has its end all the same */
  }
  Py_CLEAR(own_of(tcp)->receiver);
  if (on_close != NULL && on_close != Py_None)
    status = tell(PyObject_CallNoArgs(on_close));
  Py_XDECREF(on_close);
  if (failure != NULL) {
    if (status < 0)
      PyErr_WriteUnraisable(tcp);
    restore_exception(failure);
    status = -1;
  }
  Py_XSETREF(SLOT(tcp, layout.fd), PyLong_FromLong(-1)); /* somebody else's from here on */
  /* A socket that lingers is closed only when its peer has all. */
  Py_BEGIN_ALLOW_THREADS
  state->api->handle_close(handle);
  Py_END_ALLOW_THREADS
  return status;
}

static State *state_of(PyObject *tcp) {
  PyObject *module = PyType_GetModuleByDef(Py_TYPE(tcp), &speed_module);

  return module != NULL ? PyModule_GetState(module) : NULL;
}

/* Raises the OSError for a status of libuv's. */
static void set_error(State *state, int status) {
  PyObject *error = PyObject_CallFunction(state->os_error, "i", status);

  if (error != NULL)
    PyErr_SetObject((PyObject *) Py_TYPE(error), error);
  Py_XDECREF(error);
}

/* Opens `tcp`, a new one, on a descriptor. */
static int open_on(State *state, PyObject *tcp, Queue *queue, long long number, int nodelay) {
  PyObject *token = queue->new_token != NULL ? PyObject_CallNoArgs(queue->new_token) : NULL, *fd;
  uv_handle_t *handle;
  int error = 0;
  long long token_number;

  /* Only now: Python code could run until here, and close the loop. */
  if (own_of(tcp)->handle != NULL || queue->loop == NULL || queue->handles == NULL) {
    Py_XDECREF(token);
    PyErr_SetString(PyExc_ValueError, own_of(tcp)->handle != NULL ? "the Tcp is open" : "the loop is closed");
    return -1;
  }
  if (token == NULL)
    return -1;
  token_number = PyLong_AsLongLong(token);
  /* A descriptor as Python has it: not the object that it was given, which may be a subclass of int. */
  fd = PyLong_FromLongLong(number);
  if ((token_number == -1 && PyErr_Occurred()) || fd == NULL) {
    Py_DECREF(token);
    Py_XDECREF(fd);
    return -1;
  }
  Py_XSETREF(SLOT(tcp, layout.tcp_token), token);
  Py_XSETREF(SLOT(tcp, layout.tcp_loop), Py_NewRef(queue));
  Py_XSETREF(SLOT(tcp, layout.fd), fd);
  Py_XSETREF(SLOT(tcp, layout.tcp_on_close), Py_NewRef(Py_None));
  /* First the loop gets to know it, which may fail for want of memory; then it owns the descriptor, which it may only if all is well. */
  if (PyDict_SetItem(queue->handles, token, tcp) < 0)
    return -1;
  handle = state->api->tcp_open(queue->loop, token_number, number, nodelay, &error);
  if (handle == NULL) {
    if (discard(queue->handles, Py_NewRef(token)) == 0)
      set_error(state, error);
    return -1;
  }
  own_of(tcp)->handle = handle;
  return 0;
}

static int init(PyObject *tcp, PyObject *args, PyObject *kwargs) {
  static char *names[] = {"loop", "fd", "nodelay", NULL};
  State *state = state_of(tcp);
  PyObject *loop, *fd;
  int nodelay = 0;
  long long number;

  if (state == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O!O|p:Tcp", names, state->queue_type, &loop, &fd, &nodelay))
    return -1;
  number = PyLong_AsLongLong(fd);
  if (number == -1 && PyErr_Occurred())
    return -1;
  return open_on(state, tcp, (Queue *) loop, number, nodelay);
}

PyObject *tcp_new(State *state, Queue *queue, int fd, int nodelay) {
  PyObject *tcp = state->tcp_type->tp_alloc(state->tcp_type, 0);

  if (tcp != NULL && open_on(state, tcp, queue, fd, nodelay) < 0)
    Py_CLEAR(tcp);
  return tcp;
}

static PyObject *new_tcp(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  (void) args;
  (void) kwargs;
  return type->tp_alloc(type, 0);
}

static PyObject *close_from_python(PyObject *tcp, PyObject *unused) {
  State *state = state_of(tcp);

  (void) unused;
  if (state == NULL || tcp_close(state, tcp) < 0)
    return NULL;
  Py_RETURN_NONE;
}

static PyObject *get_closed(PyObject *tcp, void *unused) {
  (void) unused;
  return PyBool_FromLong(own_of(tcp)->handle == NULL);
}

/* The pointer as CFFI knows it, made when it is first asked for: most connections come and go without. */
static PyObject *get_pointer(PyObject *tcp, void *unused) {
  PyObject **cached = &SLOT(tcp, layout.tcp_c);
  State *state = state_of(tcp);

  (void) unused;
  if (state == NULL)
    return NULL;
  if (own_of(tcp)->handle == NULL)
    Py_RETURN_NONE;
  if (*cached == NULL) {
    PyObject *address = PyLong_FromVoidPtr(own_of(tcp)->handle);
    PyObject *pointer = address != NULL ? PyObject_CallOneArg(state->pointer_to, address) : NULL;

    Py_XDECREF(address);
    if (pointer == NULL)
      return NULL;
    Py_XSETREF(*cached, pointer);
  }
  return Py_NewRef(*cached);
}

/* None, for a handle that is lost with its loop, in a forked child: it is touched no more. */
static int set_pointer(PyObject *tcp, PyObject *value, void *unused) {
  (void) unused;
  if (value != Py_None) {
    PyErr_SetString(PyExc_TypeError, "a handle's pointer can only be given up");
    return -1;
  }
  own_of(tcp)->handle = NULL;
  Py_CLEAR(own_of(tcp)->receiver);
  Py_CLEAR(SLOT(tcp, layout.tcp_c));
  return 0;
}

/* (kind, callback): who gets the records of a kind from now on. */
static PyObject *listen_from_python(PyObject *tcp, PyObject *const *args, Py_ssize_t nargs) {
  State *state = state_of(tcp);
  Queue *queue = state != NULL ? queue_of(state, tcp) : NULL;
  long kind = nargs == 2 ? PyLong_AsLong(args[0]) : -1;

  if (kind == FFLOOP_READ) {
    if (own_of(tcp)->handle != NULL)
      Py_XSETREF(own_of(tcp)->receiver, Py_NewRef(args[1]));
  } else if (queue != NULL && nargs == 2 && (kind != -1 || !PyErr_Occurred())) {
    PyObject *key = key_of(tcp, (int) kind);
    int status = key != NULL ? PyDict_SetItem(queue->callbacks, key, args[1]) : -1;

    Py_XDECREF(key);
    if (status < 0)
      return NULL;
  } else {
    return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "_listen() wants a kind of records and a callback, for an open Tcp");
  }
  Py_RETURN_NONE;
}

/* (kind): nobody gets them any more. */
static PyObject *ignore_from_python(PyObject *tcp, PyObject *which) {
  State *state = state_of(tcp);
  Queue *queue = state != NULL ? queue_of(state, tcp) : NULL;
  long kind = PyLong_AsLong(which);

  if (kind == -1 && PyErr_Occurred())
    return NULL;
  if (kind == FFLOOP_READ)
    Py_CLEAR(own_of(tcp)->receiver);
  else if (queue != NULL && discard(queue->callbacks, key_of(tcp, (int) kind)) < 0)
    return NULL;
  Py_RETURN_NONE;
}

/* The slots of the Python classes are this type's to visit and to clear: the interpreter leaves them to the first type that is not Python's. */
static int traverse(PyObject *tcp, visitproc visit, void *arg) {
  int i;

  Py_VISIT(Py_TYPE(tcp));
  Py_VISIT(own_of(tcp)->receiver);
  for (i = 0; i < layout.tcp_slot_count; i++)
    Py_VISIT(SLOT(tcp, layout.tcp_slots[i]));
  return 0;
}

static int clear(PyObject *tcp) {
  int i;

  Py_CLEAR(own_of(tcp)->receiver);
  for (i = 0; i < layout.tcp_slot_count; i++)
    Py_CLEAR(SLOT(tcp, layout.tcp_slots[i]));
  return 0;
}

static void dealloc(PyObject *tcp) {
  PyTypeObject *type = Py_TYPE(tcp);

  PyObject_GC_UnTrack(tcp);
  clear(tcp);
  type->tp_free(tcp);
  Py_DECREF(type);
}

static PyMethodDef methods[] = {
  {"close", close_from_python, METH_NOARGS, "close($self, /)\n--\n\nClose the handle and what it owns, at once."},
  {"_listen", (PyCFunction) (void (*)(void)) listen_from_python, METH_FASTCALL, NULL},
  {"_ignore", ignore_from_python, METH_O, NULL},
  {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
  {"closed", get_closed, NULL, "Whether `close()` was called.", NULL},
  {"_c", get_pointer, set_pointer, NULL, NULL},
  {NULL, NULL, NULL, NULL, NULL},
};

static int find_layout(PyTypeObject *base) {
  const struct {
    Py_ssize_t *offset;
    const char *name;
  } wanted[] = {
    {&layout.tcp_c, "_c"}, {&layout.tcp_loop, "_loop"}, {&layout.tcp_token, "_token"}, {&layout.tcp_on_close, "on_close"},
  };
  size_t i;

  for (i = 0; i < sizeof wanted / sizeof *wanted; i++) {
    *wanted[i].offset = slot_offset(base, wanted[i].name);
    if (*wanted[i].offset < 0)
      return -1;
  }
  layout.tcp_offset = base->tp_basicsize;
  return find_slots(base, layout.tcp_slots, &layout.tcp_slot_count);
}

/* Makes the type, a subclass of `uv.Tcp`. */
int tcp_add_type(PyObject *module, State *state) {
  PyType_Slot slots[] = {
    {Py_tp_doc, "A stream on a connected socket."},
    {Py_tp_new, new_tcp},
    {Py_tp_init, init},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_dealloc, dealloc},
    {0, NULL},
  };
  PyType_Spec spec = {"ffloop._speed.Tcp", 0, 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
  PyObject *base = import_from("ffloop.uv", "Tcp"), *type = NULL;

  state->os_error = import_from("ffloop.uv", "os_error");
  state->pointer_to = import_from("ffloop.uv.handle", "pointer_to");
  if (base != NULL && state->os_error != NULL && state->pointer_to != NULL && find_layout((PyTypeObject *) base) == 0) {
    spec.basicsize = (int) (layout.tcp_offset + (Py_ssize_t) sizeof(Own));
    type = PyType_FromModuleAndSpec(module, &spec, base);
  }
  Py_XDECREF(base);
  state->tcp_type = (PyTypeObject *) type;
  return type != NULL ? PyModule_AddType(module, (PyTypeObject *) type) : -1;
}

#else

/* Streams are transports.py's alone there. */
int tcp_add_type(PyObject *module, State *state) {
  (void) module;
  (void) state;
  return 0;
}

#endif
