#define _POSIX_C_SOURCE 200809L // access, stpcpy
#include "models/wordpiece_folder.h"

#include "base/check.h"
#include "models/config_keys.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SPECIAL = 256 };

#define COUNT(table) (sizeof table / sizeof *table)

/* What the files say, as it is found. */
struct reading {
    struct wordpiece_options options;
    struct wordpiece_special special[MAX_SPECIAL]; // texts are the documents'
    int64_t most_tokens;
};

// ---- special tokens

/* An entry of tokenizer.json's added_tokens, or of tokenizer_config.json's added_tokens_decoder. Blanks
 * beside a token (lstrip, rstrip) make no token anyway. */
static bool read_special(struct json token, struct reading *out, struct fault *fault)
{
    static const struct config_key keys[] = {
        {"content", CONFIG_READ, NULL},      {"normalized", CONFIG_READ, NULL},
        {"single_word", CONFIG_FALSE, NULL}, {"id", CONFIG_IGNORED, NULL},
        {"lstrip", CONFIG_IGNORED, NULL},    {"rstrip", CONFIG_IGNORED, NULL},
        {"special", CONFIG_IGNORED, NULL},
    };
    struct json content, normalized;
    struct wordpiece_special special;
    if (out->options.special_count == MAX_SPECIAL)
        return json_fault(token, fault, "more than %d special tokens", MAX_SPECIAL);
    if (!config_keys_check(token, keys, COUNT(keys), fault) ||
        !json_require(token, "content", &content, fault) || !json_get_string(content, &special.text, fault) ||
        !json_require(token, "normalized", &normalized, fault) ||
        !json_get_bool(normalized, &special.cleaned, fault))
        return false;
    out->special[out->options.special_count++] = special;
    return true;
}

/* A token with a role is the class's: a string, or an object with `content`. */
static bool check_role(struct json root, const char *key, enum wordpiece_role role,
                       const struct reading *reading, struct fault *fault)
{
    const char *expected = wordpiece_role_text(reading->options.kind, role), *text;
    struct json value;
    if (!json_member(root, key, &value) || json_kind(value) == JSON_KIND_NULL) return true;
    if (json_kind(value) == JSON_KIND_OBJECT && !json_require(value, "content", &value, fault)) return false;
    if (!json_get_string(value, &text, fault)) return false;
    return strcmp(text, expected) == 0 ||
           json_fault(value, fault, "this value is not supported, only \"%s\"", expected);
}

static bool check_roles(struct json root, const struct reading *reading, struct fault *fault)
{
    static const struct {
        const char *key;
        enum wordpiece_role role;
    } roles[] = {{"pad_token", WORDPIECE_PADDING}, {"unk_token", WORDPIECE_UNKNOWN},
                 {"cls_token", WORDPIECE_FIRST},   {"bos_token", WORDPIECE_FIRST},
                 {"sep_token", WORDPIECE_LAST},    {"eos_token", WORDPIECE_LAST},
                 {"mask_token", WORDPIECE_MASK}};
    for (size_t i = 0; i < COUNT(roles); i++)
        if (!check_role(root, roles[i].key, roles[i].role, reading, fault)) return false;
    return true;
}

// ---- tokenizer_config.json

static bool read_class(struct json root, enum wordpiece_kind *kind, struct fault *fault)
{
    static const struct {
        const char *name;
        enum wordpiece_kind kind;
    } classes[] = {{"BertTokenizer", WORDPIECE_BERT},
                   {"BertTokenizerFast", WORDPIECE_BERT},
                   {"MPNetTokenizer", WORDPIECE_MPNET},
                   {"MPNetTokenizerFast", WORDPIECE_MPNET}};
    struct json value;
    const char *name;
    if (!json_require(root, "tokenizer_class", &value, fault) || !json_get_string(value, &name, fault))
        return false;
    for (size_t i = 0; i < COUNT(classes); i++)
        if (strcmp(classes[i].name, name) == 0) {
            *kind = classes[i].kind;
            return true;
        }
    return json_fault(value, fault, "%.50s is not supported, only BertTokenizer and MPNetTokenizer", name);
}

static bool member_bool(struct json object, const char *key, bool *out, struct fault *fault)
{
    struct json value;
    return !json_member(object, key, &value) || json_get_bool(value, out, fault);
}

/* strip_accents: as `lower_case` where it is null or missing */
static bool read_strip_accents(struct json object, bool lower_case, bool *out, struct fault *fault)
{
    struct json value;
    *out = lower_case;
    return !json_member(object, "strip_accents", &value) || json_kind(value) == JSON_KIND_NULL ||
           json_get_bool(value, out, fault);
}

static bool read_config(struct json root, struct reading *out, struct fault *fault)
{
    static const struct config_key keys[] = {
        {"do_lower_case", CONFIG_READ, NULL},
        {"strip_accents", CONFIG_READ, NULL},
        {"tokenize_chinese_chars", CONFIG_READ, NULL},
        {"tokenizer_class", CONFIG_READ, NULL},
        {"model_max_length", CONFIG_READ, NULL},
        {"added_tokens_decoder", CONFIG_READ, NULL},
        {"do_basic_tokenize", CONFIG_TRUE, NULL},
        {"never_split", CONFIG_EMPTY, NULL},
        {"pad_token", CONFIG_READ, NULL},
        {"unk_token", CONFIG_READ, NULL},
        {"cls_token", CONFIG_READ, NULL},
        {"bos_token", CONFIG_READ, NULL},
        {"sep_token", CONFIG_READ, NULL},
        {"eos_token", CONFIG_READ, NULL},
        {"mask_token", CONFIG_READ, NULL},
    };
    struct wordpiece_options *options = &out->options;
    struct json value, token;
    *options = (struct wordpiece_options){.lower_case = true, .split_cjk = true, .special = out->special};
    out->most_tokens = 0;
    const struct config_table tables[] = {{keys, COUNT(keys)}, config_tokenizer_keys};
    if (!config_tables_check(root, tables, COUNT(tables), fault) ||
        !read_class(root, &options->kind, fault) || !check_roles(root, out, fault) ||
        !member_bool(root, "do_lower_case", &options->lower_case, fault) ||
        !member_bool(root, "tokenize_chinese_chars", &options->split_cjk, fault) ||
        !read_strip_accents(root, options->lower_case, &options->strip_accents, fault))
        return false;
    if (json_member(root, "model_max_length", &value) &&
        !json_get_int64(value, 1, INT64_MAX, &out->most_tokens, fault))
        return false;
    void *iterator = NULL;
    const char *id;
    if (json_member(root, "added_tokens_decoder", &value))
        while (json_next(value, &iterator, &id, &token))
            if (!read_special(token, out, fault)) return false;
    return true;
}

// ---- tokenizer.json

/* The vocabulary as the text of a vocab.txt; the caller frees it. */
static bool join_vocabulary(struct json vocabulary, char **text, struct fault *fault)
{
    size_t count = json_size(vocabulary), length = 0;
    if (json_kind(vocabulary) != JSON_KIND_OBJECT || count == 0 || count > WORDPIECE_MAX_VOCABULARY)
        return json_fault(vocabulary, fault, "allowed is an object of 1 to %d tokens",
                          WORDPIECE_MAX_VOCABULARY);
    const char **token = check_calloc(count, sizeof *token), *key;
    void *iterator = NULL;
    struct json value;
    int64_t id;
    bool ok = true;
    while (ok && json_next(vocabulary, &iterator, &key, &value)) {
        ok = json_get_int64(value, 0, (int64_t)count - 1, &id, fault);
        if (ok && token[id]) ok = json_fault(value, fault, "the id %lld again", (long long)id);
        if (ok && strchr(key, '\n')) ok = json_fault(value, fault, "a token with a line break");
        if (!ok) break;
        token[id] = key;
        length += strlen(key) + 1;
    }
    if (ok) {
        char *end = *text = check_malloc(length + 1);
        for (size_t i = 0; i < count; i++) end = stpcpy(stpcpy(end, token[i]), "\n");
    }
    free(token);
    return ok;
}

static bool check_model(struct json model, const struct reading *reading, struct fault *fault)
{
    const struct config_key keys[] = {
        {"type", CONFIG_TEXT, "WordPiece"},
        {"unk_token", CONFIG_TEXT, wordpiece_role_text(reading->options.kind, WORDPIECE_UNKNOWN)},
        {"continuing_subword_prefix", CONFIG_TEXT, "##"},
        {"max_input_chars_per_word", CONFIG_READ, NULL},
        {"vocab", CONFIG_READ, NULL},
    };
    struct json value;
    int64_t longest;
    return config_keys_check(model, keys, COUNT(keys), fault) &&
           (!json_member(model, "max_input_chars_per_word", &value) ||
            json_get_int64(value, WORDPIECE_MAX_WORD, WORDPIECE_MAX_WORD, &longest, fault));
}

/* tokenizer_config.json has said it already. */
static bool check_normalizer(struct json normalizer, const struct reading *reading, struct fault *fault)
{
    const struct wordpiece_options *options = &reading->options;
    const struct config_key keys[] = {
        {"type", CONFIG_TEXT, "BertNormalizer"},
        {"clean_text", CONFIG_TRUE, NULL},
        {"handle_chinese_chars", options->split_cjk ? CONFIG_TRUE : CONFIG_FALSE, NULL},
        {"lowercase", options->lower_case ? CONFIG_TRUE : CONFIG_FALSE, NULL},
        {"strip_accents", CONFIG_READ, NULL},
    };
    bool strip_accents;
    if (!config_keys_check(normalizer, keys, COUNT(keys), fault) ||
        !read_strip_accents(normalizer, options->lower_case, &strip_accents, fault))
        return false;
    return strip_accents == options->strip_accents ||
           json_fault(normalizer, fault, "strip_accents is not what tokenizer_config.json says");
}

static bool read_tokenizer(struct json root, struct reading *out, struct json *vocabulary,
                           struct fault *fault)
{
    static const struct config_key keys[] = {
        {"added_tokens", CONFIG_READ, NULL},      {"normalizer", CONFIG_READ, NULL},
        {"pre_tokenizer", CONFIG_READ, NULL},     {"model", CONFIG_READ, NULL},
        {"version", CONFIG_IGNORED, NULL},        {"decoder", CONFIG_IGNORED, NULL}, // of ids to text
        {"truncation", CONFIG_IGNORED, NULL},     {"padding", CONFIG_IGNORED, NULL}, // the caller's
        {"post_processor", CONFIG_IGNORED, NULL}, // the class's: the first and the last token
    };
    static const struct config_key splitter[] = {{"type", CONFIG_TEXT, "BertPreTokenizer"}};
    struct json model, normalizer, pre_tokenizer, added;
    if (!config_keys_check(root, keys, COUNT(keys), fault) || !json_require(root, "model", &model, fault) ||
        !check_model(model, out, fault) || !json_require(root, "normalizer", &normalizer, fault) ||
        !check_normalizer(normalizer, out, fault) ||
        !json_require(root, "pre_tokenizer", &pre_tokenizer, fault) ||
        !config_keys_check(pre_tokenizer, splitter, COUNT(splitter), fault) ||
        !json_require(model, "vocab", vocabulary, fault))
        return false;
    if (!json_member(root, "added_tokens", &added)) return true;
    if (json_kind(added) != JSON_KIND_ARRAY) return json_fault(added, fault, "allowed is a list of tokens");
    for (size_t i = 0; i < json_size(added); i++)
        if (!read_special(json_element(added, i), out, fault)) return false;
    return true;
}

// ---- opening

static bool open_json(const char *path, struct reading *reading, struct wordpiece **tokenizer,
                      struct fault *fault)
{
    struct json_document *document = NULL;
    struct json vocabulary;
    char *text = NULL;
    bool ok = json_read(path, WORDPIECE_MAX_FILE, &document, fault) &&
              read_tokenizer(json_root(document), reading, &vocabulary, fault) &&
              join_vocabulary(vocabulary, &text, fault) &&
              wordpiece_parse(text, strlen(text), path, reading->options, tokenizer, fault);
    free(text);
    json_free(document);
    return ok;
}

bool wordpiece_folder_open(const char *folder, struct wordpiece **tokenizer, int64_t *most_tokens,
                           struct fault *fault)
{
    struct reading reading;
    struct json_document *config = NULL;
    char *json_path = check_format("%s/tokenizer.json", folder);
    char *text_path = check_format("%s/vocab.txt", folder);
    bool ok = config_open(folder, "tokenizer_config.json", &config, fault) &&
              read_config(json_root(config), &reading, fault) &&
              (access(json_path, F_OK) == 0 ? open_json(json_path, &reading, tokenizer, fault)
                                            : wordpiece_read(text_path, reading.options, tokenizer, fault));
    if (ok) *most_tokens = reading.most_tokens;
    json_free(config);
    free(text_path);
    free(json_path);
    return ok;
}
