/* The watch of a descriptor, in front of `PureWatch` (readers.py): what happens when it is ready, in the usual case that a single one
 * waits. Whatever else there is to do is Python's.
 */
#include "accelerator.h"

typedef struct {
  PyObject_HEAD
  State *state;
  PyObject *module; /* keeps the state */
  PyObject *reader, *writer, *fileobj;
  char silent, waited;
} Watch;

/* The only one that waits and is to be told: a new reference; NULL when there is none, or when two are to be asked. What a subprocess leaves
 * behind may be collected in another thread, and waits no more then. take: he waits no longer. */
static PyObject *find_only(Watch *watch, PyObject *const *args, Py_ssize_t nargs, int take) {
  long events = nargs == 2 ? PyLong_AsLong(args[1]) : -1;
  PyObject *only = NULL;

  if (events == -1) {
    PyErr_Clear();
    return NULL;
  }
  Py_BEGIN_CRITICAL_SECTION(watch);
  if (watch->reader != NULL && watch->writer != NULL && (watch->reader == Py_None) != (watch->writer == Py_None)) {
    PyObject **slot = watch->reader != Py_None ? &watch->reader : &watch->writer;

    if (events & (slot == &watch->reader ? FFLOOP_READABLE : FFLOOP_WRITABLE)) {
      only = take ? *slot : Py_NewRef(*slot);
      if (take)
        *slot = Py_NewRef(Py_None);
    }
  }
  Py_END_CRITICAL_SECTION();
  return only;
}

static PyObject *leave_to_python(Watch *watch, PyObject *name, PyObject *const *args, Py_ssize_t nargs) {
  PyObject *all[3] = {(PyObject *) watch};

  if (nargs != 2) {
    PyErr_SetString(PyExc_TypeError, "a watch is told a status and events");
    return NULL;
  }
  all[1] = args[0];
  all[2] = args[1];
  return PyObject_VectorcallMethod(name, all, 3, NULL);
}

/* Whether asyncio's handles run as asyncio has made them. 0 without an exception. */
static int is_run_own(State *state) {
  PyObject *run = PyObject_GetAttr((PyObject *) state->asyncio_handle, state->str_run);

  if (run == NULL)
    PyErr_Clear();
  Py_XDECREF(run); /* compared, not used */
  return run == state->asyncio_run;
}

/* (status, events), where a handle waits. One that asyncio has made runs here, unless somebody has replaced the way in which it does. */
static PyObject *on_ready(Watch *watch, PyObject *const *args, Py_ssize_t nargs) {
  State *state = watch->state;
  PyObject *handle = find_only(watch, args, nargs, 0);
  int status;

  if (handle == NULL || Py_TYPE(handle) != state->asyncio_handle || SLOT(handle, layout.cancelled) != Py_False ||
      !is_run_own(state)) {
    Py_XDECREF(handle);
    return leave_to_python(watch, state->str_serve, args, nargs);
  }
  status = handle_run(state, handle);
  Py_DECREF(handle);
  if (status < 0)
    return NULL;
  Py_RETURN_NONE;
}

/* (status, events), where futures alone wait. */
static PyObject *on_ready_once(Watch *watch, PyObject *const *args, Py_ssize_t nargs) {
  State *state = watch->state;
  PyObject *future = find_only(watch, args, nargs, 1), *answer;
  int done;

  if (future == NULL)
    return leave_to_python(watch, state->str_serve_once, args, nargs);
  watch->silent = 1;
  answer = PyObject_CallMethodNoArgs(future, state->str_done);
  done = answer != NULL ? PyObject_IsTrue(answer) : -1;
  Py_XDECREF(answer);
  if (done == 0) {
    answer = PyObject_CallMethodOneArg(future, state->str_set_result, Py_None);
    done = answer != NULL ? 0 : -1;
    Py_XDECREF(answer);
  }
  Py_DECREF(future);
  if (done < 0)
    return NULL;
  if (watch->reader != Py_None || watch->writer != Py_None) {
    /* The future is a program's, and what it has called has somebody wait here: none of the events is for him. */
    PyObject *none[2] = {args[0], PyLong_FromLong(0)};

    answer = none[1] != NULL ? leave_to_python(watch, state->str_serve_once, none, 2) : NULL;
    Py_XDECREF(none[1]);
    return answer;
  }
  replace(&watch->fileobj, Py_NewRef(Py_None));
  watch->waited = 1;
  Py_RETURN_NONE;
}

static PyObject *new_watch(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  PyObject *module = PyType_GetModuleByDef(type, &speed_module);
  Watch *watch;

  (void) args;
  (void) kwargs;
  if (module == NULL)
    return NULL;
  watch = (Watch *) type->tp_alloc(type, 0);
  if (watch != NULL) {
    watch->module = Py_NewRef(module);
    watch->state = PyModule_GetState(module);
  }
  return (PyObject *) watch;
}

static int traverse(Watch *watch, visitproc visit, void *arg) {
  Py_VISIT(Py_TYPE(watch));
  Py_VISIT(watch->module);
  Py_VISIT(watch->reader);
  Py_VISIT(watch->writer);
  Py_VISIT(watch->fileobj);
  return 0;
}

/* The module stays: the state is in it. */
static int clear(Watch *watch) {
  Py_CLEAR(watch->reader);
  Py_CLEAR(watch->writer);
  Py_CLEAR(watch->fileobj);
  return 0;
}

static void dealloc(Watch *watch) {
  PyTypeObject *type = Py_TYPE(watch);

  PyObject_GC_UnTrack(watch);
  clear(watch);
  Py_CLEAR(watch->module);
  type->tp_free(watch);
  Py_DECREF(type);
}

static PyMethodDef methods[] = {
  {"_on_ready", (PyCFunction) (void (*)(void)) on_ready, METH_FASTCALL, NULL},
  {"_on_ready_once", (PyCFunction) (void (*)(void)) on_ready_once, METH_FASTCALL, NULL},
  {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
  {"reader", T_OBJECT_EX, offsetof(Watch, reader), 0, NULL},
  {"writer", T_OBJECT_EX, offsetof(Watch, writer), 0, NULL},
  {"fileobj", T_OBJECT_EX, offsetof(Watch, fileobj), 0, NULL},
  {"silent", T_BOOL, offsetof(Watch, silent), 0, NULL},
  {"waited", T_BOOL, offsetof(Watch, waited), 0, NULL},
  {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
  {Py_tp_doc, "What of a watch runs per event."},
  {Py_tp_new, new_watch},
  {Py_tp_methods, methods},
  {Py_tp_members, members},
  {Py_tp_traverse, traverse},
  {Py_tp_clear, clear},
  {Py_tp_dealloc, dealloc},
  {0, NULL},
};

PyType_Spec watch_spec = {
  "ffloop._speed.Watch", sizeof(Watch), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots,
};
