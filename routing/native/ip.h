/* IP packets as the gateway's fast path sees them: plain ones are understood, all others are left to Python.
 *
 * `ip_read_plain` decides as `plain_key` of routing/gateway/ip_packet.py: whole, right header checksum, no options, no fragment, no
 * extension header, and no TCP SYN (whose MSS may have to be lowered). `ip_may_cross` is its `is_multicast` and `is_martian`. Everything here
 * is a pure function of bytes, for hostile input.
 */
#ifndef SRWAN_IP_H
#define SRWAN_IP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    IPV4_BYTES = 20,
    IPV6_BYTES = 40,
    TCP_BYTES_MIN = 20,
    UDP_BYTES = 8,
    PROTOCOL_TCP = 6,
    PROTOCOL_UDP = 17,
    PROTOCOL_ICMPV6 = 58,
    TCP_FIN = 0x01,
    TCP_SYN = 0x02,
    TCP_RST = 0x04,
    TCP_PSH = 0x08,
    TCP_ACK = 0x10,
    TCP_URG = 0x20,
    TCP_CWR = 0x80
};

/* What was read of a plain packet; pointers lie in it. */
struct ip_packet {
    const uint8_t *source, *destination;
    uint8_t address_bytes; /* 4 or 16 */
    uint8_t head_bytes;    /* of the IP header: IPV4_BYTES or IPV6_BYTES */
    uint8_t protocol;
    uint8_t octet; /* DSCP and ECN */
};

/* Read a packet that is plain; false for one to be judged by Python. */
bool ip_read_plain(const uint8_t *data, size_t length, struct ip_packet *packet);

/* Whether neither address is multicast, unspecified, loopback, link-local or reserved. */
bool ip_may_cross(const struct ip_packet *packet);

/* One's complement sum of 16-bit words as they lie in memory, added to `sum`; an odd last byte is followed by a zero. Only the last of
 * several parts may be odd. Fold it at the end: the result is in network order wherever it is stored as it lies in memory. RFC 1071. */
uint64_t ip_sum(const uint8_t *data, size_t length, uint64_t sum);

/* A sum in 16 bits; the checksum is its complement. */
static inline uint16_t ip_fold(uint64_t sum) {
    sum = (sum & 0xFFFFFFFF) + (sum >> 32);
    sum = (sum & 0xFFFFFFFF) + (sum >> 32);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    return (uint16_t)sum;
}

static inline uint16_t load_be16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

static inline void store_be16(uint8_t *at, uint16_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline uint32_t load_be32(const uint8_t *at) { return (uint32_t)load_be16(at) << 16 | load_be16(at + 2); }

static inline void store_be32(uint8_t *at, uint32_t value) {
    store_be16(at, (uint16_t)(value >> 16));
    store_be16(at + 2, (uint16_t)value);
}

/* Store what `ip_sum` and `ip_fold` made. */
static inline void store_sum(uint8_t *at, uint16_t value) { memcpy(at, &value, sizeof value); }

/* Sum of the pseudo header of TCP or UDP (RFC 793 3.1, RFC 8200 8.1) of a packet with one address behind the other. */
uint64_t ip_pseudo_sum(const uint8_t *data, bool is_ipv4, uint8_t protocol, size_t upper_bytes);

/* Write the checksum of an IPv4 header of `head_bytes`. */
void ipv4_write_sum(uint8_t *data, size_t head_bytes);

#endif
