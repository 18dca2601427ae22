"""What tests of data sets share."""

import numpy as np
import pytest
from image_files import picture

from repsim.data import load_data


@pytest.fixture
def refuse():
    """Assert that loading is refused with a message."""

    def refuse(message, name, **options):
        with pytest.raises(ValueError) as refusal:  # noqa: PT011
            load_data(name, **options)
        assert str(refusal.value) == message

    return refuse


@pytest.fixture
def pets(tmp_path):
    """Two classes, three training images and one test image of each; cats are darker than dogs."""
    root = tmp_path / "photos" / "pets"
    for index in range(3):
        picture(root / "train" / "cat" / f"{index}.png", 10 + index)
        picture(root / "train" / "dog" / f"{index}.PNG", 110 + index)
    picture(root / "test" / "cat" / "9.png", 50)
    picture(root / "test" / "dog" / "9.png", 150)
    return root


@pytest.fixture
def rng():
    return np.random.Generator(np.random.PCG64(0))
