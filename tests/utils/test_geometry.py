import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.geometry import (apply_affine, box_iou, crop_quad, fit_to_side, letterbox, min_area_quad, order_quad,
                            polygon_area, polygon_perimeter)

SQUARE = np.float32([[0, 0], [4, 0], [4, 3], [0, 3]])


def test_area_and_perimeter_by_hand():
    assert polygon_area(SQUARE) == 12 and polygon_perimeter(SQUARE) == 14
    assert polygon_area(SQUARE[::-1]) == 12 and polygon_area(SQUARE[:2]) == 0 and polygon_area(np.zeros((0, 2))) == 0


@given(st.permutations(range(4)), st.floats(-0.4, 0.4))
def test_order_quad_starts_top_left_and_goes_clockwise(order, angle):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    quad = (SQUARE - (2, 1.5)) * (10, 2) @ turn.T + 50
    assert np.allclose(order_quad(quad[list(order)]), quad, atol=1e-4)


def test_min_area_quad_of_an_upright_box():
    """OpenCV 5 reports such boxes with an angle of -90."""
    assert np.allclose(min_area_quad(SQUARE * 10), SQUARE * 10, atol=1e-3)


def test_crop_quad_turns_text_upright():
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:60, 30:80] = (200, 100, 50)
    turned = cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)
    quad = np.float32([[60, 30], [60, 80], [40, 80], [40, 30]])  # reading from top to bottom
    crop = crop_quad(turned, quad)
    assert crop.shape == (20, 50, 3) and (crop[2:-2, 2:-2] == (200, 100, 50)).all()
    assert crop_quad(image, np.zeros((4, 2))).shape == (1, 1, 3)


@given(st.integers(1, 300), st.integers(1, 300))
def test_letterbox_never_squashes(height, width):
    image = np.full((height, width, 3), 200, np.uint8)
    out, scale = letterbox(image, 64, 96, fill=7)
    assert out.shape == (64, 96, 3) and scale == min(64 / height, 96 / width)
    inside = out[: max(round(height * scale), 1), : max(round(width * scale), 1)]
    assert (inside == 200).all() and (out == 200).sum() == inside.size


def test_fit_to_side_pads_to_multiples_of_32():
    out, scale = fit_to_side(np.full((200, 100, 3), 9, np.uint8), 640)
    assert out.shape == (640, 320, 3) and scale == 3.2
    out, scale = fit_to_side(np.full((201, 100), 9, np.uint8), 100)
    assert out.shape == (128, 64) and scale == 100 / 201


def test_affine_and_perspective_points():
    assert apply_affine(np.array([[2, 0, 1], [0, 3, -1]]), SQUARE)[2].tolist() == [9, 8]
    matrix = cv2.getPerspectiveTransform(SQUARE, np.float32([[0, 0], [8, 1], [7, 9], [1, 8]]))
    assert np.allclose(apply_affine(matrix, SQUARE), [[0, 0], [8, 1], [7, 9], [1, 8]], atol=1e-4)


def test_box_iou_by_hand():
    iou = box_iou([[0, 0, 2, 2], [5, 5, 5, 5]], [[1, 1, 3, 3], [0, 0, 2, 2], [9, 9, 10, 10]])
    assert iou[0] == pytest.approx([1 / 7, 1, 0]) and iou[1].tolist() == [0, 0, 0]
    assert box_iou([], [[0, 0, 1, 1]]).shape == (0, 1)
