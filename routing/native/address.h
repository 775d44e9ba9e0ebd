/* Where a datagram comes from or goes to: an IPv4 or IPv6 socket address, small and comparable. */
#ifndef SRWAN_ADDRESS_H
#define SRWAN_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in ipv4;
        struct sockaddr_in6 ipv6;
    };
};

static inline socklen_t address_bytes(const struct address *address) {
    return address->any.sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

static inline bool address_equals(const struct address *a, const struct address *b) {
    if (a->any.sa_family != b->any.sa_family)
        return false;
    if (a->any.sa_family == AF_INET6)
        return a->ipv6.sin6_port == b->ipv6.sin6_port && a->ipv6.sin6_scope_id == b->ipv6.sin6_scope_id &&
               !memcmp(&a->ipv6.sin6_addr, &b->ipv6.sin6_addr, sizeof a->ipv6.sin6_addr);
    return a->ipv4.sin_port == b->ipv4.sin_port && a->ipv4.sin_addr.s_addr == b->ipv4.sin_addr.s_addr;
}

#endif
