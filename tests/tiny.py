"""A randomly initialised text-to-image pipeline of the mini world's kind, small enough to draw an image in milliseconds.

Every part is of the class that Stable Diffusion uses; only the sizes differ. Tests take the fixture (`from tiny import tiny_folder`) or call `tiny_pipeline()`.
"""
import json, tempfile
from pathlib import Path

import pytest

HIDDEN = 32 # width of the text encoder, and of the UNet's cross-attention
LENGTH = 32 # longest prompt in tokens


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
        (folder/'vocab.json').write_text(json.dumps({w: i for i, w in enumerate(words)}), encoding='utf-8')
        (folder/'merges.txt').write_text('#version: 0.2\np h\n', encoding='utf-8')
        (folder/'tokenizer_config.json').write_text(json.dumps({'tokenizer_class': 'CLIPTokenizer', 'model_max_length': LENGTH}))
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
            sample_size=latent, in_channels=4, out_channels=4, block_out_channels=widths, layers_per_block=1, norm_num_groups=4,
            down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'), up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
            cross_attention_dim=HIDDEN, attention_head_dim=4)
        vae = AutoencoderKL(
            block_out_channels=vae_widths, down_block_types=('DownEncoderBlock2D',)*3, up_block_types=('UpDecoderBlock2D',)*3,
            layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=4*latent, mid_block_add_attention=False)
        text_encoder = CLIPTextModel(CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=2*HIDDEN, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=LENGTH, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
    scheduler = DDIMScheduler(beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False,
                              set_alpha_to_one=False, prediction_type='v_prediction')
    pipe = StableDiffusionPipeline(vae=vae.eval(), text_encoder=text_encoder.eval(), tokenizer=tokenizer, unet=unet.eval(), scheduler=scheduler,
                                   safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope='session')
def tiny_folder(tmp_path_factory):
    "The tiny pipeline as a folder that `load_pipeline` and `from_pretrained` take."
    folder = tmp_path_factory.mktemp('tiny')/'generator'
    tiny_pipeline().save_pretrained(folder)
    return folder
