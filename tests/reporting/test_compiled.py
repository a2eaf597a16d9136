"""What is printed of a program compiled for a slice, from reports made by hand."""

from vlt.reporting.compiled import TOLD, format_compiled, format_traffic

BOTH = {
    "program": "training step",
    "topology": "v5e:2x4",
    "chips": 8,
    "mesh": {"data": 4, "fsdp": 2},
    "batch": 32,
    "batch_asked": 30,
    "compile_s": 41.4,
    "flops": 2.5e12,
    "bytes": {"parameters": 12e6, "activations": 3.25e9},
}
FITS = BOTH | {
    "fits": True,
    "hbm_bytes_of_chip": 16e9,
    "collectives": {"all-reduce": {"bytes": 5e6, "count": 3}},
    "kernels": {"attention": 12, "merge": 2},
    "roofline": {
        "compute_s": 0.0125, "memory_s": 0.01, "network_s": 0.0004, "step_s": 0.0128,
        "bound_by": "compute", "utilisation": 0.974,
    },
    "remat": {
        "none": {"fits": False},
        "block": {"fits": True, "step_s": 0.0131, "hbm_bytes_per_device": 2e9},
        "dots": {"fits": True, "step_s": 0.0129, "hbm_bytes_per_device": 4e9},
    },
    "best_remat": "dots",
}  # fmt: skip
HEAD = [
    "training step on v5e:2x4: 8 chips, mesh data=4, fsdp=2",
    "batch                       32 videos (rounded up from 30 to a multiple of the parts)",
    "compiled in                 41 s",
    "operations, each chip       2.500 T",
    "memory of each chip:",
    "  parameters                0.012 GB",
    "  activations               3.250 GB",
]


def test_a_step_that_fits():
    assert format_compiled(FITS).splitlines() == [
        *HEAD,
        "fits                        in 16.000 GB",
        "collectives of each chip:",
        "  all-reduce                0.005 GB in 3 calls",
        "kernels                     attention 12 times, merge 2 times",
        "at the chip's peaks         compute 12.50, memory 10.00, network 0.40 ms",
        "step, at the least          12.80 ms, by compute",
        "utilisation, at the most    97%",
        "model.remat=none            does not fit",
        "model.remat=block           13.10 ms at the least, 2.000 GB",
        "model.remat=dots            12.90 ms at the least, 4.000 GB, the best",
    ]
    assert "kernels                     none\n" in format_compiled(FITS | {"kernels": {}})
    as_asked = format_compiled(FITS | {"batch_asked": 32}).splitlines()
    assert as_asked[1] == "batch                       32 videos"


def test_a_step_that_does_not_fit():
    report = BOTH | {"fits": False, "compiler": "Ran out of memory.", "knobs": ["--batch=16"]}
    assert format_compiled(report).splitlines() == [
        *HEAD,
        "does not fit: Ran out of memory.",
        "what would help, the cheapest first:",
        "  --batch=16",
    ]


def test_a_table_of_traffic_sums_up_what_it_leaves_out():
    kinds = [{"kind": f"fusion {i}", "count": 2000, "bytes": 2e9} for i in range(TOLD)]
    rest = [{"kind": "copy", "count": 1, "bytes": 4e9}, {"kind": "send", "count": 1, "bytes": 6e9}]
    head, first, *_, others = format_traffic({"traffic": kinds + rest}).splitlines()
    assert head.split() == ["instructions", "times", "GB", "share"]
    assert first.split() == ["fusion", "0", "2,000", "2.000", "4.0%"]
    assert others.split() == ["others", "10.000", "20.0%"]
    assert len({len(line) for line in (head, first, others)}) == 1
