/* The accelerator, `ffloop._speed`: in C, for CPython, what runs per callback, per packet and per connection.
 *
 * Each of its types is a base class that goes in front of the Python class that does the same (core.py, transports.py, datagrams.py,
 * readers.py), or, as Tcp, a subclass of it: what a type has here replaces what the Python class has under that name, and what is not here is
 * the Python class's. Attributes that both touch are members of the C struct, or slots of the Python class, under their Python names, so
 * that there is one state and not two.
 *
 * Every function runs with the GIL held, if there is one, except inside of ffloop_run when it may wait (see queue.c). Unless a comment says
 * otherwise, arguments are borrowed and results are new references; NULL or -1 means that an exception is set.
 *
 * libuv is not linked: ffloop's C functions are called through the table that the CFFI module hands over.
 */
#ifndef FFLOOP_ACCELERATOR_H
#define FFLOOP_ACCELERATOR_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <time.h>

#include "../ffloop.h"

enum { MOST_SLOTS = 16 };
enum { RECEIVING_METHODS = 2, CONNECTION_METHODS = 9 };

enum { RELEASE_AT = 64 * 1024 }; /* bytes from which on a system call takes so long that the GIL is worth giving away */
enum { HIGH_WATER = 64 * 1024, LOW_WATER = 16 * 1024 }; /* bytes, as in stream_state.py */
enum { HANDLE, TIMER, THREADSAFE, KINDS_OF_HANDLES };
#ifdef Py_GIL_DISABLED
enum { FREE_THREADED = 1 };
#else
enum { FREE_THREADED = 0 };
#endif
/* How many dead handles wait for their next use: as many as a large burst of callbacks needs at once, for each that Python allocates brings
 * the next collection of garbage nearer. Timers die in another order than they were made in, and what lies scattered in memory is slower to
 * use than what is new: so only few of them. None under AddressSanitizer, which is to see each one's end, and none where several threads
 * could take one at once. */
#if defined(__SANITIZE_ADDRESS__) || defined(Py_GIL_DISABLED)
enum { FREE_HANDLES = 0, FREE_TIMERS = 0 };
#else
enum { FREE_HANDLES = 16384, FREE_TIMERS = 4096 };
#endif

/* Where the slots of Python's classes lie. The same in every interpreter of a process, and needed even when one ends and its modules are
 * gone: so it belongs to none. */
typedef struct {
  Py_ssize_t callback, args, context, loop, cancelled, repr, source_traceback; /* of asyncio.Handle */
  Py_ssize_t when, scheduled;                                                  /* of asyncio.TimerHandle */
  Py_ssize_t lock;        /* of asyncio's _ThreadSafeHandle: empty, unless somebody makes one of ours by calling its type */
  Py_ssize_t handle_size, timer_size; /* of our types */
  Py_ssize_t due;         /* where a Due begins, behind a TimerHandle's slots */
  Py_ssize_t guard;       /* where a Guard begins, behind those of a handle for other threads */
  Py_ssize_t fd;          /* of uv.Stream */
  Py_ssize_t udp_fd, handle_c; /* of uv.Udp */
  Py_ssize_t tcp_c, tcp_loop, tcp_token, tcp_on_close; /* of uv.Tcp */
  Py_ssize_t tcp_slots[MOST_SLOTS]; /* all those of it */
  int tcp_slot_count;
  Py_ssize_t tcp_offset;  /* where the part in C begins, behind them */
  Py_ssize_t transport_loop, transport_paused, transport_high, transport_low; /* of asyncio's transport classes */
  Py_ssize_t transport_slots[MOST_SLOTS]; /* all those of them */
  int transport_slot_count;
  Py_ssize_t stream_offset; /* where the transport's own part begins, behind them */
  Py_ssize_t datagram_offset; /* the same of a datagram transport */
} Layout;

extern Layout layout;

/* What belongs to an interpreter. It lives as long as the module; whoever may outlive that in a collection of garbage holds the module. */
typedef struct {
  const ffloop_api *api;
  int eof; /* the status that tells of the end of a stream */

  PyTypeObject *handle_type; /* Handle, a subclass of asyncio.Handle; and so on */
  PyTypeObject *timer_type;
  PyTypeObject *threadsafe_type; /* a subclass of the class below, NULL before 3.14 */
  PyTypeObject *ready_type;
  PyTypeObject *queue_type;
  PyTypeObject *loop_type;
  PyTypeObject *watch_type;
  PyTypeObject *stream_type;
  PyTypeObject *tcp_type; /* NULL where there is none */
  PyTypeObject *server_type; /* likewise */
  PyTypeObject *transports_type; /* likewise */
  PyTypeObject *datagram_type; /* likewise */
  PyTypeObject *udp_class;     /* uv.Udp */

  PyTypeObject *asyncio_handle;
  PyTypeObject *asyncio_timer;
  PyTypeObject *threadsafe_handle; /* asyncio.events._ThreadSafeHandle, NULL before 3.14 */
  unsigned threadsafe_tag;         /* what it looks like as long as nobody has changed it, 0 when it is not known */
  PyObject *handle_cancel; /* asyncio.Handle.cancel */
  PyObject *base_loop;     /* asyncio.BaseEventLoop */
  PyObject *base_dict;     /* what its functions see as globals */
  PyObject *base_time;     /* BaseEventLoop.time, and so on: for what is done in Python */
  PyObject *base_run_once;
  PyObject *base_call_soon;
  PyObject *base_call_soon_threadsafe;
  PyObject *base_call_later;
  PyObject *base_call_at;
  PyObject *base_create_future;
  PyObject *base_create_task;
  PyObject *base_is_running;
  PyObject *own_run_once; /* EventLoop._run_once, and so on */
  PyObject *own_call_at;
  PyObject *own_time;
  PyObject *asyncio_run;  /* asyncio.Handle._run, before anybody has replaced it */
  PyObject *monotonic;   /* time.monotonic, the real one */
  PyObject *time_module, *time_dict; /* where it can be replaced */
  PyObject *empty_bytes;
  PyObject *format_source; /* asyncio.format_helpers._format_callback_source */
  PyObject *buffered_protocol; /* asyncio.BufferedProtocol */
  PyObject *os_error, *pointer_to; /* of ffloop.uv */
  PyObject *transport_class; /* StreamTransport, NULL until it is first needed */
  PyObject *high_water, *low_water; /* of a transport that nobody has told others */
  PyObject *only_context; /* ("context",): the names of the keywords of call_soon() */
  PyObject *only_loop;    /* ("loop",): of futures' and tasks' */
  PyObject *futures_dict, *tasks_dict; /* where their classes can be replaced */
  PyObject *future_class, *task_class; /* those in C, NULL in a Python without */

  PyObject *free_handles[KINDS_OF_HANDLES]; /* chained by their slot for the callback */
  int free_count[KINDS_OF_HANDLES];
  PyObject *spare_context; /* an empty one that nobody else knows, or NULL */

  /* Names of methods, interned. */
#define NAMES(name)                                                                                                        \
  name(addr, "addr") name(attach, "_attach") name(buffer_updated, "buffer_updated") name(call_at, "call_at")               \
  name(call_connection_lost, "_call_connection_lost") name(call_exception_handler, "call_exception_handler")               \
  name(call_later, "call_later") name(call_soon, "call_soon") name(call_soon_threadsafe, "call_soon_threadsafe")           \
  name(cancelled, "_cancelled") name(close, "close") name(connect_any, "_connect_any")                                     \
  name(connection_lost, "connection_lost") name(connection_made, "connection_made") name(context, "context")               \
  name(create_connection_transport, "_create_connection_transport") name(create_future, "create_future")                   \
  name(create_task, "create_task") name(data_received, "data_received") name(datagram_received, "datagram_received")       \
  name(del, "__del__") name(detach, "_detach") name(done, "done") name(drop, "_drop") name(eager_start, "eager_start")     \
  name(ensure_resolved, "_ensure_resolved") name(enter, "_enter") name(eof_received, "eof_received") name(fd, "_fd")       \
  name(flush, "_flush") name(future, "Future") name(get_buffer, "get_buffer") name(get_extra_info, "get_extra_info")       \
  name(getaddrinfo, "getaddrinfo") name(has_own_parts, "_has_own_parts") name(is_running, "is_running")                    \
  name(join, "join") name(loop, "loop")                                                                                    \
  name(make_socket_transport, "_make_socket_transport") name(maybe_pause, "_maybe_pause_protocol")                         \
  name(monotonic, "monotonic") name(name_of, "name") name(peername, "peername") name(process_events, "_process_events")    \
  name(receive, "_receive") name(refused, "_refused") name(resume_reading, "resume_reading") name(run, "_run")             \
  name(run_once, "_run_once") name(select, "select") name(send_now, "_send_now") name(serve, "_serve")                     \
  name(serve_once, "_serve_once") name(set_aside, "_set_aside") name(set_result, "set_result")                             \
  name(sock_connect, "sock_connect") name(sockname, "sockname") name(start_reading, "_start_reading")                      \
  name(stop_reading, "_stop_reading") name(take_aim, "_take_aim") name(task, "Task") name(thread_id, "_thread_id")         \
  name(time, "time") name(timer_handle_cancelled, "_timer_handle_cancelled") name(transports, "_transports")               \
  name(wake_up, "_wake_up") name(write_to_self, "_write_to_self")
#define DECLARE(name, text) PyObject *str_##name;
  NAMES(DECLARE)
#undef DECLARE
} State;

extern struct PyModuleDef speed_module;

/* Asks for what is read soon, of a large number of objects that lie anywhere. */
#ifdef __GNUC__
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void) (address))
#endif

/* What several threads see at once where there is no GIL: a loop that others schedule callbacks in. With it these are plain loads and stores. A
 * loop's transports, timers and all else of it belong to its thread. */
#if PY_VERSION_HEX < 0x030d0000
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif
#ifdef Py_GIL_DISABLED
#ifndef __GNUC__
#error "without the GIL the accelerator needs the atomics of gcc and clang"
#endif
#define LOAD(place) __atomic_load_n(&(place), __ATOMIC_RELAXED)
#define STORE(place, value) __atomic_store_n(&(place), (value), __ATOMIC_RELAXED)
#define FENCE() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define LOCK(mutex) PyMutex_Lock(mutex)
#define UNLOCK(mutex) PyMutex_Unlock(mutex)
typedef PyMutex Mutex;
#else
#define LOAD(place) (place)
#define STORE(place, value) ((place) = (value))
#define FENCE() ((void) 0)
#define LOCK(mutex) ((void) 0)
#define UNLOCK(mutex) ((void) 0)
#endif

#define SLOT(object, offset) (*(PyObject **) ((char *) (object) + (offset)))

/* ready.c: the queue of what is ready to run. */
typedef struct {
  PyObject_HEAD
  PyObject **items; /* a ring; its size is a power of two */
  Py_ssize_t size, head, length;
#ifdef Py_GIL_DISABLED
  Mutex mutex; /* never held while anything of Python's runs */
#endif
} Ready;

extern PyType_Spec ready_spec;
PyObject *ready_new(State *state);
int ready_append(Ready *ready, PyObject *item);
int ready_reserve(Ready *ready, Py_ssize_t more); /* so many appends will not fail; -1 without an exception */
int ready_append_left(Ready *ready, PyObject *item);
PyObject *ready_pop_left(Ready *ready); /* NULL without an exception when empty */

/* The item at `index`, borrowed, of more than so many. */
static inline PyObject *ready_peek(const Ready *ready, Py_ssize_t index) {
  return ready->items[(ready->head + index) & (ready->size - 1)];
}

/* Contexts that are empty, and that nobody else knows, are all the same: handles and connections have none until they run, and share one that
 * waits for the next of them. */
static inline PyObject *context_take(State *state) {
  PyObject *context = FREE_THREADED ? NULL : state->spare_context;

  if (context != NULL)
    state->spare_context = NULL;
  return context != NULL ? context : PyContext_New();
}

static inline Py_ssize_t context_length(PyObject *context) {
  return PyContext_Type.tp_as_mapping->mp_length(context);
}

/* Whether it is such a one. `references`: how many of them are those who ask. Where several threads could take it at once, none is. */
static inline int context_is_blank(PyObject *context, Py_ssize_t references) {
  return !FREE_THREADED && PyContext_CheckExact(context) && Py_REFCNT(context) == references &&
         SLOT(context, Py_TYPE(context)->tp_weaklistoffset) == NULL && context_length(context) == 0;
}

/* Takes the reference, the only one, to a blank context. */
static inline void context_give(State *state, PyObject *context) {
  if (state->spare_context == NULL)
    state->spare_context = context;
  else
    Py_DECREF(context);
}

/* handles.c: handles and timer handles, and how they run. */
int handles_add_types(PyObject *module, State *state);
void handles_clear_free(State *state);
PyObject *handle_new(State *state, int kind, PyObject *loop, PyObject *callback, PyObject *const *args, Py_ssize_t count,
                     PyObject *context);
int handle_run(State *state, PyObject *handle);
void handles_prefetch(State *state, const Ready *ready);

/* Behind a timer's slots: what its slot `_when` says. */
typedef struct {
  PyObject *number; /* which float that is of: held, so that no other takes its place in memory and is taken for it */
  double when;
} Due;

static inline Due *due_of(PyObject *timer) {
  return (Due *) ((char *) timer + layout.due);
}

/* guard.c: behind the slots of a handle for other threads, what keeps them apart. */
typedef struct {
  PyThread_type_lock lock; /* taken, for others to wait at; NULL as long as nobody had to */
  uint64_t inside;         /* the thread that is, if depth > 0; of this size everywhere, or on Windows a handle is as large as a timer */
#ifdef Py_GIL_DISABLED
  Mutex mutex; /* guards the fields; not held while waiting */
#endif
  int depth, waiting;
  int released;            /* somebody who has waited is about to go on */
} Guard;

int guard_enter(PyObject *handle);
void guard_leave(PyObject *handle);
void guard_end(PyObject *handle);

/* timers.c: the heap of asyncio, `_scheduled`, with the order that heapq would give it. */
int timers_push(State *state, PyObject *heap, PyObject *timer);
PyObject *timers_pop(State *state, PyObject *heap);
int timers_move_many(State *state, PyObject *heap, double end, Ready *ready);
int timers_heapify(State *state, PyObject *heap);
int timers_when(State *state, PyObject *timer, double *when);

/* queue.c: the completion queue, `uv.Loop`: the poll, the dispatch, the flush. */
typedef struct {
  PyObject_HEAD
  State *state;
  PyObject *module; /* keeps the state */
  ffloop_loop *loop; /* NULL before `_open` and after the loop was closed */
  Ready *dirty;
  PyObject *callbacks, *backlog, *last, *on_error, *before_wait;
  PyObject *handles, *new_token; /* of the uv.Loop that it is, NULL while it is closed */
  PyObject *batch;   /* what stands for the batch in Python, once it was asked for */
  ffloop_record *records;
  char *region;
  int next, count;   /* of the records, those that were not handed out yet */
  int active;        /* a batch is being handed out, or is to be */
  int waiting;       /* inside of libuv without the GIL: only a wake-up ends that */
  uint64_t serial;   /* of the batch */
  int may_skip;      /* how many polls may be skipped from now on */
  int64_t skipped_at; /* when the first of them was, in ns */
} Queue;

enum { MOST_SKIPPED = 64 }; /* polls */

extern PyType_Spec queue_spec;
int queue_poll(Queue *queue, int64_t timeout_ns); /* the number of records; -1 when older ones are left, -2 for an exception */
int queue_dispatch(Queue *queue, Py_ssize_t most);
int queue_flush(Queue *queue);
PyObject *queue_batch(Queue *queue); /* what stands for the batch that is being handed out; borrowed */

/* loop.c: `BaseEventLoop`: the turn. */
typedef struct {
  PyObject_HEAD
  State *state;
  PyObject *module; /* keeps the state */
  Ready *ready;
  PyObject *scheduled, *stopping, *closed, *debug, *thread_id, *selector, *task_factory;
  Py_ssize_t timer_cancelled_count;
  double clock_resolution;
  Queue *queue;
  PyObject *own_selector, *own_select; /* those that `_accelerate` was given: others are asked as asyncio does */
  PyObject *batch;         /* the entry of the ready queue that stands for the queue's batch */
  PyObject *process_events; /* of the class that `_accelerate` was called from */
  Py_ssize_t at_select;    /* the selector's slot */
  PyObject *write_to_self;  /* likewise */
  unsigned type_tag, handle_tag, timer_tag; /* what the types looked like when `plain` was found out */
  unsigned parts_tag;      /* what the class looked like when `own_parts` was found out */
  char own_parts;          /* whether its connections are made as connections.py makes them */
  char tagged;             /* whether the types of the tags above all have one */
  int plain;               /* PLAIN_*, or'ed */
  int replaced;            /* what was set on the instance, likewise */
  char many;               /* run_forever is our caller: the turns follow each other without going back to it */
  char running;            /* in the callbacks of a turn of ours: what comes into the queue is seen before the next wait */
} EventLoop;

extern PyType_Spec loop_spec;

/* How many timers there are, -1 with an exception. */
static inline Py_ssize_t loop_count_timers(EventLoop *self) {
  if (self->scheduled != NULL && PyList_CheckExact(self->scheduled))
    return PyList_GET_SIZE(self->scheduled);
  PyErr_SetString(PyExc_RuntimeError, "something has taken the loop's timers away");
  return -1;
}

/* parts.c: which parts of a loop are its own. */
enum {
  /* What has to be as it was made for the short way to be right. */
  PLAIN_TIME = 1,    /* time() */
  PLAIN_CALL_AT = 2, /* call_at(), which call_later() calls */
  PLAIN_WAKE = 4,    /* _write_to_self() */
  PLAIN_TURN = 8,    /* _run_once(), Handle._run() */
  PLAIN_EVENTS = 16, /* _process_events() */
  PLAIN_SOON = 32,   /* BaseEventLoop's call_soon() and call_soon_threadsafe(), which ours stand in front of */
  PLAIN_BASE_AT = 64, /* and its call_at() and call_later() */
  PLAIN_MAKE = 128, /* and its create_future() and create_task() */
  PLAIN_RUNNING = 256, /* and its is_running() */
  PLAIN_ALL = 511,
  PLAIN_CONNECT = 512 /* what makes connections, on the loop itself: of the class `own_parts` tells */
};

int loop_find_out_plain(EventLoop *self);
int loop_set_attribute(PyObject *self, PyObject *name, PyObject *value);
int loop_has_real_clock(State *state);
int loop_time(EventLoop *self, int as_is, double *now);
PyObject *loop_call_base(PyObject *name, EventLoop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *loop_is_overridden(EventLoop *self, void *unused);

/* Which parts of the loop are its own: PLAIN_*, or'ed; -1 with an exception. A changed type has another tag, or none. */
static inline int loop_plain(EventLoop *self) {
  unsigned tag = LOAD(Py_TYPE(self)->tp_version_tag);

  if ((tag != LOAD(self->type_tag) || LOAD(self->handle_tag) != LOAD(self->state->handle_type->tp_version_tag) ||
       LOAD(self->timer_tag) != LOAD(self->state->timer_type->tp_version_tag) || !LOAD(self->tagged)) &&
      loop_find_out_plain(self) < 0)
    return -1;
  return LOAD(self->plain) & ~LOAD(self->replaced);
}

/* scheduling.c: call_soon() and its kin, create_future() and create_task(). */
PyObject *loop_call_soon(EventLoop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *loop_call_soon_threadsafe(EventLoop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *loop_call_at(EventLoop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *loop_call_later(EventLoop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *loop_get_time(EventLoop *self, PyObject *unused);
PyObject *loop_is_running(EventLoop *self, PyObject *unused);
PyObject *loop_get_debug(EventLoop *self, PyObject *unused);
PyObject *loop_create_future(EventLoop *self, PyObject *unused);
PyObject *loop_create_task(EventLoop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);

/* A loop's class is a dozen classes away from ours, which `PyObject_TypeCheck` goes through one by one; only a class that has ours among its
 * bases has this function. */
static inline int is_loop(const State *state, PyObject *object) {
  return Py_TYPE(object)->tp_setattro == loop_set_attribute || PyObject_TypeCheck(object, state->loop_type);
}

/* tcp.c: the handle of a connection. */
int tcp_add_type(PyObject *module, State *state);
PyObject *tcp_new(State *state, Queue *queue, int fd, int nodelay); /* with an exception, `fd` is still the caller's */
int is_tcp(const State *state, PyObject *stream); /* whether it is one of these, and the functions below may have it */
uv_handle_t *tcp_handle(PyObject *tcp);           /* NULL when it is closed */
int tcp_read_start(State *state, PyObject *tcp, int only_watch, PyObject *receiver);
void tcp_read_stop(State *state, PyObject *tcp);
PyObject *tcp_receiver(State *state, Queue *queue, int64_t token); /* who gets what the Tcp of that token reads; NULL: nobody, or it is no Tcp */
int tcp_close(State *state, PyObject *tcp);

/* watch.c: the watch of a descriptor, when it is ready. */
extern PyType_Spec watch_spec;

/* sockets.c: connect() and accept() where the system makes a socket and says that it is not to block in one call, receive() where a single
 * call can be made not to wait. */
extern PyMethodDef socket_functions[];

/* What both sides of a connection are called: borrowed. peer: NULL for the IPv4 address that is behind it, of which a name is made when
 * somebody wants it. Nobody does for most connections, and it would be a tenth of what an idle one takes. */
typedef struct {
  PyObject *own, *peer;
  uint32_t host; /* in the order of the network, as the port is */
  uint16_t port;
} Names;

#if defined(__linux__) || defined(__FreeBSD__)
#define HAVE_BARE_SOCKETS
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

/* All zeros where nothing stands, so that two can be compared as they are. */
typedef struct {
  union {
    struct sockaddr any;
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
    struct sockaddr_un path;
    struct sockaddr_storage storage;
  };
  socklen_t length;
} Address;

/* A connection's descriptor, -1 with an exception. `own` is all zeros for one that has gone already. */
int socket_accept(int listening, Address *own, Address *peer);

PyObject *socket_connect(PyObject *owned, PyObject *info);
/* The address as the socket module has it: (host, port), of IPv6 with (flow, scope) behind; of a Unix socket its path, "" without one, and
 * bytes for a name that is none of a file. None for any other family. host: NULL, or what is known to be its text. */
PyObject *socket_name(const Address *address, PyObject *host);

/* opening.c: a descriptor becomes a connection. Returns the transport; *fd is -1 as soon as the descriptor is a stream's. *protocol: a new
 * reference to what the factory has made, if it has. nodelay: it has Nagle's algorithm, and is to be without. server: None without one;
 * context: NULL for a copy of the current one, made after the factory has run. */
PyObject *connection_open(State *state, EventLoop *loop, int *fd, int nodelay, PyObject *factory, const Names *names, PyObject *server,
                          PyObject *context, PyObject **protocol);
PyObject *loop_adopt(EventLoop *self, PyObject *const *args, Py_ssize_t nargs);

/* server.c. The name of the peer of a connection: new. Those from one host share its text, where the server is one of ours; it may be anything,
 * or NULL. */
PyObject *server_name_peer(State *state, PyObject *server, uint32_t host, uint16_t port);
#endif

int connecting_add_type(PyObject *module);

/* server.c: what a server does for each connection. Where there is no type for it these call the methods. */
int server_add_type(PyObject *module, State *state);
int server_attach(State *state, PyObject *server);
int server_detach(State *state, PyObject *server);

/* stream.c: the stream transport, per packet; connection.c: its beginning and its end. This is what of it is kept in C, behind the slots
 * that asyncio's class has. */
typedef struct {
  PyObject *first;       /* written since the last flush: bytes, b"" for nothing */
  PyObject *more;        /* what was written after it: a list, None before there was any */
  PyObject *refusal;     /* why nothing may be written, None if it may */
  PyObject *protocol;
  PyObject *context;     /* that of its callbacks; NULL as long as it is blank, once it reads */
  PyObject *stream;      /* the uv.Stream, whose descriptor it is */
  PyObject *facts, *sockname, *peername, *rest, *server, *socket, *held, *empty_waiter; /* for Python's functions */
  PyObject *module;      /* keeps the state */
  State *state;
  PyObject *transports;  /* those of the loop, which it is to be taken out of; see transports.c */
  Py_ssize_t more_size, flush_at, conn_lost;
  Py_ssize_t filled;     /* bytes of the last read past libuv */
  int number;            /* its place there */
  uint32_t peer_host;    /* the peer's IPv4 address, of which peername is made when somebody wants it, in the order of the network; */
  uint16_t peer_port;    /* 0 where there is none, or peername is there */
  signed char calm;      /* turns in which it has written once, since it last wrote twice; CALM at most */
  char way;              /* what it does with a record, as its own receiver: see receiving.c */
  char reading;          /* something is to be received */
  char writing, resuming, eof, closing, paused, ended, protocol_connected, buffered; /* of Python's */
} Part;

static inline Part *part_of(PyObject *self) {
  return (Part *) ((char *) self + layout.stream_offset);
}

/* The loop of a transport, if it is one of ours. */
static inline EventLoop *loop_of(const State *state, PyObject *transport) {
  PyObject *loop = SLOT(transport, layout.transport_loop);

  return loop != NULL && is_loop(state, loop) ? (EventLoop *) loop : NULL;
}

/* Enters the context of a connection's callbacks: *context is a new reference, *was_blank for connection_leave(). -1 with an exception: the
 * protocol runs the loop from a callback of its own, and is in it. */
int connection_enter(State *state, PyObject *transport, PyObject **context, int *was_blank);
int connection_leave(State *state, PyObject *transport, PyObject *context, int was_blank); /* takes the reference; -1 with an exception */

/* Whether something is kept that came while nobody was to have it. */
static inline int is_held(const Part *part) {
  return part->held != NULL && part->held != Py_None && PyList_CheckExact(part->held) && PyList_GET_SIZE(part->held) > 0;
}

/* Makes the type of a transport's part in C, `size` bytes, for which the members' offsets stand: a subclass of asyncio's `_FlowControlMixin`, or
 * in front of a Python class that is one, too, it would fit with no other. */
int transport_add_type(PyObject *module, PyType_Spec *spec, size_t size, PyMemberDef *members, Py_ssize_t *offset, PyTypeObject **made);
int stream_add_type(PyObject *module, State *state);
long stream_descriptor(const Part *part); /* -1 when it is closed, or with an exception */
int stream_flush(State *state, PyObject *transport);
int stream_fatal(PyObject *transport, const char *message); /* ends the connection for the exception that is set */

/* receiving.c: what arrives, and the ways in which it may. */
enum { DELIVER, FILL, READ };
int stream_receive(State *state, PyObject *transport, int64_t nread, int64_t offset);
extern PyMethodDef receiving_methods[RECEIVING_METHODS];

/* connection.c: the beginning and the end. */
int connection_receive(State *state, PyObject *transport); /* has libuv tell of what arrives */
int connection_init(PyObject *transport, PyObject *args, PyObject *kwargs);
/* A transport of our own on `stream`, a Tcp, which is its to close even if there is an exception; a new reference. */
PyObject *connection_new(State *state, PyObject *loop, PyObject *stream, PyObject *protocol, const Names *names, PyObject *server,
                         PyObject *context);
int connection_read_end(State *state, PyObject *transport); /* inside of the connection's context */
void connection_finalize(PyObject *transport);
extern PyMethodDef connection_methods[CONNECTION_METHODS];
extern PyGetSetDef connection_properties[];

/* transports.c: which transport has which descriptor. */
int transports_add_type(PyObject *module, State *state);
int transports_introduce(State *state, PyObject *transports, PyObject *fd, PyObject *transport);
void transports_forget(PyObject *transport); /* a stream transport, which is about to go */

/* datagram.c: the datagram transport, per datagram. */
int datagram_add_type(PyObject *module, State *state);
int datagram_receive(State *state, PyObject *transport, int64_t nread, int64_t payload);
int datagram_flush(State *state, PyObject *transport);

/* Whether `object` is of a class of ours, NULL for one that there is not. That of a transport has it for its first base: to look through all
 * of its bases for it costs as much as a fifth of delivering a datagram. */
static inline int is_a(PyObject *object, PyTypeObject *type) {
  return type != NULL && (Py_TYPE(object)->tp_base == type || PyObject_TypeCheck(object, type));
}

/* What a dictionary has under a key: a new reference, NULL without an exception for nothing. */
static inline PyObject *dict_get(PyObject *dict, PyObject *key) {
#if PY_VERSION_HEX >= 0x030d0000
  PyObject *found;

  (void) PyDict_GetItemRef(dict, key, &found);
  return found;
#else
  return Py_XNewRef(PyDict_GetItemWithError(dict, key));
#endif
}

/* Calls a method for what it does: takes its result. */
static inline int tell(PyObject *done) {
  Py_XDECREF(done);
  return done != NULL ? 0 : -1;
}

/* Whether what was raised is let through, as asyncio does. */
static inline int is_let_through(void) {
  return PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt);
}

/* Takes the exception that is set: normalized, with its traceback. A new reference. */
static inline PyObject *take_exception(void) {
#if PY_VERSION_HEX >= 0x030c0000
  return PyErr_GetRaisedException();
#else
  PyObject *type, *value, *traceback;

  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  if (traceback != NULL)
    PyException_SetTraceback(value, traceback);
  Py_XDECREF(type);
  Py_XDECREF(traceback);
  return value;
#endif
}

/* Sets an exception that was taken again, as it was: PyErr_SetObject() would give it another __context__. Takes the reference. */
static inline void restore_exception(PyObject *exception) {
#if PY_VERSION_HEX >= 0x030c0000
  PyErr_SetRaisedException(exception);
#else
  PyErr_Restore(Py_NewRef(Py_TYPE(exception)), exception, PyException_GetTraceback(exception));
#endif
}

/* Whether asyncio's class of handles for other threads is as asyncio has made it. */
static inline int is_threadsafe_known(const State *state) {
  return state->threadsafe_handle != NULL && state->threadsafe_tag != 0 &&
         LOAD(state->threadsafe_handle->tp_version_tag) == state->threadsafe_tag;
}

#ifndef _WIN32
/* The clock of time.monotonic() on Linux, in ns. */
static inline int64_t monotonic_ns(void) {
  struct timespec moment;

  clock_gettime(CLOCK_MONOTONIC, &moment);
  return (int64_t) moment.tv_sec * 1000000000 + moment.tv_nsec;
}
#endif

/* Sets a slot or a member to `value`, whose reference it takes over. */
static inline void replace(PyObject **slot, PyObject *value) {
  PyObject *old = *slot;

  STORE(*slot, value);
  Py_XDECREF(old);
}

/* module.c. The offset of a slot that `type` has under `name`, -1 with an exception; all that it has, with those of its bases. */
Py_ssize_t slot_offset(PyTypeObject *type, const char *name);
int find_slots(PyTypeObject *type, Py_ssize_t *slots, int *count);
PyObject *import_from(const char *module, const char *name);

#endif
