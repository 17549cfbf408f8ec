/* Weights between a parameter_set and files: PyTorch names and layouts in both (DESIGN section 6).
 *
 * A file fits or it does not: before the first value moves, every part of the set must be there with its
 * shape (a matrix [out, in] also as a 1x1 convolution [out, in, 1, 1], and the other way round), and nothing
 * else may be. One fault (EXIT_CODE_INPUT) names what is missing, what is of another shape, and what the
 * network does not have. Values that are not finite are refused too. All functions are local to the calling
 * rank. */
#ifndef MODELS_WEIGHTS_H
#define MODELS_WEIGHTS_H

#include "base/fault.h"
#include "tensor/parameter.h"

struct h5_reader;
struct h5_writer;
struct safetensors;
struct sha256;

/* Fills a set (allocated, not frozen) from the group `group` ("weights") of an HDF5 file. */
bool weights_read_h5(struct parameter_set *set, struct h5_reader *reader, const char *group,
                     struct fault *fault);

/* How the names in a published file differ from the network's. */
struct weight_names {
    const char *const *ignored;  /* that may be there beside (buffers such as position_ids; "text_model.": all
                                    that begin so), ends with NULL; or NULL */
    const char *optional_prefix; /* "text_model.": names in files may lack it; or NULL */
    const char *const (*renamed)[2]; /* {".query.", ".to_q."}: what older versions wrote, ours; ends with
                                        {NULL, NULL}; or NULL */
};

/* Allocates a set and fills it from the safetensors of a published folder (safetensors_open_folder: `stem` is
 * "model" or "diffusion_pytorch_model"). When they do not fit the network nothing has been allocated, so that
 * a small file cannot ask for a huge network's memory. `names` may be NULL. */
bool weights_load_folder(struct parameter_set *set, const char *folder, const char *stem,
                         const struct weight_names *names, bool trainable, struct fault *fault);

/* The check alone, of the opened weights of such a folder; the set needs no memory. */
bool weights_check_safetensors(const struct parameter_set *set, const struct safetensors *safetensors,
                               const struct weight_names *names, struct fault *fault);

/* Copies them into a group of an HDF5 file, as weights_write_h5 writes a set; the set needs no memory, one
 * tensor at a time is in memory. Adds them to `hash` as weights_identify does. */
bool weights_copy_safetensors(const struct parameter_set *set, const struct safetensors *safetensors,
                              const struct weight_names *names, struct h5_writer *writer, const char *group,
                              bool half, struct sha256 *hash, struct fault *fault);

/* Writes a group of an HDF5 file: the masters, or `values[parameter][elements]` in the backend's memory when
 * not NULL (moments, averages: the same names and shapes). `half`: as IEEE half. */
bool weights_write_h5(const struct parameter_set *set, float *const *values, struct h5_writer *writer,
                      const char *group, bool half, struct fault *fault);

/* Reads such a group back into values[parameter][elements] in the backend's memory. */
bool weights_read_values_h5(const struct parameter_set *set, float *const *values, struct h5_reader *reader,
                            const char *group, struct fault *fault);

/* Writes the masters as a safetensors file of type F32, or of F16 where `half`. */
bool weights_write_safetensors(const struct parameter_set *set, const char *path, bool half,
                               struct fault *fault);

/* Refuses (EXIT_CODE_INPUT) values[count] of the array `name` of a file that are not all finite. */
bool weights_check_finite(const char *path, const char *name, int64_t count, const float *values,
                          struct fault *fault);

/* Adds the set's weights (not frozen), their names and shapes to a hash: what tells a network from others,
 * whatever file it came from. Of each part in the set's order: its name with the closing zero, its shape as
 * 64-bit integers, its values as 32-bit floats, all little-endian. */
void weights_identify(const struct parameter_set *set, struct sha256 *hash);

/* Shape of a part as files hold it (PyTorch): [rows, ...]; returns its rank. */
int weights_file_shape(const struct parameter *parameter, int part, int64_t shape[TENSOR_MAX_RANK]);

#endif
