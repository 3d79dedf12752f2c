/* The timers' heap: the list `_scheduled` of `BaseEventLoop`, a heap as heapq keeps it.
 *
 * Timers of the same moment run in the order in which they leave the heap, so the steps are those of heapq, one comparison for
 * each of its comparisons. Only the comparison is shorter: of two numbers, without a call of `TimerHandle.__lt__`.
 */
#include "accelerator.h"

/* When the timer is due, in seconds of the loop's clock. Of a timer of ours the number is beside the slot as well, as long as the slot has
 * the object that it is of: a large heap is many cache misses, and this saves every second one. */
int timers_when(State *state, PyObject *timer, double *when) {
  PyObject *number;

  if (Py_TYPE(timer) == state->timer_type) {
    const Due *due = due_of(timer);

    number = SLOT(timer, layout.when);
    if (number != NULL && due->number == number) {
      *when = due->when;
      return 0;
    }
  }
  if (Py_TYPE(timer) == state->timer_type || Py_TYPE(timer) == state->asyncio_timer) {
    number = SLOT(timer, layout.when);
    if (number != NULL && PyFloat_CheckExact(number)) {
      *when = PyFloat_AS_DOUBLE(number);
      return 0;
    }
  }
  number = PyObject_GetAttrString(timer, "_when");
  if (number == NULL)
    return -1;
  *when = PyFloat_AsDouble(number);
  Py_DECREF(number);
  return *when == -1.0 && PyErr_Occurred() ? -1 : 0;
}

static int changed(void) {
  PyErr_SetString(PyExc_RuntimeError, "the timers were changed while they were compared");
  return -1;
}

/* Whether the list is what it was before numbers were compared. Of floats it always is; a number of somebody else's class
 * can run any code. Items are read without references of their own, so nothing may be done on a list that has changed. */
static int is_same(PyObject *heap, PyObject **items, Py_ssize_t length) {
  if (((PyListObject *) heap)->ob_item == items && PyList_GET_SIZE(heap) == length)
    return 1;
  changed();
  return 0;
}

/* Moves the item at `index` towards the root, as far as it is due before its parents, but not above `start`. */
static int rise(State *state, PyObject *heap, Py_ssize_t start, Py_ssize_t index) {
  PyObject **items = ((PyListObject *) heap)->ob_item;
  Py_ssize_t length = PyList_GET_SIZE(heap);
  PyObject *item = items[index];
  double when, parents;

  if (timers_when(state, item, &when) < 0)
    return -1;
  while (index > start) {
    Py_ssize_t above = (index - 1) >> 1;

    if (!is_same(heap, items, length) || timers_when(state, items[above], &parents) < 0 || !is_same(heap, items, length))
      return -1;
    if (items[index] != item)
      return changed();
    if (!(when < parents))
      break;
    items[index] = items[above];
    items[above] = item;
    index = above;
  }
  return 0;
}

/* Moves the item at `index` down to a leaf, along the children that are due first, and from there up to its place. */
static int sink(State *state, PyObject *heap, Py_ssize_t index) {
  PyObject **items = ((PyListObject *) heap)->ob_item;
  Py_ssize_t length = PyList_GET_SIZE(heap), start = index, child;
  double left, right;

  while ((child = 2 * index + 1) < length) {
    PyObject *moved;

#ifdef __GNUC__
    /* The timers of the next step, while this one compares. */
    if (2 * child + 4 < length) {
      __builtin_prefetch(due_of(items[2 * child + 1]));
      __builtin_prefetch(due_of(items[2 * child + 2]));
      __builtin_prefetch(due_of(items[2 * child + 3]));
      __builtin_prefetch(due_of(items[2 * child + 4]));
    }
#endif

    if (child + 1 < length) {
      if (timers_when(state, items[child], &left) < 0 || !is_same(heap, items, length) ||
          timers_when(state, items[child + 1], &right) < 0 || !is_same(heap, items, length))
        return -1;
      if (!(left < right))
        child++;
    }
    moved = items[index];
    items[index] = items[child];
    items[child] = moved;
    index = child;
  }
  return rise(state, heap, start, index);
}

int timers_push(State *state, PyObject *heap, PyObject *timer) {
  if (PyList_Append(heap, timer) < 0)
    return -1;
  return rise(state, heap, 0, PyList_GET_SIZE(heap) - 1);
}

/* Takes the first timer out; the caller gets the heap's reference. The heap must not be empty. */
PyObject *timers_pop(State *state, PyObject *heap) {
  Py_ssize_t last = PyList_GET_SIZE(heap) - 1;
  PyObject *timer = Py_NewRef(PyList_GET_ITEM(heap, last));

  if (PyList_SetSlice(heap, last, last + 1, NULL) < 0) {
    Py_DECREF(timer);
    return NULL;
  }
  if (last > 0) {
    PyObject *first = PyList_GET_ITEM(heap, 0);

    PyList_SET_ITEM(heap, 0, timer);
    timer = first;
    if (sink(state, heap, 0) < 0) {
      Py_DECREF(timer);
      return NULL;
    }
  }
  return timer;
}

int timers_heapify(State *state, PyObject *heap) {
  Py_ssize_t index;

  for (index = PyList_GET_SIZE(heap) / 2 - 1; index >= 0; index--) {
    if (sink(state, heap, index) < 0)
      return -1;
  }
  return 0;
}
