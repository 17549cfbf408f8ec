#define _XOPEN_SOURCE 700 // realpath
#include "io/deck.h"

#include "base/check.h"
#include "io/text_file.h"

#include <ctype.h>
#include <errno.h>
#include <libconfig.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static const char name_start[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
static const char name_rest[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";

const char *deck_type_name(enum deck_type type)
{
    static const char *const names[] = {
        [DECK_BOOL] = "true or false", [DECK_INT] = "an integer", [DECK_DOUBLE] = "a number",
        [DECK_STRING] = "a string",    [DECK_LIST] = "a list",
    };
    return names[type];
}

// ---- values

void deck_value_clear(struct deck_value *value)
{
    if (value->type == DECK_STRING) free(value->text);
    for (int i = 0; i < value->count; i++) deck_value_clear(&value->item[i]);
    free(value->item);
    *value = (struct deck_value){0};
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static bool wide(int64_t integer)
{
    return integer < INT32_MIN || integer > INT32_MAX;
}

/* The shortest form that reads back as the same number, and that libconfig does not take for an integer. */
static char *number_text(double number)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, number);
        if (strtod(text, NULL) == number) break;
    }
    return check_format("%s%s", text, strpbrk(text, ".e") ? "" : ".0");
}

static char *string_text(const char *string)
{
    char *text = check_malloc(4 * strlen(string) + 3), *end = text;
    *end++ = '"';
    for (const char *c = string; *c; c++) {
        if (*c == '"' || *c == '\\') *end++ = '\\';
        if ((unsigned char)*c < ' ')
            end += sprintf(end, "\\x%02x", (unsigned)(unsigned char)*c);
        else
            *end++ = *c;
    }
    *end++ = '"';
    *end = '\0';
    return text;
}

/* With `suffix`, integers are written as 64-bit ones. */
static char *scalar_text(const struct deck_value *value, bool suffix)
{
    switch (value->type) {
    case DECK_BOOL:
        return check_strdup(value->truth ? "true" : "false");
    case DECK_INT:
        return check_format("%lld%s", (long long)value->integer, suffix ? "L" : "");
    case DECK_DOUBLE:
        return number_text(value->number);
    case DECK_STRING:
        return string_text(value->text);
    case DECK_LIST:
        break;
    }
    CHECK(false, "a list inside a list");
}

char *deck_value_text(const struct deck_value *value)
{
    if (value->type != DECK_LIST) return scalar_text(value, value->type == DECK_INT && wide(value->integer));
    bool mixed = false, suffix = false; // a libconfig array has one type, and its integers one width
    for (int i = 0; i < value->count; i++) {
        mixed |= value->item[i].type != value->item[0].type;
        suffix |= value->item[i].type == DECK_INT && wide(value->item[i].integer);
    }
    char *text = check_strdup(mixed ? "(" : "[");
    for (int i = 0; i < value->count; i++) {
        char *item = scalar_text(&value->item[i], suffix);
        char *longer = check_format("%s%s%s", text, i ? ", " : "", item);
        free(item);
        free(text);
        text = longer;
    }
    char *closed = check_format("%s%s", text, mixed ? ")" : "]");
    free(text);
    return closed;
}

// ---- the scan before libconfig: what that library would accept and get wrong

/* Where a parsed text came from. */
struct source {
    const char *name;
    bool lines; /* whether a line number means something to the user */
};

/* A place in a text. */
struct scan {
    const char *at;
    int line;
    struct source source;
    struct fault *fault;
};

__attribute__((format(printf, 3, 4))) static bool scan_fault(struct scan *scan, int line, const char *format,
                                                             ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (scan->source.lines)
        return fault_raise(scan->fault, EXIT_CODE_DECK, "%s:%d: %s", scan->source.name, line, text);
    return fault_raise(scan->fault, EXIT_CODE_DECK, "%s: %s", scan->source.name, text);
}

static void advance(struct scan *scan, size_t bytes)
{
    for (; bytes > 0; bytes--) scan->line += *scan->at++ == '\n';
}

static bool scan_comment_block(struct scan *scan)
{
    const char *end = strstr(scan->at + 2, "*/");
    if (!end) return scan_fault(scan, scan->line, "comment without an end");
    advance(scan, (size_t)(end + 2 - scan->at));
    return true;
}

static bool scan_string(struct scan *scan)
{
    int line = scan->line;
    advance(scan, 1);
    while (*scan->at && *scan->at != '"') advance(scan, *scan->at == '\\' && scan->at[1] ? 2 : 1);
    if (!*scan->at) return scan_fault(scan, line, "string without an end");
    advance(scan, 1);
    return true;
}

static bool scan_real(struct scan *scan)
{
    char *end = NULL;
    double number = strtod(scan->at, &end);
    if (end == scan->at || !isfinite(number))
        return scan_fault(scan, scan->line, "'%.*s' is not a finite number",
                          (int)smaller(strcspn(scan->at, " \t\r\n;,])}"), 80), scan->at);
    advance(scan, (size_t)(end - scan->at));
    return true;
}

/* A number: an integer must fit its type, which is 64 bits wide with the suffix L, else 32; anything else
 * must be finite. */
static bool scan_number(struct scan *scan)
{
    const char *begin = scan->at, *digits = begin + (*begin == '+' || *begin == '-');
    bool hexadecimal = digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X');
    const char *end = hexadecimal ? digits + 2 + strspn(digits + 2, "0123456789abcdefABCDEF")
                                  : digits + strspn(digits, "0123456789");
    if (!hexadecimal && *end && strchr(".eE", *end)) return scan_real(scan);
    errno = 0;
    long long integer = strtoll(begin, NULL, hexadecimal ? 16 : 10);
    int length = (int)smaller((size_t)(end - begin), 80);
    if (errno == ERANGE)
        return scan_fault(scan, scan->line, "integer %.*s does not fit in 64 bits", length, begin);
    if (*end != 'L' && wide(integer))
        return scan_fault(scan, scan->line,
                          "integer %.*s does not fit in 32 bits; a 64-bit one is written %.*sL", length,
                          begin, length, begin);
    advance(scan, (size_t)(end - begin) + strspn(end, "L"));
    return true;
}

/* One token, comment or blank. */
static bool scan_next(struct scan *scan, int *nesting)
{
    const char *c = scan->at;
    if (*c == '"') return scan_string(scan);
    if (c[0] == '/' && c[1] == '*') return scan_comment_block(scan);
    if (*c == '@')
        return scan_fault(scan, scan->line,
                          "'%.*s': @include is not allowed; base = \"FILE\" names a deck to start from",
                          (int)smaller(strcspn(c, " \t\r\n\""), 80), c);
    if (isdigit((unsigned char)*c) || *c == '.' ||
        ((*c == '-' || *c == '+') && (isdigit((unsigned char)c[1]) || c[1] == '.')))
        return scan_number(scan);
    if (*c == '#' || (c[0] == '/' && c[1] == '/')) {
        advance(scan, strcspn(c, "\n"));
    } else if (strchr(name_start, *c)) {
        size_t length = strspn(c, name_rest);
        if (c[length] == '.')
            return scan_fault(scan, scan->line,
                              "'%.*s.': a deck writes a key of a section as %.*s: { key = value; };",
                              (int)smaller(length, 80), c, (int)smaller(length, 80), c);
        advance(scan, length);
    } else {
        *nesting += (strchr("{[(", *c) != NULL) - (strchr("}])", *c) != NULL);
        if (*nesting > DECK_MAX_NESTING)
            return scan_fault(scan, scan->line, "nested more than %d deep", DECK_MAX_NESTING);
        advance(scan, 1);
    }
    return true;
}

static bool scan_utf8(struct scan scan)
{
    while (*scan.at) {
        utf8proc_int32_t codepoint;
        utf8proc_ssize_t bytes = utf8proc_iterate((const utf8proc_uint8_t *)scan.at, -1, &codepoint);
        if (bytes <= 0)
            return scan_fault(&scan, scan.line, "byte 0x%02x is not UTF-8",
                              (unsigned)(unsigned char)*scan.at);
        advance(&scan, (size_t)bytes);
    }
    return true;
}

static bool scan_text(const char *text, struct source source, struct fault *fault)
{
    struct scan scan = {text, 1, source, fault};
    if (!scan_utf8(scan)) return false;
    for (int nesting = 0; *scan.at;)
        if (!scan_next(&scan, &nesting)) return false;
    return true;
}

// ---- settings

const struct deck_setting *deck_find(const struct deck *deck, const char *path)
{
    for (int i = 0; i < deck->count; i++)
        if (strcmp(deck->setting[i].path, path) == 0) return &deck->setting[i];
    return NULL;
}

void deck_clear(struct deck *deck)
{
    for (int i = 0; i < deck->count; i++) {
        free(deck->setting[i].path);
        free(deck->setting[i].origin);
        deck_value_clear(&deck->setting[i].value);
    }
    free(deck->setting);
    *deck = (struct deck){0};
}

/* Adds or replaces; takes over all three. */
static void put(struct deck *deck, char *path, char *origin, struct deck_value value)
{
    for (int i = 0; i < deck->count; i++) {
        struct deck_setting *known = &deck->setting[i];
        if (strcmp(known->path, path) != 0) continue;
        deck_value_clear(&known->value);
        free(known->origin);
        free(path);
        known->value = value;
        known->origin = origin;
        return;
    }
    deck->setting = check_realloc(deck->setting, (size_t)(deck->count + 1) * sizeof *deck->setting);
    deck->setting[deck->count++] = (struct deck_setting){path, origin, value};
}

static bool take_scalar(const config_setting_t *setting, struct deck_value *value)
{
    *value = (struct deck_value){0};
    switch (config_setting_type(setting)) {
    case CONFIG_TYPE_INT:
    case CONFIG_TYPE_INT64:
        value->type = DECK_INT;
        value->integer = config_setting_get_int64(setting);
        return true;
    case CONFIG_TYPE_FLOAT:
        value->type = DECK_DOUBLE;
        value->number = config_setting_get_float(setting);
        return true;
    case CONFIG_TYPE_BOOL:
        value->type = DECK_BOOL;
        value->truth = config_setting_get_bool(setting);
        return true;
    case CONFIG_TYPE_STRING:
        value->type = DECK_STRING;
        value->text = check_strdup(config_setting_get_string(setting));
        return true;
    }
    return false;
}

static bool take_list(const config_setting_t *setting, const char *origin, struct deck_value *value,
                      struct fault *fault)
{
    int length = config_setting_length(setting);
    *value =
        (struct deck_value){.type = DECK_LIST, .item = check_calloc((size_t)length, sizeof *value->item)};
    for (int i = 0; i < length; i++) {
        if (!take_scalar(config_setting_get_elem(setting, (unsigned)i), &value->item[i])) {
            deck_value_clear(value);
            return fault_raise(fault, EXIT_CODE_DECK,
                               "%s: a list may only hold numbers, strings, true and false", origin);
        }
        value->count++;
    }
    return true;
}

/* Adds a setting, or all that is in a group. */
static bool take(struct deck *deck, const config_setting_t *setting, const char *path, struct source source,
                 struct fault *fault)
{
    if (config_setting_is_group(setting)) {
        bool ok = true;
        for (int i = 0; ok && i < config_setting_length(setting); i++) {
            const config_setting_t *member = config_setting_get_elem(setting, (unsigned)i);
            char *member_path = check_format("%s%s%s", path, *path ? "." : "", config_setting_name(member));
            ok = take(deck, member, member_path, source, fault);
            free(member_path);
        }
        return ok;
    }
    char *origin = source.lines ? check_format("%s:%u", source.name, config_setting_source_line(setting))
                                : check_strdup(source.name);
    struct deck_value value;
    if (!take_scalar(setting, &value) && !take_list(setting, origin, &value, fault)) {
        free(origin);
        return false;
    }
    put(deck, check_strdup(path), origin, value);
    return true;
}

/* Scans and parses a text; config_destroy(config) in any case. */
static bool parse(config_t *config, const char *text, struct source source, struct fault *fault)
{
    config_init(config);
    if (!scan_text(text, source, fault)) return false;
    char *line_ended = check_format("%s\n", text); // libconfig takes no comment that ends with the text
    bool ok = config_read_string(config, line_ended);
    free(line_ended);
    if (ok) return true;
    if (source.lines)
        return fault_raise(fault, EXIT_CODE_DECK, "%s:%d: %s", source.name, config_error_line(config),
                           config_error_text(config));
    return fault_raise(fault, EXIT_CODE_DECK, "%s: %s", source.name, config_error_text(config));
}

bool deck_parse(struct deck *deck, const char *text, const char *name, struct fault *fault)
{
    struct source source = {name, true};
    config_t config;
    bool ok =
        parse(&config, text, source, fault) && take(deck, config_root_setting(&config), "", source, fault);
    config_destroy(&config);
    const struct deck_setting *base = deck_find(deck, "base");
    if (ok && base)
        return fault_raise(fault, EXIT_CODE_DECK, "%s: base is allowed in deck files only", base->origin);
    return ok;
}

// ---- files

/* The decks being read, a deck before its base. */
struct chain {
    char *tree;                     /* real path of the deck tree's folder; owned */
    char *real[DECK_MAX_BASES + 1]; /* real paths; owned */
    int count;
};

/* Length of the folder part of a path, without the slash; 0: none, or the root. */
static size_t folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) : 0;
}

/* The nearest folder named `input` above a real path, or else the folder of the path. */
static char *deck_tree(const char *real)
{
    size_t length = folder_length(real);
    char *folder = check_format("%.*s", (int)length, real);
    for (;; length = folder_length(folder)) {
        folder[length] = '\0';
        if (length == 0) break;
        if (strcmp(strrchr(folder, '/') + 1, "input") == 0) return folder;
    }
    free(folder);
    return check_format("%.*s", (int)folder_length(real), real);
}

static bool inside(const char *tree, const char *real)
{
    size_t length = strlen(tree);
    return strncmp(real, tree, length) == 0 && real[length] == '/';
}

static bool read_file(struct deck *deck, struct chain *chain, const char *path, struct fault *fault);

/* Reads the base that the deck `path` names, before its own settings. */
static bool read_base(struct deck *deck, struct chain *chain, const char *path,
                      const config_setting_t *setting, struct fault *fault)
{
    unsigned line = config_setting_source_line(setting);
    if (config_setting_type(setting) != CONFIG_TYPE_STRING)
        return fault_raise(fault, EXIT_CODE_DECK, "%s:%u: base must be a string, the name of a deck", path,
                           line);
    const char *base = config_setting_get_string(setting);
    if (*base == '/' || *base == '\0')
        return fault_raise(fault, EXIT_CODE_DECK, "%s:%u: base \"%s\" must be relative to the deck", path,
                           line, base);
    if (chain->count > DECK_MAX_BASES)
        return fault_raise(fault, EXIT_CODE_DECK, "%s:%u: more than %d decks build on each other", path, line,
                           DECK_MAX_BASES);
    char *joined =
        check_format("%.*s%s%s", (int)folder_length(path), path, strchr(path, '/') ? "/" : "", base);
    char *real = realpath(joined, NULL);
    bool ok = true;
    if (!real)
        ok = fault_raise(fault, EXIT_CODE_DECK, "%s:%u: base \"%s\": %s", path, line, base, strerror(errno));
    else if (!inside(chain->tree, real))
        ok = fault_raise(fault, EXIT_CODE_DECK, "%s:%u: base \"%s\" lies outside of the deck tree %s", path,
                         line, base, chain->tree);
    for (int i = 0; ok && i < chain->count; i++)
        if (strcmp(chain->real[i], real) == 0)
            ok = fault_raise(fault, EXIT_CODE_DECK, "%s:%u: base \"%s\" builds on this deck itself", path,
                             line, base);
    free(real);
    ok = ok && read_file(deck, chain, joined, fault);
    free(joined);
    return ok;
}

static bool read_file(struct deck *deck, struct chain *chain, const char *path, struct fault *fault)
{
    char *text;
    if (!text_file_read(path, DECK_MAX_BYTES, &text, fault)) {
        fault->code = EXIT_CODE_DECK; // a missing deck is an error of usage, not of input files
        return false;
    }
    char *real = realpath(path, NULL);
    if (!real) {
        free(text);
        return fault_raise(fault, EXIT_CODE_DECK, "%s: %s", path, strerror(errno));
    }
    if (!chain->tree) chain->tree = deck_tree(real);
    chain->real[chain->count++] = real;

    struct source source = {path, true};
    config_t config;
    bool ok = parse(&config, text, source, fault);
    config_setting_t *root = ok ? config_root_setting(&config) : NULL;
    config_setting_t *base = ok ? config_setting_get_member(root, "base") : NULL;
    if (base) {
        ok = read_base(deck, chain, path, base, fault);
        config_setting_remove(root, "base");
    }
    ok = ok && take(deck, root, "", source, fault);
    config_destroy(&config);
    free(text);
    return ok;
}

bool deck_read(struct deck *deck, const char *path, struct fault *fault)
{
    struct chain chain = {0};
    bool ok = read_file(deck, &chain, path, fault);
    free(chain.tree);
    for (int i = 0; i < chain.count; i++) free(chain.real[i]);
    return ok;
}

// ---- --set

/* Whether libconfig is to read the value, or it is a string without quotes. */
static bool is_expression(const char *value)
{
    if (strchr("\"[({", *value)) return true;
    char lower[6] = {0};
    for (int i = 0; i < 5 && value[i]; i++) lower[i] = (char)tolower((unsigned char)value[i]);
    size_t length = strlen(value);
    if ((length == 4 && strcmp(lower, "true") == 0) || (length == 5 && strcmp(lower, "false") == 0))
        return true;
    return strchr("+-.0123456789", *value) && strspn(value, "+-.0123456789abcdefxABCDEFXL") == length &&
           strpbrk(value, "0123456789");
}

static bool is_path(const char *begin, const char *end)
{
    while (begin < end) {
        if (!strchr(name_start, *begin)) return false;
        begin += strspn(begin, name_rest);
        if (begin >= end) break;
        if (*begin++ != '.') return false;
    }
    return begin == end && end[-1] != '.';
}

bool deck_set(struct deck *deck, const char *assignment, struct fault *fault)
{
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment || !is_path(assignment, equals))
        return fault_raise(fault, EXIT_CODE_DECK,
                           "--set %.200s: must be KEY=VALUE, for instance prune.steps=50", assignment);
    const char *value = equals + 1;
    if (!*value) return fault_raise(fault, EXIT_CODE_DECK, "--set %.200s: the value is missing", assignment);
    char *path = check_format("%.*s", (int)(equals - assignment), assignment);
    if (strcmp(path, "base") == 0) {
        free(path);
        return fault_raise(fault, EXIT_CODE_DECK, "--set base: base is allowed in deck files only");
    }
    char *origin = check_format("--set %.200s", assignment);
    struct source source = {origin, false};
    if (!scan_utf8((struct scan){value, 1, source, fault})) {
        free(origin);
        free(path);
        return false;
    }
    if (!is_expression(value)) {
        put(deck, path, origin, (struct deck_value){.type = DECK_STRING, .text = check_strdup(value)});
        return true;
    }
    char *text = check_format("value = %s\n;", value);
    config_t config;
    bool ok = parse(&config, text, source, fault);
    if (ok && config_setting_length(config_root_setting(&config)) != 1)
        ok = fault_raise(fault, EXIT_CODE_DECK, "%s: one value is expected", origin);
    ok = ok && take(deck, config_setting_get_elem(config_root_setting(&config), 0), path, source, fault);
    config_destroy(&config);
    free(text);
    free(origin);
    free(path);
    return ok;
}
