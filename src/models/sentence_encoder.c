#include "models/sentence_encoder.h"

#include "base/check.h"
#include "models/config_keys.h"
#include "models/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    JSON_MAX_BYTES = 1 << 20,
    PATH_SIZE = 4096,
    LEAST_WIDTH = 16, // tokens of the narrowest batch
};

/* What a folder says. */
struct folder {
    const char *root;                                // the encoder's folder, borrowed
    char transformer[PATH_SIZE], pooling[PATH_SIZE]; // folders of the modules
    bool normalize;                                  // has a Normalize module
    int64_t tokens;                                  // max_seq_length
    struct wordpiece_options words;
    struct bert_config bert;
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
    char path[PATH_SIZE];
    struct json_document *document;
    if (!join(path, folder, name, fault) || !json_read(path, JSON_MAX_BYTES, &document, fault)) return false;
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
    return json_get_int64(value, out->bert.channels, out->bert.channels, &width, fault);
}

/* sentence_bert_config.json */
static bool read_lengths(struct json root, struct folder *out, struct fault *fault)
{
    static const struct config_key keys[] = {
        {"max_seq_length", CONFIG_READ, NULL},
        {"do_lower_case", CONFIG_FALSE, NULL}, // lowering before the tokenizer, which does it itself
    };
    struct json value;
    if (!config_keys_check(root, keys, sizeof keys / sizeof keys[0], fault)) return false;
    return json_require(root, "max_seq_length", &value, fault) &&
           json_get_int64(value, 2, out->bert.positions, &out->tokens, fault);
}

static bool member_bool(struct json object, const char *key, bool *out, struct fault *fault)
{
    struct json value;
    return !json_member(object, key, &value) || json_get_bool(value, out, fault);
}

static bool read_tokenizer(struct json root, struct folder *out, struct fault *fault)
{
    static const struct config_key keys[] = {
        {"do_lower_case", CONFIG_READ, NULL},
        {"strip_accents", CONFIG_READ, NULL},
        {"tokenize_chinese_chars", CONFIG_READ, NULL},
        {"tokenizer_class", CONFIG_READ, NULL},
        {"do_basic_tokenize", CONFIG_TRUE, NULL},
        {"never_split", CONFIG_EMPTY, NULL},
        {"additional_special_tokens", CONFIG_EMPTY, NULL},
        {"extra_special_tokens", CONFIG_EMPTY, NULL},
        {"pad_token", CONFIG_TEXT, "[PAD]"},
        {"unk_token", CONFIG_TEXT, "[UNK]"},
        {"cls_token", CONFIG_TEXT, "[CLS]"},
        {"sep_token", CONFIG_TEXT, "[SEP]"},
        {"mask_token", CONFIG_TEXT, "[MASK]"},
        {"padding_side", CONFIG_TEXT, "right"},
        {"truncation_side", CONFIG_TEXT, "right"},
        // lengths are sentence_bert_config.json's; the rest says where files were, or how ids become text
        {"backend", CONFIG_IGNORED, NULL},
        {"clean_up_tokenization_spaces", CONFIG_IGNORED, NULL},
        {"is_local", CONFIG_IGNORED, NULL},
        {"max_length", CONFIG_IGNORED, NULL},
        {"model_max_length", CONFIG_IGNORED, NULL},
        {"name_or_path", CONFIG_IGNORED, NULL},
        {"pad_to_multiple_of", CONFIG_IGNORED, NULL},
        {"pad_token_type_id", CONFIG_IGNORED, NULL},
        {"special_tokens_map_file", CONFIG_IGNORED, NULL},
        {"stride", CONFIG_IGNORED, NULL},
        {"tokenizer_file", CONFIG_IGNORED, NULL},
        {"truncation_strategy", CONFIG_IGNORED, NULL},
    };
    struct wordpiece_options *words = &out->words;
    struct json value;
    const char *class;
    *words = (struct wordpiece_options){.lower_case = true, .split_cjk = true};
    if (!config_keys_check(root, keys, sizeof keys / sizeof keys[0], fault)) return false;
    if (!member_text(root, "tokenizer_class", &class, fault)) return false;
    if (strcmp(class, "BertTokenizer") != 0 && strcmp(class, "BertTokenizerFast") != 0)
        return json_fault(root, fault, "tokenizer_class %s is not supported, only BertTokenizer", class);
    if (!member_bool(root, "do_lower_case", &words->lower_case, fault) ||
        !member_bool(root, "tokenize_chinese_chars", &words->split_cjk, fault))
        return false;
    words->strip_accents = words->lower_case;
    return !json_member(root, "strip_accents", &value) || json_kind(value) == JSON_KIND_NULL ||
           json_get_bool(value, &words->strip_accents, fault);
}

static bool read_model(struct json root, struct folder *out, struct fault *fault)
{
    return bert_config_read(&out->bert, root, fault);
}

static bool read_folder(struct folder *out, const char *folder, struct fault *fault)
{
    *out = (struct folder){.root = folder};
    return read_json(folder, "modules.json", out, read_modules, fault) &&
           read_json(out->transformer, "config.json", out, read_model, fault) &&
           read_json(out->transformer, "sentence_bert_config.json", out, read_lengths, fault) &&
           read_json(out->transformer, "tokenizer_config.json", out, read_tokenizer, fault) &&
           read_json(out->pooling, "config.json", out, read_pooling, fault);
}

// ---- opening

static bool open_tokenizer(struct sentence_encoder *encoder, const struct folder *folder, const char *path,
                           struct fault *fault)
{
    if (!wordpiece_read(path, folder->words, &encoder->tokenizer, fault)) return false;
    if (wordpiece_count(encoder->tokenizer) <= folder->bert.vocabulary) return true;
    return fault_raise(fault, EXIT_CODE_INPUT, "%s: %d tokens, but vocab_size in config.json is %lld", path,
                       (int)wordpiece_count(encoder->tokenizer), (long long)folder->bert.vocabulary);
}

static bool open_bert(struct sentence_encoder *encoder, struct backend *backend, const struct folder *folder,
                      enum dtype dtype, struct fault *fault)
{
    encoder->bert = bert_new(backend, &folder->bert);
    struct parameter_set *set = &encoder->bert->parameters;
    if (!weights_load_folder(set, folder->transformer, "model", &bert_names, false, fault)) return false;
    parameter_set_freeze(set, dtype, false);
    return true;
}

/* The hash of everything that makes z what it is, but for the precision and the most tokens. */
static bool identify(struct sentence_encoder *encoder, const struct folder *folder, const char *weights,
                     const char *vocabulary, struct fault *fault)
{
    char weights_hash[SHA256_HEX_SIZE], vocabulary_hash[SHA256_HEX_SIZE];
    if (!sha256_file(weights, weights_hash, fault) || !sha256_file(vocabulary, vocabulary_hash, fault))
        return false;
    char *ids[] = {encoder->states_id, encoder->id};
    for (int i = 0; i < 2; i++) {
        char *text = check_format("bert weights %s heads %lld epsilon %.17g\n"
                                  "wordpiece vocabulary %s lower_case %d strip_accents %d split_cjk %d\n"
                                  "pooling mean normalize %d\n",
                                  weights_hash, (long long)folder->bert.heads, folder->bert.epsilon,
                                  vocabulary_hash, folder->words.lower_case, folder->words.strip_accents,
                                  folder->words.split_cjk, i == 1 && encoder->normalize);
        struct sha256 *hash = sha256_new();
        sha256_add(hash, text, strlen(text));
        sha256_finish(hash, ids[i]);
        free(text);
    }
    return true;
}

static bool open_encoder(struct sentence_encoder *encoder, struct backend *backend, const char *path,
                         struct sentence_encoder_options options, struct fault *fault)
{
    struct folder folder;
    char weights[PATH_SIZE], vocabulary[PATH_SIZE];
    if (!read_folder(&folder, path, fault) ||
        !join(weights, folder.transformer, "model.safetensors", fault) ||
        !join(vocabulary, folder.transformer, "vocab.txt", fault))
        return false;
    if (options.tokens != 0 && (options.tokens < 2 || options.tokens > folder.tokens))
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: %d tokens a sentence, allowed 2 to %lld (max_seq_length)", path,
                           options.tokens, (long long)folder.tokens);
    encoder->batch = options.batch;
    encoder->tokens = options.tokens ? options.tokens : (int)folder.tokens;
    encoder->channels = (int)folder.bert.channels;
    encoder->normalize = options.normalize && folder.normalize;
    if (!open_tokenizer(encoder, &folder, vocabulary, fault) ||
        !open_bert(encoder, backend, &folder, options.dtype, fault) ||
        !identify(encoder, &folder, weights, vocabulary, fault))
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
    bert_delete(encoder->bert);
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
    struct tensor *input = tape_input(tape, DTYPE_I32, 2, shape, batch_ids); // [B, width]
    struct tensor *mask = tape_input(tape, DTYPE_F32, 2, shape, batch_mask); // [B, width]
    struct tensor *hidden = bert_forward(tape, encoder->bert, input, mask);  // [B, width, D]
    struct tensor *mean = op_masked_mean(tape, hidden, mask);                // [B, D]
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
