/* Longest-prefix routes; see networks.h. */
#include "networks.h"

#include <stdlib.h>
#include <string.h>

#include "map.h"

enum { CAPACITY_MIN = 16 };

static void mask(uint8_t out[ADDRESS_BYTES_MAX], const uint8_t *address, unsigned address_bytes, unsigned bits) {
    memset(out, 0, ADDRESS_BYTES_MAX);
    memcpy(out, address, bits / 8);
    if (bits % 8 && bits / 8 < address_bytes)
        out[bits / 8] = address[bits / 8] & (uint8_t)(0xFF00 >> (bits % 8));
}

/* Where a prefix is, or the free place where it would go. There always is one. */
static struct network *place(const struct networks *networks, const uint8_t masked[ADDRESS_BYTES_MAX], unsigned address_bytes,
                             unsigned bits) {
    uint64_t high, low;
    memcpy(&high, masked, sizeof high);
    memcpy(&low, masked + 8, sizeof low);
    size_t i = keyed_hash(high + keyed_hash(low ^ (uint64_t)(bits << 8 | address_bytes), networks->seed), networks->seed);
    for (;; i++) {
        struct network *slot = &networks->slots[i & (networks->capacity - 1)];
        if (!slot->address_bytes ||
            (slot->address_bytes == address_bytes && slot->bits == bits && !memcmp(slot->address, masked, ADDRESS_BYTES_MAX)))
            return slot;
    }
}

static void note_length(struct networks *networks, unsigned address_bytes, unsigned bits) {
    unsigned family = address_bytes == 16, at = 0;
    uint8_t *lengths = networks->lengths[family];
    while (at < networks->lengths_count[family] && lengths[at] > bits)
        at++;
    if (at < networks->lengths_count[family] && lengths[at] == bits)
        return;
    memmove(lengths + at + 1, lengths + at, networks->lengths_count[family] - at);
    lengths[at] = (uint8_t)bits;
    networks->lengths_count[family]++;
}

bool networks_make(struct networks *networks, const struct network *list, size_t count, uint64_t seed) {
    *networks = (struct networks){.capacity = CAPACITY_MIN, .seed = seed};
    while (networks->capacity < 2 * count)
        networks->capacity *= 2;
    networks->slots = calloc(networks->capacity, sizeof *networks->slots);
    for (size_t i = 0; networks->slots && i < count; i++) {
        unsigned address_bytes = list[i].address_bytes, bits = list[i].bits;
        if ((address_bytes != 4 && address_bytes != 16) || bits > 8 * address_bytes) {
            networks_free(networks);
            return false;
        }
        struct network entry = {.address_bytes = (uint8_t)address_bytes, .bits = (uint8_t)bits, .number = list[i].number};
        mask(entry.address, list[i].address, address_bytes, bits);
        *place(networks, entry.address, address_bytes, bits) = entry;
        note_length(networks, address_bytes, bits);
    }
    return networks->slots != NULL;
}

void networks_free(struct networks *networks) {
    free(networks->slots);
    *networks = (struct networks){0};
}

const struct network *networks_find(const struct networks *networks, const uint8_t *address, unsigned address_bytes) {
    unsigned family = address_bytes == 16;
    uint8_t masked[ADDRESS_BYTES_MAX];
    for (unsigned i = 0; i < networks->lengths_count[family]; i++) {
        mask(masked, address, address_bytes, networks->lengths[family][i]);
        const struct network *found = place(networks, masked, address_bytes, networks->lengths[family][i]);
        if (found->address_bytes)
            return found;
    }
    return NULL;
}
