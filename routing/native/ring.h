/* A bounded queue of records from the data plane to Python: bytes in a ring, one who writes, one who reads, no lock between them.
 *
 * Writers are serialised by the plane's lock, readers by the interpreter's. A record that does not fit is refused, and the writer counts
 * it: a slow or flooded Python costs its own datagrams, never memory, never the packets that are relayed.
 *
 * Theory: `written` and `taken` count bytes since the start and only rise; their difference is what waits. The writer publishes a whole
 * record by one release store of `written`; the reader frees it by one release store of `taken`.
 */
#ifndef SRWAN_RING_H
#define SRWAN_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "address.h"

enum record_kind {
    RECORD_DATAGRAM,  /* as it came: data = the datagram */
    RECORD_OPENED,    /* a payload that ends here: data = SRH, then plaintext */
    RECORD_CONFIRMED, /* the first packet under session `index` opened */
    RECORD_MOVED,     /* the peer of session `index` is at `source` now */
    RECORD_DROPPED,   /* a packet was dropped for `reason` */
    RECORD_RECEIVED,  /* what the gateway took on a path tag: data = struct received, then the SRH if it is to be answered */
    RECORD_PACKET     /* an IP packet of the TUN: data = the packet */
};

struct record {
    uint32_t data_bytes;
    uint16_t srh_bytes;
    uint8_t kind;
    uint8_t reason;
    uint32_t index;      /* of the session that is spoken of */
    uint64_t neighbour;  /* number of the peer that sealed the link layer; 0: not known */
    uint64_t sender;     /* number of the peer that sealed the payload */
    uint64_t path_tag;
    int64_t rx_ns;       /* receive stamp, CLOCK_REALTIME */
    struct address source;
};

struct ring {
    uint8_t *bytes;
    size_t capacity; /* a power of two */
    _Atomic uint64_t written;
    _Atomic uint64_t taken;
};

/* False if memory is short. `capacity` is a power of two. */
bool ring_init(struct ring *ring, size_t capacity);
void ring_free(struct ring *ring);

/* Append a record with data in up to two parts; the second may have 0 bytes. False if it does not fit: nothing was written. */
bool ring_put(struct ring *ring, struct record *record, const void *first, size_t first_bytes, const void *second, size_t second_bytes);

/* Copy the head of the oldest record; false if there is none. It stays until `ring_drop`. */
bool ring_peek(const struct ring *ring, struct record *record);

/* Whether there is nothing to read. */
static inline bool ring_is_empty(const struct ring *ring) {
    return atomic_load_explicit(&ring->written, memory_order_acquire) == atomic_load_explicit(&ring->taken, memory_order_relaxed);
}

/* Copy `length` bytes of the oldest record's data, from `offset` on. */
void ring_read(const struct ring *ring, size_t offset, void *out, size_t length);

/* Free the oldest record, which is `record`. */
void ring_drop(struct ring *ring, const struct record *record);

#endif
