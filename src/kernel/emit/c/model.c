/* ============================== Norms, activations, positions ============================== */

/* Rows of RMSNorm: the row's 1 / sqrt is kept between calls for one row. */
typedef struct {
    const sc_mat *x, *w, *residual;
    double eps;
    int bf16_x;
    size_t row; /* of r; SIZE_MAX before the first */
    float r;
} sc_norm;

/* The input plus residual, rounded to BF16. */
static float sc_norm_input(const sc_norm *n, size_t r, size_t c) {
    float h = sc_get(n->x, r, c);
    return n->residual ? sc_round_bf16(sc_add(h, sc_get(n->residual, r, c))) : h;
}

static float sc_source_norm(void *context, size_t row, size_t col) {
    sc_norm *n = (sc_norm *)context;
    float y;
    if (n->row != row) {
        double ss = 0.0;
        size_t c;
        for (c = 0; c < n->x->cols; c++) {
            double h = (double)sc_norm_input(n, row, c);
            ss = sc_add64(ss, sc_mul64(h, h));
        }
        ss = sc_add64(sc_div64(ss, (double)n->x->cols), n->eps);
        n->r = sc_narrow(sc_div64(1.0, sc_sqrt64(ss)));
        n->row = row;
    }
    y = sc_mul(sc_norm_input(n, row, col), n->r);
    if (n->bf16_x) y = sc_round_bf16(y);
    return sc_round_bf16(sc_mul(y, sc_get_flat(n->w, col)));
}

static int sc_norm_start(sc_norm *n, const sc_mat *x, const sc_mat *w, const sc_mat *residual, double eps, int bf16_x,
                         const sc_mat *residual_out) {
    size_t r, c;
    if (!x || !w || (residual_out && !residual)) return SC_MISSING;
    if (!sc_is_output_float(x->type) || !sc_is_output_float(w->type)) return SC_TYPE;
    if (sc_count(w) != x->cols) return SC_SHAPE;
    if (residual && (residual->rows != x->rows || residual->cols != x->cols)) return SC_SHAPE;
    if (residual_out && (residual_out->rows != x->rows || residual_out->cols != x->cols)) return SC_SHAPE;
    n->x = x;
    n->w = w;
    n->residual = residual;
    n->eps = eps;
    n->bf16_x = bf16_x;
    n->row = SIZE_MAX;
    n->r = 0.0f;
    for (r = 0; residual_out && r < x->rows; r++)
        for (c = 0; c < x->cols; c++) sc_put(residual_out, r, c, sc_norm_input(n, r, c));
    return SC_OK;
}

/* 12. y = bf16(f32(f32(h * r) [-> BF16 if bf16_x] * w)), h = bf16(x + residual) or x, r = f32(1 / sqrt(sum(h^2) / H + eps))
   with all of it in binary64, columns ascending. */
int sc_rmsnorm(const sc_mat *x, const sc_mat *w, const sc_mat *residual, double eps, int bf16_x, const sc_mat *y,
               const sc_mat *residual_out) {
    sc_norm n;
    size_t r, c;
    int code = sc_norm_start(&n, x, w, residual, eps, bf16_x, residual_out);
    if (code) return code;
    if (!y) return SC_MISSING;
    if (!sc_is_output_float(y->type)) return SC_TYPE;
    if (y->rows != x->rows || y->cols != x->cols) return SC_SHAPE;
    for (r = 0; r < x->rows; r++)
        for (c = 0; c < x->cols; c++) sc_put(y, r, c, sc_source_norm(&n, r, c));
    return SC_OK;
}

/* 12. The rows of sc_rmsnorm, quantized by a recipe. */
int sc_rmsnorm_quant(const sc_mat *x, const sc_mat *w, const sc_mat *residual, double eps, int bf16_x, const char *recipe,
                     size_t block_rows, size_t block_cols, const sc_mat *codes, const sc_mat *scale, const sc_mat *residual_out) {
    sc_norm n;
    sc_source source;
    const sc_recipe *found = sc_find_recipe(recipe);
    int code = sc_norm_start(&n, x, w, residual, eps, bf16_x, residual_out);
    if (code) return code;
    if (!found) return SC_PARAM;
    source.rows = x->rows;
    source.cols = x->cols;
    source.at = sc_source_norm;
    source.context = &n;
    return sc_quant_source(found->rule, &source, block_rows, block_cols, codes, scale);
}

typedef struct {
    const sc_mat *x, *weight;
    float limit;
} sc_glu;

static float sc_source_glu(void *context, size_t r, size_t c) {
    const sc_glu *s = (const sc_glu *)context;
    float g = sc_get(s->x, r, c), u = sc_get(s->x, r, s->x->cols / 2 + c), y;
    if (s->limit > 0.0f) {
        g = g > s->limit ? s->limit : g;
        u = sc_clamp(u, s->limit);
    }
    y = sc_mul(sc_div(g, sc_add(1.0f, sc_exp(-g))), u);
    if (s->weight) y = sc_mul(y, sc_get_flat(s->weight, r));
    return sc_round_bf16(y);
}

static int sc_glu_start(sc_glu *s, const sc_mat *x, const sc_mat *weight, float limit) {
    if (!x) return SC_MISSING;
    if (!sc_is_output_float(x->type)) return SC_TYPE;
    if (x->cols % 2 || (weight && sc_count(weight) != x->rows)) return SC_SHAPE;
    s->x = x;
    s->weight = weight;
    s->limit = limit;
    return SC_OK;
}

/* 13. y = bf16(g / (1 + exp(-g)) * u [* weight]) in binary32; g is the first half of a row, at most `limit`; u the second,
   within +-limit; limit 0 is none. */
int sc_swiglu(const sc_mat *x, const sc_mat *weight, float limit, const sc_mat *y) {
    sc_glu s;
    size_t r, c;
    int code = sc_glu_start(&s, x, weight, limit);
    if (code) return code;
    if (!y) return SC_MISSING;
    if (!sc_is_output_float(y->type)) return SC_TYPE;
    if (y->rows != x->rows || y->cols != x->cols / 2) return SC_SHAPE;
    for (r = 0; r < y->rows; r++)
        for (c = 0; c < y->cols; c++) sc_put(y, r, c, sc_source_glu(&s, r, c));
    return SC_OK;
}

/* 13. The rows of sc_swiglu, quantized by a recipe. */
int sc_swiglu_quant(const sc_mat *x, const sc_mat *weight, float limit, const char *recipe, size_t block_rows,
                    size_t block_cols, const sc_mat *codes, const sc_mat *scale) {
    sc_glu s;
    sc_source source;
    const sc_recipe *found = sc_find_recipe(recipe);
    int code = sc_glu_start(&s, x, weight, limit);
    if (code) return code;
    if (!found) return SC_PARAM;
    source.rows = x->rows;
    source.cols = x->cols / 2;
    source.at = sc_source_glu;
    source.context = &s;
    return sc_quant_source(found->rule, &source, block_rows, block_cols, codes, scale);
}

/* 14. Row t * heads + h of x is head h of token t. Pairs (2i, 2i + 1) if interleaved, else (i, i + R/2):
   (x0 * c - x1 * s, x1 * c + x0 * s), every product and sum rounded to binary32. */
int sc_rope(const sc_mat *x, const sc_mat *cosines, const sc_mat *sines, int interleaved, const sc_mat *y) {
    size_t r, i, half, heads;
    if (!x || !cosines || !sines || !y) return SC_MISSING;
    if (!sc_is_output_float(x->type) || !sc_is_output_float(y->type)) return SC_TYPE;
    half = x->cols / 2;
    if (x->cols % 2 || y->rows != x->rows || y->cols != x->cols) return SC_SHAPE;
    if (cosines->cols != half || sines->cols != half || sines->rows != cosines->rows) return SC_SHAPE;
    if (x->rows == 0) return SC_OK;
    if (cosines->rows == 0 || x->rows % cosines->rows) return SC_SHAPE;
    heads = x->rows / cosines->rows;
    for (r = 0; r < x->rows; r++)
        for (i = 0; i < half; i++) {
            size_t at0 = interleaved ? 2 * i : i, at1 = interleaved ? 2 * i + 1 : i + half;
            float x0 = sc_get(x, r, at0), x1 = sc_get(x, r, at1), c = sc_get(cosines, r / heads, i), s = sc_get(sines, r / heads, i);
            sc_put(y, r, at0, sc_sub(sc_mul(x0, c), sc_mul(x1, s)));
            sc_put(y, r, at1, sc_add(sc_mul(x1, c), sc_mul(x0, s)));
        }
    return SC_OK;
}

/* ============================== Attention ============================== */

static double sc_get64(const sc_mat *m, size_t r, size_t c) {
    return m->type == SC_F64 ? sc_from_bits64(sc_raw(m, r, c)) : (double)sc_get(m, r, c);
}

static void sc_put64(const sc_mat *m, size_t r, size_t c, double v) {
    if (m->type == SC_F64) sc_set_raw(m, r, c, sc_is_nan64(v) ? UINT64_C(0x7FF8000000000000) : sc_bits_of64(v));
    else sc_put(m, r, c, sc_narrow(v));
}

static double sc_dot64(const sc_mat *a, size_t r, const sc_mat *b, size_t q) {
    double sum = 0.0;
    size_t k;
    for (k = 0; k < a->cols; k++) sum = sc_add64(sum, sc_mul64((double)sc_get(a, r, k), (double)sc_get(b, q, k)));
    return sum;
}

/* exp(score - largest) of scores[0..n], in place, rounded to BF16 if cast_p; returns their sum before that rounding. */
static double sc_softmax64(double *scores, size_t n, int cast_p) {
    double largest = n ? scores[0] : 0.0, sum = 0.0;
    size_t i;
    for (i = 1; i < n; i++)
        if (scores[i] > largest) largest = scores[i];
    for (i = 0; i < n; i++) {
        scores[i] = sc_exp64(sc_sub64(scores[i], largest));
        sum = sc_add64(sum, scores[i]);
        if (cast_p) scores[i] = (double)sc_round_bf16(sc_narrow(scores[i]));
    }
    return sum;
}

/* 15. Multi-head latent attention in binary64. Rows of q_nope, q_pe and y: t * heads + h; rows of W_UK: h * Dn + d; rows of
   W_UV: h * Dv + d. Plain form: keys W_UK kv and values W_UV kv. Absorbed form: the query goes through W_UK and the result
   through W_UV; the division by the sum of probabilities is last. causal: query t sees keys 0 to S - T + t. `work` has room for S + 2 * max(Dn, Dv, rank) numbers. */
int sc_mla(const sc_mat *q_nope, const sc_mat *q_pe, const sc_mat *kv, const sc_mat *k_pe, const sc_mat *w_uk, const sc_mat *w_uv,
           size_t heads, double scale, int causal, int cast_p, int absorbed, double *work, const sc_mat *y) {
    size_t tokens, keys, rank, dn, dv, t, h, s, d, r, seen;
    double *scores = work, *latent, *value;
    if (!q_nope || !q_pe || !kv || !k_pe || !w_uk || !w_uv || !y) return SC_MISSING;
    if (y->type != SC_F64 && !sc_is_output_float(y->type)) return SC_TYPE;
    if (heads == 0 || q_nope->rows % heads) return SC_SHAPE;
    tokens = q_nope->rows / heads;
    keys = kv->rows;
    rank = kv->cols;
    dn = q_nope->cols;
    dv = y->cols;
    if (q_pe->rows != q_nope->rows || k_pe->rows != keys || q_pe->cols != k_pe->cols || y->rows != q_nope->rows) return SC_SHAPE;
    if (w_uk->rows != heads * dn || w_uk->cols != rank || w_uv->rows != heads * dv || w_uv->cols != rank) return SC_SHAPE;
    latent = work + keys;
    value = latent + (rank > dn ? rank : dn);
    for (t = 0; t < tokens; t++)
        for (h = 0; h < heads; h++) {
            size_t row = t * heads + h;
            double total;
            seen = !causal ? keys : keys + t + 1 > tokens ? keys + t + 1 - tokens : 0;
            if (absorbed)
                for (r = 0; r < rank; r++) {
                    latent[r] = 0.0;
                    for (d = 0; d < dn; d++)
                        latent[r] = sc_add64(latent[r], sc_mul64((double)sc_get(q_nope, row, d), (double)sc_get(w_uk, h * dn + d, r)));
                }
            for (s = 0; s < seen; s++) {
                double score = 0.0;
                if (absorbed)
                    for (r = 0; r < rank; r++) score = sc_add64(score, sc_mul64(latent[r], (double)sc_get(kv, s, r)));
                else
                    for (d = 0; d < dn; d++)
                        score = sc_add64(score, sc_mul64((double)sc_get(q_nope, row, d), sc_dot64(w_uk, h * dn + d, kv, s)));
                score = sc_add64(score, sc_dot64(q_pe, row, k_pe, s));
                scores[s] = sc_mul64(score, scale);
            }
            total = sc_softmax64(scores, seen, cast_p);
            if (absorbed) {
                for (r = 0; r < rank; r++) {
                    value[r] = 0.0;
                    for (s = 0; s < seen; s++) value[r] = sc_add64(value[r], sc_mul64(scores[s], (double)sc_get(kv, s, r)));
                }
                for (d = 0; d < dv; d++) {
                    double sum = 0.0;
                    for (r = 0; r < rank; r++) sum = sc_add64(sum, sc_mul64(value[r], (double)sc_get(w_uv, h * dv + d, r)));
                    sc_put64(y, row, d, seen ? sc_div64(sum, total) : 0.0);
                }
            } else {
                for (d = 0; d < dv; d++) {
                    double sum = 0.0;
                    for (s = 0; s < seen; s++) sum = sc_add64(sum, sc_mul64(scores[s], sc_dot64(w_uv, h * dv + d, kv, s)));
                    sc_put64(y, row, d, seen ? sc_div64(sum, total) : 0.0);
                }
            }
        }
    return SC_OK;
}

/* 16. Sparse attention with a sink. Row t * heads + h of q and y; row t of idx lists keys, -1 = masked.
   l = f32(exact q.k) * scale; p = exp(l - max); den = sum of p (binary32, ascending) + exp(sink - max);
   o = f32(exact sum of bf16(p) * v), p kept if keep_f32; y = o / den. Without any key y is 0. `work`: a number per listed key. */
int sc_sparse_attn_sink(const sc_mat *q, const sc_mat *kv, const sc_mat *idx, const sc_mat *sink, float scale, int keep_f32,
                        float *work, const sc_mat *y) {
    size_t heads, row, i, d;
    if (!q || !kv || !idx || !sink || !y) return SC_MISSING;
    if (!sc_is_output_float(y->type) || !sc_is_integer(idx->type) || sink->type != SC_F32) return SC_TYPE;
    heads = sc_count(sink);
    if (heads == 0 || q->rows != idx->rows * heads || q->cols != kv->cols || y->rows != q->rows || y->cols != kv->cols) return SC_SHAPE;
    for (row = 0; row < q->rows; row++) {
        size_t t = row / heads;
        float largest = 0.0f, den = 0.0f;
        int any = 0;
        for (i = 0; i < idx->cols; i++) {
            int64_t key = sc_int(idx, t, i);
            if (key == -1) continue;
            if (key < 0 || (uint64_t)key >= kv->rows) return SC_VALUE;
            work[i] = sc_mul(sc_dot_exact(q, row, kv, (size_t)key, 0, q->cols), scale);
            largest = any ? sc_max(largest, work[i]) : work[i];
            any = 1;
        }
        for (i = 0; any && i < idx->cols; i++) {
            if (sc_int(idx, t, i) < 0) continue;
            work[i] = sc_exp(sc_sub(work[i], largest));
            den = sc_add(den, work[i]);
        }
        if (any) den = sc_add(den, sc_exp(sc_sub(sc_get_flat(sink, row % heads), largest)));
        for (d = 0; d < kv->cols; d++) {
            sc_sum sum;
            if (!any) {
                sc_put(y, row, d, 0.0f);
                continue;
            }
            sc_sum_clear(&sum);
            for (i = 0; i < idx->cols; i++) {
                int64_t key = sc_int(idx, t, i);
                if (key >= 0) sc_sum_product(&sum, keep_f32 ? work[i] : sc_round_bf16(work[i]), sc_get(kv, (size_t)key, d));
            }
            sc_put(y, row, d, sc_div(sc_sum_f32(&sum), den));
        }
    }
    return SC_OK;
}

/* 16. y[t,s] = (sum over heads, ascending from +0, of max(d, 0) * weights[t,h]) * ks[s], d = f32(exact q.k). */
int sc_indexer_logits(const sc_mat *q, const sc_mat *k, const sc_mat *weights, const sc_mat *ks, const sc_mat *y) {
    size_t t, s, h, heads;
    if (!q || !k || !weights || !ks || !y) return SC_MISSING;
    if (q->type != SC_E4M3 || k->type != SC_E4M3 || !sc_is_output_float(y->type)) return SC_TYPE;
    heads = weights->cols;
    if (q->rows != weights->rows * heads || q->cols != k->cols || sc_count(ks) != k->rows) return SC_SHAPE;
    if (y->rows != weights->rows || y->cols != k->rows) return SC_SHAPE;
    for (t = 0; t < y->rows; t++)
        for (s = 0; s < y->cols; s++) {
            float acc = 0.0f;
            for (h = 0; h < heads; h++) {
                float d = sc_dot_exact(q, t * heads + h, k, s, 0, q->cols);
                acc = sc_add(acc, sc_mul(d > 0.0f ? d : 0.0f, sc_get(weights, t, h)));
            }
            sc_put(y, t, s, sc_mul(acc, sc_get_flat(ks, s)));
        }
    return SC_OK;
}

/* ============================== Experts ============================== */

enum { SC_SIGMOID = 0, SC_SQRT_SOFTPLUS = 1, SC_SOFTMAX = 2 };

typedef struct {
    size_t groups, topk_group, topk;
    int scoring, renormalize;
    float scale;
} sc_gate;

/* 17. Scores of a row; rank = score + bias (softmax: logit + bias); groups by the sum of their two largest ranks; the best
   topk of the best topk_group groups, ties to the lower index. weights = score / max(sum, 1e-20) * scale. `work` has room for
   2 * E + groups numbers. */
int sc_moe_gate(const sc_mat *logits, const sc_mat *bias, const sc_gate *gate, float *work, const sc_mat *idx, const sc_mat *weights) {
    size_t experts, t, e, g, i, per;
    float *score = work, *rank, *best;
    if (!logits || !idx || !weights) return SC_MISSING;
    if (!sc_is_output_float(logits->type) || !sc_is_integer(idx->type) || !sc_is_output_float(weights->type)) return SC_TYPE;
    experts = logits->cols;
    if ((bias && sc_count(bias) != experts) || idx->rows != logits->rows || weights->rows != logits->rows) return SC_SHAPE;
    if (idx->cols != gate->topk || weights->cols != gate->topk) return SC_SHAPE;
    if (gate->groups == 0 || experts % gate->groups || gate->topk_group > gate->groups || gate->topk > experts) return SC_PARAM;
    rank = work + experts;
    best = rank + experts;
    per = experts / gate->groups;
    for (t = 0; t < logits->rows; t++) {
        float largest = 0.0f, total = 0.0f;
        for (e = 0; e < experts; e++) largest = e ? sc_max(largest, sc_get(logits, t, e)) : sc_get(logits, t, e);
        for (e = 0; e < experts; e++) {
            float x = sc_get(logits, t, e);
            if (gate->scoring == SC_SIGMOID) score[e] = sc_div(1.0f, sc_add(1.0f, sc_exp(-x)));
            else if (gate->scoring == SC_SQRT_SOFTPLUS) score[e] = sc_sqrt(x > 20.0f ? x : sc_log1p(sc_exp(x)));
            else {
                score[e] = sc_exp(sc_sub(x, largest));
                total = sc_add(total, score[e]);
            }
        }
        for (e = 0; e < experts; e++) {
            if (gate->scoring == SC_SOFTMAX) score[e] = sc_div(score[e], total);
            rank[e] = gate->scoring == SC_SOFTMAX ? sc_get(logits, t, e) : score[e];
            if (bias) rank[e] = sc_add(rank[e], sc_get_flat(bias, e));
        }
        for (g = 0; g < gate->groups; g++) {
            float first = sc_from_bits(0xFF800000u), second = first;
            for (e = g * per; e < (g + 1) * per; e++) {
                if (rank[e] > first) { second = first; first = rank[e]; }
                else if (rank[e] > second) second = rank[e];
            }
            best[g] = per > 1 ? sc_add(first, second) : first;
        }
        /* A group is out when topk_group groups are better: greater, or equal with a lower index. */
        for (g = 0; g < gate->groups; g++) {
            size_t better = 0;
            for (i = 0; i < gate->groups; i++) better += best[i] > best[g] || (best[i] == best[g] && i < g);
            for (e = g * per; better >= gate->topk_group && e < (g + 1) * per; e++) rank[e] = sc_from_bits(0xFF800000u);
        }
        total = 0.0f;
        for (i = 0; i < gate->topk; i++) {
            /* The next expert in descending rank: the first of those after the last one taken. */
            size_t next = experts;
            for (e = 0; e < experts; e++) {
                size_t k;
                int taken = 0;
                for (k = 0; k < i && !taken; k++) taken = sc_int(idx, t, k) == (int64_t)e;
                if (!taken && (next == experts || rank[e] > rank[next])) next = e;
            }
            sc_set_raw(idx, t, i, (uint64_t)next);
            total = sc_add(total, score[next]);
        }
        for (i = 0; i < gate->topk; i++) {
            float w = score[sc_int(idx, t, i)];
            if (gate->renormalize) w = sc_div(w, sc_max(total, 1e-20f));
            sc_put(weights, t, i, sc_mul(w, gate->scale));
        }
    }
    return SC_OK;
}

static sc_mat sc_rows(const sc_mat *m, size_t first, size_t count) {
    sc_mat part = *m;
    part.data = m->data ? m->data + first * m->ld * sc_bits(m->type) / 8 : m->data;
    part.rows = count;
    return part;
}

/* 18. Rows offsets[e] to offsets[e + 1] of a use expert e of b by kernel 1 (base 1), 3 or 7; rows of b: e * N + n. Rows past the
   last offset are not written. */
int sc_moe_grouped_gemm(const sc_mat *a, const sc_mat *sa, const sc_mat *b, const sc_mat *sb, const sc_mat *offsets, int base,
                        const sc_mat *c, const sc_mode *mode) {
    size_t experts, e, n, scale_rows;
    int code;
    if (!a || !sa || !b || !sb || !offsets || !c) return SC_MISSING;
    if (!sc_is_integer(offsets->type)) return SC_TYPE;
    if (sc_count(offsets) < 2) return SC_SHAPE;
    experts = sc_count(offsets) - 1;
    n = c->cols;
    scale_rows = base == 1 ? sc_ceil_div(n, 128) : n;
    if (b->rows != experts * n || c->rows != a->rows) return SC_SHAPE;
    if (base == 3) {
        if (sc_count(sb) != experts * n || sc_count(sa) != a->rows) return SC_SHAPE;
    } else if (sb->rows != experts * scale_rows || sa->rows != a->rows) {
        return SC_SHAPE;
    }
    for (e = 0; e < experts; e++) {
        int64_t from = offsets->rows == 1 ? sc_int(offsets, 0, e) : sc_int(offsets, e, 0);
        int64_t to = offsets->rows == 1 ? sc_int(offsets, 0, e + 1) : sc_int(offsets, e + 1, 0);
        sc_mat part_a, part_sa, part_b, part_sb, part_c, flat_sa = *sa, flat_sb = *sb;
        if (from < 0 || to < from || (uint64_t)to > a->rows) return SC_VALUE;
        if (base == 3) {
            flat_sa.rows = a->rows;
            flat_sb.rows = experts * n;
            flat_sa.cols = flat_sa.ld = flat_sb.cols = flat_sb.ld = 1;
        }
        part_a = sc_rows(a, (size_t)from, (size_t)(to - from));
        part_sa = sc_rows(&flat_sa, (size_t)from, (size_t)(to - from));
        part_c = sc_rows(c, (size_t)from, (size_t)(to - from));
        part_b = sc_rows(b, e * n, n);
        part_sb = sc_rows(&flat_sb, e * scale_rows, scale_rows);
        if (base == 1) code = sc_gemm_fp8_block(&part_a, &part_sa, &part_b, &part_sb, &part_c, mode);
        else if (base == 3) code = sc_gemm_w8a8(&part_a, &part_sa, &part_b, &part_sb, NULL, &part_c, mode->joint);
        else code = sc_gemm_mx(&part_a, &part_sa, &part_b, &part_sb, &part_c, mode);
        if (code) return code;
    }
    return SC_OK;
}

/* 18. y[t] = sum over k, ascending from +0 in binary32, of x[row[t,k]] * weights[t,k]. */
int sc_moe_combine(const sc_mat *x, const sc_mat *row, const sc_mat *weights, const sc_mat *y) {
    size_t t, c, k;
    if (!x || !row || !weights || !y) return SC_MISSING;
    if (!sc_is_output_float(x->type) || !sc_is_integer(row->type) || !sc_is_output_float(y->type)) return SC_TYPE;
    if (row->rows != y->rows || weights->rows != row->rows || weights->cols != row->cols || x->cols != y->cols) return SC_SHAPE;
    for (t = 0; t < y->rows; t++) {
        for (k = 0; k < row->cols; k++)
            if (sc_int(row, t, k) < 0 || (uint64_t)sc_int(row, t, k) >= x->rows) return SC_VALUE;
        for (c = 0; c < y->cols; c++) {
            float acc = 0.0f;
            for (k = 0; k < row->cols; k++)
                acc = sc_add(acc, sc_mul(sc_get(x, (size_t)sc_int(row, t, k), c), sc_get(weights, t, k)));
            sc_put(y, t, c, acc);
        }
    }
    return SC_OK;
}

