/* ---- the program ---- */

static void sc_case_free(sc_case *c) {
    size_t i;
    for (i = 0; i < c->inputs; i++) sc_array_free(&c->in[i].array);
    for (i = 0; i < c->outputs; i++) {
        sc_array_free(&c->out[i].array);
        sc_array_free(&c->out[i].computed);
    }
    free(c->work);
    memset(c, 0, sizeof *c);
}

/* dir/file into `path`. A file of a manifest is relative and stays below the folder. */
static const char *sc_join(char *path, const char *dir, const char *file) {
    const char *p;
    size_t n = strlen(dir), m = strlen(file);
    if (!*file || *file == '/' || strchr(file, '\\') || strchr(file, ':')) return "its path is not relative with forward slashes";
    for (p = file; p; p = strchr(p, '/')) {
        if (*p == '/') p++;
        if (p[0] == '.' && p[1] == '.' && (p[2] == 0 || p[2] == '/')) return "its path leaves the folder";
    }
    if (n + m + 2 > SC_MAX_PATH) return "its path is too long";
    memcpy(path, dir, n);
    path[n] = '/';
    memcpy(path + n + 1, file, m + 1);
    return NULL;
}

/* Reads the array that `spec` = {file, dtype, shape} describes. */
static const char *sc_load(const char *dir, const sc_json *spec, sc_array *a) {
    char path[SC_MAX_PATH], descr[16];
    const char *file = sc_json_string(spec, "file"), *error;
    const sc_dtype *dtype = sc_find_dtype(sc_json_string(spec, "dtype"));
    const sc_json *shape = sc_json_member(spec, "shape"), *d;
    size_t offset = 0, i = 0;
    int bad = 0;
    memset(a, 0, sizeof *a);
    if (!file) return "the manifest names no file for it";
    if (!dtype) return "the manifest names no dtype that is known for it";
    if (!shape || shape->kind != SC_JSON_ARRAY) return "the manifest gives no shape for it";
    error = sc_join(path, dir, file);
    if (!error) error = sc_npy_read(path, a, descr, sizeof descr, &offset);
    if (error) return error;
    if (strcmp(descr, dtype->descr) != 0) return "its .npy type is not the one of the manifest's dtype";
    for (d = shape->first; d; d = d->next, i++) {
        size_t n = sc_json_size(d, &bad);
        if (bad || i >= a->rank || n != a->shape[i]) return "its shape is not the one of the manifest";
    }
    if (i != a->rank) return "its shape is not the one of the manifest";
    return sc_array_finish(a, dtype->type, offset);
}

/* Fills the inputs and outputs of a case. On failure `what` is the argument. */
static const char *sc_case_load(const char *dir, const sc_json *entry, sc_case *c, const char **what) {
    const sc_json *arg, *list;
    const char *error;
    int outputs;
    memset(c, 0, sizeof *c);
    *what = "";
    c->kernel = sc_json_string(entry, "kernel");
    c->name = sc_json_string(entry, "case");
    c->params = sc_json_member(entry, "params");
    for (outputs = 0; outputs < 2; outputs++) {
        list = sc_json_member(entry, outputs ? "outputs" : "inputs");
        if (!list || list->kind != SC_JSON_OBJECT) return "the manifest gives no inputs or no outputs";
        for (arg = list->first; arg; arg = arg->next) {
            size_t *n = outputs ? &c->outputs : &c->inputs;
            sc_arg *slot = outputs ? &c->out[*n] : &c->in[*n];
            const sc_json *tolerance = sc_json_member(arg, "tolerance");
            *what = arg->key;
            if (*n == SC_MAX_ARGS) return "there are too many arguments";
            ++*n;
            slot->name = arg->key;
            error = sc_load(dir, arg, &slot->array);
            if (error) return error;
            if (tolerance && tolerance->kind == SC_JSON_NUMBER) slot->tolerance = tolerance->number;
            if (outputs) {
                size_t bytes;
                slot->computed = slot->array;
                sc_array_layout(&slot->computed, &bytes);
                /* Filled with 0, as buffers of grouped products must be. */
                slot->computed.file.data = slot->computed.mat.data = (unsigned char *)calloc(bytes + 1, 1);
                slot->computed.file.size = bytes;
                if (!slot->computed.file.data) return "out of memory";
            }
        }
    }
    if (c->outputs == 0) return "the case has no output";
    return NULL;
}

/* Runs one case. Returns 0, 1 for a failure or 2 for something unreadable; `text` says what happened. */
static int sc_case_run(const char *dir, const sc_json *entry, char *text, size_t room) {
    sc_case c;
    const char *what, *error = sc_case_load(dir, entry, &c, &what);
    const sc_kernel *kernel = c.kernel ? sc_find_kernel(c.kernel) : NULL;
    int status = 0, code;
    size_t i;
    text[0] = 0;
    if (error) {
        sc_append(text, room, *what ? what : "case");
        sc_append(text, room, ": ");
        sc_append(text, room, error);
        status = 2;
    } else if (!kernel) {
        sc_append(text, room, "this program does not know the kernel");
        status = 1;
    } else {
        code = kernel->call(&c);
        if (c.bad_param) code = SC_PARAM;
        if (code) {
            sc_append(text, room, sc_error_text(code));
            status = 1;
        }
        for (i = 0; !code && i < c.outputs; i++) {
            const sc_arg *out = &c.out[i];
            sc_difference d = sc_compare(&out->computed.mat, &out->array.mat, out->tolerance);
            if (!d.differ) continue;
            if (status) sc_append(text, room, "; ");
            status = 1;
            sc_append(text, room, out->name);
            sc_append_coordinate(text, room, &out->array, d.row, d.col);
            sc_append(text, room, ": got ");
            sc_append_element(text, room, &out->computed.mat, d.row, d.col);
            sc_append(text, room, ", want ");
            sc_append_element(text, room, &out->array.mat, d.row, d.col);
            sc_append_number(text, room, "; %.0f of ", (double)d.differ);
            sc_append_number(text, room, "%.0f elements differ", (double)sc_count(&out->array.mat));
        }
    }
    sc_case_free(&c);
    return status;
}

static void sc_print_escaped(FILE *out, const char *text, int xml) {
    for (; *text; text++) {
        unsigned char ch = (unsigned char)*text;
        if (xml && (ch == '&' || ch == '<' || ch == '>' || ch == '"' || ch < 0x20)) {
            if (ch < 0x20) fputc(' ', out);
            else fprintf(out, "&#%u;", (unsigned)ch);
        } else if (!xml && (ch == '"' || ch == '\\' || ch < 0x20)) fprintf(out, "\\u%04x", (unsigned)ch);
        else fputc(ch, out);
    }
}

typedef struct {
    const char *dir, *compare, *selected, *junit, *json;
    int list;
} sc_options;

static const char *sc_kernel_of(const sc_json *entry) { const char *t = sc_json_string(entry, "kernel"); return t ? t : "?"; }
static const char *sc_name_of(const sc_json *entry) { const char *t = sc_json_string(entry, "case"); return t ? t : "?"; }

/* Whether `selected`, KERNEL or KERNEL/CASE or KERNEL/CASE:OUTPUT, names the case; `output` gets what follows the colon. */
static int sc_selects(const char *selected, const sc_json *entry, const char **output) {
    const char *kernel = sc_kernel_of(entry), *name = sc_name_of(entry);
    size_t k = strlen(kernel), n = strlen(name);
    *output = NULL;
    if (strncmp(selected, kernel, k) != 0) return 0;
    selected += k;
    if (*selected == 0) return 1;
    if (*selected++ != '/' || strncmp(selected, name, n) != 0) return 0;
    if (selected[n] == ':') *output = selected + n + 1;
    return selected[n] == 0 || selected[n] == ':';
}

static int sc_results_open(const char *path, FILE **out) {
    *out = NULL;
    if (!path) return 1;
    *out = fopen(path, "wb");
    if (!*out) fprintf(stderr, "kernels: cannot write %s\n", path);
    return *out != NULL;
}

/* Runs the cases of the manifest. */
static int sc_run(const sc_options *options, const sc_json *cases) {
    FILE *junit = NULL, *json = NULL;
    const sc_json *entry;
    char text[2048];
    const char *output;
    unsigned long good = 0, failed = 0, total = 0;
    int status = 0, first = 1;
    if (!sc_results_open(options->junit, &junit) || !sc_results_open(options->json, &json)) {
        if (junit) fclose(junit);
        return 2;
    }
    for (entry = cases->first; entry; entry = entry->next)
        total += !options->selected || sc_selects(options->selected, entry, &output);
    if (junit) fprintf(junit, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"kernels.c\" tests=\"%lu\">\n", total);
    if (json) fprintf(json, "{\"schema_version\": 1, \"results\": [");
    for (entry = cases->first; entry; entry = entry->next) {
        int result;
        if (options->selected && !sc_selects(options->selected, entry, &output)) continue;
        result = sc_case_run(options->dir, entry, text, sizeof text);
        printf("%s %s/%s%s%s\n", result ? "FAIL" : "ok", sc_kernel_of(entry), sc_name_of(entry), result ? " " : "", text);
        if (result) failed++;
        else good++;
        if (result > status) status = result;
        if (junit) {
            fprintf(junit, "  <testcase classname=\"");
            sc_print_escaped(junit, sc_kernel_of(entry), 1);
            fprintf(junit, "\" name=\"");
            sc_print_escaped(junit, sc_name_of(entry), 1);
            if (result) {
                fprintf(junit, "\"><failure message=\"");
                sc_print_escaped(junit, text, 1);
                fprintf(junit, "\"/></testcase>\n");
            } else {
                fprintf(junit, "\"/>\n");
            }
        }
        if (json) {
            fprintf(json, "%s\n  {\"kernel\": \"", first ? "" : ",");
            sc_print_escaped(json, sc_kernel_of(entry), 0);
            fprintf(json, "\", \"case\": \"");
            sc_print_escaped(json, sc_name_of(entry), 0);
            fprintf(json, "\", \"status\": \"%s\", \"message\": \"", result == 0 ? "ok" : result == 1 ? "fail" : "unreadable");
            sc_print_escaped(json, text, 0);
            fprintf(json, "\"}");
            first = 0;
        }
    }
    if (junit) {
        fprintf(junit, "</testsuite>\n");
        if (ferror(junit) | fclose(junit)) { fprintf(stderr, "kernels: cannot write %s\n", options->junit); status = 2; }
    }
    if (json) {
        fprintf(json, "\n], \"ok\": %lu, \"failed\": %lu}\n", good, failed);
        if (ferror(json) | fclose(json)) { fprintf(stderr, "kernels: cannot write %s\n", options->json); status = 2; }
    }
    if (total == 0) {
        /* Success without a single case would prove nothing. */
        fprintf(stderr, "kernels: no such case\n");
        status = 2;
    }
    printf("%s: %lu of %lu cases equal, %lu differ\n", status ? "FAIL" : "ok", good, total, failed);
    return status;
}

/* The format of a dump: bit patterns of `golden`, or values in F16, F32 or F64 where the golden array holds floats. */
static sc_type sc_dump_type(const char *descr, sc_type golden) {
    size_t i;
    for (i = 0; i < sizeof SC_DTYPES / sizeof *SC_DTYPES; i++)
        if (SC_DTYPES[i].type == golden && strcmp(SC_DTYPES[i].descr, descr) == 0) return golden;
    /* Libraries without a name for a format write it as raw bytes, or bytes of the other sign. */
    if (sc_bits(golden) <= 8 && (strcmp(descr, "|u1") == 0 || strcmp(descr, "|i1") == 0 || strcmp(descr, "|V1") == 0)) return golden;
    if (sc_bits(golden) == 16 && (strcmp(descr, "<V2") == 0 || strcmp(descr, "|V2") == 0)) return golden;
    if (sc_is_integer(golden) || golden == SC_E2M1) return SC_NONE;
    if (strcmp(descr, "<f2") == 0) return SC_F16;
    if (strcmp(descr, "<f4") == 0) return SC_F32;
    if (strcmp(descr, "<f8") == 0) return SC_F64;
    return SC_NONE;
}

static int sc_compare_fail(const char *what, const char *why) {
    fprintf(stderr, "kernels: %s: %s\n", what, why);
    return 2;
}

/* Compares a dump with an output of a case. */
static int sc_run_compare(const sc_options *options, const sc_json *cases) {
    const sc_json *entry, *found = NULL, *outputs, *spec = NULL, *o;
    const char *output = NULL, *rest, *error;
    sc_array got, want;
    sc_metrics metrics;
    sc_difference d;
    char descr[16], text[256];
    size_t offset = 0, r, c;
    const sc_json *tolerance;
    if (!options->selected) return sc_compare_fail("--compare", "it needs --case KERNEL/CASE[:OUTPUT]");
    for (entry = cases->first; entry; entry = entry->next)
        if (strchr(options->selected, '/') && sc_selects(options->selected, entry, &rest)) {
            found = entry;
            output = rest;
        }
    if (!found) return sc_compare_fail(options->selected, "the manifest has no such case");
    outputs = sc_json_member(found, "outputs");
    if (outputs && outputs->kind == SC_JSON_OBJECT) {
        if (output) spec = sc_json_member(outputs, output);
        else if (outputs->first && !outputs->first->next) spec = outputs->first;
    }
    if (!spec) {
        fprintf(stderr, "kernels: %s: name one of the outputs after a colon:", options->selected);
        for (o = outputs ? outputs->first : NULL; o; o = o->next) fprintf(stderr, " %s", o->key ? o->key : "?");
        fprintf(stderr, "\n");
        return 2;
    }
    error = sc_load(options->dir, spec, &want);
    if (error) {
        sc_array_free(&want);
        return sc_compare_fail(spec->key, error);
    }
    error = sc_npy_read(options->compare, &got, descr, sizeof descr, &offset);
    if (!error) {
        sc_type type = sc_dump_type(descr, want.type);
        size_t i;
        if (type == SC_NONE) error = "its .npy type cannot hold this output";
        else error = sc_array_finish(&got, type, offset);
        for (i = 0; !error && i < want.rank; i++)
            if (got.rank != want.rank || got.shape[i] != want.shape[i]) error = "its shape is not the one of the golden output";
        if (!error && got.rank != want.rank) error = "its shape is not the one of the golden output";
    }
    if (error) {
        sc_array_free(&got);
        sc_array_free(&want);
        return sc_compare_fail(options->compare, error);
    }
    tolerance = sc_json_member(spec, "tolerance");
    d = sc_compare(&got.mat, &want.mat, tolerance && tolerance->kind == SC_JSON_NUMBER ? tolerance->number : 0.0);
    memset(&metrics, 0, sizeof metrics);
    metrics.threshold = want.type == SC_F16 || want.type == SC_BF16 ? 1e-4 : 1e-6;
    for (r = 0; r < want.mat.rows; r++)
        for (c = 0; c < want.mat.cols; c++) sc_metrics_add(&metrics, sc_value(&got.mat, r, c), sc_value(&want.mat, r, c));
    sc_metrics_print(&metrics);
    printf("elements %.0f\nmismatches %.0f\n", (double)metrics.n, (double)d.differ);
    if (d.differ) {
        text[0] = 0;
        sc_append_coordinate(text, sizeof text, &want, d.row, d.col);
        printf("first_mismatch %s", text);
        text[0] = 0;
        sc_append_element(text, sizeof text, &got.mat, d.row, d.col);
        sc_append(text, sizeof text, ", want ");
        sc_append_element(text, sizeof text, &want.mat, d.row, d.col);
        printf(" got %s\n", text);
    }
    sc_array_free(&got);
    sc_array_free(&want);
    return d.differ ? 1 : 0;
}

static void sc_usage(FILE *out) {
    fputs("kernels [DIR]                          compute every case of DIR/manifest.json, compare bits\n"
          "kernels --compare FILE --case KERNEL/CASE[:OUTPUT] [DIR]\n"
          "                                       every metric of a .npy dump against the golden output\n"
          "  --case KERNEL[/CASE]                 only these cases\n"
          "  --junit FILE, --json FILE            also write the results there\n"
          "  --list                               the kernels that this program knows\n"
          "Exit status: 0 equal, 1 different, 2 unreadable or usage, 3 refused (the build or the processor's mode\n"
          "changes floating-point results).\n",
          out);
}

static int sc_main(int argc, char **argv) {
    sc_options options;
    sc_bytes text;
    sc_json_reader reader;
    sc_json *manifest;
    const sc_json *cases;
    char path[SC_MAX_PATH];
    const char *refused, *error;
    int i, status;
    memset(&options, 0, sizeof options);
    for (i = 1; i < argc; i++) {
        static const char *const NAMES[] = {"--compare", "--case", "--junit", "--json"};
        const char **values[4];
        size_t k;
        values[0] = &options.compare;
        values[1] = &options.selected;
        values[2] = &options.junit;
        values[3] = &options.json;
        for (k = 0; k < 4 && strcmp(argv[i], NAMES[k]) != 0; k++) {}
        if (k < 4 && i + 1 < argc && !*values[k]) *values[k] = argv[++i];
        else if (strcmp(argv[i], "--list") == 0) options.list = 1;
        else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            sc_usage(stdout);
            return 0;
        } else if (argv[i][0] == '-' || options.dir) {
            fprintf(stderr, "kernels: what is %s?\n", argv[i]);
            sc_usage(stderr);
            return 2;
        } else {
            options.dir = argv[i];
        }
    }
    if (!options.dir) options.dir = ".";
    refused = sc_self_test();
    if (refused) {
        printf("refused: %s\n", refused);
        return 3;
    }
    if (options.list) {
        size_t k;
        for (k = 0; k < sizeof SC_KERNELS / sizeof *SC_KERNELS; k++) puts(SC_KERNELS[k].name);
        return 0;
    }
    error = sc_join(path, options.dir, "manifest.json");
    if (error) return sc_compare_fail(options.dir, error);
    if (!sc_read_file(path, &text)) return sc_compare_fail(path, "it cannot be read");
    manifest = sc_json_parse(&reader, &text);
    if (!manifest) {
        fprintf(stderr, "kernels: %s: %s at byte %lu\n", path, reader.error, (unsigned long)(reader.at - reader.start));
        free(text.data);
        return 2;
    }
    cases = sc_json_member(manifest, "cases");
    if (!cases || cases->kind != SC_JSON_ARRAY) status = sc_compare_fail(path, "it has no array of cases");
    else status = options.compare ? sc_run_compare(&options, cases) : sc_run(&options, cases);
    sc_json_free(manifest);
    free(text.data);
    if (fflush(stdout) || ferror(stdout)) return 2;
    return status;
}

#ifndef SILICAST_NO_MAIN
int main(int argc, char **argv) { return sc_main(argc, argv); }
#endif
