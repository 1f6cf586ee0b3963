// BiWKV on a GPU, forward and backward: one source for NVRTC (users), nvcc (machines with a toolchain) and, with a few
// definitions, a host compiler (tests without a GPU). It includes nothing.
//
// THE OPERATOR.  Per channel, with keys k, values v, decay w and bonus u (all real, of either sign), over T tokens:
//
//     y_t = N_t / D_t,   D_t = sum_{i != t} e^(k_i - (|t-i|-1) w) + e^(u + k_t),   N_t the same sum with v_i behind it.
//
// The decay is one number per channel, so both sums are scans. With d = e^-w, the state left of token t obeys
// L_{t+1} = d L_t + e^(k_t) (v_t, 1), the one right of it R_{t-1} = d R_t + e^(k_t) (v_t, 1), and
// (N_t, D_t) = L_t + R_t + e^(u + k_t) (v_t, 1).
//
// WHERE DATA LIVE.  A block takes a chunk of consecutive tokens for a few channels: rows of 64 bytes (32 in the
// backward pass), which lie side by side in (B, T, C), so that 16-byte loads of a warp cover whole sectors. The
// chunk is copied into shared memory once, as it is (cp.async where there is such a thing), and results leave it the
// same way: device memory sees each input once and each output once. Two blocks fit on a multiprocessor, so that one
// loads while the other computes. Inside:
//
//     sequence = chunks        one block each; states cross from chunk to chunk through device memory
//       chunk = 32 segments    one thread each (per channel); states cross by warp shuffles, one lane a segment
//         segment = groups     a few tokens in registers; states are carried from group to group
//
// A segment has an odd number of tokens: the two or four segments that a warp reads at once then lie in different
// banks.
//
// 1. Every thread sums up its segment, as seen from its right end (for tokens behind it) and from its left end.
// 2. These are scanned over the 32 segments: 5 shuffle steps, since the decay over a segment is a constant. What other
//    chunks contribute, one state per chunk and side, written by an earlier kernel, is merged in at this point.
// 3. Every thread goes through its segment again, group by group, with the states that enter it from either side.
//
// A sequence that fits one chunk takes one launch. A longer one takes two: `biwkv_sums` does 1 and 2 and writes the
// chunk's own sums; `biwkv_forward` goes through the blocks in reverse order, to meet what is still in the L2 cache.
//
// NUMBERS.  Keys are taken relative to the sequence's first key, in units of log 2; exponentials are base 2. A state
// is 2^p (x, y), where p follows the running maximum of the exponents in it, as in a stable softmax; states are
// added at the larger p. Within a group the largest key is the common scale, so that a token costs one exponential
// and one fused multiply-add per sum and side, if that scale suits: the states that enter the group do not exceed it
// by much, and decay and bonus are ordinary (`mild`; a network's are far within). Elsewhere the group is done token
// by token with a scale per token, slower by a factor, for any keys, decay and bonus whatsoever. Which of the two is
// decided here, per thread and group; the host never has to look at the data.
//
// A chunk or segment that is not full is filled up with keys of minus infinity, so that loops have no ends to check. To
// see a state from the other side of such filling is a change of p.
//
// BACKWARD.  With a_t = g_t / D_t and b_t = a_t y_t (g the gradient of y), and the same symmetric weights:
//
//     dv_i = e^(k_i) P_i,   dk_i = e^(k_i) (v_i P_i - Q_i),   (P, Q)_i = sum_t W_ti (a_t, b_t),
//     du = sum_t e^(u + k_t) (v_t a_t - b_t),
//
// so a second scan, with -log D_t in the place of keys and (g_t, g_t y_t) in the place of (v_t, 1), does it; on the
// scale of a group, 1 / D_t just has the opposite exponent. dw needs no third: |t-i|-1 is the number of tokens
// between i and t, so the sum over pairs, weighted by it, is a sum over the token in between of what enters it from
// one side times what enters it from the other:
//
//     dw = -d sum_m [ L(v)_m R(a)_m - L(1)_m R(b)_m + R(v)_m L(a)_m - R(1)_m L(b)_m ].
//
// D and y are computed anew instead of being stored. Sums over tokens for dw and du are taken in a fixed order, one
// partial result per block; the caller adds these up. Nothing is atomic: equal inputs give equal bits.
//
// ORDERS.  The voxels of a volume make other sequences too, with another axis as the fastest. All that this changes is
// which row of memory a token has; rows are read one by one in any order, so nothing is copied first.
//
// COMPILED FOR one type, one chunk size and one pass at a time: BIWKV_SCALAR (0 float32, 1 float16, 2 bfloat16),
// BIWKV_GROUP (tokens in a group), BIWKV_GROUPS (groups in a segment), BIWKV_BACKWARD (0 forward, 1 backward),
// BIWKV_ORDERED (0 tokens as they lie in memory, 1 as `Order` says). What is launched with which sizes: scan_plan.py,
// scan.py.

#ifndef BIWKV_SCALAR
#define BIWKV_SCALAR 0
#endif
#ifndef BIWKV_GROUP
#define BIWKV_GROUP 5
#endif
#ifndef BIWKV_GROUPS
#define BIWKV_GROUPS 5
#endif
#ifndef BIWKV_BACKWARD
#define BIWKV_BACKWARD 0
#endif
#ifndef BIWKV_ORDERED
#define BIWKV_ORDERED 0
#endif

namespace {

constexpr int SEGMENTS = 32;  // of a chunk: the lanes of a warp
constexpr int GROUP = BIWKV_GROUP;
constexpr int GROUPS = BIWKV_GROUPS;
constexpr int SEGMENT = GROUP * GROUPS;  // tokens
constexpr int CHUNK = SEGMENTS * SEGMENT;
constexpr int LANES = BIWKV_BACKWARD ? 8 : 16;  // threads side by side in the channels; a row has four bytes for each
constexpr int THREADS = LANES * SEGMENTS;
constexpr float LOG2E = 1.4426950408889634f;
constexpr float NOTHING = -1e30f;  // the exponent of an empty state; differences of two stay finite
// In powers of two: within these, all that a group adds up stays between 2^-60 and 2^100.
constexpr float MILD_DECAY = 20.0f, MILD_BONUS = 40.0f, MILD_EXCESS = 40.0f;
static_assert(SEGMENT % 2 == 1, "an even number of tokens in a segment makes bank conflicts");

#if BIWKV_SCALAR == 0
typedef float Scalar;
#else
typedef unsigned short Scalar;  // the bits
#endif

constexpr int CHANNELS = LANES * 4 / static_cast<int>(sizeof(Scalar));  // of a block
constexpr int TILE = CHUNK * CHANNELS;                                  // numbers of an array in shared memory
constexpr int VECTORS = LANES / 4;                                      // 16 bytes each, in a row
constexpr int PER_VECTOR = 16 / static_cast<int>(sizeof(Scalar));

struct alignas(16) Vector {
    unsigned int words[4];
};

__device__ __forceinline__ float widen(Scalar x) {
#if BIWKV_SCALAR == 0
    return x;
#elif BIWKV_SCALAR == 1
#ifdef BIWKV_ON_HOST
    return float_from_half(x);
#else
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x));
    return wide;
#endif
#else
    union {
        unsigned int bits;
        float value;
    } wide;
    wide.bits = static_cast<unsigned int>(x) << 16;
    return wide.value;
#endif
}

__device__ __forceinline__ Scalar narrow(float x) {
#if BIWKV_SCALAR == 0
    return x;
#elif BIWKV_SCALAR == 1
#ifdef BIWKV_ON_HOST
    return half_from_float(x);
#else
    Scalar bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#endif
#else
    union {
        float value;
        unsigned int bits;
    } wide;
    wide.value = x;
    if (x != x) return 0x7fc0;
    return static_cast<Scalar>((wide.bits + 0x7fff + ((wide.bits >> 16) & 1)) >> 16);  // to nearest, ties to even
#endif
}

__device__ __forceinline__ float power_of_two(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

// 1 / x, for a denominator between 2^-100 and 2^100.
__device__ __forceinline__ float inverse(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return 1 / x;
#endif
}

__device__ __forceinline__ float minus_infinity() { return -1.0f / 0.0f; }

// ------------------------------------------------------------------------------------------------------- states

// 2^p (x, y), a weighted sum of two things.
struct State {
    float p, x, y;
};

__device__ __forceinline__ State empty() { return State{NOTHING, 0.0f, 0.0f}; }

// The same sum, seen from further away; `by` is the decay over the tokens in between, in units of log 2.
__device__ __forceinline__ State farther(State s, float by) {
    s.p -= by;
    return s;
}

__device__ __forceinline__ State merged(State a, State b) {
    const float p = fmaxf(a.p, b.p);
    const float from_a = power_of_two(a.p - p), from_b = power_of_two(b.p - p);
    return State{p, from_a * a.x + from_b * b.x, from_a * a.y + from_b * b.y};
}

// What a token adds: exponent and pair.
__device__ __forceinline__ State with(State s, float decay, State token) { return merged(farther(s, decay), token); }

// A channel's constants: decay per token and bonus in units of log 2, 2^-decay and 2^bonus.
struct Channel {
    float decay, bonus, factor, self;
    bool mild;
};

// Tokens with their keys (at most `top`), 2^(key - top), and that times the value.
struct Group {
    float top;
    float key[GROUP], weight[GROUP], product[GROUP];
};

// ----------------------------------------------------------------------------------------------- chunks of tokens

// A sequence of voxels along three axes, the last one fastest. Read by ordered builds only.
struct Order {
    int middle, fastest;                       // lengths of the last two axes
    int per_slowest, per_middle, per_fastest;  // steps along the axes, in tokens as they lie in memory
};

// What a block works on.
struct Place {
    int batch, chunk, chunks;
    int first_channel, channels;
    int tokens, start, count;  // of the sequence; the chunk's first and how many it has
    Order order;

    __device__ long long row(int token) const {  // index of a token's first channel of this block
#if BIWKV_ORDERED
        // Two divisions per 16 bytes, beside the scan of the numbers in them: stepping would not pay for its code.
        const int line = token / order.fastest, plane = line / order.middle;
        token = plane * order.per_slowest + (line - plane * order.middle) * order.per_middle +
                (token - line * order.fastest) * order.per_fastest;
#endif
        return (static_cast<long long>(batch) * tokens + token) * channels + first_channel;
    }
    // Index of channel 0 in the six rows of a chunk's sums: direction 0 or 1, then p, x, y.
    __device__ long long sums(int of_chunk, int direction) const {
        return ((static_cast<long long>(batch) * chunks + of_chunk) * 2 + direction) * 3 * channels;
    }
};

__device__ Place place(int tokens, int channels, int chunk_tokens, const Order& order, bool reversed) {
    const int x = reversed ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
    const int wide = (channels + CHANNELS - 1) / CHANNELS;
    Place at;
    at.batch = x / wide;
    at.chunks = gridDim.y;
    at.chunk = reversed ? gridDim.y - 1 - blockIdx.y : blockIdx.y;
    at.first_channel = x % wide * CHANNELS;
    at.channels = channels;
    at.tokens = tokens;
    at.start = at.chunk * chunk_tokens;
    at.count = tokens - at.start < chunk_tokens ? tokens - at.start : chunk_tokens;
    at.order = order;
    return at;
}

// Start copying the chunk's rows of `from` to shared memory, and fill it up with `filling`; `arrived` waits for all
// that was started.
__device__ void fetch(Scalar* tile, const Scalar* from, float filling, const Place& at, bool aligned) {
    for (int i = at.count * CHANNELS + threadIdx.x; i < TILE; i += THREADS) tile[i] = narrow(filling);
    if (aligned) {
        for (int i = threadIdx.x; i < at.count * VECTORS; i += THREADS) {
            const int token = i / VECTORS, channel = i % VECTORS * PER_VECTOR;
            if (at.first_channel + channel >= at.channels) continue;
            const Scalar* source = from + at.row(at.start + token) + channel;
            Scalar* target = tile + token * CHANNELS + channel;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
            const unsigned int address = static_cast<unsigned int>(__cvta_generic_to_shared(target));
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(source) : "memory");
#else
            *reinterpret_cast<Vector*>(target) = *reinterpret_cast<const Vector*>(source);
#endif
        }
    } else {
        for (int i = threadIdx.x; i < at.count * CHANNELS; i += THREADS) {
            const int token = i / CHANNELS, channel = i % CHANNELS;
            if (at.first_channel + channel < at.channels) tile[i] = from[at.row(at.start + token) + channel];
        }
    }
}

__device__ __forceinline__ void arrived() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
    __syncthreads();
}

// The reverse of `fetch`, after a barrier.
__device__ void put(Scalar* to, const Scalar* tile, const Place& at, bool aligned) {
    if (aligned) {
        for (int i = threadIdx.x; i < at.count * VECTORS; i += THREADS) {
            const int token = i / VECTORS, channel = i % VECTORS * PER_VECTOR;
            if (at.first_channel + channel >= at.channels) continue;
            *reinterpret_cast<Vector*>(to + at.row(at.start + token) + channel) =
                *reinterpret_cast<const Vector*>(tile + token * CHANNELS + channel);
        }
    } else {
        for (int i = threadIdx.x; i < at.count * CHANNELS; i += THREADS) {
            const int token = i / CHANNELS, channel = i % CHANNELS;
            if (at.first_channel + channel < at.channels) to[at.row(at.start + token) + channel] = tile[i];
        }
    }
}

// ------------------------------------------------------------------------------------------------------ the scan

__device__ __forceinline__ State shuffled_up(State s, int by) {
    return State{__shfl_up_sync(0xffffffffu, s.p, by), __shfl_up_sync(0xffffffffu, s.x, by),
                 __shfl_up_sync(0xffffffffu, s.y, by)};
}
__device__ __forceinline__ State shuffled_down(State s, int by) {
    return State{__shfl_down_sync(0xffffffffu, s.p, by), __shfl_down_sync(0xffffffffu, s.x, by),
                 __shfl_down_sync(0xffffffffu, s.y, by)};
}
__device__ __forceinline__ State shuffled_xor(State s, int by) {
    return State{__shfl_xor_sync(0xffffffffu, s.p, by), __shfl_xor_sync(0xffffffffu, s.x, by),
                 __shfl_xor_sync(0xffffffffu, s.y, by)};
}

// Six numbers per thread in shared memory, written by (segment, lane) and read by whoever; rows of an odd length.
struct Exchange {
    float* memory;

    static constexpr int ROW = LANES + 1;

    __device__ float& at(int item, int segment, int lane) const {
        return memory[(item * SEGMENTS + segment) * ROW + lane];
    }
    __device__ void write(int first, int segment, int lane, State s) const {
        at(first, segment, lane) = s.p, at(first + 1, segment, lane) = s.x, at(first + 2, segment, lane) = s.y;
    }
    __device__ State read(int first, int segment, int lane) const {
        return State{at(first, segment, lane), at(first + 1, segment, lane), at(first + 2, segment, lane)};
    }
};

__device__ __forceinline__ State load_sum(const float* sums, const Place& at, int chunk, int direction, int channel) {
    const float* from = sums + at.sums(chunk, direction) + channel;
    return State{from[0], from[at.channels], from[2 * static_cast<long long>(at.channels)]};
}

__device__ __forceinline__ void store_sum(float* sums, const Place& at, int direction, int channel, State s) {
    float* to = sums + at.sums(at.chunk, direction) + channel;
    to[0] = s.p, to[at.channels] = s.x, to[2 * static_cast<long long>(at.channels)] = s.y;
}

// From the sums of every thread's segment, seen from its right end (`left`) and from its left end (`right`), to the
// states that enter it from the left and from the right. All threads of the block take part.
//
// `first_channel` is the channel of lane 0. Where `others` is not null, it holds the sums of all chunks of the
// sequence, and they count; where `totals` is not null, this chunk's own are written there.
__device__ void scan(State& left, State& right, const Exchange& exchange, const Place& at, int first_channel,
                     const float* decay, const float* others, float* totals, int chunk_tokens) {
    const int lane = threadIdx.x % LANES, segment = threadIdx.x / LANES;
    exchange.write(0, segment, lane, left);
    exchange.write(3, segment, lane, right);
    __syncthreads();

    // Now a warp has a channel, and its lanes are the segments.
    const int slot = threadIdx.x % SEGMENTS, warp = threadIdx.x / SEGMENTS;
    const int channel = first_channel + warp;
    const bool inside = channel < at.channels;
    const float per_token = inside ? decay[channel] * LOG2E : 0.0f;
    State l = exchange.read(0, slot, warp), r = exchange.read(3, slot, warp);
#pragma unroll
    for (int by = 1; by < SEGMENTS; by *= 2) {
        const float across = static_cast<float>(by * SEGMENT) * per_token;
        const State from_left = shuffled_up(l, by), from_right = shuffled_down(r, by);
        if (slot >= by) l = merged(l, farther(from_left, across));
        if (slot + by < SEGMENTS) r = merged(r, farther(from_right, across));
    }
    const float filling = static_cast<float>(CHUNK - at.count) * per_token;
    if (totals && inside) {
        if (slot == SEGMENTS - 1) store_sum(totals, at, 0, channel, farther(l, -filling));
        if (slot == 0) store_sum(totals, at, 1, channel, r);
    }
    l = shuffled_up(l, 1), r = shuffled_down(r, 1);
    if (slot == 0) l = empty();
    if (slot == SEGMENTS - 1) r = empty();
    if (others) {
        State before = empty(), behind = empty();
        if (inside) {
            for (int chunk = slot; chunk < at.chunks; chunk += SEGMENTS) {
                if (chunk < at.chunk) {
                    const float across = static_cast<float>((at.chunk - chunk - 1) * chunk_tokens) * per_token;
                    before = merged(before, farther(load_sum(others, at, chunk, 0, channel), across));
                } else if (chunk > at.chunk) {
                    const float across = static_cast<float>((chunk - at.chunk - 1) * chunk_tokens) * per_token;
                    behind = merged(behind, farther(load_sum(others, at, chunk, 1, channel), across));
                }
            }
        }
#pragma unroll
        for (int by = SEGMENTS / 2; by > 0; by /= 2) {
            before = merged(before, shuffled_xor(before, by));
            behind = merged(behind, shuffled_xor(behind, by));
        }
        l = merged(l, farther(before, static_cast<float>(slot * SEGMENT) * per_token));
        r = merged(r, farther(behind, static_cast<float>(at.count - (slot + 1) * SEGMENT) * per_token));
    }
    exchange.write(0, slot, warp, l);
    exchange.write(3, slot, warp, r);
    __syncthreads();
    left = exchange.read(0, segment, lane);
    right = exchange.read(3, segment, lane);
}

// --------------------------------------------------------------------------------------------- a thread's segment

// One channel of one segment, and its numbers in the tiles.
struct Thread {
    int lane, segment, channel;
    int tokens, groups;  // that are there, and that are not all filling; none where negative
    bool inside;
    Channel constants;
    float origin;  // first key of the sequence

    __device__ Thread(const Place& at, int pass, const float* decay, const float* first, const Scalar* keys) {
        lane = threadIdx.x % LANES, segment = threadIdx.x / LANES;
        channel = at.first_channel + pass * LANES + lane;
        inside = channel < at.channels;
        tokens = at.count - segment * SEGMENT;
        groups = (tokens + GROUP - 1) / GROUP;
        const float w = inside ? decay[channel] * LOG2E : 0.0f, u = inside ? first[channel] * LOG2E : 0.0f;
        const bool mild = fabsf(w) * GROUP < MILD_DECAY && fabsf(u) < MILD_BONUS;
        constants = Channel{w, u, power_of_two(-w), power_of_two(u), mild};
        const long long origin_at = static_cast<long long>(at.batch) * at.tokens * at.channels + channel;
        origin = inside ? widen(keys[origin_at]) : 0.0f;
    }
#if BIWKV_BACKWARD
    __device__ __forceinline__ bool has(int group, int token) const { return group * GROUP + token < tokens; }
#endif
    __device__ __forceinline__ int offset(int pass, int group, int token) const {
        return (segment * SEGMENT + group * GROUP + token) * CHANNELS + pass * LANES + lane;
    }
    __device__ __forceinline__ Group load(int pass, int group, const Scalar* keys, const Scalar* values) const {
        Group found;
        found.top = NOTHING;
#pragma unroll
        for (int j = 0; j < GROUP; ++j) {
            found.key[j] = (widen(keys[offset(pass, group, j)]) - origin) * LOG2E;
            found.top = fmaxf(found.top, found.key[j]);
        }
#pragma unroll
        for (int j = 0; j < GROUP; ++j) {
            found.weight[j] = power_of_two(found.key[j] - found.top);
            found.product[j] = found.weight[j] * widen(values[offset(pass, group, j)]);
        }
        return found;
    }
    // Whether the group's own scale serves, given what enters it.
    __device__ __forceinline__ bool serves(const Group& group, State left, State right) const {
        return constants.mild && fmaxf(left.p, right.p) < group.top + MILD_EXCESS;
    }
    // One token on its own scale.
    __device__ __forceinline__ State token(int pass, int group, int j, const Scalar* keys, const Scalar* values) const {
        const int at = offset(pass, group, j);
        return State{fmaxf((widen(keys[at]) - origin) * LOG2E, NOTHING), widen(values[at]), 1.0f};
    }
};

// What a group adds to the states behind it and in front of it.
__device__ __forceinline__ void sums_of_group(State& left, State& right, const Thread& thread, int pass, int g,
                                              const Scalar* keys, const Scalar* values) {
    const Channel& c = thread.constants;
    left = right = empty();
    if (c.mild) {
        const Group group = thread.load(pass, g, keys, values);
        left.p = right.p = group.top;
#pragma unroll
        for (int j = 0; j < GROUP; ++j) {
            left.x = c.factor * left.x + group.product[j];
            left.y = c.factor * left.y + group.weight[j];
            right.x = c.factor * right.x + group.product[GROUP - 1 - j];
            right.y = c.factor * right.y + group.weight[GROUP - 1 - j];
        }
        return;
    }
#pragma unroll 1
    for (int j = 0; j < GROUP; ++j) {
        left = with(left, c.decay, thread.token(pass, g, j, keys, values));
        right = with(right, c.decay, thread.token(pass, g, GROUP - 1 - j, keys, values));
    }
}

// The groups' sums, each seen from its left end, folded into that of the segment.
__device__ __forceinline__ State folded(const State (&groups)[GROUPS], const Channel& channel) {
    State s = groups[GROUPS - 1];
#pragma unroll
    for (int g = GROUPS - 2; g >= 0; --g) s = with(s, GROUP * channel.decay, groups[g]);
    return s;
}

// The groups' sums, each seen from its left end, become the states that enter the groups from the right.
__device__ __forceinline__ void spread(State (&groups)[GROUPS], State entering, const Channel& channel) {
#pragma unroll
    for (int g = GROUPS - 1; g >= 0; --g) {
        const State own = groups[g];
        groups[g] = entering;
        if (g > 0) entering = with(entering, GROUP * channel.decay, own);
    }
}

// Steps 1 and 2: what enters the segment from the left, and each of its groups from the right.
__device__ __forceinline__ void states(State& left, State (&right)[GROUPS], const Thread& thread, int pass,
                                       const Scalar* keys, const Scalar* values, const Exchange& exchange,
                                       const Place& at, const float* decay, const float* others, float* totals,
                                       int chunk_tokens) {
    left = empty();
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) {
        State of_group;
        sums_of_group(of_group, right[g], thread, pass, g, keys, values);
        left = with(left, GROUP * thread.constants.decay, of_group);
    }
    State entering = folded(right, thread.constants);
    scan(left, entering, exchange, at, at.first_channel + pass * LANES, decay, others, totals, chunk_tokens);
    spread(right, entering, thread.constants);
}

// The sums right of each token of a group, on the group's scale.
__device__ __forceinline__ void right_of_tokens(float (&x)[GROUP], float (&y)[GROUP], State right, float scale,
                                                const float (&of_x)[GROUP], const float (&of_y)[GROUP], float factor) {
    const float change = power_of_two(right.p - scale);
    x[GROUP - 1] = change * right.x, y[GROUP - 1] = change * right.y;
#pragma unroll
    for (int j = GROUP - 1; j > 0; --j) {
        x[j - 1] = factor * x[j] + of_x[j];
        y[j - 1] = factor * y[j] + of_y[j];
    }
}

// The state that `left` has become behind a group, where its pair on the group's scale is (x, y).
__device__ __forceinline__ State beyond(State left, float scale, float x, float y, const Channel& channel) {
    const float p = fmaxf(left.p - GROUP * channel.decay, scale);
    const float change = power_of_two(scale - p);
    return State{p, change * x, change * y};
}

// The sums right of each token of a group, token by token.
__device__ void slow_right(State (&states)[GROUP], State right, const Thread& thread, int pass, int g,
                           const Scalar* keys, const Scalar* values) {
#pragma unroll 1
    for (int j = GROUP - 1; j >= 0; --j) {
        states[j] = right;
        right = with(right, thread.constants.decay, thread.token(pass, g, j, keys, values));
    }
}

__device__ __forceinline__ State own_term(State token, float bonus) { return farther(token, -bonus); }

#ifndef BIWKV_ON_HOST
extern __shared__ Vector shared_memory[];
#endif

#if !BIWKV_BACKWARD
// -------------------------------------------------------------------------------------------------------- forward

// Averages of a group's tokens, in the place of their keys. `left` moves to the group's right end.
__device__ __forceinline__ void average(State& left, State right, const Thread& thread, int pass, int g, Scalar* keys,
                                        const Scalar* values) {
    const Channel& c = thread.constants;
    const Group group = thread.load(pass, g, keys, values);
    if (thread.serves(group, left, right)) {
        float right_x[GROUP], right_y[GROUP];
        right_of_tokens(right_x, right_y, right, group.top, group.product, group.weight, c.factor);
        const float change = power_of_two(left.p - group.top);
        float x = change * left.x, y = change * left.y;
#pragma unroll
        for (int j = 0; j < GROUP; ++j) {
            const float numerator = x + right_x[j] + c.self * group.product[j];
            const float denominator = y + right_y[j] + c.self * group.weight[j];
            keys[thread.offset(pass, g, j)] = narrow(numerator * inverse(denominator));
            x = c.factor * x + group.product[j];
            y = c.factor * y + group.weight[j];
        }
        left = beyond(left, group.top, x, y, c);
        return;
    }
    State right_states[GROUP];
    slow_right(right_states, right, thread, pass, g, keys, values);
#pragma unroll 1
    for (int j = 0; j < GROUP; ++j) {
        const State token = thread.token(pass, g, j, keys, values);
        const State all = merged(merged(left, right_states[j]), own_term(token, c.bonus));
        keys[thread.offset(pass, g, j)] = narrow(all.x * inverse(all.y));
        left = with(left, c.decay, token);
    }
}

#else
// ------------------------------------------------------------------------------------------------------- backward

// The pairs (a, b) of a group's tokens, token by token; none where there is only filling.
__device__ void slow_pairs(State (&pairs)[GROUP], State left, State right, const Thread& thread, int pass, int g,
                           const Scalar* keys, const Scalar* values, const Scalar* upstream) {
    slow_right(pairs, right, thread, pass, g, keys, values);
#pragma unroll 1
    for (int j = 0; j < GROUP; ++j) {
        const State token = thread.token(pass, g, j, keys, values);
        const State all = merged(merged(left, pairs[j]), own_term(token, thread.constants.bonus));
        const float a = widen(upstream[thread.offset(pass, g, j)]) * inverse(all.y);
        pairs[j] = thread.has(g, j) ? State{-all.p, a, a * all.x * inverse(all.y)} : empty();
        left = with(left, thread.constants.decay, token);
    }
}

// What a group adds to the states (a, b) = (g / D, g y / D) behind it and in front of it. `left` moves through it.
__device__ __forceinline__ void gradient_sums_of_group(State& of_left, State& of_right, State& left, State right,
                                                       const Thread& thread, int pass, int g, const Scalar* keys,
                                                       const Scalar* values, const Scalar* upstream) {
    const Channel& c = thread.constants;
    const Group group = thread.load(pass, g, keys, values);
    of_left = of_right = empty();
    if (thread.serves(group, left, right)) {
        float right_x[GROUP], right_y[GROUP], a[GROUP], b[GROUP];
        right_of_tokens(right_x, right_y, right, group.top, group.product, group.weight, c.factor);
        const float change = power_of_two(left.p - group.top);
        float x = change * left.x, y = change * left.y;
        of_left.p = of_right.p = -group.top;
#pragma unroll
        for (int j = 0; j < GROUP; ++j) {
            const float inverted = inverse(y + right_y[j] + c.self * group.weight[j]);
            a[j] = widen(upstream[thread.offset(pass, g, j)]) * inverted;
            b[j] = a[j] * (x + right_x[j] + c.self * group.product[j]) * inverted;
            of_left.x = c.factor * of_left.x + a[j];
            of_left.y = c.factor * of_left.y + b[j];
            x = c.factor * x + group.product[j];
            y = c.factor * y + group.weight[j];
        }
#pragma unroll
        for (int j = GROUP - 1; j >= 0; --j) {
            of_right.x = c.factor * of_right.x + a[j];
            of_right.y = c.factor * of_right.y + b[j];
        }
        left = beyond(left, group.top, x, y, c);
        return;
    }
    State pairs[GROUP];
    slow_pairs(pairs, left, right, thread, pass, g, keys, values, upstream);
#pragma unroll 1
    for (int j = 0; j < GROUP; ++j) {
        of_left = with(of_left, c.decay, pairs[j]);
        of_right = with(of_right, c.decay, pairs[GROUP - 1 - j]);
        left = with(left, c.decay, thread.token(pass, g, j, keys, values));
    }
}

// Gradients of a group's keys and values in their place, and its part in those of decay (but for the factor -d) and
// bonus. `left` and `left_pairs` move through it.
__device__ __forceinline__ void gradients(float& of_decay, float& of_bonus, State& left, State right, State& left_pairs,
                                          State right_pairs, const Thread& thread, int pass, int g, Scalar* keys,
                                          Scalar* values, const Scalar* upstream) {
    const Channel& c = thread.constants;
    const Group group = thread.load(pass, g, keys, values);
    if (thread.serves(group, left, right)) {
        float right_x[GROUP], right_y[GROUP], a[GROUP], b[GROUP], right_a[GROUP], right_b[GROUP];
        right_of_tokens(right_x, right_y, right, group.top, group.product, group.weight, c.factor);
        const float change = power_of_two(left.p - group.top);
        float x = change * left.x, y = change * left.y;
#pragma unroll
        for (int j = 0; j < GROUP; ++j) {
            const float inverted = inverse(y + right_y[j] + c.self * group.weight[j]);
            a[j] = widen(upstream[thread.offset(pass, g, j)]) * inverted;
            b[j] = a[j] * (x + right_x[j] + c.self * group.product[j]) * inverted;
            x = c.factor * x + group.product[j];
            y = c.factor * y + group.weight[j];
        }
        const State after = beyond(left, group.top, x, y, c);
        right_of_tokens(right_a, right_b, right_pairs, -group.top, a, b, c.factor);
        const float change_pairs = power_of_two(left_pairs.p + group.top);
        float left_a = change_pairs * left_pairs.x, left_b = change_pairs * left_pairs.y;
        x = change * left.x, y = change * left.y;
#pragma unroll
        for (int j = 0; j < GROUP; ++j) {
            const int at = thread.offset(pass, g, j);
            const float value = widen(values[at]);
            const float sum_a = left_a + right_a[j] + c.self * a[j], sum_b = left_b + right_b[j] + c.self * b[j];
            keys[at] = narrow(group.weight[j] * (value * sum_a - sum_b));
            values[at] = narrow(group.weight[j] * sum_a);
            of_bonus += c.self * group.weight[j] * (value * a[j] - b[j]);
            if (thread.has(g, j))  // nobody passes filling
                of_decay += x * right_a[j] - y * right_b[j] + right_x[j] * left_a - right_y[j] * left_b;
            left_a = c.factor * left_a + a[j];
            left_b = c.factor * left_b + b[j];
            x = c.factor * x + group.product[j];
            y = c.factor * y + group.weight[j];
        }
        left = after;
        left_pairs = beyond(left_pairs, -group.top, left_a, left_b, c);
        return;
    }
    State pairs[GROUP], right_states[GROUP], right_of_pairs[GROUP];
    slow_pairs(pairs, left, right, thread, pass, g, keys, values, upstream);
    slow_right(right_states, right, thread, pass, g, keys, values);
#pragma unroll 1
    for (int j = GROUP - 1; j >= 0; --j) {
        right_of_pairs[j] = right_pairs;
        right_pairs = with(right_pairs, c.decay, pairs[j]);
    }
#pragma unroll 1
    for (int j = 0; j < GROUP; ++j) {
        const int at = thread.offset(pass, g, j);
        const State token = thread.token(pass, g, j, keys, values);
        const State own = farther(pairs[j], -token.p - c.bonus);  // this token's term in the gradients of itself
        const State sum = farther(merged(left_pairs, right_of_pairs[j]), -token.p);
        const float from_self = power_of_two(own.p), from_others = power_of_two(sum.p);
        const float sum_a = from_others * sum.x + from_self * own.x, sum_b = from_others * sum.y + from_self * own.y;
        const float outward = power_of_two(left.p + right_of_pairs[j].p);
        const float inward = power_of_two(right_states[j].p + left_pairs.p);
        of_bonus += from_self * (token.x * own.x - own.y);
        if (thread.has(g, j))
            of_decay += outward * (left.x * right_of_pairs[j].x - left.y * right_of_pairs[j].y) +
                        inward * (right_states[j].x * left_pairs.x - right_states[j].y * left_pairs.y);
        keys[at] = narrow(token.x * sum_a - sum_b);
        values[at] = narrow(sum_a);
        left = with(left, c.decay, token);
        left_pairs = with(left_pairs, c.decay, pairs[j]);
    }
}

// FINAL: gradients of keys and values and the partial sums for decay and bonus. Otherwise: the chunk's sums of the
// second scan only, for `gradient_sums`.
template <bool FINAL>
__device__ __forceinline__ void backward(const float* decay, const float* first, const Scalar* key, const Scalar* value,
                                         const Scalar* upstream, const float* sums, float* gradient_sums,
                                         Scalar* key_gradient, Scalar* value_gradient, float* parameter_gradients,
                                         int tokens, int channels, int chunk_tokens, int aligned, const Order& order) {
    Scalar* keys = reinterpret_cast<Scalar*>(shared_memory);
    Scalar* values = keys + TILE;
    Scalar* gradient = values + TILE;
    const Exchange exchange{reinterpret_cast<float*>(gradient + TILE)};
    const Place at = place(tokens, channels, chunk_tokens, order, !FINAL);
    fetch(keys, key, minus_infinity(), at, aligned);
    fetch(values, value, 0.0f, at, aligned);
    fetch(gradient, upstream, 0.0f, at, aligned);
    arrived();
    const bool many = at.chunks > 1;

#pragma unroll 1
    for (int pass = 0; pass < CHANNELS / LANES; ++pass) {
        const Thread thread(at, pass, decay, first, key);
        State left, right[GROUPS];
        states(left, right, thread, pass, keys, values, exchange, at, decay, many ? sums : nullptr, nullptr,
                      chunk_tokens);

        State moving = left, left_pairs = empty(), right_pairs[GROUPS];
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            State of_group = empty();
            right_pairs[g] = empty();
            if (g < thread.groups)
                gradient_sums_of_group(of_group, right_pairs[g], moving, right[g], thread, pass, g, keys, values,
                                       gradient);
            left_pairs = with(left_pairs, GROUP * thread.constants.decay, of_group);
        }
        State entering = folded(right_pairs, thread.constants);
        scan(left_pairs, entering, exchange, at, at.first_channel + pass * LANES, decay,
                    FINAL && many ? gradient_sums : nullptr, FINAL ? nullptr : gradient_sums, chunk_tokens);
        if (!FINAL) continue;
        spread(right_pairs, entering, thread.constants);

        float decay_gradient = 0, bonus_gradient = 0;
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            if (g < thread.groups)
                gradients(decay_gradient, bonus_gradient, left, right[g], left_pairs, right_pairs[g], thread, pass, g,
                          keys, values, gradient);
        }
        // Over the segments, in a fixed order.
        exchange.at(0, thread.segment, thread.lane) = -decay_gradient * thread.constants.factor;
        exchange.at(1, thread.segment, thread.lane) = bonus_gradient;
        __syncthreads();
        const int slot = threadIdx.x % SEGMENTS, warp = threadIdx.x / SEGMENTS;
        const int channel = at.first_channel + pass * LANES + warp;
        float of_decay = exchange.at(0, slot, warp), of_bonus = exchange.at(1, slot, warp);
#pragma unroll
        for (int by = SEGMENTS / 2; by > 0; by /= 2) {
            of_decay += __shfl_xor_sync(0xffffffffu, of_decay, by);
            of_bonus += __shfl_xor_sync(0xffffffffu, of_bonus, by);
        }
        if (slot == 0 && channel < at.channels) {
            const long long row = (static_cast<long long>(at.batch) * at.chunks + at.chunk) * 2;
            parameter_gradients[row * at.channels + channel] = of_decay;
            parameter_gradients[(row + 1) * at.channels + channel] = of_bonus;
        }
        __syncthreads();
    }
    if (FINAL) {
        __syncthreads();
        put(key_gradient, keys, at, aligned);
        put(value_gradient, values, at, aligned);
    }
}

#endif

}  // namespace

// -------------------------------------------------------------------------------------------------------- kernels
//
// Grid: (blocks of channels x batch, chunks). decay, first: (C,) float32; key, value, upstream and the results: (B,
// T, C); sums and gradient_sums: (B, chunks, 2, 3, C) float32, used where there is more than one chunk;
// parameter_gradients: (B, chunks, 2, C) float32, of decay and of first. aligned: rows begin at multiples of 16
// bytes.

#if !BIWKV_BACKWARD
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    biwkv_sums(const float* decay, const float* first, const Scalar* key, const Scalar* value, float* sums, int tokens,
               int channels, int chunk_tokens, int aligned, Order order) {
    Scalar* keys = reinterpret_cast<Scalar*>(shared_memory);
    Scalar* values = keys + TILE;
    const Exchange exchange{reinterpret_cast<float*>(values + TILE)};
    const Place at = place(tokens, channels, chunk_tokens, order, false);
    fetch(keys, key, minus_infinity(), at, aligned);
    fetch(values, value, 0.0f, at, aligned);
    arrived();
#pragma unroll 1
    for (int pass = 0; pass < CHANNELS / LANES; ++pass) {
        const Thread thread(at, pass, decay, first, key);
        State left, right[GROUPS];
        states(left, right, thread, pass, keys, values, exchange, at, decay, nullptr, sums, chunk_tokens);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    biwkv_forward(const float* decay, const float* first, const Scalar* key, const Scalar* value, const float* sums,
                  Scalar* output, int tokens, int channels, int chunk_tokens, int aligned, Order order) {
    Scalar* keys = reinterpret_cast<Scalar*>(shared_memory);
    Scalar* values = keys + TILE;
    const Exchange exchange{reinterpret_cast<float*>(values + TILE)};
    const Place at = place(tokens, channels, chunk_tokens, order, true);
    fetch(keys, key, minus_infinity(), at, aligned);
    fetch(values, value, 0.0f, at, aligned);
    arrived();
#pragma unroll 1
    for (int pass = 0; pass < CHANNELS / LANES; ++pass) {
        const Thread thread(at, pass, decay, first, key);
        State left, right[GROUPS];
        states(left, right, thread, pass, keys, values, exchange, at, decay, at.chunks > 1 ? sums : nullptr,
                      nullptr, chunk_tokens);
#pragma unroll
        for (int g = 0; g < GROUPS; ++g)
            if (g < thread.groups) average(left, right[g], thread, pass, g, keys, values);
    }
    __syncthreads();
    put(output, keys, at, aligned);
}

#else

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    biwkv_gradient_sums(const float* decay, const float* first, const Scalar* key, const Scalar* value,
                        const Scalar* upstream, const float* sums, float* gradient_sums, int tokens, int channels,
                        int chunk_tokens, int aligned, Order order) {
    backward<false>(decay, first, key, value, upstream, sums, gradient_sums, nullptr, nullptr, nullptr, tokens,
                    channels, chunk_tokens, aligned, order);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    biwkv_backward(const float* decay, const float* first, const Scalar* key, const Scalar* value,
                   const Scalar* upstream, const float* sums, float* gradient_sums, Scalar* key_gradient,
                   Scalar* value_gradient, float* parameter_gradients, int tokens, int channels, int chunk_tokens,
                   int aligned, Order order) {
    backward<true>(decay, first, key, value, upstream, sums, gradient_sums, key_gradient, value_gradient,
                   parameter_gradients, tokens, channels, chunk_tokens, aligned, order);
}

#endif
