/* Reading and writing the TUN; see gateway.h.
 *
 * One read brings one packet, which may be a large one (virtio_net_hdr); what is sealed of several reads leaves together.
 */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "plane.h"
#include "trains.h"

enum { READS_PER_TURN = 256, PIECES_PER_BURST = 64 };

static int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void flush(struct plane *plane, struct sealing_space *space, struct trains *trains) {
    trains_send(plane, trains);
    space->count = 0;
}

/* Give all pieces from `piece` on to Python. */
static void pass_up(struct plane *plane, const struct segments *segments, unsigned piece) {
    uint8_t packet[TUN_BUFFER_BYTES];
    plane_lock(plane);
    for (; piece < segments->count; piece++)
        gateway_pass_up(plane, packet, segments_write(segments, piece, packet));
    plane_unlock(plane);
    plane_signal(plane);
}

/* Send the pieces of what was read. */
static void send_pieces(struct plane *plane, const struct segments *segments, struct sealing_space *space, struct trains *trains) {
    unsigned piece = 0, count_max = space->count_max;
    int64_t now_ns = monotonic_ns();
    while (piece < segments->count) {
        if (space->count == count_max || trains_is_full(trains))
            flush(plane, space, trains);
        space->count_max = space->count + PIECES_PER_BURST < count_max ? space->count + PIECES_PER_BURST : count_max;
        plane_lock(plane); /* for a burst */
        enum gateway_verdict verdict = gateway_send(plane, segments, &piece, now_ns, space, trains);
        plane_unlock(plane);
        space->count_max = count_max;
        if (verdict == GATEWAY_UP) {
            pass_up(plane, segments, piece);
            return;
        }
    }
}

static void end_reading(struct plane *plane, int error) {
    plane_lock(plane);
    plane->gateway.gone_errno = error;
    plane_unlock(plane);
    plane_signal(plane);
}

bool tun_serve(struct plane *plane, struct sealing_space *space, uint8_t *buffer, struct trains *trains) {
    int turn = 0;
    for (; turn < READS_PER_TURN; turn++) {
        ssize_t length = read(plane->gateway.tun_fd, buffer, TUN_BUFFER_BYTES);
        if (length < 0 && errno == EINTR)
            continue;
        if (length < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                end_reading(plane, errno);
            break;
        }
        struct virtio_net_hdr header;
        struct segments segments;
        if ((size_t)length >= sizeof header)
            memcpy(&header, buffer, sizeof header);
        if ((size_t)length < sizeof header ||
            !segments_read(&header, buffer + sizeof header, (size_t)length - sizeof header, &segments)) {
            plane_lock(plane);
            plane->gateway.bad_headers++;
            plane_unlock(plane);
            continue;
        }
        send_pieces(plane, &segments, space, trains);
    }
    flush(plane, space, trains);
    return turn == READS_PER_TURN;
}

void tun_write(struct plane *plane) {
    struct gateway *gateway = &plane->gateway;
    struct frames *frames = gateway->frames;
    for (unsigned i = 0; i < frames->count; i++) {
        struct frame *frame = &frames->frame[i];
        frame_finish(frame);
        ssize_t written;
        do
            written = writev(gateway->tun_fd, frame->piece, (int)frame->pieces + 1);
        while (written < 0 && errno == EINTR);
        if (written >= 0)
            continue;
        plane_lock(plane);
        gateway->write_errors[errno < WRITE_ERRNO_MAX ? errno : 0] += frame->pieces;
        plane_unlock(plane);
    }
    frames_clear(frames);
}
