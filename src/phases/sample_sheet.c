#include "phases/sample_sheet.h"

#include "base/check.h"
#include "base/random.h"
#include "io/hdf5_file.h"
#include "phases/contact_sheet.h"
#include "train/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 4, ZOOM = 2, MAX_CAPTION_BYTES = 1 << 28 };

struct sample_sheet {
    struct sample_sheet_settings settings;
    struct latent_form form;
    struct dataset_info info;
    int64_t prompts;
    float *real;        // [prompts, H, W, C] latents of the data set
    float *text_states; // [2 prompts, T, D]: the empty prompt's first
    float *text_mask;   // [2 prompts, T]
};

/* Where a prompt stands among the captions of a split, or -1. */
static bool find_items(const char *data_file, const char *split, const struct string_list *prompts,
                       int64_t *item, struct fault *fault)
{
    struct h5_reader *reader;
    if (!h5_open(data_file, FILE_DATA, &reader, fault)) return false;
    char name[64];
    snprintf(name, sizeof name, "%s/caption", split);
    struct h5_info info;
    struct h5_strings captions;
    bool ok = h5_expect(reader, name, 1, (int64_t[]){-1}, &info, fault) &&
              h5_read_strings(reader, name, 0, info.shape[0], MAX_CAPTION_BYTES, &captions, fault);
    h5_close(reader);
    if (!ok) return false;
    for (int p = 0; p < prompts->count; p++) {
        item[p] = -1;
        for (int64_t i = 0; i < captions.count && item[p] < 0; i++)
            if (strcmp(captions.item[i], prompts->value[p]) == 0) item[p] = i;
    }
    h5_strings_free(&captions);
    return true;
}

/* Whether the data file has such a split: it has no validation if nothing was held out. */
static bool has_split(const char *data_file, const char *split, bool *has, struct fault *fault)
{
    struct h5_reader *reader;
    if (!h5_open(data_file, FILE_DATA, &reader, fault)) return false;
    *has = h5_exists(reader, split);
    h5_close(reader);
    return true;
}

/* Reads the prompts that a split has into their rows; found[p] becomes true. */
static bool read_split(struct sample_sheet *sheet, const char *data_file, const char *split, bool *found,
                       struct fault *fault)
{
    const struct string_list *prompts = &sheet->settings.prompts;
    struct dataset *dataset;
    bool has;
    if (!has_split(data_file, split, &has, fault)) return false;
    if (!has) return true;
    if (!dataset_open(data_file, split, sheet->settings.text_encoder, &dataset, fault)) return false;
    sheet->info = *dataset_info(dataset);
    const struct dataset_info *info = &sheet->info;
    size_t latent = (size_t)(info->height * info->width * info->channels),
           states = (size_t)(info->tokens * info->text_width), tokens = (size_t)info->tokens,
           count = (size_t)sheet->prompts;
    if (!sheet->real) {
        sheet->real = check_calloc(count * latent, sizeof(float));
        sheet->text_states = check_calloc(2 * count * states, sizeof(float));
        sheet->text_mask = check_calloc(2 * count * tokens, sizeof(float));
    }
    int64_t *item = check_malloc(count * sizeof *item);
    bool ok = find_items(data_file, split, prompts, item, fault);
    for (size_t p = 0; ok && p < count; p++) {
        if (found[p] || item[p] < 0) continue;
        struct batch batch; // the item with its own prompt, and with the empty one
        dataset_ask(dataset, 2, (int64_t[]){item[p], item[p]}, (int[]){0, 0}, (bool[]){true, false});
        ok = dataset_take(dataset, &batch, fault);
        if (!ok) break;
        memcpy(sheet->real + p * latent, batch.latents, latent * sizeof(float));
        for (size_t half = 0; half < 2; half++) {
            memcpy(sheet->text_states + (half * count + p) * states, batch.text_states + half * states,
                   states * sizeof(float));
            memcpy(sheet->text_mask + (half * count + p) * tokens, batch.text_mask + half * tokens,
                   tokens * sizeof(float));
        }
        found[p] = true;
    }
    free(item);
    dataset_close(dataset);
    return ok;
}

bool sample_sheet_open(const char *data_file, const struct latent_form *form,
                       const struct sample_sheet_settings *settings, struct sample_sheet **sheet,
                       struct fault *fault)
{
    struct sample_sheet *opened = check_calloc(1, sizeof *opened);
    opened->settings = *settings;
    opened->form = *form;
    opened->prompts = settings->prompts.count;
    bool *found = check_calloc((size_t)opened->prompts, sizeof *found);
    bool ok = read_split(opened, data_file, "train", found, fault) &&
              read_split(opened, data_file, "validation", found, fault);
    for (int64_t p = 0; ok && p < opened->prompts; p++)
        if (!found[p])
            ok = fault_raise(fault, EXIT_CODE_DECK, "pretrain.sample_prompts: \"%s\" is no caption of %s",
                             settings->prompts.value[p], data_file);
    free(found);
    if (ok)
        *sheet = opened;
    else
        sample_sheet_delete(opened);
    return ok;
}

void sample_sheet_delete(struct sample_sheet *sheet)
{
    if (!sheet) return;
    free(sheet->real);
    free(sheet->text_states);
    free(sheet->text_mask);
    free(sheet);
}

/* Decodes the latents of every prompt into a column; `tile` has room for a picture. */
static void put_column(struct contact_sheet *canvas, const struct sample_sheet *sheet, const float *latents,
                       int column, uint8_t *tile)
{
    int height = (int)sheet->info.height, width = (int)sheet->info.width;
    int64_t size = (int64_t)height * width * sheet->info.channels;
    for (int64_t p = 0; p < sheet->prompts; p++) {
        latent_decode(&sheet->form, height, width, latents + p * size, tile);
        contact_sheet_put(canvas, (int)p, column, tile);
    }
}

bool sample_sheet_draw(struct sample_sheet *sheet, enum dtype dtype, const struct unet *unet,
                       const struct noise_schedule *schedule, const char *path, struct fault *fault)
{
    const struct dataset_info *info = &sheet->info;
    int64_t size = info->height * info->width * info->channels;
    int patch = latent_patch(sheet->form.kind), height = (int)info->height * patch,
        width = (int)info->width * patch;
    struct contact_sheet canvas = contact_sheet_new((int)sheet->prompts, 1 + SAMPLES, height, width, ZOOM);
    uint8_t *tile = check_malloc((size_t)height * (size_t)width * 3);
    float *latents = check_malloc((size_t)(sheet->prompts * size) * sizeof *latents);
    struct guided_sampling sampling = {.unet = unet,
                                       .schedule = schedule,
                                       .sampler = SAMPLER_PNDM,
                                       .steps = sheet->settings.steps,
                                       .guidance = sheet->settings.guidance};
    struct guided_sampler *sampler = guided_sampler_new(&sampling, dtype);
    put_column(&canvas, sheet, sheet->real, 0, tile);
    for (int sample = 0; sample < SAMPLES; sample++) {
        for (int64_t p = 0; p < sheet->prompts; p++)
            random_normal(
                (struct random_key){sheet->settings.seed, RANDOM_SAMPLING, (uint64_t)sample, (uint64_t)p},
                (uint64_t)size, latents + p * size);
        struct guided_batch batch = {.count = sheet->prompts,
                                     .height = info->height,
                                     .width = info->width,
                                     .tokens = info->tokens,
                                     .latents = latents,
                                     .text_states = sheet->text_states,
                                     .text_mask = sheet->text_mask};
        guided_sampler_run(sampler, &batch, NULL, NULL);
        put_column(&canvas, sheet, latents, sample + 1, tile);
    }
    bool ok = contact_sheet_write(&canvas, path, fault);
    guided_sampler_delete(sampler);
    contact_sheet_clear(&canvas);
    free(tile);
    free(latents);
    return ok;
}
