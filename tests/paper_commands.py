"""How each command of the papers' pages, configs/*.md, is tried; see `documented_commands`."""

from documented_case import Case, run, skipped

MAIN = "python -m vlt.main"
MERGES = "--tokenizer bpe_simple_vocab_16e6.txt.gz"
BERT = "--tokenizer bert-base-uncased --set visual.image_size=224"
FEW_STEPS = (
    "--config.train.steps=2 --config.data.train.batch_size=4 --config.data.workers=1 "
    '--config.evals="{}" --config.train.best_metric='
)
STEPS = f"{FEW_STEPS} --config.model.size="
LABELS = (
    '--config.task.class_count=0 --config.task.descriptions="()" --config.task.consistency=0.0 '
    '--config.repeats="()"'
)


def shapes(name: str, *more: str) -> dict[str, Case]:
    """A config like another that is trained: it is only inspected, from shapes alone."""
    command = " ".join([f"{MAIN} --config=configs/{name}", *more])
    return {command: run(f"python -m vlt.inspect --config=configs/{name} --config.model.size=")}


def converted(arguments: str, elsewhere: str = "", more: str = "") -> dict[str, Case]:
    """elsewhere: folder to convert into, where other commands need what is in the printed one."""
    source, target, *rest = arguments.split(" ")
    line = " ".join(["python -m vlt.convert", source, elsewhere or target, *rest])
    return {f"python -m vlt.convert {arguments}": run(f"{line}{more}")}


def manifests(arguments: str) -> dict[str, Case]:
    """Manifests from annotation files with fewer videos than the published ones."""
    command = f"python -m data_pipelines.{arguments}"
    return {command: run(f"{command} --allow-subset")}


def zero_shot(data: str, *more: str) -> dict[str, Case]:
    config = f"{MAIN} --config=configs/btadapter_zeroshot.py:{data}"
    subset = f"--config.evals.{data}.allow_subset=True --config.evals.{data}.batch_size=4"
    command = " ".join([config, *more])
    return {command: run(f"{command} {subset} --config.model.size=")}


def as_printed(*commands: str) -> dict[str, Case]:
    return {command: run(command) for command in commands}


def inspected(name: str, topology: str) -> dict[str, Case]:
    command = f"python -m vlt.inspect --config=configs/{name} --topology={topology}"
    return {command: skipped("takes minutes; launch/README.md has one that is tried")}


def sharded(manifest: str, options: str) -> dict[str, Case]:
    command = f"python -m data_pipelines.shards --manifest=data/{manifest} {options}"
    return {command: run(command, needs="apache_beam")}


def on_shards(name: str, folder: str, more: str = "") -> dict[str, Case]:
    command = (
        f"{MAIN} --config=configs/{name} --config.data.train.manifest=data/{folder}/manifest.jsonl"
    )
    return {command: run(f"{command} --workdir=runs/{folder} {STEPS}{more}", needs="apache_beam")}


TRAINED = "runs/btadapter-webvid_l14"
RECOGNITION = (
    ("hmdb51", "hmdb_splits", "hmdb51"),
    ("ucf101", "ucf_splits", "ucf101"),
    ("ssv2", "ssv2_splits", "ssv2"),
    ("kinetics", "k400_splits", "k400"),
)
PAPERS: dict[str, Case] = {
    # configs/tempme.md, configs/msta.md, configs/video_chat.md
    "python -m vlt.checkpoints vop_b32": run("python -m vlt.checkpoints vop_b32"),
    "python -m vlt.inspect": run("python -m vlt.inspect --help"),
    "vlt export --blend=checkpoints/clip_b16:0.2": run("vlt export --help"),
    "vlt chat --weights=int8": run(
        "vlt chat my/videos/000000_forward.mov --model=tiny_chat --weights=int8 --ask='what ?'"
    ),
    "python -m vlt.inspect --config=configs/video_chat.py:llava_tune --config.model.frames=8 "
    "--config.train.steps=0 --config.model.weights=bfloat16 --topology=v5e:2x4 "
    "--config.mesh.data=1 --config.mesh.tensor=8 --batch=1": skipped(
        "takes minutes; tests/training has a small one"
    ),
    "python -m vlt.inspect --config=configs/video_chat.py:llava_tune --topology=v5e:2x4 --batch=8 "
    "--config.mesh.data=1 --config.mesh.fsdp=8": skipped("takes 20 minutes"),
    "vlt judge": run("vlt judge --help"),
    "vlt score": run("vlt score --help"),
    "python -m vlt.bench.conversation --length=24 --rounds=3": skipped(
        "takes minutes; tests/bench has a small one"
    ),
    # configs/retrieval.md
    **as_printed("vlt checkpoints pe_b16"),
    f"{MAIN} --mode=eval --config=configs/zeroshot.py:msrvtt_pe_b16": run(
        "python -m vlt.inspect --config=configs/zeroshot.py:msrvtt_pe_b16"
    ),
    f"{MAIN} --config=configs/retrieval.py:msrvtt_videoprism_b_lora": run(
        "python -m vlt.inspect --config=configs/retrieval.py:msrvtt_videoprism_b_lora"
    ),
    f"{MAIN} --config=configs/probe.py:k400_b": run(
        "python -m vlt.inspect --config=configs/probe.py:k400_b"
    ),
    **as_printed("python -m vlt.inspect --config=configs/retrieval.py:msrvtt_siglip2_b16_tempme"),
    "python -m vlt.bench --config=configs/zeroshot.py:msrvtt_pe_b16 --config.model.frames=16 "
    "--nostep": run(
        "python -m vlt.bench --config=configs/zeroshot.py:msrvtt_pe_b16 --config.model.frames=1 "
        "--nostep --rounds=1"
    ),
    "python -m vlt.bench --config=configs/zeroshot.py:msrvtt_videoprism_b --nostep": skipped(
        "takes minutes; the one of PE-Core is tried with one frame"
    ),
    # A checkpoint of another size brings its size along.
    f"{MAIN} --config=configs/tempme.py:msrvtt_b16_lora "
    "--config.model.checkpoint=checkpoints/pe_b16": run(
        f"{MAIN} --config=configs/tempme.py:msrvtt_b16_lora --workdir=runs/of_checkpoint "
        f"--config.model.checkpoint=checkpoints/clip_b32 {FEW_STEPS}"
    ),
    # configs/btadapter.md; training webvid_l14 is among the cases of README.md
    **as_printed(
        "python -m vlt.checkpoints clip_l14 eva_clip_g btadapter_l14",
        "python -m data_pipelines.check data/msrvtt/test_1ka.jsonl",
    ),
    # No stand-in passes for the published file.
    "python -m vlt.checkpoints clip_l14 --verify ViT-L-14.pt": run(
        "python -m vlt.checkpoints clip_l14 --verify ViT-L-14.pt; test $? = 1"
    ),
    **converted(f"eva_clip_psz14.pt checkpoints/eva_clip_g {MERGES}", more=" --set visual.heads=1"),
    **converted("FILE checkpoints/btadapter_l14 --set base=checkpoints/clip_l14"),
    **manifests("msrvtt --annotations msrvtt_data --videos videos/msrvtt --out data/msrvtt"),
    **manifests("didemo --annotations didemo_data --videos videos/didemo --out data/didemo"),
    **manifests("lsmdc --annotations lsmdc_data --videos videos/lsmdc --out data/lsmdc"),
    **manifests(
        "activitynet --annotations activitynet_data --videos videos/activitynet "
        "--out data/activitynet"
    ),
    f"python -m vlt.export --workdir={TRAINED} checkpoints/btadapter_l14": run(
        f"python -m vlt.export --workdir={TRAINED} checkpoints/btadapter_l14 --overwrite"
    ),
    **{
        command: case
        for data in ("msrvtt", "didemo", "lsmdc", "activitynet")
        for command, case in zero_shot(data).items()
    },
    **{
        command: case
        for data, part in (("k400", "val"), ("hmdb51", "val1"), ("ucf101", "val1"))
        for command, case in zero_shot(
            data, f"--config.evals.{data}.manifest=data/{data}/{part}.jsonl"
        ).items()
    },
    **shapes("clip.py:l14"),
    **sharded(
        "webvid2m/train.jsonl",
        "--out=data/webvid2m_frames --form=frames --short-side=256 --frames=16",
    ),
    **on_shards("btadapter.py:webvid_l14", "webvid2m_frames"),
    # configs/tempme.md
    **as_printed(
        "python -m vlt.checkpoints clip_b32 clip_b16 laclip_b16 metaclip_b16",
        "python -m data_pipelines.check data/msrvtt/train_9k.jsonl",
    ),
    **converted(f"ViT-B-32.pt checkpoints/clip_b32 {MERGES}", "converted/clip_b32"),
    **converted(f"ViT-B-16.pt checkpoints/clip_b16 {MERGES}"),
    **converted(
        f"laion400m_laclip_vitb16.pt checkpoints/laclip_b16 {MERGES} --set activation=gelu"
    ),
    **converted(f"b16_400m.pt checkpoints/metaclip_b16 {MERGES} --set activation=quick_gelu"),
    **{
        command: case
        for base in ("msrvtt_b32_lora", "msrvtt_b32_tome", "msrvtt_b16", "lsmdc_b32")
        for command, case in shapes(f"tempme.py:{base}").items()
    },
    **{
        f"{MAIN} --config=configs/tempme.py:{base}": run(
            f"{MAIN} --config=configs/tempme.py:{base} {STEPS}"
        )
        for base in ("activitynet_b32", "didemo_b32", "msrvtt_b16_full_tempme")
    },
    "python -m vlt.export --workdir=runs/tempme-msrvtt_b32 retriever --merge": run(
        "python -m vlt.export --workdir=runs/tempme-msrvtt_b32 retriever --merge"
    ),
    "python -m vlt.draw --workdir=runs/tempme-msrvtt_b32 VIDEO --out=pictures": run(
        "python -m vlt.draw --workdir=runs/tempme-msrvtt_b32 videos/msrvtt/video0.mov --out=merged"
    ),
    **on_shards("tempme.py:msrvtt_b32", "msrvtt_frames"),
    **as_printed("python -m vlt.checkpoints umt_b16_retriever umt_b16_answerer"),
    **converted("b16_25m.pth checkpoints/umt_b16_retriever --tokenizer bert-base-uncased"),
    **converted(
        "b16_25m.pth checkpoints/umt_b16_answerer --tokenizer bert-base-uncased --set kind=answerer"
    ),
    "python -m data_pipelines.msrvtt_qa --annotations msrvtt_qa_data --videos videos/msrvtt "
    "--out data/msrvtt_qa": run("python -m data_pipelines.msrvtt_qa --help"),
    f"{MAIN} --config=configs/tempme.py:msrvtt_umt4clip_tempme": run(
        f"{MAIN} --config=configs/tempme.py:msrvtt_umt4clip_tempme {STEPS}"
    ),
    **{
        command: case
        for name in (
            "tempme.py:msrvtt_umt",
            "tempme.py:msrvtt_umt4clip",
            "umt_qa.py",
            "umt_qa.py:umt4clip",
            "umt_qa.py:umt4clip_tempme",
        )
        for command, case in shapes(name).items()
    },
    # configs/token_mixing.md
    **as_printed(
        "python -m vlt.checkpoints blip_caption_b16 blip_retrieval_b16",
        "python -m data_pipelines.check data/msvd/train.jsonl",
    ),
    **converted(f"model_large_caption.pth checkpoints/blip_caption_l16 {BERT}"),
    **converted(f"model_base_retrieval_coco.pth checkpoints/blip_retrieval_b16 {BERT}"),
    **converted(f"model_large_retrieval_coco.pth checkpoints/blip_retrieval_l16 {BERT}"),
    **manifests("msvd --annotations msvd_data --videos videos/msvd --out data/msvd"),
    **manifests(
        "msrvtt_captions --annotations msrvtt_data --videos videos/msrvtt "
        "--out data/msrvtt_captions"
    ),
    **manifests(
        "vatex --annotations vatex_data --videos videos/vatex --out data/vatex --missing=drop"
    ),
    **{
        f"{MAIN} --config=configs/token_mixing.py:{name}": run(
            f"{MAIN} --config=configs/token_mixing.py:{name} {STEPS}"
        )
        for name in ("msvd_mix", "msrvtt_ret_mix")
    },
    **{
        command: case
        for name in ("msrvtt_mix", "vatex_mix", "lsmdc_ret_mix", "msvd_mix_l16")
        for command, case in shapes(f"token_mixing.py:{name}").items()
    },
    "python -m vlt.caption VIDEO... --workdir=runs/token_mixing-msvd_mix": run(
        "python -m vlt.caption videos/msvd/video0.mov --workdir=runs/token_mixing-msvd_mix"
    ),
    **sharded("msvd/train.jsonl", "--out=data/msvd_frames --form=frames --short-side=224 --fps=3"),
    **on_shards("token_mixing.py:msvd_mix", "msvd_frames"),
    # configs/msta.md
    **as_printed(
        "python -m vlt.checkpoints viclip_b16 clip_b16",
        "python -m data_pipelines.check data/hmdb51/val1.jsonl",
        "python -m data_pipelines.folder_per_class videos/k400/train data/k400/train.jsonl",
    ),
    **converted(
        f"ViCLIP-B_InternVid-FLT-10M.pth checkpoints/viclip_b16 {MERGES}", "converted/viclip_b16"
    ),
    **{
        command: case
        for program, splits, data in RECOGNITION
        for command, case in manifests(
            f"{program} --annotations labels datasets_splits/{splits} "
            f"datasets_splits/base2novel_splits/{splits} --videos videos/{data} --out data/{data}"
        ).items()
    },
    **manifests(
        "kinetics --annotations labels datasets_splits/k600_splits --videos videos/k600 "
        "--out data/k400"
    ),
    "python -m data_pipelines.describe_actions --labels data/hmdb51/classes.txt --endpoint URL "
    "--out data/hmdb51/descriptions": run("python -m data_pipelines.describe_actions --help"),
    **{
        f"{MAIN} --config=configs/msta.py:{name}": run(
            f"{MAIN} --config=configs/msta.py:{name} {STEPS} {options}"
        )
        for name, options in (
            ("base2novel_hmdb51", '--config.repeats="()"'),
            ("fewshot_hmdb51", ""),
            ("full_k400", LABELS),
        )
    },
    **{
        command: case
        for name in ("base2novel_k400", "fewshot_ucf101_k2", "zeroshot_k400")
        for command, case in shapes(f"msta.py:{name}").items()
    },
    **sharded("k400/train.jsonl", "--out=data/k400_clips --form=clips --short-side=256"),
    **on_shards("msta.py:full_k400", "k400_clips", f" {LABELS}"),
    # configs/video_chat.md; 7B models are only inspected, from shapes alone
    f"{MAIN} --config=configs/video_chat.py": run(
        f'{MAIN} --config=configs/video_chat.py --config.compare="()" --config.train.steps=2 '
        "--config.data.train.manifest=moving_shapes:clips:train:16:questions.jsonl "
        '--config.data.train.batch_size=4 --config.evals="{}"'
    ),
    **{
        f"{MAIN} --config=configs/video_chat.py:{name}": run(
            f"python -m vlt.inspect --config=configs/video_chat.py:{name}"
        )
        for name in ("llava_tune", "videochatgpt", "minigpt4", "instructblip_tune")
    },
    "python -m data_pipelines.video_instruct --annotations VideoInstruct100K.json "
    "--videos videos/activitynet --out data/video_instruct": run(
        "python -m data_pipelines.video_instruct --help"
    ),
    "python -m vlt.chat VIDEO --model=checkpoints/llava_7b": run(
        "echo 'what do you see ?' | python -m vlt.chat my/videos/000000_forward.mov "
        "--model=tiny_chat"
    ),
    'python -m vlt.chat VIDEO --model=checkpoints/llava_7b --ask "What is the person doing?" '
    "--json": run(
        "python -m vlt.chat my/videos/000000_forward.mov --model=tiny_chat "
        "--ask 'what do you see ?' --json"
    ),
    "python -m vlt.export --workdir=runs/video_chat-llava_tune checkpoints/llava_tuned": run(
        "python -m vlt.export --workdir=runs/video_chat checkpoints/llava_tuned"
    ),
    **{
        f"python -m vlt.judge --{kind} PREDICTIONS REFERENCES --out={out} --endpoint=URL": skipped(
            "needs a language model; tests/judging has stand-ins"
        )
        for kind, out in (("generic", "scores"), ("qa", "scores_qa"))
    },
    **inspected("tempme.py:msrvtt_b32", "v5e:2x4"),
    **inspected("token_mixing.py:msvd_mix", "v5e:2x4"),
    **inspected("msta.py:full_k400", "v5e:8x8"),
}
