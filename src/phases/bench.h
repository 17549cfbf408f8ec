/* Phase bench: parameters, MACs, time and memory of the teacher and of each really sliced expert, and the
 * machine's own roof beside them. Reads teacher.h5 and router.h5, or a config.json with random weights;
 * writes bench.h5.
 *
 * Memory is that of the backend, on a GPU what is allocated there (the libraries' own comes to it).
 *
 * A forward pass is that of the whole UNet, inputs copied in and the sample copied out. A pruning step is
 * train/student.h's: teacher, gated student, losses, and the gradient back to the gates; the router's own
 * work on the host is not in it. Its operations are counted as three forward passes.
 *
 * Rank 0 alone measures, with its own threads, while the other ranks sleep: times of ranks that share a
 * machine would be each other's noise. One rank with all cores is the way to run it. */
#ifndef PHASES_BENCH_H
#define PHASES_BENCH_H

#include "phases/phase.h"

bool phase_bench(struct run *run, const struct bench_cfg *cfg, struct fault *fault);

#endif
