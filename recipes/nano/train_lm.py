"""Trains the language model on codes of the corpus, on top of the pretrained text encoder.

The text encoder and its projection stay as they are: trained along, they fell to one constant state for every
caption within 1000 steps, because early on a caption is only noise to a model that has yet to learn what follows what.
Half of the batches are many short crops, and most of their past is hidden (`blank`): while the past is in view the
captions add too little for the decoder to notice them (no gain after 2400 steps without this).

Muon moves the matrices of the decoder layers, AdamW everything else. In 120 steps of 1000 positions from scratch the
loss went from 6.2 to 5.5; AdamW alone, at 1.5e-3 or 4e-3, was still at 6.1.
"""

import argparse
import copy
import random
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from common import Budget, Curve, Every, Workers, load_checkpoint, read_rows, save_atomic, seed_all
from encode import load_codes
from lm import START, LanguageModel, delay, losses, weighted
from text import batch_ids, disturb

LENGTHS = (0.125, 0.125, 0.5, 0.125, 0.125, 1)  # of the usual crop, in turn


class Crops:
    """Random crops of coded pieces with a random caption each."""

    def __init__(self, data: Path, out: Path, split: str, seed: int):
        self.rng = random.Random(seed)
        self.path = out / f"codes-{split}.npz"
        self.read = self.path.stat().st_mtime
        codes = load_codes(self.path)
        self.items = [(codes[r["id"]], r["captions"]) for r in read_rows(data, split) if r["id"] in codes]
        self.weights = np.cumsum([c.shape[1] for c, _ in self.items]).tolist()

    @property
    def outdated(self) -> bool:
        """Whether more has been coded since."""
        return self.path.stat().st_mtime > self.read

    @property
    def frames(self) -> int:
        return self.weights[-1]

    def take(self, count: int, frames: int, tidy: bool = False):
        """`(codes [count, codebooks, frames], captions)`; half of the crops begin where the piece begins.

        A piece shorter than the crop is left out. `tidy` keeps the captions as they are.
        """
        codes, texts = [], []
        while len(codes) < count:
            piece, captions = self.rng.choices(self.items, cum_weights=self.weights)[0]
            spare = piece.shape[1] - frames
            if spare < 0:
                continue
            at = 0 if self.rng.random() < 0.5 else self.rng.randint(0, spare)
            text = self.rng.choice(captions)["text"]
            if not tidy and self.rng.random() < 0.5:
                text = disturb(text, self.rng)
            codes.append(torch.from_numpy(piece[:, at : at + frames].astype(np.int64)))
            texts.append(text)
        return torch.stack(codes), texts


def blank(inputs: torch.Tensor, share: float = 0.6) -> torch.Tensor:
    """Hides half to all of the past columns in a `share` of the rows, so that there only the text can help."""
    rows = torch.rand(len(inputs), 1, 1) < share
    rate = 0.5 + 0.7 * torch.rand(len(inputs), 1, 1)  # above one: every column
    hidden = rows & (torch.rand(len(inputs), 1, inputs.shape[-1]) < rate)
    return torch.where(hidden, torch.tensor(START), inputs)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--data", type=Path, required=True)
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--minutes", type=float, default=55)
    args.add_argument("--batch", type=int, default=8)
    args.add_argument("--steps-per-crop", type=int, default=500, help="10 s")
    args.add_argument("--muon-lr", type=float, default=0.02)
    args.add_argument("--lr", type=float, default=3e-3)
    args.add_argument("--dropout", type=float, default=0.0)
    args.add_argument("--unconditional", type=float, default=0.12)
    args.add_argument("--average", type=float, default=0.97, help="of the exported weights, every 5 steps")
    args.add_argument("--workers", type=int, default=2)
    args.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    args.add_argument("--seed", type=int, default=5)
    args = args.parse_args()
    seed_all(args.seed)

    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    model = LanguageModel(tokenizer.get_vocab_size())
    if pretrained := load_checkpoint(args.out / "text.pt"):
        model.text_encoder.load_state_dict(pretrained["model"])
    model.text_encoder.requires_grad_(False)
    model.enc_to_dec_proj.requires_grad_(False)
    groups = {"layers": [], "listening": [], "rest": []}
    for name, parameter in model.decoder.named_parameters():
        inner, cross = ".layers." in name and parameter.ndim == 2, "encoder_attn." in name
        groups["listening" if inner and cross else "layers" if inner else "rest"].append(parameter)
    # What the cross attention adds has to grow to the size of the residual stream, which grows by itself.
    muon = {"layers": args.muon_lr, "listening": 4 * args.muon_lr}
    optimisers = [
        torch.optim.Muon(
            [{"params": groups[name], "base": rate} for name, rate in muon.items()],
            lr=args.muon_lr,
            weight_decay=0.02,
            momentum=0.95,
        ),
        torch.optim.AdamW(
            [{"params": groups["rest"], "base": args.lr}], lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0
        ),
    ]
    slots = [group for optimiser in optimisers for group in optimiser.param_groups]
    parameters = [p for group in slots for p in group["params"]]
    workers = Workers(args.workers, parameters)
    average = copy.deepcopy(model)
    path = args.out / "lm.pt"
    step, spent, positions = 0, 0.0, 0
    if state := load_checkpoint(path):
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        rates = [group["base"] for group in slots]
        for optimiser, kept in zip(optimisers, state.get("optimisers", [])):
            optimiser.load_state_dict(kept)
        slots = [group for optimiser in optimisers for group in optimiser.param_groups]
        for group, rate in zip(slots, rates):
            group["base"] = rate  # what is asked for now, not what the checkpoint was trained with
        step, spent, positions = state["step"], state["spent"], state["positions"]
    train = Crops(args.data, args.out, "train", args.seed + step)
    budget = Budget(args.minutes, spent)
    curve = Curve(args.out / "lm.jsonl")
    curve.write(step=step, trained=sum(p.numel() for p in parameters), pieces=len(train.items), frames=train.frames)

    def checkpoint() -> None:
        save_atomic(
            {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                "step": step,
                "spent": budget.spent,
                "positions": positions,
            },
            path,
        )

    def loss_of(share):
        codes, texts = share
        inputs, targets = delay(codes)
        if codes.shape[-1] < args.steps_per_crop // 2:
            inputs = blank(inputs)
        ids, mask = batch_ids(tokenizer, texts)
        keep = (torch.rand(len(texts)) >= args.unconditional).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            states = model.condition(ids, mask, keep)
            logits = model(inputs, states, mask, args.dropout)
        per_book = losses(logits, targets)
        return weighted(per_book), per_book.detach()

    @torch.no_grad()
    def held_out() -> dict:
        """Loss per codebook on pieces never seen: with their caption, with none, and with another's caption."""
        crops = Crops(args.data, args.out, "test", 11)
        if not crops.items:
            return {}
        rows = {"caption": [], "none": [], "other": []}
        for _ in range(4):
            codes, texts = crops.take(8, args.steps_per_crop - 5, tidy=True)
            inputs, targets = delay(codes)
            for kind, words in (("caption", texts), ("none", texts), ("other", texts[1:] + texts[:1])):
                ids, mask = batch_ids(tokenizer, words)
                keep = torch.zeros(len(words)) if kind == "none" else None
                with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                    logits = average(inputs, average.condition(ids, mask, keep), mask)
                rows[kind].append(losses(logits, targets))
        mean = {kind: torch.stack(values).mean(0) for kind, values in rows.items()}
        return {kind: [round(float(v), 4) for v in row] + [round(float(row.mean()), 4)] for kind, row in mean.items()}

    log, save, test, refresh = Every(30), Every(180), Every(420), Every(120)
    window = []
    while not budget.over:
        for group in slots:
            group["lr"] = group["base"] * budget.lr_scale()
        # Every batch has the same number of positions; the longest crops make later positions known.
        part = LENGTHS[step % len(LENGTHS)]
        count = max(args.workers, round(args.batch / part))
        frames = round(args.steps_per_crop * part) - 5
        per = count // args.workers
        window += workers.step(loss_of, [train.take(per, frames) for _ in range(args.workers)])
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        if torch.isfinite(norm):
            for optimiser in optimisers:
                optimiser.step()
        step += 1
        positions += per * args.workers * (frames + 5)
        if step % 5 == 0:
            with torch.no_grad():
                follow = min(args.average, step / (step + 50))
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - follow)
        if log.due():
            mean = torch.stack(window).mean(0)
            curve.write(step=step, spent=round(budget.spent), positions=positions, lr=slots[0]["lr"],
                        loss=float(mean.mean()), books=[round(float(v), 4) for v in mean], norm=float(norm))  # fmt: skip
            window = []
        if refresh.due() and train.outdated:
            train = Crops(args.data, args.out, "train", args.seed + step)
            curve.write(step=step, pieces=len(train.items), frames=train.frames)
        if save.due():
            checkpoint()
        if test.due():
            curve.write(step=step, spent=round(budget.spent), positions=positions, held_out=held_out())
    checkpoint()
    curve.write(step=step, spent=round(budget.spent), positions=positions, final=held_out())


if __name__ == "__main__":
    main()
