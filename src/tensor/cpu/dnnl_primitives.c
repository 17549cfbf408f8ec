#include "tensor/cpu/dnnl_primitives.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 1024 };

struct dnnl_primitives {
    dnnl_engine_t engine;
    int threads;
    dnnl_stream_t *streams; /* [threads] */
    struct primitive *bucket[BUCKETS];
};

struct dnnl_primitives *dnnl_primitives_new(void)
{
    struct dnnl_primitives *primitives = check_calloc(1, sizeof *primitives);
    primitives->threads = omp_get_max_threads();
    DNNL_CHECK(dnnl_engine_create(&primitives->engine, dnnl_cpu, 0));
    primitives->streams = check_calloc((unsigned long)primitives->threads, sizeof *primitives->streams);
    for (int i = 0; i < primitives->threads; i++)
        DNNL_CHECK(
            dnnl_stream_create(&primitives->streams[i], primitives->engine, dnnl_stream_default_flags));
    return primitives;
}

void dnnl_primitives_delete(struct dnnl_primitives *primitives)
{
    for (int i = 0; i < BUCKETS; i++)
        for (struct primitive *next, *primitive = primitives->bucket[i]; primitive; primitive = next) {
            next = primitive->next;
            primitive_delete(primitive);
        }
    for (int i = 0; i < primitives->threads; i++) DNNL_CHECK(dnnl_stream_destroy(primitives->streams[i]));
    DNNL_CHECK(dnnl_engine_destroy(primitives->engine));
    free(primitives->streams);
    free(primitives);
}

bool supports_cpu(const struct backend *backend, enum dtype dtype)
{
    (void)backend;
    return dtype == DTYPE_F32 ||
           (dtype == DTYPE_BF16 &&
            (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16);
}

dnnl_engine_t primitives_engine(const struct cpu_backend *cpu)
{
    return cpu->primitives->engine;
}

int primitives_threads(const struct cpu_backend *cpu)
{
    return cpu->primitives->threads;
}

static unsigned bucket_of(const struct primitive_key *key)
{
    const unsigned char *bytes = (const unsigned char *)key;
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < sizeof *key; i++) hash = (hash ^ bytes[i]) * 1099511628211u;
    return (unsigned)(hash % BUCKETS);
}

struct primitive *primitive_find(const struct cpu_backend *cpu, const struct primitive_key *key)
{
    struct primitive *primitive = cpu->primitives->bucket[bucket_of(key)];
    while (primitive && memcmp(&primitive->key, key, sizeof *key) != 0) primitive = primitive->next;
    return primitive;
}

/* Whether the first post-op reads a third tensor (asked for its layout otherwise, oneDNN answers at random).
 */
static bool adds_tensor(const_dnnl_primitive_desc_t descriptor)
{
    const_dnnl_primitive_attr_t attributes;
    const_dnnl_post_ops_t post_ops;
    DNNL_CHECK(dnnl_primitive_desc_get_attr(descriptor, &attributes));
    DNNL_CHECK(dnnl_primitive_attr_get_post_ops(attributes, &post_ops));
    return dnnl_post_ops_len(post_ops) > 0 && dnnl_post_ops_get_kind(post_ops, 0) == dnnl_binary;
}

static void add_operand(struct primitive *primitive, int argument, const dnnl_memory_desc_t *found,
                        const dnnl_memory_desc_t *layouts[PRIMITIVE_MAX_OPERANDS])
{
    CHECK(primitive->operand_count < PRIMITIVE_MAX_OPERANDS, "more than %d operands", PRIMITIVE_MAX_OPERANDS);
    primitive->argument[primitive->operand_count] = argument;
    layouts[primitive->operand_count++] = found;
}

/* The operands that an implementation has, found by asking for each that one could have. */
static void find_operands(struct primitive *primitive, const_dnnl_primitive_desc_t descriptor,
                          const dnnl_memory_desc_t *layouts[PRIMITIVE_MAX_OPERANDS])
{
    static const int arguments[] = {DNNL_ARG_SRC,      DNNL_ARG_WEIGHTS,      DNNL_ARG_BIAS,    DNNL_ARG_DST,
                                    DNNL_ARG_DIFF_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST};
    for (size_t i = 0; i < sizeof arguments / sizeof *arguments; i++) {
        const dnnl_memory_desc_t *found =
            dnnl_primitive_desc_query_md(descriptor, dnnl_query_exec_arg_md, arguments[i]);
        if (!found || found->ndims == 0) continue;
        add_operand(primitive, arguments[i], found, layouts);
        if (arguments[i] == DNNL_ARG_WEIGHTS || arguments[i] == DNNL_ARG_DIFF_WEIGHTS)
            primitive->weights = *found;
    }
    if (adds_tensor(descriptor)) {
        int third = DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1;
        add_operand(primitive, third, dnnl_primitive_desc_query_md(descriptor, dnnl_query_exec_arg_md, third),
                    layouts);
    }
    const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(descriptor, dnnl_query_scratchpad_md, 0);
    primitive->scratch_bytes = dnnl_memory_desc_get_size(scratch);
    add_operand(primitive, DNNL_ARG_SCRATCHPAD, scratch, layouts);
}

/* oneDNN looks for the like in a cache of its own, whose key has OpenMP's setting of now, not that of when
 * the descriptor was made: under another setting a primitive of one thread would be exchanged for one of
 * many, of which each thread then does its part alone. */
static void create(struct primitive *primitive, dnnl_primitive_desc_t descriptor)
{
    int threads = omp_get_max_threads();
    if (primitive->threads > 1) omp_set_num_threads(1);
    DNNL_CHECK(dnnl_primitive_create(&primitive->handle, descriptor));
    omp_set_num_threads(threads);
}

struct primitive *primitive_new(struct cpu_backend *cpu, dnnl_primitive_desc_t descriptor, int threads)
{
    const dnnl_memory_desc_t *layouts[PRIMITIVE_MAX_OPERANDS];
    struct primitive *primitive = check_calloc(1, sizeof *primitive);
    primitive->threads = threads;
    find_operands(primitive, descriptor, layouts);
    const char *implementation;
    DNNL_CHECK(dnnl_primitive_desc_query(descriptor, dnnl_query_impl_info_str, 0, &implementation));
    primitive->implementation = check_strdup(implementation);
    if (!cpu->plan) {
        int count = primitive->operand_count;
        create(primitive, descriptor);
        primitive->memory = check_calloc((unsigned long)(threads * count), sizeof *primitive->memory);
        for (int i = 0; i < threads * count; i++)
            DNNL_CHECK(dnnl_memory_create(&primitive->memory[i], layouts[i % count], cpu->primitives->engine,
                                          DNNL_MEMORY_NONE));
    }
    DNNL_CHECK(dnnl_primitive_desc_destroy(descriptor));
    return primitive;
}

void primitive_delete(struct primitive *primitive)
{
    if (primitive->handle) {
        for (int i = 0; i < primitive->threads * primitive->operand_count; i++)
            DNNL_CHECK(dnnl_memory_destroy(primitive->memory[i]));
        DNNL_CHECK(dnnl_primitive_destroy(primitive->handle));
    }
    free(primitive->memory);
    free(primitive->implementation);
    free(primitive);
}

struct primitive *primitive_keep(struct cpu_backend *cpu, const struct primitive_key *key,
                                 dnnl_primitive_desc_t descriptor, int threads)
{
    struct primitive *primitive = primitive_new(cpu, descriptor, threads);
    struct primitive **bucket = &cpu->primitives->bucket[bucket_of(key)];
    primitive->key = *key;
    primitive->next = *bucket;
    *bucket = primitive;
    return primitive;
}

dnnl_primitive_attr_t primitive_attributes(dnnl_post_ops_t post_ops)
{
    dnnl_primitive_attr_t attributes;
    DNNL_CHECK(dnnl_primitive_attr_create(&attributes));
    DNNL_CHECK(dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user));
    if (post_ops) {
        DNNL_CHECK(dnnl_primitive_attr_set_post_ops(attributes, post_ops));
        DNNL_CHECK(dnnl_post_ops_destroy(post_ops));
    }
    return attributes;
}

dnnl_primitive_desc_t primitive_descriptor(const struct cpu_backend *cpu, const_dnnl_op_desc_t operation,
                                           dnnl_primitive_attr_t attributes, const_dnnl_primitive_desc_t hint)
{
    dnnl_primitive_desc_t descriptor;
    if (!attributes) attributes = primitive_attributes(NULL);
    DNNL_CHECK(dnnl_primitive_desc_create(&descriptor, operation, attributes, cpu->primitives->engine, hint));
    DNNL_CHECK(dnnl_primitive_attr_destroy(attributes));
    return descriptor;
}

/* oneDNN takes the number of threads of a primitive from OpenMP's setting when the descriptor is made. */
dnnl_primitive_desc_t one_thread_descriptor(const struct cpu_backend *cpu, const_dnnl_op_desc_t operation,
                                            dnnl_primitive_attr_t attributes,
                                            const_dnnl_primitive_desc_t hint)
{
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    dnnl_primitive_desc_t descriptor = primitive_descriptor(cpu, operation, attributes, hint);
    omp_set_num_threads(threads);
    return descriptor;
}

dnnl_primitive_desc_t primitive_reorder(const struct cpu_backend *cpu, const dnnl_memory_desc_t *from,
                                        const dnnl_memory_desc_t *to, bool add)
{
    dnnl_primitive_desc_t descriptor;
    dnnl_post_ops_t post_ops = NULL;
    if (add) {
        DNNL_CHECK(dnnl_post_ops_create(&post_ops));
        DNNL_CHECK(dnnl_post_ops_append_sum(post_ops, 1));
    }
    dnnl_primitive_attr_t attributes = primitive_attributes(post_ops);
    DNNL_CHECK(dnnl_reorder_primitive_desc_create(&descriptor, from, cpu->primitives->engine, to,
                                                  cpu->primitives->engine, attributes));
    DNNL_CHECK(dnnl_primitive_attr_destroy(attributes));
    return descriptor;
}

void primitive_execute_one(const struct cpu_backend *cpu, const struct primitive *primitive, int thread,
                           int operand_count, const struct operand *operands, void *scratch)
{
    dnnl_exec_arg_t arguments[PRIMITIVE_MAX_OPERANDS];
    dnnl_stream_t stream = cpu->primitives->streams[thread];
    for (int i = 0; i < primitive->operand_count; i++) {
        dnnl_memory_t memory = primitive->memory[thread * primitive->operand_count + i];
        void *data = NULL;
        if (primitive->argument[i] == DNNL_ARG_SCRATCHPAD) data = scratch;
        for (int j = 0; j < operand_count; j++)
            if (operands[j].argument == primitive->argument[i]) data = operands[j].data;
        ASSERT(data || primitive->argument[i] == DNNL_ARG_SCRATCHPAD);
        DNNL_CHECK(dnnl_memory_set_data_handle_v2(memory, data, stream));
        arguments[i] = (dnnl_exec_arg_t){primitive->argument[i], memory};
    }
    DNNL_CHECK(dnnl_primitive_execute(primitive->handle, stream, primitive->operand_count, arguments));
}

void primitive_execute(struct cpu_backend *cpu, const struct primitive *primitive, int operand_count,
                       const struct operand *operands)
{
    struct arena_block *scratch = arena_allocate(cpu->base.scratch, primitive->scratch_bytes);
    if (!cpu->plan) primitive_execute_one(cpu, primitive, 0, operand_count, operands, arena_address(scratch));
    arena_free(cpu->base.scratch, scratch);
}

dnnl_data_type_t dnnl_dtype(enum dtype dtype)
{
    CHECK(dtype == DTYPE_F32 || dtype == DTYPE_BF16, "products are of fp32 or bf16, not of %s",
          dtype_name(dtype));
    return dtype == DTYPE_BF16 ? dnnl_bf16 : dnnl_f32;
}

dnnl_memory_desc_t layout(enum dtype dtype, int rank, const int64_t *dim, const int64_t *strides)
{
    dnnl_memory_desc_t result;
    if (strides)
        DNNL_CHECK(dnnl_memory_desc_init_by_strides(&result, rank, dim, dnnl_dtype(dtype), strides));
    else
        DNNL_CHECK(dnnl_memory_desc_init_by_tag(&result, rank, dim, dnnl_dtype(dtype), dnnl_format_tag_any));
    return result;
}

bool layout_equal(const dnnl_memory_desc_t *a, const dnnl_memory_desc_t *b)
{
    return dnnl_memory_desc_equal(a, b);
}

void primitives_visit(const struct cpu_backend *cpu,
                      void (*visit)(const struct primitive *primitive, void *context), void *context)
{
    for (int i = 0; i < BUCKETS; i++)
        for (const struct primitive *primitive = cpu->primitives->bucket[i]; primitive;
             primitive = primitive->next)
            visit(primitive, context);
}
