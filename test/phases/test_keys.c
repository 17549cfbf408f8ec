/* The table of keys: defaults (METHOD's), filling, what is refused and how, the effective deck, help. */
#define _POSIX_C_SOURCE 200809L // open_memstream
#include "phases/keys.h"

#include "base/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* What each phase cannot do without. */
#define EVERY_PHASE                                                                                          \
    "prepare, import, pretrain, prune, assign, finetune, sample, evaluate, export, bench, verify"

static const char *const required[PHASES] = {
    [PHASE_PREPARE] = "data: { source = \"p.csv\"; sentence_encoder = \"minilm\"; };",
    [PHASE_IMPORT] = "import: { folder = \"stable-diffusion\"; };",
    [PHASE_PRETRAIN] = "pretrain: { unet = \"unet.json\"; };",
    [PHASE_PRUNE] = "",
    [PHASE_ASSIGN] = "",
    [PHASE_FINETUNE] = "",
    [PHASE_SAMPLE] = "sample: { split = \"validation\"; };",
    [PHASE_EVALUATE] = "",
    [PHASE_EXPORT] = "",
    [PHASE_BENCH] = "",
    [PHASE_VERIFY] = "verify: { reference = \"case.h5\"; };",
};

static bool fill(const char *text, union phase_cfg *cfg, char **effective, struct fault *fault)
{
    struct deck deck = {0};
    enum phase_id phase = PHASES;
    *fault = (struct fault){0};
    bool ok = deck_parse(&deck, text, "t.cfg", fault) && keys_phase(&deck, &phase, fault) &&
              keys_fill(&deck, phase, cfg, fault);
    if (ok && effective) *effective = keys_effective_deck(&deck, phase);
    deck_clear(&deck);
    return ok;
}

static char *minimal_deck(enum phase_id phase)
{
    return check_format("phase = \"%s\";\n%s\n", phase_name(phase), required[phase]);
}

static void every_phase_has_a_minimal_deck(void **state)
{
    (void)state;
    for (enum phase_id phase = 0; phase < PHASES; phase++) {
        union phase_cfg cfg;
        struct fault fault;
        char *text = minimal_deck(phase);
        if (!fill(text, &cfg, NULL, &fault)) fail_msg("%s: %s", text, fault.text);
        assert_int_equal(cfg.run.seed, 1);
        assert_string_equal(cfg.run.folder, "run");
        assert_int_equal(cfg.run.log, LOG_NORMAL);
        assert_int_equal(cfg.run.precision, PRECISION_AUTO);
        keys_free(phase, &cfg);
        free(text);
        assert_int_equal(phase_find(phase_name(phase)), phase);
    }
    assert_int_equal(phase_find("none"), PHASES);
}

/* METHOD sections 3, 3a, 4. */
static void defaults_of_prune_are_the_paper_s(void **state)
{
    (void)state;
    union phase_cfg cfg;
    struct fault fault;
    assert_true(fill("phase = \"prune\";", &cfg, NULL, &fault));
    const struct prune_cfg *prune = &cfg.prune;
    assert_string_equal(prune->data_file, "run/data.h5");
    assert_string_equal(prune->teacher_file, "run/teacher.h5");
    assert_string_equal(prune->router_file, "run/router.h5");
    assert_true(prune->warmup_steps == 500 && prune->steps == 2500 && prune->batch == 1024);
    assert_true(prune->learning_rate == 2e-4 && prune->lr_scale == LR_SCALE_SQRT_BATCH &&
                prune->lr_warmup == 100);
    assert_true(prune->beta1 == 0.9 && prune->beta2 == 0.999 && prune->epsilon == 1e-8 &&
                prune->weight_decay == 0);
    assert_true(prune->experts == 16 && prune->gamma == 0.4 && prune->offset == 3 && prune->tau == 0.03);
    assert_true(prune->method == PRUNE_APTP && prune->transport);
    assert_true(prune->transport_eps == 0.05 && prune->transport_iterations == 3);
    assert_true(prune->normal_form == NORMAL_FORM_MIXED && prune->resource_form == RESOURCE_LOG);
    assert_true(prune->codes_init == CODES_INIT_ORTHOGONAL && !prune->mac_weights && prune->depth_gates);
    assert_true(prune->w_ddpm == 1 && prune->w_distill_out == 0.2 && prune->w_distill_block == 0.2);
    assert_true(prune->w_resource == 2 && prune->w_contrastive == 100);
    assert_true(prune->w_spread_max == 0 && prune->w_spread_std == 0);
    assert_true(prune->min_snr == 5 && prune->ff_entries == 32 && prune->macs_resolution == 0);
    keys_free(PHASE_PRUNE, &cfg);
}

/* Every name of every choice arrives as the enum's value of that name. */
static void choices(void **state)
{
    (void)state;
    static const struct {
        const char *setting;
        int value;
        size_t place;
    } cases[] = {
        {"prune: { method = \"aptp\"; };", PRUNE_APTP, offsetof(struct prune_cfg, method)},
        {"prune: { method = \"uniform\"; };", PRUNE_UNIFORM, offsetof(struct prune_cfg, method)},
        {"prune: { method = \"random\"; };", PRUNE_RANDOM, offsetof(struct prune_cfg, method)},
        {"prune: { method = \"magnitude\"; };", PRUNE_MAGNITUDE, offsetof(struct prune_cfg, method)},
        {"prune: { method = \"block\"; };", PRUNE_BLOCK, offsetof(struct prune_cfg, method)},
        {"prune: { method = \"single\"; };", PRUNE_SINGLE, offsetof(struct prune_cfg, method)},
        {"router: { normal_form = \"mixed\"; };", NORMAL_FORM_MIXED, offsetof(struct prune_cfg, normal_form)},
        {"router: { normal_form = \"hard\"; };", NORMAL_FORM_HARD, offsetof(struct prune_cfg, normal_form)},
        {"router: { normal_form = \"soft\"; };", NORMAL_FORM_SOFT, offsetof(struct prune_cfg, normal_form)},
        {"router: { codes_init = \"kmeans\"; };", CODES_INIT_KMEANS, offsetof(struct prune_cfg, codes_init)},
        {"prune: { resource_form = \"mae\"; };", RESOURCE_MAE, offsetof(struct prune_cfg, resource_form)},
        {"prune: { resource_form = \"mse\"; };", RESOURCE_MSE, offsetof(struct prune_cfg, resource_form)},
        {"prune: { lr_scale = \"none\"; };", LR_SCALE_NONE, offsetof(struct prune_cfg, lr_scale)},
        {"run: { precision = \"fp32\"; };", PRECISION_FP32, offsetof(struct prune_cfg, run.precision)},
        {"run: { precision = \"bf16\"; };", PRECISION_BF16, offsetof(struct prune_cfg, run.precision)},
        {"run: { backend = \"cpu\"; };", RUN_BACKEND_CPU, offsetof(struct prune_cfg, run.backend)},
        {"run: { backend = \"cuda\"; };", RUN_BACKEND_CUDA, offsetof(struct prune_cfg, run.backend)},
        {"run: { log = \"quiet\"; };", LOG_QUIET, offsetof(struct prune_cfg, run.log)},
        {"run: { log = \"verbose\"; };", LOG_VERBOSE, offsetof(struct prune_cfg, run.log)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        union phase_cfg cfg;
        struct fault fault;
        char *text = check_format("phase = \"prune\"; %s", cases[i].setting);
        assert_true(fill(text, &cfg, NULL, &fault));
        assert_int_equal(*(int *)((char *)&cfg + cases[i].place), cases[i].value);
        keys_free(PHASE_PRUNE, &cfg);
        free(text);
    }
    union phase_cfg cfg;
    struct fault fault;
    assert_true(fill("phase = \"pretrain\"; pretrain: { unet = \"u\"; prediction = \"epsilon\"; };", &cfg,
                     NULL, &fault));
    assert_int_equal(cfg.pretrain.prediction, PREDICTION_EPSILON);
    keys_free(PHASE_PRETRAIN, &cfg);
    assert_true(
        fill("phase = \"prepare\"; data: { source = \"s\"; sentence_encoder = \"e\"; latent = \"pixel\"; };",
             &cfg, NULL, &fault));
    assert_int_equal(cfg.prepare.latent, LATENT_PIXEL);
    keys_free(PHASE_PREPARE, &cfg);
}

static void lists_paths_and_wide_integers(void **state)
{
    (void)state;
    union phase_cfg cfg;
    struct fault fault;
    assert_true(
        fill("phase = \"pretrain\"; run: { folder = \"runs/a\"; seed = 9223372036854775807L; };"
             "files: { teacher = \"input/t.h5\"; data = \"d.h5\"; };"
             "pretrain: { unet = \"unet.json\"; sample_prompts = [\"red apple\", \"\"]; sample_every = 1; };",
             &cfg, NULL, &fault));
    assert_true(cfg.run.seed == INT64_MAX);
    assert_string_equal(cfg.pretrain.teacher_file, "input/t.h5"); // a path with a folder stands as it is
    assert_string_equal(cfg.pretrain.data_file, "runs/a/d.h5");
    assert_string_equal(cfg.pretrain.unet, "unet.json");
    assert_int_equal(cfg.pretrain.sample_prompts.count, 2);
    assert_string_equal(cfg.pretrain.sample_prompts.value[0], "red apple");
    keys_free(PHASE_PRETRAIN, &cfg);
    assert_true(fill("phase = \"bench\"; bench: { resolutions = [8]; };", &cfg, NULL, &fault));
    assert_int_equal(cfg.bench.resolutions.count, 1);
    assert_int_equal(cfg.bench.resolutions.value[0], 8);
    assert_int_equal(cfg.bench.batch_sizes.count, 3);
    keys_free(PHASE_BENCH, &cfg);
    assert_true(fill("phase = \"assign\"; assign: { macs_resolutions = []; };", &cfg, NULL, &fault));
    assert_int_equal(cfg.assign.macs_resolutions.count, 0);
    keys_free(PHASE_ASSIGN, &cfg);
}

/* The ends of intervals, closed and open. */
static void intervals(void **state)
{
    (void)state;
    static const struct {
        const char *setting;
        bool allowed;
    } cases[] = {
        {"prune: { budget = 1; };", true},
        {"prune: { budget = 1.0000001; };", false},
        {"prune: { budget = 0.0; };", false},
        {"prune: { budget = 1e-300; };", true},
        {"prune: { beta1 = 0.0; };", true},
        {"prune: { beta1 = 1.0; };", false},
        {"router: { experts = 1; };", true},
        {"router: { experts = 0; };", false},
        {"prune: { w_resource = 1e300; };", true},
        {"prune: { w_resource = -1e-300; };", false},
        {"run: { seed = 0; };", true},
        {"run: { seed = -1; };", false},
        {"run: { threads = 4096; };", true},
        {"run: { threads = 4097; };", false},
        {"router: { offset = -100.0; };", true},
        {"router: { offset = -100.1; };", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        union phase_cfg cfg;
        struct fault fault;
        char *text = check_format("phase = \"prune\"; %s", cases[i].setting);
        bool allowed = fill(text, &cfg, NULL, &fault);
        if (allowed != cases[i].allowed) fail_msg("%s: %s", cases[i].setting, fault.text);
        if (allowed) keys_free(PHASE_PRUNE, &cfg);
        free(text);
    }
}

/* Bad decks, each with its whole message. */
static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "the deck is empty: the key phase is missing, one of: " EVERY_PHASE},
        {"run: {\n seed = 1; };", "t.cfg:2: the key phase is missing, one of: " EVERY_PHASE},
        {"phase = \"prun\";", "t.cfg:1: phase is \"prun\", allowed: " EVERY_PHASE},
        {"phase = 3;", "t.cfg:1: phase is 3, allowed: " EVERY_PHASE},
        {"phase = \"prune\";\nprune: {\n stepz = 3; };",
         "t.cfg:3: unknown key prune.stepz; did you mean prune.steps? (aptp --help prune lists all)"},
        {"phase = \"prune\"; prune: { gamma = 0.4; };",
         "t.cfg:1: unknown key prune.gamma; did you mean router.gamma? (aptp --help prune lists all)"},
        {"phase = \"prune\"; experts = 4;",
         "t.cfg:1: unknown key experts; did you mean router.experts? (aptp --help prune lists all)"},
        {"phase = \"prune\"; prune.steps = 1;",
         "t.cfg:1: 'prune.': a deck writes a key of a section as prune: { key = value; };"},
        {"phase = \"prune\"; qqqqqqqq = 1;", "t.cfg:1: unknown key qqqqqqqq (aptp --help prune lists all)"},
        {"phase = \"prune\"; prune = 1;", "t.cfg:1: unknown key prune (aptp --help prune lists all)"},
        {"phase = \"prune\"; pretrain: { steps = 5; };",
         "t.cfg:1: key pretrain.steps is not one of phase prune; it belongs to pretrain"},
        {"phase = \"verify\"; files: { data = \"x\"; };",
         "t.cfg:1: key files.data is not one of phase verify; it belongs to prepare, pretrain, prune, "
         "assign, finetune, sample, evaluate"},
        {"phase = \"prune\"; prune: { steps = 2.5; };", "t.cfg:1: prune.steps is 2.5, must be an integer"},
        {"phase = \"prune\"; prune: { steps = \"many\"; };",
         "t.cfg:1: prune.steps is \"many\", must be an integer"},
        {"phase = \"prune\"; prune: { budget = true; };", "t.cfg:1: prune.budget is true, must be a number"},
        {"phase = \"prune\"; prune: { recompute = 1; };",
         "t.cfg:1: prune.recompute is 1, must be true or false"},
        {"phase = \"prune\"; run: { folder = 5; };", "t.cfg:1: run.folder is 5, must be a string"},
        {"phase = \"prune\"; run: { folder = \"\"; };", "t.cfg:1: run.folder is \"\", must not be empty"},
        {"phase = \"prune\"; prune: { budget = 66; };", "t.cfg:1: prune.budget is 66, allowed: (0, 1]"},
        {"phase = \"prune\"; router: { normal_form = \"mix\"; };",
         "t.cfg:1: router.normal_form is \"mix\", allowed: mixed, hard, soft"},
        {"phase = \"prune\"; router: { normal_form = \"mixed, hard\"; };",
         "t.cfg:1: router.normal_form is \"mixed, hard\", allowed: mixed, hard, soft"},
        {"phase = \"prepare\"; data: { source = \"s\"; sentence_encoder = \"e\"; latent = \"other\"; };",
         "t.cfg:1: data.latent is \"other\", allowed: pixel, haar, vae"},
        {"phase = \"bench\"; bench: { resolutions = [32, 64.0]; };",
         "t.cfg:1: mismatched element type in array"},
        {"phase = \"bench\"; bench: { resolutions = [32.0]; };",
         "t.cfg:1: bench.resolutions is [32.0], must be a list of integers"},
        {"phase = \"bench\"; bench: { resolutions = 32; };",
         "t.cfg:1: bench.resolutions is 32, must be a list of integers"},
        {"phase = \"bench\"; bench: { resolutions = [32, 0]; };",
         "t.cfg:1: bench.resolutions is [32, 0], allowed for each: [1, 4096]"},
        {"phase = \"bench\"; bench: { batch_sizes = []; };",
         "t.cfg:1: bench.batch_sizes is empty, must have at least one item"},
        {"phase = \"verify\";",
         "t.cfg:1: the key verify.reference is missing: reference file made with PyTorch"},
        {"phase = \"prune\"; prune: { batch = 100;\n micro_batch = 64; };",
         "t.cfg:2: prune.micro_batch is 64, must divide the batch of 100"},
        {"phase = \"prune\"; prune: { batch = 8; micro_batch = 8; };",
         "t.cfg:1: router.experts is 16, allowed: at most prune.batch, 8"},
        {"phase = \"prune\"; router: { codes_init = \"kmeans\"; }; prune: { warmup_steps = 0; };",
         "t.cfg:1: router.codes_init \"kmeans\" needs a warm-up, prune.warmup_steps is 0"},
        {"phase = \"pretrain\"; pretrain: { unet = \"u\"; batch = 7; };",
         "t.cfg:1: pretrain.micro_batch is 64, must divide the batch of 7"},
        {"phase = \"pretrain\"; pretrain: { unet = \"u\"; sample_every = 5; };",
         "t.cfg:1: pretrain.sample_prompts is empty, must have at least one item"},
        {"phase = \"evaluate\"; evaluate: { timesteps = []; };",
         "t.cfg:1: evaluate.timesteps is empty, must have at least one item"},
        {"phase = \"evaluate\"; evaluate: { teacher_pictures = true; teacher = false; };",
         "t.cfg:1: evaluate.teacher_pictures needs evaluate.teacher and evaluate.pictures"},
        {"phase = \"evaluate\"; evaluate: { timesteps = [1000]; };",
         "t.cfg:1: evaluate.timesteps is [1000], allowed for each: [0, 999]"},
        {"phase = \"prepare\"; data: { source = \"s\"; };",
         "t.cfg:1: the key data.sentence_encoder is missing: folder of the sentence-transformers model that "
         "encodes the captions; sample needs it for prompts that are text"},
        {"phase = \"import\";", "t.cfg:1: import.folder and import.unet are empty: one must be set"},
        {"phase = \"import\"; import: { unet = \"u\"; scheduler = \"s\"; vae = \"v\"; text_encoder = \"t\"; "
         "};",
         "t.cfg:1: import.folder and import.tokenizer are empty: one must be set"},
        {"phase = \"sample\"; sample: { split = \"validation\"; steps = 999; sampler = \"dpmpp\"; };",
         "t.cfg:1: sample.steps is 999, this sampler takes at most 998"},
        {"phase = \"prepare\"; data: { source = \"s\"; sentence_encoder = \"e\"; validation_images = 3; };",
         "t.cfg:1: data.validation_images is set, data.validation_source is not"},
        {"phase = \"prepare\"; data: { source = \"s\"; sentence_encoder = \"e\"; image_size = 33; };",
         "t.cfg:1: data.image_size is 33, must be a multiple of 2 for haar latents"},
        {"phase = \"prepare\"; data: { source = \"s\"; sentence_encoder = \"e\"; latent = \"vae\"; };",
         "t.cfg:1: data.latent = \"vae\" needs a published model, and data.pipeline is empty: name its "
         "folder"},
        {"phase = \"prepare\"; data: { source = \"s\"; sentence_encoder = \"e\"; latent = \"vae\"; pipeline "
         "= "
         "\"p\"; image_size = 60; };",
         "t.cfg:1: data.image_size is 60, must be a multiple of 8 for vae latents"},
        {"phase = \"prepare\"; data: { source = \"s\"; sentence_encoder = \"e\"; text_states = \"computed\"; "
         "};",
         "t.cfg:1: data.text_states = \"computed\" needs a published model, and data.pipeline is empty: name "
         "its "
         "folder"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        union phase_cfg cfg;
        struct fault fault;
        assert_false(fill(cases[i].text, &cfg, NULL, &fault));
        assert_int_equal(fault.code, EXIT_CODE_DECK);
        assert_string_equal(fault.text, cases[i].message);
    }
}

/* The effective deck has every key of the phase, and is a deck that gives itself. */
static void the_effective_deck_is_a_fixed_point(void **state)
{
    (void)state;
    for (enum phase_id phase = 0; phase < PHASES; phase++) {
        union phase_cfg cfg;
        struct fault fault;
        char *text = minimal_deck(phase), *effective, *again;
        assert_true(fill(text, &cfg, &effective, &fault));
        keys_free(phase, &cfg);
        if (!fill(effective, &cfg, &again, &fault)) fail_msg("%s\n%s", fault.text, effective);
        keys_free(phase, &cfg);
        assert_string_equal(effective, again);
        const char *limit = strstr(effective, "    wall_clock_limit = 0.0;\n"); // typed, whatever was written
        assert_int_equal(limit != NULL, phase_stops(phase)); // no key where nothing obeys it
        free(text);
        free(effective);
        free(again);
    }
}

static void overrides_reach_the_effective_deck(void **state)
{
    (void)state;
    struct deck deck = {0};
    struct fault fault = {0};
    union phase_cfg cfg;
    assert_true(deck_parse(&deck, "phase = \"prune\";", "t.cfg", &fault));
    assert_true(deck_set(&deck, "prune.steps=50", &fault) && deck_set(&deck, "prune.budget=1", &fault) &&
                deck_set(&deck, "run.folder=my run", &fault));
    assert_true(keys_fill(&deck, PHASE_PRUNE, &cfg, &fault));
    char *effective = keys_effective_deck(&deck, PHASE_PRUNE);
    assert_non_null(strstr(effective, "    steps = 50;\n"));
    assert_non_null(strstr(effective, "    budget = 1.0;\n"));
    assert_non_null(strstr(effective, "    folder = \"my run\";\n"));
    free(effective);
    keys_free(PHASE_PRUNE, &cfg);
    deck_clear(&deck);
}

static void help_names_every_key(void **state)
{
    (void)state;
    char *help = NULL, *markdown = NULL;
    size_t help_size, markdown_size;
    FILE *stream = open_memstream(&markdown, &markdown_size);
    keys_markdown(stream);
    fclose(stream);
    for (enum phase_id phase = 0; phase < PHASES; phase++) {
        stream = open_memstream(&help, &help_size);
        keys_help(stream, phase);
        fclose(stream);
        assert_non_null(strstr(help, "run.seed"));
        // every "  section.name" line of the help is in the reference
        for (char *line = strtok(help, "\n"); line; line = strtok(NULL, "\n")) {
            char path[64];
            if (line[0] != ' ' || line[2] == ' ' || sscanf(line, " %50[a-z0-9_.]", path) != 1) continue;
            char *row = check_format("| `%s` | ", path);
            assert_non_null(strstr(markdown, row));
            free(row);
        }
        free(help);
    }
    assert_non_null(
        strstr(markdown, "| `run.seed` | an integer: [0, 9223372036854775807] |  | `1` | all | "));
    assert_non_null(strstr(markdown, "| `verify.reference` | a string |  | must be set | verify | "));
    free(markdown);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_phase_has_a_minimal_deck),
        cmocka_unit_test(defaults_of_prune_are_the_paper_s),
        cmocka_unit_test(choices),
        cmocka_unit_test(lists_paths_and_wide_integers),
        cmocka_unit_test(intervals),
        cmocka_unit_test(refused),
        cmocka_unit_test(the_effective_deck_is_a_fixed_point),
        cmocka_unit_test(overrides_reach_the_effective_deck),
        cmocka_unit_test(help_names_every_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
