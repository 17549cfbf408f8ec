"""Prompts for CLIP's tokenizer: sentences of sentences.py, what this tokenizer treats in its own way, and mixtures of it all."""

import fixture
from sentences import all_sentences

EXCLAMATION = ["!", "a!b", "hello!!!", "hello ! world", " !", "! ", "!!", "! !", "a! b", "!a", "wow!, yes! no!?", "¡hola!", "!\u0301 mark",
               "!=", "'!'", "!s", "don't!", "<|endoftext|>!", "!<|endoftext|>"]

SPECIAL = ["<|startoftext|>", "<|endoftext|>", "a<|startoftext|>b<|endoftext|>c", "<|STARTOFTEXT|> <|EndOfText|>", "<|EndOfText|>!!!",
           "??<|EndOfText|>??", "<|endoftext|>\u0338", "<|EndOfText|>\u0338", "<|endoftext|", "<<|startoftext|>>", "< |endoftext| >",
           "<|startoftext|><|startoftext|>", "<pad> <unk> <s> </s> </w>", "w</w>", "\u0120word Ġword"]

CONTRACTIONS = ["it's IT'S It'S", "don't DON'T can't", "we're WE'RE they've I'm you'll he'd", "'s 't 're 've 'm 'll 'd", "''s '''t", "'sa 'relax",
                "rock'n'roll o'clock 'tis", "it’s don’t we’re", "x's's y'll'd", "1's 2't", "!'s .'re", "s' ' '", "'S'T'RE"]

NUMBERS = ["12 345", "a1b2c3", "007", "1.5e-3", "²³¹ ½¾ ⅷ Ⅻ", "١٢٣ १२३ 一二三", "2024-05-06 07:08", "1st 2nd 3rd", "4k 8K 16:9"]

BLANKS = ["a\tb\nc\rd", "a\x0bb\x0cc", "a\x1cb\x1dc\x1ed\x1fe", "a\x85b\xa0c", "a\u1680b\u2000c\u200ad", "a\u2028b\u2029c\u202fd",
          "a\u205fb\u3000c", "a\u180eb\u200bc\ufeffd", "     ", "\n\n\n", "\u3000", " a  b   c "]

CASES = ["ΑΣ Σ ΟΔΟΣ ς", "İ I i ı I\u0307", "ẞ ß SS", "Ǆ ǅ ǆ Ǉ", "ΐ Ϊ́ ᾳ ᾼ", "\u212a Å Ω", "ﬀ ﬃ ŉ", "Ⓐ Ⅰ Ａ", "Ა Ꭰ ꭰ", "𐐀 𐐨"]

NORMAL_FORMS = ["é e\u0301", "ệ e\u0302\u0323 e\u0323\u0302", "\u0958 \u0915\u093c", "\u2126 \u212a \u212b", "가 \u1100\u1161",
                "각 \u1100\u1161\u11a8 가\u11a8", "\uf900 \ufa10", "\u0344 \u0374 \u037e", "\u1e9b\u0323", "a\u0315\u0300\u05ae\u0062",
                "\u0b47\u0b3e \u09c7\u09be", "q\u0307\u0323", "=\u0338 <\u0338 >\u0338"]

PROMPTS = ["by Greg Rutkowski, artstation HQ, 4k", "((masterpiece)), best quality:1.2", "[deformed | disfigured], bad-anatomy",
           "a photo of sks dog --ar 16:9", "<lora:style:0.8> portrait", "art by Alphonse Mucha & Hokusai", "RAW photo, f/1.8, 85mm",
           "trending on ArtStation #art @artist"]

LONG = ["a " * 74 + "b", "a " * 75 + "b", "a " * 76 + "b", "w" * 5000, "!" * 100, "é" * 700, "日" * 100, "1" * 90, "ab" * 3000, "😀" * 60,
        "x " * 80 + "<|endoftext|>"]


def characters(first, last):
    return [chr(code) for code in range(first, last)]


LETTERS = [
    "abcdefghij XYZ", " !?.,'\"-_<|>/", "0123456789½²", characters(0x300, 0x345), characters(0xc0, 0x180),
    [*characters(0x1f600, 0x1f640), "\u200d", "\ufe0f", "\U0001f3fb"], characters(0xac00, 0xac80) + characters(0x1100, 0x1113),
    characters(0x4e00, 0x4e80), "\t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u2003\u2028\u3000\u200b\x01\x7f", characters(0x3a3, 0x3ca),
    characters(0x410, 0x450), characters(0x905, 0x950), characters(0x621, 0x653),
    ["<|startoftext|>", "<|endoftext|>", "<|EndOfText|>", "!", "'s", "'LL", "the ", "photo"],
]


def mixtures(count):
    rng = fixture.generator("prompts")
    for _ in range(count):
        kinds = rng.choice(len(LETTERS), rng.integers(1, 5), replace=False)
        parts = [LETTERS[kinds[rng.integers(len(kinds))]] for _ in range(rng.integers(1, 40))]
        yield "".join(part[rng.integers(len(part))] for part in parts)


def all_prompts():
    written = [*all_sentences()[:200], *EXCLAMATION, *SPECIAL, *CONTRACTIONS, *NUMBERS, *BLANKS, *CASES, *NORMAL_FORMS, *PROMPTS, *LONG]
    prompts = list(dict.fromkeys([*written, *mixtures(260)]))
    assert len(prompts) > 500
    return prompts
