/* How a descriptor becomes a connection without TLS, for a server that has accepted it (server.c), and for whoever has connected it
 * (connections.py): protocol, stream and transport in one call. Where the descriptor comes from is theirs.
 */
#include "accelerator.h"

#ifdef HAVE_BARE_SOCKETS

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

#endif
