"""VL-Mamba (arXiv 2403.13600) for reading: a SigLIP-style encoder, the multimodal connector, a Mamba language model.

Module names are the checkpoint's tensor names, so a state dict is a checkpoint. The encoder's last block and
post_layernorm belong to its own training only: the features are hidden state -2.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scan import selective_scan

State = tuple[Tensor, Tensor]  # the convolution's last inputs [b, 3, e], the scan's last state [b, e, n]


@dataclass
class VisionConfig:
    hidden_size: int = 192
    intermediate_size: int = 576
    num_hidden_layers: int = 7  # the last one is not run, and not in the checkpoint
    num_attention_heads: int = 6
    num_channels: int = 3
    image_size: int = 120
    patch_size: int = 12
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    model_type: str = "siglip_vision_model"


@dataclass
class TextConfig:
    vocab_size: int = 768
    hidden_size: int = 192
    state_size: int = 16
    num_hidden_layers: int = 8
    layer_norm_epsilon: float = 1e-5
    expand: int = 2
    intermediate_size: int = 384
    conv_kernel: int = 4
    time_step_rank: int = 12
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    residual_in_fp32: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int = 0
    eos_token_id: int = 0
    pad_token_id: int = 1
    model_type: str = "mamba"


@dataclass
class ConnectorConfig:
    type: str = "vss-l2"  # mlp | vss-mlp | vss-l2
    scan: str = "bsm"     # bsm | csm
    weights: str = "shared"
    merge: str = "sum"
    hidden_size: int = 192
    state_size: int = 16
    conv_kernel: int = 4
    expand: int = 2
    time_step_rank: int = 12
    norm: str = "layer"
    norm_eps: float = 1e-5
    hidden_act: str = "gelu"


@dataclass
class Config:
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    connector: ConnectorConfig = field(default_factory=ConnectorConfig)

    def to_json(self) -> dict:
        return {"model_type": "vl_mamba", "vision_config": asdict(self.vision), "text_config": asdict(self.text),
                "connector_config": asdict(self.connector), "vision_feature_layer": -2,
                "vision_feature_select_strategy": "full"}


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, l, d = x.shape
        q, k, v = (p(x).view(b, l, self.heads, d // self.heads).transpose(1, 2)
                   for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, l, d))


class MLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    def __init__(self, c: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.self_attn = Attention(c.hidden_size, c.num_attention_heads)
        self.layer_norm2 = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.mlp = MLP(c.hidden_size, c.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class VisionModel(nn.Module):
    """Pixels [b, 3, s, s] in [-1, 1] to the features of hidden state -2, [b, patches, width], rows in reading order."""

    def __init__(self, c: VisionConfig) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.patch_embedding = nn.Conv2d(c.num_channels, c.hidden_size, c.patch_size, c.patch_size)
        patches = (c.image_size // c.patch_size) ** 2
        self.embeddings.position_embedding = nn.Embedding(patches, c.hidden_size)
        nn.init.normal_(self.embeddings.position_embedding.weight, std=0.02)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(VisionBlock(c) for _ in range(c.num_hidden_layers - 1))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        x = x + self.embeddings.position_embedding.weight
        for layer in self.encoder.layers:
            x = layer(x)
        return x


class Mixer(nn.Module):
    """The Mamba layer: in_proj, causal convolution, selective scan, gate, out_proj."""

    def __init__(self, width: int, state: int, rank: int, kernel: int = 4, expand: int = 2) -> None:
        super().__init__()
        inner = expand * width
        self.rank, self.state, self.kernel = rank, state, kernel
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, kernel, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, state + 1).float()).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        # Δ starts log-uniform in [1e-3, 1e-1] (Mamba §3.6): the bias is the inverse softplus of it.
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        delta = torch.exp(torch.rand(inner) * math.log(100) + math.log(1e-3))
        with torch.no_grad():
            self.dt_proj.bias.copy_(delta + torch.log(-torch.expm1(-delta)))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        x, z = self.in_proj(x).chunk(2, dim=-1)
        length = x.shape[1]
        tail = x.new_zeros(x.shape[0], self.kernel - 1, x.shape[2]) if state is None else state[0]
        x = torch.cat([tail, x], dim=1)
        taps = self.conv1d.weight[:, 0]
        mixed = sum(taps[:, k] * x[:, k : k + length] for k in range(self.kernel)) + self.conv1d.bias
        u = F.silu(mixed).to(x.dtype)
        step, B, C = self.x_proj(u).split([self.rank, self.state, self.state], dim=-1)
        dt = F.linear(step, self.dt_proj.weight)
        y, last = selective_scan(u, dt, -torch.exp(self.A_log), B, C, self.D, z, self.dt_proj.bias,
                                 None if state is None else state[1])
        return self.out_proj(y), (x[:, length:], last)


class Block(nn.Module):
    def __init__(self, c: TextConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(c.hidden_size, eps=c.layer_norm_epsilon)
        self.mixer = Mixer(c.hidden_size, c.state_size, c.time_step_rank, c.conv_kernel, c.expand)
        nn.init.normal_(self.mixer.out_proj.weight, std=0.02 / math.sqrt(2 * c.num_hidden_layers))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = self.mixer(self.norm(x), state)
        return x + y, state


class LanguageModel(nn.Module):
    """Mamba. A prefix (picture rows or text) is read once; each group of texts goes on from its state."""

    def __init__(self, c: TextConfig) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.embeddings = nn.Embedding(c.vocab_size, c.hidden_size)
        nn.init.normal_(self.backbone.embeddings.weight, std=0.02)
        self.backbone.layers = nn.ModuleList(Block(c) for _ in range(c.num_hidden_layers))
        self.backbone.norm_f = nn.RMSNorm(c.hidden_size, eps=c.layer_norm_epsilon)

    def forward(self, prefix: Tensor, groups: list[Tensor]) -> list[Tensor]:
        """prefix [b, p, d]; groups of ids [b · q, l], q texts for each row in turn; logits [b · q, l, vocab] each."""
        embed = self.backbone.embeddings
        prefix = prefix.float()  # the residual stream is float32, also under autocast
        hidden = [embed(ids) for ids in groups]
        repeats = [ids.shape[0] // prefix.shape[0] for ids in groups]
        for layer in self.backbone.layers:
            prefix, (tail, last) = layer(prefix)
            hidden = [layer(h, (tail.repeat_interleave(q, 0), last.repeat_interleave(q, 0)))[0]
                      for h, q in zip(hidden, repeats)]
        return [F.linear(self.backbone.norm_f(h), embed.weight) for h in hidden]


    @torch.no_grad()
    def read(self, x: Tensor, states: list[State] | None = None) -> tuple[Tensor, list[State]]:
        """Reads embedded rows [b, l, d] on from `states`: the next token's logits [b, vocab] and the new states."""
        after: list[State] = []
        for i, layer in enumerate(self.backbone.layers):
            x, state = layer(x, None if states is None else states[i])
            after.append(state)
        return F.linear(self.backbone.norm_f(x[:, -1]), self.backbone.embeddings.weight), after


class Connector(nn.Module):
    """The three connectors and two scans of the paper (§3.2), as the contract writes them."""

    def __init__(self, c: ConnectorConfig, d_vision: int, d_text: int) -> None:
        super().__init__()
        self.type, self.scan = c.type, c.scan
        self.linear_1, self.linear_2 = nn.Linear(d_vision, c.hidden_size), nn.Linear(c.hidden_size, d_text)
        if c.type != "mlp":
            width = d_vision if c.type == "vss-mlp" else c.hidden_size
            self.norm = nn.LayerNorm(width, eps=c.norm_eps)
            self.vss = Mixer(width, c.state_size, c.time_step_rank, c.conv_kernel, c.expand)

    def scanned(self, u: Tensor) -> Tensor:
        """VSS: the same Mamba layer along each direction, every result put back in patch order, all added."""
        b, l, d = u.shape
        side = math.isqrt(l)
        rows = torch.arange(l, device=u.device)
        orders = [rows, rows.flip(0)]
        if self.scan == "csm":
            columns = rows.view(side, side).t().reshape(-1)
            orders += [columns, columns.flip(0)]
        paths = torch.stack(orders)                                    # [k, l]
        back = torch.argsort(paths, dim=1)
        k = len(orders)
        stacked = u[:, paths].transpose(0, 1).reshape(k * b, l, d)
        out, _ = self.vss(stacked)
        out = out.view(k, b, l, d)
        return sum(out[i][:, back[i]] for i in range(k))

    def forward(self, v: Tensor) -> Tensor:
        if self.type == "mlp":
            return self.linear_2(F.gelu(self.linear_1(v)))
        if self.type == "vss-mlp":
            return self.linear_2(F.gelu(self.linear_1(self.norm(self.scanned(v) + v))))
        v = self.linear_1(v)
        return self.linear_2(self.norm(self.scanned(F.gelu(v)) + v))


class VLMamba(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = nn.Module()
        self.vision_tower.vision_model = VisionModel(config.vision)
        self.multi_modal_projector = Connector(config.connector, config.vision.hidden_size, config.text.hidden_size)
        self.language_model = LanguageModel(config.text)

    def features(self, pixels: Tensor) -> Tensor:
        return self.vision_tower.vision_model(pixels)

    def forward(self, features: Tensor, groups: list[Tensor]) -> list[Tensor]:
        return self.language_model(self.multi_modal_projector(features), groups)


def compile_blocks() -> None:
    """Compiles the repeated blocks (not the whole graph): one compilation serves every layer."""
    torch._dynamo.config.cache_size_limit = 64
    VisionBlock.forward = torch.compile(VisionBlock.forward, dynamic=False)
    Block.forward = torch.compile(Block.forward, dynamic=False)
