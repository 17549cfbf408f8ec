/* The files of CLIP's tokenizer. */
#define _POSIX_C_SOURCE 200809L // access
#include "base/check.h"
#include "io/json.h"
#include "io/text_file.h"
#include "models/clip_bpe_private.h"
#include "models/config_keys.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>

static const char END_OF_WORD[] = "</w>";

enum { UNKNOWN_TOKEN = -1 };

// ---- what is read while the tokenizer is made

struct token {
    const char *text; // the document's
    int32_t id;
};

/* A special token as the files give it. */
struct named_token {
    const char *text; // the document's
    bool normalized;
    int32_t id;
};

struct reading {
    const struct clip_bpe_files *files;
    struct json_document *config, *special, *tokenizer, *vocabulary; // owned; NULL: no such file
    struct token *token;                                             // [count], by text; owned
    struct named_token named[SPECIAL_NAMES];
    struct clip_bpe *made; // owned until it is handed over
};

// ---- vocabulary

static int compare_tokens(const void *a, const void *b)
{
    return strcmp(((const struct token *)a)->text, ((const struct token *)b)->text);
}

static int32_t find_token(const struct reading *reading, const char *text)
{
    struct token key = {.text = text};
    const struct token *found =
        bsearch(&key, reading->token, (size_t)reading->made->count, sizeof *reading->token, compare_tokens);
    return found ? found->id : UNKNOWN_TOKEN;
}

/* One token of `count`; taken[count]: ids that others have. */
static bool read_token(struct json value, const char *text, int64_t count, bool *taken, struct token *token,
                       struct fault *fault)
{
    int64_t id;
    if (!json_get_int64(value, 0, count - 1, &id, fault)) return false;
    if (taken[id]) return json_fault(value, fault, "id %lld is another token's", (long long)id);
    if (strlen(text) > CLIP_BPE_MAX_TOKEN)
        return json_fault(value, fault, "a token of %zu bytes, at most %d allowed", strlen(text),
                          CLIP_BPE_MAX_TOKEN);
    taken[id] = true;
    *token = (struct token){text, (int32_t)id};
    return true;
}

/* All tokens of an object {text: id}; ids are 0..count-1. */
static bool read_tokens(struct reading *reading, struct json vocabulary, struct fault *fault)
{
    size_t count = json_size(vocabulary);
    if (json_kind(vocabulary) != JSON_KIND_OBJECT || count < 1 || count > CLIP_BPE_MAX_VOCABULARY)
        return json_fault(vocabulary, fault, "allowed is an object of 1 to %d tokens",
                          CLIP_BPE_MAX_VOCABULARY);
    reading->made->count = (int32_t)count;
    reading->token = check_malloc(count * sizeof *reading->token);
    bool *taken = check_calloc(count, sizeof *taken);
    bool ok = true;
    void *iterator = NULL;
    const char *text;
    struct json value;
    for (size_t i = 0; ok && json_next(vocabulary, &iterator, &text, &value); i++)
        ok = read_token(value, text, (int64_t)count, taken, &reading->token[i], fault);
    free(taken);
    if (ok) qsort(reading->token, count, sizeof *reading->token, compare_tokens);
    return ok;
}

/* How the vocabulary writes a byte: itself where it can be seen, else the next character from U+0100 on. */
static void byte_character(int byte, int *hidden, char text[8])
{
    bool seen = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    int32_t character = seen ? byte : 0x100 + (*hidden)++;
    text[utf8proc_encode_char(character, (utf8proc_uint8_t *)text)] = 0;
}

static bool find_letters(struct reading *reading, struct fault *fault)
{
    int hidden = 0;
    for (int byte = 0; byte < 256; byte++) {
        char text[16], *end;
        byte_character(byte, &hidden, text);
        end = text + strlen(text);
        reading->made->letter[byte] = find_token(reading, text);
        memcpy(end, END_OF_WORD, sizeof END_OF_WORD);
        reading->made->last_letter[byte] = find_token(reading, text);
        if (reading->made->letter[byte] == UNKNOWN_TOKEN || reading->made->last_letter[byte] == UNKNOWN_TOKEN)
            return fault_raise(fault, EXIT_CODE_INPUT,
                               "%s: the vocabulary lacks byte 0x%02x, alone or with %s", reading->files->name,
                               (unsigned)byte, END_OF_WORD);
    }
    return true;
}

// ---- merges

/* Merges as they are read. */
struct merge_list {
    const struct reading *reading;
    struct merge *item;
    int32_t count, capacity;
    bool *made; // [tokens] is what a merge makes
};

/* Adds the merge of two tokens; `place` is for messages. */
static bool add_merge(struct merge_list *list, const char *left, const char *right, const char *place,
                      struct fault *fault)
{
    const struct reading *reading = list->reading;
    const char *name = reading->files->name;
    if (list->count == CLIP_BPE_MAX_VOCABULARY)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: more than %d merges", name, CLIP_BPE_MAX_VOCABULARY);
    if (strlen(left) > CLIP_BPE_MAX_TOKEN || strlen(right) > CLIP_BPE_MAX_TOKEN)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: a token of more than %d bytes", name, place,
                           CLIP_BPE_MAX_TOKEN);
    char both[2 * CLIP_BPE_MAX_TOKEN + 1];
    strcpy(both, left);
    strcat(both, right);
    const char *const text[] = {left, right, both};
    int32_t id[3];
    for (int i = 0; i < 3; i++) {
        id[i] = find_token(reading, text[i]);
        if (id[i] == UNKNOWN_TOKEN)
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: \"%s\" is not in the vocabulary", name, place,
                               text[i]);
    }
    if (list->made[id[2]])
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: \"%s\" is made by a merge before it", name, place,
                           both);
    list->made[id[2]] = true;
    if (list->count == list->capacity) {
        list->capacity = 2 * list->capacity + 1024;
        list->item = check_realloc(list->item, (size_t)list->capacity * sizeof *list->item);
    }
    list->item[list->count] = (struct merge){id[0], id[1], id[2], list->count};
    list->count++;
    return true;
}

/* "left right", in place */
static bool add_merge_text(struct merge_list *list, char *text, const char *place, struct fault *fault)
{
    char *space = strchr(text, ' ');
    if (!space || space == text || !space[1] || strchr(space + 1, ' '))
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: allowed are two tokens with one blank between",
                           list->reading->files->name, place);
    *space = 0;
    return add_merge(list, text, space + 1, place, fault);
}

/* merges.txt: a line each, behind lines that begin with "#version" */
static bool read_merge_lines(struct merge_list *list, const char *text, struct fault *fault)
{
    bool ok = true;
    for (long number = 1; ok && *text; number++) {
        size_t bytes = strcspn(text, "\n");
        char *line = check_format("%.*s", (int)bytes, text),
             *place = check_format("merges.txt, line %ld", number);
        size_t end = strlen(line);
        if (end && line[end - 1] == '\r') line[end - 1] = 0;
        ok = strncmp(line, "#version", 8) == 0 || add_merge_text(list, line, place, fault);
        free(place);
        free(line);
        text += bytes + (text[bytes] == '\n');
    }
    return ok;
}

/* tokenizer.json's: "left right", or [left, right] */
static bool read_merge_array(struct merge_list *list, struct json array, struct fault *fault)
{
    if (json_kind(array) != JSON_KIND_ARRAY) return json_fault(array, fault, "allowed is a list of merges");
    size_t count = json_size(array);
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++) {
        struct json value = json_element(array, i);
        const char *pair[2];
        size_t found;
        if (json_kind(value) == JSON_KIND_STRING) {
            ok = json_get_string(value, &pair[0], fault);
            char *text = ok ? check_strdup(pair[0]) : NULL;
            ok = ok && add_merge_text(list, text, value.place, fault);
            free(text);
        } else {
            ok = json_get_strings(value, 2, pair, &found, fault);
            if (ok && found != 2) ok = json_fault(value, fault, "allowed are two tokens");
            ok = ok && add_merge(list, pair[0], pair[1], value.place, fault);
        }
    }
    return ok;
}

// ---- special tokens

static const char *const special_keys[SPECIAL_NAMES] = {"bos_token", "eos_token", "unk_token", "pad_token"};

/* A special token: its text, or an object. A text alone is looked for before normalisation. */
static bool read_special(struct json value, struct named_token *token, struct fault *fault)
{
    static const struct config_key keys[] = {
        {"content", CONFIG_READ, NULL},      {"normalized", CONFIG_READ, NULL},
        {"lstrip", CONFIG_FALSE, NULL},      {"rstrip", CONFIG_FALSE, NULL},
        {"single_word", CONFIG_FALSE, NULL}, {"special", CONFIG_IGNORED, NULL},
        {"id", CONFIG_READ, NULL},
    };
    token->normalized = false;
    if (json_kind(value) == JSON_KIND_STRING) return json_get_string(value, &token->text, fault);
    struct json content, normalized;
    return config_keys_check(value, keys, sizeof keys / sizeof *keys, fault) &&
           json_require(value, "content", &content, fault) && json_get_string(content, &token->text, fault) &&
           json_require(value, "normalized", &normalized, fault) &&
           json_get_bool(normalized, &token->normalized, fault);
}

/* The special tokens that an object names; others stay. */
static bool read_named(struct reading *reading, struct json object, struct fault *fault)
{
    for (int i = 0; i < SPECIAL_NAMES; i++) {
        struct json value;
        if (json_member(object, special_keys[i], &value) && json_kind(value) != JSON_KIND_NULL &&
            !read_special(value, &reading->named[i], fault))
            return false;
    }
    return true;
}

/* An added token: it must be one of the special ones, and tells when those are looked for. */
static bool read_added(struct reading *reading, struct json value, int64_t id, struct fault *fault)
{
    struct named_token added = {0};
    if (!read_special(value, &added, fault)) return false;
    bool known = false;
    for (int i = 0; i < SPECIAL_NAMES; i++) {
        if (strcmp(reading->named[i].text, added.text) != 0) continue;
        reading->named[i].normalized = added.normalized;
        known = true;
    }
    if (!known) return json_fault(value, fault, "added token \"%.80s\" is not supported", added.text);
    return find_token(reading, added.text) == id ||
           json_fault(value, fault, "the vocabulary does not have \"%.80s\" with id %lld", added.text,
                      (long long)id);
}

/* tokenizer_config.json's added_tokens_decoder: {"id": token} */
static bool read_decoder(struct reading *reading, struct json object, struct fault *fault)
{
    if (json_kind(object) != JSON_KIND_OBJECT) return json_fault(object, fault, "allowed is an object");
    void *iterator = NULL;
    const char *key;
    struct json value;
    while (json_next(object, &iterator, &key, &value)) {
        char *end;
        long id = strtol(key, &end, 10);
        if (end == key || *end) return json_fault(value, fault, "the key is no id");
        if (!read_added(reading, value, id, fault)) return false;
    }
    return true;
}

/* tokenizer.json's added_tokens: [{"id": 0, ...}] */
static bool read_added_array(struct reading *reading, struct json array, struct fault *fault)
{
    if (json_kind(array) != JSON_KIND_ARRAY) return json_fault(array, fault, "allowed is a list");
    for (size_t i = 0; i < json_size(array); i++) {
        struct json value = json_element(array, i), id;
        int64_t number;
        if (!json_require(value, "id", &id, fault) || !json_get_int64(id, 0, INT32_MAX, &number, fault) ||
            !read_added(reading, value, number, fault))
            return false;
    }
    return true;
}

/* transformers adds a token again for each of its names, and only what is new counts: the token is looked for
 * as its first name says, unless another one says otherwise. */
static void agree_on_special(struct reading *reading)
{
    struct named_token *named = reading->named;
    for (int i = 0; i < SPECIAL_NAMES; i++) {
        bool normalized = named[i].normalized;
        for (int j = i + 1; j < SPECIAL_NAMES; j++)
            if (strcmp(named[j].text, named[i].text) == 0 && named[j].normalized != named[i].normalized)
                normalized = named[j].normalized;
        for (int j = SPECIAL_NAMES - 1; j >= i; j--)
            if (strcmp(named[j].text, named[i].text) == 0) named[j].normalized = normalized;
    }
}

/* The different ones among the special tokens, and their ids. */
static bool add_special(struct reading *reading, struct fault *fault)
{
    struct clip_bpe *made = reading->made;
    agree_on_special(reading);
    for (int i = 0; i < SPECIAL_NAMES; i++) {
        struct named_token *token = &reading->named[i];
        token->id = *token->text ? find_token(reading, token->text) : UNKNOWN_TOKEN;
        if (token->id == UNKNOWN_TOKEN)
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s \"%.80s\" is not in the vocabulary",
                               reading->files->name, special_keys[i], token->text);
        bool again = false;
        for (int j = 0; j < i; j++) again |= reading->named[j].id == token->id;
        if (again) continue;
        struct special_token *special = &made->special[made->specials++];
        special->id = token->id;
        special->normalized = token->normalized;
        special->text = token->normalized
                            ? clip_bpe_normalise(token->text, strlen(token->text), &special->bytes)
                            : check_strdup(token->text);
        special->bytes = strlen(special->text);
    }
    made->start = reading->named[SPECIAL_START].id;
    made->end = reading->named[SPECIAL_END].id;
    made->pad = reading->named[SPECIAL_PAD].id;
    return true;
}

// ---- the files

static bool check_class(struct json config, struct fault *fault)
{
    struct json value;
    const char *class;
    if (!json_member(config, "tokenizer_class", &value)) return true;
    if (!json_get_string(value, &class, fault)) return false;
    return strcmp(class, "CLIPTokenizer") == 0 || strcmp(class, "CLIPTokenizerFast") == 0 ||
           json_fault(value, fault, "%.80s is not supported, only CLIPTokenizer", class);
}

static bool read_config(struct reading *reading, struct json config, struct fault *fault)
{
    static const struct config_key keys[] = {
        {"tokenizer_class", CONFIG_READ, NULL},
        {"model_max_length", CONFIG_READ, NULL},
        {"bos_token", CONFIG_READ, NULL},
        {"eos_token", CONFIG_READ, NULL},
        {"unk_token", CONFIG_READ, NULL},
        {"pad_token", CONFIG_READ, NULL},
        {"added_tokens_decoder", CONFIG_READ, NULL},
        {"do_lower_case", CONFIG_TRUE, NULL},
        {"add_prefix_space", CONFIG_FALSE, NULL},
        {"split_special_tokens", CONFIG_FALSE, NULL},
        {"sep_token", CONFIG_EMPTY, NULL},
        {"cls_token", CONFIG_EMPTY, NULL},
        {"mask_token", CONFIG_EMPTY, NULL},
        {"errors", CONFIG_IGNORED, NULL},
        {"processor_class", CONFIG_IGNORED, NULL},
    };
    struct json value;
    int64_t length;
    const struct config_table tables[] = {{keys, sizeof keys / sizeof *keys}, config_tokenizer_keys};
    if (!config_tables_check(config, tables, 2, fault) || !check_class(config, fault) ||
        !json_require(config, "model_max_length", &value, fault) ||
        !json_get_int64(value, 2, CLIP_BPE_MAX_LENGTH, &length, fault))
        return false;
    reading->made->length = (int)length;
    return read_named(reading, config, fault);
}

static bool read_special_map(struct reading *reading, struct json map, struct fault *fault)
{
    static const struct config_key keys[] = {
        {"bos_token", CONFIG_READ, NULL},
        {"eos_token", CONFIG_READ, NULL},
        {"unk_token", CONFIG_READ, NULL},
        {"pad_token", CONFIG_READ, NULL},
        {"sep_token", CONFIG_EMPTY, NULL},
        {"cls_token", CONFIG_EMPTY, NULL},
        {"mask_token", CONFIG_EMPTY, NULL},
        {"additional_special_tokens", CONFIG_EMPTY, NULL},
        {"extra_special_tokens", CONFIG_EMPTY, NULL},
    };
    return config_keys_check(map, keys, sizeof keys / sizeof *keys, fault) && read_named(reading, map, fault);
}

/* The tokenizer_config.json's list of added tokens has precedence over the map, and over tokenizer.json's
 * list. */
static bool read_special_tokens(struct reading *reading, struct json config, struct fault *fault)
{
    struct json value;
    if (json_member(config, "added_tokens_decoder", &value)) return read_decoder(reading, value, fault);
    if (reading->special && !read_special_map(reading, json_root(reading->special), fault)) return false;
    return !reading->tokenizer || !json_member(json_root(reading->tokenizer), "added_tokens", &value) ||
           read_added_array(reading, value, fault);
}

/* tokenizer.json: only its vocabulary, merges and added tokens tell CLIPTokenizer anything, but another kind
 * of model is refused. */
static bool open_model(struct reading *reading, struct json *vocabulary, struct json *merges,
                       struct fault *fault)
{
    static const struct config_key keys[] = {
        {"type", CONFIG_TEXT, "BPE"},
        {"vocab", CONFIG_READ, NULL},
        {"merges", CONFIG_READ, NULL},
        {"dropout", CONFIG_EMPTY, NULL},
        {"unk_token", CONFIG_IGNORED, NULL}, // no byte is unknown
        {"continuing_subword_prefix", CONFIG_TEXT, ""},
        {"end_of_word_suffix", CONFIG_TEXT, END_OF_WORD},
        {"fuse_unk", CONFIG_FALSE, NULL},
        {"byte_fallback", CONFIG_FALSE, NULL},
        {"ignore_merges", CONFIG_FALSE, NULL},
    };
    struct json model;
    return json_require(json_root(reading->tokenizer), "model", &model, fault) &&
           config_keys_check(model, keys, sizeof keys / sizeof *keys, fault) &&
           json_require(model, "vocab", vocabulary, fault) && json_require(model, "merges", merges, fault);
}

static bool read_merges(struct reading *reading, const struct json *array, struct fault *fault)
{
    struct clip_bpe *made = reading->made;
    struct merge_list list = {.reading = reading};
    list.made = check_calloc((size_t)made->count, sizeof *list.made);
    bool ok = array ? read_merge_array(&list, *array, fault)
                    : read_merge_lines(&list, reading->files->merges, fault);
    free(list.made);
    made->merge = list.item;
    made->merges = list.count;
    if (ok && !list.count)
        ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: there are no merges", reading->files->name);
    if (ok) qsort(list.item, (size_t)list.count, sizeof *list.item, clip_bpe_compare_merges);
    return ok;
}

static bool read_vocabulary(struct reading *reading, struct fault *fault)
{
    struct json vocabulary, merges;
    bool one_file = reading->tokenizer;
    if (one_file) {
        if (!open_model(reading, &vocabulary, &merges, fault)) return false;
    } else {
        vocabulary = json_root(reading->vocabulary);
    }
    return read_tokens(reading, vocabulary, fault) && find_letters(reading, fault) &&
           read_merges(reading, one_file ? &merges : NULL, fault);
}

static bool open_document(const struct clip_bpe_files *files, const char *text, const char *name,
                          struct json_document **document, struct fault *fault)
{
    if (!text) return true;
    char *path = check_format("%s/%s", files->name, name);
    bool ok = json_parse(text, strlen(text), path, document, fault);
    free(path);
    return ok;
}

static bool read_files(struct reading *reading, struct fault *fault)
{
    static const char *const usual[SPECIAL_NAMES] = {"<|startoftext|>", "<|endoftext|>", "<|endoftext|>",
                                                     "<|endoftext|>"};
    const struct clip_bpe_files *files = reading->files;
    for (int i = 0; i < SPECIAL_NAMES; i++) reading->named[i].text = usual[i];
    if (!files->tokenizer && (!files->vocabulary || !files->merges))
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: neither tokenizer.json nor both of vocab.json and merges.txt are there",
                           files->name);
    if (!files->config)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: tokenizer_config.json is missing", files->name);
    if (!open_document(files, files->config, "tokenizer_config.json", &reading->config, fault) ||
        !open_document(files, files->special, "special_tokens_map.json", &reading->special, fault) ||
        !open_document(files, files->tokenizer, "tokenizer.json", &reading->tokenizer, fault) ||
        (!files->tokenizer &&
         !open_document(files, files->vocabulary, "vocab.json", &reading->vocabulary, fault)))
        return false;
    struct json config = json_root(reading->config);
    return read_vocabulary(reading, fault) && read_config(reading, config, fault) &&
           read_special_tokens(reading, config, fault) && add_special(reading, fault);
}

bool clip_bpe_parse(const struct clip_bpe_files *files, struct clip_bpe **tokenizer, struct fault *fault)
{
    struct reading reading = {.files = files, .made = check_calloc(1, sizeof *reading.made)};
    bool ok = read_files(&reading, fault);
    free(reading.token);
    json_free(reading.vocabulary);
    json_free(reading.tokenizer);
    json_free(reading.special);
    json_free(reading.config);
    if (!ok) {
        clip_bpe_free(reading.made);
        return false;
    }
    clip_bpe_compile(reading.made);
    *tokenizer = reading.made;
    return true;
}

/* *text stays NULL where there is no such file; the caller frees it. */
static bool read_file(const char *folder, const char *name, char **text, struct fault *fault)
{
    char *path = check_format("%s/%s", folder, name);
    bool ok = access(path, F_OK) != 0 || text_file_read(path, CLIP_BPE_MAX_FILE, text, fault);
    free(path);
    return ok;
}

bool clip_bpe_read(const char *folder, struct clip_bpe **tokenizer, struct fault *fault)
{
    static const char *const name[] = {"tokenizer_config.json", "special_tokens_map.json", "tokenizer.json",
                                       "vocab.json", "merges.txt"};
    enum { CONFIG, SPECIAL, TOKENIZER, VOCABULARY, MERGES, FILES };
    char *text[FILES] = {0};
    bool ok = true;
    for (int i = 0; ok && i < FILES; i++) ok = read_file(folder, name[i], &text[i], fault);
    struct clip_bpe_files files = {.name = folder,
                                   .config = text[CONFIG],
                                   .special = text[SPECIAL],
                                   .tokenizer = text[TOKENIZER],
                                   .vocabulary = text[VOCABULARY],
                                   .merges = text[MERGES]};
    ok = ok && clip_bpe_parse(&files, tokenizer, fault);
    for (int i = 0; i < FILES; i++) free(text[i]);
    return ok;
}
