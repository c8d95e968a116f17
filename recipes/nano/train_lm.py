"""Trains the language model on codes of the corpus, on top of the pretrained text encoder.

The text encoder and its projection stay as they are: trained along, they fell to one constant state for every
caption within 1000 steps, because early on a caption is only noise to a model that has yet to learn what follows what.

A caption matters most where there is no past to tell the same: at the start of a crop. So most crops are short, and
nearly all begin on a bar line, as music that is asked for does; then the tempo of a caption says where the beats of
the crop are. In the first half of the run the past of some short crops is hidden as well (`blank`).

Muon moves the matrices of the decoder layers, AdamW everything else. In 120 steps of 1000 positions from scratch the
loss went from 6.2 to 5.5; AdamW alone, at 1.5e-3 or 4e-3, was still at 6.1.
"""

import argparse
import copy
import random
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from common import Budget, Curve, Every, Workers, load_checkpoint, read_rows, save_atomic, seed_all
from encode import load_codes
from lm import START, LanguageModel, delay, losses, weighted
from text import batch_ids, disturb, read_captions

LENGTHS = (0.25, 0.5, 0.125, 0.25, 0.5, 1)  # of the usual crop, in turn
ON_A_BAR = 0.85  # share of the crops that begin on a bar line
FRAMES_PER_SECOND = 50


class Piece:
    """Codes, captions and where the bars are."""

    def __init__(self, codes: np.ndarray, row: dict, captions: list[dict]):
        self.codes, self.captions = codes, captions
        about = row["attributes"]
        beats = {"4/4": 4, "3/4": 3, "6/8": 2}[about["metre"]]
        self.bar = beats * 60 / about["tempo_bpm"] * FRAMES_PER_SECOND
        self.bars = about["bars"]
        # In an intro or a build-up, what a caption tells may not have entered before the second section.
        late = about["arrangement"] != "full"
        self.entry = max(1, about["bars"] // max(1, len(about["form"]))) if late else 0


class Crops:
    """Random crops of coded pieces with a random caption each."""

    def __init__(self, data: Path, out: Path, split: str, seed: int):
        self.rng = random.Random(seed)
        self.path = out / f"codes-{split}.npz"
        codes = load_codes(self.path)
        more = data / f"captions-{split}.jsonl"  # the same pieces by id
        captions = {str(r["id"]): r["captions"] for r in read_captions(more)} if more.exists() else {}
        rows = [r for r in read_rows(data, split) if r["id"] in codes]
        self.items = [Piece(codes[r["id"]], r, captions.get(r["id"], r["captions"])) for r in rows]
        self.weights = np.cumsum([p.codes.shape[1] for p in self.items]).tolist()

    @property
    def frames(self) -> int:
        return self.weights[-1]

    def start(self, piece: Piece, spare: int) -> int:
        if self.rng.random() >= ON_A_BAR:
            return self.rng.randint(0, spare)
        starts = [at for n in range(piece.entry, piece.bars) if (at := round(n * piece.bar)) <= spare]
        return self.rng.choice(starts) if starts else 0

    def take(self, count: int, frames: int, tidy: bool = False):
        """`(codes [count, codebooks, frames], captions)`.

        A piece shorter than the crop is left out. `tidy` keeps the captions as they are; otherwise every second one is
        the one of three that says most.
        """
        codes, texts = [], []
        while len(codes) < count:
            piece = self.rng.choices(self.items, cum_weights=self.weights)[0]
            spare = piece.codes.shape[1] - frames
            if spare < 0:
                continue
            at = self.start(piece, spare)
            said = self.rng.choice(piece.captions)
            if not tidy and self.rng.random() < 0.5:
                said = max(self.rng.sample(piece.captions, 3), key=lambda c: len(c["stated"]))
            text = said["text"]
            if not tidy and self.rng.random() < 0.3:
                text = disturb(text, self.rng)
            codes.append(torch.from_numpy(piece.codes[:, at : at + frames].astype(np.int64)))
            texts.append(text)
        return torch.stack(codes), texts


def blank(inputs: torch.Tensor, share: float) -> torch.Tensor:
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
    args.add_argument("--batch", type=int, default=12)
    args.add_argument("--steps-per-crop", type=int, default=500, help="10 s")
    args.add_argument("--muon-lr", type=float, default=0.008)
    args.add_argument("--lr", type=float, default=1.2e-3)
    args.add_argument("--dropout", type=float, default=0.0)
    args.add_argument("--unconditional", type=float, default=0.1)
    args.add_argument("--init", type=Path, help="start from the decoder of this exported model (f32)")
    args.add_argument("--average", type=float, default=0.97, help="of the exported weights, every 5 steps")
    args.add_argument("--workers", type=int, default=2)
    args.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    args.add_argument("--seed", type=int, default=5)
    args = args.parse_args()
    seed_all(args.seed)

    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    model = LanguageModel(tokenizer.get_vocab_size())
    if pretrained := load_checkpoint(args.out / "text.pt"):
        model.load_text(pretrained)
    if args.init:
        model.load_decoder(load_file(args.init / "model.safetensors"))
    model.text_encoder.requires_grad_(False)
    model.enc_to_dec_proj.requires_grad_(False)
    groups = {"layers": [], "listening": [], "rest": []}
    for name, parameter in model.decoder.named_parameters():
        inner, cross = ".layers." in name and parameter.ndim == 2, "encoder_attn." in name
        groups["listening" if inner and cross else "layers" if inner else "rest"].append(parameter)
    # What the cross attention adds has to grow to the size of the residual stream, which grows by itself.
    muon = {"layers": args.muon_lr, "listening": 4 * args.muon_lr}
    # Muon's own products take a third as long as the gradients, so each worker moves half of the matrices.
    optimisers = [
        torch.optim.Muon(
            [{"params": groups[name][half::2], "base": rate} for name, rate in muon.items()],
            lr=args.muon_lr,
            weight_decay=0.02,
            momentum=0.95,
        )
        for half in range(2)
    ] + [
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
        hidden = 0.4 * (1 - 2 * budget.fraction)
        if codes.shape[-1] < args.steps_per_crop // 3 and hidden > 0:
            inputs = blank(inputs, hidden)
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
        out = {}
        for frames, count in ((args.steps_per_crop // 5, 40), (args.steps_per_crop - 5, 8)):
            rows = {"caption": [], "none": [], "other": []}
            for _ in range(4):
                codes, texts = crops.take(count, frames, tidy=True)
                inputs, targets = delay(codes)
                for kind, words in (("caption", texts), ("none", texts), ("other", texts[1:] + texts[:1])):
                    ids, mask = batch_ids(tokenizer, words)
                    keep = torch.zeros(len(words)) if kind == "none" else None
                    with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                        logits = average(inputs, average.condition(ids, mask, keep), mask)
                    rows[kind].append(losses(logits, targets))
            mean = {kind: torch.stack(values).mean(0) for kind, values in rows.items()}
            out[frames] = {k: [round(float(v), 4) for v in row] + [round(float(row.mean()), 4)] for k, row in mean.items()}
        return out

    log, save, test = Every(30), Every(180), Every(420)
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
            list(workers.pool.map(lambda optimiser: optimiser.step(), optimisers))
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
        if save.due():
            checkpoint()
        if test.due():
            curve.write(step=step, spent=round(budget.spent), positions=positions, held_out=held_out())
    checkpoint()
    curve.write(step=step, spent=round(budget.spent), positions=positions, final=held_out())


if __name__ == "__main__":
    main()
