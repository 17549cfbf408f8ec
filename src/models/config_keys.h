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

/* Every key of an object must be in the table and keep its rule; keys that begin with "_" are passed over.
 * Faults are EXIT_CODE_INPUT and say which key, what it may be. */
bool config_keys_check(struct json object, const struct config_key *table, size_t count, struct fault *fault);

/* The same for the config.json of a model of transformers: keys that all of these have, of training, of text
 * generation and classification and of how transformers runs the model, may be there beside the table's. */
bool config_keys_check_model(struct json object, const struct config_key *table, size_t count,
                             struct fault *fault);

#endif
