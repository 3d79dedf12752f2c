/* Datagram sockets: receiving many at once into the shared region, and sending many at once.
 * A handle owns its descriptor from ffloop_udp_open on; closing the handle closes it.
 */
#include "internal.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#ifndef _WIN32
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#endif

enum {
  /* What libuv hands the kernel at a time. uv_udp_try_send2 of 1.52 must not be given more: it counts its steps twice,
   * and leaves out every second twenty. */
  TOGETHER = 20,
  /* libuv turns to other descriptors after as many. */
  MOST_A_TURN = 32,
  /* As asyncio's transports receive: a longer one is cut. */
  LARGEST_UNIX = 256 * 1024
};

/* A socket, and whether it pays to look for a second datagram in a turn. Where each is answered before the next one comes,
 * it never does: what was looked for in vain is looked for again only after 1, 3, 7 and then 15 turns with one each. */
typedef struct {
  uv_udp_t uv; /* first: libuv and handles.c know nothing of the rest */
  unsigned char in_vain; /* how often in a row a second one was looked for in vain, up to 4 */
  unsigned char skip;    /* in so many turns one is taken and no second one looked for */
} ffloop_udp;

/* How many datagrams this turn may take. */
static size_t most_in_turn(ffloop_udp *udp) {
  if (udp->skip == 0)
    return MOST_A_TURN;
  udp->skip--;
  return 1;
}

/* Notes what a turn that was not told to take only one has found. */
static void learn(ffloop_udp *udp, size_t taken) {
  if (taken > 1) {
    udp->in_vain = 0;
    return;
  }
  if (udp->in_vain < 4)
    udp->in_vain++;
  udp->skip = (unsigned char) ((1 << udp->in_vain) - 1);
}

/* uv_udp_open() sets SO_REUSEADDR, which asyncio does not: others could bind the same port, and take over its traffic. */
static int open_as_it_is(uv_udp_t *udp, uv_os_sock_t fd) {
#if UV_VERSION_HEX >= 0x013400
  return uv_udp_open_ex(udp, fd, 0);
#elif defined(_WIN32)
  return uv_udp_open(udp, fd);
#else
  int reuse = 0;
  socklen_t size = sizeof reuse;
  int known = getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, &size) == 0;
  int status = uv_udp_open(udp, fd);

  if (known)
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
  return status;
#endif
}

/* Opens a handle on a datagram socket. On success it owns `fd` (ffloop_fileno tells its number, which is another one
 * when `fd` was a standard descriptor); on failure NULL is returned, *error is set, and `fd` is still the caller's. */
uv_handle_t *ffloop_udp_open(ffloop_loop *loop, int64_t token, int64_t fd, int *error) {
  uv_handle_t *udp;
  int64_t owned = fd;

  *error = UV_EBADF;
  if (!ffloop_is_fd(fd))
    return NULL;
  *error = UV_ENOMEM;
  udp = calloc(1, sizeof(ffloop_udp));
  if (udp == NULL)
    return NULL;
  udp->data = (void *) (intptr_t) token;
  *error = uv_udp_init_ex(&loop->uv, (uv_udp_t *) udp, AF_UNSPEC | UV_UDP_RECVMMSG);
  if (*error != 0) {
    free(udp);
    return NULL;
  }
#ifndef _WIN32
  /* libuv aborts when it comes to close one of these. */
  if (fd <= STDERR_FILENO) {
    owned = fcntl((int) fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (owned == -1) {
      *error = uv_translate_sys_error(errno);
      ffloop_handle_close(udp);
      return NULL;
    }
  }
#endif
  *error = open_as_it_is((uv_udp_t *) udp, (uv_os_sock_t) owned);
#ifndef _WIN32
  if (owned != fd)
    close(*error == 0 ? (int) fd : (int) owned);
#endif
  if (*error != 0) {
    ffloop_handle_close(udp);
    return NULL;
  }
  return udp;
}

/* Notes who sent a datagram; returns where in the region that stands. There is room: on_alloc has seen to it. */
static size_t store_peer(ffloop_loop *loop, const struct sockaddr *name) {
  char *peers = loop->region + loop->region_size;
  ffloop_peer peer;

  memset(&peer, 0, sizeof peer);
  if (name->sa_family == AF_INET) {
    const struct sockaddr_in *in = (const struct sockaddr_in *) name;
    peer.family = AF_INET;
    peer.port = ntohs(in->sin_port);
    memcpy(peer.host, &in->sin_addr, 4);
  } else if (name->sa_family == AF_INET6) {
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *) name;
    peer.family = AF_INET6;
    peer.port = ntohs(in6->sin6_port);
    peer.flowinfo = ntohl(in6->sin6_flowinfo);
    peer.scope_id = in6->sin6_scope_id;
    memcpy(peer.host, &in6->sin6_addr, 16);
  }
  /* A burst has mostly one sender. */
  if (loop->peers == 0 || memcmp(peers + (loop->peers - 1) * sizeof peer, &peer, sizeof peer) != 0)
    memcpy(peers + loop->peers++ * sizeof peer, &peer, sizeof peer);
  return loop->region_size + (loop->peers - 1) * sizeof peer;
}

static void on_alloc(uv_handle_t *udp, size_t slot, uv_buf_t *buf) {
  ffloop_loop *loop = FFLOOP_OF(udp);
  size_t room = loop->region_used < loop->region_size ? loop->region_size - loop->region_used : 0;
  size_t slots = uv_udp_using_recvmmsg((uv_udp_t *) udp) ? TOGETHER : 1;

  /* libuv reports UV_ENOBUFS for this, and keeps watching: what there is stays in the kernel for the next turn. */
  *buf = uv_buf_init(NULL, 0);
  if (loop->last_read == udp) {
    if (loop->taken_in_turn >= loop->most)
      return;
    /* When less came than was asked for, asking again is a system call for nothing. That the last word of a turn is no
     * also keeps libuv from the socket's error queue, which is the program's. */
    if (loop->taken < loop->offered) {
      learn((ffloop_udp *) udp, loop->taken_in_turn);
      return;
    }
  } else {
    loop->last_read = udp;
    loop->taken_in_turn = 0;
    loop->most = most_in_turn((ffloop_udp *) udp);
  }
  if (slots > loop->most)
    slots = loop->most;
  if (slots > room / slot)
    slots = room / slot;
  if (slots > FFLOOP_PEERS - loop->peers)
    slots = FFLOOP_PEERS - loop->peers;
  if (slots == 0 || !ffloop_reserve(loop, slots))
    return;
  loop->offered = slots;
  loop->taken = 0;
  *buf = uv_buf_init(loop->region + loop->region_used, (unsigned) (slots * slot));
}

static void on_recv(uv_udp_t *udp, ssize_t nread, const uv_buf_t *buf, const struct sockaddr *name, unsigned flags) {
  ffloop_loop *loop = FFLOOP_OF(udp);
  char *place = loop->region + loop->region_used;
  size_t peer;

  if (buf->base == NULL || flags & UV_UDP_MMSG_FREE)
    return;
  if (nread < 0) {
    ffloop_append(loop, FFLOOP_TOKEN(udp), FFLOOP_DATAGRAM, nread, 0);
    return;
  }
  if (name == NULL)
    return; /* nothing more; a datagram without bytes has a sender */
  loop->taken++;
  loop->taken_in_turn++;
  peer = store_peer(loop, name);
  ffloop_append(loop, FFLOOP_TOKEN(udp), FFLOOP_DATAGRAM, nread,
                (int64_t) loop->region_used | (int64_t) peer << FFLOOP_PEER_SHIFT);
  /* recvmmsg puts each into a slot for the largest there can be. */
  if (buf->base != place)
    memmove(place, buf->base, (size_t) nread);
  ffloop_use_region(loop, (size_t) nread);
}

/* Reads nothing: libuv reports UV_ENOBUFS and keeps watching. */
static void on_alloc_none(uv_handle_t *udp, size_t suggested, uv_buf_t *buf) {
  (void) udp;
  (void) suggested;
  *buf = uv_buf_init(NULL, 0);
}

/* Whether `udp` is called in this turn for the first time; libuv asks for the error queue too. */
static int is_first_call(uv_udp_t *udp) {
  ffloop_loop *loop = FFLOOP_OF(udp);

  if (loop->last_read == (uv_handle_t *) udp)
    return 0;
  loop->last_read = (uv_handle_t *) udp;
  return 1;
}

static void on_readable(uv_udp_t *udp, ssize_t nread, const uv_buf_t *buf, const struct sockaddr *name,
                        unsigned flags) {
  (void) nread;
  (void) buf;
  (void) name;
  (void) flags;
  if (is_first_call(udp))
    ffloop_append(FFLOOP_OF(udp), FFLOOP_TOKEN(udp), FFLOOP_DATAGRAM, 0, 0);
}

#ifdef __linux__
/* Receives one Unix datagram into the region, with its sender behind it. Returns 0, an error, or UV_ENOBUFS when there is
 * no room. */
static int receive_unix(ffloop_loop *loop, int64_t token, int fd) {
  size_t place = loop->region_used;
  struct sockaddr_un name;
  struct iovec into;
  struct msghdr message;
  ssize_t nread;
  uint16_t length = FFLOOP_UNNAMED;
  char *peer;

  if (place + LARGEST_UNIX + FFLOOP_UNIX_PEER > loop->region_size || !ffloop_reserve(loop, 1))
    return UV_ENOBUFS;
  into.iov_base = loop->region + place;
  into.iov_len = LARGEST_UNIX;
  memset(&message, 0, sizeof message);
  message.msg_name = &name;
  message.msg_namelen = sizeof name;
  message.msg_iov = &into;
  message.msg_iovlen = 1;
  do
    nread = recvmsg(fd, &message, MSG_DONTWAIT);
  while (nread == -1 && errno == EINTR);
  if (nread == -1)
    return uv_translate_sys_error(errno);
  peer = loop->region + place + nread;
  memset(peer, 0, FFLOOP_UNIX_PEER);
  if (message.msg_namelen >= offsetof(struct sockaddr_un, sun_path)) {
    /* The kernel counts the zero behind a path that fills all of its place. */
    size_t known = message.msg_namelen < sizeof name ? message.msg_namelen : sizeof name;
    length = (uint16_t) (known - offsetof(struct sockaddr_un, sun_path));
    memcpy(peer + sizeof length, name.sun_path, length);
  }
  memcpy(peer, &length, sizeof length);
  ffloop_append(loop, token, FFLOOP_DATAGRAM, nread, (int64_t) place | (int64_t) (place + (size_t) nread) << FFLOOP_PEER_SHIFT);
  ffloop_use_region(loop, (size_t) nread + FFLOOP_UNIX_PEER);
  return 0;
}
#endif

/* libuv tells of a Unix datagram neither the length of the sender's address nor more than 64 KiB. */
static void on_unix_readable(uv_udp_t *udp, ssize_t nread, const uv_buf_t *buf, const struct sockaddr *name,
                             unsigned flags) {
  ffloop_loop *loop = FFLOOP_OF(udp);
  int status = UV_ENOBUFS;
  size_t count = 0;

  (void) nread;
  (void) buf;
  (void) name;
  (void) flags;
  if (!is_first_call(udp))
    return;
#ifdef __linux__
  int fd = (int) ffloop_fileno((uv_handle_t *) udp);
  size_t most = most_in_turn((ffloop_udp *) udp);

  do
    status = receive_unix(loop, FFLOOP_TOKEN(udp), fd);
  while (status == 0 && ++count < most);
  if (most > 1)
    learn((ffloop_udp *) udp, count);
#endif
  if (status == UV_ENOBUFS ? count == 0 : status < 0 && status != UV_EAGAIN)
    ffloop_append(loop, FFLOOP_TOKEN(udp), FFLOOP_DATAGRAM, status, status == UV_ENOBUFS);
}

/* Receives in one of three ways: IPv4 and IPv6 into the region; Unix datagrams likewise, where a record of UV_ENOBUFS and
 * a payload of 1 says that there was no room for even one, and that the caller had better receive it by itself;
 * FFLOOP_RECV_NOTHING leaves all in the kernel, and one record comes in every turn in which there is something. */
int ffloop_udp_recv_start(uv_handle_t *udp, int way) {
  int status = ffloop_check_open(udp);

  if (status != 0)
    return status;
  uv_udp_recv_stop((uv_udp_t *) udp);
  if (way == FFLOOP_RECV_INTERNET)
    return uv_udp_recv_start((uv_udp_t *) udp, on_alloc, on_recv);
  return uv_udp_recv_start((uv_udp_t *) udp, on_alloc_none, way == FFLOOP_RECV_UNIX ? on_unix_readable : on_readable);
}

int ffloop_udp_recv_stop(uv_handle_t *udp) {
  return uv_udp_recv_stop((uv_udp_t *) udp);
}

void ffloop_read_peer(const char *from, struct sockaddr_in6 *name) {
  ffloop_peer peer;

  memcpy(&peer, from, sizeof peer);
  memset(name, 0, sizeof *name);
  if (peer.family == AF_INET) {
    struct sockaddr_in *in = (struct sockaddr_in *) name;
    in->sin_family = AF_INET;
    in->sin_port = htons(peer.port);
    memcpy(&in->sin_addr, peer.host, 4);
  } else {
    name->sin6_family = AF_INET6;
    name->sin6_port = htons(peer.port);
    name->sin6_flowinfo = htonl(peer.flowinfo);
    name->sin6_scope_id = peer.scope_id;
    memcpy(&name->sin6_addr, peer.host, 16);
  }
}

/* Sends up to TOGETHER datagrams; returns how many went, or the error of the first. */
static int send_together(uv_udp_t *udp, uv_buf_t *bufs, struct sockaddr_in6 *names, unsigned count) {
  unsigned i;
#if UV_VERSION_HEX >= 0x013200
  uv_buf_t *messages[TOGETHER];
  unsigned parts[TOGETHER];
  struct sockaddr *addresses[TOGETHER];

  for (i = 0; i < count; i++) {
    messages[i] = &bufs[i];
    parts[i] = 1;
    addresses[i] = names == NULL ? NULL : (struct sockaddr *) &names[i];
  }
  return uv_udp_try_send2(udp, count, messages, parts, addresses, 0);
#else
  for (i = 0; i < count; i++) {
    int status = uv_udp_try_send(udp, &bufs[i], 1, names == NULL ? NULL : (struct sockaddr *) &names[i]);
    if (status < 0)
      return i > 0 ? (int) i : status;
  }
  return (int) count;
#endif
}

/* Sends `count` datagrams that stand behind one another in `data`. `lengths`: a uint32_t for each; `peers`: a
 * ffloop_peer for each, NULL on a connected socket. Keeps no reference to the memory. Returns in the low 32 bits how many
 * went; in the others, where that is not all, the negated error of the next one. */
int64_t ffloop_udp_try_send(uv_handle_t *udp, const char *data, const char *lengths, const char *peers, int count) {
  int sent = 0;

  while (sent < count) {
    uv_buf_t bufs[TOGETHER];
    struct sockaddr_in6 names[TOGETHER];
    unsigned together = count - sent < TOGETHER ? (unsigned) (count - sent) : TOGETHER;
    const char *next = data;
    unsigned i;
    int status;

    for (i = 0; i < together; i++) {
      uint32_t length;
      memcpy(&length, lengths + (sent + i) * sizeof length, sizeof length);
      bufs[i] = uv_buf_init((char *) next, length);
      next += length;
      if (peers != NULL)
        ffloop_read_peer(peers + (sent + i) * sizeof(ffloop_peer), &names[i]);
    }
    status = send_together((uv_udp_t *) udp, bufs, peers == NULL ? NULL : names, together);
    if (status < 0)
      return (int64_t) sent | (int64_t) -status << 32;
    if (status == 0)
      return (int64_t) sent | (int64_t) -UV_EAGAIN << 32;
    for (i = 0; i < (unsigned) status; i++)
      data += bufs[i].len;
    sent += status;
  }
  return sent;
}
