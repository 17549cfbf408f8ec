/* Kernels: blocks one after another, in random order; a block's threads as fibers, of which one runs until it
 * ends or waits at a barrier or warp collective, and then another, at random. */
#include "machine.h"

#include <stdio.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

/* ---- fibers: stacks that the process changes between */

static const size_t STACK = 128 << 10;

struct fiber {
    void *saved; /* its stack pointer while it does not run */
    char *stack, *stack_end;
    void *fake_stack; /* AddressSanitizer's */
};

static struct fiber scheduler; /* the process's own stack */
static struct fiber *running_fiber = &scheduler;

#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)

/* Keeps the registers that a function must keep on the stack, and that stack pointer in *saved; goes on with
 * another stack. */
extern "C" void emulator_switch(void **saved, void *next);
__asm__(".text\n"
        ".globl emulator_switch\n"
        ".type emulator_switch, @function\n"
        "emulator_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size emulator_switch, . - emulator_switch\n"
        ".section .note.GNU-stack,\"\",@progbits\n"
        ".text\n");

/* A stack that begins with a call of `entry`, which does not return: six registers, its address, and no
 * caller. */
static void prepare(struct fiber *fiber, void (*entry)(void))
{
    void **top = reinterpret_cast<void **>(fiber->stack_end) - 8;
    std::fill(top, top + 8, nullptr);
    top[6] = reinterpret_cast<void *>(entry);
    fiber->saved = top;
}

static void switch_stacks(struct fiber *from, struct fiber *to)
{
    emulator_switch(&from->saved, to->saved);
}

#else
#include <ucontext.h>

static ucontext_t *context_of(struct fiber *fiber)
{
    if (!fiber->saved) fiber->saved = new ucontext_t();
    return static_cast<ucontext_t *>(fiber->saved);
}

static void prepare(struct fiber *fiber, void (*entry)(void))
{
    ucontext_t *context = context_of(fiber);
    getcontext(context);
    context->uc_stack.ss_sp = fiber->stack;
    context->uc_stack.ss_size = (size_t)(fiber->stack_end - fiber->stack);
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
}

static void switch_stacks(struct fiber *from, struct fiber *to)
{
    swapcontext(context_of(from), context_of(to));
}
#endif

/* A fiber has come to run: what it came from is the scheduler only once. */
static void arrived(struct fiber *fiber)
{
    (void)fiber;
#ifdef __SANITIZE_ADDRESS__
    const void *bottom = nullptr;
    size_t size = 0;
    struct fiber *from = running_fiber;
    __sanitizer_finish_switch_fiber(fiber->fake_stack, &bottom, &size);
    if (from == &scheduler) {
        scheduler.stack = static_cast<char *>(const_cast<void *>(bottom));
        scheduler.stack_end = scheduler.stack + size;
    }
#endif
    running_fiber = fiber;
}

static void switch_to(struct fiber *to)
{
    struct fiber *from = running_fiber;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, (size_t)(to->stack_end - to->stack));
#endif
    switch_stacks(from, to);
    arrived(from);
}

static std::vector<struct fiber *> free_fibers;
static void run_threads(void);

static struct fiber *fiber_new(void)
{
    void *memory = mmap(nullptr, STACK_GUARD + STACK, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, STACK_GUARD, PROT_NONE) != 0)
        emulator_fail("no memory for a thread's stack");
    struct fiber *fiber = new struct fiber();
    fiber->stack = static_cast<char *>(memory) + STACK_GUARD;
    fiber->stack_end = fiber->stack + STACK;
    prepare(fiber, run_threads);
    return fiber;
}

static struct fiber *fiber_take(void)
{
    if (free_fibers.empty()) return fiber_new();
    struct fiber *fiber = free_fibers.back();
    free_fibers.pop_back();
    return fiber;
}

/* ---- the launch, block and thread that run */

enum state { READY, AT_BARRIER, AT_COLLECTIVE, ENDED };

struct thread {
    enum state state;
    struct fiber *fiber; /* nullptr before it starts */
    std::source_location barrier;
    /* at a collective */
    enum emulator_collective kind;
    uint32_t mask;
    uint64_t given, taken;
    int source;
};

struct warp {
    uint32_t arrived;      /* lanes that wait at its collective */
    uint32_t gone;         /* lanes that have ended, or do not exist */
    uint32_t synchronised; /* when its lanes last did */
};

static struct {
    const struct emulator_kernel *kernel; /* nullptr: none runs */
    int count, ended, at_barrier;         /* threads */
    struct thread thread[MOST_THREADS];
    struct warp warp[MOST_THREADS / 32];
    int ready[MOST_THREADS], ready_count;             /* threads that could run, but the one that does */
    int current = -1;                                 /* thread, or none */
    std::vector<std::pair<uint32_t, uint64_t>> began; /* time, block */
} block;

uint3 thread_index __asm__("threadIdx"), block_index __asm__("blockIdx"),
    block_size __asm__("blockDim"), grid_size __asm__("gridDim");

static uint3 index_in(uint64_t index, uint3 size)
{
    if (size.y == 1 && size.z == 1) return make_uint3((unsigned)index, 0, 0);
    return make_uint3((unsigned)(index % size.x), (unsigned)(index / size.x % size.y),
                      (unsigned)(index / size.x / size.y));
}

static std::string index_name(uint3 index, uint3 size)
{
    if (size.y == 1 && size.z == 1) return text("%u", index.x);
    return text("(%u, %u, %u)", index.x, index.y, index.z);
}

bool kernel_runs(void)
{
    return block.current >= 0;
}

std::string thread_name(int thread)
{
    return "thread " + index_name(index_in((uint64_t)thread, block_size), block_size);
}

std::string block_name_at(uint32_t time)
{
    auto after = std::upper_bound(block.began.begin(), block.began.end(), std::make_pair(time, UINT64_MAX));
    if (after == block.began.begin()) return "another block";
    return "block " + index_name(index_in(std::prev(after)->second, grid_size), grid_size);
}

std::string running_kernel(void)
{
    if (!block.kernel) return "";
    std::string name = block.kernel->name;
    if (name.size() > 1 && name.front() == '(' && name.back() == ')') name = name.substr(1, name.size() - 2);
    name = "kernel " + name +
           text(" <<<%u x %u x %u, %u x %u x %u>>>, block ", grid_size.x, grid_size.y, grid_size.z,
                block_size.x, block_size.y, block_size.z);
    return name + index_name(block_index, grid_size) +
           (block.current < 0 ? "" : ", " + thread_name(block.current));
}

/* ---- which thread runs */

static void make_ready(int thread)
{
    block.thread[thread].state = READY;
    block.ready[block.ready_count++] = thread;
}

static int take_ready(void)
{
    int chosen = (int)random_number((uint64_t)block.ready_count);
    int thread = block.ready[chosen];
    block.ready[chosen] = block.ready[--block.ready_count];
    return thread;
}

/* `fiber` is the thread's. */
static void set_current(int thread, const struct fiber *fiber)
{
    block.current = thread;
    thread_index = index_in((uint64_t)thread, block_size);
    moment.me = moment.now | (uint32_t)thread;
    moment.warp = block.warp[thread / 32].synchronised;
    private_memory.stack = reinterpret_cast<uintptr_t>(fiber->stack);
    private_memory.stack_end = reinterpret_cast<uintptr_t>(fiber->stack_end);
}

/* The lanes, as "3, 4, 5". */
static std::string lane_names(uint32_t lanes)
{
    std::string names;
    for (int i = 0; i < 32; i++)
        if (lanes >> i & 1) names += text(names.empty() ? "%d" : ", %d", i);
    return names;
}

static const char *collective_name(enum emulator_collective kind)
{
    return kind == EMULATOR_SYNCWARP ? "__syncwarp" : kind == EMULATOR_SHUFFLE ? "a shuffle" : "a vote";
}

[[noreturn]] static void fail_absent(int waiting, uint32_t absent, const char *why)
{
    const struct thread *thread = &block.thread[waiting];
    emulator_fail("absent lanes: %s waits at %s for lanes that do not come, as they %s: %s (mask 0x%x)",
                  thread_name(waiting).c_str(), collective_name(thread->kind), why,
                  lane_names(absent).c_str(), thread->mask);
}

/* Nobody can go on: all wait, and not all for the same. */
[[noreturn]] static void fail_stuck(void)
{
    for (int i = 0; i < block.count; i++) {
        const struct thread *thread = &block.thread[i];
        if (thread->state == AT_COLLECTIVE)
            fail_absent(i, thread->mask & ~block.warp[i / 32].arrived, "wait elsewhere");
    }
    emulator_fail("the threads of a block wait for each other");
}

/* The thread that runs waits: another does, until it is this one's turn again. */
static void wait(enum state state)
{
    const int self = block.current;
    if (state != READY) block.thread[self].state = state;
    if (block.ready_count == 0) fail_stuck();
    int next = take_ready();
    if (next != self) {
        struct thread *thread = &block.thread[next];
        if (!thread->fiber) thread->fiber = fiber_take();
        set_current(next, thread->fiber);
        switch_to(thread->fiber);
    }
    set_current(self, running_fiber);
}

/* What fails for sure when a thread ends now. */
static void check_end(int thread)
{
    if (block.at_barrier > 0)
        for (int i = 0; i < block.count; i++)
            if (block.thread[i].state == AT_BARRIER)
                emulator_fail("barrier divergence: %s ends while %s waits at a barrier (line %u)",
                              thread_name(thread).c_str(), thread_name(i).c_str(),
                              (unsigned)block.thread[i].barrier.line());
    const uint32_t lane = 1u << thread % 32;
    for (uint32_t lanes = block.warp[thread / 32].arrived; lanes != 0; lanes &= lanes - 1) {
        int other = thread / 32 * 32 + __builtin_ctz(lanes);
        if (block.thread[other].mask & lane) fail_absent(other, lane, "have ended");
    }
}

/* A fiber's life: threads from start to end, one after another. */
static void run_threads(void)
{
    struct fiber *self = nullptr;
    for (;;) {
        struct thread *thread = &block.thread[block.current];
        if (!self) arrived(self = thread->fiber);
        block.kernel->thread(block.kernel->parameters.get());
        check_end(block.current);
        thread->state = ENDED;
        block.warp[block.current / 32].gone |= 1u << block.current % 32;
        thread->fiber = nullptr;
        block.ended++;
        if (block.ready_count > 0) {
            int next = take_ready();
            struct thread *other = &block.thread[next];
            if (!other->fiber) { // goes on here
                other->fiber = self;
                set_current(next, self);
                continue;
            }
            free_fibers.push_back(self);
            set_current(next, other->fiber);
            switch_to(other->fiber);
        } else if (block.ended < block.count)
            fail_stuck();
        else {
            free_fibers.push_back(self);
            block.current = -1;
            switch_to(&scheduler);
        }
    }
}

/* ---- what threads meet at */

void __syncthreads(std::source_location place)
{
    const int self = block.current;
    struct thread *thread = &block.thread[self];
    thread->barrier = place;
    if (block.ended > 0)
        emulator_fail(
            "barrier divergence: %s waits at a barrier (line %u), but %d threads of the block have ended",
            thread_name(self).c_str(), (unsigned)place.line(), block.ended);
    if (block.at_barrier > 0)
        for (int i = 0; i < block.count; i++) {
            const struct thread *other = &block.thread[i];
            if (other->state != AT_BARRIER) continue;
            if (other->barrier.line() != place.line() || other->barrier.column() != place.column())
                emulator_fail("barrier divergence: %s waits at a barrier (line %u), %s at another (line %u)",
                              thread_name(self).c_str(), (unsigned)place.line(), thread_name(i).c_str(),
                              (unsigned)other->barrier.line());
            break; // all that wait wait at the same
        }
    thread->state = AT_BARRIER;
    if (++block.at_barrier < block.count) {
        wait(AT_BARRIER);
        return;
    }
    block.at_barrier = 0;
    moment.barrier = next_time();
    for (int i = 0; i < (block.count + 31) / 32; i++) block.warp[i].synchronised = moment.barrier;
    for (int i = 0; i < block.count; i++) make_ready(i);
    wait(READY);
}

/* The lanes of `mask` meet; the last to come does `finish` for all. */
template <class Finish> static void meet(enum emulator_collective kind, uint32_t mask, Finish finish)
{
    const int self = block.current, first = self / 32 * 32;
    struct thread *thread = &block.thread[self], *lane = &block.thread[first];
    struct warp *warp = &block.warp[self / 32];
    thread->kind = kind;
    thread->mask = mask;
    thread->state = AT_COLLECTIVE;
    if (!(mask >> (self - first) & 1))
        emulator_fail("%s with mask 0x%x by lane %d, which is not in it", collective_name(kind), mask,
                      self - first);
    if (warp->gone & mask) {
        const uint32_t lost = warp->gone & mask;
        fail_absent(self, lost, first + __builtin_ctz(lost) >= block.count ? "do not exist" : "have ended");
    }
    if (warp->arrived & mask) { // those of a mask have met each other: one of them is as good as all
        const int other = __builtin_ctz(warp->arrived & mask);
        if (lane[other].kind != kind || lane[other].mask != mask)
            emulator_fail("lane %d waits at %s with mask 0x%x, lane %d at %s with mask 0x%x", self - first,
                          collective_name(kind), mask, other, collective_name(lane[other].kind),
                          lane[other].mask);
    }
    warp->arrived |= 1u << (self - first);
    if ((warp->arrived & mask) != mask) {
        wait(AT_COLLECTIVE);
        return;
    }
    finish(lane);
    warp->arrived &= ~mask;
    for (uint32_t lanes = mask; lanes != 0; lanes &= lanes - 1) make_ready(first + __builtin_ctz(lanes));
    wait(READY);
}

int emulator_lane(void)
{
    return block.current % 32;
}

uint64_t emulator_exchange(unsigned int mask, uint64_t value, int source)
{
    struct thread *thread = &block.thread[block.current];
    thread->given = value;
    thread->source = source;
    if (!(mask >> source & 1))
        emulator_fail("absent lanes: lane %d takes the value of lane %d, which is not in mask 0x%x",
                      emulator_lane(), source, mask);
    meet(EMULATOR_SHUFFLE, mask, [mask](struct thread *lane) {
        for (uint32_t lanes = mask; lanes != 0; lanes &= lanes - 1) {
            struct thread *one = &lane[__builtin_ctz(lanes)];
            one->taken = lane[one->source].given;
        }
    });
    return thread->taken;
}

unsigned int emulator_vote(unsigned int mask, bool predicate)
{
    struct thread *thread = &block.thread[block.current];
    thread->given = predicate;
    meet(EMULATOR_VOTE, mask, [mask](struct thread *lane) {
        uint32_t votes = 0;
        for (uint32_t lanes = mask; lanes != 0; lanes &= lanes - 1)
            votes |= (uint32_t)lane[__builtin_ctz(lanes)].given << __builtin_ctz(lanes);
        for (uint32_t lanes = mask; lanes != 0; lanes &= lanes - 1) lane[__builtin_ctz(lanes)].taken = votes;
    });
    return (unsigned int)thread->taken;
}

void __syncwarp(unsigned int mask)
{
    const int warp = block.current / 32, lanes = std::min(32, block.count - warp * 32);
    if (mask != (uint32_t)((1ull << lanes) - 1))
        emulator_fail(
            "__syncwarp with mask 0x%x in a warp of %d threads: the emulator knows it of whole warps", mask,
            lanes);
    meet(EMULATOR_SYNCWARP, mask, [warp](struct thread *) { block.warp[warp].synchronised = next_time(); });
}

/* ---- shared memory */

struct shared_array {
    const char *name;
    std::source_location place;
    size_t bytes;
    uintptr_t address;
};
static std::vector<struct shared_array> shared_arrays; /* of the block */
static size_t shared_bytes;
static uintptr_t shared_end = SHARED_BASE;

void *emulator_shared(const char *name, size_t bytes, size_t alignment, std::source_location place)
{
    const size_t redzone = 64;
    for (const struct shared_array &array : shared_arrays)
        if (array.place.line() == place.line() && array.bytes == bytes && strcmp(array.name, name) == 0 &&
            strcmp(array.place.function_name(), place.function_name()) == 0)
            return reinterpret_cast<void *>(array.address);
    shared_bytes += bytes;
    if (shared_bytes > SHARED_MOST)
        emulator_fail("%zu bytes of shared memory with `%s`: a block has %zu", shared_bytes, name,
                      SHARED_MOST);
    uintptr_t address = (shared_end + redzone + alignment - 1) / alignment * alignment;
    shared_end = address + bytes;
    memory_poison(address, bytes);
    shared_arrays.push_back({name, place, bytes, address});
    return reinterpret_cast<void *>(address);
}

static void shared_clear(void)
{
    if (!shared_arrays.empty())
        memset(cell_of(SHARED_BASE), 0, sizeof(struct cell) * ((shared_end - SHARED_BASE) / 2 + 1));
    shared_arrays.clear();
    shared_bytes = 0;
    shared_end = SHARED_BASE;
}

std::string shared_describe(uintptr_t address)
{
    const struct shared_array *before = nullptr;
    for (const struct shared_array &array : shared_arrays)
        if (array.address <= address) before = &array;
    if (!before) return text("%p, where no shared memory is", reinterpret_cast<void *>(address));
    const size_t offset = address - before->address;
    if (offset < before->bytes)
        return text("byte %zu of shared memory `%s` of %zu bytes", offset, before->name, before->bytes);
    return text("%zu bytes behind the end of shared memory `%s` of %zu bytes", offset - before->bytes,
                before->name, before->bytes);
}

/* ---- launches */

static void run_block(uint64_t index)
{
    block_index = index_in(index, grid_size);
    moment.block = moment.barrier = next_time();
    block.began.emplace_back(moment.block, index);
    block.ended = block.at_barrier = block.ready_count = 0;
    for (int i = 0; i < (block.count + 31) / 32; i++) {
        const int lanes = std::min(32, block.count - 32 * i);
        block.warp[i] = {0, ~(uint32_t)((1ull << lanes) - 1), moment.block};
    }
    for (int i = 0; i < block.count; i++) make_ready(i);
    int first = take_ready();
    struct fiber *fiber = block.thread[first].fiber = fiber_take();
    set_current(first, fiber);
    switch_to(fiber);
    shared_clear();
}

void run_kernel(const struct emulator_kernel &kernel, dim3 grid, dim3 threads)
{
    grid_size = make_uint3(grid.x, grid.y, grid.z);
    block_size = make_uint3(threads.x, threads.y, threads.z);
    block.kernel = &kernel;
    block.count = (int)(threads.x * threads.y * threads.z);
    block.began.clear();
    private_memory.parameters = reinterpret_cast<uintptr_t>(kernel.parameters.get());
    private_memory.parameters_end = private_memory.parameters + kernel.bytes;
    std::vector<uint64_t> order((uint64_t)grid.x * grid.y * grid.z);
    for (uint64_t i = 0; i < order.size(); i++) {
        uint64_t j = random_number(i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (uint64_t index : order) run_block(index);
    block.kernel = nullptr;
}
