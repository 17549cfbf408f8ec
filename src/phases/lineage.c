#include "phases/lineage.h"

#include "base/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TEXT = 4096 };

/* Factors are measured on the pictures: a newer font, or a few pictures more, change them a little, which a
 * network does not notice; another normalisation changes them a lot. */
static const double scale_tolerance = 0.01;

static bool read_latent_form(struct h5_reader *reader, struct latent_form *form, struct fault *fault)
{
    char *kind;
    if (!h5_load_text(reader, "latent/kind", MAX_TEXT, &kind, fault)) return false;
    bool known = latent_kind_find(kind, &form->kind);
    if (!known)
        fault_raise(fault, EXIT_CODE_INPUT, "%s: latents of kind \"%s\" are not supported", h5_path(reader),
                    kind);
    free(kind);
    if (!known) return false;
    int64_t channels = latent_channels(form->kind);
    double *scale;
    if (!h5_load_double(reader, "latent/scale", 1, &channels, channels, &scale, NULL, fault)) return false;
    bool positive = true;
    for (int64_t c = 0; c < channels; c++) {
        form->scale[c] = scale[c];
        positive = positive && scale[c] > 0 && scale[c] < 1e6;
    }
    free(scale);
    return positive || fault_raise(fault, EXIT_CODE_INPUT,
                                   "%s: latent/scale has a factor that is not in (0, 1e6)", h5_path(reader));
}

static bool read_vae(struct h5_reader *reader, struct lineage *lineage, struct fault *fault)
{
    if (lineage->latent.kind != LATENT_VAE) return true;
    char *id;
    if (!h5_load_text(reader, "latent/vae", SHA256_HEX_SIZE - 1, &id, fault)) return false;
    snprintf(lineage->vae, sizeof lineage->vae, "%s", id);
    free(id);
    return true;
}

bool lineage_read(struct h5_reader *reader, struct lineage *lineage, struct fault *fault)
{
    *lineage = (struct lineage){0};
    bool ok = read_latent_form(reader, &lineage->latent, fault) && read_vae(reader, lineage, fault) &&
              h5_load_text(reader, "encoder/text", MAX_TEXT, &lineage->text_encoder, fault);
    if (ok && h5_exists(reader, "encoder/sentence"))
        ok = h5_load_text(reader, "encoder/sentence", MAX_TEXT, &lineage->sentence_encoder, fault);
    if (!ok) {
        lineage_clear(lineage);
        return false;
    }
    if (!lineage->sentence_encoder) lineage->sentence_encoder = check_strdup("");
    const char *id = h5_stored_content_id(reader);
    memcpy(lineage->content_id, id,
           strlen(id) < sizeof lineage->content_id ? strlen(id) : sizeof lineage->content_id - 1);
    return true;
}

struct lineage lineage_copy(const struct lineage *lineage)
{
    struct lineage copy = *lineage;
    copy.text_encoder = check_strdup(lineage->text_encoder);
    copy.sentence_encoder = check_strdup(lineage->sentence_encoder);
    return copy;
}

bool lineage_open(const char *path, enum file_kind kind, struct lineage *lineage, struct fault *fault)
{
    struct h5_reader *reader;
    if (!h5_open(path, kind, &reader, fault)) return false;
    bool ok = lineage_read(reader, lineage, fault);
    h5_close(reader);
    return ok;
}

void lineage_clear(struct lineage *lineage)
{
    free(lineage->text_encoder);
    free(lineage->sentence_encoder);
    *lineage = (struct lineage){0};
}

bool lineage_write(const struct lineage *lineage, enum file_kind kind, struct h5_writer *writer,
                   struct fault *fault)
{
    int64_t channels = latent_channels(lineage->latent.kind);
    return h5_write_text(writer, "latent/kind", latent_kind_name(lineage->latent.kind), fault) &&
           h5_write_double(writer, "latent/scale", 1, &channels, lineage->latent.scale, fault) &&
           (lineage->latent.kind != LATENT_VAE || h5_write_text(writer, "latent/vae", lineage->vae, fault)) &&
           h5_write_text(writer, "encoder/text", lineage->text_encoder, fault) &&
           (kind == FILE_TEACHER || kind == FILE_EXPERT ||
            h5_write_text(writer, "encoder/sentence", lineage->sentence_encoder, fault));
}

bool lineage_check(const struct lineage *a, const char *a_name, const struct lineage *b, const char *b_name,
                   struct fault *fault)
{
    if (a->latent.kind != b->latent.kind)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s has %s latents, %s has %s latents: they do not belong together", a_name,
                           latent_kind_name(a->latent.kind), b_name, latent_kind_name(b->latent.kind));
    for (int c = 0; c < latent_channels(a->latent.kind); c++)
        if (fabs(a->latent.scale[c] / b->latent.scale[c] - 1) > scale_tolerance)
            return fault_raise(
                fault, EXIT_CODE_INPUT,
                "latent channel %d is scaled by %.6g in %s and by %.6g in %s, which is more than "
                "%g %% apart: they do not belong together",
                c, a->latent.scale[c], a_name, b->latent.scale[c], b_name, 100 * scale_tolerance);
    if (strcmp(a->vae, b->vae) != 0)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s and %s belong to different VAEs (%.12s, %.12s)",
                           a_name, b_name, a->vae, b->vae);
    if (strcmp(a->text_encoder, b->text_encoder) != 0)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s and %s belong to different text encoders (%.12s, %.12s)", a_name, b_name,
                           a->text_encoder, b->text_encoder);
    if (a->sentence_encoder[0] && b->sentence_encoder[0] &&
        strcmp(a->sentence_encoder, b->sentence_encoder) != 0)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s and %s belong to different sentence encoders (%.12s, %.12s)", a_name, b_name,
                           a->sentence_encoder, b->sentence_encoder);
    return true;
}

bool lineage_check_pictures(const struct lineage *lineage, const char *name, const char *instead,
                            struct fault *fault)
{
    return lineage->latent.kind != LATENT_VAE ||
           fault_raise(fault, EXIT_CODE_INPUT,
                       "%s has latents of a VAE, which this phase does not turn into pictures: %s", name,
                       instead);
}
