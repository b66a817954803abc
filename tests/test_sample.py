"""What a CrowdImage is, and what normalisation does to it."""

import numpy as np
import pytest
import torch
from conftest import crowd
from torchvision.transforms.functional import normalize

from hmode.data import CrowdImage, normalise
from hmode.errors import InputError

IMAGE = torch.zeros(3, 4, 6, dtype=torch.uint8)
POINTS = torch.tensor([[1.0, 2.0], [1.0, 2.0], [-300.0, 1.0]])


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("image", torch.zeros(3, 4, 6), "torch.float32"),
        ("image", torch.zeros(4, 6, 3, dtype=torch.uint8), "[4, 6, 3]"),
        ("image", torch.zeros(4, 6, dtype=torch.uint8), "[4, 6]"),
        ("image", np.zeros((3, 4, 6), np.uint8), "ndarray"),
        ("points", torch.zeros(5, 3), "[5, 3]"),
        ("points", torch.zeros(2), "[2]"),
        ("points", torch.zeros(5, 2, dtype=torch.float64), "torch.float64"),
        ("points", [[1.0, 2.0]], "list"),
        ("perspective", torch.zeros(6, 4), "[6, 4]"),
        ("perspective", torch.zeros(4, 6, dtype=torch.float64), "torch.float64"),
        ("mask", torch.zeros(4, 6), "torch.float32"),
        ("mask", torch.zeros(4, 7, dtype=torch.bool), "[4, 7]"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_found(field, value, found):
    fields = {"image": IMAGE, "points": POINTS, "name": "street.jpg", field: value}
    with pytest.raises(InputError) as error:
        CrowdImage(**fields)
    message = str(error.value)
    assert "street.jpg" in message
    assert field in message
    assert found in message
    assert "expected" in message


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_coordinate_that_is_not_finite_is_named_by_its_point(bad):
    points = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, bad]])
    with pytest.raises(InputError, match=r"street.jpg: point 2 .*finite"):
        CrowdImage(IMAGE, points, "street.jpg")


def test_with_a_mask_only_the_people_in_it_count():
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[2, 1] = True  # row 2, column 1: the pixel of two of the points
    assert CrowdImage(IMAGE, POINTS, "a", mask=mask).count == 2
    assert CrowdImage(IMAGE, POINTS, "a", mask=~mask).count == 0  # the third is outside the frame


def test_an_image_without_annotation_is_not_one_without_people():
    unknown = CrowdImage(IMAGE, torch.zeros(0, 2), "3610", annotated=False)
    with pytest.raises(InputError, match="3610: not annotated, so its people are not known"):
        _ = unknown.count
    with pytest.raises(InputError, match="3610: 3 points, yet it is not annotated"):
        CrowdImage(IMAGE, POINTS, "3610", annotated=False)


def test_normalise_is_the_encoder_s_own_normalisation():
    image = crowd(0).image
    expected = normalize(image.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(normalise(image), expected)
    batch = torch.stack([image, 255 - image])
    torch.testing.assert_close(normalise(batch)[0], expected)
    assert normalise(batch).dtype == torch.float32
