/* Watching descriptors that belong to somebody else: add_reader, sock_*, listening sockets.
 *
 * libuv registers a watched descriptor at its next turn, and aborts the process when the kernel then
 * refuses: a program that closes a descriptor it still watches would die without a word. Such a
 * descriptor is the caller's, so that must be an OSError at most. On Linux the watched descriptors
 * therefore stand in an epoll set of our own, which reports a refusal at once. Elsewhere uv_poll_t is used as it is.
 *
 * Of the two sets, ours and libuv's, one stands in the other, and only what is in the outer one comes for a single
 * epoll_wait. Which of them that is changes with what the loop does: while connections bring most events libuv watches
 * our set, and while watched descriptors do, our set watches libuv's, and libuv runs when that is ready or when libuv
 * says that it has something to do (uv_backend_timeout). They never stand in each other at once: the kernel refuses
 * that, and libuv would abort.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>

#ifdef __linux__
#include <fcntl.h>
#include <limits.h>
#include <sys/epoll.h>
#include <unistd.h>

struct ffloop_poll {
  ffloop_loop *loop;
  int64_t token;
  int fd;
  int events; /* what the kernel watches for this handle; 0: nothing is registered */
};

enum {
  EVENTS_A_TURN = 256, /* more stay in the set, which the next turn finds ready again */
  FAR = 32             /* so many turns to one side of the other kind make the other set the outer one */
};

/* The token of libuv's set in ours. No handle has it. */
enum { LIBUV = 0 };

/* Takes what is ready in our set, and what libuv has, if that is. */
static void take_ready(ffloop_loop *loop, int timeout_ms) {
  struct epoll_event events[EVENTS_A_TURN];
  /* No more than there is room for: what is watched for a single time would be lost. Where this runs inside of libuv, others have taken of it. */
  size_t room = ffloop_reserve(loop, loop->count > FFLOOP_SMALL_BATCH ? EVENTS_A_TURN : 1) ? loop->capacity - loop->count : 0;
  int count = room > 0 ? epoll_wait(loop->poll_set, events, room < EVENTS_A_TURN ? (int) room : EVENTS_A_TURN, timeout_ms) : 0;
  /* Of libuv there is one run a turn that brings something: each connection is read once. */
  int run = loop->count == 0, is_ready = 0;
  int i;

  /* Whatever else was wrong with the set would be wrong the next time, too. */
  if (count == -1 && errno != EINTR)
    abort();
  for (i = 0; i < count; i++) {
    /* An error or a hang-up alone must wake whoever waits, for reading or for writing. */
    int mask = (events[i].events & ~(uint32_t) EPOLLOUT ? FFLOOP_READABLE : 0) |
               (events[i].events & ~(uint32_t) EPOLLIN ? FFLOOP_WRITABLE : 0);
    if (events[i].data.u64 != LIBUV) {
      ffloop_append(loop, (int64_t) events[i].data.u64, FFLOOP_POLL, 0, mask);
      loop->watched++;
      loop->events++;
    } else {
      is_ready = run;
    }
  }
  /* Last, as it takes of the room, too. */
  if (is_ready) {
    loop->last_read = NULL;
    uv_run(&loop->uv, UV_RUN_NOWAIT);
  }
}

static void on_poll_set(uv_poll_t *watch, int status, int ready) {
  ffloop_loop *loop = FFLOOP_OF(watch);

  (void) status;
  (void) ready;
  loop->events--; /* libuv counts the set for one */
  take_ready(loop, 0);
}

/* Makes libuv's set the outer one; ours must not have it in it any more. */
static int watch_poll_set(ffloop_loop *loop) {
  struct epoll_event event;
  int status;

  loop->outer = 0;
  loop->balance = 0;
  status = uv_poll_start(&loop->poll_watch, UV_READABLE, on_poll_set);
  /* At once, where libuv would do it in its next turn, and abort if somebody has put too much into our set until then. It finds it there. */
  event.events = EPOLLIN;
  event.data.u64 = 0;
  event.data.fd = loop->poll_set;
  if (status == 0 && epoll_ctl(uv_backend_fd(&loop->uv), EPOLL_CTL_ADD, loop->poll_set, &event) != 0) {
    status = uv_translate_sys_error(errno);
    uv_poll_stop(&loop->poll_watch);
  }
  return status;
}

static int open_poll_set(ffloop_loop *loop) {
  int status;

  if (loop->poll_set == -1) {
    loop->poll_set = epoll_create1(EPOLL_CLOEXEC);
    if (loop->poll_set == -1)
      return uv_translate_sys_error(errno);
    status = uv_poll_init(&loop->uv, &loop->poll_watch, loop->poll_set);
    if (status != 0) {
      close(loop->poll_set);
      loop->poll_set = -1;
      return status;
    }
  }
  return watch_poll_set(loop);
}

/* In milliseconds, rounded up. */
static int until(uint64_t moment) {
  uint64_t now = uv_hrtime();
  uint64_t left = moment > now ? (moment - now + 999999) / 1000000 : 0;

  return left < INT_MAX ? (int) left : INT_MAX;
}

void ffloop_poll_set_run(ffloop_loop *loop, int64_t timeout_ns) {
  uint64_t moment = timeout_ns > 0 ? uv_hrtime() + (uint64_t) timeout_ns : 0;

  do {
    /* libuv's set says nothing of its timers, nor of handles that were started or closed. */
    int due = uv_backend_timeout(&loop->uv);
    int wait;
    uint64_t began;

    if (due > 0) {
      uv_update_time(&loop->uv);
      due = uv_backend_timeout(&loop->uv);
    }
    if (due == 0) {
      uv_run(&loop->uv, UV_RUN_NOWAIT);
      due = uv_backend_timeout(&loop->uv);
    }
    wait = loop->count > 0 || timeout_ns == 0 ? 0 : timeout_ns < 0 ? -1 : until(moment);
    if (due >= 0 && (wait < 0 || due < wait))
      wait = due;
    began = loop->measured && wait != 0 ? uv_hrtime() : 0;
    take_ready(loop, wait);
    if (began != 0)
      loop->idle_ns += uv_hrtime() - began;
  } while (loop->count == 0 && (timeout_ns < 0 || (timeout_ns > 0 && uv_hrtime() < moment)));
}

/* A turn that brings both costs two waits, whichever set is the outer one. */
void ffloop_poll_set_turn(ffloop_loop *loop) {
  struct epoll_event event;

  if (loop->watched == loop->count) {
    if (loop->balance < FAR)
      loop->balance++;
  } else if (loop->watched == 0 && loop->balance > 0) {
    loop->balance--;
  }
  if (loop->balance == FAR && !loop->outer) {
    uv_poll_stop(&loop->poll_watch);
  } else if (loop->balance == 0 && loop->outer) {
    epoll_ctl(loop->poll_set, EPOLL_CTL_DEL, uv_backend_fd(&loop->uv), &event);
    if (watch_poll_set(loop) == 0)
      return;
    /* A program's own sets stand in ours as deep as the kernel allows: no other can have it. */
    loop->balance = FAR;
  } else {
    return;
  }
  event.events = EPOLLIN;
  event.data.u64 = LIBUV;
  loop->outer = epoll_ctl(loop->poll_set, EPOLL_CTL_ADD, uv_backend_fd(&loop->uv), &event) == 0;
  if (!loop->outer && watch_poll_set(loop) != 0)
    abort(); /* it has stood in one of the two all the time */
}

int ffloop_poll_set_fork(ffloop_loop *loop) {
  int fresh = epoll_create1(EPOLL_CLOEXEC);
  int status = 0;

  if (fresh == -1)
    return uv_translate_sys_error(errno);
  if (dup3(fresh, loop->poll_set, O_CLOEXEC) == -1)
    status = uv_translate_sys_error(errno);
  close(fresh);
  if (status == 0 && loop->outer)
    status = watch_poll_set(loop); /* there is nothing in the new one */
  return status;
}

/* `fd` stays the caller's: it is neither closed nor made non-blocking. */
ffloop_poll *ffloop_poll_new(ffloop_loop *loop, int64_t token, int64_t fd, int *error) {
  ffloop_poll *poll;

  *error = UV_EBADF;
  if (!ffloop_is_fd(fd))
    return NULL;
  if (loop->poll_set == -1 || (!loop->outer && !uv_is_active((uv_handle_t *) &loop->poll_watch))) {
    *error = open_poll_set(loop);
    if (*error != 0)
      return NULL;
  }
  poll = malloc(sizeof *poll);
  if (poll == NULL) {
    *error = UV_ENOMEM;
    return NULL;
  }
  poll->loop = loop;
  poll->token = token;
  poll->fd = (int) fd;
  poll->events = 0;
  return poll;
}

/* With FFLOOP_ONCE among the events a single record comes, until the next start. */
int ffloop_poll_start(ffloop_poll *poll, int events) {
  struct epoll_event event;
  int operation = poll->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

  if (!(events & (FFLOOP_READABLE | FFLOOP_WRITABLE)))
    return ffloop_poll_stop(poll);
  event.events = (events & FFLOOP_READABLE ? EPOLLIN : 0) | (events & FFLOOP_WRITABLE ? EPOLLOUT : 0) |
                 (events & FFLOOP_ONCE ? EPOLLONESHOT : 0);
  event.data.u64 = (uint64_t) poll->token;
  if (epoll_ctl(poll->loop->poll_set, operation, poll->fd, &event) != 0) {
    /* The number may have changed hands since it was last registered: the kernel drops a closed file. */
    operation = errno == ENOENT ? EPOLL_CTL_ADD : errno == EEXIST ? EPOLL_CTL_MOD : 0;
    if (operation == 0 || epoll_ctl(poll->loop->poll_set, operation, poll->fd, &event) != 0)
      return uv_translate_sys_error(errno);
  }
  poll->events = events;
  return 0;
}

int ffloop_poll_stop(ffloop_poll *poll) {
  struct epoll_event unused;

  if (poll->events == 0)
    return 0;
  poll->events = 0;
  /* A descriptor that was closed has left the set by itself. */
  if (epoll_ctl(poll->loop->poll_set, EPOLL_CTL_DEL, poll->fd, &unused) != 0 && errno != EBADF && errno != ENOENT)
    return uv_translate_sys_error(errno);
  return 0;
}

/* In a forked child, after ffloop_loop_fork: watches on. A descriptor that the child has not got any more is left out. */
int ffloop_poll_fork(ffloop_poll *poll) {
  int events = poll->events;

  poll->events = 0;
  return events ? ffloop_poll_start(poll, events) : 0;
}

void ffloop_poll_close(ffloop_poll *poll) {
  ffloop_poll_stop(poll);
  free(poll);
}

#else /* not Linux */

#ifndef _WIN32
#include <fcntl.h>
#endif

struct ffloop_poll {
  uv_poll_t uv;
  int once;
};

static void on_poll(uv_poll_t *poll, int status, int events) {
  int mask = (events & UV_READABLE ? FFLOOP_READABLE : 0) | (events & UV_WRITABLE ? FFLOOP_WRITABLE : 0);

  if (status < 0)
    mask = FFLOOP_READABLE | FFLOOP_WRITABLE;
  if (((ffloop_poll *) poll)->once)
    uv_poll_stop(poll);
  ffloop_append(FFLOOP_OF(poll), FFLOOP_TOKEN(poll), FFLOOP_POLL, 0, mask);
}

ffloop_poll *ffloop_poll_new(ffloop_loop *loop, int64_t token, int64_t fd, int *error) {
  ffloop_poll *poll = calloc(1, sizeof *poll);

  if (poll == NULL) {
    *error = UV_ENOMEM;
    return NULL;
  }
  poll->uv.data = (void *) (intptr_t) token;
#ifdef _WIN32
  *error = uv_poll_init_socket(&loop->uv, &poll->uv, (uv_os_sock_t) fd);
#else
  {
    /* uv_poll_init makes the descriptor non-blocking; it is somebody else's, so put it back. */
    int flags = fcntl((int) fd, F_GETFL);
    *error = uv_poll_init(&loop->uv, &poll->uv, (int) fd);
    if (*error == 0 && flags != -1 && !(flags & O_NONBLOCK))
      fcntl((int) fd, F_SETFL, flags);
  }
#endif
  if (*error != 0) {
    free(poll);
    return NULL;
  }
  return poll;
}

int ffloop_poll_start(ffloop_poll *poll, int events) {
  poll->once = events & FFLOOP_ONCE;
  return uv_poll_start(&poll->uv,
                       (events & FFLOOP_READABLE ? UV_READABLE : 0) | (events & FFLOOP_WRITABLE ? UV_WRITABLE : 0),
                       on_poll);
}

int ffloop_poll_stop(ffloop_poll *poll) {
  return uv_poll_stop(&poll->uv);
}

/* uv_loop_fork has seen to it. */
int ffloop_poll_fork(ffloop_poll *poll) {
  (void) poll;
  return 0;
}

void ffloop_poll_close(ffloop_poll *poll) {
  ffloop_handle_close((uv_handle_t *) poll);
}

#endif
