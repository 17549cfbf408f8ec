#include "phases/restart.h"

#include "io/deck.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Settings that change no result, in any phase. */
static const char *const always_free[] = {"run.folder", "run.log",         "run.wall_clock_limit", "files.",
                                          "phase",      "comm.bucket_mib", "data.pipeline",        NULL};

bool restart_is_there(const struct comm *comm, const char *path)
{
    return comm_any(comm, comm_rank(comm) == 0 && access(path, F_OK) == 0);
}

static bool begins_with_one(const char *path, const char *const *prefixes)
{
    for (; *prefixes; prefixes++)
        if (strncmp(path, *prefixes, strlen(*prefixes)) == 0) return true;
    return false;
}

/* Every setting of `a` that matters has the same value in `b`. */
static bool same_settings(const struct deck *a, const struct deck *b, const char *const *free_prefixes,
                          const char *file, struct fault *fault)
{
    bool same = true;
    for (int i = 0; same && i < a->count; i++) {
        const struct deck_setting *here = &a->setting[i], *there = deck_find(b, here->path);
        if (begins_with_one(here->path, always_free) || begins_with_one(here->path, free_prefixes)) continue;
        char *now = deck_value_text(&here->value), *then = there ? deck_value_text(&there->value) : NULL;
        same = then && strcmp(now, then) == 0;
        if (!same)
            fault_raise(fault, EXIT_CODE_DECK,
                        "%s was written with %s = %s, the deck now says %s: go on with the same deck, or "
                        "remove the checkpoint",
                        file, here->path, then ? then : "nothing", now);
        free(now);
        free(then);
    }
    return same;
}

bool restart_check_deck(struct h5_reader *checkpoint, const char *deck, const char *const *free_prefixes,
                        struct fault *fault)
{
    char *text;
    if (!h5_attribute_string(checkpoint, "/", "deck", &text, fault)) return false;
    struct deck then = {0}, now = {0};
    bool ok = deck_parse(&then, text, h5_path(checkpoint), fault) && deck_parse(&now, deck, "deck", fault) &&
              same_settings(&now, &then, free_prefixes, h5_path(checkpoint), fault);
    deck_clear(&then);
    deck_clear(&now);
    free(text);
    return ok;
}

bool restart_check_data(struct h5_reader *checkpoint, const char *content_id, const char *path,
                        struct fault *fault)
{
    char then[SHA256_HEX_SIZE];
    if (!h5_parent_content_id(checkpoint, "data.h5", then, fault)) return false;
    return strcmp(then, content_id) == 0 ||
           fault_raise(fault, EXIT_CODE_INPUT, "%s belongs to other data than %s: remove it to start anew",
                       h5_path(checkpoint), path);
}

bool restart_refuse_checkpoint(struct h5_reader *reader, struct fault *fault)
{
    if (!h5_exists(reader, "optimizer/step")) return true;
    return fault_raise(fault, EXIT_CODE_INPUT,
                       "%s is the checkpoint of a run, the file that the run writes at its end is needed",
                       h5_path(reader));
}
