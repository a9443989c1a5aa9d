"""Resumable uploads over REST, as tus 1.0.0 has them; also by tus's own client, which knows nothing of us."""

import asyncio
import base64
import contextlib
import hashlib
import io

import pytest
from tusclient.client import TusClient

from server.http.routes import API
from server.ports import Role
from tests.people_side import PeopleSide

DATA = bytes(range(256)) * 512
SHA256 = hashlib.sha256(DATA).hexdigest()
METADATA = {
    "Upload-Metadata": f"filename {base64.b64encode(b'a.img').decode()},sha256 {base64.b64encode(SHA256.encode()).decode()}"
}
TUS = {"Tus-Resumable": "1.0.0"}
OFFSET = {"Content-Type": "application/offset+octet-stream"}


async def begun(people: PeopleSide, role: Role = Role.OPERATOR) -> str:
    headers = {**people.headers(role), **TUS, **METADATA, "Upload-Length": str(len(DATA))}
    answer = await people.client.post(f"{API}/uploads", headers=headers)
    assert answer.status == 201, await answer.text()
    assert answer.headers["Location"] == f"{API}/uploads/{(await answer.json())['id']}"
    assert answer.headers["Upload-Expires"].endswith("GMT")
    return answer.headers["Location"]


async def sent(people: PeopleSide, url: str, data: bytes, at: int, **more: str) -> tuple[int, str]:
    headers = {**people.headers(Role.OPERATOR), **TUS, **OFFSET, "Upload-Offset": str(at), **more}
    answer = await people.client.patch(url, data=data, headers=headers)
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    return answer.status, answer.headers.get("Upload-Offset", "") or (await answer.json())["type"]


async def offset(people: PeopleSide, url: str, role: Role = Role.OPERATOR) -> tuple[int, str | None]:
    answer = await people.client.head(url, headers={**people.headers(role), **TUS})
    return answer.status, answer.headers.get("Upload-Offset")


async def test_in_parts_it_becomes_an_artifact_and_not_before(people: PeopleSide) -> None:
    url = await begun(people)
    assert await offset(people, url) == (200, "0")
    assert await sent(people, url, DATA[:1000], 0) == (204, "1000")
    assert await sent(people, url, DATA[1000:], 0) == (409, "wrong-offset")
    assert people.artifacts.find(SHA256) is None
    assert (await people.client.head(f"{API}/artifacts/sha256/{SHA256}", headers=people.headers())).status == 404
    assert await sent(people, url, DATA[1000:], 1000) == (204, str(len(DATA)))
    assert people.artifacts.find(SHA256).read_bytes() == DATA
    assert (await offset(people, url))[0] == 404
    trail = await (await people.client.get(f"{API}/audit?limit=2", headers=people.headers())).json()
    assert [line["kind"] for line in trail["audit"]] == ["artifact-stored", "upload-begun"]


async def test_a_broken_connection_costs_nothing_that_came(people: PeopleSide) -> None:
    url = await begun(people)
    reader, writer = await asyncio.open_connection("127.0.0.1", people.client.port)
    head = {
        **people.headers(Role.OPERATOR),
        **TUS,
        **OFFSET,
        "Upload-Offset": "0",
        "Content-Length": str(len(DATA)),
        "Host": "x",
    }
    text = f"PATCH {url} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in head.items()) + "\r\n"
    writer.write(text.encode() + DATA[:100_000])
    while not _size(people):  # noqa: ASYNC110 - the server writes meanwhile
        await asyncio.sleep(0.01)
    status, kept = await offset(people, url)  # whoever asks anew interrupts the connection that hangs
    assert status == 200
    assert 0 < int(kept or 0) <= 100_000
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    assert await sent(people, url, DATA[int(kept or 0) :], int(kept or 0)) == (204, str(len(DATA)))
    assert people.artifacts.find(SHA256).read_bytes() == DATA


def _size(people: PeopleSide) -> int:
    return sum(path.stat().st_size for path in people.artifacts.on_their_way.glob("*.part"))


async def test_only_who_may_operate_and_only_ones_own(people: PeopleSide) -> None:
    url = await begun(people)
    assert (await offset(people, url, Role.ADMIN))[0] == 404
    assert (await offset(people, url, Role.VIEWER))[0] == 403
    gone = await people.client.delete(url, headers={**people.headers(Role.ADMIN), **TUS})
    assert gone.status == 404
    gone = await people.client.delete(url, headers={**people.headers(Role.OPERATOR), **TUS})
    assert gone.status == 204
    assert (await offset(people, url))[0] == 404
    assert list(people.artifacts.on_their_way.iterdir()) == []


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({"Tus-Resumable": "0.2.2"}, 412, "wrong-tus-version"),
        ({"Upload-Length": "-1"}, 400, "malformed"),
        ({"Upload-Length": "1e3"}, 400, "malformed"),
        ({"Upload-Length": str(2 << 20)}, 413, "too-large"),
        ({"Upload-Metadata": ""}, 400, "malformed"),
        ({"Upload-Metadata": "sha256 Li4vLi4vZXRjL3Bhc3N3ZA=="}, 400, "malformed"),
        ({"Upload-Metadata": "sha256 !"}, 400, "malformed"),
    ],
)
async def test_what_cannot_be_begun(people: PeopleSide, headers: dict[str, str], status: int, kind: str) -> None:
    whole = {**people.headers(), **TUS, **METADATA, "Upload-Length": "10", **headers}
    answer = await people.client.post(f"{API}/uploads", headers=whole)
    assert (answer.status, (await answer.json())["type"]) == (status, kind)
    assert list(people.artifacts.on_their_way.iterdir()) == []


async def test_parts_that_are_refused(people: PeopleSide) -> None:
    url = await begun(people)
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    assert await sent(people, url, b"x", 0, **{"Upload-Checksum": f"sha256 {wrong}"}) == (460, "checksum-mismatch")
    assert await sent(people, url, b"x", 0, **{"Upload-Checksum": "md5 x"}) == (400, "malformed")
    assert await sent(people, url, b"x", 0, **{"Content-Type": "text/plain"}) == (415, "wrong-content-type")
    assert await sent(people, url, DATA + b"x", 0) == (413, "too-large")
    assert (await sent(people, f"{API}/uploads/..%2f..", b"x", 0))[0] == 400


async def test_it_says_which_tus_it_speaks(people: PeopleSide) -> None:
    answer = await people.client.options(f"{API}/uploads", headers=people.headers(Role.VIEWER))
    assert answer.status == 204
    assert answer.headers["Tus-Extension"] == "creation,checksum,expiration,termination"
    assert answer.headers["Tus-Max-Size"] == str(1 << 20)


async def test_the_client_of_tus_itself_uploads_and_resumes(people: PeopleSide) -> None:
    client = TusClient(f"{people.url}{API}/uploads", headers=people.headers(Role.OPERATOR))
    given = {"metadata": {"sha256": SHA256}, "chunk_size": 50_000, "upload_checksum": False}

    def some() -> str:
        uploader = client.uploader(file_stream=io.BytesIO(DATA), **given)
        uploader.upload_chunk()
        return str(uploader.url)

    def rest(url: str) -> int:
        uploader = client.uploader(file_stream=io.BytesIO(DATA), url=url, **given)
        begins = uploader.offset
        uploader.upload()
        return int(begins)

    url = await asyncio.to_thread(some)
    assert await asyncio.to_thread(rest, url) == 50_000
    assert people.artifacts.find(SHA256).read_bytes() == DATA
