#include "train/gradient_buckets.h"

#include "base/check.h"
#include "tensor/backend.h"

#include <stdlib.h>

static size_t gradient_bytes(const struct parameter_set *set, int place)
{
    return tensor_bytes(&set->items[place]->gradient);
}

/* Deals the parameters to buckets, from the last one of the set to the first. */
static void deal(struct gradient_buckets *buckets, size_t bucket_bytes)
{
    struct parameter_set *set = buckets->parameters;
    size_t filled = 0;
    for (int place = set->count - 1; place >= 0; place--) {
        size_t bytes = gradient_bytes(set, place);
        if (buckets->buckets == 0 || filled + bytes > bucket_bytes) {
            buckets->bucket[buckets->buckets++] = (struct gradient_bucket){.first = place};
            filled = 0;
        }
        struct gradient_bucket *bucket = &buckets->bucket[buckets->buckets - 1];
        bucket->elements += bytes / sizeof *bucket->values;
        bucket->missing = ++bucket->count;
        filled += bytes;
        buckets->bucket_of[place] = buckets->buckets - 1;
    }
}

/* The memory of a bucket whose parameters are known. */
static void allocate(struct gradient_buckets *buckets, struct gradient_bucket *bucket)
{
    struct parameter_set *set = buckets->parameters;
    struct backend *backend = set->backend;
    size_t bytes = bucket->elements * sizeof(float);
    bucket->gradients = check_calloc((size_t)bucket->count, sizeof *bucket->gradients);
    for (int i = 0; i < bucket->count; i++) {
        const struct tensor *gradient = &set->items[bucket->first - i]->gradient;
        bucket->gradients[i].gradient = gradient->data;
        bucket->gradients[i].count = tensor_count(gradient);
    }
    if (!buckets->on_device) bucket->values = backend->ops->staging_new(backend, bytes);
    if (!backend->device) return;
    bucket->packed = backend->ops->memory_new(backend, bytes);
    bucket->ready = backend->ops->event_new(backend);
}

static void release(struct gradient_buckets *buckets, struct gradient_bucket *bucket)
{
    struct backend *backend = buckets->parameters->backend;
    free(bucket->gradients);
    if (bucket->values) backend->ops->staging_free(backend, bucket->values);
    if (!bucket->packed) return;
    backend->ops->memory_free(backend, bucket->packed, bucket->elements * sizeof(float));
    backend->ops->event_free(backend, bucket->ready);
}

void gradient_buckets_init(struct gradient_buckets *buckets, const struct comm *comm,
                           struct parameter_set *parameters, size_t bucket_bytes, bool deterministic,
                           bool cuda_aware)
{
    *buckets =
        (struct gradient_buckets){.comm = comm,
                                  .parameters = parameters,
                                  .deterministic = deterministic,
                                  .on_device = parameters->backend->device && cuda_aware && !deterministic};
    if (comm_size(comm) == 1) return;
    buckets->bucket = check_malloc((size_t)parameters->count * sizeof *buckets->bucket);
    buckets->bucket_of = check_malloc((size_t)parameters->count * sizeof *buckets->bucket_of);
    deal(buckets, bucket_bytes);
    for (int i = 0; i < buckets->buckets; i++) allocate(buckets, &buckets->bucket[i]);
}

void gradient_buckets_clear(struct gradient_buckets *buckets)
{
    for (int i = 0; i < buckets->buckets; i++) release(buckets, &buckets->bucket[i]);
    free(buckets->bucket);
    free(buckets->bucket_of);
    *buckets = (struct gradient_buckets){0};
}

/* Starts the sum of the next bucket: on a device, what goes before it. */
static void send(struct gradient_buckets *buckets)
{
    struct backend *backend = buckets->parameters->backend;
    struct gradient_bucket *bucket = &buckets->bucket[buckets->sent++];
    float *packed = bucket->packed ? bucket->packed : bucket->values;
    backend->ops->bucket_pack(backend, bucket->count, bucket->gradients, packed);
    if (buckets->on_device)
        backend->ops->event_record(backend, bucket->ready);
    else if (backend->device)
        backend->ops->staging_download(backend, bucket->values, packed, bucket->elements * sizeof(float),
                                       bucket->ready);
    else
        bucket->request =
            comm_sum_start(buckets->comm, bucket->values, bucket->elements, buckets->deterministic);
}

/* The sum of a bucket in the device's memory. */
static void sum_device(struct gradient_buckets *buckets, struct gradient_bucket *bucket)
{
    struct backend *backend = buckets->parameters->backend;
    backend->ops->event_wait(backend, bucket->ready);
    if (buckets->on_device) {
        comm_sum_device(buckets->comm, bucket->packed, bucket->elements);
        return;
    }
    comm_sum_wait(comm_sum_start(buckets->comm, bucket->values, bucket->elements, buckets->deterministic));
    backend->ops->staging_upload(backend, bucket->packed, bucket->values, bucket->elements * sizeof(float));
}

/* Waits for the sum of the oldest bucket under way. */
static void receive(struct gradient_buckets *buckets)
{
    struct backend *backend = buckets->parameters->backend;
    struct gradient_bucket *bucket = &buckets->bucket[buckets->arrived++];
    if (backend->device)
        sum_device(buckets, bucket);
    else
        comm_sum_wait(bucket->request);
    const float *packed = bucket->packed ? bucket->packed : bucket->values;
    backend->ops->bucket_unpack(backend, packed, bucket->count, bucket->gradients);
    bucket->request = NULL;
    bucket->missing = bucket->count;
}

/* After each op of the backward pass (tape_on_gradient). */
static void on_gradient(void *context, struct parameter *complete)
{
    struct gradient_buckets *buckets = context;
    if (complete) {
        const struct parameter_set *set = buckets->parameters;
        CHECK(complete->place < set->count && set->items[complete->place] == complete,
              "a gradient of a parameter that has no bucket: %s", complete->part[0].name);
        struct gradient_bucket *bucket = &buckets->bucket[buckets->bucket_of[complete->place]];
        CHECK(bucket->missing > 0, "a gradient is complete twice: %s", complete->part[0].name);
        bucket->missing--;
    }
    while (buckets->sent < buckets->buckets && buckets->bucket[buckets->sent].missing == 0) send(buckets);
    for (int i = 0; i < buckets->sent && buckets->bucket[i].request; i++)
        if (!comm_sum_test(buckets->bucket[i].request)) break; // one call drives all that are under way
}

void gradient_buckets_watch(struct gradient_buckets *buckets, struct tape *tape)
{
    if (buckets->buckets > 0) tape_on_gradient(tape, on_gradient, buckets);
}

void gradient_buckets_finish(struct gradient_buckets *buckets)
{
    while (buckets->sent < buckets->buckets) send(buckets);
    while (buckets->arrived < buckets->buckets) receive(buckets);
    buckets->sent = buckets->arrived = 0;
}

size_t gradient_buckets_bytes(const struct gradient_buckets *buckets)
{
    size_t elements = 0;
    for (int i = 0; i < buckets->buckets; i++)
        if (buckets->bucket[i].values) elements += buckets->bucket[i].elements;
    return elements * sizeof(float) * (buckets->deterministic ? 2 : 1);
}
