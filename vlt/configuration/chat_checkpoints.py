"""The published chat models, each made of parts that are published on other pages."""

from vlt.configuration.published import HUB, Published

_LAVIS = "--vision=eva_vit_g.pth"


def _chat(
    name: str, about: str, family: str, url: str, file: str, parts: str, note: str
) -> Published:
    """A chat model made of parts, whose pages state their licences, LLaMA's among them."""
    options = f"--chat={family} {parts}"
    return Published(name, about, family, "see its page", url, file, options, 0, note=note)


CHAT_MODELS = (
    _chat(
        "llava_7b",
        "LLaVA Lightning 7B v1-1",
        "llava",
        f"{HUB}/liuhaotian/LLaVA-Lightning-7B-delta-v1-1",
        "LLaVA-Lightning-7B-delta-v1-1",
        "--llm=LLaMA-7B --delta=LLaVA-Lightning-7B-delta-v1-1 --vision=clip-vit-large-patch14",
        "a delta over LLaMA-7B, which Meta gives out; the tower is openai/clip-vit-large-patch14",
    ),
    _chat(
        "llava_image_7b",
        "LLaVA 7B v1-1 before its first stage",
        "llava",
        f"{HUB}/lmsys/vicuna-7b-delta-v1.1",
        "vicuna-7b-delta-v1.1",
        "--llm=LLaMA-7B --delta=vicuna-7b-delta-v1.1 --vision=clip-vit-large-patch14 "
        "--random=connector",
        "a delta over LLaMA-7B, which Meta gives out; its connector is what the stage trains",
    ),
    _chat(
        "btadapter_llava_7b",
        "LLaVA Lightning 7B v1-1 with BT-Adapter",
        "llava",
        f"{HUB}/farewellthree/BTAdapter-Weight",
        "btadapter_weight.bin",
        "--llm=LLaMA-7B --delta=LLaVA-Lightning-7B-delta-v1-1 --vision=clip-vit-large-patch14 "
        "--branch=btadapter_weight.bin --connector=mm_projector.bin",
        "what its tuning saves; with the pre-trained branch's file alone, leave --connector out",
    ),
    _chat(
        "llava15_7b",
        "LLaVA-1.5 7B",
        "llava",
        f"{HUB}/liuhaotian/llava-v1.5-7b",
        "llava-v1.5-7b",
        "--llm=llava-v1.5-7b --vision=clip-vit-large-patch14-336",
        "merged weights; the tower is openai/clip-vit-large-patch14-336",
    ),
    _chat(
        "minigpt4_7b",
        "MiniGPT-4 of Vicuna-7B v0",
        "minigpt4",
        "https://github.com/Vision-CAIR/MiniGPT-4",
        "pretrained_minigpt4_7b.pth",
        f"--llm=LLaMA-7B --delta=vicuna-7b-delta-v0 {_LAVIS} "
        "--connector=blip2_pretrained_flant5xxl.pth --connector=pretrained_minigpt4_7b.pth",
        "a delta over LLaMA-7B, which Meta gives out; its repository names the other files",
    ),
    _chat(
        "instructblip_7b",
        "InstructBLIP of Vicuna-7B v1.1",
        "instructblip",
        "https://github.com/salesforce/LAVIS/tree/main/projects/instructblip",
        "instruct_blip_vicuna7b_trimmed.pth",
        f"--llm=LLaMA-7B --delta=vicuna-7b-delta-v1.1 {_LAVIS} "
        "--connector=instruct_blip_vicuna7b_trimmed.pth --qformer-tokenizer=vocab.txt",
        "vocab.txt is bert-base-uncased's; a delta over LLaMA-7B, which Meta gives out",
    ),
)
