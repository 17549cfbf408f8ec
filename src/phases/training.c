#include "phases/training.h"

#include "base/check.h"
#include "models/weights.h"
#include "phases/provenance.h"
#include "phases/restart.h"

#include <math.h>
#include <unistd.h>

enum { BAD_STEPS_MAX = 20, MAX_COLUMNS = 16 };

/* Keys that may change between a run and its continuation. */
static const char *const free_keys[] = {
    "run.folder",       "run.log", "run.threads",    "run.wall_clock_limit",
    "files.",           "phase",   "pretrain.steps", "pretrain.checkpoint_every",
    "pretrain.sample_", NULL};

// ---- files

static bool write_state(const struct optimiser *optimiser, struct h5_writer *writer, struct fault *fault)
{
    const struct parameter_set *parameters = optimiser->parameters;
    return weights_write_h5(parameters, NULL, writer, "weights", false, fault) &&
           (!optimiser->average ||
            weights_write_h5(parameters, optimiser->average, writer, "ema", false, fault)) &&
           weights_write_h5(parameters, optimiser->first, writer, "optimizer/first_moment", false, fault) &&
           weights_write_h5(parameters, optimiser->second, writer, "optimizer/second_moment", false, fault) &&
           h5_write_one_int64(writer, "optimizer/step", optimiser->step, fault);
}

static bool write_contents(struct training *training, struct h5_writer *writer, bool finished,
                           struct fault *fault)
{
    const struct optimiser *optimiser = training->optimiser;
    bool ok = finished ? weights_write_h5(optimiser->parameters, optimiser->average, writer, "weights",
                                          training->cfg->half, fault)
                       : write_state(optimiser, writer, fault);
    return ok && training->functions->write(training->task, writer, finished, fault) &&
           h5_write_one_int64(writer, "training/step", training->step, fault) &&
           h5_write_one_int64(writer, "training/samples", training->step * training->cfg->batch, fault) &&
           h5_write_one_int64(writer, "training/skipped", optimiser->skipped, fault) &&
           history_write_h5(training->history, writer, fault);
}

/* One file, whole or not at all; rank 0 writes, the verdict is shared. */
static bool write_file(struct training *training, const char *path, bool finished, struct fault *fault)
{
    const struct run *run = training->run;
    timer_start(run->timers, "write");
    if (comm_rank(run->comm) == 0) {
        struct h5_provenance provenance =
            run_provenance(run, &training->cfg->run, training->backend, training->dtype, training->parent,
                           training->parents);
        struct h5_writer *writer;
        if (h5_create(path, training->kind, &writer, fault)) {
            if (write_contents(training, writer, finished, fault))
                h5_finish(writer, &provenance, NULL, fault);
            else
                h5_abandon(writer);
        }
    }
    timer_stop(run->timers, "write");
    return comm_agree(run->comm, fault);
}

bool training_finish(struct training *training, const char *path, struct fault *fault)
{
    if (!write_file(training, path, true, fault)) return false;
    log_info(training->run->log, "wrote %s: %lld steps, %lld pictures seen, %lld steps skipped", path,
             (long long)training->step, (long long)(training->step * training->cfg->batch),
             (long long)training->optimiser->skipped);
    return true;
}

static bool read_state(struct training *training, struct h5_reader *reader, struct fault *fault)
{
    struct optimiser *optimiser = training->optimiser;
    struct parameter_set *parameters = optimiser->parameters;
    return restart_check_deck(reader, training->run->deck, free_keys, fault) &&
           restart_check_data(reader, training->parent[0].content_id, training->cfg->data_file, fault) &&
           training->functions->check(training->task, reader, fault) &&
           weights_read_h5(parameters, reader, "weights", fault) &&
           (!optimiser->average ||
            weights_read_values_h5(parameters, optimiser->average, reader, "ema", fault)) &&
           weights_read_values_h5(parameters, optimiser->first, reader, "optimizer/first_moment", fault) &&
           weights_read_values_h5(parameters, optimiser->second, reader, "optimizer/second_moment", fault) &&
           h5_read_one_int64(reader, "optimizer/step", &optimiser->step, fault) &&
           h5_read_one_int64(reader, "training/skipped", &optimiser->skipped, fault) &&
           h5_read_one_int64(reader, "training/step", &training->step, fault) &&
           history_read_h5(training->history, reader, fault);
}

static bool read_checkpoint(struct training *training, struct fault *fault)
{
    if (access(training->checkpoint, F_OK) != 0) return true;
    struct h5_reader *reader;
    if (!h5_open(training->checkpoint, training->kind, &reader, fault)) return false;
    bool ok = read_state(training, reader, fault);
    h5_close(reader);
    if (ok)
        log_info(training->run->log, "going on from step %lld of %s", (long long)training->step,
                 training->checkpoint);
    return ok;
}

bool training_resume(struct training *training, struct fault *fault)
{
    const struct comm *comm = training->run->comm;
    read_checkpoint(training, fault);
    if (comm_agree(comm, fault) && comm_rank(comm) == 0)
        history_open_csv(training->history, training->csv, fault);
    return comm_agree(comm, fault);
}

// ---- the loop

static bool stop_here(struct training *training, struct fault *fault)
{
    if (!write_file(training, training->checkpoint, false, fault)) return false;
    return fault_raise(fault, EXIT_CODE_STOPPED,
                       "stopped by %s after step %lld of %lld; run again to go on from %s",
                       training->run->stop->reason ? training->run->stop->reason : "another rank",
                       (long long)training->step, (long long)training->cfg->steps, training->checkpoint);
}

static bool is_due(int64_t step, int64_t every)
{
    return every > 0 && step % every == 0;
}

bool training_run(struct training *training, struct fault *fault)
{
    const struct pretrain_cfg *cfg = training->cfg;
    const struct run *run = training->run;
    struct progress progress = progress_start(run->log, "step", training->step, cfg->steps);
    double values[MAX_COLUMNS], smooth = 0;
    CHECK(training->history->values <= MAX_COLUMNS, "%d logged values", training->history->values);
    int bad = 0;
    while (training->step < cfg->steps) {
        if (!training->functions->run_step(training->task, values, fault)) return false;
        bad = isfinite(values[training->gradient_norm]) ? 0 : bad + 1;
        if (bad == BAD_STEPS_MAX)
            return fault_raise(fault, EXIT_CODE_INTERNAL,
                               "the gradient was not finite in %d steps in a row, up to step %lld: lower "
                               "pretrain.learning_rate, or use precision fp32",
                               bad, (long long)training->step);
        double loss = values[training->loss];
        smooth = smooth == 0 ? loss : 0.98 * smooth + 0.02 * loss;
        progress_update(&progress, training->step, "loss %.4f, %.0f samples/s", smooth,
                        values[training->rate]);
        history_add(training->history, training->step, values, fault); // rank 0's goes to the CSV too
        if (!comm_agree(run->comm, fault)) return false;

        if (is_due(training->step, training->look_every)) {
            progress_pause(&progress);
            if (!training->functions->look(training->task, fault)) return false;
        }
        if (comm_any(run->comm, stop_asked(run->stop))) {
            progress_pause(&progress);
            return stop_here(training, fault);
        }
        if (is_due(training->step, cfg->checkpoint_every) && training->step < cfg->steps &&
            !write_file(training, training->checkpoint, false, fault))
            return false;
    }
    progress_pause(&progress);
    return write_file(training, training->checkpoint, false, fault);
}
