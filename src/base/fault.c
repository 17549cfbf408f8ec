#include "base/fault.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool fault_raise(struct fault *fault, enum exit_code code, const char *format, ...)
{
    if (fault->code != EXIT_CODE_OK) return false;
    fault->code = code;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fault->text, sizeof fault->text, format, arguments);
    va_end(arguments);
    return false;
}

bool fault_prefix(struct fault *fault, const char *format, ...)
{
    if (fault->code == EXIT_CODE_OK) return false;
    char text[FAULT_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof text) return false;
    snprintf(text + length, sizeof text - (size_t)length, "%s", fault->text);
    memcpy(fault->text, text, sizeof text);
    return false;
}
