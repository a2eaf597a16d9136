"""The published checkpoints that the package's configs ask for, as `checkpoints/NAME`.

Licences and files are as stated on their publishers' pages or in their repositories.
"""

from pathlib import Path

from vlt.configuration.chat_checkpoints import CHAT_MODELS
from vlt.configuration.published import FOLDER, HUB, Published

MERGES = "bpe_simple_vocab_16e6.txt.gz"
MERGES_URL = "https://github.com/openai/CLIP/tree/main/clip"
_MERGES = f"--tokenizer {MERGES}"
_BERT = "--tokenizer bert-base-uncased --set visual.image_size=224"


def _openai(name: str, model: str, sha256: str, size: int) -> Published:
    """A CLIP of OpenAI's, whose address contains the sha256."""
    file = f"{model}.pt"
    url = f"https://openaipublic.azureedge.net/clip/models/{sha256}/{file}"
    about = f"OpenAI's CLIP {model}"
    return Published(name, about, "openai", "MIT", url, file, _MERGES, size, sha256)


def _blip(name: str, about: str, file: str, size: int, note: str = "") -> Published:
    folder = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models"
    url = f"{folder}/{file}" if file else "https://github.com/salesforce/BLIP"
    return Published(name, about, "blip", "BSD-3-Clause", url, file, _BERT, size, note=note)


def _dgl(data: str, about: str, file: str, size: int) -> Published:
    """Its page names the latents; the command takes the file name that its code saves under."""
    url = f"https://drive.google.com/file/d/{file}/view"
    name = "ckpt.best.pth.tar"
    return Published(f"dgl_{data}", about, "dgl", "none stated", url, name, _MERGES, size)


def _umt(kind: str, about: str, options: str, size: int) -> Published:
    """Both kinds are made from one file, that of the video-text stage."""
    file = "b16_25m.pth"
    url = f"https://pjlab-gvm-data.oss-cn-shanghai.aliyuncs.com/umt/multi_modality/{file}"
    name, options = f"umt_b16_{kind}", f"--tokenizer bert-base-uncased{options}"
    return Published(name, about, "umt", "MIT", url, file, options, size, note=_UMT_NOTE)


def _pe(name: str, model: str, size: int) -> Published:
    """PE-Core; the other licence in its repository is for its language models."""
    url, about = f"{HUB}/facebook/{model}", f"{model}, vision and text tower"
    return Published(name, about, "pe", "Apache-2.0", url, f"{model}.pt", _MERGES, size)


def _eva02(name: str, file: str, size: int) -> Published:
    url, about = f"{HUB}/QuanSun/EVA-CLIP", file.removesuffix(".pt")
    return Published(name, about, "eva02", "MIT", url, file, _MERGES, size)


def _siglip2(name: str, model: str, size: int) -> Published:
    """A folder on the hub, which includes Gemma's vocabulary."""
    options = f"--tokenizer {model}"
    url, about = f"{HUB}/google/{model}", f"SigLIP 2, {model}"
    note = "a folder of the hub; its vocabulary is Gemma's, under terms of its own"
    licence = "Apache-2.0"
    return Published(name, about, "siglip_hf", licence, url, model, options, size, note=note)


def _metaclip2(name: str, model: str, size: int) -> Published:
    """A folder on the hub, which includes XLM-V's vocabulary."""
    options = f"--tokenizer {model}"
    url, about = f"{HUB}/facebook/{model}", f"MetaCLIP 2, {model}"
    note = "a folder of the hub; not for commercial use"
    return Published(name, about, "clip_hf", "CC-BY-NC-4.0", url, model, options, size, note=note)


def _videoprism(name: str, model: str, file: str, size: int, text: bool = True) -> Published:
    """text: whether it has a text tower."""
    family, options, note = "videoprism_encoder", "", "its video encoder alone, without texts"
    if text:
        family, options = "videoprism", "--tokenizer sentencepiece.model"
        note = "sentencepiece.model is T5's cc_en.32000, which its page points to"
    licence = "Apache-2.0 (code), CC-BY-4.0 (all else)"
    url, about = f"{HUB}/google/{model}", f"VideoPrism, {model}"
    return Published(name, about, family, licence, url, file, options, size, note=note)


_UMT_NOTE = "the licence is its repository's, github.com/OpenGVLab/unmasked_teacher"

_ALL = (
    _openai(
        "clip_b32",
        "ViT-B-32",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        605_109_252,
    ),
    _openai(
        "clip_b16",
        "ViT-B-16",
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
        598_482_948,
    ),
    _openai(
        "clip_l14",
        "ViT-L-14",
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        1_710_466_052,
    ),
    Published(
        "laclip_b16",
        "LaCLIP ViT-B/16 of LAION-400M",
        "open_clip",
        "BSD-2-Clause",
        "https://github.com/LijieFan/LaCLIP",
        "laion400m_laclip_vitb16.pt",
        f"{_MERGES} --set activation=gelu",
        598_482_948,
        note="TempMe's Table 14 does not say on which data its LaCLIP was trained",
    ),
    Published(
        "metaclip_b16",
        "MetaCLIP ViT-B/16 of 400 million pairs",
        "open_clip",
        "CC-BY-NC-4.0",
        "https://dl.fbaipublicfiles.com/MMPT/metaclip/b16_400m.pt",
        "b16_400m.pt",
        f"{_MERGES} --set activation=quick_gelu",
        598_482_948,
        note="TempMe's Table 14 does not say on which data its MetaCLIP was trained",
    ),
    _pe("pe_b16", "PE-Core-B16-224", 1_790_638_084),
    _pe("pe_l14", "PE-Core-L14-336", 2_684_551_172),
    _pe("pe_g14", "PE-Core-G14-448", 9_677_066_244),
    _siglip2("siglip2_b16", "siglip2-base-patch16-224", 1_500_751_880),
    _siglip2("siglip2_l16", "siglip2-large-patch16-256", 3_526_107_144),
    _siglip2("siglip2_so400m14", "siglip2-so400m-patch14-224", 4_541_854_408),
    _eva02("eva02_b16", "EVA02_CLIP_B_psz16_s8B.pt", 598_764_548),
    _eva02("eva02_l14", "EVA02_CLIP_L_psz14_s4B.pt", 1_711_021_828),
    _metaclip2("metaclip2_b16", "metaclip-2-worldwide-b16", 2_343_831_556),
    _metaclip2("metaclip2_l14", "metaclip-2-worldwide-l14", 4_328_488_964),
    _videoprism(
        "videoprism_b",
        "videoprism-lvt-base-f16r288",
        "flax_lvt_base_f16r288_repeated.npz",
        990_493_696,
    ),
    _videoprism(
        "videoprism_l",
        "videoprism-lvt-large-f8r288",
        "flax_lvt_large_f8r288_repeated.npz",
        2_319_508_480,
    ),
    _videoprism(
        "videoprism_encoder_b",
        "videoprism-base-f16r288",
        "flax_base_f16r288_repeated.npz",
        457_460_736,
        text=False,
    ),
    _videoprism(
        "videoprism_encoder_l",
        "videoprism-large-f8r288",
        "flax_large_f8r288_repeated.npz",
        1_415_860_224,
        text=False,
    ),
    Published(
        "mote_b16",
        "MoTE over CLIP ViT-B/16, of Kinetics-400",
        "mote",
        "Apache-2.0",
        "https://github.com/ZMHH-H/MoTE/releases/download/v1.0/MoTE_B16.pt",
        "MoTE_B16.pt",
        f"--set base={FOLDER}/clip_b16",
        750_684_228,
        note="the licence is its repository's",
    ),
    Published(
        "vop_b32",
        "VoP without variants over CLIP ViT-B/32, of MSR-VTT's 9k",
        "vop",
        "see its page",
        "https://modelscope.cn/models/damo/cv_vit-b32_retrieval_vop",
        "FILE",
        _MERGES,
        0,
        note="its page does not name the file of the weights here",
    ),
    _dgl(
        "msrvtt_b32",
        "DGL of the transformer's latent over CLIP ViT-B/32, of MSR-VTT",
        "1QZ4a9p1GJ20W418Njl_j1GJVyTLWiY17",
        643_409_924,
    ),
    _dgl(
        "msrvtt_b16",
        "DGL of the transformer's latent over CLIP ViT-B/16, of MSR-VTT",
        "1DSxSk07AykbEiV8_qYP90bd0HEBfV3tN",
        636_783_620,
    ),
    _dgl(
        "lsmdc_b32",
        "DGL of the linear latent over CLIP ViT-B/32, of LSMDC",
        "1UfzjBuMkfimqg5A6CAV7EDvzb_pU3N7Q",
        608_418_820,
    ),
    _dgl(
        "activitynet_b32",
        "DGL of the transformer's latent over CLIP ViT-B/32, of ActivityNet",
        "13UG-oW7Kc8dzbUUmqcuWySSX3mCn-L6G",
        651_077_636,
    ),
    Published(
        "xclip_b16",
        "X-CLIP over CLIP ViT-B/16, 8 frames, of Kinetics-400",
        "xclip_hf",
        "MIT",
        f"{HUB}/microsoft/xclip-base-patch16",
        "xclip-base-patch16",
        _MERGES,
        779_716_612,
        note="a folder of the hub; its authors' own files are linked in microsoft/VideoX",
    ),
    Published(
        "vita_clip_b16",
        "Vita-CLIP over CLIP ViT-B/16, 8 frames, of Kinetics-400",
        "vita_clip",
        "MIT",
        "https://drive.google.com/file/d/1vxgNg_lmGBRKNiY4VAy-aiCb-GuOAJNZ/view",
        "FILE",
        _MERGES,
        0,
        note="the licence is its repository's, github.com/TalalWasim/Vita-CLIP",
    ),
    Published(
        "actionclip_b16",
        "ActionCLIP over CLIP ViT-B/16, 8 frames, of Kinetics-400",
        "actionclip",
        "MIT",
        "https://pan.baidu.com/s/1alr0JNF5sdcU3jtCpT0Bow",
        "FILE",
        _MERGES,
        0,
        note="password hqtv; the licence is its repository's, github.com/sallymmx/ActionCLIP, "
        "which has weights of B/32 and of 16 and 32 frames, too",
    ),
    Published(
        "stan_b32",
        "STAN over CLIP ViT-B/32, pre-trained on WebVid-10M",
        "stan",
        "see its page",
        f"{HUB}/farewellthree/Mug_STAN_Weight",
        "FILE",
        _MERGES,
        0,
        note="its repository, github.com/farewellthree/STAN, pre-trains STAN and Mug-STAN over "
        "B/32; which file is which its page must say",
    ),
    Published(
        "eva_clip_g",
        "EVA-CLIP-G",
        "btadapter_eva",
        "MIT",
        "https://huggingface.co/BAAI/EVA/blob/main/eva_clip_psz14.pt",
        "eva_clip_psz14.pt",
        _MERGES,
        4_545_743_364,
    ),
    Published(
        "btadapter_l14",
        "BT-Adapter over CLIP ViT-L/14",
        "btadapter",
        "Apache-2.0",
        "https://huggingface.co/farewellthree/BTAdapter-Weight",
        "FILE",
        f"--set base={FOLDER}/clip_l14",
        0,
        note="three files are there, and the publisher does not say what each is for; "
        "vlt train --config=btadapter:webvid_l14 and vlt export make such a folder, too",
    ),
    Published(
        "viclip_b16",
        "ViCLIP-B/16 of InternVid-10M-FLT",
        "viclip",
        "MIT",
        "https://huggingface.co/OpenGVLab/ViCLIP",
        "ViCLIP-B_InternVid-FLT-10M.pth",
        _MERGES,
        598_415_364,
        note="its page asks for a name and consent first",
    ),
    Published(
        "vificlip_b16_k400",
        "ViFi-CLIP-B/16, all of it trained on Kinetics-400",
        "vificlip",
        "see its page",
        "https://github.com/muzairkhattak/ViFi-CLIP",
        "FILE",
        "--set base=checkpoints/clip_b16",
        598_482_948,
        note="its README links it; it takes its embedding of words from clip_b16, and msta:"
        "zeroshot_k400_vificlip and vlt export make such a folder, too",
    ),
    Published(
        "vificlip_b16_k400_base",
        "ViFi-CLIP-B/16, all of it trained on the base classes of Kinetics-400",
        "vificlip",
        "see its page",
        "https://github.com/muzairkhattak/ViFi-CLIP",
        "FILE",
        "--set base=checkpoints/clip_b16",
        598_482_948,
        note="its README links one for each of three seeds; msta:base2novel_k400_vificlip and vlt "
        "export make such a folder, too",
    ),
    _blip(
        "blip_caption_b16",
        "BLIP ViT-B and CapFilt-L, captions of COCO",
        "model_base_caption_capfilt_large.pth",
        894_719_216,
    ),
    _blip(
        "blip_caption_l16",
        "BLIP ViT-L, captions of COCO",
        "model_large_caption.pth",
        1_783_605_488,
    ),
    _blip(
        "blip_retrieval_b16",
        "BLIP ViT-B, retrieval of COCO",
        "model_base_retrieval_coco.pth",
        893_809_676,
    ),
    _blip(
        "blip_retrieval_l16",
        "BLIP ViT-L, retrieval of COCO",
        "model_large_retrieval_coco.pth",
        1_782_958_092,
    ),
    _blip(
        "blip_vqa_b16",
        "BLIP ViT-B and CapFilt-L, questions of VQA",
        "model_base_vqa_capfilt_large.pth",
        1_443_753_200,
    ),
    _blip(
        "blip_vqa_l16",
        "BLIP ViT-L, questions of VQA",
        "",
        2_332_639_472,
        note="not published: its authors give this model with ViT-B alone",
    ),
    _umt("retriever", "UMT-B/16 of 25 million pairs, retrieval", "", 809_645_068),
    _umt(
        "answerer",
        "UMT-B/16 of 25 million pairs, before it learns to answer",
        " --set kind=answerer",
        1_017_743_592,
    ),
    *CHAT_MODELS,
)
CHECKPOINTS = {each.name: each for each in _ALL}


def how_to_get(folder: str | Path) -> str:
    """What an error adds after 'no such folder'; '' for a folder that no config asks for."""
    path = Path(folder)
    if path.parent.name != FOLDER or path.name not in CHECKPOINTS:
        return ""
    return f"; vlt checkpoints {path.name} says where it is published and how to convert it"
