/* The plan backend: the slots that take memory count it, the others do nothing. Inside src/tensor/ only. */
#ifndef TENSOR_PLAN_BACKEND_H
#define TENSOR_PLAN_BACKEND_H

#include "tensor/backend.h"

extern const struct backend_ops plan_ops;

#endif
