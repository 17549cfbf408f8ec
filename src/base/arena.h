/* The step arena: memory of the tensors of one step, from one growing range, given back as a whole by a
 * reset.
 *
 * Blocks may also be freed one by one (a backward pass frees each activation after its last use), and are
 * then used again: best fit, neighbours merged. The layout is a function of the sequence of calls alone. So
 * the second step of a run touches no new memory, and the same calls on a range without memory
 * (arena_range_none) tell beforehand what a step needs. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

enum { ARENA_ALIGNMENT = 64 };

/* Where an arena's memory comes from: a reserved range of addresses, of which the first bytes are usable. */
struct arena_range {
    char *base;      /* aligned to ARENA_ALIGNMENT */
    size_t capacity; /* bytes reserved */
    size_t usable;   /* bytes usable now, from base */
    void (*grow)(struct arena_range *range,
                 size_t bytes);                 /* makes at least `bytes` usable, or fails a CHECK */
    void (*release)(struct arena_range *range); /* gives the reservation back */
    /* For checkers of memory, each NULL without one: what a block holds is undefined and may be used from now
     * on, or must not be used any more (also of many blocks at once). `guard`: bytes that lie unused behind
     * each block, a multiple of ARENA_ALIGNMENT */
    void (*taken)(struct arena_range *range, char *address, size_t bytes);
    void (*given)(struct arena_range *range, char *address, size_t bytes);
    size_t guard;
    void *context; /* of the functions */
};

/* Host memory: reserves address space, asks the system for pages as they are first needed. */
struct arena_range arena_range_host(void);

/* No memory at all: addresses that must not be used. For counting (the plan backend). */
struct arena_range arena_range_none(void);

struct arena;
struct arena_block; /* one allocation; valid until freed or reset */

/* Takes over the range. Free with arena_free. */
struct arena *arena_new(struct arena_range range);
void arena_delete(struct arena *arena);

/* A block of at least `bytes` (0 allowed), its address a multiple of ARENA_ALIGNMENT, contents undefined. */
struct arena_block *arena_allocate(struct arena *arena, size_t bytes);
void *arena_address(const struct arena_block *block);
void arena_free(struct arena *arena, struct arena_block *block);

/* Frees all blocks. The memory stays with the arena for the next step. */
void arena_reset(struct arena *arena);

/* Bytes of live blocks; the largest extent ever in use, in bytes (what the range had to be); times that the
 * range grew. */
size_t arena_in_use(const struct arena *arena);
size_t arena_peak(const struct arena *arena);
size_t arena_growths(const struct arena *arena);

#endif
