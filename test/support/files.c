#define _GNU_SOURCE // mkdtemp, nftw
#include "support/files.h"

#include "base/check.h"
#include "base/random.h"
#include "io/hdf5_file.h"

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

char *scratch_make(void)
{
    const char *base = getenv("TMPDIR");
    char *folder = check_format("%s/aptp-test-XXXXXX", base ? base : "/tmp");
    CHECK(mkdtemp(folder), "mkdtemp %s", folder);
    return folder;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *place)
{
    (void)status, (void)type, (void)place;
    return remove(path);
}

void scratch_remove(char *folder)
{
    CHECK(nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0, "cannot remove %s", folder);
    free(folder);
}

char *scratch_path(const char *folder, const char *name)
{
    return check_format("%s/%s", folder, name);
}

void *file_bytes(const char *path, size_t *size)
{
    FILE *stream = fopen(path, "rb");
    CHECK(stream && fseek(stream, 0, SEEK_END) == 0, "cannot open %s", path);
    *size = (size_t)ftell(stream);
    rewind(stream);
    char *data = check_calloc(1, *size + 1);
    CHECK(fread(data, 1, *size, stream) == *size, "cannot read %s", path);
    fclose(stream);
    return data;
}

void file_write(const char *path, const void *data, size_t size)
{
    FILE *stream = fopen(path, "wb");
    CHECK(stream && fwrite(data, 1, size, stream) == size && fclose(stream) == 0, "cannot write %s", path);
}

int folder_count(const char *folder)
{
    DIR *directory = opendir(folder);
    CHECK(directory, "cannot open %s", folder);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(directory));) count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

enum { CHILD_READ = 40, CHILD_FAULT = 41 };

/* Reads in a process of its own, which may crash; its exit code, and in `found` what it read. The parent must
 * not have used OpenMP: a forked process has none of the threads that libgomp believes in, and would wait for
 * them. So everything is read here, the sound file too. */
static int read_apart(const char *path, file_reader reader, char found[SHA256_HEX_SIZE])
{
    int channel[2];
    CHECK(pipe(channel) == 0, "pipe");
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0, "fork");
    if (child == 0) {
#ifndef __SANITIZE_ADDRESS__ // which reserves terabytes
        struct rlimit memory = {2ul << 30, 2ul << 30};
        setrlimit(RLIMIT_AS, &memory);
#endif
        alarm(60);
        struct fault fault = {0};
        struct sha256 *hash = sha256_new();
        bool good = reader(path, hash, &fault);
        sha256_finish(hash, found);
        if (good != (fault.code == EXIT_CODE_OK)) _exit(EXIT_CODE_INTERNAL);
        bool written = write(channel[1], found, SHA256_HEX_SIZE) == SHA256_HEX_SIZE;
        _exit(!good ? CHILD_FAULT : written ? CHILD_READ : EXIT_CODE_INTERNAL);
    }
    close(channel[1]);
    bool received = read(channel[0], found, SHA256_HEX_SIZE) == SHA256_HEX_SIZE;
    close(channel[0]);
    int status;
    waitpid(child, &status, 0);
    return received && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void read_damaged(const char *path, file_reader reader, const char *expected, struct damage *damage)
{
    char found[SHA256_HEX_SIZE];
    int code = read_apart(path, reader, found);
    bool same = code == CHILD_READ && strcmp(found, expected) == 0;
    damage->faults += code == CHILD_FAULT;
    damage->same += same;
    damage->wrong += code == CHILD_READ && !same;
    damage->crashes += code != CHILD_FAULT && code != CHILD_READ;
}

/* What the reader says of the sound file. */
static void read_sound(const char *path, file_reader reader, char expected[SHA256_HEX_SIZE])
{
    CHECK(read_apart(path, reader, expected) == CHILD_READ, "the sound file %s cannot be read", path);
}

struct damage damage_flips(const char *path, file_reader reader, size_t first, size_t last, int count,
                           uint64_t seed)
{
    char expected[SHA256_HEX_SIZE];
    read_sound(path, reader, expected);
    size_t size;
    unsigned char *data = file_bytes(path, &size);
    const char *dot = strrchr(path, '.');
    char *copy = check_format("%s.damaged%s", path, dot ? dot : "");
    struct damage damage = {0};
    struct random_key key = {.seed = seed, .stream = RANDOM_TEST};
    if (last == 0) last = size;
    CHECK(first < last && last <= size, "flips in [%zu, %zu) of %zu bytes", first, last, size);
    for (int i = 0; i < count; i++) {
        size_t bit = 8 * first + random_below(key, (uint64_t)i, 8 * (last - first));
        data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        file_write(copy, data, size);
        struct damage before = damage;
        read_damaged(copy, reader, expected, &damage);
        if (damage.crashes > before.crashes) {
            fprintf(stderr, "%s: bit %zu of byte %zu: a crash\n", path, bit % 8, bit / 8);
        } else if (before.wrong == 0 && damage.wrong > 0) {
            fprintf(stderr, "%s: bit %zu of byte %zu: the first wrong value\n", path, bit % 8, bit / 8);
        }
        data[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    remove(copy);
    free(copy);
    free(data);
    return damage;
}

struct damage damage_cuts(const char *path, file_reader reader, int count, uint64_t seed)
{
    char expected[SHA256_HEX_SIZE];
    read_sound(path, reader, expected);
    size_t size;
    char *data = file_bytes(path, &size);
    const char *dot = strrchr(path, '.');
    char *copy = check_format("%s.damaged%s", path, dot ? dot : "");
    struct damage damage = {0};
    struct random_key key = {.seed = seed, .stream = RANDOM_TEST};
    for (int i = 0; i < count; i++) {
        file_write(copy, data, (size_t)random_below(key, (uint64_t)i, size));
        read_damaged(copy, reader, expected, &damage);
    }
    remove(copy);
    free(copy);
    free(data);
    return damage;
}

bool read_whole_h5(const char *path, struct sha256 *hash, struct fault *fault)
{
    static const char *const texts[] = {"content_id", "program", "commit", "deck",
                                        "hosts",      "backend", "time"};
    struct h5_reader *reader;
    char *schema;
    if (!h5_open(path, FILE_REFERENCE, &reader, fault)) return false;
    bool good = h5_attribute_string(reader, "/", "schema", &schema, fault);
    h5_close(reader);
    if (!good) return false;
    int kind = 0;
    while (kind < FILE_KINDS && strcmp(file_schema_kind(kind)->name, schema) != 0) kind++;
    free(schema);
    if (kind == FILE_KINDS) return fault_raise(fault, EXIT_CODE_INPUT, "%s: unknown schema", path);
    if (!h5_open(path, kind, &reader, fault)) return false;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0] && good; i++) {
        char *text;
        good = h5_attribute_string(reader, "/", texts[i], &text, fault);
        if (good) sha256_add(hash, text, strlen(text) + 1);
        free(text);
    }
    h5_close(reader);
    char id[SHA256_HEX_SIZE];
    if (!good || !h5_content_id(path, id, fault)) return false;
    sha256_add(hash, id, sizeof id);
    return true;
}
