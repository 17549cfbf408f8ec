// Which pictures of a source are used, and which of their captions.
#include "base/check.h"
#include "base/random.h"
#include "io/index_private.h"

#include <stdlib.h>

enum { STEP_PICTURES, STEP_CAPTIONS }; // of the keys of RANDOM_SOURCE: two draws

// The captions of one picture: places[first .. first + count).
struct group {
    uint64_t picture;
    int64_t first, count;
    double draw; // of all pictures, those with the smallest are used
};

struct place {
    uint64_t picture;
    int64_t entry;
};

static int by_picture(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->picture != y->picture) return x->picture < y->picture ? -1 : 1;
    return (x->entry > y->entry) - (x->entry < y->entry);
}

static int by_draw(const void *a, const void *b)
{
    const struct group *x = a, *y = b;
    if (x->draw != y->draw) return x->draw < y->draw ? -1 : 1;
    return (x->picture > y->picture) - (x->picture < y->picture);
}

// Entries sorted by picture, in the source's order within each; the caller frees them.
static struct place *sort_entries(const struct index *index)
{
    struct place *places = check_calloc((size_t)index->count, sizeof *places);
    for (int64_t i = 0; i < index->count; i++) places[i] = (struct place){index->entry[i].picture, i};
    if (index->count > 0) qsort(places, (size_t)index->count, sizeof *places, by_picture);
    return places;
}

static bool begins_group(const struct place *places, int64_t i)
{
    return i == 0 || places[i].picture != places[i - 1].picture;
}

int64_t index_pictures(const struct index *index)
{
    struct place *places = sort_entries(index);
    int64_t pictures = 0;
    for (int64_t i = 0; i < index->count; i++) pictures += begins_group(places, i);
    free(places);
    return pictures;
}

// groups: [index->count] at most. Returns their number.
static int64_t make_groups(const struct index *index, const struct place *places, uint64_t seed,
                           struct group *groups)
{
    int64_t count = 0;
    for (int64_t i = 0; i < index->count; i++) {
        if (begins_group(places, i)) {
            struct random_key key = {seed, RANDOM_SOURCE, STEP_PICTURES, places[i].picture};
            groups[count++] = (struct group){places[i].picture, i, 0, random_uniform(key, 0)};
        }
        groups[count - 1].count++;
    }
    return count;
}

// Removes the entries that are not kept.
static void keep_entries(struct index *index, const bool *keep)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < index->count; i++) {
        if (keep[i])
            index->entry[kept++] = index->entry[i];
        else
            index_entry_clear(index, &index->entry[i]);
    }
    index->count = kept;
}

static void mark_captions(const struct index_options *options, const struct group *group,
                          const struct place *places, bool *keep)
{
    int64_t first = group->first, count = group->count;
    if (options->captions == INDEX_CAPTIONS_ONE) {
        struct random_key key = {options->seed, RANDOM_SOURCE, STEP_CAPTIONS, group->picture};
        first += (int64_t)random_below(key, 0, (uint64_t)count);
        count = 1;
    }
    for (int64_t i = 0; i < count; i++) keep[places[first + i].entry] = true;
}

bool index_choose(struct index *index, const struct index_options *options, struct fault *fault)
{
    if (options->captions == INDEX_CAPTIONS_ALL && options->images == 0) return true;
    struct place *places = sort_entries(index);
    struct group *groups = check_calloc((size_t)index->count, sizeof *groups);
    int64_t pictures = make_groups(index, places, options->seed, groups);
    bool good =
        options->images <= pictures ||
        fault_raise(fault, EXIT_CODE_INPUT, "%s: has %lld pictures with a caption, %lld are asked for",
                    index->path, (long long)pictures, (long long)options->images);
    if (good) {
        bool *keep = check_calloc((size_t)index->count, sizeof *keep);
        if (options->images > 0) {
            qsort(groups, (size_t)pictures, sizeof *groups, by_draw);
            pictures = options->images;
        }
        for (int64_t i = 0; i < pictures; i++) mark_captions(options, &groups[i], places, keep);
        keep_entries(index, keep);
        free(keep);
    }
    free(groups);
    free(places);
    return good;
}
