/* What ends a poll from another thread.
 *
 * Elsewhere that is a uv_async_t. On Linux it is an eventfd that is never read: it stands in libuv's set edge-triggered, so
 * that each write is one event, and a wake-up costs a system call less. libuv registers descriptors level-triggered: the
 * first wake-up, and the first one after a fork, finds it so, and mends it.
 */
#include "internal.h"

#ifdef __linux__
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#endif

/* A record that nobody gets: whoever stands between the loop and its poll, as a patched clock does, sees that something
 * has come and does not poll again, which would wait for what came already. */
static void append_wake(ffloop_loop *loop) {
  ffloop_append(loop, 0, FFLOOP_ASYNC, 0, 0);
}

#ifdef __linux__

static void on_wake(uv_poll_t *watch, int status, int events) {
  ffloop_loop *loop = FFLOOP_OF(watch);
  int is_read = 0;

  (void) status;
  (void) events;
  if (!loop->edge_triggered) {
    uint64_t count;

    /* Unread it would be ready for ever. Before the next line: what is written after that is not to be read. */
    is_read = read(loop->wake_fd, &count, sizeof count) == sizeof count;
  }
  /* Before anybody looks for what the loop was woken for: who brings more from now on writes again. */
  __atomic_store_n(&loop->woken, 0, __ATOMIC_SEQ_CST);
  if (is_read) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.fd = loop->wake_fd};

    loop->edge_triggered = epoll_ctl(uv_backend_fd(&loop->uv), EPOLL_CTL_MOD, loop->wake_fd, &event) == 0;
  }
  append_wake(loop);
}

int ffloop_wake_open(ffloop_loop *loop) {
  int status;

  loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (loop->wake_fd == -1)
    return uv_translate_sys_error(errno);
  status = uv_poll_init(&loop->uv, &loop->wake, loop->wake_fd);
  if (status != 0) {
    close(loop->wake_fd);
    return status;
  }
  uv_poll_start(&loop->wake, UV_READABLE, on_wake);
  return 0;
}

void ffloop_wake_closed(ffloop_loop *loop) {
  close(loop->wake_fd);
}

int ffloop_wake_fork(ffloop_loop *loop) {
  int fresh = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  int status = 0;

  if (fresh == -1)
    return uv_translate_sys_error(errno);
  if (dup3(fresh, loop->wake_fd, O_CLOEXEC) == -1)
    status = uv_translate_sys_error(errno);
  close(fresh);
  loop->woken = 0;
  loop->edge_triggered = 0;
  return status;
}

static void send_wake(ffloop_loop *loop) {
  static const uint64_t one = 1;

  if (__atomic_exchange_n(&loop->woken, 1, __ATOMIC_SEQ_CST))
    return; /* it has been told, and has not looked yet */
  /* It would be full after 2^64 - 2 wake-ups, and fails for no other reason. */
  while (write(loop->wake_fd, &one, sizeof one) == -1 && errno == EINTR)
    ;
}

#else

static void on_wake(uv_async_t *wake) {
  append_wake(FFLOOP_OF(wake));
}

int ffloop_wake_open(ffloop_loop *loop) {
  return uv_async_init(&loop->uv, &loop->wake, on_wake);
}

void ffloop_wake_closed(ffloop_loop *loop) {
  (void) loop;
}

/* uv_loop_fork has seen to it. */
int ffloop_wake_fork(ffloop_loop *loop) {
  (void) loop;
  return 0;
}

static void send_wake(ffloop_loop *loop) {
  uv_async_send(&loop->wake);
}

#endif

/* Ends a running poll, or the next one, with a record of token 0. From any thread, and harmless on a closed loop; the
 * caller's reference to `loop` keeps the memory. */
void ffloop_wake(ffloop_loop *loop) {
  uv_mutex_lock(&loop->wake_lock);
  if (!loop->closed)
    send_wake(loop);
  uv_mutex_unlock(&loop->wake_lock);
}
