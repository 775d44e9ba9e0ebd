/* What one read of the TUN brings: a packet, or a large one that the kernel left to us to cut (virtio_net_hdr, TUNSETOFFLOAD).
 *
 * A large TCP packet becomes packets as the kernel would have cut it (tcp_gso_segment): the sequence number goes on, FIN and PSH stay on
 * the last one, CWR on the first, the IPv4 identification counts up; lengths and checksums are made anew. A large UDP packet (USO) is
 * datagrams, cut alike. A packet whose checksum the kernel left out gets it. Pure functions of bytes; nothing in the header is believed.
 */
#ifndef SRWAN_SEGMENT_H
#define SRWAN_SEGMENT_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

enum {
    TUN_HEADER_BYTES = sizeof(struct virtio_net_hdr),
    IP_BYTES_MAX = 65535,
    SEGMENT_BYTES_MIN = 32, /* of payload: a kernel's MSS is at least 48 - options, and 2,047 pieces are enough */
    PIECES_MAX = 2048
};

struct segments {
    uint8_t *packet;
    size_t length;
    size_t ip_bytes, head_bytes; /* IP header; with TCP's or UDP's. 0 each if it is one packet */
    size_t piece_bytes;          /* of payload in each packet but the last */
    unsigned count;
    bool is_ipv4, is_tcp;
};

/* Look at a packet and its header, and mend its checksum if it is one packet. False: the header says what cannot be. `packet` is changed. */
bool segments_read(const struct virtio_net_hdr *header, uint8_t *packet, size_t length, struct segments *segments);

/* How long the longest of the packets is. */
static inline size_t segments_bytes_max(const struct segments *segments) {
    return segments->count == 1 ? segments->length : segments->head_bytes + segments->piece_bytes;
}

/* Write the packet number `i` to `out`, which has room for `segments_bytes_max`; returns its length. */
size_t segments_write(const struct segments *segments, unsigned i, uint8_t *out);

#endif
