/* A shard: the pictures and texts of data.shard_size consecutive items of the sources, ready for data.h5, in
 * a file of its own. What prepare has finished survives in shards when it is stopped or killed.
 *
 * A shard is a data file (io/file_schema.h). Where the factors of latents are known only when all pictures
 * have been seen (kind haar; pixel too), its splits hold pixels [N, crops, H, W, 3] in their place; those of
 * a VAE it holds as data.h5 does (phases/data_columns.h). All functions are local. */
#ifndef PHASES_SHARD_H
#define PHASES_SHARD_H

#include "diffusion/latent_codec.h"
#include "io/hdf5_file.h"
#include "io/index.h"
#include "models/prompt_encoder.h"
#include "phases/phase.h"
#include "phases/text_list.h"

enum { SPLIT_TRAIN, SPLIT_VALIDATION, SPLITS };
extern const char *const split_name[SPLITS]; /* "train", "validation" */

/* Texts that go from the source through shards into data.h5. */
enum { ITEM_CAPTION, ITEM_IMAGE, ITEM_GROUP, ITEM_SUBGROUP, ITEM_SOURCE, ITEM_TEXTS };
extern const char *const item_text_name[ITEM_TEXTS]; /* their datasets: "caption", ... */

enum { SKIPPED_IMAGE, SKIPPED_REASON, SKIPPED_TEXTS };
extern const char *const skipped_name[SKIPPED_TEXTS]; /* "skipped/image", "skipped/reason" */

/* "train/pixels" and the like. */
enum { DATASET_NAME_SIZE = 64 };
const char *split_dataset(int split, const char *what, char name[DATASET_NAME_SIZE]);

/* What all shards of a run have in common. */
struct shard_maker {
    const struct run *run;              /* borrowed */
    const struct prepare_cfg *cfg;      /* borrowed */
    const struct index *source[SPLITS]; /* borrowed; all of the second is held out; NULL: none */
    struct prompt_encoder *encoder;     /* borrowed */
    const struct latent_codec *codec;   /* of kind vae; NULL: another kind; borrowed */
    int64_t flips;                      /* of a crop: plain and, with data.flips, mirrored */
    const struct backend *backend;      /* what computes the encoders; borrowed */
    enum dtype dtype;
};

/* Crops of a picture: data.crops random ones to train with, the middle to validate with. */
int64_t shard_crops(const struct prepare_cfg *cfg, int split);

/* The folder that holds the shards, and the file of one. The caller frees it. */
char *shard_folder(const struct shard_maker *maker);
char *shard_path(const struct shard_maker *maker, int64_t number);

int64_t shard_count(const struct shard_maker *maker);
/* The items that a shard holds, of the sources one after the other. */
void shard_items(const struct shard_maker *maker, int64_t number, int64_t *first, int64_t *count);

/* Whether the shard is there, made with the same deck from the same texts and pictures by the same encoders;
 * a picture is known by its size and time of change, so that this costs little. *skipped: its broken
 * pictures.
 */
bool shard_is_done(const struct shard_maker *maker, int64_t number, int64_t *skipped);

/* Writes a shard. *skipped counts its broken pictures, to be at most `skip_limit`: one more is a fault.
 * `progressed` is called with the number of items done. */
struct shard_progress {
    void (*progressed)(void *context, int64_t items);
    void *context;
};
bool shard_write(const struct shard_maker *maker, int64_t number, int64_t skip_limit,
                 struct shard_progress progress, int64_t *skipped, struct fault *fault);

/* Removes all shards, those of runs with another data.shard_size too, and their folder. */
bool shards_remove(const struct shard_maker *maker, struct fault *fault);

/* Root attributes of a shard beside those of every file. */
#define SHARD_INPUTS                                                                                         \
    "inputs_sha256" /* of encoders, texts and stamps of pictures: what shard_is_done compares */
#define SHARD_SOURCE "source_sha256" /* of texts and encoded pictures */
#define SHARD_CUT "captions_cut"     /* captions with more tokens than have states */

#endif
