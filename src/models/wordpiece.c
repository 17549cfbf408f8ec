#include "models/wordpiece.h"

#include "base/check.h"
#include "io/sha256.h"
#include "io/text_file.h"
#include "models/lower_case.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static const char *const role_text[][WORDPIECE_ROLES] = {
    [WORDPIECE_BERT] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"},
    [WORDPIECE_MPNET] = {"<pad>", "[UNK]", "<s>", "</s>", "<mask>"},
};

static const char CONTINUATION[] = "##";
enum { CONTINUATION_BYTES = 2, NO_TOKEN = -1 };

struct token {
    const char *text; // in the tokenizer's copy of the vocabulary
    size_t bytes;
    int32_t id;
};

/* A token that is recognised in a text, as bytes of the text or as characters of the cleaned one. */
struct special {
    struct token token;
    int32_t *characters; // [count], owned; NULL: in the text as it is
    size_t count;
};

struct wordpiece {
    struct wordpiece_options options; // without the special tokens
    char *vocabulary;                 // owned copy of the file
    size_t bytes;                     // of it
    struct token *token;              // [count], sorted by compare_tokens
    int32_t count;
    size_t longest;                // bytes of the longest token
    int32_t role[WORDPIECE_ROLES]; // ids; the mask's may be NO_TOKEN
    struct special *special;       // [special_count], owned; those with a role first
    int special_count;
};

/* Ids as they are found. */
struct id_list {
    int32_t *ids;
    int count, capacity;
};

const char *wordpiece_role_text(enum wordpiece_kind kind, enum wordpiece_role role)
{
    return role_text[kind][role];
}

// ---- vocabulary

static int compare_tokens(const void *a, const void *b)
{
    const struct token *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->bytes < y->bytes ? x->bytes : y->bytes);
    return order ? order : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static const struct token *token_of(const struct wordpiece *tokenizer, const char *text, size_t bytes)
{
    struct token key = {.text = text, .bytes = bytes};
    return bsearch(&key, tokenizer->token, (size_t)tokenizer->count, sizeof *tokenizer->token,
                   compare_tokens);
}

static int32_t find_token(const struct wordpiece *tokenizer, const char *text, size_t bytes)
{
    const struct token *found = token_of(tokenizer, text, bytes);
    return found ? found->id : NO_TOKEN;
}

/* Cuts the copied vocabulary into lines. */
static bool split_lines(struct wordpiece *tokenizer, size_t bytes, const char *name, struct fault *fault)
{
    const char *line = tokenizer->vocabulary, *end = line + bytes;
    int32_t capacity = 32768;
    tokenizer->token = check_malloc((size_t)capacity * sizeof *tokenizer->token);
    for (; line < end; tokenizer->count++) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop) stop = end;
        size_t length = (size_t)(stop - line);
        if (length && line[length - 1] == '\r') length--;
        long number = tokenizer->count + 1L;
        if (number > WORDPIECE_MAX_VOCABULARY)
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: more than %d lines", name,
                               WORDPIECE_MAX_VOCABULARY);
        if (length == 0 || length > WORDPIECE_MAX_TOKEN)
            return fault_raise(fault, EXIT_CODE_INPUT, "%s:%ld: a token of %zu bytes, allowed 1 to %d", name,
                               number, length, WORDPIECE_MAX_TOKEN);
        if (tokenizer->count == capacity) {
            capacity *= 2;
            tokenizer->token = check_realloc(tokenizer->token, (size_t)capacity * sizeof *tokenizer->token);
        }
        tokenizer->token[tokenizer->count] = (struct token){line, length, tokenizer->count};
        if (length > tokenizer->longest) tokenizer->longest = length;
        line = stop + (stop < end);
    }
    return true;
}

static bool index_vocabulary(struct wordpiece *tokenizer, size_t bytes, const char *name, struct fault *fault)
{
    if (!split_lines(tokenizer, bytes, name, fault)) return false;
    qsort(tokenizer->token, (size_t)tokenizer->count, sizeof *tokenizer->token, compare_tokens);
    for (int32_t i = 1; i < tokenizer->count; i++) {
        const struct token *token = &tokenizer->token[i];
        if (compare_tokens(token - 1, token) == 0)
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: the token of line %ld again in line %ld", name,
                               token[-1].id + 1L, token->id + 1L);
    }
    return true;
}

// ---- characters

static bool is_blank(int32_t character)
{
    if (character == '\t' || character == '\n' || character == '\r') return true;
    utf8proc_category_t category = utf8proc_category(character);
    return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
           category == UTF8PROC_CATEGORY_ZP;
}

/* Unassigned characters stay: tomorrow they may be letters. */
static bool is_removed(int32_t character)
{
    if (character == '\t' || character == '\n' || character == '\r') return false;
    utf8proc_category_t category = utf8proc_category(character);
    return character == 0xfffd || category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
           category == UTF8PROC_CATEGORY_CO;
}

/* Unicode's punctuation, and all that ASCII has beside letters and digits ("$", "+", ...). */
static bool is_punctuation(int32_t character)
{
    if (character < 0x80)
        return (character > ' ' && character < '0') || (character > '9' && character < 'A') ||
               (character > 'Z' && character < 'a') || (character > 'z' && character < 0x7f);
    utf8proc_category_t category = utf8proc_category(character);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

/* The blocks of ideographs that BERT's authors listed; the odd 2b920 is that of the tokenizers library. */
static bool is_cjk(int32_t character)
{
    static const int32_t block[][2] = {{0x4e00, 0x9fff},   {0x3400, 0x4dbf},   {0x20000, 0x2a6df},
                                       {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f}, {0x2b920, 0x2ceaf},
                                       {0xf900, 0xfaff},   {0x2f800, 0x2fa1f}};
    for (size_t i = 0; i < sizeof block / sizeof block[0]; i++)
        if (character >= block[i][0] && character <= block[i][1]) return true;
    return false;
}

// ---- normalisation

/* text -> UTF-8 without the characters that BERT removes, blanks as spaces, ideographs between spaces. The
 * caller frees it. */
static char *clean(const char *text, size_t bytes, bool split_cjk, size_t *cleaned_bytes)
{
    char *cleaned = check_malloc(2 * bytes + 8); // an ideograph of 3 bytes becomes 5
    size_t length = 0;
    for (size_t i = 0; i < bytes;) {
        utf8proc_int32_t character;
        utf8proc_ssize_t read =
            utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(bytes - i), &character);
        i += read > 0 ? (size_t)read : 1;
        if (read <= 0 || is_removed(character)) continue;
        bool alone = split_cjk && is_cjk(character);
        if (alone) cleaned[length++] = ' ';
        length += (size_t)utf8proc_encode_char(is_blank(character) ? ' ' : character,
                                               (utf8proc_uint8_t *)cleaned + length);
        if (alone) cleaned[length++] = ' ';
    }
    *cleaned_bytes = length;
    return cleaned;
}

/* text -> characters, normalised as the options say. The caller frees them. */
static int32_t *normalise(const struct wordpiece *tokenizer, const char *text, size_t bytes, size_t *count)
{
    const struct wordpiece_options *options = &tokenizer->options;
    size_t cleaned_bytes;
    char *cleaned = clean(text, bytes, options->split_cjk, &cleaned_bytes);

    // Canonical decomposition makes an accent a character of its own.
    const utf8proc_uint8_t *source = (const utf8proc_uint8_t *)cleaned;
    utf8proc_option_t form = options->strip_accents ? UTF8PROC_STABLE | UTF8PROC_DECOMPOSE : 0;
    utf8proc_ssize_t size = utf8proc_decompose(source, (utf8proc_ssize_t)cleaned_bytes, NULL, 0, form);
    CHECK(size >= 0, "utf8proc: %s", utf8proc_errmsg(size));
    int32_t *decomposed = check_malloc((size_t)size * sizeof *decomposed);
    utf8proc_decompose(source, (utf8proc_ssize_t)cleaned_bytes, decomposed, size, form);
    free(cleaned);

    int32_t *characters = check_malloc(2 * (size_t)size * sizeof *characters);
    size_t length = 0;
    for (utf8proc_ssize_t i = 0; i < size; i++) {
        if (options->strip_accents && utf8proc_category(decomposed[i]) == UTF8PROC_CATEGORY_MN) continue;
        if (options->lower_case)
            length += (size_t)lower_case(decomposed[i], characters + length);
        else
            characters[length++] = decomposed[i];
    }
    free(decomposed);
    *count = length;
    return characters;
}

// ---- special tokens, and making a tokenizer

/* Adds a token of the vocabulary, or replaces what was said of it before. */
static bool add_special(struct wordpiece *tokenizer, struct wordpiece_special special, const char *name,
                        struct fault *fault)
{
    const struct token *token = token_of(tokenizer, special.text, strlen(special.text));
    if (!token) return fault_raise(fault, EXIT_CODE_INPUT, "%s: no token %.100s", name, special.text);
    struct special made = {.token = *token};
    if (special.cleaned) {
        made.characters = normalise(tokenizer, token->text, token->bytes, &made.count);
        if (made.count == 0) {
            free(made.characters);
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: nothing is left of the special token of line %ld",
                               name, token->id + 1L);
        }
    }
    int place = 0;
    while (place < tokenizer->special_count && tokenizer->special[place].token.id != token->id) place++;
    if (place == tokenizer->special_count)
        tokenizer->special_count++;
    else
        free(tokenizer->special[place].characters);
    tokenizer->special[place] = made;
    return true;
}

static bool find_special_tokens(struct wordpiece *tokenizer, const struct wordpiece_options *options,
                                const char *name, struct fault *fault)
{
    tokenizer->special =
        check_calloc((size_t)(WORDPIECE_ROLES + options->special_count), sizeof *tokenizer->special);
    for (int i = 0; i < WORDPIECE_ROLES; i++) {
        struct wordpiece_special special = {.text = role_text[options->kind][i]};
        tokenizer->role[i] = find_token(tokenizer, special.text, strlen(special.text));
        if (tokenizer->role[i] == NO_TOKEN && i == WORDPIECE_MASK) continue;
        if (!add_special(tokenizer, special, name, fault)) return false;
    }
    for (int i = 0; i < options->special_count; i++)
        if (!add_special(tokenizer, options->special[i], name, fault)) return false;
    return true;
}

bool wordpiece_parse(const char *vocabulary, size_t bytes, const char *name, struct wordpiece_options options,
                     struct wordpiece **tokenizer, struct fault *fault)
{
    if (bytes > WORDPIECE_MAX_FILE)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: more than %d bytes", name, WORDPIECE_MAX_FILE);
    struct wordpiece *made = check_calloc(1, sizeof *made);
    made->options = options;
    made->options.special = NULL;
    made->bytes = bytes;
    made->vocabulary = check_malloc(bytes);
    memcpy(made->vocabulary, vocabulary, bytes);
    if (!index_vocabulary(made, bytes, name, fault) || !find_special_tokens(made, &options, name, fault)) {
        wordpiece_free(made);
        return false;
    }
    *tokenizer = made;
    return true;
}

bool wordpiece_read(const char *path, struct wordpiece_options options, struct wordpiece **tokenizer,
                    struct fault *fault)
{
    char *text;
    if (!text_file_read(path, WORDPIECE_MAX_FILE, &text, fault)) return false;
    bool done = wordpiece_parse(text, strlen(text), path, options, tokenizer, fault);
    free(text);
    return done;
}

void wordpiece_free(struct wordpiece *tokenizer)
{
    if (!tokenizer) return;
    for (int i = 0; i < tokenizer->special_count; i++) free(tokenizer->special[i].characters);
    free(tokenizer->special);
    free(tokenizer->token);
    free(tokenizer->vocabulary);
    free(tokenizer);
}

int32_t wordpiece_count(const struct wordpiece *tokenizer)
{
    return tokenizer->count;
}

/* Special tokens are told of where they are others than BERT's. */
char *wordpiece_describe(const struct wordpiece *tokenizer)
{
    const struct wordpiece_options *options = &tokenizer->options;
    char hex[SHA256_HEX_SIZE];
    sha256_bytes(tokenizer->vocabulary, tokenizer->bytes, hex);
    char *text = check_format("wordpiece vocabulary %s lower_case %d strip_accents %d split_cjk %d\n", hex,
                              options->lower_case, options->strip_accents, options->split_cjk);
    for (int i = 0; i < tokenizer->special_count; i++) {
        const struct special *special = &tokenizer->special[i];
        if (options->kind == WORDPIECE_BERT && i < WORDPIECE_ROLES && !special->characters) continue;
        char *longer = check_format("%sspecial token %d cleaned %d\n", text, (int)special->token.id,
                                    special->characters != NULL);
        free(text);
        text = longer;
    }
    return text;
}

// ---- words and pieces

static void add_id(struct id_list *list, int32_t id)
{
    if (list->count < list->capacity) list->ids[list->count++] = id;
}

/* The longest token that word[start..) begins with ("##" before it unless start is 0); *end is where it ends.
 * `place` are the offsets of the characters in `word`, UTF-8, and of its end. */
static int32_t longest_piece(const struct wordpiece *tokenizer, const char *word, const size_t *place,
                             int start, int characters, int *end)
{
    char piece[CONTINUATION_BYTES + 4 * WORDPIECE_MAX_WORD];
    size_t prefix = start ? CONTINUATION_BYTES : 0;
    memcpy(piece, CONTINUATION, prefix);
    memcpy(piece + prefix, word + place[start], place[characters] - place[start]);
    for (*end = characters; *end > start; (*end)--) {
        size_t bytes = prefix + place[*end] - place[start];
        if (bytes > tokenizer->longest) continue;
        int32_t id = find_token(tokenizer, piece, bytes);
        if (id != NO_TOKEN) return id;
    }
    return NO_TOKEN;
}

/* One word of at least one character to its pieces, or to the unknown token. */
static void add_word(const struct wordpiece *tokenizer, const int32_t *characters, size_t count,
                     struct id_list *list)
{
    int32_t unknown = tokenizer->role[WORDPIECE_UNKNOWN];
    if (count > WORDPIECE_MAX_WORD) {
        add_id(list, unknown);
        return;
    }
    char word[4 * WORDPIECE_MAX_WORD];
    size_t place[WORDPIECE_MAX_WORD + 1] = {0};
    for (size_t i = 0; i < count; i++)
        place[i + 1] =
            place[i] + (size_t)utf8proc_encode_char(characters[i], (utf8proc_uint8_t *)word + place[i]);

    int32_t pieces[WORDPIECE_MAX_WORD];
    int found = 0;
    for (int start = 0, end; start < (int)count; start = end) {
        pieces[found] = longest_piece(tokenizer, word, place, start, (int)count, &end);
        if (pieces[found++] == NO_TOKEN) {
            add_id(list, unknown);
            return;
        }
    }
    for (int i = 0; i < found; i++) add_id(list, pieces[i]);
}

/* The longest special token that characters of a cleaned text begin with, or NULL. */
static const struct special *special_in_cleaned(const struct wordpiece *tokenizer, const int32_t *characters,
                                                size_t count)
{
    const struct special *found = NULL;
    for (int i = 0; i < tokenizer->special_count; i++) {
        const struct special *special = &tokenizer->special[i];
        if (special->characters && special->count <= count && (!found || special->count > found->count) &&
            memcmp(special->characters, characters, special->count * sizeof *characters) == 0)
            found = special;
    }
    return found;
}

/* Text in which no special token stands as it is. */
static void add_text(const struct wordpiece *tokenizer, const char *text, size_t bytes, struct id_list *list)
{
    size_t count, start = 0;
    int32_t *characters = normalise(tokenizer, text, bytes, &count);
    for (size_t i = 0; i <= count;) {
        const struct special *special = special_in_cleaned(tokenizer, characters + i, count - i);
        bool mark = !special && i < count && is_punctuation(characters[i]);
        if (!special && !mark && i < count && !is_blank(characters[i])) {
            i++;
            continue;
        }
        if (i > start) add_word(tokenizer, characters + start, i - start, list);
        if (special) add_id(list, special->token.id);
        if (mark) add_word(tokenizer, characters + i, 1, list);
        start = i += special ? special->count : 1;
    }
    free(characters);
}

/* The longest special token that text[0..bytes) begins with, or NULL. */
static const struct token *special_in_text(const struct wordpiece *tokenizer, const char *text, size_t bytes)
{
    const struct token *found = NULL;
    for (int i = 0; i < tokenizer->special_count; i++) {
        const struct token *token = &tokenizer->special[i].token;
        if (!tokenizer->special[i].characters && token->bytes <= bytes &&
            (!found || token->bytes > found->bytes) && memcmp(text, token->text, token->bytes) == 0)
            found = token;
    }
    return found;
}

int wordpiece_encode(const struct wordpiece *tokenizer, const char *text, size_t bytes, int capacity,
                     int32_t *ids)
{
    CHECK(capacity >= 2, "room for %d tokens, at least 2 are needed", capacity);
    struct id_list list = {.ids = ids, .capacity = capacity - 1}; // one place is the last token's
    add_id(&list, tokenizer->role[WORDPIECE_FIRST]);
    size_t start = 0;
    for (size_t i = 0; i < bytes;) {
        const struct token *special = special_in_text(tokenizer, text + i, bytes - i);
        if (!special) {
            i++;
            continue;
        }
        add_text(tokenizer, text + start, i - start, &list);
        add_id(&list, special->id);
        start = i += special->bytes;
    }
    add_text(tokenizer, text + start, bytes - start, &list);
    ids[list.count++] = tokenizer->role[WORDPIECE_LAST];
    for (int i = list.count; i < capacity; i++) ids[i] = tokenizer->role[WORDPIECE_PADDING];
    return list.count;
}
