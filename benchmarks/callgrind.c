/* Lets a worker say which of its instructions valgrind is to count. Built as a shared library, for ctypes. */
#include <valgrind/callgrind.h>

void begin(void) {
  CALLGRIND_START_INSTRUMENTATION;
}

void end(void) {
  CALLGRIND_STOP_INSTRUMENTATION;
}
