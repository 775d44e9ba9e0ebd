/* The thread of a plane: datagrams in, packets out; see plane.h.
 *
 * It sleeps in poll, and once awake reads without asking poll again until a socket held one message or none: with traffic a batch costs
 * one call in and one call out. A batch is up to BATCH_MESSAGES messages, each a datagram or a train of datagrams of one length but the
 * last.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "pages.h"
#include "plane.h"
#include "trains.h"

enum {
    BATCH_MESSAGES = 64,
    MESSAGE_BYTES = 65536, /* a whole train */
    MESSAGE_STRIDE = MESSAGE_BYTES + 4096 + 192, /* no multiple of a cache way, so that the heads of messages do not evict each other */
    BUFFERS_BYTES = BATCH_MESSAGES * MESSAGE_STRIDE,
    BURST_PACKETS = 64,    /* between two releases of the lock: 40 us */
    SEALED_PACKETS = 256,  /* of the TUN that leave together */
    SEALED_STRIDE = PACKET_BYTES_MAX + 64,
    BATCHES_PER_TURN = 16, /* of one socket before the others have their turn */
    POLL_AGAIN_NS = 1000000,
    STACK_BYTES = 256 * 1024
};

struct worker {
    struct trains *trains;
    uint8_t *buffers;
    uint8_t *tun_buffer, *sealed; /* made when there is a TUN */
    struct mmsghdr header[BATCH_MESSAGES];
    struct iovec piece[BATCH_MESSAGES];
    struct address source[BATCH_MESSAGES];
    union {
        char bytes[CMSG_SPACE(sizeof(struct timespec)) + CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control[BATCH_MESSAGES];
    unsigned written; /* headers that the kernel wrote into since they were made, at most */
};

/* A message that was received: a train of datagrams. */
struct arrival {
    uint8_t *at;
    size_t left;
    size_t datagram_bytes; /* of each but the last */
    int64_t rx_ns;
    const struct address *source;
};

static int64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* --- signals to Python --- */

void plane_signal(struct plane *plane) {
    uint64_t one = 1;
    if (plane->news_fd >= 0 && !atomic_exchange(&plane->is_signalled, true))
        (void)!write(plane->news_fd, &one, sizeof one); /* cannot fail but by overflow, and then it is signalled */
}

void plane_clear_news(struct plane *plane) {
    uint64_t count;
    if (plane->news_fd < 0)
        return;
    (void)!read(plane->news_fd, &count, sizeof count);
    atomic_store(&plane->is_signalled, false);
}

void plane_refill_notes(struct plane *plane) {
    int64_t now = clock_ns(CLOCK_MONOTONIC);
    plane_lock(plane);
    if (now - plane->notes_refilled_ns >= NOTES_AGAIN_NS) {
        plane->notes_refilled_ns = now;
        plane->drop_notes_left = DROP_NOTES_MAX;
    }
    plane_unlock(plane);
}

/* --- receiving --- */

/* Make headers as the kernel wants to find them. */
static void prepare(struct worker *worker, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        worker->header[i].msg_hdr = (struct msghdr){
            .msg_name = &worker->source[i],
            .msg_namelen = sizeof worker->source[i],
            .msg_iov = &worker->piece[i],
            .msg_iovlen = 1,
            .msg_control = worker->control[i].bytes,
            .msg_controllen = sizeof worker->control[i].bytes,
        };
    }
}

static int receive_batch(struct worker *worker, int fd) {
    prepare(worker, worker->written); /* all of them each time would cost a lone packet more than its ciphers */
    int count = recvmmsg(fd, worker->header, BATCH_MESSAGES, MSG_DONTWAIT, NULL);
    worker->written = count < 0 ? 1 : count < BATCH_MESSAGES ? (unsigned)count + 1 : BATCH_MESSAGES;
    return count;
}

static struct arrival read_arrival(struct worker *worker, int i) {
    struct msghdr *header = &worker->header[i].msg_hdr;
    struct arrival arrival = {
        .at = worker->piece[i].iov_base,
        .left = worker->header[i].msg_len,
        .datagram_bytes = worker->header[i].msg_len,
        .source = &worker->source[i],
    };
    for (struct cmsghdr *control = CMSG_FIRSTHDR(header); control; control = CMSG_NXTHDR(header, control)) {
        if (control->cmsg_level == SOL_SOCKET && control->cmsg_type == SO_TIMESTAMPNS) {
            struct timespec stamp;
            memcpy(&stamp, CMSG_DATA(control), sizeof stamp);
            arrival.rx_ns = (int64_t)stamp.tv_sec * 1000000000 + stamp.tv_nsec;
        } else if (control->cmsg_level == SOL_UDP && control->cmsg_type == UDP_GRO) {
            int segment;
            memcpy(&segment, CMSG_DATA(control), sizeof segment);
            if (segment > 0 && (size_t)segment < arrival.left)
                arrival.datagram_bytes = (size_t)segment;
        }
    }
    if (!arrival.rx_ns)
        arrival.rx_ns = clock_ns(CLOCK_REALTIME);
    return arrival;
}

/* --- one batch --- */

/* Deal with the next datagram of an arrival. The caller holds the lock. */
static void take_datagram(struct plane *plane, struct trains *trains, struct arrival *arrival) {
    uint8_t *data = arrival->at;
    size_t length = arrival->left < arrival->datagram_bytes ? arrival->left : arrival->datagram_bytes;
    struct session *next = NULL;
    enum verdict verdict = VERDICT_UP;
    arrival->at += length;
    arrival->left -= length;
    if (length && data[0] >> 4 == PLANE_DATA)
        verdict = plane_step(plane, data, length, arrival->source, arrival->rx_ns, &next);
    if (verdict == VERDICT_FORWARD)
        trains_add(plane, trains, next, data, length);
    else if (verdict == VERDICT_UP)
        plane_pass_up(plane, data, length, arrival->source, arrival->rx_ns);
}

/* Rises when something is put into a ring. */
static uint64_t bytes_put(const struct plane *plane) {
    return atomic_load_explicit(&plane->datagrams.written, memory_order_relaxed) +
           atomic_load_explicit(&plane->opened.written, memory_order_relaxed);
}

/* Whether something must leave before more is taken. */
static bool is_full(const struct plane *plane, const struct trains *trains) {
    return trains_is_full(trains) || (plane->gateway.frames && frames_is_full(plane->gateway.frames));
}

static void send_all(struct plane *plane, struct trains *trains) {
    trains_send(plane, trains);
    if (plane->gateway.frames)
        tun_write(plane);
}

static void serve_batch(struct plane *plane, struct worker *worker, int count) {
    struct trains *trains = worker->trains;
    unsigned burst = 0;
    plane_lock(plane);
    uint64_t put_before = bytes_put(plane);
    for (int i = 0; i < count; i++) {
        if (worker->header[i].msg_hdr.msg_flags & MSG_TRUNC) {
            plane->truncated++;
            continue;
        }
        struct arrival arrival = read_arrival(worker, i);
        do { /* also once for a datagram of 0 bytes */
            take_datagram(plane, trains, &arrival);
            if (++burst < BURST_PACKETS && !is_full(plane, trains))
                continue;
            burst = 0;
            plane_unlock(plane);
            if (is_full(plane, trains))
                send_all(plane, trains);
            plane_lock(plane);
        } while (arrival.left);
    }
    bool has_news = bytes_put(plane) != put_before;
    plane_unlock(plane);
    send_all(plane, trains);
    if (has_news)
        plane_signal(plane);
}

/* Take what waits at a socket, up to a turn's worth. Returns whether something may be left and poll need not wait. */
static bool serve_socket(struct plane *plane, struct worker *worker, int fd) {
    for (int turn = 0; turn < BATCHES_PER_TURN; turn++) {
        int count = receive_batch(worker, fd);
        if (count > 0) {
            serve_batch(plane, worker, count);
            if (count == 1) /* mostly the only one: poll tells as cheaply as another look */
                return false;
            continue;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return false;
        if (errno != EINTR) { /* an ICMP error for something sent before; reading it cleared it */
            plane_lock(plane);
            plane->receive_errors[errno > 0 && errno < ERRNO_MAX ? errno : 0]++;
            plane_unlock(plane);
        }
    }
    return true;
}

static void *run(void *argument) {
    struct plane *plane = argument;
    struct pollfd wanted[SOCKETS_MAX + 2];
    struct worker *worker = plane->worker;
    struct sealing_space space = {worker->sealed, SEALED_STRIDE, 0, SEALED_PACKETS};
    unsigned count = plane->sockets_count;
    bool is_busy = false;
    wanted[count] = (struct pollfd){.fd = plane->stop_fd, .events = POLLIN};
    for (unsigned i = 0; i < count; i++)
        wanted[i] = (struct pollfd){.fd = plane->sockets[i], .events = POLLIN};
    wanted[count + 1] = (struct pollfd){.fd = plane->gateway.tun_fd, .events = POLLIN}; /* -1 is ignored */
    for (;;) {
        if (poll(wanted, count + 2, is_busy ? 0 : -1) < 0) { /* the kernel is out of memory: try again, less often */
            nanosleep(&(struct timespec){.tv_nsec = POLL_AGAIN_NS}, NULL);
            continue;
        }
        if (wanted[count].revents)
            break;
        is_busy = false;
        for (unsigned i = 0; i < count; i++)
            if (wanted[i].revents)
                is_busy |= serve_socket(plane, worker, wanted[i].fd);
        if (wanted[count + 1].revents) {
            is_busy |= tun_serve(plane, &space, worker->tun_buffer, worker->trains);
            if (plane->gateway.gone_errno) /* only this thread sets it */
                wanted[count + 1].fd = -1;
        }
    }
    return NULL;
}

/* --- life --- */

static void free_worker(struct worker *worker) {
    if (!worker)
        return;
    trains_free(worker->trains);
    pages_free(worker->buffers, BUFFERS_BYTES);
    pages_free(worker->tun_buffer, TUN_BUFFER_BYTES);
    pages_free(worker->sealed, SEALED_PACKETS * SEALED_STRIDE);
    free(worker);
}

static struct worker *new_worker(void) {
    struct worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return NULL;
    worker->trains = trains_new();
    worker->buffers = pages_new(BUFFERS_BYTES); /* touched as far as messages are long */
    if (!worker->trains || !worker->buffers) {
        free_worker(worker);
        return NULL;
    }
    for (int i = 0; i < BATCH_MESSAGES; i++)
        worker->piece[i] = (struct iovec){worker->buffers + (size_t)i * MESSAGE_STRIDE, MESSAGE_BYTES};
    prepare(worker, BATCH_MESSAGES);
    return worker;
}

static void close_all(struct plane *plane) {
    for (unsigned i = 0; i < plane->sockets_count; i++)
        close(plane->sockets[i]);
    plane->sockets_count = 0;
    plane->out_ipv4 = plane->out_ipv6 = -1;
    if (plane->stop_fd >= 0)
        close(plane->stop_fd);
    if (plane->news_fd >= 0)
        close(plane->news_fd);
    plane->stop_fd = plane->news_fd = -1;
    free_worker(plane->worker);
    plane->worker = NULL;
}

static void enable_offload(struct plane *plane, int fd) {
    int one = 1, segment = 0;
    socklen_t size = sizeof segment;
    plane->has_gro &= setsockopt(fd, SOL_UDP, UDP_GRO, &one, sizeof one) == 0;
    if (getsockopt(fd, SOL_UDP, UDP_SEGMENT, &segment, &size) != 0)
        atomic_store(&plane->has_gso, false);
}

int plane_open_sockets(struct plane *plane, const int *sockets, const int *families, unsigned count) {
    if (plane->worker || count < 1 || count > SOCKETS_MAX)
        return EINVAL;
    plane->worker = new_worker();
    if (!plane->worker)
        return ENOMEM;
    plane->news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    plane->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    plane->has_gro = true;
    atomic_store(&plane->has_gso, true);
    for (unsigned i = 0; i < count && plane->news_fd >= 0 && plane->stop_fd >= 0; i++) {
        int fd = fcntl(sockets[i], F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            break;
        plane->sockets[plane->sockets_count] = fd;
        plane->families[plane->sockets_count++] = families[i];
        int *out = families[i] == AF_INET6 ? &plane->out_ipv6 : &plane->out_ipv4;
        if (*out < 0)
            *out = fd;
        enable_offload(plane, fd);
    }
    if (plane->sockets_count == count)
        return 0;
    int error = errno;
    close_all(plane);
    return error;
}

int plane_start(struct plane *plane) {
    if (!plane->worker || plane->is_running)
        return EINVAL;
    pthread_attr_t attributes;
    sigset_t all, before;
    int error = pthread_attr_init(&attributes);
    if (error)
        return error;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all); /* signals are for Python's threads: the new one inherits that it takes none */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&plane->thread, &attributes, run, plane);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    plane->is_running = error == 0;
    return error;
}

/* End the thread and wait for it. */
static void halt(struct plane *plane) {
    uint64_t count = 1;
    if (!plane->is_running)
        return;
    (void)!write(plane->stop_fd, &count, sizeof count);
    pthread_join(plane->thread, NULL);
    (void)!read(plane->stop_fd, &count, sizeof count); /* so that it may start again */
    plane->is_running = false;
}

void plane_stop(struct plane *plane) {
    halt(plane);
    plane_close_tun(plane);
    close_all(plane);
}

/* --- the TUN --- */

static int attach_tun(struct plane *plane, int descriptor, bool has_udp) {
    struct worker *worker = plane->worker;
    struct gateway *gateway = &plane->gateway;
    if (!worker->tun_buffer)
        worker->tun_buffer = pages_new(TUN_BUFFER_BYTES);
    if (!worker->sealed)
        worker->sealed = pages_new(SEALED_PACKETS * SEALED_STRIDE);
    gateway->frames = frames_new();
    if (!worker->tun_buffer || !worker->sealed || !gateway->frames)
        return ENOMEM;
    gateway->frames->has_udp = has_udp;
    gateway->gone_errno = 0;
    gateway->tun_fd = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    return gateway->tun_fd < 0 ? errno : 0;
}

int plane_open_tun(struct plane *plane, int descriptor, bool has_udp) {
    if (!plane->worker || plane->gateway.frames)
        return EINVAL;
    halt(plane); /* packets wait in the sockets meanwhile */
    int error = attach_tun(plane, descriptor, has_udp);
    int start_error = plane_start(plane);
    if (error || start_error)
        plane_close_tun(plane);
    return error ? error : start_error;
}

void plane_close_tun(struct plane *plane) {
    struct gateway *gateway = &plane->gateway;
    bool was_running = plane->is_running;
    if (!gateway->frames)
        return;
    halt(plane);
    if (gateway->tun_fd >= 0)
        close(gateway->tun_fd);
    gateway->tun_fd = -1;
    frames_free(gateway->frames);
    gateway->frames = NULL;
    if (was_running)
        plane_start(plane);
}
