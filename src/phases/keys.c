#include "phases/keys.h"

#include "base/check.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum key_type {
    KEY_BOOL,    /* bool */
    KEY_INT,     /* int64_t */
    KEY_DOUBLE,  /* double */
    KEY_ENUM,    /* an enum; `allowed` lists the names in its order */
    KEY_PATH,    /* char *, relative to the working directory */
    KEY_TEXT,    /* char *, any text */
    KEY_FILE,    /* char *, a file of the chain: a name without '/' lies in run.folder */
    KEY_INTS,    /* struct integer_list */
    KEY_STRINGS, /* struct string_list */
};

/* One row of the table. */
struct key {
    const char *path;
    enum key_type type;
    const char *initial; /* the default, as in a deck; NULL: the key must be set */
    const char *allowed; /* numbers: an interval, "(0, 1]"; enums: the names; else NULL */
    const char *unit;    /* or NULL */
    const char *help;
    size_t at[PHASES]; /* place in the config of each phase that uses the key, plus 1; 0: not used */
};

#define AT(phase, member) (offsetof(struct phase##_cfg, member) + 1)
#define PREPARE(member) [PHASE_PREPARE] = AT(prepare, member)
#define IMPORT(member) [PHASE_IMPORT] = AT(import, member)
#define PRETRAIN(member) [PHASE_PRETRAIN] = AT(pretrain, member)
#define PRUNE(member) [PHASE_PRUNE] = AT(prune, member)
#define ASSIGN(member) [PHASE_ASSIGN] = AT(assign, member)
#define FINETUNE(member) [PHASE_FINETUNE] = AT(finetune, member)
#define EVALUATE(member) [PHASE_EVALUATE] = AT(evaluate, member)
#define BENCH(member) [PHASE_BENCH] = AT(bench, member)
#define VERIFY(member) [PHASE_VERIFY] = AT(verify, member)
#define SAMPLE(member) [PHASE_SAMPLE] = AT(sample, member)
#define EXPORT(member) [PHASE_EXPORT] = AT(export, member)
#define EVERY(member)                                                                                        \
    PREPARE(member), IMPORT(member), PRETRAIN(member), PRUNE(member), ASSIGN(member), FINETUNE(member),      \
        SAMPLE(member), EVALUATE(member), EXPORT(member), BENCH(member), VERIFY(member)

_Static_assert(sizeof(enum precision) == sizeof(int), "fields of KEY_ENUM are filled as int");

// clang-format off
static const struct key keys[] = {
    // ---- every phase
    {"run.seed", KEY_INT, "1", "[0, 9223372036854775807]", NULL,
     "seed of all random numbers", {EVERY(run.seed)}},
    {"run.folder", KEY_PATH, "\"run\"", NULL, NULL,
     "folder of the run: its files, checkpoints and logs; a file named stop in it ends prepare, pretrain, prune, finetune, sample and evaluate, to go on later", {EVERY(run.folder)}},
    {"run.threads", KEY_INT, "0", "[0, 4096]", NULL,
     "threads of each rank; 0: as OMP_NUM_THREADS says, else the cores of the rank", {EVERY(run.threads)}},
    {"run.log", KEY_ENUM, "\"normal\"", "quiet, normal, verbose", NULL,
     "how much is printed (--quiet, --verbose)", {EVERY(run.log)}},
    {"run.log_all_ranks", KEY_BOOL, "false", NULL, NULL,
     "every rank prints, not rank 0 alone (--log-all-ranks)", {EVERY(run.log_all_ranks)}},
    {"run.wall_clock_limit", KEY_DOUBLE, "0", "[0, inf)", "s",
     "end with a checkpoint and exit code 75 after this time; 0: no limit", {PREPARE(run.wall_clock_limit), PRETRAIN(run.wall_clock_limit), PRUNE(run.wall_clock_limit), FINETUNE(run.wall_clock_limit), SAMPLE(run.wall_clock_limit), EVALUATE(run.wall_clock_limit)}},
    {"run.backend", KEY_ENUM, "\"auto\"", "auto, cpu, cuda", NULL,
     "what computes; auto: cuda where the program was built with it and there is a GPU, else cpu", {EVERY(run.backend)}},
    {"run.ranks_per_gpu", KEY_INT, "1", "[1, 64]", NULL,
     "as many ranks may share a GPU; more are refused", {EVERY(run.ranks_per_gpu)}},
    {"run.tf32", KEY_BOOL, "false", NULL, NULL,
     "fp32 products and convolutions of a GPU on its tensor cores, which round operands to 10 bits of mantissa", {EVERY(run.tf32)}},
    {"run.precision", KEY_ENUM, "\"auto\"", "fp32, bf16, auto", NULL,
     "of the models' arithmetic; auto: bf16 where it is the faster (measured at the start, echoed in the files), else fp32", {EVERY(run.precision)}},
    {"comm.deterministic", KEY_BOOL, "false", NULL, NULL,
     "sum gradients over ranks in a fixed order", {PRETRAIN(deterministic), FINETUNE(deterministic)}},
    {"comm.cuda_aware", KEY_ENUM, "\"auto\"", "auto, on, off", NULL,
     "sum gradients in the GPUs' memory; auto: if MPI says that it can, and a sum that is tried at the start is right; on: as auto, whatever MPI says; off: through host memory", {PRETRAIN(cuda_aware), FINETUNE(cuda_aware)}},
    {"comm.bucket_mib", KEY_INT, "25", "[1, 1024]", "MiB",
     "gradients that are summed over ranks at a time, while the backward pass goes on", {PRETRAIN(bucket_mib), FINETUNE(bucket_mib)}},

    // ---- files of the chain
    {"files.data", KEY_FILE, "\"data.h5\"", NULL, NULL,
     "pictures or latents, captions, text states; written by prepare", {PREPARE(data_file), PRETRAIN(data_file), PRUNE(data_file), ASSIGN(data_file), FINETUNE(data_file), SAMPLE(data_file), EVALUATE(data_file)}},
    {"files.teacher", KEY_FILE, "\"teacher.h5\"", NULL, NULL,
     "the full UNet; written by pretrain or import", {IMPORT(teacher_file), PRETRAIN(teacher_file), PRUNE(teacher_file), FINETUNE(teacher_file), BENCH(teacher_file), SAMPLE(teacher_file), EVALUATE(teacher_file)}},
    {"files.router", KEY_FILE, "\"router.h5\"", NULL, NULL,
     "predictor, codes, one mask for each expert; written by prune", {PRUNE(router_file), ASSIGN(router_file), FINETUNE(router_file), BENCH(router_file), SAMPLE(router_file), EVALUATE(router_file), EXPORT(router_file)}},
    {"files.assignment", KEY_FILE, "\"assignment.h5\"", NULL, NULL,
     "the expert of every prompt; written by assign", {ASSIGN(assignment_file), FINETUNE(assignment_file), EVALUATE(assignment_file), EXPORT(assignment_file)}},
    {"files.expert", KEY_FILE, "\"expert\"", NULL, NULL,
     "the experts, expert_00.h5 and so on: what stands before the number; written by finetune", {FINETUNE(expert_file), SAMPLE(expert_file), EVALUATE(expert_file), EXPORT(expert_file)}},
    {"files.samples", KEY_FILE, "\"samples.h5\"", NULL, NULL,
     "the sampled pictures; written by sample", {SAMPLE(samples_file), EVALUATE(samples_file)}},
    {"files.clip", KEY_FILE, "\"clip.h5\"", NULL, NULL,
     "the metric network; written by pretrain where pretrain.model is clip", {PRETRAIN(clip_file), EVALUATE(clip_file)}},
    {"files.teacher_samples", KEY_FILE, "\"teacher_samples.h5\"", NULL, NULL,
     "the same prompts sampled by the teacher; written by sample with sample.model = teacher and this name as files.samples", {EVALUATE(teacher_samples_file)}},
    {"files.metrics", KEY_FILE, "\"metrics.h5\"", NULL, NULL,
     "quality and cost of the experts; written by evaluate", {EVALUATE(metrics_file)}},
    {"files.evaluate_cache", KEY_FILE, "\"evaluate_cache\"", NULL, NULL,
     "what evaluate need not compute again, evaluate_cache_real_trained.h5 and so on: what stands before the last _; written by evaluate", {EVALUATE(cache_file)}},
    {"files.export", KEY_FILE, "\"export\"", NULL, NULL,
     "folder for PyTorch users: in it expert_00 and so on, and router; written by export", {EXPORT(folder)}},
    {"files.bench", KEY_FILE, "\"bench.h5\"", NULL, NULL,
     "the measurements; written by bench; --check of the others tells times by them", {PRUNE(bench_file), FINETUNE(bench_file), SAMPLE(bench_file), BENCH(bench_file)}},

    // ---- prepare
    {"data.source", KEY_PATH, NULL, NULL, NULL,
     "pictures and captions: an index (.csv, .tsv, .jsonl) with the columns file and caption, or a folder that holds one; COCO's annotations (.json); a .tar of webdataset, or a folder of them", {PREPARE(source)}},
    {"data.image_folder", KEY_PATH, "\"\"", NULL, NULL,
     "folder of the pictures that an index or annotations name; empty: the one that the index is in", {PREPARE(choice.image_folder)}},
    {"data.captions", KEY_ENUM, "\"all\"", "all, one", NULL,
     "which captions of a picture become samples: each, or one that is drawn", {PREPARE(choice.captions)}},
    {"data.images", KEY_INT, "0", "[0, inf)", NULL,
     "use so many different pictures of data.source, drawn; 0: all", {PREPARE(choice.images)}},
    {"data.validation_source", KEY_PATH, "\"\"", NULL, NULL,
     "pictures and captions to validate with, in the same forms; data.source is then trained with as a whole. Empty: captions of data.source are held out", {PREPARE(validation_source)}},
    {"data.validation_image_folder", KEY_PATH, "\"\"", NULL, NULL,
     "as data.image_folder, of data.validation_source", {PREPARE(validation_choice.image_folder)}},
    {"data.validation_captions", KEY_ENUM, "\"all\"", "all, one", NULL,
     "as data.captions, of data.validation_source", {PREPARE(validation_choice.captions)}},
    {"data.validation_images", KEY_INT, "0", "[0, inf)", NULL,
     "as data.images, of data.validation_source", {PREPARE(validation_choice.images)}},
    {"data.sentence_encoder", KEY_PATH, "\"\"", NULL, NULL,
     "folder of the sentence-transformers model that encodes the captions; sample needs it for prompts that are text", {PREPARE(sentence_encoder), SAMPLE(sentence_encoder)}},
    {"data.normalize_embedding", KEY_BOOL, "false", NULL, NULL,
     "apply the Normalize module that the encoder's folder may have to its sentence embeddings", {PREPARE(normalize_embedding), SAMPLE(normalize_embedding)}},
    {"data.image_size", KEY_INT, "256", "[8, 4096]", "pixels",
     "height and width that pictures are cropped and scaled to", {PREPARE(image_size)}},
    {"data.latent", KEY_ENUM, "\"haar\"", "pixel, haar, vae", NULL,
     "what the UNet sees: the pixels, their 2x2 Haar transform (a quarter of the positions), or latents of the VAE of data.pipeline, in tiles where the picture is larger than its sample_size", {PREPARE(latent)}},
    {"data.pipeline", KEY_PATH, "\"\"", NULL, NULL,
     "folder of a published diffusers model: prepare encodes with its text encoder and VAE, sample paints with them, the other phases need its text encoder where data.h5 has token ids; none: states and latents need no model", {PREPARE(pipeline), PRETRAIN(pipeline), PRUNE(pipeline), FINETUNE(pipeline), SAMPLE(pipeline), EVALUATE(pipeline)}},
    {"data.text_states", KEY_ENUM, "\"stored\"", "stored, computed", NULL,
     "token states: stored in data.h5, or computed while training from token ids that are stored, with the text encoder of data.pipeline", {PREPARE(text_states)}},
    {"data.flips", KEY_BOOL, "true", NULL, NULL,
     "store the mirrored pictures too", {PREPARE(flips)}},
    {"data.crops", KEY_INT, "0", "[0, 64]", NULL,
     "random crops that are stored of each picture to train with; 0: its middle, as of those to validate with", {PREPARE(crops)}},
    {"data.validation_fraction", KEY_DOUBLE, "0.1", "[0, 1)", NULL,
     "part of the captions that is held out; not used with data.validation_source", {PREPARE(validation_fraction)}},
    {"data.max_tokens", KEY_INT, "77", "[2, 512]", NULL,
     "tokens kept of a caption", {PREPARE(max_tokens), SAMPLE(max_tokens)}},
    {"data.text_batch", KEY_INT, "64", "[1, 65536]", NULL,
     "captions that are encoded at a time", {PREPARE(text_batch)}},
    {"data.shard_size", KEY_INT, "10000", "[1, 10000000]", NULL,
     "pictures in one shard file", {PREPARE(shard_size)}},
    {"data.bad_picture_limit", KEY_INT, "100", "[0, inf)", NULL,
     "more broken pictures than this end the run; fewer are named and skipped", {PREPARE(bad_picture_limit), EVALUATE(bad_picture_limit)}},
    {"data.max_pixels", KEY_INT, "100000000", "[64, 1000000000]", NULL,
     "a source picture with more pixels counts as broken", {PREPARE(max_pixels), EVALUATE(max_pixels)}},

    // ---- import
    {"import.folder", KEY_PATH, "\"\"", NULL, NULL,
     "folder of a published diffusers model, with model_index.json; whose parts are those that no key names", {IMPORT(folder)}},
    {"import.unet", KEY_PATH, "\"\"", NULL, NULL,
     "folder of the UNet2DConditionModel; empty: that of import.folder", {IMPORT(unet)}},
    {"import.scheduler", KEY_PATH, "\"\"", NULL, NULL,
     "folder of scheduler_config.json: what the UNet predicts, and its betas; empty: that of import.folder", {IMPORT(scheduler)}},
    {"import.vae", KEY_PATH, "\"\"", NULL, NULL,
     "folder of the AutoencoderKL whose latents the UNet denoises; empty: that of import.folder", {IMPORT(vae)}},
    {"import.text_encoder", KEY_PATH, "\"\"", NULL, NULL,
     "folder of the CLIPTextModel whose token states the UNet reads; empty: that of import.folder", {IMPORT(text_encoder)}},
    {"import.tokenizer", KEY_PATH, "\"\"", NULL, NULL,
     "folder of its CLIPTokenizer; empty: that of import.folder", {IMPORT(tokenizer)}},
    {"import.weights", KEY_ENUM, "\"auto\"", "auto, fp32, half", NULL,
     "how weights are written; auto: as IEEE half where all are published so, else fp32, and nothing is lost", {IMPORT(weights)}},

    // ---- pretrain
    {"pretrain.model", KEY_ENUM, "\"unet\"", "unet, clip", NULL,
     "what is trained: unet, the teacher; clip, the metric network, on the pictures and their captions' sentence embeddings", {PRETRAIN(model)}},
    {"pretrain.unet", KEY_PATH, "\"\"", NULL, NULL,
     "the UNet's config.json, as diffusers writes it; must be set for model unet", {PRETRAIN(unet)}},
    {"pretrain.clip_vision", KEY_PATH, "\"\"", NULL, NULL,
     "the image encoder's config.json, as transformers' CLIPVisionModelWithProjection writes it; must be set for model clip", {PRETRAIN(clip_vision)}},
    {"pretrain.shift", KEY_INT, "2", "[0, 4096]", "pixels",
     "model clip: pictures are moved at random by up to this, both ways", {PRETRAIN(shift)}},
    {"pretrain.initial", KEY_PATH, "\"\"", NULL, NULL,
     "model unet: weights to begin with, the teacher file of an earlier run with the same UNet, latents and text encoder; none: random ones", {PRETRAIN(initial)}},
    {"pretrain.steps", KEY_INT, "100000", "[1, inf)", NULL,
     "training steps", {PRETRAIN(steps)}},
    {"pretrain.batch", KEY_INT, "256", "[1, 1048576]", NULL,
     "pictures a step, over all ranks", {PRETRAIN(batch)}},
    {"pretrain.micro_batch", KEY_INT, "64", "[1, 65536]", NULL,
     "pictures that go through the network at a time; divides the batch", {PRETRAIN(micro_batch)}},
    {"pretrain.learning_rate", KEY_DOUBLE, "1e-4", "(0, 1]", NULL,
     "AdamW", {PRETRAIN(optimiser.learning_rate)}},
    {"pretrain.lr_warmup", KEY_INT, "1000", "[0, inf)", "steps",
     "the learning rate rises linearly from 0, then stays", {PRETRAIN(optimiser.warmup_steps)}},
    {"pretrain.beta1", KEY_DOUBLE, "0.9", "[0, 1)", NULL,
     "AdamW", {PRETRAIN(optimiser.beta1)}},
    {"pretrain.beta2", KEY_DOUBLE, "0.999", "[0, 1)", NULL,
     "AdamW", {PRETRAIN(optimiser.beta2)}},
    {"pretrain.epsilon", KEY_DOUBLE, "1e-8", "(0, 1]", NULL,
     "AdamW", {PRETRAIN(optimiser.epsilon)}},
    {"pretrain.weight_decay", KEY_DOUBLE, "0.01", "[0, 1]", NULL,
     "AdamW, decoupled", {PRETRAIN(optimiser.weight_decay)}},
    {"pretrain.clip_norm", KEY_DOUBLE, "1.0", "[0, inf)", NULL,
     "largest norm of the gradient; 0: not clipped", {PRETRAIN(optimiser.clip_norm)}},
    {"pretrain.ema_decay", KEY_DOUBLE, "0.9999", "[0, 1)", NULL,
     "moving average of the weights, which is what is written; 0: none", {PRETRAIN(optimiser.ema_decay)}},
    {"pretrain.prediction", KEY_ENUM, "\"v\"", "v, epsilon", NULL,
     "what the UNet predicts", {PRETRAIN(prediction)}},
    {"pretrain.min_snr", KEY_DOUBLE, "5.0", "[0, inf)", NULL,
     "gamma of the min-SNR loss weight; 0: off", {PRETRAIN(min_snr)}},
    {"pretrain.prompt_dropout", KEY_DOUBLE, "0.1", "[0, 1)", NULL,
     "part of the prompts that is replaced by the empty one, for guidance", {PRETRAIN(prompt_dropout)}},
    {"pretrain.recompute", KEY_BOOL, "false", NULL, NULL,
     "compute activations again in the backward pass: less memory, more time", {PRETRAIN(recompute)}},
    {"pretrain.checkpoint_every", KEY_INT, "1000", "[1, inf)", "steps",
     "distance of checkpoints", {PRETRAIN(checkpoint_every)}},
    {"pretrain.sample_every", KEY_INT, "0", "[0, inf)", "steps",
     "distance of grids of sampled pictures, or for model clip of measurements of retrieval; 0: none", {PRETRAIN(sample_every)}},
    {"pretrain.sample_prompts", KEY_STRINGS, "[]", NULL, NULL,
     "prompts of the grid: captions of the data", {PRETRAIN(sample_prompts)}},
    {"pretrain.sample_guidance", KEY_DOUBLE, "7.5", "[0, 100]", NULL,
     "classifier-free guidance of the grid", {PRETRAIN(sample_guidance)}},
    {"pretrain.sample_steps", KEY_INT, "25", "[1, 999]", NULL,
     "PNDM steps of the grid", {PRETRAIN(sample_steps)}},
    {"pretrain.half", KEY_BOOL, "true", NULL, NULL,
     "write the finished weights as IEEE half", {PRETRAIN(half)}},

    // ---- prune
    {"prune.budget", KEY_DOUBLE, "0.66", "(0, 1]", NULL,
     "p: mean MACs of the experts, weighted by use, over those of the full UNet", {PRUNE(budget)}},
    {"prune.method", KEY_ENUM, "\"aptp\"", "aptp, uniform, random, magnitude, block, single", NULL,
     "how masks are found; single: one learned code for all prompts; uniform, random, magnitude, block (BK-SDM): one mask of this budget, nothing learned; all but aptp take router.experts as 1", {PRUNE(method)}},
    {"prune.warmup_steps", KEY_INT, "500", "[0, inf)", NULL,
     "first steps, in which the predictor learns from all losses and the codes from none", {PRUNE(warmup_steps)}},
    {"prune.steps", KEY_INT, "2500", "[1, inf)", NULL,
     "steps after the warm-up", {PRUNE(steps)}},
    {"prune.batch", KEY_INT, "1024", "[2, 1048576]", NULL,
     "prompts a step, over all ranks", {PRUNE(batch)}},
    {"prune.micro_batch", KEY_INT, "64", "[1, 65536]", NULL,
     "prompts that go through the UNets at a time; divides the batch", {PRUNE(micro_batch)}},
    {"prune.learning_rate", KEY_DOUBLE, "2e-4", "(0, 10]", NULL,
     "AdamW, before lr_scale", {PRUNE(learning_rate)}},
    {"prune.lr_scale", KEY_ENUM, "\"sqrt_batch\"", "sqrt_batch, none", NULL,
     "factor of the learning rate", {PRUNE(lr_scale)}},
    {"prune.lr_warmup", KEY_INT, "100", "[0, inf)", "steps",
     "the learning rate rises linearly from 0, then stays", {PRUNE(lr_warmup)}},
    {"prune.beta1", KEY_DOUBLE, "0.9", "[0, 1)", NULL,
     "AdamW", {PRUNE(beta1)}},
    {"prune.beta2", KEY_DOUBLE, "0.999", "[0, 1)", NULL,
     "AdamW", {PRUNE(beta2)}},
    {"prune.epsilon", KEY_DOUBLE, "1e-8", "(0, 1]", NULL,
     "AdamW", {PRUNE(epsilon)}},
    {"prune.weight_decay", KEY_DOUBLE, "0.0", "[0, 1]", NULL,
     "AdamW, decoupled", {PRUNE(weight_decay)}},
    {"prune.w_ddpm", KEY_DOUBLE, "1.0", "[0, inf)", NULL,
     "weight of the diffusion loss", {PRUNE(w_ddpm)}},
    {"prune.w_distill_out", KEY_DOUBLE, "0.2", "[0, inf)", NULL,
     "weight of the distance to the teacher's output", {PRUNE(w_distill_out)}},
    {"prune.w_distill_block", KEY_DOUBLE, "0.2", "[0, inf)", NULL,
     "weight of the distance to the outputs of the teacher's blocks", {PRUNE(w_distill_block)}},
    {"prune.w_resource", KEY_DOUBLE, "2.0", "[0, inf)", NULL,
     "weight of the distance to the budget", {PRUNE(w_resource)}},
    {"prune.w_contrastive", KEY_DOUBLE, "100.0", "[0, inf)", NULL,
     "weight of the contrastive loss", {PRUNE(w_contrastive)}},
    {"prune.w_spread_max", KEY_DOUBLE, "0.0", "[0, inf)", NULL,
     "weight of 1 - the largest ratio (released code: 0.1)", {PRUNE(w_spread_max)}},
    {"prune.w_spread_std", KEY_DOUBLE, "0.0", "[0, inf)", NULL,
     "weight of - the deviation of the ratios (released code: 0.1)", {PRUNE(w_spread_std)}},
    {"prune.resource_form", KEY_ENUM, "\"log\"", "log, mae, mse", NULL,
     "distance to the budget: |log(R/p')|, |R - p'| or its square", {PRUNE(resource_form)}},
    {"prune.tau", KEY_DOUBLE, "0.03", "(0, 100]", NULL,
     "temperature of the contrastive loss", {PRUNE(tau)}},
    {"prune.min_snr", KEY_DOUBLE, "5.0", "[0, inf)", NULL,
     "gamma of the min-SNR weight of the diffusion loss; 0: off", {PRUNE(min_snr)}},
    {"prune.macs_resolution", KEY_INT, "0", "[0, 4096]", "latents",
     "height and width at which the budget's MACs are counted; 0: the training latents", {PRUNE(macs_resolution)}},
    {"prune.final_draws", KEY_INT, "1", "[1, 1000000]", NULL,
     "1: the gates of the last step are kept; n: of n draws the one nearest to the budget", {PRUNE(final_draws)}},
    {"prune.recompute", KEY_BOOL, "false", NULL, NULL,
     "compute activations again in the backward pass: less memory, more time", {PRUNE(recompute)}},
    {"prune.checkpoint_every", KEY_INT, "100", "[1, inf)", "steps",
     "distance of checkpoints", {PRUNE(checkpoint_every)}},
    {"router.experts", KEY_INT, "16", "[1, 4096]", NULL,
     "K: architecture codes, experts (paper: 16 for CC3M, 8 for COCO)", {PRUNE(experts)}},
    {"router.gamma", KEY_DOUBLE, "0.4", "(0, 100]", NULL,
     "temperature of the Gumbel-sigmoid", {PRUNE(gamma)}},
    {"router.offset", KEY_DOUBLE, "3.0", "[-100, 100]", NULL,
     "b of the Gumbel-sigmoid: training starts near the full UNet", {PRUNE(offset)}},
    {"router.normal_form", KEY_ENUM, "\"mixed\"", "mixed, hard, soft", NULL,
     "form in which architectures are compared", {PRUNE(normal_form)}},
    {"router.mac_weights", KEY_BOOL, "false", NULL, NULL,
     "weigh the normal form's units by their share of the MACs", {PRUNE(mac_weights)}},
    {"router.codes_init", KEY_ENUM, "\"orthogonal\"", "orthogonal, kmeans", NULL,
     "how codes start: orthogonal, or clusters of the predicted vectors at the end of the warm-up", {PRUNE(codes_init)}},
    {"router.depth_gates", KEY_BOOL, "true", NULL, NULL,
     "whole ResNets and transformers may be dropped", {PRUNE(depth_gates), BENCH(depth_gates)}},
    {"router.ff_entries", KEY_INT, "32", "[1, 1024]", NULL,
     "slices that a feed-forward is pruned in", {PRUNE(ff_entries), BENCH(ff_entries)}},
    {"router.transport", KEY_BOOL, "true", NULL, NULL,
     "prompts go to codes by optimal transport over the batch in training; false: to the most similar code", {PRUNE(transport)}},
    {"transport.eps", KEY_DOUBLE, "0.05", "(0, 100]", NULL,
     "entropic regularisation of the optimal transport", {PRUNE(transport_eps)}},
    {"transport.iterations", KEY_INT, "3", "[1, 10000]", NULL,
     "Sinkhorn rounds", {PRUNE(transport_iterations)}},

    // ---- assign
    {"assign.batch", KEY_INT, "1024", "[1, 1048576]", NULL,
     "prompts routed at a time", {ASSIGN(batch)}},
    {"assign.macs_resolutions", KEY_INTS, "[96]", "[1, 4096]", "latents",
     "sizes at which the experts' MACs are printed, beside the one of the budget", {ASSIGN(macs_resolutions)}},

    // ---- finetune
    {"finetune.expert", KEY_INT, "-1", "[-1, 1000000]", NULL,
     "the one expert to train (a job array trains one a task); -1: all of them", {FINETUNE(expert)}},
    {"finetune.steps", KEY_INT, "30000", "[1, inf)", "steps",
     "of each expert", {FINETUNE(steps)}},
    {"finetune.epochs", KEY_DOUBLE, "0", "[0, 1000000]", NULL,
     "passes over each expert's prompts, instead of finetune.steps; 0: that counts", {FINETUNE(epochs)}},
    {"finetune.batch", KEY_INT, "128", "[1, 1048576]", NULL,
     "pictures a step, over all ranks that train the expert", {FINETUNE(batch)}},
    {"finetune.micro_batch", KEY_INT, "32", "[1, 65536]", NULL,
     "pictures that go through the UNets at a time", {FINETUNE(micro_batch)}},
    {"finetune.learning_rate", KEY_DOUBLE, "1e-5", "(0, 1]", NULL,
     "AdamW, before lr_scale", {FINETUNE(optimiser.learning_rate)}},
    {"finetune.lr_scale", KEY_ENUM, "\"none\"", "sqrt_batch, none", NULL,
     "factor of the learning rate (the released code: sqrt_batch)", {FINETUNE(lr_scale)}},
    {"finetune.lr_warmup", KEY_INT, "250", "[0, inf)", "steps",
     "the learning rate rises linearly from 0, then stays", {FINETUNE(optimiser.warmup_steps)}},
    {"finetune.beta1", KEY_DOUBLE, "0.9", "[0, 1)", NULL,
     "AdamW", {FINETUNE(optimiser.beta1)}},
    {"finetune.beta2", KEY_DOUBLE, "0.999", "[0, 1)", NULL,
     "AdamW", {FINETUNE(optimiser.beta2)}},
    {"finetune.epsilon", KEY_DOUBLE, "1e-8", "(0, 1]", NULL,
     "AdamW", {FINETUNE(optimiser.epsilon)}},
    {"finetune.weight_decay", KEY_DOUBLE, "0", "[0, 1]", NULL,
     "AdamW, decoupled", {FINETUNE(optimiser.weight_decay)}},
    {"finetune.clip_norm", KEY_DOUBLE, "1.0", "[0, inf)", NULL,
     "largest norm of the gradient; 0: not clipped", {FINETUNE(optimiser.clip_norm)}},
    {"finetune.ema_decay", KEY_DOUBLE, "0", "[0, 1)", NULL,
     "moving average of the weights, which is then what is written; 0: none", {FINETUNE(optimiser.ema_decay)}},
    {"finetune.w_ddpm", KEY_DOUBLE, "1e-4", "[0, inf)", NULL,
     "alpha_ddpm: weight of the diffusion loss", {FINETUNE(w_ddpm)}},
    {"finetune.w_distill_out", KEY_DOUBLE, "1.0", "[0, inf)", NULL,
     "alpha_distill of the distance to the teacher's output", {FINETUNE(w_distill_out)}},
    {"finetune.w_distill_block", KEY_DOUBLE, "1.0", "[0, inf)", NULL,
     "alpha_distill of the distance to the outputs of the teacher's blocks", {FINETUNE(w_distill_block)}},
    {"finetune.min_snr", KEY_DOUBLE, "5.0", "[0, inf)", NULL,
     "gamma of the min-SNR weight of the diffusion loss; 0: off", {FINETUNE(min_snr)}},
    {"finetune.prompt_dropout", KEY_DOUBLE, "0", "[0, 1)", NULL,
     "part of the prompts that is replaced by the empty one, for guidance", {FINETUNE(prompt_dropout)}},
    {"finetune.recompute", KEY_BOOL, "false", NULL, NULL,
     "compute activations again in the backward pass: less memory, more time", {FINETUNE(recompute)}},
    {"finetune.checkpoint_every", KEY_INT, "1000", "[1, inf)", "steps",
     "distance of checkpoints", {FINETUNE(checkpoint_every)}},
    {"finetune.half", KEY_BOOL, "true", NULL, NULL,
     "write the finished weights as IEEE half", {FINETUNE(half)}},
    // ---- sample
    {"sample.model", KEY_ENUM, "\"routed\"", "routed, teacher, expert", NULL,
     "what samples: the expert that the router sends each prompt to, the teacher, or one expert for every prompt", {SAMPLE(model)}},
    {"sample.expert", KEY_INT, "0", "[0, 4095]", NULL,
     "the one expert of sample.model = expert", {SAMPLE(expert)}},
    {"sample.experts", KEY_ENUM, "\"finetuned\"", "finetuned, sliced", NULL,
     "experts as finetune wrote them, or cut out of the teacher and not trained", {SAMPLE(experts)}},
    {"sample.split", KEY_TEXT, "\"\"", NULL, NULL,
     "take the prompts from this split of files.data: train or validation", {SAMPLE(split)}},
    {"sample.prompts", KEY_PATH, "\"\"", NULL, NULL,
     "take the prompts from a text file, one a line, UTF-8; -: from standard input", {SAMPLE(prompts)}},
    {"sample.prompt_list", KEY_STRINGS, "[]", NULL, NULL,
     "the prompts themselves", {SAMPLE(prompt_list)}},
    {"sample.limit", KEY_INT, "0", "[0, inf)", NULL,
     "the first so many prompts alone; 0: all", {SAMPLE(limit)}},
    {"sample.images", KEY_INT, "1", "[1, 100000]", NULL,
     "pictures of each prompt", {SAMPLE(images)}},
    {"sample.sampler", KEY_ENUM, "\"pndm\"", "pndm, ddim, dpmpp", NULL,
     "PNDM in its PLMS form, DDIM, or DPM-Solver++ (2M)", {SAMPLE(sampler)}},
    {"sample.steps", KEY_INT, "25", "[1, 999]", NULL,
     "of the sampler; pndm calls the UNet once more", {SAMPLE(steps)}},
    {"sample.guidance", KEY_DOUBLE, "7.5", "[0, 100]", NULL,
     "classifier-free guidance; 1: none", {SAMPLE(guidance)}},
    {"sample.negative_prompt", KEY_TEXT, "\"\"", NULL, NULL,
     "what guidance leads away from; empty: the empty prompt", {SAMPLE(negative_prompt)}},
    {"sample.height", KEY_INT, "0", "[0, 16384]", "latents",
     "of a picture; 0: that of the training", {SAMPLE(height)}},
    {"sample.width", KEY_INT, "0", "[0, 16384]", "latents",
     "of a picture; 0: that of the training", {SAMPLE(width)}},
    {"sample.batch", KEY_INT, "16", "[1, 65536]", NULL,
     "pictures that a rank makes before files are written and requests to stop are heard; changes no picture", {SAMPLE(batch)}},
    {"sample.vae_tiles", KEY_BOOL, "false", NULL, NULL,
     "decode pictures larger than the VAE's sample_size in tiles: less memory, slightly other pictures", {SAMPLE(vae_tiles)}},

    // ---- evaluate
    {"evaluate.split", KEY_ENUM, "\"validation\"", "validation, train", NULL,
     "split whose items are evaluated; the samples must be of it", {EVALUATE(split)}},
    {"evaluate.experts", KEY_ENUM, "\"finetuned\"", "finetuned, sliced", NULL,
     "finetuned: the experts of files.expert; sliced: cut out of the teacher, not trained", {EVALUATE(experts)}},
    {"evaluate.pictures", KEY_BOOL, "true", NULL, NULL,
     "Frechet distance, CMMD and CLIP score of files.samples, by the networks of the next keys or by files.clip; false: none is read", {EVALUATE(pictures)}},
    {"evaluate.inception", KEY_PATH, "\"\"", NULL, NULL,
     "folder with FID's InceptionV3, made by postproc/inception_weights.py: the Frechet distance is FID; empty: by files.clip, and left out where beside other published networks there is none", {EVALUATE(inception)}},
    {"evaluate.clip_folder", KEY_PATH, "\"\"", NULL, NULL,
     "folder of a whole published CLIPModel with its tokenizer, of CLIP score: ViT-B/32; empty: as evaluate.inception", {EVALUATE(clip_folder)}},
    {"evaluate.cmmd_folder", KEY_PATH, "\"\"", NULL, NULL,
     "folder of a published CLIP, of CMMD: ViT-L/14-336; empty: as evaluate.inception", {EVALUATE(cmmd_folder)}},
    {"evaluate.pictures_source", KEY_PATH, "\"\"", NULL, NULL,
     "real pictures: what data.source was, or a folder of PNG and JPEG files of the same names, cropped and scaled as the data's; empty: decoded from the data's latents", {EVALUATE(pictures_source)}},
    {"evaluate.teacher", KEY_BOOL, "true", NULL, NULL,
     "evaluate the teacher too, and the experts' distance to it", {EVALUATE(teacher)}},
    {"evaluate.teacher_pictures", KEY_BOOL, "false", NULL, NULL,
     "the teacher's pictures too, of files.teacher_samples", {EVALUATE(teacher_pictures)}},
    {"evaluate.timesteps", KEY_INTS, "[50, 150, 250, 350, 450, 550, 650, 750, 850, 950]", "[0, 999]", NULL,
     "timesteps of the denoising loss", {EVALUATE(timesteps)}},
    {"evaluate.batch", KEY_INT, "32", "[1, 65536]", NULL,
     "items denoised at a time, by each rank", {EVALUATE(batch)}},
    {"evaluate.bootstrap", KEY_INT, "1000", "[1, 1000000]", NULL,
     "replicates for the interval of a mean", {EVALUATE(bootstrap)}},
    {"evaluate.half_samples", KEY_INT, "100", "[0, 1000000]", NULL,
     "half-samples for the interval of a Frechet distance or CMMD, each as dear as the distance; 0: no interval", {EVALUATE(half_samples)}},
    {"evaluate.timing_batch", KEY_INT, "8", "[0, 65536]", NULL,
     "pictures sampled at a time to measure seconds a picture, with the sampler of files.samples (else 25 steps of PNDM, guidance 7.5); 0: not measured", {EVALUATE(timing_batch)}},
    {"evaluate.macs_resolution", KEY_INT, "0", "[0, 4096]", "latents",
     "height and width at which MACs are counted; 0: the data's latents", {EVALUATE(macs_resolution)}},

    // ---- export
    {"export.expert", KEY_INT, "-1", "[-1, 4095]", NULL,
     "the one expert to export; -1: all of them, and the router", {EXPORT(expert)}},
    {"export.half", KEY_BOOL, "false", NULL, NULL,
     "write the weights as IEEE half; else fp32", {EXPORT(half)}},

    // ---- bench
    {"bench.experts", KEY_BOOL, "true", NULL, NULL,
     "measure the experts of files.router too, not the teacher alone", {BENCH(experts)}},
    {"bench.resolutions", KEY_INTS, "[32, 64, 96]", "[1, 4096]", "latents",
     "heights and widths", {BENCH(resolutions)}},
    {"bench.batch_sizes", KEY_INTS, "[1, 2, 4]", "[1, 65536]", NULL,
     "images at a time", {BENCH(batch_sizes)}},
    {"bench.tokens", KEY_INT, "77", "[1, 4096]", NULL,
     "text tokens", {BENCH(tokens)}},
    {"bench.repeats", KEY_INT, "5", "[1, 1000000]", NULL,
     "measurements of each case, of which the median counts", {BENCH(repeats)}},
    {"bench.prune_batch", KEY_INT, "0", "[0, 65536]", NULL,
     "measure also a pruning step of so many images, at the first resolution; 0: none", {BENCH(prune_batch)}},
    {"bench.train_batch", KEY_INT, "0", "[0, 65536]", NULL,
     "measure also training with so many images, at the first resolution: forward and backward pass of each model, and a fine-tuning step of each expert; 0: none", {BENCH(train_batch)}},
    {"bench.budget", KEY_DOUBLE, "0", "[0, 1]", NULL,
     "measure an expert of uniform width with this share of the MACs, instead of those of files.router; 0: none", {BENCH(budget)}},
    {"bench.roof_seconds", KEY_DOUBLE, "0.5", "[0, 60]", "s",
     "time for each of the products and copies that tell the machine's own roof; 0: it is not measured", {BENCH(roof_seconds)}},
    {"bench.unet", KEY_PATH, "\"\"", NULL, NULL,
     "a UNet's config.json: measure it with random weights, and no files; \"\": the files", {BENCH(unet)}},

    // ---- verify
    {"verify.reference", KEY_PATH, NULL, NULL, NULL,
     "reference file made with PyTorch", {VERIFY(reference)}},
    {"verify.precision", KEY_ENUM, "\"fp32\"", "fp32, bf16", NULL,
     "of the program's side", {VERIFY(precision)}},
    {"verify.tolerance", KEY_DOUBLE, "0.0", "[0, inf)", NULL,
     "largest relative error; 0: the usual one of each quantity and precision", {VERIFY(tolerance)}},
};
// clang-format on

enum { KEYS = sizeof keys / sizeof keys[0] };

static const struct {
    const char *name, *meaning;
    bool writes; /* into run.folder */
    bool stops;  /* with a checkpoint when asked to */
} phases[PHASES] = {
    [PHASE_PREPARE] = {"prepare", "pictures and captions into data.h5", true, true},
    [PHASE_IMPORT] = {"import", "a published diffusers model into teacher.h5", true, false},
    [PHASE_PRETRAIN] = {"pretrain", "train a UNet from scratch: the teacher; or the metric network", true,
                        true},
    [PHASE_PRUNE] = {"prune", "learn the prompt router and the experts' architectures", true, true},
    [PHASE_ASSIGN] = {"assign", "route every prompt to its expert", true, false},
    [PHASE_FINETUNE] = {"finetune", "train each expert, sliced out of the teacher, on its own prompts", true,
                        true},
    [PHASE_SAMPLE] = {"sample", "pictures of prompts, by the routed experts or the teacher", true, true},
    [PHASE_EVALUATE] = {"evaluate", "quality of the experts' pictures and predictions, and their cost", true,
                        true},
    [PHASE_EXPORT] = {"export", "experts and router as safetensors and JSON, for diffusers", true, false},
    [PHASE_BENCH] = {"bench", "parameters, MACs, time and memory of the teacher and its experts", true,
                     false},
    [PHASE_VERIFY] = {"verify", "compare with a reference made by PyTorch", false, false},
};

const char *phase_name(enum phase_id phase)
{
    return phases[phase].name;
}

const char *phase_meaning(enum phase_id phase)
{
    return phases[phase].meaning;
}

bool phase_writes(enum phase_id phase)
{
    return phases[phase].writes;
}

bool phase_stops(enum phase_id phase)
{
    return phases[phase].stops;
}

enum phase_id phase_find(const char *name)
{
    enum phase_id phase = 0;
    while (phase < PHASES && strcmp(phases[phase].name, name) != 0) phase++;
    return phase;
}

static const char *type_text(enum key_type type)
{
    static const char *const names[] = {
        [KEY_BOOL] = "true or false", [KEY_INT] = "an integer",          [KEY_DOUBLE] = "a number",
        [KEY_ENUM] = "a string",      [KEY_PATH] = "a string",           [KEY_TEXT] = "a string",
        [KEY_FILE] = "a string",      [KEY_INTS] = "a list of integers", [KEY_STRINGS] = "a list of strings",
    };
    return names[type];
}

// ---- names

static size_t least(size_t a, size_t b, size_t c)
{
    size_t ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Insertions, deletions and replacements that turn one name into the other (Levenshtein). */
static size_t edit_distance(const char *a, const char *b)
{
    size_t columns = strlen(b) + 1;
    size_t *row = check_malloc(columns * sizeof *row);
    for (size_t j = 0; j < columns; j++) row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j < columns; j++) {
            size_t above = row[j];
            row[j] = least(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    size_t distance = row[columns - 1];
    free(row);
    return distance;
}

static const char *last_part(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

/* The phase's key that is most like `path`, whole or in its last part, or NULL if none is. */
static const char *nearest_name(const char *path, enum phase_id phase)
{
    if (strlen(path) > 200) return NULL;
    const char *nearest = NULL;
    size_t best = strlen(path) / 2 + 1;
    for (int i = 0; i < KEYS; i++) {
        if (!keys[i].at[phase]) continue;
        size_t whole = edit_distance(path, keys[i].path);
        size_t part = edit_distance(last_part(path), last_part(keys[i].path)) + 1;
        size_t distance = whole < part ? whole : part;
        if (distance >= best) continue;
        best = distance;
        nearest = keys[i].path;
    }
    return nearest;
}

static const struct key *key_find(const char *path)
{
    for (int i = 0; i < KEYS; i++)
        if (strcmp(keys[i].path, path) == 0) return &keys[i];
    return NULL;
}

static bool check_name(const struct deck_setting *setting, enum phase_id phase, struct fault *fault)
{
    const struct key *key = key_find(setting->path);
    if (!key) {
        const char *nearest = nearest_name(setting->path, phase);
        return fault_raise(fault, EXIT_CODE_DECK, "%s: unknown key %.200s%s%s%s (aptp --help %s lists all)",
                           setting->origin, setting->path, nearest ? "; did you mean " : "",
                           nearest ? nearest : "", nearest ? "?" : "", phase_name(phase));
    }
    if (key->at[phase]) return true;
    char users[128] = "";
    for (enum phase_id user = 0; user < PHASES; user++) {
        if (!key->at[user]) continue;
        size_t length = strlen(users);
        snprintf(users + length, sizeof users - length, "%s%s", length ? ", " : "", phase_name(user));
    }
    return fault_raise(fault, EXIT_CODE_DECK, "%s: key %s is not one of phase %s; it belongs to %s",
                       setting->origin, setting->path, phase_name(phase), users);
}

bool keys_phase(const struct deck *deck, enum phase_id *phase, struct fault *fault)
{
    const struct deck_setting *setting = deck_find(deck, "phase");
    char names[128] = "";
    for (enum phase_id id = 0; id < PHASES; id++) {
        size_t length = strlen(names);
        snprintf(names + length, sizeof names - length, "%s%s", length ? ", " : "", phase_name(id));
    }
    if (!setting)
        return fault_raise(fault, EXIT_CODE_DECK, "%s: the key phase is missing, one of: %s",
                           deck->count ? deck->setting[deck->count - 1].origin : "the deck is empty", names);
    *phase = setting->value.type == DECK_STRING ? phase_find(setting->value.text) : PHASES;
    if (*phase < PHASES) return true;
    char *found = deck_value_text(&setting->value);
    fault_raise(fault, EXIT_CODE_DECK, "%s: phase is %.200s, allowed: %s", setting->origin, found, names);
    free(found);
    return false;
}

// ---- values

/* What a key is set to, and where. */
struct entry {
    const struct key *key;
    const struct deck_setting *setting;
};

static bool refuse(struct entry entry, const char *what, const char *allowed, struct fault *fault)
{
    char *found = deck_value_text(&entry.setting->value);
    fault_raise(fault, EXIT_CODE_DECK, "%s: %s is %.200s, %s%s", entry.setting->origin, entry.key->path,
                found, what, allowed);
    free(found);
    return false;
}

/* Whether a number lies in an interval written as "(0, 1]". */
static bool in_interval(double number, const char *interval)
{
    char open, close;
    double low, high;
    CHECK(sscanf(interval, "%c%lf, %lf%c", &open, &low, &high, &close) == 4, "interval %s", interval);
    return (open == '[' ? number >= low : number > low) && (close == ']' ? number <= high : number < high);
}

/* The place of `name` in a list "a, b, c", or -1. */
static int choice_index(const char *name, const char *choices)
{
    size_t length = strlen(name);
    for (int index = 0;; index++) {
        size_t span = strcspn(choices, ",");
        if (span == length && strncmp(choices, name, length) == 0) return index;
        if (!choices[span]) return -1;
        choices += span + 2;
    }
}

static bool list_of(const struct deck_value *value, enum deck_type type)
{
    if (value->type != DECK_LIST) return false;
    for (int i = 0; i < value->count; i++)
        if (value->item[i].type != type) return false;
    return true;
}

static bool has_type(const struct deck_value *value, enum key_type type)
{
    switch (type) {
    case KEY_BOOL:
        return value->type == DECK_BOOL;
    case KEY_INT:
        return value->type == DECK_INT;
    case KEY_DOUBLE:
        return value->type == DECK_DOUBLE || value->type == DECK_INT;
    case KEY_ENUM:
    case KEY_PATH:
    case KEY_TEXT:
    case KEY_FILE:
        return value->type == DECK_STRING;
    case KEY_INTS:
        return list_of(value, DECK_INT);
    case KEY_STRINGS:
        return list_of(value, DECK_STRING);
    }
    return false;
}

static double number_of(const struct deck_value *value)
{
    return value->type == DECK_INT ? (double)value->integer : value->number;
}

/* A path whose default is "" is one that need not be given. */
static bool may_be_empty(const struct key *key)
{
    return key->initial && strcmp(key->initial, "\"\"") == 0;
}

static bool check_value(struct entry entry, struct fault *fault)
{
    const struct deck_value *value = &entry.setting->value;
    const char *allowed = entry.key->allowed;
    if (!has_type(value, entry.key->type))
        return refuse(entry, "must be ", type_text(entry.key->type), fault);
    switch (entry.key->type) {
    case KEY_INT:
    case KEY_DOUBLE:
        return in_interval(number_of(value), allowed) || refuse(entry, "allowed: ", allowed, fault);
    case KEY_INTS:
        for (int i = 0; i < value->count; i++)
            if (!in_interval(number_of(&value->item[i]), allowed))
                return refuse(entry, "allowed for each: ", allowed, fault);
        return true;
    case KEY_ENUM:
        return choice_index(value->text, allowed) >= 0 || refuse(entry, "allowed: ", allowed, fault);
    case KEY_PATH:
    case KEY_FILE:
        return *value->text || may_be_empty(entry.key) || refuse(entry, "must not be empty", "", fault);
    case KEY_BOOL:
    case KEY_TEXT:
    case KEY_STRINGS:
        return true;
    }
    return true;
}

/* A copy with the exact type of the key: 1 for a number becomes 1.0, so that equal configs have equal text.
 */
static char *canonical_text(struct entry entry)
{
    const struct deck_value *value = &entry.setting->value;
    if (entry.key->type == KEY_DOUBLE && value->type == DECK_INT) {
        struct deck_value number = {.type = DECK_DOUBLE, .number = (double)value->integer};
        return deck_value_text(&number);
    }
    return deck_value_text(value);
}

static void store(struct entry entry, const char *folder, void *field)
{
    const struct deck_value *value = &entry.setting->value;
    switch (entry.key->type) {
    case KEY_BOOL:
        *(bool *)field = value->truth;
        return;
    case KEY_INT:
        *(int64_t *)field = value->integer;
        return;
    case KEY_DOUBLE:
        *(double *)field = number_of(value);
        return;
    case KEY_ENUM:
        *(int *)field = choice_index(value->text, entry.key->allowed);
        return;
    case KEY_PATH:
    case KEY_TEXT:
        *(char **)field = check_strdup(value->text);
        return;
    case KEY_FILE:
        *(char **)field =
            strchr(value->text, '/') ? check_strdup(value->text) : check_format("%s/%s", folder, value->text);
        return;
    case KEY_INTS: {
        struct integer_list *list = field;
        *list = (struct integer_list){check_calloc((size_t)value->count, sizeof(int64_t)), value->count};
        for (int i = 0; i < value->count; i++) list->value[i] = value->item[i].integer;
        return;
    }
    case KEY_STRINGS: {
        struct string_list *list = field;
        *list = (struct string_list){check_calloc((size_t)value->count, sizeof(char *)), value->count};
        for (int i = 0; i < value->count; i++) list->value[i] = check_strdup(value->item[i].text);
        return;
    }
    }
}

static void *field_of(const struct key *key, enum phase_id phase, union phase_cfg *cfg)
{
    return (char *)cfg + key->at[phase] - 1;
}

void keys_free(enum phase_id phase, union phase_cfg *cfg)
{
    for (int i = 0; i < KEYS; i++) {
        if (!keys[i].at[phase]) continue;
        void *field = field_of(&keys[i], phase, cfg);
        if (keys[i].type == KEY_PATH || keys[i].type == KEY_TEXT || keys[i].type == KEY_FILE) {
            free(*(char **)field);
        } else if (keys[i].type == KEY_INTS) {
            free(((struct integer_list *)field)->value);
        } else if (keys[i].type == KEY_STRINGS) {
            struct string_list *list = field;
            for (int item = 0; item < list->count; item++) free(list->value[item]);
            free(list->value);
        }
    }
    memset(cfg, 0, sizeof *cfg);
}

// ---- decks

/* The defaults of a phase as a deck. */
static struct deck defaults_of(enum phase_id phase)
{
    struct deck defaults = {0};
    struct fault fault = {0};
    for (int i = 0; i < KEYS; i++) {
        if (!keys[i].at[phase] || !keys[i].initial) continue;
        char *assignment = check_format("%s=%s", keys[i].path, keys[i].initial);
        CHECK(deck_set(&defaults, assignment, &fault), "default: %s", fault.text);
        free(assignment);
    }
    return defaults;
}

/* What the deck, or else the default, says; setting NULL: nothing does. */
static struct entry entry_of(const struct key *key, const struct deck *deck, const struct deck *defaults)
{
    const struct deck_setting *setting = deck_find(deck, key->path);
    return (struct entry){key, setting ? setting : deck_find(defaults, key->path)};
}

__attribute__((format(printf, 4, 5))) static bool rule_broken(const struct deck *deck, const char *path,
                                                              struct fault *fault, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const struct deck_setting *setting = deck_find(deck, path);
    if (!setting) setting = deck_find(deck, "phase");
    return fault_raise(fault, EXIT_CODE_DECK, "%s: %s", setting->origin, text);
}

static bool rule_micro_batch(const struct deck *deck, const char *path, int64_t batch, int64_t micro_batch,
                             struct fault *fault)
{
    if (batch % micro_batch == 0) return true;
    return rule_broken(deck, path, fault, "%s is %lld, must divide the batch of %lld", path,
                       (long long)micro_batch, (long long)batch);
}

static bool rule_not_empty(const struct deck *deck, const char *path, int count, struct fault *fault)
{
    return count > 0 || rule_broken(deck, path, fault, "%s is empty, must have at least one item", path);
}

static bool prune_rules(const struct deck *deck, const struct prune_cfg *cfg, struct fault *fault)
{
    if (!rule_micro_batch(deck, "prune.micro_batch", cfg->batch, cfg->micro_batch, fault)) return false;
    if (cfg->experts > cfg->batch)
        return rule_broken(deck, "router.experts", fault,
                           "router.experts is %lld, allowed: at most prune.batch, %lld",
                           (long long)cfg->experts, (long long)cfg->batch);
    if (cfg->codes_init == CODES_INIT_KMEANS && cfg->warmup_steps == 0)
        return rule_broken(deck, "router.codes_init", fault,
                           "router.codes_init \"kmeans\" needs a warm-up, prune.warmup_steps is 0");
    if (cfg->method == PRUNE_BLOCK && !cfg->depth_gates)
        return rule_broken(
            deck, "prune.method", fault,
            "prune.method \"block\" drops units that have depth gates, router.depth_gates is false");
    return true;
}

static bool finetune_rules(const struct deck *deck, const struct finetune_cfg *cfg, struct fault *fault)
{
    if (cfg->w_ddpm + cfg->w_distill_out + cfg->w_distill_block > 0) return true;
    return rule_broken(
        deck, "finetune.w_ddpm", fault,
        "finetune.w_ddpm, w_distill_out and w_distill_block are all 0: nothing is trained for");
}

static bool evaluate_rules(const struct deck *deck, const struct evaluate_cfg *cfg, struct fault *fault)
{
    if (cfg->teacher_pictures && !(cfg->teacher && cfg->pictures))
        return rule_broken(deck, "evaluate.teacher_pictures", fault,
                           "evaluate.teacher_pictures needs evaluate.teacher and evaluate.pictures");
    return rule_not_empty(deck, "evaluate.timesteps", cfg->timesteps.count, fault);
}

static bool pretrain_rules(const struct deck *deck, const struct pretrain_cfg *cfg, struct fault *fault)
{
    bool clip = cfg->model == PRETRAIN_CLIP;
    const char *own = clip ? "pretrain.clip_vision" : "pretrain.unet";
    if (!*(clip ? cfg->clip_vision : cfg->unet))
        return rule_broken(deck, own, fault, "the key %s is missing: %s", own, key_find(own)->help);
    if (clip && *cfg->initial)
        return rule_broken(deck, "pretrain.initial", fault,
                           "pretrain.initial is \"%s\", must be empty for model clip", cfg->initial);
    if (!rule_micro_batch(deck, "pretrain.micro_batch", cfg->batch, cfg->micro_batch, fault)) return false;
    return clip || cfg->sample_every == 0 ||
           rule_not_empty(deck, "pretrain.sample_prompts", cfg->sample_prompts.count, fault);
}

static bool prepare_rules(const struct deck *deck, const struct prepare_cfg *cfg, struct fault *fault)
{
    if (!*cfg->sentence_encoder)
        return rule_broken(deck, "data.sentence_encoder", fault,
                           "the key data.sentence_encoder is missing: %s",
                           key_find("data.sentence_encoder")->help);
    const struct index_options *choice = &cfg->validation_choice;
    const char *idle = *choice->image_folder                    ? "data.validation_image_folder"
                       : choice->captions != INDEX_CAPTIONS_ALL ? "data.validation_captions"
                       : choice->images > 0                     ? "data.validation_images"
                                                                : NULL;
    if (!*cfg->validation_source && idle)
        return rule_broken(deck, idle, fault, "%s is set, data.validation_source is not", idle);
    if (!*cfg->pipeline && (cfg->latent == LATENT_VAE || cfg->text_states == TEXT_STATES_COMPUTED)) {
        bool latent = cfg->latent == LATENT_VAE;
        return rule_broken(deck, latent ? "data.latent" : "data.text_states", fault,
                           "%s needs a published model, and data.pipeline is empty: name its folder",
                           latent ? "data.latent = \"vae\"" : "data.text_states = \"computed\"");
    }
    int patch = latent_patch(cfg->latent);
    if (cfg->image_size % patch == 0) return true;
    return rule_broken(deck, "data.image_size", fault,
                       "data.image_size is %lld, must be a multiple of %d for %s latents",
                       (long long)cfg->image_size, patch, latent_kind_name(cfg->latent));
}

static bool import_rules(const struct deck *deck, const struct import_cfg *cfg, struct fault *fault)
{
    const struct {
        const char *key, *value;
    } parts[] = {{"import.unet", cfg->unet},
                 {"import.scheduler", cfg->scheduler},
                 {"import.vae", cfg->vae},
                 {"import.text_encoder", cfg->text_encoder},
                 {"import.tokenizer", cfg->tokenizer}};
    for (size_t i = 0; !*cfg->folder && i < sizeof parts / sizeof *parts; i++)
        if (!*parts[i].value)
            return rule_broken(deck, parts[i].key, fault, "import.folder and %s are empty: one must be set",
                               parts[i].key);
    return true;
}

/* Text needs an encoder of its token states, and another of the embedding that it is routed by. */
static bool sample_encoder_rules(const struct deck *deck, const struct sample_cfg *cfg, struct fault *fault)
{
    bool text = !*cfg->split, states = text || *cfg->negative_prompt;
    const char *key = text ? "sample.prompts" : "sample.negative_prompt",
               *what = text ? "the prompts' source" : "sample.negative_prompt";
    if (*cfg->sentence_encoder) return true;
    if (states && !*cfg->pipeline)
        return rule_broken(deck, key, fault,
                           "%s is text, which data.sentence_encoder must encode: name its folder, or in "
                           "data.pipeline that of the teacher's published model",
                           what);
    if (text && cfg->model == SAMPLE_ROUTED)
        return rule_broken(deck, key, fault,
                           "%s is text, which is routed by what data.sentence_encoder makes of it: name its "
                           "folder",
                           what);
    return true;
}

static bool sample_rules(const struct deck *deck, const struct sample_cfg *cfg, struct fault *fault)
{
    bool split = *cfg->split, file = *cfg->prompts, list = cfg->prompt_list.count > 0;
    if (split + file + list != 1)
        return rule_broken(
            deck, split ? "sample.split" : "sample.prompts", fault,
            "%s of sample.split, sample.prompts and sample.prompt_list %s the prompts: exactly "
            "one must",
            split + file + list ? "more than one" : "none", split + file + list ? "give" : "gives");
    if (split && strcmp(cfg->split, "train") != 0 && strcmp(cfg->split, "validation") != 0)
        return rule_broken(deck, "sample.split", fault,
                           "sample.split is \"%.100s\", allowed: train, validation", cfg->split);
    if (!sample_encoder_rules(deck, cfg, fault)) return false;
    if (cfg->steps <= sampler_most_steps(cfg->sampler)) return true;
    return rule_broken(deck, "sample.steps", fault, "sample.steps is %lld, this sampler takes at most %d",
                       (long long)cfg->steps, sampler_most_steps(cfg->sampler));
}

/* Rules between keys. */
static bool check_rules(const struct deck *deck, enum phase_id phase, const union phase_cfg *cfg,
                        struct fault *fault)
{
    switch (phase) {
    case PHASE_PREPARE:
        return prepare_rules(deck, &cfg->prepare, fault);
    case PHASE_IMPORT:
        return import_rules(deck, &cfg->import, fault);
    case PHASE_PRETRAIN:
        return pretrain_rules(deck, &cfg->pretrain, fault);
    case PHASE_PRUNE:
        return prune_rules(deck, &cfg->prune, fault);
    case PHASE_FINETUNE:
        return finetune_rules(deck, &cfg->finetune, fault);
    case PHASE_SAMPLE:
        return sample_rules(deck, &cfg->sample, fault);
    case PHASE_EVALUATE:
        return evaluate_rules(deck, &cfg->evaluate, fault);
    case PHASE_BENCH:
        return rule_not_empty(deck, "bench.resolutions", cfg->bench.resolutions.count, fault) &&
               rule_not_empty(deck, "bench.batch_sizes", cfg->bench.batch_sizes.count, fault);
    case PHASE_ASSIGN:
    case PHASE_EXPORT:
    case PHASE_VERIFY:
    case PHASES:
        return true;
    }
    return true;
}

static bool check_and_store(const struct deck *deck, const struct deck *defaults, enum phase_id phase,
                            union phase_cfg *cfg, struct fault *fault)
{
    const char *folder = entry_of(key_find("run.folder"), deck, defaults).setting->value.text;
    for (int i = 0; i < KEYS; i++) {
        if (!keys[i].at[phase]) continue;
        struct entry entry = entry_of(&keys[i], deck, defaults);
        if (!entry.setting)
            return fault_raise(fault, EXIT_CODE_DECK, "%s: the key %s is missing: %s",
                               deck_find(deck, "phase")->origin, keys[i].path, keys[i].help);
        if (!check_value(entry, fault)) return false;
        store(entry, folder, field_of(&keys[i], phase, cfg));
    }
    return true;
}

bool keys_fill(const struct deck *deck, enum phase_id phase, union phase_cfg *cfg, struct fault *fault)
{
    *cfg = (union phase_cfg){0};
    for (int i = 0; i < deck->count; i++)
        if (strcmp(deck->setting[i].path, "phase") != 0 && !check_name(&deck->setting[i], phase, fault))
            return false;
    struct deck defaults = defaults_of(phase);
    bool ok = check_and_store(deck, &defaults, phase, cfg, fault) && check_rules(deck, phase, cfg, fault);
    deck_clear(&defaults);
    if (!ok) keys_free(phase, cfg);
    return ok;
}

static size_t section_length(const char *path)
{
    return (size_t)(strchr(path, '.') - path);
}

static bool same_section(const char *a, const char *b)
{
    return section_length(a) == section_length(b) && strncmp(a, b, section_length(a)) == 0;
}

char *keys_effective_deck(const struct deck *deck, enum phase_id phase)
{
    struct deck defaults = defaults_of(phase);
    char *text = check_format("phase = \"%s\";\n", phase_name(phase));
    const char *section = NULL;
    for (int i = 0; i < KEYS; i++) {
        const char *path = keys[i].path;
        struct entry entry = entry_of(&keys[i], deck, &defaults);
        if (!keys[i].at[phase] || !entry.setting) continue;
        char *value = canonical_text(entry);
        bool opens = !section || !same_section(section, path);
        char *longer = check_format("%s%s%.*s%s    %s = %s;\n", text, opens && section ? "};\n" : "",
                                    opens ? (int)section_length(path) : 0, path, opens ? ": {\n" : "",
                                    last_part(path), value);
        free(value);
        free(text);
        text = longer;
        section = path;
    }
    char *closed = check_format("%s};\n", text);
    free(text);
    deck_clear(&defaults);
    return closed;
}

// ---- help

void keys_help(FILE *stream, enum phase_id phase)
{
    fprintf(stream, "phase = \"%s\": %s\n\n", phase_name(phase), phase_meaning(phase));
    for (int i = 0; i < KEYS; i++) {
        const struct key *key = &keys[i];
        if (!key->at[phase]) continue;
        fprintf(stream, "  %-26s %s\n  %-26s %s", key->path, key->help, "", type_text(key->type));
        if (key->allowed) fprintf(stream, ", allowed: %s", key->allowed);
        if (key->unit) fprintf(stream, ", in %s", key->unit);
        if (key->initial)
            fprintf(stream, "; default %s\n", key->initial);
        else
            fprintf(stream, "; must be set\n");
    }
}

/* A cell of a table, in which a bar would end it. */
static void print_cell(FILE *stream, const char *text)
{
    for (; *text; text++) fprintf(stream, *text == '|' ? "\\|" : "%c", *text);
}

void keys_markdown(FILE *stream)
{
    fprintf(stream,
            "| key | type, allowed | unit | default | phases | meaning |\n|---|---|---|---|---|---|\n");
    for (int i = 0; i < KEYS; i++) {
        const struct key *key = &keys[i];
        fprintf(stream, "| `%s` | %s%s%s | %s | ", key->path, type_text(key->type), key->allowed ? ": " : "",
                key->allowed ? key->allowed : "", key->unit ? key->unit : "");
        if (key->initial)
            fprintf(stream, "`%s` | ", key->initial);
        else
            fprintf(stream, "must be set | ");
        int users = 0;
        for (enum phase_id phase = 0; phase < PHASES; phase++) users += key->at[phase] != 0;
        const char *separator = "";
        if (users == PHASES) fprintf(stream, "all");
        for (enum phase_id phase = 0; phase < PHASES && users < PHASES; phase++) {
            if (!key->at[phase]) continue;
            fprintf(stream, "%s%s", separator, phase_name(phase));
            separator = ", ";
        }
        fprintf(stream, " | ");
        print_cell(stream, key->help);
        fprintf(stream, " |\n");
    }
}
