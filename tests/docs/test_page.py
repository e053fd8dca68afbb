"""docs/page.md: its commands and its app run, its tables are those of the code, its picture is there."""

import inspect
import json
import re
import subprocess

import httpx
import pytest

from redis_router import CircuitConfig, Provider, cli
from redis_router.cli.worker import AUTO, OFF, OPEN
from redis_router.operate import actions, asgi, facts, feed, guard, http, known, service, stream, timeline
from redis_router.operate.service import Service
from tests.docs.conftest import URL, patient, served
from tests.operate.conftest import BEARER, TOKEN, Asked
from tests.support import recorded, result
from tests.support.documents import PAGES, ROOT, rows, section, snippet
from tests.support.processes import WorkerProcess

PAGE = PAGES["docs/page.md"]
LOOKING = snippet("docs/page.md", "api/v1/events?since")
ACTING = snippet("docs/page.md", "printf 'Authorization")
APP = snippet("docs/page.md", "operate_app(")
WITH_TOKEN = snippet("docs/page.md", "openssl rand")
PLAIN = snippet("docs/page.md", "redis-router worker --redis redis://localhost:6379/0\n")


@pytest.fixture
def worker(one_real):
    """With the token, and two providers."""
    store = one_real.store()
    for name in ("openai", "azure"):
        store.register(Provider(name, ("gpt-4o",)), CircuitConfig(consecutive_failure_limit=1))
    url = one_real.url.replace("router:password@", "")
    made = WorkerProcess(url, one_real.namespace, "--page-token-env", "PAGE_TOKEN", env={"PAGE_TOKEN": TOKEN})
    try:
        yield made.wait_ready()
    finally:
        made.end()


def typed(script, worker, folder):
    """What a shell prints."""
    script = script.replace("127.0.0.1:9464", f"127.0.0.1:{worker.port}")
    env = {"PATH": "/usr/bin:/bin", "PAGE_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(["bash", "-euc", script], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_looking_by_curl(worker, tmp_path):
    """The fleet, a provider, events."""
    fleet, one, events = typed(LOOKING, worker, tmp_path)
    assert len(fleet["providers"]) == 2
    assert one["name"] == "openai"
    assert {each["event"] for each in events["events"]} == {"registered"}


def test_acting_by_curl(worker, tmp_path, one_real):
    """With who and why."""
    (said,) = typed(ACTING, worker, tmp_path)
    assert (said["action"], said["by"], said["providers"][0]["level"]) == ("drain", "alice", "held")
    assert one_real.record().override_reason == "slow since noon"


def test_the_workers_commands_are_understood():
    """The token's variable is the one that is set before it."""
    cli.parser().parse_args(PLAIN.split()[1:])
    assignment, _, command = WITH_TOKEN.partition(") redis-router ")
    arguments = cli.parser().parse_args(command.split())
    assert assignment.startswith(f"{arguments.page_token_env}=$(openssl rand ")


def test_the_app_in_a_gateway(one_real, monkeypatch):
    """As it stands there, but for the address of Redis."""
    monkeypatch.setenv("PAGE_TOKEN", TOKEN)
    scope = {}
    exec(APP.replace(URL, patient(one_real.url)), scope)
    with served(scope["app"]) as url:
        assert httpx.get(f"{url}/operate/", trust_env=False).status_code == 200
        assert httpx.get(f"{url}/operate/api/v1/fleet", trust_env=False).status_code == 401
        said = httpx.get(f"{url}/operate/api/v1/fleet", headers=BEARER, trust_env=False)
        assert said.json()["namespace"] == "rr"
    for route in scope["app"].routes:
        if getattr(route, "path", "") == "/operate":
            route.app.close()


def fields_of(heading):
    return [row[0].strip("`") for row in rows(section("docs/page.md", heading))]


@pytest.fixture
def ask():
    """A page on memory, with one provider that is down."""
    made = Service("memory://page-docs", "t", token=TOKEN, open_to_look=True)
    made._store.register(Provider("openai", ("gpt-4o",)), CircuitConfig(consecutive_failure_limit=1))
    recorded(made._store, "openai", 1, result("openai", False))
    yield Asked(made)
    made.close()


def test_the_fields_are_those_of_the_answers(ask):
    """Each, in its order."""
    _, fleet = ask("/api/v1/fleet")
    assert fields_of("Of the fleet") == list(fleet)
    assert fields_of("Of a provider") == list(fleet["providers"][0])
    assert list(fleet["history"]["openai"]) == ["at_ms", "latency_ms", "failure_rate"]
    assert list(fleet["events"][0]) == ["provider", "at_ms", "event", "by", "details"]
    _, one = ask("/api/v1/providers/openai")
    assert set(one) >= {*fleet["providers"][0], "record", "history", "events"}
    of_an_action = rows(section("docs/page.md", "As JSON").partition("An action,")[2].partition("### ")[0])
    assert [row[0].strip("`") for row in of_an_action] == list(actions.FIELDS)


def test_the_paths_are_those_that_answer(ask):
    """By their methods; a GET of the others is refused."""
    told = re.findall(r"^\| `(GET|POST) (api/v1/\w+)(/NAME)?` \|", PAGE, re.MULTILINE)
    assert len(told) == 8
    for method, path, name in told:
        path = f"/{path}{'/openai' if name else ''}"
        body = {"GET": None, "POST": {}}[method]
        assert ask.answer(path, body).__class__ is stream.Stream or ask(path, body)[0] != 404
        assert ask(path, method="PUT")[0] == 405


def test_the_words_are_those_of_the_code():
    """Levels, reasons, actions, and the values of --page."""
    text = section("docs/page.md", "Of a provider")
    assert set(facts.WORST_FIRST) == set(re.findall(r"`(\w+)`", text.partition("| `level` |")[2].partition("\n")[0]))
    said = set(re.findall(r'say\(\s*"(\w+)"', inspect.getsource(facts.why)))
    assert said == set(re.findall(r"`(\w+)`", re.search(r"\| `why` \| .*?\((.*?)\)", text)[1]))
    action = re.search(r"^\| `action` \| (.*?) \|$", PAGE, re.MULTILINE)[1]
    assert set(actions.ACTIONS) == set(re.findall(r"`(\w+)`", action)) - {"available"}
    table = section("docs/page.md", "Who may look, and who may act")
    assert {AUTO, OPEN, OFF} == {word for row in rows(table) for word in re.findall(r"^`(\w+)`", row[0])}


def test_the_numbers_are_those_of_the_code():
    """Each where it is told."""
    for number, text in (
        (guard.SESSION_SECONDS / 3600 == 12, "A session lasts twelve hours"),
        (guard.LEAST_TOKEN == 16, "at least 16 characters"),
        (guard.TRIES == 10 and guard.SECONDS_A_TRY == 2, "After ten wrong ones of an address,\n  one in two seconds"),
        (http.MOST_BODY == 16_384, "at most 16 kB"),
        (service.MOST_EVENTS == 1000, "at most 1000"),
        (timeline.KEPT == 200, "at most 200 |"),
        (stream.LASTS_SECONDS == 10, "A stream lasts ten seconds"),
        (stream.LASTS_SECONDS == 10, "waits for its streams: ten seconds"),
        (inspect.signature(Service).parameters["streams"].default == 8, "serves eight streams"),
        (asgi.THREADS == 4, "four of them"),
        (feed.WATCHED_SECONDS == 1, "reads all records every second"),
        (feed.HASTE_SECONDS == 0.25, "at most four times a second"),
        (feed.IDLE_SECONDS == 10, "every ten seconds"),
        (feed.REST == 10, "ten times as long"),
        (known.SAMPLE_MS == 5000 and known.SAMPLES == 60, "one entry in five seconds, of five minutes"),
        (facts.FAILING == 0.1, "a tenth of its calls or more fail"),
    ):
        assert number, text
        assert text in PAGE, text


def test_the_signs_are_those_of_the_page():
    """With their words."""
    script = (ROOT / "redis_router" / "operate" / "static" / "draw.js").read_text()
    shown = re.findall(r'^  (\w+): \["(.)", "([\w ]+)"\],$', script, re.MULTILINE)
    assert [level for level, *_ in shown] == list(facts.WORST_FIRST)
    assert [f"{sign} {word}" for _, sign, word in shown] == [row[0] for row in rows(PAGE.partition("- **Why")[0])]


def test_the_picture_is_small():
    """It is fetched by everybody who opens the README."""
    assert (ROOT / "docs" / "page.png").stat().st_size < 200_000


def test_every_button_is_an_action():
    """And each says what it does."""
    markup = (ROOT / "redis_router" / "operate" / "static" / "page.html").read_text()
    buttons = re.findall(r'data-action="(\w+)" aria-describedby="say-(\w+)"', markup)
    assert {action for action, _ in buttons} == set(actions.ACTIONS) - {"end"}
    for action, said in buttons:
        assert action == said
        assert f'id="say-{said}"' in markup
