from .block_structure import by_attack, maps, natural_vs_adversarial, parting
from .layer_maps import (
    as_matrix,
    block_strength,
    last_minus_first_third,
    layer_cka,
    matched_cka,
    mean_off_diagonal,
)

__all__ = [
    "as_matrix",
    "block_strength",
    "by_attack",
    "last_minus_first_third",
    "layer_cka",
    "maps",
    "matched_cka",
    "mean_off_diagonal",
    "natural_vs_adversarial",
    "parting",
]
