/* The shortest relay there can be: one datagram in, the same one out. A program; `bare_loop.py` does the same in Python.
 *
 *     bare_loop LISTEN_IPV4 LISTEN_PORT TO_IPV4 TO_PORT
 *
 * Prints {"kind": "up"} once it is bound and runs until it is killed.
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static int read_address(char **words, struct sockaddr_in *address) {
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[1]))};
    return inet_pton(AF_INET, words[0], &address->sin_addr) == 1;
}

int main(int count, char **words) {
    struct sockaddr_in listen_at, to;
    char data[2048];
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (count != 5 || !read_address(words + 1, &listen_at) || !read_address(words + 3, &to))
        return 2;
    if (fd < 0 || bind(fd, (struct sockaddr *)&listen_at, sizeof listen_at) != 0)
        return 1;
    puts("{\"kind\": \"up\"}");
    fflush(stdout);
    for (;;) {
        ssize_t length = recv(fd, data, sizeof data, 0);
        if (length >= 0)
            sendto(fd, data, (size_t)length, 0, (struct sockaddr *)&to, sizeof to);
    }
}
