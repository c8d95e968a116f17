"""Tokenizer and text encoder: a unigram vocabulary in T5's layout, and a small T5 encoder pretrained on captions.

Pretraining asks the mean of the projected states, disturbed by noise, for every attribute: its class if the caption
states it, else that it is not stated. The noise makes the encoder spend the width of the states on the attributes; the
class for "not stated" keeps it from telling the decoder what nobody said. Words are dropped and misspelt and clauses
reordered on the way, so that wordings the grammar never makes still land nearby. The heads are thrown away.
"""

import argparse
import json
import math
import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import Unigram
from torch import nn
from torch.nn import functional as F
from transformers import T5Config, T5EncoderModel

from common import Budget, Curve, Every, Workers, load_checkpoint, read_rows, save_atomic, seed_all

PAD, EOS, UNK = 0, 1, 2
VOCABULARY = 1200
# The classes behind what a caption says it states.
STATED_AS = {
    "tempo": ["tempo_band"],
    "key": ["tonic"],
    "texture": ["texture.instrument", "texture.kind"],
    "structure": ["arrangement", "form"],
}
NOT_A_CLASS = {"seed", "bars", "flavour", "kit", "tempo_bpm"}
DERIVED = ("tempo_band", "lead", "family")  # written beside the attributes
WIDTH = 256  # of the decoder, which the states are projected to
STATE_SCALE = 5.0  # deviation of the projected states: heard beside a residual stream that grows to 20
TEMPO_BINS, SLOWEST, FASTEST = 48, 58.0, 182.0  # 2.4 % each
KEPT = {"no", "not", "without", "never", "minus", "neither", "nor", "zero", "free", "less", "few", "lacks", "absent"}


def text_config(vocabulary: int = VOCABULARY) -> T5Config:
    return T5Config(
        vocab_size=vocabulary,
        d_model=192,
        d_kv=32,
        num_heads=4,
        d_ff=320,
        num_layers=3,
        num_decoder_layers=3,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        is_encoder_decoder=False,
        use_cache=False,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
    )


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    alphabet = [chr(c) for c in range(33, 127) if not chr(c).isupper()] + ["▁", "♯", "♭", "é"]
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    # Single letters and digits are shown too, so that an unknown word falls apart into pieces rather than <unk>.
    tokenizer.train_from_iterator(texts + [" ".join(alphabet)] * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", EOS)]
    )
    return tokenizer


def batch_ids(tokenizer: Tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask, both `[batch, longest]`."""
    rows = [encoding.ids[:96] for encoding in tokenizer.encode_batch(texts)]
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), PAD)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for n, row in enumerate(rows):
        ids[n, : len(row)] = torch.tensor(row)
        mask[n, : len(row)] = 1
    return ids, mask


def disturb(text: str, rng: random.Random, drop: float = 0.1, typo: float = 0.03) -> str:
    """A caption as another person might have typed it; what turns the meaning round (`no`, numbers) is not dropped."""
    if "," in text and rng.random() < 0.3:
        clauses = [c.strip() for c in text.rstrip(".").split(",")]
        rng.shuffle(clauses)
        text = ", ".join(clauses)
    kept = []
    for word in text.split():
        plain = word.strip(".,;:!()|/").lower()
        vital = plain in KEPT or plain.endswith(("n't", "less")) or any(c.isdigit() for c in plain)
        if rng.random() < drop and not vital:
            continue
        if len(plain) > 3 and not vital and rng.random() < typo:
            at = rng.randrange(len(word) - 1)
            change = rng.randrange(3)
            if change == 0:
                word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
            elif change == 1:
                word = word[:at] + word[at + 1 :]
            else:
                word = word[:at] + word[at] + word[at:]
        kept.append(word)
    return " ".join(kept) if kept else text


def classes_of(row: dict) -> dict[str, str]:
    return flatten(row["attributes"] | {name: row[name] for name in DERIVED if name in row})


def flatten(attributes: dict, prefix: str = "") -> dict[str, str]:
    """Attributes as names of classes; nested records as `outer.inner`."""
    out = {}
    for name, value in attributes.items():
        if name in NOT_A_CLASS:
            continue
        if isinstance(value, dict):
            out.update(flatten(value, f"{prefix}{name}."))
        elif isinstance(value, (str, bool, int)) or value is None:
            out[f"{prefix}{name}"] = "none" if value is None else str(value).lower()
            if value is None and name == "texture":
                out.update({"texture.instrument": "none", "texture.kind": "none"})
    return out


class Classes:
    """The attribute classes seen in a corpus, and what a caption says of them."""

    def __init__(self, rows: list[dict]):
        seen: dict[str, set] = {}
        for row in rows:
            for name, value in classes_of(row).items():
                seen.setdefault(name, set()).add(value)
        self.values = {n: sorted(v) for n, v in sorted(seen.items()) if 1 < len(v) <= 64}

    def targets(self, row: dict, stated: list[str]) -> list[int]:
        """The class of each attribute, or one past the last where the caption is silent; then the tempo or 0."""
        told = {name for s in stated for name in [s, *STATED_AS.get(s, [])]}
        flat = classes_of(row)
        out = []
        for name, values in self.values.items():
            known = name in told and flat.get(name) in values
            out.append(values.index(flat[name]) if known else len(values))
        return [*out, row["attributes"]["tempo_bpm"] if "bpm" in told else 0]


class TextModel(nn.Module):
    """The encoder and the projection to the decoder's width."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.encoder = T5EncoderModel(text_config(vocabulary))
        self.projection = nn.Linear(192, WIDTH)
        nn.init.zeros_(self.projection.bias)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Projected states, `[batch, length, width]`."""
        return self.projection(self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state)

    def pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weight = mask[..., None] / mask.sum(1)[:, None, None]
        return (self(ids, mask) * weight).sum(1)

    @torch.no_grad()
    def rescale(self, ids: torch.Tensor, mask: torch.Tensor) -> None:
        """Scales the projection so that the states of these captions have the deviation the decoder expects."""
        states = self(ids, mask)[mask.bool()]
        ratio = STATE_SCALE / states.std()
        self.projection.weight.mul_(ratio)
        self.projection.bias.mul_(ratio)


def tempo_targets(bpm: torch.Tensor) -> torch.Tensor:
    """`bpm [batch]` (0: not stated) -> a distribution over the tempo bins and a last one for not stated."""
    place = (bpm.clamp(min=SLOWEST) / SLOWEST).log() / math.log(FASTEST / SLOWEST) * (TEMPO_BINS - 1)
    near = torch.exp(-0.5 * ((place[:, None] - torch.arange(TEMPO_BINS)) / 0.7) ** 2)
    near = near / near.sum(1, keepdim=True)
    silent = (bpm == 0).float()[:, None]
    return torch.cat([near * (1 - silent), silent], 1)


def read_captions(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--data", type=Path, required=True, help="holds captions-train.jsonl and captions-test.jsonl")
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--minutes", type=float, default=10)
    args.add_argument("--batch", type=int, default=128)
    args.add_argument("--workers", type=int, default=2)
    args.add_argument("--lr", type=float, default=2e-3)
    args.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    args.add_argument("--noise", type=float, default=0.5, help="against the size of the pooled state")
    args = args.parse_args()
    seed_all(3)
    rng = random.Random(3)

    rows = read_captions(args.data / "captions-train.jsonl")
    test = read_captions(args.data / "captions-test.jsonl")
    args.out.mkdir(parents=True, exist_ok=True)
    vocabulary = args.out / "tokenizer.json"
    if not vocabulary.exists():
        train_tokenizer([c["text"] for row in rows[:8000] for c in row["captions"]]).save(str(vocabulary))
    tokenizer = Tokenizer.from_file(str(vocabulary))
    classes = Classes(rows)
    names = [*classes.values, "tempo_bpm"]

    model = TextModel(tokenizer.get_vocab_size())
    heads = nn.ModuleList(nn.Linear(WIDTH, len(v) + 1) for v in classes.values.values())
    heads.append(nn.Linear(WIDTH, TEMPO_BINS + 1))
    parameters = list(model.parameters()) + list(heads.parameters())
    workers = Workers(args.workers, parameters)
    optimiser = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    path = args.out / "text.pt"

    def logits_of(texts: list[str], noise: float) -> list[torch.Tensor]:
        # Long captions apart from short ones: half as much padding.
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        halves = [order[: len(order) // 2], order[len(order) // 2 :]]
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            parts = [model.pooled(*batch_ids(tokenizer, [texts[n] for n in half])) for half in halves if half]
        pooled = torch.cat(parts).float()[torch.tensor(order).argsort()]
        size = pooled.detach().pow(2).mean(1, keepdim=True).sqrt()
        pooled = pooled + noise * size * torch.randn_like(pooled)
        return [head(pooled) for head in heads]

    def loss_of(share: list[tuple[str, list[int]]]):
        targets = torch.tensor([t for _, t in share])
        total = weight = 0.0
        for n, out in enumerate(logits_of([text for text, _ in share], args.noise)):
            if n < len(classes.values):
                loss, stated = F.cross_entropy(out, targets[:, n], reduction="none"), targets[:, n] < out.shape[1] - 1
            else:
                loss, stated = F.cross_entropy(out, tempo_targets(targets[:, n]), reduction="none"), targets[:, n] > 0
            part = torch.where(stated, 1.0, 0.2)
            total, weight = total + (loss * part).sum(), weight + part.sum()
        loss = total / weight
        return loss, float(loss.detach())

    @torch.no_grad()
    def accuracy(disturbed: bool) -> dict:
        """Share right of what is stated (a tempo within 4 %), and of all that is not stated, called so."""
        model.eval()
        right, seen = dict.fromkeys([*names, "silent"], 0), dict.fromkeys([*names, "silent"], 0)
        probe = random.Random(5)
        items = [(c, row) for row in test[:300] for c in row["captions"][:4]]
        for at in range(0, len(items), 100):
            part = items[at : at + 100]
            texts = [disturb(c["text"], probe) if disturbed else c["text"] for c, _ in part]
            targets = torch.tensor([classes.targets(row, c["stated"]) for c, row in part])
            for n, (name, out) in enumerate(zip(names, logits_of(texts, 0.0))):
                best, last = out.argmax(1), out.shape[1] - 1
                if name == "tempo_bpm":
                    known = targets[:, n] > 0
                    bpm = SLOWEST * (FASTEST / SLOWEST) ** (best / (TEMPO_BINS - 1))
                    hit = (bpm / targets[:, n].clamp(min=1) - 1).abs() < 0.04
                else:
                    known, hit = targets[:, n] < last, best == targets[:, n]
                right[name] += int((hit & (best < last))[known].sum())
                seen[name] += int(known.sum())
                right["silent"] += int((best == last)[~known].sum())
                seen["silent"] += int((~known).sum())
        model.train()
        return {n: round(right[n] / seen[n], 3) for n in right if seen[n]}

    budget, curve, log = Budget(args.minutes), Curve(args.out / "text.jsonl"), Every(20)
    size = sum(p.numel() for p in model.parameters())
    heads_of = {name: len(values) for name, values in classes.values.items()}
    captions = sum(len(row["captions"]) for row in rows)
    curve.write(parameters=size, vocabulary=tokenizer.get_vocab_size(), captions=captions, heads=heads_of)
    step, total, count = 0, 0.0, 0
    while not budget.over:
        for group in optimiser.param_groups:
            group["lr"] = args.lr * budget.lr_scale()
        batch = []
        for _ in range(args.batch):
            row = rng.choice(rows)
            caption = rng.choice(row["captions"])
            text = disturb(caption["text"], rng) if rng.random() < 0.6 else caption["text"]
            batch.append((text, classes.targets(row, caption["stated"])))
        total += sum(workers.step(loss_of, [batch[n :: args.workers] for n in range(args.workers)])) / args.workers
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step, count = step + 1, count + 1
        if log.due():
            curve.write(step=step, spent=round(budget.spent), loss=total / count)
            total, count = 0.0, 0
    curve.write(step=step, accuracy=accuracy(False), accuracy_disturbed=accuracy(True))
    model.rescale(*batch_ids(tokenizer, [c["text"] for row in test for c in row["captions"]][:1000]))
    save_atomic({"encoder": model.encoder.state_dict(), "projection": model.projection.state_dict()}, path)


if __name__ == "__main__":
    main()
