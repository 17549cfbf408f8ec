// Decks, through the table of keys, and the effective deck that is made of them; each line behind the first
// zero byte is a --set. Beside the deck lies one that it may name as its base, but not include.
//
// libconfig leaks strings of texts that it refuses, and looking for leaks after each of them takes all the
// time; of the inputs that are kept they are looked for when a sanitized build replays them.

// words: src/phases/keys.c

// libFuzzer: -detect_leaks=0
#define _POSIX_C_SOURCE 200809L // strtok_r
#include "base/check.h"
#include "fuzz/harness.h"
#include "io/deck.h"
#include "phases/keys.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char base[] = "run: { seed = 7; };\n", included[] = "included = 1;\n";

// Every value as text is the same value again.
static void values_read_back(const struct deck *deck)
{
    for (int i = 0; i < deck->count; i++) {
        char *text = deck_value_text(&deck->setting[i].value), *line = check_format("a = %s;\n", text);
        struct deck again = {0};
        struct fault fault = {0};
        CHECK(deck_parse(&again, line, "text", &fault) && again.count == 1, "%s: %s", line, fault.text);
        char *second = deck_value_text(&again.setting[0].value);
        CHECK(again.setting[0].value.type == deck->setting[i].value.type && strcmp(text, second) == 0,
              "%s is read as %s", text, second);
        deck_clear(&again);
        free(second);
        free(line);
        free(text);
    }
}

// The deck that all ranks get must be taken by them (main.c).
static void effective_deck_is_taken(const struct deck *deck, enum phase_id phase)
{
    char *text = keys_effective_deck(deck, phase);
    struct deck effective = {0};
    struct fault fault = {0};
    union phase_cfg cfg;
    CHECK(deck_parse(&effective, text, "effective deck", &fault) && keys_phase(&effective, &phase, &fault) &&
              keys_fill(&effective, phase, &cfg, &fault),
          "%s\n%s", fault.text, text);
    char *again = keys_effective_deck(&effective, phase);
    CHECK(strcmp(text, again) == 0, "the effective deck of\n%s\nis\n%s", text, again);
    keys_free(phase, &cfg);
    deck_clear(&effective);
    free(again);
    free(text);
}

static bool set_all(struct deck *deck, const char *sets, size_t size, struct fault *fault)
{
    char *text = harness_text((const uint8_t *)sets, size), *rest = NULL;
    bool done = true;
    for (char *set = strtok_r(text, "\n", &rest); done && set; set = strtok_r(NULL, "\n", &rest))
        done = deck_set(deck, set, fault);
    free(text);
    return done;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CHECK(chdir(harness_folder()) == 0, "chdir"); // where libconfig would look for what it includes
    harness_file("base.cfg", base, sizeof base - 1);
    harness_file("x", included, sizeof included - 1);
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t length = zero ? (size_t)(zero - data) : size;
    const char *path = harness_file("deck.cfg", data, length);
    struct deck deck = {0};
    struct fault fault = {0};
    enum phase_id phase;
    union phase_cfg cfg;
    bool done = deck_read(&deck, path, &fault) &&
                (!zero || set_all(&deck, (const char *)zero + 1, size - length - 1, &fault));
    if (harness_verdict(done, &fault, EXIT_CODE_DECK)) {
        CHECK(!deck_find(&deck, "included"), "a file was included");
        values_read_back(&deck);
        done = keys_phase(&deck, &phase, &fault) && keys_fill(&deck, phase, &cfg, &fault);
        if (harness_verdict(done, &fault, EXIT_CODE_DECK)) {
            keys_free(phase, &cfg);
            effective_deck_is_taken(&deck, phase);
        }
    }
    deck_clear(&deck);
    return 0;
}
