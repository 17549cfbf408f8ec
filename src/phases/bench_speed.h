/* How long what a deck asks for takes, by what `bench` has measured on this machine: for --check. */
#ifndef PHASES_BENCH_SPEED_H
#define PHASES_BENCH_SPEED_H

#include "phases/phase.h"

/* Work of one kind on one rank. */
struct planned_work {
    const char *speed; /* dataset of bench.h5 with the GFLOP/s of its kind; of several the least counts */
    const char *what;  /* "a step": stands in the message */
    double flops;      /* of one; floating-point operations are counted as bench does, two a MAC */
    int64_t count;     /* how many there are */
};

/* Says the time of one and of all, where bench_file is there and has that kind; else says how to make it. A
 * file that cannot be used is a warning. Local. */
void bench_speed_report(const struct run *run, const char *bench_file, const struct planned_work *work);

#endif
