/* The datagram transport: what of it runs per datagram, from a record to the protocol, and from sendto() to the kernel. It stands in front
 * of datagram_receiving.py and datagram_sending.py, whose methods deal with whatever is rare.
 *
 * On Linux alone: elsewhere datagrams leave one by one, or through libuv, as the Python code has it.
 */
#include "accelerator.h"

#ifdef __linux__

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum {
  HEADER = 8,          /* as in datagram_sending.py: what a queued datagram counts more than its bytes, */
  LARGEST = 64 * 1024, /* and one of more bytes, its header included, is none of UDP's */
  TOGETHER = 32        /* datagrams of one system call, which the GIL is held for */
};

/* What of a transport is kept in C, behind the slots that asyncio's class has. */
typedef struct {
  PyObject *udp;         /* the uv.Udp, whose descriptor it is */
  PyObject *protocol, *context;
  PyObject *peers, *names, *packed; /* the uv.Peers, and its two dictionaries */
  PyObject *turns;       /* the completion queue */
  PyObject *buffer;      /* what is queued, in a Ready: tuples of the bytes, the address, and the peer that it is */
  PyObject *address;     /* the only one to send to, None for no such limit */
  PyObject *aim, *peer;  /* who was sent to last, and what that is to the kernel: bytes, none for who is connected, None for the unknown */
  PyObject *last_batch;
  PyObject *module;      /* keeps the state */
  State *state;
  Py_ssize_t size, flush_at, conn_lost, peer_size;
  char alone, blocked, connected;
} Endpoint;

static inline Endpoint *endpoint_of(PyObject *self) {
  return (Endpoint *) ((char *) self + layout.datagram_offset);
}

/* The completion queue of a transport; NULL when somebody has taken it away. */
static Queue *queue_of(const State *state, const Endpoint *endpoint) {
  PyObject *queue = endpoint->turns;

  return queue != NULL && is_a(queue, state->queue_type) ? (Queue *) queue : NULL;
}

/* What is queued; NULL with an exception when that is gone. */
static Ready *buffer_of(const State *state, const Endpoint *endpoint) {
  if (endpoint->buffer != NULL && Py_TYPE(endpoint->buffer) == state->ready_type)
    return (Ready *) endpoint->buffer;
  PyErr_SetString(PyExc_RuntimeError, "the transport's buffer is gone");
  return NULL;
}

/* Receiving */

/* Who has sent what lies in the region, as recvfrom() names him: a new reference. Who is not known yet is looked up in Python. */
static PyObject *name_of(const State *state, const Endpoint *endpoint, const char *peer) {
  PyObject *key, *name;

  if (endpoint->names == NULL || !PyDict_CheckExact(endpoint->names) || endpoint->peers == NULL ||
      (endpoint->peer_size != sizeof(ffloop_peer) && endpoint->peer_size != FFLOOP_UNIX_PEER))
    return PyErr_Format(PyExc_RuntimeError, "the transport's names are gone");
  key = PyBytes_FromStringAndSize(peer, endpoint->peer_size);
  if (key == NULL)
    return NULL;
  name = Py_XNewRef(PyDict_GetItemWithError(endpoint->names, key));
  if (name == NULL && !PyErr_Occurred())
    name = PyObject_CallMethodOneArg(endpoint->peers, state->str_name_of, key);
  Py_DECREF(key);
  return name;
}

/* Gives the protocol a datagram, in the context of what is received. */
static int deliver(State *state, PyObject *self, const Endpoint *endpoint, PyObject *data, PyObject *name) {
  /* The protocol may close the transport, which lets go of both. */
  PyObject *context = Py_NewRef(endpoint->context), *protocol = Py_NewRef(endpoint->protocol);
  int status;

  if (PyContext_Enter(context) < 0) {
    /* It runs the loop from inside of a callback. */
    PyErr_Clear();
    status = tell(PyObject_CallMethodObjArgs(self, state->str_set_aside, data, name, NULL));
  } else {
    PyObject *args[] = {protocol, data, name};

    status = tell(PyObject_VectorcallMethod(state->str_datagram_received, args, 3, NULL));
    if (PyContext_Exit(context) < 0)
      status = -1;
  }
  Py_DECREF(context);
  Py_DECREF(protocol);
  return status;
}

int datagram_receive(State *state, PyObject *self, int64_t nread, int64_t payload) {
  Endpoint *endpoint = endpoint_of(self);
  Queue *queue = queue_of(state, endpoint);
  const int64_t mask = ((int64_t) 1 << FFLOOP_PEER_SHIFT) - 1;
  PyObject *data, *name = NULL;
  int status;

  if (nread >= 0 && queue != NULL && queue->region != NULL) {
    name = name_of(state, endpoint, queue->region + (payload >> FFLOOP_PEER_SHIFT));
    if (name == NULL)
      return -1;
  }
  /* Python may have run until here. */
  if (name == NULL || endpoint->protocol == NULL || endpoint->context == NULL || !PyContext_CheckExact(endpoint->context) ||
      queue->region == NULL) {
    Py_XDECREF(name);
    return tell(PyObject_CallMethod(self, "_deliver", "LL", (long long) nread, (long long) payload));
  }
  data = PyBytes_FromStringAndSize(queue->region + (payload & mask), (Py_ssize_t) nread);
  status = data != NULL ? deliver(state, self, endpoint, data, name) : -1;
  Py_XDECREF(data);
  Py_DECREF(name);
  return status;
}

/* The receiver of records: the transport itself, which the queue recognizes. */
static PyObject *receiver(PyObject *self, PyObject *unused) {
  (void) unused;
  return Py_NewRef(self);
}

/* Sending */

/* One datagram, as it is queued; borrowed. */
typedef struct {
  PyObject *data, *addr, *peer;
} Queued;

/* -1 with an exception for what is none. */
static int read_queued(PyObject *item, Queued *queued) {
  if (!PyTuple_CheckExact(item) || PyTuple_GET_SIZE(item) != 3 || !PyBytes_CheckExact(PyTuple_GET_ITEM(item, 0))) {
    PyErr_SetString(PyExc_TypeError, "something else than a datagram is queued");
    return -1;
  }
  queued->data = PyTuple_GET_ITEM(item, 0);
  queued->addr = PyTuple_GET_ITEM(item, 1);
  queued->peer = PyTuple_GET_ITEM(item, 2);
  return 0;
}

static int is_known(PyObject *peer) {
  return peer != NULL && PyBytes_CheckExact(peer) &&
         (PyBytes_GET_SIZE(peer) == 0 || PyBytes_GET_SIZE(peer) == (Py_ssize_t) sizeof(ffloop_peer));
}

static int goes_together(const Queued *queued) {
  return is_known(queued->peer) && PyBytes_GET_SIZE(queued->data) < LARGEST;
}

/* Makes a message for the kernel, of what the caller keeps alive. */
static void address(const State *state, const Queued *queued, struct msghdr *message, struct iovec *piece,
                    struct sockaddr_in6 *name) {
  piece->iov_base = PyBytes_AS_STRING(queued->data);
  piece->iov_len = (size_t) PyBytes_GET_SIZE(queued->data);
  memset(message, 0, sizeof *message);
  message->msg_iov = piece;
  message->msg_iovlen = 1;
  if (PyBytes_GET_SIZE(queued->peer) > 0) {
    state->api->read_peer(PyBytes_AS_STRING(queued->peer), name);
    message->msg_name = name;
    message->msg_namelen = name->sin6_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof *name;
  }
}

/* The descriptor; -1 when it is closed, or with an exception. */
static int descriptor(const State *state, const Endpoint *endpoint) {
  PyObject *udp = endpoint->udp, *fd;

  fd = udp != NULL && PyObject_TypeCheck(udp, state->udp_class) ? SLOT(udp, layout.udp_fd) : NULL;
  if (fd != NULL)
    return (int) PyLong_AsLong(fd);
  PyErr_SetString(PyExc_RuntimeError, "the transport's handle is gone");
  return -1;
}

/* Sends one datagram, of whose parts the caller has references. `soon`: the protocol is told of an error a little later. */
static int send_now(State *state, PyObject *self, const Queued *queued, int soon) {
  Endpoint *endpoint = endpoint_of(self);
  PyObject *later = soon ? Py_True : Py_False, *exception;
  struct sockaddr_in6 name;
  struct msghdr message;
  struct iovec piece;
  ssize_t sent;
  int fd, status;

  if (!is_known(queued->peer))
    return tell(PyObject_CallMethodObjArgs(self, state->str_send_now, queued->data, queued->addr, later, NULL));
  fd = descriptor(state, endpoint);
  if (fd < 0 && PyErr_Occurred())
    return -1;
  address(state, queued, &message, &piece, &name);
  do
    sent = sendto(fd, piece.iov_base, piece.iov_len, MSG_DONTWAIT, message.msg_name, message.msg_namelen);
  while (sent < 0 && errno == EINTR);
  if (sent >= 0)
    return 0;
  PyErr_SetFromErrno(PyExc_OSError);
  exception = take_exception();
  status = tell(PyObject_CallMethod(self, "_on_send_error", "OOOO", exception, queued->data, queued->addr, later));
  Py_XDECREF(exception);
  return status;
}

/* Sends the first of what is queued in one system call, as far as the kernel takes it. */
static int send_together(State *state, PyObject *self, Ready *buffer) {
  Endpoint *endpoint = endpoint_of(self);
  struct mmsghdr messages[TOGETHER];
  struct sockaddr_in6 names[TOGETHER];
  struct iovec pieces[TOGETHER];
  PyObject *gone[TOGETHER];
  int fd = descriptor(state, endpoint), count = 0, sent = 0, error = 0, status = 0, i;

  endpoint->alone = 0;
  if (fd < 0 && PyErr_Occurred())
    return -1;
  if (fd < 0 || SLOT(endpoint->udp, layout.handle_c) == Py_None)
    return tell(PyObject_CallMethod(self, "_drop", NULL)); /* with the loop */
  while (count < TOGETHER && count < buffer->length) {
    Queued queued;

    if (read_queued(ready_peek(buffer, count), &queued) < 0)
      PyErr_Clear(); /* it is told when it is the first */
    else if (goes_together(&queued)) {
      address(state, &queued, &messages[count].msg_hdr, &pieces[count], &names[count]);
      count++;
      continue;
    }
    break;
  }
  /* The kernel tells that it has stopped, not why: who is asked to go on with the rest learns it. */
  while (sent < count && error == 0) {
    int more = sendmmsg(fd, messages + sent, (unsigned) (count - sent), MSG_DONTWAIT);

    if (more > 0)
      sent += more;
    else if (more == 0 || errno != EINTR)
      error = more == 0 || errno == EWOULDBLOCK || errno == ENOBUFS ? EAGAIN : errno;
  }
  for (i = 0; i < sent; i++) {
    gone[i] = ready_pop_left(buffer);
    endpoint->size -= (Py_ssize_t) pieces[i].iov_len + HEADER;
  }
  if (error != 0)
    status = tell(PyObject_CallMethod(self, "_on_refusal", "i", -error));
  /* Last, as any code may run with each of them, and send. */
  for (i = 0; i < sent; i++)
    Py_DECREF(gone[i]);
  return status;
}

/* Hands what is queued to the kernel; what it does not take goes when it has room again. */
int datagram_flush(State *state, PyObject *self) {
  Endpoint *endpoint = endpoint_of(self);
  int status = 0;

  while (status == 0 && !endpoint->blocked) {
    Ready *buffer = buffer_of(state, endpoint);
    PyObject *item;
    Queued queued;

    if (buffer == NULL)
      return -1;
    if (buffer->length == 0)
      return 0;
    item = Py_NewRef(ready_peek(buffer, 0));
    status = read_queued(item, &queued);
    if (status == 0 && buffer->length > 1 && goes_together(&queued)) {
      status = send_together(state, self, buffer);
    } else {
      Py_DECREF(ready_pop_left(buffer));
      if (buffer->length == 0) {
        endpoint->size = 0;
        endpoint->alone = 1; /* the way of most datagrams */
      } else if (status == 0) {
        endpoint->size -= PyBytes_GET_SIZE(queued.data) + HEADER;
      }
      if (status == 0)
        status = send_now(state, self, &queued, 1);
    }
    Py_DECREF(item);
    /* What is left is not to be forgotten. The ring has room: who has come here to flush was in it. */
    if (status < 0 && PyErr_ExceptionMatches(PyExc_MemoryError) && buffer->length > 0 && queue_of(state, endpoint) != NULL)
      ready_append(queue_of(state, endpoint)->dirty, self);
  }
  return status;
}

static PyObject *flush(PyObject *self, PyObject *unused) {
  (void) unused;
  if (datagram_flush(endpoint_of(self)->state, self) < 0)
    return NULL;
  Py_RETURN_NONE;
}

/* Whether it looks as the addresses do that Peers remembers: then no code runs when it is looked up, and no 80.0 passes for an 80. */
static int is_plain(PyObject *addr) {
  Py_ssize_t i;

  if (!PyTuple_CheckExact(addr) || PyTuple_GET_SIZE(addr) < 2 || !PyUnicode_CheckExact(PyTuple_GET_ITEM(addr, 0)))
    return 0;
  for (i = 1; i < PyTuple_GET_SIZE(addr); i++) {
    if (!PyLong_CheckExact(PyTuple_GET_ITEM(addr, i)))
      return 0;
  }
  return 1;
}

/* Finds out who `addr` is, and what that is to the kernel: *found, a new reference. Returns 0 for a datagram that is dropped. */
static int take_aim(State *state, PyObject *self, PyObject *addr, PyObject **found) {
  Endpoint *endpoint = endpoint_of(self);
  PyObject *taken;
  int status;

  if (endpoint->address == Py_None && !endpoint->connected && endpoint->conn_lost == 0 && endpoint->packed != NULL &&
      PyDict_CheckExact(endpoint->packed) && is_plain(addr)) {
    PyObject *peer = PyDict_GetItemWithError(endpoint->packed, addr);

    if (peer != NULL) {
      *found = Py_NewRef(peer);
      replace(&endpoint->peer, Py_NewRef(peer));
      replace(&endpoint->aim, Py_NewRef(addr)); /* last: with the old one any code may go, and send to somebody else */
      return 1;
    }
    if (PyErr_Occurred())
      return -1;
  }
  taken = PyObject_CallMethodOneArg(self, state->str_take_aim, addr);
  status = taken != NULL ? PyObject_IsTrue(taken) : -1;
  Py_XDECREF(taken);
  if (status > 0)
    *found = Py_XNewRef(endpoint->peer);
  return status;
}

/* Whether a datagram is to leave at once, as the only answer to a batch. */
static int is_to_answer(Endpoint *endpoint, Queue *queue) {
  PyObject *batch;

  if (!endpoint->alone || !queue->active)
    return 0;
  batch = queue_batch(queue);
  if (batch == NULL)
    return -1;
  endpoint->alone = batch != endpoint->last_batch;
  replace(&endpoint->last_batch, Py_NewRef(batch));
  return endpoint->alone;
}

static int queue_datagram(Endpoint *endpoint, Ready *buffer, const Queued *queued) {
  PyObject *item = PyTuple_Pack(3, queued->data, queued->addr, queued->peer);
  int status = item != NULL ? ready_append(buffer, item) : -1;

  Py_XDECREF(item);
  if (status == 0)
    endpoint->size += PyBytes_GET_SIZE(queued->data) + HEADER;
  return status;
}

/* Queues bytes, or sends them. The caller has references to all. */
static int send_bytes(State *state, PyObject *self, const Queued *queued) {
  Endpoint *endpoint = endpoint_of(self);
  EventLoop *loop = loop_of(state, self);
  Queue *queue = queue_of(state, endpoint);
  Ready *buffer = buffer_of(state, endpoint);
  Py_ssize_t size = PyBytes_GET_SIZE(queued->data) + HEADER;
  int status;

  if (buffer == NULL)
    return -1;
  if (loop == NULL || queue == NULL) {
    PyErr_SetString(PyExc_RuntimeError, "the transport's loop is gone");
    return -1;
  }
  if (buffer->length == 0) {
    int answer = is_to_answer(endpoint, queue);

    if (answer != 0)
      return answer < 0 ? -1 : send_now(state, self, queued, 0);
    if (!is_known(queued->peer) || size > endpoint->flush_at || loop->thread_id == Py_None)
      return send_now(state, self, queued, 0);
    if (ready_reserve(queue->dirty, 1) < 0) { /* what is queued must not be forgotten */
      PyErr_NoMemory();
      return -1;
    }
    /* Up to Python 3.11 a tuple that is made can begin a collection of garbage, whose finalizers may send as well. */
    status = queue_datagram(endpoint, buffer, queued);
    return status == 0 ? ready_append(queue->dirty, self) : -1;
  }
  if (!endpoint->blocked && (!is_known(queued->peer) || size > LARGEST)) {
    if (datagram_flush(state, self) < 0)
      return -1;
    if (!endpoint->blocked)
      return send_now(state, self, queued, 0);
    buffer = buffer_of(state, endpoint);
    if (buffer == NULL)
      return -1;
  }
  status = queue_datagram(endpoint, buffer, queued);
  if (status == 0 && endpoint->blocked)
    status = tell(PyObject_CallMethodNoArgs(self, state->str_maybe_pause));
  else if (status == 0 && endpoint->size > endpoint->flush_at)
    status = datagram_flush(state, self);
  return status;
}

/* What the Python class makes of unusual arguments. */
static PyObject *call_pure(State *state, PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
  PyObject *super = PyObject_CallFunctionObjArgs((PyObject *) &PySuper_Type, state->datagram_type, self, NULL);
  PyObject *method = super != NULL ? PyObject_GetAttrString(super, "sendto") : NULL;
  PyObject *result = method != NULL ? PyObject_Vectorcall(method, args, (size_t) nargs, kwnames) : NULL;

  Py_XDECREF(super);
  Py_XDECREF(method);
  return result;
}

static PyObject *send_to(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
  Endpoint *endpoint = endpoint_of(self);
  State *state = endpoint->state;
  Py_ssize_t named = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
  Queued queued;
  int status;

  if (nargs < 1 || nargs + named > 2 || (named == 1 && PyTuple_GET_ITEM(kwnames, 0) != state->str_addr) ||
      !PyBytes_CheckExact(args[0]))
    return call_pure(state, self, args, nargs, kwnames);
  queued.data = args[0];
  queued.addr = nargs + named > 1 ? args[1] : Py_None;
  if (queued.addr != endpoint->aim || endpoint->peer == NULL) {
    status = take_aim(state, self, queued.addr, &queued.peer);
    if (status < 0)
      return NULL;
    if (status == 0)
      Py_RETURN_NONE;
  } else {
    queued.peer = Py_NewRef(endpoint->peer);
  }
  if (queued.peer == NULL)
    return PyErr_Format(PyExc_RuntimeError, "the transport has not begun");
  status = send_bytes(state, self, &queued);
  Py_DECREF(queued.peer);
  if (status < 0)
    return NULL;
  Py_RETURN_NONE;
}

/* The type */

#define EACH_OBJECT(endpoint, visit)                                                                                       \
  do {                                                                                                                     \
    visit((endpoint)->udp);                                                                                                \
    visit((endpoint)->protocol);                                                                                           \
    visit((endpoint)->context);                                                                                            \
    visit((endpoint)->peers);                                                                                              \
    visit((endpoint)->names);                                                                                              \
    visit((endpoint)->packed);                                                                                             \
    visit((endpoint)->turns);                                                                                              \
    visit((endpoint)->buffer);                                                                                             \
    visit((endpoint)->address);                                                                                            \
    visit((endpoint)->aim);                                                                                                \
    visit((endpoint)->peer);                                                                                               \
    visit((endpoint)->last_batch);                                                                                         \
  } while (0)

/* What asyncio's class has is this type's to visit and to clear, as in stream.c. */
static int traverse(PyObject *self, visitproc visit, void *arg) {
  Endpoint *endpoint = endpoint_of(self);
  int i;

  Py_VISIT(Py_TYPE(self));
  EACH_OBJECT(endpoint, Py_VISIT);
  Py_VISIT(endpoint->module);
  for (i = 0; i < layout.transport_slot_count; i++)
    Py_VISIT(SLOT(self, layout.transport_slots[i]));
  return 0;
}

/* Every use checks for NULL what is cleared here. */
static int clear(PyObject *self) {
  Endpoint *endpoint = endpoint_of(self);
  int i;

  EACH_OBJECT(endpoint, Py_CLEAR);
  for (i = 0; i < layout.transport_slot_count; i++)
    Py_CLEAR(SLOT(self, layout.transport_slots[i]));
  return 0;
}

static void dealloc(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);

  PyObject_GC_UnTrack(self);
  clear(self);
  Py_CLEAR(endpoint_of(self)->module);
  type->tp_free(self);
  Py_DECREF(type);
}

static PyObject *new_endpoint(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  PyObject *module = PyType_GetModuleByDef(type, &speed_module), *self;

  (void) args;
  (void) kwargs;
  self = module != NULL ? type->tp_alloc(type, 0) : NULL;
  if (self != NULL) {
    endpoint_of(self)->module = Py_NewRef(module);
    endpoint_of(self)->state = PyModule_GetState(module);
  }
  return self;
}

#define FUNCTION(f) ((PyCFunction) (void (*)(void)) (f))

static PyMethodDef methods[] = {
  {"sendto", FUNCTION(send_to), METH_FASTCALL | METH_KEYWORDS,
   "sendto($self, /, data, addr=None)\n--\n\nQueue `data` to be sent to `addr` at the end of this turn of the loop."},
  {"_flush", FUNCTION(flush), METH_NOARGS, NULL},
  {"_receiver", FUNCTION(receiver), METH_NOARGS, NULL},
  {NULL, NULL, 0, NULL},
};

/* The offsets are those within Endpoint; where that begins is known when asyncio's class is. */
static const PyMemberDef endpoint_members[] = {
  {"_udp", T_OBJECT_EX, offsetof(Endpoint, udp), 0, NULL},
  {"_protocol", T_OBJECT_EX, offsetof(Endpoint, protocol), 0, NULL},
  {"_context", T_OBJECT, offsetof(Endpoint, context), 0, NULL},
  {"_peers", T_OBJECT_EX, offsetof(Endpoint, peers), 0, NULL},
  {"_names", T_OBJECT_EX, offsetof(Endpoint, names), 0, NULL},
  {"_packed", T_OBJECT_EX, offsetof(Endpoint, packed), 0, NULL},
  {"_turns", T_OBJECT_EX, offsetof(Endpoint, turns), 0, NULL},
  {"_buffer", T_OBJECT_EX, offsetof(Endpoint, buffer), 0, NULL},
  {"_address", T_OBJECT, offsetof(Endpoint, address), 0, NULL},
  {"_aim", T_OBJECT_EX, offsetof(Endpoint, aim), 0, NULL},
  {"_peer", T_OBJECT, offsetof(Endpoint, peer), 0, NULL},
  {"_last_batch", T_OBJECT, offsetof(Endpoint, last_batch), 0, NULL},
  {"_size", T_PYSSIZET, offsetof(Endpoint, size), 0, NULL},
  {"_flush_at", T_PYSSIZET, offsetof(Endpoint, flush_at), 0, NULL},
  {"_conn_lost", T_PYSSIZET, offsetof(Endpoint, conn_lost), 0, NULL},
  {"_peer_size", T_PYSSIZET, offsetof(Endpoint, peer_size), 0, NULL},
  {"_alone", T_BOOL, offsetof(Endpoint, alone), 0, NULL},
  {"_blocked", T_BOOL, offsetof(Endpoint, blocked), 0, NULL},
  {"_connected", T_BOOL, offsetof(Endpoint, connected), 0, NULL},
  {NULL, 0, 0, 0, NULL},
};

int datagram_add_type(PyObject *module, State *state) {
  PyMemberDef members[sizeof endpoint_members / sizeof *endpoint_members];
  PyType_Slot slots[] = {
    {Py_tp_doc, "What of a datagram transport runs per datagram."},
    {Py_tp_new, new_endpoint},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_dealloc, dealloc},
    {0, NULL},
  };
  PyType_Spec spec = {"ffloop._speed.Datagram", 0, 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots};

  state->udp_class = (PyTypeObject *) import_from("ffloop.uv", "Udp");
  layout.udp_fd = state->udp_class != NULL ? slot_offset(state->udp_class, "_fd") : -1;
  layout.handle_c = layout.udp_fd >= 0 ? slot_offset(state->udp_class, "_c") : -1;
  if (layout.handle_c < 0)
    return -1;
  memcpy(members, endpoint_members, sizeof members);
  return transport_add_type(module, &spec, sizeof(Endpoint), members, &layout.datagram_offset, &state->datagram_type);
}

#else

int datagram_add_type(PyObject *module, State *state) {
  (void) module;
  (void) state;
  return 0;
}

/* There are no such transports: these are never called. */
int datagram_receive(State *state, PyObject *self, int64_t nread, int64_t payload) {
  (void) state;
  (void) self;
  (void) nread;
  (void) payload;
  return 0;
}

int datagram_flush(State *state, PyObject *self) {
  (void) state;
  (void) self;
  return 0;
}

#endif
