/* The machine's devices, as main chooses them and tells of them. */
#include "device.h"

int cuda_device_count(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    cudaGetLastError(); // no device, or no driver: not an error of what follows
    return 0;
}

bool cuda_backend_available(void)
{
    return cuda_device_count() > 0;
}

void cuda_device_choose(int device)
{
    CUDA_CHECK(cudaSetDevice(device));
}

int cuda_device_chosen(void)
{
    int device;
    CUDA_CHECK(cudaGetDevice(&device));
    return device;
}

char *cuda_device_text(int device)
{
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    return check_format("%s, compute capability %d.%d, %.1f GiB", properties.name, properties.major,
                        properties.minor, (double)properties.totalGlobalMem / (1 << 30));
}

bool cuda_device_has_bf16(int device)
{
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    return properties.major >= 8;
}

char *cuda_device_bus(int device)
{
    char bus[32];
    CUDA_CHECK(cudaDeviceGetPCIBusId(bus, sizeof bus, device));
    return check_strdup(bus);
}

/* "13.0" of 13000 */
static void version_text(int version, char text[16])
{
    snprintf(text, 16, "%d.%d", version / 1000, version % 1000 / 10);
}

char *cuda_libraries_text(void)
{
    int driver = 0, runtime = 0;
    char driver_text[16], runtime_text[16];
    if (cudaDriverGetVersion(&driver) != cudaSuccess) cudaGetLastError(); // stays 0: there is none
    CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
    version_text(driver, driver_text);
    version_text(runtime, runtime_text);
    size_t cublas = cublasLtGetVersion(), cudnn = cudnnGetVersion();
    return check_format("CUDA %s (driver %s), cuBLASLt %zu.%zu.%zu, cuDNN %zu.%zu.%zu", runtime_text,
                        driver ? driver_text : "none", cublas / 10000, cublas / 100 % 100, cublas % 100,
                        cudnn / 10000, cudnn / 100 % 100, cudnn % 100);
}
