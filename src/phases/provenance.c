#include "phases/provenance.h"

#include "base/version.h"

#include <string.h>

/* "cpu fp32", "cuda bf16": a constant text, because provenance borrows. */
static const char *backend_text(const struct backend *backend, enum dtype dtype)
{
    if (!backend) return "none";
    bool bf16 = dtype == DTYPE_BF16;
    if (strcmp(backend->ops->name, "cpu") == 0) return bf16 ? "cpu bf16" : "cpu fp32";
    if (strcmp(backend->ops->name, "cuda") == 0) return bf16 ? "cuda bf16" : "cuda fp32";
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

bool provenance_check_parent(struct h5_reader *reader, const char *parent, const char *content_id,
                             const char *advice, struct fault *fault)
{
    char then[SHA256_HEX_SIZE];
    if (!h5_parent_content_id(reader, parent, then, fault)) return false;
    return strcmp(then, content_id) == 0 ||
           fault_raise(fault, EXIT_CODE_INPUT, "%s was made with another %s: %s", h5_path(reader), parent,
                       advice);
}
