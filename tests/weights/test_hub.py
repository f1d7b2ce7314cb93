"""Downloads, from a server that also gives wrong answers."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from maskrcnn.errors import CheckpointError
from maskrcnn.weights import hub
from maskrcnn.weights.hub import download, fetch, find, is_name, place_of
from maskrcnn.weights.manifest import Release, releases

CONTENT = bytes(range(256)) * 400
SHA = "sha256:" + hashlib.sha256(CONTENT).hexdigest()[:8]
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()[:6]

Answer = Callable[[BaseHTTPRequestHandler, int], None]  # the request, and how many came before


class Server:
    def __init__(self) -> None:
        self.answer: Answer = honest
        self.ranges: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.ranges.append(self.headers.get("Range"))
                server.answer(self, len(server.ranges) - 1)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/model.pkl"

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def send(request: BaseHTTPRequestHandler, body: bytes, code: int = 200, **headers: object) -> None:
    request.send_response(code)
    for name, value in {"Content_Length": len(body), **headers}.items():
        request.send_header(name.replace("_", "-"), str(value))
    request.end_headers()
    request.wfile.write(body)


def honest(request: BaseHTTPRequestHandler, _: int) -> None:
    asked = request.headers.get("Range")
    start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
    if start >= len(CONTENT):
        send(request, b"", 416)
    elif asked:
        send(request, CONTENT[start:], 206, Content_Range=f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
    else:
        send(request, CONTENT)


def cut_off(request: BaseHTTPRequestHandler, _: int) -> None:
    send(request, CONTENT[:5000], Content_Length=len(CONTENT))


def cut_off_once(request: BaseHTTPRequestHandler, before: int) -> None:
    (honest if before else cut_off)(request, before)


def ignores_ranges(request: BaseHTTPRequestHandler, _: int) -> None:
    send(request, CONTENT)


def endless(request: BaseHTTPRequestHandler, _: int) -> None:
    request.send_response(200)
    request.end_headers()
    for _ in range(1000):
        request.wfile.write(CONTENT)


def ends_early_without_a_length(request: BaseHTTPRequestHandler, _: int) -> None:
    request.send_response(200)
    request.end_headers()
    request.wfile.write(CONTENT[:5000])


def from_elsewhere(request: BaseHTTPRequestHandler, _: int) -> None:
    end = len(CONTENT) - 1
    send(request, CONTENT[50:], 206, Content_Range=f"bytes 50-{end}/{end + 1}")


def larger_than_said(request: BaseHTTPRequestHandler, _: int) -> None:
    send(request, b"", Content_Length=10**15)


def to(address: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler, _: int) -> None:
        send(request, b"", 302, Location=address)

    return answer


def missing(request: BaseHTTPRequestHandler, _: int) -> None:
    send(request, b"gone", 404)


def busy_once(request: BaseHTTPRequestHandler, before: int) -> None:
    honest(request, before) if before else send(request, b"", 503)


def around(request: BaseHTTPRequestHandler, before: int) -> None:
    honest(request, before) if request.path == "/moved.pkl" else to("/moved.pkl")(request, before)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(hub, "_SCHEMES", ("http",))
    started = Server()
    yield started
    started.stop()


def get(server: Server, path: Path, *, digest: str = SHA, limit: int = 200_000) -> bytes:
    download(server.address, path, digest=digest, limit=limit)
    return path.read_bytes()


@pytest.mark.parametrize("digest", [SHA, MD5, ""])
@pytest.mark.parametrize("answer", [honest, cut_off_once, busy_once, around, ignores_ranges])
def test_the_file_arrives(server: Server, tmp_path: Path, answer: Answer, digest: str) -> None:
    server.answer = answer
    assert get(server, tmp_path / "a" / "model.pkl", digest=digest) == CONTENT
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["model.pkl"]


def test_a_download_that_was_cut_off_resumes(server: Server, tmp_path: Path) -> None:
    server.answer = cut_off_once
    assert get(server, tmp_path / "model.pkl") == CONTENT
    assert server.ranges == [None, "bytes=5000-"]


def test_an_earlier_part_is_used_or_discarded(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pkl.part").write_bytes(CONTENT[:100])
    assert get(server, tmp_path / "model.pkl") == CONTENT
    (tmp_path / "model.pkl.part").write_bytes(CONTENT + b"more")
    assert get(server, tmp_path / "model.pkl") == CONTENT
    server.answer = ignores_ranges
    (tmp_path / "model.pkl.part").write_bytes(b"something else")
    assert get(server, tmp_path / "model.pkl") == CONTENT


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (cut_off, r"ended after \d+ of 102400 bytes.*try again"),
        (ends_early_without_a_length, "not the file that was released"),
        (from_elsewhere, "not the file that was released"),
        (endless, "longer than it should be"),
        (larger_than_said, "at most 200000 were expected"),
        (to("http://localhost:1/model.pkl"), "leads to another host"),
        (to("https://127.0.0.1/model.pkl"), "is not http;"),
        (to("file:///etc/passwd"), "could not be downloaded"),  # urllib's own rule
        (to("/model.pkl"), "could not be downloaded"),  # round and round
        (missing, "404"),
        (lambda request, _: send(request, CONTENT[::-1]), "not the file that was released"),
        (lambda request, _: request.wfile.write(b"nonsense\r\n\r\n"), "could not be downloaded"),
    ],
)
def test_a_wrong_answer_is_an_error_and_leaves_no_file(
    server: Server, tmp_path: Path, answer: Answer, message: str
) -> None:
    server.answer = answer
    with pytest.raises(CheckpointError, match=message):
        get(server, tmp_path / "model.pkl")
    assert not (tmp_path / "model.pkl").exists()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 200_000


def test_a_download_does_not_resume_from_a_wrong_file(server: Server, tmp_path: Path) -> None:
    server.answer = lambda request, _: send(request, CONTENT[::-1])
    with pytest.raises(CheckpointError):
        get(server, tmp_path / "model.pkl")
    server.answer = honest
    assert get(server, tmp_path / "model.pkl") == CONTENT
    assert server.ranges[-1] is None


@pytest.mark.parametrize("address", ["http://127.0.0.1/a.pkl", "ftp://127.0.0.1/a.pkl", "file:///etc/passwd"])
def test_only_https_is_allowed(tmp_path: Path, address: str) -> None:
    with pytest.raises(CheckpointError, match="is not https; nothing was downloaded"):
        download(address, tmp_path / "a.pkl", digest="", limit=10)


def test_no_server_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_SCHEMES", ("http",))
    server = Server()
    server.stop()
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        get(server, tmp_path / "model.pkl")


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_and_files_are_distinguished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_name("torchvision:maskrcnn_resnet50_fpn")
    assert not any(
        is_name(text) for text in ("a.pth", "C:\\models\\a.pth", "torchvision:/a.pth", "other:name", tmp_path)
    )


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(CheckpointError, match=r"there is .*detectron2:mask_rcnn_R_50_FPN_3x"):
        find("detectron2:mask_rcnn_R_50_FPN_4x")


def test_the_manifest_by_hand() -> None:
    base = "https://dl.fbaipublicfiles.com"
    r50 = find("detectron2:mask_rcnn_R_50_FPN_3x")
    path = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
    assert (r50.address, r50.digest) == (f"{base}/detectron2/{path}", "md5:f10217")
    assert (r50.box_ap, r50.mask_ap, r50.keypoint_ap) == (41.0, 37.2, None)
    v1 = find("torchvision:maskrcnn_resnet50_fpn")
    assert v1.address == "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
    assert v1.digest == "sha256:bf2d0c1e"
    assert 178_000_000 < v1.size < 178_200_000
    keypoints = find("detectron:e2e_keypoint_rcnn_R-50-FPN_1x")
    assert keypoints.address == (
        f"{base}/detectron/37697547/12_2017_baselines/e2e_keypoint_rcnn_R-50-FPN_1x.yaml.08_42_54.kdzV35ao/output/train/"
        "keypoints_coco_2014_train%3Akeypoints_coco_2014_valminusminival/generalized_rcnn/model_final.pkl"
    )


def test_every_release_has_a_digest_and_its_own_file() -> None:
    rows = releases().values()
    assert len(rows) == 72
    assert len({row.file for row in rows}) == len({row.address for row in rows}) == len(rows)
    assert all(row.address.startswith("https://") and row.digest and row.licence for row in rows)
    assert [row.name.partition(":")[2].partition("_")[0] for row in rows if row.box_ap is None] == [
        *("resnet18", "resnet34", "resnet50", "resnet50", "resnet101", "resnet101", "resnext101", "resnext101")
    ]


def make_release(address: str, digest: str = SHA) -> Release:
    return Release("torchvision:x", address, digest, 200_000, "free", 1.0, None, None)


def test_the_cache_comes_first(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path))
    path = fetch(make_release(server.address))
    assert path == tmp_path / "torchvision" / "x.pkl"
    assert "licence: free" in capsys.readouterr().out
    assert fetch(make_release(server.address), offline=True) == path
    assert len(server.ranges) == 1


def test_offline_says_which_file_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path))
    monkeypatch.setenv("MASKRCNN_OFFLINE", "1")
    with pytest.raises(
        CheckpointError, match=r"put https://download\.pytorch\.org/\S+\.pth at \S*maskrcnn_resnet50_fpn\.pth"
    ):
        fetch(find("torchvision:maskrcnn_resnet50_fpn"))


def test_a_published_sum_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path))

    def answer_with(text: str) -> Answer:
        def answer(request: BaseHTTPRequestHandler, before: int) -> None:
            if request.path.endswith(".md5sum"):
                send(request, text.encode())
            else:
                honest(request, before)

        return answer

    server.answer = answer_with("0" * 32)
    with pytest.raises(CheckpointError, match="not the file that was released"):
        fetch(make_release(server.address, "md5sum"))
    server.answer = answer_with(hashlib.md5(CONTENT).hexdigest() + "  model_final.pkl\n")
    assert fetch(make_release(server.address, "md5sum")).read_bytes() == CONTENT


# --- several at once -------------------------------------------------------------------------------------------------


def slow(request: BaseHTTPRequestHandler, before: int) -> None:
    time.sleep(0.2)
    honest(request, before)


def test_later_callers_wait_and_find_the_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path))
    server.answer = slow
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(fetch, make_release(server.address)) for _ in range(4)]
        assert {future.result(timeout=20).read_bytes() for future in waiting} == {CONTENT}
    assert len(server.ranges) == 1
    assert capsys.readouterr().out.count("licence") == 1
    assert [path.name for path in (tmp_path / "torchvision").iterdir()] == ["x.pkl"]


def test_after_a_failure_the_next_caller_tries(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path))
    server.answer = lambda request, before: slow(request, before) if before else missing(request, before)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(fetch, make_release(server.address)) for _ in range(2)]
        errors = [future.exception(timeout=20) for future in both]
    assert sorted(type(error).__name__ for error in errors) == ["CheckpointError", "NoneType"]
    assert len(server.ranges) == 2


@pytest.mark.skipif(os.name != "posix", reason="this test takes the lock of another process with flock")
def test_the_lock_of_a_killed_process_is_free(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path))
    place = tmp_path / "torchvision" / "x.pkl"
    place.parent.mkdir()
    program = "import fcntl, sys, time; f = open(sys.argv[1], 'ab'); fcntl.flock(f, 2); print('held'); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-u", "-c", program, f"{place}.lock"], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    with other, ThreadPoolExecutor(1) as pool:
        assert other.stdout.readline() == "held\n"
        waiting = pool.submit(fetch, make_release(server.address))
        while not (said := capsys.readouterr().out):
            time.sleep(0.01)
        assert "waiting for another process, which downloads x.pkl" in said
        assert server.ranges == []
        other.kill()
        assert waiting.result(timeout=20).read_bytes() == CONTENT


def test_the_cache_moves_with_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASKRCNN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert place_of(make_release("https://a/b.pth")) == tmp_path / "maskrcnn" / "torchvision" / "x.pth"


def test_a_file_or_a_run_wins_over_a_name_and_another_folder_does_not(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "torchvision:maskrcnn_resnet50_fpn"
    Path(name).mkdir()
    assert is_name(name)
    Path(name, "model.safetensors").touch()
    assert not is_name(name)
    Path("detectron:some").touch()
    assert not is_name("detectron:some")
