/* libuv's threadpool.c, and what it leaves out: after fork() a child has none of the pool's threads, but libuv
 * goes on counting them, and joins them when the process ends. A child that exits in the ordinary way after
 * its parent has looked a name up would crash there. Compiled in the place of threadpool.c, vendored builds only.
 */
#include "threadpool.c"

#ifndef _WIN32
#include <pthread.h>

static void forget_threads(void) {
  nthreads = 0;
}

__attribute__((constructor)) static void forget_threads_after_fork(void) {
  pthread_atfork(NULL, NULL, forget_threads);
}
#endif
