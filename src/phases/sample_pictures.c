#include "phases/sample_pictures.h"

#include "base/check.h"
#include "base/random.h"
#include "io/image.h"
#include "phases/contact_sheet.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXPERT_TEXT_SIZE = 32, SHEET_PICTURES = 200, SHEET_COLUMNS = 16, SHEET_PIXELS = 1 << 25 };

static const char *const model_names[] = {"routed", "teacher", "expert"};
static const char *const experts_names[] = {"finetuned", "sliced"};

void sample_pictures_clear(struct sample_pictures *pictures)
{
    for (int i = 0; i < pictures->networks; i++) free(pictures->network[i]);
    free(pictures->network);
    free(pictures->expert);
    free(pictures->pipeline);
    *pictures = (struct sample_pictures){0};
}

static int64_t prompt_of(const struct sample_pictures *pictures, int64_t picture)
{
    return picture / pictures->cfg->images;
}

static int64_t index_of(const struct sample_pictures *pictures, int64_t picture)
{
    return picture % pictures->cfg->images;
}

static const char *text_of(const struct sample_pictures *pictures, int64_t picture)
{
    return pictures->prompts->text.item[prompt_of(pictures, picture)];
}

int sample_picture_expert(const struct sample_pictures *pictures, int64_t picture)
{
    return pictures->expert[prompt_of(pictures, picture)];
}

struct random_key sample_picture_noise(const struct sample_pictures *pictures, int64_t picture)
{
    const char *text = text_of(pictures, picture);
    return (struct random_key){(uint64_t)pictures->cfg->run.seed, RANDOM_SAMPLING,
                               (uint64_t)index_of(pictures, picture), sha256_number(text, strlen(text))};
}

// ---- one picture

/* "expert2", "teacher" */
static const char *maker_text(int expert, char text[EXPERT_TEXT_SIZE])
{
    if (expert < 0)
        snprintf(text, EXPERT_TEXT_SIZE, "teacher");
    else
        snprintf(text, EXPERT_TEXT_SIZE, "expert%d", expert);
    return text;
}

char *sample_pictures_folder(const struct sample_pictures *pictures)
{
    return check_format("%s/samples", pictures->cfg->run.folder);
}

char *sample_picture_path(const struct sample_pictures *pictures, int64_t picture)
{
    char maker[EXPERT_TEXT_SIZE];
    return check_format("%s/samples/%05" PRId64 "_%" PRId64 "_%s.png", pictures->cfg->run.folder,
                        pictures->prompts->item[prompt_of(pictures, picture)], index_of(pictures, picture),
                        maker_text(sample_picture_expert(pictures, picture), maker));
}

/* All that a picture depends on, in words. The caller frees it. */
static char *settings_text(const struct sample_pictures *pictures)
{
    const struct sample_cfg *cfg = pictures->cfg;
    return check_format("%s, %" PRId64 " steps, guidance %.17g, %" PRId64 " x %" PRId64 " latents, %" PRId64
                        " tokens, %s%s%s",
                        sampler_name(cfg->sampler), cfg->steps, cfg->guidance, pictures->latents[0],
                        pictures->latents[1], pictures->prompts->tokens, dtype_name(pictures->dtype),
                        pictures->pipeline ? ", " : "", pictures->pipeline ? pictures->pipeline : "");
}

/* The SHA-256 of all that a picture depends on. */
static void find_identity(const struct sample_pictures *pictures, int64_t picture, char hex[SHA256_HEX_SIZE])
{
    const struct sample_cfg *cfg = pictures->cfg;
    const char *network = pictures->network[sample_picture_expert(pictures, picture) + 1];
    char *settings = settings_text(pictures);
    char *numbers = check_format("%" PRId64 " %" PRId64, cfg->run.seed, index_of(pictures, picture));
    const char *texts[] = {network, settings, numbers, cfg->negative_prompt, text_of(pictures, picture)};
    struct sha256 *hash = sha256_new();
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        sha256_add(hash, texts[i], strlen(texts[i]) + 1); // each with its closing zero
    sha256_finish(hash, hex);
    free(settings);
    free(numbers);
}

#define IDENTITY_KEY "made from"

/* Reads a picture that was made from what this run would make it from; a fault if there is none. */
static bool read_picture(const struct sample_pictures *pictures, int64_t picture, struct image *image,
                         struct fault *fault)
{
    char identity[SHA256_HEX_SIZE], *then, *path = sample_picture_path(pictures, picture);
    int64_t pixels = (int64_t)pictures->height * pictures->width;
    bool ok = image_read_png(path, pixels, IDENTITY_KEY, image, &then, fault);
    if (ok) {
        find_identity(pictures, picture, identity);
        ok = strcmp(identity, then) == 0 && image->height == pictures->height &&
             image->width == pictures->width;
        if (!ok) {
            image_free(image);
            fault_raise(fault, EXIT_CODE_INPUT, "%s is a picture of another run, or was changed", path);
        }
        free(then);
    }
    free(path);
    return ok;
}

bool sample_picture_is_done(const struct sample_pictures *pictures, int64_t picture)
{
    struct fault ignored = {0}; // a picture that cannot be used is made anew
    struct image image;
    char *path = sample_picture_path(pictures, picture);
    bool done = access(path, F_OK) == 0 && read_picture(pictures, picture, &image, &ignored);
    if (done) image_free(&image);
    free(path);
    return done;
}

bool sample_picture_write(const struct sample_pictures *pictures, int64_t picture, const uint8_t *rgb,
                          struct fault *fault)
{
    const struct sample_cfg *cfg = pictures->cfg;
    int expert = sample_picture_expert(pictures, picture);
    char seed[24], index[24], maker[EXPERT_TEXT_SIZE], identity[SHA256_HEX_SIZE];
    snprintf(seed, sizeof seed, "%" PRId64, cfg->run.seed);
    snprintf(index, sizeof index, "%" PRId64, index_of(pictures, picture));
    if (expert < 0)
        maker_text(expert, maker);
    else
        snprintf(maker, sizeof maker, "%d", expert);
    find_identity(pictures, picture, identity);
    char *settings = settings_text(pictures), *path = sample_picture_path(pictures, picture);
    const struct image_text text[] = {{"prompt", text_of(pictures, picture)},
                                      {"negative prompt", cfg->negative_prompt},
                                      {"seed", seed},
                                      {"index", index},
                                      {"expert", maker},
                                      {"settings", settings},
                                      {IDENTITY_KEY, identity}};
    bool ok = image_write_png(path, pictures->height, pictures->width, rgb, text, sizeof text / sizeof *text,
                              fault);
    free(settings);
    free(path);
    return ok;
}

// ---- all of them

/* The columns of samples.h5 beside the pixels. */
static bool write_columns(const struct sample_pictures *pictures, struct h5_writer *writer,
                          struct fault *fault)
{
    const struct sample_prompts *prompts = pictures->prompts;
    int64_t count = pictures->count;
    size_t size = (size_t)count;
    const char **prompt = check_malloc(size * sizeof *prompt), **group = check_malloc(size * sizeof *group);
    int32_t *expert = check_malloc(size * sizeof *expert);
    int64_t *seed = check_malloc(size * sizeof *seed), *index = check_malloc(size * sizeof *index),
            *item = check_malloc(size * sizeof *item);
    bool grouped = prompts->group.count > 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t p = prompt_of(pictures, i);
        prompt[i] = prompts->text.item[p];
        if (grouped) group[i] = prompts->group.item[p];
        expert[i] = pictures->expert[p];
        seed[i] = pictures->cfg->run.seed;
        index[i] = index_of(pictures, i);
        item[i] = prompts->item[p];
    }
    bool ok = h5_write_strings(writer, "prompt", 1, &count, prompt, fault) &&
              (!grouped || h5_write_strings(writer, "group", 1, &count, group, fault)) &&
              h5_write_int32(writer, "expert", 1, &count, expert, fault) &&
              h5_write_int64(writer, "seed", 1, &count, seed, fault) &&
              h5_write_int64(writer, "index", 1, &count, index, fault) &&
              h5_write_int64(writer, "item", 1, &count, item, fault);
    free(prompt);
    free(group);
    free(expert);
    free(seed);
    free(index);
    free(item);
    return ok;
}

static bool write_settings(const struct sample_pictures *pictures, struct h5_writer *writer,
                           struct fault *fault)
{
    const struct sample_cfg *cfg = pictures->cfg;
    int64_t two = 2;
    return h5_write_text(writer, "split", cfg->split, fault) &&
           h5_write_text(writer, "model", model_names[cfg->model], fault) &&
           h5_write_text(writer, "experts", cfg->model == SAMPLE_TEACHER ? "" : experts_names[cfg->experts],
                         fault) &&
           h5_write_text(writer, "settings/sampler", sampler_name(cfg->sampler), fault) &&
           h5_write_one_int64(writer, "settings/steps", cfg->steps, fault) &&
           h5_write_one_double(writer, "settings/guidance", cfg->guidance, fault) &&
           h5_write_text(writer, "settings/negative_prompt", cfg->negative_prompt, fault) &&
           h5_write_int64(writer, "settings/latents", 1, &two, pictures->latents, fault);
}

/* As many as the sheet may have: a row a prompt if each has several, else filled row by row. */
static struct contact_sheet sheet_of(const struct sample_pictures *pictures)
{
    int64_t most = SHEET_PIXELS / ((int64_t)pictures->height * pictures->width);
    if (most > SHEET_PICTURES) most = SHEET_PICTURES;
    if (most > pictures->count) most = pictures->count;
    if (most < 1) most = 1;
    int64_t images = pictures->cfg->images, columns = images > 1 ? images : SHEET_COLUMNS;
    if (columns > most) columns = most;
    int zoom = pictures->height <= 64 && pictures->width <= 64 ? 2 : 1;
    return contact_sheet_new((int)((most + columns - 1) / columns), (int)columns, pictures->height,
                             pictures->width, zoom);
}

/* "run/samples.png" for "run/samples.h5": so the teacher's sheet does not take the place of the experts'. The
 * caller frees it. */
static char *sheet_path(const char *samples_file)
{
    size_t length = strlen(samples_file);
    if (length > 3 && strcmp(samples_file + length - 3, ".h5") == 0) length -= 3;
    return check_format("%.*s.png", (int)length, samples_file);
}

/* Reads the pictures, one at a time, into the rows of pixels and onto the sheet. */
static bool copy_pictures(const struct sample_pictures *pictures, struct h5_rows *rows,
                          struct contact_sheet *sheet, struct fault *fault)
{
    for (int64_t i = 0; i < pictures->count; i++) {
        struct image image;
        if (!read_picture(pictures, i, &image, fault)) return false;
        bool ok = h5_append_uint8(rows, 1, image.rgb, fault);
        if (i < (int64_t)sheet->rows * sheet->columns)
            contact_sheet_put(sheet, (int)(i / sheet->columns), (int)(i % sheet->columns), image.rgb);
        image_free(&image);
        if (!ok) return false;
    }
    return true;
}

static bool write_samples(const struct sample_pictures *pictures, struct h5_writer *writer,
                          struct contact_sheet *sheet, struct fault *fault)
{
    struct h5_rows *rows;
    int64_t shape[] = {0, pictures->height, pictures->width, 3};
    return write_columns(pictures, writer, fault) && write_settings(pictures, writer, fault) &&
           h5_rows_create(writer, "pixels", H5_UINT8, 4, shape, 0, 0, &rows, fault) &&
           copy_pictures(pictures, rows, sheet, fault);
}

bool sample_pictures_collect(const struct sample_pictures *pictures, const struct h5_provenance *provenance,
                             struct fault *fault)
{
    struct h5_writer *writer;
    if (!h5_create(pictures->cfg->samples_file, FILE_SAMPLES, &writer, fault)) return false;
    struct contact_sheet sheet = sheet_of(pictures);
    char *path = sheet_path(pictures->cfg->samples_file);
    bool ok = write_samples(pictures, writer, &sheet, fault) && contact_sheet_write(&sheet, path, fault);
    if (ok)
        ok = h5_finish(writer, provenance, NULL, fault);
    else
        h5_abandon(writer);
    contact_sheet_clear(&sheet);
    free(path);
    return ok;
}
