/* Two calls on sockets that the socket module makes with more than is needed.
 *
 * Accepting: the descriptor and both names in one call, where Python makes an object first, which asks for the name once by itself.
 * Receiving: "nothing yet" is an answer here, and no exception; it is the first one that each wait begins with.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* accept4 */
#endif
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

#if defined(__linux__) || defined(__FreeBSD__)

#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>

typedef union {
  struct sockaddr any;
  struct sockaddr_in ipv4;
  struct sockaddr_in6 ipv6;
  struct sockaddr_storage storage;
} Address;

/* The address as the socket module has it: (host, port), of IPv6 with (flow, scope) behind. None for a family that is neither. */
static PyObject *address_of(const Address *address) {
  char host[INET6_ADDRSTRLEN];

  if (address->any.sa_family == AF_INET) {
    if (inet_ntop(AF_INET, &address->ipv4.sin_addr, host, sizeof host) == NULL)
      return PyErr_SetFromErrno(PyExc_OSError);
    return Py_BuildValue("(si)", host, (int) ntohs(address->ipv4.sin_port));
  }
  if (address->any.sa_family == AF_INET6) {
    if (inet_ntop(AF_INET6, &address->ipv6.sin6_addr, host, sizeof host) == NULL)
      return PyErr_SetFromErrno(PyExc_OSError);
    return Py_BuildValue("(siII)", host, (int) ntohs(address->ipv6.sin6_port), (unsigned) ntohl(address->ipv6.sin6_flowinfo),
                         (unsigned) address->ipv6.sin6_scope_id);
  }
  Py_RETURN_NONE;
}

/* (fd) -> (fd, own name, peer's name). The listening socket does not block, and neither does what is returned: the GIL is kept. */
static PyObject *accept_one(PyObject *module, PyObject *listening) {
  Address own, peer;
  socklen_t own_length = sizeof own, peer_length = sizeof peer;
  long fd = PyLong_AsLong(listening);
  PyObject *own_name, *peer_name, *result = NULL;
  int accepted;

  (void) module;
  if (fd == -1 && PyErr_Occurred())
    return NULL;
  do {
    if (PyErr_CheckSignals() < 0)
      return NULL;
    accepted = accept4((int) fd, &peer.any, &peer_length, SOCK_NONBLOCK | SOCK_CLOEXEC);
  } while (accepted < 0 && errno == EINTR);
  if (accepted < 0)
    return PyErr_SetFromErrno(PyExc_OSError);
  /* None for a connection that has gone already. */
  own_name = getsockname(accepted, &own.any, &own_length) == 0 ? address_of(&own) : Py_NewRef(Py_None);
  peer_name = own_name != NULL ? address_of(&peer) : NULL;
  if (peer_name != NULL)
    result = Py_BuildValue("(iOO)", accepted, own_name, peer_name);
  Py_XDECREF(own_name);
  Py_XDECREF(peer_name);
  if (result == NULL)
    close(accepted);
  return result;
}

#define ACCEPT                                                                                                                       \
  {"accept", accept_one, METH_O, "accept($module, fd, /)\n--\n\nAccept a connection: its descriptor, its own name, and its peer's."},
#else
#define ACCEPT
#endif

PyMethodDef socket_functions[] = {ACCEPT RECEIVE{NULL, NULL, 0, NULL}};
