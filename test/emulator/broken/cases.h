/* Programs that the emulator is proven with: right ones, which must come out well, and broken ones, each of
 * which must be caught. */
#ifndef BROKEN_CASES_H
#define BROKEN_CASES_H

#include "kernel.h"

struct emulator_case {
    const char *name;
    void (*run)(void);
    const char *message; /* what is said of it, or nullptr: it is right */
    bool by_chance;      /* some seeds alone show it */
};

extern const struct emulator_case right_cases[], broken_cases[]; /* the last has no name */

/* A stream, two arrays of COUNT on the device, and pinned memory as long, which holds 0, 1, 2, ...; so does
 * x. */
enum { COUNT = 1000 };
struct bench {
    cudaStream_t stream;
    float *x, *y, *host;
};
struct bench bench_open(void);
void bench_close(struct bench *bench); /* waits for the work */

#endif
