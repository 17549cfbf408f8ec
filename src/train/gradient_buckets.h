/* The gradients of a model summed over ranks, in buckets, while the backward pass goes on.
 *
 * A step: zero the gradients; backward passes of all micro-batches, before the last of them (between its
 * tape_reset and its tape_backward) gradient_buckets_watch; gradient_buckets_finish; optimiser_update. With
 * one rank nothing is copied or sent.
 *
 * Parameters are dealt to buckets in the reverse of their order in the set, which is about that in which a
 * backward pass completes gradients. Buckets are sent in this order on every rank, each when all of it is
 * complete and those before it have been sent: so ranks agree whatever the order in which gradients come, and
 * a gradient that never comes (a rank without samples, a parameter that no op used) is summed as it stands at
 * the end.
 *
 * On the host a sum goes on beside the backward pass (MPI_Iallreduce). On a device the whole backward pass is
 * asked for first, with the packing of each bucket in its place; then the host waits for bucket after bucket
 * and sums it (MPI_Allreduce, of which alone a CUDA-aware MPI is sure to take device pointers), while the
 * device goes on with the backward pass. */
#ifndef TRAIN_GRADIENT_BUCKETS_H
#define TRAIN_GRADIENT_BUCKETS_H

#include "comm/comm.h"
#include "tensor/tape.h"

/* One message. */
struct gradient_bucket {
    int first, count; /* its parameters: places first, first - 1, ... first - count + 1 of the set */
    struct trained_array *gradients; /* [count] owned: where they are */
    size_t elements;                 /* of all of them together */
    float *values;                   /* [elements] host memory, owned; NULL where MPI sums on the device */
    float *packed;                   /* [elements] the device's memory, owned; NULL on the host */
    int missing;                     /* gradients that are not complete yet */
    struct comm_request *request;    /* the sum under way on the host, or NULL */
    struct backend_event *ready;     /* on a device: packed, and copied to `values` */
};

struct gradient_buckets {
    const struct comm *comm;          /* borrowed */
    struct parameter_set *parameters; /* borrowed */
    bool deterministic;               /* sums in rank order */
    bool on_device;                   /* MPI sums the device's memory */
    struct gradient_bucket *bucket;   /* [buckets] owned, in the order of sending; none with one rank */
    int *bucket_of;                   /* [parameters] owned */
    int buckets, sent, arrived; /* in this step: bucket[0..sent) are under way, bucket[0..arrived) done */
};

/* For the gradients of `parameters` (allocated, trainable) over `comm`, both of which must live as long.
 * Buckets have at most `bucket_bytes`, but at least one parameter. `cuda_aware`: MPI takes pointers to the
 * device's memory (train/cuda_aware.h); sums in rank order are made on the host even so. Local, but with the
 * same arguments on all ranks of `comm`. Free with gradient_buckets_clear. */
void gradient_buckets_init(struct gradient_buckets *buckets, const struct comm *comm,
                           struct parameter_set *parameters, size_t bucket_bytes, bool deterministic,
                           bool cuda_aware);
void gradient_buckets_clear(struct gradient_buckets *buckets);

/* Starts the sums in the coming backward pass of `tape`, the last of this step, as gradients become complete
 * (tape_on_gradient); all that the step trains are of this set. Optional: what it has not started,
 * gradient_buckets_finish does. Local; until gradient_buckets_finish no rank may fail alone or change a
 * gradient otherwise. */
void gradient_buckets_watch(struct gradient_buckets *buckets, struct tape *tape);

/* Waits for the sums: afterwards all ranks have the same gradients, the sums over ranks: in rank order, in
 * fp64 and rounded once, if deterministic, whatever the size of the buckets. Collective. */
void gradient_buckets_finish(struct gradient_buckets *buckets);

/* Host memory that it takes, for the plan of a run. */
size_t gradient_buckets_bytes(const struct gradient_buckets *buckets);

#endif
