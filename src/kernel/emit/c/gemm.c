/* ============================== Matrix products ============================== */

/* How a dot product is summed. */
enum { SC_R0 = 0, SC_R1 = 1, SC_R2 = 2 };

/* The mode of a product. R0: exact, one rounding. R1: binary32, k ascending from +0, no FMA. R2: a matrix unit with a short
   accumulator. A run of `promote_every` elements of K starts from an accumulator of +0 and goes through `mma_k` products at
   a time. With E the largest exponent of the accumulator and the products of a step, each is cut to a multiple of
   2^(E - fraction_bits), they are added exactly, and the sum is cut to `fraction_bits` bits below its leading bit. At the end
   of a run the accumulator is rounded to binary32 and added to the sum of the runs, which starts at +0. */
typedef struct {
    int mode;
    size_t mma_k;         /* 1..65536 */
    int fraction_bits;    /* 0..32 */
    int rne;              /* cut to nearest even instead of towards zero */
    size_t promote_every; /* 0: at the end of a scale block only, which ends a run in any case */
    int fma;              /* the last multiplication and the addition of a block have one rounding */
    int joint;            /* scales are d*(sa*sb) instead of (d*sa)*sb */
} sc_mode;

/* Integers that stand for special codes. */
#define SC_FIXED_NAN (INT64_C(1) << 60)
#define SC_FIXED_INF (INT64_C(1) << 59)

/* The value of a code as an integer, in units of 2^-9 (E4M3), 2^-16 (E5M2), 2^-1 (E2M1) or 1. */
static int64_t sc_fixed(const sc_mat *m, size_t r, size_t c) {
    unsigned code, e, f, implied, sign, magnitude;
    int64_t v;
    if (sc_is_integer(m->type)) return sc_int(m, r, c);
    code = (unsigned)sc_raw(m, r, c);
    if (m->type == SC_E2M1) { f = 1; sign = 8; }
    else if (m->type == SC_E5M2) { f = 2; sign = 0x80; }
    else { f = 3; sign = 0x80; }
    magnitude = code & (sign - 1);
    if (m->type == SC_E4M3 && magnitude == 0x7F) return SC_FIXED_NAN;
    if (m->type == SC_E5M2 && magnitude >= 0x7C)
        return magnitude > 0x7C ? SC_FIXED_NAN : code & sign ? -SC_FIXED_INF : SC_FIXED_INF;
    e = magnitude >> f;
    implied = e ? 1u << f : 0;
    v = (int64_t)((uint64_t)(implied | (magnitude & ((1u << f) - 1))) << (e ? e - 1 : 0));
    return code & sign ? -v : v;
}

static int sc_fixed_unit(sc_type t) { return t == SC_E4M3 ? -9 : t == SC_E5M2 ? -16 : t == SC_E2M1 ? -1 : 0; }

static int sc_is_code(sc_type t) {
    return t == SC_E4M3 || t == SC_E5M2 || t == SC_E2M1 || t == SC_I8 || t == SC_I4;
}

/* The exact dot product of columns k0..k1 of two rows, rounded once to binary32. */
static float sc_dot_exact(const sc_mat *a, size_t m, const sc_mat *b, size_t n, size_t k0, size_t k1) {
    int wide = (a->type == SC_E5M2) + (b->type == SC_E5M2);
    size_t k;
    sc_sum big;
    if (sc_is_code(a->type) && sc_is_code(b->type) && wide < 2 && (wide == 0 || k1 - k0 <= 4096)) {
        int64_t sum = 0;
        for (k = k0; k < k1; k++) {
            int64_t x = sc_fixed(a, m, k), y = sc_fixed(b, n, k);
            if (x >= SC_FIXED_INF || x <= -SC_FIXED_INF || y >= SC_FIXED_INF || y <= -SC_FIXED_INF) break;
            sum += x * y;
        }
        if (k == k1) {
            uint64_t magnitude = sum < 0 ? (uint64_t)-sum : (uint64_t)sum;
            return sc_make_f32(sum < 0, magnitude, 0, sc_fixed_unit(a->type) + sc_fixed_unit(b->type));
        }
    }
    sc_sum_clear(&big);
    for (k = k0; k < k1; k++) sc_sum_product(&big, sc_get(a, m, k), sc_get(b, n, k));
    return sc_sum_f32(&big);
}

static double sc_cut(double x, int rne) {
    /* |x| < 2^50. */
    int64_t i = (int64_t)x;
    double rest = sc_abs64(sc_sub64(x, (double)i));
    if (rne && (rest > 0.5 || (rest == 0.5 && i % 2 != 0))) i += x < 0.0 ? -1 : 1;
    return (double)i;
}

/* A product of two codes; exact in binary64. */
static double sc_product64(const sc_mat *a, size_t m, const sc_mat *b, size_t n, size_t k) {
    return sc_mul64((double)sc_get(a, m, k), (double)sc_get(b, n, k));
}

/* The sum of columns k0..k1 as the matrix unit of `mode` makes it. */
static float sc_dot_unit(const sc_mode *mode, const sc_mat *a, size_t m, const sc_mat *b, size_t n, size_t k0, size_t k1) {
    float sum = 0.0f;
    double plain = 0.0, acc;
    size_t run, step, k, run_end, step_end;
    for (k = k0; k < k1; k++) plain = sc_add64(plain, sc_product64(a, m, b, n, k));
    if (!sc_is_finite64(plain)) return sc_narrow(plain);
    for (run = k0; run < k1; run = run_end) {
        run_end = mode->promote_every && mode->promote_every < k1 - run ? run + mode->promote_every : k1;
        acc = 0.0;
        for (step = run; step < run_end; step = step_end) {
            uint64_t largest = sc_bits_of64(sc_abs64(acc));
            double unit, total;
            int exponent, excess;
            step_end = mode->mma_k < run_end - step ? step + mode->mma_k : run_end;
            for (k = step; k < step_end; k++) {
                uint64_t bits = sc_bits_of64(sc_abs64(sc_product64(a, m, b, n, k)));
                if (bits > largest) largest = bits;
            }
            if (largest == 0) continue;
            unit = sc_pow2(mode->fraction_bits + 1023 - (int)(largest >> 52));
            total = sc_cut(sc_mul64(acc, unit), mode->rne);
            for (k = step; k < step_end; k++)
                total = sc_add64(total, sc_cut(sc_mul64(sc_product64(a, m, b, n, k), unit), mode->rne));
            acc = 0.0;
            if (total == 0.0) continue;
            exponent = (int)(sc_bits_of64(sc_abs64(total)) >> 52) - 1023;
            excess = exponent > mode->fraction_bits ? exponent - mode->fraction_bits : 0;
            total = sc_cut(sc_mul64(total, sc_pow2(-excess)), mode->rne);
            acc = sc_div64(sc_mul64(total, sc_pow2(excess)), unit);
        }
        sum = sc_add(sum, sc_narrow(acc));
    }
    return sum;
}

/* The dot product of columns k0..k1 of row m of a and row n of b. */
static float sc_dot(const sc_mode *mode, const sc_mat *a, size_t m, const sc_mat *b, size_t n, size_t k0, size_t k1) {
    float sum = 0.0f;
    size_t k;
    if (mode->mode == SC_R0) return sc_dot_exact(a, m, b, n, k0, k1);
    if (mode->mode == SC_R2) return sc_dot_unit(mode, a, m, b, n, k0, k1);
    for (k = k0; k < k1; k++) sum = sc_add(sum, sc_mul(sc_get(a, m, k), sc_get(b, n, k)));
    return sum;
}

/* acc + d * sa * sb in the order of the mode. */
static float sc_scale_add(const sc_mode *mode, float acc, float d, float sa, float sb) {
    float left = mode->joint ? d : sc_mul(d, sa), right = mode->joint ? sc_mul(sa, sb) : sb;
    return mode->fma ? sc_fma(left, right, acc) : sc_add(acc, sc_mul(left, right));
}

static float sc_scale_product(const sc_mode *mode, float d, float sa, float sb) {
    return mode->joint ? sc_mul(d, sc_mul(sa, sb)) : sc_mul(sc_mul(d, sa), sb);
}

static int sc_mode_fits(const sc_mode *mode) {
    if (mode->mode != SC_R2) return 1;
    return mode->mma_k >= 1 && mode->mma_k <= 65536 && mode->fraction_bits >= 0 && mode->fraction_bits <= 32;
}

static int sc_is_float8(sc_type t) { return t == SC_E4M3 || t == SC_E5M2; }
static int sc_is_scale(sc_type t) { return t == SC_F32 || t == SC_BF16 || t == SC_F16 || t == SC_E8M0; }

/* Checks a [M,K], b [N,K], c [M,N] and the mode. */
static int sc_check_product(const sc_mat *a, const sc_mat *b, const sc_mat *c, const sc_mode *mode) {
    if (!a || !b || !c) return SC_MISSING;
    if (!sc_is_output_float(c->type)) return SC_TYPE;
    if (a->cols != b->cols || c->rows != a->rows || c->cols != b->rows) return SC_SHAPE;
    if (mode && !sc_mode_fits(mode)) return SC_PARAM;
    return SC_OK;
}

/* Whether a grid has rows x cols elements; one column may also be a vector. */
static int sc_is_grid(const sc_mat *m, size_t rows, size_t cols) {
    return (m->rows == rows && m->cols == cols) || (cols == 1 && m->rows == 1 && m->cols == rows);
}

static float sc_get_grid(const sc_mat *m, size_t r, size_t c) { return m->rows == 1 && r ? sc_get(m, 0, r) : sc_get(m, r, c); }

/* 1. C[m,n] = sum over blocks of 128 along K, ascending from +0, of d * (sa * sb). */
int sc_gemm_fp8_block(const sc_mat *a, const sc_mat *sa, const sc_mat *b, const sc_mat *sb, const sc_mat *c, const sc_mode *mode) {
    int code = sc_check_product(a, b, c, mode);
    size_t m, n, k, blocks;
    if (code) return code;
    if (!sa || !sb) return SC_MISSING;
    if (a->type != SC_E4M3 || b->type != SC_E4M3 || !sc_is_scale(sa->type) || !sc_is_scale(sb->type)) return SC_TYPE;
    blocks = sc_ceil_div(a->cols, 128);
    if (!sc_is_grid(sa, a->rows, blocks) || !sc_is_grid(sb, sc_ceil_div(b->rows, 128), blocks)) return SC_SHAPE;
    for (m = 0; m < a->rows; m++)
        for (n = 0; n < b->rows; n++) {
            float acc = 0.0f;
            for (k = 0; k < a->cols; k += 128) {
                float d = sc_dot(mode, a, m, b, n, k, a->cols - k < 128 ? a->cols : k + 128);
                acc = sc_scale_add(mode, acc, d, sc_get_grid(sa, m, k / 128), sc_get_grid(sb, n / 128, k / 128));
            }
            sc_put(c, m, n, acc);
        }
    return SC_OK;
}

/* 2. C[m,n] = (d * sa[m]) * sb[n] [+ bias[n]], d over the whole of K. */
int sc_gemm_fp8_token_channel(const sc_mat *a, const sc_mat *sa, const sc_mat *b, const sc_mat *sb, const sc_mat *bias,
                              const sc_mat *c, const sc_mode *mode) {
    int code = sc_check_product(a, b, c, mode);
    size_t m, n;
    if (code) return code;
    if (!sa || !sb) return SC_MISSING;
    if (a->type != SC_E4M3 || b->type != SC_E4M3 || !sc_is_scale(sa->type) || !sc_is_scale(sb->type)) return SC_TYPE;
    if (!sc_is_grid(sa, a->rows, 1) || !sc_is_grid(sb, b->rows, 1)) return SC_SHAPE;
    if (bias && !sc_is_grid(bias, b->rows, 1)) return SC_SHAPE;
    for (m = 0; m < a->rows; m++)
        for (n = 0; n < b->rows; n++) {
            float y = sc_dot(mode, a, m, b, n, 0, a->cols);
            y = sc_scale_product(mode, y, sc_get_grid(sa, m, 0), sc_get_grid(sb, n, 0));
            sc_put(c, m, n, bias ? sc_add(y, sc_get_grid(bias, n, 0)) : y);
        }
    return SC_OK;
}

/* 3. C[m,n] = (acc * sx[m]) * sw[n], acc = sum + bias[n] in integers, rounded to binary32 once; `joint`: acc * (sx * sw). */
int sc_gemm_w8a8(const sc_mat *a, const sc_mat *sx, const sc_mat *b, const sc_mat *sw, const sc_mat *bias, const sc_mat *c,
                 int joint) {
    int code = sc_check_product(a, b, c, NULL);
    sc_mode mode;
    size_t m, n, k;
    if (code) return code;
    if (!sx || !sw) return SC_MISSING;
    if (a->type != SC_I8 || b->type != SC_I8 || !sc_is_scale(sx->type) || !sc_is_scale(sw->type)) return SC_TYPE;
    if (bias && !sc_is_integer(bias->type)) return SC_TYPE;
    if (!sc_is_grid(sx, a->rows, 1) || !sc_is_grid(sw, b->rows, 1)) return SC_SHAPE;
    if (bias && !sc_is_grid(bias, b->rows, 1)) return SC_SHAPE;
    memset(&mode, 0, sizeof mode);
    mode.joint = joint;
    for (m = 0; m < a->rows; m++)
        for (n = 0; n < b->rows; n++) {
            int64_t sum = 0;
            for (k = 0; k < a->cols; k++) sum += sc_int(a, m, k) * sc_int(b, n, k);
            if (bias) sum += bias->rows == 1 ? sc_int(bias, 0, n) : sc_int(bias, n, 0);
            sc_put(c, m, n, sc_scale_product(&mode, sc_f32_of_int(sum), sc_get_grid(sx, m, 0), sc_get_grid(sw, n, 0)));
        }
    return SC_OK;
}

/* 4. w = f32(q - z) * f32(s), rounded to BF16 unless `keep_f32`; acc = acc + f32(a * w), k ascending from +0. Codes U4 (less
   z, 8 where there is no z) or I4. */
int sc_gemm_w4a16_group(const sc_mat *a, const sc_mat *b, const sc_mat *s, const sc_mat *z, const sc_mat *c, int keep_f32) {
    int code = sc_check_product(a, b, c, NULL);
    size_t m, n, k, group;
    if (code) return code;
    if (!s) return SC_MISSING;
    if (!sc_is_output_float(a->type) || (b->type != SC_U4 && b->type != SC_I4) || !sc_is_scale(s->type)) return SC_TYPE;
    if (s->rows != b->rows || (a->cols && !s->cols)) return SC_SHAPE;
    if (z && (z->rows != s->rows || z->cols != s->cols)) return SC_SHAPE;
    group = s->cols ? sc_ceil_div(a->cols, s->cols) : 1;
    for (m = 0; m < a->rows; m++)
        for (n = 0; n < b->rows; n++) {
            float acc = 0.0f;
            for (k = 0; k < a->cols; k++) {
                int64_t q = sc_int(b, n, k), zero = z ? sc_int(z, n, k / group) : b->type == SC_U4 ? 8 : 0;
                float w = sc_mul(sc_f32_of_int(q - zero), sc_get(s, n, k / group));
                if (!keep_f32) w = sc_round_bf16(w);
                acc = sc_add(acc, sc_mul(sc_get(a, m, k), w));
            }
            sc_put(c, m, n, acc);
        }
    return SC_OK;
}

/* 5. Per group acc = acc + f32(integer sum) * sg, from +0; then (acc * sc) * sx [+ bias]. */
int sc_gemm_w4a8_group(const sc_mat *a, const sc_mat *sx, const sc_mat *b, const sc_mat *sg, const sc_mat *s, const sc_mat *bias,
                       const sc_mat *c) {
    int code = sc_check_product(a, b, c, NULL);
    size_t m, n, k, group;
    if (code) return code;
    if (!sx || !sg) return SC_MISSING;
    if (a->type != SC_I8 || b->type != SC_I4 || !sc_is_scale(sx->type) || !sc_is_scale(sg->type)) return SC_TYPE;
    if (sg->rows != b->rows || (a->cols && !sg->cols) || !sc_is_grid(sx, a->rows, 1)) return SC_SHAPE;
    if ((s && !sc_is_grid(s, b->rows, 1)) || (bias && !sc_is_grid(bias, b->rows, 1))) return SC_SHAPE;
    group = sg->cols ? sc_ceil_div(a->cols, sg->cols) : 1;
    for (m = 0; m < a->rows; m++)
        for (n = 0; n < b->rows; n++) {
            float acc = 0.0f;
            size_t start;
            for (start = 0; start < a->cols; start += group) {
                int64_t sum = 0;
                for (k = start; k < a->cols && k < start + group; k++) sum += sc_int(a, m, k) * sc_int(b, n, k);
                acc = sc_add(acc, sc_mul(sc_f32_of_int(sum), sc_get(sg, n, start / group)));
            }
            if (s) acc = sc_mul(acc, sc_get_grid(s, n, 0));
            acc = sc_mul(acc, sc_get_grid(sx, m, 0));
            if (bias) acc = sc_add(acc, sc_get_grid(bias, n, 0));
            sc_put(c, m, n, acc);
        }
    return SC_OK;
}

/* 6, 7. Blocks of 32 along K, ascending from +0: MXFP8, MXFP4 and FP8 x MXFP4. Scales of a per 32 or per 128. */
int sc_gemm_mx(const sc_mat *a, const sc_mat *sa, const sc_mat *b, const sc_mat *sb, const sc_mat *c, const sc_mode *mode) {
    int code = sc_check_product(a, b, c, mode);
    size_t m, n, k, blocks, per = 1;
    if (code) return code;
    if (!sa || !sb) return SC_MISSING;
    if (!sc_is_float8(a->type) && a->type != SC_E2M1) return SC_TYPE;
    if (!sc_is_float8(b->type) && b->type != SC_E2M1) return SC_TYPE;
    if (!sc_is_scale(sa->type) || !sc_is_scale(sb->type)) return SC_TYPE;
    blocks = sc_ceil_div(a->cols, 32);
    if (!sc_is_grid(sb, b->rows, blocks)) return SC_SHAPE;
    if (!sc_is_grid(sa, a->rows, blocks)) {
        per = 4;
        if (!sc_is_grid(sa, a->rows, sc_ceil_div(a->cols, 128))) return SC_SHAPE;
    }
    for (m = 0; m < a->rows; m++)
        for (n = 0; n < b->rows; n++) {
            float acc = 0.0f;
            for (k = 0; k < a->cols; k += 32) {
                float d = sc_dot(mode, a, m, b, n, k, a->cols - k < 32 ? a->cols : k + 32);
                acc = sc_scale_add(mode, acc, d, sc_get_grid(sa, m, k / 32 / per), sc_get_grid(sb, n, k / 32));
            }
            sc_put(c, m, n, acc);
        }
    return SC_OK;
}

/* 8. Blocks of 16 along K, ascending from +0: acc = acc + d * (sa * sb); last acc * (ga * gb). */
int sc_gemm_nvfp4(const sc_mat *a, const sc_mat *sa, const sc_mat *ga, const sc_mat *b, const sc_mat *sb, const sc_mat *gb,
                  const sc_mat *c, const sc_mode *mode) {
    int code = sc_check_product(a, b, c, mode);
    size_t m, n, k, blocks;
    float global;
    if (code) return code;
    if (!sa || !sb || !ga || !gb) return SC_MISSING;
    if (a->type != SC_E2M1 || b->type != SC_E2M1 || sa->type != SC_E4M3 || sb->type != SC_E4M3) return SC_TYPE;
    if (ga->type != SC_F32 || gb->type != SC_F32) return SC_TYPE;
    blocks = sc_ceil_div(a->cols, 16);
    if (!sc_is_grid(sa, a->rows, blocks) || !sc_is_grid(sb, b->rows, blocks)) return SC_SHAPE;
    if (sc_count(ga) != 1 || sc_count(gb) != 1) return SC_SHAPE;
    global = sc_mul(sc_get(ga, 0, 0), sc_get(gb, 0, 0));
    for (m = 0; m < a->rows; m++)
        for (n = 0; n < b->rows; n++) {
            float acc = 0.0f;
            for (k = 0; k < a->cols; k += 16) {
                float d = sc_dot(mode, a, m, b, n, k, a->cols - k < 16 ? a->cols : k + 16);
                acc = sc_scale_add(mode, acc, d, sc_get_grid(sa, m, k / 16), sc_get_grid(sb, n, k / 16));
            }
            sc_put(c, m, n, sc_mul(acc, global));
        }
    return SC_OK;
}

/* 19. Products exact in binary64, added in binary64, k ascending, no FMA; rounded to the output. */
int sc_lm_head(const sc_mat *h, const sc_mat *b, const sc_mat *c) {
    int code = sc_check_product(h, b, c, NULL);
    size_t m, n, k;
    if (code) return code;
    if (!sc_is_output_float(h->type) || !sc_is_output_float(b->type)) return SC_TYPE;
    for (m = 0; m < h->rows; m++)
        for (n = 0; n < b->rows; n++) {
            double acc = 0.0;
            for (k = 0; k < h->cols; k++) acc = sc_add64(acc, sc_mul64((double)sc_get(h, m, k), (double)sc_get(b, n, k)));
            sc_put(c, m, n, sc_narrow(acc));
        }
    return SC_OK;
}

