#include "models/sentence_encoder.h"

#include "base/check.h"
#include "models/config_keys.h"
#include "models/token_encoder_folder.h"
#include "models/wordpiece_folder.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PATH_SIZE = 4096,
    LEAST_WIDTH = 16, // tokens of the narrowest batch
};

/* What a folder says. */
struct folder {
    const char *root;                                // the encoder's folder, borrowed
    char transformer[PATH_SIZE], pooling[PATH_SIZE]; // folders of the modules
    bool normalize;                                  // has a Normalize module
    int64_t tokens;                                  // max_seq_length; 0: not said
    struct token_encoder_config model;
};

// ---- reading the folder

static bool join(char path[PATH_SIZE], const char *folder, const char *name, struct fault *fault)
{
    int length = snprintf(path, PATH_SIZE, "%s%s%s", folder, *name ? "/" : "", name);
    if (length >= 0 && length < PATH_SIZE) return true;
    return fault_raise(fault, EXIT_CODE_INPUT, "%.200s...: the path is too long", folder);
}

/* Reads folder/name and hands its root to `read`. */
static bool read_json(const char *folder, const char *name, struct folder *out,
                      bool (*read)(struct json root, struct folder *out, struct fault *fault),
                      struct fault *fault)
{
    struct json_document *document;
    if (!config_open(folder, name, &document, fault)) return false;
    bool done = read(json_root(document), out, fault);
    json_free(document);
    return done;
}

static bool member_text(struct json object, const char *key, const char **text, struct fault *fault)
{
    struct json value;
    return json_require(object, key, &value, fault) && json_get_string(value, text, fault);
}

/* A module's folder: inside of the encoder's. */
static bool module_folder(struct json module, const char *folder, char path[PATH_SIZE], struct fault *fault)
{
    const char *name;
    if (!member_text(module, "path", &name, fault)) return false;
    if (name[0] == '/' || strstr(name, ".."))
        return json_fault(module, fault, "path \"%s\" leads out of the folder", name);
    return join(path, folder, name, fault);
}

/* modules.json: Transformer, Pooling and perhaps Normalize, in this order. */
static bool read_modules(struct json root, struct folder *out, struct fault *fault)
{
    static const char *const expected[] = {"Transformer", "Pooling", "Normalize"};
    size_t count = json_size(root);
    if (json_kind(root) != JSON_KIND_ARRAY || count < 2 || count > 3)
        return json_fault(root, fault,
                          "allowed is a list of the modules Transformer, Pooling and, optionally, Normalize");
    for (size_t i = 0; i < count; i++) {
        struct json module = json_element(root, i);
        const char *type;
        if (!member_text(module, "type", &type, fault)) return false;
        const char *dot = strrchr(type, '.');
        if (strcmp(dot ? dot + 1 : type, expected[i]) != 0)
            return json_fault(module, fault, "module %s is not supported here, only %s", type, expected[i]);
        if (i < 2 && !module_folder(module, out->root, i ? out->pooling : out->transformer, fault))
            return false;
    }
    out->normalize = count == 3;
    return true;
}

static bool read_pooling(struct json root, struct folder *out, struct fault *fault)
{
    static const struct config_key keys[] = {
        {"word_embedding_dimension", CONFIG_READ, NULL},
        {"embedding_dimension", CONFIG_READ, NULL},
        {"pooling_mode", CONFIG_TEXT, "mean"},
        {"pooling_mode_mean_tokens", CONFIG_TRUE, NULL},
        {"pooling_mode_cls_token", CONFIG_FALSE, NULL},
        {"pooling_mode_max_tokens", CONFIG_FALSE, NULL},
        {"pooling_mode_mean_sqrt_len_tokens", CONFIG_FALSE, NULL},
        {"pooling_mode_weightedmean_tokens", CONFIG_FALSE, NULL},
        {"pooling_mode_lasttoken", CONFIG_FALSE, NULL},
        {"include_prompt", CONFIG_IGNORED, NULL}, // there are no prompts before a text here
    };
    struct json value;
    int64_t width;
    if (!config_keys_check(root, keys, sizeof keys / sizeof keys[0], fault)) return false;
    if (!json_member(root, "pooling_mode", &value) &&
        !json_require(root, "pooling_mode_mean_tokens", &value, fault))
        return false;
    if (!json_member(root, "embedding_dimension", &value) &&
        !json_require(root, "word_embedding_dimension", &value, fault))
        return false;
    return json_get_int64(value, out->model.channels, out->model.channels, &width, fault);
}

/* What a Transformer module takes in and gives out, as newer folders say it: only text, its token states. */
static bool check_modality(struct json root, struct fault *fault)
{
    static const struct config_key kinds[] = {{"text", CONFIG_READ, NULL}};
    static const struct config_key text_keys[] = {
        {"method", CONFIG_TEXT, "forward"},
        {"method_output_name", CONFIG_TEXT, "last_hidden_state"},
    };
    struct json modality, text;
    return !json_member(root, "modality_config", &modality) ||
           (config_keys_check(modality, kinds, sizeof kinds / sizeof kinds[0], fault) &&
            json_require(modality, "text", &text, fault) &&
            config_keys_check(text, text_keys, sizeof text_keys / sizeof text_keys[0], fault));
}

/* sentence_bert_config.json */
static bool read_lengths(struct json root, struct folder *out, struct fault *fault)
{
    static const struct config_key keys[] = {
        {"max_seq_length", CONFIG_READ, NULL},
        {"do_lower_case", CONFIG_FALSE, NULL}, // lowering before the tokenizer, which does it itself
        {"transformer_task", CONFIG_TEXT, "feature-extraction"},
        {"modality_config", CONFIG_READ, NULL},
        {"module_output_name", CONFIG_TEXT, "token_embeddings"},
    };
    struct json value;
    return config_keys_check(root, keys, sizeof keys / sizeof keys[0], fault) &&
           check_modality(root, fault) &&
           (!json_member(root, "max_seq_length", &value) || json_kind(value) == JSON_KIND_NULL ||
            json_get_int64(value, 2, token_encoder_most_tokens(&out->model), &out->tokens, fault));
}

static bool read_folder(struct folder *out, const char *folder, struct fault *fault)
{
    *out = (struct folder){.root = folder};
    return read_json(folder, "modules.json", out, read_modules, fault) &&
           token_encoder_folder_config(out->transformer, &out->model, fault) &&
           read_json(out->transformer, "sentence_bert_config.json", out, read_lengths, fault) &&
           read_json(out->pooling, "config.json", out, read_pooling, fault);
}

// ---- opening

/* Also finds the most tokens of a sentence where sentence_bert_config.json does not say: then it is the
 * tokenizer's, as far as the model has positions. */
static bool open_tokenizer(struct sentence_encoder *encoder, struct folder *folder, struct fault *fault)
{
    int64_t most, positions = token_encoder_most_tokens(&folder->model);
    if (!wordpiece_folder_open(folder->transformer, &encoder->tokenizer, &most, fault)) return false;
    if (wordpiece_count(encoder->tokenizer) > folder->model.vocabulary)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: the vocabulary has %d tokens, but vocab_size in config.json is %lld",
                           folder->transformer, (int)wordpiece_count(encoder->tokenizer),
                           (long long)folder->model.vocabulary);
    if (folder->tokens == 0) folder->tokens = most == 0 || most > positions ? positions : most;
    return folder->tokens >= 2 ||
           fault_raise(fault, EXIT_CODE_INPUT, "%s: room for less than 2 tokens", folder->transformer);
}

/* The hash of everything that makes z what it is, but for the precision and the most tokens. */
static bool identify(struct sentence_encoder *encoder, const struct folder *folder, struct fault *fault)
{
    char weights[PATH_SIZE], weights_hash[SHA256_HEX_SIZE];
    if (!join(weights, folder->transformer, "model.safetensors", fault) ||
        !sha256_file(weights, weights_hash, fault))
        return false;
    char *ids[] = {encoder->states_id, encoder->id}, *tokenizer = wordpiece_describe(encoder->tokenizer);
    for (int i = 0; i < 2; i++) {
        char *text = check_format("%s weights %s heads %lld epsilon %.17g\n%spooling mean normalize %d\n",
                                  folder->model.model, weights_hash, (long long)folder->model.heads,
                                  folder->model.epsilon, tokenizer, i == 1 && encoder->normalize);
        sha256_bytes(text, strlen(text), ids[i]);
        free(text);
    }
    free(tokenizer);
    return true;
}

static bool open_encoder(struct sentence_encoder *encoder, struct backend *backend, const char *path,
                         struct sentence_encoder_options options, struct fault *fault)
{
    struct folder folder;
    if (!read_folder(&folder, path, fault) || !open_tokenizer(encoder, &folder, fault)) return false;
    if (options.tokens != 0 && (options.tokens < 2 || options.tokens > folder.tokens))
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: %d tokens a sentence, allowed 2 to %lld (max_seq_length)", path,
                           options.tokens, (long long)folder.tokens);
    encoder->batch = options.batch;
    encoder->tokens = options.tokens ? options.tokens : (int)folder.tokens;
    encoder->channels = (int)folder.model.channels;
    encoder->normalize = options.normalize && folder.normalize;
    if (!token_encoder_folder_open(backend, folder.transformer, &folder.model, options.dtype, &encoder->model,
                                   fault) ||
        !identify(encoder, &folder, fault))
        return false;
    encoder->tape = tape_new(backend, options.dtype);
    return true;
}

bool sentence_encoder_open(struct sentence_encoder *encoder, struct backend *backend, const char *folder,
                           struct sentence_encoder_options options, struct fault *fault)
{
    CHECK(options.batch >= 1, "a batch of %d sentences", options.batch);
    *encoder = (struct sentence_encoder){0};
    if (open_encoder(encoder, backend, folder, options, fault)) return true;
    sentence_encoder_close(encoder);
    return false;
}

void sentence_encoder_close(struct sentence_encoder *encoder)
{
    if (encoder->tape) tape_delete(encoder->tape);
    token_encoder_delete(encoder->model);
    wordpiece_free(encoder->tokenizer);
    *encoder = (struct sentence_encoder){0};
}

// ---- encoding

/* Tokens that a sentence of this length is padded to: a power of two, so that few widths are in use, but no
 * more than T. */
static int padded_width(const struct sentence_encoder *encoder, int32_t length)
{
    int width = LEAST_WIDTH;
    while (width < length) width *= 2;
    return width < encoder->tokens ? width : encoder->tokens;
}

static void normalize_row(float *row, int channels)
{
    double sum = 0;
    for (int i = 0; i < channels; i++) sum += (double)row[i] * row[i];
    double scale = 1 / fmax(sqrt(sum), 1e-12); // the bound is torch.nn.functional.normalize's
    for (int i = 0; i < channels; i++) row[i] = (float)(row[i] * scale);
}

/* One forward pass: sentences item[0..filled) of at most `width` tokens each; the batch's other rows repeat
 * the last one. ids [count, T] */
static void encode_batch(struct sentence_encoder *encoder, int width, int filled, const int *item,
                         const int32_t *ids, const int32_t *length, float *states, float *embedding)
{
    int64_t batch = encoder->batch, tokens = encoder->tokens, channels = encoder->channels;
    int32_t *batch_ids = check_malloc((size_t)(batch * width) * sizeof *batch_ids);    // [B, width]
    float *batch_mask = check_malloc((size_t)(batch * width) * sizeof *batch_mask);    // [B, width]
    float *batch_mean = check_malloc((size_t)(batch * channels) * sizeof *batch_mean); // [B, D]
    float *batch_states = states ? check_malloc((size_t)(batch * width * channels) * sizeof *states) : NULL;
    for (int64_t b = 0; b < batch; b++) {
        int sentence = item[b < filled ? b : filled - 1];
        memcpy(batch_ids + b * width, ids + sentence * tokens, (size_t)width * sizeof *ids);
        for (int t = 0; t < width; t++) batch_mask[b * width + t] = t < length[sentence];
    }

    struct tape *tape = encoder->tape;
    int64_t shape[] = {batch, width};
    tape_reset(tape, TAPE_NO_GRADIENT);
    struct tensor *mask = tape_input(tape, DTYPE_F32, 2, shape, batch_mask);              // [B, width]
    struct tensor *hidden = token_encoder_forward(tape, encoder->model, batch_ids, mask); // [B, width, D]
    struct tensor *mean = op_masked_mean(tape, hidden, mask);                             // [B, D]
    tape_read(tape, mean, batch_mean);
    if (states) tape_read(tape, hidden, batch_states);

    for (int b = 0; b < filled; b++) {
        float *z = embedding + item[b] * channels;
        memcpy(z, batch_mean + b * channels, (size_t)channels * sizeof *z);
        if (encoder->normalize) normalize_row(z, encoder->channels);
        if (states)
            memcpy(states + item[b] * tokens * channels, batch_states + b * width * channels,
                   (size_t)(length[item[b]] * channels) * sizeof *states);
    }
    free(batch_ids);
    free(batch_mask);
    free(batch_mean);
    free(batch_states);
}

void sentence_encoder_encode(struct sentence_encoder *encoder, int count, const char *const *text,
                             int32_t *length, float *states, float *embedding)
{
    int64_t tokens = encoder->tokens;
    int32_t *ids = check_malloc((size_t)(count * tokens) * sizeof *ids); // [count, T]
    int *item = check_malloc((size_t)encoder->batch * sizeof *item);
    for (int i = 0; i < count; i++)
        length[i] =
            wordpiece_encode(encoder->tokenizer, text[i], strlen(text[i]), encoder->tokens, ids + i * tokens);
    if (states) memset(states, 0, (size_t)(count * tokens * encoder->channels) * sizeof *states);

    for (int width = padded_width(encoder, 0), done = 0; done < count;
         width = padded_width(encoder, width + 1)) {
        int filled = 0;
        for (int i = 0; i <= count; i++) {
            if (i < count && padded_width(encoder, length[i]) == width) item[filled++] = i;
            if (filled == encoder->batch || (i == count && filled)) {
                encode_batch(encoder, width, filled, item, ids, length, states, embedding);
                done += filled;
                filled = 0;
            }
        }
    }
    free(item);
    free(ids);
}
