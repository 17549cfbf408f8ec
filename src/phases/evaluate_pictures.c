/* Phase evaluate: generated pictures beside the real ones of the same items, and these beside other real
 * ones.
 *
 *  1. samples.h5, the metric networks, real pictures of the items, and for each one of another split
 *  2. features of all of them by each network, from their caches or computed (evaluate_features.c)
 *  3. quantities of each row, dealt to the ranks (evaluate_quantities.c) */
#define _POSIX_C_SOURCE 200809L // access
#include "phases/evaluate_pictures.h"

#include "base/check.h"
#include "metrics/frechet.h"
#include "phases/expert_file.h"
#include "phases/provenance.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PICTURES = 1 << 27, MAX_TEXT = 64, NAME_SIZE = 64 };

// ---- 1: generated pictures

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

/* By whom the pictures are: by the experts as the router chose them, or all by the teacher. One expert's
 * pictures of every prompt are not what a row of the table is. */
static bool check_model(const struct evaluating *evaluating, struct h5_reader *reader, int set,
                        struct fault *fault)
{
    char *model;
    if (!h5_load_text(reader, "model", MAX_TEXT, &model, fault)) return false;
    bool teacher = strcmp(model, "teacher") == 0;
    if (set == OF_TEACHER && !teacher)
        fault_raise(fault, EXIT_CODE_INPUT,
                    "%s: its pictures are of model \"%s\": run sample with sample.model = \"teacher\"",
                    h5_path(reader), model);
    else if (!teacher && strcmp(model, "routed") != 0)
        fault_raise(fault, EXIT_CODE_INPUT,
                    "%s: its pictures are of model \"%s\", whatever the router chose: run sample with "
                    "sample.model = \"routed\"",
                    h5_path(reader), model);
    else if (teacher && !evaluating->cfg->teacher)
        fault_raise(fault, EXIT_CODE_INPUT, "%s: its pictures are of the teacher, evaluate.teacher is false",
                    h5_path(reader));
    free(model);
    return fault->code == EXIT_CODE_OK;
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

static bool open_set(const struct evaluating *evaluating, const char *path, int set, struct samples *samples,
                     struct fault *fault)
{
    return h5_open(path, FILE_SAMPLES, &samples->reader, fault) &&
           check_model(evaluating, samples->reader, set, fault) &&
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
        if (!open_set(evaluating, path[set], set, samples, fault)) return false;
        snprintf(evaluating->samples_id[set], SHA256_HEX_SIZE, "%s", h5_stored_content_id(samples->reader));
    }
    evaluating->sampling = pictures->samples[OF_EXPERTS].settings;
    return !cfg->teacher_pictures ||
           check_teachers(&pictures->samples[OF_EXPERTS], &pictures->samples[OF_TEACHER], fault);
}

// ---- 1: metric networks

/* What a quantity is measured with: a published network, where the deck names its folder. */
struct source {
    const char *key, *folder;
    enum metric_network_kind kind; // where there is a folder
};

static struct source source_of(const struct evaluate_cfg *cfg, enum quantity quantity)
{
    const struct source sources[PICTURE_QUANTITIES] = {
        [QUANTITY_FRECHET] = {"inception", cfg->inception, METRIC_NETWORK_INCEPTION},
        [QUANTITY_CMMD] = {"cmmd_folder", cfg->cmmd_folder, METRIC_NETWORK_CLIP},
        [QUANTITY_CLIP_SCORE] = {"clip_folder", cfg->clip_folder, METRIC_NETWORK_CLIP},
    };
    return sources[quantity];
}

static bool check_trained(const struct pictures *pictures, const struct metric_network *network,
                          struct fault *fault)
{
    const struct evaluating *evaluating = pictures->evaluating;
    const struct clip_file *file = &network->trained;
    int64_t width = evaluating->info->embedding_width, size = file->image_size;
    if (!clip_file_check_encoder(file, evaluating->data.sentence_encoder, evaluating->cfg->data_file, fault))
        return false;
    if (file->embedding_width != width)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s reads embeddings %lld wide, %s has %lld", file->path,
                           (long long)file->embedding_width, evaluating->cfg->data_file, (long long)width);
    for (const struct samples *set = pictures->samples; set < pictures->samples + pictures->sets; set++)
        if (set->height != size || set->width != size)
            return fault_raise(fault, EXIT_CODE_INPUT,
                               "%s has pictures of %lld x %lld pixels, %s reads those of %lld a side",
                               h5_path(set->reader), (long long)set->height, (long long)set->width,
                               file->path, (long long)size);
    return pictures->size == size ||
           fault_raise(fault, EXIT_CODE_INPUT,
                       "the pictures of %s are of %lld pixels a side, %s reads those of %lld",
                       evaluating->cfg->data_file, (long long)pictures->size, file->path, (long long)size);
}

static bool open_network(struct pictures *pictures, enum quantity quantity, struct metric_network *network,
                         struct fault *fault)
{
    struct evaluating *evaluating = pictures->evaluating;
    struct source source = source_of(evaluating->cfg, quantity);
    struct backend *backend = evaluating->backend;
    if (!*source.folder)
        return metric_network_open_trained(network, backend, evaluating->tape, evaluating->cfg->clip_file,
                                           fault) &&
               check_trained(pictures, network, fault);
    bool ok = source.kind == METRIC_NETWORK_INCEPTION
                  ? metric_network_open_inception(network, backend, source.folder, fault)
                  : metric_network_open_clip(network, backend, source.folder, quantity == QUANTITY_CLIP_SCORE,
                                             fault);
    return ok || fault_prefix(fault, "evaluate.%s: ", source.key);
}

/* The network of a quantity, opened if no other one has it already; one whose texts are read is opened
 * first. */
static bool choose_network(struct pictures *pictures, enum quantity quantity, struct fault *fault)
{
    const struct evaluate_cfg *cfg = pictures->evaluating->cfg;
    struct source source = source_of(cfg, quantity);
    const char *path = *source.folder ? source.folder : cfg->clip_file;
    enum metric_network_kind kind = *source.folder ? source.kind : METRIC_NETWORK_TRAINED;
    for (int n = 0; n < pictures->networks; n++)
        if (pictures->network[n].kind == kind && strcmp(pictures->network[n].path, path) == 0) {
            pictures->network_of[quantity] = n;
            return true;
        }
    if (!*source.folder && access(path, F_OK) != 0) {
        log_info(pictures->evaluating->run->log,
                 "%s is left out: evaluate.%s names no network, and there is no %s", quantity_name(quantity),
                 source.key, path);
        return true;
    }
    int n = pictures->networks++;
    pictures->network_of[quantity] = n;
    pictures->cache_name[n] = *source.folder ? source.key : "trained";
    return open_network(pictures, quantity, &pictures->network[n], fault);
}

static bool open_networks(struct pictures *pictures, struct fault *fault)
{
    static const enum quantity order[PICTURE_QUANTITIES] = {QUANTITY_CLIP_SCORE, QUANTITY_FRECHET,
                                                            QUANTITY_CMMD};
    for (int q = 0; q < PICTURE_QUANTITIES; q++) pictures->network_of[q] = -1;
    for (int i = 0; i < PICTURE_QUANTITIES; i++) {
        enum quantity q = order[i];
        if (!choose_network(pictures, q, fault)) return false;
        int n = pictures->network_of[q];
        if (n < 0) continue;
        const struct metric_network *network = &pictures->network[n];
        struct measured_with *with = &pictures->evaluating->measured_with[q];
        with->kind = metric_network_kind_name(network->kind);
        with->path = network->path;
        with->width = network->width;
        memcpy(with->id, network->id, sizeof with->id);
    }
    int64_t width = pictures->evaluating->measured_with[QUANTITY_FRECHET].width;
    return width <= FRECHET_MAX_FEATURES ||
           fault_raise(fault, EXIT_CODE_INPUT, "%s makes %lld features, at most %d allowed",
                       pictures->evaluating->measured_with[QUANTITY_FRECHET].path, (long long)width,
                       FRECHET_MAX_FEATURES);
}

// ---- 1: real pictures

static int64_t *none(int64_t count)
{
    int64_t *row = check_malloc((size_t)count * sizeof *row);
    for (int64_t i = 0; i < count; i++) row[i] = -1;
    return row;
}

/* Room for `most` items of a split. */
static struct real_set set_new(struct dataset *dataset, const char *split, int64_t most)
{
    return (struct real_set){
        .dataset = dataset, .split = split, .item = check_malloc((size_t)most * sizeof(int64_t))};
}

/* The places of a split's items in the source of pictures; NULL: they are decoded from their latents. */
static bool find_files(const struct pictures *pictures, const char *split, int64_t items, int64_t **file,
                       struct fault *fault)
{
    *file = NULL;
    if (!pictures->files) return true;
    *file = check_malloc((size_t)items * sizeof **file);
    return real_pictures_find(pictures->files, pictures->data, split, items, *file, fault);
}

/* Every item that there are generated pictures of. */
static bool choose_real(struct pictures *pictures, struct fault *fault)
{
    const struct evaluating *evaluating = pictures->evaluating;
    int64_t N = evaluating->info->items;
    struct real_set *real = &pictures->real;
    pictures->real_row = none(N);
    *real = set_new(evaluating->dataset, evaluate_split_name(evaluating->cfg->split), N);
    for (const struct samples *set = pictures->samples; set < pictures->samples + pictures->sets; set++)
        for (int64_t s = 0; s < set->S; s++) pictures->real_row[set->item[s]] = 0;
    for (int64_t i = 0; i < N; i++) {
        if (pictures->real_row[i] < 0) continue;
        pictures->real_row[i] = real->count;
        real->item[real->count++] = i;
    }
    return find_files(pictures, real->split, N, &real->file, fault);
}

/* The items of the other split that go to expert k and have a picture; *count of them. The caller frees. */
static int64_t *candidates(const struct pictures *pictures, const struct assignment *others, int64_t k,
                           int64_t *count)
{
    int64_t *item = assignment_items(others, k);
    const int64_t *file = pictures->others.file;
    *count = 0;
    for (int64_t i = 0; i < others->count[k]; i++)
        if (!file || file[item[i]] >= 0) item[(*count)++] = item[i];
    return item;
}

/* Gives each item of which there are samples a partner: a real picture of the other split that the router
 * sends to the same expert, spread evenly over those, each used once. */
static void choose_partners(struct pictures *pictures, const struct assignment *others)
{
    const struct evaluating *evaluating = pictures->evaluating;
    const struct assignment *mine = &evaluating->assignment;
    struct real_set *set = &pictures->others;
    for (int64_t k = 0; k < evaluating->K; k++) {
        int64_t wanted = 0, place = 0, last = -1, count;
        for (int64_t i = 0; i < mine->prompts; i++)
            wanted += pictures->real_row[i] >= 0 && mine->expert[i] == k;
        int64_t *candidate = candidates(pictures, others, k, &count);
        for (int64_t i = 0; i < mine->prompts && count > 0; i++) {
            if (pictures->real_row[i] < 0 || mine->expert[i] != k) continue;
            int64_t at = place++ * count / wanted;
            if (at == last) continue; // fewer candidates than items
            last = at;
            pictures->others_row[i] = set->count;
            set->item[set->count++] = candidate[at];
        }
        free(candidate);
    }
}

static bool find_partners(struct pictures *pictures, struct fault *fault)
{
    struct evaluating *evaluating = pictures->evaluating;
    const struct evaluate_cfg *cfg = evaluating->cfg;
    int64_t N = evaluating->info->items;
    const char *other =
        evaluate_split_name(cfg->split == EVALUATE_TRAIN ? EVALUATE_VALIDATION : EVALUATE_TRAIN);
    pictures->others_row = none(N);
    if (!h5_exists(pictures->data, other)) return true; // nothing was held out
    struct assignment others;
    if (!dataset_open(cfg->data_file, other, &evaluating->text, &pictures->other, fault)) return false;
    int64_t items = dataset_info(pictures->other)->items;
    pictures->others = set_new(pictures->other, other, N);
    if (!find_files(pictures, other, items, &pictures->others.file, fault) ||
        !assignment_read(cfg->assignment_file, other, items, &evaluating->routing, &evaluating->data, &others,
                         fault))
        return false;
    choose_partners(pictures, &others);
    assignment_clear(&others);
    if (pictures->others.count == 0 && pictures->files)
        log_info(evaluating->run->log,
                 "%s has no picture of the split %s: there are no real pictures in the generated ones' place",
                 cfg->pictures_source, other);
    return true;
}

static bool open_real(struct pictures *pictures, struct fault *fault)
{
    const struct evaluating *evaluating = pictures->evaluating;
    const struct evaluate_cfg *cfg = evaluating->cfg;
    return h5_open(cfg->data_file, FILE_DATA, &pictures->data, fault) &&
           (!*cfg->pictures_source || real_pictures_open(cfg->pictures_source, (int)pictures->size,
                                                         cfg->max_pixels, &pictures->files, fault)) &&
           choose_real(pictures, fault) && find_partners(pictures, fault);
}

/* Pictures are compared at the size of the training's. */
static bool choose_size(struct pictures *pictures, struct fault *fault)
{
    const struct evaluating *evaluating = pictures->evaluating;
    const struct dataset_info *info = evaluating->info;
    int64_t patch = latent_patch(evaluating->data.latent.kind);
    pictures->size = info->height * patch;
    if (info->height != info->width)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: latents of %lld x %lld, only squares are evaluated",
                           evaluating->cfg->data_file, (long long)info->height, (long long)info->width);
    for (const struct samples *set = pictures->samples; set < pictures->samples + pictures->sets; set++)
        if (set->height != pictures->size || set->width != pictures->size)
            log_info(evaluating->run->log, "%s: pictures of %lld x %lld pixels are brought to %lld a side",
                     h5_path(set->reader), (long long)set->height, (long long)set->width,
                     (long long)pictures->size);
    return true;
}

// ---- all of it

static void warn_of_few(const struct pictures *pictures)
{
    const struct evaluating *evaluating = pictures->evaluating;
    const struct log *log = evaluating->run->log;
    int64_t F = evaluating->measured_with[QUANTITY_FRECHET].width;
    for (int64_t row = 0; row < evaluating->M; row++) {
        char name[ROW_NAME_SIZE];
        int64_t count = evaluating->pictures[row];
        if (row == row_of_teacher(evaluating) && count == 0) continue; // not asked for
        row_name(evaluating, row, name);
        if (count < LEAST_FOR_INTERVAL)
            log_info(log, "%s: %lld pictures; a Frechet distance needs %d, an interval %d", name,
                     (long long)count, LEAST_FOR_FRECHET, LEAST_FOR_INTERVAL);
        else if (count <= F)
            log_info(log,
                     "%s: %lld pictures of %lld features: their covariance is singular, and the Frechet "
                     "distance far above that of many pictures; compare it at equal numbers alone",
                     name, (long long)count, (long long)F);
    }
}

static void set_clear(struct real_set *set)
{
    free(set->item);
    free(set->file);
    free(set->broken);
}

static void pictures_clear(struct pictures *pictures)
{
    for (int n = 0; n < pictures->networks; n++) {
        struct network_features *features = &pictures->features[n];
        free(features->real);
        free(features->captions);
        free(features->others);
        for (int set = 0; set < SAMPLES; set++) free(features->generated[set]);
        metric_network_close(&pictures->network[n]);
    }
    for (int set = 0; set < pictures->sets; set++) {
        h5_close(pictures->samples[set].reader);
        free(pictures->samples[set].expert);
        free(pictures->samples[set].item);
    }
    set_clear(&pictures->real);
    set_clear(&pictures->others);
    free(pictures->real_row);
    free(pictures->others_row);
    dataset_close(pictures->other);
    real_pictures_close(pictures->files);
    h5_close(pictures->data);
}

/* Of what every rank holds, and of the largest piece of work; planned, not measured. */
static void report_memory(const struct pictures *pictures)
{
    const struct evaluating *evaluating = pictures->evaluating;
    double held = 0, work = 0;
    for (int n = 0; n < pictures->networks; n++) {
        double F = (double)pictures->network[n].width, most = (double)pictures->real.count, rows = 0;
        for (int set = 0; set < pictures->sets; set++) rows += (double)pictures->samples[set].S;
        work = fmax(work, (rows + most) * F * sizeof(double));
        rows += most + (double)pictures->others.count;
        if (pictures->network_of[QUANTITY_CLIP_SCORE] == n) rows += most;
        held += rows * F * sizeof(float);
    }
    log_info(evaluating->run->log, "features: %.1f MiB a rank, and %.1f MiB while a quantity is found",
             held / 0x1p20, work / 0x1p20);
}

static bool find_all(struct pictures *pictures, struct fault *fault)
{
    struct evaluating *evaluating = pictures->evaluating;
    const struct run *run = evaluating->run;
    if (open_samples(pictures, fault) && choose_size(pictures, fault) && open_networks(pictures, fault)) // 1
        open_real(pictures, fault);
    if (!comm_agree(run->comm, fault)) return false;
    if (run->check_only) {
        report_memory(pictures);
        return true;
    }
    timer_start(run->timers, "features");
    bool ok = evaluate_features(pictures, fault); // 2
    timer_stop(run->timers, "features");
    if (!ok) return false;
    timer_start(run->timers, "quantities");
    evaluate_quantities(pictures); // 3
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
