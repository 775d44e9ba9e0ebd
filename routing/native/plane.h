/* The native data plane: SR packets through the node's UDP sockets without Python.
 *
 * What it is: the same relay, egress and ingress as routing/relay.py, egress.py and portable.py, on the same wire format, with the same
 * checks in the same order and the same names of reasons. What it is not: it makes no session, chooses no path, answers nobody.
 *
 * Theory of operation. One thread (loop.c) takes batches of datagrams from the sockets, whole UDP GRO trains where the kernel makes
 * them. Each SR packet is opened, judged and, if it goes on, sealed again in place (step.c); packets for one next hop leave as UDP
 * GSO trains (trains.c). Everything else goes up to Python through two bounded rings (ring.h) and an eventfd: datagrams that are
 * no SR packets, SR packets that need a decision (no session with the next hop, a function this plane does not know) untouched; and,
 * apart from them so that no flood of strangers can crowd them out, payloads that were opened here, and notes that a session was
 * confirmed, a peer moved, a packet was dropped.
 *
 * A router with a TUN has its packets in the same thread (gateway.h, tun.c).
 *
 * Tables (tables.c) hold sessions by index, peers by number, members by locator. Python writes them, the thread reads them and moves
 * windows and counters. One mutex guards all of it. The thread holds it for at most BURST_PACKETS packets (some 40 us) and
 * never during a system call, so Python never waits longer than that, and an update never stops the thread. A mutex and no RCU:
 * taking it costs 20 ns per burst, and one rule is easy to check. Sealing counters are atomic besides, so that taking one from
 * Python needs no lock.
 *
 * Memory: bounded by the rings, the tables' bounds and BATCH_MESSAGES receive buffers. A session lives while the table or a Python
 * handle refers to it (`holders`); a peer while it has a session, is a member or was not removed.
 *
 * Invariants:
 * - There is one counter and one window per key, here, used by the thread and by Python: no nonce repeats, no packet passes twice.
 * - A packet that goes up untouched has moved no window, address or counter; whoever handles it in the end moves the window.
 * - Unauthenticated bytes change nothing but a drop counter.
 */
#ifndef SRWAN_PLANE_H
#define SRWAN_PLANE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "address.h"
#include "cipher.h"
#include "gateway.h"
#include "map.h"
#include "ring.h"
#include "tags.h"
#include "window.h"
#include "wire.h"

enum {
    SOCKETS_MAX = 8,
    PEERS_MAX = 4096,        /* members, and nodes with a session: both at most 1,024, twice over for churn */
    SESSIONS_IN_TABLE_MAX = 8192,
    FUNCTIONS_MAX = 16,
    DATAGRAM_RING_BYTES = 1 << 20, /* 8,000 frames of 64 B: some 10 ms of a flood, then the flood is dropped */
    OPENED_RING_BYTES = 4 << 20,   /* 2,700 packets of 1,400 B: 10 ms at 270,000 packets a second */
    DATAGRAM_UP_BYTES_MAX = 2048,  /* as overlay/udp.py: nothing we send exceeds a 1,500-byte underlay */
    DROP_NOTES_MAX = 64,           /* notes of drops in NOTES_AGAIN_NS; beyond it only counters go on */
    ASKS_MAX = 200,                /* packets in ASK_AGAIN_NS that go up for want of a next hop: all that routing/notice.py tells */
    ERRNO_MAX = 256,
    LIMIT_TAGS_MAX = 4096,    /* path tags that one limit names: 64 sessions of 64 */
    LIMIT_BURST_OCTETS = 3000 /* two packets at any rate; else half a second of it */
};

#define NS_PER_S UINT64_C(1000000000)
#define LIMIT_OCTETS_PER_S_MAX UINT64_C(4000000000) /* a second of it fits 64 bits in octets times NS_PER_S */

#define COUNTER_MAX (UINT64_C(1) << 63) /* sessions are replaced at 2**31; a key that gets here seals nothing any more */
#define NOTES_AGAIN_NS INT64_C(1000000000) /* a flood of bad packets must not keep Python busy with reading of it */
#define ASK_AGAIN_NS INT64_C(1000000000) /* a packet that lacks a next hop goes up this seldom per neighbour and path tag: as often as \
                                            routing/notice.py tells the neighbour */

struct session;

/* Some of a neighbour's packets are carried at a low rate, as routing/throttle.py: one token bucket for all of them. */
struct limit {
    uint64_t octets_per_s; /* 0: no limit */
    bool is_exempt;        /* the marked path tags are those left out */
    uint32_t mark;         /* of the path tags that are named now; rises, so that older marks mean nothing */
    uint64_t tokens;       /* octets times NS_PER_S */
    int64_t filled_ns;     /* on the clock of receive stamps */
};

struct peer {
    uint64_t number; /* Python's; never 0 and never used again */
    uint64_t locator;
    bool is_member;
    bool is_upward; /* packets for it go up: it is reached in a way that only Python knows */
    uint32_t sessions; /* that refer to it */
    struct session *current; /* to send with, or NULL */
    struct traffic in, out;
    uint64_t drops[REASONS];
    struct limit limit;
    struct tag_owner tags;
};

enum direction_purpose { PURPOSE_LINK, PURPOSE_END, PURPOSES };

/* The keys of one purpose: both directions. */
struct keys {
    struct cipher sealing, opening;
    _Atomic uint64_t sealed; /* next counter to seal with */
    struct window window;    /* of the opening key */
};

struct session {
    atomic_uint holders;
    bool is_installed; /* in the plane's table; else `peer` means nothing */
    bool has_address;  /* false: made over relays, then only the end keys are used */
    bool is_confirmed; /* the peer is known to have the keys, and Python was told */
    uint32_t local_index, remote_index;
    struct peer *peer;
    struct address address;
    struct keys keys[PURPOSES];
    uint64_t train_serial; /* which trains the next field belongs to */
    unsigned train;
};

struct trains;
struct worker;

struct plane {
    pthread_mutex_t lock; /* guards all fields up to the sockets, but the rings' reading ends */
    uint64_t locator;
    bool is_relay;
    unsigned functions_count;
    uint16_t functions[FUNCTIONS_MAX]; /* that end here */
    struct map peers, members, sessions;
    struct tag_table relayed;
    uint64_t drops[REASONS];
    unsigned drop_notes_left;
    int64_t notes_refilled_ns; /* CLOCK_MONOTONIC */
    unsigned asks;             /* since `asks_since_ns`, on the clock of receive stamps */
    int64_t asks_since_ns;
    uint64_t train_serial;
    uint64_t receive_errors[ERRNO_MAX], send_errors[ERRNO_MAX];
    uint64_t truncated;
    struct ring datagrams, opened;
    struct gateway gateway;

    /* set before the thread starts, not changed while it runs */
    unsigned sockets_count;
    int sockets[SOCKETS_MAX];
    int families[SOCKETS_MAX];
    int out_ipv4, out_ipv6; /* the first socket of each family, or -1 */
    bool has_gro;
    atomic_bool has_gso;
    int news_fd; /* eventfd: there is something in a ring */
    int stop_fd; /* eventfd: end the thread */
    atomic_bool is_signalled;
    bool is_running;
    pthread_t thread;
    struct worker *worker;
    struct trains *python_trains; /* of who calls from Python, one at a time: the interpreter's lock sees to it */
};

/* What became of an SR packet. */
enum verdict {
    VERDICT_DROPPED,
    VERDICT_FORWARD, /* sealed in place for the next hop */
    VERDICT_OPENED,  /* its payload was opened, and is in the ring or on its way into the TUN */
    VERDICT_UP       /* nothing was changed: it is for Python */
};

/* --- tables.c: life of a plane, its peers and sessions. Those that take no lock say so. --- */

/* A plane without sockets; NULL if memory is short. */
struct plane *plane_new(uint64_t locator);

/* Stop the thread and free everything but sessions that are held elsewhere. NULL is fine. */
void plane_free(struct plane *plane);

/* Make a peer known, with a number never used before. False: too many, or memory is short. */
bool plane_add_peer(struct plane *plane, uint64_t number, uint64_t locator);

/* Forget a peer that has no session and is no member; its counters with it. False if it is still in use or unknown. */
bool plane_remove_peer(struct plane *plane, uint64_t number);

/* Set a peer's counters to zero and forget its path tags. */
void plane_reset_peer(struct plane *plane, uint64_t number);

/* Carry some of a peer's packets at a low rate: those of these path tags, or all but those. 0 octets/s: as they come. Unknown: nothing. */
void plane_set_limit(struct plane *plane, uint64_t number, uint64_t octets_per_s, bool is_exempt, const uint64_t *tags, size_t count);

/* A peer that packets may go to. */
struct member {
    uint64_t number;
    bool is_upward; /* packets for it go up */
};

/* Replace whom packets may go to. Unknown numbers are left out. False if memory is short; then some are missing. */
bool plane_set_members(struct plane *plane, const struct member *members, size_t count);

/* Set what to send to a peer with; NULL: nothing. False for an unknown peer or a session that is another's or not installed. */
bool plane_set_current(struct plane *plane, uint64_t number, struct session *session);

struct session_secrets {
    const uint8_t *seal[PURPOSES], *open[PURPOSES]; /* KEY_BYTES each */
};

/* Install a session; the caller holds it and gives it back with `session_release`. `address` may be NULL: not known yet. NULL: the peer is
 * unknown, the index taken, the table full, or memory short. */
struct session *plane_add_session(struct plane *plane, uint32_t local_index, uint32_t remote_index, uint64_t peer_number,
                                  const struct address *address, const struct session_secrets *secrets, bool is_confirmed);

/* Take a session out of the table and wipe its keys. A second time does nothing. */
void plane_remove_session(struct plane *plane, struct session *session);

/* Give a held session back. Takes no lock. */
void session_release(struct session *session);

/* Take the next counter of a sealing key. False, for ever, once COUNTER_MAX is reached. Takes no lock. */
bool keys_take_counter(struct keys *keys, uint64_t *counter);

static inline void plane_lock(struct plane *plane) { pthread_mutex_lock(&plane->lock); }
static inline void plane_unlock(struct plane *plane) { pthread_mutex_unlock(&plane->lock); }

/* --- step.c: what a node does with one SR packet; the caller holds the lock --- */

/* Take an SR packet of `length` bytes, any bytes. For VERDICT_FORWARD `data` is the packet to send and `*next` the session whose
 * `address` it goes to. `*next` is valid until the lock is released. */
enum verdict plane_step(struct plane *plane, uint8_t *data, size_t length, const struct address *source, int64_t rx_ns,
                        struct session **next);

/* Count a dropped packet; `peer` is who sealed it, NULL if that was not authenticated. */
void plane_count_drop(struct plane *plane, enum reason reason, struct peer *peer, const struct address *source);

/* Put a datagram into the ring to Python, or drop it. */
void plane_pass_up(struct plane *plane, const uint8_t *data, size_t length, const struct address *source, int64_t rx_ns);

/* What an ingress sends: the header of the first hop, and who gets it. */
struct route {
    struct peer *first, *egress;
    const uint8_t *srh; /* as it leaves us, srh_bytes = 8 + 16 n */
    size_t srh_bytes;
    uint64_t path_tag;
};

/* How long the packet for a plaintext is; 0 if it would be too long. Takes no lock. */
size_t route_packet_bytes(const struct route *route, size_t plaintext_bytes);

/* Seal a plaintext end to end and for the first hop, into `out`, which has room for `route_packet_bytes`. On REASON_NONE the packet is
 * counted as sent and goes to `*next`; REASON_NOT_SEALED: a key is worn out, or libcrypto failed. The caller holds the lock. */
enum reason route_seal(const struct route *route, const uint8_t *plaintext, size_t plaintext_bytes, uint8_t *out, struct session **next);

/* --- loop.c: sockets and the thread --- */

/* Use duplicates of these bound, non-blocking UDP sockets. 0 or an errno; then none is used. Once per plane. */
int plane_open_sockets(struct plane *plane, const int *sockets, const int *families, unsigned count);

/* Start the thread. 0 or an errno. */
int plane_start(struct plane *plane);

/* Read and write a TUN, a non-blocking descriptor with IFF_VNET_HDR, from now on; a duplicate of it is kept. `has_udp`: it takes large UDP
 * packets. The thread ends and starts again meanwhile. 0 or an errno. */
int plane_open_tun(struct plane *plane, int descriptor, bool has_udp);

/* Leave the TUN alone; with this the last descriptor of the plane's is closed. A second time does nothing. */
void plane_close_tun(struct plane *plane);

/* End the thread, wait for it (at most one batch), and close what was opened. A second time does nothing. */
void plane_stop(struct plane *plane);

/* Wake who waits for `news_fd`, unless that was done since the last `plane_clear_news`. Takes no lock. */
void plane_signal(struct plane *plane);

/* To be called before the rings are read: what is put from now on signals again. Takes no lock. */
void plane_clear_news(struct plane *plane);

/* Let drops be noted again, if NOTES_AGAIN_NS have passed. */
void plane_refill_notes(struct plane *plane);

#endif
