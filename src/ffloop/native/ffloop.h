/* What the C files that know libuv give to others: to Python through CFFI, and to the accelerator.
 *
 * Between the two "cdef" marks stands what CFFI parses (build_ffi.py reads it from here), so that the
 * declarations that Python calls through and those that the C compiler checks are the same lines. What the C
 * files share among themselves is in internal.h. No Python type appears here: no file of this folder
 * touches an interpreter, and every function runs with the GIL released (CFFI releases it around each
 * call) on the thread that runs the loop, except where a comment says otherwise.
 */
#ifndef FFLOOP_H
#define FFLOOP_H

#include <stdint.h>
#include <stddef.h>

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
uint64_t ffloop_runs(ffloop_loop *loop);
ffloop_record *ffloop_records(ffloop_loop *loop);
char *ffloop_region(ffloop_loop *loop);
typedef struct {
  uint64_t iterations;
  uint64_t events;
  uint64_t idle_ns;
} ffloop_metrics;
int ffloop_get_metrics(ffloop_loop *loop, ffloop_metrics *out);
int ffloop_loop_fork(ffloop_loop *loop);
int64_t ffloop_api_address(void);

/* wake.c */
void ffloop_wake(ffloop_loop *loop);

/* handles.c */
uv_handle_t *ffloop_timer_new(ffloop_loop *loop, int64_t token, int *error);
int ffloop_timer_start(uv_handle_t *timer, int64_t timeout_ns, int64_t repeat_ns);
int ffloop_timer_stop(uv_handle_t *timer);
uv_handle_t *ffloop_async_new(ffloop_loop *loop, int64_t token, int *error);
int ffloop_async_send(uv_handle_t *async);
void ffloop_handle_close(uv_handle_t *handle);
uv_handle_t *ffloop_handle_find(ffloop_loop *loop, int64_t token);

/* stream.c */
uv_handle_t *ffloop_tcp_open(ffloop_loop *loop, int64_t token, int64_t fd, int nodelay, int *error);
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

/* The same for Unix sockets: the length of the path, and the path, which may hold zeros. */
enum { FFLOOP_UNIX_PEER = 112, FFLOOP_UNNAMED = 0xffff };

/* How ffloop_udp_recv_start receives. */
enum { FFLOOP_RECV_INTERNET, FFLOOP_RECV_UNIX, FFLOOP_RECV_NOTHING };

uv_handle_t *ffloop_udp_open(ffloop_loop *loop, int64_t token, int64_t fd, int *error);
int ffloop_udp_recv_start(uv_handle_t *udp, int way);
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

struct sockaddr_in6;

/* What the accelerator calls without CFFI's crossing, and so with the GIL held unless it releases it. It finds the table through
 * ffloop_api_address, and refuses one that was not compiled from this very file: FFLOOP_HEADER is its checksum. */
typedef struct {
  uint64_t header;
  size_t size; /* of this struct */
  int eof;
  int (*run)(ffloop_loop *loop, int64_t timeout_ns);
  int (*count)(ffloop_loop *loop);
  ffloop_record *(*records)(ffloop_loop *loop);
  char *(*region)(ffloop_loop *loop);
  void (*wake)(ffloop_loop *loop);
  uv_handle_t *(*tcp_open)(ffloop_loop *loop, int64_t token, int64_t fd, int nodelay, int *error);
  int (*read_start)(uv_handle_t *stream, int only_watch);
  int (*read_stop)(uv_handle_t *stream);
  void (*handle_close)(uv_handle_t *handle);
  void (*read_peer)(const char *from, struct sockaddr_in6 *name); /* the address that a ffloop_peer is to the system */
} ffloop_api;

#endif
