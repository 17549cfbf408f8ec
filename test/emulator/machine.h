/* The emulated machine inside: what its sources share. One thread of the process uses it.
 *
 * Device memory is a range of addresses, which nothing can access but while device work runs. Beside it lie
 * cells, one for two bytes of device memory, that say who last wrote and read them. A stamp is a time with a
 * thread:
 *
 *     time (19 bits) | OTHER_BLOCKS | OTHER_WARPS | OTHER_LANES | thread of the block (10 bits)
 *
 * The time advances at each block, barrier and warp synchronisation, so that stamps tell what is ordered: all
 * before the launch began, what threads of the block did before its last barrier, what lanes of the warp did
 * before they last synchronised. Nothing else is. A stamp of who read has a flag where, in the same launch
 * (OTHER_BLOCKS) or since the barrier (OTHER_WARPS) or warp synchronisation (OTHER_LANES), others read too.
 */
#ifndef EMULATOR_MACHINE_H
#define EMULATOR_MACHINE_H

#include "emulator.h"
#include "emulator_launch.h"

#include <string>

struct cell {
    uint32_t written; /* UNKNOWN, BEFORE, or a stamp */
    uint32_t read;    /* UNKNOWN: no memory to use; BEFORE, or a stamp */
};

constexpr uintptr_t DEVICE_BASE = 0x200000000000, DEVICE_SPAN = (uintptr_t)1 << 42;
constexpr uintptr_t CELL_BASE = 0x300000000000, CELL_SPAN = DEVICE_SPAN / 2 * sizeof(struct cell);
constexpr uintptr_t SHARED_BASE = DEVICE_BASE + 4096; /* a block's shared memory; then the devices' */
constexpr size_t SHARED_MOST = 48 << 10, SHARED_SPAN = 1 << 20;

constexpr int THREAD_BITS = 10, TIME_SHIFT = 13;
constexpr uint32_t OTHER_LANES = 1 << 10, OTHER_WARPS = 1 << 11, OTHER_BLOCKS = 1 << 12;
constexpr uint32_t UNKNOWN = 0, BEFORE = 1, TICK = 1 << TIME_SHIFT, LAST_TIME = 0u - 64 * TICK;
constexpr uint32_t NOBODY = ~0u; /* no cell has it */
constexpr int MOST_THREADS = 1 << THREAD_BITS;

static inline struct cell *cell_of(uintptr_t address)
{
    return reinterpret_cast<struct cell *>(CELL_BASE) + (address - DEVICE_BASE) / 2;
}

static inline bool in_device(uintptr_t address)
{
    return address - DEVICE_BASE < DEVICE_SPAN;
}

/* ---- access.cpp: the checks of what kernels do */

/* Stamps without thread, but `me`. */
struct moment {
    uint32_t now;     /* the latest time */
    uint32_t launch;  /* when the work that runs began; BEFORE if none does */
    uint32_t block;   /* when its block began */
    uint32_t barrier; /* and last met at a barrier */
    uint32_t warp;    /* and the warp of the thread that runs last synchronised, or its block at a barrier */
    uint32_t me;      /* now, and that thread */
};
extern struct moment moment;

/* Host memory that the thread which runs may use: its stack, and the kernel's parameters. */
constexpr size_t STACK_GUARD = 64 << 10; /* bytes below each stack that cannot be touched */
struct private_memory {
    uintptr_t stack, stack_end, parameters, parameters_end;
};
extern struct private_memory private_memory;

/* Work begins, and sees what was before as ordered; work has ended. */
void moment_begin(void);
void moment_end(void);

/* The next time; the caller sets what it is the time of. Forgets who did what when times run out. */
uint32_t next_time(void);

/* ---- memory.cpp */

void memory_start(void);                              /* before anything else here; any number of times */
uintptr_t memory_reserve(size_t bytes, size_t align); /* addresses never used before, free ones behind them */

/* Memory whose contents are undefined; its cells say so. */
void memory_poison(uintptr_t address, size_t bytes);

/* The pieces of memory that may be used, each as a whole: a piece is there from now on, poisoned; all in a
 * range are there no more; nor are their pages. `kind` is for messages. */
void memory_add(uintptr_t address, size_t bytes, const char *kind);
void memory_remove(uintptr_t address, size_t bytes);
void memory_give_back(uintptr_t address, size_t bytes);
std::string memory_describe(uintptr_t address);
void memory_forget_times(void);
bool memory_touched_since(uintptr_t address, size_t bytes, uint32_t time);

/* Device memory can be touched between these, which nest. */
void memory_open(void);
void memory_close(void);

/* ---- block.cpp */

void run_kernel(const struct emulator_kernel &kernel, dim3 grid, dim3 block);
bool kernel_runs(void);
std::string thread_name(int thread); /* "thread 7", "thread (7, 1, 0)" */
std::string block_name_at(uint32_t time);
std::string shared_describe(uintptr_t address);
std::string running_kernel(void); /* kernel, block and thread; "" if none runs */

/* ---- stream.cpp */

/* Memory changes its meaning in the order of the stream; does not count as work. */
void enqueue_change(cudaStream_t stream, std::function<void()> change);

void drain_streams(void); /* runs all work */
const char *running_work(void);
cudaError_t fail_with(cudaError_t error); /* also for cudaGetLastError */
/* For MPI: `use` reads and writes the memory now. Work that was asked for before must not touch it any more.
 */
void use_at_once(void *device, size_t bytes, const char *what, const std::function<void()> &use);

/* ---- runtime.cpp */

bool device_takes(int device, size_t bytes); /* whether it has as much left, which then is in use */
void device_gives(int device, size_t bytes);
bool is_mapped(uintptr_t address, size_t bytes); /* driver.cpp: by cuMemMap, and accessible */

/* ---- report.cpp */

uint64_t random_number(uint64_t below);
long setting(const char *name, long otherwise); /* of the environment */
std::string text(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
