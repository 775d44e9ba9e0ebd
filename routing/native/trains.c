/* Grouping packets for the way out and sending them; see trains.h. */
#include "trains.h"

#include <errno.h>
#include <poll.h>

#include "pages.h"
#include "plane.h"

struct trains *trains_new(void) {
    return pages_new(sizeof(struct trains));
}

void trains_free(struct trains *trains) { pages_free(trains, sizeof *trains); }

static bool fits(const struct train *train, const struct address *destination, size_t length) {
    return !train->is_closed && train->packets < TRAIN_PACKETS && length <= train->packet_bytes &&
           train->bytes + length <= TRAIN_BYTES_MAX && address_equals(&train->destination, destination);
}

static void append(struct train *train, uint8_t *packet, size_t length) {
    struct iovec *last = train->pieces ? &train->piece[train->pieces - 1] : NULL;
    if (last && (uint8_t *)last->iov_base + last->iov_len == packet)
        last->iov_len += length;
    else
        train->piece[train->pieces++] = (struct iovec){packet, length};
    train->packets++;
    train->bytes += (uint32_t)length;
    train->is_closed = length < train->packet_bytes;
}

void trains_add(struct plane *plane, struct trains *trains, struct session *next, uint8_t *packet, size_t length) {
    if (trains->count == 0)
        trains->serial = ++plane->train_serial;
    if (next->train_serial == trains->serial && atomic_load_explicit(&plane->has_gso, memory_order_relaxed)) {
        struct train *open = &trains->train[next->train];
        if (fits(open, &next->address, length)) {
            append(open, packet, length);
            return;
        }
    }
    struct train *train = &trains->train[trains->count];
    train->destination = next->address;
    train->packet_bytes = (uint16_t)length;
    train->packets = train->pieces = 0;
    train->bytes = 0;
    append(train, packet, length);
    next->train_serial = trains->serial;
    next->train = trains->count++;
}

static int socket_for(const struct plane *plane, const struct train *train) {
    return train->destination.any.sa_family == AF_INET6 ? plane->out_ipv6 : plane->out_ipv4;
}

static void write_header(struct trains *trains, unsigned i) {
    struct train *train = &trains->train[i];
    struct msghdr *header = &trains->header[i].msg_hdr;
    *header = (struct msghdr){
        .msg_name = &train->destination,
        .msg_namelen = address_bytes(&train->destination),
        .msg_iov = train->piece,
        .msg_iovlen = train->pieces,
    };
    if (train->packets == 1)
        return;
    header->msg_control = trains->control[i].bytes;
    header->msg_controllen = sizeof trains->control[i].bytes;
    struct cmsghdr *control = CMSG_FIRSTHDR(header);
    control->cmsg_level = SOL_UDP;
    control->cmsg_type = UDP_SEGMENT;
    control->cmsg_len = CMSG_LEN(sizeof train->packet_bytes);
    memcpy(CMSG_DATA(control), &train->packet_bytes, sizeof train->packet_bytes);
}

static void count_error(struct plane *plane, int error, uint64_t packets) {
    plane_lock(plane);
    plane->send_errors[error > 0 && error < ERRNO_MAX ? error : 0] += packets;
    plane_unlock(plane);
}

/* Send a train that the kernel refused to cut packet by packet. Returns how many it took. */
static uint64_t send_singly(struct plane *plane, int fd, const struct train *train) {
    uint64_t taken = 0;
    for (unsigned i = 0; i < train->pieces; i++) {
        const uint8_t *at = train->piece[i].iov_base;
        for (size_t left = train->piece[i].iov_len; left;) {
            size_t length = left < train->packet_bytes ? left : train->packet_bytes;
            if (sendto(fd, at, length, MSG_DONTWAIT, &train->destination.any, address_bytes(&train->destination)) >= 0)
                taken++;
            else
                count_error(plane, errno, 1);
            at += length;
            left -= length;
        }
    }
    return taken;
}

/* Wait a little for room in the send buffer. */
static bool wait_writable(int fd) {
    struct pollfd wanted = {.fd = fd, .events = POLLOUT};
    return poll(&wanted, 1, SEND_WAIT_MS) > 0 && wanted.revents & POLLOUT;
}

/* Deal with the refusal of one train. Returns whether to try it again; adds to *taken what went out otherwise. */
static bool retry(struct plane *plane, int fd, const struct train *train, int error, uint64_t *taken) {
    if (error == EINTR)
        return true;
    if (error == EAGAIN && wait_writable(fd))
        return true;
    if (train->packets > 1 && (error == EIO || error == EINVAL || error == EMSGSIZE)) {
        if (error == EIO) /* the device cannot checksum: it will never take a train (udp_send_skb) */
            atomic_store_explicit(&plane->has_gso, false, memory_order_relaxed);
        *taken += send_singly(plane, fd, train);
        return false;
    }
    count_error(plane, error, train->packets);
    return false;
}

/* Send the trains from `i` on as far as they leave by one socket, at least one; return the first one left. */
static unsigned send_run(struct plane *plane, struct trains *trains, unsigned i, uint64_t *taken) {
    int fd = socket_for(plane, &trains->train[i]);
    unsigned end = i + 1;
    if (fd < 0) {
        count_error(plane, EAFNOSUPPORT, trains->train[i].packets);
        return end;
    }
    while (end < trains->count && socket_for(plane, &trains->train[end]) == fd)
        end++;
    while (i < end) {
        int sent = sendmmsg(fd, &trains->header[i], end - i, MSG_DONTWAIT);
        if (sent > 0) {
            for (unsigned last = i + (unsigned)sent; i < last; i++)
                *taken += trains->train[i].packets;
        } else if (!retry(plane, fd, &trains->train[i], errno, taken)) {
            i++;
        }
    }
    return end;
}

uint64_t trains_send(struct plane *plane, struct trains *trains) {
    uint64_t taken = 0;
    for (unsigned i = 0; i < trains->count; i++)
        write_header(trains, i);
    for (unsigned i = 0; i < trains->count;)
        i = send_run(plane, trains, i, &taken);
    trains->count = 0;
    return taken;
}
