/* The checks of every load and store of a kernel: the functions that the compiler calls before each. Sizes
 * are in bytes. Accesses of single bytes are not looked at for races: a cell is of two. */
#include "machine.h"

struct moment moment = {TICK, BEFORE, BEFORE, BEFORE, BEFORE, NOBODY};
struct private_memory private_memory;

uint32_t next_time(void)
{
    if (moment.now >= LAST_TIME) {
        memory_forget_times();
        uint32_t launch = moment.launch == BEFORE ? BEFORE : 2 * TICK;
        moment = {2 * TICK, launch, launch, launch, launch, NOBODY};
    }
    return moment.now += TICK;
}

void moment_begin(void)
{
    moment.launch = BEFORE;
    moment.launch = moment.block = moment.barrier = moment.warp = moment.me = next_time();
}

void moment_end(void)
{
    moment.launch = moment.block = moment.barrier = moment.warp = BEFORE;
    moment.me = NOBODY;
}

/* ---- what is ordered before the thread that runs */

static int thread_of(uint32_t stamp)
{
    return (int)(stamp % MOST_THREADS);
}

static bool same_warp(uint32_t stamp)
{
    return thread_of(stamp) / 32 == thread_of(moment.me) / 32;
}

/* Of a stamp of this launch. */
static bool write_is_ordered(uint32_t stamp)
{
    if (stamp < moment.block) return false;
    if (stamp < moment.barrier || thread_of(stamp) == thread_of(moment.me)) return true;
    return same_warp(stamp) && stamp < moment.warp;
}

static bool reads_are_ordered(uint32_t stamp)
{
    if (stamp < moment.block || stamp & OTHER_BLOCKS) return false;
    if (stamp < moment.barrier) return true;
    if (stamp & OTHER_WARPS || !same_warp(stamp)) return false;
    if (stamp < moment.warp) return true;
    return !(stamp & OTHER_LANES) && thread_of(stamp) == thread_of(moment.me);
}

/* The stamp of what has been read with `stamp`, and now by this thread. */
static uint32_t read_too(uint32_t stamp)
{
    if (stamp < moment.launch) return moment.me;
    uint32_t others = stamp & OTHER_BLOCKS;
    if (stamp < moment.block)
        others = OTHER_BLOCKS;
    else if (stamp >= moment.barrier) {
        others |= stamp & OTHER_WARPS;
        if (!same_warp(stamp))
            others |= OTHER_WARPS;
        else if (stamp >= moment.warp)
            others |= (stamp & OTHER_LANES) | (thread_of(stamp) == thread_of(moment.me) ? 0 : OTHER_LANES);
    }
    return moment.me | others;
}

/* ---- defects */

static std::string who(uint32_t stamp)
{
    if (stamp < moment.block) return "a thread of " + block_name_at(stamp);
    return thread_name(thread_of(stamp)) + " of the same block";
}

[[noreturn]] static void fail_race(uintptr_t address, size_t bytes, const char *now, const char *then,
                                   uint32_t stamp)
{
    bool others = stamp & (OTHER_BLOCKS | OTHER_WARPS | OTHER_LANES);
    emulator_fail("race: %s %s %zu bytes at %s, which %s%s %s with no barrier between",
                  thread_name(thread_of(moment.me)).c_str(), now, bytes, memory_describe(address).c_str(),
                  who(stamp).c_str(), others ? " and others" : "", then);
}

[[noreturn]] static void fail_access(uintptr_t address, size_t bytes, bool write, uint32_t read)
{
    if (read == UNKNOWN)
        emulator_fail("out of bounds: a kernel %s %zu bytes at %s", write ? "writes" : "reads", bytes,
                      memory_describe(address).c_str());
    emulator_fail("uninitialised read: %zu bytes at %s", bytes, memory_describe(address).c_str());
}

static void check_cells(uintptr_t address, size_t bytes, bool write)
{
    const bool race = bytes > 1;
    for (uintptr_t at = address & ~(uintptr_t)1; at < address + bytes; at += 2) {
        struct cell *cell = cell_of(at);
        if (cell->read == UNKNOWN || (!write && cell->written == UNKNOWN))
            fail_access(at < address ? address : at, bytes, write, cell->read);
        if (race && cell->written >= moment.launch && !write_is_ordered(cell->written))
            fail_race(address, bytes, write ? "writes" : "reads", "wrote", cell->written);
        if (!write) {
            cell->read = read_too(cell->read);
            continue;
        }
        if (race && cell->read >= moment.launch && !reads_are_ordered(cell->read))
            fail_race(address, bytes, "writes", "read", cell->read);
        cell->written = moment.me;
    }
}

/* The program's code and constants. */
extern "C" const char __executable_start, __data_start;

static bool is_constant(uintptr_t address)
{
    return address >= reinterpret_cast<uintptr_t>(&__executable_start) &&
           address < reinterpret_cast<uintptr_t>(&__data_start);
}

static void check_private(uintptr_t address, size_t bytes, bool write)
{
    const struct private_memory *mine = &private_memory;
    if (address >= mine->stack && address < mine->stack_end) return;
    if (!write && ((address >= mine->parameters && address < mine->parameters_end) || is_constant(address)))
        return;
    emulator_fail("a kernel %s host memory: %zu bytes at %p", write ? "writes" : "reads", bytes,
                  reinterpret_cast<void *>(address));
}

static __attribute__((noinline)) void check(uintptr_t address, size_t bytes, size_t alignment, bool write)
{
    const bool device = in_device(address);
    if (!kernel_runs()) {
        if (device) emulator_fail("host code touched device memory: %s", memory_describe(address).c_str());
        return;
    }
    if (!device) {
        check_private(address, bytes, write);
        return;
    }
    if (address % alignment != 0)
        emulator_fail("misaligned: a kernel %s %zu bytes at %s", write ? "writes" : "reads", bytes,
                      memory_describe(address).c_str());
    check_cells(address, bytes, write);
}

/* ---- the common case, at once: what is read was written before the launch, and only this thread has read it
 * since; what is written nobody else has touched since */

template <int bytes> static inline void check_read(const void *memory)
{
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
    if (bytes > 1 && in_device(address) && address % bytes == 0) {
        struct cell *cell = cell_of(address);
        uint32_t mine = moment.me, launch = moment.launch;
        bool written = true, fresh = true, again = true;
        for (int i = 0; i < bytes / 2; i++) {
            written &= cell[i].written - 1 < launch - 1;
            fresh &= cell[i].read < launch;
            again &= cell[i].read == mine;
        }
        if (written && again) return;
        if (written && fresh) {
            for (int i = 0; i < bytes / 2; i++) cell[i].read = mine;
            return;
        }
    }
    check(address, bytes, bytes, false);
}

template <int bytes> static inline void check_write(const void *memory)
{
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
    if (bytes > 1 && in_device(address) && address % bytes == 0) {
        struct cell *cell = cell_of(address);
        uint32_t mine = moment.me, launch = moment.launch;
        bool good = true;
        for (int i = 0; i < bytes / 2; i++)
            good &= (cell[i].read - 1 < launch - 1 || cell[i].read == mine) &&
                    (cell[i].written < launch || cell[i].written == mine);
        if (good) {
            for (int i = 0; i < bytes / 2; i++) cell[i].written = mine;
            return;
        }
    }
    check(address, bytes, bytes, true);
}

/* ---- what the compiler calls (g++ -fsanitize=thread) */

extern "C" {

void __tsan_init(void) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}

#define ACCESSES(bytes)                                                                                      \
    void __tsan_read##bytes(void *address)                                                                   \
    {                                                                                                        \
        check_read<bytes>(address);                                                                          \
    }                                                                                                        \
    void __tsan_write##bytes(void *address)                                                                  \
    {                                                                                                        \
        check_write<bytes>(address);                                                                         \
    }                                                                                                        \
    void __tsan_volatile_read##bytes(void *address)                                                          \
    {                                                                                                        \
        check_read<bytes>(address);                                                                          \
    }                                                                                                        \
    void __tsan_volatile_write##bytes(void *address)                                                         \
    {                                                                                                        \
        check_write<bytes>(address);                                                                         \
    }                                                                                                        \
    void __tsan_unaligned_read##bytes(void *address)                                                         \
    {                                                                                                        \
        check(reinterpret_cast<uintptr_t>(address), bytes, 1, false);                                        \
    }                                                                                                        \
    void __tsan_unaligned_write##bytes(void *address)                                                        \
    {                                                                                                        \
        check(reinterpret_cast<uintptr_t>(address), bytes, 1, true);                                         \
    }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
#undef ACCESSES

void __tsan_read_range(void *address, size_t bytes)
{
    if (bytes > 0) check(reinterpret_cast<uintptr_t>(address), bytes, 1, false);
}

void __tsan_write_range(void *address, size_t bytes)
{
    if (bytes > 0) check(reinterpret_cast<uintptr_t>(address), bytes, 1, true);
}

void __tsan_vptr_update(void *, void *) {}
void __tsan_vptr_read(void *) {}

/* Atomics: of host code (variables that are made at their first use). Kernels have none. */
static void host_alone(void)
{
    if (kernel_runs()) emulator_fail("a kernel uses an atomic operation: results depend on the order");
}

#define ATOMICS(bits, type)                                                                                  \
    type __tsan_atomic##bits##_load(const volatile type *address, int)                                       \
    {                                                                                                        \
        host_alone();                                                                                        \
        return __atomic_load_n(address, __ATOMIC_SEQ_CST);                                                   \
    }                                                                                                        \
    void __tsan_atomic##bits##_store(volatile type *address, type value, int)                                \
    {                                                                                                        \
        host_alone();                                                                                        \
        __atomic_store_n(address, value, __ATOMIC_SEQ_CST);                                                  \
    }                                                                                                        \
    type __tsan_atomic##bits##_exchange(volatile type *address, type value, int)                             \
    {                                                                                                        \
        host_alone();                                                                                        \
        return __atomic_exchange_n(address, value, __ATOMIC_SEQ_CST);                                        \
    }                                                                                                        \
    type __tsan_atomic##bits##_fetch_add(volatile type *address, type value, int)                            \
    {                                                                                                        \
        host_alone();                                                                                        \
        return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);                                         \
    }                                                                                                        \
    type __tsan_atomic##bits##_fetch_sub(volatile type *address, type value, int)                            \
    {                                                                                                        \
        host_alone();                                                                                        \
        return __atomic_fetch_sub(address, value, __ATOMIC_SEQ_CST);                                         \
    }                                                                                                        \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile type *address, type *expected, type value,    \
                                                      int, int)                                              \
    {                                                                                                        \
        host_alone();                                                                                        \
        return __atomic_compare_exchange_n(address, expected, value, false, __ATOMIC_SEQ_CST,                \
                                           __ATOMIC_SEQ_CST);                                                \
    }
ATOMICS(8, uint8_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
#undef ATOMICS
}

/* ---- what libraries, copies and fills do */

void emulator_read(const void *device, size_t bytes, const char *what)
{
    const uintptr_t address = reinterpret_cast<uintptr_t>(device), end = address + bytes;
    if (bytes == 0) return;
    if (!in_device(address) || !in_device(end)) emulator_fail("%s: %p is not device memory", what, device);
    for (uintptr_t at = address & ~(uintptr_t)1; at < end; at += 2) {
        struct cell *cell = cell_of(at);
        if (cell->read == UNKNOWN || cell->written == UNKNOWN)
            emulator_fail("%s: %s of %zu bytes, at %s", what,
                          cell->read == UNKNOWN ? "out of bounds: a read" : "uninitialised read", bytes,
                          memory_describe(at).c_str());
        cell->read = moment.me;
    }
}

void emulator_write(const void *device, size_t bytes, const char *what)
{
    const uintptr_t address = reinterpret_cast<uintptr_t>(device), end = address + bytes;
    if (bytes == 0) return;
    if (!in_device(address) || !in_device(end)) emulator_fail("%s: %p is not device memory", what, device);
    for (uintptr_t at = address & ~(uintptr_t)1; at < end; at += 2) {
        struct cell *cell = cell_of(at);
        if (cell->read == UNKNOWN)
            emulator_fail("%s: out of bounds: a write of %zu bytes, at %s", what, bytes,
                          memory_describe(at).c_str());
        cell->written = moment.me;
    }
}

bool emulator_is_device(const void *address)
{
    return in_device(reinterpret_cast<uintptr_t>(address));
}

/* ---- alignment: what the compiler's checks call, of each access, where its address is not a multiple of
 * what its type asks for. A GPU faults on it; the CPU would not. */

struct ubsan_location {
    const char *file;
    uint32_t line, column;
};
struct ubsan_type {
    uint16_t kind, information;
    char name[1];
};
struct ubsan_mismatch {
    struct ubsan_location place;
    const struct ubsan_type *type;
    unsigned char log_alignment, kind;
};

extern "C" void __ubsan_handle_type_mismatch_v1(struct ubsan_mismatch *mismatch, void *address)
{
    emulator_fail("misaligned: %s at %p, not a multiple of %d (%s, line %u)", mismatch->type->name, address,
                  1 << mismatch->log_alignment, mismatch->place.file, mismatch->place.line);
}
