/* Streams: reading into the shared region, writing, and the sockets that become streams.
 * A stream owns its descriptor from ffloop_tcp_open on; closing the handle closes it, once.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#ifndef _WIN32
#include <sys/socket.h>
#endif

enum {
  /* A read is offered at least this much, else reading waits for the next turn: small enough that many
   * connections share a turn, large enough that a busy one is not read in crumbs. */
  READ_MIN = 64 * 1024,
  /* asyncio's selector transports read this much at most, and protocols are tuned to it. */
  READ_MAX = 256 * 1024
};

/* Opens a stream on a connected socket. On success the handle owns `fd`; on failure NULL is returned,
 * *error is set, and `fd` is still the caller's. With `nodelay` Nagle's algorithm is switched off, where there is one. */
uv_handle_t *ffloop_tcp_open(ffloop_loop *loop, int64_t token, int64_t fd, int nodelay, int *error) {
  uv_handle_t *tcp;

  *error = UV_EBADF;
  if (!ffloop_is_fd(fd))
    return NULL;
  *error = UV_ENOMEM;
  tcp = ffloop_handle_new(UV_TCP, token);
  if (tcp == NULL)
    return NULL;
  *error = uv_tcp_init(&loop->uv, (uv_tcp_t *) tcp);
  if (*error != 0) {
    free(tcp);
    return NULL;
  }
  *error = uv_tcp_open((uv_tcp_t *) tcp, (uv_os_sock_t) fd);
  if (*error != 0) {
    ffloop_handle_close(tcp);
    return NULL;
  }
  if (nodelay)
    uv_tcp_nodelay((uv_tcp_t *) tcp, 1);
  return tcp;
}

static void on_alloc(uv_handle_t *stream, size_t suggested, uv_buf_t *buf) {
  ffloop_loop *loop = FFLOOP_OF(stream);
  size_t room = loop->region_used < loop->region_size ? loop->region_size - loop->region_used : 0;

  (void) suggested;
  /* One read a turn: libuv would go on with a stream that fills its buffer, and the others would wait. */
  if (room < READ_MIN || loop->last_read == stream || !ffloop_reserve(loop, 1)) {
    /* libuv reports UV_ENOBUFS and keeps watching: the bytes stay in the kernel for the next turn. */
    *buf = uv_buf_init(NULL, 0);
    return;
  }
  loop->last_read = stream;
  *buf = uv_buf_init(loop->region + loop->region_used, room < READ_MAX ? room : READ_MAX);
}

static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf) {
  ffloop_loop *loop = FFLOOP_OF(stream);

  if (nread == 0 || nread == UV_ENOBUFS)
    return;
  ffloop_append(loop, FFLOOP_TOKEN(stream), FFLOOP_READ, nread, (int64_t) loop->region_used);
  if (nread > 0)
    ffloop_use_region(loop, (size_t) nread);
  (void) buf;
}

/* Reads nothing: libuv reports UV_ENOBUFS and keeps watching. */
static void on_alloc_none(uv_handle_t *stream, size_t suggested, uv_buf_t *buf) {
  (void) stream;
  (void) suggested;
  *buf = uv_buf_init(NULL, 0);
}

static void on_readable(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf) {
  (void) buf;
  ffloop_append(FFLOOP_OF(stream), FFLOOP_TOKEN(stream), FFLOOP_READ, nread == UV_ENOBUFS ? 0 : nread, 0);
}

/* Reads into the region. With `only_watch` the bytes stay in the kernel, and a record whose status is 0 comes in every
 * turn in which there are some. May change its mind while reading. */
int ffloop_read_start(uv_handle_t *stream, int only_watch) {
  int status = ffloop_check_open(stream);

  if (status != 0)
    return status;
  uv_read_stop((uv_stream_t *) stream);
  if (only_watch)
    return uv_read_start((uv_stream_t *) stream, on_alloc_none, on_readable);
  return uv_read_start((uv_stream_t *) stream, on_alloc, on_read);
}

int ffloop_read_stop(uv_handle_t *stream) {
  return uv_read_stop((uv_stream_t *) stream);
}

/* Gives the kernel what it takes at once. Returns how many bytes that was (0 when it would block, or
 * when an earlier ffloop_write is still in flight), or an error. Keeps no reference to the memory. */
int64_t ffloop_try_write(uv_handle_t *stream, const char *base, size_t length) {
  uv_buf_t buf = uv_buf_init((char *) base, length < (1u << 30) ? (unsigned) length : 1u << 30);
  int status = uv_try_write((uv_stream_t *) stream, &buf, 1);

  return status == UV_EAGAIN ? 0 : status;
}

static void on_write(uv_write_t *req, int status) {
  ffloop_complete(FFLOOP_OF(req->handle), req, (int64_t) (intptr_t) req->data, FFLOOP_WRITE, status, 0);
}

/* Queues base[offset : offset + length]; a FFLOOP_WRITE record follows, also when the handle is closed
 * first. The memory is libuv's until then: the caller keeps it alive. */
int ffloop_write(uv_handle_t *stream, const char *base, size_t offset, size_t length) {
  /* uv_buf_t counts in unsigned int: what is larger goes as several buffers of one request. */
  enum { LARGEST = 1 << 30 };
  size_t count = length / LARGEST + 1;
  size_t i;
  uv_buf_t few[4];
  uv_buf_t *bufs = few;
  uv_write_t *req;
  int status;

  status = ffloop_check_open(stream);
  if (status != 0)
    return status;
  req = malloc(sizeof *req);
  if (req == NULL)
    return UV_ENOMEM;
  if (count > sizeof few / sizeof *few) {
    bufs = malloc(count * sizeof *bufs);
    if (bufs == NULL) {
      free(req);
      return UV_ENOMEM;
    }
  }
  for (i = 0; i < count; i++) {
    size_t rest = length - i * LARGEST;
    bufs[i] = uv_buf_init((char *) base + offset + i * LARGEST, rest < LARGEST ? (unsigned) rest : LARGEST);
  }
  req->data = stream->data;
  status = uv_write(req, (uv_stream_t *) stream, bufs, (unsigned) count, on_write);
  if (bufs != few)
    free(bufs); /* libuv has copied the array, not the bytes */
  if (status != 0)
    free(req);
  return status;
}

size_t ffloop_write_queue_size(uv_handle_t *stream) {
  return uv_stream_get_write_queue_size((uv_stream_t *) stream);
}

/* Sends FIN now. uv_shutdown would send it a turn later; the caller has nothing left to write. */
int ffloop_shutdown(uv_handle_t *stream) {
  uv_os_fd_t fd;
  int status = uv_fileno(stream, &fd);

  if (status != 0)
    return status;
#ifdef _WIN32
  if (shutdown((SOCKET) fd, SD_SEND) != 0)
    return uv_translate_sys_error(WSAGetLastError());
#else
  if (shutdown(fd, SHUT_WR) != 0)
    return uv_translate_sys_error(errno);
#endif
  return 0;
}

/* The descriptor (on Windows the SOCKET), or an error. It stays the handle's. */
int64_t ffloop_fileno(uv_handle_t *handle) {
  uv_os_fd_t fd;
  int status = uv_fileno(handle, &fd);

  return status == 0 ? (int64_t) (intptr_t) fd : status;
}
