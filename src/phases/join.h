/* data.h5 from its shards: latents with their factors, texts, both splits, in the order of the source. */
#ifndef PHASES_JOIN_H
#define PHASES_JOIN_H

#include "diffusion/latent.h"
#include "phases/shard.h"

/* What is in the finished file. */
struct join_summary {
    int64_t items[SPLITS];
    int64_t cut;    /* captions with more tokens than are kept */
    int64_t tokens; /* of all captions together, as kept */
    int64_t bytes;  /* of the file */
    struct latent_form latent;
    struct text_list skipped[SKIPPED_TEXTS]; /* owned */
};
void join_summary_clear(struct join_summary *summary);

/* Writes maker->cfg->data_file. Reads the shards one after the other, twice (for the factors, then to copy),
 * and holds a few dozen items at a time and the texts of one shard. No training item at all is a fault.
 * Local: rank 0 alone. */
bool join_shards(const struct shard_maker *maker, struct join_summary *summary, struct fault *fault);

#endif
