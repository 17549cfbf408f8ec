#include "models/lower_case.h"

#include <utf8proc.h>

/* U+0130 is the one character whose lower case is two whatever stands around it; utf8proc knows the simple
 * mapping only. */
int lower_case(int32_t character, int32_t out[2])
{
    out[0] = utf8proc_tolower(character);
    out[1] = 0x307; // combining dot above
    return character == 0x130 ? 2 : 1;
}
