/* Phase export: experts as diffusers' folders, and the router beside them.
 *
 *  1. the router, and whether every expert's file is finished and belongs to it; of a whole run the
 * assignment
 *  2. of each expert, dealt to the ranks, a folder: config.json (the teacher's UNet), aptp.json (what is left
 *     of it) and diffusion_pytorch_model.safetensors (the sliced arrays by their PyTorch names)
 *  3. of a whole run a folder `router`: router.json and router.safetensors, all that maps a sentence
 * embedding z to an expert (METHOD section 5)
 *
 * postproc/aptp_diffusers.py reads the folders. The JSON files are read by name, so that keys may be added.
 */
#include "phases/export.h"

#include "base/check.h"
#include "base/version.h"
#include "io/atomic_file.h"
#include "io/folder.h"
#include "io/json_writer.h"
#include "io/safetensors_writer.h"
#include "models/weights.h"
#include "phases/expert_file.h"
#include "phases/provenance.h"

#include <stdlib.h>
#include <string.h>

enum { FORMAT_VERSION = 1, SPLITS = 2 };
static const char *const splits[SPLITS] = {"train", "validation"};

struct exporting {
    struct run *run;
    const struct export_cfg *cfg;
    struct backend *backend;
    struct routing routing;
    int64_t K;
    int64_t first, last;    // experts [first, last) are wanted
    int64_t *count[SPLITS]; // [K] prompts of each expert; NULL: the split is empty, or no router is wanted
};

static bool whole_run(const struct exporting *exporting)
{
    return exporting->cfg->expert < 0;
}

// ---- 1: inputs

static bool read_counts(struct exporting *exporting, struct h5_reader *reader, struct fault *fault)
{
    if (!provenance_check_parent(reader, "router.h5", exporting->routing.lineage.content_id,
                                 "run assign again", fault))
        return false;
    for (int s = 0; s < SPLITS; s++) {
        char *name = check_format("%s/count", splits[s]);
        bool ok = !h5_exists(reader, name) || h5_load_int64(reader, name, 1, &exporting->K, exporting->K,
                                                            &exporting->count[s], NULL, fault);
        free(name);
        if (!ok) return false;
    }
    return true;
}

static bool open_assignment(struct exporting *exporting, struct fault *fault)
{
    struct h5_reader *reader;
    if (!h5_open(exporting->cfg->assignment_file, FILE_ASSIGNMENT, &reader, fault)) return false;
    bool ok = read_counts(exporting, reader, fault);
    h5_close(reader);
    return ok;
}

static bool check_experts(const struct exporting *exporting, struct fault *fault)
{
    bool ok = true;
    for (int64_t k = exporting->first; ok && k < exporting->last; k++) {
        char *path = expert_path(exporting->cfg->expert_file, k);
        ok = expert_check(path, &exporting->routing, k, fault);
        free(path);
    }
    return ok;
}

static bool open_inputs(struct exporting *exporting, struct fault *fault)
{
    const struct export_cfg *cfg = exporting->cfg;
    if (!routing_open(cfg->router_file, exporting->backend, &exporting->routing, fault)) return false;
    exporting->K = exporting->routing.router->config.K;
    exporting->first = whole_run(exporting) ? 0 : cfg->expert;
    exporting->last = whole_run(exporting) ? exporting->K : cfg->expert + 1;
    if (exporting->last > exporting->K)
        return fault_raise(
            fault, EXIT_CODE_DECK, "export.expert is %lld, %s has %lld experts: 0..%lld allowed",
            (long long)cfg->expert, cfg->router_file, (long long)exporting->K, (long long)exporting->K - 1);
    return check_experts(exporting, fault) && (!whole_run(exporting) || open_assignment(exporting, fault));
}

// ---- 2: an expert

/* What every JSON file begins with. */
static struct json_object *new_description(const char *format, const char *content_id)
{
    struct json_object *object = json_object_new();
    json_set_text(object, "format", format);
    json_set_int64(object, "format_version", FORMAT_VERSION);
    json_set_text(object, "program", version_program());
    json_set_text(object, "commit", version_commit());
    json_set_text(object, "content_id", content_id);
    return object;
}

/* The latents and encoders that a network belongs to; `sentence` may be "". */
static void describe_lineage(struct json_object *object, const struct lineage *lineage, const char *sentence)
{
    struct json_object *latent = json_object_new(), *encoder = json_object_new();
    json_set_text(latent, "kind", latent_kind_name(lineage->latent.kind));
    json_set_doubles(latent, "scale", latent_channels(lineage->latent.kind), lineage->latent.scale);
    json_set_text(encoder, "text", lineage->text_encoder);
    json_set_text(encoder, "sentence", sentence);
    json_set_object(object, "latent", latent);
    json_set_object(object, "encoder", encoder);
}

/* Length of a dimension of one of the expert's weights. */
static int64_t weight_length(const struct unet *unet, const char *path, const char *suffix, int axis)
{
    int part;
    int64_t shape[TENSOR_MAX_RANK];
    char *name = check_format("%s%s", path, suffix);
    const struct parameter *parameter = parameter_find(&unet->parameters, name, &part);
    CHECK(parameter, "no weight %s", name);
    weights_file_shape(parameter, part, shape);
    free(name);
    return shape[axis];
}

/* What a width unit keeps: its mask, and the sizes of the module that is left. */
static struct json_object *describe_unit(const struct unet *unet, const struct unit *unit,
                                         const uint8_t *mask)
{
    struct json_object *object = json_object_new();
    int64_t *entries = check_malloc((size_t)unit->width * sizeof *entries), kept = 0;
    for (int i = 0; i < unit->width; i++) kept += entries[i] = mask[unit->first + i];
    json_set_text(object, "path", unit->path);
    json_set_text(object, "kind", unit_kind_name(unit->kind));
    if (unit->kind == UNIT_RESNET) {
        json_set_int64(object, "groups", kept);
        json_set_int64(object, "channels", weight_length(unet, unit->path, ".conv1.weight", 0));
    } else if (unit->kind == UNIT_FEED_FORWARD) {
        json_set_int64(object, "inner", weight_length(unet, unit->path, ".net.2.weight", 1));
    } else {
        json_set_int64(object, "heads", kept);
    }
    json_set_int64s(object, "mask", unit->width, entries);
    free(entries);
    return object;
}

/* Lists of the units that are left and of those that are dropped. */
static void describe_units(struct json_object *object, const struct expert *expert)
{
    const struct unit_table *table = &expert->unet->table;
    const uint8_t *depth = expert->mask + table->width_entries;
    json_set_list(object, "units");
    for (int i = 0; i < table->units; i++)
        if (table->unit[i].depth < 0 || depth[table->unit[i].depth])
            json_append(object, "units", describe_unit(expert->unet, &table->unit[i], expert->mask));
    const char **dropped = check_calloc((size_t)table->depth_entries, sizeof *dropped);
    int count = 0;
    for (int i = 0; i < table->depth_entries; i++)
        if (!depth[i]) dropped[count++] = table->depth[i].path;
    json_set_texts(object, "dropped", count, dropped);
    free(dropped);
}

static bool write_description(const struct exporting *exporting, const struct expert *expert,
                              const char *path, struct fault *fault)
{
    struct json_object *object = new_description("aptp-expert", expert->lineage.content_id);
    json_set_int64(object, "expert", expert->index);
    json_set_int64(object, "experts", exporting->K);
    json_set_text(object, "teacher", expert->teacher_id);
    json_set_text(object, "router", expert->router_id);
    json_set_double(object, "budget", exporting->routing.budget);
    json_set_double(object, "ratio", expert->ratio);
    json_set_text(object, "prediction", prediction_name(expert->schedule.prediction));
    describe_lineage(object, &expert->lineage, exporting->routing.lineage.sentence_encoder);
    describe_units(object, expert);
    bool ok = json_object_write(object, path, fault);
    json_object_free(object);
    return ok;
}

/* The weights come last: a folder that has them is whole. */
static bool write_expert(const struct exporting *exporting, const struct expert *expert, const char *folder,
                         struct fault *fault)
{
    char *config = check_format("%s/config.json", folder),
         *description = check_format("%s/aptp.json", folder);
    char *weights = check_format("%s/diffusion_pytorch_model.safetensors", folder);
    bool ok = folder_create(folder, fault) &&
              atomic_file_write(config, expert->config_text, strlen(expert->config_text), fault) &&
              write_description(exporting, expert, description, fault) &&
              weights_write_safetensors(&expert->unet->parameters, weights, exporting->cfg->half, fault);
    free(weights);
    free(description);
    free(config);
    return ok;
}

static bool export_expert(const struct exporting *exporting, int64_t k, struct fault *fault)
{
    char *path = expert_path(exporting->cfg->expert_file, k);
    char *folder = check_format("%s/expert_%02lld", exporting->cfg->folder, (long long)k);
    struct expert expert;
    bool ok = expert_load(path, exporting->backend, &exporting->routing, k, &expert, fault);
    if (ok) {
        int64_t weights = parameter_set_elements(&expert.unet->parameters);
        ok = exporting->run->check_only || write_expert(exporting, &expert, folder, fault);
        if (ok)
            log_info(exporting->run->log, "expert %lld: %.4f of the teacher's MACs, %lld weights%s%s",
                     (long long)k, expert.ratio, (long long)weights,
                     exporting->run->check_only ? "" : ", in ", exporting->run->check_only ? "" : folder);
        expert_clear(&expert);
    }
    free(folder);
    free(path);
    return ok;
}

static bool export_experts(const struct exporting *exporting, struct fault *fault)
{
    const struct comm *comm = exporting->run->comm;
    bool ok = true;
    for (int64_t k = exporting->first; ok && k < exporting->last; k++)
        if ((k - exporting->first) % comm_size(comm) == comm_rank(comm))
            ok = export_expert(exporting, k, fault);
    return comm_agree(comm, fault);
}

// ---- 3: the router

static void describe_table(struct json_object *object, const struct routing *routing)
{
    const struct unit_table *table = &routing->unet->table;
    json_set_list(object, "units");
    for (int i = 0; i < table->units; i++) {
        const struct unit *unit = &table->unit[i];
        struct json_object *one = json_object_new();
        json_set_text(one, "path", unit->path);
        json_set_text(one, "kind", unit_kind_name(unit->kind));
        json_set_int64(one, "first", unit->first);
        json_set_int64(one, "width", unit->width);
        json_set_int64(one, "depth", unit->depth);
        json_set_double(one, "macs", routing->macs.unit[i]);
        json_append(object, "units", one);
    }
    int64_t *order = check_malloc((size_t)table->depth_entries * sizeof *order);
    json_set_list(object, "depth");
    for (int i = 0; i < table->depth_entries; i++) {
        struct json_object *one = json_object_new();
        json_set_text(one, "path", table->depth[i].path);
        json_set_double(one, "macs", routing->macs.depth[i]);
        json_append(object, "depth", one);
        order[i] = table->depth_order[i];
    }
    json_set_int64s(object, "depth_order", table->depth_entries, order);
    free(order);
}

static void describe_use(struct json_object *object, const struct exporting *exporting)
{
    const struct routing *routing = &exporting->routing;
    double *ratio = check_malloc((size_t)exporting->K * sizeof *ratio);
    routing_total_ratios(routing, routing->latents[0], routing->latents[1], ratio);
    json_set_doubles(object, "ratio", exporting->K, ratio);
    free(ratio);
    struct json_object *prompts = json_object_new();
    for (int s = 0; s < SPLITS; s++)
        if (exporting->count[s]) json_set_int64s(prompts, splits[s], exporting->K, exporting->count[s]);
    json_set_object(object, "prompts", prompts);
}

static bool write_settings(const struct exporting *exporting, const char *path, struct fault *fault)
{
    const struct routing *routing = &exporting->routing;
    const struct router_config *config = &routing->router->config;
    struct json_object *object = new_description("aptp-router", routing->lineage.content_id);
    json_set_int64(object, "experts", config->K);
    json_set_int64(object, "embedding_width", config->D);
    json_set_text(object, "teacher", routing->teacher_id);
    json_set_double(object, "budget", routing->budget);
    json_set_text(object, "normal_form", normal_form_name(config->normal_form));
    json_set_bool(object, "mac_weights", config->mac_weights);
    json_set_double(object, "gamma", config->gumbel.temperature);
    json_set_double(object, "offset", config->gumbel.offset);
    json_set_double(object, "gumbel_median", GUMBEL_MEDIAN);
    describe_lineage(object, &routing->lineage, routing->lineage.sentence_encoder);
    describe_use(object, exporting);
    describe_table(object, routing);
    bool ok = json_object_write(object, path, fault);
    json_object_free(object);
    return ok;
}

/* What is learned, in fp64: [n, D], [n], and twice [K, n]. */
static bool write_arrays(const struct router *router, const char *path, struct fault *fault)
{
    const struct safetensors_plan plan[] = {{"predictor.weight", 2, {router->n, router->config.D}},
                                            {"predictor.bias", 1, {router->n}},
                                            {"codes", 2, {router->config.K, router->n}},
                                            {"gates", 2, {router->config.K, router->n}}};
    struct safetensors_writer *writer;
    if (!safetensors_create(path, SAFETENSORS_F64, 4, plan, &writer, fault)) return false;
    if (safetensors_append_double(writer, router->weight, fault) &&
        safetensors_append_double(writer, router->bias, fault) &&
        safetensors_append_double(writer, router->codes, fault) &&
        safetensors_append_double(writer, router->draw, fault))
        return safetensors_finish(writer, fault);
    safetensors_abandon(writer);
    return false;
}

static bool export_router(const struct exporting *exporting, struct fault *fault)
{
    const struct run *run = exporting->run;
    if (comm_rank(run->comm) == 0) {
        char *folder = check_format("%s/router", exporting->cfg->folder);
        char *settings = check_format("%s/router.json", folder);
        char *arrays = check_format("%s/router.safetensors", folder);
        if (folder_create(folder, fault) && write_settings(exporting, settings, fault) &&
            write_arrays(exporting->routing.router, arrays, fault))
            log_info(run->log, "router: in %s", folder);
        free(arrays);
        free(settings);
        free(folder);
    }
    return comm_agree(run->comm, fault);
}

static bool export(struct exporting *exporting, struct fault *fault)
{
    const struct run *run = exporting->run;
    open_inputs(exporting, fault); // 1
    if (!comm_agree(run->comm, fault)) return false;
    if (!export_experts(exporting, fault)) return false; // 2
    if (run->check_only || !whole_run(exporting)) return true;
    return export_router(exporting, fault); // 3
}

bool phase_export(struct run *run, const struct export_cfg *cfg, struct fault *fault)
{
    struct exporting exporting = {.run = run, .cfg = cfg, .backend = backend_open(BACKEND_CPU)};
    bool ok = export(&exporting, fault);
    for (int s = 0; s < SPLITS; s++) free(exporting.count[s]);
    routing_clear(&exporting.routing);
    backend_close(exporting.backend);
    return ok;
}
