/* ---- dumps of a chip ---- */

/* The format of a dump: bit patterns of `golden`, or values in F16, F32 or F64 where the golden array holds floats.
   */
static sc_type sc_dump_type(const char *descr, sc_type golden) {
    size_t i;
    for (i = 0; i < sizeof SC_DTYPES / sizeof *SC_DTYPES; i++)
        if (SC_DTYPES[i].type == golden && strcmp(SC_DTYPES[i].descr, descr) == 0) return golden;
    /* Libraries without a name for a format write it as raw bytes, or bytes of the other sign. */
    if (sc_bits(golden) <= 8 && (strcmp(descr, "|u1") == 0 || strcmp(descr, "|i1") == 0 || strcmp(descr, "|V1") == 0))
        return golden;
    if (sc_bits(golden) == 16 && (strcmp(descr, "<V2") == 0 || strcmp(descr, "|V2") == 0)) return golden;
    if (sc_is_integer(golden) || golden == SC_E2M1) return SC_NONE;
    if (strcmp(descr, "<f2") == 0) return SC_F16;
    if (strcmp(descr, "<f4") == 0) return SC_F32;
    if (strcmp(descr, "<f8") == 0) return SC_F64;
    return SC_NONE;
}

/* A dump, and the case and output that it belongs to. */
typedef struct {
    const sc_json *entry, *output;
    sc_array got, want;
} sc_dump;

/* Finds the case KERNEL/CASE[:OUTPUT] and reads the dump and the golden output. Returns 0, or 2 with a message. */
static int sc_dump_read(const sc_options *options, const sc_json *cases, const char *file, sc_dump *dump) {
    const sc_json *entry, *outputs, *o;
    const char *output = NULL, *rest, *error;
    char descr[16];
    size_t offset = 0, i;
    memset(dump, 0, sizeof *dump);
    if (!options->selected) return sc_compare_fail(file, "name its case: --case KERNEL/CASE[:OUTPUT]");
    for (entry = cases->first; entry; entry = entry->next)
        if (strchr(options->selected, '/') && sc_selects(options->selected, entry, &rest)) {
            dump->entry = entry;
            output = rest;
        }
    if (!dump->entry) return sc_compare_fail(options->selected, "the manifest has no such case");
    outputs = sc_json_member(dump->entry, "outputs");
    if (outputs && outputs->kind == SC_JSON_OBJECT) {
        if (output)
            dump->output = sc_json_member(outputs, output);
        else if (outputs->first && !outputs->first->next)
            dump->output = outputs->first;
    }
    if (!dump->output) {
        fprintf(stderr, "kernels: %s: name one of the outputs after a colon:", options->selected);
        for (o = outputs ? outputs->first : NULL; o; o = o->next) fprintf(stderr, " %s", o->key ? o->key : "?");
        fprintf(stderr, "\n");
        return 2;
    }
    error = sc_load(options->dir, dump->output, &dump->want);
    if (error) return sc_compare_fail(dump->output->key, error);
    error = sc_npy_read(file, &dump->got, descr, sizeof descr, &offset);
    if (!error) {
        sc_type type = sc_dump_type(descr, dump->want.type);
        error = type == SC_NONE ? "its .npy type cannot hold this output" : sc_array_finish(&dump->got, type, offset);
    }
    if (!error && dump->got.rank != dump->want.rank) error = "its shape is not the one of the golden output";
    for (i = 0; !error && i < dump->want.rank; i++)
        if (dump->got.shape[i] != dump->want.shape[i]) error = "its shape is not the one of the golden output";
    return error ? sc_compare_fail(file, error) : 0;
}

static void sc_dump_free(sc_dump *dump) {
    sc_array_free(&dump->got);
    sc_array_free(&dump->want);
}

/* Compares a dump with an output of a case. */
static int sc_run_compare(const sc_options *options, const sc_json *cases) {
    sc_dump dump;
    const sc_mat *got = &dump.got.mat, *want = &dump.want.mat;
    sc_metrics metrics;
    sc_difference d;
    char text[256];
    size_t r, c;
    const sc_json *tolerance;
    int status = sc_dump_read(options, cases, options->compare, &dump);
    if (status) {
        sc_dump_free(&dump);
        return status;
    }
    tolerance = sc_json_member(dump.output, "tolerance");
    d = sc_compare(got, want, tolerance && tolerance->kind == SC_JSON_NUMBER ? tolerance->number : 0.0);
    memset(&metrics, 0, sizeof metrics);
    metrics.threshold = want->type == SC_F16 || want->type == SC_BF16 ? 1e-4 : 1e-6;
    for (r = 0; r < want->rows; r++)
        for (c = 0; c < want->cols; c++) sc_metrics_add(&metrics, sc_value(got, r, c), sc_value(want, r, c));
    sc_metrics_print(&metrics);
    printf("elements %.0f\nmismatches %.0f\n", (double)metrics.n, (double)d.differ);
    if (d.differ) {
        text[0] = 0;
        sc_append_coordinate(text, sizeof text, &dump.want, d.row, d.col);
        printf("first_mismatch %s", text);
        text[0] = 0;
        sc_append_element(text, sizeof text, got, d.row, d.col);
        sc_append(text, sizeof text, ", want ");
        sc_append_element(text, sizeof text, want, d.row, d.col);
        printf(" got %s\n", text);
    }
    sc_dump_free(&dump);
    return d.differ ? 1 : 0;
}

/* ---- search for the matrix unit that made a dump ---- */

static void sc_mode_print(const sc_mode *m, size_t differ, size_t elements) {
    static const char *const MODES[] = {"R0", "R1", "R2"};
    printf("mode=%s order=%s fma=%s", MODES[m->mode], m->joint ? "d*(sa*sb)" : "(d*sa)*sb",
           m->fma ? "true" : "false");
    if (m->mode == SC_R2)
        printf(" mma_k=%.0f fraction_bits=%d rounding=%s promote_every=%.0f", (double)m->mma_k, m->fraction_bits,
               m->rne ? "rne" : "truncate", (double)m->promote_every);
    printf(": %.0f of %.0f elements differ\n", (double)differ, (double)elements);
}

/* Computes the case in every mode of a grid, and prints those that give the dump bit for bit, or the closest one. */
static int sc_run_fit(const sc_options *options, const sc_json *cases) {
    static const size_t DEPTHS[] = {4, 8, 16, 32, 64, 128}, PROMOTIONS[] = {0, 32, 64, 128, 256};
    enum { DEPTH = 6, PROMOTION = 5, BITS = 19, FEWEST_BITS = 7 };
    sc_dump dump;
    sc_case c;
    sc_mode best;
    const char *what, *error;
    size_t fewest = SIZE_MAX, elements, found = 0, i;
    int status = sc_dump_read(options, cases, options->fit, &dump);
    memset(&c, 0, sizeof c);
    memset(&best, 0, sizeof best);
    if (!status) {
        error = sc_case_load(options->dir, dump.entry, &c, &what);
        if (error)
            status = sc_compare_fail(what, error);
        else if (!sc_find_kernel(c.kernel) || strncmp(c.kernel, "gemm_", 5) != 0 || !sc_in(&c, "sa") ||
                 !sc_out(&c, "C"))
            status = sc_compare_fail(c.kernel, "only products with modes have one to be found");
    }
    elements = sc_count(&dump.want.mat);
    /* R0 and R1 first, then the grid of R2; in each, both orders of scales, fused or not. */
    for (i = 0; !status && i < 4 * (2 + 2 * DEPTH * PROMOTION * BITS); i++) {
        size_t at = i / 4;
        sc_mode m;
        sc_difference d;
        memset(&m, 0, sizeof m);
        m.joint = i % 2 == 0;
        m.fma = i / 2 % 2 != 0;
        if (at < 2) {
            m.mode = at == 0 ? SC_R0 : SC_R1;
        } else {
            at -= 2;
            m.mode = SC_R2;
            m.rne = at % 2 != 0;
            m.mma_k = DEPTHS[at / 2 % DEPTH];
            m.promote_every = PROMOTIONS[at / 2 / DEPTH % PROMOTION];
            m.fraction_bits = FEWEST_BITS + (int)(at / 2 / DEPTH / PROMOTION);
        }
        sc_tried = &m;
        if (sc_find_kernel(c.kernel)->call(&c)) status = sc_compare_fail(c.kernel, "its inputs do not fit");
        sc_tried = NULL;
        d = sc_compare(&dump.got.mat, sc_out(&c, "C"), 0.0);
        if (d.differ < fewest) {
            fewest = d.differ;
            best = m;
        }
        if (!d.differ && !status) {
            sc_mode_print(&m, 0, elements);
            found++;
        }
    }
    if (!status && !found) {
        printf("closest: ");
        sc_mode_print(&best, fewest, elements);
        status = 1;
    }
    sc_case_free(&c);
    sc_dump_free(&dump);
    return status;
}

