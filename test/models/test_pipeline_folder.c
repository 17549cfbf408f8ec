/* What a published pipeline's model_index.json may say, and what is refused by name. */
#include "base/check.h"
#include "models/pipeline_folder.h"
#include "support/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/faults.h"

static struct fault fault;
static char *folder;

static int make_folder(void **state)
{
    (void)state;
    folder = scratch_make();
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    scratch_remove(folder);
    return 0;
}

static void write_text(const char *name, const char *text)
{
    char *path = scratch_path(folder, name);
    file_write(path, text, strlen(text));
    free(path);
}

struct refusal {
    const char *text, *message;
};

#define CLASS "\"_class_name\": \"StableDiffusionPipeline\", "
#define UNET "\"unet\": [\"diffusers\", \"UNet2DConditionModel\"], "
#define VAE "\"vae\": [\"diffusers\", \"AutoencoderKL\"], "
#define TEXT "\"text_encoder\": [\"transformers\", \"CLIPTextModel\"], "
#define WORDS "\"tokenizer\": [\"transformers\", \"CLIPTokenizer\"], "
#define SCHEDULER "\"scheduler\": [\"diffusers\", \"DDIMScheduler\"]"

static void indexes(void **state)
{
    (void)state;
    write_text("model_index.json", "{" CLASS UNET VAE TEXT WORDS SCHEDULER
                                   ", \"safety_checker\": [\"stable_diffusion\", \"SafetyChecker\"], "
                                   "\"feature_extractor\": [null, null], \"image_encoder\": [null, null], "
                                   "\"requires_safety_checker\": true, \"_diffusers_version\": \"0.30\"}");
    GOOD(pipeline_check_index(folder, &fault));
    static const struct refusal cases[] = {
        {"3", "allowed an object"},
        {"{" UNET VAE TEXT WORDS SCHEDULER "}", "_class_name"},
        {"{\"_class_name\": \"StableDiffusionXLPipeline\", " UNET VAE TEXT WORDS SCHEDULER "}",
         "found \"StableDiffusionXLPipeline\", allowed is \"StableDiffusionPipeline\""},
        {"{" CLASS VAE TEXT WORDS SCHEDULER "}", "unet"},
        {"{" CLASS "\"unet\": [null, null], " VAE TEXT WORDS SCHEDULER "}", "unet"},
        {"{" CLASS "\"unet\": [\"diffusers\"], " VAE TEXT WORDS SCHEDULER "}", "unet: 1 entries"},
        {"{" CLASS "\"unet\": [\"diffusers\", \"UNet2DModel\"], " VAE TEXT WORDS SCHEDULER "}",
         "unet: UNet2DModel is not supported, only UNet2DConditionModel"},
        {"{" CLASS UNET "\"vae\": [\"diffusers\", \"AutoencoderTiny\"], " TEXT WORDS SCHEDULER "}",
         "vae: AutoencoderTiny is not supported, only AutoencoderKL"},
        {"{" CLASS UNET VAE "\"text_encoder\": [\"transformers\", \"T5EncoderModel\"], " WORDS SCHEDULER "}",
         "text_encoder: T5EncoderModel is not supported, only CLIPTextModel"},
        {"{" CLASS UNET VAE TEXT "\"tokenizer\": [\"transformers\", \"T5Tokenizer\"], " SCHEDULER "}",
         "tokenizer: T5Tokenizer is not supported, only CLIPTokenizer"},
        {"{" CLASS UNET VAE TEXT WORDS "\"scheduler\": null}", "scheduler"},
        {"{" CLASS UNET VAE TEXT WORDS SCHEDULER
         ", \"text_encoder_2\": [\"transformers\", \"CLIPTextModel\"]}",
         "text_encoder_2: this part of a pipeline is not supported"},
        {"{" CLASS UNET VAE TEXT WORDS SCHEDULER
         ", \"image_encoder\": [\"transformers\", \"CLIPVisionModelWithProjection\"]}",
         "image_encoder: this part of a pipeline is not supported"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text("model_index.json", cases[i].text);
        FAILS(pipeline_check_index(folder, &fault), EXIT_CODE_INPUT, cases[i].message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(indexes),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
