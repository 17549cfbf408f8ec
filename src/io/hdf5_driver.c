// The writer's file driver: HDF5 writes through it to the descriptor of an atomic file.
//
// Why an own one: when a write fails (disk full, file size limit), HDF5 keeps the data in its caches and
// fails again in every later call, in the file's close and once more at exit. This driver notes the first
// error and from then on takes everything, so that HDF5 closes the file in peace; the writer asks for the
// error and gives the file up.
#define _GNU_SOURCE // pread, pwrite
#include "io/hdf5_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

struct driver_file {
    H5FD_t base; // first: HDF5 sees only this
    struct h5_output *output;
    haddr_t allocated, written; // end of what HDF5 has given out, end of what was written
};

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t access, haddr_t greatest)
{
    (void)name, (void)flags, (void)greatest;
    struct h5_output *const *output = H5Pget_driver_info(access);
    if (!output) return NULL;
    struct driver_file *file = check_calloc(1, sizeof *file);
    file->output = *output;
    return &file->base;
}

static herr_t driver_close(H5FD_t *base)
{
    free(base); // the descriptor is the atomic file's
    return 0;
}

static herr_t driver_query(const H5FD_t *base, unsigned long *flags)
{
    (void)base;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

static haddr_t driver_get_allocated(const H5FD_t *base, H5FD_mem_t type)
{
    (void)type;
    return ((const struct driver_file *)base)->allocated;
}

static herr_t driver_set_allocated(H5FD_t *base, H5FD_mem_t type, haddr_t address)
{
    (void)type;
    ((struct driver_file *)base)->allocated = address;
    return 0;
}

static haddr_t driver_get_written(const H5FD_t *base, H5FD_mem_t type)
{
    (void)type;
    return ((const struct driver_file *)base)->written;
}

static herr_t driver_read(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address, size_t size,
                          void *buffer)
{
    (void)type, (void)transfer;
    int descriptor = ((struct driver_file *)base)->output->descriptor;
    for (char *next = buffer; size > 0;) {
        ssize_t got = pread(descriptor, next, size, (off_t)address);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) { // behind the end: zeros, as HDF5's own drivers give
            memset(next, 0, size);
            return 0;
        }
        next += got;
        address += (haddr_t)got;
        size -= (size_t)got;
    }
    return 0;
}

static herr_t driver_write(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address, size_t size,
                           const void *buffer)
{
    (void)type, (void)transfer;
    struct driver_file *file = (struct driver_file *)base;
    if (address + size > file->written) file->written = address + size;
    for (const char *next = buffer; size > 0 && !file->output->error;) {
        ssize_t done = pwrite(file->output->descriptor, next, size, (off_t)address);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) {
            file->output->error = done < 0 ? errno : ENOSPC;
            break;
        }
        next += done;
        address += (haddr_t)done;
        size -= (size_t)done;
    }
    return 0;
}

static herr_t driver_truncate(H5FD_t *base, hid_t transfer, hbool_t closing)
{
    (void)transfer, (void)closing;
    struct driver_file *file = (struct driver_file *)base;
    if (file->allocated == file->written) return 0;
    if (!file->output->error && ftruncate(file->output->descriptor, (off_t)file->allocated) != 0) {
        file->output->error = errno;
    }
    file->written = file->allocated;
    return 0;
}

static const H5FD_class_t driver = {
#if H5_VERSION_GE(1, 13, 0)
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)600, // of the range for private drivers
#endif
    .name = "atomic file",
    .maxaddr = INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(struct h5_output *),
    .open = driver_open,
    .close = driver_close,
    .query = driver_query,
    .get_eoa = driver_get_allocated,
    .set_eoa = driver_set_allocated,
    .get_eof = driver_get_written,
    .read = driver_read,
    .write = driver_write,
    .truncate = driver_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

void h5_use_output(hid_t access, struct h5_output *output)
{
    hid_t id = H5_CHECK(H5FDregister(&driver));
    H5_CHECK(H5Pset_driver(access, id, &output));
    H5_CHECK(H5FDunregister(id)); // the property list, then the file, keep it
}
