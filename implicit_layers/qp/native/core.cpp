// The interior point solver of interior_point.py and the linear solve of gradients.py, for one CPU core at a time.
//
// One template covers two layouts. S is the type of one matrix entry:
//   S = double     one problem at a time, vectors run along the rows of a matrix      (large problems)
//   S = Vec        four problems at once, one per SIMD lane, every operation masked   (small problems)
// The names and the order of operations follow the Python files; read those for the mathematics. Problems never
// exchange numbers, so an element's answer does not depend on its neighbours.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <thread>
#include <vector>

namespace {

constexpr int LANES = 4;
typedef double Vec __attribute__((vector_size(8 * LANES)));
typedef int64_t VecMask __attribute__((vector_size(8 * LANES)));

constexpr double INF = std::numeric_limits<double>::infinity();
constexpr double TINY = std::numeric_limits<double>::min();

// Constants of the Python files; tests/test_native.py holds them together.
constexpr int SWEEPS = 4, POLISH_TRIES = 4, POLISH_STEPS = 10, STALL = 15, REFINEMENTS = 5;
constexpr double RHO = 1e-8, DELTA = 1e-8, CERTIFICATE = 1e-8, SUSPECT = 1e-4, RUNAWAY = 1e-6, ROUND_OFF = 1e-10, CURVATURE = 1e-6, WEAK = 1e-9, SINGULAR = 1e-7;
constexpr double PRODUCT = 1e-16, ASYMMETRY = 1e-5, WARM = 1e-5, SETTLED = 1e-11, NEGLIGIBLE = 1e-15, FAR = 1e6, TINY_ROW = 2e-12;

enum Status { SOLVED, MAX_ITER, PRIMAL_INFEASIBLE, DUAL_INFEASIBLE, NUMERICAL_ERROR, INVALID_INPUT };

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
template <> inline double dot<double>(const double *a, const double *b, int from, int to) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int j = from; j < to; ++j) sum += a[j] * b[j];
    return sum;
}
template <class S> inline void axpy(S alpha, const S *a, S *b, int from, int to) {
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

template <int ROWS, class S>
void block_row(const S *P, const S *WC, const S *C, const int *index, int used, S *U, int ld, int i) {
    constexpr int W = Traits<S>::width;
    int j = i - i % W;
    for (; j + 3 * W <= ld; j += 3 * W) tile<ROWS, 3>(P, WC, C, index, used, U, ld, i, j);
    if (j + 2 * W <= ld) tile<ROWS, 2>(P, WC, C, index, used, U, ld, i, j), j += 2 * W;
    if (j + W <= ld) tile<ROWS, 1>(P, WC, C, index, used, U, ld, i, j);
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
        data = static_cast<S *>(::operator new(count * sizeof(S), ALIGNMENT));
        std::memset(static_cast<void *>(data), 0, count * sizeof(S));
    }
    operator S *() { return data; }
};

// ---------------------------------------------------------------------------------------------------- one program

// Sizes and scaled data of one problem (or of LANES of them), and the linear algebra that solver and adjoint share.
template <class S> struct Program {
    using Mask = typename Traits<S>::Mask;
    int n, m, p, k, total, ld;
    bool upper, lower;
    Array<S> P, q, C, d, present, inequality;  // scaled; present and inequality hold 0 or 1
    Array<S> D, E, unit_dual, unit_primal;
    S kappa, unit_gap;  // cost factor k and 1/k
    Array<S> WC, U, diagonal, inverse, scratch_n, scratch_total;
    Array<int> used_rows;

    Program(int n_, int m_, int p_, bool upper_, bool lower_)
        : n(n_), m(m_), p(p_), k(m_ + p_), total(m_ + p_ + n_ * (int(upper_) + int(lower_))), upper(upper_),
          lower(lower_) {
        constexpr int W = Traits<S>::width;
        ld = (n + W - 1) / W * W;
        P.make((size_t)n * ld), C.make((size_t)k * ld), WC.make((size_t)k * ld), U.make((size_t)n * ld), used_rows.make(k);
        for (Array<S> *v : {&q, &D, &unit_dual, &diagonal, &inverse, &scratch_n}) v->make(ld);
        for (Array<S> *v : {&d, &present, &inequality, &E, &unit_primal, &scratch_total}) v->make(total);
    }

    void apply(const S *x, S *out) const {  // R x
        for (int i = 0; i < k; ++i) out[i] = dot(C.data + (size_t)i * ld, x, 0, n);
        S *rest = out + k;
        if (upper) {
            for (int j = 0; j < n; ++j) rest[j] = x[j];
            rest += n;
        }
        if (lower)
            for (int j = 0; j < n; ++j) rest[j] = -x[j];
    }

    void transpose(const S *v, S *out) const {  // R'v
        const S *rest = v + k;
        for (int j = 0; j < n; ++j) out[j] = upper ? rest[j] : S{};
        if (lower) {
            if (upper) rest += n;
            for (int j = 0; j < n; ++j) out[j] -= rest[j];
        }
        for (int i = 0; i < k; ++i) axpy(v[i], C.data + (size_t)i * ld, out, 0, n);
    }

    void times_P(const S *x, S *out) const {
        for (int i = 0; i < n; ++i) out[i] = dot(P.data + (size_t)i * ld, x, 0, n);
    }

    // Factor H = P + rho I + R' diag(w) R = U'U row block by row block; where it breaks down, lift rho once.
    Mask factorise(const S *w, S rho) {
        Mask ok = factor_once(w, rho);
        if (!any(Mask(!ok))) return ok;
        S top{};
        for (int j = 0; j < n; ++j) top = max2(top, P[(size_t)j * ld + j] + rho + diagonal_of(w, j));
        return factor_once(w, select(ok, rho, rho + 1e-14 * top));
    }

    void solve(S *r) const {  // r <- H⁻¹ r
        for (int i = 0; i < n; ++i) {
            r[i] *= inverse.data[i];
            axpy(S(-r[i]), U.data + (size_t)i * ld, r, i + 1, n);
        }
        for (int i = n - 1; i >= 0; --i) r[i] = (r[i] - dot(U.data + (size_t)i * ld, r, i + 1, n)) * inverse.data[i];
    }

    // Equilibrate [P C'; C 0], then the cost; with_cost tells whether q counts.
    void equilibrate(bool with_cost) {
        for (int j = 0; j < n; ++j) D[j] = splat<S>(1.0);
        for (int i = 0; i < k; ++i) E[i] = splat<S>(1.0);
        S *column = scratch_n, *row = scratch_total, *kept = unit_primal;
        // Rows of round-off size say nothing, and scaling would blow them up: they stay as they are.
        S top_row{};
        for (int i = 0; i < k; ++i) kept[i] = largest(C.data + (size_t)i * ld, n), top_row = max2(top_row, kept[i]);
        for (int i = 0; i < k; ++i) kept[i] = select(kept[i] > NEGLIGIBLE * top_row, splat<S>(1.0), S{});
        for (int sweep = 0; sweep < SWEEPS; ++sweep) {
            for (int j = 0; j < n; ++j) {
                S top{};
                for (int l = 0; l < n; ++l) top = max2(top, abs2(P[(size_t)j * ld + l]) * D[j] * D[l]);
                column[j] = top;
            }
            for (int i = 0; i < k; ++i) {
                S top{};
                const S *c = C.data + (size_t)i * ld;
                for (int j = 0; j < n; ++j) {
                    const S entry = abs2(c[j]) * E[i] * D[j] * kept[i];
                    top = max2(top, entry), column[j] = max2(column[j], entry);
                }
                row[i] = top;
            }
            for (int j = 0; j < n; ++j) D[j] /= root(select(column[j] > 0.0, column[j], splat<S>(1.0)));
            for (int i = 0; i < k; ++i) E[i] /= root(select(row[i] > 0.0, row[i], splat<S>(1.0)));
        }
        S top{};
        for (int j = 0; j < n; ++j)
            for (int l = 0; l < n; ++l) top = max2(top, abs2(P[(size_t)j * ld + l]) * D[j] * D[l]);
        if (with_cost)
            for (int j = 0; j < n; ++j) top = max2(top, 1e-4 * abs2(q[j] * D[j]));
        kappa = 1.0 / select(top > 0.0, top, splat<S>(1.0));
        unit_gap = 1.0 / kappa;
        S *rest = E + k;
        for (int side = 0; side < int(upper) + int(lower); ++side, rest += n)
            for (int j = 0; j < n; ++j) rest[j] = 1.0 / D[j];
    }

    // Scale P and C in place; factor is the cost factor (k for the program and for the linear system alike).
    void scale_matrices(S factor) {
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) {
                S &entry = P[(size_t)i * ld + j];  // in this order: the product of the factors alone may overflow
                entry = entry * (factor * D[i]) * D[j];
            }
        for (int i = 0; i < k; ++i)
            for (int j = 0; j < n; ++j) {
                S &entry = C[(size_t)i * ld + j];
                entry = entry * E[i] * D[j] * present[i];
            }
    }

    Mask factor_once(const S *w, S rho) {
        int used = 0;  // rows without weight in any lane are left out: in a polish, the inactive ones
        for (int i = 0; i < k; ++i) {
            if (!any(w[i] != 0.0)) continue;
            const S *c = C.data + (size_t)i * ld;
            S *out = WC.data + (size_t)i * ld;
            for (int j = 0; j < n; ++j) out[j] = w[i] * c[j];
            used_rows[used++] = i;
        }
        Mask ok = splat<S>(0.0) == splat<S>(0.0);
        const S *rest = w + k;
        for (int j = 0; j < n; ++j) {
            diagonal[j] = rho;
            for (int side = 0; side < int(upper) + int(lower); ++side) diagonal[j] += rest[side * n + j];
        }
        for (int i = 0; i < n; i += 4) {
            const int rows = n - i < 4 ? n - i : 4;
            switch (rows) {
            case 4: block_row<4>(P.data, WC.data, C.data, used_rows.data, used, U.data, ld, i); break;
            case 3: block_row<3>(P.data, WC.data, C.data, used_rows.data, used, U.data, ld, i); break;
            case 2: block_row<2>(P.data, WC.data, C.data, used_rows.data, used, U.data, ld, i); break;
            default: block_row<1>(P.data, WC.data, C.data, used_rows.data, used, U.data, ld, i);
            }
            for (int r = i; r < i + rows; ++r) {
                S *row = U.data + (size_t)r * ld;
                for (int above = i; above < r; ++above)
                    axpy(S(-U.data[(size_t)above * ld + r]), U.data + (size_t)above * ld, row, r, n);
                const S pivot = row[r] + diagonal[r];
                const Mask good = pivot > 0.0;
                ok = ok & good;
                inverse[r] = 1.0 / root(select(good, pivot, splat<S>(1.0)));
                row[r] = pivot;
                for (int j = r; j < n; ++j) row[j] *= inverse[r];
            }
        }
        return ok;
    }

  private:
    S diagonal_of(const S *w, int j) const {
        S sum{};
        for (int i = 0; i < k; ++i) sum += w[i] * C.data[(size_t)i * ld + j] * C.data[(size_t)i * ld + j];
        const S *rest = w + k;
        for (int side = 0; side < int(upper) + int(lower); ++side) sum += rest[side * n + j];
        return sum;
    }
};

// -------------------------------------------------------------------------------------------------------- solver

template <class S> struct Solver {
    using Mask = typename Traits<S>::Mask;
    Program<S> &g;
    const double eps_abs, eps_rel;
    const int max_iter;
    Array<S> x, s, lam, best_x, best_s, best_lam, Px, Rx, Rl, rd, rp;
    Array<S> w, dx, ds, dlam, t, rhs, active, previous, guess, flipped, px, ps, plam, slack, old_x, old_Px, old_Rx;
    Array<double> code;
    S best, polished, status, iterations, stalled, tries, tried[POLISH_TRIES], rho;
    S primal, dual, gap, score;

    Solver(Program<S> &program, double eps_abs_, double eps_rel_, int max_iter_)
        : g(program), eps_abs(eps_abs_), eps_rel(eps_rel_), max_iter(max_iter_) {
        for (Array<S> *v : {&x, &best_x, &Px, &Rl, &rd, &dx, &rhs, &px, &old_x, &old_Px}) v->make(g.ld);
        for (Array<S> *v : {&s, &lam, &best_s, &best_lam, &Rx, &rp, &w, &ds, &dlam, &t, &active, &previous, &guess,
                            &flipped, &ps, &plam, &slack, &old_Rx})
            v->make(g.total);
        code.make(g.total);
        for (int i = 0; i < g.total; ++i) code[i] = row_code(i + 1);
    }

    static S number(Mask m) { return select(m, splat<S>(1.0), S{}); }
    static Mask never() { return splat<S>(0.0) > splat<S>(0.0); }

    // Score of an iterate and its residual vectors (in Px, Rx, Rl, rd, rp).
    void residuals(const S *x_, const S *s_, const S *lam_) {
        g.times_P(x_, Px), g.apply(x_, Rx), g.transpose(lam_, Rl);
        S xPx{}, qx{}, dl{}, check{};
        S top[2][7] = {};  // in the caller's units and in scaled ones: dual, its terms (3), primal, its terms (2)
        for (int j = 0; j < g.n; ++j) {
            rd[j] = Px[j] + g.q[j] + Rl[j];
            xPx += x_[j] * Px[j], qx += x_[j] * g.q[j], check += abs2(rd[j]);
            const S terms[4] = {abs2(rd[j]), abs2(Px[j]), abs2(g.q[j]), abs2(Rl[j])};
            for (int i = 0; i < 4; ++i) {
                top[0][i] = max2(top[0][i], terms[i] * g.unit_dual[j]);
                top[1][i] = max2(top[1][i], terms[i]);
            }
        }
        for (int i = 0; i < g.total; ++i) {
            Rx[i] *= g.present[i];
            rp[i] = Rx[i] + s_[i] - g.d[i];
            dl += g.d[i] * lam_[i], check += abs2(rp[i]);
            const S terms[3] = {abs2(rp[i]), abs2(Rx[i]), abs2(g.d[i])};
            for (int l = 0; l < 3; ++l) {
                top[0][4 + l] = max2(top[0][4 + l], terms[l] * g.unit_primal[i]);
                top[1][4 + l] = max2(top[1][4 + l], terms[l]);
            }
        }
        const S difference = abs2(S(xPx + qx + dl)), size = max2(max2(abs2(xPx), abs2(qx)), abs2(dl));
        score = S{};
        S ratios{};  // their sum: NaN (0/0, inf/inf) where one is, which max2 would lose
        for (int unit = 0; unit < 2; ++unit) {
            const S *v = top[unit], scale = unit ? splat<S>(1.0) : g.unit_gap;
            const S ratio[3] = {v[0] / (eps_abs + eps_rel * max2(max2(v[1], v[2]), v[3])),
                                v[4] / (eps_abs + eps_rel * max2(v[5], v[6])),
                                difference * scale / (eps_abs + eps_rel * size * scale)};
            for (const S &one : ratio) score = max2(score, one), ratios += one;
        }
        primal = top[0][4], dual = top[0][0], gap = difference * g.unit_gap;
        score = select(finite(check) & finite(difference) & finite(ratios), score, splat<S>(INF));
    }

    void start() {
        best = splat<S>(INF), polished = S{}, status = splat<S>(MAX_ITER), iterations = S{};
        stalled = tries = S{};
        for (S &key : tried) key = splat<S>(-1.0);
        for (int i = 0; i < g.total; ++i) old_Rx[i] = S{};
        for (int j = 0; j < g.n; ++j) old_x[j] = old_Px[j] = S{};
        for (int i = 0; i < g.total; ++i) previous[i] = best_s[i] = best_lam[i] = S{};
        for (int j = 0; j < g.n; ++j) best_x[j] = S{};  // nothing of the group before, should nothing be found
    }

    void initial_point() {
        rho = splat<S>(1e-8);
        g.factorise(g.present, rho);
        for (int i = 0; i < g.total; ++i) t[i] = g.d[i] * g.present[i];
        g.transpose(t, x);
        for (int j = 0; j < g.n; ++j) x[j] -= g.q[j];
        g.solve(x);
        if (!g.total) return;
        g.apply(x, Rx);
        S low_s = splat<S>(INF), low_z = splat<S>(INF);
        for (int i = 0; i < g.total; ++i) {
            lam[i] = Rx[i] * g.present[i] - g.d[i], s[i] = -lam[i];
            const Mask row = g.inequality[i] > 0.0;
            low_s = min2(low_s, select(row, s[i], splat<S>(INF)));
            low_z = min2(low_z, select(row, lam[i], splat<S>(INF)));
        }
        const S up_s = max2(S(-1.5 * low_s), S{}), up_z = max2(S(-1.5 * low_z), S{});
        S product{}, sum_s{}, sum_z{};
        for (int i = 0; i < g.total; ++i) {
            const Mask row = g.inequality[i] > 0.0;
            const S a = s[i] + select(row, up_s, S{}), b = lam[i] + select(row, up_z, S{});
            product += a * b * g.inequality[i], sum_s += a * g.inequality[i], sum_z += b * g.inequality[i];
        }
        const S more_s = 0.5 * product / max2(sum_z, splat<S>(TINY));
        const S more_z = 0.5 * product / max2(sum_s, splat<S>(TINY));
        for (int i = 0; i < g.total; ++i) {
            const Mask row = g.inequality[i] > 0.0;
            const S free = select(g.present[i] > 0.0, lam[i], S{});
            s[i] = select(row, max2(S(s[i] + up_s + more_s), splat<S>(1e-2)), S{});
            lam[i] = select(row, max2(S(lam[i] + up_z + more_z), splat<S>(1e-2)), free);
        }
    }

    // dx, ds, dlam for the complementarity target t, with the factor in g.
    void direction() {
        for (int i = 0; i < g.total; ++i) slack[i] = w[i] * (rp[i] - t[i]);
        g.transpose(slack, dx);
        for (int j = 0; j < g.n; ++j) dx[j] = -(dx[j] + rd[j]);
        g.solve(dx);
        g.apply(dx, dlam);
        for (int i = 0; i < g.total; ++i) {
            dlam[i] = w[i] * (dlam[i] + rp[i] - t[i]);
            const Mask row = g.inequality[i] > 0.0;
            const S c = select(row, s[i] / select(row, lam[i], splat<S>(1.0)), S{});
            ds[i] = select(row, -t[i] - c * dlam[i], S{});
        }
    }

    S to_boundary(const S *v, const S *dv, double longest) const {
        S step = splat<S>(longest);
        for (int i = 0; i < g.total; ++i) {
            const Mask falling = (g.inequality.data[i] > 0.0) & (dv[i] < 0.0);
            step = min2(step, select(falling, -v[i] / select(falling, dv[i], splat<S>(-1.0)), splat<S>(longest)));
        }
        return step;
    }

    void newton_step() {  // residuals() of the iterate came before
        const S delta = PRODUCT / rho;
        S count{}, mu{};
        for (int i = 0; i < g.total; ++i) {
            const Mask row = g.inequality[i] > 0.0;
            const S c = select(row, s[i] / select(row, lam[i], splat<S>(1.0)), S{});
            w[i] = g.present[i] / (c + delta);
            count += g.inequality[i], mu += s[i] * lam[i] * g.inequality[i];
            t[i] = select(row, s[i], S{});
        }
        count = max2(count, splat<S>(1.0)), mu /= count;
        g.factorise(w, rho);
        direction();
        const S ap = to_boundary(s, ds, 1.0), ad = to_boundary(lam, dlam, 1.0);
        S mu_affine{};
        for (int i = 0; i < g.total; ++i)
            mu_affine += (s[i] + ap * ds[i]) * (lam[i] + ad * dlam[i]) * g.inequality[i];
        mu_affine /= count;
        const S ratio = min2(S(mu_affine / max2(mu, splat<S>(TINY))), splat<S>(1.0));
        const S target = ratio * ratio * ratio * mu;
        for (int i = 0; i < g.total; ++i) {
            const Mask row = g.inequality[i] > 0.0;
            const S safe = select(row, lam[i], splat<S>(1.0));
            t[i] = select(row, s[i] + (ds[i] * dlam[i] - target) / safe, S{});
        }
        direction();
        const S a = min2(S(0.99 * to_boundary(s, ds, 1 / 0.99)), splat<S>(1.0));
        const S b = min2(S(0.99 * to_boundary(lam, dlam, 1 / 0.99)), splat<S>(1.0));
        const S up = largest<S>(dlam, g.total) + 1e-6 * (1.0 + largest<S>(lam, g.total));
        const S down = largest<S>(dx, g.n) + 1e-6 * (1.0 + largest<S>(x, g.n));
        rho = clip(root(S(PRODUCT * up / down)), 1e-11, 1e-6);
        for (int j = 0; j < g.n; ++j) x[j] += a * dx[j];
        for (int i = 0; i < g.total; ++i) s[i] += a * ds[i], lam[i] += b * dlam[i];
    }

    // Solve the program of a guessed active set from (x_, lam_): px, ps, plam, score, and the corrected set.
    void polish(const S *x_, const S *lam_, const S *set) {
        for (int i = 0; i < g.total; ++i) {
            plam[i] = select(set[i] > 0.0, lam_[i], S{});
            w[i] = set[i] * g.present[i] / DELTA;
        }
        for (int j = 0; j < g.n; ++j) px[j] = x_[j];
        const Mask ok = g.factorise(w, splat<S>(RHO));
        Mask moving = !never();
        for (int step = 0; step < POLISH_STEPS; ++step) {
            g.times_P(px, Px), g.transpose(plam, Rl), g.apply(px, Rx);
            for (int i = 0; i < g.total; ++i) {
                t[i] = select(set[i] > 0.0, Rx[i] * g.present[i] - g.d[i], S{});
                slack[i] = w[i] * t[i];
            }
            g.transpose(slack, dx);
            for (int j = 0; j < g.n; ++j) dx[j] = -(dx[j] + Px[j] + g.q[j] + Rl[j]);
            g.solve(dx);
            g.apply(dx, dlam);
            for (int i = 0; i < g.total; ++i) {
                dlam[i] = w[i] * (dlam[i] + t[i]);
                plam[i] = select(moving, plam[i] + dlam[i], plam[i]);
            }
            for (int j = 0; j < g.n; ++j) px[j] = select(moving, px[j] + dx[j], px[j]);
            if (step == 0) continue;
            moving = moving & ((largest<S>(dx, g.n) > SETTLED * largest<S>(px, g.n)) |
                               (largest<S>(dlam, g.total) > SETTLED * largest<S>(plam, g.total)));
            if (!any(moving)) break;
        }
        g.apply(px, Rx);
        for (int i = 0; i < g.total; ++i) {
            const S room = g.d[i] - Rx[i] * g.present[i];
            const Mask row = g.inequality[i] > 0.0;
            const S keep = select(set[i] > 0.0, number(plam[i] > 0.0), number(room < 0.0));
            // Equality rows stay; so do, as in Python, missing rows, whose weight is zero.
            flipped[i] = select(row, keep, splat<S>(1.0));
            plam[i] = select(row, max2(plam[i], S{}), plam[i]);
            ps[i] = select(row, max2(room, S{}), S{});
        }
        residuals(px, ps, plam);
        score = select(ok, score, splat<S>(INF));
    }

    // Keep an iterate where `where` holds and its score is the best so far; return where it was kept.
    Mask record(Mask where, const S *x_, const S *s_, const S *lam_, double by_polish) {
        const Mask better = where & (score < best);
        if (!any(better)) return better;
        best = select(better, score, best), polished = select(better, splat<S>(by_polish), polished);
        for (int j = 0; j < g.n; ++j) best_x[j] = select(better, x_[j], best_x[j]);
        for (int i = 0; i < g.total; ++i) {
            best_s[i] = select(better, s_[i], best_s[i]);
            best_lam[i] = select(better, lam_[i], best_lam[i]);
        }
        return better;
    }

    S fingerprint(const S *set) const {
        S key{};
        for (int i = 0; i < g.total; ++i) key += set[i] * code.data[i];
        return key;
    }

    static double row_code(uint64_t row) {  // splitmix64, 36 bits: sums are exact in double up to 2^16 rows
        uint64_t z = row * 0x9E3779B97F4A7C15ull;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ z >> 27) * 0x94D049BB133111EBull;
        return double((z ^ z >> 31) >> 28);
    }

    Mask polish_where(Mask want) {
        Mask solved = never();
        for (int i = 0; i < g.total; ++i) guess[i] = active[i];
        for (int round = 0; round < 2; ++round) {
            const S key = fingerprint(guess);
            Mask seen = never();
            for (const S &old : tried) seen = seen | (old == key);
            want = want & !seen;
            if (!any(want)) break;
            for (int slot = 0; slot < POLISH_TRIES; ++slot) {
                const S turn = tries - POLISH_TRIES * select(tries >= POLISH_TRIES, splat<S>(1.0), S{});
                tried[slot] = select(want & (turn == double(slot)), key, tried[slot]);
            }
            tries += number(want), iterations += number(want);
            polish(x, lam, guess);
            record(want, px, ps, plam, 1.0);
            solved = solved | (want & (score <= 1.0));
            want = want & !(score <= 1.0);
            for (int i = 0; i < g.total; ++i) guess[i] = select(want, flipped[i], guess[i]);
        }
        return solved;
    }

    void run(const S *warm_x, const S *warm_lam) {
        start();
        Mask running = !never();
        if (warm_x) {
            g.apply(warm_x, Rx);
            const S share = WARM * largest<S>(warm_lam, g.total);
            for (int i = 0; i < g.total; ++i) {
                const Mask row = g.inequality[i] > 0.0;
                const Mask holds = (warm_lam[i] > g.d[i] - Rx[i] * g.present[i]) | (warm_lam[i] > share);
                guess[i] = select(row, number((warm_lam[i] > WEAK) & holds), g.present[i]);
            }
            polish(warm_x, warm_lam, guess);
            iterations += 1.0;
            record(running, px, ps, plam, 1.0);
            running = !(score <= 1.0);
        }
        if (any(running)) iterate(running);
        status = select(best <= 1.0, splat<S>(SOLVED), status);
        const Mask doubtful = (best <= 1.0) & (polished == 0.0);
        if (any(doubtful)) {  // a stationary point of an indefinite P is not a solution
            for (int i = 0; i < g.total; ++i) {
                const Mask row = g.inequality[i] > 0.0;
                w[i] = select(row, number(best_lam[i] > best_s[i]), g.present[i]) / DELTA;
            }
            const Mask upwards = g.factor_once(w, splat<S>(CURVATURE));
            status = select(doubtful & !upwards, splat<S>(INVALID_INPUT), status);
        }
    }

    void iterate(Mask running) {
        initial_point();
        for (int iteration = 0;; ++iteration) {
            const bool last = iteration == max_iter;
            residuals(x, s, lam);
            const Mask better = record(running, x, s, lam, 0.0);
            stalled = select(better, S{}, S(stalled + 1.0));
            const Mask solved = score <= 1.0, broken = !(score < INF);
            const Mask other = running & !(broken | solved);
            Mask farkas = never(), descent = never();
            if (any(other)) farkas = other & find_farkas(), descent = other & find_descent();
            certify(running & farkas, running & descent, running & broken & !solved);
            const Mask finished = solved | broken | farkas | descent | (stalled >= double(STALL));
            S changed{};
            for (int i = 0; i < g.total; ++i) {
                const Mask row = g.inequality[i] > 0.0;
                active[i] = select(row, number(lam[i] > s[i]), g.present[i]);
                changed += abs2(S(active[i] - previous[i]));
                previous[i] = active[i];
            }
            const Mask settled = (changed <= 1.0) & (tries < double(POLISH_TRIES));
            Mask want = running & (settled | finished | (last ? !never() : never()));
            want = want & !((farkas | descent | broken) & !solved);
            Mask done = finished;
            if (any(want)) {
                done = done | polish_where(want);
                residuals(x, s, lam);  // the polish used their room
            }
            running = running & !done;
            if (last || !any(running)) return;
            iterations += number(running);
            for (int j = 0; j < g.n; ++j) old_x[j] = x[j], old_Px[j] = Px[j];
            for (int i = 0; i < g.total; ++i) old_Rx[i] = Rx[i];
            newton_step();
        }
    }

    // Whether v'w < 0 beyond its round-off; `small` is the tolerance that follows from it.
    static Mask negative(const S *v, const S *w_, int count, S &small) {
        S value{}, size{};
        for (int i = 0; i < count; ++i) value += v[i] * w_[i], size += abs2(S(v[i] * w_[i]));
        small = CERTIFICATE * -value / max2(largest<S>(v, count), splat<S>(1.0));
        return value < -ROUND_OFF * size;
    }

    // Where lam runs away, project it onto the certificate that it may hide (in plam) and check that.
    Mask find_farkas() {
        S dl{}, small;
        for (int i = 0; i < g.total; ++i) dl += g.d[i] * lam[i];
        const Mask suspect = (dl < 0.0) & (largest<S>(Rl, g.n) <= SUSPECT * -dl);
        if (!any(suspect)) return suspect;
        const S size = max2(largest<S>(lam, g.total), splat<S>(TINY));
        for (int i = 0; i < g.total; ++i) {
            plam[i] = lam[i] / size;
            w[i] = 1e14 * select(g.inequality[i] > 0.0, plam[i], g.present[i]);
        }
        g.factorise(w, splat<S>(1.0));
        for (int step = 0; step < 2; ++step) {
            g.transpose(plam, dx);
            g.solve(dx);
            g.apply(dx, dlam);
            for (int i = 0; i < g.total; ++i) plam[i] -= w[i] * dlam[i];
        }
        for (int i = 0; i < g.total; ++i)
            plam[i] = select(g.inequality[i] > 0.0, max2(plam[i], S{}), plam[i]);
        g.transpose(plam, dx);
        const Mask falls = negative(g.d, plam, g.total, small);
        return suspect & falls & (largest<S>(dx, g.n) <= small);
    }

    // Once x runs away, every step adds the same ray: the step (in px) shows it, free of what it is added to. A step
    // that is small beside x is no runaway, and round-off in the differences.
    Mask find_descent() {
        S small, top{};
        for (int j = 0; j < g.n; ++j) px[j] = x[j] - old_x[j], top = max2(top, abs2(S(Px[j] - old_Px[j])));
        for (int i = 0; i < g.total; ++i) {
            const S step = Rx[i] - old_Rx[i];
            top = max2(top, select(g.inequality[i] > 0.0, step, abs2(step)));
        }
        const Mask falls = negative(g.q, px, g.n, small);
        return falls & (top <= small) & (largest<S>(px, g.n) >= RUNAWAY * largest<S>(x, g.n));
    }

    void certify(Mask farkas, Mask descent, Mask broken) {
        status = select(broken, splat<S>(NUMERICAL_ERROR), status);
        status = select(farkas, splat<S>(PRIMAL_INFEASIBLE), status);
        status = select(descent, splat<S>(DUAL_INFEASIBLE), status);
        if (any(farkas))
            for (int i = 0; i < g.total; ++i) best_lam[i] = select(farkas, plam[i], best_lam[i]);
        if (any(descent))
            for (int j = 0; j < g.n; ++j) best_x[j] = select(descent, px[j], best_x[j]);
    }
};

// --------------------------------------------------------------------------------------------- batches of problems

extern "C" struct SolveArguments {
    int64_t batch, n, m, p, upper, lower, max_iter, threads;
    double eps_abs, eps_rel;
    const double *P, *q, *C, *d, *warm_x, *warm_lam;  // the last two may be null
    int64_t stride_P, stride_q, stride_C, stride_d, stride_x, stride_lam;  // from element to element; 0: shared
    double *x, *lam, *s, *primal, *dual, *gap;
    uint8_t *active, *touching;
    int64_t *status, *iterations;
};

extern "C" struct LinearArguments {
    int64_t batch, n, m, p, upper, lower, threads;
    const double *P, *C, *c, *rx, *rl;
    int64_t stride_P, stride_C, stride_c, stride_rx, stride_rl;
    double *ux, *ul;
    uint8_t *bad;
};

// One thread's room for a group of problems.
template <class S> struct Batch {
    static constexpr int L = Traits<S>::lanes;
    const SolveArguments &a;
    Program<S> g;
    Solver<S> solver;
    Array<S> warm_x, warm_lam;
    bool invalid[L], asymmetric = false;

    explicit Batch(const SolveArguments &arguments)
        : a(arguments), g(int(a.n), int(a.m), int(a.p), a.upper != 0, a.lower != 0),
          solver(g, a.eps_abs, a.eps_rel, int(a.max_iter)) {
        warm_x.make(g.ld), warm_lam.make(g.total);
    }

    static int64_t groups(const SolveArguments &a) { return (a.batch + L - 1) / L; }

    void run(int64_t group) {
        for (int l = 0; l < L; ++l) read(element(group, l), l);
        g.equilibrate(true);
        // Scaled to unit size, the slack of a tiny row far from every point of interest would drown the others'.
        const S tiny = TINY_ROW * largest(g.C.data, g.k * g.ld);
        for (int i = 0; i < g.k; ++i) {
            const S limit = FAR / abs2(g.d[i]), size = largest(g.C.data + (size_t)i * g.ld, g.n);
            g.E[i] = select((size > 0.0) & (size <= tiny) & (limit < g.E[i]), limit, g.E[i]);
        }
        g.scale_matrices(g.kappa);
        for (int j = 0; j < g.n; ++j) {
            g.q[j] *= g.kappa * g.D[j];
            g.unit_dual[j] = 1.0 / (g.D[j] * g.kappa);
        }
        for (int i = 0; i < g.total; ++i) g.d[i] *= g.E[i], g.unit_primal[i] = 1.0 / g.E[i];
        if (a.warm_x) {
            for (int l = 0; l < L; ++l) {
                const int64_t b = element(group, l);
                for (int j = 0; j < g.n; ++j) set_lane(warm_x[j], l, a.warm_x[b * a.stride_x + j]);
                for (int i = 0; i < g.total; ++i) set_lane(warm_lam[i], l, a.warm_lam[b * a.stride_lam + i]);
            }
            for (int j = 0; j < g.n; ++j) warm_x[j] /= g.D[j];
            for (int i = 0; i < g.total; ++i) warm_lam[i] *= g.kappa / g.E[i];
            solver.run(warm_x, warm_lam);
        } else {
            solver.run(nullptr, nullptr);
        }
        for (int l = 0; l < L; ++l)
            if (group * L + l < a.batch) write(group * L + l, l);
    }

  private:
    int64_t element(int64_t group, int l) const {  // idle lanes of the last group repeat its last problem
        const int64_t b = group * L + l;
        return b < a.batch ? b : a.batch - 1;
    }

    void read(int64_t b, int l) {
        const double *P = a.P + b * a.stride_P, *q = a.q + b * a.stride_q;
        const double *C = a.C + b * a.stride_C, *d = a.d + b * a.stride_d;
        const int n = g.n;
        bool fine = true;
        double top = 0, off = 0;
        for (int i = 0; i < n; ++i) {
            fine &= finite(q[i]);
            for (int j = 0; j < n; ++j) {
                fine &= finite(P[(size_t)i * n + j]);
                top = max2(top, std::fabs(P[(size_t)i * n + j]));
                off = max2(off, std::fabs(P[(size_t)i * n + j] - P[(size_t)j * n + i]));
            }
        }
        for (size_t i = 0; i < (size_t)g.k * n; ++i) fine &= finite(C[i]);
        for (int i = 0; i < g.total; ++i) {
            const bool equality = i >= g.m && i < g.k;
            fine &= d[i] > -INF && (d[i] < INF || (!equality && d[i] == INF));
        }
        if (fine && off > ASYMMETRY * top) asymmetric = true;
        invalid[l] = !fine;
        // An invalid element is replaced by min 1/2 |x|², as in Python.
        for (int i = 0; i < n; ++i) {
            set_lane(g.q[i], l, fine ? q[i] : 0.0);
            for (int j = 0; j < n; ++j) {
                const double entry = 0.5 * (P[(size_t)i * n + j] + P[(size_t)j * n + i]);
                set_lane(g.P[(size_t)i * g.ld + j], l, fine ? entry : double(i == j));
            }
        }
        for (int i = 0; i < g.k; ++i)
            for (int j = 0; j < n; ++j)
                set_lane(g.C[(size_t)i * g.ld + j], l, fine ? C[(size_t)i * n + j] : 0.0);
        for (int i = 0; i < g.total; ++i) {
            const bool present = !fine || finite(d[i]), equality = i >= g.m && i < g.k;
            set_lane(g.present[i], l, double(present));
            set_lane(g.inequality[i], l, double(present && !equality));
            set_lane(g.d[i], l, fine && present ? d[i] : 0.0);
        }
    }

    static double size(double residual) { return finite(residual) ? std::fabs(residual) : INF; }

    // Unscale, and measure the residuals of what is returned on the data as given.
    void write(int64_t b, int l) {
        const double *P = a.P + b * a.stride_P, *q = a.q + b * a.stride_q;
        const double *C = a.C + b * a.stride_C, *d = a.d + b * a.stride_d;
        const int n = g.n, total = g.total;
        double *x = a.x + b * n, *lam = a.lam + b * total, *s = a.s + b * total;
        const double kappa = lane(g.kappa, l), nan = std::numeric_limits<double>::quiet_NaN();
        int64_t status = int64_t(lane(solver.status, l));
        if (invalid[l]) status = INVALID_INPUT;
        a.status[b] = status, a.iterations[b] = int64_t(lane(solver.iterations, l));
        for (int i = 0; i < total; ++i) {
            const double scaled = lane(solver.best_lam[i], l), slack = lane(solver.best_s[i], l);
            const bool row = lane(g.inequality[i], l) > 0;
            a.active[b * total + i] = row ? scaled > slack : lane(g.present[i], l) > 0;
            a.touching[b * total + i] = a.active[b * total + i] || (row && slack <= WEAK);
            lam[i] = scaled * lane(g.E[i], l) / kappa;
        }
        for (int j = 0; j < n; ++j) x[j] = lane(solver.best_x[j], l) * lane(g.D[j], l);
        if (status == INVALID_INPUT) {
            for (int j = 0; j < n; ++j) x[j] = nan;
            for (int i = 0; i < total; ++i) lam[i] = s[i] = nan;
            a.primal[b] = a.dual[b] = a.gap[b] = nan;
            return;
        }
        if (status == PRIMAL_INFEASIBLE || status == DUAL_INFEASIBLE) {  // certificates: d'lam = -1, q'x = -1
            double inner = 0;
            if (status == PRIMAL_INFEASIBLE) {
                for (int i = 0; i < total; ++i) inner -= finite(d[i]) ? d[i] * lam[i] : 0.0;
                for (int i = 0; i < total; ++i) lam[i] /= inner;
            } else {
                inner = -dot(q, x, 0, n);
                for (int j = 0; j < n; ++j) x[j] /= inner;
            }
        }
        double primal = 0, dual = 0, gap = 0;
        for (int i = 0; i < total; ++i) {
            const int bound = (i - g.k) % n;
            double Rx = i < g.k ? dot(C + (size_t)i * n, x, 0, n) : (g.upper && i < g.k + n ? x[bound] : -x[bound]);
            if (!finite(d[i])) {
                s[i] = INF;
                continue;
            }
            const bool equality = i >= g.m && i < g.k;
            s[i] = equality ? 0.0 : max2(d[i] - Rx, 0.0);
            primal = max2(primal, size(Rx + s[i] - d[i]));
            gap += d[i] * lam[i];
        }
        double *r = reinterpret_cast<double *>(g.scratch_n.data);
        for (int j = 0; j < n; ++j) {
            r[j] = q[j];
            if (g.upper) r[j] += lam[g.k + j];
            if (g.lower) r[j] -= lam[g.k + (g.upper ? n : 0) + j];
        }
        for (int i = 0; i < g.k; ++i) axpy(lam[i], C + (size_t)i * n, r, 0, n);
        double xPx = 0, qx = 0;
        for (int i = 0; i < n; ++i) {
            double Px = 0;
            for (int j = 0; j < n; ++j) Px += 0.5 * (P[(size_t)i * n + j] + P[(size_t)j * n + i]) * x[j];
            dual = max2(dual, size(Px + r[i]));
            xPx += x[i] * Px, qx += q[i] * x[i];
        }
        gap = size(xPx + qx + gap);
        a.primal[b] = primal, a.dual[b] = dual, a.gap[b] = gap;
        // The caller's units may overflow where the scaled ones did not: what cannot be measured is not solved.
        if (status == SOLVED && max2(max2(primal, dual), gap) == INF) a.status[b] = NUMERICAL_ERROR;
    }
};

// [P R'; R -diag(c)] u = r by proximal refinement; `bad` where that does not converge (J is singular there).
template <class S> struct LinearBatch {
    using Mask = typename Traits<S>::Mask;
    static constexpr int L = Traits<S>::lanes;
    const LinearArguments &a;
    Program<S> g;
    Array<S> c, w, held, rx, rl, ux, ul, ex, el, nx, nl, fx, fl, Sx, Sl;
    bool asymmetric = false;

    explicit LinearBatch(const LinearArguments &arguments)
        : a(arguments), g(int(a.n), int(a.m), int(a.p), a.upper != 0, a.lower != 0) {
        for (Array<S> *v : {&rx, &ux, &ex, &nx, &fx, &Sx}) v->make(g.ld);
        for (Array<S> *v : {&c, &w, &held, &rl, &ul, &el, &nl, &fl, &Sl}) v->make(g.total);
    }

    static int64_t groups(const LinearArguments &a) { return (a.batch + L - 1) / L; }

    void run(int64_t group) {
        const int n = g.n, total = g.total;
        for (int l = 0; l < L; ++l) read(group * L + l < a.batch ? group * L + l : a.batch - 1, l);
        const Mask silent = max2(largest<S>(rx, n), largest<S>(rl, total)) + sum_of_nans() == 0.0;
        g.equilibrate(false);
        g.scale_matrices(g.kappa);
        const S scale = root(g.kappa);
        for (int j = 0; j < n; ++j) Sx[j] = scale * g.D[j], rx[j] *= Sx[j], ux[j] = S{}, ex[j] = rx[j];
        for (int i = 0; i < total; ++i) {
            const Mask row = held[i] > 0.0;
            Sl[i] = g.E[i] / scale;
            c[i] *= Sl[i] * Sl[i];
            rl[i] = select(row, rl[i] * Sl[i], S{}), ul[i] = S{}, el[i] = rl[i];
            w[i] = select(row, 1.0 / (c[i] + DELTA), S{});
        }
        // Silent before scaling: an infinity in the matrix makes the scaled zero NaN.
        const S size = select(silent, S{}, max2(largest<S>(rx, n), largest<S>(rl, total)) + sum_of_nans());
        const Mask ok = g.factorise(w, splat<S>(RHO));
        S error = size;
        for (int step = 0; step < REFINEMENTS; ++step) {
            for (int i = 0; i < total; ++i) nl[i] = w[i] * el[i];
            g.transpose(nl, nx);
            for (int j = 0; j < n; ++j) nx[j] += ex[j];
            g.solve(nx);
            g.apply(nx, nl);
            for (int i = 0; i < total; ++i) nl[i] = ul[i] + w[i] * (nl[i] - el[i]);
            for (int j = 0; j < n; ++j) nx[j] += ux[j];
            g.times_P(nx, fx), g.transpose(nl, Rl()), g.apply(nx, fl);
            for (int j = 0; j < n; ++j) fx[j] = rx[j] - fx[j] - Rl()[j];
            for (int i = 0; i < total; ++i) fl[i] = select(held[i] > 0.0, rl[i] - fl[i] + c[i] * nl[i], S{});
            S check{};
            for (int j = 0; j < n; ++j) check += abs2(fx[j]);
            for (int i = 0; i < total; ++i) check += abs2(fl[i]);
            const S now = select(finite(check), max2(largest<S>(fx, n), largest<S>(fl, total)), splat<S>(INF));
            const Mask better = now < error;  // past round-off, steps are noise
            error = select(better, now, error);
            for (int j = 0; j < n; ++j) ux[j] = select(better, nx[j], ux[j]), ex[j] = select(better, fx[j], ex[j]);
            for (int i = 0; i < total; ++i)
                ul[i] = select(better, nl[i], ul[i]), el[i] = select(better, fl[i], el[i]);
            if (!any(better)) break;
        }
        for (int l = 0; l < L; ++l) {
            const int64_t b = group * L + l;
            if (b >= a.batch) break;
            const double norm = lane(size, l);
            const bool known = norm == 0 || norm != norm;  // u = 0 for r = 0, and NaN for NaN, whatever the matrix
            a.bad[b] = !known && !(lane(error, l) <= SINGULAR * norm && lane(ok, l));
            for (int j = 0; j < n; ++j) a.ux[b * n + j] = known ? norm : lane(S(ux[j] * Sx[j]), l);
            for (int i = 0; i < total; ++i) a.ul[b * total + i] = known ? norm : lane(S(ul[i] * Sl[i]), l);
        }
    }

  private:
    S *Rl() { return g.scratch_n; }

    S sum_of_nans() const {  // zero, if all of r is finite
        S nan{};
        for (int j = 0; j < g.n; ++j) nan += 0.0 * rx.data[j];
        for (int i = 0; i < g.total; ++i) nan += 0.0 * rl.data[i];
        return nan;
    }

    void read(int64_t b, int l) {
        const int n = g.n;
        const double *P = a.P + b * a.stride_P, *C = a.C + b * a.stride_C, *weights = a.c + b * a.stride_c;
        const double *rx_ = a.rx + b * a.stride_rx, *rl_ = a.rl + b * a.stride_rl;
        for (int i = 0; i < n; ++i) {
            set_lane(rx[i], l, rx_[i]);
            for (int j = 0; j < n; ++j)
                set_lane(g.P[(size_t)i * g.ld + j], l, 0.5 * (P[(size_t)i * n + j] + P[(size_t)j * n + i]));
        }
        for (int i = 0; i < g.k; ++i)
            for (int j = 0; j < n; ++j) set_lane(g.C[(size_t)i * g.ld + j], l, C[(size_t)i * n + j]);
        for (int i = 0; i < g.total; ++i) {
            const bool row = finite(weights[i]);
            set_lane(g.present[i], l, 1.0);
            set_lane(held[i], l, double(row)), set_lane(c[i], l, row ? weights[i] : 1.0), set_lane(rl[i], l, rl_[i]);
        }
    }
};

// Share the groups out to threads; a group belongs to one thread from start to end.
template <template <class> class Work, class S, class Arguments> int share(const Arguments &a) {
    const int64_t groups = Work<S>::groups(a);
    std::atomic<int64_t> next{0};
    std::atomic<int> flags{0};
    auto labour = [&] {
        try {
            Work<S> work(a);
            for (int64_t group; (group = next.fetch_add(1)) < groups;) work.run(group);
            if (work.asymmetric) flags |= 1;
        } catch (const std::bad_alloc &) {
            flags |= 2;
        }
    };
    const int64_t helpers = (a.threads < groups ? a.threads : groups) - 1;
    std::vector<std::thread> threads;
    try {
        for (int64_t i = 0; i < helpers; ++i) threads.emplace_back(labour);
    } catch (...) {  // no more threads to be had: this one does the rest
    }
    labour();
    for (std::thread &thread : threads) thread.join();
    return flags;
}

template <template <class> class Work, class Arguments> int dispatch(const Arguments &a, int lanes) {
    return lanes ? share<Work, Vec>(a) : share<Work, double>(a);
}

}  // namespace

// Return 0, or the sum of 1 (some P is not symmetric) and 2 (out of memory). `lanes` chooses the layout.
extern "C" int il_solve(const SolveArguments *a, int lanes) { return dispatch<Batch>(*a, lanes); }
extern "C" int il_linear(const LinearArguments *a, int lanes) { return dispatch<LinearBatch>(*a, lanes); }
