/* Reading and summing IP packets; see ip.h. */
#include "ip.h"

uint64_t ip_sum(const uint8_t *data, size_t length, uint64_t sum) {
    uint64_t first = sum, second = 0;
    while (length >= 16) { /* two chains of carries instead of one */
        uint64_t a, b;
        memcpy(&a, data, sizeof a);
        memcpy(&b, data + 8, sizeof b);
        first += a;
        first += first < a;
        second += b;
        second += second < b;
        data += 16;
        length -= 16;
    }
    first += second;
    first += first < second;
    while (length >= 2) {
        uint16_t word;
        memcpy(&word, data, sizeof word);
        first += word;
        first += first < word;
        data += 2;
        length -= 2;
    }
    if (length) {
        uint16_t word = 0;
        memcpy(&word, data, 1);
        first += word;
        first += first < word;
    }
    return first;
}

uint64_t ip_pseudo_sum(const uint8_t *data, bool is_ipv4, uint8_t protocol, size_t upper_bytes) {
    uint8_t tail[8] = {0};
    store_be32(tail, (uint32_t)upper_bytes);
    tail[7] = protocol;
    return is_ipv4 ? ip_sum(data + 12, 8, ip_sum(tail, sizeof tail, 0)) : ip_sum(data + 8, 32, ip_sum(tail, sizeof tail, 0));
}

void ipv4_write_sum(uint8_t *data, size_t head_bytes) {
    store_be16(data + 10, 0);
    store_sum(data + 10, (uint16_t)~ip_fold(ip_sum(data, head_bytes, 0)));
}

static bool read_ipv4(const uint8_t *data, size_t length, struct ip_packet *packet) {
    if (load_be16(data + 2) != length || data[6] & 0x3F || data[7] || ip_fold(ip_sum(data, IPV4_BYTES, 0)) != 0xFFFF)
        return false;
    *packet = (struct ip_packet){data + 12, data + 16, 4, IPV4_BYTES, data[9], data[1]};
    return true;
}

static bool read_ipv6(const uint8_t *data, size_t length, struct ip_packet *packet) {
    if (length < IPV6_BYTES || (size_t)load_be16(data + 4) + IPV6_BYTES != length)
        return false;
    uint8_t octet = (uint8_t)((data[0] & 0xF) << 4 | data[1] >> 4);
    *packet = (struct ip_packet){data + 8, data + 24, 16, IPV6_BYTES, data[6], octet};
    return packet->protocol == PROTOCOL_TCP || packet->protocol == PROTOCOL_UDP || packet->protocol == PROTOCOL_ICMPV6;
}

bool ip_read_plain(const uint8_t *data, size_t length, struct ip_packet *packet) {
    if (length < IPV4_BYTES)
        return false;
    if (!(data[0] == 0x45 ? read_ipv4(data, length, packet) : data[0] >> 4 == 6 && read_ipv6(data, length, packet)))
        return false;
    if (packet->protocol != PROTOCOL_TCP)
        return true;
    return length >= (size_t)packet->head_bytes + TCP_BYTES_MIN && !(data[packet->head_bytes + 13] & TCP_SYN);
}

static bool is_ipv4_host(const uint8_t *address) {
    return address[0] != 0 && address[0] != 127 && address[0] < 224 && !(address[0] == 169 && address[1] == 254);
}

static bool is_ipv6_host(const uint8_t *address) {
    static const uint8_t zeros[10];
    if (address[0] == 0xFF)
        return false;
    if (address[0] == 0xFE)
        return (address[1] & 0xC0) != 0x80 && (address[1] & 0xC0) != 0xC0;
    if (memcmp(address, zeros, sizeof zeros))
        return true;
    return !(address[10] == 0xFF && address[11] == 0xFF) && !(address[10] == 0 && address[11] == 0);
}

bool ip_may_cross(const struct ip_packet *packet) {
    if (packet->address_bytes == 4)
        return is_ipv4_host(packet->source) && is_ipv4_host(packet->destination);
    return is_ipv6_host(packet->source) && is_ipv6_host(packet->destination);
}
