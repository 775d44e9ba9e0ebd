/* Packets through a Plane as Python sees them: one at a time through `process`, what came up through the rings, and batches on the way
 * out. */
#include <stdlib.h>

#include "binding.h"
#include "trains.h"

/* --- packets in --- */

PyObject *plane_process(PlaneObject *self, PyObject *args) {
    const char *data, *host;
    Py_ssize_t length;
    int port;
    long long rx_ns;
    struct address source;
    uint8_t packet[PACKET_BYTES_MAX];
    struct session *next;
    if (!PyArg_ParseTuple(args, "y#(si)L", &data, &length, &host, &port, &rx_ns) || !address_from_python(host, port, &source))
        return NULL;
    if (length <= PACKET_BYTES_MAX)
        memcpy(packet, data, (size_t)length); /* else its bytes are not looked at */
    struct address destination;
    plane_lock(self->plane);
    enum verdict verdict = plane_step(self->plane, packet, (size_t)length, &source, rx_ns, &next);
    if (verdict == VERDICT_FORWARD)
        destination = next->address;
    plane_unlock(self->plane);
    if (verdict == VERDICT_FORWARD) {
        PyObject *address = address_to_python(&destination);
        return address ? Py_BuildValue("(y#N)", packet, length, address) : NULL;
    }
    return PyBool_FromLong(verdict != VERDICT_UP);
}

static PyObject *read_bytes(const struct ring *ring, size_t offset, size_t length) {
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (bytes)
        ring_read(ring, offset, PyBytes_AsString(bytes), length);
    return bytes;
}

static PyObject *datagram_to_python(const struct ring *ring, const struct record *record) {
    PyObject *data = read_bytes(ring, 0, record->data_bytes);
    PyObject *source = data ? address_to_python(&record->source) : NULL;
    if (source)
        return Py_BuildValue("(NNL)", data, source, (long long)record->rx_ns);
    Py_XDECREF(data);
    return NULL;
}

static PyObject *opened_to_python(const struct ring *ring, const struct record *record) {
    if (record->kind == RECORD_CONFIRMED)
        return Py_BuildValue("(iI)", RECORD_CONFIRMED, record->index);
    if (record->kind == RECORD_OPENED) {
        PyObject *srh = read_bytes(ring, 0, record->srh_bytes);
        PyObject *plaintext = srh ? read_bytes(ring, record->srh_bytes, record->data_bytes - record->srh_bytes) : NULL;
        if (plaintext)
            return Py_BuildValue("(iKKKLNN)", RECORD_OPENED, (unsigned long long)record->neighbour, (unsigned long long)record->sender,
                                 (unsigned long long)record->path_tag, (long long)record->rx_ns, srh, plaintext);
        Py_XDECREF(srh);
        return NULL;
    }
    if (record->kind == RECORD_RECEIVED) {
        struct received received;
        ring_read(ring, 0, &received, sizeof received);
        PyObject *srh = read_bytes(ring, sizeof received, record->srh_bytes);
        PyObject *counts = srh ? received_to_python(&received) : NULL;
        if (counts)
            return Py_BuildValue("(iKKKNNKLL)", RECORD_RECEIVED, (unsigned long long)record->neighbour, (unsigned long long)record->sender,
                                 (unsigned long long)record->path_tag, counts, srh, (unsigned long long)received.seq,
                                 (long long)received.tx_ns, (long long)received.rx_ns);
        Py_XDECREF(srh);
        return NULL;
    }
    PyObject *source = address_to_python(&record->source);
    if (!source)
        return NULL;
    if (record->kind == RECORD_MOVED)
        return Py_BuildValue("(iIN)", RECORD_MOVED, record->index, source);
    return Py_BuildValue("(iKsN)", RECORD_DROPPED, (unsigned long long)record->neighbour, reason_name(record->reason), source);
}

static PyObject *take(struct ring *ring, Py_ssize_t count_max, PyObject *(*convert)(const struct ring *, const struct record *)) {
    struct record record;
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list && i < count_max && ring_peek(ring, &record); i++) {
        PyObject *item = convert(ring, &record);
        ring_drop(ring, &record);
        if (!append(list, item))
            Py_CLEAR(list);
    }
    return list;
}

PyObject *plane_take_datagrams(PlaneObject *self, PyObject *count_max) {
    Py_ssize_t count = PyLong_AsSsize_t(count_max);
    return PyErr_Occurred() ? NULL : take(&self->plane->datagrams, count, datagram_to_python);
}

PyObject *plane_take_opened(PlaneObject *self, PyObject *count_max) {
    Py_ssize_t count = PyLong_AsSsize_t(count_max);
    if (PyErr_Occurred())
        return NULL;
    PyObject *list = take(&self->plane->opened, count, opened_to_python);
    if (list && PyList_Size(list) < count)
        plane_refill_notes(self->plane);
    return list;
}

PyObject *plane_has_opened(PlaneObject *self, PyObject *Py_UNUSED(ignored)) {
    return PyBool_FromLong(!ring_is_empty(&self->plane->opened));
}

PyObject *plane_signal_method(PlaneObject *self, PyObject *Py_UNUSED(ignored)) {
    if (!ring_is_empty(&self->plane->datagrams) || !ring_is_empty(&self->plane->opened) || !ring_is_empty(&self->plane->gateway.packets))
        plane_signal(self->plane);
    Py_RETURN_NONE;
}

PyObject *plane_clear_news_method(PlaneObject *self, PyObject *Py_UNUSED(ignored)) {
    plane_clear_news(self->plane);
    Py_RETURN_NONE;
}

/* --- packets out --- */

/* A batch of plaintexts on their way through `seal_batch`. */
struct sealing {
    unsigned long long first, egress; /* numbers of peers */
    struct route route;               /* without the peers, which are looked up under the lock */
    Py_ssize_t count;
    const uint8_t *plaintext[SEAL_BATCH_MAX];
    size_t plaintext_bytes[SEAL_BATCH_MAX];
    uint8_t *packet[SEAL_BATCH_MAX];
    size_t packet_bytes[SEAL_BATCH_MAX];
    uint8_t *memory; /* of the packets, one after the other */
};

/* Read (first, egress, srh, path_tag, plaintexts); false with an exception. The plaintexts live as long as the arguments. */
static bool read_sealing(PyObject *args, struct sealing *sealing) {
    const char *srh;
    Py_ssize_t srh_bytes;
    unsigned long long path_tag;
    PyObject *list;
    if (!PyArg_ParseTuple(args, "KKy#KO!", &sealing->first, &sealing->egress, &srh, &srh_bytes, &path_tag, &PyList_Type, &list))
        return false;
    sealing->count = PyList_Size(list);
    sealing->route = (struct route){.srh = (const uint8_t *)srh, .srh_bytes = (size_t)srh_bytes, .path_tag = path_tag};
    size_t total = 0;
    if (srh_bytes < SRH_BYTES_MIN || sealing->count > SEAL_BATCH_MAX) {
        PyErr_Format(PyExc_ValueError, "%zd bytes of SRH, %zd plaintexts (at most %d)", srh_bytes, sealing->count, SEAL_BATCH_MAX);
        return false;
    }
    for (Py_ssize_t i = 0; i < sealing->count; i++) {
        char *plaintext;
        Py_ssize_t length;
        if (PyBytes_AsStringAndSize(PyList_GetItem(list, i), &plaintext, &length) != 0)
            return false;
        sealing->plaintext[i] = (const uint8_t *)plaintext;
        sealing->plaintext_bytes[i] = (size_t)length;
        sealing->packet_bytes[i] = route_packet_bytes(&sealing->route, (size_t)length);
        if (!sealing->packet_bytes[i]) {
            PyErr_Format(PyExc_ValueError, "payload of %zd bytes does not fit a packet with %zd bytes of SRH",
                         length + PAYLOAD_OVERHEAD_BYTES, srh_bytes);
            return false;
        }
        total += sealing->packet_bytes[i];
    }
    sealing->memory = malloc(total ? total : 1);
    if (!sealing->memory)
        PyErr_NoMemory();
    uint8_t *at = sealing->memory;
    for (Py_ssize_t i = 0; at && i < sealing->count; at += sealing->packet_bytes[i++])
        sealing->packet[i] = at;
    return at != NULL;
}

/* Seal plaintexts from `start` on, at most `count_max` and until one fails; return where it stopped. The lock is held. */
static Py_ssize_t seal_some(struct plane *plane, struct sealing *sealing, Py_ssize_t start, Py_ssize_t count_max, struct trains *trains,
                            struct address *destination) {
    struct session *next;
    Py_ssize_t i = start;
    sealing->route.first = map_get(&plane->peers, sealing->first);
    sealing->route.egress = map_get(&plane->peers, sealing->egress);
    if (!sealing->route.first || !sealing->route.egress)
        return start;
    for (; i < sealing->count && i < start + count_max; i++) {
        if (trains && trains_is_full(trains))
            break;
        if (route_seal(&sealing->route, sealing->plaintext[i], sealing->plaintext_bytes[i], sealing->packet[i], &next))
            break;
        *destination = next->address;
        if (trains)
            trains_add(plane, trains, next, sealing->packet[i], sealing->packet_bytes[i]);
    }
    return i;
}

PyObject *plane_seal_method(PlaneObject *self, PyObject *args) {
    struct sealing sealing;
    struct address destination;
    if (!read_sealing(args, &sealing))
        return NULL;
    plane_lock(self->plane);
    Py_ssize_t sealed = seal_some(self->plane, &sealing, 0, sealing.count, NULL, &destination);
    plane_unlock(self->plane);
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list && i < sealed; i++)
        if (!append(list, PyBytes_FromStringAndSize((const char *)sealing.packet[i], (Py_ssize_t)sealing.packet_bytes[i])))
            Py_CLEAR(list);
    free(sealing.memory);
    if (!list || !sealed)
        return list ? Py_BuildValue("(NO)", list, Py_None) : NULL;
    PyObject *address = address_to_python(&destination);
    if (address)
        return Py_BuildValue("(NN)", list, address);
    Py_DECREF(list);
    return NULL;
}

PyObject *plane_send_method(PlaneObject *self, PyObject *args) {
    struct sealing sealing;
    struct address destination;
    struct plane *plane = self->plane;
    if (!plane->worker) {
        PyErr_SetString(PyExc_ValueError, "this plane has no sockets");
        return NULL;
    }
    if (!plane->python_trains && !(plane->python_trains = trains_new()))
        return PyErr_NoMemory();
    if (!read_sealing(args, &sealing))
        return NULL;
    struct trains *trains = plane->python_trains;
    plane->python_trains = NULL; /* another Python thread that comes meanwhile makes its own */
    Py_ssize_t sealed = 0, before = -1;
    Py_BEGIN_ALLOW_THREADS
    while (sealed < sealing.count && sealed != before) {
        before = sealed;
        plane_lock(plane);
        sealed = seal_some(plane, &sealing, sealed, TRAIN_PACKETS, trains, &destination);
        plane_unlock(plane);
    }
    trains_send(plane, trains);
    Py_END_ALLOW_THREADS
    free(sealing.memory);
    if (plane->python_trains)
        trains_free(trains);
    else
        plane->python_trains = trains;
    return PyLong_FromSsize_t(sealed);
}
