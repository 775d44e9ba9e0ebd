/* Packets on their way out, grouped into trains that the kernel takes with one call and cuts itself (UDP_SEGMENT).
 *
 * A train is up to TRAIN_PACKETS packets for one address, all of one length but the last, which may be shorter (udp(7)). Packets for a
 * next hop join its open train wherever they lie in memory, so that packets that came one by one leave together too; order within an
 * address is kept. Packets are not copied: they must stay where they are until `trains_send`.
 *
 * Cost: a system call for all trains, 2 us in the kernel for a train instead of for each packet.
 */
#ifndef SRWAN_TRAINS_H
#define SRWAN_TRAINS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "address.h"

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
    TRAINS_MAX = 256,
    TRAIN_PACKETS = 64,      /* UDP_MAX_SEGMENTS of kernels before 6.9 */
    TRAIN_BYTES_MAX = 65000, /* a datagram of 65,507 B is the longest that IPv4 carries */
    SEND_WAIT_MS = 2         /* for room in the socket's send buffer, before what is left is dropped */
};

struct plane;
struct session;

struct train {
    struct address destination;
    uint16_t packet_bytes; /* of every packet but the last */
    uint16_t packets;
    uint16_t pieces;
    bool is_closed;        /* its last packet is shorter: nothing may follow */
    uint32_t bytes;
    struct iovec piece[TRAIN_PACKETS]; /* each holds whole packets */
};

struct trains {
    uint64_t serial; /* of this filling; sessions remember their open train under it */
    unsigned count;
    struct train train[TRAINS_MAX];
    struct mmsghdr header[TRAINS_MAX];
    union {
        char bytes[CMSG_SPACE(sizeof(uint16_t))];
        struct cmsghdr align;
    } control[TRAINS_MAX];
};

/* NULL if memory is short. */
struct trains *trains_new(void);
void trains_free(struct trains *trains);

static inline bool trains_is_full(const struct trains *trains) { return trains->count == TRAINS_MAX; }

/* Append a packet for a session's address. Not when full. The caller holds the plane's lock. */
void trains_add(struct plane *plane, struct trains *trains, struct session *next, uint8_t *packet, size_t length);

/* Send all and start anew. What the kernel does not take is dropped and counted by errno. Takes the lock only to count. Returns how many
 * packets were taken. */
uint64_t trains_send(struct plane *plane, struct trains *trains);

#endif
