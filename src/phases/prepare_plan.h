/* What `prepare --check` says: samples, disk and memory that the deck asks for. */
#ifndef PHASES_PREPARE_PLAN_H
#define PHASES_PREPARE_PLAN_H

#include "phases/shard.h"

/* `missing`: shards that are to be made. The maker's encoders are on the plan backend. Local. */
void prepare_report_plan(const struct shard_maker *maker, int64_t missing);

#endif
