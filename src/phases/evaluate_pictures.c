/* Phase evaluate: generated pictures beside the real ones of the same items, and these beside other real
 * ones.
 *
 *  1. samples.h5, the metric network, and for each item a real picture of another split
 *  2. features of all of them, from their caches or computed
 *  3. quantities of each row, dealt to the ranks */
#include "phases/evaluate_parts.h"

#include "base/check.h"
#include "metrics/clip_score.h"
#include "metrics/cmmd.h"
#include "metrics/features.h"
#include "metrics/frechet.h"
#include "phases/clip_file.h"
#include "phases/expert_file.h"
#include "phases/provenance.h"
#include "phases/row_cache.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PICTURE_BATCH = 64, MAX_PICTURES = 1 << 27, MAX_TEXT = 64, NAME_SIZE = 64 };

struct pictures;

/* A file of generated pictures. */
struct samples {
    const struct pictures *pictures; // for the cache
    struct h5_reader *reader;
    int64_t S, height, width; // pictures and their size
    int32_t *expert;          // [S] that made it, -1: the teacher
    int64_t *item;            // [S] of the split
    float *features;          // [S, F]
    struct sampling_settings settings;
};
enum { OF_EXPERTS, OF_TEACHER, SAMPLES };

struct pictures {
    struct evaluating *evaluating;
    struct clip_file clip;
    int64_t F;                       // features of a picture
    struct samples samples[SAMPLES]; // of the experts (or all), and where asked for of the teacher
    int sets;                        // how many

    struct dataset *other; // the other split; NULL: there is none

    /* features */
    float *real;   // [N, 2 F]: of the picture, then of its caption
    float *others; // [others_count, F], of the items of the other split in others_item
    int64_t *others_item, others_count;
    int64_t *others_row; // [N] row in `others` of an item's partner, -1: none
};

// ---- 1: inputs

static bool read_settings(struct samples *samples, struct fault *fault)
{
    struct sampling_settings *settings = &samples->settings;
    struct h5_reader *reader = samples->reader;
    char *sampler;
    if (!h5_load_text(reader, "settings/sampler", MAX_TEXT, &sampler, fault)) return false;
    bool known = sampler_find(sampler, &settings->sampler);
    if (!known)
        fault_raise(fault, EXIT_CODE_INPUT, "%s: settings/sampler is \"%s\", pndm, ddim, dpmpp allowed",
                    h5_path(reader), sampler);
    free(sampler);
    if (!known || !h5_read_one_int64(reader, "settings/steps", &settings->steps, fault) ||
        !h5_read_one_double(reader, "settings/guidance", &settings->guidance, fault))
        return false;
    int most = sampler_most_steps(settings->sampler);
    return (settings->steps >= 1 && settings->steps <= most && isfinite(settings->guidance)) ||
           fault_raise(fault, EXIT_CODE_INPUT, "%s: %lld steps of guidance %g, 1..%d finite ones allowed",
                       h5_path(reader), (long long)settings->steps, settings->guidance, most);
}

/* A text of samples.h5 must be what this run evaluates. */
static bool check_text(struct h5_reader *reader, const char *name, const char *wanted, const char *advice,
                       struct fault *fault)
{
    char *found;
    if (!h5_load_text(reader, name, MAX_TEXT, &found, fault)) return false;
    bool same = strcmp(found, wanted) == 0;
    if (!same)
        fault_raise(fault, EXIT_CODE_INPUT, "%s: %s is \"%s\", \"%s\" is evaluated: %s", h5_path(reader),
                    name, found, wanted, advice);
    free(found);
    return same;
}

/* Which network made which picture of which item. */
static bool read_places(const struct evaluating *evaluating, struct samples *samples, struct fault *fault)
{
    struct h5_reader *reader = samples->reader;
    struct h5_info info;
    if (!h5_expect(reader, "pixels", 4, (int64_t[]){-1, -1, -1, 3}, &info, fault)) return false;
    samples->S = info.shape[0];
    samples->height = info.shape[1];
    samples->width = info.shape[2];
    if (!h5_load_int32(reader, "expert", 1, &samples->S, MAX_PICTURES, &samples->expert, NULL, fault) ||
        !h5_load_int64(reader, "item", 1, &samples->S, MAX_PICTURES, &samples->item, NULL, fault))
        return false;
    for (int64_t s = 0; s < samples->S; s++)
        if (samples->expert[s] < -1 || samples->expert[s] >= evaluating->K || samples->item[s] < 0 ||
            samples->item[s] >= evaluating->info->items)
            return fault_raise(fault, EXIT_CODE_INPUT,
                               "%s: picture %lld is of item %lld by expert %d: items 0..%lld and experts "
                               "-1..%lld allowed",
                               h5_path(reader), (long long)s, (long long)samples->item[s], samples->expert[s],
                               (long long)evaluating->info->items - 1, (long long)evaluating->K - 1);
    return true;
}

/* The content id of expert k's file, as it is now. */
static bool expert_id(const struct evaluating *evaluating, int64_t k, char id[SHA256_HEX_SIZE],
                      struct fault *fault)
{
    char *path = expert_path(evaluating->cfg->expert_file, k);
    struct h5_reader *reader = NULL;
    bool ok = h5_open(path, FILE_EXPERT, &reader, fault);
    if (ok) snprintf(id, SHA256_HEX_SIZE, "%s", h5_stored_content_id(reader));
    h5_close(reader);
    free(path);
    return ok;
}

/* The pictures must be of the networks and the data that are evaluated beside them. */
static bool check_makers(const struct evaluating *evaluating, const struct samples *samples,
                         struct fault *fault)
{
    static const char advice[] = "run sample again";
    struct h5_reader *reader = samples->reader;
    bool by_experts = false, by_teacher = false, sliced = evaluating->cfg->experts == EXPERTS_SLICED;
    bool *made = check_calloc((size_t)evaluating->K, sizeof *made);
    for (int64_t s = 0; s < samples->S; s++) {
        if (samples->expert[s] >= 0) by_experts = made[samples->expert[s]] = true;
        if (samples->expert[s] < 0) by_teacher = true;
    }
    bool ok = provenance_check_parent(reader, "data.h5", evaluating->data.content_id, advice, fault);
    if (ok && by_experts)
        ok = check_text(reader, "experts", sliced ? "sliced" : "finetuned",
                        "run sample with these experts, or set evaluate.experts", fault) &&
             provenance_check_parent(reader, "router.h5", evaluating->routing.lineage.content_id, advice,
                                     fault);
    if (ok && (by_teacher || (by_experts && sliced)))
        ok = provenance_check_parent(reader, "teacher.h5", evaluating->routing.teacher_id, advice, fault);
    for (int64_t k = 0; ok && !sliced && k < evaluating->K; k++) {
        char id[SHA256_HEX_SIZE], name[NAME_SIZE];
        snprintf(name, sizeof name, "expert_%02lld.h5", (long long)k);
        ok = !made[k] || (expert_id(evaluating, k, id, fault) &&
                          provenance_check_parent(reader, name, id, advice, fault));
    }
    free(made);
    return ok;
}

static bool open_set(const struct evaluating *evaluating, const char *path, struct samples *samples,
                     struct fault *fault)
{
    return h5_open(path, FILE_SAMPLES, &samples->reader, fault) &&
           check_text(samples->reader, "split", evaluate_split_name(evaluating->cfg->split),
                      "run sample on that split, or set evaluate.split", fault) &&
           read_settings(samples, fault) && read_places(evaluating, samples, fault) &&
           check_makers(evaluating, samples, fault);
}

/* The teacher's pictures are for comparison: made as the experts', and no others among them. */
static bool check_teachers(const struct samples *of_experts, const struct samples *of_teacher,
                           struct fault *fault)
{
    const struct sampling_settings *a = &of_experts->settings, *b = &of_teacher->settings;
    if (a->sampler != b->sampler || a->steps != b->steps || a->guidance != b->guidance)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s and %s were not sampled alike: %s and %s, %lld and %lld "
                           "steps, guidance %g and %g",
                           h5_path(of_experts->reader), h5_path(of_teacher->reader), sampler_name(a->sampler),
                           sampler_name(b->sampler), (long long)a->steps, (long long)b->steps, a->guidance,
                           b->guidance);
    for (int64_t s = 0; s < of_teacher->S; s++)
        if (of_teacher->expert[s] >= 0)
            return fault_raise(fault, EXIT_CODE_INPUT,
                               "%s: picture %lld is of expert %d: run sample with sample.model = \"teacher\"",
                               h5_path(of_teacher->reader), (long long)s, of_teacher->expert[s]);
    return true;
}

static bool open_samples(struct pictures *pictures, struct fault *fault)
{
    struct evaluating *evaluating = pictures->evaluating;
    const struct evaluate_cfg *cfg = evaluating->cfg;
    const char *path[SAMPLES] = {[OF_EXPERTS] = cfg->samples_file, [OF_TEACHER] = cfg->teacher_samples_file};
    for (int set = 0; set < (cfg->teacher_pictures ? SAMPLES : OF_TEACHER); set++) {
        struct samples *samples = &pictures->samples[pictures->sets++];
        samples->pictures = pictures;
        if (!open_set(evaluating, path[set], samples, fault)) return false;
        snprintf(evaluating->samples_id[set], SHA256_HEX_SIZE, "%s", h5_stored_content_id(samples->reader));
    }
    evaluating->sampling = pictures->samples[OF_EXPERTS].settings;
    return !cfg->teacher_pictures ||
           check_teachers(&pictures->samples[OF_EXPERTS], &pictures->samples[OF_TEACHER], fault);
}

static bool open_clip(struct pictures *pictures, struct fault *fault)
{
    struct evaluating *evaluating = pictures->evaluating;
    const struct evaluate_cfg *cfg = evaluating->cfg;
    if (!clip_file_read(cfg->clip_file, evaluating->backend, evaluating->dtype, &pictures->clip, fault) ||
        !clip_file_check_encoder(&pictures->clip, evaluating->data.sentence_encoder, cfg->data_file, fault))
        return false;
    snprintf(evaluating->clip_id, sizeof evaluating->clip_id, "%s", pictures->clip.content_id);
    pictures->F = evaluating->feature_width = pictures->clip.width;
    if (pictures->clip.embedding_width != evaluating->info->embedding_width)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s reads embeddings %lld wide, %s has %lld",
                           cfg->clip_file, (long long)pictures->clip.embedding_width, cfg->data_file,
                           (long long)evaluating->info->embedding_width);
    return pictures->F <= FRECHET_MAX_FEATURES ||
           fault_raise(fault, EXIT_CODE_INPUT, "%s makes %lld features, at most %d allowed", cfg->clip_file,
                       (long long)pictures->F, FRECHET_MAX_FEATURES);
}

/* The metric network reads pictures of one size: said before hours are spent on features. */
static bool check_sizes(const struct pictures *pictures, struct fault *fault)
{
    int64_t size = pictures->clip.image_size;
    for (const struct samples *set = pictures->samples; set < pictures->samples + pictures->sets; set++)
        if (set->height != size || set->width != size)
            return fault_raise(fault, EXIT_CODE_INPUT,
                               "%s has pictures of %lld x %lld pixels, %s reads those of %lld a side",
                               h5_path(set->reader), (long long)set->height, (long long)set->width,
                               pictures->clip.path, (long long)size);
    return true;
}

/* Gives each item of which there are samples a partner: a real picture of the other split that the router
 * sends to the same expert, spread evenly over those, each used once. */
static void choose_partners(struct pictures *pictures, const struct assignment *others)
{
    const struct evaluating *evaluating = pictures->evaluating;
    const struct assignment *mine = &evaluating->assignment;
    bool *sampled = check_calloc((size_t)mine->prompts, sizeof *sampled);
    for (const struct samples *set = pictures->samples; set < pictures->samples + pictures->sets; set++)
        for (int64_t s = 0; s < set->S; s++) sampled[set->item[s]] = true;
    for (int64_t k = 0; k < evaluating->K; k++) {
        int64_t wanted = 0, place = 0, last = -1;
        for (int64_t i = 0; i < mine->prompts; i++) wanted += sampled[i] && mine->expert[i] == k;
        int64_t *candidate = assignment_items(others, k);
        for (int64_t i = 0; i < mine->prompts && others->count[k] > 0; i++) {
            if (!sampled[i] || mine->expert[i] != k) continue;
            int64_t at = place++ * others->count[k] / wanted;
            if (at == last) continue; // fewer candidates than items
            last = at;
            pictures->others_row[i] = pictures->others_count;
            pictures->others_item[pictures->others_count++] = candidate[at];
        }
        free(candidate);
    }
    free(sampled);
}

static bool find_partners(struct pictures *pictures, struct fault *fault)
{
    const struct evaluating *evaluating = pictures->evaluating;
    const struct evaluate_cfg *cfg = evaluating->cfg;
    int64_t N = evaluating->info->items;
    const char *other =
        evaluate_split_name(cfg->split == EVALUATE_TRAIN ? EVALUATE_VALIDATION : EVALUATE_TRAIN);
    pictures->others_row = check_malloc((size_t)N * sizeof *pictures->others_row);
    pictures->others_item = check_malloc((size_t)N * sizeof *pictures->others_item);
    for (int64_t i = 0; i < N; i++) pictures->others_row[i] = -1;
    struct h5_reader *reader;
    if (!h5_open(cfg->data_file, FILE_DATA, &reader, fault)) return false;
    bool there = h5_exists(reader, other);
    h5_close(reader);
    if (!there) return true; // nothing was held out
    struct assignment others;
    if (!dataset_open(cfg->data_file, other, &pictures->evaluating->text, &pictures->other, fault) ||
        !assignment_read(cfg->assignment_file, other, dataset_info(pictures->other)->items,
                         &evaluating->routing, &evaluating->data, &others, fault))
        return false;
    choose_partners(pictures, &others);
    assignment_clear(&others);
    return true;
}

// ---- 2: features

/* Features of real pictures, items item[count] of a data set, into rows of `width` numbers; with `texts` also
 * those of their captions, behind. */
static bool real_features(const struct pictures *pictures, struct dataset *dataset, const int64_t *item,
                          int64_t count, bool texts, float *rows, struct fault *fault)
{
    const struct evaluating *evaluating = pictures->evaluating;
    const struct dataset_info *info = dataset_info(dataset);
    const struct latent_form *form = &evaluating->data.latent;
    int64_t F = pictures->F, width = texts ? 2 * F : F, patch = latent_patch(form->kind);
    int64_t latent = info->height * info->width * info->channels,
            pixels = info->height * patch * info->width * patch * 3;
    int *flip = check_calloc((size_t)count, sizeof *flip);
    struct batch batch;
    dataset_ask(dataset, count, item, flip, NULL);
    free(flip);
    if (!dataset_take(dataset, &batch, fault)) return false;
    uint8_t *rgb = check_malloc((size_t)(count * pixels));
    float *features = check_malloc((size_t)(count * F) * sizeof *features);
    for (int64_t i = 0; i < count; i++)
        latent_decode(form, (int)info->height, (int)info->width, batch.latents + i * latent,
                      rgb + i * pixels);
    bool ok = clip_file_image_features(evaluating->tape, &pictures->clip, count, info->height * patch,
                                       info->width * patch, rgb, features, fault);
    for (int64_t i = 0; ok && i < count; i++)
        memcpy(rows + i * width, features + i * F, (size_t)F * sizeof *rows);
    if (ok && texts) {
        clip_file_text_features(&pictures->clip, count, batch.embeddings, features);
        for (int64_t i = 0; i < count; i++)
            memcpy(rows + i * width + F, features + i * F, (size_t)F * sizeof *rows);
    }
    free(features);
    free(rgb);
    return ok;
}

static bool compute_real(void *context, int64_t first, int64_t count, float *rows, struct fault *fault)
{
    const struct pictures *pictures = context;
    int64_t item[PICTURE_BATCH];
    for (int64_t i = 0; i < count; i++) item[i] = first + i;
    return real_features(pictures, pictures->evaluating->dataset, item, count, true, rows, fault);
}

static bool compute_others(void *context, int64_t first, int64_t count, float *rows, struct fault *fault)
{
    const struct pictures *pictures = context;
    return real_features(pictures, pictures->other, pictures->others_item + first, count, false, rows, fault);
}

static bool compute_generated(void *context, int64_t first, int64_t count, float *rows, struct fault *fault)
{
    const struct samples *samples = context;
    const struct pictures *pictures = samples->pictures;
    int64_t pixels = samples->height * samples->width * 3;
    uint8_t *rgb = check_malloc((size_t)(count * pixels));
    bool ok = h5_read_uint8(samples->reader, "pixels", first, count, rgb, fault) &&
              clip_file_image_features(pictures->evaluating->tape, &pictures->clip, count, samples->height,
                                       samples->width, rgb, rows, fault);
    free(rgb);
    return ok;
}

/* The rows of one cache; key_of_rows: what they depend on beside data and network. */
static bool fill(struct pictures *pictures, const char *name, const char *what, const char *key_of_rows,
                 struct row_cache cache, float **rows, struct fault *fault)
{
    struct evaluating *evaluating = pictures->evaluating;
    char *path = evaluate_cache_path(evaluating, name), *common = evaluate_key(evaluating);
    char *key = check_format("%sclip %s\n%s\nbatch %d\n", common, pictures->clip.content_id, key_of_rows,
                             PICTURE_BATCH);
    *rows = check_malloc((size_t)(cache.rows * cache.width) * sizeof **rows);
    cache.path = path;
    cache.what = what;
    cache.key = key;
    cache.batch = PICTURE_BATCH;
    bool ok = row_cache_fill(evaluating->run, &evaluating->cfg->run, &cache, *rows, fault);
    free(key);
    free(common);
    free(path);
    return ok;
}

/* The numbers of the other split's items, as a hash. */
static void hash_items(const struct pictures *pictures, char hex[SHA256_HEX_SIZE])
{
    sha256_bytes(pictures->others_item, (size_t)pictures->others_count * sizeof *pictures->others_item, hex);
}

static bool find_generated(struct pictures *pictures, int set, struct fault *fault)
{
    static const char *const name[SAMPLES] = {"samples", "teacher_samples"},
                             *const what[SAMPLES] = {"features of generated pictures",
                                                     "features of the teacher's pictures"};
    struct samples *samples = &pictures->samples[set];
    char *key = check_format("samples %s", pictures->evaluating->samples_id[set]);
    bool ok =
        fill(pictures, name[set], what[set], key,
             (struct row_cache){
                 .rows = samples->S, .width = pictures->F, .compute = compute_generated, .context = samples},
             &samples->features, fault);
    free(key);
    return ok;
}

static bool find_features(struct pictures *pictures, struct fault *fault)
{
    char items[SHA256_HEX_SIZE];
    hash_items(pictures, items);
    char *key = check_format("items of the other split %s", items);
    bool ok = fill(pictures, "real", "features of real pictures and captions", "all items",
                   (struct row_cache){.rows = pictures->evaluating->info->items,
                                      .width = 2 * pictures->F,
                                      .compute = compute_real,
                                      .context = pictures},
                   &pictures->real, fault) &&
              fill(pictures, "others", "features of other real pictures", key,
                   (struct row_cache){.rows = pictures->others_count,
                                      .width = pictures->F,
                                      .compute = compute_others,
                                      .context = pictures},
                   &pictures->others, fault);
    free(key);
    for (int set = 0; ok && set < pictures->sets; set++) ok = find_generated(pictures, set, fault);
    return ok;
}

// ---- 3: quantities

/* Feature rows of one row of the table; owned. */
struct group {
    int64_t generated, items, partners;
    double *picture, *prompt; // [generated, F] with the prompt of each
    double *real, *caption;   // [items, F] of the items that there are pictures of, each once
    double *partner;          // [partners, F]
};

static void copy_values(int64_t count, const float *from, double *to)
{
    for (int64_t i = 0; i < count; i++) to[i] = from[i];
}

static bool in_row(const struct evaluating *evaluating, int64_t row, int32_t expert)
{
    if (row == ROW_ALL) return expert >= 0;
    return expert == (row == row_of_teacher(evaluating) ? -1 : row - ROW_EXPERTS);
}

/* The generated pictures of a row, of one file, behind those that the group has. */
static void add_samples(const struct pictures *pictures, const struct samples *samples, int64_t row,
                        struct group *group, bool *seen)
{
    int64_t F = pictures->F;
    for (int64_t s = 0; s < samples->S; s++) {
        if (!in_row(pictures->evaluating, row, samples->expert[s])) continue;
        int64_t item = samples->item[s];
        seen[item] = true;
        copy_values(F, samples->features + s * F, group->picture + group->generated * F);
        copy_values(F, pictures->real + (2 * item + 1) * F, group->prompt + group->generated * F);
        group->generated++;
    }
}

static struct group group_of(const struct pictures *pictures, int64_t row)
{
    const struct evaluating *evaluating = pictures->evaluating;
    int64_t F = pictures->F, N = evaluating->info->items, S = 0;
    for (int set = 0; set < pictures->sets; set++) S += pictures->samples[set].S;
    bool *seen = check_calloc((size_t)N, sizeof *seen);
    struct group group = {.picture = check_malloc((size_t)(S * F) * sizeof(double)),
                          .prompt = check_malloc((size_t)(S * F) * sizeof(double)),
                          .real = check_malloc((size_t)(N * F) * sizeof(double)),
                          .caption = check_malloc((size_t)(N * F) * sizeof(double)),
                          .partner = check_malloc((size_t)(N * F) * sizeof(double))};
    for (int set = 0; set < pictures->sets; set++)
        add_samples(pictures, &pictures->samples[set], row, &group, seen);
    for (int64_t i = 0; i < N; i++) {
        if (!seen[i]) continue;
        copy_values(F, pictures->real + 2 * i * F, group.real + group.items * F);
        copy_values(F, pictures->real + (2 * i + 1) * F, group.caption + group.items * F);
        group.items++;
        int64_t other = pictures->others_row[i];
        if (other >= 0) copy_values(F, pictures->others + other * F, group.partner + group.partners++ * F);
    }
    free(seen);
    return group;
}

static void group_free(struct group *group)
{
    free(group->picture);
    free(group->prompt);
    free(group->real);
    free(group->caption);
    free(group->partner);
}

/* What one quantity of one row has come to; zero where another rank computes it. */
struct found {
    struct interval value, population;
};

static struct found find_distance(const struct evaluating *evaluating, enum quantity quantity, int64_t F,
                                  int64_t N, const double *a, int64_t M, const double *b)
{
    const struct evaluate_cfg *cfg = evaluating->cfg;
    int64_t fewer = N < M ? N : M;
    struct found found = {interval_none(), interval_none()};
    if (fewer < (quantity == QUANTITY_FRECHET ? LEAST_FOR_FRECHET : 1)) return found;
    if (fewer >= LEAST_FOR_INTERVAL && cfg->half_samples > 0) {
        struct bootstrap halves = {(uint64_t)cfg->run.seed, cfg->half_samples, true};
        struct interval interval = quantity == QUANTITY_FRECHET ? frechet_interval(halves, N, M, F, a, b)
                                                                : cmmd_interval(halves, N, M, F, a, b);
        found = (struct found){interval_about_value(interval), interval_of_population(interval)};
        found.value.low = fmax(found.value.low, 0); // no two sets are nearer than that
        return found;
    }
    if (quantity == QUANTITY_CMMD) {
        found.value.value = cmmd_distance(N, M, F, a, b);
        return found;
    }
    struct moments of_a = moments_of(N, F, a, NULL), of_b = moments_of(M, F, b, NULL);
    found.value.value = frechet_distance(&of_a, &of_b);
    moments_free(&of_b);
    moments_free(&of_a);
    return found;
}

static struct found find_score(const struct evaluating *evaluating, int64_t F, int64_t N, const double *image,
                               const double *text)
{
    const struct evaluate_cfg *cfg = evaluating->cfg;
    struct found found = {interval_none(), interval_none()};
    if (N == 0) return found;
    double *score = check_malloc((size_t)N * sizeof *score);
    clip_score(N, F, image, text, score);
    found.value =
        bootstrap_mean((struct bootstrap){(uint64_t)cfg->run.seed, cfg->bootstrap, false}, N, score, NULL);
    if (N < LEAST_FOR_INTERVAL) found.value.low = found.value.high = NAN;
    free(score);
    return found;
}

/* Of generated pictures, or of the real ones in their place. */
static struct found find_quantity(const struct pictures *pictures, const struct group *group,
                                  enum quantity quantity, bool real)
{
    const struct evaluating *evaluating = pictures->evaluating;
    int64_t F = pictures->F;
    if (quantity == QUANTITY_CLIP_SCORE)
        return real ? find_score(evaluating, F, group->items, group->real, group->caption)
                    : find_score(evaluating, F, group->generated, group->picture, group->prompt);
    return real ? find_distance(evaluating, quantity, F, group->items, group->real, group->partners,
                                group->partner)
                : find_distance(evaluating, quantity, F, group->generated, group->picture, group->items,
                                group->real);
}

/* Every rank finds some; each is found whole by one rank, so that the number of ranks changes no bit. */
static void find_quantities(struct pictures *pictures)
{
    struct evaluating *evaluating = pictures->evaluating;
    const struct comm *comm = evaluating->run->comm;
    int64_t jobs = evaluating->M * PICTURE_QUANTITIES * 2, job = 0;
    struct found *found = check_calloc((size_t)jobs, sizeof *found);
    struct progress progress = progress_start(evaluating->run->log, "quantity", 0, jobs);
    for (int64_t row = 0; row < evaluating->M; row++) {
        struct group group = group_of(pictures, row);
        evaluating->pictures[row] = group.generated;
        evaluating->partners[row] = group.partners;
        for (int q = 0; q < PICTURE_QUANTITIES; q++)
            for (int real = 0; real < 2; real++, job++) {
                if (job % comm_size(comm) == comm_rank(comm))
                    found[job] = find_quantity(pictures, &group, (enum quantity)q, real);
                progress_update(&progress, job + 1, "%s", "");
            }
        group_free(&group);
    }
    progress_pause(&progress);
    comm_sum_ordered(comm, (double *)found, (size_t)jobs * (sizeof *found / sizeof(double)));
    job = 0;
    for (int64_t row = 0; row < evaluating->M; row++)
        for (int q = 0; q < PICTURE_QUANTITIES; q++, job += 2) {
            evaluating->value[q][row] = found[job].value;
            evaluating->real[q][row] = found[job + 1].value;
            if (q < DISTANCES) evaluating->population[q][row] = found[job].population;
        }
    free(found);
}

/* The metrics take finite rows with directions for granted. Rows of both picture and caption are two. */
static bool check_rows(const char *what, int64_t F, int64_t rows, const float *values, struct fault *fault)
{
    double *features = check_malloc((size_t)(rows * F) * sizeof *features);
    copy_values(rows * F, values, features);
    bool ok = features_check(what, rows, F, features, 0, true, fault);
    free(features);
    return ok;
}

static bool check_features(const struct pictures *pictures, struct fault *fault)
{
    int64_t F = pictures->F;
    bool ok =
        check_rows("features of real pictures and captions", F, 2 * pictures->evaluating->info->items,
                   pictures->real, fault) &&
        check_rows("features of other real pictures", F, pictures->others_count, pictures->others, fault);
    for (int set = 0; ok && set < pictures->sets; set++)
        ok = check_rows("features of generated pictures", F, pictures->samples[set].S,
                        pictures->samples[set].features, fault);
    return ok;
}

static void warn_of_few(const struct pictures *pictures)
{
    const struct evaluating *evaluating = pictures->evaluating;
    const struct log *log = evaluating->run->log;
    for (int64_t row = 0; row < evaluating->M; row++) {
        char name[ROW_NAME_SIZE];
        int64_t count = evaluating->pictures[row];
        if (row == row_of_teacher(evaluating) && count == 0) continue; // not asked for
        row_name(evaluating, row, name);
        if (count < LEAST_FOR_INTERVAL)
            log_info(log, "%s: %lld pictures; a Frechet distance needs %d, an interval %d", name,
                     (long long)count, LEAST_FOR_FRECHET, LEAST_FOR_INTERVAL);
        else if (count <= pictures->F)
            log_info(log,
                     "%s: %lld pictures of %lld features: their covariance is singular, and the Frechet "
                     "distance far "
                     "above that of many pictures; compare it at equal numbers alone",
                     name, (long long)count, (long long)pictures->F);
    }
}

static void pictures_clear(struct pictures *pictures)
{
    clip_file_clear(&pictures->clip);
    for (int set = 0; set < pictures->sets; set++) {
        h5_close(pictures->samples[set].reader);
        free(pictures->samples[set].expert);
        free(pictures->samples[set].item);
        free(pictures->samples[set].features);
    }
    dataset_close(pictures->other);
    free(pictures->real);
    free(pictures->others);
    free(pictures->others_item);
    free(pictures->others_row);
}

static bool find_all(struct pictures *pictures, struct fault *fault)
{
    struct evaluating *evaluating = pictures->evaluating;
    const struct run *run = evaluating->run;
    if (open_samples(pictures, fault) && open_clip(pictures, fault) && check_sizes(pictures, fault)) // 1
        find_partners(pictures, fault);
    if (!comm_agree(run->comm, fault) || run->check_only) return fault->code == EXIT_CODE_OK;
    timer_start(run->timers, "features");
    bool ok = find_features(pictures, fault); // 2
    timer_stop(run->timers, "features");
    if (ok) check_features(pictures, fault);
    if (!ok || !comm_agree(run->comm, fault)) return false;
    timer_start(run->timers, "quantities");
    find_quantities(pictures); // 3
    timer_stop(run->timers, "quantities");
    warn_of_few(pictures);
    return true;
}

bool evaluate_pictures(struct evaluating *evaluating, struct fault *fault)
{
    struct pictures pictures = {.evaluating = evaluating};
    bool ok = find_all(&pictures, fault);
    pictures_clear(&pictures);
    return ok;
}
