/* Joining packets; see coalesce.h. */
#include "coalesce.h"

#include "pages.h"
#include "segment.h"

struct frames *frames_new(void) { return pages_new(sizeof(struct frames)); }

void frames_free(struct frames *frames) { pages_free(frames, sizeof *frames); }

void frames_clear(struct frames *frames) {
    frames->count = 0;
    frames->packets = 0;
    memset(frames->open, 0, sizeof frames->open);
}

static uint8_t *head_of(const struct frame *frame) { return frame->piece[1].iov_base; }

static unsigned slot_of(const uint8_t *data, const struct ip_packet *packet) {
    uint32_t ports, address;
    memcpy(&ports, data + packet->head_bytes, sizeof ports);
    memcpy(&address, packet->source + packet->address_bytes - 4, sizeof address);
    return (ports * UINT32_C(0x9E3779B1) ^ address * UINT32_C(0x85EBCA77)) >> 16 & (OPEN_SLOTS - 1);
}

static bool is_sum_right(const uint8_t *data, size_t length, size_t ip_bytes, uint8_t protocol) {
    size_t upper_bytes = length - ip_bytes;
    if (protocol == PROTOCOL_UDP && !load_be16(data + ip_bytes + 6)) /* it has none: the kernel would make one */
        return false;
    return ip_fold(ip_sum(data + ip_bytes, upper_bytes, ip_pseudo_sum(data, ip_bytes == IPV4_BYTES, protocol, upper_bytes))) == 0xFFFF;
}

/* Bytes of the upper header if the packet may be joined to others, else 0. */
static size_t joinable_head(const struct frames *frames, const uint8_t *data, size_t length, const struct ip_packet *packet) {
    const uint8_t *upper = data + packet->head_bytes;
    size_t upper_bytes = length - packet->head_bytes;
    if (packet->protocol == PROTOCOL_UDP)
        return frames->has_udp && load_be16(upper + 4) == upper_bytes && upper_bytes > UDP_BYTES ? UDP_BYTES : 0;
    size_t head_bytes = (size_t)(upper[12] >> 4) * 4;
    bool is_usual = (upper[13] & (TCP_ACK | TCP_SYN | TCP_RST | TCP_URG | TCP_CWR)) == TCP_ACK;
    return is_usual && head_bytes >= TCP_BYTES_MIN && upper_bytes > head_bytes ? head_bytes : 0;
}

static bool is_ip_equal(const uint8_t *head, const uint8_t *data, unsigned packets) {
    if (head[0] >> 4 == 6) /* all but the length */
        return !memcmp(head, data, 4) && !memcmp(head + 6, data + 6, IPV6_BYTES - 6);
    if (memcmp(head, data, 2) || memcmp(head + 6, data + 6, 4) || memcmp(head + 12, data + 12, 8))
        return false;
    return head[6] & 0x40 || (uint16_t)(load_be16(head + 4) + packets) == load_be16(data + 4);
}

/* Whether a packet continues what a frame holds, by their headers. */
static bool continues(const struct frame *frame, const uint8_t *data, size_t length, const struct ip_packet *packet, size_t head_bytes) {
    const uint8_t *head = head_of(frame), *ours = head + frame->ip_bytes, *theirs = data + packet->head_bytes;
    size_t payload_bytes = length - packet->head_bytes - head_bytes;
    if (!frame->is_open || frame->protocol != packet->protocol || frame->ip_bytes != packet->head_bytes ||
        frame->head_bytes != packet->head_bytes + head_bytes || payload_bytes > frame->segment_bytes ||
        frame->bytes + payload_bytes > FRAME_BYTES_MAX || frame->pieces >= FRAME_PACKETS_MAX ||
        !is_ip_equal(head, data, frame->pieces) || memcmp(ours, theirs, 4))
        return false;
    if (packet->protocol == PROTOCOL_UDP)
        return true;
    uint8_t differing = (uint8_t)(ours[13] ^ theirs[13]);
    return load_be32(theirs + 4) == frame->next_seq && !memcmp(ours + 8, theirs + 8, 5) && !(differing & ~(TCP_PSH | TCP_FIN)) &&
           !memcmp(ours + 14, theirs + 14, 2) && !memcmp(ours + 18, theirs + 18, head_bytes - 18);
}

/* Try to join a packet to a frame. */
static bool join(struct frame *frame, uint8_t *data, size_t length, const struct ip_packet *packet, size_t head_bytes) {
    if (!continues(frame, data, length, packet, head_bytes))
        return false;
    if (!frame->is_verified) {
        if (!is_sum_right(head_of(frame), frame->piece[1].iov_len, frame->ip_bytes, frame->protocol)) {
            frame->is_open = false;
            return false;
        }
        frame->is_verified = true;
    }
    if (!is_sum_right(data, length, frame->ip_bytes, frame->protocol))
        return false;
    size_t payload_bytes = length - frame->head_bytes;
    uint8_t flags = data[frame->ip_bytes + 13];
    frame->piece[1 + frame->pieces++] = (struct iovec){data + frame->head_bytes, payload_bytes};
    frame->bytes += (uint32_t)payload_bytes;
    frame->next_seq += (uint32_t)payload_bytes;
    frame->is_open = payload_bytes == frame->segment_bytes;
    if (frame->protocol == PROTOCOL_TCP && flags & (TCP_PSH | TCP_FIN)) {
        head_of(frame)[frame->ip_bytes + 13] |= flags & (TCP_PSH | TCP_FIN);
        frame->is_open = false;
    }
    return true;
}

static void start(struct frames *frames, uint8_t *data, size_t length, const struct ip_packet *packet, size_t head_bytes) {
    struct frame *frame = &frames->frame[frames->count++];
    size_t payload_bytes = length - packet->head_bytes - head_bytes;
    frame->header = (struct virtio_net_hdr){0};
    frame->piece[0] = (struct iovec){&frame->header, sizeof frame->header};
    frame->piece[1] = (struct iovec){data, length};
    frame->pieces = 1;
    frame->ip_bytes = packet->head_bytes;
    frame->head_bytes = (uint8_t)(packet->head_bytes + head_bytes);
    frame->protocol = packet->protocol;
    frame->is_verified = false;
    frame->is_open = head_bytes > 0 && payload_bytes >= SEGMENT_BYTES_MIN;
    frame->segment_bytes = (uint16_t)payload_bytes;
    frame->bytes = (uint32_t)length;
    if (frame->is_open && packet->protocol == PROTOCOL_TCP) {
        const uint8_t *upper = data + packet->head_bytes;
        frame->next_seq = load_be32(upper + 4) + (uint32_t)payload_bytes;
        frame->is_open = !(upper[13] & (TCP_PSH | TCP_FIN));
    }
}

void frames_add(struct frames *frames, uint8_t *data, size_t length, const struct ip_packet *packet) {
    bool has_ports = packet->protocol == PROTOCOL_TCP || packet->protocol == PROTOCOL_UDP;
    bool is_stream = has_ports && length >= (size_t)packet->head_bytes + UDP_BYTES;
    frames->packets++;
    if (!is_stream) {
        start(frames, data, length, packet, 0);
        return;
    }
    size_t head_bytes = joinable_head(frames, data, length, packet);
    uint16_t *open = &frames->open[slot_of(data, packet)];
    if (head_bytes && *open && join(&frames->frame[*open - 1], data, length, packet, head_bytes))
        return;
    start(frames, data, length, packet, head_bytes);
    *open = (uint16_t)frames->count;
}

void frame_finish(struct frame *frame) {
    if (frame->pieces == 1)
        return;
    uint8_t *head = head_of(frame), *upper = head + frame->ip_bytes;
    bool is_ipv4 = frame->ip_bytes == IPV4_BYTES, is_tcp = frame->protocol == PROTOCOL_TCP;
    size_t upper_bytes = frame->bytes - frame->ip_bytes;
    if (is_ipv4) {
        store_be16(head + 2, (uint16_t)frame->bytes);
        ipv4_write_sum(head, IPV4_BYTES);
    } else {
        store_be16(head + 4, (uint16_t)upper_bytes);
    }
    if (!is_tcp)
        store_be16(upper + 4, (uint16_t)upper_bytes);
    store_sum(upper + (is_tcp ? 16 : 6), ip_fold(ip_pseudo_sum(head, is_ipv4, frame->protocol, upper_bytes)));
    frame->header = (struct virtio_net_hdr){
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .gso_type = !is_tcp ? VIRTIO_NET_HDR_GSO_UDP_L4 : is_ipv4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6,
        .hdr_len = frame->head_bytes,
        .gso_size = frame->segment_bytes,
        .csum_start = frame->ip_bytes,
        .csum_offset = is_tcp ? 16 : 6,
    };
}
