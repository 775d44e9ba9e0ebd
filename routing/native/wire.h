/* The bytes of SR packets, as routing/packet.py and routing/srh.py define them.
 *
 *   link header 24 B   u8 plane and version, u8 flags, u16 payload length, u32 receiver's session index, u64 counter, u64 path tag
 *   SRH 8 + 16 n B     RFC 8754, sealed per hop with the link header as associated data
 *   tag 16 B
 *   payload            u32 receiver's session index, u64 counter, ciphertext, 16 B tag; sealed end to end, with its first 12 bytes and
 *                      the path tag (u64) as associated data
 *
 * Our own fields are little endian, the SRH is in network byte order. Everything here is a pure function of bytes: what is refused is
 * told by a reason, and the names of reasons are those that the portable plane counts under.
 */
#ifndef SRWAN_WIRE_H
#define SRWAN_WIRE_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    LINK_HEADER_BYTES = 24,
    TAG_BYTES = 16,
    SRH_FIXED_BYTES = 8,
    SID_BYTES = 16,
    LOCATOR_BYTES = 8,
    SEGMENTS_MAX = 8,
    SRH_BYTES_MIN = SRH_FIXED_BYTES + SID_BYTES,
    SRH_BYTES_MAX = SRH_FIXED_BYTES + SEGMENTS_MAX * SID_BYTES,
    PAYLOAD_AT_MIN = LINK_HEADER_BYTES + SRH_BYTES_MIN + TAG_BYTES,
    PAYLOAD_AT_MAX = LINK_HEADER_BYTES + SRH_BYTES_MAX + TAG_BYTES,
    PACKET_BYTES_MIN = PAYLOAD_AT_MIN,
    PACKET_BYTES_MAX = 1472, /* with UDP and IPv4 headers 1500 */
    PAYLOAD_HEAD_BYTES = 12,
    PAYLOAD_OVERHEAD_BYTES = PAYLOAD_HEAD_BYTES + TAG_BYTES,
    PAYLOAD_ASSOCIATED_BYTES = PAYLOAD_HEAD_BYTES + 8,
    PLANE_DATA = 0x2,             /* upper half of the first byte */
    MAGIC = PLANE_DATA << 4 | 1,  /* the first byte: plane and version */
    ROUTING_TYPE = 4,
    NEXT_HEADER_SEALED = 253,     /* "experimentation and testing", RFC 3692 */
    FUNCTION_END = 1              /* SID function "go on to the next segment", RFC 8986 */
};

/* Why a packet was dropped: symbol, and the name it is counted under. The first ones are in the order of the checks. */
#define REASON_LIST(X)                                                                                                                \
    X(NONE, "")                                                                                                                       \
    X(SHORT, "short")                                                                                                                 \
    X(MTU, "mtu")                                                                                                                     \
    X(VERSION, "version")                                                                                                             \
    X(FLAGS, "flags")                                                                                                                 \
    X(LENGTH, "length")                                                                                                               \
    X(SESSION, "session")                                                                                                             \
    X(REPLAY, "replay")                                                                                                               \
    X(AUTH, "auth")                                                                                                                   \
    X(SRH_TYPE, "srh-type")                                                                                                           \
    X(SRH_LENGTH, "srh-length")                                                                                                       \
    X(SRH_FLAGS, "srh-flags")                                                                                                         \
    X(SRH_SEGMENTS, "srh-segments")                                                                                                   \
    X(SRH_LAST_ENTRY, "srh-last-entry")                                                                                               \
    X(SRH_TLV, "srh-tlv")                                                                                                             \
    X(SRH_SEGMENTS_LEFT, "srh-segments-left")                                                                                         \
    X(LOOP, "loop")                                                                                                                   \
    X(NOT_MINE, "not-mine")                                                                                                           \
    X(NO_ROLE, "no-role")                                                                                                             \
    X(NEXT_HOP_UNKNOWN, "next-hop-unknown")                                                                                           \
    X(SRH_PREVIOUS, "srh-previous")                                                                                                   \
    X(NO_SESSION, "no-session")                                                                                                       \
    X(PAYLOAD_SHORT, "payload-short")                                                                                                 \
    X(PAYLOAD_SESSION, "payload-session")                                                                                             \
    X(PAYLOAD_REPLAY, "payload-replay")                                                                                               \
    X(PAYLOAD_AUTH, "payload-auth")                                                                                                   \
    X(QUEUE_FULL, "queue-full")                                                                                                       \
    X(NOT_SEALED, "not-sealed")                                                                                                       \
    X(ADDRESS, "address")                                                                                                             \
    X(THROTTLED, "throttled")

enum reason {
#define REASON_SYMBOL(symbol, name) REASON_##symbol,
    REASON_LIST(REASON_SYMBOL)
#undef REASON_SYMBOL
    REASONS
};

/* The name a reason is counted under; static. */
const char *reason_name(enum reason reason);

struct link_header {
    uint16_t payload_bytes;
    uint32_t index; /* the receiver's, of the session */
    uint64_t counter;
    uint64_t path_tag;
};

/* Read the link header of a datagram. On REASON_NONE `*payload_at` is where its payload starts: the SRH is what lies between, its length
 * is one that an SRH can have. Checks lengths before anything is read. */
enum reason wire_read_header(const uint8_t *data, size_t length, struct link_header *header, size_t *payload_at);

/* Write LINK_HEADER_BYTES. */
void wire_write_header(uint8_t *data, const struct link_header *header);

/* Check a decrypted SRH as strictly as `Srh.decode`; it has `length` bytes, SRH_BYTES_MIN..SRH_BYTES_MAX. */
enum reason wire_check_srh(const uint8_t *srh, size_t length);

/* Fields of an SRH that was checked. */
static inline unsigned srh_segments_left(const uint8_t *srh) { return srh[3]; }
static inline unsigned srh_last_entry(const uint8_t *srh) { return srh[4]; }

/* Entry i of the list on the wire: the last segment to visit is entry 0, the active one is entry "segments left". */
static inline const uint8_t *srh_entry(const uint8_t *srh, unsigned i) { return srh + SRH_FIXED_BYTES + (size_t)SID_BYTES * i; }

static inline uint16_t load_u16(const uint8_t *at) {
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return le16toh(value);
}

static inline uint32_t load_u32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return le32toh(value);
}

static inline uint64_t load_u64(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return le64toh(value);
}

static inline void store_u16(uint8_t *at, uint16_t value) {
    value = htole16(value);
    memcpy(at, &value, sizeof value);
}

static inline void store_u32(uint8_t *at, uint32_t value) {
    value = htole32(value);
    memcpy(at, &value, sizeof value);
}

static inline void store_u64(uint8_t *at, uint64_t value) {
    value = htole64(value);
    memcpy(at, &value, sizeof value);
}

/* A locator is compared and hashed only, so its byte order is the machine's. */
static inline uint64_t load_locator(const uint8_t *sid) {
    uint64_t value;
    memcpy(&value, sid, sizeof value);
    return value;
}

/* The 16 function bits of a SID, RFC 8986 section 3.1. */
static inline uint16_t sid_function(const uint8_t *sid) { return (uint16_t)(sid[8] << 8 | sid[9]); }

#endif
