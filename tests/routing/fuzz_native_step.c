/* A libFuzzer target: hostile datagrams and table updates against a plane; built and run by `script/check --deep`, not part of the module.
 *
 * The plane is the router "first" of the conformance vectors, with their keys (scene.h, generated from tests/data/sr_vectors.json), so
 * that the vectors are seeds that get past authentication. Beyond that an input may be sealed here with the keys of a neighbour, so
 * that everything behind the seals sees hostile bytes too. The first byte of an input chooses:
 *
 *   0  the rest is a datagram
 *   1  the rest is an SRH (its length is the next byte, times 8) and a payload, sealed for the link
 *   2  the rest is a payload that ends here, sealed for the link
 *   3  the rest is a plaintext, sealed end to end and for the link, in a packet that ends here
 *   4  the rest are updates of the tables, two bytes each
 *   5  the rest are path tags of owners, two bytes each, in a table of 8
 *   6  the rest is a plaintext that is sent from here
 *
 * A datagram lies in memory of exactly its length, so that reading beyond it is seen. What goes up is read back as Python would.
 */
#include <stdio.h>
#include <stdlib.h>

#include "plane.h"
#include "scene.h"
#include "trains.h"

enum { DATAGRAMS_MAX = 64, EGRESS = 2, SPARE_PEERS = 8, SPARE_NUMBER = 100 };

static struct plane *plane;
static struct session *sessions[SCENE_SESSIONS];
static struct cipher neighbour_link, neighbour_end; /* what the neighbour of session 0 seals with */
static struct trains *trains;
static const struct address SOURCE = {.ipv4 = {.sin_family = AF_INET, .sin_port = 7, .sin_addr = {0x0100007f}}};

static void require(bool is_so, const char *what) {
    if (!is_so) {
        fprintf(stderr, "fuzz_native_step: %s\n", what);
        abort();
    }
}

static void set_up(void) {
    static const uint16_t functions[] = {SCENE_END_APP};
    plane = plane_new(load_locator(SCENE_LOCATOR));
    trains = trains_new();
    require(plane && trains, "no memory");
    struct member members[SCENE_SESSIONS];
    for (size_t i = 0; i < SCENE_SESSIONS; i++) {
        const struct scene_session *scene = &SCENE[i];
        struct session_secrets secrets = {.seal = {scene->link_seal, scene->end_seal}, .open = {scene->link_open, scene->end_open}};
        require(plane_add_peer(plane, i + 1, load_locator(scene->locator)), "peer");
        sessions[i] = plane_add_session(plane, scene->local_index, scene->remote_index, i + 1, &SOURCE, &secrets, true);
        require(sessions[i] && plane_set_current(plane, i + 1, sessions[i]), "session");
        members[i] = (struct member){i + 1, false};
    }
    require(plane_set_members(plane, members, SCENE_SESSIONS), "members");
    plane->is_relay = true;
    plane->functions_count = 1;
    memcpy(plane->functions, functions, sizeof functions);
    require(cipher_init(&neighbour_link, SCENE[0].link_open, true) && cipher_init(&neighbour_end, SCENE[0].end_open, true), "ciphers");
}

/* Read what went up, as the binding does. */
static void drain(struct ring *ring) {
    struct record record;
    while (ring_peek(ring, &record)) {
        uint8_t *data = malloc(record.data_bytes ? record.data_bytes : 1);
        require(data && record.srh_bytes <= record.data_bytes, "record");
        ring_read(ring, 0, data, record.data_bytes);
        require(record.reason < REASONS && reason_name(record.reason), "reason");
        free(data);
        ring_drop(ring, &record);
    }
}

static void step(const uint8_t *data, size_t length) {
    struct session *next = NULL;
    uint8_t *packet = malloc(length ? length : 1);
    require(packet, "no memory");
    memcpy(packet, data, length);
    plane_lock(plane);
    enum verdict verdict = plane_step(plane, packet, length, &SOURCE, 1, &next);
    if (verdict == VERDICT_FORWARD) {
        require(next != NULL && length <= PACKET_BYTES_MAX, "forwarded to nobody");
        trains_add(plane, trains, next, packet, length);
    } else if (verdict == VERDICT_UP) {
        require(!memcmp(packet, data, length), "what goes up was changed");
        plane_pass_up(plane, packet, length, &SOURCE, 1);
    }
    plane_unlock(plane);
    trains_send(plane, trains); /* there is no socket: all are counted as not sent */
    free(packet);
}

/* Send `srh` and `payload` as the neighbour of session 0 would. */
static void step_sealed(const uint8_t *srh, size_t srh_bytes, const uint8_t *payload, size_t payload_bytes) {
    uint8_t packet[4096];
    struct link_header header = {(uint16_t)payload_bytes, SCENE[0].local_index, 1, 77};
    size_t length = LINK_HEADER_BYTES + srh_bytes + TAG_BYTES + payload_bytes;
    if (length > sizeof packet)
        return;
    wire_write_header(packet, &header);
    require(cipher_seal(&neighbour_link, header.counter, packet, LINK_HEADER_BYTES, srh, srh_bytes, packet + LINK_HEADER_BYTES), "seal");
    memcpy(packet + LINK_HEADER_BYTES + srh_bytes + TAG_BYTES, payload, payload_bytes);
    step(packet, length);
}

static void step_ending_here(const uint8_t *payload, size_t payload_bytes) {
    uint8_t srh[SRH_BYTES_MIN] = {NEXT_HEADER_SEALED, 2, ROUTING_TYPE, 0, 0, 0, 0, 0};
    memcpy(srh + SRH_FIXED_BYTES, SCENE_LOCATOR, LOCATOR_BYTES);
    srh[SRH_FIXED_BYTES + 8] = SCENE_END_APP >> 8;
    srh[SRH_FIXED_BYTES + 9] = SCENE_END_APP & 0xFF;
    step_sealed(srh, sizeof srh, payload, payload_bytes);
}

static void step_plaintext(const uint8_t *plaintext, size_t length) {
    uint8_t payload[PACKET_BYTES_MAX], associated[PAYLOAD_ASSOCIATED_BYTES];
    if (length + PAYLOAD_OVERHEAD_BYTES > sizeof payload)
        return;
    store_u32(payload, SCENE[0].local_index);
    store_u64(payload + 4, 1);
    memcpy(associated, payload, PAYLOAD_HEAD_BYTES);
    store_u64(associated + PAYLOAD_HEAD_BYTES, 77);
    require(cipher_seal(&neighbour_end, 1, associated, sizeof associated, plaintext, length, payload + PAYLOAD_HEAD_BYTES), "seal");
    step_ending_here(payload, length + PAYLOAD_OVERHEAD_BYTES);
}

/* Change tables by what the bytes say; what was added is removed at the end. */
static void update_tables(const uint8_t *data, size_t length) {
    static const uint8_t key[KEY_BYTES];
    struct session_secrets secrets = {.seal = {key, key}, .open = {key, key}};
    struct session *held[SPARE_PEERS] = {0};
    for (size_t i = 0; i + 1 < length && i < 256; i += 2) {
        unsigned which = data[i + 1] % SPARE_PEERS;
        uint64_t number = SPARE_NUMBER + which;
        struct member members[] = {{1, false}, {number, which & 1}, {9999, false}};
        switch (data[i] % 8) {
        case 0:
            plane_add_peer(plane, number, number);
            break;
        case 1:
            plane_remove_peer(plane, number);
            break;
        case 2:
            plane_set_members(plane, members, 1 + data[i + 1] % 3);
            break;
        case 3:
            if (!held[which])
                held[which] = plane_add_session(plane, which, which, number, which & 2 ? &SOURCE : NULL, &secrets, which & 1);
            break;
        case 4:
            if (held[which])
                plane_remove_session(plane, held[which]);
            break;
        case 5:
            plane_set_current(plane, number, held[which]);
            break;
        case 6:
            plane_reset_peer(plane, number);
            break;
        case 7:
            if (held[which])
                session_release(held[which]);
            held[which] = NULL;
            break;
        }
    }
    /* A session that was released but not removed is still in the table. */
    for (unsigned which = 0; which < SPARE_PEERS; which++) {
        struct session *session = held[which] ? held[which] : map_get(&plane->sessions, which);
        if (session)
            plane_remove_session(plane, session);
        if (held[which])
            session_release(held[which]);
    }
    struct member members[SCENE_SESSIONS];
    for (size_t i = 0; i < SCENE_SESSIONS; i++)
        members[i] = (struct member){i + 1, false};
    plane_set_members(plane, members, SCENE_SESSIONS);
    for (unsigned which = 0; which < SPARE_PEERS; which++)
        plane_remove_peer(plane, SPARE_NUMBER + which);
    require(plane->peers.count == SCENE_SESSIONS && plane->sessions.count == SCENE_SESSIONS, "tables are not as before");
}

static void touch_tags(const uint8_t *data, size_t length) {
    static struct tag_table table;
    struct tag_owner owners[4] = {{.number = 1}, {.number = 2}, {.number = 3}, {.number = 4}};
    if (!table.entries)
        require(tags_init(&table, 1), "no memory");
    table.entries_max = 8;
    for (size_t i = 0; i + 1 < length; i += 2) {
        if (data[i] & 0x80)
            tags_drop_owner(&table, &owners[data[i] % 4]);
        else
            tags_touch(&table, &owners[data[i] % 4], data[i + 1])->traffic.packets++;
        require(table.count <= table.entries_max, "too many tags");
    }
    for (int i = 0; i < 4; i++)
        tags_drop_owner(&table, &owners[i]);
    require(table.count == 0 && table.owners_count == 0, "tags are left");
}

static void send_from_here(const uint8_t *plaintext, size_t length) {
    struct session *next = NULL;
    struct route route = {map_get(&plane->peers, 1), map_get(&plane->peers, EGRESS), plaintext, SRH_BYTES_MIN, 77};
    size_t packet_bytes = length < SRH_BYTES_MIN ? 0 : route_packet_bytes(&route, length);
    uint8_t *packet = malloc(packet_bytes ? packet_bytes : 1);
    require(packet, "no memory");
    plane_lock(plane);
    if (packet_bytes)
        require(route_seal(&route, plaintext, length, packet, &next) == REASON_NONE && next, "not sealed");
    plane_unlock(plane);
    free(packet);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!plane)
        set_up();
    if (!size)
        return 0;
    for (size_t i = 0; i < SCENE_SESSIONS; i++)
        for (int purpose = 0; purpose < PURPOSES; purpose++)
            sessions[i]->keys[purpose].window = (struct window){0}; /* every input meets the same state */
    const uint8_t *rest = data + 1;
    size_t length = size - 1;
    switch (data[0]) {
    case 0:
        step(rest, length);
        break;
    case 1:
        if (length && (size_t)rest[0] * 8 < length)
            step_sealed(rest + 1, (size_t)rest[0] * 8, rest + 1 + rest[0] * 8, length - 1 - rest[0] * 8);
        break;
    case 2:
        step_ending_here(rest, length);
        break;
    case 3:
        step_plaintext(rest, length);
        break;
    case 4:
        update_tables(rest, length);
        break;
    case 5:
        touch_tags(rest, length);
        break;
    case 6:
        send_from_here(rest, length);
        break;
    }
    drain(&plane->datagrams);
    drain(&plane->opened);
    plane->drop_notes_left = DROP_NOTES_MAX;
    return 0;
}
