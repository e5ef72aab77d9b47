"""A generator's step on a CUDA GPU in half precision as a few Triton kernels, so that it is bound by reading weights.

In torch a layer is some twenty kernels, most of which take longer to start than to run. Here it is five: queries, keys
and values of the normed input; attention; its projection added to the sum over layers; gate and up of the normed sum;
down added to it. The same steps in torch, with the same roundings: `Decoder._layers` in decoding.py.

Nothing depends on the order in which programs run: the same input gives the same bits. Where the device can (Hopper and
later), a kernel starts while the one before it ends, and a step of one row reads its first weights meanwhile.

This module needs Triton; import it where there is CUDA.

Legend: R rows, D width, h heads, d = D / h, E hidden width, V vocabulary, M cache length, S splits of a row's keys;
in a program r rows, n outputs, k inputs or keys.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

MOST_ROWS = 128
"""With more, the weights are read so often that cuBLAS is the better choice."""
MOST_INPUTS = 8192
"""Of a product, as long as one row of it is one tile."""
MULTIPROCESSORS = 132
"""Of an H100. Products of several rows have large tiles, at most one for each where tiles are large enough; those of
one row about four."""
KEYS_A_SPLIT = 128
"""What a program reads at once: a step of one row at its 400th token took 0.77 ms on an H200, 0.85 with 768."""


@triton.jit
def _products(
    x, norm, squares, eps, weights, outputs, exists, rows, num_rows, WIDTH: tl.constexpr, SQUARES: tl.constexpr,
    INPUTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """These rows of x, normed where there is a norm, times these rows of the weights: (r, n) in fp32. One row is
    multiplied and summed in one go, its weights on their way before the kernel before this one has ended."""
    if rows.shape[0] == 1:
        inputs = tl.arange(0, INPUTS)
        inside = exists[:, None] & (inputs < WIDTH)[None, :]
        weight = tl.load(weights + outputs[:, None] * WIDTH + inputs[None, :], mask=inside, other=0.0)  # (n, k)
        factors = _factors(norm, inputs, WIDTH)  # (k,)
        _wait(OVERLAP)
        values = _rows_of(x, rows, num_rows, inputs, WIDTH)  # (1, k)
        values = _normed(values, norm, factors, _scales(norm, squares, rows, num_rows, eps, WIDTH, SQUARES))
        total = tl.sum(weight.to(tl.float32) * values.to(weight.dtype).to(tl.float32), 1)[None, :]  # (1, n)
    else:
        _wait(OVERLAP)
        scales = _scales(norm, squares, rows, num_rows, eps, WIDTH, SQUARES)  # (r,)
        total = tl.zeros((rows.shape[0], outputs.shape[0]), tl.float32)
        for start in range(0, WIDTH, INPUTS):
            inputs = start + tl.arange(0, INPUTS)
            inside = exists[None, :] & (inputs < WIDTH)[:, None]
            weight = tl.load(weights + outputs[None, :] * WIDTH + inputs[:, None], mask=inside, other=0.0)  # (k, n)
            values = _rows_of(x, rows, num_rows, inputs, WIDTH)  # (r, k)
            values = _normed(values, norm, _factors(norm, inputs, WIDTH), scales)
            total = tl.dot(values.to(weight.dtype), weight, total)  # (r, n)
    return total


@triton.jit
def _rows_of(x, rows, num_rows, inputs, WIDTH: tl.constexpr):
    """A tile (r, k) of x (R, WIDTH), zero beyond it."""
    inside = (rows < num_rows)[:, None] & (inputs < WIDTH)[None, :]
    return tl.load(x + rows[:, None] * WIDTH + inputs[None, :], mask=inside, other=0.0)


@triton.jit
def _scales(norm, squares, rows, num_rows, eps, WIDTH: tl.constexpr, SQUARES: tl.constexpr):
    """1 / √(mean square + eps) of these rows, (r,), from the sums of squares that `_keep_sum` left; 1 without norm."""
    if norm is None:
        return tl.full((rows.shape[0],), 1.0, tl.float32)
    else:
        sums = _rows_of(squares, rows, num_rows, tl.arange(0, triton.next_power_of_2(SQUARES)), SQUARES)
        return 1.0 / tl.sqrt(tl.sum(sums, 1) / WIDTH + eps)


@triton.jit
def _factors(norm, inputs, WIDTH: tl.constexpr):
    """The norm's weights for these inputs, (k,) in fp32; 1 without norm."""
    if norm is None:
        return tl.full((inputs.shape[0],), 1.0, tl.float32)
    else:
        return tl.load(norm + inputs, mask=inputs < WIDTH, other=0.0).to(tl.float32)


@triton.jit
def _normed(values, norm, factors, scales):
    """values (r, k) in fp32 times factors (k,) and scales (r,); as they are without norm."""
    if norm is not None:
        values = values.to(tl.float32) * scales[:, None] * factors[None, :]
    return values


@triton.jit
def _keep_sum(x, squares, total, rows, num_rows, columns, WIDTH: tl.constexpr):
    """Writes a tile (r, n) of the sum over layers, and each row's sum of squares in it for the norm that follows."""
    inside = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
    kept = tl.where(inside, total.to(x.dtype.element_ty).to(tl.float32), 0.0)
    tl.store(x + rows[:, None] * WIDTH + columns[None, :], kept.to(x.dtype.element_ty), mask=inside)
    number, tiles = tl.program_id(0), tl.num_programs(0)
    tl.store(squares + rows * tiles + number, tl.sum(kept * kept, 1), mask=rows < num_rows)


@triton.jit
def _wait(OVERLAP: tl.constexpr):
    """For what the kernels before this one write."""
    if OVERLAP:
        gdc_wait()


@triton.jit
def _let_next_start(OVERLAP: tl.constexpr):
    if OVERLAP:
        gdc_launch_dependents()


@triton.jit
def embed_kernel(tokens, embedding, x, squares, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, OVERLAP: tl.constexpr):
    """x (R, D): the tokens' embeddings. A program for each tile of columns and each row."""
    _let_next_start(OVERLAP)
    _wait(OVERLAP)
    columns, row = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS), tl.program_id(1)
    token = tl.load(tokens + row)
    values = tl.load(embedding + token * WIDTH + columns, mask=columns < WIDTH, other=0.0)[None, :]  # (1, n)
    _keep_sum(x, squares, values, row + tl.arange(0, 1), row + 1, columns, WIDTH)


@triton.jit
def qkv_kernel(
    x, squares, norm, eps, weights, rotation, positions, query, keys, values, stride_row, stride_head, stride_position,
    num_rows, WIDTH: tl.constexpr, HEAD: tl.constexpr, SQUARES: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Rotated queries to query (R, D), rotated keys and values to their places in the cache. A program for each tile of
    outputs, an even number of them, and each tile of rows."""
    _let_next_start(OVERLAP)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    exists = outputs < 3 * WIDTH
    product = _products(
        x, norm, squares, eps, weights, outputs, exists, rows, num_rows, WIDTH, SQUARES, INPUTS, OVERLAP
    )
    half = weights.dtype.element_ty
    product = product.to(half).to(tl.float32)  # (r, n)
    real, imaginary = tl.split(tl.reshape(product, (ROWS, OUTPUTS // 2, 2)))  # (r, n / 2) each

    position = tl.load(positions + rows, mask=rows < num_rows, other=0)  # (r,)
    pairs = tl.program_id(0) * (OUTPUTS // 2) + tl.arange(0, OUTPUTS // 2)
    angle = rotation + position[:, None] * HEAD + ((2 * pairs) % HEAD)[None, :]
    cos, sin = tl.load(angle), tl.load(angle + 1)  # (r, n / 2) each
    rotated = tl.interleave(real * cos - imaginary * sin, imaginary * cos + real * sin)  # (r, n)

    part, column = outputs // WIDTH, outputs % WIDTH  # 0: query, 1: key, 2: value
    inside = (rows < num_rows)[:, None] & exists[None, :]
    place = rows.to(tl.int64)[:, None] * stride_row + position[:, None] * stride_position
    place += ((column // HEAD) * stride_head + column % HEAD)[None, :]
    tl.store(query + rows[:, None] * WIDTH + column[None, :], rotated.to(half), mask=inside & (part == 0)[None, :])
    tl.store(keys + place, rotated.to(half), mask=inside & (part == 1)[None, :])
    tl.store(values + place, product.to(half), mask=inside & (part == 2)[None, :])


@triton.jit
def _join(gathered, sums, number, HEAD: tl.constexpr, SPLITS: tl.constexpr):
    """What a head of a row attends to, (d,), from what its splits found. It is read past the first cache, where what
    other programs have written does not show."""
    split, inner = tl.arange(0, triton.next_power_of_2(SPLITS)), tl.arange(0, HEAD)
    exists = split < SPLITS
    top = tl.load(sums + 2 * number * SPLITS + split, mask=exists, other=-1e30, cache_modifier=".cg")  # (S,)
    total = tl.load(sums + (2 * number + 1) * SPLITS + split, mask=exists, other=0.0, cache_modifier=".cg")  # (S,)
    weight = tl.exp(top - tl.max(top, 0))  # (S,)
    places = (number * SPLITS + split)[:, None] * HEAD + inner[None, :]
    found = tl.load(gathered + places, mask=exists[:, None], other=0.0, cache_modifier=".cg")  # (S, d)
    return tl.sum(found * weight[:, None], 0) / tl.sum(total * weight, 0)


@triton.jit
def attend_kernel(
    query, keys, values, stride_row, stride_head, stride_position, positions, attended, gathered, sums, arrived, scale,
    HEADS: tl.constexpr, HEAD: tl.constexpr, SPLITS: tl.constexpr, KEYS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """attended (R, D): softmax over the keys up to each row's position. A program for each head of each row and each
    split of its keys. With several splits what each found goes to gathered (R·h, S, d) and sums (R·h, 2, S): its
    highest score and its sum of weights, relative to that; the last to arrive, by the count in arrived (R·h,), joins
    them. Each of a program's k places has a softmax of its own over every k-th key until the end, so that threads need
    not meet in the loop."""
    _let_next_start(OVERLAP)
    _wait(OVERLAP)
    number, split = tl.program_id(0), tl.program_id(1)
    row, head = number // HEADS, number % HEADS
    inner = tl.arange(0, HEAD)
    written = tl.load(positions + row).to(tl.int32) + 1
    share = tl.cdiv(tl.cdiv(written, SPLITS), KEYS) * KEYS
    end = tl.minimum((split + 1) * share, written)
    vector = tl.load(query + number * HEAD + inner).to(tl.float32) * scale  # (d,)
    start = row.to(tl.int64) * stride_row + head * stride_head
    highest = tl.full((KEYS,), -1e30, tl.float32)
    total = tl.zeros((KEYS,), tl.float32)
    result = tl.zeros((KEYS, HEAD), tl.float32)
    for first in tl.range(split * share, end, KEYS, num_stages=3):
        key = first + tl.arange(0, KEYS)
        place = start + key.to(tl.int64)[:, None] * stride_position + inner[None, :]
        key_vectors = tl.load(keys + place, mask=(key < end)[:, None], other=0.0).to(tl.float32)  # (k, d)
        value_vectors = tl.load(values + place, mask=(key < end)[:, None], other=0.0).to(tl.float32)  # (k, d)
        score = tl.where(key < end, tl.sum(key_vectors * vector[None, :], 1), -1e30)  # (k,)
        higher = tl.maximum(highest, score)
        weight, kept = tl.where(key < end, tl.exp(score - higher), 0.0), tl.exp(highest - higher)  # (k,) each
        total = total * kept + weight
        result = result * kept[:, None] + weight[:, None] * value_vectors
        highest = higher
    top = tl.max(highest, 0)
    weight = tl.exp(highest - top)  # (k,)
    total_weight, result = tl.sum(total * weight, 0), tl.sum(result * weight[:, None], 0)  # (), (d,)
    if SPLITS == 1:
        tl.store(attended + number * HEAD + inner, (result / total_weight).to(attended.dtype.element_ty))
    else:
        tl.store(gathered + (number * SPLITS + split) * HEAD + inner, result)
        tl.store(sums + 2 * number * SPLITS + split, top)
        tl.store(sums + (2 * number + 1) * SPLITS + split, total_weight)
        tl.debug_barrier()  # all threads have written before one of them counts this program
        if tl.atomic_add(arrived + number, 1) == SPLITS - 1:
            tl.store(arrived + number, 0)  # for the next layer
            joined = _join(gathered, sums, number, HEAD, SPLITS)
            tl.store(attended + number * HEAD + inner, joined.to(attended.dtype.element_ty))


@triton.jit
def add_kernel(
    x, squares, inputs, weights, num_rows, WIDTH: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """x (R, D) plus the product of inputs (R, HIDDEN). A program for each tile of columns and each tile of rows."""
    _let_next_start(OVERLAP)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    exists = outputs < WIDTH
    product = _products(inputs, None, None, 0.0, weights, outputs, exists, rows, num_rows, HIDDEN, 1, INPUTS, OVERLAP)
    inside = (rows < num_rows)[:, None] & exists[None, :]
    before = tl.load(x + rows[:, None] * WIDTH + outputs[None, :], mask=inside, other=0.0).to(tl.float32)
    total = before + product.to(weights.dtype.element_ty).to(tl.float32)  # (r, n)
    _keep_sum(x, squares, total, rows, num_rows, outputs, WIDTH)


@triton.jit
def gate_up_kernel(
    x, squares, norm, eps, weights, hidden, num_rows, WIDTH: tl.constexpr, HIDDEN: tl.constexpr, SQUARES: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """hidden (R, E): silu(gate) · up of the normed x. A program for each tile of rows and n outputs: n / 2 gates, each
    with its up beside it, though E rows of weights lie between them."""
    _let_next_start(OVERLAP)
    side_by_side = tl.arange(0, OUTPUTS)
    column = tl.program_id(0) * (OUTPUTS // 2) + side_by_side // 2
    outputs, exists = column + (side_by_side % 2) * HIDDEN, column < HIDDEN
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    product = _products(
        x, norm, squares, eps, weights, outputs, exists, rows, num_rows, WIDTH, SQUARES, INPUTS, OVERLAP
    )
    half = weights.dtype.element_ty
    gate, up = tl.split(tl.reshape(product.to(half).to(tl.float32), (ROWS, OUTPUTS // 2, 2)))  # (r, n / 2) each
    result = (gate / (1.0 + tl.exp(-gate))).to(half).to(tl.float32) * up
    columns = tl.program_id(0) * (OUTPUTS // 2) + tl.arange(0, OUTPUTS // 2)
    inside = (rows < num_rows)[:, None] & (columns < HIDDEN)[None, :]
    tl.store(hidden + rows[:, None] * HIDDEN + columns[None, :], result.to(half), mask=inside)


@triton.jit
def head_kernel(
    x, squares, norm, eps, weights, logits, num_rows, vocabulary, WIDTH: tl.constexpr, SQUARES: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """logits (R, V) of the normed x, in fp32. A program for each tile of both."""
    _let_next_start(OVERLAP)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    exists = outputs < vocabulary
    product = _products(
        x, norm, squares, eps, weights, outputs, exists, rows, num_rows, WIDTH, SQUARES, INPUTS, OVERLAP
    )
    inside = (rows < num_rows)[:, None] & exists[None, :]
    tl.store(logits + rows[:, None] * vocabulary + outputs[None, :], product, mask=inside)


def has_kernels_for(num_rows: int, width: int, hidden: int, head_width: int) -> bool:
    """Whether these kernels are for so many rows and a model of these widths: D, E, d."""
    fits = num_rows > 1 or max(width, hidden) <= MOST_INPUTS
    return 1 <= num_rows <= MOST_ROWS and fits and 16 <= head_width == triton.next_power_of_2(head_width)


class TritonStep:
    """The step of one decoder. Its weights and cache must stay where they are.

    weights: by the names of decode_step.c; layers: the same for each layer. Matrices, contiguous, and keys and values
    (R, h, M, d), with any strides but 1 in the last place, are of one half type; the embedding (V, D) is of the type of
    the sum over layers, rotation (M, d / 2, 2) is fp32.
    """

    def __init__(self, weights: dict[str, Tensor], layers: list[dict[str, Tensor]], num_heads: int, norm_eps: float):
        self.weights, self.layers, self.num_heads, self.norm_eps = weights, layers, num_heads, norm_eps
        keys, self.width = layers[0]["keys"], weights["head"].shape[1]
        self.num_rows, _, length, self.head_width = keys.shape
        self.hidden_width = layers[0]["down"].shape[1]
        for name, tensor in [item for each in (weights, *layers) for item in each.items()]:
            if not tensor.is_contiguous() if name not in ("keys", "values") else tensor.stride() != keys.stride():
                raise ValueError(
                    f"{name} of strides {tensor.stride()} should be contiguous, or a cache like all others"
                )
        self.row_tile = 1 if self.num_rows == 1 else min(max(16, triton.next_power_of_2(self.num_rows)), 64)
        self.num_squares = triton.cdiv(self.width, self._outputs(self.width))
        pairs = self.num_rows * num_heads
        self.num_splits = max(1, min(triton.cdiv(length, KEYS_A_SPLIT), 2 * MULTIPROCESSORS // pairs))
        dtype, in_fp32, device = keys.dtype, torch.float32, keys.device
        self.x = torch.empty(self.num_rows, self.width, dtype=weights["embedding"].dtype, device=device)
        self.squares = torch.empty(self.num_rows, self.num_squares, dtype=in_fp32, device=device)
        self.query, self.attended = torch.empty(2, self.num_rows, self.width, dtype=dtype, device=device)
        self.hidden = torch.empty(self.num_rows, self.hidden_width, dtype=dtype, device=device)
        self.gathered = torch.empty(pairs, self.num_splits, self.head_width, dtype=in_fp32, device=device)
        self.sums = torch.empty(pairs, 2, self.num_splits, dtype=in_fp32, device=device)
        self.arrived = torch.zeros(pairs, dtype=torch.int32, device=device)
        # Not of several rows: it took 1.54 instead of 1.38 ms a step of 16 on an H200.
        can_overlap = keys.is_cuda and not torch.version.hip and torch.cuda.get_device_capability(keys.device)[0] >= 9
        overlaps = can_overlap and self.num_rows == 1
        self.start = {"OVERLAP": overlaps} | ({"launch_pdl": True} if overlaps else {})  # how each kernel is started

    def __call__(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """tokens and positions int64 (R,) → logits (R, V)."""
        vocabulary = len(self.weights["head"])
        logits = torch.empty(self.num_rows, vocabulary, dtype=torch.float32, device=self.x.device)
        with torch.cuda.device_of(self.x):
            columns = self._outputs(self.width)
            embed_kernel[(self.num_squares, self.num_rows)](
                tokens, self.weights["embedding"], self.x, self.squares, self.width, columns, self.start["OVERLAP"]
            )  # after whatever came before, which need not be a kernel
            for layer in self.layers:
                self._attention(layer, positions)
                self._add(self.attended, layer["out"])
                grid, tiles = self._tiles(2 * self.hidden_width, self.width)
                gate_up_kernel[grid](
                    self.x, self.squares, layer["norm2"], self.norm_eps, layer["gate_up"], self.hidden, self.num_rows,
                    self.width, self.hidden_width, self.num_squares, **tiles,
                )  # fmt: skip
                self._add(self.hidden, layer["down"])
            grid, tiles = self._tiles(vocabulary, self.width)
            head_kernel[grid](
                self.x, self.squares, self.weights["norm"], self.norm_eps, self.weights["head"], logits, self.num_rows,
                vocabulary, self.width, self.num_squares, **tiles,
            )  # fmt: skip
        return logits

    def _attention(self, layer: dict[str, Tensor], positions: Tensor) -> None:
        """From x to attended, and new keys and values into the cache."""
        cache = (layer["keys"], layer["values"], *layer["keys"].stride()[:3])
        grid, tiles = self._tiles(3 * self.width, self.width)
        qkv_kernel[grid](
            self.x, self.squares, layer["norm1"], self.norm_eps, layer["qkv"], self.weights["rotation"], positions,
            self.query, *cache, self.num_rows, self.width, self.head_width, self.num_squares, **tiles,
        )  # fmt: skip
        pairs = self.num_rows * self.num_heads
        attend_kernel[(pairs, self.num_splits)](
            self.query, *cache, positions, self.attended, self.gathered, self.sums, self.arrived,
            self.head_width**-0.5, self.num_heads, self.head_width, self.num_splits, max(16, 8192 // self.head_width),
            num_warps=8, **self.start,
        )  # fmt: skip

    def _add(self, inputs: Tensor, weight: Tensor) -> None:
        """x plus the product of inputs."""
        grid, tiles = self._tiles(*weight.shape)
        add_kernel[grid](self.x, self.squares, inputs, weight, self.num_rows, *weight.shape, **tiles)

    def _tiles(self, num_outputs: int, num_inputs: int) -> tuple[tuple[int, int], dict]:
        """The programs of a product, and its tiles and how it is started."""
        outputs, inputs = self._outputs(num_outputs), triton.next_power_of_2(num_inputs)
        stages = 6 if self.row_tile == 64 else 4
        if self.row_tile > 1:  # so many inputs that a multiprocessor's shared memory holds as many tiles
            most = 64 if self.row_tile == 64 else 256 if outputs * self.row_tile == 256 else 128
            inputs = max(16, min(inputs, most))
        grid = (triton.cdiv(num_outputs, outputs), triton.cdiv(self.num_rows, self.row_tile))
        num_warps = 8 if outputs * inputs > 2**14 and self.row_tile == 1 else 4
        tiles = {"ROWS": self.row_tile, "OUTPUTS": outputs, "INPUTS": inputs}
        return grid, tiles | {"num_warps": num_warps, "num_stages": stages} | self.start

    def _outputs(self, num_outputs: int) -> int:
        """A tile of a product's outputs: the smallest that makes few enough programs."""
        tiles, most = ((4, 8), 4 * MULTIPROCESSORS) if self.row_tile == 1 else ((16, 32, 64), MULTIPROCESSORS)
        return next((n for n in tiles if triton.cdiv(num_outputs, n) <= most), tiles[-1])
