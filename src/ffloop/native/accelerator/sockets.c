/* Three calls on sockets that the socket module makes with more than is needed.
 *
 * Accepting, for server.c, and connecting: the descriptor and both names in one call, where Python makes an object first, which is only
 * taken apart.
 * Receiving: "nothing yet" is an answer here, and no exception; it is the first one that each wait begins with.
 */
#include "accelerator.h"

#ifndef _WIN32

#include <errno.h>
#include <sys/socket.h>
#include <sys/types.h>

enum { WITH_THE_GIL = 64 * 1024 }; /* bytes that are copied before another thread gets its turn */

/* (fd, size) -> bytes, b"" at the end; None when there is nothing yet. The GIL is kept for small sizes: this never waits. */
static PyObject *receive(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  PyObject *data;
  Py_ssize_t size;
  ssize_t got;
  long fd;

  (void) module;
  if (nargs != 2) {
    PyErr_SetString(PyExc_TypeError, "receive() takes a descriptor and a size");
    return NULL;
  }
  fd = PyLong_AsLong(args[0]);
  if (fd == -1 && PyErr_Occurred())
    return NULL;
  size = PyNumber_AsSsize_t(args[1], PyExc_OverflowError);
  if (size == -1 && PyErr_Occurred())
    return NULL;
  if (size < 0) {
    PyErr_SetString(PyExc_ValueError, "negative buffersize in recv");
    return NULL;
  }
  data = PyBytes_FromStringAndSize(NULL, size);
  if (data == NULL || size == 0) /* nothing wanted: the socket module asks nobody, and a datagram stays where it is */
    return data;
  do {
    if (PyErr_CheckSignals() < 0) {
      Py_DECREF(data);
      return NULL;
    }
    if (size <= WITH_THE_GIL) {
      got = recv((int) fd, PyBytes_AS_STRING(data), (size_t) size, MSG_DONTWAIT);
    } else {
      Py_BEGIN_ALLOW_THREADS;
      got = recv((int) fd, PyBytes_AS_STRING(data), (size_t) size, MSG_DONTWAIT);
      Py_END_ALLOW_THREADS;
    }
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    int error = errno;

    Py_DECREF(data);
    if (error == EAGAIN || error == EWOULDBLOCK)
      Py_RETURN_NONE;
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
  }
  if (got < size)
    _PyBytes_Resize(&data, got); /* leaves NULL and an exception when it fails */
  return data;
}

#define RECEIVE                                                                                                                      \
  {"receive", (PyCFunction) (void (*)(void)) receive, METH_FASTCALL,                                                                 \
   "receive($module, fd, size, /)\n--\n\nReceive up to size bytes, b\"\" at the end; None if there is nothing yet."},
#else
#define RECEIVE
#endif

#ifdef HAVE_BARE_SOCKETS

#include <arpa/inet.h>
#include <unistd.h>

/* What a Unix socket is bound to. */
static PyObject *path_name(const Address *address) {
  const char *path = address->path.sun_path;
  size_t before = offsetof(struct sockaddr_un, sun_path), size = address->length > before ? address->length - before : 0;

#ifdef __linux__
  if (size > 0 && path[0] == 0)
    return PyBytes_FromStringAndSize(path, (Py_ssize_t) size);
#endif
  return PyUnicode_DecodeFSDefaultAndSize(path, (Py_ssize_t) strnlen(path, size));
}

PyObject *socket_name(const Address *address, PyObject *host) {
  char text[INET6_ADDRSTRLEN];
  int family = address->any.sa_family;
  PyObject *made = NULL, *name;

  if (family == AF_UNIX)
    return path_name(address);
  if (family != AF_INET && family != AF_INET6)
    Py_RETURN_NONE;
  if (host == NULL) {
    if (inet_ntop(family, family == AF_INET ? (const void *) &address->ipv4.sin_addr : &address->ipv6.sin6_addr, text, sizeof text) == NULL)
      return PyErr_SetFromErrno(PyExc_OSError);
    host = made = PyUnicode_FromString(text);
    if (host == NULL)
      return NULL;
  }
  if (family == AF_INET)
    name = Py_BuildValue("(Oi)", host, (int) ntohs(address->ipv4.sin_port));
  else
    name = Py_BuildValue("(OiII)", host, (int) ntohs(address->ipv6.sin6_port), (unsigned) ntohl(address->ipv6.sin6_flowinfo),
                         (unsigned) address->ipv6.sin6_scope_id);
  Py_XDECREF(made);
  return name;
}

/* For a system call that fills it. */
static void make_room(Address *address) {
  memset(address, 0, sizeof *address);
  address->length = sizeof address->storage;
}

/* Asks the system for a name. Returns -1 where there is none, which is all zeros. */
static int ask(int fd, int (*call)(int, struct sockaddr *, socklen_t *), Address *address) {
  make_room(address);
  if (call(fd, &address->any, &address->length) == 0)
    return 0;
  memset(address, 0, sizeof *address);
  return -1;
}

/* The listening socket does not block, and neither does what is returned: the GIL is kept. */
int socket_accept(int listening, Address *own, Address *peer) {
  int accepted;

  do {
    if (PyErr_CheckSignals() < 0)
      return -1;
    make_room(peer);
    accepted = accept4(listening, &peer->any, &peer->length, SOCK_NONBLOCK | SOCK_CLOEXEC);
  } while (accepted < 0 && errno == EINTR);
  if (accepted < 0)
    PyErr_SetFromErrno(PyExc_OSError);
  else
    ask(accepted, getsockname, own); /* it may have gone already */
  return accepted;
}

/* Where a connection to a Unix socket goes. 0 or -1. */
static int parse_path(PyObject *name, Address *parsed) {
  PyObject *path = PyUnicode_Check(name) ? PyUnicode_EncodeFSDefault(name) : PyBytes_Check(name) ? Py_NewRef(name) : NULL;
  size_t size;

  if (path == NULL)
    return PyErr_Occurred() ? -1 : (PyErr_SetString(PyExc_TypeError, "a path is str or bytes"), -1);
  size = (size_t) PyBytes_GET_SIZE(path);
  /* A name that is none of a file needs no end. */
  if (size + (size > 0 && PyBytes_AS_STRING(path)[0] != 0) > sizeof parsed->path.sun_path) {
    Py_DECREF(path);
    PyErr_SetString(PyExc_OSError, "AF_UNIX path too long");
    return -1;
  }
  parsed->path.sun_family = AF_UNIX;
  memcpy(parsed->path.sun_path, PyBytes_AS_STRING(path), size);
  parsed->length = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + size);
  Py_DECREF(path);
  return 0;
}

/* Where a connection goes: what the socket module reads out of the address of a literal, or of a Unix socket. 0 or -1. */
static int parse_address(long family, PyObject *address, Address *parsed) {
  const char *host;
  int port;
  unsigned flow = 0, scope = 0;

  memset(parsed, 0, sizeof *parsed);
  if (family == AF_UNIX)
    return parse_path(address, parsed);
  if (!PyTuple_Check(address)) {
    PyErr_SetString(PyExc_TypeError, "an address is a tuple");
    return -1;
  }
  if (!PyArg_ParseTuple(address, "si|II", &host, &port, &flow, &scope))
    return -1;
  if (port >= 0 && port <= 0xffff) {
    if (family == AF_INET && inet_pton(AF_INET, host, &parsed->ipv4.sin_addr) == 1) {
      parsed->ipv4.sin_family = AF_INET;
      parsed->ipv4.sin_port = htons((uint16_t) port);
      parsed->length = sizeof parsed->ipv4;
      return 0;
    }
    if (family == AF_INET6 && inet_pton(AF_INET6, host, &parsed->ipv6.sin6_addr) == 1) {
      parsed->ipv6.sin6_family = AF_INET6;
      parsed->ipv6.sin6_port = htons((uint16_t) port);
      parsed->ipv6.sin6_flowinfo = htonl(flow);
      parsed->ipv6.sin6_scope_id = scope;
      parsed->length = sizeof parsed->ipv6;
      return 0;
    }
  }
  PyErr_SetString(PyExc_ValueError, "not the address of a literal");
  return -1;
}

/* A new socket, and the object on it, which nobody but an audit hook asks for. */
typedef struct {
  int fd;
  PyObject *const *parts; /* family, kind, proto */
  PyObject *object;
} Audited;

/* For Py_BuildValue: a new reference. */
static PyObject *as_object(void *of) {
  Audited *audited = of;
  PyObject *type = import_from("socket", "SocketType");

  if (type != NULL)
    audited->object = PyObject_CallFunction(type, "OOOi", audited->parts[0], audited->parts[1], audited->parts[2],
                                            audited->fd);
  Py_XDECREF(type);
  return Py_XNewRef(audited->object);
}

/* Tells audit hooks what the socket module tells them. They get the socket: *fd is -1 when one has taken the descriptor away. */
static int audit(int *fd, PyObject *const *parts) {
  Audited audited = {*fd, parts, NULL};
  int status = PySys_Audit("socket.connect", "O&O", as_object, &audited, parts[4]);

  if (audited.object != NULL) {
    PyObject *exception = status < 0 ? take_exception() : NULL;
    PyObject *left = PyObject_CallMethod(audited.object, "detach", NULL);

    *fd = left != NULL ? (int) PyLong_AsLong(left) : -1;
    Py_XDECREF(left);
    Py_DECREF(audited.object);
    if (PyErr_Occurred()) /* of detach(), which has no reason to */
      status = -1;
    if (exception != NULL)
      restore_exception(exception);
  }
  return status;
}

/* The own name of a connection to `peer`, whose name is `address`: most have the same host, and share it. */
static PyObject *own_name_of(const Address *own, const Address *peer, PyObject *address) {
  int same = own->any.sa_family == AF_INET && own->ipv4.sin_addr.s_addr == peer->ipv4.sin_addr.s_addr;

  return socket_name(own, same ? PyTuple_GET_ITEM(address, 0) : NULL);
}

/* (list, what getaddrinfo() says of a literal, or would say of a path) -> (own name, peer's name), which are None for as long as nobody has
 * answered. The descriptor is put into the list: a signal's handler that raises when this returns would lose it. Nothing here waits: the GIL
 * is kept. */
PyObject *socket_connect(PyObject *owned, PyObject *info) {
  Address wanted, own, peer;
  long numbers[3];
  PyObject *own_name = NULL, *peer_name = NULL, *number, *result = NULL;
  PyObject *const *parts; /* family, kind, proto, canonical name, address */
  int fd, i;

  if (!PyList_CheckExact(owned) || !PyTuple_Check(info) || PyTuple_GET_SIZE(info) != 5) {
    PyErr_SetString(PyExc_TypeError, "connect() takes a list and what getaddrinfo() says");
    return NULL;
  }
  parts = ((PyTupleObject *) info)->ob_item;
  for (i = 0; i < 3; i++) {
    numbers[i] = PyLong_AsLong(parts[i]);
    if (numbers[i] == -1 && PyErr_Occurred())
      return NULL;
  }
  if (parse_address(numbers[0], parts[4], &wanted) < 0)
    return NULL;
  fd = socket((int) numbers[0], (int) numbers[1] | SOCK_NONBLOCK | SOCK_CLOEXEC, (int) numbers[2]);
  if (fd < 0)
    return PyErr_SetFromErrno(PyExc_OSError);
  if (audit(&fd, parts) < 0)
    goto failed;
  if (connect(fd, &wanted.any, wanted.length) != 0 && errno != EINPROGRESS && errno != EAGAIN && errno != EALREADY && errno != EINTR) {
    PyErr_SetFromErrno(PyExc_OSError);
    goto failed;
  }
  if (ask(fd, getpeername, &peer) < 0) {
    peer_name = Py_NewRef(Py_None);
    own_name = Py_NewRef(Py_None);
  } else {
    /* An IPv4 address has one notation, and is what it says it is, with the exception of 0.0.0.0. */
    int same = numbers[0] == AF_INET && peer.ipv4.sin_addr.s_addr == wanted.ipv4.sin_addr.s_addr;

    peer_name = same ? Py_NewRef(parts[4]) : socket_name(&peer, NULL);
    if (ask(fd, getsockname, &own) < 0)
      own_name = Py_NewRef(Py_None);
    else if (peer_name != NULL)
      own_name = same ? own_name_of(&own, &peer, peer_name) : socket_name(&own, NULL);
  }
  if (own_name != NULL && peer_name != NULL)
    result = PyTuple_Pack(2, own_name, peer_name);
  Py_XDECREF(own_name);
  Py_XDECREF(peer_name);
  number = result != NULL ? PyLong_FromLong(fd) : NULL;
  if (number != NULL && PyList_Append(owned, number) == 0) {
    Py_DECREF(number);
    return result;
  }
  Py_XDECREF(number);
  Py_XDECREF(result);
failed:
  if (fd >= 0)
    close(fd);
  return NULL;
}

static PyObject *connect_one(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
  (void) module;
  return nargs == 2 ? socket_connect(args[0], args[1]) : PyErr_Format(PyExc_TypeError, "connect() takes two arguments");
}

#define CONNECT                                                                                                                      \
  {"connect", (PyCFunction) (void (*)(void)) connect_one, METH_FASTCALL,                                                             \
   "connect($module, owned, info, /)\n--\n\nConnect a new socket: its descriptor, its own name, and its peer's."},
#else
#define CONNECT
#endif

PyMethodDef socket_functions[] = {CONNECT RECEIVE{NULL, NULL, 0, NULL}};
