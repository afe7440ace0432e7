"""Every tolerance of the tests, with the reason for it. Arithmetic is float64 unless said otherwise."""

# --- solutions ------------------------------------------------------------------------------------
KKT = 1e-8
"""The promise for every problem that is SOLVED: absolute residuals, data of size about 1."""

KKT_POLISHED = 1e-11
"""Regular problems of size about 1 end in the active-set polish: a linear solve, 1e-13, and 100 to spare."""

X_REGULAR = 1e-9
"""x of regular problems: KKT_POLISHED times the inverse of the active KKT matrix, which is below 100."""

X_DEGENERATE = 1e-6
"""x where rows are dependent or weakly active: no polish is promised; KKT times a condition of up to 100."""

CLOSED_FORM = 1e-10
"""Against a formula: small well-conditioned problems, the polish must reach round-off up to amplification."""

ROUND_OFF = 1e-13
"""Relative, against the same sums in another order: 1e-16 times the square root of up to 1e5 terms, and 3 to spare."""

PEER = 1e-6
"""Against Clarabel and HiGHS at their tightest useful tolerance 1e-9; x loses up to three digits more."""

BADLY_SCALED = 1e-6
"""x (in its own units) of data scaled over twelve decades: 1e-16 times 1e12 would leave nothing if the
solver did not rescale; after rescaling the promise is KKT times a condition of 100."""

BATCH = 1e-10
"""The same element in different batches: other BLAS kernels, other order of sums, then the polish."""

ACTIVE_SET = 1e-10
"""The active set method against the polish from the interior, relative to the largest entry: two direct solves and
refinement of the same system (measured: 5e-15; slacks of rows over twelve decades, in their own units: 2e-11)."""

OPTIMALITY_GAP = 1e-7
"""Objective of a problem whose minimiser is not unique, against the known optimum: KKT times |x| + |z|."""

# --- float32 --------------------------------------------------------------------------------------
FLOAT32 = 2.4e-7
"""Computed in float64 and rounded once: half a unit in the last place is 6e-8, four are allowed."""

BFLOAT16 = 0.05
"""A linear layer in bfloat16 (8 bits, 4e-3) before a QP of condition below 10."""

# --- gradients ------------------------------------------------------------------------------------
FD_STEP = 1e-5
"""Central difference: truncation 1e-10 times third derivatives; noise X_REGULAR's 1e-12 over the step, 1e-7.
All margins of the generated problems are 0.2, so the active set does not change within the step."""

FD = 1e-5
"""Relative to the gradient: the two errors above times a third derivative of up to 1e3 (measured with an
independent solver: at most 4e-8)."""

GRADCHECK = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-4}
"""torch's own defaults, with a tighter rtol."""

GRADGRADCHECK = {"eps": 1e-6, "atol": 1e-4, "rtol": 1e-3}
"""Differences of gradients: the noise of a gradient is that of x times the condition once more."""

DENSE = 1e-8
"""Implicit gradient against the dense solve with the exact active set: both are direct solves of condition
below 1e4; the regularised one is refined to 1e-13 relative on well-conditioned data."""

CONE_GRADIENT = 1e-6
"""Relative, against cvxpylayers: diffcp differentiates by an iterative method at an iterate of 1e-10 (measured:
5e-8)."""

UNROLLED = 1e-4
"""Differentiated iterations converge no faster than the barrier parameter: 1e-5 relative at the last one."""

SMOOTHED = 1e-6
"""The relaxed point solves s z = kappa to the tolerance of the solver; the slope moves by 1e-10 / kappa."""

BOUNDED = 1e4
"""Finite is not enough: the regularised adjoint of a singular system has size 1/rho = 1e8 and must not
come out. Problems where this is used have data of size 1 and true one-sided derivatives below 10."""

# --- elastic --------------------------------------------------------------------------------------
ELASTIC = 1e-6
"""Closest feasible points with a closed form; the penalty's weight multiplies the residuals."""

# --- roots, fixed points, arg-mins ----------------------------------------------------------------
ROOT = 1e-9
"""w where |F| <= 1e-10 (the default) and the inverse Jacobian is below 10."""

ROOT_GRADIENT = 1e-8
"""Derivatives there: w's error times a second derivative of up to 10, or a Krylov solve to 1e-10."""

ROOT_FLOAT32 = 1e-3
"""The same in float32, where the default is 1e-5; a derivative by unrolling lags behind by a factor of the steps."""

LINEAR = 1e-9
"""Solutions of well-conditioned linear systems (condition below 10) solved to a residual of 1e-10."""

LOOP = 1e-12
"""A batch against its elements one by one, same iterations: only the order of sums in the linear algebra differs."""

# --- nonlinear programs -----------------------------------------------------------------------------
KKT_NONLINEAR = 1e-8
"""The method stops at 1e-10 plus ten units of round-off of the terms, here of size up to 1e4."""

PUBLISHED = 1e-7
"""Solutions printed with seven to ten digits; w, where the minimum is flat, ten times that."""

GRADIENT_NONLINEAR = 1e-7
"""A gradient moves with w by the third derivatives, up to 10 here."""

LOW_PRECISION = 1e-5
"""Arguments rounded to float32 (6e-8) times a derivative of up to 100; default residual of float32 iterations."""

X_NONLINEAR = 1e-8
"""w and its derivatives: the stopping residual 1e-10 times a condition of 100."""

# --- estimation -----------------------------------------------------------------------------------
TEXTBOOK = 1e-8
"""States and likelihoods of a smoother against the textbook recursion: the promise of the programs, data of size 1."""

# --- the one-shot model ---------------------------------------------------------------------------
TWO_BUILDS = 1e-6
"""The promise for outputs and gradients of two builds of one model (measured: 1e-11)."""
