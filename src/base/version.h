/* What this program is. */
#ifndef BASE_VERSION_H
#define BASE_VERSION_H

const char *version_program(void); /* "0.1.0" */
const char *version_commit(void);  /* git's short id, "-dirty" behind it if files had changed; or "unknown" */
const char *version_compiler(void); /* "gcc 12.2.0" */
const char *version_options(void);  /* compiler command and flags */

#endif
