// Picture sources: the same items from every form, and what is refused.
#define _GNU_SOURCE // symlink, mkfifo
#include "base/check.h"
#include "io/index.h"
#include "support/files.h"

#include <archive.h>
#include <archive_entry.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/faults.h"

static struct fault fault;
static char *folder;

static int make_folder(void **state)
{
    (void)state;
    fault = (struct fault){0};
    folder = scratch_make();
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    scratch_remove(folder);
    return 0;
}

// A file in the folder; its path, which the caller frees.
static char *put(const char *name, const char *text)
{
    char *path = scratch_path(folder, name);
    file_write(path, text, strlen(text));
    return path;
}

static void put_pictures(void)
{
    char *sub = scratch_path(folder, "sub");
    mkdir(sub, 0777);
    free(sub);
    free(put("a.png", "picture a"));
    free(put("sub/b.jpg", "picture b\n"));
    free(put("c d.png", "")); // an empty file is a broken picture, not a broken source
}

static void check_items(struct index *index, const char *const names[3])
{
    static const char *const captions[3] = {"a red apple", "says \"hi\", twice \xe2\x82\xac", ""};
    static const char *const groups[3] = {"fruit", "", "none"};
    static const char *const pictures[3] = {"picture a", "picture b\n", ""};
    assert_int_equal(index_count(index), 3);
    for (int i = 2; i >= 0; i--) {
        struct index_item item;
        GOOD(index_item(index, i, &item, &fault));
        assert_string_equal(item.name, names[i]);
        assert_string_equal(item.caption, captions[i]);
        assert_string_equal(item.group, groups[i]);
        assert_string_equal(item.subgroup, "");
        index_item_free(&item);
        uint8_t *data;
        size_t bytes;
        GOOD(index_image(index, i, &data, &bytes, &fault));
        assert_int_equal(bytes, strlen(pictures[i]));
        assert_memory_equal(data, pictures[i], bytes);
        free(data);
    }
    index_close(index);
}

static void all_forms_give_the_same_items(void **state)
{
    (void)state;
    static const char *const names[3] = {"a.png", "sub/b.jpg", "c d.png"};
    put_pictures();
    struct index *index;
    char *path = put("index.csv", "\xef\xbb\xbf"
                                  "caption,file,other,group\r\n"
                                  "a red apple,a.png,1,fruit\r\n\r\n"
                                  "\"says \"\"hi\"\", twice \xe2\x82\xac\",sub/b.jpg,\"x\ny\",\r\n"
                                  ",c d.png,,none");
    GOOD(index_open(path, &index, &fault));
    check_items(index, names);
    GOOD(index_open(folder, &index, &fault)); // the index.csv in it
    check_items(index, names);
    remove(path);
    free(path);
    path = put("index.tsv", "file\tgroup\tcaption\na.png\tfruit\ta red apple\n"
                            "sub/b.jpg\t\tsays \"hi\", twice \xe2\x82\xac\nc d.png\tnone\t\n");
    GOOD(index_open(path, &index, &fault));
    check_items(index, names);
    free(path);
    path = put("list.jsonl",
               "{\"file\": \"a.png\", \"caption\": \"a red apple\", \"group\": \"fruit\", \"n\": [1]}\n\n"
               "{\"caption\": \"says \\\"hi\\\", twice \\u20ac\", \"file\": \"sub/b.jpg\", \"group\": null}\n"
               "{\"file\": \"c d.png\", \"caption\": \"\", \"group\": \"none\"}");
    GOOD(index_open(path, &index, &fault));
    check_items(index, names);
    char *csv = put("index.csv", "file,caption\n");
    FAILS(index_open(folder, &index, &fault), EXIT_CODE_INPUT, "there are both");
    GOOD(index_open(csv, &index, &fault));
    assert_int_equal(index_count(index), 0);
    index_close(index);
    free(csv);
    free(path);
}

static void a_quoted_line_end_belongs_to_the_field(void **state)
{
    (void)state;
    char *path = put("i.csv", "file,caption\na.png,\"one\ntwo\r\n\r\nthree\"\nb.png,four\n");
    struct index *index;
    GOOD(index_open(path, &index, &fault));
    assert_int_equal(index_count(index), 2);
    struct index_item item;
    GOOD(index_item(index, 0, &item, &fault));
    assert_string_equal(item.caption, "one\ntwo\r\n\r\nthree");
    index_item_free(&item);
    GOOD(index_item(index, 1, &item, &fault));
    assert_string_equal(item.caption, "four");
    index_item_free(&item);
    index_close(index);
    free(path);
}

static void broken_sources_are_refused_with_their_line(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text, *message;
    } cases[] = {
        {"i.csv", "", "is empty"},
        {"i.csv", "name,caption\na,b\n", "i.csv:1: no column `file`"},
        {"i.csv", "file,captions\na,b\n", "i.csv:1: no column `caption`"},
        {"i.csv", "file,caption,file\na,b,c\n", "i.csv:1: two columns `file`"},
        {"i.csv", "file,caption\na,b\nc\n", "i.csv:3: 1 columns, the header has 2"},
        {"i.csv", "file,caption\na,\"b\nc\"\n\nd,e,f\n", "i.csv:5: 3 columns"},
        {"i.csv", "file,caption\na,\"b\" c\n", "i.csv:2: not valid CSV"},
        {"i.csv", "file,caption\na,\"b\nc,d\n", "i.csv:2: not valid CSV"},
        {"i.csv", "file,caption\na,b\rc,d\n", "i.csv:2: a carriage return"},
        {"i.csv", "file,caption\na,\xff\n", "i.csv:2: caption is not UTF-8"},
        {"i.csv", "file,caption\na,\xed\xa0\x80\n", "i.csv:2: caption is not UTF-8"}, // a surrogate
        {"i.csv", "file,caption\na,\x1b[2J\n", "i.csv:2: caption has a control character"},
        {"i.csv", "file,caption\n/etc/passwd,b\n", "i.csv:2: file is an absolute path"},
        {"i.csv", "file,caption\nx/../../y,b\n", "i.csv:2: file leads out of the folder"},
        {"i.csv", "file,caption\n..,b\n", "i.csv:2: file leads out of the folder"},
        {"i.csv", "file,caption\n,b\n", "i.csv:2: file is empty"},
        {"i.tsv", "file\tcaption\na\tb\tc\n", "i.tsv:2: 3 columns"},
        {"i.tsv", "file\tcaption\n../a\tb\n", "i.tsv:2: file leads out"},
        {"i.jsonl", "{\"file\": \"a\", \"caption\": \"b\"}\n{\"file\": \"a\"}\n",
         "i.jsonl:2: `caption` is missing"},
        {"i.jsonl", "{\"file\": \"a\", \"caption\": 3}\n", "i.jsonl:1: caption: found an integer"},
        {"i.jsonl", "{\"file\": \"a\", \"file\": \"b\"}\n", "duplicate"},
        {"i.jsonl", "[]\n", "i.jsonl:1: not an object"},
        {"i.jsonl", "{\n", "not valid JSON"},
        {"i.txt", "", "neither a folder nor"},
    };
    struct index *index;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *path = put(cases[i].name, cases[i].text);
        FAILS(index_open(path, &index, &fault), EXIT_CODE_INPUT, cases[i].message);
        free(path);
    }
    char *long_text = malloc(3 << 20);
    memset(long_text, 'x', 3 << 20);
    memcpy(long_text, "file,caption\na,", 15);
    long_text[(3 << 20) - 1] = '\0';
    char *path = put("long.csv", long_text);
    FAILS(index_open(path, &index, &fault), EXIT_CODE_INPUT,
          "long.csv:2: a record of more than 1048576 bytes");
    free(path);
    long_text[15 + 8193] = '\0';
    path = put("long.csv", long_text);
    FAILS(index_open(path, &index, &fault), EXIT_CODE_INPUT,
          "long.csv:2: caption of 8193 bytes, at most 8192");
    long_text[15 + 8192] = '\0';
    free(path);
    path = put("long.csv", long_text);
    GOOD(index_open(path, &index, &fault));
    index_close(index);
    free(path);
    free(long_text);
    FAILS(index_open("none.csv", &index, &fault), EXIT_CODE_INPUT, "none.csv: No such file");
    FAILS(index_open(folder, &index, &fault), EXIT_CODE_INPUT, "no index.csv, index.tsv or index.jsonl");
}

static void pictures_outside_are_refused(void **state)
{
    (void)state;
    put_pictures();
    char *link = scratch_path(folder, "link.png"), *inside = scratch_path(folder, "inside.png");
    char *fifo = scratch_path(folder, "fifo.png");
    assert_int_equal(symlink("/etc/hostname", link), 0);
    assert_int_equal(symlink("a.png", inside), 0);
    char *circle = scratch_path(folder, "circle.png"), *above = scratch_path(folder, "above");
    assert_int_equal(mkfifo(fifo, 0666), 0);
    assert_int_equal(symlink("circle.png", circle), 0);
    assert_int_equal(symlink("..", above), 0);
    char *path = put("i.csv", "file,caption\nlink.png,x\ninside.png,x\nnone.png,x\nsub,x\nfifo.png,x\n"
                              "circle.png,x\nabove/x,x\nabove,x\n");
    struct index *index;
    uint8_t *data;
    size_t bytes;
    GOOD(index_open(path, &index, &fault));
    FAILS(index_image(index, 0, &data, &bytes, &fault), EXIT_CODE_INPUT, "link.png: leads out of the folder");
    GOOD(index_image(index, 1, &data, &bytes, &fault));
    assert_int_equal(bytes, 9);
    free(data);
    FAILS(index_image(index, 2, &data, &bytes, &fault), EXIT_CODE_INPUT, "none.png: No such file");
    FAILS(index_image(index, 3, &data, &bytes, &fault), EXIT_CODE_INPUT, "sub: not a regular file");
    FAILS(index_image(index, 4, &data, &bytes, &fault), EXIT_CODE_INPUT, "fifo.png: not a regular file");
    FAILS(index_image(index, 5, &data, &bytes, &fault), EXIT_CODE_INPUT, "circle.png: Too many levels");
    FAILS(index_image(index, 6, &data, &bytes, &fault), EXIT_CODE_INPUT, "above/x: No such file");
    FAILS(index_image(index, 7, &data, &bytes, &fault), EXIT_CODE_INPUT, "above: leads out of the folder");
    index_close(index);
    free(path);
    free(circle);
    free(above);
    free(link);
    free(inside);
    free(fifo);
}

struct member {
    const char *name, *text;
    mode_t type; // 0: a regular file
};

static char *put_tar(const struct member *members, int count, int format, bool gzip)
{
    char *path = scratch_path(folder, "t.tar");
    struct archive *archive = archive_write_new();
    if (gzip) archive_write_add_filter_gzip(archive);
    archive_write_set_format(archive, format);
    archive_write_open_filename(archive, path);
    for (int i = 0; i < count; i++) {
        struct archive_entry *entry = archive_entry_new();
        archive_entry_set_pathname(entry, members[i].name);
        archive_entry_set_size(entry, members[i].type ? 0 : (la_int64_t)strlen(members[i].text));
        archive_entry_set_filetype(entry, members[i].type ? members[i].type : AE_IFREG);
        if (members[i].type == AE_IFLNK) archive_entry_set_symlink(entry, members[i].text);
        archive_entry_set_perm(entry, 0644);
        archive_entry_set_mtime(entry, 1, format == ARCHIVE_FORMAT_TAR_PAX_INTERCHANGE); // a pax header each
        assert_int_equal(archive_write_header(archive, entry), ARCHIVE_OK);
        if (!members[i].type) archive_write_data(archive, members[i].text, strlen(members[i].text));
        archive_entry_free(entry);
    }
    archive_write_free(archive);
    return path;
}

#define LONG                                                                                                 \
    "a-folder-whose-name-is-so-long-that-the-plain-format-has-no-place-for-it-and-another-header-goes-"      \
    "before/"                                                                                                \
    "and-a-file-with-a-name-like-that/0000000000000000000000000000000000000000000000000000000000000000"

static void tar_gives_the_same_items(void **state)
{
    (void)state;
    static const struct member members[] = {
        {"./", "", AE_IFDIR},
        {"0.png", "picture a", 0},
        {"0.txt", "a red apple\n", 0},
        {"0.json", "{\"group\": \"fruit\", \"caption\": \"another\", \"key\": 3}", 0},
        {"0.cls", "17", 0},
        {"README", "not an item", 0},
        {"x/1.json", "{\"caption\": \"says \\\"hi\\\", twice \\u20ac\", \"group\": null}", 0},
        {"x/1.JPG", "picture b\n", 0},
        {LONG ".txt", "", 0},
        {LONG ".json", "{\"group\": \"none\"}", 0},
        {LONG ".jpeg", "", 0},
    };
    static const char *const names[3] = {"0.png", "x/1.JPG", LONG ".jpeg"};
    static const int formats[] = {ARCHIVE_FORMAT_TAR_GNUTAR, ARCHIVE_FORMAT_TAR_PAX_INTERCHANGE};
    for (int i = 0; i < 2; i++) {
        char *path = put_tar(members, 11, formats[i], false);
        struct index *index;
        GOOD(index_open(path, &index, &fault));
        check_items(index, names);
        free(path);
    }
}

static void broken_tars_are_refused(void **state)
{
    (void)state;
    static const struct {
        struct member members[3];
        const char *message;
    } cases[] = {
        {{{"0.png", "p", 0}, {"1.png", "p", 0}, {"1.txt", "c", 0}}, "t.tar:0.png: no caption"},
        {{{"0.txt", "p", 0}, {"1.png", "p", 0}, {"1.txt", "c", 0}}, "t.tar:0: no picture"},
        {{{"0.png", "p", 0}, {"0.jpg", "p", 0}, {"0.txt", "c", 0}}, "t.tar:0.jpg: a second such member"},
        {{{"0.png", "p", 0}, {"0.txt", "\xff", 0}, {"0.cls", "c", 0}}, "t.tar:0.png: caption is not UTF-8"},
        {{{"0.png", "p", 0}, {"0.json", "{", 0}, {"0.cls", "c", 0}}, "not valid JSON"},
        {{{"0.png", "p", 0}, {"0.json", "{\"caption\": 3}", 0}, {"0.cls", "c", 0}},
         "found an integer, allowed a string"},
        {{{"0.txt", "c", 0}, {"0.png", "/etc/passwd", AE_IFLNK}, {"0.cls", "c", 0}}, "t.tar:0.png: a link"},
    };
    struct index *index;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *path = put_tar(cases[i].members, 3, ARCHIVE_FORMAT_TAR_USTAR, false);
        FAILS(index_open(path, &index, &fault), EXIT_CODE_INPUT, cases[i].message);
        free(path);
    }
    static const struct member good[] = {{"0.txt", "c", 0}, {"0.png", "picture", 0}};
    char *path = put_tar(good, 2, ARCHIVE_FORMAT_TAR_USTAR, true);
    FAILS(index_open(path, &index, &fault), EXIT_CODE_INPUT, "not an uncompressed tar");
    free(path);
    path = put("u.tar", "plain text");
    FAILS(index_open(path, &index, &fault), EXIT_CODE_INPUT, "u.tar: ");
    free(path);
}

// Names in a tar are labels: nothing is opened or written by them.
static void names_of_members_are_not_paths(void **state)
{
    (void)state;
    static const char *const names[] = {"/etc/passwd.png", "../../x.png", "a/../b.png"};
    static const struct member members[] = {{"/etc/passwd.png", "picture a", 0}, {"/etc/passwd.txt", "a", 0},
                                            {"../../x.png", "picture b", 0},     {"../../x.txt", "b", 0},
                                            {"a/../b.png", "picture c", 0},      {"a/../b.txt", "c", 0}};
    char *path = put_tar(members, 6, ARCHIVE_FORMAT_TAR_USTAR, false);
    struct index *index;
    GOOD(index_open(path, &index, &fault));
    assert_int_equal(index_count(index), 3);
    for (int i = 0; i < 3; i++) {
        struct index_item item;
        uint8_t *data;
        size_t bytes;
        GOOD(index_item(index, i, &item, &fault));
        assert_string_equal(item.name, names[i]);
        GOOD(index_image(index, i, &data, &bytes, &fault));
        assert_int_equal(bytes, 9);
        assert_memory_equal(data, members[2 * i].text, 9);
        free(data);
        index_item_free(&item);
    }
    index_close(index);
    free(path);
}

// A member that says it is larger than the tar, by 8 octal digits or by 64 bits.
static void members_beyond_the_end_are_refused(void **state)
{
    (void)state;
    static const struct member members[] = {{"0.txt", "c", 0}, {"0.png", "picture", 0}};
    static const char *const sizes[] = {"00000007777\0", "77777777777\0", "\x80\0\0\0\0\0\0\x10\0\0\0\0",
                                        "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                                        "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *path = put_tar(members, 2, ARCHIVE_FORMAT_TAR_USTAR, false);
        size_t size;
        char *tar = file_bytes(path, &size);
        char *header = tar + 1024; // of the second member
        assert_string_equal(header, "0.png");
        memcpy(header + 124, sizes[i], 12);
        unsigned sum = 8 * ' ';
        for (int k = 0; k < 512; k++) sum += k < 148 || k >= 156 ? (unsigned char)header[k] : 0;
        snprintf(header + 148, 8, "%06o", sum);
        file_write(path, tar, size);
        struct index *index;
        fault = (struct fault){0};
        assert_false(index_open(path, &index, &fault));
        assert_int_equal(fault.code, EXIT_CODE_INPUT);
        free(tar);
        free(path);
    }
    fault = (struct fault){0};
}

static bool read_source(const char *path, struct sha256 *hash, struct fault *found)
{
    struct index *index;
    if (!index_open(path, &index, found)) return false;
    bool good = true;
    for (int64_t i = 0; i < index_count(index) && good; i++) {
        struct index_item item;
        uint8_t *data;
        size_t bytes;
        good = index_item(index, i, &item, found);
        if (!good) break;
        sha256_add(hash, item.caption, strlen(item.caption) + 1);
        index_item_free(&item);
        good = index_image(index, i, &data, &bytes, found);
        if (good) sha256_add(hash, data, bytes);
        free(data);
    }
    index_close(index);
    return good;
}

static void damage_never_crashes(void **state)
{
    (void)state;
    put_pictures();
    static const struct member members[] = {
        {"0.png", "picture a", 0}, {"0.txt", "a red apple", 0}, {"0.json", "{\"group\": \"fruit\"}", 0}};
    char *paths[] = {
        put_tar(members, 3, ARCHIVE_FORMAT_TAR_PAX_INTERCHANGE, false),
        put("i.csv", "file,caption,group\na.png,\"a, \"\"b\"\"\",c\nsub/b.jpg,\"d\ne\",f\n"),
        put("i.jsonl",
            "{\"file\": \"a.png\", \"caption\": \"b\"}\n{\"file\": \"a.png\", \"caption\": \"c\"}\n"),
    };
    for (int i = 0; i < 3; i++) {
        struct damage damage = damage_flips(paths[i], read_source, 0, 0, 200, (uint64_t)i);
        assert_int_equal(damage.crashes, 0);
        damage = damage_cuts(paths[i], read_source, 30, (uint64_t)i);
        assert_int_equal(damage.crashes, 0);
        free(paths[i]);
    }
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(all_forms_give_the_same_items),
        TEST(a_quoted_line_end_belongs_to_the_field),
        TEST(broken_sources_are_refused_with_their_line),
        TEST(pictures_outside_are_refused),
        TEST(tar_gives_the_same_items),
        TEST(broken_tars_are_refused),
        TEST(names_of_members_are_not_paths),
        TEST(members_beyond_the_end_are_refused),
        TEST(damage_never_crashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
