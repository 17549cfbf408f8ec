#include "phases/expert_file.h"

#include "base/check.h"
#include "models/weights.h"
#include "phases/restart.h"

#include <stdlib.h>
#include <string.h>

char *expert_path(const char *prefix, int64_t index)
{
    return check_format("%s_%02lld.h5", prefix, (long long)index);
}

/* All but schedule, lineage and the network's weights. */
static void fill_identity(const struct routing *routing, int64_t index, struct expert *expert)
{
    const struct router *router = routing->router;
    size_t n = (size_t)router->n, K = (size_t)router->config.K;
    *expert = (struct expert){.index = index};
    expert->config_text = check_strdup(routing->config_text);
    uint8_t *masks = check_malloc(K * n);
    double *ratios = check_malloc(K * sizeof *ratios);
    router_masks(router, masks);
    routing_total_ratios(routing, routing->latents[0], routing->latents[1], ratios);
    expert->mask = check_malloc(n);
    memcpy(expert->mask, masks + (size_t)index * n, n);
    expert->ratio = ratios[index];
    memcpy(expert->teacher_id, routing->teacher_id, sizeof expert->teacher_id);
    memcpy(expert->router_id, routing->lineage.content_id, sizeof expert->router_id);
    free(masks);
    free(ratios);
}

static struct unet_shape shape_of(const struct expert *expert, const struct routing *routing)
{
    return (struct unet_shape){expert->mask, expert->mask + routing->unet->table.width_entries};
}

void expert_slice(const struct teacher *teacher, const struct routing *routing, int64_t index, bool trainable,
                  struct expert *expert)
{
    fill_identity(routing, index, expert);
    expert->schedule = teacher->schedule;
    expert->lineage = lineage_copy(&teacher->lineage);
    expert->lineage.content_id[0] = 0;
    struct unet_shape shape = shape_of(expert, routing);
    CHECK(teacher->unet->table.entries == routing->unet->table.entries,
          "the teacher was built with other gates than the router");
    expert->unet = unet_new(teacher->unet->parameters.backend, &teacher->unet->config, shape);
    parameter_set_allocate(&expert->unet->parameters, trainable);
    unet_slice(teacher->unet, shape, expert->unet);
}

void expert_clear(struct expert *expert)
{
    unet_delete(expert->unet);
    lineage_clear(&expert->lineage);
    free(expert->config_text);
    free(expert->mask);
    *expert = (struct expert){0};
}

static bool same_text(struct h5_reader *reader, const char *name, const char *text, bool *same,
                      struct fault *fault)
{
    char *stored;
    if (!h5_load_text(reader, name, (int64_t)strlen(text) + 1, &stored, fault)) return false;
    *same = strcmp(stored, text) == 0;
    free(stored);
    return true;
}

bool expert_check_identity(struct h5_reader *reader, const struct routing *routing, int64_t index,
                           struct fault *fault)
{
    int64_t stored;
    bool same_router, same_teacher;
    if (!h5_read_one_int64(reader, "expert", &stored, fault) ||
        !same_text(reader, "router", routing->lineage.content_id, &same_router, fault) ||
        !same_text(reader, "teacher", routing->teacher_id, &same_teacher, fault))
        return false;
    if (stored != index)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s holds expert %lld, expert %lld is wanted",
                           h5_path(reader), (long long)stored, (long long)index);
    if (!same_teacher)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s was sliced out of another teacher than the router's",
                           h5_path(reader));
    return same_router ||
           fault_raise(fault, EXIT_CODE_INPUT,
                       "%s was made with another router file: remove it to make it anew", h5_path(reader));
}

static bool read_network(struct h5_reader *reader, struct backend *backend, const struct routing *routing,
                         struct expert *expert, struct fault *fault)
{
    if (!restart_refuse_checkpoint(reader, fault) ||
        !expert_check_identity(reader, routing, expert->index, fault) ||
        !teacher_read_schedule(reader, &expert->schedule, fault) ||
        !lineage_read(reader, &expert->lineage, fault))
        return false;
    expert->unet = unet_new(backend, &routing->unet->config, shape_of(expert, routing));
    parameter_set_allocate(&expert->unet->parameters, false);
    return weights_read_h5(&expert->unet->parameters, reader, "weights", fault);
}

static void check_index(const struct routing *routing, int64_t index)
{
    CHECK(index >= 0 && index < routing->router->config.K, "expert %lld of %lld", (long long)index,
          (long long)routing->router->config.K);
}

bool expert_check(const char *path, const struct routing *routing, int64_t index, struct fault *fault)
{
    check_index(routing, index);
    struct h5_reader *reader;
    if (!h5_open(path, FILE_EXPERT, &reader, fault)) return false;
    bool ok =
        restart_refuse_checkpoint(reader, fault) && expert_check_identity(reader, routing, index, fault);
    h5_close(reader);
    return ok;
}

bool expert_load(const char *path, struct backend *backend, const struct routing *routing, int64_t index,
                 struct expert *expert, struct fault *fault)
{
    check_index(routing, index);
    struct h5_reader *reader;
    if (!h5_open(path, FILE_EXPERT, &reader, fault)) return false;
    fill_identity(routing, index, expert);
    bool ok = read_network(reader, backend, routing, expert, fault);
    h5_close(reader);
    if (!ok) expert_clear(expert);
    return ok;
}

bool expert_read(const char *path, struct backend *backend, enum dtype dtype, bool backward,
                 const struct routing *routing, int64_t index, struct expert *expert, struct fault *fault)
{
    if (!expert_load(path, backend, routing, index, expert, fault)) return false;
    parameter_set_freeze(&expert->unet->parameters, dtype, backward);
    return true;
}

bool expert_write_identity(const struct expert *expert, struct h5_writer *writer, struct fault *fault)
{
    const struct unet *unet = expert->unet;
    const int32_t index = (int32_t)expert->index, ff_entries = unet->config.ff_entries;
    const uint8_t depth_gates = unet->config.depth_gates;
    const int64_t entries = unet->table.entries;
    return h5_write_int32(writer, "expert", 0, NULL, &index, fault) &&
           h5_write_text(writer, "config", expert->config_text, fault) &&
           h5_write_uint8(writer, "mask", 1, &entries, expert->mask, fault) &&
           h5_write_uint8(writer, "settings/depth_gates", 0, NULL, &depth_gates, fault) &&
           h5_write_int32(writer, "settings/ff_entries", 0, NULL, &ff_entries, fault) &&
           h5_write_one_double(writer, "ratio", expert->ratio, fault) &&
           teacher_write_schedule(&expert->schedule, writer, fault) &&
           h5_write_text(writer, "teacher", expert->teacher_id, fault) &&
           h5_write_text(writer, "router", expert->router_id, fault) &&
           lineage_write(&expert->lineage, FILE_EXPERT, writer, fault);
}
