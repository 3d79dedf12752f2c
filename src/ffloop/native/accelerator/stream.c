/* The stream transport: its type, and how what is written leaves. What arrives is receiving.c's, the beginning and the end are
 * connection.c's; whatever else can happen to a connection is in transports.py and its two halves, and begins there.
 */
#include "accelerator.h"

#include <errno.h>
#ifndef _WIN32
#include <sys/socket.h>
#include <sys/uio.h>
#endif

#define WRITE_FAILED "Fatal write error on socket transport"

enum {
  CALM = 8,        /* as in stream_sending.py: turns with one write after which the next one is expected to be alone too */
  MOST_PIECES = 64 /* of one vectored write; more are joined */
};

#ifndef _WIN32

long stream_descriptor(const Part *part) {
  PyObject *fd = part->stream != NULL ? SLOT(part->stream, layout.fd) : NULL;

  return fd != NULL ? PyLong_AsLong(fd) : -1;
}

int stream_fatal(PyObject *self, const char *message) {
  PyObject *exception, *done;

  if (is_let_through())
    return -1;
  exception = take_exception();
  done = PyObject_CallMethod(self, "_fatal_error", "Os", exception, message);
  Py_XDECREF(exception);
  return tell(done);
}

/* Ends a connection of which a part of a write has gone, and the rest, because of an exception, will not: the peer is not to take
 * for the whole what it has got, nor to get anything after it. -1 with the exception if it is let through.
 */
static int stop_sending(PyObject *self) {
  Part *part = part_of(self);
  int is_interrupt = is_let_through(), status;
  PyObject *exception = take_exception();

  if (is_interrupt) {
    if (tell(PyObject_CallMethod(self, "_on_interrupt", NULL)) < 0)
      PyErr_WriteUnraisable(self);
    restore_exception(exception);
    return -1;
  }
  status = tell(PyObject_CallMethod(self, "_fail_write", "O", exception));
  Py_XDECREF(exception);
  if (status < 0 && part->conn_lost == 0) {
    /* No memory for that either: now the system tells both sides, which needs none. */
    long fd = stream_descriptor(part);

    part->writing = 0;
    if (fd >= 0)
      shutdown((int) fd, SHUT_RDWR);
  }
  return status;
}

/* What was queued, from `sent` of `total` bytes on, goes to libuv as one object, which sends the rest. */
static int send_later(PyObject *self, PyObject *const *pieces, int count, Py_ssize_t total, Py_ssize_t sent) {
  Part *part = part_of(self);
  PyObject *rest;
  int i, status = -1;

  /* What a finalizer or a signal's handler writes from here on comes after the rest, and close() waits for it. */
  part->writing = 1;
  if (count == 1) {
    PyObject *view = PyMemoryView_FromObject(pieces[0]);

    rest = view != NULL ? PySequence_GetSlice(view, sent, total) : NULL;
    Py_XDECREF(view);
  } else {
    Py_ssize_t at = 0, gone = sent;

    rest = PyBytes_FromStringAndSize(NULL, total - sent);
    for (i = 0; rest != NULL && i < count; i++) {
      Py_ssize_t size = PyBytes_GET_SIZE(pieces[i]), skipped = gone < size ? gone : size;

      memcpy(PyBytes_AS_STRING(rest) + at, PyBytes_AS_STRING(pieces[i]) + skipped, (size_t) (size - skipped));
      at += size - skipped;
      gone -= skipped;
    }
  }
  if (rest != NULL)
    status = tell(PyObject_CallMethod(self, "_send_later", "O", rest));
  Py_XDECREF(rest);
  return status < 0 ? stop_sending(self) : 0;
}

/* Has the kernel take what it does of `total` bytes in `vectors`. Returns 1 and says how much that was; or what stream_fatal()
 * has returned, when the connection takes no more. The memory is the caller's. Without the GIL while it is much.
 */
static int send_now(PyObject *self, const struct iovec *vectors, int count, Py_ssize_t total, Py_ssize_t *taken) {
  long fd = stream_descriptor(part_of(self));
  ssize_t sent;
  int error;

  if (fd < 0) {
    if (PyErr_Occurred())
      return -1;
    /* As the system says of it. Whoever gets hold of a transport that was collected can write to it. */
    errno = EBADF;
    PyErr_SetFromErrno(PyExc_OSError);
    return stream_fatal(self, WRITE_FAILED);
  }
  /* send(), because the way to it is shorter than write()'s: 50 ns, of which there are 3,500 in all. */
  if (total < RELEASE_AT) {
    sent = count == 1 ? send((int) fd, vectors[0].iov_base, vectors[0].iov_len, 0) : writev((int) fd, vectors, count);
    error = errno;
  } else {
    Py_BEGIN_ALLOW_THREADS
    sent = count == 1 ? send((int) fd, vectors[0].iov_base, vectors[0].iov_len, 0) : writev((int) fd, vectors, count);
    error = errno;
    Py_END_ALLOW_THREADS
  }
  if (sent < 0 && error != EAGAIN && error != EWOULDBLOCK && error != EINTR) {
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
    return stream_fatal(self, WRITE_FAILED);
  }
  *taken = sent < 0 ? 0 : sent;
  return 1;
}

/* Hands the pieces to the kernel. They are the caller's references. */
static int send_pieces(PyObject *self, PyObject *const *pieces, int count) {
  struct iovec vectors[MOST_PIECES];
  Py_ssize_t total = 0, sent;
  int i, status;

  for (i = 0; i < count; i++) {
    vectors[i].iov_base = PyBytes_AS_STRING(pieces[i]);
    vectors[i].iov_len = (size_t) PyBytes_GET_SIZE(pieces[i]);
    total += PyBytes_GET_SIZE(pieces[i]);
  }
  status = send_now(self, vectors, count, total, &sent);
  if (status == 1)
    status = sent < total ? send_later(self, pieces, count, total, sent) : 0;
  return status;
}

/* Hands what is queued to the kernel, unless libuv still has something to write, which goes first. */
int stream_flush(State *state, PyObject *self) {
  Part *part = part_of(self);
  PyObject *pieces[MOST_PIECES], *more;
  Py_ssize_t i, more_count;
  int count = 0, is_whole = 1, status;

  if (part->first == NULL || part->writing || !PyBytes_CheckExact(part->first) || PyBytes_GET_SIZE(part->first) == 0)
    return 0;
  more = part->more;
  more_count = more != NULL && PyList_CheckExact(more) ? PyList_GET_SIZE(more) : 0;
  pieces[count++] = part->first;
  part->first = Py_NewRef(state->empty_bytes);
  if (more_count > 0 && more_count < MOST_PIECES) {
    for (i = 0; i < more_count; i++)
      pieces[count++] = Py_NewRef(PyList_GET_ITEM(more, i));
  } else if (more_count > 0) {
    PyObject *joined = PyObject_CallMethodOneArg(state->empty_bytes, state->str_join, more);

    is_whole = joined != NULL;
    if (is_whole)
      pieces[count++] = joined;
  }
  part->more_size = 0;
  if (more_count > 0)
    PyList_SetSlice(more, 0, PyList_GET_SIZE(more), NULL); /* all of it, which cannot fail */
  /* What was accepted is not dropped without a word. */
  status = is_whole ? send_pieces(self, pieces, count) : stream_fatal(self, WRITE_FAILED);
  while (count > 0)
    Py_DECREF(pieces[--count]);
  return status;
}

static PyObject *flush(PyObject *self, PyObject *unused) {
  (void) unused;
  if (stream_flush(part_of(self)->state, self) < 0)
    return NULL;
  Py_RETURN_NONE;
}

/* Whether what is written now, as the first of a turn, is not to wait for its end. */
static int is_to_send(Part *part, PyObject *self, const EventLoop *loop) {
  const Ready *dirty;

  if (loop == NULL || loop->queue == NULL || loop->thread_id == Py_None)
    return 1; /* there is no turn whose end would do it */
  dirty = loop->queue->dirty;
  if (dirty->length > 0 && ready_peek(dirty, dirty->length - 1) == self)
    part->calm = 0; /* it has sent at once, and this is the turn's second write */
  else if (part->calm < CALM)
    part->calm++;
  else /* the peer can work while whoever writes goes on, if nothing else is to run */
    return dirty->length == 0 && loop->ready != NULL && LOAD(loop->ready->length) == 0 && loop->queue->count <= 1;
  return 0;
}

/* Takes over the reference to `data`, which is bytes. */
static int queue_data(State *state, PyObject *self, PyObject *data) {
  Part *part = part_of(self);
  EventLoop *loop = loop_of(state, self);
  Py_ssize_t size = PyBytes_GET_SIZE(data);
  int status = 0;

  if (PyBytes_GET_SIZE(part->first) > 0 && (part->more == NULL || part->more == Py_None)) {
    PyObject *list = PyList_New(0);

    if (list == NULL) {
      Py_DECREF(data);
      return -1;
    }
    /* Up to Python 3.11 this can begin a collection of garbage, whose finalizers may write, or flush. */
    if (part->more == NULL || part->more == Py_None)
      Py_XSETREF(part->more, list);
    else
      Py_DECREF(list);
  }
  if (PyBytes_GET_SIZE(part->first) > 0) {
    part->calm = 0;
    status = PyList_Append(part->more, data);
    Py_DECREF(data);
    if (status < 0)
      return -1;
    part->more_size += size;
    size = PyBytes_GET_SIZE(part->first) + part->more_size;
  } else {
    replace(&part->first, data);
    if (!part->writing) {
      int at_once = is_to_send(part, self, loop);

      if (loop == NULL || loop->queue == NULL || ready_append(loop->queue->dirty, self) < 0) {
        if (!PyErr_Occurred())
          PyErr_SetString(PyExc_RuntimeError, "the transport's loop is gone");
        replace(&part->first, Py_NewRef(state->empty_bytes)); /* nobody would ever send it, nor what comes after it */
        return -1;
      }
      if (at_once)
        status = stream_flush(state, self);
    }
  }
  if (status == 0 && (size > part->flush_at || part->writing)) {
    status = stream_flush(state, self);
    if (status == 0 && part->writing)
      status = tell(PyObject_CallMethodNoArgs(self, state->str_maybe_pause));
  }
  return status;
}

/* Sends `data` without a copy, if it is a buffer with much in it that nothing is queued before. Returns 1 if it was, 0 if not, -1
 * with an exception. What the kernel has not taken was copied. The reference is the caller's; while the kernel reads without the
 * GIL, nobody can resize the buffer. Not a subclass of bytearray, whose __buffer__() may write, or close.
 */
static int send_much(PyObject *self, PyObject *data) {
  Part *part = part_of(self);
  struct iovec vector;
  Py_buffer view;
  Py_ssize_t sent;
  int status;

  if ((!PyMemoryView_Check(data) && !PyByteArray_CheckExact(data)) || part->first != part->state->empty_bytes || part->writing ||
      part->refusal != Py_None || part->conn_lost != 0)
    return 0;
  if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
    if (!PyErr_ExceptionMatches(PyExc_BufferError))
      return -1;
    PyErr_Clear(); /* it has gaps, and can be copied all the same */
    return 0;
  }
  if (view.len <= part->flush_at) {
    PyBuffer_Release(&view);
    return 0;
  }
  vector.iov_base = view.buf;
  vector.iov_len = (size_t) view.len;
  status = send_now(self, &vector, 1, view.len, &sent);
  if (status == 1 && sent < view.len) {
    PyObject *rest = PyBytes_FromStringAndSize((const char *) view.buf + sent, view.len - sent);

    status = rest != NULL ? send_later(self, &rest, 1, view.len - sent, 0) : stop_sending(self);
    Py_XDECREF(rest);
  }
  PyBuffer_Release(&view); /* pause_writing() may resize it */
  if (status == 0 && part->writing)
    status = tell(PyObject_CallMethodNoArgs(self, part->state->str_maybe_pause));
  return status < 0 ? -1 : 1;
}

/* `data` as bytes: a new reference. */
static PyObject *as_bytes(PyObject *self, PyObject *data) {
  if (PyBytes_CheckExact(data))
    return Py_NewRef(data);
  if (PyMemoryView_Check(data) || PyByteArray_CheckExact(data))
    return PyBytes_FromObject(data);
  return PyObject_CallMethod(self, "_as_bytes", "(O)", data); /* which says what is wrong with it */
}

/* Whether a method got the one argument that it takes, by place or by name. */
static int is_only(Py_ssize_t nargs, PyObject *kwnames, const char *method, const char *name) {
  if (nargs + (kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0) == 1 &&
      (nargs == 1 || PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), name) == 0))
    return 1;
  PyErr_Format(PyExc_TypeError, "%s() takes exactly one argument: %s", method, name);
  return 0;
}

static PyObject *write_data(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
  Part *part = part_of(self);
  PyObject *data;

  if (!is_only(nargs, kwnames, "write", "data"))
    return NULL;
  if (!PyBytes_CheckExact(args[0])) {
    int sent = send_much(self, args[0]);

    if (sent != 0)
      return sent < 0 ? NULL : Py_NewRef(Py_None);
  }
  data = as_bytes(self, args[0]);
  if (data == NULL)
    return NULL;
  if (part->refusal != Py_None || part->first == NULL || !PyBytes_CheckExact(data)) {
    Py_DECREF(data);
    PyErr_SetObject(PyExc_RuntimeError, part->refusal != NULL ? part->refusal : Py_None);
    return NULL;
  }
  if (PyBytes_GET_SIZE(data) == 0) {
    Py_DECREF(data);
  } else if (part->conn_lost != 0) {
    Py_DECREF(data);
    if (tell(PyObject_CallMethod(self, "_count_lost_write", NULL)) < 0)
      return NULL;
  } else if (queue_data(part->state, self, data) < 0) {
    return NULL;
  }
  Py_RETURN_NONE;
}

/* The pieces of a tuple, all of them bytes and `total` in size, as one write of them would. */
static int queue_lines(State *state, PyObject *self, PyObject *lines, Py_ssize_t total) {
  Part *part = part_of(self);
  Py_ssize_t i, count = PyTuple_GET_SIZE(lines), at = 0;
  PyObject *joined;
  int status;

  if (total > part->flush_at && count > 1 && count <= MOST_PIECES && part->first == state->empty_bytes && !part->writing) {
    /* Joined, each byte would be copied once more than the kernel does. */
    status = send_pieces(self, &PyTuple_GET_ITEM(lines, 0), (int) count);
    return status == 0 && part->writing ? tell(PyObject_CallMethodNoArgs(self, state->str_maybe_pause)) : status;
  }
  if (count == 1)
    return queue_data(state, self, Py_NewRef(PyTuple_GET_ITEM(lines, 0)));
  joined = PyBytes_FromStringAndSize(NULL, total);
  if (joined == NULL)
    return -1;
  for (i = 0; i < count; i++) {
    PyObject *piece = PyTuple_GET_ITEM(lines, i);

    memcpy(PyBytes_AS_STRING(joined) + at, PyBytes_AS_STRING(piece), (size_t) PyBytes_GET_SIZE(piece));
    at += PyBytes_GET_SIZE(piece);
  }
  return queue_data(state, self, joined);
}

static PyObject *writelines(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
  Part *part = part_of(self);
  PyObject *lines, *done = NULL;
  Py_ssize_t i, total = 0;

  if (!is_only(nargs, kwnames, "writelines", "list_of_data"))
    return NULL;
  if (part->refusal != Py_None || part->conn_lost != 0 || part->first == NULL)
    return PyObject_CallMethod(self, "_writelines", "(O)", args[0]);
  lines = PySequence_Tuple(args[0]); /* a list can be changed while the kernel reads, without the GIL */
  if (lines == NULL)
    return NULL;
  for (i = 0; i < PyTuple_GET_SIZE(lines); i++) {
    PyObject *piece = PyTuple_GET_ITEM(lines, i);

    if (!PyBytes_CheckExact(piece) || PyBytes_GET_SIZE(piece) > PY_SSIZE_T_MAX - total)
      break;
    total += PyBytes_GET_SIZE(piece);
  }
  /* Pieces that are not bytes, or whose iterator has closed the transport. */
  if (i < PyTuple_GET_SIZE(lines) || part->refusal != Py_None || part->conn_lost != 0 || part->first == NULL)
    done = PyObject_CallMethod(self, "_writelines", "(O)", lines);
  else if (total == 0 || queue_lines(part->state, self, lines, total) == 0)
    done = Py_NewRef(Py_None);
  Py_DECREF(lines);
  return done;
}

/* What may be in a cycle; and what is in none: a transport that is written to from somebody's __del__ needs it. */
#define EACH_OBJECT(part, visit)                                                                                           \
  do {                                                                                                                     \
    visit((part)->protocol);                                                                                               \
    visit((part)->context);                                                                                                \
    visit((part)->stream);                                                                                                 \
    visit((part)->facts);                                                                                                  \
    visit((part)->sockname);                                                                                               \
    visit((part)->peername);                                                                                               \
    visit((part)->server);                                                                                                 \
    visit((part)->socket);                                                                                                 \
    visit((part)->held);                                                                                                   \
    visit((part)->empty_waiter);                                                                                           \
  } while (0)
#define EACH_QUEUED(part, visit)                                                                                           \
  do {                                                                                                                     \
    visit((part)->first);                                                                                                  \
    visit((part)->more);                                                                                                   \
    visit((part)->refusal);                                                                                                \
    visit((part)->rest);                                                                                                   \
  } while (0)

/* What asyncio's class has is this type's to visit and to clear: the interpreter leaves it to the first type that is not Python's. */
static int traverse(PyObject *self, visitproc visit, void *arg) {
  Part *part = part_of(self);
  int i;

  Py_VISIT(Py_TYPE(self));
  EACH_OBJECT(part, Py_VISIT);
  EACH_QUEUED(part, Py_VISIT);
  Py_VISIT(part->transports);
  Py_VISIT(part->module);
  for (i = 0; i < layout.transport_slot_count; i++)
    Py_VISIT(SLOT(self, layout.transport_slots[i]));
  return 0;
}

static int clear(PyObject *self) {
  Part *part = part_of(self);
  int i;

  transports_forget(self);
  EACH_OBJECT(part, Py_CLEAR);
  for (i = 0; i < layout.transport_slot_count; i++)
    Py_CLEAR(SLOT(self, layout.transport_slots[i]));
  return 0;
}

static void dealloc(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  Part *part = part_of(self);

  PyObject_GC_UnTrack(self);
  clear(self);
  EACH_QUEUED(part, Py_CLEAR);
  Py_CLEAR(part->module);
  type->tp_free(self);
  Py_DECREF(type);
}

static PyObject *new_stream(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  PyObject *module = PyType_GetModuleByDef(type, &speed_module), *self;

  (void) args;
  (void) kwargs;
  self = module != NULL ? type->tp_alloc(type, 0) : NULL;
  if (self != NULL) {
    part_of(self)->module = Py_NewRef(module);
    part_of(self)->state = PyModule_GetState(module);
    part_of(self)->ended = 1; /* until __init__() says that something has begun */
  }
  return self;
}

#define FUNCTION(f) ((PyCFunction) (void (*)(void)) (f))

static const PyMethodDef packet_methods[] = {
  {"write", FUNCTION(write_data), METH_FASTCALL | METH_KEYWORDS,
   "write($self, /, data)\n--\n\nQueue `data` to be sent at the end of this turn of the loop."},
  {"writelines", FUNCTION(writelines), METH_FASTCALL | METH_KEYWORDS,
   "writelines($self, /, list_of_data)\n--\n\nQueue the pieces of `list_of_data`, as one `write` of all of them would."},
  {"_flush", FUNCTION(flush), METH_NOARGS, NULL},
};

enum { PACKET_METHODS = sizeof packet_methods / sizeof *packet_methods };

/* These, those of receiving.c and of connection.c, and the end. The type keeps pointers to them. */
static PyMethodDef methods[PACKET_METHODS + RECEIVING_METHODS + CONNECTION_METHODS + 1];

/* The offsets are those within Part; where that begins is known when asyncio's class is. */
static const PyMemberDef part_members[] = {
  {"_first", T_OBJECT_EX, offsetof(Part, first), 0, NULL},
  {"_more", T_OBJECT_EX, offsetof(Part, more), 0, NULL},
  {"_refusal", T_OBJECT, offsetof(Part, refusal), 0, NULL},
  {"_protocol", T_OBJECT_EX, offsetof(Part, protocol), 0, NULL},
  {"_stream", T_OBJECT_EX, offsetof(Part, stream), 0, NULL},
  {"_facts", T_OBJECT_EX, offsetof(Part, facts), 0, NULL},
  {"_sockname", T_OBJECT_EX, offsetof(Part, sockname), 0, NULL},
  {"_rest", T_OBJECT_EX, offsetof(Part, rest), 0, NULL},
  {"_server", T_OBJECT_EX, offsetof(Part, server), 0, NULL},
  {"_socket", T_OBJECT_EX, offsetof(Part, socket), 0, NULL},
  {"_held", T_OBJECT_EX, offsetof(Part, held), 0, NULL},
  {"_empty_waiter", T_OBJECT_EX, offsetof(Part, empty_waiter), 0, NULL},
  {"_more_size", T_PYSSIZET, offsetof(Part, more_size), 0, NULL},
  {"_calm", T_BYTE, offsetof(Part, calm), 0, NULL},
  {"_flush_at", T_PYSSIZET, offsetof(Part, flush_at), 0, NULL},
  {"_conn_lost", T_PYSSIZET, offsetof(Part, conn_lost), 0, NULL},
  {"_writing", T_BOOL, offsetof(Part, writing), 0, NULL},
  {"_resuming", T_BOOL, offsetof(Part, resuming), 0, NULL},
  {"_eof", T_BOOL, offsetof(Part, eof), 0, NULL},
  {"_closing", T_BOOL, offsetof(Part, closing), 0, NULL},
  {"_paused", T_BOOL, offsetof(Part, paused), 0, NULL},
  {"_ended", T_BOOL, offsetof(Part, ended), 0, NULL},
  {"_protocol_connected", T_BOOL, offsetof(Part, protocol_connected), 0, NULL},
  {"_buffered", T_BOOL, offsetof(Part, buffered), 0, NULL},
  {NULL, 0, 0, 0, NULL},
};

/* Takes from asyncio's class of transports where its slots are. */
static int find_layout(PyTypeObject *base) {
  const struct {
    Py_ssize_t *offset;
    const char *name;
  } wanted[] = {
    {&layout.transport_loop, "_loop"}, {&layout.transport_paused, "_protocol_paused"},
    {&layout.transport_high, "_high_water"}, {&layout.transport_low, "_low_water"},
  };
  size_t i;

  for (i = 0; i < sizeof wanted / sizeof *wanted; i++) {
    *wanted[i].offset = slot_offset(base, wanted[i].name);
    if (*wanted[i].offset < 0)
      return -1;
  }
  return find_slots(base, layout.transport_slots, &layout.transport_slot_count);
}

int transport_add_type(PyObject *module, PyType_Spec *spec, size_t size, PyMemberDef *members, Py_ssize_t *offset, PyTypeObject **made) {
  PyTypeObject *base = (PyTypeObject *) import_from("asyncio.transports", "_FlowControlMixin");
  PyObject *bases, *type;

  if (base == NULL || find_layout(base) < 0) {
    Py_XDECREF(base);
    return -1;
  }
  *offset = base->tp_basicsize;
  spec->basicsize = (int) (*offset + (Py_ssize_t) size);
  for (; members->name != NULL; members++)
    members->offset += *offset;
  bases = PyTuple_Pack(1, base);
  Py_DECREF(base);
  type = bases != NULL ? PyType_FromModuleAndSpec(module, spec, bases) : NULL;
  Py_XDECREF(bases);
  *made = (PyTypeObject *) type;
  return type != NULL ? PyModule_AddType(module, *made) : -1;
}

int stream_add_type(PyObject *module, State *state) {
  PyMemberDef members[sizeof part_members / sizeof *part_members];
  PyType_Slot slots[] = {
    {Py_tp_doc, "What of a stream transport runs per packet, and once for every connection."},
    {Py_tp_new, new_stream},
    {Py_tp_init, connection_init},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, connection_properties},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_dealloc, dealloc},
    {Py_tp_finalize, connection_finalize},
    {0, NULL},
  };
  PyType_Spec spec = {"ffloop._speed.Stream", 0, 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots};

  memcpy(members, part_members, sizeof members);
  memcpy(methods, packet_methods, sizeof packet_methods);
  memcpy(methods + PACKET_METHODS, receiving_methods, sizeof receiving_methods);
  memcpy(methods + PACKET_METHODS + RECEIVING_METHODS, connection_methods, sizeof connection_methods);
  return transport_add_type(module, &spec, sizeof(Part), members, &layout.stream_offset, &state->stream_type);
}

#else

/* There are no descriptors to read and write: connections are transports.py's alone. */
int stream_add_type(PyObject *module, State *state) {
  (void) module;
  (void) state;
  return 0;
}

#endif
