/* Phase pretrain: ordinary diffusion training of a UNet from scratch. Reads data.h5 and a diffusers
 * config.json, writes teacher.h5, and beside it in run.folder a checkpoint, pretrain.csv and sheets of
 * samples. With pretrain.model = "clip" the metric network is trained instead (phases/pretrain_clip.h). */
#ifndef PHASES_PRETRAIN_H
#define PHASES_PRETRAIN_H

#include "phases/phase.h"

bool phase_pretrain(struct run *run, const struct pretrain_cfg *cfg, struct fault *fault);

#endif
