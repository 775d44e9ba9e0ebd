/* Longest-prefix routes: networks of both IP versions and a number for each, as `PrefixTable` of routing/gateway/routes.py.
 *
 * A hash table by prefix length and masked address; a lookup tries the lengths that occur, longest first, and a site has a handful. A table
 * is made as a whole and never changed, so a change of routes is one exchange of tables.
 */
#ifndef SRWAN_NETWORKS_H
#define SRWAN_NETWORKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NETWORKS_MAX = 8192, ADDRESS_BYTES_MAX = 16, PREFIX_BITS_MAX = 128 };

struct network {
    uint8_t address[ADDRESS_BYTES_MAX]; /* bits behind the prefix are zero, and so is what IPv4 does not use */
    uint8_t address_bytes;              /* 4 or 16; 0: no network */
    uint8_t bits;
    uint64_t number;
};

struct networks {
    struct network *slots; /* NULL: empty */
    size_t capacity;       /* a power of two, at most half full */
    uint64_t seed;
    unsigned lengths_count[2];
    uint8_t lengths[2][PREFIX_BITS_MAX + 1]; /* that occur, longest first: IPv4, IPv6 */
};

/* Make a table; of two entries with one prefix the later counts. False if memory is short, or one is no network. */
bool networks_make(struct networks *networks, const struct network *list, size_t count, uint64_t seed);
void networks_free(struct networks *networks);

/* The longest prefix that covers an address, or NULL. */
const struct network *networks_find(const struct networks *networks, const uint8_t *address, unsigned address_bytes);

#endif
