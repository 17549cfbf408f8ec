/* Gradients of gates: sums of what kernels have left for each channel. */
#include "reduce.h"

/* dgates, whose gates begin at dgates: the entries += the sums of an entry's channels over the rows. A warp
 * has an entry of a sample. */
template <class Value>
__global__ void add_entry_sums(const Value *values, int64_t sample_stride, int rows, int channels,
                               int64_t samples, device_gate gate, float *dgates)
{
    int64_t index = team_row<WARP>(), sample = index / gate.count, entry = index % gate.count;
    if (sample >= samples) return;
    int width = channels / (int)gate.count;
    const Value *of_entry = values + sample * sample_stride + entry * width;
    double sum = 0;
    for (int i = team_thread<WARP>(); i < rows * width; i += WARP)
        sum += of_entry[(int64_t)(i / width) * channels + i % width];
    sum = warp_sum(sum);
    if (team_thread<WARP>() == 0) dgates[sample * gate.entries + gate.first + entry] += (float)sum;
}

template <class Value>
void add_gate_gradient(struct cuda_backend *cuda, const Value *values, int64_t sample_stride, int64_t rows,
                       int64_t channels, struct gate gate, struct tensor *dgates)
{
    int64_t samples = dgates->dim[0];
    LAUNCH((add_entry_sums<Value>), team_blocks<WARP>(samples * gate.count), THREADS, cuda->compute, values,
           sample_stride, (int)rows, (int)channels, samples, device_gate_of(gate), values_of<float>(dgates));
}

template void add_gate_gradient(struct cuda_backend *, const float *, int64_t, int64_t, int64_t, struct gate,
                                struct tensor *);
template void add_gate_gradient(struct cuda_backend *, const double *, int64_t, int64_t, int64_t, struct gate,
                                struct tensor *);
