/* The ready queue: what the loop runs next. To Python it is a `collections.deque`, as far as anybody uses that of a loop;
 * inside it is a ring of references, of which append and popleft are a few instructions each.
 */
#include "accelerator.h"

enum { FIRST_SIZE = 64 };

static Py_ssize_t position(const Ready *ready, Py_ssize_t index) {
  return (ready->head + index) & (ready->size - 1);
}

/* Makes the ring so large. -1 without an exception. */
static int resize(Ready *ready, Py_ssize_t size) {
  PyObject **items = PyMem_New(PyObject *, (size_t) size);
  Py_ssize_t i;

  if (items == NULL)
    return -1;
  for (i = 0; i < ready->length; i++)
    items[i] = ready->items[position(ready, i)];
  PyMem_Free(ready->items);
  ready->items = items;
  ready->size = size;
  ready->head = 0;
  return 0;
}

static int grow(Ready *ready) {
  if (resize(ready, ready->size ? 2 * ready->size : FIRST_SIZE) == 0)
    return 0;
  PyErr_NoMemory();
  return -1;
}

int ready_reserve(Ready *ready, Py_ssize_t more) {
  Py_ssize_t size;
  int status;

  LOCK(&ready->mutex);
  size = ready->size ? ready->size : FIRST_SIZE;
  while (size - ready->length < more)
    size *= 2;
  status = size == ready->size ? 0 : resize(ready, size);
  UNLOCK(&ready->mutex);
  return status;
}

PyObject *ready_new(State *state) {
  return state->ready_type->tp_alloc(state->ready_type, 0);
}

/* Keeps a reference of its own to `item`. The mutex is the caller's. */
static int put(Ready *ready, PyObject *item, int left) {
  if (ready->length == ready->size && grow(ready) < 0)
    return -1;
  if (left) {
    ready->head = position(ready, ready->size - 1);
    ready->items[ready->head] = Py_NewRef(item);
  } else {
    ready->items[position(ready, ready->length)] = Py_NewRef(item);
  }
  STORE(ready->length, ready->length + 1);
  return 0;
}

/* Likewise; -1 with an exception. */
int ready_append(Ready *ready, PyObject *item) {
  int status;

  LOCK(&ready->mutex);
  status = put(ready, item, 0);
  UNLOCK(&ready->mutex);
  return status;
}

int ready_append_left(Ready *ready, PyObject *item) {
  int status;

  LOCK(&ready->mutex);
  status = put(ready, item, 1);
  UNLOCK(&ready->mutex);
  return status;
}

/* Gives the queue's reference to the caller. */
PyObject *ready_pop_left(Ready *ready) {
  PyObject *item = NULL;

  LOCK(&ready->mutex);
  if (ready->length > 0) {
    item = ready->items[ready->head];
    ready->head = position(ready, 1);
    STORE(ready->length, ready->length - 1);
  }
  UNLOCK(&ready->mutex);
  return item;
}

/* Up to Python 3.11 a list that is made can begin a collection of garbage, whose finalizers use the queue as they like: so its length is
 * asked for afterwards. */
static PyObject *as_list(Ready *ready) {
  PyObject *list;
  Py_ssize_t i;

  while ((list = PyList_New(LOAD(ready->length))) != NULL) {
    LOCK(&ready->mutex);
    if (PyList_GET_SIZE(list) == ready->length) {
      for (i = 0; i < ready->length; i++)
        PyList_SET_ITEM(list, i, Py_NewRef(ready->items[position(ready, i)]));
      UNLOCK(&ready->mutex);
      return list;
    }
    UNLOCK(&ready->mutex);
    Py_DECREF(list);
  }
  return NULL;
}

static PyObject *append(Ready *ready, PyObject *item) {
  if (ready_append(ready, item) < 0)
    return NULL;
  Py_RETURN_NONE;
}

static PyObject *append_left(Ready *ready, PyObject *item) {
  if (ready_append_left(ready, item) < 0)
    return NULL;
  Py_RETURN_NONE;
}

static PyObject *extend(Ready *ready, PyObject *items) {
  PyObject *list = PySequence_List(items);
  Py_ssize_t i;

  if (list == NULL)
    return NULL;
  for (i = 0; i < PyList_GET_SIZE(list); i++) {
    if (ready_append(ready, PyList_GET_ITEM(list, i)) < 0) {
      Py_DECREF(list);
      return NULL;
    }
  }
  Py_DECREF(list);
  Py_RETURN_NONE;
}

static PyObject *extend_left(Ready *ready, PyObject *items) {
  PyObject *list = PySequence_List(items);
  Py_ssize_t i;

  for (i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
    if (ready_append_left(ready, PyList_GET_ITEM(list, i)) < 0)
      Py_CLEAR(list);
  }
  if (list == NULL)
    return NULL;
  Py_DECREF(list);
  Py_RETURN_NONE;
}

static PyObject *pop_left(Ready *ready, PyObject *unused) {
  PyObject *item = ready_pop_left(ready);

  (void) unused;
  if (item == NULL)
    PyErr_SetString(PyExc_IndexError, "pop from an empty deque");
  return item;
}

static PyObject *pop(Ready *ready, PyObject *unused) {
  PyObject *item = NULL;

  (void) unused;
  LOCK(&ready->mutex);
  if (ready->length > 0) {
    STORE(ready->length, ready->length - 1);
    item = ready->items[position(ready, ready->length)];
  }
  UNLOCK(&ready->mutex);
  if (item == NULL)
    PyErr_SetString(PyExc_IndexError, "pop from an empty deque");
  return item;
}

/* Removes all. What that frees may run code that uses the queue, and finds it empty. */
static int drop_all(Ready *ready) {
  PyObject **items;
  Py_ssize_t size, head, length, i;

  LOCK(&ready->mutex);
  items = ready->items;
  size = ready->size;
  head = ready->head;
  length = ready->length;
  ready->items = NULL;
  ready->size = ready->head = 0;
  STORE(ready->length, 0);
  UNLOCK(&ready->mutex);
  for (i = 0; i < length; i++)
    Py_DECREF(items[(head + i) & (size - 1)]);
  PyMem_Free(items);
  return 0;
}

static PyObject *clear(Ready *ready, PyObject *unused) {
  (void) unused;
  drop_all(ready);
  Py_RETURN_NONE;
}

/* Takes the item at `index` out, NULL without an exception if there is none. The caller gets its reference. */
static PyObject *take(Ready *ready, Py_ssize_t index) {
  PyObject *item = NULL;

  LOCK(&ready->mutex);
  if (index >= 0 && index < ready->length)
    item = ready->items[position(ready, index)];
  for (; item != NULL && index < ready->length - 1; index++)
    ready->items[position(ready, index)] = ready->items[position(ready, index + 1)];
  if (item != NULL)
    STORE(ready->length, ready->length - 1);
  UNLOCK(&ready->mutex);
  return item;
}

/* A reference to the item at `index`, NULL without an exception if there is none. */
static PyObject *get(Ready *ready, Py_ssize_t index) {
  PyObject *item = NULL;

  LOCK(&ready->mutex);
  if (index >= 0 && index < ready->length)
    item = Py_NewRef(ready->items[position(ready, index)]);
  UNLOCK(&ready->mutex);
  return item;
}

/* The index of `wanted`, -1 when there is none, -2 with an exception. Comparing may run code: each item is held meanwhile. */
static Py_ssize_t find(Ready *ready, PyObject *wanted) {
  Py_ssize_t i;

  for (i = 0; i < LOAD(ready->length); i++) {
    PyObject *item = get(ready, i);
    int equal;

    if (item == NULL)
      break;
    equal = PyObject_RichCompareBool(item, wanted, Py_EQ);

    Py_DECREF(item);
    if (equal != 0)
      return equal > 0 ? i : -2;
  }
  return -1;
}

static PyObject *remove_item(Ready *ready, PyObject *wanted) {
  Py_ssize_t index = find(ready, wanted);

  PyObject *item = index >= 0 ? take(ready, index) : NULL;

  if (item != NULL) {
    Py_DECREF(item);
    Py_RETURN_NONE;
  }
  if (index != -2)
    PyErr_SetString(PyExc_ValueError, "deque.remove(x): x not in deque");
  return NULL;
}

static int contains(Ready *ready, PyObject *wanted) {
  Py_ssize_t index = find(ready, wanted);

  return index == -2 ? -1 : index >= 0;
}

static Py_ssize_t length(Ready *ready) {
  return LOAD(ready->length);
}

static PyObject *item_at(Ready *ready, Py_ssize_t index) {
  PyObject *item = get(ready, index);

  if (item == NULL)
    PyErr_SetString(PyExc_IndexError, "deque index out of range");
  return item;
}

static int set_item(Ready *ready, Py_ssize_t index, PyObject *item) {
  PyObject *old = NULL;

  if (item == NULL) {
    old = take(ready, index);
  } else {
    LOCK(&ready->mutex);
    if (index >= 0 && index < ready->length) {
      old = ready->items[position(ready, index)];
      ready->items[position(ready, index)] = Py_NewRef(item);
    }
    UNLOCK(&ready->mutex);
  }
  if (old == NULL) {
    PyErr_SetString(PyExc_IndexError, "deque index out of range");
    return -1;
  }
  Py_DECREF(old);
  return 0;
}

/* What nobody needs often goes by way of a list: which method of it, and whether it changes what is here. What others have put at the end
 * meanwhile, without a GIL, stays there. */
static PyObject *through_list(Ready *ready, const char *method, PyObject *args, int changes) {
  PyObject *list = as_list(ready), *function, *result = NULL;
  Py_ssize_t had = list != NULL ? PyList_GET_SIZE(list) : 0, i;

  function = list != NULL ? PyObject_GetAttrString(list, method) : NULL;
  if (function != NULL)
    result = PyObject_CallObject(function, args);
  if (result != NULL && changes && ready_reserve(ready, PyList_GET_SIZE(list) - had) < 0) {
    Py_CLEAR(result);
    PyErr_NoMemory();
  }
  if (result != NULL && changes) {
    for (; had > 0; had--)
      Py_XDECREF(ready_pop_left(ready));
    for (i = PyList_GET_SIZE(list); i-- > 0 && result != NULL;)
      if (ready_append_left(ready, PyList_GET_ITEM(list, i)) < 0)
        Py_CLEAR(result);
  }
  Py_XDECREF(function);
  Py_XDECREF(list);
  return result;
}

static PyObject *insert(Ready *ready, PyObject *args) {
  return through_list(ready, "insert", args, 1);
}

static PyObject *index_of(Ready *ready, PyObject *args) {
  return through_list(ready, "index", args, 0);
}

static PyObject *count_of(Ready *ready, PyObject *args) {
  return through_list(ready, "count", args, 0);
}

static PyObject *reverse(Ready *ready, PyObject *unused) {
  (void) unused;
  return through_list(ready, "reverse", NULL, 1);
}

static PyObject *rotate(Ready *ready, PyObject *args) {
  Py_ssize_t steps = 1;

  if (!PyArg_ParseTuple(args, "|n:rotate", &steps))
    return NULL;
  if (LOAD(ready->length) > 0) {
    /* The ring may have gaps: item by item, the shorter way round. */
    steps %= ready->length;
    for (; steps > 0; steps--) {
      PyObject *item = pop(ready, NULL);
      int status = ready_append_left(ready, item);

      Py_DECREF(item);
      if (status < 0)
        return NULL;
    }
    for (; steps < 0; steps++) {
      PyObject *item = ready_pop_left(ready);
      int status = ready_append(ready, item);

      Py_DECREF(item);
      if (status < 0)
        return NULL;
    }
  }
  Py_RETURN_NONE;
}

static PyObject *get_maxlen(Ready *ready, void *unused) {
  (void) ready;
  (void) unused;
  Py_RETURN_NONE;
}

static PyObject *iterate(Ready *ready) {
  PyObject *list = as_list(ready), *iterator;

  if (list == NULL)
    return NULL;
  iterator = PyObject_GetIter(list);
  Py_DECREF(list);
  return iterator;
}

static PyObject *represent(Ready *ready) {
  PyObject *list, *text;
  int entered = Py_ReprEnter((PyObject *) ready);

  if (entered != 0)
    return entered > 0 ? PyUnicode_FromString("deque([...])") : NULL;
  list = as_list(ready);
  text = list != NULL ? PyUnicode_FromFormat("deque(%R)", list) : NULL;
  Py_XDECREF(list);
  Py_ReprLeave((PyObject *) ready);
  return text;
}

static PyObject *copy(Ready *ready, PyObject *unused) {
  PyObject *made = Py_TYPE(ready)->tp_alloc(Py_TYPE(ready), 0);
  Py_ssize_t i;

  (void) unused;
  for (i = 0; made != NULL && i < LOAD(ready->length); i++) {
    PyObject *item = get(ready, i);

    if (item == NULL)
      break;
    if (ready_append((Ready *) made, item) < 0)
      Py_CLEAR(made);
    Py_DECREF(item);
  }
  return made;
}

static PyObject *new_ready(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
  PyObject *items = NULL, *made, *done;

  if ((kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) || !PyArg_ParseTuple(args, "|O:Ready", &items))
    return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "Ready() takes no keyword arguments");
  made = type->tp_alloc(type, 0);
  if (made != NULL && items != NULL) {
    done = extend((Ready *) made, items);
    if (done == NULL)
      Py_CLEAR(made);
    Py_XDECREF(done);
  }
  return made;
}

static int traverse(Ready *ready, visitproc visit, void *arg) {
  Py_ssize_t i;

  Py_VISIT(Py_TYPE(ready));
  for (i = 0; i < ready->length; i++)
    Py_VISIT(ready->items[position(ready, i)]);
  return 0;
}

static void dealloc(Ready *ready) {
  PyTypeObject *type = Py_TYPE(ready);

  PyObject_GC_UnTrack(ready);
  drop_all(ready);
  type->tp_free(ready);
  Py_DECREF(type);
}

static PyMethodDef methods[] = {
  {"append", (PyCFunction) append, METH_O, NULL},
  {"appendleft", (PyCFunction) append_left, METH_O, NULL},
  {"extend", (PyCFunction) extend, METH_O, NULL},
  {"extendleft", (PyCFunction) extend_left, METH_O, NULL},
  {"insert", (PyCFunction) insert, METH_VARARGS, NULL},
  {"index", (PyCFunction) index_of, METH_VARARGS, NULL},
  {"count", (PyCFunction) count_of, METH_VARARGS, NULL},
  {"reverse", (PyCFunction) reverse, METH_NOARGS, NULL},
  {"rotate", (PyCFunction) rotate, METH_VARARGS, NULL},
  {"__copy__", (PyCFunction) copy, METH_NOARGS, NULL},
  {"popleft", (PyCFunction) pop_left, METH_NOARGS, NULL},
  {"pop", (PyCFunction) pop, METH_NOARGS, NULL},
  {"clear", (PyCFunction) clear, METH_NOARGS, NULL},
  {"copy", (PyCFunction) copy, METH_NOARGS, NULL},
  {"remove", (PyCFunction) remove_item, METH_O, NULL},
  {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
  {"maxlen", (getter) get_maxlen, NULL, NULL, NULL},
  {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
  {Py_tp_doc, "The handles that are ready to run: a deque, as far as loops use one."},
  {Py_tp_new, new_ready},
  {Py_tp_methods, methods},
  {Py_tp_traverse, traverse},
  {Py_tp_clear, drop_all},
  {Py_tp_dealloc, dealloc},
  {Py_tp_iter, iterate},
  {Py_tp_repr, represent},
  {Py_sq_length, length},
  {Py_tp_getset, properties},
  {Py_sq_item, item_at},
  {Py_sq_ass_item, set_item},
  {Py_sq_contains, contains},
  {0, NULL},
};

PyType_Spec ready_spec = {
  "ffloop._speed.Ready", sizeof(Ready), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots,
};
