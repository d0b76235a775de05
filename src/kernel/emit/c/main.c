/* ---- the program ---- */

static void sc_usage(FILE *out) {
    fputs("kernels [DIR]                          compute every case of DIR/manifest.json, compare bits\n"
          "kernels --compare FILE --case KERNEL/CASE[:OUTPUT] [DIR]\n"
          "                                       every metric of a .npy dump against the golden output\n"
          "kernels --fit FILE --case KERNEL/CASE [DIR]\n"
          "                                       which modes of a matrix unit give a .npy dump of a product bit for "
          "bit\n"
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
        static const char *const NAMES[] = {"--compare", "--case", "--junit", "--json", "--fit"};
        const char **values[5];
        size_t k;
        values[0] = &options.compare;
        values[1] = &options.selected;
        values[2] = &options.junit;
        values[3] = &options.json;
        values[4] = &options.fit;
        for (k = 0; k < 5 && strcmp(argv[i], NAMES[k]) != 0; k++) {}
        if (k < 5 && i + 1 < argc && !*values[k])
            *values[k] = argv[++i];
        else if (strcmp(argv[i], "--list") == 0)
            options.list = 1;
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
        fprintf(stderr, "kernels: %s: %s at byte %lu\n", path, reader.error,
                (unsigned long)(reader.at - reader.start));
        free(text.data);
        return 2;
    }
    cases = sc_json_member(manifest, "cases");
    if (!cases || cases->kind != SC_JSON_ARRAY)
        status = sc_compare_fail(path, "it has no array of cases");
    else
        status = options.compare ? sc_run_compare(&options, cases)
                 : options.fit   ? sc_run_fit(&options, cases)
                                 : sc_run(&options, cases);
    sc_json_free(manifest);
    free(text.data);
    if (fflush(stdout) || ferror(stdout)) return 2;
    return status;
}

#ifndef SILICAST_NO_MAIN
int main(int argc, char **argv) { return sc_main(argc, argv); }
#endif
