/* The benchmarks' client: N connections, each sends a request and waits for the whole reply, again and again.
 *
 *   load PORT CONNECTIONS SECONDS REQUEST_SIZE REPLY_SIZE [FILE]
 *
 * FILE holds the request (default: REQUEST_SIZE bytes of 'x'). Prints the number of replies per second. With
 * SECONDS 0 each connection makes one exchange, "ready" is printed, and the connections stay open until
 * standard input ends. Only 127.0.0.1 is ever connected to.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct connection {
  int fd;
  size_t sent, received;
};

static size_t request_size, reply_size;
static char *request;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void push(struct connection *c) {
  while (c->sent < request_size) {
    ssize_t n = send(c->fd, request + c->sent, request_size - c->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN)
      return;
    if (n < 0)
      die("send");
    c->sent += n;
  }
}

int main(int argc, char **argv) {
  static char sink[1 << 20];
  struct epoll_event events[256];
  struct sockaddr_in address = {.sin_family = AF_INET};
  struct connection *all;
  int count, set, i, n, one = 1;
  double seconds, start, end;
  long replies = 0;

  if (argc < 6)
    return 2;
  count = atoi(argv[2]);
  seconds = atof(argv[3]);
  request_size = atol(argv[4]);
  reply_size = atol(argv[5]);
  request = malloc(request_size + 1);
  all = calloc(count, sizeof *all);
  if (request == NULL || all == NULL)
    die("malloc");
  memset(request, 'x', request_size);
  if (argc > 6) {
    FILE *file = fopen(argv[6], "rb");
    if (file == NULL || fread(request, 1, request_size, file) != request_size)
      die(argv[6]);
    fclose(file);
  }
  address.sin_port = htons(atoi(argv[1]));
  inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
  set = epoll_create1(0);
  for (i = 0; i < count; i++) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = &all[i]};
    all[i].fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(all[i].fd, (struct sockaddr *) &address, sizeof address) != 0)
      die("connect");
    setsockopt(all[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    epoll_ctl(set, EPOLL_CTL_ADD, all[i].fd, &event);
  }
  start = now();
  end = start + seconds;
  for (i = 0; i < count; i++)
    push(&all[i]);
  while (seconds > 0 ? now() < end : replies < count) {
    n = epoll_wait(set, events, 256, 5000);
    if (n == 0) {
      fprintf(stderr, "no reply for 5 seconds\n");
      return 1;
    }
    for (i = 0; i < n; i++) {
      struct connection *c = events[i].data.ptr;
      push(c);
      for (;;) {
        ssize_t got = recv(c->fd, sink, sizeof sink, MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN)
          break;
        if (got <= 0)
          die("recv");
        c->received += got;
        if (c->received > reply_size) {
          fprintf(stderr, "the reply is longer than %zu bytes\n", reply_size);
          return 1;
        }
        if (c->received == reply_size) {
          replies++;
          c->received = c->sent = 0;
          if (seconds > 0)
            push(c);
        }
      }
    }
  }
  if (seconds == 0) {
    puts("ready");
    fflush(stdout);
    while (read(0, sink, sizeof sink) > 0)
      ;
  } else {
    printf("%.1f\n", replies / (now() - start));
  }
  return 0;
}
