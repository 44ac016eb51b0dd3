// Losses of channels-last maps of logits, and their gradients, each in one pass over the maps: the cross-entropy with a
// label for each pixel, and the divergence of softened outputs from a teacher's. Arithmetic is in float, sums over
// pixels in double, by blocks of pixels: any number of threads gives the same.
#include <cmath>

namespace {

constexpr int64_t BLOCK = 1024;

inline float single(const float* place) { return *place; }
inline float single(const Half* place) { return load(place, 1)[0]; }

// body(block, pixel) for each pixel.
template <class Body> void share(int64_t pixels, Body body) {
    const int64_t blocks = (pixels + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < blocks; ++block)
        for (int64_t pixel = block * BLOCK; pixel < std::min(pixels, (block + 1) * BLOCK); ++pixel) body(block, pixel);
}

struct LogSum { float top, more; };

template <class T> struct Map {
    const T* const logits;
    const int64_t pixels, classes, vectors, lanes;
    const float factor;
    Ints inside;

    Map(const void* logits, int64_t pixels, int64_t classes, float factor)
        : logits((const T*)logits), pixels(pixels), classes(classes), vectors((classes + LANES - 1) / LANES),
          lanes(classes - (vectors - 1) * LANES), factor(factor) {
        for (int64_t i = 0; i < LANES; ++i) inside[i] = i < lanes ? -1 : 0;
    }
    // A vector of a pixel's logits. What memory holds behind the last class is the next pixel, except at the map's end.
    Floats at(int64_t pixel, int64_t i) const {
        const T* place = logits + pixel * classes + i * LANES;
        if (i < vectors - 1) return load(place) * factor;
        const Floats values = pixel < pixels - LANES ? load(place) : load(place, lanes);
        return inside ? values * factor : Floats{} + MASKED;
    }
    // The logarithm of the sum of exponentials, in two parts: the largest logit, and what is to be added to it.
    LogSum log_sum(int64_t pixel) const {
        Floats most = Floats{} + MASKED, total = {};
        for (int64_t i = 0; i < vectors; ++i) most = larger(at(pixel, i), most);
        const float top = largest(most);
        for (int64_t i = 0; i < vectors - 1; ++i) total += exponential(at(pixel, i) - top);
        total += where(inside, exponential(at(pixel, vectors - 1) - top));
        return {top, std::log(sum(total))};
    }
    Floats log_share(int64_t pixel, int64_t i, LogSum all) const { return at(pixel, i) - all.top - all.more; }
    // Write values(i) for each vector of a pixel; what goes too far is the next pixel's, which follows in this block.
    template <class Values> void write(void* out, int64_t pixel, Values values) const {
        T* place = (T*)out + pixel * classes;
        const bool far = (pixel + LANES) / BLOCK == pixel / BLOCK && pixel + LANES < pixels;
        for (int64_t i = 0; i < vectors - 1; ++i) store(place + i * LANES, values(i));
        store(place + (vectors - 1) * LANES, values(vectors - 1), far ? LANES : lanes);
    }
    void clear(void* out, int64_t pixel) const {
        T* place = (T*)out + pixel * classes;
        std::fill(place, place + classes, T{});
    }
};

// Sums of pixels by block, and their mean.
struct Sums {
    std::vector<double> totals;
    std::vector<int64_t> counts;
    explicit Sums(int64_t pixels) : totals((pixels + BLOCK - 1) / BLOCK), counts(totals.size()) {}
    void add(int64_t block, double value) { totals[block] += value, ++counts[block]; }
    int64_t mean(float* out) const {
        double total = 0;
        int64_t count = 0;
        for (size_t block = 0; block < totals.size(); ++block) total += totals[block], count += counts[block];
        *out = count ? total / count : 0;
        return count;
    }
};

// The mean over labelled pixels; returns their number, or -1 where a label is no class.
template <class T>
int64_t entropy(const Map<T>& map, const int64_t* labels, int64_t none, LogSum* log_sums, float* mean) {
    Sums sums(map.pixels);
    std::vector<int64_t> wrong(sums.totals.size());
    share(map.pixels, [&](int64_t block, int64_t pixel) {
        const int64_t label = labels[pixel];
        if (label == none) return;
        if (label < 0 || label >= map.classes) { wrong[block] = 1; return; }
        const LogSum all = log_sums[pixel] = map.log_sum(pixel);
        sums.add(block, all.more + (all.top - single(map.logits + pixel * map.classes + label)));
    });
    const int64_t count = sums.mean(mean);
    return std::find(wrong.begin(), wrong.end(), 1) == wrong.end() ? count : -1;
}

template <class T>
void entropy_gradient(const Map<T>& map, const int64_t* labels, int64_t none, const LogSum* log_sums, void* out, float factor) {
    Ints lane;
    for (int64_t i = 0; i < LANES; ++i) lane[i] = i;
    share(map.pixels, [&](int64_t, int64_t pixel) {
        if (labels[pixel] == none) return map.clear(out, pixel);
        map.write(out, pixel, [&](int64_t i) {
            const Floats own = where(lane == (int32_t)(labels[pixel] - i * LANES), Floats{} + 1.0f);
            return (exponential(map.log_share(pixel, i, log_sums[pixel])) - own) * factor;
        });
    });
}

// The mean over the pixels that count, all without a mask, of the sum over classes of p log(p / q), of which 0 log 0 is 0;
// the student's logarithms of sums, then the teacher's. Returns the number of pixels.
template <class T>
int64_t divergence(const Map<T>& student, const Map<T>& teacher, const uint8_t* counts, LogSum* log_sums, float* mean) {
    Sums sums(student.pixels);
    share(student.pixels, [&](int64_t block, int64_t pixel) {
        if (counts && !counts[pixel]) return;
        const LogSum own = log_sums[pixel] = student.log_sum(pixel);
        const LogSum theirs = log_sums[student.pixels + pixel] = teacher.log_sum(pixel);
        Floats total = {};
        for (int64_t i = 0; i < student.vectors; ++i) {
            const Floats log_p = teacher.log_share(pixel, i, theirs), p = exponential(log_p);
            const Ints counted = (Words)p != 0;
            const Floats parts = p * (log_p - student.log_share(pixel, i, own));
            total += where(i < student.vectors - 1 ? counted : counted & student.inside, parts);
        }
        sums.add(block, sum(total));
    });
    return sums.mean(mean);
}

template <class T>
void divergence_gradient(
    const Map<T>& student, const Map<T>& teacher, const uint8_t* counts, const LogSum* log_sums, void* out, float factor) {
    share(student.pixels, [&](int64_t, int64_t pixel) {
        if (counts && !counts[pixel]) return student.clear(out, pixel);
        student.write(out, pixel, [&](int64_t i) {
            const Floats q = exponential(student.log_share(pixel, i, log_sums[pixel]));
            return (q - exponential(teacher.log_share(pixel, i, log_sums[student.pixels + pixel]))) * factor;
        });
    });
}

}  // namespace

extern "C" int64_t entropy_forward(
    const void* logits, const int64_t* labels, LogSum* log_sums, float* mean, int64_t pixels, int64_t classes, int half,
    int64_t none) {
    if (half) return entropy(Map<Half>(logits, pixels, classes, 1), labels, none, log_sums, mean);
    return entropy(Map<float>(logits, pixels, classes, 1), labels, none, log_sums, mean);
}
extern "C" void entropy_backward(
    const void* logits, const int64_t* labels, const LogSum* log_sums, void* out, int64_t pixels, int64_t classes, int half,
    int64_t none, float factor) {
    if (half) entropy_gradient(Map<Half>(logits, pixels, classes, 1), labels, none, log_sums, out, factor);
    else entropy_gradient(Map<float>(logits, pixels, classes, 1), labels, none, log_sums, out, factor);
}
extern "C" int64_t divergence_forward(
    const void* student, const void* teacher, const uint8_t* counts, LogSum* log_sums, float* mean, int64_t pixels,
    int64_t classes, int half, float softening) {
    const auto run = [&](auto s, auto t) { return divergence(s, t, counts, log_sums, mean); };
    if (half) return run(Map<Half>(student, pixels, classes, softening), Map<Half>(teacher, pixels, classes, softening));
    return run(Map<float>(student, pixels, classes, softening), Map<float>(teacher, pixels, classes, softening));
}
extern "C" void divergence_backward(
    const void* student, const void* teacher, const uint8_t* counts, const LogSum* log_sums, void* out, int64_t pixels,
    int64_t classes, int half, float softening, float factor) {
    const auto run = [&](auto s, auto t) { divergence_gradient(s, t, counts, log_sums, out, factor); };
    if (half) run(Map<Half>(student, pixels, classes, softening), Map<Half>(teacher, pixels, classes, softening));
    else run(Map<float>(student, pixels, classes, softening), Map<float>(teacher, pixels, classes, softening));
}
