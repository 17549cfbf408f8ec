/* A tensor in a backend's memory, and its values on the host: for tests that run on every backend. */
#ifndef SUPPORT_MIRRORED_H
#define SUPPORT_MIRRORED_H

#include "tensor/backend.h"

struct mirrored {
    struct tensor tensor; /* its data may be a device's */
    void *host;           /* as many bytes, of the test */
};

/* Zeros in both places, fp32 or bf16. Free with mirrored_free (twice allowed). */
struct mirrored mirrored_new(struct backend *backend, enum dtype dtype, int rank, const int64_t *dim);
void mirrored_free(struct backend *backend, struct mirrored *mirrored);

/* Host -> backend, and back. */
void mirrored_put(struct backend *backend, const struct mirrored *mirrored);
void mirrored_get(struct backend *backend, const struct mirrored *mirrored);

/* Elements of the host's values. */
double mirrored_at(const struct mirrored *mirrored, int64_t i);
void mirrored_set(struct mirrored *mirrored, int64_t i, double value);

#endif
