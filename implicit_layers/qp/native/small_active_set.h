// The dual active set method of active_set.h for a few unknowns, where what counts is that no operation waits for another.
//
// Instead of triangular factors it holds inverses: P⁻¹, and K_WW⁻¹ with K = C P⁻¹C', which grows and shrinks with the
// working set W by bordering. Every vector is padded to LD entries, a multiple of the register, known at compile time.
// The same clear cases are accepted, by the same measures; round-off of the inverses goes in the final refinement.
//
// Reference: Goldfarb and Idnani (1983).
#pragma once

#include "active_set.h"

namespace {

// out = sum of weights[i] * rows of M, `rows` of them, REGISTERS * LANES entries of each. Where these are few, even and odd
// rows are summed apart, so that additions need not wait for each other.
template <int REGISTERS>
inline void sum_rows(const double *M, int rows, int width, const double *weights, double *out) {
    Vec even[REGISTERS] = {}, odd[REGISTERS] = {};
    constexpr bool APART = REGISTERS <= 4;
    int i = 0;
    for (; APART && i + 1 < rows; i += 2, M += 2 * width)
        for (int l = 0; l < REGISTERS; ++l) {
            even[l] += weights[i] * load(M + l * LANES);
            odd[l] += weights[i + 1] * load(M + width + l * LANES);
        }
    for (; i < rows; ++i, M += width)
        for (int l = 0; l < REGISTERS; ++l) even[l] += weights[i] * load(M + l * LANES);
    for (int l = 0; l < REGISTERS; ++l) store(out + l * LANES, even[l] + odd[l]);
}

template <int WIDTH> inline void sum_padded(const double *M, int rows, const double *weights, double *out) {
    sum_rows<WIDTH / LANES>(M, rows, WIDTH, weights, out);
}

// The same for any width that is a multiple of LANES, as many registers at a time as there are.
inline void sum_rows(const double *M, int rows, int width, const double *weights, double *out) {
    int j = 0;
    for (; j + 8 * LANES <= width; j += 8 * LANES) sum_rows<8>(M + j, rows, width, weights, out + j);
    M += j, out += j;
    switch ((width - j) / LANES) {
    case 7: return sum_rows<7>(M, rows, width, weights, out);
    case 6: return sum_rows<6>(M, rows, width, weights, out);
    case 5: return sum_rows<5>(M, rows, width, weights, out);
    case 4: return sum_rows<4>(M, rows, width, weights, out);
    case 3: return sum_rows<3>(M, rows, width, weights, out);
    case 2: return sum_rows<2>(M, rows, width, weights, out);
    case 1: return sum_rows<1>(M, rows, width, weights, out);
    }
}

template <int LD> class SmallActiveSet {
  public:
    explicit SmallActiveSet(const Problems &a)
        : a_(a), e(a, 0), n(e.n), ldk(round_up(e.k)), most(n < e.total ? n : e.total), shared_P(a.stride_P == 0),
          shared_rows(a.stride_G == 0 && a.stride_A == 0) {
        for (Array<double> *M : {&P, &inverse_P, &inverse_K}) M->make(LD * LD);
        for (Array<double> *r : {&x0, &x, &u, &gradient, &Px, &z, &target, &y, &side}) r->make(LD);
        Z.make((LD + 1) * LD), columns.make((size_t)n * ldk), size.make(ldk);
        for (Array<double> *r : {&d, &v0, &v, &column, &weight, &rounding}) r->make(ldk + 2 * LD);
        W.make(LD), where.make(e.total);
    }

    bool solve(int64_t element, double eps_abs, double eps_rel, int max_iter, const double *warm_lam) {
        e = Element(a_, element);
        pivots = 0, most_pivots = max_iter, count = 0;
        if (!read() || !begin(warm_lam)) return false;
        return pivot() && finish(eps_abs, eps_rel);
    }

    int iterations() const { return pivots; }

    void write(double *x_out, double *lam, double *s, uint8_t *active, uint8_t *touching, double *kept) const {
        for (int j = 0; j < n; ++j) x_out[j] = x[j];
        for (int row = 0; row < e.total; ++row) {
            const int position = where[row];
            lam[row] = position >= 0 ? z[position] : 0.0;
            s[row] = e.equality(row) ? 0.0 : max2(-v[row], 0.0);
            active[row] = touching[row] = position >= 0;
        }
        if (!kept || !symmetric) return;  // the adjoint takes P as it is
        *kept++ = count;
        for (int i = 0; i < count; ++i) *kept++ = W[i];
        std::memcpy(kept, inverse_K, (size_t)count * LD * sizeof(double));
        std::memcpy(kept + count * LD, inverse_P, (size_t)n * LD * sizeof(double));
    }

    double primal = 0, dual = 0, gap = 0;

  private:
    const Problems &a_;
    Element e;
    const int n, ldk, most;
    const bool shared_P, shared_rows;
    bool prepared = false, definite = false, symmetric = false;
    int pivots = 0, most_pivots = 0, count = 0;
    double reach = 0, scale = 0, reach_primal = 0, xPx = 0, qx = 0, dz = 0;
    Array<double> P, inverse_P, inverse_K, x0, x, u, gradient, Px, z, target, y, side;
    Array<double> Z;        // P⁻¹ times the rows of W, and room for one that enters
    Array<double> columns;  // of the matrix rows, which are `size` large in the 1-norm
    Array<double> size, d, v0, v, column;
    Array<double> weight, rounding;  // 1 / size, or 0 in W and on equality rows; round-off of d, for the size
    Array<int> W, where;

    bool read() {
        if (!shared_P || !prepared) definite = invert();
        pivots += 1;  // for every element alike, whoever does the work
        if (!shared_rows || !prepared) {
            for (int i = 0; i < ldk; ++i) size[i] = 0;
            for (int i = 0; i < e.k; ++i) {
                const double *row = e.matrix_row(i);
                for (int j = 0; j < n; ++j) columns[j * ldk + i] = row[j];
            }
            for (int j = 0; j < n; ++j)
                for (int i = 0; i < ldk; i += LANES) store(size + i, load(size + i) + abs2(load(columns + j * ldk + i)));
        }
        prepared = true;
        if (!definite) return false;
        double check = 0;
        for (int i = 0; i < e.m; ++i) d[i] = e.h[i];
        for (int i = 0; i < e.p; ++i) d[e.m + i] = e.b[i], check += 0.0 * e.b[i];
        for (int row = e.k; row < e.total; ++row) d[row] = e.right(row);
        bool fine = true;
        for (int row = 0; row < e.total; ++row) fine &= d[row] > -INF, where[row] = -1;
        for (int row = 0; row < e.total; ++row) {
            weight[row] = weight_of(row);
            rounding[row] = d[row] < INF ? CLEAR * std::fabs(d[row]) * weight[row] : 0.0;
        }
        for (int row = 0; row < e.k; ++row) check += 0.0 * size[row];
        double q[LD];
        for (int j = 0; j < n; ++j) q[j] = -e.q[j], check += 0.0 * q[j];
        if (!fine || !finite(check)) return false;
        sum_padded<LD>(inverse_P, n, q, x0);
        violations(x0, v0);
        return true;
    }

    // P⁻¹ by Gauss and Jordan; false where a pivot keeps too little of its diagonal entry.
    bool invert() {
        double top = 0, off = 0, *A = inverse_P;
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) P[i * LD + j] = e.P[i * n + j];
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j) {
                const double left = P[i * LD + j], right = P[j * LD + i];
                top = max2(top, max2(std::fabs(left), std::fabs(right))), off = max2(off, std::fabs(left - right));
                A[i * LD + j] = A[j * LD + i] = P[i * LD + j] = P[j * LD + i] = 0.5 * (left + right);
            }
        for (int i = 0; i < n; ++i)
            for (int j = n; j < LD; ++j) A[i * LD + j] = 0.0;  // a NaN of the element before would stay
        symmetric = off <= ROUNDED * top;
        if (!(off <= ASYMMETRY * top)) return false;
        for (int k = 0; k < n; ++k) {
            double *row = A + k * LD;
            const double pivot = row[k];
            if (!(pivot > DEFINITE * std::fabs(P[k * LD + k]))) return false;
            const double inverse = 1.0 / pivot;
            row[k] = 1.0;
            for (int j = 0; j < LD; j += LANES) store(row + j, inverse * load(row + j));
            for (int i = 0; i < n; ++i) {
                if (i == k) continue;
                double *other = A + i * LD;
                const double factor = other[k];
                other[k] = 0.0;
                for (int j = 0; j < LD; j += LANES) store(other + j, load(other + j) - factor * load(row + j));
            }
        }
        return true;
    }

    void violations(const double *at, double *out) const {  // R x - d
        times_rows(at, out);
        for (int row = 0; row < ldk; row += LANES) store(out + row, load(out + row) - load(d + row));
        if (e.upper)
            for (int j = 0; j < n; ++j) out[e.k + j] = at[j] - d[e.k + j];
        if (e.lower)
            for (int j = 0; j < n; ++j) out[e.lower_from + j] = -at[j] - d[e.lower_from + j];
    }
    void times_rows(const double *at, double *out) const { sum_rows(columns, n, ldk, at, out); }

    double weight_of(int row) const { return row >= e.k ? 1.0 : row < e.m ? 1.0 / size[row] : 0.0; }

    double room(int row) const {  // below this, a violation may be round-off
        return CLEAR * ((row < e.k ? size[row] : 1.0) * reach + (d[row] < INF ? std::fabs(d[row]) : 0.0));
    }

    // Start from the equality rows and those of a warm start, without those whose multipliers would be negative.
    bool begin(const double *warm_lam) {
        for (int j = 0; j < LD; ++j) x[j] = x0[j];
        for (int row = 0; row < ldk + 2 * LD; ++row) v[row] = v0[row];
        if (e.p > n) return false;
        for (int row = e.m; row < e.k; ++row)
            if (!enter(row, false)) return false;
        pivots += int(count > 0 || warm_lam);  // as a factorisation of all of them at once
        if (!warm_lam) return true;
        for (int row = 0; row < e.total; ++row)
            if (!e.equality(row) && warm_lam[row] > 0 && d[row] < INF) enter(row, false);
        for (int drops = 0; drops <= most; ++drops) {
            settle();
            int lowest = -1;
            for (int i = 0; i < count; ++i)
                if (!e.equality(W[i]) && !(z[i] > 0) && (lowest < 0 || z[i] < z[lowest])) lowest = i;
            if (lowest < 0) return true;
            drop(lowest);
        }
        return false;
    }

    // z and x of the working set afresh: the steps have gathered round-off.
    void settle() {
        double c[LD], weights[LD];
        for (int i = 0; i < count; ++i) c[i] = v0[W[i]];
        sum_padded<LD>(inverse_K, count, c, z);
        for (int i = 0; i < count; ++i) weights[i] = z[i];
        sum_padded<LD>(Z, count, weights, u);
        for (int j = 0; j < LD; ++j) x[j] = x0[j] - u[j];
        violations(x, v);
    }

    // The row outside W with the largest violation for its size, if that is more than round-off; or -1.
    int most_violated() const {
        const Vec floor = splat<Vec>(CLEAR * reach);
        Vec top{}, place = splat<Vec>(-1.0), here{0, 1, 2, 3};
        for (int row = 0; row < e.total; row += LANES, here += double(LANES)) {
            const Vec relative = load(v + row) * load(weight + row);
            const VecMask larger = (relative > floor + load(rounding + row)) & (relative > top);
            top = select(larger, relative, top), place = select(larger, here, place);
        }
        int best = 0;
        for (int l = 1; l < LANES; ++l)
            if (top[l] > top[best] || (top[l] == top[best] && place[l] < place[best])) best = l;
        return int(place[best]);
    }

    bool pivot() {
        bool moved = count > 0;
        while (pivots <= most_pivots) {
            reach = largest(x.data, LD);
            if (!finite(reach)) return false;
            const int worst = most_violated();
            if (worst < 0) {
                if (moved) settle();
                return true;
            }
            moved = true;
            if (!enter(worst, true)) return false;
            violations(x, v);
        }
        return false;
    }

    // P⁻¹ times a row, into Z at `position`; the row's products with all others, into `column`.
    void see(int row, int position) {
        double *out = Z + position * LD;
        if (row < e.k) {
            sum_padded<LD>(inverse_P, n, e.matrix_row(row), out);
        } else {
            const double sign = e.sign(row), *from = inverse_P + e.variable(row) * LD;
            for (int j = 0; j < LD; ++j) out[j] = sign * from[j];
        }
        times_rows(out, column);
        if (e.upper)
            for (int j = 0; j < n; ++j) column[e.k + j] = out[j];
        if (e.lower)
            for (int j = 0; j < n; ++j) column[e.lower_from + j] = -out[j];
    }

    // Let a row in. Its multiplier grows, and x moves along, until it holds with equality; rows whose multipliers reach
    // zero on the way leave, if `watch`.
    bool enter(int row, bool watch) {
        double violation = v[row], multiplier = 0;
        double entering[LD];  // P⁻¹ times the row: its place in Z may be taken until it is in
        see(row, count);
        for (int j = 0; j < LD; ++j) entering[j] = Z[count * LD + j];
        for (int drops = 0; drops <= most + 1; ++drops) {
            pivots += int(watch);
            double t[LD];
            for (int i = 0; i < count; ++i) t[i] = column[W[i]];
            sum_padded<LD>(inverse_K, count, t, y);  // the others' answer to a unit of this row
            double pivot = column[row], weights[LD];
            for (int i = 0; i < count; ++i) pivot -= t[i] * y[i], weights[i] = y[i];
            const bool independent = count < n && pivot > INDEPENDENT * column[row];
            double step = independent ? violation / pivot : INF;
            int leaves = -1;
            for (int i = 0; watch && i < count; ++i)
                if (!e.equality(W[i]) && y[i] > 0 && z[i] < step * y[i]) step = z[i] / y[i], leaves = i;
            if (!(std::fabs(step) < INF)) return false;  // infeasible: the other method finds the certificate
            for (int i = 0; i < count; ++i) z[i] -= step * y[i];
            multiplier += step;
            if (independent) {
                sum_padded<LD>(Z, count, weights, u);
                for (int j = 0; j < LD; j += LANES)
                    store(x + j, load(x + j) - step * (load(entering + j) - load(u + j)));
                violation -= step * pivot;
            }
            if (leaves < 0) {
                border(row, multiplier, pivot, entering);
                if (!watch) violations(x, v);
                return true;
            }
            drop(leaves);
        }
        return false;
    }

    void border(int row, double multiplier, double pivot, const double *entering) {
        const double inverse = 1.0 / pivot;
        for (int j = count; j < LD; ++j) y[j] = 0.0;
        for (int i = 0; i < count; ++i) {
            const double share = y[i] * inverse;
            double *to = inverse_K + i * LD;
            for (int j = 0; j < LD; j += LANES) store(to + j, load(to + j) + share * load(y + j));
            to[count] = -share;
        }
        double *last = inverse_K + count * LD;
        for (int j = 0; j < LD; ++j) last[j] = -y[j] * inverse, Z[count * LD + j] = entering[j];
        last[count] = inverse;
        z[count] = multiplier, W[count] = row, weight[row] = 0.0, where[row] = count++;
    }

    void drop(int position) {
        double gone[LD];
        for (int j = 0; j < LD; ++j) gone[j] = j < count ? inverse_K[position * LD + j] : 0.0;
        const double diagonal = 1.0 / gone[position];
        where[W[position]] = -1, weight[W[position]] = weight_of(W[position]);
        for (int i = 0, to = 0; i < count; ++i) {
            if (i == position) continue;
            double *from = inverse_K + i * LD, *row = inverse_K + to * LD;
            const double factor = gone[i] * diagonal;
            for (int j = 0; j < LD; j += LANES) store(row + j, load(from + j) - factor * load(gone + j));
            for (int j = position; j + 1 < LD; ++j) row[j] = row[j + 1];
            row[LD - 1] = 0.0;
            if (to != i) {
                for (int j = 0; j < LD; ++j) Z[to * LD + j] = Z[i * LD + j];
                z[to] = z[i], W[to] = W[i], where[W[to]] = to;
            }
            ++to;
        }
        count -= 1;
        for (int i = 0; i <= count; ++i) inverse_K[i * LD + count] = 0.0;
    }

    bool finish(double eps_abs, double eps_rel) {
        double before = INF;
        for (int step = 0; step < 4; ++step) {
            measure();
            const double error = dual / (scale + TINY) + primal / (reach_primal + TINY);
            if (!finite(error)) return false;
            if (error <= 1e-14 || error > 0.5 * before || step == 3) break;
            before = error;
            refine();
        }
        reach = largest(x.data, LD);
        for (int row = 0; row < e.total; ++row) {
            if (e.equality(row)) continue;
            const int position = where[row];
            const double weight = row < e.k ? size[row] : 1.0;
            if (position < 0 ? !(v[row] < -room(row)) : !(z[position] * weight > CLEAR * scale)) return false;
        }
        const double gap_size = max2(max2(std::fabs(xPx), std::fabs(qx)), std::fabs(dz));
        return dual <= eps_abs + eps_rel * scale && primal <= eps_abs + eps_rel * reach_primal &&
               gap <= eps_abs + eps_rel * gap_size && finite(gap);  // its terms may overflow, all the rest be fine
    }

    void measure() {
        sum_padded<LD>(P, n, x, Px);
        for (int j = 0; j < LD; ++j) gradient[j] = 0.0;
        dz = 0;
        for (int i = 0; i < count; ++i) {
            const int row = W[i];
            if (row < e.k) {
                const double *c = e.matrix_row(row);
                for (int j = 0; j < n; ++j) gradient[j] += z[i] * c[j];
            } else {
                gradient[e.variable(row)] += e.sign(row) * z[i];
            }
            dz += d[row] * z[i];
        }
        scale = dual = xPx = qx = 0;
        for (int j = 0; j < n; ++j) {
            scale = max2(scale, max2(std::fabs(gradient[j]), max2(std::fabs(Px[j]), std::fabs(e.q[j]))));
            xPx += x[j] * Px[j], qx += e.q[j] * x[j];
            gradient[j] += Px[j] + e.q[j];
            dual = max2(dual, std::fabs(gradient[j]));
        }
        gap = std::fabs(xPx + qx + dz);
        primal = reach_primal = 0;
        double check = dual;
        for (int row = 0; row < e.total; ++row) {
            primal = max2(primal, where[row] >= 0 ? std::fabs(v[row]) : v[row]);
            if (d[row] < INF) reach_primal = max2(reach_primal, max2(std::fabs(d[row]), std::fabs(v[row] + d[row])));
            if (d[row] < INF) check += 0.0 * v[row];
        }
        if (check != check) dual = check;
    }

    void refine() {
        double t[LD], right[LD];
        sum_padded<LD>(inverse_P, n, gradient, t);
        times_rows(t, column);
        if (e.upper)
            for (int j = 0; j < n; ++j) column[e.k + j] = t[j];
        if (e.lower)
            for (int j = 0; j < n; ++j) column[e.lower_from + j] = -t[j];
        for (int i = 0; i < count; ++i) right[i] = v[W[i]] - column[W[i]];
        sum_padded<LD>(inverse_K, count, right, y);
        for (int i = 0; i < count; ++i) right[i] = y[i], z[i] += y[i];
        sum_padded<LD>(Z, count, right, u);
        for (int j = 0; j < LD; ++j) x[j] -= t[j] + u[j];
        violations(x, v);
    }
};

}  // namespace
