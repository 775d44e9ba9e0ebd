/* What becomes of one IP packet between the TUN and a peer; see gateway.h. */
#include "gateway.h"

#include "plane.h"
#include "trains.h"

enum { KIND_DATA = 1, KIND_KEEPALIVE = 2, FUNCTION_DT6 = 18, FUNCTION_DX4 = 17 };

/* --- judged pairs of addresses --- */

/* Where a judgement of a packet's addresses, of or for a peer, is remembered. */
static struct pair *pair_of(struct pair *pairs, const struct ip_packet *packet, uint64_t peer) {
    uint32_t source, destination;
    memcpy(&source, packet->source + packet->address_bytes - 4, sizeof source);
    memcpy(&destination, packet->destination + packet->address_bytes - 4, sizeof destination);
    uint32_t hash = (source * UINT32_C(0x9E3779B1)) ^ (destination * UINT32_C(0x85EBCA77)) ^ (uint32_t)peer * UINT32_C(0xC2B2AE3D);
    return &pairs[hash >> 16 & (PAIRS - 1)];
}

static bool is_pair(const struct pair *pair, const struct ip_packet *packet, uint64_t generation) {
    return pair->generation == generation && pair->address_bytes == packet->address_bytes &&
           !memcmp(pair->addresses, packet->source, packet->address_bytes) &&
           !memcmp(pair->addresses + ADDRESS_BYTES_MAX, packet->destination, packet->address_bytes);
}

static void keep_pair(struct pair *pair, const struct ip_packet *packet, uint64_t generation, uint64_t peer) {
    pair->generation = generation;
    pair->peer = peer;
    pair->address_bytes = packet->address_bytes;
    memcpy(pair->addresses, packet->source, packet->address_bytes);
    memcpy(pair->addresses + ADDRESS_BYTES_MAX, packet->destination, packet->address_bytes);
}

/* The peer that a packet of ours goes to; 0: it goes to none, or Python is to say why not. */
static uint64_t find_peer(struct gateway *gateway, const struct ip_packet *packet) {
    struct pair *pair = pair_of(gateway->sent, packet, 0);
    if (is_pair(pair, packet, gateway->generation))
        return pair->peer;
    if (!ip_may_cross(packet) || !networks_find(&gateway->ours, packet->source, packet->address_bytes))
        return 0;
    const struct network *route = networks_find(&gateway->routes, packet->destination, packet->address_bytes);
    if (!route || !route->number)
        return 0;
    keep_pair(pair, packet, gateway->generation, route->number);
    return route->number;
}

/* Whether a peer may send a packet here. */
static bool is_permitted(struct gateway *gateway, const struct ip_packet *packet, uint64_t peer) {
    struct pair *pair = pair_of(gateway->taken, packet, peer);
    if (is_pair(pair, packet, gateway->generation) && pair->peer == peer)
        return true;
    if (!ip_may_cross(packet) || !networks_find(&gateway->ours, packet->destination, packet->address_bytes))
        return false;
    const struct network *route = networks_find(&gateway->routes, packet->source, packet->address_bytes);
    if (!route || route->number != peer)
        return false;
    keep_pair(pair, packet, gateway->generation, peer);
    return true;
}

/* --- from the TUN --- */

void gateway_pass_up(struct plane *plane, const uint8_t *packet, size_t length) {
    struct record record = {.kind = RECORD_PACKET};
    if (!ring_put(&plane->gateway.packets, &record, packet, length, NULL, 0))
        plane->gateway.queue_full++;
}

/* The lane of a packet that may go out as it is, or NULL. */
static struct lane *find_lane(struct gateway *gateway, const struct segments *segments) {
    struct ip_packet packet;
    if (!ip_read_plain(segments->packet, segments->length, &packet) || segments_bytes_max(segments) > gateway->mtu_bytes)
        return NULL;
    uint64_t peer = find_peer(gateway, &packet);
    struct lane *lane = peer ? lane_find(gateway, peer, gateway->class_of[packet.octet]) : NULL;
    return lane && lane->is_open ? lane : NULL;
}

static void note_moment(struct lane *lane, int64_t now_ns) {
    lane->now.at_ns = now_ns;
    if (lane->noted_ns != INT64_MIN && now_ns - lane->noted_ns < MOMENT_NS)
        return;
    if (lane->moments_count == MOMENTS_MAX) { /* nobody read: the last one takes it all */
        struct moment *last = &lane->moments[MOMENTS_MAX - 1];
        lane->now.packets += last->packets;
        lane->now.octets += last->octets;
        lane->moments_count--;
    }
    lane->moments[lane->moments_count++] = lane->now;
    lane->now = (struct moment){0};
    lane->noted_ns = now_ns;
}

static void write_payload_header(uint8_t *out, const struct lane *lane, int64_t tx_ns) {
    static const uint8_t usual[4] = {KIND_DATA};
    memcpy(out, usual, sizeof usual);
    store_u32(out + 4, lane->flow);
    store_u64(out + 8, lane->next_seq);
    store_u64(out + 16, (uint64_t)tx_ns);
}

enum gateway_verdict gateway_send(struct plane *plane, const struct segments *segments, unsigned *piece, int64_t now_ns,
                                  struct sealing_space *space, struct trains *trains) {
    struct gateway *gateway = &plane->gateway;
    struct lane *lane = find_lane(gateway, segments);
    if (!lane)
        return GATEWAY_UP;
    bool is_ipv6 = segments->packet[0] >> 4 == 6;
    struct route route = {
        .first = map_get(&plane->peers, lane->first),
        .egress = map_get(&plane->peers, lane->peer),
        .srh = lane->srh[is_ipv6],
        .srh_bytes = lane->srh_bytes[is_ipv6],
        .path_tag = lane->path_tag,
    };
    if (!route.first || !route.egress || !route_packet_bytes(&route, PAYLOAD_HEADER_BYTES + segments_bytes_max(segments)))
        return GATEWAY_UP;
    struct session *next;
    while (*piece < segments->count && space->count < space->count_max && !trains_is_full(trains)) {
        uint8_t *out = space->at + space->count * space->stride;
        uint8_t *plaintext = out + LINK_HEADER_BYTES + route.srh_bytes + TAG_BYTES + PAYLOAD_HEAD_BYTES;
        size_t length = segments_write(segments, *piece, plaintext + PAYLOAD_HEADER_BYTES);
        write_payload_header(plaintext, lane, now_ns + gateway->tx_shift_ns);
        enum reason reason = route_seal(&route, plaintext, PAYLOAD_HEADER_BYTES + length, out, &next);
        if (reason == REASON_NO_SESSION)
            break;
        (*piece)++;
        if (reason) {
            gateway->not_sealed++;
            continue;
        }
        trains_add(plane, trains, next, out, route_packet_bytes(&route, PAYLOAD_HEADER_BYTES + length));
        space->count++;
        lane->now.packets++;
        lane->now.octets += length;
        lane->now.seq = lane->next_seq++;
        gateway->to_peers.packets++;
        gateway->to_peers.octets += length;
    }
    if (lane->now.packets)
        note_moment(lane, now_ns);
    bool is_stopped = *piece < segments->count && space->count < space->count_max && !trains_is_full(trains);
    return is_stopped ? GATEWAY_UP : GATEWAY_SENT;
}

/* --- from peers --- */

static int64_t add_saturated(int64_t a, int64_t b) {
    if (b > 0 ? a > INT64_MAX - b : a < INT64_MIN - b)
        return b > 0 ? INT64_MAX : INT64_MIN;
    return a + b;
}

static int64_t subtract_saturated(int64_t a, int64_t b) { return b == INT64_MIN ? INT64_MAX : add_saturated(a, -b); }

/* Rates of packets that were sealed close to each other, as `PathReception.take_data`. */
static void follow_train(struct reception *reception, size_t octets, int64_t rx_ns, int64_t tx_ns) {
    int64_t gap_ns = subtract_saturated(tx_ns, reception->train_tx_ns);
    if (gap_ns >= 0 && gap_ns <= TRAIN_GAP_NS) {
        reception->train_packets++;
        reception->train_octets += octets;
        int64_t elapsed_ns = subtract_saturated(rx_ns, reception->train_rx_ns);
        if (elapsed_ns >= BURST_NS_MIN && reception->train_packets >= BURST_PACKETS_MIN) {
            uint64_t kbps = reception->train_octets * 8000 / (uint64_t)(elapsed_ns / 1000);
            if (reception->counted.burst_kbps < kbps)
                reception->counted.burst_kbps = kbps;
            reception->train_packets = reception->train_octets = 0;
            reception->train_rx_ns = rx_ns;
        }
    } else {
        reception->train_packets = reception->train_octets = 0;
        reception->train_rx_ns = rx_ns;
    }
    reception->train_tx_ns = tx_ns;
}

/* Tell Python what came; false without room, and then it is told later. */
static bool tell(struct plane *plane, const struct peer *neighbour, struct reception *reception, const uint8_t *srh, size_t srh_bytes) {
    struct record record = {
        .kind = RECORD_RECEIVED,
        .srh_bytes = (uint16_t)srh_bytes,
        .neighbour = neighbour->number,
        .sender = reception->peer,
        .path_tag = reception->path_tag,
        .rx_ns = reception->counted.rx_ns,
    };
    if (!ring_put(&plane->opened, &record, &reception->counted, sizeof reception->counted, srh, srh_bytes))
        return false;
    reception->counted = (struct received){0};
    return true;
}

static void count(struct plane *plane, const struct peer *neighbour, struct reception *reception, const uint8_t *plaintext, size_t octets,
                  int64_t rx_ns, const uint8_t *srh, size_t srh_bytes) {
    struct received *counted = &reception->counted;
    uint64_t seq = load_u64(plaintext + 8);
    int64_t tx_ns = (int64_t)load_u64(plaintext + 16);
    int64_t raw_ns = subtract_saturated(add_saturated(rx_ns, plane->gateway.rx_shift_ns), tx_ns);
    counted->packets++;
    counted->octets += octets;
    counted->raw_ns_sum = add_saturated(counted->raw_ns_sum, raw_ns);
    if (counted->highest_seq < seq)
        counted->highest_seq = seq;
    reception->used_ns = rx_ns;
    follow_train(reception, octets, rx_ns, tx_ns);
    bool is_early = rx_ns >= reception->answered_ns && rx_ns - reception->answered_ns < reception->answer_ns;
    if (!reception->answer_ns || is_early)
        return;
    counted->seq = seq;
    counted->tx_ns = tx_ns;
    counted->rx_ns = rx_ns;
    if (tell(plane, neighbour, reception, srh, srh_bytes))
        reception->answered_ns = rx_ns;
}

bool gateway_take(struct plane *plane, const struct peer *neighbour, const struct peer *sender, uint64_t path_tag, const uint8_t *srh,
                  size_t srh_bytes, uint8_t *plaintext, size_t length, int64_t rx_ns) {
    static const uint8_t usual[4] = {KIND_DATA};
    struct gateway *gateway = &plane->gateway;
    if (!gateway->frames || length <= PAYLOAD_HEADER_BYTES || length > PAYLOAD_HEADER_BYTES + TUNNEL_BYTES_MAX ||
        memcmp(plaintext, usual, sizeof usual) || load_u32(plaintext + 4) < TUNNEL_FLOW_MIN || frames_is_full(gateway->frames))
        return false;
    struct ip_packet packet;
    uint8_t *data = plaintext + PAYLOAD_HEADER_BYTES;
    size_t octets = length - PAYLOAD_HEADER_BYTES;
    uint16_t function = sid_function(srh_entry(srh, 0));
    if (function != (data[0] >> 4 == 4 ? FUNCTION_DX4 : FUNCTION_DT6) || !ip_read_plain(data, octets, &packet) ||
        !is_permitted(gateway, &packet, sender->number))
        return false;
    struct reception *reception = reception_find(gateway, sender->number, path_tag);
    if (!reception)
        return false;
    count(plane, neighbour, reception, plaintext, octets, rx_ns, srh, srh_bytes);
    gateway->from_peers.packets++;
    gateway->from_peers.octets += octets;
    frames_add(gateway->frames, data, octets, &packet);
    return true;
}

void gateway_tell_before(struct plane *plane, const struct peer *neighbour, const struct peer *sender, uint64_t path_tag,
                         const uint8_t *plaintext, size_t length) {
    if (!plane->gateway.frames || !length || plaintext[0] != KIND_KEEPALIVE)
        return;
    struct reception *reception = reception_find(&plane->gateway, sender->number, path_tag);
    if (reception && reception->counted.packets)
        tell(plane, neighbour, reception, NULL, 0);
}
