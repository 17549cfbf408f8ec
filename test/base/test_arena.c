/* The step arena: alignment, reuse, merging, the same layout twice, and counting without memory. */
#include "base/arena.h"

#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void blocks_are_aligned_and_apart(void **state)
{
    (void)state;
    struct arena *arena = arena_new(arena_range_host());
    struct arena_block *block[20];
    for (size_t i = 0; i < 20; i++) {
        block[i] = arena_allocate(arena, i * 37);
        assert_int_equal((uintptr_t)arena_address(block[i]) % ARENA_ALIGNMENT, 0);
        memset(arena_address(block[i]), (int)i, i * 37);
    }
    for (size_t i = 0; i < 20; i++)
        for (size_t byte = 0; byte < i * 37; byte++)
            assert_int_equal(((char *)arena_address(block[i]))[byte], i);
    arena_delete(arena);
}

static void freed_blocks_are_used_again(void **state)
{
    (void)state;
    struct arena *arena = arena_new(arena_range_host());
    struct arena_block *large = arena_allocate(arena, 4096), *small = arena_allocate(arena, 128);
    struct arena_block *last = arena_allocate(arena, 64);
    void *large_address = arena_address(large), *small_address = arena_address(small);
    arena_free(arena, large);
    assert_int_equal(arena_in_use(arena), 128 + 64);
    struct arena_block *again = arena_allocate(arena, 4096);
    assert_ptr_equal(arena_address(again), large_address);
    arena_free(arena, again);
    arena_free(arena, small); // its neighbour is free: they merge, and hold what neither could
    struct arena_block *merged = arena_allocate(arena, 4096 + 128);
    assert_ptr_equal(arena_address(merged), large_address);
    assert_ptr_not_equal(small_address, large_address);
    assert_int_equal(arena_peak(arena), 4096 + 128 + 64);
    (void)last;
    arena_delete(arena);
}

/* Of two holes the one that fits better is taken, though the other comes first. */
static void best_fit(void **state)
{
    (void)state;
    struct arena *arena = arena_new(arena_range_host());
    struct arena_block *wide = arena_allocate(arena, 1024), *wall = arena_allocate(arena, 64);
    struct arena_block *narrow = arena_allocate(arena, 256), *end = arena_allocate(arena, 64);
    void *narrow_address = arena_address(narrow);
    arena_free(arena, narrow);
    arena_free(arena, wide);
    assert_ptr_equal(arena_address(arena_allocate(arena, 200)), narrow_address);
    (void)wall;
    (void)end;
    arena_delete(arena);
}

/* A step of random allocations and frees; the offsets from the first block are its layout. */
static void play_step(struct arena *arena, ptrdiff_t *layout, int count)
{
    struct arena_block *live[64] = {0};
    struct random_key key = {1, RANDOM_TEST, 0, 0};
    char *base = NULL;
    for (int i = 0; i < count; i++) {
        size_t slot = random_below(key, 2 * (uint64_t)i, 64);
        if (live[slot]) {
            arena_free(arena, live[slot]);
            live[slot] = NULL;
            layout[i] = -1;
            continue;
        }
        live[slot] = arena_allocate(arena, random_below(key, 2 * (uint64_t)i + 1, 5000));
        if (!base) base = arena_address(live[slot]);
        layout[i] = (char *)arena_address(live[slot]) - base;
    }
    arena_reset(arena);
}

static void second_step_has_the_same_layout_and_no_growth(void **state)
{
    (void)state;
    enum { COUNT = 2000 };
    static ptrdiff_t first[COUNT], second[COUNT];
    struct arena *arena = arena_new(arena_range_host());
    play_step(arena, first, COUNT);
    size_t growths = arena_growths(arena), peak = arena_peak(arena);
    assert_int_equal(arena_in_use(arena), 0);
    play_step(arena, second, COUNT);
    assert_memory_equal(first, second, sizeof first);
    assert_int_equal(arena_growths(arena), growths);
    assert_int_equal(arena_peak(arena), peak);
    arena_delete(arena);
}

static void counting_range_has_the_same_peak(void **state)
{
    (void)state;
    enum { COUNT = 2000 };
    static ptrdiff_t real[COUNT], counted[COUNT];
    struct arena *host = arena_new(arena_range_host()), *none = arena_new(arena_range_none());
    play_step(host, real, COUNT);
    play_step(none, counted, COUNT);
    assert_memory_equal(real, counted, sizeof real);
    assert_int_equal(arena_peak(host), arena_peak(none));
    arena_delete(host);
    arena_delete(none);
}

static void growth_is_counted(void **state)
{
    (void)state;
    struct arena *arena = arena_new(arena_range_host());
    assert_int_equal(arena_growths(arena), 0);
    char *first = arena_address(arena_allocate(arena, 1));
    assert_int_equal(arena_growths(arena), 1);
    char *large = arena_address(arena_allocate(arena, (size_t)40 << 20)); // more than one step of growth
    assert_int_equal(arena_growths(arena), 2);
    *first = 1;
    large[((size_t)40 << 20) - 1] = 1;
    arena_delete(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_aligned_and_apart),
        cmocka_unit_test(freed_blocks_are_used_again),
        cmocka_unit_test(best_fit),
        cmocka_unit_test(second_step_has_the_same_layout_and_no_growth),
        cmocka_unit_test(counting_range_has_the_same_peak),
        cmocka_unit_test(growth_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
