/* What files of the chain hand on to the next: the form of the latents and the encoders they belong to
 * (DESIGN section 6). */
#ifndef PHASES_LINEAGE_H
#define PHASES_LINEAGE_H

#include "diffusion/latent.h"
#include "io/hdf5_file.h"

struct lineage {
    struct latent_form latent;
    char vae[SHA256_HEX_SIZE];        /* id of the VAE of kind vae (models/vae.h); "" of other kinds */
    char *text_encoder;               /* prompt_encoder_states_id; owned */
    char *sentence_encoder;           /* prompt_encoder_embedding_id; "" in a file that has none (teacher.h5,
                                         expert_NN.h5), where that of data.h5 counts; owned */
    char content_id[SHA256_HEX_SIZE]; /* of the file it was read from */
};

/* Reads the lineage of data.h5, teacher.h5, router.h5 or expert_NN.h5. Free with lineage_clear. */
bool lineage_read(struct h5_reader *reader, struct lineage *lineage, struct fault *fault);
bool lineage_open(const char *path, enum file_kind kind, struct lineage *lineage, struct fault *fault);
struct lineage lineage_copy(const struct lineage *lineage); /* free with lineage_clear */
void lineage_clear(struct lineage *lineage);

/* Writes the datasets latent/ and encoder/ that the kind of file has. */
bool lineage_write(const struct lineage *lineage, enum file_kind kind, struct h5_writer *writer,
                   struct fault *fault);

/* Refuses two files that do not belong together (EXIT_CODE_INPUT), naming what differs: kind of latents,
 * their factors by more than 1 %, VAE, text encoder, and the sentence encoder where both have one. */
bool lineage_check(const struct lineage *a, const char *a_name, const struct lineage *b, const char *b_name,
                   struct fault *fault);

/* Refuses (EXIT_CODE_INPUT) the latents of file `name` of a VAE in a phase that opens none and needs their
 * pictures; `instead` says what the user can do. */
bool lineage_check_pictures(const struct lineage *lineage, const char *name, const char *instead,
                            struct fault *fault);

#endif
