/* Defects, settings and random numbers. */
#include "machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

long setting(const char *name, long otherwise)
{
    const char *value = getenv(name);
    return value && *value ? strtol(value, nullptr, 0) : otherwise;
}

static uint64_t seed(void)
{
    static const uint64_t value = (uint64_t)setting("APTP_EMULATOR_SEED", 1);
    return value;
}

/* SplitMix64 */
uint64_t random_number(uint64_t below)
{
    static uint64_t state = seed() * 0xd1342543de82ef95;
    uint64_t mixed = state += 0x9e3779b97f4a7c15;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
    return (uint64_t)((unsigned __int128)(mixed ^ mixed >> 31) * below >> 64);
}

static std::string text_of(const char *format, va_list values)
{
    char *formatted;
    if (vasprintf(&formatted, format, values) < 0) abort();
    std::string result = formatted;
    free(formatted);
    return result;
}

std::string text(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    std::string result = text_of(format, values);
    va_end(values);
    return result;
}

void emulator_fail(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    std::string message = text_of(format, values), where = running_kernel();
    va_end(values);
    if (where.empty() && running_work()) where = running_work();
    fprintf(stderr, "emulator: %s\n", message.c_str());
    if (!where.empty()) fprintf(stderr, "emulator: in %s\n", where.c_str());
    fprintf(stderr, "emulator: seed %llu (APTP_EMULATOR_SEED)\n", (unsigned long long)seed());
    fflush(nullptr);
    _exit(EMULATOR_DEFECT);
}
