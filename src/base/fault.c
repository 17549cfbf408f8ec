#include "base/fault.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Text from files may hold control characters, which a terminal would obey: U+0000..001F but tab and line
 * end, U+007F..009F. */
static void mask_controls(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++) {
        bool second = c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0; // the two bytes of U+0080..009F
        if (second) *c++ = '?';
        if (second || (*c < ' ' && *c != '\t' && *c != '\n') || *c == 0x7f) *c = '?';
    }
}

bool fault_raise(struct fault *fault, enum exit_code code, const char *format, ...)
{
    if (fault->code != EXIT_CODE_OK) return false;
    fault->code = code;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fault->text, sizeof fault->text, format, arguments);
    va_end(arguments);
    mask_controls(fault->text);
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
