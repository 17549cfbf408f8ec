/* Phase pretrain with pretrain.model = "clip": trains the metric network, CLIP's image encoder on the data's
 * own pictures and a linear map of their captions' sentence embeddings. Reads data.h5 and the image encoder's
 * config.json, writes clip.h5, and beside it in run.folder a checkpoint and clip.csv. */
#ifndef PHASES_PRETRAIN_CLIP_H
#define PHASES_PRETRAIN_CLIP_H

#include "phases/phase.h"

bool pretrain_clip(struct run *run, const struct pretrain_cfg *cfg, struct fault *fault);

#endif
