/* References of the InceptionV3 that FID is measured with. */
#include "base/check.h"
#include "models/inception.h"
#include "phases/verify_models.h"

#include <stdlib.h>

enum { MAX_BATCH = 1 << 16, MAX_SIDE = 1 << 10 };

/* image [B, 3, H, W] as [B, H, W, 3] */
static bool read_image(struct verification *verification, int64_t nchw[4], float **image, struct fault *fault)
{
    if (!verify_load_map(verification, "inputs/image", nchw, image, fault)) return false;
    for (int i = 0; i < 4; i++) {
        int64_t least = i < 2 ? 1 : INCEPTION_LEAST_SIDE, most = i < 2 ? MAX_BATCH : MAX_SIDE;
        if (nchw[i] < least || nchw[i] > most)
            return fault_raise(
                fault, EXIT_CODE_INPUT, "%s: inputs/image: dimension %d is %lld, allowed %lld to %lld",
                h5_path(verification->reference), i, (long long)nchw[i], (long long)least, (long long)most);
    }
    return true;
}

bool verify_inception(struct verification *verification, struct fault *fault)
{
    struct inception *inception;
    int64_t nchw[4] = {-1, 3, -1, -1};
    float *image = NULL;
    if (!inception_open(verification->backend, verification->folder, verification->dtype, &inception, fault))
        return false;
    bool ok = read_image(verification, nchw, &image, fault);
    if (ok) {
        int64_t shape[] = {nchw[0], inception->features};
        float *features = check_malloc((size_t)(shape[0] * shape[1]) * sizeof *features);
        inception_features(inception, nchw[0], nchw[2], nchw[3], image, features);
        ok = verify_floats(verification, QUANTITY_OUTPUT, "outputs/features", 2, shape, features, fault);
        if (ok) verify_report_memory(verification, inception->tape);
        free(features);
    }
    free(image);
    inception_close(inception);
    return ok;
}
