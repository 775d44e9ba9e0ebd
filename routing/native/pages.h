/* Large blocks of zeroed memory straight from the kernel: untouched pages cost nothing, and freeing gives all of them back at once, which
 * malloc does not promise for blocks of some megabytes (its threshold for that rises with what it saw).
 *
 * Under AddressSanitizer they come from the heap, so that accesses beyond their ends are seen.
 */
#ifndef SRWAN_PAGES_H
#define SRWAN_PAGES_H

#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PAGES_FROM_HEAP 1
#endif
#endif

/* NULL if memory is short. */
static inline void *pages_new(size_t bytes) {
#ifdef PAGES_FROM_HEAP
    return calloc(1, bytes);
#else
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
#endif
}

/* `bytes` as they were asked for. NULL is fine. */
static inline void pages_free(void *pages, size_t bytes) {
#ifdef PAGES_FROM_HEAP
    (void)bytes;
    free(pages);
#else
    if (pages)
        munmap(pages, bytes);
#endif
}

#endif
