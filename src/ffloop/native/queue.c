/* The completion queue: one libuv loop, the records that its callbacks append, and the region that
 * received bytes land in. What lives here runs once a turn. What a single kind of handle needs does not:
 * see handles.c, stream.c, udp.c, poll.c and resolve.c; nor what ends a poll from another thread: see wake.c.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#ifndef _WIN32
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>
#endif

const int FFLOOP_EOF = UV_EOF;
const int FFLOOP_EAGAIN = UV_EAGAIN;
#ifdef FFLOOP_USES_SYSTEM_LIBUV
const int FFLOOP_SYSTEM_LIBUV = 1;
#else
const int FFLOOP_SYSTEM_LIBUV = 0;
#endif

enum { FIRST_RECORDS = 256 };

static void on_deadline(uv_timer_t *deadline) {
  (void) deadline;
}

/* Whether a handful of descriptors can still be had. */
static int check_descriptors(void) {
#ifndef _WIN32
  enum { HANDFUL = 7 };
  int fds[HANDFUL];
  int count;
  int status = 0;

  for (count = 0; count < HANDFUL; count++) {
    fds[count] = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fds[count] == -1) {
      status = uv_translate_sys_error(errno);
      break;
    }
  }
  while (count > 0)
    close(fds[--count]);
  return status;
#else
  return 0;
#endif
}

/* glibc returns the end of its heap to the system with every free() beyond 128 KiB, and maps and unmaps what is larger, until the
 * program has freed something that was larger still: then it lets twice as much be. The first such free() comes by chance, or never, and
 * before it each message of 100 KiB costs its pages anew: streams echoed half as many (asyncio frees 256 KiB when a first connection ends). */
static void warm_allocator(void) {
  enum { LARGER = 1024 * 1024 };
  void *volatile block = malloc(LARGER); /* volatile: a compiler may leave both calls out */

  free(block);
}

/* Returns a loop that Python owns (ffloop_loop_free frees it), or NULL with *error set; then nothing is
 * left open. */
ffloop_loop *ffloop_loop_new(size_t region_size, int *error) {
  ffloop_loop *loop = calloc(1, sizeof *loop);

  *error = UV_ENOMEM;
  if (loop == NULL)
    return NULL;
  warm_allocator();
#ifdef __linux__
  loop->poll_set = -1;
#endif
  loop->records = malloc(FIRST_RECORDS * sizeof *loop->records);
  loop->region_memory = malloc(region_size + FFLOOP_PEERS * sizeof(ffloop_peer) + FFLOOP_ALIGNMENT);
  if (loop->records == NULL || loop->region_memory == NULL)
    goto free_memory;
  loop->region = loop->region_memory + FFLOOP_ALIGNMENT - (uintptr_t) loop->region_memory % FFLOOP_ALIGNMENT;
  loop->capacity = FIRST_RECORDS;
  loop->late_end = &loop->late;
  loop->region_size = region_size;

  /* For the first loop of a process libuv makes what signals need, and aborts when it has no descriptors for that. */
  *error = check_descriptors();
  if (*error != 0)
    goto free_memory;
  *error = uv_mutex_init(&loop->wake_lock);
  if (*error != 0)
    goto free_memory;
  *error = uv_loop_init(&loop->uv);
  if (*error != 0)
    goto destroy_lock;
  loop->uv.data = loop;
  *error = ffloop_wake_open(loop);
  if (*error != 0)
    goto close_loop;
  uv_timer_init(&loop->uv, &loop->deadline);
  return loop;

close_loop:
  uv_loop_close(&loop->uv);
destroy_lock:
  uv_mutex_destroy(&loop->wake_lock);
free_memory:
  free(loop->records);
  free(loop->region_memory);
  free(loop);
  return NULL;
}

static void close_walked(uv_handle_t *handle, void *arg) {
  ffloop_loop *loop = arg;

  if (uv_is_closing(handle))
    return;
  if (handle == (uv_handle_t *) &loop->wake || handle == (uv_handle_t *) &loop->deadline)
    uv_close(handle, NULL);
#ifdef __linux__
  else if (handle == (uv_handle_t *) &loop->poll_watch)
    uv_close(handle, NULL);
#endif
  else
    ffloop_handle_close(handle);
}

/* Closes every handle that is still open, then the loop. Returns 0, or UV_EBUSY while libuv's threads
 * still work on a name look-up for it: then call again later, the memory must stay until that works. */
int ffloop_loop_close(ffloop_loop *loop) {
  int turns;
  int status = UV_EBUSY;

  if (loop->finished)
    return 0;
  if (!loop->closed) {
    uv_mutex_lock(&loop->wake_lock);
    loop->closed = 1;
    uv_mutex_unlock(&loop->wake_lock);
    uv_walk(&loop->uv, close_walked, loop);
  }
  /* A close callback runs in the turn after uv_close; a stream with a queued write takes one more. */
  for (turns = 0; turns < 8 && status == UV_EBUSY; turns++) {
    uv_run(&loop->uv, UV_RUN_NOWAIT);
    status = uv_loop_close(&loop->uv);
  }
#ifdef __linux__
  if (status == 0 && loop->poll_set != -1) {
    close(loop->poll_set);
    loop->poll_set = -1;
  }
#endif
  if (status == 0)
    ffloop_wake_closed(loop);
  loop->finished = status == 0;
  return status;
}

/* Frees what ffloop_loop_new made. Python's garbage collector calls it, so that no thread inside
 * ffloop_wake is left with a dead pointer. A loop that was never closed keeps its memory: libuv may
 * still use it. */
void ffloop_loop_free(ffloop_loop *loop) {
  struct ffloop_late *late;

  if (!loop->finished)
    return;
  while ((late = loop->late) != NULL) {
    ffloop_drop(&late->record);
    loop->late = late->next;
    free(late);
  }
  uv_mutex_destroy(&loop->wake_lock);
  free(loop->records);
  free(loop->region_memory);
  free(loop);
}

/* Begins a batch with the completions that had no place in the last one. Returns whether there were any. */
static int take_late(ffloop_loop *loop) {
  struct ffloop_late *late;

  while ((late = loop->late) != NULL && loop->count < loop->capacity) {
    loop->records[loop->count++] = late->record;
    loop->late = late->next;
    free(late);
  }
  if (loop->late == NULL)
    loop->late_end = &loop->late;
  return loop->count > 0;
}

static void run_libuv(ffloop_loop *loop, int64_t timeout_ns) {
  uint64_t moment;

  if (timeout_ns <= 0) {
    uv_run(&loop->uv, timeout_ns == 0 ? UV_RUN_NOWAIT : UV_RUN_ONCE);
    return;
  }
  /* libuv counts whole milliseconds from a cached clock. Rounding the moment up, not the duration, is what keeps
   * a timer from firing early; after an interrupted system call libuv's sums can still be one short. */
  moment = uv_hrtime() + (uint64_t) timeout_ns;
  do {
    uint64_t due = (moment + 999999) / 1000000;
    uint64_t now;
    uv_update_time(&loop->uv);
    now = uv_now(&loop->uv);
    loop->last_read = NULL;
    uv_timer_start(&loop->deadline, on_deadline, due > now ? due - now : 0, 0);
    uv_run(&loop->uv, UV_RUN_ONCE);
  } while (loop->count == 0 && uv_hrtime() < moment);
  uv_timer_stop(&loop->deadline);
}

/* Polls once, libuv and what is watched, and returns how many records that left in ffloop_records, or an error (UV_ENOMEM).
 * timeout_ns: how long to wait when nothing happens; 0 polls, a negative number waits for ever. */
int ffloop_run(ffloop_loop *loop, int64_t timeout_ns) {
  loop->count = 0;
  loop->region_used = 0;
  loop->last_read = NULL;
  loop->peers = 0;
  loop->iterations++;
  loop->polling = 1;
  if (loop->late != NULL && take_late(loop))
    timeout_ns = 0;
#ifdef __linux__
  loop->watched = 0;
  if (loop->outer)
    ffloop_poll_set_run(loop, timeout_ns);
  else
    run_libuv(loop, timeout_ns);
  if (loop->count > 0)
    ffloop_poll_set_turn(loop);
#else
  run_libuv(loop, timeout_ns);
#endif
  loop->polling = 0;
  if (loop->failed) {
    loop->failed = 0;
    return UV_ENOMEM;
  }
  return (int) loop->count;
}

/* In the child, right after fork(): parts the loop from the parent's, with whom it shares the kernel's side of
 * everything. ffloop_poll_fork follows for each poll. Returns UV_EBUSY for a loop that another thread was polling:
 * that thread is gone, and the loop is in no state to be used or closed. */
int ffloop_loop_fork(ffloop_loop *loop) {
  int status;

  if (loop->polling)
    return UV_EBUSY;
  if (loop->closed)
    return 0;
  /* A thread that held it is gone, so nobody will ever unlock it. */
  status = uv_mutex_init(&loop->wake_lock);
  if (status == 0)
    status = ffloop_wake_fork(loop);
  if (status == 0)
    status = uv_loop_fork(&loop->uv);
#ifdef __linux__
  if (status == 0 && loop->poll_set != -1)
    status = ffloop_poll_set_fork(loop);
#endif
  return status;
}

/* The batch of the last ffloop_run. The array moves when it grows: ask again after each run. */
ffloop_record *ffloop_records(ffloop_loop *loop) {
  return loop->records;
}

/* What was received in the last ffloop_run; it never moves. */
char *ffloop_region(ffloop_loop *loop) {
  return loop->region;
}

/* How many records the last ffloop_run has left, and how many runs there were: for a caller that was interrupted before it knew. */
int ffloop_count(ffloop_loop *loop) {
  return (int) loop->count;
}

uint64_t ffloop_runs(ffloop_loop *loop) {
  return loop->iterations;
}

/* Returns 0, or UV_ENOSYS where libuv is too old to count. Idle time is counted from the first call on: it costs
 * clock readings in every turn. */
int ffloop_get_metrics(ffloop_loop *loop, ffloop_metrics *out) {
#if UV_VERSION_HEX >= ((1 << 16) | (45 << 8))
  uv_metrics_t metrics;
  int status = uv_metrics_info(&loop->uv, &metrics);

  if (status == 0)
    status = uv_loop_configure(&loop->uv, UV_METRICS_IDLE_TIME);
  if (status != 0)
    return status;
  out->iterations = loop->iterations;
  out->events = metrics.events;
  out->idle_ns = uv_metrics_idle_time(&loop->uv);
#ifdef __linux__
  loop->measured = 1;
  out->events += loop->events;
  out->idle_ns += loop->idle_ns;
#endif
  return 0;
#else
  (void) loop;
  (void) out;
  return UV_ENOSYS;
#endif
}

int ffloop_reserve(ffloop_loop *loop, size_t more) {
  ffloop_record *grown;

  if (loop->count + more <= loop->capacity)
    return 1;
  /* Twice as many is enough: nobody asks for more at once than there were at first. */
  grown = realloc(loop->records, 2 * loop->capacity * sizeof *grown);
  if (grown == NULL)
    return 0;
  loop->records = grown;
  loop->capacity *= 2;
  return 1;
}

void ffloop_append(ffloop_loop *loop, int64_t token, int64_t kind, int64_t status, int64_t payload) {
  ffloop_record *record;

  if (!ffloop_reserve(loop, 1)) {
    loop->failed = 1;
    return;
  }
  record = &loop->records[loop->count++];
  record->key = (int64_t) ((uint64_t) token << FFLOOP_KIND_BITS) | kind;
  record->status = status;
  record->payload = payload;
}

void ffloop_complete(ffloop_loop *loop, void *request, int64_t token, int64_t kind, int64_t status, int64_t payload) {
  struct ffloop_late *late = request;

  if (ffloop_reserve(loop, 1)) {
    ffloop_append(loop, token, kind, status, payload);
    free(request);
    return;
  }
  late->next = NULL;
  late->record.key = (int64_t) ((uint64_t) token << FFLOOP_KIND_BITS) | kind;
  late->record.status = status;
  late->record.payload = payload;
  *loop->late_end = late;
  loop->late_end = &late->next;
}

static const ffloop_api api = {
  FFLOOP_HEADER, sizeof(ffloop_api), UV_EOF, ffloop_run, ffloop_count, ffloop_records, ffloop_region, ffloop_wake,
  ffloop_tcp_open, ffloop_read_start, ffloop_read_stop, ffloop_handle_close, ffloop_read_peer,
};

/* Where the accelerator finds what it calls; it lives as long as the process. */
int64_t ffloop_api_address(void) {
  return (int64_t) (intptr_t) &api;
}
