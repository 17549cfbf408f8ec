/* What every phase gets from main. */
#ifndef PHASES_PHASE_H
#define PHASES_PHASE_H

#include "base/fault.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/stop.h"
#include "base/timer.h"
#include "comm/comm.h"
#include "phases/keys.h"
#include "tensor/backend.h"

/* All borrowed from main. */
struct run {
    struct comm *comm;
    const struct log *log;
    struct timers *timers; /* printed by main at the end of the phase */
    struct stop *stop;     /* ask comm_any(comm, stop_asked(stop)) at the end of each step */
    const char *deck;  /* the full effective deck: for files' provenance and the comparison at a restart */
    const char *hosts; /* names of the machines, separated by blanks */
    const char *time;  /* start of the run, ISO 8601, UTC */
    bool check_only;   /* --check: open the inputs, report memory and steps, write nothing */
};

/* A phase, in phases/NAME.c:
 *     bool phase_NAME(struct run *run, const struct NAME_cfg *cfg, struct fault *fault);
 * Collective. Ranks that go on together share their faults first (comm_agree); main ends all ranks when one
 * comes back with a fault that the others do not know. Stopped early with a checkpoint: a fault of
 * EXIT_CODE_STOPPED that says where. */

/* The kind of backend that cfg->backend asks for, auto being settled; under --check the plan backend, which
 * computes nothing. */
enum backend_kind run_backend_kind(const struct run *run, const struct run_cfg *cfg);

/* Opens a backend of that kind, and says the precision of computation that cfg->precision asks for. bf16 on
 * hardware without it is an EXIT_CODE_DECK fault. Close with backend_close. Local. */
bool run_open_backend(const struct run *run, const struct run_cfg *cfg, struct backend **backend,
                      enum dtype *dtype, struct fault *fault);

#endif
