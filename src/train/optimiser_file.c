#include "train/optimiser_file.h"

#include "io/hdf5_file.h"
#include "models/weights.h"

bool optimiser_write_h5(const struct optimiser *optimiser, struct h5_writer *writer, struct fault *fault)
{
    const struct parameter_set *parameters = optimiser->parameters;
    return weights_write_h5(parameters, NULL, writer, "weights", false, fault) &&
           (!optimiser->average ||
            weights_write_h5(parameters, optimiser->average, writer, "ema", false, fault)) &&
           weights_write_h5(parameters, optimiser->first, writer, "optimizer/first_moment", false, fault) &&
           weights_write_h5(parameters, optimiser->second, writer, "optimizer/second_moment", false, fault) &&
           h5_write_one_int64(writer, "optimizer/step", optimiser->step, fault);
}

bool optimiser_read_h5(struct optimiser *optimiser, struct h5_reader *reader, struct fault *fault)
{
    struct parameter_set *parameters = optimiser->parameters;
    return weights_read_h5(parameters, reader, "weights", fault) &&
           (!optimiser->average ||
            weights_read_values_h5(parameters, optimiser->average, reader, "ema", fault)) &&
           weights_read_values_h5(parameters, optimiser->first, reader, "optimizer/first_moment", fault) &&
           weights_read_values_h5(parameters, optimiser->second, reader, "optimizer/second_moment", fault) &&
           h5_read_one_int64(reader, "optimizer/step", &optimiser->step, fault) &&
           h5_read_one_int64(reader, "training/skipped", &optimiser->skipped, fault);
}

bool optimiser_write_result_h5(const struct optimiser *optimiser, bool half, struct h5_writer *writer,
                               struct fault *fault)
{
    return weights_write_h5(optimiser->parameters, optimiser->average, writer, "weights", half, fault);
}
