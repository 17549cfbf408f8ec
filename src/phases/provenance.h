/* The provenance that every output file carries (DESIGN section 6). */
#ifndef PHASES_PROVENANCE_H
#define PHASES_PROVENANCE_H

#include "io/hdf5_file.h"
#include "phases/phase.h"

/* For h5_finish; borrows everything, `parent` [parents] too. `backend` and `dtype` are what computed the
 * file; backend NULL: nothing was computed on one. */
struct h5_provenance run_provenance(const struct run *run, const struct run_cfg *cfg,
                                    const struct backend *backend, enum dtype dtype,
                                    const struct h5_parent *parent, int parents);

/* Refuses (EXIT_CODE_INPUT) an open file that was made from another `parent` ("router.h5") than the one with
 * that content id; `advice` says what to do. */
bool provenance_check_parent(struct h5_reader *reader, const char *parent, const char *content_id,
                             const char *advice, struct fault *fault);

#endif
