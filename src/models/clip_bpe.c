#include "models/clip_bpe.h"

#include "base/check.h"
#include "models/clip_bpe_private.h"
#include "models/lower_case.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { NOTHING = -1 };

/* Words as CLIPTokenizer splits them; its \s is Unicode's White_Space. The text of a special token that was
 * not recognised as one is a word, which is split again by the same rules without the first two. */
#define PARTS "'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|[^\\t-\\r \\x{85}\\p{Z}\\p{L}\\p{N}]+"
#define WORDS "<\\|startoftext\\|>|<\\|endoftext\\|>|" PARTS

// ---- normalisation

/* text with U+FFFD for each byte that is not part of UTF-8; the caller frees it. */
static char *repair(const char *text, size_t bytes, size_t *repaired_bytes)
{
    enum { REPLACEMENT = 0xfffd, REPLACEMENT_BYTES = 3 };
    char *repaired = check_malloc(REPLACEMENT_BYTES * bytes + 1);
    size_t length = 0;
    for (size_t i = 0; i < bytes;) {
        utf8proc_int32_t character;
        utf8proc_ssize_t read =
            utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(bytes - i), &character);
        length += (size_t)utf8proc_encode_char(read > 0 ? character : REPLACEMENT,
                                               (utf8proc_uint8_t *)repaired + length);
        i += read > 0 ? (size_t)read : 1;
    }
    *repaired_bytes = length;
    return repaired;
}

/* The characters of UTF-8 in the form NFC; the caller frees them. */
static int32_t *compose(const char *text, size_t bytes, size_t *count)
{
    const utf8proc_uint8_t *source = (const utf8proc_uint8_t *)text;
    const utf8proc_option_t form = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    utf8proc_ssize_t size = utf8proc_decompose(source, (utf8proc_ssize_t)bytes, NULL, 0, form);
    CHECK(size >= 0, "utf8proc: %s", utf8proc_errmsg(size));
    int32_t *characters = check_malloc(((size_t)size + 1) * sizeof *characters);
    utf8proc_decompose(source, (utf8proc_ssize_t)bytes, characters, size, form);
    size = utf8proc_normalize_utf32(characters, size, form);
    CHECK(size >= 0, "utf8proc: %s", utf8proc_errmsg(size));
    *count = (size_t)size;
    return characters;
}

char *clip_bpe_normalise(const char *text, size_t bytes, size_t *length)
{
    size_t repaired_bytes, count;
    char *repaired = repair(text, bytes, &repaired_bytes);
    int32_t *characters = compose(repaired, repaired_bytes, &count);
    free(repaired);
    char *normalised = check_malloc(2 * 4 * count + 1); // two characters each, 4 bytes each
    *length = 0;
    for (size_t i = 0; i < count; i++) {
        int32_t lowered[2];
        int made = lower_case(characters[i], lowered);
        for (int j = 0; j < made; j++)
            *length += (size_t)utf8proc_encode_char(lowered[j], (utf8proc_uint8_t *)normalised + *length);
    }
    normalised[*length] = 0;
    free(characters);
    return normalised;
}

// ---- ids as they are found

struct id_list {
    int32_t *ids;
    int kept, capacity;
    int64_t cut; // that did not fit
};

static void add_id(struct id_list *list, int32_t id)
{
    if (list->kept < list->capacity)
        list->ids[list->kept++] = id;
    else
        list->cut++;
}

// ---- merges

int clip_bpe_compare_merges(const void *a, const void *b)
{
    const struct merge *x = a, *y = b;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

static const struct merge *find_merge(const struct clip_bpe *tokenizer, int32_t left, int32_t right)
{
    struct merge key = {.left = left, .right = right};
    return bsearch(&key, tokenizer->merge, (size_t)tokenizer->merges, sizeof *tokenizer->merge,
                   clip_bpe_compare_merges);
}

/* A token of a word that is being merged; tokens are a list, for merging takes out of the middle. */
struct symbol {
    int32_t id; // NOTHING: merged into the one before
    int64_t previous, next;
};

/* A merge that was possible at a symbol when it was found. */
struct candidate {
    const struct merge *merge;
    int64_t place; // of the left symbol
};

/* The candidates, as a binary heap: the first is the one of least rank, of equal rank the leftmost. */
struct candidates {
    struct candidate *item; // room for all there can be
    int64_t count;
};

static bool before(struct candidate a, struct candidate b)
{
    return a.merge->rank != b.merge->rank ? a.merge->rank < b.merge->rank : a.place < b.place;
}

static void push(struct candidates *heap, struct candidate added)
{
    int64_t i = heap->count++;
    for (; i > 0 && before(added, heap->item[(i - 1) / 2]); i = (i - 1) / 2)
        heap->item[i] = heap->item[(i - 1) / 2];
    heap->item[i] = added;
}

static struct candidate pop(struct candidates *heap)
{
    struct candidate first = heap->item[0], last = heap->item[--heap->count];
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < heap->count; i = child) {
        if (child + 1 < heap->count && before(heap->item[child + 1], heap->item[child])) child++;
        if (!before(heap->item[child], last)) break;
        heap->item[i] = heap->item[child];
    }
    heap->item[i] = last;
    return first;
}

/* The pair that begins at a symbol, if there is a merge of it. */
static void consider(const struct clip_bpe *tokenizer, const struct symbol *symbol, int64_t place,
                     struct candidates *heap)
{
    if (place == NOTHING || symbol[place].next == NOTHING) return;
    const struct merge *merge = find_merge(tokenizer, symbol[place].id, symbol[symbol[place].next].id);
    if (merge) push(heap, (struct candidate){merge, place});
}

static void merge_word(const struct clip_bpe *tokenizer, struct symbol *symbol, int64_t count,
                       struct candidates *heap)
{
    heap->count = 0;
    for (int64_t i = 0; i < count; i++) consider(tokenizer, symbol, i, heap);
    while (heap->count) {
        struct candidate best = pop(heap);
        struct symbol *left = &symbol[best.place];
        if (left->id != best.merge->left || left->next == NOTHING) continue; // merged otherwise since
        struct symbol *right = &symbol[left->next];
        if (right->id != best.merge->right) continue;
        left->id = best.merge->made;
        right->id = NOTHING;
        left->next = right->next;
        if (left->next != NOTHING) symbol[left->next].previous = best.place;
        consider(tokenizer, symbol, left->previous, heap);
        consider(tokenizer, symbol, best.place, heap);
    }
}

static void add_word(const struct clip_bpe *tokenizer, const char *word, size_t bytes, struct id_list *list)
{
    int64_t count = (int64_t)bytes;
    struct symbol *symbol = check_malloc(bytes * sizeof *symbol);
    // Each symbol is the left one of a candidate at most once at the start, and twice more for each merge.
    struct candidates heap = {.item = check_malloc(3 * bytes * sizeof *heap.item)};
    for (int64_t i = 0; i < count; i++) {
        bool last = i == count - 1;
        uint8_t byte = (uint8_t)word[i];
        symbol[i] = (struct symbol){.id = last ? tokenizer->last_letter[byte] : tokenizer->letter[byte],
                                    .previous = i - 1,
                                    .next = last ? NOTHING : i + 1};
    }
    merge_word(tokenizer, symbol, count, &heap);
    for (int64_t i = 0; i != NOTHING; i = symbol[i].next) add_id(list, symbol[i].id);
    free(heap.item);
    free(symbol);
}

// ---- words

void clip_bpe_compile(struct clip_bpe *tokenizer)
{
    const char *const text[] = {WORDS, PARTS};
    pcre2_code **const code[] = {&tokenizer->words, &tokenizer->parts};
    for (int i = 0; i < 2; i++) {
        int error;
        PCRE2_SIZE place;
        *code[i] = pcre2_compile((PCRE2_SPTR)text[i], PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error, &place, NULL);
        CHECK(*code[i], "pcre2: error %d at %zu of %s", error, place, text[i]);
    }
}

/* What is done with a piece of a text. */
typedef void add_piece(const struct clip_bpe *tokenizer, const char *text, size_t bytes,
                       struct id_list *list);

/* Each match of an expression in text, valid UTF-8. */
static void add_matches(const struct clip_bpe *tokenizer, const pcre2_code *code, const char *text,
                        size_t bytes, add_piece *add, struct id_list *list)
{
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(code, NULL);
    CHECK(data, "pcre2: no memory");
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(data);
    for (size_t start = 0; start < bytes; start = range[1]) {
        int found = pcre2_match(code, (PCRE2_SPTR)text, bytes, start, PCRE2_NO_UTF_CHECK, data, NULL);
        if (found == PCRE2_ERROR_NOMATCH) break;
        CHECK(found > 0 && range[1] > start, "pcre2: error %d in matching", found);
        add(tokenizer, text + range[0], range[1] - range[0], list);
    }
    pcre2_match_data_free(data);
}

static void add_split_word(const struct clip_bpe *tokenizer, const char *word, size_t bytes,
                           struct id_list *list)
{
    add_matches(tokenizer, tokenizer->parts, word, bytes, add_word, list);
}

static void add_words(const struct clip_bpe *tokenizer, const char *text, size_t bytes, struct id_list *list)
{
    add_matches(tokenizer, tokenizer->words, text, bytes, add_split_word, list);
}

// ---- special tokens

/* The longest special token of one kind that text[0..bytes) begins with, or NULL. */
static const struct special_token *special_at(const struct clip_bpe *tokenizer, bool normalized,
                                              const char *text, size_t bytes)
{
    const struct special_token *longest = NULL;
    for (int i = 0; i < tokenizer->specials; i++) {
        const struct special_token *special = &tokenizer->special[i];
        if (special->normalized == normalized && special->bytes <= bytes &&
            memcmp(text, special->text, special->bytes) == 0 && (!longest || special->bytes > longest->bytes))
            longest = special;
    }
    return longest;
}

/* Special tokens of one kind as their ids, what is between them by `add`. */
static void add_between(const struct clip_bpe *tokenizer, bool normalized, const char *text, size_t bytes,
                        add_piece *add, struct id_list *list)
{
    size_t start = 0;
    for (size_t i = 0; i < bytes;) {
        const struct special_token *special = special_at(tokenizer, normalized, text + i, bytes - i);
        if (special) {
            add(tokenizer, text + start, i - start, list);
            add_id(list, special->id);
            start = i + special->bytes;
        }
        i += special ? special->bytes : 1;
    }
    add(tokenizer, text + start, bytes - start, list);
}

/* Text without special tokens of those that are looked for before it is normalised. */
static void add_text(const struct clip_bpe *tokenizer, const char *text, size_t bytes, struct id_list *list)
{
    size_t length;
    char *normalised = clip_bpe_normalise(text, bytes, &length);
    add_between(tokenizer, true, normalised, length, add_words, list);
    free(normalised);
}

int64_t clip_bpe_encode(const struct clip_bpe *tokenizer, const char *text, size_t bytes, int capacity,
                        int32_t *ids, int *length)
{
    CHECK(capacity >= 2, "room for %d tokens, at least 2 are needed", capacity);
    struct id_list list = {.ids = ids, .capacity = capacity - 1}; // one place is the end's
    add_id(&list, tokenizer->start);
    add_between(tokenizer, false, text, bytes, add_text, &list);
    ids[list.kept] = tokenizer->end;
    if (length) *length = list.kept + 1;
    for (int i = list.kept + 1; i < capacity; i++) ids[i] = tokenizer->pad;
    return list.cut;
}

// ---- the rest

int32_t clip_bpe_count(const struct clip_bpe *tokenizer)
{
    return tokenizer->count;
}

int clip_bpe_length(const struct clip_bpe *tokenizer)
{
    return tokenizer->length;
}

static void identify_numbers(struct sha256 *hash, const char *name, const int32_t *number, size_t count)
{
    sha256_add(hash, name, strlen(name) + 1);
    sha256_add(hash, number, count * sizeof *number);
}

void clip_bpe_identify(const struct clip_bpe *tokenizer, struct sha256 *hash)
{
    const int32_t numbers[] = {tokenizer->count, tokenizer->length, tokenizer->start, tokenizer->end,
                               tokenizer->pad};
    identify_numbers(hash, "clip_bpe", numbers, sizeof numbers / sizeof *numbers);
    identify_numbers(hash, "letters", tokenizer->letter, 256);
    identify_numbers(hash, "last letters", tokenizer->last_letter, 256);
    for (int32_t i = 0; i < tokenizer->merges; i++) {
        const struct merge *merge = &tokenizer->merge[i];
        identify_numbers(hash, "merge", (int32_t[]){merge->left, merge->right, merge->made, merge->rank}, 4);
    }
    for (int i = 0; i < tokenizer->specials; i++) {
        const struct special_token *special = &tokenizer->special[i];
        identify_numbers(hash, special->text, (int32_t[]){special->id, special->normalized}, 2);
    }
}

void clip_bpe_free(struct clip_bpe *tokenizer)
{
    if (!tokenizer) return;
    for (int i = 0; i < tokenizer->specials; i++) free(tokenizer->special[i].text);
    pcre2_code_free(tokenizer->words);
    pcre2_code_free(tokenizer->parts);
    free(tokenizer->merge);
    free(tokenizer);
}
