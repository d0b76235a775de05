/* ---- running cases ---- */

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
    if (!*file || *file == '/' || strchr(file, '\\') || strchr(file, ':'))
        return "its path is not relative with forward slashes";
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
            if (ch < 0x20)
                fputc(' ', out);
            else
                fprintf(out, "&#%u;", (unsigned)ch);
        } else if (!xml && (ch == '"' || ch == '\\' || ch < 0x20))
            fprintf(out, "\\u%04x", (unsigned)ch);
        else
            fputc(ch, out);
    }
}

/* Prints why something is unreadable; the exit status for that. */
static int sc_compare_fail(const char *what, const char *why) {
    fprintf(stderr, "kernels: %s: %s\n", what, why);
    return 2;
}

typedef struct {
    const char *dir, *compare, *fit, *selected, *junit, *json;
    int list;
} sc_options;

static const char *sc_kernel_of(const sc_json *entry) {
    const char *t = sc_json_string(entry, "kernel");
    return t ? t : "?";
}
static const char *sc_name_of(const sc_json *entry) {
    const char *t = sc_json_string(entry, "case");
    return t ? t : "?";
}

/* Whether `selected`, KERNEL or KERNEL/CASE or KERNEL/CASE:OUTPUT, names the case; `output` gets what follows the
   colon. */
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

/* What became of a case; texts are kept for the files of results, whose first lines count them. */
typedef struct {
    const sc_json *entry;
    int status;
    char *text;
} sc_result;

/* Opens a file of results, or does nothing without a path. */
static int sc_results_open(const char *path, FILE **out) {
    *out = NULL;
    if (!path) return 1;
    *out = fopen(path, "wb");
    if (!*out) fprintf(stderr, "kernels: cannot write %s\n", path);
    return *out != NULL;
}

static int sc_results_close(const char *path, FILE *out) {
    int failed = ferror(out) != 0;
    failed |= fclose(out) != 0;
    if (failed) fprintf(stderr, "kernels: cannot write %s\n", path);
    return !failed;
}

static int sc_write_junit(const char *path, const sc_result *results, unsigned long n, unsigned long failed) {
    FILE *out;
    unsigned long i;
    if (!sc_results_open(path, &out)) return 0;
    if (!out) return 1;
    fprintf(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    fprintf(out, "<testsuite name=\"kernels.c\" tests=\"%lu\" failures=\"%lu\">\n", n, failed);
    for (i = 0; i < n; i++) {
        fprintf(out, "  <testcase classname=\"");
        sc_print_escaped(out, sc_kernel_of(results[i].entry), 1);
        fprintf(out, "\" name=\"");
        sc_print_escaped(out, sc_name_of(results[i].entry), 1);
        if (results[i].status) {
            fprintf(out, "\"><failure message=\"");
            sc_print_escaped(out, results[i].text, 1);
            fprintf(out, "\"/></testcase>\n");
        } else {
            fprintf(out, "\"/>\n");
        }
    }
    fprintf(out, "</testsuite>\n");
    return sc_results_close(path, out);
}

static int sc_write_json(const char *path, const sc_result *results, unsigned long n, unsigned long failed) {
    static const char *const STATUS[] = {"ok", "fail", "unreadable"};
    FILE *out;
    unsigned long i;
    if (!sc_results_open(path, &out)) return 0;
    if (!out) return 1;
    fprintf(out, "{\"schema_version\": 1, \"ok\": %lu, \"failed\": %lu, \"results\": [", n - failed, failed);
    for (i = 0; i < n; i++) {
        fprintf(out, "%s\n  {\"kernel\": \"", i ? "," : "");
        sc_print_escaped(out, sc_kernel_of(results[i].entry), 0);
        fprintf(out, "\", \"case\": \"");
        sc_print_escaped(out, sc_name_of(results[i].entry), 0);
        fprintf(out, "\", \"status\": \"%s\", \"message\": \"", STATUS[results[i].status]);
        sc_print_escaped(out, results[i].text, 0);
        fprintf(out, "\"}");
    }
    fprintf(out, "\n]}\n");
    return sc_results_close(path, out);
}

/* Runs the cases of the manifest. */
static int sc_run(const sc_options *options, const sc_json *cases) {
    const sc_json *entry;
    sc_result *results;
    char text[2048];
    const char *output;
    unsigned long failed = 0, total = 0, n = 0, i;
    int status = 0;
    for (entry = cases->first; entry; entry = entry->next)
        total += !options->selected || sc_selects(options->selected, entry, &output);
    if (total == 0) {
        /* Success without a single case would prove nothing. */
        fprintf(stderr, "kernels: no such case\n");
        return 2;
    }
    results = (sc_result *)calloc(total, sizeof *results);
    if (!results) return sc_compare_fail("results", "out of memory");
    for (entry = cases->first; entry && n < total; entry = entry->next) {
        sc_result *r = &results[n];
        if (options->selected && !sc_selects(options->selected, entry, &output)) continue;
        r->entry = entry;
        r->status = sc_case_run(options->dir, entry, text, sizeof text);
        printf("%s %s/%s%s%s\n", r->status ? "FAIL" : "ok", sc_kernel_of(entry), sc_name_of(entry),
               r->status ? " " : "", text);
        r->text = (char *)malloc(strlen(text) + 1);
        if (!r->text) {
            status = sc_compare_fail("results", "out of memory");
            break;
        }
        memcpy(r->text, text, strlen(text) + 1);
        failed += r->status != 0;
        if (r->status > status) status = r->status;
        n++;
    }
    if (!sc_write_junit(options->junit, results, n, failed)) status = 2;
    if (!sc_write_json(options->json, results, n, failed)) status = 2;
    for (i = 0; i < n; i++) free(results[i].text);
    free(results);
    printf("%s: %lu of %lu cases equal, %lu differ\n", status ? "FAIL" : "ok", n - failed, total, failed);
    return status;
}

