/* The one table of deck keys, and the config struct of each phase that it fills.
 *
 * A key's row (keys.c) has its path, type, default, allowed values, unit, a line of help, and its place in
 * the config struct of every phase that uses it. The rows drive checking, --help, the full effective deck and
 * the README's reference: a new key is one row and one field. No phase looks into a deck. */
#ifndef PHASES_KEYS_H
#define PHASES_KEYS_H

#include "base/fault.h"
#include "base/log.h"
#include "diffusion/latent.h"
#include "diffusion/noise_schedule.h"
#include "diffusion/sampler.h"
#include "io/deck.h"
#include "io/index.h"
#include "router/normal_form.h"
#include "router/resource.h"
#include "train/cuda_aware.h"
#include "train/optimiser.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum phase_id {
    PHASE_PREPARE,
    PHASE_IMPORT,
    PHASE_PRETRAIN,
    PHASE_PRUNE,
    PHASE_ASSIGN,
    PHASE_FINETUNE,
    PHASE_SAMPLE,
    PHASE_EVALUATE,
    PHASE_EXPORT,
    PHASE_BENCH,
    PHASE_VERIFY,
    PHASES,
};

struct integer_list {
    int64_t *value;
    int count;
};
struct string_list {
    char **value;
    int count;
};

enum precision { PRECISION_FP32, PRECISION_BF16, PRECISION_AUTO };
enum run_backend { RUN_BACKEND_AUTO, RUN_BACKEND_CPU, RUN_BACKEND_CUDA };
enum lr_scale { LR_SCALE_SQRT_BATCH, LR_SCALE_NONE };
enum evaluate_split { EVALUATE_VALIDATION, EVALUATE_TRAIN };
enum expert_source { EXPERTS_FINETUNED, EXPERTS_SLICED };
enum text_states { TEXT_STATES_STORED, TEXT_STATES_COMPUTED };
enum import_weights { IMPORT_AUTO, IMPORT_FP32, IMPORT_HALF };
enum pretrain_model { PRETRAIN_UNET, PRETRAIN_CLIP };
enum codes_init { CODES_INIT_ORTHOGONAL, CODES_INIT_KMEANS };
enum prune_method {
    PRUNE_APTP,
    PRUNE_UNIFORM,
    PRUNE_RANDOM,
    PRUNE_MAGNITUDE,
    PRUNE_BLOCK,
    PRUNE_SINGLE,
};
enum sample_model { SAMPLE_ROUTED, SAMPLE_TEACHER, SAMPLE_EXPERT };

/* Strings and lists of all structs belong to them; no string is NULL ("" is "none"). Paths are ready to open:
 * names of the chain's files (files.*) are already put into run.folder. */

/* run.*: every phase */
struct run_cfg {
    int64_t seed;
    char *folder;    /* of the run: outputs, checkpoints, CSV logs, the file `stop` */
    int64_t threads; /* per rank, 0: what OpenMP decides */
    enum log_level log;
    bool log_all_ranks;
    double wall_clock_limit;  /* seconds, 0: none */
    enum run_backend backend; /* auto is settled by main */
    int64_t ranks_per_gpu;
    bool tf32;
    enum precision precision; /* auto is settled by main, so that all ranks and a restart have the same */
};

struct prepare_cfg {
    struct run_cfg run;
    char *data_file;          /* written */
    char *source;             /* index, annotations, tar or folder of tars (io/index.h) */
    char *sentence_encoder;   /* folder of a sentence-transformers model */
    bool normalize_embedding; /* apply its Normalize module, if it has one */
    int64_t image_size;       /* pixels a side */
    char *pipeline;           /* folder of a diffusers model: its text encoder, tokenizer and VAE; "": none */
    enum latent_kind latent;
    enum text_states text_states;
    bool flips; /* store the mirrored pictures too */
    double validation_fraction;
    int64_t max_tokens; /* of a caption's token states */
    int64_t text_batch; /* captions encoded at a time */
    int64_t shard_size; /* samples a shard file */
    int64_t bad_picture_limit;
    int64_t max_pixels; /* of a source picture */

    /* ""; or a second source, all of which is held out, and validation_fraction is not used */
    char *validation_source;
    struct index_options choice, validation_choice; /* what is used of each; their seeds are not set */
    int64_t crops;                                  /* random ones of a training picture; 0: its middle */
};

struct import_cfg {
    struct run_cfg run;
    char *folder; /* with model_index.json; "": all of the following are set */
    char *unet, *scheduler, *vae, *text_encoder, *tokenizer; /* folders; "": that of `folder` */
    enum import_weights weights;
    char *teacher_file; /* written */
};

struct pretrain_cfg {
    struct run_cfg run;
    char *data_file; /* read */
    char *pipeline;  /* read, if the data file has token ids: its text encoder */
    enum pretrain_model model;
    char *teacher_file, *clip_file; /* the model's is written */
    char *unet;                     /* a diffusers config.json; "": model is not unet */
    char *clip_vision;              /* a CLIPVisionModelWithProjection's config.json; "": model is not clip */
    int64_t shift;                  /* pixels */
    char *initial;                  /* a teacher file to begin with; "": random weights */
    int64_t steps, batch, micro_batch;
    struct optimiser_config optimiser;
    enum prediction prediction;
    double min_snr; /* gamma, 0: off */
    double prompt_dropout;
    bool recompute;
    bool deterministic; /* comm.deterministic */
    enum cuda_aware cuda_aware;
    int64_t bucket_mib; /* comm.bucket_mib */
    int64_t checkpoint_every;
    int64_t sample_every; /* 0: never */
    struct string_list sample_prompts;
    double sample_guidance;
    int64_t sample_steps;
    bool half; /* weights written as IEEE half */
};

struct prune_cfg {
    struct run_cfg run;
    char *data_file, *teacher_file; /* read */
    char *pipeline;                 /* read, if the data file has token ids: its text encoder */
    char *bench_file;               /* read by --check, if it is there */
    char *router_file;              /* written */
    enum prune_method method;
    int64_t warmup_steps, steps; /* `steps` come after the warm-up */
    int64_t batch, micro_batch;
    double learning_rate;
    enum lr_scale lr_scale;
    int64_t lr_warmup;
    double beta1, beta2, epsilon, weight_decay;
    double budget;           /* p, of the total MACs */
    int64_t macs_resolution; /* of the latents that the budget is counted at, 0: the training latents */
    int64_t final_draws;     /* draws that the stored one is chosen among; 1: the last step's draw */
    double min_snr;          /* gamma, 0: off */
    bool recompute;
    int64_t checkpoint_every;

    int64_t experts;      /* K */
    double gamma, offset; /* Gumbel-sigmoid: temperature and b */
    enum normal_form normal_form;
    bool mac_weights;
    enum codes_init codes_init;
    bool depth_gates;
    int64_t ff_entries;

    bool transport; /* false: plain argmax */
    double transport_eps;
    int64_t transport_iterations;

    double w_ddpm, w_distill_out, w_distill_block, w_resource, w_contrastive, w_spread_max, w_spread_std;
    double tau; /* of the contrastive loss */
    enum resource_form resource_form;
};

struct assign_cfg {
    struct run_cfg run;
    char *data_file, *router_file;        /* read */
    char *assignment_file;                /* written */
    int64_t batch;                        /* prompts at a time */
    struct integer_list macs_resolutions; /* latents that the ratio is also printed at */
};

struct finetune_cfg {
    struct run_cfg run;
    char *data_file, *teacher_file, *router_file, *assignment_file; /* read */
    char *pipeline;    /* read, if the data file has token ids: its text encoder */
    char *bench_file;  /* read by --check, if it is there */
    char *expert_file; /* written: prefix of their names */
    int64_t expert;    /* the one to train, -1: all */
    int64_t steps;     /* of each expert */
    double epochs;     /* > 0: passes over each expert's prompts, instead of steps */
    int64_t batch, micro_batch;
    struct optimiser_config optimiser; /* its learning rate before lr_scale */
    enum lr_scale lr_scale;
    double w_ddpm, w_distill_out, w_distill_block;
    double min_snr; /* gamma, 0: off */
    double prompt_dropout;
    bool recompute;
    bool deterministic; /* comm.deterministic */
    enum cuda_aware cuda_aware;
    int64_t bucket_mib; /* comm.bucket_mib */
    int64_t checkpoint_every;
    bool half; /* weights written as IEEE half */
};

struct sample_cfg {
    struct run_cfg run;
    char *data_file, *teacher_file, *router_file, *expert_file; /* read, as far as they are needed */
    char *bench_file;                                           /* read by --check, if it is there */
    char *samples_file;                                         /* written */
    enum sample_model model;
    int64_t expert; /* SAMPLE_EXPERT: which one */
    enum expert_source experts;
    /* the prompts: exactly one of these is given */
    char *split;   /* "train", "validation" or "" */
    char *prompts; /* a text file, "-": standard input, "": none */
    struct string_list prompt_list;
    int64_t limit;  /* prompts, 0: all */
    int64_t images; /* of each prompt */
    enum sampler_kind sampler;
    int64_t steps;
    double guidance;
    char *negative_prompt;  /* "": the empty prompt */
    int64_t height, width;  /* latents; 0: those of the training */
    int64_t batch;          /* images that a rank has in hand */
    bool vae_tiles;         /* decode in tiles */
    char *sentence_encoder; /* folder; "": none */
    char *pipeline;         /* folder; "": none */
    bool normalize_embedding;
    int64_t max_tokens; /* of a prompt that is text */
};

struct evaluate_cfg {
    struct run_cfg run;
    char *data_file, *teacher_file, *router_file, *assignment_file, *samples_file, *clip_file; /* read */
    char *pipeline;             /* read, if the data file has token ids: its text encoder */
    char *teacher_samples_file; /* read, if teacher_pictures */
    char *expert_file;          /* read: prefix of their names */
    char *cache_file;           /* read and written: prefix of their names */
    char *metrics_file;         /* written */
    enum evaluate_split split;
    enum expert_source experts;
    bool pictures;         /* samples.h5 and the metric networks are there */
    bool teacher;          /* the teacher too, and the experts' distance to it */
    bool teacher_pictures; /* its pictures too */
    int64_t batch;         /* items denoised at a time */
    struct integer_list timesteps;
    int64_t bootstrap, half_samples; /* replicates of means, and of distances (0: no intervals) */
    int64_t timing_batch;            /* pictures, 0: no time is measured */
    int64_t macs_resolution;         /* of latents, 0: the data's */

    char *inception, *clip_folder, *cmmd_folder; /* published networks; "": clip.h5 in its place */
    char *pictures_source;                       /* real pictures; "": decoded from latents */
    int64_t bad_picture_limit, max_pixels;       /* of those */
};

struct export_cfg {
    struct run_cfg run;
    char *router_file, *assignment_file; /* read */
    char *expert_file;                   /* read: prefix of their names */
    char *folder;                        /* written: a folder for each expert, and one for the router */
    int64_t expert;                      /* the one to export, -1: all of them and the router */
    bool half;                           /* weights written as IEEE half */
};

struct bench_cfg {
    struct run_cfg run;
    char *teacher_file, *router_file; /* read */
    char *bench_file;                 /* written */
    char *unet;                       /* a config.json to measure with random weights; "": the files */
    bool experts;                     /* also those of the router file */
    struct integer_list resolutions;  /* latents a side */
    struct integer_list batch_sizes;
    int64_t tokens, repeats;
    int64_t prune_batch; /* 0: no pruning step is measured */
    int64_t train_batch; /* 0: no training is measured */
    double budget; /* > 0: an expert of uniform width with this share of the MACs, instead of those of the
                      router file */
    double roof_seconds; /* for each product of the roof, 0: it is not measured */
    bool depth_gates;    /* of the pruning step, without a router file */
    int64_t ff_entries;
};

struct verify_cfg {
    struct run_cfg run;
    char *reference;
    enum precision precision; /* not auto */
    double tolerance;         /* 0: DESIGN's default of each quantity */
};

/* The config of one phase; `run` is the first member of each. */
union phase_cfg {
    struct run_cfg run;
    struct prepare_cfg prepare;
    struct import_cfg import;
    struct pretrain_cfg pretrain;
    struct prune_cfg prune;
    struct assign_cfg assign;
    struct finetune_cfg finetune;
    struct sample_cfg sample;
    struct evaluate_cfg evaluate;
    struct export_cfg export;
    struct bench_cfg bench;
    struct verify_cfg verify;
};

const char *phase_name(enum phase_id phase);    /* "prune" */
const char *phase_meaning(enum phase_id phase); /* one line */
bool phase_writes(enum phase_id phase);         /* whether it writes into run.folder */
bool phase_stops(enum phase_id phase); /* whether it can be stopped with a checkpoint (base/stop.h) */
/* The phase of that name, or PHASES. */
enum phase_id phase_find(const char *name);

/* The phase that the deck names with `phase = "prune";`. Faults are EXIT_CODE_DECK, here and below. */
bool keys_phase(const struct deck *deck, enum phase_id *phase, struct fault *fault);

/* Checks every setting of the deck (unknown key, key of another phase, wrong type, not allowed, missing) and
 * the rules between keys, and fills the config. Nothing is left to free after a fault. */
bool keys_fill(const struct deck *deck, enum phase_id phase, union phase_cfg *cfg, struct fault *fault);
void keys_free(enum phase_id phase, union phase_cfg *cfg);

/* The full effective deck: every key of the phase with its value, defaults too; a valid deck that gives the
 * same config. The deck must have passed keys_fill. The caller frees it. */
char *keys_effective_deck(const struct deck *deck, enum phase_id phase);

/* The keys of a phase, for --help PHASE; all keys as a Markdown table, for the README. */
void keys_help(FILE *stream, enum phase_id phase);
void keys_markdown(FILE *stream);

#endif
