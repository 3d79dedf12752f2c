/* The module: what it takes from asyncio and from the CFFI module, once for each interpreter, and the types that it gives. */
#include "accelerator.h"

Layout layout;

Py_ssize_t slot_offset(PyTypeObject *type, const char *name) {
  PyObject *found = PyObject_GetAttrString((PyObject *) type, name);
  Py_ssize_t offset = -1;

  if (found == NULL)
    return -1;
  if (Py_TYPE(found) == &PyMemberDescr_Type)
    offset = ((PyMemberDescrObject *) found)->d_member->offset;
  else
    PyErr_Format(PyExc_ImportError, "ffloop's accelerator does not know this %s: %s is no slot of it", type->tp_name, name);
  Py_DECREF(found);
  return offset;
}

int find_slots(PyTypeObject *type, Py_ssize_t *slots, int *found) {
  int count = 0; /* other interpreters may be looking at the old one, which is the same */

  for (; type != NULL && type != &PyBaseObject_Type; type = type->tp_base) {
    PyObject *dict = PyObject_GetAttrString((PyObject *) type, "__dict__"), *values, *iterator, *value;

    values = dict != NULL ? PyObject_CallMethod(dict, "values", NULL) : NULL;
    iterator = values != NULL ? PyObject_GetIter(values) : NULL;
    Py_XDECREF(dict);
    Py_XDECREF(values);
    if (iterator == NULL)
      return -1;
    while ((value = PyIter_Next(iterator)) != NULL) {
      if (Py_TYPE(value) == &PyMemberDescr_Type && count < MOST_SLOTS)
        slots[count++] = ((PyMemberDescrObject *) value)->d_member->offset;
      Py_DECREF(value);
    }
    Py_DECREF(iterator);
    if (PyErr_Occurred())
      return -1;
  }
  *found = count;
  return 0;
}

PyObject *import_from(const char *module, const char *name) {
  PyObject *imported = PyImport_ImportModule(module);
  PyObject *found = imported != NULL ? PyObject_GetAttrString(imported, name) : NULL;

  Py_XDECREF(imported);
  return found;
}

/* Takes the table of functions from the CFFI module, and makes sure that both mean the same by it. */
static int take_api(State *state) {
  PyObject *function = import_from("ffloop.uv.loop", "api_address");
  PyObject *address = function != NULL ? PyObject_CallNoArgs(function) : NULL;
  PyObject *stream;

  Py_XDECREF(function);
  if (address == NULL)
    return -1;
  state->api = PyLong_AsVoidPtr(address);
  Py_DECREF(address);
  if (state->api == NULL) {
    if (!PyErr_Occurred())
      PyErr_SetString(PyExc_ImportError, "the CFFI module gave no functions");
    return -1;
  }
  if (state->api->header != FFLOOP_HEADER || state->api->size != sizeof(ffloop_api)) {
    PyErr_SetString(PyExc_ImportError, "ffloop's two C modules were built from different sources: build it again");
    return -1;
  }
  state->eof = state->api->eof;
  stream = import_from("ffloop.uv", "Stream");
  layout.fd = stream != NULL ? slot_offset((PyTypeObject *) stream, "_fd") : -1;
  Py_XDECREF(stream);
  return layout.fd < 0 ? -1 : 0;
}

/* Whether `function` is a Python function that the module whose globals these are has made. */
static int is_from(PyObject *function, PyObject *globals) {
  return PyFunction_Check(function) && PyFunction_GET_GLOBALS(function) == globals;
}

/* A function that we stand in for, None when somebody has replaced it already, who wants to be called: then it does not come from the
 * module whose globals these are. Takes the reference. */
static PyObject *keep_if_from(PyObject *function, PyObject *globals) {
  if (is_from(function, globals))
    return function;
  Py_DECREF(function);
  return Py_NewRef(Py_None);
}

/* The class, and whether all of it is asyncio's own, for which ours does the same. */
static int take_threadsafe_handle(State *state, PyObject *globals) {
  static const char *const methods[] = {"__init__", "_run", "cancel", "cancelled"};
  int own = 1;
  size_t i;

  state->threadsafe_handle = (PyTypeObject *) import_from("asyncio.events", "_ThreadSafeHandle");
  if (state->threadsafe_handle == NULL) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError))
      return -1;
    PyErr_Clear();
    return 0;
  }
  layout.lock = slot_offset(state->threadsafe_handle, "_lock");
  if (layout.lock < 0)
    return -1;
  for (i = 0; i < sizeof methods / sizeof *methods; i++) {
    PyObject *method = PyObject_GetAttrString((PyObject *) state->threadsafe_handle, methods[i]);

    if (method == NULL)
      return -1;
    own = own && is_from(method, globals);
    Py_DECREF(method);
  }
  /* A type has its tag by now: it gets one when it is first asked for something. */
  if (own)
    state->threadsafe_tag = state->threadsafe_handle->tp_version_tag;
  return 0;
}

static int take_handles(State *state) {
  const struct {
    Py_ssize_t *offset;
    const char *name;
  } wanted[] = {
    {&layout.callback, "_callback"}, {&layout.args, "_args"},
    {&layout.context, "_context"},   {&layout.loop, "_loop"},
    {&layout.cancelled, "_cancelled"}, {&layout.repr, "_repr"},
    {&layout.source_traceback, "_source_traceback"}, {&layout.when, "_when"},
    {&layout.scheduled, "_scheduled"},
  };
  PyObject *events, *run;
  size_t i;
  int status;

  state->asyncio_handle = (PyTypeObject *) import_from("asyncio.events", "Handle");
  state->asyncio_timer = (PyTypeObject *) import_from("asyncio.events", "TimerHandle");
  if (state->asyncio_handle == NULL || state->asyncio_timer == NULL)
    return -1;
  for (i = 0; i < sizeof wanted / sizeof *wanted; i++) {
    *wanted[i].offset = slot_offset(state->asyncio_timer, wanted[i].name);
    if (*wanted[i].offset < 0)
      return -1;
  }
  state->handle_cancel = PyObject_GetAttrString((PyObject *) state->asyncio_handle, "cancel");
  run = PyObject_GetAttrString((PyObject *) state->asyncio_handle, "_run");
  events = PyImport_ImportModule("asyncio.events");
  if (state->handle_cancel == NULL || run == NULL || events == NULL) {
    Py_XDECREF(run);
    Py_XDECREF(events);
    return -1;
  }
  state->asyncio_run = keep_if_from(run, PyModule_GetDict(events));
  status = take_threadsafe_handle(state, PyModule_GetDict(events));
  Py_DECREF(events);
  return status;
}

/* A module's names, where they can be replaced. */
static PyObject *dict_of(const char *name) {
  PyObject *module = PyImport_ImportModule(name);
  PyObject *dict = module != NULL ? Py_XNewRef(PyModule_GetDict(module)) : NULL;

  Py_XDECREF(module);
  return dict;
}

static int take_loop(State *state) {
  const struct {
    PyObject **function;
    const char *name;
  } wanted[] = {
    {&state->base_time, "time"},           {&state->base_run_once, "_run_once"},
    {&state->base_call_soon, "call_soon"}, {&state->base_call_soon_threadsafe, "call_soon_threadsafe"},
    {&state->base_call_at, "call_at"},     {&state->base_call_later, "call_later"},
    {&state->base_create_future, "create_future"}, {&state->base_create_task, "create_task"},
    {&state->base_is_running, "is_running"},
  };
  PyObject *events = PyImport_ImportModule("asyncio.base_events");
  size_t i;

  if (events == NULL)
    return -1;
  state->base_dict = Py_NewRef(PyModule_GetDict(events));
  state->base_loop = PyObject_GetAttrString(events, "BaseEventLoop");
  Py_DECREF(events);
  if (state->base_loop == NULL)
    return -1;
  for (i = 0; i < sizeof wanted / sizeof *wanted; i++) {
    PyObject *found = PyObject_GetAttrString(state->base_loop, wanted[i].name);

    if (found == NULL)
      return -1;
    *wanted[i].function = keep_if_from(found, state->base_dict);
  }
  state->futures_dict = dict_of("asyncio.futures");
  state->tasks_dict = dict_of("asyncio.tasks");
  if (state->futures_dict == NULL || state->tasks_dict == NULL)
    return -1;
  state->future_class = import_from("_asyncio", "Future");
  state->task_class = state->future_class != NULL ? import_from("_asyncio", "Task") : NULL;
  if (state->task_class == NULL) {
    if (!PyErr_ExceptionMatches(PyExc_ImportError) && !PyErr_ExceptionMatches(PyExc_AttributeError))
      return -1;
    PyErr_Clear();
  }
  state->format_source = import_from("asyncio.format_helpers", "_format_callback_source");
  state->time_module = PyImport_ImportModule("time");
  if (state->format_source == NULL || state->time_module == NULL)
    return -1;
  state->time_dict = Py_NewRef(PyModule_GetDict(state->time_module));
  state->monotonic = PyObject_GetAttrString(state->time_module, "monotonic");
  return state->monotonic != NULL ? 0 : -1;
}

static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec) {
  PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);

  if (type != NULL && PyModule_AddType(module, (PyTypeObject *) type) < 0)
    Py_CLEAR(type);
  return (PyTypeObject *) type;
}

static int execute(PyObject *module) {
  State *state = PyModule_GetState(module);

#define INTERN(name, text)                                                                                                 \
  state->str_##name = PyUnicode_InternFromString(text);                                                                    \
  if (state->str_##name == NULL)                                                                                           \
    return -1;
  NAMES(INTERN)
#undef INTERN
  state->empty_bytes = PyBytes_FromStringAndSize(NULL, 0);
  state->buffered_protocol = import_from("asyncio", "BufferedProtocol");
  state->high_water = PyLong_FromLong(HIGH_WATER);
  state->low_water = PyLong_FromLong(LOW_WATER);
  state->only_context = PyTuple_Pack(1, state->str_context);
  state->only_loop = PyTuple_Pack(1, state->str_loop);
  if (state->buffered_protocol == NULL || state->high_water == NULL || state->low_water == NULL || state->only_context == NULL ||
      state->only_loop == NULL)
    return -1;
  if (state->empty_bytes == NULL || take_api(state) < 0 || take_handles(state) < 0 || take_loop(state) < 0 ||
      handles_add_types(module, state) < 0)
    return -1;
  state->ready_type = add_type(module, &ready_spec);
  state->queue_type = add_type(module, &queue_spec);
  state->loop_type = add_type(module, &loop_spec);
  state->watch_type = add_type(module, &watch_spec);
  if (state->ready_type == NULL || state->queue_type == NULL || state->loop_type == NULL || state->watch_type == NULL ||
      tcp_add_type(module, state) < 0 || server_add_type(module, state) < 0 || transports_add_type(module, state) < 0 ||
      stream_add_type(module, state) < 0 || datagram_add_type(module, state) < 0 || connecting_add_type(module) < 0)
    return -1;
  state->own_run_once = PyObject_GetAttrString((PyObject *) state->loop_type, "_run_once");
  state->own_call_at = PyObject_GetAttrString((PyObject *) state->loop_type, "call_at");
  state->own_time = PyObject_GetAttrString((PyObject *) state->loop_type, "time");
  return state->own_run_once != NULL && state->own_call_at != NULL && state->own_time != NULL ? 0 : -1;
}

#define EACH_OBJECT(state, visit)                                                                                          \
  do {                                                                                                                     \
    visit(state->handle_type);                                                                                             \
    visit(state->timer_type);                                                                                              \
    visit(state->threadsafe_type);                                                                                         \
    visit(state->ready_type);                                                                                              \
    visit(state->queue_type);                                                                                              \
    visit(state->loop_type);                                                                                               \
    visit(state->watch_type);                                                                                              \
    visit(state->stream_type);                                                                                             \
    visit(state->tcp_type);                                                                                                \
    visit(state->server_type);                                                                                             \
    visit(state->transports_type);                                                                                         \
    visit(state->transport_class);                                                                                         \
    visit(state->datagram_type);                                                                                           \
    visit(state->udp_class);                                                                                               \
    visit(state->buffered_protocol);                                                                                       \
    visit(state->os_error);                                                                                                \
    visit(state->pointer_to);                                                                                              \
    visit(state->high_water);                                                                                              \
    visit(state->low_water);                                                                                               \
    visit(state->only_context);                                                                                            \
    visit(state->only_loop);                                                                                               \
    visit(state->futures_dict);                                                                                            \
    visit(state->tasks_dict);                                                                                              \
    visit(state->future_class);                                                                                            \
    visit(state->task_class);                                                                                              \
    visit(state->asyncio_handle);                                                                                          \
    visit(state->asyncio_timer);                                                                                           \
    visit(state->threadsafe_handle);                                                                                       \
    visit(state->handle_cancel);                                                                                           \
    visit(state->asyncio_run);                                                                                             \
    visit(state->own_run_once);                                                                                            \
    visit(state->own_call_at);                                                                                             \
    visit(state->own_time);                                                                                                \
    visit(state->base_loop);                                                                                               \
    visit(state->base_dict);                                                                                               \
    visit(state->base_time);                                                                                               \
    visit(state->base_run_once);                                                                                           \
    visit(state->base_call_soon);                                                                                          \
    visit(state->base_call_soon_threadsafe);                                                                               \
    visit(state->base_call_later);                                                                                         \
    visit(state->base_call_at);                                                                                            \
    visit(state->base_create_future);                                                                                      \
    visit(state->base_create_task);                                                                                        \
    visit(state->base_is_running);                                                                                         \
    visit(state->monotonic);                                                                                               \
    visit(state->time_module);                                                                                             \
    visit(state->time_dict);                                                                                               \
    visit(state->format_source);                                                                                           \
    visit(state->empty_bytes);                                                                                             \
  } while (0)

static int traverse(PyObject *module, visitproc visit, void *arg) {
  State *state = PyModule_GetState(module);

  if (state != NULL)
    EACH_OBJECT(state, Py_VISIT);
  return 0;
}

/* The state stays whole until the module goes. A collection of garbage does not clear it: the types let go of the module then, which ends
 * the cycle, and while they do, handles are still put among those that wait for their next use, and need their type to be freed. */
static void free_module(void *module) {
  State *state = PyModule_GetState(module);

  if (state == NULL)
    return;
  handles_clear_free(state);
  EACH_OBJECT(state, Py_CLEAR);
#define FORGET(name, text) Py_CLEAR(state->str_##name);
  NAMES(FORGET)
#undef FORGET
}

static PyModuleDef_Slot slots[] = {
  {Py_mod_exec, execute},
#if PY_VERSION_HEX >= 0x030c0000
  {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_GIL_DISABLED
  {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
  {0, NULL},
};

struct PyModuleDef speed_module = {
  PyModuleDef_HEAD_INIT,
  "ffloop._speed",
  "What of ffloop runs per callback, per packet and per connection, in C. FFLOOP_PURE=1 does without it.",
  sizeof(State),
  socket_functions,
  slots,
  traverse,
  NULL, /* see free_module */
  free_module,
};

PyMODINIT_FUNC PyInit__speed(void) {
  return PyModuleDef_Init(&speed_module);
}
