#include "phases/sample_prompts.h"

#include "base/check.h"
#include "io/half.h"
#include "io/text_file.h"
#include "models/prompt_encoder.h"
#include "phases/data_text.h"
#include "train/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { ENCODER_BATCH = 16, NAME_SIZE = 64, MAX_CAPTION_BYTES = 1 << 30 };

struct prompt_reader {
    const struct sample_cfg *cfg; // borrowed
    struct dataset *dataset;      // of a split, or NULL
    struct h5_reader *data;       // the same file
    struct lineage lineage;       // of the data
    struct backend *text_backend; // of the next; NULL without a split
    struct text_encoder text;     // of a split that has token ids; or zero
    struct backend *backend;      // of the encoder, which is run under --check too, or NULL
    struct prompt_encoder encoder;
    float *away;      // [T, D] token states of what guidance leads away from
    float *away_mask; // [T]
};

// ---- text

static bool check_prompt(const char *text, size_t bytes, const char *where, int64_t line, struct fault *fault)
{
    if (bytes > PROMPT_MAX_BYTES)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s:%lld: a prompt of %zu bytes, at most %d are allowed",
                           where, (long long)line, bytes, PROMPT_MAX_BYTES);
    for (size_t i = 0; i < bytes;) {
        utf8proc_int32_t character;
        utf8proc_ssize_t read =
            utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(bytes - i), &character);
        if (read < 1)
            return fault_raise(fault, EXIT_CODE_INPUT, "%s:%lld: byte %zu (0x%02x) is not UTF-8", where,
                               (long long)line, i + 1, (unsigned)(unsigned char)text[i]);
        i += (size_t)read;
    }
    return true;
}

static void add_prompt(struct sample_prompts *prompts, const char *text, int64_t item)
{
    int64_t count = prompts->count++;
    text_list_add(&prompts->text, text);
    prompts->item = check_realloc(prompts->item, (size_t)prompts->text.capacity * sizeof *prompts->item);
    prompts->item[count] = item;
}

/* A line of a file, without its end: a prompt unless it is blank. */
static bool add_line(struct sample_prompts *prompts, char *line, const char *where, int64_t number,
                     int64_t *blank, struct fault *fault)
{
    size_t bytes = strlen(line);
    if (bytes > 0 && line[bytes - 1] == '\r') line[--bytes] = '\0';
    if (line[strspn(line, " \t")] == '\0') {
        ++*blank;
        return true;
    }
    if (prompts->count == PROMPTS_MAX_COUNT)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: more than the %d prompts allowed", where,
                           PROMPTS_MAX_COUNT);
    if (!check_prompt(line, bytes, where, number + 1, fault)) return false;
    add_prompt(prompts, line, number);
    return true;
}

static bool parse_lines(const struct log *log, struct sample_prompts *prompts, char *text, const char *where,
                        struct fault *fault)
{
    int64_t number = 0, blank = 0;
    if (strncmp(text, "\xef\xbb\xbf", 3) == 0) text += 3; // a byte order mark
    for (char *end; *text; text = end, number++) {
        end = text + strcspn(text, "\n");
        if (*end) *end++ = '\0';
        if (!add_line(prompts, text, where, number, &blank, fault)) return false;
    }
    if (blank > 0) log_info(log, "%s: %lld blank lines skipped", where, (long long)blank);
    return true;
}

/* Rank 0's file to all ranks. */
static bool read_file(const struct run *run, const char *path, struct sample_prompts *prompts,
                      struct fault *fault)
{
    char *text = NULL;
    size_t bytes = 0;
    if (comm_rank(run->comm) == 0 && text_file_read(path, PROMPTS_MAX_BYTES, &text, fault))
        bytes = strlen(text) + 1;
    if (!comm_agree(run->comm, fault)) return false;
    comm_broadcast(run->comm, 0, &bytes, sizeof bytes);
    if (!text) text = check_malloc(bytes);
    comm_broadcast(run->comm, 0, text, bytes);
    bool ok = parse_lines(run->log, prompts, text, strcmp(path, "-") == 0 ? "standard input" : path, fault);
    free(text);
    return ok;
}

static bool read_list(const struct string_list *list, struct sample_prompts *prompts, struct fault *fault)
{
    for (int i = 0; i < list->count; i++) {
        if (!*list->value[i])
            return fault_raise(fault, EXIT_CODE_DECK, "sample.prompt_list: item %d is empty", i + 1);
        if (!check_prompt(list->value[i], strlen(list->value[i]), "sample.prompt_list", i + 1, fault))
            return false;
        add_prompt(prompts, list->value[i], i);
    }
    return true;
}

// ---- a split

/* A column of texts of the split into a list; one that the split does not have leaves the list empty. */
static bool read_column(struct h5_reader *data, const char *split, const char *what, int64_t rows,
                        struct text_list *list, struct fault *fault)
{
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s/%s", split, what);
    if (!h5_exists(data, name)) return true;
    struct h5_strings texts;
    struct h5_info info;
    if (!h5_expect(data, name, 1, (int64_t[]){-1}, &info, fault)) return false;
    if (info.shape[0] < rows)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s has %lld rows, %lld are needed", h5_path(data),
                           name, (long long)info.shape[0], (long long)rows);
    if (!h5_read_strings(data, name, 0, rows, MAX_CAPTION_BYTES, &texts, fault)) return false;
    for (int64_t i = 0; i < rows; i++) text_list_add(list, texts.item[i]);
    h5_strings_free(&texts);
    return true;
}

/* What encodes texts: under --check too, as the states' shapes come from it. */
static struct backend *open_encoding(const struct run *run, const struct sample_cfg *cfg)
{
    return backend_open(run->check_only ? BACKEND_CPU : run_backend_kind(run, &cfg->run));
}

/* The split's states, or ids from which the pipeline's text encoder makes them. */
static bool open_dataset(const struct run *run, struct prompt_reader *reader, enum dtype dtype,
                         struct fault *fault)
{
    const struct sample_cfg *cfg = reader->cfg;
    reader->text_backend = open_encoding(run, cfg);
    return data_text_open(run, cfg->data_file, cfg->pipeline, reader->text_backend, dtype, &reader->text,
                          fault) &&
           dataset_open(cfg->data_file, cfg->split, &reader->text, &reader->dataset, fault);
}

static bool read_split(const struct run *run, struct prompt_reader *reader, enum dtype dtype,
                       struct sample_prompts *prompts, struct fault *fault)
{
    const struct sample_cfg *cfg = reader->cfg;
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s/caption", cfg->split);
    if (!h5_open(cfg->data_file, FILE_DATA, &reader->data, fault) ||
        !lineage_read(reader->data, &reader->lineage, fault))
        return false;
    if (!h5_exists(reader->data, name))
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s is missing: it has no split %s", cfg->data_file,
                           name, cfg->split);
    if (!open_dataset(run, reader, dtype, fault)) return false;
    const struct dataset_info *info = dataset_info(reader->dataset);
    int64_t rows = cfg->limit > 0 && cfg->limit < info->items ? cfg->limit : info->items;
    if (!read_column(reader->data, cfg->split, "caption", rows, &prompts->text, fault) ||
        !read_column(reader->data, cfg->split, "group", rows, &prompts->group, fault))
        return false;
    prompts->count = rows;
    prompts->item = check_malloc((size_t)rows * sizeof *prompts->item);
    for (int64_t i = 0; i < rows; i++) prompts->item[i] = i;
    prompts->tokens = info->tokens;
    prompts->text_width = info->text_width;
    prompts->embedding_width = info->embedding_width;
    prompts->height = info->height;
    prompts->width = info->width;
    memcpy(prompts->data_id, reader->lineage.content_id, sizeof prompts->data_id);
    return true;
}

// ---- the encoder

/* Token states as data.h5 has them, rounded to IEEE half: a prompt of a split and the same text give the same
 * picture. */
static bool round_states(float *states, int64_t count, struct fault *fault)
{
    return half_round(states, count) < 0 ||
           fault_raise(fault, EXIT_CODE_INPUT, "a token state does not fit into IEEE half");
}

/* Texts to states [count, T, D] and mask [count, T]. */
static bool encode(struct prompt_reader *reader, int count, const char *const *text, float *states,
                   float *mask, struct fault *fault)
{
    struct prompt_encoder *encoder = &reader->encoder;
    int32_t *length = check_malloc((size_t)count * sizeof *length);
    prompt_encoder_encode(encoder, count, text, length, states, NULL);
    for (int i = 0; i < count; i++)
        for (int t = 0; t < encoder->tokens; t++) mask[i * encoder->tokens + t] = t < length[i];
    free(length);
    return round_states(states, (int64_t)count * encoder->tokens * encoder->text_width, fault);
}

/* Whether an encoder is the one that `other` was made with; an id of NULL is not compared. */
static bool check_encoder(const char *name, const char *states_id, const char *embedding_id,
                          const struct lineage *other, const char *other_name, struct fault *fault)
{
    struct lineage text = *other; // text has no latents
    if (states_id) text.text_encoder = (char *)states_id;
    if (embedding_id) text.sentence_encoder = (char *)embedding_id;
    return lineage_check(&text, name, other, other_name, fault);
}

static const char *states_folder(const struct sample_cfg *cfg)
{
    return *cfg->pipeline ? cfg->pipeline : cfg->sentence_encoder;
}

/* Text that is encoded here must become what the data's was. */
static bool check_split_encoder(const struct prompt_reader *reader, const struct sample_prompts *prompts,
                                struct fault *fault)
{
    const struct sample_cfg *cfg = reader->cfg;
    const struct prompt_encoder *encoder = &reader->encoder;
    if (!check_encoder(states_folder(cfg), prompt_encoder_states_id(encoder), NULL, &reader->lineage,
                       cfg->data_file, fault))
        return false;
    return (encoder->tokens == prompts->tokens && encoder->text_width == prompts->text_width) ||
           fault_raise(fault, EXIT_CODE_INPUT, "%s makes %d token states of %d numbers, %s has %lld of %lld",
                       states_folder(cfg), encoder->tokens, encoder->text_width, cfg->data_file,
                       (long long)prompts->tokens, (long long)prompts->text_width);
}

/* A sentence encoder is needed for its token states where there is no pipeline, and for z of text that is
 * routed. */
static bool open_encoder(const struct run *run, struct prompt_reader *reader, enum dtype dtype,
                         struct sample_prompts *prompts, struct fault *fault)
{
    const struct sample_cfg *cfg = reader->cfg;
    bool split = reader->dataset != NULL;
    bool sentence = !*cfg->pipeline || (!split && cfg->model == SAMPLE_ROUTED);
    bool same_tokens = split && !*cfg->pipeline; // a pipeline's are its tokenizer's
    struct prompt_encoder_options options = {.sentence_encoder = sentence ? cfg->sentence_encoder : "",
                                             .pipeline = cfg->pipeline,
                                             .batch = ENCODER_BATCH,
                                             .tokens = (int)(same_tokens ? prompts->tokens : cfg->max_tokens),
                                             .normalize = cfg->normalize_embedding,
                                             .dtype = dtype};
    reader->backend = open_encoding(run, cfg);
    if (!prompt_encoder_open(&reader->encoder, reader->backend, options, fault)) return false;
    if (split) return check_split_encoder(reader, prompts, fault);
    prompts->tokens = reader->encoder.tokens;
    prompts->text_width = reader->encoder.text_width;
    prompts->embedding_width = reader->encoder.embedding_width;
    return true;
}

/* The token states of what guidance leads away from. */
static bool read_away(struct prompt_reader *reader, struct sample_prompts *prompts, struct fault *fault)
{
    size_t states = (size_t)(prompts->tokens * prompts->text_width);
    reader->away = check_malloc(states * sizeof(float));
    reader->away_mask = check_malloc((size_t)prompts->tokens * sizeof(float));
    const char *text = reader->cfg->negative_prompt;
    if (reader->backend) return encode(reader, 1, &text, reader->away, reader->away_mask, fault);
    struct batch batch;
    dataset_ask(reader->dataset, 1, (int64_t[]){0}, (int[]){0}, (bool[]){true});
    if (!dataset_take(reader->dataset, &batch, fault)) return false;
    memcpy(reader->away, batch.text_states, states * sizeof(float));
    memcpy(reader->away_mask, batch.text_mask, (size_t)prompts->tokens * sizeof(float));
    return true;
}

// ---- all of it

static bool read_prompts(const struct run *run, enum dtype dtype, struct sample_prompts *prompts,
                         struct fault *fault)
{
    struct prompt_reader *reader = prompts->reader;
    const struct sample_cfg *cfg = reader->cfg;
    if (*cfg->split) return read_split(run, reader, dtype, prompts, fault);
    bool ok = *cfg->prompts ? read_file(run, cfg->prompts, prompts, fault)
                            : read_list(&cfg->prompt_list, prompts, fault);
    if (!ok) return false;
    if (prompts->count == 0)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s has no prompt",
                           strcmp(cfg->prompts, "-") == 0 ? "standard input" : cfg->prompts);
    if (cfg->limit > 0 && cfg->limit < prompts->count) prompts->count = cfg->limit;
    return true;
}

bool sample_prompts_open(const struct run *run, const struct sample_cfg *cfg, enum dtype dtype,
                         struct sample_prompts *prompts, struct fault *fault)
{
    *prompts = (struct sample_prompts){.reader = check_calloc(1, sizeof *prompts->reader)};
    prompts->reader->cfg = cfg;
    bool encodes = !*cfg->split || *cfg->negative_prompt;
    if (read_prompts(run, dtype, prompts, fault) &&
        (!encodes || open_encoder(run, prompts->reader, dtype, prompts, fault)))
        read_away(prompts->reader, prompts, fault);
    return comm_agree(run->comm, fault);
}

void sample_prompts_close(struct sample_prompts *prompts)
{
    struct prompt_reader *reader = prompts->reader;
    if (!reader) return;
    text_list_clear(&prompts->text);
    text_list_clear(&prompts->group);
    free(prompts->item);
    dataset_close(reader->dataset);
    h5_close(reader->data);
    lineage_clear(&reader->lineage);
    prompt_encoder_close(&reader->encoder);
    text_encoder_close(&reader->text);
    if (reader->text_backend) backend_close(reader->text_backend);
    if (reader->backend) backend_close(reader->backend);
    free(reader->away);
    free(reader->away_mask);
    free(reader);
    *prompts = (struct sample_prompts){0};
}

bool sample_prompts_check(const struct sample_prompts *prompts, const struct lineage *other,
                          const char *other_name, struct fault *fault)
{
    const struct prompt_reader *reader = prompts->reader;
    if (reader->dataset)
        return lineage_check(&reader->lineage, reader->cfg->data_file, other, other_name, fault);
    const struct sample_cfg *cfg = reader->cfg;
    const struct prompt_encoder *encoder = &reader->encoder;
    return check_encoder(states_folder(cfg), prompt_encoder_states_id(encoder), NULL, other, other_name,
                         fault) &&
           check_encoder(cfg->sentence_encoder, NULL, prompt_encoder_embedding_id(encoder), other, other_name,
                         fault);
}

void sample_prompts_memory(const struct sample_prompts *prompts, size_t *weights, size_t *activations)
{
    const struct prompt_reader *reader = prompts->reader;
    *weights = reader->backend ? backend_bytes(reader->backend) : 0;
    *activations = prompt_encoder_peak(&reader->encoder);
}

bool sample_prompts_embed(const struct sample_prompts *prompts, int64_t first, int64_t rows, double *z,
                          struct fault *fault)
{
    struct prompt_reader *reader = prompts->reader;
    if (reader->dataset) {
        char name[NAME_SIZE];
        snprintf(name, sizeof name, "%s/embedding", reader->cfg->split);
        return h5_read_double(reader->data, name, first, rows, z, fault);
    }
    int64_t width = prompts->embedding_width;
    int32_t *length = check_malloc((size_t)rows * sizeof *length);
    float *embedding = check_malloc((size_t)(rows * width) * sizeof *embedding);
    prompt_encoder_encode(&reader->encoder, (int)rows, (const char *const *)prompts->text.item + first,
                          length, NULL, embedding);
    for (int64_t i = 0; i < rows * width; i++) z[i] = (double)embedding[i];
    free(length);
    free(embedding);
    return true;
}

static bool encode_texts(const struct sample_prompts *prompts, int64_t rows, const int64_t *prompt,
                         float *states, float *mask, struct fault *fault)
{
    const char **text = check_malloc((size_t)rows * sizeof *text);
    for (int64_t i = 0; i < rows; i++) text[i] = prompts->text.item[prompt[i]];
    bool ok = encode(prompts->reader, (int)rows, text, states, mask, fault);
    free(text);
    return ok;
}

static bool read_states(const struct sample_prompts *prompts, int64_t rows, const int64_t *prompt,
                        float *states, float *mask, struct fault *fault)
{
    int *flip = check_calloc((size_t)rows, sizeof *flip);
    struct batch batch;
    dataset_ask(prompts->reader->dataset, rows, prompt, flip, NULL); // a split's prompts are its first rows
    bool ok = dataset_take(prompts->reader->dataset, &batch, fault);
    if (ok) {
        memcpy(states, batch.text_states,
               (size_t)(rows * prompts->tokens * prompts->text_width) * sizeof *states);
        memcpy(mask, batch.text_mask, (size_t)(rows * prompts->tokens) * sizeof *mask);
    }
    free(flip);
    return ok;
}

bool sample_prompts_encode(const struct sample_prompts *prompts, int64_t rows, const int64_t *prompt,
                           float *states, float *mask, struct fault *fault)
{
    const struct prompt_reader *reader = prompts->reader;
    int64_t T = prompts->tokens, size = T * prompts->text_width;
    for (int64_t i = 0; i < rows; i++) {
        memcpy(states + i * size, reader->away, (size_t)size * sizeof *states);
        memcpy(mask + i * T, reader->away_mask, (size_t)T * sizeof *mask);
    }
    states += rows * size;
    mask += rows * T;
    return reader->dataset ? read_states(prompts, rows, prompt, states, mask, fault)
                           : encode_texts(prompts, rows, prompt, states, mask, fault);
}
