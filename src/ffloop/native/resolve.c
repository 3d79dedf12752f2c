/* Name look-ups on libuv's threads, and their results in a form that Python can read.
 * A request is freed by its callback. Its result is the receiver's of the record: a list goes back
 * through ffloop_addrinfo_free, a name through ffloop_name_free.
 */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifndef _WIN32
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#endif

static void on_getaddrinfo(uv_getaddrinfo_t *req, int status, struct addrinfo *list) {
  ffloop_loop *loop = req->loop->data;

  if (loop->closed) {
    /* Nobody will read the record: the loop was closed while a thread was looking the name up. */
    uv_freeaddrinfo(list);
    free(req);
  } else {
    ffloop_complete(loop, req, (int64_t) (intptr_t) req->data, FFLOOP_GETADDRINFO, status, (int64_t) (intptr_t) list);
  }
}

/* node and service may be NULL, not both. libuv copies them. */
int ffloop_getaddrinfo(ffloop_loop *loop, int64_t token, const char *node, const char *service, int family,
                       int socktype, int protocol, int flags) {
  struct addrinfo hints;
  uv_getaddrinfo_t *req = malloc(sizeof *req);
  int status;

  if (req == NULL)
    return UV_ENOMEM;
  memset(&hints, 0, sizeof hints);
  hints.ai_family = family;
  hints.ai_socktype = socktype;
  hints.ai_protocol = protocol;
  hints.ai_flags = flags;
  req->data = (void *) (intptr_t) token;
  status = uv_getaddrinfo(&loop->uv, req, on_getaddrinfo, node, service, &hints);
  if (status != 0)
    free(req);
  return status;
}

/* Copies the first entry into *out and returns the rest of the list, 0 after the last one. `canonname`
 * points into the list. A family that is neither IPv4 nor IPv6 leaves `host` empty. */
int64_t ffloop_addrinfo_next(int64_t list, ffloop_address *out) {
  const struct addrinfo *info = (const struct addrinfo *) (intptr_t) list;

  memset(out, 0, sizeof *out);
  out->family = info->ai_family;
  out->socktype = info->ai_socktype;
  out->protocol = info->ai_protocol;
  out->canonname = info->ai_canonname;
  if (info->ai_family == AF_INET) {
    const struct sockaddr_in *address = (const struct sockaddr_in *) info->ai_addr;
    out->port = ntohs(address->sin_port);
    uv_inet_ntop(AF_INET, &address->sin_addr, out->host, sizeof out->host);
  } else if (info->ai_family == AF_INET6) {
    const struct sockaddr_in6 *address = (const struct sockaddr_in6 *) info->ai_addr;
    out->port = ntohs(address->sin6_port);
    out->flowinfo = ntohl(address->sin6_flowinfo);
    out->scope_id = address->sin6_scope_id;
    uv_inet_ntop(AF_INET6, &address->sin6_addr, out->host, sizeof out->host);
  }
  return (int64_t) (intptr_t) info->ai_next;
}

void ffloop_addrinfo_free(int64_t list) {
  uv_freeaddrinfo((struct addrinfo *) (intptr_t) list);
}

static void on_getnameinfo(uv_getnameinfo_t *req, int status, const char *host, const char *service) {
  ffloop_loop *loop = req->loop->data;
  ffloop_name *name = NULL;

  if (loop->closed) {
    free(req);
    return;
  }
  if (status == 0) {
    name = malloc(sizeof *name);
    if (name == NULL)
      status = UV_ENOMEM;
    else {
      snprintf(name->host, sizeof name->host, "%s", host);
      snprintf(name->service, sizeof name->service, "%s", service);
    }
  }
  ffloop_complete(loop, req, (int64_t) (intptr_t) req->data, FFLOOP_GETNAMEINFO, status, (int64_t) (intptr_t) name);
}

/* host: a literal address, IPv6 if `ipv6`; UV_EINVAL when it is none. flags: NI_*. */
int ffloop_getnameinfo(ffloop_loop *loop, int64_t token, const char *host, int port, uint32_t flowinfo,
                       uint32_t scope_id, int ipv6, int flags) {
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  } address;
  uv_getnameinfo_t *req;
  int status;

  memset(&address, 0, sizeof address);
  if (ipv6) {
    status = uv_ip6_addr(host, port, &address.v6);
    address.v6.sin6_flowinfo = htonl(flowinfo);
    if (scope_id != 0)
      address.v6.sin6_scope_id = scope_id;
  } else {
    status = uv_ip4_addr(host, port, &address.v4);
  }
  if (status != 0)
    return status;
  req = malloc(sizeof *req);
  if (req == NULL)
    return UV_ENOMEM;
  req->data = (void *) (intptr_t) token;
  status = uv_getnameinfo(&loop->uv, req, on_getnameinfo, &address.any, flags);
  if (status != 0)
    free(req);
  return status;
}

void ffloop_name_free(int64_t name) {
  free((void *) (intptr_t) name);
}

void ffloop_drop(const ffloop_record *record) {
  int64_t kind = record->key & ((1 << FFLOOP_KIND_BITS) - 1);

  if (kind == FFLOOP_GETADDRINFO)
    ffloop_addrinfo_free(record->payload);
  else if (kind == FFLOOP_GETNAMEINFO)
    ffloop_name_free(record->payload);
}

/* The resolver's own code for a status of libuv's, 0 when it is not a resolver's error. */
int ffloop_gai_code(int status) {
  switch (status) {
#ifdef EAI_ADDRFAMILY
    case UV_EAI_ADDRFAMILY: return EAI_ADDRFAMILY;
#endif
    case UV_EAI_AGAIN: return EAI_AGAIN;
    case UV_EAI_BADFLAGS: return EAI_BADFLAGS;
    case UV_EAI_FAIL: return EAI_FAIL;
    case UV_EAI_FAMILY: return EAI_FAMILY;
    case UV_EAI_MEMORY: return EAI_MEMORY;
#if defined(EAI_NODATA) && EAI_NODATA != EAI_NONAME
    case UV_EAI_NODATA: return EAI_NODATA;
#endif
    case UV_EAI_NONAME: return EAI_NONAME;
#ifdef EAI_OVERFLOW
    case UV_EAI_OVERFLOW: return EAI_OVERFLOW;
#endif
    case UV_EAI_SERVICE: return EAI_SERVICE;
    case UV_EAI_SOCKTYPE: return EAI_SOCKTYPE;
    default: return 0;
  }
}

const char *ffloop_gai_text(int code) {
  return gai_strerror(code);
}
