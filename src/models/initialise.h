/* Initial weights of a network that is trained from scratch. */
#ifndef MODELS_INITIALISE_H
#define MODELS_INITIALISE_H

#include "tensor/parameter.h"

/* PyTorch's defaults, which diffusers keeps: weights and biases of linear layers and convolutions uniform in
 * +-1/sqrt(fan in), norms 1 and 0. A function of the seed and the order of the parameters. */
void parameters_initialise(struct parameter_set *set, uint64_t seed);

#endif
