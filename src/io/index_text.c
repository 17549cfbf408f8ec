// CSV, TSV and JSON lines.
#define _GNU_SOURCE // fdopen
#include "base/check.h"
#include "io/index_private.h"
#include "io/sha256.h"

#include <csv.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Fields of a record as a parser finds them.
struct fields {
    char *text[INDEX_MAX_COLUMNS]; // owned
    size_t length[INDEX_MAX_COLUMNS];
    int count;
    int records; // ended so far
};

static void fields_clear(struct fields *fields)
{
    for (int i = 0; i < fields->count; i++) free(fields->text[i]);
    fields->count = 0;
}

static void add_field(struct fields *fields, const void *text, size_t length)
{
    if (fields->count == INDEX_MAX_COLUMNS) return; // one more than any header has: noticed as such
    char *copy = check_malloc(length + 1);
    if (length > 0) memcpy(copy, text, length);
    copy[length] = '\0';
    fields->text[fields->count] = copy;
    fields->length[fields->count++] = length;
}

static void csv_field(void *text, size_t length, void *fields)
{
    add_field(fields, text, length);
}

static void csv_record(int end, void *data)
{
    (void)end;
    ((struct fields *)data)->records++;
}

static struct csv_parser csv_new(void)
{
    struct csv_parser parser;
    CHECK(csv_init(&parser, CSV_STRICT | CSV_STRICT_FINI) == 0, "libcsv does not start");
    return parser;
}

static bool csv_fault(const struct index *index, const char *where, struct csv_parser *parser,
                      struct fault *fault)
{
    return fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: not valid CSV: %s", index->path, where,
                       csv_strerror(csv_error(parser)));
}

// Splits a whole record that is known to be one.
static bool split_record(const struct index *index, const char *where, const char *record, size_t bytes,
                         struct fields *fields, struct fault *fault)
{
    if (index->form == FORM_CSV) {
        struct csv_parser parser = csv_new();
        bool good = csv_parse(&parser, record, bytes, csv_field, csv_record, fields) == bytes &&
                    csv_fini(&parser, csv_field, csv_record, fields) == 0;
        if (!good) csv_fault(index, where, &parser, fault);
        csv_free(&parser);
        return good;
    }
    while (bytes > 0 && (record[bytes - 1] == '\n' || record[bytes - 1] == '\r')) bytes--;
    for (const char *end = record + bytes, *tab; record; record = tab ? tab + 1 : NULL) {
        tab = memchr(record, '\t', (size_t)(end - record));
        add_field(fields, record, (size_t)((tab ? tab : end) - record));
    }
    return true;
}

// The item of a CSV or TSV record.
static bool item_of_fields(const struct index *index, const char *where, const struct fields *fields,
                           struct index_item *item, struct fault *fault)
{
    if (fields->count != index->columns) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: %d columns, the header has %d", index->path, where,
                           fields->count, index->columns);
    }
    for (int i = 0; i < fields->count; i++) {
        int role = index->role_of[i];
        if (role >= 0 && !index_take_field(index, index->path, where, role, fields->text[i],
                                           fields->length[i], item, fault))
            return false;
    }
    return true;
}

static bool item_of_record(const struct index *index, int64_t line, const char *record, size_t bytes,
                           struct index_item *item, struct fault *fault)
{
    char where[32];
    snprintf(where, sizeof where, "%lld", (long long)line);
    bool good;
    if (index->form == FORM_JSONL) {
        good = index_take_json(index, index->path, where, record, bytes, item, fault);
    } else {
        struct fields *fields = check_calloc(1, sizeof *fields);
        good = split_record(index, where, record, bytes, fields, fault) &&
               item_of_fields(index, where, fields, item, fault);
        fields_clear(fields);
        free(fields);
    }
    for (int role = ROLE_FILE; role <= ROLE_CAPTION && good; role++) {
        if (*index_item_field(item, role)) continue;
        good = fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: `%s` is missing", index->path, where,
                           index_role_name[role]);
    }
    return good;
}

// The header line of a CSV or TSV: which column is what.
static bool read_header(struct index *index, const char *record, size_t bytes, struct fault *fault)
{
    struct fields *fields = check_calloc(1, sizeof *fields);
    bool good = split_record(index, "1", record, bytes, fields, fault);
    bool seen[ROLES] = {false};
    index->columns = fields->count;
    for (int i = 0; i < fields->count && good; i++) {
        index->role_of[i] = -1;
        for (int role = 0; role < ROLES; role++) {
            if (strcmp(fields->text[i], index_role_name[role]) != 0) continue;
            if (seen[role]) {
                good = fault_raise(fault, EXIT_CODE_INPUT, "%s:1: two columns `%s`", index->path,
                                   index_role_name[role]);
            }
            index->role_of[i] = role;
            seen[role] = true;
        }
    }
    if (good && fields->count == INDEX_MAX_COLUMNS) {
        good = fault_raise(fault, EXIT_CODE_INPUT, "%s:1: more than %d columns", index->path,
                           INDEX_MAX_COLUMNS - 1);
    }
    for (int role = ROLE_FILE; role <= ROLE_CAPTION && good; role++) {
        if (seen[role]) continue;
        good = fault_raise(fault, EXIT_CODE_INPUT,
                           "%s:1: no column `%s` in the header; the first line names the columns, of which "
                           "file and caption are needed",
                           index->path, index_role_name[role]);
    }
    fields_clear(fields);
    free(fields);
    return good;
}

// The text file as it is read line by line.
struct lines {
    FILE *stream;
    char *text;         // [INDEX_MAX_RECORD] the record so far
    size_t bytes;       // of it
    int64_t offset;     // of the record's first byte
    int64_t line, next; // number of its first line; of the line read next
};

// Adds the next line, with its end, to the record; false at the end of the file or with a fault.
static bool add_line(const struct index *index, struct lines *lines, struct fault *fault)
{
    size_t before = lines->bytes;
    for (int character; (character = getc(lines->stream)) != EOF;) {
        if (lines->bytes == INDEX_MAX_RECORD) {
            return fault_raise(fault, EXIT_CODE_INPUT, "%s:%lld: a record of more than %d bytes", index->path,
                               (long long)lines->line, INDEX_MAX_RECORD);
        }
        lines->text[lines->bytes++] = (char)character;
        if (character == '\n') break;
    }
    if (ferror(lines->stream))
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s", index->path, strerror(errno));
    lines->next += lines->bytes > before;
    return lines->bytes > before;
}

// Reads one record: a line, or as many as a CSV's quotes go on for. False at the end or with a fault.
static bool next_record(const struct index *index, struct lines *lines, struct fault *fault)
{
    lines->offset += (int64_t)lines->bytes;
    lines->bytes = 0;
    lines->line = lines->next;
    if (!add_line(index, lines, fault)) return false;
    lines->text[lines->bytes] = '\0';
    if (index->form != FORM_CSV) return true;
    struct fields *fields = check_calloc(1, sizeof *fields);
    struct csv_parser parser = csv_new();
    char where[32];
    snprintf(where, sizeof where, "%lld", (long long)lines->line);
    bool good = true;
    bool blank = strspn(lines->text, "\r\n") == lines->bytes;
    for (size_t parsed = 0; good && fields->records == 0 && lines->bytes > parsed;) {
        size_t bytes = lines->bytes - parsed;
        good = csv_parse(&parser, lines->text + parsed, bytes, csv_field, csv_record, fields) == bytes;
        if (!good) csv_fault(index, where, &parser, fault);
        parsed = lines->bytes;
        if (good && fields->records == 0 && !blank) add_line(index, lines, fault); // adds nothing at the end
    }
    good = good && fault->code == EXIT_CODE_OK;
    // At the end of the file the last record may lack its line end, but not a closing quote.
    if (good && fields->records == 0 && csv_fini(&parser, csv_field, csv_record, fields) != 0) {
        good = csv_fault(index, where, &parser, fault);
    }
    if (good && fields->records > 1) {
        good = fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: a carriage return outside of quotes", index->path,
                           where);
    }
    csv_free(&parser);
    fields_clear(fields);
    free(fields);
    return good;
}

bool index_text_open(struct index *index, struct fault *fault)
{
    int descriptor = index_descriptor(index, 0, fault);
    if (descriptor < 0 || (descriptor = dup(descriptor)) < 0) return false;
    struct lines lines = {.stream = fdopen(descriptor, "rb"), .next = 1};
    CHECK(lines.stream, "%s: %s", index->path, strerror(errno));
    lines.text = check_malloc(INDEX_MAX_RECORD + 1);
    bool good = true, header = index->form != FORM_JSONL;
    while (good && next_record(index, &lines, fault)) {
        size_t mark =
            lines.line == 1 && lines.bytes >= 3 && memcmp(lines.text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
        lines.text[lines.bytes] = '\0';
        if (strspn(lines.text, " \t\r\n") == lines.bytes) continue; // a blank line
        struct span record = {lines.offset + (int64_t)mark, (int64_t)(lines.bytes - mark)};
        if (header) {
            good = read_header(index, lines.text + mark, (size_t)record.bytes, fault);
            header = false;
            continue;
        }
        struct index_item item = {0};
        good = item_of_record(index, lines.line, lines.text + mark, (size_t)record.bytes, &item, fault);
        if (good) {
            struct entry *entry = index_add_entry(index);
            entry->picture = sha256_number(item.name, strlen(item.name));
            entry->text.record = record;
            entry->text.line = lines.line;
        }
        index_item_free(&item);
    }
    free(lines.text);
    fclose(lines.stream);
    if (fault->code == EXIT_CODE_OK && header) {
        fault_raise(fault, EXIT_CODE_INPUT,
                    "%s: is empty; a header with the columns file and caption is needed", index->path);
    }
    return fault->code == EXIT_CODE_OK;
}

bool index_text_item(const struct index *index, const struct entry *entry, struct index_item *item,
                     struct fault *fault)
{
    char *record = index_read_span(index, entry->file, entry->text.record, fault);
    bool good = record && item_of_record(index, entry->text.line, record, (size_t)entry->text.record.bytes,
                                         item, fault);
    free(record);
    return good;
}
