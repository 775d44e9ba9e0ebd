/* The table of path tags; see tags.h. */
#include "tags.h"

#include "map.h"
#include "pages.h"

enum { ENTRIES_BYTES = (TAGS_MAX + 1) * sizeof(struct tag_entry), BUCKETS_BYTES = TAG_BUCKETS * sizeof(uint32_t) };

bool tags_init(struct tag_table *table, uint64_t seed) {
    *table = (struct tag_table){.seed = seed, .entries_max = TAGS_MAX};
    table->entries = pages_new(ENTRIES_BYTES);
    table->buckets = pages_new(BUCKETS_BYTES);
    if (table->entries && table->buckets)
        return true;
    tags_free(table);
    return false;
}

void tags_free(struct tag_table *table) {
    pages_free(table->entries, ENTRIES_BYTES);
    pages_free(table->buckets, BUCKETS_BYTES);
    *table = (struct tag_table){0};
}

static uint32_t *bucket_of(const struct tag_table *table, const struct tag_owner *owner, uint64_t path_tag) {
    uint64_t hash = keyed_hash(path_tag + keyed_hash(owner->number, table->seed), table->seed);
    return &table->buckets[hash % TAG_BUCKETS];
}

static void unlink_entry(struct tag_table *table, struct tag_owner *owner, uint32_t number) {
    struct tag_entry *entry = &table->entries[number];
    if (entry->older)
        table->entries[entry->older].newer = entry->newer;
    else
        owner->oldest = entry->newer;
    if (entry->newer)
        table->entries[entry->newer].older = entry->older;
    else
        owner->newest = entry->older;
}

static void append_entry(struct tag_table *table, struct tag_owner *owner, uint32_t number) {
    struct tag_entry *entry = &table->entries[number];
    entry->older = owner->newest;
    entry->newer = 0;
    if (owner->newest)
        table->entries[owner->newest].newer = number;
    else
        owner->oldest = number;
    owner->newest = number;
}

static void enlist_owner(struct tag_table *table, struct tag_owner *owner) {
    owner->previous = NULL;
    owner->next = table->owners;
    if (table->owners)
        table->owners->previous = owner;
    table->owners = owner;
    table->owners_count++;
}

static void delist_owner(struct tag_table *table, struct tag_owner *owner) {
    if (owner->previous)
        owner->previous->next = owner->next;
    else
        table->owners = owner->next;
    if (owner->next)
        owner->next->previous = owner->previous;
    owner->previous = owner->next = NULL;
    table->owners_count--;
}

static void remove_oldest(struct tag_table *table, struct tag_owner *owner) {
    uint32_t number = owner->oldest;
    struct tag_entry *entry = &table->entries[number];
    uint32_t *link = bucket_of(table, owner, entry->path_tag);
    while (*link != number)
        link = &table->entries[*link].chain;
    *link = entry->chain;
    unlink_entry(table, owner, number);
    *entry = (struct tag_entry){.chain = table->free};
    table->free = number;
    table->count--;
    if (--owner->count == 0)
        delist_owner(table, owner);
}

static void evict(struct tag_table *table, struct tag_owner *newcomer) {
    struct tag_owner *victim = newcomer;
    if ((uint64_t)newcomer->count * table->owners_count < table->count) {
        victim = table->owners; /* not empty: the table is full */
        for (struct tag_owner *owner = victim->next; owner; owner = owner->next)
            if (owner->count > victim->count)
                victim = owner;
    }
    remove_oldest(table, victim);
    table->evicted++;
}

static uint32_t take_entry(struct tag_table *table) {
    uint32_t number = table->free;
    if (number)
        table->free = table->entries[number].chain;
    else
        number = ++table->used;
    return number;
}

/* The number of the entry of a tag in its bucket, or 0. */
static uint32_t find(const struct tag_table *table, uint32_t bucket, const struct tag_owner *owner, uint64_t path_tag) {
    uint32_t number = bucket;
    while (number && (table->entries[number].path_tag != path_tag || table->entries[number].owner != owner))
        number = table->entries[number].chain;
    return number;
}

const struct tag_entry *tags_peek(const struct tag_table *table, const struct tag_owner *owner, uint64_t path_tag) {
    uint32_t number = find(table, *bucket_of(table, owner, path_tag), owner, path_tag);
    return number ? &table->entries[number] : NULL;
}

struct tag_entry *tags_touch(struct tag_table *table, struct tag_owner *owner, uint64_t path_tag) {
    uint32_t *bucket = bucket_of(table, owner, path_tag);
    uint32_t known = find(table, *bucket, owner, path_tag);
    if (known) {
        if (owner->newest != known) {
            unlink_entry(table, owner, known);
            append_entry(table, owner, known);
        }
        return &table->entries[known];
    }
    if (table->count >= table->entries_max)
        evict(table, owner);
    uint32_t number = take_entry(table);
    struct tag_entry *entry = &table->entries[number];
    *entry = (struct tag_entry){.path_tag = path_tag, .owner = owner, .chain = *bucket, .asked_ns = INT64_MIN};
    *bucket = number;
    append_entry(table, owner, number);
    table->count++;
    if (owner->count++ == 0)
        enlist_owner(table, owner);
    return entry;
}

void tags_drop_owner(struct tag_table *table, struct tag_owner *owner) {
    while (owner->count)
        remove_oldest(table, owner);
}
