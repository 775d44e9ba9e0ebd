/* AES-256-GCM through the EVP interface; see cipher.h. */
#include "cipher.h"

#include <openssl/evp.h>

#include "wire.h"

enum { NONCE_BYTES = 12 };

bool cipher_init(struct cipher *cipher, const uint8_t key[KEY_BYTES], bool is_sealing) {
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    /* The default nonce of this cipher has the 12 bytes that we use. */
    if (!context || EVP_CipherInit_ex(context, EVP_aes_256_gcm(), NULL, key, NULL, is_sealing) != 1) {
        EVP_CIPHER_CTX_free(context);
        return false;
    }
    cipher->context = context;
    return true;
}

void cipher_free(struct cipher *cipher) {
    EVP_CIPHER_CTX_free(cipher->context); /* which cleanses the key schedule */
    cipher->context = NULL;
}

static void write_nonce(uint8_t nonce[NONCE_BYTES], uint64_t counter) {
    memset(nonce, 0, 4);
    store_u64(nonce + 4, counter);
}

bool cipher_seal(struct cipher *cipher, uint64_t counter, const uint8_t *associated, size_t associated_bytes, const uint8_t *in,
                 size_t length, uint8_t *out) {
    EVP_CIPHER_CTX *context = cipher->context;
    uint8_t nonce[NONCE_BYTES];
    int written = 0, rest = 0;
    write_nonce(nonce, counter);
    return EVP_EncryptInit_ex(context, NULL, NULL, NULL, nonce) == 1 &&
           EVP_EncryptUpdate(context, NULL, &rest, associated, (int)associated_bytes) == 1 &&
           EVP_EncryptUpdate(context, out, &written, in, (int)length) == 1 && EVP_EncryptFinal_ex(context, out + written, &rest) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, out + length) == 1;
}

bool cipher_open(struct cipher *cipher, uint64_t counter, const uint8_t *associated, size_t associated_bytes, const uint8_t *in,
                 size_t length, uint8_t *out) {
    EVP_CIPHER_CTX *context = cipher->context;
    uint8_t nonce[NONCE_BYTES], tag[TAG_BYTES];
    int written = 0, rest = 0;
    if (length < TAG_BYTES)
        return false;
    size_t sealed = length - TAG_BYTES;
    memcpy(tag, in + sealed, TAG_BYTES); /* the interface wants a tag that it could write to */
    write_nonce(nonce, counter);
    return EVP_DecryptInit_ex(context, NULL, NULL, NULL, nonce) == 1 &&
           EVP_DecryptUpdate(context, NULL, &rest, associated, (int)associated_bytes) == 1 &&
           EVP_DecryptUpdate(context, out, &written, in, (int)sealed) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, tag) == 1 &&
           EVP_DecryptFinal_ex(context, out + written, &rest) == 1;
}
