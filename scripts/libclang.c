/* Whether a libclang finds the headers that belong to it: `libclang-headers LIBRARY` succeeds when it does.
 * A library without them (Debian's libclang1 alone) loads well, and then bindgen stops at stddef.h.
 * The declarations are those of clang-c/Index.h, which libclang may come without. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

struct unsaved_file {
    const char *name;
    const char *contents;
    unsigned long length;
};

typedef void *create_index(int exclude_declarations, int display_diagnostics);
typedef void *parse_translation_unit(void *index, const char *name, const char *const *arguments, int argument_count,
                                     struct unsaved_file *files, unsigned file_count, unsigned options);
typedef unsigned get_num_diagnostics(void *unit);

int main(int argc, char **argv)
{
    const char *text = "#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n";
    struct unsaved_file file = {"probe.h", text, strlen(text)};
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    if (!library) {
        fprintf(stderr, "%s\n", argc == 2 ? dlerror() : "usage: libclang-headers LIBRARY");
        return 1;
    }
    create_index *create = (create_index *)dlsym(library, "clang_createIndex");
    parse_translation_unit *parse = (parse_translation_unit *)dlsym(library, "clang_parseTranslationUnit");
    get_num_diagnostics *count = (get_num_diagnostics *)dlsym(library, "clang_getNumDiagnostics");
    if (!create || !parse || !count)
        return 1;
    void *unit = parse(create(0, 0), file.name, NULL, 0, &file, 1, 0);
    return !unit || count(unit) > 0;
}
