/* Communication: the only room that includes mpi.h. Every function says whether it is collective. */
#ifndef COMM_COMM_H
#define COMM_COMM_H

#include "base/fault.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A communicator; opaque, so that mpi.h stays here. */
struct comm;

/* Starts MPI (thread level funneled), makes failed CHECKs end the whole job, returns the communicator of all
 * ranks. Works without mpirun as one rank. Collective. End with comm_stop. */
struct comm *comm_start(int *argc, char ***argv);
/* Ends MPI and frees the communicator made by comm_start. Collective. */
void comm_stop(struct comm *comm);

int comm_rank(const struct comm *comm);
int comm_size(const struct comm *comm);
int comm_node_rank(const struct comm *comm); /* place among the ranks of this node (shared memory), from 0 */
int comm_node_size(const struct comm *comm);
/* MPI library and version, one line; local, also before comm_start. The caller frees it. */
char *comm_library(void);
/* Name of this rank's machine. Local. The caller frees it. */
char *comm_host(void);
/* Names of the machines, each once, in rank order, separated by blanks. Collective. The caller frees it. */
char *comm_hosts(const struct comm *comm);

/* Ranks of equal colour form a group, ordered by rank. Collective over `comm`. Free with comm_free,
 * collective too.
 *
 * Groups run apart: between comm_split and comm_rejoin a rank calls collective functions of its group alone,
 * as others may be anywhere in their work. Faults are shared in the group by comm_agree(group), and end the
 * group's work, not that of the others, which they reach in comm_rejoin. */
struct comm *comm_split(const struct comm *comm, int colour);
void comm_free(struct comm *comm);

/* All collective: */
void comm_barrier(const struct comm *comm);
void comm_broadcast(const struct comm *comm, int root, void *data, size_t bytes);
/* Whether any rank passes true; the same answer on every rank. */
bool comm_any(const struct comm *comm, bool mine);
/* Shares failures: if any rank has a fault, every rank gets that of the lowest such rank and false is
 * returned. */
bool comm_agree(const struct comm *comm, struct fault *fault);

/* Waits until every rank has called it, but at most `seconds` (INFINITY: for ever). False: some have not
 * come. It has messages of its own, so that it is safe while others are in another collective call: a rank
 * that has failed alone finds out whether the others know. */
bool comm_meet(const struct comm *comm, double seconds);
/* The end of work in which ranks may have failed alone, that is without a comm_agree: shares failures as
 * comm_agree does. A failed rank waits a few seconds for the others; where they do not come they know nothing
 * of it and wait for it elsewhere, so it prints its fault and ends the job. Collective. */
bool comm_conclude(const struct comm *comm, struct fault *fault);
/* The end of a group's work: concludes it in the group, waits until all groups have come, however long that
 * takes, and shares their failures. So the work of the groups that did not fail is done, and there is one
 * fault. To be called by every rank of `parent` whether its group has failed or not. Collective over
 * `parent`. */
bool comm_rejoin(const struct comm *parent, const struct comm *group, struct fault *fault);
/* Ends all ranks with that exit code. Local. */
__attribute__((noreturn)) void comm_abort(const struct comm *comm, int exit_code);

/* all[] = the parts of all ranks in rank order; part r has counts[r] elements of `element` bytes. Any size.
 * Collective. */
void comm_gather(const struct comm *comm, const void *mine, const size_t *counts, size_t element, void *all);
/* The same of one element a rank: all [ranks]. Collective. */
void comm_gather_one(const struct comm *comm, const void *mine, size_t element, void *all);

/* Sums over ranks in place, in rank order, so that the result is a function of the parts alone and the same
 * on every rank. Collective. For small arrays: it gathers. */
void comm_sum_ordered(const struct comm *comm, double *values, size_t count);
/* Sums over ranks in place, host memory, any size: equal on all ranks, and up to rounding what
 * comm_sum_ordered gives. Collective. */
void comm_sum(const struct comm *comm, float *values, size_t count);
/* The same in a device's memory, which MPI must be able to take (train/cuda_aware.h): the one place where MPI
 * gets a pointer that the host may not follow. */
void comm_sum_device(const struct comm *comm, float *device_values, size_t count);
/* What MPI says of itself: whether it takes pointers to CUDA devices' memory. It may say so wrongly. Local.
 */
bool comm_claims_cuda(void);
/* The same without waiting: started here, driven on by comm_sum_test, finished by comm_sum_wait. `values` is
 * in use until then. `ordered`: summed in rank order, in fp64, and rounded once, whatever MPI does; it takes
 * memory for a copy of the values. Start and wait are collective: all ranks call them in the same order, and
 * every start before any wait where sums are under way together. */
struct comm_request;
struct comm_request *comm_sum_start(const struct comm *comm, float *values, size_t count, bool ordered);
/* Whether everything that went on in the background has come. Local. */
bool comm_sum_test(struct comm_request *request);
void comm_sum_wait(struct comm_request *request); /* frees the request */

/* Largest message in bytes, at least 8 and by default 1 GiB (MPI counts are ints): larger arrays go in
 * pieces. Tests set a small one. Local, but the same on all ranks; groups made by comm_split inherit it. */
void comm_set_piece(struct comm *comm, size_t bytes);

/* Over ranks. Collective. */
double comm_min(const struct comm *comm, double mine);
double comm_max(const struct comm *comm, double mine);

#endif
