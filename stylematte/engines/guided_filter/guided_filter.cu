// The fast guided filter as two kernels. The mathematics, the memory traffic and what was proven where: README.md.
//
//     He, Sun, "Fast Guided Filter", 2015, algorithm 2.
//
// No header is included, so NVRTC needs none. kernels.py sets the macros: FGF_RADIUS asks for the first kernel,
// FGF_GUIDE for the second. Kernel arguments come in TensorRT's order: inputs, integers, outputs.

struct Half {  // IEEE binary16, as stored; arithmetic is float everywhere
    unsigned short bits;
};

#ifndef FGF_HOST  // host_shim.h has these for a CPU
__device__ inline float widen(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ inline unsigned short narrow(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

__device__ inline float as_float(Half value) { return widen(value.bits); }
__device__ inline float as_float(float value) { return value; }
__device__ inline float as_float(unsigned char value) { return value; }
__device__ inline void put(Half &to, float value) { to.bits = narrow(value); }
__device__ inline void put(float &to, float value) { to = value; }
__device__ inline unsigned char to_byte(float alpha) { return (unsigned char)(255.0f * alpha + 0.5f); }
__device__ inline void put(unsigned char &to, float value) { to = to_byte(value); }

#ifdef FGF_RADIUS

// A block makes TILE × TILE pixels of A and b. Averaging A and b needs the windows of SIDE × SIDE pixels, and those
// need the row statistics of ROWS rows, SIDE of them a row. All of it lies in shared memory.
constexpr int RADIUS = FGF_RADIUS, TILE = FGF_TILE, THREADS = FGF_THREADS;
constexpr int SIDE = TILE + 2 * RADIUS;
constexpr int ROWS = TILE + 4 * RADIUS;
constexpr int PLANE = ROWS * SIDE;
constexpr int WINDOWS_A_THREAD = (SIDE * SIDE + THREADS - 1) / THREADS;
static_assert(4 * PLANE * sizeof(float) <= 48 * 1024, "more shared memory than a plain launch may have");
static_assert(2 * SIDE * (SIDE + TILE) <= 4 * PLANE, "A and b, then their row means, take the same memory");

// Windows are cut at the border and divided by what is left of them.
__device__ inline int window_first(int centre) { return max(centre - RADIUS, 0); }
__device__ inline int window_last(int centre, int size) { return min(centre + RADIUS, size - 1); }

// Mean of values[first * stride] … values[last * stride]. Sums run over differences from the first value, so a flat
// line has exactly its own value as mean.
__device__ inline float mean_of(const float *values, int stride, int first, int last) {
    float reference = values[first * stride], sum = 0.0f;
    for (int i = first + 1; i <= last; ++i) sum += values[i * stride] - reference;
    return reference + sum / (last - first + 1);
}

// Statistics of one stretch of a row: mean guide, mean logits, variance, covariance. Two passes, so nothing cancels.
// Guide values count from `origin`, a pixel of the tile: subtracting near values is exact (Sterbenz), so a bright
// flat area keeps as many digits as a dark one.
__device__ inline void row_statistics(
    const FGF_COARSE *guide, const FGF_COARSE *logits, float origin, int first, int last, float statistics[4]) {
    float first_guide = as_float(guide[first]) - origin, first_logits = as_float(logits[first]);
    float sum_guide = 0.0f, sum_logits = 0.0f, count = last - first + 1;
    for (int x = first + 1; x <= last; ++x) {
        sum_guide += as_float(guide[x]) - origin - first_guide;
        sum_logits += as_float(logits[x]) - first_logits;
    }
    float mean_guide = first_guide + sum_guide / count, mean_logits = first_logits + sum_logits / count;
    float variance = 0.0f, covariance = 0.0f;
    for (int x = first; x <= last; ++x) {
        float difference = as_float(guide[x]) - origin - mean_guide;
        variance += difference * difference;
        covariance += difference * (as_float(logits[x]) - mean_logits);
    }
    statistics[0] = mean_guide;
    statistics[1] = mean_logits;
    statistics[2] = variance / count;
    statistics[3] = covariance / count;
}

// The same four over a whole window, from its rows first … last. All rows of a window are equally long, cut or not,
// so the law of total variance needs no weights: variance = mean of the rows' variances + variance of their means.
// Only terms that are small where the window is flat are added: E[x²] − E[x]² is nowhere.
__device__ inline void window_statistics(const float *rows, int first, int last, float statistics[4]) {
    float mean_guide = mean_of(rows, SIDE, first, last);
    float mean_logits = mean_of(rows + PLANE, SIDE, first, last);
    float variance = 0.0f, covariance = 0.0f;
    for (int y = first; y <= last; ++y) {
        const float *row = rows + y * SIDE;
        float difference = row[0] - mean_guide;
        variance += row[2 * PLANE] + difference * difference;
        covariance += row[3 * PLANE] + difference * (row[PLANE] - mean_logits);
    }
    statistics[0] = mean_guide;
    statistics[1] = mean_logits;
    statistics[2] = variance / (last - first + 1);
    statistics[3] = covariance / (last - first + 1);
}

// guide, logits (N,1,h,w) → coefficients (N,2,h,w): A, then b, each averaged once more over the window.
// Grid: tiles across, tiles down, N. Block: THREADS.
extern "C" __global__ void __launch_bounds__(THREADS) fgf_coefficients(
    const FGF_COARSE *__restrict__ guide, const FGF_COARSE *__restrict__ logits, int h, int w,
    FGF_COEFFICIENTS *__restrict__ coefficients) {
    __shared__ float shared[4 * PLANE];
    const int thread = threadIdx.x, top = blockIdx.y * TILE, left = blockIdx.x * TILE;
    const size_t plane = (size_t)h * w;
    guide += blockIdx.z * plane;
    logits += blockIdx.z * plane;
    coefficients += 2 * blockIdx.z * plane;
    const float origin = as_float(guide[(size_t)top * w + left]);

    // Row statistics, four planes of ROWS × SIDE. The coarse planes are small and their rows short: the L1 cache
    // serves the repeated reads. Pixels outside the picture are skipped here, and no window below reaches them.
    for (int item = thread; item < PLANE; item += THREADS) {
        int y = top - 2 * RADIUS + item / SIDE, x = left - RADIUS + item % SIDE;
        if (y < 0 || y >= h || x < 0 || x >= w) continue;
        float statistics[4];
        row_statistics(guide + (size_t)y * w, logits + (size_t)y * w, origin, window_first(x), window_last(x, w),
                       statistics);
        for (int i = 0; i < 4; ++i) shared[i * PLANE + item] = statistics[i];
    }
    __syncthreads();

    // A and b of every window wait in registers until all have read the statistics that they overwrite.
    float a[WINDOWS_A_THREAD], b[WINDOWS_A_THREAD];
#pragma unroll
    for (int i = 0; i < WINDOWS_A_THREAD; ++i) {
        int item = thread + i * THREADS;
        int y = top - RADIUS + item / SIDE, x = left - RADIUS + item % SIDE;
        if (item >= SIDE * SIDE || y < 0 || y >= h || x < 0 || x >= w) continue;
        float statistics[4];
        int above = top - 2 * RADIUS;  // the row of the picture that is the first of the statistics
        window_statistics(shared + item % SIDE, window_first(y) - above, window_last(y, h) - above, statistics);
        a[i] = statistics[3] / (statistics[2] + FGF_EPS);
        b[i] = statistics[1] - a[i] * (origin + statistics[0]);
    }
    __syncthreads();
    float *const window_a = shared, *const window_b = shared + SIDE * SIDE;
#pragma unroll
    for (int i = 0; i < WINDOWS_A_THREAD; ++i) {
        int item = thread + i * THREADS;
        if (item >= SIDE * SIDE) continue;
        window_a[item] = a[i];
        window_b[item] = b[i];
    }
    __syncthreads();

    // Their mean over the window: along the rows, then down the columns.
    float *const row_a = window_b + SIDE * SIDE, *const row_b = row_a + SIDE * TILE;
    for (int item = thread; item < SIDE * TILE; item += THREADS) {
        int row = item / TILE, y = top - RADIUS + row, x = left + item % TILE;
        if (y < 0 || y >= h || x >= w) continue;
        int first = window_first(x) - (left - RADIUS), last = window_last(x, w) - (left - RADIUS);
        row_a[item] = mean_of(window_a + row * SIDE, 1, first, last);
        row_b[item] = mean_of(window_b + row * SIDE, 1, first, last);
    }
    __syncthreads();
    for (int item = thread; item < TILE * TILE; item += THREADS) {
        int y = top + item / TILE, x = left + item % TILE;
        if (y >= h || x >= w) continue;
        int first = window_first(y) - (top - RADIUS), last = window_last(y, h) - (top - RADIUS);
        size_t pixel = (size_t)y * w + x;
        put(coefficients[pixel], mean_of(row_a + item % TILE, TILE, first, last));
        put(coefficients[plane + pixel], mean_of(row_b + item % TILE, TILE, first, last));
    }
}

#endif  // FGF_RADIUS

#ifdef FGF_GUIDE

// Four neighbours in one memory access: 16 bytes of float, 8 of Half, 4 of unsigned char.
template <class T>
struct alignas(4 * sizeof(T)) Four {
    T values[4];
};

// An address need not be a multiple of four values: a row of an odd width, a picture inside a batch. Then each is
// read by itself, and the cache joins them.
template <class T>
__device__ inline void load_four(const T *from, float to[4]) {
    if ((size_t)from % sizeof(Four<T>) == 0) {
        Four<T> four = *(const Four<T> *)from;
        for (int k = 0; k < 4; ++k) to[k] = as_float(four.values[k]);
    } else {
        for (int k = 0; k < 4; ++k) to[k] = as_float(from[k]);
    }
}

// `to` is a multiple of four values. CUDA's own vector types, because the compiler takes a store of Four apart.
__device__ inline void put_four(float *to, const float v[4]) { *(float4 *)to = float4{v[0], v[1], v[2], v[3]}; }
__device__ inline void put_four(Half *to, const float v[4]) {
    *(ushort4 *)to = ushort4{narrow(v[0]), narrow(v[1]), narrow(v[2]), narrow(v[3])};
}
__device__ inline void put_four(unsigned char *to, const float v[4]) {
    *(uchar4 *)to = uchar4{to_byte(v[0]), to_byte(v[1]), to_byte(v[2]), to_byte(v[3])};
}

// The guide of a picture: grey (1,H,W), planar RGB (3,H,W) or interleaved RGB (H,W,3). `pixel` counts from the
// picture's first; `plane` is H · W.
#if FGF_LAYOUT == FGF_GREY
constexpr int CHANNELS = 1;
__device__ inline float grey_at(const FGF_GUIDE *guide, size_t, size_t pixel) { return as_float(guide[pixel]); }
__device__ inline void grey_of_four(const FGF_GUIDE *guide, size_t, size_t pixel, float grey[4]) {
    load_four(guide + pixel, grey);
}
#else
constexpr int CHANNELS = 3;
__device__ inline float to_grey(float red, float green, float blue) {
    return FGF_RED * red + FGF_GREEN * green + FGF_BLUE * blue + FGF_OFFSET;
}
#if FGF_LAYOUT == FGF_PLANAR
__device__ inline float grey_at(const FGF_GUIDE *guide, size_t plane, size_t pixel) {
    guide += pixel;
    return to_grey(as_float(guide[0]), as_float(guide[plane]), as_float(guide[2 * plane]));
}
__device__ inline void grey_of_four(const FGF_GUIDE *guide, size_t plane, size_t pixel, float grey[4]) {
    float red[4], green[4], blue[4];
    load_four(guide + pixel, red);
    load_four(guide + plane + pixel, green);
    load_four(guide + 2 * plane + pixel, blue);
    for (int k = 0; k < 4; ++k) grey[k] = to_grey(red[k], green[k], blue[k]);
}
#else
__device__ inline float grey_at(const FGF_GUIDE *guide, size_t, size_t pixel) {
    guide += 3 * pixel;
    return to_grey(as_float(guide[0]), as_float(guide[1]), as_float(guide[2]));
}
__device__ inline void grey_of_four(const FGF_GUIDE *guide, size_t, size_t pixel, float grey[4]) {
    float colours[12];
    for (int part = 0; part < 3; ++part) load_four(guide + 3 * pixel + 4 * part, colours + 4 * part);
    for (int k = 0; k < 4; ++k) grey[k] = to_grey(colours[3 * k], colours[3 * k + 1], colours[3 * k + 2]);
}
#endif
#endif

struct alignas(8) Model {
    float a, b;
};

__device__ inline Model operator-(Model x, Model y) { return {x.a - y.a, x.b - y.b}; }
__device__ inline Model plus_times(Model x, float factor, Model y) { return {x.a + factor * y.a, x.b + factor * y.b}; }

// An axis of `coarse` and `fine` pixels with the corners aligned: fine pixel i lies at i · (coarse − 1) / (fine − 1).
// Quotient and remainder of integers are exact; in float, a position near 200 would be off by 1e-5 of a pixel, and
// A changes by hundreds from pixel to pixel at an edge. Sides are below 2^16, so products fit, and a quotient by
// way of float is off by one at most.
struct Axis {
    unsigned rise, steps;  // coarse − 1; fine − 1, at least 1
    float step;

    __device__ inline Axis(int coarse, int fine)
        : rise(coarse - 1), steps(max(fine - 1, 1)), step(__fdividef(1.0f, (float)steps)) {}

    // The coarse pixel before fine pixel `index`; `remainder` is the distance from it, in steps of 1 / (fine − 1).
    __device__ inline int cell_of(int index, int &remainder) const {
        unsigned scaled = index * rise;
        int cell = (int)((float)scaled * step);
        remainder = (int)(scaled - cell * steps);
        if (remainder < 0) --cell, remainder += steps;
        if (remainder >= (int)steps) ++cell, remainder -= steps;
        return cell;
    }
};

// Two coarse rows, and how far between them a fine row lies.
struct Rows {
    const FGF_COEFFICIENTS *above, *below;
    size_t plane;  // from A to b
    float fraction;
    int last;  // column

    __device__ inline Rows(const FGF_COEFFICIENTS *picture, int h, int w, int y, int H) {
        const Axis axis(h, H);
        int remainder, cell = axis.cell_of(y, remainder);
        above = picture + (size_t)cell * w;
        below = picture + (size_t)min(cell + 1, h - 1) * w;
        plane = (size_t)h * w;
        fraction = remainder * axis.step;
        last = w - 1;
    }

    __device__ inline Model at(int column) const {
        column = min(column, last);
        Model upper = {as_float(above[column]), as_float(above[plane + column])};
        Model lower = {as_float(below[column]), as_float(below[plane + column])};
        return plus_times(upper, fraction, lower - upper);
    }
};

// e^-x overflows to infinity where alpha is 0, and 1 / infinity is right.
__device__ inline float alpha_of(Model model, float grey) {
    return __fdividef(1.0f, 1.0f + __expf(-(model.a * grey + model.b)));
}

// A block makes ROWS_A_BLOCK rows of SPAN pixels, a warp each. Enlarged three times or more, those lie between at most
// SPAN / 3 + 4 coarse columns; the warp interpolates these down to its row once, into a line of LINE columns
// that is indexed by the last bits of the column. So the work on full-size pixels is along the line alone, and
// what a thread prepares serves SPAN / 32 pixels.
constexpr int LANES = 32, ROWS_A_BLOCK = FGF_THREADS / LANES, SPAN = FGF_SPAN, LINE = 256;
static_assert((SPAN + 3) / 3 + 4 <= LINE, "two columns would share a place");

// coefficients (N,2,h,w), guide (see above) → alpha (N,1,H,W) = sigmoid(A↑ · grey + b↑). Each pixel of the guide is
// read once, each of alpha written once, up to 512 bytes on end by a warp; the coefficients come from the caches.
// Grid: spans across, groups of ROWS_A_BLOCK rows down, N. Block: LANES × ROWS_A_BLOCK.
extern "C" __global__ void __launch_bounds__(FGF_THREADS) fgf_apply(
    const FGF_COEFFICIENTS *__restrict__ coefficients, const FGF_GUIDE *__restrict__ guide, int h, int w, int H,
    int W, FGF_ALPHA *__restrict__ alpha) {
    __shared__ Model lines[ROWS_A_BLOCK][LINE];
    Model *const line = lines[threadIdx.y];
    const int y = blockIdx.y * ROWS_A_BLOCK + threadIdx.y, left = blockIdx.x * SPAN;
    const size_t plane = (size_t)H * W, row = (size_t)y * W;
    guide += blockIdx.z * CHANNELS * plane;
    alpha += blockIdx.z * plane;
    const Rows rows(coefficients + 2 * blockIdx.z * ((size_t)h * w), h, w, min(y, H - 1), H);
    const Axis across(w, W);

    const bool enlarged = 3 * across.rise <= across.steps;
    int remainder;
    if (enlarged) {
        const unsigned first = across.cell_of(min(max(left - 3, 0), W - 1), remainder);
        const unsigned count = (unsigned)((SPAN + 3) * across.rise * across.step) + 4;
#pragma unroll 1
        for (unsigned i = threadIdx.x; i < count; i += LANES) line[(first + i) % LINE] = rows.at(first + i);
    }
    __syncthreads();
    if (y >= H) return;

    // Groups of four begin where a store of four is aligned, whatever the width: the first may begin left of the row.
    // (With an int, NVRTC 13.0 takes the store below apart; a test looks for it in the PTX.)
    const size_t shift = (size_t)(alpha + row) / sizeof(FGF_ALPHA) % 4;
#pragma unroll 1
    for (int group = threadIdx.x; group < SPAN / 4; group += LANES) {
        const int x = (int)(left + 4 * group - shift);
        if (enlarged && x >= 0 && x + 4 <= W) {
            // Four neighbours lie between three columns. `along` runs from the first of these, 0 … 2.
            const unsigned first = across.cell_of(x, remainder);
            const Model start = line[first % LINE], middle = line[(first + 1) % LINE];
            const Model rise = middle - start, next_rise = line[(first + 2) % LINE] - middle;
            float values[4];  // of grey, then of alpha
            grey_of_four(guide, plane, row + x, values);
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                float along = (float)(remainder + k * (int)across.rise) * across.step;
                Model model = plus_times(start, fminf(along, 1.0f), rise);
                model = plus_times(model, fmaxf(along - 1.0f, 0.0f), next_rise);
                values[k] = alpha_of(model, values[k]);
            }
            put_four(alpha + row + x, values);
            continue;
        }
        // Ends of rows, and guides hardly enlarged.
#pragma unroll 1
        for (int column = max(x, 0); column < min(x + 4, W); ++column) {
            const int cell = across.cell_of(column, remainder);
            const Model start = rows.at(cell);
            Model model = plus_times(start, remainder * across.step, rows.at(cell + 1) - start);
            put(alpha[row + column], alpha_of(model, grey_at(guide, plane, row + column)));
        }
    }
}

#endif  // FGF_GUIDE
