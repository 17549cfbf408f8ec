#include "train/dataset.h"

#include "base/check.h"
#include "io/hdf5_file.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE = 128 };

struct dataset {
    struct h5_reader *reader;
    struct dataset_info info;
    char split[32];

    // one request: written by the caller while no thread runs, by the thread while it runs
    pthread_t thread;
    bool asked;
    int64_t count, capacity;
    int64_t *item;
    int *view;
    bool *drop_prompt;
    struct batch filling, taken;
    int64_t taken_capacity;
    float *planes; // [C, H, W] of one latent as the file has it
    struct fault fault;
};

static const char *dataset_name(const struct dataset *dataset, const char *what, char name[NAME_SIZE])
{
    snprintf(name, NAME_SIZE, "%s/%s", dataset->split, what);
    return name;
}

static bool describe(struct dataset *dataset, struct fault *fault)
{
    struct dataset_info *info = &dataset->info;
    struct h5_reader *reader = dataset->reader;
    struct h5_info latents, states, embeddings, ignored;
    char name[NAME_SIZE];
    if (!h5_expect(reader, dataset_name(dataset, "latents", name), 5, (int64_t[]){-1, -1, -1, -1, -1},
                   &latents, fault) ||
        !h5_expect(reader, dataset_name(dataset, "text_states", name), 3,
                   (int64_t[]){latents.shape[0], -1, -1}, &states, fault) ||
        !h5_expect(reader, dataset_name(dataset, "text_length", name), 1, (int64_t[]){latents.shape[0]},
                   &ignored, fault) ||
        !h5_expect(reader, dataset_name(dataset, "embedding", name), 2, (int64_t[]){latents.shape[0], -1},
                   &embeddings, fault) ||
        !h5_expect(reader, "empty/text_states", 2, (int64_t[]){states.shape[1], states.shape[2]}, &ignored,
                   fault) ||
        !h5_expect(reader, "empty/text_length", 1, (int64_t[]){1}, &ignored, fault) ||
        !h5_expect(reader, "empty/embedding", 1, (int64_t[]){embeddings.shape[1]}, &ignored, fault))
        return false;
    *info = (struct dataset_info){.items = latents.shape[0],
                                  .views = latents.shape[1],
                                  .channels = latents.shape[2],
                                  .height = latents.shape[3],
                                  .width = latents.shape[4],
                                  .tokens = states.shape[1],
                                  .text_width = states.shape[2],
                                  .embedding_width = embeddings.shape[1]};
    if (info->items < 1 || info->views < 1 || latents.row < 1 || states.row < 1 || embeddings.row < 1)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: %s has %lld items of %lld views: at least one of each is needed",
                           h5_path(reader), dataset->split, (long long)info->items, (long long)info->views);
    return true;
}

bool dataset_open(const char *path, const char *split, struct dataset **dataset, struct fault *fault)
{
    struct dataset *opened = check_calloc(1, sizeof *opened);
    snprintf(opened->split, sizeof opened->split, "%s", split);
    if (!h5_open(path, FILE_DATA, &opened->reader, fault) || !describe(opened, fault)) {
        dataset_close(opened);
        return false;
    }
    opened->planes = check_malloc(
        (size_t)(opened->info.views * opened->info.channels * opened->info.height * opened->info.width) *
        sizeof *opened->planes);
    *dataset = opened;
    return true;
}

static void batch_free(struct batch *batch)
{
    free(batch->latents);
    free(batch->text_states);
    free(batch->text_mask);
    free(batch->embeddings);
    *batch = (struct batch){0};
}

void dataset_close(struct dataset *dataset)
{
    if (!dataset) return;
    if (dataset->asked) pthread_join(dataset->thread, NULL);
    h5_close(dataset->reader);
    batch_free(&dataset->filling);
    batch_free(&dataset->taken);
    free(dataset->item);
    free(dataset->view);
    free(dataset->drop_prompt);
    free(dataset->planes);
    free(dataset);
}

const struct dataset_info *dataset_info(const struct dataset *dataset)
{
    return &dataset->info;
}

/* Room for `count` samples in a batch of `capacity`. */
static void batch_reserve(const struct dataset_info *info, struct batch *batch, int64_t *capacity,
                          int64_t count)
{
    batch->count = count;
    if (count <= *capacity) return;
    size_t samples = (size_t)count * sizeof(float);
    batch->latents =
        check_realloc(batch->latents, samples * (size_t)(info->height * info->width * info->channels));
    batch->text_states =
        check_realloc(batch->text_states, samples * (size_t)(info->tokens * info->text_width));
    batch->text_mask = check_realloc(batch->text_mask, samples * (size_t)info->tokens);
    batch->embeddings = check_realloc(batch->embeddings, samples * (size_t)info->embedding_width);
    *capacity = count;
}

static bool read_latent(struct dataset *dataset, int64_t item, int view, float *latent)
{
    const struct dataset_info *info = &dataset->info;
    int64_t pixels = info->height * info->width;
    char name[NAME_SIZE];
    if (!h5_read_float(dataset->reader, dataset_name(dataset, "latents", name), item, 1, dataset->planes,
                       &dataset->fault))
        return false;
    const float *planes = dataset->planes + view * info->channels * pixels; // [C, H, W]
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = 0; c < info->channels; c++) latent[p * info->channels + c] = planes[c * pixels + p];
    return true;
}

/* The text of one item, or of the empty prompt (item -1), which the file holds without an item dimension. */
static bool read_text(struct dataset *dataset, int64_t item, float *states, float *mask, float *embedding)
{
    const struct dataset_info *info = &dataset->info;
    const char *group = item < 0 ? "empty" : dataset->split;
    int64_t first = item < 0 ? 0 : item;
    char name[NAME_SIZE];
    int32_t length;
    snprintf(name, sizeof name, "%s/text_states", group);
    if (!h5_read_float(dataset->reader, name, first, item < 0 ? info->tokens : 1, states, &dataset->fault))
        return false;
    snprintf(name, sizeof name, "%s/text_length", group);
    if (!h5_read_int32(dataset->reader, name, first, 1, &length, &dataset->fault)) return false;
    if (length < 1 || length > info->tokens)
        return fault_raise(&dataset->fault, EXIT_CODE_INPUT, "%s: %s[%lld] = %d, 1..%lld allowed",
                           h5_path(dataset->reader), name, (long long)first, length, (long long)info->tokens);
    for (int64_t t = 0; t < info->tokens; t++) mask[t] = t < length;
    snprintf(name, sizeof name, "%s/embedding", group);
    return h5_read_float(dataset->reader, name, first, item < 0 ? info->embedding_width : 1, embedding,
                         &dataset->fault);
}

static void *fill(void *argument)
{
    struct dataset *dataset = argument;
    const struct dataset_info *info = &dataset->info;
    struct batch *batch = &dataset->filling;
    int64_t latent_size = info->height * info->width * info->channels,
            text_size = info->tokens * info->text_width;
    for (int64_t i = 0; i < dataset->count; i++) {
        int64_t item = dataset->item[i], text = dataset->drop_prompt[i] ? -1 : item;
        if (!read_latent(dataset, item, dataset->view[i], batch->latents + i * latent_size)) return NULL;
        if (!read_text(dataset, text, batch->text_states + i * text_size, batch->text_mask + i * info->tokens,
                       batch->embeddings + i * info->embedding_width))
            return NULL;
    }
    return NULL;
}

void dataset_ask(struct dataset *dataset, int64_t count, const int64_t *item, const int *view,
                 const bool *drop_prompt)
{
    CHECK(!dataset->asked, "a batch is asked for before the last one was taken");
    dataset->item = check_realloc(dataset->item, (size_t)count * sizeof *item);
    dataset->view = check_realloc(dataset->view, (size_t)count * sizeof *view);
    dataset->drop_prompt = check_realloc(dataset->drop_prompt, (size_t)count * sizeof *drop_prompt);
    for (int64_t i = 0; i < count; i++) {
        CHECK(item[i] >= 0 && item[i] < dataset->info.items && view[i] >= 0 && view[i] < dataset->info.views,
              "item %lld, view %d of %lld items", (long long)item[i], view[i],
              (long long)dataset->info.items);
        dataset->item[i] = item[i];
        dataset->view[i] = view[i];
        dataset->drop_prompt[i] = drop_prompt && drop_prompt[i];
    }
    dataset->count = count;
    batch_reserve(&dataset->info, &dataset->filling, &dataset->capacity, count);
    CHECK(pthread_create(&dataset->thread, NULL, fill, dataset) == 0, "cannot start the reading thread");
    dataset->asked = true;
}

bool dataset_take(struct dataset *dataset, struct batch *batch, struct fault *fault)
{
    CHECK(dataset->asked, "a batch is taken that was not asked for");
    pthread_join(dataset->thread, NULL);
    dataset->asked = false;
    if (dataset->fault.code) {
        *fault = dataset->fault;
        return false;
    }
    struct batch filled = dataset->filling;
    int64_t capacity = dataset->capacity;
    dataset->filling = dataset->taken;
    dataset->capacity = dataset->taken_capacity;
    dataset->taken = filled;
    dataset->taken_capacity = capacity;
    *batch = filled;
    return true;
}
