// The gradient of the weights of 3 x 3 convolutions (stride and padding 1) of channels-last maps in bfloat16, with AMX.
// It is a product of matrices whose long side are the pixels: of the gradients, transposed, and of the images, shifted
// for each of the nine taps. With zeros between the rows of the images a shift is a distance in memory.
#include <immintrin.h>
#include <array>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr int64_t CACHE = 768 << 10;

struct alignas(64) Tiles {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
};

// 16 pairs of pixels x 16 channels -> 16 channels x 16 pairs, all as 32-bit words
inline void transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; ++k) {
            r[i + 2 * k] = _mm512_unpacklo_epi64(t[i + k], t[i + k + 2]);
            r[i + 2 * k + 1] = _mm512_unpackhi_epi64(t[i + k], t[i + k + 2]);
        }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

inline __m512i words(const uint16_t* place) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)place)); }
inline __m512i pair(__m512i low, __m512i high) { return _mm512_or_si512(low, _mm512_slli_epi32(high, 16)); }

// Images on one line of positions, with zeros between their rows: the gradient of pixel (h, w) of image n is at
// n area + h line + w, and what its nine taps meet is h' line + w' further on, h' and w' from 0 to 2.
struct Work {
    int64_t images, height, width, in, out, line, area;
    Work(int64_t images, int64_t height, int64_t width, int64_t in, int64_t out)
        : images(images), height(height), width(width), in(in), out(out) {
        line = (width + 2) / 2 * 2;
        area = (height + 1) * line;
    }
};

// The gradients' columns: out x length.
void columns(const Work& s, const uint16_t* g, uint16_t* to, int64_t count, int64_t length) {
    const __m512i zero = _mm512_setzero_si512();
    for (int64_t n = 0; n < count; ++n)
        for (int64_t h = 0; h < s.height; ++h)
            for (int64_t w = 0; w < s.width; w += 32) {
                const int64_t pixels = std::min<int64_t>(32, s.width - w);
                const __mmask32 mask = pixels == 32 ? 0xffffffffu : (1u << pixels) - 1;
                const uint16_t* from = g + ((n * s.height + h) * s.width + w) * s.out;
                uint16_t* place = to + n * s.area + h * s.line + w;
                for (int64_t c = 0; c < s.out; c += 16) {
                    __m512i r[16];
                    for (int64_t p = 0; p < 16; ++p)
                        r[p] = pair(2 * p < pixels ? words(from + 2 * p * s.out + c) : zero,
                                    2 * p + 1 < pixels ? words(from + (2 * p + 1) * s.out + c) : zero);
                    transpose(r);
                    for (int64_t j = 0; j < 16; ++j) _mm512_mask_storeu_epi16(place + (c + j) * length, mask, r[j]);
                }
            }
}

// The images in pairs of positions, length / 2 x in x 2: (0, 1), (2, 3), ... and (1, 2), (3, 4), ...
void pairs(const Work& s, const uint16_t* x, uint16_t* even, uint16_t* odd, int64_t count) {
    const __m512i zero = _mm512_setzero_si512();
    for (int64_t n = 0; n < count; ++n)
        for (int64_t h = 0; h < s.height; ++h)
            for (int64_t c = 0; c < s.in; c += 16) {
                const uint16_t* from = x + (n * s.height + h) * s.width * s.in + c;
                const int64_t start = (n * s.area + (h + 1) * s.line) * s.in + 2 * c;
                __m512i before = zero;
                for (int64_t w = 0; w <= s.width; w += 2) {
                    const __m512i low = w < s.width ? words(from + w * s.in) : zero;
                    const __m512i high = w + 1 < s.width ? words(from + (w + 1) * s.in) : zero;
                    _mm512_store_si512(even + start + w * s.in, pair(before, low));
                    if (w < s.width) _mm512_store_si512(odd + start + w * s.in, pair(low, high));
                    before = high;
                }
            }
}

// sums: 9 x out x in, added to. STEPS times 32 positions stay in a near cache for all nine taps.
constexpr int64_t STEPS = 16;

void multiply_wide(const Work& s, const uint16_t* g, const uint16_t* even, const uint16_t* odd, int64_t length,
                   int64_t steps, float* sums) {
    const int64_t row = s.in * 4;
    for (int64_t k0 = 0; k0 < steps; k0 += STEPS)
        for (int64_t o = 0; o < s.out; o += 32)
            for (int64_t i = 0; i < s.in; i += 32)
                for (int64_t tap = 0; tap < 9; ++tap) {
                    const uint16_t* a = g + o * length;
                    const uint16_t* b = (tap % 3 == 1 ? odd : even) + (tap / 3 * s.line + tap % 3 / 2 * 2) * s.in + 2 * i;
                    float* sum = sums + (tap * s.out + o) * s.in + i;
                    _tile_loadd(0, sum, row);
                    _tile_loadd(1, sum + 16, row);
                    _tile_loadd(2, sum + 16 * s.in, row);
                    _tile_loadd(3, sum + 16 * s.in + 16, row);
                    for (int64_t k = k0; k < std::min(steps, k0 + STEPS); ++k) {
                        _tile_loadd(4, a + 32 * k, length * 2);
                        _tile_loadd(6, b + 32 * k * s.in, row);
                        _tile_dpbf16ps(0, 4, 6);
                        _tile_loadd(7, b + 32 * k * s.in + 32, row);
                        _tile_dpbf16ps(1, 4, 7);
                        _tile_loadd(5, a + 16 * length + 32 * k, length * 2);
                        _tile_dpbf16ps(2, 5, 6);
                        _tile_dpbf16ps(3, 5, 7);
                    }
                    _tile_stored(0, sum, row);
                    _tile_stored(1, sum + 16, row);
                    _tile_stored(2, sum + 16 * s.in, row);
                    _tile_stored(3, sum + 16 * s.in + 16, row);
                }
}

void multiply_narrow(const Work& s, const uint16_t* g, const uint16_t* even, const uint16_t* odd, int64_t length,
                     int64_t steps, float* sums) {
    const int64_t row = s.in * 4, far = s.in * s.out;
    for (int64_t k0 = 0; k0 < steps; k0 += STEPS / 2)
        for (int64_t o = 0; o < s.out; o += 16)
            for (int64_t i = 0; i < s.in; i += 16)
                for (int64_t down = 0; down < 3; ++down) {
                    const int64_t shift = down * s.line * s.in + 2 * i;
                    const uint16_t *a = g + o * length, *b = even + shift, *c = odd + shift;
                    float* sum = sums + (3 * down * s.out + o) * s.in + i;
                    _tile_loadd(0, sum, row);
                    _tile_loadd(1, sum + far, row);
                    _tile_loadd(2, sum + 2 * far, row);
                    for (int64_t k = k0; k < std::min(steps, k0 + STEPS / 2); ++k) {
                        _tile_loadd(3, a + 32 * k, length * 2);
                        _tile_loadd(4, b + 32 * k * s.in, row);
                        _tile_dpbf16ps(0, 3, 4);
                        _tile_loadd(5, c + 32 * k * s.in, row);
                        _tile_dpbf16ps(1, 3, 5);
                        _tile_loadd(6, b + (32 * k + 2) * s.in, row);
                        _tile_dpbf16ps(2, 3, 6);
                    }
                    _tile_stored(0, sum, row);
                    _tile_stored(1, sum + far, row);
                    _tile_stored(2, sum + 2 * far, row);
                }
}

}  // namespace

// 1 if the system lets this process use the tiles.
extern "C" int allow_tiles() {
    constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

// weight: out x in x 3 x 3 (float); x, grad: images x height x width x channels (bfloat16), channels multiples of 16.
extern "C" void weight_gradient(const uint16_t* x, const uint16_t* grad, float* weight, int64_t images, int64_t height,
                                int64_t width, int64_t in, int64_t out) {
    const Work s(images, height, width, in, out);
    const int64_t chunk = std::max<int64_t>(1, CACHE / (s.area * (2 * in + out) * 2));
    const int64_t most = omp_get_max_threads(), cells = 9 * in * out;
    std::vector<float> partial(most * cells, 0.f);
#pragma omp parallel
    {
        const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
        const int64_t part = (images + threads - 1) / threads;
        const int64_t first = std::min(images, part * thread), last = std::min(images, first + part);
        const int64_t size = std::min(chunk, std::max<int64_t>(1, last - first));
        const int64_t length = (size * s.area + 31) / 32 * 32, met = (length + 3 * s.line) * in;
        static thread_local std::vector<uint16_t> memory;
        static thread_local std::array<int64_t, 5> shape;  // of the call before: its zeros are where this one's are
        const std::array<int64_t, 5> now{size, height, width, in, out};
        if (shape != now) memory.assign(out * length + 2 * met + 128, 0);
        shape = now;
        uint16_t* gradients = (uint16_t*)(((uintptr_t)memory.data() + 63) / 64 * 64);
        uint16_t *even = gradients + out * length, *odd = even + met / 32 * 32 + 32;
        Tiles before, tiles;
        _tile_storeconfig(&before);
        for (int t = 0; t < 8; ++t) tiles.bytes[t] = 64, tiles.rows[t] = 16;
        _tile_loadconfig(&tiles);
        for (int64_t n = first; n < last; n += size) {
            const int64_t count = std::min(size, last - n), steps = (count * s.area + 31) / 32;
            if (count < size) std::fill(gradients, odd + met, 0);
            columns(s, grad + n * height * width * out, gradients, count, length);
            pairs(s, x + n * height * width * in, even, odd, count);
            float* sums = partial.data() + thread * cells;
            if (in % 32 == 0 && out % 32 == 0) multiply_wide(s, gradients, even, odd, length, steps, sums);
            else multiply_narrow(s, gradients, even, odd, length, steps, sums);
        }
        _tile_loadconfig(&before);
    }
#pragma omp parallel for
    for (int64_t o = 0; o < out; ++o)
        for (int64_t tap = 0; tap < 9; ++tap)
            for (int64_t i = 0; i < in; ++i) {
                float sum = 0;
                for (int64_t t = 0; t < most; ++t) sum += partial[t * cells + (tap * out + o) * in + i];
                weight[(o * in + i) * 9 + tap] = sum;
            }
}
