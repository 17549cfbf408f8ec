/* Keys of published JSON configurations: what is implemented is read, what is not is refused by name. */
#ifndef MODELS_CONFIG_KEYS_H
#define MODELS_CONFIG_KEYS_H

#include "io/json.h"

/* What may stand at a key. */
enum config_rule {
    CONFIG_READ,    /* anything: the caller reads and checks it */
    CONFIG_IGNORED, /* anything: of no meaning for what is computed here */
    CONFIG_TRUE,
    CONFIG_FALSE,
    CONFIG_EMPTY, /* null, or a list or object without members */
    CONFIG_TEXT,  /* the table's text */
};

struct config_key {
    const char *key;
    enum config_rule rule;
    const char *text; /* of CONFIG_TEXT */
};

/* Keys that belong together. */
struct config_table {
    const struct config_key *keys; /* [count] */
    size_t count;
};

/* What the config.json of any model of transformers may have: keys of training, text generation,
 * classification and how transformers runs the model are ignored, those of a decoder must be off. */
extern const struct config_table config_model_keys;

/* The same of any tokenizer_config.json: where files were, how transformers calls the tokenizer and how ids
 * become text are ignored, padding and truncation must be on the right. */
extern const struct config_table config_tokenizer_keys;

/* Every key of an object must be in one of the tables and keep its rule; keys that begin with "_" are passed
 * over. Faults are EXIT_CODE_INPUT and say which key, what it may be. */
bool config_tables_check(struct json object, const struct config_table *tables, size_t count,
                         struct fault *fault);

/* The same of one table. */
bool config_keys_check(struct json object, const struct config_key *table, size_t count, struct fault *fault);

/* A size, 1..most; where the key is missing *out stays what it is. EXIT_CODE_INPUT. */
bool config_read_size(struct json object, const char *key, int64_t most, int64_t *out, struct fault *fault);

/* Opens FOLDER/NAME of a published model, at most 1 MiB; free with json_free. EXIT_CODE_INPUT. */
bool config_open(const char *folder, const char *name, struct json_document **document, struct fault *fault);

#endif
