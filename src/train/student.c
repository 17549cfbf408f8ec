#include "train/student.h"

#include "base/check.h"

#include <stdlib.h>

enum { MAX_LOSSES = 2 + UNET_MAX_BLOCKS }; // ddpm, output, one a block

/* Seeds of the losses of one micro-batch: what each sample's loss counts in the mean over the global batch.
 */
struct seeds {
    float *ddpm, *distill_out, *distill_block; // [micro_batch]
};

static void fill_seeds(const struct student *student, const float *weight, int blocks, struct seeds *seeds)
{
    double mean = 1.0 / (double)student->global_batch;
    for (int64_t i = 0; i < student->micro_batch; i++) {
        seeds->ddpm[i] = (float)(student->weights.ddpm * weight[i] * mean);
        seeds->distill_out[i] = (float)(student->weights.distill_out * mean);
        seeds->distill_block[i] = (float)(student->weights.distill_block * mean / blocks);
    }
}

static void run_micro_batch(struct tape *tape, const struct student *student,
                            const struct noised_batch *noised, int64_t first, const float *gates,
                            struct seeds *seeds, float *values, struct student_result *result)
{
    const struct unet *unet = student->unet;
    int64_t count = student->micro_batch;
    int blocks = unet->blocks;

    tape_reset(tape, TAPE_NO_GRADIENT);
    struct unet_input input = noised_batch_input(tape, noised, student->info, first, count);
    struct tensor *target = noised_batch_target(tape, noised, student->info, first, count);
    struct unet_output teacher, output;
    unet_forward(tape, unet, input, &teacher);

    tape_set_mode(tape, student->recompute ? TAPE_RECOMPUTE : TAPE_RECORD);
    input.gates = tape_input(tape, DTYPE_F32, 2, (int64_t[]){count, unet->table.entries}, gates);
    input.gates->needs_grad = true;
    unet_forward(tape, unet, input, &output);

    struct tensor *loss[MAX_LOSSES];
    const float *seed[MAX_LOSSES];
    loss[0] = op_squared_error(tape, output.sample, target);
    seed[0] = seeds->ddpm;
    loss[1] = op_squared_error(tape, output.sample, teacher.sample);
    seed[1] = seeds->distill_out;
    for (int b = 0; b < blocks; b++) {
        loss[2 + b] = op_squared_error(tape, output.hidden[b], teacher.hidden[b]);
        seed[2 + b] = seeds->distill_block;
    }
    fill_seeds(student, noised->weight + first, blocks, seeds);
    tape_backward(tape, 2 + blocks, loss, seed);

    tape_read(tape, input.gates->grad, result->gate_gradient + first * unet->table.entries);
    tape_read(tape, loss[0], values);
    for (int64_t i = 0; i < count; i++)
        result->ddpm[first + i] = noised->weight[first + i] * (double)values[i];
    tape_read(tape, loss[1], values);
    for (int64_t i = 0; i < count; i++) result->distill_out[first + i] = values[i];
    for (int64_t i = 0; i < count; i++) result->distill_block[first + i] = 0;
    for (int b = 0; b < blocks; b++) {
        tape_read(tape, loss[2 + b], values);
        for (int64_t i = 0; i < count; i++) result->distill_block[first + i] += (double)values[i] / blocks;
    }
}

void student_run(struct tape *tape, const struct student *student, const struct noised_batch *noised,
                 const float *gates, struct student_result *result)
{
    int64_t micro = student->micro_batch;
    CHECK(micro >= 1 && noised->count % micro == 0, "%lld samples in micro-batches of %lld",
          (long long)noised->count, (long long)micro);
    float *scratch = check_malloc(4 * (size_t)micro * sizeof *scratch);
    struct seeds seeds = {scratch, scratch + micro, scratch + 2 * micro};
    for (int64_t first = 0; first < noised->count; first += micro)
        run_micro_batch(tape, student, noised, first, gates + first * student->unet->table.entries, &seeds,
                        scratch + 3 * micro, result);
    free(scratch);
}
