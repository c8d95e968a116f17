"""Trains the language model and, more gently, the pretrained text encoder on codes of the corpus."""

import argparse
import copy
import random
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from common import Budget, Curve, Every, Workers, load_checkpoint, read_rows, save_atomic, seed_all
from encode import load_codes
from lm import LanguageModel, delay, losses, weighted
from text import batch_ids, disturb


class Crops:
    """Random crops of coded pieces with a random caption each."""

    def __init__(self, data: Path, out: Path, split: str, seed: int):
        self.rng = random.Random(seed)
        codes = load_codes(out / f"codes-{split}.npz")
        self.items = [(codes[r["id"]], r["captions"]) for r in read_rows(data, split) if r["id"] in codes]
        self.weights = np.cumsum([c.shape[1] for c, _ in self.items]).tolist()

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


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--data", type=Path, required=True)
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--minutes", type=float, default=55)
    args.add_argument("--batch", type=int, default=16)
    args.add_argument("--steps-per-crop", type=int, default=500, help="10 s")
    args.add_argument("--lr", type=float, default=1.5e-3)
    args.add_argument("--text-lr", type=float, default=2e-4)
    args.add_argument("--dropout", type=float, default=0.0)
    args.add_argument("--unconditional", type=float, default=0.12)
    args.add_argument("--average", type=float, default=0.99, help="of the exported weights, every 5 steps")
    args.add_argument("--workers", type=int, default=2)
    args.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    args.add_argument("--seed", type=int, default=5)
    args = args.parse_args()
    seed_all(args.seed)

    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    model = LanguageModel(tokenizer.get_vocab_size())
    if pretrained := load_checkpoint(args.out / "text.pt"):
        model.text_encoder.load_state_dict(pretrained["model"])
    groups = {"decay": [], "plain": [], "text": []}
    for name, parameter in model.named_parameters():
        gentle = name.startswith("text_encoder")
        groups["text" if gentle else "decay" if parameter.ndim > 1 and "embed" not in name else "plain"].append(parameter)
    optimiser = torch.optim.AdamW(
        [
            {"params": groups["decay"], "base": args.lr, "weight_decay": 0.05},
            {"params": groups["plain"], "base": args.lr, "weight_decay": 0.0},
            {"params": groups["text"], "base": args.text_lr, "weight_decay": 0.0},
        ],
        lr=args.lr,
        betas=(0.9, 0.95),
    )
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    workers = Workers(args.workers, parameters)
    average = copy.deepcopy(model)
    path = args.out / "lm.pt"
    step, spent, positions = 0, 0.0, 0
    if state := load_checkpoint(path):
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent, positions = state["step"], state["spent"], state["positions"]
    train = Crops(args.data, args.out, "train", args.seed + step)
    budget = Budget(args.minutes, spent)
    curve = Curve(args.out / "lm.jsonl")
    curve.write(step=step, parameters=sum(p.numel() for p in parameters), pieces=len(train.items), frames=train.frames)

    def checkpoint() -> None:
        save_atomic(
            {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
                "spent": budget.spent,
                "positions": positions,
            },
            path,
        )

    def loss_of(share):
        codes, texts = share
        inputs, targets = delay(codes)
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
        for _ in range(6):
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

    log, save, test = Every(30), Every(180), Every(420)
    window = []
    while not budget.over:
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * budget.lr_scale()
        count, frames = args.batch, args.steps_per_crop - 5
        if step % 8 == 7:
            # Some 20 s crops, so that longer pieces are not unknown positions.
            longest = sorted(c.shape[1] for c, _ in train.items)[len(train.items) // 2]
            count, frames = max(args.workers, args.batch // 2), min(2 * args.steps_per_crop - 5, longest)
        per = count // args.workers
        window += workers.step(loss_of, [train.take(per, frames) for _ in range(args.workers)])
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        if torch.isfinite(norm):
            optimiser.step()
        step += 1
        positions += per * args.workers * (frames + 5)
        if step % 5 == 0:
            with torch.no_grad():
                follow = min(args.average, step / (step + 50))
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - follow)
        if log.due():
            mean = torch.stack(window).mean(0)
            curve.write(step=step, spent=round(budget.spent), positions=positions, lr=optimiser.param_groups[0]["lr"],
                        loss=float(mean.mean()), books=[round(float(v), 4) for v in mean], norm=float(norm))  # fmt: skip
            window = []
        if save.due():
            checkpoint()
        if test.due():
            curve.write(step=step, spent=round(budget.spent), positions=positions, held_out=held_out())
    checkpoint()
    curve.write(step=step, spent=round(budget.spent), positions=positions, final=held_out())


if __name__ == "__main__":
    main()
