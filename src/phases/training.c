#include "phases/training.h"

#include "base/check.h"
#include "phases/provenance.h"
#include "phases/restart.h"
#include "train/optimiser_file.h"

#include <math.h>

enum { BAD_STEPS_MAX = 20, MAX_COLUMNS = 16 };

// ---- files

static bool write_contents(struct training *training, struct h5_writer *writer, bool finished,
                           struct fault *fault)
{
    const struct optimiser *optimiser = training->optimiser;
    bool ok = finished ? optimiser_write_result_h5(optimiser, training->half, writer, fault)
                       : optimiser_write_h5(optimiser, writer, fault);
    return ok && training->functions->write(training->task, writer, finished, fault) &&
           h5_write_one_int64(writer, "training/step", training->step, fault) &&
           h5_write_one_int64(writer, "training/samples", training->step * training->batch, fault) &&
           h5_write_one_int64(writer, "training/skipped", optimiser->skipped, fault) &&
           history_write_h5(training->history, writer, fault);
}

/* One file, whole or not at all; rank 0 writes, the verdict is shared. */
static bool write_file(struct training *training, const char *path, bool finished, struct fault *fault)
{
    const struct run *run = training->run;
    timer_start(run->timers, "write");
    if (comm_rank(run->comm) == 0) {
        struct h5_provenance provenance = run_provenance(
            run, training->run_cfg, training->backend, training->dtype, training->parent, training->parents);
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
             (long long)training->step, (long long)(training->step * training->batch),
             (long long)training->optimiser->skipped);
    return true;
}

static bool read_state(struct training *training, struct h5_reader *reader, struct fault *fault)
{
    return restart_check_deck(reader, training->run->deck, training->free_keys, fault) &&
           restart_check_data(reader, training->parent[0].content_id, training->data_file, fault) &&
           training->functions->check(training->task, reader, fault) &&
           optimiser_read_h5(training->optimiser, reader, fault) &&
           h5_read_one_int64(reader, "training/step", &training->step, fault) &&
           history_read_h5(training->history, reader, fault);
}

static bool read_checkpoint(struct training *training, struct fault *fault)
{
    if (!restart_is_there(training->run->comm, training->checkpoint)) return true;
    struct h5_reader *reader;
    if (!h5_open(training->checkpoint, training->kind, &reader, fault)) return false;
    bool ok = read_state(training, reader, fault);
    h5_close(reader);
    if (ok)
        log_info(training->run->log, "going on from %s %lld of %s", training->label,
                 (long long)training->step, training->checkpoint);
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
    return fault_raise(
        fault, EXIT_CODE_STOPPED, "stopped by %s after %s %lld of %lld; run again to go on from %s",
        training->run->stop->reason ? training->run->stop->reason : "another rank", training->label,
        (long long)training->step, (long long)training->steps, training->checkpoint);
}

static bool is_due(int64_t step, int64_t every)
{
    return every > 0 && step % every == 0;
}

bool training_run(struct training *training, struct fault *fault)
{
    const struct run *run = training->run;
    struct progress progress = progress_start(run->log, training->label, training->step, training->steps);
    double values[MAX_COLUMNS], smooth = 0;
    CHECK(training->history->values <= MAX_COLUMNS, "%d logged values", training->history->values);
    int bad = 0;
    while (training->step < training->steps) {
        if (!training->functions->run_step(training->task, values, fault)) return false;
        bad = isfinite(values[training->gradient_norm]) ? 0 : bad + 1;
        if (bad == BAD_STEPS_MAX)
            return fault_raise(fault, EXIT_CODE_INTERNAL,
                               "the gradient was not finite in %d steps in a row, up to %s %lld: lower "
                               "%s.learning_rate, or use precision fp32",
                               bad, training->label, (long long)training->step, training->section);
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
        if (is_due(training->step, training->checkpoint_every) && training->step < training->steps &&
            !write_file(training, training->checkpoint, false, fault))
            return false;
    }
    progress_pause(&progress);
    return write_file(training, training->checkpoint, false, fault);
}
