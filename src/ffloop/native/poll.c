/* Watching descriptors that belong to somebody else: add_reader, sock_*, listening sockets.
 *
 * libuv registers a watched descriptor at its next turn, and aborts the process when the kernel then
 * refuses: a program that closes a descriptor it still watches would die without a word. Such a
 * descriptor is the caller's, so that must be an OSError at most. On Linux the watched descriptors
 * therefore stand in an epoll set of our own, which reports a refusal at once, and libuv watches the set.
 * Elsewhere uv_poll_t is used as it is.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>

#ifdef __linux__
#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

struct ffloop_poll {
  ffloop_loop *loop;
  int64_t token;
  int fd;
  int events; /* what the kernel watches for this handle; 0: nothing is registered */
};

enum { EVENTS_A_TURN = 256 };

/* More than EVENTS_A_TURN stay in the set, which the next turn finds ready again. */
static void on_poll_set(uv_poll_t *watch, int status, int ready) {
  ffloop_loop *loop = FFLOOP_OF(watch);
  struct epoll_event events[EVENTS_A_TURN];
  int count = epoll_wait(loop->poll_set, events, EVENTS_A_TURN, 0);
  int i;

  (void) status;
  (void) ready;
  for (i = 0; i < count; i++) {
    /* An error or a hang-up alone must wake whoever waits, for reading or for writing. */
    int mask = (events[i].events & ~(uint32_t) EPOLLOUT ? FFLOOP_READABLE : 0) |
               (events[i].events & ~(uint32_t) EPOLLIN ? FFLOOP_WRITABLE : 0);
    ffloop_append(loop, (int64_t) events[i].data.u64, FFLOOP_POLL, 0, mask);
  }
}

static int open_poll_set(ffloop_loop *loop) {
  int status;

  loop->poll_set = epoll_create1(EPOLL_CLOEXEC);
  if (loop->poll_set == -1)
    return uv_translate_sys_error(errno);
  status = uv_poll_init(&loop->uv, &loop->poll_watch, loop->poll_set);
  if (status != 0) {
    close(loop->poll_set);
    loop->poll_set = -1;
    return status;
  }
  return uv_poll_start(&loop->poll_watch, UV_READABLE, on_poll_set);
}

int ffloop_poll_set_fork(ffloop_loop *loop) {
  int fresh = epoll_create1(EPOLL_CLOEXEC);
  int status = 0;

  if (fresh == -1)
    return uv_translate_sys_error(errno);
  if (dup3(fresh, loop->poll_set, O_CLOEXEC) == -1)
    status = uv_translate_sys_error(errno);
  close(fresh);
  return status;
}

/* `fd` stays the caller's: it is neither closed nor made non-blocking. */
ffloop_poll *ffloop_poll_new(ffloop_loop *loop, int64_t token, int64_t fd, int *error) {
  ffloop_poll *poll;

  *error = UV_EBADF;
  if (!ffloop_is_fd(fd))
    return NULL;
  if (loop->poll_set == -1) {
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
