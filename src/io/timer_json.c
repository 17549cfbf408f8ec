#include "io/timer_json.h"

#include "io/json_writer.h"

bool timer_json_write(const char *path, const struct timer_summary *summary, int count, struct fault *fault)
{
    struct json_object *root = json_object_new();
    for (int i = 0; i < count; i++) {
        struct json_object *one = json_object_new();
        json_set_int64(one, "ranks", summary[i].ranks);
        json_set_int64(one, "calls", summary[i].max_calls);
        json_set_double(one, "min", summary[i].min);
        json_set_double(one, "mean", summary[i].mean);
        json_set_double(one, "max", summary[i].max);
        json_set_object(root, summary[i].path, one);
    }
    bool ok = json_object_write(root, path, fault);
    json_object_free(root);
    return ok;
}
