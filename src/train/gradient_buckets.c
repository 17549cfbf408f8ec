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

void gradient_buckets_init(struct gradient_buckets *buckets, const struct comm *comm,
                           struct parameter_set *parameters, size_t bucket_bytes, bool deterministic)
{
    *buckets =
        (struct gradient_buckets){.comm = comm, .parameters = parameters, .deterministic = deterministic};
    if (comm_size(comm) == 1) return;
    buckets->bucket = check_malloc((size_t)parameters->count * sizeof *buckets->bucket);
    buckets->bucket_of = check_malloc((size_t)parameters->count * sizeof *buckets->bucket_of);
    deal(buckets, bucket_bytes);
    for (int i = 0; i < buckets->buckets; i++)
        buckets->bucket[i].values = check_malloc(buckets->bucket[i].elements * sizeof(float));
}

void gradient_buckets_clear(struct gradient_buckets *buckets)
{
    for (int i = 0; i < buckets->buckets; i++) free(buckets->bucket[i].values);
    free(buckets->bucket);
    free(buckets->bucket_of);
    *buckets = (struct gradient_buckets){0};
}

/* Starts the sum of the next bucket. */
static void send(struct gradient_buckets *buckets)
{
    struct parameter_set *set = buckets->parameters;
    struct gradient_bucket *bucket = &buckets->bucket[buckets->sent++];
    float *values = bucket->values;
    for (int i = 0; i < bucket->count; i++) {
        int place = bucket->first - i;
        size_t bytes = gradient_bytes(set, place);
        set->backend->ops->download(set->backend, values, set->items[place]->gradient.data, bytes);
        values += bytes / sizeof *values;
    }
    bucket->request = comm_sum_start(buckets->comm, bucket->values, bucket->elements, buckets->deterministic);
}

/* Waits for the sum of the oldest bucket under way. */
static void receive(struct gradient_buckets *buckets)
{
    struct parameter_set *set = buckets->parameters;
    struct gradient_bucket *bucket = &buckets->bucket[buckets->arrived++];
    const float *values = bucket->values;
    comm_sum_wait(bucket->request);
    for (int i = 0; i < bucket->count; i++) {
        int place = bucket->first - i;
        size_t bytes = gradient_bytes(set, place);
        set->backend->ops->upload(set->backend, set->items[place]->gradient.data, values, bytes);
        values += bytes / sizeof *values;
    }
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
    for (int i = 0; i < buckets->sent; i++)
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
    for (int i = 0; i < buckets->buckets; i++) elements += buckets->bucket[i].elements;
    return elements * sizeof(float) * (buckets->deterministic ? 2 : 1);
}
