/* ============================== Quantizers ============================== */

/* Where a quantizer reads its values: a matrix, or rows that a kernel computes. */
typedef struct {
    size_t rows, cols;
    float (*at)(void *context, size_t row, size_t col);
    void *context;
} sc_source;

static float sc_source_matrix(void *context, size_t row, size_t col) { return sc_get((const sc_mat *)context, row, col); }

/* Rules by recipe; see the kernel list of numerics for their sources. */
enum {
    SC_DS_FP8_F32_MUL, SC_DS_FP8_UE8M0, SC_DG_FP8_F32, SC_DG_FP8_UE8M0, SC_TK_FP8_F32, SC_VLLM_FP8_GROUP,
    SC_VLLM_FP8_TOKEN, SC_VLLM_FP8_TOKEN_DIV, SC_MX_FP4_DS, SC_MX_FP4_DG, SC_INT8_TOKEN, SC_KV_INT8, SC_ROW_INT8, SC_KV_FP8
};

typedef struct {
    const char *name;
    int rule;
    size_t block_rows, block_cols; /* defaults; 0 is the whole axis */
} sc_recipe;

static const sc_recipe SC_RECIPES[] = {
    {"ds_fp8_f32_mul", SC_DS_FP8_F32_MUL, 1, 128},
    {"ds_fp8_ue8m0", SC_DS_FP8_UE8M0, 1, 128},
    {"dg_fp8_f32", SC_DG_FP8_F32, 1, 128},
    {"dg_fp8_ue8m0", SC_DG_FP8_UE8M0, 1, 128},
    {"tk_fp8_f32", SC_TK_FP8_F32, 1, 128},
    {"vllm_fp8_group", SC_VLLM_FP8_GROUP, 1, 128},
    {"vllm_fp8_token", SC_VLLM_FP8_TOKEN, 1, 0},
    {"vllm_fp8_token_div", SC_VLLM_FP8_TOKEN_DIV, 1, 0},
    {"mx_fp4_ds", SC_MX_FP4_DS, 1, 32},
    {"mx_fp4_dg", SC_MX_FP4_DG, 1, 32},
    {"int8_token", SC_INT8_TOKEN, 1, 0},
};

static const sc_recipe *sc_find_recipe(const char *name) {
    size_t i;
    for (i = 0; i < sizeof SC_RECIPES / sizeof *SC_RECIPES; i++)
        if (strcmp(SC_RECIPES[i].name, name) == 0) return &SC_RECIPES[i];
    return NULL;
}

/* The smallest power of two that is not below t > 0, exponent field clamped to 1..254. */
static float sc_pow2_up(float t) {
    uint32_t bits = sc_bits_of(t), e = (bits >> 23 & 0xFF) + ((bits & 0x7FFFFFu) != 0);
    return sc_from_bits((e < 1 ? 1 : e > 254 ? 254 : e) << 23);
}

/* The scale of a block whose largest magnitude is amax. */
static float sc_rule_scale(int rule, float amax) {
    const float e4m3 = 448.0f;
    switch (rule) {
    case SC_DS_FP8_F32_MUL: return sc_mul(sc_max(amax, 1e-4f), sc_div(1.0f, e4m3));
    case SC_DS_FP8_UE8M0: return sc_pow2_up(sc_mul(sc_max(amax, 1e-4f), sc_div(1.0f, e4m3)));
    case SC_DG_FP8_UE8M0: return sc_pow2_up(sc_div(sc_max(amax, 1e-4f), e4m3));
    case SC_VLLM_FP8_GROUP: return sc_div(sc_max(amax, 1e-10f), e4m3);
    case SC_VLLM_FP8_TOKEN:
    case SC_VLLM_FP8_TOKEN_DIV: return sc_max(sc_div(amax, e4m3), sc_div(1.0f, 229376.0f)); /* 448 * 512 */
    case SC_MX_FP4_DS: return sc_pow2_up(sc_mul(sc_max(amax, sc_from_bits(0x01C00000u)), sc_div(1.0f, 6.0f))); /* 6 * 2^-126 */
    case SC_MX_FP4_DG: return sc_pow2_up(sc_div(sc_max(amax, 1e-4f), 6.0f));
    case SC_INT8_TOKEN:
    case SC_KV_INT8: return sc_div(sc_max(amax, 1e-4f), 127.0f);
    case SC_ROW_INT8: return sc_max(sc_div(amax, 127.0f), sc_from_bits(0x34000000u)); /* 2^-23 */
    case SC_KV_FP8: return sc_pow2_up(sc_max(sc_div(amax, e4m3), 1e-4f));
    default: return sc_div(sc_max(amax, 1e-4f), e4m3);
    }
}

/* Rounded to an integer, ties to even, then clamped; a NaN gives 0. */
static int sc_round_int(float x, int low, int high) {
    uint64_t q;
    uint32_t a = sc_bits_of(x) & 0x7FFFFFFFu, e = a >> 23;
    if (sc_is_nan(x)) return 0;
    if (e >= 127 + 22) return x < 0.0f ? low : high;
    if (e < 127 - 2) return 0;
    q = sc_shift_rne((a & 0x7FFFFFu) | 0x800000u, 150 - e);
    if (x < 0.0f) return (int64_t)q > -(int64_t)low ? low : -(int)q;
    return (int64_t)q > high ? high : (int)q;
}

/* E2M1 with ties to the smaller magnitude and without -0: the midpoints below |x| are counted. */
static uint32_t sc_e2m1_ties_down(float x) {
    static const float middle[7] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
    float a = sc_abs(x);
    uint32_t code = 0;
    while (code < 7 && a > middle[code]) code++;
    return code && (sc_bits_of(x) >> 31) ? code | 8 : code;
}

/* The code of x under the scale of its block. */
static uint32_t sc_rule_code(int rule, float x, float scale, float amax) {
    switch (rule) {
    case SC_DG_FP8_F32:
    case SC_DG_FP8_UE8M0: return sc_encode(SC_E4M3, sc_mul(x, sc_div(1.0f, scale)), 0);
    case SC_TK_FP8_F32: return sc_encode(SC_E4M3, sc_clamp(sc_mul(x, sc_div(448.0f, sc_max(amax, 1e-4f))), 448.0f), 0);
    case SC_VLLM_FP8_TOKEN: return sc_encode(SC_E4M3, sc_clamp(sc_mul(x, sc_div(1.0f, scale)), 448.0f), 0);
    case SC_MX_FP4_DS: return sc_encode(SC_E2M1, sc_clamp(sc_div(x, scale), 6.0f), 1);
    case SC_MX_FP4_DG: return sc_e2m1_ties_down(sc_mul(x, sc_div(1.0f, scale)));
    case SC_INT8_TOKEN: return (uint32_t)sc_round_int(sc_div(x, scale), -128, 127) & 0xFF;
    case SC_KV_INT8:
    case SC_ROW_INT8: return (uint32_t)sc_round_int(sc_div(x, scale), -127, 127) & 0xFF;
    default: return sc_encode(SC_E4M3, sc_clamp(sc_div(x, scale), 448.0f), 0);
    }
}

static sc_type sc_rule_type(int rule) {
    if (rule == SC_MX_FP4_DS || rule == SC_MX_FP4_DG) return SC_E2M1;
    return rule == SC_INT8_TOKEN || rule == SC_KV_INT8 || rule == SC_ROW_INT8 ? SC_I8 : SC_E4M3;
}

static size_t sc_side(size_t block, size_t axis) { return block ? block : axis ? axis : 1; }

/* Stores a scale: a power of two as its exponent where the format is E8M0. */
static int sc_put_scale(const sc_mat *scale, size_t i, float s) {
    if (scale->type == SC_E8M0) {
        uint32_t bits = sc_bits_of(s);
        if (bits & 0x7FFFFFu || bits >> 31) return SC_VALUE;
        sc_set_raw(scale, i / scale->cols, i % scale->cols, bits >> 23);
    } else {
        sc_put_flat(scale, i, s);
    }
    return SC_OK;
}

/* Quantizes by a rule in blocks; every block sees its own elements only. */
static int sc_quant_source(int rule, const sc_source *x, size_t block_rows, size_t block_cols, const sc_mat *codes,
                           const sc_mat *scale) {
    size_t rows = sc_side(block_rows, x->rows), cols = sc_side(block_cols, x->cols), r, c, i, j, at = 0;
    if (!codes || !scale) return SC_MISSING;
    if (codes->type != sc_rule_type(rule) || !sc_is_scale(scale->type)) return SC_TYPE;
    if (codes->rows != x->rows || codes->cols != (codes->type == SC_E2M1 ? x->cols + x->cols % 2 : x->cols)) return SC_SHAPE;
    if (sc_count(scale) != sc_ceil_div(x->rows, rows) * sc_ceil_div(x->cols, cols)) return SC_SHAPE;
    for (r = 0; r < x->rows; r += rows)
        for (c = 0; c < x->cols; c += cols) {
            size_t r1 = x->rows - r < rows ? x->rows : r + rows, c1 = x->cols - c < cols ? x->cols : c + cols;
            float amax = 0.0f, s;
            int code;
            for (i = r; i < r1; i++)
                for (j = c; j < c1; j++) amax = sc_max(amax, sc_abs(x->at(x->context, i, j)));
            s = sc_rule_scale(rule, amax);
            code = sc_put_scale(scale, at++, s);
            if (code) return code;
            for (i = r; i < r1; i++) {
                for (j = c; j < c1; j++) sc_set_raw(codes, i, j, sc_rule_code(rule, x->at(x->context, i, j), s, amax));
                if (c1 == x->cols && x->cols < codes->cols) sc_set_raw(codes, i, c1, 0);
            }
        }
    return SC_OK;
}

/* 10. The recipes but NVFP4. */
int sc_quant(const char *recipe, const sc_mat *x, size_t block_rows, size_t block_cols, const sc_mat *codes, const sc_mat *scale) {
    const sc_recipe *found = sc_find_recipe(recipe);
    sc_source source;
    if (!x) return SC_MISSING;
    if (!found) return SC_PARAM;
    if (!sc_is_output_float(x->type)) return SC_TYPE;
    source.rows = x->rows;
    source.cols = x->cols;
    source.at = sc_source_matrix;
    source.context = (void *)(uintptr_t)x;
    return sc_quant_source(found->rule, &source, block_rows, block_cols, codes, scale);
}

/* 10. NVFP4: blocks of 16; g is read from `given`, or computed as amax / (6 * 448), 1 where that is 0; stored in `g` if asked. */
int sc_quant_nvfp4(const sc_mat *x, const sc_mat *given, const sc_mat *codes, const sc_mat *scale, const sc_mat *g) {
    float global, divisor;
    size_t r, c, j;
    if (!x || !codes || !scale) return SC_MISSING;
    if (!sc_is_output_float(x->type) || codes->type != SC_E2M1 || scale->type != SC_E4M3) return SC_TYPE;
    if (codes->rows != x->rows || codes->cols != x->cols + x->cols % 2) return SC_SHAPE;
    if (scale->rows != x->rows || scale->cols != sc_ceil_div(x->cols, 16)) return SC_SHAPE;
    if ((given && sc_count(given) != 1) || (g && sc_count(g) != 1)) return SC_SHAPE;
    if (given) {
        global = sc_get(given, 0, 0);
    } else {
        float amax = 0.0f;
        for (r = 0; r < x->rows; r++)
            for (c = 0; c < x->cols; c++) amax = sc_max(amax, sc_abs(sc_get(x, r, c)));
        global = sc_div(amax, 2688.0f);
        if (global == 0.0f) global = 1.0f;
    }
    if (g) sc_put(g, 0, 0, global);
    divisor = sc_mul(6.0f, global);
    for (r = 0; r < x->rows; r++)
        for (c = 0; c < x->cols; c += 16) {
            size_t end = x->cols - c < 16 ? x->cols : c + 16;
            float amax = 0.0f, t, step;
            uint32_t code;
            for (j = c; j < end; j++) amax = sc_max(amax, sc_abs(sc_get(x, r, j)));
            t = sc_div(amax, divisor);
            if (t == 0.0f) t = 1.0f;
            code = sc_encode(SC_E4M3, sc_min(sc_max(t, 0.001953125f), 448.0f), 1);
            sc_set_raw(scale, r, c / 16, code);
            step = sc_mul(sc_decode(SC_E4M3, code), global);
            for (j = c; j < end; j++) {
                float y = sc_clamp(sc_div(sc_get(x, r, j), step), 6.0f);
                sc_set_raw(codes, r, j, sc_encode(SC_E2M1, sc_abs(y), 1) | (y < 0.0f ? 8u : 0u));
            }
            if (end == x->cols && x->cols < codes->cols) sc_set_raw(codes, r, end, 0);
        }
    return SC_OK;
}

/* ============================== Dequantizers and requantizers ============================== */

/* A value that is only decoded keeps the sign of its NaN. */
static void sc_put_decoded(const sc_mat *y, size_t r, size_t c, float x) {
    if (sc_is_nan(x)) {
        uint32_t bits = 0x7FC00000u | (sc_bits_of(x) & 0x80000000u);
        if (y->type == SC_F32) sc_set_raw(y, r, c, bits);
        else sc_set_raw(y, r, c, sc_encode(y->type, sc_from_bits(bits), 0));
    } else {
        sc_put(y, r, c, x);
    }
}

/* 9. y = f32(code) of every element. */
int sc_dequant_table(const sc_mat *codes, const sc_mat *y) {
    size_t r, c;
    if (!codes || !y) return SC_MISSING;
    if (!sc_is_output_float(y->type)) return SC_TYPE;
    if (codes->rows != y->rows || (codes->cols != y->cols && codes->cols != y->cols + y->cols % 2)) return SC_SHAPE;
    for (r = 0; r < y->rows; r++)
        for (c = 0; c < y->cols; c++) sc_put_decoded(y, r, c, sc_get(codes, r, c));
    return SC_OK;
}

/* 9. y = f32(code - z) * f32(scale) [* g]. The scale of a block of block_rows x block_cols (0 = whole axis). z is one code per
   block; U4 codes without z are less 8. */
int sc_dequant(const sc_mat *codes, const sc_mat *scale, const sc_mat *z, const sc_mat *g, size_t block_rows, size_t block_cols,
               const sc_mat *y) {
    size_t rows, cols, grid_cols, r, c;
    if (!codes || !scale || !y) return SC_MISSING;
    if (!sc_is_output_float(y->type)) return SC_TYPE;
    if (codes->rows != y->rows || (codes->cols != y->cols && codes->cols != y->cols + y->cols % 2)) return SC_SHAPE;
    rows = sc_side(block_rows, y->rows);
    cols = sc_side(block_cols, y->cols);
    grid_cols = sc_ceil_div(y->cols, cols);
    if (sc_count(scale) != sc_ceil_div(y->rows, rows) * grid_cols) return SC_SHAPE;
    if ((z && sc_count(z) != sc_count(scale)) || (g && sc_count(g) != 1)) return SC_SHAPE;
    for (r = 0; r < y->rows; r++)
        for (c = 0; c < y->cols; c++) {
            size_t i = r / rows * grid_cols + c / cols;
            float v;
            if (sc_is_integer(codes->type)) {
                int64_t zero = z ? sc_int(z, i / z->cols, i % z->cols) : codes->type == SC_U4 ? 8 : 0;
                v = sc_f32_of_int(sc_int(codes, r, c) - zero);
            } else {
                v = sc_get(codes, r, c);
            }
            v = sc_mul(v, sc_get_flat(scale, i));
            if (g) v = sc_mul(v, sc_get(g, 0, 0));
            sc_put(y, r, c, v);
        }
    return SC_OK;
}

/* Values of codes under a grid of scales. */
typedef struct {
    const sc_mat *codes, *scale;
    size_t rows, cols, grid_cols;
} sc_scaled;

static float sc_source_scaled(void *context, size_t r, size_t c) {
    const sc_scaled *s = (const sc_scaled *)context;
    return sc_mul(sc_get(s->codes, r, c), sc_get_flat(s->scale, r / s->rows * s->grid_cols + c / s->cols));
}

/* 11. w = f32(code) * scale, blocks of block_rows x block_cols, quantized again: to power-of-two scales per 128 x 128 if the
   output is E4M3, to INT8 with one scale per row (at least 2^-23) if it is I8. */
int sc_requant(const sc_mat *codes, const sc_mat *scale, size_t block_rows, size_t block_cols, const sc_mat *codes_out,
               const sc_mat *scale_out) {
    sc_scaled scaled;
    sc_source source;
    if (!codes || !scale || !codes_out || !scale_out) return SC_MISSING;
    if (codes->type != SC_E4M3 || !sc_is_scale(scale->type)) return SC_TYPE;
    scaled.codes = codes;
    scaled.scale = scale;
    scaled.rows = sc_side(block_rows, codes->rows);
    scaled.cols = sc_side(block_cols, codes->cols);
    scaled.grid_cols = sc_ceil_div(codes->cols, scaled.cols);
    if (sc_count(scale) != sc_ceil_div(codes->rows, scaled.rows) * scaled.grid_cols) return SC_SHAPE;
    source.rows = codes->rows;
    source.cols = codes->cols;
    source.at = sc_source_scaled;
    source.context = &scaled;
    if (codes_out->type == SC_I8) return sc_quant_source(SC_ROW_INT8, &source, 1, 0, codes_out, scale_out);
    return sc_quant_source(SC_DG_FP8_UE8M0, &source, block_rows, block_cols, codes_out, scale_out);
}

/* 11. Saturating cast to E4M3; a NaN gives a NaN code of its sign. */
int sc_requant_to_e4m3(const sc_mat *x, const sc_mat *codes) {
    size_t r, c;
    if (!x || !codes) return SC_MISSING;
    if (!sc_is_output_float(x->type) || codes->type != SC_E4M3) return SC_TYPE;
    if (x->rows != codes->rows || x->cols != codes->cols) return SC_SHAPE;
    for (r = 0; r < x->rows; r++)
        for (c = 0; c < x->cols; c++) sc_set_raw(codes, r, c, sc_encode(SC_E4M3, sc_get(x, r, c), 1));
    return SC_OK;
}

/* 11. Between E4M3FN and E4M3FNUZ: the same bits but for NaNs, -0 and the FNUZ codes above 240 of E4M3FN's grid; the scale
   doubles towards FNUZ and halves back. */
int sc_requant_fnuz(const sc_mat *codes, const sc_mat *scale, const sc_mat *codes_out, const sc_mat *scale_out) {
    size_t r, c, i;
    int to_fnuz;
    if (!codes || !codes_out || (scale_out && !scale)) return SC_MISSING;
    to_fnuz = codes->type == SC_E4M3 && codes_out->type == SC_E4M3FNUZ;
    if (!to_fnuz && !(codes->type == SC_E4M3FNUZ && codes_out->type == SC_E4M3)) return SC_TYPE;
    if (codes->rows != codes_out->rows || codes->cols != codes_out->cols) return SC_SHAPE;
    if (scale_out && sc_count(scale) != sc_count(scale_out)) return SC_SHAPE;
    for (r = 0; r < codes->rows; r++)
        for (c = 0; c < codes->cols; c++) {
            uint64_t v = sc_raw(codes, r, c);
            if (to_fnuz) v = v == 0x80 ? 0 : (v & 0x7F) == 0x7F ? 0x80 : v;
            else v = v == 0x80 ? 0x7F : (v & 0x7F) == 0x7F ? v - 1 : v;
            sc_set_raw(codes_out, r, c, v);
        }
    for (i = 0; scale_out && i < sc_count(scale); i++)
        sc_put_flat(scale_out, i, sc_mul(sc_get_flat(scale, i), to_fnuz ? 2.0f : 0.5f));
    return SC_OK;
}

