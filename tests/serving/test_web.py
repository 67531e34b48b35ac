"""The web service over HTTP: lists, refusals in one line, and events that outlive a kill."""

import http.client
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest
import small_model

pytest.importorskip("starlette", reason="pip install metajax[serve]")
pytest.importorskip("uvicorn", reason="pip install metajax[serve]")

from small_server import Served, call

from metajax.serving import store, web
from metajax.serving.catalogue import Labels
from metajax.types import UserError


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    made = Served(folder / "films", folder / "events.sqlite")
    yield made
    made.close()


def test_events_change_the_list_and_undo_takes_them_back(served):
    _, cold = served.call("/api/users/a?top=2")
    assert [one["title"] for one in cold["items"]] == ["Alien (1979)", "Heat (1995)"]
    assert cold["events"] == [] and cold["model"] == served.model.identity
    said = {"events": [{"item": "Alien", "value": 5}], "top": 2, "why": True, "curve": True}
    status, warm = served.call("/api/users/a/events", said)
    assert status == 200
    expected = served.model.recommend({"Alien": 5}, top=2)
    assert [one["id"] for one in warm["items"]] == [one.id for one in expected]
    assert [one["score"] for one in warm["items"]] == pytest.approx([one.score for one in expected])
    assert warm["items"][0]["why"][0]["title"] == "Alien (1979)"
    (event,) = warm["events"]
    assert event == {
        "id": 10,
        "title": "Alien (1979)",
        "value": 5.0,
        "expected": pytest.approx(3.5),
    }
    served.call("/api/users/a/events", {"events": [{"item": 10, "value": 1}]})
    _, back = served.call("/api/users/a/undo", {"top": 2, "why": True, "curve": True})
    assert back == warm
    _, empty = served.call("/api/users/a/undo", {"top": 2})
    assert empty == cold
    assert served.call("/api/users/a/undo", {"top": 2}) == (200, cold)


def test_null_takes_an_item_back_and_people_are_apart(served):
    served.call(
        "/api/users/b/events", {"events": [{"item": 11, "value": 2}, {"item": 10, "value": 3}]}
    )
    _, left = served.call("/api/users/b/events", {"events": [{"item": 11, "value": None}]})
    assert [one["id"] for one in left["events"]] == [10]
    _, other = served.call("/api/users/c")
    assert other["events"] == []
    assert len(served.call("/api/users/b?top=200")[1]["items"]) == 5


@pytest.mark.parametrize(
    ("path", "body", "line"),
    [
        ("/events", {"events": [{"item": 10, "value": 9}]}, "the rating 9 of 'Alien .1979.' lies"),
        (
            "/events",
            {"events": [{"item": 10, "value": "5"}]},
            "'5' of 'Alien .1979.' is not a finite",
        ),
        ("/events", {"events": [{"item": 10, "value": True}]}, "not a finite number"),
        ("/events", {"events": [{"item": "Aliens", "value": 5}]}, "did you mean 'Alien"),
        (
            "/events",
            {"events": [{"item": [10], "value": 5}]},
            "an item is called by its id or title",
        ),
        ("/events", {"events": [{"item": 10}]}, "no value for 'Alien .1979.'; null takes it back"),
        ("/events", {"events": [{"item": 10, "value": 5, "x": 1}]}, "an event is"),
        ("/events", {"events": []}, "events: give a list of 1 to 100"),
        (
            "/events",
            {"events": [{"item": 10, "value": 5}] * 101},
            "events: give a list of 1 to 100",
        ),
        ("/events", {"events": [{"item": 10, "value": 5}], "top": 0}, "top: give a whole number"),
        ("/events", {"events": [{"item": 10, "value": 5}], "top": 1e9}, "top: give a whole number"),
        ("/events", b"[1]", "the body is not a JSON object"),
        ("/events", b"{", "the body is not JSON"),
        ("/events", b'{"events":[{"item":10,"value":NaN}]}', "the body is not JSON"),
        ("/events", b'{"events":[{"item":10,"value":1e999}]}', "is not a finite number"),
        ("/events", b"[" * 60_000, "the body is not JSON"),
        ("/events", b" " * 70_000, "the body is longer than 65536 bytes"),
        ("?top=x", None, "top: give a whole number from 1 to 200"),
    ],
)
def test_what_is_wrong_is_one_line_and_changes_nothing(served, path, body, line):
    status, found = served.call(f"/api/users/careful{path}", body)
    assert status == 400 and list(found) == ["error"] and "\n" not in found["error"]
    with pytest.raises(UserError, match=line):
        raise UserError(found["error"])
    assert served.call("/api/users/careful")[1]["events"] == []


def test_other_pages_cannot_speak_to_it(served):
    said = {"events": [{"item": 10, "value": 5}]}
    assert served.call("/api/users/d/events", said, Content_Type="text/plain")[0] == 400
    assert served.call("/api/users/d", Host="evil.example")[0] == 400
    assert served.call("/api/users/" + "x" * 65)[0] == 400
    assert served.call("/api/users/a%0ab")[0] == 400


def test_search_and_the_page_need_nothing_from_outside(served):
    assert [o["title"] for o in served.call("/api/search?q=ham")[1]["items"]] == [
        "Hamlet (1948)",
        "Hamlet (1996)",
    ]
    assert served.call("/api/search?q=")[1] == {"items": []}
    _, about = served.call("/api/model")
    assert about["curve"]["saved"] == [0.9, 0.8, 0.7, 0.6, 0.5] and about["low"] == 1.0
    for path in web.FILES:
        with urllib.request.urlopen(f"http://{served.host}{path}", timeout=30) as response:
            text = response.read().decode()
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        outside = text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in outside and "https:" not in outside and "//cdn" not in outside


def test_a_log_of_events_needs_no_value(tmp_path):
    made = Served(tmp_path / "m", tmp_path / "e.sqlite", Labels("clicks"))
    try:
        status, found = made.call("/api/users/a/events", {"events": [{"item": 10}], "curve": True})
        assert status == 200 and found["events"][0]["value"] == 1.0
        assert len(found["items"]) == 5
    finally:
        made.close()


def test_a_newer_model_adapts_to_the_same_events_and_another_kind_is_refused(tmp_path):
    old = small_model.write(tmp_path / "old")
    kept = store.Store(tmp_path / "e.sqlite", old)
    kept.add("ann", [store.Event("10", 5.0), store.Event("99", 1.0)]).result()
    with pytest.raises(UserError, match="is in use by another service"):
        store.Store(tmp_path / "e.sqlite", old)
    kept.close()
    new = small_model.write(tmp_path / "new", mean=3.2)
    again = store.Store(tmp_path / "e.sqlite", new)
    answer = web.Service(new, again).answer("ann", 3, True, False)
    again.close()
    assert [one["id"] for one in answer["events"]] == [10]  # the new model has no item 99
    assert answer["items"][0]["score"] == pytest.approx(new.recommend({"Alien": 5})[0].score)
    with pytest.raises(UserError, match=r"holds ratings on 1..5, and the model is of clicks"):
        store.Store(tmp_path / "e.sqlite", small_model.write(tmp_path / "c", Labels("clicks")))
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(UserError, match="no store of events"):
        store.Store(tmp_path / "text", new)
    with pytest.raises(UserError, match=r"no store of events \((File exists|Not a d)"):
        store.Store(tmp_path / "text" / "e.sqlite", new)
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE photos (x)")
    other.close()
    with pytest.raises(UserError, match="is a database of something else"):
        store.Store(tmp_path / "other.sqlite", new)


def test_a_killed_server_loses_no_acknowledged_event(tmp_path):
    """Events go in one after the other; the process is killed in the midst of it."""
    small_model.write(tmp_path / "m")
    command = [sys.executable, "-m", "metajax", "serve", str(tmp_path / "m"), "--port", "0"]

    def started():
        env = os.environ | {"JAX_PLATFORMS": "cpu"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        assert process.stdout is not None
        return process, process.stdout.readline().rpartition("http://")[2].strip()

    process, host = started()
    underway = threading.Event()

    def kill():
        underway.wait(60)
        process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    acknowledged: list[tuple[str, float]] = []
    try:
        while len(acknowledged) < 20_000:
            user, value = f"u{len(acknowledged) % 7}", float(np.random.randint(1, 6))
            call(
                host,
                f"/api/users/{user}/events",
                {"events": [{"item": 12, "value": value}], "top": 1},
            )
            acknowledged.append((user, value))
            if len(acknowledged) == 50:
                underway.set()
    except (http.client.HTTPException, OSError, ValueError):
        pass  # the call that was on its way found no server, or half an answer
    finally:
        underway.set()
        killer.join()
        process.wait()
        process.stdout.close()
    assert process.returncode == -signal.SIGKILL and 50 <= len(acknowledged) < 20_000
    process, host = started()
    try:
        last = dict(acknowledged)
        for user, value in last.items():
            (event,) = call(host, f"/api/users/{user}")[1]["events"]
            # the event that was on its way may be there as well; no one before it is lost
            assert event["value"] == value or user == f"u{len(acknowledged) % 7}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        process.stdout.close()


def test_a_port_that_is_taken_is_one_line(served, tmp_path):
    from metajax.benchmark import command
    from metajax.commands import serve

    port = served.host.rpartition(":")[2]
    config = command.parse(serve.Config, [str(tmp_path / "m"), "--port", port])
    small_model.write(tmp_path / "m")
    with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
        serve.main(config)
