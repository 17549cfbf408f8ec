/* Reading decks: libconfig text into a flat list of settings. Knows no key (phases/keys.h does).
 *
 * A deck may name another one whose settings it overrides one by one: `base = "../prune.cfg";`, relative to
 * the deck itself, inside the deck tree: the nearest folder named `input` above the deck first named, or else
 * its own folder. Decks are untrusted: size and nesting are limited, @include is refused, and so are integers
 * that do not fit (libconfig 1.5 would wrap them silently). Faults are EXIT_CODE_DECK and begin with
 * file:line. */
#ifndef IO_DECK_H
#define IO_DECK_H

#include "base/fault.h"

#include <stdbool.h>
#include <stdint.h>

/* Settings are looked up one by one, here and in libconfig: a larger deck of short ones would take minutes.
 */
enum { DECK_MAX_BYTES = 1 << 17, DECK_MAX_NESTING = 16, DECK_MAX_BASES = 8 };

enum deck_type { DECK_BOOL, DECK_INT, DECK_DOUBLE, DECK_STRING, DECK_LIST };

const char *deck_type_name(enum deck_type type); /* "an integer" */

struct deck_value {
    enum deck_type type;
    union {
        bool truth;
        int64_t integer;
        double number; /* finite */
        char *text;    /* owned */
    };
    struct deck_value *item; /* [count], DECK_LIST; owned */
    int count;
};

struct deck_setting {
    char *path;   /* "prune.steps"; owned */
    char *origin; /* "input/prune.cfg:12" or "--set prune.steps=5"; owned */
    struct deck_value value;
};

/* Settings with different paths, in the order in which they first appear (a base's before its user's). Zero
 * initialised is empty. */
struct deck {
    struct deck_setting *setting;
    int count;
};

/* Adds the settings of a file and its bases to an empty deck. The setting `base` is not among them. */
bool deck_read(struct deck *deck, const char *path, struct fault *fault);

/* Adds the settings of a text; `name` stands for the file's name. `base` is refused. */
bool deck_parse(struct deck *deck, const char *text, const char *name, struct fault *fault);

/* Applies "a.b=value" (of --set), through the same parser. The value is a libconfig expression; a string may
 * come without quotes unless it looks like a number. */
bool deck_set(struct deck *deck, const char *assignment, struct fault *fault);

void deck_clear(struct deck *deck);

/* The setting of that path, or NULL. */
const struct deck_setting *deck_find(const struct deck *deck, const char *path);

/* A value as libconfig text that reads back as the same value: 0.1, "a\"b", [1, 2]. The caller frees it. */
char *deck_value_text(const struct deck_value *value);
void deck_value_clear(struct deck_value *value);

#endif
