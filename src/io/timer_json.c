#include "io/timer_json.h"

#include "base/check.h"
#include "io/atomic_file.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

bool timer_json_write(const char *path, const struct timer_summary *summary, int count, struct fault *fault)
{
    json_t *root = json_object();
    for (int i = 0; i < count; i++) {
        json_t *one = json_pack("{s:i, s:I, s:f, s:f, s:f}", "ranks", summary[i].ranks, "calls",
                                (json_int_t)summary[i].max_calls, "min", summary[i].min, "mean",
                                summary[i].mean, "max", summary[i].max);
        CHECK(one && json_object_set_new(root, summary[i].path, one) == 0, "timer %s", summary[i].path);
    }
    char *text = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    CHECK(text, "timers as JSON");
    bool ok = atomic_file_write(path, text, strlen(text), fault);
    free(text);
    json_decref(root);
    return ok;
}
