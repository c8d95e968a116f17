"""Writes the trained parts as one folder in the published MusicGen layout, f32 and f16."""

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import (
    EncodecFeatureExtractor,
    EncodecModel,
    GenerationConfig,
    MusicgenConfig,
    MusicgenForConditionalGeneration,
    T5TokenizerFast,
)

from codec import WEIGHT_NORM, codec_config, load_codec
from common import SAMPLE_RATE, load_checkpoint, seed_all
from lm import START, LanguageModel, decoder_config
from text import text_config


def published_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out = {}
    for name, value in state.items():
        if name.endswith("encoder.embed_tokens.weight") and name.startswith("text_encoder"):
            continue  # tied to text_encoder.shared.weight
        for theirs, ours in WEIGHT_NORM.items():
            name = name.replace(ours, theirs)
        out[name] = value.detach().contiguous().clone()
    return out


def assemble(run: Path, raw: bool = False, init: Path | None = None) -> tuple[MusicgenConfig, dict[str, torch.Tensor]]:
    """The configuration and every tensor by its published name. Parts without a checkpoint stay untrained."""
    seed_all(0)
    vocabulary = Tokenizer.from_file(str(run / "tokenizer.json")).get_vocab_size()
    codec = EncodecModel(codec_config())
    if init:
        load_codec(codec, load_file(init / "model.safetensors"))
    elif state := load_checkpoint(run / "codec.pt"):
        codec.load_state_dict(state["model"])
    lm = LanguageModel(vocabulary)
    if state := load_checkpoint(run / "lm.pt"):
        lm.load_state_dict(state["model" if raw else "average"])
    elif state := load_checkpoint(run / "text.pt"):
        lm.load_text(state)
    config = MusicgenConfig.from_sub_models_config(text_config(vocabulary), codec_config(), decoder_config())
    config.architectures = ["MusicgenForConditionalGeneration"]
    tensors = {f"audio_encoder.{name}": value for name, value in codec.state_dict().items()} | lm.state_dict()
    return config, published_names(tensors)


def write_folder(out: Path, tokenizer: Path, config: MusicgenConfig, tensors: dict[str, torch.Tensor]) -> None:
    """Fills `out` through a sibling folder that is renamed at the end, so that readers never see half a model."""
    partial = out.with_name(out.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config.save_pretrained(partial)
    GenerationConfig(
        bos_token_id=START,
        decoder_start_token_id=START,
        pad_token_id=START,
        do_sample=True,
        top_k=250,
        guidance_scale=3.0,
        max_length=500 + 1,
        musaic_window_frames=500,  # the longest crop it was trained on
    ).save_pretrained(partial)
    text = T5TokenizerFast(tokenizer_file=str(tokenizer), extra_ids=0, model_max_length=96)
    text.save_pretrained(partial)
    shutil.copy(tokenizer, partial / "tokenizer.json")  # as trained, without the wrapper's additions
    EncodecFeatureExtractor(feature_size=1, sampling_rate=SAMPLE_RATE, padding_side="left").save_pretrained(partial)
    settings = json.loads((partial / "preprocessor_config.json").read_text())
    settings["processor_class"] = "MusicgenProcessor"
    (partial / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    half = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    (partial / "f16").mkdir()
    save_file(half, partial / "f16" / "model.safetensors", metadata={"format": "pt"})
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(partial, out)
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--run", type=Path, required=True, help="folder of the checkpoints")
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--init", type=Path, help="exported model (f32) whose codec is kept")
    args.add_argument("--raw", action="store_true", help="the last weights instead of their moving average")
    args = args.parse_args()
    config, tensors = assemble(args.run, args.raw, args.init)
    write_folder(args.out, args.run / "tokenizer.json", config, tensors)

    model = MusicgenForConditionalGeneration.from_pretrained(args.out)
    loaded = published_names(model.state_dict())
    assert set(tensors) <= set(loaded), sorted(set(tensors) - set(loaded))[:5]
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items()), "loading changed a tensor"
    counts: dict[str, int] = {}
    for name, value in tensors.items():
        if not name.endswith(("embed_avg", "cluster_size", "inited")):
            counts[name.split(".")[0]] = counts.get(name.split(".")[0], 0) + value.numel()
    print(json.dumps({"parameters": counts, "total": sum(counts.values())}))


if __name__ == "__main__":
    main()
