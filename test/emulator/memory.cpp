/* Device memory: its addresses, its cells, and who may touch it when. */
#include "machine.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <map>

static const uintptr_t PAGE = 4096;

static uintptr_t next_free = SHARED_BASE + SHARED_SPAN; /* addresses behind it were never used */
static int opened;

static uintptr_t page_up(uintptr_t address)
{
    return (address + PAGE - 1) / PAGE * PAGE;
}

/* ---- access */

static void protect(int protection)
{
    if (mprotect(reinterpret_cast<void *>(DEVICE_BASE), page_up(next_free) - DEVICE_BASE, protection) != 0)
        emulator_fail("mprotect of the device memory fails");
}

void memory_open(void)
{
    if (opened++ == 0) protect(PROT_READ | PROT_WRITE);
}

void memory_close(void)
{
    if (--opened == 0) protect(PROT_NONE);
}

static struct sigaction fault_before;

static void on_fault(int signal, siginfo_t *info, void *context)
{
    const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
    if (in_device(address))
        emulator_fail("%s touched device memory: %s", opened ? "a library or copy" : "host code",
                      memory_describe(address).c_str());
    if (kernel_runs() && address >= private_memory.stack - STACK_GUARD && address < private_memory.stack)
        emulator_fail("a kernel's stack overflows");
    if (fault_before.sa_flags & SA_SIGINFO)
        fault_before.sa_sigaction(signal, info, context);
    else
        sigaction(SIGSEGV, &fault_before, nullptr); // the access is made again, and fails as it would have
}

static void map_at(uintptr_t base, uintptr_t span, int protection)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    void *wanted = reinterpret_cast<void *>(base);
    if (mmap(wanted, span, protection, flags, -1, 0) != wanted)
        emulator_fail("the addresses from %p for %zu GiB are not free", wanted, (size_t)(span >> 30));
    madvise(wanted, span, MADV_DONTDUMP);
}

void memory_start(void)
{
    static bool started;
    if (started) return;
    started = true;
    map_at(DEVICE_BASE, DEVICE_SPAN, PROT_NONE);
    map_at(CELL_BASE, CELL_SPAN, PROT_READ | PROT_WRITE);

    static char memory[64 << 10]; // for on_fault, also where a thread's stack is full
    stack_t stack = {};
    stack.ss_sp = memory;
    stack.ss_size = sizeof memory;
    sigaltstack(&stack, nullptr);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &fault_before);
}

/* Addresses are never used twice, so that the use of memory that was freed is always seen. */
uintptr_t memory_reserve(size_t bytes, size_t align)
{
    memory_start();
    uintptr_t address = (next_free + PAGE + align - 1) / align * align;
    if (bytes > DEVICE_SPAN || address + bytes + PAGE > DEVICE_BASE + DEVICE_SPAN)
        emulator_fail("the emulator's %zu GiB of addresses are used up", (size_t)(DEVICE_SPAN >> 30));
    next_free = address + bytes;
    if (opened > 0) protect(PROT_READ | PROT_WRITE);
    return address;
}

/* ---- contents */

static void set_cells(uintptr_t address, size_t bytes, struct cell value)
{
    std::fill(cell_of(address), cell_of(address + bytes + 1), value);
}

void memory_poison(uintptr_t address, size_t bytes)
{
    memory_open();
    memset(reinterpret_cast<void *>(address), 0xff, bytes); // NaN, as fp32 and bf16
    memory_close();
    set_cells(address, bytes, {UNKNOWN, BEFORE});
}

static void give_back_pages(uintptr_t first, uintptr_t end)
{
    first = page_up(first);
    end = end / PAGE * PAGE;
    if (first < end) madvise(reinterpret_cast<void *>(first), end - first, MADV_DONTNEED);
}

/* ---- pieces */

struct piece {
    size_t bytes;
    const char *kind;
    bool live;
};
static std::map<uintptr_t, struct piece> pieces;

void memory_add(uintptr_t address, size_t bytes, const char *kind)
{
    memory_poison(address, bytes);
    auto next = pieces.lower_bound(address);
    if (next != pieces.begin() && std::prev(next)->first + std::prev(next)->second.bytes > address) --next;
    for (; next != pieces.end() && next->first < address + bytes; next = pieces.erase(next))
        if (next->second.live)
            emulator_fail("%s of %zu bytes at %p overlaps another that is in use", kind, bytes,
                          reinterpret_cast<void *>(address));
    pieces[address] = {bytes, kind, true};
}

void memory_remove(uintptr_t address, size_t bytes)
{
    for (auto i = pieces.lower_bound(address); i != pieces.end() && i->first < address + bytes; ++i) {
        if (!i->second.live) continue;
        i->second.live = false;
        set_cells(i->first, i->second.bytes, {UNKNOWN, UNKNOWN});
    }
}

void memory_give_back(uintptr_t address, size_t bytes)
{
    memory_remove(address, bytes);
    give_back_pages(address, address + bytes);
    give_back_pages(reinterpret_cast<uintptr_t>(cell_of(address)),
                    reinterpret_cast<uintptr_t>(cell_of(address + bytes)));
}

std::string memory_describe(uintptr_t address)
{
    if (address < SHARED_BASE + SHARED_SPAN) return shared_describe(address);
    auto next = pieces.upper_bound(address);
    std::string place = text("%p, ", reinterpret_cast<void *>(address));
    if (next == pieces.begin()) return place + "no memory of the device";
    const auto &[start, piece] = *std::prev(next);
    const char *freed = piece.live ? "" : ", which was given back";
    if (address < start + piece.bytes)
        return place + text("byte %zu of %s of %zu bytes%s", (size_t)(address - start), piece.kind,
                            piece.bytes, freed);
    return place + text("%zu bytes behind the end of %s of %zu bytes%s",
                        (size_t)(address - start - piece.bytes), piece.kind, piece.bytes, freed);
}

/* ---- times */

static void forget_times(uintptr_t address, size_t bytes)
{
    for (struct cell *cell = cell_of(address); cell < cell_of(address + bytes + 1); cell++)
        *cell = {std::min(cell->written, BEFORE), std::min(cell->read, BEFORE)};
}

void memory_forget_times(void)
{
    forget_times(SHARED_BASE, SHARED_MOST);
    for (const auto &[address, piece] : pieces)
        if (piece.live) forget_times(address, piece.bytes);
}

bool memory_touched_since(uintptr_t address, size_t bytes, uint32_t time)
{
    return std::any_of(cell_of(address), cell_of(address + bytes + 1),
                       [=](struct cell cell) { return cell.written >= time || cell.read >= time; });
}
