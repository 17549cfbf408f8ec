/* Phase assign: the expert of every prompt (METHOD section 5).
 *
 *  1. the router and the data, and whether they belong together
 *  2. the true MACs ratio of every sliced expert, at each resolution
 *  3. of each split: the expert of every prompt, dealt to the ranks
 *  4. the assignment file, and a table */
#include "phases/assign.h"

#include "base/check.h"
#include "phases/provenance.h"
#include "phases/router_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SPLITS = 2, NAME_SIZE = 64, MAX_TEXT_BYTES = 1 << 30 };
static const char *const splits[SPLITS] = {"train", "validation"};

/* What is found of one split. */
struct split {
    int64_t prompts;
    int32_t *expert;    // [prompts] owned
    double *similarity; // [prompts, K] owned
    int64_t *count;     // [K] owned
    double *mean_ratio; // [resolutions] owned
};

struct assigning {
    struct run *run;
    const struct assign_cfg *cfg;
    struct backend *backend;
    struct routing routing;
    struct h5_reader *data;
    struct lineage lineage; // of the data
    int64_t K;
    int64_t resolutions;
    int32_t *resolution; // [resolutions, 2] height and width of latents; the first is prune's
    double *ratio;       // [resolutions, K] MACs of each sliced expert over the teacher's
    struct split split[SPLITS];
};

// ---- 1: inputs

static bool open_inputs(struct assigning *assigning, struct fault *fault)
{
    const struct assign_cfg *cfg = assigning->cfg;
    return routing_open(cfg->router_file, assigning->backend, &assigning->routing, fault) &&
           h5_open(cfg->data_file, FILE_DATA, &assigning->data, fault) &&
           lineage_read(assigning->data, &assigning->lineage, fault) &&
           lineage_check(&assigning->routing.lineage, cfg->router_file, &assigning->lineage, cfg->data_file,
                         fault);
}

// ---- 2: ratios

static bool find_ratios(struct assigning *assigning, struct fault *fault)
{
    const struct integer_list *more = &assigning->cfg->macs_resolutions;
    const struct routing *routing = &assigning->routing;
    assigning->K = routing->router->config.K;
    assigning->resolutions = 1 + more->count;
    assigning->resolution = check_malloc(2 * (size_t)assigning->resolutions * sizeof *assigning->resolution);
    assigning->ratio =
        check_malloc((size_t)(assigning->resolutions * assigning->K) * sizeof *assigning->ratio);
    for (int64_t r = 0; r < assigning->resolutions; r++) {
        int64_t height = r ? more->value[r - 1] : routing->latents[0],
                width = r ? height : routing->latents[1];
        if (!unet_check_latents(&routing->unet->config, height, width, fault)) return false;
        assigning->resolution[2 * r] = (int32_t)height;
        assigning->resolution[2 * r + 1] = (int32_t)width;
        routing_total_ratios(routing, height, width, assigning->ratio + r * assigning->K);
    }
    return true;
}

// ---- 3: routing

/* Routes prompts [first, last) of a split into the arrays that begin with prompt `first`. */
static bool route(struct assigning *assigning, const char *name, int64_t first, int64_t last, int *expert,
                  double *similarity, struct fault *fault)
{
    int64_t D = assigning->routing.router->config.D, batch = assigning->cfg->batch;
    double *z = check_malloc((size_t)(batch * D) * sizeof *z);
    bool ok = true;
    for (int64_t begin = first; ok && begin < last; begin += batch) {
        int64_t rows = last - begin < batch ? last - begin : batch;
        ok = h5_read_double(assigning->data, name, begin, rows, z, fault);
        if (ok)
            router_assign(assigning->routing.router, rows, z, expert + begin - first,
                          similarity + (begin - first) * assigning->K);
    }
    free(z);
    return ok;
}

static void summarise(const struct assigning *assigning, struct split *split)
{
    int64_t K = assigning->K;
    split->count = check_calloc((size_t)K, sizeof *split->count);
    split->mean_ratio = check_calloc((size_t)assigning->resolutions, sizeof *split->mean_ratio);
    for (int64_t i = 0; i < split->prompts; i++) split->count[split->expert[i]]++;
    for (int64_t r = 0; r < assigning->resolutions; r++)
        for (int64_t k = 0; k < K; k++)
            split->mean_ratio[r] +=
                assigning->ratio[r * K + k] * (double)split->count[k] / fmax((double)split->prompts, 1);
}

static bool assign_split(struct assigning *assigning, const char *split_name, struct split *split,
                         struct fault *fault)
{
    const struct comm *comm = assigning->run->comm;
    int64_t K = assigning->K;
    char name[NAME_SIZE];
    struct h5_info info;
    snprintf(name, sizeof name, "%s/embedding", split_name);
    if (h5_exists(assigning->data, name))
        h5_expect(assigning->data, name, 2, (int64_t[]){-1, assigning->routing.router->config.D}, &info,
                  fault);
    else if (strcmp(split_name, splits[0]) == 0)
        fault_raise(fault, EXIT_CODE_INPUT, "%s: %s is missing", h5_path(assigning->data), name);
    else
        info = (struct h5_info){0}; // nothing was held out
    if (!comm_agree(comm, fault)) return false;

    // A run of neighbouring prompts each: what is gathered in rank order is in the file's order.
    int64_t ranks = comm_size(comm), rank = comm_rank(comm);
    split->prompts = info.shape[0];
    size_t *counts = check_malloc((size_t)ranks * sizeof *counts);
    for (int64_t r = 0; r < ranks; r++)
        counts[r] = (size_t)(split->prompts * (r + 1) / ranks - split->prompts * r / ranks);
    int64_t first = split->prompts * rank / ranks, mine = (int64_t)counts[rank];
    int *expert = check_malloc((size_t)mine * sizeof *expert);
    double *similarity = check_malloc((size_t)(mine * K) * sizeof *similarity);
    route(assigning, name, first, first + mine, expert, similarity, fault);
    split->expert = check_malloc((size_t)split->prompts * sizeof *split->expert);
    split->similarity = check_malloc((size_t)(split->prompts * K) * sizeof *split->similarity);
    bool ok = comm_agree(comm, fault);
    if (ok) {
        comm_gather(comm, expert, counts, sizeof *expert, split->expert);
        comm_gather(comm, similarity, counts, (size_t)K * sizeof *similarity, split->similarity);
        summarise(assigning, split);
    }
    free(counts);
    free(expert);
    free(similarity);
    return ok;
}

// ---- 4: file and table

/* Copies a column of texts of the data file, "" where it has none. */
static bool copy_texts(const struct assigning *assigning, const char *split, const char *what,
                       int64_t prompts, struct h5_writer *writer, struct fault *fault)
{
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s/%s", split, what);
    if (prompts == 0 || !h5_exists(assigning->data, name)) return true;
    struct h5_strings texts;
    if (!h5_expect(assigning->data, name, 1, &prompts, NULL, fault) ||
        !h5_read_strings(assigning->data, name, 0, prompts, MAX_TEXT_BYTES, &texts, fault))
        return false;
    bool ok = h5_write_strings(writer, name, 1, &prompts, (const char *const *)texts.item, fault);
    h5_strings_free(&texts);
    return ok;
}

static bool write_split(const struct assigning *assigning, const char *split_name, const struct split *split,
                        struct h5_writer *writer, struct fault *fault)
{
    char name[NAME_SIZE];
#define NAME(what) (snprintf(name, sizeof name, "%s/%s", split_name, what), name)
    bool ok =
        h5_write_int32(writer, NAME("expert"), 1, &split->prompts, split->expert, fault) &&
        h5_write_double(writer, NAME("similarity"), 2, (int64_t[]){split->prompts, assigning->K},
                        split->similarity, fault) &&
        h5_write_int64(writer, NAME("count"), 1, &assigning->K, split->count, fault) &&
        h5_write_double(writer, NAME("mean_ratio"), 1, &assigning->resolutions, split->mean_ratio, fault);
#undef NAME
    return ok && copy_texts(assigning, split_name, "caption", split->prompts, writer, fault) &&
           copy_texts(assigning, split_name, "group", split->prompts, writer, fault);
}

static bool write_all_of_it(const struct assigning *assigning, struct h5_writer *writer, struct fault *fault)
{
    int64_t R = assigning->resolutions;
    for (int s = 0; s < SPLITS; s++)
        if (assigning->split[s].prompts > 0 &&
            !write_split(assigning, splits[s], &assigning->split[s], writer, fault))
            return false;
    return h5_write_int32(writer, "ratio/resolution", 2, (int64_t[]){R, 2}, assigning->resolution, fault) &&
           h5_write_double(writer, "ratio/total", 2, (int64_t[]){R, assigning->K}, assigning->ratio, fault) &&
           h5_write_one_double(writer, "ratio/target", assigning->routing.budget, fault);
}

static bool write_file(const struct assigning *assigning, struct fault *fault)
{
    const struct run *run = assigning->run;
    if (comm_rank(run->comm) == 0) {
        struct h5_parent parents[] = {{"router.h5", assigning->routing.lineage.content_id},
                                      {"data.h5", assigning->lineage.content_id}};
        struct h5_provenance provenance =
            run_provenance(run, &assigning->cfg->run, NULL, DTYPE_F32, parents, 2);
        struct h5_writer *writer;
        if (h5_create(assigning->cfg->assignment_file, FILE_ASSIGNMENT, &writer, fault)) {
            if (write_all_of_it(assigning, writer, fault))
                h5_finish(writer, &provenance, NULL, fault);
            else
                h5_abandon(writer);
        }
    }
    return comm_agree(run->comm, fault);
}

static void report(const struct assigning *assigning)
{
    const struct log *log = assigning->run->log;
    log_info(log, "expert   prompts: %8s %10s   share of the teacher's MACs at %d x %d latents", splits[0],
             splits[1], assigning->resolution[0], assigning->resolution[1]);
    for (int64_t k = 0; k < assigning->K; k++)
        log_info(log, "%6lld %18lld %10lld   %.4f%s", (long long)k, (long long)assigning->split[0].count[k],
                 (long long)assigning->split[1].count[k], assigning->ratio[k],
                 assigning->split[0].count[k] == 0 ? "   (no training prompt)" : "");
    double p = assigning->routing.budget;
    for (int64_t r = 0; r < assigning->resolutions; r++) {
        double m = assigning->split[0].mean_ratio[r];
        log_info(log, "mean over the training prompts at %d x %d latents: %.4f of all MACs%s",
                 assigning->resolution[2 * r], assigning->resolution[2 * r + 1], m,
                 r ? "" : ", counted on the sliced experts");
        if (r == 0) log_info(log, "budget %.4f: off by %+.2f %%", p, 100 * (m / p - 1));
    }
}

static void release(struct assigning *assigning)
{
    for (int s = 0; s < SPLITS; s++) {
        free(assigning->split[s].expert);
        free(assigning->split[s].similarity);
        free(assigning->split[s].count);
        free(assigning->split[s].mean_ratio);
    }
    free(assigning->resolution);
    free(assigning->ratio);
    routing_clear(&assigning->routing);
    lineage_clear(&assigning->lineage);
    h5_close(assigning->data);
    backend_close(assigning->backend);
}

static bool assign(struct assigning *assigning, struct fault *fault)
{
    const struct run *run = assigning->run;
    if (open_inputs(assigning, fault)) find_ratios(assigning, fault); // 1, 2
    if (!comm_agree(run->comm, fault)) return false;
    if (run->check_only) {
        log_info(run->log, "%lld experts; inputs fit together", (long long)assigning->K);
        return true;
    }
    for (int s = 0; s < SPLITS; s++)
        if (!assign_split(assigning, splits[s], &assigning->split[s], fault)) return false; // 3
    if (!write_file(assigning, fault)) return false;                                        // 4
    report(assigning);
    log_info(run->log, "wrote %s", assigning->cfg->assignment_file);
    return true;
}

bool phase_assign(struct run *run, const struct assign_cfg *cfg, struct fault *fault)
{
    // The networks are counted, not computed: the plan backend holds no memory for them.
    struct assigning assigning = {.run = run, .cfg = cfg, .backend = backend_open(BACKEND_PLAN)};
    bool ok = assign(&assigning, fault);
    release(&assigning);
    return ok;
}
