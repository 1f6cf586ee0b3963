"""Which graph a network has, and whether weights fit it."""

from rwkv_core.engines import inference_graph, volume_graph
from rwkv_core.engines.graph_ops import Ops
from rwkv_core.engines.inference_graph import InferenceGraph
from rwkv_core.engines.numpy_ops import NumPyOps
from rwkv_core.engines.volume_graph import VolumeGraph
from rwkv_core.models.weights import NetworkWeights, Parameters

ENCODER_PREFIX = "encoder."


def make_graph(weights: NetworkWeights, ops: Ops, parameters: Parameters | None = None) -> InferenceGraph | VolumeGraph:
    """Give the graph of these weights; arguments and errors are those of `InferenceGraph`."""
    graph = VolumeGraph if weights.architecture == "u-rwkv" else InferenceGraph
    return graph(weights, ops, parameters)


def unfit_names(weights: NetworkWeights, encoder: bool = False) -> list[str]:
    """Give the names of arrays that are missing, too many or of another shape than the network of these weights has.

    Args:
        weights: any arrays.
        encoder: look at those of the encoder only.
    """
    if not encoder:
        parameters = Parameters(weights.arrays)
        make_graph(weights, NumPyOps(), parameters)
    else:
        parameters = Parameters(weights.arrays, ENCODER_PREFIX)
        graph = volume_graph if weights.architecture == "u-rwkv" else inference_graph
        graph.Encoder(parameters, weights.variant, weights.in_channels, NumPyOps())
    return parameters.wrong()
