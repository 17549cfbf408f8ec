/* CLIP's tokenizer as Stable Diffusion publishes it, which is not kept in the repository. */
#ifndef SUPPORT_CLIP_TOKENIZER_H
#define SUPPORT_CLIP_TOKENIZER_H

/* Its folder: `name` ("sd1", "sd2") in what APTP_CLIP_TOKENIZER names, else in build/venv/clip_tokenizer
 * (`make venv`). Fails the running test if there is none. The caller frees it. */
char *clip_tokenizer_folder(const char *name);

#endif
