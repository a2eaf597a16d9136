"""What is read from a compiled program's text, written by hand or by XLA."""

import pytest
from helpers import run_python

from vlt.costs import hlo

TEXT = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,512]{1,0})->f32[]}

%fused (param_0: f32[8,512]) -> f32[8,512] {
  %param_0 = f32[8,512]{1,0:T(8,128)} parameter(0)
  ROOT %double = f32[8,512]{1,0:T(8,128)} add(%param_0, %param_0)
}

%body (state: (s32[], bf16[4,16])) -> (s32[], bf16[4,16]) {
  %state = (s32[]{:T(128)}, bf16[4,16]{1,0}) parameter(0)
  %rows = bf16[4,16]{1,0} get-tuple-element(%state), index=1
  %all-gather.1 = bf16[32,16]{1,0:T(8,128)S(1)} all-gather(%rows), channel_id=1, dimensions={0}
  ROOT %next = (s32[]{:T(128)}, bf16[4,16]{1,0}) tuple(%rows, %rows)
}

ENTRY %main (x: f32[8,512], y: (s32[], bf16[4,16])) -> f32[] {
  %x = f32[8,512]{1,0:T(8,128)} parameter(0)
  %y = (s32[]{:T(128)}, bf16[4,16]{1,0}) parameter(1)
  %copy-start = (f32[8,512]{1,0:T(8,128)S(1)}, f32[8,512]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %copy-done = f32[8,512]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %fusion = f32[8,512]{1,0:T(8,128)} fusion(%copy-done), kind=kLoop, calls=%fused
  %while = (s32[]{:T(128)}, bf16[4,16]{1,0}) while(%y), condition=%condition, body=%body
  %sum-start = (f32[], pred[4,4]) all-reduce-start(%fusion), to_apply=%add
  ROOT %sum-done = f32[] all-reduce-done(%sum-start)
}
"""  # noqa: E501


def test_bytes_of_shapes():
    assert hlo.nbytes("f32[8,512]{1,0:T(8,128)}") == 4 * 8 * 512
    assert hlo.nbytes("(bf16[3]{0}, pred[5], s4[8], u32[])") == 6 + 5 + 4 + 4
    assert hlo.nbytes("f8e4m3fn[16]{0}") == 16
    assert hlo.nbytes("(f32[4]{0:T(128)S(1)}, f32[2]{0})", main_memory=True) == 8


def test_loops_are_entered_and_fusions_are_not():
    opcodes = [i.opcode for i in hlo.executed(hlo.parse(TEXT))]
    assert opcodes.count("all-gather") == 1
    assert "add" not in opcodes


def test_collectives():
    assert hlo.collectives(hlo.parse(TEXT)) == {
        "all-gather": {"count": 1, "bytes": 32 * 16 * 2},
        "all-reduce": {"count": 1, "bytes": 4 * 4},
    }


def test_memory_traffic_is_what_touches_main_memory():
    # x is read once by the copy; the fusion writes it; the gather reads its rows. What lies on the
    # chip is free, and an asynchronous reduction counts once.
    gathered = 4 * 16 * 2
    assert hlo.memory_traffic(hlo.parse(TEXT)) == 2 * (4 * 8 * 512) + gathered + 4 * 4


@pytest.mark.parametrize("devices", [2, 8])
def test_a_sum_over_devices_is_one_all_reduce(devices):
    code = """
        import jax, jax.numpy as jnp
        from jax.sharding import NamedSharding, PartitionSpec as P
        from vlt.costs import hlo
        mesh = jax.make_mesh((len(jax.devices()),), ("data",))
        x = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=NamedSharding(mesh, P("data")))
        compiled = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, P())).lower(x)
        print(hlo.collectives(hlo.parse(compiled.compile().as_text())))
    """
    found = run_python(code, devices=devices)
    assert found.strip() == str({"all-reduce": {"count": 1, "bytes": 4 * 128}})


MOVES = """\
HloModule jit_step, is_scheduled=true

%look_up (param_0: f32[1000,8], param_1: s32[4]) -> f32[4,8] {
  %param_1 = s32[4]{0:T(128)} parameter(1)
  %param_0 = f32[1000,8]{1,0:T(8,128)} parameter(0)
  %bitcast = f32[1000,8]{1,0:T(8,128)} bitcast(%param_0)
  ROOT %gather.1 = f32[4,8]{1,0:T(8,128)} gather(%bitcast, %param_1), slice_sizes={1,8}
}

%body (state: f32[4,8]) -> f32[4,8] {
  %state = f32[4,8]{1,0:T(8,128)} parameter(0)
  ROOT %twice.3 = f32[4,8]{1,0:T(8,128)} add(%state, %state)
}

ENTRY %main (table: f32[1000,8], ids: s32[4]) -> f32[4,8] {
  %table = f32[1000,8]{1,0:T(8,128)} parameter(0)
  %ids = s32[4]{0:T(128)} parameter(1)
  %fusion.7 = f32[4,8]{1,0:T(8,128)} fusion(%table, %ids), kind=kLoop, calls=%look_up
  %slice.2 = f32[2,8]{1,0:T(8,128)} slice(%table), slice={[0:2], [0:8]}
  %attention_forward.5 = f32[4,8]{1,0:T(8,128)} custom-call(%fusion.7, %slice.2), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"cost_estimate":{"flops":"640","bytes_accessed":"0"}}}
  ROOT %while.4 = f32[4,8]{1,0:T(8,128)} while(%attention_forward.5), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""  # noqa: E501


def test_what_each_kind_of_instruction_moves():
    row = 4 * 8
    found = {each["kind"]: each for each in hlo.traffic(hlo.parse(MOVES))}
    # Counts the rows that are looked up in the table, their indices, and the output.
    assert found["fusion"] == {"kind": "fusion", "count": 1, "bytes": 4 * row + 4 * 4 + 4 * row}
    assert found["slice"]["bytes"] == 2 * row + 2 * row
    # A kernel reads each operand once and writes its result; a loop's body runs three times.
    assert found["attention_forward"]["bytes"] == 4 * row + 2 * row + 4 * row
    assert found["twice"] == {"kind": "twice", "count": 3, "bytes": 3 * 2 * 4 * row}
    assert hlo.memory_traffic(hlo.parse(MOVES)) == sum(each["bytes"] for each in found.values())
    assert hlo.kernels(hlo.parse(MOVES)) == {"attention_forward": {"count": 1, "operations": 640}}
