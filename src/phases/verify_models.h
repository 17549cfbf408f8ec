/* The models that phase verify knows: each reads its inputs from the reference, computes, and compares every
 * output and gradient that is there (DESIGN section 9 says what a reference of each model holds). Returns
 * false only when the reference or the model's folder cannot be used. */
#ifndef PHASES_VERIFY_MODELS_H
#define PHASES_VERIFY_MODELS_H

#include "phases/verify_compare.h"

// verify_unet.c
bool verify_unet(struct verification *verification, struct fault *fault);
/* The network of hard gates, really sliced: also its weights. */
bool verify_unet_sliced(struct verification *verification, struct fault *fault);
/* The same network from a folder that phase export has written: config.json of the whole one, sliced weights.
 */
bool verify_unet_expert(struct verification *verification, struct fault *fault);

// verify_prune_step.c
bool verify_prune_step(struct verification *verification, struct fault *fault);

// verify_router.c
bool verify_transport(struct verification *verification, struct fault *fault);
bool verify_contrastive(struct verification *verification, struct fault *fault);
bool verify_resource(struct verification *verification, struct fault *fault);
bool verify_gumbel_width(struct verification *verification, struct fault *fault);
bool verify_gumbel_depth(struct verification *verification, struct fault *fault);

// verify_text.c
bool verify_wordpiece(struct verification *verification, struct fault *fault);
/* bert and mpnet */
bool verify_token_encoder(struct verification *verification, struct fault *fault);
bool verify_sentence_encoder(struct verification *verification, struct fault *fault);
bool verify_clip_bpe(struct verification *verification, struct fault *fault);
bool verify_text_encoder(struct verification *verification, struct fault *fault);

// verify_text_to_image.c
bool verify_text_to_image(struct verification *verification, struct fault *fault);

// verify_clip.c
bool verify_clip_vision(struct verification *verification, struct fault *fault);

// verify_inception.c
bool verify_inception(struct verification *verification, struct fault *fault);

// verify_vae.c
bool verify_vae(struct verification *verification, struct fault *fault);

// verify_clip_text.c
bool verify_clip_text(struct verification *verification, struct fault *fault);

// verify_resize.c
bool verify_resize(struct verification *verification, struct fault *fault);

// verify_metrics.c
bool verify_frechet(struct verification *verification, struct fault *fault);
bool verify_cmmd(struct verification *verification, struct fault *fault);

// verify_sampler.c
bool verify_pndm(struct verification *verification, struct fault *fault);
bool verify_ddim(struct verification *verification, struct fault *fault);
bool verify_dpmpp(struct verification *verification, struct fault *fault);

#endif
