/* The libraries under the CPU backend. */
#ifndef TENSOR_CPU_LIBRARIES_H
#define TENSOR_CPU_LIBRARIES_H

/* "oneDNN 2.6.0 (AVX-512 BF16), OpenBLAS 0.3.21"; the caller frees it. */
char *cpu_libraries(void);

/* OpenBLAS's own threads. */
void cpu_set_blas_threads(int threads);

#endif
