/* assignment.h5: the expert of every prompt, as phase assign found it. */
#ifndef PHASES_ASSIGNMENT_FILE_H
#define PHASES_ASSIGNMENT_FILE_H

#include "phases/router_file.h"

/* Of one split. */
struct assignment {
    int64_t prompts;
    int32_t *expert; /* [prompts], each in [0, K); owned */
    int64_t *count;  /* [K] prompts of each expert; owned */
    char content_id[SHA256_HEX_SIZE];
};

/* Reads the split ("train", "validation") of `prompts` items. The file must be made with that router and that
 * data file, else an EXIT_CODE_INPUT fault. Local. Free with assignment_clear. */
bool assignment_read(const char *path, const char *split, int64_t prompts, const struct routing *routing,
                     const struct lineage *data, struct assignment *assignment, struct fault *fault);
void assignment_clear(struct assignment *assignment);

/* The places in the split of the prompts of expert k, item[count[k]] in their order. The caller frees it. */
int64_t *assignment_items(const struct assignment *assignment, int64_t k);

#endif
