#define _POSIX_C_SOURCE 200809L // access
#include "phases/row_cache.h"

#include "base/check.h"
#include "phases/provenance.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const double write_seconds = 30; // between two states of the file while rows are computed

// ---- the file

/* Reads the rows that an open file has of this cache; *rows of them, 0 if its key is another one. */
static bool read_rows(struct h5_reader *reader, const struct row_cache *cache, float *values, int64_t *rows,
                      struct fault *fault)
{
    char *key;
    struct h5_info info;
    if (!h5_load_text(reader, "key", ROW_CACHE_MAX_KEY, &key, fault)) return false;
    bool same = strcmp(key, cache->key) == 0;
    free(key);
    if (!same) return true;
    if (!h5_expect(reader, "values", 2, (int64_t[]){-1, cache->width}, &info, fault)) return false;
    if (info.shape[0] > cache->rows || (info.shape[0] < cache->rows && info.shape[0] % cache->batch != 0))
        return fault_raise(fault, EXIT_CODE_INPUT, "%s has %lld rows of %lld: remove it", h5_path(reader),
                           (long long)info.shape[0], (long long)cache->rows);
    *rows = info.shape[0];
    return *rows == 0 || h5_read_float(reader, "values", 0, *rows, values, fault);
}

/* On rank 0, for all. */
static bool read_file(const struct run *run, const struct row_cache *cache, float *values, int64_t *rows,
                      struct fault *fault)
{
    *rows = 0;
    if (comm_rank(run->comm) == 0 && access(cache->path, F_OK) == 0) {
        struct h5_reader *reader;
        if (h5_open(cache->path, FILE_CACHE, &reader, fault)) {
            bool ok = read_rows(reader, cache, values, rows, fault);
            h5_close(reader);
            if (ok && *rows == 0)
                log_info(run->log, "%s: %s was made from something else: computed anew", cache->what,
                         cache->path);
        }
    }
    if (!comm_agree(run->comm, fault)) return false;
    comm_broadcast(run->comm, 0, rows, sizeof *rows);
    comm_broadcast(run->comm, 0, values, (size_t)(*rows * cache->width) * sizeof *values);
    return true;
}

static bool write_file(const struct run *run, const struct run_cfg *cfg, const struct row_cache *cache,
                       int64_t rows, const float *values, struct fault *fault)
{
    if (comm_rank(run->comm) == 0) {
        struct h5_provenance provenance = run_provenance(run, cfg, NULL, DTYPE_F32, NULL, 0);
        struct h5_writer *writer;
        if (h5_create(cache->path, FILE_CACHE, &writer, fault)) {
            if (h5_write_text(writer, "key", cache->key, fault) &&
                h5_write_float(writer, "values", 2, (int64_t[]){rows, cache->width}, values, fault))
                h5_finish(writer, &provenance, NULL, fault);
            else
                h5_abandon(writer);
        }
    }
    return comm_agree(run->comm, fault);
}

// ---- rounds

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Rows of the batch that begins at `first`; 0 behind the end. */
static int64_t batch_rows(const struct row_cache *cache, int64_t first)
{
    return first < cache->rows ? smaller(cache->batch, cache->rows - first) : 0;
}

/* The next batch of each rank, from row `first` on; *next is the row behind them. */
static bool compute_round(const struct run *run, const struct row_cache *cache, int64_t first, float *values,
                          int64_t *next, struct fault *fault)
{
    int64_t ranks = comm_size(run->comm), mine = first + comm_rank(run->comm) * cache->batch;
    size_t *counts = check_malloc((size_t)ranks * sizeof *counts);
    for (int64_t r = 0; r < ranks; r++) counts[r] = (size_t)batch_rows(cache, first + r * cache->batch);
    int64_t rows = batch_rows(cache, mine);
    float *part = check_malloc((size_t)(rows * cache->width) * sizeof *part);
    if (rows > 0) cache->compute(cache->context, mine, rows, part, fault);
    bool ok = comm_agree(run->comm, fault);
    if (ok)
        comm_gather(run->comm, part, counts, (size_t)cache->width * sizeof *part,
                    values + first * cache->width);
    *next = smaller(first + ranks * cache->batch, cache->rows);
    free(part);
    free(counts);
    return ok;
}

static bool compute_rows(struct run *run, const struct run_cfg *cfg, const struct row_cache *cache,
                         int64_t from, float *values, struct fault *fault)
{
    struct progress progress = progress_start(run->log, cache->what, from, cache->rows);
    double written = timer_now();
    bool stop = false;
    int64_t rows = from;
    while (rows < cache->rows && !stop) {
        if (!compute_round(run, cache, rows, values, &rows, fault)) {
            progress_pause(&progress);
            return false;
        }
        progress_update(&progress, rows, "%s", "");
        stop = comm_any(run->comm, stop_asked(run->stop));
        bool late = comm_any(run->comm, timer_now() - written > write_seconds);
        if (rows < cache->rows && !stop && !late) continue;
        if (!write_file(run, cfg, cache, rows, values, fault)) return false;
        written = timer_now();
    }
    progress_pause(&progress);
    return !stop || fault_raise(fault, EXIT_CODE_STOPPED, "%s: %lld of %lld rows are in %s", cache->what,
                                (long long)rows, (long long)cache->rows, cache->path);
}

bool row_cache_fill(struct run *run, const struct run_cfg *cfg, const struct row_cache *cache, float *values,
                    struct fault *fault)
{
    CHECK(cache->batch >= 1 && strlen(cache->key) < ROW_CACHE_MAX_KEY, "cache in batches of %lld, key of %zu",
          (long long)cache->batch, strlen(cache->key));
    int64_t rows;
    if (cache->rows == 0) return true;
    if (!read_file(run, cache, values, &rows, fault)) return false;
    log_info(run->log, "%s: %lld rows to compute, %lld are in %s", cache->what,
             (long long)(cache->rows - rows), (long long)rows, cache->path);
    return rows == cache->rows || compute_rows(run, cfg, cache, rows, values, fault);
}
