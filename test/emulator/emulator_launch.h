/* How cuda/launch.h starts kernels on the emulator, gives them shared memory, and tells of an arena's blocks.
 */
#ifndef EMULATOR_LAUNCH_H
#define EMULATOR_LAUNCH_H

#include <cuda_runtime.h>

#include <memory>
#include <tuple>

/* Of a grid or a block: a dim3, or a number of any type, which must fit. */
struct emulator_extent {
    int64_t x, y, z;
    emulator_extent(dim3 size) : x(size.x), y(size.y), z(size.z) {}
    template <class Number, class = std::enable_if_t<std::is_integral_v<Number> || std::is_enum_v<Number>>>
    emulator_extent(Number size) : x((int64_t)size), y(1), z(1)
    {
    }
};

/* A kernel with its arguments: `thread` runs it for one thread. */
struct emulator_kernel {
    const char *name;
    std::shared_ptr<void> parameters;
    size_t bytes; /* of the parameters, which threads may read */
    void (*thread)(void *parameters);
};

void emulator_enqueue_kernel(emulator_extent grid, emulator_extent block, cudaStream_t stream,
                             struct emulator_kernel kernel);

template <class Call, class... Arguments>
void emulator_launch(const char *name, emulator_extent grid, emulator_extent block, cudaStream_t stream,
                     Call call, Arguments... arguments)
{
    using Parameters = std::tuple<Call, Arguments...>;
    auto parameters = std::make_shared<Parameters>(call, arguments...);
    auto thread = [](void *memory) {
        std::apply([](const auto &kernel, const auto &...argument) { kernel(argument...); },
                   *static_cast<const Parameters *>(memory));
    };
    emulator_enqueue_kernel(grid, block, stream, {name, parameters, sizeof(Parameters), thread});
}

/* The block's memory of this declaration: the same in all its threads and in each call. */
void *emulator_shared(const char *name, size_t bytes, size_t alignment,
                      std::source_location place = std::source_location::current());

void device_block_taken(cudaStream_t stream, const void *address, size_t bytes);
void device_block_given(cudaStream_t stream, const void *address, size_t bytes);
enum { DEVICE_BLOCK_GUARD = 64 };

#endif
