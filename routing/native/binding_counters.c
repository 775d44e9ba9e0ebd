/* A Plane's counters as Python reads them. What is copied under the lock becomes Python objects after it. */
#include <stdlib.h>

#include "binding.h"

/* Set `dict[key] = value`, giving the value away; false with an exception. */
static bool set_count(PyObject *dict, const char *key, uint64_t count) {
    PyObject *value = PyLong_FromUnsignedLongLong(count);
    bool is_set = value && PyDict_SetItemString(dict, key, value) == 0;
    Py_XDECREF(value);
    return is_set;
}

static bool read_peer(const struct peer *peer, PyObject *neighbours, PyObject *drops) {
    if (peer->in.packets | peer->out.packets &&
        !append(neighbours, Py_BuildValue("(KKKKK)", (unsigned long long)peer->number, (unsigned long long)peer->in.packets,
                                          (unsigned long long)peer->in.octets, (unsigned long long)peer->out.packets,
                                          (unsigned long long)peer->out.octets)))
        return false;
    for (int reason = 1; reason < REASONS; reason++)
        if (peer->drops[reason] && !append(drops, Py_BuildValue("(KsK)", (unsigned long long)peer->number, reason_name(reason),
                                                                (unsigned long long)peer->drops[reason])))
            return false;
    return true;
}

/* What was copied under the lock of one path tag. */
struct tag_reading {
    uint64_t number, path_tag;
    struct traffic traffic;
};

static PyObject *read_tags(struct plane *plane) {
    struct tag_reading *readings = malloc((TAGS_MAX + 1) * sizeof *readings);
    if (!readings)
        return PyErr_NoMemory();
    size_t count = 0;
    plane_lock(plane);
    for (struct tag_owner *owner = plane->relayed.owners; owner; owner = owner->next)
        for (uint32_t i = owner->oldest; i; i = plane->relayed.entries[i].newer)
            if (plane->relayed.entries[i].traffic.packets) /* else it only asked for a next hop */
                readings[count++] = (struct tag_reading){owner->number, plane->relayed.entries[i].path_tag,
                                                         plane->relayed.entries[i].traffic};
    plane_unlock(plane);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < count; i++)
        if (!append(list, Py_BuildValue("(KKKK)", (unsigned long long)readings[i].number, (unsigned long long)readings[i].path_tag,
                                        (unsigned long long)readings[i].traffic.packets, (unsigned long long)readings[i].traffic.octets)))
            Py_CLEAR(list);
    free(readings);
    return list;
}

PyObject *plane_counters(PlaneObject *self, PyObject *Py_UNUSED(ignored)) {
    struct plane *plane = self->plane;
    PyObject *neighbours = PyList_New(0), *peer_drops = PyList_New(0), *drops = PyDict_New(), *relayed = read_tags(plane);
    bool is_fine = neighbours && peer_drops && drops && relayed;
    /* Peers are some hundred, and only calls from Python change which there are. The lock covers a few counters at a time. */
    for (size_t i = 0; is_fine && i < plane->peers.capacity; i++) {
        const struct peer *peer = plane->peers.entries[i].value;
        struct peer copy;
        if (!peer)
            continue;
        plane_lock(plane);
        copy = *peer;
        plane_unlock(plane);
        is_fine = read_peer(&copy, neighbours, peer_drops);
    }
    uint64_t by_reason[REASONS];
    plane_lock(plane);
    memcpy(by_reason, plane->drops, sizeof by_reason);
    plane_unlock(plane);
    for (int reason = 1; is_fine && reason < REASONS; reason++)
        if (by_reason[reason])
            is_fine = set_count(drops, reason_name(reason), by_reason[reason]);
    if (is_fine)
        return Py_BuildValue("(NNNN)", neighbours, relayed, drops, peer_drops);
    Py_XDECREF(neighbours);
    Py_XDECREF(peer_drops);
    Py_XDECREF(drops);
    Py_XDECREF(relayed);
    return NULL;
}

PyObject *plane_owners_of(PlaneObject *self, PyObject *path_tag) {
    unsigned long long tag = PyLong_AsUnsignedLongLong(path_tag);
    uint64_t numbers[PEERS_MAX];
    size_t count = 0;
    if (PyErr_Occurred())
        return NULL;
    plane_lock(self->plane);
    for (struct tag_owner *owner = self->plane->relayed.owners; owner && count < PEERS_MAX; owner = owner->next) {
        const struct tag_entry *entry = tags_peek(&self->plane->relayed, owner, tag);
        if (entry && entry->traffic.packets)
            numbers[count++] = owner->number;
    }
    plane_unlock(self->plane);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < count; i++)
        if (!append(list, PyLong_FromUnsignedLongLong(numbers[i])))
            Py_CLEAR(list);
    return list;
}

PyObject *plane_io_errors(PlaneObject *self, PyObject *Py_UNUSED(ignored)) {
    uint64_t errors[ERRNO_MAX];
    plane_lock(self->plane);
    uint64_t truncated = self->plane->truncated;
    for (int i = 0; i < ERRNO_MAX; i++)
        errors[i] = self->plane->receive_errors[i] + self->plane->send_errors[i];
    plane_unlock(self->plane);
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < ERRNO_MAX; i++)
        if (errors[i] && !append(list, Py_BuildValue("(iK)", i, (unsigned long long)errors[i])))
            Py_CLEAR(list);
    return list ? Py_BuildValue("(NK)", list, (unsigned long long)truncated) : NULL;
}
