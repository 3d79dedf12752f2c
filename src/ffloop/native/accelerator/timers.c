/* The timers' heap: the list `_scheduled` of `BaseEventLoop`, a heap as heapq keeps it.
 *
 * Timers of the same moment run in the order in which they leave the heap, so the steps are those of heapq, one comparison for
 * each of its comparisons. Only the comparison is shorter: of two numbers, without a call of `TimerHandle.__lt__`.
 */
#include "accelerator.h"

enum { FEW_DUE = 64 }; /* fewer are taken out of the heap one by one */

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

    /* The timers of the next step, while this one compares. */
    if (2 * child + 4 < length) {
      PREFETCH(due_of(items[2 * child + 1]));
      PREFETCH(due_of(items[2 * child + 2]));
      PREFETCH(due_of(items[2 * child + 3]));
      PREFETCH(due_of(items[2 * child + 4]));
    }
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

/* Many that are due at once */

typedef struct {
  uint64_t key;     /* the moment, as a number whose order is that of the moments */
  Py_ssize_t index; /* in the heap */
} Entry;

typedef struct {
  Entry *entries;
  Py_ssize_t count, size;
} Entries;

static uint64_t key_of(double when) {
  uint64_t bits;

  when += 0.0; /* of the two zeros one */
  memcpy(&bits, &when, sizeof bits);
  return bits >> 63 ? ~bits : bits | (uint64_t) 1 << 63;
}

/* Sorts by the bytes of the keys, the lowest first; the moments of a burst have most of the others in common, and those are passed over: a
 * third of the time of qsort(). -1 without an exception when there is no memory. */
static int sort_entries(Entry *entries, Py_ssize_t count) {
  Entry *spare = PyMem_New(Entry, (size_t) count), *from = entries, *to = spare, *swap;
  uint64_t differing = 0;
  Py_ssize_t i;
  int shift;

  if (spare == NULL)
    return -1;
  for (i = 1; i < count; i++)
    differing |= entries[i].key ^ entries[0].key;
  for (shift = 0; shift < 64; shift += 8) {
    Py_ssize_t places[256] = {0}, place = 0;

    if ((differing >> shift & 255) == 0)
      continue;
    for (i = 0; i < count; i++)
      places[from[i].key >> shift & 255]++;
    for (i = 0; i < 256; i++) {
      Py_ssize_t more = places[i];

      places[i] = place;
      place += more;
    }
    for (i = 0; i < count; i++)
      to[places[from[i].key >> shift & 255]++] = from[i];
    swap = from;
    from = to;
    to = swap;
  }
  if (from != entries)
    memcpy(entries, from, (size_t) count * sizeof *entries);
  PyMem_Free(spare);
  return 0;
}

/* Adds the timer at `index`, if it is due before `end`. -1 without an exception: there is no memory, or looking at it could run code. */
static int note_due(State *state, PyObject *heap, Py_ssize_t index, double end, Entries *due) {
  PyObject *timer = PyList_GET_ITEM(heap, index);
  double when;

  if (Py_TYPE(timer) != state->timer_type || due_of(timer)->number == NULL ||
      due_of(timer)->number != SLOT(timer, layout.when) || SLOT(timer, layout.scheduled) != Py_True)
    return -1;
  when = due_of(timer)->when;
  if (when != when)
    return -1; /* no number: it has no place in an order */
  if (when >= end)
    return 0;
  if (due->count == due->size) {
    Entry *larger = PyMem_Resize(due->entries, Entry, (size_t) due->size * 2);

    if (larger == NULL)
      return -1;
    due->entries = larger;
    due->size *= 2;
  }
  if (2 * index + 2 < PyList_GET_SIZE(heap)) {
    const char *left = (const char *) PyList_GET_ITEM(heap, 2 * index + 1);
    const char *right = (const char *) PyList_GET_ITEM(heap, 2 * index + 2);

    PREFETCH(left);
    PREFETCH(left + 64);
    PREFETCH(right);
    PREFETCH(right + 64);
  }
  due->entries[due->count].key = key_of(when);
  due->entries[due->count++].index = index;
  return 0;
}

/* Finds the timers that are due before `end`, by going down the heap as far as they reach, and sorts them. -1 without an exception:
 * they are to be taken one by one. */
static int find_due(State *state, PyObject *heap, double end, Entries *due) {
  Py_ssize_t length = PyList_GET_SIZE(heap), done;

  if (note_due(state, heap, 0, end, due) < 0)
    return -1;
  for (done = 0; done < due->count; done++) {
    Py_ssize_t child = 2 * due->entries[done].index + 1;

    if ((child < length && note_due(state, heap, child, end, due) < 0) ||
        (child + 1 < length && note_due(state, heap, child + 1, end, due) < 0))
      return -1;
  }
  /* The others are made a heap again, which so many have to be worth. */
  if (due->count < FEW_DUE || due->count < (length - due->count) / 4)
    return -1;
  if (sort_entries(due->entries, due->count) < 0)
    return -1;
  for (done = 1; done < due->count; done++) {
    /* Of the same moment: heapq's own steps tell which is first. */
    if (due->entries[done - 1].key == due->entries[done].key)
      return -1;
  }
  return 0;
}

/* Moves all timers that are due before `end` into the ready queue, when there are so many that to sort them is faster than to take one
 * after the other: each of those goes down the whole heap and misses the cache at every level. Does nothing otherwise. */
int timers_move_many(State *state, PyObject *heap, double end, Ready *ready) {
  Entries due = {NULL, 0, FEW_DUE};
  PyObject **items = ((PyListObject *) heap)->ob_item;
  Py_ssize_t length = PyList_GET_SIZE(heap), kept = 0, i;

  if (length < FEW_DUE)
    return 0;
  due.entries = PyMem_New(Entry, (size_t) due.size);
  if (due.entries == NULL || find_due(state, heap, end, &due) < 0 || ready_reserve(ready, due.count) < 0) {
    PyMem_Free(due.entries);
    return 0;
  }
  /* From here to the end of the second loop nothing fails, and no code runs that could look at the list. */
  for (i = 0; i < due.count; i++) {
    PyObject *timer = items[due.entries[i].index];

    if (i + 8 < due.count) {
      const char *later = (const char *) items[due.entries[i + 8].index];

      PREFETCH(later);
      PREFETCH(later + 64);
    }
    replace(&SLOT(timer, layout.scheduled), Py_NewRef(Py_False));
    ready_append(ready, timer);
    Py_DECREF(timer); /* the heap's */
    items[due.entries[i].index] = NULL;
  }
  PyMem_Free(due.entries);
  for (i = 0; i < length; i++) {
    if (items[i] != NULL)
      items[kept++] = items[i];
  }
  Py_SET_SIZE(heap, kept);
  return timers_heapify(state, heap);
}
