"""Trains the language model on codes of the corpus, on top of the pretrained text encoder.

The text encoder and its projection stay as they are: trained along, they fell to one constant state for every
caption within 1000 steps, because early on a caption is only noise to a model that has yet to learn what follows what.

A caption matters most where there is no past to tell the same: at the start of a crop. And even there it tells only a
few nats of the thousands that a crop costs, so the likelihood alone teaches it slowly. Hence the second stage, `both`:
two thirds of its steps take many short crops, hide most of the past (`blank`) and ask, beside the likelihood, which of
two captions belongs to the crop, by the difference of its likelihoods under both: what the captions do not explain
cancels, and the best answer is the same as that of the likelihood. The other caption is another piece's, or the same with
another tempo, or none. This moves the cross attention alone.

Before it comes `rhythm`. The likelihood alone taught no pulse: after eight seconds of a real piece the model went on in
its tempo no more often than by chance. So linear readers of the inner layers are asked where in the bar and in the beat
each frame is (`Clock`), which the past tells and, from a bar line on, so does a stated tempo: the position table has a
wave for nearly every tempo, and the text only has to pick it.

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
from lm import START, Clock, LanguageModel, delay, losses, token_losses, weighted
from text import batch_ids, disturb, read_captions

# What a step does: the likelihood, a comparison of captions, or telling the time by the lower layers alone.
MUSIC, COMPARE, TIME = "music", "compare", "time"
# Share of a whole batch of positions that a step takes (those that tell the time are many, so half of one), and how often
# each crop goes through the model (once a caption).
SIZES = {MUSIC: (1.0, 1), COMPARE: (1.0, 2), TIME: (0.5, 1)}
# Frames of a crop and what is done with it, in turn.
STAGES = {
    "music": ((120, MUSIC), (495, MUSIC), (245, MUSIC)),
    "rhythm": 4 * ((245, TIME),) + ((245, MUSIC),) + 4 * ((245, TIME),) + ((495, MUSIC),),
    "both": ((128, COMPARE), (245, MUSIC), (245, TIME), (64, COMPARE), (495, MUSIC), (245, TIME)),
}
ON_A_BAR = 0.85  # share of the crops that begin on a bar line
FRAMES_PER_SECOND = 50


class Piece:
    """Codes, captions and where the bars are."""

    def __init__(self, codes: np.ndarray, row: dict, captions: list[dict]):
        self.codes, self.captions = codes, captions
        about = row["attributes"]
        beats = {"4/4": 4, "3/4": 3, "6/8": 2}[about["metre"]]
        self.beat = 60 / about["tempo_bpm"] * FRAMES_PER_SECOND
        self.bar = beats * self.beat
        self.bars = about["bars"]
        # In an intro or a build-up, what a caption tells may not have entered before the second section.
        late = about["arrangement"] != "full"
        self.entry = max(1, about["bars"] // max(1, len(about["form"]))) if late else 0


class Crops:
    """Random crops of coded pieces with a random caption each; `tempo` is the share that must state beats a minute."""

    def __init__(self, data: Path, out: Path, split: str, seed: int, tempo: float = 0.0):
        self.rng = random.Random(seed)
        self.tempo = tempo
        codes = load_codes(out / f"codes-{split}.npz")
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
        """`(codes [count, codebooks, frames], captions, (start, bar, beat) in frames, each [count])`.

        A piece shorter than the crop is left out. `tidy` keeps the captions as they are; otherwise every second one is
        the one of three that says most.
        """
        codes, texts, times = [], [], []
        while len(codes) < count:
            piece = self.rng.choices(self.items, cum_weights=self.weights)[0]
            spare = piece.codes.shape[1] - frames
            if spare < 0:
                continue
            at = self.start(piece, spare)
            said = self.rng.choice(piece.captions)
            if not tidy and self.rng.random() < 0.5:
                said = max(self.rng.sample(piece.captions, 3), key=lambda c: len(c["stated"]))
            if self.rng.random() < self.tempo:
                telling = [c for c in piece.captions if "bpm" in c["stated"]]
                said = self.rng.choice(telling) if telling else said
            text = said["text"]
            if not tidy and self.rng.random() < 0.3:
                text = disturb(text, self.rng)
            codes.append(torch.from_numpy(piece.codes[:, at : at + frames].astype(np.int64)))
            texts.append(text)
            times.append((at, piece.bar, piece.beat))
        return torch.stack(codes), texts, torch.tensor(times, dtype=torch.float64).unbind(1)


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
    args.add_argument("--stage", choices=tuple(STAGES), default="music")
    args.add_argument("--muon-lr", type=float, default=0.008)
    args.add_argument("--lr", type=float, default=1.2e-3)
    args.add_argument("--listen-lr", type=float, default=3e-4)
    args.add_argument("--dropout", type=float, default=0.0)
    args.add_argument("--unconditional", type=float, default=0.1)
    args.add_argument("--compare", type=float, default=0.03, help="weight of choosing the right caption")
    args.add_argument("--clock", type=float, default=3.0, help="weight of telling the time")
    args.add_argument("--tempo", type=float, default=0.7, help="share of captions that state the tempo, but in `music`")
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
    clock = Clock(model.decoder.config.hidden_size) if args.stage != "music" else None
    if clock and state and state.get("clock"):
        clock.load_state_dict(state["clock"])
    if clock:
        groups["rest"] += clock.parameters()
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
    turns = STAGES[args.stage]
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
    train = Crops(args.data, args.out, "train", args.seed + step, args.tempo if clock else 0.0)
    budget = Budget(args.minutes, spent)
    curve = Curve(args.out / "lm.jsonl")
    curve.write(step=step, trained=sum(p.numel() for p in parameters), pieces=len(train.items), frames=train.frames)

    def checkpoint() -> None:
        save_atomic(
            {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "clock": clock.state_dict() if clock else None,
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                "step": step,
                "stage": args.stage,
                "spent": budget.spent,
                "positions": positions,
            },
            path,
        )

    def loss_of(share):
        what, codes, texts, times, wrong, heard = share
        count = len(texts)
        inputs, targets = delay(codes)
        keep = (torch.rand(count) >= args.unconditional).float()
        if what == TIME:
            inputs = blank(inputs, 0.5)
        elif what == COMPARE:
            inputs = blank(inputs, min(0.7, 1.2 * (1 - budget.fraction)))
            inputs, targets, texts = inputs.repeat(2, 1, 1), targets.repeat(2, 1, 1), texts + wrong
            keep = torch.cat([torch.ones(count), heard])
        ids, mask = batch_ids(tokenizer, texts)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            states = model.condition(ids, mask, keep)
            stream = model.layers(inputs, states, mask, args.dropout, clock.lowest if what == TIME else None)
            logits = None if what == TIME else model.heads(stream[-1])
        if what == COMPARE:
            cost = token_losses(logits, targets)
            gain = (cost[:, count:] - cost[:, :count]).sum((0, 2))
            # The likelihood is asked of the right captions, and of no caption.
            asked = torch.cat([torch.ones(count), 1 - heard])
            per_book = (cost * asked[:, None]).sum((1, 2)) / (asked.sum() * codes.shape[-1])
            comparison, right = args.compare * F.softplus(-gain).mean(), (gain > 0).float().mean().detach()
            return weighted(per_book), (per_book.detach(), right), (comparison, listening)
        loss, per_book, wrong_time = 0.0, None, None
        if clock:
            wrong_time = clock(stream, Clock.truth(*times, inputs.shape[-1]))
            loss = args.clock * clock.weighted(wrong_time)
            wrong_time = wrong_time.detach()
        if what == MUSIC:
            per_book = losses(logits, targets)
            loss = loss + weighted(per_book)
            per_book = per_book.detach()
        return loss, (per_book, wrong_time)

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
                codes, texts, _ = crops.take(count, frames, tidy=True)
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
        # Batches have the same number of positions whatever the crop; the longest crops make later positions known.
        frames, what = turns[step % len(turns)]
        (part, passes), columns = SIZES[what], frames + 5
        per = round(part * args.batch * args.steps_per_crop / (passes * args.workers * columns))
        shares = []
        for _ in range(args.workers):
            codes, texts, times = train.take(per, frames)
            shares.append((what, codes, texts, times, *(others(texts, train.rng) if what == COMPARE else (None, None))))
        for books, told in workers.step(loss_of, shares):
            if books is not None:
                window.append(books)
            if told is not None:
                chosen[f"{what} {frames}"].append(told)
        norm = torch.nn.utils.clip_grad_norm_(listening, 1.0)
        other = torch.nn.utils.clip_grad_norm_(music, 1.0)
        if torch.isfinite(norm) and torch.isfinite(other):
            list(workers.pool.map(lambda optimiser: optimiser.step(), optimisers))
        step += 1
        positions += passes * per * args.workers * columns
        if step % 5 == 0:
            with torch.no_grad():
                follow = min(args.average, step / (step + 50))
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - follow)
        # On a busy machine there may be no step that has a likelihood for a while.
        if window and log.due():
            mean = torch.stack(window).mean(0)
            told = {k: [round(float(x), 3) for x in torch.stack(v).mean(0).view(-1)] for k, v in chosen.items() if v}
            curve.write(step=step, spent=round(budget.spent), positions=positions, lr=slots[0]["lr"],
                        loss=float(mean.mean()), books=[round(float(v), 4) for v in mean], norm=float(norm),
                        told=told)  # fmt: skip
            window, chosen = [], defaultdict(list)
        if save.due():
            checkpoint()
        if test.due():
            curve.write(step=step, spent=round(budget.spent), positions=positions, held_out=held_out())
    checkpoint()
    curve.write(step=step, spent=round(budget.spent), positions=positions, final=held_out())


if __name__ == "__main__":
    main()
