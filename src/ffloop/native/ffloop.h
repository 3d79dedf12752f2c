/* The one header of ffloop's C code: what Python sees of it, and what its files share.
 *
 * Between the two "cdef" marks stands what CFFI parses (build_ffi.py reads it from here), so that the
 * declarations that Python calls through and those that the C compiler checks are the same lines. Below
 * them: what the C files share among themselves. No Python type appears here: nothing in this folder
 * touches an interpreter, and every function runs with the GIL released (CFFI releases it around each
 * call) on the thread that runs the loop, except where a comment says otherwise.
 */
#ifndef FFLOOP_H
#define FFLOOP_H

#include <stdint.h>
#include <stddef.h>
#include <uv.h>

/* cdef: begin */

/* What a record is about. */
enum {
  FFLOOP_READ = 0,    /* status: bytes received, 0 for some that can be, or an error; payload: their offset in the region */
  FFLOOP_WRITE = 1,   /* status: 0 or an error */
  FFLOOP_POLL = 2,    /* status: 0 or an error; payload: FFLOOP_READABLE and FFLOOP_WRITABLE, or'ed */
  FFLOOP_TIMER = 3,
  FFLOOP_ASYNC = 4,
  FFLOOP_GETADDRINFO = 5, /* status: 0 or an error; payload: the list, for ffloop_addrinfo_next */
  FFLOOP_GETNAMEINFO = 6, /* status: 0 or an error; payload: a ffloop_name, for ffloop_name_free */
  FFLOOP_DATAGRAM = 7, /* status: bytes received, or an error; payload: their offset in the region, and the sender's */
  FFLOOP_FS_EVENT = 8, /* status: FFLOOP_RENAMED and FFLOOP_CHANGED, or'ed, or an error; payload: for ffloop_fs_event_name */
  FFLOOP_KIND_BITS = 4 /* how many bits of a record's key tell its kind */
};

enum { FFLOOP_READABLE = 1, FFLOOP_WRITABLE = 2, FFLOOP_ONCE = 4 };
enum { FFLOOP_RENAMED = 1, FFLOOP_CHANGED = 2 };

/* One completion. The key is the token of the handle or request, shifted by FFLOOP_KIND_BITS, and the
 * kind: one look-up on the Python side finds who it is for. */
typedef struct {
  int64_t key;
  int64_t status;
  int64_t payload;
} ffloop_record;

/* A libuv loop with its completion queue, and a libuv handle of any type. */
typedef struct ffloop_loop ffloop_loop;
typedef struct uv_handle_s uv_handle_t;
typedef struct ffloop_poll ffloop_poll;

const char *uv_version_string(void);
const char *uv_strerror(int err);
const char *uv_err_name(int err);
extern const int FFLOOP_EOF;
extern const int FFLOOP_EAGAIN;
extern const int FFLOOP_SYSTEM_LIBUV;

/* queue.c */
ffloop_loop *ffloop_loop_new(size_t region_size, int *error);
int ffloop_loop_close(ffloop_loop *loop);
void ffloop_loop_free(ffloop_loop *loop);
int ffloop_run(ffloop_loop *loop, int64_t timeout_ns);
int ffloop_count(ffloop_loop *loop);
ffloop_record *ffloop_records(ffloop_loop *loop);
char *ffloop_region(ffloop_loop *loop);
void ffloop_wake(ffloop_loop *loop);
typedef struct {
  uint64_t iterations;
  uint64_t events;
  uint64_t idle_ns;
} ffloop_metrics;
int ffloop_get_metrics(ffloop_loop *loop, ffloop_metrics *out);
int ffloop_loop_fork(ffloop_loop *loop);

/* handles.c */
uv_handle_t *ffloop_timer_new(ffloop_loop *loop, int64_t token, int *error);
int ffloop_timer_start(uv_handle_t *timer, int64_t timeout_ns, int64_t repeat_ns);
int ffloop_timer_stop(uv_handle_t *timer);
uv_handle_t *ffloop_async_new(ffloop_loop *loop, int64_t token, int *error);
int ffloop_async_send(uv_handle_t *async);
void ffloop_handle_close(uv_handle_t *handle);

/* stream.c */
uv_handle_t *ffloop_tcp_open(ffloop_loop *loop, int64_t token, int64_t fd, int *error);
int ffloop_tcp_nodelay(uv_handle_t *tcp, int enable);
int ffloop_read_start(uv_handle_t *stream, int only_watch);
int ffloop_read_stop(uv_handle_t *stream);
int64_t ffloop_try_write(uv_handle_t *stream, const char *base, size_t length);
int ffloop_write(uv_handle_t *stream, const char *base, size_t offset, size_t length);
size_t ffloop_write_queue_size(uv_handle_t *stream);
int ffloop_shutdown(uv_handle_t *stream);
int64_t ffloop_fileno(uv_handle_t *handle);

/* udp.c */

/* Who sent a datagram, or is to get one. */
typedef struct {
  uint16_t family;
  uint16_t port;
  uint32_t flowinfo;
  uint32_t scope_id;
  unsigned char host[16]; /* as on the wire; of IPv4 the first four bytes */
} ffloop_peer;

enum {
  FFLOOP_PEERS = 1024,   /* how many senders a turn has room for, behind the region */
  FFLOOP_PEER_SHIFT = 32 /* where in a payload the offset of the sender begins */
};

uv_handle_t *ffloop_udp_open(ffloop_loop *loop, int64_t token, int64_t fd, int *error);
int ffloop_udp_recv_start(uv_handle_t *udp, int only_watch);
int ffloop_udp_recv_stop(uv_handle_t *udp);
int64_t ffloop_udp_try_send(uv_handle_t *udp, const char *data, const char *lengths, const char *peers, int count);

/* poll.c */
ffloop_poll *ffloop_poll_new(ffloop_loop *loop, int64_t token, int64_t fd, int *error);
int ffloop_poll_start(ffloop_poll *poll, int events);
int ffloop_poll_stop(ffloop_poll *poll);
int ffloop_poll_fork(ffloop_poll *poll);
void ffloop_poll_close(ffloop_poll *poll);

/* fs_event.c */
uv_handle_t *ffloop_fs_event_new(ffloop_loop *loop, int64_t token, int *error);
int ffloop_fs_event_start(uv_handle_t *watch, const char *path);
const char *ffloop_fs_event_name(ffloop_loop *loop, int64_t payload);

/* resolve.c */
typedef struct {
  int family;
  int socktype;
  int protocol;
  int port;
  uint32_t flowinfo;
  uint32_t scope_id;
  const char *canonname;
  char host[64];
} ffloop_address;

typedef struct {
  char host[1025];
  char service[32];
} ffloop_name;

int ffloop_getaddrinfo(ffloop_loop *loop, int64_t token, const char *node, const char *service,
                       int family, int socktype, int protocol, int flags);
int64_t ffloop_addrinfo_next(int64_t list, ffloop_address *out);
void ffloop_addrinfo_free(int64_t list);
int ffloop_getnameinfo(ffloop_loop *loop, int64_t token, const char *host, int port,
                       uint32_t flowinfo, uint32_t scope_id, int ipv6, int flags);
void ffloop_name_free(int64_t name);
int ffloop_gai_code(int status);
const char *ffloop_gai_text(int code);
/* cdef: end */

struct ffloop_loop {
  uv_loop_t uv;
  uv_async_t wake;        /* ends a poll from any thread */
  uv_timer_t deadline;    /* the one timer behind ffloop_run's timeout */
  uv_mutex_t wake_lock;   /* guards `closed` against ffloop_wake */
  ffloop_record *records;
  size_t count;           /* records in the current batch */
  size_t capacity;        /* records allocated */
  char *region_memory;    /* what the region lies in */
  char *region;           /* what was received in the current batch, contiguous */
  size_t region_used;
  size_t region_size;
  const uv_handle_t *last_read; /* what was read last in this turn; compared, never followed */
  size_t peers;           /* senders noted behind the region in the current batch */
  size_t offered;         /* of last_read, where it receives datagrams: how many were asked for, */
  size_t taken;           /* how many of those came, */
  size_t taken_in_turn;   /* and how many came altogether */
  int polling;            /* a thread is inside uv_run */
  int failed;             /* a record could not be stored: UV_ENOMEM */
  int closed;             /* closing has begun */
  int finished;           /* closing is done: the memory can go */
#ifdef __linux__
  int poll_set;           /* an epoll descriptor of our own, -1 until the first ffloop_poll_start */
  uv_poll_t poll_watch;   /* libuv's watch on it */
#endif
};

/* Where received bytes begin, in the region. The kernel copies to other addresses far more slowly: on AMD EPYC an echo of
 * 64 KiB ran at 0.57 of uvloop's rate before this, and at 0.9 since. */
#define FFLOOP_ALIGNMENT 64

#define FFLOOP_OF(handle) ((ffloop_loop *) (handle)->loop->data)
#define FFLOOP_TOKEN(handle) ((int64_t) (intptr_t) (handle)->data)

/* Whether Python's number can be a descriptor at all: more bits than an int has would be cut off. */
static inline int ffloop_is_fd(int64_t fd) {
#ifdef _WIN32
  return fd >= 0;
#else
  return fd >= 0 && fd <= INT32_MAX;
#endif
}

/* Marks the next `size` bytes of the region as used, and what lies before the next aligned address. */
static inline void ffloop_use_region(ffloop_loop *loop, size_t size) {
  loop->region_used = (loop->region_used + size + FFLOOP_ALIGNMENT - 1) / FFLOOP_ALIGNMENT * FFLOOP_ALIGNMENT;
}

/* Makes room for so many more records. Returns 0 when memory is out. */
int ffloop_reserve(ffloop_loop *loop, size_t more);

/* Appends a record. When memory is out the batch is marked as failed, which ffloop_run reports. */
void ffloop_append(ffloop_loop *loop, int64_t token, int64_t kind, int64_t status, int64_t payload);

#ifdef __linux__
/* Gives a forked child an epoll set of its own, empty, under the same number. Returns 0 or an error. */
int ffloop_poll_set_fork(ffloop_loop *loop);
#endif

/* Whether the handle's descriptor is still open. libuv aborts when it comes to watch one that somebody has closed behind
 * its back. Returns 0 or an error. */
int ffloop_check_open(const uv_handle_t *handle);

/* A zeroed libuv handle of `type`, carrying `token`. Owned by C: ffloop_handle_close frees it. */
uv_handle_t *ffloop_handle_new(uv_handle_type type, int64_t token);

#endif
