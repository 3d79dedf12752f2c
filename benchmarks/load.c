/* The client of the rows in which the loop is the server.
 *
 *   load MODE TARGET CONNECTIONS SECONDS REQUEST REPLY_SIZE [PREFACE]
 *
 * MODE     exchange  each connection sends the request, waits for the whole reply, and sends again
 *          churn     the same, on a new connection each time
 *          send      each connection sends the request again and again; nothing comes back
 *          receive   each connection sends nothing and reads
 *          hold      one exchange on each connection; prints "ready" and keeps them until standard input ends
 * TARGET   tcp:PORT, tls:PORT, udp:PORT, unix:PATH, or fifo:PATH, where PATH.in is written and PATH.out is read
 * REQUEST  the file that holds the request; PREFACE: what is sent once, and answered up to an empty line, before
 *
 * `exchange` begins with one on each connection, before the clock starts; the first fifth of SECONDS is not counted.
 * Prints what was counted a second, and all that was done: exchanges, or bytes where nothing answers. Only 127.0.0.1 is
 * ever connected to. Built without WITH_TLS it needs no OpenSSL.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#else
typedef void SSL;
#endif

#define LIMIT_MS 5000 /* how long a server may be silent */

struct connection {
  int in, out; /* two descriptors for FIFOs, else one */
  SSL *tls;
  size_t sent, received;
};

static enum { EXCHANGE, CHURN, SEND, RECEIVE, HOLD } mode;
static char *request, *preface;
static size_t request_size, reply_size, preface_size;
static int set, datagrams, fifo, tls, busy, started;
static const char *path;
static union {
  struct sockaddr any;
  struct sockaddr_in in;
  struct sockaddr_un un;
} address;
static socklen_t address_size;
static double warm, end, counted_from;
static long long done, not_counted;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

/* Whether there is time left, or nothing to count yet; notes when the warm-up is over. */
static int running(void) {
  double t = now();

  if (!started)
    return 0;
  if (counted_from == 0 && t >= warm) {
    counted_from = t;
    not_counted = done;
  }
  return t < end || done == not_counted;
}

#ifdef WITH_TLS
static SSL *start_tls(int fd) {
  static SSL_CTX *context;
  SSL *made;

  if (context == NULL) {
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  }
  made = SSL_new(context);
  SSL_set_fd(made, fd);
  if (SSL_connect(made) != 1)
    fail("the TLS handshake failed");
  return made;
}

static ssize_t of_tls(SSL *ssl, int n) {
  int error;

  if (n > 0)
    return n;
  error = SSL_get_error(ssl, n);
  if (error == SSL_ERROR_ZERO_RETURN)
    return 0;
  errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : errno ? errno : EPROTO;
  return -1;
}
#endif

static ssize_t put(struct connection *c, const char *data, size_t size) {
#ifdef WITH_TLS
  if (c->tls)
    return of_tls(c->tls, SSL_write(c->tls, data, size));
#endif
  return write(c->out, data, size);
}

static ssize_t take(struct connection *c, char *data, size_t size) {
#ifdef WITH_TLS
  if (c->tls)
    return of_tls(c->tls, SSL_read(c->tls, data, size));
#endif
  return read(c->in, data, size);
}

static void watch(int fd, unsigned what, struct connection *c) {
  struct epoll_event event = {.events = what | EPOLLET, .data.ptr = c};

  if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) != 0)
    die("epoll_ctl");
}

static void send_preface(struct connection *c) {
  char answer[4096];
  size_t got = 0;

  if (put(c, preface, preface_size) != (ssize_t)preface_size)
    die("preface");
  while (got < 4 || memcmp(answer + got - 4, "\r\n\r\n", 4) != 0) {
    if (got == sizeof answer || take(c, answer + got, 1) != 1)
      fail("no answer to the preface");
    got++;
  }
}

static void open_connection(struct connection *c) {
  int one = 1;

  memset(c, 0, sizeof *c);
  if (fifo) {
    char name[256];
    snprintf(name, sizeof name, "%s.in", path);
    c->out = open(name, O_WRONLY | O_NONBLOCK);
    snprintf(name, sizeof name, "%s.out", path);
    c->in = open(name, O_RDONLY | O_NONBLOCK);
    if (c->in < 0 || c->out < 0)
      die(name);
    watch(c->in, EPOLLIN, c);
    watch(c->out, EPOLLOUT, c);
    return;
  }
  c->in = c->out = socket(address.any.sa_family, datagrams ? SOCK_DGRAM : SOCK_STREAM, 0);
  if (c->in < 0 || connect(c->in, &address.any, address_size) != 0)
    die("connect");
  if (address.any.sa_family == AF_INET && !datagrams)
    setsockopt(c->in, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
#ifdef WITH_TLS
  if (tls)
    c->tls = start_tls(c->in);
#endif
  if (preface)
    send_preface(c);
  fcntl(c->in, F_SETFL, O_NONBLOCK);
  watch(c->in, EPOLLIN | EPOLLOUT, c);
}

/* Resets the connection: thousands of them in the TIME_WAIT state would use up the ports. */
static void close_connection(struct connection *c) {
  struct linger linger = {1, 0};

  setsockopt(c->in, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
  close(c->in);
}

static void push(struct connection *c) {
  ssize_t n;

  while (c->sent < request_size) {
    n = put(c, request + c->sent, request_size - c->sent);
    if (n < 0 && errno == EAGAIN)
      return;
    if (n < 0)
      die("write");
    c->sent += n;
    if (mode == SEND) {
      done += n;
      c->sent %= request_size;
      if (!running())
        return;
    }
  }
}

static void begin(struct connection *c) {
  c->sent = c->received = 0;
  busy++;
  push(c);
}

/* Reads what there is. A whole reply is counted, and the next request begun. */
static void pull(struct connection *c) {
  static char sink[1 << 20];
  ssize_t n;

  for (;;) {
    n = take(c, sink, sizeof sink);
    if (n < 0 && errno == EAGAIN)
      return;
    if (n < 0)
      die("read");
    if (n == 0)
      fail("the server closed the connection");
    if (mode == RECEIVE) {
      done += n;
      if (!running())
        return;
      continue;
    }
    c->received += n;
    if (c->received > reply_size)
      fail("the reply is too long");
    if (c->received < reply_size)
      continue;
    done++;
    busy--;
    if (mode == CHURN) {
      close_connection(c);
      if (running()) {
        open_connection(c);
        begin(c);
      }
      return;
    }
    if (running())
      begin(c);
  }
}

static char *read_file(const char *name, size_t *size) {
  FILE *file = fopen(name, "rb");
  char *data;

  if (file == NULL || fseek(file, 0, SEEK_END) != 0)
    die(name);
  *size = ftell(file);
  rewind(file);
  data = malloc(*size + 1);
  if (data == NULL || fread(data, 1, *size, file) != *size)
    die(name);
  fclose(file);
  return data;
}

static void parse_mode(const char *name) {
  static const char *names[] = {"exchange", "churn", "send", "receive", "hold"};

  for (mode = EXCHANGE; strcmp(names[mode], name) != 0; mode++)
    if (mode == HOLD)
      fail("no such mode");
}

static void parse_target(const char *target) {
  path = strchr(target, ':');
  if (path == NULL)
    fail("no target");
  path++;
  datagrams = strncmp(target, "udp:", 4) == 0;
  fifo = strncmp(target, "fifo:", 5) == 0;
  tls = strncmp(target, "tls:", 4) == 0;
#ifndef WITH_TLS
  if (tls)
    fail("built without OpenSSL");
#endif
  if (strncmp(target, "unix:", 5) == 0) {
    address.un.sun_family = AF_UNIX;
    strncpy(address.un.sun_path, path, sizeof address.un.sun_path - 1);
    address_size = sizeof address.un;
    return;
  }
  address.in.sin_family = AF_INET;
  address.in.sin_port = htons(atoi(path));
  inet_pton(AF_INET, "127.0.0.1", &address.in.sin_addr);
  address_size = sizeof address.in;
}

static void turn(void) {
  struct epoll_event events[256];
  int i, n = epoll_wait(set, events, 256, LIMIT_MS);

  if (n == 0)
    fail("the server is silent");
  for (i = 0; i < n; i++) {
    struct connection *c = events[i].data.ptr;
    if (mode != RECEIVE)
      push(c);
    if (mode != SEND)
      pull(c);
  }
}

static void start_all(struct connection *all, int count) {
  int i;

  for (i = 0; i < count; i++)
    begin(&all[i]);
}

int main(int argc, char **argv) {
  struct connection *all;
  int count, i;
  double seconds, start, stopped;
  char byte;

  if (argc < 7)
    fail("load MODE TARGET CONNECTIONS SECONDS REQUEST REPLY_SIZE [PREFACE]");
  parse_mode(argv[1]);
  parse_target(argv[2]);
  count = atoi(argv[3]);
  seconds = atof(argv[4]);
  request = read_file(argv[5], &request_size);
  reply_size = atol(argv[6]);
  if (argc > 7)
    preface = read_file(argv[7], &preface_size);
  all = calloc(count, sizeof *all);
  set = epoll_create1(0);
  if (all == NULL || set < 0)
    die("start");
  signal(SIGPIPE, SIG_IGN);
  for (i = 0; i < count; i++)
    open_connection(&all[i]);
  if (mode == EXCHANGE || mode == HOLD) /* the clock starts when all are accepted and served */
    start_all(all, count);
  while (busy)
    turn();
  if (mode == HOLD) {
    puts("ready");
    fflush(stdout);
    while (read(0, &byte, 1) > 0)
      ;
    for (i = 0; i < count; i++)
      close_connection(&all[i]);
    return 0;
  }
  started = 1;
  start = now();
  warm = start + seconds / 5;
  end = start + seconds;
  if (mode == EXCHANGE || mode == CHURN)
    start_all(all, count);
  while (running())
    turn();
  stopped = now();
  printf("%.1f ", (done - not_counted) / (stopped - counted_from));
  while (busy) /* no server sees a client leave in the middle of an exchange */
    turn();
  printf("%lld\n", done);
  return 0;
}
