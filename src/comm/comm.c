#define _POSIX_C_SOURCE 200809L // nanosleep
#include "comm/comm.h"

#include "base/check.h"
#include "base/timer.h"

#include <limits.h>
#include <math.h>
#include <mpi.h>
#ifdef OPEN_MPI
#include <mpi-ext.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const double patience = 5; // seconds that a failed rank waits for others that may have failed alike

struct comm {
    MPI_Comm mpi;     /* owned */
    MPI_Comm meeting; /* the same ranks, for comm_meet alone; owned */
    int rank, size, node_rank, node_size;
    size_t piece; /* largest message, bytes */
};

/* One message of a sum under way. An ordered sum is two messages: each rank gets everybody's part of its own
 * slice and sums it; then the slices are gathered, which waits for the end, since only there all ranks are at
 * the same place. */
struct piece {
    float *values; /* [count] borrowed */
    size_t count;
    MPI_Request request;
    float *parts;                    /* [ranks, slice]: ordered sums alone, owned */
    int *slice_count, *slice_offset; /* [ranks] of `values`; one block of memory, owned */
};

struct comm_request {
    const struct comm *comm; /* borrowed */
    bool ordered;
    struct piece *piece; /* owned */
    size_t pieces;
};

static void mpi_check(int code, const char *file, int line, const char *call)
{
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    check_failed(file, line, call, "%.*s", length, text);
}
#define MPI_CHECK(call) mpi_check(call, __FILE__, __LINE__, #call)

static void abort_job(int exit_code)
{
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!finalized) MPI_Abort(MPI_COMM_WORLD, exit_code);
    _Exit(exit_code);
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static struct comm *comm_wrap(MPI_Comm mpi, size_t piece)
{
    struct comm *comm = check_calloc(1, sizeof *comm);
    comm->mpi = mpi;
    comm->piece = piece;
    MPI_CHECK(MPI_Comm_rank(mpi, &comm->rank));
    MPI_CHECK(MPI_Comm_size(mpi, &comm->size));
    MPI_CHECK(MPI_Comm_dup(mpi, &comm->meeting));
    MPI_Comm node;
    MPI_CHECK(MPI_Comm_split_type(mpi, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &node));
    MPI_CHECK(MPI_Comm_rank(node, &comm->node_rank));
    MPI_CHECK(MPI_Comm_size(node, &comm->node_size));
    MPI_CHECK(MPI_Comm_free(&node));
    return comm;
}

struct comm *comm_start(int *argc, char ***argv)
{
    int provided = 0;
    MPI_CHECK(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
    MPI_CHECK(
        MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN)); // so that MPI_CHECK can name the call
    int rank = 0;
    MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    check_set_abort(abort_job, rank);
    CHECK(provided >= MPI_THREAD_FUNNELED, "MPI gives thread level %d, %d (funneled) is needed", provided,
          MPI_THREAD_FUNNELED);
    MPI_Comm world;
    MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &world));
    return comm_wrap(world, (size_t)1 << 30);
}

void comm_stop(struct comm *comm)
{
    comm_free(comm);
    MPI_CHECK(MPI_Finalize());
}

int comm_rank(const struct comm *comm)
{
    return comm->rank;
}

int comm_size(const struct comm *comm)
{
    return comm->size;
}

int comm_node_rank(const struct comm *comm)
{
    return comm->node_rank;
}

int comm_node_size(const struct comm *comm)
{
    return comm->node_size;
}

char *comm_library(void)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    MPI_CHECK(MPI_Get_library_version(text, &length));
    text[strcspn(text, ",\n")] = '\0'; // "Open MPI v4.1.4, package: ..." and more that nobody reads
    return check_strdup(text);
}

char *comm_host(void)
{
    char name[MPI_MAX_PROCESSOR_NAME] = {0};
    int length = 0;
    MPI_CHECK(MPI_Get_processor_name(name, &length));
    return check_strdup(name);
}

char *comm_hosts(const struct comm *comm)
{
    enum { NAME = MPI_MAX_PROCESSOR_NAME };
    char mine[NAME] = {0}, *host = comm_host();
    memcpy(mine, host, strlen(host));
    free(host);
    char(*all)[NAME] = check_malloc((size_t)comm->size * NAME);
    comm_gather_one(comm, mine, NAME, all);
    char *hosts = check_strdup("");
    for (int rank = 0; rank < comm->size; rank++) {
        bool known = false;
        for (int other = 0; other < rank && !known; other++) known = strcmp(all[other], all[rank]) == 0;
        if (known) continue;
        char *longer = check_format("%s%s%s", hosts, *hosts ? " " : "", all[rank]);
        free(hosts);
        hosts = longer;
    }
    free(all);
    return hosts;
}

struct comm *comm_split(const struct comm *comm, int colour)
{
    CHECK(colour >= 0, "colour %d, must be at least 0", colour);
    MPI_Comm group;
    MPI_CHECK(MPI_Comm_split(comm->mpi, colour, comm->rank, &group));
    return comm_wrap(group, comm->piece);
}

void comm_free(struct comm *comm)
{
    MPI_CHECK(MPI_Comm_free(&comm->meeting));
    MPI_CHECK(MPI_Comm_free(&comm->mpi));
    free(comm);
}

void comm_set_piece(struct comm *comm, size_t bytes)
{
    CHECK(bytes >= sizeof(double) && bytes <= INT_MAX, "pieces of %zu bytes, allowed: 8 to %d", bytes,
          INT_MAX);
    comm->piece = bytes;
}

void comm_barrier(const struct comm *comm)
{
    MPI_CHECK(MPI_Barrier(comm->mpi));
}

void comm_broadcast(const struct comm *comm, int root, void *data, size_t bytes)
{
    for (size_t done = 0; done < bytes; done += comm->piece) {
        size_t count = smaller(comm->piece, bytes - done);
        MPI_CHECK(MPI_Bcast((char *)data + done, (int)count, MPI_BYTE, root, comm->mpi));
    }
}

bool comm_any(const struct comm *comm, bool mine)
{
    int any = mine;
    MPI_CHECK(MPI_Allreduce(MPI_IN_PLACE, &any, 1, MPI_INT, MPI_LOR, comm->mpi));
    return any;
}

bool comm_agree(const struct comm *comm, struct fault *fault)
{
    int first = fault->code != EXIT_CODE_OK ? comm->rank : INT_MAX;
    MPI_CHECK(MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, comm->mpi));
    if (first == INT_MAX) return true;
    comm_broadcast(comm, first, fault, sizeof *fault);
    return false;
}

bool comm_meet(const struct comm *comm, double seconds)
{
    const struct timespec pause = {.tv_nsec = 1000000}; // a waiting rank leaves its core to those that work
    MPI_Request request;
    int all = 0;
    MPI_CHECK(MPI_Ibarrier(comm->meeting, &request));
    for (double deadline = timer_now() + seconds;;) {
        MPI_CHECK(MPI_Test(&request, &all, MPI_STATUS_IGNORE));
        if (all || timer_now() > deadline) return all;
        nanosleep(&pause, NULL);
    }
}

bool comm_conclude(const struct comm *comm, struct fault *fault)
{
    bool failed = fault->code != EXIT_CODE_OK;
    if (!comm_meet(comm, failed ? patience : INFINITY)) {
        int rank = 0;
        MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
        fprintf(stderr, "aptp: error: rank %d: %s\n", rank, fault->text);
        comm_abort(comm, fault->code);
    }
    return comm_agree(comm, fault);
}

bool comm_rejoin(const struct comm *parent, const struct comm *group, struct fault *fault)
{
    comm_conclude(group, fault);
    comm_meet(parent, INFINITY);
    return comm_agree(parent, fault);
}

void comm_abort(const struct comm *comm, int exit_code)
{
    (void)comm;
    abort_job(exit_code);
    _Exit(exit_code);
}

/* MPI_Allgatherv, for parts that together fit into one message. */
static void gather_at_once(const struct comm *comm, const void *mine, const size_t *counts, size_t element,
                           void *all)
{
    int *bytes = check_malloc(2 * (size_t)comm->size * sizeof *bytes);
    int *offset = bytes + comm->size;
    int total = 0;
    for (int rank = 0; rank < comm->size; rank++) {
        bytes[rank] = (int)(counts[rank] * element);
        offset[rank] = total;
        total += bytes[rank];
    }
    MPI_CHECK(MPI_Allgatherv(mine, bytes[comm->rank], MPI_BYTE, all, bytes, offset, MPI_BYTE, comm->mpi));
    free(bytes);
}

void comm_gather(const struct comm *comm, const void *mine, const size_t *counts, size_t element, void *all)
{
    size_t total = 0;
    for (int rank = 0; rank < comm->size; rank++) total += counts[rank] * element;
    if (total <= comm->piece) {
        gather_at_once(comm, mine, counts, element, all);
        return;
    }
    char *part = all;
    for (int rank = 0; rank < comm->size; rank++) {
        size_t bytes = counts[rank] * element;
        if (rank == comm->rank && bytes > 0) memmove(part, mine, bytes);
        comm_broadcast(comm, rank, part, bytes);
        part += bytes;
    }
}

void comm_gather_one(const struct comm *comm, const void *mine, size_t element, void *all)
{
    size_t *counts = check_malloc((size_t)comm->size * sizeof *counts);
    for (int rank = 0; rank < comm->size; rank++) counts[rank] = 1;
    comm_gather(comm, mine, counts, element, all);
    free(counts);
}

void comm_sum_ordered(const struct comm *comm, double *values, size_t count)
{
    if (comm->size == 1) return;
    size_t ranks = (size_t)comm->size;
    size_t *counts = check_malloc(ranks * sizeof *counts);
    for (size_t rank = 0; rank < ranks; rank++) counts[rank] = count;
    double *all = check_malloc(ranks * count * sizeof *all); // [ranks, count]
    comm_gather(comm, values, counts, sizeof *values, all);
    for (size_t i = 0; i < count; i++) {
        double sum = 0;
        for (size_t rank = 0; rank < ranks; rank++) sum += all[rank * count + i];
        values[i] = sum;
    }
    free(all);
    free(counts);
}

/* Slice `rank` of `count` values when they are shared out over `ranks`: where it begins, in values. */
static size_t slice_first(size_t count, int rank, int ranks)
{
    return count * (size_t)rank / (size_t)ranks;
}

/* Sends every rank its slice of the values: this one gets parts [ranks, slice] of what it is to sum. */
static void exchange_slices(const struct comm *comm, struct piece *piece)
{
    int ranks = comm->size, *count = check_malloc(4 * (size_t)ranks * sizeof *count);
    int *offset = count + ranks, *part_count = offset + ranks, *part_offset = part_count + ranks;
    for (int rank = 0; rank < ranks; rank++) {
        offset[rank] = (int)slice_first(piece->count, rank, ranks);
        count[rank] = (int)slice_first(piece->count, rank + 1, ranks) - offset[rank];
    }
    for (int rank = 0; rank < ranks; rank++) {
        part_count[rank] = count[comm->rank];
        part_offset[rank] = rank * count[comm->rank];
    }
    piece->slice_count = count;
    piece->slice_offset = offset;
    piece->parts = check_malloc((size_t)ranks * (size_t)count[comm->rank] * sizeof *piece->parts);
    MPI_CHECK(MPI_Ialltoallv(piece->values, count, offset, MPI_FLOAT, piece->parts, part_count, part_offset,
                             MPI_FLOAT, comm->mpi, &piece->request));
}

/* Sums this rank's slice in rank order and gathers all slices. */
static void sum_slices(const struct comm *comm, struct piece *piece)
{
    int count = piece->slice_count[comm->rank];
    float *values = piece->values + piece->slice_offset[comm->rank];
    for (int i = 0; i < count; i++) {
        double sum = 0;
        for (int rank = 0; rank < comm->size; rank++)
            sum += piece->parts[(size_t)rank * (size_t)count + (size_t)i];
        values[i] = (float)sum;
    }
    MPI_CHECK(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, piece->values, piece->slice_count,
                             piece->slice_offset, MPI_FLOAT, comm->mpi));
    free(piece->parts);
    free(piece->slice_count);
}

struct comm_request *comm_sum_start(const struct comm *comm, float *values, size_t count, bool ordered)
{
    size_t most = comm->piece / sizeof *values;
    struct comm_request *request = check_malloc(sizeof *request);
    *request = (struct comm_request){comm, ordered, NULL, (count + most - 1) / most};
    request->piece = check_calloc(request->pieces, sizeof *request->piece);
    for (size_t i = 0; i < request->pieces; i++) {
        struct piece *piece = &request->piece[i];
        piece->values = values + i * most;
        piece->count = smaller(most, count - i * most);
        if (ordered)
            exchange_slices(comm, piece);
        else
            MPI_CHECK(MPI_Iallreduce(MPI_IN_PLACE, piece->values, (int)piece->count, MPI_FLOAT, MPI_SUM,
                                     comm->mpi, &piece->request));
    }
    return request;
}

bool comm_sum_test(struct comm_request *request)
{
    for (size_t i = 0; i < request->pieces; i++) {
        int done = 0;
        MPI_CHECK(MPI_Test(&request->piece[i].request, &done, MPI_STATUS_IGNORE));
        if (!done) return false;
    }
    return true;
}

void comm_sum_wait(struct comm_request *request)
{
    for (size_t i = 0; i < request->pieces; i++) {
        MPI_CHECK(MPI_Wait(&request->piece[i].request, MPI_STATUS_IGNORE));
        if (request->ordered) sum_slices(request->comm, &request->piece[i]);
    }
    free(request->piece);
    free(request);
}

void comm_sum(const struct comm *comm, float *values, size_t count)
{
    comm_sum_wait(comm_sum_start(comm, values, count, false));
}

/* Blocking, in place, whatever memory the pointers lead to. */
void comm_sum_device(const struct comm *comm, float *device_values, size_t count)
{
    size_t piece = comm->piece / sizeof *device_values;
    for (size_t first = 0; first < count; first += piece) {
        int size = (int)(count - first < piece ? count - first : piece);
        MPI_CHECK(MPI_Allreduce(MPI_IN_PLACE, device_values + first, size, MPI_FLOAT, MPI_SUM, comm->mpi));
    }
}

bool comm_claims_cuda(void)
{
#ifdef OMPI_HAVE_MPI_EXT_CUDA
    return MPIX_Query_cuda_support() == 1;
#else
    return false;
#endif
}

double comm_min(const struct comm *comm, double mine)
{
    MPI_CHECK(MPI_Allreduce(MPI_IN_PLACE, &mine, 1, MPI_DOUBLE, MPI_MIN, comm->mpi));
    return mine;
}

double comm_max(const struct comm *comm, double mine)
{
    MPI_CHECK(MPI_Allreduce(MPI_IN_PLACE, &mine, 1, MPI_DOUBLE, MPI_MAX, comm->mpi));
    return mine;
}
