/* The module `srwan.routing.native._core`: a Plane as Python drives it. Thin: arguments are checked and converted, the rest is
 * elsewhere. */
#include "binding.h"

#include <arpa/inet.h>
#include <errno.h>

/* --- conversions --- */

bool address_from_python(const char *host, int port, struct address *address) {
    memset(address, 0, sizeof *address);
    if (port > 0 && port < 65536 && inet_pton(AF_INET, host, &address->ipv4.sin_addr) == 1) {
        address->ipv4.sin_family = AF_INET;
        address->ipv4.sin_port = htons((uint16_t)port);
        return true;
    }
    if (port > 0 && port < 65536 && inet_pton(AF_INET6, host, &address->ipv6.sin6_addr) == 1) {
        address->ipv6.sin6_family = AF_INET6;
        address->ipv6.sin6_port = htons((uint16_t)port);
        return true;
    }
    PyErr_Format(PyExc_ValueError, "%s port %d is no numeric UDP address", host, port);
    return false;
}

PyObject *address_to_python(const struct address *address) {
    char host[INET6_ADDRSTRLEN];
    if (address->any.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &address->ipv6.sin6_addr, host, sizeof host);
        return Py_BuildValue("(si)", host, ntohs(address->ipv6.sin6_port));
    }
    inet_ntop(AF_INET, &address->ipv4.sin_addr, host, sizeof host);
    return Py_BuildValue("(si)", host, ntohs(address->ipv4.sin_port));
}

static PyObject *raise_errno(int error) {
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* --- life --- */

static PyObject *plane_new_object(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    const char *locator;
    Py_ssize_t length;
    static char *names[] = {"locator", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y#", names, &locator, &length))
        return NULL;
    if (length != LOCATOR_BYTES)
        return PyErr_Format(PyExc_ValueError, "a locator has %d bytes, not %zd", LOCATOR_BYTES, length);
    PyObject *module = PyType_GetModule(type);
    if (!module)
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PlaneObject *self = (PlaneObject *)allocate(type, 0);
    if (!self)
        return NULL;
    self->keys_type = (PyTypeObject *)PyObject_GetAttrString(module, "SessionKeys");
    self->plane = plane_new(load_locator((const uint8_t *)locator));
    if (self->keys_type && self->plane)
        return (PyObject *)self;
    Py_DECREF((PyObject *)self);
    return PyErr_Occurred() ? NULL : PyErr_NoMemory();
}

static void plane_dealloc(PlaneObject *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    plane_free(self->plane);
    Py_XDECREF((PyObject *)self->keys_type);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF((PyObject *)type);
}

static PyObject *plane_open_method(PlaneObject *self, PyObject *args) {
    PyObject *list;
    int sockets[SOCKETS_MAX], families[SOCKETS_MAX];
    if (!PyArg_ParseTuple(args, "O!", &PyList_Type, &list))
        return NULL;
    Py_ssize_t count = PyList_Size(list);
    if (count < 1 || count > SOCKETS_MAX)
        return PyErr_Format(PyExc_ValueError, "%zd sockets, allowed are 1 to %d", count, SOCKETS_MAX);
    for (Py_ssize_t i = 0; i < count; i++)
        if (!PyArg_ParseTuple(PyList_GetItem(list, i), "ii", &sockets[i], &families[i]))
            return NULL;
    int error = plane_open_sockets(self->plane, sockets, families, (unsigned)count);
    if (!error)
        error = plane_start(self->plane);
    if (error)
        return raise_errno(error);
    return PyLong_FromLong(self->plane->news_fd);
}

static PyObject *plane_close_method(PlaneObject *self, PyObject *Py_UNUSED(ignored)) {
    Py_BEGIN_ALLOW_THREADS /* waits for the thread's batch at hand */
    plane_stop(self->plane);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *plane_offload(PlaneObject *self, PyObject *Py_UNUSED(ignored)) {
    return Py_BuildValue("(OO)", self->plane->has_gro ? Py_True : Py_False, atomic_load(&self->plane->has_gso) ? Py_True : Py_False);
}

/* --- tables --- */

static PyObject *plane_add_peer_method(PlaneObject *self, PyObject *args) {
    unsigned long long number;
    const char *locator;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "Ky#", &number, &locator, &length))
        return NULL;
    if (length != LOCATOR_BYTES)
        return PyErr_Format(PyExc_ValueError, "a locator has %d bytes, not %zd", LOCATOR_BYTES, length);
    return PyBool_FromLong(plane_add_peer(self->plane, number, load_locator((const uint8_t *)locator)));
}

static PyObject *plane_remove_peer_method(PlaneObject *self, PyObject *number) {
    unsigned long long value = PyLong_AsUnsignedLongLong(number);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(plane_remove_peer(self->plane, value));
}

static PyObject *plane_reset_peer_method(PlaneObject *self, PyObject *number) {
    unsigned long long value = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred())
        return NULL;
    plane_reset_peer(self->plane, value);
    Py_RETURN_NONE;
}

static PyObject *plane_set_limit_method(PlaneObject *self, PyObject *args) {
    unsigned long long number, octets_per_s;
    int is_exempt;
    PyObject *list;
    if (!PyArg_ParseTuple(args, "KKpO!", &number, &octets_per_s, &is_exempt, &PyList_Type, &list))
        return NULL;
    Py_ssize_t count = PyList_Size(list);
    if (count > LIMIT_TAGS_MAX || octets_per_s > LIMIT_OCTETS_PER_S_MAX)
        return PyErr_Format(PyExc_ValueError, "a limit names up to %d path tags, at up to 4 GB/s", LIMIT_TAGS_MAX);
    uint64_t tags[LIMIT_TAGS_MAX];
    for (Py_ssize_t i = 0; i < count; i++) {
        tags[i] = PyLong_AsUnsignedLongLong(PyList_GetItem(list, i));
        if (PyErr_Occurred())
            return NULL;
    }
    plane_set_limit(self->plane, number, octets_per_s, is_exempt != 0, tags, (size_t)count);
    Py_RETURN_NONE;
}

static PyObject *plane_set_members_method(PlaneObject *self, PyObject *list) {
    struct member members[PEERS_MAX];
    if (!PyList_Check(list) || PyList_Size(list) > PEERS_MAX)
        return PyErr_Format(PyExc_ValueError, "members are a list of up to %d", PEERS_MAX);
    Py_ssize_t count = PyList_Size(list);
    for (Py_ssize_t i = 0; i < count; i++) {
        unsigned long long number;
        int is_upward;
        if (!PyArg_ParseTuple(PyList_GetItem(list, i), "Kp", &number, &is_upward))
            return NULL;
        members[i] = (struct member){number, is_upward != 0};
    }
    if (!plane_set_members(self->plane, members, (size_t)count))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *plane_set_role(PlaneObject *self, PyObject *args) {
    int is_relay;
    PyObject *functions;
    if (!PyArg_ParseTuple(args, "pO!", &is_relay, &PyList_Type, &functions))
        return NULL;
    Py_ssize_t count = PyList_Size(functions);
    if (count > FUNCTIONS_MAX)
        return PyErr_Format(PyExc_ValueError, "%zd functions, at most %d", count, FUNCTIONS_MAX);
    uint16_t wanted[FUNCTIONS_MAX];
    for (Py_ssize_t i = 0; i < count; i++) {
        long function = PyLong_AsLong(PyList_GetItem(functions, i));
        if (function < 0 || function > UINT16_MAX)
            return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "function %ld has more than 16 bits", function);
        wanted[i] = (uint16_t)function;
    }
    plane_lock(self->plane);
    self->plane->is_relay = is_relay;
    self->plane->functions_count = (unsigned)count;
    memcpy(self->plane->functions, wanted, (size_t)count * sizeof *wanted);
    plane_unlock(self->plane);
    Py_RETURN_NONE;
}

static PyObject *plane_add_session_method(PlaneObject *self, PyObject *args) {
    unsigned int local_index, remote_index;
    unsigned long long number;
    const char *host, *keys[4];
    Py_ssize_t lengths[4];
    int port, is_confirmed;
    PyObject *where;
    struct address address;
    if (!PyArg_ParseTuple(args, "IIKO(y#y#y#y#)p", &local_index, &remote_index, &number, &where, &keys[0], &lengths[0], &keys[1],
                          &lengths[1], &keys[2], &lengths[2], &keys[3], &lengths[3], &is_confirmed))
        return NULL;
    if (where != Py_None && (!PyArg_ParseTuple(where, "si", &host, &port) || !address_from_python(host, port, &address)))
        return NULL;
    for (int i = 0; i < 4; i++)
        if (lengths[i] != KEY_BYTES)
            return PyErr_Format(PyExc_ValueError, "a key has %d bytes, not %zd", KEY_BYTES, lengths[i]);
    struct session_secrets secrets = {
        .seal = {(const uint8_t *)keys[0], (const uint8_t *)keys[2]},
        .open = {(const uint8_t *)keys[1], (const uint8_t *)keys[3]},
    };
    struct session *session =
        plane_add_session(self->plane, local_index, remote_index, number, where == Py_None ? NULL : &address, &secrets, is_confirmed != 0);
    if (!session)
        return PyErr_Format(PyExc_ValueError, "session %u: its index is taken, its peer unknown, or the table full", local_index);
    return keys_new(self, session);
}

/* The session of a SessionKeys of this plane, or NULL with a TypeError. */
static struct session *session_of(PlaneObject *self, PyObject *keys) {
    if (Py_TYPE(keys) == self->keys_type && ((KeysObject *)keys)->owner == self)
        return ((KeysObject *)keys)->session;
    PyErr_SetString(PyExc_TypeError, "not the SessionKeys of a session of this plane");
    return NULL;
}

static PyObject *plane_remove_session_method(PlaneObject *self, PyObject *keys) {
    struct session *session = session_of(self, keys);
    if (!session)
        return NULL;
    plane_remove_session(self->plane, session);
    Py_RETURN_NONE;
}

static PyObject *plane_set_current_method(PlaneObject *self, PyObject *args) {
    unsigned long long number;
    PyObject *keys;
    if (!PyArg_ParseTuple(args, "KO", &number, &keys))
        return NULL;
    struct session *session = keys == Py_None ? NULL : session_of(self, keys);
    if (!session && keys != Py_None)
        return NULL;
    return PyBool_FromLong(plane_set_current(self->plane, number, session));
}

/* --- module --- */

static PyMethodDef plane_methods[] = {
    {"open", (PyCFunction)plane_open_method, METH_VARARGS, "open([(fd, family), ...]) -> int"},
    {"close", (PyCFunction)plane_close_method, METH_NOARGS, "close()"},
    {"offload", (PyCFunction)plane_offload, METH_NOARGS, "offload() -> (gro, gso)"},
    {"add_peer", (PyCFunction)plane_add_peer_method, METH_VARARGS, "add_peer(number, locator) -> bool"},
    {"remove_peer", (PyCFunction)plane_remove_peer_method, METH_O, "remove_peer(number) -> bool"},
    {"reset_peer", (PyCFunction)plane_reset_peer_method, METH_O, "reset_peer(number)"},
    {"set_limit", (PyCFunction)plane_set_limit_method, METH_VARARGS, "set_limit(number, octets_per_s, is_exempt, [path_tag, ...])"},
    {"set_members", (PyCFunction)plane_set_members_method, METH_O, "set_members([(number, is_upward), ...])"},
    {"set_role", (PyCFunction)plane_set_role, METH_VARARGS, "set_role(is_relay, [function, ...])"},
    {"add_session", (PyCFunction)plane_add_session_method, METH_VARARGS,
     "add_session(local_index, remote_index, peer, address, (link_seal, link_open, end_seal, end_open), is_confirmed) -> SessionKeys"},
    {"remove_session", (PyCFunction)plane_remove_session_method, METH_O, "remove_session(keys)"},
    {"set_current", (PyCFunction)plane_set_current_method, METH_VARARGS, "set_current(number, keys or None) -> bool"},
    {"process", (PyCFunction)plane_process, METH_VARARGS,
     "process(data, source, rx_ns) -> (data, destination) or whether it was dealt with"},
    {"take_datagrams", (PyCFunction)plane_take_datagrams, METH_O, "take_datagrams(count_max) -> [(data, source, rx_ns), ...]"},
    {"take_opened", (PyCFunction)plane_take_opened, METH_O, "take_opened(count_max) -> [(kind, ...), ...]"},
    {"has_opened", (PyCFunction)plane_has_opened, METH_NOARGS, "has_opened() -> bool"},
    {"signal", (PyCFunction)plane_signal_method, METH_NOARGS, "signal()"},
    {"clear_news", (PyCFunction)plane_clear_news_method, METH_NOARGS, "clear_news()"},
    {"seal_batch", (PyCFunction)plane_seal_method, METH_VARARGS,
     "seal_batch(first, egress, srh, path_tag, plaintexts) -> ([packet, ...], destination or None)"},
    {"send_batch", (PyCFunction)plane_send_method, METH_VARARGS, "send_batch(first, egress, srh, path_tag, plaintexts) -> how many"},
    {"counters", (PyCFunction)plane_counters, METH_NOARGS, "counters() -> (neighbours, relayed, drops, drops_by_peer)"},
    {"owners_of", (PyCFunction)plane_owners_of, METH_O, "owners_of(path_tag) -> [number, ...]"},
    {"open_tun", (PyCFunction)plane_open_tun_method, METH_VARARGS, "open_tun(fd, has_udp)"},
    {"close_tun", (PyCFunction)plane_close_tun_method, METH_NOARGS, "close_tun()"},
    {"take_packets", (PyCFunction)plane_take_packets, METH_O, "take_packets(count_max) -> [packet, ...]"},
    {"tun_errno", (PyCFunction)plane_tun_errno, METH_NOARGS, "tun_errno() -> int"},
    {"set_networks", (PyCFunction)plane_set_networks_method, METH_VARARGS,
     "set_networks([(address, bits, 1), ...], [(address, bits, peer or 0), ...], mtu, classes)"},
    {"set_shifts", (PyCFunction)plane_set_shifts, METH_VARARGS, "set_shifts(tx_ns, rx_ns)"},
    {"set_lane", (PyCFunction)plane_set_lane_method, METH_VARARGS,
     "set_lane(peer, traffic_class, flow, first, srh4, srh6, path_tag) -> moments"},
    {"remove_lane", (PyCFunction)plane_remove_lane_method, METH_VARARGS, "remove_lane(peer, traffic_class) -> moments"},
    {"take_seqs", (PyCFunction)plane_take_seqs_method, METH_VARARGS, "take_seqs(peer, traffic_class, count) -> int"},
    {"read_lane", (PyCFunction)plane_read_lane_method, METH_VARARGS, "read_lane(peer, traffic_class) -> moments"},
    {"read_lanes", (PyCFunction)plane_read_lanes, METH_NOARGS, "read_lanes() -> moments"},
    {"set_reception", (PyCFunction)plane_set_reception_method, METH_VARARGS,
     "set_reception(peer, path_tag, answer_ns, answered_ns, now_ns) -> bool"},
    {"remove_reception", (PyCFunction)plane_remove_reception_method, METH_VARARGS, "remove_reception(peer, path_tag) -> counts or None"},
    {"read_receptions", (PyCFunction)plane_read_receptions, METH_NOARGS, "read_receptions() -> [(peer, path_tag, used_ns, counts), ...]"},
    {"gateway_counters", (PyCFunction)plane_gateway_counters, METH_NOARGS, "gateway_counters() -> (sent, taken, lost, write errors)"},
    {"io_errors", (PyCFunction)plane_io_errors, METH_NOARGS, "io_errors() -> ([(errno, count), ...], truncated)"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot plane_slots[] = {
    {Py_tp_doc, "A native data plane; see plane.h and _core.pyi."},
    {Py_tp_new, plane_new_object},
    {Py_tp_dealloc, plane_dealloc},
    {Py_tp_methods, plane_methods},
    {0, NULL},
};

static PyType_Spec plane_spec = {
    .name = "srwan.routing.native._core.Plane",
    .basicsize = sizeof(PlaneObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = plane_slots,
};

static int add_type(PyObject *module, PyType_Spec *spec) {
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    int failed = !type || PyModule_AddType(module, (PyTypeObject *)type);
    Py_XDECREF(type);
    return failed;
}

static int module_exec(PyObject *module) {
    return add_type(module, &keys_spec) || add_type(module, &plane_spec) ||
                   PyModule_AddIntConstant(module, "OPENED", RECORD_OPENED) ||
                   PyModule_AddIntConstant(module, "CONFIRMED", RECORD_CONFIRMED) ||
                   PyModule_AddIntConstant(module, "MOVED", RECORD_MOVED) || PyModule_AddIntConstant(module, "DROPPED", RECORD_DROPPED) ||
                   PyModule_AddIntConstant(module, "RECEIVED", RECORD_RECEIVED) ||
                   PyModule_AddIntConstant(module, "SEAL_BATCH_MAX", SEAL_BATCH_MAX)
               ? -1
               : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module_def = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_core",
    .m_doc = "The native data plane of srwan.",
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&module_def); }
