"""Trains the language model on codes of the corpus, on top of the pretrained text encoder.

The text encoder and its projection stay as they are: trained along, they fell to one constant state for every
caption within 1000 steps, because early on a caption is only noise to a model that has yet to learn what follows what.

A caption matters most where there is no past to tell the same: at the start of a crop. And even there it tells only a
few nats of the thousands that a crop costs, so the likelihood alone teaches it slowly. Hence the second stage, `both`:
two thirds of its steps take many short crops, hide most of the past (`blank`) and ask, beside the likelihood, which of
two captions belongs to the crop, by the difference of its likelihoods under both: what the captions do not explain
cancels, and the best answer is the same as that of the likelihood. The other caption is another piece's, or the same with
another tempo, or none. This moves the cross attention alone.

Nearly all crops begin on a bar line, as music that is asked for does; then the tempo of a caption says where the beats
of the crop are.

Muon moves the matrices of the decoder layers, AdamW everything else. In 120 steps of 1000 positions from scratch the
loss went from 6.2 to 5.5; AdamW alone, at 1.5e-3 or 4e-3, was still at 6.1.
"""

import argparse
import copy
import random
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

from common import Budget, Curve, Every, Workers, load_checkpoint, read_rows, save_atomic, seed_all
from encode import load_codes
from lm import START, LanguageModel, delay, losses, token_losses, weighted
from text import batch_ids, disturb, read_captions

# Frames of a crop and whether captions are compared, in turn.
MUSIC = ((120, False), (495, False), (245, False))
BOTH = ((64, True), (128, True), (495, False), (32, True), (128, True), (245, False))
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


def another_tempo(text: str, rng: random.Random) -> str:
    """The caption with its beats a minute a fifth to two thirds faster or slower, if it states them in digits."""

    def change(match: re.Match) -> str:
        bpm = int(match[0])
        if not 58 <= bpm <= 182:
            return match[0]
        ratio = rng.uniform(1.2, 1.67)
        options = [n for n in (round(bpm * ratio), round(bpm / ratio)) if 58 <= n <= 182]
        return str(rng.choice(options)) if options else match[0]

    return re.sub(r"\d+", change, text)


def others(texts: list[str], rng: random.Random) -> tuple[list[str], torch.Tensor]:
    """Captions to compare with, and which of them are to be heard at all."""
    out = []
    for n, text in enumerate(texts):
        changed = another_tempo(text, rng) if rng.random() < 0.5 else text
        out.append(changed if changed != text else texts[n - 1])
    return out, torch.tensor([float(rng.random() >= 0.15) for _ in texts])


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
    args.add_argument("--stage", choices=("music", "both"), default="music")
    args.add_argument("--muon-lr", type=float, default=0.008)
    args.add_argument("--lr", type=float, default=1.2e-3)
    args.add_argument("--listen-lr", type=float, default=3e-4)
    args.add_argument("--dropout", type=float, default=0.0)
    args.add_argument("--unconditional", type=float, default=0.1)
    args.add_argument("--compare", type=float, default=0.03, help="weight of choosing the right caption")
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
    path = args.out / "lm.pt"
    state = load_checkpoint(path)
    step, spent, positions = 0, 0.0, 0
    if state:
        same = state["stage"] == args.stage
        model.load_state_dict(state["model" if same else "average"])
        step, positions, spent = state["step"], state["positions"], state["spent"] if same else 0.0
    model.text_encoder.requires_grad_(False)
    model.enc_to_dec_proj.requires_grad_(False)
    groups = {"layers": [], "rest": [], "listening": []}
    for name, parameter in model.decoder.named_parameters():
        inner, cross = ".layers." in name and parameter.ndim == 2, ".encoder_attn" in name
        groups["listening" if cross else "layers" if inner else "rest"].append(parameter)
    listening, music = groups["listening"], groups["layers"] + groups["rest"]
    optimisers = [
        torch.optim.AdamW(
            [{"params": listening, "base": args.listen_lr}], lr=args.listen_lr, betas=(0.95, 0.99), weight_decay=0.0
        )
    ]
    # Muon's own products take a third as long as the gradients, so each worker moves half of the matrices.
    optimisers += [
        torch.optim.Muon(
            [{"params": groups["layers"][half::2], "base": args.muon_lr}],
            lr=args.muon_lr,
            weight_decay=0.02,
            momentum=0.95,
        )
        for half in range(2)
    ]
    optimisers += [
        torch.optim.AdamW(
            [{"params": groups["rest"], "base": args.lr}], lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0
        )
    ]
    parameters = listening + music
    turns = {"music": MUSIC, "both": BOTH}[args.stage]
    workers = Workers(args.workers, parameters)
    average = copy.deepcopy(model)
    if state and same:
        average.load_state_dict(state["average"])
        for optimiser, kept in zip(optimisers, state["optimisers"]):
            rates = [group["base"] for group in optimiser.param_groups]
            optimiser.load_state_dict(kept)
            for group, rate in zip(optimiser.param_groups, rates):
                group["base"] = rate  # what is asked for now, not what the checkpoint was trained with
    slots = [group for optimiser in optimisers for group in optimiser.param_groups]
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
                "stage": args.stage,
                "spent": budget.spent,
                "positions": positions,
            },
            path,
        )

    def loss_of(share):
        codes, texts, wrong, heard = share
        count = len(texts)
        inputs, targets = delay(codes)
        if wrong:
            inputs = blank(inputs, min(0.7, 1.2 * (1 - budget.fraction)))
            inputs, targets, texts = inputs.repeat(2, 1, 1), targets.repeat(2, 1, 1), texts + wrong
            keep = torch.cat([torch.ones(count), heard])
        else:
            keep = (torch.rand(count) >= args.unconditional).float()
        ids, mask = batch_ids(tokenizer, texts)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            states = model.condition(ids, mask, keep)
            logits = model(inputs, states, mask, args.dropout)
        if not wrong:
            per_book = losses(logits, targets)
            return weighted(per_book), (per_book.detach(), None)
        cost = token_losses(logits, targets)
        gain = (cost[:, count:] - cost[:, :count]).sum((0, 2))
        # The likelihood is asked of the right captions, and of no caption.
        asked = torch.cat([torch.ones(count), 1 - heard])
        per_book = (cost * asked[:, None]).sum((1, 2)) / (asked.sum() * codes.shape[-1])
        comparison, right = args.compare * F.softplus(-gain).mean(), (gain > 0).float().mean().detach()
        return weighted(per_book), (per_book.detach(), right), (comparison, listening)

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
    window, chosen = [], defaultdict(list)
    while not budget.over:
        for group in slots:
            group["lr"] = group["base"] * budget.lr_scale()
        # Every batch has the same number of positions; the longest crops make later positions known.
        frames, compare = turns[step % len(turns)]
        copies = 2 if compare else 1
        per = round(args.batch * args.steps_per_crop / (copies * args.workers * (frames + 5)))
        shares = []
        for _ in range(args.workers):
            codes, texts = train.take(per, frames)
            shares.append((codes, texts, *(others(texts, train.rng) if compare else (None, None))))
        for books, right in workers.step(loss_of, shares):
            window.append(books)
            if right is not None:
                chosen[frames].append(right)
        norm = torch.nn.utils.clip_grad_norm_(listening, 1.0)
        other = torch.nn.utils.clip_grad_norm_(music, 1.0)
        if torch.isfinite(norm) and torch.isfinite(other):
            list(workers.pool.map(lambda optimiser: optimiser.step(), optimisers))
        step += 1
        positions += copies * per * args.workers * (frames + 5)
        if step % 5 == 0:
            with torch.no_grad():
                follow = min(args.average, step / (step + 50))
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - follow)
        if log.due():
            mean = torch.stack(window).mean(0)
            right = {n: round(float(torch.stack(v).mean()), 3) for n, v in chosen.items() if v}
            curve.write(step=step, spent=round(budget.spent), positions=positions, lr=slots[0]["lr"],
                        loss=float(mean.mean()), books=[round(float(v), 4) for v in mean], norm=float(norm),
                        right=right)  # fmt: skip
            window, chosen = [], defaultdict(list)
        if save.due():
            checkpoint()
        if test.due():
            curve.write(step=step, spent=round(budget.spent), positions=positions, held_out=held_out())
    checkpoint()
    curve.write(step=step, spent=round(budget.spent), positions=positions, final=held_out())


if __name__ == "__main__":
    main()
