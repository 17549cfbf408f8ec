/* Phase evaluate: features of pictures and captions by each metric network, from their caches or computed. */
#include "phases/evaluate_pictures.h"

#include "base/check.h"
#include "io/sha256.h"
#include "metrics/features.h"
#include "phases/row_cache.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PICTURE_BATCH = 64,
    MAX_CAPTION_BYTES = 1 << 20, // of one on average in a batch
    NAME_SIZE = 64,
    BROKEN_SHOWN = 20,
};

/* Which rows of a cache are computed; its context. */
struct feature_job {
    const struct pictures *pictures;
    struct metric_network *network;
    const struct real_set *real;   // real pictures, and captions
    const struct samples *samples; // generated ones
};

static void images_free(int64_t count, struct image *picture)
{
    for (int64_t i = 0; i < count; i++) image_free(&picture[i]);
}

// ---- real pictures

/* Broken ones stay empty. */
static void read_files(const struct pictures *pictures, const struct real_set *set, int64_t first,
                       int64_t count, struct image *picture)
{
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < count; i++) {
        struct fault ignored = {0}; // told by check_broken
        real_pictures_read(pictures->files, set->file[set->item[first + i]], &picture[i], &ignored);
    }
}

static bool take_batch(const struct real_set *set, int64_t first, int64_t count, struct batch *batch,
                       struct fault *fault)
{
    int flip[PICTURE_BATCH] = {0};
    dataset_ask(set->dataset, count, set->item + first, flip, NULL);
    return dataset_take(set->dataset, batch, fault);
}

static bool decode_latents(const struct pictures *pictures, const struct real_set *set, int64_t first,
                           int64_t count, struct image *picture, struct fault *fault)
{
    const struct dataset_info *info = dataset_info(set->dataset);
    int64_t latent = info->height * info->width * info->channels;
    struct batch batch;
    if (!take_batch(set, first, count, &batch, fault)) return false;
    for (int64_t i = 0; i < count; i++) {
        picture[i] = image_new((int)pictures->size, (int)pictures->size);
        latent_decode(&pictures->evaluating->data.latent, (int)info->height, (int)info->width,
                      batch.latents + i * latent, picture[i].rgb);
    }
    return true;
}

/* Of a picture that is not there the row is not a number. */
static bool compute_real(void *context, int64_t first, int64_t count, float *rows, struct fault *fault)
{
    const struct feature_job *job = context;
    int64_t F = job->network->width, good = 0, place[PICTURE_BATCH];
    struct image picture[PICTURE_BATCH] = {{0}}, whole[PICTURE_BATCH];
    if (job->pictures->files)
        read_files(job->pictures, job->real, first, count, picture);
    else if (!decode_latents(job->pictures, job->real, first, count, picture, fault))
        return false;
    for (int64_t i = 0; i < count; i++) {
        if (!picture[i].rgb) continue;
        place[good] = i;
        whole[good++] = picture[i];
    }
    float *features = check_malloc((size_t)(PICTURE_BATCH * F) * sizeof *features);
    bool ok = metric_network_picture_features(job->network, good, whole, features, fault);
    for (int64_t i = 0; i < count * F; i++) rows[i] = NAN;
    for (int64_t i = 0; ok && i < good; i++)
        memcpy(rows + place[i] * F, features + i * F, (size_t)F * sizeof *rows);
    free(features);
    images_free(count, picture);
    return ok;
}

// ---- captions

static bool read_captions(const struct feature_job *job, int64_t first, int64_t count,
                          struct h5_strings *caption, struct fault *fault)
{
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s/caption", job->real->split);
    *caption = (struct h5_strings){.item = check_calloc((size_t)count, sizeof *caption->item)};
    for (; caption->count < count; caption->count++) {
        struct h5_strings one;
        if (!h5_read_strings(job->pictures->data, name, job->real->item[first + caption->count], 1,
                             MAX_CAPTION_BYTES, &one, fault))
            return false;
        caption->item[caption->count] = check_strdup(one.item[0]);
        h5_strings_free(&one);
    }
    return true;
}

static bool compute_captions(void *context, int64_t first, int64_t count, float *rows, struct fault *fault)
{
    const struct feature_job *job = context;
    if (job->network->kind == METRIC_NETWORK_TRAINED) {
        struct batch batch;
        if (!take_batch(job->real, first, count, &batch, fault)) return false;
        metric_network_caption_features(job->network, count, NULL, batch.embeddings, rows);
        return true;
    }
    struct h5_strings caption;
    bool ok = read_captions(job, first, count, &caption, fault);
    if (ok)
        metric_network_caption_features(job->network, count, (const char *const *)caption.item, NULL, rows);
    for (int64_t i = 0; i < caption.count; i++) free(caption.item[i]);
    free(caption.item);
    return ok;
}

// ---- generated pictures

static bool compute_generated(void *context, int64_t first, int64_t count, float *rows, struct fault *fault)
{
    const struct feature_job *job = context;
    const struct samples *samples = job->samples;
    int64_t pixels = samples->height * samples->width * 3, size = job->pictures->size;
    bool scale = samples->height != size || samples->width != size;
    struct image picture[PICTURE_BATCH] = {{0}};
    uint8_t *rgb = check_malloc((size_t)(count * pixels));
    bool ok = h5_read_uint8(samples->reader, "pixels", first, count, rgb, fault);
    for (int64_t i = 0; ok && i < count; i++) {
        struct image made = {(int)samples->height, (int)samples->width, rgb + i * pixels};
        if (scale) {
            picture[i] = image_resize_crop(&made, image_training_crop((int)size));
        } else {
            picture[i] = image_new(made.height, made.width);
            memcpy(picture[i].rgb, made.rgb, (size_t)pixels);
        }
    }
    free(rgb);
    ok = ok && metric_network_picture_features(job->network, count, picture, rows, fault);
    images_free(count, picture);
    return ok;
}

// ---- caches

/* One cache: "real" by the network "inception". `of`: what the rows depend on beside data and network. */
struct feature_cache {
    const char *name, *what, *of;
    int64_t rows;
    bool (*compute)(void *context, int64_t first, int64_t count, float *values, struct fault *fault);
};

static bool fill(struct pictures *pictures, int n, struct feature_cache which, struct feature_job job,
                 float **rows, struct fault *fault)
{
    struct evaluating *evaluating = pictures->evaluating;
    struct metric_network *network = &pictures->network[n];
    char *name = check_format("%s_%s", which.name, pictures->cache_name[n]),
         *path = evaluate_cache_path(evaluating, name), *common = evaluate_key(evaluating, network->dtype),
         *what = check_format("%s (%s)", which.what, pictures->cache_name[n]),
         *key = check_format("%snetwork %s %s\npixels %lld\n%s\nbatch %d\n", common,
                             metric_network_kind_name(network->kind), network->id, (long long)pictures->size,
                             which.of, PICTURE_BATCH);
    job.pictures = pictures;
    job.network = network;
    struct row_cache cache = {.path = path,
                              .what = what,
                              .key = key,
                              .rows = which.rows,
                              .width = network->width,
                              .batch = PICTURE_BATCH,
                              .compute = which.compute,
                              .context = &job};
    *rows = check_malloc((size_t)(cache.rows * cache.width) * sizeof **rows);
    bool ok = row_cache_fill(evaluating->run, &evaluating->cfg->run, &cache, *rows, fault);
    free(key);
    free(what);
    free(common);
    free(path);
    free(name);
    return ok;
}

/* What tells a set's pictures from others: the numbers of its items, and which files are theirs. */
static bool identify_set(const struct pictures *pictures, const struct real_set *set, bool files, char **text,
                         struct fault *fault)
{
    char id[SHA256_HEX_SIZE];
    struct sha256 *hash = sha256_new();
    sha256_add(hash, set->item, (size_t)set->count * sizeof *set->item);
    int64_t *file = check_malloc((size_t)set->count * sizeof *file);
    for (int64_t i = 0; files && i < set->count; i++) file[i] = set->file[set->item[i]];
    bool ok = !files || real_pictures_identify(pictures->files, set->count, file, hash, fault);
    free(file);
    sha256_finish(hash, id);
    *text = check_format("items of %s %s", set->split ? set->split : "no split", id);
    return ok;
}

static bool find_generated(struct pictures *pictures, int n, int set, struct fault *fault)
{
    static const char *const name[SAMPLES] = {"samples", "teacher_samples"},
                             *const what[SAMPLES] = {"features of generated pictures",
                                                     "features of the teacher's pictures"};
    const struct samples *samples = &pictures->samples[set];
    char *of = check_format("samples %s", pictures->evaluating->samples_id[set]);
    struct feature_cache cache = {name[set], what[set], of, samples->S, compute_generated};
    bool ok = fill(pictures, n, cache, (struct feature_job){.samples = samples},
                   &pictures->features[n].generated[set], fault);
    free(of);
    return ok;
}

/* The texts that say which real pictures, partners and captions are meant; owned. */
struct set_ids {
    char *real, *others, *captions;
};

static bool find_features(struct pictures *pictures, int n, const struct set_ids *ids, struct fault *fault)
{
    struct network_features *features = &pictures->features[n];
    struct feature_job real = {.real = &pictures->real}, others = {.real = &pictures->others};
    int64_t rows = pictures->real.count;
    bool ok = fill(pictures, n,
                   (struct feature_cache){"real", "features of real pictures", ids->real, rows, compute_real},
                   real, &features->real, fault) &&
              fill(pictures, n,
                   (struct feature_cache){"others", "features of other real pictures", ids->others,
                                          pictures->others.count, compute_real},
                   others, &features->others, fault) &&
              (pictures->network_of[QUANTITY_CLIP_SCORE] != n ||
               fill(pictures, n,
                    (struct feature_cache){"captions", "features of captions", ids->captions, rows,
                                           compute_captions},
                    real, &features->captions, fault));
    for (int set = 0; ok && set < pictures->sets; set++) ok = find_generated(pictures, n, set, fault);
    return ok;
}

// ---- checks

static bool row_is_finite(int64_t count, const float *values)
{
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i])) return false;
    return true;
}

/* Which pictures of a set are not there, by the rows of the first network. They are read again, to say why:
 * so it is told from caches too. A picture that can be read has no such row. */
static bool find_broken(const struct pictures *pictures, struct real_set *set, const float *rows,
                        struct fault *fault)
{
    const struct evaluate_cfg *cfg = pictures->evaluating->cfg;
    const struct log *log = pictures->evaluating->run->log;
    int64_t F = pictures->network[0].width, count = 0;
    set->broken = check_calloc((size_t)set->count, sizeof *set->broken);
    for (int64_t i = 0; pictures->files && i < set->count; i++) {
        if (row_is_finite(F, rows + i * F)) continue;
        struct image picture;
        struct fault why = {0};
        set->broken[i] = !real_pictures_read(pictures->files, set->file[set->item[i]], &picture, &why);
        image_free(&picture);
        if (set->broken[i] && count++ < BROKEN_SHOWN)
            log_warning(log, "no real picture of item %lld of %s: %s", (long long)set->item[i], set->split,
                        why.text);
    }
    if (count > 0)
        log_info(log, "%lld of %lld real pictures of %s are missing or broken and left out", (long long)count,
                 (long long)set->count, set->split);
    return count <= cfg->bad_picture_limit ||
           fault_raise(fault, EXIT_CODE_INPUT,
                       "%lld pictures of %s are missing from %s or broken, %lld are allowed "
                       "(data.bad_picture_limit)",
                       (long long)count, set->split, cfg->pictures_source, (long long)cfg->bad_picture_limit);
}

/* The metrics take finite rows with directions for granted; broken[rows], NULL: none, are not looked at. */
static bool check_rows(const char *what, int64_t F, int64_t rows, const float *values, const bool *broken,
                       struct fault *fault)
{
    double *features = check_malloc((size_t)(rows * F) * sizeof *features);
    int64_t count = 0;
    for (int64_t i = 0; i < rows; i++) {
        if (broken && broken[i]) continue;
        for (int64_t f = 0; f < F; f++) features[count * F + f] = values[i * F + f];
        count++;
    }
    bool ok = features_check(what, count, F, features, 0, true, fault);
    free(features);
    return ok;
}

static bool check_features(const struct pictures *pictures, int n, struct fault *fault)
{
    const struct network_features *features = &pictures->features[n];
    const struct real_set *real = &pictures->real, *others = &pictures->others;
    int64_t F = pictures->network[n].width;
    bool ok = check_rows("features of real pictures", F, real->count, features->real, real->broken, fault) &&
              check_rows("features of other real pictures", F, others->count, features->others,
                         others->broken, fault) &&
              (!features->captions ||
               check_rows("features of captions", F, real->count, features->captions, NULL, fault));
    for (int set = 0; ok && set < pictures->sets; set++)
        ok = check_rows("features of generated pictures", F, pictures->samples[set].S,
                        features->generated[set], NULL, fault);
    return ok || fault_prefix(fault, "%s: ", pictures->network[n].path);
}

bool evaluate_features(struct pictures *pictures, struct fault *fault)
{
    const struct comm *comm = pictures->evaluating->run->comm;
    struct set_ids ids = {0};
    bool files = pictures->files != NULL;
    if (identify_set(pictures, &pictures->real, files, &ids.real, fault) &&
        identify_set(pictures, &pictures->others, files && pictures->others.file, &ids.others, fault))
        identify_set(pictures, &pictures->real, false, &ids.captions, fault);
    bool ok = comm_agree(comm, fault);
    for (int n = 0; ok && n < pictures->networks; n++) {
        ok = find_features(pictures, n, &ids, fault);
        if (!ok) break;
        if (n > 0 || (find_broken(pictures, &pictures->real, pictures->features[0].real, fault) &&
                      find_broken(pictures, &pictures->others, pictures->features[0].others, fault)))
            check_features(pictures, n, fault);
        ok = comm_agree(comm, fault);
    }
    free(ids.real);
    free(ids.others);
    free(ids.captions);
    return ok;
}
