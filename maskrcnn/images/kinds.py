"""What a file is, by its first bytes: which image format, or what else."""

PREFIX = 32  # bytes at the start of a file that say what it is
# Formats by Pillow's names; NPY and HEIF are read by others. PostScript and PDF are left out: they run programs.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "PPM", "GIF", "JPEG2000", "AVIF", "HEIF", "NPY")
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".webp", ".ppm", ".pgm",
    ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".j2c", ".avif", ".heic", ".heif", ".npy",
)  # fmt: skip

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_STARTS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "TIFF": _TIFF,
    "GIF": (b"GIF87a", b"GIF89a"),
    "JPEG2000": (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"),
    "NPY": (b"\x93NUMPY",),
}
_BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # lengths of the header of a Windows bitmap
_OTHERS = (
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file; fetch the files with: git lfs pull"),
    (b"\0\5\x16\7", "what macOS keeps beside a file of the same name without ._ in front; it can be deleted"),
    (b"%PDF", "a PDF; export its images first"),
    (b"%!PS", "PostScript; export it as PNG first"),
    (b"8BPS", "a Photoshop document; export it as TIFF or PNG first"),
    (b"ZISRAWFILE", "a Zeiss CZI; export it as OME-TIFF first"),
    (b"\xda\xce\xbe\n", "a Nikon ND2; export it as OME-TIFF first"),
    (b"\x89HDF", "HDF5; export its images first"),
    (b"PK\3\4", "a zip archive; unpack it first"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"<!doctype html", "an HTML page, such as a server sends in place of a file"),
    (b"<html", "an HTML page, such as a server sends in place of a file"),
    (b"<svg", "an SVG drawing; export it as PNG first"),
    (b"<?xml", "XML"),
)


def kind_of(prefix: bytes) -> str | None:
    """The image format, one of `FORMATS` or DIB, of a file that begins with these bytes (`PREFIX` of them)."""
    for kind, starts in _STARTS.items():
        if prefix.startswith(starts):
            return kind
    if prefix[:4] == b"RIFF" and prefix[8:12] == b"WEBP":
        return "WEBP"
    if prefix[:1] == b"P" and prefix[1:2] in b"1234567fFy" and prefix[2:3] in b"\n\r\t #" and len(prefix) > 2:
        return "PPM"
    if prefix[:2] == b"BM" and _number(prefix[14:18]) in _BITMAP_HEADERS:
        return "BMP"
    if prefix[4:8] == b"ftyp":
        return _heif(prefix)
    planes, bits = _number(prefix[12:14]), _number(prefix[14:16])
    if _number(prefix[:4]) in _BITMAP_HEADERS[1:] and planes == 1 and bits in (1, 4, 8, 16, 24, 32):
        return "DIB"  # the same without the header of the file
    return None


def is_film(prefix: bytes) -> bool:
    """Whether a file that is no image and begins so is a video: MP4 and MOV, Matroska and WebM, AVI, FLV, MPEG."""
    return (
        prefix[4:8] in (b"ftyp", b"moov", b"mdat", b"wide")
        or prefix.startswith((b"\x1a\x45\xdf\xa3", b"FLV\1", b"\0\0\1\xba", b"\0\0\1\xb3"))
        or (prefix[:4] == b"RIFF" and prefix[8:12] == b"AVI ")
    )


def what_else(prefix: bytes) -> str:
    """What a file is that is no image, and what to do about it, as the end of a sentence."""
    if is_film(prefix):
        return "a video; `predict` takes it by itself, and `train` its frames as images"
    if prefix.lstrip()[:1] == b"{":
        return "text, perhaps JSON"
    return start_of(prefix) or f"not an image; expected one of {', '.join(FORMATS)}"


def start_of(prefix: bytes) -> str | None:
    """What else than an image or json a file is that begins so, as the end of a sentence; None if it is not known."""
    if not prefix:
        return "empty"
    start = prefix.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for begins, words in _OTHERS:
        if prefix.startswith(begins) or start.startswith(begins):
            return words
    return None if any(prefix) else "filled with zeros, as a copy that broke off leaves it"


def _heif(prefix: bytes) -> str | None:
    """AVIF and HEIC share a container; its brands, the main one first, say which of the two it is."""
    brands = [prefix[8:12], *(prefix[i : i + 4] for i in range(16, PREFIX, 4))]
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    heic = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
    return "HEIF" if any(brand in heic for brand in brands) else None


def _number(content: bytes) -> int:
    return int.from_bytes(content, "little")
