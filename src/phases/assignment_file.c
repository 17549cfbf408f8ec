#include "phases/assignment_file.h"

#include "base/check.h"
#include "phases/provenance.h"

#include <stdio.h>
#include <stdlib.h>

static bool read_split(struct h5_reader *reader, const char *split, int64_t K, struct assignment *assignment,
                       struct fault *fault)
{
    char name[64];
    snprintf(name, sizeof name, "%s/expert", split);
    if (!h5_load_int32(reader, name, 1, &assignment->prompts, assignment->prompts, &assignment->expert, NULL,
                       fault))
        return false;
    assignment->count = check_calloc((size_t)K, sizeof *assignment->count);
    for (int64_t i = 0; i < assignment->prompts; i++) {
        int32_t expert = assignment->expert[i];
        if (expert < 0 || expert >= K)
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s[%lld] is %d, 0..%lld allowed", h5_path(reader),
                               name, (long long)i, expert, (long long)K - 1);
        assignment->count[expert]++;
    }
    return true;
}

bool assignment_read(const char *path, const char *split, int64_t prompts, const struct routing *routing,
                     const struct lineage *data, struct assignment *assignment, struct fault *fault)
{
    *assignment = (struct assignment){.prompts = prompts};
    struct h5_reader *reader;
    if (!h5_open(path, FILE_ASSIGNMENT, &reader, fault)) return false;
    static const char advice[] = "run assign again";
    bool ok = provenance_check_parent(reader, "router.h5", routing->lineage.content_id, advice, fault) &&
              provenance_check_parent(reader, "data.h5", data->content_id, advice, fault) &&
              read_split(reader, split, routing->router->config.K, assignment, fault);
    snprintf(assignment->content_id, sizeof assignment->content_id, "%s", h5_stored_content_id(reader));
    h5_close(reader);
    if (!ok) assignment_clear(assignment);
    return ok;
}

void assignment_clear(struct assignment *assignment)
{
    free(assignment->expert);
    free(assignment->count);
    *assignment = (struct assignment){0};
}

int64_t *assignment_items(const struct assignment *assignment, int64_t k)
{
    int64_t *item = check_malloc((size_t)assignment->count[k] * sizeof *item), found = 0;
    for (int64_t i = 0; i < assignment->prompts; i++)
        if (assignment->expert[i] == k) item[found++] = i;
    return item;
}
