/* The prompt router: predictor, architecture codes and one training step of both (METHOD sections 3, 3a and
 * 4).
 *
 * Host code in fp64. Every function sees the whole global batch and every rank runs it on the same numbers:
 * the caller gathers, nothing here is collective. Letters: B prompts of the global batch, D width of a
 * prompt's embedding z, K codes, n entries of an architecture vector (models/unit_table.h).
 *
 * A step as a phase writes it:
 *
 *     router_draw_noise(router, step, seed, number);
 *     router_forward(router, stage, z, step);             // step->gates [B, n] go to the student
 *     ... losses of the UNet; gate_gradient [B, n] ...
 *     router_backward(router, stage, gate_gradient, step);
 *     router_update(router, stage, step, lr, optimiser);
 */
#ifndef ROUTER_ROUTER_H
#define ROUTER_ROUTER_H

#include "models/unit_table.h"
#include "router/adamw.h"
#include "router/gumbel.h"
#include "router/normal_form.h"
#include "router/resource.h"

/* Who learns from what (METHOD section 3, last point). */
enum router_stage {
    ROUTER_WARM_UP, /* student gates are the predicted ones; the predictor gets all losses, the codes none */
    ROUTER_MAIN, /* student gates are the code's; codes get all losses but L_cont, the predictor L_cont alone
                  */
};

struct router_config {
    int64_t D; /* width of z, >= 1 */
    int64_t K; /* codes, >= 1 */
    struct gumbel gumbel;
    enum normal_form normal_form;
    bool mac_weights; /* weigh the normal form by shares of the prunable MACs */
    bool transport;   /* optimal transport in training; false: plain argmax of the similarity */
    double eps;       /* of the transport, > 0 */
    int rounds;       /* of the transport, >= 0 */
    double tau;       /* of the contrastive loss, > 0 */
    enum resource_form resource_form;
    double target; /* of the resource loss: p' of the prunable MACs (resource_target), > 0 */
    double w_resource, w_contrastive, w_spread_max, w_spread_std; /* weights of the losses, >= 0 */
};

struct router {
    struct router_config config;
    const struct unit_table *table; /* borrowed */
    const struct unit_macs *macs;   /* borrowed; at full width */
    int64_t n;                      /* table->entries */
    double *scale;                  /* [n] of the normal form */
    double *weight; /* [n, D] predictor: one linear map per width unit and one for all depth entries */
    double *bias;   /* [n] of the predictor */
    double *codes;  /* [K, n] architecture codes */
    double *draw;   /* [K, n] stored draw: each code's soft gates of the last training step */
};

/* A router with all values zero; table and macs must outlive it. Free with router_delete. */
struct router *router_new(struct router_config config, const struct unit_table *table,
                          const struct unit_macs *macs);
void router_delete(struct router *router);

/* METHOD section 3: weights orthogonal block by block, bias zero, codes orthogonal; the stored draw is the
 * codes' noise-free gates. */
void router_initialise(struct router *router, uint64_t seed);

/* router.codes_init = kmeans (METHOD section 4, last line): codes become the k-means centres of the
 * architecture embeddings that the predictor gives for z [rows, D], rows >= K. Holds [rows, n] doubles
 * meanwhile: a sample of the prompts will do. */
void router_codes_from_prompts(struct router *router, int64_t rows, const double *z, uint64_t seed);

// ---- one training step

/* Losses of the router, without their weights, and what they were taken of. */
struct router_losses {
    double resource, contrastive, spread_max, spread_std;
    double mean_ratio; /* R: mean over the batch, of the prunable MACs */
};

/* Everything of one step. Arrays are owned. */
struct router_step {
    int64_t B;
    double *noise_predicted; /* [B, n] standard Gumbel; drawn, or written by the caller */
    double *noise_codes;     /* [K, n] */

    // what router_forward makes
    const double *z;          /* [B, D] borrowed until after router_backward */
    double *logits;           /* [B, n] predicted architecture embeddings e */
    double *predicted;        /* [B, n] their soft gates */
    double *predicted_form;   /* [B, n] in normal form */
    double *predicted_length; /* [B] */
    double *code_gates;       /* [K, n] soft gates of the codes: this step's draw */
    double *code_form;        /* [K, n] */
    double *code_length;      /* [K] */
    double *similarity;       /* [B, K] cosines */
    double *plan;             /* [B, K] transport plan; zeros when transport is off */
    int *expert;              /* [B] code of each prompt */
    double *gates;            /* [B, n] soft gates of the student */
    double *ratio;            /* [B] of the student's hard gates, of the prunable MACs */

    // what router_backward makes
    struct router_losses losses;
    double *gate_gradient;   /* [B, n] scratch: d total loss / d gates, through what looks at the gates */
    double *logit_gradient;  /* [B, n] scratch */
    double *weight_gradient; /* [n, D] */
    double *bias_gradient;   /* [n] */
    double *code_gradient;   /* [K, n] */
};

/* Room for steps on a global batch of B prompts. Free with router_step_delete. */
struct router_step *router_step_new(const struct router *router, int64_t B);
void router_step_delete(struct router_step *step);

/* Fresh noise (METHOD section 3a, "Noise in training"): one draw a step for the codes, one for each predicted
 * vector, keyed by the place of its sample in the global batch. */
void router_draw_noise(const struct router *router, struct router_step *step, uint64_t seed, uint64_t number);

/* From z [B, D] to the student's gates: predicted vectors, routing, ratios. Fills the fields named above. */
void router_forward(const struct router *router, enum router_stage stage, const double *z,
                    struct router_step *step);

/* Gradients of
 *
 *     (losses of the UNet) + w_resource L_res + w_contrastive L_cont + w_spread_max ... + w_spread_std ...
 *
 * gate_gradient [B, n] = d (weighted losses of the UNet) / d step->gates. Same stage as in router_forward.
 * Fills step->losses and the gradients of weight, bias and codes: of the parameters that do not learn in this
 * stage 0.
 */
void router_backward(const struct router *router, enum router_stage stage, const double *gate_gradient,
                     struct router_step *step);

struct router_optimiser {
    struct adamw_settings settings;
    struct adamw_moments weight, bias, codes;
    int64_t skipped; /* steps left out because a gradient was not finite */
};

/* Free with router_optimiser_free. */
struct router_optimiser router_optimiser_new(const struct router *router, struct adamw_settings settings);
void router_optimiser_free(struct router_optimiser *optimiser);

/* One optimiser step of what learns in this stage; lr is the step's learning rate. Returns false, and changes
 * nothing but `skipped`, if a gradient is not finite. */
bool router_update(struct router *router, enum router_stage stage, const struct router_step *step, double lr,
                   struct router_optimiser *optimiser);

// ---- the stored draw and inference (METHOD section 3, "Stored draw", and section 5)

/* Keeps the codes' gates of this step. */
void router_store_draw(struct router *router, const struct router_step *step);

/* prune.final_draws: of `draws` >= 1 draws of the codes' gates keeps the one whose mean ratio over the
 * prompts z [rows, D], routed as in inference, is nearest to the target. The stored draw is the first, so 1
 * changes nothing; the others are those that steps number + 1, number + 2, ... would make. Returns the mean
 * ratio of the one that is kept, of the prunable MACs. */
double router_choose_draw(struct router *router, int64_t rows, const double *z, int64_t draws, uint64_t seed,
                          uint64_t number);

/* Inference: the noise-free predicted vector of each prompt z [rows, D] against the stored draw; expert
 * [rows] by argmax of the cosine. similarity [rows, K] may be NULL. */
void router_assign(const struct router *router, int64_t rows, const double *z, int *expert,
                   double *similarity);

/* mask [K, n]: 1 where the stored draw keeps an entry (METHOD section 3, "Hard mask"): what experts are made
 * from. */
void router_masks(const struct router *router, uint8_t *mask);

/* ratio [K] of the stored draw's hard masks, of the prunable MACs. */
void router_ratios(const struct router *router, double *ratio);

#endif
