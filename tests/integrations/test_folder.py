"""The files of a folder of images: what is read of them, and what is refused."""

import os
import struct

import numpy as np
import pytest
from PIL import Image
from PIL import ImageFile as PillowFile

from mmcert.integrations.folder import ImageFile, find_images

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)


def turned(path, **options):
    """An image whose EXIF data says that it lies on its side."""
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(PIXELS).save(path, exif=exif, **options)
    return path


def with_exif_last(path):
    """The same PNG with its EXIF data behind the pixels."""
    data, place, chunks = path.read_bytes(), 8, []
    while place < len(data):
        end = place + 12 + struct.unpack_from('>I', data, place)[0]
        chunks.append(data[place:end])
        place = end
    chunks.sort(key=lambda chunk: {b'IHDR': 0, b'eXIf': 2, b'IEND': 3}.get(chunk[4:8], 1))
    path.write_bytes(data[:8] + b''.join(chunks))
    return path


def test_sizes_are_those_of_the_images_that_are_read_and_no_png_is_decoded(tmp_path, monkeypatch):
    files = [
        turned(tmp_path / 'before.png'),
        with_exif_last(turned(tmp_path / 'behind.png')),
        turned(tmp_path / 'photo.jpg'),
    ]
    shapes = [ImageFile(file, None).read().shape for file in files]
    assert shapes == [(6, 8, 3)] * 3
    monkeypatch.setattr(PillowFile.ImageFile, 'load', None)
    assert [file.header.size for file in find_images(tmp_path)] == [(6, 8)] * 3


@pytest.mark.parametrize('name', ['one.png', 'one.jpg'])
def test_an_image_that_was_cut_off_is_refused(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(PIXELS.repeat(20, 0).repeat(20, 1)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f'{name} cannot be read: image file is truncated'):
        find_images(tmp_path)[0].read()


def test_links_are_followed_and_no_image_is_passed_over(tmp_path):
    folder, elsewhere = tmp_path / 'images', tmp_path / 'elsewhere'
    for place in (folder, elsewhere):
        place.mkdir()
        Image.fromarray(PIXELS).save(place / 'one.png')
    (folder / 'other').symlink_to(elsewhere)
    (folder / 'self').symlink_to(folder)
    assert [file.image for file in find_images(folder)] == [
        folder / 'one.png', folder / 'other/one.png'
    ]  # fmt: skip
    (folder / 'two.png').symlink_to(tmp_path / 'nowhere.png')
    with pytest.raises(FileNotFoundError, match='two.png is a link to a file that is not there'):
        find_images(folder)


def test_a_name_that_is_no_text_and_an_image_that_is_too_large_are_refused(tmp_path, monkeypatch):
    Image.fromarray(PIXELS).save(tmp_path / 'one.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 20)
    with pytest.raises(ValueError, match=r'one.png cannot be read: Image size \(48 pixels\)'):
        find_images(tmp_path)
    try:
        (tmp_path / 'one.png').rename(os.fsdecode(os.fsencode(tmp_path) + b'/\xff.png'))
    except OSError:
        pytest.skip('this file system takes no such name')
    with pytest.raises(ValueError, match='is no text in UTF-8: rename it'):
        find_images(tmp_path)
