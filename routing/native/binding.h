/* The binding to Python: `binding.c` (module, life and tables of a Plane), `binding_packets.c`, `binding_counters.c`,
 * `binding_gateway.c` and `binding_keys.c` (SessionKeys), and what they share.
 *
 * Only the stable ABI of CPython 3.11 is used, so one build serves later versions. Functions hold the interpreter's lock but where said;
 * the plane's thread never takes it, so holding it while waiting for the plane's lock cannot deadlock, and that wait is some 40 us.
 */
#ifndef SRWAN_BINDING_H
#define SRWAN_BINDING_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "plane.h"

typedef struct {
    PyObject_HEAD
    struct plane *plane;
    PyTypeObject *keys_type;
} PlaneObject;

typedef struct {
    PyObject_HEAD
    PlaneObject *owner; /* keeps the lock that guards the windows */
    struct session *session;
} KeysObject;

enum { SEAL_BATCH_MAX = 256 }; /* plaintexts of one call: some trains */

extern PyType_Spec keys_spec;

/* A SessionKeys that takes over the caller's hold of `session`; NULL with an exception, and the hold was given back. */
PyObject *keys_new(PlaneObject *owner, struct session *session);

/* Read a numeric address and a port; false with a ValueError. */
bool address_from_python(const char *host, int port, struct address *address);

/* (host, port), or NULL with an exception. */
PyObject *address_to_python(const struct address *address);

/* Append and give the reference away; false with an exception, also if `item` is NULL. */
static inline bool append(PyObject *list, PyObject *item) {
    bool is_appended = item && PyList_Append(list, item) == 0;
    Py_XDECREF(item);
    return is_appended;
}

/* Methods of Plane; what they do is in _core.pyi. */
PyObject *plane_process(PlaneObject *self, PyObject *argument);
PyObject *plane_take_datagrams(PlaneObject *self, PyObject *argument);
PyObject *plane_take_opened(PlaneObject *self, PyObject *argument);
PyObject *plane_has_opened(PlaneObject *self, PyObject *argument);
PyObject *plane_signal_method(PlaneObject *self, PyObject *argument);
PyObject *plane_clear_news_method(PlaneObject *self, PyObject *argument);
PyObject *plane_seal_method(PlaneObject *self, PyObject *argument);
PyObject *plane_send_method(PlaneObject *self, PyObject *argument);
PyObject *plane_counters(PlaneObject *self, PyObject *argument);
PyObject *plane_owners_of(PlaneObject *self, PyObject *argument);
PyObject *plane_io_errors(PlaneObject *self, PyObject *argument);
PyObject *plane_open_tun_method(PlaneObject *self, PyObject *argument);
PyObject *plane_close_tun_method(PlaneObject *self, PyObject *argument);
PyObject *plane_take_packets(PlaneObject *self, PyObject *argument);
PyObject *plane_tun_errno(PlaneObject *self, PyObject *argument);
PyObject *plane_set_networks_method(PlaneObject *self, PyObject *argument);
PyObject *plane_set_shifts(PlaneObject *self, PyObject *argument);
PyObject *plane_set_lane_method(PlaneObject *self, PyObject *argument);
PyObject *plane_remove_lane_method(PlaneObject *self, PyObject *argument);
PyObject *plane_take_seqs_method(PlaneObject *self, PyObject *argument);
PyObject *plane_read_lane_method(PlaneObject *self, PyObject *argument);
PyObject *plane_read_lanes(PlaneObject *self, PyObject *argument);
PyObject *plane_set_reception_method(PlaneObject *self, PyObject *argument);
PyObject *plane_remove_reception_method(PlaneObject *self, PyObject *argument);
PyObject *plane_read_receptions(PlaneObject *self, PyObject *argument);
PyObject *plane_gateway_counters(PlaneObject *self, PyObject *argument);

/* (packets, octets, raw_ns_sum, highest_seq, burst_kbps), or NULL with an exception. */
PyObject *received_to_python(const struct received *received);

#endif
