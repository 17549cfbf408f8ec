#include "comm/timer_report.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

static struct timer_summary *find_or_add(struct timer_summary *summary, int *count, const char *path)
{
    for (int i = 0; i < *count; i++)
        if (strcmp(summary[i].path, path) == 0) return &summary[i];
    struct timer_summary *added = &summary[(*count)++];
    *added = (struct timer_summary){0};
    memcpy(added->path, path, sizeof added->path);
    return added;
}

struct timer_summary *timer_summarise(const struct comm *comm, const struct timers *timers, int *count)
{
    size_t ranks = (size_t)comm_size(comm), total = 0;
    size_t *counts = check_malloc(ranks * sizeof *counts), mine = (size_t)timers->count;
    comm_gather_one(comm, &mine, sizeof mine, counts);
    for (size_t rank = 0; rank < ranks; rank++) total += counts[rank];
    struct timer *all = check_malloc(total * sizeof *all);
    comm_gather(comm, timers->item, counts, sizeof *all, all);
    free(counts);

    struct timer_summary *summary = check_malloc(total * sizeof *summary);
    *count = 0;
    for (size_t i = 0; i < total; i++) {
        struct timer_summary *one = find_or_add(summary, count, all[i].path);
        double seconds = all[i].seconds;
        one->min = one->ranks == 0 || seconds < one->min ? seconds : one->min;
        one->max = one->ranks == 0 || seconds > one->max ? seconds : one->max;
        one->mean += seconds; // the sum until all are in
        one->ranks++;
        if (all[i].calls > one->max_calls) one->max_calls = all[i].calls;
    }
    for (int i = 0; i < *count; i++) summary[i].mean /= summary[i].ranks;
    free(all);
    return summary;
}

/* Depth first, as they nest: a timer's children follow it, in their own order. */
static void report_below(const struct log *log, const struct timer_summary *summary, int count,
                         const char *parent)
{
    size_t length = strlen(parent);
    for (int i = 0; i < count; i++) {
        const char *path = summary[i].path;
        if (strncmp(path, parent, length) != 0 || (length > 0 && path[length] != '/')) continue;
        const char *name = length > 0 ? path + length + 1 : path;
        if (strchr(name, '/')) continue;
        int indent = 0;
        for (const char *c = path; *c; c++) indent += 2 * (*c == '/');
        log_info(log, "%*s%-*s %10lld %12.3f %12.3f %12.3f", indent, "", 32 - indent, name,
                 (long long)summary[i].max_calls, summary[i].min, summary[i].mean, summary[i].max);
        report_below(log, summary, count, path);
    }
}

void timer_report(const struct log *log, const struct timer_summary *summary, int count)
{
    if (count == 0) return;
    log_info(log, "%-32s %10s %12s %12s %12s", "time over ranks, seconds", "calls", "min", "mean", "max");
    report_below(log, summary, count, "");
}
