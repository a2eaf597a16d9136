"""How each command that a document prints is tried: as printed, reduced in size, or not, and why.

Commands run in document order in one folder, which tests/stand_ins.py fills: what one command
makes (a converted checkpoint, a run), a later one reads.
"""

import re

from documented_case import Case, run, skipped
from documents import run_by_notebooks
from paper_commands import PAPERS

from vlt.configuration.checkpoints import CHECKPOINTS

# Programs that are not ours.
OTHERS = {
    ("gcloud", "kubectl"): "needs Google Cloud",
    ("docker", "printf"): "needs a registry of images",
    ("eval", "ssh-add"): "needs a key of Google Cloud",
    ("tail",): "shows a log that another command writes",
    ("pip", "python3.11", "."): "installs: tests/test_installation.py",
}
# Published files are not available here; `path/to/...` and others in the README are stand-ins.
PUBLISHED_FILES = {" ".join(checkpoint.command.split()) for checkpoint in CHECKPOINTS.values()}
RUN_BY_NOTEBOOKS = run_by_notebooks()
_CLOUD = re.compile(r"python -m launch\.(tpu_vm|gke|slurm) \w")


def case_of(command: str) -> Case | None:
    """How a command is tried, or None for an unknown command."""
    if command in CASES:
        return CASES[command]
    if command in RUN_BY_NOTEBOOKS:
        return skipped("tests/test_notebooks.py runs it")
    for programs, reason in OTHERS.items():
        if command.split()[0] in programs:
            return skipped(reason)
    if command in PUBLISHED_FILES:
        return skipped("needs a published file; tests/convert has the layouts")
    if _CLOUD.match(command):
        ours, dashes, training = command.partition(" -- ")
        return run(f"{ours} --dry-run{dashes}{training}")
    return None


STEPS = "--config.train.steps=2 --config.data.train.batch_size=4 --config.data.workers=1"
ALONE = f'{STEPS} --config.compare="()" --config.evals="{{}}"'
# For checkpoints that are smaller than the published ones.
PUBLISHED = f"{ALONE} --config.train.best_metric= --config.model.size="
SHAPES = (
    f'{STEPS} --config.compare="()" --config.data.train.manifest=moving_shapes:clips:train:16 '
    "--config.evals.twins.manifest=moving_shapes:clips:test:40 --config.evals.twins.min_pairs=1 "
    "--config.evals.static.manifest=moving_shapes:clips:test:40:gallery.jsonl "
    "--config.evals.static.allow_subset=True"
)
TINY = "--config=configs/tempme.py"
VIDEO = "my/videos/000000_forward.mov"
MAIN = "python -m vlt.main"
MINE = (
    f"{MAIN} --config=configs/tempme.py:own --workdir=runs/mine "
    "--config.data.train.manifest=my/videos.jsonl --config.evals.own.manifest=my/held_out.jsonl"
)
SWEPT = (
    "vlt train --config=tempme --workdir=runs/lion --config.optimizer.name=lion "
    "--config.optimizer.lion.b2=0.95 --sweep=optimizer.lr=3e-4,1e-3 --sweep=model.tempme.r=0,1"
)
ONE_ROUND = "--rounds=1 --batch=1"
ONE_FRAME = f"{ONE_ROUND} --config.model.frames=1"

CASES: dict[str, Case] = {
    # README.md
    f"{MAIN} --config=configs/btadapter.py": run(f"{MAIN} --config=configs/btadapter.py {SHAPES}"),
    f"{MAIN} --config=configs/tempme.py": run(f"{MAIN} --config=configs/tempme.py {SHAPES}"),
    f"{MAIN} --config=configs/token_mixing.py": run(
        f"{MAIN} --config=configs/token_mixing.py {ALONE}"
    ),
    f"{MAIN} --config=configs/msta.py": run(
        f'{MAIN} --config=configs/msta.py {ALONE} --config.repeats="()"'
    ),
    SWEPT: run(f"{SWEPT} {SHAPES}", "grep 'lr=0.001, r=1' runs/lion/results.md"),
    "vlt train --config=btadapter --help": run("vlt train --config=btadapter --help"),
    "python -m pytest -n auto --dist loadfile": skipped("this is one of its tests"),
    "python -m pytest -m smoke": skipped("it runs some of these tests"),
    'python -m pytest -n auto --dist loadfile -m ""': skipped("this is one of its tests"),
    "python tests/faults.py --count=100 --seed=0": run("python -m faults --count=1 --seed=0"),
    f"{MAIN} --config=configs/X.py[:variant] [--workdir=DIR] [--mode=train|eval] "
    "[--config.key=value]": run(
        f"{MAIN} --config=configs/btadapter.py --workdir=runs/btadapter --mode=eval {SHAPES}"
    ),
    "python -m vlt.convert SRC DST [--set key=value] [--tokenizer DIR]": run(
        "python -m vlt.convert clip-vit-base-patch32 checkpoints/again --set text.context=32 "
        "--tokenizer path/to/clip-vit-large-patch14",
        "python -m vlt.convert checkpoints/again back --reverse",
    ),
    "vlt train": run("vlt train --help"),
    "vlt convert checkpoints/llava_7b --chat=llava --llm=LLaMA-7B "
    "--delta=LLaVA-Lightning-7B-delta-v1-1 --vision=clip-vit-large-patch14 "
    "--branch=btadapter_weight.bin --connector=mm_projector.bin": skipped(
        "there is no 7B; tests/convert/layouts/test_chat_layouts.py puts small models together"
    ),
    "vlt convert checkpoints/llava_7b vicuna --reverse --part=llm": skipped("as above"),
    "vlt convert": run("vlt convert --help"),
    "vlt --help": run("vlt --help"),
    "vlt checkpoints": run("vlt checkpoints", "vlt checkpoints --json"),
    "python -m vlt.checkpoints [NAME] [--verify FILE] [--json]": run(
        "python -m vlt.checkpoints clip_l14 --json"
    ),
    "python -m vlt.inspect --config=... [--json]": run(f"python -m vlt.inspect {TINY} --json"),
    "python -m vlt.inspect --config=... --leaves": run(f"python -m vlt.inspect {TINY} --leaves"),
    "python -m vlt.inspect --config=... --topology=v5e:2x4 [--batch=N] --traffic": run(
        f"python -m vlt.inspect {TINY} --topology=v5e:2x4 --batch=8 --traffic", needs="libtpu"
    ),
    "python -m vlt.inspect --config=... --topology=v5e:16x16 [--batch=N]": run(
        f"python -m vlt.inspect {TINY} --topology=v5e:16x16 --batch=256", needs="libtpu"
    ),
    "python -m vlt.bench --config=... [--against=...] [--peer=torch] [--json]": run(
        f"python -m vlt.bench {TINY} --against=configs/tempme.py --rounds=1 --peer=torch --json "
        "--nostep"
    ),
    "python -m vlt.export --workdir=DIR OUT [--merge] [--average=FIRST:LAST] [--blend=MODEL:SHARE] "
    "[--format=orbax|safetensors|stablehlo|huggingface]": run(
        "python -m vlt.export --workdir=runs/tempme exported --merge",
    ),
    "python -m vlt.draw --config=... VIDEO --out=DIR": run(
        f"python -m vlt.draw {TINY} {VIDEO} --out=pictures"
    ),
    **{
        "python -m data_pipelines.{" + names + "} --annotations ... --videos DIR --out DIR": run(
            *(f"python -m data_pipelines.{name} --help" for name in names.split(","))
        )
        for names in (
            "msrvtt,msrvtt_captions,msrvtt_qa,msvd,vatex,lsmdc,didemo,activitynet",
            "kinetics,hmdb51,ucf101,ssv2",
        )
    },
    "python -m data_pipelines.video_instruct --annotations FILE --videos DIR --out DIR": run(
        "python -m data_pipelines.video_instruct --help"
    ),
    # These need weights that are not available here.
    **{
        f"python -m {module} {arguments}": run(f"python -m {module} --help")
        for module, arguments in (
            (
                "data_pipelines.video_instruct",
                "--annotations VideoInstruct100K.json --videos videos/ --out data/video_instruct",
            ),
            (
                "data_pipelines.features",
                "data/video_instruct/train.jsonl --model checkpoints/llava_7b "
                "--out data/video_instruct_features --frames 100 --sampler conversation_middle",
            ),
            (
                "vlt.main",
                "--config=configs/video_chat.py:llava_tune "
                "--config.data.train.manifest=data/video_instruct_features/manifest.jsonl",
            ),
        )
    },
    "python -m data_pipelines.features MANIFEST --model=DIR --out=DIR [--frames=T]": run(
        "python -m data_pipelines.features --help"
    ),
    "python -m data_pipelines.{folder_per_class,few_shot,base_to_novel} ...": run(
        "python -m data_pipelines.folder_per_class classes labelled.jsonl",
        "python -m data_pipelines.few_shot labelled.jsonl few.jsonl --shots 1 --seed 1",
        "python -m data_pipelines.base_to_novel labelled.jsonl parted",
    ),
    "python -m data_pipelines.check MANIFEST [--sha256 OUT]": run(
        "python -m data_pipelines.check my/videos.jsonl"
    ),
    "python -m data_pipelines.shards --manifest=M --out=DIR --form=clips|frames": run(
        "python -m data_pipelines.shards --manifest=my/videos.jsonl --out=sharded --form=clips",
        needs="apache_beam",
    ),
    "python -m data_pipelines.describe_actions --labels FILE --endpoint URL --out DIR": run(
        "python -m data_pipelines.describe_actions --help"
    ),
    "python -m vlt.caption VIDEO... [--model=DIR | --workdir=DIR] [--prompt=TEXT] [--set beams=5] "
    "[--json]": run(f"python -m vlt.caption {VIDEO} --model=tiny_blip --set beams=2 --json"),
    "python -m vlt.chat VIDEO... --model=DIR [--ask TEXT] [--json]": run(
        f"python -m vlt.chat {VIDEO} --model=tiny_chat --ask 'what do you see ?' --json"
    ),
    "python -m vlt.embed VIDEO... --model=DIR --out=INDEX [--window=4s|shots|whole] [--stride=2s] "
    "[--dtype=float16|float32|int8] [--export=FILE] [--json]": run(
        "python -m vlt.embed my/videos --model=tiny_clip --out=all --window=1s --stride=1s --json "
        "--export=all.npz",
        needs="lancedb",
    ),
    "python -m vlt.search QUERY... --index=INDEX [--video=FILE] [--image=FILE] [--where=SQL] "
    "[--calibrate] [--json]": run(
        f"python -m vlt.search 'a circle' --index=all --video={VIDEO} --where='start < 1' --json",
        needs="lancedb",
    ),
    "python -m vlt.serve --index=INDEX [--chat=DIR] [--port=8080] "
    "[--host=ADDRESS --token=SECRET]": skipped(
        "runs until it is stopped; tests/serving has what it answers"
    ),
    "python -m vlt.embed --commit --out=INDEX": run(
        "python -m vlt.embed my/videos --model=tiny_clip --out=parted --shard=0/1",
        "python -m vlt.embed --commit --out=parted",
        needs="lancedb",
    ),
    "python -m vlt.adapt --videos=DIR --captions=FILE --model=DIR --out=DIR "
    "[--method=tempme|lora|btadapter] [--group=COLUMN] [--dry-run] [--json]": run(
        "python -m vlt.adapt --videos=my --captions=my/videos.jsonl --model=tiny_clip --out=lora "
        "--method=lora --steps=2 --batch=4 --json"
    ),
    "vlt adapt --videos=my --captions=my/videos.jsonl --model=tiny_clip --method=btadapter "
    "--out=my/adapted": run(
        "vlt adapt --videos=my --captions=my/videos.jsonl --model=tiny_clip --method=btadapter "
        "--out=my/adapted --dry-run"
    ),
    "python -m data_pipelines.pack MANIFEST": run(
        "python -m data_pipelines.pack my/held_out.jsonl"
    ),
    **{
        f"vlt embed {rest} --out=my/shared{shard}": run(
            f"vlt embed {rest} --out=my/shared{shard}", needs="lancedb"
        )
        for rest, shard in (
            ("my/videos --model=tiny_clip", " --shard=0/2"),
            ("my/videos --model=tiny_clip", " --shard=1/2"),
            ("--commit", ""),
        )
    },
    "vlt serve --index=my/index": skipped("as above"),
    "python -m vlt.cut RANGES|VIDEO --out=DIR [--start=S --end=S] [--json]": run(
        f"python -m vlt.cut {VIDEO} --out=found --start=0 --end=1 --json"
    ),
    'vlt search "a red circle" --index=my/index --json > found.jsonl': run(
        'vlt search "a red circle" --index=my/index --json > found.jsonl', needs="lancedb"
    ),
    "vlt cut found.jsonl --out=found": run("vlt cut found.jsonl --out=found", needs="lancedb"),
    "python -m vlt.classify VIDEO... --model=DIR --labels=FILE|A,B,C [--template=TEXT] "
    "[--csv | --json]": run(
        "python -m vlt.classify my/videos --model=tiny_clip --labels=circle,square "
        "--template='a red {}' --csv"
    ),
    "python -m vlt.score PREDICTIONS REFERENCES [--intersection] [--json]": run(
        "python -m vlt.score PREDICTIONS.json REFERENCES.json --json",
        f"python -m vlt.caption {VIDEO} --json > captions.jsonl",
        "python -m vlt.score captions.jsonl my/videos.jsonl --intersection",
    ),
    "python -m vlt.judge --qa|--generic|--temporal|--consistency PREDICTIONS REFERENCES --out=DIR "
    "[--endpoint=URL | --command=LINE | --replay=FILE]": run("python -m vlt.judge --help"),
    "python -m vlt.study [--claims=NAME,...] [--seeds=3] [--out=DIR] [--quick]": run(
        "python -m vlt.study --claims=chat --plan --out=claims"
    ),
    "vlt study": skipped("takes hours; tests/study runs two rows"),
    "vlt study --list": run("vlt study --list"),
    "vlt study --quick": run("vlt study --quick --plan"),
    "python -m data_pipelines.moving_shapes --out DIR --count N": run(
        "python -m data_pipelines.moving_shapes --out shapes --count 2"
    ),
    **{
        f"python -m vlt.convert {arguments}": run(f"python -m vlt.convert {arguments}{replaced}")
        for arguments, replaced in {
            "path/to/clip-vit-large-patch14 checkpoints/clip_l14": "",
            # The same model in another layout.
            "ViT-L-14.pt checkpoints/clip_l14 --tokenizer bpe_simple_vocab_16e6.txt.gz": (
                " --overwrite"
            ),
            "clip-vit-base-patch32 checkpoints/clip_b32": " --overwrite",
            "clip-vit-base-patch32 checkpoints/viclip_of_clip --set visual.temporal_frames=8": "",
            "viclip_b16.pth checkpoints/viclip_b16 --tokenizer bpe_simple_vocab_16e6.txt.gz": (
                " --overwrite"
            ),
            "model_base_caption_capfilt_large.pth checkpoints/blip_caption_b16 "
            "--tokenizer bert-base-uncased --set visual.image_size=224": "",
        }.items()
    },
    f"{MAIN} --config=configs/btadapter.py:webvid_l14": run(
        f"{MAIN} --config=configs/btadapter.py:webvid_l14 {PUBLISHED}",
        "python -m vlt.export --workdir=runs/btadapter-webvid_l14 btadapter",
    ),
    f"{MAIN} --config=configs/tempme.py:msrvtt_b32": run(
        f'{MAIN} --config=configs/tempme.py:msrvtt_b32 {STEPS} --config.compare="()" '
        "--config.train.best_metric= --config.model.size= --config.evals.msrvtt.batch_size=4 "
        "--config.evals.msrvtt.allow_subset=True"
    ),
    f"{MAIN} --config=configs/btadapter_zeroshot.py:msrvtt --config.model.checkpoint=DIR": run(
        f"{MAIN} --config=configs/btadapter_zeroshot.py:msrvtt --config.model.checkpoint=btadapter "
        "--config.evals.msrvtt.allow_subset=True --config.model.size= --workdir=runs/exported"
    ),
    "python -m vlt.caption my/video.mp4 --model=checkpoints/blip_caption_b16": run(
        f"python -m vlt.caption {VIDEO} --model=checkpoints/blip_caption_b16"
    ),
    "vlt embed my/videos --model=tiny_branch --out=my/index": run(
        "vlt embed my/videos --model=tiny_branch --out=my/index", needs="lancedb"
    ),
    'vlt search "a red circle moves left" --index=my/index --calibrate': run(
        'vlt search "a red circle moves left" --index=my/index --calibrate', needs="lancedb"
    ),
    'vlt classify my/videos --model=tiny_branch --labels="a red circle,a blue square"': run(
        'vlt classify my/videos --model=tiny_branch --labels="a red circle,a blue square"'
    ),
    # The README converts this checkpoint below the command that trains on it.
    MINE: run(
        "python -m vlt.convert clip-vit-base-patch32 checkpoints/clip_b32",
        f"{MINE} {STEPS} --config.model.size=",
        "grep own_data runs/mine/results.json",
    ),
    "vlt eval --workdir=runs/mine --config.evals.own.manifest=my/others.jsonl": run(
        "vlt eval --workdir=runs/mine --config.evals.own.manifest=my/videos.jsonl"
    ),
    "python -m data_pipelines.check ... --sha256=OUT": run(
        "python -m data_pipelines.check my/train.csv --sha256=my/sums.csv"
    ),
    f"{MAIN} --config=configs/msta.py:own --workdir=runs/actions "
    "--config.data.train.manifest=my/train.csv --config.evals.own.manifest=my/test.csv": run(
        "python -m vlt.convert viclip_b16.pth checkpoints/viclip_b16 "
        "--tokenizer bpe_simple_vocab_16e6.txt.gz",
        f"{MAIN} --config=configs/msta.py:own --workdir=runs/actions "
        "--config.data.train.manifest=my/train.csv --config.evals.own.manifest=my/test.csv "
        f"{STEPS} --config.evals.own.batch_size=4 --config.model.size=",
    ),
    "python -m launch.local --processes=N -- ARGUMENTS": run(
        "python -m launch.local --processes=2 --dry-run -- --config=configs/msta.py --workdir=two"
    ),
    # configs/README.md
    **{
        f"python -m vlt.inspect --config=configs/tempme.py:msrvtt_b32{end}": run(
            f"python -m vlt.inspect --config=configs/tempme.py:msrvtt_b32{end} --config.model.size="
        )
        for end in ("", " --leaves")
    },
    # benchmarks/RESULTS.md
    f"{MAIN} --config=configs/tempme.py --config.train.steps=60 --config.train.log_every=20 "
    '--config.evals="{}" --config.compare="()" --config.train.best_metric=': run(
        f"{MAIN} {TINY} {STEPS} --config.evals={{}} "
        '--config.compare="()" --config.train.best_metric= --workdir=runs/heap'
    ),
    "python -m vlt.bench --config=configs/clip.py:b16 --peer=torch --nostep": run(
        f"python -m vlt.bench --config=configs/clip.py:b16 --peer=torch --nostep {ONE_FRAME}"
    ),
    "python -m vlt.bench.viclip": run(f"python -m vlt.bench.viclip {ONE_ROUND} --frames=2"),
    "python -m vlt.bench --config=configs/msta.py:base2novel_k400 "
    "--against=configs/msta.py:base2novel_k400_frozen --nostep --batch=1 --rounds=7": run(
        "python -m vlt.bench --config=configs/msta.py:base2novel_k400 "
        f"--against=configs/msta.py:base2novel_k400_frozen --nostep {ONE_ROUND}"
    ),
    "python -m vlt.bench.metrics": run("python -m vlt.bench.metrics --number=500 --checked=200"),
    "python -m vlt.bench.manifest": run("python -m vlt.bench.manifest --rows=1000"),
    "python -m vlt.bench.search --exact 200000 --graph 50000": run(
        "python -m vlt.bench.search --exact 1000 --graph 1000 --queries 2"
    ),
    "python -m vlt.bench.embedding VIDEO... --model=tiny_clip": run(
        f"python -m vlt.bench.embedding {VIDEO} --model=tiny_clip --videos=2 --rounds=1"
    ),
    "python -m pytest tests/merging/test_merge_kernel.py -m slow -k moves -s": skipped(
        "it runs one of these tests"
    ),
    "python -m vlt.bench.shards VIDEO...": run(
        f"python -m vlt.bench.shards {VIDEO} --rounds=1", needs="apache_beam"
    ),
    # This converts a 7B model; tests/bench/test_bench_conversion.py has a small one.
    "python -m vlt.bench.conversion TOKENIZER": run("python -m vlt.bench.conversion --help"),
    "python -m vlt.bench.damaged_videos FOLDER": run(
        "python -m vlt.bench.damaged_videos my/videos --count=4 --decodes=0"
    ),
    "JAX_OPTIMIZATION_LEVEL=O1 python -m vlt.bench.slices --config=configs/msta.py:base2novel_k400 "
    "... --topology=v5e:2x4 ... --out=FILE": run(
        f"JAX_OPTIMIZATION_LEVEL=O1 python -m vlt.bench.slices {TINY} --topology=v5e:2x4 --out=one",
        needs="libtpu",
    ),
    # Runs are harmed in tests/bench/test_bench_failures.py.
    "python -m vlt.bench.failures --workdir=DIR": run("python -m vlt.bench.failures --help"),
    "python -m vlt.bench --config=configs/tempme.py:msrvtt_b16 "
    "--against=configs/tempme.py:msrvtt_b16_lora --against=configs/tempme.py:msrvtt_b16_tome "
    "--nostep --batch=4 --rounds=4 --nocls_only": run(
        "python -m vlt.bench --config=configs/tempme.py:msrvtt_b16 "
        "--against=configs/tempme.py:msrvtt_b16_lora --against=configs/tempme.py:msrvtt_b16_tome "
        f"--nostep --nocls_only {ONE_ROUND}"
    ),
    "python -m vlt.bench --config=configs/tempme.py:msrvtt_b16_full_tempme "
    "--against=configs/tempme.py:msrvtt_b16_full --noforward --batch=2": run(
        "python -m vlt.bench --config=configs/tempme.py:msrvtt_b16_full_tempme "
        f"--against=configs/tempme.py:msrvtt_b16_full --noforward {ONE_ROUND}"
    ),
    "python -m vlt.bench.mixing --rounds 9": run("python -m vlt.bench.mixing --rounds 1"),
    "python -m vlt.bench.generation": run(
        f"python -m vlt.bench.generation {ONE_ROUND} --frames=1 --length=4"
    ),
    "python -m vlt.bench --config=configs/btadapter.py:bench --batch=4": run(
        f"python -m vlt.bench --config=configs/btadapter.py:bench {ONE_FRAME}"
    ),
    "python -m vlt.bench.input VIDEO...": run(
        f"python -m vlt.bench.input {VIDEO} --clips=4 --size=32"
    ),
    **{
        f"{MAIN} --config=configs/{name}.py": run(f"{MAIN} --config=configs/{name}.py {ALONE}")
        for name in ("tiny_viclip", "tiny_blip", "tiny_clip")
    },
    # launch/README.md
    **{
        f"python -m launch.{name}": run(f"python -m launch.{name} --help")
        for name in ("tpu_vm", "gke", "slurm", "local")
    },
    MAIN: run(f"{MAIN} --help | grep workdir"),
    "python -m vlt.inspect --config=configs/btadapter.py:webvid_l14 --topology=v5e:4x4": run(
        "python -m vlt.inspect --config=configs/btadapter.py:webvid_l14 --topology=v5e:4x4 "
        "--config.model.size=",
        needs="libtpu",
    ),
    "python -m launch.local --processes=2 -- --config=configs/btadapter.py --workdir=runs/two": run(
        "python -m launch.local --processes=2 -- --config=configs/btadapter.py --workdir=runs/two "
        f"{ALONE}",
        "test -s runs/two/logs/process-1.txt",
    ),
    # data_pipelines/README.md
    "python -m data_pipelines.NAME --help": run("python -m data_pipelines.msrvtt --help"),
    "python -m data_pipelines.check data/msrvtt/train_9k.jsonl "
    "--sha256=data/msrvtt/train_9k_sums.jsonl": run(
        "python -m data_pipelines.check data/msrvtt/train_9k.jsonl "
        "--sha256=data/msrvtt/train_9k_sums.jsonl"
    ),
    "python -m data_pipelines.shards --manifest=data/msrvtt/train_9k.jsonl "
    "--out=data/msrvtt_frames --form=frames --short-side=224 --fps=3": run(
        "python -m data_pipelines.shards --manifest=data/msrvtt/train_9k.jsonl "
        "--out=data/msrvtt_frames --form=frames --short-side=224 --fps=3",
        needs="apache_beam",
    ),
    f"{MAIN} --config=... --config.data.train.manifest=data/msrvtt_frames/manifest.jsonl": run(
        f"{MAIN} --config=configs/tempme.py:msrvtt_b32 --workdir=runs/shards "
        "--config.data.train.manifest=data/msrvtt_frames/manifest.jsonl "
        f"{PUBLISHED}",
        needs="apache_beam",
    ),
    "python -m data_pipelines.shards --manifest=data/webvid2m/train.jsonl "
    "--videos=gs://BUCKET/webvid --out=gs://BUCKET/webvid_clips --form=clips --short-side=256 "
    "--fps=5 --max-broken=0.02 --runner=DataflowRunner --project=PROJECT --region=REGION "
    "--temp_location=gs://BUCKET/tmp "
    "--sdk_container_image=REGION-docker.pkg.dev/PROJECT/vlt/beam --max_num_workers=200 "
    "--number_of_worker_harness_threads=2": skipped("needs Google Cloud"),
    # docs/
    # This writes into the checkout; tests/test_reference.py checks what it writes.
    "python -m docs": run("python -m docs --help"),
    "python -m docs --site": run("python -m docs --help"),
    "vlt train --config=NAME --help": run("vlt train --config=tempme --help"),
    "vlt eval": run("vlt eval --help"),
    "vlt export": run("vlt export --help"),
    "vlt checkpoints --verify FILE": skipped("tests/test_checkpoints_command.py"),
    # Notebooks
    "python -m data_pipelines.folder_per_class": run(
        "python -m data_pipelines.folder_per_class --help"
    ),
    "python -m data_pipelines.describe_actions --labels classes.txt --endpoint URL --out DIR": run(
        "python -m data_pipelines.describe_actions --help"
    ),
    "vlt caption": run("vlt caption --help"),
    "vlt train --config=token_mixing": run(
        f"vlt train --config=token_mixing --workdir=runs/captions {ALONE}"
    ),
    "vlt train --config=video_chat": run(
        'vlt train --config=video_chat --workdir=runs/video_chat_again --config.compare="()" '
        '--config.evals="{}" --config.train.steps=2 --config.data.train.batch_size=4 '
        "--config.data.train.manifest=moving_shapes:clips:train:16:questions.jsonl"
    ),
    "vlt chat VIDEO... --model=runs/chat_model": run(
        f"echo 'what do you see ?' | vlt chat {VIDEO} --model=tiny_chat"
    ),
    "vlt convert --chat": run("vlt convert --help"),
    "vlt checkpoints llava_7b": run("vlt checkpoints llava_7b"),
    "vlt convert path/to/clip-vit-large-patch14 checkpoints/clip_l14": run(
        "vlt convert path/to/clip-vit-large-patch14 checkpoints/clip_l14 --overwrite"
    ),
    "vlt draw --config=tempme VIDEO --out=DIR": run(
        f"vlt draw --config=tempme {VIDEO} --out=drawn"
    ),
    "vlt draw --config=tempme:msrvtt_b16 VIDEO --out=DIR": run(
        f"vlt draw --config=tempme:msrvtt_b16 {VIDEO} --out=drawn --random"
    ),
}
CASES |= {
    f"{MAIN} --config=configs/{name}": skipped("made once; tests/test_configs.py builds its config")
    for name in ("tiny_chat.py:words", "tiny_chat.py")
}
CASES |= PAPERS
