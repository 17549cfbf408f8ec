#include "train/student.h"

#include "base/check.h"

#include <stdlib.h>

enum { MAX_LOSSES = 2 + UNET_MAX_BLOCKS }; // ddpm, output, one a block

/* Seeds of the losses of one micro-batch: what each sample's loss counts in the mean over the global batch.
 */
struct seeds {
    float *ddpm, *distill_out, *distill_block; // [micro_batch]
};

static void fill_seeds(const struct student *student, const float *weight, int64_t count, int blocks,
                       struct seeds *seeds)
{
    double mean = 1.0 / (double)student->global_batch;
    for (int64_t i = 0; i < count; i++) {
        seeds->ddpm[i] = (float)(student->weights.ddpm * weight[i] * mean);
        seeds->distill_out[i] = (float)(student->weights.distill_out * mean);
        seeds->distill_block[i] = (float)(student->weights.distill_block * mean / blocks);
    }
}

/* The losses of one micro-batch, [count] each: ddpm, and where there is a teacher output and blocks. */
static int make_losses(struct tape *tape, const struct unet_output *output, struct tensor *target,
                       const struct unet_output *teacher, int blocks, const struct seeds *seeds,
                       struct tensor *loss[MAX_LOSSES], const float *seed[MAX_LOSSES])
{
    loss[0] = op_squared_error(tape, output->sample, target);
    seed[0] = seeds->ddpm;
    if (!teacher) return 1;
    loss[1] = op_squared_error(tape, output->sample, teacher->sample);
    seed[1] = seeds->distill_out;
    for (int b = 0; b < blocks; b++) {
        loss[2 + b] = op_squared_error(tape, output->hidden[b], teacher->hidden[b]);
        seed[2 + b] = seeds->distill_block;
    }
    return 2 + blocks;
}

/* Reads the losses of samples [first, first + count). */
static void read_losses(struct tape *tape, const struct noised_batch *noised, int64_t first, int64_t count,
                        int losses, struct tensor *const *loss, float *values, struct student_result *result)
{
    tape_read(tape, loss[0], values);
    for (int64_t i = 0; i < count; i++) {
        result->ddpm[first + i] = noised->weight[first + i] * (double)values[i];
        result->distill_out[first + i] = result->distill_block[first + i] = 0;
    }
    if (losses == 1) return;
    tape_read(tape, loss[1], values);
    for (int64_t i = 0; i < count; i++) result->distill_out[first + i] = values[i];
    int blocks = losses - 2;
    for (int b = 0; b < blocks; b++) {
        tape_read(tape, loss[2 + b], values);
        for (int64_t i = 0; i < count; i++) result->distill_block[first + i] += (double)values[i] / blocks;
    }
}

static void run_micro_batch(struct tape *tape, const struct student *student,
                            const struct noised_batch *noised, int64_t first, int64_t count,
                            const float *gates, struct seeds *seeds, float *values,
                            struct student_result *result)
{
    const struct unet *unet = student->unet;
    tape_reset(tape, TAPE_NO_GRADIENT);
    struct unet_input input = noised_batch_input(tape, noised, student->info, first, count);
    struct tensor *target = noised_batch_target(tape, noised, student->info, first, count);
    struct unet_output teacher, output;
    if (student->teacher) unet_forward(tape, student->teacher, input, &teacher);

    tape_set_mode(tape, student->recompute ? TAPE_RECOMPUTE : TAPE_RECORD);
    if (gates) {
        input.gates = tape_input(tape, DTYPE_F32, 2, (int64_t[]){count, unet->table.entries}, gates);
        input.gates->needs_grad = true;
    }
    unet_forward(tape, unet, input, &output);

    struct tensor *loss[MAX_LOSSES];
    const float *seed[MAX_LOSSES];
    int losses = make_losses(tape, &output, target, student->teacher ? &teacher : NULL, unet->blocks, seeds,
                             loss, seed);
    fill_seeds(student, noised->weight + first, count, unet->blocks, seeds);
    if (student->buckets && first + count == noised->count) gradient_buckets_watch(student->buckets, tape);
    tape_backward(tape, losses, loss, seed);

    if (gates) tape_read(tape, input.gates->grad, result->gate_gradient + first * unet->table.entries);
    read_losses(tape, noised, first, count, losses, loss, values, result);
}

void student_run(struct tape *tape, const struct student *student, const struct noised_batch *noised,
                 const float *gates, struct student_result *result)
{
    int64_t micro = student->micro_batch, entries = student->unet->table.entries;
    CHECK(micro >= 1, "micro-batches of %lld", (long long)micro);
    float *scratch = check_malloc(4 * (size_t)micro * sizeof *scratch);
    struct seeds seeds = {scratch, scratch + micro, scratch + 2 * micro};
    for (int64_t first = 0, count; first < noised->count; first += count) {
        count = noised->count - first < micro ? noised->count - first : micro;
        run_micro_batch(tape, student, noised, first, count, gates ? gates + first * entries : NULL, &seeds,
                        scratch + 3 * micro, result);
    }
    free(scratch);
}
