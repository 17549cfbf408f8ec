"""Varied sentences: 200 for the sentence encoders and, with more of Unicode and of odd text, 560 for the tokenizers."""

import numpy as np

CAPTIONS = """A bowl of ripe red apples on a wooden table next to a window.
Two dogs are running along the beach at sunset, one carrying a stick.
a man riding a wave on top of a surfboard
A close-up portrait of an elderly woman with deep wrinkles and bright blue eyes, studio lighting
The sign above the door reads "OPEN 24 HOURS" in neon letters.
Group of people standing in front of a large building with flags waving in the wind
an oil painting of a ship in a stormy sea, in the style of J.M.W. Turner
Vector illustration of a cartoon cat, isolated on white background
A plate of spaghetti carbonara with parsley and grated parmesan cheese
the silhouette of a mountain range under the Milky Way
football player celebrates after scoring a goal against sports team during the match
Interior of a modern kitchen with marble countertops and stainless-steel appliances
A teddy bear sitting on a skateboard in Times Square
red apple
grinning face
flag: France
keycap: 5
woman: medium-dark skin tone, curly hair
person getting haircut
face with tears of joy
kiss: man, man, light skin tone
Japanese "free of charge" button
A little girl in a yellow raincoat jumps into a puddle while her brother watches from the porch.
Aerial view of a river delta; the water splits into hundreds of channels
Snow-covered cabin, smoke rising from its chimney, pine trees all around, early morning fog
An astronaut floating above the Earth, holding a bouquet of sunflowers
Close up of a hand writing the equation E = mc^2 on a blackboard with chalk
black and white photograph of a crowded street market in the 1930s
A stack of pancakes dripping with maple syrup & butter
the bride and groom cut the cake together during their reception
Logo design for a coffee shop called "Bean There, Done That"
Three zebras drinking at a waterhole, reflections visible
A low-poly 3D render of a fox curled up asleep
cyberpunk city at night, rain, neon reflections, highly detailed, 8k, trending on artstation
An infographic explaining photosynthesis in 5 steps
A clock tower showing a quarter past nine
Portrait of a young man wearing round glasses and a knitted sweater
a bunch of bananas hanging from a hook in a shop
A train traveling down tracks next to a lush green forest.
A bathroom with a toilet, sink, and shower curtain featuring pandas
person, the president of country, delivers a speech to the assembly
Macro shot of a dragonfly resting on a blade of grass covered in dew
A child's drawing of a house with a smiling sun
Chess pieces on a board, the black king has fallen over
Steam locomotive No. 4472 crossing a stone viaduct
fresh vegetables on a market stall with handwritten price tags
Hot-air balloons over Cappadocia at dawn
An old typewriter, a cup of tea and a pile of unread letters
seamless pattern with hand drawn leaves and berries
A wizard duelling a robot on the roof of a library""".split("\n")

CASE_AND_WORDS = [
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "tHe QuIcK bRoWn FoX",
    "iPhone, McDonald's, eBay and YouTube",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "supercalifragilisticexpialidocious unaffable embeddings tokenization",
    "qwrtzpsdf xkcdvbnm zzzzzzzzzz",
    "x",
    "I",
    "?",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "0 1 2 3 10 42 100 1000 1984 2025 65536 3.14159 -273.15 6.02e23 1,000,000",
    "12th 1st 2nd 3rd 1990s 4x4 1920x1080 f/2.8 ISO400 mp3 b2b",
    "w" * 99,
    "w" * 100,
    "w" * 101,
    "é" * 100 + " counts characters",
    "é" * 101 + " not bytes",
    "word" * 30,
]

PUNCTUATION = [
    "don't won't can't it's I'm you're they've we'd she'll o'clock rock'n'roll",
    "don’t won’t ‘quoted’ “double quoted” «guillemets» „low“",
    "wait... what?! no -- really --- yes; (perhaps) [maybe] {certainly} <html>",
    "state-of-the-art, well-known, ex-president, x-ray, T-shirt",
    "en–dash em—dash horizontal―bar minus−sign hyphen‐bullet•ellipsis…",
    "!!!???...,,,;;;:::",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "name@example.com https://example.com/path?query=1&other=%20#anchor @user #hashtag",
    "C:\\Windows\\System32 /usr/local/bin ~/file.txt snake_case camelCase kebab-case",
    "a+b=c, a<b>c, a|b, a^b, 50% off, $9.99, #1, *star*, ~approx~, `code`",
    "€100 £20 ¥500 ₹1000 ₿1 ¢ ¤",
    "½ cup, x² + y³, H₂O, 10⁻⁹, № 5, ™ ® © °C µm",
    "∑ ∫ √2 ≈ 1.414 ≠ ∞ ≤ ≥ ∀x∈ℝ ∂f/∂x",
    "← ↑ → ↓ ⇒ ✓ ✗ ★ ☆ ■ ● ♠♣♥♦",
    "¿Qué hora es? ¡Hola!",
    "、。「かぎ」！？（全角）ＡＢＣ１２３",
    "one,two;three:four.five",
    "(((nested)))",
]

SPECIAL = [
    "[MASK]",
    "the [MASK] sat on the [SEP] mat",
    "[CLS] explicit markers [SEP]",
    "[UNK] [PAD] x[MASK]y",
    "[mask] in small letters, [ MASK ] with spaces",
    "##ing ## # ##s un##known",
]

ACCENTS = [
    "café naïve résumé façade jalapeño crème brûlée",
    "cafe\u0301 nai\u0308ve re\u0301sume\u0301, decomposed",
    "Zürich, København, Ångström, Große Straße, ẞ",
    "İstanbul ışık DIŞ I\u0307",
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Zażółć gęślą jaźń, Łódź",
    "Việt Nam, phở bò, đường phố Hà Nội",
    "Æsir, œuvre, Ðorð, Þing, ŋgoma, ə schwa",
    "Z\u0351\u036b\u0343\u036aa\u0300\u0301\u0302\u0303\u0304l\u0334\u0335\u0336g\u0337\u0338o\u0339\u033a, stacked marks",
    "ﬁne ﬂower eﬃcient, ligatures",
    "\u212b and Å and A\u030a",
    "\u1d2c\u1d47\u1d9c 𝐀𝐁𝐂 ⓐⓑⓒ ⅠⅡⅣ",
]

SCRIPTS = [
    "Οδυσσεύς ΟΔΥΣΣΕΥΣ άέήίόύώ",
    "Москва столица России. Ёлка, йогурт, Їжак",
    "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645، \u0627\u0644\u0633\u0651\u064e\u0644\u0627\u0645\u064f \u0639\u064e\u0644\u064e\u064a\u0652\u0643\u064f\u0645\u061f",
    "नमस\u094dत\u0947 द\u0941न\u093fय\u093e। ह\u093fन\u094dद\u0940",
    "আম\u09beর স\u09cbন\u09beর ব\u09be\u0982ল\u09be",
    "தம\u0bbfழ\u0bcd ம\u0bcaழ\u0bbf",
    "สว\u0e31สด\u0e35ชาวโลก",
    "გამარჯობა Բարեւ አማርኛ",
    "一只猫坐在窗台上看雨",
    "中文English混合123数字",
    "繁體中文，標點。",
    "日本語のテキスト、カタカナとひらがな",
    "がぎぐ か\u3099き\u3099 パピプ ｶ\uff9eｷ\uff9f",
    "한국어 문장입니다. 강아지",
    "\u1112\u1161\u11ab\u1100\u1173\u11af, jamo",
    "\U00020000\U0002a6d6 rare \u3400 \uf900 ⼀ ideographs",
    "ᚠᚱᚦ runes ⠁⠃ braille 𐌰 gothic",
]

EMOJI = [
    "😀",
    "🍎 red apple 🍏 green apple",
    "❤\ufe0f and ❤ with and without a selector",
    "👨\u200d👩\u200d👧\u200d👦 family",
    "👍🏻👍🏽👍🏿 thumbs",
    "\U0001f1eb\U0001f1f7\U0001f1ef\U0001f1f5 flags",
    "5\ufe0f\u20e3 keycap #\ufe0f\u20e3",
    "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f Scotland",
    "text😂😂😂glued✨to🚀emoji",
    "\U0001fae0 🥹 \U0001fabf newer ones",
    "☺\ufe0e ☺\ufe0f ☹",
    "(╯°□°)╯︵ ┻━┻ ¯\\_(ツ)_/¯ :-) ;P <3",
]

CONTROL = [
    "",
    " ",
    "   \t \n \r\n  ",
    "\u00a0\u2003\u3000\u202f",
    "\u200b\u200d\ufeff\u00ad",
    "\ufe0f\u0301",
    "  leading and trailing  ",
    "tab\tnew\nline\rreturn\r\nboth",
    "bell\x07 escape\x1b[31mred\x1b[0m delete\x7f back\x08space start\x01",
    "vertical\x0btab form\x0cfeed next\x85line file\x1cseparator",
    "zero\u200bwidth soft\u00adhyphen joiner\u200dhere mark\ufeffhere word\u2060joiner",
    "no\u00a0break em\u2003space ideographic\u3000space line\u2028separator paragraph\u2029separator ogham\u1680mark",
    "right\u202eto left\u202c \u2066isolate\u2069",
    "replacement � character ￼ object",
    "private \ue000 use, not \u0378 assigned, no\uffffcharacter",
    "mongolian\u180evowel separator \u061c arabic mark",
]

LONG = [
    " ".join(["a very long caption that goes on and on, describing every leaf of the tree"] * 30),
    " ".join(str(i) for i in range(400)),
    "长" * 300,
    "antidisestablishmentarianism " * 60,
    "exactly " * 253 + "fits",
    "exactly " * 254 + "full",
    "exactly " * 255 + "over",
    ". " * 700,
]


def generated(count):
    """Prompts from parts, as training captions look, so that the list has its round number."""
    kinds = ["photo", "watercolor", "pencil sketch", "3D render", "stamp", "mosaic", "Woodcut"]
    things = ["lighthouse", "pair of boots", "violin", "saguaro cactus", "hedgehog", "teapot", "suspension bridge",
              "kayak", "Rubik's cube", "bicycle", "goldfish"]
    places = ["in the desert", "on a frozen lake", "at midnight", "behind frosted glass", "under water"]
    for i in range(count):
        yield f"{kinds[i % 7]} of a {things[i % 11]} {places[i % 5]}, variation {i * 37 % 101}"


def all_sentences():
    written = CAPTIONS + CASE_AND_WORDS + PUNCTUATION + SPECIAL + ACCENTS + SCRIPTS + EMOJI + CONTROL + LONG
    sentences = written + list(generated(200 - len(written)))
    assert len(sentences) == len(set(sentences)) == 200
    return sentences


# ---- for the tokenizers alone

CONTRACTIONS = [
    f"{subject}{quote}{ending} {rest}"
    for quote in ("'", "\u2019", "\u02bc", "`", "\u00b4", "\uff07")
    for subject, ending, rest in (("I", "m", "here"), ("we", "ve", "seen THEM"), ("don", "t", "ask"), ("Joe", "s", "car"))
]

MARKERS = [
    "<mask>", "the <mask> sat on the </s> mat", "<s> explicit markers </s>", "<unk> <pad> x<mask>y", "<MASK> <S> </S> <PAD>",
    "a<unk>b<UNK>c<\u00fcnk>d", "<un\u0301k> <un\u00adk> <\u200bunk> <u nk>", "< mask > <mask <<mask>> <s>>", "<pad>", "padding <pad> in <pad><pad> between",
    "[CLS]<s>[SEP]</s>[PAD]<pad>[MASK]<mask>[UNK]<unk>", "[UNK][UNK] [UNK]", "\u00a0<mask>\u3000", "[\u200bMASK] <m\u00e4sk>", "##<mask>## [MASK]##s",
    "[unused0] [unused99] <unk", "<|endoftext|> <bos> <eos> <extra_id_0>",
]

CASE_FORMS = [
    form(text)
    for text in ("\u1e9b\u0323 \ufb03 \u00e5ngstr\u00f6m", "\u01c5 \u01c8 \u01f2 \u1fbc \u1f88", "Ti\u1ebfng Vi\u1ec7t \u0111\u1eb9p",
                 "\u0344 \u0958 \u09dc \u2126 \u212a", "\uac00\uac01\uac02 \ud55c\uae00", "\u0130\u0131 \u1e9e\u00df \u03a3\u03c3\u03c2", "q\u0307\u0323 d\u0323\u0307")
    for form in (str, str.upper, str.lower, str.title)
]

TECHNICAL = [
    "ffmpeg -i in.mp4 -vf scale=1280:-2 out.webm", "SELECT * FROM t WHERE a >= 10 AND b != 'x';", "for (int i = 0; i < n; i++) { sum += x[i]; }",
    "<div class=\"a\">&nbsp;&amp;&#169;</div>", "lat 48\u00b051'24\"N, long 2\u00b021'03\"E", "2024-02-29T23:59:60Z 12:34:56.789", "+1 (555) 010-9999 ext. 42",
    "0xDEADBEEF 0b1010 1e-10 1_000_000 NaN inf", "\\alpha_{i}^{2} \\frac{a}{b} $x$", "a/b\\c|d?e*f:g", "~!@#$%^&*()_+-={}[]|:;'<>,.?/", "........................................",
    "----- ===== _____ #####", "\u2013\u2014\u2015\u2212\u2010\u2011\u2043", "\u00ab\u2039\u201e\u201a\u201c\u2018\u300c\u300e\u3010", "1\u20442 \u00bd \u2150 \u215b \u2189", "\u2460\u2473\u24b6\u24ff\u2776 \u3251",
    "\u2070\u00b9\u00b2\u2080\u2081 x\u207f", "\u2c60\u0294\u0259\u014b /\u02c8f\u0259\u028a\u02d0/", "\u20ac\u20b9\u20bd\u20b1\u20aa\u20a9 \uffe5", "\u266a\u266b\u2669 \u2600\u2601\u2602 \u2654\u265a",
    "\u2580\u2588\u2591\u2592\u2593 \u250c\u2500\u2510", "\u28ff\u2801 \u2190\u21d2\u27f9", "w" * 98 + " " + "w" * 102, "\u00e9" * 99 + "\u0301", "#" * 101, "a" * 100 + "!" + "b" * 101,
]


def random_texts(count):
    """Characters drawn from everything that Unicode 8 had assigned, and from what a caption has, in words."""
    rng = np.random.default_rng(2025)
    blocks = [(0x21, 0x7e), (0xa1, 0x17f), (0x180, 0x24f), (0x250, 0x2af), (0x370, 0x373), (0x391, 0x3a1), (0x400, 0x52f), (0x5d0, 0x5ea),
              (0x621, 0x63a), (0x905, 0x939), (0xe01, 0xe30), (0x10d0, 0x10f0), (0x1100, 0x1112), (0x1e00, 0x1eff), (0x1f00, 0x1f15), (0x2010, 0x2027),
              (0x2030, 0x205e), (0x20a0, 0x20be), (0x2100, 0x218b), (0x2190, 0x23fa), (0x2460, 0x26ff), (0x3041, 0x3096), (0x30a1, 0x30fa), (0x3400, 0x4db5),
              (0x4e00, 0x9fd5), (0xac00, 0xd7a3), (0xf900, 0xfa6d), (0xfb00, 0xfb06), (0xff01, 0xff9f), (0x1f300, 0x1f579), (0x1f5a5, 0x1f5a9),
              (0x1f600, 0x1f6d0), (0x1f910, 0x1f918), (0x20000, 0x2a6d6), (0x2a700, 0x2b734), (0x2b740, 0x2b81d)]
    words = " ".join(CAPTIONS).split()
    blanks = [" "] * 12 + ["  ", "\t", "\n", "\u00a0", "\u2009", "\u3000", "\u200b"]
    for _ in range(count):
        parts = []
        for _ in range(int(rng.integers(1, 40))):
            kind = rng.random()
            if kind < 0.4:
                parts.append(words[rng.integers(len(words))])
            elif kind < 0.8:
                low, high = blocks[rng.integers(len(blocks))]
                parts.append("".join(chr(c) for c in rng.integers(low, high + 1, int(rng.integers(1, 9)))))
            elif kind < 0.9:
                parts.append(chr(int(rng.integers(0x300, 0x370))) + chr(int(rng.integers(1, 32))))
            else:
                parts.append(str(int(rng.integers(10**6))))
            if rng.random() < 0.7:
                parts.append(blanks[rng.integers(len(blanks))])
        yield "".join(parts)


def token_sentences():
    """all_sentences() and more."""
    more = [*CONTRACTIONS, *MARKERS, *CASE_FORMS, *TECHNICAL]
    sentences = list(dict.fromkeys([*all_sentences(), *more]))
    sentences += random_texts(560 - len(sentences))
    assert len(sentences) == len(set(sentences)) == 560
    return sentences
