"""Names of the weights in the authors' code, of MobileViG and of its successors, for each of ours.

MobileViG keeps MBConv stages in `local_backbone` and graph stages in `backbone`, each a flat list in which a
downsampling (`conv`) opens the next stage. Its successors have a list a stage, `backbone.STAGE.BLOCK`.
"""

from dataclasses import dataclass

from mvig_nas.architecture import STAGES, Architecture

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class ReferenceFormat:
    """How one repository writes its networks down.

    Args:
        family: the published name.
        operator: of all its graph blocks.
        published_steps: K of each stage in the published networks.
        local_scale: name of an MBConv block's layer scale.
        scale_axes: axes of a layer scale behind the channels, of size 1.
    """

    family: str
    operator: str
    published_steps: tuple[int, int, int, int]
    local_scale: str = "layer_scale_2"
    scale_axes: int = 0

    @property
    def is_successor(self) -> bool:
        """Whether it is not MobileViG's."""
        return self.family != "MobileViG"

    def names(self, architecture: Architecture, distillation: bool) -> dict[str, str]:
        """Our name of every weight to the reference's."""
        names = conv_norm("stem.conv1", "stem.stem.0", "stem.stem.1")
        names |= conv_norm("stem.conv2", "stem.stem.3", "stem.stem.4")
        names |= self._successor_stages(architecture) if self.is_successor else self._stages(architecture)
        names |= conv_norm("head_conv", "prediction.1", "prediction.2") | _conv("head", "head")
        return names | _conv("head_dist", "dist_head") if distillation else names

    def _stages(self, architecture: Architecture) -> dict[str, str]:
        stages = architecture.stages
        # The downsampling before the first graph stage still belongs to the first list, as do all those before it.
        first_graph = next((index for index, stage in enumerate(stages) if stage.graph_depth), STAGES)
        counts = {"local_backbone": 0, "backbone": 0}

        def next_position(part: str) -> str:
            counts[part] += 1
            return f"{part}.{counts[part] - 1}"

        names: dict[str, str] = {}
        for index, stage in enumerate(stages):
            ours = f"stages.{index}"
            if index:
                theirs = next_position("local_backbone" if index <= first_graph else "backbone")
                names |= conv_norm(f"{ours}.downsample", f"{theirs}.conv.0", f"{theirs}.conv.1")
            for block in range(stage.conv_depth):
                theirs = next_position("local_backbone")
                names |= self._mbconv(f"{ours}.blocks.{block}", theirs, f"{theirs}.mlp", ("fc1", "mid", "fc2"))
            for block in range(stage.conv_depth, stage.conv_depth + stage.graph_depth):
                names |= _graph_block(f"{ours}.blocks.{block}", next_position("backbone"))
        return names

    def _successor_stages(self, architecture: Architecture) -> dict[str, str]:
        names: dict[str, str] = {}
        for index, stage in enumerate(architecture.stages):
            ours, theirs, first = f"stages.{index}", f"backbone.{index}", 0
            if index:
                names |= conv_norm(f"{ours}.downsample", f"{theirs}.0.conv.0", f"{theirs}.0.conv.1")
                first = 1
            for block in range(stage.conv_depth + stage.graph_depth):
                own, other = f"{ours}.blocks.{block}", f"{theirs}.{first + block}"
                if block < stage.conv_depth:
                    names |= self._mbconv(own, other, f"{other}.dws", ("pw1", "dw", "pw2"))
                else:
                    names |= successor_graph_block(f"{own}.", f"{other}.")
        return names

    def _mbconv(self, ours: str, block: str, theirs: str, convs: tuple[str, str, str]) -> dict[str, str]:
        norms = ("norm1", "norm2", "norm3") if self.is_successor else ("norm1", "mid_norm", "norm2")
        names = {f"{ours}.layer_scale": f"{block}.{self.local_scale}"}
        for part, conv, norm in zip(("conv_pw", "conv_dw", "conv_pwl"), convs, norms, strict=True):
            names |= conv_norm(f"{ours}.{part}", f"{theirs}.{conv}", f"{theirs}.{norm}")
        return names


MOBILEVIG = ReferenceFormat("MobileViG", "svga", (2, 2, 2, 2))
MOBILEVIGV2 = ReferenceFormat("MobileViGv2", "mgc", (8, 8, 4, 2), local_scale="layer_scale_1", scale_axes=2)
GREEDYVIG = ReferenceFormat("GreedyViG", "dagc", (8, 4, 2, 1))


def format_of(architecture: Architecture) -> ReferenceFormat | None:
    """The repository that could have made this network, None if none could."""
    stages = architecture.stages
    graphs = [stage for stage in stages if stage.graph_depth]
    if any(stage.activation != "gelu" for stage in stages) or any(stage.graph_groups != 1 for stage in graphs):
        return None
    kinds = {(stage.graph_operator, stage.graph_cpe, stage.graph_scale) for stage in graphs}
    if kinds <= {("svga", None, None)}:
        return MOBILEVIG
    return next((each for each in (MOBILEVIGV2, GREEDYVIG) if kinds == {(each.operator, True, True)}), None)


def _graph_block(ours: str, theirs: str) -> dict[str, str]:
    parts = {"fc1": "0.fc1", "graph_conv": "0.graph_conv.nn", "fc2": "0.fc2", "ffn_fc1": "1.fc1", "ffn_fc2": "1.fc2"}
    names: dict[str, str] = {}
    for own, other in parts.items():
        names |= conv_norm(f"{ours}.{own}", f"{theirs}.{other}.0", f"{theirs}.{other}.1")
    return names


def successor_graph_block(ours: str, theirs: str) -> dict[str, str]:
    """Our names to the reference's of a graph block of MobileViGv2, GreedyViG or LogViG; both prefixes end in a dot."""
    names = _conv(f"{ours}cpe.conv", f"{theirs}mixer.cpe.pe")
    for own, other in {"fc1": "fc1", "graph_conv": "graph_conv.nn", "fc2": "fc2"}.items():
        names |= conv_norm(f"{ours}{own}", f"{theirs}mixer.{other}.0", f"{theirs}mixer.{other}.1")
    names |= conv_norm(f"{ours}ffn_fc1", f"{theirs}ffn.0", f"{theirs}ffn.1")
    names |= conv_norm(f"{ours}ffn_fc2", f"{theirs}ffn.3", f"{theirs}ffn.4")
    return names | {
        f"{ours}layer_scale": f"{theirs}layer_scale_1",
        f"{ours}ffn_layer_scale": f"{theirs}layer_scale_2",
    }


def conv_norm(ours: str, conv: str, norm: str) -> dict[str, str]:
    """Names of a convolution and its batch norm."""
    return _conv(f"{ours}.conv", conv) | {f"{ours}.bn.{name}": f"{norm}.{name}" for name in _BATCH_NORM}


def _conv(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{name}": f"{theirs}.{name}" for name in ("weight", "bias")}
