"""The page about the API shows every operation and shape of the description."""

from server.http.openapi import DESCRIPTION
from tests.people_side import PeopleSide


async def test_it_shows_every_operation_and_shape(people: PeopleSide) -> None:
    closed = await people.client.get("/api", allow_redirects=False)
    assert (closed.status, closed.headers["Location"]) == (303, "/login?next=%2Fapi")
    await people.sign_in()
    answer = await people.client.get("/api")
    text = await answer.text()
    assert answer.status == 200
    document = people.client.server.app[DESCRIPTION].document
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert f"<code>{method.upper()} {path}</code>" in text
            assert f'id="{operation["operationId"]}"' in text
    assert all(f'id="shape-{name}"' in text for name in document["components"]["schemas"])
    assert "//" not in text.replace("http://www.w3.org", ""), "nothing comes from another host"
