"""What several tests of packages begin with."""

from pathlib import Path

import pytest

from mvig_nas.image_data import Preprocessing
from mvig_nas.training.model_folder import TrainedModel, write_model
from tests.coreml.test_conversion import LABELS, MEAN, STD, TINY, as_if_trained


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `retrain` leaves it."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, TrainedModel(as_if_trained(TINY), LABELS, Preprocessing(mean=MEAN, std=STD)))
    return folder
