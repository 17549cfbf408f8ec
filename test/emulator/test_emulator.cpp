/* The emulator itself: right kernels and calls come out well, broken ones are caught and said what they are.
 * Each runs in a process of its own, with several seeds. */
#include "broken/cases.h"

#define OMPI_SKIP_MPICXX 1 // the C interface alone
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

enum { SEEDS = 6, MPI_SEEDS = 2 /* MPI takes a second to start */, DEFECT = 70, CHECK_FAILED = 5 };

struct outcome {
    int status; /* of its exit, or -signal */
    std::string text;
};

static struct outcome run_apart(void (*run)(void), int seed)
{
    int ends[2];
    if (pipe(ends) != 0) abort();
    fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        setenv("APTP_EMULATOR_SEED", std::to_string(seed).c_str(), 1);
        run();
        _exit(0);
    }
    close(ends[1]);
    struct outcome outcome = {0, ""};
    char part[4096];
    for (ssize_t size; (size = read(ends[0], part, sizeof part)) > 0;)
        outcome.text.append(part, (size_t)size);
    close(ends[0]);
    int status;
    waitpid(child, &status, 0);
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return outcome;
}

static int failures;

static void fail(const struct emulator_case *one, int seed, const char *what, const struct outcome *outcome)
{
    printf("FAILED  %s, seed %d: %s, exit status %d: %s\n", one->name, seed, what, outcome->status,
           outcome->text.c_str());
    failures++;
}

static bool is_caught(const struct emulator_case *one, const struct outcome *outcome)
{
    return (outcome->status == DEFECT || outcome->status == CHECK_FAILED) &&
           outcome->text.find(one->message) != std::string::npos;
}

static void check_case(const struct emulator_case *one, int seeds)
{
    int caught = 0, before = failures;
    for (int seed = 1; seed <= seeds; seed++) {
        const struct outcome outcome = run_apart(one->run, seed);
        if (!one->message) {
            if (outcome.status != 0) fail(one, seed, "a right program fails", &outcome);
            continue;
        }
        if (is_caught(one, &outcome))
            caught++;
        else if (outcome.status != 0)
            fail(one, seed, "caught as something else", &outcome);
        else if (!one->by_chance)
            fail(one, seed, "not caught", &outcome);
    }
    if (one->message && caught == 0) printf("FAILED  %s: no seed shows it\n", one->name), failures++;
    if (failures == before) printf("ok      %s\n", one->name);
}

/* ---- MPI and device memory, on one rank, whose sums are what it gives */

static void sum_on_device(const char *aware, bool wait)
{
    setenv("APTP_EMULATOR_CUDA_AWARE", aware, 1);
    MPI_Init(nullptr, nullptr);
    struct bench bench = bench_open();
    if (wait) CUDA_CHECK(cudaStreamSynchronize(bench.stream));
    MPI_Allreduce(MPI_IN_PLACE, bench.x, COUNT, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    CUDA_CHECK(
        cudaMemcpyAsync(bench.host, bench.x, COUNT * sizeof(float), cudaMemcpyDeviceToHost, bench.stream));
    CUDA_CHECK(cudaStreamSynchronize(bench.stream));
    CHECK(bench.host[9] == 9, "%g", (double)bench.host[9]);
    bench_close(&bench);
    MPI_Finalize();
}

/* The host waits for the first writer alone: the second runs after MPI. */
static void written_after_mpi(void)
{
    setenv("APTP_EMULATOR_CUDA_AWARE", "1", 1);
    MPI_Init(nullptr, nullptr);
    struct bench bench = bench_open();
    CUDA_CHECK(cudaStreamSynchronize(bench.stream));
    CUDA_CHECK(cudaMemsetAsync(bench.x, 0, COUNT * sizeof(float), bench.stream));
    MPI_Allreduce(MPI_IN_PLACE, bench.x, COUNT, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    bench_close(&bench);
    MPI_Finalize();
}

static const struct emulator_case mpi_cases[] = {
    {"MPI sums device memory", [] { sum_on_device("1", true); }, nullptr, false},
    {"MPI that is not CUDA-aware", [] { sum_on_device("0", true); }, "not CUDA-aware", false},
    {"MPI before the device has written", [] { sum_on_device("1", false); }, "uninitialised read", true},
    {"MPI while work on its buffer waits", written_after_mpi, "the host did not wait for it", true},
    {},
};

int main(void)
{
    for (const struct emulator_case *list : {right_cases, broken_cases, mpi_cases})
        for (const struct emulator_case *one = list; one->name; one++)
            check_case(one, list == mpi_cases ? MPI_SEEDS : SEEDS);
    printf(failures ? "%d failures\n" : "all caught\n", failures);
    return failures != 0;
}
