/* Attention in blocks: a thread takes some queries of one or more heads of a sample, and makes their scores,
 * the softmax and the output while the scores lie in its cache. The products are oneDNN's, on one thread
 * each, on the columns of q, k and v where they lie (measured: 85 to 95 % of the speed of a core's large
 * product; packing keys and values first gained nothing).
 *
 * Backward, the same blocks are made again, with keys as rows: then of the five products only dq's has a
 * transposed left operand, which is the slow case. The gradients of keys and values are summed over the
 * blocks by the thread that has the head. */
#include "tensor/cpu/dnnl_primitives.h"
#include "tensor/cpu/tiles.h"
#include "tensor/cpu/vector_math.h"

#include <omp.h>

enum {
    SCORES_FORWARD = 1 << 17, /* of a block: with its probabilities within a level 2 cache of 1 MiB */
    SCORES_BACKWARD = 1 << 16,
    VECTOR = 16,         /* floats */
    FEWEST_QUERIES = 64, /* of a block, however many keys: fewer make the products slow */
};

/* One call: the shapes, and how the work is cut. */
struct work {
    struct cpu_backend *cpu;
    const struct attention *attention;
    const struct tensor *q, *kv, *key_mask;
    struct gate gate;
    enum dtype dtype;
    int64_t samples, queries, keys;
    int64_t group;        /* heads done at once */
    int64_t groups;       /* of a sample */
    int64_t rows, blocks; /* queries of a block (the last one may have fewer); blocks of a head */
};

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Blocks as large as the cache allows, but enough of them for all threads; then several heads at once where
 * sequences are short. `split_queries`: blocks of one head may go to different threads. */
static struct work cut(struct backend *backend, const struct attention *attention, const struct tensor *q,
                       const struct tensor *kv, const struct tensor *key_mask, struct gate gate,
                       int64_t scores, bool split_queries)
{
    struct work work = {.cpu = cpu_backend(backend),
                        .attention = attention,
                        .q = q,
                        .kv = kv,
                        .key_mask = key_mask,
                        .gate = gate,
                        .dtype = q->dtype,
                        .samples = q->dim[0],
                        .queries = tensor_tokens(q),
                        .keys = tensor_tokens(kv)};
    CHECK(attention->scale > 0, "attention with scale %g, which must be positive", (double)attention->scale);
    int64_t units = 2 * primitives_threads(work.cpu), heads = attention->heads;
    int64_t rows = scores / work.keys > FEWEST_QUERIES ? scores / work.keys : FEWEST_QUERIES;
    if (rows > work.queries) rows = work.queries;
    while (split_queries && rows > FEWEST_QUERIES / 2 &&
           work.samples * heads * divide_up(work.queries, rows) < units)
        rows = divide_up(rows, 2);
    work.blocks = divide_up(work.queries, rows);
    work.rows = divide_up(work.queries, work.blocks);
    work.blocks = divide_up(work.queries, work.rows);
    int64_t parts = split_queries ? work.blocks : 1;
    work.group = heads;
    while (work.group > 1 && (heads % work.group != 0 || work.group * work.rows * work.keys > scores ||
                              work.samples * heads / work.group * parts < units))
        work.group--;
    work.groups = heads / work.group;
    return work;
}

/* A stack of matrices, one a head: strides in elements. */
struct matrices {
    enum dtype dtype;
    int64_t stack, row, column;
};

/* Of rows that lie `stride` apart. */
static struct matrices dense(enum dtype dtype, int64_t rows, int64_t stride)
{
    return (struct matrices){dtype, rows * stride, stride, 1};
}

static struct matrices transposed(struct matrices matrices)
{
    return (struct matrices){matrices.dtype, matrices.stack, matrices.column, matrices.row};
}

/* The heads of a tensor [.., channels], each [tokens, head_size]. */
static struct matrices heads_of(const struct work *work, const struct tensor *tensor)
{
    return (struct matrices){tensor->dtype, work->attention->head_size, tensor_channels(tensor), 1};
}

/* c [m, n] = a [m, k] b [k, n] for each head of a group, or c += with `add` */
static struct primitive *product(const struct work *work, int64_t m, int64_t k, int64_t n, struct matrices a,
                                 struct matrices b, struct matrices c, bool add)
{
    struct primitive_key key = {
        .kind = ATTENTION_PRODUCT,
        .dtype = (int32_t)(a.dtype << 16 | b.dtype << 8 | c.dtype),
        .number = {work->group, m, k, n, a.stack, a.row, a.column, b.stack, b.row, b.column, c.stack, c.row,
                   c.column, add},
    };
    struct primitive *kept = primitive_find(work->cpu, &key);
    if (kept) return kept;
    dnnl_memory_desc_t left =
        layout(a.dtype, 3, (int64_t[]){work->group, m, k}, (int64_t[]){a.stack, a.row, a.column});
    dnnl_memory_desc_t right =
        layout(b.dtype, 3, (int64_t[]){work->group, k, n}, (int64_t[]){b.stack, b.row, b.column});
    dnnl_memory_desc_t result =
        layout(c.dtype, 3, (int64_t[]){work->group, m, n}, (int64_t[]){c.stack, c.row, c.column});
    dnnl_matmul_desc_t operation;
    DNNL_CHECK(dnnl_matmul_desc_init(&operation, &left, &right, NULL, &result));
    dnnl_post_ops_t post_ops = NULL;
    if (add) {
        DNNL_CHECK(dnnl_post_ops_create(&post_ops));
        DNNL_CHECK(dnnl_post_ops_append_sum(post_ops, 1));
    }
    return primitive_keep(work->cpu, &key,
                          one_thread_descriptor(work->cpu, &operation, primitive_attributes(post_ops), NULL),
                          primitives_threads(work->cpu));
}

static void multiply(const struct work *work, const struct primitive *product, const void *a, const void *b,
                     void *c, void *scratch)
{
    struct operand operands[] = {{DNNL_ARG_SRC, (void *)a}, {DNNL_ARG_WEIGHTS, (void *)b}, {DNNL_ARG_DST, c}};
    primitive_execute_one(work->cpu, product, omp_get_thread_num(), 3, operands, scratch);
}

/* Where a sample's token and head begin in a tensor whose heads begin at `column`. */
static int64_t element_of(const struct work *work, const struct tensor *tensor, int64_t sample, int64_t token,
                          int64_t column, int64_t head)
{
    return (sample * tensor_tokens(tensor) + token) * tensor_channels(tensor) + column +
           head * work->attention->head_size;
}

static void *address_of(const struct work *work, const struct tensor *tensor, int64_t sample, int64_t token,
                        int64_t column, int64_t head)
{
    return (char *)tensor->data +
           (size_t)element_of(work, tensor, sample, token, column, head) * dtype_size(tensor->dtype);
}

static float gate_of_head(const struct work *work, int64_t sample, int64_t head)
{
    return gate_of_channel(work->gate, sample, head, work->attention->heads);
}

static void store_row(const struct tensor *tensor, int64_t first, int64_t count, const float *row)
{
    if (tensor->dtype == DTYPE_F32)
        memcpy((float *)tensor->data + first, row, (size_t)count * sizeof *row);
    else
        tile_store(tensor, first, count, row);
}

/* Parts of a block of scratch memory, dealt out in order; base NULL only counts. */
static void *deal(char *base, size_t *used, size_t bytes)
{
    void *part = base ? base + *used : NULL;
    *used += (bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
    return part;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* ---- forward */

/* The products of a block: of all but the last, and of the last. */
struct forward_products {
    struct primitive *scores, *output;
};

struct forward_scratch {
    float *scores;       /* [group, rows, row_stride] */
    void *probabilities; /* the same in the compute dtype; in place in fp32 */
    float *output;       /* [group, rows, head_size], not divided by the sums */
    float *factor;       /* [group, rows]: gate / sum */
    void *product;       /* of the primitives */
};

/* Floats between the rows of a block's scores. */
static int64_t row_stride(const struct work *work)
{
    return divide_up(work->keys, VECTOR) * VECTOR;
}

static struct forward_products forward_products(const struct work *work, int64_t rows)
{
    int64_t keys = work->keys, size = work->attention->head_size, stride = row_stride(work);
    struct matrices q = heads_of(work, work->q), kv = heads_of(work, work->kv);
    return (struct forward_products){
        .scores = product(work, rows, size, keys, q, transposed(kv), dense(DTYPE_F32, rows, stride), false),
        .output = product(work, rows, keys, size, dense(work->dtype, rows, stride), kv,
                          dense(DTYPE_F32, rows, size), false),
    };
}

static struct forward_scratch
forward_scratch(const struct work *work, const struct forward_products products[2], char *base, size_t *bytes)
{
    size_t rows = (size_t)(work->group * work->rows), product_bytes = 0;
    size_t stride = (size_t)row_stride(work);
    for (int i = 0; i < 2; i++)
        product_bytes = larger(product_bytes,
                               larger(products[i].scores->scratch_bytes, products[i].output->scratch_bytes));
    struct forward_scratch scratch;
    scratch.scores = deal(base, bytes, rows * stride * sizeof(float));
    scratch.probabilities = work->dtype == DTYPE_F32
                                ? (void *)scratch.scores
                                : deal(base, bytes, rows * stride * dtype_size(work->dtype));
    scratch.output = deal(base, bytes, rows * (size_t)work->attention->head_size * sizeof(float));
    scratch.factor = deal(base, bytes, rows * sizeof(float));
    scratch.product = deal(base, bytes, product_bytes);
    return scratch;
}

/* Scores of one query -> scale score + bias */
static void add_bias(float *restrict row, int64_t keys, float scale, const float *restrict bias)
{
#pragma omp simd
    for (int64_t i = 0; i < keys; i++) row[i] = multiply_add(row[i], scale, bias[i]);
}

/* Scores of one query -> exp(scale (score - largest)); returns their sum, and its logarithm with the largest
 * score added. Keys from `visible` on, and those with mask 0, are hidden. `stride` is a multiple of the
 * vector length, so that the loops over a row have no scalar rest. */
static float exponentials(float *restrict row, int64_t keys, int64_t visible, int64_t stride, float scale,
                          const float *restrict mask, float *log_sum)
{
    float largest = -INFINITY, sum = 0;
    if (mask)
#pragma omp simd
        for (int64_t i = 0; i < keys; i++) row[i] = mask[i] != 0 ? row[i] : -INFINITY;
    for (int64_t i = visible; i < stride; i++) row[i] = -INFINITY;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < stride; i++) largest = row[i] > largest ? row[i] : largest;
    if (largest == -INFINITY) largest = 0; // a query that sees no key: output zero
    float shift = -scale * largest;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < stride; i++) {
        float exponential = vector_exp(multiply_add(row[i], scale, shift));
        row[i] = exponential;
        sum += exponential;
    }
    *log_sum = sum == 0 ? 0 : logf(sum) - shift;
    return sum;
}

/* The bias of one query's scores, or NULL. */
static const float *bias_of(const struct work *work, int64_t head, int64_t query)
{
    const struct tensor *bias = work->attention->bias;
    if (!bias) return NULL;
    int64_t slice = bias->dim[0] == 1 ? 0 : head;
    return (const float *)bias->data + (slice * work->queries + query) * work->keys;
}

/* Block `block` of heads [head, head + group) of a sample. */
static void forward_block(const struct work *work, const struct forward_products *products,
                          const struct forward_scratch *scratch, int64_t sample, int64_t head, int64_t block,
                          struct tensor *y, struct tensor *log_sum)
{
    const struct attention *attention = work->attention;
    int64_t first = block * work->rows, keys = work->keys, stride = row_stride(work);
    int64_t size = attention->head_size;
    int64_t rows = work->queries - first < work->rows ? work->queries - first : work->rows;
    const float *mask = work->key_mask ? (const float *)work->key_mask->data + sample * keys : NULL;
    const struct tensor probabilities = {.dtype = work->dtype, .data = scratch->probabilities};

    multiply(work, products->scores, address_of(work, work->q, sample, first, attention->q_column, head),
             address_of(work, work->kv, sample, 0, attention->k_column, head), scratch->scores,
             scratch->product);
    for (int64_t i = 0; i < work->group * rows; i++) {
        int64_t this_head = head + i / rows, query = first + i % rows;
        int64_t visible = attention->causal && query + 1 < keys ? query + 1 : keys;
        float *row = scratch->scores + i * stride, scale = attention->scale;
        const float *bias = bias_of(work, this_head, query);
        if (bias) {
            add_bias(row, keys, scale, bias);
            scale = 1;
        }
        float *log = (float *)log_sum->data + (sample * attention->heads + this_head) * work->queries + query;
        float sum = exponentials(row, keys, visible, stride, scale, mask, log);
        scratch->factor[i] = sum == 0 ? 0 : gate_of_head(work, sample, this_head) / sum;
        tile_store(&probabilities, i * stride, stride, row);
    }
    multiply(work, products->output, scratch->probabilities,
             address_of(work, work->kv, sample, 0, attention->v_column, head), scratch->output,
             scratch->product);
    for (int64_t i = 0; i < work->group * rows; i++) {
        float *row = scratch->output + i * size;
#pragma omp simd
        for (int64_t j = 0; j < size; j++) row[j] *= scratch->factor[i];
        store_row(y, element_of(work, y, sample, first + i % rows, 0, head + i / rows), size, row);
    }
}

void attention_forward_cpu(struct backend *backend, const struct attention *attention, const struct tensor *q,
                           const struct tensor *kv, const struct tensor *key_mask, struct gate gate,
                           struct tensor *y, struct tensor *log_sum)
{
    const struct work work = cut(backend, attention, q, kv, key_mask, gate, SCORES_FORWARD, true);
    const struct forward_products products[2] = {
        forward_products(&work, work.rows),
        forward_products(&work, work.queries - (work.blocks - 1) * work.rows)};
    size_t bytes = 0;
    forward_scratch(&work, products, NULL, &bytes);
    int threads = primitives_threads(work.cpu);
    struct arena_block *memory = arena_allocate(backend->scratch, (size_t)threads * bytes);
    int64_t units = work.samples * work.groups * work.blocks;
    if (!work.cpu->plan)
#pragma omp parallel num_threads(threads)
    {
        size_t used = 0;
        char *base = (char *)arena_address(memory) + (size_t)omp_get_thread_num() * bytes;
        struct forward_scratch scratch = forward_scratch(&work, products, base, &used);
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < units; unit++) {
            int64_t block = unit % work.blocks, group = unit / work.blocks % work.groups;
            forward_block(&work, &products[block == work.blocks - 1], &scratch,
                          unit / work.blocks / work.groups, group * work.group, block, y, log_sum);
        }
    }
    arena_free(backend->scratch, memory);
}

/* ---- backward. With P = softmax(scale q k'), E = dy v' and the gate g of the head, y = g P v, so
 *   dv = g P' dy,  D = rowsum(P * E),  dS = g scale P * (E - D),  dq = dS k,  dk = dS' q,  dg = sum(D):
 * the output is not needed, so a gate of zero needs no care. In a block all are transposed: [keys, rows]. */

struct backward_products {
    struct primitive *scores, *output_gradient; /* P', E' */
    struct primitive *dq, *dk, *dv;
};

struct backward_scratch {
    float *scores, *gradients;             /* [group, keys, rows]: P', then E' */
    void *probabilities, *score_gradients; /* g P' and dS' in the compute dtype; in place in fp32 */
    float *dot;                            /* [rows]: D */
    float *dk, *dv;                        /* [group, keys, head_size] */
    void *product;
};

struct gradients {
    const struct tensor *log_sum, *dy;
    struct tensor *dq, *dkv; /* or NULL */
    double *dgates;          /* [samples, heads] or NULL */
};

static struct backward_products backward_products(const struct work *work, int64_t rows,
                                                  const struct gradients *gradients)
{
    int64_t keys = work->keys, size = work->attention->head_size;
    struct matrices q = heads_of(work, work->q), kv = heads_of(work, work->kv),
                    dy = heads_of(work, gradients->dy);
    struct matrices scores = dense(DTYPE_F32, keys, rows), factors = dense(work->dtype, keys, rows);
    struct matrices sums = dense(DTYPE_F32, keys, size);
    struct backward_products products = {
        .scores = product(work, keys, size, rows, kv, transposed(q), scores, false),
        .output_gradient = product(work, keys, size, rows, kv, transposed(dy), scores, false),
    };
    if (gradients->dq)
        products.dq =
            product(work, rows, keys, size, transposed(factors), kv, heads_of(work, gradients->dq), false);
    if (gradients->dkv) {
        products.dk = product(work, keys, rows, size, factors, q, sums, true);
        products.dv = product(work, keys, rows, size, factors, dy, sums, true);
    }
    return products;
}

static size_t backward_product_bytes(const struct backward_products *products)
{
    const struct primitive *all[] = {products->scores, products->output_gradient, products->dq, products->dk,
                                     products->dv};
    size_t bytes = 0;
    for (int i = 0; i < 5; i++)
        if (all[i]) bytes = larger(bytes, all[i]->scratch_bytes);
    return bytes;
}

static struct backward_scratch backward_scratch(const struct work *work,
                                                const struct backward_products products[2], char *base,
                                                size_t *bytes)
{
    size_t count = (size_t)(work->group * work->rows * work->keys);
    size_t sums = products->dk ? (size_t)(work->group * work->keys * work->attention->head_size) : 0;
    struct backward_scratch scratch;
    scratch.scores = deal(base, bytes, count * sizeof(float));
    scratch.gradients = deal(base, bytes, count * sizeof(float));
    scratch.probabilities = scratch.scores;
    scratch.score_gradients = scratch.gradients;
    if (work->dtype != DTYPE_F32) {
        scratch.probabilities = deal(base, bytes, count * dtype_size(work->dtype));
        scratch.score_gradients = deal(base, bytes, count * dtype_size(work->dtype));
    }
    scratch.dot = deal(base, bytes, (size_t)work->rows * sizeof(float));
    scratch.dk = deal(base, bytes, sums * sizeof(float));
    scratch.dv = deal(base, bytes, sums * sizeof(float));
    scratch.product =
        deal(base, bytes, larger(backward_product_bytes(&products[0]), backward_product_bytes(&products[1])));
    return scratch;
}

/* Scores of one key -> probabilities, and adds their part to dot. Queries before `first_visible` do not see
 * the key. */
static void probabilities_of_key(float *restrict scores, const float *restrict gradients,
                                 const float *restrict log_sum, float *restrict dot, int64_t rows,
                                 int64_t first_visible, float scale)
{
    for (int64_t i = 0; i < first_visible; i++) scores[i] = 0;
#pragma omp simd
    for (int64_t i = first_visible; i < rows; i++) {
        float probability = vector_exp(scores[i] * scale - log_sum[i]);
        scores[i] = probability;
        dot[i] += probability * gradients[i];
    }
}

/* One head of a block: P' and E' -> g P' and dS' in the compute dtype, and D. */
static void backward_softmax(const struct work *work, const struct backward_scratch *scratch, int64_t slot,
                             int64_t first, int64_t rows, const float *mask, const float *log_sum, float gate)
{
    int64_t keys = work->keys;
    float scale = work->attention->scale;
    const struct tensor probabilities = {.dtype = work->dtype, .data = scratch->probabilities};
    const struct tensor score_gradients = {.dtype = work->dtype, .data = scratch->score_gradients};
    float *restrict dot = scratch->dot;
    for (int64_t i = 0; i < rows; i++) dot[i] = 0;
    for (int64_t key = 0; key < keys; key++) {
        int64_t first_visible = work->attention->causal && key > first ? key - first : 0;
        if (first_visible > rows || (mask && mask[key] == 0)) first_visible = rows;
        int64_t at = (slot * keys + key) * rows;
        probabilities_of_key(scratch->scores + at, scratch->gradients + at, log_sum, dot, rows, first_visible,
                             scale);
    }
    for (int64_t key = 0; key < keys; key++) {
        int64_t at = (slot * keys + key) * rows;
        float *restrict p = scratch->scores + at, *restrict ds = scratch->gradients + at;
#pragma omp simd
        for (int64_t i = 0; i < rows; i++) {
            ds[i] = gate * scale * p[i] * (ds[i] - dot[i]);
            p[i] *= gate;
        }
        tile_store(&probabilities, at, rows, p);
        tile_store(&score_gradients, at, rows, ds);
    }
}

static void backward_block(const struct work *work, const struct backward_products *products,
                           const struct backward_scratch *scratch, int64_t sample, int64_t head,
                           int64_t block, const struct gradients *gradients)
{
    const struct attention *attention = work->attention;
    int64_t first = block * work->rows, keys = work->keys;
    int64_t rows = work->queries - first < work->rows ? work->queries - first : work->rows;
    const float *mask = work->key_mask ? (const float *)work->key_mask->data + sample * keys : NULL;
    const void *q = address_of(work, work->q, sample, first, attention->q_column, head);
    const void *k = address_of(work, work->kv, sample, 0, attention->k_column, head);
    const void *v = address_of(work, work->kv, sample, 0, attention->v_column, head);
    const void *dy = address_of(work, gradients->dy, sample, first, 0, head);

    multiply(work, products->scores, k, q, scratch->scores, scratch->product);
    multiply(work, products->output_gradient, v, dy, scratch->gradients, scratch->product);
    for (int64_t slot = 0; slot < work->group; slot++) {
        int64_t sample_head = sample * attention->heads + head + slot;
        const float *log_sum = (const float *)gradients->log_sum->data + sample_head * work->queries + first;
        backward_softmax(work, scratch, slot, first, rows, mask, log_sum,
                         gate_of_head(work, sample, head + slot));
        if (gradients->dgates)
            for (int64_t i = 0; i < rows; i++) gradients->dgates[sample_head] += (double)scratch->dot[i];
    }
    if (products->dq)
        multiply(work, products->dq, scratch->score_gradients, k,
                 address_of(work, gradients->dq, sample, first, attention->q_column, head), scratch->product);
    if (products->dk) {
        multiply(work, products->dk, scratch->score_gradients, q, scratch->dk, scratch->product);
        multiply(work, products->dv, scratch->probabilities, dy, scratch->dv, scratch->product);
    }
}

/* Heads [head, head + group) of a sample: all blocks, then the sums over them. */
static void backward_heads(const struct work *work, const struct backward_products products[2],
                           const struct backward_scratch *scratch, int64_t sample, int64_t head,
                           const struct gradients *gradients)
{
    const struct attention *attention = work->attention;
    int64_t keys = work->keys, size = attention->head_size;
    size_t bytes = (size_t)(work->group * keys * size) * sizeof(float);
    if (gradients->dkv) {
        memset(scratch->dk, 0, bytes);
        memset(scratch->dv, 0, bytes);
    }
    for (int64_t block = 0; block < work->blocks; block++)
        backward_block(work, &products[block == work->blocks - 1], scratch, sample, head, block, gradients);
    if (!gradients->dkv) return;
    for (int64_t i = 0; i < work->group * keys; i++) {
        int64_t this_head = head + i / keys, key = i % keys;
        store_row(gradients->dkv,
                  element_of(work, gradients->dkv, sample, key, attention->k_column, this_head), size,
                  scratch->dk + i * size);
        store_row(gradients->dkv,
                  element_of(work, gradients->dkv, sample, key, attention->v_column, this_head), size,
                  scratch->dv + i * size);
    }
}

void attention_backward_cpu(struct backend *backend, const struct attention *attention,
                            const struct tensor *q, const struct tensor *kv, const struct tensor *key_mask,
                            struct gate gate, const struct tensor *y, const struct tensor *log_sum,
                            const struct tensor *dy, struct tensor *dq, struct tensor *dkv,
                            struct tensor *dgates)
{
    (void)y;
    const struct work work = cut(backend, attention, q, kv, key_mask, gate, SCORES_BACKWARD, false);
    int threads = primitives_threads(work.cpu);
    int64_t units = work.samples * work.groups, heads = attention->heads;
    struct arena_block *gate_memory =
        arena_allocate(backend->scratch, (size_t)(work.samples * heads) * sizeof(double));
    struct gradients gradients = {log_sum, dy, dq, dkv, dgates ? arena_address(gate_memory) : NULL};
    const struct backward_products products[2] = {
        backward_products(&work, work.rows, &gradients),
        backward_products(&work, work.queries - (work.blocks - 1) * work.rows, &gradients)};
    size_t bytes = 0;
    backward_scratch(&work, products, NULL, &bytes);
    struct arena_block *memory = arena_allocate(backend->scratch, (size_t)threads * bytes);
    if (!work.cpu->plan) {
        if (dgates) memset(gradients.dgates, 0, (size_t)(work.samples * heads) * sizeof(double));
#pragma omp parallel num_threads(threads)
        {
            size_t used = 0;
            char *base = (char *)arena_address(memory) + (size_t)omp_get_thread_num() * bytes;
            struct backward_scratch scratch = backward_scratch(&work, products, base, &used);
#pragma omp for schedule(static)
            for (int64_t unit = 0; unit < units; unit++)
                backward_heads(&work, products, &scratch, unit / work.groups, unit % work.groups * work.group,
                               &gradients);
        }
        if (dgates)
            for (int64_t i = 0; i < work.samples * heads; i++)
                ((float *)dgates->data)[i / heads * dgates->dim[1] + gate.first + i % heads] +=
                    (float)gradients.dgates[i];
    }
    arena_free(backend->scratch, memory);
    arena_free(backend->scratch, gate_memory);
}
