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
inline Halves narrowed(Floats v) {  // to nearest, ties to even
    Words bits = (Words)v;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(bits, Halves);
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

}  // namespace
