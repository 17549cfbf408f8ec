#include "io/sha256.h"

#include "base/check.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sha256 {
    EVP_MD_CTX *context;
};

struct sha256 *sha256_new(void)
{
    struct sha256 *hash = check_malloc(sizeof *hash);
    hash->context = EVP_MD_CTX_new();
    CHECK(hash->context && EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL) == 1, "OpenSSL SHA-256");
    return hash;
}

void sha256_add(struct sha256 *hash, const void *data, size_t bytes)
{
    CHECK(EVP_DigestUpdate(hash->context, data, bytes) == 1, "OpenSSL SHA-256, %zu bytes", bytes);
}

void sha256_finish(struct sha256 *hash, char hex[SHA256_HEX_SIZE])
{
    unsigned char digest[32];
    CHECK(EVP_DigestFinal_ex(hash->context, digest, NULL) == 1, "OpenSSL SHA-256");
    for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    sha256_free(hash);
}

void sha256_free(struct sha256 *hash)
{
    if (!hash) return;
    EVP_MD_CTX_free(hash->context);
    free(hash);
}

void sha256_bytes(const void *data, size_t bytes, char hex[SHA256_HEX_SIZE])
{
    struct sha256 *hash = sha256_new();
    sha256_add(hash, data, bytes);
    sha256_finish(hash, hex);
}

uint64_t sha256_number(const void *data, size_t bytes)
{
    char hex[SHA256_HEX_SIZE];
    sha256_bytes(data, bytes, hex);
    hex[16] = '\0';
    return strtoull(hex, NULL, 16);
}

bool sha256_file(const char *path, char hex[SHA256_HEX_SIZE], struct fault *fault)
{
    FILE *stream = fopen(path, "rb");
    if (!stream) return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s", path, strerror(errno));
    enum { BLOCK = 1 << 20 };
    char *block = check_malloc(BLOCK);
    struct sha256 *hash = sha256_new();
    size_t got;
    while ((got = fread(block, 1, BLOCK, stream)) > 0) sha256_add(hash, block, got);
    bool whole = !ferror(stream);
    int error = errno;
    sha256_finish(hash, hex);
    free(block);
    fclose(stream);
    return whole || fault_raise(fault, EXIT_CODE_INPUT, "%s: %s", path, strerror(error));
}
