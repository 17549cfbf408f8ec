/* Processor cores. */
#ifndef BASE_CORES_H
#define BASE_CORES_H

int cores_allowed(void); /* that the affinity mask lets this process use */
int cores_online(void);  /* of the machine */

#endif
