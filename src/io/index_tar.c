// Tars as webdataset makes them.
#define _GNU_SOURCE // strcasecmp
#include "base/check.h"
#include "io/index_private.h"
#include "io/sha256.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// Of a tar in a folder of them, "00012.tar/KEY.png": a key may be in several. The caller frees it.
static char *item_name(const struct index *index, const struct entry *entry)
{
    const char *path = index->file[entry->file].path, *slash = strrchr(path, '/');
    if (!index->many) return check_strdup(entry->name);
    return check_format("%s/%s", slash ? slash + 1 : path, entry->name);
}

// Caption from KEY.txt, else from KEY.json.
bool index_tar_item(const struct index *index, const struct entry *entry, struct index_item *item,
                    struct fault *fault)
{
    const char *path = index->file[entry->file].path;
    item->name = item_name(index, entry);
    bool good = true;
    if (entry->tar.caption.bytes >= 0) {
        char *text = index_read_span(index, entry->file, entry->tar.caption, fault);
        size_t length = text ? (size_t)entry->tar.caption.bytes : 0;
        while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r')) length--;
        good = text && index_take_field(index, path, entry->name, ROLE_CAPTION, text, length, item, fault);
        free(text);
    }
    if (good && entry->tar.labels.bytes >= 0) {
        char *text = index_read_span(index, entry->file, entry->tar.labels, fault);
        good = text &&
               index_take_json(index, path, entry->name, text, (size_t)entry->tar.labels.bytes, item, fault);
        free(text);
    }
    return good && (item->caption ||
                    fault_raise(fault, EXIT_CODE_INPUT,
                                "%s:%s: no caption (a .txt or .json member next to it)", path, entry->name));
}

// Checks the last item once all of its members are known.
static bool end_item(const struct index *index, const char *path, const char *key, struct fault *fault)
{
    struct entry *entry = &index->entry[index->count - 1];
    if (entry->tar.image.bytes < 0) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: no picture (a .png, .jpg or .jpeg member)", path,
                           key);
    }
    struct index_item item = {0};
    bool good = index_tar_item(index, entry, &item, fault);
    entry->picture = sha256_number(item.name, strlen(item.name));
    index_item_free(&item);
    return good;
}

static struct entry new_entry(int file)
{
    const struct span absent = {0, -1};
    return (struct entry){.file = file, .tar = {absent, absent, absent}};
}

// Notes where a member's contents are; `extension` is what follows the key and its dot.
static bool add_member(const struct source_file *file, struct entry *entry, const char *name,
                       const char *extension, struct span span, struct fault *fault)
{
    struct span *place = NULL;
    int64_t most = INDEX_MAX_RECORD;
    if (strcasecmp(extension, "png") == 0 || strcasecmp(extension, "jpg") == 0 ||
        strcasecmp(extension, "jpeg") == 0) {
        place = &entry->tar.image;
        most = INDEX_MAX_IMAGE_BYTES;
    } else if (strcasecmp(extension, "txt") == 0) {
        place = &entry->tar.caption;
    } else if (strcasecmp(extension, "json") == 0) {
        place = &entry->tar.labels;
    } else {
        return true; // webdataset allows any other members
    }
    if (place->bytes >= 0)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: a second such member", file->path, name);
    if (span.bytes > most || span.offset < 0 || span.bytes < 0 || span.offset > file->bytes - span.bytes) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: %lld bytes, allowed are %lld, all inside the file",
                           file->path, name, (long long)span.bytes, (long long)most);
    }
    *place = span;
    if (place == &entry->tar.image) entry->name = check_strdup(name);
    return true;
}

static bool read_members(struct index *index, int file, struct archive *archive, struct fault *fault)
{
    const char *path = index->file[file].path;
    char *key = NULL; // of the current item
    bool good = true;
    struct archive_entry *header;
    int status;
    while (good && (status = archive_read_next_header(archive, &header)) != ARCHIVE_EOF) {
        if (status != ARCHIVE_OK && status != ARCHIVE_WARN) {
            good = fault_raise(fault, EXIT_CODE_INPUT, "%s: broken tar: %s", path,
                               archive_error_string(archive));
            break;
        }
        if (archive_entry_filetype(header) == AE_IFDIR) continue;
        const char *name = archive_entry_pathname_utf8(header);
        if (!name || index_wrong_text(name, strlen(name))) {
            good = fault_raise(fault, EXIT_CODE_INPUT, "%s: the name of member %lld is not UTF-8", path,
                               (long long)index->count);
            break;
        }
        if (archive_entry_filetype(header) != AE_IFREG || archive_entry_hardlink(header) ||
            archive_entry_sparse_count(header) > 0) {
            good = fault_raise(fault, EXIT_CODE_INPUT, "%s:%s: a link, sparse or special file", path, name);
            break;
        }
        const char *slash = strrchr(name, '/'), *dot = strchr(slash ? slash : name, '.');
        if (!dot || dot[1] == '\0' || dot == (slash ? slash + 1 : name)) continue; // no key, no item
        size_t length = (size_t)(dot - name);
        if (!key || strlen(key) != length || memcmp(key, name, length) != 0) {
            if (key) good = end_item(index, path, key, fault);
            free(key);
            key = check_format("%.*s", (int)length, name);
            if (good) *index_add_entry(index) = new_entry(file);
        }
        // The tar is not compressed: what libarchive has consumed is the place of the contents in the file.
        struct span span = {archive_filter_bytes(archive, 0), archive_entry_size(header)};
        good = good &&
               add_member(&index->file[file], &index->entry[index->count - 1], name, dot + 1, span, fault);
    }
    good = good && (!key || end_item(index, path, key, fault));
    free(key);
    return good;
}

bool index_tar_open(struct index *index, int file, struct fault *fault)
{
    const char *path = index->file[file].path;
    struct archive *archive = archive_read_new();
    CHECK(archive && archive_read_support_filter_none(archive) == ARCHIVE_OK &&
              archive_read_support_format_tar(archive) == ARCHIVE_OK,
          "libarchive does not start");
    bool good = archive_read_open_filename(archive, path, 1 << 16) == ARCHIVE_OK;
    if (!good) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: not an uncompressed tar: %s", path,
                    archive_error_string(archive));
    }
    good = good && read_members(index, file, archive, fault);
    archive_read_free(archive);
    return good;
}
