/* Whether a checkpoint belongs to the run that wants to go on from it. */
#ifndef PHASES_RESTART_H
#define PHASES_RESTART_H

#include "base/fault.h"
#include "comm/comm.h"
#include "io/hdf5_file.h"

/* Whether rank 0 sees the checkpoint: the same answer on every rank, so that none begins anew where others go
 * on; a rank that cannot open it then (a folder that is its machine's own) has a fault. Collective. */
bool restart_is_there(const struct comm *comm, const char *path);

/* Compares the deck that a checkpoint was written with to the present one, setting by setting. Settings
 * that change no result in any phase (folders, names of files, what is said, limits of time) may differ, and
 * those whose path begins with one of `free_prefixes` (ends with NULL).
 * Any other difference is a fault that names it with both values. */
bool restart_check_deck(struct h5_reader *checkpoint, const char *deck, const char *const *free_prefixes,
                        struct fault *fault);
/* The checkpoint was written with the data file of that content id; `path` is for the message. */
bool restart_check_data(struct h5_reader *checkpoint, const char *content_id, const char *path,
                        struct fault *fault);

/* Refuses (EXIT_CODE_INPUT) a checkpoint where a finished file is needed: it has the same schema, but what it
 * holds is not what a run ends with. */
bool restart_refuse_checkpoint(struct h5_reader *reader, struct fault *fault);

#endif
