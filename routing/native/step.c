/* What a node does with one SR packet (RFC 8754 section 4.3.1, RFC 8986 section 4.1), and what it sends as an ingress.
 *
 * The rules and their order are those of routing/relay.py and routing/packet.py: lengths, session, freshness (a look), authentication;
 * then the header is judged; and only then does anything change. Between two of those stands one more: a packet that this plane cannot
 * finish goes up as it came, before anything of that changed, and the portable plane starts over with it.
 */
#include "plane.h"

/* What follows from an authentic header. */
struct plan {
    enum verdict verdict;
    enum reason reason;     /* of VERDICT_DROPPED */
    struct peer *lacking;   /* of REASON_NO_SESSION: it is counted for the node that has none */
    struct session *onward; /* of VERDICT_FORWARD */
};

/* False without room; then the next packet tries again, for Python must be told. */
static bool put_note(struct plane *plane, enum record_kind kind, const struct session *session, const struct address *source) {
    struct record record = {.kind = (uint8_t)kind, .index = session->local_index, .source = *source};
    return ring_put(&plane->opened, &record, NULL, 0, NULL, 0);
}

void plane_count_drop(struct plane *plane, enum reason reason, struct peer *peer, const struct address *source) {
    plane->drops[reason]++;
    if (peer)
        peer->drops[reason]++;
    if (!plane->drop_notes_left)
        return;
    struct record record = {.kind = RECORD_DROPPED, .reason = (uint8_t)reason, .neighbour = peer ? peer->number : 0, .source = *source};
    if (ring_put(&plane->opened, &record, NULL, 0, NULL, 0))
        plane->drop_notes_left--;
}

void plane_pass_up(struct plane *plane, const uint8_t *data, size_t length, const struct address *source, int64_t rx_ns) {
    if (length > DATAGRAM_UP_BYTES_MAX) {
        plane->truncated++;
        return;
    }
    struct record record = {.kind = RECORD_DATAGRAM, .rx_ns = rx_ns, .source = *source};
    if (!ring_put(&plane->datagrams, &record, data, length, NULL, 0))
        plane_count_drop(plane, REASON_QUEUE_FULL, NULL, source);
}

static enum verdict refuse(struct plane *plane, enum reason reason, struct peer *peer, const struct address *source) {
    plane_count_drop(plane, reason, peer, source);
    return VERDICT_DROPPED;
}

static struct plan plan_drop(enum reason reason) { return (struct plan){.verdict = VERDICT_DROPPED, .reason = reason}; }

static struct plan plan_up(void) { return (struct plan){.verdict = VERDICT_UP}; }

static bool ends_here(const struct plane *plane, uint16_t function) {
    for (unsigned i = 0; i < plane->functions_count; i++)
        if (plane->functions[i] == function)
            return true;
    return false;
}

/* A SID of function END has no argument: the rest is zero. */
static bool is_plain_end(const uint8_t *sid) {
    static const uint8_t end[SID_BYTES - LOCATOR_BYTES] = {FUNCTION_END >> 8, FUNCTION_END & 0xFF};
    return !memcmp(sid + LOCATOR_BYTES, end, sizeof end);
}

/* Whether `now` is so soon after `then` that it is not to happen again; also false when the clock went back. */
static bool is_recent(int64_t then, int64_t now) { return then != INT64_MIN && now >= then && now - then < ASK_AGAIN_NS; }

/* A packet has nowhere to go: there is no session with `next`, or no such member if it is NULL. The first one of a path tag goes up, where
 * a session is asked for and the neighbour is told; the others of a second are dropped here, and so is what would be too many in all. */
static struct plan plan_nowhere(struct plane *plane, struct peer *sender, struct peer *next, uint64_t path_tag, int64_t rx_ns) {
    enum reason reason = next ? REASON_NO_SESSION : REASON_NEXT_HOP_UNKNOWN;
    struct tag_entry *entry = tags_touch(&plane->relayed, &sender->tags, path_tag);
    if (!is_recent(plane->asks_since_ns, rx_ns)) {
        plane->asks_since_ns = rx_ns;
        plane->asks = 0;
    }
    if (is_recent(entry->asked_ns, rx_ns) || plane->asks >= ASKS_MAX)
        return (struct plan){.verdict = VERDICT_DROPPED, .reason = reason, .lacking = next};
    entry->asked_ns = rx_ns;
    plane->asks++;
    return plan_up();
}

static struct plan plan_onward(struct plane *plane, struct peer *sender, const uint8_t *next, uint64_t path_tag, int64_t rx_ns) {
    struct peer *peer = map_get(&plane->members, load_locator(next));
    if (!peer)
        return plan_nowhere(plane, sender, NULL, path_tag, rx_ns);
    if (peer->is_upward)
        return plan_up();
    if (peer->current && peer->current->has_address)
        return (struct plan){.verdict = VERDICT_FORWARD, .onward = peer->current};
    return plan_nowhere(plane, sender, peer, path_tag, rx_ns);
}

static struct plan make_plan(struct plane *plane, struct peer *sender, const uint8_t *srh, size_t length, uint64_t path_tag,
                             int64_t rx_ns) {
    enum reason reason = wire_check_srh(srh, length);
    if (reason)
        return plan_drop(reason);
    unsigned left = srh_segments_left(srh);
    const uint8_t *active = srh_entry(srh, left);
    if (load_locator(active) != plane->locator)
        return plan_drop(REASON_NOT_MINE);
    bool is_relayed = left > 0;
    if (!is_relayed && (!ends_here(plane, sid_function(active)) || srh[0] != NEXT_HEADER_SEALED))
        return plan_up(); /* what else may end here is not this plane's to know */
    if (is_relayed && !is_plain_end(active))
        return plan_drop(REASON_NOT_MINE);
    if (is_relayed && !plane->is_relay)
        return plan_drop(REASON_NO_ROLE);
    bool is_next_known = !is_relayed || map_get(&plane->members, load_locator(srh_entry(srh, left - 1)));
    if (is_next_known && left < srh_last_entry(srh) && load_locator(srh_entry(srh, left + 1)) != sender->locator)
        return plan_drop(REASON_SRH_PREVIOUS);
    if (is_relayed)
        return plan_onward(plane, sender, srh_entry(srh, left - 1), path_tag, rx_ns);
    return (struct plan){.verdict = VERDICT_OPENED};
}

/* Note an authentic packet under keys of a session: it will not pass again, and the peer has the keys. */
static void accept_counter(struct plane *plane, struct session *session, struct keys *keys, uint64_t counter) {
    window_accept(&keys->window, counter);
    if (!session->is_confirmed)
        session->is_confirmed = put_note(plane, RECORD_CONFIRMED, session, &session->address);
}

/* A peer is where its authentic packets come from (roaming). One that others overtook says nothing about where it is now. */
static void follow(struct plane *plane, struct session *session, uint64_t counter, const struct address *source) {
    if (counter != session->keys[PURPOSE_LINK].window.highest || (session->has_address && address_equals(&session->address, source)))
        return;
    if (!put_note(plane, RECORD_MOVED, session, source))
        return;
    session->address = *source;
    session->has_address = true;
}

/* Seal `srh` for a neighbour into the packet whose payload lies at the right place already. */
static enum reason seal_link(struct session *link, struct link_header *header, const uint8_t *srh, size_t srh_bytes, uint8_t *packet,
                             size_t packet_bytes) {
    struct keys *keys = &link->keys[PURPOSE_LINK];
    header->index = link->remote_index;
    if (!keys_take_counter(keys, &header->counter))
        return REASON_NOT_SEALED;
    wire_write_header(packet, header);
    if (!cipher_seal(&keys->sealing, header->counter, packet, LINK_HEADER_BYTES, srh, srh_bytes, packet + LINK_HEADER_BYTES))
        return REASON_NOT_SEALED;
    link->peer->out.packets++;
    link->peer->out.octets += packet_bytes;
    return REASON_NONE;
}

static enum verdict open_payload(struct plane *plane, const struct peer *neighbour, const struct link_header *header, const uint8_t *srh,
                                 size_t srh_bytes, uint8_t *payload, const struct address *source, int64_t rx_ns) {
    uint8_t associated[PAYLOAD_ASSOCIATED_BYTES], *plaintext = payload + PAYLOAD_HEAD_BYTES; /* opened in place */
    size_t length = header->payload_bytes;
    if (length < PAYLOAD_OVERHEAD_BYTES)
        return refuse(plane, REASON_PAYLOAD_SHORT, NULL, source);
    struct session *end = map_get(&plane->sessions, load_u32(payload));
    if (!end)
        return refuse(plane, REASON_PAYLOAD_SESSION, NULL, source);
    struct keys *keys = &end->keys[PURPOSE_END];
    uint64_t counter = load_u64(payload + 4);
    if (!window_is_fresh(&keys->window, counter))
        return refuse(plane, REASON_PAYLOAD_REPLAY, NULL, source);
    memcpy(associated, payload, PAYLOAD_HEAD_BYTES);
    store_u64(associated + PAYLOAD_HEAD_BYTES, header->path_tag);
    if (!cipher_open(&keys->opening, counter, associated, sizeof associated, payload + PAYLOAD_HEAD_BYTES, length - PAYLOAD_HEAD_BYTES,
                     plaintext))
        return refuse(plane, REASON_PAYLOAD_AUTH, NULL, source);
    accept_counter(plane, end, keys, counter);
    length -= PAYLOAD_OVERHEAD_BYTES;
    if (gateway_take(plane, neighbour, end->peer, header->path_tag, srh, srh_bytes, plaintext, length, rx_ns))
        return VERDICT_OPENED;
    gateway_tell_before(plane, neighbour, end->peer, header->path_tag, plaintext, length);
    struct record record = {
        .kind = RECORD_OPENED,
        .srh_bytes = (uint16_t)srh_bytes,
        .index = end->local_index,
        .neighbour = neighbour->number,
        .sender = end->peer->number,
        .path_tag = header->path_tag,
        .rx_ns = rx_ns,
    };
    if (!ring_put(&plane->opened, &record, srh, srh_bytes, plaintext, length))
        return refuse(plane, REASON_QUEUE_FULL, end->peer, source);
    return VERDICT_OPENED;
}

/* Whether a packet may go on: not one of those that are slowed down, or there is room for it. */
static bool limit_takes(struct plane *plane, struct peer *from, uint64_t path_tag, size_t length, int64_t now_ns) {
    struct limit *limit = &from->limit;
    const struct tag_entry *entry = tags_peek(&plane->relayed, &from->tags, path_tag);
    bool is_named = entry && entry->mark == limit->mark;
    if (is_named == limit->is_exempt)
        return true;
    uint64_t half_a_second = limit->octets_per_s * (NS_PER_S / 2), least = LIMIT_BURST_OCTETS * NS_PER_S;
    uint64_t depth = half_a_second > least ? half_a_second : least;
    if (limit->filled_ns != INT64_MIN && now_ns > limit->filled_ns) {
        uint64_t elapsed_ns = (uint64_t)(now_ns - limit->filled_ns);
        limit->tokens += limit->octets_per_s * (elapsed_ns < NS_PER_S ? elapsed_ns : NS_PER_S);
        limit->tokens = limit->tokens < depth ? limit->tokens : depth;
    }
    if (limit->filled_ns < now_ns)
        limit->filled_ns = now_ns;
    if (limit->tokens < length * NS_PER_S)
        return false;
    limit->tokens -= length * NS_PER_S;
    return true;
}

static enum verdict forward(struct plane *plane, struct peer *from, struct session *link, struct link_header *header, uint8_t *srh,
                            size_t srh_bytes, uint8_t *data, size_t length, const struct address *source, int64_t rx_ns) {
    if (from->limit.octets_per_s && !limit_takes(plane, from, header->path_tag, length, rx_ns))
        return refuse(plane, REASON_THROTTLED, from, source);
    srh[3]--;
    enum reason reason = seal_link(link, header, srh, srh_bytes, data, length);
    if (reason)
        return refuse(plane, reason, link->peer, source);
    struct traffic *traffic = &tags_touch(&plane->relayed, &from->tags, header->path_tag)->traffic;
    traffic->packets++;
    traffic->octets += length;
    return VERDICT_FORWARD;
}

enum verdict plane_step(struct plane *plane, uint8_t *data, size_t length, const struct address *source, int64_t rx_ns,
                        struct session **next) {
    struct link_header header;
    size_t payload_at;
    uint8_t srh[SRH_BYTES_MAX];
    enum reason reason = wire_read_header(data, length, &header, &payload_at);
    if (reason)
        return refuse(plane, reason, NULL, source);
    struct session *session = map_get(&plane->sessions, header.index);
    if (!session)
        return refuse(plane, REASON_SESSION, NULL, source);
    struct keys *keys = &session->keys[PURPOSE_LINK];
    if (!window_is_fresh(&keys->window, header.counter))
        return refuse(plane, REASON_REPLAY, NULL, source);
    size_t srh_bytes = payload_at - LINK_HEADER_BYTES - TAG_BYTES;
    if (!cipher_open(&keys->opening, header.counter, data, LINK_HEADER_BYTES, data + LINK_HEADER_BYTES, srh_bytes + TAG_BYTES, srh))
        return refuse(plane, REASON_AUTH, NULL, source);
    struct peer *peer = session->peer;
    struct plan plan = make_plan(plane, peer, srh, srh_bytes, header.path_tag, rx_ns);
    if (plan.verdict == VERDICT_UP)
        return VERDICT_UP;
    accept_counter(plane, session, keys, header.counter);
    follow(plane, session, header.counter, source);
    peer->in.packets++;
    peer->in.octets += length;
    if (plan.verdict == VERDICT_DROPPED)
        return refuse(plane, plan.reason, plan.lacking ? plan.lacking : peer, source);
    if (plan.verdict == VERDICT_OPENED)
        return open_payload(plane, peer, &header, srh, srh_bytes, data + payload_at, source, rx_ns);
    *next = plan.onward;
    return forward(plane, peer, plan.onward, &header, srh, srh_bytes, data, length, source, rx_ns);
}

/* --- ingress --- */

size_t route_packet_bytes(const struct route *route, size_t plaintext_bytes) {
    size_t headers = LINK_HEADER_BYTES + route->srh_bytes + TAG_BYTES + PAYLOAD_OVERHEAD_BYTES;
    if (route->srh_bytes > SRH_BYTES_MAX || plaintext_bytes > PACKET_BYTES_MAX || headers + plaintext_bytes > PACKET_BYTES_MAX)
        return 0;
    return headers + plaintext_bytes;
}

enum reason route_seal(const struct route *route, const uint8_t *plaintext, size_t plaintext_bytes, uint8_t *out, struct session **next) {
    struct session *end = route->egress->current, *link = route->first->current;
    if (!end || !link || !link->has_address)
        return REASON_NO_SESSION;
    uint8_t associated[PAYLOAD_ASSOCIATED_BYTES];
    uint8_t *payload = out + LINK_HEADER_BYTES + route->srh_bytes + TAG_BYTES;
    uint64_t counter;
    if (!keys_take_counter(&end->keys[PURPOSE_END], &counter))
        return REASON_NOT_SEALED;
    store_u32(payload, end->remote_index);
    store_u64(payload + 4, counter);
    memcpy(associated, payload, PAYLOAD_HEAD_BYTES);
    store_u64(associated + PAYLOAD_HEAD_BYTES, route->path_tag);
    if (!cipher_seal(&end->keys[PURPOSE_END].sealing, counter, associated, sizeof associated, plaintext, plaintext_bytes,
                     payload + PAYLOAD_HEAD_BYTES))
        return REASON_NOT_SEALED;
    struct link_header header = {.payload_bytes = (uint16_t)(PAYLOAD_OVERHEAD_BYTES + plaintext_bytes), .path_tag = route->path_tag};
    *next = link;
    return seal_link(link, &header, route->srh, route->srh_bytes, out, route_packet_bytes(route, plaintext_bytes));
}
