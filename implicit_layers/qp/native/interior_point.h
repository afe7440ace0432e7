// The interior point solver of interior_point.py and the polish of polish.py.
#pragma once

#include "program.h"

namespace {

template <class S> struct Solver {
    using Mask = typename Traits<S>::Mask;
    Program<S> &g;
    const double eps_abs, eps_rel;
    const int max_iter;
    Array<S> x, s, lam, best_x, best_s, best_lam, Px, Rx, Rl, rd, rp;
    Array<S> w, dx, ds, dlam, t, rhs, active, previous, guess, flipped, px, ps, plam, slack, old_x, old_Px, old_Rx, old_lam, old_Rl;
    Array<double> code;
    S best, polished, status, iterations, stalled, tries, tried[POLISH_TRIES], rho;
    S primal, dual, gap, score;

    Solver(Program<S> &program, double eps_abs_, double eps_rel_, int max_iter_)
        : g(program), eps_abs(eps_abs_), eps_rel(eps_rel_), max_iter(max_iter_) {
        for (Array<S> *v : {&x, &best_x, &Px, &Rl, &rd, &dx, &rhs, &px, &old_x, &old_Px, &old_Rl}) v->make(g.ld);
        for (Array<S> *v : {&s, &lam, &best_s, &best_lam, &Rx, &rp, &w, &ds, &dlam, &t, &active, &previous, &guess,
                            &flipped, &ps, &plam, &slack, &old_Rx, &old_lam})
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
        for (int i = 0; i < g.total; ++i) old_Rx[i] = old_lam[i] = S{};
        for (int j = 0; j < g.n; ++j) old_x[j] = old_Px[j] = old_Rl[j] = S{};
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
        // A stationary point of an indefinite P is not a solution, and looking for one may end anywhere.
        doubt((best <= 1.0) & (polished == 0.0), true);
        doubt((status == double(MAX_ITER)) | (status == double(NUMERICAL_ERROR)), false);
    }

    // Call lanes invalid whose P has negative curvature in directions that the active rows, if they are held, leave free.
    void doubt(Mask doubtful, bool held) {
        if (!any(doubtful)) return;
        for (int i = 0; i < g.total; ++i) {
            const Mask row = g.inequality[i] > 0.0;
            w[i] = held ? S(select(row, number(best_lam[i] > best_s[i]), g.present[i]) / DELTA) : S{};
        }
        const Mask upwards = g.factor_once(w, splat<S>(CURVATURE));
        S check{};
        for (int i = 0; i < g.n; ++i)
            for (int j = 0; j < g.n; ++j) check += 0.0 * g.P[(size_t)i * g.ld + j];  // NaN where P overflowed
        status = select(doubtful & !upwards & finite(check), splat<S>(INVALID_INPUT), status);
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
            const Mask over = stalled >= select(best <= 1.0, splat<S>(PATIENCE), splat<S>(STALL));
            const Mask failed = (farkas | descent | broken) & !solved;
            S changed{};
            for (int i = 0; i < g.total; ++i) {
                const Mask row = g.inequality[i] > 0.0;
                active[i] = select(row, number(lam[i] > s[i]), g.present[i]);
                changed += abs2(S(active[i] - previous[i]));
                previous[i] = active[i];
            }
            const Mask settled = (changed <= 1.0) & (tries < double(POLISH_TRIES));
            Mask want = running & (settled | solved | over | (last ? !never() : never())) & !failed;
            // Within tolerance a row may still be on neither side, and its derivative anything: go on to the polish.
            Mask done = (solved & separated()) | failed | over;
            if (any(want)) {
                done = done | polish_where(want);
                residuals(x, s, lam);  // the polish used their room
            }
            running = running & !done;
            if (last || !any(running)) return;
            iterations += number(running);
            for (int j = 0; j < g.n; ++j) old_x[j] = x[j], old_Px[j] = Px[j], old_Rl[j] = Rl[j];
            for (int i = 0; i < g.total; ++i) old_Rx[i] = Rx[i], old_lam[i] = lam[i];
            newton_step();
        }
    }

    Mask separated() const {  // whether every row is clearly active or clearly not
        Mask all = !never();
        for (int i = 0; i < g.total; ++i) {
            const S smaller = min2(s.data[i], lam.data[i]), larger = max2(s.data[i], lam.data[i]);
            all = all & ((smaller <= APART * larger) | !(g.inequality.data[i] > 0.0));
        }
        return all;
    }

    // Whether v'w < 0 beyond its round-off; `small` is the tolerance that follows from it.
    static Mask negative(const S *v, const S *w_, int count, S &small) {
        S value{}, size{};
        for (int i = 0; i < count; ++i) value += v[i] * w_[i], size += abs2(S(v[i] * w_[i]));
        small = CERTIFICATE * -value / max2(largest<S>(v, count), splat<S>(1.0));
        return value < -ROUND_OFF * size;
    }

    // Once lam runs away, every step adds the same certificate: project the last step, or else lam itself, onto the one
    // that it may hide (in plam) and check that.
    Mask find_farkas() {
        S whole{}, step{}, top{}, small;
        for (int i = 0; i < g.total; ++i) whole += g.d[i] * lam[i], step += g.d[i] * (lam[i] - old_lam[i]);
        for (int j = 0; j < g.n; ++j) top = max2(top, abs2(S(Rl[j] - old_Rl[j])));
        const Mask by_step = (step < 0.0) & (top <= SUSPECT * -step);
        const Mask suspect = by_step | ((whole < 0.0) & (largest<S>(Rl, g.n) <= SUSPECT * -whole));
        if (!any(suspect)) return suspect;
        for (int i = 0; i < g.total; ++i) {
            plam[i] = select(by_step, S(lam[i] - old_lam[i]), lam[i]);
            plam[i] = select(g.inequality[i] > 0.0, max2(plam[i], S{}), plam[i]);
        }
        const S size = max2(largest<S>(plam, g.total), splat<S>(TINY));
        for (int i = 0; i < g.total; ++i) {
            plam[i] /= size;
            w[i] = 1e14 * select(g.inequality[i] > 0.0, plam[i], g.present[i]);
        }
        g.factorise(w, splat<S>(1.0));
        for (int pass = 0; pass < 2; ++pass) {
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

    // Once x runs away, every step adds the same ray: the step (in px) shows it, free of what it is added to, or hides
    // it and is projected. A step that is small beside x is no runaway, and round-off in the differences.
    Mask find_descent() {
        for (int j = 0; j < g.n; ++j) px[j] = x[j] - old_x[j], rhs[j] = Px[j] - old_Px[j];
        for (int i = 0; i < g.total; ++i) dlam[i] = Rx[i] - old_Rx[i];
        const S size = largest<S>(px, g.n);
        const Mask runaway = size >= RUNAWAY * largest<S>(x, g.n);
        const Mask found = runaway & descends(px, CERTIFICATE), suspect = runaway & descends(px, SUSPECT) & !found;
        if (!any(suspect)) return found;
        for (int i = 0; i < g.total; ++i) {
            const Mask leaves = (g.inequality[i] > 0.0) & !(dlam[i] > -HELD * size);
            w[i] = select(leaves, S{}, g.present[i]);
        }
        g.factorise(w, splat<S>(NOTHING));
        for (int j = 0; j < g.n; ++j) dx[j] = px[j];
        for (int pass = 0; pass < 2; ++pass) {
            g.solve(dx);
            const S top = max2(largest<S>(dx, g.n), splat<S>(TINY));
            for (int j = 0; j < g.n; ++j) dx[j] /= top;
        }
        g.times_P(dx, rhs), g.apply(dx, dlam);
        for (int i = 0; i < g.total; ++i) dlam[i] *= g.present[i];
        const Mask proved = suspect & descends(dx, CERTIFICATE);
        for (int j = 0; j < g.n; ++j) px[j] = select(proved, dx[j], px[j]);
        return found | proved;
    }

    // Whether v, with P v in rhs and R v in dlam, is a ray of unbounded descent to a tolerance.
    Mask descends(const S *v, double tolerance) const {
        S small, top = largest<S>(rhs, g.n);
        for (int i = 0; i < g.total; ++i)
            top = max2(top, select(g.inequality.data[i] > 0.0, dlam.data[i], abs2(dlam.data[i])));
        const Mask falls = negative(g.q.data, v, g.n, small);
        return falls & (top * CERTIFICATE <= small * tolerance);
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

}  // namespace
