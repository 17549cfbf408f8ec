#include "phases/provenance.h"

#include "base/version.h"

#include <string.h>

/* "cpu fp32": a constant text, because provenance borrows. */
static const char *backend_text(const struct backend *backend, enum dtype dtype)
{
    if (!backend) return "none";
    if (strcmp(backend->ops->name, "cpu") == 0) return dtype == DTYPE_BF16 ? "cpu bf16" : "cpu fp32";
    return backend->ops->name;
}

struct h5_provenance run_provenance(const struct run *run, const struct run_cfg *cfg,
                                    const struct backend *backend, enum dtype dtype,
                                    const struct h5_parent *parent, int parents)
{
    return (struct h5_provenance){.program = version_program(),
                                  .commit = version_commit(),
                                  .deck = run->deck,
                                  .seed = (uint64_t)cfg->seed,
                                  .ranks = comm_size(run->comm),
                                  .hosts = run->hosts,
                                  .backend = backend_text(backend, dtype),
                                  .time = run->time,
                                  .parent = parent,
                                  .parents = parents};
}
