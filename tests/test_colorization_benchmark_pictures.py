"""Where the pictures of the benchmark come from, and how they are divided."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from aesg.benchmark.pictures import Pairs, Pictures, load_pictures, seen_again
from aesg.benchmark.scenes import generated_scene
from aesg.benchmark.settings import Settings
from aesg.errors import AESGTrainingError

SIDE = 32


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "dataset": "generated",
        "image_dir": None,
        "data_dir": Path("data"),
        "max_images": 10,
        "image_size": SIDE,
        "epochs": 1,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "seeds": (0,),
        "device": "cpu",
        "model_options": {},
    }
    return Settings(**{**values, **changes})


def loaded(chosen: Settings) -> Pictures:
    return load_pictures(chosen, lambda file: False)


def photo(seed: int, width: int = 40, height: int = 40) -> Image.Image:
    dice = np.random.default_rng(seed)
    small = Image.fromarray(dice.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def folder_of(path: Path, count: int = 5) -> Path:
    path.mkdir()
    for number in range(count):
        photo(number).save(path / f"{number}.png")
    return path


def from_folder(path: Path, most: int = 100) -> Pictures:
    return loaded(settings(dataset="folder", image_dir=path, max_images=most))


# Generated scenes


def test_generated_scenes_are_the_same_at_every_call_and_all_different() -> None:
    first, second = (loaded(settings(max_images=25)) for _ in range(2))
    assert first.digest == second.digest
    assert len({picture.numpy().tobytes() for picture in first.pixels}) == 25
    assert not first.notes


def test_generated_scenes_have_light_and_colour() -> None:
    for index in range(10):
        scene = generated_scene(index, SIDE).astype(int)
        assert scene.std() > 10
        assert np.ptp(scene, axis=-1).mean() > 10


def test_fewer_scenes_are_the_first_of_more() -> None:
    few, many = (loaded(settings(max_images=count)) for count in (5, 8))
    assert torch.equal(few.pixels, many.pixels[:5])


# Division and views


def test_no_picture_is_both_trained_on_and_judged() -> None:
    pictures = loaded(settings(max_images=20))
    train, judged = pictures.divided(0)
    assert (len(train), len(judged)) == (16, 4)
    parts = [{each.numpy().tobytes() for each in part} for part in (train, judged)]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == 20
    assert not torch.equal(pictures.divided(1)[1], judged)


def test_a_pair_is_a_gray_picture_and_its_colours() -> None:
    pixels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    pixels[0, 1] = 255  # green
    gray, colour = Pairs(pixels)[0]
    torch.testing.assert_close(gray, torch.full((1, 2, 2), 0.587))
    torch.testing.assert_close(colour[1], torch.ones(2, 2))


def test_other_views_are_cut_out_of_the_pictures_in_another_light() -> None:
    pixels = loaded(settings(max_images=6)).pixels
    views = seen_again(pixels, 0)
    assert views.shape == (6, 3, 28, 28)
    assert torch.equal(views, seen_again(pixels, 0))
    for view, picture in zip(views, pixels, strict=True):
        windows = picture.float().unfold(1, 28, 1).unfold(2, 28, 1).flatten(1, 2)
        light = view.float().mean() / windows.mean((0, 2, 3))
        errors = (windows * light[:, None, None] - view[:, None]).abs().mean((0, 2, 3))
        assert float(errors.min()) < 2  # of 255


# A folder


def test_images_of_any_size_and_kind_become_squares(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "images", 3)
    photo(11, 90, 30).save(path / "wide.jpg")
    photo(12, 20, 70).convert("RGBA").save(path / "tall.png")
    photo(13).convert("P").save(path / "palette.gif")
    photo(14).convert("CMYK").save(path / "print.jpg")
    (path / "deep").mkdir()
    photo(15).save(path / "deep" / "upper.PNG")
    found = from_folder(path)
    assert found.pixels.shape == (8, 3, SIDE, SIDE)
    assert found.pixels.dtype == torch.uint8
    assert not found.notes


def test_the_middle_of_an_image_is_taken_in_its_proportions(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "images", 4)
    wide = Image.new("RGB", (90, 30), "red")
    wide.paste((0, 0, 255), (30, 0, 60, 30))
    wide.save(path / "wide.png")
    middles = from_folder(path).pixels[:, :, 4:-4, 4:-4].flatten(2)
    assert middles[:, 2].amin(1).max() == 255  # one is all blue
    wholes = from_folder(path).pixels[middles[:, 2].amin(1) == 255]
    assert float(wholes[:, 0].float().mean()) < 10  # and has no red beside it


def test_an_image_is_turned_as_its_camera_was(tmp_path: Path) -> None:
    upright, turned = folder_of(tmp_path / "upright", 4), folder_of(tmp_path / "turned", 4)
    image = photo(11)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(upright / "it.png")
    image.transpose(Image.Transpose.ROTATE_90).save(turned / "it.png", exif=exif)
    assert from_folder(upright).digest == from_folder(turned).digest


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "images", 4)
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    image.paste((0, 255, 0, 0), (0, 0, 32, 16))
    image.save(path / "half.png")
    found = [each for each in from_folder(path).pixels if each[0].min() == 255]
    assert len(found) == 1
    assert found[0][:, 0, 0].tolist() == [255, 255, 255]
    assert found[0][:, -1, 0].tolist() == [255, 0, 0]


def _broken(path: Path) -> None:
    (path / "odd.png").write_bytes(b"no image at all")


def _truncated(path: Path) -> None:
    whole = path / "odd.jpg"
    photo(20, 300, 300).save(whole)
    whole.write_bytes(whole.read_bytes()[:1500])


def _short(path: Path) -> None:
    photo(20, 300, 15).save(path / "odd.png")


def _avif(path: Path) -> None:
    whole = path / "odd.avif"
    photo(20, 64, 64).save(whole)
    head, _, data = whole.read_bytes().partition(b"mdat")
    whole.write_bytes(head + b"mdat" + b"\xff" * len(data))


def _gray(path: Path) -> None:
    photo(20).convert("L").save(path / "odd.png")


def _deep_gray(path: Path) -> None:
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40).save(path / "odd.png")


def _repeated(path: Path) -> None:
    photo(0).save(path / "odd.bmp")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_broken, "they cannot be read: 1 (odd.png)"),
        (_truncated, "they cannot be read: 1 (odd.jpg)"),
        (_avif, "they cannot be read: 1 (odd.avif)"),
        (_short, "they have a side of less than 16 pixels: 1 (odd.png)"),
        (_gray, "they have no colour: 1 (odd.png)"),
        (_deep_gray, "they have no colour: 1 (odd.png)"),
        (_repeated, "they show the same as another: 1"),
    ],
)
def test_images_of_no_use_are_left_out_and_named(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    path = folder_of(tmp_path / "images")
    spoil(path)
    found = from_folder(path)
    assert len(found.pixels) == 5
    assert len(found.notes) == 1
    assert reason in found.notes[0]


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "images")
    (path / "notes.txt").write_text("no image")
    (path / ".thumbnail.png").write_bytes(b"no image")
    (path / ".cache").mkdir()
    photo(9).save(path / ".cache" / "9.png")
    found = from_folder(path)
    assert len(found.pixels) == 5
    assert not found.notes


def test_a_folder_with_too_few_images_is_refused_with_what_was_left_out(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "images", 4)
    _broken(path)
    with pytest.raises(AESGTrainingError, match=r"at least 5 .* got 4; .* cannot be read: 1"):
        from_folder(path)


def test_of_many_images_chance_takes_some_the_same_every_time(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "images", 9)
    few = from_folder(path, most=6)
    assert len(few.pixels) == 6
    assert few.digest == from_folder(path, most=6).digest


# CIFAR-10


def write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray[Any, Any]:
    """Write an archive of the format of CIFAR-10, and let torchvision expect its checksums."""
    from torchvision.datasets import CIFAR10

    base = folder / CIFAR10.base_folder
    base.mkdir(parents=True)
    dice = np.random.default_rng(0)
    images = dice.integers(0, 256, (5, 4, 3 * 32 * 32), dtype=np.uint8)

    def written(name: str, content: dict[str, Any]) -> list[str]:
        data = pickle.dumps(content)
        (base / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    batches = [
        written(f"data_batch_{number}", {"data": part, "labels": [0] * len(part)})
        for number, part in enumerate(images, 1)
    ]
    meta = written("batches.meta", {"label_names": ["thing"]})
    monkeypatch.setattr(CIFAR10, "train_list", batches)
    monkeypatch.setattr(CIFAR10, "test_list", [])
    monkeypatch.setattr(
        CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]}
    )
    return images.reshape(20, 3, 32, 32)


def test_cifar_is_read_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    images = write_cifar(tmp_path, monkeypatch)
    found = loaded(settings(dataset="cifar10", data_dir=tmp_path))
    assert found.source.startswith("CIFAR-10")
    assert torch.equal(found.pixels, torch.from_numpy(images[:10]))
    large = loaded(settings(dataset="cifar10", data_dir=tmp_path, image_size=64))
    assert large.pixels.shape == (10, 3, 64, 64)


def test_a_damaged_archive_that_cannot_be_fetched_is_replaced_by_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    from torchvision.datasets import cifar

    write_cifar(tmp_path, monkeypatch)
    (tmp_path / cifar.CIFAR10.base_folder / "data_batch_3").write_bytes(b"damaged")

    def offline(*arguments: Any, **options: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(cifar, "download_and_extract_archive", offline)
    with pytest.warns(UserWarning, match="no route to host.*generated scenes"):
        found = loaded(settings(dataset="cifar10", data_dir=tmp_path))
    assert (found.dataset, found.source) == ("generated", "generated scenes")
    assert "no route to host" in found.notes[0]


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError", "OSError"])
def test_without_a_torchvision_that_works_scenes_are_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise {error}('does not fit')")
    for name in [each for each in sys.modules if each.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match=f"{error}: does not fit"):
        found = loaded(settings(dataset="cifar10"))
    assert found.digest == loaded(settings()).digest
