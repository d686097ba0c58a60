"""The paper's seven stages at their smallest, on tiny random models of the real classes."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_clip import save_clip
from tiny_language import save_language_model
from tiny_models import save_text_to_image

from ip2pbatch.train.captions.completion import completion_text, prompt_text
from ip2pbatch.train.data.released import Prompt

TRIPLETS = [("a cat", "make it a dog", "a dog"), ("a red car", "make the car blue", "a blue car")]
CHAIN = {
    "triplets.yaml": """
stage: captions
maker: finetune
triplets: triplets.jsonl
model: MODELS/lm
lora: null
epochs: 60
batch: 2
lr: 3.0e-3
""",
    "captions.yaml": """
stage: captions
maker: generate
inputs: {captions: triplets.yaml}
captions: laion.jsonl
sampling: {temperature: 0.05, max_tokens: 40}
precision: fp32
""",
    "pairs.yaml": """
stage: pairs
maker: prompt_to_prompt
inputs: {captions: captions.yaml}
model: MODELS/sd
samples: 3
steps: 2
side: 32
precision: fp32
clip: MODELS/clip
thresholds: {caption: -1, direction: -1, image: -1, keep: 3}
batch: 2
""",
    "filter.yaml": """
stage: filter
inputs: {pairs: pairs.yaml}
thresholds: {caption: -1, direction: -1, image: -1, keep: 2}
""",
    "pack.yaml": "{stage: pack, maker: pictures, inputs: {filter: filter.yaml}}",
    "finetune.yaml": """
stage: finetune
maker: stable_diffusion
inputs: {pack: pack.yaml}
start: MODELS/sd
side: 32
resize: [32, 36]
views: 2
effective_batch: 2
batch: 2
readers: 1
loop: {steps: 3, lr: 1.0e-3, precision: "no", sample_every: 100, save_every: 1, keep: 1}
look: {pairs: 0}
""",
    "evaluate.yaml": """
stage: evaluate
maker: tradeoff
inputs: {data: pack.yaml, model: finetune.yaml}
split: all
samples: 2
side: 32
steps: 2
clip: MODELS/clip
resamples: 20
curves:
  - {method: instruct, name: InstructPix2Pix, model: model, values: [1.0, 2.2]}
  - {method: sdedit, name: SDEdit, model: MODELS/sd, values: [0.5]}
""",
}


def write_chain(folder: Path) -> None:
    """The chain's configs, its models with random weights, two triplets and three captions."""
    prompts = [Prompt(number, *texts) for number, texts in enumerate(TRIPLETS)]
    texts = [prompt_text(one.input) + completion_text(one) for one in prompts]
    save_language_model(folder / "models" / "lm", texts)
    save_text_to_image(folder / "models" / "sd")
    save_clip(folder / "models" / "clip")
    (folder / "triplets.jsonl").write_text("".join(json.dumps(one.row()) + "\n" for one in prompts))
    rows = [{"TEXT": text, "URL": f"http://example.org/{text}.jpg"} for text in ("a cat", "a red car", "a cat")]
    (folder / "laion.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in CHAIN.items():
        (folder / name).write_text(text.replace("MODELS", str(folder / "models")))
