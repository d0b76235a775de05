/* ---- comparison ---- */

/* A sum of doubles with the rounding errors kept aside. */
typedef struct {
    double sum, rest;
} sc_total;

static void sc_total_add(sc_total *t, double v) {
    double s = sc_add64(t->sum, v), w = sc_sub64(s, t->sum);
    t->rest = sc_add64(t->rest, sc_add64(sc_sub64(t->sum, sc_sub64(s, w)), sc_sub64(v, w)));
    t->sum = s;
}

static double sc_total_of(const sc_total *t) { return sc_add64(t->sum, t->rest); }

#define SC_UNBOUNDED 1.7976931348623157e308

static double sc_ratio(double error, double magnitude) {
    double q;
    if (error == 0.0) return 0.0;
    if (magnitude == 0.0) return SC_UNBOUNDED;
    q = sc_div64(error, magnitude);
    return q > SC_UNBOUNDED ? SC_UNBOUNDED : q;
}

/* log10(x), 0 < x < infinity, within a few places of binary64. */
static double sc_log10(double x) {
    uint64_t bits = sc_bits_of64(x);
    int e = (int)(bits >> 52) - 1023, i;
    double m, z, z2, term, sum = 0.0;
    if (e == -1023) return sc_sub64(sc_log10(sc_mul64(x, 18014398509481984.0)), 16.255619765854984); /* 2^54 */
    m = sc_from_bits64((bits & UINT64_C(0xFFFFFFFFFFFFF)) | UINT64_C(0x3FF0000000000000));
    if (m > 1.4142135623730951) {
        m = sc_mul64(m, 0.5);
        e++;
    }
    z = sc_div64(sc_sub64(m, 1.0), sc_add64(m, 1.0));
    z2 = sc_mul64(z, z);
    term = sc_mul64(2.0, z);
    for (i = 1; i < 50; i += 2) {
        sum = sc_add64(sum, sc_div64(term, (double)i));
        term = sc_mul64(term, z2);
    }
    return sc_add64(sc_mul64((double)e, 0.30102999566398120), sc_mul64(sum, 0.43429448190325183));
}

/* The metrics of an actual against a golden array of the same shape; see numerics for their definitions. */
typedef struct {
    uint64_t n, above, below, special_mismatches;
    sc_total aa, gg, ag, errors, magnitudes, squares, relative;
    double threshold, max_abs, mare, diff3_1, diff3_2;
} sc_metrics;

static void sc_metrics_add(sc_metrics *s, double a, double g) {
    double error, relative, size;
    s->n++;
    if (!sc_is_finite64(a) || !sc_is_finite64(g)) {
        /* NaN beside NaN and infinities of one sign are a pair of zeros. */
        if (sc_is_nan64(a) ? !sc_is_nan64(g) : sc_is_nan64(g) || sc_bits_of64(a) != sc_bits_of64(g)) {
            s->special_mismatches++;
            return;
        }
        a = g = 0.0;
    }
    error = sc_abs64(sc_sub64(a, g));
    size = sc_abs64(g);
    relative = sc_div64(error, sc_add64(size, 1e-7));
    if (a > g) s->above++;
    if (a < g) s->below++;
    sc_total_add(&s->aa, sc_mul64(a, a));
    sc_total_add(&s->gg, sc_mul64(g, g));
    sc_total_add(&s->ag, sc_mul64(a, g));
    sc_total_add(&s->errors, error);
    sc_total_add(&s->magnitudes, size);
    sc_total_add(&s->squares, sc_mul64(error, error));
    sc_total_add(&s->relative, relative);
    if (error > s->max_abs) s->max_abs = error;
    if (relative > s->mare) s->mare = relative;
    if (size > s->threshold) {
        relative = sc_div64(error, size);
        if (relative > s->diff3_1) s->diff3_1 = relative;
    } else if (error > s->diff3_2) {
        s->diff3_2 = error;
    }
}

static void sc_print(const char *name, double value) {
    if (!sc_is_finite64(value))
        printf("%s %s\n", name, sc_is_nan64(value) ? "nan" : value > 0.0 ? "inf" : "-inf");
    else
        printf("%s %.17g\n", name, value);
}

static void sc_metrics_print(const sc_metrics *s) {
    double n = (double)s->n, aa = sc_total_of(&s->aa), gg = sc_total_of(&s->gg), squares = sc_total_of(&s->squares);
    double errors = sc_total_of(&s->errors), magnitudes = sc_total_of(&s->magnitudes),
           unequal = (double)(s->above + s->below);
    double norms = sc_mul64(sc_sqrt64(aa), sc_sqrt64(gg)), cosine,
           infinity = sc_from_bits64(UINT64_C(0x7FF0000000000000)), equal;
    int bad = s->special_mismatches > 0;
    equal = sc_sub64(sc_sub64(n, unequal), (double)s->special_mismatches);
    /* 1 - 2 sum(ag) / sum(aa + gg) is the squared error over that denominator, without the cancellation. */
    sc_print("calc_diff", bad ? SC_UNBOUNDED : sc_ratio(squares, sc_add64(aa, gg)));
    sc_print("rel_diff", bad ? SC_UNBOUNDED : sc_ratio(errors, magnitudes));
    sc_print("mere", bad ? SC_UNBOUNDED : s->n ? sc_div64(sc_total_of(&s->relative), n) : 0.0);
    sc_print("mare", bad ? SC_UNBOUNDED : s->mare);
    sc_print("rmse", bad ? SC_UNBOUNDED : s->n ? sc_sqrt64(sc_div64(squares, n)) : 0.0);
    sc_print("diff1", bad ? SC_UNBOUNDED : sc_ratio(errors, magnitudes));
    sc_print("diff2", bad ? SC_UNBOUNDED : sc_sqrt64(sc_ratio(squares, gg)));
    sc_print("diff3", bad ? SC_UNBOUNDED : s->diff3_1 > s->diff3_2 ? s->diff3_1 : s->diff3_2);
    sc_print("diff3_1", bad ? SC_UNBOUNDED : s->diff3_1);
    sc_print("diff3_2", bad ? SC_UNBOUNDED : s->diff3_2);
    printf("diff4 %.17g %.17g %.0f\n", unequal > 0.0 ? sc_div64((double)s->above, unequal) : 0.0,
           unequal > 0.0 ? sc_div64((double)s->below, unequal) : 0.0, unequal);
    sc_print("max_abs", bad ? SC_UNBOUNDED : s->max_abs);
    /* Between vectors of which one is 0 there is no angle. */
    cosine = norms > 0.0 ? sc_div64(sc_total_of(&s->ag), norms) : 0.0;
    if (squares == 0.0) cosine = 1.0;
    sc_print("cosine", bad ? -1.0 : cosine > 1.0 ? 1.0 : cosine < -1.0 ? -1.0 : cosine);
    if (bad)
        sc_print("sqnr_db", -SC_UNBOUNDED);
    else if (squares == 0.0)
        sc_print("sqnr_db", infinity);
    else
        sc_print("sqnr_db", gg == 0.0 ? -SC_UNBOUNDED : sc_mul64(10.0, sc_log10(sc_div64(gg, squares))));
    /* |P(actual < golden) + P(equal) / 2 - 1/2|; below 10 / sqrt(n) the error has no bias. */
    sc_print("bias",
             s->n ? sc_abs64(sc_sub64(sc_div64(sc_add64((double)s->below, sc_mul64(0.5, equal)), n), 0.5)) : 0.0);
    printf("same_specials %s\n", bad ? "no" : "yes");
}

/* Appends to a text of `room` bytes, cutting what does not fit. */
static void sc_append(char *text, size_t room, const char *more) {
    size_t n = strlen(text);
    while (*more && n + 1 < room) text[n++] = *more++;
    text[n] = 0;
}

static void sc_append_number(char *text, size_t room, const char *format, double value) {
    char piece[64];
    sprintf(piece, format, value);
    sc_append(text, room, piece);
}

/* The coordinate of element (r, c) of the matrix of an array, as [i,j,k]. */
static void sc_append_coordinate(char *text, size_t room, const sc_array *a, size_t r, size_t c) {
    size_t at[SC_MAX_RANK], i;
    for (i = a->rank; i-- > 0;) {
        if (i + 1 == a->rank)
            at[i] = c;
        else {
            at[i] = r % a->shape[i];
            r /= a->shape[i];
        }
    }
    sc_append(text, room, "[");
    for (i = 0; i < a->rank; i++) {
        if (i) sc_append(text, room, ",");
        sc_append_number(text, room, "%.0f", (double)at[i]);
    }
    sc_append(text, room, "]");
}

static void sc_append_element(char *text, size_t room, const sc_mat *m, size_t r, size_t c) {
    uint64_t v = sc_raw(m, r, c);
    char piece[64];
    unsigned digits = (sc_bits(m->type) + 3) / 4, i;
    sc_append(text, room, "0x");
    for (i = 0; i < digits; i++) piece[i] = "0123456789ABCDEF"[v >> (4 * (digits - 1 - i)) & 15];
    piece[digits] = 0;
    sc_append(text, room, piece);
    if (sc_is_integer(m->type))
        sprintf(piece, " (%.0f)", (double)sc_int(m, r, c));
    else if (sc_is_nan64(sc_get64(m, r, c)))
        sprintf(piece, " (nan)");
    else
        sprintf(piece, " (%.9g)", sc_get64(m, r, c));
    sc_append(text, room, piece);
}

/* What comparing two arrays of one shape found. */
typedef struct {
    size_t differ;
    size_t row, col; /* of the first difference */
} sc_difference;

/* Value of an element in binary64; integers beyond 2^53 are rounded. */
static double sc_value(const sc_mat *m, size_t r, size_t c) {
    return sc_is_integer(m->type) ? (double)sc_int(m, r, c) : sc_get64(m, r, c);
}

/* Compares bits where `got` has the format of `want`, values otherwise; or values within tolerance * max|want|. */
static sc_difference sc_compare(const sc_mat *got, const sc_mat *want, double tolerance) {
    sc_difference d = {0, 0, 0};
    size_t r, c;
    double largest = 0.0;
    if (tolerance > 0.0)
        for (r = 0; r < want->rows; r++)
            for (c = 0; c < want->cols; c++) {
                double v = sc_abs64(sc_value(want, r, c));
                if (sc_is_finite64(v) && v > largest) largest = v;
            }
    for (r = 0; r < want->rows; r++)
        for (c = 0; c < want->cols; c++) {
            int same = got->type == want->type && sc_raw(got, r, c) == sc_raw(want, r, c);
            if (!same && (tolerance > 0.0 || got->type != want->type)) {
                double a = sc_value(got, r, c), g = sc_value(want, r, c);
                if (sc_is_nan64(a) || sc_is_nan64(g))
                    same = sc_is_nan64(a) && sc_is_nan64(g);
                else if (!sc_is_finite64(a) || !sc_is_finite64(g))
                    same = a == g;
                else if (tolerance > 0.0)
                    same = sc_abs64(sc_sub64(a, g)) <= sc_mul64(tolerance, largest);
                else
                    same = sc_bits_of64(a) == sc_bits_of64(g);
            }
            if (!same && d.differ++ == 0) {
                d.row = r;
                d.col = c;
            }
        }
    return d;
}

