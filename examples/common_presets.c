/* common: the presets that --help lists. See common_options.h. */
#include <stdio.h>

#include "examples/common_options.h"
#include "examples/model/config.h"

char *common_with_presets(const char *after)
{
    char *text = NULL;
    size_t bytes;
    FILE *f = open_memstream(&text, &bytes);

    if (!f)
        return NULL;
    fputs("Presets:\n", f);
    for (size_t i = 0; llama_preset_at(i); i++)
        fprintf(f, "  %-6s %s\n", llama_preset_at(i)->name, llama_preset_at(i)->text);
    fprintf(f, "\n%s", after);
    return fclose(f) == 0 ? text : NULL;
}
