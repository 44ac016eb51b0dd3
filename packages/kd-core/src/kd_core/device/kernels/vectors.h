// Vectors of 16 numbers, of which memory holds float or bfloat16 (Half), by the vector types of GCC and Clang. This
// text stands before that of each kernel.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>
#include <omp.h>

namespace {

constexpr int64_t LANES = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
struct Half { uint16_t bits; };

inline Floats widened(Halves h) { return (Floats)(__builtin_convertvector(h, Words) << 16); }
inline Halves narrowed(Floats v) {  // to nearest, ties to even; what is no number stays so, whatever its other bits
    const Words bits = (Words)v, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Ints number = (bits & 0x7fffffffu) <= 0x7f800000u;
    return __builtin_convertvector(number ? rounded : (bits >> 16) | 0x40u, Halves);
}

inline Floats load(const float* place) { Floats v; std::memcpy(&v, place, sizeof v); return v; }
inline Floats load(const Half* place) { Halves h; std::memcpy(&h, place, sizeof h); return widened(h); }
inline void store(float* place, Floats v) { std::memcpy(place, &v, sizeof v); }
inline void store(Half* place, Floats v) { const Halves h = narrowed(v); std::memcpy(place, &h, sizeof h); }

// The first numbers of a vector, where fewer are left; the others are zero.
template <class T> inline Floats load(const T* place, int64_t lanes) {
    if (lanes >= LANES) return load(place);
    T values[LANES] = {};
    std::memcpy(values, place, lanes * sizeof(T));
    return load(values);
}
template <class T> inline void store(T* place, Floats v, int64_t lanes) {
    if (lanes >= LANES) return store(place, v);
    T values[LANES];
    store(values, v);
    std::memcpy(place, values, lanes * sizeof(T));
}

inline Floats where(Ints mask, Floats v) { return (Floats)(mask & (Ints)v); }

// exp(x) of x <= 0, to about one unit in the last place; 0 below -87. What is no number stays so. The compiler may take
// it that there is none and no infinity either, so both are told by their bits.
constexpr float LOWEST = -87, MASKED = -3.402823466e38f;
inline Floats exponential(Floats x) {
    const Ints n = __builtin_convertvector(x * 1.44269504f - 0.5f, Ints);
    const Floats whole = __builtin_convertvector(n, Floats);
    const Floats rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats power = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    const Words bits = (Words)x;
    const Floats lowest = Floats{} + LOWEST;
    return where((bits <= (Words)lowest) | (bits > 0xff800000u), (Floats)((Ints)power + (n << 23)));
}
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
typedef float Eight __attribute__((vector_size(32)));
typedef float Four __attribute__((vector_size(16)));
template <class Pair> inline float folded(Floats v, Pair pair) {  // of all lanes, by halves
    Eight eights[2];
    std::memcpy(eights, &v, sizeof v);
    const Eight eight = pair(eights[0], eights[1]);
    Four fours[2];
    std::memcpy(fours, &eight, sizeof eight);
    const Four four = pair(fours[0], fours[1]);
    return pair(pair(four[0], four[2]), pair(four[1], four[3]));
}
inline float largest(Floats v) { return folded(v, [](auto a, auto b) { return a > b ? a : b; }); }
inline float sum(Floats v) { return folded(v, [](auto a, auto b) { return a + b; }); }

}  // namespace
