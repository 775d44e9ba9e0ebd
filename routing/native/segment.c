/* Cutting large packets; see segment.h. */
#include "segment.h"

#include "ip.h"

/* Make the checksum that the kernel left to the device: the field holds the sum of the pseudo header. */
static bool finish_checksum(const struct virtio_net_hdr *header, uint8_t *packet, size_t length) {
    size_t start = header->csum_start, at = start + header->csum_offset;
    if (at + 2 > length)
        return false;
    uint16_t sum = (uint16_t)~ip_fold(ip_sum(packet + start, length - start, 0));
    store_sum(packet + at, sum ? sum : 0xFFFF); /* UDP: 0 would mean that there is none; in TCP both mean the same */
    return true;
}

/* Where the payload starts, by the packet's own bytes; false if it is not of the kind that the header says. */
static bool read_heads(struct segments *segments) {
    const uint8_t *packet = segments->packet;
    uint8_t wanted = segments->is_tcp ? PROTOCOL_TCP : PROTOCOL_UDP;
    if (segments->length < IPV4_BYTES || packet[0] >> 4 != (segments->is_ipv4 ? 4 : 6))
        return false;
    segments->ip_bytes = segments->is_ipv4 ? (size_t)(packet[0] & 0xF) * 4 : IPV6_BYTES;
    size_t upper_bytes = segments->is_tcp ? TCP_BYTES_MIN : UDP_BYTES;
    if (segments->ip_bytes < IPV4_BYTES || segments->length < segments->ip_bytes + upper_bytes)
        return false;
    if (packet[segments->is_ipv4 ? 9 : 6] != wanted)
        return false;
    if (segments->is_tcp)
        upper_bytes = (size_t)(packet[segments->ip_bytes + 12] >> 4) * 4;
    segments->head_bytes = segments->ip_bytes + upper_bytes;
    return upper_bytes >= (segments->is_tcp ? TCP_BYTES_MIN : UDP_BYTES) && segments->length > segments->head_bytes;
}

static bool mend_checksum(const struct virtio_net_hdr *header, uint8_t *packet, size_t length) {
    return !(header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || finish_checksum(header, packet, length);
}

bool segments_read(const struct virtio_net_hdr *header, uint8_t *packet, size_t length, struct segments *segments) {
    uint8_t kind = header->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
    *segments = (struct segments){.packet = packet, .length = length, .count = 1};
    if (length > IP_BYTES_MAX)
        return false;
    if (kind == VIRTIO_NET_HDR_GSO_NONE)
        return mend_checksum(header, packet, length);
    if (kind == VIRTIO_NET_HDR_GSO_UDP_L4)
        segments->is_ipv4 = length && packet[0] >> 4 == 4;
    else if (kind == VIRTIO_NET_HDR_GSO_TCPV4 || kind == VIRTIO_NET_HDR_GSO_TCPV6)
        segments->is_tcp = true, segments->is_ipv4 = kind == VIRTIO_NET_HDR_GSO_TCPV4;
    else
        return false;
    segments->piece_bytes = header->gso_size;
    if (segments->piece_bytes < SEGMENT_BYTES_MIN || !read_heads(segments))
        return false;
    size_t payload_bytes = length - segments->head_bytes;
    if (segments->piece_bytes > payload_bytes) /* one packet, whose checksum is to be made all the same */
        segments->piece_bytes = payload_bytes;
    size_t count = (payload_bytes + segments->piece_bytes - 1) / segments->piece_bytes;
    if (count == 1)
        return mend_checksum(header, packet, length);
    segments->count = (unsigned)count;
    return count <= PIECES_MAX;
}

static void write_ip(const struct segments *segments, unsigned i, uint8_t *out, size_t length) {
    if (segments->is_ipv4) {
        store_be16(out + 2, (uint16_t)length);
        store_be16(out + 4, (uint16_t)(load_be16(segments->packet + 4) + i));
        ipv4_write_sum(out, segments->ip_bytes);
    } else {
        store_be16(out + 4, (uint16_t)(length - IPV6_BYTES));
    }
}

size_t segments_write(const struct segments *segments, unsigned i, uint8_t *out) {
    if (segments->count == 1) {
        memcpy(out, segments->packet, segments->length);
        return segments->length;
    }
    size_t at = segments->head_bytes + i * segments->piece_bytes, left = segments->length - at;
    size_t piece_bytes = left < segments->piece_bytes ? left : segments->piece_bytes;
    size_t length = segments->head_bytes + piece_bytes, upper_bytes = length - segments->ip_bytes;
    memcpy(out, segments->packet, segments->head_bytes);
    memcpy(out + segments->head_bytes, segments->packet + at, piece_bytes);
    write_ip(segments, i, out, length);
    uint8_t *upper = out + segments->ip_bytes, *sum_at = upper + (segments->is_tcp ? 16 : 6);
    if (segments->is_tcp) {
        store_be32(upper + 4, load_be32(upper + 4) + (uint32_t)(i * segments->piece_bytes));
        if (i + 1 < segments->count)
            upper[13] &= (uint8_t)~(TCP_FIN | TCP_PSH);
        if (i)
            upper[13] &= (uint8_t)~TCP_CWR;
    } else {
        store_be16(upper + 4, (uint16_t)upper_bytes);
    }
    store_be16(sum_at, 0);
    uint64_t sum = ip_pseudo_sum(out, segments->is_ipv4, segments->is_tcp ? PROTOCOL_TCP : PROTOCOL_UDP, upper_bytes);
    uint16_t folded = (uint16_t)~ip_fold(ip_sum(upper, upper_bytes, sum));
    store_sum(sum_at, folded || segments->is_tcp ? folded : 0xFFFF);
    return length;
}
