/* ---- cases of manifest.json ---- */

enum { SC_MAX_ARGS = 12, SC_MAX_PATH = 4096 };

typedef struct {
    const char *name;
    sc_array array;    /* inputs, and what is expected of outputs */
    sc_array computed; /* outputs */
    double tolerance;  /* outputs: of the largest magnitude; 0 = bit equality */
} sc_arg;

typedef struct {
    const char *kernel, *name;
    const sc_json *params;
    size_t inputs, outputs;
    sc_arg in[SC_MAX_ARGS], out[SC_MAX_ARGS];
    int bad_param;
    void *work; /* scratch for kernels that need some */
} sc_case;

static sc_arg *sc_find_arg(sc_arg *args, size_t n, const char *name) {
    size_t i;
    for (i = 0; i < n; i++)
        if (strcmp(args[i].name, name) == 0) return &args[i];
    return NULL;
}

/* The matrix of an input, or of a computed output; NULL where the case has none. */
static const sc_mat *sc_in(sc_case *c, const char *name) {
    sc_arg *arg = sc_find_arg(c->in, c->inputs, name);
    return arg ? &arg->array.mat : NULL;
}

static const sc_mat *sc_out(sc_case *c, const char *name) {
    sc_arg *arg = sc_find_arg(c->out, c->outputs, name);
    return arg ? &arg->computed.mat : NULL;
}

/* Length of an axis of an input, 1 where there is no such input or axis. */
static size_t sc_axis(sc_case *c, const char *name, size_t axis) {
    sc_arg *arg = sc_find_arg(c->in, c->inputs, name);
    return arg && axis < arg->array.rank ? arg->array.shape[axis] : 1;
}

/* A parameter; null counts as absent. */
static const sc_json *sc_param(sc_case *c, const char *name) {
    const sc_json *p = sc_json_member(c->params, name);
    return p && p->kind == SC_JSON_NULL ? NULL : p;
}

/* The index of a text parameter among `choices` (ended by NULL; blanks do not count), 0 if it is absent. */
static int sc_choice(sc_case *c, const char *name, const char *const *choices) {
    const sc_json *p = sc_param(c, name);
    char text[64];
    size_t n = 0, i;
    if (!p) return 0;
    if (p->kind == SC_JSON_TEXT) {
        for (i = 0; p->text[i] && n + 1 < sizeof text; i++)
            if (p->text[i] != ' ') text[n++] = p->text[i];
        text[n] = 0;
        for (i = 0; choices[i]; i++)
            if (strcmp(choices[i], text) == 0) return (int)i;
    }
    c->bad_param = 1;
    return 0;
}

static double sc_real(sc_case *c, const char *name, double otherwise) {
    const sc_json *p = sc_param(c, name);
    if (!p) return otherwise;
    if (p->kind != SC_JSON_NUMBER) c->bad_param = 1;
    return p->kind == SC_JSON_NUMBER ? p->number : otherwise;
}

static size_t sc_json_size(const sc_json *p, int *bad) {
    if (p && p->kind == SC_JSON_NUMBER && p->exact && p->integer >= 0 && p->integer <= SC_MAX_FILE)
        return (size_t)p->integer;
    *bad = 1;
    return 0;
}

static size_t sc_number(sc_case *c, const char *name, size_t otherwise) {
    const sc_json *p = sc_param(c, name);
    return p ? sc_json_size(p, &c->bad_param) : otherwise;
}

static int sc_flag(sc_case *c, const char *name, int otherwise) {
    const sc_json *p = sc_param(c, name);
    if (!p) return otherwise;
    if (p->kind != SC_JSON_TRUE && p->kind != SC_JSON_FALSE) c->bad_param = 1;
    return p->kind == SC_JSON_TRUE;
}

/* The parameter block = [rows, cols]. */
static void sc_block(sc_case *c, size_t *rows, size_t *cols) {
    const sc_json *p = sc_param(c, "block");
    if (!p) return;
    if (p->kind != SC_JSON_ARRAY || !p->first || !p->first->next || p->first->next->next) {
        c->bad_param = 1;
        return;
    }
    *rows = sc_json_size(p->first, &c->bad_param);
    *cols = sc_json_size(p->first->next, &c->bad_param);
}

/* ---- calls ---- */

/* The mode that a search tries instead of the one of the case. */
static const sc_mode *sc_tried;

static sc_mode sc_mode_of(sc_case *c, int joint) {
    static const char *const MODES[] = {"R0", "R1", "R2", NULL};
    static const char *const ROUNDINGS[] = {"truncate", "rne", NULL};
    static const char *const ORDERS[] = {"", "d*(sa*sb)", "acc*(sx*sw)", "(d*sa)*sb", "(acc*sx)*sw", NULL};
    sc_mode m;
    int order = sc_choice(c, "order", ORDERS);
    if (sc_tried) return *sc_tried;
    m.mode = sc_choice(c, "mode", MODES);
    m.mma_k = sc_number(c, "mma_k", 32);
    m.fraction_bits = (int)sc_number(c, "fraction_bits", 13);
    m.rne = sc_choice(c, "rounding", ROUNDINGS);
    m.promote_every = sc_number(c, "promote_every", 128);
    m.fma = sc_flag(c, "fma", 0);
    m.joint = order ? order <= 2 : joint;
    return m;
}

static int sc_call_fp8_block(sc_case *c) {
    sc_mode m = sc_mode_of(c, 1);
    return sc_gemm_fp8_block(sc_in(c, "A"), sc_in(c, "sa"), sc_in(c, "B"), sc_in(c, "sb"), sc_out(c, "C"), &m);
}

static int sc_call_token_channel(sc_case *c) {
    sc_mode m = sc_mode_of(c, 0);
    return sc_gemm_fp8_token_channel(sc_in(c, "A"), sc_in(c, "sa"), sc_in(c, "B"), sc_in(c, "sb"), sc_in(c, "bias"),
                                     sc_out(c, "C"), &m);
}

static int sc_call_w8a8(sc_case *c) {
    sc_mode m = sc_mode_of(c, 0);
    return sc_gemm_w8a8(sc_in(c, "A"), sc_in(c, "sx"), sc_in(c, "B"), sc_in(c, "sw"), sc_in(c, "bias"),
                        sc_out(c, "C"), m.joint);
}

static int sc_call_w4a16(sc_case *c) {
    static const char *const KINDS[] = {"bf16", "f32", NULL};
    int keep_f32 = sc_choice(c, "dequant", KINDS);
    return sc_gemm_w4a16_group(sc_in(c, "A"), sc_in(c, "B"), sc_in(c, "s"), sc_in(c, "z"), sc_out(c, "C"), keep_f32);
}

static int sc_call_w4a8(sc_case *c) {
    return sc_gemm_w4a8_group(sc_in(c, "A"), sc_in(c, "sx"), sc_in(c, "B"), sc_in(c, "sg"), sc_in(c, "sc"),
                              sc_in(c, "bias"), sc_out(c, "C"));
}

static int sc_call_mxfp8(sc_case *c) {
    sc_mode m = sc_mode_of(c, 1);
    return sc_gemm_mx(sc_in(c, "A"), sc_in(c, "sa"), sc_in(c, "B"), sc_in(c, "sb"), sc_out(c, "C"), &m);
}

static int sc_call_mxfp4(sc_case *c) {
    sc_mode m = sc_mode_of(c, 0);
    return sc_gemm_mx(sc_in(c, "A"), sc_in(c, "sa"), sc_in(c, "B"), sc_in(c, "sb"), sc_out(c, "C"), &m);
}

static int sc_call_nvfp4(sc_case *c) {
    sc_mode m = sc_mode_of(c, 1);
    return sc_gemm_nvfp4(sc_in(c, "A"), sc_in(c, "sa"), sc_in(c, "ga"), sc_in(c, "B"), sc_in(c, "sb"), sc_in(c, "gb"),
                         sc_out(c, "C"), &m);
}

static int sc_call_lm_head(sc_case *c) { return sc_lm_head(sc_in(c, "H"), sc_in(c, "B"), sc_out(c, "C")); }

static int sc_call_table(sc_case *c) { return sc_dequant_table(sc_in(c, "codes"), sc_out(c, "y")); }

static int sc_call_dequant(sc_case *c) {
    /* Default blocks by kernel. */
    static const struct {
        const char *kernel;
        size_t rows, cols;
    } BLOCKS[] = {
        {"dequant_fp8_block", 128, 128},  {"dequant_fp8_channel", 1, 0}, {"dequant_int8_channel", 1, 0},
        {"dequant_int8_block", 128, 128}, {"dequant_mxfp8", 1, 32},      {"dequant_mxfp4", 1, 32},
        {"dequant_nvfp4", 1, 16},
    };
    size_t rows = 1, cols = 0, i;
    const sc_mat *scale = sc_in(c, "scale"), *y = sc_out(c, "y");
    for (i = 0; i < sizeof BLOCKS / sizeof *BLOCKS; i++)
        if (strcmp(c->kernel, BLOCKS[i].kernel) == 0) {
            rows = BLOCKS[i].rows;
            cols = BLOCKS[i].cols;
        }
    /* Groups of 4-bit integers follow from the shape of the scales. */
    if (strcmp(c->kernel, "dequant_int4_group") == 0 && scale && y && scale->cols)
        cols = sc_ceil_div(y->cols, scale->cols);
    sc_block(c, &rows, &cols);
    return sc_dequant(sc_in(c, "codes"), scale, sc_in(c, "z"), sc_in(c, "g"), rows, cols, y);
}

static int sc_call_quant(sc_case *c) {
    const sc_recipe *recipe = sc_find_recipe(c->kernel + 6); /* without "quant_" */
    size_t rows, cols;
    if (!recipe) return SC_PARAM;
    rows = recipe->block_rows;
    cols = recipe->block_cols;
    sc_block(c, &rows, &cols);
    return sc_quant(recipe->name, sc_in(c, "x"), rows, cols, sc_out(c, "codes"), sc_out(c, "scale"));
}

static int sc_call_quant_nvfp4(sc_case *c) {
    return sc_quant_nvfp4(sc_in(c, "x"), sc_in(c, "g"), sc_out(c, "codes"), sc_out(c, "scale"), sc_out(c, "g"));
}

static int sc_call_requant(sc_case *c) {
    size_t rows = 128, cols = 128;
    sc_block(c, &rows, &cols);
    return sc_requant(sc_in(c, "codes"), sc_in(c, "scale"), rows, cols, sc_out(c, "codes_out"),
                      sc_out(c, "scale_out"));
}

static int sc_call_to_e4m3(sc_case *c) { return sc_requant_to_e4m3(sc_in(c, "x"), sc_out(c, "codes")); }

static int sc_call_fnuz(sc_case *c) {
    return sc_requant_fnuz(sc_in(c, "codes"), sc_in(c, "scale"), sc_out(c, "codes_out"), sc_out(c, "scale_out"));
}

static int sc_call_rmsnorm(sc_case *c) {
    const sc_mat *residual = sc_in(c, "residual");
    double eps = sc_real(c, "eps", 1e-6);
    int bf16_x = sc_flag(c, "bf16_x", 0);
    if (strncmp(c->kernel, "add_", 4) == 0 && !residual) return SC_MISSING;
    return sc_rmsnorm(sc_in(c, "x"), sc_in(c, "w"), residual, eps, bf16_x, sc_out(c, "y"), sc_out(c, "residual_out"));
}

/* The recipe of a parameter, or the one of the rule `otherwise`; its block where the case has none. */
static const sc_recipe *sc_recipe_of(sc_case *c, int otherwise, size_t *rows, size_t *cols) {
    const sc_json *p = sc_param(c, "recipe");
    const sc_recipe *found = NULL;
    size_t i;
    if (p && p->kind == SC_JSON_TEXT) found = sc_find_recipe(p->text);
    for (i = 0; !p && i < sizeof SC_RECIPES / sizeof *SC_RECIPES; i++)
        if (SC_RECIPES[i].rule == otherwise) found = &SC_RECIPES[i];
    if (!found) return NULL;
    *rows = found->block_rows;
    *cols = found->block_cols;
    sc_block(c, rows, cols);
    return found;
}

static int sc_call_rmsnorm_quant(sc_case *c) {
    const sc_mat *residual = sc_in(c, "residual"), *codes = sc_out(c, "codes");
    double eps = sc_real(c, "eps", 1e-6);
    int bf16_x = sc_flag(c, "bf16_x", 0);
    size_t rows, cols;
    const sc_recipe *recipe = sc_recipe_of(c, strstr(c->kernel, "_s8") ? SC_INT8_TOKEN : SC_DG_FP8_F32, &rows, &cols);
    if (!recipe) return SC_PARAM;
    if (strncmp(c->kernel, "add_", 4) == 0 && !residual) return SC_MISSING;
    return sc_rmsnorm_quant(sc_in(c, "x"), sc_in(c, "w"), residual, eps, bf16_x, recipe->name, rows, cols, codes,
                            sc_out(c, "scale"), sc_out(c, "residual_out"));
}

static int sc_call_swiglu(sc_case *c) {
    return sc_swiglu(sc_in(c, "x"), sc_in(c, "topk_weight"), sc_narrow(sc_real(c, "limit", 0.0)), sc_out(c, "y"));
}

static int sc_call_swiglu_quant(sc_case *c) {
    const sc_mat *codes = sc_out(c, "codes");
    size_t rows, cols;
    const sc_recipe *recipe;
    int otherwise = SC_INT8_TOKEN;
    if (codes && codes->type == SC_E4M3) otherwise = SC_DG_FP8_F32;
    if (codes && codes->type == SC_E2M1) otherwise = SC_MX_FP4_DS;
    recipe = sc_recipe_of(c, otherwise, &rows, &cols);
    if (!recipe) return SC_PARAM;
    return sc_swiglu_quant(sc_in(c, "x"), sc_in(c, "topk_weight"), sc_narrow(sc_real(c, "limit", 0.0)), recipe->name,
                           rows, cols, codes, sc_out(c, "scale"));
}

static int sc_call_rope(sc_case *c) {
    static const char *const STYLES[] = {"half", "interleaved", NULL};
    int interleaved = strcmp(c->kernel, "rope_interleaved") == 0;
    if (strcmp(c->kernel, "rope") == 0) interleaved = sc_choice(c, "style", STYLES);
    return sc_rope(sc_in(c, "x"), sc_in(c, "cos"), sc_in(c, "sin"), interleaved, sc_out(c, "y"));
}

static void *sc_work(sc_case *c, size_t items, size_t item) {
    if (items > (size_t)SC_MAX_FILE / item) return NULL;
    c->work = calloc(items + 1, item);
    return c->work;
}

static int sc_call_mla(sc_case *c) {
    const sc_mat *kv = sc_in(c, "kv_c"), *q = sc_in(c, "q_nope"), *y = sc_out(c, "y");
    double scale = sc_real(c, "scale", 1.0), *work;
    int causal = sc_flag(c, "causal", 1), cast_p = sc_flag(c, "cast_p", 0);
    if (!kv || !q || !y) return SC_MISSING;
    work = (double *)sc_work(c, kv->rows + 2 * (kv->cols + q->cols + y->cols), sizeof *work);
    if (!work) return SC_SHAPE;
    return sc_mla(q, sc_in(c, "q_pe"), kv, sc_in(c, "k_pe"), sc_in(c, "W_UK"), sc_in(c, "W_UV"),
                  sc_axis(c, "q_nope", 1), scale, causal, cast_p, strcmp(c->kernel, "mla_absorbed") == 0, work, y);
}

static int sc_call_sparse(sc_case *c) {
    static const char *const CASTS[] = {"bf16", "f32", NULL};
    const sc_mat *idx = sc_in(c, "idx");
    int keep_f32 = sc_choice(c, "cast_p", CASTS);
    float scale = sc_narrow(sc_real(c, "scale", 1.0)), *work;
    if (!idx) return SC_MISSING;
    work = (float *)sc_work(c, idx->cols, sizeof *work);
    if (!work) return SC_SHAPE;
    return sc_sparse_attn_sink(sc_in(c, "q"), sc_in(c, "kv"), idx, sc_in(c, "sink"), scale, keep_f32, work,
                               sc_out(c, "y"));
}

static int sc_call_indexer(sc_case *c) {
    return sc_indexer_logits(sc_in(c, "q"), sc_in(c, "k"), sc_in(c, "weights"), sc_in(c, "ks"), sc_out(c, "y"));
}

static int sc_call_gate(sc_case *c) {
    static const char *const SCORINGS[] = {"sigmoid", "sqrtsoftplus", "softmax", NULL};
    const sc_mat *logits = sc_in(c, "logits"), *idx = sc_out(c, "idx");
    sc_gate gate;
    float *work;
    if (!logits || !idx) return SC_MISSING;
    gate.groups = sc_number(c, "groups", 1);
    gate.topk_group = sc_number(c, "topk_group", 1);
    gate.topk = sc_number(c, "topk", 8);
    gate.scale = sc_narrow(sc_real(c, "scale", 1.0));
    gate.scoring = sc_choice(c, "scoring", SCORINGS);
    gate.renormalize = sc_flag(c, "renormalize", 1);
    work = (float *)sc_work(c, 2 * logits->cols + gate.groups, sizeof *work);
    if (!work) return SC_SHAPE;
    return sc_moe_gate(logits, sc_in(c, "bias"), &gate, work, idx, sc_out(c, "weights"));
}

static int sc_call_grouped(sc_case *c) {
    static const char *const BASES[] = {"fp8_block", "w8a8", "fp8_mxfp4", NULL};
    int base = sc_choice(c, "base", BASES);
    sc_mode m = sc_mode_of(c, base == 0);
    return sc_moe_grouped_gemm(sc_in(c, "A"), sc_in(c, "sa"), sc_in(c, "B"), sc_in(c, "sb"), sc_in(c, "offsets"),
                               base == 0   ? 1
                               : base == 1 ? 3
                                           : 7,
                               sc_out(c, "C"), &m);
}

static int sc_call_combine(sc_case *c) {
    return sc_moe_combine(sc_in(c, "x"), sc_in(c, "row"), sc_in(c, "weights"), sc_out(c, "y"));
}

static int sc_call_kv_v32(sc_case *c) { return sc_kv_quant_v32(sc_in(c, "x"), sc_out(c, "y")); }

static int sc_call_kv_model1(sc_case *c) {
    return sc_kv_quant_model1(sc_in(c, "x"), sc_number(c, "block_size", sc_axis(c, "x", 1)), sc_out(c, "y"));
}

static int sc_call_kv_int8(sc_case *c) {
    static const char *const AXES[] = {"head", "channel", NULL};
    int per_channel = sc_choice(c, "axis", AXES);
    sc_arg *given = sc_find_arg(c->in, c->inputs, "scale");
    /* A given scale says itself what it is for. */
    if (given) per_channel = given->array.rank == 2;
    return sc_kv_quant_int8(sc_in(c, "x"), sc_axis(c, "x", 1), sc_in(c, "scale"), per_channel, sc_out(c, "codes"),
                            sc_out(c, "scale_out"));
}

static int sc_call_ue8m0_pack(sc_case *c) { return sc_layout_ue8m0_pack(sc_in(c, "x"), sc_out(c, "y")); }
static int sc_call_ue8m0_unpack(sc_case *c) { return sc_layout_ue8m0_unpack(sc_in(c, "x"), sc_out(c, "y")); }
static int sc_call_ue8m0_tma(sc_case *c) { return sc_layout_ue8m0_tma(sc_in(c, "x"), sc_out(c, "y")); }
static int sc_call_nz(sc_case *c) { return sc_layout_nz(sc_in(c, "x"), sc_out(c, "y"), 0); }
static int sc_call_nz_inverse(sc_case *c) { return sc_layout_nz(sc_out(c, "y"), sc_in(c, "x"), 1); }
static int sc_call_interleave(sc_case *c) { return sc_layout_interleave(sc_in(c, "x"), sc_out(c, "y"), 0); }
static int sc_call_deinterleave(sc_case *c) { return sc_layout_interleave(sc_in(c, "x"), sc_out(c, "y"), 1); }
static int sc_call_nibble_swap(sc_case *c) { return sc_layout_nibble_swap(sc_in(c, "x"), sc_out(c, "y")); }

static int sc_call_pack_i32(sc_case *c) {
    static const char *const ORDERS[] = {"ct", "awq", "gptq", NULL};
    int order = sc_choice(c, "order", ORDERS);
    return sc_layout_pack_i32(sc_in(c, "x"), order == 1, sc_out(c, "y"));
}

static int sc_call_pack_nibbles(sc_case *c) { return sc_layout_pack_nibbles(sc_in(c, "x"), sc_out(c, "y")); }

typedef struct {
    const char *name;
    int (*call)(sc_case *);
} sc_kernel;

static const sc_kernel SC_KERNELS[] = {
    {"gemm_fp8_block", sc_call_fp8_block},
    {"gemm_fp8_token_channel", sc_call_token_channel},
    {"gemm_w8a8", sc_call_w8a8},
    {"gemm_w4a16_group", sc_call_w4a16},
    {"gemm_w4a8_group", sc_call_w4a8},
    {"gemm_mxfp8", sc_call_mxfp8},
    {"gemm_mxfp4", sc_call_mxfp4},
    {"gemm_fp8_mxfp4", sc_call_mxfp4},
    {"gemm_nvfp4", sc_call_nvfp4},
    {"dequant_e4m3", sc_call_table},
    {"dequant_e5m2", sc_call_table},
    {"dequant_e4m3fnuz", sc_call_table},
    {"dequant_e2m1", sc_call_table},
    {"dequant_e8m0", sc_call_table},
    {"dequant_bf16", sc_call_table},
    {"dequant_fp8_block", sc_call_dequant},
    {"dequant_fp8_channel", sc_call_dequant},
    {"dequant_int8_channel", sc_call_dequant},
    {"dequant_int8_block", sc_call_dequant},
    {"dequant_int4_group", sc_call_dequant},
    {"dequant_mxfp8", sc_call_dequant},
    {"dequant_mxfp4", sc_call_dequant},
    {"dequant_nvfp4", sc_call_dequant},
    {"quant_ds_fp8_f32_mul", sc_call_quant},
    {"quant_ds_fp8_ue8m0", sc_call_quant},
    {"quant_dg_fp8_f32", sc_call_quant},
    {"quant_dg_fp8_ue8m0", sc_call_quant},
    {"quant_tk_fp8_f32", sc_call_quant},
    {"quant_vllm_fp8_group", sc_call_quant},
    {"quant_vllm_fp8_token", sc_call_quant},
    {"quant_vllm_fp8_token_div", sc_call_quant},
    {"quant_mx_fp4_ds", sc_call_quant},
    {"quant_mx_fp4_dg", sc_call_quant},
    {"quant_int8_token", sc_call_quant},
    {"quant_nvfp4", sc_call_quant_nvfp4},
    {"requant_e4m3_f32_to_ue8m0", sc_call_requant},
    {"requant_e4m3_to_s8", sc_call_requant},
    {"requant_bf16_to_e4m3", sc_call_to_e4m3},
    {"requant_e4m3fn_to_e4m3fnuz", sc_call_fnuz},
    {"requant_e4m3fnuz_to_e4m3fn", sc_call_fnuz},
    {"rmsnorm", sc_call_rmsnorm},
    {"add_rmsnorm", sc_call_rmsnorm},
    {"rmsnorm_quant_fp8", sc_call_rmsnorm_quant},
    {"add_rmsnorm_quant_fp8", sc_call_rmsnorm_quant},
    {"rmsnorm_quant_s8", sc_call_rmsnorm_quant},
    {"add_rmsnorm_quant_s8", sc_call_rmsnorm_quant},
    {"swiglu", sc_call_swiglu},
    {"swiglu_quant", sc_call_swiglu_quant},
    {"rope", sc_call_rope},
    {"rope_interleaved", sc_call_rope},
    {"rope_half", sc_call_rope},
    {"rope_half_split", sc_call_rope},
    {"mla_plain", sc_call_mla},
    {"mla_absorbed", sc_call_mla},
    {"sparse_attn_sink", sc_call_sparse},
    {"indexer_logits", sc_call_indexer},
    {"moe_gate", sc_call_gate},
    {"moe_grouped_gemm", sc_call_grouped},
    {"moe_combine", sc_call_combine},
    {"lm_head", sc_call_lm_head},
    {"kv_quant_v32", sc_call_kv_v32},
    {"kv_quant_model1", sc_call_kv_model1},
    {"kv_quant_int8", sc_call_kv_int8},
    {"layout_ue8m0_pack", sc_call_ue8m0_pack},
    {"layout_ue8m0_unpack", sc_call_ue8m0_unpack},
    {"layout_ue8m0_tma", sc_call_ue8m0_tma},
    {"layout_nz", sc_call_nz},
    {"layout_nz_inverse", sc_call_nz_inverse},
    {"layout_interleave", sc_call_interleave},
    {"layout_deinterleave", sc_call_deinterleave},
    {"layout_nibble_swap", sc_call_nibble_swap},
    {"layout_pack_i32", sc_call_pack_i32},
    {"layout_pack_nibbles", sc_call_pack_nibbles},
};

static const sc_kernel *sc_find_kernel(const char *name) {
    size_t i;
    for (i = 0; i < sizeof SC_KERNELS / sizeof *SC_KERNELS; i++)
        if (strcmp(SC_KERNELS[i].name, name) == 0) return &SC_KERNELS[i];
    return NULL;
}

