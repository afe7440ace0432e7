// A dual active set method: the quick way to the solution of a program with positive definite P.
//
// With P = U'U and V = U⁻ᵀ (rows of the constraints as columns), the dual of the program is
//
//     min 1/2 z'Kz - c'z,   K = V'V,   c = violations at the unconstrained minimum,   z >= 0 on inequalities,
//
// so a guess W of the active rows costs one small factorisation K_WW = R'R. Large programs first flip all wrong rows at
// once (block pivoting, which may cycle and is then given up); the rest is done row by row as in non-negative least
// squares, which always ends. Rows of V and K are made when a row first becomes active, and are kept from element to
// element where the batch shares them.
//
// Only clear cases are accepted: independent active rows, multipliers and slacks away from zero, residuals within
// tolerance. Everything else is left to the interior point method, which knows how to deal with it.
//
// References: Goldfarb and Idnani (1983); Lawson and Hanson (1974), ch. 23; Judice and Pires (1994) for block pivoting.
#pragma once

#include "problems.h"
#include "program.h"

namespace {

constexpr double DEFINITE = 1e-10;    // share of its diagonal entry that a pivot of P must keep
constexpr double INDEPENDENT = 1e-10; // the same for K
constexpr double CLEAR = 1e-9;        // relative size below which a slack or a multiplier may as well be zero
constexpr double ROUNDED = 1e-13;     // asymmetry of P, relative, that the adjoint need not correct
constexpr int WORTH_ALL = 8;          // elements sharing their rows from which on all of K pays
constexpr int SMALL = 24;             // up to this n, the method of small_active_set.h
constexpr int ROUNDS = 12, IDLE = 2;      // of block pivoting: at most, and without progress

inline int round_up(int n) { return (n + LANES - 1) / LANES * LANES; }

// V rows (already holding the rows of the matrix) <- U⁻ᵀ row, for ROWS of them side by side; entries before `from` are 0.
template <int ROWS> void forward_rows(const double *U, const double *inverse, int n, int ld, double *V, int from) {
    for (int l = from - from % 4; l < n; l += 4) {
        const int block = n - l < 4 ? n - l : 4;
        double a[4][ROWS];
        for (int r = 0; r < ROWS; ++r) {
            double *v = V + (size_t)r * ld;
            for (int i = 0; i < block; ++i) {
                v[l + i] *= inverse[l + i];
                a[i][r] = v[l + i];
                for (int j = l + i + 1; j < l + block; ++j) v[j] -= a[i][r] * U[(size_t)(l + i) * ld + j];
            }
        }
        if (block < 4) return;
        const double *u = U + (size_t)l * ld;
        for (int j = l + 4; j < ld; j += 4) {
            const Vec u0 = load(u + j), u1 = load(u + ld + j), u2 = load(u + 2 * ld + j), u3 = load(u + 3 * ld + j);
            for (int r = 0; r < ROWS; ++r) {
                double *v = V + (size_t)r * ld + j;
                Vec sum = load(v);
                sum -= a[0][r] * u0, sum -= a[1][r] * u1, sum -= a[2][r] * u2, sum -= a[3][r] * u3;
                store(v, sum);
            }
        }
    }
}

// Inner products of A rows of `a` with B rows of `b`; every one is summed in the same order whatever A and B.
template <int A, int B> void inner_products(const double *a, const double *b, int ld, double (&out)[A][B]) {
    Vec sum[A][B] = {};
    for (int j = 0; j < ld; j += 4)
        for (int i = 0; i < A; ++i) {
            const Vec left = load(a + (size_t)i * ld + j);
            for (int l = 0; l < B; ++l) sum[i][l] += left * load(b + (size_t)l * ld + j);
        }
    for (int i = 0; i < A; ++i)
        for (int l = 0; l < B; ++l) out[i][l] = sum[i][l][0] + sum[i][l][1] + sum[i][l][2] + sum[i][l][3];
}

// Factor A = U'U in place, block row by block row from row `first` on (a multiple of 4; what is above is factored).
// The diagonal of U is replaced by its inverse, kept in `inverse`. Returns the first row whose pivot is not above
// share * |A_ii|, or n.
inline int cholesky(const double *A, double *U, double *inverse, int n, int ld, int first, double share) {
    for (int i = first; i < n; i += 4) {
        const int rows = n - i < 4 ? n - i : 4;
        switch (rows) {
        case 4: block_row<4, double>(A, nullptr, nullptr, nullptr, 0, U, ld, i, round_up(n)); break;
        case 3: block_row<3, double>(A, nullptr, nullptr, nullptr, 0, U, ld, i, round_up(n)); break;
        case 2: block_row<2, double>(A, nullptr, nullptr, nullptr, 0, U, ld, i, round_up(n)); break;
        default: block_row<1, double>(A, nullptr, nullptr, nullptr, 0, U, ld, i, round_up(n));
        }
        for (int r = i; r < i + rows; ++r) {
            double *row = U + (size_t)r * ld;
            for (int above = i; above < r; ++above)
                axpy(-U[(size_t)above * ld + r], U + (size_t)above * ld, row, r, n);
            if (!(row[r] > share * std::fabs(A[(size_t)r * ld + r]))) return r;
            inverse[r] = 1.0 / std::sqrt(row[r]);
            for (int j = r; j < n; ++j) row[j] *= inverse[r];
        }
    }
    return n;
}

inline void forward(const double *U, const double *inverse, int n, int ld, double *r) {  // r <- U⁻ᵀ r
    for (int i = 0; i < n; ++i) {
        r[i] *= inverse[i];
        axpy(-r[i], U + (size_t)i * ld, r, i + 1, n);
    }
}

inline void backward(const double *U, const double *inverse, int n, int ld, double *r) {  // r <- U⁻¹ r
    for (int i = n - 1; i >= 0; --i) r[i] = (r[i] - dot(U + (size_t)i * ld, r, i + 1, n)) * inverse[i];
}

constexpr int64_t MEASURES = 5;  // of a report: status, iterations, and the residuals primal, dual and gap

// What the backward pass needs of a solution of more than SMALL unknowns: the number of active rows, their indices, and the upper triangles of R and
// U by rows with inverted diagonals; U only where every element has its own P.
struct Kept {
    static constexpr int NOTHING = -1, SEPARABLE = -2;  // instead of the number of rows
    static int64_t size(int64_t n, int64_t total, bool shared_P) {
        const int64_t most = n < total ? n : total;
        if (n <= SMALL) return 1 + most + (most + n) * round_up(int(n));  // K_WW⁻¹ and P⁻¹ instead
        return 1 + most + most * (most + 1) / 2 + (shared_P ? 0 : n * (n + 1) / 2);
    }
};

inline bool is_diagonal(const Element &e) {
    for (int i = 0; i < e.n; ++i) {
        const double *row = e.P + (size_t)i * e.n;
        double off = 0;
#pragma omp simd reduction(+ : off)
        for (int j = 0; j < e.n; ++j) off += std::fabs(row[j]);
        if (!(row[i] > 0) || off != row[i]) return false;
    }
    return true;
}

class ActiveSet {
  public:
    explicit ActiveSet(const Problems &a)
        : a_(a), e(a, 0), n(e.n), ld(round_up(n)), most(n < e.total ? n : e.total), ldr(round_up(most + 1)),
          bases(e.k + (e.upper || e.lower ? n : 0)),
          shared_P(a.stride_P == 0), shared_rows(shared_P && a.stride_G == 0 && a.stride_A == 0) {
        for (Array<double> *r : {&inverse, &x0, &x, &u, &gradient, &Px, &z_bounds}) r->make(ld);
        u_all.make(bases), used_in.make(bases);
        size.make(bases), place.make(bases), base_of.make(bases);
        for (Array<double> *r : {&d, &v0, &v}) r->make(e.total);
        for (Array<double> *r : {&inverse_R, &z, &target, &y}) r->make(ldr);
        W.make(most + 1), at.make(most + 1), side.make(most + 1), where.make(e.total), entering.make(e.total + bases);
    }

    // Solve one problem; false where it is not a clear case, and then nothing is promised of the results.
    bool solve(int64_t element, double eps_abs, double eps_rel, int max_iter, const double *warm_lam) {
        e = Element(a_, element);
        pivots = 0, most_pivots = max_iter, count = 0, used = 0, turn += 1;
        if (!shared_P || !prepared) separable = e.m == 0 && e.p <= 1 && is_diagonal(e);
        if (separable) return (prepared = true) && solve_separable() && accept(eps_abs, eps_rel);
        if (!prepare() || !begin(warm_lam)) return false;
        if (block_pivoting()) return finish(eps_abs, eps_rel);
        return make_dual_feasible() && single_pivoting() && finish(eps_abs, eps_rel);
    }

    int iterations() const { return pivots; }

    void write(double *x_out, double *lam, double *s, uint8_t *active, uint8_t *touching, double *kept) const {
        std::memcpy(x_out, x.data, n * sizeof(double));
        for (int row = 0; row < e.total; ++row) {
            const bool held = where.data[row] >= 0;
            lam[row] = multiplier_of(row);
            s[row] = e.equality(row) ? 0.0 : max2(-v.data[row], 0.0);
            active[row] = touching[row] = held;
        }
        if (!kept) return;
        if (separable) *kept = Kept::SEPARABLE;
        if (separable || !symmetric) return;  // the adjoint takes P as it is
        *kept++ = count;
        for (int i = 0; i < count; ++i) *kept++ = W.data[i];
        kept = pack(R, inverse_R, count, ldr, kept);
        if (!shared_P) pack(U, inverse, n, ld, kept);
    }

    double primal = 0, dual = 0, gap = 0;

    // The upper triangle of M by rows, the diagonal from elsewhere; returns where it ends.
    static double *pack(const double *M, const double *diagonal, int n, int ld, double *out) {
        for (int i = 0; i < n; ++i) {
            *out++ = diagonal[i];
            std::memcpy(out, M + (size_t)i * ld + i + 1, (n - i - 1) * sizeof(double));
            out += n - i - 1;
        }
        return out;
    }

  private:
    const Problems &a_;
    Element e;
    const int n, ld, most, ldr, bases;
    const bool shared_P, shared_rows;
    bool prepared = false, definite = false, symmetric = false, separable = false, everything_seen = false;
    int pivots = 0, most_pivots = 0, count = 0, seen = 0;
    Array<double> P, U, inverse, x0, x, u, gradient, Px, V, K, size, d, v0, v, gathered, R, inverse_R, z, target, y;
    Array<double> z_bounds, u_all;          // multipliers of bounds of separable problems; R P⁻¹R'z
    Array<double> inverse_K;                // K_WW⁻¹, while rows come and go one by one
    Array<int> place, base_of, where, entering;  // place: index + 1 among the seen rows; where: position in W or -1
    Array<int64_t> used_in;            // the turn in which a row was last in W
    int64_t turn = 0;                  // counts elements
    int used = 0;                      // rows that were in W in this turn; others may have been seen by other elements
    Array<int> W, at;                  // the working set, and where its rows stand among the seen ones
    Array<double> side;                // 1, or -1 for lower bounds

    int base(int row) const { return row < e.k ? row : e.k + e.variable(row); }
    double sign(int row) const { return row < e.k ? 1.0 : e.sign(row); }
    const double *V_of(int position) const { return V.data + (size_t)at.data[position] * ld; }  // of W[position]

    // The large arrays, once they are needed.
    void allocate() {
        P.make((size_t)n * ld), U.make((size_t)n * ld);
        V.reserve((size_t)bases * ld), K.reserve((size_t)bases * bases);
        gathered.make((size_t)(most + 1) * ldr), R.make((size_t)(most + 1) * ldr);
        inverse_K.reserve((size_t)(most + 1) * ldr);
    }

    // Factor P, measure the rows, find the unconstrained minimum.
    bool prepare() {
        if (!P) allocate();
        if (!shared_P || !prepared) {
            definite = symmetrise() && cholesky(P, U, inverse, n, ld, 0, DEFINITE) == n;
        }
        pivots += 1;  // for every element alike, whoever does the work
        if (!shared_rows || !prepared) {
            std::memset(place.data, 0, bases * sizeof(int)), seen = 0;
            measure_rows();
            // Where many elements share the rows, all of K pays: violations follow from it without x.
            everything_seen = shared_rows && definite && a_.batch >= WORTH_ALL;
            if (everything_seen) see_everything();
        }
        prepared = true;
        if (!definite) return false;
        double check = 0;
        for (int row = 0; row < e.total; ++row) {
            d[row] = e.right(row), where[row] = -1;
            if (!(d[row] > -INF) || (e.equality(row) && d[row] == INF)) return false;
        }
        for (int row = 0; row < e.k; ++row) check += 0.0 * size[row];
        for (int j = 0; j < n; ++j) x0[j] = -e.q[j], check += 0.0 * x0[j];
        if (!finite(check)) return false;
        forward(U, inverse, n, ld, x0), backward(U, inverse, n, ld, x0);
        violations(x0, v0);
        return true;
    }

    // The sum of the sizes of each row's entries; bounds are rows with one entry.
    void measure_rows() {
        for (int i = 0; i < e.k; ++i) {
            const double *row = e.matrix_row(i);
            double sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int j = 0; j < n; ++j) sum += std::fabs(row[j]);
            size[i] = sum;
        }
        for (int row = e.k; row < bases; ++row) size[row] = 1.0;
    }

    bool symmetrise() {
        double top = 0, off = 0;
        for (int i = 0; i < n; ++i) {
            std::memcpy(P + (size_t)i * ld, e.P + (size_t)i * n, n * sizeof(double));
            top = max2(top, largest(P + (size_t)i * ld, n));
        }
        constexpr int TILE = 16;  // the transposed reads stay in the cache
        for (int ib = 0; ib < n; ib += TILE)
            for (int jb = 0; jb <= ib; jb += TILE)
                for (int i = ib; i < n && i < ib + TILE; ++i)
                    for (int j = jb; j < i && j < jb + TILE; ++j) {
                        double &a = P[(size_t)i * ld + j], &b = P[(size_t)j * ld + i];
                        off = max2(off, std::fabs(a - b));
                        a = b = 0.5 * (a + b);
                    }
        symmetric = off <= ROUNDED * top;
        return off <= ASYMMETRY * top;
    }

    void violations(const double *at, double *out) const {  // R x - d
        if (e.m) rows_times(e.G, e.m, n, at, out);
        if (e.p) rows_times(e.A, e.p, n, at, out + e.m);
        for (int row = 0; row < e.k; ++row) out[row] -= d[row];
        if (e.upper)
            for (int j = 0; j < n; ++j) out[e.k + j] = at[j] - d[e.k + j];
        if (e.lower)
            for (int j = 0; j < n; ++j) out[e.lower_from + j] = -at[j] - d[e.lower_from + j];
    }

    // Make V and K for rows that become active for the first time.
    void see(const int *rows, int number) {
        const int first = seen;
        for (int i = 0; i < number; ++i) {
            const int b = base(rows[i]);
            if (place[b]) continue;
            place[b] = seen + 1, base_of[seen++] = b;
        }
        int at = first;
        for (; at + 4 <= seen; at += 4) make_V<4>(at);
        for (; at < seen; ++at) make_V<1>(at);
        for (at = first; at + 4 <= seen; at += 4) make_K<4>(at);
        for (; at < seen; ++at) make_K<1>(at);
    }

    void see_everything() {
        for (int b = 0; b < bases; ++b) entering[b] = b < e.k || e.upper ? b : e.lower_from + b - e.k;
        see(entering, bases);
    }

    template <int ROWS> void make_V(int at) {
        int from = n;
        for (int r = 0; r < ROWS; ++r) {
            const int b = base_of[at + r];
            double *out = V + (size_t)(at + r) * ld;
            std::memset(out + n, 0, (ld - n) * sizeof(double));
            if (b < e.k) {
                std::memcpy(out, e.matrix_row(b), n * sizeof(double)), from = 0;
            } else {
                std::memset(out, 0, n * sizeof(double)), out[b - e.k] = 1.0, from = b - e.k < from ? b - e.k : from;
            }
        }
        forward_rows<ROWS>(U, inverse, n, ld, V + (size_t)at * ld, from);
    }

    template <int ROWS> void make_K(int at) {
        int other = 0;
        const double *a = V + (size_t)at * ld;
        for (; other + 2 <= at + ROWS; other += 2) {
            double out[ROWS][2];
            inner_products<ROWS, 2>(a, V + (size_t)other * ld, ld, out);
            for (int r = 0; r < ROWS; ++r)
                for (int c = 0; c < 2; ++c) put_K(at + r, other + c, out[r][c]);
        }
        if (other < at + ROWS) {
            double out[ROWS][1];
            inner_products<ROWS, 1>(a, V + (size_t)other * ld, ld, out);
            for (int r = 0; r < ROWS; ++r) put_K(at + r, other, out[r][0]);
        }
    }

    void put_K(int i, int j, double value) { K[(size_t)i * bases + j] = K[(size_t)j * bases + i] = value; }

    // Factor K_WW from position `first` on; false where a row depends on those before it.
    bool factor(int first) {
        first -= first % 4;
        const int width = round_up(count);
        for (int i = first; i < count; ++i) {
            double *out = gathered + (size_t)i * ldr;
            const double *row = K + (size_t)at[i] * bases;
            for (int j = i - i % 4; j < i; ++j) out[j] = 0.0;
            for (int j = i; j < count; ++j) out[j] = side[i] * side[j] * row[at[j]];
            for (int j = count; j < width; ++j) out[j] = 0.0;
        }
        return cholesky(gathered, R, inverse_R, count, ldr, first, INDEPENDENT) == count;
    }

    void add(int row) {  // one that has been seen
        W[count] = row, at[count] = place[base(row)] - 1, side[count] = sign(row);
        where[row] = count++;
        int64_t &last = used_in[base(row)];
        used += last != turn, last = turn;
    }
    void shift(int from, int to) { W[to] = W[from], at[to] = at[from], side[to] = side[from], where[W[to]] = to; }

    void solve_K(double *r) const {
        forward(R.data, inverse_R.data, count, ldr, r), backward(R.data, inverse_R.data, count, ldr, r);
    }

    // The multipliers of W as they would be: target <- K_WW⁻¹ c_W.
    void aim() {
        pivots += 1;
        for (int i = 0; i < count; ++i) target[i] = v0[W[i]];
        solve_K(target);
    }

    void take() {  // z <- target, and x with it
        for (int i = 0; i < count; ++i) z[i] = target[i];
        move_x();
    }

    void move_x() {  // x = x0 - P⁻¹ R'z, violations
        combine(z, u);
        backward(U, inverse, n, ld, u);
        for (int j = 0; j < n; ++j) x[j] = x0[j] - u[j];
        violations(x, v);
    }

    void move_violations() {  // z <- target and the violations with it, from K alone
        std::memset(u_all.data, 0, bases * sizeof(double));
        for (int i = 0; i < count; ++i) {
            z[i] = target[i];
            axpy(z[i] * side[i], K + (size_t)at[i] * bases, u_all, 0, bases);
        }
        for (int row = 0; row < e.total; ++row) v[row] = v0[row] - sign(row) * u_all[place[base(row)] - 1];
    }

    void combine(const double *weights, double *out) const {  // V_W weights
        std::memset(out, 0, ld * sizeof(double));
        for (int i = 0; i < count; ++i) axpy(weights[i] * side.data[i], V_of(i), out, 0, n);
    }

    double room(int row) const {  // below this, a violation may be round-off
        const double right = d.data[row];
        return CLEAR * ((row < e.k ? size.data[row] : 1.0) * reach + (right < INF ? std::fabs(right) : 0.0));
    }
    double reach = 0;

    // Start from the equality rows, or from the active rows of a warm start.
    bool begin(const double *warm_lam) {
        if (e.p > n) return false;
        int wanted = 0;
        for (int row = e.m; row < e.k; ++row) entering[wanted++] = row;
        if (warm_lam)
            for (int row = 0; row < e.total && wanted < most; ++row)
                if (!e.equality(row) && warm_lam[row] > 0 && d[row] < INF) entering[wanted++] = row;
        admit(wanted);
        if (!factor(0)) {
            if (!warm_lam) return false;
            return begin_again();
        }
        aim(), take();
        reach = largest(x.data, n);
        return finite(reach + dot(z, z, 0, count));
    }

    void admit(int number) {  // the rows in `entering`
        see(entering, number);
        for (int i = 0; i < number; ++i) add(entering[i]);
    }

    bool begin_again() {
        for (int i = 0; i < count; ++i) where[W[i]] = -1;
        count = 0;
        return begin(nullptr);
    }

    bool block_pivoting() {
        int best = e.total + 1, idle = 0;
        bool behind = false;  // x, of the multipliers
        for (int round = 0; round < ROUNDS; ++round) {
            const int wrong = flip(false);
            if (wrong == 0) {
                if (behind) move_x();
                return true;
            }
            if (wrong < best) best = wrong, idle = 0;
            else if (++idle > IDLE) return false;
            if (count + wrong > most || pivots >= most_pivots) {
                int next = count;  // the set after the flip must not have more rows than unknowns
                for (int i = 0; i < count; ++i) next -= !e.equality(W[i]) && z[i] <= 0;
                for (int row = 0; row < e.total; ++row) next += where[row] < 0 && v[row] > room(row) && !e.equality(row);
                if (next > most || pivots >= most_pivots) return false;
            }
            flip(true);
            if (!factor(0)) return false;
            aim();
            behind = everything_seen || used == bases;  // violations follow from all of K, without x
            if (behind) {
                move_violations();
            } else {
                take();
                reach = largest(x.data, n);
            }
            if (!finite(reach + dot(target, target, 0, count))) return false;
        }
        return false;
    }

    // Count the rows on the wrong side, and move them over if asked to.
    int flip(bool move) {
        int wrong = 0;
        for (int row = 0; row < e.total; ++row) flipped(row, wrong);
        if (!move) return wrong;
        int kept = 0, before = count;
        for (int i = 0; i < before; ++i) {
            const int row = W[i];
            if (e.equality(row) || z[i] > 0) shift(i, kept++);
            else where[row] = -2;  // leaves; must not come back in the loop below
        }
        count = kept;
        int wanted = 0;
        for (int row = 0; row < e.total; ++row) {
            if (where[row] == -1 && v[row] > room(row)) entering[wanted++] = row;
            else if (where[row] == -2) where[row] = -1;
        }
        admit(wanted);
        return wrong;
    }

    void flipped(int row, int &wrong) const {
        if (e.equality(row)) return;
        const int at = where.data[row];
        wrong += at >= 0 ? z.data[at] <= 0 : v.data[row] > room(row);
    }

    // Drop rows until every multiplier is positive: the row by row method starts there.
    bool make_dual_feasible() {
        for (int tries = 0; tries <= e.total; ++tries) {
            if (!factor(0)) return begin_again();
            aim();
            int kept = 0;
            for (int i = 0; i < count; ++i) {
                const int row = W[i];
                if (e.equality(row) || target[i] > 0) shift(i, kept++);
                else where[row] = -1;
            }
            if (kept == count) {
                take();
                return true;
            }
            count = kept;
        }
        return false;
    }

    bool single_pivoting() {
        bool moved = false;
        invert_K();
        while (pivots < most_pivots) {
            reach = largest(x.data, n);
            if (!finite(reach)) return false;
            int worst = -1;
            double top = 0;
            for (int row = 0; row < e.total; ++row) {
                if (where[row] >= 0 || e.equality(row) || !(v[row] > room(row))) continue;
                const double relative = v[row] / size[base(row)];
                if (relative > top) top = relative, worst = row;
            }
            if (worst < 0) return !moved || settle();
            moved = true;
            if (!enter(worst)) return false;
            violations(x, v);
        }
        return false;
    }

    // The multipliers and x afresh from a factorisation: the updates have gathered round-off.
    bool settle() {
        if (!factor(0)) return false;
        aim(), take();
        return true;
    }

    // Let a violated row in. Its multiplier grows, and x moves along, until the row holds with equality; rows whose
    // multipliers reach zero on the way leave.
    bool enter(int row) {
        see(&row, 1);
        const int mine = place[base(row)] - 1;
        const double *column = K + (size_t)mine * bases, *mine_V = V + (size_t)mine * ld, sign_of = sign(row);
        double violation = v[row], multiplier = 0;
        for (int drops = 0; drops <= most + 1; ++drops) {
            pivots += 1;
            // The others' answer to a unit of this row, and the part of the row that does not depend on them.
            for (int i = 0; i < count; ++i) target[i] = side[i] * sign_of * column[at[i]];
            std::memset(y.data, 0, ldr * sizeof(double));
            for (int i = 0; i < count; ++i) axpy(target[i], inverse_K + (size_t)i * ldr, y, 0, count);
            for (int j = 0; j < ld; ++j) u[j] = sign_of * mine_V[j];
            for (int i = 0; i < count; ++i) axpy(-y[i] * side[i], V_of(i), u, 0, ld);
            const double pivot = dot(u, u, 0, n);
            const bool independent = count < most && pivot > INDEPENDENT * column[mine];
            double step = independent ? violation / pivot : INF;
            int leaves = -1;
            for (int i = 0; i < count; ++i)
                if (!e.equality(W[i]) && y[i] > 0 && z[i] < step * y[i]) step = z[i] / y[i], leaves = i;
            if (!(step < INF)) return false;  // infeasible: the other method finds the certificate
            for (int i = 0; i < count; ++i) z[i] -= step * y[i];
            multiplier += step;
            if (independent) {
                backward(U, inverse, n, ld, u);
                for (int j = 0; j < n; ++j) x[j] -= step * u[j];
                violation -= step * pivot;
            }
            if (leaves < 0) {
                border(row, multiplier, pivot);
                return true;
            }
            drop(leaves);
        }
        return false;
    }

    // Append a row to W, and to the inverse of K_WW by bordering.
    void border(int row, double multiplier, double pivot) {
        for (int i = 0; i < count; ++i) {
            const double share = y[i] / pivot;
            axpy(share, y, inverse_K + (size_t)i * ldr, 0, count);
            inverse_K[(size_t)i * ldr + count] = inverse_K[(size_t)count * ldr + i] = -share;
        }
        inverse_K[(size_t)count * ldr + count] = 1.0 / pivot;
        z[count] = multiplier;
        add(row);
    }

    // Take a row out of W, and out of the inverse of K_WW.
    void drop(int position) {
        double *gone = target;
        std::memcpy(gone, inverse_K + (size_t)position * ldr, count * sizeof(double));
        const double diagonal = gone[position];
        for (int i = 0; i < count; ++i) {
            if (i == position) continue;
            double *row = inverse_K + (size_t)i * ldr;
            axpy(-gone[i] / diagonal, gone, row, 0, count);
            for (int j = position + 1; j < count; ++j) row[j - 1] = row[j];
            if (i > position) std::memcpy(row - ldr, row, (count - 1) * sizeof(double));
        }
        where[W[position]] = -1;
        for (int i = position + 1; i < count; ++i) shift(i, i - 1), z[i - 1] = z[i];
        count -= 1;
    }

    // K_WW⁻¹ from its factor.
    void invert_K() {
        for (int i = 0; i < count; ++i) {
            double *row = inverse_K + (size_t)i * ldr;
            std::memset(row, 0, ldr * sizeof(double)), row[i] = 1.0;
            solve_K(row);
        }
    }

    // Diagonal P, bounds, and at most one equality row a'x = b: x follows from the row's multiplier y entry by entry,
    // x_j(y) = clip(-(q_j + y a_j) / P_jj), and a'x(y) falls piecewise linearly in y.
    bool solve_separable() {
        pivots = 1;
        const double *a = e.A;
        double check = 0;
        for (int j = 0; j < n; ++j) check += 0.0 * e.q[j];
        if (!finite(check)) return false;
        for (int row = 0; row < e.total; ++row) {
            d[row] = e.right(row), where[row] = -1;
            if (!(d[row] > -INF) || (e.equality(row) && d[row] == INF)) return false;
        }
        if (e.upper && e.lower)
            for (int j = 0; j < n; ++j)
                if (!(-d[e.lower_from + j] < d[e.k + j])) return false;
        double multiplier = 0, low = -INF, high = INF;
        if (e.p) {
            size[0] = 0;
            for (int j = 0; j < n; ++j) size[0] += std::fabs(a[j]);
            if (!(size[0] > 0) || !finite(size[0])) return false;
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
        separable_multipliers(multiplier);
        return true;
    }

    double clipped(int j, double free) const {
        const double upper = e.upper ? d[e.k + j] : INF, lower = e.lower ? -d[e.lower_from + j] : -INF;
        return free > upper ? upper : free < lower ? lower : free;
    }

    // The rest of the solution for the multiplier of the equality row.
    void separable_multipliers(double multiplier) {
        if (e.p) W[count] = 0, where[0] = count, z[count++] = multiplier;
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
            z_bounds[j] = std::fabs(push), where[row] = n + 1 + j, dz += d[row] * z_bounds[j];
        }
        violations_of_bounds();
        if (e.p) {
            v[0] = excess, dz += multiplier * e.b[0];
            primal = std::fabs(excess), reach_primal = max2(std::fabs(e.b[0]), std::fabs(excess + e.b[0]));
        }
        for (int row = e.k; row < e.total; ++row)
            if (d[row] < INF) reach_primal = max2(reach_primal, max2(std::fabs(d[row]), std::fabs(v[row] + d[row])));
        gap = std::fabs(xPx + qx + dz);
    }

    void violations_of_bounds() {
        if (e.upper)
            for (int j = 0; j < n; ++j) v[e.k + j] = x[j] - d[e.k + j];
        if (e.lower)
            for (int j = 0; j < n; ++j) v[e.lower_from + j] = -x[j] - d[e.lower_from + j];
    }

    double multiplier_of(int row) const {
        const int position = where.data[row];
        return position < 0 ? 0.0 : position > n ? z_bounds.data[position - n - 1] : z.data[position];
    }

    // Refine, and accept only what is beyond doubt.
    bool finish(double eps_abs, double eps_rel) {
        double before = INF;
        for (int step = 0; step < 3; ++step) {
            measure();
            const double error = dual / (scale + TINY) + primal / (reach_primal + TINY);
            if (!finite(error)) return false;
            if (error <= 1e-14 || error > 0.5 * before || step == 2) break;
            before = error;
            refine();
        }
        return accept(eps_abs, eps_rel);
    }

    bool accept(double eps_abs, double eps_rel) {
        reach = largest(x.data, n);
        for (int row = 0; row < e.total; ++row) {
            if (e.equality(row)) continue;
            const double weight = row < e.k ? size[row] : 1.0;
            if (where[row] < 0 ? !(v[row] < -room(row)) : !(multiplier_of(row) * weight > CLEAR * scale)) return false;
        }
        const double gap_size = max2(max2(std::fabs(xPx), std::fabs(qx)), std::fabs(dz));
        return dual <= eps_abs + eps_rel * scale && primal <= eps_abs + eps_rel * reach_primal &&
               gap <= eps_abs + eps_rel * gap_size && finite(gap);  // its terms may overflow, all the rest be fine
    }
    double scale = 0, reach_primal = 0, xPx = 0, qx = 0, dz = 0;

    // Residuals at (x, z): Px + q + R'z in `gradient`, violations in v, the largest of each.
    void measure() {
        rows_times(P, n, ld, x, Px);
        std::memset(gradient.data, 0, ld * sizeof(double));
        dz = 0;
        for (int i = 0; i < count; ++i) {
            const int row = W[i];
            if (row < e.k) axpy(z[i], e.matrix_row(row), gradient.data, 0, n);
            else gradient[e.variable(row)] += e.sign(row) * z[i];
            dz += d[row] * z[i];
        }
        scale = max2(largest(gradient.data, n), max2(largest(Px.data, n), largest(e.q, n)));
        for (int j = 0; j < n; ++j) gradient[j] += Px[j] + e.q[j];
        dual = largest(gradient.data, n);
        xPx = dot(x, Px, 0, n), qx = dot(e.q, x, 0, n);
        gap = std::fabs(xPx + qx + dz);
        primal = 0, reach_primal = 0;
        for (int row = 0; row < e.total; ++row) {
            primal = max2(primal, where[row] >= 0 ? std::fabs(v[row]) : v[row]);
            if (d[row] < INF) reach_primal = max2(reach_primal, max2(std::fabs(d[row]), std::fabs(v[row] + d[row])));
        }
    }

    void refine() {
        double *t = gradient;
        forward(U, inverse, n, ld, t);
        for (int i = 0; i < count; ++i) y[i] = v[W[i]] - side[i] * dot(V_of(i), t, 0, n);
        solve_K(y);
        combine(y, u);
        for (int j = 0; j < n; ++j) u[j] += t[j];
        backward(U, inverse, n, ld, u);
        for (int j = 0; j < n; ++j) x[j] -= u[j];
        for (int i = 0; i < count; ++i) z[i] += y[i];
        violations(x, v);
    }
};

}  // namespace
