// Stand-in for a GPU: enough of CUDA for one kernel source to run on a host compiler, thread by thread.
//
// It shows indices, barriers and arithmetic, not speed. Every CUDA thread is a fiber that runs until it waits: at
// __syncthreads for its block, at a shuffle for its warp. Fibers may be taken in either order, so that a missing
// barrier changes the result. Blocks run one after another. Shared memory is poisoned before each block (as floats
// and as 16-bit floats: NaN), and what lies behind it is checked after.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#define BIWKV_ON_HOST
#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace host {

struct Index {
    unsigned int x = 0, y = 0, z = 0;
};

constexpr int WARP = 32;
constexpr size_t STACK = 128 * 1024, GUARD = 4096, LARGEST = 256 * 1024;

struct Barrier {
    int size = 0, waiting = 0;
    unsigned long rounds = 0;
};

struct Warp {
    Barrier barrier;
    float values[2][WARP];
};

struct Fiber {
    ucontext_t context;  // to begin in; from then on it is left and entered by jumps, which take no system call
    jmp_buf jump;
    std::unique_ptr<char[]> stack;
    int index = 0;
    unsigned long shuffles = 0;
    bool started = false, done = false;
};

inline jmp_buf scheduler;
inline std::vector<Fiber> fibers;
inline std::vector<Warp> warps;
inline Barrier block;
inline Fiber* current = nullptr;
inline void (*body)(void**) = nullptr;
inline void** arguments = nullptr;

inline void leave() {
    Fiber& fiber = *current;
    if (!_setjmp(fiber.jump)) _longjmp(scheduler, 1);
}

inline void enter(Fiber& fiber) {
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.jump, 1);
    fiber.started = true;
    setcontext(&fiber.context);
}

inline void wait(Barrier& barrier) {
    const unsigned long round = barrier.rounds;
    if (++barrier.waiting == barrier.size) {
        barrier.waiting = 0;
        ++barrier.rounds;
        return;
    }
    while (barrier.rounds == round) leave();
}

inline void run_fiber() {
    body(arguments);
    current->done = true;
    leave();
}

}  // namespace host

inline host::Index threadIdx, blockIdx, blockDim, gridDim;
alignas(16) inline char host_shared[host::LARGEST + host::GUARD];
#define shared_memory (reinterpret_cast<Vector*>(host_shared))

inline void __syncthreads() {
    host::wait(host::block);
    threadIdx.x = host::current->index;
}

inline float host_shuffle(float value, int source) {
    host::Fiber& fiber = *host::current;
    host::Warp& warp = host::warps[fiber.index / host::WARP];
    float* values = warp.values[fiber.shuffles++ % 2];
    values[fiber.index % host::WARP] = value;
    host::wait(warp.barrier);
    threadIdx.x = fiber.index;
    return values[source];
}
inline float __shfl_up_sync(unsigned int, float value, int by) {
    const int lane = threadIdx.x % host::WARP;
    return host_shuffle(value, lane >= by ? lane - by : lane);
}
inline float __shfl_down_sync(unsigned int, float value, int by) {
    const int lane = threadIdx.x % host::WARP;
    return host_shuffle(value, lane + by < host::WARP ? lane + by : lane);
}
inline float __shfl_xor_sync(unsigned int, float value, int by) {
    return host_shuffle(value, (threadIdx.x % host::WARP) ^ by);
}

inline float float_from_half(unsigned short bits) {
    _Float16 half;
    std::memcpy(&half, &bits, 2);
    return half;
}
inline unsigned short half_from_float(float value) {
    const _Float16 half = static_cast<_Float16>(value);
    unsigned short bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}

namespace host {

// Runs one block; false when threads wait for each other for ever, or shared memory was overrun.
inline bool run_block(int threads, size_t shared, bool backwards) {
    std::memset(host_shared, 0xff, sizeof host_shared);
    fibers.resize(threads);
    warps.assign((threads + WARP - 1) / WARP, Warp{});
    for (Warp& warp : warps) warp.barrier.size = WARP;
    block = Barrier{threads};
    for (int i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        if (!fiber.stack) fiber.stack.reset(new char[STACK]);
        fiber.index = i, fiber.started = fiber.done = false, fiber.shuffles = 0;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_fiber, 0);
    }
    int left = threads;
    for (unsigned long long turns = 0; left > 0; ++turns) {
        if (turns > 100000) return false;
        for (int i = 0; i < threads; ++i) {
            Fiber& fiber = fibers[backwards ? threads - 1 - i : i];
            if (fiber.done) continue;
            current = &fiber;
            threadIdx.x = fiber.index;
            enter(fiber);
            if (fiber.done) --left;
        }
    }
    for (size_t i = shared; i < shared + GUARD; ++i)
        if (static_cast<unsigned char>(host_shared[i]) != 0xff) return false;
    return true;
}

template <class... A, size_t... I>
void unpack(void (*kernel)(A...), void** values, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(values[I])...);
}

template <auto KERNEL>
struct Call;
template <class... A, void (*KERNEL)(A...)>
struct Call<KERNEL> {
    static void with(void** values) { unpack(KERNEL, values, std::index_sequence_for<A...>{}); }
};

// As cuLaunchKernel, for the kernel that `call` unpacks the arguments of. 0 when all went well.
inline int launch(void (*call)(void**), const int* grid, int threads, size_t shared, void** values, bool backwards) {
    if (shared > LARGEST) return 1;
    body = call, arguments = values;
    gridDim = Index{unsigned(grid[0]), unsigned(grid[1]), unsigned(grid[2])};
    blockDim = Index{unsigned(threads), 1, 1};
    for (unsigned z = 0; z < gridDim.z; ++z)
        for (unsigned y = 0; y < gridDim.y; ++y)
            for (unsigned x = 0; x < gridDim.x; ++x) {
                blockIdx = Index{x, y, z};
                if (!run_block(threads, shared, backwards)) return 2;
            }
    return 0;
}

}  // namespace host
