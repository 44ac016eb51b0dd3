// Dropout, by itself and of the weights of an attention. Which numbers are kept is a function of the seed and the place
// alone: the gradient draws the same numbers once more, so nothing is remembered, and any number of threads gives the
// same. They come from xoshiro128++ (Blackman and Vigna, 2021), 16 generators side by side, begun by SplitMix64 for
// every block of numbers.

namespace {

constexpr int64_t BLOCK = 1024;
typedef uint8_t Bytes __attribute__((vector_size(16)));

uint64_t mixed(uint64_t& state) {  // SplitMix64
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

struct Rate {
    uint64_t seed;
    uint32_t dropped;  // of 2^32 equally likely numbers
    float scale;       // of what is kept
};

// What is kept, vector by vector, of one block.
class Kept {
    Words a, b, c, d;
    const Rate rate;

public:
    Kept(const Rate& rate, int64_t block) : rate(rate) {
        uint64_t state = rate.seed;
        state = mixed(state) ^ (uint64_t)block;
        for (int64_t lane = 0; lane < LANES; ++lane) {
            const uint64_t first = mixed(state), second = mixed(state);
            a[lane] = first, b[lane] = first >> 32, c[lane] = second, d[lane] = second >> 32;
        }
    }
    Floats of(Floats v) {
        const auto turned = [](Words word, int by) { return (word << by) | (word >> (32 - by)); };
        const Words drawn = turned(a + d, 7) + a, shifted = b << 9;
        c ^= a, d ^= b, b ^= c, a ^= d, c ^= shifted;
        d = turned(d, 11);
        return where(drawn >= rate.dropped, v * rate.scale);
    }
};

template <class T> void drop(const T* in, T* out, int64_t count, const Rate& rate) {
    const int64_t blocks = (count + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) if (blocks > 8)
    for (int64_t block = 0; block < blocks; ++block) {
        Kept kept(rate, block);
        const int64_t end = std::min(count, (block + 1) * BLOCK);
        for (int64_t i = block * BLOCK; i < end; i += LANES) store(out + i, kept.of(load(in + i, end - i)), end - i);
    }
}

// Scores (groups, rows, columns), a group for each sequence and head; steps between sequences, heads and rows of a mask.
struct Scores {
    int64_t sequences, heads, rows, columns, by_sequence, by_head, by_row;
};

template <class Body> void share(const Scores& s, Body body) {
#pragma omp parallel
    {
        std::vector<Floats> line((s.columns + LANES - 1) / LANES);
#pragma omp for schedule(static)
        for (int64_t group = 0; group < s.sequences * s.heads; ++group) body(group, line.data());
    }
}

template <class T>
void softmax(const T* scores, const uint8_t* mask, T* weights, T* out, const Scores& s, float scale, const Rate& rate) {
    uint8_t all[LANES];
    std::fill(all, all + LANES, 1);
    const int64_t step = mask ? LANES : 0;
    share(s, [&](int64_t group, Floats* line) {
        Kept kept(rate, group);
        for (int64_t row = 0; row < s.rows; ++row) {
            const int64_t begin = (group * s.rows + row) * s.columns, wide = (s.columns + LANES - 1) / LANES;
            const int64_t place = group / s.heads * s.by_sequence + group % s.heads * s.by_head + row * s.by_row;
            const uint8_t* seen = mask ? mask + place : all;
            Floats most = Floats{} + MASKED, total = {};
            for (int64_t i = 0; i < wide; ++i) {
                const int64_t lanes = std::min(LANES, s.columns - i * LANES);
                Bytes visible = {};
                if (lanes == LANES) std::memcpy(&visible, seen + i * step, LANES);
                else std::memcpy(&visible, seen + i * step, lanes);
                const Floats value = load(scores + begin + i * LANES, lanes) * scale;
                line[i] = __builtin_convertvector(visible, Ints) != 0 ? value : Floats{} + MASKED;
                most = larger(line[i], most);
            }
            const float top = largest(most);
            for (int64_t i = 0; i < wide; ++i) total += line[i] = exponential(line[i] - top);
            const float share = top > MASKED ? 1 / sum(total) : 0;  // a row that sees nothing has no weights
            for (int64_t i = 0; i < wide; ++i) {
                const int64_t place = begin + i * LANES, lanes = s.columns - i * LANES;
                const Floats value = line[i] * share;
                if (weights) store(weights + place, value, lanes);
                store(out + place, kept.of(value), lanes);
            }
        }
    });
}

template <class T>
void softmax_gradient(const T* gradient, const T* weights, T* out, const Scores& s, float scale, const Rate& rate) {
    share(s, [&](int64_t group, Floats* line) {
        Kept kept(rate, group);
        for (int64_t row = 0; row < s.rows; ++row) {
            const int64_t begin = (group * s.rows + row) * s.columns, wide = (s.columns + LANES - 1) / LANES;
            Floats products = {};
            for (int64_t i = 0; i < wide; ++i) {
                const int64_t place = begin + i * LANES, lanes = s.columns - i * LANES;
                line[i] = kept.of(load(gradient + place, lanes));
                products += line[i] * load(weights + place, lanes);
            }
            const float mean = sum(products);
            for (int64_t i = 0; i < wide; ++i) {
                const int64_t place = begin + i * LANES, lanes = s.columns - i * LANES;
                store(out + place, load(weights + place, lanes) * (line[i] - mean) * scale, lanes);
            }
        }
    });
}

}  // namespace

extern "C" void dropout(const void* in, void* out, int64_t count, uint64_t seed, uint32_t dropped, float scale, int half) {
    const Rate rate{seed, dropped, scale};
    if (half) drop((const Half*)in, (Half*)out, count, rate);
    else drop((const float*)in, (float*)out, count, rate);
}
extern "C" void softmax_forward(
    const void* scores, const uint8_t* mask, void* weights, void* out, const int64_t* sizes, float factor,
    uint64_t seed, uint32_t dropped, float scale, int half) {
    Scores s;
    std::memcpy(&s, sizes, sizeof s);
    const Rate rate{seed, dropped, scale};
    if (half) softmax((const Half*)scores, mask, (Half*)weights, (Half*)out, s, factor, rate);
    else softmax((const float*)scores, mask, (float*)weights, (float*)out, s, factor, rate);
}
extern "C" void softmax_backward(
    const void* gradient, const void* weights, void* out, const int64_t* sizes, float factor,
    uint64_t seed, uint32_t dropped, float scale, int half) {
    Scores s;
    std::memcpy(&s, sizes, sizeof s);
    const Rate rate{seed, dropped, scale};
    if (half) softmax_gradient((const Half*)gradient, (const Half*)weights, (Half*)out, s, factor, rate);
    else softmax_gradient((const float*)gradient, (const float*)weights, (float*)out, s, factor, rate);
}
