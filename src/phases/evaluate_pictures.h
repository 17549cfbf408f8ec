/* What the files evaluate_pictures.c, evaluate_features.c and evaluate_quantities.c share; no other file
 * includes it. Letters as in evaluate_parts.h, and F features of a picture, which differ by the network. */
#ifndef PHASES_EVALUATE_PICTURES_H
#define PHASES_EVALUATE_PICTURES_H

#include "phases/evaluate_parts.h"
#include "phases/metric_network.h"
#include "phases/real_pictures.h"

/* A file of generated pictures. */
struct samples {
    struct h5_reader *reader;
    int64_t S, height, width; /* pictures and their size */
    int32_t *expert;          /* [S] that made it, -1: the teacher */
    int64_t *item;            /* [S] of the split */
    struct sampling_settings settings;
};
enum { OF_EXPERTS, OF_TEACHER, SAMPLES };

/* Real pictures of some items of a split. */
struct real_set {
    struct dataset *dataset;
    const char *split;
    int64_t count, *item; /* [count] items, in the order of the feature rows */
    int64_t *file;        /* [items of the split] places in the source of pictures; NULL: of latents */
    bool *broken;         /* [count] there is no picture; filled by evaluate_features */
};

/* By one network; [rows, F] each, owned. */
struct network_features {
    float *real, *others;
    float *captions; /* of the real set's items; of the network of CLIP score alone */
    float *generated[SAMPLES];
};

struct pictures {
    struct evaluating *evaluating;
    int64_t size;                    /* pixels a side that pictures are compared at */
    struct samples samples[SAMPLES]; /* of the experts (or all), and where asked for of the teacher */
    int sets;                        /* how many */

    struct metric_network network[PICTURE_QUANTITIES];
    struct network_features features[PICTURE_QUANTITIES]; /* of each network */
    const char *cache_name[PICTURE_QUANTITIES];           /* of each: a part of its caches' names */
    int networks;
    int network_of[PICTURE_QUANTITIES]; /* -1: the quantity is left out */

    struct h5_reader *data;      /* data.h5: captions, names */
    struct real_pictures *files; /* NULL: real pictures are decoded from latents */
    struct dataset *other;       /* the other split; NULL: there is none */
    struct real_set real;        /* of the items that there are generated pictures of */
    struct real_set others;      /* of the other split: partners of those */
    int64_t *real_row;           /* [N] row in `real` of an item, -1: none */
    int64_t *others_row;         /* [N] row in `others` of an item's partner, -1: none */
};

/* Fills features, and broken of both sets. Collective, the faults are shared. */
bool evaluate_features(struct pictures *pictures, struct fault *fault);
/* Fills value, population, real, pictures and partners of the table. Collective. */
void evaluate_quantities(struct pictures *pictures);

#endif
