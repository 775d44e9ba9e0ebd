/* A hash map from u64 to pointer: open addressing with linear probing, deletion by shifting back, no tombstones.
 *
 * Keys may be chosen by strangers (path tags, session indices in packets), so hashing is keyed with random bits that never leave the
 * process. Lookup costs one or two cache lines. Values are never NULL.
 */
#ifndef SRWAN_MAP_H
#define SRWAN_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map_entry {
    uint64_t key;
    void *value; /* NULL: free */
};

struct map {
    struct map_entry *entries; /* NULL until the first put */
    size_t capacity;           /* a power of two */
    size_t count;
    uint64_t seed;
};

/* A hash that who does not know `seed` cannot aim at; good in all bits. The finalizer of SplitMix64, keyed at both ends. */
static inline uint64_t keyed_hash(uint64_t key, uint64_t seed) {
    key ^= seed;
    key = (key ^ key >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    key ^= seed >> 32 | seed << 32;
    key = (key ^ key >> 27) * UINT64_C(0x94d049bb133111eb);
    return key ^ key >> 31;
}

/* The value of a key, or NULL. */
static inline void *map_get(const struct map *map, uint64_t key) {
    if (!map->entries)
        return NULL;
    size_t mask = map->capacity - 1;
    for (size_t i = keyed_hash(key, map->seed) & mask; map->entries[i].value; i = (i + 1) & mask)
        if (map->entries[i].key == key)
            return map->entries[i].value;
    return NULL;
}

/* Set the value of a key. False if memory is short, and nothing changed. */
bool map_put(struct map *map, uint64_t key, void *value);

/* Forget a key; unknown ones are fine. */
void map_remove(struct map *map, uint64_t key);

/* Forget all keys and give the memory back. */
void map_clear(struct map *map);

#endif
