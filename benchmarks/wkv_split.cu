// What wkv.cu is measured against: the published way to compute BiWKV on a GPU, written anew from its description.
//
// A block has 16 channels and cuts the sequence into 32 parts, one thread for each part and channel. Pass 1: every
// thread sums up its part, as seen from its ends. The sums meet in shared memory. Pass 2: every thread goes through its
// part again, adds each token to the sum on the left and takes it out of the sum on the right. float32; a maximum per
// channel keeps the exponentials small, but the removal is only as good as the keys and decays are ordinary. The
// backward pass has a third pass, since its sums need the averages first.

namespace {

constexpr int PARTS = 32, WIDTH = 16;

struct Sums {
    float x, y;
};

struct Part {
    int channel, part, begin, end;
    bool inside;
    long long base;  // of token 0
    float decay, bonus, factor;
};

__device__ Part part_of(const float* decay, const float* first, int tokens, int channels) {
    Part p;
    const int wide = (channels + WIDTH - 1) / WIDTH;
    p.channel = blockIdx.x % wide * WIDTH + threadIdx.x % WIDTH;
    p.part = threadIdx.x / WIDTH;
    const int length = (tokens + PARTS - 1) / PARTS;
    p.begin = p.part * length < tokens ? p.part * length : tokens;
    p.end = p.begin + length < tokens ? p.begin + length : tokens;
    p.inside = p.channel < channels;
    p.base = static_cast<long long>(blockIdx.x / wide) * tokens * channels + p.channel;
    p.decay = p.inside ? decay[p.channel] : 0.0f;
    p.bonus = p.inside ? expf(first[p.channel]) : 0.0f;
    p.factor = expf(-p.decay);
    if (!p.inside) p.begin = p.end = 0;
    return p;
}

// Sums of what lies left and right of the part, from the parts' own sums.
__device__ void meet(Sums* board, const Part& p, int tokens, Sums own_left, Sums own_right, Sums& left, Sums& right) {
    Sums* lefts = board;
    Sums* rights = board + PARTS * WIDTH;
    lefts[threadIdx.x] = own_left, rights[threadIdx.x] = own_right;
    __syncthreads();
    const int length = (tokens + PARTS - 1) / PARTS;
    const float across = expf(-p.decay * length);
    left = Sums{0, 0}, right = Sums{0, 0};
    for (int i = 0; i < p.part; ++i) {
        const Sums s = lefts[i * WIDTH + threadIdx.x % WIDTH];
        left = Sums{left.x * across + s.x, left.y * across + s.y};
    }
    for (int i = PARTS - 1; i > p.part; --i) {
        const Sums s = rights[i * WIDTH + threadIdx.x % WIDTH];
        const int begin = i * length;
        const int count = begin >= tokens ? 0 : begin + length < tokens ? length : tokens - begin;
        const float own = count == length ? across : expf(-p.decay * count);
        right = Sums{right.x * own + s.x, right.y * own + s.y};
    }
    __syncthreads();
}

// Pass 1 with a running maximum, so that it reads the keys once.
__device__ float enter(Sums* board, const float* key, const float* value, const Part& p, int tokens, int channels,
                       Sums& left, Sums& right) {
    float top = -1e30f, weight = 1;
    Sums l{0, 0}, r{0, 0};
    for (int t = p.begin; t < p.end; ++t) {
        const long long at = p.base + static_cast<long long>(t) * channels;
        const float k = key[at], v = value[at];
        const float higher = fmaxf(top, k), old = expf(top - higher), e = expf(k - higher);
        l = Sums{l.x * old * p.factor + e * v, l.y * old * p.factor + e};
        r = Sums{r.x * old + weight * e * v, r.y * old + weight * e};
        weight *= p.factor;
        top = higher;
    }
    float* tops = reinterpret_cast<float*>(board);
    tops[threadIdx.x] = top;
    __syncthreads();
    float highest = top;
    for (int i = 0; i < PARTS; ++i) highest = fmaxf(highest, tops[i * WIDTH + threadIdx.x % WIDTH]);
    __syncthreads();
    const float change = expf(top - highest);
    meet(board, p, tokens, Sums{l.x * change, l.y * change}, Sums{r.x * change, r.y * change}, left, right);
    // What is right of the part becomes what is right of the token in front of it.
    const float over = expf(-p.decay * (p.end - p.begin));
    right = Sums{right.x * over + r.x * change, right.y * over + r.y * change};
    return highest;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(PARTS* WIDTH)
    split_forward(const float* decay, const float* first, const float* key, const float* value, float* output,
                  int tokens, int channels) {
    __shared__ Sums board[2 * PARTS * WIDTH];
    const Part p = part_of(decay, first, tokens, channels);
    Sums left, right;
    const float top = enter(board, key, value, p, tokens, channels, left, right);
    const float back = 1 / p.factor;
    for (int t = p.begin; t < p.end; ++t) {
        const long long at = p.base + static_cast<long long>(t) * channels;
        const float e = expf(key[at] - top), x = e * value[at];
        right = Sums{(right.x - x) * back, (right.y - e) * back};
        output[at] = (left.x + right.x + p.bonus * x) / (left.y + right.y + p.bonus * e);
        left = Sums{left.x * p.factor + x, left.y * p.factor + e};
    }
}

// parameter_gradients: (B, 2, C).
extern "C" __global__ void __launch_bounds__(PARTS* WIDTH)
    split_backward(const float* decay, const float* first, const float* key, const float* value, const float* upstream,
                   float* key_gradient, float* value_gradient, float* parameter_gradients, int tokens, int channels) {
    __shared__ Sums board[2 * PARTS * WIDTH];
    const Part p = part_of(decay, first, tokens, channels);
    Sums left, right;
    const float top = enter(board, key, value, p, tokens, channels, left, right);
    const Sums first_left = left, first_right = right;
    const float back = 1 / p.factor;
    float of_bonus = 0, of_decay = 0, weight = 1;
    Sums l{0, 0}, r{0, 0};
    for (int t = p.begin; t < p.end; ++t) {
        const long long at = p.base + static_cast<long long>(t) * channels;
        const float e = expf(key[at] - top), x = e * value[at];
        right = Sums{(right.x - x) * back, (right.y - e) * back};
        const float inverse = 1 / (left.y + right.y + p.bonus * e);
        const float a = upstream[at] * inverse, b = a * (left.x + right.x + p.bonus * x) * inverse;
        of_bonus += p.bonus * (x * a - e * b);
        l = Sums{l.x * p.factor + a, l.y * p.factor + b};
        r = Sums{r.x + weight * a, r.y + weight * b};
        weight *= p.factor;
        left = Sums{left.x * p.factor + x, left.y * p.factor + e};
    }
    Sums left_pairs, right_pairs;
    meet(board, p, tokens, l, r, left_pairs, right_pairs);
    right_pairs = Sums{right_pairs.x * weight + r.x, right_pairs.y * weight + r.y};
    left = first_left, right = first_right;
    for (int t = p.begin; t < p.end; ++t) {
        const long long at = p.base + static_cast<long long>(t) * channels;
        const float v = value[at], e = expf(key[at] - top), x = e * v;
        right = Sums{(right.x - x) * back, (right.y - e) * back};
        const float inverse = 1 / (left.y + right.y + p.bonus * e);
        const float a = upstream[at] * inverse, b = a * (left.x + right.x + p.bonus * x) * inverse;
        right_pairs = Sums{(right_pairs.x - a) * back, (right_pairs.y - b) * back};
        of_decay += left.x * right_pairs.x - left.y * right_pairs.y + right.x * left_pairs.x - right.y * left_pairs.y;
        const float sum_a = left_pairs.x + right_pairs.x + p.bonus * a;
        const float sum_b = left_pairs.y + right_pairs.y + p.bonus * b;
        key_gradient[at] = e * (v * sum_a - sum_b);
        value_gradient[at] = e * sum_a;
        left_pairs = Sums{left_pairs.x * p.factor + a, left_pairs.y * p.factor + b};
        left = Sums{left.x * p.factor + x, left.y * p.factor + e};
    }
    board[threadIdx.x] = Sums{-p.factor * of_decay, of_bonus};
    __syncthreads();
    if (p.part == 0 && p.inside) {
        Sums all{0, 0};
        for (int i = 0; i < PARTS; ++i) {
            const Sums s = board[i * WIDTH + threadIdx.x];
            all = Sums{all.x + s.x, all.y + s.y};
        }
        const int wide = (channels + WIDTH - 1) / WIDTH;
        float* to = parameter_gradients + static_cast<long long>(blockIdx.x / wide) * 2 * channels + p.channel;
        to[0] = all.x, to[channels] = all.y;
    }
}
