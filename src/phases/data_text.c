#include "phases/data_text.h"

#include "base/check.h"
#include "models/pipeline_folder.h"
#include "phases/lineage.h"

#include <stdlib.h>
#include <string.h>

/* Whether the file has ids, and the id of the encoder that they are for; the caller frees it. */
static bool read_file(const char *data_file, bool *has_ids, char **id, struct fault *fault)
{
    struct h5_reader *reader;
    struct lineage lineage;
    if (!h5_open(data_file, FILE_DATA, &reader, fault)) return false;
    bool ok = lineage_read(reader, &lineage, fault);
    if (ok) {
        *has_ids = h5_exists(reader, "empty/text_ids");
        *id = check_strdup(lineage.text_encoder);
        lineage_clear(&lineage);
    }
    h5_close(reader);
    return ok;
}

/* One forward pass on the plan backend tells its memory. */
static void report_memory(const struct run *run, const char *pipeline, struct text_encoder *encoder)
{
    size_t tokens = (size_t)encoder->tokens;
    int32_t *ids = check_calloc(TEXT_ENCODER_BATCH * tokens, sizeof *ids);
    float *states = check_malloc(TEXT_ENCODER_BATCH * tokens * (size_t)encoder->channels * sizeof *states);
    text_encoder_states(encoder, TEXT_ENCODER_BATCH, ids, states);
    log_info(run->log,
             "planned memory a rank: %.1f MiB for token states, computed %d prompts at a time; the encoder "
             "of %s is among the weights",
             (double)arena_peak(tape_arena(encoder->tape)) / 0x1p20, TEXT_ENCODER_BATCH, pipeline);
    free(ids);
    free(states);
}

static bool open_encoder(const struct run *run, const char *data_file, const char *pipeline, const char *id,
                         struct backend *backend, enum dtype dtype, struct text_encoder *encoder,
                         struct fault *fault)
{
    if (!*pipeline)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s has token ids (data.text_states = \"computed\"), from which a text encoder "
                           "makes the states: name its model's folder in data.pipeline",
                           data_file);
    struct text_encoder_options options = {.batch = TEXT_ENCODER_BATCH, .dtype = dtype};
    if (!pipeline_check_index(pipeline, fault) ||
        !text_encoder_open_pipeline(encoder, backend, pipeline, options, fault) ||
        (run->check_only && !text_encoder_identify(pipeline, encoder->id, fault)))
        return false;
    return strcmp(encoder->id, id) == 0 ||
           fault_raise(fault, EXIT_CODE_INPUT, "%s and %s belong to different text encoders (%.12s, %.12s)",
                       pipeline, data_file, encoder->id, id);
}

bool data_text_open(const struct run *run, const char *data_file, const char *pipeline,
                    struct backend *backend, enum dtype dtype, struct text_encoder *encoder,
                    struct fault *fault)
{
    bool has_ids;
    char *id;
    *encoder = (struct text_encoder){0};
    if (!read_file(data_file, &has_ids, &id, fault)) return false;
    bool ok = !has_ids || open_encoder(run, data_file, pipeline, id, backend, dtype, encoder, fault);
    free(id);
    if (ok && has_ids && run->check_only) report_memory(run, pipeline, encoder);
    return ok;
}
