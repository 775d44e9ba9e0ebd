/* Packets and octets by neighbour and path tag, bounded and fair, as `TagTable` of routing/traffic.py.
 *
 * Tags are chosen by strangers. Every entry belongs to an owner, the authenticated neighbour; when the table is full the newcomer loses
 * its least recently used entry if it holds its share or more, else the owner that holds most does. Whoever sprays tags evicts its own.
 *
 * Entries lie in one pool of TAGS_MAX, reserved but not touched before use (64 B each), and refer to each other by number.
 */
#ifndef SRWAN_TAGS_H
#define SRWAN_TAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TAGS_MAX = 65536, TAG_BUCKETS = 131072 };

struct traffic {
    uint64_t packets;
    uint64_t octets;
};

/* What one owner holds; part of the owner's own structure. All zero at first. */
struct tag_owner {
    uint64_t number;       /* of the owner, for who reads the table */
    uint32_t oldest;       /* entry numbers start at 1; 0 is none */
    uint32_t newest;
    uint32_t count;
    struct tag_owner *previous; /* list of the owners that hold entries */
    struct tag_owner *next;
};

struct tag_entry {
    uint64_t path_tag;
    struct tag_owner *owner;
    struct traffic traffic;
    int64_t asked_ns;      /* when a packet of it went up for want of a next hop, on the clock of receive stamps; INT64_MIN: never */
    uint32_t mark;         /* the owner's limit whose list names it; 0: none */
    uint32_t older, newer; /* in the owner's list */
    uint32_t chain;        /* next in the bucket, or next free */
};

struct tag_table {
    struct tag_entry *entries; /* 1..TAGS_MAX; 0 is not used */
    uint32_t *buckets;
    uint32_t used; /* highest entry ever used */
    uint32_t free; /* first of the entries given back */
    uint32_t count;
    uint32_t entries_max; /* TAGS_MAX; less only in tests */
    uint32_t owners_count;
    struct tag_owner *owners;
    uint64_t evicted;
    uint64_t seed;
};

/* False if memory is short. */
bool tags_init(struct tag_table *table, uint64_t seed);
void tags_free(struct tag_table *table);

/* The entry of a tag, made if there is none, and now the owner's most recently used. Never fails. */
struct tag_entry *tags_touch(struct tag_table *table, struct tag_owner *owner, uint64_t path_tag);

/* The entry of a tag, or NULL. Changes nothing. */
const struct tag_entry *tags_peek(const struct tag_table *table, const struct tag_owner *owner, uint64_t path_tag);

/* Forget all entries of an owner. */
void tags_drop_owner(struct tag_table *table, struct tag_owner *owner);

#endif
