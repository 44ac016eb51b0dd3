// The gradients of depthwise convolutions of channels-last maps in bfloat16. Of one image 16 channels at a time are
// widened to float, with the padding around them; all sums are in float.
namespace {

struct Geometry {
    int64_t images, channels, height, width, out_height, out_width, rows, columns;
    int64_t stride_y, stride_x, pad_y, pad_x, step_y, step_x;
};

template <int K> struct Task {
    const Geometry s;
    const int64_t high = s.height + 2 * s.pad_y, wide = s.width + 2 * s.pad_x, reach = (K - 1) * s.step_x;
    std::vector<Floats> x = std::vector<Floats>(high * wide), dx = x, line = std::vector<Floats>(s.out_width + 2 * reach);
    std::vector<Floats> sums = std::vector<Floats>(s.rows * K), weights = sums;

    void run(const Half* maps, const Half* grad, Half* by_maps, int64_t lanes) {
        const int64_t c = s.channels;
        for (int64_t h = 0; h < s.height; ++h)
            for (int64_t w = 0; w < s.width; ++w)
                x[(h + s.pad_y) * wide + w + s.pad_x] = load(maps + (h * s.width + w) * c, lanes);
        if (by_maps) std::fill(dx.begin(), dx.end(), Floats{});
        for (int64_t h = 0; h < s.out_height; ++h) {
            for (int64_t w = 0; w < s.out_width; ++w) line[reach + w] = load(grad + (h * s.out_width + w) * c, lanes);
            for (int64_t row = 0; row < s.rows; ++row) {
                const int64_t start = (h * s.stride_y + row * s.step_y) * wide;
                add_weights(&x[start], &sums[row * K]);
                if (by_maps && s.stride_x == 1) gather(&dx[start], &weights[row * K]);
                else if (by_maps) scatter(&dx[start], &weights[row * K]);
            }
        }
        if (by_maps)
            for (int64_t h = 0; h < s.height; ++h)
                for (int64_t w = 0; w < s.width; ++w)
                    store(by_maps + (h * s.width + w) * c, dx[(h + s.pad_y) * wide + w + s.pad_x], lanes);
    }
    void add_weights(const Floats* from, Floats* to) const {
        Floats sum[K] = {};
        for (int64_t w = 0; w < s.out_width; ++w)
            for (int k = 0; k < K; ++k) sum[k] += line[reach + w] * from[w * s.stride_x + k * s.step_x];
        for (int k = 0; k < K; ++k) to[k] += sum[k];
    }
    void gather(Floats* to, const Floats* weight) const {
        for (int64_t w = 0; w < s.out_width + reach; ++w) {
            Floats sum = to[w];
            for (int k = 0; k < K; ++k) sum += line[reach + w - k * s.step_x] * weight[k];
            to[w] = sum;
        }
    }
    void scatter(Floats* to, const Floats* weight) const {
        for (int64_t w = 0; w < s.out_width; ++w)
            for (int k = 0; k < K; ++k) to[w * s.stride_x + k * s.step_x] += line[reach + w] * weight[k];
    }
};

template <int K>
void gradients(const Half* maps, const Half* grad, const float* weight, Half* by_maps, float* by_weight,
               const Geometry& s) {
    const int64_t blocks = (s.channels + LANES - 1) / LANES, taps = s.rows * K, threads = omp_get_max_threads();
    std::vector<Floats> partial(threads * blocks * taps);
#pragma omp parallel
    {
        Task<K> task{s};
        Floats* mine = partial.data() + omp_get_thread_num() * blocks * taps;
#pragma omp for schedule(static)
        for (int64_t number = 0; number < s.images * blocks; ++number) {
            const int64_t n = number / blocks, block = number % blocks, c = block * LANES;
            const int64_t lanes = std::min(LANES, s.channels - c);
            for (int64_t k = 0; k < taps; ++k)
                for (int64_t j = 0; j < LANES; ++j) task.weights[k][j] = j < lanes ? weight[(c + j) * taps + k] : 0.f;
            std::fill(task.sums.begin(), task.sums.end(), Floats{});
            const int64_t size = s.height * s.width * s.channels, out = s.out_height * s.out_width * s.channels;
            task.run(maps + n * size + c, grad + n * out + c, by_maps ? by_maps + n * size + c : nullptr, lanes);
            for (int64_t k = 0; k < taps; ++k) mine[block * taps + k] += task.sums[k];
        }
    }
    for (int64_t c = 0; c < s.channels; ++c)
        for (int64_t k = 0; k < taps; ++k) {
            float sum = 0;
            for (int64_t t = 0; t < threads; ++t) sum += partial[(t * blocks + c / LANES) * taps + k][c % LANES];
            by_weight[c * taps + k] = sum;
        }
}

}  // namespace

// maps, by_maps (may be null): images x height x width x channels; weight, by_weight: channels x rows x columns (float).
// sizes are those of Geometry; its columns are 3, 5 or 7.
extern "C" void depthwise_gradients(const Half* maps, const Half* grad, const float* weight, Half* by_maps,
                                   float* by_weight, const int64_t* sizes) {
    Geometry s;
    std::memcpy(&s, sizes, sizeof s);
    if (s.columns == 3) gradients<3>(maps, grad, weight, by_maps, by_weight, s);
    else if (s.columns == 5) gradients<5>(maps, grad, weight, by_maps, by_weight, s);
    else gradients<7>(maps, grad, weight, by_maps, by_weight, s);
}
