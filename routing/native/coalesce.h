/* Packets on their way into the TUN, gathered so that one write carries many: consecutive packets of one TCP stream, or of one UDP flow, become
 * one large packet that the kernel takes whole and cuts where it has to (virtio_net_hdr, the reverse of segment.h).
 *
 * The rules are those of the kernel's own receive offload (tcp_gro_receive): equal IP and TCP headers, the next sequence number, the
 * length of the first one; a shorter packet, FIN or PSH is the last; a packet with SYN, RST, URG or CWR stands alone. Identifications
 * count up, or mean nothing because of DF (RFC 6864). Checksums of what is joined are verified here, so that damage between an end and its
 * gateway stays visible. Order within a stream is kept: whatever is not joined closes what is open of its stream.
 *
 * Packets are not copied: they must stay where they are until they are written; the head of a joined packet is changed in place.
 */
#ifndef SRWAN_COALESCE_H
#define SRWAN_COALESCE_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "ip.h"

enum {
    FRAMES_MAX = 256,
    FRAME_PACKETS_MAX = 64,   /* UDP_MAX_SEGMENTS of kernels before 6.9 */
    FRAME_BYTES_MAX = 65535,
    OPEN_SLOTS = 64           /* streams that are joined at a time; a power of two */
};

struct frame {
    struct virtio_net_hdr header;
    struct iovec piece[1 + FRAME_PACKETS_MAX]; /* the header, the first packet, payloads */
    unsigned pieces;                           /* without the header: packets that were joined */
    uint8_t ip_bytes, head_bytes; /* IP header, and with TCP's or UDP's */
    uint8_t protocol;
    bool is_open;     /* another packet may join */
    bool is_verified; /* the first packet's checksum */
    uint16_t segment_bytes; /* of payload */
    uint32_t next_seq;
    uint32_t bytes;
};

struct frames {
    bool has_udp; /* the kernel takes large UDP packets */
    unsigned count;
    uint64_t packets; /* gathered */
    uint16_t open[OPEN_SLOTS]; /* number of a stream's last frame, from 1 */
    struct frame frame[FRAMES_MAX];
};

/* NULL if memory is short. */
struct frames *frames_new(void);
void frames_free(struct frames *frames);

static inline bool frames_is_full(const struct frames *frames) { return frames->count == FRAMES_MAX; }

/* Gather a plain packet. Not when full. */
void frames_add(struct frames *frames, uint8_t *data, size_t length, const struct ip_packet *packet);

/* Make the headers of a frame that is to be written; its pieces are ready then. */
void frame_finish(struct frame *frame);

/* Forget all. */
void frames_clear(struct frames *frames);

#endif
