/* The queue to Python; see ring.h. */
#include "ring.h"

#include <string.h>

#include "pages.h"

bool ring_init(struct ring *ring, size_t capacity) {
    ring->bytes = pages_new(capacity);
    ring->capacity = capacity;
    atomic_init(&ring->written, 0);
    atomic_init(&ring->taken, 0);
    return ring->bytes != NULL;
}

void ring_free(struct ring *ring) {
    pages_free(ring->bytes, ring->capacity);
    ring->bytes = NULL;
}

static void copy_in(struct ring *ring, uint64_t position, const void *data, size_t length) {
    size_t at = position & (ring->capacity - 1);
    size_t straight = length < ring->capacity - at ? length : ring->capacity - at;
    if (length) { /* no part at all may be NULL */
        memcpy(ring->bytes + at, data, straight);
        memcpy(ring->bytes, (const uint8_t *)data + straight, length - straight);
    }
}

static void copy_out(const struct ring *ring, uint64_t position, void *out, size_t length) {
    size_t at = position & (ring->capacity - 1);
    size_t straight = length < ring->capacity - at ? length : ring->capacity - at;
    memcpy(out, ring->bytes + at, straight);
    memcpy((uint8_t *)out + straight, ring->bytes, length - straight);
}

bool ring_put(struct ring *ring, struct record *record, const void *first, size_t first_bytes, const void *second, size_t second_bytes) {
    uint64_t written = atomic_load_explicit(&ring->written, memory_order_relaxed);
    uint64_t taken = atomic_load_explicit(&ring->taken, memory_order_acquire);
    size_t total = sizeof *record + first_bytes + second_bytes;
    if (total > ring->capacity - (size_t)(written - taken))
        return false;
    record->data_bytes = (uint32_t)(first_bytes + second_bytes);
    copy_in(ring, written, record, sizeof *record);
    copy_in(ring, written + sizeof *record, first, first_bytes);
    copy_in(ring, written + sizeof *record + first_bytes, second, second_bytes);
    atomic_store_explicit(&ring->written, written + total, memory_order_release);
    return true;
}

bool ring_peek(const struct ring *ring, struct record *record) {
    if (ring_is_empty(ring))
        return false;
    copy_out(ring, atomic_load_explicit(&ring->taken, memory_order_relaxed), record, sizeof *record);
    return true;
}

void ring_read(const struct ring *ring, size_t offset, void *out, size_t length) {
    uint64_t taken = atomic_load_explicit(&ring->taken, memory_order_relaxed);
    copy_out(ring, taken + sizeof(struct record) + offset, out, length);
}

void ring_drop(struct ring *ring, const struct record *record) {
    uint64_t taken = atomic_load_explicit(&ring->taken, memory_order_relaxed);
    atomic_store_explicit(&ring->taken, taken + sizeof *record + record->data_bytes, memory_order_release);
}
