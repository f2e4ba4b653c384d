"""Small random pipelines of the real classes of diffusers, as `save_pretrained` writes them; nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

CHANNELS, PLACES = 4, 8


def stirred(module: nn.Module, std: float = 0.1) -> nn.Module:
    """The same with larger weights than those of a fresh network, so that what is wrong is seen."""
    generator = torch.Generator().manual_seed(3)
    for p in module.parameters():
        p.data = std * torch.randn(p.shape, generator=generator)
    return module.eval()


def vae(**settings: Any) -> Any:
    import diffusers

    given = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": CHANNELS}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return stirred(diffusers.AutoencoderKL(**(given | blocks | settings)))


def clip(folder: Path, hidden: int = 8, projected: bool = False) -> tuple[Any, Any]:
    """A text encoder of CLIP and its tokenizer, of letters."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=hidden, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=hidden, bos_token_id=len(words) - 2, eos_token_id=len(words) - 1, pad_token_id=len(words) - 1,
    )  # fmt: skip
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    return stirred(kind(config), 0.3), tokenizer


def t5(hidden: int = 8) -> tuple[Any, Any]:
    """A text encoder T5 and its tokenizer, of letters."""
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0)]
    pieces += [(chr(c), -2.0) for c in range(97, 123)]
    pieces.append(("\u2581q", -1.0))  # a word of one piece, as nearly all of a T5 are
    tokenizer = T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)
    config = T5Config(vocab_size=len(pieces), d_model=hidden, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    return stirred(T5EncoderModel(config), 0.3), tokenizer


def cross_unet(**settings: Any) -> Any:
    import diffusers

    given = {
        "sample_size": PLACES, "in_channels": CHANNELS, "out_channels": CHANNELS, "block_out_channels": (8, 8),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 4, "cross_attention_dim": 8,
        "attention_head_dim": 4, "layers_per_block": 1,
    }  # fmt: skip
    return stirred(diffusers.UNet2DConditionModel(**(given | settings)), 0.4)


SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


def ldm(folder: Path) -> Path:
    import diffusers

    code = stirred(diffusers.VQModel(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, num_vq_embeddings=16,
        scaling_factor=0.7))  # fmt: skip
    unet = diffusers.UNet2DModel(sample_size=PLACES, in_channels=CHANNELS, out_channels=CHANNELS,
        block_out_channels=(8, 8), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4, layers_per_block=1, add_attention=False)  # fmt: skip
    diffusers.LDMPipeline(code, stirred(unet), diffusers.DDIMScheduler(**SCALED)).save_pretrained(folder)
    return folder


def stable_diffusion(folder: Path, prediction: str = "epsilon") -> Path:
    import diffusers

    encoder, tokenizer = clip(folder.parent / "words")
    pipeline = diffusers.StableDiffusionPipeline(
        vae(), encoder, tokenizer, cross_unet(), diffusers.DDIMScheduler(prediction_type=prediction, **SCALED), None,
        None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def sdxl(folder: Path) -> Path:
    import diffusers

    first, tokenizer = clip(folder.parent / "words")
    second, other = clip(folder.parent / "more", projected=True)
    unet = cross_unet(cross_attention_dim=16, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=8 + 6 * 4)  # fmt: skip
    scheduler = diffusers.EulerDiscreteScheduler(**{k: v for k, v in SCALED.items() if k != "clip_sample"})
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae(), first, second, tokenizer, other, unet, scheduler, add_watermarker=False
    )
    pipeline.save_pretrained(folder)
    return folder


def dit(folder: Path) -> Path:
    import diffusers

    network = stirred(diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=CHANNELS, out_channels=2 * CHANNELS, num_layers=1,
        sample_size=PLACES, num_embeds_ada_norm=10, norm_num_groups=2,
    ))  # fmt: skip
    diffusers.DiTPipeline(network, vae(), diffusers.DDIMScheduler(clip_sample=False)).save_pretrained(folder)
    return folder


def sd3(folder: Path) -> Path:
    import diffusers

    first, tokenizer = clip(folder.parent / "words", projected=True)
    second, other = clip(folder.parent / "more", projected=True)
    third, long = t5(16)
    network = stirred(diffusers.SD3Transformer2DModel(
        sample_size=PLACES, patch_size=2, in_channels=CHANNELS, out_channels=CHANNELS, num_layers=1,
        attention_head_dim=4, num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=8,
        pooled_projection_dim=16, pos_embed_max_size=8,
    ), 0.4)  # fmt: skip
    diffusers.StableDiffusion3Pipeline(
        network, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae(shift_factor=0.1), first, tokenizer, second,
        other, third, long,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def flux(folder: Path, as_input: bool = True) -> Path:
    import diffusers

    first, tokenizer = clip(folder.parent / "words")
    second, long = t5(8)
    network = stirred(diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4 * CHANNELS, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
        guidance_embeds=as_input,
    ))  # fmt: skip
    diffusers.FluxPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae(shift_factor=0.1), first, tokenizer, second, long,
        network,
    ).save_pretrained(folder)  # fmt: skip
    return folder


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "LDMPipeline": ldm,
    "StableDiffusionPipeline": stable_diffusion,
    "v": lambda folder: stable_diffusion(folder, "v_prediction"),
    "StableDiffusionXLPipeline": sdxl,
    "DiTPipeline": dit,
    "StableDiffusion3Pipeline": sd3,
    "FluxPipeline": flux,
}
"""What writes a pipeline into a folder, by its class; v is Stable Diffusion 2's prediction."""
