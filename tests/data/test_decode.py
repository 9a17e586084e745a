import numpy as np
import pytest
from downloads import write_dicom
from PIL import Image

from medpeft_cli.data.decode import decode_file, is_picture, shrink, stretch
from medpeft_cli.errors import DataError

RAMP = np.arange(12 * 10, dtype=np.uint8).reshape(10, 12) * 2
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)


def saved(tmp_path, image: Image.Image, name: str = "x.png", **options):
    image.save(tmp_path / name, **options)
    return decode_file(tmp_path / name)


def test_grey_colour_and_grey_in_colour(tmp_path):
    assert np.array_equal(saved(tmp_path, Image.fromarray(RAMP)), RAMP)
    assert np.array_equal(saved(tmp_path, Image.fromarray(COLOUR)), COLOUR)
    grey_as_rgb = Image.fromarray(np.repeat(RAMP[:, :, None], 3, axis=2))
    assert np.array_equal(saved(tmp_path, grey_as_rgb), RAMP)


def test_one_bit_is_black_and_white(tmp_path):
    assert np.array_equal(saved(tmp_path, Image.fromarray(RAMP > 99)), np.where(RAMP > 99, 255, 0))


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_are_stretched_from_minimum_to_maximum(tmp_path, name):
    deep = RAMP.astype(np.uint16) * 100 + 1000
    assert np.array_equal(saved(tmp_path, Image.fromarray(deep), name), np.rint(RAMP * (255 / 238)))


def test_float_pixels_are_stretched_and_not_a_number_is_refused(tmp_path):
    assert np.array_equal(
        saved(tmp_path, Image.fromarray(RAMP / np.float32(1000)), "x.tif"), np.rint(RAMP * (255 / 238))
    )
    with pytest.raises(DataError, match="not finite"):
        saved(tmp_path, Image.fromarray(np.full((4, 4), np.nan, np.float32)), "x.tif")


def test_a_constant_picture_has_no_range_to_stretch():
    assert not stretch(np.full((2, 2), 7)).any()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_laid_over_black(tmp_path, mode):
    image = Image.fromarray(RAMP).convert({"LA": "L", "PA": "P"}.get(mode, "RGB"))
    alpha = Image.fromarray(np.where(np.arange(12) < 6, 255, 0).astype(np.uint8)[None].repeat(10, 0))
    image = image.convert(mode)
    image.putalpha(alpha)
    name = "x.tif" if mode == "PA" else "x.png"
    if mode == "PA":
        image = image.convert("RGBA")
    assert np.array_equal(saved(tmp_path, image, name), np.where(np.arange(12) < 6, RAMP, 0))


def test_a_palette_gives_its_colours_and_its_transparent_entry_black(tmp_path):
    image = Image.new("P", (4, 2), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 0)
    pixels = saved(tmp_path, image, transparency=0)
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[1, 1].tolist() == [200, 100, 50]


def test_cmyk_becomes_rgb(tmp_path):
    ink = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert saved(tmp_path, ink, "x.tif")[0, 0].tolist() == [255, 0, 0]


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    pixels = saved(tmp_path, Image.fromarray(RAMP), exif=exif)
    assert np.array_equal(pixels, np.rot90(RAMP, -1))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.png", b"", "empty file"),
        ("x.dcm", b"", "empty file"),
        ("x.png", b"not a picture", "no picture of a known format"),
        ("x.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "no picture of a known format"),
        ("x.dcm", b"not a picture", "no DICOM file"),
    ],
)
def test_a_damaged_file_is_a_reason_and_not_a_black_picture(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        decode_file(tmp_path / name)
    assert caught.value.message == reason


def test_a_truncated_jpeg_is_refused(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "x.jpg")
    whole = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="truncated"):
        decode_file(tmp_path / "x.jpg")


def test_eight_bit_dicom_is_as_stored_and_monochrome1_inverted(tmp_path):
    assert np.array_equal(decode_file(write_dicom(tmp_path / "x.dcm", RAMP)), RAMP)
    assert np.array_equal(decode_file(write_dicom(tmp_path / "y.dcm", RAMP, "MONOCHROME1")), 255 - RAMP)
    assert np.array_equal(decode_file(write_dicom(tmp_path / "z.dcm", COLOUR, "RGB")), COLOUR)


def test_dicom_window_follows_the_standard(tmp_path):
    """PS3.3 C.11.2.1.2.1: linear between centre − 0.5 ± (width − 1) / 2, after the rescale."""
    stored = RAMP.astype(np.uint16) * 16
    path = write_dicom(
        tmp_path / "x.dcm", stored, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=500, WindowWidth=1001
    )
    values = stored * 2.0 - 1000
    wanted = np.clip((values - 499.5) / 1000 + 0.5, 0, 1) * 255
    assert np.abs(decode_file(path).astype(float) - wanted).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_window_gives_the_same_grey_whatever_else_the_picture_holds(tmp_path, function):
    """PS3.3 C.11.2.1.2 and C.11.2.1.3: 40 is the centre of 0 to 80 in each picture, and so half of white."""
    tags = {"WindowCenter": [40, 900], "WindowWidth": [80, 10], "VOILUTFunction": function, "RescaleSlope": 1}
    dark, bright = (
        decode_file(
            write_dicom(tmp_path / f"{top}.dcm", np.array([[40, 60, top]], np.int16), **tags, RescaleIntercept=0)
        )
        for top in (50, 3000)
    )
    assert np.array_equal(dark[:, :2], bright[:, :2])
    half = {"LINEAR": (0.5 / 79 + 0.5) * 255, "LINEAR_EXACT": 127.5, "SIGMOID": 127.5}[function]
    assert abs(float(dark[0, 0]) - half) <= 0.5 + 1e-9
    assert bright[0, 2] == 255 and 255 > dark[0, 1] > dark[0, 0]


def test_a_window_without_width_is_a_reason(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", RAMP, WindowCenter=40, WindowWidth=0)
    with pytest.raises(DataError, match="WindowWidth 0"):
        decode_file(path)


def test_signed_rescaled_dicom_without_a_window_is_linear(tmp_path):
    stored = np.array([[-1000, 0, 1000]], np.int16)
    path = write_dicom(tmp_path / "x.dcm", stored, RescaleSlope=1, RescaleIntercept=-24)
    assert decode_file(path).tolist() == [[0, 128, 255]]


def test_jpeg_dicom_without_extension_is_known_by_its_bytes(tmp_path):
    smooth = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    path = write_dicom(tmp_path / "IM0001", smooth, jpeg=True)
    assert is_picture(path) and not is_picture(write_dicom(tmp_path / "DICOMDIR", smooth))
    assert np.abs(decode_file(path).astype(int) - smooth).max() <= 6
    (tmp_path / "IM0002").write_bytes(b"\0" * 200)
    assert not is_picture(tmp_path / "IM0002")


def test_dicom_of_several_frames_is_refused(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", RAMP, NumberOfFrames=3)
    with pytest.raises(DataError, match="3 frames"):
        decode_file(path)


def test_shrink_keeps_the_aspect_and_never_enlarges():
    assert shrink(Image.new("RGB", (50, 100)), 25).size == (25, 50)
    assert shrink(Image.new("L", (50, 33)), 25).size == (38, 25)
    small = Image.new("L", (500, 20))
    assert shrink(small, 25) is small
