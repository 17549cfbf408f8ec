/* What a library has been asked about shapes, kept until the backend closes: a value for each key. */
#ifndef CUDA_SHAPE_CACHE_H
#define CUDA_SHAPE_CACHE_H

extern "C" {
#include "base/check.h"
}

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <type_traits>

/* Open addressing, at most half full. Zero-initialised; clear with shape_cache_clear. A key is a struct of
 * int64_t numbers alone, compared by its bytes. */
template <class Key, class Value> struct shape_cache {
    static_assert(std::has_unique_object_representations_v<Key> && sizeof(Key) % sizeof(int64_t) == 0);
    struct entry {
        bool used;
        Key key;
        Value value;
    };
    entry *entries;
    size_t capacity, count; /* capacity: 0 or a power of two */
};

template <class Key, class Value>
typename shape_cache<Key, Value>::entry *shape_entry(const shape_cache<Key, Value> *cache, const Key &key)
{
    int64_t number[sizeof(Key) / sizeof(int64_t)];
    memcpy(number, &key, sizeof key);
    uint64_t hash = 0;
    for (int64_t one : number) {
        hash = (hash ^ (uint64_t)one) * 0x9e3779b97f4a7c15;
        hash ^= hash >> 32;
    }
    size_t at = hash & (cache->capacity - 1);
    while (cache->entries[at].used && memcmp(&cache->entries[at].key, &key, sizeof key) != 0)
        at = (at + 1) & (cache->capacity - 1);
    return &cache->entries[at];
}

/* The key's value, zeroed and `fresh` when there was none. Valid until the next call. */
template <class Key, class Value>
Value *shape_value(shape_cache<Key, Value> *cache, const Key &key, bool *fresh)
{
    if (2 * (cache->count + 1) > cache->capacity) {
        shape_cache<Key, Value> larger = {nullptr, cache->capacity ? 2 * cache->capacity : 64, cache->count};
        larger.entries = static_cast<typename shape_cache<Key, Value>::entry *>(
            check_calloc(larger.capacity, sizeof *larger.entries));
        for (size_t i = 0; i < cache->capacity; i++)
            if (cache->entries[i].used) *shape_entry(&larger, cache->entries[i].key) = cache->entries[i];
        free(cache->entries);
        *cache = larger;
    }
    auto *entry = shape_entry(cache, key);
    *fresh = !entry->used;
    if (*fresh) {
        entry->used = true;
        entry->key = key;
        cache->count++;
    }
    return &entry->value;
}

/* `release` is called with each value. */
template <class Key, class Value, class Release>
void shape_cache_clear(shape_cache<Key, Value> *cache, Release release)
{
    for (size_t i = 0; i < cache->capacity; i++)
        if (cache->entries[i].used) release(&cache->entries[i].value);
    free(cache->entries);
    *cache = {};
}

#endif
