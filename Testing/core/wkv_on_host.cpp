// The kernels of wkv.cu behind one C function, compiled for the host. Include path: rwkv_core/ops/biwkv.
#include "cuda_on_host.h"

#include "wkv.cu"

extern "C" int launch(const char* name, const int* grid, int threads, int shared, void** values, int backwards) {
    void (*call)(void**) = nullptr;
#if !BIWKV_BACKWARD
    if (!std::strcmp(name, "biwkv_sums")) call = host::Call<biwkv_sums>::with;
    if (!std::strcmp(name, "biwkv_forward")) call = host::Call<biwkv_forward>::with;
#else
    if (!std::strcmp(name, "biwkv_gradient_sums")) call = host::Call<biwkv_gradient_sums>::with;
    if (!std::strcmp(name, "biwkv_backward")) call = host::Call<biwkv_backward>::with;
#endif
    return call ? host::launch(call, grid, threads, shared, values, backwards != 0) : 3;
}
