/* Lanes and receptions: what Python sets of the gateway's flows, and reads of them; see gateway.h. */
#include <stdlib.h>

#include "plane.h"

bool gateway_init(struct gateway *gateway, uint64_t seed) {
    gateway->tun_fd = -1;
    gateway->generation = 1; /* pairs of zeros are of no generation */
    gateway->lanes.seed = gateway->receptions.seed = seed;
    return ring_init(&gateway->packets, PACKET_RING_BYTES);
}

static void free_values(struct map *map) {
    for (size_t i = 0; i < map->capacity; i++)
        free(map->entries[i].value);
    map_clear(map);
}

void gateway_free(struct gateway *gateway) {
    free_values(&gateway->lanes);
    free_values(&gateway->receptions);
    networks_free(&gateway->ours);
    networks_free(&gateway->routes);
    ring_free(&gateway->packets);
}

void plane_set_networks(struct plane *plane, struct networks *ours, struct networks *routes, uint16_t mtu_bytes,
                        const uint8_t class_of[CLASSES]) {
    struct gateway *gateway = &plane->gateway;
    plane_lock(plane);
    struct networks old_ours = gateway->ours, old_routes = gateway->routes;
    gateway->ours = *ours;
    gateway->routes = *routes;
    gateway->mtu_bytes = mtu_bytes;
    gateway->generation++;
    memcpy(gateway->class_of, class_of, CLASSES);
    plane_unlock(plane);
    networks_free(&old_ours);
    networks_free(&old_routes);
}

/* --- lanes --- */

static uint64_t lane_key(uint64_t peer, unsigned traffic_class) { return peer << 8 | traffic_class; }

struct lane *lane_find(struct gateway *gateway, uint64_t peer, unsigned traffic_class) {
    return map_get(&gateway->lanes, lane_key(peer, traffic_class));
}

/* Give out the moments of a lane, and the one that is not noted yet. */
static void read_lane(struct lane *lane, struct lane_reading *reading) {
    reading->peer = lane->peer;
    reading->traffic_class = lane->traffic_class;
    reading->path_tag = lane->path_tag;
    reading->count = lane->moments_count;
    memcpy(reading->moments, lane->moments, lane->moments_count * sizeof *lane->moments);
    if (lane->now.packets)
        reading->moments[reading->count++] = lane->now;
    lane->moments_count = 0;
    lane->now = (struct moment){0};
}

static struct lane *add_lane(struct gateway *gateway, uint64_t peer, unsigned traffic_class) {
    struct lane *lane = gateway->lanes.count < LANES_MAX ? calloc(1, sizeof *lane) : NULL;
    if (!lane)
        return NULL;
    lane->peer = peer;
    lane->traffic_class = (uint8_t)traffic_class;
    lane->noted_ns = INT64_MIN;
    if (map_put(&gateway->lanes, lane_key(peer, traffic_class), lane))
        return lane;
    free(lane);
    return NULL;
}

bool plane_set_lane(struct plane *plane, uint64_t peer, unsigned traffic_class, uint32_t flow, const struct lane_path *path,
                    struct lane_reading *before) {
    before->count = 0;
    plane_lock(plane);
    struct lane *lane = lane_find(&plane->gateway, peer, traffic_class);
    if (!lane)
        lane = add_lane(&plane->gateway, peer, traffic_class);
    if (lane) {
        read_lane(lane, before);
        lane->flow = flow;
        lane->first = path->first;
        lane->path_tag = path->path_tag;
        lane->is_open = path->srh_bytes[0] && path->srh_bytes[1];
        for (int i = 0; i < 2; i++) {
            lane->srh_bytes[i] = path->srh_bytes[i];
            if (path->srh_bytes[i])
                memcpy(lane->srh[i], path->srh[i], path->srh_bytes[i]);
        }
    }
    plane_unlock(plane);
    return lane != NULL;
}

bool plane_remove_lane(struct plane *plane, uint64_t peer, unsigned traffic_class, struct lane_reading *before) {
    before->count = 0;
    plane_lock(plane);
    struct lane *lane = lane_find(&plane->gateway, peer, traffic_class);
    if (lane) {
        read_lane(lane, before);
        map_remove(&plane->gateway.lanes, lane_key(peer, traffic_class));
    }
    plane_unlock(plane);
    free(lane);
    return lane != NULL;
}

uint64_t plane_take_seqs(struct plane *plane, uint64_t peer, unsigned traffic_class, uint64_t count) {
    uint64_t first = 0;
    plane_lock(plane);
    struct lane *lane = lane_find(&plane->gateway, peer, traffic_class);
    if (lane) {
        first = lane->next_seq;
        lane->next_seq += count;
    }
    plane_unlock(plane);
    return first;
}

void plane_read_lane(struct plane *plane, uint64_t peer, unsigned traffic_class, struct lane_reading *reading) {
    reading->count = 0;
    plane_lock(plane);
    struct lane *lane = lane_find(&plane->gateway, peer, traffic_class);
    if (lane)
        read_lane(lane, reading);
    plane_unlock(plane);
}

bool plane_read_next_lane(struct plane *plane, size_t *at, struct lane_reading *reading) {
    const struct map *lanes = &plane->gateway.lanes;
    while (*at < lanes->capacity) {
        struct lane *lane = lanes->entries[(*at)++].value;
        if (!lane)
            continue;
        plane_lock(plane);
        read_lane(lane, reading);
        plane_unlock(plane);
        if (reading->count)
            return true;
    }
    return false;
}

/* --- receptions --- */

static uint64_t reception_key(const struct gateway *gateway, uint64_t peer, uint64_t path_tag) {
    return keyed_hash(path_tag + keyed_hash(peer, gateway->receptions.seed), gateway->receptions.seed);
}

struct reception *reception_find(struct gateway *gateway, uint64_t peer, uint64_t path_tag) {
    struct reception *found = map_get(&gateway->receptions, reception_key(gateway, peer, path_tag));
    return found && found->peer == peer && found->path_tag == path_tag ? found : NULL; /* two may share a key once in 2**64 */
}

static struct reception *add_reception(struct gateway *gateway, uint64_t peer, uint64_t path_tag) {
    uint64_t key = reception_key(gateway, peer, path_tag);
    if (gateway->receptions.count >= RECEPTIONS_MAX || map_get(&gateway->receptions, key))
        return NULL;
    struct reception *reception = calloc(1, sizeof *reception);
    if (!reception)
        return NULL;
    reception->peer = peer;
    reception->path_tag = path_tag;
    reception->train_tx_ns = INT64_MIN;
    if (map_put(&gateway->receptions, key, reception))
        return reception;
    free(reception);
    return NULL;
}

bool plane_set_reception(struct plane *plane, uint64_t peer, uint64_t path_tag, int64_t answer_ns, int64_t answered_ns, int64_t now_ns) {
    plane_lock(plane);
    struct reception *reception = reception_find(&plane->gateway, peer, path_tag);
    if (!reception)
        reception = add_reception(&plane->gateway, peer, path_tag);
    if (reception) {
        reception->answer_ns = answer_ns;
        if (reception->answered_ns < answered_ns)
            reception->answered_ns = answered_ns;
        reception->used_ns = now_ns;
    }
    plane_unlock(plane);
    return reception != NULL;
}

static void take_received(struct reception *reception, struct received *received) {
    *received = reception->counted;
    reception->counted = (struct received){0};
}

bool plane_read_reception(struct plane *plane, uint64_t peer, uint64_t path_tag, struct received *received) {
    plane_lock(plane);
    struct reception *reception = reception_find(&plane->gateway, peer, path_tag);
    if (reception)
        take_received(reception, received);
    plane_unlock(plane);
    return reception != NULL;
}

bool plane_remove_reception(struct plane *plane, uint64_t peer, uint64_t path_tag, struct received *received) {
    plane_lock(plane);
    struct reception *reception = reception_find(&plane->gateway, peer, path_tag);
    if (reception) {
        take_received(reception, received);
        map_remove(&plane->gateway.receptions, reception_key(&plane->gateway, peer, path_tag));
    }
    plane_unlock(plane);
    free(reception);
    return reception != NULL;
}

bool plane_read_next_reception(struct plane *plane, size_t *at, struct reception *reading) {
    const struct map *receptions = &plane->gateway.receptions;
    while (*at < receptions->capacity) {
        struct reception *reception = receptions->entries[(*at)++].value;
        if (!reception)
            continue;
        plane_lock(plane);
        *reading = *reception;
        reception->counted = (struct received){0};
        plane_unlock(plane);
        return true;
    }
    return false;
}
