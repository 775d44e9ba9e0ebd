/* Changing a map; see map.h. */
#include "map.h"

#include <stdlib.h>

enum { CAPACITY_MIN = 16 };

static size_t home(const struct map *map, uint64_t key) { return keyed_hash(key, map->seed) & (map->capacity - 1); }

/* Where a key is, or the free place where it would go. There always is one: a map is at most half full. */
static size_t place(const struct map *map, uint64_t key) {
    size_t i = home(map, key);
    while (map->entries[i].value && map->entries[i].key != key)
        i = (i + 1) & (map->capacity - 1);
    return i;
}

static bool grow(struct map *map) {
    struct map larger = {.capacity = map->capacity ? 2 * map->capacity : CAPACITY_MIN, .count = map->count, .seed = map->seed};
    larger.entries = calloc(larger.capacity, sizeof *larger.entries);
    if (!larger.entries)
        return false;
    for (size_t i = 0; i < map->capacity; i++)
        if (map->entries[i].value)
            larger.entries[place(&larger, map->entries[i].key)] = map->entries[i];
    free(map->entries);
    *map = larger;
    return true;
}

bool map_put(struct map *map, uint64_t key, void *value) {
    if (2 * (map->count + 1) > map->capacity && !grow(map))
        return false;
    size_t i = place(map, key);
    if (!map->entries[i].value)
        map->count++;
    map->entries[i] = (struct map_entry){key, value};
    return true;
}

void map_remove(struct map *map, uint64_t key) {
    if (!map->entries)
        return;
    size_t mask = map->capacity - 1, hole = place(map, key);
    if (!map->entries[hole].value)
        return;
    map->count--;
    /* Move back every entry of the run that would not be found across the hole. */
    for (size_t i = (hole + 1) & mask; map->entries[i].value; i = (i + 1) & mask) {
        size_t wanted = home(map, map->entries[i].key);
        if (((i - wanted) & mask) >= ((i - hole) & mask)) {
            map->entries[hole] = map->entries[i];
            hole = i;
        }
    }
    map->entries[hole].value = NULL;
}

void map_clear(struct map *map) {
    free(map->entries);
    map->entries = NULL;
    map->capacity = map->count = 0;
}
