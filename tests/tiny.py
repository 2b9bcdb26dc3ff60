"""Randomly initialized models of the real classes that generate an image in milliseconds.

Stable Diffusion, SDXL, CLIP and OWLv2.

Only the sizes differ. Tests take the fixture (`from tiny import tiny_folder`) or call `tiny_pipeline()`.
"""

import json, tempfile
from pathlib import Path

import pytest

HIDDEN = 32  # width of the text encoder, and of the UNet's cross-attention
LENGTH = 32  # longest prompt in tokens


def _alphabet():
    "CLIP's printable stand-ins for the 256 bytes."
    shown = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) for b in shown] + [chr(256 + i) for i in range(len(hidden))]


def tiny_tokenizer():
    "A CLIP tokenizer that spells every word out: the whole alphabet and a single merge."
    from transformers import CLIPTokenizer

    letters = _alphabet()
    words = letters + [l + '</w>' for l in letters] + ['ph', '<|startoftext|>', '<|endoftext|>']
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / 'vocab.json').write_text(json.dumps({w: i for i, w in enumerate(words)}), encoding='utf-8')
        (folder / 'merges.txt').write_text('#version: 0.2\np h\n', encoding='utf-8')
        (folder / 'tokenizer_config.json').write_text(
            json.dumps({'tokenizer_class': 'CLIPTokenizer', 'model_max_length': LENGTH})
        )
        return CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH)


def tiny_pipeline(seed=0, latent=8, widths=(8, 16), vae_widths=(8, 8, 16)):
    "A `StableDiffusionPipeline` with v-prediction, f = 4 and random weights; it draws squares of `4 * latent` pixels."
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=latent,
            in_channels=4,
            out_channels=4,
            block_out_channels=widths,
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
            up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
            cross_attention_dim=HIDDEN,
            attention_head_dim=4,
        )
        vae = AutoencoderKL(
            block_out_channels=vae_widths,
            down_block_types=('DownEncoderBlock2D',) * 3,
            up_block_types=('UpDecoderBlock2D',) * 3,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=4 * latent,
            mid_block_add_attention=False,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=HIDDEN,
                intermediate_size=2 * HIDDEN,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    scheduler = DDIMScheduler(
        beta_schedule='scaled_linear',
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type='v_prediction',
    )
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_sd15(seed=0):
    "What `tiny_pipeline` is, in the shape of Stable Diffusion 1.5: PNDM, epsilon, a safety checker."
    from diffusers import PNDMScheduler, StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = tiny_pipeline(seed)
    layers = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    looks = layers | dict(image_size=16, patch_size=8)
    scheduler = PNDMScheduler(
        beta_schedule='scaled_linear',
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        set_alpha_to_one=False,
        skip_prk_steps=True,
    )
    checker = StableDiffusionSafetyChecker(CLIPConfig(text_config=layers, vision_config=looks, projection_dim=8))
    parts = small.components | dict(
        scheduler=scheduler,
        safety_checker=checker,
        feature_extractor=CLIPImageProcessor(size=dict(shortest_edge=16), crop_size=dict(height=16, width=16)),
    )
    return StableDiffusionPipeline(**parts, requires_safety_checker=True)


def tiny_sdxl(seed=0):
    "A `StableDiffusionXLPipeline` around the parts of `tiny_pipeline`, with two text encoders and epsilon-prediction."
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    small = tiny_pipeline(seed)
    words = dict(
        vocab_size=len(small.tokenizer),
        hidden_size=HIDDEN // 2,
        intermediate_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=16,
        max_position_embeddings=LENGTH,
        bos_token_id=small.tokenizer.bos_token_id,
        eos_token_id=small.tokenizer.eos_token_id,
        pad_token_id=small.tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=HIDDEN,
            attention_head_dim=4,
            use_linear_projection=True,
            down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
            up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
            addition_embed_type='text_time',
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,
        )
        encoders = [kind(CLIPTextConfig(**words)) for kind in (CLIPTextModel, CLIPTextModelWithProjection)]
    return StableDiffusionXLPipeline(
        vae=small.vae,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=small.tokenizer,
        tokenizer_2=small.tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012),
        add_watermarker=False,
    )


def tiny_detectors(folder):
    "A CLIP and an OWLv2 with their processors, saved in `folder`/clip and `folder`/owlv2."
    import torch
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        Owlv2Config,
        Owlv2ForObjectDetection,
        Owlv2ImageProcessor,
        Owlv2Processor,
    )

    words, layers = (
        tiny_tokenizer(),
        dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2),
    )
    text = layers | dict(
        vocab_size=len(words),
        max_position_embeddings=LENGTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(
            CLIPConfig(
                text_config=text, vision_config=layers | dict(image_size=32, patch_size=8), projection_dim=16
            )
        ).save_pretrained(folder / 'clip')
        Owlv2ForObjectDetection(
            Owlv2Config(
                text_config=text, vision_config=layers | dict(image_size=64, patch_size=8), projection_dim=32
            )
        ).save_pretrained(folder / 'owlv2')
    CLIPProcessor(
        CLIPImageProcessor(size=dict(shortest_edge=32), crop_size=dict(height=32, width=32)), words
    ).save_pretrained(folder / 'clip')
    Owlv2Processor(Owlv2ImageProcessor(size=dict(height=64, width=64)), words).save_pretrained(
        folder / 'owlv2'
    )


@pytest.fixture(scope='session')
def tiny_folder(tmp_path_factory):
    "The tiny pipeline as a folder that `load_pipeline` and `from_pretrained` take."
    folder = tmp_path_factory.mktemp('tiny') / 'generator'
    tiny_pipeline().save_pretrained(folder)
    return folder
