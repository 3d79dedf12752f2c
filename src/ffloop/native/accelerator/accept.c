/* Accepting a connection of TCP's: the descriptor and both names in one call, where Python's socket module makes an object first, which asks
 * for the name once by itself.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* accept4 */
#endif
#include "accelerator.h"

#if defined(__linux__) || defined(__FreeBSD__)

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
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

PyMethodDef accept_functions[] = {
  {"accept", accept_one, METH_O,
   "accept($module, fd, /)\n--\n\nAccept a connection: its descriptor, its own name, and its peer's."},
  {NULL, NULL, 0, NULL},
};

#else

PyMethodDef accept_functions[] = {{NULL, NULL, 0, NULL}};

#endif
