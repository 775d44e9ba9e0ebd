/* The gateway's fast path as Python drives and reads it; what the methods do is in _core.pyi. */
#include <errno.h>
#include <stdlib.h>

#include "binding.h"

/* --- the TUN --- */

PyObject *plane_open_tun_method(PlaneObject *self, PyObject *args) {
    int descriptor, has_udp, error;
    if (!PyArg_ParseTuple(args, "ip", &descriptor, &has_udp))
        return NULL;
    Py_BEGIN_ALLOW_THREADS /* waits for the thread's batch at hand */
    error = plane_open_tun(self->plane, descriptor, has_udp != 0);
    Py_END_ALLOW_THREADS
    if (error) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

PyObject *plane_close_tun_method(PlaneObject *self, PyObject *Py_UNUSED(ignored)) {
    Py_BEGIN_ALLOW_THREADS
    plane_close_tun(self->plane);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyObject *plane_take_packets(PlaneObject *self, PyObject *argument) {
    Py_ssize_t count_max = PyLong_AsSsize_t(argument);
    struct ring *ring = &self->plane->gateway.packets;
    struct record record;
    if (PyErr_Occurred())
        return NULL;
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list && i < count_max && ring_peek(ring, &record); i++) {
        PyObject *packet = PyBytes_FromStringAndSize(NULL, record.data_bytes);
        if (packet)
            ring_read(ring, 0, PyBytes_AsString(packet), record.data_bytes);
        ring_drop(ring, &record);
        if (!append(list, packet))
            Py_CLEAR(list);
    }
    return list;
}

PyObject *plane_tun_errno(PlaneObject *self, PyObject *Py_UNUSED(ignored)) {
    plane_lock(self->plane);
    int error = self->plane->gateway.gone_errno;
    plane_unlock(self->plane);
    return PyLong_FromLong(error);
}

/* --- networks --- */

/* Read [(address, bits, number), ...] into a table; false with an exception. */
static bool networks_from_python(PyObject *list, uint64_t seed, struct networks *networks) {
    Py_ssize_t count = PyList_Size(list);
    if (count > NETWORKS_MAX) {
        PyErr_Format(PyExc_ValueError, "%zd networks, at most %d", count, NETWORKS_MAX);
        return false;
    }
    struct network *entries = calloc(count ? (size_t)count : 1, sizeof *entries);
    bool is_fine = entries != NULL;
    for (Py_ssize_t i = 0; is_fine && i < count; i++) {
        const char *address;
        Py_ssize_t length;
        int bits;
        unsigned long long number;
        is_fine = PyArg_ParseTuple(PyList_GetItem(list, i), "y#iK", &address, &length, &bits, &number) &&
                  (length == 4 || length == ADDRESS_BYTES_MAX) && bits >= 0 && bits <= 8 * length;
        if (!is_fine)
            break;
        entries[i] = (struct network){.address_bytes = (uint8_t)length, .bits = (uint8_t)bits, .number = number};
        memcpy(entries[i].address, address, (size_t)length);
    }
    is_fine = is_fine && networks_make(networks, entries, (size_t)count, seed);
    free(entries);
    if (!is_fine && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "a network is (4 or 16 bytes, bits, number), and memory must not be short");
    return is_fine;
}

PyObject *plane_set_networks_method(PlaneObject *self, PyObject *args) {
    PyObject *ours_list, *routes_list;
    const char *classes;
    Py_ssize_t classes_bytes;
    int mtu_bytes;
    struct networks ours, routes;
    if (!PyArg_ParseTuple(args, "O!O!iy#", &PyList_Type, &ours_list, &PyList_Type, &routes_list, &mtu_bytes, &classes, &classes_bytes))
        return NULL;
    if (classes_bytes != CLASSES || mtu_bytes < 0 || mtu_bytes > TUNNEL_BYTES_MAX)
        return PyErr_Format(PyExc_ValueError, "%zd classes, not %d, or an MTU of %d", classes_bytes, CLASSES, mtu_bytes);
    uint64_t seed = self->plane->peers.seed;
    if (!networks_from_python(ours_list, seed, &ours))
        return NULL;
    if (!networks_from_python(routes_list, seed, &routes)) {
        networks_free(&ours);
        return NULL;
    }
    plane_set_networks(self->plane, &ours, &routes, (uint16_t)mtu_bytes, (const uint8_t *)classes);
    Py_RETURN_NONE;
}

PyObject *plane_set_shifts(PlaneObject *self, PyObject *args) {
    long long tx_ns, rx_ns;
    if (!PyArg_ParseTuple(args, "LL", &tx_ns, &rx_ns))
        return NULL;
    plane_lock(self->plane);
    self->plane->gateway.tx_shift_ns = tx_ns;
    self->plane->gateway.rx_shift_ns = rx_ns;
    plane_unlock(self->plane);
    Py_RETURN_NONE;
}

/* --- lanes --- */

/* Append (peer, class, path tag, at_ns, packets, octets, seq) for each moment; false with an exception. */
static bool append_moments(PyObject *list, const struct lane_reading *reading) {
    for (unsigned i = 0; i < reading->count; i++) {
        const struct moment *moment = &reading->moments[i];
        if (!append(list, Py_BuildValue("(KiKLKKK)", (unsigned long long)reading->peer, (int)reading->traffic_class,
                                        (unsigned long long)reading->path_tag, (long long)moment->at_ns,
                                        (unsigned long long)moment->packets, (unsigned long long)moment->octets,
                                        (unsigned long long)moment->seq)))
            return false;
    }
    return true;
}

static PyObject *moments_to_python(const struct lane_reading *reading) {
    PyObject *list = PyList_New(0);
    if (list && !append_moments(list, reading))
        Py_CLEAR(list);
    return list;
}

PyObject *plane_set_lane_method(PlaneObject *self, PyObject *args) {
    unsigned long long peer, first, path_tag;
    unsigned int flow;
    unsigned char traffic_class;
    const char *srh[2];
    Py_ssize_t srh_bytes[2];
    if (!PyArg_ParseTuple(args, "KbIKy#y#K", &peer, &traffic_class, &flow, &first, &srh[0], &srh_bytes[0], &srh[1], &srh_bytes[1], &path_tag))
        return NULL;
    struct lane_path path = {.first = first, .path_tag = path_tag};
    for (int i = 0; i < 2; i++) {
        if (srh_bytes[i] && (srh_bytes[i] < SRH_BYTES_MIN || srh_bytes[i] > SRH_BYTES_MAX))
            return PyErr_Format(PyExc_ValueError, "%zd bytes of SRH", srh_bytes[i]);
        path.srh[i] = (const uint8_t *)srh[i];
        path.srh_bytes[i] = (size_t)srh_bytes[i];
    }
    struct lane_reading before;
    if (!plane_set_lane(self->plane, peer, traffic_class, flow, &path, &before))
        return PyErr_Format(PyExc_ValueError, "more than %d lanes, or memory is short", LANES_MAX);
    return moments_to_python(&before);
}

PyObject *plane_remove_lane_method(PlaneObject *self, PyObject *args) {
    unsigned long long peer;
    unsigned char traffic_class;
    struct lane_reading before;
    if (!PyArg_ParseTuple(args, "Kb", &peer, &traffic_class))
        return NULL;
    plane_remove_lane(self->plane, peer, traffic_class, &before);
    return moments_to_python(&before);
}

PyObject *plane_take_seqs_method(PlaneObject *self, PyObject *args) {
    unsigned long long peer, count;
    unsigned char traffic_class;
    if (!PyArg_ParseTuple(args, "KbK", &peer, &traffic_class, &count))
        return NULL;
    return PyLong_FromUnsignedLongLong(plane_take_seqs(self->plane, peer, traffic_class, count));
}

PyObject *plane_read_lane_method(PlaneObject *self, PyObject *args) {
    unsigned long long peer;
    unsigned char traffic_class;
    struct lane_reading reading;
    if (!PyArg_ParseTuple(args, "Kb", &peer, &traffic_class))
        return NULL;
    plane_read_lane(self->plane, peer, traffic_class, &reading);
    return moments_to_python(&reading);
}

PyObject *plane_read_lanes(PlaneObject *self, PyObject *Py_UNUSED(ignored)) {
    struct lane_reading reading;
    size_t at = 0;
    PyObject *list = PyList_New(0);
    while (list && plane_read_next_lane(self->plane, &at, &reading))
        if (!append_moments(list, &reading))
            Py_CLEAR(list);
    return list;
}

/* --- receptions --- */

PyObject *received_to_python(const struct received *received) {
    return Py_BuildValue("(KKLKK)", (unsigned long long)received->packets, (unsigned long long)received->octets,
                         (long long)received->raw_ns_sum, (unsigned long long)received->highest_seq,
                         (unsigned long long)received->burst_kbps);
}

PyObject *plane_set_reception_method(PlaneObject *self, PyObject *args) {
    unsigned long long peer, path_tag;
    long long answer_ns, answered_ns, now_ns;
    if (!PyArg_ParseTuple(args, "KKLLL", &peer, &path_tag, &answer_ns, &answered_ns, &now_ns))
        return NULL;
    return PyBool_FromLong(plane_set_reception(self->plane, peer, path_tag, answer_ns, answered_ns, now_ns));
}

PyObject *plane_remove_reception_method(PlaneObject *self, PyObject *args) {
    unsigned long long peer, path_tag;
    struct received received;
    if (!PyArg_ParseTuple(args, "KK", &peer, &path_tag))
        return NULL;
    if (!plane_remove_reception(self->plane, peer, path_tag, &received))
        Py_RETURN_NONE;
    return received_to_python(&received);
}

PyObject *plane_read_receptions(PlaneObject *self, PyObject *Py_UNUSED(ignored)) {
    struct reception reading;
    size_t at = 0;
    PyObject *list = PyList_New(0);
    while (list && plane_read_next_reception(self->plane, &at, &reading))
        if (!append(list, Py_BuildValue("(KKLN)", (unsigned long long)reading.peer, (unsigned long long)reading.path_tag,
                                        (long long)reading.used_ns, received_to_python(&reading.counted))))
            Py_CLEAR(list);
    return list;
}

/* --- counters --- */

PyObject *plane_gateway_counters(PlaneObject *self, PyObject *Py_UNUSED(ignored)) {
    const struct gateway *gateway = &self->plane->gateway;
    uint64_t errors[WRITE_ERRNO_MAX], lost[3];
    plane_lock(self->plane);
    struct traffic sent = gateway->to_peers, taken = gateway->from_peers;
    memcpy(errors, gateway->write_errors, sizeof errors);
    lost[0] = gateway->queue_full, lost[1] = gateway->not_sealed, lost[2] = gateway->bad_headers;
    plane_unlock(self->plane);
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < WRITE_ERRNO_MAX; i++)
        if (errors[i] && !append(list, Py_BuildValue("(iK)", i, (unsigned long long)errors[i])))
            Py_CLEAR(list);
    if (!list)
        return NULL;
    return Py_BuildValue("((KK)(KK)(KKK)N)", (unsigned long long)sent.packets, (unsigned long long)sent.octets,
                         (unsigned long long)taken.packets, (unsigned long long)taken.octets, (unsigned long long)lost[0],
                         (unsigned long long)lost[1], (unsigned long long)lost[2], list);
}
