/* Folders. */
#ifndef IO_FOLDER_H
#define IO_FOLDER_H

#include "base/fault.h"

/* Makes a folder and those above it; one that is there is fine. EXIT_CODE_OUTPUT. Local. */
bool folder_create(const char *path, struct fault *fault);

#endif
