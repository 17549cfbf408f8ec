#include "models/unit_table.h"

#include "base/check.h"

#include <stdlib.h>

const char *unit_kind_name(enum unit_kind kind)
{
    static const char *const names[] = {[UNIT_RESNET] = "resnet",
                                        [UNIT_SELF_ATTENTION] = "self_attention",
                                        [UNIT_CROSS_ATTENTION] = "cross_attention",
                                        [UNIT_FEED_FORWARD] = "feed_forward"};
    return names[kind];
}

void unit_table_free(struct unit_table *table)
{
    free(table->unit);
    free(table->slice);
    free(table->depth);
    free(table->depth_order);
    *table = (struct unit_table){0};
}

void unit_macs_free(struct unit_macs *macs)
{
    free(macs->unit);
    free(macs->depth);
    *macs = (struct unit_macs){0};
}

/* METHOD section 3a, "the rule behind the order": from outside in, at each level the up block's entries from
 * last to first, then the down block's from first to last. */
void unit_table_order_depth(struct unit_table *table)
{
    int entries = table->depth_entries, placed = 0, innermost = -1;
    for (int i = 0; i < entries; i++)
        if (table->depth[i].level > innermost) innermost = table->depth[i].level;

    table->depth_order = check_realloc(table->depth_order, (size_t)entries * sizeof *table->depth_order);
    for (int level = 0; level <= innermost; level++) {
        for (int i = entries - 1; i >= 0; i--)
            if (table->depth[i].up && table->depth[i].level == level) table->depth_order[placed++] = i;
        for (int i = 0; i < entries; i++)
            if (!table->depth[i].up && table->depth[i].level == level) table->depth_order[placed++] = i;
    }
    CHECK(placed == entries, "%d of %d depth entries have a level of 0 or more", placed, entries);
}

/* METHOD section 3a, "Ratio of a sample":
 *
 *     ratio = (sum over units of mean(v) d MACs(unit) + sum over depth entries of d MACs(depth)) / prunable
 *
 * where d is the depth entry that a unit falls under, 1 without one. */
double unit_table_ratio(const struct unit_table *table, const struct unit_macs *macs, const double *vector,
                        double *gradient)
{
    const double *depth = vector + table->width_entries;
    double *depth_gradient = gradient ? gradient + table->width_entries : NULL;
    double kept = 0;
    for (int j = 0; j < table->depth_entries; j++) {
        kept += depth[j] * macs->depth[j];
        if (gradient) depth_gradient[j] = macs->depth[j] / macs->prunable;
    }
    for (int u = 0; u < table->units; u++) {
        const struct unit *unit = &table->unit[u];
        double gate = unit->depth < 0 ? 1 : depth[unit->depth], sum = 0;
        for (int i = 0; i < unit->width; i++) sum += vector[unit->first + i];
        double mean = sum / unit->width;
        kept += mean * gate * macs->unit[u];
        if (!gradient) continue;
        for (int i = 0; i < unit->width; i++)
            gradient[unit->first + i] = gate * macs->unit[u] / (unit->width * macs->prunable);
        if (unit->depth >= 0) depth_gradient[unit->depth] += mean * macs->unit[u] / macs->prunable;
    }
    return kept / macs->prunable;
}

double unit_macs_total_ratio(const struct unit_macs *macs, double prunable_ratio)
{
    return 1 - (1 - prunable_ratio) * macs->prunable / macs->total;
}
