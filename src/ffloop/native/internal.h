/* What the C files that know libuv share among themselves. What others may know of them is in ffloop.h. */
#ifndef FFLOOP_INTERNAL_H
#define FFLOOP_INTERNAL_H

#include <uv.h>

#include "ffloop.h"

struct ffloop_loop {
  uv_loop_t uv;
#ifdef __linux__
  uv_poll_t wake;         /* ends a poll from any thread: it watches */
  int wake_fd;            /* an eventfd, */
  int woken;              /* which was written to since it was last seen ready; atomic, every thread's */
  int edge_triggered;     /* the kernel tells of each write once, unread */
#else
  uv_async_t wake;        /* ends a poll from any thread */
#endif
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
  size_t taken_in_turn;   /* how many came altogether, */
  size_t most;            /* and how many may */
  uint64_t iterations;    /* how often ffloop_run was called */
  int polling;            /* a thread is inside ffloop_run */
  int failed;             /* a record could not be stored: UV_ENOMEM */
  struct ffloop_late *late, **late_end; /* completions that wait for the next batch, in order, and where the next one goes */
  int closed;             /* closing has begun */
  int finished;           /* closing is done: the memory can go */
#ifdef __linux__
  int poll_set;           /* an epoll descriptor of our own, -1 until the first ffloop_poll_new */
  uv_poll_t poll_watch;   /* libuv's watch on it, while libuv's set is the outer one */
  int outer;              /* ours is, and libuv's stands in it */
  int balance;            /* who brings the events: see ffloop_poll_set_turn */
  size_t watched;         /* how many records of the current batch are of watched descriptors */
  int measured;           /* somebody wants to know how long was waited */
  uint64_t events;        /* what libuv has not counted: events of the set, */
  uint64_t idle_ns;       /* and the time in which it was waited on */
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

/* Makes room for so many more records. Returns 0 when memory is out. The array may move, but not for a batch of a few: of that the pure speed
 * does not ask where it is (uv/loop.py). */
enum { FFLOOP_SMALL_BATCH = 16 };
int ffloop_reserve(ffloop_loop *loop, size_t more);

/* Appends a record. When memory is out the batch is marked as failed, which ffloop_run reports. */
void ffloop_append(ffloop_loop *loop, int64_t token, int64_t kind, int64_t status, int64_t payload);

/* A completion for whose record there was no memory. */
struct ffloop_late {
  struct ffloop_late *next;
  ffloop_record record;
};

/* Appends the record of what ends a request, and comes once: it is never lost. `request` is what the request lay in, which is freed; when memory is
 * out the record lies there until the next batch. */
void ffloop_complete(ffloop_loop *loop, void *request, int64_t token, int64_t kind, int64_t status, int64_t payload);

/* Frees what a record carries, which nobody gets any more. */
void ffloop_drop(const ffloop_record *record);

/* Makes of a ffloop_peer at `from` the address that the system wants. */
void ffloop_read_peer(const char *from, struct sockaddr_in6 *name);

/* wake.c: makes what ends a poll from another thread, in a loop that libuv has made. Returns 0 or an error; then nothing is left open. */
int ffloop_wake_open(ffloop_loop *loop);

/* When libuv has closed the loop. */
void ffloop_wake_closed(ffloop_loop *loop);

/* In a forked child, before uv_loop_fork: the parent is not to be woken from here. Returns 0 or an error. */
int ffloop_wake_fork(ffloop_loop *loop);

#ifdef __linux__
/* Gives a forked child an epoll set of its own, empty, under the same number. Returns 0 or an error. */
int ffloop_poll_set_fork(ffloop_loop *loop);

/* In the place of uv_run, while our set is the outer one. */
void ffloop_poll_set_run(ffloop_loop *loop, int64_t timeout_ns);

/* After a turn that has brought something: lets that set be the outer one from which most comes. */
void ffloop_poll_set_turn(ffloop_loop *loop);
#endif

/* Whether the handle's descriptor is still open. libuv aborts when it comes to watch one that somebody has closed behind
 * its back. Returns 0 or an error. */
int ffloop_check_open(const uv_handle_t *handle);

/* A zeroed libuv handle of `type`, carrying `token`. Owned by C: ffloop_handle_close frees it. */
uv_handle_t *ffloop_handle_new(uv_handle_type type, int64_t token);

#endif
