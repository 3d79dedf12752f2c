/* The stream transport: what arrives, and how it gets to the protocol. What of that is rare is in stream_receiving.py.
 *
 * Bytes come in one of three ways: in the region, from which they are copied; into the protocol's own buffer; or, where much comes, into bytes
 * objects of their own. In the last two libuv only says that there is something, and it is read here.
 */
#include "accelerator.h"

#include <errno.h>
#ifndef _WIN32
#include <sys/socket.h>

#define READ_FAILED "Fatal read error on socket transport"

/* All of these as in stream_receiving.py. */
enum {
  LARGE = 32 * 1024,      /* above it bytes are read where they are to stay, */
  READ_SIZE = 120 * 1024, /* so many at a time */
  MUCH = 48 * 1024,       /* what is followed by more, MOST_READS a turn, for so many ns, in such pieces */
  MOST_READS = 16,
  NEXT_SIZE = 64 * 1024,
  LONGEST_READING = 500000
};

/* Calls a method of Python's for a record that is none of the common ones. */
static int deliver_in_python(PyObject *self, const char *method, int64_t nread, int64_t offset) {
  return tell(PyObject_CallMethod(self, method, "LL", (long long) nread, (long long) offset));
}

/* Ends the connection for the exception that is set: by a method of Python's. */
static int end_by(PyObject *self, const char *method) {
  PyObject *exception;
  int status;

  if (is_let_through())
    return -1;
  exception = take_exception();
  status = tell(PyObject_CallMethod(self, method, "(O)", exception));
  Py_XDECREF(exception);
  return status;
}

static int failed_delivery(PyObject *self) {
  return end_by(self, "_on_failed_delivery");
}

static int failed_read(PyObject *self) {
  return end_by(self, "_on_failed_read");
}

/* Tells the protocol of the end, in the connection's context. */
static int tell_end(State *state, PyObject *self) {
  PyObject *context;
  int was_blank, status;

  if (!part_of(self)->reading)
    return deliver_in_python(self, "_deliver_record", state->eof, 0);
  if (connection_enter(state, self, &context, &was_blank) < 0) {
    /* It runs the loop from inside of data_received(). */
    PyErr_Clear();
    status = tell(PyObject_CallMethod(self, "_set_aside", "iO", (int) state->eof, state->empty_bytes));
    return status < 0 ? failed_delivery(self) : 0;
  }
  status = connection_read_end(state, self);
  if (connection_leave(state, self, context, was_blank) < 0 || status < 0)
    status = failed_delivery(self);
  return status;
}

/* Gives the protocol `data`, in the connection's context. */
static int give(State *state, PyObject *self, PyObject *data) {
  PyObject *context, *protocol, *result;
  int was_blank, status = 0;

  if (connection_enter(state, self, &context, &was_blank) < 0) {
    /* It runs the loop from inside of data_received(). */
    PyErr_Clear();
    status = tell(PyObject_CallMethod(self, "_set_aside", "nO", PyBytes_GET_SIZE(data), data));
    return status < 0 ? failed_delivery(self) : 0;
  }
  protocol = Py_XNewRef(part_of(self)->protocol); /* which may close the connection */
  result = protocol != NULL ? PyObject_CallMethodOneArg(protocol, state->str_data_received, data) : NULL;
  if (protocol == NULL)
    PyErr_SetString(PyExc_AttributeError, "something has taken the protocol away");
  Py_XDECREF(protocol);
  Py_XDECREF(result);
  if (connection_leave(state, self, context, was_blank) < 0 || result == NULL)
    status = failed_delivery(self);
  return status;
}

/* Gives the protocol what lies in the region. */
static int deliver(State *state, PyObject *self, int64_t nread, int64_t offset) {
  const Part *part = part_of(self);
  const EventLoop *loop;
  PyObject *data;
  int status;

  if (nread == state->eof)
    return tell_end(state, self);
  loop = loop_of(state, self);
  if (nread <= 0 || loop == NULL || loop->queue == NULL || loop->queue->region == NULL || part->protocol == NULL || !part->reading)
    return deliver_in_python(self, "_deliver_record", nread, offset);
  if (nread > LARGE && tell(PyObject_CallMethod(self, "_expect_large", NULL)) < 0)
    return failed_delivery(self);
  data = PyBytes_FromStringAndSize(loop->queue->region + offset, (Py_ssize_t) nread);
  if (data == NULL)
    return failed_delivery(self); /* it is nowhere else: what comes next must not take its place */
  status = give(state, self, data);
  Py_DECREF(data);
  return status;
}

/* Reads what is there, `most` bytes at most. Returns how many those were, 0 at the end, -1 with the error in `errno`. */
static ssize_t read_some(Part *part, long fd, void *buffer, size_t most) {
  ssize_t nread;
  int error;

  /* A large buffer need not be filled: what came last time says whether it takes so long that the GIL is worth giving away. */
  if (most < RELEASE_AT || part->filled < RELEASE_AT) {
    nread = recv((int) fd, buffer, most, 0);
    error = errno;
  } else {
    Py_BEGIN_ALLOW_THREADS
    nread = recv((int) fd, buffer, most, 0);
    error = errno;
    Py_END_ALLOW_THREADS
  }
  if (nread >= 0)
    part->filled = nread;
  errno = error;
  return nread;
}

static int is_to_wait(int error) {
  return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

/* Reads `most` bytes into the protocol's buffer, inside of the connection's context. Returns how many that was, if any have come and the
 * protocol has taken them, else 0; -1 with an exception. *is_all: whether there was room for more. *until: how long reading may go on, set
 * if it is 0 and much has come. */
static ssize_t fill(State *state, PyObject *self, PyObject *protocol, size_t most, int *is_all, int64_t *until) {
  PyObject *minus_one = PyLong_FromLong(-1), *buffer = NULL, *count;
  Py_buffer view;
  Py_ssize_t length;
  ssize_t nread;
  long fd;
  int error;

  if (minus_one != NULL)
    buffer = PyObject_CallMethodOneArg(protocol, state->str_get_buffer, minus_one);
  Py_XDECREF(minus_one);
  length = buffer != NULL ? PyObject_Length(buffer) : -1;
  if (length == 0)
    PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
  if (length <= 0) {
    Py_XDECREF(buffer);
    return stream_fatal(self, "Fatal error: protocol.get_buffer() call failed.");
  }
  if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE | PyBUF_SIMPLE) < 0) {
    if (PyErr_ExceptionMatches(PyExc_BufferError) || PyErr_ExceptionMatches(PyExc_TypeError))
      PyErr_Format(PyExc_TypeError, "get_buffer() must return a read-write bytes-like object, not %s",
                   Py_TYPE(buffer)->tp_name);
    Py_DECREF(buffer);
    return stream_fatal(self, READ_FAILED);
  }
  Py_DECREF(buffer); /* the view keeps it */
  fd = stream_descriptor(part_of(self));
  if (fd < 0 && PyErr_Occurred()) {
    PyBuffer_Release(&view);
    return -1;
  }
  if (most > (size_t) view.len)
    most = (size_t) view.len;
  nread = read_some(part_of(self), fd, view.buf, most);
  error = errno;
  PyBuffer_Release(&view);
  if (nread < 0) {
    if (is_to_wait(error))
      return 0;
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
    return stream_fatal(self, READ_FAILED);
  }
  if (nread == 0)
    return connection_read_end(state, self);
  count = PyLong_FromSsize_t(nread);
  if (count == NULL)
    return stream_fatal(self, READ_FAILED);
  if (nread > MUCH && *until == 0)
    *until = monotonic_ns() + LONGEST_READING;
  *is_all = (size_t) nread < most;
  error = tell(PyObject_CallMethodOneArg(protocol, state->str_buffer_updated, count));
  Py_DECREF(count);
  return error == 0 ? nread : stream_fatal(self, "Fatal error: protocol.buffer_updated() call failed.");
}

/* Whether to read once more in this turn, in that way: there is nothing else to do by then, and somebody wants it. -1 with an exception.
 * is_all: whether there was no more than what was read last. Who has answered that is not sent more so soon. */
static int may_read_on(State *state, PyObject *self, int way, int is_all, int64_t until) {
  const Part *part = part_of(self);
  EventLoop *loop = loop_of(state, self);
  const Ready *dirty;
  Py_ssize_t timers;
  double when, now;
  int own;

  if (loop == NULL || loop->queue == NULL || loop->queue->count > 1)
    return 0;
  dirty = loop->queue->dirty;
  if (is_all && dirty->length > 0 && ready_peek(dirty, dirty->length - 1) == self)
    return 0;
  if (monotonic_ns() > until)
    return 0;
  /* What was written meanwhile, by whomever, does not wait for this. */
  if (queue_flush(loop->queue) < 0)
    return -1;
  if (!part->reading || part->way != way || is_held(part) ||
      loop->stopping != Py_False || loop->ready == NULL || LOAD(loop->ready->length) > 0)
    return 0;
  timers = loop_count_timers(loop);
  if (timers <= 0)
    return timers < 0 ? -1 : 1;
  own = loop_plain(loop);
  if (own < 0 || timers_when(state, PyList_GET_ITEM(loop->scheduled, 0), &when) < 0 || loop_time(loop, own & PLAIN_TIME, &now) < 0)
    return -1;
  return when >= now + loop->clock_resolution;
}

/* Fills the protocol's buffer, again and again while much comes. */
static int fill_on(State *state, PyObject *self, PyObject *protocol) {
  int64_t until = 0;
  int reads = 0, is_all = 0, status;

  do {
    ssize_t received = fill(state, self, protocol, reads == 0 ? SIZE_MAX : NEXT_SIZE, &is_all, &until);

    if (received <= MUCH || ++reads == MOST_READS || part_of(self)->protocol != protocol)
      return received < 0 ? -1 : 0;
    status = may_read_on(state, self, FILL, is_all, until);
  } while (status > 0);
  return status;
}

/* Has the protocol's buffer filled, when there is something for it in the kernel (nread 0). */
static int fill_buffer(State *state, PyObject *self, int64_t nread, int64_t offset) {
  Part *part;
  PyObject *context, *protocol;
  int was_blank, status;

  part = part_of(self);
  if (nread != 0 || part->protocol == NULL || !part->reading)
    return deliver_in_python(self, "_fill_record", nread, offset);
  protocol = Py_NewRef(part->protocol);
  if (connection_enter(state, self, &context, &was_blank) < 0) {
    /* The protocol runs the loop from a callback of its own. What is in the kernel comes again. */
    PyErr_Clear();
    status = 0;
  } else {
    status = fill_on(state, self, protocol);
    if (connection_leave(state, self, context, was_blank) < 0)
      status = -1;
  }
  Py_DECREF(protocol);
  return status;
}

/* Reads `most` bytes into an object of their own, and gives that to the protocol. Returns how many those were, 0 when there were none; -1
 * with an exception. */
static ssize_t read_piece(State *state, PyObject *self, Py_ssize_t most) {
  Part *part = part_of(self);
  long fd = stream_descriptor(part);
  PyObject *data;
  ssize_t nread;
  int status;

  if (fd < 0)
    return PyErr_Occurred() ? -1 : 0;
  data = PyBytes_FromStringAndSize(NULL, most);
  if (data == NULL)
    return failed_read(self);
  nread = read_some(part, fd, PyBytes_AS_STRING(data), (size_t) most);
  if (nread <= 0) {
    int error = errno;

    Py_DECREF(data);
    if (nread == 0)
      return tell_end(state, self);
    if (is_to_wait(error))
      return 0;
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
    return failed_read(self);
  }
  if (nread < most && _PyBytes_Resize(&data, nread) < 0)
    return failed_read(self); /* what was read is nowhere */
  status = nread < LARGE / 2 ? connection_receive(state, self) : 0;
  if (status == 0)
    status = give(state, self, data);
  Py_DECREF(data);
  return status < 0 ? -1 : nread;
}

/* Reads what is there (nread 0), again and again while much comes. */
static int read_on(State *state, PyObject *self, int64_t nread, int64_t offset) {
  int64_t until = 0;
  int reads = 0, status;

  if (nread != 0)
    return deliver(state, self, nread, offset);
  if (!part_of(self)->reading)
    return 0; /* it stays in the kernel */
  do {
    Py_ssize_t most = reads == 0 ? READ_SIZE : NEXT_SIZE;
    ssize_t received = read_piece(state, self, most);

    if (received <= MUCH || ++reads == MOST_READS)
      return received < 0 ? -1 : 0;
    if (until == 0)
      until = monotonic_ns() + LONGEST_READING;
    status = may_read_on(state, self, READ, received < most, until);
  } while (status > 0);
  return status;
}

/* Deals with a record for a transport that is its own receiver. */
int stream_receive(State *state, PyObject *self, int64_t nread, int64_t offset) {
  switch (part_of(self)->way) {
  case FILL:
    return fill_buffer(state, self, nread, offset);
  case READ:
    return read_on(state, self, nread, offset);
  default:
    return deliver(state, self, nread, offset);
  }
}

/* The receiver of records: the transport itself, which the queue recognizes. A bound method for each connection would be 72 bytes. */
static PyObject *receiver(PyObject *self, PyObject *fill) {
  part_of(self)->way = fill == Py_True ? FILL : DELIVER;
  return Py_NewRef(self);
}

static PyObject *large_receiver(PyObject *self, PyObject *unused) {
  (void) unused;
  part_of(self)->way = READ;
  return Py_NewRef(self);
}

#define FUNCTION(f) ((PyCFunction) (void (*)(void)) (f))

PyMethodDef receiving_methods[RECEIVING_METHODS] = {
  {"_receiver", receiver, METH_O, NULL},
  {"_large_receiver", large_receiver, METH_NOARGS, NULL},
};

#endif
