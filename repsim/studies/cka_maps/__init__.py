"""CKA between all layers of networks, and its block structure (notebook 01)."""

from repsim.studies.cka_maps.block_structure import benign_vs_adversarial, by_attack, maps, parting
from repsim.studies.cka_maps.layer_maps import (
    as_matrix,
    block_strength,
    last_minus_first_third,
    layer_cka,
    matched_cka,
    mean_off_diagonal,
)

__all__ = [
    "as_matrix",
    "benign_vs_adversarial",
    "block_strength",
    "by_attack",
    "last_minus_first_third",
    "layer_cka",
    "maps",
    "matched_cka",
    "mean_off_diagonal",
    "parting",
]
