/* The server of the rows in which the loop is the client: always the same one, so that only the client differs.
 *
 *   serve echo      sends back what it gets
 *   serve http      answers each "\r\n\r\n" with a fixed reply of HTTP/1.1
 *
 * Prints its port on 127.0.0.1 and serves until standard input ends. A connection that the client closed is reset, so
 * that no TIME_WAIT state holds the client's port.
 */
#define _GNU_SOURCE /* accept4 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char reply[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!";

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void watch(int set, int fd, unsigned what) {
  struct epoll_event event = {.events = what, .data.fd = fd};

  if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) != 0)
    die("epoll_ctl");
}

static void leave(int fd) {
  struct linger linger = {1, 0};

  setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
  close(fd);
}

/* Returns 0 when the client has gone. It waits for a client that does not read: none of ours is like that. */
static int put(int fd, const char *data, size_t size) {
  struct pollfd room = {.fd = fd, .events = POLLOUT};
  ssize_t n;

  while (size > 0) {
    n = write(fd, data, size);
    if (n < 0 && errno != EAGAIN)
      return 0;
    if (n < 0 && poll(&room, 1, 5000) <= 0)
      return 0;
    if (n > 0) {
      data += n;
      size -= n;
    }
  }
  return 1;
}

/* A request is always in one read here: it is small, and the client waits for the reply. */
static int answer(int fd, const char *data, size_t size) {
  size_t i;

  for (i = 3; i < size; i++)
    if (memcmp(data + i - 3, "\r\n\r\n", 4) == 0 && !put(fd, reply, sizeof reply - 1))
      return 0;
  return 1;
}

int main(int argc, char **argv) {
  static char data[1 << 18];
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  struct epoll_event events[256];
  int http, set, listening, one = 1, i, n;

  if (argc != 2)
    return 2;
  http = strcmp(argv[1], "http") == 0;
  signal(SIGPIPE, SIG_IGN);
  set = epoll_create1(0);
  listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (bind(listening, (struct sockaddr *)&address, size) != 0 || listen(listening, 4096) != 0)
    die("listen");
  getsockname(listening, (struct sockaddr *)&address, &size);
  watch(set, listening, EPOLLIN);
  watch(set, 0, EPOLLIN);
  printf("tcp:%d\n", ntohs(address.sin_port));
  fflush(stdout);
  for (;;) {
    n = epoll_wait(set, events, 256, -1);
    for (i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (fd == listening) {
        while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          watch(set, fd, EPOLLIN);
        }
        continue;
      }
      ssize_t got = read(fd, data, sizeof data);
      if (fd == 0 && got <= 0)
        return 0;
      if (fd == 0 || (got < 0 && errno == EAGAIN))
        continue;
      if (got <= 0 || !(http ? answer(fd, data, got) : put(fd, data, got)))
        leave(fd);
    }
  }
}
