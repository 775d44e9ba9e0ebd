/* What the gateway's fast path knows: the tables that routing/native/gateway.py keeps, and what it counts for who reads them.
 *
 * What it is: the part of routing/gateway/gateway.py, routing/egress.py and routing/watch.py that is done for every packet. What it is not:
 * it opens no flow, chooses no path, answers nobody, tells no sender why a packet does not go.
 *
 * Theory of operation. In (gateway.c, `gateway_send`): a plain packet of the TUN, from an address that is ours, to a network behind a
 * peer, goes out on the lane of that peer and of its traffic class. A lane is a flow and the path that its packets take now; Python sets
 * it, and sets it anew at each switch. Out (`gateway_take`): a plain packet of a peer on a path tag that Python knows (a reception), from
 * a network that lies behind that peer, to an address that is ours, is written to the TUN. Everything else goes up to Python, which
 * judges it by all rules, counts it, answers it, and fills these tables. So what is refused is refused in one place, and the
 * tables may always be empty.
 *
 * Python watches paths by what packets did. So a lane notes moments (when, how many packets and octets until then, which sequence number),
 * at least MOMENT_NS apart; a reception counts, sums latencies, and says when an answer is due, with a record in the ring that keeps its
 * place among the payloads that go up. Both are read on Python's timer, and before it acts on an answer.
 *
 * Invariants: sequence numbers of a flow are taken here, by whoever sends; every counted packet is told to Python exactly once; all tables
 * are bounded, and only Python adds to them.
 */
#ifndef SRWAN_GATEWAY_H
#define SRWAN_GATEWAY_H

#include <stdbool.h>
#include <stdint.h>

#include "coalesce.h"
#include "ip.h"
#include "map.h"
#include "networks.h"
#include "ring.h"
#include "segment.h"
#include "tags.h"
#include "wire.h"

enum {
    LANES_MAX = 4096,        /* 1,024 flows, four times over for those that end */
    RECEPTIONS_MAX = 16384,  /* path tags of peers: 128 gateways, 3 classes, some paths each, ten times over */
    MOMENTS_MAX = 128,       /* 1.2 s of them; Python reads every 50 ms */
    CLASSES = 256,
    PAIRS = 256,             /* judged pairs of addresses that are remembered, each way; a power of two */
    TUNNEL_BYTES_MAX = 1280, /* as routing/payload.py */
    PAYLOAD_HEADER_BYTES = 24,
    PACKET_RING_BYTES = 1 << 20, /* of packets from the TUN for Python: 800 of 1,280 B */
    WRITE_ERRNO_MAX = 256
};

#define TUNNEL_FLOW_MIN UINT32_C(0xFFFFFF00)
#define MOMENT_NS INT64_C(10000000)     /* as RECORD_S of routing/silence.py */
#define TRAIN_GAP_NS INT64_C(200000)    /* this and the next two as routing/reception.py */
#define BURST_NS_MIN INT64_C(1000000)
#define BURST_PACKETS_MIN 8

struct plane;
struct peer;
struct session;
struct address;
struct trains;

/* When packets of a lane had been sent. */
struct moment {
    int64_t at_ns; /* CLOCK_MONOTONIC */
    uint64_t packets, octets; /* since the moment before */
    uint64_t seq;             /* of the last of them */
};

/* The flow of one traffic class to one peer, and the path of its packets. */
struct lane {
    uint64_t peer;  /* numbers of peers */
    uint64_t first; /* of the path */
    uint32_t flow;
    uint8_t traffic_class;
    bool is_open; /* false: its packets go up */
    uint64_t path_tag;
    size_t srh_bytes[2]; /* IPv4, IPv6 */
    uint8_t srh[2][SRH_BYTES_MAX];
    uint64_t next_seq;
    struct moment now; /* not yet noted */
    int64_t noted_ns;
    unsigned moments_count;
    struct moment moments[MOMENTS_MAX];
};

/* What came on one path tag of a peer, since Python last read it. */
struct received {
    uint64_t packets, octets;
    int64_t raw_ns_sum; /* by the shift of `gateway.rx_shift_ns` */
    uint64_t highest_seq, burst_kbps;
    uint64_t seq; /* the next three: of the packet that is to be answered */
    int64_t tx_ns, rx_ns;
};

struct reception {
    uint64_t peer, path_tag;
    struct received counted;
    int64_t answer_ns;   /* DATA are answered so far apart; 0: not at all */
    int64_t answered_ns; /* receive stamp of what was answered last */
    int64_t used_ns;     /* receive stamp of the last packet, or of the last time that Python spoke of it */
    int64_t train_rx_ns, train_tx_ns;
    uint64_t train_packets, train_octets;
};

/* A pair of addresses that was judged; the tables have not changed since if `generation` is theirs. */
struct pair {
    uint64_t generation;
    uint64_t peer;
    uint8_t address_bytes;
    uint8_t addresses[2 * ADDRESS_BYTES_MAX]; /* source, then destination */
};

/* All of it is guarded by the plane's lock, but `frames`, which is the thread's. */
struct gateway {
    int tun_fd;            /* -1: none; else Python neither reads it nor is it closed while the thread runs */
    struct frames *frames; /* NULL: none */
    int gone_errno;        /* of a read: the interface is gone */
    uint16_t mtu_bytes;
    uint8_t class_of[CLASSES]; /* by DSCP and ECN */
    uint64_t generation;       /* of the networks; rises from 1 */
    struct networks ours, routes;
    struct pair sent[PAIRS], taken[PAIRS];
    struct map lanes, receptions;
    int64_t tx_shift_ns; /* what makes CLOCK_MONOTONIC the payloads' stamps */
    int64_t rx_shift_ns; /* the same of CLOCK_REALTIME */
    struct traffic to_peers, from_peers;
    uint64_t write_errors[WRITE_ERRNO_MAX];
    uint64_t queue_full, not_sealed, bad_headers; /* packets of the TUN that were dropped; the last: its virtio_net_hdr made no sense */
    struct ring packets;
};

bool gateway_init(struct gateway *gateway, uint64_t seed);
void gateway_free(struct gateway *gateway);

/* --- flows.c: what Python sets and reads; all but the first take the plane's lock --- */

/* Find or make the entry; NULL if there are too many or memory is short. The caller holds the lock. */
struct lane *lane_find(struct gateway *gateway, uint64_t peer, unsigned traffic_class);
struct reception *reception_find(struct gateway *gateway, uint64_t peer, uint64_t path_tag);

/* What was sent on one path tag of a lane. */
struct lane_reading {
    uint64_t peer, path_tag;
    uint8_t traffic_class;
    unsigned count;
    struct moment moments[MOMENTS_MAX + 1];
};

/* The path that a lane's packets take from now on; srh_bytes 0: none, and so they go up. */
struct lane_path {
    uint64_t first, path_tag;
    const uint8_t *srh[2];
    size_t srh_bytes[2];
};

/* Set a lane, made if there is none; what was sent on its path until now is in `*before`. False: too many, or memory is short. */
bool plane_set_lane(struct plane *plane, uint64_t peer, unsigned traffic_class, uint32_t flow, const struct lane_path *path,
                    struct lane_reading *before);

/* Forget a lane; as `plane_set_lane` for what was sent. False if there is none. */
bool plane_remove_lane(struct plane *plane, uint64_t peer, unsigned traffic_class, struct lane_reading *before);

/* Take `count` sequence numbers of a lane's flow, for packets that Python sends; the first of them. 0 if there is no such lane. */
uint64_t plane_take_seqs(struct plane *plane, uint64_t peer, unsigned traffic_class, uint64_t count);

/* Read what one lane sent; nothing if there is no such lane. */
void plane_read_lane(struct plane *plane, uint64_t peer, unsigned traffic_class, struct lane_reading *reading);

/* Read what lanes sent, from place `*at` of the table on; false at the end. */
bool plane_read_next_lane(struct plane *plane, size_t *at, struct lane_reading *reading);

/* Have a path tag of a peer served here, or say anew how its DATA are answered. False: too many, or memory is short. */
bool plane_set_reception(struct plane *plane, uint64_t peer, uint64_t path_tag, int64_t answer_ns, int64_t answered_ns, int64_t now_ns);

/* Read and reset what came on one path tag; false if it is not served here. */
bool plane_read_reception(struct plane *plane, uint64_t peer, uint64_t path_tag, struct received *received);

/* Stop serving a path tag; as `plane_read_reception` for what came. */
bool plane_remove_reception(struct plane *plane, uint64_t peer, uint64_t path_tag, struct received *received);

/* Read and reset what came, from place `*at` of the table on; false at the end. */
bool plane_read_next_reception(struct plane *plane, size_t *at, struct reception *reading);

/* Replace the networks; they are the plane's from now on. */
void plane_set_networks(struct plane *plane, struct networks *ours, struct networks *routes, uint16_t mtu_bytes,
                        const uint8_t class_of[CLASSES]);

/* --- gateway.c: one packet; the caller holds the lock --- */

/* What became of a packet, or of the pieces of a large one, that the kernel gave us. */
enum gateway_verdict {
    GATEWAY_SENT, /* sealed, and in the trains */
    GATEWAY_UP    /* from here on its pieces are for Python */
};

/* Where sealed packets are made. */
struct sealing_space {
    uint8_t *at;
    size_t stride; /* of a packet */
    unsigned count, count_max;
};

/* Send the pieces of a packet from `*piece` on, as far as there is space: `*piece` is the next one then. */
enum gateway_verdict gateway_send(struct plane *plane, const struct segments *segments, unsigned *piece, int64_t now_ns,
                                  struct sealing_space *space, struct trains *trains);

/* Put an IP packet of the TUN into the ring to Python, or count it as dropped. */
void gateway_pass_up(struct plane *plane, const uint8_t *packet, size_t length);

/* Take a payload that ends here, opened at `plaintext`; it stays there until the frames are written. False: it is for Python. */
bool gateway_take(struct plane *plane, const struct peer *neighbour, const struct peer *sender, uint64_t path_tag, const uint8_t *srh,
                  size_t srh_bytes, uint8_t *plaintext, size_t length, int64_t rx_ns);

/* Put what came on a path tag into the ring, before something goes up that Python is to see after it. */
void gateway_tell_before(struct plane *plane, const struct peer *neighbour, const struct peer *sender, uint64_t path_tag,
                         const uint8_t *plaintext, size_t length);

/* --- tun.c: the descriptor; called by the thread, without the lock --- */

/* Read packets and send them, up to a turn's worth. Returns whether something may be left. */
bool tun_serve(struct plane *plane, struct sealing_space *space, uint8_t *buffer, struct trains *trains);

enum { TUN_BUFFER_BYTES = TUN_HEADER_BYTES + IP_BYTES_MAX + 1 };

/* Write what was gathered. */
void tun_write(struct plane *plane);

#endif
