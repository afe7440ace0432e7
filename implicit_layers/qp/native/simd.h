// Scalars and lanes: the vector type, its helpers, and the register tile that builds a factor.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>

namespace {

constexpr int LANES = 4;
typedef double Vec __attribute__((vector_size(8 * LANES)));
typedef int64_t VecMask __attribute__((vector_size(8 * LANES)));

constexpr double INF = std::numeric_limits<double>::infinity();
constexpr double TINY = std::numeric_limits<double>::min();

// ---------------------------------------------------------------------------------------------- scalars and lanes

template <class S> struct Traits;
template <> struct Traits<double> {
    using Mask = bool;
    static constexpr int lanes = 1, width = LANES;  // width: matrix columns in one Vec
};
template <> struct Traits<Vec> {
    using Mask = VecMask;
    static constexpr int lanes = LANES, width = 1;
};

inline double select(bool m, double a, double b) { return m ? a : b; }
inline Vec select(VecMask m, Vec a, Vec b) { return m ? a : b; }
inline bool any(bool m) { return m; }
inline bool any(VecMask m) { return (m[0] | m[1] | m[2] | m[3]) != 0; }
inline double lane(double v, int) { return v; }
inline double lane(Vec v, int i) { return v[i]; }
inline bool lane(bool m, int) { return m; }
inline bool lane(VecMask m, int i) { return m[i] != 0; }
inline void set_lane(double &v, int, double a) { v = a; }
inline void set_lane(Vec &v, int i, double a) { v[i] = a; }
inline double root(double v) { return std::sqrt(v); }
inline Vec root(Vec v) {
    for (int i = 0; i < LANES; ++i) v[i] = std::sqrt(v[i]);
    return v;
}
template <class S> S splat(double v) { return S{} + v; }
template <class S> S max2(S a, S b) { return select(a > b, a, b); }
template <class S> S min2(S a, S b) { return select(a < b, a, b); }
template <class S> S abs2(S a) { return select(a < 0.0, -a, a); }
template <class S> S clip(S a, double low, double high) { return min2(max2(a, splat<S>(low)), splat<S>(high)); }
template <class S> typename Traits<S>::Mask finite(S a) { return abs2(a) < INF; }  // false for NaN

// ------------------------------------------------------------------------------------------------ vector kernels

template <class S> inline S dot(const S *a, const S *b, int from, int to) {
    S sum{};
    for (int j = from; j < to; ++j) sum += a[j] * b[j];
    return sum;
}
inline double dot(const double *a, const double *b, int from, int to) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int j = from; j < to; ++j) sum += a[j] * b[j];
    return sum;
}
template <class S> inline void axpy(S alpha, const S *a, S *b, int from, int to) {
    for (int j = from; j < to; ++j) b[j] += alpha * a[j];
}
inline void axpy(double alpha, const double *a, double *b, int from, int to) {
#pragma omp simd
    for (int j = from; j < to; ++j) b[j] += alpha * a[j];
}
template <class S> inline S largest(const S *a, int count) {
    S top{};
    for (int i = 0; i < count; ++i) top = max2(top, abs2(a[i]));
    return top;
}

inline Vec load(const double *a) {
    Vec v;
    std::memcpy(&v, a, sizeof v);
    return v;
}
inline Vec load(const Vec *a) { return *a; }
inline void store(double *a, Vec v) { std::memcpy(a, &v, sizeof v); }
inline void store(Vec *a, Vec v) { *a = v; }

// One tile of the upper factor before its diagonal block is factored: rows i .. i+ROWS, UNITS vectors from column j of
//   P + (WC)'C - U'U,   the last over the rows of U above i. Everything stays in registers.
template <int ROWS, int UNITS, class S>
void tile(const S *P, const S *WC, const S *C, const int *index, int used, S *U, int ld, int i, int j) {
    constexpr int W = Traits<S>::width;
    Vec sum[ROWS][UNITS];
    for (int r = 0; r < ROWS; ++r)
        for (int u = 0; u < UNITS; ++u) sum[r][u] = load(P + (size_t)(i + r) * ld + j + u * W);
    for (int row = 0; row < used; ++row) {
        const size_t at = (size_t)index[row] * ld;
        const S *a = WC + at + i, *b = C + at + j;
        Vec right[UNITS];
        for (int u = 0; u < UNITS; ++u) right[u] = load(b + u * W);
        for (int r = 0; r < ROWS; ++r)
            for (int u = 0; u < UNITS; ++u) sum[r][u] += a[r] * right[u];
    }
    for (int row = 0; row < i; ++row) {
        const S *a = U + (size_t)row * ld + i, *b = U + (size_t)row * ld + j;
        Vec right[UNITS];
        for (int u = 0; u < UNITS; ++u) right[u] = load(b + u * W);
        for (int r = 0; r < ROWS; ++r)
            for (int u = 0; u < UNITS; ++u) sum[r][u] -= a[r] * right[u];
    }
    for (int r = 0; r < ROWS; ++r)
        for (int u = 0; u < UNITS; ++u) store(U + (size_t)(i + r) * ld + j + u * W, sum[r][u]);
}

// Rows i .. i+ROWS of the factor before their diagonal block is factored, up to column `width` (a multiple of W).
template <int ROWS, class S>
void block_row(const S *P, const S *WC, const S *C, const int *index, int used, S *U, int ld, int i, int width) {
    constexpr int W = Traits<S>::width;
    int j = i - i % W;
    for (; j + 3 * W <= width; j += 3 * W) tile<ROWS, 3>(P, WC, C, index, used, U, ld, i, j);
    if (j + 2 * W <= width) tile<ROWS, 2>(P, WC, C, index, used, U, ld, i, j), j += 2 * W;
    if (j + W <= width) tile<ROWS, 1>(P, WC, C, index, used, U, ld, i, j);
}

// out = M x for rows of length n, four rows at a time so that their sums do not wait for each other.
inline void rows_times(const double *M, int count, int n, const double *x, double *out) {
    int i = 0;
    for (; i + 4 <= count; i += 4) {
        const double *a = M + (size_t)i * n, *b = a + n, *c = b + n, *d = c + n;
        Vec s0{}, s1{}, s2{}, s3{};
        int j = 0;
        for (; j + LANES <= n; j += LANES) {
            const Vec v = load(x + j);
            s0 += load(a + j) * v, s1 += load(b + j) * v, s2 += load(c + j) * v, s3 += load(d + j) * v;
        }
        double t0 = s0[0] + s0[1] + s0[2] + s0[3], t1 = s1[0] + s1[1] + s1[2] + s1[3];
        double t2 = s2[0] + s2[1] + s2[2] + s2[3], t3 = s3[0] + s3[1] + s3[2] + s3[3];
        for (; j < n; ++j) t0 += a[j] * x[j], t1 += b[j] * x[j], t2 += c[j] * x[j], t3 += d[j] * x[j];
        out[i] = t0, out[i + 1] = t1, out[i + 2] = t2, out[i + 3] = t3;
    }
    for (; i < count; ++i) out[i] = dot(M + (size_t)i * n, x, 0, n);
}

// Zeroed, aligned for vectors, freed with its owner. Of the exact size, so that a sanitizer sees every overrun.
template <class S> struct Array {
    static constexpr std::align_val_t ALIGNMENT{64};
    S *data = nullptr;
    ~Array() { ::operator delete(data, ALIGNMENT); }
    Array() = default;
    Array(const Array &) = delete;
    Array &operator=(const Array &) = delete;
    void make(size_t count) {
        reserve(count);
        std::memset(static_cast<void *>(data), 0, count * sizeof(S));
    }
    void reserve(size_t count) {  // with whatever the memory holds
        ::operator delete(data, ALIGNMENT);
        data = nullptr;
        data = static_cast<S *>(::operator new(count * sizeof(S), ALIGNMENT));
    }
    operator S *() const { return data; }  // as shallow as a pointer
};

}  // namespace
