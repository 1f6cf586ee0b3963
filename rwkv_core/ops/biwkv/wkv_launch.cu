// The kernels of wkv.cu for machines with CUDA's toolkit, built by ninja_build.py: two C functions, called with ctypes.
// Needs none of PyTorch's headers, so that it builds in seconds and fits any PyTorch.
#include <cstring>
#include <cuda_runtime.h>

#include "wkv.cu"

#ifdef _WIN32
#define EXPORTED extern "C" __declspec(dllexport)
#else
#define EXPORTED extern "C"
#endif

namespace {

const void* kernel(const char* name) {
#if !BIWKV_BACKWARD
    if (!std::strcmp(name, "biwkv_sums")) return reinterpret_cast<const void*>(biwkv_sums);
    if (!std::strcmp(name, "biwkv_forward")) return reinterpret_cast<const void*>(biwkv_forward);
#else
    if (!std::strcmp(name, "biwkv_gradient_sums")) return reinterpret_cast<const void*>(biwkv_gradient_sums);
    if (!std::strcmp(name, "biwkv_backward")) return reinterpret_cast<const void*>(biwkv_backward);
#endif
    return nullptr;
}

}  // namespace

// Starts a kernel of this build on the current device. `arguments`: the address of each. Returns a cudaError_t.
EXPORTED int biwkv_launch(const char* name, int blocks_x, int blocks_y, int threads, int shared, void** arguments,
                          void* stream) {
    const void* function = kernel(name);
    if (!function) return cudaErrorInvalidDeviceFunction;
    cudaError_t code = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    if (code == cudaSuccess)
        code = cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout,
                                    cudaSharedmemCarveoutMaxShared);
    if (code != cudaSuccess) return code;
    return cudaLaunchKernel(function, dim3(blocks_x, blocks_y), dim3(threads), arguments, shared,
                            static_cast<cudaStream_t>(stream));
}

EXPORTED const char* biwkv_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }
