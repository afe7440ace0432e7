// One scaled program (or one per SIMD lane), and the linear algebra that solver and adjoint share.
#pragma once

#include "simd.h"

namespace {

// Constants of the Python files; tests/test_native.py holds them together.
constexpr int SWEEPS = 4, POLISH_TRIES = 4, POLISH_STEPS = 10, STALL = 15, PATIENCE = 3, REFINEMENTS = 5;
constexpr double RHO = 1e-8, DELTA = 1e-8, CERTIFICATE = 1e-8, SUSPECT = 1e-4, HELD = 1e-3, NOTHING = 1e-14, RUNAWAY = 1e-6, ROUND_OFF = 1e-10, CURVATURE = 1e-6, WEAK = 1e-9, SINGULAR = 1e-7, APART = 1e-4;
constexpr double PRODUCT = 1e-16, ASYMMETRY = 1e-5, WARM = 1e-5, SETTLED = 1e-11, NEGLIGIBLE = 1e-15, FAR = 1e6, TINY_ROW = 2e-12, TINY_COST = 6e-309, VANISHED = 1e-100;

enum Status { SOLVED, MAX_ITER, PRIMAL_INFEASIBLE, DUAL_INFEASIBLE, NUMERICAL_ERROR, INVALID_INPUT };

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
        kappa = 1.0 / select(top > (with_cost ? TINY_COST : VANISHED), top, splat<S>(1.0));
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
            case 4: block_row<4>(P.data, WC.data, C.data, used_rows.data, used, U.data, ld, i, ld); break;
            case 3: block_row<3>(P.data, WC.data, C.data, used_rows.data, used, U.data, ld, i, ld); break;
            case 2: block_row<2>(P.data, WC.data, C.data, used_rows.data, used, U.data, ld, i, ld); break;
            default: block_row<1>(P.data, WC.data, C.data, used_rows.data, used, U.data, ld, i, ld);
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

}  // namespace
