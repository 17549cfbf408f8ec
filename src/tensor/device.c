#include "tensor/device.h"

#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef APTP_CUDA
#include "cuda_backend.h"
#endif

enum { TEXT = 256 };

/* What a rank says of its GPU: the place is one of the whole job's. */
struct choice {
    char place[TEXT], text[TEXT];
};

#ifdef APTP_CUDA
bool device_built(void)
{
    return true;
}

int device_count(void)
{
    return cuda_device_count();
}

char *device_libraries(void)
{
    return cuda_libraries_text();
}

bool device_has_bf16(void)
{
    return cuda_device_has_bf16(0);
}

char *device_text(void)
{
    return cuda_device_text(cuda_device_chosen());
}

/* The process's GPU from now on. */
static void choose(int device, char place[TEXT], char text[TEXT])
{
    cuda_device_choose(device);
    char *bus = cuda_device_bus(device), *name = cuda_device_text(device);
    snprintf(place, TEXT, "%s", bus);
    snprintf(text, TEXT, "GPU %d (%s): %s", device, bus, name);
    free(bus);
    free(name);
}
#else
bool device_built(void)
{
    return false;
}

int device_count(void)
{
    return 0;
}

char *device_libraries(void)
{
    return NULL;
}

bool device_has_bf16(void)
{
    return false;
}

char *device_text(void)
{
    return NULL;
}

static void choose(int device, char place[TEXT], char text[TEXT])
{
    (void)device, (void)place, (void)text;
}
#endif

/* How many of the choices are that of `rank`. */
static int sharing(const struct choice *all, int ranks, int rank)
{
    int same = 0;
    for (int other = 0; other < ranks; other++) same += strcmp(all[other].place, all[rank].place) == 0;
    return same;
}

/* On every rank the same verdict, as all know all choices. */
static bool check_sharing(const struct choice *all, int ranks, int ranks_per_gpu, struct fault *fault)
{
    for (int rank = 0; rank < ranks; rank++)
        if (sharing(all, ranks, rank) > ranks_per_gpu)
            return fault_raise(fault, EXIT_CODE_DECK,
                               "%d ranks would share %s; allowed are run.ranks_per_gpu = %d: start fewer "
                               "ranks on each machine, or set the key",
                               sharing(all, ranks, rank), all[rank].text, ranks_per_gpu);
    return true;
}

bool device_choose(const struct comm *comm, int ranks_per_gpu, char **texts, struct fault *fault)
{
    int devices = device_count(), ranks = comm_size(comm);
    if (devices == 0)
        fault_raise(fault, EXIT_CODE_DECK, "run.backend is \"cuda\", and rank %d finds no GPU",
                    comm_rank(comm));
    if (!comm_agree(comm, fault)) return false;

    struct choice mine = {0};
    char gpu_place[TEXT], gpu_text[TEXT], *host = comm_host();
    choose(comm_node_rank(comm) % devices, gpu_place, gpu_text);
    snprintf(mine.place, TEXT, "%.120s %.120s", host, gpu_place);
    snprintf(mine.text, TEXT, "%.60s, %.180s", host, gpu_text);
    free(host);
    struct choice *all = check_malloc((size_t)ranks * sizeof *all);
    comm_gather_one(comm, &mine, sizeof mine, all);
    bool ok = check_sharing(all, ranks, ranks_per_gpu, fault);
    for (int rank = 0; texts && rank < ranks; rank++) texts[rank] = check_strdup(all[rank].text);
    free(all);
    return ok;
}
