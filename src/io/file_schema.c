#include "io/file_schema.h"

#include "base/check.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

const char *h5_type_name(enum h5_type type)
{
    static const char *const names[] = {
        [H5_FLOAT16] = "float16", [H5_FLOAT32] = "float32",    [H5_FLOAT64] = "float64",
        [H5_INT32] = "int32",     [H5_INT64] = "int64",        [H5_UINT8] = "uint8",
        [H5_STRING] = "string",   [H5_OTHER] = "another type",
    };
    return names[type];
}

static const struct file_schema_kind kinds[FILE_KINDS] = {
    [FILE_DATA] = {"data", 1, "prepare", "pictures or latents, captions and their encodings, by split"},
    [FILE_TEACHER] = {"teacher", 1, "import, pretrain",
                      "a UNet with its weights; also pretrain's checkpoint"},
    [FILE_ROUTER] = {"router", 1, "prune", "prompt router and architecture codes; also prune's checkpoint"},
    [FILE_ASSIGNMENT] = {"assignment", 1, "assign", "the expert of every prompt"},
    [FILE_EXPERT] = {"expert", 1, "finetune",
                     "one expert: a sliced UNet with its weights; also finetune's checkpoint"},
    [FILE_SAMPLES] = {"samples", 1, "sample", "sampled pictures with their prompts, experts and seeds"},
    [FILE_METRICS] = {"metrics", 1, "evaluate", "quality and cost of the experts and the teacher"},
    [FILE_CACHE] = {"evaluate_cache", 1, "evaluate",
                    "what evaluate computed once: features of pictures, errors of items"},
    [FILE_BENCH] = {"bench", 1, "bench", "size and speed of the teacher and of each expert"},
    [FILE_CLIP] = {"clip", 1, "pretrain",
                   "the metric network: an image encoder, and a map of sentence embeddings to its features; "
                   "also its checkpoint"},
    [FILE_REFERENCE] = {"reference", 1, "test/reference/*.py",
                        "inputs and expected outputs for verify; its root "
                        "attributes name the model and its settings"},
};

enum {
    F16 = 1u << H5_FLOAT16,
    F32 = 1u << H5_FLOAT32,
    F64 = 1u << H5_FLOAT64,
    I32 = 1u << H5_INT32,
    I64 = 1u << H5_INT64,
    U8 = 1u << H5_UINT8,
    TEXT = 1u << H5_STRING,
    ANY = 0,
};

/* Letters, the same everywhere: N items of the split, V views of a picture (crops, each plain then flipped),
 * C H W channels and size of a latent, T text tokens, D width of an encoding, K experts (architecture codes),
 * n entries of an architecture vector, L logged steps, U width units, E depth entries. */
// clang-format off
static const struct file_schema_entry entries[] = {
    // data.h5: the first part of a path is the split, train or validation
    {FILE_DATA, "*/caption", TEXT, "[N]", "1", "the prompt"},
    {FILE_DATA, "*/image", TEXT, "[N]", "1", "file or tar member that the picture came from"},
    {FILE_DATA, "*/group", TEXT, "[N]", "1", "label, used only to judge clusters"},
    {FILE_DATA, "*/subgroup", TEXT, "[N]", "1", "finer label, used only to judge clusters"},
    {FILE_DATA, "*/source", TEXT, "[N]", "1", "collection that the picture belongs to"},
    {FILE_DATA, "*/pixels", U8, "[N, V, H, W, 3]", "1/255", "RGB pictures: in the shards of an unfinished prepare, instead of latents"},
    {FILE_DATA, "*/latents", F16 | F32, "[N, V, C, H, W]", "1", "what is diffused: pixels in -1..1, or scaled Haar bands; of a VAE the mean times its scaling factor"},
    {FILE_DATA, "*/latent_deviation", F16 | F32, "[N, V, C, H, W]", "1", "kind vae: standard deviation times the scaling factor; a latent is mean + deviation x noise"},
    {FILE_DATA, "*/text_states", F16 | F32, "[N, T, D]", "1", "text encoder's token states, what cross-attention reads; rows behind text_length are padding"},
    {FILE_DATA, "*/text_ids", I32, "[N, T]", "1", "data.text_states = computed: the text encoder's tokens, instead of text_states"},
    {FILE_DATA, "*/text_length", I32, "[N]", "tokens", "token states that attention may see"},
    {FILE_DATA, "*/embedding", F32, "[N, D]", "1", "z: mean-pooled sentence embedding, what the router reads"},
    {FILE_DATA, "empty/text_states", F16 | F32, "[T, D]", "1", "token states of the empty prompt, for guidance"},
    {FILE_DATA, "empty/text_ids", I32, "[T]", "1", "its tokens, instead of text_states"},
    {FILE_DATA, "empty/text_length", I32, "", "tokens", "its length"},
    {FILE_DATA, "empty/embedding", F32, "[D]", "1", "its sentence embedding"},
    {FILE_DATA, "latent/kind", TEXT, "", "1", "pixel, haar or vae"},
    {FILE_DATA, "latent/scale", F64, "[C]", "1", "stored latent = channel x scale: makes each Haar band's variance 1; a VAE's scaling factor"},
    {FILE_DATA, "latent/vae", TEXT, "", "1", "kind vae: SHA-256 over the names, shapes and values of the VAE's weights"},
    {FILE_DATA, "encoder/text", TEXT, "", "1", "text encoder: SHA-256 of weights and pooling"},
    {FILE_DATA, "encoder/sentence", TEXT, "", "1", "sentence encoder: SHA-256 of weights and pooling"},
    {FILE_DATA, "skipped/image", TEXT, "[S]", "1", "pictures that could not be read"},
    {FILE_DATA, "skipped/reason", TEXT, "[S]", "1", "why"},

    // teacher.h5
    {FILE_TEACHER, "config", TEXT, "", "1", "the UNet's config.json"},
    {FILE_TEACHER, "weights/*", F16 | F32, NULL, "1", "weights by PyTorch name and layout; EMA weights in a finished file of pretrain"},
    {FILE_TEACHER, "ema/*", F32, NULL, "1", "checkpoint: exponential moving average of the weights"},
    {FILE_TEACHER, "optimizer/first_moment/*", F32, NULL, "1", "checkpoint: AdamW's mean of the gradient"},
    {FILE_TEACHER, "optimizer/second_moment/*", F32, NULL, "1", "checkpoint: AdamW's mean of its square"},
    {FILE_TEACHER, "optimizer/step", I64, "", "steps", "checkpoint: AdamW steps done"},
    {FILE_TEACHER, "training/step", I64, "", "steps", "steps done"},
    {FILE_TEACHER, "training/samples", I64, "", "pictures", "pictures seen"},
    {FILE_TEACHER, "training/skipped", I64, "", "steps", "steps skipped for a gradient that is not finite"},
    {FILE_TEACHER, "history/step", I64, "[L]", "steps", "step of each logged line"},
    {FILE_TEACHER, "history/*", F64, "[L]", "1", "logged quantities: loss, gradient norm, learning rate, ..."},
    {FILE_TEACHER, "prediction", TEXT, "", "1", "what the UNet predicts: v or epsilon"},
    {FILE_TEACHER, "schedule/betas", F64, "[2]", "1", "first and last beta of the noise schedule, whose roots lie on a line; absent: 0.00085 and 0.012"},
    {FILE_TEACHER, "latent/kind", TEXT, "", "1", "latents that it was trained on: pixel, haar or vae"},
    {FILE_TEACHER, "latent/scale", F64, "[C]", "1", "as in data.h5"},
    {FILE_TEACHER, "latent/vae", TEXT, "", "1", "as in data.h5"},
    {FILE_TEACHER, "encoder/text", TEXT, "", "1", "text encoder that it belongs to"},

    // router.h5
    {FILE_ROUTER, "predictor/weight", F64, "[n, D]", "1", "architecture predictor: e = weight z + bias"},
    {FILE_ROUTER, "predictor/bias", F64, "[n]", "1", "its bias"},
    {FILE_ROUTER, "codes", F64, "[K, n]", "1", "architecture codes"},
    {FILE_ROUTER, "gates", F64, "[K, n]", "1", "stored draw of each code: its soft gates, what every later phase uses"},
    {FILE_ROUTER, "masks", U8, "[K, n]", "1", "gates >= 0.5: what each expert keeps"},
    {FILE_ROUTER, "ratio/prunable", F64, "[K]", "1", "kept over all prunable MACs of each expert"},
    {FILE_ROUTER, "ratio/total", F64, "[K]", "1", "its UNet's MACs over the teacher's"},
    {FILE_ROUTER, "units/path", TEXT, "[U]", "1", "module path of each width unit, in the vector's order"},
    {FILE_ROUTER, "units/kind", TEXT, "[U]", "1", "resnet, self_attention, cross_attention or feed_forward"},
    {FILE_ROUTER, "units/first", I32, "[U]", "entries", "its first entry in the vector"},
    {FILE_ROUTER, "units/width", I32, "[U]", "entries", "its number of entries"},
    {FILE_ROUTER, "units/depth", I32, "[U]", "1", "depth entry that it falls under, or -1"},
    {FILE_ROUTER, "units/macs", F64, "[U]", "MACs", "multiply-accumulates at full width, one sample, at prune.macs_resolution"},
    {FILE_ROUTER, "depth/path", TEXT, "[E]", "1", "module path of each depth entry; entry i is element n - E + i of the vector"},
    {FILE_ROUTER, "depth/order", I32, "[E]", "1", "keep order: depth entries, safest first"},
    {FILE_ROUTER, "depth/macs", F64, "[E]", "MACs", "what only dropping the unit removes"},
    {FILE_ROUTER, "macs/total", F64, "", "MACs", "the teacher's, one sample"},
    {FILE_ROUTER, "macs/prunable", F64, "", "MACs", "the part that gates can remove"},
    {FILE_ROUTER, "training/step", I64, "", "steps", "steps done"},
    {FILE_ROUTER, "training/skipped", I64, "", "steps", "steps skipped for a gradient that is not finite"},
    {FILE_ROUTER, "optimizer/step", I64, "[3]", "steps", "AdamW steps of predictor weight, bias and codes"},
    {FILE_ROUTER, "optimizer/first_moment/*", F64, NULL, "1", "AdamW's mean of the gradient, of predictor/weight, predictor/bias, codes"},
    {FILE_ROUTER, "optimizer/second_moment/*", F64, NULL, "1", "AdamW's mean of its square"},
    {FILE_ROUTER, "history/step", I64, "[L]", "steps", "step of each logged line"},
    {FILE_ROUTER, "history/expert_ratio", F64, "[L, K]", "1", "total-MACs ratio of each code's draw"},
    {FILE_ROUTER, "history/expert_use", F64, "[L, K]", "1", "share of the batch that each code got"},
    {FILE_ROUTER, "history/*", F64, "[L]", "1", "logged quantities: losses, R, entropy of the assignment, learning rate, ..."},
    {FILE_ROUTER, "config", TEXT, "", "1", "the teacher's config.json"},
    {FILE_ROUTER, "teacher", TEXT, "", "1", "content id of the teacher that the masks belong to"},
    {FILE_ROUTER, "settings/normal_form", TEXT, "", "1", "mixed, hard or soft: how vectors are compared"},
    {FILE_ROUTER, "settings/mac_weights", U8, "", "1", "1 when the normal form weighs units by their MACs"},
    {FILE_ROUTER, "settings/gamma", F64, "", "1", "temperature of the Gumbel-sigmoid"},
    {FILE_ROUTER, "settings/offset", F64, "", "1", "its offset b"},
    {FILE_ROUTER, "settings/budget", F64, "", "1", "p, the target of the mean ratio of all MACs"},
    {FILE_ROUTER, "settings/depth_gates", U8, "", "1", "1 when the vector has depth entries"},
    {FILE_ROUTER, "settings/ff_entries", I32, "", "entries", "width entries of a feed-forward"},
    {FILE_ROUTER, "settings/latents", I32, "[2]", "latents", "height and width that MACs are counted at"},
    {FILE_ROUTER, "settings/tokens", I32, "", "tokens", "text tokens that MACs are counted at"},
    {FILE_ROUTER, "latent/kind", TEXT, "", "1", "latents of the teacher: pixel, haar or vae"},
    {FILE_ROUTER, "latent/scale", F64, "[C]", "1", "as in data.h5"},
    {FILE_ROUTER, "latent/vae", TEXT, "", "1", "as in data.h5"},
    {FILE_ROUTER, "encoder/text", TEXT, "", "1", "text encoder that it belongs to"},
    {FILE_ROUTER, "encoder/sentence", TEXT, "", "1", "sentence encoder that it belongs to"},

    // assignment.h5
    {FILE_ASSIGNMENT, "*/expert", I32, "[N]", "1", "expert of each prompt of the split, in data.h5's order"},
    {FILE_ASSIGNMENT, "*/similarity", F64, "[N, K]", "1", "cosine of the prompt's vector and each stored draw"},
    {FILE_ASSIGNMENT, "*/caption", TEXT, "[N]", "1", "the prompt"},
    {FILE_ASSIGNMENT, "*/count", I64, "[K]", "prompts", "prompts of each expert"},
    {FILE_ASSIGNMENT, "*/group", TEXT, "[N]", "1", "label of the picture, used only to judge clusters"},
    {FILE_ASSIGNMENT, "*/mean_ratio", F64, "[R]", "1", "m: mean over the split's prompts of the total-MACs ratio, at each resolution"},
    {FILE_ASSIGNMENT, "ratio/resolution", I32, "[R, 2]", "latents", "height and width of the latents; the first is that of prune"},
    {FILE_ASSIGNMENT, "ratio/total", F64, "[R, K]", "1", "MACs of each sliced expert over the teacher's, at each resolution"},
    {FILE_ASSIGNMENT, "ratio/target", F64, "", "1", "p, the budget of prune"},

    // expert_NN.h5
    {FILE_EXPERT, "expert", I32, "", "1", "which one: its row in router.h5"},
    {FILE_EXPERT, "config", TEXT, "", "1", "the teacher's config.json"},
    {FILE_EXPERT, "mask", U8, "[n]", "1", "what it keeps of the teacher: its row of router.h5's masks"},
    {FILE_EXPERT, "settings/depth_gates", U8, "", "1", "1 when the mask has depth entries"},
    {FILE_EXPERT, "settings/ff_entries", I32, "", "entries", "width entries of a feed-forward"},
    {FILE_EXPERT, "ratio", F64, "", "1", "its MACs over the teacher's, at prune.macs_resolution"},
    {FILE_EXPERT, "prediction", TEXT, "", "1", "what the UNet predicts: v or epsilon"},
    {FILE_EXPERT, "teacher", TEXT, "", "1", "content id of the teacher that it was sliced from"},
    {FILE_EXPERT, "router", TEXT, "", "1", "content id of the router that sends it prompts"},
    {FILE_EXPERT, "weights/*", F16 | F32, NULL, "1", "sliced weights by PyTorch name and layout; EMA weights in a finished file of finetune with EMA"},
    {FILE_EXPERT, "ema/*", F32, NULL, "1", "checkpoint: exponential moving average of the weights"},
    {FILE_EXPERT, "optimizer/first_moment/*", F32, NULL, "1", "checkpoint: AdamW's mean of the gradient"},
    {FILE_EXPERT, "optimizer/second_moment/*", F32, NULL, "1", "checkpoint: AdamW's mean of its square"},
    {FILE_EXPERT, "optimizer/step", I64, "", "steps", "checkpoint: AdamW steps done"},
    {FILE_EXPERT, "training/step", I64, "", "steps", "steps done"},
    {FILE_EXPERT, "training/samples", I64, "", "pictures", "pictures seen"},
    {FILE_EXPERT, "training/prompts", I64, "", "prompts", "training prompts that are assigned to it; with none it is left as sliced"},
    {FILE_EXPERT, "training/skipped", I64, "", "steps", "steps skipped for a loss or gradient that is not finite"},
    {FILE_EXPERT, "history/step", I64, "[L]", "steps", "step of each logged line"},
    {FILE_EXPERT, "history/*", F64, "[L]", "1", "logged quantities: losses, gradient norm, learning rate"},
    {FILE_EXPERT, "schedule/betas", F64, "[2]", "1", "as in teacher.h5"},
    {FILE_EXPERT, "latent/kind", TEXT, "", "1", "latents that it was trained on: pixel, haar or vae"},
    {FILE_EXPERT, "latent/scale", F64, "[C]", "1", "as in data.h5"},
    {FILE_EXPERT, "latent/vae", TEXT, "", "1", "as in data.h5"},
    {FILE_EXPERT, "encoder/text", TEXT, "", "1", "text encoder that it belongs to"},

    // samples.h5: N pictures of the same size
    {FILE_SAMPLES, "prompt", TEXT, "[N]", "1", "the prompt of each picture"},
    {FILE_SAMPLES, "expert", I32, "[N]", "1", "expert that made it, -1: the teacher"},
    {FILE_SAMPLES, "seed", I64, "[N]", "1", "run.seed: with prompt and index it gives the picture's initial noise"},
    {FILE_SAMPLES, "index", I64, "[N]", "1", "number of the picture among those of its prompt, from 0"},
    {FILE_SAMPLES, "item", I64, "[N]", "1", "row of the split, or line of the prompts, from 0"},
    {FILE_SAMPLES, "group", TEXT, "[N]", "1", "label of the prompt's picture, where the split has it"},
    {FILE_SAMPLES, "pixels", U8, "[N, H, W, 3]", "1/255", "RGB pictures"},
    {FILE_SAMPLES, "split", TEXT, "", "1", "split of data.h5 that the prompts are of; empty: they are given as text"},
    {FILE_SAMPLES, "model", TEXT, "", "1", "sample.model: routed, teacher or expert"},
    {FILE_SAMPLES, "experts", TEXT, "", "1", "sample.experts: finetuned or sliced; empty for the teacher"},
    {FILE_SAMPLES, "settings/sampler", TEXT, "", "1", "pndm, ddim or dpmpp"},
    {FILE_SAMPLES, "settings/steps", I64, "", "steps", "of the sampler"},
    {FILE_SAMPLES, "settings/guidance", F64, "", "1", "classifier-free guidance"},
    {FILE_SAMPLES, "settings/negative_prompt", TEXT, "", "1", "what guidance leads away from; empty: the empty prompt"},
    {FILE_SAMPLES, "settings/latents", I64, "[2]", "latents", "height and width"},

    // metrics.h5: row 0 is all experts together, row 1 + k expert k, the last one the teacher where it was asked for;
    // a quantity that a row does not have is NaN, and so is the interval of fewer than 10 cases
    {FILE_METRICS, "model", TEXT, "[M]", "1", "all, expert 0, ..., teacher"},
    {FILE_METRICS, "prompts", I64, "[M]", "prompts", "of the split that are routed to it"},
    {FILE_METRICS, "count", I64, "[M]", "pictures", "generated pictures that were evaluated"},
    {FILE_METRICS, "frechet", F64, "[M]", "1", "Frechet distance of its pictures' features to those of the real pictures of the same items; the fewer pictures, the larger"},
    {FILE_METRICS, "cmmd", F64, "[M]", "1", "1000 x squared MMD of the same sets, biased estimator"},
    {FILE_METRICS, "clip_score", F64, "[M]", "1", "100 x mean cosine of picture and prompt"},
    {FILE_METRICS, "denoising_loss", F64, "[M]", "1", "mean squared error to the target, over the split's items and the fixed timesteps"},
    {FILE_METRICS, "distill_out", F64, "[M]", "1", "mean squared difference to the teacher's output in the same cases"},
    {FILE_METRICS, "frechet_interval", F64, "[M, 2]", "1", "95 % interval of the value for samples of this size, by half-sampling"},
    {FILE_METRICS, "cmmd_interval", F64, "[M, 2]", "1", "the same"},
    {FILE_METRICS, "frechet_population", F64, "[M]", "1", "estimate of the distance without the offset of few pictures: rows of unlike numbers can be compared"},
    {FILE_METRICS, "cmmd_population", F64, "[M]", "1", "the same"},
    {FILE_METRICS, "*_population_interval", F64, "[M, 2]", "1", "its pivotal 95 % interval, by half-sampling"},
    {FILE_METRICS, "*_interval", F64, "[M, 2]", "1", "95 % interval of the mean, by the bootstrap; of real/, as above"},
    {FILE_METRICS, "real/count", I64, "[M]", "pictures", "real pictures of another split, routed to the same experts, that stand in for generated ones"},
    {FILE_METRICS, "real/frechet", F64, "[M]", "1", "their distance to the real pictures of the row's items: what perfect pictures would have"},
    {FILE_METRICS, "real/cmmd", F64, "[M]", "1", "the same"},
    {FILE_METRICS, "real/clip_score", F64, "[M]", "1", "of the real pictures of the row's items"},
    {FILE_METRICS, "macs", F64, "[M]", "MACs", "of a forward pass, one sample; row 0: mean over the split's prompts"},
    {FILE_METRICS, "parameters", I64, "[M]", "1", "weights of the model; row 0: of all experts"},
    {FILE_METRICS, "seconds_per_image", F64, "[M]", "s", "to sample with guidance, in a batch; row 0: mean over the split's prompts"},
    {FILE_METRICS, "denoising/item", I64, "[N]", "1", "row of the split"},
    {FILE_METRICS, "denoising/expert", I32, "[N]", "1", "expert of the item"},
    {FILE_METRICS, "denoising/timestep", I64, "[T]", "1", "timesteps; the noise is a function of (seed, item, timestep)"},
    {FILE_METRICS, "denoising/item_loss", F64, "[N]", "1", "squared error of the item's expert, mean over the timesteps: paired with that of other runs of one seed"},
    {FILE_METRICS, "denoising/loss", F64, "[N, T]", "1", "the same, of each timestep"},
    {FILE_METRICS, "denoising/distill_out", F64, "[N, T]", "1", "squared difference of expert and teacher"},
    {FILE_METRICS, "denoising/teacher_loss", F64, "[N, T]", "1", "squared error of the teacher"},
    {FILE_METRICS, "network/*_id", TEXT, "", "1", "hash of all that its features depend on; of trained the content id of clip.h5"},
    {FILE_METRICS, "network/*_features", I64, "", "1", "width of its features"},
    {FILE_METRICS, "network/*", TEXT, "", "1", "network that the quantity was measured with: inception, clip (published ones), or trained, which is clip.h5"},
    {FILE_METRICS, "settings/split", TEXT, "", "1", "split that was evaluated"},
    {FILE_METRICS, "settings/experts", TEXT, "", "1", "finetuned or sliced"},
    {FILE_METRICS, "settings/seed", I64, "", "1", "of the noise and of resampling"},
    {FILE_METRICS, "settings/real_pictures", TEXT, "", "1", "files: read from evaluate.pictures_source; latents: decoded from the data's"},
    {FILE_METRICS, "settings/bootstrap", I64, "", "1", "replicates of a mean"},
    {FILE_METRICS, "settings/half_samples", I64, "", "1", "replicates of a distance"},
    {FILE_METRICS, "settings/latents", I64, "[2]", "latents", "height and width that MACs are counted at"},
    {FILE_METRICS, "settings/timing_batch", I64, "", "pictures", "sampled at a time for seconds_per_image; 0: not measured"},
    {FILE_METRICS, "settings/sampler", TEXT, "", "1", "whose time was measured: pndm, ddim or dpmpp"},
    {FILE_METRICS, "settings/steps", I64, "", "steps", "of the sampler"},
    {FILE_METRICS, "settings/guidance", F64, "", "1", "classifier-free guidance"},

    // evaluate_cache_*.h5
    {FILE_CACHE, "key", TEXT, "", "1", "what the rows are a function of: content ids, settings; rows of another key are not used"},
    {FILE_CACHE, "values", F32, "[R, W]", "1", "rows in order: features of a picture (and of its caption), or squared errors"},

    // bench.h5: row 0 is the teacher, row 1 + k expert k
    {FILE_BENCH, "model", TEXT, "[M]", "1", "teacher, expert 0, ..."},
    {FILE_BENCH, "resolution", I32, "[R]", "latents", "height and width of the latents"},
    {FILE_BENCH, "batch", I32, "[B]", "pictures", "batch sizes"},
    {FILE_BENCH, "parameters", I64, "[M]", "1", "weights of the model"},
    {FILE_BENCH, "macs", F64, "[M, R]", "MACs", "true count, one sample"},
    {FILE_BENCH, "macs_paper", F64, "[M, R]", "MACs", "the paper's way of counting"},
    {FILE_BENCH, "tokens", I32, "", "tokens", "text tokens of each picture"},
    {FILE_BENCH, "repeats", I32, "", "1", "forward passes or steps that were timed in each case"},
    {FILE_BENCH, "precision", TEXT, "", "1", "what is computed in: fp32 or bf16"},
    {FILE_BENCH, "device", TEXT, "", "1", "the GPU that computed; not there where none did"},
    {FILE_BENCH, "threads", I32, "", "threads", "that computed"},
    {FILE_BENCH, "time", F64, "[M, R, B]", "s", "median time of a forward pass"},
    {FILE_BENCH, "time_least", F64, "[M, R, B]", "s", "shortest time"},
    {FILE_BENCH, "speed", F64, "[M, R, B]", "GFLOP/s", "twice the MACs over the shortest time"},
    {FILE_BENCH, "peak_memory", F64, "[M, R, B]", "bytes", "weights, activations and scratch: of a GPU, where one computed"},
    {FILE_BENCH, "peak_resident", F64, "[M, R, B]", "bytes", "of the whole process during these forward passes"},
    {FILE_BENCH, "growths", I64, "[M, R, B]", "1", "times that memory grew after the first pass: 0"},
    {FILE_BENCH, "prune_step/batch", I32, "", "pictures", "pruning step of the teacher: its batch, at the first resolution"},
    {FILE_BENCH, "prune_step/time", F64, "", "s", "teacher, gated student and the gradient of its gates: median time"},
    {FILE_BENCH, "prune_step/time_least", F64, "", "s", "shortest time"},
    {FILE_BENCH, "prune_step/speed", F64, "", "GFLOP/s", "six times the MACs (teacher, student, gradient) over the shortest time"},
    {FILE_BENCH, "prune_step/peak_memory", F64, "", "bytes", "as above"},
    {FILE_BENCH, "prune_step/peak_resident", F64, "", "bytes", "as above"},
    {FILE_BENCH, "prune_step/growths", I64, "", "1", "as above"},
    {FILE_BENCH, "training/batch", I32, "", "pictures", "training: pictures of a pass, at the first resolution"},
    {FILE_BENCH, "training/time", F64, "[M]", "s", "forward and backward pass with the gradients of all weights: median time"},
    {FILE_BENCH, "training/time_least", F64, "[M]", "s", "shortest time"},
    {FILE_BENCH, "training/speed", F64, "[M]", "GFLOP/s", "six times the MACs over the shortest time"},
    {FILE_BENCH, "training/peak_memory", F64, "[M]", "bytes", "as above"},
    {FILE_BENCH, "training/peak_resident", F64, "[M]", "bytes", "as above"},
    {FILE_BENCH, "training/growths", I64, "[M]", "1", "as above"},
    {FILE_BENCH, "finetune_step/time", F64, "[K]", "s", "step of each expert's fine-tuning, with the teacher's forward pass and the update: median time"},
    {FILE_BENCH, "finetune_step/time_least", F64, "[K]", "s", "shortest time"},
    {FILE_BENCH, "finetune_step/speed", F64, "[K]", "GFLOP/s", "six times the expert's and twice the teacher's MACs over the shortest time"},
    {FILE_BENCH, "finetune_step/peak_memory", F64, "[K]", "bytes", "as above"},
    {FILE_BENCH, "finetune_step/peak_resident", F64, "[K]", "bytes", "as above"},
    {FILE_BENCH, "finetune_step/growths", I64, "[K]", "1", "as above"},
    {FILE_BENCH, "roof/*", F64, "", "GFLOP/s", "fastest matmul and convolution of the library, _fp32 and _bf16"},
    {FILE_BENCH, "roof/copy", F64, "", "GB/s", "fastest copy inside the memory, read and written"},

    // clip.h5
    {FILE_CLIP, "config", TEXT, "", "1", "the image encoder's config.json (CLIPVisionModelWithProjection)"},
    {FILE_CLIP, "weights/*", F16 | F32, NULL, "1", "weights by PyTorch name and layout; EMA weights in a finished file"},
    {FILE_CLIP, "weights/text_projection.weight", F16 | F32, "[P, D]", "1", "text features = weight z"},
    {FILE_CLIP, "weights/logit_scale", F16 | F32, "[1]", "1", "logarithm of the factor of the cosines"},
    {FILE_CLIP, "ema/*", F32, NULL, "1", "checkpoint: exponential moving average of the weights"},
    {FILE_CLIP, "optimizer/first_moment/*", F32, NULL, "1", "checkpoint: AdamW's mean of the gradient"},
    {FILE_CLIP, "optimizer/second_moment/*", F32, NULL, "1", "checkpoint: AdamW's mean of its square"},
    {FILE_CLIP, "optimizer/step", I64, "", "steps", "checkpoint: AdamW steps done"},
    {FILE_CLIP, "training/step", I64, "", "steps", "steps done"},
    {FILE_CLIP, "training/samples", I64, "", "pictures", "pictures seen"},
    {FILE_CLIP, "training/skipped", I64, "", "steps", "steps skipped for a gradient that is not finite"},
    {FILE_CLIP, "history/step", I64, "[L]", "steps", "step of each logged line"},
    {FILE_CLIP, "history/*", F64, "[L]", "1", "logged quantities: loss, gradient norm, learning rate, ..."},
    {FILE_CLIP, "image/mean", F64, "[3]", "1", "pixels: (value / 255 - mean) / deviation, by colour"},
    {FILE_CLIP, "image/deviation", F64, "[3]", "1", "as above"},
    {FILE_CLIP, "encoder/sentence", TEXT, "", "1", "sentence encoder whose embeddings are mapped"},
    {FILE_CLIP, "validation/items", I64, "", "pictures", "held-out pictures N, each to be found among all; guessing is right in 1/N (top 1) or 5/N (top 5)"},
    {FILE_CLIP, "validation/top1_image_to_text", F64, "", "1", "share of held-out pictures whose caption is the nearest"},
    {FILE_CLIP, "validation/top5_image_to_text", F64, "", "1", "is one of the five nearest"},
    {FILE_CLIP, "validation/top1_text_to_image", F64, "", "1", "share of held-out captions whose picture is the nearest"},
    {FILE_CLIP, "validation/top5_text_to_image", F64, "", "1", "is one of the five nearest"},

    // a verify reference
    {FILE_REFERENCE, "inputs/*", ANY, NULL, "1", "inputs by name"},
    {FILE_REFERENCE, "outputs/*", ANY, NULL, "1", "expected outputs by name"},
    {FILE_REFERENCE, "gates/*", F32 | F64, NULL, "1", "gates by module path, [B, entries], or with .depth [B]"},
    {FILE_REFERENCE, "gradients/*", F32 | F64, NULL, "1", "gradients of the loss, by weight or input name"},
    {FILE_REFERENCE, "gate_gradients/*", F32 | F64, NULL, "1", "gradients of the loss for the gates"},
    {FILE_REFERENCE, "weights/*", F16 | F32 | F64, NULL, "1", "weights, where there is no folder"},
    {FILE_REFERENCE, "config", TEXT, "", "1", "config.json, where there is no folder"},
};
// clang-format on
enum { ENTRIES = sizeof entries / sizeof entries[0] };

const struct file_schema_kind *file_schema_kind(enum file_kind kind)
{
    ASSERT(kind >= 0 && kind < FILE_KINDS);
    return &kinds[kind];
}

// One `*` at most, standing for one or more characters.
static bool matches(const char *pattern, const char *path)
{
    const char *star = strchr(pattern, '*');
    if (!star) return strcmp(pattern, path) == 0;
    size_t before = (size_t)(star - pattern), after = strlen(star + 1), length = strlen(path);
    return length > before + after && memcmp(pattern, path, before) == 0 &&
           strcmp(path + length - after, star + 1) == 0;
}

const struct file_schema_entry *file_schema_find(enum file_kind kind, const char *path)
{
    const struct file_schema_entry *found = NULL;
    for (int i = 0; i < ENTRIES; i++) {
        if (entries[i].kind != kind || !matches(entries[i].path, path)) continue;
        if (!strchr(entries[i].path, '*')) return &entries[i];
        if (!found) found = &entries[i];
    }
    return found;
}

bool file_schema_allows(const struct file_schema_entry *entry, enum h5_type type, int rank,
                        const int64_t *shape)
{
    if (type == H5_OTHER || (entry->types && !(entry->types & 1u << type))) return false;
    if (!entry->dimensions) return true;
    if (!*entry->dimensions) return rank == 0 || (rank == 1 && shape[0] == 1);
    int dimension = 0;
    for (const char *at = entry->dimensions; at && *at; at = strchr(at, ','), dimension++) {
        at += strspn(at, "[, ");
        if (dimension >= rank) return false;
        if (*at >= '0' && *at <= '9' && shape[dimension] != strtol(at, NULL, 10)) return false;
    }
    return dimension == rank;
}

// "float16 or float32"
static void print_types(FILE *stream, unsigned types)
{
    if (!types) fprintf(stream, "any");
    for (int type = 0, printed = 0; type < H5_OTHER; type++) {
        if (types & 1u << type) fprintf(stream, "%s%s", printed++ ? "/" : "", h5_type_name(type));
    }
}

void file_schema_print(FILE *stream, bool markdown)
{
    for (int kind = 0; kind < FILE_KINDS; kind++) {
        const struct file_schema_kind *file = &kinds[kind];
        fprintf(stream, "%s%s (version %d, written by %s): %s\n", markdown ? "### " : "", file->name,
                file->version, file->written, file->meaning);
        if (markdown)
            fprintf(stream, "\n| dataset | type | shape | unit | meaning |\n|---|---|---|---|---|\n");
        for (int i = 0; i < ENTRIES; i++) {
            const struct file_schema_entry *entry = &entries[i];
            if ((int)entry->kind != kind) continue;
            const char *shape = !entry->dimensions ? "any" : *entry->dimensions ? entry->dimensions : "[1]";
            if (markdown) {
                fprintf(stream, "| `%s` | ", entry->path);
                print_types(stream, entry->types);
                fprintf(stream, " | %s | %s | %s |\n", shape, entry->unit, entry->meaning);
            } else {
                fprintf(stream, "  %-28s %-18s ", entry->path, shape);
                print_types(stream, entry->types);
                fprintf(stream, ", unit %s\n      %s\n", entry->unit, entry->meaning);
            }
        }
        fputc('\n', stream);
    }
}
