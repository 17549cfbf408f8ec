#include "phases/text_list.h"

#include "base/check.h"

#include <stdlib.h>

void text_list_add(struct text_list *list, const char *text)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 256;
        list->item = check_realloc(list->item, (size_t)list->capacity * sizeof *list->item);
    }
    list->item[list->count++] = check_strdup(text);
}

void text_list_clear(struct text_list *list)
{
    for (int64_t i = 0; i < list->count; i++) free(list->item[i]);
    free(list->item);
    *list = (struct text_list){0};
}

bool text_list_write(const struct text_list *list, struct h5_writer *writer, const char *name,
                     struct fault *fault)
{
    return h5_write_strings(writer, name, 1, &list->count, (const char *const *)list->item, fault);
}
