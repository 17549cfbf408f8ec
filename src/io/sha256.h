/* SHA-256 (OpenSSL): content ids of our files, hashes of foreign ones. */
#ifndef IO_SHA256_H
#define IO_SHA256_H

#include "base/fault.h"

#include <stddef.h>
#include <stdint.h>

enum { SHA256_HEX_SIZE = 65 }; /* 64 hexadecimal digits and the closing zero */

struct sha256;
struct sha256 *sha256_new(void);
void sha256_add(struct sha256 *hash, const void *data, size_t bytes);
/* Writes the digest in hexadecimal and frees the hash. */
void sha256_finish(struct sha256 *hash, char hex[SHA256_HEX_SIZE]);
void sha256_free(struct sha256 *hash); /* instead of finish; NULL allowed */

/* The hash of bytes, and its first 64 bits as a number, by which a text's own random numbers are keyed. */
void sha256_bytes(const void *data, size_t bytes, char hex[SHA256_HEX_SIZE]);
uint64_t sha256_number(const void *data, size_t bytes);

/* The hash of a whole file. EXIT_CODE_INPUT if it cannot be read. */
bool sha256_file(const char *path, char hex[SHA256_HEX_SIZE], struct fault *fault);

#endif
