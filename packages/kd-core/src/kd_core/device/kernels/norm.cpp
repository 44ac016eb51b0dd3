// Batch normalisation of a channels-last map in training, with a map added to it and an activation where they follow.
// Each pass reads the maps twice, once for the sums over rows and once for the result; all arithmetic is in float, sums
// of many numbers in double.
#include <cmath>
#include <numeric>
#include <type_traits>

namespace {

constexpr int64_t GROUP = 4, BLOCK = 128;

// A map of rows x channels in strips, each of one or more whole rows and of whole vectors.
struct Map {
    int64_t rows, channels, width, vectors, strips;
    Map(int64_t rows, int64_t channels) : rows(rows), channels(channels) {
        width = std::lcm(channels, LANES);
        if (width < GROUP * LANES) width = std::lcm(width, GROUP * LANES);  // enough sums at once to be added in turn
        vectors = width / LANES;
        strips = rows * channels / width;
    }
};
using Values = std::vector<float>;
Values repeat(const Map& m, const float* values) {
    Values all(m.width);
    for (int64_t j = 0; j < m.width; ++j) all[j] = values[j % m.channels];
    return all;
}

// body(begin, end, thread) for an equal part of the strips on each thread.
template <class Body> void share(const Map& m, Body body) {
#pragma omp parallel
    {
        const int64_t threads = omp_get_num_threads(), part = (m.strips + threads - 1) / threads;
        const int64_t begin = std::min(m.strips, part * omp_get_thread_num());
        body(begin, std::min(m.strips, begin + part), omp_get_thread_num());
    }
}

// Sums over rows, by channel, of two functions of a position: pair(i, j, a, b) adds to a and b.
template <int64_t N, class Pair>
void block_sums(const Map& m, int64_t begin, int64_t end, double* first, double* second, Pair pair) {
    for (int64_t j = 0; j < m.width; j += N * LANES) {
        Floats a[N] = {}, b[N] = {};
        for (int64_t i = begin; i < end; ++i)
            for (int64_t n = 0; n < N; ++n) pair(i * m.width + j + n * LANES, j + n * LANES, a[n], b[n]);
        for (int64_t n = 0; n < N * LANES; ++n) {
            first[(j + n) % m.channels] += a[n / LANES][n % LANES];
            second[(j + n) % m.channels] += b[n / LANES][n % LANES];
        }
    }
}
template <class Pair> void sums(const Map& m, std::vector<double>& first, std::vector<double>& second, Pair pair) {
    const int64_t threads = omp_get_max_threads(), c = m.channels;
    std::vector<double> partial(threads * 2 * c, 0.0);
    share(m, [&](int64_t begin, int64_t end, int64_t thread) {
        double* mine = partial.data() + thread * 2 * c;
        for (int64_t i = begin; i < end; i += BLOCK) {
            const int64_t stop = std::min(end, i + BLOCK);
            if (m.vectors % GROUP) block_sums<1>(m, i, stop, mine, mine + c, pair);
            else block_sums<GROUP>(m, i, stop, mine, mine + c, pair);
        }
    });
    for (int64_t t = 0; t < threads; ++t)
        for (int64_t j = 0; j < c; ++j) {
            first[j] += partial[t * 2 * c + j];
            second[j] += partial[t * 2 * c + c + j];
        }
}
template <class Body> void each(const Map& m, Body body) {
    share(m, [&](int64_t begin, int64_t end, int64_t) {
        for (int64_t i = begin; i < end; ++i)
            for (int64_t j = 0; j < m.width; j += LANES) body(i * m.width + j, j);
    });
}

enum Activation { NONE, RELU, RELU6, HARDSWISH };

template <Activation A> Floats activated(Floats v) {  // what is no number stays so
    if constexpr (A == RELU || A == RELU6) v = where(~(v < 0), v);
    if constexpr (A == RELU6) v = v > 6 ? Floats{} + 6 : v;
    if constexpr (A == HARDSWISH) {
        const Floats inner = v * (v + 3.0f) * (1.0f / 6);
        v = v >= 3 ? v : where(~(v <= -3), inner);
    }
    return v;
}
template <Activation A> Floats slope(Floats v, Floats gradient) {  // the gradient before an activation of v
    if constexpr (A == RELU) return where(~(v <= 0), gradient);
    if constexpr (A == RELU6) return where(~((v <= 0) | (v >= 6)), gradient);
    if constexpr (A == HARDSWISH) {
        const Floats inner = gradient * (v * (1.0f / 3) + 0.5f);
        return v >= 3 ? gradient : where(~(v <= -3), inner);
    }
    return gradient;
}

template <class T, Activation A, bool OTHER> struct Norm {
    Map m;
    const float* weight;

    void forward(const T* x, const T* other, T* out, const float* bias, float* mean, float* rstd, float* running_mean,
                 float* running_var, float momentum, float eps) const {
        const int64_t c = m.channels;
        std::vector<double> first(c), second(c);
        Values origin(c), scale(c), shift(c);
        for (int64_t j = 0; j < c; ++j) origin[j] = mean[j];
        Values about = repeat(m, origin.data());
        const float* o = about.data();
        sums(m, first, second, [=](int64_t i, int64_t j, Floats& a, Floats& b) {
            Floats v = load(x + i) - load(o + j);
            a += v;
            b += v * v;
        });
        for (int64_t j = 0; j < c; ++j) {
            double delta = first[j] / m.rows, variance = std::max(second[j] / m.rows - delta * delta, 0.0);
            mean[j] = float(origin[j] + delta);
            rstd[j] = float(1.0 / std::sqrt(variance + eps));
            scale[j] = weight[j] * rstd[j];
            shift[j] = bias[j] - mean[j] * scale[j];
            if (running_mean) {
                running_mean[j] += momentum * (mean[j] - running_mean[j]);
                running_var[j] += momentum * (float(variance * m.rows / (m.rows - 1)) - running_var[j]);
            }
        }
        Values scales = repeat(m, scale.data()), shifts = repeat(m, shift.data());
        const float *w = scales.data(), *b = shifts.data();
        each(m, [=](int64_t i, int64_t j) {
            Floats v = load(x + i) * load(w + j) + load(b + j);
            if constexpr (OTHER) v += load(other + i);
            store(out + i, activated<A>(v));
        });
    }

    void backward(const T* grad, const T* x, const T* out, T* dx, T* dother, const float* bias, const float* mean,
                  const float* rstd, float* dweight, float* dbias) const {
        const int64_t c = m.channels;
        std::vector<double> first(c), second(c);
        Values scale(c), shift(c);
        for (int64_t j = 0; j < c; ++j) scale[j] = weight[j] * rstd[j], shift[j] = bias[j] - mean[j] * scale[j];
        Values means = repeat(m, mean), scales = repeat(m, scale.data()), shifts = repeat(m, shift.data());
        const float *mu = means.data(), *w = scales.data(), *b0 = shifts.data();
        // the gradient before the activation; without a second map its input is cheaper to compute again than to read
        auto behind = [=](int64_t i, int64_t j) {
            const Floats g = load(grad + i);
            if constexpr (A == NONE) return g;
            else if constexpr (OTHER) return slope<A>(load(out + i), g);
            else return slope<A>(load(x + i) * load(w + j) + load(b0 + j), g);
        };
        sums(m, first, second, [=](int64_t i, int64_t j, Floats& a, Floats& b) {
            Floats g = behind(i, j);
            if constexpr (A != NONE && OTHER) store(dother + i, g);
            a += g;
            b += g * (load(x + i) - load(mu + j));
        });
        Values by_x(c), constant(c);
        for (int64_t j = 0; j < c; ++j) {
            dweight[j] = float(second[j] * rstd[j]);
            dbias[j] = float(first[j]);
            by_x[j] = float(-scale[j] * second[j] / m.rows * rstd[j] * rstd[j]);
            constant[j] = float(-scale[j] * first[j] / m.rows) - by_x[j] * mean[j];
        }
        Values xs = repeat(m, by_x.data()), ks = repeat(m, constant.data());
        const float *h = xs.data(), *k = ks.data();
        each(m, [=](int64_t i, int64_t j) {
            Floats v = A != NONE && OTHER ? load(dother + i) : behind(i, j);
            store(dx + i, v * load(w + j) + load(x + i) * load(h + j) + load(k + j));
        });
    }
};

// A sum is followed by a ReLU or nothing: what stands behind those can be told from the output.
template <class F> void dispatch(bool half, int activation, bool other, F f) {
    auto with = [&](auto type) {
        using T = decltype(type);
        if (other && activation == RELU) f((Norm<T, RELU, true>*)nullptr, type);
        else if (other) f((Norm<T, NONE, true>*)nullptr, type);
        else if (activation == RELU) f((Norm<T, RELU, false>*)nullptr, type);
        else if (activation == RELU6) f((Norm<T, RELU6, false>*)nullptr, type);
        else if (activation == HARDSWISH) f((Norm<T, HARDSWISH, false>*)nullptr, type);
        else f((Norm<T, NONE, false>*)nullptr, type);
    };
    if (half) with(Half{});
    else with(float{});
}

}  // namespace

// 1 if a map is a whole number of strips, which the others take for granted
extern "C" int norm_fits(int64_t rows, int64_t channels) {
    const Map m(rows, channels);
    return m.strips * m.width == rows * channels;
}

// mean holds a value of each channel, about which sums are taken; it and rstd are written
extern "C" void norm_forward(const void* x, const void* other, void* out, const float* weight, const float* bias,
                             float* mean, float* rstd, float* running_mean, float* running_var, int64_t rows,
                             int64_t channels, float momentum, float eps, int activation, int half) {
    dispatch(half, activation, other, [&](auto* kind, auto type) {
        using T = decltype(type);
        std::remove_pointer_t<decltype(kind)> norm{Map(rows, channels), weight};
        norm.forward((const T*)x, (const T*)other, (T*)out, bias, mean, rstd, running_mean, running_var, momentum, eps);
    });
}

// dother may be null, and is written only behind an activation
extern "C" void norm_backward(const void* grad, const void* x, const void* out, void* dx, void* dother,
                              const float* weight, const float* bias, const float* mean, const float* rstd,
                              float* dweight, float* dbias, int64_t rows, int64_t channels, int activation, int half) {
    dispatch(half, activation, dother, [&](auto* kind, auto type) {
        using T = decltype(type);
        std::remove_pointer_t<decltype(kind)> norm{Map(rows, channels), weight};
        norm.backward((const T*)grad, (const T*)x, (const T*)out, (T*)dx, (T*)dother, bias, mean, rstd, dweight, dbias);
    });
}
