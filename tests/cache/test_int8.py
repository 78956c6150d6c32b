"""int8 at rest: error bounds, exact zeros, refusals."""

import pytest
import torch

from voco_video.cache.int8 import dequantize, quantize
from voco_video.errors import CacheError

KV_SHAPE = (3, 2, 4, 2, 16)  # [F, layers, kv_heads, K, head_dim]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [KV_SHAPE, (5, 2, 24)])
def test_error_is_at_most_half_a_step_of_each_row(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape, generator=torch.manual_seed(0)) * torch.rand(shape[:-1]).unsqueeze(-1)).to(dtype)
    stored = quantize({"x": tensor})
    assert stored["x.int8"].dtype == torch.int8
    assert stored["x.int8"].shape == shape
    assert stored["x.scale"].dtype == torch.float32
    assert stored["x.scale"].shape == shape[:-1]
    error = (dequantize(stored, dtype=torch.float32)["x"] - tensor.float()).abs()
    half_a_step = tensor.float().abs().amax(-1, keepdim=True) / 254
    assert (error <= half_a_step * 1.001).all()


def test_rows_are_scaled_independently() -> None:
    tensor = torch.tensor([[1e-6, -1e-6], [1e6, -1e6]])
    torch.testing.assert_close(dequantize(quantize({"x": tensor}), dtype=torch.float32)["x"], tensor)


def test_quantizing_twice_changes_nothing_more() -> None:
    stored = quantize({"x": torch.randn(KV_SHAPE, generator=torch.manual_seed(1))})
    again = quantize(dequantize(stored, dtype=torch.float32))
    assert torch.equal(stored["x.int8"], again["x.int8"])
    torch.testing.assert_close(stored["x.scale"], again["x.scale"])


def test_zero_and_denormal_rows_are_safe() -> None:
    tensor = torch.zeros(3, 4)
    tensor[1] = 1e-44
    restored = dequantize(quantize({"x": tensor}), dtype=torch.float32)["x"]
    assert torch.equal(restored[0], torch.zeros(4))
    assert (restored - tensor).abs().max() <= 1e-43


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_largest_finite_values_survive(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    tensor = torch.tensor([[largest, -largest]], dtype=dtype)
    restored = dequantize(quantize({"x": tensor}), dtype=dtype)["x"]
    assert torch.isfinite(restored).all()
    torch.testing.assert_close(restored, tensor)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_values_are_refused_by_name(value: float) -> None:
    tensor = torch.zeros(2, 4)
    tensor[1, 2] = value
    with pytest.raises(CacheError, match=r"'keys'.*NaN or infinite"):
        quantize({"keys": tensor})


def test_only_named_and_only_float_tensors_are_quantized() -> None:
    tensors = {"x": torch.randn(2, 4), "y": torch.randn(2, 4), "ids": torch.arange(2)}
    stored = quantize(tensors, names=["x"])
    assert stored.keys() == {"x.int8", "x.scale", "y", "ids"}
    assert quantize(tensors).keys() == {"x.int8", "x.scale", "y.int8", "y.scale", "ids"}
    restored = dequantize(stored, dtype=torch.float16)
    assert restored["x"].dtype == torch.float16
    assert restored["y"] is tensors["y"]


@pytest.mark.parametrize(
    "tensors",
    [{"x.int8": torch.zeros(2, 4)}, {"x": torch.zeros(2)}],
    ids=["quantized already", "no rows"],
)
def test_what_cannot_be_quantized_is_refused(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CacheError):
        quantize(tensors)


def test_incomplete_or_mismatched_pairs_are_refused() -> None:
    stored = quantize({"x": torch.randn(2, 3, 4)})
    for name in stored:
        with pytest.raises(CacheError, match="needs both"):
            dequantize({name: stored[name]}, dtype=torch.float32)
    with pytest.raises(CacheError, match="does not go with"):
        dequantize({**stored, "x.scale": stored["x.scale"][:1]}, dtype=torch.float32)
