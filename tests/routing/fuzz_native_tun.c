/* A libFuzzer target: what the kernel, a peer or Python may give the gateway's fast path; built and run by `script/check --deep`, not part of
 * the module.
 *
 * The plane is the router "first" of the conformance vectors (scene.h). The first byte of an input chooses:
 *
 *   0  the rest is what a read of the TUN brought: a virtio_net_hdr and a packet
 *   1  the rest is such a packet whose checksums are made right first, so that more of it passes; and it is joined again
 *   2  the rest are packets of a peer, each behind its length (u16) and made right, that are written to the TUN
 *   3  the rest are plaintexts of a peer as they are, each behind its length, on path tags that are served or not
 *   4  the rest are updates of networks, lanes and receptions
 *
 * Checked besides what sanitizers see: pieces of a large packet have right lengths and checksums and fit what was promised; joined packets,
 * cut again as the kernel would, are the packets that were joined; a lookup of networks finds what a search of the whole list finds.
 */
#include <stdio.h>
#include <stdlib.h>

#include "plane.h"
#include "scene.h"
#include "trains.h"

enum { PEER = 1, PACKETS_MAX = 64, STRIDE = 1600, SPACE = 64, TAG = 77 };

static struct plane *plane;
static struct trains *trains;
static struct sealing_space space;
static const struct address SOURCE = {.ipv4 = {.sin_family = AF_INET, .sin_port = 7, .sin_addr = {0x0100007f}}};
static const uint8_t HERE[4] = {10, 1, 0, 0}, THERE[4] = {10, 2, 0, 0};

static void require(bool is_so, const char *what) {
    if (!is_so) {
        fprintf(stderr, "fuzz_native_tun: %s\n", what);
        abort();
    }
}

static struct network network_of(const uint8_t *address, unsigned address_bytes, unsigned bits, uint64_t number) {
    struct network network = {.address_bytes = (uint8_t)address_bytes, .bits = (uint8_t)bits, .number = number};
    memcpy(network.address, address, address_bytes);
    return network;
}

static void set_tables(void) {
    static const uint8_t classes[CLASSES] = {[0xB8] = 1}, any6[16] = {0xfd};
    static uint8_t srh[SRH_BYTES_MIN];
    struct networks ours, routes;
    struct network mine[] = {network_of(HERE, 4, 16, 1), network_of(any6, 16, 8, 1)};
    struct network theirs[] = {network_of(THERE, 4, 16, PEER), network_of(any6, 16, 8, PEER)};
    require(networks_make(&ours, mine, 2, 5) && networks_make(&routes, theirs, 2, 5), "networks");
    plane_set_networks(plane, &ours, &routes, 1280, classes);
    struct lane_path path = {PEER, TAG, {srh, srh}, {sizeof srh, sizeof srh}};
    struct lane_reading before;
    for (unsigned traffic_class = 0; traffic_class < 2; traffic_class++)
        require(plane_set_lane(plane, PEER, traffic_class, TUNNEL_FLOW_MIN | traffic_class, &path, &before), "lane");
    require(plane_set_reception(plane, PEER, TAG, 1000, 0, 0), "reception");
}

static void set_up(void) {
    plane = plane_new(load_locator(SCENE_LOCATOR));
    trains = trains_new();
    space = (struct sealing_space){calloc(SPACE, STRIDE), STRIDE, 0, SPACE};
    require(plane && trains && space.at, "no memory");
    plane->gateway.frames = frames_new();
    require(plane->gateway.frames, "no memory");
    plane->gateway.frames->has_udp = true;
    for (size_t i = 0; i < SCENE_SESSIONS; i++) {
        const struct scene_session *scene = &SCENE[i];
        struct session_secrets secrets = {.seal = {scene->link_seal, scene->end_seal}, .open = {scene->link_open, scene->end_open}};
        require(plane_add_peer(plane, i + 1, load_locator(scene->locator)), "peer");
        struct session *session = plane_add_session(plane, scene->local_index, scene->remote_index, i + 1, &SOURCE, &secrets, true);
        require(session && plane_set_current(plane, i + 1, session), "session");
    }
    set_tables();
}

static void drain(struct ring *ring) {
    struct record record;
    while (ring_peek(ring, &record)) {
        uint8_t *data = malloc(record.data_bytes ? record.data_bytes : 1);
        require(data && record.srh_bytes <= record.data_bytes, "record");
        ring_read(ring, 0, data, record.data_bytes);
        free(data);
        ring_drop(ring, &record);
    }
}

/* --- making packets right --- */

static size_t ip_bytes_of(const uint8_t *packet) { return packet[0] >> 4 == 4 ? IPV4_BYTES : IPV6_BYTES; }

/* Whether the sum over TCP or UDP is right, computed another way than ip.c does. */
static bool is_upper_right(const uint8_t *packet, size_t length, uint8_t protocol) {
    size_t ip_bytes = ip_bytes_of(packet), addresses_at = ip_bytes == IPV4_BYTES ? 12 : 8;
    uint64_t sum = protocol + (length - ip_bytes);
    for (size_t i = addresses_at; i < length; i++) /* addresses end where the upper layer starts */
        sum += (i & 1) ? packet[i] : (uint64_t)packet[i] << 8;
    return sum && sum % 0xFFFF == 0;
}

static void write_upper_sum(uint8_t *packet, size_t length, uint8_t protocol) {
    size_t ip_bytes = ip_bytes_of(packet), at = ip_bytes + (protocol == PROTOCOL_TCP ? 16 : 6);
    if (at + 2 > length)
        return;
    store_be16(packet + at, 0);
    uint64_t sum = ip_pseudo_sum(packet, ip_bytes == IPV4_BYTES, protocol, length - ip_bytes);
    uint16_t folded = (uint16_t)~ip_fold(ip_sum(packet + ip_bytes, length - ip_bytes, sum));
    store_sum(packet + at, folded ? folded : 0xFFFF);
}

/* Make a packet of these bytes that has a chance: version, lengths, addresses of the tables, sums. False if it is too short. */
static bool mend(uint8_t *packet, size_t length, bool is_outward) {
    if (length < IPV6_BYTES + TCP_BYTES_MIN)
        return false;
    bool is_ipv4 = packet[0] & 0x10, is_tcp = packet[1] & 1;
    uint8_t protocol = is_tcp ? PROTOCOL_TCP : PROTOCOL_UDP;
    size_t ip_bytes = is_ipv4 ? IPV4_BYTES : IPV6_BYTES;
    packet[1] = 0;
    if (is_ipv4) {
        packet[0] = 0x45;
        store_be16(packet + 2, (uint16_t)length);
        packet[6] &= 0x40;
        packet[7] = 0;
        packet[9] = protocol;
        memcpy(packet + (is_outward ? 12 : 16), HERE, 2);
        memcpy(packet + (is_outward ? 16 : 12), THERE, 2);
        ipv4_write_sum(packet, IPV4_BYTES);
    } else {
        packet[0] = 0x60;
        store_be16(packet + 4, (uint16_t)(length - IPV6_BYTES));
        packet[6] = protocol;
        packet[8] = packet[24] = 0xfd;
    }
    if (is_tcp)
        packet[ip_bytes + 12] = (uint8_t)((packet[ip_bytes + 12] & 0x10) + 0x50); /* 20 or 24 bytes of header */
    else
        store_be16(packet + ip_bytes + 4, (uint16_t)(length - ip_bytes));
    if (!(packet[ip_bytes + 1] & 0x80)) /* else a wrong sum */
        write_upper_sum(packet, length, protocol);
    return true;
}

/* --- joined packets --- */

struct original {
    uint8_t data[2048];
    size_t length;
};

static struct original originals[PACKETS_MAX];
static unsigned originals_count;

/* Equal, but for an identification that means nothing, and for the two ways to write a sum of zero. */
static bool is_same(const uint8_t *a, const uint8_t *b, size_t length) {
    uint8_t left[2048], right[2048];
    memcpy(left, a, length);
    memcpy(right, b, length);
    size_t ip_bytes = ip_bytes_of(a), sum_at = ip_bytes + 16;
    if (ip_bytes == IPV4_BYTES) {
        if (left[6] & 0x40)
            memset(left + 4, 0, 2), memset(right + 4, 0, 2);
        memset(left + 10, 0, 2), memset(right + 10, 0, 2);
    }
    if (left[ip_bytes == IPV4_BYTES ? 9 : 6] == PROTOCOL_TCP && sum_at + 2 <= length && (uint16_t)(load_be16(left + sum_at) + 1) <= 1 &&
        (uint16_t)(load_be16(right + sum_at) + 1) <= 1)
        memset(left + sum_at, 0, 2), memset(right + sum_at, 0, 2);
    return !memcmp(left, right, length);
}

static bool is_same_stream(const uint8_t *a, const uint8_t *b) {
    size_t ip_bytes = ip_bytes_of(a), protocol_at = ip_bytes == IPV4_BYTES ? 9 : 6, addresses_at = ip_bytes == IPV4_BYTES ? 12 : 8;
    return ip_bytes == ip_bytes_of(b) && a[protocol_at] == b[protocol_at] &&
           !memcmp(a + addresses_at, b + addresses_at, ip_bytes - addresses_at + 4); /* and ports */
}

/* Mark the first original that equals a packet as seen, and check that none of its stream before it is still to come. */
static void strike(const uint8_t *packet, size_t length) {
    for (unsigned i = 0; i < originals_count; i++)
        if (originals[i].length == length && is_same(originals[i].data, packet, length)) {
            originals[i].length = 0;
            return;
        } else {
            require(!originals[i].length || !is_same_stream(originals[i].data, packet), "a packet overtook one of its stream");
        }
    require(false, "a packet was written that nobody sent");
}

static void check_frames(struct frames *frames) {
    static uint8_t large[FRAME_BYTES_MAX + 1], piece[FRAME_BYTES_MAX + 1];
    for (unsigned i = 0; i < frames->count; i++) {
        struct frame *frame = &frames->frame[i];
        size_t length = 0;
        frame_finish(frame);
        for (unsigned k = 1; k <= frame->pieces; k++) {
            require(length + frame->piece[k].iov_len <= sizeof large, "a frame is too long");
            memcpy(large + length, frame->piece[k].iov_base, frame->piece[k].iov_len);
            length += frame->piece[k].iov_len;
        }
        struct segments segments;
        require(segments_read(&frame->header, large, length, &segments), "a frame that the kernel would refuse");
        require(segments.count == frame->pieces, "another number of packets");
        for (unsigned k = 0; k < segments.count; k++)
            strike(piece, segments_write(&segments, k, piece));
    }
    for (unsigned i = 0; i < originals_count; i++)
        require(originals[i].length == 0, "a packet was lost");
    frames_clear(frames);
    originals_count = 0;
}

static void keep_original(const uint8_t *packet, size_t length) {
    require(originals_count < PACKETS_MAX && length <= sizeof originals->data, "too many originals");
    memcpy(originals[originals_count].data, packet, length);
    originals[originals_count++].length = length;
}

/* --- the modes --- */

static void read_tun(const uint8_t *data, size_t size, bool is_mended) {
    struct virtio_net_hdr header;
    struct segments segments;
    if (size < sizeof header)
        return;
    memcpy(&header, data, sizeof header);
    size_t length = size - sizeof header;
    uint8_t *packet = malloc(length ? length : 1); /* of exactly this length, so that reading beyond it is seen */
    require(packet, "no memory");
    memcpy(packet, data + sizeof header, length);
    if (is_mended && mend(packet, length, true)) {
        bool is_tcp = packet[packet[0] >> 4 == 4 ? 9 : 6] == PROTOCOL_TCP;
        header.gso_type = !is_tcp ? VIRTIO_NET_HDR_GSO_UDP_L4 : packet[0] >> 4 == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
    }
    if (segments_read(&header, packet, length, &segments)) {
        size_t bytes_max = segments_bytes_max(&segments), sum = 0;
        uint8_t *piece = malloc(bytes_max ? bytes_max : 1);
        require(piece && segments.count >= 1 && segments.count <= PIECES_MAX, "pieces");
        for (unsigned i = 0; i < segments.count; i++) {
            size_t piece_bytes = segments_write(&segments, i, piece);
            require(piece_bytes <= bytes_max, "a piece is longer than promised");
            sum += piece_bytes - (segments.count == 1 ? 0 : segments.head_bytes);
            struct ip_packet ip;
            if (segments.count > 1 && ip_read_plain(piece, piece_bytes, &ip))
                require(is_upper_right(piece, piece_bytes, ip.protocol), "a piece has a wrong sum");
        }
        require(sum == length - (segments.count == 1 ? 0 : segments.head_bytes), "payload was lost");
        free(piece);
        unsigned next = 0;
        while (next < segments.count) {
            space.count = 0;
            enum gateway_verdict verdict = gateway_send(plane, &segments, &next, 1, &space, trains);
            trains_send(plane, trains); /* there is no socket */
            if (verdict == GATEWAY_UP)
                break;
        }
    }
    free(packet);
}

static void take_packets(const uint8_t *data, size_t size) {
    static uint8_t packets[PACKETS_MAX][2048];
    struct frames *frames = plane->gateway.frames;
    unsigned count = 0;
    while (size > 2 && count < PACKETS_MAX) {
        size_t length = load_be16(data) % 1500;
        length = length < size - 2 ? length : size - 2;
        uint8_t *packet = packets[count];
        memcpy(packet, data + 2, length);
        data += 2 + length;
        size -= 2 + length;
        struct ip_packet ip;
        if (!mend(packet, length, false) || !ip_read_plain(packet, length, &ip))
            continue;
        count++;
        keep_original(packet, length);
        frames_add(frames, packet, length, &ip);
    }
    check_frames(frames);
}

static void take_plaintexts(const uint8_t *data, size_t size) {
    static uint8_t plaintexts[PACKETS_MAX][2048];
    uint8_t srh[SRH_BYTES_MIN] = {NEXT_HEADER_SEALED, 2, ROUTING_TYPE, 0, 0, 0, 0, 0};
    srh[SRH_FIXED_BYTES + 9] = 17;
    const struct peer *peer = map_get(&plane->peers, PEER);
    for (unsigned count = 0; size > 3 && count < PACKETS_MAX; count++) {
        size_t length = load_be16(data) % 1450;
        uint64_t path_tag = data[2] & 1 ? TAG : TAG + 1;
        srh[SRH_FIXED_BYTES + 9] = data[2] & 2 ? 18 : 17;
        length = length < size - 3 ? length : size - 3;
        uint8_t *plaintext = plaintexts[count];
        memcpy(plaintext, data + 3, length);
        if (data[2] & 4 && length > PAYLOAD_HEADER_BYTES && mend(plaintext + PAYLOAD_HEADER_BYTES, length - PAYLOAD_HEADER_BYTES, false)) {
            static const uint8_t head[8] = {1, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF};
            memcpy(plaintext, head, sizeof head);
        }
        data += 3 + length;
        size -= 3 + length;
        if (gateway_take(plane, peer, peer, path_tag, srh, sizeof srh, plaintext, length, count))
            require(path_tag == TAG && length > PAYLOAD_HEADER_BYTES + IPV4_BYTES, "taken that is not known");
        else
            gateway_tell_before(plane, peer, peer, path_tag, plaintext, length);
    }
    for (unsigned i = 0; i < plane->gateway.frames->count; i++)
        frame_finish(&plane->gateway.frames->frame[i]);
    frames_clear(plane->gateway.frames);
}

/* What a search of the whole list finds. */
static const struct network *search(const struct network *list, size_t count, const uint8_t *address, unsigned address_bytes) {
    const struct network *best = NULL;
    for (size_t i = 0; i < count; i++) {
        unsigned bits = list[i].bits, whole = bits / 8;
        if (list[i].address_bytes != address_bytes || memcmp(list[i].address, address, whole))
            continue;
        if (bits % 8 && (list[i].address[whole] ^ address[whole]) >> (8 - bits % 8))
            continue;
        if (!best || bits >= best->bits)
            best = &list[i];
    }
    return best;
}

static void update_tables(const uint8_t *data, size_t size) {
    struct network list[32];
    struct networks networks;
    struct lane_reading lane;
    struct reception reception;
    struct received received;
    size_t count = 0, at = 0;
    for (; size >= 8 && count < 32; data += 8, size -= 8, count++) {
        unsigned address_bytes = data[0] & 1 ? 16 : 4;
        uint8_t address[16] = {data[1], data[2], data[3] & 1, 0};
        list[count] = network_of(address, address_bytes, data[4] % (8 * address_bytes + 1), count + 1);
        static uint8_t srh[SRH_BYTES_MAX];
        struct lane_path path = {data[5], data[6], {srh, srh}, {data[7] & 1 ? SRH_BYTES_MAX : 0, SRH_BYTES_MIN}};
        if (data[0] & 2)
            plane_set_lane(plane, 2 + data[5] % 4, data[6] % 4, TUNNEL_FLOW_MIN, &path, &lane);
        if (data[0] & 4)
            plane_remove_lane(plane, 2 + data[5] % 4, data[6] % 4, &lane);
        if (data[0] & 8)
            plane_set_reception(plane, 2 + data[5] % 4, data[6], data[7], 0, 0);
        if (data[0] & 16)
            plane_remove_reception(plane, 2 + data[5] % 4, data[6], &received);
        if (data[0] & 64)
            plane_read_lane(plane, 2 + data[5] % 4, data[6] % 4, &lane);
        if (data[0] & 32)
            plane_take_seqs(plane, 2 + data[5] % 4, data[6] % 4, data[7]);
    }
    require(networks_make(&networks, list, count, 9), "networks");
    for (size_t i = 0; i < count; i++) {
        uint8_t address[16];
        memcpy(address, list[i].address, sizeof address);
        address[3] ^= (uint8_t)i;
        const struct network *found = networks_find(&networks, address, list[i].address_bytes);
        const struct network *wanted = search(list, count, address, list[i].address_bytes);
        require((found ? found->number : 0) == (wanted ? wanted->number : 0), "another network was found");
    }
    networks_free(&networks);
    for (at = 0; plane_read_next_lane(plane, &at, &lane);)
        require(lane.count <= MOMENTS_MAX + 1, "moments");
    for (at = 0; plane_read_next_reception(plane, &at, &reception);)
        require(reception.counted.packets == 0 || reception.path_tag == TAG, "counted without a packet");
    for (unsigned peer = 2; peer < 6; peer++)
        for (unsigned i = 0; i < 256; i++) {
            plane_remove_lane(plane, peer, i, &lane);
            plane_remove_reception(plane, peer, i, &received);
        }
    require(plane->gateway.lanes.count == 2 && plane->gateway.receptions.count == 1, "tables are not as before");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!plane)
        set_up();
    if (!size)
        return 0;
    switch (data[0]) {
    case 0:
    case 1:
        read_tun(data + 1, size - 1, data[0]);
        break;
    case 2:
        take_packets(data + 1, size - 1);
        break;
    case 3:
        take_plaintexts(data + 1, size - 1);
        break;
    case 4:
        update_tables(data + 1, size - 1);
        break;
    }
    drain(&plane->opened);
    drain(&plane->gateway.packets);
    return 0;
}
