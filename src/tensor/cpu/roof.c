#include "tensor/roof.h"

#include "base/timer.h"
#include "tensor/cpu/dnnl_primitives.h"

#include <omp.h>
#include <string.h>

enum { COPIED = 256 << 20 /* bytes, and as many where they go: more than most processors' caches hold */ };

/* Memory for an operand, in whatever layout it has: small values, since the speed of arithmetic may depend on
 * them (denormals), all bits of 0x3c3c being 0.0115 in either dtype. */
static struct arena_block *operand_new(struct arena *arena, const dnnl_memory_desc_t *layout)
{
    size_t bytes = dnnl_memory_desc_get_size(layout);
    struct arena_block *block = arena_allocate(arena, bytes);
    memset(arena_address(block), 0x3c, bytes);
    return block;
}

/* Fastest run of a primitive with operands x, weights and y; takes over the descriptor. */
static double fastest(struct cpu_backend *cpu, dnnl_primitive_desc_t descriptor, double seconds)
{
    static const int arguments[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};
    struct arena_block *blocks[3];
    struct operand operands[3];
    for (int i = 0; i < 3; i++) {
        blocks[i] =
            operand_new(cpu->base.scratch,
                        dnnl_primitive_desc_query_md(descriptor, dnnl_query_exec_arg_md, arguments[i]));
        operands[i] = (struct operand){arguments[i], arena_address(blocks[i])};
    }
    struct primitive *primitive = primitive_new(cpu, descriptor, 1);
    double best = 1e30, start = timer_now();
    for (int run = 0; run < 3 || timer_now() - start < seconds; run++) {
        double before = timer_now();
        primitive_execute(cpu, primitive, 3, operands);
        double time = timer_now() - before;
        if (time < best) best = time;
    }
    primitive_delete(primitive);
    for (int i = 2; i >= 0; i--) arena_free(cpu->base.scratch, blocks[i]);
    return best;
}

/* GFLOP/s of a product [m, k] x [k, n]. */
static double matmul_rate(struct cpu_backend *cpu, enum dtype dtype, int64_t m, int64_t k, int64_t n,
                          double seconds)
{
    dnnl_memory_desc_t a = layout(dtype, 2, (int64_t[]){m, k}, NULL);
    dnnl_memory_desc_t b = layout(dtype, 2, (int64_t[]){k, n}, NULL);
    dnnl_memory_desc_t c = layout(dtype, 2, (int64_t[]){m, n}, NULL);
    dnnl_matmul_desc_t operation;
    DNNL_CHECK(dnnl_matmul_desc_init(&operation, &a, &b, NULL, &c));
    return 2e-9 * (double)(m * k * n) /
           fastest(cpu, primitive_descriptor(cpu, &operation, NULL, NULL), seconds);
}

static double matmul_roof(struct cpu_backend *cpu, enum dtype dtype, double seconds)
{
    static const int64_t sizes[][3] = {
        {1024, 1280, 1280}, {2048, 2048, 2048}, {4096, 1280, 640}, {1024, 2560, 640}};
    double best = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        double rate = matmul_rate(cpu, dtype, sizes[i][0], sizes[i][1], sizes[i][2], seconds);
        if (rate > best) best = rate;
    }
    return best;
}

static double convolution_roof(struct cpu_backend *cpu, enum dtype dtype, double seconds)
{
    static const int64_t sizes[][4] = {
        {4, 320, 320, 32}, {4, 640, 640, 16}, {4, 1280, 640, 16}, {2, 320, 320, 64}};
    const dnnl_dims_t one = {1, 1};
    double best = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t samples = sizes[i][0], in = sizes[i][1], out = sizes[i][2], side = sizes[i][3];
        dnnl_memory_desc_t x = layout(dtype, 4, (int64_t[]){samples, in, side, side}, NULL);
        dnnl_memory_desc_t w = layout(dtype, 4, (int64_t[]){out, in, 3, 3}, NULL);
        dnnl_memory_desc_t y = layout(dtype, 4, (int64_t[]){samples, out, side, side}, NULL);
        dnnl_convolution_desc_t operation;
        DNNL_CHECK(dnnl_convolution_forward_desc_init(
            &operation, dnnl_forward_inference, dnnl_convolution_direct, &x, &w, NULL, &y, one, one, one));
        double time = fastest(cpu, primitive_descriptor(cpu, &operation, NULL, NULL), seconds);
        double rate = 2e-9 * (double)(samples * side * side * in * out * 9) / time;
        if (rate > best) best = rate;
    }
    return best;
}

/* GB/s: each thread copies its part. */
static double copy_roof(struct cpu_backend *cpu, double seconds)
{
    struct arena_block *from = arena_allocate(cpu->base.scratch, COPIED);
    struct arena_block *to = arena_allocate(cpu->base.scratch, COPIED);
    const char *source = arena_address(from);
    char *target = arena_address(to);
    memset(arena_address(from), 0x3c, COPIED);
    double best = 1e30, start = timer_now();
    for (int run = 0; run < 3 || timer_now() - start < seconds; run++) { // the first touches the memory
        double before = timer_now();
#pragma omp parallel
        {
            size_t threads = (size_t)omp_get_num_threads(), thread = (size_t)omp_get_thread_num();
            size_t first = COPIED * thread / threads, end = COPIED * (thread + 1) / threads;
            memcpy(target + first, source + first, end - first);
        }
        double time = timer_now() - before;
        if (time < best) best = time;
    }
    arena_free(cpu->base.scratch, to);
    arena_free(cpu->base.scratch, from);
    return 2e-9 * COPIED / best;
}

double roof_cpu(struct backend *backend, enum roof kind, enum dtype dtype, double seconds)
{
    struct cpu_backend *cpu = cpu_backend(backend);
    switch (kind) {
    case ROOF_MATMUL:
        return matmul_roof(cpu, dtype, seconds);
    case ROOF_CONVOLUTION:
        return convolution_roof(cpu, dtype, seconds);
    case ROOF_COPY:
        return copy_roof(cpu, seconds);
    }
    return 0;
}

bool roof_prefers_bf16(void)
{
    const double clearly = 1.2, seconds = 0.01;
    int threads = omp_get_max_threads();
    omp_set_num_threads(1); // other ranks of this machine may be busy
    struct backend *backend = backend_open(BACKEND_CPU);
    bool prefers = backend->ops->supports(backend, DTYPE_BF16) &&
                   matmul_rate(cpu_backend(backend), DTYPE_BF16, 512, 512, 512, seconds) >
                       clearly * matmul_rate(cpu_backend(backend), DTYPE_F32, 512, 512, 512, seconds);
    backend_close(backend);
    omp_set_num_threads(threads);
    return prefers;
}
