"""A whole CLIPModel of ViT-L/14-336's size with random weights, under build/reference, its weights in parts; prints the
reference's path, for `verify`.

    python test/reference/full_clip_vision.py
    ./aptp input/verify.cfg --set verify.reference=build/reference/clip_vision_full.h5

Too large to be kept with the fixtures: 1.7 GB.
"""

import clip
import fixture

fixture.FOLDER = fixture.Path(__file__).resolve().parents[2] / "build" / "reference"


def main():
    text = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, vocab_size=49408,
                max_position_embeddings=77)
    vision = dict(hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=24, image_size=336,
                  patch_size=14)
    folder = clip.make_whole("clip_vision_full", text, vision, 768, max_shard_size="700MB")
    print(clip.write_whole("clip_vision_full", folder, [(512, 512), (300, 400)]))


if __name__ == "__main__":
    main()
