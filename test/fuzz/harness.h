/* What the harnesses of hostile input have in common.
 *
 * Each fuzz_NAME.c gives arbitrary bytes to one reader of foreign files. The reader may refuse them with a
 * fault; a failed CHECK, a sanitizer's finding, a hang or memory out of proportion to the input is a defect.
 * `make fuzz` runs them under clang's libFuzzer; in `make check` replay.c feeds them the inputs kept in
 * test/fuzz/corpus/NAME. A new reader needs these two alone: a harness, and a folder with an input or more.
 *
 * Lines in a harness: "// words: FILES" names sources whose string literals libFuzzer may try, "// libFuzzer:
 * OPTIONS" adds to its options. What a defect is found with goes into the corpus under a name that says it.
 */
#ifndef FUZZ_HARNESS_H
#define FUZZ_HARNESS_H

#include "base/fault.h"

#include <stddef.h>
#include <stdint.h>

/* Defined by each harness; returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* Called once before it: makes failed checks abort. */
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* The bytes as a file of that name ("index.csv", "1_Pooling/config.json") in a folder of this process, in
 * TMPDIR or else in memory; its path, which belongs to this module until the next call. */
const char *harness_file(const char *name, const void *data, size_t size);
/* That folder, made at the first call and removed at exit. */
const char *harness_folder(void);

/* The bytes as a string, cut at the first zero. The caller frees it. */
char *harness_text(const uint8_t *data, size_t size);

/* Fails unless a reader that succeeded left no fault, and one that did not left a fault of this code with a
 * text. Returns `done`. */
bool harness_verdict(bool done, const struct fault *fault, enum exit_code code);

#endif
