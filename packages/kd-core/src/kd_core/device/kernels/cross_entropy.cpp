// Cross-entropy of a channels-last map of logits with a label for each pixel, and its gradient, each in one pass over
// the map. Arithmetic is in float, sums over pixels in double, by blocks of pixels: any number of threads gives the
// same.
#include <cmath>

namespace {

constexpr int64_t BLOCK = 1024;

inline float single(const float* place) { return *place; }
inline float single(const Half* place) { const uint32_t bits = (uint32_t)place->bits << 16; float v; std::memcpy(&v, &bits, 4); return v; }

template <class Body> void share(int64_t pixels, Body body) {
    const int64_t blocks = (pixels + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < blocks; ++block) body(block, block * BLOCK, std::min(pixels, (block + 1) * BLOCK));
}

// The mean over labelled pixels, 0 where none is; the logarithm of the sum of exponentials of each. Returns the number of
// labelled pixels, or -1 where a label is no class. The last vector of a row holds the beginning of the next one, too,
// except at the end of the map.
template <class T>
int64_t forward(const T* logits, const int64_t* labels, float* sums, float* mean, int64_t pixels, int64_t classes, int64_t none) {
    const int64_t blocks = (pixels + BLOCK - 1) / BLOCK, vectors = (classes + LANES - 1) / LANES;
    const int64_t lanes = classes - (vectors - 1) * LANES;
    std::vector<double> losses(blocks);
    std::vector<int64_t> counts(blocks), wrong(blocks, false);
    Ints inside;
    for (int64_t i = 0; i < LANES; ++i) inside[i] = i < lanes ? -1 : 0;
    share(pixels, [&](int64_t block, int64_t begin, int64_t end) {
        for (int64_t pixel = begin; pixel < end; ++pixel) {
            const int64_t label = labels[pixel];
            const T* row = logits + pixel * classes;
            if (label == none) continue;
            if (label < 0 || label >= classes) { wrong[block] = true; continue; }
            const T* place = row + (vectors - 1) * LANES;
            const Floats last = pixel < pixels - LANES ? load(place) : load(place, lanes);
            Floats most = inside ? last : Floats{} + MASKED, total = {};
            for (int64_t i = 0; i < vectors - 1; ++i) most = larger(load(row + i * LANES), most);
            const float top = largest(most);
            for (int64_t i = 0; i < vectors - 1; ++i) total += exponential(load(row + i * LANES) - top);
            total += where(inside, exponential(last - top));
            sums[pixel] = top + std::log(sum(total));
            losses[block] += sums[pixel] - single(row + label);
            counts[block] += 1;
        }
    });
    double loss = 0;
    int64_t count = 0;
    for (int64_t block = 0; block < blocks; ++block) {
        if (wrong[block]) return -1;
        loss += losses[block], count += counts[block];
    }
    *mean = count ? loss / count : 0;
    return count;
}

template <class T>
void backward(const T* logits, const int64_t* labels, const float* sums, T* out, int64_t pixels, int64_t classes, int64_t none, float factor) {
    Ints lane;
    for (int64_t i = 0; i < LANES; ++i) lane[i] = i;
    share(pixels, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t pixel = begin; pixel < end; ++pixel) {
            const T* row = logits + pixel * classes;
            T* by_row = out + pixel * classes;
            if (labels[pixel] == none) { std::fill(by_row, by_row + classes, T{}); continue; }
            const int64_t lanes = pixel < end - LANES ? LANES : 0;  // what is written too far is written again
            for (int64_t i = 0; i < classes; i += LANES) {
                const int64_t here = std::max(lanes, classes - i);
                const Floats own = where(lane == (int32_t)(labels[pixel] - i), Floats{} + 1.0f);
                store(by_row + i, (exponential(load(row + i, here) - sums[pixel]) - own) * factor, here);
            }
        }
    });
}

}  // namespace

extern "C" int64_t entropy_forward(
    const void* logits, const int64_t* labels, float* sums, float* mean, int64_t pixels, int64_t classes, int64_t none, int half) {
    if (half) return forward((const Half*)logits, labels, sums, mean, pixels, classes, none);
    return forward((const float*)logits, labels, sums, mean, pixels, classes, none);
}
extern "C" void entropy_backward(
    const void* logits, const int64_t* labels, const float* sums, void* out, int64_t pixels, int64_t classes, int64_t none,
    float factor, int half) {
    if (half) backward((const Half*)logits, labels, sums, (Half*)out, pixels, classes, none, factor);
    else backward((const float*)logits, labels, sums, (float*)out, pixels, classes, none, factor);
}
