#define _GNU_SOURCE // sched_getaffinity
#include "base/cores.h"

#include <sched.h>
#include <unistd.h>

int cores_online(void)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores > 0 ? (int)cores : 1;
}

int cores_allowed(void)
{
    cpu_set_t mask;
    return sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : cores_online();
}
