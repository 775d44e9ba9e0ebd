/* Lets every counter of a key through once, in any order, as long as it is less than WINDOW_BITS below the highest.
 *
 * The ring of words of RFC 6479: a power of two of words, more than the window needs, so that moving ahead clears whole words and no bit
 * is ever shifted. It decides exactly as overlay/replay.py does.
 *
 * Invariant: a counter is accepted at most once in the life of a window. Ask `window_is_fresh` before authentication, accept after it.
 */
#ifndef SRWAN_WINDOW_H
#define SRWAN_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

enum {
    WINDOW_BITS = 2048,
    WINDOW_WORDS = 64 /* a power of two above WINDOW_BITS / 64, so that the oldest word in use is never the one being cleared */
};

struct window {
    uint64_t highest;
    bool has_any; /* false: nothing was accepted yet, and `highest` means nothing */
    uint64_t words[WINDOW_WORDS];
};

static inline bool window_has_seen(const struct window *window, uint64_t counter) {
    return window->words[counter / 64 % WINDOW_WORDS] >> (counter % 64) & 1;
}

/* Whether `window_accept` would take it. */
static inline bool window_is_fresh(const struct window *window, uint64_t counter) {
    if (!window->has_any || counter > window->highest)
        return true;
    return window->highest - counter < WINDOW_BITS && !window_has_seen(window, counter);
}

/* Mark an authenticated counter as seen; false, and nothing changed, if it is not fresh. */
static inline bool window_accept(struct window *window, uint64_t counter) {
    if (!window_is_fresh(window, counter))
        return false;
    if (!window->has_any) {
        window->has_any = true;
        window->highest = counter;
    } else if (counter > window->highest) {
        uint64_t ahead = counter / 64 - window->highest / 64;
        if (ahead > WINDOW_WORDS)
            ahead = WINDOW_WORDS;
        for (uint64_t i = 0; i < ahead; i++)
            window->words[(counter / 64 - i) % WINDOW_WORDS] = 0;
        window->highest = counter;
    }
    window->words[counter / 64 % WINDOW_WORDS] |= UINT64_C(1) << counter % 64;
    return true;
}

#endif
