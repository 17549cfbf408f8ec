#define _DEFAULT_SOURCE // MAP_ANONYMOUS, MAP_NORESERVE, madvise
#include "base/arena.h"

#include "base/check.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

enum {
    GROWTH = 32 << 20
}; // pages are asked for in steps of 32 MiB, so that a step of many blocks asks rarely

/* A piece of the range. All pieces form a list in address order; free ones are also in the free list. */
struct arena_block {
    struct arena *arena;
    size_t offset, size;
    bool used;
    struct arena_block *previous, *next;           // neighbours in address order
    struct arena_block *previous_free, *next_free; // free list, or the list of spare records (next_free only)
};

struct arena {
    struct arena_range range;
    struct arena_block *first; // in address order
    struct arena_block *free;  // free pieces, in no order
    struct arena_block *spare; // records without a piece
    size_t in_use, peak, growths;
};

static void grow_host(struct arena_range *range, size_t bytes)
{
    size_t usable = (bytes + GROWTH - 1) / GROWTH * GROWTH;
    CHECK(usable <= range->capacity, "arena of %zu bytes asked for, %zu reserved", usable, range->capacity);
    CHECK(mprotect(range->base, usable, PROT_READ | PROT_WRITE) == 0,
          "cannot get %zu bytes of memory for a step: %s", usable, strerror(errno));
    range->usable = usable;
}

#ifdef __SANITIZE_ADDRESS__
static void taken_host(struct arena_range *range, char *address, size_t bytes)
{
    (void)range;
    ASAN_UNPOISON_MEMORY_REGION(address, bytes);
}

static void given_host(struct arena_range *range, char *address, size_t bytes)
{
    (void)range;
    ASAN_POISON_MEMORY_REGION(address, bytes);
}
#else
static void (*const taken_host)(struct arena_range *range, char *address, size_t bytes) = NULL;
static void (*const given_host)(struct arena_range *range, char *address, size_t bytes) = NULL;
#endif

static void release_host(struct arena_range *range)
{
    if (range->taken) range->taken(range, range->base, range->usable); // others may get these addresses
    munmap(range->base, range->capacity);
}

struct arena_range arena_range_host(void)
{
    size_t capacity =
        (size_t)1 << 42; // addresses only; halved until the system's limit (ulimit -v) allows it
    char *base = MAP_FAILED;
    for (; base == MAP_FAILED && capacity >= GROWTH; capacity /= 2) {
        base = mmap(NULL, capacity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base != MAP_FAILED) break;
    }
    CHECK(base != MAP_FAILED, "cannot reserve addresses for a step's memory: %s", strerror(errno));
    madvise(base, capacity, MADV_HUGEPAGE); // a wish: fewer page faults in the first step
    return (struct arena_range){.base = base,
                                .capacity = capacity,
                                .grow = grow_host,
                                .release = release_host,
                                .taken = taken_host,
                                .given = given_host};
}

static void grow_none(struct arena_range *range, size_t bytes)
{
    range->usable = bytes;
}

static void release_none(struct arena_range *range)
{
    (void)range;
}

struct arena_range arena_range_none(void)
{
    // Low addresses: nothing is mapped there, so a use of them faults.
    return (struct arena_range){.base = (char *)ARENA_ALIGNMENT,
                                .capacity = (size_t)1 << 46,
                                .grow = grow_none,
                                .release = release_none};
}

static void free_list_add(struct arena *arena, struct arena_block *block)
{
    block->used = false;
    block->previous_free = NULL;
    block->next_free = arena->free;
    if (arena->free) arena->free->previous_free = block;
    arena->free = block;
}

static void free_list_remove(struct arena *arena, struct arena_block *block)
{
    if (block->previous_free)
        block->previous_free->next_free = block->next_free;
    else
        arena->free = block->next_free;
    if (block->next_free) block->next_free->previous_free = block->previous_free;
}

static struct arena_block *record_new(struct arena *arena, size_t offset, size_t size)
{
    struct arena_block *block = arena->spare;
    if (block)
        arena->spare = block->next_free;
    else
        block = check_malloc(sizeof *block);
    *block = (struct arena_block){.arena = arena, .offset = offset, .size = size};
    return block;
}

static void record_spare(struct arena *arena, struct arena_block *block)
{
    block->next_free = arena->spare;
    arena->spare = block;
}

struct arena *arena_new(struct arena_range range)
{
    struct arena *arena = check_calloc(1, sizeof *arena);
    arena->range = range;
    arena->first = record_new(arena, 0, range.capacity / ARENA_ALIGNMENT * ARENA_ALIGNMENT);
    free_list_add(arena, arena->first);
    return arena;
}

void arena_delete(struct arena *arena)
{
    if (!arena) return;
    arena_reset(arena);
    free(arena->first);
    for (struct arena_block *block = arena->spare, *next; block; block = next) {
        next = block->next_free;
        free(block);
    }
    arena->range.release(&arena->range);
    free(arena);
}

/* The smallest free piece that is large enough; of equal ones the lowest, so that the layout is reproducible.
 */
static struct arena_block *best_fit(const struct arena *arena, size_t bytes)
{
    struct arena_block *best = NULL;
    for (struct arena_block *block = arena->free; block; block = block->next_free) {
        if (block->size < bytes) continue;
        if (!best || block->size < best->size || (block->size == best->size && block->offset < best->offset))
            best = block;
    }
    return best;
}

struct arena_block *arena_allocate(struct arena *arena, size_t bytes)
{
    size_t size = bytes ? (bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT : ARENA_ALIGNMENT;
    size += arena->range.guard;
    struct arena_block *block = best_fit(arena, size);
    CHECK(block, "step arena is full: %zu bytes asked for, %zu of %zu in use", bytes, arena->in_use,
          arena->range.capacity);
    free_list_remove(arena, block);
    if (block->size > size) {
        struct arena_block *rest = record_new(arena, block->offset + size, block->size - size);
        rest->previous = block;
        rest->next = block->next;
        if (rest->next) rest->next->previous = rest;
        block->next = rest;
        block->size = size;
        free_list_add(arena, rest);
    }
    block->used = true;
    arena->in_use += size;
    size_t extent = block->offset + size;
    if (extent > arena->range.usable) {
        arena->range.grow(&arena->range, extent);
        arena->growths++;
    }
    if (extent > arena->peak) arena->peak = extent;
    if (arena->range.taken)
        arena->range.taken(&arena->range, arena_address(block), arena->range.guard ? bytes : size);
    return block;
}

void *arena_address(const struct arena_block *block)
{
    return block->arena->range.base + block->offset;
}

/* Appends `block`'s successor to it; both must be free or about to be. */
static void merge_next(struct arena *arena, struct arena_block *block)
{
    struct arena_block *next = block->next;
    block->size += next->size;
    block->next = next->next;
    if (block->next) block->next->previous = block;
    record_spare(arena, next);
}

void arena_free(struct arena *arena, struct arena_block *block)
{
    CHECK(block->arena == arena && block->used, "block at %zu freed twice or by another arena",
          block->offset);
    arena->in_use -= block->size;
    if (arena->range.given) arena->range.given(&arena->range, arena_address(block), block->size);
    if (block->next && !block->next->used) {
        free_list_remove(arena, block->next);
        merge_next(arena, block);
    }
    if (block->previous && !block->previous->used) {
        block = block->previous;
        free_list_remove(arena, block);
        merge_next(arena, block);
    }
    free_list_add(arena, block);
}

void arena_reset(struct arena *arena)
{
    if (arena->range.given) arena->range.given(&arena->range, arena->range.base, arena->range.usable);
    while (arena->first->next) merge_next(arena, arena->first);
    arena->free = NULL;
    free_list_add(arena, arena->first);
    arena->in_use = 0;
}

size_t arena_in_use(const struct arena *arena)
{
    return arena->in_use;
}

size_t arena_peak(const struct arena *arena)
{
    return arena->peak;
}

size_t arena_growths(const struct arena *arena)
{
    return arena->growths;
}
