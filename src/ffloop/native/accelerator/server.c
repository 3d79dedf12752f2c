/* The server, in front of `PureServer` (servers.py): what it does for each connection, which Python code would do in a hundred and fifty
 * steps. When to accept, and what becomes of errors, is Python's.
 */
#include "accelerator.h"

#ifdef HAVE_BARE_SOCKETS

#include <unistd.h>

typedef struct {
  PyObject_HEAD
  State *state;
  PyObject *module; /* keeps the state */
  PyObject *loop, *sockets, *protocol_factory, *context;
  Py_ssize_t active_count;
  /* Most connections came to one address, and behind a proxy from one: they share the objects (of IPv6 the former alone). */
  Address own; /* of the last connection, and what was made of that */
  PyObject *own_name;
  uint32_t host; /* of the peer whose name was asked for last, and its text */
  PyObject *host_text;
} Server;

/* Makes sure that the name of this end is that of `own`. */
static int name_own(Server *server, const Address *own) {
  PyObject *name;

  if (server->own_name != NULL && memcmp(own, &server->own, sizeof *own) == 0)
    return 0;
  name = socket_name(own, NULL);
  if (name == NULL)
    return -1;
  Py_XSETREF(server->own_name, name);
  server->own = *own;
  return 0;
}

PyObject *server_name_peer(State *state, PyObject *object, uint32_t host, uint16_t port) {
  Server *server = object != NULL && is_a(object, state->server_type) ? (Server *) object : NULL;
  PyObject *name;
  Address peer;

  memset(&peer, 0, sizeof peer);
  peer.ipv4.sin_family = AF_INET;
  peer.ipv4.sin_addr.s_addr = host;
  peer.ipv4.sin_port = port;
  Py_XINCREF(server);
  name = socket_name(&peer, server != NULL && server->host == host ? server->host_text : NULL);
  if (name != NULL && server != NULL) {
    Py_XSETREF(server->host_text, Py_NewRef(PyTuple_GET_ITEM(name, 0)));
    server->host = host;
  }
  Py_XDECREF(server);
  return name;
}

/* Serves a connection, inside of its context. *fd is -1 as soon as it is a stream's. *protocol: what the factory has made, if it has. */
static int serve(Server *server, int *fd, int nodelay, const Names *names, PyObject *context, PyObject **protocol) {
  State *state = server->state;
  PyObject *loop = Py_XNewRef(server->loop), *factory = Py_XNewRef(server->protocol_factory), *transport = NULL;

  if (loop == NULL || !is_loop(state, loop) || factory == NULL)
    PyErr_SetString(PyExc_RuntimeError, "something has taken the server's loop away");
  else
    transport = connection_open(state, (EventLoop *) loop, fd, nodelay, factory, names, (PyObject *) server, context, protocol);
  Py_XDECREF(loop);
  Py_XDECREF(factory);
  Py_XDECREF(transport);
  return transport != NULL ? 0 : -1;
}

/* (listening descriptor): accepts a connection, which has no TLS, and serves it in a context of its own. Raises what accept() does; what the
 * program's protocol raises costs the connection, and is told in debug mode. */
static PyObject *take_descriptor(Server *server, PyObject *listening) {
  Address own, peer;
  PyObject *context, *protocol = NULL, *exception;
  Names names = {NULL, NULL, 0, 0};
  long number = PyLong_AsLong(listening);
  int fd, status = -1;

  if (number == -1 && PyErr_Occurred())
    return NULL;
  fd = socket_accept((int) number, &own, &peer);
  if (fd < 0)
    return NULL;
  if (server->context == NULL || !PyContext_CheckExact(server->context)) {
    PyErr_SetString(PyExc_RuntimeError, "something has taken the server's context away");
    close(fd);
    return NULL;
  }
  context = PyContext_Copy(server->context);
  if (peer.any.sa_family == AF_INET) {
    names.host = peer.ipv4.sin_addr.s_addr;
    names.port = peer.ipv4.sin_port;
  }
  if (context != NULL && names.port == 0) /* of which somebody may send from, and which stands for no name */
    names.peer = socket_name(&peer, NULL);
  if (context == NULL || (names.peer == NULL && names.port == 0) || name_own(server, &own) < 0) {
    Py_XDECREF(context);
    Py_XDECREF(names.peer);
    close(fd);
    return NULL;
  }
  names.own = Py_NewRef(server->own_name); /* a factory may accept another connection */
  if (PyContext_Enter(context) == 0) {
    status = serve(server, &fd, peer.any.sa_family != AF_UNIX, &names, context, &protocol);
    if (PyContext_Exit(context) < 0)
      status = -1;
  }
  Py_DECREF(context);
  Py_DECREF(names.own);
  Py_XDECREF(names.peer);
  if (status < 0) {
    if (fd >= 0)
      close(fd);
    if (!is_let_through()) {
      exception = take_exception();
      status = tell(PyObject_CallMethodObjArgs((PyObject *) server, server->state->str_refused, exception,
                                               protocol != NULL ? protocol : Py_None, Py_None, NULL));
      Py_XDECREF(exception);
    }
  }
  Py_XDECREF(protocol);
  if (status < 0)
    return NULL;
  Py_RETURN_NONE;
}

static PyObject *attach(Server *server, PyObject *unused) {
  (void) unused;
  server->active_count++;
  Py_RETURN_NONE;
}

static int forget_one(Server *server) {
  server->active_count--;
  if (server->active_count != 0 || server->sockets != Py_None)
    return 0;
  return tell(PyObject_CallMethodNoArgs((PyObject *) server, server->state->str_wake_up));
}

static PyObject *detach(Server *server, PyObject *unused) {
  (void) unused;
  if (forget_one(server) < 0)
    return NULL;
  Py_RETURN_NONE;
}

int server_attach(State *state, PyObject *server) {
  if (!is_a(server, state->server_type))
    return tell(PyObject_CallMethodNoArgs(server, state->str_attach));
  ((Server *) server)->active_count++;
  return 0;
}

int server_detach(State *state, PyObject *server) {
  if (!is_a(server, state->server_type))
    return tell(PyObject_CallMethodNoArgs(server, state->str_detach));
  return forget_one((Server *) server);
}

static PyObject *new_server(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  PyObject *module = PyType_GetModuleByDef(type, &speed_module);
  Server *server;

  (void) args;
  (void) kwargs;
  server = module != NULL ? (Server *) type->tp_alloc(type, 0) : NULL;
  if (server != NULL) {
    server->module = Py_NewRef(module);
    server->state = PyModule_GetState(module);
  }
  return (PyObject *) server;
}

static int traverse(Server *server, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(server));
  Py_VISIT(server->module);
  Py_VISIT(server->loop);
  Py_VISIT(server->sockets);
  Py_VISIT(server->protocol_factory);
  Py_VISIT(server->context);
  return 0;
}

/* Every use checks for NULL what is cleared here. */
static int clear(Server *server) {
  Py_CLEAR(server->loop);
  Py_CLEAR(server->sockets);
  Py_CLEAR(server->protocol_factory);
  Py_CLEAR(server->context);
  return 0;
}

static void dealloc(Server *server) {
  PyTypeObject *type = Py_TYPE(server);

  PyObject_GC_UnTrack(server);
  clear(server);
  Py_CLEAR(server->own_name);
  Py_CLEAR(server->host_text);
  Py_CLEAR(server->module);
  type->tp_free(server);
  Py_DECREF(type);
}

static PyMethodDef methods[] = {
  {"_take_descriptor", (PyCFunction) take_descriptor, METH_O, NULL},
  {"_attach", (PyCFunction) attach, METH_NOARGS, NULL},
  {"_detach", (PyCFunction) detach, METH_NOARGS, NULL},
  {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
  {"_loop", T_OBJECT_EX, offsetof(Server, loop), 0, NULL},
  {"_sockets", T_OBJECT_EX, offsetof(Server, sockets), 0, NULL},
  {"_protocol_factory", T_OBJECT_EX, offsetof(Server, protocol_factory), 0, NULL},
  {"_context", T_OBJECT_EX, offsetof(Server, context), 0, NULL},
  {"_active_count", T_PYSSIZET, offsetof(Server, active_count), 0, NULL},
  {NULL, 0, 0, 0, NULL},
};

int server_add_type(PyObject *module, State *state) {
  static PyType_Slot slots[] = {
    {Py_tp_doc, "What of a server runs per connection."},
    {Py_tp_new, new_server},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_dealloc, dealloc},
    {0, NULL},
  };
  static PyType_Spec spec = {
    "ffloop._speed.Server", sizeof(Server), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots,
  };
  PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);

  state->server_type = (PyTypeObject *) type;
  return type != NULL ? PyModule_AddType(module, (PyTypeObject *) type) : -1;
}

#else

/* Servers are servers.py's alone. */
int server_add_type(PyObject *module, State *state) {
  (void) module;
  (void) state;
  return 0;
}

int server_attach(State *state, PyObject *server) {
  return tell(PyObject_CallMethodNoArgs(server, state->str_attach));
}

int server_detach(State *state, PyObject *server) {
  return tell(PyObject_CallMethodNoArgs(server, state->str_detach));
}

#endif
