// The first-order backward pass, fused: the adjoint of the optimality conditions and the gradients that follow.
//
// On the active rows the conditions' Jacobian is [P R'; R 0], symmetric. Where the forward pass kept its factors
// P = U'U and K = R P⁻¹R' = R_W'R_W, the adjoint takes a few triangular solves.
#pragma once

#include "small_active_set.h"

extern "C" struct AdjointArguments {
    Problems data;
    int64_t threads;
    const double *x, *lam, *info;  // of the solution
    const uint8_t *flags;
    int64_t keep;           // whether `info` holds factors
    const double *vx, *vl;  // cotangents of x and of the stacked multipliers; either may be null
    double *u;              // the adjoint, for every element (ux, ul, 1 where it was not found); may be null
    double *gP, *gq, *gG, *gh, *gA, *gb, *glb, *gub;  // gradients, one block for every element; null: not asked for
};

namespace {

// Gradients of the data from solution and adjoint: minus the symmetrised outer products.
struct Gradients {
    const AdjointArguments &a;

    void write(int64_t b, const double *ux, const double *ul) const {
        const Problems &s = a.data;
        const int64_t n = s.n, m = s.m, p = s.p;
        const int64_t k = m + p, total = k + n * (int64_t(s.ub != nullptr) + int64_t(s.lb != nullptr));
        const double *x = a.x + b * n, *lam = a.lam + b * total;
        // What was not solved may hold anything.
        const bool solved = a.info[b * (MEASURES + total + (a.keep ? Kept::size(n, total, s.stride_P == 0) : 0))] == SOLVED;
        if (a.gP) outer(n, n, ux, x, x, ux, -0.5, solved, a.gP + b * n * n);
        if (a.gG) outer(m, n, lam, ux, ul, x, -1.0, solved, a.gG + b * m * n);
        if (a.gA) outer(p, n, lam + m, ux, ul + m, x, -1.0, solved, a.gA + b * p * n);
        copy(n, ux, -1.0, solved, a.gq, b), copy(m, ul, 1.0, solved, a.gh, b), copy(p, ul + m, 1.0, solved, a.gb, b);
        copy(n, ul + k, 1.0, solved, a.gub, b), copy(n, ul + k + (s.ub ? n : 0), -1.0, solved, a.glb, b);
    }

  private:
    // scale * (a1 b1' + a2 b2')
    static void outer(int64_t rows, int64_t n, const double *a1, const double *b1, const double *a2, const double *b2,
                      double scale, bool solved, double *out) {
        for (int64_t i = 0; i < rows; ++i, out += n) {
            const double f1 = scale * a1[i], f2 = scale * a2[i];
            if (!solved || (f1 == 0 && f2 == 0)) {
                std::memset(out, 0, n * sizeof(double));
                continue;
            }
#pragma omp simd
            for (int64_t j = 0; j < n; ++j) out[j] = f1 * b1[j] + f2 * b2[j];
        }
    }

    static void copy(int64_t count, const double *from, double scale, bool solved, double *to, int64_t b) {
        if (!to) return;
        for (int64_t i = 0; i < count; ++i) to[b * count + i] = solved ? scale * from[i] : 0.0;
    }
};

// The adjoint from the factors that the forward pass kept.
class KeptAdjoint {
  public:
    explicit KeptAdjoint(const AdjointArguments &arguments)
        : a(arguments), n(int(a.data.n)), total(Element(a.data, 0).total), shared_P(a.data.stride_P == 0),
          stride(Kept::size(n, total, shared_P)) {
        for (Array<double> *v : {&t, &ex, &Pu}) v->make(round_up(n));
        el.make(total), y.make(total), W.make(total), wx.make(round_up(n)), wl.make(total);
        ux.make(n), ul.make(total), wide.make(round_up(n));
    }

    Array<double> ux, ul;  // of the last element solved

    void write(int64_t b) const {
        double *u = a.u + b * (n + total + 1);
        std::memcpy(u, ux.data, n * sizeof(double));
        std::memcpy(u + n, ul.data, total * sizeof(double));
        u[n + total] = 0.0;
    }

    // Solve for one element; false where nothing was kept or the residual stays large.
    bool solve(int64_t b) {
        const double *info = a.info + b * (MEASURES + total + (a.keep ? stride : 0));
        const double *kept = a.keep ? info + MEASURES + total : nullptr;
        std::memset(ux.data, 0, n * sizeof(double)), std::memset(ul.data, 0, total * sizeof(double));
        if (info[0] != SOLVED) return true;
        const double *vx = a.vx ? a.vx + b * n : nullptr, *vl = a.vl ? a.vl + b * total : nullptr;
        double norm = 0, nan = 0;
        for (int j = 0; j < n; ++j) ex[j] = vx ? vx[j] : 0.0, norm = max2(norm, std::fabs(ex[j])), nan += 0.0 * ex[j];
        for (int i = 0; vl && i < total; ++i) norm = max2(norm, std::fabs(vl[i])), nan += 0.0 * vl[i];
        if (nan != nan && norm < INF) {  // NaN for NaN, in this element alone
            for (int j = 0; j < n; ++j) ux[j] = nan;
            for (int i = 0; i < total; ++i) ul[i] = nan;
            return true;
        }
        if (norm == 0) return true;
        if (!kept || kept[0] == Kept::NOTHING || !(norm < INF)) return false;
        const Element e(a.data, b);
        if (kept[0] == Kept::SEPARABLE) return solve_separable(e, b, vx, vl);
        small = n <= SMALL;
        count = int(kept[0]);
        for (int i = 0; i < count; ++i) W[i] = int(kept[1 + i]), el[i] = vl ? vl[W[i]] : 0.0, wl[i] = 0.0;
        for (int j = 0; j < n; ++j) wx[j] = 0.0;
        R = kept + 1 + count, U = R + (small ? (int64_t)count * round_up(n) : (int64_t)count * (count + 1) / 2);
        if (!small && shared_P && !factor_shared(e)) return false;
        double error = INF;
        for (int step = 0; step < 3; ++step) {
            correct(e);
            const double before = error;
            error = residual(e, vx, vl);
            if (error <= 1e-13 * norm || !(error < 0.5 * before)) break;
        }
        if (!(error <= SINGULAR * norm)) return false;
        for (int j = 0; j < n; ++j) ux[j] = wx[j];
        for (int i = 0; i < count; ++i) ul[W[i]] = wl[i];
        return true;
    }

  private:
    const AdjointArguments &a;
    const int n, total;
    const bool shared_P;
    const int64_t stride;
    Array<double> factor, packed;  // of a shared P
    int count = 0;
    bool small = false;
    const double *U = nullptr, *R = nullptr;  // of small problems: P⁻¹ and K_WW⁻¹
    Array<double> t, ex, el, y, Pu, wx, wl, wide;
    Array<int> W;

    static void forward_packed(const double *M, int n, double *r) {
        for (int i = 0; i < n; M += n - i, ++i) {
            r[i] *= M[0];
            axpy(-r[i], M - i, r, i + 1, n);
        }
    }
    static void backward_packed(const double *M, int n, double *r) {
        M += (int64_t)n * (n + 1) / 2;
        for (int i = n - 1; i >= 0; --i) {
            M -= n - i;
            r[i] = (r[i] - dot(M - i, r, i + 1, n)) * M[0];
        }
    }

    bool factor_shared(const Element &e) {
        if (!packed) {
            const int ld = round_up(n);
            Array<double> P, diagonal;
            P.make((size_t)n * ld), factor.make((size_t)n * ld), diagonal.make(ld), packed.make((size_t)n * (n + 1) / 2);
            for (int i = 0; i < n; ++i)
                for (int j = 0; j < n; ++j) P[(size_t)i * ld + j] = 0.5 * (e.P[(size_t)i * n + j] + e.P[(size_t)j * n + i]);
            if (cholesky(P, factor, diagonal, n, ld, 0, DEFINITE) != n) return false;
            pack(factor, diagonal, n, ld, packed);
        }
        U = packed;
        return true;
    }

    // Diagonal P, bounds, at most one equality row: an entry is at a bound, or free to follow the row.
    bool solve_separable(const Element &e, int64_t b, const double *vx, const double *vl) {
        const uint8_t *active = a.flags + 2 * b * total;
        const double *row = e.A;
        double above = e.p && vl ? -vl[0] : 0.0, below = 0;
        for (int j = 0; j < n; ++j) {
            const double p = e.P[(size_t)j * (n + 1)], pull = vx ? vx[j] : 0.0;
            const bool up = e.upper && active[e.k + j], down = e.lower && active[e.lower_from + j];
            const double held = !vl ? 0.0 : up ? vl[e.k + j] : down ? -vl[e.lower_from + j] : 0.0;
            wx[j] = up || down ? held : pull / p;
            if (!e.p) continue;
            above += row[j] * wx[j];
            if (!(up || down)) below += row[j] * row[j] / p;
        }
        if (e.p && !(below > 0)) return false;
        const double weight = e.p ? above / below : 0.0;
        if (e.p) ul[0] = weight;
        for (int j = 0; j < n; ++j) {
            const double p = e.P[(size_t)j * (n + 1)], pull = (vx ? vx[j] : 0.0) - (e.p ? weight * row[j] : 0.0);
            const bool up = e.upper && active[e.k + j], down = e.lower && active[e.lower_from + j];
            ux[j] = up || down ? wx[j] : pull / p;
            if (up) ul[e.k + j] = pull - p * ux[j];
            if (down) ul[e.lower_from + j] = p * ux[j] - pull;
        }
        return true;
    }

    void solve_P(const double *r) {  // t <- P⁻¹ r
        if (small) return sum_rows(U, n, round_up(n), r, t);
        for (int j = 0; j < n; ++j) t[j] = r[j];
        forward_packed(U, n, t), backward_packed(U, n, t);
    }

    void solve_K() {  // y <- K_WW⁻¹ y
        if (!small) return forward_packed(R, count, y), backward_packed(R, count, y);
        sum_rows(R, count, round_up(n), y, wide);
        for (int i = 0; i < count; ++i) y[i] = wide[i];
    }

    // (wx, wl) += solution for the right-hand side (ex, el)
    void correct(const Element &e) {
        solve_P(ex);
        for (int i = 0; i < count; ++i) {
            const int row = W[i];
            const double value = row < e.k ? dot(e.matrix_row(row), t.data, 0, n) : e.sign(row) * t[e.variable(row)];
            y[i] = value - el[i];
        }
        solve_K();
        for (int i = 0; i < count; ++i) subtract_row(e, W[i], y[i], ex), wl[i] += y[i];
        solve_P(ex);
        for (int j = 0; j < n; ++j) wx[j] += t[j];
    }

    static void subtract_row(const Element &e, int row, double factor, double *out) {
        if (row < e.k) axpy(-factor, e.matrix_row(row), out, 0, e.n);
        else out[e.variable(row)] -= factor * e.sign(row);
    }

    // ex, el <- what is left of the right-hand side; its largest entry
    double residual(const Element &e, const double *vx, const double *vl) {
        rows_times(e.P, n, n, wx, Pu);
        for (int j = 0; j < n; ++j) ex[j] = (vx ? vx[j] : 0.0) - Pu[j];
        for (int i = 0; i < count; ++i) {
            const int row = W[i];
            const double value = row < e.k ? dot(e.matrix_row(row), wx.data, 0, n) : e.sign(row) * wx[e.variable(row)];
            el[i] = (vl ? vl[row] : 0.0) - value;
            subtract_row(e, row, wl[i], ex);
        }
        const double sum = dot(ex, ex, 0, n) + dot(el, el, 0, count);
        return finite(sum) ? max2(largest(ex.data, n), largest(el.data, count)) : INF;
    }
};

}  // namespace
