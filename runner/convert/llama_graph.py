"""The graph of llama and related models in OpenVINO's operations, with our own matrix products.

OpenVINO turns key and value states around `ScaledDotProductAttention` into paged attention. Our products include the
operations around them (norms, the gate, the residual sum), and the rotary embedding is one operation: each node that
this saves need not be compiled at every start nor dispatched in every pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.utils.node_factory import NodeFactory

from runner.convert.grouped import Grouped, join
from runner.convert.llama_shape import Shape, Weights
from runner.convert.weights import Array
from runner.engine import ModelUnfit
from runner.kernels import LIBRARY

_MASKED = -65504.0


def build(shape: Shape, weights: Weights) -> Any:
    """Build an `openvino.Model` that keeps its keys and values as states.

    Its inputs are input_ids, attention_mask, position_ids ([batch, tokens], int64) and beam_idx ([batch], int32); its
    output is logits ([batch, tokens, vocabulary], float32).

    The model computes logits for the indices in the first dimension that `sampled_tokens_indices` ([count], int64)
    holds. Paged attention makes that dimension the tokens of all sequences, and OpenVINO GenAI passes those that it
    samples from.
    """
    return _Graph(shape, weights).model()


class _Matrix:
    def __init__(self, matrix: Grouped, name: str) -> None:
        self.bytes = ops.constant(matrix.pack(), name=name)
        self.attributes = {"rows": matrix.rows, "bits": matrix.bits}
        self.columns = matrix.columns


class _Graph:
    def __init__(self, shape: Shape, weights: Weights) -> None:
        self._shape = shape
        self._weights = weights
        self._own = NodeFactory()
        self._own.add_extension(LIBRARY)
        self._inputs = {
            name: ops.parameter(dims, kind, name=name)
            for name, dims, kind in (
                ("input_ids", [-1, -1], np.int64),
                ("attention_mask", [-1, -1], np.int64),
                ("position_ids", [-1, -1], np.int64),
                ("beam_idx", [-1], np.int32),
                ("sampled_tokens_indices", [-1], np.int64),
            )
        }
        for name, node in self._inputs.items():
            node.output(0).set_names({name})
        # Each node takes time to compile, so equal constants share one.
        self._ints: dict[tuple[int, ...], Any] = {}
        self._scalars: dict[int, Any] = {}
        self._states: list[Any] = []
        self._batch = ops.gather(ops.shape_of(self._inputs["input_ids"]), self._int(0), self._int(0))
        self._cos, self._sin = self._rotary()
        self._mask = self._causal_mask()
        self._no_state = ops.broadcast(
            _floats(0.0), ops.concat([self._batch, self._int(shape.kv_heads, 0, shape.head_dim)], 0)
        )
        repeats = self._int(shape.kv_heads, shape.heads // shape.kv_heads, 1, shape.head_dim)
        self._repeated_shape = ops.concat([self._batch, repeats], 0)

    def model(self) -> Any:
        embedding = self._matrix("token_embd.weight")
        ids = ops.convert(self._inputs["input_ids"], "i32")
        x = self._own.create(
            "GroupedRows", [ids, embedding.bytes], embedding.attributes | {"columns": embedding.columns}
        )
        for layer in range(self._shape.layers):
            x = self._feed_forward(f"blk.{layer}.", self._attention(f"blk.{layer}.", x))
        x = ops.gather(x, self._inputs["sampled_tokens_indices"], self._scalar(0))
        head = embedding if self._weights.matrix("output.weight") is None else self._matrix("output.weight")
        logits = self._product(x, head, norm="output_norm.weight")
        logits.output(0).set_names({"logits"})
        return ov.Model([ops.result(logits)], self._states, list(self._inputs.values()), "llama")

    def _attention(self, prefix: str, x: Any) -> Any:
        shape = self._shape
        widths = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.kv_heads * shape.head_dim)
        # One product for all three, since each product costs more than its arithmetic.
        all_heads = self._linear(x, *(f"{prefix}attn_{name}" for name in "qkv"), norm=f"{prefix}attn_norm.weight")
        parts = ops.variadic_split(self._rotate(all_heads, prefix), self._scalar(-1), self._int(*widths)).outputs()
        counts = (shape.heads, shape.kv_heads, shape.kv_heads)
        query, key, value = (self._heads(part, count) for part, count in zip(parts, counts, strict=True))
        attention = ops.scaled_dot_product_attention(
            query, self._with_past(key, f"{prefix}key"), self._with_past(value, f"{prefix}value"), self._mask
        )
        rows = ops.reshape(ops.transpose(attention, self._int(0, 2, 1, 3)), self._int(0, 0, widths[0]), True)
        return self._linear(rows, f"{prefix}attn_output", residual=x)

    def _feed_forward(self, prefix: str, x: Any) -> Any:
        gate_and_up = self._linear(x, f"{prefix}ffn_gate", f"{prefix}ffn_up", norm=f"{prefix}ffn_norm.weight")
        return self._linear(gate_and_up, f"{prefix}ffn_down", is_gated=True, residual=x)

    def _heads(self, x: Any, count: int) -> Any:
        """Reshape [batch, tokens, heads x size] to [batch, heads, tokens, size]."""
        split = ops.reshape(x, self._int(0, 0, count, self._shape.head_dim), True)
        return ops.transpose(split, self._int(0, 2, 1, 3))

    def _rotate(self, x: Any, prefix: str) -> Any:
        """Apply the norm of each head, if the model has one, then the rotary embedding of queries and keys."""
        shape = self._shape
        norms = [self._weights.vector(f"{prefix}attn_{name}_norm.weight") for name in "qk"]
        inputs = [x, self._cos, self._sin, *(_floats(norm) for norm in norms if norm is not None)]
        assert len(inputs) in (3, 5)
        attributes = {
            "queries": shape.heads,
            "keys": shape.kv_heads,
            "size": shape.head_dim,
            "epsilon": shape.norm_epsilon if len(inputs) == 5 else 0.0,
        }
        return self._own.create("RotatedHeads", inputs, attributes)

    def _with_past(self, new: Any, name: str) -> Any:
        """Append the new tokens to a state, and repeat the result for each query head that shares it."""
        shape = self._shape
        state = ops.read_value(self._no_state, name, np.float32, [-1, shape.kv_heads, -1, shape.head_dim])
        past = ops.gather(state, self._inputs["beam_idx"], self._scalar(0))
        whole = ops.concat([past, new], 2)
        self._states.append(ops.assign(whole, name))
        copies = ops.broadcast(
            ops.unsqueeze(whole, self._scalar(2)), self._repeated_shape, broadcast_spec="BIDIRECTIONAL"
        )
        return ops.reshape(copies, self._int(0, shape.heads, -1, shape.head_dim), True)

    def _rotary(self) -> tuple[Any, Any]:
        positions = ops.convert(ops.unsqueeze(self._inputs["position_ids"], self._scalar(2)), "f32")
        angles = ops.multiply(positions, _floats(self._shape.inverse_frequencies.reshape(1, 1, -1)))
        return ops.cos(angles), ops.sin(angles)

    def _causal_mask(self) -> Any:
        input_mask = self._inputs["attention_mask"]
        count = ops.gather(ops.shape_of(input_mask), self._scalar(1), self._scalar(0))
        keys = ops.unsqueeze(ops.range(self._scalar(0), count, self._scalar(1), "i64"), self._int(0, 1, 2))
        is_past = ops.less_equal(keys, ops.unsqueeze(self._inputs["position_ids"], self._int(1, 3)))
        is_token = ops.convert(ops.unsqueeze(input_mask, self._int(1, 2)), "boolean")
        return ops.select(ops.logical_and(is_past, is_token), _floats(0.0), _floats(_MASKED))

    def _linear(self, x: Any, *names: str, norm: str = "", is_gated: bool = False, residual: Any = None) -> Any:
        """Multiply by the matrices of these names, stacked below each other, and add their biases if they have any."""
        matrix = self._matrix(*(f"{name}.weight" for name in names))
        product = self._product(x, matrix, norm=norm, is_gated=is_gated, residual=residual)
        biases = [bias for name in names if (bias := self._weights.vector(f"{name}.bias")) is not None]
        if not biases:
            return product
        if len(biases) < len(names):
            raise ModelUnfit(f"only some of {', '.join(names)} have a bias")
        return ops.add(product, _floats(np.concatenate(biases).reshape(1, 1, -1)))

    def _product(self, x: Any, matrix: _Matrix, *, norm: str, is_gated: bool = False, residual: Any = None) -> Any:
        inputs = [x, matrix.bytes]
        attributes = {**matrix.attributes, "epsilon": 0.0, "gated": is_gated, "adds": residual is not None}
        if norm:
            weight = self._weights.vector(norm)
            assert weight is not None
            inputs.append(_floats(weight))
            attributes["epsilon"] = self._shape.norm_epsilon
        if residual is not None:
            inputs.append(residual)
        return self._own.create("GroupedMatMul", inputs, attributes)

    def _matrix(self, *names: str) -> _Matrix:
        parts = [part for name in names if (part := self._weights.matrix(name)) is not None]
        assert len(parts) == len(names)
        return _Matrix(join(parts), "+".join(names))

    def _int(self, *values: int) -> Any:
        if values not in self._ints:
            self._ints[values] = ops.constant(np.array(values, dtype=np.int64))
        return self._ints[values]

    def _scalar(self, value: int) -> Any:
        if value not in self._scalars:
            self._scalars[value] = ops.constant(np.array(value, dtype=np.int64))
        return self._scalars[value]


def _floats(value: float | Array) -> Any:
    return ops.constant(np.asarray(value, dtype=np.float32))
