#include "base/version.h"

// The Makefile gives both to this file alone.
#ifndef APTP_COMMIT
#define APTP_COMMIT "unknown"
#endif
#ifndef APTP_CFLAGS
#define APTP_CFLAGS "unknown"
#endif

const char *version_program(void)
{
    return "0.1.0";
}

const char *version_commit(void)
{
    return APTP_COMMIT;
}

const char *version_compiler(void)
{
#ifdef __clang__
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}

const char *version_options(void)
{
    return APTP_CFLAGS;
}
