/* Which parts of a loop are its own. A tool may replace any method, of the loop, of its class or of BaseEventLoop, and gets what it would get from
 * asyncio: whoever takes a short way in C asks here first whether it is right.
 */
#include "accelerator.h"

/* What of the class is its own again. Found out anew when the class, or asyncio's Handle, was changed. */
int loop_find_out_plain(EventLoop *self) {
  State *state = self->state;
  PyTypeObject *type = Py_TYPE(self);
  PyObject *base = state->base_loop;
  const struct {
    PyObject *owner, *name, *wanted;
    int flag;
  } checks[] = {
    {(PyObject *) type, state->str_time, state->own_time, PLAIN_TIME},
    {(PyObject *) type, state->str_call_at, state->own_call_at, PLAIN_CALL_AT},
    {(PyObject *) type, state->str_write_to_self, self->write_to_self, PLAIN_WAKE},
    {(PyObject *) type, state->str_run_once, state->own_run_once, PLAIN_TURN},
    {(PyObject *) type, state->str_process_events, self->process_events, PLAIN_EVENTS},
    {base, state->str_time, state->base_time, PLAIN_TIME},
    {base, state->str_call_soon, state->base_call_soon, PLAIN_SOON},
    {base, state->str_call_soon_threadsafe, state->base_call_soon_threadsafe, PLAIN_SOON},
    {base, state->str_call_later, state->base_call_later, PLAIN_BASE_AT},
    {base, state->str_call_at, state->base_call_at, PLAIN_BASE_AT},
    {base, state->str_create_future, state->base_create_future, PLAIN_MAKE},
    {base, state->str_create_task, state->base_create_task, PLAIN_MAKE},
    {base, state->str_is_running, state->base_is_running, PLAIN_RUNNING},
    {base, state->str_run_once, state->base_run_once, PLAIN_TURN},
    {(PyObject *) state->handle_type, state->str_run, state->asyncio_run, PLAIN_TURN},
    {(PyObject *) state->timer_type, state->str_run, state->asyncio_run, PLAIN_TURN},
  };
  size_t i;
  int plain = PLAIN_ALL;
  /* Before the look: what another thread changes meanwhile has another one. A type that was just changed has none until then, and is looked at
   * once more. */
  unsigned type_tag = LOAD(type->tp_version_tag), handle_tag = LOAD(state->handle_type->tp_version_tag);
  unsigned timer_tag = LOAD(state->timer_type->tp_version_tag);

  for (i = 0; i < sizeof checks / sizeof *checks; i++) {
    PyObject *found = PyObject_GetAttr(checks[i].owner, checks[i].name);

    if (found == NULL)
      return -1;
    if (found != checks[i].wanted)
      plain &= ~checks[i].flag;
    Py_DECREF(found);
  }
  STORE(self->plain, plain);
  STORE(self->type_tag, type_tag);
  STORE(self->handle_tag, handle_tag);
  STORE(self->timer_tag, timer_tag);
  /* A type that was changed too often gets no tag any more: 0 says nothing. */
  STORE(self->tagged, type_tag != 0 && handle_tag != 0 && timer_tag != 0);
  return 0;
}

/* Notes what somebody puts in the place of a method, on the loop itself. */
int loop_set_attribute(PyObject *object, PyObject *name, PyObject *value) {
  EventLoop *self = (EventLoop *) object;
  State *state = self->state;
  const struct {
    PyObject *name;
    int flag;
  } watched[] = {
    {state->str_time, PLAIN_TIME},         {state->str_call_at, PLAIN_CALL_AT},
    {state->str_run_once, PLAIN_TURN},     {state->str_process_events, PLAIN_EVENTS},
    {state->str_write_to_self, PLAIN_WAKE},
    {state->str_connect_any, PLAIN_CONNECT},
    {state->str_getaddrinfo, PLAIN_CONNECT},
    {state->str_ensure_resolved, PLAIN_CONNECT},
    {state->str_create_connection_transport, PLAIN_CONNECT},
    {state->str_make_socket_transport, PLAIN_CONNECT},
    {state->str_sock_connect, PLAIN_CONNECT},
  };
  size_t i;

  for (i = 0; i < sizeof watched / sizeof *watched; i++) {
    if (name == watched[i].name || (PyUnicode_Check(name) && PyUnicode_Compare(name, watched[i].name) == 0)) {
      if (value != NULL)
        STORE(self->replaced, self->replaced | watched[i].flag);
    }
  }
  return PyObject_GenericSetAttr(object, name, value);
}

/* Whether nobody has replaced the clock that BaseEventLoop.time() reads: time.monotonic, or all of `time` as base_events sees it. */
int loop_has_real_clock(State *state) {
  return PyDict_GetItemWithError(state->base_dict, state->str_time) == state->time_module &&
         PyDict_GetItemWithError(state->time_dict, state->str_monotonic) == state->monotonic;
}

/* The loop's time in seconds. `as_is`: it is BaseEventLoop's own, time.monotonic(). */
int loop_time(EventLoop *self, int as_is, double *now) {
  PyObject *result;
  int real = as_is && loop_has_real_clock(self->state);

#ifdef __linux__
  if (real) {
    *now = (double) monotonic_ns() / 1e9;
    return 0;
  }
#endif
  result = real ? PyObject_CallNoArgs(self->state->monotonic)
                : PyObject_CallMethodNoArgs((PyObject *) self, self->state->str_time);
  if (result == NULL)
    return -1;
  *now = PyFloat_AsDouble(result);
  Py_DECREF(result);
  return *now == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* Calls what BaseEventLoop has under that name by now, with the arguments that ours was called with. */
PyObject *loop_call_base(PyObject *name, EventLoop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
  Py_ssize_t all = nargs + (kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0);
  PyObject *few[8];
  PyObject **stack = all + 1 <= (Py_ssize_t) (sizeof few / sizeof *few) ? few : PyMem_New(PyObject *, (size_t) all + 1);
  PyObject *function, *result = NULL;

  if (stack == NULL)
    return PyErr_NoMemory();
  stack[0] = (PyObject *) self;
  if (all > 0)
    memcpy(stack + 1, args, (size_t) all * sizeof *args);
  function = PyObject_GetAttr(self->state->base_loop, name);
  if (function != NULL)
    result = PyObject_Vectorcall(function, stack, (size_t) nargs + 1, kwnames);
  Py_XDECREF(function);
  if (stack != few)
    PyMem_Free(stack);
  return result;
}

/* Whether somebody has put something in the place of a part that makes connections: on the loop, or in its class. What the class has is
 * connections.py's to say, once for each way that it looks. */
PyObject *loop_is_overridden(EventLoop *self, void *unused) {
  unsigned tag = LOAD(Py_TYPE(self)->tp_version_tag); /* before the look, as in loop_find_out_plain() */

  (void) unused;
  if (tag == 0 || tag != self->parts_tag) {
    PyObject *own = PyObject_CallMethodNoArgs((PyObject *) self, self->state->str_has_own_parts);
    int is_true = own != NULL ? PyObject_IsTrue(own) : -1;

    Py_XDECREF(own);
    if (is_true < 0)
      return NULL;
    self->own_parts = (char) is_true;
    self->parts_tag = tag;
  }
  return PyBool_FromLong(self->replaced & PLAIN_CONNECT || !self->own_parts);
}
