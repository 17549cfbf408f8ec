#define _GNU_SOURCE // pread, realpath, O_CLOEXEC, strcasecmp
#include "io/index.h"

#include "base/check.h"
#include "io/json.h"

#include <archive.h>
#include <archive_entry.h>
#include <csv.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utf8proc.h>

enum { MAX_RECORD = 1 << 20, MAX_COLUMNS = 256, MAX_FILE_NAME = 4096 };

// What a column, or a JSON member, is for.
enum role { ROLE_FILE, ROLE_CAPTION, ROLE_GROUP, ROLE_SUBGROUP, ROLE_SOURCE, ROLES };
static const char *const role_names[ROLES] = {"file", "caption", "group", "subgroup", "source"};

enum form { FORM_CSV, FORM_TSV, FORM_JSONL, FORM_TAR };

// Bytes of the source.
struct span {
    int64_t offset, bytes; // bytes < 0: not there
};

// Where an item lies in the source.
struct entry {
    struct span record;                 // text: its line or lines
    int64_t line;                       // text: number of its first line, from 1
    char *name;                         // tar: member of the picture, owned
    struct span image, caption, labels; // tar: contents of KEY.png, KEY.txt, KEY.json
};

struct index {
    char *path, *folder; // owned; folder: where the pictures are, without links
    enum form form;
    int descriptor;
    int64_t bytes;            // of the source
    int role_of[MAX_COLUMNS]; // CSV, TSV: enum role of each column, or -1
    int columns;
    struct entry *entry; // [count]
    int64_t count, capacity;
};

void index_item_free(struct index_item *item)
{
    free(item->name);
    free(item->caption);
    free(item->group);
    free(item->subgroup);
    free(item->source);
    *item = (struct index_item){0};
}

static char **item_field(struct index_item *item, enum role role)
{
    char **const fields[ROLES] = {&item->name, &item->caption, &item->group, &item->subgroup, &item->source};
    return fields[role];
}

int64_t index_count(const struct index *index)
{
    return index->count;
}

void index_close(struct index *index)
{
    if (!index) return;
    for (int64_t i = 0; i < index->count; i++) free(index->entry[i].name);
    free(index->entry);
    if (index->descriptor >= 0) close(index->descriptor);
    free(index->path);
    free(index->folder);
    free(index);
}

static struct entry *add_entry(struct index *index)
{
    if (index->count == index->capacity) {
        index->capacity = index->capacity ? 2 * index->capacity : 1024;
        index->entry = check_realloc(index->entry, (size_t)index->capacity * sizeof *index->entry);
    }
    struct entry *entry = &index->entry[index->count++];
    *entry = (struct entry){.image.bytes = -1, .caption.bytes = -1, .labels.bytes = -1};
    return entry;
}

// Reads a span of an open file; a zero follows its bytes. NULL with a fault.
static char *read_bytes(int descriptor, const char *path, struct span span, struct fault *fault)
{
    char *text = check_malloc((size_t)span.bytes + 1);
    for (int64_t done = 0; done < span.bytes;) {
        ssize_t got =
            pread(descriptor, text + done, (size_t)(span.bytes - done), (off_t)(span.offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            fault_raise(fault, EXIT_CODE_INPUT, "%s: cannot read: %s", path,
                        got < 0 ? strerror(errno) : "the file ends early");
            free(text);
            return NULL;
        }
        done += got;
    }
    text[span.bytes] = '\0';
    return text;
}

static char *read_span(const struct index *index, struct span span, struct fault *fault)
{
    return read_bytes(index->descriptor, index->path, span, fault);
}

// ---- checks of one field ----

// UTF-8 without control characters other than blanks; NULL or what is wrong.
static const char *wrong_text(const char *text, size_t length)
{
    for (size_t at = 0; at < length;) {
        utf8proc_int32_t point;
        utf8proc_ssize_t step =
            utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(length - at), &point);
        if (step <= 0) return "is not UTF-8";
        if (utf8proc_category(point) == UTF8PROC_CATEGORY_CC && point != '\t' && point != '\n' &&
            point != '\r') {
            return "has a control character";
        }
        at += (size_t)step;
    }
    return NULL;
}

// A relative path that stays below its folder by its text alone.
static const char *wrong_file_name(const char *name)
{
    if (!*name) return "is empty";
    if (*name == '/') return "is an absolute path";
    for (const char *part = name; part; part = strchr(part, '/')) {
        part += *part == '/';
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || !part[2])) return "leads out of the folder";
    }
    return NULL;
}

// Checks a field and stores a copy in the item. `where`: line or member, for messages.
static bool take_field(const struct index *index, const char *where, enum role role, const char *text,
                       size_t length, struct index_item *item, struct fault *fault)
{
    static const size_t most[ROLES] = {MAX_FILE_NAME, INDEX_MAX_CAPTION, INDEX_MAX_LABEL, INDEX_MAX_LABEL,
                                       INDEX_MAX_LABEL};
    if (length > most[role]) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: %s of %zu bytes, at most %zu are allowed",
                           index->path, where, role_names[role], length, most[role]);
    }
    const char *wrong = wrong_text(text, length);
    char *copy = check_format("%.*s", (int)length, text);
    if (!wrong && role == ROLE_FILE && index->form != FORM_TAR) wrong = wrong_file_name(copy);
    if (wrong) {
        free(copy);
        return fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: %s %s", index->path, where, role_names[role],
                           wrong);
    }
    char **field = item_field(item, role);
    free(*field);
    *field = copy;
    return true;
}

static void fill_absent(struct index_item *item)
{
    for (int role = 0; role < ROLES; role++) {
        char **field = item_field(item, role);
        if (!*field) *field = check_strdup("");
    }
}

// ---- records of text ----

// Fields of a record as a parser finds them.
struct fields {
    char *text[MAX_COLUMNS]; // owned
    size_t length[MAX_COLUMNS];
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
    if (fields->count == MAX_COLUMNS) return; // one more than any header has: noticed as such
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
        if (role >= 0 && !take_field(index, where, role, fields->text[i], fields->length[i], item, fault))
            return false;
    }
    return true;
}

// The item's fields from a JSON object; null is as good as absent.
static bool item_of_json(const struct index *index, const char *where, const char *text, size_t bytes,
                         struct index_item *item, struct fault *fault)
{
    char *name = check_format("%s:%s", index->path, where);
    struct json_document *document = NULL;
    bool good = json_parse(text, bytes, name, &document, fault);
    if (good) {
        struct json root = json_root(document), member;
        if (json_kind(root) != JSON_KIND_OBJECT) good = json_fault(root, fault, "not an object");
        for (int role = 0; role < ROLES && good; role++) {
            const char *value;
            bool taken = *item_field(item, role) != NULL; // a tar's own name, a caption from KEY.txt
            if (taken || !json_member(root, role_names[role], &member) || json_kind(member) == JSON_KIND_NULL)
                continue;
            good = json_get_string(member, &value, fault) &&
                   take_field(index, where, role, value, strlen(value), item, fault);
        }
    }
    json_free(document);
    free(name);
    return good;
}

static bool item_of_record(const struct index *index, int64_t line, const char *record, size_t bytes,
                           struct index_item *item, struct fault *fault)
{
    char where[32];
    snprintf(where, sizeof where, "%lld", (long long)line);
    bool good;
    if (index->form == FORM_JSONL) {
        good = item_of_json(index, where, record, bytes, item, fault);
    } else {
        struct fields *fields = check_calloc(1, sizeof *fields);
        good = split_record(index, where, record, bytes, fields, fault) &&
               item_of_fields(index, where, fields, item, fault);
        fields_clear(fields);
        free(fields);
    }
    for (int role = ROLE_FILE; role <= ROLE_CAPTION && good; role++) {
        if (*item_field(item, role)) continue;
        good = fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: `%s` is missing", index->path, where,
                           role_names[role]);
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
            if (strcmp(fields->text[i], role_names[role]) != 0) continue;
            if (seen[role]) {
                good = fault_raise(fault, EXIT_CODE_INPUT, "%s:1: two columns `%s`", index->path,
                                   role_names[role]);
            }
            index->role_of[i] = role;
            seen[role] = true;
        }
    }
    if (good && fields->count == MAX_COLUMNS) {
        good =
            fault_raise(fault, EXIT_CODE_INPUT, "%s:1: more than %d columns", index->path, MAX_COLUMNS - 1);
    }
    for (int role = ROLE_FILE; role <= ROLE_CAPTION && good; role++) {
        if (seen[role]) continue;
        good = fault_raise(fault, EXIT_CODE_INPUT, "%s:1: no column `%s` in the header", index->path,
                           role_names[role]);
    }
    fields_clear(fields);
    free(fields);
    return good;
}

// The text file as it is read line by line.
struct lines {
    FILE *stream;
    char *text;         // [MAX_RECORD] the record so far
    size_t bytes;       // of it
    int64_t offset;     // of the record's first byte
    int64_t line, next; // number of its first line; of the line read next
};

// Adds the next line, with its end, to the record; false at the end of the file or with a fault.
static bool add_line(const struct index *index, struct lines *lines, struct fault *fault)
{
    size_t before = lines->bytes;
    for (int character; (character = getc(lines->stream)) != EOF;) {
        if (lines->bytes == MAX_RECORD) {
            return fault_raise(fault, EXIT_CODE_INPUT, "%s:%lld: a record of more than %d bytes", index->path,
                               (long long)lines->line, MAX_RECORD);
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

static bool open_text(struct index *index, struct fault *fault)
{
    int descriptor = dup(index->descriptor);
    struct lines lines = {.stream = descriptor < 0 ? NULL : fdopen(descriptor, "rb"), .next = 1};
    CHECK(lines.stream, "%s: %s", index->path, strerror(errno));
    lines.text = check_malloc(MAX_RECORD + 1);
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
        index_item_free(&item);
        if (!good) break;
        struct entry *entry = add_entry(index);
        entry->record = record;
        entry->line = lines.line;
    }
    free(lines.text);
    fclose(lines.stream);
    if (fault->code == EXIT_CODE_OK && header) {
        fault_raise(fault, EXIT_CODE_INPUT,
                    "%s: is empty; a header with the columns file and caption is needed", index->path);
    }
    return fault->code == EXIT_CODE_OK;
}

// ---- tar ----

// The item of a tar entry: caption from KEY.txt, else from KEY.json.
static bool item_of_tar(const struct index *index, const struct entry *entry, struct index_item *item,
                        struct fault *fault)
{
    item->name = check_strdup(entry->name);
    bool good = true;
    if (entry->caption.bytes >= 0) {
        char *text = read_span(index, entry->caption, fault);
        size_t length = text ? (size_t)entry->caption.bytes : 0;
        while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r')) length--;
        good = text && take_field(index, entry->name, ROLE_CAPTION, text, length, item, fault);
        free(text);
    }
    if (good && entry->labels.bytes >= 0) {
        char *text = read_span(index, entry->labels, fault);
        good = text && item_of_json(index, entry->name, text, (size_t)entry->labels.bytes, item, fault);
        free(text);
    }
    return good && (item->caption || fault_raise(fault, EXIT_CODE_INPUT,
                                                 "%s:%s: no caption (a .txt or .json member next to it)",
                                                 index->path, entry->name));
}

// Checks the last item once all of its members are known.
static bool end_tar_item(const struct index *index, const char *key, struct fault *fault)
{
    if (index->count == 0) return true;
    const struct entry *entry = &index->entry[index->count - 1];
    if (entry->image.bytes < 0) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: no picture (a .png, .jpg or .jpeg member)",
                           index->path, key);
    }
    struct index_item item = {0};
    bool good = item_of_tar(index, entry, &item, fault);
    index_item_free(&item);
    return good;
}

// Notes where a member's contents are; `extension` is what follows the key and its dot.
static bool add_member(const struct index *index, struct entry *entry, const char *name,
                       const char *extension, struct span span, struct fault *fault)
{
    struct span *place = NULL;
    int64_t most = MAX_RECORD;
    if (strcasecmp(extension, "png") == 0 || strcasecmp(extension, "jpg") == 0 ||
        strcasecmp(extension, "jpeg") == 0) {
        place = &entry->image;
        most = INDEX_MAX_IMAGE_BYTES;
    } else if (strcasecmp(extension, "txt") == 0) {
        place = &entry->caption;
    } else if (strcasecmp(extension, "json") == 0) {
        place = &entry->labels;
    } else {
        return true; // webdataset allows any other members
    }
    if (place->bytes >= 0)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: a second such member", index->path, name);
    if (span.bytes > most || span.offset < 0 || span.bytes < 0 || span.offset > index->bytes - span.bytes) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: %lld bytes, allowed are %lld, all inside the file",
                           index->path, name, (long long)span.bytes, (long long)most);
    }
    *place = span;
    if (place == &entry->image) entry->name = check_strdup(name);
    return true;
}

static bool read_members(struct index *index, struct archive *archive, struct fault *fault)
{
    char *key = NULL; // of the current item
    bool good = true;
    struct archive_entry *header;
    int status;
    while (good && (status = archive_read_next_header(archive, &header)) != ARCHIVE_EOF) {
        if (status != ARCHIVE_OK && status != ARCHIVE_WARN) {
            good = fault_raise(fault, EXIT_CODE_INPUT, "%s: broken tar: %s", index->path,
                               archive_error_string(archive));
            break;
        }
        if (archive_entry_filetype(header) == AE_IFDIR) continue;
        const char *name = archive_entry_pathname_utf8(header);
        if (!name || wrong_text(name, strlen(name))) {
            good = fault_raise(fault, EXIT_CODE_INPUT, "%s: the name of member %lld is not UTF-8",
                               index->path, (long long)index->count);
            break;
        }
        if (archive_entry_filetype(header) != AE_IFREG || archive_entry_hardlink(header) ||
            archive_entry_sparse_count(header) > 0) {
            good = fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: a link, sparse or special file", index->path,
                               name);
            break;
        }
        const char *slash = strrchr(name, '/'), *dot = strchr(slash ? slash : name, '.');
        if (!dot || dot[1] == '\0' || dot == (slash ? slash + 1 : name)) continue; // no key, no item
        size_t length = (size_t)(dot - name);
        if (!key || strlen(key) != length || memcmp(key, name, length) != 0) {
            if (key) good = end_tar_item(index, key, fault);
            free(key);
            key = check_format("%.*s", (int)length, name);
            if (good) add_entry(index);
        }
        // The tar is not compressed: what libarchive has consumed is the place of the contents in the file.
        struct span span = {archive_filter_bytes(archive, 0), archive_entry_size(header)};
        good = good && add_member(index, &index->entry[index->count - 1], name, dot + 1, span, fault);
    }
    good = good && end_tar_item(index, key ? key : "", fault);
    free(key);
    return good;
}

static bool open_tar(struct index *index, struct fault *fault)
{
    struct archive *archive = archive_read_new();
    CHECK(archive && archive_read_support_filter_none(archive) == ARCHIVE_OK &&
              archive_read_support_format_tar(archive) == ARCHIVE_OK,
          "libarchive does not start");
    bool good = archive_read_open_filename(archive, index->path, 1 << 16) == ARCHIVE_OK;
    if (!good) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: not an uncompressed tar: %s", index->path,
                    archive_error_string(archive));
    }
    good = good && read_members(index, archive, fault);
    archive_read_free(archive);
    return good;
}

// ---- opening ----

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), size = strlen(end);
    return length > size && strcasecmp(text + length - size, end) == 0;
}

// The one index file in a folder; the caller frees it.
static char *find_in_folder(const char *folder, struct fault *fault)
{
    static const char *const names[] = {"index.csv", "index.tsv", "index.jsonl"};
    char *found = NULL;
    for (int i = 0; i < 3; i++) {
        char *path = check_format("%s/%s", folder, names[i]);
        if (access(path, F_OK) != 0) {
            free(path);
        } else if (found) {
            fault_raise(fault, EXIT_CODE_INPUT, "%s: there are both %s and %s", folder, found, path);
            free(path);
            free(found);
            return NULL;
        } else {
            found = path;
        }
    }
    if (!found)
        fault_raise(fault, EXIT_CODE_INPUT, "%s: no index.csv, index.tsv or index.jsonl in it", folder);
    return found;
}

static bool open_source(struct index *index, struct fault *fault)
{
    struct stat status;
    if (stat(index->path, &status) == 0 && S_ISDIR(status.st_mode)) {
        char *found = find_in_folder(index->path, fault);
        if (!found) return false;
        free(index->path);
        index->path = found;
    }
    static const char *const endings[] = {
        [FORM_CSV] = ".csv", [FORM_TSV] = ".tsv", [FORM_JSONL] = ".jsonl", [FORM_TAR] = ".tar"};
    int form = 0;
    while (form <= FORM_TAR && !ends_with(index->path, endings[form])) form++;
    if (form > FORM_TAR) {
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: neither a folder nor a .csv, .tsv, .jsonl or .tar file", index->path);
    }
    index->form = (enum form)form;
    index->descriptor = open(index->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (index->descriptor < 0 || fstat(index->descriptor, &status) != 0) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s", index->path, strerror(errno));
    }
    if (!S_ISREG(status.st_mode))
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: not a regular file", index->path);
    index->bytes = status.st_size;
    char *folder = check_strdup(index->path), *slash = strrchr(folder, '/');
    if (slash) *slash = '\0';
    index->folder = realpath(slash ? (*folder ? folder : "/") : ".", NULL);
    free(folder);
    if (!index->folder)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: its folder: %s", index->path, strerror(errno));
    return form == FORM_TAR ? open_tar(index, fault) : open_text(index, fault);
}

bool index_open(const char *path, struct index **index, struct fault *fault)
{
    *index = NULL;
    struct index *opened = check_calloc(1, sizeof *opened);
    opened->path = check_strdup(path);
    opened->descriptor = -1;
    size_t length = strlen(opened->path);
    while (length > 1 && opened->path[length - 1] == '/') opened->path[--length] = '\0';
    if (!open_source(opened, fault)) {
        index_close(opened);
        return false;
    }
    *index = opened;
    return true;
}

// ---- items ----

bool index_item(const struct index *index, int64_t number, struct index_item *item, struct fault *fault)
{
    CHECK(number >= 0 && number < index->count, "item %lld of %lld", (long long)number,
          (long long)index->count);
    const struct entry *entry = &index->entry[number];
    *item = (struct index_item){0};
    bool good;
    if (index->form == FORM_TAR) {
        good = item_of_tar(index, entry, item, fault);
    } else {
        char *record = read_span(index, entry->record, fault);
        good = record && item_of_record(index, entry->line, record, (size_t)entry->record.bytes, item, fault);
        free(record);
    }
    if (good) {
        fill_absent(item);
    } else {
        index_item_free(item);
    }
    return good;
}

struct index_stamp index_stamp(const struct index *index, int64_t number, const struct index_item *item)
{
    struct stat status;
    bool tar = index->form == FORM_TAR;
    char *path = check_format("%s/%s", index->folder, item->name);
    bool found = tar ? fstat(index->descriptor, &status) == 0 : stat(path, &status) == 0;
    free(path);
    if (!found) return (struct index_stamp){0};
    return (struct index_stamp){.bytes = tar ? index->entry[number].image.bytes : status.st_size,
                                .seconds = status.st_mtim.tv_sec,
                                .nanoseconds = status.st_mtim.tv_nsec};
}

// A regular file below the folder, links followed; -1 with a fault.
static int open_picture(const struct index *index, const char *name, int64_t *bytes, struct fault *fault)
{
    char *path = check_format("%s/%s", index->folder, name), *real = realpath(path, NULL);
    size_t length = strlen(index->folder);
    int descriptor = -1;
    struct stat status;
    if (!real) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: %s", path, strerror(errno));
    } else if (strcmp(index->folder, "/") != 0 &&
               (strncmp(real, index->folder, length) != 0 || real[length] != '/')) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: leads out of the folder", path);
    } else if ((descriptor = open(real, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) < 0 ||
               fstat(descriptor, &status) != 0) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(status.st_mode) || status.st_size > INDEX_MAX_IMAGE_BYTES) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: not a regular file of at most %d bytes", path,
                    INDEX_MAX_IMAGE_BYTES);
    } else {
        *bytes = status.st_size;
    }
    if (descriptor >= 0 && fault->code != EXIT_CODE_OK) {
        close(descriptor);
        descriptor = -1;
    }
    free(path);
    free(real);
    return descriptor;
}

bool index_image(const struct index *index, int64_t number, uint8_t **data, size_t *bytes,
                 struct fault *fault)
{
    CHECK(number >= 0 && number < index->count, "item %lld of %lld", (long long)number,
          (long long)index->count);
    *data = NULL;
    *bytes = 0;
    if (index->form == FORM_TAR) {
        struct span image = index->entry[number].image;
        *data = (uint8_t *)read_span(index, image, fault);
        *bytes = *data ? (size_t)image.bytes : 0;
        return *data != NULL;
    }
    struct index_item item;
    if (!index_item(index, number, &item, fault)) return false;
    int64_t size = 0;
    int descriptor = open_picture(index, item.name, &size, fault);
    if (descriptor >= 0) {
        *data = (uint8_t *)read_bytes(descriptor, item.name, (struct span){0, size}, fault);
        *bytes = *data ? (size_t)size : 0;
        close(descriptor);
    }
    index_item_free(&item);
    return *data != NULL;
}
