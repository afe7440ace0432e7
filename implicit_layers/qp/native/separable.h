// The closed form of a separable program: diagonal P, bounds, and at most one equality row a'x = b.
//
// x follows from the row's multiplier y entry by entry, x_j(y) = clip(-(q_j + y a_j) / P_jj), and a'x(y) falls piecewise
// linearly in y: Newton's method finds its root, inside an interval that shrinks.
#pragma once

#include "clear_case.h"

namespace {

class Separable : public Residuals {
  public:
    explicit Separable(const Problems &a) : e(a, 0), n(e.n) {}

    static bool fits(const Element &e) { return e.m == 0 && e.p <= 1 && is_diagonal(e); }

    // Solve one problem; false where it is not a clear case, and then nothing is promised of the results.
    bool solve(const Element &element, double eps_abs, double eps_rel) {
        e = element;
        if (!x) d.make(e.total), v.make(e.total), z.make(e.total), held.make(e.total), x.make(n);
        const double *a = e.A;
        double check = 0;
        for (int j = 0; j < n; ++j) check += 0.0 * e.q[j];
        if (!finite(check)) return false;
        for (int row = 0; row < e.total; ++row) {
            d[row] = e.right(row), held[row] = 0, z[row] = 0;
            if (!(d[row] > -INF) || (e.equality(row) && d[row] == INF)) return false;
        }
        if (e.upper && e.lower)
            for (int j = 0; j < n; ++j)
                if (!(-d[e.lower_from + j] < d[e.k + j])) return false;
        double multiplier = 0, low = -INF, high = INF;
        if (e.p) {
            size = 0;
            for (int j = 0; j < n; ++j) size += std::fabs(a[j]);
            if (!(size > 0) || !finite(size)) return false;
        }
        for (int step = 0; e.p && step <= 60; ++step) {
            double excess = -e.b[0], slope = 0;
            for (int j = 0; j < n; ++j) {
                const double p = e.P[(size_t)j * (n + 1)], free = -(e.q[j] + multiplier * a[j]) / p, at = clipped(j, free);
                excess += a[j] * at;
                slope += at == free ? a[j] * a[j] / p : 0.0;
            }
            if (!finite(excess)) return false;
            if (excess > 0) low = multiplier;
            else high = multiplier;
            double next = slope > 0 ? multiplier + excess / slope : excess > 0 ? high : low;
            if (!(next > low && next < high) && excess != 0) next = 0.5 * (low + high);
            if (!finite(next) && slope == 0) next = excess > 0 ? 2 * std::fabs(multiplier) + 1 : -2 * std::fabs(multiplier) - 1;
            if (next == multiplier || excess == 0 || !finite(next)) break;
            if (std::fabs(next - multiplier) <= 1e-16 * std::fabs(next)) break;
            multiplier = next;
        }
        finish(multiplier);
        return accept(eps_abs, eps_rel);
    }

    void write(double *x_out, double *lam, double *s, uint8_t *active, uint8_t *touching, double *kept) const {
        std::memcpy(x_out, x.data, n * sizeof(double));
        for (int row = 0; row < e.total; ++row) {
            lam[row] = z.data[row];
            s[row] = e.equality(row) ? 0.0 : max2(-v.data[row], 0.0);
            active[row] = touching[row] = held.data[row] != 0;
        }
        if (kept) *kept = Kept::SEPARABLE;  // the adjoint takes P as it is
    }

  private:
    Element e;
    const int n;
    double size = 0;           // the sum of the sizes of the equality row's entries
    Array<double> x, d, v, z;  // the answer; right-hand sides, violations and multipliers of all rows
    Array<int> held;           // whether a row holds with equality

    static bool is_diagonal(const Element &e) {
        for (int i = 0; i < e.n; ++i) {
            const double *row = e.P + (size_t)i * e.n;
            double off = 0;
#pragma omp simd reduction(+ : off)
            for (int j = 0; j < e.n; ++j) off += std::fabs(row[j]);
            if (!(row[i] > 0) || off != row[i]) return false;
        }
        return true;
    }

    double clipped(int j, double free) const {
        const double upper = e.upper ? d[e.k + j] : INF, lower = e.lower ? -d[e.lower_from + j] : -INF;
        return free > upper ? upper : free < lower ? lower : free;
    }

    // The rest of the solution for the multiplier of the equality row.
    void finish(double multiplier) {
        if (e.p) held[0] = 1, z[0] = multiplier;
        double excess = e.p ? -e.b[0] : 0.0;
        xPx = qx = dz = scale = dual = primal = reach_primal = 0;
        for (int j = 0; j < n; ++j) {
            const double p = e.P[(size_t)j * (n + 1)], pull = e.p ? multiplier * e.A[j] : 0.0;
            const double free = -(e.q[j] + pull) / p;
            x[j] = clipped(j, free);
            const double push = -(p * x[j] + e.q[j] + pull);  // what a bound must take
            scale = max2(scale, max2(std::fabs(p * x[j]), max2(std::fabs(e.q[j]), std::fabs(pull))));
            xPx += p * x[j] * x[j], qx += e.q[j] * x[j];
            if (e.p) excess += e.A[j] * x[j];
            if (!(x[j] < free || x[j] > free)) {  // not even where free is NaN: there is no bound to blame
                dual = max2(dual, std::fabs(push));
                continue;
            }
            const int row = free > x[j] ? e.k + j : e.lower_from + j;
            z[row] = std::fabs(push), held[row] = 1, dz += d[row] * z[row];
        }
        violate_bounds();
        if (e.p) {
            v[0] = excess, dz += multiplier * e.b[0];
            primal = std::fabs(excess), reach_primal = max2(std::fabs(e.b[0]), std::fabs(excess + e.b[0]));
        }
        for (int row = e.k; row < e.total; ++row)
            if (d[row] < INF) reach_primal = max2(reach_primal, max2(std::fabs(d[row]), std::fabs(v[row] + d[row])));
        gap = std::fabs(xPx + qx + dz);
    }

    void violate_bounds() {
        if (e.upper)
            for (int j = 0; j < n; ++j) v[e.k + j] = x[j] - d[e.k + j];
        if (e.lower)
            for (int j = 0; j < n; ++j) v[e.lower_from + j] = -x[j] - d[e.lower_from + j];
    }

    bool accept(double eps_abs, double eps_rel) const {
        const double reach = largest(x.data, n);
        for (int row = e.k; row < e.total; ++row) {
            const double room = CLEAR * (reach + (d[row] < INF ? std::fabs(d[row]) : 0.0));
            if (held[row] ? !(z[row] > CLEAR * scale) : !(v[row] < -room)) return false;
        }
        return within(eps_abs, eps_rel);
    }
};

}  // namespace
