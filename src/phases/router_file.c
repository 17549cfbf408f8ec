#include "phases/router_file.h"

#include "base/check.h"
#include "phases/restart.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG_BYTES = 1 << 20, MAX_CODES = 1 << 12, MAX_WIDTH = 1 << 16 };

void routing_clear(struct routing *routing)
{
    router_delete(routing->router);
    unit_macs_free(&routing->macs);
    if (routing->owns_unet) unet_delete(routing->unet);
    lineage_clear(&routing->lineage);
    free(routing->config_text);
    *routing = (struct routing){0};
}

// ---- reading

static bool read_normal_form(struct h5_reader *reader, enum normal_form *form, struct fault *fault)
{
    char *name;
    if (!h5_load_text(reader, "settings/normal_form", 64, &name, fault)) return false;
    int found = -1;
    for (int i = 0; i < 3; i++)
        if (strcmp(name, normal_form_name((enum normal_form)i)) == 0) found = i;
    if (found < 0)
        fault_raise(fault, EXIT_CODE_INPUT, "%s: settings/normal_form is \"%s\", mixed, hard or soft allowed",
                    h5_path(reader), name);
    free(name);
    *form = (enum normal_form)found;
    return found >= 0;
}

/* An integer in a range, of a one-element dataset. */
static bool read_number(struct h5_reader *reader, const char *name, int64_t least, int64_t most,
                        int64_t *value, struct fault *fault)
{
    if (!h5_read_one_int64(reader, name, value, fault)) return false;
    if (*value >= least && *value <= most) return true;
    return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s is %lld, %lld..%lld allowed", h5_path(reader), name,
                       (long long)*value, (long long)least, (long long)most);
}

static bool read_network(struct h5_reader *reader, struct backend *backend, struct routing *routing,
                         struct fault *fault)
{
    int64_t depth_gates, ff_entries;
    int32_t latents[2];
    char *teacher;
    if (!h5_load_text(reader, "config", MAX_CONFIG_BYTES, &routing->config_text, fault) ||
        !h5_load_text(reader, "teacher", SHA256_HEX_SIZE - 1, &teacher, fault))
        return false;
    memcpy(routing->teacher_id, teacher, strlen(teacher) + 1);
    free(teacher);
    struct unet_config config;
    if (!read_number(reader, "settings/depth_gates", 0, 1, &depth_gates, fault) ||
        !read_number(reader, "settings/ff_entries", 1, 1 << 16, &ff_entries, fault) ||
        !read_number(reader, "settings/tokens", 1, 1 << 16, &routing->tokens, fault) ||
        !h5_expect(reader, "settings/latents", 1, (int64_t[]){2}, NULL, fault) ||
        !h5_read_int32(reader, "settings/latents", 0, 2, latents, fault) ||
        !unet_config_parse(&config, routing->config_text, h5_path(reader), (int)ff_entries, fault) ||
        !unet_check_latents(&config, latents[0], latents[1], fault))
        return false;
    config.depth_gates = depth_gates;
    routing->latents[0] = latents[0];
    routing->latents[1] = latents[1];
    routing->unet = unet_new(backend, &config, (struct unet_shape){0});
    routing->owns_unet = true;
    if (!unet_check_prunable(routing->unet, fault)) return false;
    routing->macs = unet_macs(routing->unet, latents[0], latents[1], routing->tokens);
    return true;
}

static bool read_doubles(struct h5_reader *reader, const char *name, int rank, const int64_t *shape,
                         double *out, struct fault *fault)
{
    return h5_expect(reader, name, rank, shape, NULL, fault) &&
           h5_read_double(reader, name, 0, shape[0], out, fault);
}

static bool read_router(struct h5_reader *reader, struct routing *routing, struct fault *fault)
{
    int64_t n = routing->unet->table.entries, mac_weights;
    struct h5_info codes, weight;
    struct router_config config = {.transport = true,
                                   .eps = 0.05,
                                   .rounds = 3,
                                   .tau = 0.03,
                                   .target = 1}; // inference has no use for these
    if (!h5_expect(reader, "codes", 2, (int64_t[]){-1, n}, &codes, fault) ||
        !h5_expect(reader, "predictor/weight", 2, (int64_t[]){n, -1}, &weight, fault) ||
        !read_normal_form(reader, &config.normal_form, fault) ||
        !read_number(reader, "settings/mac_weights", 0, 1, &mac_weights, fault) ||
        !h5_read_one_double(reader, "settings/gamma", &config.gumbel.temperature, fault) ||
        !h5_read_one_double(reader, "settings/offset", &config.gumbel.offset, fault) ||
        !h5_read_one_double(reader, "settings/budget", &routing->budget, fault))
        return false;
    config.K = codes.shape[0];
    config.D = weight.shape[1];
    config.mac_weights = mac_weights;
    if (config.K < 1 || config.K > MAX_CODES || config.D < 1 || config.D > MAX_WIDTH ||
        !(config.gumbel.temperature > 0) || !(routing->budget > 0 && routing->budget <= 1))
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: %lld codes, embeddings %lld wide, gamma %g, budget %g: not a router of ours",
                           h5_path(reader), (long long)config.K, (long long)config.D,
                           config.gumbel.temperature, routing->budget);
    routing->router = router_new(config, &routing->unet->table, &routing->macs);
    struct router *router = routing->router;
    return read_doubles(reader, "predictor/weight", 2, (int64_t[]){n, config.D}, router->weight, fault) &&
           read_doubles(reader, "predictor/bias", 1, &n, router->bias, fault) &&
           read_doubles(reader, "codes", 2, (int64_t[]){config.K, n}, router->codes, fault) &&
           read_doubles(reader, "gates", 2, (int64_t[]){config.K, n}, router->draw, fault);
}

bool routing_read(struct h5_reader *reader, struct backend *backend, struct routing *routing,
                  struct fault *fault)
{
    *routing = (struct routing){0};
    bool ok = lineage_read(reader, &routing->lineage, fault) &&
              read_network(reader, backend, routing, fault) && read_router(reader, routing, fault);
    if (!ok) routing_clear(routing);
    return ok;
}

static bool check_masks(const struct routing *routing, struct fault *fault)
{
    int64_t K = routing->router->config.K;
    uint8_t *masks = check_malloc((size_t)(K * routing->router->n));
    router_masks(routing->router, masks);
    bool ok = true;
    for (int64_t k = 0; ok && k < K; k++)
        ok = unet_check_shape(&routing->unet->table, routing_shape(routing, masks, k), fault);
    free(masks);
    return ok;
}

bool routing_open(const char *path, struct backend *backend, struct routing *routing, struct fault *fault)
{
    struct h5_reader *reader;
    if (!h5_open(path, FILE_ROUTER, &reader, fault)) return false;
    bool ok = restart_refuse_checkpoint(reader, fault) && routing_read(reader, backend, routing, fault);
    h5_close(reader);
    if (!ok) return false;
    if (check_masks(routing, fault)) return true;
    routing_clear(routing);
    return fault_prefix(fault, "%s: ", path);
}

// ---- writing

static bool write_units(const struct routing *routing, struct h5_writer *writer, struct fault *fault)
{
    const struct unit_table *table = &routing->unet->table;
    int64_t units = table->units, entries = table->depth_entries;
    const char **text = check_malloc((size_t)(units + entries) * sizeof *text);
    int32_t *number = check_malloc((size_t)(units + entries) * sizeof *number);
    for (int i = 0; i < units; i++) text[i] = table->unit[i].path;
    bool ok = h5_write_strings(writer, "units/path", 1, &units, text, fault);
    for (int i = 0; i < units; i++) text[i] = unit_kind_name(table->unit[i].kind);
    ok = ok && h5_write_strings(writer, "units/kind", 1, &units, text, fault);
    for (int i = 0; i < units; i++) number[i] = table->unit[i].first;
    ok = ok && h5_write_int32(writer, "units/first", 1, &units, number, fault);
    for (int i = 0; i < units; i++) number[i] = table->unit[i].width;
    ok = ok && h5_write_int32(writer, "units/width", 1, &units, number, fault);
    for (int i = 0; i < units; i++) number[i] = table->unit[i].depth;
    ok = ok && h5_write_int32(writer, "units/depth", 1, &units, number, fault) &&
         h5_write_double(writer, "units/macs", 1, &units, routing->macs.unit, fault);
    if (entries > 0) {
        for (int i = 0; i < entries; i++) text[i] = table->depth[i].path;
        ok = ok && h5_write_strings(writer, "depth/path", 1, &entries, text, fault) &&
             h5_write_int32(writer, "depth/order", 1, &entries, table->depth_order, fault) &&
             h5_write_double(writer, "depth/macs", 1, &entries, routing->macs.depth, fault);
    }
    free(text);
    free(number);
    return ok && h5_write_one_double(writer, "macs/total", routing->macs.total, fault) &&
           h5_write_one_double(writer, "macs/prunable", routing->macs.prunable, fault);
}

static bool write_settings(const struct routing *routing, struct h5_writer *writer, struct fault *fault)
{
    const struct router_config *config = &routing->router->config;
    const uint8_t mac_weights = config->mac_weights, depth_gates = routing->unet->config.depth_gates;
    const int32_t ff_entries = routing->unet->config.ff_entries, tokens = (int32_t)routing->tokens;
    const int32_t latents[] = {(int32_t)routing->latents[0], (int32_t)routing->latents[1]};
    return h5_write_text(writer, "config", routing->config_text, fault) &&
           h5_write_text(writer, "teacher", routing->teacher_id, fault) &&
           h5_write_text(writer, "settings/normal_form", normal_form_name(config->normal_form), fault) &&
           h5_write_uint8(writer, "settings/mac_weights", 0, NULL, &mac_weights, fault) &&
           h5_write_one_double(writer, "settings/gamma", config->gumbel.temperature, fault) &&
           h5_write_one_double(writer, "settings/offset", config->gumbel.offset, fault) &&
           h5_write_one_double(writer, "settings/budget", routing->budget, fault) &&
           h5_write_uint8(writer, "settings/depth_gates", 0, NULL, &depth_gates, fault) &&
           h5_write_int32(writer, "settings/ff_entries", 0, NULL, &ff_entries, fault) &&
           h5_write_int32(writer, "settings/latents", 1, (int64_t[]){2}, latents, fault) &&
           h5_write_int32(writer, "settings/tokens", 0, NULL, &tokens, fault);
}

bool routing_write(const struct routing *routing, struct h5_writer *writer, struct fault *fault)
{
    const struct router *router = routing->router;
    int64_t K = router->config.K, n = router->n;
    int64_t codes[] = {K, n};
    uint8_t *masks = check_malloc((size_t)(K * n));
    double *ratio = check_malloc(2 * (size_t)K * sizeof *ratio);
    router_masks(router, masks);
    router_ratios(router, ratio);
    routing_total_ratios(routing, routing->latents[0], routing->latents[1], ratio + K);
    bool ok = h5_write_double(writer, "predictor/weight", 2, (int64_t[]){n, router->config.D}, router->weight,
                              fault) &&
              h5_write_double(writer, "predictor/bias", 1, &n, router->bias, fault) &&
              h5_write_double(writer, "codes", 2, codes, router->codes, fault) &&
              h5_write_double(writer, "gates", 2, codes, router->draw, fault) &&
              h5_write_uint8(writer, "masks", 2, codes, masks, fault) &&
              h5_write_double(writer, "ratio/prunable", 1, &K, ratio, fault) &&
              h5_write_double(writer, "ratio/total", 1, &K, ratio + K, fault) &&
              write_settings(routing, writer, fault) && write_units(routing, writer, fault) &&
              lineage_write(&routing->lineage, FILE_ROUTER, writer, fault);
    free(masks);
    free(ratio);
    return ok;
}

// ---- experts

bool routing_check_teacher(const struct routing *routing, const char *router_name, const char *teacher_id,
                           const char *teacher_name, struct fault *fault)
{
    return strcmp(routing->teacher_id, teacher_id) == 0 ||
           fault_raise(fault, EXIT_CODE_INPUT, "%s belongs to another teacher than %s", router_name,
                       teacher_name);
}

struct unet_shape routing_shape(const struct routing *routing, const uint8_t *masks, int64_t k)
{
    const uint8_t *mask = masks + k * routing->router->n;
    return (struct unet_shape){mask, mask + routing->unet->table.width_entries};
}

void routing_total_ratios(const struct routing *routing, int64_t height, int64_t width, double *ratio)
{
    int64_t K = routing->router->config.K;
    uint8_t *masks = check_malloc((size_t)(K * routing->router->n));
    router_masks(routing->router, masks);
    struct unit_macs full = unet_macs(routing->unet, height, width, routing->tokens);
    for (int64_t k = 0; k < K; k++) {
        struct unet *expert = unet_new(routing->unet->parameters.backend, &routing->unet->config,
                                       routing_shape(routing, masks, k));
        struct unit_macs macs = unet_macs(expert, height, width, routing->tokens);
        ratio[k] = macs.total / full.total;
        unit_macs_free(&macs);
        unet_delete(expert);
    }
    unit_macs_free(&full);
    free(masks);
}
