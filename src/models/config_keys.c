#include "models/config_keys.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_FILE_BYTES = 1 << 20 };

static bool is_bool(struct json value, bool expected)
{
    struct fault ignored = {0};
    bool found;
    return json_kind(value) == JSON_KIND_BOOL && json_get_bool(value, &found, &ignored) && found == expected;
}

static bool is_text(struct json value, const char *expected)
{
    struct fault ignored = {0};
    const char *found;
    return json_kind(value) == JSON_KIND_STRING && json_get_string(value, &found, &ignored) &&
           strcmp(found, expected) == 0;
}

static bool is_empty(struct json value)
{
    enum json_kind kind = json_kind(value);
    return kind == JSON_KIND_NULL ||
           ((kind == JSON_KIND_ARRAY || kind == JSON_KIND_OBJECT) && json_size(value) == 0);
}

static bool check_key(struct json value, const struct config_key *key, struct fault *fault)
{
    switch (key->rule) {
    case CONFIG_READ:
    case CONFIG_IGNORED:
        return true;
    case CONFIG_TRUE:
        return is_bool(value, true) || json_fault(value, fault, "this value is not supported, only true");
    case CONFIG_FALSE:
        return is_bool(value, false) || json_fault(value, fault, "this value is not supported, only false");
    case CONFIG_EMPTY:
        return is_empty(value) || json_fault(value, fault, "not supported, only null or an empty list");
    case CONFIG_TEXT:
        break;
    }
    return is_text(value, key->text) ||
           json_fault(value, fault, "this value is not supported, only \"%s\"", key->text);
}

static const struct config_key model_keys[] = {
    {"add_cross_attention", CONFIG_FALSE, NULL},
    {"is_decoder", CONFIG_FALSE, NULL},
    {"is_encoder_decoder", CONFIG_FALSE, NULL},
    {"pruned_heads", CONFIG_EMPTY, NULL},
    {"architectures", CONFIG_IGNORED, NULL},
    {"attention_dropout", CONFIG_IGNORED, NULL},
    {"bos_token_id", CONFIG_IGNORED, NULL},
    {"chunk_size_feed_forward", CONFIG_IGNORED, NULL},
    {"dropout", CONFIG_IGNORED, NULL},
    {"dtype", CONFIG_IGNORED, NULL},
    {"eos_token_id", CONFIG_IGNORED, NULL},
    {"id2label", CONFIG_IGNORED, NULL},
    {"initializer_factor", CONFIG_IGNORED, NULL},
    {"initializer_range", CONFIG_IGNORED, NULL},
    {"label2id", CONFIG_IGNORED, NULL},
    {"output_attentions", CONFIG_IGNORED, NULL},
    {"output_hidden_states", CONFIG_IGNORED, NULL},
    {"pad_token_id", CONFIG_IGNORED, NULL},
    {"problem_type", CONFIG_IGNORED, NULL},
    {"return_dict", CONFIG_IGNORED, NULL},
    {"tie_word_embeddings", CONFIG_IGNORED, NULL},
    {"torch_dtype", CONFIG_IGNORED, NULL},
    {"torchscript", CONFIG_IGNORED, NULL},
    {"transformers_version", CONFIG_IGNORED, NULL},
    {"use_cache", CONFIG_IGNORED, NULL},
    // what transformers 4 wrote beside, of any model: how text is generated
    {"bad_words_ids", CONFIG_IGNORED, NULL},
    {"begin_suppress_tokens", CONFIG_IGNORED, NULL},
    {"cross_attention_hidden_size", CONFIG_IGNORED, NULL},
    {"decoder_start_token_id", CONFIG_IGNORED, NULL},
    {"diversity_penalty", CONFIG_IGNORED, NULL},
    {"do_sample", CONFIG_IGNORED, NULL},
    {"early_stopping", CONFIG_IGNORED, NULL},
    {"encoder_no_repeat_ngram_size", CONFIG_IGNORED, NULL},
    {"exponential_decay_length_penalty", CONFIG_IGNORED, NULL},
    {"finetuning_task", CONFIG_IGNORED, NULL},
    {"forced_bos_token_id", CONFIG_IGNORED, NULL},
    {"forced_eos_token_id", CONFIG_IGNORED, NULL},
    {"length_penalty", CONFIG_IGNORED, NULL},
    {"max_length", CONFIG_IGNORED, NULL},
    {"min_length", CONFIG_IGNORED, NULL},
    {"no_repeat_ngram_size", CONFIG_IGNORED, NULL},
    {"num_beam_groups", CONFIG_IGNORED, NULL},
    {"num_beams", CONFIG_IGNORED, NULL},
    {"num_return_sequences", CONFIG_IGNORED, NULL},
    {"output_scores", CONFIG_IGNORED, NULL},
    {"prefix", CONFIG_IGNORED, NULL},
    {"remove_invalid_values", CONFIG_IGNORED, NULL},
    {"repetition_penalty", CONFIG_IGNORED, NULL},
    {"return_dict_in_generate", CONFIG_IGNORED, NULL},
    {"sep_token_id", CONFIG_IGNORED, NULL},
    {"suppress_tokens", CONFIG_IGNORED, NULL},
    {"task_specific_params", CONFIG_IGNORED, NULL},
    {"temperature", CONFIG_IGNORED, NULL},
    {"tf_legacy_loss", CONFIG_IGNORED, NULL},
    {"tie_encoder_decoder", CONFIG_IGNORED, NULL},
    {"tokenizer_class", CONFIG_IGNORED, NULL},
    {"top_k", CONFIG_IGNORED, NULL},
    {"top_p", CONFIG_IGNORED, NULL},
    {"typical_p", CONFIG_IGNORED, NULL},
    {"use_bfloat16", CONFIG_IGNORED, NULL},
};

const struct config_table config_model_keys = {model_keys, sizeof model_keys / sizeof *model_keys};

static const struct config_key tokenizer_keys[] = {
    {"additional_special_tokens", CONFIG_EMPTY, NULL},
    {"extra_special_tokens", CONFIG_EMPTY, NULL},
    {"padding_side", CONFIG_TEXT, "right"},
    {"truncation_side", CONFIG_TEXT, "right"},
    {"backend", CONFIG_IGNORED, NULL},
    {"clean_up_tokenization_spaces", CONFIG_IGNORED, NULL},
    {"is_local", CONFIG_IGNORED, NULL},
    {"local_files_only", CONFIG_IGNORED, NULL},
    {"max_length", CONFIG_IGNORED, NULL},
    {"name_or_path", CONFIG_IGNORED, NULL},
    {"pad_to_multiple_of", CONFIG_IGNORED, NULL},
    {"pad_token_type_id", CONFIG_IGNORED, NULL},
    {"special_tokens_map_file", CONFIG_IGNORED, NULL},
    {"stride", CONFIG_IGNORED, NULL},
    {"tokenizer_file", CONFIG_IGNORED, NULL},
    {"truncation_strategy", CONFIG_IGNORED, NULL},
};

const struct config_table config_tokenizer_keys = {tokenizer_keys,
                                                   sizeof tokenizer_keys / sizeof *tokenizer_keys};

static const struct config_key *find_key(const char *name, const struct config_table *tables, size_t count)
{
    for (size_t t = 0; t < count; t++)
        for (size_t i = 0; i < tables[t].count; i++)
            if (strcmp(tables[t].keys[i].key, name) == 0) return &tables[t].keys[i];
    return NULL;
}

bool config_tables_check(struct json object, const struct config_table *tables, size_t count,
                         struct fault *fault)
{
    if (json_kind(object) != JSON_KIND_OBJECT)
        return json_fault(object, fault, "found %s, allowed an object", json_kind_name(json_kind(object)));
    void *iterator = NULL;
    const char *name;
    struct json value;
    while (json_next(object, &iterator, &name, &value)) {
        if (name[0] == '_') continue;
        const struct config_key *key = find_key(name, tables, count);
        if (!key) return json_fault(value, fault, "unknown key");
        if (!check_key(value, key, fault)) return false;
    }
    return true;
}

bool config_keys_check(struct json object, const struct config_key *table, size_t count, struct fault *fault)
{
    return config_tables_check(object, &(struct config_table){table, count}, 1, fault);
}

bool config_read_size(struct json object, const char *key, int64_t most, int64_t *out, struct fault *fault)
{
    struct json value;
    return !json_member(object, key, &value) || json_get_int64(value, 1, most, out, fault);
}

bool config_open(const char *folder, const char *name, struct json_document **document, struct fault *fault)
{
    char *path = check_format("%s/%s", folder, name);
    bool ok = json_read(path, MAX_FILE_BYTES, document, fault);
    free(path);
    return ok;
}
