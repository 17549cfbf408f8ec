/* Strings that are gathered one by one, and may then be written as one dataset. */
#ifndef PHASES_TEXT_LIST_H
#define PHASES_TEXT_LIST_H

#include "io/hdf5_file.h"

/* Zero initialised is empty. */
struct text_list {
    char **item; /* [count] owned, as is each of them */
    int64_t count, capacity;
};

void text_list_add(struct text_list *list, const char *text); /* a copy */
void text_list_clear(struct text_list *list);
bool text_list_write(const struct text_list *list, struct h5_writer *writer, const char *name,
                     struct fault *fault);

#endif
