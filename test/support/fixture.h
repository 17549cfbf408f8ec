/* Reading of the reference files in test/fixtures (made by test/reference). Whatever goes wrong fails the
 * test. */
#ifndef SUPPORT_FIXTURE_H
#define SUPPORT_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

struct fixture;

/* Opens test/fixtures/NAME.h5; tests run in the repository's root. Close with fixture_close, which also frees
 * all arrays that were read. */
struct fixture *fixture_open(const char *name);
void fixture_close(struct fixture *fixture);

/* Whether there is such a dataset; its length along one dimension. */
bool fixture_has(struct fixture *fixture, const char *dataset);
int64_t fixture_length(struct fixture *fixture, const char *dataset, int dimension);

/* All elements of a dataset ("inputs/z"), as doubles or integers; one number; an attribute of the root. The
 * arrays and texts belong to the fixture. */
double *fixture_doubles(struct fixture *fixture, const char *dataset);
int64_t *fixture_integers(struct fixture *fixture, const char *dataset);
double fixture_number(struct fixture *fixture, const char *dataset);
double fixture_attribute(struct fixture *fixture, const char *name);
const char *fixture_text(struct fixture *fixture, const char *name);

#endif
