/* The benchmarks' client: N connections, each sends a request and waits for the whole reply, again and again.
 *
 *   load TARGET CONNECTIONS SECONDS REQUEST_SIZE REPLY_SIZE [FILE]
 *
 * TARGET is tcp:PORT, udp:PORT, unix:PATH, or churn:PORT, which makes a new TCP connection for each request. FILE holds the request (default: REQUEST_SIZE bytes of 'x'). Prints the number of replies per second. With
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
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct connection {
  int fd;
  size_t sent, received;
};

static size_t request_size, reply_size;
static char *request;
static int set, type = SOCK_STREAM, churn;
static union {
  struct sockaddr any;
  struct sockaddr_in in;
  struct sockaddr_un un;
} address;
static socklen_t address_size;

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

static void parse_target(const char *target) {
  const char *rest = strchr(target, ':');

  if (rest == NULL) {
    fprintf(stderr, "no target: %s\n", target);
    exit(2);
  }
  rest++;
  if (strncmp(target, "unix:", 5) == 0) {
    address.un.sun_family = AF_UNIX;
    strncpy(address.un.sun_path, rest, sizeof address.un.sun_path - 1);
    address_size = sizeof address.un;
    return;
  }
  type = strncmp(target, "udp:", 4) == 0 ? SOCK_DGRAM : SOCK_STREAM;
  churn = strncmp(target, "churn:", 6) == 0;
  address.in.sin_family = AF_INET;
  address.in.sin_port = htons(atoi(rest));
  inet_pton(AF_INET, "127.0.0.1", &address.in.sin_addr);
  address_size = sizeof address.in;
}

static void open_connection(struct connection *c) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
  int one = 1;

  c->sent = c->received = 0;
  c->fd = socket(address.any.sa_family, type, 0);
  if (c->fd < 0 || connect(c->fd, &address.any, address_size) != 0)
    die("connect");
  if (address.any.sa_family == AF_INET && type == SOCK_STREAM)
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  epoll_ctl(set, EPOLL_CTL_ADD, c->fd, &event);
}

/* Resets the connection: thousands of them in the TIME_WAIT state would use up the ports. */
static void close_connection(struct connection *c) {
  struct linger linger = {1, 0};

  setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
  close(c->fd);
}

int main(int argc, char **argv) {
  static char sink[1 << 20];
  struct epoll_event events[256];
  struct connection *all;
  int count, i, n;
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
  parse_target(argv[1]);
  set = epoll_create1(0);
  for (i = 0; i < count; i++)
    open_connection(&all[i]);
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
          if (churn) {
            close_connection(c);
            open_connection(c);
          }
          c->received = c->sent = 0;
          if (seconds > 0)
            push(c);
          if (churn)
            break;
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
