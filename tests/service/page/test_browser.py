"""The search page in Chromium, with an index of pictures of four colors.

What the page shows is compared with what the service answers to the same query.
"""

import base64
import contextlib
import json
import shutil
import socket
import threading
import urllib.parse
import urllib.request

import pytest

from mixer_jax.service import opening, server
from mixer_jax.service.batches.generations import Generations
from mixer_jax.service.http import connections
from mixer_jax.service.http.keys import Keys
from mixer_jax.service.http.recording import Recorder
from mixer_jax.service.http.settings import DEFAULTS
from tests.service.conftest import PIXELS, opener, quarters

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
if CHROMIUM is None:
    pytest.skip("Chromium is not installed.", allow_module_level=True)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed."
)

pytestmark = pytest.mark.slow

COLORS = ("red", "green", "blue", "yellow", "black")
QUERY = quarters("red", "blue", "green", "white")
KEY = "0123456789abcdef"
SERVER = connections.Server
SETTINGS = DEFAULTS._replace(max_megabytes=0.05)
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "is_mobile": True,
    "has_touch": True,
    "color_scheme": "dark",
}


@pytest.fixture(scope="module")
def generations(tiny_net, tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    pairs = [(one, two) for one in COLORS for two in COLORS]
    with opening.open_index(root / "index", tiny_net, images=root) as index:
        index.upsert(
            [f"{one}/{two}" for one, two in pairs],
            images=[quarters(one, two, one, "white") for one, two in pairs],
            texts=[f"a {one} and {two} flag" for one, two in pairs],
            groups=["same" if one == two else "mixed" for one, two in pairs],
            fields=[
                {"price": place, "brand": two, "new": one == "red"}
                for place, (one, two) in enumerate(pairs)
            ],
        )
    with Generations(opener(root / "index", tiny_net), PIXELS) as made:
        yield made


@contextlib.contextmanager
def served(generations, settings):
    """Serves an index in a thread; yields the address."""
    running = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            connections,
            "Server",
            lambda config: running.append(SERVER(config)) or running[0],
        )
        with server.listen("127.0.0.1", 0) as listener:
            app = server.make_app(generations, settings)
            thread = threading.Thread(target=server.run, args=(app, listener))
            thread.start()
            try:
                yield server.address(listener)
            finally:
                running[0].should_exit = True
                thread.join()


@pytest.fixture(scope="module")
def address(generations):
    with served(generations, SETTINGS) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        # Chromium's sandbox does not work for root, and containers may have
        # little shared memory.
        browser = started.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Returns a function that opens a page, which must cause no errors."""
    with contextlib.ExitStack() as stack:
        errors = []

        def open_(address, **options):
            context = browser.new_context(**options)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(60_000)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("crash", lambda _: errors.append("The page crashed."))
            page.on("console", lambda one: note(one, errors))
            page.goto(address)
            return page

        yield open_
        assert errors == []


def note(line, errors):
    # Responses with an error status are reported on the console too.
    if line.type == "error" and "Failed to load resource" not in line.text:
        errors.append(line.text)


@pytest.fixture
def page(visit, address):
    return visit(address)


def answer(address, body=b"", **asked):
    """Returns what the service answers."""
    url = f"{address}/v1/search?{urllib.parse.urlencode(asked)}"
    request = urllib.request.Request(url, body, method="POST")
    with urllib.request.urlopen(request) as response:
        return [one["id"] for one in json.load(response)["results"]]


def shown(page):
    page.wait_for_selector("#progress", state="hidden")
    return page.eval_on_selector_all(
        ".card[data-id]", "cards => cards.map((card) => card.dataset.id)"
    )


@contextlib.contextmanager
def searching(page):
    """Waits for the search that a block causes; yields its parameters."""
    asked = {}
    with page.expect_response(lambda one: "/v1/search" in one.url) as got:
        yield asked
    query = urllib.parse.urlsplit(got.value.url).query
    asked.update(urllib.parse.parse_qsl(query))
    page.wait_for_selector("#progress", state="hidden")


def upload(page, content=QUERY, name="query.png"):
    file = {"name": name, "mimeType": "image/png", "buffer": content}
    page.set_input_files("#file", file)


def test_a_chosen_picture_is_searched_for(page, address):
    assert page.is_visible("#welcome")
    with searching(page) as asked:
        upload(page)
    assert asked == {"k": "12"}
    expected = answer(address, QUERY, k=12)
    assert shown(page) == expected
    assert page.is_hidden("#welcome")
    assert "The 12 nearest items, found in" in page.inner_text("#status")
    assert expected[0].split("/")[0] in page.inner_text(".card .text >> nth=0")
    assert "mixed" in page.inner_text(".card .facts >> nth=0")
    # `wait_for_function` would call eval, which the page's policy forbids.
    page.eval_on_selector(".card img", "one => one.decode()")
    assert page.eval_on_selector("#picture", "one => one.naturalWidth") == 16
    # Both ways to get more items.
    with searching(page) as asked:
        page.click("#more")
    assert asked == {"k": "12", "offset": "12"}
    assert shown(page) == answer(address, QUERY, k=24)
    with searching(page) as asked:
        page.select_option("#k", "24")
    assert asked == {"k": "24"}
    assert shown(page) == answer(address, QUERY, k=24)


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_dropped_or_pasted_picture_is_searched_for(page, address, way):
    send = """([way, text]) => {
      const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], "a.png", { type: "image/png" }));
      const options = { bubbles: true, cancelable: true };
      document.body.dispatchEvent(way === "drop"
        ? new DragEvent(way, { ...options, dataTransfer: data })
        : new ClipboardEvent(way, { ...options, clipboardData: data }));
    }"""
    with searching(page):
        page.evaluate(send, [way, base64.b64encode(QUERY).decode()])
    assert shown(page) == answer(address, QUERY, k=12)


def test_words_are_searched_for_alone_and_with_a_picture(page, address):
    with searching(page) as asked:
        page.fill("#words", "a blue flag")
        page.press("#words", "Enter")
    assert asked == {"k": "12", "text": "a blue flag"}
    assert shown(page) == answer(address, k=12, text="a blue flag")
    with searching(page) as asked:
        upload(page)
    both = answer(address, QUERY, k=12, text="a blue flag")
    assert shown(page) == both
    # The back button returns to the words alone, the forward button to both.
    with searching(page) as asked:
        page.go_back()
    assert asked == {"k": "12", "text": "a blue flag"}
    assert page.is_hidden("#frame")
    assert shown(page) == answer(address, k=12, text="a blue flag")
    with searching(page):
        page.go_forward()
    assert page.is_visible("#frame")
    assert shown(page) == both


def test_a_part_of_the_picture_is_drawn_moved_and_removed(page, address):
    with searching(page):
        upload(page)
    area = page.locator("#frame").bounding_box()

    def at(x, y):
        return area["x"] + x * area["width"], area["y"] + y * area["height"]

    def drag(start, end):
        page.mouse.move(*at(*start))
        page.mouse.down()
        page.mouse.move(*at(*end), steps=4)
        page.mouse.up()

    with searching(page) as asked:
        drag((0.5, 0), (0.999, 0.5))  # the blue quarter
    assert asked["box"] == "8,0,16,8"
    assert shown(page) == answer(address, QUERY, k=12, box="8,0,16,8")
    with searching(page) as asked:
        drag((0.75, 0.25), (0.25, 0.75))  # moves it to the green quarter
    assert asked["box"] == "0,8,8,16"
    with searching(page) as asked:
        drag((0.5, 0.5), (0.75, 0.25))  # its upper right corner
    assert asked["box"] == "0,4,12,16"
    with searching(page) as asked:
        page.go_back()
    assert asked["box"] == "0,8,8,16"
    with searching(page) as asked:
        page.click("#mark")
    assert "box" not in asked
    assert page.is_hidden("#crop")
    assert shown(page) == answer(address, QUERY, k=12)


def test_a_part_of_the_picture_is_selected_by_keyboard(page):
    with searching(page):
        upload(page)
    with searching(page) as asked:
        page.focus("#mark")
        page.keyboard.press("Enter")
    assert asked["box"] == "3,3,13,13"
    assert page.evaluate("document.activeElement.id") == "crop"
    with searching(page) as asked:
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        for _ in range(6):
            page.keyboard.press("Shift+ArrowUp")
    assert asked["box"] == "6,3,15,10"
    with searching(page) as asked:
        page.keyboard.press("Escape")
    assert "box" not in asked


def test_a_result_is_searched_by(page, address):
    with searching(page):
        upload(page)
    first = shown(page)
    with searching(page) as asked:
        page.click(".card .look >> nth=3")
    assert asked == {"k": "12", "id": first[3]}
    like = answer(address, k=12, id=first[3])
    assert shown(page) == like
    one, two = first[3].split("/")
    assert page.inner_text("#origin") == f"Items like a {one} and {two} flag"
    page.wait_for_selector("#frame")  # the item's picture
    # Its picture can be refined with words.
    with searching(page) as asked:
        page.fill("#words", "black")
        page.click("button[type=submit]")
    assert asked == {"k": "12", "text": "black"}
    refined = shown(page)
    assert refined != answer(address, k=12, text="black")
    with searching(page):
        page.reload()
    assert shown(page) == refined
    with searching(page):
        page.go_back()
    assert shown(page) == like
    page.reload()
    assert shown(page) == like
    page.wait_for_selector("#frame")
    page.go_back()
    page.wait_for_selector("text=The picture was lost")
    assert shown(page) == []


def test_fields_filter_and_group_results(page, address):
    with searching(page) as asked:
        upload(page)
    values = "#field-0-values option"
    assert set(
        page.eval_on_selector_all(values, "all => all.map((one) => one.value)")
    ) == {"same", "mixed"}
    with searching(page) as asked:
        page.get_by_label("group", exact=True).fill("mixed")
        page.keyboard.press("Tab")
    assert json.loads(asked["where"]) == {"group": "mixed"}
    with searching(page) as asked:
        page.get_by_label("price, at least").fill("10")
        page.keyboard.press("Tab")
    with searching(page) as asked:
        page.get_by_label("new", exact=True).select_option("no")
    where = {"group": "mixed", "price": {"min": 10}, "new": False}
    assert json.loads(asked["where"]) == where
    expected = answer(address, QUERY, k=12, where=json.dumps(where))
    assert shown(page) == expected
    assert page.inner_text("#filter-count") == "3"
    with searching(page) as asked:
        page.select_option("#group", "brand")
    assert asked["group_by"] == "brand"
    assert len(shown(page)) == len(COLORS)
    with searching(page):
        page.get_by_label("price, at least").fill("1000")
        page.keyboard.press("Tab")
    assert shown(page) == []
    assert page.is_visible("#nothing")
    with searching(page) as asked:
        page.click("#unfilter")
    assert asked == {"k": "12", "group_by": "brand"}
    assert page.is_hidden("#nothing")


def test_a_result_is_explained(page, address):
    with searching(page):
        upload(page)
    id = shown(page)[1]
    url = f"{address}/v1/items/{urllib.parse.quote(id, safe='')}/why"
    with urllib.request.urlopen(url) as response:
        why = json.load(response)
    page.click(".card .ask >> nth=1")
    page.wait_for_selector("#why-body")
    weights = [one for row in why["attention"] for one in row]
    cells = page.eval_on_selector_all(
        "#heat i",
        "all => all.map((one) => +one.style.getPropertyValue('--weight'))",
    )
    scale = 0.78 / max(weights)
    assert cells == pytest.approx(
        [scale * (one - min(weights)) for one in weights]
    )
    assert len(set(cells)) > 1
    assert f"{round(100 * max(weights))} %" in page.inner_text("#heat-text")
    shares = page.eval_on_selector_all(
        "#tokens span",
        "all => all.map((one) => [one.textContent, one.title])",
    )
    assert shares == [
        [
            why["text"][one["start"] : one["end"]] or one["token"],
            f"{round(100 * one['share']):.0f} %".replace("-0 ", "0 "),
        ]
        for one in why["tokens"]
    ]
    page.uncheck("#heat-shown")
    assert page.is_hidden("#heat")
    page.keyboard.press("Escape")
    assert page.is_hidden("#why")
    page.click(".card .ask >> nth=1")
    with searching(page) as asked:
        page.click("#why-like")
    assert asked["id"] == id
    assert page.is_hidden("#why")


def test_probabilities_are_shown_if_there_are_any(page):
    def add(route):
        response = route.fetch()
        body = response.json()
        first, second, *_ = body["results"]
        first["probability"], second["probability"] = 0.874, None
        route.fulfill(response=response, json=body)

    page.route("**/v1/search*", add)
    with searching(page):
        upload(page)
    scores = page.locator(".card .foot b").all_inner_texts()
    assert scores[0] == "87 %"
    assert 0 < float(scores[1]) <= 1
    assert 0 < float(scores[2]) <= 1


def test_errors_are_shown_and_leave_the_page_usable(page, address):
    with searching(page):
        upload(page, b"plain text")
    error = page.locator("#error")
    assert "This is plain text; a PNG" in error.inner_text()
    assert "cannot show the picture" in page.inner_text("#stage")
    assert page.is_hidden("#mark")
    upload(page, bytes(60_000))
    page.wait_for_selector("text=The picture is larger than 0.05 MB.")
    file = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"a"}
    page.set_input_files("#file", file)
    page.wait_for_selector("text=a.txt is not a picture.")
    page.route("**/v1/search*", lambda route: route.abort())
    upload(page)
    page.wait_for_selector("text=Cannot reach the server")
    page.unroute("**/v1/search*")
    with searching(page):
        page.click("#again")
    assert error.is_hidden()
    assert shown(page) == answer(address, QUERY, k=12)


def test_the_keyboard_suffices(page, address):
    def tab_to(what):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches('{what}')"):
                return
        raise AssertionError(f"Tab does not reach {what}.")

    with page.expect_file_chooser() as chosen:
        tab_to("#choose")
        page.keyboard.press("Enter")
    with searching(page):
        file = {"name": "a.png", "mimeType": "image/png", "buffer": QUERY}
        chosen.value.set_files(file)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "words"
    with searching(page) as asked:
        page.keyboard.type("red")
        page.keyboard.press("Enter")
    assert asked == {"k": "12", "text": "red"}
    found = shown(page)
    tab_to(".skip")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('.look')")
    ring = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(ring) == "solid"
    tab_to(".ask")
    page.keyboard.press("Enter")
    page.wait_for_selector("#why-body")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.matches('.ask')")
    with searching(page) as asked:
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
    assert asked["id"] == found[0]
    with searching(page):
        page.go_back()  # Headless Chromium has no keys for this.
    assert shown(page) == found


def test_a_phone_shows_large_controls_and_never_scrolls_sideways(
    visit, address
):
    page = visit(address, **PHONE)
    assert page.is_visible("#photograph")
    assert page.get_attribute("#camera", "capture") == "environment"
    with searching(page):
        upload(page)
    page.click("summary")
    small = """() => [...document.querySelectorAll(
        "button, select, summary, input:not([type=checkbox])")]
      .filter((one) => one.checkVisibility())
      .filter((one) => one.getBoundingClientRect().height < 44)
      .map((one) => one.outerHTML)"""
    assert page.evaluate(small) == []
    page.tap(".card .ask >> nth=0")
    page.wait_for_selector("#why-body")
    assert page.evaluate(small) == []
    wide = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(wide) <= 0
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(18, 19, 23)"  # dark


def test_a_finger_drags_the_frame(visit, address):
    page = visit(address, **PHONE)
    with searching(page):
        upload(page)
    with searching(page):
        page.tap("#mark")
    area = page.locator("#frame").bounding_box()
    touch = page.context.new_cdp_session(page)
    for kind, share in (("Start", 0.8), ("Move", 0.7), ("Move", 0.5)):
        place = {
            "x": area["x"] + share * area["width"],
            "y": area["y"] + share * area["height"],
        }
        touch.send(
            "Input.dispatchTouchEvent",
            {"type": f"touch{kind}", "touchPoints": [place]},
        )
    with searching(page) as asked:
        touch.send(
            "Input.dispatchTouchEvent",
            {"type": "touchEnd", "touchPoints": []},
        )
    assert asked["box"] == "3,3,8,8"


def test_a_key_is_asked_for_and_clicks_are_recorded(
    visit, generations, tmp_path
):
    settings = SETTINGS._replace(
        keys=Keys(read=(KEY.encode(),)), recorder=Recorder(tmp_path, 1)
    )
    with served(generations, settings) as address:
        page = visit(address)
        upload(page)
        page.wait_for_selector("#key")
        page.keyboard.type(KEY)
        with searching(page):
            page.keyboard.press("Enter")
        found = shown(page)
        assert len(found) == 12
        page.eval_on_selector(".card img", "one => one.decode()")
        with page.expect_response(lambda one: "/v1/events" in one.url) as got:
            page.click(".card .look >> nth=2")
        assert got.value.status == 202
        page.context.close()
    (events,) = tmp_path.glob("events-*.jsonl")
    lines = list(map(json.loads, events.read_text().splitlines()))
    assert [x["item_id"] for x in lines if x["clicked"]] == [found[2]]


def test_the_page_works_under_the_prefix_of_a_proxy(visit, address):
    """The page is requested without a trailing slash."""
    target = address.rpartition(":")[2]
    with prefixed(int(target)) as proxy:
        page = visit(f"{proxy}/shop")
        with searching(page):
            upload(page)
        assert len(shown(page)) == 12


@contextlib.contextmanager
def prefixed(port):
    """Runs a proxy that strips the prefix /shop; yields its address."""

    def forward(client):
        with client, socket.create_connection(("127.0.0.1", port)) as upstream:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (part := client.recv(65536)):
                    return
                head += part
            line, _, rest = head.partition(b"\r\n")
            method, path, version = line.split(b" ")
            path = path.removeprefix(b"/shop") or b"/"
            upstream.sendall(b" ".join((method, path, version)))
            upstream.sendall(b"\r\nConnection: close\r\n" + rest)
            back = threading.Thread(target=pump, args=(upstream, client))
            back.start()
            pump(client, upstream)
            back.join()

    def accept():
        with contextlib.suppress(OSError):  # The listener was closed.
            while True:
                client, _ = listener.accept()
                threading.Thread(target=forward, args=(client,)).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def pump(source, target):
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
