/* The loop's `_transports`: which transport has which descriptor, for as long as there is one.
 *
 * What Python code sees is a dictionary of weak references, as it has one without the accelerator (readers.py). Such a reference and its entry
 * take 150 bytes, a seventh of what an idle connection does: so stream transports of ours stand in an array, without a reference, and take
 * themselves out when they go. Whoever looks for one gets a weak reference that is made then. All others are kept by weak references here,
 * too; and all of them are where one thread could look while another one frees what it looks at. There the array, which moves when it grows, is
 * read and written inside of critical sections.
 */
#include "accelerator.h"

#ifndef _WIN32

enum { FIRST_SIZE = 64 };

typedef struct {
  PyObject_HEAD
  State *state;
  PyObject *module;  /* keeps the state */
  PyObject **items;  /* by descriptor: a stream transport, borrowed, or a weak reference, owned, or NULL */
  Py_ssize_t size;
} Transports;

/* The descriptor, -1 for what is none: without an exception. */
static int number_of(PyObject *key) {
  int overflow;
  long number = PyLong_Check(key) ? PyLong_AsLongAndOverflow(key, &overflow) : -1;

  return number >= 0 && number <= INT_MAX ? (int) number : -1;
}

/* Empties a place. */
static void empty(Transports *self, Py_ssize_t fd) {
  PyObject *item = self->items[fd];

  self->items[fd] = NULL;
  if (item == NULL)
    return;
  if (PyWeakref_CheckRef(item)) {
    Py_DECREF(item);
  } else {
    part_of(item)->transports = NULL;
    Py_DECREF(self); /* the item's; the caller has one */
  }
}

void transports_forget(PyObject *transport) {
  Transports *self = (Transports *) part_of(transport)->transports;

  if (self == NULL)
    return;
  Py_INCREF(self);
  empty(self, part_of(transport)->number);
  Py_DECREF(self);
}

static int reserve(Transports *self, Py_ssize_t fd) {
  Py_ssize_t size = self->size > 0 ? self->size : FIRST_SIZE;
  PyObject **larger;

  if (fd < self->size)
    return 0;
  while (size <= fd)
    size *= 2;
  larger = PyMem_Resize(self->items, PyObject *, (size_t) size);
  if (larger == NULL) {
    PyErr_NoMemory();
    return -1;
  }
  memset(larger + self->size, 0, (size_t) (size - self->size) * sizeof *larger);
  self->items = larger;
  self->size = size;
  return 0;
}

/* Puts a transport in. */
static int put(Transports *self, PyObject *key, PyObject *transport) {
  int fd = number_of(key), status;
  PyObject *reference = NULL;

  if (fd < 0) {
    PyErr_SetString(PyExc_ValueError, "the key is a descriptor");
    return -1;
  }
  if (FREE_THREADED || !is_a(transport, self->state->stream_type)) {
    reference = PyWeakref_NewRef(transport, NULL);
    if (reference == NULL)
      return -1;
  }
  Py_BEGIN_CRITICAL_SECTION(self);
  status = reserve(self, fd);
  if (status == 0) {
    empty(self, fd);
    if (reference == NULL) {
      transports_forget(transport); /* it has one place */
      part_of(transport)->transports = Py_NewRef(self);
      part_of(transport)->number = fd;
    }
    self->items[fd] = reference != NULL ? reference : transport;
  }
  Py_END_CRITICAL_SECTION();
  if (status < 0)
    Py_XDECREF(reference);
  return status;
}

int transports_introduce(State *state, PyObject *transports, PyObject *fd, PyObject *transport) {
  PyObject *reference;
  int status;

  if (Py_TYPE(transports) == state->transports_type)
    return put((Transports *) transports, fd, transport);
  reference = PyWeakref_NewRef(transport, NULL); /* somebody else's dictionary */
  status = reference != NULL ? PyObject_SetItem(transports, fd, reference) : -1;
  Py_XDECREF(reference);
  return status;
}

/* As of a dictionary: the value is a weak reference. */
static int set_item(Transports *self, PyObject *key, PyObject *reference) {
  PyObject *transport;
  int status = 0;

  if (reference == NULL || !PyWeakref_CheckRef(reference)) {
    PyErr_SetString(PyExc_TypeError, "a weak reference is to be set");
    return -1;
  }
  transport = PyObject_CallNoArgs(reference);
  if (transport == NULL)
    return -1;
  if (transport != Py_None)
    status = put(self, key, transport);
  Py_DECREF(transport);
  return status;
}

/* A new reference to a weak reference, NULL without an exception where there is nothing. One that is about to go has had its weak references
 * cleared, and can be given no new one. */
static PyObject *reference_at(Transports *self, Py_ssize_t fd) {
  PyObject *item, *reference = NULL;

  Py_BEGIN_CRITICAL_SECTION(self);
  item = fd >= 0 && fd < self->size ? self->items[fd] : NULL;
  if (item != NULL && Py_REFCNT(item) > 0) {
    Py_INCREF(item); /* making one can begin a collection of garbage (until 3.11 at once), to which the item may belong */
    reference = PyWeakref_CheckRef(item) ? Py_NewRef(item) : PyWeakref_NewRef(item, NULL);
    Py_DECREF(item);
  }
  Py_END_CRITICAL_SECTION();
  return reference;
}

static int contains(Transports *self, PyObject *key) {
  int fd = number_of(key), is_there;

  Py_BEGIN_CRITICAL_SECTION(self);
  is_there = fd >= 0 && fd < self->size && self->items[fd] != NULL;
  Py_END_CRITICAL_SECTION();
  return is_there;
}

static PyObject *get(Transports *self, PyObject *key) {
  PyObject *reference = reference_at(self, number_of(key));

  return reference != NULL || PyErr_Occurred() ? reference : Py_NewRef(Py_None);
}

static PyObject *values(Transports *self, PyObject *unused) {
  PyObject *list = PyList_New(0);
  Py_ssize_t fd;

  (void) unused;
  /* What is made can begin a collection of garbage, in which transports come and go. */
  for (fd = 0; list != NULL && fd < self->size; fd++) {
    PyObject *reference = reference_at(self, fd);

    if (reference == NULL ? PyErr_Occurred() != NULL : PyList_Append(list, reference) < 0)
      Py_CLEAR(list);
    Py_XDECREF(reference);
  }
  return list;
}

static PyObject *new_transports(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  PyObject *module = PyType_GetModuleByDef(type, &speed_module);
  Transports *self;

  (void) args;
  (void) kwargs;
  self = module != NULL ? (Transports *) type->tp_alloc(type, 0) : NULL;
  if (self != NULL) {
    self->module = Py_NewRef(module);
    self->state = PyModule_GetState(module);
  }
  return (PyObject *) self;
}

static int traverse(Transports *self, visitproc visit, void *arg) {
  Py_ssize_t fd;

  Py_VISIT(Py_TYPE(self));
  Py_VISIT(self->module);
  for (fd = 0; fd < self->size; fd++) {
    if (self->items[fd] != NULL && PyWeakref_CheckRef(self->items[fd]))
      Py_VISIT(self->items[fd]);
  }
  return 0;
}

/* The caller holds a reference. */
static int clear(Transports *self) {
  Py_ssize_t fd;

  for (fd = 0; fd < self->size; fd++)
    empty(self, fd);
  return 0;
}

static void dealloc(Transports *self) {
  PyTypeObject *type = Py_TYPE(self);

  PyObject_GC_UnTrack(self);
  clear(self); /* of weak references alone: a transport that stands here holds it */
  PyMem_Free(self->items);
  Py_CLEAR(self->module);
  type->tp_free(self);
  Py_DECREF(type);
}

static PyMethodDef methods[] = {
  {"get", (PyCFunction) get, METH_O, "get($self, fd, /)\n--\n\nReturn a weak reference to the transport that has `fd`, or None."},
  {"values", (PyCFunction) values, METH_NOARGS, "values($self, /)\n--\n\nReturn weak references to all of them."},
  {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
  {Py_tp_doc, "Weak references to transports, by descriptor."},
  {Py_tp_new, new_transports},
  {Py_tp_methods, methods},
  {Py_sq_contains, contains},
  {Py_mp_ass_subscript, set_item},
  {Py_tp_traverse, traverse},
  {Py_tp_clear, clear},
  {Py_tp_dealloc, dealloc},
  {0, NULL},
};

static PyType_Spec spec = {"ffloop._speed.Transports", sizeof(Transports), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};

int transports_add_type(PyObject *module, State *state) {
  PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);

  state->transports_type = (PyTypeObject *) type;
  return type != NULL ? PyModule_AddType(module, (PyTypeObject *) type) : -1;
}

#else

/* Transports are transports.py's alone there, and so is this. */
int transports_add_type(PyObject *module, State *state) {
  (void) module;
  (void) state;
  return 0;
}

#endif
