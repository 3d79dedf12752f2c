/* The guard of a handle that is called in one thread and cancelled in another: from Python 3.14 on, cancelling waits while it runs.
 *
 * asyncio has a lock in each of them. Hardly any is ever cancelled, so here a lock is made by the one who finds the handle running, and
 * has to wait. All fields are read and written with the GIL held, or where there is none the mutex, which is let go of for that wait alone.
 */
#include "accelerator.h"

static Guard *guard_of(PyObject *handle) {
  return (Guard *) ((char *) handle + layout.guard);
}

/* Waits until whoever is inside has left. -1 with an exception: of memory, or of a signal's handler. The caller holds a reference, and the
 * mutex, which is let go of meanwhile. */
static int wait_outside(Guard *guard) {
  PyLockStatus status;

  if (guard->lock == NULL) {
    guard->lock = PyThread_allocate_lock();
    if (guard->lock == NULL) {
      UNLOCK(&guard->mutex);
      PyErr_NoMemory();
      return -1;
    }
    PyThread_acquire_lock(guard->lock, NOWAIT_LOCK); /* it is free: nobody else has it */
  }
  guard->waiting++;
  UNLOCK(&guard->mutex);
  Py_BEGIN_ALLOW_THREADS;
  status = PyThread_acquire_lock_timed(guard->lock, -1, 1);
  Py_END_ALLOW_THREADS;
  LOCK(&guard->mutex);
  guard->waiting--;
  if (status == PY_LOCK_ACQUIRED) {
    /* Who has got this far must go on: to give up now, for a signal, would leave the others waiting for a release that was this one. */
    guard->released = 0;
    return 0;
  }
  UNLOCK(&guard->mutex);
  if (PyErr_CheckSignals() < 0)
    return -1;
  LOCK(&guard->mutex);
  return 0;
}

/* Enters, as often as one likes in one thread. -1 with an exception, and without having entered. */
int guard_enter(PyObject *handle) {
  Guard *guard = guard_of(handle);
  unsigned long me = PyThread_get_thread_ident();

  LOCK(&guard->mutex);
  while (guard->depth > 0 && guard->inside != me)
    if (wait_outside(guard) < 0)
      return -1;
  guard->inside = me;
  guard->depth++;
  UNLOCK(&guard->mutex);
  return 0;
}

/* Leaves; leaves alone what exception is set. */
void guard_leave(PyObject *handle) {
  Guard *guard = guard_of(handle);

  LOCK(&guard->mutex);
  if (--guard->depth == 0 && guard->waiting > 0 && !guard->released) {
    guard->released = 1; /* one of them goes on, and lets the next one go on when it leaves */
    PyThread_release_lock(guard->lock);
  }
  UNLOCK(&guard->mutex);
}

/* Of a handle that nobody knows any more: so nobody waits. */
void guard_end(PyObject *handle) {
  Guard *guard = guard_of(handle);

  if (guard->lock != NULL)
    PyThread_free_lock(guard->lock);
  memset(guard, 0, sizeof *guard);
}
