#define _GNU_SOURCE // pread, realpath, O_CLOEXEC, strcasecmp, scandir
#include "io/index.h"

#include "base/check.h"
#include "io/index_private.h"
#include "io/json.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utf8proc.h>

const char *const index_role_name[ROLES] = {"file", "caption", "group", "subgroup", "source"};

void index_item_free(struct index_item *item)
{
    free(item->name);
    free(item->caption);
    free(item->group);
    free(item->subgroup);
    free(item->source);
    *item = (struct index_item){0};
}

char **index_item_field(struct index_item *item, enum role role)
{
    char **const fields[ROLES] = {&item->name, &item->caption, &item->group, &item->subgroup, &item->source};
    return fields[role];
}

int64_t index_count(const struct index *index)
{
    return index->count;
}

void index_entry_clear(const struct index *index, struct entry *entry)
{
    free(entry->name);
    if (index->form == FORM_COCO) free(entry->caption);
}

void index_close(struct index *index)
{
    if (!index) return;
    for (int64_t i = 0; i < index->count; i++) index_entry_clear(index, &index->entry[i]);
    for (int i = 0; i < index->files; i++) free(index->file[i].path);
    if (index->open->descriptor >= 0) close(index->open->descriptor);
    free(index->open);
    free(index->entry);
    free(index->file);
    free(index->path);
    free(index->folder);
    free(index);
}

struct entry *index_add_entry(struct index *index)
{
    if (index->count == index->capacity) {
        index->capacity = index->capacity ? 2 * index->capacity : 1024;
        index->entry = check_realloc(index->entry, (size_t)index->capacity * sizeof *index->entry);
    }
    struct entry *entry = &index->entry[index->count++];
    *entry = (struct entry){0};
    return entry;
}

// ---- files of the source ----

// Opens a regular file and describes it; -1 with a fault.
static int open_regular(const char *path, struct stat *status, struct fault *fault)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0 || fstat(descriptor, status) != 0) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(status->st_mode)) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: not a regular file", path);
    } else {
        return descriptor;
    }
    if (descriptor >= 0) close(descriptor);
    return -1;
}

// One more file of the source, which owns the path.
static bool add_file(struct index *index, char *path, struct fault *fault)
{
    index->file = check_realloc(index->file, (size_t)(index->files + 1) * sizeof *index->file);
    struct source_file *file = &index->file[index->files++];
    *file = (struct source_file){.path = path};
    struct stat status;
    int descriptor = open_regular(path, &status, fault);
    if (descriptor < 0) return false;
    close(descriptor);
    file->bytes = status.st_size;
    file->changed = status.st_mtim;
    return true;
}

int index_descriptor(const struct index *index, int file, struct fault *fault)
{
    struct open_file *open = index->open;
    const struct source_file *source = &index->file[file];
    if (open->file == file) return open->descriptor;
    struct stat status;
    int descriptor = open_regular(source->path, &status, fault);
    if (descriptor < 0) return -1;
    if (status.st_size != source->bytes || status.st_mtim.tv_sec != source->changed.tv_sec ||
        status.st_mtim.tv_nsec != source->changed.tv_nsec) {
        close(descriptor);
        fault_raise(fault, EXIT_CODE_INPUT, "%s: has changed since it was opened", source->path);
        return -1;
    }
    if (open->descriptor >= 0) close(open->descriptor);
    *open = (struct open_file){file, descriptor};
    return descriptor;
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

char *index_read_span(const struct index *index, int file, struct span span, struct fault *fault)
{
    int descriptor = index_descriptor(index, file, fault);
    return descriptor < 0 ? NULL : read_bytes(descriptor, index->file[file].path, span, fault);
}

// ---- checks of one field ----

const char *index_wrong_text(const char *text, size_t length)
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

bool index_take_field(const struct index *index, const char *path, const char *where, enum role role,
                      const char *text, size_t length, struct index_item *item, struct fault *fault)
{
    static const size_t most[ROLES] = {INDEX_MAX_FILE_NAME, INDEX_MAX_CAPTION, INDEX_MAX_LABEL,
                                       INDEX_MAX_LABEL, INDEX_MAX_LABEL};
    if (length > most[role]) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: %s of %zu bytes, at most %zu are allowed", path,
                           where, index_role_name[role], length, most[role]);
    }
    const char *wrong = index_wrong_text(text, length);
    char *copy = check_format("%.*s", (int)length, text);
    if (!wrong && role == ROLE_FILE && index->form != FORM_TAR) wrong = wrong_file_name(copy);
    if (wrong) {
        free(copy);
        return fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: %s %s", path, where, index_role_name[role], wrong);
    }
    char **field = index_item_field(item, role);
    free(*field);
    *field = copy;
    return true;
}

static void fill_absent(struct index_item *item)
{
    for (int role = 0; role < ROLES; role++) {
        char **field = index_item_field(item, role);
        if (!*field) *field = check_strdup("");
    }
}

bool index_take_json(const struct index *index, const char *path, const char *where, const char *text,
                     size_t bytes, struct index_item *item, struct fault *fault)
{
    char *name = check_format("%s:%s", path, where);
    struct json_document *document = NULL;
    bool good = json_parse(text, bytes, name, &document, fault);
    if (good) {
        struct json root = json_root(document), member;
        if (json_kind(root) != JSON_KIND_OBJECT) good = json_fault(root, fault, "not an object");
        for (int role = 0; role < ROLES && good; role++) {
            const char *value;
            bool taken = *index_item_field(item, role) != NULL; // a tar's own name, a caption from KEY.txt
            if (taken || !json_member(root, index_role_name[role], &member) ||
                json_kind(member) == JSON_KIND_NULL)
                continue;
            good = json_get_string(member, &value, fault) &&
                   index_take_field(index, path, where, role, value, strlen(value), item, fault);
        }
    }
    json_free(document);
    free(name);
    return good;
}
// ---- opening ----

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), size = strlen(end);
    return length > size && strcasecmp(text + length - size, end) == 0;
}

// Whether one index file is in a folder, and its path, which the caller frees. False with a fault if two are.
static bool find_in_folder(const char *folder, char **found, struct fault *fault)
{
    static const char *const names[] = {"index.csv", "index.tsv", "index.jsonl"};
    *found = NULL;
    for (int i = 0; i < 3; i++) {
        char *path = check_format("%s/%s", folder, names[i]);
        if (access(path, F_OK) != 0) {
            free(path);
        } else if (*found) {
            fault_raise(fault, EXIT_CODE_INPUT, "%s: there are both %s and %s", folder, *found, path);
            free(path);
            free(*found);
            return false;
        } else {
            *found = path;
        }
    }
    return true;
}

static int is_tar(const struct dirent *entry)
{
    return entry->d_name[0] != '.' && ends_with(entry->d_name, ".tar");
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

// The tars in a folder, in the order of their names' bytes.
static bool add_tars(struct index *index, struct fault *fault)
{
    struct dirent **names = NULL;
    int count = scandir(index->path, &names, is_tar, by_bytes);
    bool good = true;
    if (count < 0) good = fault_raise(fault, EXIT_CODE_INPUT, "%s: %s", index->path, strerror(errno));
    if (count == 0)
        good = fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: no index.csv, index.tsv or index.jsonl in it, and no .tar", index->path);
    for (int i = 0; i < count; i++) {
        good = good && add_file(index, check_format("%s/%s", index->path, names[i]->d_name), fault);
        free(names[i]);
    }
    free(names);
    return good;
}

// What kind of source it is, and its files.
static bool find_files(struct index *index, struct fault *fault)
{
    struct stat status;
    if (stat(index->path, &status) == 0 && S_ISDIR(status.st_mode)) {
        char *found;
        if (!find_in_folder(index->path, &found, fault)) return false;
        if (!found) {
            index->form = FORM_TAR;
            index->many = true;
            return add_tars(index, fault);
        }
        free(index->path);
        index->path = found;
    }
    static const char *const endings[FORMS] = {".csv", ".tsv", ".jsonl", ".json", ".tar"};
    int form = 0;
    while (form < FORMS && !ends_with(index->path, endings[form])) form++;
    if (form == FORMS)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: neither a folder nor a .csv, .tsv, .jsonl, .json or .tar file", index->path);
    if (form == FORM_TAR && strpbrk(index->path, "{*?[") && access(index->path, F_OK) != 0)
        return fault_raise(
            fault, EXIT_CODE_INPUT,
            "%s: no such file; several tars are given by the folder that they are in, not by a "
            "pattern",
            index->path);
    index->form = (enum form)form;
    return add_file(index, check_strdup(index->path), fault);
}

// The folder of the pictures: the one that is named, else the source's own.
static bool find_pictures(struct index *index, const char *named, struct fault *fault)
{
    if (index->form == FORM_TAR && named)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: the pictures are in the tar, not in the folder %s",
                           index->path, named);
    char *folder = check_strdup(named ? named : index->path), *slash = strrchr(folder, '/');
    if (!named && slash) *slash = '\0';
    index->folder = realpath(named ? named : slash ? (*folder ? folder : "/") : ".", NULL);
    free(folder);
    return index->folder || fault_raise(fault, EXIT_CODE_INPUT, "%s: the folder of its pictures%s%s: %s",
                                        index->path, named ? ", " : "", named ? named : "", strerror(errno));
}

static bool open_source(struct index *index, const struct index_options *options, struct fault *fault)
{
    const char *folder = options->image_folder && *options->image_folder ? options->image_folder : NULL;
    if (!find_files(index, fault) || !find_pictures(index, folder, fault)) return false;
    if (index->form == FORM_COCO) return index_coco_open(index, fault);
    if (index->form != FORM_TAR) return index_text_open(index, fault);
    bool good = true;
    for (int file = 0; good && file < index->files; file++) good = index_tar_open(index, file, fault);
    return good;
}

bool index_open(const char *path, const struct index_options *options, struct index **index,
                struct fault *fault)
{
    static const struct index_options everything = {0};
    if (!options) options = &everything;
    *index = NULL;
    struct index *opened = check_calloc(1, sizeof *opened);
    opened->path = check_strdup(path);
    opened->open = check_malloc(sizeof *opened->open);
    *opened->open = (struct open_file){-1, -1};
    size_t length = strlen(opened->path);
    while (length > 1 && opened->path[length - 1] == '/') opened->path[--length] = '\0';
    if (!open_source(opened, options, fault) || !index_choose(opened, options, fault)) {
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
    bool good = index->form == FORM_TAR    ? index_tar_item(index, entry, item, fault)
                : index->form == FORM_COCO ? index_coco_item(index, entry, item, fault)
                                           : index_text_item(index, entry, item, fault);
    if (good) {
        fill_absent(item);
    } else {
        index_item_free(item);
    }
    return good;
}

struct index_stamp index_stamp(const struct index *index, int64_t number, const struct index_item *item)
{
    if (index->form == FORM_TAR) {
        const struct entry *entry = &index->entry[number];
        struct timespec changed = index->file[entry->file].changed;
        return (struct index_stamp){entry->tar.image.bytes, changed.tv_sec, changed.tv_nsec};
    }
    struct stat status;
    char *path = check_format("%s/%s", index->folder, item->name);
    bool found = stat(path, &status) == 0;
    free(path);
    if (!found) return (struct index_stamp){0};
    return (struct index_stamp){status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
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
        const struct entry *entry = &index->entry[number];
        struct span image = entry->tar.image;
        *data = (uint8_t *)index_read_span(index, entry->file, image, fault);
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
