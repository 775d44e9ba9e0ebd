/* Sessions, peers and members of a plane; see plane.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "plane.h"
#include "trains.h"

struct plane *plane_new(uint64_t locator) {
    uint64_t seed;
    struct plane *plane = calloc(1, sizeof *plane);
    if (!plane)
        return NULL;
    plane->locator = locator;
    plane->drop_notes_left = DROP_NOTES_MAX;
    plane->news_fd = plane->stop_fd = plane->out_ipv4 = plane->out_ipv6 = -1;
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed || !tags_init(&plane->relayed, seed) ||
        !ring_init(&plane->datagrams, DATAGRAM_RING_BYTES) || !ring_init(&plane->opened, OPENED_RING_BYTES) ||
        !gateway_init(&plane->gateway, seed) || pthread_mutex_init(&plane->lock, NULL) != 0) {
        gateway_free(&plane->gateway);
        ring_free(&plane->opened);
        ring_free(&plane->datagrams);
        tags_free(&plane->relayed);
        free(plane);
        return NULL;
    }
    plane->peers.seed = plane->members.seed = plane->sessions.seed = seed;
    return plane;
}

static void wipe(struct session *session) {
    for (int purpose = 0; purpose < PURPOSES; purpose++) {
        cipher_free(&session->keys[purpose].sealing);
        cipher_free(&session->keys[purpose].opening);
    }
}

static void uninstall(struct plane *plane, struct session *session) {
    if (session->peer->current == session)
        session->peer->current = NULL;
    session->peer->sessions--;
    session->is_installed = false;
    map_remove(&plane->sessions, session->local_index);
    wipe(session);
    session_release(session);
}

void plane_free(struct plane *plane) {
    if (!plane)
        return;
    plane_stop(plane);
    for (size_t i = 0; i < plane->sessions.capacity; i++) {
        struct session *session = plane->sessions.entries[i].value;
        if (session) { /* the map goes as a whole, below: removing one by one would shift entries under our feet */
            session->is_installed = false;
            session_release(session);
        }
    }
    for (size_t i = 0; i < plane->peers.capacity; i++)
        free(plane->peers.entries[i].value);
    map_clear(&plane->sessions);
    map_clear(&plane->members);
    map_clear(&plane->peers);
    tags_free(&plane->relayed);
    gateway_free(&plane->gateway);
    ring_free(&plane->datagrams);
    ring_free(&plane->opened);
    trains_free(plane->python_trains);
    pthread_mutex_destroy(&plane->lock);
    free(plane);
}

/* --- peers --- */

bool plane_add_peer(struct plane *plane, uint64_t number, uint64_t locator) {
    struct peer *peer = calloc(1, sizeof *peer);
    if (!peer)
        return false;
    peer->number = peer->tags.number = number;
    peer->locator = locator;
    plane_lock(plane);
    bool is_new = number && plane->peers.count < PEERS_MAX && !map_get(&plane->peers, number) && map_put(&plane->peers, number, peer);
    plane_unlock(plane);
    if (!is_new)
        free(peer);
    return is_new;
}

bool plane_remove_peer(struct plane *plane, uint64_t number) {
    plane_lock(plane);
    struct peer *peer = map_get(&plane->peers, number);
    bool is_unused = peer && !peer->sessions && !peer->is_member;
    if (is_unused) {
        tags_drop_owner(&plane->relayed, &peer->tags);
        map_remove(&plane->peers, number);
    }
    plane_unlock(plane);
    if (is_unused)
        free(peer);
    return is_unused;
}

void plane_reset_peer(struct plane *plane, uint64_t number) {
    plane_lock(plane);
    struct peer *peer = map_get(&plane->peers, number);
    if (peer) {
        tags_drop_owner(&plane->relayed, &peer->tags);
        peer->in = peer->out = (struct traffic){0};
        memset(peer->drops, 0, sizeof peer->drops);
        peer->limit.octets_per_s = 0;
    }
    plane_unlock(plane);
}

void plane_set_limit(struct plane *plane, uint64_t number, uint64_t octets_per_s, bool is_exempt, const uint64_t *tags, size_t count) {
    plane_lock(plane);
    struct peer *peer = map_get(&plane->peers, number);
    if (peer) {
        struct limit *limit = &peer->limit;
        if (limit->octets_per_s != octets_per_s) {
            limit->tokens = LIMIT_BURST_OCTETS * NS_PER_S;
            limit->filled_ns = INT64_MIN;
        }
        limit->octets_per_s = octets_per_s;
        limit->is_exempt = is_exempt;
        limit->mark = limit->mark == UINT32_MAX ? 1 : limit->mark + 1;
        for (size_t i = 0; octets_per_s && i < count; i++)
            tags_touch(&plane->relayed, &peer->tags, tags[i])->mark = limit->mark;
    }
    plane_unlock(plane);
}

bool plane_set_members(struct plane *plane, const struct member *members, size_t count) {
    bool is_complete = true;
    plane_lock(plane);
    for (size_t i = 0; i < plane->members.capacity; i++) {
        struct peer *peer = plane->members.entries[i].value;
        if (peer)
            peer->is_member = false;
    }
    map_clear(&plane->members);
    for (size_t i = 0; i < count && is_complete; i++) {
        struct peer *peer = map_get(&plane->peers, members[i].number);
        if (!peer)
            continue;
        peer->is_upward = members[i].is_upward;
        is_complete = map_put(&plane->members, peer->locator, peer);
        peer->is_member = is_complete;
    }
    plane_unlock(plane);
    return is_complete;
}

/* --- sessions --- */

static void free_session(struct session *session) {
    wipe(session);
    free(session);
}

void session_release(struct session *session) {
    if (atomic_fetch_sub(&session->holders, 1) == 1)
        free_session(session);
}

static struct session *make_session(const struct session_secrets *secrets) {
    struct session *session = calloc(1, sizeof *session);
    if (!session)
        return NULL;
    for (int purpose = 0; purpose < PURPOSES; purpose++) {
        struct keys *keys = &session->keys[purpose];
        if (!cipher_init(&keys->sealing, secrets->seal[purpose], true) || !cipher_init(&keys->opening, secrets->open[purpose], false)) {
            free_session(session);
            return NULL;
        }
    }
    return session;
}

struct session *plane_add_session(struct plane *plane, uint32_t local_index, uint32_t remote_index, uint64_t peer_number,
                                  const struct address *address, const struct session_secrets *secrets, bool is_confirmed) {
    struct session *session = make_session(secrets);
    if (!session)
        return NULL;
    atomic_init(&session->holders, 2); /* the table and the caller */
    session->local_index = local_index;
    session->remote_index = remote_index;
    session->has_address = address != NULL;
    if (address)
        session->address = *address;
    session->is_confirmed = is_confirmed;
    plane_lock(plane);
    struct peer *peer = map_get(&plane->peers, peer_number);
    bool is_possible = peer && plane->sessions.count < SESSIONS_IN_TABLE_MAX && !map_get(&plane->sessions, local_index) &&
                       map_put(&plane->sessions, local_index, session);
    if (is_possible) {
        session->peer = peer;
        session->is_installed = true;
        peer->sessions++;
    }
    plane_unlock(plane);
    if (is_possible)
        return session;
    free_session(session);
    return NULL;
}

void plane_remove_session(struct plane *plane, struct session *session) {
    plane_lock(plane);
    if (session->is_installed)
        uninstall(plane, session);
    plane_unlock(plane);
}

bool plane_set_current(struct plane *plane, uint64_t number, struct session *session) {
    plane_lock(plane);
    struct peer *peer = map_get(&plane->peers, number);
    bool is_possible = peer && (!session || (session->is_installed && session->peer == peer));
    if (is_possible)
        peer->current = session;
    plane_unlock(plane);
    return is_possible;
}

bool keys_take_counter(struct keys *keys, uint64_t *counter) {
    *counter = atomic_fetch_add_explicit(&keys->sealed, 1, memory_order_relaxed);
    if (*counter < COUNTER_MAX)
        return true;
    atomic_store_explicit(&keys->sealed, COUNTER_MAX, memory_order_relaxed); /* so that it cannot run on to 0 */
    return false;
}
