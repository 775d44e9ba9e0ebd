/* SessionKeys: a session's counters and windows as Python sees them. They are the ones that the thread uses, so that what either seals
 * has a nonce of its own and what either opened does not pass again. */
#include "binding.h"

#include <structmember.h>

PyObject *keys_new(PlaneObject *owner, struct session *session) {
    KeysObject *self = PyObject_New(KeysObject, owner->keys_type);
    if (!self) {
        session_release(session);
        return NULL;
    }
    Py_INCREF((PyObject *)owner);
    self->owner = owner;
    self->session = session;
    return (PyObject *)self;
}

static void keys_dealloc(KeysObject *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    session_release(self->session);
    Py_DECREF((PyObject *)self->owner);
    PyObject_Free(self);
    Py_DECREF((PyObject *)type);
}

/* The keys that the first argument chooses: 0 link, 1 end. */
static struct keys *choose(KeysObject *self, int purpose) {
    if (purpose >= 0 && purpose < PURPOSES)
        return &self->session->keys[purpose];
    PyErr_Format(PyExc_ValueError, "purpose %d: 0 is the link, 1 the end", purpose);
    return NULL;
}

static PyObject *keys_take_counter_method(KeysObject *self, PyObject *argument) {
    struct keys *keys = choose(self, (int)PyLong_AsLong(argument));
    uint64_t counter;
    if (!keys)
        return NULL;
    if (!keys_take_counter(keys, &counter)) {
        PyErr_SetString(PyExc_OverflowError, "this key has sealed all it may; make a new session");
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(counter);
}

static PyObject *keys_sealed(KeysObject *self, PyObject *argument) {
    struct keys *keys = choose(self, (int)PyLong_AsLong(argument));
    return keys ? PyLong_FromUnsignedLongLong(atomic_load_explicit(&keys->sealed, memory_order_relaxed)) : NULL;
}

static PyObject *keys_skip_to(KeysObject *self, PyObject *args) {
    int purpose;
    unsigned long long counter;
    if (!PyArg_ParseTuple(args, "iK", &purpose, &counter))
        return NULL;
    struct keys *keys = choose(self, purpose);
    if (!keys)
        return NULL;
    uint64_t now = atomic_load_explicit(&keys->sealed, memory_order_relaxed);
    do {
        if (counter < now) {
            PyErr_Format(PyExc_ValueError, "counter %llu was used already", counter);
            return NULL;
        }
    } while (!atomic_compare_exchange_weak(&keys->sealed, &now, counter));
    Py_RETURN_NONE;
}

static PyObject *keys_is_fresh(KeysObject *self, PyObject *args) {
    int purpose;
    unsigned long long counter;
    if (!PyArg_ParseTuple(args, "iK", &purpose, &counter))
        return NULL;
    struct keys *keys = choose(self, purpose);
    if (!keys)
        return NULL;
    plane_lock(self->owner->plane);
    bool is_fresh = window_is_fresh(&keys->window, counter);
    plane_unlock(self->owner->plane);
    return PyBool_FromLong(is_fresh);
}

static PyObject *keys_accept(KeysObject *self, PyObject *args) {
    int purpose;
    unsigned long long counter;
    if (!PyArg_ParseTuple(args, "iK", &purpose, &counter))
        return NULL;
    struct keys *keys = choose(self, purpose);
    if (!keys)
        return NULL;
    plane_lock(self->owner->plane);
    bool is_accepted = window_accept(&keys->window, counter);
    plane_unlock(self->owner->plane);
    return PyBool_FromLong(is_accepted);
}

static PyObject *keys_highest(KeysObject *self, PyObject *argument) {
    struct keys *keys = choose(self, (int)PyLong_AsLong(argument));
    if (!keys)
        return NULL;
    plane_lock(self->owner->plane);
    bool has_any = keys->window.has_any;
    uint64_t highest = keys->window.highest;
    plane_unlock(self->owner->plane);
    return has_any ? PyLong_FromUnsignedLongLong(highest) : PyLong_FromLong(-1);
}

static PyObject *keys_move(KeysObject *self, PyObject *args) {
    const char *host;
    int port;
    struct address address;
    if (!PyArg_ParseTuple(args, "si", &host, &port) || !address_from_python(host, port, &address))
        return NULL;
    plane_lock(self->owner->plane);
    self->session->address = address;
    self->session->has_address = true;
    plane_unlock(self->owner->plane);
    Py_RETURN_NONE;
}

static PyMethodDef keys_methods[] = {
    {"take_counter", (PyCFunction)keys_take_counter_method, METH_O, "take_counter(purpose) -> int"},
    {"sealed", (PyCFunction)keys_sealed, METH_O, "sealed(purpose) -> int"},
    {"skip_to", (PyCFunction)keys_skip_to, METH_VARARGS, "skip_to(purpose, counter)"},
    {"is_fresh", (PyCFunction)keys_is_fresh, METH_VARARGS, "is_fresh(purpose, counter) -> bool"},
    {"accept", (PyCFunction)keys_accept, METH_VARARGS, "accept(purpose, counter) -> bool"},
    {"highest", (PyCFunction)keys_highest, METH_O, "highest(purpose) -> int"},
    {"move", (PyCFunction)keys_move, METH_VARARGS, "move(host, port)"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot keys_slots[] = {
    {Py_tp_doc, "Counters and windows of one session. Made by Plane.add_session."},
    {Py_tp_dealloc, keys_dealloc},
    {Py_tp_methods, keys_methods},
    {0, NULL},
};

PyType_Spec keys_spec = {
    .name = "srwan.routing.native._core.SessionKeys",
    .basicsize = sizeof(KeysObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = keys_slots,
};
