/* Reading and checking the bytes of SR packets; see wire.h. */
#include "wire.h"

const char *reason_name(enum reason reason) {
    static const char *const names[REASONS] = {
#define REASON_NAME(symbol, name) name,
        REASON_LIST(REASON_NAME)
#undef REASON_NAME
    };
    return names[reason];
}

enum reason wire_read_header(const uint8_t *data, size_t length, struct link_header *header, size_t *payload_at) {
    if (length < PACKET_BYTES_MIN)
        return REASON_SHORT;
    if (length > PACKET_BYTES_MAX)
        return REASON_MTU;
    if (data[0] != MAGIC)
        return REASON_VERSION;
    if (data[1])
        return REASON_FLAGS;
    header->payload_bytes = load_u16(data + 2);
    header->index = load_u32(data + 4);
    header->counter = load_u64(data + 8);
    header->path_tag = load_u64(data + 16);
    if (header->payload_bytes > length - PAYLOAD_AT_MIN)
        return REASON_LENGTH;
    size_t at = length - header->payload_bytes;
    if (at > PAYLOAD_AT_MAX || at % SID_BYTES) /* an SRH grows by one SID, so every valid start is 0 modulo 16 */
        return REASON_LENGTH;
    *payload_at = at;
    return REASON_NONE;
}

void wire_write_header(uint8_t *data, const struct link_header *header) {
    data[0] = MAGIC;
    data[1] = 0;
    store_u16(data + 2, header->payload_bytes);
    store_u32(data + 4, header->index);
    store_u64(data + 8, header->counter);
    store_u64(data + 16, header->path_tag);
}

static bool has_loop(const uint8_t *srh, unsigned segments) {
    uint64_t locators[SEGMENTS_MAX];
    for (unsigned i = 0; i < segments; i++) {
        locators[i] = load_locator(srh_entry(srh, i));
        for (unsigned j = 0; j < i; j++)
            if (locators[i] == locators[j])
                return true;
    }
    return false;
}

enum reason wire_check_srh(const uint8_t *srh, size_t length) {
    unsigned extension = srh[1], last_entry = srh_last_entry(srh);
    if (srh[2] != ROUTING_TYPE)
        return REASON_SRH_TYPE;
    if (8 * ((size_t)extension + 1) != length)
        return REASON_SRH_LENGTH;
    if (srh[5])
        return REASON_SRH_FLAGS;
    if (extension == 0 || last_entry >= SEGMENTS_MAX)
        return REASON_SRH_SEGMENTS;
    if (extension < 2 * (last_entry + 1))
        return REASON_SRH_LAST_ENTRY;
    if (extension > 2 * (last_entry + 1))
        return REASON_SRH_TLV;
    if (srh_segments_left(srh) > last_entry)
        return REASON_SRH_SEGMENTS_LEFT;
    return has_loop(srh, last_entry + 1) ? REASON_LOOP : REASON_NONE;
}
