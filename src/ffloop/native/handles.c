/* What all handles share (allocation, closing), and the two that are nothing more: timers and wake-ups.
 * Python holds a handle as a bare pointer from its constructor to ffloop_handle_close, which takes it
 * over; the memory goes when libuv's close callback comes.
 */
#include "internal.h"

#include <stdlib.h>
#ifndef _WIN32
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#endif

uv_handle_t *ffloop_handle_new(uv_handle_type type, int64_t token) {
  uv_handle_t *handle = calloc(1, uv_handle_size(type));

  if (handle == NULL)
    return NULL;
  handle->data = (void *) (intptr_t) token;
  return handle;
}

static void on_close(uv_handle_t *handle) {
  free(handle);
}

/* Closes the handle, and with it the descriptor that it owns. The pointer is dead from here on. */
void ffloop_handle_close(uv_handle_t *handle) {
#ifndef _WIN32
  uv_os_fd_t fd = -1;

  if (handle->type == UV_TCP && uv_fileno(handle, &fd) != 0)
    fd = -1;
  uv_close(handle, on_close);
  /* libuv spares these numbers, as a terminal's. In a program that runs without one they are sockets. */
  if (fd >= 0 && fd <= STDERR_FILENO)
    close(fd);
#else
  uv_close(handle, on_close);
#endif
}

struct search {
  int64_t token;
  uv_handle_t *found;
};

static void compare(uv_handle_t *handle, void *arg) {
  struct search *search = arg;

  /* A poll owns nothing, and is known by what it lies in. */
  if (handle->type != UV_POLL && FFLOOP_TOKEN(handle) == search->token && !uv_is_closing(handle))
    search->found = handle;
}

/* The open handle of libuv's that has the token, NULL if there is none. Looks at all of them. */
uv_handle_t *ffloop_handle_find(ffloop_loop *loop, int64_t token) {
  struct search search = {token, NULL};

  uv_walk(&loop->uv, compare, &search);
  return search.found;
}

int ffloop_check_open(const uv_handle_t *handle) {
#ifndef _WIN32
  uv_os_fd_t fd;
  int status = uv_fileno(handle, &fd);

  if (status == 0 && fcntl(fd, F_GETFD) == -1)
    status = uv_translate_sys_error(errno);
  return status;
#else
  (void) handle;
  return 0;
#endif
}

static void on_timer(uv_timer_t *timer) {
  ffloop_append(FFLOOP_OF(timer), FFLOOP_TOKEN(timer), FFLOOP_TIMER, 0, 0);
}

uv_handle_t *ffloop_timer_new(ffloop_loop *loop, int64_t token, int *error) {
  uv_handle_t *timer = ffloop_handle_new(UV_TIMER, token);

  if (timer == NULL) {
    *error = UV_ENOMEM;
    return NULL;
  }
  uv_timer_init(&loop->uv, (uv_timer_t *) timer);
  return timer;
}

/* Milliseconds are all that libuv's timers know: both durations are rounded up, never to 0. */
int ffloop_timer_start(uv_handle_t *timer, int64_t timeout_ns, int64_t repeat_ns) {
  uint64_t moment = (uv_hrtime() + (uint64_t) timeout_ns + 999999) / 1000000;
  uint64_t now;

  uv_update_time(timer->loop);
  now = uv_now(timer->loop);
  return uv_timer_start((uv_timer_t *) timer, on_timer, moment > now ? moment - now : 0,
                        ((uint64_t) repeat_ns + 999999) / 1000000);
}

int ffloop_timer_stop(uv_handle_t *timer) {
  return uv_timer_stop((uv_timer_t *) timer);
}

static void on_async(uv_async_t *async) {
  ffloop_append(FFLOOP_OF(async), FFLOOP_TOKEN(async), FFLOOP_ASYNC, 0, 0);
}

uv_handle_t *ffloop_async_new(ffloop_loop *loop, int64_t token, int *error) {
  uv_handle_t *async = ffloop_handle_new(UV_ASYNC, token);

  *error = UV_ENOMEM;
  if (async == NULL)
    return NULL;
  *error = uv_async_init(&loop->uv, (uv_async_t *) async, on_async);
  if (*error != 0) {
    /* uv_async_init fails before it links the handle: closing one that was never linked aborts. */
    free(async);
    return NULL;
  }
  return async;
}

/* From any thread, as long as Python has not closed the handle. */
int ffloop_async_send(uv_handle_t *async) {
  return uv_async_send((uv_async_t *) async);
}
