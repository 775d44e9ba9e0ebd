/* AES-256-GCM under one key, through OpenSSL's libcrypto. The key schedule is kept ready; per packet only the nonce is set.
 *
 * A nonce is four zero bytes and a counter as u64 little endian, as in overlay/session_keys.py. Who seals takes each counter once.
 * A cipher is not safe to use from two threads at once; the lock of its plane guards it.
 */
#ifndef SRWAN_CIPHER_H
#define SRWAN_CIPHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KEY_BYTES = 32 };

struct cipher {
    void *context; /* EVP_CIPHER_CTX */
};

/* Keep a key ready for sealing or for opening. False if libcrypto refused, and then nothing is to be freed. */
bool cipher_init(struct cipher *cipher, const uint8_t key[KEY_BYTES], bool is_sealing);

/* Overwrite the key and free. Fine for a cipher of zeros. */
void cipher_free(struct cipher *cipher);

/* Write `length` bytes of ciphertext and the tag to `out`, which may be `in`. False if libcrypto failed; `out` is worthless then. */
bool cipher_seal(struct cipher *cipher, uint64_t counter, const uint8_t *associated, size_t associated_bytes, const uint8_t *in,
                 size_t length, uint8_t *out);

/* Open `length` bytes that end in a tag, and write `length` - TAG_BYTES bytes to `out`. False if the tag is wrong or `length` too small;
 * `out` is worthless then. */
bool cipher_open(struct cipher *cipher, uint64_t counter, const uint8_t *associated, size_t associated_bytes, const uint8_t *in,
                 size_t length, uint8_t *out);

#endif
