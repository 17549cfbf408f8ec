/* The prunable units of a UNet (METHOD section 2), in the order of the architecture vector.
 *
 * One walk over a UNet's configuration makes the table; gates, MAC counts, slicing, masks in files and
 * `verify` paths all read it. An architecture vector has n = width_entries + depth_entries elements: the
 * width entries of all units in table order, then the depth entries in the same walk. */
#ifndef MODELS_UNIT_TABLE_H
#define MODELS_UNIT_TABLE_H

#include <stdbool.h>
#include <stdint.h>

enum unit_kind { UNIT_RESNET, UNIT_SELF_ATTENTION, UNIT_CROSS_ATTENTION, UNIT_FEED_FORWARD };

const char *unit_kind_name(enum unit_kind kind); /* "self_attention" */

enum { UNIT_PATH_SIZE = 160 };

/* A unit with a width gate. */
struct unit {
    char path[UNIT_PATH_SIZE]; /* diffusers' module path,
                                  "down_blocks.0.attentions.1.transformer_blocks.0.attn1" */
    enum unit_kind kind;
    int first, width; /* its entries are [first, first + width) of the architecture vector */
    int depth;        /* index of the depth entry it falls under, 0..depth_entries-1, or -1 */
};

/* A ResNet or a transformer that can be dropped as a whole. */
struct depth_unit {
    char path[UNIT_PATH_SIZE]; /* "down_blocks.0.resnets.1", "up_blocks.1.attentions.2" */
    bool up;                   /* in an up block, else in a down block */
    int level; /* distance from the outside: 0 for the first down block and the last up block */
};

/* A weight that a unit's width gate slices: along `axis`, which is `repeats` equal parts (2 in the GEGLU
 * projection), each of them the unit's `width` equal ranges. A mask keeps the ranges of its ones. */
struct unit_slice {
    char name[160]; /* PyTorch name */
    int unit;
    int axis, repeats;
};

struct unit_table {
    struct unit *unit;
    int units;
    struct unit_slice *slice;
    int slices;
    struct depth_unit *depth;
    int depth_entries;
    int width_entries;
    int entries;      /* width_entries + depth_entries: the length n of an architecture vector */
    int *depth_order; /* keep order (METHOD 3a), safest first: depth entry indices, a permutation of
                         0..depth_entries-1 */
};

/* Multiply-accumulate operations of one sample at full width, at given latents and text tokens; owned by its
 * user. */
struct unit_macs {
    double *unit; /* [units] all that a unit's width gate scales */
    double *
        depth; /* [depth_entries] what only dropping removes: shortcut convolution, or proj_in and proj_out */
    double total;                           /* the whole UNet */
    double prunable;                        /* sum of the two arrays: what the budget's ratio is taken over */
    double linear;                          /* total's part in convolutions and linear layers */
    double self_attention, cross_attention; /* total's parts in the two products of each attention */
    double paper; /* the paper's convention: convolutions and linear layers at one text token + twice
                     self-attention */
};

void unit_table_free(struct unit_table *table);
void unit_macs_free(struct unit_macs *macs);

/* Fills depth_order by METHOD 3a's rule from the entries' (up, level), in walk order: from outside in, at
 * each level the up block's entries from last to first, then the down block's from first to last. */
void unit_table_order_depth(struct unit_table *table);

/* Ratio of one sample (METHOD 3a, "Ratio of a sample") for a vector of 0/1 (or soft) entries [entries]: kept
 * prunable MACs over all prunable MACs. If `gradient` [entries] is not NULL it receives d ratio / d vector.
 */
double unit_table_ratio(const struct unit_table *table, const struct unit_macs *macs, const double *vector,
                        double *gradient);

/* The same ratio of the whole UNet's MACs: 1 - (1 - ratio) prunable / total. */
double unit_macs_total_ratio(const struct unit_macs *macs, double prunable_ratio);

#endif
