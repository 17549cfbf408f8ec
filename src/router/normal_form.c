#include "router/normal_form.h"

#include "router/gumbel.h"

#include <math.h>

const char *normal_form_name(enum normal_form kind)
{
    static const char *const names[] = {
        [NORMAL_FORM_MIXED] = "mixed", [NORMAL_FORM_HARD] = "hard", [NORMAL_FORM_SOFT] = "soft"};
    return names[kind];
}

void normal_form_scale(const struct unit_table *table, const struct unit_macs *macs, double *scale)
{
    double *depth_scale = scale + table->width_entries;
    for (int j = 0; j < table->depth_entries; j++)
        depth_scale[j] = macs ? macs->depth[j] / macs->prunable : 1;
    for (int u = 0; u < table->units; u++) {
        const struct unit *unit = &table->unit[u];
        double share = macs ? macs->unit[u] / macs->prunable : 1;
        for (int i = 0; i < unit->width; i++) scale[unit->first + i] = share / sqrt(unit->width);
        if (macs && unit->depth >= 0) depth_scale[unit->depth] += share;
    }
}

/* A width entry's value in the form, before depth, scale and length. */
static double width_value(enum normal_form kind, const struct unit *unit, double gate)
{
    bool hard = kind == NORMAL_FORM_HARD || (kind == NORMAL_FORM_MIXED && unit->depth < 0);
    return hard ? gate_hard(gate) : gate;
}

/* The depth factor of a unit's entries. */
static double depth_factor(enum normal_form kind, const struct unit *unit, const double *depth)
{
    if (unit->depth < 0) return 1;
    return kind == NORMAL_FORM_HARD ? gate_hard(depth[unit->depth]) : depth[unit->depth];
}

/* gates [n] -> form [n]; returns the length that it had. */
static double forward_row(const struct unit_table *table, enum normal_form kind, const double *scale,
                          const double *gates, double *form)
{
    const double *depth = gates + table->width_entries;
    for (int u = 0; u < table->units; u++) {
        const struct unit *unit = &table->unit[u];
        double factor = depth_factor(kind, unit, depth);
        for (int i = unit->first; i < unit->first + unit->width; i++)
            form[i] = scale[i] * factor * width_value(kind, unit, gates[i]);
    }
    for (int i = table->width_entries; i < table->entries; i++)
        form[i] = scale[i] * (kind == NORMAL_FORM_SOFT ? gates[i] : gate_hard(gates[i]));

    double square = 0;
    for (int i = 0; i < table->entries; i++) square += form[i] * form[i];
    double length = sqrt(square);
    for (int i = 0; length > 0 && i < table->entries; i++) form[i] /= length;
    return length;
}

static void backward_row(const struct unit_table *table, enum normal_form kind, const double *scale,
                         const double *gates, const double *form, double length, const double *form_gradient,
                         double *gate_gradient)
{
    // form = x / |x|: dx = (dform - form (form . dform)) / |x|; then x = scale * value
    double along = 0;
    for (int i = 0; i < table->entries; i++) along += form[i] * form_gradient[i];
    for (int i = 0; i < table->entries; i++)
        gate_gradient[i] = length > 0 ? scale[i] * (form_gradient[i] - form[i] * along) / length : 0;

    const double *depth = gates + table->width_entries;
    double *depth_gradient = gate_gradient + table->width_entries;
    for (int u = 0; u < table->units; u++) {
        const struct unit *unit = &table->unit[u];
        double factor = depth_factor(kind, unit, depth);
        for (int i = unit->first; i < unit->first + unit->width; i++) {
            if (unit->depth >= 0)
                depth_gradient[unit->depth] += gate_gradient[i] * width_value(kind, unit, gates[i]);
            gate_gradient[i] *= factor;
        }
    }
}

void normal_form_forward(const struct unit_table *table, enum normal_form kind, const double *scale,
                         int64_t rows, const double *gates, double *form, double *length)
{
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = row * table->entries;
        length[row] = forward_row(table, kind, scale, gates + at, form + at);
    }
}

void normal_form_backward(const struct unit_table *table, enum normal_form kind, const double *scale,
                          int64_t rows, const double *gates, const double *form, const double *length,
                          const double *form_gradient, double *gate_gradient)
{
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = row * table->entries;
        backward_row(table, kind, scale, gates + at, form + at, length[row], form_gradient + at,
                     gate_gradient + at);
    }
}
