"""Fits the linear heads that read from a prompt what it asks for, and writes `ranker.json` beside the model.

The heads see the mean state of the frozen text encoder. What listens to the clips comes from `musaic eval fit`.
"""

import argparse
import json
import random
from base64 import b64encode
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from transformers import T5EncoderModel

from common import Every, load_checkpoint, save_text, seed_all
from text import FASTEST, SLOWEST, TEMPO_BINS, Classes, batch_ids, disturb, read_captions, tempo_targets, text_config

HEARD = ("drums", "brightness", "density", "family", "mode")


def packed(head: nn.Linear) -> dict:
    """A layer in 8 bits a weight, as the program reads it."""
    scales = head.weight.abs().amax(1).clamp(min=1e-9) / 127
    digits = ((head.weight / scales[:, None]).round() + 128).clamp(1, 255).to(torch.uint8)
    layer = {
        "inputs": head.in_features,
        "scales": scales.tolist(),
        "biases": head.bias.tolist(),
        "weights": b64encode(digits.flatten().numpy().tobytes()).decode(),
    }
    return {"layers": [layer]}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--data", type=Path, required=True, help="holds captions-train.jsonl and captions-test.jsonl")
    args.add_argument("--run", type=Path, required=True, help="folder of text.pt and tokenizer.json")
    args.add_argument("--sound", type=Path, required=True, help="what `musaic eval fit` printed")
    args.add_argument("--out", type=Path, required=True, help="the model folder")
    args.add_argument("--steps", type=int, default=1500)
    args = args.parse_args()
    seed_all(7)
    torch.set_num_threads(2)
    rng = random.Random(7)
    rows, test = (read_captions(args.data / f"captions-{split}.jsonl") for split in ("train", "test"))
    tokenizer = Tokenizer.from_file(str(args.run / "tokenizer.json"))
    encoder = T5EncoderModel(text_config(tokenizer.get_vocab_size())).eval()
    encoder.load_state_dict(load_checkpoint(args.run / "text.pt")["encoder"])
    classes = Classes(rows)
    names = list(classes.values)
    places = [names.index(name) for name in HEARD] + [len(names)]
    bins = [SLOWEST * (FASTEST / SLOWEST) ** (n / (TEMPO_BINS - 1)) for n in range(TEMPO_BINS)]
    values = [classes.values[name] for name in HEARD] + [[f"{bpm:.2f}" for bpm in bins]]
    heads = nn.ModuleList(nn.Linear(192, len(v) + 1) for v in values)
    optimiser = torch.optim.AdamW(heads.parameters(), lr=1e-2, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, args.steps)

    @torch.no_grad()
    def states(texts: list[str]) -> torch.Tensor:
        ids, mask = batch_ids(tokenizer, texts)
        with torch.autocast("cpu", torch.bfloat16):
            out = encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return (out * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def wanted(n: int, targets: torch.Tensor) -> torch.Tensor:
        column = targets[:, places[n]]
        return column if n < len(HEARD) else tempo_targets(column)

    log = Every(20)
    for step in range(args.steps):
        batch = []
        for _ in range(128):
            row = rng.choice(rows)
            caption = rng.choice(row["captions"])
            text = disturb(caption["text"], rng) if rng.random() < 0.5 else caption["text"]
            batch.append((text, classes.targets(row, caption["stated"])))
        pooled, targets = states([text for text, _ in batch]), torch.tensor([t for _, t in batch])
        loss = sum(F.cross_entropy(head(pooled), wanted(n, targets)) for n, head in enumerate(heads))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if log.due():
            print(json.dumps({"step": step, "loss": round(float(loss), 4)}), flush=True)

    with torch.no_grad():
        items = [(c, row) for row in test for c in row["captions"][:4]]
        pooled = torch.cat([states([c["text"] for c, _ in items[at : at + 100]]) for at in range(0, len(items), 100)])
        targets = torch.tensor([classes.targets(row, c["stated"]) for c, row in items])
        for n, (name, head) in enumerate(zip([*HEARD, "tempo_bpm"], heads)):
            out, want = head(pooled), wanted(n, targets)
            want = want if n < len(HEARD) else want.argmax(1)
            stated = want < out.shape[1] - 1
            near = (out.argmax(1) - want).abs() <= (1 if n == len(HEARD) else 0)
            print(name, f"{near[stated].float().mean():.3f} of {int(stated.sum())} stated,",
                  f"{near[~stated].float().mean():.3f} of the others called silent")  # fmt: skip
    words = [
        {"attribute": name, "values": v, "net": packed(head)} for name, v, head in zip([*HEARD, "tempo_bpm"], values, heads)
    ]
    ranker = {"width": 192, "words": words, "sound": json.loads(args.sound.read_text())}
    save_text(json.dumps(ranker, separators=(",", ":")) + "\n", args.out / "ranker.json")


if __name__ == "__main__":
    main()
